"""What would make a network better, and what it would cost: sentences that ``quantize`` prints."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import round_shift
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Trace

from .planes import PLANE_BITS, two_planes

__all__ = ["GOOD_DB", "advice_of_planes", "words_of_planes"]

GOOD_DB = 38.0
"""SNR of the worst output above which nothing is advised: what rounding of weights to eight bits
leaves of most networks."""

_LANES = 8
"""Of the engine for which words are counted."""


def advice_of_planes(
    model: Model, network: Network, result: Trace, worst: tuple[int, float] | None
) -> list[str]:
    """Which layers could have second planes, where an output is below ``GOOD_DB``.

    Parameters
    ----------
    model : Model
    network : Network
        Without second planes.
    result : Trace
        Its run over calibration.
    worst : (output, SNR in dB) or None
        On recordings that were held out.
    """
    if worst is None or worst[1] >= GOOD_DB:
        return []
    fed = [layer.name for layer in model.layers if layer.matrices]
    names = [name for name in fed if _possible(model, name)]
    if not names:
        return []
    now, then = words_of_planes(network, result, names)
    output, ratio = worst
    return [
        f"output {output} of {network.outputs} has {ratio:.1f} dB on the part of calibration that "
        f"was held out; --planes {','.join(names)} gives weights 16 bits, for about {then:,.0f} "
        f"instead of {now:,.0f} words of weights per step ({_LANES} lanes)"
    ]


def words_of_planes(network: Network, result: Trace, names: list[str]) -> tuple[float, float]:
    """Words of weights per step, as the network is and with second planes in some layers.

    The second planes are counted by the events of the coarser copies, as the run shows them.
    """
    now, extra = 0.0, 0.0
    copied = set()
    for layer in network.layers:
        for m in layer.matrices:
            words = m.column_words(_LANES)
            now += words * _events(result, result.vectors[m.source])
            if layer.name in names:
                copied.add(m.source)
                extra += words * _events(result, _copy(result, m.source))
    for source in copied:
        vectors = result.vectors[source]
        extra += -(-vectors.shape[1] // _LANES) * _events(result, vectors)
    return now, now + extra


def _copy(result: Trace, source: int) -> np.ndarray:
    return round_shift(result.vectors[source], PLANE_BITS)


def _events(result: Trace, vectors: np.ndarray) -> float:
    """Elements that change per step, of integers of shape (rows, elements) or (rows,) of tokens."""
    before = result.layout.previous()
    later = before >= 0
    changed = vectors[later] != vectors[before[later]]
    return float(np.sum(changed)) / max(int(np.sum(later)), 1)


def _possible(model: Model, name: str) -> bool:
    try:
        two_planes(model, [name])
    except StillnetError:
        return False
    return True
