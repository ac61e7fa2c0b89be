"""Accumulator to pre-activation: ``contract.fixed.rescale`` in four cycles."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.multiplier import MULTIPLIER_LATENCY, Multiplier
from stillnet.sw.contract.fixed import (
    ACCUMULATOR_BITS,
    PRE,
    RESCALE_GUARD_BITS,
    SCALE_BITS,
    SCALE_FRACTION,
)
from stillnet.sw.contract.stages import ROW_SCALE_LATENCY

__all__ = ["Rescale", "RowScale"]

assert ROW_SCALE_LATENCY == MULTIPLIER_LATENCY + 2, "a multiplier between two registers"


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
        self.accumulator = Data(signed(ACCUMULATOR_BITS))
        self.shift = Data(5)
        self.result = Data(signed(PRE.bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # `wide` has one more fraction bit than the result, which rounds. Of its bits only those
        # that can reach the result are kept; of those above, only whether they repeat the sign.
        wide_bits = ACCUMULATOR_BITS + RESCALE_GUARD_BITS + 1
        kept = PRE.bits + 1  # after both shifts
        coarse_bits = kept + 7
        sign = self.accumulator[-1]
        wide = Data(signed(wide_bits + 24))
        m.d.comb += wide.eq(self.accumulator << (RESCALE_GUARD_BITS + 1))

        def differ(bits: Any, from_sign: Any) -> Any:
            return Mux(from_sign, ~bits.all(), bits.any())

        coarse = Data(coarse_bits)
        coarse_sign, coarse_over = Data(), Data()
        with m.Switch(self.shift[3:]):
            for k in range(4):
                with m.Case(k):
                    above = wide[min(8 * k + coarse_bits, wide_bits) : wide_bits]
                    m.d.sync += [
                        coarse.eq(wide[8 * k :][:coarse_bits]),
                        coarse_over.eq(differ(above, sign) if len(above) else 0),
                    ]
        fine_shift = Data(3)
        m.d.sync += [coarse_sign.eq(sign), fine_shift.eq(self.shift[:3])]

        fine = Data(kept)
        fine_sign, fine_over = Data(), Data()
        with m.Switch(fine_shift):
            for k in range(8):
                with m.Case(k):
                    m.d.sync += [
                        fine.eq(coarse[k:][:kept]),
                        fine_over.eq(coarse_over | differ(coarse[k + kept - 1 :], coarse_sign)),
                    ]
        m.d.sync += fine_sign.eq(coarse_sign)

        rounded = Data(PRE.bits)
        rounded_sign, rounded_over = Data(), Data()
        m.d.sync += [
            rounded.eq(fine[1:] + fine[0]),
            rounded_sign.eq(fine_sign),
            rounded_over.eq(fine_over),
        ]
        # The largest value may have been rounded up, out of the range.
        over = Signal()
        m.d.comb += over.eq(rounded_over | (~rounded_sign & rounded[-1]))
        limit = Cat((~rounded_sign).replicate(PRE.bits - 1), rounded_sign)
        m.d.sync += self.result.eq(Mux(over, limit, rounded).as_signed())
        return m


class RowScale(Elaboratable):
    """``contract.fixed.scale_row``: the multiplier of a row, rounded half up and saturated.

    Attributes
    ----------
    pre : Signal(18), in
    multiplier : Signal(15), in
    result : Signal(18), out
        Four cycles later.
    """

    def __init__(self) -> None:
        self.pre = Data(signed(PRE.bits))
        self.multiplier = Data(SCALE_BITS)
        self.result = Data(signed(PRE.bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.product = product = Multiplier(PRE.bits, SCALE_BITS + 1)
        m.d.comb += [product.a.eq(self.pre), product.b.eq(self.multiplier)]
        # Half a unit is the bit below the cut.
        rounded = Data(signed(PRE.bits + SCALE_BITS - SCALE_FRACTION + 1))
        m.d.sync += rounded.eq(
            (product.product >> SCALE_FRACTION) + product.product[SCALE_FRACTION - 1]
        )
        above = rounded[PRE.bits - 1 :]
        over = above.any() & ~above.all()
        sign = rounded[-1]
        limit = Cat((~sign).replicate(PRE.bits - 1), sign)
        m.d.sync += self.result.eq(Mux(over, limit, rounded[: PRE.bits]).as_signed())
        return m
