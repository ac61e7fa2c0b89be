"""``compress``: from a float model and recordings to a small network of integers.

Stages: the layers one after the other (``layerwise``); thresholds for the budget (``limits``);
the layers again under these thresholds and for what each column costs now (the *refit*); thresholds
once more. The result follows from the data and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.cost.cost import predict, step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace
from stillnet.sw.util.progress import Progress, silent

from .allocation import allocate
from .build import set_limits
from .layerwise import LayerWork
from .limits import Limits
from .options import CompressOptions, engine_for
from .pruned import Given
from .simulate import Encoders
from .stages import (
    Setup,
    column_costs,
    find_limits,
    integer_error,
    integer_network,
    prepare,
    solve_weights,
)

__all__ = ["compress"]

_TIMED = 40
"""Steps whose cycles are predicted one by one."""

_SHRUNK = 30
"""How often thresholds are shrunk by 2 % where integers exceed the budget."""


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
    setup = prepare(
        model, calibration, options, config, given, folder, progress or silent, thresholds
    )
    job = setup.job
    compressed, work = solve_weights(setup, "weights-0")
    limits: Limits | None = None
    network = integer_network(setup, work, name)
    if options.searched:
        limits = find_limits(setup, "limits-0", compressed, network, None)
        for k in range(1, options.refits + 1):
            job.encoders = Encoders(limits.thresholds, job.fraction)
            job.cost = column_costs(setup, compressed, limits)
            if setup.allocates:
                job.density = allocate(job, setup.settings)
            compressed, work = solve_weights(setup, f"weights-{k}")
            network = integer_network(setup, work, name)
            limits = find_limits(setup, f"limits-{k}", compressed, network, limits)
    encoders = Encoders(limits.thresholds if limits else dict(thresholds or {}), job.fraction)
    set_limits(network, encoders)
    if limits is not None and options.max_error is not None:
        _settle(setup, network, limits)
    network.validate()
    network.notes["compression"] = _report(setup, network, work)
    return network


def _settle(setup: Setup, network: Network, limits: Limits) -> None:
    """The search ran in floating point: in integers, too, the error must keep the budget."""
    budget = setup.options.max_error or 0.0
    for _ in range(_SHRUNK):
        if integer_error(setup, network)[0] <= budget:
            return
        limits.thresholds = {s: 0.98 * v for s, v in limits.thresholds.items()}
        set_limits(network, Encoders(limits.thresholds, setup.job.fraction))
    raise StillnetError(
        f"max_error {budget:g} cannot be kept: in integers the mean error is "
        f"{integer_error(setup, network)[0]:.4g}; allow more"
    )


def _report(setup: Setup, network: Network, work: LayerWork) -> dict[str, Any]:
    """Errors and costs on calibration, from integers; fields of ``results.CompressReport``."""
    options, config = setup.options, setup.config
    layout, x, _ = setup.judged
    error, result = integer_error(setup, network)
    words = step_words(network, config, result)
    # Cycles per word from some steps in the middle of a recording; words from all of them.
    first = network.quantize_input(layout.unpack(x)[layout.recordings // 2][:_TIMED])
    cost = predict(network, first, config, clock_mhz=options.clock_mhz, warm=len(first) // 2)
    modes = {q.mode for q in network.layers} | {network.input_mode}
    assert modes == {Mode.DELTA} and all(q.cell in CELLS for q in network.layers)
    return {
        "options": asdict(options),
        "engine": config.to_dict(),
        "steps": setup.job.layout.rows,
        "judged_steps": layout.rows,
        "output_error": error,
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
    sizes = [c.integers.size for c in parts]
    return {
        "name": layer.name,
        "cell": layer.cell,
        "density": sum(int(np.count_nonzero(c.integers)) for c in parts) / sum(sizes),
        "error": float(np.average([c.error for c in parts], weights=sizes)),
        "nearest_error": float(np.average([c.nearest_error for c in parts], weights=sizes)),
        "formats": [m.layout(layer.cell, setup.config).name for m in layer.matrices],
        "active": _activity(result, i, setup.judged[0]),
    }


def _activity(result: Trace, index: int, layout: Layout) -> float | None:
    fired = result.fired.get(index)
    return None if fired is None else float(fired.sum()) / (layout.rows * len(fired))
