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

from stillnet.hw.parts.data_register import Data, copies
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

__all__ = ["AccumulatorReader", "ReaderSignals"]

QUARTERS = 4
"""Parts of an accumulator that have buffers of their own, so that no pointer reaches far."""


class _Side:
    """Words of the block that lie in one half bank: every second, or all where there is one."""

    def __init__(self, config: EngineConfig, number: int) -> None:
        gates = range(max(2, Shapes(config).gates))
        self.wanted = Signal(name=f"wanted{number}")  # there is one that was not taken
        self.more = Signal(name=f"more{number}")  # and another one
        self.gate = Signal(gates, name=f"side_gate{number}")  # of the next one
        self.taken = Signal(name=f"taken{number}")


class ReaderSignals:
    """What the parts of the reader share."""

    def __init__(self, config: EngineConfig) -> None:
        shapes, depth = Shapes(config), config.prefetch_blocks
        groups = config.multipliers // config.cell_width
        # -- the command, and the block that is read next
        self.command = Data(read_command_layout(config))
        self.accept = Signal()  # a command is taken
        self.active = Signal()
        self.asking = Signal()  # the command has blocks that were not begun
        self.open, self.open_next = Signal(), Signal()  # the block, the next block may be read
        self.block = Data(shapes.block)
        self.block_last = Signal()
        self.base = Data(shapes.accumulator_address)  # place of the block's first word
        self.left = Data(shapes.unit)  # units of this block and the later ones
        self.begin = Signal()  # of the block
        # -- the block that is being read; its reads start from registers, because their rows reach
        # the memories of all lanes
        self.sides = [_Side(config, k) for k in range(shapes.banks)]
        self.block_done = Signal()  # its last word is taken
        self.read_last = Signal()  # it is the command's last block
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
        # Hundreds of registers depend on whether it moves on, so that is in registers itself, one
        # for each quarter of the sums: what the output will do is known a cycle before.
        self.advance_next = Signal()
        self.moves: list[Any] = []
        self.advance: Any = 0  # the first of them
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
        super().__init__(
            {
                "commands": In(stream.Signature(read_command_layout(config))),
                "progress": In(ProgressSignature(config)),
                "hold": Out(HoldSignature(config)),
                "sums": Out(SumReadSignature(config)),
                **self._units(),
                "units_ready_next": In(1),
                "peek": In(PeekSignature(config)),
            }
        )

    def _units(self) -> dict[str, Any]:
        """The members by which units go to their cell."""
        words = Shapes(self._config).gates * self._config.cell_width
        return {"units": Out(stream.Signature(unsigned(words * 32)))}

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = ReaderSignals(self._config)
        s.moves = copies(m, s.advance_next, "move", init=1)
        s.advance = s.moves[0]
        self._follow_columns(m, s)
        self._begin_block(m, s)
        self._next_block(m, s)
        for k in range(len(s.sides)):
            self._side(m, s, k)
        self._choose(m, s)
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

    # -- fetch side: one block after the other ----------------------------------------------------

    def _follow_columns(self, m: Module, s: ReaderSignals) -> None:
        """Whether a block and the one after it may be read, from what was known a cycle ago."""
        sequence, progress = self.progress.sequence, self.progress.block
        for i in range(COMMIT_CYCLES - 2):
            later_block = Signal.like(progress, name=f"block{i}", reset_less=True)
            m.d.sync += later_block.eq(progress)
            progress = later_block
            if i < COMMIT_CYCLES - 3:
                later = Signal.like(sequence, name=f"sequence{i}", reset_less=True)
                m.d.sync += later.eq(sequence)
                sequence = later
        behind = Data(len(sequence))  # columns taken beyond the last one of this cell
        through = Signal()  # all columns of the cell are added
        at_last = Signal()  # all but the last one
        # Both differences are formed at once, because it is known late whether a command is taken.
        of_next, of_this = Signal.like(behind), Signal.like(behind)
        m.d.comb += [
            of_next.eq(sequence - self.commands.payload.sequence),
            of_this.eq(sequence - s.command.sequence),
        ]
        m.d.sync += behind.eq(Mux(s.accept, of_next, of_this))
        m.d.comb += [
            through.eq(~s.command.pending | ~behind[-1]),
            at_last.eq(behind.all()),
        ]
        m.d.sync += [
            s.open.eq(through | (at_last & (s.block < progress))),
            s.open_next.eq(through | (at_last & (s.block + 1 < progress))),
        ]

    def _begin_block(self, m: Module, s: ReaderSignals) -> None:
        """A block's reads are asked for once it is open and has a place in the buffer."""
        fresh = Signal()  # what may be read is still that of the previous command
        moved = Signal()  # what may be read is still that of the block before
        free = ~self.sums.valid.any() | s.block_done
        m.d.comb += [
            s.begin.eq(s.asking & Mux(moved, s.open_next, s.open) & s.some_free & free),
            s.block_last.eq(s.block == s.command.blocks - 1),
            self.hold.layer.eq(s.command.layer),
            self.hold.step.eq(s.command.step),
            self.hold.active.eq(s.active),
            self.hold.sequence.eq(s.command.sequence),
        ]
        m.d.sync += [fresh.eq(0), moved.eq(s.begin)]
        with m.If(s.block_done):
            m.d.sync += self.hold.block.eq(self.hold.block + 1)
        with m.If(s.begin & s.block_last):
            m.d.sync += s.asking.eq(0)
        with m.Elif(fresh):
            m.d.sync += s.asking.eq(~s.command.skip)
        with m.If(s.accept):
            m.d.sync += fresh.eq(1)

    def _next_block(self, m: Module, s: ReaderSignals) -> None:
        """The next block is looked at."""
        units = self._config.multipliers
        with m.If(s.begin):
            m.d.sync += [
                s.read_last.eq(s.block_last),
                s.read_short.eq(Mux(s.left > units, units, s.left)),
                s.block.eq(s.block + 1),
                s.base.eq(s.base + (1 if self._config.sparse else s.command.stride)),
                s.left.eq(s.left - units),
            ]

    def _side(self, m: Module, s: ReaderSignals, k: int) -> None:
        """The words of a half bank, one after the other."""
        command, side, sums = s.command, s.sides[k], self.sums
        banks = len(s.sides)
        # Two gates that follow each other lie in different banks; even strides are turned over in
        # odd blocks. Where there is one bank, gates lie one behind the other.
        first: Any = 0
        step: Any = command.blocks
        if banks == 2:
            first, step = Signal(name=f"first{k}"), 1
            turned = s.block[0] & ~command.stride[0]
            m.d.comb += first.eq(s.base[0] ^ turned ^ k)
        row, following = Data(len(sums.rows[k]), name=f"row{k}"), Signal(len(sums.rows[k]))
        inverse = Data(len(row), name=f"inverse{k}")
        m.d.comb += [
            following.eq(row + step),
            side.taken.eq(sums.taken & (sums.bank == k)),
            sums.valid[k].eq(side.wanted),
            sums.rows[k].eq(row),
            sums.inverses[k].eq(inverse),
        ]
        with m.If(side.taken):
            m.d.sync += [
                row.eq(following),
                inverse.eq(~following),
                side.wanted.eq(side.more),
                side.gate.eq(side.gate + banks),
                side.more.eq(side.gate + 2 * banks < command.stride),
            ]
        begin = Signal(len(row), name=f"begin{k}")
        m.d.comb += begin.eq(s.base if banks == 1 else s.base[1:] + (s.base[0] & first))
        with m.If(s.begin):
            m.d.sync += [
                row.eq(begin),
                inverse.eq(~begin),
                side.wanted.eq(command.stride > first),
                side.gate.eq(first),
                side.more.eq(command.stride > first + banks),
            ]
        with m.If(self.peek.valid):
            host = self.peek.address[banks - 1 :]
            m.d.sync += [row.eq(host), inverse.eq(~host)]

    def _choose(self, m: Module, s: ReaderSignals) -> None:
        """One read a cycle, of a bank that the columns leave free; the banks take turns."""
        sums, sides = self.sums, s.sides
        able = Signal(len(sides))
        m.d.comb += [able.eq(sums.valid & sums.ready), sums.taken.eq(able.any())]
        left: Any = sides[0].wanted & sides[0].more
        if len(sides) == 2:
            turn, peeked = Signal(), Signal()
            m.d.comb += sums.bank.eq(Mux(sums.valid.any(), Mux(turn, able[1], ~able[0]), peeked))
            with m.If(sums.taken):
                m.d.sync += turn.eq(~sums.bank)
            with m.If(self.peek.valid):
                m.d.sync += peeked.eq(self.peek.address[0])
            left = Mux(sums.bank, sides[1].more | sides[0].wanted, sides[0].more | sides[1].wanted)
        m.d.comb += s.block_done.eq(sums.taken & ~left)

    def _commands(self, m: Module, s: ReaderSignals) -> None:
        """The next command is taken as the last word of the one before is granted."""
        finished = Signal()
        m.d.comb += [
            finished.eq((s.active & s.command.skip) | (s.block_done & s.read_last)),
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
                s.base.eq(entry.base),
                s.left.eq(entry.units),
            ]

    # -- buffer: one memory for each accumulator, a block of units in a row -----------------------

    def _arrive(self, m: Module, s: ReaderSignals) -> Signal:
        """What is known of a read, until its word arrives. Returns the accumulator it is of."""
        gate: Any = s.sides[0].gate
        if len(s.sides) == 2:
            gate = Mux(self.sums.bank, s.sides[1].gate, gate)
        pipe = before = Cat(s.block_done, s.read_short, self.sums.taken, gate)
        for i in range(self._config.read_latency):
            before, pipe = pipe, Signal(len(pipe), name=f"read{i}")
            m.d.sync += pipe.eq(before)
        m.d.comb += Cat(s.put, s.arrived_short).eq(pipe)
        word, gate = before[1 + len(s.read_short)], before[2 + len(s.read_short) :]
        m.d.sync += [here.eq(word & (gate == g)) for g, here in enumerate(s.arrived)]
        m.d.sync += [absent.eq(~(word & (gate == g))) for g, absent in enumerate(s.absent)]
        return pipe[2 + len(s.read_short) :]

    def _count_blocks(self, m: Module, s: ReaderSignals) -> None:
        """Blocks of the buffer that are free, and those that are there."""
        filled = Signal.like(s.level)
        # The late signals choose between sums that are ready.
        with m.If(s.take & ~s.begin):
            m.d.sync += [s.free.eq(s.free + 1), s.some_free.eq(1)]
        with m.Elif(s.begin & ~s.take):
            m.d.sync += [s.free.eq(s.free - 1), s.some_free.eq(s.free > 1)]
        m.d.comb += [
            filled.eq(s.level + s.put),
            s.some_next.eq(Mux(s.take, filled > 1, filled != 0)),
        ]
        m.d.sync += [
            s.level.eq(Mux(s.take, filled - 1, filled)),
            s.some.eq(s.some_next),
        ]

    def _block_ends(self, m: Module, s: ReaderSignals) -> None:
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

    def _gate_buffer(self, m: Module, s: ReaderSignals, g: int) -> list[Any]:
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
            with m.If(s.moves[1 + down] & s.some):
                m.d.sync += count.eq(Mux(s.group_last, start, following))
            turned.append(count)
        quarters = [self._quarter(m, s, g, q, turned[q // 2]) for q in range(QUARTERS)]
        return [value[p * part : (p + 1) * part] for p in range(width) for value in quarters]

    def _quarter(self, m: Module, s: ReaderSignals, g: int, q: int, turned: Signal) -> Any:
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
        with m.If(s.moves[q]):
            m.d.sync += stage.eq(Cat(*parts))
        if far == 1:
            return stage
        # Half of the bits take the inverse, so that neither reaches too many.
        choices = [stage[f * part :][:part] for f in range(far)]
        return (
            Array(reversed(choices))[s.stage_far_inverse] if down else Array(choices)[s.stage_far]
        )

    # -- issue side: one group of units after the other -------------------------------------------

    def _hand_out(self, m: Module, s: ReaderSignals, words: list[Any]) -> None:
        """The group goes to the cell unit."""
        # Both registers of the slice stand here, so that the far cell unit's `ready` is cut off.
        shape = self.units.payload.shape()
        m.submodules.units_slice = units_slice = RegisterSlice(shape, early=True)
        connect(m, units_slice.o_stream, flipped(self.units))
        m.d.comb += units_slice.o_ready_next.eq(self.units_ready_next)
        output = units_slice.i_stream
        stage_valid = Signal()
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

    def _next_group(self, m: Module, s: ReaderSignals) -> None:
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
