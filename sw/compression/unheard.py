"""What a compressed network's error will be on recordings that calibration does not have.

An error on calibration flatters: weights, biases and thresholds were chosen on it. So each scene of
the recordings is left out once, the model is compressed on the others, and the error on the scene
is compared with that on the others. Their ratio is what the error grows by, and how much it differs
from scene to scene says how sure that is. Scenes are recordings, or where there are fewer of them
than asked for, pieces of them: the more they differ (speakers, rooms, noises), the more honest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.quantization.checking.checks import check_recordings
from stillnet.sw.quantization.limits import Budget
from stillnet.sw.quantization.report import output_error, run_quantized
from stillnet.sw.util.progress import Progress, silent

from .options import CompressOptions

__all__ = ["SHORTEST", "Unheard", "left_out", "scenes", "tightened"]

SHORTEST = 20
"""Steps of a scene below which its error says too little."""

_T90 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83)
"""Student's t, both sides 90 %, by degrees of freedom from 1; more count as ``_Z90``."""

_Z90 = 1.645


@dataclass(frozen=True)
class Unheard:
    """How much larger the error is on a scene that was left out.

    Attributes
    ----------
    ratios : list of float
        Error on each scene over the error on the others, of the network made from the others.
    """

    ratios: list[float]

    @property
    def ratio(self) -> float:
        """Their geometric mean."""
        return float(np.exp(np.mean(np.log(self.ratios))))

    @property
    def high(self) -> float:
        """The mean over many scenes and a standard error of it: they stay below in five of six
        cases."""
        logs = np.log(self.ratios)
        return self.ratio * math.exp(float(np.std(logs, ddof=1)) / math.sqrt(len(logs)))

    def _spread(self, variance: float) -> float:
        """Half of an interval of 90 %, of the logarithm, in variances of one scene."""
        n = len(self.ratios)
        t = _T90[n - 2] if n - 2 < len(_T90) else _Z90
        return t * float(np.std(np.log(self.ratios), ddof=1)) * math.sqrt(variance)

    def expected(self, error: float) -> tuple[float, float, float]:
        """(expected error on one more scene, low and high end of its interval of 90 %).

        The interval is that of a new value beside a normal sample of logarithms.
        """
        spread, middle = self._spread(1 + 1 / len(self.ratios)), error * self.ratio
        return middle, middle * math.exp(-spread), middle * math.exp(spread)

    def describe(self, error: float) -> dict[str, Any]:
        """For the network's notes; ``error`` is that on calibration."""
        expected, low, high = self.expected(error)
        return {"ratios": self.ratios, "expected": expected, "low": low, "high": high}


def scenes(recordings: Sequence[np.ndarray], count: int) -> list[list[np.ndarray]]:
    """Recordings in ``count`` scenes of about equal length, the order kept.

    Raises
    ------
    StillnetError
        If there are fewer than two scenes, or they would be too short.
    """
    total = sum(len(r) for r in recordings)
    if count < 2 or total < count * SHORTEST:
        raise StillnetError(
            f"--leave-out {count}: {total} steps of recordings cannot be left out in {count} "
            f"scenes of {SHORTEST} steps and more; take 2 to {max(2, total // SHORTEST)}, or give "
            "longer recordings"
        )
    pieces = list(recordings)
    while len(pieces) < count:  # the longest one is cut
        k = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        middle = len(pieces[k]) // 2
        pieces[k : k + 1] = [pieces[k][:middle], pieces[k][middle:]]
    groups = np.array_split(np.arange(len(pieces)), count)
    return [[pieces[i] for i in group] for group in groups]


def left_out(
    model: Model,
    recordings: np.ndarray | Sequence[np.ndarray],
    make: Callable[[list[np.ndarray], Path | None], Network],
    count: int,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> Unheard:
    """Leaves each of ``count`` scenes out once.

    Parameters
    ----------
    model : Model
        In floating point, whose outputs are the judge.
    recordings : array (steps, inputs), or a list of them
    make : function of (recordings, folder of its stages)
        Makes a network from recordings.
    count : int
    folder : path, optional
        Where stages are kept.
    progress : Progress
    """
    listed = [recordings] if isinstance(recordings, np.ndarray) else list(recordings)
    parts = scenes(listed, count)
    ratios = []
    for k, scene in enumerate(parts):
        progress("scenes left out", k, count)
        others = [r for j, part in enumerate(parts) if j != k for r in part]
        network = make(others, None if folder is None else Path(folder) / f"without-{k}")
        heard, unheard = (
            _error(model, network, check_recordings(model, some)) for some in (others, scene)
        )
        if heard > 0 and unheard > 0:
            ratios.append(unheard / heard)
    progress("scenes left out", count, count)
    if len(ratios) < 2:
        raise StillnetError(
            f"--leave-out {count}: the network makes no error on {count - len(ratios)} scenes; "
            "give recordings in which something happens"
        )
    return Unheard(ratios)


def tightened(options: CompressOptions, unheard: Unheard) -> CompressOptions:
    """The same with an error on calibration that keeps the mean over scenes never heard within the
    budget, in five of six cases."""
    ratio = max(1.0, unheard.high)
    most = options.max_error
    if isinstance(most, Budget):
        return replace(options, max_error=replace(most, error=most.error / ratio))
    if most is not None:
        return replace(options, max_error=most / ratio)
    if options.mean_error is not None:
        return replace(options, mean_error=options.mean_error / ratio)
    return options


def _error(model: Model, network: Network, recordings: list[np.ndarray]) -> float:
    """Mean absolute error of the outputs."""
    layout = Layout([len(r) for r in recordings])
    x = layout.pack(list(recordings))
    wanted = run_float(model, layout, x).vectors[len(model.layers) - 1]
    return output_error(network, run_quantized(network, layout, x), wanted)
