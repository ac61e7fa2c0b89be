"""The worst step of a network: never passed by the generated hardware, whatever its input is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from stillnet.boards.catalogue import board
from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import PARTS
from stillnet.sim.engine.counted import counted_run
from stillnet.sim.engine.equivalence import run_engine
from stillnet.sim.engine.model import Behaviour
from stillnet.sim.sdram.simulation import SdramSimulation, Traffic
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.guarantee import GuaranteeModel, guaranteed_cycles
from stillnet.sw.cost.memory import WorstMemory
from stillnet.sw.network.network import Network
from tests.hw.test_engine_budgets import CONFIGS, busy_case
from tests.support.networks.formats import format_case
from tests.support.networks.random import Bench, random_case
from tests.support.sampling import some

FULL = 32767


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    """The engines of ``test_engine_budgets``."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


def adversarial(network: Network, steps: int, seed: int) -> np.ndarray:
    """Silence, then full scale, then everything turned over in each step, then noise."""
    rng = np.random.default_rng(seed)
    if network.input_mode.one_hot:
        return rng.integers(-1, network.inputs, (steps, 1))
    x = rng.integers(-FULL, FULL + 1, (steps, network.inputs))
    x[0] = x[1] = 0
    x[2] = FULL
    third = np.arange(3, steps // 2)
    x[third] = np.where(third % 2, -FULL, FULL)[:, None]
    return x


def worst_share(bench: Bench, network: Network, seed: int, latency: int) -> float:
    """The longest of some steps, one by one and back to back, over what is guaranteed."""
    config, x = bench.config, adversarial(network, 14, seed)
    memory = WorstMemory(latency=latency)
    bound = guaranteed_cycles(network, config, memory=memory)
    run = run_engine(network, x, config, behaviour=Behaviour(latency=latency), model=bench.model)
    assert run.difference is None
    assert max(step["words"] for step in run.per_step) <= bound.words
    longest = max(step["cycles"] for step in run.per_step)
    together = counted_run(network, x, bench.model, warm=2, latency=latency)["cycles"]
    return max(longest, together) / bound.cycles


@pytest.mark.parametrize("latency", some([1, 8, 40], 8))
@pytest.mark.parametrize("name", CONFIGS)
def test_no_step_passes_the_guarantee(
    benches: dict[str, Bench], name: str, latency: int, thorough: bool
) -> None:
    bench = benches[name]
    shares = []
    for seed in range(12 if thorough else 4):
        case = format_case(seed, bench.config) if name == "all" else None
        network = (case or random_case(seed, bench.config)).network
        network.input_threshold = 0
        shares.append(worst_share(bench, network, seed, latency))
        network.budgets = {}
        shares.append(worst_share(bench, network, seed, latency))
    assert max(shares) <= 1.0, shares


@pytest.mark.parametrize("name", CONFIGS)
def test_budgets_bound_a_network_that_never_rests(benches: dict[str, Bench], name: str) -> None:
    bench = benches[name]
    network = busy_case(bench.config, 1).network
    free = GuaranteeModel(network, bench.config, WorstMemory(latency=8)).of({})
    bound = guaranteed_cycles(network, bench.config, memory=WorstMemory(latency=8))
    assert bound.cycles < 0.9 * free.cycles and bound.words < 0.7 * free.words
    assert worst_share(bench, network, 1, 8) <= 1.0


SDRAMS = [
    ("16M16-any", 100, 16),
    ("IS42S16160", 133, 64),
    ("EM638325", 133, 64),
    ("EM638325", 45, 32),
    ("M12L16161A-x2", 95, 32),  # of two banks
]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "mhz", "bits"), SDRAMS)
def test_an_sdram_is_never_slower(part: str, mhz: int, bits: int) -> None:
    """Columns of any length, each in another row of the same bank, at all borders between rows;
    and columns anywhere, of any length."""
    target = replace(board("ulx3s-12f"), part=part, clock_hz=mhz * 1_000_000)
    p = PARTS[part]
    per = bits // p.data_bits
    controller = SdramController(
        p,
        target.clock_hz,
        address_bits=p.address_bits - (per.bit_length() - 1),
        word_bits=bits,
        input_delay=2,
        startup_us=1,
        power_down=target.power_down,
    )
    config = EngineConfig(lanes=bits // 8, bus_bits=p.data_bits)
    worst = target.worst_memory(config)
    row, columns = (1 << p.column_bits) // per, 600
    rng = np.random.default_rng(0)
    with SdramSimulation(controller, optimise="-O1") as sdram:

        def check(reads: list[tuple[int, int]], what: object) -> None:
            begin = sdram.cycle
            run = sdram.run(reads, traffic=Traffic(tail=0))
            lengths = np.array([length for _, length in reads])
            served = lengths * worst.word_cycles + worst.column_cycles
            served = np.maximum(served, worst.least_cycles)
            busy = (served + -(-(lengths - 1) // worst.row_words) * worst.row_cycles).sum()
            bound = busy + worst.pauses(float(busy), 0.0) + worst.latency
            assert sdram.cycle - begin <= bound, what
            if len(reads) == 1:  # refresh comes first, or it has just gone to sleep
                most = worst.latency + worst.start + worst.wake
                assert run.first[0] - run.accepted[0] <= most, what

        sdram.start()
        for length in (1, 2, 4, 8, 16, 64, 200):
            for at in (0, row - 1, max(0, row - length // 2)):
                places = [7 * k % ((1 << p.row_bits) - 4) * row * p.banks for k in range(columns)]
                check([(k + at, length) for k in places], (length, at))
        for seed in range(40):
            longest = int(rng.choice([2, 4, 20, 300]))
            where = rng.integers(0, (1 << p.row_bits - 1) * row * p.banks, columns)
            if seed % 2:  # in few rows, so that banks are told other ones all the time
                where = where % (8 * row * p.banks)
            lengths = rng.integers(1, longest + 1, columns)
            check(list(zip(where.tolist(), lengths.tolist())), seed)
            for _ in range(20):
                sdram.ticks(int(rng.integers(0, 300)))
                check([(int(rng.integers(100)) * row * p.banks, 2)], "alone")


def test_words_are_those_of_the_longest_columns():
    network = busy_case(CONFIGS["all"], 1).network
    model = GuaranteeModel(network, CONFIGS["all"])
    for budgets in (network.budgets, {}, {INPUT: 1}):
        found = model.of(budgets)
        assert found.cycles == sum(found.parts.values()) >= found.words
    assert all(network.source_mode(s) is Mode.DELTA for s in network.budgets)
