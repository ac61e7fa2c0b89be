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
            m.d.comb += [
                fetcher.length_write.eq(
                    loader.entry_write & (loader.entry[28:31] == image.Table.LENGTHS)
                ),
                fetcher.length_index.eq(loader.entry_index),
                fetcher.length.eq(loader.entry[:16]),
            ]
        if config.element_thresholds:
            width_bits = config.cell_width.bit_length() - 1
            for encoder, which, shift in (
                (input_encoder.encoder, image.Table.INPUT_THRESHOLDS, 0),
                (write_back.encoders[0], image.Table.THRESHOLDS, width_bits),
            ):
                m.d.comb += [
                    encoder.element_write.eq(loader.entry_write & (loader.entry[28:31] == which)),
                    encoder.element_row.eq(loader.entry_index >> shift),
                    encoder.element_number.eq(loader.entry_index[:shift]),
                    encoder.element_threshold.eq(loader.entry[:17]),
                ]
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
        input_list = input_encoder.encoder
        hidden_list = write_back.encoders[0]
        second_list = write_back.encoders[-1]
        m.d.comb += [
            scheduler.rows_done.eq(fetcher.rows_done),
            fetcher.list_input.eq(input_list.list_data),
            fetcher.list_hidden.eq(hidden_list.list_data),
            fetcher.list_second.eq(second_list.list_data),
            fetcher.word_taken.eq(lanes.taken),
            fetcher.column_done.eq(lanes.column_done),
            input_list.list_bank.eq(fetcher.list_half),
        ]
        for encoder in (input_list, *write_back.encoders):
            m.d.comb += [
                encoder.list_enable.eq(fetcher.list_enable),
                encoder.list_row.eq(fetcher.list_row),
            ]

        # -- dispatched cells ---------------------------------------------------------------------

        # One cell is read, one waits: more would need more checks where words enter the lanes.
        waiting = Signal.like(reader.commands.payload, reset_less=True)
        waiting_valid = Signal()
        m.d.comb += [
            scheduler.read_commands.ready.eq(~waiting_valid),
            reader.commands.valid.eq(waiting_valid),
            reader.commands.payload.eq(waiting),
        ]
        with m.If(reader.commands.ready):
            m.d.sync += waiting_valid.eq(0)
        with m.If(scheduler.read_commands.valid & scheduler.read_commands.ready):
            m.d.sync += [waiting.eq(scheduler.read_commands.payload), waiting_valid.eq(1)]
        for name, source, sink in (
            ("cell_commands", scheduler.cell_commands, cells.commands),
            ("write_commands", scheduler.write_commands, write_back.commands),
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

        m.d.comb += [
            lanes.hold_layer.eq(reader.hold_layer),
            lanes.hold_step.eq(reader.hold_step),
            lanes.hold_block.eq(reader.hold_block),
            lanes.hold_active.eq(reader.hold_active),
            lanes.hold_sequence.eq(reader.hold_sequence),
            lanes.hold_next_layer.eq(waiting.layer),
            lanes.hold_next_step.eq(waiting.step),
            lanes.hold_next_active.eq(waiting_valid),
            lanes.read_valid.eq(reader.read_valid),
            lanes.read_address.eq(reader.read_address),
            lanes.read_inverse.eq(reader.read_inverse),
            lanes.read_bank.eq(reader.read_bank),
            reader.read_ready.eq(lanes.read_ready),
            reader.read_data.eq(lanes.read_data),
            reader.sequence.eq(lanes.sequence),
            reader.block.eq(lanes.block),
            scheduler.issued.eq(fetcher.issued),
            scheduler.issued_layer.eq(fetcher.issued_layer),
            scheduler.sequence.eq(fetcher.sequence),
            scheduler.reading.eq(reader.hold_active),
            scheduler.reading_layer.eq(reader.hold_layer),
            scheduler.next_reading.eq(waiting_valid),
            scheduler.next_layer.eq(waiting.layer),
        ]
        connect(m, reader.units, cells.units)
        dispatched = Signal(4)  # cells dispatched and not yet encoded
        m.d.sync += dispatched.eq(
            dispatched + scheduler.read_commands.valid - write_back.command_done
        )

        # -- cells to vectors, events and outputs -------------------------------------------------

        connect(m, write_back.outputs, flipped(self.outputs))
        connect(m, input_encoder.restore, write_back.restore)
        connect(m, flipped(self.inputs), input_encoder.inputs)
        m.d.comb += [
            cells.result_row.eq(write_back.result_row),
            write_back.arrival.eq(cells.arrival),
            write_back.result_valid.eq(cells.result_valid),
            write_back.result.eq(cells.result),
            write_back.clipped.eq(cells.clipped),
            cells.command_done.eq(write_back.command_done),
            cells.output_credit.eq(write_back.output_credit),
            scheduler.status.eq(write_back.status),
            scheduler.status_second.eq(write_back.status_second),
            scheduler.input_status.eq(input_encoder.status),
            input_encoder.finished.eq(scheduler.input_finished),
            input_encoder.finished_half.eq(scheduler.input_half),
        ]

        # -- image --------------------------------------------------------------------------------

        base = Signal(config.address_bits)
        verify = Signal()
        input_threshold = Signal(17)
        m.d.comb += [
            loader.base.eq(base),
            loader.verify.eq(verify),
            scheduler.base.eq(base),
            scheduler.layer_write.eq(loader.layer_write),
            scheduler.matrix_write.eq(loader.matrix_write),
            scheduler.record.eq(loader.record),
            scheduler.index.eq(loader.index),
            scheduler.value.eq(loader.value),
            scheduler.layers.eq(loader.layers),
            scheduler.matrices.eq(loader.matrices),
            input_encoder.size.eq(loader.inputs),
            input_encoder.mode.eq(loader.mode),
            input_encoder.one.eq(loader.one),
            input_encoder.threshold.eq(input_threshold),
            input_encoder.users.eq(loader.users),
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
                input_encoder.idle
                & ~fetcher.in_flight
                & ~lanes.busy
                & ~reader.hold_active
                & ~waiting_valid
                & (dispatched == 0)
            ),
            scheduler.reset.eq(reset),
            scheduler.restoring.eq(restoring),
            input_encoder.enable.eq(
                loaded & ~clearing & ~load_wanted & ~clear_wanted & ~host_active
            ),
            input_encoder.reset.eq(reset),
            input_encoder.restoring.eq(restoring),
            input_encoder.restore_exact.eq(restore_exact),
            input_encoder.restore_second.eq(restore_second),
            write_back.reset.eq(reset),
            write_back.restore_exact.eq(restore_exact),
            write_back.restore_first.eq(restore_first),
            write_back.restore_second.eq(restore_second),
        ]
        # A cycle late is early enough: a pass of the scheduler over all matrices must be quiet.
        m.d.sync += [scheduler_quiet.eq(quiet), scheduler_enable.eq(loaded & ~clearing)]
        m.d.comb += scheduler.enable.eq(scheduler_enable)
        m.d.comb += scheduler.quiet.eq(scheduler_quiet)
        may_stop = Signal()  # nothing is in progress that a load or clear could cut off
        accepted_late = Signal()  # `quiet` of a cycle ago does not show it yet
        m.d.sync += accepted_late.eq(input_encoder.accepted)
        m.d.comb += may_stop.eq(
            ~started | (scheduler.idle & scheduler_quiet & ~input_encoder.accepted & ~accepted_late)
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

        with m.If(scheduler.step_dispatched & restoring):
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
            scheduler.idle & quiet & loaded & ~clearing & ~clear_wanted & ~load_wanted
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
                    m.d.comb += scheduler.threshold_write.eq(1)
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
            scheduler.threshold_layer.eq(threshold_select[:5] - 1),
            scheduler.threshold_second.eq(threshold_select[5]),
            scheduler.threshold_value.eq(data),
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
            cells.host_active.eq(host_active),
            cells.host_row.eq(host_row),
            cells.host_variable.eq(state_region[:3]),
            cells.host_element.eq(host_element),
            cells.host_write.eq(host_write & ~state_region[3]),
            cells.host_clear.eq(clear_rows),
            cells.host_data.eq(host_data),
            input_encoder.host_active.eq(host_active),
            input_list.host_active.eq(host_active),
            input_list.host_row.eq(input_row),
            input_list.host_write.eq(host_write & (state_region == Region.INPUT)),
            input_list.host_clear.eq(clear_inputs),
            input_list.host_data.eq(host_data),
            input_encoder.host_token_write.eq(
                host_write & (state_region == Region.INPUT) & (loader.mode[1])
            ),
            input_encoder.host_data.eq(host_data),
        ]
        for k, encoder in enumerate(write_back.encoders):
            region = (Region.REFERENCE, Region.REFERENCE_SECOND)[k]
            m.d.comb += [
                encoder.host_active.eq(host_active),
                encoder.host_row.eq(host_row),
                encoder.host_element.eq(host_element),
                encoder.host_write.eq(host_write & (state_region == region)),
                encoder.host_clear.eq(clear_rows),
                encoder.host_data.eq(host_data),
            ]
        m.d.comb += [
            reader.peek_valid.eq(host_active),
            reader.peek_address.eq(state_index >> lane_shift),
        ]
        # Sums come from all over the chip, so they have a cycle of their own.
        sum_late = Data(32)
        m.d.sync += sum_late.eq(lanes.read_data.word_select(state_index[:lane_shift], 32))
        state_value = Signal(32)
        with m.Switch(state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += state_value.eq(sum_late)
            with m.Case(Region.REFERENCE):
                m.d.comb += state_value.eq(hidden_list.host_read.as_signed())
            with m.Case(Region.REFERENCE_SECOND):
                m.d.comb += state_value.eq(second_list.host_read.as_signed())
            with m.Case(Region.INPUT):
                m.d.comb += state_value.eq(
                    Mux(loader.mode[1], input_encoder.host_token, input_list.host_read.as_signed())
                )
            with m.Default():
                m.d.comb += state_value.eq(cells.host_read.as_signed())

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
            counters.active.eq(loaded & ~clearing & ~scheduler.idle),
            counters.word.eq(word),
            counters.held.eq(held),
            counters.starved.eq(starved),
            counters.saturated.eq(write_back.saturated),
            counters.accepted.eq(input_encoder.accepted),
            counters.was_idle.eq(scheduler.idle),
            counters.output_last.eq(output_last),
            counters.input_done.eq(input_encoder.done_last),
            counters.input_total.eq(input_encoder.done_total),
            counters.hidden_done.eq(write_back.done_last),
            counters.hidden_layer.eq(write_back.done_layer),
            counters.hidden_total.eq(write_back.done_total),
            counters.second_total.eq(write_back.done_total_second),
        ]

        return m


def _bit(flag: Control) -> int:
    return int(flag).bit_length() - 1
