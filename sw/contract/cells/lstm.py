"""Long short-term memory, with and without peepholes."""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import ACTIVATION, Format
from stillnet.sw.contract.tanh_sigmoid import SIGMOID

from .cell import Cell, register
from .expr import Node, Variable, sigmoid, tanh

__all__ = ["LSTM", "LSTMPeephole"]

PEEPHOLE = Format(18, 14)
"""Peephole weights: one multiplier input, +-8."""

CELL_STATE = Format(24, 17)
"""c of an LSTM: +-64. It counts further than tanh can tell, and forgets from there."""


def _forget(c: Variable, f: Node, added: Node) -> Node:
    """c' = f * c + added, as c - (1 - f) c + added: rounding c to a multiplier's width then costs
    little where f is near 1, which is where errors would add up."""
    return c.next(c - (1 - f).narrow(SIGMOID) * c + added)


@register
class LSTM(Cell):
    """Long short-term memory (PyTorch, ONNX)."""

    name = "lstm"
    accumulators = ("i", "f", "g", "o")
    state: ClassVar[dict[str, Format]] = {"c": CELL_STATE, "h": ACTIVATION}
    bound = 1.0
    gate: ClassVar = staticmethod(sigmoid)

    def update(self, m: Any, state: Any) -> Node:
        i, f, o = self.gate(m.i), self.gate(m.f), self.gate(m.o)
        c = _forget(state.c, f, i * tanh(m.g))
        return state.h.next(o * tanh(c))


@register
class LSTMPeephole(Cell):
    """LSTM whose gates also see c, each unit its own (ONNX input P)."""

    name = "lstm_peephole"
    accumulators = ("i", "f", "g", "o")
    parameters: ClassVar[dict[str, Format]] = dict.fromkeys(("pi", "pf", "po"), PEEPHOLE)
    state: ClassVar[dict[str, Format]] = {"c": CELL_STATE, "h": ACTIVATION}
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        i = sigmoid(m.i + m.pi * state.c)
        f = sigmoid(m.f + m.pf * state.c)
        c = _forget(state.c, f, i * tanh(m.g))
        return state.h.next(sigmoid(m.o + m.po * c) * tanh(c))
