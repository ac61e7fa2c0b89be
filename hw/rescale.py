"""Accumulator to pre-activation: ``contract.fixed.rescale`` in four cycles."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed

from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, PRE, RESCALE_GUARD_BITS

__all__ = ["RESCALE_LATENCY", "Rescale"]

RESCALE_LATENCY = 4


class Rescale(Elaboratable):
    """Shifts, rounds half up and saturates one accumulator.

    Attributes
    ----------
    accumulator : Signal(32), in
    shift : Signal(5), in
        As in ``contract.fixed.rescale``; belongs to the accumulator of the same cycle.
    result : Signal(18), out
        Four cycles later.
    """

    def __init__(self) -> None:
        self.accumulator = Signal(signed(ACCUMULATOR_BITS))
        self.shift = Signal(5)
        self.result = Signal(signed(PRE.bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # One extra fraction bit stays below the point until the end, where it rounds.
        wide = Signal(signed(ACCUMULATOR_BITS + RESCALE_GUARD_BITS + 1))
        coarse = Signal.like(wide)
        fine = Signal.like(wide)
        m.d.comb += wide.eq(self.accumulator << (RESCALE_GUARD_BITS + 1))
        with m.Switch(self.shift[3:]):
            for k in range(4):
                with m.Case(k):
                    m.d.sync += coarse.eq(wide >> (8 * k))
        fine_shift = Signal(3)
        m.d.sync += fine_shift.eq(self.shift[:3])
        with m.Switch(fine_shift):
            for k in range(8):
                with m.Case(k):
                    m.d.sync += fine.eq(coarse >> k)
        rounded = Signal(signed(len(wide)))
        m.d.sync += rounded.eq((fine + 1) >> 1)
        upper = rounded[PRE.bits - 1 :]
        sign = rounded[-1]
        limit = Cat((~sign).replicate(PRE.bits - 1), sign).as_signed()
        m.d.sync += self.result.eq(
            Mux(upper.all() | ~upper.any(), rounded[: PRE.bits].as_signed(), limit)
        )
        return m
