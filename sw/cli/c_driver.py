"""``stillnet c-driver``: the host driver in C, with the constants of one engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.c_driver import write_c_driver
from stillnet.sw.packing.packer import load_image
from stillnet.sw.util.results.products import CDriverResult

from . import options
from .main import Command

__all__ = ["C_DRIVER"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        metavar="NET.img",
        nargs="?",
        type=Path,
        help="an image: its engine, and a header with the sizes of its vectors",
    )
    options.add_preset(parser, note="; not with an image")
    parser.set_defaults(preset=None)
    options.add_output(parser, "FOLDER", "the driver", required=True)


def _run(args: argparse.Namespace) -> CDriverResult:
    if args.image is None:
        return write_c_driver(args.output, config=EngineConfig.load(args.preset or "axi64"))
    if args.preset is not None:
        raise StillnetError(
            f"image '{args.image}' has an engine already; leave --preset {args.preset} out"
        )
    return write_c_driver(args.output, loaded=load_image(args.image))


def _show(result: CDriverResult) -> None:
    print(
        f"Wrote {', '.join(result.files)} to {result.folder}: for engine '{result.engine}', "
        f"fingerprint {result.fingerprint}."
    )


C_DRIVER = Command(
    name="c-driver",
    help="Write the host driver in C, with the constants of one engine.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet c-driver net.img -o driver/
      stillnet.h, stillnet.c, and headers for the engine and the network of the image
  stillnet c-driver --preset ulx3s-85f -o driver/
      the same without a network, for a board's own engine

C99 without allocation: over a serial line or socket, or at the core's registers. How to use it:
docs/how-to/c-driver.md""",
)
