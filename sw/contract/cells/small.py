"""Small cells, worked examples of how short an equation is."""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import Format

from .cell import Cell, register
from .expr import Node, output, relu, sigmoid

__all__ = ["Leaky", "LiGRU", "MinGRU"]

RANGE = Format(16, 11)
"""Hidden state without a bound of its own: +-16, the range of a pre-activation."""


@register
class MinGRU(Cell):
    """Minimal GRU (arXiv 2410.01201): gates of x alone, a linear candidate. z is called u."""

    name = "mingru"
    accumulators = ("u", "c")
    state: ClassVar[dict[str, Format]] = {"h": RANGE}

    def update(self, m: Any, state: Any) -> Node:
        return state.h.next(state.h + sigmoid(m.u) * (m.c - state.h))


@register
class LiGRU(Cell):
    """Light GRU (arXiv 1803.10225): no reset gate, a candidate through ReLU. z is called u."""

    name = "ligru"
    accumulators = ("u", "c")
    state: ClassVar[dict[str, Format]] = {"h": RANGE}

    def update(self, m: Any, state: Any) -> Node:
        c = relu(m.c)
        return state.h.next(c + sigmoid(m.u) * (state.h - c))


@register
class Leaky(Cell):
    """Leaky integrator: s moves to its input by the part ``rate`` of the way."""

    name = "leaky"
    accumulators = ("x",)
    parameters: ClassVar[dict[str, Format]] = {"rate": Format(18, 16)}
    state: ClassVar[dict[str, Format]] = {"s": Format(32, 27)}
    scale: ClassVar[dict[str, str]] = {"m": "s", "s": "s", "y": "s"}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"rate": (0.0, 1.0)}

    def update(self, m: Any, state: Any) -> Node:
        s = state.s.next(state.s + m.rate * (m.x - state.s))
        return output(s.narrow(Format(16, 11)))
