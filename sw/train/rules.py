"""The cell language in PyTorch: the same integers as the reference, with gradients.

Every number is held in the units of its format, ``integer / 2**fraction``. All of these are exact
in float64 as long as a format has at most 53 bits; in float32 a result that lies next to the middle
between two integers may be rounded to the other one.

Gradients pass ``narrow`` and ``floor`` straight through, except where they saturate; ``wrap``
passes them always. Tables have the derivative of the function they were made from. A comparison has
the gradient of a triangle around equality, but only where something jumps there: a maximum or a
leaky ReLU is continuous, and has exact gradients without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.expr import INPUTS, Graph, Node
from stillnet.sw.contract.cells.rules import FLOATS
from stillnet.sw.contract.fixed import PRE, Format

__all__ = ["CellRule", "drop_bits", "jumps"]


WIDTH = 0.5
"""Half the base of the triangle that stands for the derivative of a comparison."""


class _Drop(torch.autograd.Function):
    """Rounding to a format, and what happens to numbers that it does not hold."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str, to: Format) -> Tensor:
        unit = 2.0**to.fraction
        y = torch.floor(x * unit + 0.5) if op == "narrow" else torch.floor(x * unit)
        if op == "wrap":
            span = 2.0**to.bits
            return (torch.remainder(y - to.minimum, span) + to.minimum) / unit
        held = torch.clamp(y, to.minimum, to.maximum)
        ctx.save_for_backward(held == y)
        return held / unit

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        saved = ctx.saved_tensors
        return (g * saved[0] if saved else g), None, None


def drop_bits(x: Tensor, op: str, to: Format) -> Tensor:
    """``narrow``, ``floor`` or ``wrap`` to a format, straight through for gradients."""
    return _Drop.apply(x, op, to)


class _LookUp(torch.autograd.Function):
    """A table over every integer of its input format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slopes: Tensor, to: Format) -> Tensor:
        index = (x * 2.0**to.fraction - to.minimum).long()
        ctx.save_for_backward(index, slopes)
        return values[index]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        index, slopes = ctx.saved_tensors
        return grads[0] * slopes[index], None, None, None


class _Above(torch.autograd.Function):
    """1 where a > b, else 0; the derivative is a triangle of area 1."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, width: float) -> Tensor:
        d = a - b
        ctx.save_for_backward(d)
        ctx.width, ctx.shapes = width, (a.shape, b.shape)
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d,) = ctx.saved_tensors
        slope = grads[0] * torch.clamp(1 - d.abs() / ctx.width, min=0) / ctx.width
        a, b = ctx.shapes
        return slope.sum_to_size(a), -slope.sum_to_size(b), None


class _Select(torch.autograd.Function):
    """a where p, else b; p gets the difference that it decides about."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
        p, x, y = torch.broadcast_tensors(p, a, b)
        ctx.save_for_backward(p, x, y)
        ctx.shapes = (a.shape, b.shape)
        return torch.where(p > 0, x, y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        p, x, y = ctx.saved_tensors
        a, b = ctx.shapes
        g = grads[0]
        return g * (x - y), (g * p).sum_to_size(a), (g * (1 - p)).sum_to_size(b)


def jumps(graph: Graph) -> frozenset[int]:
    """Selections whose value jumps where one of their comparisons turns, by ``id`` of the node.

    Found by trying: the smaller side of a comparison is set a little below and a little above the
    other one, for random operands.
    """
    rng = np.random.default_rng(0)
    leaves: dict[int, np.ndarray] = {}
    for n in graph.nodes():
        if n.op == "constant":
            leaves[id(n)] = FLOATS[n.op](n)
        elif n.op in INPUTS:
            leaves[id(n)] = rng.normal(0, 0.7, 256)

    def walk(moved: Node | None, by: float, onto: Node | None) -> dict[int, np.ndarray]:
        value = dict(leaves)
        for node in graph.nodes():
            if node is moved and onto is not None:
                value[id(node)] = value[id(onto)] + by
            elif id(node) not in leaves:
                value[id(node)] = FLOATS[node.op](node, *(value[id(a)] for a in node.args))
        return value

    found = set()
    order = {id(n): k for k, n in enumerate(graph.nodes())}
    for g in (n for n in graph.nodes() if n.op == "greater"):
        # What is moved must not come before what it is moved to.
        moved, onto = sorted(g.args, key=lambda n: (n.op != "constant", order[id(n)]), reverse=True)
        low, high = walk(moved, -1e-6, onto), walk(moved, 1e-6, onto)
        for s in (n for n in graph.nodes() if n.op == "select"):
            gap = np.abs(np.asarray(high[id(s)]) - np.asarray(low[id(s)]))
            if np.mean(gap > 1e-3) > 0.01:
                found.add(id(s))
    return frozenset(found)


@cache
def _tables(node: Node, dtype: torch.dtype) -> tuple[Tensor, Tensor, Format]:
    """Values and slopes of a table for every input, and the format of the input."""
    to = PRE if node.table is None else node.table.input
    x = np.arange(to.minimum, to.maximum + 1)
    if node.table is not None:
        y, exact = node.table.integers(x), node.table.real(x)
    elif node.op == "tanh":
        y, exact = tables.tanh(x), np.tanh(x * 2.0**-to.fraction)
    else:
        y, exact = tables.sigmoid(x), 0.5 + 0.5 * np.tanh(x * 2.0 ** -(to.fraction + 1))
    values = torch.tensor(y * 2.0**-node.format.fraction, dtype=dtype)
    return values, torch.tensor(np.gradient(exact) * 2.0**to.fraction, dtype=dtype), to


class CellRule:
    """The equation of one cell in PyTorch, from the graph that reference and hardware have.

    Parameters
    ----------
    cell : str
        Name of a registered cell.
    width : float
        Half the base of the triangle for comparisons, in the units of what is compared.
    exact : bool
        Round as integers do. Otherwise real arithmetic, the limit of fine formats.
    """

    def __init__(self, cell: str, width: float = WIDTH, exact: bool = True) -> None:
        self.graph = CELLS[cell].graph
        self.width = width
        self.exact = exact
        self._jumps = jumps(self.graph)

    def __call__(
        self, m: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step.

        Parameters
        ----------
        m : dict of str to Tensor, shape (..., units)
            Rescaled accumulators and parameters, in the units of their formats.
        state : dict of str to Tensor
            Old state, and what peers hold.

        Returns
        -------
        (result, new state), in the units of their formats
        """
        value: dict[int, Any] = {}
        for node in self.graph.nodes():
            if node.op in ("accumulator", "parameter"):
                value[id(node)] = m[node.name]
            elif node.op in ("state", "peer"):
                value[id(node)] = state[node.name]
            else:
                value[id(node)] = self._apply(node, [value[id(a)] for a in node.args], m)
        following = {name: value[id(node)] for name, node in self.graph.following.items()}
        return value[id(self.graph.result)], following

    def _apply(self, node: Node, args: list[Any], m: Mapping[str, Tensor]) -> Any:
        like = next(iter(m.values()))
        if node.op == "constant":
            return like.new_tensor(node.value * 2.0**-node.format.fraction)
        if node.op in ("narrow", "floor", "wrap"):
            return drop_bits(args[0], node.op, node.format) if self.exact else args[0]
        if node.op in ("tanh", "sigmoid", "table"):
            return self._table(node, args[0])
        if node.op == "greater":
            return _Above.apply(args[0], args[1], self.width)
        if node.op == "equal":
            return (args[0] == args[1]).to(like.dtype)
        if node.op == "scale":
            return args[0] * 2.0 ** (node.args[0].format.fraction - node.format.fraction)
        if node.op == "select":
            p = args[0] if id(node) in self._jumps else args[0].detach()
            return _Select.apply(p, args[1], args[2])
        return _PLAIN[node.op](*args)

    def _table(self, node: Node, x: Tensor) -> Tensor:
        if not self.exact and node.op in ("tanh", "sigmoid"):
            return torch.tanh(x) if node.op == "tanh" else torch.sigmoid(x)
        values, slopes, to = _tables(node, x.dtype)
        if not self.exact:
            return _Exact.apply(x, node)
        return _LookUp.apply(x, values, slopes, to)


class _Exact(torch.autograd.Function):
    """The function of a table itself, with a central difference for its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, node: Node) -> Tensor:
        ctx.save_for_backward(x)
        ctx.node = node
        assert node.table is not None
        return torch.as_tensor(node.table.exact(x.detach().numpy())).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        h = 1e-5
        z = x.detach().double().numpy()
        slope = (ctx.node.table.exact(z + h) - ctx.node.table.exact(z - h)) / (2 * h)
        return grads[0] * torch.as_tensor(slope).to(x.dtype), None


_PLAIN: dict[str, Callable[..., Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "wide_mul": lambda a, b: a * b,
    "relu": torch.relu,
    "and": lambda p, q: p * q,
    "or": lambda p, q: p + q - p * q,
    "not": lambda p: 1 - p,
}
"""By operation: what needs neither rounding nor a derivative of its own."""
