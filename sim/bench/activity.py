"""``stillnet bench activity``: cycles against activity times weight density.

The law, for a step::

    cycles = activity * density * dense words + index words + bias words + wait

activity
    Weights in the columns of events / all weights (pruned ones counted).
density
    Weights kept / all weights. Dense words: all weights / weights a word.
index words
    Words of the columns read, less kept weights / weights a word: indices, entries without weight,
    words that are not full. From the packed formats (``QuantizedMatrix.layout``). It also holds
    what the fired columns have more or fewer weights than the mean column.
bias words
    Layers fed by plain events start each step from their biases: four words for each block and
    accumulator (``columns.bias_words``).
wait
    Cycles in which no word enters the lanes, from the cost model (``sw/cost``): it walks through
    the engine's rules and stages and knows which elements are events, not their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillnet.sim.engine.counted import counted_run
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import PRE, RESCALE_GUARD_BITS
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import step_events
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.cost.schedule import ScheduleModel
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.benches import Bench, table

from .activity_counts import Counted, Step

__all__ = ["ACTIVITIES", "BENCH", "DENSITIES", "SHAPES", "Shape", "activity", "config", "network"]

Progress = Callable[[str, int, int], None]

ACTIVITIES = (0.05, 0.2, 0.5, 1.0)
DENSITIES = (1.0, 0.5, 0.25, 0.1)
LATENCY = 8
"""Of the memory, in cycles."""
FRACTION = 11
"""Of every vector."""
WEIGHT_FRACTION = 7
COUNTERS = ("words", "cycles", "stall_cell", "stall_memory", "stall_events")
EXPONENT = FRACTION + WEIGHT_FRACTION


@dataclass(frozen=True)
class Shape:
    """A stack.

    Attributes
    ----------
    kind : str
        ``"egru"``, ``"gru"`` or ``"s5"``.
    inputs, units : int
        ``units`` is H of an S5.
    layers : int
        Blocks of an S5, of four layers each.
    states : int
        P of an S5.
    """

    kind: str
    inputs: int
    units: int
    layers: int
    states: int = 0

    def __str__(self) -> str:
        middle = f"{self.units}/{self.states}" if self.states else f"{self.units}"
        return f"{self.kind} {self.inputs}-{middle}-{self.layers}"


SHAPES = (
    Shape("egru", 64, 256, 2),
    Shape("egru", 64, 512, 2),
    Shape("s5", 16, 192, 4, 96),
    Shape("gru", 64, 256, 2),
)

S5 = ("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu")


def config(shape: Shape) -> EngineConfig:
    """Eight lanes, words of 64 bits, every format of columns."""
    s5 = shape.kind == "s5"
    return EngineConfig(
        name=f"activity-{shape.kind}",
        lanes=8,
        cells=S5 if s5 else (shape.kind,),
        units=4096,
        inputs=64,
        accumulators=1024,
        layers=17 if s5 else 2,
        matrices=48 if s5 else 8,
        formats=FORMATS,
        columns=4096,
    )


# -- networks -------------------------------------------------------------------------------------


class _Builder:
    def __init__(self, shape: Shape, density: float, seed: int) -> None:
        self.shape, self.density = shape, density
        self.rng = np.random.default_rng(seed)
        self.layers: list[QuantizedLayer] = []

    def matrix(
        self, source: int, gates: tuple[str, ...], units: int, columns: int, gain: float
    ) -> QuantizedMatrix:
        """Random normal weights, a part of them kept; what is kept is not zero."""
        kept = self.rng.random((len(gates), units, columns)) < self.density
        spread = gain / np.sqrt(columns * self.density)
        values = self.rng.normal(size=kept.shape) * spread * 2**WEIGHT_FRACTION
        weight = np.clip(np.rint(values), -127, 127).astype(np.int8)
        weight[weight == 0] = 1
        return QuantizedMatrix(source, gates, weight * kept.astype(np.int8), WEIGHT_FRACTION)

    def add(
        self,
        cell: str,
        units: int,
        matrices: list[QuantizedMatrix],
        means: dict[str, float],
        mode: Mode,
        **more: Any,
    ) -> None:
        """A layer; biases are normal around ``means``."""
        bias = {
            g: np.rint(
                (means.get(g, 0.0) + self.rng.normal(size=units) * 0.25) * 2.0**EXPONENT
            ).astype(np.int64)
            for g in CELLS[cell].accumulators
        }
        y = 14 if cell in ("gru", "egru", "s5_state", "s5_imag") else 13
        self.layers.append(
            QuantizedLayer(
                name=f"{cell}{len(self.layers)}",
                cell=cell,
                units=units,
                matrices=matrices,
                bias=bias,
                shift=EXPONENT - PRE.fraction + RESCALE_GUARD_BITS,
                write_shift=y - FRACTION,
                fraction=FRACTION,
                mode=mode,
                **more,
            )
        )

    def constant(self, cell: str, name: str, low: float, high: float, units: int) -> np.ndarray:
        """A parameter, uniform, in its format."""
        fraction = CELLS[cell].parameters[name].fraction
        return np.rint(self.rng.uniform(low, high, units) * 2.0**fraction).astype(np.int64)


def network(shape: Shape, density: float, *, seed: int = 0) -> Network:
    """Random weights, ``density`` of which are kept, anywhere; thresholds are still zero.

    Biases are such that nearly every element is an event at threshold zero.
    """
    b = _Builder(shape, density, seed)
    mode = Mode.DELTA if shape.kind == "gru" else Mode.NONZERO
    n, columns = shape.units, shape.inputs
    if shape.kind == "s5":
        p = shape.states
        m = b.matrix(INPUT, ("y",), n, columns, 0.3)
        b.add("s5_encoder", n, [m], {"y": 1.0}, mode)
        for k in range(shape.layers):
            v = 4 * k
            parameters = {
                "lam_re": b.constant("s5_state", "lam_re", 0.7, 0.9, p),
                "lam_im": b.constant("s5_state", "lam_im", -0.05, 0.05, p),
                "c_re": b.constant("s5_state", "c_re", 0.1, 0.2, p),
                "c_im": b.constant("s5_state", "c_im", 0.0, 0.02, p),
            }
            m = b.matrix(v, ("bre", "bim"), p, n, 0.2)
            b.add("s5_state", p, [m], {"bre": 1.0}, mode, parameters=parameters)
            b.add("s5_imag", p, [], {}, mode, peers={"xr": v + 1, "xi": v + 1})
            ms = [b.matrix(v + 1, ("yr",), n, p, 0.2), b.matrix(v + 2, ("yi",), n, p, 0.2)]
            skip = {"d": b.constant("s5_output", "d", 0.0, 0.2, n)}
            b.add("s5_output", n, ms, {"yr": 1.0}, mode, parameters=skip, peers={"v": v})
            m = b.matrix(v + 3, ("g",), n, n, 0.2)
            b.add("s5_glu", n, [m], {"g": -2.0}, mode, peers={"x1": v + 3, "v": v})
    else:
        for i in range(shape.layers):
            gain = 0.5 if shape.kind == "egru" else 2.0
            ms = [
                b.matrix(i - 1, ("r", "u", "cx"), n, columns, gain),
                b.matrix(i, ("r", "u", "ch"), n, n, gain),
            ]
            more = {"parameters": {"theta": np.zeros(n, np.int64)}} if shape.kind == "egru" else {}
            means = {"cx": 1.0, "u": -1.0} if shape.kind == "egru" else {}
            b.add(shape.kind, n, ms, means, mode, **more)
            columns = n
    return Network(shape.inputs, FRACTION, b.layers, input_mode=mode, name=f"{shape} {density}")


def inputs(shape: Shape, part: float, steps: int, *, seed: int = 1) -> np.ndarray:
    """Normal noise of which ``part`` changes (GRU) or is not zero, int64, (steps, inputs)."""
    rng = np.random.default_rng(seed)
    noise = np.rint(rng.normal(size=(steps, shape.inputs)) * 2**FRACTION).astype(np.int64)
    noise[noise == 0] = 1
    fires = rng.random(noise.shape) < part
    if shape.kind != "gru":
        return noise * fires
    for t in range(1, steps):
        noise[t] = np.where(fires[t], noise[t], noise[t - 1])
    return noise


def _set_threshold(layer: QuantizedLayer, value: int) -> None:
    """The unit's threshold of an EGRU, the encoder's elsewhere."""
    if layer.cell == "egru":
        layer.parameters["theta"][:] = value
    else:
        layer.threshold = value


def _fired(net: Network, index: int, x: np.ndarray, warm: int) -> float:
    """Part of a layer's elements that are events."""
    part = Network(net.inputs, net.input_fraction, net.layers[: index + 1], net.input_mode)
    reference, total = Reference(part), 0
    for t, row in enumerate(x):
        reference.step_integers(row)
        total += reference.last.events[index] if t >= warm else 0
    return total / (len(x) - warm) / net.layers[index].units


def calibrate(net: Network, part: float, x: np.ndarray, warm: int) -> None:
    """Sets the thresholds so that about ``part`` of each vector's elements are events."""
    for i, layer in enumerate(net.layers):
        _set_threshold(layer, 0)
        if part >= 1:
            continue
        low, high = 0, 1 << 15
        while high - low > 1:
            middle = (low + high) // 2
            _set_threshold(layer, middle)
            found = _fired(net, i, x, warm)
            if abs(found - part) < 0.02 * part:
                break
            low, high = (middle, high) if found > part else (low, middle)


def measure(
    shape: Shape,
    part: float,
    density: float,
    model: EngineModel,
    *,
    warm: int = 4,
    steps: int = 6,
    latency: int = LATENCY,
    seed: int = 0,
) -> dict[str, Any]:
    """One row: ``steps`` vectors back to back behind ``warm`` others.

    Parameters
    ----------
    shape : Shape
    part, density : float
        Activity and density asked for.
    model : EngineModel
        Of :func:`config`, or of other lanes and limits.
    latency : int
        Of the memory, cycles.
    seed : int
        Of weights and inputs.
    """
    net, engine = network(shape, density, seed=seed), model.config
    x = inputs(shape, part, warm + steps, seed=seed + 1)
    calibrate(net, part, x, warm)
    reference = Reference(net, config=engine)
    counted = Counted(net, engine)
    for t, row in enumerate(x):
        fired = step_events(reference, row)[1]
        if t >= warm:
            counted.add(fired)
    counters = counted_run(net, x, model, warm=warm, latency=latency)
    schedule = ScheduleModel(net, engine, MemoryModel(latency=latency))
    modelled = float(np.mean(schedule.run(counted.fired)))
    return row_of(shape, part, density, net, engine, counted.steps, counters, modelled)


def row_of(
    shape: Shape,
    part: float,
    density: float,
    net: Network,
    engine: EngineConfig,
    counted: list[Step],
    counters: dict[str, float],
    modelled: float,
) -> dict[str, Any]:
    """What was counted, beside what the product and the overheads give."""
    steps = len(counted)

    def mean(name: str) -> float:
        return sum(getattr(step, name) for step in counted) / steps

    matrices = [(layer, m) for layer in net.layers for m in layer.matrices]
    size = sum(m.weight.size for _, m in matrices)
    kept = sum(int(np.count_nonzero(m.weight)) for _, m in matrices)
    dense = size / engine.lanes
    weights, columns, biases = mean("weights"), mean("words"), mean("bias")
    product = weights / size * kept / size
    ideal = mean("kept") / engine.lanes
    cycles = counters["cycles"]
    wait = modelled - columns - biases
    predicted = product * dense + (columns - ideal) + biases + wait
    return {
        "shape": str(shape),
        "asked_activity": part,
        "activity": weights / size,
        "density": kept / size,
        "formats": ", ".join(sorted({m.layout(la.cell, engine).name for la, m in matrices})),
        "events": mean("events"),
        "kept": mean("kept"),
        "ideal_words": ideal,
        **{name: counters[name] for name in COUNTERS},
        "dense_words": dense,
        "product": product,
        "index_words": columns - ideal,
        "bias_words": biases,
        "wait": wait,
        "predicted_words": columns + biases,
        "predicted_cycles": predicted,
        "deviation": 100 * (cycles / predicted - 1),
    }


def activity(
    *,
    shapes: tuple[Shape, ...] = SHAPES,
    activities: tuple[float, ...] = ACTIVITIES,
    densities: tuple[float, ...] = DENSITIES,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """All rows. ``dense_cycles`` is the row of the shape with the most activity and density."""
    jobs = [(s, d, a) for s in shapes for d in densities for a in sorted(activities, reverse=True)]
    rows: list[dict[str, Any]] = []
    models: dict[EngineConfig, EngineModel] = {}
    for k, (shape, density, part) in enumerate(jobs):
        if progress:
            progress(f"{shape}, activity {part}, density {density}", k, len(jobs))
        engine = config(shape)
        if engine not in models:
            models[engine] = EngineModel(engine)
        rows.append(measure(shape, part, density, models[engine]))
    if progress:
        progress("done", len(jobs), len(jobs))
    for model in models.values():
        model.close()
    for row in rows:
        same = [r for r in rows if r["shape"] == row["shape"]]
        row["dense_cycles"] = max(same, key=lambda r: r["activity"] * r["density"])["cycles"]
        row["ratio"] = row["cycles"] / row["dense_cycles"]
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    return table(
        rows,
        {
            "shape": ("network", ""),
            "activity": ("activity", ".3f"),
            "density": ("density", ".2f"),
            "formats": ("format", ""),
            "events": ("events", ",.0f"),
            "kept": ("weights kept in them", ",.0f"),
            "ideal_words": ("words of these", ",.0f"),
            "index_words": ("+ index", ",.0f"),
            "bias_words": ("+ biases", ",.0f"),
            "words": ("words read", ",.0f"),
            "wait": ("+ wait", ",.0f"),
            "predicted_cycles": ("predicted", ",.0f"),
            "cycles": ("cycles", ",.0f"),
            "dense_cycles": ("dense cycles", ",.0f"),
            "ratio": ("ratio", ".4f"),
            "product": ("product", ".4f"),
            "deviation": ("deviation %", ".1f"),
        },
    )


BENCH = Bench(
    name="activity",
    title="Activity times density",
    about=(
        "EGRU, S5 and GRU stacks with random weights; activity by thresholds, any pattern of "
        "pruned weights in the smallest format. Eight lanes, 64-bit words, memory latency 8, steps "
        "back to back, outputs compared with the reference. The columns are explained in "
        "docs/activity.md. A step is predicted as product x dense words + index words + biases + "
        "wait; the deviation is that of the measured cycles from it."
    ),
    measure=lambda progress: activity(progress=progress),
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
