"""Error against words, cycles and frame time, for thresholds x bits x sparsity.

For every choice of bits and sparsity the network is compressed once; thresholds are then balanced
on calibration and scaled over a range of errors. Every point is a network of integers: its error
and words come from the bit-exact run over the calibration recordings, or over test recordings that
nothing was chosen on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.cost import predict, step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float, run_integers
from stillnet.sw.quantization.checking.checks import check_recordings
from stillnet.sw.quantization.integers import set_limits
from stillnet.sw.quantization.limits import Limits
from stillnet.sw.util.progress import Progress, silent

from .options import CompressOptions, engine_for
from .stages import limit_search, prepare_setup, solve_weights

__all__ = ["Row", "measure", "sweep"]

Row = dict[str, Any]

_TIMED = 40


def measure(
    model: Model,
    network: Network,
    recordings: Sequence[np.ndarray],
    config: EngineConfig,
    *,
    clock_mhz: float = 100.0,
) -> dict[str, float]:
    """Error, words, cycles and time of a network on recordings.

    Returns
    -------
    dict
        ``error`` (mean absolute, against the float model), ``words``, ``kilobytes``, ``cycles``
        and ``frame_ms`` per step. Cycles per word are predicted step by step from the second half
        of the first recording, at most 40 steps of it.
    """
    layout = Layout([len(r) for r in recordings])
    wanted = run_float(model, layout, layout.pack(list(recordings))).vectors[len(model.layers) - 1]
    rows = [network.quantize_input(r) for r in recordings]
    result = run_integers(network, layout, layout.pack(rows))
    last = len(network.layers) - 1
    error = float(np.mean(np.abs(network.dequantize_output(result.vectors[last]) - wanted)))
    words = step_words(network, config, result)
    sample = rows[0][: len(rows[0]) // 2 + _TIMED]
    cost = predict(network, sample, config, clock_mhz=clock_mhz, warm=len(rows[0]) // 2)
    cycles = cost.cycles * words / max(cost.words, 1e-9)
    return {
        "error": error,
        "words": words,
        "kilobytes": words * config.word_bytes / 1000,
        "cycles": cycles,
        "frame_ms": cycles / clock_mhz / 1e3,
    }


def sweep(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    *,
    bits: Sequence[int] = (8, 4),
    sparsity: Sequence[float] = (0.0, 0.5),
    errors: Sequence[float] = (0.0, 0.01, 0.02),
    options: CompressOptions | None = None,
    config: EngineConfig | None = None,
    test: np.ndarray | Sequence[np.ndarray] | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """All points: error and cost for each choice of bits, sparsity and budget.

    Parameters
    ----------
    model, calibration : as for ``compress``
    bits, sparsity : sequences
    errors : sequence of float
        Budgets of the mean absolute error on calibration; 0 stands for thresholds of zero. A budget
        that cannot be met gives no row.
    options : CompressOptions, optional
        Everything else that is asked.
    config : EngineConfig, optional
        The engine to start from, as for ``engine_for``.
    test : recordings, optional
        Measured after everything is chosen.
    folder : path, optional
        Where finished stages are kept.

    Returns
    -------
    list of dict
        ``bits``, ``sparsity``, ``pattern``, ``budget``, then what :func:`measure` gives on
        calibration, and with ``test_`` in front on test recordings.
    """
    base = options or CompressOptions()
    progress = progress or silent
    choices = _choices(base, bits, sparsity, errors)
    judged_on = None if test is None else check_recordings(model, test)
    rows: list[Row] = []
    for chosen in choices:
        place = None if folder is None else Path(folder) / f"{chosen.bits}bit-{chosen.sparsity:g}"
        for row in _points(
            model,
            calibration,
            chosen,
            engine_for(chosen, config),
            errors,
            judged_on,
            place,
            progress,
        ):
            rows.append(row)
            progress("points", len(rows), len(choices) * len(errors))
    return rows


def _choices(
    base: CompressOptions, bits: Sequence[int], sparsity: Sequence[float], errors: Sequence[float]
) -> list[CompressOptions]:
    """All of them are checked first: an error in the last one must not show after an hour."""
    if not bits or not sparsity or not errors:
        raise StillnetError("a sweep needs at least one of bits, sparsity and errors")
    highest = max(max(errors), 1e-6)
    choices = [
        replace(base, bits=b, sparsity=s, max_error=None, mean_error=highest, frame_ms=None)
        for b in bits
        for s in sparsity
    ]
    if min(errors) < 0:
        raise StillnetError(f"a budget of error must be 0 or more, not {min(errors):g}")
    return choices


def _points(
    model: Model,
    calibration: np.ndarray | Sequence[np.ndarray],
    chosen: CompressOptions,
    engine: EngineConfig,
    errors: Sequence[float],
    test: list[np.ndarray] | None,
    folder: Path | None,
    progress: Progress,
) -> Iterator[Row]:
    """Rows of one choice of bits and sparsity: the same weights under several budgets."""
    setup = prepare_setup(model, calibration, chosen, engine, None, folder, progress)
    compressed, work = solve_weights(setup, "weights-0")
    network = setup.plan.network(work)
    judged = setup.base.judged
    layout, x = judged.layout, judged.x
    search = limit_search(setup, compressed, network, progress)
    balanced: Limits | None = None
    for budget in sorted(errors, reverse=True):
        thresholds: dict[int, float | np.ndarray] = dict.fromkeys(setup.base.delta_sources, 0.0)
        if budget > 0:
            rates = None if balanced is None else balanced.rates
            found = search.run(error=budget, rounds=0 if rates else 2, rates=rates)
            if found.error > budget:
                continue
            balanced = balanced or found
            thresholds = found.thresholds
        set_limits(network, replace(setup.encoders, thresholds=thresholds))
        row: Row = {
            "bits": chosen.bits,
            "sparsity": chosen.sparsity,
            "pattern": chosen.pattern,
            "budget": budget,
        }
        row |= measure(model, network, layout.unpack(x), engine, clock_mhz=chosen.clock_mhz)
        if test is not None:
            tested = measure(model, network, test, engine, clock_mhz=chosen.clock_mhz)
            row |= {f"test_{k}": v for k, v in tested.items()}
        yield row
