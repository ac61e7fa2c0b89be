"""Dense layers: the sum, and what goes over it."""

from __future__ import annotations

from typing import Any

from .cell import Cell, register
from .expr import Node, output, relu, sigmoid, tanh

__all__ = ["Linear", "Relu", "Sigmoid", "Tanh"]


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
