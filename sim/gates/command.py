"""``stillnet gates``: the netlist that goes onto the FPGA, looked through and simulated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.boards.board import Board
from stillnet.boards.catalogue import BOARDS, board
from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.packing.packer import pack
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_array

from .board import pads
from .build import STAGES, check_stage, fast_link, stage_netlist
from .checks import check
from .trial import Outcome, small_network, trial, verdict

__all__ = ["GATES"]

STEPS = 5


def _configure(parser: argparse.ArgumentParser) -> None:
    options.add_network(
        parser, optional=True, help="a network (default: a small one of the engine's cells)"
    )
    parser.add_argument(
        "input", metavar="X.npy", type=Path, nargs="?", help="of NET: .npy, (steps, inputs)"
    )
    options.add_board(parser, list(BOARDS), required=True)
    parser.add_argument(
        "--after",
        choices=STAGES,
        default="routing",
        help="which netlist: after synthesis, after placement and routing (the default), or read "
        "back from the bitstream (Tang Nano 20K)",
    )
    parser.add_argument(
        "--steps", type=options.positive, default=STEPS, metavar="N", help=f"steps ({STEPS})"
    )
    options.add_fit(parser, False, "the board as 'build NET --fit' makes it")
    options.add_baud(
        parser,
        "of the serial port (default: the clock / 8, which saves time; the rest is the same)",
    )
    parser.add_argument(
        "--preload",
        action="store_true",
        help="the image is in the SDRAM already and need not go over the link: for large networks",
    )
    parser.add_argument(
        "--checks-only", action="store_true", help="look through the netlist, simulate nothing"
    )


def _board(args: argparse.Namespace, network: Network | None) -> Board:
    target = board(args.board)
    pads(target)  # refuses a board that this is not for
    check_stage(target, args.after)
    if args.checks_only and args.after == "bitstream":
        raise StillnetError("--checks-only is for netlists before the bitstream; leave it out")
    if args.fit:
        if network is None:
            raise StillnetError("--fit needs a network: stillnet gates NET --board NAME --fit")
        target = target.fitted(network)
    return fast_link(target, args.baud)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    network = None if args.network is None else Network.load(args.network)
    target = _board(args, network)
    if network is None:
        network, rows = small_network(target.config())
    else:
        rows = _rows(network, args)
        pack(network, target.config())  # refuses what does not fit, before minutes of placement
    with console_progress() as progress:
        netlist = stage_netlist(target, args.after, progress)
        if args.checks_only:
            seen = check(netlist)
            result = Outcome(target.name, args.after, netlist.kinds(), seen=seen)
            what = seen.problems[0] if seen.problems else "nothing that should not be there"
            return _values(result, not seen.problems, f"{target.name} after {args.after}: {what}")
        result = trial(
            target,
            args.after,
            netlist,
            network,
            rows[: args.steps],
            progress,
            preload=args.preload,
        )
    return _values(result, result.good, verdict(result))


def _rows(network: Network, args: argparse.Namespace) -> np.ndarray:
    if args.input is None:
        raise StillnetError(
            f"network '{args.network}' needs an input: stillnet gates NET x.npy --board NAME"
        )
    return network.quantize_input(load_array(args.input))


def _values(result: Outcome, good: bool, sentence: str) -> dict[str, Any]:
    return {**vars(result), "seen": vars(result.seen), "good": good, "verdict": sentence}


def _show(result: dict[str, Any]) -> None:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in result["cells"].items())
    print(f"{result['board']} after {result['stage']}: {counts}")
    seen = result["seen"]
    if result["loose"]:
        print(f"wires that nothing drives: {result['loose']}, low in this run")
    registers = ", ".join(f"{count:,} {clock}" for clock, count in seen["domains"].items())
    if registers:
        print(f"registers by clock: {registers}")
    for what, found in seen["crossings"].items():
        print(f"crossing {what}: {len(found)}")
    if registers:
        print(f"pads of SDRAM and serial port with their registers: {seen['pad_registers']}")
    for problem in seen["problems"]:
        print(f"problem: {problem}")
    if result["network_cells"]:
        how = "over the link" if result["loaded"] == "link" else "in the SDRAM from the start"
        cells = ", ".join(result["network_cells"])
        print(f"image of {result['image_bytes']:,} bytes {how}: {cells}")
        print(f"steps: {result['steps'] - result['wrong']} of {result['steps']} as the reference")
    print(result["verdict"])


GATES = Command(
    name="gates",
    help="Simulate the netlist of a board, after synthesis or routing, and look through it.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet gates --board ulx3s-25f
      place and route the board, simulate its gates with SDRAM, serial port and driver
  stillnet gates --board ulx3s-25f --after synthesis --checks-only
      latches, loops, clock crossings and pad registers, in a few minutes
  stillnet gates --board tang-nano-20k --after bitstream
      the bits of a bitstream turned back into gates, and those simulated
  stillnet gates net.safetensors x.npy --board ulx3s-25f --preload --steps 3
      three steps of a network of yours""",
)
