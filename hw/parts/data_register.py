"""Registers of data paths, which no reset reaches.

Data in a pipeline count only while a flag says that they are valid, so only the flags are reset. A
reset that reaches thousands of registers costs routing and speed.
"""

import functools

from amaranth.hdl import Module, Signal, Value

__all__ = ["IN_FABRIC", "Data", "copies"]

Data = functools.partial(Signal, reset_less=True)
"""A :class:`Signal` that keeps its value in a reset."""


def copies(m: Module, value: Value, name: str, *, init: int = 0) -> list[Value]:
    """Four registers of one bit, for what reaches hundreds of registers all over a chip.

    Synthesis merges registers that are alike, so two of them hold the inverse, and two keep their
    value in a reset: what depends on them must not count then.
    """
    result = []
    for k in range(4):
        kind = Signal if k < 2 else Data
        register = kind(1, name=f"{name}{k}", init=init ^ (k % 2))
        m.d.sync += register.eq(~value if k % 2 else value)
        result.append(~register if k % 2 else register)
    return result


IN_FABRIC = "in_fabric"
"""Attribute of a register behind a memory that is to stay a flip-flop, near what follows it
(``boards/build/block_ram.py``)."""
