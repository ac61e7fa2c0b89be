"""A cell's equation as a pipeline: one unit a cycle, generated from ``contract.cells``.

Every operation has a latency; values that wait for a slower partner pass through registers. There
is no back-pressure inside: whoever feeds the pipeline makes sure that its results have a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.sw.contract import tables
from stillnet.sw.contract.cells import Cell
from stillnet.sw.contract.expr import Node
from stillnet.sw.contract.fixed import PRE

from .data_register import Data
from .multiplier import MULTIPLIER_LATENCY, Multiplier

__all__ = ["CellPipeline", "Schedule", "TableLookup", "schedule"]

LATENCY = {
    "add": 1,
    "sub": 1,
    "mul": MULTIPLIER_LATENCY + 1,
    "relu": 1,
    "tanh": 7,
    "sigmoid": 7,
    "narrow": 2,
}
"""Cycles of each operation. Multipliers have registers before and after them."""


@dataclass(frozen=True)
class Schedule:
    """When each value of a cell is ready.

    Attributes
    ----------
    ready : dict of int to int
        Cycle by ``id`` of the node; inputs are ready in cycle 0.
    latency : int
        Cycle in which every result is ready.
    """

    ready: dict[int, int]
    latency: int


def schedule(cell: Cell) -> Schedule:
    """As soon as possible; there is nothing to share at one unit a cycle."""
    ready: dict[int, int] = {}
    for node in cell.graph.nodes():
        start = max((ready[id(a)] for a in node.args), default=0)
        ready[id(node)] = start + LATENCY.get(node.op, 0)
    return Schedule(ready, max(ready.values()))


class TableLookup(Elaboratable):
    """tanh or sigmoid from the contract's table, seven cycles.

    The interpolation multiplies ten by eight bits in logic, so that multipliers are left for the
    lanes and for the products of the equations.

    Parameters
    ----------
    sigmoid : bool
        Whether the result is 1/2 + tanh(x/2)/2 rather than tanh(x).

    Attributes
    ----------
    x : Signal(18), in
        Format ``PRE``.
    y : Signal(18), out
        Format ``SIGMOID`` or ``TANH``.
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

        # 4, 5: slope times fraction, two bits of the fraction a partial sum
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


class CellPipeline(wiring.Component):
    """One cell's equation for one unit a cycle.

    Parameters
    ----------
    cell : Cell

    Attributes
    ----------
    latency : int
        Cycles from operands to results.

    Members
    -------
    m_NAME : In(18)
        Rescaled accumulator, format ``PRE``.
    s_NAME : In
        Old state variable.
    n_NAME : Out
        New state variable.
    y : Out(16)
        Result.
    clipped : Out(1)
        The result was saturated.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._schedule = schedule(cell)
        members: dict[str, Any] = {f"m_{a}": In(signed(PRE.bits)) for a in cell.accumulators}
        for name, fmt in cell.state.items():
            members[f"s_{name}"] = In(signed(fmt.bits))
            members[f"n_{name}"] = Out(signed(fmt.bits))
        members["y"] = Out(signed(16))
        members["clipped"] = Out(1)
        super().__init__(members)

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self._cell

    @property
    def latency(self) -> int:
        """Cycles from operands to results."""
        return self._schedule.latency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ready, latency = self._schedule.ready, self._schedule.latency
        graph = self._cell.graph
        value: dict[tuple[int, int], Value] = {}
        clipped: dict[int, Value] = {}
        counter = iter(range(1 << 20))

        def at(node: Node, cycle: int) -> Value:
            """The node's value in a later cycle, through a shared chain of registers."""
            key = (id(node), cycle)
            if key not in value:
                before = at(node, cycle - 1)
                later = Data(before.shape(), name=f"{node.op}_later{next(counter)}")
                m.d.sync += later.eq(before)
                value[key] = later
            return value[key]

        for node in graph.nodes():
            when = ready[id(node)]
            key = (id(node), when)
            out = Data(signed(node.format.bits), name=f"{node.op}{next(counter)}")
            if node.op == "accumulator":
                value[key] = getattr(self, f"m_{node.name}")
                continue
            if node.op == "state":
                value[key] = getattr(self, f"s_{node.name}")
                continue
            start = when - LATENCY[node.op]
            args = [at(a, start) for a in node.args]
            if node.op in ("add", "sub"):
                fraction = node.format.fraction
                a, b = (v << (fraction - n.format.fraction) for n, v in zip(node.args, args))
                m.d.sync += out.eq(a + b if node.op == "add" else a - b)
            elif node.op == "mul":
                product = self._product(m, f"multiplier{next(counter)}", *args)
                m.d.sync += out.eq(product)
            elif node.op == "relu":
                m.d.sync += out.eq(Mux(args[0] < 0, 0, args[0]))
            elif node.op in ("tanh", "sigmoid"):
                lookup = TableLookup(node.op == "sigmoid")
                m.submodules[f"{node.op}{next(counter)}"] = lookup
                m.d.comb += [lookup.x.eq(args[0]), out.eq(lookup.y)]
            elif node.op == "narrow":
                clipped[id(node)] = self._narrow(m, node, args[0], out)
            value[key] = out

        m.d.comb += self.y.eq(at(graph.result, latency))
        if id(graph.result) in clipped:
            flag = clipped[id(graph.result)]
            for _ in range(latency - ready[id(graph.result)]):
                later = Data(name=f"clipped_later{next(counter)}")
                m.d.sync += later.eq(flag)
                flag = later
            m.d.comb += self.clipped.eq(flag)
        for name, node in graph.following.items():
            m.d.comb += getattr(self, f"n_{name}").eq(at(node, latency))
        return m

    @staticmethod
    def _product(m: Module, name: str, a: Value, b: Value) -> Value:
        """The product of two operands, ``MULTIPLIER_LATENCY`` cycles later."""
        multiplier = Multiplier(len(a), len(b))
        m.submodules[name] = multiplier
        m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]
        return multiplier.product

    @staticmethod
    def _narrow(m: Module, node: Node, operand: Value, out: Signal) -> Signal:
        """Rounds half up, then saturates; returns the flag that it did, in step with ``out``."""
        shift = node.args[0].format.fraction - node.format.fraction
        bits = len(operand) - shift + 1
        rounded = Data(signed(max(bits, node.format.bits + 1)))
        if shift > 0:
            m.d.sync += rounded.eq((operand + Const(1 << (shift - 1), shift + 1)) >> shift)
        else:
            m.d.sync += rounded.eq(operand << -shift)
        upper = rounded[node.format.bits - 1 :]
        fits = Signal()
        m.d.comb += fits.eq(upper.all() | ~upper.any())
        sign = rounded[-1]
        flag = Data()
        limit = Cat((~sign).replicate(node.format.bits - 1), sign).as_signed()
        m.d.sync += [
            out.eq(Mux(fits, rounded[: node.format.bits].as_signed(), limit)),
            flag.eq(~fits),
        ]
        return flag
