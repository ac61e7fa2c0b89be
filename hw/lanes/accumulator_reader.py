"""Reads the accumulators of a layer ahead of its cell, and hands them out unit by unit.

Two limits hold. The reader may read a block once every column of the step has been added to it,
even while the last column is still on its way through the lanes. Columns of the next step may touch
a block once the reader is past it. The reader's buffer lets it run ahead of the cell pipeline, so
that both waits are short (docs/architecture.md, *Rules*).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import (
    HoldSignature,
    PeekSignature,
    ProgressSignature,
    SumReadSignature,
)
from stillnet.hw.parts.layouts import read_command_layout
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS
from stillnet.sw.contract.stages import COMMIT_CYCLES

__all__ = ["AccumulatorReader"]

QUARTERS = 4
"""Parts of an accumulator that have buffers of their own, so that no pointer reaches far."""


class _Signals:
    """What the parts of the reader share."""

    def __init__(self, config: EngineConfig) -> None:
        shapes, depth = Shapes(config), config.prefetch_blocks
        groups = config.multipliers // config.cell_width
        # -- the command, and the word that is read next
        self.command = Data(read_command_layout(config))
        self.accept = Signal()  # a command is taken
        self.active = Signal()
        self.asking = Signal()  # the command has reads that are not on their way yet
        self.open, self.open_next = Signal(), Signal()  # the block, the next block may be read
        self.block = Data(shapes.block)
        self.gate = Signal(range(max(2, shapes.gates)))
        self.gate_last, self.block_last = Signal(), Signal()
        self.base = Data(shapes.accumulator_address)
        self.place = Signal(shapes.accumulator_address)
        self.left = Data(shapes.unit)  # units of this block and the later ones
        self.may_ask = Signal()
        self.asked_block = Signal()  # the last word of a block is asked for
        # -- the read on its way; it starts from registers, because its address reaches the
        # memories of all lanes
        self.granted = Signal()
        self.read_gate = Signal(range(max(2, shapes.gates)))
        self.read_gate_last, self.read_last = Signal(), Signal()
        self.read_short = Signal(range(config.multipliers + 1))
        # -- a word that arrives at the buffer
        # By gate, from registers, because each reaches all memories of its gate.
        # Half of the memories take the inverse.
        self.arrived = [Signal(name=f"arrived{g}") for g in range(shapes.gates)]
        self.absent = [Signal(name=f"absent{g}", init=1) for g in range(shapes.gates)]
        self.put = Signal()  # the last gate of a block
        self.arrived_short = Signal(range(config.multipliers + 1))  # units of the block
        # -- blocks of the buffer
        self.free = Signal(range(depth + 1), init=depth)  # not promised to a read
        self.some_free = Signal(init=1)
        self.level = Signal(range(depth + 1))  # completely there
        self.some, self.some_next = Signal(), Signal()  # level != 0, from a register
        end = unsigned((groups - 1).bit_length() or 1)
        self.arrived_end, self.next_end = Signal(end), Signal(end)  # last group of the block
        # -- the group that is handed out
        self.group = Signal(range(max(2, groups)))
        self.group_last = Signal()
        self.group_last_next = Signal()
        # It is the last one of its block, and goes; the inverse for half of the pointers.
        self.take, self.keep = Signal(), Signal(init=1)
        # Hundreds of registers depend on these, so they are registers themselves: what the output
        # will do is known a cycle before. One of the two is inverted, or synthesis would merge
        # them.
        self.advance, self.hold, self.advance_next = Signal(init=1), Signal(), Signal()
        # A group is chosen in two steps: four groups of a block become one, then one of those.
        self.near = min(groups, 4)
        far = range(max(2, groups // self.near))
        self.stage_far, self.stage_far_inverse = Signal(far), Signal(far, init=far[-1])


class AccumulatorReader(wiring.Component):
    """Accumulators of dispatched cells, ``cell_width`` units at a time.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    commands : In(stream of ``read_command_layout``)
        Cells in the order of dispatch.
    progress : In(ProgressSignature)
        Words that the lanes have taken; their sums are there ``COMMIT_CYCLES`` later.
    hold : Out(HoldSignature)
        Cell that is being read.
    sums : Out(SumReadSignature)
        Read port of the accumulators.
    units : Out(stream of accumulators * cell_width * 32 bits)
        Accumulator a of unit u of the group at bits ``(a * cell_width + u) * 32``.
    units_ready_next : In(1)
        What ``units.ready`` will be in the next cycle.
    peek : In(PeekSignature)
        The host reads an accumulator word; only while nothing is active.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        super().__init__(
            {
                "commands": In(stream.Signature(read_command_layout(config))),
                "progress": In(ProgressSignature(config)),
                "hold": Out(HoldSignature(config)),
                "sums": Out(SumReadSignature(config)),
                "units": Out(stream.Signature(unsigned(s.gates * config.cell_width * 32))),
                "units_ready_next": In(1),
                "peek": In(PeekSignature(config)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._config)
        self._follow_columns(m, s)
        self._next_word(m, s)
        self._ask(m, s)
        self._advance_word(m, s)
        self._commands(m, s)
        self._arrive(m, s)
        self._count_blocks(m, s)
        self._block_ends(m, s)
        words: list[Any] = []
        for g in range(Shapes(self._config).gates):
            words += self._gate_buffer(m, s, g)
        self._hand_out(m, s, words)
        self._next_group(m, s)
        return m

    # -- fetch side: one accumulator word after the other -----------------------------------------

    def _follow_columns(self, m: Module, s: _Signals) -> None:
        """Whether a block and the one after it may be read, from what was known a cycle ago."""
        sequence, progress = self.progress.sequence, self.progress.block
        for i in range(COMMIT_CYCLES - 1):
            later_block = Signal.like(progress, name=f"block{i}", reset_less=True)
            m.d.sync += later_block.eq(progress)
            progress = later_block
            if i < COMMIT_CYCLES - 2:
                later = Signal.like(sequence, name=f"sequence{i}", reset_less=True)
                m.d.sync += later.eq(sequence)
                sequence = later
        behind = Data(len(sequence))  # columns taken beyond the last one of this cell
        through = Signal()  # all columns of the cell are added
        at_last = Signal()  # all but the last one
        last_column = Mux(s.accept, self.commands.payload.sequence, s.command.sequence)
        m.d.sync += behind.eq(sequence - last_column)
        m.d.comb += [
            through.eq(~s.command.pending | ~behind[-1]),
            at_last.eq(behind.all()),
        ]
        m.d.sync += [
            s.open.eq(through | (at_last & (s.block < progress))),
            s.open_next.eq(through | (at_last & (s.block + 1 < progress))),
        ]

    def _next_word(self, m: Module, s: _Signals) -> None:
        """Where the next word stands."""
        command = s.command
        gate_base = Signal(len(s.base))  # where gates lie one after the other
        if self._config.sparse:
            with m.If(s.may_ask):
                m.d.sync += gate_base.eq(Mux(s.gate_last, s.base + 1, gate_base + command.blocks))
            with m.If(s.accept):
                m.d.sync += gate_base.eq(self.commands.payload.base)
        m.d.comb += [
            s.gate_last.eq(s.gate == command.stride - 1),
            s.block_last.eq(s.block == command.blocks - 1),
            s.place.eq(gate_base if self._config.sparse else s.base + s.gate),
        ]

    def _ask(self, m: Module, s: _Signals) -> None:
        """A read is asked for once its block is open and has a place in the buffer."""
        fresh = Signal()  # what may be read is still that of the previous command
        moved = Signal()  # what may be read is still that of the block before
        may_read = Mux(moved, s.open_next, s.open)
        m.d.comb += [
            s.may_ask.eq(s.asking & may_read & s.some_free & (~self.sums.valid | s.granted)),
            s.granted.eq(self.sums.valid & self.sums.ready),
            s.asked_block.eq(s.may_ask & s.gate_last),
            self.hold.layer.eq(s.command.layer),
            self.hold.step.eq(s.command.step),
            self.hold.active.eq(s.active),
            self.hold.sequence.eq(s.command.sequence),
        ]
        m.d.sync += [fresh.eq(0), moved.eq(s.asked_block)]
        with m.If(s.granted):
            m.d.sync += self.sums.valid.eq(0)
            with m.If(s.read_gate_last):
                m.d.sync += self.hold.block.eq(self.hold.block + 1)
        with m.If(s.may_ask & s.gate_last & s.block_last):
            m.d.sync += s.asking.eq(0)
        with m.Elif(fresh):
            m.d.sync += s.asking.eq(~s.command.skip)
        with m.If(s.accept):
            m.d.sync += fresh.eq(1)

    def _advance_word(self, m: Module, s: _Signals) -> None:
        """The read goes into its registers, and the next word is looked at."""
        config, command, sums = self._config, s.command, self.sums
        block_units = config.multipliers
        bank = s.place[0] if config.sparse else s.place[0] ^ (s.block[0] & ~command.stride[0])
        with m.If(s.may_ask):
            m.d.sync += [
                sums.valid.eq(1),
                sums.address.eq(s.place[1:]),
                sums.inverse.eq(~s.place[1:]),
                sums.bank.eq(bank),
                s.read_gate.eq(s.gate),
                s.read_gate_last.eq(s.gate_last),
                s.read_last.eq(s.gate_last & s.block_last),
                s.read_short.eq(Mux(s.left > block_units, block_units, s.left)),
                s.gate.eq(s.gate + 1),
            ]
            with m.If(s.gate_last):
                m.d.sync += [
                    s.gate.eq(0),
                    s.block.eq(s.block + 1),
                    s.base.eq(s.base + (1 if config.sparse else command.stride)),
                    s.left.eq(s.left - block_units),
                ]
        with m.If(self.peek.valid):
            m.d.sync += [
                sums.address.eq(self.peek.address[1:]),
                sums.inverse.eq(~self.peek.address[1:]),
                sums.bank.eq(self.peek.address[0]),
            ]

    def _commands(self, m: Module, s: _Signals) -> None:
        """The next command is taken as the last word of the one before is granted."""
        finished = Signal()
        m.d.comb += [
            finished.eq((s.active & s.command.skip) | (s.granted & s.read_last)),
            self.commands.ready.eq(~s.active | finished),
            s.accept.eq(self.commands.ready & self.commands.valid),
        ]
        with m.If(finished):
            m.d.sync += s.active.eq(0)
        with m.If(s.accept):
            entry = self.commands.payload
            m.d.sync += [
                s.active.eq(1),
                s.command.eq(entry),
                s.block.eq(0),
                self.hold.block.eq(0),
                s.gate.eq(0),
                s.base.eq(entry.base),
                s.left.eq(entry.units),
            ]

    # -- buffer: one memory for each accumulator, a block of units in a row -----------------------

    def _arrive(self, m: Module, s: _Signals) -> None:
        """What is known of a read, until its word arrives."""
        pipe = before = Cat(s.granted & s.read_gate_last, s.read_short, s.granted, s.read_gate)
        for i in range(self._config.read_latency):
            before, pipe = pipe, Signal(len(pipe), name=f"read{i}")
            m.d.sync += pipe.eq(before)
        m.d.comb += Cat(s.put, s.arrived_short).eq(pipe)
        word, gate = before[1 + len(s.read_short)], before[2 + len(s.read_short) :]
        m.d.sync += [here.eq(word & (gate == g)) for g, here in enumerate(s.arrived)]
        m.d.sync += [absent.eq(~(word & (gate == g))) for g, absent in enumerate(s.absent)]

    def _count_blocks(self, m: Module, s: _Signals) -> None:
        """Blocks of the buffer that are free, and those that are there."""
        filled = Signal.like(s.level)
        # The late signals choose between sums that are ready.
        with m.If(s.take & ~s.asked_block):
            m.d.sync += [s.free.eq(s.free + 1), s.some_free.eq(1)]
        with m.Elif(s.asked_block & ~s.take):
            m.d.sync += [s.free.eq(s.free - 1), s.some_free.eq(s.free > 1)]
        m.d.comb += [
            filled.eq(s.level + s.put),
            s.some_next.eq(Mux(s.take, filled > 1, filled != 0)),
        ]
        m.d.sync += [
            s.level.eq(Mux(s.take, filled - 1, filled)),
            s.some.eq(s.some_next),
        ]

    def _block_ends(self, m: Module, s: _Signals) -> None:
        """The last group of each block in the buffer."""
        config, depth = self._config, self._config.prefetch_blocks
        write_row = Signal(range(depth))
        next_row = Signal(range(depth), init=1 % depth)  # the one after that which is handed out
        with m.If(s.put):
            m.d.sync += write_row.eq(write_row + 1)
        with m.If(s.take):
            m.d.sync += next_row.eq(next_row + 1)
        m.submodules.ends = ends = Memory(shape=s.next_end.shape(), depth=depth, init=[])
        writer, reader = ends.write_port(), ends.read_port(domain="comb")
        m.d.comb += [
            s.arrived_end.eq((s.arrived_short - 1) >> (config.cell_width.bit_length() - 1)),
            writer.addr.eq(write_row),
            writer.data.eq(s.arrived_end),
            writer.en.eq(s.put),
            reader.addr.eq(next_row),
            s.next_end.eq(reader.data),
        ]

    def _gate_buffer(self, m: Module, s: _Signals, g: int) -> list[Any]:
        """Buffers of accumulator g; returns the words of the group that is handed out.

        Pointers reach many small memories, so each quarter of the bits has its own. Synthesis
        would merge them if they did not start at different places. Those to the group are pairs,
        one that counts up and one that counts down.
        """
        width = self._config.cell_width
        part = ACCUMULATOR_BITS // QUARTERS
        turned = []
        for down in range(2):
            start = g % s.near
            count = Signal(range(max(2, s.near)), init=start, name=f"group{g}_{down}")
            following = (count - 1 if down else count + 1) & (s.near - 1)
            with m.If(s.advance & s.some):
                m.d.sync += count.eq(Mux(s.group_last, start, following))
            turned.append(count)
        quarters = [self._quarter(m, s, g, q, turned[q // 2]) for q in range(QUARTERS)]
        return [value[p * part : (p + 1) * part] for p in range(width) for value in quarters]

    def _quarter(self, m: Module, s: _Signals, g: int, q: int, turned: Signal) -> Any:
        """Quarter q of accumulator g: its buffer, and that of the group that is handed out."""
        config, depth = self._config, self._config.prefetch_blocks
        count, width = config.multipliers, config.cell_width
        bits = ACCUMULATOR_BITS // QUARTERS
        start = (QUARTERS * g + q) % depth
        write_at = Signal(range(depth), init=start, name=f"write_row{g}_{q}")
        read_at = Signal(range(depth), init=start, name=f"read_row{g}_{q}")
        with m.If(s.put):
            m.d.sync += write_at.eq(write_at + 1)
        with m.If(~s.keep if q // 2 else s.take):
            m.d.sync += read_at.eq(read_at + 1)
        memory = Memory(
            shape=unsigned(count * bits), depth=depth, init=[], attrs={"ram_style": "distributed"}
        )
        m.submodules[f"buffer{g}_{q}"] = memory
        writer, reader = memory.write_port(), memory.read_port(domain="comb")
        starts = [i * ACCUMULATOR_BITS + q * bits for i in range(count)]
        m.d.comb += [
            writer.addr.eq(write_at),
            writer.data.eq(Cat(self.sums.data[k:][:bits] for k in starts)),
            writer.en.eq(~s.absent[g] if q // 2 else s.arrived[g]),
            reader.addr.eq(read_at),
        ]
        part, near, far = width * bits, s.near, count // width // s.near
        down = q // 2
        places = [(g - k if down else k - g) % near for k in range(near)]
        parts = []
        for f in range(far):
            choices = [reader.data[(f * near + k) * part :][:part] for k in places]
            parts.append(Array(choices)[turned])
        stage = Data(far * part, name=f"stage{g}_{q}")
        with m.If(~s.hold if down else s.advance):
            m.d.sync += stage.eq(Cat(*parts))
        if far == 1:
            return stage
        # Half of the bits take the inverse, so that neither reaches too many.
        choices = [stage[f * part :][:part] for f in range(far)]
        return (
            Array(reversed(choices))[s.stage_far_inverse] if down else Array(choices)[s.stage_far]
        )

    # -- issue side: one group of units after the other -------------------------------------------

    def _hand_out(self, m: Module, s: _Signals, words: list[Any]) -> None:
        """The group goes to the cell unit."""
        # Both registers of the slice stand here, so that the far cell unit's `ready` is cut off.
        shape = self.units.payload.shape()
        m.submodules.units_slice = units_slice = RegisterSlice(shape, early=True)
        connect(m, units_slice.o_stream, flipped(self.units))
        m.d.comb += units_slice.o_ready_next.eq(self.units_ready_next)
        output = units_slice.i_stream
        stage_valid = Signal()
        m.d.sync += [s.advance.eq(s.advance_next), s.hold.eq(~s.advance_next)]
        m.d.comb += [
            s.advance_next.eq((s.advance & ~s.some) | units_slice.ready_next),
            output.payload.eq(Cat(*words)),
            output.valid.eq(stage_valid),
        ]
        far = s.group[s.near.bit_length() - 1 :]
        with m.If(s.advance):
            m.d.sync += stage_valid.eq(s.some)
            if len(far):
                m.d.sync += [s.stage_far.eq(far), s.stage_far_inverse.eq(~far)]

    def _next_group(self, m: Module, s: _Signals) -> None:
        """Whether the group is the last of its block, and whether the block goes with it.

        That is known as the group comes up, because many pointers depend on it.
        """
        end = Signal.like(s.arrived_end)
        m.d.comb += s.group_last_next.eq(s.group_last)
        with m.If(~s.some | (s.take & (s.level == 1))):  # the block that arrives, if one does
            m.d.comb += s.group_last_next.eq(s.arrived_end == 0)
            m.d.sync += end.eq(s.arrived_end)
        with m.Elif(s.take):
            m.d.comb += s.group_last_next.eq(s.next_end == 0)
            m.d.sync += end.eq(s.next_end)
        with m.Elif(s.advance):
            m.d.comb += s.group_last_next.eq(s.group + 1 == end)
        take_next = s.advance_next & s.some_next & s.group_last_next
        m.d.sync += [
            s.group_last.eq(s.group_last_next),
            s.take.eq(take_next),
            s.keep.eq(~take_next),
        ]
        with m.If(s.advance), m.If(s.some):
            m.d.sync += s.group.eq(Mux(s.group_last, 0, s.group + 1))
