"""Dense layers of an ONNX graph: products, activations, scales and shifts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .curves import curve_after, curve_joined, curve_scaled, known_activation
from .tensors import Dim, Fix, Flow, Value, dim_size, label, refuse, shown_shape
from .walk import Walk, handles
from .within_step import feature_values, spread, unroll

if TYPE_CHECKING:
    import onnx


def add_dense(walk: Walk, node: onnx.NodeProto, flow: Flow, at: int, weight: np.ndarray) -> Flow:
    """Multiplies dimension ``at`` by a matrix of shape (units, inputs)."""
    known, dim = walk.feature_of(flow), flow.dims[at]
    if known is not None and dim != known and set(dim) == set(known):
        order = np.arange(dim_size(dim)).reshape([a.size for a in dim])  # features in their order
        weight = weight[:, order.transpose([dim.index(a) for a in known]).reshape(-1)]
        flow = replace(flow, dims=(*flow.dims[:at], known, *flow.dims[at + 1 :]))
    walk.contract(node, flow, flow.dims[at], weight.shape[1])
    name = walk.fresh_name(node)
    vector = walk.net.dense(flow.vector, name, weight, None, "linear")
    feature = walk.features(name, len(weight))
    dims = list(flow.dims)
    dims[at] = feature
    return Flow(vector, tuple(dims), feature, reduced=flow.reduced)


@handles("MatMul")
def matmul(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    left = values[0] is flow
    weight = walk.const(node, values[1 if left else 0], "weights")
    if spread(walk, flow):
        unroll(walk, node, flow, values)
        return
    if weight.ndim == 0 or any(n != 1 for n in weight.shape[:-2]):
        refuse(node, f"its weights have shape {weight.shape}; a matrix is needed")
    rank = len(flow.dims)
    if rank == 0:
        refuse(node, "it multiplies a scalar; feed it one vector per step")
    if weight.ndim == 1:
        matrix = weight[None]
    else:
        matrix = weight.reshape(weight.shape[-2:])
        matrix = matrix.T if left else matrix
    at = rank - 1 if left or rank == 1 else rank - 2
    out = add_dense(walk, node, flow, at, matrix)
    dims = list(out.dims)
    if weight.ndim == 1:
        del dims[at]
    dims = [()] * (weight.ndim - max(rank, 2)) + dims
    walk.write(node, replace(out, dims=tuple(dims)))


@handles("Gemm")
def gemm(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    if len(flow.dims) != 2:
        refuse(node, f"its input has {len(flow.dims)} axes, a Gemm takes 2; export it again")
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    left = values[0] is flow
    if not left and values[1] is not flow:
        refuse(
            node,
            "its C is computed from the data; only constant weights are supported, so split "
            "the sum off as an Add",
        )
    weight = alpha * walk.const(node, values[1 if left else 0], "B" if left else "A")
    if weight.ndim != 2:
        refuse(node, f"its weights have shape {weight.shape}; a matrix is needed")
    weight = weight.T if attrs.get("transB" if left else "transA", 0) else weight
    if attrs.get("transA" if left else "transB", 0):
        flow = replace(flow, dims=flow.dims[::-1])
    out = add_dense(walk, node, flow, 1 if left else 0, weight.T if left else weight)
    if len(values) > 2 and values[2] is not None:
        bias = beta * walk.const(node, values[2], "C")
        vector, dims = per_feature(walk, node, out, bias, "C")
        if len(dims) != 2:
            refuse(node, f"its C has shape {bias.shape}; at most 2 axes are allowed")
        out = affine(walk, node, out, np.ones(()), vector)
    walk.write(node, out)


FIRST_NODE = "is the first node of the graph"
"""In the reason why a function cannot begin a network."""

RANGES = {
    "relu": (0.0, math.inf),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    **dict.fromkeys(("abs", "exp", "softplus", "sqrt"), (0.0, math.inf)),
}
"""Smallest and largest value of activations that have such."""


@handles("Relu", "Sigmoid", "Tanh")
def activation(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    kind = node.op_type.lower()
    if kind == "relu" and flow.low >= 0:
        walk.write(node, flow)
        return
    walk.write(node, activate(walk, node, flow, kind))


def activate(
    walk: Walk, node: onnx.NodeProto, flow: Flow, kind: str, **settings: float | np.ndarray
) -> Flow:
    """An activation of ``Model.dense`` over a flow."""
    if not walk.net.joins(flow.vector, kind):
        flow = _identity(walk, node, flow)
    vector = walk.net.activation(flow.vector, label(node), kind, settings)
    low, high = RANGES.get(kind, (-math.inf, math.inf))
    if kind == "clip":
        low = max(flow.low, float(np.min(settings["low"])))
        high = min(flow.high, float(np.max(settings["high"])))
    curve = curve_after(flow, kind, settings)
    gate = flow.vector if kind == "sigmoid" else None
    return replace(flow, vector=vector, low=low, high=high, final=None, curve=curve, gate=gate)


def _identity(walk: Walk, node: onnx.NodeProto, flow: Flow) -> Flow:
    """A dense layer for an activation that follows none; its matrix is the identity.

    It costs a column of one weight a fired element.
    """
    feature = walk.feature_of(flow)
    if spread(walk, flow) and feature is not None:
        name = walk.fresh_name(node)
        vector = walk.net.dense(flow.vector, name, np.eye(dim_size(feature)), None, "linear")
        return replace(flow, vector=vector)
    if feature is None and (not flow.dims or any(a.dynamic for a in flow.dims[-1])):
        refuse(
            node,
            f"{node.op_type} {FIRST_NODE}, on vectors of unknown size; export it with the number "
            "of features fixed",
        )
    at = len(flow.dims) - 1
    if feature is not None and feature in flow.dims:
        at = flow.dims.index(feature)
    return add_dense(walk, node, flow, at, np.eye(dim_size(flow.dims[at])))


@handles("Add", "Div", "Mul", "Sub")
def arithmetic(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Add, Sub, Mul, Div by constants; sums, differences and products of vectors."""
    flows = [v for v in values if isinstance(v, Flow)]
    if len(flows) == 2 and node.op_type in ("Add", "Sub"):
        combine(walk, node, values)
        return
    if len(flows) == 2 and node.op_type == "Mul":
        walk.write(node, multiply(walk, node, *flows))
        return
    flow = walk.flow(node, values)
    first = values[0] is flow
    op = node.op_type
    if op == "Div" and not first:
        refuse(node, "it divides by the data, which is not supported; remove it")
    constant = walk.const(node, values[1 if first else 0], "constant")
    vector, dims = per_feature(walk, node, flow, constant, "constant")
    one, zero = np.ones(()), np.zeros(())
    with np.errstate(all="ignore"):
        if op == "Add":
            scale, shift = one, vector
        elif op == "Sub":
            scale, shift = (one, -vector) if first else (-one, vector)
        elif op == "Mul":
            scale, shift = vector, zero
        else:
            scale, shift = one / vector, zero
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        refuse(node, "its constant gives NaN or infinity; export the model again")
    walk.write(node, affine(walk, node, replace(flow, dims=dims), scale, shift))


@handles("BatchNormalization")
def batch_normalization(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Of trained statistics: a scale and shift of each feature, which is axis 1."""
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    if attrs.get("training_mode", 0) or len([o for o in node.output if o]) > 1:
        refuse(node, "it computes statistics as in training; export the model for inference")
    if values[0] is not flow or len(flow.dims) < 2:
        refuse(node, f"its input has {len(flow.dims)} axes, at least 2 are needed")
    gamma, beta, mean, variance = (
        walk.const(node, v, what).reshape(-1)
        for v, what in zip(values[1:5], ("scale", "B", "mean", "var"))
    )
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + float(attrs.get("epsilon", 1e-5)))
        shift = beta - mean * scale
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        refuse(node, "its statistics give NaN or infinity; train or export the model again")
    column = (-1, *[1] * (len(flow.dims) - 2))
    scale, dims = per_feature(walk, node, flow, scale.reshape(column), "scale")
    shift, _ = per_feature(walk, node, flow, shift.reshape(column), "B")
    walk.write(node, affine(walk, node, replace(flow, dims=dims), scale, shift))


def affine(
    walk: Walk, node: onnx.NodeProto, flow: Flow, scale: np.ndarray, shift: np.ndarray
) -> Flow:
    """``scale * flow + shift``, scalars or one value a feature."""
    vector = walk.net.affine(flow.vector, label(node), scale, shift)
    curve = curve_scaled(flow, scale, shift)
    found = replace(
        flow, vector=vector, low=-math.inf, high=math.inf, final=None, curve=curve, gate=None
    )
    return recognized(walk, node, found)


def combine(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """The sum or difference of two vectors."""
    a, b = (v for v in values if isinstance(v, Flow))
    feature = same_layout(walk, node, a, b)
    second = b.vector
    if node.op_type == "Sub":
        second = walk.net.affine(second, label(node), -np.ones(()), np.zeros(()))
    vector = walk.net.add(walk.fresh_name(node), [a.vector, second])
    sign = -1.0 if node.op_type == "Sub" else 1.0
    curve = curve_joined(a, b, lambda p, q: p + sign * q)
    walk.write(node, Flow(vector, a.dims, feature, reduced=a.reduced, curve=curve))


def same_layout(walk: Walk, node: onnx.NodeProto, a: Flow, b: Flow) -> Dim | None:
    """Checks that two flows have the same axes; the features of both."""
    for flow in (a, b):
        if walk.feature_of(flow) is None and flow.dims:
            walk.contract(node, flow, flow.dims[-1], dim_size(flow.dims[-1]))
    laid = [_places(walk, flow) for flow in (a, b)]
    if laid[0] != laid[1] or a.shape != b.shape or a.reduced != b.reduced:
        refuse(
            node,
            f"it combines tensors of shapes {shown_shape(a)} and {shown_shape(b)}, whose axes "
            "are not the same; export it without broadcasting",
        )
    return walk.feature_of(a)


def _places(walk: Walk, flow: Flow) -> list[object]:
    """What lies in each dimension: steps and batch, or which part of the features."""
    feature = walk.feature_of(flow)
    if feature is None or feature in flow.dims:
        return [None if d == feature else d for d in flow.dims]
    return [tuple(feature.index(x) if x in feature else x for x in d) for d in flow.dims]


def multiply(walk: Walk, node: onnx.NodeProto, a: Flow, b: Flow) -> Flow:
    """The product of two vectors: an activation in several nodes, a mask, or a product."""
    feature = same_layout(walk, node, a, b)
    curve = curve_joined(a, b, lambda p, q: p * q, product=True)
    found, dims, reduced = known_activation(walk, node, curve), a.dims, a.reduced
    if found is None:
        name = walk.fresh_name(node)
        if a.gate is not None and b.gate is None:
            a, b = b, a
        if b.gate is not None:
            found = walk.net.product(name, "mask", {"a": a.vector, "b": b.gate})
        else:
            found = walk.net.product(name, "product", {"a": a.vector, "b": b.vector})
    return Flow(found, dims, feature, reduced=reduced, curve=curve)


def recognized(walk: Walk, node: onnx.NodeProto, flow: Flow) -> Flow:
    """The same, computed by one activation where the nodes until here are one."""
    found = known_activation(walk, node, flow.curve)
    return flow if found is None else replace(flow, vector=found)


def per_feature(
    walk: Walk, node: onnx.NodeProto, flow: Flow, constant: np.ndarray, what: str
) -> tuple[np.ndarray, tuple[Dim, ...]]:
    """A broadcast constant as a scalar or one value a feature; and the result's dimensions."""
    rank = max(len(flow.dims), constant.ndim)
    dims = ((),) * (rank - len(flow.dims)) + flow.dims
    sizes = (1,) * (rank - constant.ndim) + constant.shape
    varying = [i for i, n in enumerate(sizes) if n != 1]
    if not varying:
        return constant.reshape(()), dims
    if spread(walk, flow):
        values = feature_values(walk, flow, constant)
        if values is not None:
            return values, dims
    dim = dims[varying[0]]
    if len(varying) > 1 or len(dim) != 1 or walk.feature_of(flow) not in (None, dim):
        refuse(
            node,
            f"its {what} of shape {constant.shape} does not hold one value a feature (tensor "
            f"of shape {shown_shape(flow)}); only constants that are the same at every step are "
            "supported",
        )
    size = sizes[varying[0]]
    if dim[0].size != size:
        if dim[0].dynamic and dim[0].position is not None:
            raise Fix(dim[0].position, size)
        refuse(
            node,
            f"its {what} of shape {constant.shape} does not fit a tensor of shape "
            f"{shown_shape(flow)}; export the model again",
        )
    if flow.feature is None:
        walk.feature = dim
        walk.net.input(dim_size(dim))
    return constant.reshape(size), dims
