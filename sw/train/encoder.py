"""Encoders of events in PyTorch: exact forwards, with gradients for thresholds and for words.

``contract.events`` has the rule. What is fed on is the reference after each step, by the invariant
M = bias + W . ref, so that an event needs no product of its own. Gradients of the output go where
the value came from: to the vector of the step in which the element was last sent. The condition
itself has the gradient of a triangle over \\|d\\| / threshold around 1, for the threshold, and for
the vector only where it is asked what an event costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillnet.sw.contract.events import Mode

__all__ = ["WIDTH", "encode_vectors"]


WIDTH = 0.75
"""Half the base of the triangle, in thresholds."""


class _Delta(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, start: Tensor, threshold: Tensor, width: float
    ) -> tuple[Tensor, Tensor]:
        refs, fired, deltas = torch.empty_like(v), torch.empty_like(v), torch.empty_like(v)
        ref = start
        for t in range(len(v)):
            d = v[t] - ref
            size = d.abs()
            fires = (size >= threshold) & (size > 0)
            ref = torch.where(fires, v[t], ref)
            refs[t], fired[t], deltas[t] = ref, fires, d
        ctx.save_for_backward(fired, deltas, threshold)
        ctx.width = width
        return refs, fired

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        of_refs, of_fired = grads
        fired, d, threshold = ctx.saved_tensors
        limit = torch.clamp(threshold, min=1.0)
        size = d.abs()
        slope = torch.clamp(1 - (size / limit - 1).abs() / ctx.width, min=0) / ctx.width
        of_v = torch.empty_like(d)
        later = torch.zeros_like(d[0])
        of_condition = torch.empty_like(d)
        toward = of_fired * slope / limit * torch.sign(d)  # what events cost, to the vector
        for t in range(len(d) - 1, -1, -1):
            g = of_refs[t] + later
            of_condition[t] = g * d[t]
            of_v[t] = g * fired[t] + toward[t]
            later = g * (1 - fired[t]) - toward[t]
        of_limit = -((of_fired + of_condition) * slope * size).sum((0, 1)) / limit**2
        return of_v, later, of_limit.sum_to_size(threshold.shape), None


class _Plain(torch.autograd.Function):
    """Plain events. Without a threshold, an event costs the less the smaller its value is."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        size = v.abs()
        fired = ((size >= threshold) & (size > 0)).to(v.dtype)
        ctx.save_for_backward(v, fired)
        return v * fired, fired

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        v, fired = ctx.saved_tensors
        usual = v.abs().mean((0, 1)) + 1.0
        slope = torch.sign(v) * usual / (v.abs() + usual) ** 2
        return grads[0] * fired + grads[1] * slope, None


def encode_vectors(
    mode: Mode, v: Tensor, start: Tensor, threshold: Tensor, width: float = WIDTH
) -> tuple[Tensor, Tensor]:
    """References after each step, and which elements fired.

    Parameters
    ----------
    mode : Mode
        ``DELTA`` or ``NONZERO``.
    v : Tensor, shape (steps, batch, size)
        Integers.
    start : Tensor, shape (batch, size)
        References before the first step.
    threshold : Tensor, shape (size,) or ()
        Integers. Of plain events it is not trained.
    width : float
        Half the base of the triangle of the condition, in thresholds.

    Returns
    -------
    refs, fired : Tensors, shape (steps, batch, size)
        ``fired`` is 0 or 1.
    """
    if mode is Mode.DELTA:
        return _Delta.apply(v, start, threshold, width)
    return _Plain.apply(v, threshold)
