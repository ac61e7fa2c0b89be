"""The cells for small parts: one unit after the other through one multiplier and one table.

The same equations as :mod:`.cell_pipeline`, and the same integers. Where the pipeline has an
operator for each operation of the equation, here a unit is worked through in a fixed number of
cycles, planned when the hardware is generated.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.cell.pipeline import narrow
from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.expr import Node
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, PRE, RESCALE_GUARD_BITS

__all__ = ["CompactCells", "check_cell", "plan"]

OPERATIONS = (
    "accumulator",
    "state",
    "add",
    "sub",
    "mul",
    "relu",
    "tanh",
    "sigmoid",
    "narrow",
)
"""What an equation may use."""

SHIFTS = 31
"""Largest rescale shift."""
LOOKUP_CYCLES = 6
LATENCY = {
    "accumulator": SHIFTS + 4,
    "state": 0,
    "add": 1,
    "sub": 1,
    "mul": 2,
    "relu": 1,
    "tanh": LOOKUP_CYCLES,
    "sigmoid": LOOKUP_CYCLES,
    "narrow": 2,
}
UNITS = {"accumulator": "read", "mul": "mul", "tanh": "table", "sigmoid": "table"}
"""What there is one of. Each takes a new operand in every cycle, the reader after the last one."""


def check_cell(name: str) -> None:
    """Refuses a cell that needs what only :class:`.CellPipeline` has.

    Raises
    ------
    ValueError
        Naming the cell and what it needs.
    """
    cell = CELLS[name]
    wide = [s for s, f in cell.state.items() if f.bits != ACTIVATION_BITS]
    for what, found in {
        "parameters": list(cell.parameters),
        "state of other layers": list(cell.peers),
        "wide state variables": wide,
        "operations": sorted({n.op for n in cell.graph.nodes()} - set(OPERATIONS)),
    }.items():
        if found:
            raise ValueError(
                f"Compact engine cannot hold cell '{name}': it has no {what} ({', '.join(found)})"
            )


def plan(name: str) -> tuple[dict[int, int], int]:
    """When each value of a cell is ready, by ``id`` of its node, and when all are.

    An operation starts as soon as its operands are there and what it needs is free.
    """
    ready: dict[int, int] = {}
    taken: set[tuple[str, int]] = set()
    for node in CELLS[name].graph.nodes():
        start = max((ready[id(a)] for a in node.args), default=0)
        unit = UNITS.get(node.op)
        while unit is not None and (unit, start) in taken:
            start += 1
        if unit is not None:
            busy = LATENCY[node.op] if unit == "read" else 1
            taken.update((unit, start + k) for k in range(busy))
        ready[id(node)] = start + LATENCY[node.op]
    return ready, max(ready.values())


class SlowRescale(Elaboratable):
    """``contract.fixed.rescale``, one bit per cycle.

    Attributes
    ----------
    start : Signal(1), in
        The accumulator is there in the next cycle.
    accumulator : Signal(32), in
    shift : Signal(5), in
        Steady until the result is there.
    result : Signal(18), out
        ``LATENCY["accumulator"]`` cycles after ``start``, until the next one.
    """

    def __init__(self) -> None:
        self.start = Signal()
        self.accumulator = Signal(signed(ACCUMULATOR_BITS))
        self.shift = Signal(5)
        self.result = Signal(signed(PRE.bits))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # One fraction bit more than the result has, which rounds.
        wide = Signal(signed(ACCUMULATOR_BITS + RESCALE_GUARD_BITS + 1), reset_less=True)
        left = Signal(5, reset_less=True)
        load = Signal()
        m.d.sync += load.eq(self.start)
        with m.If(load):
            m.d.sync += [
                wide.eq(self.accumulator << (RESCALE_GUARD_BITS + 1)),
                left.eq(self.shift),
            ]
        with m.Elif(left != 0):
            m.d.sync += [wide.eq(wide >> 1), left.eq(left - 1)]
        rounded = Signal(signed(PRE.bits + 1))
        upper = wide[PRE.bits :]
        over = Signal()
        m.d.sync += [
            rounded.eq(wide[1 : PRE.bits + 1].as_signed() + wide[0]),
            over.eq(upper.any() & ~upper.all()),
        ]
        sign = wide[-1]
        limit = Cat((~sign).replicate(PRE.bits - 1), sign)
        clipped = over | (rounded[-1] != rounded[-2])
        m.d.sync += self.result.eq(Mux(clipped, limit, rounded[: PRE.bits]).as_signed())
        return m


class SharedTable(Elaboratable):
    """tanh or sigmoid from the contract's table, six cycles; :class:`.TableLookup` for both.

    Attributes
    ----------
    x : Signal(18), in
    sigmoid : Signal(1), in
    y : Signal(18), out
    """

    def __init__(self) -> None:
        self.x = Signal(signed(PRE.bits))
        self.sigmoid = Signal()
        self.y = Signal(signed(tables.SIGMOID.bits), reset_less=True)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        index_bits, fraction_bits = tables.SEGMENT_BITS, tables.FRACTION_BITS
        limit = (1 << (index_bits + fraction_bits)) - 1
        negative = [Signal(name=f"negative{i}") for i in range(5)]
        sigmoid = [Signal(name=f"sigmoid{i}") for i in range(5)]
        m.d.sync += [
            Cat(negative).eq(Cat(self.x < 0, negative)),
            Cat(sigmoid).eq(Cat(self.sigmoid, sigmoid)),
        ]

        # 1: magnitude
        magnitude, scaled = Signal(PRE.bits, reset_less=True), Signal(PRE.bits + 1)
        m.d.sync += magnitude.eq(Mux(self.x < 0, -self.x, self.x))

        # 2: clipped to the table
        clipped = Signal(index_bits + fraction_bits, reset_less=True)
        m.d.comb += scaled.eq(Mux(sigmoid[0], magnitude, magnitude << 1))
        m.d.sync += clipped.eq(Mux(scaled > limit, limit, scaled))

        # 3: table
        init = [
            v | (d << tables.VALUE_BITS) for v, d in zip(tables.TANH_VALUES, tables.TANH_SLOPES)
        ]
        shape = unsigned(tables.VALUE_BITS + tables.SLOPE_BITS)
        m.submodules.table = memory = Memory(shape=shape, depth=1 << index_bits, init=init)
        read = memory.read_port()
        fraction = Signal(fraction_bits, reset_less=True)
        m.d.comb += read.addr.eq(clipped[fraction_bits:])
        m.d.sync += fraction.eq(clipped[:fraction_bits])

        # 4, 5, 6: slope times fraction, add, restore the sign
        product = Signal(tables.SLOPE_BITS + fraction_bits, reset_less=True)
        value = Signal(tables.VALUE_BITS, reset_less=True)
        total = Signal(tables.VALUE_BITS + 1, reset_less=True)
        m.d.sync += [
            product.eq(read.data[tables.VALUE_BITS :] * fraction),
            value.eq(read.data[: tables.VALUE_BITS]),
            total.eq(value + ((product + (1 << (fraction_bits - 1))) >> fraction_bits)),
        ]
        centre = Signal(PRE.bits)
        m.d.comb += centre.eq(Mux(sigmoid[4], 1 << 15, 0))
        m.d.sync += self.y.eq(Mux(negative[4], centre - total, centre + total))
        return m


class CompactCells(wiring.Component):
    """All cells of a configuration, a unit at a time.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    start : In(1)
        Begins with a unit; not while one is worked on.
    kind, shift : In
        Cell, by its place in the configuration, and rescale shift; steady from start to done.
    gate : Out
        Accumulator that is wanted in the next cycle.
    accumulator : In(32)
    state : Array of In(16)
        Old state variables, in the order of ``config.state_names``; steady as ``kind``.
    done : Out(1)
        This cycle, the results are there.
    result, clipped, following : Out
        Result, whether it was clipped, new state variables.
    keeps : Out
        Which state variables the cell has.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        names = config.state_names
        super().__init__(
            {
                "start": In(1),
                "kind": In(4),
                "shift": In(5),
                "gate": Out(range(max(2, config.max_accumulators))),
                "accumulator": In(signed(ACCUMULATOR_BITS)),
                "state": In(signed(ACTIVATION_BITS)).array(len(names)),
                "done": Out(1),
                "result": Out(signed(ACTIVATION_BITS)),
                "clipped": Out(1),
                "following": Out(signed(ACTIVATION_BITS)).array(len(names)),
                "keeps": Out(len(names)),
            }
        )

    @property
    def config(self) -> EngineConfig:
        """The engine's configuration."""
        return self._config

    def _multiplier(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """The single multiplier: its operands, and the product two cycles later."""
        factors = [
            [a.format.bits for a in n.args]
            for c in self.config.cells
            for n in CELLS[c].graph.nodes()
            if n.op == "mul"
        ]
        a = Signal(signed(max((f[0] for f in factors), default=2)))
        b = Signal(signed(max((f[1] for f in factors), default=2)))
        a1, b1 = Signal.like(a, reset_less=True), Signal.like(b, reset_less=True)
        product = Signal(signed(len(a) + len(b)), reset_less=True)
        m.d.sync += [a1.eq(a), b1.eq(b), product.eq(a1 * b1)]
        return a, b, product

    def _clock(self, m: Module, longest: int) -> tuple[Signal, Signal]:
        """Whether a unit is in work, and in which of its cycles; ``start`` is the first one."""
        tick = Signal(range(longest + 2), reset_less=True)
        busy = Signal()
        now = Signal(range(longest + 2))
        m.d.comb += now.eq(Mux(self.start, 0, tick))
        with m.If(self.start):
            m.d.sync += [busy.eq(1), tick.eq(1)]
        with m.Elif(busy):
            m.d.sync += tick.eq(tick + 1)
        return busy, now

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        names = self.config.state_names
        plans = [plan(name) for name in self.config.cells]

        m.submodules.rescale = rescale = SlowRescale()
        m.d.comb += [rescale.accumulator.eq(self.accumulator), rescale.shift.eq(self.shift)]
        tables_used = any(
            n.op in ("tanh", "sigmoid") for c in self.config.cells for n in CELLS[c].graph.nodes()
        )
        table = SharedTable() if tables_used else None
        if table is not None:
            m.submodules.table = table
        a, b, product = self._multiplier(m)
        busy, now = self._clock(m, max(latency for _, latency in plans))
        for i, name in enumerate(self.config.cells):
            ready, latency = plans[i]
            cell = CELLS[name]
            graph = cell.graph
            selected = self.kind == i
            direct: dict[int, Value] = {}
            kept: dict[int, Signal] = {}
            flags: dict[int, Value] = {}

            def at(
                node: Node,
                cycle: int,
                ready: dict[int, int] = ready,
                direct: dict[int, Value] = direct,
                kept: dict[int, Signal] = kept,
                selected: Value = selected,
            ) -> Value:
                """The node's value in a cycle: where it appears, or from a register later on."""
                if node.op == "state" or cycle == ready[id(node)]:
                    return direct[id(node)]
                if id(node) not in kept:
                    register = Signal(
                        signed(node.format.bits), name=f"{node.op}_{len(kept)}", reset_less=True
                    )
                    kept[id(node)] = register
                    with m.If(selected & (now == ready[id(node)])):
                        m.d.sync += register.eq(direct[id(node)])
                return kept[id(node)]

            with m.If(selected):
                m.d.comb += self.keeps.eq(sum(1 << names.index(s) for s in cell.state))
            for node in graph.nodes():
                start = ready[id(node)] - LATENCY[node.op]
                args = [at(n, start) for n in node.args]
                bits = node.format.bits
                active = selected & (now == start)
                if node.op == "accumulator":
                    with m.If(active):
                        m.d.comb += [
                            self.gate.eq(cell.accumulators.index(node.name)),
                            rescale.start.eq(1),
                        ]
                    direct[id(node)] = rescale.result
                elif node.op == "state":
                    direct[id(node)] = self.state[names.index(node.name)]
                elif node.op in ("add", "sub"):
                    fraction = node.format.fraction
                    x, y = (v << (fraction - n.format.fraction) for n, v in zip(node.args, args))
                    out = Signal(signed(bits), name=f"{node.op}_{name}{start}", reset_less=True)
                    m.d.sync += out.eq(x + y if node.op == "add" else x - y)
                    direct[id(node)] = out
                elif node.op == "relu":
                    out = Signal(signed(bits), name=f"relu_{name}{start}", reset_less=True)
                    m.d.sync += out.eq(Mux(args[0] < 0, 0, args[0]))
                    direct[id(node)] = out
                elif node.op == "mul":
                    with m.If(active):
                        m.d.comb += [a.eq(args[0]), b.eq(args[1])]
                    direct[id(node)] = product[:bits].as_signed()
                elif node.op in ("tanh", "sigmoid"):
                    assert table is not None
                    with m.If(active):
                        m.d.comb += [table.x.eq(args[0]), table.sigmoid.eq(node.op == "sigmoid")]
                    direct[id(node)] = table.y[:bits].as_signed()
                elif node.op == "narrow":
                    out = Signal(signed(bits), name=f"narrow_{name}{start}")
                    flags[id(node)] = narrow(m, node, args[0], out)
                    direct[id(node)] = out
            with m.If(selected):
                m.d.comb += [
                    self.done.eq(busy & ~self.start & (now == latency)),
                    self.result.eq(at(graph.result, latency)),
                ]
                if id(graph.result) in flags:
                    assert ready[id(graph.result)] == latency
                    m.d.comb += self.clipped.eq(flags[id(graph.result)])
                for s, node in graph.following.items():
                    m.d.comb += self.following[names.index(s)].eq(at(node, latency))
        with m.If(self.done):
            m.d.sync += busy.eq(0)
        return m
