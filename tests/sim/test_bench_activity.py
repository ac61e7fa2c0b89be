"""Cycles are activity times density plus overheads that follow from the design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from stillnet.sim.bench.activity import Shape, calibrate, config, inputs, measure, network
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.cost import port, stages, walk
from stillnet.sw.network.reference import Reference
from tests.support.sampling import some

SMALL = {
    "egru": Shape("egru", 16, 64, 2),
    "s5": Shape("s5", 16, 48, 2, 24),
    "gru": Shape("gru", 16, 64, 2),
}
"""So small that waits are a large part of a step, most of it for S5."""

DENSE = {"formats": ("dense",), "columns": 0}
ENGINES = {
    "wide": (
        "s5",
        replace(config(SMALL["s5"]), cell_width=2, cell_sharing=2, int4=True, row_scale=True),
    ),
    "dense": ("egru", replace(config(SMALL["egru"]), **DENSE)),
    "dense, 16 lanes": ("s5", replace(config(SMALL["s5"]), lanes=16, **DENSE)),
}


class Engines(dict[str, EngineModel]):
    """An engine for each network, compiled when it is first asked for."""

    def __missing__(self, kind: str) -> EngineModel:
        self[kind] = EngineModel(config(SMALL[kind]))
        return self[kind]


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, EngineModel]]:
    models = Engines()
    yield models
    for model in models.values():
        model.close()


@pytest.mark.parametrize("kind", some(SMALL, "egru"))
@pytest.mark.parametrize(
    "activity, density", [(1, 1), (0.2, 1), (0.2, 0.25), (1, 0.1), (0.05, 0.1)]
)
def test_the_product_law_holds_within_two_percent(
    engines: dict[str, EngineModel], kind: str, activity: float, density: float
) -> None:
    """``measure`` also compares every output with the reference."""
    row = measure(SMALL[kind], activity, density, engines[kind])
    assert row["words"] == pytest.approx(row["predicted_words"], abs=1e-9)
    assert abs(row["deviation"]) < 2, row


def random_point(seed: int, kind: str | None = None) -> tuple[Shape, float, float, int]:
    """A network, activity, density and latency that the cost model was not written beside."""
    rng = np.random.default_rng(seed)
    kind = kind or str(rng.choice(list(SMALL)))
    units = int(rng.integers(40, 260))
    states = int(rng.integers(20, 130)) if kind == "s5" else 0
    shape = Shape(kind, int(rng.integers(4, 60)), units, int(rng.integers(1, 3)), states)
    activity, density = np.exp(rng.uniform(np.log(0.03), 0, 2))
    return shape, float(activity), float(max(density, 0.08)), int(rng.choice([1, 8, 30]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 124))
def test_any_other_point_is_within_two_percent(engines: dict[str, EngineModel], seed: int) -> None:
    shape, activity, density, latency = random_point(seed)
    row = measure(
        shape, activity, density, engines[shape.kind], latency=latency, seed=seed, steps=4
    )
    assert row["words"] == pytest.approx(row["predicted_words"], abs=1e-9)
    assert abs(row["deviation"]) < 2, (shape, latency, row)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_any_engine_is_within_two_percent(name: str) -> None:
    """Wide cells that share multipliers and scale rows; engines that read only dense columns."""
    kind, engine = ENGINES[name]
    with EngineModel(engine) as model:
        for seed in range(200, 206):
            shape, activity, density, latency = random_point(seed, kind)
            density = density if engine.sparse else 1.0
            row = measure(shape, activity, density, model, latency=latency, seed=seed)
            assert abs(row["deviation"]) < 2, (shape, latency, row)


STAGES = {
    "list": (walk, ("EMIT",)),
    "decision": (walk, ("DECIDE", "EMIT", "EMIT_BIAS", "PASS")),
    "address": (port, ("REQUEST",)),
    "units": (stages, ("TO_CELL",)),
    "encoder": (walk, ("ENCODE",)),
}
"""Ways through the engine that contain the stage."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_too_many_is_seen(
    engines: dict[str, EngineModel], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where waits are most of a step, ten cycles at one stage are more than five percent."""
    module, ways = STAGES[stage]
    for way in ways:
        monkeypatch.setattr(module, way, getattr(module, way) + 10)
    row = measure(SMALL["s5"], 0.2, 0.25, engines["s5"])
    assert abs(row["deviation"]) > 5, row


def test_nothing_is_hidden_in_the_wait(engines: dict[str, EngineModel]) -> None:
    """Where columns are long, product, indices and biases explain the cycles without it."""
    row = measure(SMALL["egru"], 0.5, 0.5, engines["egru"])
    assert row["wait"] < 0.04 * row["cycles"]
    assert row["product"] == pytest.approx(row["activity"] * row["density"])
    assert row["predicted_cycles"] < 0.5 * row["dense_words"]


@pytest.mark.parametrize("kind", ["egru", "s5", "gru"])
@pytest.mark.parametrize("activity", [0.2, 1.0])
def test_thresholds_set_the_activity(kind: str, activity: float) -> None:
    shape = Shape(kind, 16, 64, 1, 32 if kind == "s5" else 0)
    net, x = network(shape, 0.5), inputs(shape, activity, 14)
    net.validate()
    calibrate(net, activity, x, 4)
    reference = Reference(net)
    events = []
    for row in x:
        reference.step_integers(row)
        events.append([reference.last.events[i] for i in range(len(net.layers))])
    units = [layer.units for layer in net.layers]
    assert np.allclose(np.mean(events[4:], axis=0) / units, activity, atol=0.08)
