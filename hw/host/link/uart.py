"""A serial port (8 data bits, no parity, 1 stop bit) for any clock and any rate."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import check_width

__all__ = ["MIN_CYCLES", "Uart", "UartReceiver", "UartTransmitter", "baud_increment"]

MIN_CYCLES = 8
"""Fewest cycles per bit: one for each eighth."""


def baud_increment(clock_hz: int, baud: int) -> tuple[int, int]:
    """Phase accumulator for a rate: it overflows once per bit.

    The rate is right within 0.05 % for any clock. A divisor of whole cycles would miss 3 Mbaud by
    1 % at 100 MHz.

    Parameters
    ----------
    clock_hz : int
        Frequency of the clock in Hz.
    baud : int
        Bits per second.

    Returns
    -------
    bits : int
        Width of the accumulator.
    increment : int
        What is added in each cycle.

    Raises
    ------
    :exc:`ValueError`
        If a bit has fewer than eight cycles.
    """
    check_width("UART clock", clock_hz)
    check_width("UART rate", baud)
    if clock_hz < MIN_CYCLES * baud:
        raise ValueError(
            f"UART rate must be at most {clock_hz // MIN_CYCLES} baud at a clock of {clock_hz} Hz, "
            f"not {baud}"
        )
    bits = 11
    while (baud << bits) < clock_hz << 10:
        bits += 1
    return bits, ((baud << bits) + clock_hz // 2) // clock_hz


class UartReceiver(wiring.Component):
    """Receives bytes.

    A bit is the majority of three samples, at 3/8, 1/2 and 5/8 of its time. A start bit that is not
    low in the middle counts as noise. A byte without a stop bit (also a break) is dropped:
    ``error`` pulses, and nothing is received until the line is high again.

    Parameters
    ----------
    clock_hz, baud : :class:`int`
        Frequency of the clock in Hz; bits per second.

    Members
    -------
    rx : :py:`In(1)`
        The line, not synchronised.
    bytes : :py:`Out(stream.Signature(8))`
        The latest byte. It is lost if it is not taken before the next one has arrived.
    error : :py:`Out(1)`
        Pulses when a byte was dropped.
    """

    def __init__(self, clock_hz: int, baud: int):
        self._clock_hz, self._baud = clock_hz, baud
        self._bits, self._increment = baud_increment(clock_hz, baud)
        super().__init__({"rx": In(1, init=1), "bytes": Out(stream.Signature(8)), "error": Out(1)})

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock in Hz."""
        return self._clock_hz

    @property
    def baud(self) -> int:
        """Bits per second."""
        return self._baud

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)

        phase = Signal(self._bits)
        eighth = phase[-3:]
        before = Signal(3)  # `eighth` of the last cycle
        ones = Signal(2)
        bit = Signal(range(10))
        value = Signal(8)
        # `decide` comes a cycle after the third sample, when all three are counted.
        sample, decide = Signal(), Signal()
        whole = Signal()  # `value` is a byte; a cycle late, for it is taken far away
        m.d.comb += sample.eq((eighth != before) & ((eighth == 3) | (eighth == 4) | (eighth == 5)))
        m.d.sync += [before.eq(eighth), decide.eq(sample & (eighth == 5))]
        with m.If(sample):
            m.d.sync += ones.eq(ones + line)

        with m.If(self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.If(whole):
            m.d.sync += [self.bytes.payload.eq(value), self.bytes.valid.eq(1)]
        m.d.sync += [whole.eq(0), self.error.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                # The edge was one to two cycles ago.
                m.d.sync += [phase.eq(3 * self._increment // 2), ones.eq(0), bit.eq(0)]
                with m.If(~line):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.sync += phase.eq(phase + self._increment)
                with m.If(decide):
                    m.d.sync += [ones.eq(0), bit.eq(bit + 1)]
                    with m.If((bit == 0) & ones[1]):
                        m.next = "IDLE"
                    with m.If(bit == 9):
                        # The next start bit may come at once: a sender may be slightly fast.
                        with m.If(ones[1]):
                            m.d.sync += whole.eq(1)
                            m.next = "IDLE"
                        with m.Else():
                            m.d.sync += self.error.eq(1)
                            m.next = "BROKEN"
                    with m.Else():
                        m.d.sync += value.eq(Cat(value[1:], ones[1]))
            with m.State("BROKEN"), m.If(line):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Sends bytes; without a gap while ``bytes`` is valid.

    Parameters
    ----------
    clock_hz, baud : :class:`int`
        Frequency of the clock in Hz; bits per second.

    Members
    -------
    bytes : :py:`In(stream.Signature(8))`
        Bytes to send.
    tx : :py:`Out(1)`
        The line, from a register.
    """

    def __init__(self, clock_hz: int, baud: int):
        self._clock_hz, self._baud = clock_hz, baud
        self._bits, self._increment = baud_increment(clock_hz, baud)
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1)})

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock in Hz."""
        return self._clock_hz

    @property
    def baud(self) -> int:
        """Bits per second."""
        return self._baud

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        phase = Signal(self._bits + 1)  # the top bit marks the end of a bit
        over = phase[-1]
        shift = Signal(9)
        left = Signal(range(11))
        # A byte waits here, so that its sender need not know where the one before has come to.
        held, waiting = Signal(8), Signal()
        m.d.comb += self.bytes.ready.eq(~waiting)
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += [held.eq(self.bytes.payload), waiting.eq(1)]
        m.d.sync += phase.eq(phase[:-1] + self._increment)
        with m.If((left == 0) | ((left == 1) & over)):
            m.d.sync += left.eq(0)
            with m.If(waiting):
                m.d.sync += [self.tx.eq(0), shift.eq(Cat(held, 1)), left.eq(10), waiting.eq(0)]
                with m.If(left == 0):
                    m.d.sync += phase.eq(self._increment)
        with m.Elif(over):
            m.d.sync += [self.tx.eq(shift[0]), shift.eq(shift >> 1), left.eq(left - 1)]
        return m


class Uart(wiring.Component):
    """A receiver and a transmitter.

    Parameters
    ----------
    clock_hz, baud : :class:`int`
        Frequency of the clock in Hz; bits per second.

    Members
    -------
    rx, tx : :py:`In(1)`, :py:`Out(1)`
        The lines. ``rx`` is not synchronised; ``tx`` comes from a register.
    received : :py:`Out(stream.Signature(8))`
        Bytes of :class:`UartReceiver`.
    error : :py:`Out(1)`
        Pulses when a received byte was dropped.
    sent : :py:`In(stream.Signature(8))`
        Bytes for :class:`UartTransmitter`.
    """

    def __init__(self, clock_hz: int, baud: int):
        self._clock_hz, self._baud = clock_hz, baud
        baud_increment(clock_hz, baud)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "received": Out(stream.Signature(8)),
                "error": Out(1),
                "sent": In(stream.Signature(8)),
            }
        )

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock in Hz."""
        return self._clock_hz

    @property
    def baud(self) -> int:
        """Bits per second."""
        return self._baud

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.clock_hz, self.baud)
        m.submodules.transmitter = transmitter = UartTransmitter(self.clock_hz, self.baud)
        wiring.connect(m, receiver.bytes, wiring.flipped(self.received))
        wiring.connect(m, wiring.flipped(self.sent), transmitter.bytes)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.error.eq(receiver.error),
        ]
        return m
