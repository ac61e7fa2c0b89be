"""The registers behind which the SDRAM's counters stand, beside those of the engine."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer, PulseSynchronizer
from amaranth.lib.wiring import In, Out

from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.counts import SETTLED_CYCLES
from stillnet.sw.contract.registers import (
    ADDRESS_BITS,
    SDRAM_COUNT_BITS,
    SDRAM_HIGH,
    SDRAM_HOLD,
    SDRAM_MAGIC,
    SDRAM_PARTS,
    Control,
    Register,
    SdramCounter,
)

__all__ = ["SdramRegisters"]

_CROSSING_CYCLES = 8
"""Both ways between two clocks, in cycles of either."""


class SdramRegisters(wiring.Component):
    """Adds ``SDRAM_SELECT`` and ``SDRAM_COUNT`` to the registers of an engine.

    It stands in the engine's register bus and lets everything pass: the engine answers requests for
    registers that it does not have, too. Only the answer to a write of ``SDRAM_SELECT`` comes later
    from here, when the value is there.

    Parameters
    ----------
    sdram : :class:`SdramController`
        Which counts.
    clock_hz : int
        Of this component.

    Members
    -------
    host : In(RegisterBusSignature)
    registers : Out(RegisterBusSignature)
        To the engine.
    select, hold, clear : Out(4), Out(1), Out(1)
        To :class:`~stillnet.hw.memory.sdram.counts.SdramCounts`.
    count : In(SDRAM_COUNT_BITS)
        From there.
    """

    def __init__(self, sdram: SdramController, clock_hz: int) -> None:
        self._part, self._memory_hz = sdram.part.name, sdram.clock_hz
        slow = -(-SETTLED_CYCLES * clock_hz // sdram.clock_hz)
        self._wait = slow + _CROSSING_CYCLES * (1 + -(-clock_hz // sdram.clock_hz))
        super().__init__(
            {
                "host": In(RegisterBusSignature(ADDRESS_BITS)),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "select": Out(4),
                "hold": Out(1),
                "clear": Out(1),
                "count": In(SDRAM_COUNT_BITS),
            }
        )

    def connect(self, m: Module, sdram: SdramController, domain: str) -> None:
        """Connects the counters, which may have a clock of their own."""
        if domain == "sync":
            m.d.comb += [
                sdram.count_select.eq(self.select),
                sdram.count_hold.eq(self.hold),
                sdram.count_clear.eq(self.clear),
                self.count.eq(sdram.count),
            ]
            return
        # All but the pulse stand still while somebody looks.
        m.submodules.sdram_select = FFSynchronizer(self.select, sdram.count_select, o_domain=domain)
        m.submodules.sdram_hold = FFSynchronizer(self.hold, sdram.count_hold, o_domain=domain)
        m.submodules.sdram_count = FFSynchronizer(sdram.count, self.count)
        m.submodules.sdram_clear = clear = PulseSynchronizer("sync", domain)
        m.d.comb += [clear.i.eq(self.clear), sdram.count_clear.eq(clear.o)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        host, registers = self.host, self.registers
        high, late, over = Signal(), Signal(), Signal()
        wait = Signal(range(self._wait + 1))
        m.d.comb += [
            registers.address.eq(host.address),
            registers.write_data.eq(host.write_data),
            registers.write_strobe.eq(host.write_strobe),
            registers.read_strobe.eq(host.read_strobe),
            host.ack.eq(Mux(late, over, registers.ack)),
        ]
        m.d.sync += [self.clear.eq(0), over.eq(late & (wait == 2))]
        with m.If(host.write_strobe):
            clears = host.write_data[int(Control.CLEAR_COUNTERS).bit_length() - 1]
            m.d.sync += self.clear.eq((host.address == Register.CONTROL) & clears)
        with m.If(host.write_strobe & (host.address == Register.SDRAM_SELECT)):
            m.d.sync += [
                self.select.eq(host.write_data[:4]),
                high.eq((host.write_data & SDRAM_HIGH) != 0),
                self.hold.eq((host.write_data & SDRAM_HOLD) != 0),
                late.eq(1),
                wait.eq(self._wait),
            ]
        with m.Elif(late):
            m.d.sync += [wait.eq(wait - 1), late.eq(wait != 1)]

        value = Signal(32)
        m.d.sync += value.eq(Mux(high, self.count[32:], self.count[:32]))
        kind = SDRAM_MAGIC << 16 | SDRAM_PARTS.index(self._part)
        for counter, constant in (
            (SdramCounter.CLOCK, self._memory_hz // 1000),
            (SdramCounter.KIND, kind),
        ):
            with m.If(self.select == counter):
                m.d.sync += value.eq(Mux(high, 0, constant))
        mine = host.address == Register.SDRAM_COUNT
        m.d.comb += host.read_data.eq(Mux(mine, value, registers.read_data))
        return m
