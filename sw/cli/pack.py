"""``stillnet pack``: a network into the memory image of one engine configuration."""

from __future__ import annotations

import argparse

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.packing.packer import costs, pack
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.results.products import PackResult

from . import options
from .main import Command

__all__ = ["PACK"]


def _configure(parser: argparse.ArgumentParser) -> None:
    options.add_network(parser)
    options.add_preset(parser, note="; for a board built with --fit, its engine.toml")
    options.add_fit(parser, False, "for the engine that 'generate --fit' makes for this network")
    options.add_strict(parser)
    options.add_output(parser, "NET.img", "the image", required=True)


def _run(args: argparse.Namespace) -> PackResult:
    config = EngineConfig.load(args.preset)
    check_place(args.output)
    network = Network.load(args.network)
    options.insist(args, network.doubts)
    if args.fit:
        config = fit(network, config)
    image = pack(network, config)
    write_atomically(args.output, image.data)
    return PackResult(
        image=str(args.output),
        network=network.name,
        engine=config.name,
        fingerprint=f"{config.fingerprint:08x}",
        bytes=len(image.data),
        words=len(image.data) // config.word_bytes,
        word_bits=config.word_bits,
        matrices=costs(network, config) if config.int4 or config.sparse else [],
        doubts=network.doubts,
    )


def _show(result: PackResult) -> None:
    for name, value in result.to_dict().items():
        if name not in ("matrices", "doubts"):
            print(f"{name}: {value}")
    for m in result.matrices:
        others = ", ".join(f"{k} {v:,}" for k, v in sorted(m["words"].items(), key=lambda i: i[1]))
        print(
            f"{m['layer']} from {m['source']}: int{m['bits']}, {m['density']:.0%} kept, stored as "
            f"{m['format']} (words: {others})"
        )


PACK = Command(
    name="pack",
    help="Write the memory image of a network for one engine.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet pack net.safetensors --preset axi64 -o net.img
  stillnet pack net.safetensors --preset axi64 --fit -o net.img
      for the engine of 'stillnet generate net.safetensors --preset axi64 --fit'
  stillnet info net.img                     explains what is in it

An image fits the engine configuration that it was packed for and no other; the hardware refuses
one with another fingerprint.
""",
)
