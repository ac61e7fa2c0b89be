"""A restart of a large design, from many registers instead of one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from amaranth.hdl import Fragment, Module, ResetInserter, Signal, Value

from stillnet.hw.parts.data_register import copies

__all__ = ["RESTART_CYCLES", "restarted"]

RESTART_CYCLES = 8
"""For which all parts of a board are held: in some of them all are at once, wherever they begin."""

_STAGES = 3
_DEPTH = 3
"""Levels of parts that have a register of their own: an engine, its lanes, each of them."""


def restarted(m: Module, component: Any, restart: Signal, platform: Any) -> Fragment:
    """A component that is reset three cycles after ``restart``.

    A register that reached all of an engine alone would be the slowest path of a full chip: it has
    no logic to pass and thousands of pins to reach. So each part of the engine has one of its own,
    of which there are 64, all of the same cycle. They differ so that synthesis does not merge them
    (:func:`copies`).
    """
    registers: list[Value] = [restart]
    for stage in range(_STAGES):
        registers = [
            later
            for k, early in enumerate(registers)
            for later in copies(m, early, f"restart{stage}_{k}_")
        ]
    return _apply(Fragment.get(component, platform), cycle(registers), _DEPTH)


def _apply(fragment: Fragment, registers: Iterator[Value], depth: int) -> Fragment:
    if depth == 0 or type(fragment) is not Fragment:
        return ResetInserter(next(registers))(fragment)
    parts, fragment.subfragments = fragment.subfragments, []
    own = ResetInserter(next(registers))(fragment)
    own.subfragments = [(_apply(part, registers, depth - 1), *rest) for part, *rest in parts]
    return own
