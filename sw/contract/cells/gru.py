"""Gated recurrent units: reset after or before the product, tanh or ReLU."""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format

from .cell import Cell, register
from .expr import Node, output, relu, sigmoid, tanh

__all__ = ["GRU", "GRUBefore", "GRUBeforeRelu", "GRURelu", "GRUReset", "GRUResetRelu"]

RELU_STATE = Format(16, 11)
"""Hidden state of a recurrence through ReLU: +-16, the range of a pre-activation."""


@register
class GRU(Cell):
    """Gated recurrent unit, reset after the product (PyTorch, cuDNN, ONNX linear_before_reset=1).

    Two products, so two multipliers. b_hc is the bias of ``ch``: it lies inside r * (...).
    """

    name = "gru"
    accumulators = ("r", "cx", "u", "ch")
    state: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    bound = 1.0
    gate: ClassVar = staticmethod(sigmoid)

    def update(self, m: Any, state: Any) -> Node:
        r, u = self.gate(m.r), self.gate(m.u)
        c = tanh(m.cx + r * m.ch)
        return state.h.next(c + u * (state.h - c))


@register
class GRURelu(Cell):
    """GRU, reset after the product, with ReLU for the candidate: h is limited by its format."""

    name = "gru_relu"
    accumulators = ("r", "cx", "u", "ch")
    state: ClassVar[dict[str, Format]] = {"h": RELU_STATE}

    def update(self, m: Any, state: Any) -> Node:
        c = relu(m.cx + sigmoid(m.r) * m.ch).narrow(PRE)
        return state.h.next(c + sigmoid(m.u) * (state.h - c))


@register
class GRUReset(Cell):
    """First half of a GRU with the reset before the product: r * h, for the layer above.

    Fed by the events of x and of the layer above, whose h is the peer (both of the last step).
    """

    name = "gru_reset"
    accumulators = ("r",)
    peers: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    bound = 1.0
    gate: ClassVar = staticmethod(sigmoid)

    def update(self, m: Any, state: Any) -> Node:
        return output(self.gate(m.r) * state.h)


@register
class GRUBefore(Cell):
    """Second half: fed by x, by its own h (gate u) and by the layer below's r * h (gate c)."""

    name = "gru_before"
    accumulators = ("u", "c")
    state: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    bound = 1.0
    gate: ClassVar = staticmethod(sigmoid)

    def update(self, m: Any, state: Any) -> Node:
        c = tanh(m.c)
        return state.h.next(c + self.gate(m.u) * (state.h - c))


@register
class GRUResetRelu(Cell):
    """``gru_reset`` for a candidate through ReLU, whose h goes up to 16."""

    name = "gru_reset_relu"
    accumulators = ("r",)
    peers: ClassVar[dict[str, Format]] = {"h": RELU_STATE}

    def update(self, m: Any, state: Any) -> Node:
        return (sigmoid(m.r) * state.h).narrow(RELU_STATE)


@register
class GRUBeforeRelu(Cell):
    """``gru_before`` with ReLU for the candidate (RNNoise): h is limited by its format only."""

    name = "gru_before_relu"
    accumulators = ("u", "c")
    state: ClassVar[dict[str, Format]] = {"h": RELU_STATE}

    def update(self, m: Any, state: Any) -> Node:
        c = relu(m.c)
        return state.h.next(c + sigmoid(m.u) * (state.h - c))
