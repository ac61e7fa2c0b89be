"""Losses for ``stillnet train --loss``."""

from __future__ import annotations

from typing import Any

__all__ = ["squared"]


def squared(outputs: Any, stretch: Any) -> Any:
    """Squared distance to the labels, summed over the outputs; shape (steps, batch)."""
    import torch

    d = outputs - torch.as_tensor(stretch.labels).to(outputs.dtype)
    return (d * d).sum(-1)
