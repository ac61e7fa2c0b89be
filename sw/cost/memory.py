"""What stands behind an engine's memory port, in cycles."""

from __future__ import annotations

from dataclasses import dataclass

from stillnet.sw.contract.config import EngineConfig

__all__ = ["MemoryModel", "WorstMemory"]

SDRAM_LATENCY = 24.0
"""Cycles of an SDRAM from a request to the first item of the bus."""

CROSSING_THERE, CROSSING_HERE = 6.0, 4.0
"""``hw/memory/crossing.py``: cycles of the memory that a request and its first word wait, of the
engine that the word does: two registers against metastability, the counter and the queue's output,
and at the memory's clock a register in front of each queue's other end."""


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
    def of(cls, config: EngineConfig) -> MemoryModel:
        """The memory of an engine: an SDRAM as ``bus_bits`` and ``bus_clock`` say.

        As ``stillnet bench sdram`` measured it (IS42S16160): .9899 of the bus in sequence, .9699 in
        columns of 64 transfers. A word wider than the bus takes as many of its cycles.
        """
        ratio, own = config.bus_clock or 1.0, config.bus_clock > 0
        items = max(1.0, config.word_bits / config.bus_bits)
        latency = SDRAM_LATENCY + items - 1 + (CROSSING_THERE if own else 0)
        latency = latency / ratio + (CROSSING_HERE if own else 0)
        return cls(latency, items / 0.9899 / ratio, 1.35 / ratio)


WORST_COLUMN = 7.0
"""Cycles of an SDRAM that a column waits at most for PRECHARGE and ACTIVATE: where it lies in the
bank of the column before, in another row."""

WORST_BORDER = 1.25
"""The same at each border of a row within a column; the next row lies in the next bank."""

WORST_REFRESH = 0.014
"""Share of an SDRAM's time that refresh takes, and the rows that it closes."""

WORST_PAUSE = 96.0
"""Cycles of an SDRAM in which refreshes that were put off are made up for; once more than the share
says, because a step may begin with it."""

ROW_BITS = 8192
"""Bits of a row, of the parts with the shortest rows."""


@dataclass(frozen=True)
class WorstMemory:
    """A memory at its slowest, in cycles of the engine.

    Attributes
    ----------
    latency : float
        From a request to its first word, at most.
    word_cycles : float
        Per word, refresh included.
    column_cycles, row_cycles : float
        Lost with each column, and at each border of a row in it.
    row_words : int
        Words of a row.
    outstanding : int
        Requests that are accepted before the first of them is served.
    start : float
        Lost once per step.
    """

    latency: float = 8.0
    word_cycles: float = 1.0
    column_cycles: float = 0.0
    row_cycles: float = 0.0
    row_words: int = 1 << 16
    outstanding: int = 16
    start: float = 0.0

    @classmethod
    def of(cls, config: EngineConfig) -> WorstMemory:
        """The memory of an engine: on-chip RAM, or an SDRAM as ``bus_bits`` and ``bus_clock`` say.

        What ``stillnet bench sdram`` measures where every column needs another row of the same
        bank, for any part in the table of ``hw/memory/sdram``, is within it.
        """
        if config.memory == "ram":
            return cls(latency=4.0)
        usual = MemoryModel.of(config)
        ratio = config.bus_clock or 1.0
        items = max(1.0, config.word_bits / config.bus_bits)
        pause = WORST_PAUSE / ratio
        return cls(
            latency=usual.latency + WORST_COLUMN / ratio,
            word_cycles=items / (1 - WORST_REFRESH) / ratio,
            column_cycles=WORST_COLUMN / ratio,
            row_cycles=WORST_BORDER / ratio,
            row_words=max(1, ROW_BITS // config.word_bits),
            start=pause,
        )
