"""How many weights each part of a network keeps, for one sparsity of the whole.

All weights are ranked by one figure: what the network's output would lose without the weight (the
saliency of the optimal brain surgeon, times the row's sensitivity) for each event that has to fetch
it. Matrices that matter little, or are fetched often, so end up sparser.
"""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.sequence import Trace
from stillnet.sw.quantization.layerwise import Job, Settings
from stillnet.sw.quantization.simulate import before
from stillnet.sw.quantization.solvers.hessian import bundles

__all__ = ["allocate", "densities", "figures"]

_LEAST, _MOST = 0.1, 1.0
"""Least and most of a bundle's weights that may stay."""

_ROWS = 4096


def _seen(trace: Trace, source: int, late: bool, rows: np.ndarray) -> np.ndarray:
    z = trace.vectors[source]
    if late:
        z = before(trace.layout, z, trace.start.vectors[source])
    return z[rows]


def figures(job: Job, settings: Settings) -> dict[tuple[int, int], np.ndarray]:
    """What each weight is worth, by (layer, place of the bundle): shape (rows, columns)."""
    count = job.trace.layout.rows
    rows = np.unique(np.linspace(0, count - 1, min(_ROWS, count)).astype(np.int64))
    found: dict[tuple[int, int], np.ndarray] = {}
    for i, layer in enumerate(job.model.layers):
        for place, bundle in enumerate(bundles(job.model, i)):
            sources = [layer.matrices[j].source for j, _ in bundle.parts]
            weight = bundle.weight(layer)
            if job.model.one_hot and INPUT in sources:  # columns of tokens keep all weights
                part = bundle.columns(job.model)[sources.index(INPUT)]
                weight = np.delete(weight, part, axis=1)
                sources.remove(INPUT)
            if not sources:
                continue
            z = np.concatenate([_seen(job.trace, s, s >= i, rows) for s in sources], axis=1)
            z = z - z.mean(axis=0)
            hessian = z.T @ z / len(z)
            mean = float(np.trace(hessian)) / len(hessian)
            hessian += (settings.damping * mean if mean > 0 else 1.0) * np.eye(len(hessian))
            inverse = np.diag(np.linalg.inv(hessian))
            importance = np.concatenate(
                [job.sensitivity.accumulators[i, g].mean(axis=0) for g in bundle.gates]
            )
            cost = np.concatenate(
                [job.cost.get(s, np.ones(job.model.source_size(s))) for s in sources]
            )
            found[i, place] = weight**2 / inverse * importance[:, None] / cost
    return found


def densities(
    figures: dict[tuple[int, int], np.ndarray], kept: float
) -> dict[tuple[int, int], float]:
    """What part of each bundle stays where ``kept`` of all their weights does."""
    wanted = kept * sum(f.size for f in figures.values())
    everything = np.sort(np.concatenate([f.ravel() for f in figures.values()]))[::-1]

    def at(price: float) -> dict[tuple[int, int], float]:
        return {
            key: float(np.clip(np.mean(f > price), _LEAST, _MOST)) for key, f in figures.items()
        }

    low, high = 0, len(everything) - 1  # the bounds of a bundle move the price a little
    while low < high:
        middle = (low + high) // 2
        found = at(float(everything[middle]))
        if sum(found[k] * figures[k].size for k in found) < wanted:
            low = middle + 1
        else:
            high = middle
    return at(float(everything[low]))


def allocate(job: Job, settings: Settings) -> dict[tuple[int, int], float]:
    """Density of each bundle, by (layer, place of the bundle)."""
    return densities(figures(job, settings), 1 - settings.pattern.sparsity)
