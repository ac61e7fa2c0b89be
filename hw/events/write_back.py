"""Write-back: results of the cells become vectors, events and outputs.

A hidden vector is encoded once, as it is written: the same events feed the layer above in this step
and the layer itself in the next one. With ``second_threshold`` a second encoder lists the events of
the recurrence.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import (
    VectorStatus,
    output_groups,
    output_layout,
    write_command_layout,
)
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS

from .event_encoder import ENCODE_CYCLES, LOOKUP_CYCLES, EventEncoder

__all__ = ["WriteBack"]


class WriteBack(wiring.Component):
    """Write shift, encoders of hidden vectors, and the output stream.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    commands : In(stream of ``write_command_layout``)
    result_row, arrival, result_valid, result, clipped : the cell unit's results
    restore : In(stream of 16 bits)
        Elements of vectors that the host supplies, for commands that ``skip`` their cell.
    restore_exact, restore_first, restore_second : In(1)
        See ``contract.registers.Control``.
    status : Out
        :class:`VectorStatus` of every layer's list; ``status_second`` of the second encoder's.
    reset : In(1)
        Forgets all vectors: every list is complete and empty.
    command_done, output_credit : Out(1), for the cell unit
    outputs : Out(stream of ``output_layout``)
    done_layer, done_total, done_total_second, done_last : Out
        Events of a finished vector, for the counters.
    saturated : Out
        Elements clipped this cycle.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        width = config.cell_width
        status = data.ArrayLayout(VectorStatus(s.row), config.layers)
        super().__init__(
            {
                "commands": In(stream.Signature(write_command_layout(config))),
                "result_row": Out(s.row),
                "arrival": In(1),
                "result_valid": In(1),
                "result": In(width * ACTIVATION_BITS),
                "clipped": In(width),
                "restore": In(stream.Signature(signed(ACTIVATION_BITS))),
                "restore_exact": In(1),
                "restore_first": In(1),
                "restore_second": In(1),
                "status": Out(status),
                "status_second": Out(status),
                "reset": In(1),
                "command_done": Out(1),
                "output_credit": Out(1),
                "outputs": Out(stream.Signature(output_layout())),
                "done_layer": Out(s.layer),
                "done_last": Out(1),
                "done_total": Out(16),
                "done_total_second": Out(16),
                "saturated": Out(range(width + 1)),
            }
        )
        encoders = 2 if config.second_threshold else 1
        self.encoders = [
            EventEncoder(width, s.rows, elements=config.element_thresholds and k == 0)
            for k in range(encoders)
        ]

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, s = self._config, Shapes(self._config)
        width = config.cell_width

        # -- the vector being written, and the one being encoded (a few cycles behind) ------------

        command = self.commands.payload
        row = Signal(s.row)
        units_left = Signal(s.unit)
        started = Signal()  # row and units_left belong to the command
        left = Signal(s.unit)
        m.d.comb += [
            left.eq(Mux(started, units_left, command.units)),
            self.result_row.eq(Mux(started, row, command.base)),
        ]

        # Elements from the host are collected until a group is complete.
        collected = Data(width * ACTIVATION_BITS)
        position = Signal(range(max(2, width)))
        take = Signal()
        group_complete = Signal()
        group_ends = Signal()  # the element that comes next is the group's last one
        # Through a register: an element every other cycle, and no path from the host to here.
        element = Data(ACTIVATION_BITS)
        m.d.comb += [
            self.restore.ready.eq(self.commands.valid & command.skip & ~take),
            group_complete.eq(take & group_ends),
        ]
        # Elements are two cycles apart, so that the next one's place is known in time.
        if width == 1:
            m.d.comb += group_ends.eq(1)
        else:
            m.d.sync += group_ends.eq((position == width - 1) | (position + 1 == left))
        m.d.sync += [
            take.eq(self.restore.ready & self.restore.valid),
            element.eq(self.restore.payload),
        ]
        restored = Signal()
        m.d.sync += restored.eq(group_complete)
        with m.If(take):
            m.d.sync += [
                collected.word_select(position, ACTIVATION_BITS).eq(element),
                position.eq(Mux(group_complete, 0, position + 1)),
            ]

        step = Signal()
        m.d.comb += step.eq(self.arrival | group_complete)
        last, last_next = Signal(), Signal()  # the group is the command's last one
        m.d.comb += [
            last.eq(Mux(started, last_next, command.single)),
            self.commands.ready.eq(step & last),
        ]
        with m.If(step):
            m.d.sync += [
                started.eq(~last),
                last_next.eq(left <= 2 * width),
                row.eq(self.result_row + 1),
                units_left.eq(left - width),
            ]

        # Stage 1: the result. What belongs to the vector travels with it until it is encoded.
        first1, last1 = Data(), Data()
        row1 = Data(s.row)
        mask1 = Data(width)
        command1 = Signal.like(command, reset_less=True)
        with m.If(step):
            m.d.sync += [first1.eq(~started), last1.eq(last), row1.eq(self.result_row)]
            m.d.sync += command1.eq(command)
            for p in range(width):
                m.d.sync += mask1[p].eq(left > p)
        valid1 = Signal()
        m.d.comb += valid1.eq(self.result_valid | restored)
        m.d.comb += self.saturated.eq(
            sum((self.clipped[p] & mask1[p] & self.result_valid) for p in range(width))
        )

        # Stages 2 and 3: write shift with rounding; the encoders look up the reference meanwhile.
        assert LOOKUP_CYCLES == 2
        values3 = []
        for p in range(width):
            value1 = Data(signed(ACTIVATION_BITS), name=f"value1_{p}")
            shifted2 = Data(signed(ACTIVATION_BITS + 1), name=f"shifted2_{p}")
            rounded = Signal(signed(ACTIVATION_BITS + 1), name=f"rounded_{p}")
            value3 = Data(signed(ACTIVATION_BITS), name=f"value3_{p}")
            select = slice(p * ACTIVATION_BITS, (p + 1) * ACTIVATION_BITS)
            top = (1 << (ACTIVATION_BITS - 1)) - 1
            m.d.comb += [
                value1.eq(Mux(restored, collected[select], self.result[select]).as_signed()),
                rounded.eq((shifted2 + 1) >> 1),
            ]
            write_shift = Mux(command1.skip, 0, command1.write_shift)
            m.d.sync += [
                shifted2.eq((value1 << 1) >> write_shift),
                value3.eq(Mux(rounded > top, top, rounded)),
            ]
            values3.append(value3)

        def later(*signals: Any) -> list[Signal]:
            copies = []
            for signal in signals:
                copy = Signal.like(signal, reset_less=True)
                m.d.sync += copy.eq(signal)
                copies.append(copy)
            return copies

        valid2, valid3 = Signal(), Signal()
        m.d.sync += [valid2.eq(valid1), valid3.eq(valid2)]
        first3, last3, mask3, command3 = later(*later(first1, last1, mask1, command1))

        # -- encoders -----------------------------------------------------------------------------

        # Encoding takes three stages, in which the next vector may begin.
        layer6 = command3.layer
        for _ in range(ENCODE_CYCLES):
            (layer6,) = later(layer6)
        exact = self.restore_exact & command3.skip
        for k, encoder in enumerate(self.encoders):
            m.submodules["encoder" if k == 0 else "encoder_recurrent"] = encoder
            threshold = command3.threshold if k == 0 else command3.threshold_recurrent
            only_other = self.restore_second if k == 0 else self.restore_first
            m.d.comb += [
                encoder.row.eq(row1),
                encoder.valid.eq(valid3),
                encoder.first.eq(first3),
                encoder.last.eq(last3),
                encoder.values.eq(Cat(*values3)),
                encoder.mask.eq(mask3),
                encoder.threshold.eq(Mux(exact, 0, threshold)),
                encoder.enable.eq(~(command3.skip & only_other)),
            ]
            m.d.comb += [encoder.mode.eq(command3.mode), encoder.list_base.eq(command3.base)]
            if encoder.elements:
                m.d.comb += encoder.exact.eq(exact)
            status = self.status if k == 0 else self.status_second
            for layer in range(config.layers):
                with m.If(encoder.done & (layer6 == layer)):
                    m.d.sync += [
                        status[layer].rows.eq(encoder.count),
                        status[layer].complete.eq(encoder.done_last),
                    ]
                    with m.If(encoder.done_first):
                        m.d.sync += status[layer].generation.eq(~status[layer].generation)
                with m.If(self.reset):
                    m.d.sync += [
                        status[layer].generation.eq(0),
                        status[layer].complete.eq(1),
                        status[layer].rows.eq(0),
                    ]
            if k == 0:
                m.d.comb += [
                    self.done_layer.eq(layer6),
                    self.done_last.eq(encoder.done_last),
                    self.done_total.eq(encoder.total),
                    self.command_done.eq(encoder.done_last),
                ]
            else:
                m.d.comb += self.done_total_second.eq(encoder.total)

        # -- output stream ------------------------------------------------------------------------

        group_bits = width * ACTIVATION_BITS
        m.submodules.outputs = fifo = SyncFIFOBuffered(
            width=group_bits + width + 1, depth=output_groups(config)
        )
        m.d.comb += [
            fifo.w_data.eq(Cat(*values3, mask3, last3)),
            fifo.w_en.eq(valid3 & command3.output & ~command3.skip),
        ]
        element = Signal(range(max(2, width)))
        mask = fifo.r_data[group_bits : group_bits + width]
        following = Signal(width + 1)
        m.d.comb += following.eq(Cat(mask, Const(0, 1)) >> (element + 1))
        group_end = Signal()
        m.d.comb += [
            group_end.eq(~following[0]),
            self.outputs.valid.eq(fifo.r_rdy),
            self.outputs.payload.data.eq(
                fifo.r_data[:group_bits].word_select(element, ACTIVATION_BITS).as_signed()
            ),
            self.outputs.payload.last.eq(group_end & fifo.r_data[-1]),
        ]
        with m.If(self.outputs.valid & self.outputs.ready):
            m.d.sync += element.eq(Mux(group_end, 0, element + 1))
            m.d.comb += [fifo.r_en.eq(group_end), self.output_credit.eq(group_end)]
        return m
