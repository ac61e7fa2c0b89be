"""The choice of number formats: a fraction for each vector, an exponent for each layer.

``docs/numbers.md`` explains it. In short: each vector gets the finest 16-bit power-of-two scale
that holds what calibration shows; each layer gets the exponent of its accumulators, and with it the
scale of every matrix that adds into them, by the smallest noise that reaches the layer's output.
The noise of a choice is computed from the real rounding errors of the weights and the power of the
vectors that they multiply.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import (
    ACCUMULATOR_BITS,
    ACTIVATION_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    Format,
    saturate,
)
from stillnet.sw.contract.sources import INPUT, feeds_next_step
from stillnet.sw.model.model import Model
from stillnet.sw.network.checks import label_exponent, state_format
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.sequence import Trace
from stillnet.sw.util.progress import Progress

from .scales import choose_scales, quantize_parameters
from .silence import correct

__all__ = ["FormatChoice", "to_format"]

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


class FormatChoice:
    """The choice of fractions and exponents for one model.

    Attributes
    ----------
    fraction : dict of source to int
        Fraction bits of each vector.
    exponent : list of int
        Fraction bits of each layer's accumulators.
    """

    def __init__(self, model: Model, trace: Trace, margin: float, correct_bias: bool) -> None:
        self.model = model
        self.trace = trace
        self.margin = margin
        self.correct_bias = correct_bias
        self.cells = [CELLS[layer.cell] for layer in model.layers]
        self.statistics = {s: self._measure(s) for s in range(INPUT, len(model.layers))}
        self.gain = self._gains()
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
        self.exponent = [0] * len(model.layers)
        self._noise: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._best: dict[tuple[int, ...], tuple[float, int]] = {}

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

    def _sample(self, rows: int = 1024) -> np.ndarray:
        count = self.trace.layout.rows
        return np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))

    def _at(self, key: int | tuple[int, str], rows: np.ndarray, previous: bool) -> np.ndarray:
        """Vectors of a source, or a state variable, at rows or one step before them."""
        if isinstance(key, tuple):
            start = self.trace.start.state[key]
            i, s = key
            output = self.cells[i].output_state == s
            values = self.trace.vectors[i] if output else self.trace.states[key]
        else:
            start, values = self.trace.start.vectors[key], self.trace.vectors[key]
        if not previous:
            return values[rows]
        before = self.trace.layout.previous()[rows]
        return np.where(
            (before < 0)[:, None],
            start[np.minimum(np.maximum(-1 - before, 0), len(start) - 1)],
            values[np.maximum(before, 0)],
        )

    def accumulators(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Float accumulators of a layer at some rows, shape (rows, accumulators, units)."""
        layer, order = self.model.layers[index], self.cells[index].accumulators
        m = np.tile(np.stack([layer.bias[g] for g in order]).astype(float), (len(rows), 1, 1))
        for matrix in layer.matrices:
            flat = matrix.weight.reshape(-1, matrix.weight.shape[2])
            if matrix.source == INPUT and self.model.one_hot:
                tokens = self.trace.vectors[INPUT][rows]
                product = flat.T[np.maximum(tokens, 0)] * (tokens >= 0)[:, None]
            else:
                x = self._at(matrix.source, rows, previous=feeds_next_step(matrix.source, index))
                product = x @ flat.T
            where = [order.index(g) for g in matrix.gates]
            m[:, where] += product.reshape(len(rows), len(where), layer.units)
        return m

    def _gains(self) -> list[np.ndarray]:
        """Mean square slope from each accumulator to the output, shape (accumulators, units), over
        the power of the layer's output; by central differences of the cell's equation."""
        rows, half = self._sample(), 2.0**-7
        gains = []
        for i, cell in enumerate(self.cells):
            m = self.accumulators(i, rows)
            state = {s: self._at((i, s), rows, previous=True) for s in cell.state}
            parameters = self.model.layers[i].parameters
            for s, j in self.model.layers[i].peers.items():
                state[s] = self._at((j, s), rows, previous=j > i)
            gain = np.zeros(m.shape[1:])
            for k in range(m.shape[1]):
                outputs = []
                for sign in (1, -1):
                    moved = {g: m[:, n] for n, g in enumerate(cell.accumulators)} | parameters
                    moved[cell.accumulators[k]] = m[:, k] + sign * half
                    outputs.append(cell.evaluate_float(moved, state)[0])
                gain[k] = np.mean((outputs[0] - outputs[1]) ** 2, axis=0) / (2 * half) ** 2
            total = self.statistics[i].total * m.shape[2]
            gains.append(gain / (total if total > 0 else 1.0))
        return gains

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
        return list(range(finest, finest - 9, -1))

    def _window(self, index: int, fraction: int) -> tuple[int, int]:
        """Exponents from lowest to highest that the rescale shift of a layer reaches."""
        base = fraction if self.cells[index].homogeneous else self._pre(index)
        return base - RESCALE_GUARD_BITS, base - RESCALE_GUARD_BITS + 31

    def _pre(self, index: int) -> int:
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
        peak, count = 0.0, self.trace.layout.rows
        for first in range(0, count, 1024):
            m = self.accumulators(index, np.arange(first, min(first + 1024, count)))
            peak = max(peak, float(np.max(np.abs(m))) if m.size else 0.0)
        return peak

    def _bound(self, source: int, fraction: int) -> float:
        """Largest magnitude of a source as an integer; as ``Network.source_bound``."""
        if source == INPUT:
            return 2.0**fraction if self.model.one_hot else 2.0**15
        bound = self.cells[source].bound
        return 2.0**15 if bound is None else min(2.0**15, math.ceil(bound * 2.0**fraction))

    # -- noise

    def weights(self, index: int, number: int, fraction: int) -> np.ndarray:
        """Weights of one matrix rounded to a fraction, as floats that are integers."""
        weight = self.model.layers[index].matrices[number].weight
        return np.clip(np.rint(weight * 2.0**fraction), -128, 127)

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
            reach[where] += total * self._bound(matrix.source, f)
        if np.any(reach >= _SLACK * 2.0 ** (ACCUMULATOR_BITS - 1)):
            return math.inf
        return float(np.sum(self.gain[index] * noise))

    def best(self, index: int) -> tuple[float, int]:
        """(cost, exponent) of a layer with the fractions as they are now."""
        layer = self.model.layers[index]
        low, high = self._window(index, self.fraction[index])
        key = (index, low, *(self.fraction[m.source] for m in layer.matrices))
        if key in self._best:
            return self._best[key]
        natural = []
        for m in layer.matrices:
            peak = float(np.max(np.abs(m.weight))) if m.weight.size else 0.0
            if peak > 0:
                finest = math.floor(math.log2(127.49 / peak))
                natural.append(self.fraction[m.source] + finest)
        if not layer.matrices:  # the rescale shift is 8 then, and shifts nothing
            self._best[key] = (0.0, self._pre(index))
            return self._best[key]
        if not natural:
            natural = [self._pre(index) + 8 if not self.cells[index].homogeneous else low + 16]
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

    def _own(self, source: int) -> float:
        """Rounding noise of a vector that nothing else accounts for: the network's output."""
        if source != len(self.model.layers) - 1:
            return 0.0
        total = self.statistics[source].total
        return 4.0 ** -self.fraction[source] / 12 / (total if total > 0 else 1.0)

    def search(self, progress: Progress) -> None:
        """Coordinate descent over the fractions; each layer has its best exponent throughout."""
        count = len(self.model.layers)
        for i in range(count):
            progress("number formats", i, count)
            self.best(i)
        progress("number formats", count, count)
        for _ in range(16):
            changed = False
            for source in self.statistics:
                layers = set(self.consumers[source]) | ({source} - {INPUT})
                kept = self.fraction[source]
                ranking = []
                for fraction in self.candidates(source):
                    self.fraction[source] = fraction
                    missing, total = self._total(sorted(layers))
                    ranking.append((missing, total + self._own(source), fraction))
                missing, lowest, _ = min(ranking, key=lambda r: r[:2])
                # The finest vector among those that are as good.
                fraction = max(f for n, c, f in ranking if n == missing and c <= 1.001 * lowest)
                self.fraction[source] = fraction
                changed |= fraction != kept
            if not changed:
                break
        for i, layer in enumerate(self.model.layers):
            cost, self.exponent[i] = self.best(i)
            if math.isinf(cost):
                self._refuse(i, layer.name)

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

    # -- result

    def build(self, name: str, plain: Container[int] = ()) -> Network:
        """The network, without thresholds.

        ``plain``: layers that send plain events, in which corrected biases keep units silent.
        """
        layers = []
        for i, layer in enumerate(self.model.layers):
            cell, e = self.cells[i], self.exponent[i]
            fraction = self.fraction[i]
            bias = {g: np.asarray(layer.bias[g], float) for g in cell.accumulators}
            lost = {g: np.zeros(layer.units) for g in cell.accumulators}
            matrices = []
            for j, m in enumerate(layer.matrices):
                f = e - self.fraction[m.source]
                q = self.weights(i, j, f)
                means = (m.weight - q * 2.0**-f) @ self.statistics[m.source].mean
                for g, part in zip(m.gates, means):
                    lost[g] += part
                matrices.append(QuantizedMatrix(m.source, m.gates, q.astype(np.int8), f))
            if self.correct_bias:
                bias = correct(cell, bias, lost, layer.parameters, keep=i in plain)
            if cell.homogeneous:
                shift, write_shift = e - fraction + RESCALE_GUARD_BITS, 0
            else:
                shift = e - self._pre(i) + RESCALE_GUARD_BITS
                write_shift = cell.graph.result.format.fraction - fraction
                write_shift += label_exponent(cell, self.scales[i], "y")
            integers = {g: np.rint(b * 2.0**e).astype(np.int64) for g, b in bias.items()}
            if cell.floors and shift > RESCALE_GUARD_BITS:  # rounding half up then floors
                half = 1 << (shift - RESCALE_GUARD_BITS - 1)
                integers = {g: b - half for g, b in integers.items()}
            quantized = QuantizedLayer(
                name=layer.name,
                cell=layer.cell,
                units=layer.units,
                matrices=matrices,
                bias=integers,
                shift=shift,
                write_shift=write_shift,
                fraction=fraction,
                parameters=quantize_parameters(layer, self.scales[i]),
                peers=dict(layer.peers),
                exponents=dict(self.scales[i]),
            )
            quantized.initial = {
                s: to_format(np.asarray(v, float), state_format(quantized, s))
                for s, v in layer.initial.items()
            }
            layers.append(quantized)
        return Network(
            inputs=self.model.inputs,
            input_fraction=self.fraction[INPUT],
            layers=layers,
            input_mode=Mode.ONE_HOT if self.model.one_hot else Mode.DELTA,
            name=name,
            notes={"model": self.model.name},
        )


def to_format(value: np.ndarray, to: Format) -> np.ndarray:
    """Real values to integers of a format: half up, saturated."""
    return saturate(np.floor(value * 2.0**to.fraction + 0.5).astype(np.int64), to.bits)
