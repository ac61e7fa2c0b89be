"""``stillnet bench cells``: area and speed of every cell's pipeline on an ECP5-25F, grade 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stillnet.boards.build.synthesis import synthesize
from stillnet.hw.cell.pipeline import CellPipeline, schedule
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "NAMES", "measure"]

NAMES = (
    "gru",
    "gru_reset",
    "gru_before",
    "gru_before_relu",
    "lstm",
    "lstm_peephole",
    "egru",
    "s5_state",
    "s5_imag",
    "s5_output",
    "s5_glu",
    "lru",
    "mingru",
    "ligru",
    "leaky",
    "conv4",
    "sigmoid",
    "relu",
)
"""One of each kind; cells that differ in a format only are left out."""

SEEDS = 3
"""Seeds of the placer that are tried, until one reaches the target."""

TARGET_MHZ = 100.0


def measure(
    progress: Callable[[str, int, int], None], names: tuple[str, ...] = NAMES
) -> list[dict[str, Any]]:
    """One row a cell, of the first seed that reaches the target, or of the best."""
    rows = []
    for k, name in enumerate(names):
        cell = CELLS[name]
        tried: list[dict[str, Any]] = []
        while len(tried) < SEEDS and (not tried or tried[-1]["fmax_mhz"] < TARGET_MHZ):
            progress(f"place and route: {name}, seed {len(tried) + 1}", k, len(names))
            tried.append(synthesize(CellPipeline(cell), seed=len(tried) + 1))
        best = max(tried, key=lambda row: row["fmax_mhz"])
        rows.append(
            {"cell": name, "latency": schedule(cell).latency, **best, "seeds_tried": len(tried)}
        )
    progress("place and route", len(names), len(names))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    return table(
        rows,
        {
            "cell": ("cell", ""),
            "latency": ("latency, cycles", "d"),
            "comb": ("COMB", ",d"),
            "ff": ("FF", ",d"),
            "dsp": ("MULT18", "d"),
            "ram": ("DP16KD", "d"),
            "fmax_mhz": ("Fmax MHz", ".1f"),
            "seeds_tried": ("seeds tried", "d"),
        },
    )


BENCH = Bench(
    name="cells",
    title="Cells",
    about=(
        "Pipelines at one element a cycle, by Yosys and nextpnr, each alone behind shift "
        "registers. Memories of the state, and the rescale units, belong to the engine."
    ),
    measure=measure,
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
