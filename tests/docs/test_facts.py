"""Tables of pages that state what the code or the benchmarks know better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stillnet.boards.catalogue import BOARDS
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.functions import ALLOWED, TABLES, named_table
from stillnet.sw.model.activations import ACTIVATION_NAMES
from stillnet.sw.model.model import Model

from .pages import DOCS, ROOT

SOURCES = {"ram": "on-chip RAM", "port": "bare memory port", "axi4": "AXI4"}


def rows(page: Path, head: str) -> list[list[str]]:
    """The table of a page whose head begins so."""
    lines = page.read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(head))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_presets():
    """docs/start/your-own-model.md."""
    table = rows(DOCS / "start" / "your-own-model.md", "| preset |")
    assert [row[0] for row in table] == [f"`{name}`" for name in PRESETS]
    for (_, lanes, source, units, inputs), preset in zip(table, PRESETS.values()):
        assert int(lanes) == preset.word_bits // 8
        assert SOURCES[preset.memory] in source
        if preset.memory == "ram":
            assert f"{preset.ram_words:,} words" in source
        else:
            assert f"{preset.word_bits} bits" in source
        assert (units, inputs) == (f"{preset.units:,}", f"{preset.inputs:,}")


def test_boards():
    """docs/start/your-first-board.md: each board once, with its engine and its memory."""
    table = rows(DOCS / "start" / "your-first-board.md", "| `--board` |")
    named: dict[str, list[str]] = {}
    for row in table:
        first, *others = re.findall(r"`([\w-]+)`", row[0])
        for name in [first, *(first.rsplit("-", 1)[0] + other for other in others)]:
            named[name] = row
    assert list(named) == list(BOARDS)
    for name, (_, _, device, memory, engine, _) in named.items():
        board = BOARDS[name]
        config = board.config()
        assert any(board.device.startswith(d) or d.startswith("-") for d in device.split(", "))
        assert f"{config.lanes} lanes, {config.units:,} units" in engine
        assert ("none" in memory) == (board.sdram is None)
        if board.sdram is not None:
            assert f"{board.sdram.data_bits} bits" in memory
            assert str(board.part).removesuffix("-x2") in memory


def test_cells():
    """docs/cells.md has every cell of the contract."""
    text = (DOCS / "cells.md").read_text()
    families = re.compile(r"conv\d(_relu)?")
    missing = [n for n in CELLS if f"`{n}`" not in text and not families.fullmatch(n)]
    own = [n for n in missing if "contract" not in type(CELLS[n]).__module__]
    assert missing == own


def test_tables_of_functions():
    """docs/numbers.md: each table once, with its measured errors."""
    table = rows(DOCS / "numbers.md", "| table | of | segments |")
    assert [row[0] for row in table] == [f"`{name}`" for name in TABLES]
    for row in table:
        known = named_table(row[0].strip("`"))
        part = known.error / (ALLOWED * known.full_scale)
        assert row[-7:] == [
            str(len(known.values)),
            str(known.output),
            f"{known.full_scale:.3f}",
            f"{known.error:.2e}",
            f"{known.worst:.3f}",
            f"{known.rms:.1e}",
            f"{100 * part:.0f} %",
        ]


def test_activations_by_name():
    """The docstring of Model.dense names every activation."""
    text = " ".join((Model.dense.__doc__ or "").split())
    assert [name for name in ACTIVATION_NAMES if f"{name}" not in text] == []


BENCHED = {
    "int8, every change an event": "int8, dense, thresholds 0",
    "int8, thresholds": "int8, dense, thresholds",
    "int4, half of the weights gone, thresholds": "int4, half gone, thresholds",
    "the same, on a ULX3S-85F with hot columns on the chip": (
        "int4, half gone, thresholds, ulx3s-85f"
    ),
}
"""On a board: what its hardware counts."""


@pytest.mark.parametrize(("name", "case"), BENCHED.items())
def test_results_of_the_readme(name, case):
    """The rows of the README are rows of docs/benchmarks.md."""
    shown = next(row for row in rows(ROOT / "README.md", "| weights |") if row[0] == name)
    measured = next(
        row
        for row in rows(DOCS / "benchmarks.md", "| weights | on | hot, kB | error on calibration")
        if row[0] == case and row[10].startswith("RTL" if row[1] == "ulx3s-85f" else "cost model")
    )
    error, kilobytes, milliseconds = shown[1:]
    assert error == measured[4]
    assert kilobytes == measured[7]
    digits = len(milliseconds.partition(".")[2])
    assert float(milliseconds) == round(float(measured[8]), digits)


def test_claims_of_the_readme():
    """Figures in the text of the README stand in docs/benchmarks.md."""
    text = (ROOT / "README.md").read_text()
    measured = (DOCS / "benchmarks.md").read_text()
    for figure in ("0.9999", "0.984", "106.8"):
        assert figure in text
        assert figure in measured
