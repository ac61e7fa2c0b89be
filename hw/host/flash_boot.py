"""Loads an image from the configuration flash at power-up, so that a board runs without a host.

::

    flash pins -> [SPI flash reader] -> bytes -> [copy] --+
                                                          +-> registers of the engine
    registers of the host link, when the copy is over ----+
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.flash import MARK_BYTES, MARK_MAGIC, FlashLayout
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


class _Copy:
    """What the states of the copy share.

    Attributes
    ----------
    unit
        Bytes per write.
    window, place, whole
        The last four bytes; bytes of the header, or of a mark, taken so far; a write is complete.
    total, count, complete
        Writes of the header or of the image; those that are done; all are.
    in_header, words, foreign, oversize
        Of the image.
    start, again, awake
        Of the reader; from registers, as the flash's pins are far. It stays awake until it starts.
    marks_left, generation, valid, other, other_valid
        Marks to be read, of two; the latest one; the one before.
    slot, tried
        That is read; it is the second one.
    """

    def __init__(self, config: EngineConfig, limit: int) -> None:
        self.unit = min(4, config.word_bytes)
        units_per_word = config.word_bytes // self.unit
        self.window = Signal(32)
        self.place = Signal(range(HEADER_BYTES + 1))
        self.total = Signal(range(limit * units_per_word + 1), init=HEADER_BYTES // self.unit)
        self.count = Signal.like(self.total, init=0)
        self.in_header = Signal(init=1)
        self.whole, self.complete = Signal(), Signal()
        self.foreign, self.oversize = Signal(), Signal()
        self.words = Signal(range(limit + 1))
        self.start, self.again, self.awake = Signal(), Signal(), Signal()
        self.marks_left = Signal(2, init=2)
        self.generation, self.other = Signal(32), Signal(32)
        self.valid, self.other_valid = Signal(), Signal()
        self.slot, self.tried = Signal(), Signal()


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

    With a ``layout`` there are two slots (``contract.flash``). Their marks say which one is first;
    where that image is not accepted, for whatever reason, the other one is tried.

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
    layout : FlashLayout, optional
        Of two slots; then ``offset`` is that of the first one.

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
        layout: FlashLayout | None = None,
    ) -> None:
        room = min(flash_bytes, 1 << FLASH_ADDRESS_BITS) - HEADER_BYTES
        if not isinstance(offset, int) or not 0 <= offset < room:
            raise ValueError(
                f"Offset of the image in the flash must be 0 to {room - 1}, not {offset!r}"
            )
        self._config = config
        self._offset = offset
        self._flash_bytes = flash_bytes
        self._layout = layout
        self._reader = SpiFlashReader(clock_hz, sck_hz, again=layout is not None)
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
    def layout(self) -> FlashLayout | None:
        """Where two slots are."""
        return self._layout

    @property
    def limit_words(self) -> int:
        """Words of the largest image that fits both the memory and the flash."""
        flash = min(self._flash_bytes, 1 << FLASH_ADDRESS_BITS) - self._offset
        return self._limit(flash if self._layout is None else self._layout.slot_bytes(0))

    def _limit(self, flash: int) -> int:
        config = self._config
        memory = config.ram_words if config.memory == "ram" else 1 << config.address_bits
        return min(memory, (flash - READ_AHEAD) // config.word_bytes)

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
        x = _Copy(self._config, self.limit_words)
        reader, unit = self._reader, x.unit
        m.d.comb += [
            reader.address.eq(self._offset if self._layout is None else self._address(x)),
            reader.start.eq(x.start),
            bus.write_data.eq(x.window[-8 * unit :]),
        ]
        if self._layout is not None:
            m.d.comb += reader.again.eq(x.again)
        m.d.sync += [
            x.start.eq(0),
            x.again.eq(0),
            x.awake.eq(reader.awake),
            x.whole.eq(x.place[: unit.bit_length() - 1] == 0),
            x.complete.eq(x.count == x.total),
        ]
        with m.FSM():
            with m.State("WAKE"), m.If(x.awake & self.ready):
                m.d.sync += [x.start.eq(1), bus.address.eq(Register.MEMORY_ADDRESS)]
                m.next = "BASE"
                if self._layout is not None:
                    with m.If(x.marks_left != 0):
                        m.next = "MARK"
            if self._layout is not None:
                self._marks(m, x)
            self._begin(m, bus)
            self._take(m, bus, x, done, found)
            self._write(m, bus, x, done, failed)
            self._load(m, bus, x, done)

    # -- two slots --------------------------------------------------------------------------------

    def _address(self, x: _Copy) -> Value:
        """Where the reader begins: at a mark, or at a slot."""
        assert self._layout is not None
        slots, marks = self._layout.slots, self._layout.marks
        of_mark = Mux(x.marks_left == 2, marks[0], marks[1])
        return Mux(x.marks_left == 0, Mux(x.slot, slots[1], slots[0]), of_mark)

    def _marks(self, m: Module, x: _Copy) -> None:
        """Reads both marks, then goes to the slot with the later one."""
        reader = self._reader
        newer = Signal()
        m.d.sync += newer.eq(x.valid & (~x.other_valid | (x.generation > x.other)))
        with m.State("MARK"):
            m.d.comb += reader.bytes.ready.eq(1)
            with m.If(reader.bytes.valid):
                m.d.sync += [
                    x.window.eq(Cat(x.window[8:], reader.bytes.payload)),
                    x.place.eq(x.place + 1),
                ]
                m.next = "MARK_LOOK"
        with m.State("MARK_LOOK"):
            m.next = "MARK"
            with m.Switch(x.place):
                with m.Case(4):
                    m.d.sync += x.valid.eq(x.window == MARK_MAGIC)
                with m.Case(8):
                    m.d.sync += x.generation.eq(x.window)
                with m.Case(MARK_BYTES):
                    m.d.sync += x.valid.eq(x.valid & (x.window == ~x.generation))
                    m.next = "MARK_SETTLE"
        with m.State("MARK_SETTLE"):
            m.next = "MARK_END"
        with m.State("MARK_END"):
            m.d.sync += [
                x.slot.eq(newer),  # counts after the second one
                x.other.eq(x.generation),
                x.other_valid.eq(x.valid),
                x.marks_left.eq(x.marks_left - 1),
            ]
            self._anew(m, x)
        with m.State("OTHER"):
            m.d.sync += [x.slot.eq(~x.slot), x.tried.eq(1)]
            self._anew(m, x)
        with m.State("AGAIN"):
            m.d.sync += x.again.eq(1)
            with m.If(x.awake):
                m.next = "WAKE"

    def _anew(self, m: Module, x: _Copy) -> None:
        """The reader begins at another address, and all is as in the beginning."""
        m.d.sync += [
            x.window.eq(0),
            x.place.eq(0),
            x.total.eq(HEADER_BYTES // x.unit),
            x.count.eq(0),
            x.in_header.eq(1),
            x.foreign.eq(0),
            x.oversize.eq(0),
        ]
        m.next = "AGAIN"

    def _give_up(self, m: Module, x: _Copy, done: Signal) -> None:
        """The other slot, or the end."""
        if self._layout is None:
            m.d.comb += done.eq(1)
            return
        with m.If(x.tried):
            m.d.comb += done.eq(1)
        with m.Else():
            m.next = "OTHER"

    # -- an image ---------------------------------------------------------------------------------

    def _begin(self, m: Module, bus: Any) -> None:
        """The image goes to word 0, and the engine reads it there."""
        with m.State("BASE"):
            m.d.comb += bus.write_strobe.eq(1)
            m.next = "BASE_DONE"
        with m.State("BASE_DONE"), m.If(bus.ack):
            m.d.sync += bus.address.eq(Register.IMAGE_BASE)
            m.next = "BASE"
            with m.If(bus.address == Register.IMAGE_BASE):
                m.d.sync += bus.address.eq(Register.MEMORY_DATA)
                m.next = "TAKE"

    def _take(self, m: Module, bus: Any, x: _Copy, done: Signal, found: Signal) -> None:
        """A byte, and what it says where it ends a record of the header."""
        bytes_, limit = self._reader.bytes, Const(self.limit_words)
        if self._layout is not None:
            limit = Mux(x.slot, self._limit(self._layout.slot_bytes(1)), self.limit_words)
        with m.State("TAKE"):
            m.d.comb += bytes_.ready.eq(1)
            with m.If(bytes_.valid):
                m.d.sync += [
                    x.window.eq(Cat(x.window[8:], bytes_.payload)),
                    x.place.eq(x.place + 1),
                ]
                m.next = "SETTLE"
        with m.State("SETTLE"):
            m.next = "LOOK"
        with m.State("LOOK"):
            m.next = "TAKE"
            with m.If(x.whole):
                m.d.comb += bus.write_strobe.eq(1)
                m.next = "WRITE"
            with m.If(x.in_header), m.Switch(x.place):
                with m.Case(MAGIC_AT + 4):
                    with m.If(x.window == image.MAGIC):
                        m.d.comb += found.eq(1)
                    with m.Else():
                        m.d.comb += bus.write_strobe.eq(0)
                        self._give_up(m, x, done)
                with m.Case(VERSION_AT + 4):
                    m.d.sync += x.foreign.eq(x.window[VERSION] != image.VERSION)
                with m.Case(FINGERPRINT_AT + 4):
                    m.d.sync += x.foreign.eq(x.foreign | (x.window != self._config.fingerprint))
                with m.Case(WORDS_AT + 4):
                    least = HEADER_BYTES // self._config.word_bytes
                    m.d.sync += [
                        x.words.eq(x.window),
                        x.oversize.eq((x.window > limit) | (x.window <= least)),
                    ]

    def _write(self, m: Module, bus: Any, x: _Copy, done: Signal, failed: Signal) -> None:
        """A word, or a part of one, to the memory."""
        unit = x.unit
        with m.State("WRITE"), m.If(bus.ack):
            m.d.sync += x.count.eq(x.count + 1)
            m.next = "COUNT"
        with m.State("COUNT"):
            m.next = "NEXT"
        with m.State("NEXT"):
            m.next = "TAKE"
            with m.If(x.complete):
                units_per_word = self._config.word_bytes // unit
                m.d.sync += [x.in_header.eq(0), x.total.eq(x.words * units_per_word)]
                with m.If(~x.in_header | x.foreign):
                    m.d.sync += [
                        bus.address.eq(Register.CONTROL),
                        x.window[-8 * unit :].eq(int(Control.LOAD | Control.VERIFY)),
                    ]
                    m.next = "START"
                with m.Elif(x.oversize):
                    m.d.comb += failed.eq(1)
                    self._give_up(m, x, done)

    def _load(self, m: Module, bus: Any, x: _Copy, done: Signal) -> None:
        """The engine loads and verifies what was copied."""
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
                if self._layout is None:
                    m.d.comb += done.eq(1)
                else:
                    with m.If((bus.read_data & int(Status.LOADED)).any()):
                        m.d.comb += done.eq(1)
                    with m.Else():
                        self._give_up(m, x, done)
