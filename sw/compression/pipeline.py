"""``compress``: from a float model and recordings to a small network of integers.

Stages: the layers one after the other (``layerwise``); thresholds for the budget (``limits``);
the layers again under these thresholds and for what each column costs now (the *refit*); thresholds
once more. The result follows from the data and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.cost import predict, step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace
from stillnet.sw.quantization.checking.checks import listed_recordings
from stillnet.sw.quantization.integers import set_limits
from stillnet.sw.quantization.layerwise import LayerWork
from stillnet.sw.quantization.limits import Limits, integer_error, settle
from stillnet.sw.quantization.report import output_error, quantization_report
from stillnet.sw.util.progress import Progress, silent

from .allocation import allocate
from .options import CompressOptions, engine_for
from .pruned import Given
from .stages import Setup, column_costs, find_limits, prepare_setup, solve_weights
from .unheard import left_out, tightened

__all__ = ["compress"]

_TIMED = 40
"""Steps whose cycles are predicted one by one."""


def compress(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    options: CompressOptions | None = None,
    *,
    config: EngineConfig | None = None,
    given: Given | None = None,
    thresholds: dict[int, float | np.ndarray] | None = None,
    leave_out: int | None = None,
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
    leave_out : int, optional
        Leaves each of so many scenes of the recordings out once, to learn how much larger the error
        is on what calibration does not have (``unheard``); a budget for an error is tightened by
        that. Takes so many times longer.
    name : str, optional
    folder : path, optional
        Where finished stages are kept; a run that was stopped goes on from there.
    progress : Progress, optional

    Returns
    -------
    Network
        ``notes["compression"]`` has the options, a report for each layer, the error on calibration
        and the predicted words; :func:`stillnet.info` gives them as a dataclass.

    Raises
    ------
    StillnetError
        Where the recordings do not fit the model, the folder belongs to another run, or the budget
        cannot be met.
    """
    options = options or CompressOptions()
    config = config or engine_for(options)
    progress = progress or silent
    if leave_out is not None:
        fixed: dict[str, Any] = {"config": config, "given": given, "thresholds": thresholds}
        return _with_scenes_left_out(
            model, calibration, options, leave_out, folder, progress, name=name, **fixed
        )
    setup = prepare_setup(model, calibration, options, config, given, folder, progress, thresholds)
    job = setup.job
    compressed, work = solve_weights(setup, "weights-0")
    limits: Limits | None = None
    network = setup.plan.network(work, name)
    if options.searched:
        limits = find_limits(setup, "limits-0", compressed, network, None)
        for k in range(1, options.refits + 1):
            job.encoders = replace(setup.encoders, thresholds=limits.thresholds)
            job.cost = column_costs(setup, compressed, limits)
            if setup.allocates:
                job.density = allocate(job, setup.settings)
            compressed, work = solve_weights(setup, f"weights-{k}")
            network = setup.plan.network(work, name)
            limits = find_limits(setup, f"limits-{k}", compressed, network, limits)
    chosen = limits.thresholds if limits else dict(thresholds or {})
    set_limits(network, replace(setup.encoders, thresholds=chosen))
    if limits is not None and options.frame_ms is None:
        settle(setup.plan, network, limits, options.budget)
    network.validate()
    network.notes["options"] = asdict(options)
    network.notes["report"] = quantization_report(
        model, network, setup.base.whole, listed_recordings(model, calibration)
    )
    network.notes["report"]["doubts"] += _idle_options(setup, network)
    network.notes["compression"] = _report(setup, network, work)
    return network


def _with_scenes_left_out(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    asked: CompressOptions,
    count: int,
    folder: str | Path | None,
    progress: Progress,
    *,
    name: str | None,
    **fixed: Any,
) -> Network:
    """What each of the scenes is worth to the others, then a network within a tighter budget."""

    def make(some: list[np.ndarray], where: Path | None) -> Network:
        return compress(model, some, asked, folder=where, **fixed)

    unheard = left_out(model, calibration, make, count, folder, progress)
    options = tightened(asked, unheard)
    progress(f"errors on scenes left out are {unheard.ratio:.2f} times as large", 1, 1)
    try:
        network = compress(
            model, calibration, options, name=name, folder=folder, progress=progress, **fixed
        )
    except StillnetError as error:
        if options == asked:
            raise
        raise StillnetError(
            f"{error}. The budget was tightened because errors on scenes left out are "
            f"{unheard.ratio:.2f} times as large; give more varied recordings, or compress without "
            "--leave-out"
        ) from None
    report = network.notes["compression"]
    report["unheard"] = unheard.describe(report["output_error"])
    return network


def _idle_options(setup: Setup, network: Network) -> list[str]:
    """Options that cost accuracy and save no words."""
    options, config = setup.options, setup.config
    found = []
    if options.sparsity > 0:
        dense = config.reading(("dense",))
        words = [sum(_words(network, c).values()) for c in (config, dense)]
        if words[1] and words[0] > 0.95 * words[1]:
            found.append(
                f"sparsity {options.sparsity:g} with pattern '{options.pattern}' saves "
                f"{100 * (1 - words[0] / words[1]):.0f} % of the words of this network only; leave "
                "it out, or choose another pattern"
            )
    return found


def _words(network: Network, config: EngineConfig) -> dict[tuple[int, int], int]:
    """Words of each matrix, with the format that takes fewest."""
    return {
        (i, j): m.layout(layer.cell, config).words
        for i, layer in enumerate(network.layers)
        for j, m in enumerate(layer.matrices)
    }


def _report(setup: Setup, network: Network, work: LayerWork) -> dict[str, Any]:
    """Errors and costs on calibration, from integers; fields of ``results.CompressReport``."""
    options, config = setup.options, setup.config
    judged = setup.base.judged
    layout, x = judged.layout, judged.x
    _, result = integer_error(setup.plan, network, options.budget)
    words = step_words(network, config, result)
    # Cycles per word from some steps in the middle of a recording; words from all of them.
    first = network.quantize_input(layout.unpack(x)[layout.recordings // 2][:_TIMED])
    cost = predict(network, first, config, clock_mhz=options.clock_mhz, warm=len(first) // 2)
    return {
        "options": asdict(options),
        "engine": config.to_dict(),
        "steps": setup.job.layout.rows,
        "judged_steps": layout.rows,
        "output_error": output_error(network, result, judged.wanted),
        "words_a_step": words,
        "bytes_a_step": words * config.word_bytes,
        "frame_ms": cost.milliseconds * words / max(cost.words, 1e-9),
        "saturations": result.saturations,
        "layers": [_layer(setup, network, work, result, i) for i in range(len(network.layers))],
    }


def _layer(
    setup: Setup, network: Network, work: LayerWork, result: Trace, i: int
) -> dict[str, Any]:
    """One layer; fields of ``results.CompressedLayer``."""
    layer = network.layers[i]
    parts = [c for (index, _), c in work.items() if index == i]
    sizes = [c.integers.size for c in parts] or [1]  # a layer that no matrix feeds
    errors = [(c.error, c.nearest_error) for c in parts] or [(0.0, 0.0)]
    kept = sum(int(np.count_nonzero(c.integers)) for c in parts) if parts else 1
    return {
        "name": layer.name,
        "cell": layer.cell,
        "density": kept / sum(sizes),
        "error": float(np.average([e for e, _ in errors], weights=sizes)),
        "nearest_error": float(np.average([e for _, e in errors], weights=sizes)),
        "formats": [m.layout(layer.cell, setup.config).name for m in layer.matrices],
        "active": _activity(result, i, setup.base.judged.layout),
    }


def _activity(result: Trace, index: int, layout: Layout) -> float | None:
    fired = result.fired.get(index)
    return None if fired is None else float(fired.sum()) / (layout.rows * len(fired))
