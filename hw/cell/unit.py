"""The cell unit: takes accumulators unit by unit through the pipeline of the layer's cell.

State variables live here. Cells follow each other without a gap, except where the next one is of
another kind, of the same layer as the one before (its state and reference would still be on their
way), or reads the state of another layer: then the pipeline drains first.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import StateAccessSignature
from stillnet.hw.parts.interfaces import ResultsSignature
from stillnet.hw.parts.late_memory import LateMemory
from stillnet.hw.parts.layouts import cell_command_layout, output_groups
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, SCALE_BITS
from stillnet.sw.contract.stages import RESCALE_LATENCY, ROW_SCALE_LATENCY

from .pipeline import CellPipeline, schedule
from .rescale import Rescale, RowScale

__all__ = ["CellUnit"]


def _parameter_bits(cell: Cell, row: int) -> int:
    """Width of the parameter in a row of a block; 0 where there is none."""
    place = row - len(cell.accumulators)
    formats = list(cell.parameters.values())
    return formats[place].bits if 0 <= place < len(formats) else 0


def _any_of(kind: Signal, cells: list[int]) -> Any:
    """Whether a cell is one of some."""
    return Cat(kind == i for i in cells).any()


class _Signals:
    """What the parts of the cell unit share."""

    def __init__(self, config: EngineConfig) -> None:
        shapes, width = Shapes(config), config.cell_width
        # -- issue
        self.command = Data(cell_command_layout(config))
        self.active = Signal()
        self.left = Data(shapes.row)  # groups still to issue
        self.row = Data(shapes.row)
        self.peer_rows = [Signal(shapes.row, name=f"peer_row{k}") for k in range(shapes.peers)]
        self.kind = Signal(4)  # cell whose units are in the pipeline
        self.layer = Signal(shapes.layer)  # latest layer
        self.flying = Signal(3)  # commands issued and not yet written back
        self.start = Signal()  # a command is taken
        self.may_start = Signal()
        self.credit = Signal()  # the output stream has room for a group
        self.phase = Signal(range(max(2, config.cell_sharing)))
        self.may_issue, self.issue = Signal(), Signal()
        self.last = Data()  # one group is left
        # -- operands by accumulator or parameter, then by unit of the group
        self.pre: list[list[Any]] = [[] for _ in range(shapes.gates)]
        self.constant: list[list[Any]] = [[] for _ in range(shapes.gates)]
        # -- state variables by name, then by unit of the group
        self.old: dict[str, list[Signal]] = {}
        self.new: dict[str, list[Signal]] = {}
        self.read: dict[str, list[Signal]] = {}  # what the memory gave, for the host
        for name in config.state_names:
            shape = signed(config.state_bits(name))
            self.old[name] = [Signal(shape, name=f"{name}_old{p}") for p in range(width)]
            self.new[name] = [Signal(shape, name=f"{name}_new{p}") for p in range(width)]
            self.read[name] = [Signal(shape, name=f"{name}_read{p}") for p in range(width)]


class CellUnit(wiring.Component):
    """Rescale units, the pipelines of all cells, and the state memories.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    commands : In(stream of ``cell_command_layout``)
        Cells in the order of dispatch.
    units : In(stream)
        Accumulators, from the reader.
    units_ready_next : Out(1)
        What ``units.ready`` will be in the next cycle.
    results : Out(ResultsSignature)
        Results of the cells, for write-back.
    host : In(StateAccessSignature)
        The host's access to the state memories, only while the engine is idle.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        width = config.cell_width
        super().__init__(
            {
                "commands": In(stream.Signature(cell_command_layout(config))),
                **self._units(),
                "units_ready_next": Out(1),
                "results": Out(ResultsSignature(config)),
                "host": In(StateAccessSignature(s.row, width, s.state, variables=True)),
            }
        )

    def _units(self) -> dict[str, Any]:
        """The members by which units come."""
        gates, width = Shapes(self._config).gates, self._config.cell_width
        if self._config.in_turn:
            word = Out(range(max(2, gates)))
            return {"units": In(stream.Signature(ACCUMULATOR_BITS)), "units_word": word}
        return {"units": In(stream.Signature(unsigned(gates * width * ACCUMULATOR_BITS)))}

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def _cells(self) -> list[Cell]:
        return [CELLS[c] for c in self._config.cells]

    @property
    def _rescale_latency(self) -> int:
        """Cycles from a group of accumulators to the operands of the pipelines."""
        return RESCALE_LATENCY + (ROW_SCALE_LATENCY if self._config.row_scale else 0)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._config)
        self._may_start(m, s)
        self._issue(m, s)
        self._commands(m, s)
        if self._config.in_turn:
            self._rescale_in_turn(m, s)
        else:
            for g in range(Shapes(self._config).gates):
                for p in range(self._config.cell_width):
                    self._rescale(m, s, g, p)
                    self._parameter(m, s, g, p)
        self._arrival(m, s)
        for v, name in enumerate(self._config.state_names):
            self._state_variable(m, s, v, name)
        self._host_read(m, s)
        self._results(m, s, [self._pipelines(m, s, i) for i in range(len(self._cells))])
        return m

    # -- issue: one group per cycle ---------------------------------------------------------------

    def _may_start(self, m: Module, s: _Signals) -> None:
        """Whether the next command may start: known a cycle late, but not forgetting the latest."""
        upcoming = self.commands.payload
        follows: Value = (upcoming.cell == s.kind) & (upcoming.layer != s.layer)
        if self._config.budgets:  # the encoder looks at a vector twice
            follows = Const(0)
        with_peers = [i for i, cell in enumerate(self._cells) if cell.peers]
        if with_peers:
            alone = Signal()  # cells of this kind read what the one before may be writing
            with m.If(s.start):
                m.d.sync += alone.eq(_any_of(upcoming.cell, with_peers))
            follows &= ~alone
        m.d.sync += s.may_start.eq(((s.flying == 0) | follows) & ~s.start)

    def _issue(self, m: Module, s: _Signals) -> None:
        """A group is taken, if its result has a place.

        That is decided a cycle before, because hundreds of registers in front depend on it.
        """
        sharing, upcoming = self._config.cell_sharing, self.commands.payload
        active, output = Signal(), Signal()  # in the next cycle
        m.d.comb += [
            active.eq(Mux(s.start, ~upcoming.skip, s.active & ~(s.issue & s.last))),
            output.eq(Mux(s.start, upcoming.output, s.command.output)),
        ]
        may_issue: Any = active & (~output | s.credit)
        if sharing > 1:
            # Units enter the pipelines in phase 0, after the rescale.
            m.d.sync += s.phase.eq(Mux(s.phase == sharing - 1, 0, s.phase + 1))
            may_issue &= s.phase == (-self._rescale_latency - 1) % sharing
        taken: Any = self.units.valid
        if self._config.in_turn:
            may_issue &= self._in_turn(m, s, active)
            taken = 1  # the reader shows the next unit already
        m.d.comb += [
            s.issue.eq(s.may_issue & taken),
            self.units.ready.eq(s.may_issue),
            self.units_ready_next.eq(may_issue),
        ]
        m.d.sync += [s.active.eq(active), s.may_issue.eq(may_issue)]
        with m.If(s.issue):
            m.d.sync += [s.left.eq(s.left - 1), s.row.eq(s.row + 1), s.last.eq(s.left == 2)]
            m.d.sync += [row.eq(row + 1) for row in s.peer_rows]

    def _in_turn(self, m: Module, s: _Signals, active: Signal) -> Value:
        """Asks for the accumulators of the next unit, one after the other.

        Returns whether it was there, and its command too, before the first of them: they are
        rescaled in the cycles before the unit is taken.
        """
        gates, sharing = Shapes(self._config).gates, self._config.cell_sharing
        with m.Switch(s.phase):
            for g in range(gates):
                with m.Case((g - gates - self._rescale_latency) % sharing):
                    m.d.comb += self.units_word.eq(g)
        there: Value = self.units.valid
        ours: Value = active
        for k in range(gates - 1):
            there_before, there = there, Signal(name=f"there{k}")
            m.d.sync += there.eq(there_before)
            ours_before, ours = ours, Signal(name=f"ours{k}")
            m.d.sync += ours.eq(ours_before)
        return there & ours

    def _commands(self, m: Module, s: _Signals) -> None:
        """The next command starts with the last group of the one before, or later."""
        upcoming, groups = self.commands.payload, output_groups(self._config)
        m.d.comb += [
            self.commands.ready.eq((~s.active | (s.issue & s.last)) & s.may_start & ~s.flying[-1]),
            s.start.eq(self.commands.ready & self.commands.valid),
        ]
        with m.If(s.start):
            m.d.sync += [
                s.command.eq(upcoming),
                s.left.eq(upcoming.rows),
                s.last.eq(upcoming.rows == 1),
                s.row.eq(upcoming.base),
                s.kind.eq(upcoming.cell),
                s.layer.eq(upcoming.layer),
                *(row.eq(upcoming.peers[k]) for k, row in enumerate(s.peer_rows)),
            ]
        credits_ = Signal(range(groups + 1), init=groups)
        m.d.comb += s.credit.eq(credits_ > 1)  # for the next cycle: the last credit is never used
        m.d.sync += [
            s.flying.eq(s.flying + s.start - self.results.done),
            credits_.eq(credits_ + self.results.credit - (s.issue & s.command.output)),
        ]

    # -- operands: accumulators are rescaled, parameters pass unchanged ---------------------------

    def _word(self, g: int, p: int) -> Any:
        """Accumulator or parameter g of unit p of the group."""
        start = (g * self._config.cell_width + p) * ACCUMULATOR_BITS
        return self.units.payload[start:][:ACCUMULATOR_BITS]

    def _rescale(self, m: Module, s: _Signals, g: int, p: int) -> None:
        """Accumulator g of unit p of the group to the format of pre-activations."""
        if g >= max(len(cell.accumulators) for cell in self._cells):
            return
        m.submodules[f"rescale{g}_{p}"] = unit = Rescale()
        m.d.comb += [
            unit.accumulator.eq(self._word(g, p).as_signed()),
            unit.shift.eq(s.command.shift),
        ]
        result = unit.result
        if self._config.row_scale:
            result = self._row_scale(m, g, p, s.kind, result)
        s.pre[g].append(result)

    def _rescale_in_turn(self, m: Module, s: _Signals) -> None:
        """One rescale unit for all accumulators of a unit, which come one after the other."""
        gates, sharing = Shapes(self._config).gates, self._config.cell_sharing
        m.submodules.rescale = unit = Rescale()
        m.d.comb += [
            unit.accumulator.eq(self.units.payload.as_signed()),
            unit.shift.eq(s.command.shift),
        ]
        for g in range(gates - 1):
            waiting = Data(unit.result.shape(), name=f"rescaled{g}")
            with m.If(s.phase == (g + 1 - gates) % sharing):
                m.d.sync += waiting.eq(unit.result)
            s.pre[g].append(waiting)
        s.pre[gates - 1].append(unit.result)

    def _row_scale(self, m: Module, g: int, p: int, kind: Signal, value: Signal) -> Signal:
        """The row multiplier of accumulator g of unit p, after its rescale unit.

        Multipliers of two accumulators share a word after the parameters, so that their place
        depends on the cell.
        """
        m.submodules[f"row_scale{g}_{p}"] = unit = RowScale()
        found = Signal(SCALE_BITS, name=f"multiplier{g}_{p}")
        with m.Switch(kind):
            for i, cell in enumerate(self._cells):
                if g < len(cell.accumulators):
                    word = self._word(cell.rows + g // 2, p)
                    with m.Case(i):
                        m.d.comb += found.eq(word[16 * (g % 2) :][:SCALE_BITS])
        waiting = found
        for k in range(RESCALE_LATENCY):
            later = Data(SCALE_BITS, name=f"multiplier{g}_{p}_{k}")
            m.d.sync += later.eq(waiting)
            waiting = later
        m.d.comb += [unit.pre.eq(value), unit.multiplier.eq(waiting)]
        return unit.result

    def _parameter(self, m: Module, s: _Signals, g: int, p: int) -> None:
        """Parameter g of unit p waits for the rescale of its accumulators."""
        bits = max((_parameter_bits(cell, g) for cell in self._cells), default=0)
        if not bits:
            return
        value = self._word(g, p)[:bits]
        for k in range(self._rescale_latency):
            later = Data(bits, name=f"parameter{g}_{p}_{k}")
            m.d.sync += later.eq(value)
            value = later
        s.constant[g].append(value)

    # -- state: read with the rescale, written with the result ------------------------------------

    def _arrival(self, m: Module, s: _Signals) -> None:
        """When the results of a group come: after the latency of its cell."""
        sharing = self._config.cell_sharing
        latencies = [self._rescale_latency + schedule(c, sharing).latency for c in self._cells]
        flight = Signal(max(latencies))
        m.d.sync += flight.eq(Cat(s.issue, flight))
        with m.If(s.flying == 0):  # what passed a short cell's tap must not reach a longer one's
            m.d.sync += flight.eq(0)
        with m.Switch(s.kind):
            for i, latency in enumerate(latencies):
                with m.Case(i):
                    m.d.sync += self.results.arrival.eq(flight[latency - 2])

    def _state_variable(self, m: Module, s: _Signals, v: int, name: str) -> None:
        """Memories of a state variable, one for each unit of the group."""
        keeps = Signal(name=f"keeps_{name}")  # the cell in the pipeline has it
        with m.Switch(s.kind):
            for i, cell in enumerate(self._cells):
                if name in cell.state:
                    with m.Case(i):
                        m.d.comb += keeps.eq(1)
        read_row: Any = s.row
        for k, peer_row in enumerate(s.peer_rows):
            readers = [i for i, c in enumerate(self._cells) if list(c.peers)[k : k + 1] == [name]]
            if readers:
                read_peer = Signal(name=f"{name}_from_peer{k}")
                m.d.comb += read_peer.eq(_any_of(s.kind, readers))
                read_row = Mux(read_peer, peer_row, read_row)
        for p in range(self._config.cell_width):
            self._state_memory(m, s, v, name, p, keeps, read_row)

    def _state_memory(
        self, m: Module, s: _Signals, v: int, name: str, p: int, keeps: Signal, read_row: Any
    ) -> None:
        """Variable v of unit p of the group."""
        host, results = self.host, self.results
        shape = s.new[name][p].shape()
        # No row is read for use while it is written: cells of one layer do not overlap.
        m.submodules[f"state_{name}{p}"] = memory = LateMemory(shape, Shapes(self._config).rows)
        written = host.write & (host.variable == v) & (host.element == p)
        m.d.comb += [
            memory.row.eq(Mux(host.active, host.row, read_row)),
            memory.write_row.eq(results.row),
            memory.write_data.eq(s.new[name][p]),
            memory.write.eq(results.arrival & keeps),
            s.read[name][p].eq(memory.data),
        ]
        with m.If(host.active):
            m.d.comb += [
                memory.write_row.eq(host.row),
                memory.write_data.eq(Mux(host.clear, 0, host.data)),
                memory.write.eq(host.clear | written),
            ]
        waiting = s.read[name][p]
        for k in range(self._rescale_latency - 3):
            later = Data(shape, name=f"{name}_later{p}_{k}")
            m.d.sync += later.eq(waiting)
            waiting = later
        m.d.sync += s.old[name][p].eq(waiting)

    def _host_read(self, m: Module, s: _Signals) -> None:
        """The host sees the element of the variable that it has chosen."""
        values = [Array(s.read[name])[self.host.element] for name in self._config.state_names]
        if values:
            m.d.comb += self.host.read.eq(Array(values)[self.host.variable])

    # -- cells ------------------------------------------------------------------------------------

    def _pipelines(self, m: Module, s: _Signals, i: int) -> list[CellPipeline]:
        """Pipelines of cell i, one for each unit of the group."""
        cell, sharing = self._cells[i], self._config.cell_sharing
        pipelines = []
        for p in range(self._config.cell_width):
            m.submodules[f"{cell.name}{p}"] = pipeline = CellPipeline(cell, sharing)
            if sharing > 1:
                m.d.comb += pipeline.phase.eq(s.phase)
            for g, accumulator in enumerate(cell.accumulators):
                m.d.comb += getattr(pipeline, f"m_{accumulator}").eq(s.pre[g][p])
            for g, parameter in enumerate(cell.parameters, len(cell.accumulators)):
                m.d.comb += getattr(pipeline, f"m_{parameter}").eq(s.constant[g][p])
            for variable in {**cell.state, **cell.peers}:
                m.d.comb += getattr(pipeline, f"s_{variable}").eq(s.old[variable][p])
            for variable in cell.state:
                with m.If(s.kind == i):
                    m.d.comb += s.new[variable][p].eq(getattr(pipeline, f"n_{variable}"))
            pipelines.append(pipeline)
        return pipelines

    def _results(self, m: Module, s: _Signals, cells: list[list[CellPipeline]]) -> None:
        """Results of the cell at work."""
        m.d.sync += self.results.valid.eq(self.results.arrival)
        with m.Switch(s.kind):
            for i, pipelines in enumerate(cells):
                with m.Case(i):
                    m.d.sync += [
                        self.results.values.eq(Cat(pipeline.y for pipeline in pipelines)),
                        self.results.clipped.eq(Cat(pipeline.clipped for pipeline in pipelines)),
                    ]
