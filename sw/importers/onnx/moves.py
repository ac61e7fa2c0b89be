"""Operators of an ONNX graph that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .embedding import look_up
from .tensors import (
    FLOATS,
    INTEGERS,
    Axis,
    Const,
    Dim,
    Fix,
    Flow,
    Value,
    dim_size,
    label,
    refuse,
    shown_shape,
)
from .walk import Walk, handles
from .within_step import in_step, join_features, pick_features, split_features

if TYPE_CHECKING:
    import onnx


def moved(walk: Walk, node: onnx.NodeProto, flow: Flow, dims: Sequence[Dim]) -> None:
    walk.write(node, replace(flow, dims=tuple(dims)))


def only_data(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> Flow:
    """The flow, which must be the first input."""
    flow = walk.flow(node, values)
    if values[0] is not flow:
        refuse(
            node,
            "its parameters are computed from the data, which is not supported; export a "
            "graph with constant shapes and indices",
        )
    return flow


@handles("Identity")
def identity(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    walk.write(node, only_data(walk, node, values))


@handles("Dropout")
def dropout(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    training = values[2] if len(values) > 2 else None
    if isinstance(training, Const) and np.any(training.value):
        refuse(node, "training_mode is set; export the model for inference")
    walk.write(node, flow)


@handles("Cast")
def cast(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    to = walk.attributes(node).get("to")
    if flow.tokens and to in INTEGERS:
        walk.write(node, flow)
        return
    if flow.tokens:
        refuse(node, "it makes numbers of tokens; only an embedding or a OneHot may take them")
    if to not in FLOATS:
        kind = walk.graph.type_name(to or 0)
        refuse(node, f"it rounds the data to {kind}, which is not supported; remove it")
    walk.write(node, flow)


@handles("CastLike")
def cast_like(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    like = values[1]
    if not isinstance(like, Const) or like.value.dtype.kind in "biu":
        refuse(node, "it rounds the data, which is not supported; remove it")
    walk.write(node, flow)


@handles("Shape")
def shape(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    sizes = flow.shape[attrs.get("start", 0) : attrs.get("end", len(flow.dims))]
    walk.write(node, Const(np.array(sizes, np.int64)))


@handles("Size")
def size(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    walk.write(node, Const(np.array(math.prod(flow.shape), np.int64)))


@handles("Transpose")
def transpose(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    rank = len(flow.dims)
    order = [int(i) for i in walk.attributes(node).get("perm", range(rank)[::-1])]
    if sorted(order) != list(range(rank)):
        refuse(node, f"perm {order} does not fit {rank} axes; export the model again")
    if flow.padded is not None:
        axis, count = flow.padded
        flow = replace(flow, padded=(order.index(axis), count))
    moved(walk, node, flow, [flow.dims[i] for i in order])


@handles("Reshape")
def reshape(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    target = walk.parameter(node, values, 1, "shape") or []
    sizes = list(target)
    if not walk.attributes(node).get("allowzero", 0):
        sizes = [flow.shape[i] if n == 0 and i < len(flow.dims) else n for i, n in enumerate(sizes)]
    total, known = math.prod(flow.shape), math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) == 1 and known > 0 and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    regroup(walk, node, flow, sizes)


@handles("Flatten")
def flatten(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    axis = int(walk.attributes(node).get("axis", 1))
    axis += len(flow.dims) if axis < 0 else 0
    sizes = [math.prod(flow.shape[:axis]), math.prod(flow.shape[axis:])]
    regroup(walk, node, flow, sizes)


def regroup(walk: Walk, node: onnx.NodeProto, flow: Flow, sizes: Sequence[int]) -> None:
    """Divides the axes, in their order, among dimensions of the sizes wanted."""
    axes = [a for d in flow.dims for a in d]
    dims: list[Dim] = []
    for n in sizes:
        dim: list[Axis] = []
        while axes and math.prod(a.size for a in dim) < n:
            dim.append(axes.pop(0))
        dims.append(tuple(dim))
    if axes or [dim_size(d) for d in dims] != list(sizes):
        split = split_features(walk, flow, sizes)
        if split is not None:
            moved(walk, node, *split)
            return
        _fix_the_length(flow, sizes)
        refuse(
            node,
            f"it reshapes {shown_shape(flow)} to {shown_sizes(walk, sizes)}, which splits an axis; "
            "only axes of size 1, steps and batch may be moved",
        )
    moved(walk, node, flow, dims)


def _fix_the_length(flow: Flow, sizes: Sequence[int]) -> None:
    """PyTorch's exporter may write the length of its example into a graph of dynamic length: then
    the file itself says what that size is, and the network of one step is the same."""
    axes = [a for d in flow.dims for a in d]
    dynamic = [a for a in axes if a.dynamic and a.position is not None]
    if len(dynamic) != 1 or any(n < 1 for n in sizes):
        return
    size, rest = divmod(math.prod(sizes), math.prod(a.size for a in axes if a is not dynamic[0]))
    if not rest and size != dynamic[0].size and dynamic[0].position is not None:
        raise Fix(dynamic[0].position, size)


def shown_sizes(walk: Walk, sizes: Sequence[int]) -> str:
    probes = {a.size: "?" for a in walk.graph.axes if a.dynamic}
    return "(" + ", ".join(str(probes.get(n, n)) for n in sizes) + ")"


@handles("Squeeze")
def squeeze(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    rank = len(flow.dims)
    axes = walk.parameter(node, values, 1, "axes")
    if axes is None:
        if sum(any(a.dynamic for a in d) for d in flow.dims) > 1:
            refuse(
                node,
                "it drops every axis of size 1, which depends on the dynamic sizes; give its "
                "axes, or export with batch size 1",
            )
        axes = [i for i, d in enumerate(flow.dims) if not d]
    axes = walk.axes(node, axes, rank)
    for i in axes:
        dim = flow.dims[i]
        if len(dim) == 1 and dim[0].dynamic and dim[0].position is not None:
            raise Fix(dim[0].position, 1)  # the file itself says that its size is 1
        if dim:
            refuse(node, f"axis {i} has size {dim_size(dim)}, not 1; export the model again")
    moved(walk, node, flow, [d for i, d in enumerate(flow.dims) if i not in axes])


@handles("Unsqueeze")
def unsqueeze(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    axes = walk.parameter(node, values, 1, "axes") or []
    rank = len(flow.dims) + len(axes)
    at = walk.axes(node, axes, rank)
    rest = iter(flow.dims)
    moved(walk, node, flow, [() if i in at else next(rest) for i in range(rank)])


@handles("Expand")
def expand(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    sizes = walk.parameter(node, values, 1, "shape") or []
    rank = max(len(sizes), len(flow.dims))
    dims = ((),) * (rank - len(flow.dims)) + flow.dims
    sizes = [1] * (rank - len(sizes)) + sizes
    if any(n not in (1, dim_size(d)) for n, d in zip(sizes, dims)):
        refuse(node, f"it repeats the data to {shown_sizes(walk, sizes)}; remove it")
    moved(walk, node, flow, dims)


@handles("Concat")
def concat(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Vectors side by side."""
    if len(values) == 1:
        identity(walk, node, values)
        return
    flows = [v for v in values if isinstance(v, Flow)]
    rank = len(flows[0].dims)
    if len(flows) != len(values) or any(len(f.dims) != rank for f in flows):
        refuse(
            node,
            "it joins a computed tensor with one that is not, or of other axes; only vectors of "
            "features may be joined, so keep constants and states apart",
        )
    axis = walk.axes(node, [int(walk.attributes(node).get("axis", 0))], rank)[0]
    unknown = [flow for flow in flows if walk.feature_of(flow) is None]
    if unknown and not walk.stepwise:
        walk.contract(node, unknown[0], unknown[0].dims[axis], dim_size(unknown[0].dims[axis]))
    rest = [flow.dims[:axis] + flow.dims[axis + 1 :] for flow in flows]
    if (
        any(flow.dims[axis] != walk.feature_of(flow) for flow in flows)
        or any(dims != rest[0] for dims in rest)
        or len({flow.reduced for flow in flows}) > 1
    ):
        join_features(walk, node, flows, axis)
        return
    size = sum(dim_size(flow.dims[axis]) for flow in flows)
    feature = walk.features(label(node), size)
    dims = rest[0][:axis] + (feature,) + rest[0][axis:]
    vector = walk.net.concat([flow.vector for flow in flows])
    low, high = min(f.low for f in flows), max(f.high for f in flows)
    walk.write(node, Flow(vector, dims, feature, low, high, flows[0].reduced))


@handles("Split")
def split(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Parts of a vector."""
    flow = only_data(walk, node, values)
    axis = walk.axes(node, [int(walk.attributes(node).get("axis", 0))], len(flow.dims))[0]
    if len(node.output) == 1:
        walk.write(node, flow)
        return
    if not in_step(walk, flow, [axis]):
        refuse(
            node,
            f"it divides axis {axis} of a tensor of shape {shown_shape(flow)}; only the features "
            "of a step may be divided",
        )
    pick_features(walk, node, flow, values)


@handles("DepthToSpace", "GatherElements", "SpaceToDepth", "Tile")
def within(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Moves of the features of one step."""
    flow = only_data(walk, node, values)
    if not in_step(walk, flow, [i for i, d in enumerate(flow.dims) if d and walk.stepwise]):
        refuse(node, f"it moves steps of a tensor of shape {shown_shape(flow)}; feed it one step")
    pick_features(walk, node, flow, values)


@handles("Gather")
def gather(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    if values[0] is not flow:
        look_up(walk, node, values)
        return
    axis = walk.axes(node, [int(walk.attributes(node).get("axis", 0))], len(flow.dims))[0]
    if isinstance(values[1], Const) and in_step(walk, flow, [axis]):
        pick_features(walk, node, flow, values)
        return
    index = values[1].value if isinstance(values[1], Const) else np.zeros((0, 0))
    kept: tuple[Dim, ...] = ((),) if index.ndim == 1 else ()
    picked = [int(i) for i in index.reshape(-1)]
    flow = pick(walk, node, flow, axis, picked if index.ndim < 2 else [])
    moved(walk, node, flow, flow.dims[:axis] + kept + flow.dims[axis + 1 :])


@handles("Slice")
def slice_(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = only_data(walk, node, values)
    starts = walk.parameter(node, values, 1, "starts") or []
    ends = walk.parameter(node, values, 2, "ends") or []
    axes = walk.parameter(node, values, 3, "axes")
    steps = walk.parameter(node, values, 4, "steps") or [1] * len(starts)
    axes = walk.axes(node, list(range(len(starts))) if axes is None else axes, len(flow.dims))
    dims = list(flow.dims)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = dim_size(dims[axis])
        longer = flow.excess if axis == 2 else 0
        picked = range(*slice(start, end, step or 1).indices(size + longer))
        if longer and picked == range(size):
            flow = replace(flow, excess=0)
            continue
        if longer:
            refuse(
                node,
                f"it takes other steps than the first {shown_shape(replace(flow, dims=(dims[2],)))}"
                f" of a convolution with {longer} too many; cut off the last {longer}",
            )
        if picked == range(size):
            continue
        if in_step(walk, flow, [axis]):
            pick_features(walk, node, flow, values)
            return
        flow = pick(walk, node, flow, axis, list(picked[:2]))
        dims[axis] = ()
    moved(walk, node, flow, dims)


def pick(walk: Walk, node: onnx.NodeProto, flow: Flow, axis: int, picked: list[int]) -> Flow:
    """Allows to take the only element of an axis, or the last step of a GRU's output."""
    dim = flow.dims[axis]
    size = dim_size(dim)
    if len(picked) == 1 and -size <= picked[0] < size:
        index = picked[0] % size
        if not dim or all(walk.roles.get(a) == "batch" for a in dim) and index == 0:
            return flow
        if dim == walk.time and index == size - 1:
            return replace(flow, reduced=True)
    refuse(
        node,
        f"it takes some elements of axis {axis} of a tensor of shape {shown_shape(flow)}; only "
        "the last step after a GRU may be taken, so remove it from the model (or export with "
        "batch size 1)",
    )
