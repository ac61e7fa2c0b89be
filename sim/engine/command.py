"""What ``stillnet.sim`` adds to the command line: the engine ``rtl`` of ``stillnet run``."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.util.results.runs import RtlResult

from .run import run_rtl

__all__ = ["rtl_engine"]

_OPTIONS = tuple(
    name
    for name in inspect.signature(run_rtl).parameters
    if name not in ("network", "x", "preset", "steps", "progress")
)


def rtl_engine(network: Network, x: np.ndarray, **options: Any) -> RtlResult:
    """:func:`~stillnet.sim.engine.run.run_rtl` as an engine of ``stillnet run``.

    Raises
    ------
    StillnetError
        For an option that the engine does not have.
    """
    for name in options:
        if name not in (*_OPTIONS, "preset", "steps", "progress"):
            raise StillnetError(
                f"engine 'rtl' has no option '{name}'; options are {', '.join(_OPTIONS)}"
            )
    return run_rtl(network, x, **options)
