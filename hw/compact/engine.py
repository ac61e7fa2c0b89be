"""The engine for small parts: the same images and integers, one thing after the other.

::

    inputs -> [encode] -> events -> [columns] -> lanes -> accumulators
                 ^                                            |
              outputs <--- [write shift] <--- [cell] <--------+

One state machine walks through a step as the reference does: the input vector, its columns, then
for each layer its cell unit by unit and the columns of its events. Nothing overlaps, so there are
no rules about what may, and no queues: a step takes the sum of its parts. That suits a part with a
few thousand LUTs and a memory of its own, where a column of a hundred words still fills nine tenths
of its time with words.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.layouts import output_layout
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.image import BIAS_WORDS
from stillnet.sw.contract.registers import ADDRESS_BITS, Error, Region

from .cells import check_cell
from .signals import LAYER_RECORDS, MATRIX_RECORDS, Signals
from .step import THRESHOLD_RECORD, Step

__all__ = ["CompactEngine"]


class CompactEngine(wiring.Component):
    """An engine with the ports, registers and images of :class:`.Engine`, two fifths of its size.

    Parameters
    ----------
    config : EngineConfig
        With ``cell_width = 1`` and one threshold a vector. What it says of columns and words in
        flight has no meaning here.

    Members
    -------
    inputs : In(stream of 16 bits)
        Elements of input vectors, one after the other, or tokens.
    outputs : Out(stream of ``output_layout``)
        Elements of output vectors; ``last`` marks the last one.
    registers : In(RegisterBusSignature)
        ``contract.registers``.
    memory : Out(MemoryPortSignature)
    loaded, refused : Out(1)
        An image is loaded; the last one was refused.

    Raises
    ------
    ValueError
        If the configuration asks for what only :class:`.Engine` has.
    """

    def __init__(self, config: EngineConfig) -> None:
        for field in ("int4", "sparse", "row_scale", "element_thresholds"):
            if getattr(config, field):
                raise StillnetError(
                    f"the compact engine reads dense int8 columns only; leave "
                    f"{'formats' if field == 'sparse' else field} out of '{config.name}'"
                )
        if config.cell_width != 1:
            raise ValueError(f"Compact engine needs a cell width of 1, not {config.cell_width}")
        if config.budgets:
            raise StillnetError(
                f"the compact engine keeps no budgets; leave budgets out of '{config.name}'"
            )
        if config.second_threshold:
            raise ValueError("Compact engine has one threshold a vector, not a second one")
        if config.hot_words:
            raise ValueError(
                f"Compact engine has no hot store, not one of {config.hot_words} words"
            )
        if config.cell_sharing != 1:
            raise ValueError("Compact engine has one multiplier for its cells; share none")
        for name in config.cells:
            check_cell(name)
        self._config = config
        super().__init__(
            {
                "inputs": In(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": Out(stream.Signature(output_layout())),
                "registers": In(RegisterBusSignature(ADDRESS_BITS)),
                "memory": Out(MemoryPortSignature(config.address_bits, config.word_bits)),
                "loaded": Out(1),
                "refused": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = Signals(m, self._config, self.registers, self.memory)
        registers = x.registers
        m.d.comb += [
            self.loaded.eq(registers.loaded),
            self.refused.eq(registers.error != Error.NONE),
        ]
        self._table(m, x)
        self._vectors(m, x)
        self._encoder(m, x)
        self._walk(m, x)
        self._sums(m, x)
        self._memory_port(m, x)
        Step(x, self.inputs, self.outputs).add_to(m)
        self._registers(m, x)
        self._count(m, x)
        return m

    def _table(self, m: Module, x: Signals) -> None:
        """Descriptors: written by the loader, and where the host sets a threshold."""
        descriptors, registers, writer = x.loader.descriptors, x.registers, x.table_writer
        m.d.comb += [
            x.table_reader.addr.eq(x.table_place),
            writer.addr.eq(
                Mux(
                    descriptors.matrix_write,
                    x.matrices_at + descriptors.index * MATRIX_RECORDS + descriptors.record,
                    descriptors.index * LAYER_RECORDS + descriptors.record,
                )
            ),
            writer.data.eq(descriptors.value),
            writer.en.eq(descriptors.matrix_write | descriptors.layer_write),
        ]
        # There is no second encoder, and no second threshold.
        target = registers.threshold_select
        with m.If(registers.threshold_write & ~target[5]):
            m.d.comb += [
                writer.addr.eq((target[:5] - 1) * LAYER_RECORDS + THRESHOLD_RECORD),
                writer.data.eq(self.registers.write_data),
                writer.en.eq(1),
            ]

    def _vectors(self, m: Module, x: Signals) -> None:
        """State variables, references, and the list of events."""
        cells, region = x.cells, x.registers.state_region
        for v, (reader, writer) in enumerate(x.states):
            m.d.comb += [
                reader.addr.eq(x.row),
                cells.state[v].eq(reader.data),
                writer.addr.eq(x.row),
                writer.data.eq(Mux(cells.done, cells.following[v], x.value)),
                writer.en.eq(
                    (cells.done & cells.keeps[v])
                    | (x.clear_value & ~x.row[-1] & (x.row < x.shapes.rows))
                    | (x.host_write & (region == v))
                ),
            ]
        reader, writer = x.reference_reader, x.reference_writer
        m.d.comb += [
            reader.addr.eq(x.row),
            writer.addr.eq(x.row),
            writer.data.eq(Mux(x.reference_write & ~x.fire, 0, x.value)),
            writer.en.eq(x.reference_write | x.clear_value | (x.host_write & region[3])),
        ]
        m.d.comb += [
            x.event_reader.addr.eq(x.event),
            x.event_writer.addr.eq(x.count),
            x.event_writer.en.eq(x.append),
        ]
        with m.If(x.append):
            m.d.sync += x.count.eq(x.count + 1)

    def _encoder(self, m: Module, x: Signals) -> None:
        """Whether the element is an event, and which."""
        loader, registers = x.loader, x.registers
        restoring = registers.restoring
        limit, magnitude = Signal(EVENT_BITS), Signal(EVENT_BITS)
        threshold = Mux(x.hidden, x.entry[:EVENT_BITS], registers.input_threshold)
        m.d.comb += [
            x.plain.eq(Mux(x.hidden, x.mode, loader.input.mode) == Mode.NONZERO),
            x.encode.eq(~(restoring & registers.restore_second)),
            limit.eq(Mux(restoring & registers.restore_exact, 0, threshold)),
            magnitude.eq(Mux(x.difference < 0, -x.difference, x.difference)),
            x.fire.eq(x.encode & (magnitude != 0) & (magnitude >= limit)),
            x.event_writer.data.index.eq(x.index),
            x.event_writer.data.value.eq(x.difference),
            x.same.eq((loader.input.mode == Mode.ONE_HOT) & (x.token == x.new)),
            x.one.eq(1 << loader.input.one),
        ]

    def _walk(self, m: Module, x: Signals) -> None:
        """Where the words of a column go: gate by gate, then the next block."""
        others = Signal(x.shapes.gates)
        m.d.comb += others.eq(x.rest & (x.rest - 1))
        byte_last = Signal()
        m.d.comb += byte_last.eq(~x.bias | (x.byte == BIAS_WORDS - 1))
        with m.If(x.take):
            m.d.sync += [x.byte.eq(x.byte + 1), x.words_left.eq(x.words_left - 1)]
            with m.If(byte_last):
                m.d.sync += x.rest.eq(others)
                with m.If(others == 0):
                    m.d.sync += [
                        x.rest.eq(x.gates),
                        x.block_base.eq(x.block_base + x.stride),
                        x.odd.eq(~x.odd & ~x.stride[0]),
                    ]

    def _sums(self, m: Module, x: Signals) -> None:
        """Multiplies and adds, in three cycles from a word to its accumulators."""
        s, config, cells = x.shapes, x.config, x.cells
        walk_gate = Signal(range(max(2, s.gates)))
        for g in reversed(range(s.gates)):
            with m.If(x.rest[g]):
                m.d.comb += walk_gate.eq(g)
        place = Signal(s.accumulator_address)
        place0, place1 = (Data(s.accumulator_address, name=f"place{i}") for i in range(2))
        turned = Signal(s.accumulator_address)
        write0, write1 = Signal(), Signal()
        word0 = Data(config.word_bits)
        m.d.comb += [
            turned.eq(x.block_base + Mux(x.in_cell, cells.gate, walk_gate)),
            place.eq(turned ^ x.odd),
            x.waiting.eq(x.bias & (write0 | write1)),
        ]
        with m.If(x.take):
            m.d.sync += word0.eq(self.memory.data.payload)
        m.d.sync += [write0.eq(x.take), place0.eq(place), write1.eq(write0), place1.eq(place0)]
        for i, (reader, writer) in enumerate(x.sums):
            product = Data(signed(EVENT_BITS + 8), name=f"product{i}")
            total = Signal(ACCUMULATOR_BITS, name=f"total{i}")
            byte = word0[8 * i :][:8]
            m.d.sync += product.eq(byte.as_signed() * x.event_value)
            m.d.comb += [
                # No word meets the sum of the word just before it: columns keep a distance.
                reader.addr.eq(Mux(x.walking | write0, place0, place)),
                total.eq(reader.data + product),
                writer.addr.eq(place1),
                # The bytes of a bias come low first, and push each other down.
                writer.data.eq(Mux(x.bias, Cat(reader.data[8:], byte), total)),
                writer.en.eq(write1),
            ]
        sums = Array([reader.data for reader, _ in x.sums])
        m.d.comb += [
            cells.accumulator.eq(sums[x.lane].as_signed()),
            cells.kind.eq(x.cell),
            cells.shift.eq(x.shift),
        ]

    def _memory_port(self, m: Module, x: Signals) -> None:
        """The port is the loader's while it is busy, else that of the columns."""
        loader, memory = x.loader, self.memory
        read, loading = memory.read.payload, loader.control.busy
        wanted = x.walking & ~x.waiting
        m.d.comb += [
            memory.read.valid.eq(Mux(loading, loader.reads.valid, x.request)),
            read.address.eq(Mux(loading, loader.reads.payload.address, x.address)),
            read.length.eq(Mux(loading, loader.reads.payload.length, x.words_left)),
            loader.reads.ready.eq(memory.read.ready),
            loader.words.payload.eq(memory.data.payload),
            loader.words.valid.eq(memory.data.valid & loading),
            memory.data.ready.eq(Mux(loading, loader.words.ready, wanted)),
            x.take.eq(wanted & memory.data.valid),
            loader.memory_error.eq(memory.error),
            loader.control.base.eq(x.registers.base),
            loader.control.verify.eq(x.registers.verify),
        ]

    def _registers(self, m: Module, x: Signals) -> None:
        """The host's side."""
        bus, registers = self.registers, x.registers
        slow = registers.is_state | bus.address[4]  # counters
        registers.answer(m, slow, ready=x.counters.readable)
        m.d.comb += x.host_busy.eq(registers.is_state & registers.active)
        m.d.sync += x.host_write.eq(registers.idle & bus.write_strobe & registers.is_state)
        is_input = registers.state_region == Region.INPUT
        with m.If(x.host_write & is_input & x.one_hot):
            m.d.sync += x.token.eq(x.value)
        state_value = Signal(32)
        with m.Switch(registers.state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += state_value.eq(x.cells.accumulator)
            with m.Case(Region.REFERENCE, Region.INPUT):
                m.d.comb += state_value.eq(x.reference_reader.data)
                with m.If(is_input & x.one_hot):
                    m.d.comb += state_value.eq(x.token)
            for v, (reader, _) in enumerate(x.states):
                with m.Case(Region.STATE + v):
                    m.d.comb += state_value.eq(reader.data)
        registers.reads(m, state_value, x.counters.read.value)

    def _count(self, m: Module, x: Signals) -> None:
        """What the counters count, apart from what the step tells them."""
        counters, registers, outputs = x.counters, x.registers, self.outputs
        read, vector = counters.read, counters.vector
        output_last = outputs.valid & outputs.ready & (x.left == 1)
        m.d.comb += [
            outputs.payload.data.eq(x.value),
            outputs.payload.last.eq(x.left == 1),
            read.address.eq(self.registers.address),
            read.select.eq(registers.events_select),
            counters.clear.eq(registers.clear_counters),
            counters.word.eq(x.take),
            counters.starved.eq(x.walking & ~self.memory.data.valid),
            counters.saturated.eq(x.cells.done & x.cells.clipped),
            counters.output_last.eq(output_last),
            vector.done.eq(x.vector_done),
            vector.source.eq(Mux(x.hidden, x.layer + 1, 0)),
            # `count` is one short while the event of the last element is added.
            vector.total.eq(x.count + x.append),
        ]
