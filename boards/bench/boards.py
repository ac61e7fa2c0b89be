"""``stillnet bench boards``: bitstreams of whole boards, built for real.

Builds are kept in ``build/boards`` and made again only where the design has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillnet.boards.build.build import build
from stillnet.boards.catalogue import board
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "NAMES", "measure"]

NAMES = ("ulx3s-25f", "ulx3s-85f", "icepi-zero", "colorlight-i9", "tang-nano-20k", "icebreaker")
"""One of each kind: two sizes, another layout of pins, a 32-bit SDRAM, a Gowin, and none."""

FOLDER = Path("build/boards")


def measure(
    progress: Callable[[str, int, int], None],
    names: tuple[str, ...] = NAMES,
    folder: Path = FOLDER,
) -> list[dict[str, Any]]:
    """One row a board; a board that does not meet its timing has ``timing_met`` false."""
    rows = []
    for k, name in enumerate(names):
        output = folder / name

        def step(what: str, done: int, total: int, k: int = k, name: str = name) -> None:
            progress(f"{name}: {what}", k, len(names))

        record = output / "build.json"
        try:
            result = build(board(name), output, progress=step)
        except StillnetError:
            # A build that misses its timing says by how much, and leaves its record.
            if not record.is_file():
                raise
            result = json.loads(record.read_text())
        slowest = min(result["clocks"].values(), key=lambda c: c["fmax_mhz"] / c["target_mhz"])
        row = {key: result[key] for key in ("board", "device", "comb", "ff", "dsp", "ram")}
        row |= {
            "timing_met": result["timing_met"],
            "clock_mhz": slowest["target_mhz"],
            "fmax_mhz": slowest["fmax_mhz"],
            "seed": result["seed"],
            "seeds": len(result["seeds"]),
            "bitstream_bytes": Path(result["bitstream"]).stat().st_size
            if result["timing_met"]
            else 0,
        }
        rows.append(row)
    progress("boards", len(names), len(names))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "met": "yes" if row["timing_met"] else "NO"} for row in rows]
    return table(
        shown,
        {
            "board": ("board", ""),
            "device": ("device", ""),
            "comb": ("logic cells", ",d"),
            "ff": ("FF", ",d"),
            "dsp": ("multipliers", "d"),
            "ram": ("block RAM", "d"),
            "clock_mhz": ("clock MHz", ".1f"),
            "fmax_mhz": ("Fmax MHz", ".1f"),
            "met": ("timing met", ""),
            "seeds": ("seeds tried", "d"),
            "bitstream_bytes": ("bitstream bytes", ",d"),
        },
    )


BENCH = Bench(
    name="boards",
    title="Boards",
    about=(
        "The complete design, as `stillnet build` makes it: engine, SDRAM controller, host link, "
        "start from flash, with the board's pins and PLL. The iCEBreaker has the compact engine, "
        "weights in SPRAM, and no start from flash."
    ),
    measure=measure,
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
