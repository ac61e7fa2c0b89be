"""``stillnet pack``: a network into the memory image of one engine configuration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .cli import Command
from .contract.config import PRESETS, EngineConfig
from .files import write_atomically
from .network import Network
from .packer import pack

__all__ = ["PACK"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NET.safetensors", type=Path, help="from quantize")
    parser.add_argument(
        "--preset",
        metavar="NAME|FILE.toml",
        default="axi64",
        help=f"engine configuration: {', '.join(PRESETS)}, or a TOML file (default: axi64)",
    )
    parser.add_argument("-o", "--output", metavar="NET.img", type=Path, required=True)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    config = EngineConfig.load(args.preset)
    network = Network.load(args.network)
    image = pack(network, config)
    write_atomically(args.output, image.data)
    return {
        "image": str(args.output),
        "network": network.name,
        "engine": config.name,
        "fingerprint": f"{config.fingerprint:08x}",
        "bytes": len(image.data),
        "words": len(image.data) // config.word_bytes,
        "word_bits": config.word_bits,
    }


PACK = Command(
    name="pack",
    help="write the memory image of a network for one engine",
    configure=_configure,
    run=_run,
    epilog="""examples:
  stillnet pack net.safetensors --preset axi64 -o net.img
  stillnet info net.img                     explains what is in it

An image fits the engine configuration that it was packed for and no other; the hardware refuses
one with another fingerprint.
""",
)
