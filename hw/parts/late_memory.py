"""A memory in block RAM whose data come two cycles after the address, from a register.

A block of RAM gives its data late in a cycle (boards/build/block_ram.py), so a register stands
right behind each. A memory whose rows are no power of two is cut into parts that are, the largest
first: 3,072 rows are 2,048 and 1,024. Synthesis would do so too, but with the choice between the
parts in front of the register, where the time is that the blocks have taken.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from .data_register import Data

__all__ = ["LateMemory", "parts_of"]

SMALLEST = 512
"""Rows below which nothing is cut: a block of RAM has as many at its widest."""


def parts_of(depth: int) -> list[int]:
    """Rows of the parts of a memory of ``depth`` rows, which are aligned to their sizes.

    >>> parts_of(3072), parts_of(3000), parts_of(2048), parts_of(300)
    ([2048, 1024], [2048, 952], [2048], [300])
    """
    parts: list[int] = []
    while depth > SMALLEST and depth & (depth - 1):
        largest = 1 << (depth.bit_length() - 1)
        if depth - largest < SMALLEST or len(parts) == 2:
            break
        parts.append(largest)
        depth -= largest
    return [*parts, depth]


class LateMemory(wiring.Component):
    """One port for reading and one for writing. What is read of a row that is written in the same
    cycle is undefined.

    Parameters
    ----------
    shape : shape-like
        Of a row.
    depth : int
        Rows.

    Members
    -------
    row : In
        Read in each cycle in which ``enable`` is high.
    enable : In(1)
        Low: the read stands still, and ``data`` stay.
    data : Out(shape)
        Two enabled cycles after ``row``.
    write : In(1)
    write_row, write_data : In
    """

    def __init__(self, shape: Any, depth: int) -> None:
        self._shape, self._depth = shape, depth
        bits = bits_for(depth - 1)
        super().__init__(
            {
                "row": In(bits),
                "enable": In(1, init=1),
                "data": Out(shape),
                "write": In(1),
                "write_row": In(bits),
                "write_data": In(shape),
            }
        )

    @property
    def depth(self) -> int:
        """Rows."""
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        parts = parts_of(self._depth)
        if len(parts) == 1:
            m.d.comb += self.data.eq(self._part(m, 0, self._depth, self.write))
            return m
        found, first = [], 0
        asked, came = (Data(range(len(parts)), name=name) for name in ("asked", "came"))  # of which
        for k, depth in enumerate(parts):
            bits = bits_for(depth - 1)
            written = self.write & (self.write_row >> bits == first >> bits)
            found.append(self._part(m, k, depth, written))
            with m.If(self.enable & (self.row >= first)):
                m.d.sync += asked.eq(k)
            first += depth
        with m.If(self.enable):
            m.d.sync += came.eq(asked)
        m.d.comb += self.data.eq(Array(found)[came])
        return m

    def _part(self, m: Module, k: int, depth: int, written: Any) -> Signal:
        """Part k with its register; what is read of it."""
        m.submodules[f"rows{k}"] = memory = Memory(
            shape=self._shape, depth=depth, init=[], attrs={"no_rw_check": 1}
        )
        reader, writer = memory.read_port(), memory.write_port()
        bits = bits_for(depth - 1)
        data = Data(self._shape, name=f"data{k}")
        m.d.comb += [
            reader.addr.eq(self.row[:bits]),
            reader.en.eq(self.enable),
            writer.addr.eq(self.write_row[:bits]),
            writer.data.eq(self.write_data),
            writer.en.eq(written),
        ]
        with m.If(self.enable):
            m.d.sync += data.eq(reader.data)
        return data
