"""The network while it is being compressed: float weights on their grids, real thresholds.

Runs whole recordings by the machinery of ``sequence``, and keeps what the accumulators really see:
the reference vectors of the encoders, not the vectors themselves. Good to about the rounding of
16-bit vectors; every figure that is reported comes from integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.network.sequence import (
    Arithmetic,
    Layout,
    Start,
    Trace,
    float_start,
    run_layers,
)

__all__ = ["Encoders", "Simulation", "simulate"]


@dataclass
class Encoders:
    """Delta thresholds and formats, by source.

    Attributes
    ----------
    thresholds : dict of source to float or array, shape (size,)
        In real units; zero where a source is not named.
    fraction : dict of source to int
        Fraction bits that the vectors are rounded to; not rounded where a source is not named.
    plain : set of sources
        Sources whose events are their values, not their changes.
    """

    thresholds: dict[int, float | np.ndarray] = field(default_factory=dict)
    fraction: dict[int, int] = field(default_factory=dict)
    plain: frozenset[int] = frozenset()


@dataclass
class Simulation:
    """A run with what the accumulators saw.

    Attributes
    ----------
    trace : Trace
    seen : dict of source to array, shape (rows, size)
        What stands for each source in the accumulators that it feeds, after each step.
    fired : dict of source to int array, shape (size,)
        Events of each element.
    """

    trace: Trace
    seen: dict[int, np.ndarray]
    fired: dict[int, np.ndarray]


class _Simulated(Arithmetic):
    def __init__(self, model: Model, encoders: Encoders, layout: Layout, keep: bool) -> None:
        super().__init__(model.layers, model.inputs, model.one_hot, np.float64)
        self.encoders = encoders
        self.keep = keep
        self.rows = layout.rows
        self.seen: dict[int, np.ndarray] = {}
        self.place: dict[int, int] = {}
        self.fired: dict[int, np.ndarray] = {}

    def cell(
        self, index: int, m: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        cell = self.cell_of(index)
        operands = {g: m[:, k] for k, g in enumerate(cell.accumulators)}
        return cell.evaluate_float({**operands, **self.layers[index].parameters}, state)

    def encode(self, key: int, vector: np.ndarray, reference: np.ndarray) -> None:
        fraction = self.encoders.fraction.get(key)
        if fraction is not None:
            vector = np.floor(vector * 2.0**fraction + 0.5) * 2.0**-fraction
        if key in self.encoders.plain:
            fired = vector != 0
            reference[...] = vector
        else:
            change = vector - reference
            threshold = np.maximum(self.encoders.thresholds.get(key, 0.0), 1e-12)
            fired = np.abs(change) >= threshold
            np.copyto(reference, vector, where=fired)
        if key not in self.fired:
            self.fired[key] = np.zeros(vector.shape[1], np.int64)
            self.place[key] = 0
            if self.keep:
                self.seen[key] = np.empty((self.rows, vector.shape[1]))
        self.fired[key] += fired.sum(axis=0)
        if self.keep:
            at = self.place[key]
            self.seen[key][at : at + len(vector)] = reference
            self.place[key] = at + len(vector)


def simulate(
    model: Model,
    layout: Layout,
    x: np.ndarray,
    encoders: Encoders | None = None,
    *,
    keep: bool = True,
    start: Start | None = None,
) -> Simulation:
    """Runs a float model with encoders over recordings.

    Parameters
    ----------
    model : Model
    layout : Layout
    x : array of float, shape (rows, inputs), or of tokens, shape (rows,)
    encoders : Encoders, optional
        Without thresholds and rounding where absent.
    keep : bool
        Whether ``seen`` is filled.
    start : Start, optional
        Instead of the model's initial state, in the order of the recordings.
    """
    arithmetic = _Simulated(model, encoders or Encoders(), layout, keep)
    begin = float_start(model.layers, layout) if start is None else start
    trace = run_layers(arithmetic, layout, x, begin)
    return Simulation(trace, arithmetic.seen, arithmetic.fired)


def before(layout: Layout, values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Rows of the step before each row; ``start`` (in the order of the layout) before the first."""
    previous = layout.previous()
    return np.where(
        (previous < 0)[:, None],
        start[np.minimum(np.maximum(-1 - previous, 0), len(start) - 1)],
        values[np.maximum(previous, 0)],
    )
