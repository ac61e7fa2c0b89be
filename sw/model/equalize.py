"""Elements of a vector brought to one scale, where the equations allow it exactly.

A vector has one format for all of its elements, and a row of weights one step for all of its
columns. An element that is a thousand times smaller than its neighbours, with weights that make up
for it, then has no bits left, and takes those of the other weights with it. So elements are
multiplied by powers of two, and the columns that they meet are divided by the same:

* the network's input: the host multiplies (``Network.input_exponents``);
* layers whose equation commutes with scaling (linear, ReLU, convolutions, leaky integrators): their
  rows are multiplied instead;
* the network's output, of such a layer: the host divides (``QuantizedLayer.unit_exponents``);
* cells of fixed formats whose result grows with an accumulator (``Cell.gains``: products, masks,
  square root, exponential): what calibration showed is brought into their formats.

All of this is exact in floating point; the network that is then quantized is the same function. The
states of GRU and LSTM keep their proven ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.fixed import PRE
from stillnet.sw.contract.sources import INPUT

from .model import Layer, Model

__all__ = [
    "Exponents",
    "commutes",
    "element_exponents",
    "gain_exponents",
    "scaled_input",
    "scaled_model",
]

Exponents = dict[int | tuple[int, str], np.ndarray]
"""By source: the powers of two of its elements, int64, shape (size,). Absent: none. By (layer,
accumulator): the part of it that a second ``"linear"`` accumulator takes."""

_LEAST = 2
"""Outputs stay as they are where none would gain this many bits."""

_MOST = 24

_HEADROOM = 1.25
"""Room above what calibration showed, as a factor."""

_WORTH = 0.7
"""Part of the noise that may be left, or elements stay as they are."""


def commutes(cell: Cell) -> bool:
    """Whether scaling a unit's accumulators scales its state and its vector by the same."""
    if cell.homogeneous:
        return True
    names = {"m", "y", *cell.state}
    return (
        not cell.peers
        and names <= set(cell.scale)
        and len(set(cell.scale.values())) == 1
        and not set(cell.scale) & set(cell.parameters)
    )


def element_exponents(
    model: Model,
    vectors: Mapping[int, np.ndarray],
    input_peak: np.ndarray | None,
    *,
    rows: bool = True,
    copies: Collection[int] = (),
) -> Exponents:
    """Powers of two for the elements of every vector that may have them.

    Elements of the output are made as large as the largest one. Elsewhere there are two sides to
    it: a larger element is rounded finer and its column's weights no longer take the bits of their
    rows, but the rounding of these weights is multiplied by larger values. So an element grows as
    far as its column stands out, from a level that is found by trial (:func:`_noise`).

    Parameters
    ----------
    model : Model
    vectors : dict of source to array, shape (steps, size)
        What the float model does on calibration.
    input_peak : array, shape (inputs,), or None
        Largest magnitudes of the inputs; None for tokens, which have one value.
    rows : bool
        Whether rows of weights may have steps of their own. With one step for a layer a unit grows
        only as far as its weights are smaller than the layer's largest.
    copies : collection of int
        Layers that copy a vector for second planes of weights: elements are what they are without.
    """
    read = {p for layer in model.layers for p in layer.peers.values()}
    last = len(model.layers) - 1
    found: Exponents = {}
    for source in range(INPUT, len(model.layers)):
        if source == INPUT:
            if input_peak is None:
                continue
            peak = input_peak
        else:
            layer = model.layers[source]
            if source in read or not commutes(CELLS[layer.cell]):
                continue
            peak = np.max(np.abs(vectors[source]), axis=0, initial=0.0)
        room = _room(peak)
        if source != INPUT and not rows:
            room = np.minimum(room, _room(_row_peaks(model.layers[source])))
        exponents = room
        if source != last:
            power = np.mean(vectors[source] ** 2, axis=0)
            exponents = _chosen(
                _rows_of(model, source, copies), room, power, float(peak.max(initial=0.0))
            )
        elif room.max(initial=0) < _LEAST:
            continue
        if np.any(exponents):
            found[source] = exponents
    return found


def gain_exponents(
    model: Model,
    sums: Callable[[int], Mapping[str, np.ndarray]],
    vectors: Mapping[int, np.ndarray],
) -> Exponents:
    """Powers of two that bring cells with ``Cell.gains`` into their formats.

    One for all units of a layer, except of the last one, whose units have one each.

    Parameters
    ----------
    model : Model
    sums : function of layer
        Accumulators on calibration, by name, shape (steps, units).
    vectors : dict of source to array, shape (steps, size)
    """
    found: Exponents = {}
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers):
        cell = CELLS[layer.cell]
        if not cell.gains:
            continue
        result = cell.graph.result.format
        reach = result.maximum * 2.0**-result.fraction
        total = np.zeros(layer.units, np.int64)
        for k, (gate, kind) in enumerate(cell.gains.items()):
            if kind == "exponential":
                room = _fitting(vectors[i], min(reach, np.e), i == last)
            elif kind == "square":
                room = _fitting(sums(i)[gate], PRE.maximum * 2.0**-PRE.fraction, i == last) // 2
            else:
                room = _fitting(sums(i)[gate], 1.0 if k else reach, i == last)
            if k:
                found[i, gate] = room
            total = total + room
        found[i] = total
    return found


def _fitting(values: np.ndarray, reach: float, each: bool) -> np.ndarray:
    """The largest powers of two that keep values, with room to spare, within ``reach``."""
    peak = np.max(np.abs(values), axis=0, initial=0.0)
    if not each:
        peak = np.full(len(peak), np.max(peak, initial=0.0))
    ratio = reach / (_HEADROOM * np.where(peak > 0, peak, reach))
    return np.clip(np.floor(np.log2(ratio)), -_MOST, _MOST).astype(np.int64)


def _room(peak: np.ndarray) -> np.ndarray:
    """How far each element may grow until it is as large as the largest one."""
    largest = float(np.max(peak, initial=0.0))
    if largest == 0:
        return np.zeros(len(peak), np.int64)
    ratio = np.where(peak > 0, largest / np.where(peak > 0, peak, 1.0), 1.0)
    return np.clip(np.floor(np.log2(ratio)), 0, _MOST).astype(np.int64)


def _row_peaks(layer: Layer) -> np.ndarray:
    """Largest weight of each unit."""
    peaks = [np.max(np.abs(m.weight), axis=(0, 2)) for m in layer.matrices]
    return np.max(peaks, axis=0) if peaks else np.zeros(layer.units)


def _rows_of(model: Model, source: int, copies: Collection[int]) -> np.ndarray:
    """All rows that a source feeds, but those of copies, shape (rows, size)."""
    rows = [
        m.weight.reshape(-1, m.weight.shape[2])
        for i, layer in enumerate(model.layers)
        for m in layer.matrices
        if m.source == source and i not in copies
    ]
    weight = np.concatenate(rows) if rows else np.zeros((0, model.source_size(source)))
    return weight[np.any(weight != 0, axis=1)]


def _chosen(weight: np.ndarray, room: np.ndarray, power: np.ndarray, peak: float) -> np.ndarray:
    """Exponents of least noise among those that bring all columns down to one level."""
    none = np.zeros(len(room), np.int64)
    if not len(weight) or not np.any(room):
        return none
    size = np.abs(weight) / np.max(np.abs(weight), axis=1, keepdims=True)
    column = np.mean(size, axis=0)
    least = _WORTH * _noise(weight, none, power, peak)
    best = none
    for level in np.geomspace(
        float(column.max()), float(column.max()) * 2.0**-_MOST, 2 * _MOST + 1
    ):
        ratio = np.maximum(column, 1e-300) / level
        tried = np.clip(np.floor(np.log2(ratio)), 0, room).astype(np.int64)
        noise = _noise(weight, tried, power, peak)
        if noise < least:
            best, least = tried, noise
    return best


def _noise(weight: np.ndarray, exponents: np.ndarray, power: np.ndarray, peak: float) -> float:
    """Noise over signal of the rows, on the mean: of weights in eight bits with a step for each
    row, and of vectors in sixteen."""
    grown = 2.0**exponents
    step = np.max(np.abs(weight) / grown, axis=1) / 127
    signal = weight**2 @ power
    of_weights = step**2 * float(power @ grown**2)
    of_values = (weight / grown) ** 2 @ np.full(len(power), (peak / 2.0**15) ** 2)
    alive = signal > 0
    if not np.any(alive):
        return 0.0
    return float(np.mean((of_weights + of_values)[alive] / signal[alive]))


def scaled_model(model: Model, exponents: Mapping[Any, np.ndarray]) -> Model:
    """The same function of the scaled input, with scaled outputs."""
    if not exponents:
        return model
    return replace(
        model, layers=[_scaled(layer, i, exponents) for i, layer in enumerate(model.layers)]
    )


def _scaled(layer: Layer, index: int, exponents: Mapping[Any, np.ndarray]) -> Layer:
    own = 2.0 ** exponents.get(index, np.zeros(layer.units))
    grown = _grown(layer, index, exponents)
    matrices = []
    for m in layer.matrices:
        rows = np.stack([grown[g] for g in m.gates])
        weight = np.asarray(m.weight, float) * rows[:, :, None]
        if m.source in exponents:
            weight = weight * 2.0 ** -exponents[m.source]
        matrices.append(replace(m, weight=weight))
    return replace(
        layer,
        matrices=tuple(matrices),
        bias={
            g: np.asarray(b, float) * grown[g] + _raised(layer, index, g, exponents)
            for g, b in layer.bias.items()
        },
        initial={s: np.asarray(v, float) * own for s, v in layer.initial.items()},
    )


def _grown(layer: Layer, index: int, exponents: Mapping[Any, np.ndarray]) -> dict[str, np.ndarray]:
    """What the rows of each accumulator are multiplied by."""
    zero = np.zeros(layer.units)
    total = exponents.get(index, zero)
    gains = CELLS[layer.cell].gains
    if not gains:
        return dict.fromkeys(layer.bias, 2.0**total)
    powers = dict.fromkeys(layer.bias, zero)
    linear = [g for g, kind in gains.items() if kind == "linear"]
    for g in linear[1:]:
        powers[g] = exponents.get((index, g), zero)
        total = total - powers[g]
    for g, kind in gains.items():
        if g in linear[:1] or kind == "square":
            powers[g] = total * (2 if kind == "square" else 1)
    return {g: 2.0**p for g, p in powers.items()}


def _raised(
    layer: Layer, index: int, gate: str, exponents: Mapping[Any, np.ndarray]
) -> np.ndarray | float:
    """What is added to the biases of an accumulator."""
    if CELLS[layer.cell].gains.get(gate) != "exponential":
        return 0.0
    return np.log(2.0) * exponents.get(index, np.zeros(layer.units))


def scaled_input(x: np.ndarray, exponents: Mapping[Any, np.ndarray]) -> np.ndarray:
    """Input vectors as the scaled model takes them."""
    return x * 2.0 ** exponents[INPUT] if INPUT in exponents else x
