"""What comes of looking at a model, of a sweep, a search, a training, a bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .result import Result

__all__ = [
    "BenchResult",
    "CheckResult",
    "CheckedLayer",
    "CheckedNode",
    "SearchResult",
    "SweepResult",
    "TrainResult",
]


@dataclass(frozen=True, kw_only=True)
class CheckedLayer(Result):
    """A layer of the chip's part of a model."""

    name: str
    cell: str
    units: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class CheckedNode(Result):
    """A node of a whole model.

    Attributes
    ----------
    where : str
        ``"chip"``, ``"host"`` or ``"both"``.
    why : str
        Why it is not on the chip; empty where it is, and where it has no work to do.
    weights, multiplications : int
        The second of one step.
    """

    name: str
    operator: str
    where: str
    why: str
    weights: int
    multiplications: int


@dataclass(frozen=True, kw_only=True)
class CheckResult(Result):
    """Which part of a model runs on the chip.

    Attributes
    ----------
    inputs, outputs : int
        Elements of a step of the whole model.
    vector : int
        Elements of a vector that goes to the chip.
    enter : str or None
        The tensor at which the chip begins; None where all of the model runs there.
    leave : list of str
        The tensors that come from the chip.
    states : dict of str to str
        States that the host carries: inputs and outputs.
    streams : bool
        The model runs step by step, not only on whole recordings.
    every_step : bool
        The file gives what follows from the last step of a recording; here each step gives that.
    chip_weights, chip_multiplications : float
        Shares of the chip.
    """

    name: str
    inputs: int
    outputs: int
    vector: int
    enter: str | None = None
    leave: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    streams: bool = True
    every_step: bool = False
    chip_weights: float = 1.0
    chip_multiplications: float = 1.0
    layers: list[CheckedLayer]
    nodes: list[CheckedNode] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """What ``stillnet sweep`` prints: a row for each point."""

    model: str
    rows: list[dict[str, Any]]
    plot: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """What ``stillnet search`` prints.

    Attributes
    ----------
    trials, stopped : int
        All that ended, and those of them that were given up early.
    layers : list of str
        Whose ``bits`` and ``kept`` the rows have.
    rows : list of dict
        The front, the fastest first.
    networks : list of dict
        Those that were written: ``trial``, ``output``, figures of the integers.
    """

    model: str
    trials: int
    stopped: int
    layers: list[str]
    rows: list[dict[str, Any]]
    networks: list[dict[str, Any]]
    plot: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """What ``stillnet train`` prints: the network that it wrote to ``output``.

    Attributes
    ----------
    before, after : dict
        ``error``, ``words``, ``kilobytes``, ``cycles`` and ``frame_ms`` per step of the integers on
        the recordings; with ``test_`` in front on those that nothing was learnt from.
    kept : float
        Part of the weights that may be other than zero.
    history : list of dict
        The course: ``update``, ``loss``, ``words``, ``multiplier``, ``kept``.
    mismatches : int or None
        Outputs that differ on generated hardware, where that was asked.
    """

    output: str
    name: str
    updates: int
    before: dict[str, float]
    after: dict[str, float]
    kept: float
    history: list[dict[str, float]]
    mismatches: int | None = None
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BenchResult(Result):
    """A measurement: its name and its rows of plain values."""

    bench: str
    rows: list[dict[str, Any]]
