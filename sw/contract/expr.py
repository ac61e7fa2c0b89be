"""The language in which a cell's equations are written, and its integer and float meanings.

An expression is a graph of :class:`Node`. Every node has a fixed-point format, inferred from its
operands, so that one graph has three meanings: exact integers (``Graph.integers``, the reference),
floating point (``Graph.floats``, what papers write) and hardware (``stillnet.hw.cell_pipeline``).

Rules of inference
------------------
* ``a + b``, ``a - b``: the finer fraction of the two, one bit more than the wider; exact.
* ``a * b``: operands wider than 18 bits (one DSP input) are first rounded to 18 bits; then exact.
* ``sigmoid``, ``tanh``: the operand is narrowed to ``PRE``; results are in the table's formats.
* ``state.x.next(e)``: narrowed to the format of the state variable.
* Narrowing rounds half up and saturates; it is the only operation that loses anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from . import tables
from .errors import StillnetError
from .fixed import ACTIVATION, PRE, Format, narrow, round_shift

__all__ = ["MULTIPLIER_BITS", "Graph", "Node", "output", "relu", "sigmoid", "tanh"]

MULTIPLIER_BITS = 18
"""Widest operand of one hardware multiplier (ECP5 MULT18X18D, iCE40 and Gowin take 16 to 18)."""


class Node:
    """One value of an expression.

    Attributes
    ----------
    op : str
        ``accumulator``, ``state``, ``add``, ``sub``, ``mul``, ``narrow``, ``relu``, ``tanh`` or
        ``sigmoid``.
    args : tuple of Node
    format : Format
    name : str
        Name of the accumulator or state variable that an input node reads.
    """

    def __init__(self, op: str, args: tuple[Node, ...], format: Format, name: str = "") -> None:
        self.op = op
        self.args = args
        self.format = format
        self.name = name

    def __add__(self, other: Node) -> Node:
        return _sum("add", self, other)

    def __sub__(self, other: Node) -> Node:
        return _sum("sub", self, other)

    def __mul__(self, other: Node) -> Node:
        a, b = _operand(self), _operand(_check(other))
        fraction = a.format.fraction + b.format.fraction
        return Node("mul", (a, b), Format(a.format.bits + b.format.bits, fraction))

    def narrow(self, to: Format) -> Node:
        """Rounds half up to another format and saturates; nothing where the format is the same."""
        return self if self.format == to else Node("narrow", (self,), to)

    def __repr__(self) -> str:
        inner = ", ".join([self.name] if self.name else [repr(a) for a in self.args])
        return f"{self.op}({inner}):{self.format}"


def _check(value: object) -> Node:
    if not isinstance(value, Node):
        raise StillnetError(
            f"cell equations combine accumulators and state only, not {value!r}; fold constants "
            "into weights and biases"
        )
    return value


def _sum(op: str, a: Node, b: Node) -> Node:
    _check(b)
    fraction = max(a.format.fraction, b.format.fraction)
    bits = 1 + max(n.format.bits + fraction - n.format.fraction for n in (a, b))
    if bits > 64:
        raise StillnetError(f"cell equation: '{op}' of {a.format} and {b.format} needs {bits} bits")
    return Node(op, (a, b), Format(bits, fraction))


def _operand(a: Node) -> Node:
    excess = a.format.bits - MULTIPLIER_BITS
    return a if excess <= 0 else a.narrow(Format(MULTIPLIER_BITS, a.format.fraction - excess))


def sigmoid(x: Node) -> Node:
    """Logistic function, from the table."""
    return Node("sigmoid", (_check(x).narrow(PRE),), tables.SIGMOID)


def tanh(x: Node) -> Node:
    """Hyperbolic tangent, from the table."""
    return Node("tanh", (_check(x).narrow(PRE),), tables.TANH)


def relu(x: Node) -> Node:
    """max(x, 0)."""
    return Node("relu", (_check(x),), x.format)


def output(x: Node) -> Node:
    """The value that a cell without state writes to its vector: 16 bits, at most 14 of fraction."""
    return x.narrow(Format(ACTIVATION.bits, min(x.format.fraction, ACTIVATION.fraction)))


class Variable(Node):
    """A state variable: reads as its old value; ``next`` gives it a new one."""

    def __init__(self, name: str, format: Format) -> None:
        super().__init__("state", (), format, name)
        self.following: Node | None = None

    def next(self, value: Node) -> Node:
        """Assigns the value of the next step, narrowed to the variable's format; returns it."""
        if self.following is not None:
            raise StillnetError(f"cell equation: state '{self.name}' is assigned twice")
        self.following = _check(value).narrow(self.format)
        return self.following


@dataclass(frozen=True)
class Graph:
    """The equations of one cell, as a graph.

    Attributes
    ----------
    result : Node
        What the cell writes to its vector, 16 bits.
    following : dict of str to Node
        New value of each state variable.
    """

    result: Node
    following: dict[str, Node]

    def nodes(self) -> list[Node]:
        """Every node once, operands before users."""
        order: list[Node] = []
        seen: set[int] = set()

        def visit(node: Node) -> None:
            if id(node) in seen:
                return
            seen.add(id(node))
            for a in node.args:
                visit(a)
            order.append(node)

        for root in (*self.following.values(), self.result):
            visit(root)
        return order

    def integers(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
        """Evaluates in integers, exactly as the hardware does.

        Parameters
        ----------
        m : dict of str to int64 array
            Rescaled accumulators, format ``PRE``.
        state : dict of str to int64 array
            Old state.

        Returns
        -------
        (result, new state, number of elements whose result was clipped to 16 bits)
        """
        value = self._walk(_INTEGERS, m, state)
        clipped = 0
        if self.result.op == "narrow":
            (wide,) = self.result.args
            exact = round_shift(value[id(wide)], wide.format.fraction - self.result.format.fraction)
            clipped = int(np.count_nonzero(exact != value[id(self.result)]))
        return value[id(self.result)], self._next(value), clipped

    def floats(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Evaluates in floating point: no rounding, no saturation."""
        value = self._walk(_FLOATS, m, state)
        return value[id(self.result)], self._next(value)

    def _next(self, value: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value[id(node)] for name, node in self.following.items()}

    def _walk(
        self,
        rules: dict[str, Callable[..., np.ndarray]],
        m: dict[str, np.ndarray],
        state: dict[str, np.ndarray],
    ) -> dict[int, np.ndarray]:
        value: dict[int, np.ndarray] = {}
        for node in self.nodes():
            if node.op == "accumulator":
                value[id(node)] = m[node.name]
            elif node.op == "state":
                value[id(node)] = state[node.name]
            else:
                value[id(node)] = rules[node.op](node, *(value[id(a)] for a in node.args))
        return value


def _aligned(node: Node, values: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [v << (node.format.fraction - a.format.fraction) for a, v in zip(node.args, values)]


_INTEGERS: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda node, a, b: np.add(*_aligned(node, (a, b))),
    "sub": lambda node, a, b: np.subtract(*_aligned(node, (a, b))),
    "mul": lambda node, a, b: a * b,
    "narrow": lambda node, a: narrow(a, node.args[0].format.fraction, node.format),
    "relu": lambda node, a: np.maximum(a, 0),
    "tanh": lambda node, a: tables.tanh(a),
    "sigmoid": lambda node, a: tables.sigmoid(a),
}

_FLOATS: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda node, a, b: a + b,
    "sub": lambda node, a, b: a - b,
    "mul": lambda node, a, b: a * b,
    "narrow": lambda node, a: a,
    "relu": lambda node, a: np.maximum(a, 0.0),
    "tanh": lambda node, a: np.tanh(a),
    "sigmoid": lambda node, a: 0.5 + 0.5 * np.tanh(0.5 * a),
}
