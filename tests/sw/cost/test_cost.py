"""The cost model: words as columns are packed, cycles as the generated hardware counts them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import MemoryModel, column_words, predict, record_events, step_words
from stillnet.sw.cost.model import ScheduleModel
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from tests.hw.test_engine_formats import CONFIGS as FORMAT_CONFIGS
from tests.support.networks.cost_cases import (
    CASES,
    CONFIGS,
    COUNTED,
    WARM,
    CostCase,
    build,
    count,
    random_network,
    vectors,
)


def predicted(
    network: Network, x: np.ndarray, config: EngineConfig, latency: int
) -> tuple[float, float, float]:
    """As ``cost_cases.count``."""
    events, words = record_events(network, x, config)
    model = ScheduleModel(network, config, MemoryModel(latency=latency))
    together, single = (np.mean(model.run(events[WARM:], streaming=s)) for s in (True, False))
    return float(np.mean(words[WARM:])), float(together), float(single)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cycles_are_those_that_the_hardware_counted(case: CostCase) -> None:
    """Nothing in the model was fitted: its numbers are stages of the hardware."""
    network, x, config = build(case)
    words, together, single = predicted(network, x, config, case.latency)
    counted = COUNTED[CASES.index(case)]
    assert words == counted[0]
    assert together == pytest.approx(counted[1], rel=0.02)
    assert single == pytest.approx(counted[2], rel=0.02)


@pytest.fixture(scope="module")
def small_engine() -> Iterator[EngineModel]:
    """An engine of ``test_engine_formats``: few words in flight, the cell hardly reads ahead."""
    with EngineModel(FORMAT_CONFIGS["both"]) as model:
        yield model


@pytest.mark.parametrize(
    "case",
    [
        CostCase("both", "three", 4, "any", 0.4, "step", 12),
        CostCase("both", "40-gru128", 4, "8 of 16", 0.5, "bitmap", 12),
        CostCase("both", "12-gru90", 8, "all", 1.0, "dense", 4),
        CostCase("both", "16-gru64", 4, "1 of 4", 0.25, "place", 12),
        CostCase("both", "16-gru32", 8, "blocks", 0.5, "block", 4),
    ],
    ids=str,
)
def test_cycles_of_the_hardware_as_it_is(small_engine: EngineModel, case: CostCase) -> None:
    network, x, config = build(case, small_engine.config, seed=case.latency)
    words, together, single = count(network, x, small_engine, case.latency)
    found = predicted(network, x, config, case.latency)
    assert found[0] == words
    assert found[1:] == pytest.approx((together, single), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_hardware_still_counts_the_same(name: str) -> None:
    with EngineModel(CONFIGS[name]) as model:
        for case, counted in zip(CASES, COUNTED):
            if case.config == name:
                network, x, _ = build(case)
                assert count(network, x, model, case.latency) == counted, case


def test_words_are_those_of_the_packed_columns():
    engine = EngineConfig(lanes=2, int4=True, formats=FORMATS, columns=512)
    case = CostCase("", "three", 4, "any", 0.3, None, 0)
    network, x, config = build(case, engine, seed=1)
    x = x[:30]
    layout = Layout([30])
    trace = run_integers(network, layout, layout.pack([x]))
    reference, words, columns = Reference(network, config=config), 0, 0
    for row in x:
        reference.step_integers(row)
        words += reference.last.words
        columns += sum(reference.last.events.values())
    assert step_words(network, config, trace) * 30 == pytest.approx(words)
    cost = predict(network, x, config)
    assert (cost.words * 30, cost.columns * 30) == pytest.approx((words, columns))
    assert cost.bytes == pytest.approx(cost.words * 2)
    assert cost.milliseconds == pytest.approx(cost.cycles / 1e5)
    assert cost.cycles > cost.words / 0.9899
    lengths = column_words(network, config)
    first = network.layers[0].matrices[0].layout("gru", config).lengths
    assert np.array_equal(lengths[INPUT], first) and len(set(first)) > 1


def test_other_events_are_refused():
    network = random_network((4, [("relu", 4), ("linear", 2)]), 1)
    network.layers[0].mode = Mode.NONZERO
    with pytest.raises(
        StillnetError,
        match="^network 'network' has other events than differences under one threshold; the cost "
        "model knows only these$",
    ):
        predict(network, vectors(4, 3, 0), CONFIGS["dense"])
