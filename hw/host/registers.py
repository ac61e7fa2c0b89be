"""The register block of both engines: what the host writes, what it reads, what it asks for.

::

    register bus --> [decode] --> thresholds, selects, memory writes
                         |
                         +------> requests (load, clear, restore) --> control of the engine
                         +<------ status, state, counters

The control of an engine starts what the host asked for and takes the request back, and a load sets
the error and the threshold of the input. So the two write some registers together, and this is no
submodule: :class:`Registers` holds the signals, and its methods add statements to the engine.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from stillnet.hw.parts.data_register import Data
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.registers import (
    CHECK_ERROR_AT,
    Control,
    Error,
    Register,
    Status,
)

__all__ = ["READ_CYCLES", "Registers"]

READ_CYCLES = 2
"""Cycles from the address of a register to its value where values come through registers."""


class Registers:
    """The registers of ``contract.registers`` on a register bus, as a part of an engine's module.

    Parameters
    ----------
    config : EngineConfig
    bus : RegisterBusSignature, as a register file has it
    memory : MemoryPortSignature
        For writes, and for its error.
    access_cycles : int
        Cycles of an access to state or to what else is slow.
    index_bits : int
        Width of the index of an element of state, 28 at most.
    late : bool
        Reads and ``ack`` come from registers. That suits a large engine, where values come from
        far away.
    beside : bool
        There are ``BESIDE`` and ``Control.CHECK``.

    Attributes
    ----------
    load_wanted, clear_wanted : Signal(1)
        The host asked for a load or a clear. The control sets it to 0 when it starts.
    loaded, clearing : Signal(1)
        Set by the control: an image is loaded; its state is being cleared.
    error : Signal(Error)
        Why the last image was refused. Set by the control at the end of a load.
    input_threshold : Signal(17)
        Threshold of the input vector. Also set by the control at the end of a load.
    restoring : Signal(1)
        The host asked for a restore. The control sets it to 0 after that step.
    restore_exact, restore_first, restore_second : Signal(1)
        See :class:`Control`.
    base : Signal(address_bits)
        Word address of the image.
    verify : Signal(1)
        The load is to check the sum over the image.
    check_wanted : Signal(1)
        The host asked for a part of a check. The control sets it to 0 when that is done.
    check_again : Signal(1)
        It is the first part. The control sets it to 0.
    beside : Signal(address_bits)
        Word address of the image that is checked.
    check_error : Signal(Error)
        Set by the control at the end of a check.
    idle : Signal(1)
        Driven by the engine: nothing is in progress. Only then state is accessible.
    threshold_select : Signal(6)
    threshold_write : Signal(1)
        This cycle: a threshold of a layer is written, with ``bus.write_data``.
    budget_write : Signal(1)
        This cycle: the budget of a vector is written, the same.
    state_region : Signal(4)
    state_index : Signal(index_bits)
    events_select : Signal(6)
    is_state : Value
        The address is that of ``STATE_DATA``.
    active : Value
        A request is in progress.
    done : Signal(1)
        This cycle is the last one of a request.
    clear_counters : Signal(1)
    """

    def __init__(
        self,
        config: EngineConfig,
        bus: Any,
        memory: Any,
        *,
        access_cycles: int,
        index_bits: int = 28,
        late: bool = False,
        beside: bool = False,
    ) -> None:
        self._config, self._late, self._beside = config, late, beside
        self._access_cycles = access_cycles
        self.bus, self.memory = bus, memory
        # Between the host and the control of the engine.
        self.load_wanted = Signal()
        self.clear_wanted = Signal()
        self.loaded = Signal()
        self.clearing = Signal()
        self.error = Signal(Error)
        self.input_threshold = Signal(EVENT_BITS)
        self.restoring = Signal()
        self.restore_exact = Signal()
        self.restore_first = Signal()
        self.restore_second = Signal()
        self.base = Signal(config.address_bits)
        self.verify = Signal()
        self.check_wanted, self.check_again = Signal(), Signal()
        self.beside = Signal(config.address_bits)
        self.check_error = Signal(Error)
        self.idle = Signal()
        self.threshold_select = Signal(6)
        self.threshold_write = Signal()
        self.budget_write = Signal()
        self.state_region = Signal(4)
        self.state_index = Signal(index_bits)
        self.events_select = Signal(6)
        self.clear_counters = Signal()
        # Within a request.
        self.is_state = bus.address == Register.STATE_DATA
        self.done = Signal()
        self._wait = Signal(range(access_cycles + 1))
        self._answering = Signal()
        self._memory_address = Signal(config.address_bits)
        self._memory_word = Data(config.word_bits)
        self._memory_write = Signal()
        self._part = Signal(range(max(2, config.word_bits // 32)))
        self.active = self._answering | bus.write_strobe | bus.read_strobe

    def answer(self, m: Module, slow: Value, ready: Value | None = None) -> None:
        """Answers each request: at once, or after ``access_cycles`` where the address is ``slow``.

        Parameters
        ----------
        m : Module
        slow : Value
            The address is that of something slow.
        ready : Value, optional
            A request may end in this cycle.
        """
        bus, wait, answering = self.bus, self._wait, self._answering
        self._memory_writes(m)
        with m.If(bus.write_strobe | bus.read_strobe):
            quick = Mux(bus.write_strobe, 0, READ_CYCLES) if self._late else 0
            m.d.sync += [answering.eq(1), wait.eq(Mux(slow, self._access_cycles, quick))]
        with m.Elif(answering & (wait != 0)):
            m.d.sync += wait.eq(wait - 1)
        done = answering & (wait == 0) & ~self._memory_write
        m.d.comb += self.done.eq(done if ready is None else done & ready)
        m.d["sync" if self._late else "comb"] += bus.ack.eq(self.done)
        with m.If(self.done):
            m.d.sync += answering.eq(0)
            with m.If(self.is_state):
                m.d.sync += self.state_index.eq(self.state_index + 1)
        self._writes(m)

    def _memory_writes(self, m: Module) -> None:
        """Offers a word to the memory once it is complete."""
        write = self.memory.write
        m.d.comb += [
            write.valid.eq(self._memory_write),
            write.payload.address.eq(self._memory_address),
            write.payload.data.eq(self._memory_word),
        ]
        with m.If(self._memory_write & write.ready):
            m.d.sync += [
                self._memory_write.eq(0),
                self._memory_address.eq(self._memory_address + 1),
            ]

    def _memory_part(self, m: Module) -> None:
        """Takes 32 bits of a word, low ones first."""
        word_bits = self._config.word_bits
        target = self._memory_word.word_select(self._part, min(32, word_bits))
        m.d.sync += target.eq(self.bus.write_data)
        with m.If(self._part == max(1, word_bits // 32) - 1):
            m.d.sync += [self._part.eq(0), self._memory_write.eq(1)]
        with m.Else():
            m.d.sync += self._part.eq(self._part + 1)

    def _writes(self, m: Module) -> None:
        """What the other registers take when they are written."""
        bus, data = self.bus, self.bus.write_data
        m.d.comb += self.clear_counters.eq(
            bus.write_strobe
            & (bus.address == Register.CONTROL)
            & data[_bit(Control.CLEAR_COUNTERS)]
        )
        with m.If(bus.write_strobe), m.Switch(bus.address):
            with m.Case(Register.CONTROL):
                self._requests(m)
            with m.Case(Register.IMAGE_BASE):
                m.d.sync += self.base.eq(data)
            with m.Case(Register.THRESHOLD_SELECT):
                m.d.sync += self.threshold_select.eq(data)
            with m.Case(Register.THRESHOLD):
                with m.If(self.threshold_select == 0):
                    m.d.sync += self.input_threshold.eq(data)
                with m.Else():
                    m.d.comb += self.threshold_write.eq(1)
            with m.Case(Register.STATE_SELECT):
                m.d.sync += [self.state_region.eq(data[28:]), self.state_index.eq(data[:28])]
            with m.Case(Register.MEMORY_ADDRESS):
                m.d.sync += [self._memory_address.eq(data), self._part.eq(0)]
            with m.Case(Register.MEMORY_DATA):
                self._memory_part(m)
            with m.Case(Register.EVENTS_SELECT):
                m.d.sync += self.events_select.eq(data)
            if self._config.budgets:
                with m.Case(Register.BUDGET):
                    m.d.comb += self.budget_write.eq(1)
            if self._beside:
                with m.Case(Register.BESIDE):
                    m.d.sync += [self.beside.eq(data), self.check_again.eq(1)]

    def _requests(self, m: Module) -> None:
        """What the bits of ``CONTROL`` ask for, apart from clearing the counters."""
        data = self.bus.write_data
        with m.If(data[_bit(Control.LOAD)]):
            m.d.sync += [
                self.load_wanted.eq(1),
                self.verify.eq(data[_bit(Control.VERIFY)]),
                self.error.eq(Error.NONE),
            ]
        with m.If(data[_bit(Control.CLEAR)]):
            m.d.sync += self.clear_wanted.eq(1)
        if self._beside:
            with m.If(data[_bit(Control.CHECK)]):
                m.d.sync += [self.check_wanted.eq(1), self.check_error.eq(Error.NONE)]
        with m.If(data[_bit(Control.RESTORE)]):
            m.d.sync += [
                self.restoring.eq(1),
                self.restore_exact.eq(data[_bit(Control.RESTORE_EXACT)]),
                self.restore_first.eq(data[_bit(Control.RESTORE_FIRST)]),
                self.restore_second.eq(data[_bit(Control.RESTORE_SECOND)]),
            ]

    def reads(self, m: Module, state: Value, counter: Value) -> None:
        """What registers show when they are read.

        Parameters
        ----------
        m : Module
        state : Value
            The selected element of state; shown while the engine is idle, else 0.
        counter : Value
            The counter at the address.
        """
        bus, read_data, domain = self.bus, self.bus.read_data, "comb"
        state = Mux(self.idle, state, 0)
        if self._late:
            # Values from far away come through a register, and so does the choice between them.
            state_late, counter_late, read_data = Data(32), Data(32), Data(32)
            m.d.sync += [state_late.eq(state), counter_late.eq(counter)]
            m.d.comb += bus.read_data.eq(read_data)
            state, counter, domain = state_late, counter_late, "sync"
        loaded = self.loaded & ~self.clearing & ~self.load_wanted
        status = Cat(loaded, self.idle, self.memory.error)
        assert (Status.LOADED, Status.IDLE, Status.MEMORY_ERROR) == (1, 2, 4)
        whole = Cat(status, Const(0, 5), self.error)
        if self._beside:
            assert (Status.CHECKING, CHECK_ERROR_AT) == (8, 16)
            status = Cat(status, self.check_wanted, Const(0, 4), self.error)
            whole = Cat(status, Const(0, CHECK_ERROR_AT - len(status)), self.check_error)
        with m.Switch(bus.address):
            for register, value in {
                Register.ID: image.MAGIC,
                Register.VERSION: image.VERSION,
                Register.FINGERPRINT: self._config.fingerprint,
                Register.STATUS: whole,
                Register.IMAGE_BASE: self.base,
                Register.STATE_DATA: state,
            }.items():
                with m.Case(register):
                    m.d[domain] += read_data.eq(value)
            with m.Default():
                m.d[domain] += read_data.eq(counter)


def _bit(flag: Control) -> int:
    return int(flag).bit_length() - 1
