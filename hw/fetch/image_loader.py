"""The image loader: reads the header of an image through the memory port and checks it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.data_register import Data
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import Error

__all__ = ["ImageLoader"]

CHUNK_WORDS = 1 << 12
"""Words of one read while the sum over the image is formed."""


class ImageLoader(wiring.Component):
    """Copies the descriptors of an image into the scheduler's tables.

    Parameters
    ----------
    config : EngineConfig
    sum_bits : int
        Bits a cycle of the sum over the image: 8, or 1 where the part is small.

    Members
    -------
    start : In(1)
        Reads the image at ``base`` (a word address).
    verify : In(1)
        Then sums up all of the image too, a byte a cycle, and compares with the CRC-32 in its
        header; steady from ``start`` to ``done``.
    reads, words : the memory port, while ``busy``
    memory_error : In(1)
    record, index, layer_write, matrix_write : Out
        Record ``record`` of layer or matrix ``index`` is ``value``.
    value : Out(32)
    entry_write, entry : Out
        Entry of a table (``contract.image.ENTRY``), and its number ``entry_index`` in it.
    layers, matrices, inputs, mode, one, threshold : Out
        From the header.
    users : Out
        Matrices that the input feeds.
    busy : Out(1)
    done : Out(1)
        Pulses at the end; ``error`` says whether the image was accepted.
    error : Out(``registers.Error``)
    """

    def __init__(self, config: EngineConfig, *, sum_bits: int = 8) -> None:
        self._config = config
        self._sum_bits = sum_bits
        super().__init__(
            {
                "start": In(1),
                "verify": In(1),
                "base": In(config.address_bits),
                "reads": Out(stream.Signature(read_request_layout(config.address_bits, 16))),
                "words": In(stream.Signature(unsigned(config.word_bits))),
                "memory_error": In(1),
                "record": Out(3),
                "index": Out(8),
                "layer_write": Out(1),
                "matrix_write": Out(1),
                "value": Out(32),
                "entry_write": Out(1),
                "entry_index": Out(16),
                "entry": Out(32),
                "layers": Out(8),
                "matrices": Out(8),
                "inputs": Out(16),
                "mode": Out(2),
                "one": Out(4),
                "threshold": Out(17),
                "users": Out(range(config.matrices + 1)),
                "busy": Out(1),
                "done": Out(1),
                "error": Out(Error),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def sum_bits(self) -> int:
        """Bits a cycle of the sum over the image."""
        return self._sum_bits

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self._config
        slot_words = image.SLOT_BYTES // config.word_bytes
        record_words = max(1, 4 // config.word_bytes)

        word = Signal(range(max(2, slot_words)))
        slot = Signal(10)
        slots = Signal(10)
        value = Data(32)
        captured = Signal()
        in_tables = Signal()
        header_slots = len(image.HEADER)
        words_total = Data(config.address_bits + 1)
        checksum = Data(32)
        wrong = {
            error: Signal(name=f"wrong_{error.name.lower()}")
            for error in (Error.MAGIC, Error.VERSION, Error.FINGERPRINT)
        }
        m.d.comb += self.value.eq(value)

        def field(record: int, name: str) -> Any:
            position = 0
            for key, width in image.HEADER[record].fields:
                if key == name:
                    return value[position : position + width]
                position += width
            raise AssertionError(name)

        # A word every other cycle, so that nothing waits for what the loader makes of it.
        take, want = Signal(), Signal()
        m.d.comb += take.eq(self.words.ready & self.words.valid)
        m.d.sync += self.words.ready.eq(want & ~take)
        m.d.sync += captured.eq(0)
        summing = Signal()  # the words are only summed up, or are entries of tables
        table_slots = Signal(15)
        with m.If(take & ~summing):
            m.d.sync += word.eq(Mux(word == slot_words - 1, 0, word + 1))
            for k in range(record_words):
                with m.If(word == k):
                    part = min(32, config.word_bits)
                    m.d.sync += value.word_select(k, part).eq(self.words.payload[:part])
            m.d.sync += captured.eq(word == record_words - 1)

        # A captured record goes to the header or to a table; the slot counter says which.
        layer_slots = Signal(10)
        m.d.comb += layer_slots.eq(self.layers * len(image.LAYER))
        # Records are two cycles apart or more, so their place is found a cycle ahead.
        place = Data(10)
        is_layer = Data()
        m.d.sync += [
            place.eq(Mux(slot < layer_slots, slot, slot - layer_slots)),
            is_layer.eq(slot < layer_slots),
        ]
        layer_shift = (len(image.LAYER) - 1).bit_length()
        matrix_records = len(image.matrix_records(config.sparse))
        matrix_shift = (matrix_records - 1).bit_length()
        with m.If(is_layer):
            m.d.comb += [
                self.record.eq(place[:layer_shift]),
                self.index.eq(place[layer_shift:]),
            ]
        with m.Else():
            m.d.comb += [
                self.record.eq(place[:matrix_shift]),
                self.index.eq(place[matrix_shift:]),
            ]
        with m.If(captured):
            m.d.sync += slot.eq(slot + 1)
            with m.If(in_tables):
                m.d.comb += [self.layer_write.eq(is_layer), self.matrix_write.eq(~is_layer)]
                source, kind = value[:5], value[10:13]
                with m.If(
                    ~is_layer & (self.record == 0) & (source == 0) & (kind != image.Kind.BIAS)
                ):
                    m.d.sync += self.users.eq(self.users + 1)
            with m.Else(), m.Switch(slot):
                with m.Case(0):
                    m.d.sync += wrong[Error.MAGIC].eq(value != image.MAGIC)
                with m.Case(1):
                    m.d.sync += [
                        wrong[Error.VERSION].eq(field(1, "version") != image.VERSION),
                        self.layers.eq(field(1, "layers")),
                        self.matrices.eq(field(1, "matrices")),
                    ]
                with m.Case(2):
                    m.d.sync += wrong[Error.FINGERPRINT].eq(value != config.fingerprint)
                with m.Case(3):
                    m.d.sync += words_total.eq(value)
                with m.Case(image.CRC_RECORD):
                    m.d.sync += checksum.eq(value)
                with m.Case(5):
                    m.d.sync += [
                        self.inputs.eq(field(5, "inputs")),
                        self.mode.eq(field(5, "input_mode")),
                        self.one.eq(field(5, "input_one")),
                    ]
                with m.Case(6):
                    m.d.sync += self.threshold.eq(value)
                    if config.tables:
                        m.d.sync += table_slots.eq(field(6, "table_slots"))

        # -- the sum over all words, at most a byte a cycle: slow, small, done once a load ---------

        m.submodules.crc = crc = CRC32_ISO_HDLC(self._sum_bits).create()
        wrong_sum = Data()  # the last digit was a cycle before this is looked at
        m.d.sync += wrong_sum.eq(crc.crc != checksum)
        digits_ = Data(config.word_bits)
        digits = 8 // self._sum_bits  # a byte
        digits_left = Signal(range(config.word_bytes * digits + 1))
        crc_at = image.CRC_RECORD * image.SLOT_BYTES * digits
        place_in_image = Signal(range(crc_at + 4 * digits + 1))  # stays where the record is behind
        in_record = Signal()  # the next digit belongs to the record of the checksum itself
        words_left = Signal.like(words_total)
        none_left = Data()  # words_left is 0: looked at long after it has changed
        m.d.sync += none_left.eq(words_left == 0)
        chunk_left = Signal(range(CHUNK_WORDS + 1))
        m.d.comb += [
            crc.valid.eq(digits_left != 0),
            crc.data.eq(Mux(in_record, 0, digits_[: self._sum_bits])),
        ]
        with m.If(digits_left != 0):
            m.d.sync += [digits_.eq(digits_ >> self._sum_bits), digits_left.eq(digits_left - 1)]
            with m.If(place_in_image != crc_at + 4 * digits):
                m.d.sync += place_in_image.eq(place_in_image + 1)
            with m.If(place_in_image == crc_at - 1):
                m.d.sync += in_record.eq(1)
            with m.If(place_in_image == crc_at + 4 * digits - 1):
                m.d.sync += in_record.eq(0)

        request = Data(read_request_layout(config.address_bits, 16))
        m.d.comb += self.reads.payload.eq(request)
        error = Signal(Error)
        m.d.comb += self.error.eq(error)
        too_much = Signal()
        tables = Signal(10)
        tables_at = Data(config.address_bits)

        def after_tables() -> None:
            with m.If(self.verify):
                m.d.sync += [
                    words_left.eq(words_total),
                    request.address.eq(self.base),
                    place_in_image.eq(0),
                    in_record.eq(0),
                    summing.eq(1),
                ]
                m.next = "SUM_START"

        if config.tables:
            # Entries stand close, so a word is taken apart; short words are put together first.
            entries = max(1, config.word_bits // 32)
            pieces = max(1, 32 // config.word_bits)
            listed = Data(max(32, config.word_bits))
            listed_left = Signal(range(entries + 1))
            piece = Signal(range(pieces))
            number = Signal(16)
            m.d.comb += [
                self.entry.eq(listed),
                self.entry_write.eq(listed_left != 0),
                self.entry_index.eq(Mux(listed[31], 0, number)),
            ]
            with m.If(self.entry_write):
                m.d.sync += [
                    listed.eq(listed >> 32),
                    listed_left.eq(listed_left - 1),
                    number.eq(self.entry_index + 1),
                ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [
                        self.busy.eq(1),
                        summing.eq(0),
                        request.address.eq(self.base),
                        request.length.eq(header_slots * slot_words),
                        slot.eq(0),
                        slots.eq(header_slots),
                        word.eq(0),
                        in_tables.eq(0),
                        self.users.eq(0),
                        error.eq(Error.NONE),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "READ"
            with m.State("READ"):
                # The last words of the last slot are padding; all are taken.
                m.d.comb += want.eq(1)
                # A record just captured, or being captured now, is not yet in the slot counter.
                counted = Signal(len(slot) + 1)
                at_end = Signal()  # a cycle later, which is before the next word
                m.d.comb += counted.eq(slot + captured + (record_words == slot_words))
                m.d.sync += at_end.eq((word == slot_words - 1) & (counted == slots))
                with m.If(take & at_end):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += [
                    too_much.eq(
                        (self.layers > config.layers)
                        | (self.layers == 0)
                        | (self.matrices > config.matrices)
                        | (self.inputs > config.inputs)
                    ),
                    tables.eq(layer_slots + self.matrices * matrix_records),
                    tables_at.eq(self.base + header_slots * slot_words),
                ]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "REQUEST"
                with m.If(self.memory_error):
                    m.d.sync += error.eq(Error.MEMORY)
                    m.next = "DONE"
                with m.Elif(in_tables):
                    if config.tables:
                        m.d.sync += [
                            words_left.eq(table_slots * slot_words),
                            none_left.eq(table_slots == 0),
                            request.address.eq(tables_at + tables * slot_words),
                            summing.eq(1),
                        ]
                        m.next = "TABLE"
                    else:
                        m.next = "DONE"
                        after_tables()
                with m.Elif(wrong[Error.MAGIC]):
                    m.d.sync += error.eq(Error.MAGIC)
                    m.next = "DONE"
                with m.Elif(wrong[Error.VERSION]):
                    m.d.sync += error.eq(Error.VERSION)
                    m.next = "DONE"
                with m.Elif(wrong[Error.FINGERPRINT]):
                    m.d.sync += error.eq(Error.FINGERPRINT)
                    m.next = "DONE"
                with m.Elif(too_much):
                    m.d.sync += error.eq(Error.CAPACITY)
                    m.next = "DONE"
                with m.Else():
                    m.d.sync += [
                        in_tables.eq(1),
                        slot.eq(0),
                        slots.eq(tables),
                        request.address.eq(tables_at),
                        request.length.eq(tables * slot_words),
                    ]
            if config.tables:
                with m.State("TABLE"):
                    some_entries = Signal(16)
                    m.d.comb += some_entries.eq(
                        Mux(words_left > CHUNK_WORDS, CHUNK_WORDS, words_left)
                    )
                    m.d.sync += [request.length.eq(some_entries), chunk_left.eq(some_entries)]
                    m.next = "TABLE_REQUEST"
                    with m.If(none_left):
                        m.next = "DONE"
                        after_tables()
                with m.State("TABLE_REQUEST"):
                    m.d.comb += self.reads.valid.eq(1)
                    with m.If(self.reads.ready):
                        m.d.sync += [
                            words_left.eq(words_left - request.length),
                            request.address.eq(request.address + request.length),
                        ]
                        m.next = "TABLE_WORDS"
                with m.State("TABLE_WORDS"):
                    m.d.comb += want.eq((listed_left <= 1) & (chunk_left != 0))
                    with m.If(take):
                        m.d.sync += [
                            listed.eq(Cat(listed[config.word_bits :], self.words.payload)),
                            piece.eq(piece + 1),
                            chunk_left.eq(chunk_left - 1),
                        ]
                        with m.If(piece == pieces - 1):
                            m.d.sync += [listed_left.eq(entries), piece.eq(0)]
                    with m.If((chunk_left == 0) & (listed_left == 0)):
                        m.next = "TABLE"
            with m.State("SUM_START"):
                m.d.comb += crc.start.eq(1)
                m.next = "SUM"
            with m.State("SUM"):
                some = Signal(16)
                m.d.comb += some.eq(Mux(words_left > CHUNK_WORDS, CHUNK_WORDS, words_left))
                m.d.sync += [request.length.eq(some), chunk_left.eq(some)]
                m.next = "SUM_REQUEST"
            with m.State("SUM_REQUEST"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.d.sync += [
                        words_left.eq(words_left - request.length),
                        request.address.eq(request.address + request.length),
                    ]
                    m.next = "SUM_WORDS"
            with m.State("SUM_WORDS"):
                m.d.comb += want.eq((digits_left <= 1) & (chunk_left != 0))
                with m.If(take):
                    m.d.sync += [
                        digits_.eq(self.words.payload),
                        digits_left.eq(config.word_bytes * digits),
                        chunk_left.eq(chunk_left - 1),
                    ]
                with m.If((chunk_left == 0) & (digits_left == 0)):
                    m.next = "SUM"
                    with m.If(none_left):
                        m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(self.memory_error):
                    m.d.sync += error.eq(Error.MEMORY)
                with m.Elif(wrong_sum):
                    m.d.sync += error.eq(Error.CRC)
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.d.sync += self.busy.eq(0)
                m.next = "IDLE"

        return m
