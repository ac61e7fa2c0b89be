"""Random equations: every operation of the language, on operands of all widths."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from stillnet.sw.contract.cells import Cell
from stillnet.sw.contract.cells.expr import (
    Node,
    constant,
    equal,
    output,
    relu,
    scaled,
    select,
    sigmoid,
    table,
    tanh,
    wide_mul,
)
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import Format
from stillnet.sw.contract.functions import TABLES, named_table

__all__ = ["random_cell"]

WIDEST = 60
"""Bits of a value that is worked on; wider ones are narrowed."""


def _format(rng: np.random.Generator) -> Format:
    return Format(int(rng.integers(2, 33)), int(rng.integers(-4, 28)))


def _number(rng: np.random.Generator, numbers: list[Node]) -> Node:
    a = numbers[rng.integers(len(numbers))]
    if a.format.bits > WIDEST - 2:
        a = getattr(a, ("narrow", "floor", "wrap")[rng.integers(3)])(_format(rng))
    return a


def _operation(rng: np.random.Generator, numbers: list[Node], conditions: list[Node]) -> None:
    """Adds one value that is made from those that are there."""
    a, b = _number(rng, numbers), _number(rng, numbers)
    kind = rng.integers(16)
    if kind == 0:
        numbers.append(a + b)
    elif kind == 1:
        numbers.append(a - b)
    elif kind == 2:
        numbers.append(a * b)
    elif kind == 3:
        numbers.append(wide_mul(a, b))
    elif kind == 4:
        numbers.append(-relu(a))
    elif kind == 5:
        numbers.append((tanh, sigmoid)[rng.integers(2)](a))
    elif kind == 6:
        numbers.append(a.narrow(_format(rng)))
    elif kind == 7:
        numbers.append(a.floor(_format(rng)))
    elif kind == 8:
        numbers.append(a.wrap(_format(rng)))
    elif kind == 9:
        numbers.append(scaled(a, int(rng.integers(-5, 6))))
    elif kind == 10:
        numbers.append(a * constant(float(rng.uniform(-2, 2)), Format(12, 9)) - 0.25)
    elif kind == 11:
        conditions.append(a > b)
    elif kind == 12:
        conditions.append(equal(a, b) | (a >= 0))
    elif kind == 15:
        numbers.append(table(named_table(TABLES[rng.integers(len(TABLES))]), a))
    elif kind == 13 and conditions:
        p, q = (conditions[rng.integers(len(conditions))] for _ in range(2))
        conditions.append((p & ~q) | (a < b))
    elif conditions:
        numbers.append(select(conditions[rng.integers(len(conditions))], a, b))


def random_cell(seed: int, operations: int = 14) -> Cell:
    """A cell whose equation is drawn; the same for the same seed."""

    class Drawn(Cell):
        name = f"drawn{seed}"
        accumulators = ("a", "b")
        parameters: ClassVar[dict[str, Format]] = {"p": Format(32, 20), "q": Format(7, 3)}
        state: ClassVar[dict[str, Format]] = {"s": Format(32, 22), "t": Format(11, 8)}
        peers: ClassVar[dict[str, Format]] = {"v": Format(16, 13)}

        def update(self, m: Any, state: Any) -> Node:
            rng = np.random.default_rng(seed)
            numbers: list[Node] = [m.a, m.b, m.p, m.q, state.s, state.t, state.v]
            conditions: list[Node] = []
            while len(numbers) + len(conditions) < operations + 7:
                try:
                    _operation(rng, numbers, conditions)
                except StillnetError:  # too wide
                    continue
            state.s.next(_number(rng, numbers[-4:]))
            state.t.next(_number(rng, numbers[-3:]))
            return output(numbers[-1])

    return Drawn()
