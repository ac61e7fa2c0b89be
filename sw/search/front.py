"""Points that no other point beats in both error and time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["front", "hypervolume"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points that are not dominated, by rising second value; of equal ones the
    first."""
    order = sorted(range(len(points)), key=lambda k: (points[k][1], points[k][0], k))
    found: list[int] = []
    least = np.inf
    for k in order:
        if points[k][0] < least:
            found.append(k)
            least = points[k][0]
    return found


def hypervolume(points: Sequence[tuple[float, float]], corner: tuple[float, float]) -> float:
    """Area between a front and a corner that is worse in both (Zitzler and Thiele, 1999)."""
    inside = [p for p in points if p[0] < corner[0] and p[1] < corner[1]]
    area, above = 0.0, corner[0]
    for k in front(inside):
        error, time = inside[k]
        area += (above - error) * (corner[1] - time)
        above = error
    return area
