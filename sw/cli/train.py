"""``stillnet train``: fewer words per step at the same error, by learning."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import check_place
from stillnet.sw.util.progress import Progress, console_progress
from stillnet.sw.util.recordings import load_recordings
from stillnet.sw.util.results.studies import TrainResult

from . import options
from .main import Command
from .rendering import columns, print_tables

__all__ = ["TRAIN", "hardware_mismatches", "load_loss"]


def load_loss(text: str) -> str | Callable[[Any, Any], Any]:
    """``"mae"`` and its like stay; ``"FILE.py:NAME"`` is the function."""
    from stillnet.sw.train.options import LOSSES  # only this command needs the package

    if text in LOSSES:
        return text
    place, _, name = text.rpartition(":")
    path = Path(place)
    spec = importlib.util.spec_from_file_location(f"stillnet_loss_{path.stem}", path)
    if not name or not path.is_file() or spec is None or spec.loader is None:
        raise StillnetError(
            f"--loss: '{text}' is none of {', '.join(LOSSES)} and no function such as loss.py:hinge"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise StillnetError(f"--loss: '{place}' fails: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise StillnetError(f"--loss: '{place}' has no function '{name}'")
    return found


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_model(parser)
    options.add_import(parser)
    options.add_data(parser)
    options.add_test(parser, "recordings that nothing is learnt from, to measure the result")
    add(
        "--start", type=Path, metavar="NET", help="begin with this network, for example of compress"
    )
    options.add_weights(parser, "4bit", "without --start: bits of a weight")
    options.add_sparsity(parser, "0", "part of the weights that are gone at the end")
    options.add_pattern(parser)
    add("--words", type=float, metavar="N", help="least error within N memory words per step")
    add(
        "--mean-error",
        type=float,
        metavar="E",
        help="fewest words within this mean error over all outputs",
    )
    add(
        "--loss",
        default="mae",
        metavar="NAME|FILE.py:NAME",
        help="mae, mse or kl to the float model, or a function of your own (mae)",
    )
    add("--labels", nargs="+", type=Path, metavar="PLACE", help="for that function, as for --data")
    add("--updates", type=options.positive, default=1000, metavar="N", help="of weights (1000)")
    add("--batch", type=options.positive, default=16, metavar="N", help="recordings at a time (16)")
    add(
        "--stretch",
        type=options.positive,
        default=64,
        metavar="N",
        help="steps that an update looks back (64)",
    )
    add("--rate", type=float, default=0.01, metavar="R", help="of learning (0.01)")
    add(
        "--thresholds",
        choices=("free", "common", "fixed"),
        default="free",
        help="learn each threshold, one factor for all of them, or none (free)",
    )
    add("--regrow", type=float, default=0.0, metavar="P", help="part of the weights exchanged (0)")
    options.add_strict(parser)
    options.add_seed(parser)
    options.add_preset(parser, "sdram16", "; its words are counted, with what the network needs")
    options.add_resume(parser, " (NET.stages)")
    add("--check", action="store_true", help="run the first steps on generated hardware")
    options.add_name(parser)
    options.add_output(parser, "NET", "the network, .safetensors", required=True)


def _run(args: argparse.Namespace) -> TrainResult:
    from stillnet.sw.compression.sweep import measure
    from stillnet.sw.network.network import Network
    from stillnet.sw.packing.engine_fit import fit
    from stillnet.sw.train import TrainOptions, require_torch, train

    loss = load_loss(args.loss)
    sparsity = float(options.one_of(args.sparsity, "--sparsity"))
    chosen = TrainOptions(
        updates=args.updates,
        batch=args.batch,
        steps=args.stretch,
        words=args.words,
        mean_error=args.mean_error,
        loss=loss if isinstance(loss, str) else "mae",
        rate=args.rate,
        thresholds=args.thresholds,
        regrow=args.regrow,
        sparsity=sparsity if args.start is not None and sparsity > 0 else None,
        seed=args.seed,
    )
    require_torch()
    base = EngineConfig.load(args.preset)
    check_place(args.output)
    recordings = load_recordings(args.data)
    test = None if args.test is None else load_recordings(args.test)
    labels = None if args.labels is None else load_recordings(args.labels)
    model = options.load_given(args, recordings)
    folder = args.resume or Path(f"{args.output}.stages")
    with console_progress() as progress:
        if args.start is not None:
            start = Network.load(args.start)
        else:
            start = _compressed(args, model, recordings, sparsity, base, folder, progress)
        config = fit(start, base)
        network = train(
            model,
            start,
            recordings,
            chosen,
            config=config,
            loss=None if isinstance(loss, str) else loss,
            labels=labels,
            folder=folder / "training",
            progress=progress,
        )
        network.name = args.name or network.name
        before = measure(model, start, recordings, config)
        after = measure(model, network, recordings, config)
        if test is not None:
            before |= {f"test_{k}": v for k, v in measure(model, start, test, config).items()}
            after |= {f"test_{k}": v for k, v in measure(model, network, test, config).items()}
        mismatches = hardware_mismatches(network, recordings[0], config) if args.check else None
    doubts = network.notes["report"]["doubts"]
    options.insist(args, doubts)
    network.save(args.output)
    if args.resume is None:
        shutil.rmtree(folder, ignore_errors=True)
    return TrainResult(
        output=str(args.output),
        name=network.name,
        updates=chosen.updates,
        before=before,
        after=after,
        kept=network.notes["training"]["kept"],
        history=network.notes["training"]["history"],
        mismatches=mismatches,
        doubts=doubts,
    )


def _compressed(
    args: argparse.Namespace,
    model: Any,
    recordings: Any,
    sparsity: float,
    base: EngineConfig,
    folder: Path,
    progress: Progress,
) -> Any:
    """Where training begins without ``--start``: what compress makes of the same options."""
    from stillnet.sw.compression import CompressOptions, compress, engine_for

    bits: Any = options.one_of(args.weights, "--weights")
    chosen = CompressOptions(
        bits=bits,
        sparsity=sparsity,
        pattern=args.pattern,
        mean_error=args.mean_error,
        seed=args.seed,
    )
    return compress(
        model,
        recordings,
        chosen,
        config=engine_for(chosen, base),
        folder=folder / "compress",
        progress=progress,
    )


def hardware_mismatches(network: Any, x: Any, config: EngineConfig) -> int:
    """Values of the first steps of a recording that differ on generated hardware."""
    from stillnet.sw.host.engines import run

    result: Any = run(network, x, engine="rtl", preset=config, steps=5)
    return int(result.mismatches)


def _show(result: TrainResult) -> None:
    right = "right"
    heads = {"": "left", "error": right, "words": right, "kB": right, "ms": right}
    if "test_error" in result.after:
        heads |= {"--test error": right, "words there": right}
    table = columns(
        f"Network '{result.name}' after {result.updates} updates, {100 * result.kept:.0f} % of its "
        "weights kept; per step",
        heads,
    )
    for label, row in (("before", result.before), ("after", result.after)):
        cells = [f"{row['error']:.4g}", f"{row['words']:,.0f}", f"{row['kilobytes']:,.1f}"]
        cells += [f"{row['frame_ms']:.3g}"]
        if "test_error" in row:
            cells += [f"{row['test_error']:.4g}", f"{row['test_words']:,.0f}"]
        table.add_row(label, *cells)
    print_tables(table)
    if result.mismatches is not None:
        print("Hardware equal." if result.mismatches == 0 else "HARDWARE DIFFERS.")
    print(f"Saved {result.output}.")


TRAIN = Command(
    name="train",
    help="Train a compressed network: fewer words per step at the same error.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog="""\
examples:
  stillnet train nsnet2.onnx --data clips/ --start small.safetensors --words 80000 -o net.st
      goes on from a network of compress: thresholds and weights learn what the float model says
  stillnet train nsnet2.onnx --data clips/ --start small.safetensors --words 80000 \\
      --sparsity 0.65 --regrow 0.1 -o net.st
      and weights become fewer on the way
  stillnet train model.onnx --data clips/ --mean-error 0.02 --test unheard/ --check -o net.st
      compresses first; fewest words within this error, measured on recordings unheard, and the
      first steps on generated hardware
  stillnet train model.onnx --data x/ --labels y/ --loss loss.py:hinge -o net.safetensors
      a loss of your own
Needs PyTorch: pip install 'stillnet[train]'. The same line again goes on where it was stopped. How
it works: docs/how-to/train.md
""",
)
