"""Reads an SPI flash from one address on: the configuration flash next to the FPGA."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import check_width

__all__ = ["ADDRESS_BITS", "SpiFlashPinsSignature", "SpiFlashReader"]

ADDRESS_BITS = 24
"""Of the commands used here; larger flashes begin in this mode, and show their first 16 MB."""
RELEASE, READ, FAST_READ = 0xAB, 0x03, 0x0B
"""Commands that all common parts share (W25Q128JV data sheet, revision F, section 8.1.2)."""
READ_HZ = 33_000_000
"""Fastest clock of READ: 33 MHz (MX25L, older parts) to 50 MHz (W25Q128JV, section 9.6)."""
CLOCKS = 16
"""Dummy clocks at the beginning. The ECP5 loses the first three edges of a user's clock after
configuration (FPGA-TN-02039, on USRMCLK)."""
WAKE_US = 35
"""From RELEASE to the next command: 3 us (W25Q128JV) to 30 us (MX25L12835F)."""


class SpiFlashPinsSignature(wiring.Signature):
    """An SPI flash; directions are the FPGA's.

    Members
    -------
    cs : :py:`Out(1)`
        Selected; active high here, the board file turns it over.
    sck, copi : :py:`Out(1)`
    cipo : :py:`In(1)`
    """

    def __init__(self) -> None:
        super().__init__({"cs": Out(1), "sck": Out(1), "copi": Out(1), "cipo": In(1)})

    def __repr__(self) -> str:
        return "SpiFlashPinsSignature()"


class SpiFlashReader(wiring.Component):
    """Wakes the flash up, then reads once, from an address to where it is stopped.

    Mode 0: both sides change their data at the falling edge of the clock. The answer is taken a
    whole period later, when the clock falls again, so that the way out, the flash and the way back
    may take a period together; all outputs come from registers.

    Parameters
    ----------
    clock_hz : :class:`int`
    sck_hz : :class:`int`
        The flash's clock at most; it is a whole fraction of ``clock_hz``, half at most.

    Members
    -------
    pins : :py:`Out(SpiFlashPinsSignature())`
    awake : :py:`Out(1)`
        The flash waits for ``start``.
    start : :py:`In(1)`
    address : :py:`In(24)`
        Of the first byte.
    stop : :py:`In(1)`
        Stays high: lets a bit that has begun end, and deselects the flash for good.
    bytes : :py:`Out(stream.Signature(8))`
        While nobody takes them, the flash's clock stands still.
    """

    def __init__(self, clock_hz: int, sck_hz: int = 25_000_000):
        self._clock_hz = check_width("SPI flash reader's clock", clock_hz)
        self._sck_hz = check_width("SPI flash clock", sck_hz)
        super().__init__(
            {
                "pins": Out(SpiFlashPinsSignature()),
                "awake": Out(1),
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "stop": In(1),
                "bytes": Out(stream.Signature(8)),
            }
        )

    @property
    def clock_hz(self) -> int:
        return self._clock_hz

    @property
    def sck_hz(self) -> int:
        return self._sck_hz

    @property
    def divider(self) -> int:
        """Cycles of a bit."""
        return max(2, -(-self.clock_hz // self.sck_hz))

    @property
    def fast(self) -> bool:
        """Whether the clock needs FAST_READ, which has eight dummy clocks."""
        return self.clock_hz > READ_HZ * self.divider

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pins = self.pins
        divider = self.divider
        low = divider - divider // 2

        phase = Signal(range(divider))
        bits = Signal(6, init=CLOCKS)  # left in this run; the clock runs until there are none
        out, taken = Signal(32), Signal(7)
        over, last, stall = Signal(), Signal(), Signal()
        # What the count says is kept beside it: much hangs on it.
        bits_next = Signal.like(bits)
        running, final = Signal(init=1), Signal()
        m.d.comb += bits_next.eq(bits)
        m.d.sync += [bits.eq(bits_next), running.eq(bits_next != 0), final.eq(bits_next == 1)]
        m.d.comb += [over.eq((phase == divider - 1) & ~stall), last.eq(over & final)]
        m.d.comb += pins.copi.eq(out[-1])
        with m.If(running):
            with m.If(phase == low - 1):
                m.d.sync += pins.sck.eq(1)
            with m.If(phase != divider - 1):
                m.d.sync += phase.eq(phase + 1)
            with m.If(over):
                m.d.sync += [
                    phase.eq(0),
                    pins.sck.eq(0),
                    out.eq(out << 1),
                    taken.eq(Cat(pins.cipo, taken)),
                ]
                m.d.comb += bits_next.eq(bits - 1)

        wait_cycles = -(-self.clock_hz * WAKE_US // 1_000_000)
        timer = Signal(range(wait_cycles + 1))
        waited = Signal()
        m.d.sync += waited.eq(timer == wait_cycles)
        with m.If(self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.FSM():
            with m.State("CLOCKS"), m.If(last):
                m.d.sync += [pins.cs.eq(1), out.eq(RELEASE << 24)]
                m.d.comb += bits_next.eq(8)
                m.next = "RELEASE"
            with m.State("RELEASE"), m.If(last):
                m.next = "DESELECT"
            with m.State("DESELECT"):
                m.d.sync += [pins.cs.eq(0), timer.eq(0)]
                m.next = "WAKE"
            with m.State("WAKE"):
                m.d.sync += timer.eq(timer + 1)
                with m.If(waited):
                    m.next = "AWAKE"
            with m.State("AWAKE"):
                m.d.comb += self.awake.eq(1)
                with m.If(self.start):
                    command = Const(FAST_READ if self.fast else READ, 8)
                    m.d.sync += [
                        pins.cs.eq(1),
                        out.eq(Cat(self.address, command)),
                    ]
                    m.d.comb += bits_next.eq(40 if self.fast else 32)
                    m.next = "COMMAND"
            with m.State("COMMAND"), m.If(last):
                m.d.comb += bits_next.eq(8)
                m.next = "READ"
            with m.State("READ"):
                # With the clock high the flash keeps the last bit where it is.
                m.d.comb += stall.eq(final & self.bytes.valid & ~self.stop)
                with m.If(last):
                    m.d.comb += bits_next.eq(8)
                    m.d.sync += [
                        self.bytes.valid.eq(1),
                        self.bytes.payload.eq(Cat(pins.cipo, taken)),
                    ]
        # Without bits to come, no state that drives the flash is ever left.
        with m.If(self.stop):
            with m.If(over):
                m.d.comb += bits_next.eq(0)
            with m.If(~running):
                m.d.sync += pins.cs.eq(0)
        return m
