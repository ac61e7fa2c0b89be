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

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.events.write_back import output_layout
from stillnet.hw.fetch.image_loader import ImageLoader
from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.host.registers import Registers
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.image import BIAS_WORDS, Kind
from stillnet.sw.contract.registers import ADDRESS_BITS, Error, Region

from .cells import CompactCells, check_cell
from .counters import ROUND_CYCLES, CompactCounters

__all__ = ["CompactEngine"]

ACCESS_CYCLES = ROUND_CYCLES + 4
"""Cycles of an access to state or counters, more than any of the memories takes."""

LAYER_RECORDS = 8
MATRIX_RECORDS = 4
THRESHOLD_RECORD = 4
"""Looked up for each element; those before it once a step, those behind it are of no use here."""


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
        if config.second_threshold:
            raise ValueError("Compact engine has one threshold a vector, not a second one")
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
        config, s = self._config, Shapes(self._config)
        lanes, word_bits = config.lanes, config.word_bits
        m.submodules.loader = loader = ImageLoader(config, sum_bits=1)
        m.submodules.cells = cells = CompactCells(config)
        m.submodules.counters = counters = CompactCounters(config)
        memory = self.memory

        # -- what the state machine knows ---------------------------------------------------------

        row_bits = max(bits_for(s.rows - 1), bits_for(config.inputs - 1), 1)
        lane_bits = lanes.bit_length() - 1
        registers = Registers(
            config,
            self.registers,
            memory,
            access_cycles=ACCESS_CYCLES,
            index_bits=max(row_bits, s.accumulator_address + lane_bits),
        )
        loaded, clearing, error = registers.loaded, registers.clearing, registers.error
        load_wanted, clear_wanted = registers.load_wanted, registers.clear_wanted
        restoring = registers.restoring
        restore_exact, restore_second = registers.restore_exact, registers.restore_second
        base, verify, input_threshold = registers.base, registers.verify, registers.input_threshold
        state_region, state_index = registers.state_region, registers.state_index
        idle = registers.idle
        host_busy = Signal()  # the host has the state memories
        m.d.comb += [self.loaded.eq(loaded), self.refused.eq(error != Error.NONE)]

        hidden = Signal()  # a layer's vector is in progress, not the input
        layer = Signal(s.layer)
        # What is set before it is used has no reset: that would widen each of its enables.
        cell = Signal(4, reset_less=True)
        mode = Signal(Mode, reset_less=True)
        reload, output = Signal(reset_less=True), Signal(reset_less=True)
        shift, write_shift = Signal(5, reset_less=True), Signal(4, reset_less=True)
        last_layer = Signal()
        m.d.comb += last_layer.eq(layer == loader.layers - 1)

        matrix = Signal(s.matrix, reset_less=True)
        bias = Signal()  # columns are those of a bias
        bias_all = Signal()  # of all layers
        gates = Signal(s.gates, reset_less=True)
        stride = Signal(4, reset_less=True)

        # -- descriptors --------------------------------------------------------------------------

        matrices_at = LAYER_RECORDS * config.layers
        table_depth = matrices_at + MATRIX_RECORDS * config.matrices
        m.submodules.table = table = Memory(shape=unsigned(32), depth=table_depth, init=[])
        table_reader, table_writer = table.read_port(), table.write_port()
        table_place = Signal(range(table_depth))
        record = Signal(3)
        bus = self.registers
        write, write_data = bus.write_strobe, bus.write_data
        m.d.comb += [
            table_reader.addr.eq(table_place),
            table_writer.addr.eq(
                Mux(
                    loader.matrix_write,
                    matrices_at + loader.index * MATRIX_RECORDS + loader.record,
                    loader.index * LAYER_RECORDS + loader.record,
                )
            ),
            table_writer.data.eq(loader.value),
            table_writer.en.eq(loader.matrix_write | loader.layer_write),
        ]
        # There is no second encoder, and no second threshold.
        target = registers.threshold_select
        with m.If(registers.threshold_write & ~target[5]):
            m.d.comb += [
                table_writer.addr.eq((target[:5] - 1) * LAYER_RECORDS + THRESHOLD_RECORD),
                table_writer.data.eq(write_data),
                table_writer.en.eq(1),
            ]
        entry = table_reader.data

        def field(records: tuple[image.Record, ...], number: int, name: str) -> Any:
            position = 0
            for key, width in records[number].fields:
                if key == name:
                    return entry[position : position + width]
                position += width
            raise AssertionError(name)

        # -- vectors: state variables, references, the list of events ------------------------------

        # The upper half of the references is the input's.
        row = Signal(row_bits + 1, reset_less=True)
        index = Signal(16, reset_less=True)  # of the element in its vector
        left = Signal(range(max(config.units, config.inputs) + 1), reset_less=True)
        value = Signal(signed(ACTIVATION_BITS), reset_less=True)
        clear_value, host_write = Signal(), Signal()
        state_values = []
        for v, _ in enumerate(config.state_names):
            m.submodules[f"state{v}"] = state = Memory(
                shape=signed(ACTIVATION_BITS), depth=s.rows, init=[], attrs={"no_rw_check": 1}
            )
            state_reader, state_writer = state.read_port(), state.write_port()
            m.d.comb += [
                state_reader.addr.eq(row),
                cells.state[v].eq(state_reader.data),
                state_writer.addr.eq(row),
                state_writer.data.eq(Mux(cells.done, cells.following[v], value)),
                state_writer.en.eq(
                    (cells.done & cells.keeps[v])
                    | (clear_value & ~row[-1] & (row < s.rows))
                    | (host_write & (state_region == v))
                ),
            ]
            state_values.append(state_reader.data)
        m.submodules.references = references = Memory(
            shape=signed(ACTIVATION_BITS), depth=2 << row_bits, init=[], attrs={"no_rw_check": 1}
        )
        reference_reader, reference_writer = references.read_port(), references.write_port()
        reference_write, fire = Signal(), Signal()
        m.d.comb += [
            reference_reader.addr.eq(row),
            reference_writer.addr.eq(row),
            reference_writer.data.eq(Mux(reference_write & ~fire, 0, value)),
            reference_writer.en.eq(reference_write | clear_value | (host_write & state_region[3])),
        ]

        event_layout = data.StructLayout({"index": 16, "value": signed(EVENT_BITS)})
        most = max(config.units, config.inputs, 2)
        m.submodules.events = events = Memory(
            shape=event_layout, depth=most, init=[], attrs={"no_rw_check": 1}
        )
        event_reader, event_writer = events.read_port(), events.write_port()
        count = Signal(range(most + 1), reset_less=True)
        event = Signal(range(most + 1), reset_less=True)
        append = Signal()
        m.d.comb += [
            event_reader.addr.eq(event),
            event_writer.addr.eq(count),
            event_writer.en.eq(append),
        ]
        with m.If(append):
            m.d.sync += count.eq(count + 1)

        # -- encoder ------------------------------------------------------------------------------

        difference = Signal(signed(EVENT_BITS), reset_less=True)
        limit, magnitude = Signal(EVENT_BITS), Signal(EVENT_BITS)
        plain, encode = Signal(), Signal()  # mode; the vector is encoded at all
        m.d.comb += [
            plain.eq(Mux(hidden, mode, loader.mode) == Mode.NONZERO),
            encode.eq(~(restoring & restore_second)),
            limit.eq(
                Mux(restoring & restore_exact, 0, Mux(hidden, entry[:EVENT_BITS], input_threshold))
            ),
            magnitude.eq(Mux(difference < 0, -difference, difference)),
            fire.eq(encode & (magnitude != 0) & (magnitude >= limit)),
            event_writer.data.index.eq(index),
            event_writer.data.value.eq(difference),
        ]
        one_hot = loader.mode[1]
        token, new = Signal(16), Signal(16, reset_less=True)  # plus one
        same = Signal()
        m.d.comb += same.eq((loader.mode == Mode.ONE_HOT) & (token == new))
        one = Signal(signed(EVENT_BITS))
        m.d.comb += one.eq(1 << loader.one)

        # -- lanes: walk of a column, multiply, add -----------------------------------------------

        block_base = Signal(s.accumulator_address, reset_less=True)
        odd = Signal(
            reset_less=True
        )  # block, where that moves its accumulators (``image.accumulator_place``)
        rest = Signal(s.gates, reset_less=True)
        others = Signal(s.gates)
        walk_gate = Signal(range(max(2, s.gates)))
        byte = Signal(range(BIAS_WORDS), reset_less=True)
        words_left = Signal(range(BIAS_WORDS * config.accumulators + 1), reset_less=True)
        take, in_cell = Signal(), Signal()
        place, place0, place1 = (
            Signal(s.accumulator_address, name=f"place{i}", reset_less=True) for i in range(3)
        )
        m.d.comb += others.eq(rest & (rest - 1))
        for g in reversed(range(s.gates)):
            with m.If(rest[g]):
                m.d.comb += walk_gate.eq(g)
        turned = Signal(s.accumulator_address)
        m.d.comb += [
            turned.eq(block_base + Mux(in_cell, cells.gate, walk_gate)),
            place.eq(turned ^ odd),
        ]
        write0, write1 = Signal(), Signal()
        event_value = Signal(signed(EVENT_BITS), reset_less=True)
        word0 = Signal(word_bits, reset_less=True)
        with m.If(take):
            m.d.sync += word0.eq(memory.data.payload)
        byte_last = Signal()
        m.d.comb += byte_last.eq(~bias | (byte == BIAS_WORDS - 1))
        m.d.sync += [
            write0.eq(take),
            place0.eq(place),
            write1.eq(write0),
            place1.eq(place0),
        ]
        with m.If(take):
            m.d.sync += [byte.eq(byte + 1), words_left.eq(words_left - 1)]
            with m.If(byte_last):
                m.d.sync += rest.eq(others)
                with m.If(others == 0):
                    m.d.sync += [
                        rest.eq(gates),
                        block_base.eq(block_base + stride),
                        odd.eq(~odd & ~stride[0]),
                    ]
        walking, waiting = (
            Signal(),
            Signal(),
        )  # a word may come; it is a bias's, and one is on its way
        m.d.comb += waiting.eq(bias & (write0 | write1))
        sums = []
        for i in range(lanes):
            accumulators = Memory(
                shape=unsigned(ACCUMULATOR_BITS),
                depth=config.accumulators + config.accumulators % 2,
                init=[],
                attrs={"no_rw_check": 1},
            )
            m.submodules[f"lane{i}"] = accumulators
            reader, writer = accumulators.read_port(), accumulators.write_port()
            product = Signal(signed(EVENT_BITS + 8), name=f"product{i}", reset_less=True)
            total = Signal(ACCUMULATOR_BITS, name=f"total{i}")
            m.d.sync += product.eq(word0[8 * i :][:8].as_signed() * event_value)
            m.d.comb += [
                # No word meets the sum of one just before it: columns follow at a distance.
                reader.addr.eq(Mux(walking | write0, place0, place)),
                total.eq(reader.data + product),
                writer.addr.eq(place1),
                # The bytes of a bias come low first, and push each other down.
                writer.data.eq(Mux(bias, Cat(reader.data[8:], word0[8 * i :][:8]), total)),
                writer.en.eq(write1),
            ]
            sums.append(reader.data)
        lane = Signal(lane_bits, reset_less=True)
        m.d.comb += [
            cells.accumulator.eq(Array(sums)[lane].as_signed()),
            cells.kind.eq(cell),
            cells.shift.eq(shift),
        ]

        # -- memory port --------------------------------------------------------------------------

        address = Signal(config.address_bits, reset_less=True)
        offset = Signal(config.address_bits, reset_less=True)
        request = Signal()
        m.d.comb += [
            memory.read.valid.eq(Mux(loader.busy, loader.reads.valid, request)),
            memory.read.payload.address.eq(Mux(loader.busy, loader.reads.payload.address, address)),
            memory.read.payload.length.eq(
                Mux(loader.busy, loader.reads.payload.length, words_left)
            ),
            loader.reads.ready.eq(memory.read.ready),
            loader.words.payload.eq(memory.data.payload),
            loader.words.valid.eq(memory.data.valid & loader.busy),
            memory.data.ready.eq(Mux(loader.busy, loader.words.ready, walking & ~waiting)),
            take.eq(walking & ~waiting & memory.data.valid),
            loader.memory_error.eq(memory.error),
            loader.base.eq(base),
            loader.verify.eq(verify),
        ]

        # -- the step -----------------------------------------------------------------------------

        shifted = Signal(signed(ACTIVATION_BITS + 1), reset_less=True)
        shifts = Signal(4, reset_less=True)
        rounded = Signal(signed(ACTIVATION_BITS + 1))
        top = (1 << (ACTIVATION_BITS - 1)) - 1
        m.d.comb += rounded.eq((shifted + 1) >> 1)
        may_take = Signal()
        m.d.comb += may_take.eq(
            loaded & ~load_wanted & ~clear_wanted & ~host_busy & ~counters.pending
        )
        sweep_end = Signal()
        m.d.comb += sweep_end.eq(row.all())
        last_matrix = Signal()
        m.d.comb += last_matrix.eq(matrix == loader.matrices - 1)
        vector_done = Signal()

        def first_element() -> list[Any]:
            return [index.eq(0), count.eq(0)]

        def scan(of_bias: Any) -> list[Any]:
            return [matrix.eq(0), bias.eq(of_bias)]

        def present(number: int) -> Any:
            """The table shows a record of the matrix in the next cycle."""
            return table_place.eq(matrices_at + Cat(Const(number, 2), matrix))

        with m.FSM(name="step") as step:
            with m.State("IDLE"):
                # The host's accesses go through the same addresses.
                m.d.sync += [
                    row.eq(Cat(state_index[:row_bits], state_region == Region.INPUT)),
                    block_base.eq(state_index >> lane_bits),
                    lane.eq(state_index[:lane_bits]),
                    odd.eq(0),
                    rest.eq(1),
                    hidden.eq(0),
                    layer.eq(0),
                    left.eq(loader.inputs),
                    *first_element(),
                ]
                with m.If(load_wanted):
                    m.d.sync += [loaded.eq(0), load_wanted.eq(0)]
                    m.d.comb += loader.start.eq(1)
                    m.next = "LOAD"
                with m.Elif(clear_wanted):
                    m.d.sync += clear_wanted.eq(0)
                    with m.If(loaded):
                        m.d.sync += [clearing.eq(1), row.eq(0), value.eq(0)]
                        m.next = "CLEAR"
                m.d.comb += self.inputs.ready.eq(may_take)
                with m.If(may_take & self.inputs.valid):
                    m.d.sync += [
                        value.eq(self.inputs.payload),
                        new.eq(self.inputs.payload + 1),
                        row.eq(1 << row_bits),
                    ]
                    m.next = "REFERENCE"
                    with m.If(one_hot):
                        m.next = "OLD_TOKEN"
                with m.If(write & registers.is_state):
                    m.d.sync += value.eq(write_data)

            with m.State("LOAD"), m.If(loader.done):
                m.d.sync += [error.eq(loader.error), input_threshold.eq(loader.threshold)]
                m.next = "IDLE"
                with m.If(loader.error == Error.NONE):
                    m.d.sync += [clearing.eq(1), row.eq(0), value.eq(0)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += clear_value.eq(1)
                m.d.sync += row.eq(row + 1)
                with m.If(sweep_end):
                    m.d.sync += [token.eq(0), bias_all.eq(1), *scan(1)]
                    m.next = "SCAN"

            # a vector from the host: the input, or a layer's
            with m.State("ELEMENT"):
                m.d.comb += self.inputs.ready.eq(1)
                m.d.sync += value.eq(self.inputs.payload)
                with m.If(self.inputs.valid):
                    m.next = "REFERENCE"
            with m.State("OLD_TOKEN"):
                m.d.comb += [
                    event_writer.data.index.eq(token - 1),
                    event_writer.data.value.eq(-one),
                    append.eq(encode & (loader.mode == Mode.ONE_HOT) & (token != 0) & ~same),
                ]
                with m.If(encode):
                    m.d.sync += token.eq(new)
                m.d.sync += [*scan(0)]
                m.next = "TOKEN"
                with m.If(same):
                    m.d.comb += vector_done.eq(1)
                    m.next = "SCAN"
            with m.State("TOKEN"):
                m.d.comb += [
                    event_writer.data.index.eq(token - 1),
                    event_writer.data.value.eq(one),
                    append.eq(encode & (token != 0)),
                    vector_done.eq(1),
                ]
                m.next = "SCAN"

            # an element's event
            with m.State("REFERENCE"):
                m.next = "DIFFERENCE"
            with m.State("DIFFERENCE"):
                m.d.sync += difference.eq(value - Mux(plain, 0, reference_reader.data))
                m.d.comb += table_place.eq(Cat(Const(THRESHOLD_RECORD, 3), layer))
                m.next = "ENCODE"
            with m.State("ENCODE"):
                m.d.comb += [append.eq(fire), reference_write.eq(fire | (plain & encode))]
                m.next = "NEXT"
                with m.If(hidden & output & ~restoring):
                    m.next = "OUTPUT"
            with m.State("OUTPUT"):
                m.d.comb += self.outputs.valid.eq(1)
                with m.If(self.outputs.ready):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [row.eq(row + 1), index.eq(index + 1), left.eq(left - 1)]
                m.d.sync += lane.eq(lane + 1)
                with m.If(lane.all()):
                    m.d.sync += [
                        block_base.eq(block_base + stride),
                        odd.eq(~odd & ~stride[0]),
                    ]
                with m.If(left == 1):
                    m.d.comb += vector_done.eq(1)
                    m.d.sync += [*scan(hidden & reload)]
                    m.next = "SCAN"
                with m.Elif(hidden & ~restoring):
                    m.next = "UNIT"
                with m.Else():
                    m.next = "ELEMENT"

            # a layer's cell
            with m.State("LAYER"):
                m.d.comb += table_place.eq(Cat(record, layer))
                m.d.sync += record.eq(record + 1)
                with m.Switch(record):
                    with m.Case(1):
                        m.d.sync += [
                            cell.eq(field(image.LAYER, 0, "cell")),
                            mode.eq(field(image.LAYER, 0, "mode")),
                            reload.eq(field(image.LAYER, 0, "reload")),
                            output.eq(field(image.LAYER, 0, "output")),
                        ]
                    with m.Case(2):
                        m.d.sync += left.eq(field(image.LAYER, 1, "units"))
                    with m.Case(3):
                        m.d.sync += [
                            block_base.eq(field(image.LAYER, 2, "accumulator_base")),
                            row.eq(field(image.LAYER, 2, "unit_base")),
                        ]
                    with m.Case(4):
                        m.d.sync += [
                            shift.eq(field(image.LAYER, 3, "shift")),
                            write_shift.eq(field(image.LAYER, 3, "write_shift")),
                        ]
                strides = Array([len(CELLS[c].accumulators) for c in config.cells])
                m.d.sync += [hidden.eq(1), odd.eq(0), lane.eq(0), stride.eq(strides[cell])]
                m.d.sync += [*first_element()]
                with m.If(record == THRESHOLD_RECORD):
                    m.d.sync += record.eq(0)
                    m.next = "UNIT"
                    with m.If(restoring):
                        m.next = "ELEMENT"
            with m.State("UNIT"):
                m.d.comb += cells.start.eq(1)
                m.d.sync += shifts.eq(write_shift)
                m.next = "CELL"
            with m.State("CELL"):
                m.d.sync += shifted.eq(cells.result << 1)
                with m.If(cells.done):
                    m.next = "SHIFT"
            with m.State("SHIFT"):
                m.d.sync += [
                    value.eq(Mux(rounded > top, top, rounded)),
                    shifts.eq(shifts - 1),
                    shifted.eq(shifted >> 1),
                ]
                with m.If(shifts == 0):
                    m.next = "REFERENCE"

            # matrices that the events go to, or biases
            with m.State("SCAN"):
                m.d.comb += present(0)
                m.next = "MATRIX"
            with m.State("MATRIX"):
                source = Signal(5)
                fits = Signal()
                m.d.comb += source.eq(Mux(hidden, layer + 1, 0))
                with m.If(bias):
                    m.d.comb += fits.eq(
                        (field(image.MATRIX, 0, "kind") == Kind.BIAS)
                        & (bias_all | (field(image.MATRIX, 0, "target") == layer))
                    )
                with m.Else():
                    m.d.comb += fits.eq(
                        (field(image.MATRIX, 0, "kind") != Kind.BIAS)
                        & (field(image.MATRIX, 0, "source") == source)
                        & (count != 0)
                    )
                m.d.sync += [gates.eq(field(image.MATRIX, 0, "gates")), event.eq(0)]
                m.next = "AFTER"
                with m.If(fits):
                    m.next = "COLUMN"
            # One column. What it needs of the matrix is looked up again each time: registers are
            # dearer than the cycles, which also let the words of the one before reach their sums.
            with m.State("COLUMN"):
                m.d.comb += present(2)
                m.next = "EVENT"
                with m.If(Mux(bias, event != 0, event == count)):
                    m.next = "AFTER"
            with m.State("EVENT"):
                column_words = field(image.MATRIX, 2, "column_words")
                m.d.comb += present(1)
                m.d.sync += [
                    event_value.eq(event_reader.data.value),
                    offset.eq(Mux(bias, 0, event_reader.data.index * column_words)),
                    event.eq(event + 1),
                    words_left.eq(column_words),
                ]
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += present(3)
                m.d.sync += [
                    address.eq(base + field(image.MATRIX, 1, "base") + offset),
                    rest.eq(gates),
                    odd.eq(0),
                    byte.eq(0),
                ]
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [present(3), request.eq(1)]
                m.d.sync += [
                    block_base.eq(field(image.MATRIX, 3, "accumulator_base")),
                    stride.eq(field(image.MATRIX, 3, "stride")),
                ]
                with m.If(memory.read.ready):
                    m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += walking.eq(1)
                with m.If(take & (words_left == 1)):
                    m.next = "COLUMN"
            with m.State("AFTER"):
                m.d.sync += matrix.eq(matrix + 1)
                m.next = "SCAN"
                with m.If(last_matrix):
                    m.d.sync += [matrix.eq(0), bias.eq(0)]
                    with m.If(bias_all):
                        m.d.sync += [bias_all.eq(0), clearing.eq(0), loaded.eq(1)]
                        m.next = "IDLE"
                    with m.Elif(~bias):
                        m.d.sync += layer.eq(Mux(hidden, layer + 1, 0))
                        m.next = "LAYER"
                        with m.If(hidden & last_layer):
                            m.d.sync += restoring.eq(0)
                            m.next = "IDLE"
        m.d.comb += in_cell.eq(step.ongoing("UNIT") | step.ongoing("CELL"))
        output_last = Signal()
        m.d.comb += [
            self.outputs.payload.data.eq(value),
            self.outputs.payload.last.eq(left == 1),
            output_last.eq(self.outputs.valid & self.outputs.ready & (left == 1)),
        ]

        # -- registers ----------------------------------------------------------------------------

        m.d.comb += idle.eq(step.ongoing("IDLE") & loaded & ~clear_wanted & ~load_wanted)
        slow = registers.is_state | bus.address[4]  # counters
        registers.answer(m, slow, ready=counters.readable)
        m.d.comb += host_busy.eq(registers.is_state & registers.active)
        m.d.sync += host_write.eq(idle & write & registers.is_state)
        with m.If(host_write & (state_region == Region.INPUT) & one_hot):
            m.d.sync += token.eq(value)

        state_value = Signal(32)
        with m.Switch(state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += state_value.eq(cells.accumulator)
            with m.Case(Region.REFERENCE, Region.INPUT):
                m.d.comb += state_value.eq(reference_reader.data)
                with m.If((state_region == Region.INPUT) & one_hot):
                    m.d.comb += state_value.eq(token)
            for v, old in enumerate(state_values):
                with m.Case(Region.STATE + v):
                    m.d.comb += state_value.eq(old)
        registers.reads(m, state_value, counters.value)

        # -- counters -----------------------------------------------------------------------------

        m.d.comb += [
            counters.address.eq(bus.address),
            counters.select.eq(registers.events_select),
            counters.clear.eq(registers.clear_counters),
            counters.active.eq(~step.ongoing("IDLE") & loaded & ~clearing),
            counters.word.eq(take),
            counters.starved.eq(walking & ~memory.data.valid),
            counters.saturated.eq(cells.done & cells.clipped),
            counters.accepted.eq(step.ongoing("IDLE") & may_take & self.inputs.valid),
            counters.output_last.eq(output_last),
            counters.vector_done.eq(vector_done),
            counters.source.eq(Mux(hidden, layer + 1, 0)),
            # `count` is one short while the last element's event is added.
            counters.total.eq(count + append),
        ]
        return m
