"""The worst step on a board: its SDRAM, timings, clocks, refresh and sleep, and never passed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.boards.board import PIN_REGISTERS, Board
from stillnet.boards.catalogue import BOARDS, board, of_preset, presets
from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.sim.bench.deadline import walk_model
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.deadline import place_of
from stillnet.sw.cost.guarantee import Guarantee, guaranteed_cycles
from stillnet.sw.cost.memory import SdramFacts, WorstMemory
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.networks.quick import quantize
from tests.support.networks.random import engine_config

FULL = 32767

SMALL = {
    "units": 256,
    "inputs": 64,
    "accumulators": 1024,
    "cells": ("gru", "linear"),
    "row_scale": True,
    "budgets": True,
    "memory": "port",
}


def small(target: Board) -> EngineConfig:
    """A small engine for a board's memory; with a hot store where the board has one."""
    own = target.config()
    more = {"lanes": own.lanes, "bus_bits": own.bus_bits, "bus_clock": own.bus_clock}
    more |= {"address_bits": own.address_bits, "columns": own.columns}
    more |= {"hot_words": 1024} if own.hot_words else {}
    return engine_config(**{**SMALL, **more})


@pytest.mark.parametrize("name", [n for n in presets() if of_preset(n).sdram is not None])
def test_facts_are_those_of_the_controller(name: str) -> None:
    target = of_preset(name)
    assert target is not None and target.sdram is not None
    clock, config = target.memory_hz or target.clock_hz, target.config()
    sdram = SdramController(
        target.sdram,
        clock,
        config.address_bits,
        config.word_bits,
        input_delay=PIN_REGISTERS,
        far=target.memory_hz is not None,
        power_down=target.power_down,
    )
    facts, t = target.sdram_facts(), sdram.timings
    for field in ("cas_latency", "trcd", "trp", "tras", "trc", "trfc", "refresh_interval"):
        assert getattr(facts, field) == getattr(t, field), field
    assert (facts.txp, facts.tcke) == (t.txp, t.tcke)
    assert (facts.postponed, facts.power_down) == (sdram.postponed, sdram.power_down or 0)
    assert facts.row_bits == sdram.part.data_bits << sdram.part.column_bits
    worst = target.worst_memory()
    assert config.bus_clock == (0 if target.memory_hz is None else clock / target.clock_hz)
    assert worst == WorstMemory.sdram(config, facts)


def test_the_place_of_an_engine() -> None:
    assert place_of("sdram16").clock_mhz == 100 and place_of("sdram16", 80.0).board is None
    assert place_of("colorlight-i5").clock_mhz == 100
    tiers = place_of("ulx3s-85f-tiers")
    assert tiers.board == board("ulx3s-85f").tiered() and tiers.clock_mhz < 100
    config = board("ulx3s-85f").config()
    slow = place_of("ulx3s-85f").memory(config)
    fast = place_of("ulx3s-85f", sdram="W9825G6KH").memory(config)
    assert fast.column_cycles < slow.column_cycles and fast.least_cycles < slow.least_cycles
    late = place_of("ulx3s-85f", 50.0).memory(config)
    assert late.column_cycles < slow.column_cycles and late.refresh_share > slow.refresh_share
    with pytest.raises(StillnetError, match="preset 'axi64' is no board"):
        place_of("axi64", sdram="W9825G6KH")
    with pytest.raises(StillnetError, match="a clock of 500 MHz"):
        place_of("ulx3s-85f", 500.0)
    with pytest.raises(StillnetError, match="has no SDRAM, and its engine has no budgets"):
        board("icebreaker").worst_memory()


def test_without_a_board_any_part_is_covered() -> None:
    """The defaults are no faster than any board's memory at 100 MHz or more."""
    usual = SdramFacts()
    for name, target in BOARDS.items():
        if target.sdram is None or target.clock_hz < 95e6:
            continue
        for made in (target, target.tiered()) if target.can_tier else (target,):
            facts = made.sdram_facts()
            for field in ("row_change", "least", "refresh", "wake"):
                assert getattr(facts, field) <= getattr(usual, field), (name, field)
            share = facts.refresh / facts.refresh_interval
            assert share <= usual.refresh / usual.refresh_interval
            assert facts.latency(1) <= usual.latency(1)


# -- on generated hardware ------------------------------------------------------------------------


class Bench:
    """A virtual board with a small engine, and the worst that was seen of a network on it."""

    def __init__(self, target: Board) -> None:
        self.config = small(target)
        self.model = VirtualBoard(target, config=self.config)
        self.engine = Engine(self.model)
        self.memory = target.worst_memory(self.config)
        self.rng = np.random.default_rng(0)

    def load(self, network: Network) -> Guarantee:
        """A network, and what is guaranteed."""
        self.engine.load(network)
        self.reference = Reference(network, config=self.config)
        self.reference.clear()  # as a board is after a load
        return guaranteed_cycles(network, self.config, memory=self.memory)

    def step(self, row: np.ndarray) -> tuple[int, int]:
        """Cycles and words of one step, which meets the memory awake, asleep, or on the way."""
        self.model.run(int(self.rng.integers(0, 900)))
        self.engine.reset_counters()
        y = self.engine.step_integers(row)
        assert np.array_equal(y, self.reference.step_integers(row))
        counters = self.engine.counters()
        return counters["cycles"], counters["words"]


@pytest.fixture(
    scope="module",
    params=[
        "ulx3s-12f",
        pytest.param("ulx3s-85f-tiers", marks=pytest.mark.slow),
        pytest.param("colorlight-i5", marks=pytest.mark.slow),
        pytest.param("colorlight-5a-75b", marks=pytest.mark.slow),
    ],
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    target = of_preset(request.param)
    assert target is not None
    made = Bench(target)
    yield made
    made.model.close()


def hostile(network: Network, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Silence, then everything turned over in each step, then noise."""
    yield np.zeros(network.inputs, np.int64)
    for k in range(steps):
        if k < steps // 2:
            yield np.full(network.inputs, FULL if k % 2 else -FULL)
        else:
            yield rng.integers(-FULL, FULL + 1, network.inputs)


def searched(bench: Bench, network: Network, steps: int, rng: np.random.Generator) -> int:
    """The longest step of a climb: changes of the input that made a step longer are kept."""
    best, longest = rng.choice([-FULL, FULL], network.inputs), 0
    for _ in range(steps):
        row = best.copy()
        some = rng.random(network.inputs) < rng.choice([0.03, 0.1, 0.3])
        row[some] = -row[some]
        cycles, _ = bench.step(row)
        if cycles >= longest:
            best, longest = -row, cycles
    return longest


def busy() -> Network:
    """Two GRUs of 96 that never rest, with budgets."""
    model, walk = walk_model()
    network = quantize(model, walk[:60], thresholds=0.0)
    network.budgets = {-1: 16, 0: 32, 1: 40}
    return network


@pytest.mark.slow
def test_no_step_on_a_board_passes_the_guarantee(bench: Bench, thorough: bool) -> None:
    steps, rng = (400 if thorough else 16), np.random.default_rng(1)
    network = busy()
    shares = []
    for budgets in (network.budgets, {}):
        network.budgets = budgets
        bound = bench.load(network)
        seen = [bench.step(row) for row in hostile(network, steps, rng)]
        longest = max(searched(bench, network, steps, rng), *(cycles for cycles, _ in seen))
        assert max(words for _, words in seen) == bound.words
        shares.append(longest / bound.cycles)
    print(bench.model.target.name, shares)
    assert 0.6 < max(shares) <= 1.0, shares
