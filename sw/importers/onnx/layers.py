"""Comparison of the models that two walks over an ONNX graph found."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from stillnet.sw.model.model import Model

__all__ = ["same_models"]


def same_models(a: Model, b: Model) -> bool:
    """Whether two models are equal in every name and weight."""
    return (a.inputs, a.one_hot) == (b.inputs, b.one_hot) and _equal(a.layers, b.layers)


def _equal(p: Any, q: Any) -> bool:
    if type(p) is not type(q):
        return False
    if isinstance(p, np.ndarray):
        return np.array_equal(p, q, equal_nan=True)
    if isinstance(p, list | tuple):
        return len(p) == len(q) and all(_equal(v, w) for v, w in zip(p, q))
    if isinstance(p, dict):
        return p.keys() == q.keys() and all(_equal(v, q[k]) for k, v in p.items())
    if is_dataclass(p):
        return all(_equal(getattr(p, f.name), getattr(q, f.name)) for f in fields(p))
    return bool(p == q)
