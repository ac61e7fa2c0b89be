"""Biases that keep what is silent silent.

A corrected bias is a few least significant bits more or less. Where a layer sends what is not zero,
and a unit without input was exactly zero, these bits would be an event in every step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stillnet.sw.contract.cells.cell import Cell

__all__ = ["correct", "silent_units"]

Biases = Mapping[str, np.ndarray]


def silent_units(cell: Cell, bias: Biases, parameters: Biases) -> np.ndarray:
    """Units that stay at zero, state and vector, where nothing feeds them: bool, shape (units,).

    Parameters
    ----------
    cell : Cell
    bias, parameters : dict of str to float array, shape (units,)
    """
    units = len(next(iter(bias.values())))
    zeros = {s: np.zeros(units) for s in {**cell.state, **cell.peers}}
    y, following = cell.evaluate_float({**bias, **parameters}, zeros)
    values = [np.broadcast_to(v, (units,)) for v in (y, *following.values())]
    return np.all([v == 0 for v in values], axis=0)


def correct(
    cell: Cell, bias: Biases, lost: Biases, parameters: Biases, *, keep: bool
) -> dict[str, np.ndarray]:
    """Biases plus what rounding the weights took from the mean, float arrays of shape (units,).

    Parameters
    ----------
    cell : Cell
    bias, lost, parameters : dict of str to float array, shape (units,)
    keep : bool
        One accumulator after the other, and not in units that are silent without it and would not
        be with it.
    """
    result = {g: np.asarray(b, float).copy() for g, b in bias.items()}
    silent = silent_units(cell, result, parameters) if keep else np.zeros(0)
    for g, part in lost.items():
        changed = result | {g: result[g] + part}
        if keep:
            broken = silent & ~silent_units(cell, changed, parameters)
            changed[g] = np.where(broken, result[g], changed[g])
        result = changed
    return result
