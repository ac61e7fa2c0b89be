"""Weights on a grid and within a pattern, by the second-order error of a layer's accumulators.

For rows W of a layer and what they multiply, Z, the error of the accumulators is
E = tr((V - W) H (V - W)^T) with H = Z^T Z / steps, a quadratic whose minimum W is known. V must lie
on a grid and keep only some weights. Two solvers follow each other:

* :func:`sweep` goes over the columns once, rounds or removes each weight, and lets the columns that
  are still free make good for it: the optimal brain surgeon (Hassibi and Stork, 1993) in the order
  of GPTQ (Frantar et al., 2022) and SparseGPT (Frantar and Alistarh, 2023), with one inverse
  for all rows.
* :func:`descend` then goes over the columns again and again, and gives each weight, and each
  group of a pattern, its best value while all others stand: coordinate descent (as QuantEase,
  Behdin et al., 2023). No step can make E larger.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rounding import Grid

__all__ = ["descend", "objective", "refit_steps", "sweep"]

_BLOCK = 64
"""Columns whose consequences for all others are worked out together."""

Choose = Callable[[np.ndarray, int], np.ndarray]
"""From the saliencies of a column's rows, and its number, to those that stay."""


def objective(
    value: np.ndarray, wanted: np.ndarray, hessian: np.ndarray, importance: np.ndarray | None = None
) -> float:
    """E = sum over rows of importance * (v - w) H (v - w)."""
    error = value - wanted
    rows = np.einsum("rc,rc->r", error @ hessian, error)
    return float(np.sum(rows if importance is None else rows * importance))


def sweep(
    wanted: np.ndarray,
    hessian: np.ndarray,
    grid: Grid,
    choose: Choose,
    importance: np.ndarray,
) -> np.ndarray:
    """One pass over the columns, dearest first.

    Parameters
    ----------
    wanted : array, shape (rows, columns)
    hessian : array, shape (columns, columns)
        Positive definite.
    grid : Grid
    choose : function
        Which rows of a column stay; asked as the column is reached.
    importance : array, shape (rows,)
        Weight of a row's error against that of other rows.

    Returns
    -------
    array, shape (rows, columns)
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = np.ascontiguousarray(wanted.T[order])  # a row here is a column of the matrix
    result = np.empty_like(left)
    columns = len(order)
    for first in range(0, columns, _BLOCK):
        last = min(first + _BLOCK, columns)
        errors = np.empty((last - first, left.shape[1]))
        for k in range(first, last):
            column = int(order[k])
            target = left[k]
            rounded = grid.nearest(target, column)
            saved = np.maximum(target**2 - (target - rounded) ** 2, 0.0)
            stays = choose(saved * importance / factor[k, k] ** 2, column)
            value = np.where(stays, rounded, 0.0)
            result[k] = value
            error = (target - value) / factor[k, k]
            left[k + 1 : last] -= factor[k, k + 1 : last, None] * error
            errors[k - first] = error
        left[last:] -= factor[first:last, last:].T @ errors
    back = np.empty_like(result)
    back[order] = result
    return np.ascontiguousarray(back.T)


def descend(
    value: np.ndarray,
    wanted: np.ndarray,
    hessian: np.ndarray,
    grid: Grid,
    choose: Choose,
    importance: np.ndarray,
    sweeps: int = 6,
) -> np.ndarray:
    """Coordinate descent from ``value``; parameters as those of :func:`sweep`."""
    value = np.ascontiguousarray(value.T)  # a row here is a column of the matrix
    gradient = hessian @ (value - wanted.T)
    diagonal = np.diag(hessian).copy()
    columns = len(diagonal)
    for _ in range(sweeps):
        moved = False
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            inside = gradient[first:last].copy()
            change = np.zeros_like(inside)
            for k in range(first, last):
                target = value[k] - inside[k - first] / diagonal[k]
                rounded = grid.nearest(target, k)
                saved = np.maximum(target**2 - (target - rounded) ** 2, 0.0)
                stays = choose(saved * importance * diagonal[k], k)
                delta = np.where(stays, rounded, 0.0) - value[k]
                if np.any(delta):
                    moved = True
                    value[k] += delta
                    inside[k + 1 - first :] += hessian[k, k + 1 : last, None] * delta
                    change[k - first] = delta
            gradient += hessian[:, first:last] @ change
        if not moved:
            break
    return np.ascontiguousarray(value.T)


def refit_steps(
    integers: np.ndarray,
    wanted: np.ndarray,
    hessian: np.ndarray,
    grid: Grid,
    bounds: tuple[np.ndarray, float] | None = None,
) -> np.ndarray:
    """The step of each row that is best for given integers: a line search in closed form.

    Returns
    -------
    array, shape (rows,)
        Positive; as it was for rows of zeros and where the best would be negative.
    """
    shape = integers * grid.ratio
    product = shape @ hessian
    power = np.einsum("rc,rc->r", product, shape)
    best = np.einsum("rc,rc->r", product, wanted) / np.where(power > 0, power, 1.0)
    best = np.where((power > 0) & (best > 0), best, grid.step)
    return best if bounds is None else np.clip(best, *bounds)
