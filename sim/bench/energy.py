"""``stillnet bench energy``: a board's SDRAM in real time, with power-down and without.

NSNet2 with delta thresholds on the virtual board, a frame every 10 ms, as a microphone gives them.
The memory controller counts its commands and the cycles of each state; energy is theirs, by the
data sheet's currents. Latencies are the engine's own counter; every output is compared with the
reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stillnet.boards.board import Board
from stillnet.boards.catalogue import board
from stillnet.sim.audio import recordings, signals
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.sdram_counters import sdram_use
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.report.energy import CURRENTS, sdram_energy, standby_power
from stillnet.sw.util.benches import Bench, table
from stillnet.sw.util.results.runs import SdramUse

__all__ = ["BENCH", "energy", "paced"]

Progress = Callable[[str, int, int], None]

BOARD = "ulx3s-12f"
THRESHOLD = 1 / 16
HOP = 10e-3
"""Seconds from frame to frame."""
WARM, FRAMES = 2, 6


def paced(
    network: Network, rows: np.ndarray, target: Board, period: float, *, warm: int = WARM
) -> tuple[SdramUse, np.ndarray]:
    """A stream in real time.

    Parameters
    ----------
    network : Network
    rows : int array, shape (frames, inputs)
    target : Board
    period : float
        Seconds from frame to frame.
    warm : int
        Frames before anything is counted.

    Returns
    -------
    SdramUse
        Of the frames after those.
    int array
        Cycles of each of them, from its first input to its last output.
    """
    model = VirtualBoard(target)
    reference = Reference(network)
    latencies = []
    with Engine(model) as engine:
        engine.load(network)
        for k, row in enumerate(rows):
            if k == warm:
                engine.reset_counters()
            start = model.cycle
            y = engine.step_integers(row)
            if not np.array_equal(y, reference.step_integers(row)):
                raise AssertionError(f"frame {k} differs from the reference")
            latencies.append(engine.counters()["latency"])
            model.run(round(period * target.clock_hz) - (model.cycle - start))
        use = sdram_use(engine.session)
    assert use is not None
    return use, np.array(latencies[warm:])


def _row(target: Board, use: SdramUse, latencies: np.ndarray) -> dict[str, Any]:
    """One row: of a step."""
    currents, steps = CURRENTS[use.part], len(latencies)
    spent = sdram_energy(use, currents)
    states = sum(use.counts[k] for k in ("open", "closed", "power_down"))
    return {
        "board": target.name,
        "part": use.part,
        "power_down": target.power_down or 0,
        "latency_cycles": float(latencies.mean()),
        "wake_cycles": use.counts["wake_cycles"] / steps,
        "wakes": use.counts["wakes"] / steps,
        "asleep": use.counts["power_down"] / states,
        "refreshes": use.counts["refreshes"] / steps,
        "activates": use.counts["activates"] / steps,
        "millijoules": 1e3 * sum(spent.values()) / steps,
        "idle_milliwatts": 1e3 * standby_power(use, currents),
    }


def energy(progress: Progress | None = None) -> list[dict[str, Any]]:
    """All rows."""
    network = quantize(
        load_model(recordings.nsnet2_path()),
        recordings.calibration_recordings(1, 4.0),
        thresholds=THRESHOLD,
        method="nearest",
        row_steps=False,
    )
    noisy, _ = recordings.test_mix(noise="machine")
    x = signals.features(signals.stft(noisy))[200:]
    rows = network.quantize_input(x)[: WARM + FRAMES]
    result = []
    targets = [replace(board(BOARD), clock_enable=False), board(BOARD)]
    for k, target in enumerate(targets):
        if progress:
            progress("boards", k, len(targets))
        result.append(_row(target, *paced(network, rows, target, HOP)))
    return result


def _markdown(rows: list[dict[str, Any]]) -> str:
    awake = rows[0]["latency_cycles"]
    shown = [{**r, "lost": r["latency_cycles"] / awake - 1} for r in rows]
    columns = {
        "board": ("board", ""),
        "part": ("SDRAM", ""),
        "power_down": ("power-down after cycles", ""),
        "latency_cycles": ("cycles to the last output", ",.0f"),
        "lost": ("lost", ".3%"),
        "wake_cycles": ("waited for sleep, cycles", ".1f"),
        "wakes": ("wakes per frame", ",.0f"),
        "asleep": ("of the time asleep", ".1%"),
        "activates": ("ACTIVATE per frame", ",.0f"),
        "refreshes": ("REFRESH per frame", ",.0f"),
        "millijoules": ("mJ per frame", ".3f"),
        "idle_milliwatts": ("mW when idle", ".3g"),
    }
    return table(shown, columns)


BENCH = Bench(
    name="energy",
    title="Energy of the SDRAM",
    about="NSNet2 with thresholds of 1/16 on the virtual board, a frame every 10 ms; commands and "
    "cycles of each state counted by the memory controller, outputs equal to the reference. Energy "
    "is that of the SDRAM's core at most, by the currents of a data sheet "
    "([energy](how-to/energy.md)); the first row has clock enable tied.",
    measure=lambda progress: energy(progress),
    markdown=_markdown,
)
