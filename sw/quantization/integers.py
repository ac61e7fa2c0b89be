"""From solved rows to a network of integers: exponents, multipliers of rows, biases."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import (
    EVENT_BITS,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
    SCALE_FRACTION,
)
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.equalize import Exponents
from stillnet.sw.model.model import Layer, Model
from stillnet.sw.network.checks import label_exponent, state_format
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix

from .formats import FormatChoice, to_format
from .layerwise import LayerWork
from .scales import quantize_parameters
from .simulate import Encoders
from .solvers.hessian import bundles

__all__ = ["build_network", "set_limits"]


def build_network(
    model: Model,
    work: LayerWork,
    choice: FormatChoice,
    exponents: list[int],
    elements: Exponents,
    name: str | None = None,
) -> Network:
    """The integers of solved layers; thresholds are zero.

    Parameters
    ----------
    model : Model
        The float model, elements scaled.
    work : LayerWork
    choice : FormatChoice
        Fractions and scales, and which layers have a multiplier for each row.
    exponents : list of int
        Fraction bits of the accumulators of each layer.
    elements : Exponents
        Powers of two that the elements of vectors were multiplied by.
    """
    return Network(
        inputs=model.inputs,
        input_fraction=choice.fraction[INPUT],
        layers=[
            _layer(model, i, work, choice, exponents[i], elements) for i in range(len(model.layers))
        ],
        input_mode=Mode.ONE_HOT if model.one_hot else Mode.DELTA,
        name=name or model.name,
        notes={"model": model.name},
        input_exponents=elements.get(INPUT),
        host=model.host,
    )


def _layer(
    model: Model,
    index: int,
    work: LayerWork,
    choice: FormatChoice,
    exponent: int,
    elements: Exponents,
) -> QuantizedLayer:
    layer, cell = model.layers[index], CELLS[model.layers[index].cell]
    fraction, scales = choice.fraction[index], choice.scales[index]
    weights, steps, bias = _gathered(model, index, work, choice.fraction)
    units = {g: np.full(layer.units, 2.0**-exponent) for g in bias}
    scale = None
    if index in choice.scaled:
        scale = {}
        for g, step in steps.items():
            m = np.rint(
                np.where(np.isnan(step), units[g], step) * 2.0 ** (exponent + SCALE_FRACTION)
            )
            scale[g] = np.clip(m, 1, (1 << SCALE_BITS) - 1).astype(np.int64)
            units[g] = scale[g] * 2.0 ** -(exponent + SCALE_FRACTION)
    base = fraction if cell.homogeneous else choice.pre(index)
    shift = exponent - base + RESCALE_GUARD_BITS
    if not 0 <= shift <= 31:
        raise StillnetError(
            f"layer '{layer.name}': exponent {exponent} of its accumulators is out of the reach of "
            "the rescale shift; rescale the model"
        )
    integers = {g: np.rint(b / units[g]).astype(np.int64) for g, b in bias.items()}
    if cell.floors and shift > RESCALE_GUARD_BITS:  # rounding half up then floors
        half = 1 << (shift - RESCALE_GUARD_BITS - 1)
        integers = {g: b - half for g, b in integers.items()}
    quantized = QuantizedLayer(
        name=layer.name,
        cell=layer.cell,
        units=layer.units,
        matrices=[
            QuantizedMatrix(m.source, m.gates, w, exponent - choice.fraction[m.source], choice.bits)
            for m, w in zip(layer.matrices, weights)
        ],
        bias=integers,
        shift=shift,
        write_shift=_write_shift(cell, scales, fraction),
        fraction=fraction,
        parameters=quantize_parameters(layer, scales),
        peers=dict(layer.peers),
        exponents=dict(scales),
        scale=scale,
        unit_exponents=elements.get(index),
    )
    quantized.initial = _initial(quantized, layer)
    return quantized


def _gathered(
    model: Model, index: int, work: LayerWork, fraction: dict[int, int]
) -> tuple[list[np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Integers of each matrix; by gate, what a unit of an accumulator stands for (NaN where nothing
    is kept), and biases."""
    layer = model.layers[index]
    weights = [np.zeros(m.weight.shape, np.int8) for m in layer.matrices]
    bias = {g: np.asarray(layer.bias[g], float) for g in CELLS[layer.cell].accumulators}
    steps: dict[str, np.ndarray] = {}
    for place, bundle in enumerate(bundles(model, index)):
        result = work[index, place]
        first = layer.matrices[bundle.parts[0][0]].source
        alive = result.kept.any(axis=1)
        step = np.where(alive, result.step, np.nan) * 2.0 ** -fraction[first]
        for k, g in enumerate(bundle.gates):
            rows = slice(k * layer.units, (k + 1) * layer.units)
            steps[g], bias[g] = step[rows], result.bias[rows]
        for (j, places), columns in zip(bundle.parts, bundle.columns(model)):
            block = result.integers[:, columns].reshape(len(places), layer.units, -1)
            weights[j][list(places)] = block
    return weights, steps, bias


def _write_shift(cell: Cell, scales: dict[str, int], fraction: int) -> int:
    if cell.homogeneous:
        return 0
    return cell.graph.result.format.fraction + label_exponent(cell, scales, "y") - fraction


def _initial(quantized: QuantizedLayer, layer: Layer) -> dict[str, np.ndarray]:
    return {
        s: to_format(np.asarray(v, float), state_format(quantized, s))
        for s, v in layer.initial.items()
    }


def set_limits(network: Network, encoders: Encoders) -> None:
    """Thresholds of a simulation as integers of the network: scalars, or one an element."""
    for source, value in encoders.thresholds.items():
        fraction = network.input_fraction if source == INPUT else network.layers[source].fraction
        limit = (1 << EVENT_BITS) - 1
        number = np.clip(np.rint(np.asarray(value, float) * 2.0**fraction), 0, limit)
        number = number.astype(np.int64)
        scalar = number.ndim == 0
        target = network if source == INPUT else network.layers[source]
        if isinstance(target, Network):
            target.input_threshold = int(number) if scalar else 0
            target.input_thresholds = None if scalar else number
        else:
            target.threshold = int(number) if scalar else 0
            target.thresholds = None if scalar else number
