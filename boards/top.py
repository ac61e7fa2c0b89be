"""The top level of a board: clocks, pins, and :class:`System` between them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io

from .pll import EcpClocks, pll_settings
from .system import System
from .targets import Board

__all__ = ["PIN_REGISTERS", "BoardTop"]

PIN_REGISTERS = 2
"""Registers in the IO cells on the way to the SDRAM and back."""


class BoardTop(Elaboratable):
    """Everything of one ECP5 board.

    *SDRAM clock.* Commands leave at a rising edge of ``sync``; the part takes them ``phase`` later,
    so it has that much setup and the rest of the period as hold. Its data arrives after its clock's
    way out, its access time (5.4 to 6 ns) and the way back, and stays until 2.5 ns or more into the
    next period. With about 4 ns of pads, both ways together, at 100 MHz and 225 degrees: data is
    there from 15.4 to 22.5 ns after the edge before, the register takes it at 20.

    Parameters
    ----------
    board : Board
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.config = board.config()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        clock = platform.default_clk
        oscillator = platform.request(clock, dir="-")
        m.submodules.oscillator = buffer = io.Buffer("i", oscillator)
        settings = pll_settings(
            int(platform.default_clk_frequency), board.clock_hz, board.sdram_phase
        )
        EcpClocks.domains(m)
        m.submodules.clocks = EcpClocks(buffer.i, settings)
        m.submodules.system = system = System(
            self.config,
            clock_hz=board.clock_hz,
            part=board.sdram,
            baud=board.baud,
            board=board.name,
            input_delay=PIN_REGISTERS,
        )
        self._sdram(m, platform, system)
        uart = platform.request("uart", dir=_members(platform, "uart"))
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.FFBuffer("o", uart.tx)
        m.d.comb += [system.rx.eq(rx.i), tx.o.eq(system.tx)]
        self._lamps(m, platform, system)
        return m

    def _sdram(self, m: Module, platform: Any, system: System) -> None:
        """The SDRAM behind registers in the IO cells; its clock from a DDR register."""
        names = _members(platform, "sdram")
        pins = platform.request("sdram", dir=names)
        m.submodules.sdram_clk = clk = io.DDRBuffer("o", pins.clk, o_domain="sdram")
        m.d.comb += [clk.o[0].eq(1), clk.o[1].eq(0)]
        source = system.sdram
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
        for name in names:
            if name not in outputs:
                continue
            m.submodules[f"sdram_{name}"] = out = io.FFBuffer("o", getattr(pins, name))
            m.d.comb += out.o.eq(outputs[name])
        m.submodules.sdram_dq = dq = io.FFBuffer("io", pins.dq)
        m.d.comb += [
            dq.o.eq(source.dq_o),
            dq.oe.eq(source.dq_oe),
            source.dq_i.eq(dq.i),
        ]

    def _lamps(self, m: Module, platform: Any, system: System) -> None:
        colours = None
        for k, (resource, number) in enumerate(self.board.lamps):
            if resource == "rgb_led":
                if colours is None:
                    colours = platform.request("rgb_led", 0, dir=dict.fromkeys("rgb", "-"))
                pin = getattr(colours, "rgb"[number])
            else:
                pin = platform.request(resource, number, dir="-")
            m.submodules[f"lamp{k}"] = out = io.Buffer("o", pin)
            m.d.comb += out.o.eq(system.lamps[k])


def _members(platform: Any, resource: str) -> dict[str, str]:
    """All members of a resource, as bare ports."""
    return {sub.name: "-" for sub in platform.lookup(resource).ios}
