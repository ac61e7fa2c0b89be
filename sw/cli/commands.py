"""The commands of ``stillnet.sw`` and the Python functions behind them."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import MAGIC
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import fit as fit_engine
from stillnet.sw.packing.engine_fit import lacking
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.progress import Progress, console_progress, silent

from .cell_chart import cell_chart, describe_cell
from .main import Command

__all__ = ["INFO", "QUANTIZE", "RUN", "info", "load_array", "parse_thresholds", "run"]

_ENGINES = "stillnet.engines"


# -- arguments ------------------------------------------------------------------------------------


def load_array(path: str | Path, what: str = "input") -> np.ndarray:
    """A ``.npy`` file of real numbers, not empty.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file is, for errors.
    """
    path = Path(path)
    advice = "write it with numpy.save"
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise StillnetError(f"{what} '{path}' is not a .npy file; {advice}")
            file.seek(0)
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise StillnetError(f"cannot read {what} '{path}': {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise StillnetError(
            f"{what} '{path}' is cut off or damaged ({reason}); {advice}"
        ) from error
    if array.dtype.kind not in "fiub":
        raise StillnetError(
            f"{what} '{path}' holds elements of type {array.dtype}; real numbers are needed"
        )
    if array.size == 0:
        raise StillnetError(
            f"{what} '{path}' is empty, shape {array.shape}; give at least one step"
        )
    return array


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
    """``"16/256"`` or ``"input=4/256,gru1=16/256"`` in real units."""
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


def _layer_list(text: str) -> list[tuple[str, str]]:
    """``"gru:rnn,sigmoid:fc"`` as the importer takes it."""
    result = []
    for part in text.split(","):
        kind, colon, prefix = part.strip().partition(":")
        if not colon:
            raise StillnetError(f"--layers: '{part}' is not KIND:PREFIX, as in gru:rnn")
        result.append((kind, prefix))
    return result


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# -- quantize -------------------------------------------------------------------------------------


def _configure_quantize(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="trained model: .onnx, .keras, .h5, .safetensors, .npz, .pt")
    add(
        "--calibrate",
        nargs="+",
        required=True,
        metavar="X.npy",
        help="recordings of real input, (steps, inputs) each; tokens (steps,) for embeddings",
    )
    add(
        "--threshold",
        metavar="T",
        help="delta threshold in units of the values: one for every vector (16/256), or by name "
        "(input=4/256,gru1=16/256)",
    )
    add(
        "--threshold-recurrent",
        metavar="T",
        help="another threshold for recurrences; needs an engine with two encoders",
    )
    add(
        "--max-error",
        type=float,
        metavar="E",
        help="instead: the largest thresholds that keep the mean output error within E",
    )
    add("--nonzero", type=_names, default=[], metavar="NAMES", help="ReLU layers without deltas")
    add("--weight-bits", type=int, default=8, metavar="N", help="8")
    add(
        "--correct-bias",
        choices=("silent", "all", "none"),
        default="silent",
        help="add to biases what rounded weights take from the mean: not where it would make an "
        "event of silence (default), everywhere, nowhere",
    )
    add("--name", help="name of the network (the model's)")
    add("--layers", metavar="LIST", help="order of a state_dict's modules: gru:rnn,sigmoid:fc")
    add("-o", "--output", required=True, metavar="NET", help="the network, .safetensors")


def _run_quantize(args: argparse.Namespace) -> dict[str, Any]:
    from stillnet.sw.importers.load import load_model
    from stillnet.sw.quantization.quantizer import quantize

    thresholds = None if args.threshold is None else parse_thresholds(args.threshold)
    recurrent = args.threshold_recurrent
    if recurrent is not None:
        recurrent = parse_thresholds(recurrent, "--threshold-recurrent")
    if args.max_error is not None and (thresholds is not None or recurrent is not None):
        raise StillnetError("give --threshold or --max-error, not both")
    check_place(args.output)
    recordings = [load_array(path, "calibration") for path in args.calibrate]
    layers = None if args.layers is None else _layer_list(args.layers)
    model = load_model(args.model) if layers is None else load_model(args.model, layers=layers)
    with console_progress(args.json) as progress:
        network = quantize(
            model,
            recordings if len(recordings) > 1 else recordings[0],
            thresholds=thresholds,
            threshold_recurrent=recurrent,
            max_error=args.max_error,
            weight_bits=args.weight_bits,
            name=args.name,
            nonzero=args.nonzero,
            correct_bias=args.correct_bias != "none",
            keep_silence=args.correct_bias != "all",
            progress=progress,
        )
    network.save(args.output)
    return {"output": str(args.output), **_describe(network)}


def _show_quantize(result: dict[str, Any]) -> None:
    _show_network(result)
    print(f"Saved {result['output']}.")


QUANTIZE = Command(
    name="quantize",
    help="Turn a trained float model into a network of integers, calibrated on your recordings.",
    configure=_configure_quantize,
    run=_run_quantize,
    show=_show_quantize,
    epilog="""\
examples:
  stillnet quantize nsnet2.onnx --calibrate speech.npy -o net.safetensors
      formats only; every change of a value is an event
  stillnet quantize nsnet2.onnx --calibrate a.npy b.npy --threshold 16/256 -o net.safetensors
      changes below 16/256 are kept back until they add up
  stillnet quantize nsnet2.onnx --calibrate speech.npy --max-error 0.02 -o net.safetensors
      the largest thresholds that keep the mean error of the output within 0.02

Use recordings of what the device will hear; some thousand steps are enough. They fix the range of
each vector, and the error report that 'stillnet info net.safetensors' repeats.""",
)


# -- run ------------------------------------------------------------------------------------------


def _reference_engine(
    network: Network,
    x: np.ndarray,
    *,
    preset: str | EngineConfig,
    steps: int | None = None,
    progress: Progress | None = None,
    clear_every: int = 0,
    **options: Any,
) -> dict[str, Any]:
    if options:
        raise StillnetError(
            f"engine 'reference' has no option '{next(iter(options))}'; it has clear_every"
        )
    progress = progress or silent
    reference = Reference(network, config=EngineConfig.load(preset), clear_every=clear_every)
    rows = network.quantize_input(x)[:steps]
    names = reference.event_names()
    events = dict.fromkeys(names.values(), 0)
    words = saturations = 0
    outputs = []
    for t, row in enumerate(rows):
        if t % 50 == 0:
            progress("reference", t, len(rows))
        outputs.append(reference.step_integers(row))
        words += reference.last.words
        saturations += reference.last.saturations
        for key, count in reference.last.events.items():
            events[names[key]] += count
    progress("reference", len(rows), len(rows))
    return {
        "steps": len(rows),
        "mismatches": 0,
        "events": events,
        "words": words,
        "cycles": words,
        "utilisation": None,
        "saturations": saturations,
        "outputs": network.dequantize_output(np.stack(outputs)),
    }


def _engines() -> dict[str, Callable[[], Callable[..., dict[str, Any]]]]:
    found: dict[str, Callable[[], Any]] = {"reference": lambda: _reference_engine}
    for point in metadata.entry_points(group=_ENGINES):
        found.setdefault(point.name, point.load)
    return found


def run(
    network: Network | str | Path,
    x: np.ndarray,
    *,
    engine: str = "reference",
    preset: str | EngineConfig = "axi64",
    fit: bool = False,
    steps: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Runs a network over a recording.

    Parameters
    ----------
    network : Network, or path of one
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,)
    engine : str
        ``"reference"``, or an engine of the entry-point group ``stillnet.engines``: ``"rtl"``,
        ``"board:PORT"``, ``"sim:BOARD"``.
    preset : str or EngineConfig
        Name of an engine configuration, or path of its TOML form; decides the words.
    fit : bool
        Add to the preset, or to the engine of a simulated board, what the network asks for
        (:func:`~stillnet.sw.packing.engine_fit.fit`).
    steps : int, optional
        Only so many steps.
    progress : Progress, optional
    options
        For the engine. ``clear_every`` of the reference sets h of EGRUs to zero every so many
        steps.

    Returns
    -------
    dict
        ``outputs`` (float, shape (steps, outputs)), ``steps``, ``mismatches``, ``events`` by
        source, ``words``, ``cycles``, ``utilisation`` and what else the engine counts. The
        reference gives the lower bound for ``cycles``, one word each, and no utilisation; and
        ``lacking``, the options of an engine that the network asks for and the preset has not.
    """
    if not isinstance(network, Network):
        network = Network.load(network)
    engines = _engines()
    name, colon, address = engine.partition(":")
    if name not in engines:
        raise StillnetError(f"there is no engine '{name}'; engines are {', '.join(engines)}")
    if colon:
        options["address"] = address
    if steps is not None and steps < 1:
        raise StillnetError(f"steps must be at least 1, not {steps}")
    try:
        function = engines[name]()
    except ImportError as error:
        raise StillnetError(
            f"engine '{engine}' cannot be loaded ({error}); pip install \"stillnet[sim]\""
        ) from error
    config = EngineConfig.load(preset)
    if fit and colon:
        options["fit"] = True  # the address has an engine of its own
    elif fit:
        config = fit_engine(network, config)
    result = function(network, x, preset=config, steps=steps, progress=progress, **options)
    if name == "reference":  # it runs what an engine of this configuration would not take
        result["lacking"] = lacking(network, config)
    return {"engine": engine, "preset": config.name, **result}


def _configure_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("network", metavar="NET", help="network from 'stillnet quantize'")
    add("input", metavar="X.npy", help="input vectors, (steps, inputs)")
    add(
        "--engine",
        default="reference",
        help="reference (default); rtl: generated hardware; board:PORT or sim:BOARD: a board",
    )
    add(
        "--preset",
        default="axi64",
        help=f"engine configuration: {', '.join(PRESETS)}, or a TOML file (axi64)",
    )
    add("--fit", action="store_true", help="add what the network asks for to the preset or board")
    add("--steps", type=_positive, metavar="N", help="only so many steps")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine; may be repeated",
    )
    add("-o", "--output", metavar="Y.npy", help="output vectors, (steps, outputs)")


def _run_run(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise StillnetError(f"--option: '{text}' is not NAME=VALUE")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    check_place(args.output)
    network = Network.load(args.network)
    x = load_array(args.input)
    with console_progress(args.json) as progress:
        result = run(
            network,
            x,
            engine=args.engine,
            preset=args.preset,
            fit=args.fit,
            steps=args.steps,
            progress=progress,
            **options,
        )
    outputs = result.pop("outputs")
    if args.output is not None:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(outputs), allow_pickle=False)
        write_atomically(args.output, buffer.getvalue())
        result["output"] = str(args.output)
    return result


def _show_run(result: dict[str, Any]) -> None:
    steps = max(int(result.get("steps") or 0), 1)
    table = _columns(
        f"{result['steps']} steps on {result['engine']}",
        {"events of": "left", "in all": "right", "a step": "right"},
    )
    for name, count in (result.get("events") or {}).items():
        table.add_row(name, f"{count:,}", f"{count / steps:,.1f}")
    _print(table)
    reference = result["engine"] == "reference"
    for key, value in result.items():
        if key in ("events", "steps", "engine") or isinstance(value, (dict, list)):
            continue
        if reference and key in ("cycles", "utilisation", "mismatches"):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            print(f"{key}: {value}")
        elif key in ("words", "cycles"):
            print(f"{key}: {value:,} ({value / steps:,.1f} a step)")
        else:
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value:.6g}")
    if reference:
        print(f"lower bound for an engine with preset {result['preset']}: one word a cycle")
        if result["lacking"]:
            print(
                f"the network asks for {', '.join(result['lacking'])}, which {result['preset']} "
                "has not; with --fit, words are those of an engine that has it"
            )


RUN = Command(
    name="run",
    help="Run a network over a recording: bit-exact reference, or the generated hardware.",
    configure=_configure_run,
    run=_run_run,
    show=_show_run,
    epilog="""\
examples:
  stillnet run net.safetensors x.npy -o y.npy
      the bit-exact reference; events by source and the memory words that they fetch
  stillnet run net.safetensors x.npy --steps 5 --engine rtl --preset axi64 -o y.npy
      the same through the generated Verilog in a simulator, compared value by value
  stillnet run net.safetensors x.npy --engine board:/dev/ttyUSB0 -o y.npy
      on a board, packed for the engine that it has; outputs are compared with the reference
  stillnet run net.safetensors x.npy --steps 20 --engine sim:ulx3s-85f --fit
      a compressed network on the virtual board, with the engine that 'build --fit' makes""",
)


# -- info -----------------------------------------------------------------------------------------


def _describe(network: Network) -> dict[str, Any]:
    """Everything that ``stillnet info`` says of a network; plain values."""
    layers = []
    for i, layer in enumerate(network.layers):
        worst = max(int(rows.max()) for rows in network.accumulator_bound(i).values())
        second = layer.threshold_recurrent
        layers.append(
            {
                "name": layer.name,
                "cell": layer.cell,
                "units": layer.units,
                "fraction": layer.fraction,
                "mode": layer.mode.name.lower(),
                "threshold": layer.threshold,
                "threshold_value": layer.threshold / 2.0**layer.fraction,
                "threshold_recurrent": second,
                "threshold_recurrent_value": (
                    None if second is None else second / 2.0**layer.fraction
                ),
                "exponent": network.exponent(i),
                "shift": layer.shift,
                "write_shift": layer.write_shift,
                "headroom_bits": 31 - math.log2(max(worst, 1)),
                "bytes": sum(m.weight.size for m in layer.matrices)
                + 4 * layer.units * (len(layer.bias) + len(layer.parameters)),
                "initial": sorted(layer.initial),
                "parameters": sorted(layer.parameters),
                "peers": {s: network.source_name(j) for s, j in layer.peers.items()},
                "exponents": layer.exponents,
                "matrices": [
                    {
                        "source": network.source_name(m.source),
                        "gates": list(m.gates),
                        "rows": m.weight.shape[1],
                        "columns": m.weight.shape[2],
                        "fraction": m.fraction,
                        "bytes": m.weight.size,
                    }
                    for m in layer.matrices
                ],
            }
        )
    matrices = [m for layer in network.layers for m in layer.matrices]
    return {
        "kind": "network",
        "name": network.name,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "input": {
            "mode": network.input_mode.name.lower(),
            "fraction": network.input_fraction,
            "threshold": network.input_threshold,
            "threshold_value": network.input_threshold / 2.0**network.input_fraction,
        },
        "weights": sum(m.weight.size for m in matrices),
        "bytes": sum(layer["bytes"] for layer in layers),
        "layers": layers,
        "report": network.notes.get("report"),
        "options": network.notes.get("options"),
    }


def info(path: str | Path) -> dict[str, Any]:
    """Explains a network (``.safetensors``) or a memory image (``.img``).

    Returns
    -------
    dict
        Plain values; ``kind`` is ``"network"`` or ``"image"``.
    """
    path = Path(path)
    if path.is_dir():
        raise StillnetError(f"'{path}' is a folder; give a network or an image")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise StillnetError(f"cannot read '{path}': {error.strerror or error}") from error
    if path.suffix.lower() == ".img" or head == MAGIC.to_bytes(4, "little"):
        from stillnet.sw.packing.packer import describe

        return describe(path)
    return _describe(Network.load(path))


def _print(*tables: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for table in tables:
        console.print(table)


def _columns(title: str, names: Mapping[str, str]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name, justify in names.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _show_network(result: dict[str, Any]) -> None:
    left, right = "left", "right"
    network = _columns(
        f"Network '{result['name']}': {result['inputs']} in, {result['outputs']} out, "
        f"{result['weights']:,} weights, {result['bytes']:,} bytes",
        {
            "vector": left,
            "cell": left,
            "size": right,
            "fraction": right,
            "events": left,
            "threshold": right,
            "exponent": right,
            "headroom": right,
            "bytes": right,
            "fed by": left,
        },
    )
    source = result["input"]
    network.add_row(
        "input",
        "",
        str(result["inputs"]),
        str(source["fraction"]),
        source["mode"],
        _figure(source["threshold_value"]),
    )
    for layer in result["layers"]:
        threshold = _figure(layer["threshold_value"])
        if layer["threshold_recurrent"] is not None:
            threshold += f" / {_figure(layer['threshold_recurrent_value'])}"
        network.add_row(
            layer["name"],
            layer["cell"],
            str(layer["units"]),
            str(layer["fraction"]),
            layer["mode"],
            threshold,
            str(layer["exponent"]),
            f"{layer['headroom_bits']:.1f} bits",
            f"{layer['bytes']:,}",
            ", ".join(
                [f"{m['source']} (.{m['fraction']})" for m in layer["matrices"]]
                + [f"{s} of {name}" for s, name in layer["peers"].items()]
            ),
        )
    _print(network)
    report = result.get("report")
    if report:
        _show_report(report)


def _show_report(report: dict[str, Any]) -> None:
    left, right = "left", "right"
    vectors = _columns(
        f"Against the float model, {report['steps']} steps of calibration: mean output error "
        f"{report['output_error']:.4g}, {report['saturations']} clipped",
        {
            "vector": left,
            "rms": right,
            "peak": right,
            "error rms": right,
            "error max": right,
            "relative": right,
            "relative max": right,
            "active": right,
        },
    )
    for v in report["vectors"]:
        active = _percent(v["activity"])
        if v["activity"] is None:
            active = f"{v['events_per_step']:.2f} a step"
        if "activity_recurrent" in v:
            active += f" / {_percent(v['activity_recurrent'])}"
        vectors.add_row(
            v["name"],
            _figure(v["rms"]),
            _figure(v["peak"]),
            _figure(v["error_rms"]),
            _figure(v["error_max"]),
            _percent(v["relative_rms"]),
            _percent(v["relative_max"]),
            active,
        )
    matrices = _columns(
        "Weights",
        {"layer": left, "from": left, "gates": left, "fraction": right, "SNR": right},
    )
    matrices.add_column("clipped", justify="right")
    for m in report["matrices"]:
        matrices.add_row(
            m["layer"],
            m["source"],
            " ".join(m["gates"]),
            str(m["fraction"]),
            "exact" if m["snr_db"] is None else f"{m['snr_db']:.1f} dB",
            str(m["clipped"]),
        )
    _print(vectors, matrices)


def _show_image(result: dict[str, Any]) -> None:
    engine = result["engine"]
    table = _columns(
        f"Image of '{result['name']}': {result['bytes']:,} bytes for engine '{engine['name']}' "
        f"({engine['lanes']} lanes), fingerprint {result['fingerprint']}",
        {
            "vector": "left",
            "cell": "left",
            "size": "right",
            "fraction": "right",
            "events": "left",
            "threshold": "right",
            "fed by, columns": "left",
        },
    )
    table.add_row(
        "input",
        "",
        str(result["inputs"]),
        str(result["input_fraction"]),
        result["input_mode"],
        _figure(result["input_threshold"] / 2.0 ** result["input_fraction"]),
    )
    for layer in result["layers"]:
        threshold = _figure(layer["threshold"] / 2.0 ** layer["fraction"])
        if layer["threshold_recurrent"] is not None:
            threshold += f" / {_figure(layer['threshold_recurrent'] / 2.0 ** layer['fraction'])}"
        table.add_row(
            layer["name"],
            layer["cell"],
            str(layer["units"]),
            str(layer["fraction"]),
            layer["mode"],
            threshold,
            "\n".join(
                [
                    f"{m['source']}: {m['columns']} of {_words(m)} words, {m['format']}"
                    for m in layer["matrices"]
                ]
                + [f"{s} of {name}" for s, name in layer.get("peers", {}).items()]
            ),
        )
    _print(table)


def _words(matrix: dict[str, Any]) -> str:
    """Words of a column; their mean where columns differ in length."""
    if matrix["words"] == matrix["columns"] * matrix["column_words"]:
        return str(matrix["column_words"])
    return f"{matrix['words'] / matrix['columns']:.1f}"


def _configure_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="network (.safetensors) or image (.img)"
    )
    parser.add_argument("--cell", metavar="NAME", help="draw the pipeline of a cell instead")
    parser.add_argument(
        "--sharing",
        type=int,
        default=1,
        metavar="K",
        help="with --cell: a unit every K cycles, multipliers shared (1)",
    )


def _run_info(args: argparse.Namespace) -> dict[str, Any]:
    if (args.file is None) == (args.cell is None):
        raise StillnetError("name a network or an image to explain, or a cell with --cell")
    return info(args.file) if args.cell is None else describe_cell(args.cell, args.sharing)


def _show_info(result: dict[str, Any]) -> None:
    if result["kind"] == "cell":
        print(cell_chart(result))
    elif result["kind"] == "network":
        _show_network(result)
    else:
        _show_image(result)


INFO = Command(
    name="info",
    help="Explain a network, a memory image or a cell: sizes, formats, errors, pipeline.",
    configure=_configure_info,
    run=_run_info,
    show=_show_info,
    epilog="""\
examples:
  stillnet info net.safetensors
      every layer: format of its vector, threshold, bits of headroom in its accumulators, and the
      error of each layer against the float model on the calibration recordings
  stillnet info net.img
      which engine an image was packed for, and what is in it
  stillnet info --cell GRU
      what the hardware does in which cycle; '=' works, a digit is a multiplier, '.' waits. With
      --sharing 2, as an engine with cell_sharing = 2 does it

fraction: bits after the binary point. A vector element is integer / 2**fraction.
exponent: the same for accumulators. headroom: bits that no input can ever reach.""",
)
