"""The encoder of the network's input vector: takes words from the host, lists events.

The list has two halves, so that the next vector can be encoded while columns of this one are still
being fetched. A half is free once every matrix that the input feeds has taken its events.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import (
    BudgetSignature,
    InputControlSignature,
    InputHeaderSignature,
    StateAccessSignature,
    TableWriteSignature,
    TokenAccessSignature,
)
from stillnet.hw.parts.interfaces import (
    InputEncodedSignature,
    InputListSignature,
    ListReadSignature,
)
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.stages import ENCODE_CYCLES, LOOKUP_CYCLES

from .event_encoder import EventEncoder

__all__ = ["InputEncoder"]


class _Signals:
    """What the parts of the input's encoder share."""

    def __init__(self, config: EngineConfig) -> None:
        # -- taking elements
        self.half = Signal()  # half that the next vector goes to
        self.pending = [  # matrices that have not taken all events of a half
            Signal(range(config.matrices + 1), name=f"pending{i}") for i in range(2)
        ]
        self.index = Signal(bits_for(config.inputs))
        self.taking = Signal()  # within a vector
        self.handed = Signal()  # restoring, and the input vector is taken
        self.one_hot = Signal()
        self.take = Signal()
        self.last = Signal()  # the element at ``index`` is the vector's last one
        self.ended = Signal()  # the last event of a vector goes to the encoder
        # -- tokens: a token is up to two events, the old one leaves and the new one comes
        self.token = Signal(16)  # latest token plus one
        self.arrived, self.leaving = Signal(), Signal()  # a token was taken; the old one's event
        self.second_event = Signal()  # the new token's event follows the old one's
        # -- what goes to the encoder, LOOKUP_CYCLES later
        self.step, self.first, self.step_last = Signal(), Signal(), Signal()
        self.enable = Signal()
        self.value = Signal(signed(ACTIVATION_BITS))
        self.direct = Signal()
        self.direct_group = Signal(16)
        self.direct_value = Signal(signed(EVENT_BITS))
        self.one = Signal(signed(EVENT_BITS))  # value of a token's event


def _later(m: Module, signal: Any, cycles: int) -> Any:
    """A signal, some cycles later."""
    for _ in range(cycles):
        copy = Signal.like(signal)
        m.d.sync += copy.eq(signal)
        signal = copy
    return signal


class InputEncoder(wiring.Component):
    """Encodes one vector after the other.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    inputs : In(stream of 16 bits)
        Elements of the vectors, or tokens.
    control : In(InputControlSignature)
        Starts and stops it.
    header : In(InputHeaderSignature)
        What the image says about the input vector.
    threshold : In(17)
        Threshold of its events.
    restore : Out(stream of 16 bits)
        The stream, while it belongs to the layers.
    events : Out(InputListSignature)
        Status of the list's halves, and their release.
    encoded : Out(InputEncodedSignature)
        A finished vector, for the counters.
    list : In(ListReadSignature)
        Read port of the list.
    host : In(StateAccessSignature)
        The host's access to the references.
    token : In(TokenAccessSignature)
        The host's access to the latest token.
    thresholds : In(TableWriteSignature)
        Thresholds of single elements, only where the engine has them.
    budget : In(BudgetSignature)
        Only where vectors may have budgets.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        row_bits = bits_for(config.inputs)
        super().__init__(
            {
                "inputs": In(stream.Signature(signed(ACTIVATION_BITS))),
                "control": In(InputControlSignature()),
                "header": In(InputHeaderSignature(config)),
                "threshold": In(EVENT_BITS),
                "restore": Out(stream.Signature(signed(ACTIVATION_BITS))),
                "events": Out(InputListSignature(config)),
                "encoded": Out(InputEncodedSignature()),
                "list": In(ListReadSignature(1, row_bits, 16)),
                "host": In(StateAccessSignature(row_bits, 1, ACTIVATION_BITS)),
                "token": In(TokenAccessSignature()),
                **({"thresholds": In(TableWriteSignature())} if config.element_thresholds else {}),
                **({"budget": In(BudgetSignature(1))} if config.budgets else {}),
            }
        )
        self.encoder = EventEncoder(
            1,
            config.inputs,
            lists=2,
            group_bits=16,
            elements=config.element_thresholds,
            vectors=int(config.budgets),
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.encoder = self.encoder
        s = _Signals(self._config)
        self._take(m, s)
        self._elements(m, s)
        with m.If(s.one_hot):
            self._tokens(m, s)
        with m.Elif(s.take):
            m.d.sync += [s.index.eq(Mux(s.last, 0, s.index + 1)), s.taking.eq(~s.last)]
        self._end(m, s)
        self._encode(m, s)
        self._halves(m, s)
        self._reset(m, s)
        return m

    def _take(self, m: Module, s: _Signals) -> None:
        """Takes elements from the stream, or hands them on to the layers."""
        mode, control = self.header.mode, self.control
        free = Signal()
        ready = Signal()
        # A short vector could follow before the references of the one before it are written.
        settling = Signal(LOOKUP_CYCLES + ENCODE_CYCLES)
        unsettled: Any = settling.any()
        if self._config.budgets:
            unsettled |= self._replaying(m, s)
        # Decided a cycle ahead: what allows an element stays true until a vector or a token ends.
        open_ = Signal()
        last_index = Signal.like(s.index)
        m.d.sync += [
            settling.eq(Cat(s.ended, settling)),
            last_index.eq(self.header.size - 1),
            open_.eq(
                control.enable
                & ~s.handed
                & ~s.arrived
                & ~s.leaving
                & ~s.second_event
                & (s.taking | (free & ~unsettled))
                & ~(s.take & (s.last | s.one_hot))
            ),
        ]
        m.d.comb += [
            s.one_hot.eq((mode == Mode.ONE_HOT) | (mode == Mode.ONE_HOT_PLAIN)),
            free.eq(Array(s.pending)[s.half] == 0),
            s.last.eq(s.index == last_index),
            ready.eq(open_ & ~self.token.active),
            s.take.eq(ready & self.inputs.valid),
            self.inputs.ready.eq(ready | (s.handed & self.restore.ready)),
            self.restore.valid.eq(s.handed & self.inputs.valid),
            self.restore.payload.eq(self.inputs.payload),
            control.accepted.eq(s.take & ~s.taking),
        ]
        with m.If(~self.control.restore.active):
            m.d.sync += s.handed.eq(0)

    def _replaying(self, m: Module, s: _Signals) -> Any:
        """A vector with a budget is listed after its end; the next one waits."""
        waiting = Signal(name="replaying")
        with m.If(s.ended):
            m.d.sync += waiting.eq(1)
        with m.Elif(self.encoder.listed.valid & self.encoder.listed.last):
            m.d.sync += waiting.eq(0)
        return waiting

    def _elements(self, m: Module, s: _Signals) -> None:
        """What goes to the encoder while the vector is given as elements."""
        m.d.comb += [
            s.step.eq(s.take),
            s.first.eq(~s.taking),
            s.step_last.eq(s.last),
            s.enable.eq(~(self.control.restore.active & self.control.restore.second)),
            s.value.eq(self.inputs.payload),
            s.one.eq(1 << self.header.one),
        ]

    def _tokens(self, m: Module, s: _Signals) -> None:
        """What goes to the encoder while the vector is given as a token."""
        new = Signal(16)
        same = Signal()  # the token is the old one
        is_delta = self.header.mode == Mode.ONE_HOT
        m.d.comb += [
            s.direct.eq(1),
            s.step.eq(s.leaving | s.second_event),
            s.direct_group.eq(s.token - 1),
        ]
        m.d.sync += [
            s.arrived.eq(s.take),
            s.leaving.eq(s.arrived),
            s.second_event.eq(0),
            same.eq(is_delta & (s.token == new)),
        ]
        with m.If(s.take):
            m.d.sync += new.eq(self.inputs.payload + 1)
        with m.If(s.leaving):
            m.d.comb += s.step_last.eq(same)
            m.d.sync += s.second_event.eq(~same)
            with m.If(is_delta & (s.token != 0) & ~same):
                m.d.comb += s.direct_value.eq(-s.one)
            with m.If(s.enable):
                m.d.sync += s.token.eq(new)
        with m.Else():
            m.d.comb += [
                s.first.eq(0),
                s.step_last.eq(1),
                s.direct_value.eq(Mux(s.token == 0, 0, s.one)),
            ]

    def _end(self, m: Module, s: _Signals) -> None:
        """After a vector the other half is next, or the layers' vectors are."""
        m.d.comb += [s.ended.eq(s.step & s.step_last), self.token.token.eq(s.token)]
        with m.If(s.ended):
            m.d.sync += [s.half.eq(~s.half), s.handed.eq(self.control.restore.active)]
        with m.If(self.token.write):
            m.d.sync += s.token.eq(self.token.data)

    def _encode(self, m: Module, s: _Signals) -> None:
        """Values follow their row by the encoder's look-up."""
        encoder, header = self.encoder, self.header
        exact = self.control.restore.active & self.control.restore.exact
        m.d.comb += [
            encoder.row.eq(s.index),
            encoder.group.mask.eq(1),
            encoder.rule.mode.eq(header.mode),
            encoder.rule.threshold.eq(Mux(exact, 0, self.threshold)),
            encoder.rule.exact.eq(exact),
            encoder.list_base.eq(0),
        ]
        for port, signal in (
            (encoder.group.valid, s.step),
            (encoder.group.first, s.first),
            (encoder.group.last, s.step_last),
            (encoder.group.values, s.value),
            (encoder.direct.valid, s.direct),
            (encoder.direct.group, s.direct_group),
            (encoder.direct.value, s.direct_value),
            (encoder.rule.enable, s.enable),
            (encoder.bank, s.half),
        ):
            m.d.comb += port.eq(_later(m, signal, LOOKUP_CYCLES))
        connect(m, flipped(self.list), encoder.list)
        connect(m, flipped(self.host), encoder.host)
        if encoder.elements:
            connect(m, flipped(self.thresholds), encoder.thresholds)
        if encoder.vectors:
            connect(m, flipped(self.budget), encoder.budget)
            unlimited = _later(m, self.control.restore.active, LOOKUP_CYCLES)
            m.d.comb += encoder.budgeted.unlimited.eq(unlimited)

    def _halves(self, m: Module, s: _Signals) -> None:
        """Status of the two halves of the list, and who has still to read them."""
        listed, events = self.encoder.listed, self.events
        # A vector is known a cycle after its first element; its first event is later still.
        begun, begun_half = Signal(), Data()
        m.d.sync += [begun.eq(s.step & s.first), begun_half.eq(s.half)]
        if self._config.budgets:
            listed_half = self.encoder.budgeted.listed_bank
        else:
            listed_half = _later(m, s.half, LOOKUP_CYCLES + ENCODE_CYCLES)
        for i, (pending, status) in enumerate(zip(s.pending, events.status)):
            released = Signal(name=f"released{i}")
            m.d.comb += released.eq(events.finished & (events.half == i))
            m.d.sync += pending.eq(pending - released)
            with m.If(begun & (begun_half == i)):
                m.d.sync += [
                    pending.eq(self.header.users),
                    status.present.eq(1),
                    status.complete.eq(0),
                    status.rows.eq(0),
                ]
            with m.If(listed.valid & (listed_half == i)):
                m.d.sync += [status.rows.eq(listed.rows), status.complete.eq(listed.last)]
            with m.If(released & (pending == 1)):
                m.d.sync += status.present.eq(0)
        waiting = [pending.any() for pending in s.pending]
        busy = Signal()
        m.d.comb += [
            busy.eq(Cat(s.taking, s.arrived, s.leaving, s.second_event, begun, *waiting).any()),
            self.control.idle.eq(~busy),
            self.encoded.last.eq(listed.last),
            self.encoded.total.eq(listed.total),
        ]

    def _reset(self, m: Module, s: _Signals) -> None:
        """Forgets all vectors; stands last, so that it is stronger than anything before."""
        with m.If(self.control.reset):
            m.d.sync += [s.half.eq(0), s.token.eq(0), s.taking.eq(0), s.index.eq(0)]
            m.d.sync += s.handed.eq(0)
            for pending, status in zip(s.pending, self.events.status):
                m.d.sync += [status.present.eq(0), pending.eq(0)]
