"""Ways of rounding a network, compared on the part of calibration that is held out.

How far a layer should make good for the layers before it depends on the network and on how much its
recordings show. So it is tried: the integers of each way run over the recordings that were held
out, and the way whose outputs are nearest to the float model is kept: the one of least noise, as a
part of each output's power, so that poor outputs count most. Rounding to nearest is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.util.progress import Progress

from .layerwise import LayerWork, Settings, compress_layers
from .preparation import Plan, loss

__all__ = ["DAMPINGS", "Rounded", "best_rounding"]

DAMPINGS = (0.001, 0.01, 0.1, 1.0)
"""Tried for each bundle, see ``layerwise.Settings``."""

_FOLLOWS = (0.25, 0.0)
"""Tried for the whole network, see ``layerwise.Settings``."""

_SMALL = 300_000
"""Weights up to which all of them are: each takes as long as the rounding itself."""


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
        calibration is too short to hold out any.
    worst : (output, SNR in dB) or None
        Of the way that was kept, on what was held out.
    """

    model: Model
    work: LayerWork
    settings: Settings
    scores: dict[str, float]
    worst: tuple[int, float] | None = None


def best_rounding(plan: Plan, settings: Settings, progress: Progress) -> Rounded:
    """The way of least error on the recordings held out; ``settings`` as they are where there are
    none, or where rounding to nearest is asked for."""
    proof = plan.base.proof
    if proof is None or settings.method == "nearest":
        return Rounded(*compress_layers(plan.job, settings, progress=progress), settings, {})
    size = sum(m.weight.size for layer in plan.base.model.layers for m in layer.matrices)
    follows = _FOLLOWS if size <= _SMALL else _FOLLOWS[:1]
    ways = {f"follow {f:g}": replace(settings, follow=f) for f in follows}
    ways["nearest"] = replace(settings, method="nearest", passes=1)
    scores: dict[str, float] = {}
    found: dict[str, Rounded] = {}
    for name, way in ways.items():
        known = plan.nearest if way.method == "nearest" else None
        model, work = known or compress_layers(plan.job, way, progress=progress)
        noise = loss(plan.network(work), proof)
        scores[name] = _db(float(noise.mean()))
        worst = int(np.argmax(noise))
        found[name] = Rounded(model, work, way, scores, (worst, _db(float(noise[worst]))))
    return found[max(scores, key=lambda name: scores[name])]


def _db(noise: float) -> float:
    """SNR of noise that is a part of the power."""
    return float(-10 * np.log10(max(noise, 1e-12)))
