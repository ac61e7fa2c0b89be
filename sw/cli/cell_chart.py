"""The plan of a cell's pipeline as text: one line per value, one column per cycle."""

from __future__ import annotations

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.report import cell_report
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.results.products import CellResult

__all__ = ["cell_chart", "describe_cell"]

MULTIPLIERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def describe_cell(name: str, sharing: int = 1) -> CellResult:
    """What ``stillnet info --cell`` says: ``contract.cell_report`` of a cell by name.

    Parameters
    ----------
    name : str
        In capitals or not.
    sharing : int
        Cycles per unit, 1 to 16.
    """
    found = name if name in CELLS else name.lower()
    if found not in CELLS:
        raise StillnetError(f"cell '{name}' is unknown; known are {', '.join(CELLS)}")
    if not 1 <= sharing <= 16:
        raise StillnetError(f"sharing must be between 1 and 16, not {sharing}")
    return CellResult(**cell_report(CELLS[found], sharing))


def cell_chart(report: CellResult) -> str:
    """Draws a report of :func:`describe_cell`.

    ``=`` an operation works, or the sign of its multiplier, 0 to 9 and a to z; ``.`` its value
    waits for a partner; ``|`` it is there and used at once.
    """
    operations, latency = report.operations, report.latency
    heads = ("value", "operation", "format")
    keys = ("name", "operation", "format")
    widths = [max(len(h), *(len(o[k]) for o in operations)) for h, k in zip(heads, keys)]

    def line(cells: tuple[str, ...], chart: str) -> str:
        left = "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths))
        return f"{left}  {chart}".rstrip()

    tens = "".join(f"{c:<10}" for c in range(0, latency + 1, 10))[: latency + 1]
    lines = [
        _summary(report),
        "",
        line(("", "", ""), tens),
        line(heads, "".join(str(c % 10) for c in range(latency + 1))),
    ]
    for o in operations:
        mark = MULTIPLIERS[o["multiplier"] % len(MULTIPLIERS)] if "multiplier" in o else "="
        busy = mark * (o["ready"] - o["start"])
        wait = "." * (o["used"] - o["ready"])
        chart = " " * o["start"] + (busy or ("|" if not wait else "")) + wait
        lines.append(line(tuple(o[k] for k in keys), chart))
    return "\n".join(lines)


def _summary(report: CellResult) -> str:
    def some(count: int, what: str) -> str:
        return f"{count} {what}{'' if count == 1 else 's'}"

    rate = "one unit per cycle" if report.sharing == 1 else f"a unit every {report.sharing} cycles"
    parts = [
        f"Cell '{report.cell}': {report.latency} cycles, {rate}",
        f"{some(report.products, 'product')} on {some(report.multipliers, 'multiplier')}, "
        f"{some(report.tables, 'table')} of one block RAM each",
        f"{some(len(report.accumulators), 'accumulator')}, "
        f"{some(len(report.parameters), 'parameter')}, {report.state_bits} bits of state per unit",
        f"about {report.comb} LUT4 and {report.registers} registers, for each unit that enters in "
        "a cycle",
    ]
    return "\n".join(parts)
