"""The weight decoder: words of any format to weights with the rows of their lanes.

It stands between the walk of a column and the lanes, and takes a word per cycle. Words of indices
are kept; words of weights leave three cycles later, with a row for every lane. What a word means
follows from the words before it, so the first word of a column starts over (docs/weights.md).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.columns import BITMAP_ROWS, index_widths, mask_bits
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.image import Kind

__all__ = ["DecodedWordSignature", "WeightDecoder", "head_layout"]

WEIGHT_BITS = 8


def head_layout(config: EngineConfig) -> data.StructLayout:
    """What comes with every word."""
    s = Shapes(config)
    return data.StructLayout(
        {
            "value": signed(EVENT_BITS),
            "kind": unsigned(3),
            "int4": 1,
            "kept": unsigned(5),
            "width": unsigned(2),
            "base": unsigned(s.accumulator_address),
            "lane_rows": unsigned(s.accumulator_address),
            "hole_at": unsigned(s.accumulator_address),
            "hole": unsigned(s.accumulator_address),
            "first": 1,
            "place": unsigned(s.accumulator_address),
            "write": 1,
            "half": 1,
        }
    )


class DecodedWordSignature(wiring.Signature):
    """A word that was taken, on its way to the decoder.

    Members
    -------
    taken : Out(1)
    payload : Out(config.word_bits)
    head : Out(head_layout(config))
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {"taken": Out(1), "payload": Out(config.word_bits), "head": Out(head_layout(config))}
        )


class _Signals:
    """What the parts of the decoder share. A digit at the end of a name is the stage.

    Attributes
    ----------
    valid0, word0, head0
        The word in the first stage.
    plain, is_index, is_weights
        It belongs to a dense column or a bias; it is one of indices; of weights.
    expecting
        The next word is one of indices.
    two, half, word_half
        A round takes two words; the next word is the second; the half that it is.
    rounds, round_end
        Rounds of the frame still to come; one ends.
    inner, offset
        By lane, what is added to ``offset`` for the row. The format in use drives them.
    base, step, group_end
        First row of a group, for formats that go on by groups; rows of a group; one ends.
    """

    def __init__(self, config: EngineConfig) -> None:
        s = Shapes(config)
        self.count = config.multipliers
        self.bits = s.accumulator_address + 1  # of a row; two lanes' rows in format "step"
        self.head_shape = head_layout(config)
        self.valid0 = Signal()
        self.word0 = Data(config.word_bits)
        self.head0: Any = Data(self.head_shape)
        self.plain, self.step_kind = Signal(), Signal()  # from registers beside the word's
        self.expecting = Signal()
        self.is_index = Signal()
        self.is_weights = Signal()
        self.half = Signal()
        self.two = Signal()
        self.round_end = Signal()
        self.rounds = Signal(6)
        self.inner = [Signal(self.bits, name=f"inner{i}") for i in range(self.count)]
        self.offset = Signal(self.bits)
        self.word_half = Signal()
        self.base = Signal(self.bits)
        self.group_end = Signal()
        self.step = Signal(self.bits)
        # Registers between the stages.
        self.valid1, self.valid2, self.valid3 = (Signal(name=f"valid{i}") for i in (1, 2, 3))
        self.word1, self.word2, self.word3 = (
            Data(config.word_bits, name=f"word{i}") for i in (1, 2, 3)
        )
        self.head1: Any = Data(self.head_shape)
        self.head2: Any = Data(self.head_shape)
        self.weights1 = Signal()
        self.weights2 = Signal()
        self.half2 = Signal()
        self.offset1 = Data(self.bits)
        self.plain2 = Signal()
        self.step1 = Signal()
        self.start2 = Data(s.accumulator_address)
        self.start_hole2 = Data(s.accumulator_address)
        self.written2 = Signal()  # the word of a dense column or a bias is complete


class WeightDecoder(wiring.Component):
    """Decodes columns.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    word : In(DecodedWordSignature)
        Its ``place``, ``write`` and ``half`` are for dense columns and biases.
    own, other : Out(multipliers)
        Lanes that get a weight in their own place; places whose weight is the next lane's.
    rows, weights : Out
        By place, ``Shapes.accumulator_address`` and 8 bits each.
    value : Out(17)
    bias : Out(1)
        The word ends a bias.
    entered, raw : Out
        Every word, as it was, with its weights.
    busy : Out(1)
        A word is on its way.
    free : Out(1)
        No word reaches the lanes in the next cycle.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        count = config.multipliers
        super().__init__(
            {
                "word": In(DecodedWordSignature(config)),
                "own": Out(count),
                "other": Out(count),
                "rows": Out(data.ArrayLayout(unsigned(s.accumulator_address), count)),
                "weights": Out(data.ArrayLayout(signed(WEIGHT_BITS), count)),
                "value": Out(signed(EVENT_BITS)),
                "bias": Out(1),
                "entered": Out(1),
                "raw": Out(config.word_bits),
                "busy": Out(1),
                "free": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = _Signals(self._config)
        kind = self.word.head.kind
        m.d.sync += [
            x.valid0.eq(self.word.taken),
            x.word0.eq(self.word.payload),
            x.head0.eq(self.word.head),
            x.plain.eq((kind == Kind.DENSE) | (kind == Kind.BIAS)),
            x.step_kind.eq(kind == Kind.STEP),
        ]
        self._kinds(m, x)
        self._groups(m, x)
        formats = self._config.formats
        if "block" in formats:
            self._block(m, x)
        if "bitmap" in formats:
            self._bitmap(m, x)
        if "place" in formats or "step" in formats:
            fields = self._fields(m, x)
            if "place" in formats:
                self._place(m, x, fields)
            if "step" in formats:
                self._step(m, x, fields)
        self._stages(m, x)
        for i in range(x.count):
            self._lane(m, x, i)
        return m

    # -- which words are indices ------------------------------------------------------------------

    def _kinds(self, m: Module, x: _Signals) -> None:
        kind = x.head0.kind
        m.d.comb += [
            x.is_index.eq(x.valid0 & ~x.plain & (x.expecting | x.head0.first)),
            x.is_weights.eq(x.valid0 & ~x.plain & ~(x.expecting | x.head0.first)),
            x.two.eq(~x.head0.int4 if self._config.int4 else 0),
            x.round_end.eq(x.is_weights & (x.half | ~x.two)),
        ]
        with m.If(x.is_index):
            m.d.sync += x.half.eq(0)
        with m.Elif(x.is_weights):
            m.d.sync += x.half.eq(x.two & ~x.half)
        with m.If(x.round_end):
            m.d.sync += x.rounds.eq(x.rounds - 1)
            with m.If((x.rounds == 1) & (kind != Kind.BLOCK)):
                m.d.sync += x.expecting.eq(1)

    def _groups(self, m: Module, x: _Signals) -> None:
        m.d.comb += x.word_half.eq(x.half)
        with m.If(x.head0.first):
            with m.If(x.is_index):
                m.d.sync += x.base.eq(0)
        with m.Elif(x.group_end):
            m.d.sync += x.base.eq(x.base + x.step)

    def _for_lane(self, x: _Signals, i: int) -> Any:
        """Whether a word of weights has one for lane ``i``."""
        return ~x.two | (x.half == i // self._config.lanes)

    # -- formats ----------------------------------------------------------------------------------

    def _block(self, m: Module, x: _Signals) -> None:
        """Headers mark which of the next words are there: one after the other of their bits."""
        config = self._config
        span = mask_bits(config)
        mask, after = Data(span), Data(span)  # words still to come; the same without the first
        start = Signal(x.bits)
        here = Signal()
        fresh = Signal(span)
        m.d.comb += [here.eq(x.head0.kind == Kind.BLOCK), fresh.eq(x.word0[:span])]
        with m.If(here & x.is_index):
            m.d.sync += [
                mask.eq(fresh),
                after.eq(fresh & (fresh - 1)),
                x.expecting.eq(fresh == 0),
                start.eq(Mux(x.head0.first, 0, start + span)),
            ]
        with m.Elif(here & x.is_weights):
            m.d.sync += [mask.eq(after), after.eq(after & (after - 1)), x.expecting.eq(after == 0)]
        one = Signal(span)
        m.d.comb += one.eq(mask & ~after)
        number = _encoded(one)
        with m.If(here):
            if config.int4:
                int4 = x.head0.int4
                m.d.comb += [
                    x.offset.eq(Mux(int4, start, start >> 1)),
                    x.word_half.eq(number[0]),
                    *(inner.eq(Mux(int4, number, number >> 1)) for inner in x.inner),
                ]
            else:
                m.d.comb += [x.offset.eq(start), *(inner.eq(number) for inner in x.inner)]

    def _bitmap(self, m: Module, x: _Signals) -> None:
        """Each lane takes the rows that its bitmap marks, one per round."""
        config = self._config
        words = BITMAP_ROWS * config.multipliers // config.word_bits
        masks = [Data(BITMAP_ROWS, name=f"marked{i}") for i in range(config.multipliers)]
        here = Signal()
        left = Signal(range(words))  # words of the bitmaps after this one
        behind = Signal.like(left)
        m.d.comb += [
            here.eq(x.head0.kind == Kind.BITMAP),
            behind.eq(Mux(x.head0.first, words - 1, left)),
        ]
        with m.If(here):
            m.d.comb += [
                x.group_end.eq(x.round_end & (x.rounds == 1)),
                x.step.eq(BITMAP_ROWS),
                x.offset.eq(x.base),
            ]
        with m.If(here & x.is_index):
            m.d.sync += [
                left.eq(Mux(behind == 0, words - 1, behind - 1)),
                x.expecting.eq(behind != 0),
                x.rounds.eq(x.head0.kept),
                Cat(*masks).eq(Cat(Cat(*masks)[config.word_bits :], x.word0)),
            ]
        for i, mask in enumerate(masks):
            after = Signal(BITMAP_ROWS, name=f"after{i}")
            one = Signal(BITMAP_ROWS, name=f"one{i}")
            m.d.comb += [after.eq(mask & (mask - 1)), one.eq(mask & ~after)]
            with m.If(here & x.is_weights & self._for_lane(x, i)):
                m.d.sync += mask.eq(after)
            with m.If(here):
                m.d.comb += x.inner[i].eq(_encoded(one))

    def _fields(self, m: Module, x: _Signals) -> list[Signal]:
        """Indices of all lanes for this round, out of the latest word of them."""
        config = self._config
        count = config.multipliers
        index = Data(config.word_bits)
        here = Signal()
        m.d.comb += here.eq((x.head0.kind == Kind.PLACE) | (x.head0.kind == Kind.STEP))
        widths = index_widths(config)
        fields = [Signal(widths[-1], name=f"field{i}") for i in range(count)]
        with m.Switch(x.head0.width):
            for width in widths:
                with m.Case(width.bit_length() - 1):
                    m.d.comb += [fields[i].eq(index[i * width :][:width]) for i in range(count)]
                    with m.If(here & x.is_index):
                        m.d.sync += x.rounds.eq(config.word_bits // (count * width))
                    with m.Elif(x.round_end):
                        m.d.sync += index.eq(index >> (count * width))
        with m.If(here & x.is_index):
            m.d.sync += [index.eq(x.word0), x.expecting.eq(0)]
        return fields

    def _place(self, m: Module, x: _Signals, fields: list[Signal]) -> None:
        """A field is the row within its group; every group has the same number of rounds."""
        head0 = x.head0
        group_left = Signal(5)
        with m.If(head0.kind == Kind.PLACE):
            m.d.comb += [
                x.group_end.eq(x.round_end & (group_left == 1)),
                x.step.eq(Mux(head0.width == 1, 4, 16)),
                x.offset.eq(x.base),
                *(inner.eq(field) for inner, field in zip(x.inner, fields)),
            ]
            with m.If((x.is_index & head0.first) | x.group_end):
                m.d.sync += group_left.eq(head0.kept)
            with m.Elif(x.round_end):
                m.d.sync += group_left.eq(group_left - 1)

    def _step(self, m: Module, x: _Signals, fields: list[Signal]) -> None:
        """A field is the distance from the row after the latest one of its lane."""
        for i, field in enumerate(fields):
            pointer = Signal(x.bits, name=f"pointer{i}")
            # Twice the sum with ones below: a carry, not a second adder.
            beyond = (Cat(1, pointer) + Cat(1, field))[1 : x.bits + 1]
            with m.If(x.step_kind):
                m.d.comb += x.inner[i].eq(pointer + field)
                with m.If(x.is_index & x.head0.first):
                    m.d.sync += pointer.eq(0)
                with m.Elif(x.is_weights & self._for_lane(x, i)):
                    m.d.sync += pointer.eq(beyond)

    # -- row, lane, address, weight ---------------------------------------------------------------

    def _stages(self, m: Module, x: _Signals) -> None:
        """What follows the word from stage to stage."""
        plain1, half1, bias3 = Signal(), Signal(), Signal()
        free2 = Signal(init=1)  # not valid2: a register of its own for the far reader
        head1, head2 = x.head1, x.head2
        m.d.sync += [
            Cat(x.valid1, x.valid2, x.valid3).eq(Cat(x.valid0, x.valid1, x.valid2)),
            free2.eq(~x.valid1),
            x.word1.eq(x.word0),
            x.word2.eq(x.word1),
            x.word3.eq(x.word2),
            head1.eq(x.head0),
            head2.eq(head1),
            x.weights1.eq(x.is_weights),
            x.weights2.eq(x.weights1),
            half1.eq(Mux(x.plain, x.head0.half, x.word_half)),
            x.half2.eq(half1),
            x.offset1.eq(x.offset),
            plain1.eq(x.plain),
            x.plain2.eq(plain1),
            x.step1.eq(x.step_kind),
            x.start2.eq(head1.base),
            x.start_hole2.eq(head1.base + head1.hole),
            bias3.eq(x.plain2 & (head2.kind == Kind.BIAS) & head2.write & x.valid2),
            self.value.eq(head2.value),
        ]
        m.d.comb += [
            x.written2.eq(x.plain2 & head2.write & x.valid2),
            self.bias.eq(bias3),
            self.entered.eq(x.valid3),
            self.raw.eq(x.word3),
            self.busy.eq(x.valid0 | x.valid1 | x.valid2 | x.valid3),
            self.free.eq(free2),
        ]

    def _lane(self, m: Module, x: _Signals, i: int) -> None:
        """Row and weight of one lane."""
        side, place = divmod(i, self._config.lanes)
        head1, head2 = x.head1, x.head2
        inner1 = Data(x.bits, name=f"inner1_{i}")
        row2 = Data(x.bits, name=f"row2_{i}")
        over, over2 = Signal(name=f"over_{i}"), Signal(name=f"over2_{i}")
        m.d.sync += inner1.eq(x.inner[i])
        m.d.comb += over.eq(x.step1 & (inner1 >= head1.lane_rows))
        m.d.sync += [
            row2.eq(Mux(over, inner1 - head1.lane_rows, inner1 + x.offset1)),
            over2.eq(over),
        ]
        # Both sums are formed at the same time as the comparison, which then only chooses.
        below, above = (Signal(len(x.start2), name=f"{name}_{i}") for name in ("below", "above"))
        m.d.comb += [below.eq(row2 + x.start2), above.eq(row2 + x.start_hole2)]
        weight = Signal(signed(WEIGHT_BITS), name=f"weight_{i}")
        m.d.comb += weight.eq(x.word2[WEIGHT_BITS * place :][:WEIGHT_BITS].as_signed())
        if self._config.int4:
            with m.If(head2.int4):
                m.d.comb += weight.eq(x.word2[4 * i :][:4].as_signed())
            with m.Elif(x.half2 != side):
                m.d.comb += weight.eq(0)
        wanted = x.weights2 & (weight != 0)
        row = Mux(row2 >= head2.hole_at, above, below)
        m.d.sync += [
            self.rows[i].eq(Mux(x.plain2, head2.place, row)),
            self.weights[i].eq(weight),
            self.own[i].eq(x.written2 | (wanted & ~over2)),
            self.other[i].eq(wanted & over2),
        ]


def _encoded(one: Signal) -> Value:
    """Number of the only bit that is set."""
    bits = (len(one) - 1).bit_length()
    return Cat(Cat(one[k] for k in range(len(one)) if k >> b & 1).any() for b in range(bits))
