"""Where a search looks next: by what is known of the layers, and near the front.

Some proposals are what a sum over layers would call best: for a price of a word, each layer takes
the bits and the part of its weights with the least ``error + price * words``. Errors are those of
the layers alone, weighted by the network's sensitivity; noise on them makes the proposals differ
where the sum says little. Some change a point of the front in one place or two: a layer keeps more,
another one less; a vector takes more of the error. The others come from densities that are learnt
from all trials (optuna's tree-structured Parzen estimator).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from .front import front
from .space import SHARES, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

__all__ = ["Gains", "MovesSampler", "make_sampler"]

Gains = Callable[[], dict[int, dict[tuple[int, int], tuple[float, float]]]]
"""For each layer, by (bits, place in ``kept``): (power of the error, words a step)."""

_LEARNT = 12
"""Trials with figures from which densities can be learnt."""

_NOISE = 0.7
"""Of the logarithm of a layer's error."""


class MovesSampler(BaseSampler):
    """Proposals for one space.

    Every trial has random numbers of its own by its number, so that a search that was stopped goes
    on as if it had not been.

    Parameters
    ----------
    space : Space
    gains : Gains
    seed : int
    """

    def __init__(self, space: Space, gains: Gains, seed: int = 0) -> None:
        self._space, self._gains, self._seed = space, gains, seed
        self._spare = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space."""
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A proposal."""
        rng = np.random.default_rng([self._seed, trial.number])
        done = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
        best = [done[k] for k in front([(t.values[0], t.values[1]) for t in done])]
        if len(done) >= _LEARNT and rng.random() < 0.4:
            learner = TPESampler(
                seed=int(rng.integers(1 << 31)), multivariate=True, n_startup_trials=0
            )
            return learner.sample_relative(study, trial, search_space)
        values = self._parent(rng, best)
        if not best or rng.random() < 0.4:
            values |= self._by_sum(rng)
        else:
            self._move(rng, values)
        return values

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never needed."""
        return self._spare.sample_independent(study, trial, param_name, param_distribution)

    def _parent(self, rng: np.random.Generator, best: list[FrozenTrial]) -> dict[str, Any]:
        """Parameters of a point of the front, rather one beside a wide gap."""
        o = self._space.options
        if not best:
            low, high = np.log(o.errors)
            return {
                "error": float(np.exp(rng.uniform(low, high))),
                "engine": str(rng.choice(list(o.engines))),
                **{f"share {n}": 0.0 for n in self._space.vectors.values()},
                **{f"bits {n}": o.bits[0] for n in self._space.layers.values()},
                **{f"kept {n}": 0 for n in self._space.layers.values()},
            }
        values = np.array([t.values for t in best])
        span = np.maximum(values.max(axis=0) - values.min(axis=0), 1e-12)
        padded = np.concatenate([values[:1], values, values[-1:]]) / span
        gap = np.abs(padded[2:] - padded[:-2]).sum(axis=1) + 0.1
        return dict(best[int(rng.choice(len(best), p=gap / gap.sum()))].params)

    def _by_sum(self, rng: np.random.Generator) -> dict[str, Any]:
        gains, errors = self._gains(), np.log(self._space.options.errors)
        # From a price at which every layer stays whole to one at which none does.
        slopes = [
            (e - e0) / max(w0 - w, 1e-9)
            for layer in gains.values()
            for e0, w0 in [max(layer.values(), key=lambda v: v[1])]
            for e, w in layer.values()
            if w < w0 and e > e0
        ]
        low, high = np.quantile(slopes, [0.05, 0.95]) if slopes else (1e-9, 1.0)
        price = float(np.exp(rng.uniform(np.log(max(low, 1e-12)), np.log(max(high, 1e-11)))))
        values: dict[str, Any] = {"error": float(np.exp(rng.uniform(*errors)))}
        for i, layer in gains.items():
            factor = float(np.exp(_NOISE * rng.normal()))
            bits, place = min(layer, key=lambda k: factor * layer[k][0] + price * layer[k][1])
            name = self._space.layers[i]
            values |= {f"bits {name}": bits, f"kept {name}": place}
        return values

    def _move(self, rng: np.random.Generator, values: dict[str, Any]) -> None:
        o, space = self._space.options, self._space
        layers, vectors = list(space.layers.values()), list(space.vectors.values())
        last = len(o.kept) - 1
        kinds = ["kept"] * bool(last and layers) + ["shares"] * bool(vectors) + ["error"]
        kinds += ["bits"] * (len(o.bits) > 1) + ["engine"] * (len(o.engines) > 1)
        for kind in rng.choice(kinds, size=1 + int(rng.random() < 0.4), replace=False):
            if kind == "kept":
                name = rng.choice(layers)
                step = int(rng.choice([-2, -1, 1, 2]))
                at = f"kept {name}"
                values[at] = int(np.clip(values[at] + step, 0, last))
                if len(layers) > 1 and rng.random() < 0.5:  # another one gives what this one takes
                    at = f"kept {rng.choice([n for n in layers if n != name])}"
                    values[at] = int(np.clip(values[at] - np.sign(step), 0, last))
            elif kind == "shares":
                at = f"share {rng.choice(vectors)}"
                values[at] = float(np.clip(values[at] + rng.normal(0, 1.0), *SHARES))
            elif kind == "bits":
                values[f"bits {rng.choice(layers)}"] = int(rng.choice(o.bits))
            elif kind == "engine":
                values["engine"] = str(rng.choice(list(o.engines)))
            else:
                moved = values["error"] * float(np.exp(rng.normal(0, 0.3)))
                values["error"] = float(np.clip(moved, *o.errors))


def make_sampler(space: Space, gains: Gains) -> BaseSampler:
    """The sampler that the options name."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = space.options.seed
    match space.options.sampler:
        case "tpe":
            return TPESampler(seed=seed, multivariate=True, n_startup_trials=10)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=16)
        case "random":
            return RandomSampler(seed=seed)
        case _:
            return MovesSampler(space, gains, seed)
