"""A signed multiplier with registers before and after it, two cycles.

On an ECP5 both registers are those inside of the multiplier block: without them the block alone
takes nearly half of a cycle of 100 MHz. Elsewhere the same circuit is written out, and synthesis
chooses.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from stillnet.sw.contract.cells.expr import MULTIPLIER_BITS

from .data_register import Data

__all__ = ["MULTIPLIER_LATENCY", "Multiplier"]

MULTIPLIER_LATENCY = 2
"""Cycles from the operands to the product."""


class Multiplier(wiring.Component):
    """The product of two signed operands of at most 18 bits.

    Parameters
    ----------
    a_bits, b_bits : int
        Widths of the operands.

    Members
    -------
    a, b : In(signed)
    product : Out(signed, a_bits + b_bits)
        That of the operands two cycles before.
    """

    def __init__(self, a_bits: int, b_bits: int) -> None:
        for name, bits in (("a_bits", a_bits), ("b_bits", b_bits)):
            if not 1 <= bits <= MULTIPLIER_BITS:
                raise ValueError(f"multiplier: {name} must be 1 to {MULTIPLIER_BITS}, not {bits}")
        self._bits = a_bits, b_bits
        super().__init__(
            {
                "a": In(signed(a_bits)),
                "b": In(signed(b_bits)),
                "product": Out(signed(a_bits + b_bits)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the operands to the product."""
        return MULTIPLIER_LATENCY

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if getattr(platform, "family", None) == "ecp5":
            m.submodules.block = self._ecp5(m)
            return m
        a, b = (Data(signed(bits), name=f"factor{i}") for i, bits in enumerate(self._bits))
        product = Data(signed(sum(self._bits)))
        m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b)]
        m.d.comb += self.product.eq(product)
        return m

    def _ecp5(self, m: Module) -> Instance:
        """MULT18X18D of Lattice's ECP5 (FPGA-TN-02205), input and output registers in use."""
        a, b = (Signal(signed(MULTIPLIER_BITS), name=f"wide{i}") for i in range(2))
        product = Signal(signed(2 * MULTIPLIER_BITS))
        m.d.comb += [a.eq(self.a), b.eq(self.b), self.product.eq(product)]
        pins: dict[str, Any] = {}
        for i in range(MULTIPLIER_BITS):
            pins |= {f"i_A{i}": a[i], f"i_B{i}": b[i], f"i_C{i}": Const(0)}
        for i in range(2 * MULTIPLIER_BITS):
            pins[f"o_P{i}"] = product[i]
        for i in range(4):
            pins |= {f"i_CLK{i}": Const(0), f"i_CE{i}": Const(0), f"i_RST{i}": Const(0)}
        pins |= {"i_CLK0": ClockSignal(), "i_CE0": Const(1)}
        for side in "AB":
            pins |= {f"i_SIGNED{side}": Const(1), f"i_SOURCE{side}": Const(0)}
        return Instance(
            "MULT18X18D",
            p_REG_INPUTA_CLK="CLK0",
            p_REG_INPUTB_CLK="CLK0",
            p_REG_OUTPUT_CLK="CLK0",
            p_GSR="DISABLED",
            **pins,
        )
