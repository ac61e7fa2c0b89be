"""What calibration holds out decides how weights are rounded."""

from __future__ import annotations

import numpy as np

from stillnet.sim.bench.accuracy import random_model
from stillnet.sw.quantization.layerwise import Settings, compress_layers
from stillnet.sw.quantization.preparation import Wish, make_plan, prepare, score
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.ways import DAMPINGS, best_rounding
from stillnet.sw.util.progress import silent


def test_the_last_fifth_is_held_out() -> None:
    model, x = random_model("dense", np.random.default_rng(1), 1, steps=1000)
    base = prepare(model, [x[:600], x[600:]])
    assert base.held is not None and base.proof is not None
    assert base.held.sum() == 200 and len(base.held) == 1000
    assert np.array_equal(base.proof.layout.unpack(base.proof.x)[0], x[800:])


def test_short_calibration_holds_nothing_out() -> None:
    model, x = random_model("dense", np.random.default_rng(1), 1, steps=200)
    assert prepare(model, [x]).held is None
    assert quantize(model, x).notes["options"]["held_out_db"] == {}


def test_no_way_is_better_than_the_one_that_is_kept() -> None:
    model, x = random_model("gru", np.random.default_rng(2), 10, steps=400)
    base = prepare(model, [x])
    plan = make_plan(base, Wish(), rows=True)
    best = best_rounding(plan, Settings(8, dampings=DAMPINGS), silent)
    assert set(best.scores) == {"follow 0.25", "follow 0", "nearest"}
    assert base.proof is not None
    assert score(plan.network(best.work), base.proof) == max(best.scores.values())
    _, nearest = compress_layers(plan.job, Settings(8, method="nearest", passes=1))
    assert score(plan.network(nearest), base.proof) == best.scores["nearest"]
