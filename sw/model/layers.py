"""Layers and matrices of a float model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Layer", "Matrix", "checked"]


@dataclass(frozen=True)
class Matrix:
    """Weights from one source into some of the accumulators of a layer.

    Attributes
    ----------
    source : int
        ``INPUT`` or the index of the layer whose output is multiplied.
    gates : tuple of str
        Accumulators of the layer's cell that the matrix adds into.
    weight : array of float, shape (len(gates), units, size of the source)
    """

    source: int
    gates: tuple[str, ...]
    weight: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One cell with its matrices.

    Attributes
    ----------
    name : str
        Name of the node in the file that it came from; errors and reports use it.
    cell : str
        Name of a cell of the contract.
    units : int
    matrices : tuple of Matrix
    bias : dict of str to array of float, shape (units,)
        One entry for each accumulator of the cell.
    initial : dict of str to array of float, shape (units,)
        Initial value of state variables that do not start at zero.
    parameters : dict of str to array of float, shape (units,)
        Constants of the cell, one entry for each that it has.
    peers : dict of str to int
        For each peer of the cell the index of the layer whose state variable it reads.
    plain : bool
        The vector is sent as plain events (``Mode.NONZERO``), not as differences.
    """

    name: str
    cell: str
    units: int
    matrices: tuple[Matrix, ...]
    bias: dict[str, np.ndarray]
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    peers: dict[str, int] = field(default_factory=dict)
    plain: bool = False


def checked(layer: str, label: str, value: np.ndarray, ndim: int) -> np.ndarray:
    """A float array with ``ndim`` dimensions; refuses NaN and infinity by the name of the layer."""
    array = np.asarray(value, dtype=float)
    if array.ndim != ndim:
        raise StillnetError(
            f"layer '{layer}': {label} has {array.ndim} dimensions (shape {array.shape}), "
            f"expected {ndim}"
        )
    if not np.all(np.isfinite(array)):
        raise StillnetError(
            f"layer '{layer}': {label} holds NaN or infinity; export the model again"
        )
    return array
