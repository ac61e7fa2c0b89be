"""``stillnet bench budgets``: which budgets a deadline near the mean should have.

NSNet2 compressed, from the environment's ``STILLNET_STAGES`` (``stillnet bench nsnet2``), on a
noise that calibration has never heard and that does not rest. Budgets of several shapes, each as
large as the guaranteed cycles allow; and, for comparison, no budgets and larger thresholds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.boards.catalogue import board
from stillnet.sim.audio import recordings, signals
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.cost import predict, step_words
from stillnet.sw.cost.guarantee import GuaranteeModel
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_float, run_integers
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "budgets"]

Progress = Callable[[str, int, int], None]
Shape = Callable[[float], dict[int, float]]

BOARD, NOISES, STEPS = "ulx3s-85f", ("pink", "machine"), 40
FACTORS = (1.25, 1.5)
"""Guaranteed cycles over the mean."""
LARGER = 1.5
"""Thresholds, of a network without budgets, over what they are."""


class _Judge:
    """Test speech with each noise, and what the network makes of it."""

    def __init__(self, network: Network) -> None:
        target, model = board(BOARD), load_model(recordings.nsnet2_path())
        network.budgets = {}
        self.network, self.last = network, len(network.layers) - 1
        self.config = replace(fit(network, target.config()), budgets=True)
        self.guarantee = GuaranteeModel(
            network, self.config, memory=target.worst_memory(self.config)
        )
        self.rows, self.wanted = {}, {}
        for noise in NOISES:
            x = signals.features(signals.stft(recordings.test_mix(noise=noise)[0]))
            layout = Layout([len(x)])
            self.rows[noise] = network.quantize_input(x)
            self.wanted[noise] = run_float(model, layout, x).vectors[self.last]
        self.free = {noise: self.run(noise) for noise in NOISES}
        self.base = {noise: self.error(noise, trace) for noise, trace in self.free.items()}
        self.mean = float(np.mean([self.cycles(noise) for noise in NOISES]))
        rows = [network.quantize_input(x) for x in recordings.calibration_recordings(2, 12.0)]
        layout = Layout([len(r) for r in rows])
        self.calibration = run_integers(network, layout, layout.pack(rows)).counts

    def run(self, noise: str) -> Trace:
        """The network with the budgets that it has now."""
        rows = self.rows[noise]
        return run_integers(self.network, Layout([len(rows)]), rows)

    def error(self, noise: str, trace: Trace) -> float:
        """Mean absolute error of the gains."""
        gains = self.network.dequantize_output(trace.vectors[self.last])
        return float(np.mean(np.abs(gains - self.wanted[noise])))

    def cycles(self, noise: str) -> float:
        """Mean cycles without budgets, by the cost model on some steps and the words of all."""
        rows, half = self.rows[noise], len(self.rows[noise]) // 2
        cost = predict(self.network, rows[: half + STEPS], self.config, warm=half)
        return cost.cycles * step_words(self.network, self.config, self.free[noise]) / cost.words

    def within(self, shape: Shape, cycles: float) -> dict[int, int]:
        """The largest budgets of a shape that the cycles allow."""
        sizes = {s: self.network.source_size(s) for s in self.guarantee.sources}

        def at(factor: float) -> dict[int, int]:
            found = {s: max(4, int(v)) for s, v in shape(factor).items()}
            return {s: b for s, b in found.items() if b < sizes[s]}

        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            fits = self.guarantee.of(at(middle)).cycles <= cycles
            low, high = (middle, high) if fits else (low, middle)
        return at(low)

    def rises(self) -> dict[str, float]:
        """Of the error, with the budgets and thresholds that the network has now."""
        return {f"{n}_rise": self.error(n, self.run(n)) - self.base[n] for n in NOISES}


def _shapes(judge: _Judge) -> dict[str, Shape]:
    """By name: budgets of a factor or a quantile from 0 to 1."""
    sources, events = judge.guarantee.sources, judge.calibration
    heard = {s: float(events[s].mean()) for s in sources}
    there = {s: float(judge.free[NOISES[-1]].counts[s].mean()) for s in sources}
    busy = {s: float(np.quantile(events[s], 0.9)) for s in sources}
    return {
        "multiples of calibration's mean (the rule)": lambda f: {
            s: 4 * f * heard[s] for s in sources
        },
        "the same quantile of calibration": lambda f: {
            s: float(np.quantile(events[s], f)) for s in sources
        },
        "multiples of calibration's busiest tenth": lambda f: {s: 4 * f * busy[s] for s in sources},
        "multiples of that noise's own mean": lambda f: {s: 4 * f * there[s] for s in sources},
    }


@contextmanager
def _larger(network: Network, factor: float) -> Iterator[None]:
    """All thresholds times a factor."""
    kept = [(o, o.thresholds) for o in network.layers]
    first = network.input_thresholds
    scaled = [None if t is None else np.round(factor * t).astype(t.dtype) for _, t in kept]
    for (layer, _), thresholds in zip(kept, scaled):
        layer.thresholds = thresholds
    if first is not None:
        network.input_thresholds = np.round(factor * first).astype(first.dtype)
    try:
        yield
    finally:
        network.input_thresholds = first
        for layer, thresholds in kept:
            layer.thresholds = thresholds


def budgets(progress: Progress | None = None) -> list[dict[str, Any]]:
    """All rows.

    Raises
    ------
    StillnetError
        Where there is no compressed network.
    """
    folder = os.environ.get("STILLNET_STAGES", "")
    paths = sorted(Path(folder).glob("half*ulx3s*.safetensors")) if folder else []
    if not paths:
        raise StillnetError("set STILLNET_STAGES to a folder of 'stillnet bench nsnet2'")
    judge = _Judge(Network.load(paths[0]))
    network, rows = judge.network, []
    wants = {s: int(judge.free[NOISES[-1]].counts[s].mean()) for s in judge.guarantee.sources}
    for noise, sent in (("", {}), ("that noise's mean events in each step", wants)):
        found = judge.guarantee.of(sent).cycles
        rows.append({"choice": noise or "no budgets", "factor": found / judge.mean})
    for factor in FACTORS:
        for name, shape in _shapes(judge).items():
            network.budgets = judge.within(shape, factor * judge.mean)
            rows.append({"choice": name, "factor": factor, **judge.rises()})
            network.budgets = {}
            if progress:
                progress("budgets", len(rows), 2 + len(FACTORS) * 4)
    with _larger(network, LARGER):
        words = step_words(network, judge.config, judge.run(NOISES[-1]))
        rows.append({"choice": f"no budgets, thresholds x {LARGER}", **judge.rises()})
        rows[-1]["words"] = words
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    names = ("factor", *(f"{n}_rise" for n in NOISES))
    shown = [
        {"choice": row["choice"]} | {k: f"{row[k]:.4f}" if k in row else "" for k in names}
        for row in rows
    ]
    columns = {
        "choice": ("budgets", ""),
        "factor": ("guaranteed / mean", ""),
        "pink_rise": ("rise of the error, pink", ""),
        "machine_rise": ("machine", ""),
    }
    return table(shown, columns)


BENCH = Bench(
    name="budgets",
    title="Budgets near the mean",
    about=(
        "NSNet2, int4, half of the weights gone, with the SDRAM of a ULX3S-85F: the rise of the "
        "mean absolute error of its gains on test speech, for budgets of several shapes, each as "
        "large as the guaranteed cycles allow. The mean is that over both noises without budgets. "
        "Calibration has never heard machine noise."
    ),
    measure=lambda progress: budgets(progress),
    markdown=_markdown,
)
