"""The choice of number formats: a fraction for each vector, an exponent for each layer.

``docs/numbers.md`` explains it. In short: each vector gets the finest 16-bit power-of-two scale
that holds what calibration shows; each layer gets the exponent of its accumulators by the smallest
noise that reaches the network's output. Without multipliers of rows the exponent is also the step
of every weight; with them each row has a step of its own, and its exponent comes later
(``row_steps``). The noise of a choice is computed from the real rounding errors of the weights, the
power of the vectors that they multiply, and how much the output feels an error of each accumulator,
through time (``sensitivity``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import (
    ACCUMULATOR_BITS,
    ACTIVATION_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    Format,
    saturate,
)
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.model.planes import NOISE, PLANE_BITS, Planes
from stillnet.sw.network.checks import label_exponent
from stillnet.sw.network.sequence import Trace
from stillnet.sw.util.progress import Progress

from .checking.clipping import Clipping
from .scales import choose_scales
from .sensitivity import Sensitivity, accumulators_of
from .solvers.hessian import bundles
from .solvers.rounding import best_steps

__all__ = ["FormatChoice", "to_format"]

_COARSER = 5
"""Fractions tried of a vector where rows have steps, the finest one included."""

_THIN = 4
"""Every so many rows stand for all of them where formats are chosen for rows with steps."""

_FREE = 1.001
"""Noise that headroom may cost, as a factor on all of it."""

_FREE_PART = 1.1
"""The same on the part of each matrix. A quiet matrix beside a loud one would else lose its bits to
headroom of the other, and what is loud is what rounding makes good for."""

_CUT = 0.5
"""Part of the noise that may be left where a range is so narrow that it clips what calibration
shows."""

_RARE = 4.0
"""Such a range is still so many times what 99 of 100 values reach. Without a long tail a peak says
where the next recording's may lie."""

_SLACK = 0.98
"""Part of the accumulator's range that the choice of exponents uses; the corrected biases, known
only afterwards, take the rest."""


@dataclass
class _Statistics:
    """What calibration shows of one source.

    Attributes
    ----------
    peak : float
        Largest magnitude.
    mean, power : arrays, shape (size,)
        Of each element; ``power`` is what weight rounding noise is multiplied by.
    total : float
        Mean square over all elements.
    """

    peak: float
    mean: np.ndarray
    power: np.ndarray
    total: float


_Ranked = tuple[int, float, int, np.ndarray]
"""(layers that cannot be had, noise, fraction, noise by bundle and source)."""


class FormatChoice:
    """The choice of fractions and exponents for one model.

    Vectors hold what calibration showed and a margin, but for an input whose loudest values say
    nothing and cost its quiet ones their bits: gates that saturate forgive clipping. With
    ``unseen``, what other recordings may lose at the range of a vector counts as noise beside that
    of rounding.

    Attributes
    ----------
    fraction : dict of source to int
        Fraction bits of each vector.
    exponent : list of int
        Fraction bits of each layer's accumulators; of layers with a step a row a first guess.
    scales : list of dict
        Powers of two inside each layer's cell, by label.
    """

    def __init__(
        self,
        model: Model,
        trace: Trace,
        felt: Sensitivity,
        *,
        margin: float = 1.25,
        correct_bias: bool = True,
        bits: int = 8,
        scaled: frozenset[int] = frozenset(),
        planes: Planes | None = None,
        clipping: Clipping | None = None,
        unseen: bool = False,
    ) -> None:
        self.model = model
        self.trace = trace
        self.margin = margin
        self.clipping, self.unseen = clipping, unseen
        self.correct_bias = correct_bias
        self.bits, self.scaled = bits, scaled
        self.planes = planes or Planes()
        self.cells = [CELLS[layer.cell] for layer in model.layers]
        self.statistics = {s: self._measure(s) for s in range(INPUT, len(model.layers))}
        self.gain = [
            np.stack([felt.accumulators[i, g].mean(axis=0) for g in cell.accumulators])
            for i, cell in enumerate(self.cells)
        ]
        self.square = {
            (i, j): np.sum(m.weight**2, axis=2)
            for i, layer in enumerate(model.layers)
            for j, m in enumerate(layer.matrices)
        }
        self.consumers: dict[int, list[int]] = {s: [] for s in self.statistics}
        for i, layer in enumerate(model.layers):
            for m in layer.matrices:
                if i not in self.consumers[m.source]:
                    self.consumers[m.source].append(i)
        self.scales = choose_scales(model, self.state_peak, self.accumulator_peak, margin)
        self.fraction = {s: self.candidates(s)[0] for s in self.statistics}
        for s in self.statistics:
            self._move(s, self.fraction[s])
        self.exponent = [0] * len(model.layers)
        self._noise: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._best: dict[tuple[int, ...], tuple[float, int]] = {}
        self._row_noise: dict[tuple[int, ...], np.ndarray] = {}
        self._paired_noise = 1.0

    # -- measurements

    def _measure(self, source: int) -> _Statistics:
        if source == INPUT and self.model.one_hot:
            # Every token counts the same: calibration may not have met them all.
            size = self.model.inputs
            return _Statistics(1.0, np.zeros(size), np.full(size, 1.0 / size), 1.0 / size)
        v = self.trace.vectors[source]
        power = np.mean(v**2, axis=0)
        total = float(np.mean(power)) if power.size else 0.0
        mean = np.mean(v, axis=0)
        # A corrected bias takes the noise of the mean away. What calibration left silent still
        # counts a little, so that weights of it are not clipped without need.
        noisy = np.maximum(power - mean**2, 0.0) if self.correct_bias else power
        peak = float(np.max(np.abs(v))) if v.size else 0.0
        return _Statistics(peak, mean, noisy + 0.01 * total, total)

    # -- candidates

    def candidates(self, source: int) -> list[int]:
        """Fractions that a vector may have, finest first."""
        if source == INPUT and self.model.one_hot:
            return list(range(15, -1, -1))
        peak = self.statistics[source].peak * self.margin
        limit = (1 << (ACTIVATION_BITS - 1)) - 1
        finest = 11 if peak == 0 else math.floor(math.log2(limit / peak))
        finest = max(-40, min(60, finest))
        if source != INPUT:
            cell = self.cells[source]
            if not cell.homogeneous:
                nominal = cell.graph.result.format.fraction
                nominal += label_exponent(cell, self.scales[source], "y")
                if cell.floors:  # the write shift would round once more
                    return [nominal]
                finest = nominal if cell.bound is not None else min(nominal, finest)
                finest = max(finest, nominal - 15)
                return list(range(finest, max(finest - 8, nominal - 15) - 1, -1))
        return list(range(finest, finest - (_COARSER if self.scaled else 9), -1))

    def _move(self, source: int, fraction: int) -> None:
        """Sets the fraction of a vector, and of its coarser copy."""
        self.fraction[source] = fraction
        for copy in self.planes.of(source):
            self.fraction[copy] = fraction - PLANE_BITS

    def _window(self, index: int, fraction: int) -> tuple[int, int]:
        """Exponents from lowest to highest that the rescale shift of a layer reaches."""
        base = fraction if self.cells[index].homogeneous else self.pre(index)
        return base - RESCALE_GUARD_BITS, base - RESCALE_GUARD_BITS + 31

    def pre(self, index: int) -> int:
        """Fraction bits of what the cell of a layer reads, where these are fixed."""
        return PRE.fraction + label_exponent(self.cells[index], self.scales[index], "m")

    def state_peak(self, index: int, name: str) -> float:
        """Largest magnitude of a state variable of a layer, or of its vector (``"y"``)."""
        key = (index, name)
        values = self.trace.states.get(key, self.trace.vectors[index])
        start = self.trace.start.state[key] if name != "y" else self.trace.start.vectors[index]
        return max(float(np.max(np.abs(v))) if v.size else 0.0 for v in (values, start))

    def accumulator_peak(self, index: int) -> float:
        """Largest magnitude of an accumulator of a layer."""
        sums = accumulators_of(self.model, self.trace, index).values()
        return max(float(np.max(np.abs(m), initial=0.0)) for m in sums)

    def bound(self, source: int, fraction: int) -> float:
        """Largest magnitude of a source as an integer; as ``Network.source_bound``."""
        if source == INPUT:
            return 2.0**fraction if self.model.one_hot else 2.0**15
        bound = self.cells[source].bound
        return 2.0**15 if bound is None else min(2.0**15, math.ceil(bound * 2.0**fraction))

    # -- noise

    def weights(self, index: int, number: int, fraction: int) -> np.ndarray:
        """Weights of one matrix rounded to a fraction, as floats that are integers."""
        weight = self.model.layers[index].matrices[number].weight
        limit = 1 << (self.bits - 1)
        return np.clip(np.rint(weight * 2.0**fraction), -limit, limit - 1)

    def _weight_noise(
        self, index: int, number: int, fraction: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(noise power in the accumulators, largest \\|sum\\| a unit of source), both (gates,
        units), for one matrix at one fraction."""
        key = (index, number, fraction)
        if key not in self._noise:
            matrix = self.model.layers[index].matrices[number]
            q = self.weights(index, number, fraction)
            error = q * 2.0**-fraction - matrix.weight
            noise = error**2 @ self.statistics[matrix.source].power
            np.abs(q, out=q)
            one_hot = matrix.source == INPUT and self.model.one_hot
            self._noise[key] = (noise, q.max(axis=2) if one_hot else q.sum(axis=2))
        return self._noise[key]

    def cost(self, index: int, exponent: int) -> float:
        """Noise power at a layer's output over the power of the output, with the fractions as they
        are now; infinite where an accumulator could overflow."""
        layer, order = self.model.layers[index], self.cells[index].accumulators
        bias = np.stack([layer.bias[g] for g in order])
        noise = np.full(bias.shape, 4.0**-exponent / 12)
        reach = np.abs(bias) * 2.0**exponent
        for j, matrix in enumerate(layer.matrices):
            where = [order.index(g) for g in matrix.gates]
            f = self.fraction[matrix.source]
            rounding, total = self._weight_noise(index, j, exponent - f)
            noise[where] += rounding
            if not (matrix.source == INPUT and self.model.one_hot):
                noise[where] += self.square[index, j] * (4.0**-f / 12)
            reach[where] += total * self.bound(matrix.source, f)
        if np.any(reach >= _SLACK * 2.0 ** (ACCUMULATOR_BITS - 1)):
            return math.inf
        return float(np.sum(self.gain[index] * noise))

    def row_cost(self, index: int) -> float:
        """The same with a step for each row: clipped rounding at its best, of some of the rows."""
        return float(np.sum(self.row_parts(index)))

    def row_parts(self, index: int) -> np.ndarray:
        """What it is made of, by bundle and source."""
        layer, order = self.model.layers[index], self.cells[index].accumulators
        key = (index, *(self.fraction[m.source] for m in layer.matrices))
        if key not in self._row_noise:
            parts: list[float] = []
            for bundle in bundles(self.model, index):
                weight = bundle.weight(layer)[::_THIN]
                sources = [layer.matrices[j].source for j, _ in bundle.parts]
                paired = self.planes.pairs(sources)
                ratio, power, fine = [], [], []
                for s in sources:
                    size, tokens = self.model.source_size(s), s == INPUT and self.model.one_hot
                    ratio.append(
                        np.full(size, 2.0 ** (self.fraction[s] - self.fraction[sources[0]]))
                    )
                    power.append(np.asarray(self.statistics[s].power, float))
                    fine.append(np.full(size, 0.0 if tokens else 4.0 ** -self.fraction[s] / 12))
                c, p = np.concatenate(ratio), np.concatenate(power)
                step = best_steps(weight, p, self.bits, c, clip=not paired)[:, None] * c
                limit = 1 << (self.bits - 1)
                rounded = np.clip(np.rint(weight / step), -limit, limit - 1) * step
                left = self._paired_noise if paired else 1.0
                noise = left * (rounded - weight) ** 2 * p + weight**2 * np.concatenate(fine)
                gain = np.concatenate([self.gain[index][order.index(g)] for g in bundle.gates])
                of_columns = gain[::_THIN] @ noise * _THIN
                parts += [float(np.sum(of_columns[part])) for part in bundle.columns(self.model)]
            self._row_noise[key] = np.array(parts)
        return self._row_noise[key]

    def best(self, index: int) -> tuple[float, int]:
        """(cost, exponent) of a layer with the fractions as they are now."""
        if index in self.scaled:
            return self.row_cost(index), self.pre(index)
        layer = self.model.layers[index]
        low, high = self._window(index, self.fraction[index])
        key = (index, low, *(self.fraction[m.source] for m in layer.matrices))
        if key in self._best:
            return self._best[key]
        natural = []
        for m in layer.matrices:
            peak = float(np.max(np.abs(m.weight))) if m.weight.size else 0.0
            if peak > 0:
                finest = math.floor(math.log2(((1 << (self.bits - 1)) - 0.51) / peak))
                natural.append(self.fraction[m.source] + finest)
        if not layer.matrices:  # the rescale shift is 8 then, and shifts nothing
            self._best[key] = (0.0, self.pre(index))
            return self._best[key]
        if not natural:
            natural = [self.pre(index) + 8 if not self.cells[index].homogeneous else low + 16]
        # One bit finer than the largest weight allows clips it, which may still pay.
        first = max(low, min(high, min(natural) - 3))
        last = max(first, min(high, max(natural) + 2))
        costs = {e: self.cost(index, e) for e in range(first, last + 1)}
        lowest = min(costs.values())
        while math.isinf(lowest) and first > low:
            first -= 1
            lowest = costs[first] = self.cost(index, first)
        # A little more noise for a lower exponent is more headroom for nothing.
        chosen = min(e for e, c in costs.items() if c <= 1.001 * lowest)
        self._best[key] = (costs[chosen], chosen)
        return self._best[key]

    def _total(self, layers: Iterable[int]) -> tuple[int, float]:
        """(layers that cannot be had, sum of the costs of the others)."""
        costs = [self.best(i)[0] for i in layers]
        return sum(math.isinf(c) for c in costs), sum(c for c in costs if not math.isinf(c))

    def _proven(self, source: int) -> bool:
        return source != INPUT and self.cells[source].bound is not None

    def _own(self, source: int) -> float:
        """Rounding noise of a vector that nothing else accounts for: the network's output."""
        if source != len(self.model.layers) - 1:
            return 0.0
        return self.model.outputs * 4.0 ** -self.fraction[source] / 12

    def _clipped(self, source: int, fraction: int) -> float:
        """Noise that clipping at the range of a vector would bring in other recordings."""
        peak = self.statistics[source].peak
        if not self.unseen or self.clipping is None or self._proven(source) or peak == 0:
            return 0.0
        if fraction > self.candidates(source)[0]:
            return 0.0  # see :meth:`_narrower`
        return self.clipping.noise(source, 2.0 ** (ACTIVATION_BITS - 1 - fraction) / peak)

    def search(self, progress: Progress) -> None:
        """Coordinate descent over the fractions; each layer has its best exponent throughout."""
        count = len(self.model.layers)
        for i in range(count):
            progress("number formats", i, count)
            self.best(i)
        progress("number formats", count, count)
        vectors = [s for s in self.statistics if s not in self.planes.copies]
        self._descend(vectors)
        # Second planes let vectors be finer. Without a proven range they need as much room as
        # without planes, unless what is cut off says nothing.
        self._paired_noise = NOISE
        self._row_noise.clear()
        self._descend([s for s in vectors if self.planes.of(s)], room=True)
        for i, layer in enumerate(self.model.layers):
            cost, self.exponent[i] = self.best(i)
            if math.isinf(cost):
                self._refuse(i, layer.name)

    def _descend(self, vectors: list[int], *, room: bool = False) -> None:
        """Coordinate descent over the fractions of some vectors. ``room``: those without a proven
        range keep the room that they have."""
        for _ in range(16):
            changed = False
            for source in vectors:
                kept = self.fraction[source]
                keeps = room and not self._proven(source)
                tried = [kept] if keeps else self.candidates(source)
                ranking = [self._ranked(source, f) for f in tried]
                ranking = self._narrower(source, ranking)
                missing, lowest, _, least = min(ranking, key=lambda r: r[:2])
                good = [
                    f
                    for n, c, f, each in ranking
                    if n == missing and c <= _FREE * lowest and np.all(each <= _FREE_PART * least)
                ]
                # As good ones: a proven range needs no room for what calibration did not show.
                fraction = max(good) if self._proven(source) else min(good)
                self._move(source, fraction)
                changed |= fraction != kept
            if not changed:
                break

    def _ranked(self, source: int, fraction: int) -> _Ranked:
        """What a fraction of a vector costs, with the others as they are."""
        moved = [source, *self.planes.of(source)]
        layers = {i for s in moved for i in self.consumers[s]} | (set(moved) - {INPUT})
        self._move(source, fraction)
        missing, total = self._total(sorted(layers))
        parts = [self.row_parts(i) for i in sorted(layers & self.scaled)]
        each = np.concatenate(parts) if parts else np.zeros(0)
        total += self._own(source) + self._clipped(source, fraction)
        return missing, total, fraction, each

    def _narrower(self, source: int, ranking: list[_Ranked]) -> list[_Ranked]:
        """The same, or only a range of the input that clips, where it is worth that."""
        if source != INPUT or self.model.one_hot or self.clipping is None:
            return ranking
        missing, lowest, *_ = min(ranking, key=lambda r: r[:2])
        usual = _RARE * float(np.quantile(np.abs(self.trace.vectors[source]), 0.99))
        finest, best = self.candidates(source)[0], None
        narrowest = finest if usual == 0 else ACTIVATION_BITS - 1 - math.ceil(math.log2(usual))
        for fraction in range(finest + 1, narrowest + 1):
            allowed = lowest * (_CUT if best is None else 1)
            out, noise, _, each = self._ranked(source, fraction)
            if out > missing or noise >= allowed:
                break
            noise += self.clipping.seen(source, 2.0 ** (ACTIVATION_BITS - 1 - fraction))
            if noise >= allowed:
                break
            best, lowest = (out, noise, fraction, each), noise
        return ranking if best is None else [best]

    def _refuse(self, index: int, name: str) -> None:
        """Says what of a layer does not fit 32 bits at the lowest exponent."""
        low, _ = self._window(index, self.fraction[index])
        for gate, bias in self.model.layers[index].bias.items():
            row = int(np.argmax(np.abs(bias)))
            if abs(bias[row]) * 2.0**low >= _SLACK * 2.0 ** (ACCUMULATOR_BITS - 1):
                raise StillnetError(
                    f"layer '{name}': bias {float(bias[row]):g} of gate '{gate}', row {row}, does "
                    f"not fit an accumulator with {low} fraction bits; rescale the model"
                )
        raise StillnetError(
            f"layer '{name}': its weights and inputs are too large for 32-bit accumulators; "
            "rescale the model"
        )


def to_format(value: np.ndarray, to: Format) -> np.ndarray:
    """Real values to integers of a format: half up, saturated."""
    return saturate(np.floor(value * 2.0**to.fraction + 0.5).astype(np.int64), to.bits)
