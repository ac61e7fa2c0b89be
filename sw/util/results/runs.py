"""What a run gives: outputs, cycles, words, energy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .result import Result

if TYPE_CHECKING:
    import numpy as np

    from stillnet.sw.contract.config import EngineConfig

__all__ = ["BoardResult", "Energy", "HardwareResult", "RtlResult", "RunResult", "SdramUse"]


@dataclass(frozen=True, kw_only=True)
class RunResult(Result):
    """A network on an engine, over a recording.

    Attributes
    ----------
    engine : str
        As it was asked for, for example ``"rtl"`` or ``"sim:ulx3s-85f"``.
    preset : str
        Name of the engine configuration that was used.
    steps : int
        Steps that ran.
    mismatches : int
        0, or 1: the first difference from the reference ends a run.
    difference : str or None
        That difference in a sentence.
    first_difference : dict or None
        The same in parts: what, layer, unit, step, engine, reference.
    events : dict of str to int
        Events by source.
    words : int
        Memory words that were fetched.
    cycles : int
        Clock cycles. The reference gives the lower bound, one word per cycle.
    utilisation : float or None
        Words per cycle; the reference has none.
    saturations : int
        Values that were clipped, those of the input included.
    added : list of str
        Fields of the configuration that were changed to make the network fit.
    lacking : list of str
        Fields that the network asks for and the configuration does not have. Only the reference
        runs all the same.
    doubts : list of str
        What one should know before the outputs are trusted.
    output : str or None
        The file, or the folder, that the command wrote.
    report : str or None
        The page about the run that it wrote.
    recordings : int
        Over which the counts are.
    outputs : array of float, shape (steps, outputs)
        Not printed.
    config : EngineConfig or None
        The engine, complete. Not printed.
    energy : Energy or None
        Of a step, where something is known of it.
    """

    engine: str = ""
    preset: str = ""
    steps: int
    mismatches: int = 0
    difference: str | None = None
    first_difference: dict[str, Any] | None = None
    events: dict[str, int]
    words: int
    cycles: int
    utilisation: float | None = None
    saturations: int = 0
    added: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    output: str | None = None
    report: str | None = None
    recordings: int = 1
    energy: Energy | None = None
    outputs: np.ndarray = field(repr=False, compare=False, metadata={"json": False})
    config: EngineConfig | None = field(
        default=None, repr=False, compare=False, metadata={"json": False}
    )


@dataclass(frozen=True, kw_only=True)
class HardwareResult(RunResult):
    """A run on hardware, with its counters.

    Attributes
    ----------
    latency : float or None
        Cycles from the first input word to the last output word, or None where steps overlap. A
        simulation gives the mean; a board gives the last step.
    stall_cell, stall_memory, stall_events : int
        Cycles without a multiplication, by cause.
    words_hot : int
        Words that came from the engine's hot store.
    """

    latency: float | None
    stall_cell: int
    stall_memory: int
    stall_events: int
    words_hot: int = 0


@dataclass(frozen=True, kw_only=True)
class RtlResult(HardwareResult):
    """A run of the generated hardware in a simulator.

    Attributes
    ----------
    rtl_cycles_per_second : int
        Speed of the simulation.
    history : int
        Steps that the reference took before.
    trace : str or None
        The waveforms.
    """

    rtl_cycles_per_second: int
    history: int = 0
    trace: str | None = None


@dataclass(frozen=True, kw_only=True)
class SdramUse(Result):
    """What a board's SDRAM did, from the clearing of the counters on.

    Attributes
    ----------
    part : str
    clock_hz : int
        Of the SDRAM.
    counts : dict of str to int
        By the names of :class:`~stillnet.sw.contract.registers.SdramCounter`, in lower case.
    """

    part: str
    clock_hz: int
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Energy(Result):
    """Energy of a step, in joules.

    Attributes
    ----------
    sdram : float or None
        Of the SDRAM's core, where the board counts and the part's currents are known.
    sdram_parts : dict of str to float
        What that went into, in this run.
    sdram_idle_watts : float or None
        Of the core while nothing is asked of it.
    sdram_source, sdram_stand_in : str
        Where the currents are from; whose they are, where not the part's own.
    slower : float or None
        Seconds of a step in this run, where that is longer than ``rate`` allows: then ``sdram`` is
        that of the run.
    rate : float or None
        Steps per second in use.
    watts : float or None
        What the meter read, of the whole board.
    board : float or None
        Of the whole board, by the meter.
    """

    sdram: float | None = None
    sdram_parts: dict[str, float] = field(default_factory=dict)
    sdram_idle_watts: float | None = None
    sdram_source: str = ""
    sdram_stand_in: str = ""
    slower: float | None = None
    rate: float | None = None
    watts: float | None = None
    board: float | None = None


@dataclass(frozen=True, kw_only=True)
class BoardResult(HardwareResult):
    """A run on a board, real or virtual.

    Attributes
    ----------
    board : str
        Its name, as it gives it.
    steps_per_second : float or None
        Of this run, on the board's own clock.
    engine_steps_per_second, link_steps_per_second : float or None
        What the engine alone does by its counters, and what the serial line alone carries of steps
        that are as many bytes as these were.
    bytes_to_board, bytes_from_board : float or None
        On the line, per step, framing and escapes among them.
    limited_by : str or None
        ``"link"`` where that is slower than the engine; else what took most of the engine's cycles:
        ``"lanes"``, ``"memory"``, ``"cells"`` or ``"events"``.
    clock_hz : int or None
        Of the engine.
    sdram : SdramUse or None
        Where the board counts what its SDRAM does.
    """

    board: str
    steps_per_second: float | None
    engine_steps_per_second: float | None = None
    link_steps_per_second: float | None = None
    bytes_to_board: float | None = None
    bytes_from_board: float | None = None
    limited_by: str | None = None
    clock_hz: int | None = None
    sdram: SdramUse | None = None


# -- networks and images --------------------------------------------------------------------------
