"""The lanes: multipliers, accumulators, and the walk of a column over them.

Each lane owns the rows congruent to its number and their accumulators. All lanes see the same event
value; each multiplies it by its own byte of the memory word. Accumulators lie in two half banks of
simple dual-port RAM, arranged so that a dense column alternates between them: the cell reads the
bank that the column leaves free (design section 6, rule 5).

A word is four cycles on its way (read, multiply, add, write); sums still on the way are bypassed,
so that columns of one word may hit the same row back to back (rule 6).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import IN_FABRIC, Data
from stillnet.hw.parts.interfaces import (
    HoldSignature,
    ProgressSignature,
    SumReadSignature,
    WaitingSignature,
    column_layout,
    format_fields,
)
from stillnet.hw.parts.multiplier import Multiplier
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, EVENT_BITS
from stillnet.sw.contract.image import BIAS_WORDS, Kind

from .sparse_lanes import SparseLanes

__all__ = ["COMMIT_CYCLES", "Lanes"]

WEIGHT_BITS = 8
COMMIT_CYCLES = 4
"""Cycles by which ``sequence`` and ``block`` must be delayed until a read sees the sums."""


class Lanes(wiring.Component):
    """Takes columns and their words; keeps the accumulators.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    columns : In(stream of ``column_layout``)
        Columns in the order of their words.
    words : In(stream of ``config.word_bits``)
    hold_layer, hold_step, hold_block, hold_active : In
        The cell now reading: words of that layer for a later step wait until their block is below
        ``hold_block``. Steps count modulo 4.
    hold_sequence : In
        Number after the last column that the cell now reading needs.
    hold_next_layer, hold_next_step, hold_next_active : In
        The cell that reads next: words of that layer for a later step wait.
    read_valid, read_address, read_bank, read_ready : accumulator read of the cell
        A word of all lanes; granted while ``read_ready``.
    read_inverse : In
        ``~read_address``, from registers of its own.
    read_data : Out(lanes * 32)
        ``READ_LATENCY`` cycles after the grant.
    column_done : Out(1)
        Pulses as the last word of a column is taken.
    sequence : Out
        Number of columns completely taken, modulo 2**bits.
    block : Out
        Blocks of the column now being taken that are taken completely.
    taken, held, starved : Out(1)
        This cycle a word was taken; a word waited for the cell; a column waited for a word.
    busy : Out(1)
        A column or a sum is on its way.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "columns": In(stream.Signature(column_layout(config))),
                "words": In(stream.Signature(unsigned(config.word_bits))),
                "hold": In(HoldSignature(config)),
                "waiting": In(WaitingSignature(config)),
                "sums": In(SumReadSignature(config)),
                "column_done": Out(1),
                "progress": Out(ProgressSignature(config)),
                "taken": Out(1),
                "held": Out(1),
                "starved": Out(1),
                "busy": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        lanes = config.multipliers
        halves = lanes // config.lanes
        # The words of a bias, or of one weight for each lane.
        parts = BIAS_WORDS * halves

        # -- walk: where each word of a column goes, one word ahead of the words -------------------

        column = Data(column_layout(config))
        valid = Signal()
        left = Data(16)  # words of the column, this one included
        last = Data()  # left == 1
        block = Data(s.block)
        block_base = Data(s.accumulator_address)
        rest = Data(s.gates)  # gates of this block still to come, this one included
        byte = Signal(range(parts))
        others = Signal(s.gates)  # rest without its lowest gate
        gate = Data(range(max(2, s.gates)))  # the lowest of rest
        m.d.comb += others.eq(rest & (rest - 1))

        def lowest(gates: Signal) -> Any:
            found: Any = 0
            for g in reversed(range(s.gates)):
                found = Mux(gates[g], g, found)
            return found

        byte_last = Signal()
        if config.int4:
            last_part = Mux(column.bias, parts - 1, ~column.int4)
            m.d.comb += byte_last.eq(byte == last_part)
        else:
            m.d.comb += byte_last.eq(~column.bias | (byte == parts - 1))
        place = Signal(s.accumulator_address)
        if config.sparse:
            # Gate after gate, so that the rows of a lane can be numbered through.
            bases = [Signal.like(block_base, name=f"base{g}") for g in range(s.gates)]
            m.d.comb += place.eq(Array(bases)[gate] + block)
        else:
            m.d.comb += place.eq(block_base + gate)
        # Even strides would put gate 0 of every block into one bank; fold the block's parity in.
        bank = Signal()
        m.d.comb += bank.eq(place[0] ^ (block[0] & ~column.stride[0]))

        def may_enter(layer: Any, step: Any, at_block: Any) -> Any:
            """No cell has still to read the unit for an earlier step than the column's."""

            def earlier(cell_step: Any) -> Any:
                ahead = Signal(2)
                m.d.comb += ahead.eq(step - cell_step)
                return (ahead == 1) | (ahead == 2)

            return ~(
                (
                    self.hold.active
                    & (self.hold.layer == layer)
                    & earlier(self.hold.step)
                    & (at_block >= self.hold.block)
                )
                | (self.waiting.active & (self.waiting.layer == layer) & earlier(self.waiting.step))
            )

        # The places of the next word and of the one after it. Whether a word may enter comes from a
        # register, because a cell only ever moves on: what it allowed a cycle ago it still allows.
        # The second place is there so that the walk does not hang on the words.
        next_valid, spare_valid = Signal(), Signal()
        enter = Signal()  # there is a place, and it may be entered
        spare_open = Signal()
        step_layout = data.StructLayout(
            {
                "place": len(place),
                "bank": 1,
                "bias": 1,
                "write": 1,
                "last": 1,
                "block_end": 1,
                "value": signed(EVENT_BITS),
                "layer": s.layer,
                "step": 2,
                "block": s.block,
                **({"half": 1} if config.int4 else {}),
                **({"first": 1, "base": len(place)} if config.sparse else {}),
                **format_fields(config),
            }
        )
        walk, next_, spare = Signal(step_layout), Data(step_layout), Data(step_layout)
        m.d.comb += [
            walk.place.eq(place),
            walk.bank.eq(bank),
            walk.bias.eq(column.bias),
            walk.write.eq(byte_last),
            walk.last.eq(last),
            walk.block_end.eq(byte_last & (others == 0)),
            walk.value.eq(column.value),
            walk.layer.eq(column.layer),
            walk.step.eq(column.step),
            walk.block.eq(block),
        ]
        m.d.comb += [walk[name].eq(column[name]) for name in format_fields(config)]
        if config.int4:
            m.d.comb += [walk.half.eq(byte[0]), walk.write.eq(byte_last | ~column.bias)]
        stall = Signal()  # no word is taken, whatever the cell says
        if config.sparse:
            first = Signal()
            m.d.comb += [walk.first.eq(first), walk.base.eq(column.base)]
            with m.If((column.kind != Kind.DENSE) & ~column.bias):
                # It goes through the blocks as it likes, so none of them may be unread.
                m.d.comb += [walk.block.eq((1 << s.block) - 1), walk.block_end.eq(0)]

        def may(step: Any) -> Any:
            return may_enter(step.layer, step.step, step.block)

        take, advance = Signal(), Signal()
        walk_open = Signal()
        m.d.comb += [
            take.eq(enter & self.words.valid & ~stall),
            self.words.ready.eq(enter & ~stall),
            advance.eq(~next_valid | take),
            self.taken.eq(take),
            self.held.eq(next_valid & self.words.valid & ~(enter & ~stall)),
            self.starved.eq(next_valid & ~self.words.valid),
            self.column_done.eq(take & next_.last),
            self.columns.ready.eq(~valid | (~spare_valid & last)),
            walk_open.eq(may(walk)),
        ]
        with m.If(advance):
            m.d.sync += [
                next_valid.eq(spare_valid | valid),
                enter.eq(Mux(spare_valid, spare_open, valid & walk_open)),
                next_.eq(Mux(spare_valid, spare, walk)),
                spare_valid.eq(0),
            ]
        with m.Else():
            m.d.sync += enter.eq(may(next_))
            with m.If(~spare_valid):
                m.d.sync += spare_valid.eq(valid)
        with m.If(spare_valid):
            m.d.sync += spare_open.eq(may(spare))
        with m.Else():
            m.d.sync += [spare.eq(walk), spare_open.eq(walk_open)]
        with m.If(~spare_valid & valid):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            if config.int4:
                m.d.sync += byte.eq(Mux(byte_last, 0, byte + 1))
            else:
                with m.If(column.bias):
                    m.d.sync += byte.eq(byte + 1)
            if config.sparse:
                m.d.sync += first.eq(0)
            with m.If(byte_last):
                m.d.sync += [rest.eq(others), gate.eq(lowest(others))]
                with m.If(others == 0):
                    m.d.sync += [
                        rest.eq(column.gates),
                        gate.eq(lowest(column.gates)),
                        block.eq(block + 1),
                        block_base.eq(block_base + column.stride),
                    ]
            with m.If(last):
                m.d.sync += valid.eq(0)
        with m.If(self.columns.ready & self.columns.valid):
            entry = self.columns.payload
            m.d.sync += [
                valid.eq(1),
                column.eq(entry),
                left.eq(entry.words),
                last.eq(entry.words == 1),
                block.eq(0),
                block_base.eq(entry.base),
                rest.eq(entry.gates),
                gate.eq(lowest(entry.gates)),
                byte.eq(0),
            ]
            if config.sparse:
                m.d.sync += [b.eq(entry.base + g * entry.blocks) for g, b in enumerate(bases)]
                m.d.sync += first.eq(1)
        sequence, taken_block = self.progress.sequence, self.progress.block
        if config.sparse:
            sequence, taken_block = Signal.like(sequence), Signal.like(taken_block)
        with m.If(take & next_.block_end):
            m.d.sync += taken_block.eq(next_.block + 1)
        with m.If(take & next_.last):
            m.d.sync += [sequence.eq(sequence + 1), taken_block.eq(0)]

        if config.sparse:
            # A stage of its own behind the walk; every lane has an address of its own.
            m.submodules.sparse = sparse = SparseLanes(config)
            head = sparse.head
            names = ("value", "kept", "width", "base", "lane_rows", "hole_at", "hole")
            m.d.comb += [
                sparse.taken.eq(take),
                sparse.word.eq(self.words.payload),
                head.kind.eq(Mux(next_.bias, Kind.BIAS, next_.kind)),
                *(head[name].eq(next_[name]) for name in (*names, "first", "place", "write")),
                sparse.progress.sequence.eq(sequence),
                sparse.progress.block.eq(taken_block),
                self.progress.sequence.eq(sparse.done.sequence),
                self.progress.block.eq(sparse.done.block),
                sparse.hold_active.eq(self.hold.active),
                sparse.hold_sequence.eq(self.hold.sequence),
                stall.eq(sparse.stall),
                sparse.read_row.eq(Cat(self.sums.bank, self.sums.address)),
                self.sums.data.eq(sparse.read_data),
                self.sums.ready.eq(1),
                self.busy.eq(valid | next_valid | sparse.busy | self.columns.valid),
            ]
            if config.int4:
                m.d.comb += [head.int4.eq(next_.int4), head.half.eq(next_.half)]
            return m

        # -- stage 0: the word and its place ------------------------------------------------------

        valid0 = Signal()
        row0 = Data(s.accumulator_address - 1)
        bank0 = Signal()
        bias0 = Signal()
        word0 = Data(config.word_bits)
        m.d.sync += [
            valid0.eq(take & next_.write),
            row0.eq(next_.place[1:]),
            bank0.eq(next_.bank),
            bias0.eq(next_.bias),
        ]
        # What is no word is not written either, so nothing wide waits for `take`.
        entered0 = Signal()
        m.d.sync += [word0.eq(self.words.payload), entered0.eq(take)]
        history = Data((parts - 1) * config.word_bits)  # earlier words of a bias, low first
        with m.If(entered0):
            m.d.sync += history.eq(Cat(history[config.word_bits :], word0))

        # -- stages 1 to 3: read, multiply, add, write --------------------------------------------

        valid1, valid2, valid3 = (Signal(name=f"valid{i}") for i in range(1, 4))
        row1, row2, row3 = (Signal.like(row0, name=f"row{i}") for i in range(1, 4))
        bank1, bank2, bank3 = (Signal(name=f"bank{i}") for i in range(1, 4))
        bias1 = Signal()
        m.d.sync += [
            Cat(valid1, valid2, valid3).eq(Cat(valid0, valid1, valid2)),
            Cat(row1, row2, row3).eq(Cat(row0, row1, row2)),
            Cat(bank1, bank2, bank3).eq(Cat(bank0, bank1, bank2)),
            bias1.eq(bias0),
        ]

        def same(valid_n: Signal, row_n: Signal, bank_n: Signal) -> Any:
            return valid_n & (row_n == row0) & (bank_n == bank0)

        # Which older sum does the word need instead of what it read? That of the word one, two or
        # three places before it, the latest first. A bias is not added to anything.
        near1, near2, near3 = (Signal(name=f"near{i}") for i in range(1, 4))
        use_total, use_older = Signal(), Signal()
        m.d.sync += [
            near1.eq(same(valid1, row1, bank1) & ~bias0),
            near2.eq(same(valid2, row2, bank2)),
            near3.eq(same(valid3, row3, bank3)),
            use_total.eq(near1),
        ]
        m.d.sync += use_older.eq(near2 | near3 | bias1)

        # The cell reads the bank that the column leaves free.
        m.d.comb += self.sums.ready.eq(~(valid0 & (bank0 == self.sums.bank)))
        # The memories of the lanes lie far apart, so every second lane has registers of its own in
        # front of its addresses. Inverted, or synthesis would make them one again.
        column_reads, cell_reads = Signal(2), Signal(2, init=3)  # which bank
        row_inverse = Data(len(row0))
        for k in range(2):
            reads = take & next_.write & (next_.bank == k)
            m.d.sync += [column_reads[k].eq(reads), cell_reads[k].eq(~reads)]
        m.d.sync += row_inverse.eq(~next_.place[1:])
        read_bank1, read_bank2 = Signal(), Signal()
        m.d.sync += [read_bank1.eq(self.sums.bank), read_bank2.eq(read_bank1)]

        half = -(-config.accumulators // 2)
        m.d.comb += self.busy.eq(
            valid
            | next_valid
            | spare_valid
            | valid0
            | valid1
            | valid2
            | valid3
            | self.columns.valid
        )
        for i in range(lanes):
            lane = Module()
            product = Data(signed(WEIGHT_BITS + EVENT_BITS))
            # Not the block RAM's own registers: these stand near what adds.
            read = [Data(ACCUMULATOR_BITS, name=f"read{k}", attrs={IN_FABRIC: 1}) for k in range(2)]
            older = Data(ACCUMULATOR_BITS)
            addend = Signal(ACCUMULATOR_BITS)
            total = Data(signed(ACCUMULATOR_BITS))
            total1 = Data(signed(ACCUMULATOR_BITS))
            side, in_word = divmod(i, config.lanes)
            whole = Cat(history, word0)
            bytes_ = [
                whole[(k * halves + side) * config.word_bits + 8 * in_word :][:8]
                for k in range(BIAS_WORDS)
            ]
            bias_value = Data(ACCUMULATOR_BITS)
            # Nothing stands between the multiplier and registers. A bias comes as an older sum: the
            # event's value is 0 there.
            weight = Signal(signed(WEIGHT_BITS))
            lane.d.comb += weight.eq(
                self.words.payload[WEIGHT_BITS * in_word :][:WEIGHT_BITS].as_signed()
            )
            if config.int4:
                # A word of bytes feeds one half of the lanes, the others add nothing.
                with lane.If(next_.int4):
                    lane.d.comb += weight.eq(self.words.payload[4 * i :][:4].as_signed())
                with lane.Elif(next_.half != side):
                    lane.d.comb += weight.eq(0)
            lane.submodules.multiplier = multiplier = Multiplier(WEIGHT_BITS, EVENT_BITS)
            lane.d.comb += [
                multiplier.a.eq(weight),
                multiplier.b.eq(next_.value),
            ]
            lane.d.sync += [
                product.eq(multiplier.product),
                bias_value.eq(Cat(*bytes_)),
            ]
            for k in range(2):
                # A sum read while it is written is bypassed: the memory may give either value.
                memory = Memory(
                    shape=unsigned(ACCUMULATOR_BITS),
                    depth=half,
                    init=[],
                    attrs={"no_rw_check": 1},
                )
                lane.submodules[f"bank{k}"] = memory
                reader = memory.read_port()
                writer = memory.write_port()
                if i % 2 == 0:
                    address = Mux(column_reads[k], row0, self.sums.address)
                else:
                    address = ~Mux(cell_reads[k], self.sums.inverse, row_inverse)
                lane.d.comb += [
                    reader.addr.eq(address),
                    writer.addr.eq(row3),
                    writer.data.eq(total),
                    writer.en.eq(valid3 & (bank3 == k)),
                ]
                # Half of a cycle is gone when a memory's data come. So nothing is done with them
                # before a register.
                lane.d.sync += read[k].eq(reader.data)
            lane.d.comb += [
                addend.eq(
                    Mux(use_total, total, Mux(use_older, older, Mux(bank2, read[1], read[0])))
                ),
                self.sums.data[ACCUMULATOR_BITS * i :][:ACCUMULATOR_BITS].eq(
                    Mux(read_bank2, read[1], read[0])
                ),
            ]
            lane.d.sync += [
                older.eq(Mux(bias1, bias_value, Mux(near2, total, total1))),
                total.eq(addend.as_signed() + product),
                total1.eq(total),
            ]
            m.submodules[f"lane{i}"] = lane
        return m
