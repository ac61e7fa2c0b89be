"""The tests of budgets, tested: a budget that is wrong on purpose must be noticed."""

from __future__ import annotations

import pytest

from stillnet.hw.engine import Engine
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.proofs.budgets import budget_proof
from tests.hw.test_engine_budgets import CONFIGS, busy_case, cases, sized_case
from tests.support.mutations import changed, noticed, put_in_place
from tests.support.networks.random import Bench

MUTATIONS: dict[str, tuple[str, str]] = {
    "the window stays where it is": ("writer.en.eq(s.over),", "writer.en.eq(0),"),
    "the window does not begin again": (
        "Mux(s.next_window < s.size, s.next_window, 0)",
        "s.next_window[:16]",
    ),
    "events in the window are no others": ("with m.If(entry.inside):", "with m.If(0):"),
    "classes count the other way round": ("s.counts[-1] <= s.room", "s.counts[0] <= s.room"),
    "nothing of the last class is sent": ("sure | _first_of(part, s.room)", "sure"),
    "all of the last class is sent": ("sure | _first_of(part, s.room)", "sure | part"),
    "sizes are whole octaves": ("result.eq(2 * k + value[k - 1])", "result.eq(2 * k)"),
    "a class too few": ("over >= CLASSES, CLASSES - 1", "over >= CLASSES - 2, CLASSES - 1"),
    "a class that does not fit is no end": ("m.d.sync += s.stopped.eq(1)", "pass"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_hardware_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "events.budget", "Budget", MUTATIONS[name])
    config = CONFIGS["plain"]
    bench = Bench(config, to_verilog(Engine(config), "engine"))
    examples = [busy_case(config, 30), sized_case(config, 100), *cases(config, 30)]
    assert noticed(bench, examples), f"{name} passed"


PROVEN = {
    "one more is left": ("s.left.eq(s.budget),", "s.left.eq(s.budget + 1),"),
    "it does not count what is sent": ("s.left.eq(s.left - _ones(admitted)),", ""),
    "a group may pass it": (
        "admitted.eq(_first_of(wanted, s.left))",
        "admitted.eq(Mux(s.left != 0, wanted, 0))",
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_a_broken_budget_is_not_proven(name: str) -> None:
    outcome = budget_proof(depth=24, budget=changed("events.budget", PROVEN[name]).Budget).check(
        induction=False
    )
    assert not outcome.proven
    assert "within the budget" in outcome.failed or "what is left" in outcome.failed
