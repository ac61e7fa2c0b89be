"""What is refused before quantization begins: models and recordings that do not fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layers import Layer
from stillnet.sw.model.model import Model

__all__ = ["check_model", "check_recordings", "listed_recordings"]


def check_model(model: Model) -> None:
    """Refuses a model that cannot be quantized, by the name of the layer.

    Raises
    ------
    StillnetError
    """
    if not model.layers:
        raise StillnetError(f"model '{model.name}' has no layers; there is nothing to quantize")
    seen: set[str] = {"input"}
    for layer in model.layers:
        if layer.name in seen:
            raise StillnetError(
                f"two parts of model '{model.name}' are named '{layer.name}'; rename one, because "
                "thresholds and reports go by name"
            )
        seen.add(layer.name)
        if layer.cell not in CELLS:
            raise StillnetError(
                f"layer '{layer.name}': cell '{layer.cell}' is unknown; known are "
                f"{', '.join(CELLS)}"
            )
        _check_arrays(model, layer)
        _check_operands(model, layer)
        _check_initial(layer)


def _check_arrays(model: Model, layer: Layer) -> None:
    """Shapes, and no NaN or infinity."""
    where = f"layer '{layer.name}'"
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
    unlimited = {f"parameter '{p}'" for p in CELLS[layer.cell].unlimited}
    for label, array in arrays.items():
        wrong = np.isnan(array) if label in unlimited else ~np.isfinite(array)
        if np.any(wrong):
            raise StillnetError(f"{where}: {label} holds NaN or infinity; export the model again")


def _check_operands(model: Model, layer: Layer) -> None:
    """Biases, parameters and peers are those of the cell."""
    where, cell = f"layer '{layer.name}'", CELLS[layer.cell]
    for kind, given, needed in (
        ("biases", set(layer.bias), set(cell.accumulators)),
        ("parameters", set(layer.parameters), set(cell.parameters)),
        ("peers", set(layer.peers), set(cell.peers)),
    ):
        if given != needed:
            raise StillnetError(
                f"{where}: {kind} are given for {sorted(given)}, cell '{layer.cell}' needs "
                f"{sorted(needed)}"
            )
    for s, number in layer.peers.items():
        exists = 0 <= number < len(model.layers)
        if not exists or s not in CELLS[model.layers[number].cell].state:
            raise StillnetError(
                f"{where}: peer '{s}' is read from layer {number}, which has no such state"
            )


def _check_initial(layer: Layer) -> None:
    """Initial states fit their formats."""
    where, cell = f"layer '{layer.name}'", CELLS[layer.cell]
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


def check_recordings(
    model: Model, calibration: np.ndarray | Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Checked recordings: float64, shape (steps, inputs), or int64 tokens, shape (steps,).

    Those of a whole model pass the host's part, and what goes to the chip is given.

    Parameters
    ----------
    model : Model
    calibration : array, or sequence of arrays
        One recording or several, as for ``quantize``.

    Raises
    ------
    StillnetError
    """
    many = _are_many(model, calibration)
    result = []
    for number, part in enumerate(listed_recordings(model, calibration)):
        where = f"calibration recording {number}" if many else "calibration"
        if model.host is not None:
            part = model.host.enter_vectors(part)[0]
        try:
            x = np.asarray(part)
            if x.dtype.kind not in "fiub":
                raise ValueError
        except ValueError:
            raise StillnetError(f"{where} is not an array of real numbers") from None
        result.append(_tokens(model, x, where) if model.one_hot else _vectors(model, x, where))
    return result


def listed_recordings(
    model: Model, calibration: np.ndarray | Sequence[np.ndarray]
) -> list[np.ndarray]:
    """One recording or several as a list, not checked."""
    parts = list(calibration) if _are_many(model, calibration) else [calibration]
    if not parts:
        raise StillnetError("calibration holds no recording; give at least one with one step")
    return parts  # type: ignore[return-value]


def _are_many(model: Model, calibration: np.ndarray | Sequence[np.ndarray]) -> bool:
    """Whether these are several recordings."""
    if not isinstance(calibration, (list, tuple)) or not len(calibration):
        return isinstance(calibration, (list, tuple))
    # A list of numbers, or of vectors where these are no tokens, is one recording.
    dimensions = {np.ndim(c) for c in calibration}
    return 0 not in dimensions and (model.one_hot or dimensions != {1})


def _tokens(model: Model, x: np.ndarray, where: str) -> np.ndarray:
    if x.ndim == 2 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim != 1 or len(x) == 0:
        raise StillnetError(
            f"{where} has shape {x.shape}; model '{model.name}' takes one token per step, "
            "shape (steps,), at least one"
        )
    bad = ~((x == np.floor(x)) & (x >= -1) & (x < model.inputs))
    if np.any(bad):
        step = int(np.argmax(bad))
        raise StillnetError(
            f"{where} holds token {x[step]} at step {step}; model '{model.name}' has "
            f"tokens 0 to {model.inputs - 1}"
        )
    return x.astype(np.int64)


def _vectors(model: Model, x: np.ndarray, where: str) -> np.ndarray:
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
    return x
