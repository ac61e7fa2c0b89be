"""What calibration holds out decides how weights are rounded."""

from __future__ import annotations

import numpy as np

from stillnet.sim.bench.accuracy import random_model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout
from stillnet.sw.quantization.advice import GOOD_DB, words_of_planes
from stillnet.sw.quantization.layerwise import Settings, compress_layers
from stillnet.sw.quantization.preparation import Wish, loss, make_plan, prepare
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.report import run_quantized
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


def test_what_is_held_out_decides_the_way() -> None:
    model, x = random_model("gru", np.random.default_rng(2), 10, steps=400)
    base = prepare(model, [x])
    plan = make_plan(base, Wish(), rows=True)
    best = best_rounding(plan, Settings(8, dampings=DAMPINGS), silent)
    assert set(best.scores) == {"follow 0.25", "follow 0", "nearest"}
    assert base.proof is not None
    kept = loss(plan.network(best.work), base.proof)
    assert -10 * np.log10(kept.mean()) == max(best.scores.values())
    assert best.worst == (kept.argmax(), -10 * np.log10(kept.max()))
    _, nearest = compress_layers(plan.job, Settings(8, method="nearest", passes=1))
    of_nearest = loss(plan.network(nearest), base.proof).mean()
    assert -10 * np.log10(of_nearest) == best.scores["nearest"]


def test_a_poor_output_is_advised_planes() -> None:
    model, x = random_model("gru", np.random.default_rng(2), 10, steps=400)
    network = quantize(model, x, method="nearest")
    assert network.notes["report"]["advice"] == [], "nothing was held out"
    report = quantize(model, x).notes["report"]
    held = min(r for r in report["outputs"]["snr_db"] if r is not None)
    for advice in report["advice"]:
        assert "--planes gru0,dense1 gives weights 16 bits, for about" in advice
    assert report["advice"] or held > GOOD_DB - 6


def test_words_of_planes_are_those_that_they_fetch() -> None:
    model, x = random_model("gru", np.random.default_rng(2), 10, steps=300)
    names = [layer.name for layer in model.layers]
    layout = Layout([len(x)])

    def words(network: Network, names: list[str]) -> tuple[float, float]:
        return words_of_planes(network, run_quantized(network, layout, x), names)

    _, told = words(quantize(model, x, method="nearest"), names)
    found, _ = words(quantize(model, x, method="nearest", planes=names), [])
    assert abs(told - found) < 0.05 * found
