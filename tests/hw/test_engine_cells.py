"""Engines with every kind of cell against the reference, integer for integer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.cost.cost import record_events
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.cost.schedule import ScheduleModel
from stillnet.sw.model.model import Model
from stillnet.sw.network.reference import Reference
from tests.support.networks.cells import cell_cases, random_cell_case
from tests.support.networks.cost_cases import WARM, count
from tests.support.networks.quick import quantize
from tests.support.networks.random import Bench, Case, engine_config
from tests.support.sampling import some

S5 = ("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu")

CONFIGS: dict[str, EngineConfig] = {
    "recurrent": engine_config(
        lanes=8,
        layers=6,
        matrices=32,
        cells=("lstm", "lstm_peephole", "egru", "gru_before", "gru_reset", "linear", "gru"),
    ),
    "s5": engine_config(
        lanes=8, cell_width=2, layers=9, matrices=40, units=384, cells=(*S5, "relu")
    ),
    "small": engine_config(
        lanes=4,
        layers=6,
        matrices=32,
        second_threshold=True,
        cells=(
            "mingru",
            "ligru",
            "leaky",
            "lru",
            "lru_imag",
            "gru_before_relu",
            "gru_reset_relu",
            "conv3_relu",
        ),
    ),
    "shared": engine_config(
        lanes=8,
        layers=6,
        matrices=32,
        cell_sharing=3,
        cells=("lstm_peephole", "egru", "gru", "relu", *S5[:3]),
    ),
    "activations": engine_config(
        lanes=8,
        layers=8,
        matrices=32,
        cells=(
            *("leaky_relu", "clip", "elu", "mask", "product", "exp", "sqrt"),
            *("delay", "conv7_relu", "tanh", "linear"),
        ),
    ),
    "functions": engine_config(
        lanes=4,
        layers=6,
        matrices=32,
        cell_sharing=2,
        cells=(
            *("gelu", "gelu_tanh", "silu", "hard_swish", "softplus", "softsign", "erf", "elu"),
            *("lstm_hard", "gru_hard", "gru_reset_hard", "gru_before_hard", "linear"),
        ),
    ),
    # Accumulators come to their cell one after the other.
    "in turn": engine_config(
        lanes=4,
        layers=8,
        matrices=32,
        cell_sharing=4,
        cells=("gru", "linear", "relu", "sigmoid"),
    ),
    "in turn, more": engine_config(
        lanes=4,
        layers=6,
        matrices=32,
        cell_sharing=6,
        cells=("egru", "lstm", "conv3_relu", "relu"),
    ),
    "one cell": engine_config(lanes=2, cell_width=2, cell_sharing=2, cells=("conv8",)),
}
"""Several cells in one engine; state variables of one name and of different widths among them."""


SEEDS = 60
"""As many as a broken engine meets: ``test_cell_mutations`` has it noticed within these."""


@pytest.fixture(scope="session")
def cell_benches() -> Iterator[dict[str, Bench]]:
    """One engine of each configuration; compiled when first used."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


QUICK = some(CONFIGS, "recurrent", "s5")


@pytest.mark.parametrize("name", QUICK)
def test_seeded_networks_equal_the_reference(cell_benches: dict[str, Bench], name: str) -> None:
    # Its delay lines make a step long.
    for seed in range(SEEDS // 4 if name == "one cell" else SEEDS):
        cell_benches[name].check(random_cell_case(seed, CONFIGS[name]))


@pytest.mark.parametrize("name", QUICK)
def test_random_networks_equal_the_reference(cell_benches: dict[str, Bench], name: str) -> None:
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cell_cases(CONFIGS[name]))
    def check(case: Case) -> None:
        cell_benches[name].check(case)

    check()


# -- networks as they come from models ------------------------------------------------------------


def weights(rng: np.random.Generator, gates: int, inputs: int, units: int) -> dict:
    """A recurrent layer whose units neither saturate nor sleep."""
    spread = 1.5 / np.sqrt(inputs + units)
    return {
        "w_ih": rng.normal(0, spread, (gates * units, inputs)),
        "w_hh": rng.normal(0, spread, (gates * units, units)),
        "b_ih": rng.uniform(-0.5, 0.5, gates * units),
        "b_hh": rng.uniform(-0.5, 0.5, gates * units),
    }


def readout(rng: np.random.Generator, model: Model, units: int) -> Model:
    """A dense layer on top."""
    return model.dense(rng.normal(0, 0.3, (5, units)), rng.normal(0, 0.1, 5), name="readout")


def model_of(kind: str) -> tuple[str, Model]:
    """An engine that has its cells, and a model."""
    rng = np.random.default_rng(len(kind))
    model, units = Model(7), 19
    if kind == "lstm":
        model.lstm(**weights(rng, 4, 7, units)).lstm(**weights(rng, 4, units, units))
        return "recurrent", readout(rng, model, units)
    if kind == "lstm with peepholes":
        peepholes = {g: rng.normal(0, 0.5, units) for g in "ifo"}
        model.lstm(**weights(rng, 4, 7, units), peepholes=peepholes)
        return "recurrent", readout(rng, model, units)
    if kind == "gru, reset before":
        model.gru(**weights(rng, 3, 7, units), reset="before", name="one")
        model.gru(**weights(rng, 3, units, units), reset="before", name="two")
        return "recurrent", readout(rng, model, units)
    if kind == "egru":
        theta = rng.uniform(0, 0.2, units)
        model.egru(**weights(rng, 3, 7, units), theta=theta)
        model.egru(**weights(rng, 3, units, units), theta=theta)
        return "recurrent", readout(rng, model, units)
    if kind == "s5":
        model.s5_encoder(rng.normal(0, 0.5, (units, 7)), rng.normal(0, 0.1, units))
        for k in range(2):
            states = 11 + k
            lam = -np.exp(rng.uniform(-2, 1, states)) + 1j * rng.uniform(-8, 8, states)
            b, c = (
                (rng.normal(0, 1, s) + 1j * rng.normal(0, 1, s)) / np.sqrt(units)
                for s in ((states, units), (units, states))
            )
            glu = (rng.normal(0, 0.3, (units, units)), rng.normal(0, 0.5, units))
            model.s5(lam, b, c, rng.normal(0, 1, units), glu=glu, step=0.1)
        return "s5", model
    if kind == "activations":
        return "activations", activations(rng, model)
    assert kind == "small cells"
    model.mingru(rng.normal(0, 0.4, (2 * units, 7)), rng.uniform(-1, 1, 2 * units))
    layer = weights(rng, 2, units, units)
    model.ligru(layer["w_ih"], layer["w_hh"], layer["b_ih"])
    model.leaky(rng.normal(0, 0.3, (6, units)), rate=rng.uniform(0.01, 0.9, 6))
    model.conv(rng.normal(0, 0.3, (5, 6, 3)), rng.normal(0, 0.1, 5), activation="relu")
    return "small", model


def activations(rng: np.random.Generator, model: Model) -> Model:
    """A long convolution, a recurrence through tanh, and a mask on what came in the middle."""
    model.conv(rng.normal(0, 0.2, (9, 7, 12)), rng.normal(0, 0.1, 9), activation="relu")
    model.rnn(rng.normal(0, 0.4, (12, 9)), rng.normal(0, 0.3, (12, 12)))
    model.dense(rng.normal(0, 0.5, (11, 12)), rng.normal(0, 0.2, 11), "selu")
    model.dense(rng.normal(0, 0.5, (8, 11)), None, "clip", settings={"low": -0.4})
    both = {"a": rng.normal(0, 30, (8, 8)), "b": rng.normal(0, 0.6, (8, 8))}
    model.layer("mask", both, bias={"a": np.ones(8)})
    return model.layer("product", {"a": rng.normal(0, 1, (5, 8)), "b": rng.normal(0, 1, (5, 8))})


KINDS = (
    *("lstm", "lstm with peepholes", "gru, reset before", "egru", "s5", "small cells"),
    "activations",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_equals_the_reference(cell_benches: dict[str, Bench], kind: str) -> None:
    """Streaming and step by step, from a memory that never pauses and from a slow one."""
    name, model = model_of(kind)
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.normal(0, 0.4, (40, 7)) * (rng.random((40, 7)) < 0.5), 0)
    network = quantize(model, x)
    rows = network.quantize_input(x)
    for streaming, behaviour in (
        (True, Behaviour(latency=1)),
        (True, Behaviour(latency=60, jitter=9, output_stall=300, input_stall=300)),
        (False, Behaviour(latency=8)),
    ):
        case = Case(network, rows[: 40 if streaming else 6], rows[:3], behaviour, streaming)
        run = cell_benches[name].check(case)
        assert len(np.unique(run.outputs)) > 10


@pytest.mark.parametrize("threshold", [0.0, 0.02])
def test_an_lstm_with_two_planes_of_weights(
    cell_benches: dict[str, Bench], threshold: float
) -> None:
    name, model = model_of("lstm")
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.normal(0, 0.4, (80, 7)) * (rng.random((80, 7)) < 0.5), 0)
    names = [layer.name for layer in model.layers]
    assert names == ["lstm0", "lstm1", "readout"]
    network = quantize(model, x, planes=names, thresholds=threshold)
    assert [len(layer.matrices) for layer in network.layers] == [1, 4, 1, 4, 1, 2]
    rows = network.quantize_input(x)
    run = cell_benches[name].check(Case(network, rows, rows[:0], Behaviour(), streaming=True))
    for copy in ("input.low", "lstm0.low", "lstm1.low"):
        assert run.events[copy] > 0, "second planes take part"
    assert len(np.unique(run.outputs)) > 10


def test_the_cost_model_knows_the_cycles_of_the_cells(cell_benches: dict[str, Bench]) -> None:
    """Words exactly, cycles to a fiftieth, as for the engines of the cost tests."""
    name, model = model_of("activations")
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.normal(0, 0.4, (60, 7)) * (rng.random((60, 7)) < 0.5), 0)
    network = quantize(model, x)
    config, rows = CONFIGS[name], network.quantize_input(x)
    words, *cycles = count(network, rows, cell_benches[name].model, 12)
    events, found = record_events(network, rows, config)
    schedule = ScheduleModel(network, config, MemoryModel(latency=12))
    assert np.mean(found[WARM:]) == words
    for streaming, counted in zip((True, False), cycles):
        predicted = np.mean(schedule.run(events[WARM:], streaming=streaming))
        assert predicted == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("kind", ["egru", "lstm"])
def test_cells_are_cleared_every_so_many_steps(cell_benches: dict[str, Bench], kind: str) -> None:
    """``clear_every`` of the reference, by the host: what was sent stays sent."""
    name, model = model_of(kind)
    x = np.random.default_rng(2).normal(0, 1, (9, 7))
    network = quantize(model, x)
    bench = cell_benches[name]
    reference = Reference(network, bench.config.lanes, clear_every=4)
    plain = Reference(network, bench.config.lanes)
    bench.model.behave(Behaviour())
    engine = NetworkOnEngine(network, bench.config, model=bench.model)
    engine.reset()
    differs = False
    for step, row in enumerate(network.quantize_input(x)):
        if step and step % 4 == 0:
            engine.clear_cells()
        found = bench.model.run(row, 1, network.outputs)[0][0]
        bench.model.wait_idle()
        np.testing.assert_array_equal(found, reference.step_integers(row))
        assert engine.compare(reference, step) is None
        differs |= not np.array_equal(found, plain.step_integers(row))
    assert differs == (kind == "egru")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_many_seeded_networks_equal_the_reference(
    cell_benches: dict[str, Bench], name: str
) -> None:
    for seed in range(1000, 4000):
        cell_benches[name].check(random_cell_case(seed, CONFIGS[name]))
