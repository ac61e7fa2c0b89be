"""The tests of the engine, tested: hardware that is wrong on purpose must be noticed.

A mutation changes a line of one hardware module; the engine is generated from the changed source
and meets the same kind of random networks as in ``test_engine``. A mutation whose line is no longer
there fails too: give it the line that does the same now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from stillnet.hw import engine as engine_module
from stillnet.hw.verilog.text import engine_verilog, to_verilog
from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.packing import packer as pack_module
from tests.hw.test_engine import SEEDS
from tests.support.garbage_memory import garbage_reads
from tests.support.mutations import noticed, put_in_place
from tests.support.networks.random import Bench, Case, engine_config, random_case

CONFIG = engine_config(lanes=8)
"""Also one of ``test_engine``, so that it is compiled once."""

EXAMPLES = 5 * SEEDS
"""Networks within which a mutation must be noticed."""


@dataclass(frozen=True)
class Mutation:
    """A change of one module of ``stillnet.hw``.

    Attributes
    ----------
    module : str
    component : str
        Class of the module that the engine uses.
    changes : tuple of (str, str)
        Each text must be in the module once.
    """

    module: str
    component: str
    changes: tuple[tuple[str, str], ...]

    def verilog(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """The whole engine with this change."""
        put_in_place(monkeypatch, self.module, self.component, *self.changes)
        return to_verilog(engine_module.Engine(CONFIG), "engine")


MUTATIONS: dict[str, Mutation] = {
    # Sums on the way are not bypassed: short columns that hit one row lose all but the last.
    "no bypass at distance 1": Mutation(
        "lanes.lanes",
        "Lanes",
        (("near1.eq(same(s.valid1, s.row1, s.bank1) & ~s.bias0)", "near1.eq(0)"),),
    ),
    "no bypass at distance 2": Mutation(
        "lanes.lanes", "Lanes", (("near2.eq(same(s.valid2, s.row2, s.bank2))", "near2.eq(0)"),)
    ),
    "no bypass at distance 3": Mutation(
        "lanes.lanes", "Lanes", (("near3.eq(same(s.valid3, s.row3, s.bank3))", "near3.eq(0)"),)
    ),
    "an event is dropped": Mutation(
        "engine",
        "Engine",
        (
            (
                "scheduler.rows_done.eq(fetcher.rows_done)",
                "scheduler.rows_done.eq(fetcher.rows_done + (fetcher.rows_done == 3))",
            ),
        ),
    ),
    "the event list is read one row off": Mutation(
        "fetch.column_fetcher",
        "ColumnFetcher",
        (("port.row.eq(s.next_row)", "port.row.eq(s.next_row + (s.next_row == 5))"),),
    ),
    "a byte of the bias is lost": Mutation(
        "lanes.lanes",
        "Lanes",
        (
            (
                "bias_value.eq(Cat(*self._bias_bytes(s, half, in_word)))",
                "bias_value.eq(Cat(*self._bias_bytes(s, half, in_word)[:-1]))",
            ),
        ),
    ),
    "the cell reads one row off": Mutation(
        "lanes.accumulator_reader",
        "AccumulatorReader",
        (("row.eq(begin),", "row.eq(begin + 1),"),),
    ),
    "no word waits for the cell being read": Mutation(
        "lanes.lanes",
        "Lanes",
        (("(hold.active & (hold.layer", "(0 & (hold.layer"),),
    ),
    "no word waits for the cell that is read next": Mutation(
        "lanes.lanes",
        "Lanes",
        (("(waiting.active & (waiting.layer", "(0 & (waiting.layer"),),
    ),
}

QUICK = ("no word waits for the cell being read",)
"""The others compile for as long and run with ``slow``."""


def short_columns(seed: int) -> Case:
    """Columns of one to three words, all fired, from a memory that never pauses."""
    rng = np.random.default_rng(seed)
    units, size = (1, 9, 17)[seed % 3], 40
    weight = rng.integers(-128, 128, (1, units, size)).astype(np.int8)
    layer = QuantizedLayer(
        name="short",
        cell="linear",
        units=units,
        matrices=[QuantizedMatrix(INPUT, ("y",), weight, 10)],
        bias={"y": rng.integers(-(1 << 20), 1 << 20, units)},
        shift=21 - 11 + 8,
        write_shift=0,
        fraction=11,
    )
    network = Network(size, 11, [layer])
    x = rng.integers(-3000, 3000, (4, size))
    return Case(network, x, x[:0], Behaviour(latency=1), True)


def example(seed: int) -> Case:
    """What a mutation meets: random networks, and now and then short columns."""
    return short_columns(seed // 4) if seed % 4 == 0 else random_case(seed, CONFIG)


def examples(count: int = EXAMPLES) -> Iterator[Case]:
    """The first so many of them."""
    return map(example, range(count))


def test_nothing_is_noticed_where_nothing_is_wrong() -> None:
    assert noticed(Bench(CONFIG), examples(SEEDS)) is None


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MUTATIONS],
)
def test_a_mutation_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(CONFIG, MUTATIONS[name].verilog(monkeypatch))
    assert noticed(bench, examples()), f"{name}: {EXAMPLES} examples passed"


@pytest.mark.slow
def test_without_the_dispatch_rule_networks_hang() -> None:
    """Rule 2 of the architecture: about one random network in fifty."""
    bench = Bench(CONFIG, engine_verilog(CONFIG, check_dispatch=False))
    found = noticed(bench, examples(400))
    assert found and "hangs" in found


@pytest.mark.slow  # test_format_mutations has it for an engine with more memories
def test_no_memory_needs_its_old_value_while_it_is_written() -> None:
    """Block RAM that is told ``no_rw_check`` may give anything for a row that is being written."""
    text, count = garbage_reads(to_verilog(engine_module.Engine(CONFIG), "engine"))
    assert count > 2 * CONFIG.lanes
    assert noticed(Bench(CONFIG, text), examples(SEEDS)) is None


@pytest.mark.parametrize("byte", range(4))
def test_a_bias_byte_missing_in_the_image_is_noticed(
    byte: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack_module.bias_bytes

    def lossy(bias: np.ndarray, lanes: int) -> np.ndarray:
        words = whole(bias, lanes).copy()
        words[:, :, byte] = 0
        return words

    monkeypatch.setattr(pack_module, "bias_bytes", lossy)
    assert noticed(Bench(CONFIG), examples())


def test_weights_one_row_off_in_the_image_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack_module.encode
    monkeypatch.setattr(
        pack_module, "encode", lambda weight, *rest: whole(np.roll(weight, 1, axis=1), *rest)
    )
    assert noticed(Bench(CONFIG), examples())
