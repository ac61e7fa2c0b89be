"""Budgets: how many events of a vector one step may have, and which changes go first.

A delta network is fast on average; a real-time user pays for the worst step. An element that does
not fire keeps its reference, so an event that is refused is not lost: M = bias + W . ref holds, and
the element is late. This module is the rule, for reference and hardware (``hw/events/budget.py``).

A vector with a budget B (events per step) has one number of state, its *window*: the first of
W = :func:`window_size` (B) elements. Of the elements that are events by ``contract.events``,

* those in the window are sent in any case;
* the others are sorted into classes of size: :func:`class_of` compares the difference with the
  threshold, in steps of half an octave. Whole classes are sent, the largest changes first, as long
  as there is room; of the next class those with the lowest index, until there is none.

W is at most B, so no step has more than B events, whatever the input is. After each step the window
moves on by W, and begins again after the last element. Hence the second bound: an element that
stays above its threshold is sent within :func:`longest_wait` steps.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "BUDGET_BITS",
    "CLASSES",
    "CLASS_BITS",
    "admit",
    "class_of",
    "half_octaves",
    "longest_wait",
    "next_window",
    "window_size",
]

BUDGET_BITS = 16
"""Width of a budget; 0 stands for none."""

CLASS_BITS = 3
CLASSES = 1 << CLASS_BITS
"""Classes of size. The last one holds all changes of more than about 11 times the threshold."""


def window_size(budget: int) -> int:
    """Elements of the window: the largest power of two within a quarter of the budget, 1 at least.

    Windows begin at multiples of their size, so that they hold whole groups of an engine
    (``EngineConfig.cell_width``).
    """
    return 1 << max(0, budget.bit_length() - 3)


def next_window(window: int, budget: int, size: int) -> int:
    """Where the window of the next step begins, in a vector of so many elements."""
    after = (window | (window_size(budget) - 1)) + 1
    return after if after < size else 0


def longest_wait(budget: int, size: int) -> int:
    """Steps within which an element that stays above its threshold is sent."""
    return 1 if budget >= size else -(-size // window_size(budget))


def half_octaves(values: np.ndarray) -> np.ndarray:
    """Size of positive integers in half octaves: twice the place of the highest bit, plus the bit
    below it; 1 of an octave is 0."""
    values = np.maximum(values, 1)
    place = np.frexp(values.astype(np.float64))[1] - 1
    return 2 * place + (values << 1 >> place & 1)


def class_of(difference: np.ndarray, threshold: int | np.ndarray) -> np.ndarray:
    """Class of size of events, 0 to ``CLASSES`` - 1, by their differences and thresholds."""
    size = half_octaves(np.abs(difference)) - half_octaves(np.asarray(threshold))
    return np.clip(size, 0, CLASSES - 1)


def admit(
    difference: np.ndarray,
    event: np.ndarray,
    threshold: int | np.ndarray,
    budget: int,
    window: int,
) -> np.ndarray:
    """Which events of a vector are sent in a step.

    Parameters
    ----------
    difference : int64 array, shape (size,)
        What each event would carry.
    event : bool array, shape (size,)
        Elements that are events by ``contract.events``.
    threshold : int, or int array of shape (size,)
    budget : int
        Positive.
    window : int
        The vector's state; :func:`next_window` gives that of the next step.

    Returns
    -------
    bool array, shape (size,)
    """
    width = window_size(budget)
    first = window & -width
    sent, others = event.copy(), event.copy()
    others[first : first + width] = False
    room = budget - int(event[first : first + width].sum())
    if int(others.sum()) <= room:
        return sent
    classes = class_of(difference, threshold)
    for k in reversed(range(CLASSES)):
        members = np.flatnonzero(others & (classes == k))
        sent[members[room:]] = False
        room = max(0, room - len(members))
    return sent
