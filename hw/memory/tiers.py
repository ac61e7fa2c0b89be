"""Two tiers of weights: block RAM for columns that fire often, and the memory for all others.

::

    reads -+-> hot queue --> block RAM -----------------+-> words, in the order of the reads
           +-> cold queue -> memory port -> read-ahead -+
           +-> order --------------------------------------^

The memory streams into the read-ahead queue while hot columns pass, so a step takes about as long
as its slower side: the words of the memory at the memory's pace, or all words at one a cycle.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.block_fifo import BlockFifo
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import HotFillSignature
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.short_queue import ShortQueue
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.stages import BANK_WORDS

from .hot_banks import HotBanks
from .port import LENGTH_BITS, read_request_layout
from .ram import RamPort

__all__ = ["Tiers"]


class Tiers(wiring.Component):
    """Reads of columns, from the hot store or from the memory.

    An address with its top bit set is one of the hot store. Reads are accepted as long as queues
    have room, ``fetch_columns`` of them, and words of the memory are taken ahead, ``fetch_words``
    of them: as many as the fetcher has in flight, so neither side waits for the other before it
    must.

    Parameters
    ----------
    config : EngineConfig
        With ``hot_words``.

    Members
    -------
    reads : In(stream of read requests)
        Addresses have ``config.tier_bits``.
    words : Out(stream of words)
        In the order of the reads.
    memory_reads : Out(stream of read requests), memory_words : In(stream of words)
        The memory.
    fill : In(HotFillSignature(config))
        Writes of the hot store, while nothing is read from it.
    hot_word : Out(1)
        A word of the hot store leaves.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        word = unsigned(config.word_bits)
        super().__init__(
            {
                "reads": In(stream.Signature(read_request_layout(config.tier_bits))),
                "words": Out(stream.Signature(word)),
                "memory_reads": Out(stream.Signature(read_request_layout(config.address_bits))),
                "memory_words": In(stream.Signature(word)),
                "fill": In(HotFillSignature(config)),
                "hot_word": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self._config
        depth = max(16, config.fetch_columns)
        request = read_request_layout(config.address_bits)
        m.submodules.hot_queue = hot = ShortQueue(request, depth)
        m.submodules.cold_queue = cold = ShortQueue(request, depth)
        m.submodules.order = order = ShortQueue(
            data.StructLayout({"hot": 1, "one": 1, "length": LENGTH_BITS}), depth
        )
        connect(m, cold.o_stream, flipped(self.memory_reads))
        store = self._store(m, hot.o_stream)
        self._accept(m, hot, cold, order)
        # The two sides and the lanes may be at opposite ends of the chip.
        turn = self._slice(m, "turn_slice", order.o_stream)
        ahead = self._slice(m, "ahead_slice", self._read_ahead(m))
        self._deliver(m, turn, store, ahead)
        return m

    def _slice(self, m: Module, name: str, source: Any) -> Any:
        """The stream, through registers in both directions."""
        m.submodules[name] = register_slice = RegisterSlice(source.payload.shape())
        connect(m, source, register_slice.i_stream)
        return register_slice.o_stream

    def _store(self, m: Module, reads: Any) -> Any:
        """The hot store, in banks where it is large; its words."""
        config = self._config
        # Through registers of its own: the loader is far, and in no hurry.
        fill = HotFillSignature(config).create()
        write, address, word = Signal(), Data(len(fill.address)), Data(len(fill.data))
        m.d.sync += [
            write.eq(self.fill.write),
            address.eq(self.fill.address),
            word.eq(self.fill.data),
        ]
        m.d.comb += [fill.write.eq(write), fill.address.eq(address), fill.data.eq(word)]
        if config.hot_words > BANK_WORDS:
            m.submodules.store = banks = HotBanks(config, length_bits=LENGTH_BITS)
            connect(m, reads, banks.reads)
            connect(m, fill, banks.fill)
            return banks.words
        m.submodules.store = store = RamPort(
            config.address_bits, config.word_bits, config.hot_words, length_bits=LENGTH_BITS
        )
        connect(m, reads, store.port.read)
        m.d.comb += [
            store.port.write.valid.eq(fill.write),
            store.port.write.p.address.eq(fill.address),
            store.port.write.p.data.eq(fill.data),
        ]
        return store.port.data

    def _accept(self, m: Module, hot: Any, cold: Any, order: Any) -> None:
        """Each read goes to one side, and its turn into ``order``; one of no words is forgotten."""
        # A register in front: whether a read has words is seen before the queues are asked.
        reads, waits, goes = self.reads, Signal(), Signal()
        taken, one = Data(reads.payload.shape()), Data()
        m.d.comb += [
            # All three, so that `ready` does not depend on the address.
            goes.eq(hot.i_stream.ready & cold.i_stream.ready & order.i_stream.ready),
            reads.ready.eq(~waits | goes),
            order.i_stream.valid.eq(waits & goes),
            order.i_stream.p.hot.eq(taken.address[-1]),
            order.i_stream.p.one.eq(one),
            order.i_stream.p.length.eq(taken.length),
        ]
        with m.If(reads.ready):
            m.d.sync += [
                waits.eq(reads.valid & (reads.p.length != 0)),
                taken.eq(reads.p),
                one.eq(reads.p.length == 1),
            ]
        for side, chosen in ((hot, taken.address[-1]), (cold, ~taken.address[-1])):
            m.d.comb += [
                side.i_stream.valid.eq(waits & goes & chosen),
                side.i_stream.p.address.eq(taken.address),
                side.i_stream.p.length.eq(taken.length),
            ]

    def _read_ahead(self, m: Module) -> Any:
        """Words of the memory, up to ``fetch_words`` of them, before their turn."""
        depth = 1 << (self._config.fetch_words - 1).bit_length()
        m.submodules.ahead = ahead = BlockFifo(self._config.word_bits, depth)
        put, came, taken = Signal(), Signal(), Signal()
        level = Signal(range(depth + 1))
        m.d.comb += [
            put.eq(self.memory_words.valid & self.memory_words.ready),
            ahead.i_stream.valid.eq(put),
            ahead.i_stream.payload.eq(self.memory_words.payload),
        ]
        m.d.sync += [
            # The crossing is far from here, so words are counted a cycle late.
            came.eq(put),
            taken.eq(ahead.o_stream.valid & ahead.o_stream.ready),
            level.eq(level + came - taken),
            # From a register: two more words may come before it falls. One entry stays free,
            # because a full queue would look like an empty one.
            self.memory_words.ready.eq(level < depth - 4),
        ]
        return ahead.o_stream

    def _deliver(self, m: Module, following: Any, hot: Any, cold: Any) -> None:
        """Words of the read whose turn it is."""
        active, last, from_hot = Signal(), Data(), Data()
        left = Data(LENGTH_BITS)
        moves, ends = Signal(), Signal()
        m.submodules.words_slice = words_slice = RegisterSlice(self.words.payload.shape())
        connect(m, words_slice.o_stream, flipped(self.words))
        words = words_slice.i_stream
        m.d.comb += [
            words.payload.eq(Mux(from_hot, hot.payload, cold.payload)),
            words.valid.eq(active & Mux(from_hot, hot.valid, cold.valid)),
            hot.ready.eq(active & from_hot & words.ready),
            cold.ready.eq(active & ~from_hot & words.ready),
            moves.eq(words.valid & words.ready),
            ends.eq(moves & last),
            self.hot_word.eq(moves & from_hot),
            following.ready.eq(~active | ends),
        ]
        with m.If(moves):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
        with m.If(following.ready):
            m.d.sync += [
                active.eq(following.valid),
                from_hot.eq(following.p.hot),
                left.eq(following.p.length),
                last.eq(following.p.one),
            ]
