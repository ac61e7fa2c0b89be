"""The cells: each equation written once.

From the ``update`` of a cell come the NumPy reference, the hardware pipeline and the float form
that tests hold against PyTorch and onnxruntime. To add a cell, subclass :class:`Cell`, write
``update`` as in the paper, and :func:`register` it. ``docs/cells.md`` lists them all.

==================  ================================================================================
module              cells
==================  ================================================================================
``cells``           GRU in its forms, LSTM, EGRU, dense layers
``cells_s5``        the S5 block and the LRU: diagonal complex recurrences
``cells_small``     minGRU, LiGRU, leaky integrator
``cells_conv``      causal convolution in time
==================  ================================================================================
"""

from __future__ import annotations

from typing import Any, ClassVar

from .cell import CELLS, Cell, load_cells, register
from .expr import Node, Variable, output, relu, select, sigmoid, tanh
from .fixed import ACTIVATION, PRE, Format
from .tables import SIGMOID

__all__ = [
    "CELLS",
    "EGRU",
    "GRU",
    "LSTM",
    "Cell",
    "GRUBefore",
    "GRUBeforeRelu",
    "GRURelu",
    "GRUReset",
    "GRUResetRelu",
    "LSTMPeephole",
    "Linear",
    "Relu",
    "Sigmoid",
    "Tanh",
    "load_cells",
    "register",
]

PEEPHOLE = Format(18, 14)
"""Peephole weights: one multiplier input, +-8."""

CELL_STATE = Format(24, 17)
"""c of an LSTM: +-64. It counts further than tanh can tell, and forgets from there."""

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

    def update(self, m: Any, state: Any) -> Node:
        r, u = sigmoid(m.r), sigmoid(m.u)
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

    def update(self, m: Any, state: Any) -> Node:
        return output(sigmoid(m.r) * state.h)


@register
class GRUBefore(Cell):
    """Second half: fed by x, by its own h (gate u) and by the layer below's r * h (gate c)."""

    name = "gru_before"
    accumulators = ("u", "c")
    state: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        c = tanh(m.c)
        return state.h.next(c + sigmoid(m.u) * (state.h - c))


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

    def update(self, m: Any, state: Any) -> Node:
        i, f, o = sigmoid(m.i), sigmoid(m.f), sigmoid(m.o)
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


@register
class Linear(Cell):
    """A dense layer without activation."""

    name = "linear"
    accumulators = ("y",)
    homogeneous = True

    def update(self, m: Any, state: Any) -> Node:
        return output(m.y)


@register
class Relu(Cell):
    """A dense layer with ReLU."""

    name = "relu"
    accumulators = ("y",)
    homogeneous = True

    def update(self, m: Any, state: Any) -> Node:
        return output(relu(m.y))


@register
class Sigmoid(Cell):
    """A dense layer with a logistic activation."""

    name = "sigmoid"
    accumulators = ("y",)
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        return output(sigmoid(m.y))


@register
class Tanh(Cell):
    """A dense layer with tanh."""

    name = "tanh"
    accumulators = ("y",)
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        return output(tanh(m.y))


from . import cells_conv, cells_s5, cells_small  # noqa: E402, F401  (they register themselves)
