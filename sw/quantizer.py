"""From a trained float model and recordings to a network of integers.

``docs/numbers.md`` explains how the formats are chosen. In short: each vector gets the finest
16-bit power-of-two scale that holds what calibration shows; each layer gets the exponent of its
accumulators, and with it the scale of every matrix that adds into them, by the smallest noise that
reaches the layer's output. The noise of a choice is computed from the real rounding errors of the
weights and the power of the vectors that they multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .contract.cells import CELLS
from .contract.events import Mode
from .contract.fixed import (
    ACCUMULATOR_BITS,
    ACTIVATION,
    ACTIVATION_BITS,
    EVENT_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    Format,
    saturate,
)
from .errors import StillnetError
from .model import INPUT, Model
from .network import Network, QuantizedLayer, QuantizedMatrix
from .progress import Progress, silent
from .reference import SECOND
from .sequence import Layout, Start, Trace, run_float, run_integers

__all__ = ["Thresholds", "quantize"]

Thresholds = float | Mapping[str, float] | Sequence[float]
"""One threshold for every source, one by the source's name (``"input"`` or a layer's name), or one
a source in order. In real units of the vector's values."""

_WEIGHT_BITS = 8
_LARGEST_THRESHOLD = (1 << EVENT_BITS) - 1
_SLACK = 0.98
"""Part of the accumulator's range that the choice of exponents uses; the corrected biases, known
only afterwards, take the rest."""


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
        Delta thresholds, see :data:`Thresholds`; zero where absent. A single number applies to
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

    choice = _Choice(model, trace, margin, correct_bias)
    choice.search(progress)
    network = choice.build(name or model.name)
    _set_modes(network, nonzero)
    network.validate()
    _set_thresholds(network, thresholds, threshold_recurrent)

    if max_error is None:
        result = _run_quantized(network, layout, recordings, progress)
    else:
        result = _ThresholdSearch(network, layout, recordings, trace, progress).run(max_error)
    network.notes["report"] = _report(model, network, trace, result)
    network.notes["options"] = {
        "weight_bits": weight_bits,
        "margin": margin,
        "correct_bias": correct_bias,
        "max_error": max_error,
        "nonzero": list(nonzero),
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
        for s, value in layer.initial.items():
            if s not in cell.state:
                raise StillnetError(f"{where}: cell '{layer.cell}' has no state '{s}'")
            limit = cell.state[s].maximum / 2.0 ** cell.state[s].fraction
            if s == cell.output_state and cell.bound is not None:
                limit = cell.bound
            if len(value) and np.abs(value).max() > limit:
                unit = int(np.argmax(np.abs(value)))
                raise StillnetError(
                    f"{where}: initial state '{s}' is {float(value[unit]):g} at unit {unit}, a "
                    f"{layer.cell} holds {-limit:g} to {limit:g}"
                )


def _recordings(
    model: Model, calibration: np.ndarray | Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Checked recordings: float64, shape (steps, inputs), or int64 tokens, shape (steps,)."""
    many = isinstance(calibration, (list, tuple))
    if len(calibration) and many:
        # A list of numbers, or of vectors where these are no tokens, is one recording.
        dimensions = {np.ndim(c) for c in calibration}
        many = 0 not in dimensions and (model.one_hot or dimensions != {1})
    parts = list(calibration) if many else [np.asarray(calibration)]
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


# -- formats --------------------------------------------------------------------------------------


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


class _Choice:
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
        self.fraction = {s: self._candidates(s)[0] for s in self.statistics}
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
                x = self._at(matrix.source, rows, previous=matrix.source >= index)
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
            gain = np.zeros(m.shape[1:])
            for k in range(m.shape[1]):
                outputs = []
                for sign in (1, -1):
                    moved = {g: m[:, n] for n, g in enumerate(cell.accumulators)}
                    moved[cell.accumulators[k]] = m[:, k] + sign * half
                    outputs.append(cell.evaluate_float(moved, state)[0])
                gain[k] = np.mean((outputs[0] - outputs[1]) ** 2, axis=0) / (2 * half) ** 2
            total = self.statistics[i].total * m.shape[2]
            gains.append(gain / (total if total > 0 else 1.0))
        return gains

    # -- candidates

    def _candidates(self, source: int) -> list[int]:
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
                bounded = cell.bound is not None
                finest = ACTIVATION.fraction if bounded else min(ACTIVATION.fraction, finest)
                finest = max(finest, ACTIVATION.fraction - 15)
                return list(range(finest, max(finest - 8, ACTIVATION.fraction - 15) - 1, -1))
        return list(range(finest, finest - 9, -1))

    def _window(self, index: int, fraction: int) -> tuple[int, int]:
        """Exponents from lowest to highest that the rescale shift of a layer reaches."""
        base = fraction if self.cells[index].homogeneous else PRE.fraction
        return base - RESCALE_GUARD_BITS, base - RESCALE_GUARD_BITS + 31

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
        if not natural:
            natural = [PRE.fraction + 8 if not self.cells[index].homogeneous else low + 16]
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
                for fraction in self._candidates(source):
                    self.fraction[source] = fraction
                    missing, total = self._total(sorted(layers))
                    ranking.append((missing, total + self._own(source), fraction))
                missing, lowest, _ = min(ranking, key=lambda r: r[:2])
                # The finest vector among those that are as good.
                fraction = max(
                    f for n, c, f in ranking if n == missing and c <= 1.001 * lowest
                )
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

    def build(self, name: str) -> Network:
        """The network, without thresholds."""
        layers = []
        for i, layer in enumerate(self.model.layers):
            cell, e = self.cells[i], self.exponent[i]
            fraction = self.fraction[i]
            bias = {g: np.asarray(layer.bias[g], float).copy() for g in cell.accumulators}
            matrices = []
            for j, m in enumerate(layer.matrices):
                f = e - self.fraction[m.source]
                q = self.weights(i, j, f)
                if self.correct_bias:
                    lost = (m.weight - q * 2.0**-f) @ self.statistics[m.source].mean
                    for g, part in zip(m.gates, lost):
                        bias[g] += part
                matrices.append(QuantizedMatrix(m.source, m.gates, q.astype(np.int8), f))
            if cell.homogeneous:
                shift, write_shift = e - fraction + RESCALE_GUARD_BITS, 0
            else:
                shift = e - PRE.fraction + RESCALE_GUARD_BITS
                write_shift = ACTIVATION.fraction - fraction
            layers.append(
                QuantizedLayer(
                    name=layer.name,
                    cell=layer.cell,
                    units=layer.units,
                    matrices=matrices,
                    bias={g: np.rint(b * 2.0**e).astype(np.int64) for g, b in bias.items()},
                    shift=shift,
                    write_shift=write_shift,
                    fraction=fraction,
                    initial={
                        s: _to_format(np.asarray(v, float), cell.state[s])
                        for s, v in layer.initial.items()
                    },
                )
            )
        return Network(
            inputs=self.model.inputs,
            input_fraction=self.fraction[INPUT],
            layers=layers,
            input_mode=Mode.ONE_HOT if self.model.one_hot else Mode.DELTA,
            name=name,
            notes={"model": self.model.name},
        )


def _to_format(value: np.ndarray, to: Format) -> np.ndarray:
    return saturate(np.floor(value * 2.0**to.fraction + 0.5).astype(np.int64), to.bits)


# -- modes and thresholds -------------------------------------------------------------------------


def _uses(network: Network, source: int) -> tuple[bool, bool]:
    """Whether a source feeds the same step, and whether it feeds the next one."""
    targets = [
        i for i, q in enumerate(network.layers) for m in q.matrices if m.source == source
    ]
    return any(source < i for i in targets), any(source >= i for i in targets)


def _source(network: Network, name: str, what: str) -> int:
    names = [network.source_name(s) for s in range(INPUT, len(network.layers))]
    if name not in names:
        raise StillnetError(f"{what} names '{name}', the network has {', '.join(names)}")
    return names.index(name) + INPUT


def _set_modes(network: Network, nonzero: Iterable[str]) -> None:
    names = [nonzero] if isinstance(nonzero, str) else list(nonzero)
    for name in names:
        source = _source(network, name, "nonzero")
        if source == INPUT:
            if network.input_mode.one_hot:
                raise StillnetError("nonzero names 'input', which is one-hot already")
            network.input_mode = Mode.NONZERO
        elif network.layers[source].cell != "relu":
            raise StillnetError(
                f"nonzero names '{name}', a {network.layers[source].cell} layer; only ReLU layers "
                "are zero often enough"
            )
        else:
            network.layers[source].mode = Mode.NONZERO
    for i, layer in enumerate(network.layers):
        plain = {m.source for m in layer.matrices if network.source_mode(m.source).reload}
        delta = {m.source for m in layer.matrices} - plain
        if plain and delta:
            raise StillnetError(
                f"layer '{layer.name}' is fed by nonzero elements of "
                f"'{network.source_name(min(plain))}' and by differences of "
                f"'{network.source_name(min(delta))}'; leave "
                f"'{network.source_name(min(plain))}' out of nonzero"
            )


def _threshold(value: object, fraction: int, where: str) -> int:
    """A threshold in real units as an integer of a vector's format."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise StillnetError(f"threshold of {where} must be a number, not {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise StillnetError(f"threshold of {where} must be zero or a positive number, not {value}")
    return int(min(_LARGEST_THRESHOLD, np.rint(number * 2.0**fraction)))


def _set_thresholds(
    network: Network,
    thresholds: Thresholds | None,
    recurrent: float | Mapping[str, float] | None,
) -> None:
    sources = range(INPUT, len(network.layers))
    given: dict[int, Any] = {}
    if isinstance(thresholds, Mapping):
        for name, value in thresholds.items():
            source = _source(network, name, "thresholds")
            if not any(_uses(network, source)):
                raise StillnetError(
                    f"thresholds names '{name}', which feeds nothing, so that no threshold applies"
                )
            if network.source_mode(source).one_hot:
                raise StillnetError(f"thresholds names '{name}', which is one-hot and has none")
            given[source] = value
    elif isinstance(thresholds, (Sequence, np.ndarray)) and not isinstance(thresholds, str):
        if len(thresholds) != len(sources):
            raise StillnetError(
                f"thresholds has {len(thresholds)} entries, the network {len(sources)} sources: "
                + ", ".join(network.source_name(s) for s in sources)
            )
        given = dict(zip(sources, thresholds))
    elif thresholds is not None:
        given = {s: thresholds for s in sources if network.source_mode(s) is Mode.DELTA}
        _threshold(thresholds, 0, "every source")
    for source in sources:
        where = f"'{network.source_name(source)}'"
        fraction = (
            network.input_fraction if source == INPUT else network.layers[source].fraction
        )
        value = _threshold(given.get(source, 0.0), fraction, where)
        if not any(_uses(network, source)) or network.source_mode(source).one_hot:
            value = 0
        if source == INPUT:
            network.input_threshold = value
        else:
            network.layers[source].threshold = value

    if recurrent is None:
        return
    names: dict[str, Any]
    if isinstance(recurrent, Mapping):
        names = dict(recurrent)
    else:
        names = {
            layer.name: recurrent for i, layer in enumerate(network.layers) if _uses(network, i)[1]
        }
        if not names:
            raise StillnetError(
                f"threshold_recurrent is given, network '{network.name}' has no recurrence"
            )
    for name, number in names.items():
        index = _source(network, name, "threshold_recurrent")
        if index == INPUT or not _uses(network, index)[1]:
            raise StillnetError(f"threshold_recurrent names '{name}', which has no recurrence")
        layer = network.layers[index]
        value = _threshold(number, layer.fraction, f"'{name}' (recurrent)")
        if not _uses(network, index)[0]:
            layer.threshold = value
        elif value != layer.threshold:
            layer.threshold_recurrent = value


# -- runs in integers -----------------------------------------------------------------------------


def _run_quantized(
    network: Network, layout: Layout, recordings: list[np.ndarray], progress: Progress
) -> Trace:
    progress("quantized network", 0, 1)
    x = layout.pack([network.quantize_input(r) for r in recordings])
    result = run_integers(network, layout, x)
    progress("quantized network", 1, 1)
    return result


def _output_error(network: Network, result: Trace, trace: Trace) -> float:
    last = len(network.layers) - 1
    y = network.dequantize_output(result.vectors[last])
    return float(np.mean(np.abs(y - trace.vectors[last])))


class _ThresholdSearch:
    """The largest thresholds within a mean error of the output.

    A common factor on the spread of each vector is found first by bisection, to three quarters of
    the error allowed. Then, while the error lasts, the source grows by half whose growth saves
    most memory words for the error that it adds. Long recordings are searched on excerpts that
    begin warm; the result is checked on all of them and shrunk where the excerpts were too kind.
    Everything is deterministic.
    """

    WARM_STEPS = 16
    EXCERPTS = 16
    EXCERPT_STEPS = 64

    def __init__(
        self,
        network: Network,
        layout: Layout,
        recordings: list[np.ndarray],
        trace: Trace,
        progress: Progress,
    ) -> None:
        self.network = network
        self.layout = layout
        self.trace = trace
        self.progress = progress
        self.full = layout.pack([network.quantize_input(r) for r in recordings])
        self.sources = [
            s
            for s in range(INPUT, len(network.layers))
            if any(_uses(network, s)) and network.source_mode(s) is Mode.DELTA
        ]
        self.words = {
            s: sum(
                m.column_words(8)
                for layer in network.layers
                for m in layer.matrices
                if m.source == s
            )
            for s in self.sources
        }
        self._prepare()

    def _spread(self, source: int) -> float:
        v = self.trace.vectors[source]
        return float(np.sqrt(np.mean(np.var(v, axis=0)))) * 2.0 ** self._fraction(source)

    def _fraction(self, source: int) -> int:
        network = self.network
        return network.input_fraction if source == INPUT else network.layers[source].fraction

    def _prepare(self) -> None:
        """Excerpts: their layout, inputs, beginnings, and the outputs expected of them."""
        layout, network = self.layout, self.network
        last = len(network.layers) - 1
        wanted = self.trace.vectors[last]
        if layout.steps <= self.EXCERPT_STEPS:
            self.excerpts, self.x, self.start = layout, self.full, None
            self.wanted = wanted
            self.counted = np.ones(layout.rows, bool)
            return
        pieces = []
        lengths = np.array(layout.lengths)
        ends = np.cumsum(lengths)
        count = min(self.EXCERPTS, -(-layout.rows // self.EXCERPT_STEPS))
        for k in range(count):
            place = k * layout.rows // count
            recording = int(np.searchsorted(ends, place, side="right"))
            first = place - int(ends[recording] - lengths[recording])
            # Rather the end of a recording than a few steps of it.
            first = max(0, min(first, int(lengths[recording]) - self.EXCERPT_STEPS))
            pieces.append(layout.index(recording)[first : first + self.EXCERPT_STEPS])
        self.excerpts = Layout([len(p) for p in pieces])
        self.x = self.excerpts.pack([self.full[p] for p in pieces])
        self.wanted = self.excerpts.pack([wanted[p] for p in pieces])
        warm = [np.arange(len(p)) >= min(self.WARM_STEPS, len(p) - 1) for p in pieces]
        self.counted = self.excerpts.pack(warm)
        before = layout.previous()[np.array([p[0] for p in pieces])]
        self.start = Start()

        def earlier(start: np.ndarray, values: np.ndarray) -> np.ndarray:
            return np.where(
                (before < 0)[:, None],
                start[np.maximum(-1 - before, 0) % len(start)],
                values[np.maximum(before, 0)],
            )

        for source in range(INPUT, len(network.layers)):
            if source == INPUT and network.input_mode.one_hot:
                continue
            v = earlier(self.trace.start.vectors[source], self.trace.vectors[source])
            self.start.vectors[source] = _to_format(v, Format(16, self._fraction(source)))
        for i, layer in enumerate(network.layers):
            cell = CELLS[layer.cell]
            for s, fmt in cell.state.items():
                values = self.trace.states.get((i, s), self.trace.vectors[i])
                v = earlier(self.trace.start.state[i, s], values)
                self.start.state[i, s] = _to_format(v, fmt)

    def _apply(self, thresholds: Mapping[int, float]) -> None:
        for source, value in thresholds.items():
            number = int(min(_LARGEST_THRESHOLD, math.floor(value)))
            if source == INPUT:
                self.network.input_threshold = number
            else:
                self.network.layers[source].threshold = number

    def _try(self, thresholds: Mapping[int, float]) -> tuple[float, int]:
        """(mean error, words) on the excerpts."""
        self._apply(thresholds)
        result = run_integers(self.network, self.excerpts, self.x, self.start)
        last = len(self.network.layers) - 1
        y = self.network.dequantize_output(result.vectors[last])
        error = float(np.mean(np.abs(y - self.wanted)[self.counted]))
        return error, sum(self.words[s] * result.events[s] for s in self.sources)

    def _exact(self, thresholds: Mapping[int, float]) -> tuple[float, Trace]:
        self._apply(thresholds)
        result = run_integers(self.network, self.layout, self.full)
        return _output_error(self.network, result, self.trace), result

    def run(self, max_error: float) -> Trace:
        """Sets the thresholds; returns the run over all recordings with them."""
        zero = dict.fromkeys(self.sources, 0.0)
        floor, result = self._exact(zero)
        if floor > max_error:
            raise StillnetError(
                f"max_error {max_error:g} cannot be kept: the mean error is {floor:.4g} with every "
                "threshold at zero; allow at least that"
            )
        if not self.sources:
            return result
        unit = {s: max(self._spread(s), 1.0) for s in self.sources}
        steps = 12
        low, high, aim = -14.0, 4.0, floor + 0.75 * (max_error - floor)
        for k in range(steps):
            self.progress("common threshold", k, steps)
            middle = (low + high) / 2
            error, _ = self._try({s: u * 2.0**middle for s, u in unit.items()})
            low, high = (middle, high) if error <= aim else (low, middle)
        self.progress("common threshold", steps, steps)
        current = {s: u * 2.0**low for s, u in unit.items()}
        current = self._grow(current, max_error)
        return self._settle(current, max_error)

    def _grow(self, current: dict[int, float], max_error: float) -> dict[int, float]:
        """Source by source, as long as the error lasts: in large steps, then in small ones."""
        rounds = 2 * len(self.sources)
        error, words = self._try(current)
        for phase, factor in enumerate((1.5, 1.15)):
            growing = list(self.sources)
            for k in range(rounds):
                self.progress("thresholds a layer", phase * rounds + k, 2 * rounds)
                ranking = []
                for source in list(growing):
                    tried = {**current, source: max(current[source] * factor, current[source] + 1)}
                    new_error, new_words = self._try(tried)
                    if new_error > max_error or tried[source] > _LARGEST_THRESHOLD:
                        growing.remove(source)  # errors add up: it will hardly fit later
                    elif new_words < words:
                        worth = (words - new_words) / max(new_error - error, 1e-9)
                        ranking.append((worth, source, new_error, new_words, tried))
                if not ranking:
                    break
                _, _, error, words, current = max(ranking, key=lambda r: r[:2])
        self.progress("thresholds a layer", 2 * rounds, 2 * rounds)
        return current

    def _settle(self, current: dict[int, float], max_error: float) -> Trace:
        """Checks on all recordings; takes the largest common factor that keeps the error."""
        steps = 6
        low, high = 0.0, 1.0
        kept = None
        factor = 1.0
        for k in range(steps):
            self.progress("check", k, steps)
            scaled = {s: v * factor for s, v in current.items()}
            error, result = self._exact(scaled)
            if error <= max_error:
                low, kept = factor, (scaled, result)
                if factor == 1.0:
                    break
            else:
                high = factor
            # The error grows about as the thresholds do, so the middle is worth more at the top.
            factor = (low + high) / 2 if low else 0.85 * high
        self.progress("check", steps, steps)
        if kept is None:
            return self._exact(dict.fromkeys(self.sources, 0.0))[1]
        self._apply(kept[0])
        return kept[1]


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
                    "clipped": int(
                        np.count_nonzero(np.abs(error) > 0.501 * 2.0**-q.fraction)
                    ),
                }
            )
    return {
        "steps": rows,
        "output_error": _output_error(network, result, trace),
        "saturations": result.saturations,
        "vectors": vectors,
        "matrices": matrices,
    }
