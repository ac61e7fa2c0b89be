"""Streams by registers: what a CPU needs to reach the vectors of a core without any other block.

A core that is generated with ``streams="registers"`` has these registers behind those of
:mod:`.registers`, on the same bus, and an interrupt. Each stream has a queue of ``QUEUE_ELEMENTS``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from .registers import ADDRESS_BITS

__all__ = ["QUEUE_ELEMENTS", "WINDOW_ADDRESS_BITS", "Interrupt", "StreamRegister"]

WINDOW_ADDRESS_BITS = ADDRESS_BITS + 1
"""Of an index of a register, with those of the streams."""
QUEUE_ELEMENTS = 1024
"""Elements of each queue; a power of two."""
_FIRST = 1 << ADDRESS_BITS


class StreamRegister(IntEnum):
    """Index of each register, above those of the engine."""

    QUEUES = _FIRST
    """Reads how many elements the input queue has room for (bits 15:0), and how many the output
    queue holds (bits 31:16)."""
    ELEMENT = _FIRST + 1
    """Write: one element into the input queue. Read: the next element of the output queue in bits
    15:0, and in bit 16 whether it is the last one of its vector."""
    PAIR = _FIRST + 2
    """Write: two elements into the input queue, that in bits 15:0 first. Read: the next two
    elements of the output queue, the first one in bits 15:0."""
    INTERRUPTS = _FIRST + 3
    """Write: which causes raise the interrupt (:class:`Interrupt`). Read: which are there, whether
    they raise it or not."""


class Interrupt(IntFlag):
    """Causes of the interrupt. Each stays while it is true; reading clears nothing."""

    OUTPUT = 1
    """The output queue holds a whole vector, or is full."""
    INPUT = 2
    """The input queue is empty: all elements are in the engine."""
