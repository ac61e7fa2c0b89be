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
from stillnet.boards.build.build import (
    design,
    pack_bitstream,
    place_and_route,
    synthesize_design,
)
from stillnet.boards.build.toolchain import ECP5, GOWIN
from stillnet.sim.compile.model import cache_folder
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.progress import Progress

from .netlist import Netlist
from .unpack import Unpacked, unpack

__all__ = ["STAGES", "check_stage", "fast_link", "stage_netlist"]

STAGES = ("synthesis", "routing", "bitstream")
"""After which a netlist is there. That of a bitstream is read back from its bits, for a Gowin."""

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


def check_stage(board: Board, stage: str) -> None:
    """Refuses a netlist that a board does not have.

    Raises
    ------
    StillnetError
    """
    if stage == "bitstream" and board.family != "gowin":
        raise StillnetError(
            f"the bitstream of board '{board.name}' cannot be read back: that is for a Gowin; use "
            "--after routing"
        )
    if stage != "bitstream" and board.family == "gowin":
        raise StillnetError(
            f"of board '{board.name}' only the bitstream can be simulated, not the netlist after "
            f"{stage}: use --after bitstream"
        )


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
    check_stage(board, stage)
    progress("design", 0, 1)
    files, digest = design(board)
    progress("design", 1, 1)
    folder = cache_folder() / "gates" / digest[:24]
    synthesized, routed = folder / "synthesis.json", folder / f"routing.{seed}.json"
    device = json.loads(files.pop("device"))
    if stage == "bitstream":
        return _read_back(board, folder, files, device, progress, seed)
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


def _read_back(
    board: Board,
    folder: Path,
    files: dict[str, bytes],
    device: list[str],
    progress: Progress,
    seed: int,
) -> Unpacked:
    """The netlist of a Gowin's bitstream, which is made or from the cache."""
    bitstream = folder / f"top.{seed}.fs"
    if not bitstream.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        synthesize_design(folder, device, progress, GOWIN)
        mhz = board.clock_hz / 1e6
        place_and_route(folder, device, target_mhz=mhz, seed=seed, progress=progress, chain=GOWIN)
        progress("bitstream", 0, 1)
        pack_bitstream(folder, GOWIN, seed)
        (folder / GOWIN.bitstream).replace(bitstream)
    progress("reading the bits", 0, 1)
    return unpack(bitstream, folder / GOWIN.constraints)
