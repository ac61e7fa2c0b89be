"""The loop of a training: updates, the budget's multiplier, masks, and all of its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network

from .masks import first_masks, kept_share, part_at, remask
from .module import Carry, NetworkModule
from .options import TrainOptions
from .streams import Streams, Stretch
from .words import lengths_of, step_words

__all__ = ["Loss", "Trainer"]

Loss = Callable[[Tensor, Stretch], Tensor]
"""Outputs, shape (steps, batch, outputs), and what belongs to them; a number, or one for each step
and sequence."""

RATES = {
    "weight": 1.0,
    "bias": 0.03,
    "scale": 0.05,
    "parameter": 0.1,
    "threshold": 0.5,
    "gain": 3.0,
}
"""Rates of learning beside that of weights. Units: a step of four bits; a pre-activation; a power
of two; the constant's own; a power of two. What the thresholds of a vector have in common moves
first: if each of them had to reach the budget by itself, the price of a word would rise until
everything else learnt to save words too, whatever it costs."""

_WARM = 10
_LAST = 0.02
"""The rate rises over so many updates, and ends at this part of itself."""

_SMOOTH = 0.9
_SLOW, _GAIN = 0.85, 4.0
"""Stretches differ in what happens in them, so the excess is smoothed first."""
_LEAST, _MOST = 1e-3, 1e3
_TINY = 1e-9
"""Least loss at the beginning of one that is not in the units of the outputs."""

_RETURN = 0.55
"""Of a step: what is rounded to a whole one."""


class Trainer:
    """A training that can be stopped after any update.

    Parameters
    ----------
    network : Network
        Where it begins.
    inputs, wanted : lists of arrays, (steps, ...)
        Integers as ``Network.quantize_input`` gives them, and outputs of the float model.
    labels : list of arrays, optional
    options : TrainOptions
    config : EngineConfig
        Whose words are counted.
    loss : callable, optional
        Instead of ``options.loss``.
    words : float, optional
        Words per step where it begins; those of the first stretch where absent.
    """

    def __init__(
        self,
        network: Network,
        inputs: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        labels: Sequence[np.ndarray] | None,
        options: TrainOptions,
        config: EngineConfig,
        loss: Loss | None = None,
        words: float | None = None,
    ) -> None:
        self.options, self.config = options, config
        self.first_words = words
        self.dtype = getattr(torch, options.dtype)
        self.module = NetworkModule(network, self.dtype, options.width, options.event_width)
        prune = options.sparsity is not None or options.regrow > 0
        self.module.masks = first_masks(network, self.dtype, prune)
        self.first_kept = kept_share(network, self.module.masks)
        self.streams = Streams(inputs, wanted, labels, options.batch, options.steps, options.seed)
        self.spread = np.maximum(np.std(np.concatenate(wanted), axis=0), 1e-9)
        self.loss = loss or self._own_loss
        self._plain = loss is None and options.loss == "mae"
        groups = [
            {"params": [value], "rate": options.rate * self._rate(name)}
            for name, value in self.module.values.items()
            if name.partition("/")[0] not in self._held
        ]
        self.optimizer = torch.optim.Adam(groups, lr=options.rate, betas=(0.9, 0.99))
        self.carry = self.module.start(options.batch)
        self.lengths = lengths_of(network, config, self.dtype)
        self.rates: dict[int, Tensor] = {}
        self.done = 0
        self.multiplier = 1.0
        self.excess = 0.0
        self.begin: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    @property
    def _held(self) -> tuple[str, ...]:
        """What of the thresholds is not learnt."""
        return {"free": (), "common": ("threshold",), "fixed": ("threshold", "gain")}[
            self.options.thresholds
        ]

    def _share_gains(self) -> None:
        """Vectors of which all have one factor: each gets the sum of the gradients, and since all
        begin at zero with the same rate, they stay equal."""
        gains = [v for name, v in self.module.values.items() if name.startswith("gain/")]
        found = [v.grad for v in gains if v.grad is not None]
        if self.options.thresholds == "common" and found:
            total = torch.stack(found).sum(0)
            for value in gains:
                value.grad = total.clone()

    def _rate(self, name: str) -> float:
        """Of learning, beside that of a weight of four bits."""
        kind, *place = name.split("/")
        if kind != "weight":
            return RATES[kind]
        i, j = map(int, place)
        return RATES[kind] * 2.0 ** (self.module.network.layers[i].matrices[j].bits - 4)

    # -- losses -----------------------------------------------------------------------------------

    def _own_loss(self, y: Tensor, stretch: Stretch) -> Tensor:
        wanted = torch.as_tensor(stretch.wanted).to(self.dtype)
        if self.options.loss == "kl":
            p = torch.log_softmax(wanted, -1)
            return (p.exp() * (p - torch.log_softmax(y, -1))).sum(-1)
        if self.options.loss == "mse":
            return (((y - wanted) / torch.as_tensor(self.spread).to(self.dtype)) ** 2).mean(-1)
        return (y - wanted).abs().mean(-1)

    def _figures(self, stretch: Stretch) -> tuple[Tensor, Tensor]:
        """Loss and words per step of a stretch, with gradients; the carry moves on."""
        module, network = self.module, self.module.network
        x = torch.as_tensor(stretch.inputs).to(self.dtype)
        x = x[..., 0] if network.input_mode.one_hot else x
        self._begin_recordings(stretch.fresh)
        before = self.carry.references[INPUT]
        run = module(x, self.carry)
        self.carry = run.carry.detached()
        alive = torch.as_tensor(stretch.alive).to(self.dtype)
        count = alive.sum()
        loss = self.loss(run.outputs, stretch)
        if not isinstance(loss, Tensor) or (loss.dim() and loss.shape != alive.shape):
            raise StillnetError(
                f"the loss gives {getattr(loss, 'shape', type(loss).__name__)}; return one number, "
                f"or one for each step and sequence, {tuple(alive.shape)}"
            )
        loss = (loss * alive).sum() / count if loss.dim() else loss
        words = step_words(network, self.config, self.lengths, run, x, before)
        for key, fired in run.fired.items():
            rate = (fired.detach() * alive[..., None]).sum((0, 1)) / count
            old = self.rates.get(key, rate)
            self.rates[key] = _SMOOTH * old + (1 - _SMOOTH) * rate
        return loss, (words * alive).sum() / count

    def _begin_recordings(self, fresh: np.ndarray) -> None:
        """Streams that begin a recording begin at the network's initial state."""
        if not fresh.any():
            return
        start = self.module.start(len(fresh))
        rows = torch.as_tensor(fresh)

        def renewed(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *[1] * (old.dim() - 1)), new, old)

        old = self.carry
        self.carry = Carry(
            {key: renewed(v, start.state[key]) for key, v in old.state.items()},
            {key: renewed(v, start.references[key]) for key, v in old.references.items()},
        )

    def _objective(self, loss: Tensor, words: Tensor) -> Tensor:
        """What an update makes smaller; the multiplier follows the limit."""
        o = self.options
        if not self.begin:
            floor = 0.03 * float(np.mean(self.spread)) if self._plain else _TINY
            first = float(words.detach()) if self.first_words is None else self.first_words
            self.begin = {"loss": max(float(loss.detach()), floor), "words": first}
        if o.words is None and o.mean_error is None:
            return loss / self.begin["loss"]
        if o.words is not None:
            done = min(1.0, self.done / max(1.0, o.ramp * o.updates))
            # Never above what is asked: a network that begins within its budget stays there.
            first = max(self.begin["words"], o.words)
            limit = first * (o.words / first) ** done
            aim, excess = loss / self.begin["loss"], words / limit - 1
        else:
            assert o.mean_error is not None
            aim, excess = words / self.begin["words"], loss / o.mean_error - 1
        # The multiplier itself follows slowly; what is exceeded now counts at once, so that the
        # two do not swing.
        held = min(max(float(excess.detach()), -0.5), 0.5)
        self.excess = _SLOW * self.excess + (1 - _SLOW) * held
        moved = self.multiplier * math.exp(o.patience * self.excess)
        self.multiplier = min(max(moved, _LEAST), _MOST)
        return aim + self.multiplier * math.exp(_GAIN * self.excess) * excess

    # -- updates ----------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """One update.

        Returns
        -------
        dict
            ``update``, ``loss``, ``words``, ``multiplier``, ``kept``.
        """
        o = self.options
        if self.done % o.remask == 0 and self.done:
            self._remask()
        loss, words = self._figures(self.streams.next())
        objective = self._objective(loss, words)
        if not math.isfinite(float(objective.detach())):
            raise StillnetError(
                f"the loss is {float(loss.detach())} at update {self.done}; lower the rate, or "
                "look at the loss function"
            )
        self.module.zero_grad()
        objective.backward()
        self._share_gains()
        part = self.done / o.updates
        shape = min(1.0, (self.done + 1) / _WARM)
        shape *= _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * part))
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * shape
        self.optimizer.step()
        self.module.clamp()
        row = {
            "update": float(self.done),
            "loss": float(loss.detach()),
            "words": float(words.detach()),
            "multiplier": self.multiplier,
            "kept": kept_share(self.module.network, self.module.masks),
        }
        self.history.append(row)
        self.done += 1
        return row

    def _remask(self) -> None:
        """Masks anew where asked, and columns' lengths as they are now."""
        o, masks = self.options, self.module.masks
        part = self.done / o.updates
        if (o.sparsity is not None or o.regrow > 0) and part <= 0.7:
            last = self.first_kept if o.sparsity is None else min(self.first_kept, 1 - o.sparsity)
            worth, pull = {}, {}
            for i, j in masks:
                value = self.module.values[f"weight/{i}/{j}"]
                state = self.optimizer.state[value]
                first, second = state["exp_avg"], state["exp_avg_sq"]
                cost = self._cost(i, j)
                worth[i, j] = value.detach() ** 2 * second / cost
                pull[i, j] = first.abs() / (second.sqrt() + 1e-20) / cost.sqrt()
            exchanged = o.regrow * (1 - part)
            total = sum(
                m.weight.size for layer in self.module.network.layers for m in layer.matrices
            )
            before = {key: mask.clone() for key, mask in masks.items()}
            remask(masks, worth, pull, part_at(part, self.first_kept, last), exchanged, total)
            self._return(before)
            self.module.clamp()
        self.lengths = lengths_of(self.module.to_network(), self.config, self.dtype)

    @torch.no_grad()
    def _return(self, before: dict[tuple[int, int], Tensor]) -> None:
        """Weights that come back begin with the smallest step in the direction that they pull."""
        for (i, j), mask in self.module.masks.items():
            value = self.module.values[f"weight/{i}/{j}"]
            pulled = -torch.sign(self.optimizer.state[value]["exp_avg"]) * _RETURN
            value.copy_(torch.where(mask > before[i, j], pulled, value))

    def _cost(self, i: int, j: int) -> Tensor:
        """Events per step of each column of a matrix; a tenth of the mean for what is not seen."""
        network = self.module.network
        m = network.layers[i].matrices[j]
        rate = self.rates.get(network.event_source(i, m.source))
        if rate is None:
            return torch.full((m.weight.shape[2],), 1.0 / m.weight.shape[2], dtype=self.dtype)
        return rate + 0.1 * rate.mean() + 1e-6

    # -- state ------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that decides what comes next: arrays, and plain values."""
        arrays: dict[str, Tensor] = {}
        for name, value in self.module.values.items():
            arrays[f"value:{name}"] = value.detach()
            for k, v in self.optimizer.state.get(value, {}).items():
                arrays[f"{k}:{name}"] = torch.as_tensor(v)
        for (i, j), mask in self.module.masks.items():
            arrays[f"mask:{i}:{j}"] = mask
        for (i, s), v in self.carry.state.items():
            arrays[f"state:{i}:{s}"] = v
        for prefix, values in (
            ("reference", self.carry.references),
            ("length", self.lengths),
            ("rate", self.rates),
        ):
            arrays |= {f"{prefix}:{key}": v for key, v in values.items()}
        facts = {
            "done": self.done,
            "multiplier": self.multiplier,
            "excess": self.excess,
            "begin": self.begin,
            "history": self.history,
            "streams": self.streams.state(),
        }
        return {k: v.numpy(force=True).copy() for k, v in arrays.items()}, facts

    def set_state(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Goes on where :meth:`state` was taken."""
        self.done, self.multiplier = facts["done"], facts["multiplier"]
        self.excess, self.begin = facts["excess"], facts["begin"]
        self.history = facts["history"]
        self.streams.set_state(facts["streams"])
        carry = Carry({}, {})
        for name, array in arrays.items():
            kind, _, rest = name.partition(":")
            tensor = torch.as_tensor(array)
            if kind == "value":
                self.module.values[rest].data.copy_(tensor)
            elif kind == "mask":
                i, j = map(int, rest.split(":"))
                self.module.masks[i, j] = tensor
            elif kind == "state":
                layer, _, s = rest.partition(":")
                carry.state[int(layer), s] = tensor
            elif kind in ("reference", "length", "rate"):
                place = {"reference": carry.references, "length": self.lengths, "rate": self.rates}
                place[kind][int(rest)] = tensor
            else:  # of the optimizer
                self.optimizer.state[self.module.values[rest]][kind] = tensor
        self.carry = carry
