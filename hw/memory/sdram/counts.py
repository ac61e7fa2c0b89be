"""What an SDRAM was told, counted by kind: commands, and cycles by state."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.sw.contract.registers import SDRAM_COUNT_BITS, SDRAM_COUNTERS

__all__ = ["COUNTS_MEMBERS", "SETTLED_CYCLES", "SdramCounts"]

_SLOTS = 16
SETTLED_CYCLES = 3 * _SLOTS
"""From a change of ``select``, ``hold`` or ``clear`` until ``value`` is right."""

COUNTS_MEMBERS = {
    "count_select": In(4),
    "count_hold": In(1),
    "count_clear": In(1),
    "count": Out(SDRAM_COUNT_BITS),
}
"""Ports of a controller that has these counters, see :class:`SdramCounts`."""


class SdramCounts(wiring.Component):
    """Counters of :class:`~stillnet.sw.contract.registers.SdramCounter`, in one small memory.

    A counter of its own for each would be ten long adders. Here each event has a counter of five
    bits, and one adder visits them in turn: every 16 cycles what has come is added to the memory.

    Members
    -------
    events : In(len(SDRAM_COUNTERS))
        What happened in this cycle, in the order of ``SDRAM_COUNTERS``.
    select : In(4)
        The counter that ``value`` shows.
    hold : In(1)
        Nothing is counted.
    clear : In(1)
        Sets all to zero.
    value : Out(SDRAM_COUNT_BITS)
        Right ``SETTLED_CYCLES`` after the last change, while ``hold`` is high.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "events": In(len(SDRAM_COUNTERS)),
                "select": In(4),
                "hold": In(1),
                "clear": In(1),
                "value": Out(SDRAM_COUNT_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slot, late = Signal(range(_SLOTS)), Signal(range(_SLOTS))
        sweep = Signal(range(_SLOTS + 1))
        clearing = Signal()
        with m.If(self.clear):
            m.d.sync += [sweep.eq(_SLOTS), clearing.eq(1)]
        with m.Elif(clearing):
            m.d.sync += [sweep.eq(sweep - 1), clearing.eq(sweep != 1)]

        waiting = []
        for i in range(len(SDRAM_COUNTERS)):
            count = Signal(range(_SLOTS + 1), name=f"waiting{i}")
            event = Signal(name=f"event{i}")
            m.d.sync += event.eq(self.events[i] & ~self.hold)
            m.d.sync += count.eq(Mux((slot == i) | clearing, 0, count) + event)
            waiting.append(count)
        waiting += [
            Signal.like(waiting[0], name=f"none{i}") for i in range(len(SDRAM_COUNTERS), _SLOTS)
        ]

        memory = Memory(shape=unsigned(SDRAM_COUNT_BITS), depth=_SLOTS, init=[])
        m.submodules.counts = memory
        reader, writer = memory.read_port(domain="comb"), memory.write_port()
        # A counter comes out of the memory a cycle before what has come is added to it.
        amount, before = Signal.like(waiting[0]), Signal(SDRAM_COUNT_BITS)
        total = Signal(SDRAM_COUNT_BITS)
        m.d.sync += [
            slot.eq(slot + 1),
            late.eq(slot),
            amount.eq(Array(waiting)[slot]),
            before.eq(reader.data),
        ]
        m.d.comb += [
            reader.addr.eq(slot),
            total.eq(Mux(clearing, 0, before + amount)),
            writer.addr.eq(late),
            writer.data.eq(total),
            writer.en.eq(1),
        ]
        with m.If(late == self.select):
            m.d.sync += self.value.eq(total)
        return m
