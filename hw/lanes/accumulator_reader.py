"""Reads the accumulators of a layer ahead of its cell, and hands them out unit by unit.

The reader follows two limits: it may read a block once every column of the step has been added to
it, even while the last column is still on its way through the lanes; and columns of the next step
may touch a block once the reader is past it. Its buffer lets it run ahead of the cell pipeline, so
that both waits are short (design section 6, rules 1 and 5).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import READ_LATENCY, read_command_layout
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS

from .lanes import COMMIT_CYCLES

__all__ = ["AccumulatorReader"]

QUARTERS = 4
"""Parts of an accumulator that are buffered apart, so that no pointer reaches far."""


class AccumulatorReader(wiring.Component):
    """Accumulators of dispatched cells, ``cell_width`` units at a time.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    commands : In(stream of ``read_command_layout``)
        Cells in the order of dispatch. ``sequence`` is the running number after the layer's last
        column, if one is ``pending``; ``skip`` reads nothing (the host supplies the vector).
    sequence, block : In
        The lanes' progress.
    hold_* : Out
        The cell that is being read, for the lanes.
    read_* : the lanes' accumulator read port.
    units : Out(stream of accumulators * cell_width * 32 bits)
        Accumulator a of unit u of the group at bits ``(a * cell_width + u) * 32``.
    peek_valid, peek_address : In
        The host reads an accumulator word; only while nothing is active.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        super().__init__(
            {
                "commands": In(stream.Signature(read_command_layout(config))),
                "sequence": In(s.sequence),
                "block": In(s.block),
                "hold_layer": Out(s.layer),
                "hold_step": Out(2),
                "hold_block": Out(s.block),
                "hold_active": Out(1),
                "hold_sequence": Out(s.sequence),
                "read_valid": Out(1),
                "read_address": Out(s.accumulator_address - 1),
                "read_inverse": Out(s.accumulator_address - 1),
                "read_bank": Out(1),
                "read_ready": In(1),
                "read_data": In(config.multipliers * ACCUMULATOR_BITS),
                "units": Out(stream.Signature(unsigned(s.gates * config.cell_width * 32))),
                "peek_valid": In(1),
                "peek_address": In(s.accumulator_address),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        lanes, width, depth = config.multipliers, config.cell_width, config.prefetch_blocks

        # -- how far the columns of this step have come -------------------------------------------

        sequence, progress = self.sequence, self.block
        for i in range(COMMIT_CYCLES - 1):
            later_block = Signal.like(self.block, name=f"block{i}", reset_less=True)
            m.d.sync += later_block.eq(progress)
            progress = later_block
            if i < COMMIT_CYCLES - 2:
                later = Signal.like(self.sequence, name=f"sequence{i}", reset_less=True)
                m.d.sync += later.eq(sequence)
                sequence = later

        command = Data(read_command_layout(config))
        active = Signal()
        behind = Data(s.sequence)  # columns taken beyond the last one of this cell
        through = Signal()
        at_last = Signal()
        accept = Signal()
        last_column = Mux(accept, self.commands.payload.sequence, command.sequence)
        m.d.comb += accept.eq(self.commands.ready & self.commands.valid)
        m.d.sync += behind.eq(sequence - last_column)
        m.d.comb += [
            through.eq(~command.pending | ~behind[-1]),
            at_last.eq(behind.all()),
        ]
        # -- fetch side: one accumulator word after the other -------------------------------------

        block = Data(s.block)
        gate = Signal(range(max(2, s.gates)))
        base = Data(s.accumulator_address)
        fresh = Signal()  # what may be read is still that of the previous command
        asking = Signal()  # the command has reads that are not on their way yet
        free = Signal(range(depth + 1), init=depth)  # blocks of the buffer not promised
        some_free = Signal(init=1)
        # Whether the block and the one after it may be read, from what was known a cycle ago.
        open_, open_next, moved = Signal(), Signal(), Signal()
        m.d.sync += [
            open_.eq(through | (at_last & (block < progress))),
            open_next.eq(through | (at_last & (block + 1 < progress))),
        ]
        left = Data(s.unit)  # units of this block and the later ones

        # The read itself starts from registers: its address reaches the memories of all lanes.
        read_gate = Signal.like(gate)
        read_gate_last, read_last = Signal(), Signal()
        read_short = Signal(range(lanes + 1))
        may_ask, granted = Signal(), Signal()
        gate_last, block_last = Signal(), Signal()
        place = Signal(s.accumulator_address)
        gate_base = Signal(s.accumulator_address)  # where gates lie one after the other
        if config.sparse:
            with m.If(may_ask):
                m.d.sync += gate_base.eq(Mux(gate_last, base + 1, gate_base + command.blocks))
            with m.If(accept):
                m.d.sync += gate_base.eq(self.commands.payload.base)
        m.d.comb += [
            may_ask.eq(
                asking & Mux(moved, open_next, open_) & some_free & (~self.read_valid | granted)
            ),
            granted.eq(self.read_valid & self.read_ready),
            gate_last.eq(gate == command.stride - 1),
            block_last.eq(block == command.blocks - 1),
            place.eq(gate_base if config.sparse else base + gate),
            self.hold_layer.eq(command.layer),
            self.hold_step.eq(command.step),
            self.hold_active.eq(active),
            self.hold_sequence.eq(command.sequence),
        ]
        asked_block = Signal()
        m.d.comb += asked_block.eq(may_ask & gate_last)
        m.d.sync += [fresh.eq(0), moved.eq(asked_block)]
        with m.If(granted):
            m.d.sync += self.read_valid.eq(0)
            with m.If(read_gate_last):
                m.d.sync += self.hold_block.eq(self.hold_block + 1)
        with m.If(may_ask & gate_last & block_last):
            m.d.sync += asking.eq(0)
        with m.Elif(fresh):
            m.d.sync += asking.eq(~command.skip)
        with m.If(may_ask):
            m.d.sync += [
                self.read_valid.eq(1),
                self.read_address.eq(place[1:]),
                self.read_inverse.eq(~place[1:]),
                self.read_bank.eq(
                    place[0] if config.sparse else place[0] ^ (block[0] & ~command.stride[0])
                ),
                read_gate.eq(gate),
                read_gate_last.eq(gate_last),
                read_last.eq(gate_last & block_last),
                read_short.eq(Mux(left > lanes, lanes, left)),
                gate.eq(gate + 1),
            ]
            with m.If(gate_last):
                m.d.sync += [
                    gate.eq(0),
                    block.eq(block + 1),
                    base.eq(base + (1 if config.sparse else command.stride)),
                    left.eq(left - lanes),
                ]
        with m.If(self.peek_valid):
            m.d.sync += [
                self.read_address.eq(self.peek_address[1:]),
                self.read_inverse.eq(~self.peek_address[1:]),
                self.read_bank.eq(self.peek_address[0]),
            ]
        finished = Signal()
        m.d.comb += [
            finished.eq((active & command.skip) | (granted & read_last)),
            self.commands.ready.eq(~active | finished),
        ]
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(accept):
            entry = self.commands.payload
            m.d.sync += [
                active.eq(1),
                command.eq(entry),
                block.eq(0),
                self.hold_block.eq(0),
                gate.eq(0),
                base.eq(entry.base),
                left.eq(entry.units),
                fresh.eq(1),
            ]

        # -- buffer: one memory an accumulator, a block of units a row ----------------------------

        arrived, put = Signal(), Signal()  # put: the last gate of a block
        arrived_gate = Signal.like(gate)
        arrived_short = Signal(range(lanes + 1))  # units of the block
        pipe = Cat(granted, granted & read_gate_last, read_gate, read_short)
        for i in range(READ_LATENCY):
            following = Signal(len(pipe), name=f"read{i}")
            m.d.sync += following.eq(pipe)
            pipe = following
        m.d.comb += Cat(arrived, put, arrived_gate, arrived_short).eq(pipe)

        write_row = Signal(range(depth))
        next_row = Signal(range(depth), init=1 % depth)  # the one after that which is handed out
        group = Signal(range(max(2, lanes // width)))
        level = Signal(range(depth + 1))  # blocks completely in the buffer
        take = Signal()
        # The late signals choose between sums that are ready.
        with m.If(take & ~asked_block):
            m.d.sync += [free.eq(free + 1), some_free.eq(1)]
        with m.Elif(asked_block & ~take):
            m.d.sync += [free.eq(free - 1), some_free.eq(free > 1)]
        with m.If(put):
            m.d.sync += write_row.eq(write_row + 1)
        with m.If(take):
            m.d.sync += next_row.eq(next_row + 1)

        ends = Memory(shape=unsigned((lanes // width - 1).bit_length() or 1), depth=depth, init=[])
        m.submodules.ends = ends  # last group of each block
        end_writer = ends.write_port()
        next_reader = ends.read_port(domain="comb")
        arrived_end = Signal.like(next_reader.data)
        m.d.comb += [
            end_writer.addr.eq(write_row),
            arrived_end.eq((arrived_short - 1) >> (width.bit_length() - 1)),
            end_writer.data.eq(arrived_end),
            end_writer.en.eq(put),
            next_reader.addr.eq(next_row),
        ]

        # -- issue side: one group of units after the other ---------------------------------------

        # Two steps to a unit: four groups of a block become one, then that of the right quarter.
        groups = lanes // width
        near = min(groups, 4)
        near_bits = near.bit_length() - 1
        group_last = Signal()
        some = Signal()  # level != 0, from a register
        # Hundreds of registers hang on these, so they are registers themselves: what the output
        # will do is known a cycle before. Two, of which one is inverted, or synthesis would make
        # them one again.
        advance, hold = Signal(init=1), Signal()
        stage_valid = Signal()
        stage_far = Signal(range(max(2, groups // near)))
        # Pointers reach many small memories, so a quarter of the bits of each gate has its own.
        # Synthesis would make them one again if they did not start at different places. Those to
        # the group are pairs, one counting up and one down.
        bits = ACCUMULATOR_BITS // QUARTERS
        part_bits = width * bits
        words = []
        for g in range(s.gates):
            turned = []
            for down in range(2):
                start = g % near
                count = Signal(range(max(2, near)), init=start, name=f"group{g}_{down}")
                following = (count - 1 if down else count + 1) & (near - 1)
                with m.If(advance & some):
                    m.d.sync += count.eq(Mux(group_last, start, following))
                turned.append(count)
            selected = []
            for q in range(QUARTERS):
                start = (QUARTERS * g + q) % depth
                write_at = Signal(range(depth), init=start, name=f"write_row{g}_{q}")
                read_at = Signal(range(depth), init=start, name=f"read_row{g}_{q}")
                with m.If(put):
                    m.d.sync += write_at.eq(write_at + 1)
                with m.If(take):
                    m.d.sync += read_at.eq(read_at + 1)
                memory = Memory(
                    shape=unsigned(lanes * bits),
                    depth=depth,
                    init=[],
                    attrs={"ram_style": "distributed"},
                )
                m.submodules[f"buffer{g}_{q}"] = memory
                writer = memory.write_port()
                reader = memory.read_port(domain="comb")
                m.d.comb += [
                    writer.addr.eq(write_at),
                    writer.data.eq(
                        Cat(
                            self.read_data[i * ACCUMULATOR_BITS + q * bits :][:bits]
                            for i in range(lanes)
                        )
                    ),
                    writer.en.eq(arrived & (arrived_gate == g)),
                    reader.addr.eq(read_at),
                ]
                down = q // 2
                places = [(g - k if down else k - g) % near for k in range(near)]
                parts = []
                for far in range(groups // near):
                    choices = [
                        reader.data[(far * near + k) * part_bits :][:part_bits] for k in places
                    ]
                    parts.append(Array(choices)[turned[down]])
                stage = Data(groups // near * part_bits, name=f"stage{g}_{q}")
                with m.If(advance):
                    m.d.sync += stage.eq(Cat(*parts))
                selected.append(stage.word_select(stage_far, part_bits))
            for p in range(width):
                words += [value[p * bits : (p + 1) * bits] for value in selected]

        # Both registers of the slice stand here, so that the far cell unit's `ready` is cut off.
        m.submodules.units_slice = units_slice = RegisterSlice(self.units.payload.shape())
        connect(m, units_slice.o_stream, flipped(self.units))
        output = units_slice.i_stream
        filled = Signal.like(level)
        advance_next = Signal()
        m.d.sync += [advance.eq(advance_next), hold.eq(~advance_next)]
        m.d.comb += [
            advance_next.eq((advance & ~some) | units_slice.ready_next),
            filled.eq(level + put),
            output.payload.eq(Cat(*words)),
            output.valid.eq(stage_valid),
            take.eq(~hold & some & group_last),
        ]
        # Whether the group is the last of its block: known when it comes up, because many pointers
        # hang on it.
        end = Signal.like(arrived_end)
        with m.If(~some | (take & (level == 1))):  # the block that arrives, if one does
            m.d.sync += [group_last.eq(arrived_end == 0), end.eq(arrived_end)]
        with m.Elif(take):
            m.d.sync += [group_last.eq(next_reader.data == 0), end.eq(next_reader.data)]
        with m.Elif(advance):
            m.d.sync += group_last.eq(group + 1 == end)
        m.d.sync += [
            level.eq(Mux(take, filled - 1, filled)),
            some.eq(Mux(take, filled > 1, filled != 0)),
        ]
        with m.If(advance):
            m.d.sync += [stage_valid.eq(some), stage_far.eq(group[near_bits:])]
            with m.If(some):
                m.d.sync += group.eq(Mux(group_last, 0, group + 1))
        return m
