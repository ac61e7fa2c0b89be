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
from stillnet.sw.model.planes import Planes
from stillnet.sw.network.sequence import Layout, Start, Trace, layer_groups

from .sensitivity import Sensitivity, accumulators_of
from .silence import correct
from .simulate import Encoders, before, simulate
from .solvers.hessian import Bundle, Statistics, bundles, damped, gather
from .solvers.masks import Pattern, keep_blocks, keep_largest
from .solvers.rounding import Grid, best_steps, round_to_nearest, snapped
from .solvers.second_order import Choose, descend, objective, refit_steps, sweep

__all__ = [
    "Compressed",
    "Job",
    "LayerWork",
    "Settings",
    "compress_layers",
    "replace_layer",
    "solve_layer",
]


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
    early_sweeps : int
        The same in all passes but the last: they are there for the states that the layer visits.
    correct_bias : bool
        Biases take what rounded weights lose of the mean.
    dampings : tuple of float
        Where given, each bundle takes the one of these, or rounding to nearest, that errs least on
        the steps that are held out; ``damping`` where calibration is too short to hold out any.
    """

    bits: int = 4
    pattern: Pattern = Pattern("unstructured", 0.0)
    method: str = "second-order"
    follow: float = 0.25
    damping: float = 0.1
    passes: int = 2
    sweeps: int = 6
    early_sweeps: int = 6
    correct_bias: bool = True
    dampings: tuple[float, ...] = ()

    def of(self, job: Job, index: int) -> Settings:
        """For one layer."""
        return replace(self, bits=job.bits.get(index, self.bits))

    @property
    def follow_bias(self) -> float:
        """``follow`` of biases. Means move little where weights have eight bits, and errors of
        recurrences below must not be passed on; with four bits biases make good for all of it."""
        return self.follow if self.bits == 8 else 1.0


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
    units : dict of (layer, place of the bundle) to float
        What a step is a whole multiple of: the last bit of the row's multiplier.
    whole : set of (layer, place of the bundle)
        Bundles that keep all of their weights.
    quiet : set of layers
        Corrected biases must not make an event where a unit was silent.
    held : bool array, shape (rows,), or None
        Steps on which dampings are compared. What is compared has not seen them; what then rounds
        the weights has, unless the job is ``blind``.
    blind : bool
        No weight or bias is solved on the steps that are held out, so that they can judge a way.
    planes : Planes
        Layers that are copies, for second planes of weights.
    bits : dict of layer to int
        Bits of layers that differ from the settings'.
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
    units: dict[tuple[int, int], float] = field(default_factory=dict)
    whole: frozenset[tuple[int, int]] = frozenset()
    quiet: frozenset[int] = frozenset()
    held: np.ndarray | None = None
    blind: bool = False
    planes: Planes = field(default_factory=Planes)
    bits: dict[int, int] = field(default_factory=dict)


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
    chosen: Chosen = {}
    seen: dict[int, np.ndarray] = {}
    count = len(job.model.layers)
    seen[INPUT] = _input_seen(job)
    for group in layer_groups(job.model.layers):
        recurrent = any(m.source >= i for i in group for m in model.layers[i].matrices)
        fresh = any((i, 0) not in work for i in group)
        passes = (settings.passes if recurrent else 1) if fresh else 0
        early = replace(settings, sweeps=settings.early_sweeps)
        for k in range(passes):
            now = settings if k == passes - 1 else early
            inner = _run_group(job, model, group, seen)
            for i in group:
                vectors = {**seen, **inner[0]}
                results = solve_layer(job, now.of(job, i), i, vectors, inner[1], chosen)
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
    """The input as the accumulators see it; tokens as they are."""
    if job.model.one_hot:
        return job.x
    probe = Model(job.model.inputs, name="input").dense(np.zeros((1, job.model.inputs)))
    encoders = Encoders(
        {INPUT: job.encoders.thresholds.get(INPUT, 0.0)},
        {INPUT: job.fraction[INPUT]},
        job.encoders.plain & {INPUT},
    )
    start = Start(vectors={INPUT: _unranked(job, INPUT)})
    return simulate(probe, job.layout, job.x, encoders, start=start).seen[INPUT]


def _run_group(
    job: Job, model: Model, group: range, seen: dict[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Runs some layers on what reaches them: (what is seen of each, what was at the beginning)."""
    fed = [m for i in group for m in model.layers[i].matrices if m.source not in group]
    offset: dict[int, int] = {}
    pieces: list[np.ndarray] = []
    width = 0
    for source in sorted({m.source for m in fed if not _of_tokens(model, m.source)}):
        offset[source] = width
        pieces.append(seen[source])
        width += model.source_size(source)
    columns = {id(m): m.weight.shape[0] * m.weight.shape[1] for m in fed}
    width += sum(columns[id(m)] for m in fed if _of_tokens(model, m.source))
    layers: list[Layer] = []
    at = sum(p.shape[1] for p in pieces)
    for i in group:
        layer = model.layers[i]
        matrices = []
        for m in layer.matrices:
            if m.source in group:
                matrices.append(replace(m, source=m.source - group.start))
                continue
            weight = np.zeros((*m.weight.shape[:2], width))
            if _of_tokens(model, m.source):  # a token's column comes in as it is
                size = columns[id(m)]
                pieces.append(_of(m.weight.reshape(size, -1).T, seen[INPUT]))
                weight.reshape(size, width)[:, at : at + size] = np.eye(size)
                at += size
            else:
                weight[:, :, offset[m.source] :][:, :, : m.weight.shape[2]] = m.weight
            matrices.append(Matrix(INPUT, m.gates, weight))
        peers = {s: j - group.start for s, j in layer.peers.items()}
        layers.append(replace(layer, matrices=tuple(matrices), peers=peers))
    x = np.concatenate(pieces, axis=1) if pieces else np.zeros((job.layout.rows, 1))
    encoders = Encoders(
        {i - group.start: job.encoders.thresholds.get(i, 0.0) for i in group},
        {i - group.start: job.fraction[i] for i in group},
        frozenset(s - group.start for s in job.encoders.plain if s in group),
    )
    start = Start(
        {
            (i - group.start, s): _unranked(job, i, s)
            for i, s in job.trace.start.state
            if i in group
        },
        {i - group.start: _unranked(job, i) for i in group},
    )
    part = Model(max(width, 1), layers, model.name)
    result = simulate(part, job.layout, x, encoders, start=start)
    first = result.trace.start.vectors
    return (
        {i: result.seen[i - group.start] for i in group},
        {i: first[i - group.start] for i in group},
    )


def _unranked(job: Job, source: int, name: str | None = None) -> np.ndarray:
    """Where the recordings of the float trace begin, in their own order."""
    start = job.trace.start
    ranked = start.vectors[source] if name is None else start.state[source, name]
    result = np.empty_like(ranked)
    result[job.layout.order] = ranked
    return result


def _of_tokens(model: Model, source: int) -> bool:
    return source == INPUT and model.one_hot


def _of(columns: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The column of each token, zeros for none; columns of shape (tokens, rows)."""
    return columns[np.maximum(tokens, 0)] * (tokens >= 0)[:, None]


# -- one layer ------------------------------------------------------------------------------------

Chosen = dict[tuple[int, int], float | None]
"""By (layer, place of the bundle): the damping that was chosen, None for rounding to nearest."""

_COMPARED = 256
"""Rows of a bundle on which dampings are compared; of more, some stand for all of them."""

_SHORT = 2
"""Sweeps of the descent while dampings are compared."""


@dataclass
class Evidence:
    """Moments of a bundle: of all steps, of those that are solved and of those that are held out
    while dampings are compared, about the mean of the former. None where nothing is held out."""

    whole: Statistics
    fit: Statistics | None = None
    held: Statistics | None = None


@dataclass
class _Rows:
    """The rows of a bundle over some of its columns: what one solver run works on.

    Attributes
    ----------
    bundle : Bundle
    place : int
        Of the bundle in its layer.
    sources : list of int
        Of the bundle's parts.
    parts : list of slice
        Columns of each part.
    weight : array, shape (rows, columns)
    ratio : array, shape (columns,)
    importance : array, shape (rows,)
    steps : array, shape (rows,), or None
        Given ones.
    kept : bool array, shape (rows, columns), or None
    """

    bundle: Bundle
    place: int
    sources: list[int]
    parts: list[slice]
    weight: np.ndarray
    ratio: np.ndarray
    importance: np.ndarray
    steps: np.ndarray | None
    kept: np.ndarray | None

    @property
    def key(self) -> tuple[int, int]:
        return self.bundle.layer, self.place

    def own_bias(self, model: Model) -> np.ndarray:
        """Of the float model."""
        return self.bundle.bias(model.layers[self.bundle.layer])

    def without_tokens(self, part: slice, steps: np.ndarray) -> _Rows:
        """The same without the columns of tokens, for given steps."""
        size = part.stop - part.start
        parts = [
            slice(p.start - size, p.stop - size) if p.start >= part.stop else p
            for p in self.parts
            if p != part
        ]
        return replace(
            self,
            sources=[s for s, p in zip(self.sources, self.parts) if p != part],
            parts=parts,
            weight=np.delete(self.weight, part, axis=1),
            ratio=np.delete(self.ratio, part),
            steps=steps,
            kept=None if self.kept is None else np.delete(self.kept, part, axis=1),
        )


def _rows(job: Job, bundle: Bundle, place: int) -> _Rows:
    layer = job.model.layers[bundle.layer]
    key = (bundle.layer, place)
    sources = [layer.matrices[j].source for j, _ in bundle.parts]
    parts = bundle.columns(job.model)
    importance = np.concatenate(
        [job.sensitivity.accumulators[bundle.layer, g].mean(axis=0) for g in bundle.gates]
    )
    first = job.fraction[sources[0]]
    ratio = [
        np.full(p.stop - p.start, 2.0 ** (job.fraction[s] - first)) for s, p in zip(sources, parts)
    ]
    return _Rows(
        bundle,
        place,
        sources,
        parts,
        bundle.weight(layer),
        np.concatenate(ratio),
        importance + 1e-3 * max(float(importance.mean()), 1e-30),
        job.steps.get(key),
        job.kept.get(key),
    )


def solve_layer(
    job: Job,
    settings: Settings,
    index: int,
    seen: dict[int, np.ndarray],
    first: dict[int, np.ndarray],
    chosen: Chosen,
) -> LayerWork:
    """All bundles of a layer for given vectors."""
    wanted = accumulators_of(job.model, job.trace, index)
    results: LayerWork = {}
    for place, bundle in enumerate(bundles(job.model, index)):
        rows = _rows(job, bundle, place)
        target = np.concatenate([wanted[g] for g in bundle.gates], axis=1)
        late = {s: before(job.layout, seen[s], first[s]) for s in rows.sources if s >= index}
        vectors = [late.get(s, seen[s]) for s in rows.sources if not _of_tokens(job.model, s)]
        z = np.concatenate(vectors, axis=1) if vectors else np.zeros((job.layout.rows, 0))
        if len(vectors) < len(rows.sources):
            result = _solve_with_tokens(job, settings, rows, z, target, seen[INPUT], chosen)
        else:
            result = _solve(
                job, settings, rows, _evidence(job, settings, z, target, rows.key in chosen), chosen
            )
        results[index, place] = result
    _set_biases(job, settings, index, results)
    return results


def _set_biases(job: Job, settings: Settings, index: int, results: LayerWork) -> None:
    """Biases of all rows: corrected, but not where that would end a silence, or as they were."""
    layer = job.model.layers[index]
    cell = CELLS[layer.cell]
    parts = bundles(job.model, index)
    bias = {g: np.asarray(b, float) for g, b in layer.bias.items()}
    found: dict[str, np.ndarray] = {}
    for place, bundle in enumerate(parts):
        found |= dict(zip(bundle.gates, np.split(results[index, place].bias, len(bundle.gates))))
    if not settings.correct_bias:
        found = {g: bias[g] for g in found}
    elif index in job.quiet:
        lost = {g: b - bias[g] for g, b in found.items()}
        found = correct(cell, bias, lost, layer.parameters, keep=True)
    for place, bundle in enumerate(parts):
        results[index, place].bias = np.concatenate([found[g] for g in bundle.gates])


def _solve_with_tokens(
    job: Job,
    settings: Settings,
    rows: _Rows,
    z: np.ndarray,
    target: np.ndarray,
    tokens: np.ndarray,
    chosen: Chosen,
) -> Compressed:
    """Columns of tokens are rounded to nearest, each by itself, because only one of them counts in
    a step; the others then make good for it."""
    part = rows.parts[rows.sources.index(INPUT)]
    power = np.concatenate([np.full(p.stop - p.start, 0.0) for p in rows.parts])
    power[part] = 1.0 / (part.stop - part.start)
    dense = np.ones(len(power), bool)
    dense[part] = False
    power[dense] = np.mean(z**2, axis=0)
    steps = _steps(job, settings, rows, rows.weight, power, rows.kept)
    grid = Grid(settings.bits, steps, rows.ratio)
    integers = grid.integers(rows.weight)
    if rows.kept is not None:
        integers = np.where(rows.kept, integers, 0).astype(np.int8)
    of_tokens = grid.values(integers)[:, part]
    others = rows.without_tokens(part, steps)
    others_target = target - _of(of_tokens.T, tokens)
    left = _evidence(job, settings, z, others_target, rows.key in chosen)
    solved = ~job.held if job.blind and job.held is not None else slice(None)
    lost = np.mean(_of((rows.weight[:, part] - of_tokens).T, tokens[solved]), axis=0)
    result = _solve(job, settings, others, left, chosen, lost)
    integers[:, dense] = result.integers
    kept = np.ones(integers.shape, bool) if rows.kept is None else rows.kept.copy()
    kept[:, dense] = result.kept
    # No step is less likely than another to meet a token that calibration did not meet.
    missed = np.mean((of_tokens - rows.weight[:, part]) ** 2, axis=1)
    whole = max(float(np.sum(rows.importance * np.mean(rows.weight[:, part] ** 2, axis=1))), 1e-300)
    share = float(np.sum(rows.importance * missed)) / whole
    return replace(
        result,
        integers=integers,
        ratio=rows.ratio,
        kept=kept,
        error=max(result.error, share),
        nearest_error=max(result.nearest_error, share),
    )


def _steps(
    job: Job,
    settings: Settings,
    rows: _Rows,
    weight: np.ndarray,
    power: np.ndarray,
    kept: np.ndarray | None,
) -> np.ndarray:
    """The steps that are given, or the best ones that the rows' multipliers can have."""
    if rows.steps is not None:
        return rows.steps
    bounds = job.bounds.get(rows.key)
    clip = not job.planes.pairs(rows.sources)
    steps = best_steps(weight, power, settings.bits, rows.ratio, kept, bounds, clip=clip)
    return snapped(steps, job.units.get(rows.key), bounds)


def _solve(
    job: Job,
    settings: Settings,
    rows: _Rows,
    evidence: Evidence,
    chosen: Chosen,
    lost: np.ndarray | float = 0.0,
) -> Compressed:
    """Rows of a bundle. ``lost``: mean of the accumulators that columns of tokens took away."""
    statistics = evidence.whole
    weight, importance, ratio = rows.weight, rows.importance, rows.ratio
    if not weight.shape[1]:
        none = np.zeros(weight.shape)
        steps = np.ones(len(weight)) if rows.steps is None else rows.steps
        return Compressed(
            none.astype(np.int8), steps, ratio, statistics.target_mean, none.astype(bool), 0.0, 0.0
        )
    power = np.diag(statistics.hessian)
    pattern = _pattern(job, settings, rows)
    plain_kept = _magnitude(job, pattern, rows) if rows.kept is None else rows.kept
    # The noise of a rounded weight is as strong as what it is multiplied by.
    felt = power + 0.01 * power.mean() if power.mean() > 0 else np.ones(len(power))
    plain_grid = Grid(settings.bits, _steps(job, settings, rows, weight, felt, plain_kept), ratio)
    plain = round_to_nearest(weight, plain_grid, plain_kept)
    _second_planes(job, rows, plain, plain_grid)
    damping: float | None = settings.damping
    if settings.method == "nearest":
        damping = None
    elif settings.dampings and pattern.dense and rows.kept is None:
        if rows.key not in chosen:
            chosen[rows.key] = _best_damping(job, settings, rows, evidence, plain)
        damping = chosen[rows.key]
    if damping is None:
        ideal, hessian = damped(statistics, weight, settings.damping, settings.follow)
        values, grid, kept = plain, plain_grid, plain_kept
    else:
        ideal, hessian = damped(statistics, weight, damping, settings.follow)
        values, grid, kept = _second_order(job, settings, rows, ideal, hessian)
    followed = statistics.target_mean - values @ statistics.mean
    kept_up = rows.own_bias(job.model) + lost + (weight - values) @ statistics.mean
    variance = np.einsum("rc,rc->r", ideal @ hessian, ideal)
    total = max(float(np.sum(importance * variance)), 1e-300)
    return Compressed(
        integers=np.where(kept, grid.integers(values), 0).astype(np.int8),
        step=grid.step,
        ratio=ratio,
        bias=settings.follow_bias * followed + (1 - settings.follow_bias) * kept_up,
        kept=kept,
        error=objective(values, ideal, hessian, importance) / total,
        nearest_error=objective(plain, ideal, hessian, importance) / total,
    )


def _second_planes(job: Job, rows: _Rows, values: np.ndarray, grid: Grid) -> None:
    """Rounds to nearest, in second planes, what the first ones leave; in place."""
    for high, low in job.planes.pairs(rows.sources):
        first, second = rows.parts[high], rows.parts[low]
        left = np.zeros(values.shape)
        left[:, second] = rows.weight[:, first] - values[:, first]
        values[:, second] = round_to_nearest(left, grid)[:, second]


def _evidence(
    job: Job, settings: Settings, z: np.ndarray, target: np.ndarray, known: bool
) -> Evidence:
    """``known``: whether the damping is, so that nothing is to be held out."""
    centred = settings.correct_bias
    compared = settings.dampings and settings.method != "nearest" and not known
    if job.held is None or not (compared or job.blind):
        return Evidence(gather(z, target, centred=centred))
    fit = gather(z[~job.held], target[~job.held], centred=centred)
    whole = fit if job.blind else gather(z, target, centred=centred)
    if not compared:
        return Evidence(whole)
    return Evidence(whole, fit, gather(z[job.held], target[job.held], centred=centred, about=fit))


def _best_damping(
    job: Job, settings: Settings, rows: _Rows, evidence: Evidence, plain: np.ndarray
) -> float | None:
    """The damping whose rounding, of some rows and in short, errs least on the steps held out; None
    where rounding to nearest (``plain``) does."""
    fit, held = evidence.fit, evidence.held
    if fit is None or held is None:
        return settings.damping
    some = slice(None, None, -(-len(rows.weight) // _COMPARED))
    weight, importance = rows.weight[some], rows.importance[some]
    choose = _fixed(np.ones(weight.shape, bool))
    wanted = settings.follow * held.cross[some]
    wanted = wanted + (1 - settings.follow) * weight @ held.hessian

    def error(values: np.ndarray) -> float:
        of_rows = np.einsum("rc,rc->r", values @ held.hessian - 2 * wanted, values)
        return float(importance @ of_rows)

    bounds = job.bounds.get(rows.key)
    bounds = None if bounds is None else (bounds[0][some], bounds[1])
    clip = not job.planes.pairs(rows.sources)
    few = replace(fit, cross=fit.cross[some])
    best, least = None, error(plain[some])
    for damping in settings.dampings:
        ideal, hessian = damped(few, weight, damping, settings.follow)
        step = None if rows.steps is None else rows.steps[some]
        if step is None:
            power = np.diag(hessian)
            step = best_steps(ideal, power, settings.bits, rows.ratio, None, bounds, clip=clip)
            step = snapped(step, job.units.get(rows.key), bounds)
        grid = Grid(settings.bits, step, rows.ratio)
        values = sweep(ideal, hessian, grid, choose, importance)
        values = descend(values, ideal, hessian, grid, choose, importance, _SHORT)
        found = error(values)
        if found < least:
            best, least = damping, found
    return best


def _second_order(
    job: Job, settings: Settings, rows: _Rows, ideal: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, Grid, np.ndarray]:
    """(values, grid, kept) of a bundle."""
    pattern, mask, importance = _pattern(job, settings, rows), rows.kept, rows.importance
    bounds, unit = job.bounds.get(rows.key), job.units.get(rows.key)
    step = _steps(job, settings, rows, ideal, np.diag(hessian), mask)
    grid = Grid(settings.bits, step, rows.ratio)
    everything = np.ones(ideal.shape, bool)
    choose: Choose
    if mask is not None or pattern.dense:
        choose = _fixed(everything if mask is None else mask)
    elif pattern.kind == "lane":
        choose = _lane(job, rows, pattern)
    else:
        count = round(ideal.size * job.density.get(rows.key, 1 - pattern.sparsity))
        if pattern.kind == "block8":
            inverse = np.diag(np.linalg.inv(hessian))
            saliency = ideal**2 / inverse * importance[:, None]
            fixed = keep_blocks(saliency, len(rows.bundle.gates), pattern.sparsity)
        else:
            sizes = {s: job.model.source_size(s) for s in rows.sources}
            cost = np.concatenate([job.cost.get(s, np.ones(sizes[s])) for s in rows.sources])
            fixed = _unstructured(ideal, hessian, grid, importance, cost, count, settings.sweeps)
        choose = _fixed(fixed)
    values = sweep(ideal, hessian, grid, choose, importance)
    for _ in range(3):
        values = descend(values, ideal, hessian, grid, choose, importance, settings.sweeps)
        if rows.steps is not None:
            break
        integers = grid.integers(values).astype(float)
        step = snapped(refit_steps(integers, ideal, hessian, grid, bounds), unit, bounds)
        grid = Grid(settings.bits, step, rows.ratio)
        values = grid.values(integers)
    values = descend(values, ideal, hessian, grid, choose, importance, settings.sweeps)
    kept = mask if mask is not None else (everything if pattern.dense else values != 0)
    return values, grid, kept


def _pattern(job: Job, settings: Settings, rows: _Rows) -> Pattern:
    pattern = settings.pattern
    return replace(pattern, sparsity=0.0) if rows.key in job.whole else pattern


def _fixed(kept: np.ndarray) -> Choose:
    return lambda saliency, column: kept[:, column]


def _lane(job: Job, rows: _Rows, pattern: Pattern) -> Choose:
    """Groups of each part of a bundle's columns, as the engine numbers the rows of the matrix."""
    bundle = rows.bundle
    layer = job.model.layers[bundle.layer]
    order = CELLS[layer.cell].accumulators
    numbers = {layer.matrices[j].source: j for j, _ in bundle.parts}
    ends, groups = [], []
    for source, part in zip(rows.sources, rows.parts):
        ranked = sorted(layer.matrices[numbers[source]].gates, key=order.index)
        groups.append(pattern.groups([ranked.index(g) for g in bundle.gates], layer.units))
        ends.append(part.stop)
    largest = np.argmax(np.abs(rows.weight), axis=1)  # stays, so that no row loses all it has

    def choose(saliency: np.ndarray, column: int) -> np.ndarray:
        of_column = groups[int(np.searchsorted(ends, column, "right"))]
        return of_column.keep(np.where(largest == column, np.inf, saliency))

    return choose


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
    return keep_largest(saliency, count, every_row=True)


def _magnitude(job: Job, pattern: Pattern, rows: _Rows) -> np.ndarray:
    """Magnitude pruning within the pattern: the baseline."""
    weight = rows.weight
    if pattern.dense:
        return np.ones(weight.shape, bool)
    if pattern.kind == "lane":
        choose = _lane(job, rows, pattern)
        columns = [choose(weight[:, c] ** 2, c) for c in range(weight.shape[1])]
        return np.stack(columns, axis=1)
    if pattern.kind == "block8":
        return keep_blocks(weight**2, len(rows.bundle.gates), pattern.sparsity)
    return keep_largest(weight**2, round(weight.size * (1 - pattern.sparsity)), every_row=True)
