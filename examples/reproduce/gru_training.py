"""A GRU with a linear layer that filters a signal, trained in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

__all__ = ["Filter", "train"]


class Filter(nn.Module):
    """A GRU and a linear layer.

    Parameters
    ----------
    sites, units : int
        Inputs, which are as many as outputs, and units of the GRU.
    """

    def __init__(self, sites: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(sites, units)
        self.out = nn.Linear(units, sites)

    def weights(self) -> list[torch.Tensor]:
        """The two matrices of the GRU, by inputs and by states: (3 units, columns)."""
        return [self.gru.weight_ih_l0, self.gru.weight_hh_l0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(steps, batch, sites), for x of the same shape."""
        return self.out(self.gru(x)[0])


def train(
    net: Filter,
    seen: torch.Tensor,
    true: torch.Tensor,
    updates: int,
    *,
    batch: int = 32,
    steps: int = 64,
    skipped: int = 16,
    top: float = 4e-3,
    seed: int = 0,
    masks: Sequence[torch.Tensor] | None = None,
    said: Callable[[int, float], None] | None = None,
) -> Filter:
    """Adam on random stretches, with a rate that rises for 50 updates and falls along a cosine.

    Parameters
    ----------
    seen, true : tensors, shape (steps, streams, sites)
    skipped : int
        First steps of a stretch, which only fill the state.
    masks : list of tensors, optional
        Of the GRU's matrices: 0 where a weight is gone, else 1.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=top)
    rng = torch.Generator().manual_seed(seed)
    for k in range(updates):
        begin = torch.randint(0, len(seen) - steps, (batch,), generator=rng)
        who = torch.randint(0, seen.shape[1], (batch,), generator=rng)
        at = begin[None] + torch.arange(steps)[:, None]
        loss = ((net(seen[at, who]) - true[at, who])[skipped:] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * k / updates))
        optimizer.param_groups[0]["lr"] = top * min(1.0, (k + 1) / 50) * fall
        optimizer.step()
        if masks is not None:
            with torch.no_grad():
                for weight, mask in zip(net.weights(), masks):
                    weight *= mask
        if said is not None:
            said(k, float(loss.detach()))
    return net
