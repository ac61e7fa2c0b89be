"""The choice of scales inside cells: powers of two of state variables, peers and parameters.

Most cells have fixed formats inside. A cell that commutes with scaling (S5, LRU, convolution, leaky
integrator) says so in ``Cell.scale``: names with one label share a power of two, and calibration
chooses it, so that the largest value seen, times the margin, uses the format. Layers that read each
other's state as peers share the label of it. Docs: ``docs/cells.md``, *Scales*.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import PRE, Format
from stillnet.sw.model.layers import Layer
from stillnet.sw.model.model import Model
from stillnet.sw.network.checks import label_exponent, parameter_range

__all__ = ["choose_scales", "quantize_parameters"]

_FACTOR_HEADROOM = 3
"""Spare bits of a row factor that are not given to what it multiplies."""

_LIMIT = 40
"""Largest power of two either way."""


def choose_scales(
    model: Model,
    state_peak: Callable[[int, str], float],
    accumulator_peak: Callable[[int], float],
    margin: float,
) -> list[dict[str, int]]:
    """Powers of two by label, for each layer; empty for cells of fixed formats.

    Parameters
    ----------
    model : Model
    state_peak : function of (layer, name)
        Largest magnitude of a state variable or of the vector, ``"y"``, on calibration.
    accumulator_peak : function of layer
    margin : float
        Headroom, as a factor.
    """
    room: dict[tuple[int, str], int] = {}
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    def restrict(node: tuple[int, str], peak: float, to: Format) -> None:
        if peak > 0:
            largest = to.maximum * 2.0**-to.fraction
            room[node] = min(room.get(node, _LIMIT), math.floor(math.log2(largest / peak / margin)))

    for i, layer in enumerate(model.layers):
        cell = CELLS[layer.cell]
        for name, label in cell.scale.items():
            node = (i, label)
            if "/" in label:
                continue
            root(node)
            if name == "m":
                restrict(node, accumulator_peak(i), PRE)
            elif name == "y":
                restrict(node, state_peak(i, "y"), cell.graph.result.format)
            elif name in cell.state:
                restrict(node, state_peak(i, name), cell.state[name])
            elif name in cell.parameters:
                values = np.abs(layer.parameters[name])
                values = values[np.isfinite(values)]
                restrict(node, float(np.max(values, initial=0.0)), cell.parameters[name])
        for name, peer in layer.peers.items():
            own = (i, cell.scale.get(name, ""))
            other = (peer, CELLS[model.layers[peer].cell].scale.get(name, ""))
            parent[root(own)] = root(other)
    for node in list(parent):
        if node[1] == "":  # a format that nothing chooses
            room[node] = 0
    common: dict[tuple[int, str], int] = {}
    for node in parent:
        top = root(node)
        if node in room:
            common[top] = min(common.get(top, _LIMIT), room[node])
    chosen: list[dict[str, int]] = [{} for _ in model.layers]
    _balance(model, common, root)
    for i, label in parent:
        if label:
            chosen[i][label] = max(-_LIMIT, common.get(root((i, label)), 0))
    return chosen


def _balance(
    model: Model,
    common: dict[tuple[int, str], int],
    root: Callable[[tuple[int, str]], tuple[int, str]],
) -> None:
    """Row factors have the scale of one label over that of another: makes them fit, and gives bits
    that they do not need to the accumulators."""
    for i, layer in enumerate(model.layers):
        cell = CELLS[layer.cell]
        ratios = {label for label in cell.scale.values() if "/" in label}
        for label in ratios:
            over, _, under = label.partition("/")
            names = [p for p in cell.parameters if cell.scale.get(p) == label]
            peak = max(float(np.max(np.abs(layer.parameters[p]), initial=0.0)) for p in names)
            if peak == 0:
                continue
            high = min(parameter_range(cell, p)[1] for p in names)
            top, below = root((i, over)), root((i, under))
            k, b = common.get(top, 0), common.get(below, 0)
            spare = math.floor(math.log2(high / peak)) - (k - b)
            if spare < 0:  # the state is made coarser: what adds into it must not saturate
                common[top] = k + spare
            elif spare > _FACTOR_HEADROOM:
                common[below] = b - (spare - _FACTOR_HEADROOM) // 2
            common.setdefault(top, 0)
            common.setdefault(below, 0)


def quantize_parameters(layer: Layer, exponents: dict[str, int]) -> dict[str, np.ndarray]:
    """Parameters of a layer as integers: rounded half up; eigenvalues never out of the unit circle.

    Raises
    ------
    StillnetError
        Naming the unit whose value the format does not hold.
    """
    cell = CELLS[layer.cell]
    result = {}
    for name, fmt in cell.parameters.items():
        power = label_exponent(cell, exponents, name)
        values = np.asarray(layer.parameters[name], float)
        low, high = parameter_range(cell, name)
        unit = 2.0**-fmt.fraction
        scaled = values * 2.0**power
        bad = (scaled < low - unit) | (scaled > high + unit)  # 1.0 in s16.15 is 1 - 2**-15
        if name in cell.unlimited:
            bad &= np.isfinite(scaled)
        if np.any(bad):
            number = int(np.argmax(bad))
            raise StillnetError(
                f"layer '{layer.name}': parameter '{name}' is {values[number]:g} at unit {number}, "
                f"cell '{layer.cell}' takes {low * 2.0**-power:g} to {high * 2.0**-power:g}"
            )
        integers = np.floor(scaled / unit + 0.5)
        limits = math.ceil(low / unit), math.floor(high / unit)
        result[name] = np.clip(integers, *limits).astype(np.int64)
    if {"lam_re", "lam_im"} <= set(cell.parameters):
        unit = 2.0 ** -cell.parameters["lam_re"].fraction
        parts = [np.asarray(layer.parameters[p], float) / unit for p in ("lam_re", "lam_im")]
        _keep_inside(result, parts[0], parts[1], 1 / unit)
    return result


def _keep_inside(
    result: dict[str, np.ndarray], re: np.ndarray, im: np.ndarray, radius: float
) -> None:
    """Puts an eigenvalue that rounding carried out of the unit circle on the nearest point inside.

    Outside, a slow state would grow for ever, in silence too, until it wraps around.
    """
    rounded = result["lam_re"], result["lam_im"]
    out = (np.hypot(*rounded) > radius) & (np.hypot(re, im) <= radius * (1 + 1e-12))
    for n in np.flatnonzero(out):
        cut = int(np.trunc(re[n])), int(np.trunc(im[n]))  # both cut is inside, whatever the point
        choices = [(cut[0], int(rounded[1][n])), (int(rounded[0][n]), cut[1]), cut]
        inside = [c for c in choices if c[0] ** 2 + c[1] ** 2 <= radius**2]
        best = min(inside, key=lambda c: (c[0] - re[n]) ** 2 + (c[1] - im[n]) ** 2)
        rounded[0][n], rounded[1][n] = best
