"""A large store in block RAM whose blocks lie all over the chip.

::

    request -> address -> [bank: address -> block RAM -> register] x n -> choice -> queue

A net that reaches a hundred block RAMs takes longer than a cycle. So each bank has registers of its
own for what goes in and out, which change only when a word is the bank's; and nothing stands still
when the engine says wait: a word is asked for when the queue at the end has room for it.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import HotFillSignature
from stillnet.hw.parts.short_queue import ShortQueue
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.stages import BANK_WORDS

from .port import read_request_layout

__all__ = ["HotBanks"]

QUEUE = 16
"""Words asked for and not yet taken: more than the seven cycles of their way."""


class HotBanks(wiring.Component):
    """Answers reads with a word a cycle.

    Parameters
    ----------
    config : EngineConfig
        With more ``hot_words`` than a bank has (``contract.stages.BANK_WORDS``).

    Members
    -------
    reads : In(stream of read requests)
        ``address`` counts words of the store; no request is for none.
    words : Out(stream of words)
    fill : In(HotFillSignature(config))
        Writes, while nothing is read.
    """

    def __init__(self, config: EngineConfig, *, length_bits: int = 16) -> None:
        self._config, self._length_bits = config, length_bits
        request = read_request_layout(config.address_bits, length_bits)
        super().__init__(
            {
                "reads": In(stream.Signature(request)),
                "words": Out(stream.Signature(config.word_bits)),
                "fill": In(HotFillSignature(config)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = ceil(self._config.hot_words / BANK_WORDS)
        bits = (BANK_WORDS - 1).bit_length()
        bank_bits = max(1, (count - 1).bit_length())
        address, valid, pop = Data(bits + bank_bits), Signal(), Signal()
        self._ask(m, address, valid, pop)
        # Which bank the word is in, by stage: address, memory, register, choice.
        stages = Signal(4)
        banks = [Data(bank_bits, name=f"bank{k}") for k in range(3)]
        m.d.sync += [
            stages.eq((stages << 1) | valid),
            banks[0].eq(address[bits:]),
            banks[1].eq(banks[0]),
            banks[2].eq(banks[1]),
        ]
        words = Array(self._bank(m, k, address, bits) for k in range(count))
        chosen = Data(self._config.word_bits)
        m.d.sync += chosen.eq(words[banks[2]])
        m.submodules.queue = queue = ShortQueue(self._config.word_bits, QUEUE)
        m.d.comb += [
            queue.i_stream.payload.eq(chosen),
            queue.i_stream.valid.eq(stages[-1]),
            pop.eq(self.words.valid & self.words.ready),
        ]
        connect(m, queue.o_stream, flipped(self.words))
        return m

    def _ask(self, m: Module, address: Signal, valid: Signal, pop: Signal) -> None:
        """The word that is asked for in this cycle, if the queue has room."""
        busy, last, room = Signal(), Data(), Signal()
        left = Data(self._length_bits)
        level = Signal(range(QUEUE + 1))
        reads = self.reads
        m.d.comb += [valid.eq(busy & room), reads.ready.eq(~busy | (room & last))]
        m.d.sync += level.eq(level + valid - pop)
        # From a register: one more may be asked for before it falls.
        m.d.sync += room.eq(level < QUEUE - 2)
        with m.If(valid):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), last.eq(left == 2)]
        with m.If(reads.ready):
            m.d.sync += [
                busy.eq(reads.valid),
                address.eq(reads.p.address),
                left.eq(reads.p.length),
                last.eq(reads.p.length == 1),
            ]

    def _bank(self, m: Module, k: int, address: Signal, bits: int) -> Signal:
        """Bank k: its registers and its memory; what was read."""
        config, fill = self._config, self.fill
        size = min(BANK_WORDS, config.hot_words - k * BANK_WORDS)
        ram = memory.Memory(shape=config.word_bits, depth=size, init=[], attrs={"no_rw_check": 1})
        m.submodules[f"ram{k}"] = ram
        reader, writer = ram.read_port(), ram.write_port()
        read_at, write_at = Data(bits, name=f"read_at{k}"), Data(bits, name=f"write_at{k}")
        word, write = Data(config.word_bits, name=f"fill{k}"), Signal(name=f"write{k}")
        found = Data(config.word_bits, name=f"found{k}")
        with m.If(address[bits:] == k):
            m.d.sync += read_at.eq(address)
        here = fill.write & (fill.address[bits : len(address)] == k)
        m.d.sync += [write.eq(here), found.eq(reader.data)]
        with m.If(here):
            m.d.sync += [write_at.eq(fill.address), word.eq(fill.data)]
        m.d.comb += [
            reader.addr.eq(read_at),
            writer.addr.eq(write_at),
            writer.data.eq(word),
            writer.en.eq(write),
        ]
        return found
