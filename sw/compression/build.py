"""From compressed rows to a network of integers: exponents, multipliers of rows, biases."""

from __future__ import annotations

import math

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import (
    ACTIVATION,
    EVENT_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
    SCALE_FRACTION,
)
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.quantization.formats import FormatChoice, to_format

from .layerwise import Job, LayerWork
from .sensitivity import accumulators_of
from .simulate import Encoders
from .solvers.hessian import bundles
from .solvers.rounding import Grid, best_steps

__all__ = ["build_network", "choose_exponents", "choose_fractions", "set_limits"]

_COARSER = 5
"""Fractions tried below the finest one of a vector."""


def choose_fractions(model: Model, choice: FormatChoice, bits: int) -> dict[int, int]:
    """Fraction bits of every vector, for weights with a step a row.

    Matrices that add into one row share its step up to the power of two between the fractions of
    their vectors. The fractions are chosen for the least noise of clipped rounding, weighted as
    ``FormatChoice`` weights it: coordinate descent from the finest ones.
    """
    fraction = dict(choice.fraction)
    cache: dict[tuple[int, ...], float] = {}

    def cost(i: int) -> float:
        layer = model.layers[i]
        order = CELLS[layer.cell].accumulators
        key = (i, *(fraction[m.source] for m in layer.matrices))
        if key not in cache:
            total = 0.0
            for bundle in bundles(model, i):
                weight = bundle.weight(layer)[::_THIN]
                sources = [layer.matrices[j].source for j, _ in bundle.parts]
                ratio, power, fine = [], [], []
                for s in sources:
                    size = model.source_size(s)
                    ratio.append(np.full(size, 2.0 ** (fraction[s] - fraction[sources[0]])))
                    power.append(np.asarray(choice.statistics[s].power, float))
                    fine.append(np.full(size, 4.0 ** -fraction[s] / 12))
                c, p = np.concatenate(ratio), np.concatenate(power)
                step = best_steps(weight, p, bits, c)[:, None] * c
                limit = 1 << (bits - 1)
                rounded = np.clip(np.rint(weight / step), -limit, limit - 1) * step
                noise = (rounded - weight) ** 2 @ p + weight**2 @ np.concatenate(fine)
                gain = np.concatenate([choice.gain[i][order.index(g)] for g in bundle.gates])
                total += float(np.sum(gain[::_THIN] * noise))
            cache[key] = total
        return cache[key]

    for source in fraction:
        if not (source == INPUT and model.one_hot):
            fraction[source] = choice.candidates(source)[0]
    for _ in range(4):
        changed = False
        for source in fraction:
            users = choice.consumers[source]
            if not users or (source == INPUT and model.one_hot):
                continue
            kept = fraction[source]
            ranking = []
            for f in choice.candidates(source)[:_COARSER]:
                fraction[source] = f
                ranking.append((sum(cost(i) for i in users), -f))
            least = min(ranking)[0]
            fraction[source] = max(-f for c, f in ranking if c <= 1.001 * least)
            changed |= fraction[source] != kept
        if not changed:
            break
    return fraction


_THIN = 4
"""Every so many rows stand for all of them where formats are chosen."""

_HEADROOM = 1.1
_SATURATED = 8.0
"""Beyond this an accumulator of a cell with bounded functions need not be told apart."""


def choose_exponents(
    job: Job, bits: int
) -> tuple[list[int], dict[tuple[int, int], tuple[np.ndarray, float]]]:
    """The exponent of each layer's accumulators, and the steps that rows may then have.

    A row's multiplier is below two, and behind it stands an 18-bit value that has saturated before
    it: a small multiplier narrows what the row can reach. So steps lie between bounds, whose place
    the layer's exponent decides. It is chosen for the least error of clipped rounding.

    Returns
    -------
    (list of int, dict of (layer, place of the bundle) to (smallest steps (rows,), largest step))
    """
    exponents, bounds = [], {}
    highest = 2.0 * (1 - 2.0**-SCALE_BITS)
    for i, layer in enumerate(job.model.layers):
        cell = CELLS[layer.cell]
        wanted = accumulators_of(job.model, job.trace, i)
        base = job.fraction[i] if cell.homogeneous else PRE.fraction
        reach = 2.0 ** (PRE.bits - 1 - base)
        parts = []
        for place, bundle in enumerate(bundles(job.model, i)):
            weight = bundle.weight(layer)
            peak = np.concatenate([np.max(np.abs(wanted[g]), axis=0) for g in bundle.gates])
            peak = peak * _HEADROOM
            if not cell.homogeneous:
                peak = np.minimum(peak, _SATURATED)
            sources = [layer.matrices[j].source for j, _ in bundle.parts]
            first = job.fraction[sources[0]]
            ratio = np.concatenate(
                [
                    np.full(job.model.source_size(s), 2.0 ** (job.fraction[s] - first))
                    for s in sources
                ]
            )
            power = np.concatenate([np.var(job.trace.vectors[s], axis=0) for s in sources])
            power = power + 0.01 * power.mean()
            felt = np.concatenate(
                [job.sensitivity.accumulators[i, g].mean(axis=0) for g in bundle.gates]
            )
            felt = felt + 1e-3 * felt.mean()
            given = job.steps.get((i, place))
            parts.append((place, weight, peak, first, ratio, power, felt, given))

        def trial(exponent: int, place_of: int, peak: np.ndarray, reach: float = reach):
            unit = 2.0 ** (place_of - exponent)
            return np.maximum(peak / reach, 2.0**-10) * unit, highest * unit

        ranking = []
        free = [
            (best_steps(w[::_THIN], p, bits, r) if g is None else g) * 2.0**-f
            for _, w, _, f, r, p, _, g in parts
        ]
        middle = -round(math.log2(float(np.median(np.concatenate(free)))))
        # Of equal ones the finest: given steps then lose least to the multiplier's own rounding.
        for exponent in range(middle + 3, middle - 5, -1):
            if not 0 <= exponent - base + RESCALE_GUARD_BITS <= 31:
                continue
            total = 0.0
            for _, weight, peak, first, ratio, power, felt, given in parts:
                low, high = trial(exponent, first, peak)
                if given is not None:
                    total += math.inf if given.max() > high else 0.0
                    continue
                some = weight[::_THIN]
                step = best_steps(some, power, bits, ratio, None, (low[::_THIN], high))
                grid = Grid(bits, step, ratio)
                error = (grid.values(grid.integers(some)) - some) ** 2 @ power
                total += float(np.sum(felt[::_THIN] * error))
            ranking.append((total, exponent))
        if not ranking or math.isinf(min(ranking)[0]):
            raise StillnetError(
                f"layer '{layer.name}': its weights are out of the reach of the rescale shift; "
                "rescale the model"
            )
        exponents.append(min(ranking, key=lambda r: r[0])[1])
        for place, _, peak, first, _, _, _, _ in parts:
            bounds[i, place] = trial(exponents[i], first, peak)
    return exponents, bounds


def build_network(
    model: Model,
    work: LayerWork,
    fraction: dict[int, int],
    bits: int,
    exponents: list[int],
    *,
    multipliers: bool,
    name: str | None = None,
) -> Network:
    """The integers of compressed layers.

    Parameters
    ----------
    model : Model
        The float model; for names and initial states.
    work : LayerWork
    fraction : dict of source to int
    bits : int
    exponents : list of int
        Fraction bits of the accumulators of each layer.
    multipliers : bool
        Whether rows have multipliers; without, all steps are one power of two a layer.
    """
    layers = []
    for i, layer in enumerate(model.layers):
        cell = CELLS[layer.cell]
        parts = bundles(model, i)
        units: dict[str, np.ndarray] = {}  # what one accumulator step of a row stands for
        bias = {g: np.asarray(b, float) for g, b in layer.bias.items()}
        weights = [np.zeros(m.weight.shape, np.int8) for m in layer.matrices]
        for place, bundle in enumerate(parts):
            result = work[i, place]
            first = layer.matrices[bundle.parts[0][0]].source
            alive = result.kept.any(axis=1)
            step = np.where(alive, result.step, np.nan) * 2.0 ** -fraction[first]
            for k, g in enumerate(bundle.gates):
                rows = slice(k * layer.units, (k + 1) * layer.units)
                units[g], bias[g] = step[rows], result.bias[rows]
            for (j, places), columns in zip(bundle.parts, bundle.columns(model)):
                block = result.integers[:, columns].reshape(len(places), layer.units, -1)
                weights[j][list(places)] = block
        exponent = exponents[i]
        units = {g: np.where(np.isnan(u), 2.0**-exponent, u) for g, u in units.items()}
        scale = None
        if multipliers:
            scale = {}
            for g in units:
                m = np.rint(units[g] * 2.0 ** (exponent + SCALE_FRACTION)).astype(np.int64)
                scale[g] = np.clip(m, 1, (1 << SCALE_BITS) - 1)
                units[g] = scale[g] * 2.0 ** -(exponent + SCALE_FRACTION)
        for g in bias:
            units.setdefault(g, np.full(layer.units, 2.0**-exponent))
        f = fraction[i]
        base = f if cell.homogeneous else PRE.fraction
        shift = exponent - base + RESCALE_GUARD_BITS
        if not 0 <= shift <= 31:
            raise StillnetError(
                f"layer '{layer.name}': exponent {exponent} of its accumulators is out of the "
                "reach of the rescale shift; rescale the model"
            )
        layers.append(
            QuantizedLayer(
                name=layer.name,
                cell=layer.cell,
                units=layer.units,
                matrices=[
                    QuantizedMatrix(m.source, m.gates, w, exponent - fraction[m.source], bits)
                    for m, w in zip(layer.matrices, weights)
                ],
                bias={g: np.rint(b / units[g]).astype(np.int64) for g, b in bias.items()},
                shift=shift,
                write_shift=0 if cell.homogeneous else ACTIVATION.fraction - f,
                fraction=f,
                initial={
                    s: to_format(np.asarray(v, float), cell.state[s])
                    for s, v in layer.initial.items()
                },
                scale=scale,
            )
        )
    return Network(
        inputs=model.inputs,
        input_fraction=fraction[INPUT],
        layers=layers,
        input_mode=Mode.ONE_HOT if model.one_hot else Mode.DELTA,
        name=name or model.name,
        notes={"model": model.name},
    )


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
