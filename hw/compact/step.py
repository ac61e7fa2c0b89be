"""The state machine of the compact engine: it walks through a step as the reference does.

::

    IDLE -> input vector -> its columns -> +-> layer: bias or none -> units -> columns -+-> IDLE
                                           +<------------------------------------------+

The states stand in the order in which a step meets them.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed

from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.registers import Error, Region

from .signals import Signals

__all__ = ["THRESHOLD_RECORD", "Step"]

THRESHOLD_RECORD, _ = image.find_field(image.LAYER, "threshold")
"""Looked up for each element; those before it once per step, those after it are of no use here."""


class Step:
    """The state machine as statements for the engine's module.

    Parameters
    ----------
    x : Signals
    inputs, outputs
        Streams of the engine.
    """

    def __init__(self, x: Signals, inputs: Any, outputs: Any) -> None:
        self.x, self.inputs, self.outputs = x, inputs, outputs
        self._may_take = Signal()
        self._rounded = Signal(signed(ACTIVATION_BITS + 1))

    def add_to(self, m: Module) -> None:
        """Adds the machine, and what is true while it is in certain states."""
        x, registers, counters = self.x, self.x.registers, self.x.counters
        m.d.comb += [
            x.last_layer.eq(x.layer == x.loader.image.layers - 1),
            x.last_matrix.eq(x.matrix == x.loader.image.matrices - 1),
            self._rounded.eq((x.shifted + 1) >> 1),
            self._may_take.eq(
                registers.loaded
                & ~registers.load_wanted
                & ~registers.clear_wanted
                & ~x.host_busy
                & ~counters.vector.pending
            ),
        ]
        with m.FSM(name="step") as step:
            self._idle(m)
            self._load(m)
            self._take_input(m)
            self._token(m)
            self._element(m)
            self._next_element(m)
            self._layer(m)
            self._unit(m)
            self._matrix(m)
            self._column(m)
            self._words(m)
            self._after(m)
        idle = step.ongoing("IDLE")
        m.d.comb += [
            x.in_cell.eq(step.ongoing("UNIT") | step.ongoing("CELL")),
            registers.idle.eq(
                idle & registers.loaded & ~registers.clear_wanted & ~registers.load_wanted
            ),
            counters.active.eq(~idle & registers.loaded & ~registers.clearing),
            counters.accepted.eq(idle & self._may_take & self.inputs.valid),
        ]

    # -- statements that several states make ------------------------------------------------------

    def _first_element(self) -> list[Any]:
        return [self.x.index.eq(0), self.x.count.eq(0)]

    def _scan(self, of_bias: Any) -> list[Any]:
        return [self.x.matrix.eq(0), self.x.bias.eq(of_bias)]

    def _clear(self) -> list[Any]:
        return [self.x.registers.clearing.eq(1), self.x.row.eq(0), self.x.value.eq(0)]

    def _present(self, number: int) -> Any:
        """The table shows a record of the matrix in the next cycle."""
        return self.x.table_place.eq(self.x.matrices_at + Cat(Const(number, 2), self.x.matrix))

    def _layer_field(self, number: int, name: str) -> Any:
        return self.x.entry[image.LAYER[number].slice(name)]

    def _matrix_field(self, number: int, name: str) -> Any:
        return self.x.entry[image.MATRIX[number].slice(name)]

    # -- between steps ----------------------------------------------------------------------------

    def _idle(self, m: Module) -> None:
        x, registers, inputs, may_take = self.x, self.x.registers, self.inputs, self._may_take
        index = registers.state_index
        with m.State("IDLE"):
            # The host's accesses go through the same addresses.
            m.d.sync += [
                x.row.eq(Cat(index[: x.row_bits], registers.state_region == Region.INPUT)),
                x.block_base.eq(index >> x.lane_bits),
                x.lane.eq(index[: x.lane_bits]),
                x.odd.eq(0),
                x.rest.eq(1),
                x.hidden.eq(0),
                x.layer.eq(0),
                x.left.eq(x.loader.input.size),
                *self._first_element(),
            ]
            with m.If(registers.load_wanted):
                m.d.sync += [registers.loaded.eq(0), registers.load_wanted.eq(0)]
                m.d.comb += x.loader.control.start.eq(1)
                m.next = "LOAD"
            with m.Elif(registers.clear_wanted):
                m.d.sync += registers.clear_wanted.eq(0)
                with m.If(registers.loaded):
                    m.d.sync += self._clear()
                    m.next = "CLEAR"
            m.d.comb += inputs.ready.eq(may_take)
            with m.If(may_take & inputs.valid):
                m.d.sync += [
                    x.value.eq(inputs.payload),
                    x.new.eq(inputs.payload + 1),
                    x.row.eq(1 << x.row_bits),
                ]
                m.next = "REFERENCE"
                with m.If(x.one_hot):
                    m.next = "OLD_TOKEN"
            with m.If(x.bus.write_strobe & registers.is_state):
                m.d.sync += x.value.eq(x.bus.write_data)

    def _load(self, m: Module) -> None:
        x, registers, loader = self.x, self.x.registers, self.x.loader
        with m.State("LOAD"), m.If(loader.control.done):
            m.d.sync += [
                registers.error.eq(loader.control.error),
                registers.input_threshold.eq(loader.threshold),
            ]
            m.next = "IDLE"
            with m.If(loader.control.error == Error.NONE):
                m.d.sync += self._clear()
                m.next = "CLEAR"
        with m.State("CLEAR"):
            m.d.comb += x.clear_value.eq(1)
            m.d.sync += x.row.eq(x.row + 1)
            with m.If(x.row.all()):
                m.d.sync += [x.token.eq(0), x.bias_all.eq(1), *self._scan(1)]
                m.next = "SCAN"

    # -- a vector and its events ------------------------------------------------------------------

    def _take_input(self, m: Module) -> None:
        """An element from the host: of the input, or of a layer in a restore."""
        with m.State("ELEMENT"):
            m.d.comb += self.inputs.ready.eq(1)
            m.d.sync += self.x.value.eq(self.inputs.payload)
            with m.If(self.inputs.valid):
                m.next = "REFERENCE"

    def _token(self, m: Module) -> None:
        x = self.x
        event = x.event_writer.data
        with m.State("OLD_TOKEN"):
            one_hot = x.loader.input.mode == Mode.ONE_HOT
            m.d.comb += [
                event.index.eq(x.token - 1),
                event.value.eq(-x.one),
                x.append.eq(x.encode & one_hot & (x.token != 0) & ~x.same),
            ]
            with m.If(x.encode):
                m.d.sync += x.token.eq(x.new)
            m.d.sync += self._scan(0)
            m.next = "TOKEN"
            with m.If(x.same):
                m.d.comb += x.vector_done.eq(1)
                m.next = "SCAN"
        with m.State("TOKEN"):
            m.d.comb += [
                event.index.eq(x.token - 1),
                event.value.eq(x.one),
                x.append.eq(x.encode & (x.token != 0)),
                x.vector_done.eq(1),
            ]
            m.next = "SCAN"

    def _element(self, m: Module) -> None:
        x = self.x
        with m.State("REFERENCE"):
            m.next = "DIFFERENCE"
        with m.State("DIFFERENCE"):
            reference = Mux(x.plain, 0, x.reference_reader.data)
            m.d.sync += x.difference.eq(x.value - reference)
            m.d.comb += x.table_place.eq(Cat(Const(THRESHOLD_RECORD, 3), x.layer))
            m.next = "ENCODE"
        with m.State("ENCODE"):
            m.d.comb += [
                x.append.eq(x.fire),
                x.reference_write.eq(x.fire | (x.plain & x.encode)),
            ]
            m.next = "NEXT"
            with m.If(x.hidden & x.output & ~x.registers.restoring):
                m.next = "OUTPUT"
        with m.State("OUTPUT"):
            m.d.comb += self.outputs.valid.eq(1)
            with m.If(self.outputs.ready):
                m.next = "NEXT"

    def _next_element(self, m: Module) -> None:
        x = self.x
        with m.State("NEXT"):
            m.d.sync += [x.row.eq(x.row + 1), x.index.eq(x.index + 1), x.left.eq(x.left - 1)]
            m.d.sync += x.lane.eq(x.lane + 1)
            with m.If(x.lane.all()):
                m.d.sync += [
                    x.block_base.eq(x.block_base + x.stride),
                    x.odd.eq(~x.odd & ~x.stride[0]),
                ]
            with m.If(x.left == 1):
                m.d.comb += x.vector_done.eq(1)
                m.d.sync += self._scan(x.hidden & x.reload)
                m.next = "SCAN"
            with m.Elif(x.hidden & ~x.registers.restoring):
                m.next = "UNIT"
            with m.Else():
                m.next = "ELEMENT"

    # -- the cell of a layer ----------------------------------------------------------------------

    def _layer(self, m: Module) -> None:
        x, field = self.x, self._layer_field
        with m.State("LAYER"):
            m.d.comb += x.table_place.eq(Cat(x.record, x.layer))
            m.d.sync += x.record.eq(x.record + 1)
            with m.Switch(x.record):
                with m.Case(1):
                    m.d.sync += [
                        x.cell.eq(field(0, "cell")),
                        x.mode.eq(field(0, "mode")),
                        x.reload.eq(field(0, "reload")),
                        x.output.eq(field(0, "output")),
                    ]
                with m.Case(2):
                    m.d.sync += x.left.eq(field(1, "units"))
                with m.Case(3):
                    m.d.sync += [
                        x.block_base.eq(field(2, "accumulator_base")),
                        x.row.eq(field(2, "unit_base")),
                    ]
                with m.Case(4):
                    m.d.sync += [
                        x.shift.eq(field(3, "shift")),
                        x.write_shift.eq(field(3, "write_shift")),
                    ]
            strides = Array([len(CELLS[c].accumulators) for c in x.config.cells])
            m.d.sync += [x.hidden.eq(1), x.odd.eq(0), x.lane.eq(0), x.stride.eq(strides[x.cell])]
            m.d.sync += self._first_element()
            with m.If(x.record == THRESHOLD_RECORD):
                m.d.sync += x.record.eq(0)
                m.next = "UNIT"
                with m.If(x.registers.restoring):
                    m.next = "ELEMENT"

    def _unit(self, m: Module) -> None:
        x, cells = self.x, self.x.cells
        rounded = self._rounded
        top = (1 << (ACTIVATION_BITS - 1)) - 1
        with m.State("UNIT"):
            m.d.comb += cells.start.eq(1)
            m.d.sync += x.shifts.eq(x.write_shift)
            m.next = "CELL"
        with m.State("CELL"):
            m.d.sync += x.shifted.eq(cells.result << 1)
            with m.If(cells.done):
                m.next = "SHIFT"
        with m.State("SHIFT"):
            m.d.sync += [
                x.value.eq(Mux(rounded > top, top, rounded)),
                x.shifts.eq(x.shifts - 1),
                x.shifted.eq(x.shifted >> 1),
            ]
            with m.If(x.shifts == 0):
                m.next = "REFERENCE"

    # -- the columns of events and biases ---------------------------------------------------------

    def _matrix(self, m: Module) -> None:
        """Whether the events go to this matrix, or whether it is a bias that is wanted."""
        x, field = self.x, self._matrix_field
        with m.State("SCAN"):
            m.d.comb += self._present(0)
            m.next = "MATRIX"
        with m.State("MATRIX"):
            source = Signal(5)
            fits = Signal()
            m.d.comb += source.eq(Mux(x.hidden, x.layer + 1, 0))
            with m.If(x.bias):
                m.d.comb += fits.eq(
                    (field(0, "kind") == Kind.BIAS) & (x.bias_all | (field(0, "target") == x.layer))
                )
            with m.Else():
                m.d.comb += fits.eq(
                    (field(0, "kind") != Kind.BIAS)
                    & (field(0, "source") == source)
                    & (x.count != 0)
                )
            m.d.sync += [x.gates.eq(field(0, "gates")), x.event.eq(0)]
            m.next = "AFTER"
            with m.If(fits):
                m.next = "COLUMN"

    def _column(self, m: Module) -> None:
        """One column.

        What it needs of the matrix is looked up again each time: registers cost more than the
        cycles, in which the words of the column before reach their sums.
        """
        x, field = self.x, self._matrix_field
        with m.State("COLUMN"):
            m.d.comb += self._present(2)
            m.next = "EVENT"
            with m.If(Mux(x.bias, x.event != 0, x.event == x.count)):
                m.next = "AFTER"
        with m.State("EVENT"):
            column_words = field(2, "column_words")
            event = x.event_reader.data
            m.d.comb += self._present(1)
            m.d.sync += [
                x.event_value.eq(event.value),
                x.offset.eq(Mux(x.bias, 0, event.index * column_words)),
                x.event.eq(x.event + 1),
                x.words_left.eq(column_words),
            ]
            m.next = "ADDRESS"
        with m.State("ADDRESS"):
            m.d.comb += self._present(3)
            m.d.sync += [
                x.address.eq(x.registers.base + field(1, "base") + x.offset),
                x.rest.eq(x.gates),
                x.odd.eq(0),
                x.byte.eq(0),
            ]
            m.next = "REQUEST"

    def _words(self, m: Module) -> None:
        x, field = self.x, self._matrix_field
        with m.State("REQUEST"):
            m.d.comb += [self._present(3), x.request.eq(1)]
            m.d.sync += [
                x.block_base.eq(field(3, "accumulator_base")),
                x.stride.eq(field(3, "stride")),
            ]
            with m.If(x.memory.read.ready):
                m.next = "WORDS"
        with m.State("WORDS"):
            m.d.comb += x.walking.eq(1)
            with m.If(x.take & (x.words_left == 1)):
                m.next = "COLUMN"

    def _after(self, m: Module) -> None:
        """The next matrix; after the last one the events, the next layer, or the end."""
        x, registers = self.x, self.x.registers
        with m.State("AFTER"):
            m.d.sync += x.matrix.eq(x.matrix + 1)
            m.next = "SCAN"
            with m.If(x.last_matrix):
                m.d.sync += self._scan(0)
                with m.If(x.bias_all):
                    m.d.sync += [
                        x.bias_all.eq(0),
                        registers.clearing.eq(0),
                        registers.loaded.eq(1),
                    ]
                    m.next = "IDLE"
                with m.Elif(~x.bias):
                    m.d.sync += x.layer.eq(Mux(x.hidden, x.layer + 1, 0))
                    m.next = "LAYER"
                    with m.If(x.hidden & x.last_layer):
                        m.d.sync += registers.restoring.eq(0)
                        m.next = "IDLE"
