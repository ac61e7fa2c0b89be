"""From a trained float model and recordings to a network of integers.

Formats are chosen in ``formats``, thresholds in ``thresholds``; ``docs/numbers.md`` explains both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import INPUT, Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import SECOND
from stillnet.sw.network.sequence import Layout, Trace, run_float, run_integers
from stillnet.sw.util.progress import Progress, silent

from .formats import FormatChoice
from .thresholds import (
    Thresholds,
    ThresholdSearch,
    output_error,
    plain_sources,
    set_modes,
    set_thresholds,
)

__all__ = ["quantize"]

_WEIGHT_BITS = 8


def quantize(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    *,
    thresholds: Thresholds | None = None,
    threshold_recurrent: float | Mapping[str, float] | None = None,
    max_error: float | None = None,
    weight_bits: int = _WEIGHT_BITS,
    name: str | None = None,
    nonzero: Iterable[str] = (),
    margin: float = 1.25,
    correct_bias: bool = True,
    keep_silence: bool = True,
    progress: Progress | None = None,
) -> Network:
    """Quantizes a float model: integers only from here on.

    Parameters
    ----------
    model : Model
    calibration : array of float, shape (steps, inputs), or a list of them
        Recordings of what the network will see; state starts anew with each. Tokens, shape
        (steps,), for one-hot models.
    thresholds : float, dict or list, optional
        Delta thresholds, see ``thresholds.Thresholds``; zero where absent. A number applies to
        every source of delta events. Each is rounded to the format of its vector.
    threshold_recurrent : float or dict of layer name to float, optional
        A threshold of their own for recurrences; costs a second encoder where it differs.
    max_error : float, optional
        Instead of ``thresholds``: takes the largest that keep the mean absolute error of the
        output, against the float model on the calibration recordings, within this.
    weight_bits : int
        8.
    name : str, optional
        Name of the network; the model's where absent.
    nonzero : iterable of str
        ReLU layers (or ``"input"``) that send their nonzero elements each step, not differences;
        what they feed starts each step from its bias.
    margin : float
        Headroom of vectors without a proven bound, as a factor on the largest value seen.
    correct_bias : bool
        Adds to each bias what rounding the weights takes from the mean of the accumulator.
    keep_silence : bool
        But not in units of layers of plain events (S5, EGRU, ``nonzero``) that are exactly zero
        without input: a corrected bias would make an event of them in every step.
    progress : Progress, optional

    Returns
    -------
    Network
        ``notes["report"]`` holds the errors against the float model layer by layer, and the
        activity, over the calibration recordings.

    Raises
    ------
    StillnetError
        Where calibration is empty, of the wrong shape or not finite (naming step and element), the
        model does not fit the number formats (naming the layer), or ``max_error`` is exceeded
        without any threshold.
    """
    progress = progress or silent
    if isinstance(weight_bits, bool) or weight_bits != _WEIGHT_BITS:
        raise StillnetError(f"weight_bits = {weight_bits!r} is not supported yet, only 8")
    if not (isinstance(margin, (int, float)) and 1.0 <= margin <= 1024.0):
        raise StillnetError(f"margin must be between 1 and 1024, not {margin!r}")
    if max_error is not None and (thresholds is not None or threshold_recurrent is not None):
        raise StillnetError("give thresholds or max_error, not both: max_error chooses thresholds")
    if max_error is not None and not (math.isfinite(max_error) and max_error > 0):
        raise StillnetError(f"max_error must be a positive number, not {max_error!r}")
    names = [nonzero] if isinstance(nonzero, str) else list(nonzero)
    _check_model(model)
    recordings = _recordings(model, calibration)

    progress("float model", 0, 1)
    layout = Layout([len(r) for r in recordings])
    trace = run_float(model, layout, layout.pack(recordings))
    for i, layer in enumerate(model.layers):
        if not np.all(np.isfinite(trace.vectors[i])):
            raise StillnetError(
                f"layer '{layer.name}' becomes infinite on the calibration recordings; check the "
                "model and the scale of its input"
            )
    progress("float model", 1, 1)

    choice = FormatChoice(model, trace, margin, correct_bias)
    choice.search(progress)
    by_nature = [i for i, layer in enumerate(model.layers) if layer.plain]
    plain = plain_sources(model.layers, by_nature)
    plain |= {i for i, layer in enumerate(model.layers) if layer.name in names}
    network = choice.build(name or model.name, plain if keep_silence else ())
    set_modes(network, names, by_nature)
    network.validate()
    set_thresholds(network, thresholds, threshold_recurrent)

    if max_error is None:
        result = _run_quantized(network, layout, recordings, progress)
    else:
        result = ThresholdSearch(network, layout, recordings, trace, progress).run(max_error)
    network.notes["report"] = _report(model, network, trace, result)
    network.notes["options"] = {
        "weight_bits": weight_bits,
        "margin": margin,
        "correct_bias": correct_bias,
        "keep_silence": keep_silence,
        "max_error": max_error,
        "nonzero": names,
    }
    return network


# -- checks ---------------------------------------------------------------------------------------


def _check_model(model: Model) -> None:
    seen: set[str] = {"input"}
    if not model.layers:
        raise StillnetError(f"model '{model.name}' has no layers; there is nothing to quantize")
    for layer in model.layers:
        where = f"layer '{layer.name}'"
        if layer.name in seen:
            raise StillnetError(
                f"two parts of model '{model.name}' are named '{layer.name}'; rename one, because "
                "thresholds and reports go by name"
            )
        seen.add(layer.name)
        if layer.cell not in CELLS:
            raise StillnetError(
                f"{where}: cell '{layer.cell}' is unknown; known are {', '.join(CELLS)}"
            )
        cell = CELLS[layer.cell]
        arrays = {f"bias '{g}'": b for g, b in layer.bias.items()}
        arrays |= {f"initial '{s}'": v for s, v in layer.initial.items()}
        arrays |= {f"parameter '{p}'": v for p, v in layer.parameters.items()}
        for label, array in arrays.items():
            if np.shape(array) != (layer.units,):
                raise StillnetError(
                    f"{where}: {label} has shape {np.shape(array)}, expected {(layer.units,)}"
                )
        for m in layer.matrices:
            expected = (len(m.gates), layer.units, model.source_size(m.source))
            if np.shape(m.weight) != expected:
                raise StillnetError(
                    f"{where}: weights have shape {np.shape(m.weight)}, expected {expected}"
                )
            arrays[f"weights of {'/'.join(m.gates)}"] = m.weight
        for label, array in arrays.items():
            if not np.all(np.isfinite(array)):
                raise StillnetError(
                    f"{where}: {label} holds NaN or infinity; export the model again"
                )
        if set(layer.bias) != set(cell.accumulators):
            raise StillnetError(
                f"{where}: biases are given for {sorted(layer.bias)}, cell '{layer.cell}' needs "
                f"{sorted(cell.accumulators)}"
            )
        for kind, given, needed in (
            ("parameters", set(layer.parameters), set(cell.parameters)),
            ("peers", set(layer.peers), set(cell.peers)),
        ):
            if given != needed:
                raise StillnetError(
                    f"{where}: {kind} are given for {sorted(given)}, cell '{layer.cell}' needs "
                    f"{sorted(needed)}"
                )
        for s, number in layer.peers.items():
            if (
                not 0 <= number < len(model.layers)
                or s not in CELLS[model.layers[number].cell].state
            ):
                raise StillnetError(
                    f"{where}: peer '{s}' is read from layer {number}, which has no such state"
                )
        for s, value in layer.initial.items():
            if s not in cell.state:
                raise StillnetError(f"{where}: cell '{layer.cell}' has no state '{s}'")
            if s in cell.scale:  # calibration makes room for it
                continue
            limit = cell.state[s].maximum / 2.0 ** cell.state[s].fraction
            if s == cell.output_state and cell.bound is not None:
                limit = cell.bound
            if len(value) and np.abs(value).max() > limit:
                unit = int(np.argmax(np.abs(value)))
                raise StillnetError(
                    f"{where}: initial state '{s}' is {float(value[unit]):g} at unit {unit}, a "
                    f"{layer.cell} holds {-limit:g} to {limit:g}"
                )


def _recordings(model: Model, calibration: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Checked recordings: float64, shape (steps, inputs), or int64 tokens, shape (steps,)."""
    many = isinstance(calibration, (list, tuple))
    if many and len(calibration):
        # A list of numbers, or of vectors where these are no tokens, is one recording.
        dimensions = {np.ndim(c) for c in calibration}
        many = 0 not in dimensions and (model.one_hot or dimensions != {1})
    parts = list(calibration) if many else [calibration]
    if not parts:
        raise StillnetError("calibration holds no recording; give at least one with one step")
    result = []
    for number, part in enumerate(parts):
        where = f"calibration recording {number}" if many else "calibration"
        try:
            x = np.asarray(part)
            if x.dtype.kind not in "fiub":
                raise ValueError
        except ValueError:
            raise StillnetError(f"{where} is not an array of real numbers") from None
        if model.one_hot:
            if x.ndim == 2 and x.shape[1] == 1:
                x = x[:, 0]
            if x.ndim != 1 or len(x) == 0:
                raise StillnetError(
                    f"{where} has shape {x.shape}; model '{model.name}' takes one token a step, "
                    "shape (steps,), at least one"
                )
            bad = ~((x == np.floor(x)) & (x >= -1) & (x < model.inputs))
            if np.any(bad):
                step = int(np.argmax(bad))
                raise StillnetError(
                    f"{where} holds token {x[step]} at step {step}; model '{model.name}' has "
                    f"tokens 0 to {model.inputs - 1}"
                )
            result.append(x.astype(np.int64))
            continue
        if x.ndim != 2 or x.shape[1] != model.inputs or len(x) == 0:
            raise StillnetError(
                f"{where} has shape {x.shape}; model '{model.name}' takes (steps, "
                f"{model.inputs}) with at least one step"
            )
        x = x.astype(np.float64)
        if not np.all(np.isfinite(x)):
            step, element = (int(k) for k in np.argwhere(~np.isfinite(x))[0])
            raise StillnetError(
                f"{where} holds {x[step, element]} at step {step}, element {element}; remove NaN "
                "and infinity from the recording"
            )
        result.append(x)
    return result


def _run_quantized(
    network: Network, layout: Layout, recordings: list[np.ndarray], progress: Progress
) -> Trace:
    progress("quantized network", 0, 1)
    x = layout.pack([network.quantize_input(r) for r in recordings])
    result = run_integers(network, layout, x)
    progress("quantized network", 1, 1)
    return result


# -- report ---------------------------------------------------------------------------------------


def _report(model: Model, network: Network, trace: Trace, result: Trace) -> dict[str, Any]:
    """Errors against the float model and activity, over the calibration recordings."""
    vectors = []
    rows = trace.layout.rows
    for source in range(INPUT, len(network.layers)):
        name = network.source_name(source)
        fired = result.events.get(source, 0)
        entry: dict[str, Any] = {"name": name, "events_per_step": fired / rows}
        if source == INPUT and network.input_mode.one_hot:
            entry |= {"activity": None, "rms": None, "error_rms": 0.0, "error_max": 0.0}
            entry |= {"relative_rms": 0.0, "relative_max": 0.0, "peak": 1.0}
            vectors.append(entry)
            continue
        fraction = network.input_fraction if source == INPUT else network.layers[source].fraction
        wanted = trace.vectors[source]
        error = result.vectors[source] / 2.0**fraction - wanted
        rms = float(np.sqrt(np.mean(wanted**2)))
        error_rms = float(np.sqrt(np.mean(error**2)))
        error_max = float(np.max(np.abs(error)))
        entry |= {
            "activity": fired / (rows * wanted.shape[1]),
            "peak": float(np.max(np.abs(wanted))),
            "rms": rms,
            "error_rms": error_rms,
            "error_max": error_max,
            "relative_rms": error_rms / rms if rms > 0 else None,
            "relative_max": error_max / rms if rms > 0 else None,
        }
        if source + SECOND in result.events:
            second = result.events[source + SECOND]
            entry["activity_recurrent"] = second / (rows * wanted.shape[1])
        vectors.append(entry)
    matrices = []
    for layer, quantized in zip(model.layers, network.layers):
        for m, q in zip(layer.matrices, quantized.matrices):
            error = m.weight - q.weight * 2.0**-q.fraction
            noise, signal = float(np.sum(error**2)), float(np.sum(m.weight**2))
            matrices.append(
                {
                    "layer": layer.name,
                    "source": network.source_name(m.source),
                    "gates": list(m.gates),
                    "fraction": q.fraction,
                    "snr_db": 10 * math.log10(signal / noise) if signal and noise else None,
                    "clipped": int(np.count_nonzero(np.abs(error) > 0.501 * 2.0**-q.fraction)),
                }
            )
    return {
        "steps": rows,
        "output_error": output_error(network, result, trace),
        "saturations": result.saturations,
        "vectors": vectors,
        "matrices": matrices,
    }
