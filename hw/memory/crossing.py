"""A memory port between two clocks that know nothing of each other.

::

    port (sync) --> reads  -> [eight places]       -> memory (its own domain)
                <-- words  <- [asynchronous queue] <-
                --> writes -> [one place]          ->
                <-- write done, errors, by synchronisers

Nothing else passes between the domains. Neither side of any is ever reset: a queue whose pointers
jump would show words that nobody wrote. What was under way at a restart is waited for and
dropped instead.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import DomainRenamer, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.fifo import AsyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.register_slice import RegisterSlice

from .port import MemoryPortSignature

__all__ = ["PortCrossing"]

READS, WORDS = 8, 17
"""Places. One that was taken is seen free four cycles of both clocks later, so that sixteen words
pass without a pause."""


class PortCrossing(wiring.Component):
    """Carries a memory port from ``sync`` to the clock of its memory.

    Parameters
    ----------
    address_bits, word_bits, length_bits : int
        Of the port.
    domain : str
        Clock of the memory.

    Members
    -------
    port : In(MemoryPortSignature(...)), in ``sync``
    memory : Out(MemoryPortSignature(...)), in ``domain``
    restart : In(1), in ``sync``
        One cycle: forgets what is under way. Reads are accepted again once the memory has answered
        what it was asked for, and its error is taken back.
    clear : Out(1), in ``domain``
        For the reset of a memory whose error stays, while nothing is under way.
    """

    def __init__(
        self, address_bits: int, word_bits: int, *, length_bits: int = 16, domain: str = "memory"
    ) -> None:
        self._domain = domain
        signature = MemoryPortSignature(address_bits, word_bits, length_bits)
        super().__init__(
            {"port": In(signature), "memory": Out(signature), "restart": In(1), "clear": Out(1)}
        )

    @property
    def domain(self) -> str:
        """Clock of the memory."""
        return self._domain

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        open_ = Signal(init=1)  # the port takes reads and writes
        self._reads(m, open_)
        some_left = self._words(m, open_)
        all_written = self._writes(m, open_)
        self._restart(m, open_, some_left, all_written)
        return m

    def _queue(self, m: Module, name: str, width: int, depth: int, inward: bool) -> Any:
        domains = ("sync", self._domain) if inward else (self._domain, "sync")
        queue = AsyncFIFOBuffered(
            width=width, depth=depth, w_domain=domains[0], r_domain=domains[1]
        )
        m.submodules[name] = queue
        return queue

    def _slice(self, m: Module, name: str, shape: Any) -> RegisterSlice:
        """Registers in both directions, at the memory's clock: whether a queue is empty or full
        is known late."""
        register_slice = RegisterSlice(shape)
        m.submodules[f"{name}_slice"] = DomainRenamer(self._domain)(register_slice)
        return register_slice

    def _reads(self, m: Module, open_: Signal) -> None:
        """Requests, a few at a time: each place has a signal that changes when it is filled, and
        one that changes when it is free again. Nothing is compared but these."""
        source, sink, local = self.port.read, self.memory.read, self._domain
        m.submodules.reads = places = Memory(
            shape=unsigned(len(source.payload.as_value())), depth=READS, init=[]
        )
        writer, reader = places.write_port(), places.read_port(domain=local)
        filled, emptied = Signal(READS), Signal(READS)
        filled_there, emptied_here = Signal(READS), Signal(READS)
        m.submodules.filled = FFSynchronizer(filled, filled_there, o_domain=local)
        m.submodules.emptied = FFSynchronizer(emptied, emptied_here)
        free = filled.bit_select(writer.addr, 1) == emptied_here.bit_select(writer.addr, 1)
        m.d.comb += [
            source.ready.eq(free & open_),
            writer.en.eq(source.valid & source.ready),
            writer.data.eq(source.payload),
        ]
        with m.If(writer.en):
            m.d.sync += [
                filled.bit_select(writer.addr, 1).eq(~filled.bit_select(writer.addr, 1)),
                writer.addr.eq(writer.addr + 1),
            ]
        there = filled_there.bit_select(reader.addr, 1) != emptied.bit_select(reader.addr, 1)
        m.d.comb += [reader.en.eq(~sink.valid | sink.ready), sink.payload.eq(reader.data)]
        with m.If(reader.en):
            m.d[local] += sink.valid.eq(there)
            with m.If(there):
                m.d[local] += [
                    emptied.bit_select(reader.addr, 1).eq(~emptied.bit_select(reader.addr, 1)),
                    reader.addr.eq(reader.addr + 1),
                ]

    def _words(self, m: Module, open_: Signal) -> Signal:
        """Words; whether any are still to come."""
        source, sink = self.memory.data, self.port.data
        queue = self._queue(m, "words", len(source.payload), WORDS, False)
        left = Signal(24)
        some_left = Signal()
        asked = Signal.like(self.port.read.p.length)
        came = Signal()
        into = self._slice(m, "words", source.payload.shape())
        connect(m, flipped(source), into.i_stream)
        # Two cycles, and one less than the queue takes: it is there before the word.
        m.submodules.failed = FFSynchronizer(self.memory.error, self.port.error)
        m.d.comb += [
            queue.w_en.eq(into.o_stream.valid),
            queue.w_data.eq(into.o_stream.payload),
            into.o_stream.ready.eq(queue.w_rdy),
            sink.payload.eq(queue.r_data),
            sink.valid.eq(queue.r_rdy & open_),
            queue.r_en.eq(sink.ready | ~open_),
        ]
        accepted = self.port.read.valid & self.port.read.ready
        m.d.sync += [
            asked.eq(0),
            came.eq(queue.r_rdy & queue.r_en),
            left.eq(left + asked - came),
            some_left.eq((left != 0) | (asked != 0)),
        ]
        with m.If(accepted):
            m.d.sync += asked.eq(self.port.read.p.length)
        return some_left

    def _writes(self, m: Module, open_: Signal) -> Signal:
        """Writes, one at a time, and whether the latest is done.

        They come from a host or a flash, which are slow. A place in a memory holds the write; a
        signal that changes says that one is there, and another that it is done.
        """
        source, sink, local = self.port.write, self.memory.write, self._domain
        m.submodules.writes = place = Memory(
            shape=unsigned(len(source.payload.as_value())), depth=2, init=[]
        )
        writer, reader = place.write_port(), place.read_port(domain=local)
        asked, asked_there, done, done_here = (Signal() for _ in range(4))
        m.submodules.asked = FFSynchronizer(asked, asked_there, o_domain=local)
        m.submodules.done = FFSynchronizer(done, done_here)
        idle = Signal()
        m.d.comb += [
            idle.eq(asked == done_here),
            source.ready.eq(idle & open_),
            writer.en.eq(source.valid & source.ready),
            writer.data.eq(source.payload),
            self.port.write_idle.eq(idle),
            sink.payload.eq(reader.data),
        ]
        with m.If(writer.en):
            m.d.sync += asked.eq(~asked)
        taken = Signal()
        with m.If(asked_there != taken):
            m.d[local] += [taken.eq(asked_there), sink.valid.eq(1)]
        with m.Elif(sink.ready):
            m.d[local] += sink.valid.eq(0)
        with m.If(self.memory.write_idle & ~sink.valid & (done != taken)):
            m.d[local] += done.eq(taken)
        return idle

    def _restart(self, m: Module, open_: Signal, some_left: Signal, all_written: Signal) -> None:
        """Waits until nothing is under way, and then has the memory's adapter reset."""
        clear, clear_there, clear_back = Signal(), Signal(), Signal()
        m.submodules.clear = FFSynchronizer(clear, clear_there, o_domain=self._domain)
        m.submodules.cleared = FFSynchronizer(clear_there, clear_back)
        m.d.comb += self.clear.eq(clear_there)
        settle = Signal(2)  # counts of reads and writes are two cycles late
        with m.FSM():
            with m.State("OPEN"):
                m.d.sync += settle.eq(3)
                with m.If(self.restart):
                    m.d.sync += open_.eq(0)
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(settle != 0):
                    m.d.sync += settle.eq(settle - 1)
                with m.Elif(~some_left & all_written):
                    m.d.sync += clear.eq(1)
                    m.next = "CLEAR"
            with m.State("CLEAR"), m.If(clear_back):
                m.d.sync += clear.eq(0)
                m.next = "END"
            with m.State("END"), m.If(~clear_back):
                m.d.sync += open_.eq(1)
                m.next = "OPEN"
