"""``stillnet pack``: a network into the memory image of one engine configuration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.packing.packer import costs, pack
from stillnet.sw.util.files import write_atomically

from .main import Command

__all__ = ["PACK"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NET.safetensors", type=Path, help="from quantize")
    parser.add_argument(
        "--preset",
        metavar="NAME|FILE.toml",
        default="axi64",
        help=f"engine configuration: {', '.join(PRESETS)}, or a TOML file (default: axi64)",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="the engine of 'generate --preset NAME --fit NET', with what the network asks for; "
        "for a board that was built so, give --preset FOLDER/engine.toml instead",
    )
    parser.add_argument("-o", "--output", metavar="NET.img", type=Path, required=True)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    config = EngineConfig.load(args.preset)
    network = Network.load(args.network)
    if args.fit:
        config = fit(network, config)
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
        **({"matrices": costs(network, config)} if config.int4 or config.sparse else {}),
    }


def _show(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if name != "matrices":
            print(f"{name}: {value}")
    for m in result.get("matrices", ()):
        others = ", ".join(f"{k} {v:,}" for k, v in sorted(m["words"].items(), key=lambda i: i[1]))
        print(
            f"{m['layer']} from {m['source']}: int{m['bits']}, {m['density']:.0%} kept, stored as "
            f"{m['format']} (words: {others})"
        )


PACK = Command(
    name="pack",
    help="write the memory image of a network for one engine",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""examples:
  stillnet pack net.safetensors --preset axi64 -o net.img
  stillnet info net.img                     explains what is in it

An image fits the engine configuration that it was packed for and no other; the hardware refuses
one with another fingerprint.
""",
)
