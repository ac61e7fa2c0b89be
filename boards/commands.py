"""The commands ``stillnet build`` and ``stillnet flash``."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillnet.boards.build.timing import describe
from stillnet.boards.build.toolchain import TOOLCHAINS
from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.transport import DEFAULT_BAUD
from stillnet.sw.network.network import Network
from stillnet.sw.packing.packer import pack
from stillnet.sw.util.progress import console_progress

from .catalogue import BOARDS, board

__all__ = ["BUILD", "FLASH"]


def _configure_build(parser: argparse.ArgumentParser) -> None:
    options.add_network(
        parser, optional=True, help="a network that must fit the board's engine (default: none)"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    options.add_board(which, list(BOARDS))
    which.add_argument("--list", action="store_true", help="show the boards and stop")
    options.add_output(parser, "FOLDER", "where to (build/NAME)")
    parser.add_argument(
        "--seeds", type=int, default=6, metavar="N", help="seeds of the placer to try (6)"
    )
    parser.add_argument("--force", action="store_true", help="build even if nothing has changed")
    parser.add_argument(
        "--engine-cells", metavar="A,B", help="cells of the engine instead of the board's own list"
    )
    options.add_clock(parser, None, "clock of engine and SDRAM (default: the board's own)")
    options.add_fit(
        parser,
        False,
        "an engine with what NET asks for: four bits, formats of columns, cells",
    )
    parser.add_argument(
        "--tiers",
        action="store_true",
        help="hot columns in the block RAM that is left, and the SDRAM at a clock of its own",
    )
    options.add_sdram(parser)
    options.add_baud(
        parser,
        "of the serial port (default: the board's, 3,000,000; 1,000,000 without SDRAM): less for a "
        "long cable or a slow adapter, more for a fast one",
    )
    parser.add_argument(
        "--paths", action="store_true", help="show the slowest paths, by the blocks at their ends"
    )


def _run_build(args: argparse.Namespace) -> dict[str, Any]:
    if args.list:
        return {"boards": {name: _describe(name) for name in BOARDS}}
    from stillnet.boards.build.build import TimingNotMet, build

    target = board(args.board)
    if args.engine_cells:
        target = replace(target, cells=tuple(args.engine_cells.split(",")))
    if args.sdram is not None:
        target = target.with_sdram(args.sdram)
    if args.tiers:
        target = target.tiered()
    if args.clock is not None:
        target = target.clocked(args.clock)
    if args.baud is not None:
        target = target.with_baud(args.baud)
    if args.fit and args.network is None:
        raise StillnetError("--fit needs a network: stillnet build NET --board NAME --fit")
    if args.network is not None:
        network = Network.load(args.network)
        target = target.fitted(network) if args.fit else target
        pack(network, target.config())  # refuses a network that does not fit
    with console_progress() as progress:
        try:
            return build(
                target,
                args.output or Path("build") / target.name,
                seeds=args.seeds,
                force=args.force,
                paths=args.paths,
                progress=progress,
            )
        except TimingNotMet as error:
            missed, paths = error, error.paths
    if paths is not None:
        print(*describe(paths), sep="\n", file=sys.stderr)
    raise missed


def _describe(name: str) -> dict[str, Any]:
    target = board(name)
    config = target.config()
    return {
        "title": target.title,
        "device": target.device,
        "sdram": target.part,
        "sdram_bits": target.sdram.data_bits if target.sdram else None,
        "weight_bytes": config.word_bytes
        * (config.ram_words if target.sdram is None else 1 << config.address_bits),
        "clock_mhz": target.clock_hz / 1e6,
        "lanes": config.lanes,
        "units": config.units,
        "inputs": config.inputs,
        "accumulators": config.accumulators,
        "fingerprint": f"{config.fingerprint:08x}",
    }


def _show_build(result: dict[str, Any]) -> None:
    if "boards" in result:
        for name, b in result["boards"].items():
            memory = f"{b['weight_bytes'] >> 10} kB of SPRAM"
            if b["sdram"]:
                memory = f"{b['sdram_bits']}-bit SDRAM {b['sdram']}"
            print(
                f"{name:<17} {b['device']}, {memory}; engine at "
                f"{b['clock_mhz']:g} MHz: {b['lanes']} lanes, {b['units']} units, "
                f"{b['accumulators']} accumulators per lane"
            )
        return
    config = result["config"]
    print(
        f"{result['board']}: {config['lanes']} lanes, {config['units']} units, {config['inputs']} "
        f"inputs, {config['accumulators']} accumulators per lane; "
        f"cells {', '.join(config['cells'])}"
    )
    for name, clock in result["clocks"].items():
        print(f"clock {name}: {clock['fmax_mhz']:.1f} MHz, {clock['target_mhz']:.1f} MHz needed")
    units = TOOLCHAINS[board(result["board"]).family].units
    counts = (result[key] for key in ("comb", "ff", "dsp", "ram"))
    print(f"{result['device']}: " + ", ".join(f"{n} {unit}" for n, unit in zip(counts, units)))
    extras = [name for name in ("int4", "row_scale", "element_thresholds") if config[name]]
    if extras or len(config["formats"]) > 1:
        print("with " + ", ".join([*extras, "columns " + " or ".join(config["formats"])]))
    if "paths" in result:
        print(*describe(result["paths"]), sep="\n")
    if result["baud"] != DEFAULT_BAUD:
        print(f"serial port: {result['baud']:,} baud; connect with --option baud={result['baud']}")
    print(f"bitstream: {result['bitstream']}" + (" (unchanged)" if result["cached"] else ""))


BUILD = Command(
    name="build",
    help="Build the bitstream of a board with Yosys and nextpnr from pip.",
    configure=_configure_build,
    run=_run_build,
    show=_show_build,
    epilog="""examples:
  stillnet build --list
  stillnet build --board ulx3s-85f          build/ulx3s-85f/top.bit and build.json
  stillnet build --board ulx3s-85f --seeds 12
  stillnet build --board ulx3s-85f --paths
      what holds its clocks back; all of it in build/ulx3s-85f/paths.json
  stillnet build net.safetensors --board ulx3s-85f --fit -o build/speech
      an engine for a compressed network, no larger than it needs
  stillnet --cells my.py build --board ulx3s-85f --engine-cells my,linear -o build/my

The first build takes some minutes; the same design again takes seconds. A network for the board is
packed with --preset NAME, which is the engine that 'build' puts on it; with --engine-cells or
--fit, for engine.toml in the output folder.
""",
)


def _configure_flash(parser: argparse.ArgumentParser) -> None:
    options.add_board(parser, list(BOARDS), required=True)
    parser.add_argument(
        "bitstream",
        nargs="?",
        type=Path,
        metavar="TOP.bit",
        help="(of build/NAME); with --image-only, the one that the board has",
    )
    options.add_image(parser, "also write this image to the flash")
    parser.add_argument(
        "--image-only", action="store_true", help="leave the bitstream as it is on the board"
    )
    parser.add_argument(
        "--persist", action="store_true", help="into the flash, to be there after power-up"
    )
    parser.add_argument(
        "--loader",
        metavar="ARGS",
        help="openFPGALoader's arguments in place of the board's, for another cable: '-c ft2232'",
    )
    parser.add_argument(
        "--rollback", action="store_true", help="boot the image before, which is still there"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the commands and stop")


def _run_flash(args: argparse.Namespace) -> dict[str, Any]:
    from .flash import flash, flash_back

    target = board(args.board)
    if args.loader is not None:
        loader = tuple(shlex.split(args.loader))
        target = replace(target, loader=loader, cmsis_dap="cmsisdap" in loader)
    built = args.bitstream or Path("build") / target.name / TOOLCHAINS[target.family].bitstream
    if args.rollback:
        if args.image is not None or args.dry_run:
            raise StillnetError("--rollback writes no image; leave --image and --dry-run out")
        return flash_back(target, built)
    return flash(
        target,
        None if args.image_only else built,
        args.image,
        persist=args.persist,
        dry_run=args.dry_run,
        built=built,
    )


def _show_flash(result: dict[str, Any]) -> None:
    for command in result["commands"]:
        print(command)
    if board(result["board"]).idcode is None:
        print("into the flash: it is there after power-up, with and without --persist")
    if result["done"]:
        print(f"{result['board']} is written")
    if "slot" in result:
        before = "the image before" if result["way_back"] else "no image"
        print(f"it boots slot {result['slot']}; the other slot holds {before}")


FLASH = Command(
    name="flash",
    help="Write a bitstream, and an image, to a board.",
    configure=_configure_flash,
    run=_run_flash,
    show=_show_flash,
    epilog="""examples:
  stillnet flash --board ulx3s-85f                         until power is lost
  stillnet flash --board ulx3s-85f --persist               into the flash
  stillnet flash --board ulx3s-85f --persist --image net.img
      the board then loads the network by itself at power-up
  stillnet flash --board ulx3s-85f --dry-run               the commands, without a board
  stillnet flash --board icebreaker                        always into the flash
  stillnet flash --board colorlight-5a-75b --loader '-c digilent_hs2'
      through another JTAG cable, as openFPGALoader names it
""",
)
