"""``stillnet search``: the small networks of a model that err least for their time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import make_folder
from stillnet.sw.util.pictures import check_picture
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.studies import SearchResult

from . import options
from .main import Command
from .rendering import columns, print_tables

__all__ = ["SEARCH", "parse_engines"]


def parse_engines(text: str, clock_mhz: float) -> dict[str, tuple[EngineConfig, float]]:
    """``"sdram16,ulx3s-85f-tiers@75"``: engines by name, each with its clock in MHz."""
    found = {}
    for part in text.split(","):
        name, at, clock = part.strip().partition("@")
        mhz = clock_mhz
        if at:
            try:
                mhz = float(clock)
            except ValueError:
                mhz = 0.0
        if not 0 < mhz < 10_000:
            raise StillnetError(
                f"--preset: '{part.strip()}' has no clock in MHz behind its @; write for instance "
                f"{name or 'sdram16'}@75"
            )
        found[part.strip()] = (EngineConfig.load(name), mhz)
    return found


def _configure(parser: argparse.ArgumentParser) -> None:
    from stillnet.sw.search.options import SAMPLERS  # only this command needs the package

    add = parser.add_argument
    options.add_model(parser)
    options.add_import(parser)
    options.add_data(parser)
    options.add_test(parser, "recordings that nothing is chosen on, to measure networks written")
    options.add_weights(parser, "4bit", "bits that a layer may have, one or more")
    options.add_pattern(parser)
    add(
        "--errors",
        type=options.parse_numbers,
        default="0.005,0.03",
        metavar="LOW,HIGH",
        help="range of the mean error on calibration that thresholds may cost (0.005,0.03)",
    )
    add(
        "--preset",
        default="sdram16",
        metavar="NAME[@MHZ],...",
        help="engines to choose from, each with its clock (sdram16)",
    )
    options.add_clock(parser, 100.0, "clock of engines without one of their own (default: 100)")
    add("--trials", type=options.positive, default=60, metavar="N", help="in all (60)")
    add(
        "--sampler",
        choices=SAMPLERS,
        default="moves",
        help="where to look next; all but moves are those of optuna, for comparison",
    )
    options.add_seed(parser)
    add("--storage", metavar="URL", help="a database for trials, instead of FOLDER/trials.journal")
    add(
        "--write",
        type=options.positive,
        default=3,
        metavar="N",
        help="networks of the front to write, evenly along it (3)",
    )
    add("--check", action="store_true", help="run the first steps of those on generated hardware")
    options.add_name(parser)
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="trials, solved layers, front.png, networks; the same search goes on from there",
    )


def _run(args: argparse.Namespace) -> SearchResult:
    from stillnet.sw.compression.sweep import measure
    from stillnet.sw.search import Offer, Search, SearchOptions
    from stillnet.sw.search.plot import plot_search

    if len(args.errors) != 2:
        raise StillnetError("--errors takes two numbers, the smallest and the largest error")
    engines = parse_engines(args.preset, args.clock)
    chosen = SearchOptions(
        bits=tuple(args.weights),
        pattern=args.pattern,
        errors=(args.errors[0], args.errors[1]),
        engines={name: Offer(config, mhz) for name, (config, mhz) in engines.items()},
        sampler=args.sampler,
        seed=args.seed,
    )
    make_folder(args.output)
    plot = args.output / "front.png"
    check_picture(plot)
    recordings = load_recordings(args.data)
    test = None if args.test is None else load_recordings(args.test)
    model = options.load_given(args, recordings)
    with console_progress() as progress:
        search = Search(
            model,
            recordings,
            chosen,
            folder=args.output,
            storage=args.storage,
            progress=progress,
        )
        search.run(args.trials)
        plot_search(search.points(), search.points(first=True), plot, title=model.name)
        rows = search.rows()
        written = []
        for row in spread(rows, args.write):
            path = args.output / f"trial-{row['trial']}.safetensors"
            network = search.network(row["trial"], args.name)
            network.save(path)
            offer = chosen.engines[row["engine"]]
            config = chosen.engine(row["engine"])
            entry = {"trial": row["trial"], "output": str(path)}
            entry |= measure(model, network, search.recordings, config, clock_mhz=offer.clock_mhz)
            if test is not None:
                tested = measure(model, network, test, config, clock_mhz=offer.clock_mhz)
                entry |= {f"test_{k}": v for k, v in tested.items()}
            if args.check:
                entry["mismatches"] = _mismatches(network, search.recordings[0], config)
            written.append(entry)
    return SearchResult(
        model=model.name,
        trials=args.trials,
        stopped=search.stopped(),
        layers=list(search.space.layers.values()),
        rows=rows,
        networks=written,
        plot=str(plot),
    )


def spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows, evenly from the first to the last."""
    if count >= len(rows):
        return rows
    if count == 1:
        return [rows[len(rows) // 2]]
    return [rows[round(k * (len(rows) - 1) / (count - 1))] for k in range(count)]


def _mismatches(network: Any, x: Any, config: EngineConfig) -> int:
    from stillnet.sw.host.engines import run

    result: Any = run(network, x, engine="rtl", preset=config, steps=5)
    return int(result.mismatches)


def _show(result: SearchResult) -> None:
    table = columns(
        f"Model '{result.model}': the front of {result.trials} trials, {result.stopped} of them "
        "given up early",
        {
            "trial": "right",
            "error": "right",
            "ms": "right",
            "words": "right",
            "kB": "right",
            "engine": "left",
            "kept, by layer": "left",
        },
    )
    for r in result.rows:
        kept = " ".join(
            f"{k:.0%}" + ("" if len(set(r["bits"])) == 1 else f"/{b}")
            for k, b in zip(r["kept"], r["bits"])
        )
        table.add_row(
            str(r["trial"]),
            f"{r['error']:.4f}",
            f"{r['frame_ms']:.3g}",
            f"{r['words']:,.0f}",
            f"{r['image_bytes'] / 1000:,.0f}",
            r["engine"],
            kept,
        )
    print_tables(table)
    for n in result.networks:
        heard = f", {n['test_error']:.4f} on --test" if "test_error" in n else ""
        checked = ""
        if "mismatches" in n:
            checked = ", hardware equal" if n["mismatches"] == 0 else ", HARDWARE DIFFERS"
        print(f"{n['output']}: error {n['error']:.4f}{heard}, {n['frame_ms']:.3g} ms{checked}")
    print(f"Drawn in {result.plot}.")


SEARCH = Command(
    name="search",
    help="Try what compress fixes: the networks that err least for the time of a step.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet search nsnet2.onnx --data clips/ --trials 60 -o found/
      bits of four; how much each layer keeps, what each vector may lose, for a 16-bit SDRAM
  stillnet search nsnet2.onnx --data clips/ --test unheard/ --weights 8bit,4bit -o found/
      layers of eight or four bits; networks that are written are measured on recordings unheard
  stillnet search nsnet2.onnx --data clips/ --preset ulx3s-85f@100,ulx3s-85f-tiers@75 -o found/
      with or without a hot store, each at the clock that closes
The same line again goes on where it was, with more --trials if you like. How it works:
docs/explanation/search.md
""",
)
