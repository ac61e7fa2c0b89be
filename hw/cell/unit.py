"""The cell unit: takes accumulators unit by unit through the pipeline of the layer's cell.

State variables live here. One cell of the network runs after the other without a gap, except where
the next one is of another kind, or of the same layer as the one before (its state and reference
would still be on their way), or reads the state of another layer: then the pipeline drains first.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import (
    ResultsSignature,
    StateAccessSignature,
    cell_command_layout,
    output_groups,
)
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, SCALE_BITS

from .pipeline import CellPipeline, schedule
from .rescale import RESCALE_LATENCY, ROW_SCALE_LATENCY, Rescale, RowScale

__all__ = ["CellUnit"]


def _parameter_bits(cell: Cell, row: int) -> int:
    """Width of the parameter in a row of a block; 0 where there is none."""
    place = row - len(cell.accumulators)
    formats = list(cell.parameters.values())
    return formats[place].bits if 0 <= place < len(formats) else 0


def _any_of(kind: Signal, cells: list[int]) -> Any:
    """Whether a cell is one of some."""
    return Cat(kind == i for i in cells).any()


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
    result_row : In
        Row of the state memories that the next results belong to.
    arrival : Out(1)
        Results are there; ``result_row`` moves on with the next cycle.
    result_valid, result, clipped : Out
        Results of a group of units, one cycle after ``arrival``, and which of them were clipped.
    command_done : In(1)
        Pulses when a cell's last group has been written back and encoded.
    output_credit : In(1)
        Pulses when a group of the output layer has left.
    host_* : host access to the state memories, only while the engine is idle
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        width = config.cell_width
        super().__init__(
            {
                "commands": In(stream.Signature(cell_command_layout(config))),
                "units": In(stream.Signature(unsigned(s.gates * width * ACCUMULATOR_BITS))),
                "results": Out(ResultsSignature(config)),
                "host": In(StateAccessSignature(s.row, width, s.state, variables=True)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        width, sharing = config.cell_width, config.cell_sharing
        rescale_latency = RESCALE_LATENCY + (ROW_SCALE_LATENCY if config.row_scale else 0)

        # -- issue: one group a cycle -------------------------------------------------------------

        command = Data(cell_command_layout(config))
        active = Signal()
        left = Data(s.row)
        row = Data(s.row)
        peer_rows = [Signal(s.row, name=f"peer_row{k}") for k in range(s.peers)]
        kind = Signal(4)  # cell whose units are in the pipeline
        layer = Signal(s.layer)  # latest layer
        flying = Signal(3)  # commands issued and not yet written back
        credits_ = Signal(range(output_groups(config) + 1), init=output_groups(config))

        credit = Signal()  # from a register: the last credit is never used
        m.d.sync += credit.eq(credits_ > 1)
        upcoming = self.commands.payload
        # Known a cycle late, but not that late that the command just started is forgotten.
        start = Signal()
        may_start = Signal()
        follows = (upcoming.cell == kind) & (upcoming.layer != layer)
        with_peers = [i for i, c in enumerate(config.cells) if CELLS[c].peers]
        if with_peers:
            alone = Signal()  # cells of this kind read what the one before may be writing
            with m.If(start):
                m.d.sync += alone.eq(_any_of(upcoming.cell, with_peers))
            follows &= ~alone
        m.d.sync += may_start.eq(((flying == 0) | follows) & ~start)
        issue, last = Signal(), Signal()
        may_issue: Any = active & (~command.output | credit)
        if sharing > 1:
            # Units enter the pipelines in phase 0, after the rescale.
            phase = Signal(range(sharing))
            m.d.sync += phase.eq(Mux(phase == sharing - 1, 0, phase + 1))
            may_issue &= phase == -rescale_latency % sharing
        m.d.comb += [
            last.eq(left == 1),
            issue.eq(may_issue & self.units.valid),
            self.units.ready.eq(may_issue),
        ]
        m.d.comb += [
            self.commands.ready.eq((~active | (issue & last)) & may_start & ~flying[-1]),
            start.eq(self.commands.ready & self.commands.valid),
        ]
        with m.If(issue):
            m.d.sync += [left.eq(left - 1), row.eq(row + 1)]
            m.d.sync += [r.eq(r + 1) for r in peer_rows]
            with m.If(last):
                m.d.sync += active.eq(0)
        with m.If(start):
            m.d.sync += [
                command.eq(upcoming),
                active.eq(~upcoming.skip),
                left.eq(upcoming.rows),
                row.eq(upcoming.base),
                kind.eq(upcoming.cell),
                layer.eq(upcoming.layer),
            ]
            m.d.sync += [r.eq(upcoming.peers[k]) for k, r in enumerate(peer_rows)]
        m.d.sync += [
            flying.eq(flying + start - self.results.done),
            credits_.eq(credits_ + self.results.credit - (issue & command.output)),
        ]

        # -- rescale: all accumulators of all units of the group; parameters pass unchanged -------

        cells = [CELLS[c] for c in config.cells]
        accumulators = max(len(c.accumulators) for c in cells)
        pre: list[list[Signal]] = []
        constant: list[list[Signal]] = []
        for g in range(s.gates):
            pre.append([])
            constant.append([])
            parameter_bits = max((_parameter_bits(c, g) for c in cells), default=0)
            for p in range(width):
                start_bit = (g * width + p) * ACCUMULATOR_BITS
                word = self.units.payload[start_bit:][:ACCUMULATOR_BITS]
                if g < accumulators:
                    m.submodules[f"rescale{g}_{p}"] = unit = Rescale()
                    m.d.comb += [
                        unit.accumulator.eq(word.as_signed()),
                        unit.shift.eq(command.shift),
                    ]
                    result = unit.result
                    if config.row_scale:
                        result = self._row_scale(m, g, p, kind, result)
                    pre[g].append(result)
                if parameter_bits:
                    value = word[:parameter_bits]
                    for k in range(rescale_latency):
                        later = Data(parameter_bits, name=f"parameter{g}_{p}_{k}")
                        m.d.sync += later.eq(value)
                        value = later
                    constant[g].append(value)

        # -- state: read with the rescale, written with the result --------------------------------

        latencies = [rescale_latency + schedule(CELLS[c], sharing).latency for c in config.cells]
        depth = max(latencies)
        flight = Signal(depth)
        m.d.sync += flight.eq(Cat(issue, flight))
        with m.If(flying == 0):  # what passed a short cell's tap must not reach a longer one's
            m.d.sync += flight.eq(0)
        arrival = self.results.arrival
        with m.Switch(kind):
            for i, latency in enumerate(latencies):
                with m.Case(i):
                    m.d.sync += arrival.eq(flight[latency - 2])

        state_old: dict[str, list[Signal]] = {}
        state_new: dict[str, list[Signal]] = {}
        host_values = []
        for v, name in enumerate(config.state_names):
            state_old[name], state_new[name] = [], []
            keeps = Signal(name=f"keeps_{name}")
            with m.Switch(kind):
                for i, kind_name in enumerate(config.cells):
                    if name in CELLS[kind_name].state:
                        with m.Case(i):
                            m.d.comb += keeps.eq(1)
            values = []
            bits = config.state_bits(name)
            read_row = row
            for k, peer_row in enumerate(peer_rows):
                readers = [i for i, c in enumerate(cells) if list(c.peers)[k : k + 1] == [name]]
                if readers:
                    read_peer = Signal(name=f"{name}_from_peer{k}")
                    m.d.comb += read_peer.eq(_any_of(kind, readers))
                    read_row = Mux(read_peer, peer_row, read_row)
            for p in range(width):
                # No row is read for use while it is written: cells of one layer do not overlap.
                memory = Memory(
                    shape=signed(bits),
                    depth=s.rows,
                    init=[],
                    attrs={"no_rw_check": 1},
                )
                m.submodules[f"state_{name}{p}"] = memory
                reader, writer = memory.read_port(), memory.write_port()
                read1 = Data(signed(bits), name=f"{name}_read{p}")
                old = Signal(signed(bits), name=f"{name}_old{p}")
                new = Signal(signed(bits), name=f"{name}_new{p}")
                m.d.comb += [
                    reader.addr.eq(Mux(self.host.active, self.host.row, read_row)),
                    writer.addr.eq(self.results.row),
                    writer.data.eq(new),
                    writer.en.eq(arrival & keeps),
                ]
                with m.If(self.host.active):
                    m.d.comb += [
                        writer.addr.eq(self.host.row),
                        writer.data.eq(Mux(self.host.clear, 0, self.host.data)),
                        writer.en.eq(
                            self.host.clear
                            | (
                                self.host.write
                                & (self.host.variable == v)
                                & (self.host.element == p)
                            )
                        ),
                    ]
                m.d.sync += read1.eq(reader.data)
                waiting = read1
                for k in range(rescale_latency - 3):
                    later = Data(signed(bits), name=f"{name}_later{p}_{k}")
                    m.d.sync += later.eq(waiting)
                    waiting = later
                m.d.sync += old.eq(waiting)
                state_old[name].append(old)
                state_new[name].append(new)
                values.append(read1)
            host_values.append(Array(values)[self.host.element])
        if host_values:
            m.d.comb += self.host.read.eq(Array(host_values)[self.host.variable])

        # -- cells --------------------------------------------------------------------------------

        results: list[list[tuple[Signal, Signal]]] = []
        for i, name in enumerate(config.cells):
            cell = CELLS[name]
            results.append([])
            for p in range(width):
                m.submodules[f"{name}{p}"] = pipeline = CellPipeline(cell, sharing)
                if sharing > 1:
                    m.d.comb += pipeline.phase.eq(phase)
                for g, accumulator in enumerate(cell.accumulators):
                    m.d.comb += getattr(pipeline, f"m_{accumulator}").eq(pre[g][p])
                for g, parameter in enumerate(cell.parameters, len(cell.accumulators)):
                    m.d.comb += getattr(pipeline, f"m_{parameter}").eq(constant[g][p])
                for variable in {**cell.state, **cell.peers}:
                    m.d.comb += getattr(pipeline, f"s_{variable}").eq(state_old[variable][p])
                for variable in cell.state:
                    with m.If(kind == i):
                        m.d.comb += state_new[variable][p].eq(getattr(pipeline, f"n_{variable}"))
                results[i].append((pipeline.y, pipeline.clipped))
        m.d.sync += self.results.valid.eq(arrival)
        with m.Switch(kind):
            for i in range(len(config.cells)):
                with m.Case(i):
                    m.d.sync += [
                        self.results.values.eq(Cat(y for y, _ in results[i])),
                        self.results.clipped.eq(Cat(c for _, c in results[i])),
                    ]
        return m

    def _row_scale(self, m: Module, g: int, p: int, kind: Signal, value: Signal) -> Signal:
        """The multiplier of accumulator g of unit p of the group, behind its rescale unit.

        Multipliers of two accumulators share a word behind the parameters, so that where it is
        depends on the cell.
        """
        width = self._config.cell_width
        m.submodules[f"row_scale{g}_{p}"] = unit = RowScale()
        found = Signal(SCALE_BITS, name=f"multiplier{g}_{p}")
        with m.Switch(kind):
            for i, name in enumerate(self._config.cells):
                cell = CELLS[name]
                if g < len(cell.accumulators):
                    start = ((cell.rows + g // 2) * width + p) * ACCUMULATOR_BITS + 16 * (g % 2)
                    with m.Case(i):
                        m.d.comb += found.eq(self.units.payload[start:][:SCALE_BITS])
        waiting = found
        for k in range(RESCALE_LATENCY):
            later = Data(SCALE_BITS, name=f"multiplier{g}_{p}_{k}")
            m.d.sync += later.eq(waiting)
            waiting = later
        m.d.comb += [unit.pre.eq(value), unit.multiplier.eq(waiting)]
        return unit.result
