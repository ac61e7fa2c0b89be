"""Budgets that keep a deadline for any input, chosen for the least that is late in calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from stillnet.sw.contract.budgets import longest_wait
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.progress import Progress, silent

from .guarantee import GuaranteeModel
from .memory import WorstMemory

__all__ = ["CLOCK_MHZ", "Place", "budgets_within", "keep_deadline", "place_of"]

CLOCK_MHZ = 100.0
"""Of an engine that is on no board."""

STEPS = 1000
"""Steps of calibration that are looked at, spread over all recordings."""

LEAST = 4
"""Events of the smallest budget, for each element of a group: a window holds whole groups."""

HALVINGS = 30
"""Of the interval in which budgets are sought."""


@dataclass(frozen=True)
class _Run:
    """Steps of calibration: outputs, events and late events of each, by source."""

    outputs: np.ndarray
    events: dict[int, np.ndarray]
    late: int


class _Board(Protocol):
    """What is asked of ``boards.board.Board``."""

    name: str

    @property
    def clock_hz(self) -> int: ...

    def clocked(self, mhz: float) -> _Board: ...

    def with_sdram(self, name: str) -> _Board: ...

    def worst_memory(self, config: EngineConfig | None = None) -> WorstMemory: ...


@dataclass(frozen=True)
class Place:
    """Where an engine is: its clock, and the board, if it is on one.

    Attributes
    ----------
    clock_mhz : float
    board : Board or None
    """

    clock_mhz: float
    board: _Board | None = None

    def memory(self, config: EngineConfig) -> WorstMemory:
        """The memory of an engine there, at its slowest."""
        return WorstMemory.of(config) if self.board is None else self.board.worst_memory(config)


def place_of(preset: str, clock_mhz: float | None = None, sdram: str | None = None) -> Place:
    """Where the engine of a preset is.

    Parameters
    ----------
    preset : str
        Of a board, or any other.
    clock_mhz : float, optional
        Of the engine; the board's own where absent, or ``CLOCK_MHZ``.
    sdram : str, optional
        Part that the board carries, where it is not the usual one.

    Raises
    ------
    StillnetError
        If the board has no such clock or part, or a part is given without a board.
    """
    boards = metadata.entry_points(group="stillnet.boards")
    board: _Board | None = next((b for entry in boards if (b := entry.load()(preset))), None)
    if board is None:
        if sdram is not None:
            raise StillnetError(
                f"preset '{preset}' is no board, so nothing is known of an SDRAM on it; give the "
                "board as preset, or leave --sdram out"
            )
        return Place(CLOCK_MHZ if clock_mhz is None else clock_mhz)
    if clock_mhz is not None and round(clock_mhz * 1e6) != board.clock_hz:
        board = board.clocked(clock_mhz)
    if sdram is not None:
        board = board.with_sdram(sdram)
    return Place(board.clock_hz / 1e6, board)


def keep_deadline(
    network: Network,
    config: EngineConfig,
    recordings: Sequence[np.ndarray],
    milliseconds: float,
    *,
    clock_mhz: float = 100.0,
    memory: WorstMemory | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Gives a network the budgets with which no step takes longer than a deadline.

    ``Network.budgets`` is set; where the deadline is kept for any input as it is, none is needed.

    Parameters
    ----------
    network : Network
    config : EngineConfig
        The engine that it runs on, with ``budgets``.
    recordings : sequence of arrays of float, shape (steps, inputs), or (steps,) of tokens
        Of these the budgets are to refuse as little as possible.
    milliseconds, clock_mhz : float
        The deadline, and the clock of the engine.
    memory : WorstMemory, optional
        That of a board is ``Place.memory``; the one that the configuration describes, where absent.
    progress : Progress, optional

    Returns
    -------
    dict
        Fields of ``results.DeadlineReport``, also in ``notes["deadline"]``.

    Raises
    ------
    StillnetError
        Where no budgets keep the deadline.
    """
    if network.second_threshold:
        raise StillnetError(
            f"network '{network.name}' has a separate recurrent threshold; a deadline needs one "
            "encoder per vector, leave --threshold-recurrent out"
        )
    network.budgets = {}
    allowed = int(milliseconds * clock_mhz * 1e3)
    model = GuaranteeModel(network, config, memory)
    rows = _some_rows(network, recordings)
    tell = progress or silent
    free = _run(network, config, rows, tell, "events of calibration")
    events = {source: free.events[source] for source in model.sources}
    network.budgets = budgets_within(model, events, allowed, milliseconds)
    kept = (
        _run(network, config, rows, tell, "calibration with budgets") if network.budgets else free
    )
    network.validate()
    found = model.of(network.budgets)
    names = {source: network.source_name(source) for source in network.budgets}
    sent = sum(int(v.sum()) for v in kept.events.values())
    report = {
        "milliseconds": milliseconds,
        "clock_mhz": clock_mhz,
        "engine": config.name,
        "guaranteed_cycles": found.cycles,
        "guaranteed_ms": found.cycles / clock_mhz / 1e3,
        "without_cycles": model.of({}).cycles,
        "budgets": {names[s]: b for s, b in network.budgets.items()},
        "longest_wait": {
            names[s]: longest_wait(b, network.source_size(s)) for s, b in network.budgets.items()
        },
        "steps": sum(len(r) for r in rows),
        "late": kept.late / max(1, kept.late + sent),
        "deviation": float(np.mean(np.abs(kept.outputs - free.outputs))),
    }
    network.notes["deadline"] = report
    return report


def budgets_within(
    model: GuaranteeModel, events: dict[int, np.ndarray], cycles: int, milliseconds: float
) -> dict[int, int]:
    """Budgets with which no step takes more than so many cycles, by source.

    All vectors get the same multiple of the events that they have on average, for other recordings
    than those of calibration are busier in all of them.

    Parameters
    ----------
    model : GuaranteeModel
    events : dict of int to int array, shape (steps,)
        Events of each step, by source.
    cycles : int
    milliseconds : float
        The same as a time, for the message.

    Raises
    ------
    StillnetError
        Where the least budgets take longer.
    """
    network, width = model.network, model.config.cell_width
    sizes = {source: network.source_size(source) for source in events}
    means = {source: max(1.0, float(counts.mean())) for source, counts in events.items()}

    def at(factor: float) -> dict[int, int]:
        found = {s: max(LEAST * width, int(factor * mean)) for s, mean in means.items()}
        return {s: b for s, b in found.items() if b < sizes[s]}

    if model.of({}).cycles <= cycles:
        return {}
    least = model.of(at(0.0)).cycles
    if least > cycles:
        raise StillnetError(
            f"network '{network.name}' cannot keep {milliseconds:g} ms for every input on engine "
            f"'{model.config.name}': with the smallest budgets a step may take "
            f"{milliseconds * least / cycles:.3g} ms; give it more time, a faster engine or fewer "
            "weights"
        )
    low, high = 0.0, max(sizes[s] / mean for s, mean in means.items())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if model.of(at(middle)).cycles <= cycles:
            low = middle
        else:
            high = middle
    return at(low)


def _some_rows(network: Network, recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Integers of the middle of each recording, together at most ``STEPS`` steps."""
    most = max(1, STEPS // max(1, len(recordings)))
    found = []
    for x in recordings:
        vectors = x if network.host is None else network.host.enter_vectors(x)[0]
        begin = max(0, (len(vectors) - most) // 2)
        found.append(network.quantize_input(vectors[begin : begin + most]))
    return found


def _run(
    network: Network, config: EngineConfig, rows: list[np.ndarray], tell: Progress, what: str
) -> _Run:
    """Recordings through the reference."""
    reference = Reference(network, config=config)
    outputs, events, late = [], [], 0
    total = sum(len(r) for r in rows)
    for recording in rows:
        reference.reset()
        for row in recording:
            outputs.append(network.dequantize_output(reference.step_integers(row)))
            events.append(dict(reference.last.events))
            late += sum(reference.last.late.values())
            if len(outputs) % 50 == 0 or len(outputs) == total:
                tell(what, len(outputs), total)
    by_source = {s: np.array([e[s] for e in events]) for s in events[0]}
    return _Run(np.array(outputs), by_source, late)
