"""``stillnet bench weights``: what fewer bits and fewer weights save in cycles.

The network of EdgeDRNN's largest shape, with its weights stored and pruned in different ways. The
weights that are left are scaled up, and the correlation of the inputs is chosen for each row so
that as many columns fire as in the published measurement. Outputs are compared with the
reference; cycles and words are the hardware's own counters in the generated Verilog.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stillnet.sim.engine.counted import counted_run
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.cost.cost import predict
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.benches import Bench, table

from .edgedrnn import FRACTION, SHAPES, Shape, network
from .edgedrnn import config as dense_config
from .edgedrnn import inputs as random_inputs

__all__ = ["BENCH", "CASES", "Case", "config", "prune", "pruned_network", "weights"]

LATENCY = 8
"""Of the memory, in cycles."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes
    ----------
    pattern : str
        What is kept: ``"all"``, ``"n of m"`` rows of each lane, ``"blocks"`` of 8 by 8, or
        ``"any"``.
    bits : int
    density : float
        Part of the weights that is kept.
    format : str or None
        As ``QuantizedMatrix.format``.
    """

    pattern: str
    bits: int
    density: float = 1.0
    format: str | None = None


CASES = (
    Case("all", 8, format="dense"),
    Case("all", 4, format="dense"),
    Case("8 of 16", 4, 0.5, "bitmap"),
    Case("1 of 4", 4, 0.25, "place"),
    Case("any", 4, 0.5),
    Case("blocks", 8, 0.5, "block"),
    Case("any", 8, 0.25),
    Case("balanced", 8, 0.1),
    Case("any", 8, 0.1),
)


def config(case: Case) -> EngineConfig:
    """Eight lanes; twice the multipliers for int4, and all formats where one is asked for."""
    plain = replace(dense_config(), second_threshold=False)
    if case.format == "dense" and case.bits == 8:
        return replace(plain, name="weights-int8")
    if case.bits == 8:
        return replace(plain, name="weights-sparse", formats=FORMATS, columns=4096)
    return replace(
        plain, name="weights-int4", int4=True, accumulators=384, formats=FORMATS, columns=4096
    )


def prune(
    shape: tuple[int, int, int], case: Case, lanes: int, rng: np.random.Generator
) -> np.ndarray:
    """Which weights are kept, bool, shape (gates, units, columns)."""
    gates, units, columns = shape
    if case.pattern == "all":
        return np.ones(shape, bool)
    if case.pattern == "any":
        return rng.random(shape) < case.density
    if case.pattern == "blocks":
        kept = rng.random((gates, -(-units // 8), -(-columns // 8))) < case.density
        return kept.repeat(8, axis=1).repeat(8, axis=2)[:, :units, :columns]
    # Groups of the rows of a lane: gate after gate, block after block (docs/weights.md).
    blocks = -(-units // lanes)
    rows = gates * blocks
    if case.pattern == "balanced":
        count, group = round(case.density * rows), rows
    else:
        count, group = (int(n) for n in case.pattern.split(" of "))
    noise = rng.random((columns, lanes, -(-rows // group), group))
    kept = np.argsort(np.argsort(noise, axis=3), axis=3) < count
    by_lane = kept.reshape(columns, lanes, -1)[:, :, :rows].reshape(columns, lanes, gates, blocks)
    return by_lane.transpose(2, 3, 1, 0).reshape(gates, -1, columns)[:, :units]


def pruned_network(shape: Shape, case: Case, *, seed: int = 0) -> Network:
    """The GRUs of :func:`bench_edgedrnn.network`, pruned, the rest scaled up, rounded to bits."""
    lanes = config(case).multipliers
    rng = np.random.default_rng(seed + 1)
    net = network(shape, seed=seed)
    for layer in net.layers:
        layer.threshold = 80 * 2**FRACTION // 256  # between the two of the other bench
        layer.threshold_recurrent = None
        for j, m in enumerate(layer.matrices):
            weight = m.weight / np.sqrt(case.density)
            if case.bits == 4:
                weight = weight / 4  # the accumulators keep their exponent
            limit = 1 << (case.bits - 1)
            weight = np.clip(np.rint(weight), -limit, limit - 1).astype(np.int8)
            # What is kept stays a weight: rounding to zero is not the pattern's doing.
            weight[weight == 0] = 1
            kept = prune(weight.shape, case, lanes, rng)
            layer.matrices[j] = replace(
                m, weight=weight * kept.astype(np.int8), bits=case.bits, format=case.format
            )
        if case.bits == 4:
            _four_times(layer)
    net.name = f"{shape} {case.pattern} int{case.bits}"
    return net


def _four_times(layer: Any) -> None:
    """Weights of two fraction bits fewer: the same real values in coarser steps."""
    for j, m in enumerate(layer.matrices):
        layer.matrices[j] = replace(m, fraction=m.fraction - 2)
    layer.bias = {g: b >> 2 for g, b in layer.bias.items()}
    layer.shift -= 2


def _fired(net: Network, x: np.ndarray, warm: int) -> float:
    """Columns that fire in a step: those of a hidden vector once for each matrix it feeds."""
    reference, total = Reference(net), 0
    for t, row in enumerate(x):
        reference.step_integers(row)
        if t >= warm:
            users = dict.fromkeys(reference.last.events, 0)
            for layer in net.layers:
                for m in layer.matrices:
                    users[m.source] += 1
            total += sum(users[s] * n for s, n in reference.last.events.items())
    return total / (len(x) - warm)


def _matched(shape: Shape, net: Network, warm: int, steps: int) -> tuple[np.ndarray, float]:
    """Inputs at which as many columns fire as in EdgeDRNN's measurement."""
    columns = shape.inputs + shape.units * (2 * shape.layers - 1)
    wanted = (1 - shape.sparsity) * columns
    low, high = -12.0, -1.0  # log2 of 1 - correlation
    for _ in range(9):
        middle = (low + high) / 2
        x = random_inputs(replace(shape, correlation=1 - 2.0**middle), warm + steps)
        fired = _fired(net, x, warm)
        if abs(fired - wanted) < 0.005 * wanted:
            break
        low, high = (middle, high) if fired < wanted else (low, middle)
    return x, fired


def measure(
    shape: Shape, case: Case, model: EngineModel, *, warm: int = 16, steps: int = 16
) -> dict[str, Any]:
    """One row: ``steps`` vectors back to back after ``warm`` others."""
    net = pruned_network(shape, case)
    x, fired = _matched(shape, net, warm, steps)
    memory = MemoryModel(latency=LATENCY)
    predicted = predict(net, x, model.config, memory=memory, warm=warm, streaming=True)
    counters = counted_run(net, x, model, warm=warm, latency=LATENCY)
    weights_ = [m.weight for layer in net.layers for m in layer.matrices]
    layouts = {
        m.layout(layer.cell, model.config).name for layer in net.layers for m in layer.matrices
    }
    return {
        "shape": str(shape),
        "pattern": case.pattern,
        "format": ", ".join(sorted(layouts)),
        "weight_bits": case.bits,
        "density": sum(map(np.count_nonzero, weights_)) / sum(w.size for w in weights_),
        "fired_columns": fired,
        **{name: counters[name] for name in ("words", "cycles")},
        "utilisation": counters["words"] / counters["cycles"],
        **{name: counters[name] for name in ("stall_cell", "stall_memory", "stall_events")},
        "predicted_cycles": predicted.cycles,
        "edgedrnn_cycles": shape.cycles,
    }


def weights(
    *,
    shape: Shape = SHAPES[0],
    cases: tuple[Case, ...] = CASES,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    models: dict[EngineConfig, EngineModel] = {}
    for k, case in enumerate(cases):
        if progress:
            progress(f"{case.pattern}, int{case.bits}", k, len(cases))
        engine = config(case)
        if engine not in models:
            models[engine] = EngineModel(engine)
        rows.append(measure(shape, case, models[engine]))
    if progress:
        progress("done", len(cases), len(cases))
    for model in models.values():
        model.close()
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    base = rows[0]
    shown = [{**row, "faster": base["cycles"] / row["cycles"]} for row in rows]
    return table(
        shown,
        {
            "pattern": ("kept", ""),
            "weight_bits": ("bits", "d"),
            "density": ("density", ".2f"),
            "format": ("format", ""),
            "fired_columns": ("fired columns", ".1f"),
            "words": ("words per step", ",.0f"),
            "cycles": ("cycles per step", ",.0f"),
            "utilisation": ("utilisation", ".4f"),
            "predicted_cycles": ("predicted", ",.0f"),
            "faster": ("against int8 dense", ".2f"),
        },
    )


BENCH = Bench(
    name="weights",
    title="Weights: bits, patterns, formats",
    about=(
        "A stack of two GRUs with 768 units on 40 inputs (EdgeDRNN's largest shape: 67,979 cycles "
        "per step), 64-bit words, memory latency 8, steps streaming back to back. The same number "
        "of columns fires in every row. Utilisation is words / cycles, words of indices counted. "
        "'balanced' and 'any' of density .10 are the same weights per column, dealt out to the "
        "lanes evenly or at random."
    ),
    measure=lambda progress: weights(progress=progress),
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
