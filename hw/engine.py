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

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
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
from stillnet.hw.lanes.accumulator_reader import AccumulatorReader
from stillnet.hw.lanes.lanes import Lanes
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import output_layout
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import (
    ADDRESS_BITS,
    Control,
    Error,
    Region,
    Register,
    Status,
)

__all__ = ["Engine"]

ACCESS_CYCLES = 9
"""Cycles of an access to state or event counters, more than any of the memories takes."""

READ_CYCLES = 2
"""Cycles from the address of a register to its value."""


class Engine(wiring.Component):
    """One engine of a configuration, with its bare memory port and register bus.

    Parameters
    ----------
    config : EngineConfig
    check_dispatch : bool
        See :class:`Scheduler`.

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
    """

    def __init__(self, config: EngineConfig, *, check_dispatch: bool = True) -> None:
        self._config = config
        self._check_dispatch = check_dispatch
        super().__init__(
            {
                "inputs": In(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": Out(stream.Signature(output_layout())),
                "registers": In(RegisterBusSignature(ADDRESS_BITS)),
                "memory": Out(MemoryPortSignature(config.address_bits, config.word_bits)),
                "loaded": Out(1),
                "refused": Out(1),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self._config
        m.submodules.loader = loader = ImageLoader(config)
        m.submodules.scheduler = scheduler = Scheduler(config, check_dispatch=self._check_dispatch)
        m.submodules.fetcher = fetcher = ColumnFetcher(config)
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.reader = reader = AccumulatorReader(config)
        m.submodules.cells = cells = CellUnit(config)
        m.submodules.write_back = write_back = WriteBack(config)
        m.submodules.input_encoder = input_encoder = InputEncoder(config)
        m.submodules.counters = counters = Counters(config)

        # -- memory port: the loader's while it is busy, else the fetcher's -----------------------

        memory = self.memory
        m.submodules.word_slice = word_slice = RegisterSlice(config.word_bits)
        connect(m, flipped(memory.data), word_slice.i_stream)
        words = word_slice.o_stream
        m.d.comb += [
            memory.read.payload.eq(Mux(loader.busy, loader.reads.payload, fetcher.reads.payload)),
            memory.read.valid.eq(Mux(loader.busy, loader.reads.valid, fetcher.reads.valid)),
            loader.reads.ready.eq(memory.read.ready & loader.busy),
            fetcher.reads.ready.eq(memory.read.ready & ~loader.busy),
            loader.words.payload.eq(words.payload),
            loader.words.valid.eq(words.valid & loader.busy),
            lanes.words.payload.eq(words.payload),
            # Neither asks for words while it is the other's turn.
            lanes.words.valid.eq(words.valid),
            words.ready.eq(loader.words.ready | lanes.words.ready),
            loader.memory_error.eq(memory.error),
        ]

        # -- events to columns to lanes -----------------------------------------------------------

        if config.columns:
            self._table(m, fetcher.lengths, image.Table.LENGTHS)
        if config.element_thresholds:
            self._table(m, input_encoder.thresholds, image.Table.INPUT_THRESHOLDS)
            self._table(m, write_back.thresholds, image.Table.THRESHOLDS)
        connect(m, scheduler.runs, fetcher.runs)
        # Words come later than their column, so the column has the time for a slice. It comes from
        # a block RAM, which is slow: straight into a register, then into the slice.
        column, column_valid = Signal.like(fetcher.columns.payload, reset_less=True), Signal()
        m.submodules.column_slice = column_slice = RegisterSlice(column.shape())
        m.d.comb += [
            fetcher.columns.ready.eq(~column_valid | column_slice.i_stream.ready),
            column_slice.i_stream.payload.eq(column),
            column_slice.i_stream.valid.eq(column_valid),
        ]
        with m.If(fetcher.columns.ready):
            m.d.sync += [
                column.eq(fetcher.columns.payload),
                column_valid.eq(fetcher.columns.valid),
            ]
        connect(m, column_slice.o_stream, lanes.columns)
        connect(m, fetcher.list_input, input_encoder.list)
        connect(m, fetcher.list_hidden, write_back.lists[0])
        if config.second_threshold:
            connect(m, fetcher.list_second, write_back.lists[1])
        m.d.comb += [
            scheduler.rows_done.eq(fetcher.rows_done),
            fetcher.word_taken.eq(lanes.taken),
            fetcher.column_done.eq(lanes.column_done),
        ]

        # -- dispatched cells ---------------------------------------------------------------------

        # One cell is read, one waits: more would need more checks where words enter the lanes.
        waiting = Signal.like(reader.commands.payload, reset_less=True)
        waiting_valid = Signal()
        m.d.comb += [
            scheduler.dispatch.read.ready.eq(~waiting_valid),
            reader.commands.valid.eq(waiting_valid),
            reader.commands.payload.eq(waiting),
        ]
        with m.If(reader.commands.ready):
            m.d.sync += waiting_valid.eq(0)
        with m.If(scheduler.dispatch.read.valid & scheduler.dispatch.read.ready):
            m.d.sync += [waiting.eq(scheduler.dispatch.read.payload), waiting_valid.eq(1)]
        for name, source, sink in (
            ("cell_commands", scheduler.dispatch.cell, cells.commands),
            ("write_commands", scheduler.dispatch.write, write_back.commands),
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

        connect(m, reader.hold, lanes.hold, scheduler.hold)
        for port in (lanes.waiting, scheduler.waiting):
            m.d.comb += [
                port.active.eq(waiting_valid),
                port.layer.eq(waiting.layer),
                port.step.eq(waiting.step),
            ]
        connect(m, reader.sums, lanes.sums)
        connect(m, lanes.progress, reader.progress)
        connect(m, fetcher.issue, scheduler.issue)
        connect(m, reader.units, cells.units)
        dispatched = Signal(4)  # cells dispatched and not yet encoded
        m.d.sync += dispatched.eq(
            dispatched + scheduler.dispatch.read.valid - write_back.results.done
        )

        # -- cells to vectors, events and outputs -------------------------------------------------

        connect(m, write_back.outputs, flipped(self.outputs))
        connect(m, input_encoder.restore, write_back.restore)
        connect(m, flipped(self.inputs), input_encoder.inputs)
        connect(m, cells.results, write_back.results)
        connect(m, write_back.vectors, scheduler.vectors)
        connect(m, input_encoder.events, scheduler.input)

        # -- image --------------------------------------------------------------------------------

        base = Signal(config.address_bits)
        verify = Signal()
        input_threshold = Signal(17)
        m.d.comb += [
            loader.base.eq(base),
            loader.verify.eq(verify),
            scheduler.image.base.eq(base),
            scheduler.descriptors.layer_write.eq(loader.layer_write),
            scheduler.descriptors.matrix_write.eq(loader.matrix_write),
            scheduler.descriptors.record.eq(loader.record),
            scheduler.descriptors.index.eq(loader.index),
            scheduler.descriptors.value.eq(loader.value),
            scheduler.image.layers.eq(loader.layers),
            scheduler.image.matrices.eq(loader.matrices),
            input_encoder.header.size.eq(loader.inputs),
            input_encoder.header.mode.eq(loader.mode),
            input_encoder.header.one.eq(loader.one),
            input_encoder.header.threshold.eq(input_threshold),
            input_encoder.header.users.eq(loader.users),
        ]

        # -- load, clear, restore -----------------------------------------------------------------

        loaded, started = Signal(), Signal()
        host_active = Signal()
        clearing, reset = Signal(), Signal()
        load_wanted, clear_wanted = Signal(), Signal()
        restoring, restore_dispatched = Signal(), Signal()
        restore_exact, restore_first, restore_second = Signal(), Signal(), Signal()
        error = Signal(Error)
        m.d.comb += [self.loaded.eq(loaded), self.refused.eq(error != Error.NONE)]
        s = Shapes(config)
        sweep = Signal(range(max(s.rows, config.inputs) + 1))
        quiet, scheduler_quiet, scheduler_enable = Signal(), Signal(), Signal()
        m.d.comb += [
            quiet.eq(
                input_encoder.control.idle
                & ~fetcher.in_flight
                & ~lanes.busy
                & ~reader.hold.active
                & ~waiting_valid
                & (dispatched == 0)
            ),
            scheduler.control.reset.eq(reset),
            scheduler.control.restoring.eq(restoring),
            input_encoder.control.enable.eq(
                loaded & ~clearing & ~load_wanted & ~clear_wanted & ~host_active
            ),
            input_encoder.control.reset.eq(reset),
            input_encoder.restore_mode.active.eq(restoring),
            input_encoder.restore_mode.exact.eq(restore_exact),
            input_encoder.restore_mode.second.eq(restore_second),
            write_back.reset.eq(reset),
            write_back.restore_mode.exact.eq(restore_exact),
            write_back.restore_mode.first.eq(restore_first),
            write_back.restore_mode.second.eq(restore_second),
        ]
        # A cycle late is early enough: a pass of the scheduler over all matrices must be quiet.
        m.d.sync += [scheduler_quiet.eq(quiet), scheduler_enable.eq(loaded & ~clearing)]
        m.d.comb += scheduler.control.enable.eq(scheduler_enable)
        m.d.comb += scheduler.control.quiet.eq(scheduler_quiet)
        may_stop = Signal()  # nothing is in progress that a load or clear could cut off
        accepted_late = Signal()  # `quiet` of a cycle ago does not show it yet
        m.d.sync += accepted_late.eq(input_encoder.control.accepted)
        m.d.comb += may_stop.eq(
            ~started
            | (
                scheduler.control.idle
                & scheduler_quiet
                & ~input_encoder.control.accepted
                & ~accepted_late
            )
        )
        start = Signal()
        m.d.comb += loader.start.eq(start)
        m.d.sync += start.eq(0)
        with m.FSM(name="control") as control:
            with m.State("RUN"):
                with m.If(load_wanted & may_stop):
                    m.d.sync += [loaded.eq(0), started.eq(0), load_wanted.eq(0), start.eq(1)]
                    m.next = "LOAD"
                with m.Elif(clear_wanted & loaded & may_stop):
                    m.d.sync += [clear_wanted.eq(0), clearing.eq(1), sweep.eq(0)]
                    m.next = "CLEAR"
                with m.Elif(clear_wanted & ~loaded):
                    m.d.sync += clear_wanted.eq(0)
            with m.State("LOAD"), m.If(loader.done):
                m.d.sync += [error.eq(loader.error), input_threshold.eq(loader.threshold)]
                m.next = "RUN"
                with m.If(loader.error == Error.NONE):
                    m.d.sync += [clearing.eq(1), sweep.eq(0)]
                    m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.sync += sweep.eq(sweep + 1)
                with m.If(sweep == max(s.rows, config.inputs) - 1):
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += reset.eq(1)
                m.d.sync += [clearing.eq(0), loaded.eq(1), started.eq(1)]
                m.next = "RUN"

        with m.If(scheduler.control.step_dispatched & restoring):
            m.d.sync += restore_dispatched.eq(1)
        with m.If(restore_dispatched & (dispatched == 0)):
            m.d.sync += [restore_dispatched.eq(0), restoring.eq(0)]

        # -- registers ----------------------------------------------------------------------------

        bus = self.registers
        wait = Signal(range(ACCESS_CYCLES + 1))
        answering = Signal()
        state_region = Signal(4)
        state_index = Signal(28)
        threshold_select = Signal(6)
        events_select = Signal(6)
        memory_address = Signal(config.address_bits)
        memory_word = Data(config.word_bits)
        parts = max(1, config.word_bits // 32)
        part = Signal(range(max(2, parts)))
        memory_write = Signal()
        idle = Signal()
        m.d.sync += idle.eq(
            scheduler.control.idle & quiet & loaded & ~clearing & ~clear_wanted & ~load_wanted
        )

        m.d.comb += [
            memory.write.valid.eq(memory_write),
            memory.write.payload.address.eq(memory_address),
            memory.write.payload.data.eq(memory_word),
        ]
        with m.If(memory_write & memory.write.ready):
            m.d.sync += [memory_write.eq(0), memory_address.eq(memory_address + 1)]

        write = bus.write_strobe
        data = bus.write_data
        is_state = bus.address == Register.STATE_DATA
        is_slow = is_state | (bus.address == Register.EVENTS)
        with m.If(bus.write_strobe | bus.read_strobe):
            quick = Mux(bus.write_strobe, 0, READ_CYCLES)
            m.d.sync += [answering.eq(1), wait.eq(Mux(is_slow, ACCESS_CYCLES, quick))]
        with m.Elif(answering & (wait != 0)):
            m.d.sync += wait.eq(wait - 1)
        done = Signal()
        m.d.comb += done.eq(answering & (wait == 0) & ~memory_write)
        m.d.sync += bus.ack.eq(done)
        with m.If(done):
            m.d.sync += answering.eq(0)
            with m.If(is_state):
                m.d.sync += state_index.eq(state_index + 1)

        clear_counters = Signal()
        m.d.comb += clear_counters.eq(
            write & (bus.address == Register.CONTROL) & data[_bit(Control.CLEAR_COUNTERS)]
        )
        with m.If(write), m.Switch(bus.address):
            with m.Case(Register.CONTROL):
                with m.If(data[_bit(Control.LOAD)]):
                    m.d.sync += [
                        load_wanted.eq(1),
                        verify.eq(data[_bit(Control.VERIFY)]),
                        error.eq(Error.NONE),
                    ]
                with m.If(data[_bit(Control.CLEAR)]):
                    m.d.sync += clear_wanted.eq(1)
                with m.If(data[_bit(Control.RESTORE)]):
                    m.d.sync += [
                        restoring.eq(1),
                        restore_exact.eq(data[_bit(Control.RESTORE_EXACT)]),
                        restore_first.eq(data[_bit(Control.RESTORE_FIRST)]),
                        restore_second.eq(data[_bit(Control.RESTORE_SECOND)]),
                    ]
            with m.Case(Register.IMAGE_BASE):
                m.d.sync += base.eq(data)
            with m.Case(Register.THRESHOLD_SELECT):
                m.d.sync += threshold_select.eq(data)
            with m.Case(Register.THRESHOLD):
                with m.If(threshold_select == 0):
                    m.d.sync += input_threshold.eq(data)
                with m.Else():
                    m.d.comb += scheduler.threshold.write.eq(1)
            with m.Case(Register.STATE_SELECT):
                m.d.sync += [state_region.eq(data[28:]), state_index.eq(data[:28])]
            with m.Case(Register.MEMORY_ADDRESS):
                m.d.sync += [memory_address.eq(data), part.eq(0)]
            with m.Case(Register.MEMORY_DATA):
                m.d.sync += memory_word.word_select(part, min(32, config.word_bits)).eq(data)
                with m.If(part == parts - 1):
                    m.d.sync += [part.eq(0), memory_write.eq(1)]
                with m.Else():
                    m.d.sync += part.eq(part + 1)
            with m.Case(Register.EVENTS_SELECT):
                m.d.sync += events_select.eq(data)
        m.d.comb += [
            scheduler.threshold.layer.eq(threshold_select[:5] - 1),
            scheduler.threshold.second.eq(threshold_select[5]),
            scheduler.threshold.value.eq(data),
        ]

        # -- state behind STATE_SELECT and STATE_DATA ---------------------------------------------

        width_shift = config.cell_width.bit_length() - 1
        lane_shift = config.multipliers.bit_length() - 1
        # All of it through registers: it reaches every memory of the engine, and has the time.
        host_row = Data(28)
        input_row = Data(28)
        host_element = state_index[:width_shift]
        host_write = Signal()
        host_data = Signal(s.state)
        clear_rows, clear_inputs = Signal(), Signal()
        sweeping = control.ongoing("CLEAR")
        m.d.sync += [
            host_row.eq(Mux(sweeping, sweep, state_index >> width_shift)),
            input_row.eq(Mux(sweeping, sweep, state_index)),
            host_active.eq(
                sweeping
                | (idle & is_state & (answering | bus.write_strobe | bus.read_strobe) & ~done)
            ),
            host_write.eq(idle & write & is_state),
            host_data.eq(data),
            clear_rows.eq(sweeping & (sweep < s.rows)),
            clear_inputs.eq(sweeping & (sweep < config.inputs)),
        ]
        m.d.comb += [
            cells.host.active.eq(host_active),
            cells.host.row.eq(host_row),
            cells.host.variable.eq(state_region[:3]),
            cells.host.element.eq(host_element),
            cells.host.write.eq(host_write & ~state_region[3]),
            cells.host.clear.eq(clear_rows),
            cells.host.data.eq(host_data),
            input_encoder.token.active.eq(host_active),
            input_encoder.host.active.eq(host_active),
            input_encoder.host.row.eq(input_row),
            input_encoder.host.write.eq(host_write & (state_region == Region.INPUT)),
            input_encoder.host.clear.eq(clear_inputs),
            input_encoder.host.data.eq(host_data),
            input_encoder.token.write.eq(
                host_write & (state_region == Region.INPUT) & (loader.mode[1])
            ),
            input_encoder.token.data.eq(host_data),
        ]
        for k, host in enumerate(write_back.hosts):
            region = (Region.REFERENCE, Region.REFERENCE_SECOND)[k]
            m.d.comb += [
                host.active.eq(host_active),
                host.row.eq(host_row),
                host.element.eq(host_element),
                host.write.eq(host_write & (state_region == region)),
                host.clear.eq(clear_rows),
                host.data.eq(host_data),
            ]
        m.d.comb += [
            reader.peek.valid.eq(host_active),
            reader.peek.address.eq(state_index >> lane_shift),
        ]
        # Sums come from all over the chip, so they have a cycle of their own.
        sum_late = Data(32)
        m.d.sync += sum_late.eq(lanes.sums.data.word_select(state_index[:lane_shift], 32))
        state_value = Signal(32)
        with m.Switch(state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += state_value.eq(sum_late)
            with m.Case(Region.REFERENCE):
                m.d.comb += state_value.eq(write_back.hosts[0].read.as_signed())
            with m.Case(Region.REFERENCE_SECOND):
                m.d.comb += state_value.eq(write_back.hosts[-1].read.as_signed())
            with m.Case(Region.INPUT):
                m.d.comb += state_value.eq(
                    Mux(
                        loader.mode[1],
                        input_encoder.token.token,
                        input_encoder.host.read.as_signed(),
                    )
                )
            with m.Default():
                m.d.comb += state_value.eq(cells.host.read.as_signed())

        # -- reads --------------------------------------------------------------------------------

        status = Cat(loaded & ~clearing & ~load_wanted, idle, memory.error)
        assert (Status.LOADED, Status.IDLE, Status.MEMORY_ERROR) == (1, 2, 4)
        m.d.sync += [counters.address.eq(bus.address), counters.select.eq(events_select)]
        # Values from far away come through a register, and so does the choice between them.
        state_late, counter_late, read_data = Data(32), Data(32), Data(32)
        m.d.sync += [state_late.eq(Mux(idle, state_value, 0)), counter_late.eq(counters.value)]
        m.d.comb += bus.read_data.eq(read_data)
        with m.Switch(bus.address):
            with m.Case(Register.ID):
                m.d.sync += read_data.eq(image.MAGIC)
            with m.Case(Register.VERSION):
                m.d.sync += read_data.eq(image.VERSION)
            with m.Case(Register.FINGERPRINT):
                m.d.sync += read_data.eq(config.fingerprint)
            with m.Case(Register.STATUS):
                m.d.sync += read_data.eq(Cat(status, Const(0, 5), error))
            with m.Case(Register.IMAGE_BASE):
                m.d.sync += read_data.eq(base)
            with m.Case(Register.STATE_DATA):
                m.d.sync += read_data.eq(state_late)
            with m.Default():
                m.d.sync += read_data.eq(counter_late)

        # A cycle late, which nobody sees: counters are read while nothing moves.
        word, held, starved = Signal(), Signal(), Signal()
        m.d.sync += [word.eq(lanes.taken), held.eq(lanes.held), starved.eq(lanes.starved)]
        output_last = Signal()
        m.d.comb += [
            output_last.eq(self.outputs.valid & self.outputs.ready & self.outputs.payload.last),
            counters.clear.eq(clear_counters),
            counters.active.eq(loaded & ~clearing & ~scheduler.control.idle),
            counters.word.eq(word),
            counters.held.eq(held),
            counters.starved.eq(starved),
            counters.saturated.eq(write_back.saturated),
            counters.accepted.eq(input_encoder.control.accepted),
            counters.was_idle.eq(scheduler.control.idle),
            counters.output_last.eq(output_last),
            counters.input_done.eq(input_encoder.encoded.last),
            counters.input_total.eq(input_encoder.encoded.total),
            counters.hidden_done.eq(write_back.encoded.last),
            counters.hidden_layer.eq(write_back.encoded.layer),
            counters.hidden_total.eq(write_back.encoded.total),
            counters.second_total.eq(write_back.encoded.second_total),
        ]

        return m

    def _table(self, m: Module, port: Any, table: image.Table) -> None:
        """Writes of the loader to one of the tables that come with an image."""
        loader = m.submodules.loader
        m.d.comb += [
            port.write.eq(loader.entry_write & (loader.entry[28:31] == table)),
            port.index.eq(loader.entry_index),
            port.value.eq(loader.entry[:17]),
        ]


def _bit(flag: Control) -> int:
    return int(flag).bit_length() - 1
