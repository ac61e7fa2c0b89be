"""``stillnet bench synthesis``: area and speed of engines on an ECP5-25F, speed grade 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stillnet.boards.build.synthesis import synthesize
from stillnet.hw.engine import Engine
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "configurations", "measure"]


def configurations() -> dict[str, EngineConfig]:
    """The engines that are built, by name."""
    base = EngineConfig(
        lanes=8, cells=("gru",), units=1536, inputs=64, accumulators=768, layers=2, matrices=8
    )
    return {"8 lanes, GRU, 40-768-2": base}


SEEDS = 4
"""Seeds of the placer that are tried, until one reaches the target."""

TARGET_MHZ = 100.0


def measure(progress: Callable[[str, int, int], None]) -> list[dict[str, Any]]:
    """One row a configuration: that of the first seed that reaches the target, or of the best."""
    rows = []
    items = configurations()
    for k, (name, config) in enumerate(items.items()):
        tried: list[dict[str, Any]] = []
        while len(tried) < SEEDS and (not tried or tried[-1]["fmax_mhz"] < TARGET_MHZ):
            progress(f"place and route: {name}, seed {len(tried) + 1}", k, len(items))
            tried.append(synthesize(Engine(config), seed=len(tried) + 1))
        best = max(tried, key=lambda row: row["fmax_mhz"])
        rows.append({"engine": name, **best, "seeds": [row["fmax_mhz"] for row in tried]})
    progress("place and route", len(items), len(items))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    published = {
        "engine": "EdgeDRNN's RTL, 8 PEs",
        "device": "LFE5U-25F-6",
        "comb": 8536,
        "ff": 3868,
        "dsp": 12,
        "ram": 40,
        "fmax_mhz": 55.0,
        "seeds": [55.0],
    }
    shown = [
        {**row, "seeds": ", ".join(f"{fmax:.1f}" for fmax in row["seeds"])}
        for row in (*rows, published)
    ]
    return table(
        shown,
        {
            "engine": ("engine", ""),
            "device": ("device", ""),
            "comb": ("COMB", ",d"),
            "ff": ("FF", ",d"),
            "dsp": ("MULT18", "d"),
            "ram": ("DP16KD", "d"),
            "fmax_mhz": ("Fmax MHz", ".1f"),
            "seeds": ("by seed", ""),
        },
    )


BENCH = Bench(
    name="synthesis",
    title="Area and speed",
    about=(
        "Yosys and nextpnr from pip, out of context: ports behind shift registers, which are left "
        "out of the flip-flop count. Seeds of the placer are tried until one reaches 100 MHz."
    ),
    measure=measure,
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
