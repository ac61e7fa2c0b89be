"""What the range of a vector would clip of recordings that calibration does not have.

Calibration itself answers that. It is cut into five parts, and each part meets the range that the
other four would have given: a part that is louder than all others is clipped. The float network
runs on with the vectors that are left, and the error of its outputs is what clipping costs, with
gates that saturate and forgive it. Formats weigh it against what a wider range costs.
"""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.equalize import Exponents
from stillnet.sw.model.model import Model
from stillnet.sw.network.sequence import Floats, Layout, Start, Trace, run_layers

__all__ = ["Clipping"]

_PARTS = 5
"""Of calibration, one after the other, as for what is held out."""

_SHORTEST = 20
"""Steps of a part below which its peaks say too little."""


class Clipping:
    """What clipping costs, as the outputs of the float network show it.

    Parameters
    ----------
    model : Model
        In floating point, with scaled elements.
    trace : Trace
        A run of it over calibration.
    elements : dict of source to array
        The powers of two of the elements: one that has grown had its own peak as a measure, the
        others that of their vector.
    """

    def __init__(self, model: Model, trace: Trace, elements: Exponents) -> None:
        self.model, self.trace, self.elements = model, trace, elements
        self.wanted = trace.vectors[len(model.layers) - 1]
        self.parts = _parts(trace.layout)
        self._noise: dict[tuple[int, float], float] = {}  # limits themselves are negative

    def seen(self, source: int, limit: float) -> float:
        """Noise power of the outputs on calibration itself, where a range is narrower than it."""
        key = (source, -limit)
        if key not in self._noise:
            rows = len(self.trace.vectors[source])
            self._noise[key] = self._run(source, np.full((rows, 1), limit))
        return self._noise[key]

    def noise(self, source: int, headroom: float) -> float:
        """Noise power of the outputs, summed over them, for one vector.

        Parameters
        ----------
        source : int
        headroom : float
            Range of its format over the largest magnitude that calibration shows.
        """
        if not self.parts or (source == INPUT and self.model.one_hot):
            return 0.0
        key = (source, headroom)
        if key not in self._noise:
            vectors, limit = self.trace.vectors[source], headroom * self._largest(source)
            clips = bool(np.any(np.abs(vectors) > limit))
            self._noise[key] = self._run(source, limit) if clips else 0.0
        return self._noise[key]

    def _largest(self, source: int) -> np.ndarray:
        """Largest magnitude that a vector without each part would be expected to have, by row."""
        vectors = np.abs(self.trace.vectors[source])
        peaks = np.stack([np.max(vectors[rows], axis=0) for rows in self.parts])
        whole = float(np.max(peaks, initial=0.0))
        own = self.elements.get(source, np.zeros(vectors.shape[1])) > 0
        result = np.empty_like(vectors)
        for k, rows in enumerate(self.parts):
            others = np.max(np.delete(peaks, k, axis=0), axis=0)
            total = np.maximum(others, peaks[k])
            # A silent element would not have grown.
            part = np.where(own & (others > 0), others / np.where(total > 0, total, 1.0), 1.0)
            common = np.max(others, initial=0.0)
            result[rows] = np.where(own & (others > 0), whole * part, common)
        return result

    def _run(self, source: int, limit: np.ndarray) -> float:
        model, trace = self.model, self.trace
        x = trace.vectors[INPUT]
        if source == INPUT:
            x = np.clip(x, -limit, limit)
        found = run_layers(_Clipped(model, source, limit), trace.layout, x, _given(trace))
        error = found.vectors[len(model.layers) - 1] - self.wanted
        return float(np.sum(np.mean(error**2, axis=0)))


class _Clipped(Floats):
    """A run in floating point in which the vectors of one layer are clipped, row by row."""

    def __init__(self, model: Model, source: int, limit: np.ndarray) -> None:
        super().__init__(model)
        self.source, self.limit, self.place = source, limit, 0

    def cell(
        self, index: int, m: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        y, new = super().cell(index, m, state)
        if index != self.source:
            return y, new
        limit = self.limit[self.place : self.place + len(y)]
        self.place += len(y)
        return np.clip(y, -limit, limit), new


def _parts(layout: Layout) -> list[np.ndarray]:
    """Rows of the parts of calibration; none where it is too short."""
    if layout.rows < _PARTS * _SHORTEST:
        return []
    order = np.concatenate([layout.index(k) for k in range(layout.recordings)])
    return np.array_split(order, _PARTS)


def _given(trace: Trace) -> Start:
    """Where the recordings of a run began, in their own order."""
    order = np.argsort(trace.layout.order)
    start = trace.start
    return Start(
        {key: rows[order] for key, rows in start.state.items()},
        {key: rows[order] for key, rows in start.vectors.items()},
    )
