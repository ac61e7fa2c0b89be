"""The scheduler: which matrix fetches next, and when a cell may run.

It knows layers, vectors and matrices, but no cell types. Its rules (docs/architecture.md, *Rules*):

* Columns of (layer, step t+1) are fetched only after the cell (layer, t) was dispatched. Cells are
  dispatched in the order (step, layer), each once all its columns are issued. So no column can wait
  for a cell that waits for a later column.
* Of several matrices with events, those come first whose layer no cell is reading, then those of
  the oldest step, then those that stand first in the image.
* A vector's list is complete before its cell is dispatched again, so no list is overwritten early.

A *pass* looks at one matrix per cycle, in four stages: the tables show it, its vector is chosen,
what is left of the vector is found, the decision. The best matrix then makes a *run*.

Cells that read each other make chains of small layers, in which every wait for a pass adds up. In
engines with such cells a pass leaves out the biases, except those of a layer that needs them. It
begins with a *probe* of the matrix of the latest run, which most often is found finished.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import (
    DescriptorWriteSignature,
    ImageSignature,
    SchedulerControlSignature,
    ThresholdWriteSignature,
)
from stillnet.hw.parts.interfaces import (
    DispatchSignature,
    HoldSignature,
    InputListSignature,
    IssueSignature,
    VectorsSignature,
    WaitingSignature,
)
from stillnet.hw.parts.layouts import InputStatus, VectorStatus, format_fields, run_layout
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import Kind

from .bias_finder import BiasFinder
from .descriptor_tables import DescriptorTables

__all__ = ["Scheduler"]


def _has_parameters(config: EngineConfig) -> bool:
    """Whether parameters are loaded in runs of their own, which the image lists before biases."""
    return config.row_scale or any(
        CELLS[c].accumulators and CELLS[c].parameters for c in config.cells
    )


class _Signals:
    """What the parts of the scheduler share; a number is the stage of a pass."""

    biases: BiasFinder
    position_reader: Any
    position_writer: Any
    latest_reader: Any

    def __init__(self, config: EngineConfig) -> None:
        self._tables(config)
        self._state(config)
        self._dispatch(config)
        self._pass(config)
        self._run(config)

    def _tables(self, config: EngineConfig) -> None:
        shapes = Shapes(config)
        self.tables = DescriptorTables(config)
        self.layer = self.tables.layer  # descriptor at ``current``
        self.matrix = self.tables.matrix  # descriptor at ``scan``
        self.layer_end, self.matrix_end = Data(shapes.layer), Data(shapes.matrix)  # last ones

    def _state(self, config: EngineConfig) -> None:
        layers, matrices = config.layers, config.matrices
        # Step that columns are collected for, modulo 4: its parity, and the bit above. Two cells
        # of a layer without recurrence may wait while columns of a third step are on their way.
        self.parity, self.above = Signal(layers), Signal(layers)
        self.loaded = Signal(layers)  # accumulators hold the biases
        self.constant = Signal(layers)  # parameters are there
        self.pending = Signal(layers)  # columns were issued since the latest dispatch
        # Matrices that have not given all their columns yet.
        self.remaining = [Data(8, name=f"remaining{i}") for i in range(layers)]
        self.given = Signal(layers)  # none of them is left
        # Parity of the latest step for which the matrix gave all its columns.
        self.finished = Data(matrices)
        self.seen = Data(matrices)  # generation of the vector that it took them from

    def _dispatch(self, config: EngineConfig) -> None:
        self.current = Signal(Shapes(config).layer)  # layer whose cell is next
        self.turn = Signal(config.layers, init=1)  # the same, a bit for each layer
        self.settled = Signal(2)  # the tables show the current layer
        self.last_layer = Data()
        self.rows = Signal(16)  # groups of the layer's units
        self.single = Signal()  # one group
        self.layer_matrices = Data(len(self.layer.matrices))
        self.layer_empty = Data()  # it has no matrices
        self.running = Signal()
        self.ready = Signal()  # once ready, a cell stays so until it is dispatched
        self.dispatch = Signal()

    def _pass(self, config: EngineConfig) -> None:
        shapes = Shapes(config)
        # The tables are read at ``scan`` and nowhere else, so that their index is a register.
        self.scan = Signal(shapes.matrix)
        self.scanning = Signal()
        self.at_end = Signal()  # ``scan`` is the last matrix
        self.scan_end = Data()  # a cycle later
        self.setting = Signal()  # ``matrix`` gets its first state
        # -- only where cells read each other
        self.every = Signal(init=1)  # ``scan`` goes through the matrices
        self.probing = Signal()  # ``scan`` is the matrix of the run before
        self.again = Signal()  # that took all that its vector had
        self.short = Signal()  # biases are left out: every layer has had its parameters
        self.first = Data(shapes.matrix)  # the first matrix that is no bias
        self.probed = Signal(3)  # the decision is about a probe
        self.missing = Signal()  # a bias was found that has to be loaded
        # -- stage 1: the tables show matrix ``index1``
        self.valid1, self.index1, self.last1 = Signal(), Signal(shapes.matrix), Signal()
        self.is_bias, self.from_input, self.use_second = Signal(), Signal(), Signal()
        self.half = Signal()  # half of the input's list that comes next for this matrix
        self.target = Signal(shapes.layer)
        self.vector = Signal(VectorStatus(16))
        self.fresh = Signal()  # the vector was not seen by this matrix
        self.wanted = Signal()  # the layer still collects columns of this matrix
        # -- stage 2: the chosen vector against what was fetched of it
        self.valid2, self.index2, self.last2 = Signal(), Signal(shapes.matrix), Signal()
        self.wanted2, self.bias2, self.input2, self.half2 = (Signal() for _ in range(4))
        self.held2, self.late2 = Signal(), Signal()
        self.vector2 = Data(VectorStatus(16))
        self.position2 = Data(16)  # rows of the vector that were taken
        self.target2 = Data(shapes.layer)
        # -- stage 3: the decision
        self.valid3, self.index3, self.last3 = Signal(), Signal(shapes.matrix), Signal()
        self.wanted3, self.events3, self.complete3 = Signal(), Signal(), Signal()
        self.rows3, self.position3 = Data(16), Data(16)
        self.input3, self.half3 = Signal(), Signal()
        self.held3 = Signal()  # a cell of the layer is being read, or is next
        self.late3 = Signal()  # the layer collects for a later step than others
        self.target3 = Data(shapes.layer)
        self.candidate, self.finish, self.urgent = Signal(), Signal(), Signal()
        # -- the best matrix so far
        self.better = Signal()
        self.best_valid, self.best_rank = Signal(), Signal(2)
        self.best = Signal(shapes.matrix)
        self.best_rows, self.best_position = Data(16), Data(16)

    def _run(self, config: EngineConfig) -> None:
        self.run = Data(run_layout(config))
        self.run_valid = Signal()
        self.run_constant = Signal()  # the run loads parameters
        self.reset_wanted = Signal()
        self.clean = Signal()  # nothing moved since the pass began
        self.moved = Signal()
        self.decided = Signal()  # the pass ends


class Scheduler(wiring.Component):
    """Descriptor tables, choice of matrices, dispatch of cells.

    Parameters
    ----------
    config : EngineConfig
    check_dispatch : bool
        Rule 2 of the architecture. Without it about one random network in fifty hangs; only tests
        switch it off.

    Members
    -------
    descriptors : In(DescriptorWriteSignature)
        The loader writes the tables.
    image : In(ImageSignature)
        Base of the image, and how many descriptors are in use.
    threshold : In(ThresholdWriteSignature)
        The host sets a threshold.
    control : In(SchedulerControlSignature)
        Starts and stops it.
    vectors : In(VectorsSignature)
        Event lists of the hidden vectors.
    input : In(InputListSignature)
        Event list of the input.
    runs : Out(stream of ``run_layout``)
        The chosen matrix, taken when the run is over.
    rows_done : In
        Rows of the run that were fetched, valid as it is taken.
    dispatch : Out(DispatchSignature)
        Commands for every cell that is dispatched.
    issue : In(IssueSignature)
        Columns as they are issued.
    hold : In(HoldSignature)
        Cell whose accumulators are being read.
    waiting : In(WaitingSignature)
        Cell that is read next.
    """

    def __init__(self, config: EngineConfig, *, check_dispatch: bool = True) -> None:
        self._config = config
        self._check_dispatch = check_dispatch
        super().__init__(
            {
                "descriptors": In(DescriptorWriteSignature()),
                "image": In(ImageSignature(config)),
                "threshold": In(ThresholdWriteSignature(config)),
                "control": In(SchedulerControlSignature()),
                "vectors": In(VectorsSignature(config)),
                "input": In(InputListSignature(config)),
                "runs": Out(stream.Signature(run_layout(config))),
                "rows_done": In(16),
                "dispatch": Out(DispatchSignature(config)),
                "issue": In(IssueSignature(config)),
                "hold": In(HoldSignature(config)),
                "waiting": In(WaitingSignature(config)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._config)
        self._tables(m, s)
        self._positions(m, s)
        self._issued(m, s)

        self._cell_ready(m, s)
        self._layer_registers(m, s)
        self._read_command(m, s)
        self._cell_command(m, s)
        self._write_command(m, s)
        self._dispatched(m, s)

        self._scan(m, s)
        self._look_up(m, s)
        self._choose_vector(m, s)
        self._is_wanted(m, s)
        self._stage2(m, s)
        self._stage3(m, s)
        self._decide(m, s)
        self._finish(m, s)

        self._movement(m, s)
        self._pass_end(m, s)
        m.d.comb += [self.runs.payload.eq(s.run), self.runs.valid.eq(s.run_valid)]
        self._set_matrix(m, s)
        with m.FSM():
            self._setup_states(m, s)
            self._scan_states(m, s)
            self._run_states(m, s)
        # A reset comes only while idle, or before the first start.
        with m.If(self.control.reset):
            m.d.sync += [s.running.eq(0), s.reset_wanted.eq(1)]
        return m

    # -- tables and state -------------------------------------------------------------------------

    def _tables(self, m: Module, s: _Signals) -> None:
        """Descriptors at the current layer and at the scanned matrix, and the last ones in use."""
        m.submodules.tables = tables = s.tables
        connect(m, flipped(self.descriptors), tables.descriptors)
        connect(m, flipped(self.threshold), tables.threshold)
        m.d.comb += [tables.layer_at.eq(s.current), tables.matrix_at.eq(s.scan)]
        # Two registers on the way from the loader, so that the last may stand where it is needed.
        layer_end0, matrix_end0 = Data(len(s.layer_end)), Data(len(s.matrix_end))
        m.d.sync += [
            layer_end0.eq(self.image.layers - 1),
            matrix_end0.eq(self.image.matrices - 1),
            s.layer_end.eq(layer_end0),
            s.matrix_end.eq(matrix_end0),
        ]

    def _positions(self, m: Module, s: _Signals) -> None:
        """Rows of its vector that each matrix has taken so far."""
        positions = Memory(shape=unsigned(16), depth=self._config.matrices, init=[])
        m.submodules.positions = positions
        s.position_reader, s.position_writer = positions.read_port(), positions.write_port()
        m.d.comb += s.position_reader.addr.eq(s.scan)

    def _issued(self, m: Module, s: _Signals) -> None:
        """Number of the latest column of each layer."""
        shapes = Shapes(self._config)
        latest = Memory(shape=unsigned(shapes.sequence), depth=self._config.layers, init=[])
        m.submodules.latest = latest
        s.latest_reader, writer = latest.read_port(), latest.write_port()
        # A cell is dispatched many cycles after its last column, so a register does no harm.
        issued, layer, sequence = Signal(), Data(shapes.layer), Data(shapes.sequence)
        m.d.sync += [
            issued.eq(self.issue.valid),
            layer.eq(self.issue.layer),
            sequence.eq(self.issue.sequence + 1),
        ]
        m.d.comb += [
            writer.addr.eq(layer),
            writer.data.eq(sequence),
            writer.en.eq(issued),
            s.latest_reader.addr.eq(s.current),
        ]
        with m.If(issued):
            m.d.sync += s.pending.bit_select(layer, 1).eq(1)

    # -- dispatch: cells in the order of (step, layer) --------------------------------------------

    def _cell_ready(self, m: Module, s: _Signals) -> None:
        """The cell of the current layer is dispatched once all its columns are issued."""
        dispatch = self.dispatch
        ready_next = Signal()
        # ``room`` stays as well: the next cell is not ready before it shows the latest one.
        room = Signal()
        m.d.comb += [
            ready_next.eq(
                s.running
                & self.control.enable
                & s.settled.all()
                & (s.given & s.loaded & s.turn).any()
                & ~s.dispatch
            ),
            s.dispatch.eq(s.ready & room),
            dispatch.read.valid.eq(s.dispatch),
            dispatch.cell.valid.eq(s.dispatch),
            dispatch.write.valid.eq(s.dispatch),
        ]
        m.d.sync += [
            s.settled.eq(Cat(1, s.settled)),
            s.ready.eq(ready_next),
            room.eq(dispatch.read.ready & dispatch.cell.ready & dispatch.write.ready),
        ]

    def _layer_registers(self, m: Module, s: _Signals) -> None:
        """What follows from the layer's descriptor: the tables show it a cycle before ``settled``.

        ``last_layer`` is looked at when the layer has settled, so a cycle late is in time.
        """
        width = self._config.cell_width
        m.d.sync += [
            s.layer_matrices.eq(s.layer.matrices),
            s.layer_empty.eq(s.layer.matrices == 0),
            s.rows.eq((s.layer.units + (width - 1)) >> (width.bit_length() - 1)),
            s.single.eq(s.layer.units <= width),
            s.last_layer.eq(s.current == s.layer_end),
        ]

    def _read_command(self, m: Module, s: _Signals) -> None:
        command, layer, config = self.dispatch.read.payload, s.layer, self._config
        strides = Array([image.block_rows(CELLS[c], config.row_scale) for c in config.cells])
        m.d.comb += [
            command.layer.eq(s.current),
            command.step.eq(self._step(s, s.current)),
            command.skip.eq(self.control.restoring),
            command.blocks.eq(layer.blocks),
            command.units.eq(layer.units),
            command.base.eq(layer.accumulator_base),
            command.stride.eq(strides[layer.cell]),
            command.sequence.eq(s.latest_reader.data),
            command.pending.eq(s.pending.bit_select(s.current, 1)),
        ]

    def _cell_command(self, m: Module, s: _Signals) -> None:
        command, layer = self.dispatch.cell.payload, s.layer
        m.d.comb += [
            command.layer.eq(s.current),
            command.cell.eq(layer.cell),
            command.skip.eq(self.control.restoring),
            command.output.eq(layer.output),
            command.rows.eq(s.rows),
            command.base.eq(layer.unit_base),
            command.shift.eq(layer.shift),
        ]
        for k in range(Shapes(self._config).peers):
            m.d.comb += command.peers[k].eq((layer.peer0, layer.peer1)[k])

    def _write_command(self, m: Module, s: _Signals) -> None:
        command, layer = self.dispatch.write.payload, s.layer
        m.d.comb += [
            command.layer.eq(s.current),
            command.skip.eq(self.control.restoring),
            command.output.eq(layer.output),
            command.mode.eq(layer.mode),
            command.units.eq(layer.units),
            command.single.eq(s.single),
            command.rows.eq(s.rows),
            command.base.eq(layer.unit_base),
            command.write_shift.eq(layer.write_shift),
            command.threshold.eq(layer.threshold),
            command.threshold_recurrent.eq(layer.threshold_recurrent),
        ]

    def _dispatched(self, m: Module, s: _Signals) -> None:
        """The layer's next step begins, and the next layer is current."""
        m.d.comb += self.control.step_dispatched.eq(s.dispatch & s.last_layer)
        with m.If(s.dispatch):
            m.d.sync += [
                s.parity.eq(s.parity ^ s.turn),
                s.above.eq(s.above ^ (s.parity & s.turn)),
            ]
            self._collect(m, s)
            self._turn(m, s, s.last_layer)
            with m.If(s.layer.reload):
                m.d.sync += s.loaded.eq(s.loaded & ~s.turn)

    @staticmethod
    def _collect(m: Module, s: _Signals) -> None:
        """All matrices of the current layer have columns to give, and none was issued."""
        for i, count in enumerate(s.remaining):
            with m.If(s.turn[i]):
                m.d.sync += [
                    count.eq(s.layer_matrices),
                    s.given[i].eq(s.layer_empty),
                    s.pending[i].eq(0),
                ]

    @staticmethod
    def _turn(m: Module, s: _Signals, last: Any) -> None:
        """The next layer is current, or after the last one the first."""
        m.d.sync += [
            s.settled.eq(0),
            s.current.eq(Mux(last, 0, s.current + 1)),
            s.turn.eq(Mux(last, 1, s.turn << 1)),
        ]

    @staticmethod
    def _step(s: _Signals, layer: Signal) -> Any:
        """Step that a layer collects columns for, modulo 4."""
        return Cat(s.parity.bit_select(layer, 1), s.above.bit_select(layer, 1))

    @property
    def _chains(self) -> bool:
        """Whether cells read each other, so that networks are chains of small layers."""
        return self._config.max_peers > 0

    # -- pass: one matrix per cycle through four stages -------------------------------------------

    def _scan(self, m: Module, s: _Signals) -> None:
        """Stage 0: the place of the next matrix."""
        at_end: Any = s.scan == s.matrix_end
        m.d.sync += s.scan_end.eq(s.scan == s.matrix_end)
        if self._chains:
            m.submodules.biases = s.biases = BiasFinder(self._config)
            at_end &= s.every
        m.d.comb += s.at_end.eq(at_end)
        m.d.sync += [
            s.valid1.eq(s.scanning),
            s.index1.eq(s.scan),
            s.last1.eq(s.scanning & s.at_end),
        ]

    def _look_up(self, m: Module, s: _Signals) -> None:
        """Stage 1: what the matrix is."""
        matrix = s.matrix
        m.d.comb += [
            s.is_bias.eq(matrix.kind == Kind.BIAS),
            s.from_input.eq((matrix.source == 0) & (matrix.kind != Kind.BIAS)),
            s.target.eq(matrix.target),
            s.half.eq(s.seen.bit_select(s.index1, 1)),
            s.use_second.eq(matrix.recurrent if self._config.second_threshold else 0),
        ]

    def _choose_vector(self, m: Module, s: _Signals) -> None:
        """Stage 1: how far the matrix's vector is, and whether the matrix has seen it."""
        config, vectors = self._config, self.vectors
        # Source 0 is the input, which is looked at below; layer i is source i + 1.
        source = s.matrix.source[: bits_for(config.layers)]

        def of_source(status: Any) -> Any:
            return Array(status[max(0, i - 1)].as_value() for i in range(config.layers + 1))[source]

        hidden = Signal(VectorStatus(Shapes(config).row))
        m.d.comb += hidden.eq(
            Mux(s.use_second, of_source(vectors.second), of_source(vectors.first))
        )
        with m.If(s.from_input):
            halves = Array(self.input.status[i].as_value() for i in range(2))
            status = Signal(InputStatus(bits_for(config.inputs)))
            m.d.comb += [
                status.eq(halves[s.half]),
                s.fresh.eq(status.present),
                s.vector.complete.eq(status.complete),
                s.vector.rows.eq(status.rows),
            ]
        with m.Else():
            m.d.comb += [
                s.fresh.eq(hidden.generation != s.seen.bit_select(s.index1, 1)),
                s.vector.complete.eq(hidden.complete),
                s.vector.rows.eq(hidden.rows),
            ]

    def _is_wanted(self, m: Module, s: _Signals) -> None:
        """Stage 1: whether the layer still collects columns of this matrix."""
        loaded = s.loaded.bit_select(s.target, 1)
        unloaded = ~loaded
        if _has_parameters(self._config):
            constant = s.constant.bit_select(s.target, 1)
            unloaded = Mux(s.matrix.recurrent, ~constant, unloaded)
        collects = s.finished.bit_select(s.index1, 1) != s.parity.bit_select(s.target, 1)
        if not self._check_dispatch:
            collects = 1
        m.d.comb += s.wanted.eq(Mux(s.is_bias, unloaded, loaded & s.fresh & collects))

    def _stage2(self, m: Module, s: _Signals) -> None:
        """Stage 2: the chosen vector, and what was fetched of it."""
        held = (self.hold.active & (self.hold.layer == s.target)) | (
            self.waiting.active & (self.waiting.layer == s.target)
        )
        m.d.sync += [
            s.valid2.eq(s.valid1),
            s.index2.eq(s.index1),
            s.last2.eq(s.last1),
            s.wanted2.eq(s.wanted),
            s.vector2.eq(s.vector),
            s.position2.eq(s.position_reader.data),
            s.bias2.eq(s.is_bias),
            s.input2.eq(s.from_input),
            s.half2.eq(s.half),
            s.held2.eq(held),
            s.late2.eq(s.target < s.current),
            s.target2.eq(s.target),
        ]

    def _stage3(self, m: Module, s: _Signals) -> None:
        """Stage 3: what is left of the vector. A bias counts as one row, and never as complete."""
        m.d.sync += [
            s.valid3.eq(s.valid2),
            s.index3.eq(s.index2),
            s.last3.eq(s.last2),
            s.wanted3.eq(s.wanted2),
            s.events3.eq(s.bias2 | (s.position2 != s.vector2.rows)),
            s.complete3.eq(s.vector2.complete & ~s.bias2),
            s.rows3.eq(Mux(s.bias2, 1, s.vector2.rows - s.position2)),
            s.position3.eq(s.position2),
            s.input3.eq(s.input2),
            s.half3.eq(s.half2),
            s.held3.eq(s.held2),
            s.late3.eq(s.late2),
            s.target3.eq(s.target2),
        ]
        if self._chains:
            bias3 = Signal()
            m.d.sync += [s.probed.eq(Cat(s.probing, s.probed)), bias3.eq(s.bias2)]
            with m.If(s.valid3 & s.wanted3 & bias3):
                m.d.sync += s.missing.eq(1)
            with m.If(s.valid3 & ~bias3 & ~s.missing):
                m.d.sync += s.short.eq(1)

    def _decide(self, m: Module, s: _Signals) -> None:
        """The matrix has events, or is finished; the best one so far is kept."""
        rank = Cat(s.late3, s.held3)
        m.d.comb += [
            s.candidate.eq(s.valid3 & s.wanted3 & s.events3),
            s.finish.eq(s.valid3 & s.wanted3 & ~s.events3 & s.complete3),
            s.urgent.eq(s.candidate & ~s.held3 & ~s.late3),
            s.better.eq(s.candidate & (~s.best_valid | (rank < s.best_rank))),
        ]
        with m.If(s.better):
            m.d.sync += [
                s.best_valid.eq(1),
                s.best_rank.eq(rank),
                s.best.eq(s.index3),
                s.best_rows.eq(s.rows3),
                s.best_position.eq(s.position3),
            ]

    def _finish(self, m: Module, s: _Signals) -> None:
        """A matrix has given all its columns of the step."""
        seen = s.seen.bit_select(s.index3, 1)
        with m.If(s.finish):
            m.d.sync += [
                s.finished.bit_select(s.index3, 1).eq(s.parity.bit_select(s.target3, 1)),
                seen.eq(~seen),
            ]
            # Each layer counts by itself: a subtraction after a choice between all is too long.
            with m.Switch(s.target3):
                for i, count in enumerate(s.remaining):
                    with m.Case(i):
                        m.d.sync += [count.eq(count - 1), s.given[i].eq(count == 1)]
            self._write_position(m, s, s.index3, 0)
            m.d.comb += [self.input.finished.eq(s.input3), self.input.half.eq(s.half3)]

    @staticmethod
    def _write_position(m: Module, s: _Signals, matrix: Signal, rows: Any) -> None:
        """Sets how many rows a matrix has taken."""
        m.d.comb += [
            s.position_writer.addr.eq(matrix),
            s.position_writer.data.eq(rows),
            s.position_writer.en.eq(1),
        ]

    def _movement(self, m: Module, s: _Signals) -> None:
        """Idle is what a whole pass has seen unmoved."""
        control = self.control
        m.d.comb += s.moved.eq(
            ~control.quiet
            | s.candidate
            | s.finish
            | s.ready
            | ~control.enable
            | ~s.running
            | control.reset
        )
        with m.If(s.moved):
            m.d.sync += [s.clean.eq(0), control.idle.eq(0)]

    def _pass_end(self, m: Module, s: _Signals) -> None:
        """A pass ends with an urgent matrix, or with the last one."""
        decided = s.urgent | s.last3
        if self._chains:
            # A new pass, and not the rest of this one, sees that the matrix is finished.
            decided |= s.finish & s.probed[-1]
            m.d.comb += [
                s.biases.loaded.eq(s.loaded),
                s.biases.layer.eq(s.target),
                s.biases.place.eq(s.scan),
            ]
        m.d.comb += s.decided.eq(decided)

    # -- states -----------------------------------------------------------------------------------

    def _set_matrix(self, m: Module, s: _Signals) -> None:
        """The first state of the matrix at ``scan``."""
        m.d.sync += s.setting.eq(0)
        with m.If(s.setting):
            self._write_position(m, s, s.scan, 0)
            # A recurrence finds the empty vector of "step -1"; other matrices find nothing.
            m.d.sync += [
                s.seen.bit_select(s.scan, 1).eq(s.matrix.recurrent),
                s.finished.bit_select(s.scan, 1).eq(1),
            ]

    def _setup_states(self, m: Module, s: _Signals) -> None:
        """After a reset: the state of every matrix, then that of every layer."""
        with m.State("STOPPED"):
            with m.If(s.reset_wanted):
                m.d.sync += [s.scan.eq(0), s.reset_wanted.eq(0)]
                if self._chains:
                    m.d.comb += s.biases.reset.eq(1)
                    m.d.sync += [s.short.eq(0), s.first.eq(0)]
                m.next = "SETUP"
        with m.State("SETUP"):
            # Two cycles per matrix, so that a register can look at ``scan``.
            m.d.sync += s.setting.eq(1)
            m.next = "SETUP_WRITE"
        with m.State("SETUP_WRITE"):
            m.d.sync += s.scan.eq(s.scan + 1)
            if self._chains:
                m.d.comb += s.biases.write.eq(s.is_bias & ~s.matrix.recurrent)
                with m.If(s.is_bias):
                    m.d.sync += s.first.eq(s.scan + 1)
            m.next = "SETUP"
            with m.If(s.scan_end):
                self._turn(m, s, 1)
                m.next = "SETUP_LAYERS"
        with m.State("SETUP_LAYERS"), m.If(s.settled.all()):
            self._collect(m, s)
            self._turn(m, s, s.last_layer)
            with m.If(s.last_layer):
                m.d.sync += [
                    s.parity.eq(0),
                    s.loaded.eq(0),
                    s.pending.eq(0),
                    s.running.eq(1),
                ]
                if _has_parameters(self._config):
                    m.d.sync += s.constant.eq(0)
                m.next = "START"

    def _scan_states(self, m: Module, s: _Signals) -> None:
        """A pass, and what it leads to."""
        enable = self.control.enable
        with m.State("START"):
            with m.If(s.reset_wanted):
                m.next = "STOPPED"
            with m.Elif(enable):
                self._begin_pass(m, s)
        with m.State("SCAN"):
            m.d.sync += s.scan.eq(s.scan + 1)
            if self._chains:
                wanted, place = s.biases.wanted, s.biases.index
                m.d.sync += [s.probing.eq(0), s.every.eq(s.every | ~s.probing | ~wanted)]
                with m.If(~s.every):
                    m.d.sync += s.scan.eq(Mux(s.probing & wanted, place, s.first))
            with m.If(s.at_end):
                m.d.sync += [s.scanning.eq(0), s.scan.eq(s.scan)]
            with m.If(s.decided | ~enable):
                m.d.sync += [s.scanning.eq(0), s.valid1.eq(0), s.valid2.eq(0), s.valid3.eq(0)]
                m.d.sync += [s.last1.eq(0), s.last2.eq(0), s.last3.eq(0)]
                m.d.sync += s.scan.eq(Mux(s.better, s.index3, s.best))
                m.next = "CHOOSE"
            # The tables change under a pass while another image is loaded.
            with m.If(~enable):
                m.next = "START"
        with m.State("CHOOSE"):
            with m.If(s.best_valid):
                m.next = "PREPARE"
            with m.Else():
                m.d.sync += self.control.idle.eq(s.clean & ~s.moved)
                self._next_pass(m, s)

    def _begin_pass(self, m: Module, s: _Signals) -> None:
        m.d.sync += [s.scan.eq(0), s.scanning.eq(1), s.best_valid.eq(0), s.clean.eq(~s.moved)]
        if self._chains:
            wanted, place = s.biases.wanted, s.biases.index
            m.d.sync += [s.every.eq(1), s.probing.eq(0), s.missing.eq(0)]
            with m.If(s.short):
                m.d.sync += [
                    s.every.eq(~s.again & ~wanted),
                    s.probing.eq(s.again),
                    s.scan.eq(Mux(s.again, s.best, Mux(wanted, place, s.first))),
                ]
        m.next = "SCAN"

    def _next_pass(self, m: Module, s: _Signals) -> None:
        """Without a pause, unless something else is wanted."""
        m.next = "START"
        with m.If(self.control.enable & ~s.reset_wanted):
            self._begin_pass(m, s)

    def _run_states(self, m: Module, s: _Signals) -> None:
        """The chosen matrix fetches."""
        with m.State("PREPARE"):
            self._prepare_run(m, s)
            m.d.sync += s.run_valid.eq(1)
            m.next = "RUN"
        with m.State("RUN"):
            with m.If(self.runs.ready):
                m.d.sync += s.run_valid.eq(0)
                with m.If(s.run.bias):
                    self._bias_loaded(m, s)
                with m.Else():
                    self._write_position(m, s, s.best, s.best_position + self.rows_done)
                    if self._chains:
                        m.d.comb += s.again.eq(self.rows_done == s.run.rows)
                self._next_pass(m, s)

    def _prepare_run(self, m: Module, s: _Signals) -> None:
        """The run of the matrix at ``best``, which the tables show."""
        config, matrix, run = self._config, s.matrix, s.run
        if _has_parameters(config):
            m.d.sync += s.run_constant.eq(matrix.recurrent)
        m.d.sync += [
            run.bias.eq(s.is_bias),
            run.from_input.eq(s.from_input),
            run.half.eq(s.seen.bit_select(s.best, 1)),
            run.second.eq(s.use_second),
            run.row.eq(matrix.list_base + s.best_position),
            run.rows.eq(s.best_rows),
            run.address.eq(self._address(matrix)),
            run.words.eq(matrix.column_words),
            run.base.eq(matrix.accumulator_base),
            run.gates.eq(matrix.gates),
            run.stride.eq(matrix.stride),
            run.layer.eq(s.target),
            run.step.eq(self._step(s, s.target)),
            *(run[name].eq(matrix[name]) for name in format_fields(config)),
        ]
        if config.columns:
            m.d.sync += run.columns.eq(matrix.columns)
        if config.unequal:
            m.d.sync += run.unequal.eq((matrix.kind == Kind.BLOCK) | (matrix.kind == Kind.STEP))
        if config.hot_words:
            m.d.sync += run.mixed.eq(matrix.mixed)

    def _address(self, matrix: Any) -> Value:
        """Where a matrix begins: in the image, or in the hot store, which lies above the memory."""
        address = self.image.base + matrix.base
        if not self._config.hot_words:
            return address
        memory = self._config.address_bits
        return Mux(matrix.hot, Cat(matrix.base[:memory], 1), address[:memory])

    def _bias_loaded(self, m: Module, s: _Signals) -> None:
        """The run's layer has its biases, or its parameters."""
        loaded = s.loaded.bit_select(s.run.layer, 1)
        if _has_parameters(self._config):
            m.d.sync += [
                s.constant.bit_select(s.run.layer, 1).eq(1),
                loaded.eq(~s.run_constant),
            ]
        else:
            m.d.sync += loaded.eq(1)
