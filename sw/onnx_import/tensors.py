"""What the walk over an ONNX graph knows of a tensor, and how it names things in errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ..errors import StillnetError

if TYPE_CHECKING:
    import onnx

FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""Element types of ONNX that weights and inputs may have."""

MOVES = frozenset(
    ("Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape")
    + ("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that only move elements: the ones allowed on state inputs and outputs."""

LARGEST = 1 << 28
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


@dataclass(frozen=True)
class Const:
    """A tensor known at import. ``state`` names the graph input if it stands for a state."""

    value: np.ndarray
    state: str | None = None


@dataclass(frozen=True)
class Flow:
    """A tensor that carries the vectors of the chain.

    ``version`` counts changes of value: only the newest may be read by a layer. ``reduced`` marks
    the last step alone, ``final`` the Y_h of a GRU that nothing but moves has touched.
    """

    version: int
    dims: tuple[Dim, ...]
    reduced: bool = False
    final: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim_size(d) for d in self.dims)


@dataclass(frozen=True)
class States:
    """Final states joined into one tensor, for a graph output.

    ``parts`` along ``axis`` while nothing has moved them: one of them may be taken out again
    (``h_n[-1]`` in PyTorch).
    """

    parts: tuple[Flow, ...] = ()
    axis: int = 0


Value = Const | Flow | States


class Fix(Exception):
    """A dynamic axis of the data input turned out to have one size: walk again with it."""

    def __init__(self, position: int, size: int) -> None:
        super().__init__(position, size)
        self.position, self.size = position, size


def dim_size(dim: Dim) -> int:
    return math.prod(a.size for a in dim)


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
