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

from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.sequence import Layout

from .sensitivity import Sensitivity
from .simulate import Encoders, simulate

__all__ = ["Curves", "LimitSearch", "Limits", "curves"]

Progress = Callable[[str, int, int], None]

_STEPS = 20
_RANGE = (2.0**-9, 2.0**0.5)
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
        Mean absolute error of the output.
    words : float
        A step.
    rates : dict of source to float
        Logarithms (base 2) of the rates of exchange.
    """

    thresholds: dict[int, float | np.ndarray]
    error: float
    words: float
    rates: dict[int, float] = field(default_factory=dict)


class LimitSearch:
    """Balances thresholds on calibration traces.

    Parameters
    ----------
    model : Model
        As it is to run: with compressed weights.
    layout, x, wanted
        Recordings to judge by: rows (rows, inputs), and the float model's outputs (rows, outputs).
    fraction : dict of source to int
    sensitivity : Sensitivity
    words : dict of source to array, shape (size,)
        Words that an event of each element fetches.
    sources : list of int
        Those with delta events.
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
        fraction: dict[int, int],
        sensitivity: Sensitivity,
        words: dict[int, np.ndarray],
        sources: list[int],
        by_element: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.layout, self.x, self.wanted = model, layout, x, wanted
        self.fraction, self.sensitivity, self.words = fraction, sensitivity, words
        self.sources, self.by_element = sources, by_element
        self.progress = progress or (lambda what, done, total: None)
        self.runs = 0
        calm = simulate(model, layout, x, Encoders({}, fraction)).trace
        self.curves = {
            s: curves(layout, x if s == INPUT else calm.vectors[s], 2.0 ** -fraction[s])
            for s in sources
        }

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
        """(mean absolute error of the output, words a step), by running the network."""
        self.runs += 1
        encoders = Encoders(thresholds, self.fraction)
        result = simulate(self.model, self.layout, self.x, encoders, keep=False)
        last = len(self.model.layers) - 1
        error = float(np.mean(np.abs(result.trace.vectors[last] - self.wanted)))
        words = sum(float(self.words[s] @ result.fired[s]) for s in self.sources)
        return error, words / self.layout.rows

    def _meet(
        self,
        rates: dict[int, float],
        *,
        error: float | None = None,
        words: float | None = None,
        tries: int = 7,
        span: float = 6.0,
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
