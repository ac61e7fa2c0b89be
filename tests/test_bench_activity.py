"""Cycles are activity times density plus overheads that follow from the design."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.sim.bench_activity import Shape, calibrate, config, inputs, measure, network
from stillnet.sim.engine_model import EngineModel
from stillnet.sw.reference import Reference

EGRU = Shape("egru", 16, 64, 2)


@pytest.fixture(scope="module")
def egru() -> Iterator[EngineModel]:
    model = EngineModel(config(EGRU))
    yield model
    model.close()


@pytest.mark.parametrize(
    "activity, density", [(1, 1), (0.2, 1), (0.2, 0.25), (1, 0.1), (0.05, 0.1)]
)
def test_the_product_law_holds_within_five_percent(
    egru: EngineModel, activity: float, density: float
) -> None:
    """``measure`` also compares every output with the reference."""
    row = measure(EGRU, activity, density, egru)
    assert row["words"] == pytest.approx(row["predicted_words"], abs=1e-9)
    assert abs(row["deviation"]) < 5, row


def test_nothing_is_hidden_in_the_wait(egru: EngineModel) -> None:
    """Where columns are long, product, indices and biases explain the cycles without it."""
    row = measure(EGRU, 0.5, 0.5, egru)
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
