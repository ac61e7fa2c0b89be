"""Ways of rounding a network, compared on the part of calibration that is held out.

How far a layer should make good for the layers before it depends on the network and on how much its
recordings show. So it is tried: the integers of each way run over the recordings that were held
out while dampings were compared, and the way of least noise is kept, as a part of each output's
power so that poor outputs count most. Rounding to nearest is one of the ways.

What is told of the way that is kept is measured on a second solution of it, which has not seen
these recordings in any weight or bias. Ways are not chosen by such solutions: with a part of the
recordings less, those that learn from them would look worse than they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.util.progress import Progress

from .layerwise import LayerWork, Settings, compress_layers
from .preparation import Judged, Plan, loss

__all__ = ["DAMPINGS", "Rounded", "best_rounding"]

DAMPINGS = (0.001, 0.01, 0.1, 1.0)
"""Tried for each bundle, see ``layerwise.Settings``."""

_FOLLOWS = (0.25, 0.0)
"""Tried for the whole network, see ``layerwise.Settings``."""

_SMALL = 300_000
"""Weights of the largest network for which ways are compared. Each takes as long as the rounding
itself: seconds here, and for a network of millions of weights a minute."""


@dataclass
class Rounded:
    """A network's weights, rounded in the best way.

    Attributes
    ----------
    model : Model
        With the rounded weights and biases.
    work : LayerWork
    settings : Settings
        Of the way that was kept.
    scores : dict of str to float
        By way, the SNR in dB on what was held out, from the mean of the outputs' noise; and of the
        one that was kept, ``"unseen"``. Empty where ways were not compared.
    worst : (output, SNR in dB) or None
        Of the way that was kept, solved without what was held out and judged on it; on calibration
        where ways were not compared; None where rounding to nearest was asked for.
    """

    model: Model
    work: LayerWork
    settings: Settings
    scores: dict[str, float]
    worst: tuple[int, float] | None = None


def best_rounding(plan: Plan, settings: Settings, progress: Progress) -> Rounded:
    """The way of least error on the recordings held out. ``settings`` as they are where nothing is
    held out, for large networks, and where rounding to nearest is asked for."""
    if settings.method == "nearest":
        return Rounded(*compress_layers(plan.job, settings, progress=progress), settings, {})
    size = sum(m.weight.size for layer in plan.base.model.layers for m in layer.matrices)
    proof = plan.base.proof
    if proof is None or size > _SMALL:
        model, work = compress_layers(plan.job, settings, progress=progress)
        return Rounded(model, work, settings, {}, _worst(plan, work, plan.base.judged)[1])
    ways = {f"follow {f:g}": replace(settings, follow=f) for f in _FOLLOWS}
    ways["nearest"] = replace(settings, method="nearest", passes=1)
    solved = {name: compress_layers(plan.job, w, progress=progress) for name, w in ways.items()}
    scores = {name: _worst(plan, work, proof)[0] for name, (_, work) in solved.items()}
    best = max(scores, key=lambda name: scores[name])
    _, work = compress_layers(replace(plan.job, blind=True), ways[best], progress=progress)
    scores["unseen"], worst = _worst(plan, work, proof)
    return Rounded(*solved[best], ways[best], scores, worst)


def _worst(plan: Plan, work: LayerWork, judged: Judged) -> tuple[float, tuple[int, float]]:
    """(SNR in dB from the mean of the outputs' noise, (worst output, its SNR))."""
    noise = loss(plan.network(work), judged)
    worst = int(np.argmax(noise))
    return _db(float(noise.mean())), (worst, _db(float(noise[worst])))


def _db(noise: float) -> float:
    """SNR of noise that is a part of the power."""
    return float(-10 * np.log10(max(noise, 1e-12)))
