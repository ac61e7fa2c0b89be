"""Training of small event-based character models in floating point, dense or pruned.

The backward pass is written out, because PyTorch's own record of so many small operations costs
more time than they do. ``tests/sw/train/test_reproduce_modules.py`` holds it against that record.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["CharacterModel", "Course", "bits_of", "train"]

SUPPORT, DAMPING = 1.0, 0.7
"""Half the base and the height of the triangle that stands for the derivative of an event."""


class _Events(torch.autograd.Function):
    """All steps of a layer: x (steps, batch, 3 H) and what is fed back; the vectors y, and h."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor, h: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept, ys = [], []
        for row in x:
            before = y
            zr, rr, gr = (before @ weight + bias).chunk(3, 1)
            zx, rx, gx = row.chunk(3, 1)
            u, r = torch.sigmoid(zx + zr), torch.sigmoid(rx + rr)
            g = torch.tanh(gx + r * gr)
            c = g + u * (h - g)
            fires = (c > theta).to(c.dtype)
            y = c * fires
            kept.append((u, r, g, gr, c, fires, h, before))
            ys.append(y)
            h = c - theta * fires
        ctx.kept, ctx.weight, ctx.theta = kept, weight, theta
        return torch.stack(ys), h

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        of_y, _ = grads
        weight, theta = ctx.weight, ctx.theta
        back = torch.zeros_like(of_y[0])
        later = torch.zeros_like(back)
        of_theta = torch.zeros_like(theta)
        to_x, to_feedback, befores = [], [], []
        for t in range(len(of_y) - 1, -1, -1):
            u, r, g, gr, c, fires, h, before = ctx.kept[t]
            d = of_y[t] + back
            slope = torch.clamp(1 - (c - theta).abs() / SUPPORT, min=0) * DAMPING
            of_event = (d * c - later * theta) * slope
            of_theta -= (later * fires + of_event).sum(0)
            dc = d * fires + later + of_event
            dg = dc * (1 - u) * (1 - g * g)
            du = dc * (h - g) * u * (1 - u)
            dr = dg * gr * r * (1 - r)
            later = dc * u
            to_x.append(torch.cat([du, dr, dg], 1))
            fed = torch.cat([du, dr, dg * r], 1)
            to_feedback.append(fed)
            befores.append(before)
            back = fed @ weight.T
        fed = torch.cat(to_feedback)
        return torch.stack(to_x[::-1]), torch.cat(befores).T @ fed, fed.sum(0), of_theta, None, None


class CharacterModel(nn.Module):
    """Tokens to logits of the next token.

    Parameters
    ----------
    tokens, units : int
    """

    def __init__(self, tokens: int, units: int) -> None:
        super().__init__()
        self.units = units
        spread = 1 / math.sqrt(units)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-spread, spread))

        self.kernel = uniform(tokens, 3 * units)
        self.recurrent = uniform(units, 3 * units)
        self.bias, self.recurrent_bias = uniform(3 * units), uniform(3 * units)
        self.theta = nn.Parameter(torch.full((units,), 0.05))
        self.decoder = nn.Linear(units, tokens)
        self.masks: dict[str, Tensor] = {}

    def weights(self) -> dict[str, nn.Parameter]:
        """The matrices, by name."""
        return {
            "kernel": self.kernel,
            "recurrent": self.recurrent,
            "decoder": self.decoder.weight,
        }

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """State before the first token."""
        return torch.zeros(batch, self.units), torch.zeros(batch, self.units)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Logits, state, and the vectors that are sent; tokens have shape (steps, batch)."""
        h, y = state
        theta = self.theta.clamp(0, 1)
        x = self.kernel[tokens] + self.bias
        ys, h = _Events.apply(x, self.recurrent, self.recurrent_bias, theta, h, y)
        return self.decoder(ys), (h.detach(), ys[-1].detach()), ys

    @torch.no_grad()
    def prune(self, kept: float) -> None:
        """Keeps this part of all weights: those that are largest beside the spread of their
        matrix."""
        sizes = {n: (w / w[w != 0].std()).abs() for n, w in self.weights().items()}
        flat = torch.cat([s.flatten() for s in sizes.values()])
        limit = torch.topk(flat, max(1, round(kept * flat.numel()))).values[-1]
        self.masks = {n: (s >= limit).to(s.dtype) for n, s in sizes.items()}
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """What is gone stays zero."""
        for name, mask in self.masks.items():
            self.weights()[name].mul_(mask)


class Course:
    """A text as streams side by side.

    Parameters
    ----------
    text : int array
    batch, steps : int
        Streams, and characters of each in an update.
    """

    def __init__(self, text: np.ndarray, batch: int, steps: int) -> None:
        size = len(text) // batch
        self.rows = torch.as_tensor(text[: batch * size].reshape(batch, size).T.astype(np.int64))
        self.steps, self.at = steps, 0

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Tokens, those that follow, and whether the streams begin anew."""
        fresh = self.at == 0
        part = self.rows[self.at : self.at + self.steps + 1]
        self.at += self.steps
        if self.at + self.steps + 1 > len(self.rows):
            self.at = 0
        return part[:-1], part[1:], fresh


def train(
    model: CharacterModel,
    course: Course,
    updates: int,
    rate: Callable[[float], float],
    kept: float = 1.0,
    said: Callable[[int, float], None] | None = None,
) -> CharacterModel:
    """A trained copy of a model.

    Parameters
    ----------
    model, course
    updates : int
    rate : function of the part that is done
    kept : float
        Part of the weights at the end; masks are made 75 times in the first half, and stay from
        then on.
    said : function of the update and its loss in nats, optional
    """
    model, course = copy.deepcopy(model), copy.deepcopy(course)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    state = model.start(course.rows.shape[1])
    for k in range(updates):
        part = k / updates
        if kept < 1 and part <= 0.5 and k % max(1, updates // 150) == 0:
            model.prune(kept + (1 - kept) * (1 - min(1.0, part / 0.45)) ** 3)
        tokens, wanted, fresh = course.next()
        state = model.start(tokens.shape[1]) if fresh else state
        logits, state, _ = model(tokens, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(part)
        optimizer.step()
        model.hold()
        if said is not None:
            said(k, float(loss.detach()))
    return model


@torch.no_grad()
def bits_of(model: CharacterModel, text: np.ndarray, batch: int = 32) -> tuple[float, float]:
    """Mean bits of a character, and the part of the units that send in a step."""
    course = Course(text, batch, 500)
    logits, _, ys = model(course.rows[:-1], model.start(batch))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), course.rows[1:].flatten())
    return float(loss) / math.log(2), float((ys != 0).float().mean())
