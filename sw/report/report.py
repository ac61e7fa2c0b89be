"""Writes the page: a Jinja template with pictures inside, no other file."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.tiers import choose_hot, layouts_of
from stillnet.sw.packing.describe import describe_network
from stillnet.sw.util.files import check_place, write_atomically
from stillnet.sw.util.progress import Progress
from stillnet.sw.util.results.runs import HardwareResult, RunResult
from stillnet.sw.util.shown import shown_count, shown_joules, shown_time

from . import pictures as draw
from .collect import Collected, collect
from .energy import energy_lines
from .operations import NEURON_WEIGHT, operations

__all__ = ["check_report", "write_report"]

DEFAULT_CLOCK_HZ = 100_000_000
"""Where the engine is not on a board."""
TEMPLATE = Path(__file__).with_name("page.html")


def check_report(path: str | Path | None) -> None:
    """Refuses a report that could not be written, before the work for it begins.

    Raises
    ------
    StillnetError
        For another kind of file, a folder that is not there, or without matplotlib or Jinja.
    """
    if path is None:
        return
    if Path(path).suffix not in (".html", ".htm"):
        raise StillnetError(f"'{path}' is no page; its name must end in .html")
    check_place(path)
    for name in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(name) is None:
            raise StillnetError(f'a report needs {name}; pip install "stillnet[plot]"')


def write_report(
    path: str | Path,
    network: Network,
    recordings: Sequence[np.ndarray],
    result: RunResult,
    *,
    config: EngineConfig | None = None,
    clock_hz: float | None = None,
    model: Model | None = None,
    rate: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes one self-contained page about a run.

    Parameters
    ----------
    path : str or Path
        An .html file.
    network : Network
    recordings : sequence of arrays
        As the run took them.
    result : RunResult
        Of the run, or of all of its recordings.
    config : EngineConfig, optional
        The engine; that of the result where absent.
    clock_hz : float, optional
        Its clock; that of the board, or 100 MHz.
    model : Model, optional
        The float model, for the error of this run.
    rate : float, optional
        Steps per second in use, for operations per second.
    progress : Progress, optional

    Raises
    ------
    StillnetError
        Where the page cannot be written.
    """
    check_report(path)
    from jinja2 import Environment, StrictUndefined

    config = config or result.config
    if config is None:
        raise ValueError("the result does not say which engine it ran on; give its config")
    clock_hz = clock_hz or getattr(result, "clock_hz", None) or DEFAULT_CLOCK_HZ
    vectors = _vectors(network, recordings, result.steps)
    found = collect(network, vectors, config, model=model, progress=progress)
    pictures: dict[str, str] = {}
    draw.maps_picture(found, pictures)
    draw.steps_picture(found, clock_hz, pictures)
    cycles = _cycles(result, found)
    draw.cycles_picture(cycles, pictures)
    draw.hot_picture(found, network, pictures)
    if found.wanted is not None:
        draw.error_picture(found, pictures)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        pictures=pictures,
        info=describe_network(network),
        config=config,
        result=result,
        hardware=isinstance(result, HardwareResult),
        found=found,
        clock_mhz=clock_hz / 1e6,
        cycles=cycles,
        figures=_figures(result, found, clock_hz),
        slow=_slow(found, clock_hz),
        vectors=_rates(network, found),
        stored=_stored(network, found),
        error=_error(network, found),
        energy=_energy(result),
        operations=_operations(network, found, result, rate),
        thresholds=_thresholds(network),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    write_atomically(path, page.encode())


def _vectors(network: Network, recordings: Sequence[np.ndarray], steps: int) -> list[np.ndarray]:
    """What the chip was given, as long as the run lasted."""
    found = []
    for x in recordings:
        vectors = x if network.host is None else network.host.enter_vectors(x)[0]
        vectors = np.asarray(vectors)[: max(steps, 0)]
        steps -= len(vectors)
        if len(vectors):
            found.append(vectors)
    return found


def _cycles(result: RunResult, found: Collected) -> dict[str, float]:
    """All cycles by cause: counted where the run was on hardware, else predicted."""
    if isinstance(result, HardwareResult) and result.cycles:
        causes = {
            "multiply": result.words,
            "wait for the cell": result.stall_cell,
            "wait for memory": result.stall_memory,
            "nothing to fetch": result.stall_events,
        }
        return {**causes, "other": max(result.cycles - sum(causes.values()), 0)}
    words = float(found.words[found.predicted].sum())
    return {"multiply": words, "all else": max(float(found.cycles.sum()) - words, 0.0)}


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _figures(result: RunResult, found: Collected, clock_hz: float) -> list[tuple[str, str, str]]:
    """What stands at the top: name, number, remark."""
    words, config = found.words, found.config
    kilobytes = words.mean() * config.word_bytes / 1000
    hardware = isinstance(result, HardwareResult) and result.cycles
    cycles = result.cycles / max(result.steps, 1) if hardware else found.cycles.mean()
    how = "counted" if hardware else "by the cost model"
    worst = found.cycles.max() if found.cycles.size else 0.0
    elements = sum(len(v) for v in found.fired.values())
    events = sum(v.mean() for v in found.events.values())
    figures = [
        ("steps", f"{found.steps:,}", _plural(len(found.starts), "recording")),
        (
            "events per step",
            shown_count(events),
            f"{events / max(elements, 1):.1%} of all elements",
        ),
        ("words per step", shown_count(words.mean()), f"{shown_count(kilobytes)} kB"),
        ("time per step", shown_time(cycles / clock_hz), f"{cycles:,.0f} cycles, {how}"),
        ("slowest step", shown_time(worst / clock_hz), "by the cost model"),
        ("saturations", f"{result.saturations:,}", "values clipped to 16 bits"),
    ]
    if config.hot_words:
        share = found.words_hot.sum() / max(words.sum(), 1)
        figures.append(("from the chip", f"{share:.0%}", "of the words, from the hot store"))
    return figures


def _slow(found: Collected, clock_hz: float) -> list[dict[str, Any]]:
    """The slowest steps, and why in words."""
    rows = []
    for s in found.slow:
        name, events, mean, words = s.shares[0] if s.shares else ("none", 0, 0.0, 0)
        why = (
            f"{events:,} events of {name}, {events / max(mean, 1e-9):.2g} times its mean, fetch "
            f"{words:,} words, {words / max(s.words, 1):.0%} of the step's"
        )
        if s.step in found.starts:
            why += "; the first step of a recording"
        rows.append(
            {
                "step": s.step,
                "time": shown_time(s.cycles / clock_hz),
                "ratio": s.cycles / max(found.cycles.mean(), 1e-9),
                "words": s.words,
                "why": why,
            }
        )
    return rows


def _rates(network: Network, found: Collected) -> list[dict[str, Any]]:
    """Each vector: rates of this run and of calibration."""
    known = (network.notes.get("calibration") or {}).get("events", {})
    return [
        {
            "name": name,
            "elements": len(found.maps[name]),
            "mean": float(counts.mean()),
            "worst": int(counts.max()),
            "known": known.get(name),
        }
        for name, counts in found.events.items()
    ]


def _stored(network: Network, found: Collected) -> list[dict[str, Any]]:
    """Each matrix: where its columns are, and what it costs."""
    store = choose_hot(network, found.config)
    rows, total = [], max(float(found.words.sum()), 1.0)
    for (i, j), layout in layouts_of(network, found.config).items():
        source = network.layers[i].matrices[j].source
        fired = found.fired.get(network.event_source(i, source))
        if fired is None:
            fired = np.zeros(len(layout.lengths), np.int64)
        hot, words = store.mask((i, j), len(layout.lengths)), layout.lengths * fired
        rows.append(
            {
                "name": f"{network.source_name(source)} to {network.layers[i].name}",
                "format": layout.kind if isinstance(layout.kind, str) else layout.kind.name.lower(),
                "bits": layout.bits,
                "columns": len(layout.lengths),
                "hot": int(hot.sum()),
                "kilobytes": layout.lengths.sum() * found.config.word_bytes / 1000,
                "share": float(words.sum()) / total,
                "from_hot": float(words[hot].sum()) / max(float(words.sum()), 1.0),
            }
        )
    return sorted(rows, key=lambda row: -row["share"])


def _error(network: Network, found: Collected) -> dict[str, Any] | None:
    """The error of this run, where the float model is known; else that of calibration."""
    if found.wanted is not None:
        error = np.abs(found.outputs - found.wanted)
        noise = np.mean((found.outputs - found.wanted) ** 2)
        signal = np.mean(np.var(found.wanted, axis=0))
        return {
            "where": "on this run",
            "mean": float(error.mean()),
            "worst": float(error.max()),
            "worst_step": int(np.argmax(error.max(axis=1))),
            "snr": 10 * np.log10(signal / noise) if noise > 0 and signal > 0 else None,
        }
    report = network.notes.get("report")
    if report is None:
        return None
    return {
        "where": "on calibration; give the float model for that of this run",
        "mean": report["output_error"],
        "worst": max(report["outputs"]["error_max"], default=0.0),
        "worst_step": None,
        "snr": None,
    }


def _energy(result: RunResult) -> dict[str, Any] | None:
    """What is known of energy: sentences, and where the SDRAM's went."""
    energy = result.energy
    if energy is None:
        return None
    total = sum(energy.sdram_parts.values())
    use = getattr(result, "sdram", None)
    return {
        "lines": energy_lines(energy, use),
        "parts": [
            (name, shown_joules(value), value / max(total, 1e-30))
            for name, value in energy.sdram_parts.items()
        ],
        "counts": {} if use is None else use.counts,
        "steps": max(result.steps, 1),
    }


def _operations(
    network: Network, found: Collected, result: RunResult, rate: float | None
) -> list[tuple[str, str, str]]:
    """Operations of a step: name, number, remark."""
    count = operations(network, found)
    rows = [
        ("Effective_MACs", f"{count.effective:,.0f}", "per step, as NeuroBench counts"),
        ("Effective_ACs", "0", "a change has a size: each operation multiplies"),
        ("Dense", f"{count.dense:,}", "per step, every weight"),
        ("activation sparsity", f"{count.activation_sparsity:.4f}", "elements that did not fire"),
        ("connection sparsity", f"{count.connection_sparsity:.4f}", "weights that are zero"),
        ("parameters", f"{count.parameters:,}", "weights and biases"),
        (
            "operations",
            f"{count.proxy:,.0f}",
            f"per step: synaptic, and {NEURON_WEIGHT} for each of {count.neurons:,} units, as "
            "N-DNS weighs them",
        ),
    ]
    if rate is not None:
        rows.append(
            ("power proxy", f"{count.proxy * rate / 1e6:,.2f} M-Ops/s", f"at {rate:g} steps/s")
        )
    energy = result.energy
    if energy is not None and energy.board is not None and count.effective:
        each = shown_joules(energy.board / count.effective)
        rows.append(("energy per Effective_MAC", each, "of the whole board, by the meter"))
    return rows


def _thresholds(network: Network) -> dict[str, str]:
    """The threshold of each vector in units of its values; a range where elements differ."""

    def shown(limit: int | np.ndarray, fraction: int) -> str:
        values = np.asarray(limit) * 2.0**-fraction
        low, high = float(values.min()), float(values.max())
        return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"

    found = {"input": shown(network.input_limit, network.input_fraction)}
    return found | {layer.name: shown(layer.limit, layer.fraction) for layer in network.layers}
