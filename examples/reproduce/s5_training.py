"""Training of small S5 networks in floating point, dense or pruned, with the engine's equations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Block", "S5Net", "train"]


def scan(lam: Tensor, u: Tensor) -> Tensor:
    """x_t = lam x_{t-1} + u_t by doubling; complex, shape (steps, batch, states)."""
    x, power, shift = u, lam, 1
    while shift < len(u):
        x = torch.cat([x[:shift], x[shift:] + power * x[:-shift]])
        power, shift = power * power, 2 * shift
    return x


class Block(nn.Module):
    """One S5 block; the equations are those of ``Model.s5``."""

    def __init__(self, units: int, states: int) -> None:
        super().__init__()
        spread = 1 / math.sqrt(units)
        self.decay = nn.Parameter(torch.linspace(-4.0, 0.0, states))
        self.angle = nn.Parameter(torch.rand(states) * 1.5)
        self.b = nn.Parameter(torch.randn(2, states, units) * spread)
        self.c = nn.Parameter(torch.randn(2, units, states) / math.sqrt(4 * states))
        self.d = nn.Parameter(torch.randn(units) * 0.3)
        self.glu = nn.Linear(units, units)

    def lam(self) -> Tensor:
        """Discrete eigenvalues, inside the unit circle."""
        return torch.polar(torch.exp(-torch.exp(self.decay)), self.angle)

    def factor(self) -> Tensor:
        """Row factor of b: keeps the state's variance that of b u."""
        return torch.sqrt(1 - self.lam().abs() ** 2)

    def forward(self, v: Tensor) -> Tensor:
        factor = self.factor()
        u = torch.complex(v @ self.b[0].T * factor, v @ self.b[1].T * factor)
        x = scan(self.lam(), u)
        passes = (x.real > 0).to(v.dtype)
        y = 2 * ((x.real * passes) @ self.c[0].T - (x.imag * passes) @ self.c[1].T) + self.d * v
        x1 = torch.relu(y)
        return torch.relu(x1 * torch.sigmoid(self.glu(x1)) + v)


class S5Net(nn.Module):
    """Encoder, blocks and decoder."""

    def __init__(self, inputs: int, units: int, states: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, units)
        self.blocks = nn.ModuleList(Block(units, states) for _ in range(blocks))
        self.decoder = nn.Linear(units, outputs)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, batch, inputs), from the beginning of the sequences."""
        v = self.encoder(x)
        for block in self.blocks:
            v = block(v)
        return self.decoder(v)

    def weights(self) -> list[nn.Parameter]:
        """The matrices."""
        found = [self.encoder.weight]
        for block in self.blocks:
            found += [block.b, block.c, block.glu.weight]
        return [*found, self.decoder.weight]

    @torch.no_grad()
    def prune(self, kept: float) -> None:
        """Keeps this part of all weights: those that are largest beside the spread of their
        matrix."""
        sizes = [(w / w[w != 0].std()).abs() for w in self.weights()]
        flat = torch.cat([s.flatten() for s in sizes])
        limit = torch.topk(flat, max(1, round(kept * flat.numel()))).values[-1]
        self.masks = [(s >= limit).to(s.dtype) for s in sizes]
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """What is gone stays zero."""
        for weight, mask in zip(self.weights(), self.masks):
            weight.mul_(mask)


def train(
    net: S5Net,
    seen: Tensor,
    true: Tensor,
    updates: int,
    *,
    batch: int = 32,
    steps: int = 64,
    skipped: int = 16,
    top: float = 4e-3,
    kept: float = 1.0,
    seed: int = 0,
    said: Callable[[int, float], None] | None = None,
) -> S5Net:
    """A trained copy: mean squared error behind the first ``skipped`` steps of every piece."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=top)
    rng = np.random.default_rng(seed)
    for k in range(updates):
        part = k / updates
        if kept < 1 and 0.1 < part <= 0.6 and k % max(1, updates // 75) == 0:
            net.prune(kept + (1 - kept) * (1 - min(1.0, (part - 0.1) / 0.45)) ** 3)
        at = torch.as_tensor(rng.integers(0, len(seen) - steps, batch) + np.arange(steps)[:, None])
        who = torch.as_tensor(rng.integers(0, seen.shape[1], batch))[None]
        loss = ((net(seen[at, who]) - true[at, who])[skipped:] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        shape = min(1.0, (k + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        optimizer.param_groups[0]["lr"] = top * shape
        optimizer.step()
        net.hold()
        if said is not None:
            said(k, float(loss.detach()))
    return net
