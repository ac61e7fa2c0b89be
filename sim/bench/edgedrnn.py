"""``stillnet bench edgedrnn``: the shapes at which EdgeDRNN's public RTL was measured.

Same I-H-L, eight lanes, 64-bit words, thresholds 64/256 on inputs and on what a layer sees of the
one below, 96/256 on recurrences (two encoders for a hidden vector). Weights are random normal with
a gain of 2 over sqrt(columns); inputs are AR(1) noise of unit variance, whose correlation is chosen
for each shape so that the sparsity comes out as in the published measurement. Everything is counted
by the hardware's own counters in the generated Verilog; memory is ideal with a given latency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillnet.sim.engine.equivalence import NetworkOnEngine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import RESCALE_GUARD_BITS
from stillnet.sw.contract.registers import Register
from stillnet.sw.contract.sources import encoder_select
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "SHAPES", "Shape", "config", "edgedrnn", "inputs", "network"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shape:
    """One row of the comparison.

    Attributes
    ----------
    inputs, units, layers : int
    correlation : float
        Of the AR(1) input from step to step.
    sparsity, cycles, utilisation : float
        Measured on EdgeDRNN's RTL.
    """

    inputs: int
    units: int
    layers: int
    correlation: float
    sparsity: float
    cycles: int
    utilisation: float

    def __str__(self) -> str:
        return f"{self.inputs}-{self.units}-{self.layers}"


SHAPES = (
    Shape(40, 768, 2, 0.9782, 0.901, 67979, 0.984),
    Shape(40, 512, 2, 0.9790, 0.897, 32070, 0.977),
    Shape(40, 256, 2, 0.9821, 0.909, 7503, 0.944),
    Shape(40, 128, 2, 0.9732, 0.885, 2603, 0.901),
    Shape(16, 64, 1, 0.9782, 0.879, 319, 0.728),
    Shape(16, 32, 1, 0.9771, 0.841, 158, 0.578),
)

FRACTION = 11
WEIGHT_FRACTION = 7
EXPONENT = FRACTION + WEIGHT_FRACTION


def config(cell_width: int = 1) -> EngineConfig:
    """The engine of the comparison: eight lanes, room for the largest shape."""
    return EngineConfig(
        name=f"edgedrnn-{cell_width}",
        lanes=8,
        cells=("gru",),
        cell_width=cell_width,
        units=1536,
        inputs=64,
        accumulators=768,
        layers=2,
        matrices=8,
        second_threshold=True,
    )


def network(shape: Shape, *, gain: float = 2.0, seed: int = 0) -> Network:
    """A stack of GRUs with random weights and biases."""
    rng = np.random.default_rng(seed)

    def weights(columns: int) -> np.ndarray:
        values = rng.normal(size=(3, shape.units, columns)) * gain / np.sqrt(columns)
        return np.clip(np.rint(values * 2**WEIGHT_FRACTION), -128, 127).astype(np.int8)

    layers = []
    columns = shape.inputs
    for i in range(shape.layers):
        biases = {
            g: np.rint(rng.normal(size=shape.units) * 0.5 * 2**EXPONENT).astype(np.int64)
            for g in ("r", "cx", "u", "ch")
        }
        layers.append(
            QuantizedLayer(
                name=f"gru{i}",
                cell="gru",
                units=shape.units,
                matrices=[
                    QuantizedMatrix(i - 1, ("r", "u", "cx"), weights(columns), WEIGHT_FRACTION),
                    QuantizedMatrix(i, ("r", "u", "ch"), weights(shape.units), WEIGHT_FRACTION),
                ],
                bias=biases,
                shift=EXPONENT - 13 + RESCALE_GUARD_BITS,
                write_shift=14 - FRACTION,
                fraction=FRACTION,
                threshold=64 * 2**FRACTION // 256,
                threshold_recurrent=96 * 2**FRACTION // 256,
            )
        )
        columns = shape.units
    threshold = 64 * 2**FRACTION // 256
    return Network(shape.inputs, FRACTION, layers, input_threshold=threshold, name=str(shape))


def inputs(shape: Shape, steps: int, *, seed: int = 1) -> np.ndarray:
    """AR(1) noise of unit variance, int64, shape (steps, inputs)."""
    rng = np.random.default_rng(seed)
    x = np.zeros((steps, shape.inputs))
    spread = np.sqrt(1 - shape.correlation**2)
    for t in range(1, steps):
        x[t] = shape.correlation * x[t - 1] + spread * rng.normal(size=shape.inputs)
    return np.clip(np.rint(x * 2**FRACTION), -(1 << 15), (1 << 15) - 1).astype(np.int64)


def measure(
    shape: Shape, model: EngineModel, latency: int, *, warm: int = 40, steps: int | None = None
) -> dict[str, Any]:
    """One row: streams ``steps`` vectors back to back, then single ones, then a still input."""
    net = network(shape)
    steps = steps or (40 if shape.units > 200 else 300)
    x = inputs(shape, warm + steps)
    engine_config = model.config
    reference = Reference(net, engine_config.lanes)
    expected = np.stack([reference.step_integers(row) for row in x])
    with NetworkOnEngine(net, engine_config, model=model):
        model.behave(Behaviour(latency=latency))
        got = [model.run(x[:warm], warm, net.outputs)[0]]
        model.wait_idle()
        model.clear_counters()
        got.append(model.run(x[warm:], steps, net.outputs)[0])
        model.wait_idle()
        streaming = model.counters()
        fired = 0
        for i in range(shape.layers):
            fired += model.events(encoder_select(i - 1)) + model.events(encoder_select(i, True))

        # The same vectors again, each offered to an idle engine.
        model.clear()
        again = [model.run(x[:warm], warm, net.outputs)[0]]
        model.wait_idle()
        latencies = []
        for row in x[warm:]:
            again.append(model.run(row, 1, net.outputs)[0])
            model.wait_idle()
            latencies.append(model.read(Register.LATENCY))
        for outputs in (got, again):
            if not np.array_equal(np.concatenate(outputs), expected):
                raise RuntimeError(f"{shape}: the engine differs from the reference")

        # Nothing fires: no difference of 17 bits reaches these thresholds.
        for source in (0, *range(1, shape.layers + 1), *range(33, shape.layers + 33)):
            model.write(Register.THRESHOLD_SELECT, source)
            model.write(Register.THRESHOLD, (1 << 17) - 1)
        count = 20
        model.run(np.repeat(x[-1:], count, axis=0), count, net.outputs)
        model.wait_idle()
        model.clear_counters()
        _, ends = model.run(np.repeat(x[-1:], count, axis=0), count, net.outputs)
        model.wait_idle()
        floor = float(np.mean(np.diff(ends[4:])))
        calm_words = model.counters()["words"]
    columns = shape.inputs + shape.units * (2 * shape.layers - 1)
    words, cycles = streaming["words"] / steps, streaming["cycles"] / steps
    return {
        "shape": str(shape),
        "memory_latency": latency,
        "cell_width": engine_config.cell_width,
        "fired_columns": fired / steps,
        "sparsity": 1 - fired / steps / columns,
        "words": words,
        "cycles": cycles,
        "utilisation": words / cycles,
        "stall_cell": streaming["stall_cell"] / steps,
        "stall_memory": streaming["stall_memory"] / steps,
        "stall_events": streaming["stall_events"] / steps,
        "latency_cycles": float(np.mean(latencies)),
        "latency_share": float(np.mean(latencies)) / cycles,
        "floor_cycles": floor,
        "floor_words": calm_words / count,
        "bytes": words * engine_config.word_bytes,
        "edgedrnn_cycles": shape.cycles,
        "edgedrnn_utilisation": shape.utilisation,
        "edgedrnn_sparsity": shape.sparsity,
    }


def edgedrnn(
    *,
    latencies: tuple[int, ...] = (8, 60),
    shapes: tuple[Shape, ...] = SHAPES,
    cell_widths: tuple[int, ...] = (1, 2),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """All rows. Two elements a cycle are measured for the first shape only.

    Outputs are compared with the reference, but for the floor, whose thresholds are changed.
    """
    jobs = [
        (width, shape, latency)
        for width in cell_widths
        for shape in (shapes if width == 1 else shapes[:1])
        for latency in (latencies if width == 1 else latencies[:1])
    ]
    rows = []
    models: dict[int, EngineModel] = {}
    for k, (width, shape, latency) in enumerate(jobs):
        if progress:
            progress(f"{shape}, latency {latency}", k, len(jobs))
        if width not in models:
            models[width] = EngineModel(config(width))
        rows.append(measure(shape, models[width], latency))
    if progress:
        progress("done", len(jobs), len(jobs))
    for model in models.values():
        model.close()
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            **row,
            "others": f"{row['edgedrnn_cycles']:,} / {row['edgedrnn_utilisation']:.3f}",
            "share": row["latency_cycles"] / row["cycles"],
        }
        for row in rows
    ]
    return table(
        shown,
        {
            "shape": ("I-H-L", ""),
            "cell_width": ("units per cycle", "d"),
            "memory_latency": ("memory latency", "d"),
            "sparsity": ("sparsity", ".3f"),
            "fired_columns": ("fired columns", ".1f"),
            "words": ("words per step", ",.0f"),
            "cycles": ("cycles per step", ",.0f"),
            "utilisation": ("utilisation", ".4f"),
            "latency_cycles": ("latency", ",.0f"),
            "share": ("latency / cycles", ".3f"),
            "floor_cycles": ("floor", ",.0f"),
            "bytes": ("bytes per step", ",.0f"),
            "others": ("EdgeDRNN cycles / utilisation", ""),
        },
    )


BENCH = Bench(
    name="edgedrnn",
    title="EdgeDRNN's shapes",
    about=(
        "Eight lanes, 64-bit words, int8. Utilisation is words / cycles with steps streaming back "
        "to back; latency is from the first input element offered to an idle engine to the last "
        "output element; all of these outputs were compared with the reference. Floor is a step "
        "in which nothing fires (thresholds out of reach). EdgeDRNN's figures were "
        "measured on its own stimulus at about the same sparsity; a fired column costs both the "
        "same number of words. At 16 inputs and 32 units with a memory latency of 60 cycles the "
        "engine waits for its first events: a step of the network is shorter than the memory's "
        "latency and the pipeline together."
    ),
    measure=lambda progress: edgedrnn(progress=progress),
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
