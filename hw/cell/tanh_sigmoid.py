"""tanh and sigmoid: the contract's table with its interpolation."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, signed, unsigned
from amaranth.lib.memory import Memory

from stillnet.hw.parts.data_register import Data
from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.fixed import PRE

__all__ = ["TableLookup"]


class TableLookup(Elaboratable):
    """tanh or sigmoid: a table with linear interpolation, seven cycles.

    The table and its rounding are those of ``contract.tanh_sigmoid``, to the last bit. The
    interpolation multiplies ten by eight bits in logic, which leaves the multipliers to the lanes
    and to the products of the equations.

    Parameters
    ----------
    sigmoid : bool
        True: the result is 1/2 + tanh(x/2)/2. False: it is tanh(x).

    Attributes
    ----------
    x : Signal(18), signed, in
        Operand in format ``PRE``.
    y : Signal(18) or Signal(17), signed, out
        Result in format ``SIGMOID`` or ``TANH``, seven cycles later.
    """

    def __init__(self, sigmoid: bool) -> None:
        self.sigmoid = sigmoid
        self.x = Data(signed(PRE.bits))
        self.y = Data(signed((tables.SIGMOID if sigmoid else tables.TANH).bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        index_bits, fraction_bits = tables.SEGMENT_BITS, tables.FRACTION_BITS
        limit = (1 << (index_bits + fraction_bits)) - 1

        # 1: magnitude, clipped to the table
        z = self.x if self.sigmoid else self.x << 1
        magnitude = Data(PRE.bits + 1)
        m.d.comb += magnitude.eq(Mux(self.x < 0, -z, z))
        clipped = Data(index_bits + fraction_bits)
        m.d.sync += clipped.eq(Mux(magnitude > limit, limit, magnitude))
        negative = [Data(name=f"negative{i}") for i in range(6)]
        m.d.sync += negative[0].eq(self.x < 0)
        for a, b in zip(negative, negative[1:]):
            m.d.sync += b.eq(a)

        # 2, 3: table, with its output register
        shape = unsigned(tables.VALUE_BITS + tables.SLOPE_BITS)
        init = [
            v | (d << tables.VALUE_BITS) for v, d in zip(tables.TANH_VALUES, tables.TANH_SLOPES)
        ]
        m.submodules.table = memory = Memory(shape=shape, depth=1 << index_bits, init=init)
        read = memory.read_port()
        m.d.comb += read.addr.eq(clipped[fraction_bits:])
        entry = Data(shape)
        fraction1, fraction2 = Data(fraction_bits), Data(fraction_bits)
        m.d.sync += [
            entry.eq(read.data),
            fraction1.eq(clipped[:fraction_bits]),
            fraction2.eq(fraction1),
        ]

        # 4, 5: slope times fraction; each partial sum takes two bits of the fraction
        slope = entry[tables.VALUE_BITS :]
        partial = []
        for k in range(0, fraction_bits, 2):
            part = Data(tables.SLOPE_BITS + 2, name=f"partial{k}")
            m.d.sync += part.eq(
                Mux(fraction2[k], slope, 0) + (Mux(fraction2[k + 1], slope, 0) << 1)
            )
            partial.append(part << k)
        value4, value5 = Data(tables.VALUE_BITS), Data(tables.VALUE_BITS)
        product = Data(tables.SLOPE_BITS + fraction_bits)
        half = 1 << (fraction_bits - 1)
        m.d.sync += [
            value4.eq(entry[: tables.VALUE_BITS]),
            value5.eq(value4),
            product.eq((partial[0] + partial[1]) + (partial[2] + (partial[3] + half))),
        ]

        # 6, 7: add, restore the sign
        total = Data(tables.VALUE_BITS + 1)
        m.d.sync += total.eq(value5 + product[fraction_bits:])
        centre = 1 << 15 if self.sigmoid else 0
        m.d.sync += self.y.eq(Mux(negative[5], centre - total, centre + total))
        return m
