"""The image loader: reads the header of an image through the memory port and checks it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import Error

from .memory_port import read_request_layout

__all__ = ["ImageLoader"]


class ImageLoader(wiring.Component):
    """Copies the descriptors of an image into the scheduler's tables.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    start : In(1)
        Reads the image at ``base`` (a word address).
    reads, words : the memory port, while ``busy``
    memory_error : In(1)
    record, index, layer_write, matrix_write : Out
        Record ``record`` of layer or matrix ``index`` is ``value``.
    value : Out(32)
    layers, matrices, inputs, mode, one, threshold : Out
        From the header.
    users : Out
        Matrices that the input feeds.
    busy : Out(1)
    done : Out(1)
        Pulses at the end; ``error`` says whether the image was accepted.
    error : Out(``registers.Error``)
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "base": In(config.address_bits),
                "reads": Out(stream.Signature(read_request_layout(config.address_bits, 16))),
                "words": In(stream.Signature(unsigned(config.word_bits))),
                "memory_error": In(1),
                "record": Out(3),
                "index": Out(8),
                "layer_write": Out(1),
                "matrix_write": Out(1),
                "value": Out(32),
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

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self._config
        slot_words = image.SLOT_BYTES // config.word_bytes
        record_words = max(1, 4 // config.word_bytes)

        word = Signal(range(max(2, slot_words)))
        slot = Signal(10)
        slots = Signal(10)
        value = Signal(32)
        captured = Signal()
        in_tables = Signal()
        header = [Signal(32, name=f"header{i}") for i in range(len(image.HEADER))]

        def field(record: int, name: str) -> Any:
            position = 0
            for key, width in image.HEADER[record].fields:
                if key == name:
                    return header[record][position : position + width]
                position += width
            raise AssertionError(name)

        m.d.comb += [
            self.layers.eq(field(1, "layers")),
            self.matrices.eq(field(1, "matrices")),
            self.inputs.eq(field(5, "inputs")),
            self.mode.eq(field(5, "input_mode")),
            self.one.eq(field(5, "input_one")),
            self.threshold.eq(header[6]),
            self.value.eq(value),
        ]

        take = Signal()
        m.d.comb += take.eq(self.words.ready & self.words.valid)
        m.d.sync += captured.eq(0)
        with m.If(take):
            m.d.sync += word.eq(Mux(word == slot_words - 1, 0, word + 1))
            for k in range(record_words):
                with m.If(word == k):
                    part = min(32, config.word_bits)
                    m.d.sync += value.word_select(k, part).eq(self.words.payload[:part])
            m.d.sync += captured.eq(word == record_words - 1)

        # A captured record goes to the header or to a table; the slot counter says which.
        layer_slots = Signal(10)
        m.d.comb += layer_slots.eq(self.layers * len(image.LAYER))
        place = Signal(10)
        m.d.comb += place.eq(Mux(slot < layer_slots, slot, slot - layer_slots))
        is_layer = Signal()
        m.d.comb += is_layer.eq(slot < layer_slots)
        layer_shift = (len(image.LAYER) - 1).bit_length()
        matrix_shift = (len(image.MATRIX) - 1).bit_length()
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
            with m.Else():
                m.d.sync += Array(header)[slot[: (len(header) - 1).bit_length()]].eq(value)

        m.d.comb += self.busy.eq(1)
        request = Signal(read_request_layout(config.address_bits, 16))
        m.d.comb += self.reads.payload.eq(request)
        error = Signal(Error)
        m.d.comb += self.error.eq(error)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.d.sync += [
                        request.address.eq(self.base),
                        request.length.eq(len(header) * slot_words),
                        slot.eq(0),
                        slots.eq(len(header)),
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
                m.d.comb += self.words.ready.eq(1)
                # A record just captured, or being captured now, is not yet in the slot counter.
                counted = Signal(len(slot) + 1)
                m.d.comb += counted.eq(slot + captured + (record_words == slot_words))
                with m.If(take & (word == slot_words - 1) & (counted == slots)):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "REQUEST"
                with m.If(self.memory_error):
                    m.d.sync += error.eq(Error.MEMORY)
                    m.next = "DONE"
                with m.Elif(in_tables):
                    m.next = "DONE"
                with m.Elif(header[0] != image.MAGIC):
                    m.d.sync += error.eq(Error.MAGIC)
                    m.next = "DONE"
                with m.Elif(field(1, "version") != image.VERSION):
                    m.d.sync += error.eq(Error.VERSION)
                    m.next = "DONE"
                with m.Elif(header[2] != config.fingerprint):
                    m.d.sync += error.eq(Error.FINGERPRINT)
                    m.next = "DONE"
                with m.Elif(
                    (self.layers > config.layers)
                    | (self.layers == 0)
                    | (self.matrices > config.matrices)
                    | (self.inputs > config.inputs)
                ):
                    m.d.sync += error.eq(Error.CAPACITY)
                    m.next = "DONE"
                with m.Else():
                    tables = Signal(10)
                    m.d.comb += tables.eq(layer_slots + self.matrices * len(image.MATRIX))
                    m.d.sync += [
                        in_tables.eq(1),
                        slot.eq(0),
                        slots.eq(tables),
                        request.address.eq(self.base + len(header) * slot_words),
                        request.length.eq(tables * slot_words),
                    ]
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"

        return m
