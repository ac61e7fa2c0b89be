"""What stands behind an engine's memory port, in cycles."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryModel"]


@dataclass(frozen=True)
class MemoryModel:
    """A memory.

    Attributes
    ----------
    latency : float
        Cycles from a request to its first word.
    word_cycles : float
        Cycles per word, refresh included.
    column_cycles : float
        Cycles lost with each column: what row changes take that no other bank hides.
    outstanding : int
        Requests that are accepted before the first of them is served.
    """

    latency: float = 8.0
    word_cycles: float = 1.0
    column_cycles: float = 0.0
    outstanding: int = 16

    @classmethod
    def sdram16(cls) -> MemoryModel:
        """A 16-bit SDRAM at 100 MHz that gives a word of two lanes per cycle.

        As ``stillnet bench sdram`` measured it (IS42S16160): .9899 of the bus in sequence, .9699 in
        columns of 64 transfers.
        """
        return cls(24.0, 1 / 0.9899, 1.35)
