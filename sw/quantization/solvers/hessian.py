"""What a layer's accumulators were multiplied by: the statistics that the solvers work on.

Gates that are fed by the same matrices form a *bundle*: their rows see one vector Z, the sources of
these matrices side by side, and so share one Hessian. In a GRU r and u see (x, h), cx sees x and ch
sees h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.model.model import Layer, Model

__all__ = ["Bundle", "Statistics", "bundles", "damped", "gather"]

_CHUNK = 4096


@dataclass(frozen=True)
class Bundle:
    """Gates of a layer that are fed by the same matrices.

    Attributes
    ----------
    layer : int
    gates : tuple of str
    parts : tuple of (matrix, tuple of places of the gates in it)
    """

    layer: int
    gates: tuple[str, ...]
    parts: tuple[tuple[int, tuple[int, ...]], ...]

    def weight(self, layer: Layer) -> np.ndarray:
        """Rows of the bundle's gates over all of its sources, (gates * units, columns)."""
        pieces = [
            layer.matrices[j].weight[list(places)].reshape(len(self.gates) * layer.units, -1)
            for j, places in self.parts
        ]
        return np.concatenate(pieces, axis=1)

    def bias(self, layer: Layer) -> np.ndarray:
        """Biases of the rows, (gates * units,)."""
        return np.concatenate([np.asarray(layer.bias[g], float) for g in self.gates])

    def columns(self, model: Model) -> list[slice]:
        """Columns of each part."""
        sizes = [
            model.source_size(model.layers[self.layer].matrices[j].source) for j, _ in self.parts
        ]
        ends = np.cumsum(sizes)
        return [slice(int(e - s), int(e)) for e, s in zip(ends, sizes)]


def bundles(model: Model, index: int) -> list[Bundle]:
    """The bundles of a layer, in the order of its accumulators as the matrices name them."""
    layer = model.layers[index]
    fed: dict[str, list[tuple[int, int]]] = {}
    for j, m in enumerate(layer.matrices):
        for place, g in enumerate(m.gates):
            fed.setdefault(g, []).append((j, place))
    grouped: dict[tuple[int, ...], list[str]] = {}
    for g, parts in fed.items():
        grouped.setdefault(tuple(j for j, _ in parts), []).append(g)
    result = []
    for matrices, gates in grouped.items():
        where = tuple((j, tuple(layer.matrices[j].gates.index(g) for g in gates)) for j in matrices)
        result.append(Bundle(index, tuple(gates), where))
    return result


@dataclass
class Statistics:
    """Moments of a bundle over calibration.

    Attributes
    ----------
    mean : array, shape (columns,)
        Of Z, weighted.
    target_mean : array, shape (rows,)
        Of the accumulators wanted, biases included.
    hessian : array, shape (columns, columns)
        Covariance of Z.
    cross : array, shape (rows, columns)
        Covariance of the accumulators wanted with Z.
    """

    mean: np.ndarray
    target_mean: np.ndarray
    hessian: np.ndarray
    cross: np.ndarray


def gather(
    z: np.ndarray,
    wanted: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    centred: bool = True,
    about: Statistics | None = None,
) -> Statistics:
    """Moments of Z, shape (steps, columns), and accumulators, (steps, rows).

    Parameters
    ----------
    weight : array, shape (steps,), optional
        How much each step counts.
    centred : bool
        The moments are those about the mean, whose error a corrected bias takes away.
    about : Statistics, optional
        About the mean of these instead: biases were corrected on other steps.
    """
    steps = len(z)
    w = np.full(steps, 1.0 / steps) if weight is None else weight / weight.sum()
    mean, target_mean = w @ z, w @ wanted
    middle = (mean, target_mean) if about is None else (about.mean, about.target_mean)
    centre, target_centre = middle if centred else (0.0, 0.0)
    hessian = np.zeros((z.shape[1], z.shape[1]))
    cross = np.zeros((wanted.shape[1], z.shape[1]))
    for first in range(0, steps, _CHUNK):
        part = slice(first, first + _CHUNK)
        moved = z[part] - centre
        weighted = moved * w[part, None]
        hessian += weighted.T @ moved
        cross += (wanted[part] - target_centre).T @ weighted
    return Statistics(mean, target_mean, hessian, cross)


def damped(
    statistics: Statistics, weight: np.ndarray, damping: float, follow: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weights that would be best in floating point, Hessian) of rows.

    Parameters
    ----------
    weight : array, shape (rows, columns)
    damping : float
        Added to the Hessian's diagonal, as a part of its mean: how little the directions that
        calibration shows are trusted beyond it.
    follow : float
        See ``layerwise.Settings``.
    """
    mean = float(np.trace(statistics.hessian)) / len(statistics.hessian)
    extra = damping * mean if mean > 0 else 1.0
    hessian = statistics.hessian + extra * np.eye(len(statistics.hessian))
    right = follow * (statistics.cross + extra * weight) + (1 - follow) * weight @ hessian
    return np.linalg.solve(hessian, right.T).T, hessian
