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
from stillnet.sw.contract.image import bias_runs, block_rows
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
        # The runs of parameters and of biases come first; they are over after a clear.
        before = sum(len(bias_runs(CELLS[q.cell], config.row_scale)) for q in network.layers)
        order = network.matrix_order()
        self.entries = before + len(order)
        self.matrices = []
        for k, (i, j) in enumerate(order):
            layer = network.layers[i]
            m = layer.matrices[j]
            found = m.layout(layer.cell, config)
            fed = CELLS[layer.cell].accumulators
            gates = tuple(g for g, name in enumerate(fed) if name in m.gates)
            lengths = found.lengths.tolist()
            self.matrices.append((before + k, m.source, i, lengths, found.kind, gates))
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
