"""What is asked of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stillnet.sw.contract.errors import StillnetError

__all__ = ["LOSSES", "THRESHOLDS", "TrainOptions"]

LOSSES = ("mae", "mse", "kl")
"""``mae``: mean absolute error, what budgets are measured in. ``mse``: each output by its own
variance. ``kl``: outputs are logits, by the divergence of their distributions."""


THRESHOLDS = ("free", "common", "fixed")
"""``free``: each threshold is learnt. ``common``: one factor for all of them is. ``fixed``: none,
until the end, where a budget that does not hold scales all of them."""


@dataclass(frozen=True)
class TrainOptions:
    """What is asked of a training.

    Attributes
    ----------
    updates : int
        Steps of the optimizer.
    batch : int
        Sequences side by side.
    steps : int
        Steps of a sequence between two updates: where backpropagation through time is cut off.
    words : float or None
        Fewest error within so many memory words per step.
    mean_error : float or None
        Fewest words within this loss, which for ``mae`` is the mean absolute error.
    loss : str
        ``LOSSES``; a function that is given to ``train`` takes its place.
    rate : float
        Of learning, for weights: in steps of a weight per update. All other rates follow from it.
    ramp : float
        Part of the updates over which the budget moves from where the network begins to what is
        asked.
    patience : float
        How fast the multiplier follows: per update, times the relative excess.
    sparsity : float or None
        Part of the weights that are zero at the end; None leaves masks as they are.
    thresholds : str
        ``THRESHOLDS``.
    regrow : float
        Part of the kept weights that is exchanged whenever masks are made anew.
    remask : int
        Updates between two such times, and between two counts of the columns' words.
    width : float
        Half the base of the triangle for comparisons in cells (events of an EGRU).
    event_width : float
        The same for thresholds, in thresholds.
    dtype : str
        ``"float32"`` or ``"float64"``, which is exact.
    seed : int
    """

    updates: int = 300
    batch: int = 8
    steps: int = 64
    words: float | None = None
    mean_error: float | None = None
    loss: str = "mae"
    rate: float = 0.01
    ramp: float = 0.5
    patience: float = 0.2
    sparsity: float | None = None
    thresholds: str = "free"
    regrow: float = 0.0
    remask: int = 20
    width: float = 0.5
    event_width: float = 0.75
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "steps", "remask"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise StillnetError(f"{name} must be a whole number from 1, not {value!r}")
        for name in ("words", "mean_error", "rate", "patience", "width", "event_width"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise StillnetError(f"{name} must be a positive number, not {value!r}")
        if self.words is not None and self.mean_error is not None:
            raise StillnetError("give words or mean_error, not both: one is the aim, one the limit")
        if self.loss not in LOSSES:
            raise StillnetError(f"loss must be one of {', '.join(LOSSES)}, not '{self.loss}'")
        if self.thresholds not in THRESHOLDS:
            raise StillnetError(
                f"thresholds must be one of {', '.join(THRESHOLDS)}, not '{self.thresholds}'"
            )
        if self.dtype not in ("float32", "float64"):
            raise StillnetError(f"dtype must be float32 or float64, not '{self.dtype}'")
        for name in ("ramp", "regrow", "sparsity"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise StillnetError(f"{name} must be 0 to below 1, not {value!r}")
