"""Any function of one variable: a table of the contract with its interpolation."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.memory import Memory

from stillnet.hw.parts.data_register import Data
from stillnet.sw.contract.cells.schedule import LATENCY
from stillnet.sw.contract.functions import Table

__all__ = ["FunctionLookup"]


class FunctionLookup(Elaboratable):
    """A table of ``contract.functions`` with linear interpolation, eight cycles.

    The interpolation multiplies in logic, as in :class:`.TableLookup`.

    Parameters
    ----------
    table : Table

    Attributes
    ----------
    x : Signal, signed, in
        Operand in format ``table.input``.
    y : Signal, signed, out
        Result in format ``table.output``, eight cycles later.
    """

    LATENCY = 8

    def __init__(self, table: Table) -> None:
        assert LATENCY["table"] == self.LATENCY
        self.table = table
        self.x = Data(signed(table.input.bits))
        self.y = Data(signed(table.output.bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        table = self.table
        index, place = self._address(m, self._held(m))
        value, rise, place = self._entry(m, index, place)

        # 7: add; 8: restore the sign
        total = Data(signed(table.output.bits + 1))
        m.d.sync += total.eq(self._after(m, value, 2, "value") + self._moved(m, rise, place))
        negative: Value = self._after(m, self.x < 0, 7, "negative")
        y = table.middle + total
        if table.mirror == "odd":
            y = Mux(negative, table.middle - total, y)
        m.d.sync += self.y.eq(y)
        return m

    @staticmethod
    def _after(m: Module, value: Value, cycles: int, name: str) -> Value:
        """The value some cycles later."""
        for k in range(cycles):
            later = Data(value.shape(), name=f"{name}{k}")
            m.d.sync += later.eq(value)
            value = later
        return value

    def _held(self, m: Module) -> Value:
        """1: the input, or its magnitude, clipped to the range of the table."""
        pieces, bits = self.table.pieces, self.table.input.bits
        z: Value = Signal(signed(bits + 1), name="operand")
        m.d.comb += z.eq(Mux(self.x < 0, -self.x, self.x) if self.table.mirror else self.x)
        low, high = pieces[0].first, pieces[-1].end - 1
        held = Data(signed(bits), name="held")
        m.d.sync += held.eq(Mux(z > high, high, z))
        if not self.table.mirror and low > self.table.input.minimum:
            with m.If(z < low):
                m.d.sync += held.eq(low)
        return held

    def _address(self, m: Module, held: Value) -> tuple[Signal, Signal]:
        """2: number of the entry, and the place within its segment."""
        table = self.table
        index = Data(range(max(2, len(table.values))), name="index")
        place = Data(table.shift, name="place") if table.shift else Signal(1, name="place")
        base = 0
        for k, p in enumerate(table.pieces):
            with m.If(held >= p.first if k else Const(1)):
                m.d.sync += index.eq((held >> p.shift) + (base - (p.first >> p.shift)))
                if table.shift:
                    m.d.sync += place.eq(Cat(Const(0, table.shift - p.shift), held[: p.shift]))
            base += p.segments
        return index, place

    def _entry(self, m: Module, index: Signal, place: Signal) -> tuple[Value, Value, Value]:
        """3, 4: the entry: the memory and its output register."""
        table = self.table
        bits = [
            1 + max(int(v).bit_length() for v in (a.min(), a.max(), -a.min()))
            for a in (table.values, table.rises)
        ]
        mask = [(1 << b) - 1 for b in bits]
        init = [
            (int(v) & mask[0]) | (int(r) & mask[1]) << bits[0]
            for v, r in zip(table.values, table.rises)
        ]
        depth = 1 << max(1, (len(init) - 1).bit_length())
        memory = Memory(shape=unsigned(sum(bits)), depth=depth, init=init)
        m.submodules.table = memory
        read = memory.read_port()
        entry = Data(sum(bits), name="entry")
        m.d.comb += read.addr.eq(index)
        m.d.sync += entry.eq(read.data)
        value, rise = entry[: bits[0]].as_signed(), entry[bits[0] :].as_signed()
        return value, rise, self._after(m, place, 2, "place_later")

    def _moved(self, m: Module, rise: Value, place: Value) -> Value:
        """5, 6: rise times place, rounded; each partial sum takes two bits of the place."""
        shift = self.table.shift
        if not shift:
            return Const(0, 1)
        sums: list[Value] = []
        for k in range(0, shift, 2):
            part = Data(signed(len(rise) + 2), name=f"partial{k}")
            upper = Mux(place[k + 1], rise, 0) if k + 1 < shift else Const(0, 1)
            m.d.sync += part.eq(Mux(place[k], rise, 0) + (upper << 1))
            sums.append(part << k)
        sums.append(Const(1 << (shift - 1), shift + 1))
        while len(sums) > 1:  # a tree, shallow
            sums = [a + b for a, b in zip(sums[::2], sums[1::2])] + sums[len(sums) & ~1 :]
        product = Data(signed(len(rise) + shift + 1), name="product")
        m.d.sync += product.eq(sums[0])
        return product >> shift
