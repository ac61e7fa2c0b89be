"""The engine against the reference: every output, every state word, every counter.

Each configuration is generated, compiled and kept for all tests. The default run is a sample with
fixed seeds; ``slow`` tests let hypothesis choose anew each time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract import image as layout
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.registers import Control, Error, Register, Status
from stillnet.sw.contract.sources import INPUT, SECOND, encoder_select
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests.support.networks.images import patched
from tests.support.networks.random import (
    Bench,
    Case,
    Seeded,
    cases,
    engine_config,
    random_case,
    random_inputs,
    random_network,
)
from tests.support.sampling import some

FEW = ("gru", "linear", "relu")
CONFIGS: dict[str, EngineConfig] = {
    "8x1": engine_config(lanes=8),
    "8x2": engine_config(lanes=8, cell_width=2, second_threshold=True),
    "2x1": engine_config(lanes=2),
    "16x4": engine_config(lanes=16, cell_width=4, second_threshold=True, cells=FEW),
    "64x8": engine_config(lanes=64, cell_width=8, second_threshold=True, cells=FEW),
}
"""Lanes times units a cycle. Fewer cells make the wide engine quicker to compile."""

SEEDS = 60
"""As many as a broken engine meets: ``test_engine_mutations`` has it noticed within these."""

PROMPT = Behaviour(latency=1)
"""A memory that keeps the lanes busy in every cycle."""


@pytest.fixture(scope="session")
def benches() -> Iterator[dict[str, Bench]]:
    """One engine of each configuration; compiled when first used."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


@pytest.fixture
def narrow(benches: dict[str, Bench]) -> Bench:
    """Eight lanes, one unit a cycle: what most boards get."""
    return benches["8x1"]


@pytest.fixture
def double(benches: dict[str, Bench]) -> Bench:
    """Two units a cycle and a second encoder."""
    return benches["8x2"]


@contextmanager
def loaded(bench: Bench, network: Network) -> Iterator[NetworkOnEngine]:
    """A network on an engine; a simulation in which something failed is not used again."""
    model = bench.model
    try:
        model.behave(Behaviour())
        engine = NetworkOnEngine(network, bench.config, model=model)
        engine.reset()
        model.clear_counters()
        yield engine
    except BaseException:
        bench.renew()
        raise


def step_both(engine: NetworkOnEngine, reference: Reference, x: np.ndarray) -> np.ndarray:
    """Steps through the engine and the reference; outputs and all state must be equal."""
    outputs, _ = engine.model.run(x, len(x), engine.network.outputs)
    engine.model.wait_idle()
    expected = np.stack([reference.step_integers(row) for row in x])
    np.testing.assert_array_equal(outputs, expected)
    assert engine.compare(reference, len(x) - 1) is None
    return outputs


def gru_stack(seed: int, *, second: bool = False) -> Network:
    """Two GRUs and a dense layer whose units neither saturate nor sleep."""
    rng = np.random.default_rng(seed)
    layers = []
    for i, units in enumerate((19, 10)):
        size = (11, 19)[i]
        layers.append(
            QuantizedLayer(
                name=f"gru {i}",
                cell="gru",
                units=units,
                matrices=[
                    QuantizedMatrix(
                        i - 1,
                        ("r", "u", "cx"),
                        rng.integers(-60, 61, (3, units, size)).astype(np.int8),
                        8,
                    ),
                    QuantizedMatrix(
                        i,
                        ("r", "u", "ch"),
                        rng.integers(-60, 61, (3, units, units)).astype(np.int8),
                        8,
                    ),
                ],
                bias={g: rng.integers(-100_000, 100_001, units) for g in ("r", "cx", "u", "ch")},
                shift=14,
                write_shift=3,
                fraction=11,
                threshold=20,
                threshold_recurrent=9 if second else None,
            )
        )
    layers.append(dense(rng, 1, 5, 10, exponent=19, fraction=11))
    network = Network(11, 11, layers, input_threshold=12)
    network.validate()
    return network


def dense(
    rng: np.random.Generator, source: int, units: int, size: int, *, exponent: int, fraction: int
) -> QuantizedLayer:
    """A dense layer without activation, its source with 11 fraction bits."""
    return QuantizedLayer(
        name="dense",
        cell="linear",
        units=units,
        matrices=[
            QuantizedMatrix(
                source,
                ("y",),
                rng.integers(-128, 128, (1, units, size)).astype(np.int8),
                exponent - 11,
            )
        ],
        bias={"y": rng.integers(-(1 << 20), 1 << 20, units)},
        shift=exponent - fraction + 8,
        write_shift=0,
        fraction=fraction,
    )


def walk(seed: int, steps: int, size: int) -> np.ndarray:
    """A signal of which about half of the elements change a step."""
    rng = np.random.default_rng(seed)
    moves = rng.integers(-300, 301, (steps, size)) * (rng.random((steps, size)) < 0.5)
    return np.cumsum(moves, axis=0) + 500


# -- random networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(CONFIGS, "8x1", "8x2"))
def test_random_networks_equal_the_reference(benches: dict[str, Bench], name: str) -> None:
    @settings(
        max_examples=20 if name == "64x8" else 40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(CONFIGS[name]))
    def check(case: Case) -> None:
        benches[name].check(case)

    check()


@pytest.mark.parametrize("name", some(CONFIGS, "8x1", "8x2"))
def test_seeded_networks_equal_the_reference(benches: dict[str, Bench], name: str) -> None:
    for seed in range(20 if name == "64x8" else SEEDS):
        benches[name].check(random_case(seed, CONFIGS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_many_random_networks_equal_the_reference(benches: dict[str, Bench], name: str) -> None:
    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases(CONFIGS[name], steps=40))
    def check(case: Case) -> None:
        benches[name].check(case)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_many_seeded_networks_equal_the_reference(benches: dict[str, Bench], name: str) -> None:
    for seed in range(1000, 4000):
        benches[name].check(random_case(seed, CONFIGS[name]))


# -- the invariant ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_accumulators_are_bias_plus_weights_times_reference(double: Bench, seed: int) -> None:
    """M = bias + W . ref modulo 2**32, all of it read from the hardware but for the weights."""
    choices = Seeded(seed)
    network = random_network(choices, double.config)
    x = random_inputs(choices, network, 6)
    with loaded(double, network) as engine:
        for row in x:
            engine.model.run(row, 1, network.outputs)
            engine.model.wait_idle()
            for i, layer in enumerate(network.layers):
                found = engine.accumulators(i)
                for g, name in enumerate(CELLS[layer.cell].accumulators):
                    total = layer.bias[name].astype(np.int64)
                    for m in layer.matrices:
                        # Plain events start again each step: only recurrences are there yet.
                        if name not in m.gates or (network.reload(i) and m.source < i):
                            continue
                        use_second = m.source >= i
                        ref = engine.reference(m.source, second=use_second)
                        total = total + m.weight[m.gates.index(name)].astype(np.int64) @ ref
                    wrapped = (total + (1 << 31)) % (1 << 32) - (1 << 31)
                    np.testing.assert_array_equal(found[g], wrapped, f"{layer.name}, {name}")


# -- short columns ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1, 8, 9, 17, 25])
@pytest.mark.parametrize("cell", ["linear", "gru"])
@pytest.mark.parametrize("mode", [Mode.DELTA, Mode.NONZERO, Mode.ONE_HOT_PLAIN])
def test_columns_that_follow_each_other_add_to_one_row(
    narrow: Bench, units: int, cell: str, mode: Mode
) -> None:
    """One to four words a column and gate: the same row comes again after as many cycles."""
    rng = np.random.default_rng(units)
    size = 40
    gates = ("y",) if cell == "linear" else ("r", "u", "cx")
    layer = QuantizedLayer(
        name="short",
        cell=cell,
        units=units,
        matrices=[
            QuantizedMatrix(
                INPUT, gates, rng.integers(-128, 128, (len(gates), units, size)).astype(np.int8), 10
            ),
            QuantizedMatrix(
                INPUT, gates[:1], rng.integers(-128, 128, (1, units, size)).astype(np.int8), 10
            ),
        ],
        bias={g: rng.integers(-(1 << 29), 1 << 29, units) for g in CELLS[cell].accumulators},
        shift=21 - 11 + 8 if cell == "linear" else 21 - 13 + 8,
        write_shift=0 if cell == "linear" else 3,
        fraction=11,
    )
    network = Network(size, 11, [layer], input_mode=mode)
    if mode.one_hot:
        x = rng.integers(0, size, (20, 1))
    else:
        x = np.where(np.arange(8)[:, None] % 2, -32768, 32767) * np.ones((1, size), np.int64)
    none = np.zeros((0, x.shape[1]), np.int64)
    narrow.check(Case(network, x, none, PROMPT, True))
    narrow.check(Case(network, x[:4], none, PROMPT, False))


# -- state --------------------------------------------------------------------------------------


def read_state(engine: NetworkOnEngine) -> dict[str, np.ndarray]:
    """All of an engine's state, named as by ``Reference.get_state``."""
    network = engine.network
    state = {"-1/reference": engine.reference(INPUT)}
    for i, layer in enumerate(network.layers):
        state |= {f"{i}/{s}": engine.state(i, s) for s in CELLS[layer.cell].state}
        state[f"{i}/reference"] = engine.reference(i)
        if layer.threshold_recurrent is not None:
            state[f"{i}/reference_second"] = engine.reference(i, second=True)
    return state


def everything(engine: NetworkOnEngine) -> dict[str, np.ndarray]:
    """State and accumulators."""
    layers = range(len(engine.network.layers))
    return read_state(engine) | {f"{i}/M": engine.accumulators(i) for i in layers}


@pytest.mark.parametrize("seed", range(8))
def test_state_read_and_written_back_continues_the_same(double: Bench, seed: int) -> None:
    choices = Seeded(100 + seed)
    network = random_network(choices, double.config)
    x = random_inputs(choices, network, 8)
    reference = Reference(network, double.config.lanes)
    with loaded(double, network) as engine:
        step_both(engine, reference, x[:4])
        state, all_of_it = read_state(engine), everything(engine)
        for name, value in reference.get_state().items():
            np.testing.assert_array_equal(state[name], value, name)
        # Another stream uses the engine in between.
        engine.reset()
        engine.model.run(x[::-1], len(x), network.outputs)
        engine.model.wait_idle()
        engine.set_state(state)
        for name, value in everything(engine).items():
            np.testing.assert_array_equal(value, all_of_it[name], name)
        step_both(engine, reference, x[4:])


@pytest.mark.parametrize("name", ["8x1", "8x2"])
def test_a_hidden_state_given_alone_passes_the_encoders(
    benches: dict[str, Bench], name: str
) -> None:
    network = gru_stack(3, second=name == "8x2")
    x = walk(4, 12, network.inputs)
    rng = np.random.default_rng(5)
    reference = Reference(network, 8)
    with loaded(benches[name], network) as engine:
        step_both(engine, reference, x[:4])
        values = {(i, "h"): rng.integers(-16384, 16385, (19, 10)[i]) for i in (0, 1)}
        values[0, "h"][:4] = [16384, -16384, 0, 1]
        for given in (values, {(1, "h"): values[1, "h"]}, {}):
            engine.set_hidden(given)
            reference.set_hidden(given)
            assert engine.compare(reference, -1) is None
            step_both(engine, reference, x[4:8])


@pytest.mark.parametrize("seed", range(6))
def test_clear_begins_the_same_sequence_again(double: Bench, seed: int) -> None:
    choices = Seeded(200 + seed)
    network = random_network(choices, double.config)
    for layer in network.layers:
        layer.initial = {}
    x = random_inputs(choices, network, 6)
    with loaded(double, network) as engine:
        clean = everything(engine)
        first = step_both(engine, Reference(network, 8), x)
        engine.model.clear()
        for name, value in everything(engine).items():
            np.testing.assert_array_equal(value, clean[name], name)
        second = step_both(engine, Reference(network, 8), x)
        np.testing.assert_array_equal(first, second)


def test_a_clear_during_a_step_waits_for_its_end(narrow: Bench) -> None:
    network = gru_stack(6)
    x = walk(7, 4, network.inputs)
    with loaded(narrow, network) as engine:
        expected = step_both(engine, Reference(network, 8), x)
        engine.model.clear()
        outputs, _ = engine.model.run(x, len(x), network.outputs)  # not idle: recurrences follow
        np.testing.assert_array_equal(outputs, expected)
        assert not engine.model.read(Register.STATUS) & Status.IDLE
        engine.model.clear()
        step_both(engine, Reference(network, 8), x)


@pytest.mark.parametrize("seed", range(10))
def test_idle_means_that_nothing_is_left_to_do(narrow: Bench, seed: int) -> None:
    choices = Seeded(300 + seed)
    network = random_network(choices, narrow.config)
    x = random_inputs(choices, network, 3)
    with loaded(narrow, network) as engine:
        model = engine.model
        model.behave(Behaviour(latency=60, jitter=40, memory_stall=300))
        for row in x:
            model.run(row, 1, network.outputs)
            model.wait_idle()
            before, counters = everything(engine), model.counters()
            model.ticks(500)
            assert model.read(Register.STATUS) == Status.LOADED | Status.IDLE
            assert model.counters() == counters
            for name, value in everything(engine).items():
                np.testing.assert_array_equal(value, before[name], name)


# -- thresholds at run time ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["8x1", "8x2"])
@pytest.mark.parametrize("threshold", [0, 1, 64, 65_535, 65_536, (1 << 17) - 1])
def test_a_new_threshold_applies_from_the_next_encoding(
    benches: dict[str, Bench], name: str, threshold: int
) -> None:
    second = name == "8x2"
    network = gru_stack(8, second=second)
    changed = copy.deepcopy(network)
    x = walk(9, 12, network.inputs)
    sources = [INPUT, 0, 1] + ([SECOND, 1 + SECOND] if second else [])
    selects = {encoder_select(source): source for source in sources}
    reference = Reference(changed, 8)
    with loaded(benches[name], network) as engine:
        step_both(engine, reference, x[:3])
        for select, source in selects.items():
            engine.model.write(Register.THRESHOLD_SELECT, select)
            engine.model.write(Register.THRESHOLD, threshold)
            if source == INPUT:
                changed.input_threshold = threshold
            elif source >= SECOND:
                changed.layers[source - SECOND].threshold_recurrent = threshold
            else:
                changed.layers[source].threshold = threshold
            step_both(engine, reference, x[3:6])
        step_both(engine, reference, x[6:])
        # Loading the image again brings its own thresholds back.
        engine.model.load(engine.image.data)
        step_both(engine, Reference(network, 8), x)


# -- images -------------------------------------------------------------------------------------


REFUSED = [
    (0, "magic", 0, Error.MAGIC),
    (0, "magic", layout.MAGIC ^ (1 << 31), Error.MAGIC),
    (1, "version", layout.VERSION + 1, Error.VERSION),
    (1, "version", 0, Error.VERSION),
    (2, "fingerprint", 0, Error.FINGERPRINT),
    (1, "layers", 0, Error.CAPACITY),
    (1, "layers", 5, Error.CAPACITY),
    (1, "matrices", 25, Error.CAPACITY),
    (5, "inputs", 41, Error.CAPACITY),
    (5, "inputs", 65_535, Error.CAPACITY),
]


@pytest.mark.parametrize("name", some(["8x1", "2x1", "16x4"], "8x1"))
def test_a_flipped_bit_is_found_where_the_load_verifies(
    benches: dict[str, Bench], name: str
) -> None:
    bench = benches[name]
    network = gru_stack(12)
    image = pack(network, bench.config)
    x = walk(13, 3, network.inputs)
    rng = np.random.default_rng(14)
    end = 8 * len(image.hardware)
    places = [0, 8 * 256, 8 * 259 + 7, 8 * 260, end - 1, *rng.integers(0, end, 12)]
    with loaded(bench, network) as engine:
        model = engine.model
        for place in places:
            data = bytearray(image.data)
            data[place // 8] ^= 1 << place % 8
            with pytest.raises(StillnetError, match="refused the image"):
                model.load(bytes(data), verify=True)
            assert not model.read(Register.STATUS) & Status.LOADED, place
        # The words before and after the image, and its notes, do not matter.
        tail = bytes(rng.integers(0, 256, 200).astype(np.uint8))
        model.load(image.hardware + tail, verify=True)
        step_both(engine, Reference(network, bench.config.lanes), x)


@pytest.mark.parametrize("name", some(["8x1", "2x1", "16x4"], "8x1"))
def test_an_image_that_does_not_fit_is_refused(benches: dict[str, Bench], name: str) -> None:
    """With its own reason each time, and nothing is lost: the next image works."""
    bench = benches[name]
    network = gru_stack(10)
    data = pack(network, bench.config).data
    x = walk(11, 3, network.inputs)
    with loaded(bench, network) as engine:
        model = engine.model
        for record, field, value, error in REFUSED:
            with pytest.raises(StillnetError, match=f"refused the image: {error.name.lower()}"):
                model.load(patched(data, record, field, value))
            status = model.read(Register.STATUS)
            assert (status >> 8) & 0xFF == error, field
            assert not status & (Status.LOADED | Status.IDLE), field
            # It takes no vector, and a clear does not change that.
            with pytest.raises(RuntimeError, match="hangs"):
                model.run(x[:1], 1, network.outputs, limit=2000)
            model.write(Register.CONTROL, Control.CLEAR)
            assert not model.read(Register.STATUS) & Status.LOADED
        model.load(data)
        assert model.read(Register.STATUS) == Status.LOADED | Status.IDLE
        step_both(engine, Reference(network, bench.config.lanes), x)


def test_a_smaller_image_forgets_the_larger_ones_before_it(narrow: Bench) -> None:
    """However far the scheduler is in its tables when the new header arrives."""
    rng = np.random.default_rng(21)

    def network(layers: int, copies: int, recurrent: bool) -> Network:
        made = []
        for i in range(layers):
            layer = dense(rng, i - 1, 9, 9, exponent=19, fraction=11)
            layer.name = f"dense {i}"
            layer.matrices *= copies
            if recurrent:
                layer.matrices.append(dense(rng, i, 9, 9, exponent=19, fraction=11).matrices[0])
            made.append(layer)
        return Network(9, 11, made)

    large, middle, small = network(4, 3, True), network(4, 2, False), network(1, 1, False)
    x = walk(22, 4, 9)
    for ticks in range(48):
        for chosen, steps in ((large, 1 + ticks % 2), (middle, 1 + ticks // 2 % 2), (small, 1)):
            case = Case(chosen, x[:steps], x[:0], PROMPT, True)
            narrow.check(case)
            narrow.model.ticks(ticks)


def test_an_image_for_another_engine_is_refused(benches: dict[str, Bench]) -> None:
    bench = benches["8x1"]
    data = pack(gru_stack(10), CONFIGS["8x2"]).data
    with pytest.raises(StillnetError, match="refused the image: fingerprint does not match"):
        bench.model.load(data)


@pytest.mark.parametrize("name", some(["8x1", "2x1", "16x4"], "8x1"))
def test_an_image_may_lie_anywhere(benches: dict[str, Bench], name: str) -> None:
    bench = benches[name]
    network = gru_stack(12)
    with loaded(bench, network) as engine:
        for slots in (1, 7, 1000):
            engine.model.load(engine.image.data, slots * layout.SLOT_BYTES // bench.config.lanes)
            step_both(engine, Reference(network, bench.config.lanes), walk(13, 3, 11))


def test_the_engine_says_what_it_is(benches: dict[str, Bench]) -> None:
    for name in ("8x1", "8x2"):
        model = benches[name].model
        assert model.read(Register.ID) == layout.MAGIC
        assert model.read(Register.VERSION) == layout.VERSION
        assert model.read(Register.FINGERPRINT) == CONFIGS[name].fingerprint


# -- counters and streams -----------------------------------------------------------------------


@pytest.mark.parametrize("name", some(CONFIGS, "8x1", "8x2"))
def test_latency_is_what_the_streams_show(benches: dict[str, Bench], name: str) -> None:
    """From the first input word to the last output word, both included."""
    network = gru_stack(14)
    x = walk(15, 6, network.inputs)
    with loaded(benches[name], network) as engine:
        for k, row in enumerate(x):
            engine.model.behave(Behaviour(latency=1 + 13 * k))
            begin = engine.model.cycle
            _, cycles = engine.model.run(row, 1, network.outputs)
            engine.model.wait_idle()
            # The harness offers the first word in the cycle after it was told to.
            assert engine.model.counters()["latency"] == int(cycles[0]) - begin


def test_latency_is_of_the_step_that_met_an_idle_engine(narrow: Bench) -> None:
    network = gru_stack(16)
    x = walk(17, 6, network.inputs)
    with loaded(narrow, network) as engine:
        begin = engine.model.cycle
        _, cycles = engine.model.run(x, len(x), network.outputs)
        assert engine.model.counters()["latency"] == int(cycles[0]) - begin
        assert engine.model.counters()["steps"] == len(x)


def test_counters_stand_still_while_nothing_happens(narrow: Bench) -> None:
    network = gru_stack(18)
    with loaded(narrow, network) as engine:
        x = np.repeat(walk(19, 1, network.inputs), 60, axis=0)
        reference = Reference(network, 8)
        step_both(engine, reference, x[:59])
        before = engine.model.counters()
        step_both(engine, reference, x[59:])
        after = engine.model.counters()
        assert after["words"] - before["words"] == reference.last.words
        engine.model.clear_counters()
        assert set(engine.model.counters().values()) == {0}
        assert set(engine.events().values()) == {0}


@pytest.mark.parametrize("name", some(CONFIGS, "8x1", "8x2"))
@pytest.mark.parametrize("outputs", [1, 7, 8, 9, 40])
def test_last_marks_the_last_output_element(
    benches: dict[str, Bench], name: str, outputs: int
) -> None:
    bench = benches[name]
    rng = np.random.default_rng(outputs)
    network = Network(3, 11, [dense(rng, INPUT, outputs, 3, exponent=19, fraction=11)])
    x = rng.integers(-3000, 3000, (5, 3))
    none = np.zeros((0, 3), np.int64)
    bench.check(Case(network, x, none, Behaviour(output_stall=600), True))
    with pytest.raises(RuntimeError, match="marked the wrong output element"):
        bench.model.run(x, 5, outputs + 1)
    bench.renew()


def test_the_harness_notices_a_hang(narrow: Bench) -> None:
    network = gru_stack(20)
    with pytest.raises(RuntimeError, match="hangs: 5 elements missing"):
        with loaded(narrow, network) as engine:
            engine.model.run(np.zeros((1, 11), np.int64), 2, 5, limit=20_000)
