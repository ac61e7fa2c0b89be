"""Grids of weights: integers of few bits times a step a row, and the clipped rounding to them.

A weight of row r and column c is ``q[r, c] * step[r] * ratio[c]``. ``step`` is what the row's
multiplier realises; ``ratio`` is a power of two that is the same for all columns of one source,
because matrices that add into one accumulator share its exponent and the row's multiplier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Grid", "best_steps", "round_to_nearest", "snapped"]

_CANDIDATES = 32
_SMALLEST = {4: 0.3, 8: 0.85}
"""Smallest step tried, by bits, as a part of the one at which no weight of the row is clipped. With
eight bits clipping wins little on the mean, and loses much where a clipped weight meets a peak."""


@dataclass(frozen=True)
class Grid:
    """The values that the weights of some rows may take.

    Attributes
    ----------
    bits : int
        4 or 8; q is -2**(bits-1) to 2**(bits-1) - 1.
    step : array of float, shape (rows,)
    ratio : array of float, shape (columns,)
        Powers of two.
    """

    bits: int
    step: np.ndarray
    ratio: np.ndarray

    @property
    def lowest(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1

    def nearest(self, value: np.ndarray, column: int) -> np.ndarray:
        """Values of one column, shape (rows,), moved to the grid."""
        step = self.step * self.ratio[column]
        # Not np.clip: it is called for each column, and takes twice as long on so few numbers.
        return np.minimum(np.maximum(np.rint(value / step), self.lowest), self.highest) * step

    def integers(self, weight: np.ndarray) -> np.ndarray:
        """Integers of weights (rows, columns), rounded and clipped; int8."""
        scaled = np.rint(weight / (self.step[:, None] * self.ratio))
        return np.clip(scaled, self.lowest, self.highest).astype(np.int8)

    def values(self, integers: np.ndarray) -> np.ndarray:
        """The weights that integers stand for."""
        return integers * (self.step[:, None] * self.ratio)


def best_steps(
    weight: np.ndarray,
    power: np.ndarray,
    bits: int,
    ratio: np.ndarray | None = None,
    kept: np.ndarray | None = None,
    bounds: tuple[np.ndarray, float] | None = None,
    *,
    clip: bool = True,
) -> np.ndarray:
    """The step of each row at which clipped rounding has the least squared error.

    Parameters
    ----------
    weight : array, shape (rows, columns)
    power : array, shape (columns,)
        Weight of a column's squared error: the mean square of what it is multiplied by, or ones.
    bits : int
    ratio : array, shape (columns,), optional
        See :class:`Grid`; ones where absent.
    kept : bool array, shape (rows, columns), optional
        Weights that count; all where absent.
    bounds : (array of shape (rows,), float), optional
        Smallest and largest step.
    clip : bool
        Whether a step may clip weights: a second plane makes good for what is rounded, not for
        what is clipped.

    Returns
    -------
    array, shape (rows,)
        Positive; 1, or the largest, for rows without a weight that is not zero.
    """
    ratio = np.ones(weight.shape[1]) if ratio is None else ratio
    scaled = weight / ratio
    if kept is not None:
        scaled = np.where(kept, scaled, 0.0)
    importance = power * ratio**2
    highest = (1 << (bits - 1)) - 1
    peak = np.max(np.abs(scaled), axis=1, initial=0.0)
    full = np.where(peak > 0, peak / (highest + 0.5), 1.0 if bounds is None else bounds[1])
    best, least = full.copy(), np.full(len(weight), np.inf)
    for part in np.geomspace(1.0, _SMALLEST[bits], _CANDIDATES) if clip else (1.0,):
        tried = full * part if bounds is None else np.clip(full * part, *bounds)
        step = tried[:, None]
        rounded = np.clip(np.rint(scaled / step), -highest - 1, highest) * step
        error = (rounded - scaled) ** 2 @ importance
        better = error < least
        best[better], least[better] = tried[better], error[better]
    return best


def snapped(
    steps: np.ndarray, unit: float | None, bounds: tuple[np.ndarray, float] | None
) -> np.ndarray:
    """Steps as the multipliers of rows can have them: whole multiples of ``unit``, within bounds.

    A row's step that the hardware cannot have would scale the whole row.
    """
    if unit is None:
        return steps
    whole = np.maximum(np.rint(steps / unit), 1.0)
    if bounds is not None:
        whole = np.clip(whole, np.ceil(bounds[0] / unit), np.floor(bounds[1] / unit))
    return whole * unit


def round_to_nearest(weight: np.ndarray, grid: Grid, kept: np.ndarray | None = None) -> np.ndarray:
    """The plainest quantization: each weight to the nearest value of the grid, clipped.

    Parameters
    ----------
    weight : array, shape (rows, columns)
    grid : Grid
    kept : bool array, shape (rows, columns), optional
        What is not kept becomes zero.

    Returns
    -------
    array, shape (rows, columns)
    """
    rounded = grid.values(grid.integers(weight))
    return rounded if kept is None else np.where(kept, rounded, 0.0)
