"""Scenes that are left out: how they are cut, what they foretell, and budgets that hold on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stillnet.sw.compression import CompressOptions, compress, pipeline
from stillnet.sw.compression.options import engine_for
from stillnet.sw.compression.sweep import measure
from stillnet.sw.compression.unheard import Unheard, scenes, tightened
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.quantization.limits import Budget

INPUTS = 6


def speaker(seed: int, steps: int = 120) -> np.ndarray:
    """A recording of a kind of its own: other elements are loud, and it moves at another pace."""
    rng = np.random.default_rng(seed)
    pace, level = rng.uniform(0.7, 0.97), rng.uniform(0.2, 1.0, INPUTS)
    x = np.zeros((steps, INPUTS))
    for t in range(1, steps):
        x[t] = pace * x[t - 1] + math.sqrt(1 - pace**2) * level * rng.normal(size=INPUTS)
    return x


def gru(seed: int = 0, units: int = 12) -> Model:
    rng = np.random.default_rng(seed)
    model = Model(INPUTS, name="gru")
    model.gru(
        rng.normal(0, 0.6, (3 * units, INPUTS)),
        rng.normal(0, 0.3, (3 * units, units)),
        rng.normal(0, 0.2, 3 * units),
        rng.normal(0, 0.2, 3 * units),
    )
    return model.dense(rng.normal(0, 0.5, (3, units)), rng.normal(0, 0.2, 3))


def test_scenes_are_recordings_or_pieces_of_the_longest() -> None:
    a, b, c = (np.full((n, 2), float(n)) for n in (100, 60, 50))
    two = scenes([a, b, c], 3)
    assert [[len(p) for p in s] for s in two] == [[100], [60], [50]]
    four = scenes([a, b], 4)
    assert [[len(p) for p in s] for s in four] == [[50], [50], [30], [30]]
    grouped = scenes([a, b, c, a], 2)
    assert [len(s) for s in grouped] == [2, 2]
    assert np.array_equal(np.concatenate(sum(four, [])), np.concatenate([a, b]))


@pytest.mark.parametrize("count", [1, 0, -3, 9])
def test_too_few_or_too_short_scenes_are_refused(count: int) -> None:
    with pytest.raises(StillnetError, match=f"--leave-out {count}: 100 steps.*take 2 to 5"):
        scenes([np.zeros((100, 2))], count)


def test_the_interval_is_that_of_one_more_scene() -> None:
    found = Unheard([1.0, 2.0, 4.0])
    middle, low, high = found.expected(0.1)
    assert middle == pytest.approx(0.2)
    # By hand: logarithms 0, ln 2, 2 ln 2 spread by ln 2; t of two degrees of freedom is 2.92.
    spread = 2.92 * math.log(2) * math.sqrt(4 / 3)
    assert (low, high) == pytest.approx((0.2 * math.exp(-spread), 0.2 * math.exp(spread)))
    assert found.high == pytest.approx(2 * math.exp(math.log(2) / math.sqrt(3)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CompressOptions(max_error=0.02), 0.01),
        (CompressOptions(max_error=Budget(0.02)), 0.01),
        (CompressOptions(mean_error=0.02), 0.01),
        (CompressOptions(frame_ms=1.0), math.inf),
    ],
)
def test_only_budgets_of_error_are_tightened(options: CompressOptions, expected: float) -> None:
    assert tightened(options, Unheard([2.0, 2.0])).budget.error == expected
    assert tightened(options, Unheard([0.5, 0.5])) == options, "never loosened"


def test_a_budget_holds_on_speakers_never_heard() -> None:
    """Others judge: without scenes left out their error passes the budget, with them not, and it is
    about what was foretold."""
    model, heard = gru(), [speaker(s, 40) for s in range(6)]
    unheard = [speaker(s) for s in range(100, 132)]
    options = CompressOptions(sparsity=0.5, mean_error=0.09, refits=0)
    config = engine_for(options)
    plain = compress(model, heard, options)
    held = compress(model, heard, options, leave_out=6)
    found = held.notes["compression"]["unheard"]
    assert len(found["ratios"]) == 6 and found["low"] < found["expected"] < found["high"]
    assert "unheard" not in plain.notes["compression"]
    errors = [measure(model, n, unheard, config)["error"] for n in (plain, held)]
    assert errors[0] > 0.1 > 0.09 > errors[1] > 0.07
    assert 0.9 * found["expected"] < errors[1] < 1.1 * found["expected"]


def test_a_refusal_says_that_the_budget_was_tightened(monkeypatch) -> None:
    model, heard = gru(), [speaker(s, 40) for s in range(3)]
    dense = CompressOptions(sparsity=0.5, refits=0)
    least = compress(model, heard, dense).notes["compression"]["output_error"]
    options = replace(dense, mean_error=2 * least)
    monkeypatch.setattr(pipeline, "left_out", lambda *_: Unheard([4.0, 4.0, 4.0]))
    compress(model, heard, options)  # within reach
    with pytest.raises(
        StillnetError, match=r"cannot be kept.*\. The budget was tightened.* 4\.00 "
    ):
        compress(model, heard, options, leave_out=3)


def test_the_same_again_from_stages(tmp_path) -> None:
    model, heard = gru(), [speaker(s) for s in range(3)]
    options = CompressOptions(mean_error=0.1, refits=0)
    first, again = (compress(model, heard, options, leave_out=3, folder=tmp_path) for _ in range(2))
    assert first.notes["compression"] == again.notes["compression"]
    assert sorted(p.name for p in tmp_path.glob("without-*")) == [f"without-{k}" for k in range(3)]
