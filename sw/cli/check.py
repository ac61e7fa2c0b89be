"""``stillnet check``: which part of a model runs on the chip, and why the rest does not."""

from __future__ import annotations

import argparse
from pathlib import Path

from stillnet.sw.model.model import Model
from stillnet.sw.partition.picture import draw_cut
from stillnet.sw.util.pictures import check_picture
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.studies import CheckedLayer, CheckedNode, CheckResult

from . import options
from .main import Command
from .rendering import columns, percent, print_tables

__all__ = ["CHECK", "describe_model", "show_model"]


def _configure(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="PLACE",
        type=Path,
        help="recordings, which tell the size of an input that the model leaves open",
    )
    options.add_import(parser)
    parser.add_argument(
        "--all", action="store_true", help="list every node, those without work included"
    )
    options.add_output(parser, "PICTURE", "a picture of the cut, .png, .svg or .pdf")


def _run(args: argparse.Namespace) -> CheckResult:
    if args.output is not None:
        check_picture(args.output)
    model = options.load_given(args, load_recordings(args.data))
    result = describe_model(model)
    if args.output is not None:
        draw_cut(result, args.output)
    return _All(**vars(result)) if args.all else result


def describe_model(model: Model) -> CheckResult:
    """Which part of a model runs on the chip."""
    layers = [
        CheckedLayer(
            name=layer.name,
            cell=layer.cell,
            units=layer.units,
            weights=sum(m.weight.size for m in layer.matrices),
        )
        for layer in model.layers
    ]
    host = model.host
    if host is None:
        return CheckResult(
            name=model.name,
            inputs=model.inputs,
            outputs=model.outputs,
            vector=model.inputs,
            every_step=model.last_step,
            layers=layers,
        )
    report = host.report
    return CheckResult(
        name=model.name,
        inputs=host.inputs,
        outputs=host.output_size,
        vector=model.inputs,
        enter=host.enter,
        leave=[leave.name for leave in host.leave],
        states={s.input: s.output for s in host.states},
        streams=host.stepwise or host.pointwise,
        every_step=host.every_step,
        chip_weights=report["chip"]["weights"],
        chip_multiplications=report["chip"]["multiplications"],
        layers=layers,
        nodes=[CheckedNode(**node) for node in report["nodes"]],
        doubts=host.doubts(),
    )


class _All(CheckResult):
    """Shown with every node."""


def show_model(result: CheckResult) -> None:
    table = columns(
        f"'{result.name}': {result.inputs} in, {result.outputs} out; the chip takes vectors of "
        f"{result.vector}",
        {"on the chip": "left", "cell": "left", "units": "right", "weights": "right"},
    )
    for layer in result.layers:
        table.add_row(layer.name, layer.cell, str(layer.units), f"{layer.weights:,}")
    print_tables(table)
    if result.enter is None:
        print("All of it runs on the chip.")
        _show_last_step(result)
        return
    nodes = columns(
        f"The chip begins at '{result.enter}' and ends at "
        + ", ".join(f"'{name}'" for name in result.leave),
        {
            "node": "left",
            "operator": "left",
            "runs on": "left",
            "weights": "right",
            "multiplications": "right",
            "why": "left",
        },
    )
    everything = isinstance(result, _All)
    for node in result.nodes:
        if everything or node.weights or node.why or node.where == "chip" and node.multiplications:
            nodes.add_row(
                node.name,
                node.operator,
                node.where,
                f"{node.weights:,}",
                f"{node.multiplications:,}",
                node.why,
            )
    print_tables(nodes)
    print(
        f"On the chip: {percent(result.chip_weights)} of the weights, "
        f"{percent(result.chip_multiplications)} of the multiplications."
    )
    if result.states:
        pairs = ", ".join(f"{i} from {o}" for i, o in result.states.items())
        print(f"States that the host carries: {pairs}.")
    _show_last_step(result)
    if not result.streams:
        print(
            "The host's part looks over several steps of a recording: recordings run, a stream "
            "does not. Export the model as one step to stream it."
        )


def _show_last_step(result: CheckResult) -> None:
    if result.every_step:
        print(
            "The file gives one answer for a recording, at its last step. Here it is a stream: "
            "every step has an answer, for the recording so far. The last row that "
            "'stillnet run' writes is that of the file. Clear the states before the next "
            "recording, as 'stillnet run' does."
        )


CHECK = Command(
    name="check",
    help="Show which part of a model runs on the chip, and why the rest does not.",
    configure=_configure,
    run=_run,
    show=show_model,
    epilog="""\
examples:
  stillnet check vad.onnx --shape input=1,512 --set sr=16000
      a table of the nodes: where each runs, with its weights and multiplications, and why
  stillnet check denoiser.onnx -o cut.png
      the same as a picture
  stillnet check model.onnx --from /encoder/Relu --to /fc/Add
      another cut than the one with the most weights on the chip""",
)
