"""What each operation of a cell's equations computes: in integers and in floating point.

``expr`` says which operations exist and which format each result has; this module is their
arithmetic. The hardware generator emits the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.fixed import narrow, saturate

__all__ = ["FLOATS", "INTEGERS", "floor_shift", "wrap"]


def floor_shift(value: np.ndarray, shift: int) -> np.ndarray:
    """floor(value / 2**shift); a negative shift multiplies."""
    return value << -shift if shift <= 0 else value >> shift


def wrap(value: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the low ``bits`` bits, as two's complement."""
    if bits >= 64:
        return value
    half = 1 << (bits - 1)
    return ((value + half) & ((1 << bits) - 1)) - half


def _aligned(node: Any, values: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Operands with the finest fraction among them."""
    fraction = max(a.format.fraction for a in node.args)
    return [v << (fraction - a.format.fraction) for a, v in zip(node.args, values)]


def _select(node: Any, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    fraction = node.format.fraction
    shifts = [fraction - n.format.fraction for n in node.args[1:]]
    return np.where(condition, a << shifts[0], b << shifts[1])


def _drop(node: Any, a: np.ndarray) -> np.ndarray:
    return floor_shift(a, node.args[0].format.fraction - node.format.fraction)


INTEGERS: dict[str, Callable[..., Any]] = {
    "constant": lambda node: np.int64(node.value),
    "add": lambda node, a, b: np.add(*_aligned(node, (a, b))),
    "sub": lambda node, a, b: np.subtract(*_aligned(node, (a, b))),
    "mul": lambda node, a, b: a * b,
    "wide_mul": lambda node, a, b: a * b,
    "scale": lambda node, a: a,
    "narrow": lambda node, a: narrow(a, node.args[0].format.fraction, node.format),
    "floor": lambda node, a: saturate(_drop(node, a), node.format.bits),
    "wrap": lambda node, a: wrap(_drop(node, a), node.format.bits),
    "relu": lambda node, a: np.maximum(a, 0),
    "tanh": lambda node, a: tables.tanh(a),
    "sigmoid": lambda node, a: tables.sigmoid(a),
    "table": lambda node, a: node.table.integers(a),
    "greater": lambda node, a, b: np.greater(*_aligned(node, (a, b))),
    "equal": lambda node, a, b: np.equal(*_aligned(node, (a, b))),
    "and": lambda node, a, b: a & b,
    "or": lambda node, a, b: a | b,
    "not": lambda node, a: ~a,
    "select": _select,
}
"""By operation: (node, operands as int64 arrays, conditions as bool) to the result."""

FLOATS: dict[str, Callable[..., Any]] = {
    "constant": lambda node: np.float64(node.value * 2.0**-node.format.fraction),
    "add": lambda node, a, b: a + b,
    "sub": lambda node, a, b: a - b,
    "mul": lambda node, a, b: a * b,
    "wide_mul": lambda node, a, b: a * b,
    "scale": lambda node, a: a * 2.0 ** (node.args[0].format.fraction - node.format.fraction),
    "narrow": lambda node, a: a,
    "floor": lambda node, a: a,
    "wrap": lambda node, a: a,
    "relu": lambda node, a: np.maximum(a, 0.0),
    "tanh": lambda node, a: np.tanh(a),
    "sigmoid": lambda node, a: 0.5 + 0.5 * np.tanh(0.5 * a),
    "table": lambda node, a: node.table.exact(a),
    "greater": lambda node, a, b: np.greater(a, b),
    "equal": lambda node, a, b: np.equal(a, b),
    "and": lambda node, a, b: a & b,
    "or": lambda node, a, b: a | b,
    "not": lambda node, a: ~a,
    "select": lambda node, c, a, b: np.where(c, a, b),
}
"""By operation: the same in real numbers, without rounding, saturation or wrap-around."""
