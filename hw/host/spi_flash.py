"""Reads an SPI flash from one address on: the configuration flash next to the FPGA."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import check_width

__all__ = ["ADDRESS_BITS", "SpiFlashPinsSignature", "SpiFlashReader"]

ADDRESS_BITS = 24
"""Address bits of the commands below. Larger flashes start in this mode, too; only their first
16 MB are reachable."""
RELEASE, READ, FAST_READ = 0xAB, 0x03, 0x0B
"""Commands that all common parts have (W25Q128JV data sheet, revision F, section 8.1.2)."""
READ_HZ = 33_000_000
"""Highest clock of READ in Hz that all parts allow: 33 MHz (MX25L, older parts). The W25Q128JV
allows 50 MHz (section 9.6)."""
CLOCKS = 16
"""Clocks before the first command. The ECP5 loses the first three edges of a user's clock after
configuration (FPGA-TN-02039, on USRMCLK)."""
WAKE_US = 35
"""Time from RELEASE to the next command in us: 3 (W25Q128JV) to 30 (MX25L12835F) are needed."""


DESELECT_CYCLES = 16
"""Between two reads; parts ask for 50 ns, and no clock here is faster than 300 MHz."""


class SpiFlashPinsSignature(wiring.Signature):
    """Pins of an SPI flash; the directions are those of the FPGA.

    Members
    -------
    cs : :py:`Out(1)`
        Chip select, active high. The platform of the board inverts it.
    sck, copi : :py:`Out(1)`
        Clock and data to the flash.
    cipo : :py:`In(1)`
        Data from the flash, not synchronised.
    """

    def __init__(self) -> None:
        super().__init__({"cs": Out(1), "sck": Out(1), "copi": Out(1), "cipo": In(1)})

    def __repr__(self) -> str:
        return "SpiFlashPinsSignature()"


class SpiFlashReader(wiring.Component):
    """Wakes the flash up, then reads bytes from one address on until it is stopped.

    SPI mode 0: both sides change their data at the falling edge of ``sck``. A bit is sampled one
    whole period later, at the next falling edge. So the paths to and from the flash and the flash
    itself may take one period together. All outputs come from registers.

    Parameters
    ----------
    clock_hz : :class:`int`
        Frequency of the clock in Hz.
    sck_hz : :class:`int`
        Highest clock of the flash in Hz. The clock in use is ``clock_hz`` divided by
        :attr:`divider`, 2 or more.
    again : :class:`bool`
        It reads from more than one address.

    Members
    -------
    pins : :py:`Out(SpiFlashPinsSignature())`
    awake : :py:`Out(1)`
        The flash is awake, and the reader waits for ``start``.
    start : :py:`In(1)`
        Starts to read. Ignored unless ``awake`` is high.
    address : :py:`In(24)`
        First byte, taken in the cycle after ``start``.
    again : :py:`In(1)`
        With ``again``: ends this read, as ``stop`` does, but the reader is ``awake`` again after
        it. Must stay high until then.
    stop : :py:`In(1)`
        Once high it must stay high. The current bit ends, then the flash is deselected for good.
    bytes : :py:`Out(stream.Signature(8))`
        Bytes of the flash. While none is taken, ``sck`` stands still.

    Raises
    ------
    :exc:`TypeError`
        If a frequency is not a positive integer.
    """

    def __init__(self, clock_hz: int, sck_hz: int = 25_000_000, *, again: bool = False):
        self._again = again
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
                **({"again": In(1)} if again else {}),
            }
        )

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock in Hz."""
        return self._clock_hz

    @property
    def sck_hz(self) -> int:
        """Highest clock of the flash in Hz."""
        return self._sck_hz

    @property
    def divider(self) -> int:
        """Cycles per bit."""
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
        bits = Signal(6, init=CLOCKS)  # left of this transfer; `sck` runs while there are any
        out, taken = Signal(32), Signal(7)
        over, last, stall = Signal(), Signal(), Signal()
        # The comparisons are registered, because many paths use them.
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
        again = Signal()  # a cycle late, and short at that: a command has 64 cycles or more
        if self._again:
            m.d.sync += again.eq(self.again)
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
                    m.next = "START"
            with m.State("START"):  # for whoever asks is far from the pins
                command = Const(FAST_READ if self.fast else READ, 8)
                m.d.sync += [pins.cs.eq(1), out.eq(Cat(self.address, command))]
                m.d.comb += bits_next.eq(40 if self.fast else 32)
                m.next = "COMMAND"
            with m.State("COMMAND"), m.If(last):
                m.d.comb += bits_next.eq(8)
                m.next = "READ"
            with m.State("READ"):
                # While the clock stays high, the flash holds the last bit. From a register: that
                # bit has two cycles or more, and no byte comes within them.
                m.d.sync += stall.eq(final & self.bytes.valid & ~(self.stop | again))
                with m.If(last):
                    m.d.comb += bits_next.eq(8)
                    m.d.sync += [
                        self.bytes.valid.eq(1),
                        self.bytes.payload.eq(Cat(pins.cipo, taken)),
                    ]
                if self._again:
                    with m.If(again):
                        with m.If(over):
                            m.d.comb += bits_next.eq(0)
                        with m.If(~running):
                            pause = max(0, wait_cycles - DESELECT_CYCLES)
                            m.d.sync += [self.bytes.valid.eq(0), pins.cs.eq(0), timer.eq(pause)]
                            m.next = "WAKE"
        # With no bits left, the state machine stays where it is and drives the flash no more.
        with m.If(self.stop):
            with m.If(over):
                m.d.comb += bits_next.eq(0)
            with m.If(~running):
                m.d.sync += pins.cs.eq(0)
        return m
