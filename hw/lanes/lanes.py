"""The lanes: multipliers, accumulators, and the walk of a column over them.

A lane is a byte of the memory word. It has a multiplier, which owns some rows of every block and
their accumulators; with ``int4`` it has two, and a byte holds a weight for each. So an engine has
``config.multipliers`` multipliers, in one or two *halves* of ``config.lanes``. All of them see the
same event value, and each multiplies it by its own weight. Accumulators lie in two half banks of
simple dual-port RAM, arranged so that a dense column alternates between them: the cell reads the
bank that the column leaves free.

A word is four cycles on its way (read, multiply, add, write). Sums still on the way are bypassed,
so columns of one word may hit the same row back to back (docs/architecture.md, *In the lanes*).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import IN_FABRIC, Data
from stillnet.hw.parts.interfaces import (
    HoldSignature,
    ProgressSignature,
    SumReadSignature,
    TakenSignature,
    WaitingSignature,
)
from stillnet.hw.parts.layouts import column_layout, format_fields
from stillnet.hw.parts.multiplier import Multiplier
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, EVENT_BITS
from stillnet.sw.contract.image import BIAS_WORDS, Kind

from .sparse_lanes import SparseLanes

__all__ = ["Lanes"]

WEIGHT_BITS = 8


def _step_layout(config: EngineConfig) -> data.StructLayout:
    """A place of the walk: where a word goes, and what belongs to it."""
    s = Shapes(config)
    return data.StructLayout(
        {
            "place": s.accumulator_address,
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
            **({"first": 1, "base": s.accumulator_address} if config.sparse else {}),
            **format_fields(config),
        }
    )


class _Walk:
    """The walk of a column: signals that its parts share."""

    def __init__(self, config: EngineConfig) -> None:
        shapes = Shapes(config)
        # -- the column
        self.column = Data(column_layout(config))
        self.valid = Signal()
        self.left = Data(16)  # words of the column, this one included
        self.last = Data()  # left == 1
        self.block = Data(shapes.block)
        # A pruned column: its rows are in any order, so no block of the layer may be unread. The
        # walk stands at the last one there is.
        self.any_block: Any = Data() if config.sparse else Const(0, 1)
        # Of the block; of its words, where the gates of a block lie together.
        self.block_base = Data(shapes.accumulator_address)
        self.rest = Data(shapes.gates)  # gates of this block still to come, this one included
        self.others = Signal(shapes.gates)  # rest without its lowest gate
        self.none_other = Data()  # others == 0
        self.gate = Data(range(max(2, shapes.gates)))  # the lowest of rest
        # Words of a bias, or of one weight for each multiplier.
        self.byte = Signal(range(BIAS_WORDS * config.multipliers // config.lanes))
        self.byte_last = Signal()
        # From the first gate's words to those of each: gates lie one after the other, so that the
        # rows of a multiplier can be numbered through; only for pruned columns.
        self.offsets = [
            Data(shapes.accumulator_address, name=f"offset{g}")
            for g in range(shapes.gates if config.sparse else 0)
        ]
        self.first = Signal()  # the first word of the column, only for pruned columns
        # -- places: the word that the walk is at, that of the next word, and one in between.
        # Whether a word may enter comes from a register, because a cell only ever moves on: what
        # it allowed a cycle ago it still allows. The spare place makes the walk independent of the
        # words.
        layout = _step_layout(config)
        self.walk, self.next, self.spare = Signal(layout), Data(layout), Data(layout)
        self.next_valid, self.spare_valid = Signal(), Signal()
        self.walk_open, self.spare_open = Signal(), Signal()
        self.enter = Signal()  # there is a next place, and it may be entered
        self.stall = Signal()  # no word is taken, whatever the cell says
        self.take = Signal()
        self.advance = Signal()


class _Sums:
    """The way of a word to its sum; a number is the stage.

    Stage 0 has the word and its place, then come read, multiply, add and write.
    """

    def __init__(self, config: EngineConfig) -> None:
        shapes = Shapes(config)
        bits = shapes.accumulator_address - 1
        self.valid0, self.valid1, self.valid2, self.valid3 = (
            Signal(name=f"valid{i}") for i in range(4)
        )
        self.row0, self.row1, self.row2, self.row3 = (Data(bits, name=f"row{i}") for i in range(4))
        self.bank0, self.bank1, self.bank2, self.bank3 = (Signal(name=f"bank{i}") for i in range(4))
        self.bias0, self.bias1 = Signal(), Signal()
        self.word0 = Data(config.word_bits)
        halves = config.multipliers // config.lanes
        # Earlier words of a bias, low first.
        self.history = Data((BIAS_WORDS * halves - 1) * config.word_bits)
        # Which older sum the word needs: that of one, two or three words before it.
        self.near1, self.near2, self.near3 = (Signal(name=f"near{i}") for i in range(1, 4))
        self.use_total, self.use_older = Signal(), Signal()
        # The memories lie far apart, so every second multiplier has registers of its own in front
        # of its addresses. They are inverted, or synthesis would merge them.
        self.column_reads, self.cell_reads = Signal(2), Signal(2, init=3)  # which bank
        self.row_inverse = Data(bits)
        self.read_bank2 = Signal()  # bank of the cell's read, as its data come


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
    hold : In(HoldSignature)
        Cell that is being read: words of its layer for a later step wait until their block is
        below ``hold.block``.
    waiting : In(WaitingSignature)
        Cell that is read next: words of its layer for a later step wait.
    sums : In(SumReadSignature)
        The cell's read of the accumulators.
    progress : Out(ProgressSignature)
        Columns and blocks that were taken.
    taken : Out(TakenSignature)
        What was taken in this cycle.
    held, starved : Out(1)
        In this cycle a word waited for the cell; a column waited for a word.
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
                "progress": Out(ProgressSignature(config)),
                "taken": Out(TakenSignature()),
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
        w = _Walk(self._config)
        self._place(m, w)
        self._step(m, w)
        self._take_word(m, w)
        self._move_places(m, w)
        self._next_word(m, w)
        self._next_column(m, w)
        if self._config.sparse:
            self._sparse(m, w)
        else:
            self._count(m, w, self.progress.sequence, self.progress.block)
            s = _Sums(self._config)
            self._word(m, w, s)
            self._stages(m, s)
            self._bypass(m, s)
            self._cell_read(m, w, s)
            self._busy(m, w, s)
            for i in range(self._config.multipliers):
                m.submodules[f"lane{i}"] = self._multiplier(w, s, i)
        return m

    # -- walk: where each word of a column goes, one word ahead of the words ----------------------

    def _lowest(self, gates: Signal) -> Any:
        """Number of the lowest gate of a mask."""
        found: Any = 0
        for g in reversed(range(Shapes(self._config).gates)):
            found = Mux(gates[g], g, found)
        return found

    def _gates(self, m: Module, w: _Walk, gates: Any) -> None:
        """Gates of the block that are still to come."""
        m.d.sync += [
            w.rest.eq(gates),
            w.gate.eq(self._lowest(gates)),
            w.none_other.eq(gates & (gates - 1) == 0),
        ]

    def _place(self, m: Module, w: _Walk) -> None:
        """Where the word at the walk goes."""
        config, column = self._config, w.column
        parts = BIAS_WORDS * config.multipliers // config.lanes
        m.d.comb += w.others.eq(w.rest & (w.rest - 1))
        if config.int4:
            last_part = Mux(column.bias, parts - 1, ~column.int4)
            m.d.comb += w.byte_last.eq(w.byte == last_part)
        else:
            m.d.comb += w.byte_last.eq(~column.bias | (w.byte == parts - 1))
        place, bank = Signal(len(w.block_base)), Signal()
        if config.sparse:
            m.d.comb += place.eq(Array(w.offsets)[w.gate] + w.block_base)
        else:
            m.d.comb += place.eq(w.block_base + w.gate)
        m.d.comb += [
            # Even strides would put gate 0 of every block into one bank, so the bank is turned over
            # in odd blocks.
            bank.eq(place[0] ^ (w.block[0] & ~column.stride[0])),
            w.walk.place.eq(place),
            w.walk.bank.eq(bank),
        ]

    def _step(self, m: Module, w: _Walk) -> None:
        """What belongs to the word at the walk."""
        config, column, walk = self._config, w.column, w.walk
        m.d.comb += [
            walk.bias.eq(column.bias),
            walk.write.eq(w.byte_last),
            walk.last.eq(w.last),
            walk.block_end.eq(w.byte_last & w.none_other),
            walk.value.eq(column.value),
            walk.layer.eq(column.layer),
            walk.step.eq(column.step),
            walk.block.eq(w.block),
            *(walk[name].eq(column[name]) for name in format_fields(config)),
        ]
        if config.int4:
            m.d.comb += [walk.half.eq(w.byte[0]), walk.write.eq(w.byte_last | ~column.bias)]
        if config.sparse:
            m.d.comb += [walk.first.eq(w.first), walk.base.eq(column.base)]
            with m.If(w.any_block):
                m.d.comb += walk.block_end.eq(0)

    def _may_enter(self, m: Module, step: Any) -> Any:
        """No cell has still to read the unit for an earlier step than the column's."""

        def earlier(cell_step: Any) -> Any:
            ahead = Signal(2)
            m.d.comb += ahead.eq(step.step - cell_step)
            return (ahead == 1) | (ahead == 2)

        hold, waiting = self.hold, self.waiting
        unread = step.block >= hold.block
        return ~(
            (hold.active & (hold.layer == step.layer) & earlier(hold.step) & unread)
            | (waiting.active & (waiting.layer == step.layer) & earlier(waiting.step))
        )

    def _take_word(self, m: Module, w: _Walk) -> None:
        """A word is taken when its place may be entered."""
        words = self.words
        may_take = w.enter & ~w.stall
        m.d.comb += [
            w.take.eq(w.enter & words.valid & ~w.stall),
            words.ready.eq(may_take),
            w.advance.eq(~w.next_valid | w.take),
            self.taken.word.eq(w.take),
            self.held.eq(w.next_valid & words.valid & ~may_take),
            self.starved.eq(w.next_valid & ~words.valid),
            self.taken.column.eq(w.take & w.next.last),
            self.columns.ready.eq(~w.valid | (~w.spare_valid & w.last)),
        ]

    def _move_places(self, m: Module, w: _Walk) -> None:
        """The places move on, and whether they may be entered is asked again each cycle."""
        m.d.comb += w.walk_open.eq(self._may_enter(m, w.walk))
        with m.If(w.advance):
            m.d.sync += [
                w.next_valid.eq(w.spare_valid | w.valid),
                w.enter.eq(Mux(w.spare_valid, w.spare_open, w.valid & w.walk_open)),
                w.next.eq(Mux(w.spare_valid, w.spare, w.walk)),
                w.spare_valid.eq(0),
            ]
        with m.Else():
            m.d.sync += w.enter.eq(self._may_enter(m, w.next))
            with m.If(~w.spare_valid):
                m.d.sync += w.spare_valid.eq(w.valid)
        with m.If(w.spare_valid):
            m.d.sync += w.spare_open.eq(self._may_enter(m, w.spare))
        with m.Else():
            m.d.sync += [w.spare.eq(w.walk), w.spare_open.eq(w.walk_open)]

    def _next_word(self, m: Module, w: _Walk) -> None:
        """The walk goes on: byte after byte, gate after gate, block after block."""
        column = w.column
        with m.If(~w.spare_valid & w.valid):
            m.d.sync += [w.left.eq(w.left - 1), w.last.eq(w.left == 2)]
            if self._config.int4:
                m.d.sync += w.byte.eq(Mux(w.byte_last, 0, w.byte + 1))
            else:
                with m.If(column.bias):
                    m.d.sync += w.byte.eq(w.byte + 1)
            if self._config.sparse:
                m.d.sync += w.first.eq(0)
            with m.If(w.byte_last):
                self._gates(m, w, w.others)
                with m.If(w.none_other):
                    self._gates(m, w, column.gates)
                    m.d.sync += [
                        w.block.eq(w.block + ~w.any_block),
                        w.block_base.eq(
                            w.block_base + (1 if self._config.sparse else column.stride)
                        ),
                    ]
            with m.If(w.last):
                m.d.sync += w.valid.eq(0)

    def _next_column(self, m: Module, w: _Walk) -> None:
        """The walk of the next column begins."""
        entry = self.columns.payload
        any_block: Any = Const(0, 1)
        if self._config.sparse:
            any_block = (entry.kind != Kind.DENSE) & ~entry.bias
        with m.If(self.columns.ready & self.columns.valid):
            m.d.sync += [
                w.valid.eq(1),
                w.column.eq(entry),
                w.left.eq(entry.words),
                w.last.eq(entry.words == 1),
                w.block.eq(any_block.replicate(len(w.block))),
                w.block_base.eq(entry.base),
                w.byte.eq(0),
            ]
            self._gates(m, w, entry.gates)
            if self._config.sparse:
                m.d.sync += [o.eq(g * entry.blocks) for g, o in enumerate(w.offsets)]
                m.d.sync += [w.first.eq(1), w.any_block.eq(any_block)]

    def _count(self, m: Module, w: _Walk, sequence: Signal, block: Signal) -> None:
        """How far the words are that were taken."""
        with m.If(w.take & w.next.block_end):
            m.d.sync += block.eq(w.next.block + 1)
        with m.If(w.take & w.next.last):
            m.d.sync += [sequence.eq(sequence + 1), block.eq(0)]

    # -- pruned columns ---------------------------------------------------------------------------

    def _sparse(self, m: Module, w: _Walk) -> None:
        """A stage of its own follows the walk; every lane has an address of its own."""
        m.submodules.sparse = sparse = SparseLanes(self._config)
        self._count(m, w, sparse.progress.sequence, sparse.progress.block)
        head, place = sparse.word.head, w.next
        connect(m, flipped(self.hold), sparse.hold)
        connect(m, flipped(self.sums), sparse.sums)
        names = ("value", "kept", "width", "base", "lane_rows", "hole_at", "hole")
        m.d.comb += [
            sparse.word.taken.eq(w.take),
            sparse.word.payload.eq(self.words.payload),
            head.kind.eq(Mux(place.bias, Kind.BIAS, place.kind)),
            *(head[name].eq(place[name]) for name in (*names, "first", "place", "write")),
            self.progress.sequence.eq(sparse.done.sequence),
            self.progress.block.eq(sparse.done.block),
            w.stall.eq(sparse.stall),
            self.busy.eq(w.valid | w.next_valid | sparse.busy | self.columns.valid),
        ]
        if self._config.int4:
            m.d.comb += [head.int4.eq(place.int4), head.half.eq(place.half)]

    # -- dense columns: the word and its place, then read, multiply, add, write -------------------

    def _word(self, m: Module, w: _Walk, s: _Sums) -> None:
        """Stage 0."""
        m.d.sync += [
            s.valid0.eq(w.take & w.next.write),
            s.row0.eq(w.next.place[1:]),
            s.bank0.eq(w.next.bank),
            s.bias0.eq(w.next.bias),
        ]
        # What is no word is not written either, so nothing wide waits for `take`.
        entered0 = Signal()
        m.d.sync += [s.word0.eq(self.words.payload), entered0.eq(w.take)]
        with m.If(entered0):
            m.d.sync += s.history.eq(Cat(s.history[self._config.word_bits :], s.word0))
        for k in range(2):
            reads = w.take & w.next.write & (w.next.bank == k)
            m.d.sync += [s.column_reads[k].eq(reads), s.cell_reads[k].eq(~reads)]
        m.d.sync += s.row_inverse.eq(~w.next.place[1:])

    def _stages(self, m: Module, s: _Sums) -> None:
        """Stages 1 to 3 of the place."""
        m.d.sync += [
            Cat(s.valid1, s.valid2, s.valid3).eq(Cat(s.valid0, s.valid1, s.valid2)),
            Cat(s.row1, s.row2, s.row3).eq(Cat(s.row0, s.row1, s.row2)),
            Cat(s.bank1, s.bank2, s.bank3).eq(Cat(s.bank0, s.bank1, s.bank2)),
            s.bias1.eq(s.bias0),
        ]

    def _bypass(self, m: Module, s: _Sums) -> None:
        """Which older sum the word needs instead of what it read, the latest first.

        A bias is not added to anything.
        """

        def same(valid_n: Signal, row_n: Signal, bank_n: Signal) -> Any:
            return valid_n & (row_n == s.row0) & (bank_n == s.bank0)

        m.d.sync += [
            s.near1.eq(same(s.valid1, s.row1, s.bank1) & ~s.bias0),
            s.near2.eq(same(s.valid2, s.row2, s.bank2)),
            s.near3.eq(same(s.valid3, s.row3, s.bank3)),
            s.use_total.eq(s.near1),
            s.use_older.eq(s.near2 | s.near3 | s.bias1),
        ]

    def _cell_read(self, m: Module, w: _Walk, s: _Sums) -> None:
        """The cell reads the bank that the column leaves free."""
        read_bank1 = Signal()
        m.d.comb += self.sums.ready.eq(Cat(~(s.valid0 & (s.bank0 == k)) for k in range(2)))
        m.d.sync += [read_bank1.eq(self.sums.bank), s.read_bank2.eq(read_bank1)]

    def _busy(self, m: Module, w: _Walk, s: _Sums) -> None:
        """Something is on its way."""
        sums = (s.valid0, s.valid1, s.valid2, s.valid3)
        busy: Any = w.valid
        for part in (w.next_valid, w.spare_valid, *sums, self.columns.valid):
            busy = busy | part
        m.d.comb += self.busy.eq(busy)

    def _multiplier(self, w: _Walk, s: _Sums, i: int) -> Module:
        """Multiplier i with its accumulators."""
        lane = Module()
        half, in_word = divmod(i, self._config.lanes)
        weight = self._weight(lane, w, i)
        # Nothing stands between the multiplier and registers. A bias comes as an older sum: the
        # event's value is 0 there.
        lane.submodules.multiplier = multiplier = Multiplier(WEIGHT_BITS, EVENT_BITS)
        product = Data(signed(WEIGHT_BITS + EVENT_BITS))
        bias_value = Data(ACCUMULATOR_BITS)
        older = Data(ACCUMULATOR_BITS)
        addend = Signal(ACCUMULATOR_BITS)
        total, total1 = (Data(signed(ACCUMULATOR_BITS), name=name) for name in ("total", "total1"))
        read = [self._bank(lane, s, i, k, total) for k in range(2)]
        lane.d.comb += [
            multiplier.a.eq(weight),
            multiplier.b.eq(w.next.value),
            addend.eq(
                Mux(s.use_total, total, Mux(s.use_older, older, Mux(s.bank2, read[1], read[0])))
            ),
            self.sums.data[ACCUMULATOR_BITS * i :][:ACCUMULATOR_BITS].eq(
                Mux(s.read_bank2, read[1], read[0])
            ),
        ]
        lane.d.sync += [
            product.eq(multiplier.product),
            bias_value.eq(Cat(*self._bias_bytes(s, half, in_word))),
            older.eq(Mux(s.bias1, bias_value, Mux(s.near2, total, total1))),
            total.eq(addend.as_signed() + product),
            total1.eq(total),
        ]
        return lane

    def _weight(self, lane: Module, w: _Walk, i: int) -> Signal:
        """The weight of multiplier i in the word."""
        half, in_word = divmod(i, self._config.lanes)
        word = self.words.payload
        weight = Signal(signed(WEIGHT_BITS))
        lane.d.comb += weight.eq(word[WEIGHT_BITS * in_word :][:WEIGHT_BITS].as_signed())
        if self._config.int4:
            # A word of bytes feeds one half of the multipliers, the others add nothing.
            with lane.If(w.next.int4):
                lane.d.comb += weight.eq(word[4 * i :][:4].as_signed())
            with lane.Elif(w.next.half != half):
                lane.d.comb += weight.eq(0)
        return weight

    def _bias_bytes(self, s: _Sums, half: int, in_word: int) -> list[Any]:
        """Bytes of the bias of a multiplier, which the latest words hold."""
        config = self._config
        halves = config.multipliers // config.lanes
        whole = Cat(s.history, s.word0)
        return [
            whole[(k * halves + half) * config.word_bits + 8 * in_word :][:8]
            for k in range(BIAS_WORDS)
        ]

    def _bank(self, lane: Module, s: _Sums, i: int, k: int, total: Signal) -> Signal:
        """Half bank k of the accumulators of multiplier i; what is read of it."""
        # A sum read while it is written is bypassed: the memory may give either value.
        memory = Memory(
            shape=unsigned(ACCUMULATOR_BITS),
            depth=-(-self._config.accumulators // 2),
            init=[],
            attrs={"no_rw_check": 1},
        )
        lane.submodules[f"bank{k}"] = memory
        reader, writer = memory.read_port(), memory.write_port()
        # Not the block RAM's own register: this one stands near what adds.
        read = Data(ACCUMULATOR_BITS, name=f"read{k}", attrs={IN_FABRIC: 1})
        if i % 2 == 0:
            address = Mux(s.column_reads[k], s.row0, self.sums.rows[k])
        else:
            address = ~Mux(s.cell_reads[k], self.sums.inverses[k], s.row_inverse)
        lane.d.comb += [
            reader.addr.eq(address),
            writer.addr.eq(s.row3),
            writer.data.eq(total),
            writer.en.eq(s.valid3 & (s.bank3 == k)),
        ]
        # Half of a cycle is gone when a memory's data come. So nothing is done with them before a
        # register.
        lane.d.sync += read.eq(reader.data)
        return read
