"""When an element of a vector becomes an event, and with which value.

In each step an encoder takes one vector of 16-bit elements and passes on those that matter:

* ``DELTA``: d = v - ref, an event (index, d) where d != 0 and \\|d\\| >= threshold; then ref := v.
  d has 17 bits and is never clipped. What feeds on it keeps its accumulators between steps.
* ``NONZERO``: an event (index, v) where v != 0 and \\|v\\| >= threshold; ref := v there and 0
  elsewhere. What feeds on it starts each step from the bias.
* ``ONE_HOT``: the vector is one token. Where the token changes, an event (old token, -one) and an
  event (new token, +one): the delta of the one-hot vector, so accumulators persist.
* ``ONE_HOT_PLAIN``: an event (token, +one) each step; accumulators start from the bias.

A vector of ``DELTA`` events may have a budget (``contract.budgets``): then some events are refused,
their references stay, and they come in a later step.

A token of -1 (all ones) is "no token". One is 2**fraction of the tensor.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from .budgets import admit

__all__ = ["NO_TOKEN", "Mode", "encode", "encode_within"]

NO_TOKEN = -1


class Mode(IntEnum):
    """Encoder modes; the numbers are those of the image."""

    DELTA = 0
    NONZERO = 1
    ONE_HOT = 2
    ONE_HOT_PLAIN = 3

    @property
    def reload(self) -> bool:
        """Whether accumulators fed by this mode start each step from the bias."""
        return self in (Mode.NONZERO, Mode.ONE_HOT_PLAIN)

    @property
    def one_hot(self) -> bool:
        """Whether the vector is given as one token."""
        return self in (Mode.ONE_HOT, Mode.ONE_HOT_PLAIN)


def encode(
    mode: Mode, v: np.ndarray, ref: np.ndarray, threshold: int | np.ndarray, one: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Events of one vector; ``ref`` is updated in place.

    Parameters
    ----------
    mode : Mode
    v : int64 array, shape (size,), or (1,) with the token for the one-hot modes
    ref : int64 array, shape (size,)
        Reference vector: what the accumulators that this vector feeds stand for now.
    threshold : int, or int array of shape (size,)
        In units of the tensor's least significant bit; one for all elements, or one each.
    one : int
        Value of a token's event.

    Returns
    -------
    index, value : int64 arrays
        In the order in which the hardware issues them.
    """
    if mode.one_hot:
        token = int(v[0])
        old = [int(i) for i in np.flatnonzero(ref)]
        ref[:] = 0
        if token != NO_TOKEN:
            ref[token] = one
        indices: list[int] = []
        values: list[int] = []
        if mode is Mode.ONE_HOT:
            if old == [token]:
                old = []
                token = NO_TOKEN
            indices += old
            values += [-one] * len(old)
        if token != NO_TOKEN:
            indices.append(token)
            values.append(one)
        return np.array(indices, np.int64), np.array(values, np.int64)
    d = v - ref if mode is Mode.DELTA else v
    index = np.flatnonzero((d != 0) & (np.abs(d) >= threshold))
    if mode is Mode.NONZERO:
        ref[:] = 0
    ref[index] = v[index]
    return index, d[index]


def encode_within(
    v: np.ndarray, ref: np.ndarray, threshold: int | np.ndarray, budget: int, window: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Delta events of one vector with a budget; ``ref`` is updated in place.

    Parameters
    ----------
    v, ref, threshold : as for :func:`encode`
    budget, window : as for ``budgets.admit``

    Returns
    -------
    index, value : int64 arrays
    late : int
        Events that were refused.
    """
    d = v - ref
    event = (d != 0) & (np.abs(d) >= threshold)
    index = np.flatnonzero(admit(d, event, threshold, budget, window))
    ref[index] = v[index]
    return index, d[index], int(event.sum()) - len(index)
