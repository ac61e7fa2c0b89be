"""Loads an image from the configuration flash at power-up, so that a board runs without a host.

::

    flash pins -> [SPI flash reader] -> bytes -> [copy] --+
                                                          +-> registers of the engine
    registers of the host link, when the copy is over ----+
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import ADDRESS_BITS, Control, Register, Status

from .register_bus import RegisterBusSignature
from .spi_flash import ADDRESS_BITS as FLASH_ADDRESS_BITS
from .spi_flash import SpiFlashPinsSignature, SpiFlashReader

__all__ = ["FlashBoot"]

MAGIC_AT, VERSION_AT, FINGERPRINT_AT, WORDS_AT = (
    image.find_field(image.HEADER, name)[0] * image.SLOT_BYTES
    for name in ("magic", "version", "fingerprint", "words")
)
"""First bytes of the header's records that this block reads."""
_, VERSION = image.find_field(image.HEADER, "version")
"""Bits of the version in its record."""
HEADER_BYTES = len(image.HEADER) * image.SLOT_BYTES
FINISHED = int(Status.LOADED) | 0xFF00
"""Bits of STATUS that say how a load ended: LOADED, or an error code in bits 15:8."""
READ_AHEAD = 2
"""Bytes after the end of an image that are read before the reader stops."""


class FlashBoot(wiring.Component):
    """Copies an image to word 0 of the memory, lets the engine verify it, then lets the host in.

    It works once, after power-up, through the engine's registers, as the host would. The engine
    decides whether the image is right (``Control.VERIFY``); if not, its STATUS says why. This block
    only looks at the header, to see what can be copied at all:

    * The magic is missing: the flash is empty. The copy ends, and no load starts.
    * Version or fingerprint are not the engine's: only the header is copied. The engine then
      refuses it and gives the reason.
    * The image has more words than the memory or the flash, or no more than a header: no load
      starts, and ``failed`` pulses.

    Until the copy has ended, a request of the host waits for its ``ack``. ``stop`` ends the copy.

    Parameters
    ----------
    config : EngineConfig
        Configuration of the engine.
    clock_hz : :class:`int`
        Frequency of the clock in Hz.
    offset : :class:`int`
        First byte of the image in the flash.
    flash_bytes : :class:`int`
        Size of the flash in bytes. Only the first 16 MB are reachable.
    sck_hz : :class:`int`
        Highest clock of the flash in Hz; see :class:`SpiFlashReader`.

    Members
    -------
    pins : :py:`Out(SpiFlashPinsSignature())`
    ready : :py:`In(1)`
        The memory has started. The copy waits for it.
    stop : :py:`In(1)`
        Pulses together with a reset of the engine.
    host : :py:`In(RegisterBusSignature)`
        Requests of the host link.
    registers : :py:`Out(RegisterBusSignature)`
        Requests to the engine, one cycle after those of ``host``.
    busy : :py:`Out(1)`
        The copy is in progress, and the host waits.
    found : :py:`Out(1)`
        The flash holds an image. Stays high.
    failed : :py:`Out(1)`
        Pulses if the size of the image is impossible.

    Raises
    ------
    :exc:`ValueError`
        If the flash has no room for a header at ``offset``.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock_hz: int,
        offset: int,
        flash_bytes: int = 1 << FLASH_ADDRESS_BITS,
        sck_hz: int = 25_000_000,
    ) -> None:
        room = min(flash_bytes, 1 << FLASH_ADDRESS_BITS) - HEADER_BYTES
        if not isinstance(offset, int) or not 0 <= offset < room:
            raise ValueError(
                f"Offset of the image in the flash must be 0 to {room - 1}, not {offset!r}"
            )
        self._config = config
        self._offset = offset
        self._flash_bytes = flash_bytes
        self._reader = SpiFlashReader(clock_hz, sck_hz)
        super().__init__(
            {
                "pins": Out(SpiFlashPinsSignature()),
                "ready": In(1),
                "stop": In(1),
                "host": In(RegisterBusSignature(ADDRESS_BITS)),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "busy": Out(1),
                "found": Out(1),
                "failed": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock in Hz."""
        return self._reader.clock_hz

    @property
    def offset(self) -> int:
        """First byte of the image in the flash."""
        return self._offset

    @property
    def flash_bytes(self) -> int:
        """Size of the flash in bytes."""
        return self._flash_bytes

    @property
    def sck_hz(self) -> int:
        """Highest clock of the flash in Hz."""
        return self._reader.sck_hz

    @property
    def limit_words(self) -> int:
        """Words of the largest image that fits both the memory and the flash."""
        config = self._config
        memory = config.ram_words if config.memory == "ram" else 1 << config.address_bits
        flash = min(self._flash_bytes, 1 << FLASH_ADDRESS_BITS) - self._offset - READ_AHEAD
        return min(memory, flash // config.word_bytes)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        registers, host = self.registers, self.host

        # After its end the copy is held in reset, so that it does not start again.
        over, done = Signal(), Signal()
        copy = Module()
        m.submodules.copy = ResetInserter(over)(copy)
        m.submodules.reader = self._reader
        connect(m, self._reader.pins, flipped(self.pins))
        m.d.comb += self._reader.stop.eq(over)
        with m.If(done | self.stop):
            m.d.sync += over.eq(1)
        m.d.comb += self.busy.eq(~over)

        own = RegisterBusSignature(ADDRESS_BITS).create()
        found, failed = Signal(), Signal()
        self._copy(copy, own, done, found, failed)
        with m.If(found):
            m.d.sync += self.found.eq(1)
        m.d.comb += [self.failed.eq(failed), own.read_data.eq(registers.read_data)]

        # -- the registers belong to the copy, then to the host -----------------------------------

        # A strobe of the host during the copy is kept; its address and data stay at `host`. A
        # request that is under way during a reset of the engine must not arrive after it.
        write_kept, read_kept = Signal(), Signal()
        write, read = Signal(), Signal()
        m.d.comb += [
            write.eq(host.write_strobe | write_kept),
            read.eq(host.read_strobe | read_kept),
            own.ack.eq(registers.ack),
            host.ack.eq(registers.ack & over),
            host.read_data.eq(registers.read_data),
        ]
        m.d.sync += [
            write_kept.eq(write & ~over & ~self.stop),
            read_kept.eq(read & ~over & ~self.stop),
            registers.address.eq(Mux(over, host.address, own.address)),
            registers.write_data.eq(Mux(over, host.write_data, own.write_data)),
            registers.write_strobe.eq(Mux(over, write, own.write_strobe) & ~self.stop),
            registers.read_strobe.eq(Mux(over, read, own.read_strobe) & ~self.stop),
        ]
        return m

    def _copy(self, m: Module, bus: Any, done: Signal, found: Signal, failed: Signal) -> None:
        """The state machine of the copy: one request after the other."""
        config = self._config
        reader = self._reader
        unit = min(4, config.word_bytes)  # bytes per write
        units_per_word = config.word_bytes // unit
        limit = self.limit_words

        window = Signal(32)  # the last four bytes
        place = Signal(range(HEADER_BYTES + 1))  # bytes of the header taken so far
        total = Signal(range(limit * units_per_word + 1), init=HEADER_BYTES // unit)
        count = Signal.like(total, init=0)  # units written
        in_header = Signal(init=1)
        whole, complete = Signal(), Signal()
        foreign, oversize = Signal(), Signal()
        words = Signal(range(limit + 1))

        start = Signal()  # from a register, as the flash's pins are far
        m.d.comb += [
            reader.address.eq(self._offset),
            reader.start.eq(start),
            bus.write_data.eq(window[-8 * unit :]),
        ]
        m.d.sync += [
            start.eq(0),
            whole.eq(place[: unit.bit_length() - 1] == 0),
            complete.eq(count == total),
        ]
        with m.FSM():
            with m.State("WAKE"), m.If(reader.awake & self.ready):
                m.d.sync += [start.eq(1), bus.address.eq(Register.MEMORY_ADDRESS)]
                m.next = "BASE"

            # The image goes to word 0, and the engine reads it there.
            with m.State("BASE"):
                m.d.comb += bus.write_strobe.eq(1)
                m.next = "BASE_DONE"
            with m.State("BASE_DONE"), m.If(bus.ack):
                m.d.sync += bus.address.eq(Register.IMAGE_BASE)
                m.next = "BASE"
                with m.If(bus.address == Register.IMAGE_BASE):
                    m.d.sync += bus.address.eq(Register.MEMORY_DATA)
                    m.next = "TAKE"

            # The image.
            with m.State("TAKE"):
                m.d.comb += reader.bytes.ready.eq(1)
                with m.If(reader.bytes.valid):
                    m.d.sync += [
                        window.eq(Cat(window[8:], reader.bytes.payload)),
                        place.eq(place + 1),
                    ]
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "LOOK"
            with m.State("LOOK"):
                m.next = "TAKE"
                with m.If(whole):
                    m.d.comb += bus.write_strobe.eq(1)
                    m.next = "WRITE"
                with m.If(in_header), m.Switch(place):
                    with m.Case(MAGIC_AT + 4):
                        with m.If(window == image.MAGIC):
                            m.d.comb += found.eq(1)
                        with m.Else():
                            m.d.comb += [done.eq(1), bus.write_strobe.eq(0)]
                    with m.Case(VERSION_AT + 4):
                        m.d.sync += foreign.eq(window[VERSION] != image.VERSION)
                    with m.Case(FINGERPRINT_AT + 4):
                        m.d.sync += foreign.eq(foreign | (window != config.fingerprint))
                    with m.Case(WORDS_AT + 4):
                        least = HEADER_BYTES // config.word_bytes
                        m.d.sync += [
                            words.eq(window),
                            oversize.eq((window > limit) | (window <= least)),
                        ]
            with m.State("WRITE"), m.If(bus.ack):
                m.d.sync += count.eq(count + 1)
                m.next = "COUNT"
            with m.State("COUNT"):
                m.next = "NEXT"
            with m.State("NEXT"):
                m.next = "TAKE"
                with m.If(complete):
                    m.d.sync += [in_header.eq(0), total.eq(words * units_per_word)]
                    with m.If(~in_header | foreign):
                        m.d.sync += [
                            bus.address.eq(Register.CONTROL),
                            window[-8 * unit :].eq(int(Control.LOAD | Control.VERIFY)),
                        ]
                        m.next = "START"
                    with m.Elif(oversize):
                        m.d.comb += [done.eq(1), failed.eq(1)]

            with m.State("START"):
                m.d.comb += bus.write_strobe.eq(1)
                m.next = "STARTED"
            with m.State("STARTED"), m.If(bus.ack):
                m.d.sync += bus.address.eq(Register.STATUS)
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += bus.read_strobe.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"), m.If(bus.ack):
                m.next = "ASK"
                with m.If((bus.read_data & FINISHED).any()):
                    m.d.comb += done.eq(1)
