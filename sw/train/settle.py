"""The budget in integers: networks are judged as the reference runs them, and thresholds follow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.cost.cost import column_words, step_words
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Trace, run_integers

from .options import TrainOptions

__all__ = ["Judge", "first_thresholds", "settle"]

_SETTLED = 4000
"""Steps of the recordings on which the budget is made sure of."""

_FIRST = 0.25
"""A first threshold, in root mean squares of what an element moves in a step."""


class Judge:
    """Error and words of networks, by integers, on the recordings or the first part of them."""

    def __init__(
        self,
        network: Network,
        recordings: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        config: EngineConfig,
    ) -> None:
        count = max(1, _SETTLED // len(recordings))
        self.config = config
        self.layout = Layout([min(len(r), count) for r in recordings])
        self.x = self.layout.pack([network.quantize_input(r[:count]) for r in recordings])
        self.wanted = self.layout.pack([w[:count] for w in wanted])

    def figures(self, network: Network) -> dict[str, float]:
        """``error``, the mean absolute error of the outputs, and ``words`` per step."""
        trace = run_integers(network, self.layout, self.x)
        y = network.dequantize_output(trace.vectors[len(network.layers) - 1])
        return {
            "error": float(np.mean(np.abs(y - self.wanted))),
            "words": _all_words(network, self.config, trace),
        }


def _all_words(network: Network, config: EngineConfig, trace: Trace) -> float:
    """Mean words per step, those of tokens included."""
    words = step_words(network, config, trace)
    if network.input_mode.one_hot:
        # Columns of tokens hardly differ; their mean is what an event of the input fetches.
        fetched = column_words(network, config)[INPUT].mean()
        words += fetched * trace.events[INPUT] / trace.layout.rows
    return float(words)


def settle(
    judge: Judge, network: Network, options: TrainOptions, plain: bool
) -> tuple[float, str | None]:
    """Scales all thresholds so that the budget holds in integers.

    Parameters
    ----------
    judge : Judge
    network : Network
        Changed in place.
    options : TrainOptions
    plain : bool
        The loss is the mean absolute error, so that a budget of it can be measured.

    Returns
    -------
    The factor, and what to say where no factor is enough; thresholds then stay as they were.
    """
    name = "words" if options.words is not None else "mean_error"
    asked = getattr(options, name)
    if asked is None or (name == "mean_error" and not plain):
        return 1.0, None
    figure, sign = ("words", 1.0) if name == "words" else ("error", -1.0)
    first = copy.deepcopy(network)

    def exceeds(power: float) -> bool:
        _scale(network, first, 2.0 ** (sign * power))
        return judge.figures(network)[figure] > asked

    found = judge.figures(network)[figure]
    if found <= asked:
        return 1.0, None
    low, high = 0.0, 0.125
    while exceeds(high):
        low, high = high, 2 * high
        if high > 4:
            _scale(network, first, 1.0)
            return 1.0, (
                f"{name} is {found:,.4g}, not {asked:,.4g} as asked; train for more updates, or "
                "ask for less"
            )
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    exceeds(high)
    return 2.0 ** (sign * high), None


def _scale(network: Network, first: Network, factor: float) -> None:
    """Thresholds of differences, times a factor."""
    most = (1 << EVENT_BITS) - 1

    def scaled(value: Any) -> Any:
        # A threshold of zero is one of 1: both let every change pass.
        found = np.minimum(np.rint(np.maximum(np.asarray(value, float), 1.0) * factor), most)
        return int(found) if np.ndim(value) == 0 else found.astype(np.int64)

    if first.input_mode is Mode.DELTA:
        network.input_threshold = scaled(first.input_threshold)
        if first.input_thresholds is not None:
            network.input_thresholds = scaled(first.input_thresholds)
    for new, old in zip(network.layers, first.layers):
        if old.mode is not Mode.DELTA:
            continue
        new.threshold = scaled(old.threshold)
        if old.threshold_recurrent is not None:
            new.threshold_recurrent = scaled(old.threshold_recurrent)
        if old.thresholds is not None:
            new.thresholds = scaled(old.thresholds)


def first_thresholds(network: Network, judge: Judge) -> Network:
    """The network with a threshold for each element of every vector that is sent as differences,
    where it has none at all: a threshold of zero cannot be trained."""
    limits = [network.input_limit, *(layer.limit for layer in network.layers)]
    if any(np.any(np.asarray(limit) > 0) for limit in limits):
        return network
    network = copy.deepcopy(network)
    trace = run_integers(network, judge.layout, judge.x)
    before = judge.layout.previous()
    inside = before >= 0
    used = {m.source for layer in network.layers for m in layer.matrices}
    for source in used:
        if network.source_mode(source) is not Mode.DELTA:
            continue
        v = np.asarray(trace.vectors[source], float)
        moved = v[inside] - v[before[inside]]
        limit = np.rint(_FIRST * np.sqrt(np.mean(moved**2, axis=0)))
        limit = np.maximum(1, limit).astype(np.int64)
        if source == INPUT:
            network.input_thresholds = limit
        else:
            network.layers[source].thresholds = limit
    return network
