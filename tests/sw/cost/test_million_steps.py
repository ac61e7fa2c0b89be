"""A million steps: no step passes what budgets allow, and nobody waits longer than is said.

The reference takes a million steps of noise, of hostile inputs, and of a search for what makes
elements wait; the generated hardware as many as a minute allows. ``pytest -m slow -s`` prints the
figures of docs/how-to/deadline.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stillnet.sim.bench.deadline import walk_model
from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.contract.budgets import (
    CLASSES,
    admit,
    class_of,
    longest_wait,
    next_window,
    window_size,
)
from stillnet.sw.contract.registers import Register
from stillnet.sw.cost.deadline import keep_deadline
from stillnet.sw.cost.guarantee import GuaranteeModel, guaranteed_cycles
from stillnet.sw.cost.memory import WorstMemory
from stillnet.sw.network import sequence
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Integers, Layout, run_integers
from tests.hw.test_engine_budgets import CONFIGS
from tests.support.networks.quick import quantize

FULL = 32767
LANES, LENGTH = 500, 100
"""Recordings side by side, and steps of each."""

MILLION, HARDWARE = 1_000_000, 2_000
MEMORY = WorstMemory(latency=8)
ENGINE = replace(CONFIGS["plain"], row_scale=True, units=256, inputs=64, accumulators=1024)


class Watched(Integers):
    """A run that also knows for how many steps in a row each element has waited.

    Rows are done side by side; now and then they are held against the rule itself.
    """

    longest: dict[int, int] = {}
    compared = 0

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._waits: dict[int, np.ndarray] = {}
        self._calls = 0

    def _encode_within(
        self, key: int, vector: np.ndarray, reference: np.ndarray, threshold: int | np.ndarray
    ) -> None:
        budget, window = self.network.budgets[key], self.windows[key]
        size, self._calls = vector.shape[1], self._calls + 1
        difference = vector - reference
        event = (difference != 0) & (np.abs(difference) >= threshold)
        sent = admitted(difference, event, threshold, budget, window)
        if self._calls % 50 == 0:
            for d, e, found in zip(difference[:20], event, sent):
                assert np.array_equal(admit(d, e, threshold, budget, window), found)
                Watched.compared += 1
        reference[sent] = vector[sent]
        late = event & ~sent
        for totals, events in ((self.events, sent), (self.late, late)):
            totals[key] = totals.get(key, 0) + int(events.sum())
        self.fired[key] = self.fired.get(key, 0) + sent.sum(0)
        self.counts.setdefault(key, []).append(sent.sum(1))
        self.windows[key] = next_window(window, budget, size)
        waits = self._waits.get(key, np.zeros(vector.shape, np.int64))
        waits = (waits[: len(vector)] + 1) * late
        self._waits[key] = waits
        self.longest[key] = max(self.longest.get(key, 0), int(waits.max(initial=0)))


def admitted(
    difference: np.ndarray, event: np.ndarray, threshold: Any, budget: int, window: int
) -> np.ndarray:
    """``contract.budgets.admit`` for many vectors, shape (rows, size)."""
    width = window_size(budget)
    first = window & -width
    sent = np.zeros_like(event)
    sent[:, first : first + width] = event[:, first : first + width]
    others = event & ~sent
    room = budget - sent.sum(1)
    key = np.where(others, CLASSES - 1 - class_of(difference, threshold), CLASSES)
    order = np.argsort(key, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(event.shape[1])[None], axis=1)
    return sent | (others & (rank < room[:, None]))


def bounded() -> tuple[Network, np.ndarray]:
    """Two GRUs of 96 with budgets for a deadline of 0.4 of the worst step, and their recording."""
    model, walk = walk_model()
    network = quantize(model, walk[:150], thresholds=0.05)
    cycles = guaranteed_cycles(network, ENGINE, memory=MEMORY).cycles
    keep_deadline(network, ENGINE, [walk[:150]], 0.4 * cycles / 100e3, memory=MEMORY)
    return network, network.quantize_input(walk)


def noise(rng: np.random.Generator, inputs: int, walk: np.ndarray) -> np.ndarray:
    """Steps of any size, from still to everything at full scale."""
    size = 2.0 ** rng.uniform(0, 15, (LANES, LENGTH, 1))
    return (rng.uniform(-1, 1, (LANES, LENGTH, inputs)) * size).astype(np.int64)


def hostile(rng: np.random.Generator, inputs: int, walk: np.ndarray) -> np.ndarray:
    """Both ends in turn, silence, the recording, and one element that creeps among loud ones."""
    x = np.where(np.arange(LENGTH) % 2, FULL, -FULL)[None, :, None]
    x = np.broadcast_to(x, (LANES, LENGTH, inputs)).copy()
    for lane in range(LANES):
        quiet = rng.choice(inputs, rng.integers(1, inputs), replace=False)
        x[lane][:, quiet] = rng.integers(-FULL, FULL, len(quiet))
        x[lane][:, quiet[0]] = 40 * np.arange(LENGTH)[:] % FULL
        begin = rng.integers(0, LENGTH // 2)
        x[lane, begin : begin + LENGTH // 4] = walk[rng.integers(0, len(walk))] if lane % 2 else 0
    return x


class Search:
    """Mutations of the rows that made elements wait longest, so that they wait longer."""

    def __init__(self) -> None:
        self._kept: np.ndarray | None = None

    def __call__(self, rng: np.random.Generator, inputs: int, walk: np.ndarray) -> np.ndarray:
        if self._kept is None:
            self._kept = rng.choice([-FULL, FULL], (LANES, LENGTH, inputs))
        x = self._kept.copy()
        some = rng.random(x.shape) < rng.choice([0.001, 0.01, 0.1], (LANES, 1, 1))
        x[some] = rng.integers(-FULL, FULL, int(some.sum()))
        return x

    def judge(self, x: np.ndarray, late: np.ndarray) -> None:
        """The better half of the recordings is kept, twice."""
        order = np.argsort(-late)[: LANES // 2]
        self._kept = np.concatenate([x[order], x[order]])


def figures(network: Network, walk: np.ndarray, batches: int) -> dict[str, Any]:
    """The most of a batch after the other, over what is allowed."""
    model = GuaranteeModel(network, ENGINE, MEMORY)
    bound, rng, search = model.of(network.budgets), np.random.default_rng(7), Search()
    each = {s: [entry.longest for entry in m] for s, m in model._matrices.items()}
    biases = sum(entry.longest for entry in model._biases)
    worst = {"words": 0.0, "events": 0.0, "steps": 0, "late": 0}
    kinds = (noise, hostile, search)
    layout = Layout([LENGTH] * LANES)
    for k in range(batches):
        kind = kinds[k % len(kinds)]
        x = kind(rng, network.inputs, walk)
        trace = run_integers(network, layout, layout.pack(list(x)))
        words = biases + sum(trace.counts[s] * sum(lengths) for s, lengths in each.items())
        worst["words"] = max(worst["words"], float(words.max()) / bound.words)
        for s, budget in network.budgets.items():
            worst["events"] = max(worst["events"], float(trace.counts[s].max()) / budget)
        worst["late"] += sum(trace.late.values())
        worst["steps"] += layout.rows
        if kind is search:
            done = sum(trace.counts[s] for s in network.budgets)
            search.judge(x, np.array([done[layout.index(i)].sum() for i in range(LANES)]))
    return worst


def _million(monkeypatch: pytest.MonkeyPatch, steps: int) -> dict[str, Any]:
    monkeypatch.setattr(sequence, "Integers", Watched)
    monkeypatch.setattr(Watched, "longest", {})
    monkeypatch.setattr(Watched, "compared", 0)
    network, walk = bounded()
    found = figures(network, walk, steps // (LANES * LENGTH))
    assert found["steps"] == steps and found["late"] > steps
    assert Watched.compared > 50
    assert found["words"] <= 1.0 and found["events"] <= 1.0
    found["waits"] = {}
    for source, budget in network.budgets.items():
        allowed = longest_wait(budget, network.source_size(source))
        waited = Watched.longest[source] + 1  # refused so often, then sent
        found["waits"][network.source_name(source)] = f"{waited} of {allowed}"
        assert waited <= allowed, source
    return found


def test_steps_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with few of them."""
    monkeypatch.setattr(f"{__name__}.LANES", 4)
    monkeypatch.setattr(f"{__name__}.LENGTH", 60)
    found = _million(monkeypatch, 6 * 4 * 60)
    assert found["events"] == 1.0


def test_a_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows that stand still, elements wait longer than is said."""
    monkeypatch.setattr(f"{__name__}.LANES", 4)
    monkeypatch.setattr(f"{__name__}.LENGTH", 60)
    monkeypatch.setattr(f"{__name__}.next_window", lambda window, budget, size: 0)
    with pytest.raises(AssertionError, match="assert"):
        _million(monkeypatch, 6 * 4 * 60)


@pytest.mark.slow
def test_a_million_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _million(monkeypatch, MILLION)
    print(f"\nreference: {found}")


# -- on generated hardware ------------------------------------------------------------------------


def _timed(engine: EngineModel, network: Network, row: np.ndarray) -> tuple[int, int, np.ndarray]:
    engine.clear_counters()
    y = engine.run(row, 1, network.outputs)[0][0]
    engine.wait_idle()
    return engine.read(Register.CYCLES), engine.read(Register.WORDS), y


def climbing(rng: np.random.Generator, inputs: int) -> Iterator[np.ndarray]:
    """Rows, of which those are changed further that took longest; it is sent what they took."""
    best, longest = rng.choice([-FULL, FULL], inputs), 0
    while True:
        row = best.copy()
        some = rng.random(inputs) < rng.choice([0.02, 0.1, 0.4])
        row[some] = rng.choice([-FULL, FULL, 0], int(some.sum()))
        cycles = yield -row
        if cycles >= longest:
            best, longest = row, cycles


@pytest.mark.slow
def test_many_steps_on_the_hardware() -> None:
    network, walk = bounded()
    bound = guaranteed_cycles(network, ENGINE, memory=MEMORY)
    rng = np.random.default_rng(3)
    reference = Reference(network, config=ENGINE)
    search = climbing(rng, network.inputs)
    row = next(search)
    worst_cycles = worst_words = 0
    with EngineModel(ENGINE) as engine, NetworkOnEngine(network, ENGINE, model=engine) as run:
        engine.behave(Behaviour(latency=int(MEMORY.latency)))
        run.reset()
        for k in range(HARDWARE):
            x = row if k % 2 else rng.integers(-FULL, FULL + 1, network.inputs)
            cycles, words, y = _timed(engine, network, x)
            assert np.array_equal(y, reference.step_integers(x)), k
            worst_cycles, worst_words = max(worst_cycles, cycles), max(worst_words, words)
            if k % 2:
                row = search.send(cycles)
    print(
        f"\nhardware, {HARDWARE:,} steps: {worst_words} of {bound.words} words, "
        f"{worst_cycles} of {bound.cycles} cycles"
    )
    assert worst_words <= bound.words and worst_cycles <= bound.cycles
