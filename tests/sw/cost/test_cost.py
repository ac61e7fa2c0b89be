"""The cost model: words as columns are packed, cycles as the generated hardware counts them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import FORMATS, Kind
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.cost.cost import column_words, predict, record_events, step_words
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.cost.schedule import ScheduleModel
from stillnet.sw.cost.table import Table
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from stillnet.sw.packing.packer import pack
from tests.hw.test_engine_formats import CONFIGS as FORMAT_CONFIGS
from tests.support.networks.cost_cases import (
    CASES,
    CONFIGS,
    COUNTED,
    STEPS,
    WARM,
    CostCase,
    build,
    count,
    random_network,
)
from tests.support.networks.random import Seeded, engine_config, random_inputs
from tests.support.networks.random import random_network as any_network
from tests.sw.packing.test_pack_cells import S5, records, s5_network


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


@pytest.mark.parametrize("seed", range(24))
def test_words_of_any_events(seed: int) -> None:
    """Of differences and plain events, vectors and tokens, one encoder and two."""
    config = engine_config(second_threshold=True, cells=("gru", "linear", "relu", "tanh"))
    choices = Seeded(seed)
    network = any_network(choices, config)
    events, words = record_events(network, random_inputs(choices, network, 12), config)
    table = Table(network, config)
    found = []
    for fired in events:
        matrices = (e for e in table.entries if not e.bias)
        columns = sum(sum(e.lengths[k] for k in fired[e.source]) for e in matrices)
        found.append(columns + sum(e.longest for e in table.entries if e.bias))
    assert found == words.tolist()


@pytest.mark.slow
def test_cycles_of_any_events() -> None:
    """Tokens, plain events, two encoders. Layers of a unit may take a run more than predicted."""
    cells = ("gru", "relu", "linear", "tanh", "sigmoid")
    room = {"units": 1024, "inputs": 128, "accumulators": 1024}
    config = engine_config(second_threshold=True, cells=cells, **room)
    off = []
    with EngineModel(config) as model:
        for seed in range(200, 212):
            choices = Seeded(seed)
            network = any_network(choices, config, max_units=200)
            x = random_inputs(choices, network, WARM + STEPS)
            words, together, single = count(network, x, model, 8)
            found = predicted(network, x, config, 8)
            assert found[0] == pytest.approx(words)
            off += [abs(found[1] / together - 1), abs(found[2] / single - 1)]
    assert np.mean(off) < 0.02 and max(off) < 0.1


def test_a_token_that_leaves_comes_first() -> None:
    network = random_network((4, [("relu", 4), ("linear", 2)]), 1)
    network.input_mode, network.input_threshold = Mode.ONE_HOT, 0
    rows = np.array([[2], [1], [1], [-1], [3]])
    events, _ = record_events(network, rows, CONFIGS["dense"])
    assert [e[INPUT].tolist() for e in events] == [[2], [2, 1], [], [1], [3]]


def test_the_table_is_that_of_the_image() -> None:
    """Matrices in the order in which the packer lists them, behind as many biases."""
    config = engine_config(second_threshold=True, cells=("gru", "linear", "relu", "tanh"))
    cases = [(any_network(Seeded(seed), config), config) for seed in range(24)]
    cases.append((s5_network(), EngineConfig(lanes=4, cells=S5)))
    for network, engine in cases:
        _, rows = records(pack(network, engine).data, engine)
        table = Table(network, engine)
        assert table.length == len(rows)
        assert table.first == sum(row["kind"] == Kind.BIAS for row in rows)
        for entry in table.entries:
            row = rows[entry.place]
            assert (row["kind"], row["target"]) == (entry.kind, entry.target)
            assert row["recurrent"] == entry.recurrent
            assert row["column_words"] == entry.longest
            if not entry.bias:
                source = entry.source if entry.source == INPUT else entry.source % SECOND
                assert row["source"] == source + 1
