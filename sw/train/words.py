"""Memory words per step, in PyTorch: columns' real lengths times the events that fetch them."""

from __future__ import annotations

import torch
from torch import Tensor

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import column_words
from stillnet.sw.network.network import Network

from .module import Run

__all__ = ["Lengths", "lengths_of", "step_words"]

Lengths = dict[int, Tensor]
"""Words that an event of each element fetches, by encoder, shape (size,)."""


def lengths_of(network: Network, config: EngineConfig, dtype: torch.dtype) -> Lengths:
    """Lengths of the columns as they are packed now."""
    return {s: torch.as_tensor(n).to(dtype) for s, n in column_words(network, config).items()}


def step_words(
    network: Network, config: EngineConfig, lengths: Lengths, run: Run, x: Tensor, before: Tensor
) -> Tensor:
    """Words of every step.

    Parameters
    ----------
    lengths : Lengths
    run : Run
    x : Tensor, shape (steps, batch, inputs), or (steps, batch) of tokens
    before : Tensor
        Reference of the input before the first step: of tokens, the last one.

    Returns
    -------
    Tensor, shape (steps, batch)
        With gradients for thresholds and vectors.
    """
    total = x.new_zeros(x.shape[:2])
    for key, fired in run.fired.items():
        if key in lengths:  # else nothing reads these events
            total = total + fired @ lengths[key]
    if network.input_mode.one_hot:
        total = total + _token_words(network.input_mode, lengths[INPUT], x, before)
    for i, layer in enumerate(network.layers):
        if network.reload(i):
            total = total + bias_words(layer.units, len(CELLS[layer.cell].accumulators), config)
    return total


def _token_words(mode: Mode, lengths: Tensor, x: Tensor, before: Tensor) -> Tensor:
    def words(tokens: Tensor) -> Tensor:
        return lengths[tokens.long().clamp(min=0)] * (tokens >= 0)

    if mode is Mode.ONE_HOT_PLAIN:
        return words(x)
    old = torch.cat([before[None], x[:-1]])
    return (words(old) + words(x)) * (old != x)
