"""The event-based GRU."""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import ACTIVATION, Format

from .cell import Cell, register
from .expr import Node, select, sigmoid, tanh

__all__ = ["EGRU"]


@register
class EGRU(Cell):
    """Event-based GRU (arXiv 2206.06178): the unit speaks where c exceeds its threshold, strictly.

    u is the paper's z, cx and ch the two halves of its g. The vector is sent as plain events
    (``Mode.NONZERO``). With thresholds of zero or more, \\|h\\| <= 1 and \\|y\\| <= 1.
    """

    name = "egru"
    accumulators = ("r", "cx", "u", "ch")
    parameters: ClassVar[dict[str, Format]] = {"theta": ACTIVATION}
    state: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    limits: ClassVar[dict[str, tuple[float, float]]] = {"theta": (0.0, 2.0)}
    bound = 1.0
    cleared = ("h",)

    def update(self, m: Any, state: Any) -> Node:
        r, u = sigmoid(m.r), sigmoid(m.u)
        g = tanh(m.cx + r * m.ch)
        c = (g + u * (state.h - g)).narrow(ACTIVATION)
        fires = c > m.theta
        state.h.next(select(fires, c - m.theta, c))
        return select(fires, c, 0)
