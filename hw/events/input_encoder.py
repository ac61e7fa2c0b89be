"""The encoder of the network's input vector: takes words from the host, lists events.

The list has two halves, so that the next vector can be encoded while columns of this one are still
being fetched. A half is free once every matrix that the input feeds has taken its events.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import InputStatus
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS

from .event_encoder import ENCODE_CYCLES, LOOKUP_CYCLES, EventEncoder

__all__ = ["InputEncoder"]


class InputEncoder(wiring.Component):
    """Encodes one vector after the other.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    inputs : In(stream of 16 bits)
        Elements of the vectors, or tokens.
    enable : In(1)
        Vectors may be taken.
    size, mode, one, threshold : In
        From the image: elements, ``events.Mode``, log2 of a token's event value.
    users : In
        Matrices that the input feeds.
    restoring, restore_exact, restore_second : In(1)
        The vectors of the layers follow the input vector on the same stream.
    restore : Out(stream of 16 bits)
        The stream, while it belongs to the layers.
    status : Out
        :class:`InputStatus` of both halves.
    finished, finished_half : In
        A matrix has taken all events of a half.
    reset : In(1)
    idle : Out(1)
        No vector is being taken, and none waits.
    accepted : Out(1)
        The first element of a vector was taken.
    done_last, done_total : Out
        Events of a finished vector, for the counters.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.row_bits = bits_for(config.inputs)
        super().__init__(
            {
                "inputs": In(stream.Signature(signed(ACTIVATION_BITS))),
                "enable": In(1),
                "size": In(16),
                "mode": In(Mode),
                "one": In(4),
                "threshold": In(EVENT_BITS),
                "users": In(range(config.matrices + 1)),
                "restoring": In(1),
                "restore_exact": In(1),
                "restore_second": In(1),
                "restore": Out(stream.Signature(signed(ACTIVATION_BITS))),
                "status": Out(data.ArrayLayout(InputStatus(self.row_bits), 2)),
                "finished": In(1),
                "finished_half": In(1),
                "reset": In(1),
                "idle": Out(1),
                "accepted": Out(1),
                "done_last": Out(1),
                "done_total": Out(16),
                "host_active": In(1),
                "host_token_write": In(1),
                "host_token": Out(16),
                "host_data": In(16),
            }
        )
        self.encoder = EventEncoder(
            1, config.inputs, lists=2, group_bits=16, elements=config.element_thresholds
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.encoder = encoder = self.encoder

        half = Signal()  # half that the next vector goes to
        pending = [Signal.like(self.users, name=f"pending{i}") for i in range(2)]
        index = Signal(self.row_bits)
        taking = Signal()  # within a vector
        handed = Signal()  # restoring, and the input vector is taken
        token = Signal(16)  # last token plus one
        arrived, leaving = Signal(), Signal()  # a token was taken; the old one's event
        same = Signal()  # the token is the old one
        second_event = Signal()  # the new token's event follows the old one's

        one_hot = Signal()
        m.d.comb += one_hot.eq((self.mode == Mode.ONE_HOT) | (self.mode == Mode.ONE_HOT_PLAIN))
        free = Signal()
        m.d.comb += free.eq(Array(pending)[half] == 0)
        take = Signal()
        ready = Signal()
        # A short vector could follow before the references of the one before it are written.
        settling = Signal(LOOKUP_CYCLES + ENCODE_CYCLES)
        last = Signal()
        # Decided a cycle ahead: what allows an element stays true until a vector or a token ends.
        open_ = Signal()
        m.d.sync += open_.eq(
            self.enable
            & ~handed
            & ~arrived
            & ~leaving
            & ~second_event
            & (taking | (free & ~settling.any()))
            & ~(take & (last | one_hot))
        )
        m.d.comb += [
            ready.eq(open_ & ~self.host_active),
            take.eq(ready & self.inputs.valid),
            self.inputs.ready.eq(ready | (handed & self.restore.ready)),
            self.restore.valid.eq(handed & self.inputs.valid),
            self.restore.payload.eq(self.inputs.payload),
            self.accepted.eq(take & ~taking),
        ]
        last_index = Signal.like(index)
        m.d.sync += last_index.eq(self.size - 1)
        m.d.comb += last.eq(index == last_index)
        with m.If(~self.restoring):
            m.d.sync += handed.eq(0)

        # Values follow their row by the encoder's look-up.
        step, first, direct = Signal(), Signal(), Signal()
        direct_value = Signal(signed(EVENT_BITS))
        direct_group = Signal(16)
        enable = Signal()
        m.d.comb += [
            step.eq(take),
            first.eq(~taking),
            enable.eq(~(self.restoring & self.restore_second)),
        ]
        value = Signal(signed(ACTIVATION_BITS))
        m.d.comb += value.eq(self.inputs.payload)
        step_last = Signal()
        m.d.comb += step_last.eq(last)
        new = Signal(16)
        one_value = Signal(signed(EVENT_BITS))
        m.d.comb += one_value.eq(1 << self.one)
        with m.If(one_hot):
            # A token is up to two events: the old one leaves, the new one comes.
            m.d.comb += [direct.eq(1), step.eq(leaving | second_event)]
            m.d.sync += [arrived.eq(take), leaving.eq(arrived), second_event.eq(0)]
            m.d.sync += same.eq((self.mode == Mode.ONE_HOT) & (token == new))
            m.d.comb += direct_group.eq(token - 1)
            with m.If(take):
                m.d.sync += new.eq(self.inputs.payload + 1)
            with m.If(leaving):
                m.d.comb += step_last.eq(same)
                m.d.sync += second_event.eq(~same)
                with m.If((self.mode == Mode.ONE_HOT) & (token != 0) & ~same):
                    m.d.comb += direct_value.eq(-one_value)
                with m.If(enable):
                    m.d.sync += token.eq(new)
            with m.Else():
                m.d.comb += [
                    first.eq(0),
                    step_last.eq(1),
                    direct_value.eq(Mux(token == 0, 0, one_value)),
                ]
        with m.Elif(take):
            m.d.sync += [index.eq(Mux(last, 0, index + 1)), taking.eq(~last)]
        ended = Signal()
        m.d.comb += ended.eq(step & step_last)
        m.d.sync += settling.eq(Cat(ended, settling))
        with m.If(ended):
            m.d.sync += [half.eq(~half), handed.eq(self.restoring)]
        with m.If(self.host_token_write):
            m.d.sync += token.eq(self.host_data)
        m.d.comb += self.host_token.eq(token)

        def later(signal: Any, cycles: int) -> Any:
            for _ in range(cycles):
                copy = Signal.like(signal)
                m.d.sync += copy.eq(signal)
                signal = copy
            return signal

        m.d.comb += [
            encoder.row.eq(index),
            encoder.valid.eq(later(step, LOOKUP_CYCLES)),
            encoder.first.eq(later(first, LOOKUP_CYCLES)),
            encoder.last.eq(later(step_last, LOOKUP_CYCLES)),
            encoder.values.eq(later(value, LOOKUP_CYCLES)),
            encoder.mask.eq(1),
            encoder.direct.eq(later(direct, LOOKUP_CYCLES)),
            encoder.direct_group.eq(later(direct_group, LOOKUP_CYCLES)),
            encoder.direct_value.eq(later(direct_value, LOOKUP_CYCLES)),
            encoder.enable.eq(later(enable, LOOKUP_CYCLES)),
            encoder.mode.eq(self.mode),
            encoder.threshold.eq(Mux(self.restoring & self.restore_exact, 0, self.threshold)),
            *([encoder.exact.eq(self.restoring & self.restore_exact)] if encoder.elements else []),
            encoder.bank.eq(later(half, LOOKUP_CYCLES)),
            encoder.list_base.eq(0),
        ]

        # -- the two halves -----------------------------------------------------------------------

        # A vector is known a cycle after its first element; its first event is later still.
        begun, begun_half = Signal(), Data()
        m.d.sync += [begun.eq(step & first), begun_half.eq(half)]
        done_half = later(half, LOOKUP_CYCLES + ENCODE_CYCLES)
        for i in range(2):
            released = Signal(name=f"released{i}")
            m.d.comb += released.eq(self.finished & (self.finished_half == i))
            m.d.sync += pending[i].eq(pending[i] - released)
            with m.If(begun & (begun_half == i)):
                m.d.sync += [
                    pending[i].eq(self.users),
                    self.status[i].present.eq(1),
                    self.status[i].complete.eq(0),
                    self.status[i].rows.eq(0),
                ]
            with m.If(encoder.done & (done_half == i)):
                m.d.sync += [
                    self.status[i].rows.eq(encoder.count),
                    self.status[i].complete.eq(encoder.done_last),
                ]
            with m.If(released & (pending[i] == 1)):
                m.d.sync += self.status[i].present.eq(0)
        busy = Signal()
        m.d.comb += busy.eq(
            Cat(taking, arrived, leaving, second_event, begun, *(p.any() for p in pending)).any()
        )
        m.d.comb += [
            self.idle.eq(~busy),
            self.done_last.eq(encoder.done_last),
            self.done_total.eq(encoder.total),
        ]
        with m.If(self.reset):
            m.d.sync += [half.eq(0), token.eq(0), taking.eq(0), index.eq(0), handed.eq(0)]
            for i in range(2):
                m.d.sync += [self.status[i].present.eq(0), pending[i].eq(0)]
        return m
