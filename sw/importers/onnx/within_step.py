"""Linear operators of an ONNX graph within a step: unrolled to one sparse dense layer.

A vector may lie in a tensor of several axes: channels by positions of a strided convolution, groups
of a grouped layer. What an operator does to it is then a matrix, which is found by running the
operator on the columns of the identity. Weights that are zero there cost nothing in formats of
columns with gaps, and in blocks of zeros.

A convolution uses each of its weights at many positions, an engine reads a weight for each of its
multiplications: what is unrolled must pay (:class:`_Cost`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from stillnet.sw.contract.columns import choose
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.model.layer_graph import Vector

from .tensors import Axis, Const, Dim, Flow, Value, dim_size, label, refuse, shown_shape
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx

__all__ = [
    "UNROLLED",
    "as_tensor",
    "feature_values",
    "holds_features",
    "in_order",
    "in_step",
    "join_features",
    "pick_features",
    "results_of",
    "split_features",
    "spread",
    "unroll",
    "widened",
]

_LARGEST = 1 << 24
"""Weights of the largest layer that is unrolled."""

UNROLLED = "unrolled over the step"
"""Begins the reason why an operator that an engine could run is left to the host."""

_LANES = EngineConfig.lanes
"""Weights in a word of an engine that nobody has chosen yet."""

_MOST_PICKED = 1 << 22
"""Places of the matrix of the largest layer that only moves elements."""

_SMALL = 1 << 13
"""Words of a step that mostly hold zeros and yet need no reason: .08 ms at 100 MHz."""

_MOST_EMPTY = 1 << 21
"""Places of all matrices that mostly hold zeros: 2.6 ms at 100 MHz for an engine that reads all."""

_SPARSE = EngineConfig().reading(FORMATS)
"""An engine that leaves out zeros, as ``--fit`` makes it."""

_COUNTED = 128
"""Columns of a matrix, evenly spread, whose words are counted."""

Finder = Callable[["Walk", Any, Flow, Sequence[Value | None]], np.ndarray]
"""Gives the matrix (results, elements of a step) of a node."""


def spread(walk: Walk, flow: Flow) -> bool:
    """Whether the features of a flow lie in several dimensions."""
    feature = walk.feature_of(flow)
    return feature is not None and len(feature) > 1 and feature not in flow.dims


def holds_features(walk: Walk, flow: Flow, axis: int) -> bool:
    """Whether a dimension holds features, or a part of them."""
    feature, dim = walk.feature_of(flow), flow.dims[axis]
    return feature is not None and bool(dim) and all(a in feature for a in dim)


def in_order(walk: Walk, name: str, flow: Flow) -> Flow:
    """The flow with its features in the order in which the tensor has them: a permutation."""
    feature = walk.feature_of(flow)
    if feature is None or flow.final is not None:
        return flow
    order = [a for d in flow.dims for a in d if a in feature]
    if order == list(feature) or set(order) != set(feature):
        return flow
    size = dim_size(feature)
    numbers = np.arange(size).reshape([a.size for a in feature])
    chosen = numbers.transpose([feature.index(a) for a in order]).reshape(-1)
    vector = walk.net.dense(flow.vector, name, np.eye(size)[chosen], None, "linear")
    return replace(flow, vector=vector, feature=tuple(order))


def _known_feature(walk: Walk, node: onnx.NodeProto, flow: Flow) -> Dim:
    """The features of a flow; of the graph's input, all axes of a fixed size.

    Where the graph is one step, there may be several of them.
    """
    feature = walk.feature_of(flow)
    if feature is None:
        axes = tuple(a for d in flow.dims for a in d if not a.dynamic)
        if len(axes) != 1 and not walk.stepwise:
            refuse(
                node,
                f"it reads the graph's input {shown_shape(flow)}, of which it is not clear what is "
                "one step; export it with one axis of a fixed size",
            )
        feature = walk.feature = axes
        walk.net.input(dim_size(feature))
    return feature


def _inner(node: onnx.NodeProto, flow: Flow, feature: Dim) -> list[bool]:
    """Which dimensions hold features."""
    inner = []
    for d in flow.dims:
        own = [a in feature for a in d]
        if any(own) and not all(own):
            refuse(node, "it reads a tensor whose features are mixed with steps; feed it one step")
        inner.append(any(own))
    return inner


def as_tensor(flow: Flow, feature: Dim, vectors: np.ndarray) -> np.ndarray:
    """Vectors (count, size) as the tensor of the flow, with an axis of vectors in front."""
    shaped = vectors.reshape(len(vectors), *(a.size for a in feature))
    order = [1 + feature.index(a) for d in flow.dims for a in d if a in feature]
    sizes = [dim_size(tuple(a for a in d if a in feature)) for d in flow.dims]
    return shaped.transpose(0, *order).reshape(len(vectors), *sizes)


def unroll(
    walk: Walk,
    node: onnx.NodeProto,
    flow: Flow,
    values: Sequence[Value | None],
    find: Finder | None = None,
) -> None:
    """A node that is linear in one step, as a dense layer.

    ``find`` gives its matrix where there is a quicker way than the columns of the identity.
    """
    feature = _known_feature(walk, node, flow)
    inner = _inner(node, flow, feature)
    size = dim_size(feature)
    probe = np.random.default_rng(0).normal(size=size)
    once = results_of(walk, node, flow, values, np.vstack([np.zeros(size), probe]))
    dims, axes = _result_dims(walk, node, flow, inner, once.shape[1:])
    bias, wanted = once.reshape(2, -1)
    cost = _Cost(walk, node, size, values, len(bias))
    cost.check_size(identity=find is None)
    if find is None:
        columns = results_of(walk, node, flow, values, np.eye(size)).reshape(size, -1)
        weight = (columns - bias).T
    else:
        weight = find(walk, node, flow, values)
    if not np.allclose(weight @ probe + bias, wanted, rtol=1e-9, atol=1e-9):
        refuse(node, f"{node.op_type} is not linear; compute it on the host")
    cost.check_words(weight)
    _check_apart(walk, node, flow, values, probe)
    name = walk.fresh_name(node)
    vector = walk.net.dense(flow.vector, name, weight, bias, "linear")
    walk.write(node, Flow(vector, dims, axes, reduced=flow.reduced))


class _Cost:
    """What an unrolled operator asks of an engine, and whether that pays.

    A plain engine reads every weight of the matrix in a step, zeros too. If these words are fewer
    than the operator's own multiplications, all lanes together are faster than one multiplier would
    be: that pays. So it does where an engine that leaves out zeros (``--fit``) reads so few words.
    Operators that take more may together read as many words as the rest of the model, or
    :data:`_SMALL`.
    """

    def __init__(
        self,
        walk: Walk,
        node: onnx.NodeProto,
        size: int,
        values: Sequence[Value | None],
        results: int,
    ) -> None:
        self.walk, self.node, self.size = walk, node, size
        self.stored = sum(v.value.size for v in values[1:2] if isinstance(v, Const))
        self.weights = size * results
        self.own = _multiplications(walk, node, size, values, results)
        self.dense = -(-self.weights // _LANES)

    def check_size(self, identity: bool) -> None:
        """Refuses a matrix that is too large to be found."""
        places = self.walk.sparse_places + self.weights
        pays = self.dense <= self.own or places <= max(_MOST_EMPTY, self.walk.graph.stored)
        if self.weights > _LARGEST or identity and self.size**2 > 4 * _LARGEST or not pays:
            self._refuse()

    def check_words(self, weight: np.ndarray) -> None:
        """Refuses a matrix of which an engine reads too many words."""
        if self.dense <= self.own:
            return
        most = max(_SMALL, self.walk.graph.stored // _LANES)
        some = (weight[:, :: -(-self.size // _COUNTED)] != 0).astype(np.int8)
        stored = choose(some[None], 8, _SPARSE).words * self.size // some.shape[1]
        pays = stored <= self.own
        if not pays and self.walk.sparse_words + stored > most:
            self._refuse()
        self.walk.sparse_words += 0 if pays else stored
        self.walk.sparse_places += self.weights
        if self.dense > most:
            self.walk.notes.append(
                f"node '{label(self.node)}' ({self.node.op_type}): {UNROLLED}, its matrix holds "
                f"zeros in {100 * np.mean(weight == 0):.0f} % of its places; give --fit to "
                "generate, build and run, for an engine that does not read them"
            )

    def _refuse(self) -> NoReturn:
        refuse(
            self.node,
            f"{UNROLLED}, its {self.stored:,} weights become {self.weights:,}, which the chip "
            f"would read in every step for {self.own:,} multiplications; feed one frame a step, "
            "with causal convolutions over the steps or a recurrent layer, or make these axes "
            "shorter",
        )


def _multiplications(
    walk: Walk, node: onnx.NodeProto, size: int, values: Sequence[Value | None], results: int
) -> int:
    """What an operator multiplies in a step, or adds."""
    weight = values[1] if len(values) > 1 else None
    if node.op_type == "Conv" and isinstance(weight, Const):
        return results * math.prod(weight.value.shape[1:])
    if node.op_type == "ConvTranspose" and isinstance(weight, Const):
        return size * math.prod(weight.value.shape[1:])
    if node.op_type in ("MatMul", "Einsum") and isinstance(weight, Const):
        shape = weight.value.shape
        return results * (shape[-2] if len(shape) > 1 else shape[-1])
    if node.op_type == "AveragePool":
        return results * math.prod(walk.attributes(node).get("kernel_shape", ()))
    return size


def pick_features(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: Sequence[Value | None]
) -> None:
    """A node that puts features, or zeros, in other places: layers that the ones after it take in.

    It is run on the numbers of the features.
    """
    feature = _known_feature(walk, node, flow)
    inner = _inner(node, flow, feature)
    size = dim_size(feature)
    (numbers,) = as_tensor(flow, feature, 1 + np.arange(size)[None])
    feeds = [numbers if v is flow else widened(v) for v in values if isinstance(v, Flow | Const)]
    found = [np.asarray(a) for a in walk.evaluate(node, feeds)]
    _check_apart(walk, node, flow, values, np.random.default_rng(0).normal(size=size))
    results: list[Value] = []
    for name, places in zip((o for o in node.output if o), found):
        dims, axes = _result_dims(walk, node, flow, inner, places.shape, name)
        vector = picked(walk, node, flow.vector, size, places.reshape(-1) - 1)
        low, high = flow.low, flow.high
        if not np.all(places):
            low, high = min(low, 0.0), max(high, 0.0)
        results.append(Flow(vector, dims, axes, low, high, flow.reduced))
    rest = iter(results)
    walk.write(node, *(next(rest) if o else Const(np.zeros(0)) for o in node.output))


def picked(
    walk: Walk, node: onnx.NodeProto, vector: Vector, size: int, places: np.ndarray
) -> Vector:
    """The elements of a vector at some places, zero where a place is negative."""
    if len(places) * size > _MOST_PICKED:
        refuse(
            node,
            f"it moves {size} elements of a step to {len(places)} places, too many for a layer of "
            "the chip; make these axes shorter",
        )
    weight = np.zeros((len(places), size))
    rows = np.flatnonzero(places >= 0)
    weight[rows, places[rows].astype(int)] = 1
    name = walk.fresh_name(node)
    return walk.net.picked(vector, name, weight, np.zeros(len(weight)), "linear")


def join_features(walk: Walk, node: onnx.NodeProto, flows: Sequence[Flow], axis: int) -> None:
    """Tensors side by side along any axis of their features."""
    features = [_known_feature(walk, node, flow) for flow in flows]
    tensors, first = [], 0
    for flow, feature in zip(flows, features):
        count = dim_size(feature)
        tensors += list(as_tensor(flow, feature, first + np.arange(count)[None]))
        first += count
    outer = [
        tuple(None if any(a in f for a in d) else d for i, d in enumerate(flow.dims) if i != axis)
        for flow, f in zip(flows, features)
    ]
    shapes = [tuple(n for i, n in enumerate(t.shape) if i != axis) for t in tensors]
    steps = any(a not in f for flow, f in zip(flows, features) for a in flow.dims[axis])
    alike = [len(set(shapes)), len(set(outer)), len({f.reduced for f in flows})]
    if steps or alike != [1, 1, 1]:
        refuse(
            node,
            f"it joins tensors of shapes {', '.join(shown_shape(f) for f in flows)} along axis "
            f"{axis}; only features of the same steps may be joined",
        )
    places = np.concatenate(tensors, axis)
    dims, axes = list(flows[0].dims), []
    for i, n in enumerate(places.shape):
        if i == axis or any(a in features[0] for a in dims[i]):
            new = Axis(f"axis {i} of '{node.output[0]}'", n)
            dims[i] = (new,) if n > 1 else ()
            axes += list(dims[i])
    vector = walk.net.concat([flow.vector for flow in flows])
    order = places.reshape(-1)
    if not np.array_equal(order, np.arange(first)):
        vector = picked(walk, node, vector, first, order)
    low, high = min(f.low for f in flows), max(f.high for f in flows)
    walk.write(node, Flow(vector, tuple(dims), tuple(axes), low, high, flows[0].reduced))


def _check_apart(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: Sequence[Value | None], probe: np.ndarray
) -> None:
    """Refuses a node that mixes steps: three of them must give what each gives alone."""
    feature = walk.feature_of(flow)
    assert feature is not None
    tensors = as_tensor(flow, feature, np.stack([probe, 2 * probe, -probe]))

    def run(x: np.ndarray) -> np.ndarray:
        feeds = [x if v is flow else widened(v) for v in values if isinstance(v, Flow | Const)]
        return np.asarray(walk.evaluate(node, feeds)[0], float)

    for i, d in enumerate(flow.dims):
        if d and not any(a in feature for a in d):
            together, alone = run(np.concatenate(list(tensors), i)), [run(x) for x in tensors]
            apart = np.concatenate(alone, i) if i < alone[0].ndim else np.zeros(0)
            if together.shape != apart.shape or not np.allclose(together, apart):
                refuse(node, "it mixes several steps; a stream has one at a time")


def results_of(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: Sequence[Value | None], rows: np.ndarray
) -> np.ndarray:
    """The node's result for each vector of features, all other axes of size 1."""
    feature = walk.feature_of(flow)
    assert feature is not None
    tensors = as_tensor(flow, feature, rows)
    outer = next((i for i, d in enumerate(flow.dims) if not any(a in feature for a in d)), None)

    def run(x: np.ndarray) -> np.ndarray:
        feeds = [x if v is flow else widened(v) for v in values if isinstance(v, Flow | Const)]
        return np.asarray(walk.evaluate(node, feeds)[0], float)

    if outer is not None and outer == 0:  # all at once, along an axis that is not touched
        result = run(np.moveaxis(tensors, 0, outer).reshape(len(rows), *tensors.shape[2:]))
        if len(result) == len(rows):
            return result.reshape(len(rows), 1, *result.shape[1:])
    return np.stack([run(x) for x in tensors])


def widened(value: Value) -> np.ndarray:
    """A constant, floats in float64."""
    assert isinstance(value, Const)
    return value.value.astype(np.float64) if value.value.dtype.kind == "f" else value.value


def _result_dims(
    walk: Walk,
    node: onnx.NodeProto,
    flow: Flow,
    inner: list[bool],
    shape: tuple[int, ...],
    name: str = "",
) -> tuple[tuple[Dim, ...], Dim]:
    """Dimensions of the result, and the axes of its features."""
    same = len(shape) == len(inner)
    leading = inner.index(True) if True in inner else len(inner)
    if not same and (any(not i for i in inner[leading:]) or len(shape) < leading):
        refuse(
            node,
            f"it makes {len(shape)} axes of {shown_shape(flow)}, so that steps and features "
            "cannot be told apart; export it without that",
        )
    dims: list[Dim] = []
    axes: list[Axis] = []
    for i, n in enumerate(shape):
        if (same and not inner[i]) or (not same and i < leading):
            if n == 1:
                dims.append(flow.dims[i])
                continue
            if flow.dims[i]:
                refuse(node, "it makes features of steps, or repeats them; feed it one step")
        axis = Axis(f"axis {i} of '{name or node.output[0]}'", n)
        dims.append((axis,) if n > 1 else ())
        axes += [axis] if n > 1 else []
    return tuple(dims), tuple(axes)


def in_step(walk: Walk, flow: Flow, axes: Sequence[int]) -> bool:
    """Whether dimensions are features, or a graph's input has them as the only ones that may be."""
    if walk.feature_of(flow) is None:
        fixed = [a for d in flow.dims for a in d if not a.dynamic]
        chosen = [a for i in axes for a in flow.dims[i]]
        return bool(chosen) and (walk.stepwise or len(fixed) == 1) and set(chosen) <= set(fixed)
    return all(holds_features(walk, flow, i) for i in axes)


@handles(
    "AveragePool",
    "ConvTranspose",
    "Einsum",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceSum",
    "Resize",
)
def linear(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Operators that are linear in the features of a step."""
    unroll(walk, node, walk.flow(node, values), values)


def split_features(walk: Walk, flow: Flow, sizes: Sequence[int]) -> tuple[Flow, list[Dim]] | None:
    """Divides feature axes so that the dimensions get the sizes wanted; None if that cannot be."""
    feature = known = walk.feature_of(flow)
    if feature is None:  # of the graph's input, where only one axis can be
        fixed = tuple(a for d in flow.dims for a in d if not a.dynamic)
        if len(fixed) != 1 and not walk.stepwise:
            return None
        feature = fixed
    whole = feature
    axes = [a for d in flow.dims for a in d]
    parts: dict[Axis, tuple[Axis, ...]] = {}
    dims: list[Dim] = []
    for n in sizes:
        dim: list[Axis] = []
        while axes and math.prod(a.size for a in dim) < n:
            axis, left = axes.pop(0), n // math.prod(a.size for a in dim)
            if axis.size > left:
                if axis not in feature or axis.size % left:
                    return None
                first, rest = (Axis(axis.name, k) for k in (left, axis.size // left))
                parts[axis] = (first, rest)
                axes.insert(0, rest)
                axis = first
                feature = tuple(p for a in feature for p in parts.get(a, (a,)))
            dim.append(axis)
        dims.append(tuple(dim))
    if axes or [dim_size(d) for d in dims] != list(sizes):
        return None
    if known is None:
        walk.feature = whole
        walk.net.input(dim_size(whole))
    return replace(flow, feature=feature), dims


def feature_values(walk: Walk, flow: Flow, constant: np.ndarray) -> np.ndarray | None:
    """A constant that is broadcast over features in several dimensions, one value for each."""
    feature = walk.feature_of(flow)
    assert feature is not None
    rank = len(flow.dims)
    sizes = (1,) * (rank - constant.ndim) + constant.shape
    if len(sizes) > rank:
        return None
    inner = [any(a in feature for a in d) for d in flow.dims]
    if any(n != 1 and not i for n, i in zip(sizes, inner)):
        return None
    target = [dim_size(d) if i else 1 for d, i in zip(flow.dims, inner)]
    axes = [a for d in flow.dims for a in d if a in feature]
    try:
        whole = np.broadcast_to(constant.reshape(sizes), target)
    except ValueError:
        return None
    shaped = whole.reshape([a.size for a in axes])
    return shaped.transpose([axes.index(a) for a in feature]).reshape(-1)
