"""An SDRAM at the pins of an ECP5: registers in the IO cells, and its clock."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

__all__ = ["HOLD_CYCLES", "SdramPads"]

HOLD_CYCLES = 16
"""Of the controller's clock, before the part gets one."""


class SdramPads(Elaboratable):
    """The SDRAM behind registers in the IO cells; its clock from a DDR register.

    *The clock waits.* Registers in IO cells begin with 0, and most pins are active low: until the
    controller's clock has ticked once, RAS, CAS, WE and the driver of the data pins are active,
    which is LOAD MODE. The clock of the part comes from the PLL and would tick meanwhile, thousands
    of times, until the PLL is trusted. Where a board ties chip select and clock enable, the part
    would take each of them. So its clock stays low until the controller's has ticked
    ``HOLD_CYCLES`` times.

    Parameters
    ----------
    ports : object
        The ports of the resource ``sdram``, each bare.
    names : collection of str
        Which it has.
    source : SdramPinsSignature, as the controller drives it
    domain : str
        Of the controller.
    """

    def __init__(self, ports: Any, names: Any, source: Any, domain: str) -> None:
        self._ports, self._names, self._source = ports, names, source
        self._domain = domain

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ports, source, domain = self._ports, self._source, self._domain
        held = Signal(range(HOLD_CYCLES + 1))
        released = Signal()
        with m.If(held != HOLD_CYCLES):
            m.d[domain] += held.eq(held + 1)
        with m.Else():
            m.d[domain] += released.eq(1)
        m.submodules.clk = clk = io.DDRBuffer("o", ports.clk, o_domain="sdram")
        ticks = Signal()
        m.submodules.ticks = FFSynchronizer(released, ticks, o_domain="sdram")
        m.d.comb += [clk.o[0].eq(ticks), clk.o[1].eq(0)]
        outputs = {
            "clk_en": source.cke,
            "cs": source.cs,
            "we": source.we,
            "ras": source.ras,
            "cas": source.cas,
            "ba": source.ba,
            "a": source.a,
            "dqm": source.dqm,
        }
        for name in self._names:
            if name not in outputs:
                continue
            m.submodules[name] = out = io.FFBuffer("o", getattr(ports, name), o_domain=domain)
            m.d.comb += out.o.eq(outputs[name])
        m.submodules.dq = dq = io.FFBuffer("io", ports.dq, i_domain=domain, o_domain=domain)
        m.d.comb += [
            dq.o.eq(source.dq_o),
            dq.oe.eq(source.dq_oe),
            source.dq_i.eq(dq.i),
        ]
        return m
