"""What is inside the pins, the same on every board and in the virtual board.

::

    serial port -> [uart] -> [host link] -> [engine] -> [SDRAM controller] -> SDRAM pins
                                 |             ^  \\-> or on-chip memory, an UltraPlus's SPRAM
                                 v             |
          flash pins ------> [flash boot] -> registers
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, DomainRenamer, Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.compact.engine import CompactEngine
from stillnet.hw.engine import Engine
from stillnet.hw.host.flash_boot import FlashBoot
from stillnet.hw.host.link.link import HostLink
from stillnet.hw.host.link.uart import Uart
from stillnet.hw.host.slots import Slots
from stillnet.hw.host.spi_flash import SpiFlashPinsSignature
from stillnet.hw.memory.crossing import PortCrossing
from stillnet.hw.memory.ram import RamPort
from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import SdramPart
from stillnet.hw.memory.sdram.pins import SdramPinsSignature
from stillnet.hw.memory.spram import SpramPort
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.flash import FlashLayout

from .restart import RESTART_CYCLES, restarted
from .sdram_registers import SdramRegisters

__all__ = ["Lamps", "System"]


class Lamps(wiring.Component):
    """What the LEDs say, stretched so that eyes can follow.

    Parameters
    ----------
    clock_hz : int

    Members
    -------
    ready, loaded, step, trouble : In(1)
        Memory has started; an image is loaded; an output vector left; something was wrong.
    lamps : Out(4)
        0 alive: blinks once a second, on without a break until the memory has started. 1 loaded.
        2 working: a step within the last tenth of a second. 3 trouble: within the last second.
    """

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        super().__init__(
            {"ready": In(1), "loaded": In(1), "step": In(1), "trouble": In(1), "lamps": Out(4)}
        )

    @property
    def clock_hz(self) -> int:
        """Frequency of the clock."""
        return self._clock_hz

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        tick_cycles = max(2, self.clock_hz // 32)
        timer = Signal(range(tick_cycles))
        tick = Signal()
        beat = Signal(5)
        working, trouble = Signal(2), Signal(5)
        m.d.sync += [timer.eq(timer + 1), tick.eq(timer == tick_cycles - 2)]
        with m.If(tick):
            m.d.sync += [
                timer.eq(0),
                beat.eq(beat + 1),
                working.eq(working - (working != 0)),
                trouble.eq(trouble - (trouble != 0)),
            ]
        with m.If(self.step):
            m.d.sync += working.eq(3)
        with m.If(self.trouble):
            m.d.sync += trouble.eq(31)
        m.d.sync += self.lamps.eq(
            Cat(~self.ready | beat[-1], self.loaded, working != 0, trouble != 0)
        )
        return m


class System(wiring.Component):
    """Host link, engine and memory.

    Parameters
    ----------
    config : EngineConfig
        With ``memory = "port"`` for SDRAM, or ``"ram"``.
    clock_hz : int
    part : SdramPart or None
        None for on-chip memory.
    baud : int or None
        Of the serial port; None gives the link's byte streams instead.
    board : str
        Name that the host is told.
    input_delay : int
        See :class:`SdramController`: registers that the board adds around its pins.
    startup_us : int, optional
        Pause of the SDRAM after power-up, where not its own.
    image_offset : int or None
        Where an image for power-up may lie in the configuration flash, in bytes. None where there
        is no flash.
    flash_bytes : int
        Size of the flash.
    compact : bool
        For small parts: :class:`CompactEngine`, with its weights in SPRAM.
    changes : bool
        Vectors may come and go as changes, where the engine is not compact.
    ring_bytes : int or None
        Size of the link's two rings, where not its own (see :class:`HostLink`).
    window : int
        Commands that a host may have unanswered.
    memory_hz : int or None
        Of the SDRAM, in a domain ``memory`` of its own. None: it has the engine's clock.
    power_down : int or None
        Cycles without a request after which the SDRAM is put to sleep; see
        :class:`SdramController`.
    counted : bool
        Count what the SDRAM does, for the host.

    Members
    -------
    rx, tx : In(1), Out(1)
        Serial port, with ``baud``.
    host, reply : In, Out(stream of 8 bits)
        The link's bytes, without.
    sdram : Out(SdramPinsSignature(part))
    flash : Out(SpiFlashPinsSignature())
        With ``image_offset``.
    lamps : Out(4)
        See :class:`Lamps`.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock_hz: int,
        part: SdramPart | None,
        baud: int | None,
        board: str,
        input_delay: int = 0,
        startup_us: int | None = None,
        image_offset: int | None = None,
        flash_bytes: int = 16 << 20,
        compact: bool = False,
        ring_bytes: int | None = None,
        window: int = 16,
        memory_hz: int | None = None,
        power_down: int | None = None,
        counted: bool = False,
        changes: bool = True,
    ) -> None:
        self.config = config
        self.clock_hz = clock_hz
        self.part = part
        self.baud = baud
        self.board = board
        self.input_delay = input_delay
        self.startup_us = startup_us
        self.image_offset = image_offset
        self.flash_bytes = flash_bytes
        self.compact = compact
        self.ring_bytes = ring_bytes
        self.window = window
        self.memory_hz = memory_hz
        self.power_down = power_down
        self.counted = counted and part is not None
        self.changes = changes and not compact
        members: dict[str, Any] = {"lamps": Out(4)}
        if baud is None:
            members["host"] = In(stream.Signature(8))
            members["reply"] = Out(stream.Signature(8))
        else:
            members["rx"] = In(1, init=1)
            members["tx"] = Out(1, init=1)
        if part is not None:
            members["sdram"] = Out(SdramPinsSignature(part))
        if image_offset is not None:
            members["flash"] = Out(SpiFlashPinsSignature())
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        rings = (
            {}
            if self.ring_bytes is None
            else {"receive_bytes": self.ring_bytes, "reply_bytes": self.ring_bytes}
        )
        # A small part has no room for a second image and what looks after it, nor for changes.
        slots = None if self.compact else Slots(config)
        m.submodules.link = link = HostLink(
            config,
            clock_hz=self.clock_hz,
            board=self.board,
            window=self.window,
            slots=slots is not None,
            changes=None if self.changes else 0,
            **rings,
        )
        m.submodules.lamps = lamps = Lamps(self.clock_hz)
        engine: Any = CompactEngine(config) if self.compact else Engine(config, beside=True)
        # All are held for some cycles. A memory that was free again before the engine is held would
        # take a read, and answer it to an engine that has not asked.
        restart, held = Signal(), Signal(RESTART_CYCLES - 1)
        wanted = link.engine_reset if slots is None else link.engine_reset | slots.reset
        m.d.sync += [held.eq(Cat(wanted, held)), restart.eq(wanted | held.any())]
        m.submodules.engine = restarted(m, engine, restart, platform)

        # -- bytes --------------------------------------------------------------------------------

        if self.baud is None:
            connect(m, flipped(self.host), link.rx)
            connect(m, link.tx, flipped(self.reply))
        else:
            m.submodules.uart = uart = Uart(self.clock_hz, self.baud)
            connect(m, uart.received, link.rx)
            connect(m, link.tx, uart.sent)
            m.d.comb += [uart.rx.eq(self.rx), self.tx.eq(uart.tx), link.rx_error.eq(uart.error)]

        # -- memory -------------------------------------------------------------------------------

        if self.part is None:
            kind: Any = SpramPort if self.compact else RamPort
            ram = kind(config.address_bits, config.word_bits, config.ram_words)
            m.submodules.memory = ResetInserter(restart)(ram)
            connect(m, engine.memory, ram.port)
            m.d.comb += lamps.ready.eq(1)
            behind = engine.registers
        else:
            behind = self._connect_sdram(m, engine, restart, lamps)

        # -- engine -------------------------------------------------------------------------------

        boot_failed, registers = Signal(), link.registers
        if slots is not None:
            m.submodules.slots = slots
            registers = slots.registers
            slots.between(m, link, engine, restart)
        if self.image_offset is None:
            connect(m, registers, behind)
        else:
            m.submodules.boot = boot = FlashBoot(
                config,
                clock_hz=self.clock_hz,
                offset=self.image_offset,
                flash_bytes=self.flash_bytes,
                layout=None
                if self.compact
                else FlashLayout.of(self.image_offset, self.flash_bytes),
            )
            connect(m, registers, boot.host)
            connect(m, boot.registers, behind)
            connect(m, boot.pins, flipped(self.flash))
            m.d.comb += [
                boot.ready.eq(lamps.ready),
                boot.stop.eq(restart),
                boot_failed.eq(boot.failed),
            ]

        # Vectors need no such gate: the link asks for STATUS before each, and waits for the answer.
        if self.compact:
            connect(m, link.inputs, engine.inputs)
        else:
            # The slice keeps the engine's encoder out of the path of the link's commands.
            vectors = RegisterSlice(engine.inputs.payload.shape())
            m.submodules.vectors = ResetInserter(restart)(vectors)
            connect(m, link.inputs, vectors.i_stream)
            connect(m, vectors.o_stream, engine.inputs)
        connect(m, engine.outputs, link.outputs)
        m.d.comb += [
            lamps.loaded.eq(engine.loaded),
            self.lamps.eq(lamps.lamps),
        ]
        trouble = link.rx_error | link.engine_reset | engine.refused | boot_failed
        left = engine.outputs.valid & engine.outputs.ready & engine.outputs.payload.last
        m.d.sync += [lamps.trouble.eq(trouble), lamps.step.eq(left)]
        return m

    def _connect_sdram(self, m: Module, engine: Any, restart: Signal, lamps: Lamps) -> Any:
        """The SDRAM's controller, at the engine's clock or at one of its own.

        Returns the registers, those of its counters included.
        """
        config, own = self.config, self.memory_hz is not None
        assert self.part is not None
        sdram = SdramController(
            self.part,
            self.memory_hz or self.clock_hz,
            config.address_bits,
            config.word_bits,
            input_delay=self.input_delay,
            startup_us=self.startup_us,
            far=own,
            power_down=self.power_down,
            counted=self.counted,
        )
        connect(m, sdram.pins, flipped(self.sdram))
        behind = engine.registers
        if self.counted:
            counts = SdramRegisters(sdram, self.clock_hz)
            # What is under way in a restart is not answered after it.
            m.submodules.sdram_registers = ResetInserter(restart)(counts)
            connect(m, counts.registers, engine.registers)
            counts.connect(m, sdram, "memory" if own else "sync")
            behind = counts.host
        if not own:
            m.submodules.memory = ResetInserter(restart)(sdram)
            connect(m, engine.memory, sdram.port)
            m.d.comb += lamps.ready.eq(sdram.started)
            return behind
        m.submodules.crossing = crossing = PortCrossing(config.address_bits, config.word_bits)
        # It needs no reset: the crossing lets it end what it was asked for.
        m.d.comb += sdram.forget.eq(crossing.clear)
        m.submodules.memory = DomainRenamer(crossing.domain)(sdram)
        connect(m, engine.memory, crossing.port)
        connect(m, crossing.memory, sdram.port)
        m.d.comb += crossing.restart.eq(restart)
        m.submodules.started = FFSynchronizer(sdram.started, lamps.ready)
        return behind
