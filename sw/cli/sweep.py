"""``stillnet sweep``: error and cost for several choices of weights and thresholds."""

from __future__ import annotations

import argparse
from pathlib import Path

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.util.pictures import check_picture
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.studies import SweepResult

from . import options
from .main import Command
from .rendering import columns, print_tables

__all__ = ["SWEEP"]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_model(parser)
    options.add_import(parser)
    options.add_data(parser)
    options.add_test(parser, "recordings that nothing is chosen on, as for --data")
    options.add_weights(parser, "8bit,4bit", "bits of a weight, one or more")
    options.add_sparsity(parser, "0,0.5", "parts of the weights that are removed, one or more")
    add(
        "--errors",
        type=options.parse_numbers,
        default="0,0.01,0.02,0.03",
        metavar="LIST",
        help="budgets of error; 0: no thresholds (0,0.01,0.02,0.03)",
    )
    options.add_pattern(parser)
    options.add_clock(parser, 100.0, "clock of engine and memory (default: 100)")
    options.add_one_threshold(parser)
    options.add_seed(parser)
    options.add_preset(parser, "sdram16", "; its words are counted")
    options.add_resume(parser)
    add("--plot", type=Path, metavar="FILE", help="draw the points: .png, .svg or .pdf")


def _run(args: argparse.Namespace) -> SweepResult:
    from stillnet.sw.compression import CompressOptions
    from stillnet.sw.compression.plot import plot_sweep
    from stillnet.sw.compression.sweep import sweep

    chosen = CompressOptions(
        pattern=args.pattern,
        clock_mhz=args.clock,
        by_element=not args.one_threshold,
        seed=args.seed,
    )
    if args.plot:
        check_picture(args.plot)
    recordings = load_recordings(args.data)
    test = None if args.test is None else load_recordings(args.test)
    model = options.load_given(args, recordings)
    with console_progress() as progress:
        rows = sweep(
            model,
            recordings,
            bits=args.weights,
            sparsity=args.sparsity,
            errors=args.errors,
            options=chosen,
            config=EngineConfig.load(args.preset),
            test=test,
            folder=args.resume,
            progress=progress,
        )
    if args.plot:
        plot_sweep(rows, args.plot, title=model.name)
    return SweepResult(model=model.name, rows=rows, plot=args.plot and str(args.plot))


_COLUMNS = ("bits", "removed", "budget", "error", "words", "kB", "cycles", "ms")
_TESTED = ("test error", "test ms")


def _show(result: SweepResult) -> None:
    rows = result.rows
    tested = bool(rows) and "test_error" in rows[0]
    names = _COLUMNS + (_TESTED if tested else ())
    table = columns(
        f"Model '{result.model}': error, and cost per step", dict.fromkeys(names, "right")
    )
    for r in rows:
        cells = [
            str(r["bits"]),
            f"{r['sparsity']:.0%}",
            f"{r['budget']:g}",
            f"{r['error']:.4f}",
            f"{r['words']:,.0f}",
            f"{r['kilobytes']:,.1f}",
            f"{r['cycles']:,.0f}",
            f"{r['frame_ms']:.3g}",
        ]
        if tested:
            cells += [f"{r['test_error']:.4f}", f"{r['test_frame_ms']:.3g}"]
        table.add_row(*cells)
    print_tables(table)
    if result.plot:
        print(f"Drawn in {result.plot}.")


SWEEP = Command(
    name="sweep",
    help="Error against words, cycles and time per step, for thresholds, bits and sparsity.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet sweep nsnet2.onnx --data clips/ --plot sweep.png
      int8 and int4, dense and half pruned, each for four budgets of error
  stillnet sweep nsnet2.onnx --data clips/ --test held-out/ --weights 4bit --sparsity 0,0.5,0.6
      the same points measured on recordings that nothing was chosen on

Times are those of the cost model (docs/compression.md) for a 16-bit SDRAM at the clock given.""",
)
