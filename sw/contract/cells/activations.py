"""Activations beyond ReLU, tanh and sigmoid, and products of two sums.

``leaky_relu`` and ``clip`` have a parameter for each unit and commute with scaling; so do ``exp``,
``sqrt``, ``mask`` and ``product`` in their own way (``Cell.gains``). The others have fixed formats:
+-16 is what they read and what they write, as in a GRU with ReLU.

==============  ===================================================================================
cell            stands for
==============  ===================================================================================
``leaky_relu``  leaky ReLU, PReLU, absolute value (slope -1)
``clip``        ReLU6, hard tanh, a floor or a ceiling; hard sigmoid, whose scale and shift are in
                the weights
``elu``         ELU, SELU, CELU
``mask``        a gate on a vector, a gated linear unit
``product``     the product of two vectors, a square
==============  ===================================================================================
"""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format
from stillnet.sw.contract.functions import named_table

from .cell import Cell, register
from .expr import Node, function, maximum, minimum, output, relu, select, sigmoid, table

__all__ = ["RANGE", "Clip", "Elu", "Exp", "LeakyRelu", "Mask", "Product", "Sqrt"]

RANGE = Format(16, 11)
"""A result without a bound of its own: +-16, the range of a pre-activation."""

SAME = Format(16, PRE.fraction)
"""A result that has the scale of its accumulator."""


@register
class LeakyRelu(Cell):
    """x where it is positive, else slope * x: a slope for each unit."""

    name = "leaky_relu"
    accumulators = ("y",)
    parameters: ClassVar[dict[str, Format]] = {"slope": Format(18, 15)}
    homogeneous = True

    def update(self, m: Any, state: Any) -> Node:
        return select(m.y > 0, m.y, m.slope * m.y).narrow(SAME)


@register
class Clip(Cell):
    """x between two bounds for each unit; where they cross, the upper one holds."""

    name = "clip"
    accumulators = ("y",)
    parameters: ClassVar[dict[str, Format]] = {"low": PRE, "high": PRE}
    scale: ClassVar[dict[str, str]] = {"m": "y", "low": "y", "high": "y", "y": "y"}
    unlimited = ("low", "high")

    def update(self, m: Any, state: Any) -> Node:
        return minimum(maximum(m.y, m.low), m.high).narrow(SAME)


@register
class Elu(Cell):
    """positive * x where x is positive, else negative * (exp(x) - 1)."""

    name = "elu"
    accumulators = ("y",)
    parameters: ClassVar[dict[str, Format]] = {
        "positive": Format(18, 15),
        "negative": Format(18, 15),
    }

    def update(self, m: Any, state: Any) -> Node:
        below = table(named_table("elu"), m.y)
        return (m.positive * relu(m.y) + m.negative * below).narrow(RANGE)


@register
class Exp(Cell):
    """exp(x). A power of two of the result is a bias, so that the range follows calibration."""

    name = "exp"
    accumulators = ("y",)
    gains: ClassVar[dict[str, str]] = {"y": "exponential"}

    def update(self, m: Any, state: Any) -> Node:
        return output(function("exp", m.y).narrow(SAME))


@register
class Sqrt(Cell):
    """Square root; zero of what is negative."""

    name = "sqrt"
    accumulators = ("y",)
    gains: ClassVar[dict[str, str]] = {"y": "square"}

    def update(self, m: Any, state: Any) -> Node:
        return output(function("sqrt", m.y).narrow(SAME))


@register
class Mask(Cell):
    """a * sigmoid(b): a gain of 0 to 1 on each element of a vector."""

    name = "mask"
    accumulators = ("a", "b")
    gains: ClassVar[dict[str, str]] = {"a": "linear"}

    def update(self, m: Any, state: Any) -> Node:
        return (m.a * sigmoid(m.b)).narrow(ACTIVATION)


@register
class Product(Cell):
    """a * b, element by element."""

    name = "product"
    accumulators = ("a", "b")
    gains: ClassVar[dict[str, str]] = {"a": "linear", "b": "linear"}

    def update(self, m: Any, state: Any) -> Node:
        return (m.a * m.b).narrow(ACTIVATION)


class _Known(Cell):
    """A function that has a table by its name."""

    accumulators = ("y",)
    result: ClassVar[Format]

    def update(self, m: Any, state: Any) -> Node:
        return function(self.name, m.y).narrow(self.result)


def _define(name: str, result: Format, bound: float | None, text: str) -> None:
    values = {"__doc__": text, "name": name, "result": result, "bound": bound}
    register(type(name, (_Known,), values))


_define("gelu", RANGE, None, "x times the part of a normal distribution below x (erf).")
_define("gelu_tanh", RANGE, None, "GELU in its approximation by tanh.")
_define("silu", RANGE, None, "x * sigmoid(x), also called swish.")
_define("hard_swish", RANGE, None, "x * clip(x / 6 + 1/2, 0, 1).")
_define("softplus", RANGE, None, "log(1 + exp(x)).")
_define("softsign", ACTIVATION, 1.0, "x / (1 + abs(x)).")
_define("erf", ACTIVATION, 1.0, "The error function.")
