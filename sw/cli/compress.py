"""``stillnet compress``: a float model into a small network, without training."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.util.files import check_place
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.networks import CompressReport, CompressResult

from . import options
from .main import Command
from .rendering import columns, figure, percent, print_tables, show_deadline

__all__ = ["COMPRESS"]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_model(parser)
    options.add_import(parser)
    options.add_data(parser)
    options.add_weights(parser, "4bit", "4bit or 8bit")
    options.add_sparsity(parser, "0", "part of the weights that are removed")
    options.add_pattern(parser)
    options.add_max_error(
        parser,
        "thresholds: fewest words within this mean error of each output, or 5%% of its spread",
    )
    add(
        "--mean-error",
        type=float,
        metavar="E",
        help="thresholds: fewest words within this mean error over all outputs",
    )
    add(
        "--frame-time",
        type=options.parse_time,
        metavar="T",
        help="thresholds: least error within this time per step, for example 2ms",
    )
    add(
        "--leave-out",
        type=int,
        metavar="N",
        help="leave each of N scenes of the recordings out once: says the error on what was never "
        "heard, and tightens a budget by it",
    )
    options.add_deadline(parser)
    options.add_clock(parser, None, "clock of engine and memory (default: the board's own, or 100)")
    options.add_one_threshold(parser)
    add("--refits", type=int, default=1, metavar="N", help="solve again under the thresholds (1)")
    options.add_method(parser, "nearest: magnitude pruning and clipped rounding, the baselines")
    options.add_steps(parser)
    options.add_strict(parser)
    add("--keep-zeros", action="store_true", help="weights that are zero in MODEL stay zero")
    options.add_seed(parser)
    options.add_preset(parser, "sdram16", "; its words are counted")
    options.add_resume(parser, " (NET.stages)")
    options.add_name(parser)
    options.add_output(parser, "NET", "the network, .safetensors", required=True)


def _run(args: argparse.Namespace) -> CompressResult:
    from stillnet.sw.compression import CompressOptions, Given, compress, engine_for
    from stillnet.sw.packing.describe import describe_network

    place = options.place_of(args)
    bits: Any = options.one_of(args.weights, "--weights")
    chosen = CompressOptions(
        bits=bits,
        sparsity=options.one_of(args.sparsity, "--sparsity"),
        pattern=args.pattern,
        max_error=args.max_error,
        mean_error=args.mean_error,
        frame_ms=args.frame_time,
        clock_mhz=place.clock_mhz,
        by_element=not args.one_threshold,
        row_steps=args.weight_steps,
        refits=args.refits,
        method=args.method,
        seed=args.seed,
    )
    config = engine_for(chosen, EngineConfig.load(args.preset))
    check_place(args.output)
    recordings = load_recordings(args.data)
    model = options.load_given(args, recordings)
    folder = args.resume or Path(f"{args.output}.stages")
    with console_progress() as progress:
        network = compress(
            model,
            recordings,
            chosen,
            config=config,
            given=Given() if args.keep_zeros else None,
            leave_out=args.leave_out,
            name=args.name,
            folder=folder,
            progress=progress,
        )
        if args.deadline is not None:
            options.keep_deadline(network, config, recordings, args.deadline, place, progress)
    doubts = network.notes["report"]["doubts"]
    options.insist(args, doubts)
    network.save(args.output)
    if args.resume is None:
        shutil.rmtree(folder, ignore_errors=True)
    report = CompressReport.from_dict(network.notes["compression"])
    return CompressResult(
        **vars(report),
        output=str(args.output),
        name=network.name,
        doubts=doubts,
        deadline=describe_network(network).deadline,
    )


def _show(result: CompressResult) -> None:
    right = "right"
    table = columns(
        f"Network '{result.name}', {result.steps} steps of calibration: mean output error "
        f"{result.output_error:.4g}",
        {
            "layer": "left",
            "cell": "left",
            "kept": right,
            "lost": right,
            "rounding would lose": right,
            "active": right,
            "formats": "left",
        },
    )
    for layer in result.layers:
        table.add_row(
            layer.name,
            layer.cell,
            percent(layer.density),
            figure(layer.error),
            figure(layer.nearest_error),
            percent(layer.active),
            ", ".join(layer.formats),
        )
    print_tables(table)
    print(
        f"{result.bytes_a_step / 1000:,.1f} kB per step, {result.frame_ms:.3g} ms at "
        f"{result.options['clock_mhz']:g} MHz by the cost model, on engine "
        f"'{result.engine['name']}'"
    )
    if result.unheard:
        found = result.unheard
        print(
            f"Expected error on a scene never heard: {found['expected']:.4g}, from "
            f"{found['low']:.4g} to {found['high']:.4g} with 90 % ({len(found['ratios'])} scenes "
            "left out)"
        )
    show_deadline(result.deadline)
    path = result.output
    print(f"Saved {path}. For its engine: stillnet build --board NAME --fit {path}")


COMPRESS = Command(
    name="compress",
    help="Shrink a float model without training: few bits, pruned weights, chosen thresholds.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet compress nsnet2.onnx --data clips/ --weights 4bit -o net.safetensors
      int4 with a multiplier for each row, solved layer by layer; every change of a value is an
      event
  stillnet compress nsnet2.onnx --data clips/ --weights 4bit --sparsity 0.5 --pattern lane -o net.st
      8 of every 16 rows of a lane stay: 3 bits per weight
  stillnet compress nsnet2.onnx --data clips/ --sparsity 0.5 --frame-time 2ms -o net.safetensors
      and the thresholds of least error with which a step takes 2 ms
  stillnet compress nsnet2.onnx --data clips/ --sparsity 0.5 --max-error 0.02 -o net.safetensors
      the thresholds of fewest words that keep the mean error of each output within 0.02
  stillnet compress nsnet2.onnx --data clips/ --max-error 0.02 --leave-out 4 -o net.safetensors
      the same within 0.02 on what calibration does not have: four scenes are left out in turn
  stillnet compress nsnet2.onnx --data clips/ --mean-error 0.014 --deadline 2.5ms -o net.safetensors
      and budgets with which no step takes longer than 2.5 ms, whatever the input is

Use recordings as diverse as what the device will meet: nothing else decides more. A run that was
stopped goes on where it was when it is given again. Thresholds are chosen on these recordings only.
""",
)
