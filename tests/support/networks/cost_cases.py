"""Networks whose cycles the generated hardware has counted, for the cost model to predict.

Words, and cycles a step with vectors back to back and with each offered to an idle engine: 16 steps
after 20 others. ``python -m tests.support.networks.cost_cases`` counts them again and prints the
table; the slow test of ``test_cost.py`` does so too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from stillnet.sim.bench.weights import Case as Pruning
from stillnet.sim.bench.weights import prune
from stillnet.sim.engine.counted import counted_run
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import RESCALE_GUARD_BITS
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix

__all__ = [
    "CASES",
    "CONFIGS",
    "COUNTED",
    "STEPS",
    "WARM",
    "CostCase",
    "build",
    "count",
    "random_network",
    "vectors",
]

FRACTION, WEIGHT_FRACTION = 11, 7
WARM, STEPS = 20, 16

Shape = tuple[int, list[tuple[str, int]]]

_ROOM = {"units": 2048, "inputs": 256, "accumulators": 1024, "layers": 8, "matrices": 32}
_PRUNED = {"formats": FORMATS, "columns": 4096}
CONFIGS = {
    "dense": EngineConfig(name="cost", lanes=8, **_ROOM),
    "int8": EngineConfig(name="cost-int8", lanes=8, **_ROOM, **_PRUNED),
    "int4": EngineConfig(name="cost-int4", lanes=8, int4=True, **_ROOM, **_PRUNED),
    "wide": EngineConfig(
        name="cost-wide",
        lanes=4,
        cell_width=2,
        int4=True,
        row_scale=True,
        prefetch_blocks=8,
        fetch_words=96,
        **_ROOM,
        **_PRUNED,
    ),
    "turn": EngineConfig(
        name="cost-turn",
        lanes=4,
        cell_sharing=4,
        prefetch_blocks=4,
        cells=("gru", "linear", "relu", "sigmoid"),
        **_ROOM,
    ),
    "sdram16": EngineConfig(
        name="cost-sdram16",
        lanes=2,
        accumulators=4096,
        int4=True,
        formats=("dense", "step", "bitmap"),
        columns=8192,
        row_scale=True,
        element_thresholds=True,
    ),
}
"""Lanes, widths, what is in flight and how far the cell reads ahead differ."""

SHAPES: dict[str, Shape] = {
    "16-gru32": (16, [("gru", 32)]),
    "16-gru64": (16, [("gru", 64)]),
    "40-gru128": (40, [("gru", 128)]),
    "40-gru256": (40, [("gru", 256)]),
    "12-gru90": (12, [("gru", 90)]),
    "200-gru240": (200, [("gru", 240)]),
    "two": (40, [("gru", 128)] * 2),
    "three": (20, [("gru", 48)] * 3 + [("linear", 5)]),
    "four": (60, [("gru", 72)] * 4),
    "pyramid": (80, [("gru", 160), ("gru", 96), ("sigmoid", 60)]),
    "between": (64, [("relu", 96), ("gru", 96), ("sigmoid", 33)]),
    "tanh": (33, [("tanh", 120), ("gru", 120), ("linear", 12)]),
    "denoiser": (161, [("relu", 200), ("gru", 200), ("gru", 200), ("relu", 300), ("sigmoid", 161)]),
    "mixed": (120, [("relu", 220), ("gru", 180), ("relu", 140), ("sigmoid", 120)]),
    "feedforward": (250, [("relu", 250), ("relu", 250), ("linear", 20)]),
    "kinds": (150, [("relu", 180), ("tanh", 100), ("sigmoid", 150)]),
    "narrow": (30, [("tanh", 80), ("tanh", 80), ("linear", 10)]),
}


@dataclass(frozen=True)
class CostCase:
    """A network on an engine.

    Attributes
    ----------
    config, shape : str
    bits : int
    pattern, density, format : of its weights, as in ``bench_weights.Case``
    latency : int
        Of the memory.
    """

    config: str
    shape: str
    bits: int
    pattern: str
    density: float
    format: str | None
    latency: int

    def __str__(self) -> str:
        chosen = self.format or "fewest words"
        return f"{self.config} {self.shape} int{self.bits} {self.pattern} {chosen} {self.latency}"


CASES = tuple(
    CostCase(*row)
    for row in (
        ("dense", "16-gru32", 8, "all", 1.0, None, 8),
        ("dense", "16-gru64", 8, "all", 1.0, None, 60),
        ("dense", "40-gru128", 8, "all", 1.0, None, 8),
        ("dense", "two", 8, "all", 1.0, None, 24),
        ("dense", "three", 8, "all", 1.0, None, 8),
        ("dense", "four", 8, "all", 1.0, None, 24),
        ("dense", "pyramid", 8, "all", 1.0, None, 8),
        ("dense", "between", 8, "all", 1.0, None, 60),
        ("dense", "tanh", 8, "all", 1.0, None, 24),
        ("dense", "mixed", 8, "all", 1.0, None, 40),
        ("dense", "kinds", 8, "all", 1.0, None, 8),
        ("dense", "narrow", 8, "all", 1.0, None, 8),
        ("dense", "feedforward", 8, "all", 1.0, None, 8),
        ("dense", "200-gru240", 8, "all", 1.0, None, 60),
        ("int8", "pyramid", 8, "any", 0.25, "step", 8),
        ("int8", "tanh", 8, "any", 0.1, "step", 24),
        ("int8", "mixed", 8, "blocks", 0.5, "block", 24),
        ("int8", "12-gru90", 8, "8 of 16", 0.5, "bitmap", 8),
        ("int8", "200-gru240", 8, "1 of 4", 0.25, "place", 40),
        ("int8", "four", 8, "any", 0.5, None, 24),
        ("int8", "kinds", 8, "all", 1.0, "dense", 8),
        ("int8", "40-gru256", 8, "any", 0.1, None, 60),
        ("int4", "16-gru64", 4, "all", 1.0, None, 8),
        ("int4", "40-gru128", 4, "any", 0.5, "step", 8),
        ("int4", "two", 4, "8 of 16", 0.5, "bitmap", 24),
        ("int4", "between", 4, "1 of 4", 0.25, "place", 8),
        ("int4", "three", 4, "any", 0.4, None, 24),
        ("int4", "denoiser", 4, "any", 0.2, "step", 24),
        ("int4", "between", 8, "blocks", 0.5, "block", 8),
        ("int4", "40-gru256", 4, "any", 0.1, "step", 60),
        ("int4", "feedforward", 4, "any", 0.5, None, 8),
        ("wide", "pyramid", 4, "any", 0.5, "step", 24),
        ("wide", "tanh", 4, "8 of 16", 0.5, "bitmap", 8),
        ("wide", "mixed", 4, "any", 0.3, None, 24),
        ("wide", "12-gru90", 4, "all", 1.0, "dense", 8),
        ("wide", "200-gru240", 8, "blocks", 0.5, "block", 24),
        ("wide", "four", 4, "1 of 4", 0.25, "place", 8),
        ("wide", "kinds", 4, "any", 0.5, "step", 40),
        ("sdram16", "denoiser", 4, "any", 0.5, "step", 24),
        ("sdram16", "pyramid", 4, "8 of 16", 0.5, "bitmap", 24),
        ("sdram16", "between", 4, "all", 1.0, "dense", 8),
        ("sdram16", "mixed", 4, "any", 0.4, None, 24),
        ("turn", "16-gru32", 8, "all", 1.0, None, 8),
        ("turn", "three", 8, "all", 1.0, None, 8),
        ("turn", "pyramid", 8, "all", 1.0, None, 24),
    )
)

COUNTED: tuple[tuple[float, float, float], ...] = (
    (135.75, 153.3125, 252.75),  # dense 16-gru32 int8 all fewest words 8
    (634.5, 647.0, 836.875),  # dense 16-gru64 int8 all fewest words 60
    (2793.0, 2798.3125, 2874.875),  # dense 40-gru128 int8 all fewest words 8
    (4695.0, 4699.0, 4812.9375),  # dense two int8 all fewest words 24
    (1505.0625, 1512.9375, 1628.8125),  # dense three int8 all fewest words 8
    (3771.5625, 3776.6875, 3921.0),  # dense four int8 all fewest words 24
    (5366.75, 5372.8125, 5447.9375),  # dense pyramid int8 all fewest words 8
    (3065.375, 3086.0, 3380.9375),  # dense between int8 all fewest words 60
    (3863.9375, 3909.5, 4115.25),  # dense tanh int8 all fewest words 24
    (9821.5, 9883.9375, 10035.3125),  # dense mixed int8 all fewest words 40
    (4131.375, 4170.8125, 4416.1875),  # dense kinds int8 all fewest words 8
    (451.25, 560.6875, 661.3125),  # dense narrow int8 all fewest words 8
    (6125.6875, 6206.625, 6260.4375),  # dense feedforward int8 all fewest words 8
    (18253.125, 18261.5, 18393.6875),  # dense 200-gru240 int8 all fewest words 60
    (2743.3125, 2855.625, 2910.125),  # int8 pyramid int8 any step 8
    (212.9375, 474.375, 605.8125),  # int8 tanh int8 any step 24
    (7376.6875, 7512.5, 7644.5625),  # int8 mixed int8 blocks block 24
    (929.25, 991.625, 1058.125),  # int8 12-gru90 int8 8 of 16 bitmap 8
    (5133.0625, 5272.1875, 5350.6875),  # int8 200-gru240 int8 1 of 4 place 40
    (3317.5625, 3358.25, 3533.3125),  # int8 four int8 any fewest words 24
    (3321.3125, 3375.25, 3619.375),  # int8 kinds int8 all dense 8
    (607.6875, 774.8125, 889.3125),  # int8 40-gru256 int8 any fewest words 60
    (135.0, 153.625, 289.75),  # int4 16-gru64 int4 all fewest words 8
    (529.8125, 582.375, 738.875),  # int4 40-gru128 int4 any step 8
    (517.375, 586.75, 924.25),  # int4 two int4 8 of 16 bitmap 24
    (141.625, 352.1875, 536.9375),  # int4 between int4 1 of 4 place 8
    (100.0, 364.25, 532.125),  # int4 three int4 any fewest words 24
    (431.25, 1324.75, 1790.3125),  # int4 denoiser int4 any step 24
    (1812.5625, 1839.75, 2035.75),  # int4 between int8 blocks block 8
    (314.625, 411.875, 718.6875),  # int4 40-gru256 int4 any step 60
    (1450.875, 1522.5625, 2095.0625),  # int4 feedforward int4 any fewest words 8
    (3040.375, 3196.125, 3413.5625),  # wide pyramid int4 any step 24
    (306.1875, 456.9375, 653.25),  # wide tanh int4 8 of 16 bitmap 8
    (883.375, 1020.375, 1498.125),  # wide mixed int4 any fewest words 24
    (337.5, 361.0, 471.375),  # wide 12-gru90 int4 all dense 8
    (15866.0, 16060.3125, 16123.6875),  # wide 200-gru240 int8 blocks block 24
    (571.375, 666.1875, 1120.6875),  # wide four int4 1 of 4 place 8
    (2147.375, 2256.125, 2566.4375),  # wide kinds int4 any step 40
    (4248.125, 4497.4375, 5638.25),  # sdram16 denoiser int4 any step 24
    (4145.0, 4414.0, 4782.125),  # sdram16 pyramid int4 8 of 16 bitmap 24
    (1450.5, 1485.9375, 1765.875),  # sdram16 between int4 all dense 8
    (2928.6875, 3158.0625, 3817.875),  # sdram16 mixed int4 any fewest words 24
    (318.0, 362.8125, 436.6875),  # turn 16-gru32 int8 all fewest words 8
    (2435.125, 2517.25, 2558.8125),  # turn three int8 all fewest words 8
    (14502.9375, 14843.8125, 14752.4375),  # turn pyramid int8 all fewest words 24
)
"""By case: words, cycles back to back, cycles from idle, of a step."""


def random_network(shape: Shape, seed: int, bits: int = 8) -> Network:
    """A stack of cells with random weights, none of them zero; thresholds of 48/256."""
    rng = np.random.default_rng(seed)
    exponent = FRACTION + WEIGHT_FRACTION
    columns, layers = shape[0], []

    def weights(gates: int, units: int, columns: int) -> np.ndarray:
        values = rng.normal(size=(gates, units, columns)) * 2.0 / np.sqrt(columns)
        values = np.clip(np.rint(values * 2**WEIGHT_FRACTION), -128, 127)
        if bits == 4:
            values = np.clip(np.rint(values / 16), -8, 7)
        values[values == 0] = 1
        return values.astype(np.int8)

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


def build(
    case: CostCase, config: EngineConfig | None = None, seed: int | None = None
) -> tuple[Network, np.ndarray, EngineConfig]:
    """The network of a case, its input vectors, and the engine, which may be another one."""
    seed = 1 + CASES.index(case) if seed is None else seed
    config = config or CONFIGS[case.config]
    network = random_network(SHAPES[case.shape], seed, case.bits)
    rng = np.random.default_rng(seed)
    pruning = Pruning(case.pattern, case.bits, case.density, case.format)
    for layer in network.layers:
        for j, m in enumerate(layer.matrices):
            kept = prune(m.weight.shape, pruning, config.multipliers, rng)
            weight = m.weight * kept.astype(np.int8)
            layer.matrices[j] = dataclasses.replace(m, weight=weight, format=case.format)
        if config.row_scale:
            layer.scale = {g: rng.integers(1 << 13, 1 << 15, layer.units) for g in layer.bias}
    return network, vectors(network.inputs, WARM + STEPS, seed), config


def count(
    network: Network, x: np.ndarray, model: EngineModel, latency: int
) -> tuple[float, float, float]:
    """What the hardware counts: words, cycles back to back, cycles from idle, of a step."""
    together, single = (
        counted_run(network, x, model, warm=WARM, latency=latency, streaming=streaming)
        for streaming in (True, False)
    )
    return together["words"], together["cycles"], single["cycles"]


if __name__ == "__main__":
    for name, engine_config in CONFIGS.items():
        with EngineModel(engine_config) as engine_model:
            for each in CASES:
                if each.config == name:
                    net, rows, _ = build(each)
                    counted = count(net, rows, engine_model, each.latency)
                    print(f"    {counted},  # {each}", flush=True)
