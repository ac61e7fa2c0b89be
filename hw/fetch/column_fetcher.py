"""The column fetcher: turns events into reads of columns, and keeps enough of them in flight.

It works through *runs*: rows of one event list, for one matrix. Every event names one column; its
address is base + index * words. Reads in flight are limited in columns and in words: enough to
cover the memory's latency, and no more, so that urgent columns found later need not wait long.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.block_fifo import BlockFifo
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import (
    LIST_READ_LATENCY,
    column_layout,
    format_fields,
    list_layout,
    run_layout,
)
from stillnet.hw.parts.multiplier import Multiplier
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS

__all__ = ["ColumnFetcher"]

YIELD_WORDS = 64
"""After so many words a run gives way, so that a more urgent matrix can be chosen."""

REQUESTS = 8
"""Reads that may wait for the memory port."""


class ColumnFetcher(wiring.Component):
    """Fetches the columns of events.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    runs : In(stream of ``run_layout``)
        Accepted when the run is over.
    rows_done : Out
        Rows of the run that were fetched, valid as it is accepted.
    list_enable, list_row, list_half : Out
        Address of the event lists.
    list_input, list_hidden, list_second : In
        Rows of the input's, the hidden vectors' and the second encoder's list.
    reads : Out(stream of read requests)
    columns : Out(stream of ``column_layout``)
    word_taken, column_done : In(1)
        From the lanes.
    sequence : Out
        Number of columns issued.
    issued, issued_layer : Out
        A column was issued for a layer.
    in_flight : Out(1)
        A column has been issued and is not yet complete.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        super().__init__(
            {
                "runs": In(stream.Signature(run_layout(config))),
                "rows_done": Out(16),
                "list_enable": Out(1),
                "list_row": Out(16),
                "list_half": Out(1),
                "list_input": In(list_layout(1, 16)),
                "list_hidden": In(list_layout(config.cell_width, s.row)),
                "list_second": In(list_layout(config.cell_width, s.row)),
                "reads": Out(stream.Signature(read_request_layout(config.address_bits, 16))),
                "columns": Out(stream.Signature(column_layout(config))),
                "word_taken": In(1),
                "column_done": In(1),
                "sequence": Out(s.sequence),
                "issued": Out(1),
                "issued_layer": Out(s.layer),
                "in_flight": Out(1),
                **(
                    {"length_write": In(1), "length_index": In(16), "length": In(16)}
                    if config.columns
                    else {}
                ),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        width = config.cell_width
        run = self.runs.payload

        # -- rows of the list ---------------------------------------------------------------------

        active = Signal()  # a run is in progress
        next_row = Data(16)
        unread = Data(16)  # rows whose read was not started
        some_unread = Signal()
        rows_left = Data(16)  # rows not completely issued
        # Words of the run with its next column, no more than YIELD_WORDS of them counted.
        column_words = Data(range(YIELD_WORDS + 1))
        run_words = Data(range(YIELD_WORDS + 1))
        yields, last_row = Data(), Data()
        stages = Signal(LIST_READ_LATENCY)  # which stages of the read hold a row
        ready_row = stages[-1]
        advance = Signal()
        m.d.comb += [
            self.list_enable.eq(advance),
            self.list_row.eq(next_row),
            self.list_half.eq(run.half),
        ]

        entry = Signal(list_layout(width, 16))
        hidden = Signal(list_layout(width, s.row))
        m.d.comb += hidden.eq(Mux(run.second, self.list_second, self.list_hidden))
        with m.If(run.from_input):
            m.d.comb += [
                entry.group.eq(self.list_input.group),
                entry.mask.eq(self.list_input.mask),
                entry.values[0].eq(self.list_input.values[0]),
            ]
        with m.Else():
            m.d.comb += [
                entry.group.eq(hidden.group),
                entry.mask.eq(hidden.mask),
                *(entry.values[p].eq(hidden.values[p]) for p in range(width)),
            ]

        # -- one column a cycle out of a row ------------------------------------------------------

        spent = Signal(width)  # elements of the row already issued
        rest = Signal(width)
        element = Signal(range(max(2, width)))
        m.d.comb += rest.eq(entry.mask & ~spent)
        for p in reversed(range(width)):
            with m.If(rest[p]):
                m.d.comb += element.eq(p)
        row_last = Signal()
        m.d.comb += row_last.eq((rest & (rest - 1)) == 0)

        columns_in_flight = Signal(range(config.fetch_columns + 1))
        words_in_flight = Signal(20)
        requests = Signal(range(REQUESTS + 1))
        credit = Signal()
        emit = Signal()
        bias = Signal()  # the run is a bias: a row that no list holds
        long = Signal()  # the run's columns; it stands a cycle before anything is emitted
        m.d.comb += [
            emit.eq(active & credit & ready_row),
            advance.eq(~ready_row | (emit & row_last)),
        ]
        m.d.sync += [
            # From a register, so a limit may be passed by one column, for which there is room. A
            # long one shows in the counters only after two cycles: until then there is a pause.
            credit.eq(
                (columns_in_flight < config.fetch_columns - 1)
                & (words_in_flight < config.fetch_words)
                & (requests < REQUESTS - 1)
                & ~(emit & long)
            ),
            long.eq(run.words >= config.fetch_words // 2),
        ]
        with m.If(emit & ~bias):
            with m.If(row_last):
                m.d.sync += spent.eq(0)
            with m.Else():
                m.d.sync += spent.eq(spent | (rest & ~(rest - 1)))

        row_done = Signal()
        m.d.comb += row_done.eq(emit & (bias | row_last))
        with m.If(advance):
            m.d.sync += stages.eq(Cat(active & some_unread, stages))
            with m.If(active & some_unread):
                m.d.sync += [
                    unread.eq(unread - 1),
                    some_unread.eq(unread != 1),
                    next_row.eq(next_row + 1),
                ]
        with m.If(emit):
            total = Signal(range(2 * YIELD_WORDS + 1))
            m.d.comb += total.eq(run_words + column_words)
            m.d.sync += [
                run_words.eq(Mux(total >= YIELD_WORDS, YIELD_WORDS, total)),
                yields.eq(total >= YIELD_WORDS),
            ]
        rows_done = Signal(16)
        over = Signal()  # nothing more is issued; the address pipeline empties
        drain = Signal(3)
        with m.If(row_done):
            m.d.sync += [
                rows_left.eq(rows_left - 1),
                last_row.eq(rows_left == 2),
                rows_done.eq(rows_done + 1),
            ]
            with m.If(last_row | yields):
                m.d.sync += [active.eq(0), over.eq(1), stages.eq(0)]
        begin = Signal()
        begin_words = Mux(run.words >= YIELD_WORDS, YIELD_WORDS, run.words[: len(run_words)])
        m.d.comb += begin.eq(self.runs.valid & ~active & ~over)
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                rows_left.eq(run.rows),
                last_row.eq(run.rows == 1),
                rows_done.eq(0),
                run_words.eq(begin_words),
                column_words.eq(begin_words),
                yields.eq(run.words >= YIELD_WORDS),
                bias.eq(run.bias),
                stages.eq(Mux(run.bias, 1 << (LIST_READ_LATENCY - 1), 0)),
                spent.eq(0),
                drain.eq(0),
            ]
        with m.If(~active):
            m.d.sync += [
                next_row.eq(run.row),
                unread.eq(run.rows),
                some_unread.eq(~run.bias & (run.rows != 0)),
            ]
        empty = Signal()  # the third cycle of ``drain``
        m.d.sync += empty.eq(over & drain[1] & ~drain[2])
        m.d.comb += [self.rows_done.eq(rows_done), self.runs.ready.eq(empty)]
        with m.If(over):
            m.d.sync += drain.eq(Cat(1, drain))
        with m.If(self.runs.ready):
            m.d.sync += over.eq(0)

        # -- address: base + index * words, in three stages ---------------------------------------

        # The first stage of the index is the multiplier's own register. A bias is column 0, and its
        # value is 0: the lanes take it for an older sum, to which nothing is added.
        m.submodules.multiplier = multiplier = Multiplier(17, 17)
        words1 = Data(16)
        value1 = Data(signed(EVENT_BITS))
        valid1, valid2, valid3 = (Signal(name=f"valid{i}") for i in range(1, 4))
        address3 = Data(config.address_bits)
        index, value = Signal(16), Signal(signed(EVENT_BITS))
        m.d.comb += [
            index.eq(entry.group * width + element),
            value.eq(entry.values[element]),
            multiplier.a.eq(Mux(bias, 0, index)),
            multiplier.b.eq(run.words),
        ]
        with m.If(run.from_input):
            m.d.comb += [index.eq(entry.group), value.eq(entry.values[0])]
        m.d.sync += [
            valid1.eq(emit),
            words1.eq(run.words),
            value1.eq(Mux(bias, 0, value)),
            valid2.eq(valid1),
            valid3.eq(valid2),
            address3.eq(run.address + multiplier.product),
        ]

        # Where columns differ in length, it is looked up: known one stage later than elsewhere.
        known, words, words3, value_known = valid1, words1, words1, value1
        if config.columns:
            # Written only while an image is loaded, when nothing is fetched.
            m.submodules.lengths = lengths = Memory(
                shape=unsigned(16), depth=config.columns, init=[], attrs={"no_rw_check": 1}
            )
            reader, writer = lengths.read_port(), lengths.write_port()
            unequal1 = Signal()
            known, words, words3 = valid2, Signal(16), Signal(16)
            value_known = Signal.like(value1)
            m.d.comb += [
                writer.addr.eq(self.length_index),
                writer.data.eq(self.length),
                writer.en.eq(self.length_write),
                reader.addr.eq(run.lengths + index),
            ]
            m.d.sync += [
                unequal1.eq(run.unequal),
                words.eq(Mux(unequal1, reader.data, words1)),
                words3.eq(words),
                value_known.eq(value1),
            ]

        m.submodules.requests = request_fifo = SyncFIFOBuffered(
            width=config.address_bits + 16, depth=REQUESTS + 2
        )
        m.d.comb += [
            request_fifo.w_en.eq(valid3),
            request_fifo.w_data.eq(Cat(address3, words3)),
            self.reads.valid.eq(request_fifo.r_rdy),
            self.reads.payload.eq(request_fifo.r_data),
            request_fifo.r_en.eq(self.reads.ready),
        ]

        column = Signal(column_layout(config))
        m.d.comb += [
            column.value.eq(value_known),
            column.words.eq(words),
            column.gates.eq(run.gates),
            column.stride.eq(run.stride),
            column.base.eq(run.base),
            column.bias.eq(run.bias),
            column.layer.eq(run.layer),
            column.step.eq(run.step),
        ]
        m.d.comb += [column[name].eq(run[name]) for name in format_fields(config)]
        # Always more entries than columns in flight: full would look like empty.
        depth = 1 << config.fetch_columns.bit_length()
        m.submodules.columns = columns = BlockFifo(column_layout(config), depth)
        m.d.comb += [columns.i_stream.valid.eq(known), columns.i_stream.payload.eq(column)]
        wiring.connect(m, columns.o_stream, wiring.flipped(self.columns))

        # -- what is in flight --------------------------------------------------------------------

        entering = Mux(known, words, 0) if config.columns else Mux(emit, run.words, 0)
        m.d.sync += [
            columns_in_flight.eq(columns_in_flight + emit - self.column_done),
            words_in_flight.eq(words_in_flight + entering - self.word_taken),
            requests.eq(requests + emit - (self.reads.valid & self.reads.ready)),
        ]
        with m.If(emit):
            m.d.sync += self.sequence.eq(self.sequence + 1)
        m.d.comb += [
            self.issued.eq(emit),
            self.issued_layer.eq(run.layer),
            self.in_flight.eq(columns_in_flight != 0),
        ]
        return m
