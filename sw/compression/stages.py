"""Stages of a compression, for ``compress`` and ``sweep``.

Every finished stage is kept in a folder, so that a stopped run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import column_words, words_within
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_float, run_integers
from stillnet.sw.quantization.checks import check_model, check_recordings
from stillnet.sw.quantization.formats import FormatChoice
from stillnet.sw.util.progress import Progress, silent

from .allocation import allocate
from .build import build_network, choose_exponents, choose_fractions
from .checkpoint import Checkpoint, digest
from .layerwise import Job, LayerWork, Settings, compress_layers
from .limits import Limits, LimitSearch
from .masks import Pattern
from .options import CompressOptions
from .pruned import Given, honour
from .sensitivity import Sensitivity, sensitivity
from .simulate import Encoders, simulate
from .solvers.hessian import bundles

__all__ = [
    "Setup",
    "column_costs",
    "find_limits",
    "integer_error",
    "integer_network",
    "limit_search",
    "prepare",
    "solve_weights",
]

_PIECE = 500
"""Steps of a recording that run in one piece."""

_ROWS = 8_000
"""Steps of all recordings that are used. Where there are more, pieces are taken evenly."""

_JUDGED = 4_000
"""Steps on which thresholds are judged while they are searched."""

_PROBED = 3_000
"""Steps over which sensitivities are averaged."""

_BUDGET = ("max_error", "frame_ms", "clock_mhz", "by_element", "refits")
"""Options that the weights of the first stage do not depend on."""

Thresholds = dict[int, float | np.ndarray]


@dataclass
class Setup:
    """What is prepared once: recordings, float trace, formats, sensitivities.

    Attributes
    ----------
    options, config, settings
        What is asked, the engine whose words count, and how layers are solved.
    job : Job
        The float model with its recordings.
    sources : list of int
        Sources with delta events.
    judged : (Layout, inputs, outputs of the float model)
        The recordings on which errors and words are measured.
    exponents : list of int
        Fraction bits of the accumulators of each layer.
    checkpoint : Checkpoint
    budget : str
        A short name for the budget and the engine.
    """

    options: CompressOptions
    config: EngineConfig
    job: Job
    settings: Settings
    sources: list[int]
    judged: tuple[Layout, np.ndarray, np.ndarray]
    progress: Progress
    exponents: list[int]
    checkpoint: Checkpoint
    budget: str

    @property
    def allocates(self) -> bool:
        """Whether layers share the sparsity between them as it hurts least."""
        pattern = self.settings.pattern
        return pattern.kind == "unstructured" and not pattern.dense


# -- preparation ----------------------------------------------------------------------------------


def prepare(
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
    _check(model)
    pieces = _pieces(check_recordings(model, calibration), _ROWS)
    layout = Layout([len(p) for p in pieces])
    x = layout.pack(pieces)
    progress("float model", 0, 3)
    trace = run_float(model, layout, x)
    progress("float model", 1, 3)
    choice = FormatChoice(model, trace, 1.25, True)
    choice.search(silent)
    multipliers = options.bits == 4
    fraction = choose_fractions(model, choice, options.bits) if multipliers else choice.fraction
    fraction = dict(fraction)
    progress("float model", 2, 3)
    felt = _probe(model, pieces, options.seed)
    progress("float model", 3, 3)
    settings = Settings(
        options.bits,
        Pattern(options.pattern, options.sparsity, config.multipliers),
        options.method,
        options.follow,
        options.damping,
        options.passes,
    )
    job = Job(model, layout, x, trace, fraction, felt, Encoders({}, fraction))
    if given is not None:
        if given.steps and not multipliers:
            raise StillnetError("steps are given, which int8 weights have no multipliers for")
        honour(job, given)
    exponents = list(choice.exponent)
    if multipliers:
        exponents, job.bounds = choose_exponents(job, options.bits)
    else:
        job.steps |= _powers_of_two(model, choice)
    setup = Setup(
        options=options,
        config=config,
        job=job,
        settings=settings,
        sources=_delta_sources(model),
        judged=_judged(pieces, layout.unpack(trace.vectors[len(model.layers) - 1])),
        progress=progress,
        exponents=exponents,
        checkpoint=_checkpoint(model, x, options, config, given, folder, thresholds),
        budget=_budget(options, config),
    )
    if setup.allocates:
        job.density = allocate(job, settings)
    if thresholds:
        job.encoders = Encoders(dict(thresholds), job.fraction)
    return setup


def _check(model: Model) -> None:
    check_model(model)
    if model.one_hot:
        raise StillnetError(
            f"model '{model.name}' takes tokens, whose columns have no second-order statistics; "
            "use 'stillnet quantize'"
        )
    for layer in model.layers:
        if layer.peers or layer.parameters or layer.plain:
            raise StillnetError(
                f"layer '{layer.name}' has constants of its own, reads another layer's state or "
                "sends plain events, which 'compress' does not solve yet; use 'stillnet quantize'"
            )


def _probe(model: Model, pieces: list[np.ndarray], seed: int) -> Sensitivity:
    """How much the output feels an error, from some of the recordings."""
    probe = _every(pieces, _PROBED)
    layout = Layout([len(p) for p in probe])
    return sensitivity(model, run_float(model, layout, layout.pack(probe)), seed=seed)


def _delta_sources(model: Model) -> list[int]:
    used = {m.source for layer in model.layers for m in layer.matrices}
    return [s for s in range(INPUT, len(model.layers)) if s in used]


def _judged(
    pieces: list[np.ndarray], wanted: list[np.ndarray]
) -> tuple[Layout, np.ndarray, np.ndarray]:
    chosen = _places(pieces, _JUDGED)
    layout = Layout([len(pieces[k]) for k in chosen])
    inputs = layout.pack([pieces[k] for k in chosen])
    return layout, inputs, layout.pack([wanted[k] for k in chosen])


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


def _pieces(recordings: list[np.ndarray], rows: int) -> list[np.ndarray]:
    """Recordings in pieces of about equal length, spread evenly where there are too many."""
    pieces = []
    for r in recordings:
        pieces += np.array_split(r, max(1, math.ceil(len(r) / _PIECE)))
    return _every(pieces, rows)


def _places(pieces: list[np.ndarray], rows: int) -> list[int]:
    total = sum(len(p) for p in pieces)
    count = max(1, min(len(pieces), math.floor(len(pieces) * rows / total)))
    return [int(k) for k in np.unique(np.linspace(0, len(pieces) - 1, count).astype(int))]


def _every(pieces: list[np.ndarray], rows: int) -> list[np.ndarray]:
    return [pieces[k] for k in _places(pieces, rows)]


def _powers_of_two(model: Model, choice: FormatChoice) -> dict[tuple[int, int], np.ndarray]:
    """Steps of int8 weights: the exponent of each layer, no multipliers."""
    steps = {}
    for i, layer in enumerate(model.layers):
        for place, bundle in enumerate(bundles(model, i)):
            source = layer.matrices[bundle.parts[0][0]].source
            step = 2.0 ** (choice.fraction[source] - choice.exponent[i])
            steps[i, place] = np.full(len(bundle.gates) * layer.units, step)
    return steps


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


def integer_network(setup: Setup, work: LayerWork, name: str | None) -> Network:
    """The integers of solved weights; thresholds are zero."""
    job, options = setup.job, setup.options
    return build_network(
        job.model,
        work,
        job.fraction,
        options.bits,
        setup.exponents,
        multipliers=options.bits == 4,
        name=name,
    )


def limit_search(
    setup: Setup, compressed: Model, network: Network, progress: Progress
) -> LimitSearch:
    """A search for the thresholds of compressed weights."""
    layout, x, wanted = setup.judged
    return LimitSearch(
        compressed,
        layout,
        x,
        wanted,
        fraction=setup.job.fraction,
        sensitivity=setup.job.sensitivity,
        words=column_words(network, setup.config),
        sources=setup.sources,
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
    search = limit_search(
        setup,
        compressed,
        network,
        lambda what, done, total: setup.progress(f"{what}, {stage}", done, total),
    )
    words = None
    if options.frame_ms is not None:
        words = words_within(network, setup.config, options.frame_ms, options.clock_mhz)
    limits = search.run(
        error=options.max_error,
        words=words,
        rounds=3 if before is None else 2,
        rates=None if before is None else before.rates,
    )
    if words is not None and limits.words > words:
        raise StillnetError(
            f"{options.frame_ms:g} ms a step cannot be met: with the largest thresholds a step "
            f"still fetches {limits.words:.0f} words; ask for more sparsity or fewer bits"
        )
    if options.max_error is not None and limits.error > options.max_error:
        raise StillnetError(
            f"max_error {options.max_error:g} cannot be kept: the mean error is "
            f"{limits.error:.4g} with the smallest thresholds; allow at least that, or ask for "
            "less sparsity or more bits"
        )
    arrays = {str(s): np.asarray(v, float) for s, v in limits.thresholds.items()}
    facts = {"error": limits.error, "words": limits.words, "rates": limits.rates}
    setup.checkpoint.save(name, arrays, facts)
    return limits


def integer_error(setup: Setup, network: Network) -> tuple[float, Trace]:
    """Mean absolute error of the output on the judged recordings, bit-exact."""
    layout, x, wanted = setup.judged
    rows = layout.pack([network.quantize_input(p) for p in layout.unpack(x)])
    result = run_integers(network, layout, rows)
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return float(np.mean(np.abs(y - wanted))), result


def column_costs(setup: Setup, compressed: Model, limits: Limits) -> dict[int, np.ndarray]:
    """How often each column fires; a tenth of the mean is added, for what calibration missed."""
    layout, x, _ = setup.judged
    result = simulate(compressed, layout, x, Encoders(limits.thresholds, setup.job.fraction))
    costs = {}
    for s in setup.sources:
        rate = result.fired[s] / layout.rows
        costs[s] = rate + 0.1 * rate.mean() + 1e-6
    return costs
