"""Ways of rounding a network, compared on the part of calibration that is held out.

How far a layer should make good for the layers before it depends on the network and on how much its
recordings show. So it is tried: the integers of each way run over the recordings that were held
out, and the way whose outputs are nearest to the float model is kept. Rounding to nearest is one of
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stillnet.sw.model.model import Model
from stillnet.sw.util.progress import Progress

from .layerwise import LayerWork, Settings, compress_layers
from .preparation import Plan, score

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
        By way, the mean over the outputs of their SNR in dB on what was held out; empty where
        calibration is too short to hold out any.
    """

    model: Model
    work: LayerWork
    settings: Settings
    scores: dict[str, float]


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
        scores[name] = score(plan.network(work), proof)
        found[name] = Rounded(model, work, way, scores)
    return found[max(scores, key=lambda name: scores[name])]
