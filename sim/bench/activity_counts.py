"""What the events of each step fetch: weights, words, biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.network.network import Network

__all__ = ["Counted", "Step"]


@dataclass
class Step:
    """One step.

    Attributes
    ----------
    events, bias : int
        Events of hidden vectors, words of biases.
    weights, kept, words : int
        Weights, weights kept and words, of the columns that fired.
    """

    events: int = 0
    bias: int = 0
    weights: int = 0
    kept: int = 0
    words: int = 0


class Counted:
    """Counts what the events of each step fetch.

    Parameters
    ----------
    net : Network
    engine : EngineConfig

    Attributes
    ----------
    steps : list of Step
    fired : list of dict of source to int array
        The elements that were events, in order.
    """

    def __init__(self, net: Network, engine: EngineConfig) -> None:
        self.net = net
        self.steps: list[Step] = []
        self.fired: list[dict[int, np.ndarray]] = []
        self._kept, self._lengths, self._bias = {}, {}, 0
        for i, layer in enumerate(net.layers):
            for j, m in enumerate(layer.matrices):
                self._kept[i, j] = np.count_nonzero(m.weight, axis=(0, 1))
                self._lengths[i, j] = m.layout(layer.cell, engine).lengths
            if net.reload(i):
                self._bias += bias_words(layer.units, len(CELLS[layer.cell].accumulators), engine)

    def add(self, fired: dict[int, np.ndarray]) -> None:
        """Counts a step whose events are these elements, by source."""
        step = Step(bias=self._bias)
        for i, layer in enumerate(self.net.layers):
            step.events += len(fired[i])
            for j, m in enumerate(layer.matrices):
                index = fired[m.source]
                step.weights += len(index) * m.weight[:, :, 0].size
                step.kept += int(self._kept[i, j][index].sum())
                step.words += int(self._lengths[i, j][index].sum())
        self.steps.append(step)
        self.fired.append(fired)
