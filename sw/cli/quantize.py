"""``stillnet quantize``: a float model into a network of integers."""

from __future__ import annotations

import argparse

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import check_place
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.networks import QuantizeResult

from . import options
from .main import Command
from .rendering import show_network

__all__ = ["QUANTIZE"]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _planes(text: str) -> str | list[str]:
    """``"auto"``, ``"never"`` or names of layers."""
    return text if text == "auto" else [] if text == "never" else _names(text)


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_model(parser)
    options.add_data(parser)
    add(
        "--threshold",
        metavar="T",
        type=options.parse_thresholds,
        help="delta threshold in units of the values: one for every vector (16/256), or by name "
        "(input=4/256,gru1=16/256)",
    )
    add(
        "--threshold-recurrent",
        metavar="T",
        type=lambda text: options.parse_thresholds(text, "--threshold-recurrent"),
        help="another threshold for recurrences; needs an engine with two encoders",
    )
    options.add_max_error(
        parser,
        "instead: the largest thresholds that keep the mean error of each output within E, or 5%% "
        "of its spread",
    )
    add("--nonzero", type=_names, default=[], metavar="NAMES", help="ReLU layers without deltas")
    add(
        "--planes",
        type=_planes,
        default="auto",
        metavar="auto|never|NAMES",
        help="layers whose weights have 16 bits, as two planes of eight; auto: where eight are not "
        "enough and a step is no longer for it (default)",
    )
    options.add_method(parser, "nearest: round each weight by itself, which is quick")
    options.add_steps(parser)
    options.add_strict(parser)
    options.add_deadline(parser)
    options.add_preset(parser, "axi64", "; only for --deadline")
    options.add_clock(
        parser, None, "clock of the engine, only for --deadline (default: the board's own, or 100)"
    )
    add(
        "--correct-bias",
        choices=("silent", "all", "none"),
        default="silent",
        help="add to biases what rounded weights take from the mean: not where it would make an "
        "event of silence (default), everywhere, nowhere",
    )
    options.add_name(parser)
    options.add_import(parser)
    options.add_output(parser, "NET", "the network, .safetensors", required=True)


def _run(args: argparse.Namespace) -> QuantizeResult:
    from stillnet.sw.packing.describe import describe_network
    from stillnet.sw.quantization.quantizer import quantize

    given = args.threshold is not None or args.threshold_recurrent is not None
    if args.max_error is not None and given:
        raise StillnetError("give --threshold or --max-error, not both")
    engine, place = EngineConfig.load(args.preset), options.place_of(args)
    check_place(args.output)
    recordings = load_recordings(args.data)
    model = options.load_given(args, recordings)
    with console_progress() as progress:
        network = quantize(
            model,
            recordings if len(recordings) > 1 else recordings[0],
            thresholds=args.threshold,
            threshold_recurrent=args.threshold_recurrent,
            max_error=args.max_error,
            method=args.method,
            row_steps=args.weight_steps,
            name=args.name,
            nonzero=args.nonzero,
            planes=args.planes,
            correct_bias=args.correct_bias != "none",
            keep_silence=args.correct_bias != "all",
            progress=progress,
        )
        if args.deadline is not None:
            options.keep_deadline(network, engine, recordings, args.deadline, place, progress)
    described = describe_network(network)
    options.insist(args, described.doubts)
    network.save(args.output)
    return QuantizeResult(**vars(described), output=str(args.output))


def _show(result: QuantizeResult) -> None:
    show_network(result)
    print(f"Saved {result.output}.")


QUANTIZE = Command(
    name="quantize",
    help="Turn a trained float model into a network of integers, calibrated on your recordings.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet quantize nsnet2.onnx --data speech.npy -o net.safetensors
      formats only; every change of a value is an event
  stillnet quantize nsnet2.onnx --data a.npy b.npy --threshold 16/256 -o net.safetensors
      changes below 16/256 are kept back until they add up
  stillnet quantize nsnet2.onnx --data speech/ --max-error 0.02 -o net.safetensors
      the largest thresholds that keep the mean error of each output within 0.02
  stillnet quantize motion.onnx --data x.npy --planes gru,out -o net.safetensors
      sixteen bits for the weights of two layers; without --planes, small networks get them where
      eight bits lose much, see docs/numbers.md
  stillnet quantize nsnet2.onnx --data speech/ --threshold 16/256 --deadline 8ms -o net.safetensors
      and budgets with which no step takes longer than 8 ms, whatever the input is

Use recordings of what the device will hear; some thousand steps are enough. They fix the range of
each vector, and the error report that 'stillnet info net.safetensors' repeats.""",
)
