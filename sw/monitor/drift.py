"""Whether a stream still looks like calibration: rates, ranges, saturations, stuck inputs.

Every rule compares like with like: rates are taken over windows of at least as many steps as those
of calibration, ranges and still runs element by element.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.calibration import Calibration
from stillnet.sw.network.network import Network

from .alarms import Alarms

__all__ = ["KINDS", "Drift"]

KINDS = ("rate", "range", "stuck", "saturation")

RATE_MARGIN = 1.25
"""A rate may leave the busiest and the quietest window of calibration by this factor ..."""
RATE_FLOOR = 0.5
"""... and by so many events per step."""
RANGE_MARGIN = 0.25
"""An element may leave its range by this part of it."""
STILL_STEPS, STILL_FACTOR = 100, 4
"""An element is stuck after so many equal steps, and so many times the longest of calibration."""
SATURATION_FACTOR, SATURATION_FLOOR = 2.0, 0.02
"""Clipped elements per step that are no drift: a factor on calibration's, and a few."""


class Drift:
    """Compares blocks of a stream with a network's calibration.

    Parameters
    ----------
    network : Network
    calibration : Calibration
    alarms : Alarms
        Where what is found goes.
    """

    def __init__(self, network: Network, calibration: Calibration, alarms: Alarms) -> None:
        self.calibration, self.alarms = calibration, alarms
        self._units = np.broadcast_to(network.units_of(INPUT), network.inputs)
        last = len(network.layers) - 1
        self._output_units = np.broadcast_to(network.units_of(last), network.outputs)
        self._window: deque[dict[str, Any]] = deque()
        self._steps = 0

    def restart(self) -> None:
        """What comes next does not continue what came."""
        self._window.clear()
        self._steps = 0

    def take(self, block: dict[str, Any]) -> None:
        """One block, in order."""
        self._window.append(block)
        self._steps += block["steps"]
        while self._steps - self._window[0]["steps"] >= self.calibration.window:
            self._steps -= self._window.popleft()["steps"]
        if self._steps >= self.calibration.window:
            self._rates()
            self._saturations()
        self._ranges(block)
        self._stuck(block)

    def _say(self, kind: str, where: str, text: str, block: dict[str, Any]) -> None:
        begin = block["time"] - block["seconds"]
        self.alarms.seen(kind, where, text, block["first"], begin)

    def _rates(self) -> None:
        for name, (low, _, high) in self.calibration.events.items():
            rate = sum(b["counters"]["events"].get(name, 0) for b in self._window) / self._steps
            most = high * RATE_MARGIN + RATE_FLOOR
            least = low / RATE_MARGIN - RATE_FLOOR
            if least <= rate <= most:
                continue
            way = "more" if rate > most else "less"
            self._say(
                "rate",
                name,
                f"vector '{name}' sends {rate:.3g} events per step, {way} than in calibration "
                f"({low:.3g} to {high:.3g})",
                self._window[0],
            )

    def _saturations(self) -> None:
        rate = sum(b["counters"]["saturations"] for b in self._window) / self._steps
        known = self.calibration.saturations
        if rate > SATURATION_FACTOR * known + SATURATION_FLOOR:
            self._say(
                "saturation",
                "vectors",
                f"{rate:.3g} elements per step are clipped to 16 bits, {known:.3g} in calibration",
                self._window[0],
            )

    def _ranges(self, block: dict[str, Any]) -> None:
        c = self.calibration
        for name, low, high, units in (
            ("input", c.input_low, c.input_high, self._units),
            ("output", c.output_low, c.output_high, self._output_units),
        ):
            seen = block[name]
            if seen is None or len(seen["low"]) != len(low):
                continue
            a, b = np.array(low), np.array(high)
            margin = np.maximum(RANGE_MARGIN * (b - a), 1)
            below, above = a - margin - np.array(seen["low"]), np.array(seen["high"]) - b - margin
            excess = np.maximum(below, above) / margin
            out = np.flatnonzero(excess > 0)
            if not len(out):
                continue
            worst = int(np.argmax(excess))
            value = seen["low" if below[worst] > above[worst] else "high"][worst] / units[worst]
            more = f", and {len(out) - 1} other elements" if len(out) > 1 else ""
            self._say(
                "range",
                name,
                f"element {worst} of the {name} reaches {value:.3g}, calibration saw "
                f"{a[worst] / units[worst]:.3g} to {b[worst] / units[worst]:.3g}{more}",
                block,
            )

    def _stuck(self, block: dict[str, Any]) -> None:
        c, still = self.calibration, np.array(block["still"])
        if len(still) != len(c.input_still):
            return
        moved = np.array(c.input_low) < np.array(c.input_high)
        most = np.maximum(STILL_STEPS, STILL_FACTOR * np.array(c.input_still))
        for k in np.flatnonzero(moved & (still > most))[:8].tolist():
            since = max(block["first"] + block["steps"] - int(still[k]), 0)
            self.alarms.seen(
                "stuck",
                f"input {k}",
                f"element {k} of the input has not changed for {still[k]} steps, in calibration "
                f"never for more than {c.input_still[k]}",
                since,
                block["time"] - block["seconds"] * still[k] / max(block["steps"], 1),
            )
