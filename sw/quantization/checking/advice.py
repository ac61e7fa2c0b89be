"""What would make a network better, and what it would cost: second planes of weights.

``quantize`` gives weights second planes by itself where this is free: while a board's serial link
carries the vectors of a step, its memory has time for more words than small networks need. Where it
is not free, a sentence says what it would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import MOST, PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import round_shift
from stillnet.sw.contract.image import bias_runs, block_rows
from stillnet.sw.contract.link import steps_per_second
from stillnet.sw.model.model import Model
from stillnet.sw.model.planes import PLANE_BITS, two_planes
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Trace

__all__ = [
    "BAUD",
    "FREE_DB",
    "advice_of_planes",
    "free_planes",
    "free_words",
    "lost_presets",
    "words_of_planes",
]

FREE_DB = 46.0
"""SNR of the worst output from which on eight bits are enough: an error of half a percent of its
spread. Below, second planes are given where they are free, and named where they are not."""

BAUD = 3_000_000
"""Of the boards' serial link."""

_LANES = 8
"""Of the engine for which words are counted."""

_WORD_SECONDS = 40e-9
"""A word of eight weights from the slowest memory that boards have: 16 bits at 100 MHz."""


def advice_of_planes(
    model: Model, network: Network, result: Trace, worst: tuple[int, float] | None
) -> list[str]:
    """Which layers could have second planes, where an output is below ``FREE_DB``.

    Parameters
    ----------
    model : Model
    network : Network
        Without second planes.
    result : Trace
        Its run over calibration.
    worst : (output, SNR in dB) or None
        Of the way in which weights were rounded.
    """
    if worst is None or worst[1] >= FREE_DB:
        return []
    names = _possible_names(model)
    if not names:
        return []
    now, then = words_of_planes(network, result, names)
    output, ratio = worst
    return [
        f"output {output} of {network.outputs} has {ratio:.1f} dB on the end of calibration; "
        f"--planes {','.join(names)} gives weights 16 bits, for about {then:,.0f} instead of "
        f"{now:,.0f} words of weights per step ({_LANES} lanes)"
    ]


def free_words(network: Network) -> float:
    """Words of weights that a board fetches while its link carries the vectors of a step."""
    inputs = 1 if network.input_mode.one_hot else network.inputs
    return 1 / steps_per_second(inputs, network.outputs, BAUD) / _WORD_SECONDS


def free_planes(
    model: Model, network: Network, result: Trace, noise: Sequence[float], enough: float
) -> list[str]:
    """Layers to which second planes are given, because they cost nothing that is noticed.

    Layers are taken by their noise per word that their second planes add, until what is left of
    the noise is ``enough``; but none with which a step would fetch more than :func:`free_words`,
    with which a preset would be too small that is large enough for the network as it is, or every
    engine.

    Parameters
    ----------
    model : Model
        In floating point, without second planes.
    network : Network
        Its integers.
    result : Trace
        A run of these.
    noise : sequence of float
        What each layer adds to the noise of the outputs.
    enough : float
        Part of the noise.
    """
    left = {layer.name: n for layer, n in zip(model.layers, noise)}
    total, limit = sum(left.values()), free_words(network)
    chosen: list[str] = []
    waiting = set(_possible_names(model))
    while waiting and sum(left.values()) > enough * total:
        now = words_of_planes(network, result, chosen)[1]
        extra = {n: words_of_planes(network, result, [*chosen, n])[1] - now for n in waiting}
        affordable = [
            n
            for n in sorted(waiting)
            if now + extra[n] <= limit and _engines_hold(model, [*chosen, n])
        ]
        if not affordable:
            break
        best = max(affordable, key=lambda n: left[n] / max(extra[n], 1e-9))
        chosen.append(best)
        waiting.remove(best)
        left[best] = 0.0
    return [layer.name for layer in model.layers if layer.name in chosen]


def _engines_hold(model: Model, names: list[str]) -> bool:
    """Whether presets that are large enough for a model are so with second planes, and some engine
    can be at all. Presets with the weights in on-chip memory are made for one small network."""
    lost = _too_small(model, names)
    sizes: dict[str, Any] = dict(MOST)
    largest = replace(PRESETS["axi64"], **sizes)
    doubled, _ = two_planes(model, names)
    return all(PRESETS[name].memory == "ram" for name in lost) and _holds(largest, doubled)


def lost_presets(model: Model, names: list[str]) -> list[str]:
    """Presets that run a model, and no longer do with second planes in some layers."""
    cells = {layer.cell for layer in model.layers}
    return [n for n in _too_small(model, names) if cells <= set(PRESETS[n].cells)]


def _too_small(model: Model, names: list[str]) -> list[str]:
    """Presets that are large enough for a model, and no longer with second planes."""
    doubled, _ = two_planes(model, names)
    return [n for n, c in PRESETS.items() if _holds(c, model) and not _holds(c, doubled)]


def _holds(config: EngineConfig, model: Model) -> bool:
    """Whether units, accumulators, tables and on-chip memory of an engine are large enough, as for
    ``pack``."""
    units = accumulators = matrices = words = 0
    for layer in model.layers:
        cell = CELLS[layer.cell]
        units += -(-layer.units // config.cell_width) * config.cell_width
        blocks = -(-layer.units // config.multipliers)
        accumulators += blocks * block_rows(cell, config.row_scale)
        accumulators += accumulators % 2
        matrices += len(bias_runs(cell, config.row_scale)) + len(layer.matrices)
        words += blocks * sum(len(m.gates) * m.weight.shape[2] for m in layer.matrices)
    return (
        len(model.layers) <= config.layers
        and units <= config.units
        and accumulators <= config.accumulators
        and matrices <= config.matrices
        and (config.memory != "ram" or words <= config.ram_words)
    )


def _possible_names(model: Model) -> list[str]:
    """Layers that may have second planes."""
    fed = [layer.name for layer in model.layers if layer.matrices]
    return [name for name in fed if _possible(model, name)]


def words_of_planes(network: Network, result: Trace, names: list[str]) -> tuple[float, float]:
    """Words of weights per step, as the network is and with second planes in some layers.

    The second planes are counted by the events of the coarser copies, as the run shows them. A
    hidden vector that becomes finer beside them has more events than that, some ten percent.
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
