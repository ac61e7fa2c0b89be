"""A model with host parts, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .parts import HostParts, Kept

__all__ = ["HostStream", "chip_state"]

_PREFIX = "host/"


class HostStream:
    """The host parts over a stream: what goes to the chip, and what becomes of what it gives.

    Vectors of several steps may be on their way to the chip at a time.

    Parameters
    ----------
    parts : HostParts

    Raises
    ------
    StillnetError
        Where the parts look over several steps of a recording.
    """

    def __init__(self, parts: HostParts) -> None:
        parts.check_streams()
        self.parts = parts
        self._waiting: deque[Kept] = deque()
        self._states = parts.initial_states()

    @classmethod
    def of(cls, parts: HostParts | None) -> HostStream | None:
        """The stream of a model; None where the host does nothing, or needs whole recordings."""
        streams = parts is not None and (parts.stepwise or parts.pointwise)
        return cls(parts) if parts is not None and streams else None

    def clear(self) -> None:
        """The beginning of a sequence."""
        self._waiting.clear()
        self._states = self.parts.initial_states()

    def run(
        self,
        rows: Iterable[np.ndarray],
        chip: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]],
    ) -> Iterator[np.ndarray]:
        """Steps of a recording in, outputs out.

        Parameters
        ----------
        rows : iterable of arrays, shape (inputs,)
        chip : callable
            Takes vectors, and gives one for each, in order.

        Yields
        ------
        array, shape (outputs,)
        """
        self._waiting.clear()
        found: list[np.ndarray] = []
        for y in chip(self._front(rows)):
            found.append(y)
            if len(found) == self._waiting[0].steps:
                kept = self._waiting.popleft()
                vectors, found = np.stack(found), []
                yield self.parts.step_behind(vectors, kept, self._states)

    def _front(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for row in rows:
            vectors, kept = self.parts.step_front(row, self._states)
            self._waiting.append(kept)
            yield from vectors

    def get_state(self) -> dict[str, np.ndarray]:
        """States that the host carries, by name."""
        return {f"{_PREFIX}{name}": value.copy() for name, value in self._states.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores what :meth:`get_state` gave.

        Raises
        ------
        StillnetError
            Where a state is missing or has another shape.
        """
        for name, value in self._states.items():
            given = state.get(f"{_PREFIX}{name}")
            if given is None or np.shape(given) != value.shape:
                raise StillnetError(
                    f"state does not belong to the model: host state '{name}' has shape "
                    f"{None if given is None else np.shape(given)}, expected {value.shape}"
                )
        self._waiting.clear()
        for name, value in self._states.items():
            self._states[name] = np.array(state[f"{_PREFIX}{name}"], value.dtype)


def chip_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a state is not the host's."""
    return {k: v for k, v in state.items() if not k.startswith(_PREFIX)}
