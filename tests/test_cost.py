"""The cost model: words as columns are packed, cycles as the generated hardware counts them."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import RESCALE_GUARD_BITS
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.cost import MemoryModel, column_words, predict, record_events, step_words
from stillnet.sw.errors import StillnetError
from stillnet.sw.network import INPUT, Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.reference import Reference
from stillnet.sw.schedule_model import ScheduleModel
from stillnet.sw.sequence import Layout, run_integers

FRACTION, WEIGHT_FRACTION = 11, 7
WARM = 20

DENSE = EngineConfig(
    name="cost", lanes=8, units=2048, inputs=256, accumulators=1024, layers=8, matrices=32
)

Shape = tuple[int, list[tuple[str, int]]]

SHAPES: list[Shape] = [
    (16, [("gru", 32)]),
    (16, [("gru", 64)]),
    (40, [("gru", 128)]),
    (40, [("gru", 128), ("gru", 128)]),
    (40, [("gru", 256), ("gru", 256)]),
    (64, [("relu", 96), ("gru", 96), ("sigmoid", 33)]),
    (161, [("relu", 200), ("gru", 200), ("gru", 200), ("relu", 300), ("sigmoid", 161)]),
    (30, [("tanh", 80), ("tanh", 80), ("linear", 10)]),
    (20, [("gru", 48), ("gru", 48), ("gru", 48), ("linear", 5)]),
    (128, [("gru", 300)]),
    (8, [("gru", 512)]),
    (250, [("relu", 250), ("relu", 250), ("linear", 20)]),
]

# Counters of the generated hardware, 30 steps after 20 others: words, and cycles a step with
# vectors back to back and with each offered to an idle engine. By shape and memory latency.
COUNTED = {
    (0, 8): (184.0, 196.8667, 306.6667),
    (0, 60): (184.0, 218.0333, 411.8),
    (1, 8): (437.6, 454.2333, 542.1333),
    (1, 60): (437.6, 461.5667, 645.4),
    (2, 8): (2788.8, 2806.6333, 2867.9),
    (2, 60): (2788.8, 2810.1, 2971.9),
    (3, 8): (5456.0, 5457.6667, 5545.9),
    (3, 60): (5456.0, 5459.4, 5649.9),
    (5, 8): (3086.6, 3092.0333, 3251.4333),
    (5, 60): (3086.6, 3097.2333, 3407.4333),
    (7, 8): (346.0667, 471.0667, 578.6667),
    (8, 8): (1482.4667, 1490.3, 1602.6667),
}


def random_network(shape: Shape, seed: int, density: float = 1.0, bits: int = 8) -> Network:
    """A stack of cells with random weights; thresholds of 48/256."""
    rng = np.random.default_rng(seed)
    exponent = FRACTION + WEIGHT_FRACTION
    columns, layers = shape[0], []

    def weights(gates: int, units: int, columns: int) -> np.ndarray:
        values = rng.normal(size=(gates, units, columns)) * 2.0 / np.sqrt(columns * density)
        values = np.clip(np.rint(values * 2**WEIGHT_FRACTION), -128, 127)
        if bits == 4:
            values = np.clip(np.rint(values / 16), -8, 7)
        return (values * (rng.random(values.shape) < density)).astype(np.int8)

    for i, (name, units) in enumerate(shape[1]):
        cell = CELLS[name]
        if name == "gru":
            fed = [(i - 1, ("r", "u", "cx"), columns), (i, ("r", "u", "ch"), units)]
        else:
            fed = [(i - 1, ("y",), columns)]
        matrices = [
            QuantizedMatrix(s, gates, weights(len(gates), units, n), WEIGHT_FRACTION, bits)
            for s, gates, n in fed
        ]
        base = FRACTION if cell.homogeneous else 13
        layers.append(
            QuantizedLayer(
                name=f"{name}{i}",
                cell=name,
                units=units,
                matrices=matrices,
                bias={
                    g: np.rint(rng.normal(size=units) * 0.5 * 2**exponent).astype(np.int64)
                    for g in cell.accumulators
                },
                shift=exponent - base + RESCALE_GUARD_BITS,
                write_shift=0 if cell.homogeneous else 14 - FRACTION,
                fraction=FRACTION,
                threshold=48 * 2**FRACTION // 256,
            )
        )
        columns = units
    return Network(shape[0], FRACTION, layers, input_threshold=48 * 2**FRACTION // 256)


def vectors(inputs: int, steps: int, seed: int) -> np.ndarray:
    """AR(1) noise."""
    correlation = (0.95, 0.98, 0.9)[seed % 3]
    rng = np.random.default_rng(seed)
    x = np.zeros((steps, inputs))
    for t in range(1, steps):
        fresh = np.sqrt(1 - correlation**2) * rng.normal(size=inputs)
        x[t] = correlation * x[t - 1] + fresh
    return np.clip(np.rint(x * 2**FRACTION), -(1 << 15), (1 << 15) - 1).astype(np.int64)


@pytest.mark.parametrize("case", COUNTED)
def test_cycles_are_those_that_the_hardware_counted(case):
    number, latency = case
    words, streaming, single = COUNTED[case]
    network = random_network(SHAPES[number], number)
    x = vectors(network.inputs, WARM + 30, number)
    memory = MemoryModel(latency=latency)
    events, found = record_events(network, x, DENSE)
    assert np.mean(found[WARM:]) == pytest.approx(words, abs=1e-3)
    model = ScheduleModel(network, DENSE, memory)
    assert np.mean(model.run(events[WARM:], streaming=False)) == pytest.approx(single, rel=0.02)
    # A chain of short layers back to back, which waits for its cells, is the hardest to predict.
    tolerance = 0.05 if number == 7 else 0.02
    assert np.mean(model.run(events[WARM:])) == pytest.approx(streaming, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_cycles_of_new_runs_of_the_hardware(bits):
    """Networks and formats that the model's constants were not fitted to."""
    from stillnet.sim.engine_model import Behaviour, EngineModel
    from stillnet.sim.equivalence import NetworkOnEngine

    config = DENSE
    if bits == 4:
        config = EngineConfig(
            name="cost-int4",
            lanes=4,
            units=2048,
            inputs=256,
            accumulators=2048,
            matrices=32,
            int4=True,
            formats=FORMATS,
            columns=4096,
        )
    model = EngineModel(config)
    for seed, number in enumerate((2, 3, 4, 5, 6, 8, 9, 11)):
        network = random_network(SHAPES[number], 100 + seed, 1.0 if bits == 8 else 0.4, bits)
        x = vectors(network.inputs, WARM + 16, 100 + seed)
        with NetworkOnEngine(network, config, model=model) as engine:
            model.behave(Behaviour(latency=24))
            engine.reset()
            model.run(x[:WARM], WARM, network.outputs)
            model.wait_idle()
            model.clear_counters()
            for row in x[WARM:]:
                model.run(row, 1, network.outputs)
                model.wait_idle()
            counters = model.counters()
        cost = predict(network, x, config, memory=MemoryModel(latency=24), warm=WARM)
        assert cost.words * 16 == counters["words"]
        assert cost.cycles == pytest.approx(counters["cycles"] / 16, rel=0.02)
    model.close()


def test_words_are_those_of_the_packed_columns():
    network = random_network((20, [("gru", 48), ("linear", 5)]), 1, density=0.3, bits=4)
    config = EngineConfig(lanes=2, int4=True, formats=FORMATS, columns=512)
    x = vectors(20, 30, 2)
    layout = Layout([30])
    trace = run_integers(network, layout, layout.pack([x]))
    reference, words, columns = Reference(network, config=config), 0, 0
    for row in x:
        reference.step_integers(row)
        words += reference.last.words
        columns += sum(reference.last.events.values())
    assert step_words(network, config, trace) * 30 == pytest.approx(words)
    cost = predict(network, x, config)
    assert (cost.words * 30, cost.columns * 30) == pytest.approx((words, columns))
    assert cost.bytes == pytest.approx(cost.words * 2)
    assert cost.milliseconds == pytest.approx(cost.cycles / 1e5)
    assert cost.cycles > cost.words / 0.9899
    lengths = column_words(network, config)
    first = network.layers[0].matrices[0].layout("gru", config).lengths
    assert np.array_equal(lengths[INPUT], first) and len(set(first)) > 1


def test_other_events_are_refused():
    network = random_network((4, [("relu", 4), ("linear", 2)]), 1)
    network.layers[0].mode = Mode.NONZERO
    with pytest.raises(
        StillnetError,
        match="^network 'network' has other events than differences under one threshold; the cost "
        "model knows only these$",
    ):
        predict(network, vectors(4, 3, 0), DENSE)
