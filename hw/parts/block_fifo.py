"""A queue in block RAM whose data come from a register.

Amaranth's ``SyncFIFOBuffered`` gives what block RAM puts out half a cycle late, through a bypass.
Here a register stands right behind the memory, and nothing in between, so that it can be the block
RAM's own (boards/build/block_ram.py). An entry comes out three cycles after it went in.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .data_register import Data

__all__ = ["BlockFifo"]


class BlockFifo(wiring.Component):
    """A queue for a writer that knows that there is room.

    Parameters
    ----------
    shape : shape-like
        Of an entry.
    depth : int
        Entries, a power of two. The writer must never have more in the queue.

    Members
    -------
    i_stream : In(stream)
        ``ready`` is always high.
    o_stream : Out(stream)
    """

    def __init__(self, shape: Any, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"Depth must be a power of two from 2, not {depth!r}")
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "i_stream": In(stream.Signature(shape, always_ready=True)),
                "o_stream": Out(stream.Signature(shape)),
            }
        )

    @property
    def depth(self) -> int:
        """Entries."""
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # What is read while it is written counts as not there yet.
        m.submodules.memory = memory = Memory(
            shape=self._shape, depth=self._depth, init=[], attrs={"no_rw_check": 1}
        )
        writer, reader = memory.write_port(), memory.read_port()
        tail = Signal(range(self._depth))
        m.d.comb += [
            writer.addr.eq(tail),
            writer.data.eq(self.i_stream.payload),
            writer.en.eq(self.i_stream.valid),
        ]
        with m.If(self.i_stream.valid):
            m.d.sync += tail.eq(tail + 1)

        # The memory reads in each cycle, the same entry again while nothing moves.
        head, after = Signal(range(self._depth)), Signal(range(self._depth), init=1)
        found = Signal()  # the memory puts out the entry at ``head``
        move = Signal()
        address = Signal(range(self._depth))
        m.d.comb += [
            move.eq(~self.o_stream.valid | self.o_stream.ready),
            address.eq(Mux(found & move, after, head)),
            reader.addr.eq(address),
        ]
        m.d.sync += found.eq(Mux(found & move, after != tail, head != tail))
        with m.If(found & move):
            m.d.sync += [head.eq(after), after.eq(after + 1)]
        payload = Data(self._shape)
        m.d.comb += self.o_stream.payload.eq(payload)
        with m.If(move):
            m.d.sync += [payload.eq(reader.data), self.o_stream.valid.eq(found)]
        return m
