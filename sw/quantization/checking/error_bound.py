"""How far a quantized cell may be from its real-valued equation: a bound derived from the formats.

Nothing here is tuned. Each operation passes on the errors of its operands and adds its own: half a
unit where it rounds, a unit where it floors, the measured error of a table, the distance to the
range where it saturates. A product ab is off by at most \\|a\\| db + da \\|b\\| + da db; sigmoid
has slope 1/4 and tanh 1. A comparison whose operands are closer than their errors may go either
way, and then ``select`` counts the branch that is further off. Wrap-around has no bound beyond its
range.

The bound holds for one step. Over many steps the measured error of the state goes into the next
step's bound, so that it stays tight.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.cells.expr import Graph, Node
from stillnet.sw.contract.cells.rules import FLOATS
from stillnet.sw.contract.fixed import PRE, SCALE_FRACTION
from stillnet.sw.model.layers import Layer
from stillnet.sw.network.checks import label_exponent
from stillnet.sw.network.network import Network, QuantizedLayer

__all__ = ["accumulator_bound", "cell_bound", "layer_exponents", "table_errors"]


@cache
def table_errors() -> dict[str, float]:
    """Largest errors of the tables over every input that exists, by operation."""
    x = np.arange(PRE.minimum, PRE.maximum + 1)
    real = x * 2.0**-PRE.fraction
    tanh = tables.tanh(x) * 2.0**-tables.TANH.fraction - np.tanh(real)
    sigmoid = tables.sigmoid(x) * 2.0**-tables.SIGMOID.fraction - (0.5 + 0.5 * np.tanh(real / 2))
    return {"tanh": float(np.abs(tanh).max()), "sigmoid": float(np.abs(sigmoid).max())}


def _outside(node: Node, value: np.ndarray) -> np.ndarray:
    """Distance of values to the range of a node's format."""
    unit = 2.0**-node.format.fraction
    low, high = node.format.minimum * unit, node.format.maximum * unit
    return np.maximum(0.0, np.maximum(low - value, value - high))


def _walk(
    graph: Graph, inputs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """(real value, bound of the error) of every node; of conditions (value, whether it is certain).
    ``inputs`` by the kind and name of the node."""
    known: dict[int, tuple[Any, Any]] = {}
    for node in graph.nodes():
        if node.name:
            known[id(node)] = inputs[f"{node.op} {node.name}"]
            continue
        values = [known[id(a)][0] for a in node.args]
        errors = [known[id(a)][1] for a in node.args]
        value = FLOATS[node.op](node, *values)
        known[id(node)] = (value, _error(node, value, values, errors))
    return known


def _error(node: Node, value: Any, values: list[Any], errors: list[Any]) -> Any:
    op, unit = node.op, 2.0**-node.format.fraction
    if op == "constant":
        return 0.0
    if op in ("add", "sub"):
        return errors[0] + errors[1]
    if op in ("mul", "wide_mul"):
        (a, b), (da, db) = values, errors
        return np.abs(a) * db + da * np.abs(b) + da * db
    if op == "scale":
        return errors[0] * 2.0 ** (node.args[0].format.fraction - node.format.fraction)
    if op in ("narrow", "floor", "wrap"):
        lost = node.args[0].format.fraction > node.format.fraction
        rounding = (0.5 * unit if op == "narrow" else unit) if lost else 0.0
        if op == "wrap":
            high, low = node.format.maximum * unit, node.format.minimum * unit
            inside = (value + errors[0] <= high) & (value - errors[0] - rounding >= low)
            return np.where(inside, errors[0] + rounding, np.inf)
        high, low = node.format.maximum * unit, node.format.minimum * unit
        furthest = np.maximum(np.abs(value - low), np.abs(value - high))
        return np.minimum(errors[0] + rounding + _outside(node, value), furthest)
    if op == "relu":
        return errors[0]
    if op == "tanh":
        return np.minimum(errors[0], 2.0) + table_errors()["tanh"]
    if op == "sigmoid":
        return np.minimum(errors[0] / 4, 1.0) + table_errors()["sigmoid"]
    if op == "table":
        assert node.table is not None
        return node.table.bound(values[0], errors[0])
    if op == "greater":  # a - b, if exact, decides even where it is zero
        gap, doubt = np.abs(values[0] - values[1]), errors[0] + errors[1]
        return (gap > doubt) | (doubt == 0)
    if op == "equal":
        gap, doubt = np.abs(values[0] - values[1]), errors[0] + errors[1]
        return (gap > doubt) | (doubt == 0)
    if op == "not":
        return errors[0]
    if op in ("and", "or"):
        (a, b), (sure_a, sure_b) = values, errors
        decides = (sure_a & ~a) | (sure_b & ~b) if op == "and" else (sure_a & a) | (sure_b & b)
        return (sure_a & sure_b) | decides
    if op == "select":
        condition, a, b = values
        sure, da, db = errors
        chosen = np.where(condition, da, db)
        other = np.abs(a - b) + np.where(condition, db, da)
        return np.where(sure, chosen, np.maximum(chosen, other))
    raise AssertionError(op)


def layer_exponents(layer: QuantizedLayer) -> dict[str, int]:
    """Powers of two for :func:`cell_bound`: those of a layer's labels; of a homogeneous cell the
    one, under the name "", that its rescale shift stands for."""
    cell = CELLS[layer.cell]
    if not cell.homogeneous:
        return layer.exponents
    return {"": layer.fraction - cell.graph.result.format.fraction}


def cell_bound(
    cell: Cell,
    m: dict[str, np.ndarray],
    state: dict[str, np.ndarray],
    m_error: dict[str, np.ndarray],
    state_error: dict[str, np.ndarray],
    exponents: dict[str, int] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Largest errors of one step of a cell.

    Parameters
    ----------
    cell : Cell
    m, state : dict of str to array
        Exact values: accumulators and parameters; old state and peers.
    m_error, state_error : dict of str to array
        Largest errors of these. Accumulators are then rounded (or floored) to ``PRE``.
    exponents : dict of str to int
        As from :func:`layer_exponents`.

    Returns
    -------
    (error of the result, error of each new state variable)
    """
    exponents = exponents or {}
    factor = {n: 2.0 ** label_exponent(cell, exponents, n) for n in (*m, *state, *cell.state)}
    pre = 2.0 ** label_exponent(cell, exponents, "m")
    inputs: dict[str, tuple[Any, Any]] = {}
    step = 2.0**-PRE.fraction * (1.0 if cell.floors else 0.5)
    for a in cell.accumulators:
        value = m[a] * pre
        outside = _outside(Node("narrow", (), PRE), value)
        inputs[f"accumulator {a}"] = (value, m_error[a] * pre + step + outside)
    for p in cell.parameters:
        inputs[f"parameter {p}"] = (m[p] * factor[p], m_error[p] * factor[p])
    for s in {**cell.state, **cell.peers}:
        kind = "peer" if s in cell.peers else "state"
        inputs[f"{kind} {s}"] = (state[s] * factor[s], state_error[s] * factor[s])
    known = _walk(cell.graph, inputs)
    result = known[id(cell.graph.result)][1] / 2.0 ** label_exponent(cell, exponents, "y")
    following = {s: known[id(n)][1] / factor[s] for s, n in cell.graph.following.items()}
    return result, following


def accumulator_bound(
    layer: Layer,
    network: Network,
    index: int,
    vectors: dict[int, np.ndarray],
    errors: dict[int, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Exact accumulators and parameters of a layer, and how far the quantized ones may be off.

    Parameters
    ----------
    layer : Layer
        In floating point.
    network : Network
    index : int
        Of the layer.
    vectors : dict of source to array
        Exact vectors as the matrices of this layer see them.
    errors : dict of source to array
        How far what the accumulators stand for is off each of them.
    """
    quantized = network.layers[index]
    unit = 2.0 ** -network.exponent(index)
    half = 0.0
    if CELLS[layer.cell].floors and quantized.shift > 8:
        half = 2.0 ** (quantized.shift - 9)  # taken from the biases so that rounding floors
    m = {g: np.asarray(b, float).copy() for g, b in layer.bias.items()}
    factor = {g: np.ones(layer.units) for g in m}
    error = {g: np.zeros(layer.units) for g in m}
    # Behind a row multiplier the value has been rounded once more, before it.
    rounding = 2.0 ** (-PRE.fraction - 1) / 2.0 ** label_exponent(
        CELLS[layer.cell], layer_exponents(quantized), "m"
    )
    for g, multiplier in (quantized.scale or {}).items():
        factor[g] = multiplier * 2.0**-SCALE_FRACTION
        error[g] += rounding * factor[g]
    for g in m:
        error[g] += np.abs(m[g] - (quantized.bias[g] + half) * unit * factor[g])
    for matrix, q in zip(layer.matrices, quantized.matrices):
        x, dx = vectors[matrix.source], errors[matrix.source]
        weights = q.weight.astype(float) * 2.0**-q.fraction
        for k, g in enumerate(matrix.gates):
            row = weights[k] * factor[g][:, None]
            m[g] = m[g] + matrix.weight[k] @ x
            error[g] = error[g] + np.abs(row - matrix.weight[k]) @ np.abs(x) + np.abs(row) @ dx
    cell = CELLS[layer.cell]
    for p, values in layer.parameters.items():
        power = cell.parameters[p].fraction + label_exponent(cell, quantized.exponents, p)
        stands = quantized.parameters[p] * 2.0**-power
        m[p] = np.where(np.isfinite(values), np.asarray(values, float), stands)  # or no limit
        error[p] = np.abs(m[p] - stands)
    return m, error
