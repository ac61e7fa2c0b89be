"""Cycles of an engine, predicted from the events of each step.

The engine is walked through in the order in which it works (``schedule_walk``), by the stages that
its source has (``schedule_stages``). A step of a thousand columns takes some ten milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.schedule import schedule
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import block_rows
from stillnet.sw.model.model import INPUT
from stillnet.sw.network.network import Network

from .stages import RESCALE, ROW_SCALE
from .walk import Walk

__all__ = ["MemoryModel", "ScheduleModel"]


@dataclass(frozen=True)
class MemoryModel:
    """What stands behind the port.

    Attributes
    ----------
    latency : float
        Cycles from a request to its first word.
    word_cycles : float
        Cycles a word, refresh included.
    column_cycles : float
        Cycles lost with each column: what row changes take that no other bank hides.
    outstanding : int
        Requests that are accepted before the first of them is served.
    """

    latency: float = 8.0
    word_cycles: float = 1.0
    column_cycles: float = 0.0
    outstanding: int = 16

    @classmethod
    def sdram16(cls) -> MemoryModel:
        """A 16-bit SDRAM at 100 MHz that gives a word of two lanes a cycle: as measured by
        ``stillnet bench sdram`` (IS42S16160: .9899 of the bus in sequence, .9699 in columns of 64
        transfers)."""
        return cls(24.0, 1 / 0.9899, 1.35)


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
        last = len(network.layers) - 1
        order = []
        for i, layer in enumerate(network.layers):
            for j, m in enumerate(layer.matrices):
                found = m.layout(layer.cell, config)
                if m.source >= i:
                    key = (3, 0) if i == last else (1, i)
                else:
                    key = (2, 0) if m.source == INPUT else (0, i)
                fed = CELLS[layer.cell].accumulators
                gates = tuple(g for g, name in enumerate(fed) if name in m.gates)
                order.append((key, i, j, m.source, found.lengths.tolist(), found.kind, gates))
        order.sort(key=lambda entry: entry[:3])
        # In front of them, the runs of parameters and of biases, which are over after a clear.
        rows = [CELLS[layer.cell] for layer in network.layers]
        before = sum(
            1 + int(block_rows(c, config.row_scale) > len(c.accumulators) > 0) for c in rows
        )
        self.entries = before + len(order)
        self.matrices = [
            (before + k, source, i, lengths, kind, gates)
            for k, (_, i, _, source, lengths, kind, gates) in enumerate(order)
        ]
        self.depth = [
            RESCALE
            + (ROW_SCALE if config.row_scale else 0)
            + schedule(CELLS[layer.cell], config.cell_sharing).latency
            for layer in network.layers
        ]
        self.stride = [block_rows(CELLS[q.cell], config.row_scale) for q in network.layers]

    def run(self, events: list[dict[int, np.ndarray]], *, streaming: bool = True) -> np.ndarray:
        """Cycles of each step.

        Parameters
        ----------
        events : list of dict of source to int array
            For each step the elements that fire, in order, by source.
        streaming : bool
            Vectors wait at the input; else each is offered to an idle engine.

        Returns
        -------
        array of float, shape (steps,)
            Together the cycles in which the engine is active.
        """
        if streaming:
            return Walk(self, events).cycles()
        return np.concatenate([Walk(self, [e]).cycles() for e in events])
