"""The engine for small parts: what the large one's tests ask, asked again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stillnet.hw.compact import engine as compact_engine
from stillnet.hw.compact.engine import CompactEngine
from stillnet.hw.verilog.text import to_verilog
from stillnet.sim.engine.model import Behaviour
from tests.hw import test_engine
from tests.support.mutations import noticed, put_in_place
from tests.support.networks.random import Bench, engine_config, random_case

# These take whatever engine the fixtures give them.
from tests.hw.test_engine import (  # isort: skip  # noqa: F401
    test_a_clear_during_a_step_waits_for_its_end,
    test_a_smaller_image_forgets_the_larger_ones_before_it,
    test_counters_stand_still_while_nothing_happens,
    test_idle_means_that_nothing_is_left_to_do,
    test_the_harness_notices_a_hang,
)
from tests.support.sampling import some

NAMES = ["8x1", "2x1"]


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    """Compact engines for the configurations that they can have."""
    benches = {}
    for name in NAMES:
        config = test_engine.CONFIGS[name]
        benches[name] = Bench(config, to_verilog(CompactEngine(config), "engine"))
    yield benches
    for bench in benches.values():
        bench.renew()


@pytest.fixture
def narrow(benches: dict[str, Bench]) -> Bench:
    """Eight lanes."""
    return benches["8x1"]


@pytest.mark.parametrize("name", NAMES)
def test_random_networks_equal_the_reference(benches: dict[str, Bench], name: str) -> None:
    """Outputs, all state, words, events and saturations."""
    for seed in range(150):
        benches[name].check(random_case(seed, test_engine.CONFIGS[name]))


def test_state_read_and_written_back_continues_the_same(narrow: Bench) -> None:
    for seed in (1, 2):
        test_engine.test_state_read_and_written_back_continues_the_same(narrow, seed)
        test_engine.test_clear_begins_the_same_sequence_again(narrow, seed)


@pytest.mark.parametrize("threshold", [0, 64, 65_535, 65_536, (1 << 17) - 1])
def test_thresholds(benches: dict[str, Bench], threshold: int) -> None:
    test_engine.test_a_new_threshold_applies_from_the_next_encoding(benches, "8x1", threshold)


@pytest.mark.parametrize("name", NAMES)
def test_images(benches: dict[str, Bench], name: str) -> None:
    test_engine.test_an_image_that_does_not_fit_is_refused(benches, name)
    test_engine.test_an_image_may_lie_anywhere(benches, name)
    test_engine.test_a_flipped_bit_is_found_where_the_load_verifies(benches, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", [1, 9])
def test_streams(benches: dict[str, Bench], name: str, outputs: int) -> None:
    test_engine.test_latency_is_what_the_streams_show(benches, name)
    test_engine.test_last_marks_the_last_output_element(benches, name, outputs)


def test_long_columns_are_mostly_words(narrow: Bench) -> None:
    """With a memory as near as an SPRAM, a column of 24 words takes 8 cycles more."""
    rng = np.random.default_rng(3)
    layer = test_engine.dense(rng, -1, 192, 16, exponent=19, fraction=11)
    network = test_engine.Network(16, 11, [layer])
    x = rng.integers(-3000, 3000, (1, 16))
    with test_engine.loaded(narrow, network) as engine:
        engine.model.behave(Behaviour(latency=2))
        engine.model.run(x, 1, network.outputs)
        moving = engine.model.counters()
        engine.model.run(x, 1, network.outputs)
        engine.model.wait_idle()
        still = engine.model.counters()
    assert moving["words"] == still["words"] == 16 * 24
    cycles = moving["latency"] - still["latency"]
    assert 24 * 16 < cycles <= 32 * 16 + 10
    # A unit of a dense layer takes four dozen cycles: it is rescaled a bit a cycle.
    assert still["latency"] < 192 * 48 + 200


MUTANTS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "limit": ("engine", "CompactEngine", ("magnitude >= limit", "magnitude > limit")),
    "odd": ("step", "Step", ("x.odd.eq(~x.odd & ~x.stride[0])", "x.odd.eq(0)")),
    "shift": ("step", "Step", ('x.write_shift.eq(field(3, "write_shift"))', "x.write_shift.eq(0)")),
}


@pytest.mark.parametrize("name", some(MUTANTS, "odd"))
def test_mutants_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs above see what they are there to see."""
    module, component, change = MUTANTS[name]
    put_in_place(monkeypatch, f"compact.{module}", component, change)
    config = test_engine.CONFIGS["2x1"]
    bench = Bench(config, to_verilog(compact_engine.CompactEngine(config), "engine"))
    assert noticed(bench, (random_case(seed, config) for seed in range(150)))


def test_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^Compact engine needs a cell width of 1, not 2$"):
        CompactEngine(engine_config(cell_width=2))
    with pytest.raises(ValueError, match=r"^Compact engine has one threshold a vector"):
        CompactEngine(engine_config(second_threshold=True))
    with pytest.raises(ValueError, match=r"^Compact engine has no hot store, not one of 64 words$"):
        CompactEngine(engine_config(hot_words=64, columns=64))
    with pytest.raises(ValueError, match=r"^Compact engine has one multiplier for its cells"):
        CompactEngine(engine_config(cell_sharing=2))
    for cells, lacks in {
        ("lstm_peephole",): r"no parameters \(pi, pf, po\)",
        ("gru_before", "gru_reset"): r"no state of other layers \(h\)",
        ("lstm",): r"no wide state variables \(c\)",
        ("s5_encoder",): r"no operations \(floor\)",
    }.items():
        with pytest.raises(
            ValueError, match=rf"^Compact engine cannot hold cell '{cells[-1]}': it has {lacks}$"
        ):
            CompactEngine(engine_config(cells=cells))
    few = ("gru", "gru_before", "mingru", "ligru", "linear", "relu", "sigmoid", "tanh")
    assert CompactEngine(engine_config(cells=few)).config.cells == few
