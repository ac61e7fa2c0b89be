"""Lists the testbenches, or runs one: ``python -m stillnet.sim.testbenches run encoder``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillnet.sim.compile.model import SIMULATORS
from stillnet.sw.contract.errors import StillnetError

from . import TESTBENCHES, run_testbench
from .runner import BenchFailed

WAVES = Path("build/sim")


def show_list() -> None:
    """One line for each testbench."""
    for bench in TESTBENCHES.values():
        values = " ".join(f"{name}={value}" for name, value in bench.parameters.items())
        print(f"  {bench.name:<10} {bench.summary}" + (f"  [{values}]" if values else ""))
    print("\nmake sim BENCH=encoder SIM=icarus WAVES=1   runs one; SIM is icarus or verilator")


def run(args: argparse.Namespace) -> None:
    """Runs a testbench, and says what it has compared."""
    parameters = dict(text.split("=", 1) for text in args.parameter if "=" in text)
    values: dict[str, Any] = {k: int(v, 0) if v[:1].isdigit() else v for k, v in parameters.items()}
    print(f"{args.bench} with {args.sim} ...", flush=True)
    begin = time.perf_counter()
    waves = WAVES if args.waves else None
    result = run_testbench(args.bench, simulator=args.sim, seed=args.seed, waves=waves, **values)
    for line in result.compared:
        print(f"  {line}")
    seconds = time.perf_counter() - begin
    print(f"{args.bench}: {len(result.tests)} tests passed in {seconds:.0f} s")
    if result.waves is not None:
        print(f"waveforms: {result.waves}; look at them with `gtkwave` or `surfer` and this file")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where hardware and model disagree, 2 for bad usage or a missing tool."""
    parser = argparse.ArgumentParser(prog="python -m stillnet.sim.testbenches", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="the testbenches")
    one = commands.add_parser("run", help="run one")
    one.add_argument("bench", metavar="NAME")
    one.add_argument("parameter", nargs="*", metavar="NAME=VALUE", help="a parameter of the bench")
    one.add_argument("--sim", choices=SIMULATORS, default="icarus")
    one.add_argument("--seed", type=int)
    one.add_argument("--waves", action="store_true", help=f"write waveforms into {WAVES}")
    args = parser.parse_args(argv)
    try:
        if args.command == "run":
            run(args)
        else:
            show_list()
    except StillnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BenchFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
