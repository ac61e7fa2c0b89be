"""Causal convolution in time, as partial sums that move along a chain.

y(t) = sum over k of W_k x(t - k). Accumulator a_k holds W_k ref: one event of x fetches one column
with the weights of all taps. What the step adds to an output k steps ahead moves one place a step:

    s_k(t) = a_k(t) + s_(k+1)(t - 1)        y(t) = a_0(t) + s_1(t - 1)

so a layer needs one accumulator a tap, one state variable less, and nothing but adders. There is
one cell for each number of taps, 2 to 8, plain (``conv3``) and with ReLU (``conv3_relu``).

More taps read the input again, seven steps later each time: ``delay`` keeps a vector for as long.
"""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import Format

from .cell import Cell, register
from .expr import Node, output, relu

__all__ = ["DELAY", "MAX_TAPS", "Convolution", "Delay"]

MAX_TAPS = 8
"""A matrix has a mask of eight gates."""

DELAY = MAX_TAPS - 1
"""Steps that ``delay`` keeps a vector, in the state variables of the widest convolution."""

PARTIAL = Format(22, 13)
"""A partial sum: the fraction of a pre-activation and room for eight of them."""


class Convolution(Cell):
    """A causal convolution in time over the vectors of its source.

    Attributes
    ----------
    taps : int
    rectify : bool
        ReLU after the sum.
    """

    taps: int
    rectify: bool

    def update(self, m: Any, state: Any) -> Node:
        last = self.taps - 1
        y = m.a0 + state.s1
        for k in range(1, last):
            getattr(state, f"s{k}").next(getattr(m, f"a{k}") + getattr(state, f"s{k + 1}"))
        getattr(state, f"s{last}").next(getattr(m, f"a{last}"))
        return output(relu(y) if self.rectify else y)


@register
class Delay(Cell):
    """The vector of seven steps before."""

    name = "delay"
    accumulators = ("y",)
    state: ClassVar[dict[str, Format]] = {f"s{k}": PARTIAL for k in range(1, DELAY + 1)}
    scale: ClassVar[dict[str, str]] = {"m": "y", "y": "y", **dict.fromkeys(state, "y")}

    def update(self, m: Any, state: Any) -> Node:
        for k in range(1, DELAY):
            getattr(state, f"s{k}").next(getattr(state, f"s{k + 1}"))
        getattr(state, f"s{DELAY}").next(m.y)
        return output(state.s1.narrow(Format(18, 13)))


def _define(taps: int, rectify: bool) -> None:
    state = {f"s{k}": PARTIAL for k in range(1, taps)}
    name = f"conv{taps}" + ("_relu" if rectify else "")
    values = {
        "__doc__": f"Causal convolution of {taps} taps" + (" with ReLU." if rectify else "."),
        "name": name,
        "accumulators": tuple(f"a{k}" for k in range(taps)),
        "state": state,
        "scale": {"m": "y", "y": "y", **dict.fromkeys(state, "y")},
        "taps": taps,
        "rectify": rectify,
    }
    register(type(name, (Convolution,), values))


for _taps in range(2, MAX_TAPS + 1):
    _define(_taps, False)
    _define(_taps, True)
