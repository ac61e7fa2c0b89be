"""Dense layers of an ONNX graph: products, activations, scales and shifts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .layers import Affine, Conv, Dense
from .tensors import Axis, Dim, Fix, Flow, Value, dim_size, label, refuse, shown_shape
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx


def add_dense(walk: Walk, node: onnx.NodeProto, flow: Flow, at: int, weight: np.ndarray) -> Flow:
    """Multiplies dimension ``at`` by a matrix of shape (units, inputs)."""
    walk.newest(node, flow)
    walk.contract(node, flow.dims[at], weight.shape[1])
    weight, bias = walk.take_pending(weight)
    name = walk.fresh_name(node)
    walk.open = Dense(name, weight, bias)
    walk.layers.append(walk.open)
    walk.unbounded()
    units = len(weight)
    walk.feature = () if units == 1 else (Axis(f"the outputs of '{name}'", units),)
    dims = list(flow.dims)
    dims[at] = walk.feature
    return walk.changed(node, dims, flow.reduced)


@handles("MatMul")
def matmul(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    left = values[0] is flow
    weight = walk.const(node, values[1 if left else 0], "weights")
    if weight.ndim == 0 or any(n != 1 for n in weight.shape[:-2]):
        refuse(node, f"its weights have shape {weight.shape}; a matrix is needed")
    rank = len(flow.dims)
    if rank == 0:
        refuse(node, "it multiplies a scalar; feed it one vector a step")
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
            "the sum off and export a single chain of layers",
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
        affine(walk, node, np.ones(()), vector)
    walk.write(node, out)


@handles("Relu", "Sigmoid", "Tanh")
def activation(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    walk.newest(node, flow)
    kind = node.op_type.lower()
    if kind == "relu" and walk.low >= 0:
        walk.write(node, flow)
        return
    walk.write(node, activate(walk, node, flow, kind))


def activate(walk: Walk, node: onnx.NodeProto, flow: Flow, kind: str) -> Flow:
    if walk.open is None or isinstance(walk.open, Conv) and kind != "relu":
        flow = _identity(walk, node, flow)
    assert walk.open is not None
    walk.open.activation = kind
    walk.open = None
    ranges = {"relu": (0.0, math.inf), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
    walk.low, walk.high = ranges[kind]
    return walk.changed(node, flow.dims, flow.reduced)


def _identity(walk: Walk, node: onnx.NodeProto, flow: Flow) -> Flow:
    """A dense layer for an activation that follows none; its matrix is the identity.

    It costs a column of one weight a fired element.
    """
    if walk.feature is None and (not flow.dims or any(a.dynamic for a in flow.dims[-1])):
        refuse(
            node,
            f"{node.op_type} is the first node of the graph, on vectors of unknown size; export "
            "it with the number of features fixed",
        )
    at = len(flow.dims) - 1
    if walk.feature is not None and walk.feature in flow.dims:
        at = flow.dims.index(walk.feature)
    return add_dense(walk, node, flow, at, np.eye(dim_size(flow.dims[at])))


@handles("Clip")
def clip(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """A clip that cannot clip is dropped; one at 0 alone is a ReLU."""
    flow = walk.flow(node, values)
    walk.newest(node, flow)
    if values[0] is not flow:
        refuse(node, "its limits are computed from the data; make them constants")
    attrs = walk.attributes(node)
    low, high = float(attrs.get("min", -math.inf)), float(attrs.get("max", math.inf))
    limits = [low, high]
    for i, v in enumerate(values[1:3]):
        if v is not None:
            limits[i] = float(walk.const(node, v, ("min", "max")[i]).reshape(()))
    low, high = limits
    biggest = float(np.finfo(np.float32).max)  # written for "no limit"
    low = -math.inf if low <= -biggest else low
    high = math.inf if high >= biggest else high
    if low <= walk.low and high >= walk.high:
        walk.write(node, flow)
    elif low == 0 and high >= walk.high and walk.open is not None:
        walk.write(node, activate(walk, node, flow, "relu"))
    else:
        refuse(
            node,
            f"clipping to {low:g} .. {high:g} is not supported, only a clip that never acts "
            "or one at 0 after a dense layer (ReLU); leave this node out and clip on the host",
        )


@handles("Add", "Div", "Mul", "Sub")
def arithmetic(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Add, Sub, Mul, Div by constants."""
    flow = walk.flow(node, values)
    walk.newest(node, flow)
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
    affine(walk, node, scale, shift)
    walk.write(node, walk.changed(node, dims, flow.reduced))


@handles("BatchNormalization")
def batch_normalization(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Of trained statistics: a scale and shift of each feature, which is axis 1."""
    flow = walk.flow(node, values)
    walk.newest(node, flow)
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
    affine(walk, node, scale, shift)
    walk.write(node, walk.changed(node, dims, flow.reduced))


def affine(walk: Walk, node: onnx.NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
    if walk.open is not None:
        with np.errstate(all="ignore"):
            rows = np.atleast_1d(scale).reshape(-1, *[1] * (walk.open.weight.ndim - 1))
            walk.open.weight = walk.open.weight * rows
            walk.open.bias = walk.open.bias * scale + shift
        return
    walk.unbounded()
    if walk.table is not None:
        walk.table = walk.table * scale + shift
        return
    old = walk.pending or Affine("", np.ones(()), np.zeros(()))
    walk.pending = Affine(label(node), old.scale * scale, old.shift * scale + shift)


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
    dim = dims[varying[0]]
    if len(varying) > 1 or len(dim) != 1 or walk.feature not in (None, dim):
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
    walk.feature = dim
    return constant.reshape(size), dims
