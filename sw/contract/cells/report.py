"""What a cell's pipeline takes: cycles, multipliers, memories, registers and logic.

Cycles, multipliers and memories are what is built. Registers and logic are counted from the plan
before synthesis moves or merges anything; ``tests/sw/contract/test_cell_report.py``
says how near they come.
"""

from __future__ import annotations

from typing import Any

from .cell import Cell
from .schedule import LOOKUPS, OPERANDS, Operation, Schedule, schedule

__all__ = ["cell_report", "last_uses"]

TABLE_COMB = 310
"""LUT4 and carry cells of one table with its interpolation, measured of tanh."""
TABLE_REGISTERS = 190
"""Its registers."""


def last_uses(plan: Schedule) -> dict[Operation, int]:
    """The last cycle in which each value is used; what takes no cycle passes its use on."""
    used = {o: plan.ready(o) for o in plan.operations}

    def use(operation: Operation, cycle: int) -> None:
        used[operation] = max(used[operation], cycle)
        if operation.wires:
            for a in operation.args:
                use(a, cycle)

    for operation in plan.operations:
        if not operation.wires:
            for a in operation.args:
                use(a, plan.start[operation])
    for root in (plan.result, *plan.following.values()):
        use(root, plan.latency)
    return used


def _comb(plan: Schedule, operation: Operation) -> float:
    kind, bits = operation.kind, operation.format.bits
    wide = max((a.format.bits for a in operation.args), default=0)
    if kind in LOOKUPS:
        return TABLE_COMB
    if kind == "narrow":
        drop = operation.args[0].format.fraction - operation.format.fraction
        rounded = max(wide - drop + 1, bits + 1)
        return wide + bits + (rounded - bits) / 2
    if kind == "floor":
        drop = operation.args[0].format.fraction - operation.format.fraction
        return bits + max(0, wide - drop - bits) / 2
    if kind == "mul":
        rivals = sum(u == plan.multiplier[operation] for u in plan.multiplier.values())
        return sum(a.format.bits for a in operation.args) / 2 if rivals > 1 else 0
    if kind == "equal":
        return operation.args[0].format.bits * 2 / 3
    return operation.carry or (bits if kind in ("select", "relu") else 0)


def _registers(operation: Operation, waits: int) -> int:
    bits = operation.format.bits
    inside = 0
    if operation.kind in LOOKUPS:
        inside = TABLE_REGISTERS
    elif operation.kind == "narrow":
        inside = operation.args[0].format.bits * operation.steps
    elif operation.steps > 1:
        inside = (operation.steps - 1) * 2 * operation.carry
    own = 0 if operation.kind in (*OPERANDS, "mul") or operation.wires else bits
    return inside + own + (0 if operation.wires else waits * bits)


def cell_report(cell: Cell, sharing: int = 1) -> dict[str, Any]:
    """What a pipeline of the cell takes, for one unit every ``sharing`` cycles; plain values.

    Returns
    -------
    dict
        ``products``: multiplications in the equation; one of wide operands counts as many as it
        has partial products of 18 by 18 bits. ``multipliers``: of 18 by 18 bits. ``table_blocks``:
        block RAMs of 18 Kbit for tables. ``state_bits``: a unit's state. ``rows``: accumulators
        and parameters. ``registers`` and ``comb``: estimates, in flip-flops and in LUT4 (a carry
        cell of two bits counts as two). ``operations``: in the order of their start.
    """
    plan = schedule(cell, sharing)
    used = last_uses(plan)
    names = _names(plan)
    operations = []
    registers = comb = 0.0
    for o in plan.operations:
        waits = -(-(used[o] - plan.ready(o)) // sharing)
        registers += _registers(o, waits)
        comb += _comb(plan, o)
        if o.kind == "constant":
            continue
        operations.append(
            {
                "name": names[o],
                "operation": _text(o, names),
                "format": "condition" if o.node.is_condition else str(o.format),
                "start": plan.start[o],
                "ready": plan.ready(o),
                "used": used[o],
                **({"multiplier": plan.multiplier[o]} if o in plan.multiplier else {}),
            }
        )
    return {
        "cell": cell.name,
        "sharing": sharing,
        "latency": plan.latency,
        "cycles_per_unit": sharing,
        "products": len(plan.multiplier),
        "multipliers": plan.multipliers,
        "tables": plan.tables,
        "table_blocks": plan.tables,
        "rows": cell.rows,
        "accumulators": list(cell.accumulators),
        "parameters": {k: str(f) for k, f in cell.parameters.items()},
        "peers": {k: str(f) for k, f in cell.peers.items()},
        "state": {k: str(f) for k, f in cell.state.items()},
        "state_bits": sum(f.bits for f in cell.state.values()),
        "registers": round(registers),
        "comb": round(comb),
        "operations": sorted(operations, key=lambda o: o["start"]),
    }


def _names(plan: Schedule) -> dict[Operation, str]:
    names: dict[Operation, str] = {}
    count = 0
    for state, o in plan.following.items():
        names.setdefault(o, f"{state}'")
    names.setdefault(plan.result, "y")
    for o in plan.operations:
        if o.kind in OPERANDS:
            names[o] = o.node.name
        elif o.kind == "constant":
            names[o] = f"{o.node.value * 2.0**-o.format.fraction:g}"
        elif o not in names:
            count += 1
            names[o] = f"v{count}"
    return names


_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "greater": ">",
    "equal": "=",
    "and": "&",
    "or": "|",
}


def _text(operation: Operation, names: dict[Operation, str]) -> str:
    kind, args = operation.kind, [names[a] for a in operation.args]
    if kind in OPERANDS:
        return kind
    if kind in _INFIX:
        return f"{args[0]} {_INFIX[kind]} {args[1]}"
    if kind == "limb":
        low = operation.shift
        return f"{args[0]}[{low}:{low + operation.format.bits - operation.unsigned}]"
    if kind == "join":
        return f"{args[0]} + {args[1]} << {operation.shift}"
    if kind == "scale":
        power = operation.args[0].format.fraction - operation.format.fraction
        return f"{args[0]} * 2**{power}"
    if kind == "not":
        return f"~{args[0]}"
    table = operation.node.table
    return f"{table.name if table else kind}({', '.join(args)})"
