"""Activations that a graph spells out in several nodes, known by what they compute.

Exporters write GELU as a product of x and of 1 + erf(x / sqrt 2), SiLU as x * sigmoid(x), hard
swish as x * clip(x + 3, 0, 6) / 6, each in orders of their own. So the walk keeps, beside the
layers, what a vector is of the one where the nodes began: a function of one variable. Where two of
them are multiplied, the product is compared with the activations that have a cell of their own.
Layers that were made on the way are dropped then, because nothing reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.activations import Number, activation_of
from stillnet.sw.model.layer_graph import Vector

from .tensors import Curve, Flow, label

if TYPE_CHECKING:
    import onnx

    from .walk import Walk

__all__ = ["curve_after", "curve_joined", "curve_scaled", "known_activation"]

KNOWN = ("silu", "gelu", "gelu_tanh", "hard_swish")
"""Activations that are products."""

_GRID = np.linspace(-9.0, 9.0, 361)

_ALIKE = 2e-5
"""Largest difference of functions that are the same: constants have 24 bits. The two forms of GELU
differ by 5e-4."""

Function = Callable[[np.ndarray], np.ndarray]


def _function(kind: str, settings: Mapping[str, Number]) -> Function | None:
    """An activation in floating point; None where units differ."""
    try:
        found = activation_of("", kind, settings)
    except StillnetError:
        return None
    if any(np.ndim(v) for v in found.parameters.values()):
        return None
    cell, parameters = CELLS[found.cell], found.parameters

    def compute(x: np.ndarray) -> np.ndarray:
        m = {cell.accumulators[0]: found.scale * x + found.shift}
        m |= {p: np.asarray(v, float) for p, v in parameters.items()}
        return cell.evaluate_float(m, {})[0]

    return compute


def _of(flow: Flow) -> Curve:
    return flow.curve or Curve(flow.vector, lambda x: x)


def curve_after(flow: Flow, kind: str, settings: Mapping[str, Number]) -> Curve | None:
    """An activation of a flow."""
    before, f = _of(flow), _function(kind, settings)
    if f is None:
        return None
    return Curve(before.base, lambda x: f(before.function(x)), before.product)


def curve_scaled(flow: Flow, scale: np.ndarray, shift: np.ndarray) -> Curve | None:
    """A scale and a shift of a flow, where all elements have the same."""
    if np.ndim(scale) or np.ndim(shift):
        return None
    before = _of(flow)
    return Curve(before.base, lambda x: before.function(x) * scale + shift, before.product)


def curve_joined(
    a: Flow,
    b: Flow,
    join: Callable[[np.ndarray, np.ndarray], np.ndarray],
    product: bool = False,
) -> Curve | None:
    """Two flows element by element, where both are functions of one vector."""
    p, q = _of(a), _of(b)
    if p.base is not q.base:
        return None
    product = product or p.product or q.product
    return Curve(p.base, lambda x: join(p.function(x), q.function(x)), product)


def known_activation(walk: Walk, node: onnx.NodeProto, curve: Curve | None) -> Vector | None:
    """The vector through one activation, scaled where need be, if the function is one."""
    if curve is None or not curve.product:
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(curve.function(_GRID), float)
    if found.shape != _GRID.shape or not np.all(np.isfinite(found)):
        return None
    for kind in KNOWN:
        f = _function(kind, {})
        assert f is not None
        wanted = f(_GRID)
        scale = float(wanted @ found / (wanted @ wanted))
        if scale and np.max(np.abs(found - scale * wanted)) <= _ALIKE * abs(scale):
            vector = walk.net.activation(curve.base, label(node), kind)
            near = round(scale * 2**20) / 2**20  # 0.5 as a 24-bit constant gave it
            scale = near if abs(near - scale) < 1e-6 * abs(scale) else scale
            return walk.net.affine(vector, label(node), np.array(scale), np.zeros(()))
    return None
