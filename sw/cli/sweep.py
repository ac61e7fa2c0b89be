"""``stillnet sweep``: the command line of ``stillnet.sw.compression.sweep``."""

from __future__ import annotations

import argparse
from typing import Any

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.progress import console_progress

from .commands import _columns, _print
from .compress import load_recordings, parse_bits
from .main import Command

__all__ = ["SWEEP"]


def _numbers(text: str, where: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise StillnetError(f"{where}: '{text}' is not a list of numbers such as 0,0.5") from None


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="trained model: .onnx, .safetensors, .npz, .pt")
    add("--data", nargs="+", required=True, metavar="PLACE", help="calibration, as for compress")
    add("--test", nargs="+", metavar="PLACE", help="recordings that nothing is chosen on")
    add("--weights", default="8bit,4bit", metavar="LIST", help="8bit,4bit")
    add("--sparsity", default="0,0.5", metavar="LIST", help="0,0.5")
    add("--errors", default="0,0.01,0.02,0.03", metavar="LIST", help="budgets; 0: no thresholds")
    add("--pattern", choices=("unstructured", "lane", "block8"), default="unstructured")
    add("--clock", type=float, default=100.0, metavar="MHZ")
    add("--one-threshold", action="store_true", help="one threshold a vector, not one an element")
    add("--seed", type=int, default=0, metavar="N")
    add("--preset", default="sdram16", help="engine to count words for (sdram16)")
    add("--resume", metavar="FOLDER", help="where finished stages are kept")
    add("--plot", metavar="FILE", help="draw the points: .png, .svg or .pdf")


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from stillnet.sw.compression import CompressOptions
    from stillnet.sw.compression.sweep import check_plot, plot, sweep
    from stillnet.sw.importers.load import load_model

    options = CompressOptions(
        pattern=args.pattern,
        clock_mhz=args.clock,
        by_element=not args.one_threshold,
        seed=args.seed,
    )
    bits = [parse_bits(part) for part in args.weights.split(",")]
    sparsity = _numbers(args.sparsity, "--sparsity")
    errors = _numbers(args.errors, "--errors")
    if args.plot:
        check_plot(args.plot)
    recordings = load_recordings(args.data)
    test = None if args.test is None else load_recordings(args.test)
    model = load_model(args.model)
    with console_progress(args.json) as progress:
        rows = sweep(
            model,
            recordings,
            bits=bits,
            sparsity=sparsity,
            errors=errors,
            options=options,
            config=EngineConfig.load(args.preset),
            test=test,
            folder=args.resume,
            progress=progress,
        )
    if args.plot:
        plot(rows, args.plot, title=model.name)
    return {"model": model.name, "rows": rows, "plot": args.plot}


def _show(result: dict[str, Any]) -> None:
    right = "right"
    rows = result["rows"]
    tested = bool(rows) and "test_error" in rows[0]
    names = {"bits": right, "gone": right, "budget": right, "error": right}
    names |= {"words": right, "kB": right, "cycles": right, "ms": right}
    if tested:
        names |= {"test error": right, "test ms": right}
    table = _columns(f"Model '{result['model']}': error and cost a step", names)
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
    _print(table)
    if result["plot"]:
        print(f"Drawn in {result['plot']}.")


SWEEP = Command(
    name="sweep",
    help="Error against words, cycles and time a step, for thresholds, bits and sparsity.",
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
