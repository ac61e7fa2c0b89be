"""Rows of ``stillnet bench accuracy`` for networks of packages, and for a small one for motion."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillnet.sim.audio import features, recordings, signals
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.partition.options import CutOptions

from .judging import AUTO, PLANES, Extra, judge, quantized
from .models import LSTM_OF_DETECTOR

__all__ = ["CASES", "Case", "cosines", "decisions", "model_rows", "motion", "motion_model"]

FRAMES = 1000
"""Of test speech, each mix."""

UNHEARD = ("pink", "machine", "babble")
"""Noises of the test: one like those of calibration, a kind that it does not have, and voices."""

Progress = Callable[[str, int, int], None]
Data = tuple[Model, list[np.ndarray], list[np.ndarray]]
"""A model, its calibration, and the recordings that are judged."""


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes
    ----------
    name : str
    load : function
        Gives :data:`Data`.
    ways : tuple of str
        Methods of rounding, ``AUTO`` or ``PLANES``.
    extra : function, optional
        See ``judge``.
    """

    name: str
    load: Callable[[], Data]
    ways: tuple[str, ...] = ("second-order",)
    extra: Extra | None = None


# -- speech ---------------------------------------------------------------------------------------


def _nsnet2() -> Data:
    clips = [
        signals.features(signals.stft(recordings.test_mix(noise=n)[0]))[:FRAMES] for n in UNHEARD
    ]
    return load_model(recordings.nsnet2_path()), [recordings.calibration_features()], clips


def _nsnet2_wide() -> Data:
    model = load_model(recordings.nsnet2_path(wide=True))
    clips = [features.test_wide(n)[:FRAMES] for n in UNHEARD]
    return model, [features.calibration_wide()], clips


def _speaker() -> Data:
    layers = [("lstm", "lstm"), ("linear", "linear")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two tensors are of its training alone
        model = load_model(recordings.resemblyzer_path(), layers=layers)
    spoken = [recordings.calibration_speech(), recordings.calibration_clip()]
    unheard = [recordings.test_speech(), recordings.test_mix(noise="machine")[0]]
    heard = [w for samples in spoken for w in features.voice_windows(samples)]
    return model, heard, [w for samples in unheard for w in features.voice_windows(samples)]


def _detector(enter: str | None = None) -> Data:
    heard = signals.vad_rows(recordings.calibration_clip())
    path = recordings.silero_path()
    cut = CutOptions(constants=recordings.SILERO[path.name], enter=enter, elements=heard.shape[1])
    clips = [signals.vad_rows(recordings.test_mix(noise=n)[0]) for n in UNHEARD]
    return load_model(path, cut=cut), [heard], clips


def cosines(wanted: list[np.ndarray], got: list[np.ndarray]) -> dict[str, float]:
    """Cosine between embeddings, the positive part of the last step of each window: mean, worst."""

    def embeddings(y: list[np.ndarray]) -> np.ndarray:
        last = np.maximum(np.stack([v[-1] for v in y]), 0)
        return last / np.maximum(np.linalg.norm(last, axis=1, keepdims=True), 1e-30)

    found = np.sum(embeddings(wanted) * embeddings(got), axis=1)
    return {"cosine": float(found.mean()), "cosine_worst": float(found.min())}


def decisions(wanted: list[np.ndarray], got: list[np.ndarray]) -> dict[str, int]:
    """Steps on the other side of one half."""
    w, g = np.concatenate(wanted), np.concatenate(got)
    return {"decisions": w.size, "flipped": int(np.count_nonzero((w > 0.5) != (g > 0.5)))}


# -- motion ---------------------------------------------------------------------------------------

_UNITS = 16
_MOTION_STEPS = 2_000
"""At 100 Hz."""


def motion(seed: int, steps: int = _MOTION_STEPS) -> tuple[np.ndarray, np.ndarray]:
    """A sensor on a wrist: rest, steps, turns, one after the other.

    Returns
    -------
    x : array, shape (steps, 6)
        Acceleration in g, rates of turn in degrees a second.
    targets : array, shape (steps, 3)
        How much the wearer walks, turns and rests, 0 to 1, smooth.
    """
    rng = np.random.default_rng([seed, 0x10])
    kind = np.repeat(rng.integers(0, 3, -(-steps // 150)), 150)[:steps]
    targets, level = np.zeros((steps, 3)), np.zeros(3)
    for t in range(steps):
        level = 0.97 * level + 0.03 * np.eye(3)[kind[t]]
        targets[t] = level
    walks, turns = targets[:, 0], targets[:, 1]
    phase = np.cumsum(2 * np.pi * rng.uniform(1.6, 2.1) / 100 + 0.02 * rng.normal(size=steps))
    tilt = np.zeros((steps, 2))
    for t in range(1, steps):  # held for some seconds
        tilt[t] = 0.995 * tilt[t - 1] + 0.04 * rng.normal(size=2)
    x = np.zeros((steps, 6))
    x[:, 0], x[:, 1] = np.sin(tilt[:, 0]), np.sin(tilt[:, 1])
    x[:, 2] = np.cos(tilt[:, 0]) * np.cos(tilt[:, 1]) + 0.5 * walks * np.sin(2 * phase)
    x[:, :2] += 0.3 * walks[:, None] * np.sin(phase[:, None] + [0.0, 1.0])
    x[:, 3:] = 60 * walks[:, None] * np.sin(phase[:, None] + [0.5, 1.5, 2.5])
    x[:, 5] += 150 * turns * np.sin(phase / 3)
    return x + rng.normal(size=x.shape) * [0.02, 0.02, 0.02, 1.0, 1.0, 1.0], targets


def motion_model() -> Model:
    """A GRU of 16 units with random weights, and a layer fitted to what the wearer does, on one
    recording."""
    rng = np.random.default_rng(16)
    inputs = rng.normal(0, 0.7, (3 * _UNITS, 6)) / [0.5, 0.5, 0.7, 60.0, 60.0, 90.0]
    recurrent = rng.normal(0, 0.25, (3 * _UNITS, _UNITS))
    bias = rng.normal(0, 0.3, (2, 3 * _UNITS))
    bias[0, _UNITS : 2 * _UNITS] += 2.0  # gates of update that remember
    model = Model(6, name="motion").gru(inputs, recurrent, *bias)
    x, targets = motion(100)
    h = np.concatenate([model.run(x), np.ones((len(x), 1))], axis=1)
    fitted = np.linalg.solve(h.T @ h + len(x) * 1e-3 * np.eye(h.shape[1]), h.T @ targets).T
    return model.dense(fitted[:, :-1], fitted[:, -1])


def _motion() -> Data:
    return motion_model(), [motion(0)[0]], [motion(1)[0], motion(2)[0]]


# -- rows -----------------------------------------------------------------------------------------

BOTH = ("second-order", "nearest")

CASES = (
    Case("IMU, GRU of 16", _motion, (*BOTH, AUTO)),
    Case("NSNet2, 16 kHz", _nsnet2, BOTH),
    Case("NSNet2, 48 kHz", _nsnet2_wide),
    Case("Resemblyzer, three LSTMs", _speaker, ("second-order", PLANES), extra=cosines),
    Case("silero-vad, whole", _detector, extra=decisions),
    Case(
        "silero-vad, LSTM and head",
        lambda: _detector(LSTM_OF_DETECTOR),
        ("second-order", AUTO, PLANES),
        extra=decisions,
    ),
)


def model_rows(progress: Progress, cases: tuple[Case, ...] = CASES) -> Iterator[dict[str, Any]]:
    """A row for each network and method; a network whose package is absent is left out, in words.

    Parameters
    ----------
    progress : function
    cases : tuple of Case
    """
    for k, case in enumerate(cases):
        progress("networks", k, len(cases))
        try:
            model, heard, clips = case.load()
        except StillnetError as error:
            print(f"{case.name} is left out: {error}", file=sys.stderr)
            continue
        for way in case.ways:
            begin = time.perf_counter()
            network = quantized(model, heard, way)
            seconds = time.perf_counter() - begin
            row = judge(case.name, model, network, clips, way=way, extra=case.extra)
            yield row | {"seconds": seconds}
    progress("networks", len(cases), len(cases))
