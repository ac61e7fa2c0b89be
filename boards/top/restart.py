"""A restart of a large design, from many registers instead of one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from amaranth.hdl import Fragment, Module, ResetInserter, Signal, Value

from stillnet.hw.parts.data_register import copies

__all__ = ["restarted"]

_DEPTH = 3
"""Levels of parts that have a register of their own: an engine, its lanes, each of them."""


def restarted(m: Module, component: Any, restart: Signal, platform: Any) -> Fragment:
    """A component that is reset two cycles after ``restart``.

    A register that reached all of an engine alone would be the slowest path of a full chip: it has
    no logic to pass and thousands of pins to reach. So the parts of the engine take turns with
    sixteen, all of the same cycle. They differ so that synthesis does not merge them
    (:func:`copies`).
    """
    first = enumerate(copies(m, restart, "restart"))
    registers = [later for k, early in first for later in copies(m, early, f"restart{k}_")]
    return _apply(Fragment.get(component, platform), cycle(registers), _DEPTH)


def _apply(fragment: Fragment, registers: Iterator[Value], depth: int) -> Fragment:
    if depth == 0 or type(fragment) is not Fragment:
        return ResetInserter(next(registers))(fragment)
    parts, fragment.subfragments = fragment.subfragments, []
    own = ResetInserter(next(registers))(fragment)
    own.subfragments = [(_apply(part, registers, depth - 1), *rest) for part, *rest in parts]
    return own
