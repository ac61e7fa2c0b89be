"""Cycles of an engine, predicted from the events of each step.

The engine is walked through in the order in which it works (``walk``), by the stages that its
blocks have (``stages``). A step of a thousand columns takes some ten milliseconds.
"""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.network.network import Network

from .memory import MemoryModel
from .table import Table
from .walk import Walk

__all__ = ["ScheduleModel"]


class ScheduleModel:
    """Predicts cycles of a network on an engine.

    Parameters
    ----------
    network : Network
    config : EngineConfig
    memory : MemoryModel, optional
    """

    def __init__(
        self, network: Network, config: EngineConfig, memory: MemoryModel | None = None
    ) -> None:
        self.network, self.config = network, config
        self.memory = memory or MemoryModel()
        self.table = Table(network, config)

    def run(self, events: list[dict[int, np.ndarray]], *, streaming: bool = True) -> np.ndarray:
        """Cycles of each step, from an engine that is idle with the steps before behind it.

        Parameters
        ----------
        events : list of dict of source to int array
            For each step the elements that fire, in order, by source (``cost.record_events``).
        streaming : bool
            Vectors wait at the input; else each is offered to an idle engine.

        Returns
        -------
        array of float, shape (steps,)
            Together the cycles in which the engine is active.
        """
        if streaming:
            return Walk(self.table, self.memory, events).cycles()
        return np.concatenate([Walk(self.table, self.memory, [e]).cycles() for e in events])
