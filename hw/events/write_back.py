"""Write-back: results of the cells become vectors, events and outputs.

A hidden vector is encoded once, as it is written: the same events feed the next layer in this step,
and the layer itself in the next step. With ``second_threshold``, a second encoder lists the events
of the recurrence.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import (
    BudgetSignature,
    StateAccessSignature,
    TableWriteSignature,
    VectorControlSignature,
)
from stillnet.hw.parts.interfaces import (
    ListReadSignature,
    ResultsSignature,
    VectorEncodedSignature,
    VectorsSignature,
)
from stillnet.hw.parts.layouts import output_groups, output_layout, write_command_layout
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.stages import ENCODE_CYCLES, LOOKUP_CYCLES

from .event_encoder import EventEncoder

__all__ = ["WriteBack"]


class _Signals:
    """What the parts of write-back share; the number is the stage after the group is known."""

    def __init__(self, config: EngineConfig) -> None:
        shapes, width = Shapes(config), config.cell_width
        self.step = Signal()  # a group is there, with its results in the next cycle
        self.started = Signal()  # a group of the command was there before
        self.left = Signal(shapes.unit)  # units of the command, those of this group included
        self.last = Signal()  # the group is the command's last one
        # A group of elements from the host.
        self.collected = Data(width * ACTIVATION_BITS)
        self.group_complete = Signal()
        self.restored = Signal()  # it was complete in the cycle before
        # What belongs to the vector travels with the group until it is encoded.
        command = write_command_layout(config)
        self.row1 = Data(shapes.row)
        self.first1, self.first2, self.first3 = Data(), Data(), Data()
        self.last1, self.last2, self.last3 = Data(), Data(), Data()
        self.mask1, self.mask2, self.mask3 = Data(width), Data(width), Data(width)
        self.command1, self.command2, self.command3 = Data(command), Data(command), Data(command)
        self.valid1, self.valid2, self.valid3 = Signal(), Signal(), Signal()
        self.values3 = [Data(signed(ACTIVATION_BITS), name=f"value3_{p}") for p in range(width)]


class WriteBack(wiring.Component):
    """Write shift, encoders of hidden vectors, and the output stream.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    commands : In(stream of ``write_command_layout``)
        Cells in the order of dispatch. A command is taken with its last group.
    results : In(ResultsSignature)
        From the cell unit.
    restore : In(stream of 16 bits)
        Elements of vectors that the host supplies, for commands that ``skip`` their cell.
    control : In(VectorControlSignature)
        Forgets all vectors, and says what those of the host change.
    vectors : Out(VectorsSignature)
        Status of every layer's lists.
    lists : In(array of ListReadSignature)
        Read ports of the lists, one for each encoder.
    hosts : In(array of StateAccessSignature)
        The host's access to the references, one for each encoder.
    thresholds : In(TableWriteSignature)
        Thresholds of single elements, only where the engine has them.
    outputs : Out(stream of ``output_layout``)
        Elements of the output layer.
    encoded : Out(VectorEncodedSignature)
        A finished vector, for the counters.
    saturated : Out
        Elements clipped in this cycle.
    budget : In(BudgetSignature)
        Only where vectors may have budgets; a vector is a layer's.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        s = Shapes(config)
        width = config.cell_width
        encoders = 2 if config.second_threshold else 1
        super().__init__(
            {
                "commands": In(stream.Signature(write_command_layout(config))),
                "results": In(ResultsSignature(config)),
                "restore": In(stream.Signature(signed(ACTIVATION_BITS))),
                "control": In(VectorControlSignature()),
                "vectors": Out(VectorsSignature(config)),
                "lists": In(ListReadSignature(width, s.row, s.row)).array(encoders),
                "hosts": In(StateAccessSignature(s.row, width, ACTIVATION_BITS)).array(encoders),
                "outputs": Out(stream.Signature(output_layout())),
                "encoded": Out(VectorEncodedSignature(config)),
                "saturated": Out(range(width + 1)),
                **({"thresholds": In(TableWriteSignature())} if config.element_thresholds else {}),
                **({"budget": In(BudgetSignature(config.layers))} if config.budgets else {}),
            }
        )
        vectors = config.layers if config.budgets else 0
        self.encoders = [
            EventEncoder(
                width, s.rows, elements=config.element_thresholds and k == 0, vectors=vectors
            )
            for k in range(encoders)
        ]

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._config)
        self._collect(m, s)
        self._count(m, s)
        self._travel(m, s)
        for p in range(self._config.cell_width):
            self._shift(m, s, p)
        layer = self._layer_encoded(m, s)
        for k, encoder in enumerate(self.encoders):
            m.submodules["encoder" if k == 0 else "encoder_recurrent"] = encoder
            self._encode(m, s, k)
            self._vector_status(m, k, layer)
        self._report(m, layer)
        self._output(m, s)
        return m

    def _collect(self, m: Module, s: _Signals) -> None:
        """Elements from the host are collected until a group is complete."""
        width, command = self._config.cell_width, self.commands.payload
        position = Signal(range(max(2, width)))
        take = Signal()
        group_ends = Signal()  # the element that comes next is the group's last one
        # Through a register: an element every other cycle, and no path from the host to here.
        element = Data(ACTIVATION_BITS)
        m.d.comb += [
            self.restore.ready.eq(self.commands.valid & command.skip & ~take),
            s.group_complete.eq(take & group_ends),
        ]
        # Elements are two cycles apart, so that the next one's place is known in time.
        if width == 1:
            m.d.comb += group_ends.eq(1)
        else:
            m.d.sync += group_ends.eq((position == width - 1) | (position + 1 == s.left))
        m.d.sync += [
            take.eq(self.restore.ready & self.restore.valid),
            element.eq(self.restore.payload),
            s.restored.eq(s.group_complete),
        ]
        with m.If(take):
            m.d.sync += [
                s.collected.word_select(position, ACTIVATION_BITS).eq(element),
                position.eq(Mux(s.group_complete, 0, position + 1)),
            ]

    def _count(self, m: Module, s: _Signals) -> None:
        """The command's row and units left, group after group."""
        width, command, results = self._config.cell_width, self.commands.payload, self.results
        row, units_left = Signal.like(results.row), Signal.like(s.left)  # once it has started
        last_next = Signal()
        m.d.comb += [
            s.left.eq(Mux(s.started, units_left, command.units)),
            results.row.eq(Mux(s.started, row, command.base)),
            s.step.eq(results.arrival | s.group_complete),
            s.last.eq(Mux(s.started, last_next, command.single)),
            self.commands.ready.eq(s.step & s.last),
        ]
        with m.If(s.step):
            m.d.sync += [
                s.started.eq(~s.last),
                last_next.eq(s.left <= 2 * width),
                row.eq(results.row + 1),
                units_left.eq(s.left - width),
            ]

    def _travel(self, m: Module, s: _Signals) -> None:
        """Stages 1 to 3 of what belongs to the vector."""
        width = self._config.cell_width
        with m.If(s.step):
            m.d.sync += [
                s.first1.eq(~s.started),
                s.last1.eq(s.last),
                s.row1.eq(self.results.row),
                s.command1.eq(self.commands.payload),
                *(s.mask1[p].eq(s.left > p) for p in range(width)),
            ]
        clipped = [self.results.clipped[p] & s.mask1[p] & self.results.valid for p in range(width)]
        m.d.comb += [
            s.valid1.eq(self.results.valid | s.restored),
            self.saturated.eq(sum(clipped)),
        ]
        m.d.sync += [
            Cat(s.valid2, s.valid3).eq(Cat(s.valid1, s.valid2)),
            Cat(s.first2, s.first3).eq(Cat(s.first1, s.first2)),
            Cat(s.last2, s.last3).eq(Cat(s.last1, s.last2)),
            Cat(s.mask2, s.mask3).eq(Cat(s.mask1, s.mask2)),
            s.command2.eq(s.command1),
            s.command3.eq(s.command2),
        ]

    def _shift(self, m: Module, s: _Signals, p: int) -> None:
        """Stages 2 and 3 of element p: the write shift, rounded half up.

        Meanwhile the encoders look up its reference.
        """
        assert LOOKUP_CYCLES == 2
        value1 = Data(signed(ACTIVATION_BITS), name=f"value1_{p}")
        shifted2 = Data(signed(ACTIVATION_BITS + 1), name=f"shifted2_{p}")
        rounded = Signal(signed(ACTIVATION_BITS + 1), name=f"rounded_{p}")
        select = slice(p * ACTIVATION_BITS, (p + 1) * ACTIVATION_BITS)
        top = (1 << (ACTIVATION_BITS - 1)) - 1
        result = Mux(s.restored, s.collected[select], self.results.values[select])
        m.d.comb += [value1.eq(result.as_signed()), rounded.eq((shifted2 + 1) >> 1)]
        write_shift = Mux(s.command1.skip, 0, s.command1.write_shift)
        m.d.sync += [
            shifted2.eq((value1 << 1) >> write_shift),
            s.values3[p].eq(Mux(rounded > top, top, rounded)),
        ]

    def _layer_encoded(self, m: Module, s: _Signals) -> Signal:
        """Layer of what the encoders have listed: the next vector may have begun meanwhile."""
        if self._config.budgets:  # a vector may be listed long after its last group
            return self.encoders[0].budgeted.listed_vector
        layer = s.command3.layer
        for i in range(ENCODE_CYCLES):
            later = Data(len(layer), name=f"layer{i + 4}")
            m.d.sync += later.eq(layer)
            layer = later
        return layer

    def _encode(self, m: Module, s: _Signals, k: int) -> None:
        """The group goes into encoder k."""
        command, mode = s.command3, self.control.restore
        encoder = self.encoders[k]
        threshold = command.threshold if k == 0 else command.threshold_recurrent
        only_other = mode.second if k == 0 else mode.first
        exact = mode.exact & command.skip
        m.d.comb += [
            encoder.row.eq(s.row1),
            encoder.group.valid.eq(s.valid3),
            encoder.group.first.eq(s.first3),
            encoder.group.last.eq(s.last3),
            encoder.group.values.eq(Cat(*s.values3)),
            encoder.group.mask.eq(s.mask3),
            encoder.rule.mode.eq(command.mode),
            encoder.rule.threshold.eq(Mux(exact, 0, threshold)),
            encoder.rule.enable.eq(~(command.skip & only_other)),
            encoder.rule.exact.eq(exact),
            encoder.list_base.eq(command.base),
        ]
        connect(m, flipped(self.lists[k]), encoder.list)
        connect(m, flipped(self.hosts[k]), encoder.host)
        if encoder.elements:
            connect(m, flipped(self.thresholds), encoder.thresholds)
        if encoder.vectors:
            connect(m, flipped(self.budget), encoder.budget)
            m.d.comb += [
                encoder.budgeted.vector.eq(command.layer),
                encoder.budgeted.unlimited.eq(command.skip),
            ]

    def _vector_status(self, m: Module, k: int, layer: Signal) -> None:
        """Status of the lists of encoder k, as groups of a layer are listed."""
        listed = self.encoders[k].listed
        for i in range(self._config.layers):
            status = (self.vectors.first if k == 0 else self.vectors.second)[i]
            with m.If(listed.valid & (layer == i)):
                m.d.sync += [status.rows.eq(listed.rows), status.complete.eq(listed.last)]
                with m.If(listed.first):
                    m.d.sync += status.generation.eq(~status.generation)
            with m.If(self.control.reset):
                m.d.sync += [status.generation.eq(0), status.complete.eq(1), status.rows.eq(0)]

    def _report(self, m: Module, layer: Signal) -> None:
        """A vector is complete: for the counters and the cell unit."""
        listed = self.encoders[0].listed
        m.d.comb += [
            self.encoded.layer.eq(layer),
            self.encoded.last.eq(listed.last),
            self.encoded.total.eq(listed.total),
            self.results.done.eq(listed.last),
        ]
        if len(self.encoders) > 1:
            m.d.comb += self.encoded.second_total.eq(self.encoders[1].listed.total)

    def _output(self, m: Module, s: _Signals) -> None:
        """The output stream: groups of the output layer, element after element."""
        width = self._config.cell_width
        group_bits = width * ACTIVATION_BITS
        m.submodules.outputs = fifo = SyncFIFOBuffered(
            width=group_bits + width + 1, depth=output_groups(self._config)
        )
        element = Signal(range(max(2, width)))
        mask = fifo.r_data[group_bits : group_bits + width]
        following = Signal(width + 1)  # elements after this one
        group_end = Signal()
        values = fifo.r_data[:group_bits]
        m.d.comb += [
            fifo.w_data.eq(Cat(*s.values3, s.mask3, s.last3)),
            fifo.w_en.eq(s.valid3 & s.command3.output & ~s.command3.skip),
            following.eq(Cat(mask, Const(0, 1)) >> (element + 1)),
            group_end.eq(~following[0]),
            self.outputs.valid.eq(fifo.r_rdy),
            self.outputs.payload.data.eq(values.word_select(element, ACTIVATION_BITS).as_signed()),
            self.outputs.payload.last.eq(group_end & fifo.r_data[-1]),
        ]
        with m.If(self.outputs.valid & self.outputs.ready):
            m.d.sync += element.eq(Mux(group_end, 0, element + 1))
            m.d.comb += [fifo.r_en.eq(group_end), self.results.credit.eq(group_end)]
