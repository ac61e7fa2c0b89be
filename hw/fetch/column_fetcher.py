"""The column fetcher: turns events into reads of columns, and keeps enough of them in flight.

It works through *runs*: rows of one event list, for one matrix. Every event names one column, and
its address is base + index * words. Reads in flight are limited in columns and in words: enough to
cover the memory's latency, and no more, so that urgent columns found later do not wait long.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.block_fifo import BlockFifo
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import TableWriteSignature
from stillnet.hw.parts.interfaces import IssueSignature, ListReadSignature, TakenSignature
from stillnet.hw.parts.layouts import column_layout, format_fields, list_layout, run_layout
from stillnet.hw.parts.multiplier import Multiplier
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.image import HOT_COLUMN
from stillnet.sw.contract.stages import LIST_READ_LATENCY, REQUESTS, YIELD_WORDS

__all__ = ["ColumnFetcher"]


class _Signals:
    """What the parts of the fetcher share; a number is the stage of the address."""

    def __init__(self, config: EngineConfig) -> None:
        width = config.cell_width
        # -- the run
        self.active = Signal()  # a run is in progress
        self.over = Signal()  # the run has just ended
        self.bias = Signal()  # the run is a bias: a row that no list holds
        self.rows_left = Data(16)  # rows not completely issued
        self.rows_done = Signal(16)
        self.last_row = Data()
        self.yields = Data()  # the run gives way after this row
        # Words of the run with its next column, no more than YIELD_WORDS of them counted.
        self.column_words = Data(range(YIELD_WORDS + 1))
        self.run_words = Data(range(YIELD_WORDS + 1))
        # -- rows of the list
        self.next_row = Data(16)
        self.unread = Data(16)  # rows whose read was not started
        self.some_unread = Signal()
        self.stages = Signal(LIST_READ_LATENCY)  # which stages of the read hold a row
        self.advance = Signal()  # the read moves on
        self.entry = Signal(list_layout(width, 16))  # the row, from whatever list
        # -- one column per cycle out of a row
        self.spent = Signal(width)  # elements of the row already issued
        self.rest = Signal(width)
        self.element = Signal(range(max(2, width)))
        self.row_last = Signal()  # the element is the row's last one
        self.from_input, self.from_hidden = Data(), Data()
        self.credit = Signal()
        self.emit = Signal()  # a column is issued
        self.row_done = Signal()
        # -- the column, as far as it is known before its address
        self.index, self.value = Signal(16), Signal(signed(EVENT_BITS))
        self.valid1, self.valid2, self.valid3 = (Signal(name=f"valid{i}") for i in range(1, 4))
        self.words1 = Data(16)
        self.value1 = Data(signed(EVENT_BITS))
        # What the column is, once its length is known, and its length with the address.
        self.known: Signal = self.valid1
        self.words: Signal = self.words1
        self.words3: Signal = self.words1
        self.value_known: Signal = self.value1
        if config.unequal:
            self.known, self.words, self.words3 = self.valid2, Signal(16), Signal(16)
            self.value_known = Data(signed(EVENT_BITS))
        self.address3 = Data(config.tier_bits)
        self.hot2 = Signal(config.tier_bits)  # address of a column in the hot store
        self.hot2_valid = Signal()  # it is there


class ColumnFetcher(wiring.Component):
    """Fetches the columns of events.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    runs : In(stream of ``run_layout``)
        Taken when the run is over. The payload then stays for three cycles.
    rows_done : Out
        Rows of the run that were fetched, valid as it is taken.
    list_input, list_hidden, list_second : Out(ListReadSignature)
        Event lists of the input, of the hidden vectors, and of the second encoder where there is
        one.
    reads : Out(stream of read requests)
    columns : Out(stream of ``column_layout``)
        Columns in the order of their reads.
    taken : In(TakenSignature)
        What the lanes have taken.
    issue : Out(IssueSignature)
        Columns as they are issued.
    in_flight : Out(1)
        A column has been issued and is not yet complete.
    lengths : In(TableWriteSignature)
        Words of each column, only in engines whose columns differ in length.
    hot : In(TableWriteSignature)
        Which columns are in the hot store, only in engines that have one.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        super().__init__(
            {
                "runs": In(stream.Signature(run_layout(config))),
                "rows_done": Out(16),
                "list_input": Out(ListReadSignature(1, bits_for(config.inputs), 16)),
                "list_hidden": Out(ListReadSignature(config.cell_width, s.row, s.row)),
                **(
                    {"list_second": Out(ListReadSignature(config.cell_width, s.row, s.row))}
                    if config.second_threshold
                    else {}
                ),
                "reads": Out(stream.Signature(read_request_layout(config.tier_bits))),
                "columns": Out(stream.Signature(column_layout(config))),
                "taken": In(TakenSignature()),
                "issue": Out(IssueSignature(config)),
                "in_flight": Out(1),
                **({"lengths": In(TableWriteSignature())} if config.unequal else {}),
                **({"hot": In(TableWriteSignature())} if config.hot_words else {}),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._config)
        self._read_list(m, s)
        self._next_element(m, s)
        self._limit(m, s)
        self._issue(m, s)
        self._read_rows(m, s)
        self._give_way(m, s)
        self._end_of_run(m, s)
        self._begin_run(m, s)
        self._address(m, s)
        if self._config.unequal:
            self._look_up_length(m, s)
        if self._config.hot_words:
            self._look_up_place(m, s)
        self._request(m, s)
        self._column(m, s)
        return m

    # -- rows of the list -------------------------------------------------------------------------

    def _read_list(self, m: Module, s: _Signals) -> None:
        """All lists are read at the same row; the run says which of them counts."""
        config, run = self._config, self.runs.payload
        second = self.list_second if config.second_threshold else self.list_hidden
        ports = [self.list_input, self.list_hidden]
        for port in ports + ([second] if config.second_threshold else []):
            m.d.comb += [
                port.enable.eq(s.advance),
                port.row.eq(s.next_row),
                port.bank.eq(run.half),
            ]
        hidden = Signal(self.list_hidden.data.shape())
        m.d.comb += hidden.eq(Mux(run.second, second.data, self.list_hidden.data))
        # It stands long before the first row comes, and what it chooses goes far.
        m.d.sync += [s.from_input.eq(run.from_input), s.from_hidden.eq(~run.from_input)]
        with m.If(s.from_input):
            found = self.list_input.data
            m.d.comb += [
                s.entry.group.eq(found.group),
                s.entry.mask.eq(found.mask),
                s.entry.values[0].eq(found.values[0]),
            ]
        with m.Else():
            m.d.comb += [
                s.entry.group.eq(hidden.group),
                s.entry.mask.eq(hidden.mask),
                *(s.entry.values[p].eq(hidden.values[p]) for p in range(config.cell_width)),
            ]

    def _next_element(self, m: Module, s: _Signals) -> None:
        """The lowest element of the row that was not issued."""
        m.d.comb += s.rest.eq(s.entry.mask & ~s.spent)
        for p in reversed(range(self._config.cell_width)):
            with m.If(s.rest[p]):
                m.d.comb += s.element.eq(p)
        m.d.comb += s.row_last.eq((s.rest & (s.rest - 1)) == 0)

    def _limit(self, m: Module, s: _Signals) -> None:
        """What is in flight, and whether more may be issued."""
        config, run = self._config, self.runs.payload
        columns_in_flight = Signal(range(config.fetch_columns + 1))
        words_in_flight = Signal(20)
        requests = Signal(range(REQUESTS + 1))
        long = Signal()  # the run's columns; it stands a cycle before anything is emitted
        m.d.sync += [
            # From a register, so one column may pass the limit, and there is room for it. A long
            # one shows in the counters only after two cycles: until then there is a pause.
            s.credit.eq(
                (columns_in_flight < config.fetch_columns - 1)
                & (words_in_flight < config.fetch_words)
                & (requests < REQUESTS - 1)
                & ~(s.emit & long)
            ),
            long.eq(run.words >= config.fetch_words // 2),
        ]
        entering = Mux(s.known, s.words, 0) if config.unequal else Mux(s.emit, run.words, 0)
        m.d.sync += [
            columns_in_flight.eq(columns_in_flight + s.emit - self.taken.column),
            words_in_flight.eq(words_in_flight + entering - self.taken.word),
            requests.eq(requests + s.emit - (self.reads.valid & self.reads.ready)),
        ]
        m.d.comb += self.in_flight.eq(columns_in_flight != 0)

    def _issue(self, m: Module, s: _Signals) -> None:
        """One column per cycle out of a row."""
        ready_row = s.stages[-1]
        m.d.comb += [
            s.emit.eq(s.active & s.credit & ready_row),
            s.advance.eq(~ready_row | (s.emit & s.row_last)),
            s.row_done.eq(s.emit & (s.bias | s.row_last)),
            self.issue.valid.eq(s.emit),
            self.issue.layer.eq(self.runs.payload.layer),
        ]
        with m.If(s.emit & ~s.bias):
            with m.If(s.row_last):
                m.d.sync += s.spent.eq(0)
            with m.Else():
                m.d.sync += s.spent.eq(s.spent | (s.rest & ~(s.rest - 1)))
        with m.If(s.emit):
            m.d.sync += self.issue.sequence.eq(self.issue.sequence + 1)

    # -- the run ----------------------------------------------------------------------------------

    def _read_rows(self, m: Module, s: _Signals) -> None:
        """The read of the list moves on."""
        with m.If(s.advance):
            m.d.sync += s.stages.eq(Cat(s.active & s.some_unread, s.stages))
            with m.If(s.active & s.some_unread):
                m.d.sync += [
                    s.unread.eq(s.unread - 1),
                    s.some_unread.eq(s.unread != 1),
                    s.next_row.eq(s.next_row + 1),
                ]

    def _give_way(self, m: Module, s: _Signals) -> None:
        """Counts the words of the run, up to where it gives way."""
        total = Signal(range(2 * YIELD_WORDS + 1))
        with m.If(s.emit):
            m.d.comb += total.eq(s.run_words + s.column_words)
            m.d.sync += [
                s.run_words.eq(Mux(total >= YIELD_WORDS, YIELD_WORDS, total)),
                s.yields.eq(total >= YIELD_WORDS),
            ]

    def _end_of_run(self, m: Module, s: _Signals) -> None:
        """After its last row, or before, where it gives way."""
        with m.If(s.row_done):
            m.d.sync += [
                s.rows_left.eq(s.rows_left - 1),
                s.last_row.eq(s.rows_left == 2),
                s.rows_done.eq(s.rows_done + 1),
            ]
            with m.If(s.last_row | s.yields):
                m.d.sync += [s.active.eq(0), s.over.eq(1), s.stages.eq(0)]

    def _begin_run(self, m: Module, s: _Signals) -> None:
        """The next run begins. It is taken from the stream as it ends, though its columns need what
        it says for some cycles more: the scheduler changes nothing so soon."""
        run = self.runs.payload
        begin = Signal()
        begin_words = Mux(run.words >= YIELD_WORDS, YIELD_WORDS, run.words[: len(s.run_words)])
        m.d.comb += [
            begin.eq(self.runs.valid & ~s.active & ~s.over),
            self.rows_done.eq(s.rows_done),
            self.runs.ready.eq(s.over),
        ]
        with m.If(begin):
            m.d.sync += [
                s.active.eq(1),
                s.rows_left.eq(run.rows),
                s.last_row.eq(run.rows == 1),
                s.rows_done.eq(0),
                s.run_words.eq(begin_words),
                s.column_words.eq(begin_words),
                s.yields.eq(run.words >= YIELD_WORDS),
                s.bias.eq(run.bias),
                s.stages.eq(Mux(run.bias, 1 << (LIST_READ_LATENCY - 1), 0)),
                s.spent.eq(0),
            ]
        with m.If(~s.active):
            m.d.sync += [
                s.next_row.eq(run.row),
                s.unread.eq(run.rows),
                s.some_unread.eq(~run.bias & (run.rows != 0)),
            ]
        with m.If(s.over):
            m.d.sync += s.over.eq(0)

    # -- address: base + index * words, in three stages -------------------------------------------

    def _address(self, m: Module, s: _Signals) -> None:
        """The first stage of the index is the multiplier's own register.

        A bias is column 0, and its value is 0: the lanes take it for an older sum, to which
        nothing is added.
        """
        width, run = self._config.cell_width, self.runs.payload
        m.submodules.multiplier = multiplier = Multiplier(17, 17)
        m.d.comb += [
            s.index.eq(s.entry.group * width + s.element),
            s.value.eq(s.entry.values[s.element]),
            multiplier.a.eq(Mux(s.bias, 0, s.index)),
            multiplier.b.eq(run.words),
        ]
        with m.If(~s.from_hidden):
            m.d.comb += [s.index.eq(s.entry.group), s.value.eq(s.entry.values[0])]
        m.d.sync += [
            s.valid1.eq(s.emit),
            s.words1.eq(run.words),
            s.value1.eq(Mux(s.bias, 0, s.value)),
            s.valid2.eq(s.valid1),
            s.valid3.eq(s.valid2),
            s.address3.eq(Mux(s.hot2_valid, s.hot2, run.address + multiplier.product)),
        ]

    def _table(self, m: Module, s: _Signals, name: str, table: Any, width: int) -> Signal:
        """What a table of columns says of the column in stage 1."""
        # Written only while an image is loaded, when nothing is fetched.
        m.submodules[name] = memory = Memory(
            shape=unsigned(width), depth=self._config.columns, init=[], attrs={"no_rw_check": 1}
        )
        reader, writer = memory.read_port(), memory.write_port()
        m.d.comb += [
            writer.addr.eq(table.index),
            writer.data.eq(table.value),
            writer.en.eq(table.write),
            reader.addr.eq(self.runs.payload.columns + s.index),
        ]
        return reader.data

    def _look_up_length(self, m: Module, s: _Signals) -> None:
        """Where columns differ in length, it is looked up: known one stage later than elsewhere."""
        found = self._table(m, s, "lengths_table", self.lengths, 16)
        # Right behind the memory stands a register alone, which can be the block RAM's own.
        length, words2 = Data(16), Data(16)
        unequal1, unequal2 = Signal(), Signal()
        m.d.comb += s.words.eq(Mux(unequal2, length, words2))
        m.d.sync += [
            unequal1.eq(self.runs.payload.unequal),
            unequal2.eq(unequal1),
            length.eq(found),
            words2.eq(s.words1),
            s.words3.eq(s.words),
            s.value_known.eq(s.value1),
        ]

    def _look_up_place(self, m: Module, s: _Signals) -> None:
        """A matrix of which some columns are in the hot store: the table says which, and where."""
        bits = self._config.address_bits
        found = self._table(m, s, "hot_table", self.hot, HOT_COLUMN.width)
        place, mixed1, mixed2 = Data(HOT_COLUMN.width), Signal(), Signal()
        word = Signal(bits)
        m.d.comb += [
            word.eq(place[HOT_COLUMN.slice("word")]),
            s.hot2.eq(Cat(word, 1)),
            s.hot2_valid.eq(mixed2 & place[HOT_COLUMN.slice("hot")]),
        ]
        m.d.sync += [
            mixed1.eq(self.runs.payload.mixed & ~s.bias),
            mixed2.eq(mixed1),
            place.eq(found),
        ]

    def _request(self, m: Module, s: _Signals) -> None:
        """Reads wait in a queue for the memory port."""
        m.submodules.requests = fifo = SyncFIFOBuffered(
            width=self._config.tier_bits + 16, depth=REQUESTS + 2
        )
        m.d.comb += [
            fifo.w_en.eq(s.valid3),
            fifo.w_data.eq(Cat(s.address3, s.words3)),
            self.reads.valid.eq(fifo.r_rdy),
            self.reads.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.reads.ready),
        ]

    def _column(self, m: Module, s: _Signals) -> None:
        """Columns wait in a queue for their words."""
        config, run = self._config, self.runs.payload
        column = Signal(column_layout(config))
        m.d.comb += [
            column.value.eq(s.value_known),
            column.words.eq(s.words),
            column.gates.eq(run.gates),
            column.stride.eq(run.stride),
            column.base.eq(run.base),
            column.bias.eq(run.bias),
            column.layer.eq(run.layer),
            column.step.eq(run.step),
            *(column[name].eq(run[name]) for name in format_fields(config)),
        ]
        # Always more entries than columns in flight: full would look like empty.
        depth = 1 << config.fetch_columns.bit_length()
        m.submodules.columns = columns = BlockFifo(column_layout(config), depth)
        m.d.comb += [columns.i_stream.valid.eq(s.known), columns.i_stream.payload.eq(column)]
        wiring.connect(m, columns.o_stream, wiring.flipped(self.columns))
