"""Counters for small parts: one memory and one adder, fed from small counts."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.host_interfaces import CountedVectorSignature, CounterReadSignature
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import COUNTERS, Register

__all__ = ["ROUND_CYCLES", "CompactCounters"]

ELSEWHERE = (Register.STALL_CELL, Register.LATENCY, Register.WORDS_HOT)
"""Counters without a turn. No word waits for a cell here and there is no hot store, so two of them
stay 0; ``LATENCY`` has a register of its own."""

COUNTED = tuple(r for r in COUNTERS if r not in ELSEWHERE)
"""Counters that have a turn, in the order of their turns. The last turn is that of an event
counter."""

ROUND_CYCLES = 2 * (len(COUNTED) + 1)
"""Cycles until what has happened is in the memory."""


class CompactCounters(wiring.Component):
    """The counters of :class:`.Counters`, where no steps overlap.

    What happens is counted in a few bits for each counter, and added to its 32 bits when its turn
    comes; there is a turn every other cycle. ``LATENCY`` counts while a step is in progress, and
    is right when its last output has left.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    clear : In(1)
        Sets all counters to 0.
    active, word, starved, saturated : In(1)
        What happened in this cycle. While active, a cycle that is neither a word nor starved counts
        as a stall for events.
    accepted, output_last : In(1)
        The first element of an input vector was taken; the last one of an output vector left.
    vector : In(CountedVectorSignature)
        A vector was encoded.
    read : In(CounterReadSignature)
        One counter; its value comes ``ROUND_CYCLES`` later or more, in a cycle that is
        ``readable``.
    readable : Out(1)
        In this cycle ``read.value`` is that of the register. Low while the memory is being cleared.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "active": In(1),
                "word": In(1),
                "starved": In(1),
                "saturated": In(1),
                "accepted": In(1),
                "output_last": In(1),
                "vector": In(CountedVectorSignature(config)),
                "read": In(CounterReadSignature()),
                "readable": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Counters lie at the low bits of their register; event counters above 32.
        memory = Memory(shape=unsigned(32), depth=64, init=[], attrs={"no_rw_check": 1})
        m.submodules.memory = memory
        reader, writer = memory.read_port(), memory.write_port()

        happened = {
            Register.CYCLES: self.active,
            Register.WORDS: self.active & self.word,
            Register.STALL_MEMORY: self.active & self.starved,
            Register.STALL_EVENTS: self.active & ~self.word & ~self.starved,
            Register.SATURATIONS: self.saturated,
            Register.STEPS: self.output_last,
        }
        events, source = Signal(16), Signal.like(self.vector.source)
        turn = Signal(range(len(COUNTED) + 1))
        adding = Signal()  # else reading
        amount = Signal(16)
        place = Signal(6)
        sweep = Signal(7)  # clearing, one a cycle; also after reset
        clearing = Signal()
        m.d.comb += clearing.eq(~sweep[-1])
        with m.Switch(turn):
            for k, register in enumerate(COUNTED):
                few = Signal(range(ROUND_CYCLES + 1), name=register.name.lower(), reset_less=True)
                with m.Case(k):
                    m.d.comb += [amount.eq(few), place.eq(register)]
                mine = (turn == k) & adding
                m.d.sync += few.eq(Mux(mine | clearing, 0, few) + happened[register])
            with m.Default():
                m.d.comb += [amount.eq(events), place.eq(32 | source)]
        # A vector may be done in the middle of the turn of the one before.
        fresh, fresh_source = Signal(16), Signal.like(self.vector.source)
        with m.If((turn == len(COUNTED) - 1) & adding):
            m.d.sync += [events.eq(fresh), source.eq(fresh_source), fresh.eq(0)]
            m.d.sync += self.vector.pending.eq(0)
        with m.If(self.vector.done):
            m.d.sync += [fresh.eq(self.vector.total), fresh_source.eq(self.vector.source)]
            m.d.sync += self.vector.pending.eq(1)
        m.d.sync += adding.eq(~adding)
        with m.If(adding):
            m.d.sync += turn.eq(Mux(turn == len(COUNTED), 0, turn + 1))

        # The host reads in the cycles in which a sum is written.
        wanted = Signal(6)
        with m.If(self.read.address == Register.EVENTS):
            m.d.comb += wanted.eq(32 | self.read.select[:5])
        with m.Else():
            m.d.comb += wanted.eq(self.read.address)
        m.d.comb += [
            reader.addr.eq(Mux(adding, wanted, place)),
            writer.addr.eq(Mux(clearing, sweep, place)),
            writer.data.eq(Mux(clearing, 0, reader.data + amount)),
            writer.en.eq(clearing | adding),
        ]
        m.d.comb += self.readable.eq(~adding & ~clearing)

        timing = Signal()
        elapsed = Signal(32, reset_less=True)
        with m.If(timing):
            m.d.sync += elapsed.eq(elapsed + 1)
        with m.If(self.output_last):
            m.d.sync += timing.eq(0)
        with m.If(self.accepted):
            m.d.sync += [elapsed.eq(1), timing.eq(1)]
        with m.If(clearing):
            m.d.sync += [elapsed.eq(0), sweep.eq(sweep + 1)]
        with m.If(self.clear):
            m.d.sync += sweep.eq(0)
        m.d.comb += self.read.value.eq(
            Mux(self.read.address == Register.LATENCY, elapsed, reader.data)
        )
        return m
