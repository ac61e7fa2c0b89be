"""Budgets through the driver: state with its windows, changes while it runs, late events."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.reference import Reference
from tests.support.link_bench import CONFIGS, board, connect
from tests.support.networks.quick import quantize


def small_model() -> tuple[Model, np.ndarray]:
    """Two GRUs of 24 units, and an input that never rests."""
    rng = np.random.default_rng(2)
    model = Model(20, name="small")
    for name, size in (("gru1", 20), ("gru2", 24)):
        w, u = (rng.normal(0, 0.4, (72, n)) for n in (size, 24))
        model.gru(w, u, rng.normal(0, 0.2, 72), name=name)
    model.dense(rng.normal(0, 0.3, (4, 24)), name="out")
    return model, np.cumsum(rng.normal(0, 0.2, (90, 20)), axis=0)


def test_a_board_keeps_budgets() -> None:
    model, walk = small_model()
    network = quantize(model, walk[:60], thresholds=0.05)
    network.budgets = {INPUT: 7, 0: 9, 1: 8}
    config = CONFIGS["budgets"]
    bench = board("budgets")
    engine = connect(bench)
    engine.load(network)
    reference = Reference(network, config=config)
    late: dict[str, int] = {}

    def steps(rows: np.ndarray) -> None:
        for row in rows:
            assert np.array_equal(engine.step_integers(row), reference.step_integers(row))
            for source, count in reference.last.late.items():
                name = network.source_name(source)
                late[name] = late.get(name, 0) + count

    rows = network.quantize_input(walk[60:90])
    steps(rows[:10])
    state = engine.get_state()
    wanted = reference.get_state()
    assert state.keys() == wanted.keys() and state["1/window"].shape == (1,)
    for name, value in wanted.items():
        assert np.array_equal(state[name], value), name
    steps(rows[10:16])
    counted = engine.counters()["late"]
    assert {name: counted[name] for name in late} == late and sum(late.values()) > 50
    engine.set_state(state)
    reference.set_state(wanted)
    steps(rows[10:16])
    for where, events in (("gru1", 5), ("input", 20), (1, 16)):
        engine.set_budget(where, events)
    network.budgets = {INPUT: 20, 0: 5, 1: 16}
    steps(rows[16:22])
    with pytest.raises(StillnetError, match="budget of 'gru1' must be 0 for none, or 4 to 65535"):
        engine.set_budget("gru1", 3)
    with pytest.raises(StillnetError, match="no vector 'gru9'"):
        engine.set_budget("gru9", 30)
    bench.end()


def test_an_engine_without_budgets_says_so() -> None:
    model, walk = small_model()
    bench = board("wide")
    engine = connect(bench)
    engine.load(quantize(model, walk[:60], thresholds=0.05, row_steps=False))
    with pytest.raises(StillnetError, match="has no budgets; build one with budgets = true"):
        engine.set_budget("gru1", 30)
    assert "late" not in engine.counters()
    bench.end()
