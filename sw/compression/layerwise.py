"""Compression of one layer after the other, each on what the compressed network really computes.

The layers below are compressed already, so a layer is solved for the vectors that reach it now; a
recurrent layer is run with its own compressed weights first, so that it is solved for the states
that it will visit. What is asked of its accumulators lies between two wishes: to do with these
vectors what the float layer would do with them, and to give what the float network gave at the same
step (``follow``), which also makes good for the error of what came before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Layer, Matrix, Model
from stillnet.sw.network.sequence import Layout, Trace, layer_groups

from .masks import Pattern, keep_blocks, keep_largest
from .sensitivity import Sensitivity, accumulators_of
from .simulate import Encoders, before, simulate
from .solvers.hessian import Bundle, Statistics, bundles, gather
from .solvers.rounding import Grid, best_steps, round_to_nearest
from .solvers.second_order import Choose, descend, objective, refit_steps, sweep

__all__ = ["Compressed", "Job", "LayerWork", "Settings", "compress_layers", "replace_layer"]


@dataclass(frozen=True)
class Settings:
    """How layers are solved.

    Attributes
    ----------
    bits : int
        4 or 8.
    pattern : Pattern
    method : str
        ``"second-order"``, or the baseline ``"nearest"``: magnitude pruning and clipped rounding.
    follow : float
        0: a layer keeps its function; 1: it follows the float network's accumulators.
    damping : float
        Added to the Hessian's diagonal, as a part of its mean.
    passes : int
        How often a recurrent layer is run and solved.
    sweeps : int
        Of the coordinate descent.
    """

    bits: int = 4
    pattern: Pattern = Pattern("unstructured", 0.0)
    method: str = "second-order"
    follow: float = 0.25
    damping: float = 0.01
    passes: int = 2
    sweeps: int = 6


@dataclass
class Compressed:
    """The rows of one bundle after compression.

    Attributes
    ----------
    integers : int8 array, shape (rows, columns)
    step : array, shape (rows,)
    ratio : array, shape (columns,)
    bias : array, shape (rows,)
    kept : bool array, shape (rows, columns)
    error : float
        Part of the accumulators' variance that is lost, on calibration.
    nearest_error : float
        The same for magnitude pruning and rounding to nearest, with corrected biases.
    """

    integers: np.ndarray
    step: np.ndarray
    ratio: np.ndarray
    bias: np.ndarray
    kept: np.ndarray
    error: float
    nearest_error: float

    @property
    def values(self) -> np.ndarray:
        """The weights as real numbers."""
        return self.integers * (self.step[:, None] * self.ratio)


@dataclass
class Job:
    """Everything that the compression of a network needs beside its settings.

    Attributes
    ----------
    model : Model
        In floating point.
    layout : Layout
    x : array, shape (rows, inputs)
    trace : Trace
        Of the float model.
    fraction : dict of source to int
        Fraction bits of the vectors.
    sensitivity : Sensitivity
    encoders : Encoders
        Thresholds under which layers are solved.
    cost : dict of source to array, shape (size,)
        What a kept weight of a column costs, relative to others: how often the column fires.
    density : dict of (layer, place of the bundle) to float
        Part of the weights that stays, of pattern ``unstructured``; that of the pattern where
        absent.
    kept, steps : dict of (layer, place of the bundle) to array
        Masks (rows, columns) and steps (rows,) that are given: honoured exactly.
    bounds : dict of (layer, place of the bundle) to (array of shape (rows,), float)
        Smallest and largest step that a row's multiplier can realise.
    """

    model: Model
    layout: Layout
    x: np.ndarray
    trace: Trace
    fraction: dict[int, int]
    sensitivity: Sensitivity
    encoders: Encoders = field(default_factory=Encoders)
    cost: dict[int, np.ndarray] = field(default_factory=dict)
    density: dict[tuple[int, int], float] = field(default_factory=dict)
    kept: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    steps: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    bounds: dict[tuple[int, int], tuple[np.ndarray, float]] = field(default_factory=dict)


LayerWork = dict[tuple[int, int], Compressed]
"""Results by (layer, place of the bundle)."""

Done = Callable[[int, LayerWork], None]
"""Called with a layer's index and results once it is final."""


def compress_layers(
    job: Job,
    settings: Settings,
    *,
    finished: LayerWork | None = None,
    done: Done | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Model, LayerWork]:
    """Compresses all layers in order.

    Parameters
    ----------
    finished : LayerWork, optional
        Results of a run that was interrupted; taken as they are.
    done, progress : callables, optional

    Returns
    -------
    (Model, LayerWork)
        The model with the compressed weights and biases, and the results.
    """
    model, work = job.model, dict(finished or {})
    seen: dict[int, np.ndarray] = {}
    count = len(job.model.layers)
    seen[INPUT] = _input_seen(job)
    for group in layer_groups(job.model.layers):
        recurrent = any(m.source >= i for i in group for m in model.layers[i].matrices)
        fresh = any((i, 0) not in work for i in group)
        for _ in range((settings.passes if recurrent else 1) if fresh else 0):
            inner = _run_group(job, model, group, seen)
            for i in group:
                results = _solve_layer(job, settings, model, i, {**seen, **inner[0]}, inner[1])
                work.update(results)
                model = replace_layer(model, i, results)
        if not fresh:
            for i in group:
                model = replace_layer(model, i, {k: v for k, v in work.items() if k[0] == i})
        seen.update(_run_group(job, model, group, seen)[0])
        for i in group:
            if done and fresh:
                done(i, {k: v for k, v in work.items() if k[0] == i})
            if progress:
                progress("layers", i + 1, count)
    return model, work


def replace_layer(model: Model, index: int, results: LayerWork) -> Model:
    """The model with the weights and biases of one layer replaced."""
    layer = model.layers[index]
    weights = [np.array(m.weight, float) for m in layer.matrices]
    bias = dict(layer.bias)
    for place, bundle in enumerate(bundles(model, index)):
        result = results[index, place]
        values = result.values
        for (j, places), part in zip(bundle.parts, bundle.columns(model)):
            weights[j][list(places)] = values[:, part].reshape(len(places), layer.units, -1)
        for g, b in zip(bundle.gates, np.split(result.bias, len(bundle.gates))):
            bias[g] = b
    matrices = tuple(replace(m, weight=w) for m, w in zip(layer.matrices, weights))
    layers = list(model.layers)
    layers[index] = replace(layer, matrices=matrices, bias=bias)
    return replace(model, layers=layers)


# -- running a part of the network ----------------------------------------------------------------


def _input_seen(job: Job) -> np.ndarray:
    """The input as the accumulators see it."""
    probe = Model(job.model.inputs, name="input").dense(np.zeros((1, job.model.inputs)))
    encoders = Encoders(
        {INPUT: job.encoders.thresholds.get(INPUT, 0.0)},
        {INPUT: job.fraction[INPUT]},
        job.encoders.plain & {INPUT},
    )
    return simulate(probe, job.layout, job.x, encoders).seen[INPUT]


def _run_group(
    job: Job, model: Model, group: range, seen: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Runs some layers on what reaches them: (what is seen of each, what was at the beginning)."""
    needed = sorted({m.source for i in group for m in model.layers[i].matrices} - set(group))
    offset, width = {}, 0
    for source in needed:
        offset[source] = width
        width += model.source_size(source)
    layers: list[Layer] = []
    for i in group:
        layer = model.layers[i]
        outer = [m for m in layer.matrices if m.source not in group]
        matrices = [
            replace(m, source=m.source - group.start) for m in layer.matrices if m.source in group
        ]
        for m in outer:
            weight = np.zeros((*m.weight.shape[:2], width))
            at = offset[m.source]
            weight[:, :, at : at + m.weight.shape[2]] = m.weight
            matrices.append(Matrix(INPUT, m.gates, weight))
        layers.append(replace(layer, matrices=tuple(matrices)))
    x = np.concatenate([seen[s] for s in needed], axis=1) if needed else np.zeros((len(job.x), 1))
    part = Model(max(width, 1), layers, model.name)
    encoders = Encoders(
        {i - group.start: job.encoders.thresholds.get(i, 0.0) for i in group},
        {i - group.start: job.fraction[i] for i in group},
        frozenset(s - group.start for s in job.encoders.plain if s in group),
    )
    result = simulate(part, job.layout, x, encoders)
    first = result.trace.start.vectors
    return (
        {i: result.seen[i - group.start] for i in group},
        {i: first[i - group.start] for i in group},
    )


# -- one layer ------------------------------------------------------------------------------------


def _solve_layer(
    job: Job,
    settings: Settings,
    model: Model,
    index: int,
    seen: dict[int, np.ndarray],
    first: dict[int, np.ndarray],
) -> LayerWork:
    """All bundles of a layer for given vectors."""
    original = job.model.layers[index]
    wanted = accumulators_of(job.model, job.trace, index)
    results: LayerWork = {}
    for place, bundle in enumerate(bundles(job.model, index)):
        sources = [original.matrices[j].source for j, _ in bundle.parts]
        z = np.concatenate(
            [before(job.layout, seen[s], first[s]) if s >= index else seen[s] for s in sources],
            axis=1,
        )
        target = np.concatenate([wanted[g] for g in bundle.gates], axis=1)
        results[index, place] = _solve(job, settings, bundle, place, sources, gather(z, target))
    return results


def _solve(
    job: Job,
    settings: Settings,
    bundle: Bundle,
    place: int,
    sources: list[int],
    statistics: Statistics,
) -> Compressed:
    layer = job.model.layers[bundle.layer]
    key = (bundle.layer, place)
    weight = bundle.weight(layer)
    power = np.diag(statistics.hessian)
    extra = settings.damping * power.mean() if power.mean() > 0 else 1.0
    hessian = statistics.hessian + extra * np.eye(len(power))
    follow = settings.follow
    right = follow * (statistics.cross + extra * weight) + (1 - follow) * weight @ hessian
    ideal = np.linalg.solve(hessian, right.T).T
    importance = np.concatenate(
        [job.sensitivity.accumulators[bundle.layer, g].mean(axis=0) for g in bundle.gates]
    )
    importance = importance + 1e-3 * max(float(importance.mean()), 1e-30)
    parts = bundle.columns(job.model)
    ratio = np.concatenate(
        [
            np.full(p.stop - p.start, 2.0 ** (job.fraction[s] - job.fraction[sources[0]]))
            for s, p in zip(sources, parts)
        ]
    )
    given = job.steps.get(key)
    mask = job.kept.get(key)

    plain_kept = _magnitude(job, settings.pattern, bundle, weight, key) if mask is None else mask
    bounds = job.bounds.get(key)
    steps = best_steps(weight, np.ones(len(power)), settings.bits, ratio, plain_kept, bounds)
    plain_grid = Grid(settings.bits, steps if given is None else given, ratio)
    plain = round_to_nearest(weight, plain_grid, plain_kept)
    if settings.method == "nearest":
        values, grid, kept = plain, plain_grid, plain_kept
    else:
        values, grid, kept = _second_order(
            job, settings, bundle, key, sources, ideal, hessian, importance, ratio, mask, given
        )
    variance = np.einsum("rc,rc->r", ideal @ hessian, ideal)
    total = max(float(np.sum(importance * variance)), 1e-300)
    return Compressed(
        integers=np.where(kept, grid.integers(values), 0).astype(np.int8),
        step=grid.step,
        ratio=ratio,
        bias=statistics.target_mean - values @ statistics.mean,
        kept=kept,
        error=objective(values, ideal, hessian, importance) / total,
        nearest_error=objective(plain, ideal, hessian, importance) / total,
    )


def _second_order(
    job: Job,
    settings: Settings,
    bundle: Bundle,
    key: tuple[int, int],
    sources: list[int],
    ideal: np.ndarray,
    hessian: np.ndarray,
    importance: np.ndarray,
    ratio: np.ndarray,
    mask: np.ndarray | None,
    given: np.ndarray | None,
) -> tuple[np.ndarray, Grid, np.ndarray]:
    """(values, grid, kept) of a bundle."""
    pattern = settings.pattern
    step = given
    if step is None:
        step = best_steps(ideal, np.diag(hessian), settings.bits, ratio, mask, job.bounds.get(key))
    grid = Grid(settings.bits, step, ratio)
    everything = np.ones(ideal.shape, bool)
    choose: Choose
    if mask is not None or pattern.dense:
        fixed = everything if mask is None else mask
        choose = _fixed(fixed)
    elif pattern.kind == "lane":
        choose = _lane(job, bundle, pattern)
    else:
        count = round(ideal.size * job.density.get(key, 1 - pattern.sparsity))
        if pattern.kind == "block8":
            inverse = np.diag(np.linalg.inv(hessian))
            saliency = ideal**2 / inverse * importance[:, None]
            fixed = keep_blocks(saliency, len(bundle.gates), pattern.sparsity)
        else:
            cost = np.concatenate(
                [job.cost.get(s, np.ones(job.model.source_size(s))) for s in sources]
            )
            fixed = _unstructured(ideal, hessian, grid, importance, cost, count, settings.sweeps)
        choose = _fixed(fixed)
    values = sweep(ideal, hessian, grid, choose, importance)
    for _ in range(3):
        values = descend(values, ideal, hessian, grid, choose, importance, settings.sweeps)
        if given is not None:
            break
        integers = grid.integers(values).astype(float)
        grid = Grid(
            settings.bits, refit_steps(integers, ideal, hessian, grid, job.bounds.get(key)), ratio
        )
        values = grid.values(integers)
    values = descend(values, ideal, hessian, grid, choose, importance, settings.sweeps)
    kept = mask if mask is not None else (everything if pattern.dense else values != 0)
    return values, grid, kept


def _fixed(kept: np.ndarray) -> Choose:
    return lambda saliency, column: kept[:, column]


def _lane(job: Job, bundle: Bundle, pattern: Pattern) -> Choose:
    """Groups of each part of a bundle's columns, as the engine numbers the rows of the matrix."""
    layer = job.model.layers[bundle.layer]
    order = CELLS[layer.cell].accumulators
    ends, groups = [], []
    for (j, _), part in zip(bundle.parts, bundle.columns(job.model)):
        ranked = sorted(layer.matrices[j].gates, key=order.index)
        groups.append(pattern.groups([ranked.index(g) for g in bundle.gates], layer.units))
        ends.append(part.stop)
    return lambda saliency, column: groups[int(np.searchsorted(ends, column, "right"))].keep(
        saliency
    )


def _unstructured(
    ideal: np.ndarray,
    hessian: np.ndarray,
    grid: Grid,
    importance: np.ndarray,
    cost: np.ndarray,
    count: int,
    sweeps: int,
) -> np.ndarray:
    """The ``count`` weights that stay: a price for each kept weight is found by bisection, at which
    the solvers keep about so many; then exactly so many by their saliency."""
    rows = len(ideal)
    found: list[np.ndarray] = []

    def solve(price: float, refine: int) -> np.ndarray:
        saved: dict[int, np.ndarray] = {}

        def choose(saliency: np.ndarray, column: int) -> np.ndarray:
            saved[column] = saliency / cost[column]
            return saved[column] > price

        values = sweep(ideal, hessian, grid, choose, importance)
        if refine:
            descend(values, ideal, hessian, grid, choose, importance, refine)
        found[:] = [np.stack([saved[c] for c in range(len(cost))], axis=1)]
        return found[0]

    inverse = np.diag(np.linalg.inv(hessian))
    start = np.sort((ideal**2 / inverse * importance[:, None] / cost).ravel())[::-1]
    middle = max(float(start[min(count, start.size - 1)]), 1e-300)
    low, high = middle / 64, middle * 64
    for _ in range(7):
        middle = float(np.sqrt(low * high))
        if np.count_nonzero(solve(middle, 0) > middle) > count:
            low = middle
        else:
            high = middle
    saliency = solve(float(np.sqrt(low * high)), sweeps)
    assert saliency.shape == (rows, len(cost))
    return keep_largest(saliency, count)


def _magnitude(
    job: Job, pattern: Pattern, bundle: Bundle, weight: np.ndarray, key: tuple[int, int]
) -> np.ndarray:
    """Magnitude pruning within the pattern: the baseline."""
    if pattern.dense:
        return np.ones(weight.shape, bool)
    if pattern.kind == "lane":
        choose = _lane(job, bundle, pattern)
        columns = [choose(weight[:, c] ** 2, c) for c in range(weight.shape[1])]
        return np.stack(columns, axis=1)
    if pattern.kind == "block8":
        return keep_blocks(weight**2, len(bundle.gates), pattern.sparsity)
    return keep_largest(weight**2, round(weight.size * (1 - pattern.sparsity)))
