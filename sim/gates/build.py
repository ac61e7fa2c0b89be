"""The netlists of a board: after synthesis, and after placement and routing.

They are those of ``stillnet build``: the same design, the same calls of the tools. They are kept in
the cache of compiled models, by all that they depend on.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from stillnet.boards.board import Board
from stillnet.boards.build.build import design, place_and_route, synthesize_design
from stillnet.boards.build.toolchain import ECP5
from stillnet.sim.compile.model import cache_folder
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.progress import Progress

from .netlist import Netlist

__all__ = ["STAGES", "fast_link", "stage_netlist"]

STAGES = ("synthesis", "routing")
"""After which a netlist is there."""

_UART_CYCLES = 8
"""Of a bit, at least."""


def fast_link(board: Board, baud: int | None = None) -> Board:
    """The board with another rate of its serial port, or the fastest that it can have: simulated
    time is dear.

    Raises
    ------
    StillnetError
        For a rate that the clock does not allow.
    """
    most = board.clock_hz // _UART_CYCLES
    if baud is not None and baud > most:
        raise StillnetError(f"--baud must be at most {most} at this clock, not {baud}")
    return replace(board, baud=baud or most)


def stage_netlist(board: Board, stage: str, progress: Progress, *, seed: int = 1) -> Netlist:
    """A board's netlist after a stage, made or from the cache.

    Parameters
    ----------
    board : Board
    stage : str
        One of :data:`STAGES`.
    progress : Progress
    seed : int
        Of the placer.
    """
    progress("design", 0, 1)
    files, digest = design(board)
    progress("design", 1, 1)
    folder = cache_folder() / "gates" / digest[:24]
    synthesized, routed = folder / "synthesis.json", folder / f"routing.{seed}.json"
    device = json.loads(files.pop("device"))
    if not synthesized.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        synthesize_design(folder, device, progress, ECP5)
        (folder / "top.json").replace(synthesized)
    if stage == "routing" and not routed.exists():
        # nextpnr's call names the file that synthesis leaves.
        (folder / "top.json").unlink(missing_ok=True)
        os.link(synthesized, folder / "top.json")
        place_and_route(
            folder,
            device,
            target_mhz=board.clock_hz / 1e6,
            seed=seed,
            progress=progress,
            options=("--write", "routed.part"),
        )
        (folder / "routed.part").replace(routed)
    return Netlist.read(Path(routed if stage == "routing" else synthesized))
