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

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.cell.unit import CellUnit
from stillnet.hw.events.input_encoder import InputEncoder
from stillnet.hw.events.write_back import WriteBack, output_layout
from stillnet.hw.fetch.column_fetcher import ColumnFetcher
from stillnet.hw.fetch.image_loader import ImageLoader
from stillnet.hw.fetch.scheduler import Scheduler
from stillnet.hw.host.counters import Counters
from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.host.registers import Registers
from stillnet.hw.lanes.accumulator_reader import AccumulatorReader
from stillnet.hw.lanes.lanes import Lanes
from stillnet.hw.memory.port import MemoryPortSignature
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.register_slice import RegisterSlice
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import ADDRESS_BITS, Error, Region, Register

__all__ = ["Engine"]

ACCESS_CYCLES = 9
"""Cycles of an access to state or event counters, more than any of the memories takes."""


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

        registers = Registers(
            config, self.registers, memory, access_cycles=ACCESS_CYCLES, late=True
        )
        base, verify, input_threshold = registers.base, registers.verify, registers.input_threshold
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

        loaded, clearing, error = registers.loaded, registers.clearing, registers.error
        load_wanted, clear_wanted = registers.load_wanted, registers.clear_wanted
        restoring = registers.restoring
        started, reset, restore_dispatched = Signal(), Signal(), Signal()
        host_active = Signal()
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
            input_encoder.restore_exact.eq(registers.restore_exact),
            input_encoder.restore_second.eq(registers.restore_second),
            write_back.reset.eq(reset),
            write_back.restore_exact.eq(registers.restore_exact),
            write_back.restore_first.eq(registers.restore_first),
            write_back.restore_second.eq(registers.restore_second),
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

        # -- registers, state, counters -----------------------------------------------------------

        m.d.sync += registers.idle.eq(
            scheduler.idle & quiet & loaded & ~clearing & ~clear_wanted & ~load_wanted
        )
        slow = registers.is_state | (self.registers.address == Register.EVENTS)
        registers.answer(m, slow)
        m.d.comb += [
            scheduler.threshold_write.eq(registers.threshold_write),
            scheduler.threshold_layer.eq(registers.threshold_select[:5] - 1),
            scheduler.threshold_second.eq(registers.threshold_select[5]),
            scheduler.threshold_value.eq(self.registers.write_data),
        ]
        blocks = SimpleNamespace(
            loader=loader,
            scheduler=scheduler,
            lanes=lanes,
            reader=reader,
            cells=cells,
            write_back=write_back,
            input_encoder=input_encoder,
            counters=counters,
        )
        self._state_access(m, registers, blocks, host_active, sweep, control.ongoing("CLEAR"))
        registers.reads(m, self._state_value(m, registers, blocks), counters.value)
        self._count(m, registers, blocks)
        return m

    def _state_access(
        self,
        m: Module,
        registers: Registers,
        blocks: Any,
        active: Signal,
        sweep: Signal,
        sweeping: Any,
    ) -> None:
        """Reads, writes and clears of the state memories, which all blocks leave to the host.

        All of it goes through registers: it reaches every memory of the engine, and has the time.
        """
        config, s = self._config, Shapes(self._config)
        cells, input_encoder = blocks.cells, blocks.input_encoder
        input_list = input_encoder.encoder
        region, index, data = (
            registers.state_region,
            registers.state_index,
            self.registers.write_data,
        )
        width_shift = config.cell_width.bit_length() - 1
        lane_shift = config.multipliers.bit_length() - 1
        host_row, input_row = Data(28), Data(28)
        host_element = index[:width_shift]
        host_write = Signal()
        host_data = Signal(s.state)
        clear_rows, clear_inputs = Signal(), Signal()
        m.d.sync += [
            host_row.eq(Mux(sweeping, sweep, index >> width_shift)),
            input_row.eq(Mux(sweeping, sweep, index)),
            active.eq(
                sweeping
                | (registers.idle & registers.is_state & registers.active & ~registers.done)
            ),
            host_write.eq(registers.idle & self.registers.write_strobe & registers.is_state),
            host_data.eq(data),
            clear_rows.eq(sweeping & (sweep < s.rows)),
            clear_inputs.eq(sweeping & (sweep < config.inputs)),
        ]
        m.d.comb += [
            cells.host_active.eq(active),
            cells.host_row.eq(host_row),
            cells.host_variable.eq(region[:3]),
            cells.host_element.eq(host_element),
            cells.host_write.eq(host_write & ~region[3]),
            cells.host_clear.eq(clear_rows),
            cells.host_data.eq(host_data),
            input_encoder.host_active.eq(active),
            input_list.host_active.eq(active),
            input_list.host_row.eq(input_row),
            input_list.host_write.eq(host_write & (region == Region.INPUT)),
            input_list.host_clear.eq(clear_inputs),
            input_list.host_data.eq(host_data),
            input_encoder.host_token_write.eq(
                host_write & (region == Region.INPUT) & (blocks.loader.mode[1])
            ),
            input_encoder.host_data.eq(host_data),
        ]
        for k, encoder in enumerate(blocks.write_back.encoders):
            own = (Region.REFERENCE, Region.REFERENCE_SECOND)[k]
            m.d.comb += [
                encoder.host_active.eq(active),
                encoder.host_row.eq(host_row),
                encoder.host_element.eq(host_element),
                encoder.host_write.eq(host_write & (region == own)),
                encoder.host_clear.eq(clear_rows),
                encoder.host_data.eq(host_data),
            ]
        m.d.comb += [
            blocks.reader.peek_valid.eq(active),
            blocks.reader.peek_address.eq(index >> lane_shift),
        ]

    def _state_value(self, m: Module, registers: Registers, blocks: Any) -> Signal:
        """The element of state that the host has selected."""
        lane_shift = self._config.multipliers.bit_length() - 1
        encoders, input_encoder = blocks.write_back.encoders, blocks.input_encoder
        # Sums come from all over the chip, so they have a cycle of their own.
        sum_late = Data(32)
        m.d.sync += sum_late.eq(
            blocks.lanes.read_data.word_select(registers.state_index[:lane_shift], 32)
        )
        one_hot = blocks.loader.mode[1]
        input_value = input_encoder.encoder.host_read.as_signed()
        value = Signal(32, name="state_value")
        with m.Switch(registers.state_region):
            with m.Case(Region.ACCUMULATOR):
                m.d.comb += value.eq(sum_late)
            with m.Case(Region.REFERENCE):
                m.d.comb += value.eq(encoders[0].host_read.as_signed())
            with m.Case(Region.REFERENCE_SECOND):
                m.d.comb += value.eq(encoders[-1].host_read.as_signed())
            with m.Case(Region.INPUT):
                m.d.comb += value.eq(Mux(one_hot, input_encoder.host_token, input_value))
            with m.Default():
                m.d.comb += value.eq(blocks.cells.host_read.as_signed())
        return value

    def _count(self, m: Module, registers: Registers, blocks: Any) -> None:
        """What the counters count, and which one is read."""
        counters, lanes, scheduler = blocks.counters, blocks.lanes, blocks.scheduler
        write_back, input_encoder, outputs = blocks.write_back, blocks.input_encoder, self.outputs
        # A cycle late, which does not show: counters are read while nothing moves.
        word, held, starved = Signal(), Signal(), Signal()
        m.d.sync += [
            counters.address.eq(self.registers.address),
            counters.select.eq(registers.events_select),
            word.eq(lanes.taken),
            held.eq(lanes.held),
            starved.eq(lanes.starved),
        ]
        m.d.comb += [
            counters.clear.eq(registers.clear_counters),
            counters.active.eq(registers.loaded & ~registers.clearing & ~scheduler.idle),
            counters.word.eq(word),
            counters.held.eq(held),
            counters.starved.eq(starved),
            counters.saturated.eq(write_back.saturated),
            counters.accepted.eq(input_encoder.accepted),
            counters.was_idle.eq(scheduler.idle),
            counters.output_last.eq(outputs.valid & outputs.ready & outputs.payload.last),
            counters.input_done.eq(input_encoder.done_last),
            counters.input_total.eq(input_encoder.done_total),
            counters.hidden_done.eq(write_back.done_last),
            counters.hidden_layer.eq(write_back.done_layer),
            counters.hidden_total.eq(write_back.done_total),
            counters.second_total.eq(write_back.done_total_second),
        ]
