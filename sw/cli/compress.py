"""``stillnet compress``: the command line of ``stillnet.sw.compression``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import check_place
from stillnet.sw.util.progress import console_progress

from .commands import _columns, _figure, _percent, _print, load_array
from .main import Command

__all__ = ["COMPRESS", "load_recordings", "parse_bits", "parse_time"]


def parse_bits(text: str) -> int:
    """``"4bit"``, ``"8bit"``, ``"4"`` or ``"8"``."""
    number = text.removesuffix("bit").removesuffix("-")
    if number not in ("4", "8"):
        raise StillnetError(f"--weights: '{text}' is not 4bit or 8bit")
    return int(number)


def parse_time(text: str) -> float:
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
    raise StillnetError(f"--frame-time: '{text}' is not a time such as 2ms or 800us")


def load_recordings(places: list[str]) -> list[np.ndarray]:
    """Recordings from ``.npy`` files, and from every such file of a folder, by name."""
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found = sorted(place.glob("*.npy"))
            if not found:
                raise StillnetError(
                    f"folder '{place}' holds no .npy file; write the model's input vectors there "
                    "with numpy.save, (steps, inputs) a recording"
                )
            files += found
        else:
            files.append(place)
    return [load_array(file, "recording") for file in files]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="trained model: .onnx, .safetensors, .npz, .pt")
    add(
        "--data",
        nargs="+",
        required=True,
        metavar="PLACE",
        help="recordings of real input, .npy files or folders of them; (steps, inputs) each",
    )
    add("--weights", default="4bit", metavar="BITS", help="4bit (default) or 8bit")
    add("--sparsity", type=float, default=0.0, metavar="S", help="part of the weights that goes")
    add(
        "--pattern",
        choices=("unstructured", "lane", "block8"),
        default="unstructured",
        help="which may go (unstructured)",
    )
    add("--max-error", type=float, metavar="E", help="thresholds: fewest words within this error")
    add("--frame-time", metavar="T", help="thresholds: least error within this time a step, 2ms")
    add("--clock", type=float, default=100.0, metavar="MHZ", help="of engine and memory (100)")
    add("--one-threshold", action="store_true", help="one threshold a vector, not one an element")
    add("--refits", type=int, default=1, metavar="N", help="solve again under the thresholds (1)")
    add(
        "--method",
        choices=("second-order", "nearest"),
        default="second-order",
        help="nearest: magnitude pruning and clipped rounding, the baselines",
    )
    add("--keep-zeros", action="store_true", help="weights that are zero in MODEL stay zero")
    add("--seed", type=int, default=0, metavar="N")
    add("--preset", default="sdram16", help="engine to count words for (sdram16)")
    add("--resume", metavar="FOLDER", help="where finished stages are kept (NET.stages)")
    add("--name", help="name of the network (the model's)")
    add("-o", "--output", required=True, metavar="NET", help="the network, .safetensors")


def _run(args: argparse.Namespace) -> dict[str, Any]:
    import shutil

    from stillnet.sw.compression import CompressOptions, Given, compress, engine_for
    from stillnet.sw.importers.load import load_model

    options = CompressOptions(
        bits=parse_bits(args.weights),
        sparsity=args.sparsity,
        pattern=args.pattern,
        max_error=args.max_error,
        frame_ms=None if args.frame_time is None else parse_time(args.frame_time),
        clock_mhz=args.clock,
        by_element=not args.one_threshold,
        refits=args.refits,
        method=args.method,
        seed=args.seed,
    )
    config = engine_for(options, EngineConfig.load(args.preset))
    check_place(args.output)
    recordings = load_recordings(args.data)
    model = load_model(args.model)
    folder = Path(args.resume or f"{args.output}.stages")
    with console_progress(args.json) as progress:
        network = compress(
            model,
            recordings,
            options,
            config=config,
            given=Given() if args.keep_zeros else None,
            name=args.name,
            folder=folder,
            progress=progress,
        )
    network.save(args.output)
    if args.resume is None:
        shutil.rmtree(folder, ignore_errors=True)
    return {"output": str(args.output), "name": network.name, **network.notes["compression"]}


def _show(result: dict[str, Any]) -> None:
    right = "right"
    table = _columns(
        f"Network '{result['name']}', {result['steps']} steps of calibration: mean output error "
        f"{result['output_error']:.4g}",
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
    for layer in result["layers"]:
        table.add_row(
            layer["name"],
            layer["cell"],
            _percent(layer["density"]),
            _figure(layer["error"]),
            _figure(layer["nearest_error"]),
            _percent(layer["active"]),
            ", ".join(layer["formats"]),
        )
    _print(table)
    print(
        f"{result['bytes_a_step'] / 1000:,.1f} kB a step, {result['frame_ms']:.3g} ms at "
        f"{result['options']['clock_mhz']:g} MHz by the cost model, on engine "
        f"'{result['engine']['name']}'"
    )
    path = result["output"]
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
      int4 with a multiplier a row, solved layer by layer; every change of a value is an event
  stillnet compress nsnet2.onnx --data clips/ --weights 4bit --sparsity 0.5 --pattern lane -o net.st
      8 of every 16 rows of a lane stay: 3 bits a weight
  stillnet compress nsnet2.onnx --data clips/ --sparsity 0.5 --frame-time 2ms -o net.safetensors
      and the thresholds of least error with which a step takes 2 ms
  stillnet compress nsnet2.onnx --data clips/ --sparsity 0.5 --max-error 0.02 -o net.safetensors
      the thresholds of fewest words that keep the mean error of the output within 0.02

Use recordings as diverse as what the device will meet: nothing else decides more. A run that was
stopped goes on where it was when it is given again. Thresholds are chosen on these recordings only.
""",
)
