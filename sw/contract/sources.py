"""Sources of events, how registers number them, and whose columns come first.

A *source* is the network's input vector, or the vector of a layer. Software numbers the input
``INPUT`` and the layers from 0; images and registers count from 0, which is the input there.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["INPUT", "SECOND", "encoder_select", "feeds_next_step", "matrix_order"]

INPUT = -1
"""Source index of the network's input vector."""

SECOND = 32
"""Added to the index of a source for its second encoder."""


def encoder_select(source: int, second: bool = False) -> int:
    """Number of an encoder in ``THRESHOLD_SELECT`` and ``EVENTS_SELECT``."""
    return source + (SECOND if second else 0) - INPUT


def feeds_next_step(source: int, target: int) -> bool:
    """Whether the events of a source reach a layer in the next step: a recurrence."""
    return source >= target


def matrix_order(sources: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The matrices of a network as they stand in its image, most urgent first.

    The scheduler prefers a matrix that stands further in front. First come inputs of upper layers,
    then recurrences of lower layers, then what the network's input feeds, and last the recurrence
    of the last layer: it has until the next step.

    Parameters
    ----------
    sources : sequence of sequences of int
        For each layer the source of each of its matrices.

    Returns
    -------
    list of (int, int)
        Layer, and place of the matrix in that layer.
    """
    last = len(sources) - 1

    def urgency(place: tuple[int, int]) -> tuple[int, int]:
        target, j = place
        source = sources[target][j]
        if feeds_next_step(source, target):
            return (3, 0) if target == last else (1, target)
        return (2, 0) if source == INPUT else (0, target)

    places = [(i, j) for i, layer in enumerate(sources) for j in range(len(layer))]
    return sorted(places, key=urgency)
