"""Budgets on the engine: every integer, every late event and every window as the reference says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.sources import INPUT, encoder_select
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.networks.formats import format_case
from tests.support.networks.random import (
    Bench,
    Case,
    Seeded,
    engine_config,
    random_case,
    random_network,
)
from tests.support.sampling import some

CONFIGS: dict[str, EngineConfig] = {
    "plain": engine_config(budgets=True),
    "in turn": engine_config(
        lanes=4, cells=("gru", "linear", "relu"), cell_sharing=4, budgets=True
    ),
    "all": engine_config(
        lanes=8,
        cells=("gru", "linear", "relu"),
        budgets=True,
        cell_width=4,
        int4=True,
        formats=FORMATS,
        columns=512,
        hot_words=150,
        element_thresholds=True,
    ),
}


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    """One engine of each configuration; compiled when first used."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


def cases(config: EngineConfig, count: int) -> Iterator[Case]:
    """Random networks with budgets, and random ones with pruned columns where the engine reads
    them."""
    for seed in range(count):
        yield random_case(seed, config)
        if config.sparse:
            yield format_case(seed, config)


def busy_case(config: EngineConfig, steps: int) -> Case:
    """Three layers with recurrences whose vectors never rest, with budgets that refuse much."""
    for seed in range(1000):
        network = random_network(Seeded(seed), config)
        modes = [network.source_mode(s) for s in range(INPUT, len(network.layers))]
        if len(network.layers) >= 3 and all(mode is Mode.DELTA for mode in modes):
            break
    network.input_threshold = 0
    for layer in network.layers:
        layer.threshold = 0
        layer.thresholds = None
    network.input_thresholds = None
    least = 4 * config.cell_width
    network.budgets = {
        s: max(1 if s == INPUT else least, network.source_size(s) // 3)
        for s in range(INPUT, len(network.layers))
    }
    x = np.random.default_rng(3).integers(-32768, 32768, (steps, network.inputs))
    return Case(network, x, x[:0], Behaviour(), streaming=False)


def sized_case(config: EngineConfig, steps: int) -> Case:
    """The same with a threshold at the input, and changes of every size above and below it."""
    case = busy_case(config, steps)
    case.network.input_threshold = 200
    rng = np.random.default_rng(5)
    size = 2.0 ** rng.uniform(6, 12, case.inputs.shape)
    return dataclasses.replace(case, inputs=(size * rng.choice([-1, 1], size.shape)).astype(int))


@pytest.mark.parametrize("name", some(CONFIGS, "all"))
def test_random_networks(benches: dict[str, Bench], name: str, thorough: bool) -> None:
    bench = benches[name]
    count = 40 if thorough else 7
    late = sum(sum(bench.check(case).late.values()) for case in cases(bench.config, count))
    assert late > count


@pytest.mark.parametrize("name", some(CONFIGS, "all"))
def test_every_step_is_within_its_budget(benches: dict[str, Bench], name: str) -> None:
    bench = benches[name]
    bench.check(sized_case(bench.config, 30))
    case = busy_case(bench.config, 30)
    run = bench.check(case)
    steps = len(case.inputs)
    for source, budget in case.network.budgets.items():
        assert run.events[case.network.source_name(source)] <= steps * budget
    assert sum(run.late.values()) > 5 * steps


def test_the_invariant_holds(benches: dict[str, Bench]) -> None:
    network = busy_case(CONFIGS["plain"], 1).network
    reference = Reference(network)
    rng = np.random.default_rng(11)
    for _ in range(40):
        reference.step_integers(rng.integers(-32768, 32768, network.inputs))
        assert sum(reference.last.late.values())
        for i in range(len(network.layers)):
            assert np.array_equal(reference.accumulators[i], reference.expected_accumulators(i))


def test_a_host_changes_budgets_while_it_runs(benches: dict[str, Bench]) -> None:
    bench = benches["plain"]
    case = busy_case(bench.config, 12)
    network, model = case.network, bench.model
    reference = Reference(network, config=bench.config)
    with NetworkOnEngine(network, bench.config, model=model) as engine:
        engine.reset()
        for step, x in enumerate(case.inputs):
            if step % 3 == 2:
                for source in network.budgets:
                    budget = 1 + (7 * step + source) % network.source_size(source)
                    model.set_budget(encoder_select(source), budget)
                    network.budgets[source] = budget
            y = reference.step_integers(x)
            assert np.array_equal(model.run(x, 1, network.outputs)[0][0], y)
            model.wait_idle()
            assert engine.compare(reference, step) is None
        # Without a budget everything that is late comes at once.
        for source in network.budgets:
            model.set_budget(encoder_select(source), 0)
        model.run(x, 1, network.outputs)
        model.wait_idle()
        assert np.array_equal(engine.reference(INPUT), x)


def test_budgets_of_the_image_before_are_gone(benches: dict[str, Bench]) -> None:
    bench = benches["plain"]
    bench.check(busy_case(bench.config, 2))
    free = busy_case(bench.config, 6)
    free.network.budgets = {}
    assert bench.check(free).late == {}


def test_wrong_budgets_are_refused() -> None:
    network = busy_case(CONFIGS["plain"], 1).network
    network.budgets = {INPUT: 0}
    with pytest.raises(StillnetError, match="a budget must be 1 to 65535"):
        network.validate()
    network.budgets = {9: 4}
    with pytest.raises(StillnetError, match="no vector 9 to budget"):
        network.validate()
    network.budgets = {INPUT: 4}
    with pytest.raises(StillnetError, match="has budgets, engine 'test' does not"):
        pack(network, engine_config())
    layer = busy_case(CONFIGS["plain"], 1).network
    layer.budgets = {0: 3}
    with pytest.raises(StillnetError, match="cell_width = 4 needs 16 or more"):
        pack(layer, engine_config(budgets=True, cell_width=4))
    network.input_mode, network.budgets = Mode.NONZERO, {INPUT: 3}
    with pytest.raises(StillnetError, match="cannot come later"):
        network.validate()
    with pytest.raises(StillnetError, match="second_threshold and budgets exclude"):
        EngineConfig(second_threshold=True, budgets=True)


def test_budgets_travel_in_the_file(tmp_path) -> None:
    network: Network = busy_case(CONFIGS["plain"], 1).network
    network.save(tmp_path / "n.safetensors")
    assert Network.load(tmp_path / "n.safetensors").budgets == network.budgets
    image = pack(network, CONFIGS["plain"])
    assert image.notes["budgets"] == {str(s): b for s, b in network.budgets.items()}
