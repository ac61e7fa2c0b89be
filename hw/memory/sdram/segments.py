"""Requests of the memory port become segments, which lie in one row each."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.data_register import Data

from .parts import SdramPart

__all__ = ["SegmentSplitter", "segment_layout"]


def segment_layout(part: SdramPart) -> data.StructLayout:
    """A run of columns of one row.

    Fields
    ------
    write : 1 bit
    bank, row : bank and row
    first, last : columns, both included
    """
    return data.StructLayout(
        {
            "write": 1,
            "bank": part.bank_bits,
            "row": part.row_bits,
            "first": part.column_bits,
            "last": part.column_bits,
        }
    )


class SegmentSplitter(wiring.Component):
    """Cuts reads and writes at the ends of rows, at most one segment every two cycles.

    An address is row | bank | column. So the words after a row are in the next bank, which can be
    activated in time. Writes go before reads. The number of writes in progress is limited, so reads
    get their turn.

    Parameters
    ----------
    part : :class:`SdramPart`
    address_bits, word_bits, length_bits : :class:`int`
        As for the memory port.

    Members
    -------
    read : :py:`In(stream.Signature(read_request_layout(address_bits, length_bits)))`
    write : :py:`In(stream.Signature(address_bits))`
        Address of a word that is written.
    write_drop : :py:`Out(1)`
        The write taken in this cycle has no such word in the part, and is not done.
    write_start : :py:`Out(1)`
        The write of the earlier transfer on ``write`` goes on, or is dropped.
    o_stream : :py:`Out(stream.Signature(segment_layout(part)))`
    forget : :py:`In(1)`
        Takes ``error`` back.
    error : :py:`Out(1)`
        A word was asked for that the part does not have. Stays high.
    """

    def __init__(self, part: SdramPart, address_bits: int, word_bits: int, length_bits: int):
        self._part = part
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._length_bits = length_bits
        super().__init__(
            {
                "read": In(stream.Signature(read_request_layout(address_bits, length_bits))),
                "write": In(stream.Signature(address_bits)),
                "write_start": Out(1),
                "write_drop": Out(1),
                "o_stream": Out(stream.Signature(segment_layout(part))),
                "forget": In(1),
                "error": Out(1),
            }
        )

    @property
    def part(self) -> SdramPart:
        return self._part

    @property
    def columns_per_word(self) -> int:
        return self._word_bits // self._part.data_bits

    @property
    def words(self) -> int:
        """Whole words in the part."""
        return (1 << self._part.address_bits) // self.columns_per_word

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        part, k = self._part, self.columns_per_word

        # One request of each kind waits; `ready` is a register.
        read_held, read_valid = Signal.like(self.read.payload, reset_less=True), Signal()
        write_held, write_valid = Data(self._address_bits), Signal()
        m.d.comb += [self.read.ready.eq(~read_valid), self.write.ready.eq(~write_valid)]
        with m.If(self.read.valid & self.read.ready):
            m.d.sync += [
                read_held.eq(self.read.payload),
                read_valid.eq(self.read.p.length != 0),
            ]
        with m.If(self.write.valid & self.write.ready):
            m.d.sync += [write_held.eq(self.write.payload), write_valid.eq(1)]

        # Stage 1: the request as columns. `more` is the number of columns without the first.
        take_write, take_read = Signal(), Signal()
        start_valid, start_write = Signal(), Signal()
        start = Data(part.address_bits)
        more = Data(self._length_bits + (k - 1).bit_length())
        address = Signal(self._address_bits)
        length = Signal(self._length_bits)
        m.d.comb += [
            take_write.eq(write_valid & ~start_valid),
            take_read.eq(read_valid & ~write_valid & ~start_valid),
            address.eq(Mux(write_valid, write_held, read_held.address)),
            length.eq(Mux(write_valid, 1, read_held.length)),
            self.write_start.eq(take_write),
        ]
        fits = 1
        if (1 << self._address_bits) > self.words:
            fits = write_held < self.words
        m.d.comb += self.write_drop.eq(~Cat(fits)[0])
        with m.If(take_write):
            m.d.sync += write_valid.eq(0)
        with m.If(take_read):
            m.d.sync += read_valid.eq(0)
        # Each stage takes something only when it is empty, every other cycle, so that no `ready`
        # reaches through it.
        with m.If(~start_valid):
            m.d.sync += [
                start_valid.eq(take_read | (take_write & ~self.write_drop)),
                start.eq(address * k),
                more.eq(length * k - 1),
                start_write.eq(write_valid),
            ]

        # The last word that was asked for, compared a cycle later.
        end = Data(max(self._address_bits, self._length_bits) + 1)
        checked = Signal()
        m.d.sync += [checked.eq(take_read | take_write), end.eq(address + length)]
        with m.If(self.forget):
            m.d.sync += self.error.eq(0)
        with m.If(checked & (end > self.words)):
            m.d.sync += self.error.eq(1)

        # Stage 2: where it ends. `rows` is the number of rows without this one.
        place = Signal(part.row_bits + part.bank_bits)
        column = Data(part.column_bits)
        last = Data(part.column_bits)
        rows = Data(max(1, len(more) + 1 - part.column_bits))
        final, valid, write = Signal(), Signal(), Signal()
        total = Signal(part.column_bits + len(rows))
        m.d.comb += total.eq(start[: part.column_bits] + more)

        # Stage 3: a segment waits here, so that stage 2 need not know when one is dispatched.
        ahead, ahead_valid = Signal.like(self.o_stream.payload, reset_less=True), Signal()
        with m.If(~self.o_stream.valid | self.o_stream.ready):
            m.d.sync += [
                self.o_stream.payload.eq(ahead),
                self.o_stream.valid.eq(ahead_valid),
                ahead_valid.eq(0),
            ]
        with m.If(~ahead_valid):
            m.d.sync += ahead_valid.eq(valid)
            with m.If(valid):
                m.d.sync += [
                    ahead.write.eq(write),
                    ahead.bank.eq(place[: part.bank_bits]),
                    ahead.row.eq(place[part.bank_bits :]),
                    ahead.first.eq(column),
                    ahead.last.eq(last | (~final).replicate(part.column_bits)),
                    place.eq(place + 1),
                    column.eq(0),
                    rows.eq(rows - 1),
                    final.eq(rows == 1),
                    valid.eq(~final),
                ]
        with m.If(start_valid & ~valid):
            m.d.sync += [
                start_valid.eq(0),
                place.eq(start[part.column_bits :]),
                column.eq(start[: part.column_bits]),
                last.eq(total[: part.column_bits]),
                rows.eq(total[part.column_bits :]),
                final.eq(total[part.column_bits :] == 0),
                valid.eq(1),
                write.eq(start_write),
            ]
        return m
