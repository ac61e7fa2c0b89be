"""The tests of formats, tested: a decoder or lane that is wrong on purpose must be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from stillnet.hw.engine import Engine
from stillnet.hw.verilog.text import to_verilog
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS
from tests.hw.test_engine_formats import CONFIGS
from tests.support.garbage_memory import garbage_reads
from tests.support.mutations import noticed, put_in_place
from tests.support.networks.formats import format_case, full_lane_case, short_case
from tests.support.networks.random import Bench, Case, engine_config

CONFIG = CONFIGS["both"]

EXAMPLES = 120
"""Of three kinds of networks each, within which a mutation must be noticed. The rarest take 264."""

MUTATIONS: dict[str, tuple[str, str, str, str]] = {
    # name: module, component, text, what it becomes
    "no bypass at distance 1": (
        "lanes.sparse_lane",
        "SparseLane",
        "use_total.eq(s.near[0] & ~s.bias1)",
        "use_total.eq(0)",
    ),
    "no bypass at distance 2": (
        "lanes.sparse_lane",
        "SparseLane",
        "use_older.eq(s.near[1] | s.near[2] | s.bias1)",
        "use_older.eq(s.near[2] | s.bias1)",
    ),
    "no bypass at distance 3": (
        "lanes.sparse_lane",
        "SparseLane",
        "use_older.eq(s.near[1] | s.near[2] | s.bias1)",
        "use_older.eq(s.near[1] | s.bias1)",
    ),
    "a weight that waits takes the value of the event at work": (
        "lanes.sparse_lane",
        "SparseLane",
        "multiplier.b.eq(Mux(own.valid, self.value, s.queued_value))",
        "multiplier.b.eq(self.value)",
    ),
    "the cell does not wait for the queues": (
        "lanes.sparse_lanes",
        "SparseLanes",
        "with m.If(empty):",
        "with m.If(1):",
    ),
    "a weight that waits is taken although the lane is at work": (
        "lanes.sparse_lane",
        "SparseLane",
        "pop.eq(self.some & ~self.own.valid & ~self.read)",
        "pop.eq(self.some & ~self.read)",
    ),
    "full queues do not stop the words": (
        "lanes.sparse_lanes",
        "SparseLanes",
        "self.stall.eq(make_free | drain | full)",
        "self.stall.eq(make_free | drain)",
    ),
    "columns count as added while they are decoded": (
        "lanes.sparse_lanes",
        "SparseLanes",
        "for i in range(DECODE_CYCLES - 1):",
        "for i in range(0):",
    ),
    "surplus goes to the lane itself": (
        "lanes.sparse_lanes",
        "SparseLanes",
        "before = (i - 1) % count",
        "before = i",
    ),
    "rows of an unfed gate are not left out": (
        "lanes.weight_decoder",
        "WeightDecoder",
        "start_hole2.eq(head1.base + head1.hole)",
        "start_hole2.eq(head1.base)",
    ),
    "a group of places begins too late": (
        "lanes.weight_decoder",
        "WeightDecoder",
        "step.eq(Mux(head0.width == 1, 4, 16))",
        "step.eq(Mux(head0.width == 1, 4, 15))",
    ),
    "headers stand for one word fewer": (
        "lanes.weight_decoder",
        "WeightDecoder",
        "start.eq(Mux(x.head0.first, 0, start + span))",
        "start.eq(Mux(x.head0.first, 0, start + span - 1))",
    ),
    "halves are not told apart": (
        "lanes.weight_decoder",
        "WeightDecoder",
        "with m.Elif(x.half2 != side):",
        "with m.Elif(0):",
    ),
    "lengths are read one off": (
        "fetch.column_fetcher",
        "ColumnFetcher",
        "reader.addr.eq(self.runs.payload.columns + s.index)",
        "reader.addr.eq(self.runs.payload.columns + s.index + 1)",
    ),
    "any word may enter while its layer is read": (
        "lanes.lanes",
        "Lanes",
        "walk.block.eq((1 << len(w.block)) - 1)",
        "walk.block.eq(0)",
    ),
}

NARROW = replace(CONFIGS["sparse"], lanes=2, cell_width=1)

CONFIG_OF = {
    "full queues do not stop the words": CONFIGS["sparse"],
    "a group of places begins too late": NARROW,
    "headers stand for one word fewer": NARROW,
}
"""Engines that a mutation needs. With two multipliers in a lane and the units of these engines,
every queue empties as fast as it fills; and only of two lanes columns are long enough for a second
group of places, or a second header of blocks."""

QUICK = ("surplus goes to the lane itself",)
"""The others compile for as long and run with ``slow``."""


def examples(config: EngineConfig) -> Iterator[Case]:
    """What a mutation meets."""
    for seed in range(EXAMPLES):
        yield short_case(seed, config)
        yield full_lane_case(seed, config)
        yield format_case(seed, config)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MUTATIONS]
)
def test_broken_hardware_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, component, *change = MUTATIONS[name]
    put_in_place(monkeypatch, where, component, tuple(change))
    config = CONFIG_OF.get(name, CONFIG)
    bench = Bench(config, to_verilog(Engine(config), "engine"))
    assert noticed(bench, examples(config)), f"{name}: {3 * EXAMPLES} networks passed"


@pytest.mark.slow
def test_no_memory_of_pruned_columns_needs_its_old_value_while_it_is_written() -> None:
    """As ``test_engine_mutations`` has it for dense columns: sums, the cell's copy of them, states,
    references and lists, with every option that adds a memory or a reader."""
    config = engine_config(
        lanes=4,
        cell_width=2,
        int4=True,
        formats=FORMATS,
        columns=512,
        row_scale=True,
        element_thresholds=True,
        cells=("gru", "linear", "relu"),
    )
    text, count = garbage_reads(to_verilog(Engine(config), "engine"))
    assert count > 2 * config.multipliers
    assert noticed(Bench(config, text), islice(examples(config), 90)) is None
