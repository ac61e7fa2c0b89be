"""The lanes of an engine that reads pruned columns: decoder, lanes, and how far they have come.

A weight that waits in a lane's queue belongs to a column whose last word was taken long ago. So the
cell is told of a column only when every queue was empty after it. Where the cell waits for that, no
word is taken until the queues are empty.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data, copies
from stillnet.hw.parts.interfaces import HoldSignature, ProgressSignature, SumReadSignature
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS
from stillnet.sw.contract.image import BIAS_WORDS
from stillnet.sw.contract.stages import DECODE_CYCLES

from .sparse_lane import QUEUE_LIMIT, SparseLane
from .weight_decoder import DecodedWordSignature, WeightDecoder

__all__ = ["SparseLanes"]


class SparseLanes(wiring.Component):
    """Words in, accumulators out.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    word : In(DecodedWordSignature)
        A word, with what the walk knows of it.
    progress : In(ProgressSignature)
        Words that were taken; it changes in the cycle after ``word.taken``.
    done : Out(ProgressSignature)
        Sums that are complete, as the cell needs it.
    hold : In(HoldSignature)
        The cell that is being read needs column ``hold.sequence``, and those before.
    stall : Out(1)
        Take no word.
    sums : In(SumReadSignature)
        The cell reads all accumulators of a row. Every second lane takes the inverse of the row, so
        that neither reaches too many.
    busy : Out(1)
        A weight or a sum is on its way.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "word": In(DecodedWordSignature(config)),
                "progress": In(ProgressSignature(config)),
                "done": Out(ProgressSignature(config)),
                "hold": In(HoldSignature(config)),
                "stall": Out(1),
                "sums": In(SumReadSignature(config)),
                "busy": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.decoder = decoder = WeightDecoder(self._config)
        connect(m, flipped(self.word), decoder.word)
        words = self._bias_words(m, decoder)
        lanes = [self._lane(m, decoder, words, i) for i in range(self._config.multipliers)]
        self._read(m, decoder, lanes)
        self._follow(m, decoder, lanes)
        self._stall(m, decoder, lanes)
        return m

    def _bias_words(self, m: Module, decoder: WeightDecoder) -> Any:
        """The words of a bias, low first: earlier ones and the latest."""
        bits = self._config.word_bits
        halves = self._config.multipliers // self._config.lanes
        word = Data(bits)
        entered = Signal()
        history = Data((BIAS_WORDS * halves - 1) * bits)
        m.d.sync += [word.eq(decoder.raw), entered.eq(decoder.entered)]
        with m.If(entered):
            m.d.sync += history.eq(Cat(history[bits:], word))
        return Cat(history, word)

    def _lane(self, m: Module, decoder: WeightDecoder, words: Any, i: int) -> SparseLane:
        """Multiplier i with its accumulators."""
        config = self._config
        count, halves = config.multipliers, config.multipliers // config.lanes
        depth = config.accumulators + config.accumulators % 2
        address_bits = Shapes(config).accumulator_address
        lane = SparseLane(address_bits, depth, copy=not config.sums_once)
        m.submodules[f"lane{i}"] = lane
        before = (i - 1) % count
        half, place = divmod(i, config.lanes)
        starts = [(k * halves + half) * config.word_bits + 8 * place for k in range(BIAS_WORDS)]
        m.d.comb += [
            lane.own.valid.eq(decoder.own[i]),
            lane.own.row.eq(decoder.rows[i]),
            lane.own.weight.eq(decoder.weights[i]),
            lane.other.valid.eq(decoder.other[before]),
            lane.other.row.eq(decoder.rows[before]),
            lane.other.weight.eq(decoder.weights[before]),
            lane.value.eq(decoder.value),
            lane.bias.eq(decoder.bias),
            lane.bias_value.eq(Cat(words[start:][:8] for start in starts)),
        ]
        # A cycle for the way to the reader: lanes are all over the chip.
        read_data = Data(ACCUMULATOR_BITS, name=f"on_way{i}")
        m.d.sync += read_data.eq(lane.read_data)
        m.d.comb += self.sums.data[ACCUMULATOR_BITS * i :][:ACCUMULATOR_BITS].eq(read_data)
        return lane

    def _read(self, m: Module, decoder: WeightDecoder, lanes: list[SparseLane]) -> None:
        """The cell reads its copy, or where no word is in the way; for that words wait
        (:meth:`_stall`)."""
        row, inverse = self.sums.rows[0], self.sums.inverses[0]
        if self._config.sums_once:
            row, inverse = Data(len(row)), Data(len(row))
            m.d.sync += [row.eq(self.sums.rows[0]), inverse.eq(self.sums.inverses[0])]
        for i, lane in enumerate(lanes):
            m.d.comb += lane.read_row.eq(~inverse if i % 2 else row)
        if not self._config.sums_once:
            m.d.comb += self.sums.ready.eq(1)
            return
        # While nothing moves, the row is read in every cycle: the host looks at it.
        quiet, read = Signal(), Signal()
        m.d.comb += [
            self.sums.ready.eq(decoder.free),
            read.eq(decoder.free & (self.sums.valid | quiet)),
        ]
        m.d.sync += quiet.eq(~Cat(lane.busy for lane in lanes).any())
        reads = copies(m, read, "read")
        for i, lane in enumerate(lanes):
            m.d.comb += lane.read.eq(reads[i % len(reads)])

    def _follow(self, m: Module, decoder: WeightDecoder, lanes: list[SparseLane]) -> None:
        """Progress of the sums: that of the words, once every queue was empty after them."""
        # The registers here are those of the decoder: what they show has reached the lanes.
        progress: Any = Cat(self.progress.sequence, self.progress.block)
        for i in range(DECODE_CYCLES - 1):
            later = Signal(len(progress), name=f"progress{i}")
            m.d.sync += later.eq(progress)
            progress = later
        empty = Signal()  # from a register: the queues lie all over the chip
        m.d.sync += empty.eq(~(Cat(lane.some for lane in lanes).any() | decoder.other.any()))
        with m.If(empty):
            m.d.sync += Cat(self.done.sequence, self.done.block).eq(progress)

    def _stall(self, m: Module, decoder: WeightDecoder, lanes: list[SparseLane]) -> None:
        """Words wait while the cell waits for the queues, or while one is nearly full. While it
        reads, they wait every other cycle, and the decoder passes on a free one."""
        bits = len(self.hold.sequence)
        taken, done = Signal(bits), Signal(bits)
        drain, full = Signal(), Signal()
        make_free = Signal()
        if self._config.sums_once:
            m.d.sync += make_free.eq(self.sums.valid & ~make_free)
        m.d.comb += [
            taken.eq(self.progress.sequence - self.hold.sequence),
            done.eq(self.done.sequence - self.hold.sequence),
        ]
        m.d.sync += [
            drain.eq(self.hold.active & ~taken[-1] & done[-1]),
            full.eq(Cat(lane.waiting > QUEUE_LIMIT for lane in lanes).any()),
        ]
        m.d.comb += [
            self.stall.eq(make_free | drain | full),
            self.busy.eq(decoder.busy | Cat(lane.busy for lane in lanes).any()),
        ]
