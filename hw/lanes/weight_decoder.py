"""The weight decoder: words of any format to weights with the rows of their lanes.

It stands between the walk of a column and the lanes, and takes a word a cycle: words of indices are
kept, words of weights leave three cycles later with a row for every lane. What a word means follows
from the words before it, so the first word of a column sets everything back (docs/weights.md).
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.columns import BITMAP_ROWS, index_widths, mask_bits
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.image import Kind

__all__ = ["WeightDecoder", "head_layout"]

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


class WeightDecoder(wiring.Component):
    """Decodes columns.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    taken, word, head : In
        A word; ``place``, ``write`` and ``half`` are for dense columns and biases.
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
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        count = config.multipliers
        super().__init__(
            {
                "taken": In(1),
                "word": In(config.word_bits),
                "head": In(head_layout(config)),
                "own": Out(count),
                "other": Out(count),
                "rows": Out(data.ArrayLayout(unsigned(s.accumulator_address), count)),
                "weights": Out(data.ArrayLayout(signed(WEIGHT_BITS), count)),
                "value": Out(signed(EVENT_BITS)),
                "bias": Out(1),
                "entered": Out(1),
                "raw": Out(config.word_bits),
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
        count, formats = config.multipliers, config.formats
        bits = s.accumulator_address + 1  # of a row; two lanes' rows in format "step"
        head_shape = head_layout(config)

        valid0 = Signal()
        word0, head0 = Data(config.word_bits), Data(head_shape)
        m.d.sync += [valid0.eq(self.taken), word0.eq(self.word), head0.eq(self.head)]

        # -- which words are indices --------------------------------------------------------------

        plain = Signal()  # dense, bias
        expecting, is_index, is_weights = Signal(), Signal(), Signal()
        m.d.comb += [
            plain.eq((head0.kind == Kind.DENSE) | (head0.kind == Kind.BIAS)),
            is_index.eq(valid0 & ~plain & (expecting | head0.first)),
            is_weights.eq(valid0 & ~plain & ~(expecting | head0.first)),
        ]
        half = Signal()  # of the round that the next word of weights is
        two = Signal()  # a round takes two words
        round_end = Signal()
        m.d.comb += [
            two.eq(~head0.int4 if config.int4 else 0),
            round_end.eq(is_weights & (half | ~two)),
        ]
        with m.If(is_index):
            m.d.sync += half.eq(0)
        with m.Elif(is_weights):
            m.d.sync += half.eq(two & ~half)

        rounds = Signal(6)  # of the frame, still to come
        with m.If(round_end):
            m.d.sync += rounds.eq(rounds - 1)
            with m.If((rounds == 1) & (head0.kind != Kind.BLOCK)):
                m.d.sync += expecting.eq(1)

        # By lane: what is added to ``offset`` for the row. Written by the format at work.
        inner = [Signal(bits, name=f"inner{i}") for i in range(count)]
        offset = Signal(bits)
        word_half = Signal()
        m.d.comb += word_half.eq(half)
        # Rows of a group, for formats that go on by groups.
        base = Signal(bits)
        group_end = Signal()
        step = Signal(bits)
        with m.If(head0.first):
            with m.If(is_index):
                m.d.sync += base.eq(0)
        with m.Elif(group_end):
            m.d.sync += base.eq(base + step)

        if "block" in formats:
            self._block(m, word0, head0, is_index, is_weights, expecting, inner, offset, word_half)
        if "bitmap" in formats:
            with m.If(head0.kind == Kind.BITMAP):
                m.d.comb += [
                    group_end.eq(round_end & (rounds == 1)),
                    step.eq(BITMAP_ROWS),
                    offset.eq(base),
                ]
            self._bitmap(m, word0, head0, is_index, is_weights, expecting, rounds, half, two, inner)
        if "place" in formats or "step" in formats:
            fields = self._fields(m, word0, head0, is_index, round_end, expecting, rounds)
        if "place" in formats:
            group_left = Signal(5)
            with m.If(head0.kind == Kind.PLACE):
                m.d.comb += [
                    group_end.eq(round_end & (group_left == 1)),
                    step.eq(Mux(head0.width == 1, 4, 16)),
                    offset.eq(base),
                    *(inner[i].eq(fields[i]) for i in range(count)),
                ]
                with m.If((is_index & head0.first) | group_end):
                    m.d.sync += group_left.eq(head0.kept)
                with m.Elif(round_end):
                    m.d.sync += group_left.eq(group_left - 1)
        if "step" in formats:
            for i in range(count):
                pointer = Signal(bits, name=f"pointer{i}")
                with m.If(head0.kind == Kind.STEP):
                    m.d.comb += inner[i].eq(pointer + fields[i])
                    with m.If(is_index & head0.first):
                        m.d.sync += pointer.eq(0)
                    with m.Elif(is_weights & (~two | (half == i // config.lanes))):
                        m.d.sync += pointer.eq(inner[i] + 1)

        # -- row, lane, address, weight -----------------------------------------------------------

        valid1, valid2, valid3 = (Signal(name=f"valid{i}") for i in range(1, 4))
        word1, word2, word3 = (Data(config.word_bits, name=f"word{i}") for i in range(1, 4))
        head1, head2 = (Data(head_shape, name=f"head{i}") for i in range(1, 3))
        weights1, weights2 = Signal(), Signal()
        half1, half2 = Signal(), Signal()
        offset1 = Data(bits)
        m.d.sync += [
            Cat(valid1, valid2, valid3).eq(Cat(valid0, valid1, valid2)),
            word1.eq(word0),
            word2.eq(word1),
            word3.eq(word2),
            head1.eq(head0),
            head2.eq(head1),
            weights1.eq(is_weights),
            weights2.eq(weights1),
            half1.eq(Mux(plain, head0.half, word_half)),
            half2.eq(half1),
            offset1.eq(offset),
        ]
        plain1, plain2, step1 = Signal(), Signal(), Signal()
        start2, start_hole2 = (
            Data(s.accumulator_address, name=name) for name in ("start2", "start_hole2")
        )
        write3, bias3 = Signal(), Signal()
        m.d.sync += [
            plain1.eq(plain),
            plain2.eq(plain1),
            step1.eq(head0.kind == Kind.STEP),
            start2.eq(head1.base),
            start_hole2.eq(head1.base + head1.hole),
            write3.eq(plain2 & head2.write & valid2),
            bias3.eq(plain2 & (head2.kind == Kind.BIAS) & head2.write & valid2),
            self.value.eq(head2.value),
        ]
        m.d.comb += [
            self.bias.eq(bias3),
            self.entered.eq(valid3),
            self.raw.eq(word3),
            self.busy.eq(valid0 | valid1 | valid2 | valid3),
        ]
        for i in range(count):
            side, place = divmod(i, config.lanes)
            inner1 = Data(bits, name=f"inner1_{i}")
            row2 = Data(bits, name=f"row2_{i}")
            over, over2 = Signal(name=f"over_{i}"), Signal(name=f"over2_{i}")
            m.d.sync += inner1.eq(inner[i])
            m.d.comb += over.eq(step1 & (inner1 >= head1.lane_rows))
            m.d.sync += [
                row2.eq(Mux(over, inner1 - head1.lane_rows, inner1 + offset1)),
                over2.eq(over),
            ]
            # Both sums are made while the comparison is: the late one only chooses.
            below, above = (
                Signal(s.accumulator_address, name=f"{name}_{i}") for name in ("below", "above")
            )
            m.d.comb += [below.eq(row2 + start2), above.eq(row2 + start_hole2)]
            weight = Signal(signed(WEIGHT_BITS), name=f"weight_{i}")
            m.d.comb += weight.eq(word2[WEIGHT_BITS * place :][:WEIGHT_BITS].as_signed())
            if config.int4:
                with m.If(head2.int4):
                    m.d.comb += weight.eq(word2[4 * i :][:4].as_signed())
                with m.Elif(half2 != side):
                    m.d.comb += weight.eq(0)
            wanted3, other3 = Signal(name=f"wanted3_{i}"), Signal(name=f"other3_{i}")
            m.d.sync += [
                self.rows[i].eq(Mux(plain2, head2.place, Mux(row2 >= head2.hole_at, above, below))),
                self.weights[i].eq(weight),
                wanted3.eq(weights2 & (weight != 0)),
                other3.eq(over2),
            ]
            m.d.comb += [
                self.own[i].eq(write3 | (wanted3 & ~other3)),
                self.other[i].eq(wanted3 & other3),
            ]
        return m

    def _block(
        self,
        m: Module,
        word0: Signal,
        head0: Any,
        is_index: Signal,
        is_weights: Signal,
        expecting: Signal,
        inner: list[Signal],
        offset: Signal,
        word_half: Signal,
    ) -> None:
        """Headers mark which of the next words are there: one after the other of their bits."""
        config = self._config
        span = mask_bits(config)
        mask, after = Data(span), Data(span)  # words still to come; the same without the first
        start = Signal(len(offset))
        here = Signal()
        fresh = Signal(span)
        m.d.comb += [here.eq(head0.kind == Kind.BLOCK), fresh.eq(word0[:span])]
        with m.If(here & is_index):
            m.d.sync += [
                mask.eq(fresh),
                after.eq(fresh & (fresh - 1)),
                expecting.eq(fresh == 0),
                start.eq(Mux(head0.first, 0, start + span)),
            ]
        with m.Elif(here & is_weights):
            m.d.sync += [mask.eq(after), after.eq(after & (after - 1)), expecting.eq(after == 0)]
        one = Signal(span)
        m.d.comb += one.eq(mask & ~after)
        index_bits = (span - 1).bit_length()
        number = Cat(
            Cat(one[k] for k in range(span) if k >> b & 1).any() for b in range(index_bits)
        )
        with m.If(here):
            if config.int4:
                m.d.comb += [
                    offset.eq(Mux(head0.int4, start, start >> 1)),
                    word_half.eq(number[0]),
                    *(x.eq(Mux(head0.int4, number, number >> 1)) for x in inner),
                ]
            else:
                m.d.comb += [offset.eq(start), *(x.eq(number) for x in inner)]

    def _bitmap(
        self,
        m: Module,
        word0: Signal,
        head0: Any,
        is_index: Signal,
        is_weights: Signal,
        expecting: Signal,
        rounds: Signal,
        half: Signal,
        two: Signal,
        inner: list[Signal],
    ) -> None:
        """Each lane takes the rows that its bitmap marks, one a round."""
        config = self._config
        words = BITMAP_ROWS * config.multipliers // config.word_bits
        masks = [Data(BITMAP_ROWS, name=f"marked{i}") for i in range(config.multipliers)]
        here = Signal()
        left = Signal(range(words))  # words of the bitmaps behind this one
        behind = Signal.like(left)
        m.d.comb += [
            here.eq(head0.kind == Kind.BITMAP),
            behind.eq(Mux(head0.first, words - 1, left)),
        ]
        with m.If(here & is_index):
            m.d.sync += [
                left.eq(Mux(behind == 0, words - 1, behind - 1)),
                expecting.eq(behind != 0),
                rounds.eq(head0.kept),
                Cat(*masks).eq(Cat(Cat(*masks)[config.word_bits :], word0)),
            ]
        for i, mask in enumerate(masks):
            after = Signal(BITMAP_ROWS, name=f"after{i}")
            one = Signal(BITMAP_ROWS, name=f"one{i}")
            m.d.comb += [after.eq(mask & (mask - 1)), one.eq(mask & ~after)]
            with m.If(here & is_weights & (~two | (half == i // config.lanes))):
                m.d.sync += mask.eq(after)
            with m.If(here):
                m.d.comb += inner[i].eq(
                    Cat(
                        Cat(one[k] for k in range(BITMAP_ROWS) if k >> b & 1).any()
                        for b in range(4)
                    )
                )

    def _fields(
        self,
        m: Module,
        word0: Signal,
        head0: Any,
        is_index: Signal,
        round_end: Signal,
        expecting: Signal,
        rounds: Signal,
    ) -> list[Signal]:
        """Indices of all lanes for this round, out of the latest word of them."""
        config = self._config
        count = config.multipliers
        index = Data(config.word_bits)
        here = Signal()
        m.d.comb += here.eq((head0.kind == Kind.PLACE) | (head0.kind == Kind.STEP))
        widths = index_widths(config)
        fields = [Signal(widths[-1], name=f"field{i}") for i in range(count)]
        with m.Switch(head0.width):
            for width in widths:
                with m.Case(width.bit_length() - 1):
                    m.d.comb += [fields[i].eq(index[i * width :][:width]) for i in range(count)]
                    with m.If(here & is_index):
                        m.d.sync += rounds.eq(config.word_bits // (count * width))
                    with m.Elif(round_end):
                        m.d.sync += index.eq(index >> (count * width))
        with m.If(here & is_index):
            m.d.sync += [index.eq(word0), expecting.eq(0)]
        return fields
