"""Blocks are joined by signatures, not by dozens of wires."""

from collections import Counter
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.lib import wiring

from stillnet.hw.engine import Engine
from stillnet.hw.parts.elaboration import swift_elaboration
from tests.support.networks.random import engine_config
from tests.support.sampling import some

MOST_MEMBERS = 12

CONFIGS = {
    "everything": engine_config(
        lanes=8,
        int4=True,
        formats=("dense", "step"),
        row_scale=True,
        element_thresholds=True,
        columns=256,
        hot_words=256,
        fetch_columns=16,
        fetch_words=64,
        budgets=True,
    ),
    "two encoders": engine_config(lanes=8, cell_width=2, second_threshold=True),
}


@pytest.mark.parametrize("name", some(CONFIGS, "everything"))
def test_no_block_has_a_long_list_of_ports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members: Counter[str] = Counter()
    by_amaranth = wiring.Component.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        by_amaranth(self, *args, **options)
        members[type(self).__name__] = len(dict(self.signature.members.items()))

    monkeypatch.setattr(wiring.Component, "__init__", init)
    with swift_elaboration():
        rtlil.convert(Engine(CONFIGS[name]), name="top")
    assert {"EventEncoder", "ColumnFetcher", "Lanes", "Scheduler", "WriteBack"} <= set(members)
    assert {n: count for n, count in members.items() if count > MOST_MEMBERS} == {}
