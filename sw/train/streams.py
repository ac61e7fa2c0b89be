"""Recordings as streams: sequences side by side, a stretch of each for every update.

A stream goes through a recording from its beginning to its end, one stretch after the other, so
that state can be carried; then it takes another recording. Which ones follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Stretch", "Streams", "pieces"]

PIECE = 8
"""Stretches of a piece."""


def pieces(recordings: Sequence[np.ndarray], steps: int) -> list[np.ndarray]:
    """Recordings cut into pieces of ``PIECE`` stretches.

    A piece begins from the initial state, of the float model as of the network, so that sequences
    side by side hear different things from the first update on.
    """
    size = PIECE * steps
    found = []
    for r in recordings:
        count = max(1, round(len(r) / size))
        found += np.array_split(np.asarray(r), count)
    return found


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
        self.deck: list[int] = []
        self.recording = np.array([self._draw() for _ in range(batch)])
        self.at = np.zeros(batch, np.int64)
        self.fresh = np.ones(batch, bool)

    def _draw(self) -> int:
        """Another recording; all of them come before one comes again."""
        if not self.deck:
            self.deck = self.rng.permutation(len(self.inputs)).tolist()
        return self.deck.pop()

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
                self.recording[k] = self._draw()
                self.at[k] = 0
        return found

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next; plain values."""
        return {
            "rng": self.rng.bit_generator.state,
            "deck": list(self.deck),
            "recording": self.recording.tolist(),
            "at": self.at.tolist(),
            "fresh": self.fresh.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.deck = list(state["deck"])
        self.recording = np.array(state["recording"])
        self.at = np.array(state["at"])
        self.fresh = np.array(state["fresh"])
