"""Budgets for a deadline: kept for any input, none where none is needed, refused where none do."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.bench.deadline import hostile, walk_model
from stillnet.sw.contract.budgets import longest_wait
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.cost import record_events
from stillnet.sw.cost.deadline import keep_deadline
from stillnet.sw.cost.guarantee import guaranteed_cycles
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from stillnet.sw.util.results.networks import DeadlineReport
from tests.support.networks.quick import quantize

ENGINE = EngineConfig(
    name="deadline", lanes=8, cells=("gru", "linear"), row_scale=True, budgets=True
)


@pytest.fixture(scope="module")
def made() -> tuple[Network, np.ndarray]:
    """A network of two GRUs, and its calibration."""
    model, walk = walk_model()
    return quantize(model, walk[:150], thresholds=0.05), walk[:150]


def in_ms(cycles: float) -> float:
    return cycles / 100e3


def test_every_deadline_is_kept_or_refused(made: tuple[Network, np.ndarray]) -> None:
    network, x = made
    free = guaranteed_cycles(_without(network), ENGINE)
    late = []
    for share in (0.9, 0.6, 0.4):
        report = DeadlineReport.from_dict(
            keep_deadline(network, ENGINE, [x], in_ms(share * free.cycles))
        )
        found = guaranteed_cycles(network, ENGINE)
        assert 0.95 * share * free.cycles < found.cycles <= share * free.cycles
        assert report.guaranteed_cycles == found.cycles and report.without_cycles == free.cycles
        assert {"gru2"} <= set(report.budgets) <= {"input", "gru1", "gru2"}
        assert report.longest_wait["gru2"] == longest_wait(report.budgets["gru2"], 96)
        late.append(report.late)
    assert late == sorted(late) and late[-1] > 0
    with pytest.raises(StillnetError, match="cannot keep .* with the smallest budgets a step may"):
        keep_deadline(network, ENGINE, [x], in_ms(0.02 * free.cycles))


def test_time_for_everything_needs_no_budgets(made: tuple[Network, np.ndarray]) -> None:
    network, x = made
    cycles = guaranteed_cycles(_without(network), ENGINE).cycles
    report = keep_deadline(network, ENGINE, [x], in_ms(cycles))
    assert network.budgets == {} and report["late"] == report["deviation"] == 0


def test_hostile_steps_stay_within_the_words(made: tuple[Network, np.ndarray]) -> None:
    network, x = made
    free = guaranteed_cycles(_without(network), ENGINE)
    keep_deadline(network, ENGINE, [x], in_ms(0.5 * free.cycles))
    rows = hostile(network, network.quantize_input(x))
    found = guaranteed_cycles(network, ENGINE)
    words = record_events(network, rows, ENGINE)[1]
    assert 0.9 * found.words < words.max() <= found.words
    network.budgets = {}
    assert record_events(network, rows, ENGINE)[1].max() > found.words


def test_whole_recordings_are_the_reference(made: tuple[Network, np.ndarray]) -> None:
    """``run_integers``, several recordings side by side, with budgets."""
    network, x = made
    network.budgets = {-1: 9, 0: 17, 1: 30}
    rows = network.quantize_input(x)
    parts = [rows[:40], rows[40:110], rows[110:]]
    layout = Layout([len(p) for p in parts])
    trace = run_integers(network, layout, layout.pack(parts))
    late = dict.fromkeys(network.budgets, 0)
    for part, found in zip(parts, layout.unpack(trace.vectors[len(network.layers) - 1])):
        reference = Reference(network, config=ENGINE)
        for row, y in zip(part, found):
            assert np.array_equal(reference.step_integers(row), y)
            for source, count in reference.last.late.items():
                late[source] += count
    assert trace.late == late and sum(late.values()) > 100
    network.budgets = {}


def test_state_is_restored_with_its_windows(made: tuple[Network, np.ndarray]) -> None:
    network, x = made
    network.budgets = {-1: 9, 0: 17, 1: 30}
    rows = network.quantize_input(x)
    first, second = Reference(network), Reference(network)
    for row in rows[:30]:
        first.step_integers(row)
    second.set_state(first.get_state())
    for row in rows[30:60]:
        assert np.array_equal(first.step_integers(row), second.step_integers(row))
    network.budgets = {}


def _without(network: Network) -> Network:
    network.budgets = {}
    return network
