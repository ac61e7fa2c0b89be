"""``stillnet bench``: measurements, as text or as the page ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
from typing import Any

from stillnet.sw.util.benches import bench, bench_names, document, load_bench
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.results.studies import BenchResult

from . import options
from .main import Command

__all__ = ["BENCH"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="which one, or 'all'; without it, lists them", nargs="?"
    )
    options.add_output(parser, "PAGE.md", "also write a markdown page, or its section")


def _run(args: argparse.Namespace) -> BenchResult | dict[str, Any]:
    if args.name is None:
        return {name: load_bench(name).title for name in bench_names()}
    check_place(args.output)
    names = bench_names() if args.name == "all" else [args.name]
    with console_progress() as progress:
        results = [bench(name, progress=progress) for name in names]
    if args.output:
        # Of one measurement, the page's other sections stay.
        old = args.name != "all" and args.output.is_file()
        page = args.output.read_text(errors="replace") if old else ""
        write_atomically(args.output, document(results, page))
    return {r.bench: r.rows for r in results} if args.name == "all" else results[0]


def _show(result: BenchResult | dict[str, Any]) -> None:
    if isinstance(result, BenchResult):
        print(load_bench(result.bench).markdown(result.rows))
        return
    for name, value in result.items():
        if isinstance(value, str):
            print(f"{name}: {value}")
        else:
            print(f"\n{load_bench(name).title}\n\n{load_bench(name).markdown(value)}")


BENCH = Command(
    name="bench",
    help="Measure cycles, area and speed.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet bench                      what can be measured
  stillnet bench edgedrnn --json      the shapes at which EdgeDRNN was measured, one row each
  stillnet bench all --output docs/benchmarks.md
  stillnet bench sdram --output docs/benchmarks.md    one section of it
""",
)
