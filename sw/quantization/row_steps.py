"""Where rows have steps of their own: the exponents of the accumulators, and the steps' bounds.

A weight of row r is q * step[r]. The row's multiplier turns the step into a power of two that is
common to the layer: step[r] = multiplier[r] * 2**-(exponent + 14), with a multiplier of 15 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import (
    ACCUMULATOR_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
    SCALE_FRACTION,
)
from stillnet.sw.contract.image import MOST_ROWS, block_rows
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Layer, Model
from stillnet.sw.model.planes import NOISE, PLANE_BITS

from .formats import FormatChoice
from .layerwise import Job
from .sensitivity import accumulators_of
from .solvers.hessian import bundles
from .solvers.rounding import Grid, best_steps

__all__ = ["choose_exponents", "layers_with_steps"]

_HEADROOMS = (2.0, 1.5, 1.1)
"""Room for accumulators larger than calibration showed, as a factor: the largest that costs next to
nothing, else the last one."""

_HEADROOMS_OF_PLANES = (4.0, *_HEADROOMS)
"""The same where rows have second planes, beside which a coarser step costs nothing."""

_COST = 1.01
"""What headroom may cost, as a factor on the noise of rounded weights."""

_SATURATED = {"tanh": 6.0, "sigmoid": 12.0}
"""From here on the tables give 1, so that what they alone read may saturate."""

_LEVELS = (1.0, 0.85, 0.75, 0.65, 0.55)
"""Parts of that at which a row may saturate, where a finer step wins more than that loses."""

_MEMORY = 100.0
"""Steps over which errors of saturation add up: a gate of .9997 forgets in 3,000 steps what one of
1 keeps for ever, and is wrong in the same way in each. As long as a piece of calibration."""

_SLACK = 0.95
"""Part of the accumulator's range that rounded weights may fill before they are solved."""

_TRIED = 1024
"""Rows that exponents are tried on; of more, some stand for all of them."""

_FINEST = 2.0**-10
"""Smallest multiplier: sixteen of its last bit."""


def layers_with_steps(layers: Iterable[Layer]) -> frozenset[int]:
    """Layers whose rows can have multipliers: none, where the cell of any layer leaves no room.

    Cells that floor are left out: what a multiplier rounds would not be floored.
    """
    layers = list(layers)
    if any(block_rows(CELLS[layer.cell], True) > MOST_ROWS for layer in layers):
        return frozenset()
    return frozenset(
        i for i, layer in enumerate(layers) if layer.matrices and not CELLS[layer.cell].floors
    )


@dataclass
class _Part:
    """A bundle, as the trial of exponents sees it; arrays of some of its rows, but ``low``.

    Attributes
    ----------
    first : int
        Fraction bits of the bundle's first source.
    peak : array, shape (rows,)
        Smallest multiplier with which what calibration showed does not saturate in front of it.
    enough : array, shape (levels, rows)
        The one with which nothing that matters can, and smaller ones.
    lost : array, shape (levels, rows)
        Noise of what saturates with each.
    low : array, shape (rows,)
        Smallest step with which no accumulator can overflow.
    """

    place: int
    bits: int
    weight: np.ndarray
    first: int
    ratio: np.ndarray
    power: np.ndarray
    felt: np.ndarray
    peak: np.ndarray
    enough: np.ndarray
    lost: np.ndarray
    low: np.ndarray
    given: np.ndarray | None
    clip: bool

    @property
    def thin(self) -> int:
        """Every so many rows are tried."""
        return -(-len(self.weight) // _TRIED)

    @cached_property
    def free(self) -> np.ndarray:
        """Steps that the rows would have without bounds."""
        if self.given is not None:
            return self.given
        return best_steps(self.weight, self.power, self.bits, self.ratio, clip=self.clip)

    @cached_property
    def noise(self) -> np.ndarray:
        """Noise of rounding with these, as the output feels it."""
        grid = Grid(self.bits, self.free, self.ratio)
        error = (grid.values(grid.integers(self.weight)) - self.weight) ** 2 @ self.power
        return self.felt * error

    def bounds(self, exponent: int, headroom: float) -> tuple[np.ndarray, float]:
        """Smallest step of each row, and the largest of all."""
        low, highest, _ = self._bounds(exponent, headroom)
        return low, highest

    def _bounds(self, exponent: int, headroom: float) -> tuple[np.ndarray, float, np.ndarray]:
        """The same, and what saturates."""
        unit = 2.0 ** (self.first - exponent)
        highest = 2.0 * (1 - 2.0**-SCALE_BITS)
        narrow = np.minimum(self.peak * headroom, self.enough)
        low = np.maximum(np.maximum(narrow, _FINEST) * unit, self.low)
        coarser = np.maximum(low / self.free, 1.0) ** 2
        best = np.argmin(self.noise * coarser + self.lost, axis=0)[None]
        low, lost = (np.take_along_axis(a, best, axis=0)[0] for a in (low, self.lost))
        return low, highest * unit, lost

    def trial(self, exponent: int, headroom: float) -> float:
        """Error of clipped rounding of some rows, with the steps that an exponent allows."""
        low, high, lost = self._bounds(exponent, headroom)
        if np.any(low > high):
            return math.inf
        if self.given is not None:
            return math.inf if self.given.max() > high else 0.0
        thin = self.thin
        some = self.weight[::thin]
        unit = 2.0 ** (self.first - exponent - SCALE_FRACTION)
        step = np.clip(self.free, low, high)[::thin]
        grid = Grid(self.bits, np.maximum(np.rint(step / unit), 1) * unit, self.ratio)
        error = (grid.values(grid.integers(some)) - some) ** 2 @ self.power
        return float(np.sum(self.felt[::thin] * error + lost[::thin]))


def choose_exponents(
    job: Job, choice: FormatChoice, bits: int
) -> tuple[dict[int, int], dict[tuple[int, int], tuple[np.ndarray, float]]]:
    """The exponent of each such layer's accumulators, and the steps that its rows may then have.

    A row's multiplier is below two, and in front of it stands an 18-bit value that has saturated: a
    small multiplier narrows what the row can reach. So steps lie between bounds, whose place the
    exponent decides. It is chosen for the least error of clipped rounding.

    Returns
    -------
    (dict of layer to int, dict of (layer, place of the bundle) to (smallest (rows,), largest))

    Raises
    ------
    StillnetError
        Where no exponent holds the weights of a layer.
    """
    exponents, bounds = {}, {}
    for i in sorted(choice.scaled):
        parts = _parts(job, choice, i, bits)
        base = choice.fraction[i] if CELLS[job.model.layers[i].cell].homogeneous else choice.pre(i)
        exponents[i], headroom = _best_exponent(job.model.layers[i], parts, base)
        for part in parts:
            bounds[i, part.place] = part.bounds(exponents[i], headroom)
    return exponents, bounds


def _parts(job: Job, choice: FormatChoice, index: int, bits: int) -> list[_Part]:
    layer, cell = job.model.layers[index], CELLS[job.model.layers[index].cell]
    wanted = accumulators_of(job.model, job.trace, index)
    base = choice.fraction[index] if cell.homogeneous else choice.pre(index)
    reach = 2.0 ** (PRE.bits - 1 - base)
    parts = []
    for place, bundle in enumerate(bundles(job.model, index)):
        weight = bundle.weight(layer)
        reading = _readers(cell)
        # What is far below zero may saturate in front of a ReLU.
        sizes = [wanted[g] if reading[g] == {"relu"} else np.abs(wanted[g]) for g in bundle.gates]
        peak = np.maximum(np.concatenate([np.max(s, axis=0) for s in sizes]), 0)
        felt = np.concatenate(
            [job.sensitivity.accumulators[index, g].mean(axis=0) for g in bundle.gates]
        )
        felt = felt + 1e-3 * felt.mean() + 1e-300
        ends = [_saturated(reading[g]) for g in bundle.gates]
        levels = np.outer(_LEVELS, np.repeat(ends, layer.units))
        lost = [
            _lost(wanted[g], e, f)
            for g, e, f in zip(bundle.gates, ends, np.split(felt, len(bundle.gates)))
        ]
        sources = [layer.matrices[j].source for j, _ in bundle.parts]
        first = choice.fraction[sources[0]]
        paired = {k for k, _ in job.planes.pairs(sources)}
        ratio, power, bound = [], [], []
        for k, s in enumerate(sources):
            size = job.model.source_size(s)
            ratio.append(np.full(size, 2.0 ** (choice.fraction[s] - first)))
            left = NOISE if k in paired else 1.0
            power.append(np.asarray(choice.statistics[s].power, float) * left)
            bound.append(np.full(size, choice.bound(s, choice.fraction[s])))
        parts.append(
            _Part(
                place,
                bits,
                weight,
                first,
                np.concatenate(ratio),
                np.concatenate(power),
                felt,
                peak / reach,
                np.minimum(levels / reach, 1.0),  # beyond, no multiplier would saturate as well
                np.concatenate(lost, axis=1),
                _overflow(
                    job.model, layer, bundle.bias(layer), weight, sources, ratio, bound, first
                ),
                job.steps.get((index, place)),
                not paired,
            )
        )
    return parts


def _readers(cell: Cell) -> dict[str, set[str]]:
    """The operations that read each accumulator. A sum of two, as in the candidate of a GRU, is
    another matter than a table: one that is too large may meet one that takes it back."""
    readers: dict[str, set[str]] = {a: set() for a in cell.accumulators}
    for node in cell.graph.nodes():
        for argument in node.args:
            if argument.op == "accumulator":
                readers[argument.name].add(node.op)
    return readers


def _saturated(readers: set[str]) -> float:
    """Where what reads an accumulator has reached its end; infinite where not all of it does."""
    return max((_SATURATED.get(op, math.inf) for op in readers), default=math.inf)


def _lost(wanted: np.ndarray, end: float, felt: np.ndarray) -> np.ndarray:
    """Noise of each level of saturation, shape (levels, units), as the output feels it.

    Parameters
    ----------
    wanted : array, shape (steps, units)
        An accumulator of the float model.
    end : float
        See :func:`_saturated`.
    felt : array, shape (units,)
        Of an error of the accumulator.
    """
    lost = np.zeros((len(_LEVELS), wanted.shape[1]))
    if math.isinf(end):
        return lost
    x = np.abs(wanted) * (6.0 / end)  # sigmoid is a tanh of the half
    slope = np.mean(np.cosh(np.minimum(x, 40.0)) ** -4, axis=0) * (6.0 / end) ** 2
    large = x > 6.0 * _LEVELS[-1]
    values, units = x[large], np.nonzero(large)[1]
    for k, level in enumerate(_LEVELS[1:], 1):
        error = np.maximum(np.tanh(values) - np.tanh(6.0 * level), 0.0) ** 2
        lost[k] = np.bincount(units, error, len(felt))
    return _MEMORY * felt / np.maximum(slope, 1e-12) * lost / len(wanted)


def _overflow(
    model: Model,
    layer: Layer,
    bias: np.ndarray,
    weight: np.ndarray,
    sources: list[int],
    ratio: list[np.ndarray],
    bound: list[np.ndarray],
    first: int,
) -> np.ndarray:
    """Steps below which \\|bias\\| + sum \\|q\\| \\|x\\| could pass 32 bits."""
    reach, at = np.abs(bias) * 2.0**first, 0
    for s, r, b in zip(sources, ratio, bound):
        part = np.abs(weight[:, at : at + len(r)]) / r * b
        tokens = s == INPUT and model.one_hot
        reach = reach + (part.max(axis=1, initial=0.0) if tokens else part.sum(axis=1))
        at += len(r)
    return reach / (_SLACK * 2.0 ** (ACCUMULATOR_BITS - 1))


def _best_exponent(layer: Layer, parts: list[_Part], base: int) -> tuple[int, float]:
    """(exponent, headroom) of a layer."""
    free = np.concatenate([p.free * 2.0**-p.first for p in parts])
    middle = -round(math.log2(float(np.median(free))))
    # Of equal ones the finest: steps then lose least to the multiplier's own rounding.
    exponents = [
        e for e in range(middle + 3, middle - 8, -1) if 0 <= e - base + RESCALE_GUARD_BITS <= 31
    ]
    paired = not all(p.clip for p in parts)
    headrooms = _HEADROOMS_OF_PLANES if paired else _HEADROOMS
    best = {
        h: min(((sum(p.trial(e, h) for p in parts), -e) for e in exponents), default=(math.inf, 0))
        for h in headrooms
    }
    least = best[headrooms[-1]][0]
    if math.isinf(least):
        raise StillnetError(
            f"layer '{layer.name}': its weights are out of the reach of the rescale shift; rescale "
            "the model"
        )
    allowed = 4.0**PLANE_BITS if paired else _COST
    headroom = next(h for h in headrooms if best[h][0] <= allowed * least)
    return -best[headroom][1], headroom
