"""A large store in block RAM whose blocks lie all over the chip.

::

    request -> address -+-> [bank: address -> blocks -> register] x banks -> choice -+-> queue
                        +-> a cycle later, the same for the next slice of the word --+

A net that reaches a hundred blocks takes longer than a cycle, and one that reaches sixteen may as
well, because placement puts the blocks of a full chip wherever one is free. So a bank has a
register of addresses for each slice of its words, near the four blocks of that slice; and slices
work one cycle after the other, because synthesis would make one of registers that hold the same.
Nothing stands still when the engine says wait: a word is asked for when the queue at the end has
room for it.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import HotFillSignature
from stillnet.hw.parts.short_queue import ShortQueue
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.stages import BANK_WORDS, CHOICE, store_slices, store_stages

from .port import LENGTH_BITS, read_request_layout

__all__ = ["HotBanks"]

QUEUE = 16
"""Words asked for and not yet taken: more than the twelve cycles of their way."""


class HotBanks(wiring.Component):
    """Answers reads with a word a cycle.

    Parameters
    ----------
    config : EngineConfig
        With ``hot_words``.
    length_bits : int
        Of a request's length.
    bank_words : int
        Words of a bank, a power of two.

    Members
    -------
    reads : In(stream of read requests)
        ``address`` counts words of the store; no request is for none.
    words : Out(stream of words)
    fill : In(HotFillSignature(config))
        Writes, while nothing is read.
    """

    def __init__(
        self, config: EngineConfig, *, length_bits: int = LENGTH_BITS, bank_words: int = BANK_WORDS
    ) -> None:
        self._config, self._length_bits = config, length_bits
        self._bank_words = bank_words
        self._banks = ceil(config.hot_words / bank_words)
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
        width = self._config.word_bits
        slices, stages = store_slices(width), store_stages(self._banks)
        address = Data((self._config.hot_words - 1).bit_length())
        valid, pop = Signal(), Signal()
        self._ask(m, address, valid, pop)
        write, data = Signal(), Data(width)
        m.d.sync += [write.eq(self.fill.write), data.eq(self.fill.data)]
        words = []
        for k in range(slices):
            bits = slice(k * width // slices, (k + 1) * width // slices)
            found = self._slice(m, k, bits, address, write, data[bits])
            words.append(self._later(m, found, slices - 1 - k))
            if k < slices - 1:
                address, write, data = (self._later(m, s, 1) for s in (address, write, data))
        m.submodules.queue = queue = ShortQueue(width, QUEUE)
        m.d.comb += [
            queue.i_stream.payload.eq(Cat(words)),
            queue.i_stream.valid.eq(self._later(m, valid, stages + slices - 1)),
            pop.eq(self.words.valid & self.words.ready),
        ]
        connect(m, queue.o_stream, flipped(self.words))
        return m

    def _later(self, m: Module, signal: Signal, cycles: int) -> Signal:
        """The signal, so many cycles later."""
        for _ in range(cycles):
            following = Signal.like(signal, reset_less=len(signal) > 1)
            m.d.sync += following.eq(signal)
            signal = following
        return signal

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
        with m.If(self.fill.write):
            m.d.sync += address.eq(self.fill.address)

    def _slice(
        self, m: Module, k: int, bits: slice, address: Signal, write: Signal, data: Value
    ) -> Signal:
        """Bits ``bits`` of every word: the banks, and the choice among what they found."""
        inner = (self._bank_words - 1).bit_length()
        found = []
        for b in range(self._banks):
            here = address[inner:] == b
            found.append(self._bank(m, f"{k}_{b}", b, bits, here, address, write, data))
        # Three cycles later: address, memory, register.
        bank = self._later(m, address[inner:], 3) if len(found) > 1 else Const(0)
        return self._choose(m, found, bank)

    def _choose(self, m: Module, found: list[Signal], bank: Signal) -> Signal:
        """The word of the bank, ``CHOICE`` of them in a cycle."""
        bits = (CHOICE - 1).bit_length()
        while len(found) > 1:
            groups = [found[g : g + CHOICE] for g in range(0, len(found), CHOICE)]
            found = [Data(len(found[0])) for _ in groups]
            m.d.sync += [
                word.eq(Array(group)[bank[:bits]])
                for word, group in zip(found, groups, strict=True)
            ]
            bank = self._later(m, bank[bits:], 1) if len(found) > 1 else bank
        return found[0]

    def _bank(
        self,
        m: Module,
        name: str,
        b: int,
        bits: slice,
        here: Value,
        address: Signal,
        write: Signal,
        data: Value,
    ) -> Signal:
        """A slice of bank b: its registers and its memory; what was read."""
        size = min(self._bank_words, self._config.hot_words - b * self._bank_words)
        width = bits.stop - bits.start
        ram = memory.Memory(shape=width, depth=size, init=[], attrs={"no_rw_check": 1})
        m.submodules[f"ram{name}"] = ram
        reader, writer = ram.read_port(), ram.write_port()
        at, word = Data(len(reader.addr), name=f"at{name}"), Data(width, name=f"fill{name}")
        found = Data(width, name=f"found{name}")
        m.d.sync += [writer.en.eq(write & here), found.eq(reader.data)]
        with m.If(here):
            m.d.sync += [at.eq(address), word.eq(data)]
        m.d.comb += [reader.addr.eq(at), writer.addr.eq(at), writer.data.eq(word)]
        return found
