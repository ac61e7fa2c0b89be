"""The ``rtl`` engine of ``stillnet run``: real vectors through the generated hardware."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.packing.packer import pack
from stillnet.sw.util.progress import Progress, silent
from stillnet.sw.util.results.runs import RtlResult

from .equivalence import run_engine
from .model import Behaviour, build_model

__all__ = ["run_rtl"]

_LATENCY = 8


def run_rtl(
    network: Network,
    x: np.ndarray,
    *,
    preset: str | Path | EngineConfig = "axi64",
    steps: int | None = None,
    progress: Progress | None = None,
    history: int = 0,
    trace: str | Path | None = None,
    check_state: bool = True,
    latency: int = _LATENCY,
) -> RtlResult:
    """Runs a recording through the engine's RTL and holds every integer against the reference.

    Parameters
    ----------
    network : Network
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,)
    preset : str, Path or EngineConfig
        The engine to generate. Its memory adapter does not matter: the model has the bare port.
    steps : int, optional
        Compare only the first N steps after the history.
    progress : Progress, optional
    history : int
        The reference alone takes the first N steps. Its state is then restored into the engine, and
        the comparison begins.
    trace : str or Path, optional
        Waveforms (VCD).
    check_state : bool
        Compare all state after each step, with the engine idle in between. Without it vectors
        stream back to back; outputs and the state at the end are compared.
    latency : int
        Cycles from a read request to the memory's first word.

    Returns
    -------
    RtlResult
        The first difference ends the run. ``steps`` and the counters are of the steps that were
        compared.

    Raises
    ------
    StillnetError
        For a network that the engine has no room for, an input of the wrong shape, or an option
        that cannot be. A mismatch is no error: it is the result.
    """
    progress = progress or silent
    config = EngineConfig.load(preset)
    _check_whole("history", history, 0)
    _check_whole("latency", latency, 1)
    if not isinstance(check_state, bool):
        raise StillnetError(f"option 'check_state' must be true or false, not {check_state!r}")
    rows = network.quantize_input(x)
    if len(rows) <= history:
        raise StillnetError(
            f"the input has {len(rows)} steps and the history takes {history}; at least one more "
            "is needed"
        )
    before = rows[:history]
    rows = rows[history:][:steps]
    pack(network, config)  # a network that does not fit is refused before the long build
    if trace is not None:
        _check_trace(Path(trace))

    what = "building the model (once for each engine)"
    progress(what, 0, 1)
    build_model(config, trace=trace is not None)
    progress(what, 1, 1)
    progress("RTL", 0, len(rows))
    run = run_engine(
        network,
        rows,
        config,
        history=before,
        check_state=check_state,
        behaviour=Behaviour(latency=latency),
        trace=trace,
        progress=lambda done: progress("RTL", done, len(rows)),
    )
    counters = run.counters
    latencies = [step["latency"] for step in run.per_step]
    difference = run.difference
    return RtlResult(
        preset=config.name,
        steps=run.steps,
        mismatches=int(difference is not None),
        difference=None if difference is None else str(difference),
        first_difference=None if difference is None else asdict(difference),
        events=run.events,
        words=counters["words"],
        cycles=counters["cycles"],
        utilisation=counters["words"] / counters["cycles"] if counters["cycles"] else None,
        saturations=counters["saturations"],
        latency=sum(latencies) / len(latencies) if latencies else None,
        stall_cell=counters["stall_cell"],
        stall_memory=counters["stall_memory"],
        stall_events=counters["stall_events"],
        words_hot=counters["words_hot"],
        rtl_cycles_per_second=round(run.cycles_simulated / max(run.seconds, 1e-9)),
        history=history,
        trace=None if trace is None else str(trace),
        outputs=network.dequantize_output(run.outputs),
    )


def _check_whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise StillnetError(f"option '{name}' must be a whole number from {low}, not {value!r}")


def _check_trace(path: Path) -> None:
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise StillnetError(
            f"cannot write waveforms '{path}': {error.strerror}; choose another place"
        ) from error
