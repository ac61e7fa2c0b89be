"""Recordings as streams: sequences side by side, a stretch of each for every update.

A stream goes through a recording from its beginning to its end, one stretch after the other, so
that state can be carried; then it takes another recording. Which ones follows from the seed. It never
begins in the middle, where the float model has heard what the network has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Stretch", "Streams"]


@dataclass(frozen=True)
class Stretch:
    """What one update sees.

    Attributes
    ----------
    inputs : array, shape (steps, batch, inputs), or (steps, batch) of tokens
    wanted : array of float, shape (steps, batch, outputs)
        Outputs of the float model.
    labels : array, shape (steps, batch, ...), or None
        Those given by the user.
    alive : array of float, shape (steps, batch)
        0 where a recording has ended.
    fresh : bool array, shape (batch,)
        Streams that begin a recording.
    recording : int array, shape (batch,)
    """

    inputs: np.ndarray
    wanted: np.ndarray
    labels: np.ndarray | None
    alive: np.ndarray
    fresh: np.ndarray
    recording: np.ndarray


class Streams:
    """Stretches without end, from a list of recordings.

    Parameters
    ----------
    inputs, wanted : lists of arrays, (steps, ...)
    labels : list of arrays, optional
    batch, steps : int
    seed : int
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        labels: Sequence[np.ndarray] | None,
        batch: int,
        steps: int,
        seed: int,
    ) -> None:
        self.inputs, self.wanted, self.labels = inputs, wanted, labels
        self.steps = steps
        self.rng = np.random.default_rng([seed, 0x57A9])
        self.weights = np.array([len(r) for r in inputs], float)
        self.weights /= self.weights.sum()
        self.recording = self.rng.choice(len(inputs), batch, p=self.weights)
        self.at = np.zeros(batch, np.int64)
        self.fresh = np.ones(batch, bool)

    def next(self) -> Stretch:
        """The next stretch of every stream."""
        batch = len(self.at)
        rows = [
            np.minimum(np.arange(a, a + self.steps), len(self.inputs[r]) - 1)
            for a, r in zip(self.at, self.recording)
        ]
        alive = [
            np.arange(a, a + self.steps) < len(self.inputs[r])
            for a, r in zip(self.at, self.recording)
        ]

        def side_by_side(values: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack([values[r][k] for r, k in zip(self.recording, rows)], axis=1)

        found = Stretch(
            side_by_side(self.inputs),
            side_by_side(self.wanted),
            None if self.labels is None else side_by_side(self.labels),
            np.stack(alive, axis=1).astype(float),
            self.fresh.copy(),
            self.recording.copy(),
        )
        self.at += self.steps
        self.fresh = np.array([a >= len(self.inputs[r]) for a, r in zip(self.at, self.recording)])
        for k in range(batch):
            if self.fresh[k]:
                self.recording[k] = self.rng.choice(len(self.inputs), p=self.weights)
                self.at[k] = 0
        return found

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next; plain values."""
        return {
            "rng": self.rng.bit_generator.state,
            "recording": self.recording.tolist(),
            "at": self.at.tolist(),
            "fresh": self.fresh.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.recording = np.array(state["recording"])
        self.at = np.array(state["at"])
        self.fresh = np.array(state["fresh"])
