"""What the host does with the outputs of a language model."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["top_k"]


def top_k(logits: np.ndarray, k: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The most likely tokens.

    Parameters
    ----------
    logits : array of float or int, shape (..., tokens)
        Outputs of the last layer, as floats or as the engine's integers.
    k : int
        How many, 1 to the number of tokens.
    scale : float
        What one unit of ``logits`` is worth; 2**-fraction for integers.

    Returns
    -------
    tokens : array of int, shape (..., k)
        Most likely first; of equal ones the lowest number first.
    probabilities : array of float, shape (..., k)
        Softmax over all tokens.
    """
    values = np.asarray(logits)
    if values.ndim == 0 or values.shape[-1] == 0 or values.dtype.kind not in "fiu":
        raise StillnetError(
            f"logits have shape {values.shape} and type {values.dtype}; numbers (..., tokens) are "
            "needed"
        )
    if not 1 <= k <= values.shape[-1]:
        raise StillnetError(f"k is {k}; 1 to {values.shape[-1]} of the tokens can be taken")
    scaled = values.astype(np.float64) * scale
    order = np.argsort(-scaled, axis=-1, kind="stable")[..., :k]
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    chances = weights / weights.sum(axis=-1, keepdims=True)
    return order, np.take_along_axis(chances, order, axis=-1)
