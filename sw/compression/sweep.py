"""Error against words, cycles and frame time, for thresholds x bits x sparsity.

For every choice of bits and sparsity the network is compressed once; thresholds are then balanced
on calibration and scaled over a range of errors. Every point is a network of integers: its error
and words come from the bit-exact run over the calibration recordings, or over test recordings that
nothing was chosen on.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.cost.cost import column_words, predict, step_words
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float, run_integers
from stillnet.sw.quantization.checks import checked_recordings
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.progress import Progress, silent

from .build import set_limits
from .limits import Limits, LimitSearch
from .pipeline import CompressOptions, _network, _prepare, _weights, engine_for
from .simulate import Encoders

__all__ = ["check_plot", "measure", "plot", "sweep"]

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
        and ``frame_ms`` a step. Cycles a word are predicted step by step from the second half of
        the first recording, at most 40 steps of it.
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
    """All points.

    Parameters
    ----------
    model, calibration : as for ``compress``
    bits, sparsity : sequences
    errors : sequence of float
        Budgets of the mean absolute error on calibration; 0 stands for thresholds of zero. A budget
        that cannot be met gives no row.
    options : CompressOptions, optional
        What else is asked.
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
    if not bits or not sparsity or not errors:
        raise StillnetError("a sweep needs at least one of bits, sparsity and errors")
    # All of them first: what is wrong with the last one should not come to light after an hour.
    highest = max(max(errors), 1e-6)
    choices = [
        replace(base, bits=b, sparsity=s, max_error=highest, frame_ms=None)
        for b in bits
        for s in sparsity
    ]
    if min(errors) < 0:
        raise StillnetError(f"a budget of error must be 0 or more, not {min(errors):g}")
    rows: list[Row] = []
    judged_on = None if test is None else checked_recordings(model, test)
    for chosen in choices:
        b, s = chosen.bits, chosen.sparsity
        engine = engine_for(chosen, config)
        place = None if folder is None else Path(folder) / f"{b}bit-{s:g}"
        setup = _prepare(model, calibration, chosen, engine, None, place, progress)
        compressed, work = _weights(setup, "weights-0")
        network = _network(setup, work, None)
        layout, x, wanted = setup.judged
        search = LimitSearch(
            compressed,
            layout,
            x,
            wanted,
            fraction=setup.job.fraction,
            sensitivity=setup.job.sensitivity,
            words=column_words(network, engine),
            sources=setup.sources,
            by_element=chosen.by_element,
            progress=progress,
        )
        balanced: Limits | None = None
        for budget in sorted(errors, reverse=True):
            thresholds: dict[int, float | np.ndarray] = dict.fromkeys(setup.sources, 0.0)
            if budget > 0:
                rates = None if balanced is None else balanced.rates
                found = search.run(error=budget, rounds=0 if rates else 2, rates=rates)
                if found.error > budget:
                    continue
                balanced = balanced or found
                thresholds = found.thresholds
            set_limits(network, Encoders(thresholds, setup.job.fraction))
            row: Row = {"bits": b, "sparsity": s, "pattern": base.pattern, "budget": budget}
            pieces = layout.unpack(x)
            row |= measure(model, network, pieces, engine, clock_mhz=base.clock_mhz)
            if judged_on is not None:
                tested = measure(model, network, judged_on, engine, clock_mhz=base.clock_mhz)
                row |= {f"test_{k}": v for k, v in tested.items()}
            rows.append(row)
            progress("points", len(rows), len(bits) * len(sparsity) * len(errors))
    return rows


KINDS = (".png", ".svg", ".pdf")
_COLOURS = {8: "#30638e", 4: "#d1495b"}
_MARKERS = "osD^vP*X"
_STYLES = ("-", "--", "-.", ":")


def check_plot(path: str | Path) -> None:
    """Refuses a picture that could not be drawn, before the work for it begins.

    Raises
    ------
    StillnetError
        For another kind of file, a folder that is not there, or without matplotlib.
    """
    kind = Path(path).suffix
    if kind not in KINDS:
        raise StillnetError(f"'{path}' is no picture; its name must end in {', '.join(KINDS)}")
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise StillnetError('plots need matplotlib; pip install "stillnet[plot]"')


def plot(rows: Sequence[Row], path: str | Path, *, title: str = "") -> None:
    """Draws error against time and against what is read, a line for each of bits and sparsity.

    Lines of test recordings, where there are any, over faint ones of calibration. Points without
    thresholds are hollow.
    """
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not rows:
        raise StillnetError("a sweep without points cannot be drawn; allow a larger error")
    tested = "test_error" in rows[0]
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    gone = sorted({r["sparsity"] for r in rows})
    for b, s in sorted({(r["bits"], r["sparsity"]) for r in rows}, key=lambda k: (-k[0], k[1])):
        line = [r for r in rows if (r["bits"], r["sparsity"]) == (b, s)]
        line.sort(key=lambda r: r["budget"])
        look: dict[str, Any] = {
            "color": _COLOURS[b],
            "linestyle": _STYLES[gone.index(s) % len(_STYLES)],
            "clip_on": False,
        }
        marker = _MARKERS[gone.index(s) % len(_MARKERS)]
        label = f"int{b}, " + ("dense" if s == 0 else f"{s:.0%} of the weights gone")
        for axis, name in zip(axes, ("frame_ms", "kilobytes")):
            if tested:
                points = [(r[name], r["error"]) for r in line]
                axis.plot(*zip(*points), **look, alpha=0.3, linewidth=1)
            prefix = "test_" if tested else ""
            points = [(r[prefix + name], r[f"{prefix}error"]) for r in line]
            axis.plot(*zip(*points), **look, label=label, linewidth=1.6)
            for r, (x, y) in zip(line, points):
                fill = "white" if r["budget"] == 0 else _COLOURS[b]
                axis.plot(
                    x, y, marker, markerfacecolor=fill, markeredgecolor=_COLOURS[b], clip_on=False
                )
    axes[0].set_xlabel("milliseconds a step (cost model)")
    axes[1].set_xlabel("kilobytes read a step")
    axes[0].set_ylabel("mean absolute error of the output")
    axes[1].xaxis.set_major_formatter("{x:,.0f}")
    for axis in axes:
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[1].legend(frameon=False, handlelength=2.6)
    where = "test recordings; faint: calibration" if tested else "calibration recordings"
    note = f"{where}; hollow: thresholds 0"
    figure.suptitle(f"{title}: {note}" if title else note, x=0.02, ha="left", fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.removeprefix("."), dpi=150)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
