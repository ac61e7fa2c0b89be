"""A register stage that cuts the long paths of a stream, in both directions."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
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
        spare_valid, spare_valid_next, moves = Signal(), Signal(), Signal(init=1)
        m.d.comb += [
            i_stream.ready.eq(~spare_valid),
            spare_valid_next.eq(~moves & (spare_valid | i_stream.valid)),
            self.ready_next.eq(~spare_valid_next),
        ]
        m.d.sync += spare_valid.eq(spare_valid_next)
        with m.If(moves):
            m.d.sync += o_stream.valid.eq(spare_valid | i_stream.valid)
        into, kept, out = (Value.cast(v) for v in (i_stream.payload, spare, payload))
        if self._early:
            # Half of the bits take the inverse of what decides, or synthesis would merge the two.
            valid_next = Mux(moves, spare_valid | i_stream.valid, o_stream.valid)
            moves_next, keeps, spare_free = Signal(), Signal(), Signal(init=1)
            m.d.comb += moves_next.eq(~valid_next | self.o_ready_next)
            m.d.sync += [
                moves.eq(moves_next),
                keeps.eq(~moves_next),
                spare_free.eq(~spare_valid_next),
            ]
            half = len(into) // 2
            self._move(m, into[half:], kept[half:], out[half:], ~keeps, ~spare_free)
            into, kept, out = into[:half], kept[:half], out[:half]
        else:
            m.d.comb += moves.eq(~o_stream.valid | o_stream.ready)
        self._move(m, into, kept, out, moves, spare_valid)
        self.probes = SimpleNamespace(spare=spare, spare_valid=spare_valid)
        return m

    @staticmethod
    def _move(
        m: Module, taken: Value, spare: Value, payload: Value, moves: Value, spare_valid: Value
    ) -> None:
        """What some bits of the payload do."""
        with m.If(moves):
            m.d.sync += payload.eq(Mux(spare_valid, spare, taken))
        with m.If(~spare_valid):
            m.d.sync += spare.eq(taken)
