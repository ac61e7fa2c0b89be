"""What the walk over an ONNX graph knows of a tensor, and how it names things in errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layer_graph import Vector

if TYPE_CHECKING:
    import onnx

FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""Element types of ONNX that weights and inputs may have."""

INTEGERS = {6: "int32", 7: "int64"}
"""Element types of ONNX that tokens may have."""

MOVES = frozenset(
    ("Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape")
    + ("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that only move elements: the ones allowed on state inputs and outputs."""

PICKS = frozenset(("Gather", "GatherElements", "Pad", "Slice", "Split", "Tile"))
"""Operators that leave elements out, repeat them, or put zeros between them."""

LARGEST = 1 << 26
"""Elements of the largest constant that is computed."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis that survives every move; two axes are the same only if they are one object.

    ``position`` is the dimension of the data input that it came from, None for features.
    """

    name: str
    size: int
    dynamic: bool = False
    position: int | None = None


Dim = tuple[Axis, ...]
"""One dimension of a tensor: the product of axes, outermost first; () has size 1."""


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor known at import.

    ``state`` names the graph input if it stands for a state. Then the values are tags, one number
    an element of that input, so that its elements are known again after any moves.
    """

    value: np.ndarray
    state: str | None = None


RECURRENT = ("GRU", "LSTM", "RNN")
"""Operators with a state."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What a vector is of another one: the same function of each of its elements.

    Exporters write some activations as several nodes; the function tells which one it is.

    Attributes
    ----------
    base : Vector
    function : callable
        Array of float to array of float.
    product : bool
        A product of two such functions is in it.
    """

    base: Vector
    function: Callable[[np.ndarray], np.ndarray]
    product: bool = False


@dataclass(frozen=True, eq=False)
class Flow:
    """A tensor that carries vectors of the network.

    ``vector`` is what it holds, ``dims`` how its elements lie; ``feature`` is the dimension of the
    elements of the vector, None while it is the graph's input and no layer has told yet. ``low``
    and ``high`` bound the elements. ``reduced`` marks the last step alone. ``final`` has the tags
    (:func:`state_tags`) of the Y_h of a recurrent layer that nothing but moves has touched.
    ``tokens`` marks integers that an embedding will look up. ``curve`` says what it is of a vector
    before it; ``gate`` is what a sigmoid, which made it, was computed of.
    """

    vector: Vector
    dims: tuple[Dim, ...]
    feature: Dim | None = None
    low: float = -math.inf
    high: float = math.inf
    reduced: bool = False
    final: np.ndarray | None = None
    tokens: bool = False
    padded: tuple[int, int] | None = None
    """Axis and count of zeros in front, which only a convolution may read."""
    excess: int = 0
    """Steps after the end, of a convolution padded on both sides, which a Slice must cut off."""
    curve: Curve | None = None
    gate: Vector | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim_size(d) for d in self.dims)


@dataclass(frozen=True, eq=False)
class States:
    """Final states, joined or taken apart, for a graph output; see :func:`state_tags`."""

    tags: np.ndarray


_UNITS = 1 << 24
_BATCH = 1 << 20


def state_tags(layer: int, name: str, batch: int, units: int) -> np.ndarray:
    """A number for each element of a final state, shape (1, batch, units)."""
    first = (layer * 2 + (name == "c")) * _BATCH
    return ((first + np.arange(batch)[:, None]) * _UNITS + np.arange(units))[None]


def state_of(tag: int) -> tuple[int, str, int, int]:
    """Layer, name, batch and unit of a number that :func:`state_tags` gave."""
    rest, unit = divmod(int(tag), _UNITS)
    rest, batch = divmod(rest, _BATCH)
    return rest // 2, "hc"[rest % 2], batch, unit


Value = Const | Flow | States


class Fix(Exception):
    """A dynamic axis of the data input turned out to have one size: walk again with it."""

    def __init__(self, position: int, size: int) -> None:
        super().__init__(position, size)
        self.position, self.size = position, size


def dequantized(
    values: Sequence[np.ndarray], axis: int = 1, block_size: int = 0, **_: Any
) -> np.ndarray:
    """DequantizeLinear of constants, of every opset: (x - zero) * scale, along an axis or not."""
    x, scale = (np.asarray(v, np.float64) for v in values[:2])
    zero = np.asarray(values[2], np.float64) if len(values) > 2 else np.zeros_like(scale)

    def spread(v: np.ndarray) -> np.ndarray:
        if block_size:
            rows = np.repeat(v, block_size, axis=axis)
            return np.take(rows, range(x.shape[axis]), axis=axis)
        if v.size == 1 or x.ndim < 2:
            return v
        shape = [1] * x.ndim
        shape[axis] = -1
        return v.reshape(shape)

    return (x - spread(zero)) * spread(scale)


def dim_size(dim: Dim) -> int:
    return math.prod(a.size for a in dim)


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for a in node.attribute:
            for g in [a.g, *a.graphs]:
                yield from every_node(g.node)


def label(node: onnx.NodeProto) -> str:
    return node.name or next((o for o in node.output if o), "?")


def refuse(node: onnx.NodeProto, text: str) -> NoReturn:
    raise StillnetError(f"node '{label(node)}' ({node.op_type}): {text}")


def first_line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def shown_shape(flow: Flow) -> str:
    """A shape for people: ? where a size is dynamic."""
    sizes = ["?" if any(a.dynamic for a in d) else str(dim_size(d)) for d in flow.dims]
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"


def shown_values(values: np.ndarray) -> str:
    flat = [f"{float(v):g}" for v in np.reshape(values, -1)[:4]]
    return "[" + ", ".join(flat) + (", ..." if np.size(values) > 4 else "") + "]"
