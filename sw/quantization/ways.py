"""Ways of rounding a network, compared on the part of calibration that is held out.

How far a layer should make good for the layers before it depends on the network and on how much its
recordings show. So it is tried: each way rounds the weights without the recordings that are held
out, and its integers run over these. The way of least noise, as a part of each output's power so
that poor outputs count most, then rounds the weights once more, on all recordings. Rounding to
nearest is one of the ways.
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
        By way, the SNR in dB on what was held out, from the mean of the outputs' noise; empty where
        ways were not compared.
    worst : (output, SNR in dB) or None
        Of the way that was kept, on what it had not seen while ways were compared; on calibration
        where they were not; None for rounding to nearest.
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
    blind = replace(plan.job, blind=True)
    found = {}
    for name, way in ways.items():
        _, work = compress_layers(blind, way, progress=progress)
        found[name] = _worst(plan, work, proof)
    scores = {name: mean for name, (mean, _) in found.items()}
    best = max(scores, key=lambda name: scores[name])
    model, work = compress_layers(plan.job, ways[best], progress=progress)
    return Rounded(model, work, ways[best], scores, found[best][1])


def _worst(plan: Plan, work: LayerWork, judged: Judged) -> tuple[float, tuple[int, float]]:
    """(SNR in dB from the mean of the outputs' noise, (worst output, its SNR))."""
    noise = loss(plan.network(work), judged)
    worst = int(np.argmax(noise))
    return _db(float(noise.mean())), (worst, _db(float(noise[worst])))


def _db(noise: float) -> float:
    """SNR of noise that is a part of the power."""
    return float(-10 * np.log10(max(noise, 1e-12)))
