"""Which weights a training keeps: as given, fewer step by step, or exchanged for better ones.

A weight's worth is what the loss would lose with it, w**2 times the mean square of its gradient
(a diagonal Fisher matrix, which the optimizer has anyway), for each event that has to fetch it. A
weight that is gone still has a gradient; those that pull most steadily come back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stillnet.sw.network.network import Network

__all__ = ["MANY", "first_masks", "kept_share", "part_at", "remask"]

Key = tuple[int, int]

MANY = 0.35
"""Part of zeros from which a matrix counts as pruned. int4 rounds up to a quarter to zero."""

_BEGIN, _END = 0.05, 0.6
"""Parts of the updates between which masks become sparser; afterwards the rest settles."""


def first_masks(network: Network, dtype: torch.dtype, prune: bool) -> dict[Key, Tensor]:
    """Masks of the pruned matrices; of all of them where they are to become sparser.

    Matrices of at most one weight a row (copies, picks) are always kept as they are.
    """
    found = {}
    for i, layer in enumerate(network.layers):
        for j, m in enumerate(layer.matrices):
            kept = m.weight != 0
            if kept.mean() < 1 - MANY:
                found[i, j] = torch.as_tensor(kept).to(dtype)
            elif prune:
                found[i, j] = torch.ones(kept.shape, dtype=dtype)
    return found


def moves(mask: Tensor) -> bool:
    """Whether a matrix only puts elements in other places: it is no matter of training masks."""
    return bool((mask.sum(-1) <= 1).all())


def kept_share(network: Network, masks: dict[Key, Tensor]) -> float:
    """Part of all weights that may be other than zero."""
    kept = total = 0.0
    for i, layer in enumerate(network.layers):
        for j, m in enumerate(layer.matrices):
            kept += float(masks[i, j].sum()) if (i, j) in masks else m.weight.size
            total += m.weight.size
    return kept / max(total, 1.0)


def part_at(done: float, first: float, last: float) -> float:
    """Part of the weights kept after a part of the updates: fast at first, then slower."""
    x = float(np.clip((done - _BEGIN) / (_END - _BEGIN), 0.0, 1.0))
    return last + (first - last) * (1 - x) ** 3


def remask(
    masks: dict[Key, Tensor],
    worth: dict[Key, Tensor],
    pull: dict[Key, Tensor],
    kept: float,
    exchanged: float,
    total: int,
) -> None:
    """Makes masks anew, in place.

    Parameters
    ----------
    masks : dict of (layer, matrix) to Tensor, shape (gates, units, columns)
    worth : dict of the same
        What a weight that is kept is worth.
    pull : dict of the same
        How steadily a weight that is gone would grow.
    kept : float
        Part of ``total`` weights that stay. Masks outside of this dictionary count as kept.
    exchanged : float
        Part of the kept weights that make room for others.
    total : int
        Weights of the network.
    """
    keys = [k for k in sorted(masks) if not moves(masks[k])]
    if not keys:
        return
    flat = torch.cat([masks[k].flatten() for k in keys])
    others = total - flat.numel()  # weights that have no mask stay
    wanted = min(int(flat.sum()), max(len(keys), round(kept * total) - others))
    grown = int(exchanged * wanted)
    scores = torch.cat([worth[k].flatten() for k in keys])
    scores = torch.where(flat > 0, scores, torch.full_like(scores, -1.0))
    new = torch.zeros_like(flat)
    new[_largest(scores, wanted - grown)] = 1.0
    if grown:
        pulls = torch.cat([pull[k].flatten() for k in keys])
        # What goes now does not come back at once; what it is worth is known.
        pulls = torch.where(flat > 0, torch.full_like(pulls, -1.0), pulls)
        new[_largest(pulls, grown)] = 1.0
    at = 0
    for k in keys:
        size = masks[k].numel()
        masks[k].copy_(new[at : at + size].view_as(masks[k]))
        at += size


def _largest(scores: Tensor, count: int) -> Tensor:
    """Places of the largest scores; of equal ones the first."""
    order = np.argsort(-scores.numpy(), kind="stable")
    return torch.as_tensor(order[:count].copy())
