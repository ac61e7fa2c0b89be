"""Options that more than one command has, each defined once.

An option has one name and one form in every command. What may differ is its help text, its default,
and whether it must be given.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.util.progress import Progress
from stillnet.sw.util.recordings import elements_of

if TYPE_CHECKING:
    from stillnet.sw.cost.deadline import Place
    from stillnet.sw.model.model import Model
    from stillnet.sw.network.network import Network
    from stillnet.sw.quantization.limits import Budget

__all__ = [
    "add_board",
    "add_clock",
    "add_data",
    "add_deadline",
    "add_fit",
    "add_float",
    "add_image",
    "add_import",
    "add_max_error",
    "add_method",
    "add_model",
    "add_name",
    "add_network",
    "add_one_threshold",
    "add_output",
    "add_pattern",
    "add_preset",
    "add_resume",
    "add_sdram",
    "add_seed",
    "add_sparsity",
    "add_steps",
    "add_strict",
    "add_test",
    "add_weights",
    "float_model",
    "insist",
    "keep_deadline",
    "load_given",
    "one_of",
    "parse_bits",
    "parse_budget",
    "parse_layers",
    "parse_numbers",
    "parse_thresholds",
    "parse_time",
    "positive",
    "positive_number",
]

T = TypeVar("T")

Parser = argparse._ActionsContainer  # a parser or a group of options


# -- values ---------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return value


def positive_number(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def parse_time(text: str, option: str = "--frame-time") -> float:
    """``"2ms"`` or ``"500us"`` in milliseconds."""
    for unit, factor in (("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("s", 1e3)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * factor
            except ValueError:
                break
            if 0 < value < 1e6:
                return value
            break
    raise StillnetError(f"{option}: '{text}' is not a time such as 2ms or 800us")


def _number(text: str, where: str) -> float:
    """A number, or a quotient such as 16/256."""
    top, slash, bottom = text.strip().partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise StillnetError(
            f"{where}: '{text}' is not a number from 0; write 0.0625, 16/256 or NAME=16/256,..."
        )
    return value


def parse_thresholds(text: str, where: str = "--threshold") -> float | dict[str, float]:
    """``"16/256"`` or ``"input=4/256,gru1=16/256"`` in units of the values."""
    if "=" not in text:
        return _number(text, where)
    result: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals or not name.strip():
            raise StillnetError(f"{where}: '{part}' is not NAME=NUMBER, as in input=4/256")
        if name.strip() in result:
            raise StillnetError(f"{where}: '{name.strip()}' is named twice")
        result[name.strip()] = _number(value, where)
    return result


def _parse_steps(text: str) -> bool | str:
    """``"row"`` or ``"layer"``."""
    return {"row": True, "layer": False}.get(text, text)


def parse_budget(text: str) -> float | Budget:
    """``"0.02"`` in units of the outputs, or ``"5%"`` of the spread of each."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not an error such as 0.02 or 5%") from None
    if not text.strip().endswith("%"):
        return value
    from stillnet.sw.quantization.limits import Budget

    return Budget(value / 100, relative=True)


def parse_layers(text: str) -> list[tuple[str, str]]:
    """``"gru:rnn,sigmoid:fc"`` as the importer takes it."""
    result = []
    for part in text.split(","):
        kind, colon, prefix = part.strip().partition(":")
        if not colon:
            raise StillnetError(f"--layers: '{part}' is not KIND:PREFIX, as in gru:rnn")
        result.append((kind, prefix))
    return result


def parse_bits(text: str) -> list[int]:
    """``"4bit"``, ``"8bit"`` or a list of them, ``"8bit,4bit"``; ``"4"`` and ``"8"`` too."""
    result = []
    for part in text.split(","):
        number = part.strip().removesuffix("bit").removesuffix("-")
        if number not in ("4", "8"):
            raise StillnetError(f"--weights: '{part}' is not 4bit or 8bit")
        result.append(int(number))
    return result


def parse_numbers(text: str) -> list[float]:
    """``"0.5"`` or a list, ``"0,0.5"``."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number or a list of numbers such as 0,0.5"
        ) from None


def one_of(values: list, option: str) -> int | float:
    """The only value of a list option, for a command that makes one network."""
    if len(values) != 1:
        raise StillnetError(
            f"{option} takes one value here; 'stillnet sweep' compares several of them"
        )
    return values[0]


# -- what a command works on ----------------------------------------------------------------------


def add_model(parser: Parser) -> None:
    """The trained model."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=Path,
        help="trained model: .onnx, .keras, .h5, .safetensors, .npz, .pt, .ckpt",
    )


def add_import(parser: Parser) -> None:
    """What a model's file leaves open: see :func:`load_given`."""
    parser.add_argument(
        "--layers",
        metavar="LIST",
        type=parse_layers,
        help="order of the modules of a state_dict, for example gru:rnn,sigmoid:fc",
    )
    _add_cut(parser)
    parser.add_argument(
        "--gru-reset",
        choices=("before", "after"),
        help="whether the reset gate of GRUs comes before or after the product with the recurrent "
        "matrix; default: as the file says",
    )
    parser.add_argument(
        "--ignore-mask",
        action="store_true",
        help="take a Keras model with Masking or mask_zero as if no step were ever left out",
    )
    parser.add_argument(
        "--expect",
        nargs="+",
        metavar="Y.npy",
        type=Path,
        help="outputs of the training framework for the recordings of --data, in their order: an "
        "import that differs is refused",
    )


def load_given(args: argparse.Namespace, recordings: Sequence[np.ndarray]) -> Model:
    """The model of the options of :func:`add_model` and :func:`add_import`, compared if asked."""
    from stillnet.sw.importers.load import load_model

    given: dict[str, Any] = {}
    if args.gru_reset is not None:
        given["gru_reset"] = args.gru_reset
    if args.ignore_mask:
        given["ignore_mask"] = True
    cut = _cut_options(args, elements_of(recordings))
    model = load_model(args.model, layers=args.layers, cut=cut, **given)
    if args.expect:
        from stillnet.sw.importers.expect import check_expected_files

        for place, found in zip(args.expect, check_expected_files(model, recordings, args.expect)):
            print(
                f"stillnet: the float model agrees with {place} over {found.steps} steps, within "
                f"{found.relative:.2g} of the outputs' spread",
                file=sys.stderr,
            )
    return model


def _add_cut(parser: Parser) -> None:
    """What a whole ONNX model does not say of itself, and where it is cut."""
    add = parser.add_argument
    add(
        "--state",
        action="append",
        default=[],
        metavar="IN=OUT",
        help="input of a whole model that carries a state, and the output that gives its next "
        "value; may be repeated",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="IN=VALUE",
        help="value of an input that is the same in every call, for example sr=16000",
    )
    add(
        "--shape",
        action="append",
        default=[],
        metavar="IN=SIZES",
        help="shape of an input in one call, for example input=1,512",
    )
    add("--from", dest="enter", metavar="NAME", help="tensor or node at which the chip begins")
    add("--to", dest="leave", metavar="NAME", help="tensor or node at which the chip ends")


def _cut_options(args: argparse.Namespace, elements: int | None) -> CutOptions:
    """The options of :func:`add_import`; ``elements`` of a step, where recordings are given."""
    return CutOptions(
        states=_pairs(args.state, "--state", str),
        constants=_pairs(args.set, "--set", float),
        shapes=_pairs(args.shape, "--shape", _sizes),
        enter=args.enter,
        leave=args.leave,
        elements=elements,
    )


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in text.replace("x", ",").split(","))
    if min(sizes) < 1:
        raise ValueError
    return sizes


def _pairs(texts: Sequence[str], option: str, kind: Callable[[str], T]) -> dict[str, T]:
    """``NAME=VALUE`` texts as a dictionary."""
    found: dict[str, T] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            if not equals or not name:
                raise ValueError
            found[name] = kind(value)
        except ValueError:
            example = {"--state": "h=hn", "--set": "sr=16000"}.get(option, "input=1,512")
            raise StillnetError(
                f"{option}: '{text}' is not of the form NAME=VALUE, as in {example}"
            ) from None
    return found


def add_data(parser: Parser) -> None:
    """Calibration recordings."""
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="PLACE",
        type=Path,
        help="recordings of real input, .npy files or folders of them; (steps, inputs) each",
    )


def add_network(parser: Parser, *, optional: bool = False, help: str = "from quantize") -> None:
    """A quantized network."""
    parser.add_argument(
        "network", metavar="NET", type=Path, nargs="?" if optional else None, help=help
    )


def add_output(parser: Parser, metavar: str, help: str, **more: object) -> None:
    """Where the result goes."""
    parser.add_argument("-o", "--output", type=Path, metavar=metavar, help=help, **more)  # type: ignore[arg-type]


def add_name(parser: Parser) -> None:
    """Name of the network."""
    parser.add_argument("--name", help="name of the network (default: the model's)")


# -- the engine -----------------------------------------------------------------------------------


def add_preset(parser: Parser, default: str = "axi64", note: str = "") -> None:
    """The engine configuration."""
    parser.add_argument(
        "--preset",
        metavar="NAME|FILE.toml",
        default=default,
        help=f"engine configuration: {', '.join(PRESETS)}, a board, or a TOML file "
        f"(default: {default}){note}",
    )


def add_fit(parser: Parser, default: bool | None, help: str) -> None:
    """Whether the engine is changed until the network fits."""
    parser.add_argument("--fit", action=argparse.BooleanOptionalAction, default=default, help=help)


def add_board(parser: Parser, names: list[str], **more: object) -> None:
    """A board by name."""
    parser.add_argument("--board", metavar="NAME", help=", ".join(names), **more)  # type: ignore[arg-type]


def add_image(parser: Parser, help: str) -> None:
    """A memory image for the flash of a board."""
    parser.add_argument("--image", type=Path, metavar="NET.img", help=help)


def add_sdram(parser: Parser) -> None:
    """``--sdram PART``."""
    parser.add_argument(
        "--sdram",
        metavar="PART",
        help="the SDRAM that the board carries, where it is not the one of 'build --list'",
    )


def add_baud(parser: Parser, help: str) -> None:
    """``--baud N``, bits per second of a serial port."""
    parser.add_argument("--baud", type=positive, metavar="N", help=help)


def add_clock(parser: Parser, default: float | None, help: str) -> None:
    """A clock."""
    parser.add_argument("--clock", type=float, default=default, metavar="MHZ", help=help)


def _deadline(text: str) -> float:
    return parse_time(text, "--deadline")


def add_deadline(parser: Parser) -> None:
    """A bound for every step."""
    parser.add_argument(
        "--deadline",
        type=_deadline,
        metavar="T",
        help="budgets of events with which no step takes longer, whatever the input is, for "
        "example 2ms; the engine needs budgets = true, which --fit gives it",
    )
    add_sdram(parser)


# -- how weights and thresholds are chosen --------------------------------------------------------


def add_weights(parser: Parser, default: str, help: str) -> None:
    """Bits of a weight."""
    parser.add_argument(
        "--weights", type=parse_bits, default=default, metavar="BITS", help=f"{help} ({default})"
    )


def add_sparsity(parser: Parser, default: str, help: str) -> None:
    """Part of the weights that goes."""
    parser.add_argument(
        "--sparsity", type=parse_numbers, default=default, metavar="S", help=f"{help} ({default})"
    )


def add_pattern(parser: Parser) -> None:
    """Which weights may go together."""
    from stillnet.sw.quantization.solvers.masks import (
        PATTERNS,
    )  # only two commands need the package

    parser.add_argument(
        "--pattern",
        choices=PATTERNS,
        default="unstructured",
        help="which weights may go (default: unstructured)",
    )


def add_max_error(parser: Parser, help: str) -> None:
    """Budget of the mean error of each output."""
    parser.add_argument("--max-error", type=parse_budget, metavar="E", help=help)


def add_method(parser: Parser, help: str) -> None:
    """How weights are rounded."""
    parser.add_argument(
        "--method", choices=("second-order", "nearest"), default="second-order", help=help
    )


def add_steps(parser: Parser) -> None:
    """Steps of weights."""
    parser.add_argument(
        "--weight-steps",
        choices=(True, False),
        type=_parse_steps,
        metavar="row|layer",
        help="a step for each row of weights, for engines with multipliers of rows, or one for "
        "each layer; default: rows where it is worth it",
    )


def add_strict(parser: Parser) -> None:
    """Doubts are errors."""
    parser.add_argument(
        "--strict", action="store_true", help="what would be a warning is an error, exit code 2"
    )


def insist(args: argparse.Namespace, doubts: Sequence[str]) -> None:
    """Refuses what there are doubts about, where ``--strict`` is given."""
    if args.strict and doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        raise StillnetError(f"--strict: {doubts[0]}{more}")


def add_one_threshold(parser: Parser) -> None:
    """One threshold for each vector."""
    parser.add_argument(
        "--one-threshold",
        action="store_true",
        help="one threshold for each vector, not for each element",
    )


def add_float(parser: Parser, help: str) -> None:
    """The float model behind a network."""
    parser.add_argument("--float", type=Path, metavar="MODEL", help=help)


def float_model(path: Path | None) -> Model | None:
    """The model that ``--float`` names."""
    if path is None:
        return None
    from stillnet.sw.importers.load import load_model  # only few commands need the package

    return load_model(path)


def add_seed(parser: Parser) -> None:
    """Seed of what is random."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")


def add_test(parser: Parser, help: str) -> None:
    """Recordings apart from those of ``--data``."""
    parser.add_argument("--test", nargs="+", type=Path, metavar="PLACE", help=help)


def add_resume(parser: Parser, note: str = "") -> None:
    """Folder of finished stages."""
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FOLDER",
        help=f"where finished stages are kept, so that a stopped run goes on{note}",
    )


def place_of(args: argparse.Namespace) -> Place:
    """The clock that ``--clock`` or the board of ``--preset`` has, and what is on the board."""
    from stillnet.sw.cost import deadline

    if args.sdram is not None and args.deadline is None:
        raise StillnetError("--sdram says how slow the memory may be; give it with --deadline")
    return deadline.place_of(str(args.preset), args.clock, args.sdram)


def keep_deadline(
    network: Network,
    config: EngineConfig,
    recordings: Sequence[np.ndarray],
    milliseconds: float,
    place: Place,
    progress: Progress,
) -> None:
    """Gives a network budgets for a deadline, on the engine that ``--fit`` makes of ``config``."""
    from stillnet.sw.cost import deadline
    from stillnet.sw.packing import engine_fit

    engine = replace(engine_fit.fit(network, config), budgets=True)
    deadline.keep_deadline(
        network,
        engine,
        recordings,
        milliseconds,
        clock_mhz=place.clock_mhz,
        memory=place.memory(engine),
        progress=progress,
    )
