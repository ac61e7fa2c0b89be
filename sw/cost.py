"""What a network costs an engine: words, bytes, cycles and time a step, without simulating it."""

from __future__ import annotations

import numpy as np

from .contract.cells import CELLS
from .contract.columns import bias_words
from .contract.config import EngineConfig
from .model import INPUT
from .network import Network
from .sequence import Trace

__all__ = ["column_words", "step_words", "words_within"]


def column_words(network: Network, config: EngineConfig) -> dict[int, np.ndarray]:
    """Words that one event of each element fetches, by source: int64, shape (size,)."""
    words = {
        s: np.zeros(network.source_size(s), np.int64) for s in range(INPUT, len(network.layers))
    }
    for layer in network.layers:
        for m in layer.matrices:
            words[m.source] += m.layout(layer.cell, config).lengths
    return words


def step_words(network: Network, config: EngineConfig, trace: Trace) -> float:
    """Mean words a step of a run over recordings, bias runs of reloaded layers included."""
    words = column_words(network, config)
    total = sum(float(words[s] @ fired) for s, fired in trace.fired.items() if s in words)
    rows = trace.layout.rows
    for i, layer in enumerate(network.layers):
        if network.reload(i):
            count = len(CELLS[layer.cell].accumulators)
            total += rows * bias_words(layer.units, count, config)
    return total / rows


SDRAM_EFFICIENCY = 0.985


def words_within(
    network: Network, config: EngineConfig, milliseconds: float, clock_mhz: float
) -> float:
    """Words that fit a time a step."""
    return milliseconds * 1e3 * clock_mhz * SDRAM_EFFICIENCY
