"""``stillnet bench deadline``: what a bound for every input costs, and that it holds.

A small network on generated hardware: speech-like steps, then noise, silence, full scale and
everything turned over in each step. And NSNet2 compressed, where the environment's
``STILLNET_STAGES`` has one from ``stillnet bench nsnet2``: its mean cycles, its guaranteed ones,
and the error of its gains on test speech with budgets and without.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sim.audio import recordings, signals
from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.compression.sweep import measure
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import Register
from stillnet.sw.cost.deadline import keep_deadline
from stillnet.sw.cost.guarantee import guaranteed_cycles
from stillnet.sw.cost.memory import WorstMemory
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "deadline", "nsnet2_rows", "small_rows", "walk_model"]

Progress = Callable[[str, int, int], None]

FACTORS = (None, 2.0, 1.5, 1.25)
"""Guaranteed cycles over the mean; None is without budgets."""

CLOCK_MHZ = 100.0
LATENCY = 8
INPUTS, UNITS, OUTPUTS = 40, 96, 10
STEPS, HOSTILE = 120, 80
FULL = 32767


def walk_model(seed: int = 0) -> tuple[Model, np.ndarray]:
    """Two GRUs and a linear layer with random weights, and an input with still and busy parts."""
    rng = np.random.default_rng(seed)

    def gru(model: Model, size: int, name: str) -> Model:
        w, u = (rng.normal(0, 0.8 / n**0.5, (3 * UNITS, n)) for n in (size, UNITS))
        return model.gru(w, u, rng.normal(0, 0.2, 3 * UNITS), name=name)

    model = gru(gru(Model(INPUTS, name="walk"), INPUTS, "gru1"), UNITS, "gru2")
    model = model.dense(rng.normal(0, 0.1, (OUTPUTS, UNITS)), name="out")
    pace = 0.12 + 0.1 * np.sin(np.arange(4 * STEPS) / 9)[:, None]
    walk, value = [], np.zeros(INPUTS)
    for step in rng.normal(0, 1, (4 * STEPS, INPUTS)) * pace:
        value = 0.97 * value + step
        walk.append(value)
    return model, np.array(walk)


def hostile(network: Network, rows: np.ndarray) -> np.ndarray:
    """A recording, then silence, full scale, both ends in turn, noise, and the recording again."""
    rng = np.random.default_rng(1)
    ends = np.where(np.arange(HOSTILE // 4) % 2, FULL, -FULL)[:, None]
    parts = [
        rows[: HOSTILE // 2],
        np.zeros((4, network.inputs), np.int64),
        np.full((2, network.inputs), FULL),
        np.broadcast_to(ends, (len(ends), network.inputs)),
        rng.integers(-FULL, FULL + 1, (HOSTILE // 2, network.inputs)),
        np.zeros((4, network.inputs), np.int64),
        rows[HOSTILE // 2 : HOSTILE],
    ]
    return np.concatenate(parts)


def small_rows(progress: Progress | None = None) -> list[dict[str, Any]]:
    """The small network on the generated hardware, without budgets and with deadlines."""
    model, walk = walk_model()
    calibration, test = walk[: 2 * STEPS], walk[2 * STEPS : 3 * STEPS]
    network = quantize(model, calibration, method="nearest", thresholds=0.05)
    config = EngineConfig(
        name="deadline",
        lanes=8,
        units=256,
        inputs=64,
        accumulators=256,
        cells=("gru", "linear"),
        row_scale=True,
        budgets=True,
    )
    memory = WorstMemory(latency=LATENCY)
    wanted = model.run(test)
    rows: list[dict[str, Any]] = []
    with EngineModel(config) as engine:
        for k, factor in enumerate(FACTORS):
            made = copy.copy(network)
            made.budgets, made.notes = {}, {}
            if factor is not None:
                limit = factor * rows[0]["mean"] / CLOCK_MHZ / 1e3
                keep_deadline(made, config, [calibration], limit, memory=memory)
            x = made.quantize_input(test)
            usual, outputs = _counted(made, x, engine)
            worst, _ = _counted(made, hostile(made, x), engine)
            found = guaranteed_cycles(made, config, memory=memory)
            if worst["cycles"].max() > found.cycles or worst["words"].max() > found.words:
                raise RuntimeError(f"a step of {made.budgets} passes {found}")
            mean = float(usual["cycles"].mean())
            rows.append(
                {
                    "network": "two GRUs of 96, RTL",
                    "factor": found.cycles / (rows[0]["mean"] if rows else mean),
                    "mean": mean,
                    "worst": int(worst["cycles"].max()),
                    "guaranteed": found.cycles,
                    "words_share": float(worst["words"].max()) / found.words,
                    "error": float(np.mean(np.abs(made.dequantize_output(outputs) - wanted))),
                    **_cost_of(made),
                }
            )
            if progress:
                progress("deadlines", k + 1, len(FACTORS))
    return rows


def _cost_of(network: Network) -> dict[str, Any]:
    """What budgets cost on calibration."""
    report = network.notes.get("deadline")
    if report is None:
        return {"late": 0.0, "wait": 1}
    return {"late": report["late"], "wait": max(report["longest_wait"].values(), default=1)}


def _counted(
    network: Network, x: np.ndarray, engine: EngineModel
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cycles and words of steps that each meet an idle engine, and the outputs, which are those of
    the reference."""
    reference = Reference(network, config=engine.config)
    found: dict[str, list[int]] = {"cycles": [], "words": []}
    outputs = np.zeros((len(x), network.outputs), np.int64)
    engine.behave(Behaviour(latency=LATENCY))
    with NetworkOnEngine(network, engine.config, model=engine) as run:
        run.reset()
        for step, row in enumerate(x):
            engine.clear_counters()
            outputs[step] = engine.run(row, 1, network.outputs)[0][0]
            engine.wait_idle()
            if not np.array_equal(outputs[step], reference.step_integers(row)):
                raise RuntimeError(f"step {step}: the hardware differs from the reference")
            for name, values in found.items():
                values.append(engine.read(Register[name.upper()]))
    return {name: np.array(values) for name, values in found.items()}, outputs


def nsnet2_rows(
    path: Path, *, factors: tuple[float | None, ...] = FACTORS, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """NSNet2 from a network file of ``stillnet bench nsnet2``, on test speech with two noises.

    Parameters
    ----------
    path : Path
    factors : tuple of float or None
    progress : function, optional
    """
    network = Network.load(path)
    config = replace(fit(network, EngineConfig.load("sdram16")), budgets=True)
    model = load_model(recordings.nsnet2_path())
    tests = {
        noise: signals.features(signals.stft(recordings.test_mix(noise=noise)[0]))
        for noise in ("pink", "machine")
    }
    calibration = recordings.calibration_recordings(2, 12.0)
    rows: list[dict[str, Any]] = []
    mean = 0.0
    for k, factor in enumerate(factors):
        made = copy.copy(network)
        made.budgets, made.notes = {}, {n: v for n, v in network.notes.items() if n != "deadline"}
        if factor is not None:
            keep_deadline(made, config, calibration, factor * mean / CLOCK_MHZ / 1e3)
        bound = guaranteed_cycles(made, config)
        found = {
            n: measure(model, made, [x], config, clock_mhz=CLOCK_MHZ) for n, x in tests.items()
        }
        mean = mean or float(np.mean([f["cycles"] for f in found.values()]))
        rows += [
            {
                "network": f"NSNet2, {noise} noise",
                "factor": bound.cycles / mean,
                "mean": values["cycles"],
                "worst": None,
                "guaranteed": bound.cycles,
                "words_share": None,
                "error": values["error"],
                **_cost_of(made),
            }
            for noise, values in found.items()
        ]
        if progress:
            progress(path.stem, k + 1, len(factors))
    return rows


def deadline(progress: Progress | None = None) -> list[dict[str, Any]]:
    """All rows: the small network, and the compressed ones of NSNet2 that are there."""
    rows = small_rows(progress)
    kept = os.environ.get("STILLNET_STAGES")
    for path in sorted(Path(kept).glob("half*.safetensors")) if kept else ():
        rows += nsnet2_rows(path, progress=progress)
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            **row,
            "worst": "" if row["worst"] is None else f"{row['worst']:,}",
            "words_share": "" if row["words_share"] is None else f"{row['words_share']:.3f}",
        }
        for row in rows
    ]
    columns = {
        "network": ("network", ""),
        "factor": ("guaranteed / mean", ".2f"),
        "mean": ("mean cycles", ",.0f"),
        "worst": ("worst seen", ""),
        "guaranteed": ("guaranteed", ",.0f"),
        "words_share": ("worst words / budget", ""),
        "error": ("error", ".4f"),
        "late": ("late events", ".1%"),
        "wait": ("longest wait, steps", ",.0f"),
    }
    return table(shown, columns)


BENCH = Bench(
    name="deadline",
    title="A bound for every step",
    about=(
        "Guaranteed cycles of a step, for any input, over the mean without budgets. The first row "
        "of a network has no budgets. Errors are against the float model; late events came in a "
        "later step. The small network runs on the generated hardware: a recording, silence, full "
        "scale, both ends in turn and noise, each step offered to an idle engine. NSNet2: test "
        "speech with two noises, an SDRAM of 16 bits, mean cycles by the cost model, the guarantee "
        "over the mean of both; the machine noise is of a kind that calibration has never heard."
    ),
    measure=lambda progress: deadline(progress),
    markdown=_markdown,
)
