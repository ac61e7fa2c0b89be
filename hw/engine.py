"""The engine: all blocks of the diagram, and the host's way in.

::

    inputs -> [input encoder] -> events -> [column fetcher] -> memory port
                                   ^             |
            [write-back, encoder]--+       [scheduler]
                   ^                             |
              [cell unit] <- [accumulator reader] <- [lanes] <- words
                   |
                outputs
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.cell.unit import CellUnit
from stillnet.hw.events.input_encoder import InputEncoder
from stillnet.hw.events.write_back import WriteBack
from stillnet.hw.fetch.column_fetcher import ColumnFetcher
from stillnet.hw.fetch.image_loader import ImageLoader
from stillnet.hw.fetch.scheduler import Scheduler
from stillnet.hw.host.counters import Counters
from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.host.registers import Registers
from stillnet.hw.lanes.accumulator_reader import AccumulatorReader
from stillnet.hw.lanes.lanes import Lanes
from stillnet.hw.lanes.serial_reader import SerialReader
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.memory.tiers import Tiers
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import SlotsSignature, TableWriteSignature
from stillnet.hw.parts.layouts import column_layout, output_layout, read_command_layout
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import ADDRESS_BITS, Error, Region, Register

__all__ = ["Engine"]

ACCESS_CYCLES = 11
"""Cycles of an access to state or event counters, more than any of the memories takes."""


class _Blocks:
    """The blocks of the diagram, submodules of the engine."""

    def __init__(self, m: Module, config: EngineConfig, check_dispatch: bool, beside: bool) -> None:
        m.submodules.loader = self.loader = ImageLoader(config, beside=beside)
        m.submodules.scheduler = self.scheduler = Scheduler(config, check_dispatch=check_dispatch)
        m.submodules.fetcher = self.fetcher = ColumnFetcher(config)
        m.submodules.lanes = self.lanes = Lanes(config)
        reader = SerialReader if config.in_turn else AccumulatorReader
        m.submodules.reader = self.reader = reader(config)
        m.submodules.cells = self.cells = CellUnit(config)
        m.submodules.write_back = self.write_back = WriteBack(config)
        m.submodules.input_encoder = self.input_encoder = InputEncoder(config)
        m.submodules.counters = self.counters = Counters(config)
        self.hot_word: Any = Const(0)  # a word of the hot store enters


class _Signals:
    """What the parts of the engine share besides its blocks and registers."""

    def __init__(self, config: EngineConfig) -> None:
        # -- dispatched cells: one is read, one waits
        self.waiting = Data(read_command_layout(config))
        self.waiting_valid = Signal()
        self.dispatched = Signal(4)  # dispatched and not yet encoded
        # -- control
        self.started = Signal()  # the scheduler has been reset since the latest load
        self.reset = Signal()
        self.quiet = Signal()  # nothing is on its way outside of the scheduler
        self.scheduler_quiet = Signal()  # a cycle ago
        self.may_stop = Signal()  # nothing is in progress that a load or clear could cut off
        # -- state memories belong to the host, or to the sweep that clears them
        self.host_active, self.host_active_next = Signal(), Signal()
        self.sweeping = Signal()
        self.sweep = Signal(range(max(Shapes(config).rows, config.inputs) + 1))  # row


class Engine(wiring.Component):
    """One engine of a configuration, with its bare memory port and register bus.

    Parameters
    ----------
    config : EngineConfig
    check_dispatch : bool
        See :class:`Scheduler`.
    beside : bool
        It can sum up an image that is not loaded, between two steps (``Control.CHECK``).

    Members
    -------
    inputs : In(stream of 16 bits)
        Elements of input vectors, one after the other, or tokens.
    outputs : Out(stream of ``output_layout``)
        Elements of output vectors; ``last`` marks the last one.
    registers : In(RegisterBusSignature)
        ``contract.registers``.
    memory : Out(MemoryPortSignature)
    loaded, refused : Out(1)
        An image is loaded; the last one was refused.
    slots : Out(SlotsSignature)
        With ``beside``.
    """

    def __init__(
        self, config: EngineConfig, *, check_dispatch: bool = True, beside: bool = False
    ) -> None:
        self._config = config
        self._check_dispatch = check_dispatch
        self._beside = beside
        super().__init__(
            {
                "inputs": In(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": Out(stream.Signature(output_layout())),
                "registers": In(RegisterBusSignature(ADDRESS_BITS)),
                "memory": Out(MemoryPortSignature(config.address_bits, config.word_bits)),
                "loaded": Out(1),
                "refused": Out(1),
                **({"slots": Out(SlotsSignature(config))} if beside else {}),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    @property
    def beside(self) -> bool:
        """It can sum up an image that is not loaded."""
        return self._beside

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        b = _Blocks(m, self._config, self._check_dispatch, self._beside)
        r = Registers(
            self._config,
            self.registers,
            self.memory,
            access_cycles=ACCESS_CYCLES,
            late=True,
            beside=self._beside,
        )
        s = _Signals(self._config)

        self._connect_memory(m, b)
        self._connect_lists(m, b)
        self._connect_columns(m, b)
        self._queue_commands(m, b, s)
        self._connect_cells(m, b, s)
        self._connect_image(m, b, r)

        self._enable(m, b, r, s)
        self._find_quiet(m, b, r, s)
        self._control(m, b, r, s)
        self._end_restore(m, b, r, s)

        self._answer(m, b, r)
        self._access_state(m, b, r, s)
        r.reads(m, self._state_value(m, b, r), b.counters.read.value)
        self._count(m, b, r)
        return m

    # -- what connects the blocks -----------------------------------------------------------------

    def _connect_memory(self, m: Module, b: _Blocks) -> None:
        """The memory port, or the hot store in front of it, is the loader's while that is busy,
        else the fetcher's."""
        memory, loader, fetcher, lanes = self.memory, b.loader, b.fetcher, b.lanes
        loading = loader.control.busy
        m.submodules.word_slice = word_slice = RegisterSlice(self._config.word_bits)
        reads: Any = memory.read
        if self._config.hot_words:
            m.submodules.tiers = tiers = Tiers(self._config)
            connect(m, tiers.memory_reads, flipped(memory.read))
            connect(m, flipped(memory.data), tiers.memory_words)
            connect(m, tiers.words, word_slice.i_stream)
            connect(m, loader.fill, tiers.fill)
            reads, b.hot_word = tiers.reads, tiers.hot_word
        else:
            connect(m, flipped(memory.data), word_slice.i_stream)
        words = word_slice.o_stream
        for field in ("address", "length"):
            chosen = Mux(loading, loader.reads.p[field], fetcher.reads.p[field])
            m.d.comb += reads.p[field].eq(chosen)
        m.d.comb += [
            reads.valid.eq(Mux(loading, loader.reads.valid, fetcher.reads.valid)),
            loader.reads.ready.eq(reads.ready & loading),
            fetcher.reads.ready.eq(reads.ready & ~loading),
            loader.words.payload.eq(words.payload),
            loader.words.valid.eq(words.valid & loading),
            lanes.words.payload.eq(words.payload),
            # Neither asks for words while it is the other's turn.
            lanes.words.valid.eq(words.valid),
            words.ready.eq(loader.words.ready | lanes.words.ready),
            loader.memory_error.eq(memory.error),
        ]

    def _connect_lists(self, m: Module, b: _Blocks) -> None:
        """Event lists to the fetcher, their status to the scheduler."""
        connect(m, b.fetcher.list_input, b.input_encoder.list)
        connect(m, b.fetcher.list_hidden, b.write_back.lists[0])
        if self._config.second_threshold:
            connect(m, b.fetcher.list_second, b.write_back.lists[1])
        connect(m, b.write_back.vectors, b.scheduler.vectors)
        connect(m, b.input_encoder.events, b.scheduler.input)

    def _connect_columns(self, m: Module, b: _Blocks) -> None:
        """Runs to the fetcher, columns to the lanes, their progress back."""
        scheduler, fetcher, lanes = b.scheduler, b.fetcher, b.lanes
        connect(m, scheduler.runs, fetcher.runs)
        connect(m, fetcher.issue, scheduler.issue)
        # Words come later than their column, so the column has the time for a slice. It comes from
        # a block RAM, which is slow: straight into a register, then into the slice.
        column, valid = Data(column_layout(self._config)), Signal()
        m.submodules.column_slice = column_slice = RegisterSlice(column.shape())
        m.d.comb += [
            fetcher.columns.ready.eq(~valid | column_slice.i_stream.ready),
            column_slice.i_stream.payload.eq(column),
            column_slice.i_stream.valid.eq(valid),
            scheduler.rows_done.eq(fetcher.rows_done),
        ]
        # On a full chip the lanes are far from the fetcher, which may learn it a cycle late.
        m.d["sync" if self._config.hot_words else "comb"] += [
            fetcher.taken.word.eq(lanes.taken.word),
            fetcher.taken.column.eq(lanes.taken.column),
        ]
        with m.If(fetcher.columns.ready):
            m.d.sync += [column.eq(fetcher.columns.payload), valid.eq(fetcher.columns.valid)]
        connect(m, column_slice.o_stream, lanes.columns)

    def _queue_commands(self, m: Module, b: _Blocks, s: _Signals) -> None:
        """A dispatched cell waits in front of the reader, the cell unit and write-back."""
        dispatch, reader = b.scheduler.dispatch, b.reader
        # One cell is read, one waits: more would need more checks where words enter the lanes.
        m.d.comb += [
            dispatch.read.ready.eq(~s.waiting_valid),
            reader.commands.valid.eq(s.waiting_valid),
            reader.commands.payload.eq(s.waiting),
        ]
        with m.If(reader.commands.ready):
            m.d.sync += s.waiting_valid.eq(0)
        with m.If(~s.waiting_valid):  # whatever it is, until one is dispatched
            m.d.sync += s.waiting.eq(dispatch.read.payload)
        with m.If(dispatch.read.valid & dispatch.read.ready):
            m.d.sync += s.waiting_valid.eq(1)
        for name, source, sink in (
            ("cell_commands", dispatch.cell, b.cells.commands),
            ("write_commands", dispatch.write, b.write_back.commands),
        ):
            fifo = SyncFIFOBuffered(width=len(source.payload.as_value()), depth=4)
            m.submodules[name] = fifo
            m.d.comb += [
                fifo.w_data.eq(source.payload),
                fifo.w_en.eq(source.valid & source.ready),
                source.ready.eq(fifo.w_rdy),
                sink.payload.eq(fifo.r_data),
                sink.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(sink.ready),
            ]

    def _connect_cells(self, m: Module, b: _Blocks, s: _Signals) -> None:
        """Sums to the cells, their results to write-back, vectors to the output and back."""
        connect(m, b.reader.hold, b.lanes.hold, b.scheduler.hold)
        for port in (b.lanes.waiting, b.scheduler.waiting):
            m.d.comb += [
                port.active.eq(s.waiting_valid),
                port.layer.eq(s.waiting.layer),
                port.step.eq(s.waiting.step),
            ]
        connect(m, b.reader.sums, b.lanes.sums)
        connect(m, b.lanes.progress, b.reader.progress)
        connect(m, b.reader.units, b.cells.units)
        m.d.comb += b.reader.units_ready_next.eq(b.cells.units_ready_next)
        if self._config.in_turn:
            m.d.comb += b.reader.units_word.eq(b.cells.units_word)
        connect(m, b.cells.results, b.write_back.results)
        connect(m, b.write_back.outputs, flipped(self.outputs))
        connect(m, b.input_encoder.restore, b.write_back.restore)
        connect(m, flipped(self.inputs), b.input_encoder.inputs)
        m.d.sync += s.dispatched.eq(
            s.dispatched + b.scheduler.dispatch.read.valid - b.write_back.results.done
        )

    def _connect_image(self, m: Module, b: _Blocks, r: Registers) -> None:
        """What the loader finds in an image, to the blocks that work with it."""
        loader = b.loader
        connect(m, loader.image, b.scheduler.image)
        connect(m, loader.descriptors, b.scheduler.descriptors)
        connect(m, loader.input, b.input_encoder.header)
        # The host may change the threshold, so it comes from its register.
        m.d.comb += b.input_encoder.threshold.eq(r.input_threshold)
        if self._config.unequal:
            self._connect_table(m, loader.entries, image.Table.LENGTHS, b.fetcher.lengths)
        if self._config.hot_words:
            self._connect_table(m, loader.entries, image.Table.HOT, b.fetcher.hot)
        if self._config.element_thresholds:
            inputs, hidden = b.input_encoder.thresholds, b.write_back.thresholds
            self._connect_table(m, loader.entries, image.Table.INPUT_THRESHOLDS, inputs)
            self._connect_table(m, loader.entries, image.Table.THRESHOLDS, hidden)
        if self._config.budgets:
            self._connect_budgets(m, b, r)

    def _connect_budgets(self, m: Module, b: _Blocks, r: Registers) -> None:
        """Budgets come with the image, and from the host; late events go to the counters."""
        table = TableWriteSignature().create(path=("budgets",))
        self._connect_table(m, b.loader.entries, image.Table.BUDGETS, table)
        with m.If(r.budget_write):
            m.d.sync += [
                table.write.eq(1),
                table.index.eq(r.threshold_select),
                table.value.eq(self.registers.write_data),
            ]
        inputs, hidden = b.input_encoder.budget, b.write_back.budget
        for port, own in ((inputs.table, table.index == 0), (hidden.table, table.index != 0)):
            m.d.comb += [port.write.eq(table.write & own), port.value.eq(table.value)]
        m.d.comb += [
            inputs.table.index.eq(0),
            hidden.table.index.eq(table.index - 1),
            b.counters.late_input.eq(inputs.late),
            b.counters.late_vector.eq(hidden.late),
        ]

    @staticmethod
    def _connect_table(m: Module, entries: Any, table: image.Table, port: Any) -> None:
        """Writes of the loader to one of the tables that come with an image."""
        value, which = image.ENTRY.slice("value"), image.ENTRY.slice("table")
        # Through registers near each table, which synthesis would merge if they did not wait.
        write = entries.write & (entries.value[which] == table)
        m.d.sync += port.write.eq(write)
        with m.If(write):
            m.d.sync += [port.index.eq(entries.index), port.value.eq(entries.value[value])]

    # -- load, clear, restore ---------------------------------------------------------------------

    def _enable(self, m: Module, b: _Blocks, r: Registers, s: _Signals) -> None:
        """When the scheduler and the encoders may work, and how."""
        scheduler, encoder = b.scheduler.control, b.input_encoder.control
        scheduler_enable = Signal()
        encoder_enable = Signal()
        # A cycle late is early enough: a pass of the scheduler over all matrices must be quiet, and
        # a load or a clear waits for what the encoder accepts meanwhile. What the host's access
        # needs is known in time.
        enabled = r.loaded & ~r.clearing & ~r.load_wanted & ~r.clear_wanted & ~s.host_active_next
        m.d.sync += [
            s.scheduler_quiet.eq(s.quiet),
            scheduler_enable.eq(r.loaded & ~r.clearing),
            encoder_enable.eq(enabled & ~r.check_wanted if self._beside else enabled),
        ]
        m.d.comb += [
            self.loaded.eq(r.loaded),
            self.refused.eq(r.error != Error.NONE),
            scheduler.reset.eq(s.reset),
            scheduler.restoring.eq(r.restoring),
            scheduler.enable.eq(scheduler_enable),
            scheduler.quiet.eq(s.scheduler_quiet),
            encoder.reset.eq(s.reset),
            encoder.enable.eq(encoder_enable),
            b.write_back.control.reset.eq(s.reset),
        ]
        for port in (encoder.restore, b.write_back.control.restore):
            m.d.comb += [
                port.active.eq(r.restoring),
                port.exact.eq(r.restore_exact),
                port.first.eq(r.restore_first),
                port.second.eq(r.restore_second),
            ]

    def _find_quiet(self, m: Module, b: _Blocks, r: Registers, s: _Signals) -> None:
        """Whether anything is in progress."""
        encoder, scheduler = b.input_encoder.control, b.scheduler.control
        accepted_late = Signal()  # `quiet` of a cycle ago does not show it yet
        m.d.comb += [
            s.quiet.eq(
                encoder.idle
                & ~b.fetcher.in_flight
                & ~b.lanes.busy
                & ~b.reader.hold.active
                & ~s.waiting_valid
                & (s.dispatched == 0)
            ),
            s.may_stop.eq(
                ~s.started
                | (scheduler.idle & s.scheduler_quiet & ~encoder.accepted & ~accepted_late)
            ),
        ]
        m.d.sync += [
            accepted_late.eq(encoder.accepted),
            r.idle.eq(
                scheduler.idle & s.quiet & r.loaded & ~r.clearing & ~r.clear_wanted & ~r.load_wanted
            ),
        ]

    def _control(self, m: Module, b: _Blocks, r: Registers, s: _Signals) -> None:
        """A load or a clear, once nothing is in progress; a clear follows each load."""
        load, rows = b.loader.control, max(Shapes(self._config).rows, self._config.inputs)
        start = Signal()
        m.d.comb += [load.start.eq(start), load.base.eq(r.base), load.verify.eq(r.verify)]
        m.d.sync += start.eq(0)
        with m.FSM(name="control") as control:
            with m.State("RUN"):
                with m.If(r.load_wanted & s.may_stop):
                    m.d.sync += [r.loaded.eq(0), s.started.eq(0), r.load_wanted.eq(0), start.eq(1)]
                    m.next = "LOAD"
                with m.Elif(r.clear_wanted & r.loaded & s.may_stop):
                    m.d.sync += [r.clear_wanted.eq(0), r.clearing.eq(1)]
                    m.next = "CLEAR"
                with m.Elif(r.clear_wanted & ~r.loaded):
                    m.d.sync += r.clear_wanted.eq(0)
                if self._beside:
                    with m.Elif(r.check_wanted & s.may_stop):
                        m.d.sync += start.eq(1)
                        m.next = "CHECK"
            with m.State("LOAD"), m.If(load.done):
                m.d.sync += [r.error.eq(load.error), r.input_threshold.eq(b.loader.threshold)]
                m.next = "RUN"
                with m.If(load.error == Error.NONE):
                    m.d.sync += r.clearing.eq(1)
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.sync += s.sweep.eq(s.sweep + 1)
                with m.If(s.sweep == rows - 1):
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += s.reset.eq(1)
                m.d.sync += [r.clearing.eq(0), r.loaded.eq(1), s.started.eq(1)]
                m.next = "RUN"
            if self._beside:
                self._check(m, b, r)
        m.d.comb += s.sweeping.eq(control.ongoing("CLEAR"))
        if self._beside:
            m.d.comb += [
                load.check.eq(control.ongoing("CHECK")),
                self.slots.loaded.eq(control.ongoing("RESET")),
            ]
        with m.If(~s.sweeping):
            m.d.sync += s.sweep.eq(0)

    def _check(self, m: Module, b: _Blocks, r: Registers) -> None:
        """A part of the sum over an image beside; no vector is accepted meanwhile."""
        load = b.loader.control
        m.d.comb += [
            load.beside.eq(r.beside),
            load.again.eq(r.check_again),
            self.slots.base.eq(r.base),
            self.slots.beside.eq(r.beside),
            self.slots.words.eq(load.words),
            self.slots.checking.eq(r.check_wanted),
        ]
        with m.State("CHECK"), m.If(load.done):
            m.d.comb += self.slots.checked.eq(~load.more & (load.error == Error.NONE))
            m.d.sync += [
                r.check_wanted.eq(0),
                r.check_again.eq(0),
                r.check_error.eq(load.error),
            ]
            m.next = "RUN"

    def _end_restore(self, m: Module, b: _Blocks, r: Registers, s: _Signals) -> None:
        """A restore ends when all cells of its step are encoded."""
        dispatched = Signal()  # the cells of the step are
        with m.If(b.scheduler.control.step_dispatched & r.restoring):
            m.d.sync += dispatched.eq(1)
        with m.If(dispatched & (s.dispatched == 0)):
            m.d.sync += [dispatched.eq(0), r.restoring.eq(0)]

    # -- registers, state, counters ---------------------------------------------------------------

    def _answer(self, m: Module, b: _Blocks, r: Registers) -> None:
        """Requests of the host, and its writes of thresholds."""
        threshold = b.scheduler.threshold
        slow = r.is_state | (self.registers.address == Register.EVENTS)
        if self._config.budgets:
            slow |= self.registers.address == Register.LATE
        r.answer(m, slow)
        m.d.comb += [
            threshold.write.eq(r.threshold_write),
            threshold.layer.eq(r.threshold_select[:5] - 1),
            threshold.second.eq(r.threshold_select[5]),
            threshold.value.eq(self.registers.write_data),
        ]

    def _access_state(self, m: Module, b: _Blocks, r: Registers, s: _Signals) -> None:
        """Reads, writes and clears of the state memories.

        All of it goes through registers: it reaches every memory of the engine, and has the time.
        """
        config, shapes = self._config, Shapes(self._config)
        row_shift = config.cell_width.bit_length() - 1
        row, input_row, data = Data(28), Data(28), Signal(shapes.state)
        clear_rows, clear_inputs, variable = Signal(), Signal(), Signal(3)
        m.d.sync += [
            row.eq(Mux(s.sweeping, s.sweep, r.state_index >> row_shift)),
            input_row.eq(Mux(s.sweeping, s.sweep, r.state_index)),
            s.host_active.eq(s.host_active_next),
            variable.eq(r.state_region[:3]),
            data.eq(self.registers.write_data),
            clear_rows.eq(s.sweeping & (s.sweep < shapes.rows)),
            clear_inputs.eq(s.sweeping & (s.sweep < config.inputs)),
        ]
        m.d.comb += s.host_active_next.eq(s.sweeping | (r.idle & r.is_state & r.active & ~r.done))
        cells, token = b.cells.host, b.input_encoder.token
        inputs, vectors = b.input_encoder.host, b.write_back.hosts
        region = r.state_region
        ports = [
            (cells, row, ~region[3], clear_rows),
            (inputs, input_row, region == Region.INPUT, clear_inputs),
        ]
        for vector, its_region in zip(vectors, (Region.REFERENCE, Region.REFERENCE_SECOND)):
            ports.append((vector, row, region == its_region, clear_rows))
        if config.budgets:
            which, hidden, clear_windows = r.state_index == 0, Data(28), Signal()
            m.d.sync += [
                hidden.eq(Mux(s.sweeping, s.sweep, r.state_index - 1)),
                clear_windows.eq(s.sweeping),
            ]
            windows = region == Region.BUDGET_WINDOW
            ports.append((b.input_encoder.budget.windows, Const(0), windows & which, clear_windows))
            ports.append((b.write_back.budget.windows, hidden, windows & ~which, clear_windows))
        write = r.idle & self.registers.write_strobe & r.is_state
        for k, (port, port_row, selected, port_clear) in enumerate(ports):
            port_write = Signal(name=f"host_write{k}")
            m.d.sync += port_write.eq(write & selected)
            m.d.comb += [
                port.active.eq(s.host_active),
                port.row.eq(port_row),
                port.write.eq(port_write),
                port.clear.eq(port_clear),
                port.data.eq(data),
            ]
        m.d.comb += [port.element.eq(r.state_index[:row_shift]) for port in (cells, *vectors)]
        m.d.comb += [
            cells.variable.eq(variable),
            token.active.eq(s.host_active),
            token.write.eq(inputs.write & b.loader.input.mode[1]),
            token.data.eq(data),
            b.reader.peek.valid.eq(s.host_active),
            b.reader.peek.address.eq(r.state_index >> self._word_shift),
        ]

    @property
    def _word_shift(self) -> int:
        """log2 of the accumulators of a word, one for each multiplier."""
        return self._config.multipliers.bit_length() - 1

    def _state_value(self, m: Module, b: _Blocks, r: Registers) -> Signal:
        """The element of state that the host has selected."""
        # Sums come from all over the chip, so they have a cycle of their own.
        sum_late = Data(32)
        place = r.state_index[: self._word_shift]
        sums, fours = b.lanes.sums.data, []
        for k in range(0, self._config.multipliers, 4):
            four = Data(32, name=f"sum_of_four{k}")
            part = sums[32 * k : 32 * min(k + 4, self._config.multipliers)]
            m.d.sync += four.eq(part.word_select(place[:2], 32))
            fours.append(four)
        m.d.sync += sum_late.eq(Array(fours)[place[2:]] if len(fours) > 1 else fours[0])
        inputs, hosts = b.input_encoder, b.write_back.hosts
        one_hot = b.loader.input.mode[1]
        # So has what comes out of the encoders' memories.
        late = [Data(signed(ACTIVATION_BITS), name=f"reference_late{k}") for k in range(3)]
        memories = (inputs.host, hosts[0], hosts[-1])
        m.d.sync += [value.eq(host.read) for value, host in zip(late, memories)]
        window = self._window(m, b, r) if self._config.budgets else None
        value = Signal(32, name="state_value")
        with m.Switch(r.state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += value.eq(sum_late)
            with m.Case(Region.REFERENCE):
                m.d.comb += value.eq(late[1])
            with m.Case(Region.REFERENCE_SECOND):
                m.d.comb += value.eq(late[2])
            if window is not None:
                with m.Case(Region.BUDGET_WINDOW):
                    m.d.comb += value.eq(window)
            with m.Case(Region.INPUT):
                m.d.comb += value.eq(Mux(one_hot, inputs.token.token, late[0]))
            with m.Default():
                m.d.comb += value.eq(b.cells.host.read.as_signed())
        return value

    @staticmethod
    def _window(m: Module, b: _Blocks, r: Registers) -> Signal:
        """The window of the selected budget."""
        late = Data(16, name="window_late")
        inputs, hidden = b.input_encoder.budget.windows, b.write_back.budget.windows
        m.d.sync += late.eq(Mux(r.state_index == 0, inputs.read, hidden.read))
        return late

    def _count(self, m: Module, b: _Blocks, r: Registers) -> None:
        """What the counters count, and which one is read."""
        lanes, outputs, idle = b.lanes, self.outputs, b.scheduler.control.idle
        cycle, step, read = b.counters.cycle, b.counters.step, b.counters.read
        connect(m, b.input_encoder.encoded, b.counters.input)
        connect(m, b.write_back.encoded, b.counters.vector)
        # A cycle late, which does not show: counters are read while nothing moves.
        word, held, starved = Signal(), Signal(), Signal()
        m.d.sync += [
            read.address.eq(self.registers.address),
            read.select.eq(r.events_select),
            word.eq(lanes.taken.word),
            held.eq(lanes.held),
            starved.eq(lanes.starved),
        ]
        m.d.comb += [
            b.counters.clear.eq(r.clear_counters),
            cycle.active.eq(r.loaded & ~r.clearing & ~idle),
            cycle.word.eq(word),
            cycle.hot_word.eq(b.hot_word),
            cycle.held.eq(held),
            cycle.starved.eq(starved),
            cycle.saturated.eq(b.write_back.saturated),
            step.accepted.eq(b.input_encoder.control.accepted),
            step.was_idle.eq(idle),
            step.output_last.eq(outputs.valid & outputs.ready & outputs.payload.last),
        ]
