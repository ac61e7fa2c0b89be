"""Attention of Keras, written out as nodes of ONNX.

What is attended to is the axis before the features; all axes in front of it are apart. Over the
steps of a recording such a layer runs on the host, and on whole recordings only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .writer import Layer, Tensor

__all__ = ["ATTENTION"]

_HIDDEN = np.float32(-1e9)
"""The score of a step that may not be seen."""


def _operands(layer: Layer, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, value and key, which is the value where it is left out."""
    if len(tensors) not in (2, 3):
        layer.refuse(f"it reads {len(tensors)} tensors, where a query and a value are expected")
    query, value, key = tensors[0], tensors[1], tensors[-1 if len(tensors) == 3 else 1]
    for other in (value, key):
        alike = len(other.shape) == len(query.shape) and other.shape[:-2] == query.shape[:-2]
        if len(query.shape) < 2 or not alike:
            shapes = ", ".join(str((1, *t.shape)) for t in tensors)
            layer.refuse(f"it does not take tensors of the shapes {shapes}; save the model again")
    masks = layer.config.get("call masks")
    if masks:
        layer.refuse(
            f"it is called with {', '.join(masks)}, which the graph does not have; call it without "
            "a mask, on recordings of full length"
        )
    return query, value, key


def _chosen(layer: Layer, scores: str, query: Tensor, value: Tensor, rank: int) -> str:
    """Shares of the values, from scores (..., queries, keys)."""
    if layer.config.get("call causal"):
        sizes = layer.node("Shape", scores)
        shown = layer.node("Slice", sizes, np.array([rank - 2]), np.array([rank]))
        ones = layer.node("Expand", np.float32(1), shown)
        seen = layer.node("Cast", layer.node("Trilu", ones, upper=0), to=9)
        scores = layer.node("Where", seen, scores, _HIDDEN)
    return str(layer.node("Softmax", scores, axis=-1))


def _attended(layer: Layer, scores: str, query: Tensor, value: Tensor) -> Tensor:
    shares = _chosen(layer, scores, query, value, len(query.shape) + 1)
    out = layer.node("MatMul", shares, value, main=True)
    return Tensor(out, (*query.shape[:-1], value.shape[-1]))


def _pairs(layer: Layer, query: Tensor, key: Tensor, scale: Any = None) -> str:
    """tanh of the scaled sums of each query and each key."""
    rank = len(query.shape) + 1
    a = layer.node("Unsqueeze", query, np.array([rank - 1]))
    b = layer.node("Unsqueeze", key, np.array([rank - 2]))
    total = layer.node("Add", a, b)
    total = total if scale is None else layer.node("Mul", total, scale)
    return str(layer.node("Tanh", total))


def _summed(layer: Layer, x: str) -> str:
    return str(layer.node("ReduceSum", x, np.array([-1]), keepdims=0))


def _dot(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    """Luong's attention."""
    query, value, key = _operands(layer, tensors)
    concat = layer.config.get("score_mode", "dot") == "concat"
    scaled = bool(layer.config.get("use_scale"))
    arrays = layer.weights(scaled + concat)
    if concat:
        scale = arrays[0] if scaled else None
        scores = layer.node("Mul", _summed(layer, _pairs(layer, query, key, scale)), arrays[-1])
    else:
        rank = len(key.shape) + 1
        turned = [*range(rank - 2), rank - 1, rank - 2]
        scores = layer.node("MatMul", query, layer.node("Transpose", key, perm=turned))
        scores = layer.node("Mul", scores, arrays[0]) if scaled else scores
    return _attended(layer, scores, query, value)


def _additive(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    """Bahdanau's attention."""
    query, value, key = _operands(layer, tensors)
    scaled = bool(layer.config.get("use_scale", True))
    pairs = _pairs(layer, query, key)
    if scaled:
        pairs = layer.node("Mul", pairs, layer.weights(1)[0])
    return _attended(layer, _summed(layer, pairs), query, value)


def _several_heads(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    query, value, key = _operands(layer, tensors)
    rank = len(query.shape) + 1
    axes = layer.config.get("attention_axes")
    axes = list(range(1, rank - 1)) if axes is None else [int(a) % rank for a in np.ravel(axes)]
    if axes != [rank - 2]:
        layer.refuse(
            f"it attends to the axes {axes} of {(1, *query.shape)}; set attention_axes to "
            f"({rank - 2},), the axis before the features, or save the part without it"
        )
    use_bias = bool(layer.config.get("use_bias", True))
    count = 1 + use_bias
    arrays = layer.weights(4 * count)
    parts = [arrays[k * count : (k + 1) * count] for k in range(4)]
    order = [*range(rank - 2), rank - 1, rank - 2, rank]  # heads in front of what is attended to

    def heads(x: Tensor, weights: Sequence[np.ndarray]) -> str:
        kernel = weights[0]
        if kernel.ndim != 3 or x.shape[-1] != len(kernel):
            layer.refuse(
                f"its weights of shape {kernel.shape} do not fit {x.shape[-1]} features; save it "
                "again"
            )
        out = layer.node("MatMul", x, kernel.reshape(len(kernel), -1))
        out = layer.node("Add", out, weights[1].reshape(-1)) if use_bias else out
        shape = np.array([*[0] * (rank - 1), *kernel.shape[1:]])
        return str(layer.node("Transpose", layer.node("Reshape", out, shape), perm=order))

    q, k, v = (heads(x, p) for x, p in zip((query, key, value), (parts[0], parts[1], parts[2])))
    last = [*range(rank - 1), rank, rank - 1]
    scores = layer.node("MatMul", q, layer.node("Transpose", k, perm=last))
    scores = layer.node("Mul", scores, np.float32(parts[0][0].shape[-1] ** -0.5))
    shares = _chosen(layer, scores, query, value, rank + 1)
    out = layer.node("Transpose", layer.node("MatMul", shares, v), perm=order)
    kernel = parts[3][0]
    out = layer.node("Reshape", out, np.array([*[0] * (rank - 1), -1]))
    out = layer.node("MatMul", out, kernel.reshape(-1, kernel.shape[-1]), main=True)
    out = layer.node("Add", out, parts[3][1]) if use_bias else out
    return Tensor(out, (*query.shape[:-1], kernel.shape[-1]))


ATTENTION: dict[str, Callable[[Layer, Sequence[Tensor]], Tensor]] = {
    "AdditiveAttention": _additive,
    "Attention": _dot,
    "MultiHeadAttention": _several_heads,
}
