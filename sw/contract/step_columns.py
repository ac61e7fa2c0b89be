"""How the rows of a column in format "step" are dealt out to the places of its words.

Rows of lane 0, then of lane 1 and so on make a ring. Place i of the words begins in the rows of
lane i and may go on into those of lane i + 1 (after the last lane comes the first): it follows one
arc of the ring, and the arcs are cut so that all of them take the same number of entries. So a
column does not wait for its fullest lane, and no row changes its lane.

An entry is a weight and the step from the row before it, 1 to ``2**width``; where the next weight
is further away, entries of weight zero go between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Cut", "cut"]

_FIRST = (0, 1, 2, 3, 4, 5, 6, 8)
_SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)
"""Rows of lane 0 that the last place takes: these numbers, or these shares of all."""


@dataclass(frozen=True)
class Cut:
    """The arcs of all columns of a matrix.

    Attributes
    ----------
    entries : int array, shape (columns,)
        Entries of the longest arc, those of weight zero included.
    position : int array
        Place in the ring of every kept weight of all columns, those of lane 0 twice: once more
        after the last lane.
    begin : int array, shape (columns, lanes + 1)
        Where in ``position`` the arcs begin, and where the last one ends.
    """

    entries: np.ndarray
    position: np.ndarray
    begin: np.ndarray


def cut(kept: np.ndarray, width: int) -> Cut:
    """Cuts the rings of all columns for the fewest entries.

    Parameters
    ----------
    kept : bool array, shape (columns, lanes, rows)
    width : int
        Bits of a step.
    """
    columns, lanes, rows = kept.shape
    reach = 1 << width
    ring = np.concatenate([kept, kept[:, :1]], axis=1).reshape(columns, -1)
    column, position = np.nonzero(ring)
    # First weight of each lane of each column, and the end; a sentinel keeps indices valid.
    counts = np.concatenate([kept, kept[:, :1]], axis=1).sum(axis=2)
    bounds = np.zeros((columns, lanes + 2), np.int64)
    bounds[:, 1:] = np.cumsum(counts, axis=1)
    bounds += np.concatenate([[0], np.cumsum(bounds[:-1, -1])])[:, None]
    gap = np.ones(len(position) + 1, np.int64)
    if len(position):
        gap[1:-1] = position[1:] - position[:-1]
        gap[:-1][np.concatenate([[True], column[1:] != column[:-1]])] = 1
    cost = np.cumsum(1 + (gap - 1) // reach)
    position = np.append(position, 0)

    def arcs(chosen: np.ndarray, first: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Begins of the arcs of ``limit`` entries; the last one is -1 where they do not fit."""
        bound = bounds[chosen]
        begin = np.zeros((len(chosen), lanes + 1), np.int64)
        begin[:, 0] = bound[:, 0] + first
        end = bound[:, lanes] + first
        fits = np.ones(len(chosen), bool)
        for i in range(lanes):
            at = begin[:, i]
            skipped = (position[at] - i * rows) // reach
            most = limit - 1 - skipped + cost[at]
            taken = np.where(limit > skipped, np.searchsorted(cost, most, side="right"), at)
            begin[:, i + 1] = np.minimum(np.maximum(taken, at), np.minimum(bound[:, i + 2], end))
            fits &= begin[:, i + 1] >= np.minimum(bound[:, i + 1], end)
        begin[~fits | (begin[:, lanes] != end), lanes] = -1
        return begin

    own = counts[:, 0]
    tries = np.stack(
        [np.minimum(own, k) for k in _FIRST] + [(own * s).astype(np.int64) for s in _SHARES]
    )
    low = -(-kept.sum(axis=(1, 2)) // lanes)  # fewest entries that might do
    # Without sharing every lane's own rows fit; that is the most that is ever needed.
    inner = np.where(kept, np.arange(rows), -1)
    before = np.maximum.accumulate(inner, axis=2)
    previous = np.concatenate([np.full((columns, lanes, 1), -1), before[:, :, :-1]], axis=2)
    alone = np.where(kept, 1 + (np.arange(rows) - previous - 1) // reach, 0).sum(axis=2)
    high = alone.max(axis=1)
    best = arcs(np.arange(columns), np.zeros(columns, np.int64), high)
    while True:
        open_ = np.flatnonzero(low < high)
        if not len(open_):
            break
        middle = (low[open_] + high[open_]) // 2
        found = np.zeros(len(open_), bool)
        for first in tries:
            left = np.flatnonzero(~found)
            if not len(left):
                break
            begin = arcs(open_[left], first[open_[left]], middle[left])
            good = begin[:, lanes] >= 0
            best[open_[left[good]]] = begin[good]
            found[left[good]] = True
        high[open_[found]] = middle[found]
        low[open_[~found]] = middle[~found] + 1
    return Cut(high, position, best)
