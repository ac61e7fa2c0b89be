"""Words of the memory port from and to the data bus of an SDRAM."""

from math import ceil
from typing import Any

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.short_queue import ShortQueue

from .pins import BURST

__all__ = ["ReadWords", "WriteWords"]

_COUNT_DELAY = 5
"""Cycles from a command to the count that tells whether another one has room, at most."""


class ReadWords(wiring.Component):
    """Puts items of the data bus together to words, and keeps them until the engine takes them.

    Parameters
    ----------
    word_bits, data_bits : :class:`int`
    latency : :class:`int`
        Cycles from ``take`` to the item in ``dq``.
    depth : :class:`int`, optional
        Words kept; a power of two. The least that lets an engine which is always ready read without
        a pause, where not given.
    far : :class:`bool`
        What is taken is counted a cycle later.

    Members
    -------
    take : :py:`In(1)`
        An item has been asked for, which comes ``latency`` cycles later.
    dq : :py:`In(data_bits)`
        The bus, from a register.
    room : :py:`Out(1)`
        A burst may be asked for: its items have a place, even if no word is ever taken.
    o_stream : :py:`Out(stream.Signature(word_bits))`
    """

    def __init__(
        self,
        word_bits: int,
        data_bits: int,
        latency: int,
        depth: int | None = None,
        *,
        far: bool = False,
    ):
        self._word_bits = word_bits
        self._data_bits = data_bits
        self._latency = latency
        self._far = far
        k = word_bits // data_bits
        # Items asked for but not counted yet, and a burst.
        self._margin = ceil((BURST + _COUNT_DELAY) / k) + 1
        least = self._margin + ceil((latency + 6 + far) / k) + 2
        if depth is None:
            depth = max(16, 1 << (least - 1).bit_length())
        self._depth = depth
        self._bits = exact_log2(depth)
        super().__init__(
            {
                "take": In(1),
                "dq": In(data_bits),
                "room": Out(1),
                "o_stream": Out(stream.Signature(word_bits)),
            }
        )

    @property
    def depth(self) -> int:
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        k = self._word_bits // self._data_bits

        taken, last = Signal(), Signal()
        m.d.sync += taken.eq(self.take)
        place = Signal(range(max(k, 2)))
        m.d.comb += last.eq(taken & (place == k - 1))
        with m.If(taken):
            m.d.sync += place.eq(place + 1)
            with m.If(last):
                m.d.sync += place.eq(0)

        # Words asked for and not yet taken out of the queue.
        m.submodules.queue = queue = ShortQueue(self._word_bits, self._depth, counted=True)
        level = Signal(range(self._depth + 1))
        out = Signal()
        m.d["sync" if self._far else "comb"] += out.eq(queue.o_stream.valid & queue.o_stream.ready)
        with m.If(last & ~out):
            m.d.sync += level.eq(level + 1)
        with m.Elif(out & ~last):
            m.d.sync += level.eq(level - 1)
        m.d.sync += self.room.eq(level <= self._depth - self._margin)

        on_way = Signal(self._latency - 1)
        ends = Signal(self._latency - 1)
        m.d.sync += [on_way.eq(Cat(taken, on_way)), ends.eq(Cat(last, ends))]

        # The first item is the low part of the word.
        parts = Data((k - 1) * self._data_bits)
        word = Cat(parts, self.dq)
        with m.If(on_way[-1]):
            m.d.sync += parts.eq(word[self._data_bits :])
        m.d.comb += [
            queue.i_stream.payload.eq(word),
            queue.i_stream.valid.eq(ends[-1]),
            self.o_stream.payload.eq(queue.o_stream.payload),
            self.o_stream.valid.eq(queue.o_stream.valid),
            queue.o_stream.ready.eq(self.o_stream.ready),
        ]
        return m


class WriteWords(wiring.Component):
    """Keeps words until they are written, and hands them out in parts, the low one first.

    Parameters
    ----------
    word_bits, data_bits : :class:`int`
    depth : :class:`int`
        Words kept; a power of two. Nobody checks.

    Members
    -------
    push : :py:`In(1)`
        Keep ``word``.
    word : :py:`In(word_bits)`
    take : :py:`In(1)`
        ``part`` is used.
    part : :py:`Out(data_bits)`
    done : :py:`Out(1)`
        The part used in this cycle is the last one of its word.
    """

    def __init__(self, word_bits: int, data_bits: int, depth: int):
        self._word_bits = word_bits
        self._data_bits = data_bits
        self._depth = depth
        self._bits = exact_log2(depth)
        super().__init__(
            {
                "push": In(1),
                "word": In(word_bits),
                "take": In(1),
                "part": Out(data_bits),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        k = self._word_bits // self._data_bits
        m.submodules.ram = ram = memory.Memory(shape=self._word_bits, depth=self._depth, init=[])
        write_port = ram.write_port()
        read_port = ram.read_port(domain="comb")
        first, end = Signal(self._bits), Signal(self._bits)
        place = Signal(range(max(k, 2)))
        parts = Array(read_port.data.word_select(i, self._data_bits) for i in range(k))
        m.d.comb += [
            write_port.addr.eq(end),
            write_port.data.eq(self.word),
            write_port.en.eq(self.push),
            read_port.addr.eq(first),
            self.part.eq(parts[place] if k > 1 else parts[0]),
            self.done.eq(self.take & (place == k - 1)),
        ]
        with m.If(self.push):
            m.d.sync += end.eq(end + 1)
        with m.If(self.take):
            m.d.sync += place.eq(place + 1)
            with m.If(self.done):
                m.d.sync += [place.eq(0), first.eq(first + 1)]
        return m
