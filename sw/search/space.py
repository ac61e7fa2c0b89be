"""What a search chooses: one place for every layer and vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .options import SearchOptions

__all__ = ["Choice", "Space"]

SHARES = (-3.0, 3.0)
"""Range of a vector's share of the error, as a power of two beside what is balanced."""


@dataclass(frozen=True)
class Choice:
    """One network of the space.

    Attributes
    ----------
    bits : dict of layer to int
    kept : dict of layer to int
        Place in ``SearchOptions.kept``.
    shares : dict of source to float
        Added to the logarithm (base 2) of the vector's rate of exchange: words against error.
    error : float
        That thresholds may cost on calibration.
    engine : str
    """

    bits: dict[int, int]
    kept: dict[int, int]
    shares: dict[int, float]
    error: float
    engine: str


@dataclass(frozen=True)
class Space:
    """Names and ranges, as a study keeps them.

    Attributes
    ----------
    options : SearchOptions
    layers : dict of layer to str
        Those with weights to choose, by their names.
    vectors : dict of source to str
        Those with thresholds.
    """

    options: SearchOptions
    layers: dict[int, str]
    vectors: dict[int, str]

    def distributions(self) -> dict[str, Any]:
        """By name of a parameter."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        o = self.options
        found: dict[str, Any] = {
            "error": FloatDistribution(*o.errors, log=True),
            "engine": CategoricalDistribution(tuple(o.engines)),
        }
        for name in self.layers.values():
            found[f"bits {name}"] = CategoricalDistribution(o.bits)
            found[f"kept {name}"] = IntDistribution(0, len(o.kept) - 1)
        for name in self.vectors.values():
            found[f"share {name}"] = FloatDistribution(*SHARES)
        return found

    def ask(self, trial: Any) -> dict[str, Any]:
        """All parameters of a trial."""
        found: dict[str, Any] = {}
        for name, d in self.distributions().items():
            if hasattr(d, "choices"):
                found[name] = trial.suggest_categorical(name, d.choices)
            elif isinstance(d.low, int):
                found[name] = trial.suggest_int(name, d.low, d.high)
            else:
                found[name] = trial.suggest_float(name, d.low, d.high, log=d.log)
        return found

    def choice(self, values: dict[str, Any]) -> Choice:
        """What parameters of a trial mean."""
        return Choice(
            bits={i: int(values[f"bits {n}"]) for i, n in self.layers.items()},
            kept={i: int(values[f"kept {n}"]) for i, n in self.layers.items()},
            shares={s: float(values[f"share {n}"]) for s, n in self.vectors.items()},
            error=float(values["error"]),
            engine=str(values["engine"]),
        )

    def values(self, choice: Choice) -> dict[str, Any]:
        """The other way."""
        return {
            "error": choice.error,
            "engine": choice.engine,
            **{f"bits {n}": choice.bits[i] for i, n in self.layers.items()},
            **{f"kept {n}": choice.kept[i] for i, n in self.layers.items()},
            **{f"share {n}": choice.shares[s] for s, n in self.vectors.items()},
        }
