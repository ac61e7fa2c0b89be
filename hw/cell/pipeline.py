"""A cell's equation as a pipeline: one unit per cycle, generated from ``contract.cells``.

``contract.cells.schedule`` plans in which cycle each operation starts; this module builds it. A
value that waits for a slower operand passes through registers. The pipeline never stops: the block
that feeds it must have room for its results.

With ``sharing = n``, a unit enters every n cycles, in phase 0. A multiplier then forms up to n
products, each in a phase of its own, and a register holds a waiting value for n cycles.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.multiplier import MULTIPLIER_LATENCY, Multiplier
from stillnet.sw.contract.cells import Cell
from stillnet.sw.contract.cells.expr import Node
from stillnet.sw.contract.cells.schedule import LATENCY, LIMB_BITS, Operation, schedule
from stillnet.sw.contract.fixed import PRE

from .function_lookup import FunctionLookup
from .tanh_sigmoid import TableLookup

__all__ = ["CellPipeline", "TableLookup", "narrow", "schedule"]

assert LATENCY["mul"] == MULTIPLIER_LATENCY + 1


class CellPipeline(wiring.Component):
    """The equation of one cell, for one unit every ``sharing`` cycles.

    Parameters
    ----------
    cell : Cell
        Its equation, with the formats of all values.
    sharing : int
        Cycles per unit.

    Attributes
    ----------
    latency : int
        Cycles from operands to results.

    Members
    -------
    m_NAME : In, signed
        Rescaled accumulator in format ``PRE``, or parameter in the format of ``cell.parameters``.
    s_NAME : In, signed
        Old state variable of the cell or of a peer, in its format.
    n_NAME : Out, signed
        New state variable, in its format, ``latency`` cycles after the operands.
    y : Out(16), signed
        Result, ``latency`` cycles after the operands.
    clipped : Out(1)
        The result was saturated; valid with ``y``.
    phase : In
        Cycle modulo ``sharing``, 0 in the cycle of the operands. Only with ``sharing`` > 1.
    """

    def __init__(self, cell: Cell, sharing: int = 1) -> None:
        self._cell = cell
        self._sharing = sharing
        self._schedule = schedule(cell, sharing)
        members: dict[str, Any] = {f"m_{a}": In(signed(PRE.bits)) for a in cell.accumulators}
        for name, fmt in cell.parameters.items():
            members[f"m_{name}"] = In(signed(fmt.bits))
        for name, fmt in {**cell.state, **cell.peers}.items():
            members[f"s_{name}"] = In(signed(fmt.bits))
        for name, fmt in cell.state.items():
            members[f"n_{name}"] = Out(signed(fmt.bits))
        members["y"] = Out(signed(16))
        members["clipped"] = Out(1)
        if sharing > 1:
            members["phase"] = In(range(sharing))
        super().__init__(members)

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self._cell

    @property
    def sharing(self) -> int:
        """Cycles per unit."""
        return self._sharing

    @property
    def latency(self) -> int:
        """Cycles from operands to results."""
        return self._schedule.latency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        plan, sharing = self._schedule, self._sharing
        latency = plan.latency
        value: dict[tuple[Operation, int], Value] = {}
        clipped: dict[Operation, Value] = {}
        counter = iter(range(1 << 20))

        def wait(name: str, source: Value, ready: int, cycle: int) -> Signal:
            """A register for a value that is used in a later cycle.

            With ``sharing`` > 1 it takes one value per unit, in the phase of ``ready``.
            """
            later = Data(source.shape(), name=f"{name}_later{next(counter)}")
            if sharing == 1:
                m.d.sync += later.eq(source)
            else:
                with m.If(self.phase == ready % sharing):
                    m.d.sync += later.eq(source)
            return later

        def at(operation: Operation, cycle: int) -> Value:
            """The value in a cycle from ``ready`` on. All users share one chain of registers."""
            if operation.wires:
                return _wires(operation, [at(a, cycle) for a in operation.args])
            ready = plan.ready(operation)
            held = -(-(cycle - ready) // sharing)  # registers on the way
            key = (operation, held)
            if key not in value:
                before = at(operation, ready + (held - 1) * sharing)
                value[key] = wait(operation.kind, before, ready, cycle)
            return value[key]

        shared: dict[int, list[tuple[int, Value, Value]]] = {}
        products: dict[int, Signal] = {}
        for operation in plan.operations:
            start = plan.start[operation]
            key = (operation, 0)
            node, kind = operation.node, operation.kind
            if kind in ("accumulator", "parameter"):
                value[key] = getattr(self, f"m_{node.name}")
                continue
            if kind in ("state", "peer"):
                value[key] = getattr(self, f"s_{node.name}")
                continue
            if operation.wires:
                continue
            args = [at(a, start) for a in operation.args]
            shape = unsigned(1) if node.is_condition else signed(operation.format.bits)
            out = Data(shape, name=f"{kind}{next(counter)}")
            value[key] = out
            if kind == "mul":
                unit = plan.multiplier[operation]
                if sharing == 1:
                    product = self._product(m, f"multiplier{next(counter)}", *args)
                    m.d.sync += out.eq(product)
                    continue
                # The multiplier is built once all of its products are known.
                if unit not in products:
                    products[unit] = Data(
                        signed(self._product_bits(unit)), name=f"shared_product{unit}"
                    )
                shared.setdefault(unit, []).append((start % sharing, args[0], args[1]))
                value[key] = products[unit][: operation.format.bits].as_signed()
            elif kind in ("tanh", "sigmoid"):
                lookup = TableLookup(kind == "sigmoid")
                m.submodules[f"{kind}{next(counter)}"] = lookup
                m.d.comb += [lookup.x.eq(args[0]), out.eq(lookup.y)]
            elif kind == "table":
                assert node.table is not None
                function = FunctionLookup(node.table)
                m.submodules[f"function{next(counter)}"] = function
                m.d.comb += [function.x.eq(args[0]), out.eq(function.y)]
            elif kind == "narrow":
                clipped[operation] = narrow(m, node, args[0], out, operation.steps, counter)
            elif kind == "floor":
                shift = node.args[0].format.fraction - node.format.fraction
                clipped[operation] = _saturate(m, _shifted(args[0], -shift), out)
            else:
                self._simple(m, operation, args, out, counter)

        for unit, uses in shared.items():
            widths = [max(len(values[k]) for _, *values in uses) for k in (0, 1)]
            a, b = (Signal(signed(w), name=f"shared_{x}{unit}") for x, w in zip("ab", widths))
            with m.Switch(self.phase):
                for phase, x, y in uses:
                    with m.Case(phase):
                        m.d.comb += [a.eq(x), b.eq(y)]
            m.d.sync += products[unit].eq(self._product(m, f"multiplier{unit}", a, b))

        m.d.comb += self.y.eq(at(plan.result, latency))
        if plan.result in clipped:
            flag, ready = clipped[plan.result], plan.ready(plan.result)
            for _ in range(-(-(latency - ready) // sharing)):
                flag = wait("clipped", flag, ready, latency)
            m.d.comb += self.clipped.eq(flag)
        for name, operation in plan.following.items():
            m.d.comb += getattr(self, f"n_{name}").eq(at(operation, latency))
        return m

    def _product_bits(self, unit: int) -> int:
        uses = [o for o, u in self._schedule.multiplier.items() if u == unit]
        widest = [max(o.args[k].format.bits for o in uses) for k in (0, 1)]
        return sum(widest)

    @staticmethod
    def _product(m: Module, name: str, a: Value, b: Value) -> Value:
        """The product of two operands, ``MULTIPLIER_LATENCY`` cycles later."""
        multiplier = Multiplier(len(a), len(b))
        m.submodules[name] = multiplier
        m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]
        return multiplier.product

    @staticmethod
    def _simple(
        m: Module, operation: Operation, args: list[Value], out: Signal, counter: Any
    ) -> None:
        """Sums, comparisons, choices: one cycle, or several if the carry is long."""
        kind = operation.kind
        numbers = [(a.format.fraction, v) for a, v in zip(operation.args, args)]
        numbers = numbers[-2:]  # the first operand of a choice is its condition
        fraction = max(f for f, _ in numbers)
        x, y = (_shifted(v, fraction - f) for f, v in (numbers[0], numbers[-1]))
        if kind in ("add", "sub"):
            _sum(m, out, x, y, kind == "sub", operation.steps, counter)
        elif kind == "greater" and operation.steps > 1:
            below = Data(signed(operation.carry), name=f"below{next(counter)}")
            _sum(m, below, y, x, True, operation.steps, counter)
            m.d.comb += out.eq(below[-1])
        elif kind == "greater":
            m.d.sync += out.eq(x > y)
        elif kind == "equal":
            m.d.sync += out.eq(x == y)
        elif kind == "select":
            m.d.sync += out.eq(Mux(args[0], x, y))
        elif kind == "join":
            # The lowest bits are those of the first operand.
            low = Data(operation.shift, name=f"low{next(counter)}")
            upper = Data(signed(len(out) - operation.shift), name=f"upper{next(counter)}")
            rest = args[0][: operation.shift]
            for _ in range(operation.steps - 1):
                later = Data(operation.shift, name=f"low{next(counter)}")
                m.d.sync += later.eq(rest)
                rest = later
            m.d.sync += low.eq(rest)
            high = args[0][operation.shift :].as_signed()
            _sum(m, upper, high, args[1], False, operation.steps, counter)
            m.d.comb += out.eq(Cat(low, upper).as_signed())
        elif kind == "relu":
            m.d.sync += out.eq(Mux(args[0] < 0, 0, args[0]))
        else:
            raise NotImplementedError(f"operation '{kind}' has no hardware")


def _sum(
    m: Module, out: Signal, x: Value, y: Value, subtract: bool, steps: int, counter: Any
) -> None:
    """``out`` becomes x + y or x - y after ``steps`` cycles; each adds one part of the bits."""
    if steps == 1:
        m.d.sync += out.eq(x - y if subtract else x + y)
        return
    bits = len(out)
    a, b = (Signal(signed(bits), name=f"term{next(counter)}") for _ in range(2))
    m.d.comb += [a.eq(x), b.eq(~y if subtract else y)]
    size = -(-bits // steps)
    carry: Value = Const(int(subtract), 1)
    done: list[Value] = []
    for k in range(steps):
        part = slice(k * size, min(bits, (k + 1) * size))
        width = part.stop - part.start
        total = Data(width + 1, name=f"sum{next(counter)}")
        m.d.sync += total.eq(a[part] + b[part] + carry)
        if k < steps - 1:
            # Operands of later parts wait one cycle, and so do the parts that are done.
            a_later, b_later = (Data(bits, name=f"term{next(counter)}") for _ in range(2))
            m.d.sync += [a_later.eq(a), b_later.eq(b)]
            a, b = a_later, b_later
        kept = []
        for d in done:
            later = Data(len(d), name=f"part{next(counter)}")
            m.d.sync += later.eq(d)
            kept.append(later)
        done = [*kept, total[:width]]
        carry = total[width]
    m.d.comb += out.eq(Cat(*done))


def narrow(
    m: Module, node: Node, operand: Value, out: Signal, steps: int = 1, counter: Any = None
) -> Signal:
    """Rounds half up, then saturates to the width of ``out``.

    It takes ``steps`` cycles to round and one to saturate.

    Parameters
    ----------
    m : Module
    node : Node
        The operation; its formats give the shift.
    operand : Value, signed
    out : Signal, signed
    steps : int
    counter : iterator of int, optional
        Numbers for names of signals; needed with ``steps`` > 1.

    Returns
    -------
    Signal(1)
        The result was saturated; valid with ``out``.
    """
    shift = node.args[0].format.fraction - node.format.fraction
    bits = len(operand) - shift + 1
    rounded = Data(signed(max(bits, node.format.bits + 1)))
    if shift > 0 and steps > 1:
        _sum(m, rounded, operand >> shift, operand[shift - 1], False, steps, counter)
    elif shift > 0:
        m.d.sync += rounded.eq((operand + Const(1 << (shift - 1), shift + 1)) >> shift)
    else:
        for _ in range(steps - 1):
            later = Data(operand.shape(), name=f"narrow_later{next(counter)}")
            m.d.sync += later.eq(operand)
            operand = later
        m.d.sync += rounded.eq(operand << -shift)
    return _saturate(m, rounded, out)


def _saturate(m: Module, value: Value, out: Signal) -> Signal:
    """Clips to the width of ``out`` in one cycle. Returns the flag that it did."""
    bits = len(out)
    if len(value) <= bits:
        m.d.sync += out.eq(value)
        return Signal()
    upper = value[bits - 1 :]
    fits = Signal()
    m.d.comb += fits.eq(upper.all() | ~upper.any())
    sign = value[-1]
    flag = Data()
    limit = Cat((~sign).replicate(bits - 1), sign).as_signed()
    m.d.sync += [out.eq(Mux(fits, value[:bits].as_signed(), limit)), flag.eq(~fits)]
    return flag


def _shifted(value: Value, left: int) -> Value:
    """The value shifted left, or arithmetically right. A constant stays a constant."""
    if isinstance(value, Const):
        integer = value.value << left if left >= 0 else value.value >> -left
        return Const(integer, signed(max(1, len(value) + left)))
    return value << left if left >= 0 else value >> -left


def _wires(operation: Operation, args: list[Value]) -> Value:
    """Operations that take no cycle."""
    kind, node, bits = operation.kind, operation.node, operation.format.bits
    if kind == "constant":
        return Const(node.value, signed(bits))
    if kind == "limb" and operation.unsigned:
        part = args[0][operation.shift : operation.shift + LIMB_BITS]
        return Cat(part, Const(0, 1)).as_signed()
    if kind == "limb":
        return args[0][operation.shift :].as_signed()
    if kind == "scale":
        return args[0]
    if kind == "wrap":
        value = _shifted(args[0], operation.format.fraction - node.args[0].format.fraction)
        if len(value) < bits:  # the users may take single bits of the format
            value = Cat(value, value[-1].replicate(bits - len(value)))
        return value[:bits].as_signed()
    if kind == "not":
        return ~args[0]
    if kind in ("and", "or"):
        return args[0] & args[1] if kind == "and" else args[0] | args[1]
    raise NotImplementedError(f"operation '{kind}' has no hardware")
