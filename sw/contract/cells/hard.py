"""GRU and LSTM whose gates are straight lines (Keras's ``hard_sigmoid``): a clip to 0 .. 1.

Slope and offset of the line are in the weights and biases of the gates.
"""

from __future__ import annotations

from typing import ClassVar

from stillnet.sw.contract.tanh_sigmoid import SIGMOID

from .cell import register
from .expr import Node, constant, minimum, relu
from .gru import GRU, GRUBefore, GRUReset
from .lstm import LSTM

__all__ = ["GRUBeforeHard", "GRUHard", "GRUResetHard", "LSTMHard"]


def clip(x: Node) -> Node:
    """x between 0 and 1."""
    return minimum(relu(x), constant(1.0, SIGMOID)).narrow(SIGMOID)


@register
class GRUHard(GRU):
    """``gru`` with clips for gates."""

    name = "gru_hard"
    gate: ClassVar = staticmethod(clip)


@register
class GRUResetHard(GRUReset):
    """``gru_reset`` with a clip for its gate."""

    name = "gru_reset_hard"
    gate: ClassVar = staticmethod(clip)


@register
class GRUBeforeHard(GRUBefore):
    """``gru_before`` with a clip for its gate."""

    name = "gru_before_hard"
    gate: ClassVar = staticmethod(clip)


@register
class LSTMHard(LSTM):
    """``lstm`` with clips for gates."""

    name = "lstm_hard"
    gate: ClassVar = staticmethod(clip)
