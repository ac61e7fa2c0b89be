"""When each operation of a cell's equations happens, and what it takes.

The hardware generator builds what stands here, and ``stillnet info --cell`` shows it: one plan for
both. An equation is first *lowered*: products of operands that are wider than one multiplier become
several products and the sums that join them; everything else stays one operation. Operations then
start as soon as their operands are there and, where multipliers are shared, as soon as one is free.

A pipeline takes one unit every ``sharing`` cycles. What happens in cycle t of a unit happens in
phase t modulo ``sharing``, so that operations of different phases can use the same multiplier.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from stillnet.sw.contract.fixed import Format

from .cell import Cell
from .expr import MULTIPLIER_BITS, Graph, Node

__all__ = [
    "CARRY_BITS",
    "LATENCY",
    "LIMB_BITS",
    "LOOKUPS",
    "OPERANDS",
    "Operation",
    "Schedule",
    "limbs",
    "lower",
    "schedule",
]

OPERANDS = ("accumulator", "parameter", "state", "peer")
"""Nodes that come from outside; all are there in cycle 0."""

LIMB_BITS = MULTIPLIER_BITS - 1
"""Bits of the lower parts of a wide operand: unsigned, so that a signed multiplier takes them."""

CARRY_BITS = 40
"""Longest carry chain of one cycle. 40 bits take 2 ns of an ECP5's 10 ns; the rest is routing."""

LATENCY = {
    "mul": 3,
    "tanh": 7,
    "sigmoid": 7,
    "table": 8,
    "narrow": 2,
    # No logic, or so little that what follows takes it in.
    **dict.fromkeys((*OPERANDS, "constant", "limb", "scale", "wrap", "and", "or", "not"), 0),
}
"""Cycles of operations; one for those that are not named. Sums take more cycles where their carry
is longer than ``CARRY_BITS``. Multipliers have registers before and after them."""

LOOKUPS = ("tanh", "sigmoid", "table")
"""Operations with a table, which is one block of RAM."""

CARRIES = ("add", "sub", "join", "narrow", "greater")
"""Operations with a carry chain as wide as their operands."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a pipeline.

    Attributes
    ----------
    kind : str
        The node's ``op``; ``limb`` (part of an operand), ``mul`` (one multiplier) and ``join`` (two
        partial products) where a wide product is split.
    node : Node
        The value that it computes, or is a part of.
    args : tuple of Operation
    format : Format
        Of its result.
    shift : int
        ``limb``: its lowest bit; ``join``: weight of the second operand, as a power of two.
    unsigned : bool
        ``limb``: a lower part, which has no sign.
    """

    kind: str
    node: Node
    args: tuple[Operation, ...]
    format: Format
    shift: int = 0
    unsigned: bool = False

    @property
    def wires(self) -> bool:
        """It takes no cycle: constants, parts of a value, logic of conditions."""
        return self.latency == 0 and self.kind not in OPERANDS

    @property
    def carry(self) -> int:
        """Bits of its carry chain."""
        if self.kind not in CARRIES:
            return 0
        if self.kind in ("greater", "narrow"):
            fraction = max(a.format.fraction for a in self.args)
            return 1 + max(a.format.bits + fraction - a.format.fraction for a in self.args)
        if self.kind == "join":
            return self.format.bits - self.shift
        return self.format.bits

    @property
    def steps(self) -> int:
        """Cycles of its carry."""
        return max(1, -(-self.carry // CARRY_BITS))

    @property
    def latency(self) -> int:
        """Cycles from operands to result."""
        return LATENCY.get(self.kind, 1) + self.steps - 1


@dataclass(frozen=True)
class Schedule:
    """When each operation of a cell happens.

    Attributes
    ----------
    sharing : int
        Cycles a unit.
    operations : tuple of Operation
        Operands before users.
    start : dict of Operation to int
        Cycle in which it takes its operands.
    multiplier : dict of Operation to int
        Which multiplier a ``mul`` uses.
    result : Operation
    following : dict of str to Operation
        New value of each state variable.
    latency : int
        Cycle in which every result is ready.
    """

    sharing: int
    operations: tuple[Operation, ...]
    start: dict[Operation, int]
    multiplier: dict[Operation, int]
    result: Operation
    following: dict[str, Operation]
    latency: int

    def ready(self, operation: Operation) -> int:
        """Cycle in which its result is there."""
        return self.start[operation] + operation.latency

    @property
    def multipliers(self) -> int:
        """Multipliers that the pipeline has."""
        return len(set(self.multiplier.values()))

    @property
    def tables(self) -> int:
        """Tables of functions that it has."""
        return sum(o.kind in LOOKUPS for o in self.operations)


def limbs(bits: int) -> int:
    """Multiplier operands that a signed value of ``bits`` bits is split into."""
    return 1 + max(0, -(-(bits - MULTIPLIER_BITS) // LIMB_BITS))


@dataclass
class _Lowering:
    operations: list[Operation] = field(default_factory=list)
    value: dict[int, Operation] = field(default_factory=dict)
    parts: dict[Operation, list[Operation]] = field(default_factory=dict)

    def emit(
        self,
        kind: str,
        node: Node,
        args: tuple[Operation, ...],
        format: Format,
        shift: int = 0,
        unsigned: bool = False,
    ) -> Operation:
        operation = Operation(kind, node, args, format, shift, unsigned)
        self.operations.append(operation)
        return operation

    def split(self, node: Node, operand: Operation) -> list[Operation]:
        """An operand as parts that one multiplier takes, lowest first."""
        bits, count = operand.format.bits, limbs(operand.format.bits)
        if count == 1:
            return [operand]
        if operand in self.parts:
            return self.parts[operand]
        parts = self.parts[operand] = []
        for k in range(count):
            low = k * LIMB_BITS
            top = k == count - 1
            width = bits - low if top else MULTIPLIER_BITS  # a lower part with a zero as its sign
            fmt = Format(width, operand.format.fraction - low)
            parts.append(self.emit("limb", node, (operand,), fmt, low, not top))
        return parts

    def join(self, node: Node, parts: list[Operation]) -> Operation:
        """Sum of values each ``LIMB_BITS`` above the one before."""
        total = parts[0]
        for k, part in enumerate(parts[1:], 1):
            shift = k * LIMB_BITS
            bits = 1 + max(total.format.bits, part.format.bits + shift)
            fmt = Format(min(bits, node.format.bits), total.format.fraction)
            total = self.emit("join", node, (total, part), fmt, shift)
        return total

    def product(self, node: Node) -> Operation:
        a, b = (self.split(node, self.value[id(n)]) for n in node.args)

        def one(x: Operation, y: Operation) -> Operation:
            bits = min(x.format.bits + y.format.bits, node.format.bits)
            fmt = Format(bits, x.format.fraction + y.format.fraction)
            return self.emit("mul", node, (x, y), fmt)

        return self.join(node, [self.join(node, [one(x, y) for x in a]) for y in b])


def lower(graph: Graph) -> tuple[list[Operation], dict[int, Operation]]:
    """The operations of a graph, operands before users, and each node's value by its ``id``."""
    lowering = _Lowering()
    for node in graph.nodes():
        args = tuple(lowering.value[id(a)] for a in node.args)
        if node.op in ("mul", "wide_mul"):
            value = lowering.product(node)
        else:
            value = lowering.emit(node.op, node, args, node.format)
        lowering.value[id(node)] = value
    return lowering.operations, lowering.value


def schedule(cell: Cell, sharing: int = 1) -> Schedule:
    """Plans a cell's pipeline: as soon as possible, with as few multipliers as ``sharing`` allows.

    Parameters
    ----------
    cell : Cell
    sharing : int
        Cycles a unit. The pipeline has ceil(products / sharing) multipliers.
    """
    graph = cell.graph
    operations, value = lower(graph)
    products = [o for o in operations if o.kind == "mul"]
    available = -(-len(products) // sharing)
    start: dict[Operation, int] = {}
    multiplier: dict[Operation, int] = {}
    taken: Counter[int] = Counter()  # multipliers in use by phase
    left = list(operations)
    while left:
        # The operation that could start first; products wait for a phase with a free multiplier.
        def earliest(o: Operation) -> int:
            return max((start[a] + a.latency for a in o.args), default=0)

        open_ = [o for o in left if all(a in start for a in o.args)]
        chosen = min(open_, key=earliest)
        begin = earliest(chosen)
        if chosen.kind == "mul":
            while taken[begin % sharing] == available:
                begin += 1
            multiplier[chosen] = taken[begin % sharing]
            taken[begin % sharing] += 1
        start[chosen] = begin
        left.remove(chosen)
    ready = {o: start[o] + o.latency for o in operations}
    following = {name: value[id(node)] for name, node in graph.following.items()}
    return Schedule(
        sharing,
        tuple(operations),
        start,
        multiplier,
        value[id(graph.result)],
        following,
        max(ready.values()),
    )
