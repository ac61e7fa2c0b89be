"""The rule of budgets: never more events, large changes first, nothing waits for ever."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.budgets import (
    CLASSES,
    admit,
    class_of,
    half_octaves,
    longest_wait,
    next_window,
    window_size,
)
from stillnet.sw.contract.events import Mode, encode, encode_within
from stillnet.sw.contract.fixed import EVENT_BITS

FULL = 32767


def test_windows_are_within_a_quarter_of_the_budget():
    for budget in range(1, 1 << 12):
        width = window_size(budget)
        assert width & (width - 1) == 0
        assert budget / 8 < width <= max(1, budget / 4)
    assert longest_wait(100, 100) == 1, "a budget for all of a vector refuses nothing"
    assert longest_wait(64, 600) == 38


def test_half_octaves():
    values = np.arange(1, 1 << EVENT_BITS)
    sizes = half_octaves(values)
    assert sizes[:8].tolist() == [0, 2, 3, 4, 4, 5, 5, 6]
    assert np.all(np.diff(sizes) >= 0)
    assert np.all(np.abs(sizes / 2 - np.log2(values)) < 0.6)
    assert class_of(np.array([3]), 3) == 0
    assert class_of(np.array([-FULL]), 1) == CLASSES - 1
    assert class_of(np.array([6, 8, 12]), 3).tolist() == [2, 3, 4]


def vectors(rng: np.random.Generator, size: int, steps: int) -> np.ndarray:
    """Silence, full scale, both ends in turn, random sizes of change."""
    scale = 2.0 ** rng.uniform(0, 15, (steps, 1))
    found = np.clip(rng.normal(0, scale, (steps, size)), -FULL, FULL).astype(np.int64)
    kind = rng.integers(0, 8, steps)
    found[kind == 0] = 0
    found[kind == 1] = FULL
    found[kind == 2] = -FULL
    return found


def run(steps: int, seed: int) -> tuple[float, float]:
    """A vector with random sizes; worst events over the budget, longest wait over its bound."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 80))
    threshold = rng.integers(0, 900, size) if rng.random() < 0.5 else int(rng.integers(0, 900))
    budget = int(rng.integers(1, size + 2))
    bound = longest_wait(budget, size)
    ref, window, waited, worst = np.zeros(size, np.int64), 0, np.zeros(size, int), [0.0, 0.0]
    for v in vectors(rng, size, steps):
        d = v - ref
        above = (d != 0) & (np.abs(d) >= threshold)
        index, value, late = encode_within(v, ref, threshold, budget, window)
        window = next_window(window, budget, size)
        assert len(index) + late == above.sum()
        assert np.array_equal(value, d[index]) and np.array_equal(ref[index], v[index])
        waited = np.where(above, waited + 1, 0)
        worst[1] = max(worst[1], float(waited.max()) / bound)
        waited[index] = 0
        worst[0] = max(worst[0], len(index) / budget)
    return worst[0], worst[1]


@pytest.mark.parametrize("seed", range(24))
def test_no_step_has_more_events_and_no_element_waits_longer(seed: int) -> None:
    events, wait = run(400, seed)
    assert events <= 1 and wait <= 1


@pytest.mark.slow
def test_a_million_steps() -> None:
    found = np.array([run(5000, 1000 + seed) for seed in range(200)])
    assert found.max() == 1.0, "both bounds are reached, and not passed"


def test_an_element_that_hovers_is_sent_while_large_ones_never_rest():
    """The smallest events, last in index, beside others that take every place in every step."""
    size, budget = 64, 8
    ref, window, sent = np.zeros(size, np.int64), 0, []
    for step in range(200):
        v = np.full(size, FULL if step % 2 else -FULL)
        v[-1] = step + 1  # a change of one per step
        index, _, _ = encode_within(v, ref, 1, budget, window)
        window = next_window(window, budget, size)
        assert len(index) == budget
        if size - 1 in index:
            sent.append(step)
    assert np.diff(sent).max() == longest_wait(budget, size)


def test_large_changes_go_first():
    d = np.array([10, 1000, 20, 5000, 30, 40, 0, 900, 11, 12, 13, 14])
    event, window = d != 0, 8
    sent = admit(d, event, 10, 6, window)  # a window of one element
    assert np.flatnonzero(sent).tolist() == [1, 3, 4, 5, 7, 8], "of the last class the first ones"
    assert admit(d, event, 10, 12, window).sum() == event.sum()
    assert np.flatnonzero(admit(d, event, 10, 1, 8)).tolist() == [8]


def test_a_budget_for_all_changes_nothing():
    rng = np.random.default_rng(5)
    ref, other, window = np.zeros(30, np.int64), np.zeros(30, np.int64), 0
    for v in vectors(rng, 30, 200):
        index, value, late = encode_within(v, ref, 70, 30, window)
        window = next_window(window, 30, 30)
        wanted = encode(Mode.DELTA, v, other, 70)
        assert late == 0
        assert np.array_equal(index, wanted[0]) and np.array_equal(value, wanted[1])
