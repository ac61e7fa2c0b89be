"""A register stage that cuts the long paths of a stream, in both directions."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterSlice"]


class RegisterSlice(wiring.Component):
    """A stage of a stream with every output in a register, at one transfer per cycle.

    It cuts the paths of ``payload`` and ``valid`` and that of ``ready``, which takes two places.

    Parameters
    ----------
    shape : :class:`ShapeLike`
        Shape of the payload.
    early : bool
        Whether the taker says a cycle before what ``ready`` will be. Then registers decide what a
        wide payload does, instead of a net that comes late and has far to go.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    i_stream : :py:`In(stream.Signature(shape))`
        Stream taken.
    o_stream : :py:`Out(stream.Signature(shape))`
        The same, a cycle later.
    ready_next : :py:`Out(1)`
        What ``i_stream.ready`` will be in the next cycle, for those who need it in a register.
    o_ready_next : :py:`In(1)`
        What ``o_stream.ready`` will be in the next cycle; with ``early``.
    """

    def __init__(self, shape: Any, *, early: bool = False):
        self._shape, self._early = shape, early
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "i_stream": In(stream.Signature(shape)),
                "o_stream": Out(stream.Signature(shape)),
                "ready_next": Out(1),
                **({"o_ready_next": In(1)} if early else {}),
            }
        )

    @property
    def shape(self) -> Any:
        return self._shape

    def elaborate(self, platform) -> Module:
        m = Module()
        i_stream, o_stream = self.i_stream, self.o_stream

        # `spare` takes the payload that arrives when `ready` could not yet fall.
        spare = Signal.like(i_stream.payload, reset_less=True)
        payload = Signal.like(i_stream.payload, reset_less=True)
        m.d.comb += o_stream.payload.eq(payload)
        spare_valid = Signal()
        m.d.comb += i_stream.ready.eq(~spare_valid)

        moves = Signal(init=1)
        if self._early:
            valid_next = Mux(moves, spare_valid | i_stream.valid, o_stream.valid)
            m.d.sync += moves.eq(~valid_next | self.o_ready_next)
        else:
            m.d.comb += moves.eq(~o_stream.valid | o_stream.ready)
        m.d.comb += self.ready_next.eq(moves | ~(spare_valid | i_stream.valid))
        with m.If(moves):
            m.d.sync += [
                payload.eq(Mux(spare_valid, spare, i_stream.payload)),
                o_stream.valid.eq(spare_valid | i_stream.valid),
                spare_valid.eq(0),
            ]
        with m.Elif(~spare_valid):
            m.d.sync += spare_valid.eq(i_stream.valid)
        with m.If(~spare_valid):
            m.d.sync += spare.eq(i_stream.payload)

        self.probes = SimpleNamespace(spare=spare, spare_valid=spare_valid)
        return m
