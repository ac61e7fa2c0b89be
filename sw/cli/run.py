"""``stillnet run``: a network over a recording, on the reference or on hardware."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.engines import run_all
from stillnet.sw.network.network import Network
from stillnet.sw.report.energy import energy_lines, energy_of
from stillnet.sw.report.report import check_report, write_report
from stillnet.sw.util.files import check_place, make_folder, write_atomically
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_array, recording_files
from stillnet.sw.util.results.runs import Energy, RunResult

from . import options
from .main import Command
from .rendering import columns, print_tables

__all__ = ["RUN"]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_network(parser)
    add(
        "input",
        metavar="X.npy",
        type=Path,
        nargs="+",
        help="input vectors, (steps, inputs); several recordings, or folders of them, each start "
        "anew",
    )
    add(
        "--engine",
        default="reference",
        help="reference (default); rtl: generated hardware; board:PORT or sim:BOARD: a board",
    )
    options.add_preset(parser)
    options.add_fit(
        parser,
        None,
        "--fit: add to preset or virtual board all that the network can use, as 'generate --fit' "
        "does; --no-fit: refuse a network that does not fit; default: add what is missing",
    )
    add("--steps", type=options.positive, metavar="N", help="run only the first N steps")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine; may be repeated",
    )
    add(
        "--report",
        type=Path,
        metavar="OUT.html",
        help="write a page about the run: events over time, cycles, slowest steps, errors",
    )
    options.add_float(parser, "with --report: the float model, for the error against it")
    add(
        "--pace",
        type=options.positive_number,
        metavar="R",
        help="steps per second in use, for energy per step and operations per second",
    )
    add(
        "--watts",
        type=options.positive_number,
        metavar="W",
        help="what a meter reads of the whole board, for its energy per step",
    )
    options.add_strict(parser)
    options.add_output(
        parser, "Y.npy", "output vectors, (steps, outputs); of several recordings a folder"
    )


def _engine_options(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise StillnetError(f"--option: '{text}' is not NAME=VALUE")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.replace("-", "_")] = value
    return found


def _run(args: argparse.Namespace) -> RunResult:
    engine_options = _engine_options(args.option)
    check_report(args.report)
    if args.float is not None and args.report is None:
        raise StillnetError("--float needs --report OUT.html, which shows the error")
    on_board = args.engine.startswith(("board:", "sim:"))
    if args.watts is not None and args.pace is None and not on_board:
        raise StillnetError("--watts needs the time of a step; give --pace, in steps per second")
    files = recording_files(args.input)
    many = len(files) > 1
    if not many:
        check_place(args.output)
    elif args.output is not None:
        _check_names(files)
        make_folder(args.output)
    network = Network.load(args.network)
    model = options.float_model(args.float)
    recordings = [load_array(file) for file in files]
    with console_progress() as progress:
        result, outputs = run_all(
            network,
            recordings,
            engine=args.engine,
            preset=args.preset,
            fit=args.fit,
            steps=args.steps,
            progress=progress,
            **engine_options,
        )
    options.insist(args, result.doubts)
    result = replace(result, energy=_energy(result, args))
    if args.report is not None:
        with console_progress() as progress:
            write_report(
                args.report,
                network,
                recordings,
                result,
                model=model,
                rate=args.pace,
                progress=progress,
            )
        result = replace(result, report=str(args.report))
    if args.output is None:
        return result
    for file, y in zip(files, outputs):
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(y), allow_pickle=False)
        write_atomically(args.output / file.name if many else args.output, buffer.getvalue())
    return replace(result, output=str(args.output))


def _energy(result: RunResult, args: argparse.Namespace) -> Energy | None:
    speed = getattr(result, "steps_per_second", None)
    return energy_of(
        getattr(result, "sdram", None),
        result.steps,
        rate=args.pace,
        watts=args.watts,
        seconds=result.steps / speed if speed else None,
    )


def _check_names(files: Sequence[Path]) -> None:
    names = [file.name for file in files]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise StillnetError(
            f"two recordings are called '{twice}', and so would be their outputs; rename one"
        )


_IN_TABLE = ("events", "steps", "engine", "added", "lacking")
_OF_HARDWARE = ("cycles", "utilisation", "mismatches")


def _show(result: RunResult) -> None:
    steps = max(result.steps, 1)
    reference = result.engine == "reference"
    table = columns(
        f"{result.steps} steps on {result.engine}",
        {"events of": "left", "in all": "right", "per step": "right"},
    )
    for name, count in result.events.items():
        table.add_row(name, f"{count:,}", f"{count / steps:,.1f}")
    print_tables(table)
    for key, value in result.to_dict().items():
        if key in _IN_TABLE or (reference and key in _OF_HARDWARE):
            continue
        if value is None or isinstance(value, (dict, list)):
            continue
        if isinstance(value, (bool, str)):
            print(f"{key}: {value}")
        elif key in ("words", "cycles"):
            print(f"{key}: {value:,} ({value / steps:,.1f} per step)")
        else:
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value:.6g}")
    if result.added:
        print(
            f"engine '{result.preset}' was fitted to the network: other {', '.join(result.added)} "
            "(--no-fit forbids it)"
        )
    if result.energy is not None:
        for line in energy_lines(result.energy, getattr(result, "sdram", None)):
            print(line)
    if reference:
        print(f"lower bound for an engine with preset {result.preset}: one word per cycle")
    if result.lacking:
        print(
            f"the network asks for {', '.join(result.lacking)}, which {result.preset} does not "
            "have; without --no-fit, words are those of an engine that has it"
        )


RUN = Command(
    name="run",
    help="Run a network over a recording: bit-exact reference, or the generated hardware.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet run net.safetensors x.npy -o y.npy
      the bit-exact reference; events by source and the memory words that they fetch
  stillnet run net.safetensors voices/ -o answers/
      every recording of a folder, the state cleared before each
  stillnet run net.safetensors x.npy --steps 5 --engine rtl --preset axi64 -o y.npy
      the same through the generated Verilog in a simulator, compared value by value
  stillnet run net.safetensors x.npy --report run.html --float model.onnx
      a page about the run, for a person: events over time, slowest steps and why, errors
  stillnet run net.safetensors x.npy --engine board:/dev/ttyUSB0 --pace 100 --watts 0.9
      energy per step: of the SDRAM from what it was told, of the board from a meter
  stillnet run net.safetensors x.npy --engine board:/dev/ttyUSB0 -o y.npy
      on a board, packed for the engine that it has; outputs are compared with the reference
  stillnet run net.safetensors x.npy --steps 20 --engine sim:ulx3s-85f
      on the virtual board; a compressed network gets the engine that 'build --fit' makes""",
)
