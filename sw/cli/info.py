"""``stillnet info``: what is in a network, a memory image or a cell."""

from __future__ import annotations

import argparse
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.packing.describe import info
from stillnet.sw.util.results.networks import NetworkInfo
from stillnet.sw.util.results.products import CellResult, ImageInfo
from stillnet.sw.util.results.studies import CheckResult

from .cell_chart import cell_chart, describe_cell
from .check import describe_model, show_model
from .main import Command
from .rendering import show_image, show_network

__all__ = ["INFO"]

_MODELS = (".onnx", ".keras", ".h5", ".hdf5", ".npz", ".pt", ".pth")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        help="network (.safetensors), image (.img) or trained model",
    )
    parser.add_argument("--cell", metavar="NAME", help="draw the pipeline of a cell instead")
    parser.add_argument(
        "--sharing",
        type=int,
        default=1,
        metavar="K",
        help="with --cell: a unit every K cycles, multipliers shared (1)",
    )


def _run(args: argparse.Namespace) -> NetworkInfo | ImageInfo | CellResult | CheckResult:
    if (args.file is None) == (args.cell is None):
        raise StillnetError("name a network or an image to explain, or a cell with --cell")
    if args.cell is not None:
        return describe_cell(args.cell, args.sharing)
    if args.file.suffix.lower() in _MODELS:
        from stillnet.sw.importers.load import load_model

        return describe_model(load_model(args.file))
    return info(args.file)


def _show(result: NetworkInfo | ImageInfo | CellResult | CheckResult) -> None:
    if isinstance(result, CellResult):
        print(cell_chart(result))
    elif isinstance(result, NetworkInfo):
        show_network(result)
    elif isinstance(result, CheckResult):
        show_model(result)
    else:
        show_image(result)


INFO = Command(
    name="info",
    help="Explain a network, a memory image, a model or a cell: sizes, formats, errors, pipeline.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet info net.safetensors
      every layer: format of its vector, threshold, bits of headroom in its accumulators, and the
      error of each layer against the float model on the calibration recordings
  stillnet info net.img
      which engine an image was packed for, and what is in it
  stillnet info --cell GRU
      what the hardware does in which cycle; '=' works, a digit is a multiplier, '.' waits. With
      --sharing 2, as an engine with cell_sharing = 2 does it

fraction: bits after the binary point. A vector element is integer / 2**fraction.
exponent: the same for accumulators. headroom: bits that no input can ever reach.""",
)
