"""Counters: cycles, words, what the port waited for, events by source."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from stillnet.hw.parts.host_interfaces import (
    CounterReadSignature,
    CycleSignature,
    StepBoundsSignature,
)
from stillnet.hw.parts.interfaces import InputEncodedSignature, VectorEncodedSignature
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import COUNTERS, Register

__all__ = ["Counters"]


class Counters(wiring.Component):
    """The engine's counters, 32 bits each.

    While the engine is active, every cycle counts as exactly one of: a word, a stall for the cell,
    a stall for memory, a stall for events.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    clear : In(1)
        Sets all counters to 0.
    cycle : In(CycleSignature)
        What happened in this cycle.
    step : In(StepBoundsSignature)
        Where steps begin and end.
    input : In(InputEncodedSignature)
        An input vector was encoded.
    vector : In(VectorEncodedSignature)
        A hidden vector was encoded.
    late_input, late_vector : In(16)
        Only in engines with budgets: events of those vectors that were refused.
    read : In(CounterReadSignature)
        One counter; its value comes in the same cycle, that of an event counter two cycles later.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "cycle": In(CycleSignature(config)),
                "step": In(StepBoundsSignature()),
                "input": In(InputEncodedSignature()),
                "vector": In(VectorEncodedSignature(config)),
                "read": In(CounterReadSignature()),
                **({"late_input": In(16), "late_vector": In(16)} if config.budgets else {}),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value = {r: Signal(32, name=r.name.lower()) for r in COUNTERS}
        # What is counted comes from far away, so it is counted a cycle later, and cleared as late.
        clear = Signal()
        m.d.sync += clear.eq(self.clear)
        self._cycles(m, value)
        self._latency(m, value[Register.LATENCY])
        events = self._events(m, clear)
        late = self._late(m, clear) if self._config.budgets else None
        with m.Switch(self.read.address):
            for register, signal in value.items():
                with m.Case(register):
                    m.d.comb += self.read.value.eq(signal)
            with m.Case(Register.EVENTS):
                m.d.comb += self.read.value.eq(events)
            if late is not None:
                with m.Case(Register.LATE):
                    m.d.comb += self.read.value.eq(late)
        with m.If(clear):
            m.d.sync += [signal.eq(0) for signal in value.values()]
        return m

    def _cycles(self, m: Module, value: dict[Register, Signal]) -> None:
        """Cycles by cause, saturated results and steps."""
        cycle = self.cycle
        quiet = ~(cycle.word | cycle.held | cycle.starved)
        for register, amount in (
            (Register.CYCLES, cycle.active),
            (Register.WORDS, cycle.active & cycle.word),
            (Register.WORDS_HOT, cycle.active & cycle.hot_word),
            (Register.STALL_CELL, cycle.active & cycle.held),
            (Register.STALL_MEMORY, cycle.active & cycle.starved),
            (Register.STALL_EVENTS, cycle.active & quiet),
            (Register.SATURATIONS, cycle.saturated),
            (Register.STEPS, self.step.output_last),
        ):
            late = Signal(len(amount), name=f"{register.name.lower()}_late")
            m.d.sync += [late.eq(amount), value[register].eq(value[register] + late)]

    def _latency(self, m: Module, value: Signal) -> None:
        """Cycles of the latest step that began while nothing was in progress."""
        timing = Signal()
        elapsed = Signal(32)
        begins, ends = Signal(), Signal()  # both a cycle late
        m.d.sync += [
            elapsed.eq(elapsed + 1),
            begins.eq(self.step.accepted & self.step.was_idle),
            ends.eq(self.step.output_last),
        ]
        with m.If(begins):
            m.d.sync += [timing.eq(1), elapsed.eq(1)]
        with m.If(timing & ends):
            m.d.sync += [timing.eq(0), value.eq(elapsed + 1)]

    def _events(self, m: Module, clear: Signal) -> Signal:
        """The selected event counter: a register for the input, memories for the layers."""
        s, vector, select = Shapes(self._config), self.vector, self.read.select
        input_events = Signal(32)
        with m.If(self.input.last):
            m.d.sync += input_events.eq(input_events + self.input.total)
        sweep = Signal(s.layer + 1)  # clearing, one layer per cycle
        sweeping = Signal()
        m.d.comb += sweeping.eq(~sweep[-1])
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
        with m.If(clear):
            m.d.sync += [input_events.eq(0), sweep.eq(0)]
        update = Signal()
        update_layer = Signal(s.layer)
        m.d.sync += [update.eq(vector.last), update_layer.eq(vector.layer)]
        of_layer = []
        totals = [vector.total, vector.second_total]
        for k, total in enumerate(totals[: 2 if self._config.second_threshold else 1]):
            memory = Memory(shape=unsigned(32), depth=1 << s.layer, init=[])
            m.submodules[f"events{k}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            amount = Signal(16, name=f"amount{k}")
            m.d.sync += amount.eq(total)
            m.d.comb += [
                reader.addr.eq(Mux(vector.last, vector.layer, select - 1)),
                writer.addr.eq(Mux(sweeping, sweep, update_layer)),
                writer.data.eq(Mux(sweeping, 0, reader.data + amount)),
                writer.en.eq(sweeping | update),
            ]
            of_layer.append(reader.data)
        events = Signal(32)
        m.d.comb += events.eq(of_layer[0])
        with m.If(select[5]):
            m.d.comb += events.eq(of_layer[-1])
        with m.If(select == 0):
            m.d.comb += events.eq(input_events)
        return events

    def _late(self, m: Module, clear: Signal) -> Signal:
        """The selected counter of late events: registers, because budgets are few."""
        late = [Signal(32, name=f"late{i}") for i in range(self._config.layers + 1)]
        with m.If(self.input.last):
            m.d.sync += late[0].eq(late[0] + self.late_input)
        for i, counter in enumerate(late[1:]):
            with m.If(self.vector.last & (self.vector.layer == i)):
                m.d.sync += counter.eq(counter + self.late_vector)
        with m.If(clear):
            m.d.sync += [counter.eq(0) for counter in late]
        found = Signal(32)
        m.d.sync += found.eq(Array(late)[self.read.select[:5]])
        return found
