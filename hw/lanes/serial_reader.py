"""Reads the accumulators as :class:`AccumulatorReader` does, and hands them out one by one.

For engines whose cells take several cycles a unit (``EngineConfig.in_turn``): a unit's accumulators
are read from one narrow buffer in the cycles before the unit enters, so that one rescale unit does
for all of them. Where small memories and registers are what an FPGA has least of, that is a tenth
of the engine.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS

from .accumulator_reader import AccumulatorReader, ReaderSignals

__all__ = ["SerialReader"]


class SerialReader(AccumulatorReader):
    """Accumulators of dispatched cells, one word of one unit a cycle.

    Parameters
    ----------
    config : EngineConfig
        With ``in_turn``.

    Members
    -------
    units : Out(stream of 32 bits)
        ``valid``: a unit is there. ``payload``: its word ``units_word`` of the cycle before.
    units_word : In
        Accumulator of the unit.
    units_ready_next : In(1)
        This is the last cycle that looks at the unit.
    """

    def _units(self) -> dict[str, Any]:
        return {
            "units": Out(stream.Signature(unsigned(ACCUMULATOR_BITS))),
            "units_word": In(range(max(2, Shapes(self._config).gates))),
        }

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = ReaderSignals(self._config)
        self._follow_columns(m, s)
        self._begin_block(m, s)
        self._next_block(m, s)
        for k in range(len(s.sides)):
            self._side(m, s, k)
        self._choose(m, s)
        self._commands(m, s)
        gate = self._arrive(m, s)
        self._count_blocks(m, s)
        self._buffer(m, s, gate)
        return m

    def _buffer(self, m: Module, s: ReaderSignals, gate: Any) -> None:
        """One memory for all accumulators: those of a block lie one behind the other."""
        config, depth = self._config, self._config.prefetch_blocks
        count, bits = config.multipliers, ACCUMULATOR_BITS
        m.submodules.buffer = memory = Memory(
            shape=unsigned(count * bits),
            depth=depth << len(gate),
            init=[],
            attrs={"ram_style": "distributed"},
        )
        m.submodules.ends = ends = Memory(shape=unsigned(len(s.arrived_end)), depth=depth, init=[])
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        end_writer, end_reader = ends.write_port(), ends.read_port(domain="comb")
        write_row, read_row, unit = Signal(range(depth)), Signal(range(depth)), Signal(range(count))
        words = Array(reader.data[k * bits :][:bits] for k in range(count))
        value = Data(bits)
        m.d.sync += value.eq(words[unit])
        m.d.comb += [
            writer.addr.eq(Cat(gate, write_row)),
            writer.data.eq(self.sums.data),
            writer.en.eq(Cat(s.arrived).any()),
            reader.addr.eq(Cat(self.units_word, read_row)),
            end_writer.addr.eq(write_row),
            end_writer.data.eq(s.arrived_short - 1),
            end_writer.en.eq(s.put),
            end_reader.addr.eq(read_row),
            self.units.payload.eq(value),
            self.units.valid.eq(s.some),
            s.take.eq(self.units_ready_next & (unit == end_reader.data)),
        ]
        with m.If(s.put):
            m.d.sync += write_row.eq(write_row + 1)
        with m.If(s.take):
            m.d.sync += read_row.eq(read_row + 1)
        with m.If(self.units_ready_next):
            m.d.sync += unit.eq(Mux(s.take, 0, unit + 1))
