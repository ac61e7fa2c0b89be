"""Thresholds that follow the signal, so that a mean of words or cycles per step is held.

Words cost power and time, and how many a step takes depends on the sound in the room. A slow loop
in the host reads the engine's counters every so many steps and makes all delta thresholds larger or
smaller together. Nothing is lost by it: an element that does not fire keeps its reference, and what
is late is sent once its difference reaches the threshold again.

::

    with Engine.open("/dev/ttyUSB0") as engine:
        engine.load(network)
        loop = AdaptiveThresholds(network, words=20_000)
        for x in recording:
            y = engine.step(x)
            loop.after_step(engine)

Every decision is a whole number of eighths of an octave, written down with its step, so that
the reference makes the same integers from the same decisions (:meth:`AdaptiveThresholds.network`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network

__all__ = ["LEVELS", "AdaptiveThresholds", "Decision"]

LEVELS = 8
"""Steps of an octave."""

_START = 8
"""Threshold of a vector that has none, where an octave begins: in units of its last bit."""

_FASTEST = LEVELS
"""Levels of one decision: an octave."""

_GAIN = 0.5
"""Part of an error, in octaves, that one decision takes back: on some signals words fall faster
than thresholds rise, and with half of it nothing swings."""

_LARGEST = (1 << EVENT_BITS) - 1


class Steered(Protocol):
    """What a loop steers: :class:`~stillnet.sw.host.driver.Engine`, or what acts like it."""

    def counters(self) -> dict[str, Any]:
        """``steps``, ``words`` and ``cycles`` so far, modulo 2**32."""
        ...

    def set_threshold(
        self, where: str | int, value: float, *, recurrent: bool = False, integer: bool = False
    ) -> None:
        """Changes a threshold from the next encoding on."""
        ...


@dataclass(frozen=True)
class Decision:
    """What the loop saw and did.

    Attributes
    ----------
    step : int
        Steps before it.
    mean : float
        Words, or cycles, per step since the decision before.
    level : int
        From here on; thresholds are 2 ** (level / ``LEVELS``) times the network's.
    """

    step: int
    mean: float
    level: int


class AdaptiveThresholds:
    """The loop.

    Parameters
    ----------
    network : Network
        As it was loaded.
    words, cycles : float
        The mean per step to hold; one of the two. Words are a budget of energy and bandwidth,
        cycles a fill of a deadline.
    window : int
        Steps between two decisions.
    band : float
        Part of the target by which the mean may differ before anything changes.
    most : float
        Largest factor on the thresholds; the smallest is 1, which is the network itself.

    Attributes
    ----------
    level : int
    decisions : list of Decision
        Those that changed something.
    """

    def __init__(
        self,
        network: Network,
        *,
        words: float | None = None,
        cycles: float | None = None,
        window: int = 100,
        band: float = 0.05,
        most: float = 64.0,
    ) -> None:
        targets = {"words": words, "cycles": cycles}
        given = {name: value for name, value in targets.items() if value is not None}
        if len(given) != 1:
            raise StillnetError("give words or cycles, one of them: a mean per step to hold")
        ((self.counter, self.target),) = given.items()
        for name, value, low in (
            (self.counter, self.target, 0.0),
            ("window", window, 0),
            ("band", band, 0.0),
        ):
            if not (isinstance(value, (int, float)) and low < value < math.inf):
                raise StillnetError(f"{name} must be more than {low:g}, not {value!r}")
        if not 1.0 < most < math.inf:
            raise StillnetError(f"most must be more than 1, not {most!r}")
        self._network, self.window, self.band = network, int(window), band
        self._bases = _bases(network)
        if not self._bases:
            raise StillnetError(
                f"network '{network.name}' has no vector whose differences are events, so no "
                "threshold can be changed"
            )
        self.most = math.floor(LEVELS * math.log2(most))
        self.level, self.decisions = 0, list[Decision]()
        self._steps, self._waited = 0, 0
        self._before: tuple[int, int] | None = None

    @property
    def scale(self) -> float:
        """Factor on the network's thresholds."""
        return 2.0 ** (self.level / LEVELS)

    def after_step(self, engine: Steered) -> Decision | None:
        """To be called behind each step; every ``window`` of them the counters are read.

        Returns
        -------
        Decision or None
            Where thresholds were changed.
        """
        if self._before is None:
            # What the counters show of steps before the first is not of this loop.
            self._read(engine)
            self._steps += 1
            return None
        self._steps += 1
        self._waited += 1
        if self._waited < self.window:
            return None
        self._waited = 0
        mean = self._read(engine)
        level = self._next(mean)
        if level == self.level:
            return None
        self.level = level
        for (source, recurrent), value in self.thresholds(level).items():
            engine.set_threshold(
                "input" if source == INPUT else source, value, recurrent=recurrent, integer=True
            )
        self.decisions.append(Decision(self._steps, mean, level))
        return self.decisions[-1]

    def _read(self, engine: Steered) -> float:
        """The mean since the counters were read last."""
        found = engine.counters()
        steps, total = int(found["steps"]), int(found[self.counter])
        before = self._before or (steps, total)
        self._before = (steps, total)
        passed, grown = ((a - b) % (1 << 32) for a, b in zip(self._before, before))
        return grown / passed if passed else 0.0

    def _next(self, mean: float) -> int:
        """The level that follows from a mean."""
        if abs(mean - self.target) <= self.band * self.target:
            return self.level
        octaves = math.log2(mean / self.target) if mean > 0 else -math.inf
        change = max(-_FASTEST, min(_FASTEST, _GAIN * LEVELS * octaves))
        whole = round(change) or (1 if change > 0 else -1)
        return max(0, min(self.most, self.level + whole))

    def thresholds(self, level: int) -> dict[tuple[int, bool], int]:
        """By (source, recurrent), the threshold of a vector at a level, in units of its last bit.

        Where elements have thresholds of their own it acts beside them: an event reaches both.
        """
        factor = 2.0 ** (level / LEVELS)
        result = {}
        for key, (own, base) in self._bases.items():
            grown = min(_LARGEST, round(base * factor))
            result[key] = own if level == 0 else max(own, grown)
        return result

    def network(self, level: int) -> Network:
        """The network with the thresholds of a level, for the reference."""
        found = self.thresholds(level)
        old = self._network
        layers = list(old.layers)
        for (source, recurrent), value in found.items():
            if source == INPUT:
                continue
            layer = layers[source]
            if recurrent:
                layers[source] = replace(layer, threshold_recurrent=value)
            elif layer.thresholds is not None:
                layers[source] = replace(layer, thresholds=np.maximum(layer.thresholds, value))
            else:
                layers[source] = replace(layer, threshold=value)
        changes: dict[str, Any] = {"layers": layers}
        if (INPUT, False) in found:
            value, elements = found[INPUT, False], old.input_thresholds
            if elements is not None:
                changes["input_thresholds"] = np.maximum(elements, value)
            else:
                changes["input_threshold"] = value
        return replace(old, **changes)


def _bases(network: Network) -> dict[tuple[int, bool], tuple[int, int]]:
    """By (source, recurrent) of vectors of differences: (threshold at level 0, what is scaled)."""
    used = {m.source for layer in network.layers for m in layer.matrices}
    result: dict[tuple[int, bool], tuple[int, int]] = {}

    def add(key: tuple[int, bool], threshold: int, elements: np.ndarray | None) -> None:
        if elements is not None:
            result[key] = 0, max(1, round(float(np.median(elements))))
        else:
            result[key] = threshold, threshold or _START

    if network.input_mode == Mode.DELTA and INPUT in used:
        add((INPUT, False), network.input_threshold, network.input_thresholds)
    for i, layer in enumerate(network.layers):
        if layer.mode == Mode.DELTA and i in used:
            add((i, False), layer.threshold, layer.thresholds)
            if layer.threshold_recurrent is not None:
                add((i, True), layer.threshold_recurrent, None)
    return result
