"""The language in which a cell's equations are written.

An expression is a graph of :class:`Node`. Every node has a fixed-point format, inferred from its
operands, so that one graph has three meanings: exact integers (``Graph.integers``, the reference),
floating point (``Graph.floats``, what papers write) and hardware (``stillnet.hw.cell.pipeline``).
``rules`` holds the arithmetic of the first two.

Rules of inference
------------------
======================  =======================================================================
written                 result
======================  =======================================================================
``a + b``, ``a - b``    the finer fraction of the two, one bit more than the wider; exact
``-a``                  ``0 - a``
``a * b``               operands wider than 18 bits (one DSP input) are first rounded to 18 bits;
                        then exact: bits and fractions add up
``wide_mul(a, b)``      exact whatever the widths, up to 63 bits: several DSPs
``scaled(a, n)``        a * 2**n: the same integer, n bits of fraction fewer; costs nothing
number                  a constant in the narrowest format that holds it exactly; ``2 * a`` and
                        ``a * 0.5`` become ``scaled``; ``constant(x, format)`` rounds
``relu(a)``             the format of a
``sigmoid``, ``tanh``   the operand is narrowed to ``PRE``; results are in the tables' formats
``table(f, a, format,   any function of one variable between two inputs, from a table that is made
low, high)``            and measured as the cell is built (``functions``); the format given
``function(name, a)``   a function that is known by name: gelu, silu, softplus, hard_swish, elu,
                        erf, softsign, exp, sqrt
``maximum(a, b)``,      ``select`` of a comparison
``minimum(a, b)``
``a > b``, ``a < b``,   a condition: one bit, true or false, no number. Compared exactly, at the
``>=``, ``<=``,         finer fraction of the two
``equal(a, b)``
``p & q``, ``p | q``,   conditions
``~p``
``select(p, a, b)``     a where p, else b: the finer fraction, the wider of the two; exact
``a.narrow(format)``    rounds half up, saturates
``a.floor(format)``     rounds down (floor), saturates
``a.wrap(format)``      rounds down (floor), keeps the low bits
``state.x.next(e)``     narrowed to the format of the state variable; its value from then on
======================  =======================================================================

``narrow``, ``floor`` and ``wrap`` are the only operations that lose anything. Expressions are
built once, when the graph is first asked for; Python's ``if`` cannot look at their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format, round_shift
from stillnet.sw.contract.functions import MOST_SEGMENTS, TABLES, Piece, Table, named_table

from .rules import FLOATS, INTEGERS, floor_shift

__all__ = [
    "CONDITION",
    "INPUTS",
    "MULTIPLIER_BITS",
    "Graph",
    "Node",
    "Variable",
    "constant",
    "equal",
    "function",
    "maximum",
    "minimum",
    "output",
    "relu",
    "scaled",
    "select",
    "sigmoid",
    "table",
    "tanh",
    "wide_mul",
]

MULTIPLIER_BITS = 18
"""Widest operand of one hardware multiplier (ECP5 MULT18X18D, iCE40 and Gowin take 16 to 18)."""

WIDE_BITS = 63
"""Widest result of ``wide_mul``."""

CONDITION = Format(1, 0)
"""What a condition has for a format: one bit that is true or false."""

CONDITIONS = ("greater", "equal", "and", "or", "not")
"""Operations whose result is a condition."""

RECTIFIED = ("gelu", "gelu_tanh", "silu", "softplus", "hard_swish", "elu")
"""Functions that run along max(x, 0); their tables hold the rest."""

INPUTS = ("accumulator", "parameter", "state", "peer")
"""Operations that stand for an operand from outside the graph."""


class Node:
    """One value of an expression.

    Attributes
    ----------
    op : str
        One of ``INPUTS``, ``constant``, ``add``, ``sub``, ``mul``, ``wide_mul``, ``scale``,
        ``narrow``, ``floor``, ``wrap``, ``relu``, ``tanh``, ``sigmoid``, ``table``, ``select``,
        or of ``CONDITIONS``.
    args : tuple of Node
        For ``select``: condition, value where true, value where false.
    format : Format
    name : str
        Name of the accumulator, parameter, state variable or peer that an input node reads.
    value : int
        Integer of a constant.
    table : Table or None
        What a ``table`` looks up.
    """

    __slots__ = ("args", "format", "name", "op", "table", "value")

    def __init__(
        self,
        op: str,
        args: tuple[Node, ...],
        format: Format,
        name: str = "",
        value: int = 0,
        table: Table | None = None,
    ) -> None:
        self.op = op
        self.args = args
        self.format = format
        self.name = name
        self.value = value
        self.table = table

    @property
    def is_condition(self) -> bool:
        """Whether the value is true or false rather than a number."""
        return self.op in CONDITIONS

    def __add__(self, other: Node | float) -> Node:
        return _sum("add", self, _number(other))

    def __radd__(self, other: float) -> Node:
        return _sum("add", _number(other), self)

    def __sub__(self, other: Node | float) -> Node:
        return _sum("sub", self, _number(other))

    def __rsub__(self, other: float) -> Node:
        return _sum("sub", _number(other), self)

    def __neg__(self) -> Node:
        return _sum("sub", constant(0, Format(1, self.format.fraction)), self)

    def __mul__(self, other: Node | float) -> Node:
        power = _power(other)
        if power is not None:
            return scaled(self, power)
        a, b = _operand(_number(self)), _operand(_number(other))
        fraction = a.format.fraction + b.format.fraction
        return Node("mul", (a, b), Format(a.format.bits + b.format.bits, fraction))

    def __rmul__(self, other: float) -> Node:
        return self * other

    def __gt__(self, other: Node | float) -> Node:
        return Node("greater", (_number(self), _number(other)), CONDITION)

    def __lt__(self, other: Node | float) -> Node:
        return Node("greater", (_number(other), _number(self)), CONDITION)

    def __ge__(self, other: Node | float) -> Node:
        return ~(self < other)

    def __le__(self, other: Node | float) -> Node:
        return ~(self > other)

    def __and__(self, other: Node) -> Node:
        return Node("and", (_condition(self), _condition(other)), CONDITION)

    def __or__(self, other: Node) -> Node:
        return Node("or", (_condition(self), _condition(other)), CONDITION)

    def __invert__(self) -> Node:
        return Node("not", (_condition(self),), CONDITION)

    def __bool__(self) -> NoReturn:
        raise StillnetError(
            f"cell equation: the value of {self!r} is not known when the cell is built; use "
            "select(condition, a, b) for 'if', and '&', '|', '~' for 'and', 'or', 'not'"
        )

    def narrow(self, to: Format) -> Node:
        """Rounds half up to another format and saturates; nothing where the format is the same."""
        return _narrowed("narrow", self, to)

    def floor(self, to: Format) -> Node:
        """Rounds down (floor) to another format and saturates."""
        return _narrowed("floor", self, to)

    def wrap(self, to: Format) -> Node:
        """Rounds down (floor) to another format and keeps the low bits: wrap-around."""
        return _narrowed("wrap", self, to)

    def __repr__(self) -> str:
        inner = ", ".join([self.name] if self.name else [repr(a) for a in self.args])
        inner = str(self.value) if self.op == "constant" else inner
        return f"{self.table.name if self.table else self.op}({inner}):{self.format}"


def _narrowed(op: str, a: Node, to: Format) -> Node:
    return a if _number(a).format == to else Node(op, (a,), to)


def _number(value: object) -> Node:
    """A node that is a number, from a node or a Python number."""
    if isinstance(value, Node):
        if value.is_condition:
            raise StillnetError(
                f"cell equation: {value!r} is true or false, no number; use select(condition, a, b)"
            )
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise StillnetError(
            "cell equations combine accumulators, parameters, state and numbers only, not "
            f"{value!r}"
        )
    number = float(value)
    if number == 0:
        return Node("constant", (), Format(1, 0))
    # The coarsest format that holds the number exactly.
    for fraction in range(-16, 33):
        integer = number * 2.0**fraction
        if integer == np.floor(integer) and abs(integer) < 1 << (MULTIPLIER_BITS - 1):
            bits = max(int(integer).bit_length(), 1) + 1
            return Node("constant", (), Format(bits, fraction), value=int(integer))
    raise StillnetError(
        f"cell equation: {value!r} is no multiple of a power of two that fits {MULTIPLIER_BITS} "
        "bits; write constant(x, Format(bits, fraction)), which rounds"
    )


def _power(value: object) -> int | None:
    """n where ``value`` is the number 2**n."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return None
    mantissa, exponent = np.frexp(float(value))
    return int(exponent) - 1 if mantissa == 0.5 else None


def _condition(value: object) -> Node:
    if not isinstance(value, Node) or not value.is_condition:
        raise StillnetError(
            f"cell equation: {value!r} is not a condition; conditions come from comparisons "
            "such as a > b"
        )
    return value


def _sum(op: str, a: Node, b: Node) -> Node:
    a, b = _number(a), _number(b)
    fraction = max(a.format.fraction, b.format.fraction)
    bits = 1 + max(n.format.bits + fraction - n.format.fraction for n in (a, b))
    if bits > 64:
        raise StillnetError(f"cell equation: '{op}' of {a.format} and {b.format} needs {bits} bits")
    return Node(op, (a, b), Format(bits, fraction))


def _operand(a: Node) -> Node:
    excess = a.format.bits - MULTIPLIER_BITS
    return a if excess <= 0 else a.narrow(Format(MULTIPLIER_BITS, a.format.fraction - excess))


def wide_mul(a: Node, b: Node) -> Node:
    """a * b, exact, for operands wider than one hardware multiplier."""
    a, b = _number(a), _number(b)
    to = Format(a.format.bits + b.format.bits, a.format.fraction + b.format.fraction)
    if to.bits > WIDE_BITS:
        raise StillnetError(
            f"cell equation: 'wide_mul' of {a.format} and {b.format} needs {to.bits} bits, at "
            f"most {WIDE_BITS} are possible; narrow an operand"
        )
    return Node("wide_mul", (a, b), to)


def scaled(a: Node, power: int) -> Node:
    """a * 2**power: another reading of the same integer."""
    a = _number(a)
    if power == 0:
        return a
    return Node("scale", (a,), Format(a.format.bits, a.format.fraction - power))


def constant(value: float, to: Format) -> Node:
    """A constant of a stated format, rounded half up.

    Raises
    ------
    StillnetError
        Where the format does not hold the value.
    """
    integer = int(np.floor(value * 2.0**to.fraction + 0.5))
    if not to.minimum <= integer <= to.maximum:
        raise StillnetError(
            f"cell equation: constant {value!r} does not fit {to}, which holds "
            f"{to.minimum * 2.0**-to.fraction:g} to {to.maximum * 2.0**-to.fraction:g}"
        )
    return Node("constant", (), to, value=integer)


def equal(a: Node | float, b: Node | float) -> Node:
    """The condition a = b."""
    return Node("equal", (_number(a), _number(b)), CONDITION)


def select(condition: Node, a: Node | float, b: Node | float) -> Node:
    """a where the condition holds, else b."""
    x, y = _number(a), _number(b)
    fraction = max(x.format.fraction, y.format.fraction)
    bits = max(n.format.bits + fraction - n.format.fraction for n in (x, y))
    if bits > 64:
        raise StillnetError(
            f"cell equation: 'select' of {x.format} and {y.format} needs {bits} bits"
        )
    return Node("select", (_condition(condition), x, y), Format(bits, fraction))


def sigmoid(x: Node) -> Node:
    """Logistic function, from the table."""
    return Node("sigmoid", (_number(x).narrow(PRE),), tables.SIGMOID)


def tanh(x: Node) -> Node:
    """Hyperbolic tangent, from the table."""
    return Node("tanh", (_number(x).narrow(PRE),), tables.TANH)


def relu(x: Node) -> Node:
    """max(x, 0)."""
    return Node("relu", (_number(x),), x.format)


def maximum(a: Node | float, b: Node | float) -> Node:
    """The larger of two values."""
    x, y = _number(a), _number(b)
    return select(x > y, x, y)


def minimum(a: Node | float, b: Node | float) -> Node:
    """The smaller of two values."""
    x, y = _number(a), _number(b)
    return select(x > y, y, x)


def table(
    f: Callable[[np.ndarray], np.ndarray] | Table,
    x: Node,
    to: Format | None = None,
    low: float = -16.0,
    high: float = 16.0,
    *,
    mirror: str = "",
) -> Node:
    """A function of one variable, from a table of its own.

    Parameters
    ----------
    f : callable, or Table
        Array of float to array of float; or a finished table with pieces of several lengths.
    x : Node
        Narrowed to ``PRE``.
    to : Format
        Of the result, at most 18 bits.
    low, high : float
        Where the table begins and ends; beyond, it holds its last value.
    mirror : str
        ``"odd"`` or ``"even"``: the table has inputs from zero to ``high`` only, which makes its
        segments half as long.

    Raises
    ------
    StillnetError
        Where the largest error over every input integer exceeds 1/4096 of full scale.
    """
    if not isinstance(f, Table):
        if to is None:
            raise StillnetError(
                "cell equation: table() of a function needs the format of its result; write "
                "table(f, x, Format(bits, fraction))"
            )
        f = _even_table(f, to, 0.0 if mirror else low, high, mirror)
    return Node("table", (_number(x).narrow(f.input),), f.output, table=f)


def _even_table(
    f: Callable[[np.ndarray], np.ndarray], to: Format, low: float, high: float, mirror: str
) -> Table:
    """A table whose segments have one length: the shortest of which there are enough."""
    first, end = (int(np.floor(v * 2.0**PRE.fraction)) for v in (low, high))
    shift = 0
    while -(-end // (1 << shift)) - (first >> shift) > MOST_SEGMENTS:
        shift += 1
    size = 1 << shift
    whole = Piece((first >> shift) * size, -(-end // size) * size, shift)
    return Table(getattr(f, "__name__", "function"), f, (whole,), to, mirror=mirror)


def function(name: str, x: Node) -> Node:
    """A function that is known by its name, over all pre-activations."""
    x = _number(x)
    if name == "relu":
        return relu(x)
    if name in ("sigmoid", "tanh"):
        return sigmoid(x) if name == "sigmoid" else tanh(x)
    if name not in TABLES:
        raise StillnetError(
            f"cell equation: function '{name}' is unknown; known are relu, sigmoid, tanh, "
            f"{', '.join(TABLES)}. Write table(f, x, format) for one of your own"
        )
    y = table(named_table(name), x)
    return relu(x) + y if name in RECTIFIED else y


def output(x: Node) -> Node:
    """The value that a cell writes to its vector where it is no state variable: 16 bits, at most
    14 of fraction."""
    return x.narrow(Format(ACTIVATION.bits, min(x.format.fraction, ACTIVATION.fraction)))


class Variable(Node):
    """A state variable, or a peer's: reads as its old value; ``next`` gives an own one a new value.

    Attributes
    ----------
    following : Node or None
        The value of the next step.
    own : bool
        The cell has a state variable of this name. What it reads may still be a peer's.
    """

    __slots__ = ("following", "own")

    def __init__(self, name: str, format: Format, *, peer: bool = False, own: bool = True) -> None:
        super().__init__("peer" if peer else "state", (), format, name)
        self.following: Node | None = None
        self.own = own

    def next(self, value: Node) -> Node:
        """Assigns the value of the next step, narrowed to the variable's format; returns it."""
        if not self.own:
            raise StillnetError(
                f"cell equation: '{self.name}' belongs to another layer and can only be read"
            )
        if self.following is not None:
            raise StillnetError(f"cell equation: state '{self.name}' is assigned twice")
        self.following = _number(value).narrow(self.format)
        return self.following


def _own(value: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """The array, or a copy where it is the old state itself, which the caller will overwrite."""
    return np.copy(value) if any(value is old for old in state.values()) else value


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

    def nodes(self) -> tuple[Node, ...]:
        """Every node once, operands before users."""
        return self._order

    @cached_property
    def _order(self) -> tuple[Node, ...]:
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
        return tuple(order)

    def integers(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
        """Evaluates in integers, exactly as the hardware does.

        Parameters
        ----------
        m : dict of str to int64 array
            Rescaled accumulators, format ``PRE``, and parameters.
        state : dict of str to int64 array
            Old state, and what peers hold.

        Returns
        -------
        (result, new state, number of elements whose result was clipped to 16 bits)
        """
        value = self._walk(INTEGERS, m, state)
        clipped = 0
        if self.result.op in ("narrow", "floor"):
            (wide,) = self.result.args
            drop = round_shift if self.result.op == "narrow" else floor_shift
            exact = drop(value[id(wide)], wide.format.fraction - self.result.format.fraction)
            clipped = int(np.count_nonzero(exact != value[id(self.result)]))
        return _own(value[id(self.result)], state), self._next(value, state), clipped

    def floats(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Evaluates in floating point: no rounding, no saturation."""
        value = self._walk(FLOATS, m, state)
        return _own(value[id(self.result)], state), self._next(value, state)

    def _next(
        self, value: dict[int, np.ndarray], state: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        return {name: _own(value[id(node)], state) for name, node in self.following.items()}

    def _walk(
        self,
        rules: dict[str, Callable[..., Any]],
        m: dict[str, np.ndarray],
        state: dict[str, np.ndarray],
    ) -> dict[int, np.ndarray]:
        value: dict[int, np.ndarray] = {}
        for node in self.nodes():
            if node.op in ("accumulator", "parameter"):
                value[id(node)] = m[node.name]
            elif node.op in ("state", "peer"):
                value[id(node)] = state[node.name]
            else:
                value[id(node)] = rules[node.op](node, *(value[id(a)] for a in node.args))
        return value
