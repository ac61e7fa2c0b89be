"""``compress``: from a float model and recordings to a small network of integers.

Stages: the layers one after the other (``layerwise``); thresholds for the budget (``limits``);
the layers again under these thresholds and for what each column costs now (the *refit*); thresholds
once more. Every stage is kept in a folder, and everything follows from the data and the seed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import column_words, predict, step_words, words_within
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_float, run_integers
from stillnet.sw.quantization.checks import check_model, checked_recordings
from stillnet.sw.quantization.formats import FormatChoice
from stillnet.sw.util.progress import Progress, silent

from .allocation import allocate
from .build import build_network, choose_exponents, choose_fractions, set_limits
from .checkpoint import Checkpoint, digest
from .layerwise import Job, LayerWork, Settings, compress_layers
from .limits import Limits, LimitSearch
from .masks import Pattern
from .pruned import Given, honour
from .sensitivity import sensitivity
from .simulate import Encoders

__all__ = ["CompressOptions", "compress", "engine_for"]

_PIECE = 500
"""Steps of a recording that run in one piece."""

_ROWS = 8_000
"""Steps of all recordings that are used; pieces spread evenly where there are more."""

_JUDGED = 4_000
"""Steps on which thresholds are judged while they are searched."""

_TIMED = 40
"""Steps whose cycles are predicted one by one."""

_SHRUNK = 30
"""How often thresholds are shrunk by 2 % where integers exceed the budget."""

_PROBED = 3_000
"""Steps over which sensitivities are averaged."""


@dataclass(frozen=True)
class CompressOptions:
    """What is asked of a compression.

    Attributes
    ----------
    bits : int
        Of a weight: 4 or 8.
    sparsity : float
        Part of the weights that goes.
    pattern : str
        ``masks.PATTERNS``.
    max_error : float or None
        Thresholds for the fewest words within this mean absolute error of the output on the
        calibration recordings.
    frame_ms : float or None
        Thresholds for the least error within this time a step, by the cost model.
    clock_mhz : float
        Clock of engine and memory.
    by_element : bool
        A threshold for each element.
    refits : int
        How often the weights are solved again under the chosen thresholds.
    method : str
        ``"second-order"`` or ``"nearest"``.
    follow, damping, passes : see ``layerwise.Settings``
    seed : int
    """

    bits: int = 4
    sparsity: float = 0.0
    pattern: str = "unstructured"
    max_error: float | None = None
    frame_ms: float | None = None
    clock_mhz: float = 100.0
    by_element: bool = True
    refits: int = 1
    method: str = "second-order"
    follow: float = 0.25
    damping: float = 0.01
    passes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or isinstance(self.bits, bool):
            raise StillnetError(f"weights must have 4 or 8 bits, not {self.bits!r}")
        Pattern(self.pattern, self.sparsity)
        for name in ("max_error", "frame_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise StillnetError(f"{name} must be a positive number, not {value!r}")
        if self.max_error is not None and self.frame_ms is not None:
            raise StillnetError("give max_error or frame_ms, not both: each decides the thresholds")
        if self.method not in ("second-order", "nearest"):
            raise StillnetError(f"method must be 'second-order' or 'nearest', not '{self.method}'")

    @property
    def searched(self) -> bool:
        """Whether thresholds are to be found."""
        return self.max_error is not None or self.frame_ms is not None


def engine_for(options: CompressOptions, base: EngineConfig | None = None) -> EngineConfig:
    """An engine like ``base`` (``sdram16``) with what the compressed network will ask of it."""
    base = base or PRESETS["sdram16"]
    formats = {"unstructured": ("step", "bitmap"), "lane": ("bitmap",), "block8": ("block",)}
    kinds = ("dense", *formats[options.pattern]) if options.sparsity > 0 else ("dense",)
    unequal = "step" in kinds or "block" in kinds
    return replace(
        base,
        name=f"{base.name}-{options.bits}bit",
        int4=base.int4 or options.bits == 4,
        formats=tuple(dict.fromkeys((*base.formats, *kinds))),
        columns=max(base.columns, 8192) if unequal else base.columns,
        row_scale=base.row_scale or options.bits == 4,
        element_thresholds=base.element_thresholds or (options.searched and options.by_element),
    )


@dataclass
class _Setup:
    """Prepared once: recordings, float trace, formats, sensitivities."""

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
    reports: list[dict[str, Any]] = field(default_factory=list)


def compress(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    options: CompressOptions | None = None,
    *,
    config: EngineConfig | None = None,
    given: Given | None = None,
    thresholds: dict[int, float | np.ndarray] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Network:
    """Compresses a float model without training, from calibration recordings only.

    Parameters
    ----------
    model : Model
    calibration : array (steps, inputs), or a list of them
    options : CompressOptions, optional
    config : EngineConfig, optional
        The engine whose words are counted and whose lanes the pattern ``lane`` is for;
        ``engine_for(options)`` where absent.
    given : Given, optional
        Masks and steps of a network that was pruned or trained quantized elsewhere.
    thresholds : dict of source to float or array, optional
        Thresholds in real units that are given instead of searched.
    name : str, optional
    folder : path, optional
        Where finished stages are kept; a run that was stopped goes on from there.
    progress : Progress, optional

    Returns
    -------
    Network
        ``notes["compression"]`` has the options, a report a layer, the error on calibration and
        the predicted words.

    Raises
    ------
    StillnetError
        Where the recordings do not fit the model, the folder belongs to another run, or the budget
        cannot be met.
    """
    options = options or CompressOptions()
    config = config or engine_for(options)
    setup = _prepare(
        model, calibration, options, config, given, folder, progress or silent, thresholds
    )
    job, settings = setup.job, setup.settings
    compressed, work = _weights(setup, "weights-0")
    limits: Limits | None = None
    network = _network(setup, work, name)
    if options.searched:
        limits = _limits(setup, "limits-0", compressed, network, None)
        for k in range(1, options.refits + 1):
            job.encoders = Encoders(limits.thresholds, job.fraction)
            job.cost = _costs(setup, compressed, limits)
            if settings.pattern.kind == "unstructured" and not settings.pattern.dense:
                job.density = allocate(job, settings)
            compressed, work = _weights(setup, f"weights-{k}")
            network = _network(setup, work, name)
            limits = _limits(setup, f"limits-{k}", compressed, network, limits)
    encoders = Encoders(limits.thresholds if limits else dict(thresholds or {}), job.fraction)
    set_limits(network, encoders)
    if limits is not None and options.max_error is not None:
        _settle(setup, network, limits)
    network.validate()
    _report(setup, network, work)
    return network


# -- stages ---------------------------------------------------------------------------------------


def _prepare(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    options: CompressOptions,
    config: EngineConfig,
    given: Given | None,
    folder: str | Path | None,
    progress: Progress,
    thresholds: dict[int, float | np.ndarray] | None = None,
) -> _Setup:
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
    pieces = _pieces(checked_recordings(model, calibration), _ROWS)
    layout = Layout([len(p) for p in pieces])
    x = layout.pack(pieces)
    progress("float model", 0, 3)
    trace = run_float(model, layout, x)
    progress("float model", 1, 3)
    choice = FormatChoice(model, trace, 1.25, True)
    choice.search(silent)
    multipliers = options.bits == 4
    fraction = dict(choice.fraction)
    if multipliers:
        fraction = choose_fractions(model, choice, options.bits)
    progress("float model", 2, 3)
    probe = _every(pieces, _PROBED)
    probe_layout = Layout([len(p) for p in probe])
    probe_trace = run_float(model, probe_layout, probe_layout.pack(probe))
    felt = sensitivity(model, probe_trace, seed=options.seed)
    progress("float model", 3, 3)
    pattern = Pattern(options.pattern, options.sparsity, config.multipliers)
    settings = Settings(
        options.bits,
        pattern,
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
    sources = [
        s
        for s in range(INPUT, len(model.layers))
        if any(m.source == s for layer in model.layers for m in layer.matrices)
    ]
    if pattern.kind == "unstructured" and not pattern.dense:
        job.density = allocate(job, settings)
    wanted = layout.unpack(trace.vectors[len(model.layers) - 1])
    chosen = _places(pieces, _JUDGED)
    judged = Layout([len(pieces[k]) for k in chosen])
    if thresholds:
        job.encoders = Encoders(dict(thresholds), job.fraction)
    # What weights are solved for without a budget; runs with several budgets share it.
    facts = {k: v for k, v in asdict(options).items() if k not in _BUDGET}
    facts |= {"multipliers": config.multipliers, "given": given and given.digest()}
    facts |= {"thresholds": {s: np.asarray(v).tolist() for s, v in (thresholds or {}).items()}}
    return _Setup(
        options,
        config,
        job,
        settings,
        sources,
        (
            judged,
            judged.pack([pieces[k] for k in chosen]),
            judged.pack([wanted[k] for k in chosen]),
        ),
        progress,
        exponents,
        Checkpoint(None if folder is None else Path(folder), digest(model, x, facts)),
        _budget(options, config),
    )


_BUDGET = ("max_error", "frame_ms", "clock_mhz", "by_element", "refits")


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
    from .hessian import bundles

    steps = {}
    for i, layer in enumerate(model.layers):
        for place, bundle in enumerate(bundles(model, i)):
            source = layer.matrices[bundle.parts[0][0]].source
            step = 2.0 ** (choice.fraction[source] - choice.exponent[i])
            steps[i, place] = np.full(len(bundle.gates) * layer.units, step)
    return steps


def _weights(setup: _Setup, stage: str) -> tuple[Model, LayerWork]:
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


def _network(setup: _Setup, work: LayerWork, name: str | None) -> Network:
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


def _limits(
    setup: _Setup, stage: str, compressed: Model, network: Network, before: Limits | None
) -> Limits:
    name = f"{stage}-{setup.budget}"
    found = setup.checkpoint.load(name)
    if found is not None:
        arrays, facts = found
        named = {int(s): (a if a.ndim else float(a)) for s, a in arrays.items()}
        rates = {int(s): r for s, r in facts["rates"].items()}
        return Limits(named, facts["error"], facts["words"], rates)
    options, job = setup.options, setup.job
    layout, x, wanted = setup.judged
    search = LimitSearch(
        compressed,
        layout,
        x,
        wanted,
        fraction=job.fraction,
        sensitivity=job.sensitivity,
        words=column_words(network, setup.config),
        sources=setup.sources,
        by_element=options.by_element,
        progress=lambda what, done, total: setup.progress(f"{what}, {stage}", done, total),
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


def _settle(setup: _Setup, network: Network, limits: Limits) -> None:
    """The search ran in floating point: in integers, too, the error must keep the budget."""
    budget = setup.options.max_error or 0.0
    for _ in range(_SHRUNK):
        if _integer_error(setup, network)[0] <= budget:
            return
        limits.thresholds = {s: 0.98 * v for s, v in limits.thresholds.items()}
        set_limits(network, Encoders(limits.thresholds, setup.job.fraction))
    raise StillnetError(
        f"max_error {budget:g} cannot be kept: in integers the mean error is "
        f"{_integer_error(setup, network)[0]:.4g}; allow more"
    )


def _integer_error(setup: _Setup, network: Network) -> tuple[float, Trace]:
    """Mean absolute error of the output on the judged recordings, bit-exact."""
    layout, x, wanted = setup.judged
    rows = layout.pack([network.quantize_input(p) for p in layout.unpack(x)])
    result = run_integers(network, layout, rows)
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return float(np.mean(np.abs(y - wanted))), result


def _costs(setup: _Setup, compressed: Model, limits: Limits) -> dict[int, np.ndarray]:
    """How often each column fires; a tenth of the mean is added, for what calibration missed."""
    from .simulate import simulate

    layout, x, _ = setup.judged
    result = simulate(compressed, layout, x, Encoders(limits.thresholds, setup.job.fraction))
    costs = {}
    for s in setup.sources:
        rate = result.fired[s] / layout.rows
        costs[s] = rate + 0.1 * rate.mean() + 1e-6
    return costs


def _report(setup: _Setup, network: Network, work: LayerWork) -> None:
    """Errors and costs on calibration, from integers."""
    job, options = setup.job, setup.options
    layout, x, _ = setup.judged
    error, result = _integer_error(setup, network)
    words = step_words(network, setup.config, result)
    # Cycles a word from some steps in the middle of a recording; words from all of them.
    first = network.quantize_input(layout.unpack(x)[layout.recordings // 2][:_TIMED])
    cost = predict(network, first, setup.config, clock_mhz=options.clock_mhz, warm=len(first) // 2)
    layers = []
    for i, layer in enumerate(job.model.layers):
        parts = {k: c for k, c in work.items() if k[0] == i}
        kept = sum(int(np.count_nonzero(c.integers)) for c in parts.values())
        size = sum(c.integers.size for c in parts.values())
        weights = [c.integers.size for c in parts.values()]
        layers.append(
            {
                "name": layer.name,
                "cell": layer.cell,
                "density": kept / size,
                "error": float(np.average([c.error for c in parts.values()], weights=weights)),
                "nearest_error": float(
                    np.average([c.nearest_error for c in parts.values()], weights=weights)
                ),
                "formats": [
                    m.layout(layer.cell, setup.config).name for m in network.layers[i].matrices
                ],
                "active": _activity(result, i, layout),
            }
        )
    network.notes["compression"] = {
        "options": asdict(options),
        "engine": setup.config.to_dict(),
        "steps": job.layout.rows,
        "judged_steps": layout.rows,
        "output_error": error,
        "words_a_step": words,
        "bytes_a_step": words * setup.config.word_bytes,
        "frame_ms": cost.milliseconds * words / max(cost.words, 1e-9),
        "saturations": result.saturations,
        "layers": layers,
    }
    modes = {q.mode for q in network.layers} | {network.input_mode}
    assert modes == {Mode.DELTA} and all(q.cell in CELLS for q in network.layers)


def _activity(result: Trace, index: int, layout: Layout) -> float | None:
    fired = result.fired.get(index)
    return None if fired is None else float(fired.sum()) / (layout.rows * len(fired))
