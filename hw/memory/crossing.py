"""A memory port between two clocks that know nothing of each other.

::

    port (sync) --> reads  -> [eight places] -> memory (its own domain)
                <-- words  <- [eight places] <- slice <-
                --> writes -> [one place]    ->
                <-- write done, errors, by synchronisers

Nothing else passes between the domains. Neither side of any is ever reset: a queue whose pointers
jump would show words that nobody wrote. What was under way at a restart is waited for and
dropped instead.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import DomainRenamer, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.register_slice import RegisterSlice

from .port import LENGTH_BITS, MemoryPortSignature

__all__ = ["PortCrossing"]

READS, WORDS = 8, 8
"""Places. One that was taken is seen free some five cycles of both clocks later, in which an SDRAM
fills four words of 64 bits, or seven with 32 bits of data."""


class Places(wiring.Component):
    """A stream from one clock to another, through a few places of a memory.

    Each place has a flag that changes when it is filled, and one that changes when it is empty
    again. They pass one by one, so nothing but flags is compared, on either side.

    Parameters
    ----------
    shape : shape-like
        Of the payload.
    depth : int
        Places.
    source, target : str
        Clocks.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    i_stream : In(stream), in ``source``
    o_stream : Out(stream), in ``target``
    """

    def __init__(self, shape: Any, depth: int, source: str, target: str) -> None:
        self._shape, self._depth, self._domains = shape, depth, (source, target)
        self.probes = SimpleNamespace()
        super().__init__(
            {"i_stream": In(stream.Signature(shape)), "o_stream": Out(stream.Signature(shape))}
        )

    @property
    def depth(self) -> int:
        """Places."""
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source, target = self._domains
        m.submodules.storage = storage = Memory(
            shape=unsigned(len(Value.cast(self.i_stream.payload))), depth=self._depth, init=[]
        )
        writer = storage.write_port(domain=source)
        reader = storage.read_port(domain=target)
        filled, emptied = Signal(self._depth), Signal(self._depth)
        filled_there, emptied_here = Signal(self._depth), Signal(self._depth)
        m.submodules.filled = FFSynchronizer(filled, filled_there, o_domain=target)
        m.submodules.emptied = FFSynchronizer(emptied, emptied_here, o_domain=source)
        # The place that is next: its number for the memory, its bit for the flags.
        at, here = (Signal(self._depth, init=1, name=f"place{k}") for k in range(2))
        m.d.comb += [
            writer.en.eq(self.i_stream.valid & self.i_stream.ready),
            writer.data.eq(self.i_stream.payload),
        ]
        # Whether the next place is free, in a register. What comes late only chooses; Yosys must
        # not draw it into the two sums.
        free = filled ^ ~emptied_here
        same, following = (Signal(name=name, attrs={"keep": 1}) for name in ("same", "following"))
        m.d.comb += [same.eq((free & at).any()), following.eq((free & at.rotate_left(1)).any())]
        m.d[source] += self.i_stream.ready.eq(Mux(writer.en, following, same))
        with m.If(writer.en):
            m.d[source] += [
                filled.eq(filled ^ at),
                at.eq(at.rotate_left(1)),
                writer.addr.eq(writer.addr + 1),
            ]
        out = self.o_stream
        there = ((filled_there ^ emptied) & here).any()
        m.d.comb += [reader.en.eq(~out.valid | out.ready), out.payload.eq(reader.data)]
        with m.If(reader.en):
            m.d[target] += out.valid.eq(there)
            with m.If(there):
                m.d[target] += [
                    emptied.eq(emptied ^ here),
                    here.eq(here.rotate_left(1)),
                    reader.addr.eq(reader.addr + 1),
                ]
        self.probes = SimpleNamespace(
            storage=storage, writer=writer, reader=reader, at=at, here=here, there=there
        )
        return m


class PortCrossing(wiring.Component):
    """Carries a memory port from ``sync`` to the clock of its memory.

    Parameters
    ----------
    address_bits, word_bits, length_bits : int
        Of the port.
    domain : str
        Clock of the memory.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

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
        self,
        address_bits: int,
        word_bits: int,
        *,
        length_bits: int = LENGTH_BITS,
        domain: str = "memory",
    ) -> None:
        self._domain = domain
        self.probes = SimpleNamespace()
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

    def _reads(self, m: Module, open_: Signal) -> None:
        source, sink = self.port.read, self.memory.read
        m.submodules.reads = places = Places(source.payload.shape(), READS, "sync", self._domain)
        m.d.comb += [
            source.ready.eq(places.i_stream.ready & open_),
            places.i_stream.valid.eq(source.valid & open_),
            places.i_stream.payload.eq(source.payload),
        ]
        connect(m, places.o_stream, flipped(sink))

    def _words(self, m: Module, open_: Signal) -> Signal:
        """Words; whether any are still to come."""
        source, sink = self.memory.data, self.port.data
        m.submodules.words = places = Places(source.payload.shape(), WORDS, self._domain, "sync")
        # Two cycles, and one less than a place takes: it is there before the word.
        m.submodules.failed = FFSynchronizer(self.memory.error, self.port.error)
        # A memory's words wait far from here: the way is between two registers.
        m.submodules.arriving = arriving = DomainRenamer(self._domain)(
            RegisterSlice(source.payload.shape())
        )
        connect(m, flipped(source), arriving.i_stream)
        connect(m, arriving.o_stream, places.i_stream)
        m.d.comb += [
            sink.payload.eq(places.o_stream.payload),
            sink.valid.eq(places.o_stream.valid & open_),
            places.o_stream.ready.eq(sink.ready | ~open_),
        ]
        left, some_left = Signal(24), Signal()
        asked, came = Signal.like(self.port.read.p.length), Signal()
        m.d.sync += [
            asked.eq(0),
            came.eq(places.o_stream.valid & places.o_stream.ready),
            left.eq(left + asked - came),
            some_left.eq((left != 0) | (asked != 0)),
        ]
        with m.If(self.port.read.valid & self.port.read.ready):
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
        self.probes = SimpleNamespace(storage=place, reader=reader, taken=taken)
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
