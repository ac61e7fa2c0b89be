"""The scheduler: which matrix fetches next, and when a cell may run.

It knows layers, vectors and matrices, not cell types. The rules are those of the design, section 6:

* Columns of (layer, step t+1) are fetched only after the cell (layer, t) was dispatched, and cells
  are dispatched in the order (step, layer), each once all its columns are issued. So no column can
  wait for a cell that waits for a column behind it.
* Of several matrices with events, the choice falls on layers that the cell is not reading, then on
  the oldest step, then on the order of the image.
* A vector's list is complete before its cell is dispatched again, so no list is overwritten early.

Cells that read each other make chains of small layers, in which every wait for a pass over the
matrices adds up. In engines with such cells a pass leaves out the biases, but for those of a layer
that wants them, and begins with the matrix of the run before: most often that has only to be found
finished.

State of a matrix: ``finished`` is the parity of the latest step for which it gave all its columns,
``seen`` the generation of the vector that it took them from, ``position`` the rows taken so far.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import (
    InputStatus,
    VectorStatus,
    cell_command_layout,
    format_fields,
    read_command_layout,
    run_layout,
    write_command_layout,
)
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import Kind

from .bias_finder import BiasFinder

__all__ = ["Scheduler"]


def record_layout(records: tuple[image.Record, ...]) -> data.StructLayout:
    """All records of a descriptor as one structure of its fields."""
    fields: dict[str, Any] = {}
    for k, record in enumerate(records):
        used = 0
        for name, width in record.fields:
            fields[name] = unsigned(width)
            used += width
        if used < 32:
            fields[f"unused{k}"] = unsigned(32 - used)
    return data.StructLayout(fields)


class Scheduler(wiring.Component):
    """Descriptor tables, choice of matrices, dispatch of cells.

    Parameters
    ----------
    config : EngineConfig
    check_dispatch : bool
        Rule 2 of the design. Without it about one random network in fifty hangs; only tests
        switch it off.

    Members
    -------
    layer_write, matrix_write, record, index, value : table writes by the loader
    layers, matrices : In
        Descriptors in use.
    base : In
        Word address of the image.
    reset : In(1)
        Starts over: all layers load their biases; pulses after the state memories are cleared.
    enable : In(1)
    status, status_second, input_status : event lists
    runs : Out(stream of ``run_layout``), with ``rows_done``
    read_commands, cell_commands, write_commands : Out(streams)
        One of each for every cell dispatched.
    issued, issued_layer, sequence : In
        Columns as they are issued.
    reading, reading_layer, next_reading, next_layer : In
        Cells whose accumulators are being read, or will be next.
    input_finished, input_half : Out
        A matrix has taken all events of the input.
    restoring : In(1)
        Cells dispatched now take their vector from the host.
    threshold_write, threshold_second, threshold_layer, threshold_value : In
        The host sets a threshold.
    quiet : In(1)
        Nothing is on its way outside of the scheduler.
    idle : Out(1)
        Nothing is on its way anywhere, and no event is left.
    step_dispatched : Out(1)
        The last layer of a step was dispatched.
    """

    def __init__(self, config: EngineConfig, *, check_dispatch: bool = True) -> None:
        self._config = config
        self._check_dispatch = check_dispatch
        s = Shapes(config)
        status = data.ArrayLayout(VectorStatus(s.row), config.layers)
        super().__init__(
            {
                "layer_write": In(1),
                "matrix_write": In(1),
                "record": In(3),
                "index": In(8),
                "value": In(32),
                "layers": In(8),
                "matrices": In(8),
                "base": In(config.address_bits),
                "reset": In(1),
                "enable": In(1),
                "status": In(status),
                "status_second": In(status),
                "input_status": In(data.ArrayLayout(InputStatus(bits_for(config.inputs)), 2)),
                "runs": Out(stream.Signature(run_layout(config))),
                "rows_done": In(16),
                "read_commands": Out(stream.Signature(read_command_layout(config))),
                "cell_commands": Out(stream.Signature(cell_command_layout(config))),
                "write_commands": Out(stream.Signature(write_command_layout(config))),
                "issued": In(1),
                "issued_layer": In(s.layer),
                "sequence": In(s.sequence),
                "reading": In(1),
                "reading_layer": In(s.layer),
                "next_reading": In(1),
                "next_layer": In(s.layer),
                "input_finished": Out(1),
                "input_half": Out(1),
                "restoring": In(1),
                "threshold_write": In(1),
                "threshold_second": In(1),
                "threshold_layer": In(s.layer),
                "threshold_value": In(17),
                "quiet": In(1),
                "idle": Out(1),
                "step_dispatched": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def _table(self, m: Module, name: str, records: int, depth: int) -> tuple[list[Any], Any]:
        """A descriptor table: one memory a record, all read at one index."""
        index = Signal(range(max(2, depth)), name=f"{name}_index")
        outputs, writers = [], []
        for k in range(records):
            memory = Memory(shape=unsigned(32), depth=depth, init=[])
            m.submodules[f"{name}{k}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            m.d.comb += reader.addr.eq(index)
            outputs.append(reader.data)
            writers.append(writer)
        self._writers = writers
        return outputs, index

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        layers, matrices, width = config.layers, config.matrices, config.cell_width

        # -- tables -------------------------------------------------------------------------------

        layer_records = image.LAYER[: 7 if s.peers else 6]
        layer_words, layer_index = self._table(m, "layer_table", len(layer_records), layers)
        layer_writers = self._writers
        matrix_records = image.matrix_records(config.sparse)[: 6 if config.sparse else 4]
        matrix_words, matrix_index = self._table(m, "matrix_table", len(matrix_records), matrices)
        matrix_writers = self._writers
        for k, writer in enumerate(layer_writers):
            m.d.comb += [
                writer.addr.eq(self.index),
                writer.data.eq(self.value),
                writer.en.eq(self.layer_write & (self.record == k)),
            ]
        for k, writer in enumerate(matrix_writers):
            m.d.comb += [
                writer.addr.eq(self.index),
                writer.data.eq(self.value),
                writer.en.eq(self.matrix_write & (self.record == k)),
            ]
        with m.If(self.threshold_write):
            for k, second in ((4, 0), (5, 1)):
                m.d.comb += [
                    layer_writers[k].addr.eq(self.threshold_layer),
                    layer_writers[k].data.eq(self.threshold_value),
                    layer_writers[k].en.eq(self.threshold_second == second),
                ]
        layer = Signal(record_layout(layer_records))
        matrix = Signal(record_layout(matrix_records))
        m.d.comb += [layer.eq(Cat(*layer_words)), matrix.eq(Cat(*matrix_words))]

        # -- state of layers and matrices ---------------------------------------------------------

        # Step that columns are collected for, modulo 4: its parity, and the bit above. Two cells
        # of a layer without recurrence may wait while columns of a third step are on their way.
        parity, above = Signal(layers), Signal(layers)
        loaded = Signal(layers)  # accumulators hold the biases
        # Parameters are loaded once, in a run of their own that the image lists before the biases.
        parameters = config.row_scale or any(
            CELLS[c].accumulators and CELLS[c].parameters for c in config.cells
        )
        constant = Signal(layers)  # parameters are there
        pending = Signal(layers)  # columns were issued since the latest dispatch
        remaining = [Data(8, name=f"remaining{i}") for i in range(layers)]
        finished = Data(matrices)
        seen = Data(matrices)
        positions = Memory(shape=unsigned(16), depth=matrices, init=[])
        m.submodules.positions = positions
        position_reader, position_writer = positions.read_port(), positions.write_port()
        # A cell is dispatched many cycles after its last column, so a register does no harm.
        issued, issued_layer = Signal(), Data(s.layer)
        issued_sequence = Data(s.sequence)
        m.d.sync += [
            issued.eq(self.issued),
            issued_layer.eq(self.issued_layer),
            issued_sequence.eq(self.sequence + 1),
        ]
        latest = Memory(shape=unsigned(s.sequence), depth=layers, init=[])
        m.submodules.latest = latest
        latest_reader, latest_writer = latest.read_port(), latest.write_port()
        m.d.comb += [
            latest_writer.addr.eq(issued_layer),
            latest_writer.data.eq(issued_sequence),
            latest_writer.en.eq(issued),
        ]
        with m.If(issued):
            m.d.sync += pending.bit_select(issued_layer, 1).eq(1)

        # -- dispatch: cells in the order of (step, layer) ----------------------------------------

        current = Signal(s.layer)
        settled = Signal(2)  # the tables show the current layer
        dispatch = Signal()
        ready, ready_next = Signal(), Signal()  # once ready, a cell stays so until dispatched
        room = Signal()  # so does this; the next cell is not ready before it shows the last one
        running = Signal()
        m.d.comb += [
            layer_index.eq(current),
            latest_reader.addr.eq(current),
            ready_next.eq(
                running
                & self.enable
                & settled.all()
                & (Array(remaining)[current] == 0)
                & loaded.bit_select(current, 1)
                & ~dispatch
            ),
            dispatch.eq(ready & room),
            self.read_commands.valid.eq(dispatch),
            self.cell_commands.valid.eq(dispatch),
            self.write_commands.valid.eq(dispatch),
        ]
        m.d.sync += [
            settled.eq(Cat(1, settled)),
            ready.eq(ready_next),
            room.eq(
                self.read_commands.ready & self.cell_commands.ready & self.write_commands.ready
            ),
        ]
        # The tables show a layer a cycle before it is settled.
        rows = Signal(16)
        single = Signal()
        layer_matrices = Data(len(layer.matrices))
        round_up = width - 1
        m.d.sync += [
            layer_matrices.eq(layer.matrices),
            rows.eq((layer.units + round_up) >> (width.bit_length() - 1)),
            single.eq(layer.units <= width),
        ]
        read, cell, write = (
            self.read_commands.payload,
            self.cell_commands.payload,
            self.write_commands.payload,
        )
        strides = Array([image.block_rows(CELLS[c], config.row_scale) for c in config.cells])
        m.d.comb += [
            read.layer.eq(current),
            read.step.eq(Cat(parity.bit_select(current, 1), above.bit_select(current, 1))),
            read.skip.eq(self.restoring),
            read.blocks.eq(layer.blocks),
            read.units.eq(layer.units),
            read.base.eq(layer.accumulator_base),
            read.stride.eq(strides[layer.cell]),
            read.sequence.eq(latest_reader.data),
            read.pending.eq(pending.bit_select(current, 1)),
            cell.layer.eq(current),
            cell.cell.eq(layer.cell),
            cell.skip.eq(self.restoring),
            cell.output.eq(layer.output),
            cell.rows.eq(rows),
            cell.base.eq(layer.unit_base),
            cell.shift.eq(layer.shift),
            write.layer.eq(current),
            write.skip.eq(self.restoring),
            write.output.eq(layer.output),
            write.mode.eq(layer.mode),
            write.units.eq(layer.units),
            write.single.eq(single),
            write.rows.eq(rows),
            write.base.eq(layer.unit_base),
            write.write_shift.eq(layer.write_shift),
            write.threshold.eq(layer.threshold),
            write.threshold_recurrent.eq(layer.threshold_recurrent),
        ]
        for k in range(s.peers):
            m.d.comb += cell.peers[k].eq((layer.peer0, layer.peer1)[k])
        last_layer = Data()  # looked at when the layer has settled, so a cycle late is in time
        layer_end, matrix_end = Data(s.layer), Data(s.matrix)
        # Two registers on the way from the loader, so that the last may stand where it is needed.
        layer_end0, matrix_end0 = Data(s.layer), Data(s.matrix)
        m.d.sync += [
            layer_end0.eq(self.layers - 1),
            matrix_end0.eq(self.matrices - 1),
            layer_end.eq(layer_end0),
            matrix_end.eq(matrix_end0),
            last_layer.eq(current == layer_end),
        ]
        m.d.comb += self.step_dispatched.eq(dispatch & last_layer)
        with m.If(dispatch):
            m.d.sync += [
                settled.eq(0),
                current.eq(Mux(last_layer, 0, current + 1)),
                parity.bit_select(current, 1).eq(~parity.bit_select(current, 1)),
                above.bit_select(current, 1).eq(
                    above.bit_select(current, 1) ^ parity.bit_select(current, 1)
                ),
                pending.bit_select(current, 1).eq(0),
                Array(remaining)[current].eq(layer_matrices),
            ]
            with m.If(layer.reload):
                m.d.sync += loaded.bit_select(current, 1).eq(0)

        # -- scan: one matrix a cycle through four stages ----------------------------------------

        # The tables are read at ``scan`` and nowhere else, so that their index is a register.
        scan = Signal(s.matrix)
        scanning = Signal()
        chains = s.peers > 0
        at_end: Any = scan == matrix_end
        scan_end = Data()
        m.d.sync += scan_end.eq(scan == matrix_end)
        if chains:
            every = Signal(init=1)  # ``scan`` goes through the matrices
            probing = Signal()  # ``scan`` is the matrix of the run before
            again = Signal()  # that took all that its vector had
            short = Signal()  # biases are left out: every layer has had its parameters
            first = Data(s.matrix)  # the first matrix that is no bias
            m.submodules.biases = biases = BiasFinder(config)
            at_end &= every
        # stage 1: the tables show matrix ``index1``
        valid1, index1, last1 = Signal(), Signal(s.matrix), Signal()
        from_input = Signal()
        half = Signal()  # half of the input's list that comes next for this matrix
        target = Signal(s.layer)
        use_second = Signal()
        m.d.comb += [
            matrix_index.eq(scan),
            position_reader.addr.eq(scan),
            from_input.eq((matrix.source == 0) & (matrix.kind != Kind.BIAS)),
            target.eq(matrix.target),
            half.eq(seen.bit_select(index1, 1)),
            use_second.eq(matrix.recurrent if config.second_threshold else 0),
        ]
        vector = Signal(VectorStatus(16))
        # Source 0 is the input, which is looked at below; layer i is source i + 1.
        source = matrix.source[: bits_for(layers)]

        def of_source(status: Any) -> Any:
            return Array(status[max(0, i - 1)].as_value() for i in range(layers + 1))[source]

        chosen_status = Mux(use_second, of_source(self.status_second), of_source(self.status))
        hidden = Signal(VectorStatus(s.row))
        m.d.comb += hidden.eq(chosen_status)
        fresh = Signal()  # the vector was not seen by this matrix
        with m.If(from_input):
            halves = Array(self.input_status[i].as_value() for i in range(2))
            status = Signal(InputStatus(bits_for(config.inputs)))
            m.d.comb += [
                status.eq(halves[half]),
                fresh.eq(status.present),
                vector.complete.eq(status.complete),
                vector.rows.eq(status.rows),
            ]
        with m.Else():
            m.d.comb += [
                fresh.eq(hidden.generation != seen.bit_select(index1, 1)),
                vector.complete.eq(hidden.complete),
                vector.rows.eq(hidden.rows),
            ]
        wanted = Signal()  # the layer still collects columns of this matrix
        is_bias = Signal()
        m.d.comb += is_bias.eq(matrix.kind == Kind.BIAS)
        unloaded = ~loaded.bit_select(target, 1)
        if parameters:
            unloaded = Mux(matrix.recurrent, ~constant.bit_select(target, 1), unloaded)
        collects = finished.bit_select(index1, 1) != parity.bit_select(target, 1)
        if not self._check_dispatch:
            collects = 1
        m.d.comb += wanted.eq(
            Mux(
                is_bias,
                unloaded,
                loaded.bit_select(target, 1) & fresh & collects,
            )
        )
        # stage 2: the chosen vector against what was fetched of it
        valid2, index2, last2 = Signal(), Signal(s.matrix), Signal()
        wanted2, bias2, input2, half2 = (Signal() for _ in range(4))
        held2, late2 = Signal(), Signal()
        vector2 = Signal.like(vector, reset_less=True)
        position2 = Data(16)
        target2 = Data(s.layer)
        held = (self.reading & (self.reading_layer == target)) | (
            self.next_reading & (self.next_layer == target)
        )
        m.d.sync += [
            valid1.eq(scanning),
            index1.eq(scan),
            last1.eq(scanning & at_end),
            valid2.eq(valid1),
            index2.eq(index1),
            last2.eq(last1),
            wanted2.eq(wanted),
            vector2.eq(vector),
            position2.eq(position_reader.data),
            bias2.eq(is_bias),
            input2.eq(from_input),
            half2.eq(half),
            held2.eq(held),
            late2.eq(target < current),
            target2.eq(target),
        ]
        # stage 3: decision
        valid3, index3, last3 = Signal(), Signal(s.matrix), Signal()
        wanted3, events3, complete3 = Signal(), Signal(), Signal()
        rows3, position3 = Data(16), Data(16)
        input3, half3, held3, late3 = (Signal() for _ in range(4))
        target3 = Data(s.layer)
        m.d.sync += [
            valid3.eq(valid2),
            index3.eq(index2),
            last3.eq(last2),
            wanted3.eq(wanted2),
            events3.eq(bias2 | (position2 != vector2.rows)),
            complete3.eq(vector2.complete & ~bias2),
            rows3.eq(Mux(bias2, 1, vector2.rows - position2)),
            position3.eq(position2),
            input3.eq(input2),
            half3.eq(half2),
            held3.eq(held2),
            late3.eq(late2),
            target3.eq(target2),
        ]

        if chains:
            probed = Signal(3)  # the decision is about a probe
            bias3, missing = Signal(), Signal()
            m.d.sync += [probed.eq(Cat(probing, probed)), bias3.eq(bias2)]
            with m.If(valid3 & wanted3 & bias3):
                m.d.sync += missing.eq(1)
            with m.If(valid3 & ~bias3 & ~missing):
                m.d.sync += short.eq(1)
        candidate = Signal()
        finish = Signal()
        urgent = Signal()
        m.d.comb += [
            candidate.eq(valid3 & wanted3 & events3),
            finish.eq(valid3 & wanted3 & ~events3 & complete3),
            urgent.eq(candidate & ~held3 & ~late3),
        ]
        best_valid = Signal()
        best_rank = Signal(2)
        best = Signal(s.matrix)
        best_rows, best_position = Data(16), Data(16)
        better = Signal()
        rank = Cat(late3, held3)
        m.d.comb += better.eq(candidate & (~best_valid | (rank < best_rank)))
        with m.If(better):
            m.d.sync += [
                best_valid.eq(1),
                best_rank.eq(rank),
                best.eq(index3),
                best_rows.eq(rows3),
                best_position.eq(position3),
            ]
        with m.If(finish):
            m.d.sync += [
                finished.bit_select(index3, 1).eq(parity.bit_select(target3, 1)),
                seen.bit_select(index3, 1).eq(~seen.bit_select(index3, 1)),
            ]
            # Each layer counts by itself: a subtraction behind a choice between all is too long.
            with m.Switch(target3):
                for i, count in enumerate(remaining):
                    with m.Case(i):
                        m.d.sync += count.eq(count - 1)
            m.d.comb += [
                position_writer.addr.eq(index3),
                position_writer.data.eq(0),
                position_writer.en.eq(1),
                self.input_finished.eq(input3),
                self.input_half.eq(half3),
            ]

        # -- run: the chosen matrix fetches -------------------------------------------------------

        run = self.runs.payload
        run_data = Data(run_layout(config))
        run_valid = Signal()  # in state RUN
        m.d.comb += [run.eq(run_data), self.runs.valid.eq(run_valid)]
        clean = Signal()  # nothing moved since the pass began
        moved = Signal()
        m.d.comb += moved.eq(
            ~self.quiet | candidate | finish | ready | ~self.enable | ~running | self.reset
        )
        with m.If(moved):
            m.d.sync += [clean.eq(0), self.idle.eq(0)]

        run_constant = Signal()  # the run loads parameters
        reset_wanted = Signal()

        decided = urgent | last3
        if chains:
            # What is finished is seen to be so by a pass that begins anew, not by this one.
            decided |= finish & probed[-1]
            m.d.comb += [biases.loaded.eq(loaded), biases.layer.eq(target), biases.place.eq(scan)]

        def begin_pass() -> None:
            m.d.sync += [scan.eq(0), scanning.eq(1), best_valid.eq(0), clean.eq(~moved)]
            if chains:
                m.d.sync += [every.eq(1), probing.eq(0), missing.eq(0)]
                with m.If(short):
                    m.d.sync += [
                        every.eq(~again & ~biases.wanted),
                        probing.eq(again),
                        scan.eq(Mux(again, best, Mux(biases.wanted, biases.index, first))),
                    ]
            m.next = "SCAN"

        def next_pass() -> None:
            """Without a pause, unless something else is wanted."""
            m.next = "START"
            with m.If(self.enable & ~reset_wanted):
                begin_pass()

        with m.FSM():
            with m.State("STOPPED"):
                with m.If(reset_wanted):
                    m.d.sync += [scan.eq(0), reset_wanted.eq(0)]
                    if chains:
                        m.d.comb += biases.reset.eq(1)
                        m.d.sync += [short.eq(0), first.eq(0)]
                    m.next = "SETUP"
            with m.State("SETUP"):
                m.next = "SETUP_WRITE"
            with m.State("SETUP_WRITE"):  # two cycles a matrix, so a register can look at ``scan``
                m.d.comb += [
                    position_writer.addr.eq(scan),
                    position_writer.data.eq(0),
                    position_writer.en.eq(1),
                ]
                # A recurrence finds the empty vector of "step -1"; other matrices find nothing.
                m.d.sync += [
                    seen.bit_select(scan, 1).eq(matrix.recurrent),
                    finished.bit_select(scan, 1).eq(1),
                    scan.eq(scan + 1),
                ]
                if chains:
                    m.d.comb += biases.write.eq(is_bias & ~matrix.recurrent)
                    with m.If(is_bias):
                        m.d.sync += first.eq(scan + 1)
                m.next = "SETUP"
                with m.If(scan_end):
                    m.d.sync += [current.eq(0), settled.eq(0)]
                    m.next = "SETUP_LAYERS"
            with m.State("SETUP_LAYERS"), m.If(settled.all()):
                m.d.sync += [
                    Array(remaining)[current].eq(layer_matrices),
                    settled.eq(0),
                    current.eq(current + 1),
                ]
                with m.If(last_layer):
                    m.d.sync += [
                        current.eq(0),
                        parity.eq(0),
                        loaded.eq(0),
                        pending.eq(0),
                        running.eq(1),
                    ]
                    if parameters:
                        m.d.sync += constant.eq(0)
                    m.next = "START"
            with m.State("START"):
                with m.If(reset_wanted):
                    m.next = "STOPPED"
                with m.Elif(self.enable):
                    begin_pass()
            with m.State("SCAN"):
                m.d.sync += scan.eq(scan + 1)
                if chains:
                    m.d.sync += [probing.eq(0), every.eq(every | ~probing | ~biases.wanted)]
                    with m.If(~every):
                        m.d.sync += scan.eq(Mux(probing & biases.wanted, biases.index, first))
                with m.If(at_end):
                    m.d.sync += [scanning.eq(0), scan.eq(scan)]
                with m.If(decided | ~self.enable):
                    m.d.sync += [scanning.eq(0), valid1.eq(0), valid2.eq(0), valid3.eq(0)]
                    m.d.sync += [last1.eq(0), last2.eq(0), last3.eq(0)]
                    m.d.sync += scan.eq(Mux(better, index3, best))
                    m.next = "CHOOSE"
                # The tables change under a scan while another image is loaded.
                with m.If(~self.enable):
                    m.next = "START"
            with m.State("CHOOSE"):
                with m.If(best_valid):
                    m.next = "PREPARE"
                with m.Else():
                    m.d.sync += self.idle.eq(clean & ~moved)
                    next_pass()
            with m.State("PREPARE"):
                if parameters:
                    m.d.sync += run_constant.eq(matrix.recurrent)
                m.d.sync += [
                    run_data.bias.eq(is_bias),
                    run_data.from_input.eq(from_input),
                    run_data.half.eq(seen.bit_select(best, 1)),
                    run_data.second.eq(use_second),
                    run_data.row.eq(matrix.list_base + best_position),
                    run_data.rows.eq(best_rows),
                    run_data.address.eq(self.base + matrix.base),
                    run_data.words.eq(matrix.column_words),
                    run_data.base.eq(matrix.accumulator_base),
                    run_data.gates.eq(matrix.gates),
                    run_data.stride.eq(matrix.stride),
                    run_data.layer.eq(target),
                    run_data.step.eq(
                        Cat(parity.bit_select(target, 1), above.bit_select(target, 1))
                    ),
                ]
                for name in format_fields(config):
                    m.d.sync += run_data[name].eq(matrix[name])
                if config.columns:
                    m.d.sync += [
                        run_data.lengths.eq(matrix.lengths),
                        run_data.unequal.eq(
                            (matrix.kind == Kind.BLOCK) | (matrix.kind == Kind.STEP)
                        ),
                    ]
                m.d.sync += run_valid.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(self.runs.ready):
                    m.d.sync += run_valid.eq(0)
                    with m.If(run_data.bias):
                        if parameters:
                            m.d.sync += [
                                constant.bit_select(run_data.layer, 1).eq(1),
                                loaded.bit_select(run_data.layer, 1).eq(~run_constant),
                            ]
                        else:
                            m.d.sync += loaded.bit_select(run_data.layer, 1).eq(1)
                    with m.Else():
                        m.d.comb += [
                            position_writer.addr.eq(best),
                            position_writer.data.eq(best_position + self.rows_done),
                            position_writer.en.eq(1),
                        ]
                        if chains:
                            m.d.comb += again.eq(self.rows_done == run_data.rows)
                    next_pass()

        # A reset comes only while idle, or before the first start.
        with m.If(self.reset):
            m.d.sync += [running.eq(0), reset_wanted.eq(1)]
        return m
