"""Diagonal complex recurrences: the S5 block, and the LRU.

A block of S5 is four layers::

    s5_state   x  = lam * x + c * (B v)              vector: Re x where the unit passes, else 0
    s5_imag                                          vector: Im x where the unit passes, else 0
    s5_output  x1 = relu(2 Re(C x) + d * v)          state x1
    s5_glu     v' = relu(x1 * sigmoid(W x1 + b) + v) state v

v is the block's input: the state ``v`` of the encoder (``s5_encoder``) or of the block below. Floor
shifts everywhere; ``docs/cells.md`` has the exact integers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from stillnet.sw.contract.fixed import Format

from .cell import Cell, register
from .expr import Node, Variable, relu, select, sigmoid, wide_mul

__all__ = ["LRU", "LRUImag", "S5Encoder", "S5Glu", "S5Imag", "S5Output", "S5State"]

STATE = Format(32, 24)
"""Complex state, each part: wraps around, is never clipped."""

LAMBDA = Format(16, 15)
"""Discrete eigenvalue, each part: inside the unit circle."""

FACTOR = Format(18, 17)
"""Row factor of B: one multiplier input. Its scale is chosen with those of the state and of B v."""

RESULT = Format(16, 14)
"""What leaves of the complex state, each part."""

STREAM = Format(16, 13)
"""The real vectors between blocks, v and x1: a pre-activation without its two top bits."""

SKIP = Format(16, 12)
"""Feedthrough d: +-8."""


def _rotate(state: Any, m: Any) -> tuple[Node, Node]:
    """lam * x, exact: three real products for a complex one, each wide, so two DSPs."""
    both = wide_mul(state.xr + state.xi, m.lam_re)
    re = both - wide_mul(state.xi, m.lam_re + m.lam_im)
    im = both + wide_mul(state.xr, m.lam_im - m.lam_re)
    return re, im


def _passes(re: Node, im: Node) -> Node:
    """The one decision for a complex value: re > 0, or re = 0 and im > 0."""
    return (re > 0) | ((re >= 0) & (im > 0))


def _next(variable: Variable, value: Node) -> Node:
    """Floor and wrap-around: the state is never clipped."""
    return variable.next(value.wrap(STATE))


@register
class S5State(Cell):
    """The diagonal recurrence with the factor of B's rows; its vector is the gated real part."""

    name = "s5_state"
    accumulators = ("bre", "bim")
    parameters: ClassVar[dict[str, Format]] = {
        "lam_re": LAMBDA,
        "lam_im": LAMBDA,
        "c_re": FACTOR,
        "c_im": FACTOR,
    }
    state: ClassVar[dict[str, Format]] = {"xr": STATE, "xi": STATE}
    scale: ClassVar[dict[str, str]] = {
        "m": "b",
        "xr": "x",
        "xi": "x",
        "c_re": "x/b",
        "c_im": "x/b",
        "y": "x",
    }
    floors = True

    def update(self, m: Any, state: Any) -> Node:
        re, im = _rotate(state, m)
        xr = _next(state.xr, re + (m.c_re * m.bre - m.c_im * m.bim))
        xi = _next(state.xi, im + (m.c_re * m.bim + m.c_im * m.bre))
        return select(_passes(xr, xi), xr, 0).floor(RESULT)


@register
class S5Imag(Cell):
    """The gated imaginary part of the layer below. The accumulator is fed by nothing."""

    name = "s5_imag"
    accumulators = ("none",)
    peers: ClassVar[dict[str, Format]] = {"xr": STATE, "xi": STATE}
    scale: ClassVar[dict[str, str]] = {"xr": "x", "xi": "x", "y": "x"}
    floors = True

    def update(self, m: Any, state: Any) -> Node:
        return select(_passes(state.xr, state.xi), state.xi, 0).floor(RESULT)


@register
class S5Output(Cell):
    """Back to real values. The factor 2 is in the weights, which costs no accuracy."""

    name = "s5_output"
    accumulators = ("yr", "yi")
    parameters: ClassVar[dict[str, Format]] = {"d": SKIP}
    state: ClassVar[dict[str, Format]] = {"x1": STREAM}
    peers: ClassVar[dict[str, Format]] = {"v": STREAM}
    scale: ClassVar[dict[str, str]] = {"m": "v", "x1": "v", "v": "v", "y": "v"}
    floors = True

    def update(self, m: Any, state: Any) -> Node:
        y = (m.yr - m.yi) + m.d * state.v
        return state.x1.next(relu(y).floor(STREAM))


@register
class S5Glu(Cell):
    """Half-GLU and skip connection."""

    name = "s5_glu"
    accumulators = ("g",)
    state: ClassVar[dict[str, Format]] = {"v": STREAM}
    peers: ClassVar[dict[str, Format]] = {"x1": STREAM, "v": STREAM}
    scale: ClassVar[dict[str, str]] = {"x1": "v", "v": "v", "y": "v"}
    floors = True

    def update(self, m: Any, state: Any) -> Node:
        y = state.x1 * sigmoid(m.g) + state.v
        return state.v.next(relu(y).floor(STREAM))


@register
class S5Encoder(Cell):
    """A dense layer whose vector the first block reads as v."""

    name = "s5_encoder"
    accumulators = ("y",)
    state: ClassVar[dict[str, Format]] = {"v": STREAM}
    scale: ClassVar[dict[str, str]] = {"m": "v", "v": "v", "y": "v"}
    floors = True

    def update(self, m: Any, state: Any) -> Node:
        return state.v.next(m.y.floor(STREAM))


@register
class LRU(Cell):
    """Linear recurrent unit (arXiv 2303.06349): x = lam * x + gamma * (B u); its vector is Re x.

    The rows of B may be complex; gamma is real.
    """

    name = "lru"
    accumulators = ("bre", "bim")
    parameters: ClassVar[dict[str, Format]] = {
        "lam_re": LAMBDA,
        "lam_im": LAMBDA,
        "gamma": FACTOR,
    }
    state: ClassVar[dict[str, Format]] = {"xr": STATE, "xi": STATE}
    scale: ClassVar[dict[str, str]] = {"m": "b", "xr": "x", "xi": "x", "gamma": "x/b", "y": "x"}

    def update(self, m: Any, state: Any) -> Node:
        re, im = _rotate(state, m)
        xr = state.xr.next(re + m.gamma * m.bre)
        state.xi.next(im + m.gamma * m.bim)
        return xr.narrow(RESULT)


@register
class LRUImag(Cell):
    """The imaginary part of the layer below. The accumulator is fed by nothing."""

    name = "lru_imag"
    accumulators = ("none",)
    peers: ClassVar[dict[str, Format]] = {"xi": STATE}
    scale: ClassVar[dict[str, str]] = {"xi": "x", "y": "x"}

    def update(self, m: Any, state: Any) -> Node:
        return state.xi.narrow(RESULT)
