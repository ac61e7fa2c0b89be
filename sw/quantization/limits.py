"""Thresholds for an error budget: one a vector or one an element, for the fewest words.

For each element and each of some thresholds the encoder is run over the element's calibration
trace: how often would it fire, and how far would its reference stray? An element's threshold is the
one of least (words fetched) + (power of the output's error) / rate, where the error is weighted by
the element's sensitivity. The rate of exchange is common to a vector; rates are balanced between
vectors, and all of them scaled together, by running the network itself, until the error of its
output meets the budget. No data but calibration is ever looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace

from .integers import set_limits
from .preparation import Plan
from .report import run_quantized
from .sensitivity import Sensitivity
from .simulate import Encoders, simulate

__all__ = [
    "SPAN",
    "Budget",
    "Curves",
    "LimitSearch",
    "Limits",
    "curves",
    "integer_error",
    "settle",
]

Progress = Callable[[str, int, int], None]

SPAN = 6.0
"""How far rates of exchange are scaled in one search, as a power of two."""

_STEPS = 24
_RANGE = (2.0**-9, 2.0**2.5)
"""Smallest and largest threshold tried, in parts of the standard deviation of the vector."""


@dataclass
class Curves:
    """What thresholds would do to the elements of a vector.

    Attributes
    ----------
    thresholds : array, shape (candidates, size)
        Ascending; the first is zero.
    rate : array, shape (candidates, size)
        Events a step.
    error : array, shape (candidates, size)
        Mean square of vector less reference.
    """

    thresholds: np.ndarray
    rate: np.ndarray
    error: np.ndarray


def curves(layout: Layout, vectors: np.ndarray, lsb: float) -> Curves:
    """Runs the delta encoder of every element for every candidate threshold.

    Parameters
    ----------
    layout : Layout
    vectors : array, shape (rows, size)
    lsb : float
        Smallest difference of two values of the vector.
    """
    size = vectors.shape[1]
    scale = max(float(np.sqrt(np.mean(np.var(vectors, axis=0)))), 16 * lsb)
    candidates = np.concatenate([[0.0], np.geomspace(*_RANGE, _STEPS) * scale])
    thresholds = np.repeat(candidates[:, None], size, axis=1)
    count = len(candidates)
    reference = np.zeros((count, layout.recordings, size), np.float32)
    limit = np.maximum(candidates, lsb / 2).astype(np.float32)[:, None, None]
    fired = np.zeros((count, size))
    error = np.zeros((count, size))
    small = vectors.astype(np.float32)
    for t in range(layout.steps):
        at = layout.at(t)
        n = at.stop - at.start
        change = small[at] - reference[:, :n]
        fires = np.abs(change) >= limit
        fired += fires.sum(axis=1)
        np.copyto(change, 0.0, where=fires)
        error += np.einsum("knj,knj->kj", change, change)
        np.copyto(reference[:, :n], small[at][None], where=fires)
    return Curves(thresholds, fired / layout.rows, error / layout.rows)


@dataclass
class Limits:
    """Chosen thresholds with what they cost on calibration.

    Attributes
    ----------
    thresholds : dict of source to array, shape (size,), or float
        In real units.
    error : float
        Mean absolute error of the outputs, as :class:`Budget` measures it.
    words : float
        A step.
    rates : dict of source to float
        Logarithms (base 2) of the rates of exchange.
    """

    thresholds: dict[int, float | np.ndarray]
    error: float
    words: float
    rates: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What may be lost, and how it is measured.

    Attributes
    ----------
    error : float
        Largest mean absolute error.
    each : bool
        Of every single output; else of the mean over all of them, in which one output that never
        moves again can hide.
    relative : bool
        In parts of each output's standard deviation.
    """

    error: float
    each: bool = True
    relative: bool = False

    def measure(self, y: np.ndarray, wanted: np.ndarray) -> float:
        """The error of outputs, shape (rows, outputs), against those of the float model."""
        errors = np.mean(np.abs(y - wanted), axis=0) / self._unit(wanted)
        return float(np.max(errors) if self.each else np.mean(errors))

    def worst(self, y: np.ndarray, wanted: np.ndarray) -> int:
        """The output of the largest error."""
        return int(np.argmax(np.mean(np.abs(y - wanted), axis=0) / self._unit(wanted)))

    def _unit(self, wanted: np.ndarray) -> np.ndarray | float:
        if not self.relative:
            return 1.0
        spread = np.std(wanted, axis=0)
        return np.where(spread > 0, spread, max(float(spread.max()), 1e-12))

    def __str__(self) -> str:
        return f"{100 * self.error:g}%" if self.relative else f"{self.error:g}"


class LimitSearch:
    """Balances thresholds on calibration traces.

    Parameters
    ----------
    model : Model
        As it is to run: with compressed weights.
    layout, x, wanted
        Recordings to judge by: rows (rows, inputs) as the model takes them, and the float model's
        outputs (rows, outputs).
    unit : array, shape (outputs,)
        What the model's outputs are multiplied by to be those of the float model.
    budget : Budget
        How errors are measured.
    fraction : dict of source to int
    sensitivity : Sensitivity
    words : dict of source to array, shape (size,)
        Words that an event of each element fetches.
    sources : list of int
        Those with delta events.
    plain : frozenset of int
        Sources with plain events.
    by_element : bool
        One threshold an element, or one a vector.
    warm : int
        Steps at the begin of a recording that are not judged.
    """

    def __init__(
        self,
        model: Model,
        layout: Layout,
        x: np.ndarray,
        wanted: np.ndarray,
        *,
        unit: np.ndarray,
        budget: Budget,
        fraction: dict[int, int],
        sensitivity: Sensitivity,
        words: dict[int, np.ndarray],
        sources: list[int],
        plain: frozenset[int] = frozenset(),
        by_element: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.unit, self.budget, self.plain = unit, budget, plain
        self.model, self.layout, self.x, self.wanted = model, layout, x, wanted
        self.fraction, self.sensitivity, self.words = fraction, sensitivity, words
        self.sources, self.by_element = sources, by_element
        self.progress = progress or (lambda what, done, total: None)
        self.runs = 0
        calm = simulate(model, layout, x, Encoders({}, fraction, plain)).trace
        self.curves = {
            s: curves(layout, x if s == INPUT else calm.vectors[s], 2.0 ** -fraction[s])
            for s in sources
        }

    @classmethod
    def of(
        cls,
        plan: Plan,
        model: Model,
        budget: Budget,
        words: dict[int, np.ndarray],
        *,
        by_element: bool,
        progress: Progress,
    ) -> LimitSearch:
        """A search for the thresholds of a plan's solved weights, which ``model`` has."""
        base = plan.base
        last = len(model.layers) - 1
        exponents = base.elements.get(last, np.zeros(model.outputs))
        return cls(
            model,
            base.judged.layout,
            base.judged.scaled,
            base.judged.wanted,
            unit=2.0**-exponents,
            budget=budget,
            fraction=plan.job.fraction,
            sensitivity=base.felt,
            words=words,
            sources=base.delta_sources,
            plain=frozenset(base.plain),
            by_element=by_element,
            progress=progress,
        )

    def thresholds(self, rates: dict[int, float]) -> dict[int, float | np.ndarray]:
        """Thresholds for given rates of exchange (logarithms)."""
        result: dict[int, float | np.ndarray] = {}
        for s in self.sources:
            c = self.curves[s]
            weight = self.sensitivity.vectors[s]
            weight = weight + 1e-3 * float(weight.mean())
            cost = self.words[s] * c.rate + weight * c.error * 2.0 ** -rates[s]
            if self.by_element:
                best = np.argmin(cost, axis=0)
                result[s] = c.thresholds[best, np.arange(c.rate.shape[1])]
            else:
                result[s] = float(c.thresholds[int(np.argmin(cost.sum(axis=1))), 0])
        return result

    def judge(self, thresholds: dict[int, float | np.ndarray]) -> tuple[float, float]:
        """(error of the outputs, words a step), by running the network."""
        self.runs += 1
        encoders = Encoders(thresholds, self.fraction, self.plain)
        result = simulate(self.model, self.layout, self.x, encoders, keep=False)
        last = len(self.model.layers) - 1
        error = self.budget.measure(result.trace.vectors[last] * self.unit, self.wanted)
        words = sum(float(self.words[s] @ result.fired[s]) for s in self.sources)
        return error, words / self.layout.rows

    def _meet(
        self,
        rates: dict[int, float],
        *,
        error: float | None = None,
        words: float | None = None,
        tries: int = 7,
        span: float = SPAN,
    ) -> Limits:
        """All rates scaled together until the error, or the words, are just within the budget."""
        low, high = -span, span
        best: Limits | None = None
        for _ in range(tries):
            middle = (low + high) / 2
            moved = {s: r + middle for s, r in rates.items()}
            thresholds = self.thresholds(moved)
            e, w = self.judge(thresholds)
            within = e <= error if error is not None else w <= (words or 0.0)
            found = Limits(thresholds, e, w, moved)
            if error is not None:
                low, high = (middle, high) if within else (low, middle)
                if within and (best is None or w < best.words):
                    best = found
            else:
                low, high = (low, middle) if within else (middle, high)
                if within and (best is None or e < best.error):
                    best = found
        if best is None:
            moved = {s: r + (-span if error is not None else span) for s, r in rates.items()}
            thresholds = self.thresholds(moved)
            best = Limits(thresholds, *self.judge(thresholds), moved)
        return best

    def start(self) -> dict[int, float]:
        """Rates of exchange at which the predicted error of all vectors together is a hundredth of
        a unit; a beginning only."""
        rows = self.wanted.shape[1]
        common = dict.fromkeys(self.sources, 0.0)
        low, high = -40.0, 60.0
        for _ in range(24):
            middle = (low + high) / 2
            chosen = self.thresholds(dict.fromkeys(common, middle))
            total = 0.0
            for s in self.sources:
                c = self.curves[s]
                value = np.broadcast_to(np.asarray(chosen[s]), c.rate.shape[1])
                place = np.argmin(np.abs(c.thresholds - value), axis=0)
                total += float(
                    self.sensitivity.vectors[s] @ c.error[place, np.arange(c.rate.shape[1])]
                )
            low, high = (middle, high) if total / rows < 1e-4 else (low, middle)
        return dict.fromkeys(common, (low + high) / 2)

    def run(
        self,
        *,
        error: float | None = None,
        words: float | None = None,
        rounds: int = 3,
        rates: dict[int, float] | None = None,
    ) -> Limits:
        """The thresholds of fewest words within an error, or of least error within some words.

        Parameters
        ----------
        error, words : float, optional
            One of the two: mean absolute error of the output, words a step.
        rounds : int
            How often the vectors are balanced.
        rates : dict, optional
            Where to begin; found by prediction where absent.
        """
        total = rounds * (len(self.sources) + 5) + 8
        fresh = rates is None
        found = self._meet(rates or self.start(), error=error, words=words, tries=8)
        self.progress("thresholds", 8, total)
        best = found
        step = 1.5
        for k in range(rounds if fresh or rounds else 0):
            worth = {}
            for s in self.sources:
                up = {**found.rates, s: found.rates[s] + step}
                e, w = self.judge(self.thresholds(up))
                saved = max(found.words - w, 1e-6 * found.words)
                lost = max(e**2 - found.error**2, 1e-6 * found.error**2)
                worth[s] = float(np.log2(saved / lost))
                self.progress("thresholds", 8 + k * (len(self.sources) + 5) + s + 2, total)
            middle = float(np.median(list(worth.values())))
            moved = {
                s: found.rates[s] + float(np.clip(0.6 * (worth[s] - middle), -step, step))
                for s in self.sources
            }
            found = self._meet(moved, error=error, words=words, tries=5, span=2.0)
            if error is not None:
                better = found.error <= error and (best.error > error or found.words < best.words)
            else:
                assert words is not None
                better = found.words <= words and (best.words > words or found.error < best.error)
            if better:
                best = found
            step *= 0.75
        self.progress("thresholds", total, total)
        return best


_SHRUNK = 40
"""How often thresholds are shrunk by 3 % where integers exceed the budget."""


def integer_error(plan: Plan, network: Network, budget: Budget) -> tuple[float, Trace]:
    """Error of the outputs on the judged recordings, bit-exact."""
    judged = plan.base.judged
    result = run_quantized(network, judged.layout, judged.x)
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return budget.measure(y, judged.wanted), result


def settle(plan: Plan, network: Network, limits: Limits, budget: Budget) -> None:
    """Sets thresholds. The search ran in floating point: in integers, too, the error must keep the
    budget, so they shrink until it does.

    Raises
    ------
    StillnetError
        Where it does not even without thresholds, naming the worst output.
    """
    factor = 1.0
    for _ in range(_SHRUNK):
        scaled = {s: factor * v for s, v in limits.thresholds.items()}
        set_limits(network, Encoders(scaled, plan.job.fraction))
        if integer_error(plan, network, budget)[0] <= budget.error:
            limits.thresholds = scaled
            return
        factor *= 0.97
    limits.thresholds = {s: 0.0 * v for s, v in limits.thresholds.items()}
    set_limits(network, Encoders(limits.thresholds, plan.job.fraction))
    error, result = integer_error(plan, network, budget)
    if error > budget.error:
        y = network.dequantize_output(result.vectors[len(network.layers) - 1])
        of = f"of output {budget.worst(y, plan.base.judged.wanted)}" if budget.each else "over all"
        unit = "%" if budget.relative else ""
        raise StillnetError(
            f"max_error {budget} cannot be kept: the mean error {of} is "
            f"{100 * error if budget.relative else error:.4g}{unit} with every threshold at zero; "
            "allow at least that"
        )
