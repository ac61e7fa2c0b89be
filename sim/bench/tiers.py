"""``stillnet bench tiers``: what a hot store saves, against the bound of its slower side.

NSNet2 compressed as in ``stillnet bench nsnet2``, on the engine of a ULX3S-85F: words of 64 bits,
which its SDRAM fills in three cycles of the engine. Stores of several sizes; the columns in them
are those that fired most often in calibration. Every frame is offered to an idle engine, and every
output is compared with the reference.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.boards.catalogue import board
from stillnet.sim.audio import recordings, signals
from stillnet.sim.engine.counted import counted_run
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.compression import CompressOptions, compress, engine_for
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.cost.cost import record_events
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.cost.schedule import ScheduleModel
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.network import Network
from stillnet.sw.util.benches import Bench, table

from .nsnet2 import BUDGET, CLIPS, CLOCK_MHZ, SECONDS

__all__ = ["BENCH", "OPTIONS", "compressed", "tiers"]

Progress = Callable[[str, int, int], None]

BOARD = "ulx3s-85f"
OPTIONS = CompressOptions(sparsity=0.5, pattern="lane", mean_error=BUDGET, clock_mhz=CLOCK_MHZ)
KILOBYTES = (0, 100, 200, 250, 300)
WARM, FRAMES = 10, 20


def compressed(folder: Path, tell: Progress | None = None) -> Network:
    """NSNet2 for an engine of the board's lanes; stages are kept in a folder."""
    kept = folder / "tiers.safetensors"
    if kept.is_file():
        return Network.load(kept)
    network = compress(
        load_model(recordings.nsnet2_path()),
        recordings.calibration_recordings(CLIPS, SECONDS),
        OPTIONS,
        config=engine_for(OPTIONS, board(BOARD).tiered().config()),
        folder=folder / "tiers",
        progress=tell,
    )
    network.save(kept)
    return network


def measure(network: Network, config: EngineConfig, x: np.ndarray) -> dict[str, Any]:
    """One row: words of each tier, cycles, and the bound, a frame."""
    memory = MemoryModel.of(config)
    rows = network.quantize_input(x)[: WARM + FRAMES]
    with EngineModel(config) as model:
        found = counted_run(
            network,
            rows,
            model,
            warm=WARM,
            latency=round(memory.latency),
            word_cycles=memory.word_cycles,
            streaming=False,
        )
    events, _ = record_events(network, rows, config)
    plain = replace(memory, column_cycles=0.0)  # the memory of this bench has no rows
    predicted = ScheduleModel(network, config, plain).run(events[WARM:], streaming=False)
    hot, cold = found["words_hot"], found["words"] - found["words_hot"]
    return {
        "hot_kb": config.hot_words * config.word_bytes / 1000,
        "words_hot": hot,
        "words_cold": cold,
        "cycles": found["cycles"],
        "bound": max(cold * memory.word_cycles, hot + cold),
        "predicted_cycles": float(np.mean(predicted)),
    }


def tiers(progress: Progress | None = None) -> list[dict[str, Any]]:
    """All rows."""
    kept = os.environ.get("STILLNET_STAGES")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        network = compressed(folder, progress)
    noisy, _ = recordings.test_mix(noise="machine")
    x = signals.features(signals.stft(noisy))[200:]
    base = board(BOARD).tiered().fitted(network).config()
    result = []
    for k, kilobytes in enumerate(KILOBYTES):
        if progress:
            progress("sizes", k, len(KILOBYTES))
        words = kilobytes * 1000 // base.word_bytes
        config = replace(base, hot_words=words, columns=base.columns if words else 0)
        result.append(measure(network, config, x))
    if progress:
        progress("sizes", len(KILOBYTES), len(KILOBYTES))
    return result


def _markdown(rows: list[dict[str, Any]]) -> str:
    shown = [{**r, "ratio": r["cycles"] / r["bound"]} for r in rows]
    columns = {
        "hot_kb": ("hot, kB", ",.0f"),
        "words_hot": ("words, hot", ",.0f"),
        "words_cold": ("words, cold", ",.0f"),
        "cycles": ("cycles", ",.0f"),
        "bound": ("bound", ",.0f"),
        "ratio": ("cycles / bound", ".3f"),
        "predicted_cycles": ("predicted", ",.0f"),
    }
    return table(shown, columns)


BENCH = Bench(
    name="tiers",
    title="Hot columns on the chip",
    about=(
        "Compressed NSNet2 on the engine of a ULX3S-85F, speech with a noise that calibration has "
        "never heard, each frame offered to an idle engine; words of 64 bits, of which the SDRAM "
        "gives one in 3.03 cycles of the engine and the hot store one per cycle. The bound is the "
        "larger of the two: cycles of the SDRAM for the cold words, and all words."
    ),
    measure=lambda progress: tiers(progress),
    markdown=_markdown,
)
