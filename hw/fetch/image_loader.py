"""The image loader: reads the header of an image through the memory port and checks it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import (
    DescriptorWriteSignature,
    EntryWriteSignature,
    HotFillSignature,
    ImageSignature,
    InputHeaderSignature,
    LoadControlSignature,
)
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.registers import CHECK_WORDS, Error

__all__ = ["ImageLoader"]

CHUNK_WORDS = CHECK_WORDS
"""Words of one read while the sum over the image is formed."""


class _Signals:
    """What the parts of the loader share.

    Attributes
    ----------
    word, slot, slots
        Word within its slot; slot of the header or of the descriptors; their number.
    take, want, captured
        A word is taken; wanted; a record is in ``value``.
    in_tables, recording, summing
        Slots are those of descriptors; words are parts of records; they are summed up.
    request, words_left, none_left, chunk_left
        The read that is made; words still to be asked for; there are none; words of this read.
    word_digits, digits, digits_left
        Digits of a word, of ``sum_bits`` each; of a byte; still to be summed up.
    place_in_image, in_record
        Number of the digit, up to the checksum; it belongs to the checksum.
    hot_left, hot_too_much
        Words for the hot store; they are more than it has.
    checking, paused
        The image is not loaded but only summed up; parts of it are left.
    listed, listed_left, entries, piece, pieces
        Entries of tables in a register; how many are left, of how many; the same for words that
        make up one entry.
    """

    def __init__(self, config: EngineConfig, sum_bits: int) -> None:
        self.slot_words = image.SLOT_BYTES // config.word_bytes
        self.record_words = max(1, 4 // config.word_bytes)
        self.matrix_records = len(image.matrix_records(config.long_records))
        self.word = Signal(range(max(2, self.slot_words)))
        self.slot = Signal(10)
        self.slots = Signal(10)
        self.value = Data(32)
        self.captured = Signal()
        self.take = Signal()
        self.want = Signal()
        self.in_tables = Signal()
        self.recording, self.summing = Signal(), Signal()
        self.layer_slots = Signal(10)
        self.is_layer = Data()
        # From the header.
        self.table_slots = Signal(15)
        self.words_total = Data(config.address_bits + 1)
        self.checksum = Data(32)
        self.hot_at = Data(config.address_bits)
        self.hot_left = Data(config.address_bits + 1)
        self.hot_too_much = Data()
        self.wrong = {
            error: Signal(name=f"wrong_{error.name.lower()}")
            for error in (Error.MAGIC, Error.VERSION, Error.FINGERPRINT)
        }
        self.too_much = Signal()
        self.tables = Signal(10)
        self.tables_at = Data(config.address_bits)
        self.error = Signal(Error)
        # Reads.
        self.request = Data(read_request_layout(config.address_bits))
        self.words_left = Signal.like(self.words_total)
        self.none_left = Data()  # late, but it is used long after ``words_left`` has changed
        self.behind = Data(config.address_bits)  # where the next read begins, a cycle late
        self.left_behind = Signal.like(self.words_total)  # words behind this read, a cycle late
        self.chunk_left = Signal(range(CHUNK_WORDS + 1))
        # The sum.
        self.crc: Any = CRC32_ISO_HDLC(sum_bits).create()
        self.wrong_sum = Data()
        self.word_digits = Data(config.word_bits)
        self.digits = 8 // sum_bits
        self.digits_left = Signal(range(config.word_bytes * self.digits + 1))
        self.few_digits = Signal(init=1)  # digits_left <= 1, from a register
        crc_end = (image.CRC_RECORD * image.SLOT_BYTES + 4) * self.digits
        self.place_in_image = Signal(range(crc_end + 1))
        self.in_record = Signal()
        # Sums over an image that is not loaded.
        self.checking, self.paused = Signal(), Signal()
        # Tables.
        self.entries = max(1, config.word_bits // 32)
        self.pieces = max(1, 32 // config.word_bits)
        self.listed = Data(max(32, config.word_bits))
        self.listed_left = Signal(range(self.entries + 1))
        self.piece = Signal(range(self.pieces))


class ImageLoader(wiring.Component):
    """Copies the descriptors of an image into the scheduler's tables.

    Parameters
    ----------
    config : EngineConfig
    sum_bits : int
        Bits per cycle of the sum over the image: 8, or 1 where the part is small.
    beside : bool
        It can also sum up an image that is not loaded, in parts of ``CHUNK_WORDS``.

    Members
    -------
    control : In(LoadControlSignature)
        Starts a load, and says how it ended.
    reads, words : the memory port, while ``control.busy``
    memory_error : In(1)
        The memory has answered with an error.
    descriptors : Out(DescriptorWriteSignature)
        Records of layers and matrices.
    entries : Out(EntryWriteSignature)
        Entries of tables.
    fill : Out(HotFillSignature)
        Words for the hot store, only in engines that have one.
    image : Out(ImageSignature)
        Where the image stands, and how many descriptors it has.
    input : Out(InputHeaderSignature)
        What the header says about the input vector.
    threshold : Out(17)
        Threshold of the input vector, valid with ``control.done``.
    """

    def __init__(self, config: EngineConfig, *, sum_bits: int = 8, beside: bool = False) -> None:
        self._config = config
        self._sum_bits = sum_bits
        self._beside = beside
        super().__init__(
            {
                "control": In(LoadControlSignature(config, beside)),
                "reads": Out(stream.Signature(read_request_layout(config.address_bits))),
                "words": In(stream.Signature(unsigned(config.word_bits))),
                "memory_error": In(1),
                "descriptors": Out(DescriptorWriteSignature()),
                "entries": Out(EntryWriteSignature()),
                "image": Out(ImageSignature(config)),
                "input": Out(InputHeaderSignature(config)),
                "threshold": Out(EVENT_BITS),
                **({"fill": Out(HotFillSignature(config))} if config.hot_words else {}),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def sum_bits(self) -> int:
        """Bits per cycle of the sum over the image."""
        return self._sum_bits

    @property
    def beside(self) -> bool:
        """It can sum up an image that is not loaded."""
        return self._beside

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = _Signals(self._config, self._sum_bits)
        m.submodules.crc = x.crc
        m.d.comb += [
            self.descriptors.value.eq(x.value),
            self.control.error.eq(x.error),
            self.image.base.eq(self.control.base),
            self.reads.payload.eq(x.request),
            x.take.eq(self.words.ready & self.words.valid),
        ]
        if self._beside:
            m.d.comb += self.control.words.eq(x.words_total)
        # A word every other cycle, so that nothing waits for what the loader makes of it.
        m.d.sync += [
            self.words.ready.eq(x.want & ~x.take),
            x.behind.eq(x.request.address + x.request.length),
            x.left_behind.eq(x.words_left - x.request.length),
        ]
        self._capture(m, x)
        self._place(m, x)
        self._record(m, x)
        self._sum(m, x)
        if self._config.tables:
            self._entries(m, x)
        if self._config.hot_words:
            # Steady long before they are used: the tables are read in between.
            m.d.comb += self.fill.data.eq(self.words.payload)
            m.d.sync += [
                x.hot_left.eq(x.words_total - x.hot_at),
                x.hot_too_much.eq(x.hot_left > self._config.hot_words),
            ]
        with m.FSM():
            self._idle(m, x)
            self._read(m, x)
            self._check(m, x)
            if self._config.tables:
                self._read_tables(m, x)
            if self._config.hot_words:
                self._fill(m, x)
            self._read_all(m, x)
            self._end(m, x)
        return m

    # -- words become records ---------------------------------------------------------------------

    def _capture(self, m: Module, x: _Signals) -> None:
        """The first words of a slot are a record; the others are padding."""
        part = min(32, self._config.word_bits)
        m.d.sync += x.captured.eq(0)
        with m.If(x.take):
            m.d.sync += x.chunk_left.eq(x.chunk_left - 1)
        with m.If(x.take & x.recording):
            m.d.sync += x.word.eq(Mux(x.word == x.slot_words - 1, 0, x.word + 1))
            for k in range(x.record_words):
                with m.If(x.word == k):
                    m.d.sync += x.value.word_select(k, part).eq(self.words.payload[:part])
            m.d.sync += x.captured.eq(x.word == x.record_words - 1)

    def _place(self, m: Module, x: _Signals) -> None:
        """Number of the record, and of the layer or matrix, from the number of its slot."""
        m.d.comb += x.layer_slots.eq(self.image.layers * len(image.LAYER))
        # Records are two cycles apart or more, so their place is found a cycle ahead.
        place = Data(10)
        m.d.sync += [
            place.eq(Mux(x.slot < x.layer_slots, x.slot, x.slot - x.layer_slots)),
            x.is_layer.eq(x.slot < x.layer_slots),
        ]
        record, index = self.descriptors.record, self.descriptors.index
        layer_shift = (len(image.LAYER) - 1).bit_length()
        matrix_shift = (x.matrix_records - 1).bit_length()
        with m.If(x.is_layer):
            m.d.comb += [record.eq(place[:layer_shift]), index.eq(place[layer_shift:])]
        with m.Else():
            m.d.comb += [record.eq(place[:matrix_shift]), index.eq(place[matrix_shift:])]

    def _record(self, m: Module, x: _Signals) -> None:
        """Where a captured record goes: to the tables of descriptors, or it is the header's."""
        descriptors = self.descriptors
        with m.If(x.captured):
            m.d.sync += x.slot.eq(x.slot + 1)
            with m.If(x.in_tables):
                m.d.comb += [
                    descriptors.layer_write.eq(x.is_layer),
                    descriptors.matrix_write.eq(~x.is_layer),
                ]
                first = ~x.is_layer & (descriptors.record == 0)
                of_input = x.value[image.MATRIX[0].slice("source")] == 0
                kind = x.value[image.MATRIX[0].slice("kind")]
                with m.If(first & of_input & (kind != image.Kind.BIAS)):
                    m.d.sync += self.input.users.eq(self.input.users + 1)
            with m.Else(), m.Switch(x.slot):
                self._header(m, x)

    def _header(self, m: Module, x: _Signals) -> None:
        def record(name: str) -> int:
            return image.find_field(image.HEADER, name)[0]

        def field(name: str) -> Any:
            return x.value[image.find_field(image.HEADER, name)[1]]

        with m.Case(record("magic")):
            m.d.sync += x.wrong[Error.MAGIC].eq(x.value != image.MAGIC)
        with m.Case(record("version")):
            m.d.sync += x.wrong[Error.VERSION].eq(field("version") != image.VERSION)
            with self._loading(m, x):
                m.d.sync += [
                    self.image.layers.eq(field("layers")),
                    self.image.matrices.eq(field("matrices")),
                ]
        with m.Case(record("fingerprint")):
            m.d.sync += x.wrong[Error.FINGERPRINT].eq(x.value != self._config.fingerprint)
        with m.Case(record("words")):
            m.d.sync += x.words_total.eq(x.value)
        with m.Case(record("crc")):
            m.d.sync += x.checksum.eq(x.value)
        with m.Case(record("hot_at")):
            m.d.sync += x.hot_at.eq(x.value)
        with m.Case(record("inputs")), self._loading(m, x):
            m.d.sync += [
                self.input.size.eq(field("inputs")),
                self.input.mode.eq(field("input_mode")),
                self.input.one.eq(field("input_one")),
            ]
        with m.Case(record("input_threshold")):
            m.d.sync += self.threshold.eq(x.value)
            if self._config.tables:
                m.d.sync += x.table_slots.eq(field("table_slots"))

    def _loading(self, m: Module, x: _Signals) -> AbstractContextManager[None]:
        """Where an image that is only summed up must not change what runs."""
        return m.If(~x.checking) if self._beside else nullcontext()

    # -- the sum over all words -------------------------------------------------------------------

    def _sum(self, m: Module, x: _Signals) -> None:
        """At most a byte per cycle: slow and small, because it is done once per load."""
        crc, sum_bits = x.crc, self._sum_bits
        m.d.sync += [
            crc.start.eq(0),  # from a register: words come many cycles later
            # The last digit was a cycle before this is used.
            x.wrong_sum.eq(crc.crc != x.checksum),
            x.none_left.eq(x.words_left == 0),
        ]
        # The bytes of the checksum itself count as zero.
        crc_at = image.CRC_RECORD * image.SLOT_BYTES * x.digits
        crc_end = crc_at + 4 * x.digits
        place = x.place_in_image
        m.d.comb += [
            crc.valid.eq(x.digits_left != 0),
            crc.data.eq(Mux(x.in_record, 0, x.word_digits[:sum_bits])),
        ]
        # Whatever the words are while no more than a digit is left: the latest counts.
        m.d.sync += x.word_digits.eq(
            Mux(x.few_digits, self.words.payload, x.word_digits >> sum_bits)
        )
        with m.If(x.digits_left != 0):
            m.d.sync += [
                x.digits_left.eq(x.digits_left - 1),
                x.few_digits.eq(x.digits_left <= 2),
            ]
            with m.If(place != crc_end):  # it stays there
                m.d.sync += place.eq(place + 1)
            with m.If(place == crc_at - 1):
                m.d.sync += x.in_record.eq(1)
            with m.If(place == crc_end - 1):
                m.d.sync += x.in_record.eq(0)
        with m.If(x.take & x.summing):
            digits = self._config.word_bytes * x.digits
            m.d.sync += [x.digits_left.eq(digits), x.few_digits.eq(digits <= 1)]

    # -- tables -----------------------------------------------------------------------------------

    def _entries(self, m: Module, x: _Signals) -> None:
        """Entries follow each other without a gap: a word is taken apart, short ones are joined."""
        entries, number = self.entries, Signal(16)
        m.d.comb += [
            entries.value.eq(x.listed),
            entries.write.eq(x.listed_left != 0),
            entries.index.eq(Mux(x.listed[31], 0, number)),
        ]
        with m.If(entries.write):
            m.d.sync += [
                x.listed.eq(x.listed >> 32),
                x.listed_left.eq(x.listed_left - 1),
                number.eq(entries.index + 1),
            ]
        # Whatever the words are: those of a table are the latest when they count.
        with m.Elif(x.take):
            m.d.sync += x.listed.eq(Cat(x.listed[self._config.word_bits :], self.words.payload))

    # -- the steps of a load ----------------------------------------------------------------------

    def _idle(self, m: Module, x: _Signals) -> None:
        header_slots = len(image.HEADER)
        with m.State("IDLE"):
            with m.If(self.control.start):
                m.d.sync += [
                    self.control.busy.eq(1),
                    x.recording.eq(1),
                    x.summing.eq(0),
                    x.request.address.eq(self._base()),
                    x.request.length.eq(header_slots * x.slot_words),
                    x.slot.eq(0),
                    x.slots.eq(header_slots),
                    x.word.eq(0),
                    x.in_tables.eq(0),
                ]
                with m.If(~self.control.check) if self._beside else nullcontext():
                    m.d.sync += self.input.users.eq(0)
                m.d.sync += x.error.eq(Error.NONE)
                m.next = "REQUEST"
                if self._beside:
                    self._go_on(m, x)

    def _base(self) -> Any:
        """Where the image begins."""
        control = self.control
        return Mux(control.check, control.beside, control.base) if self._beside else control.base

    def _go_on(self, m: Module, x: _Signals) -> None:
        """The next part of a sum that has begun; all is as it was left."""
        control = self.control
        m.d.sync += [x.checking.eq(control.check), x.paused.eq(0)]
        with m.If(control.check & x.paused & ~control.again):
            m.d.sync += [
                x.recording.eq(0),
                x.summing.eq(1),
                x.request.address.eq(x.request.address),
            ]
            m.next = "SUM"

    def _read(self, m: Module, x: _Signals) -> None:
        """The header, then the descriptors."""
        with m.State("REQUEST"):
            m.d.comb += self.reads.valid.eq(1)
            with m.If(self.reads.ready):
                m.next = "READ"
        with m.State("READ"):
            # The last words of the last slot are padding; all are taken.
            m.d.comb += x.want.eq(1)
            # A record just captured, or being captured now, is not yet in the slot counter.
            counted = Signal(len(x.slot) + 1)
            at_end = Signal()  # a cycle later, which is before the next word
            m.d.comb += counted.eq(x.slot + x.captured + (x.record_words == x.slot_words))
            m.d.sync += at_end.eq((x.word == x.slot_words - 1) & (counted == x.slots))
            with m.If(x.take & at_end):
                m.next = "SETTLE"

    def _check(self, m: Module, x: _Signals) -> None:
        config, header_slots = self._config, len(image.HEADER)
        with m.State("SETTLE"):
            m.d.sync += [
                x.too_much.eq(
                    (self.image.layers > config.layers)
                    | (self.image.layers == 0)
                    | (self.image.matrices > config.matrices)
                    | (self.input.size > config.inputs)
                ),
                x.tables.eq(x.layer_slots + self.image.matrices * x.matrix_records),
                x.tables_at.eq(self.control.base + header_slots * x.slot_words),
            ]
            m.next = "CHECK"
        with m.State("CHECK"):
            m.next = "REQUEST"
            with m.If(self.memory_error):
                self._refuse(m, x, Error.MEMORY)
            with m.Elif(x.in_tables):
                self._after_descriptors(m, x)
            for error in (Error.MAGIC, Error.VERSION, Error.FINGERPRINT):
                with m.Elif(x.wrong[error]):
                    self._refuse(m, x, error)
            if self._beside:
                with m.Elif(x.checking):
                    self._sum_all(m, x)
            with m.Elif(x.too_much):
                self._refuse(m, x, Error.CAPACITY)
            with m.Else():
                m.d.sync += [
                    x.in_tables.eq(1),
                    x.slot.eq(0),
                    x.slots.eq(x.tables),
                    x.request.address.eq(x.tables_at),
                    x.request.length.eq(x.tables * x.slot_words),
                ]

    def _refuse(self, m: Module, x: _Signals, error: Error) -> None:
        m.d.sync += x.error.eq(error)
        m.next = "DONE"

    def _after_descriptors(self, m: Module, x: _Signals) -> None:
        if not self._config.tables:
            m.next = "DONE"
            self._verify(m, x)
            return
        m.d.sync += [
            x.words_left.eq(x.table_slots * x.slot_words),
            x.none_left.eq(x.table_slots == 0),
            x.request.address.eq(x.tables_at + x.tables * x.slot_words),
            x.recording.eq(0),
        ]
        m.next = "TABLE"

    def _verify(self, m: Module, x: _Signals) -> None:
        with m.If(self.control.verify):
            self._sum_all(m, x)

    def _sum_all(self, m: Module, x: _Signals) -> None:
        m.d.sync += [
            x.words_left.eq(x.words_total),
            x.request.address.eq(self._base()),
            x.place_in_image.eq(0),
            x.in_record.eq(0),
            x.recording.eq(0),
            x.summing.eq(1),
        ]
        m.next = "SUM_START"

    def _chunk(self, m: Module, x: _Signals, state: str, following: str) -> None:
        """Asks for as many of ``words_left`` as one read may have."""
        some = Signal(16)
        with m.State(state):
            m.d.comb += some.eq(Mux(x.words_left > CHUNK_WORDS, CHUNK_WORDS, x.words_left))
            m.d.sync += [x.request.length.eq(some), x.chunk_left.eq(some)]
            m.next = f"{state}_REQUEST"
            if state == "TABLE" and self._config.hot_words:
                with m.If(x.none_left):
                    m.d.sync += [
                        x.words_left.eq(x.hot_left),
                        x.none_left.eq(x.hot_left == 0),
                        x.request.address.eq(self.control.base + x.hot_at),
                        self.fill.address.eq(0),
                    ]
                    m.next = "HOT"
                    with m.If(x.hot_too_much):
                        self._refuse(m, x, Error.CAPACITY)
            elif state in ("TABLE", "HOT"):
                with m.If(x.none_left):
                    m.next = "DONE"
                    self._verify(m, x)
        with m.State(f"{state}_REQUEST"):
            m.d.comb += self.reads.valid.eq(1)
            with m.If(self.reads.ready):
                m.next = f"{state}_ASKED"
        with m.State(f"{state}_ASKED"):
            m.d.sync += [x.words_left.eq(x.left_behind), x.request.address.eq(x.behind)]
            m.next = following

    def _read_tables(self, m: Module, x: _Signals) -> None:
        self._chunk(m, x, "TABLE", "TABLE_WORDS")
        with m.State("TABLE_WORDS"):
            m.d.comb += x.want.eq((x.listed_left <= 1) & (x.chunk_left != 0))
            with m.If(x.take):
                m.d.sync += x.piece.eq(x.piece + 1)
                with m.If(x.piece == x.pieces - 1):
                    m.d.sync += [x.listed_left.eq(x.entries), x.piece.eq(0)]
            with m.If((x.chunk_left == 0) & (x.listed_left == 0)):
                m.next = "TABLE"

    def _fill(self, m: Module, x: _Signals) -> None:
        """Copies the last words of the image to the hot store."""
        self._chunk(m, x, "HOT", "HOT_WORDS")
        with m.State("HOT_WORDS"):
            m.d.comb += [x.want.eq(x.chunk_left != 0), self.fill.write.eq(x.take)]
            with m.If(x.take):
                m.d.sync += self.fill.address.eq(self.fill.address + 1)
            with m.If(x.chunk_left == 0):
                m.next = "HOT"

    def _read_all(self, m: Module, x: _Signals) -> None:
        with m.State("SUM_START"):
            m.d.sync += x.crc.start.eq(1)
            m.next = "SUM"
        self._chunk(m, x, "SUM", "SUM_WORDS")
        with m.State("SUM_WORDS"):
            m.d.comb += x.want.eq(x.few_digits & (x.chunk_left != 0))
            with m.If((x.chunk_left == 0) & (x.digits_left == 0)):
                m.next = "SUM"
                if self._beside:
                    with m.If(x.checking):
                        m.next = "PAUSE"
                with m.If(x.none_left):
                    m.next = "COMPARE"
        if self._beside:
            with m.State("PAUSE"):
                m.d.comb += [self.control.done.eq(1), self.control.more.eq(1)]
                m.d.sync += [self.control.busy.eq(0), x.paused.eq(1)]
                m.next = "IDLE"

    def _end(self, m: Module, x: _Signals) -> None:
        with m.State("COMPARE"):
            with m.If(self.memory_error):
                m.d.sync += x.error.eq(Error.MEMORY)
            with m.Elif(x.wrong_sum):
                m.d.sync += x.error.eq(Error.CRC)
            if self._beside and self._config.hot_words:
                with m.Elif(x.hot_too_much):
                    m.d.sync += x.error.eq(Error.CAPACITY)
            m.next = "DONE"
        with m.State("DONE"):
            m.d.comb += self.control.done.eq(1)
            m.d.sync += self.control.busy.eq(0)
            m.next = "IDLE"
