"""Registers of data paths, which no reset reaches.

Data in a pipeline count only while a flag says that they are valid, so only the flags are reset. A
reset that reaches thousands of registers costs routing and speed.
"""

import functools

from amaranth.hdl import Signal

__all__ = ["IN_FABRIC", "Data"]

Data = functools.partial(Signal, reset_less=True)
"""A :class:`Signal` that keeps its value in a reset."""

IN_FABRIC = "in_fabric"
"""Attribute of a register behind a memory that is to stay a flip-flop, near what follows it
(``boards/build/block_ram.py``)."""
