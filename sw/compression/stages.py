"""Stages of a compression, for ``compress`` and ``sweep``.

Every finished stage is kept in a folder, so that a stopped run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import memory_words, words_within
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.quantization.checking.checks import check_model, check_recordings
from stillnet.sw.quantization.layerwise import Job, LayerWork, Settings, compress_layers
from stillnet.sw.quantization.limits import Limits, LimitSearch
from stillnet.sw.quantization.preparation import (
    Base,
    Fixed,
    Plan,
    Wish,
    better_plan,
    make_plan,
    prepare,
)
from stillnet.sw.quantization.simulate import Encoders, simulate
from stillnet.sw.quantization.solvers.hessian import bundles
from stillnet.sw.quantization.solvers.masks import Pattern
from stillnet.sw.util.progress import Progress

from .allocation import allocate
from .checkpoint import Checkpoint, digest
from .options import CompressOptions
from .pruned import Given, honour

__all__ = [
    "Setup",
    "column_costs",
    "find_limits",
    "limit_search",
    "prepare_setup",
    "solve_weights",
]

_BUDGET = ("max_error", "mean_error", "frame_ms", "clock_mhz", "by_element", "refits")
"""Options that the weights of the first stage do not depend on."""

_SMALL = 0.02
"""Part of all weights below which a bundle stays whole."""

Thresholds = dict[int, float | np.ndarray]


@dataclass
class Setup:
    """What is prepared once: recordings, float trace, formats, sensitivities.

    Attributes
    ----------
    options, config, settings
        What is asked, the engine whose words count, and how layers are solved.
    plan : Plan
    checkpoint : Checkpoint
    budget : str
        A short name for the budget and the engine.
    """

    options: CompressOptions
    config: EngineConfig
    plan: Plan
    settings: Settings
    progress: Progress
    checkpoint: Checkpoint
    budget: str

    @property
    def base(self) -> Base:
        """The float model with its recordings."""
        return self.plan.base

    @property
    def job(self) -> Job:
        """What the solvers work on."""
        return self.plan.job

    @property
    def allocates(self) -> bool:
        """Whether layers share the sparsity between them as it hurts least."""
        pattern = self.settings.pattern
        return pattern.kind == "unstructured" and not pattern.dense

    @property
    def encoders(self) -> Encoders:
        """Encoders without thresholds."""
        return Encoders({}, self.job.fraction, frozenset(self.base.plain))


# -- preparation ----------------------------------------------------------------------------------


def prepare_setup(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    options: CompressOptions,
    config: EngineConfig,
    given: Given | None,
    folder: str | Path | None,
    progress: Progress,
    thresholds: Thresholds | None = None,
) -> Setup:
    """Everything that comes before the first layer is solved."""
    check_model(model)
    recordings = check_recordings(model, calibration)
    scale = given is None or not given.steps  # a step that is given belongs to weights as they are
    steps = options.bits == 4 or options.row_steps is not False
    base = prepare(model, recordings, scale=scale, rows=steps, seed=options.seed, progress=progress)
    settings = Settings(
        options.bits,
        Pattern(options.pattern, options.sparsity, config.multipliers),
        options.method,
        options.follow,
        options.damping,
        options.passes,
    )
    wish = Wish(options.bits)
    fixed = Fixed() if given is None else honour(base.model, given)
    rows = True if options.bits == 4 or fixed.steps else options.row_steps
    if rows is None and not fixed.kept:
        plan = better_plan(base, wish, settings, None)
    else:
        plan = make_plan(base, wish, rows=rows is not False, fixed=fixed)
    setup = Setup(
        options=options,
        config=config,
        plan=plan,
        settings=settings,
        progress=progress,
        checkpoint=_checkpoint(
            model, base.trace.vectors[INPUT], options, config, given, folder, thresholds
        ),
        budget=_budget(options, config),
    )
    setup.job.whole = _kept_whole(setup)
    if setup.allocates:
        setup.job.density = allocate(setup.job, settings)
    if thresholds:
        setup.job.encoders = Encoders(dict(thresholds), setup.job.fraction, frozenset(base.plain))
    return setup


def _kept_whole(setup: Setup) -> frozenset[tuple[int, int]]:
    """Bundles that a fixed pattern would harm: of too few rows for it, or so small that they hardly
    cost words. ``unstructured`` shares the sparsity by what each weight is worth."""
    pattern, model = setup.settings.pattern, setup.job.model
    if pattern.dense or setup.allocates:
        return frozenset()
    sizes = {
        (i, place): bundle.weight(layer).size
        for i, layer in enumerate(model.layers)
        for place, bundle in enumerate(bundles(model, i))
    }
    total = sum(sizes.values())
    return frozenset(
        (i, place)
        for i, layer in enumerate(model.layers)
        for place, bundle in enumerate(bundles(model, i))
        if sizes[i, place] < _SMALL * total or not pattern.fits(len(bundle.gates), layer.units)
    )


def _checkpoint(
    model: Model,
    x: np.ndarray,
    options: CompressOptions,
    config: EngineConfig,
    given: Given | None,
    folder: str | Path | None,
    thresholds: Thresholds | None,
) -> Checkpoint:
    """Belongs to what the first weights depend on; runs with several budgets share these."""
    facts = {k: v for k, v in asdict(options).items() if k not in _BUDGET}
    facts |= {"multipliers": config.multipliers, "given": given and given.digest()}
    facts |= {"thresholds": {s: np.asarray(v).tolist() for s, v in (thresholds or {}).items()}}
    return Checkpoint(None if folder is None else Path(folder), digest(model, x, facts))


def _budget(options: CompressOptions, config: EngineConfig) -> str:
    """A short name for the budget and the engine whose words it counts."""
    facts = {k: v for k, v in asdict(options).items() if k in _BUDGET and k != "refits"}
    facts["config"] = {k: v for k, v in config.to_dict().items() if k != "name"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


# -- stages ----------------------------------------------------------------------------------------


def solve_weights(setup: Setup, stage: str) -> tuple[Model, LayerWork]:
    """Weights of all layers, one after the other; the model that they make, and the results."""
    keep = setup.checkpoint
    name = stage if stage == "weights-0" else f"{stage}-{setup.budget}"
    finished = keep.load_layers(name, len(setup.job.model.layers))

    def tell(what: str, done: int, total: int) -> None:
        setup.progress(f"{what}, {stage}", done, total)

    return compress_layers(
        setup.job,
        setup.settings,
        finished=finished,
        done=lambda index, work: keep.save_layer(name, index, work),
        progress=tell,
    )


def limit_search(
    setup: Setup, compressed: Model, network: Network, progress: Progress
) -> LimitSearch:
    """A search for the thresholds of compressed weights."""
    return LimitSearch.of(
        setup.plan,
        compressed,
        setup.options.budget,
        memory_words(network, setup.config),
        by_element=setup.options.by_element,
        progress=progress,
    )


def find_limits(
    setup: Setup, stage: str, compressed: Model, network: Network, before: Limits | None
) -> Limits:
    """Thresholds within the budget, from the kept stage or by search."""
    name = f"{stage}-{setup.budget}"
    found = setup.checkpoint.load(name)
    if found is not None:
        arrays, facts = found
        named = {int(s): (a if a.ndim else float(a)) for s, a in arrays.items()}
        rates = {int(s): r for s, r in facts["rates"].items()}
        return Limits(named, facts["error"], facts["words"], rates)
    options = setup.options
    if before is not None:
        _note_activity(setup, compressed, network, before)
    search = limit_search(
        setup,
        compressed,
        network,
        lambda what, done, total: setup.progress(f"{what}, {stage}", done, total),
    )
    words = None
    if options.frame_ms is not None:
        words = words_within(network, setup.config, options.frame_ms, options.clock_mhz)
    budget = options.budget
    limits = search.run(
        error=None if words is not None else budget.error,
        words=words,
        rounds=3 if before is None else 2,
        rates=None if before is None else before.rates,
    )
    if words is not None and limits.words > words:
        raise StillnetError(
            f"{options.frame_ms:g} ms a step cannot be met: with the largest thresholds a step "
            f"still fetches {limits.words:.0f} words; ask for more sparsity or fewer bits"
        )
    if words is None and limits.error > budget.error:
        of = "of one output" if budget.each else "over all outputs"
        lost = f"{100 * limits.error:.4g}%" if budget.relative else f"{limits.error:.4g}"
        raise StillnetError(
            f"max_error {budget} cannot be kept: the mean error {of} is {lost} with the smallest "
            "thresholds; allow at least that, or ask for less sparsity or more bits"
        )
    arrays = {str(s): np.asarray(v, float) for s, v in limits.thresholds.items()}
    facts = {"error": limits.error, "words": limits.words, "rates": limits.rates}
    setup.checkpoint.save(name, arrays, facts)
    return limits


def _note_activity(setup: Setup, compressed: Model, network: Network, limits: Limits) -> None:
    """How often each element fires with these thresholds: columns that would be hot cost less."""
    encoders = replace(setup.encoders, thresholds=limits.thresholds)
    judged = setup.base.judged
    result = simulate(compressed, judged.layout, judged.scaled, encoders)
    network.notes["activity"] = {
        name: (result.fired[s] / judged.layout.rows).tolist()
        for s, name in network.event_names().items()
        if s in result.fired
    }


def column_costs(setup: Setup, compressed: Model, limits: Limits) -> dict[int, np.ndarray]:
    """How often each column fires; a tenth of the mean is added, for what calibration missed."""
    judged = setup.base.judged
    encoders = replace(setup.encoders, thresholds=limits.thresholds)
    result = simulate(compressed, judged.layout, judged.scaled, encoders)
    costs = {}
    for s in setup.base.delta_sources:
        rate = result.fired[s] / judged.layout.rows
        costs[s] = rate + 0.1 * rate.mean() + 1e-6
    return costs
