"""Two images in one memory: which are whole, and the way back from one to the other.

::

    registers of the host link --> [slots] --> flash boot --> registers of the engine
                                      ^                         |
             writes to the memory ----+---- loads and checks ---+
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import SlotsSignature
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import (
    ADDRESS_BITS,
    WATCHDOG_BITS,
    WATCHDOG_SHIFT,
    Control,
    Register,
    Status,
)

from .register_bus import RegisterBusSignature

__all__ = ["Slots"]


_CALM = 15
"""Cycles without a reset until all parts of an engine are out of it (``boards/top/restart.py``)."""


class _Range:
    """An image in the memory, from ``base`` up to but without ``end``.

    Attributes
    ----------
    whole : Signal(1)
        Its sum was right, and no word of it has been written since.
    """

    def __init__(self, config: EngineConfig, name: str) -> None:
        self.base = Data(config.address_bits, name=f"{name}_base")
        self.end = Data(config.address_bits + 2, name=f"{name}_end")
        self.whole = Signal(name=f"{name}_whole")


class Slots(wiring.Component):
    """Remembers the image that runs and one beside it, and whether they are whole.

    An image is whole when the engine has formed its sum and found it right, until a word of it is
    written. So a host may write another image while one runs, and cannot run a part of one:
    ``blocked`` makes the link refuse vectors while the image that is loaded is not whole. A load
    without ``VERIFY`` is verified all the same, unless the image is whole already: then it is
    short.

    The *watchdog* goes back to the image beside when no output vector has left for a while: it
    resets the engine, which may hang, and has it load and verify that image. The link refuses the
    vectors that were in the engine.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    host : In(RegisterBusSignature)
        Requests of the host link. BESIDE and STATUS are completed on their way back.
    registers : Out(RegisterBusSignature)
        The same, and those of the watchdog.
    written, register, value : In
        A register of the engine is written now, by whomever; which one, with what.
    engine : In(SlotsSignature)
    write, address : In
        A word is written to the memory now; its address.
    step : In(1)
        An output vector leaves.
    restart : In(1)
        The engine and its memory port are reset.
    blocked : Out(1)
        No vectors.
    reset : Out(1)
        Pulses: the engine is to be reset.
    lost : Out(1)
        From the next cycle on, until all of the engine is out of that reset: vectors in it are
        lost. ``blocked`` is high by then.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "host": In(RegisterBusSignature(ADDRESS_BITS)),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "written": In(1),
                "register": In(ADDRESS_BITS),
                "value": In(32),
                "engine": In(SlotsSignature(config)),
                "write": In(1),
                "address": In(config.address_bits),
                "step": In(1),
                "restart": In(1),
                "blocked": Out(1),
                "reset": Out(1),
                "lost": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        runs, beside = _Range(self.config, "runs"), _Range(self.config, "beside")
        fell_back, write = Signal(), Signal()
        # A cycle late, as all comes from far away.
        known = Signal()
        moved = self._remember(m, runs, beside, write, known)
        m.d.sync += [self.blocked.eq(~runs.whole | moved | fell_back), write.eq(self.write)]
        self._watch_memory(m, runs, beside, write)
        self._answer(m, beside, fell_back)
        self._watchdog(m, beside, fell_back, known)
        return m

    def between(self, m: Module, link: Any, engine: Any, restart: Value) -> None:
        """Connects all but ``registers``, which go to the engine, or to what loads it from flash.

        Parameters
        ----------
        m : Module
            That of link and engine.
        link : HostLink
        engine : Engine
            With ``beside``.
        restart : Value
            The engine and its memory port are reset.
        """
        connect(m, link.registers, self.host)
        connect(m, engine.slots, self.engine)
        write, outputs, bus = engine.memory.write, engine.outputs, engine.registers
        m.d.comb += [
            self.written.eq(bus.write_strobe),
            self.register.eq(bus.address),
            self.value.eq(bus.write_data),
            self.write.eq(write.valid & write.ready),
            self.address.eq(write.payload.address),
            self.step.eq(outputs.valid & outputs.ready & outputs.payload.last),
            self.restart.eq(restart),
            link.blocked.eq(self.blocked),
            link.lost.eq(self.lost),
        ]

    # -- what is whole ----------------------------------------------------------------------------

    def _remember(
        self, m: Module, runs: _Range, beside: _Range, write: Signal, known: Signal
    ) -> Signal:
        """Loads and checks that end well; ``known``: the image at IMAGE_BASE is whole. Returns
        whether what runs is not where IMAGE_BASE says, for the columns of a step come from
        there."""
        engine = self.engine
        verified, undisturbed, moved = Signal(), Signal(), Signal()
        is_running, is_beside, of_running = Signal(), Signal(), Signal()
        end = Data(len(runs.end))
        m.d.sync += [
            is_running.eq(engine.base == runs.base),
            is_beside.eq(engine.base == beside.base),
            of_running.eq(engine.beside == runs.base),
            known.eq((is_running & runs.whole) | (is_beside & beside.whole)),
        ]
        control = self.written & (self.register == Register.CONTROL)
        with m.If(control & ((self.value & int(Control.LOAD)) != 0)):
            m.d.sync += verified.eq(((self.value & int(Control.VERIFY)) != 0) | known)
        with m.If(self.written & (self.register == Register.IMAGE_BASE)):
            m.d.sync += [verified.eq(0), moved.eq(1)]
        with m.If(self.written & (self.register == Register.BESIDE)):
            m.d.sync += undisturbed.eq(~engine.checking)
        # A word that is written while a sum is formed may or may not be part of it.
        with m.If(write | self.restart):
            m.d.sync += [verified.eq(0), undisturbed.eq(0)]
        with m.If(engine.loaded):
            m.d.sync += [
                runs.base.eq(engine.base),
                runs.end.eq(engine.base + engine.words),
                runs.whole.eq(verified),
                moved.eq(0),
            ]
            with m.If(~is_running):
                m.d.sync += [
                    beside.base.eq(runs.base),
                    beside.end.eq(runs.end),
                    beside.whole.eq(runs.whole & ~write),
                ]
        m.d.comb += end.eq(engine.beside + engine.words)
        with m.If(engine.checked & undisturbed & ~of_running):
            m.d.sync += [
                beside.base.eq(engine.beside),
                beside.end.eq(end),
                beside.whole.eq(1),
            ]
        with m.If(self.restart):
            m.d.sync += [runs.whole.eq(0), beside.whole.eq(0)]
        return moved

    def _watch_memory(self, m: Module, runs: _Range, beside: _Range, write: Signal) -> None:
        """A word that is written into an image; two cycles later, which is soon enough, because
        the link asks for STATUS between a write and a vector."""
        address = Data(len(self.address))
        m.d.sync += address.eq(self.address)
        for image in (runs, beside):
            with m.If(write & (address >= image.base) & (address < image.end)):
                m.d.sync += image.whole.eq(0)

    # -- the host ---------------------------------------------------------------------------------

    def _answer(self, m: Module, beside: _Range, fell_back: Signal) -> None:
        """STATUS with the bits of this block, and BESIDE."""
        host, status = self.host, Signal(32)
        assert Status.FELL_BACK == Status.BESIDE << 1
        at = int(Status.BESIDE).bit_length() - 1
        with m.If(host.address == Register.STATUS):
            m.d.comb += status.eq(Cat(Const(0, at), beside.whole, fell_back))
        m.d.comb += [
            host.ack.eq(self.registers.ack),
            host.read_data.eq(
                Mux(
                    host.address == Register.BESIDE,
                    beside.base,
                    self.registers.read_data | status,
                )
            ),
        ]

    # -- the way back -----------------------------------------------------------------------------

    def _watchdog(self, m: Module, beside: _Range, fell_back: Signal, whole: Signal) -> None:
        """Counts the cycles without an output, then takes the bus."""
        host, registers = self.host, self.registers
        limit = Signal(WATCHDOG_BITS)
        left = Signal(WATCHDOG_BITS + WATCHDOG_SHIFT)
        full = Cat(Const(0, WATCHDOG_SHIFT), limit)
        over, busy, known, step = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [over.eq((limit != 0) & (left == 0)), step.eq(self.step)]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(step):
            m.d.sync += left.eq(full)
        # The image must have been whole when the watchdog was set.
        with m.If(host.write_strobe & (host.address == Register.WATCHDOG)):
            m.d.sync += [
                limit.eq(host.write_data),
                left.eq(host.write_data << WATCHDOG_SHIFT),
                over.eq(0),
                known.eq(beside.whole),
                fell_back.eq(0),
            ]
        loads = (host.address == Register.CONTROL) & ((host.write_data & int(Control.LOAD)) != 0)
        with m.If(host.write_strobe & loads):
            m.d.sync += fell_back.eq(0)
        with m.If(host.write_strobe | host.read_strobe):
            m.d.sync += busy.eq(1)
        with m.If(registers.ack):
            m.d.sync += busy.eq(0)
        # A load of what is not known to be whole is always verified.
        verify = Mux(loads & ~whole, int(Control.VERIFY), 0)
        m.d.comb += [
            registers.address.eq(host.address),
            registers.write_data.eq(host.write_data | verify),
            registers.write_strobe.eq(host.write_strobe),
            registers.read_strobe.eq(host.read_strobe),
        ]
        asks = busy | host.write_strobe | host.read_strobe
        with m.FSM():
            with m.State("WATCH"), m.If(over & known & ~asks):
                m.d.comb += self.reset.eq(1)
                m.d.sync += [limit.eq(0), over.eq(0), fell_back.eq(1), self.lost.eq(1)]
                m.next = "RESET"
            self._fall_back(m, beside)

    def _fall_back(self, m: Module, beside: _Range) -> None:
        """After the reset: IMAGE_BASE, then a load. A request of the host is kept meanwhile."""
        host, registers = self.host, self.registers
        write, read = Signal(), Signal()  # kept
        calm = Signal(range(_CALM + 1))
        load = int(Control.LOAD | Control.VERIFY)

        def take(state: str, strobe: int, address: Register, data: Any, following: str) -> None:
            with m.State(state):
                m.d.comb += [
                    registers.address.eq(address),
                    registers.write_data.eq(data),
                    registers.write_strobe.eq(strobe),
                    registers.read_strobe.eq(0),
                    host.ack.eq(0),
                ]
                m.d.sync += [write.eq(write | host.write_strobe), read.eq(read | host.read_strobe)]
                with m.If(Const(strobe) | registers.ack):
                    m.next = following

        with m.State("RESET"):
            m.d.comb += [
                registers.write_strobe.eq(0),
                registers.read_strobe.eq(0),
                host.ack.eq(0),
            ]
            m.d.sync += [
                write.eq(write | host.write_strobe),
                read.eq(read | host.read_strobe),
                calm.eq(Mux(self.restart, 0, calm + 1)),
            ]
            with m.If(calm == _CALM):
                m.d.sync += [calm.eq(0), self.lost.eq(0)]
                m.next = "BASE"
        take("BASE", 1, Register.IMAGE_BASE, beside.base, "BASE_DONE")
        take("BASE_DONE", 0, Register.IMAGE_BASE, beside.base, "LOAD")
        take("LOAD", 1, Register.CONTROL, Const(load, 32), "LOAD_DONE")
        take("LOAD_DONE", 0, Register.CONTROL, Const(load, 32), "BACK")
        with m.State("BACK"):
            m.d.comb += [registers.write_strobe.eq(write), registers.read_strobe.eq(read)]
            m.d.sync += [write.eq(0), read.eq(0)]
            m.next = "WATCH"
