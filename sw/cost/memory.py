"""What stands behind an engine's memory port, in cycles."""

from __future__ import annotations

from dataclasses import dataclass

from stillnet.sw.contract.config import EngineConfig

__all__ = ["MemoryModel"]

SDRAM_LATENCY = 24.0
"""Cycles of an SDRAM from a request to the first item of the bus."""

CROSSING_THERE, CROSSING_HERE = 4.0, 4.0
"""``hw/memory/crossing.py``: cycles of the memory that a request waits, of the engine that a word
does: two registers against metastability, the counter and the queue's output."""


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
    def sdram(
        cls, config: EngineConfig, *, bus_bits: int = 16, clocks: float | None = None
    ) -> MemoryModel:
        """An SDRAM, of 16 bits and at the engine's clock where nothing else is said.

        As ``stillnet bench sdram`` measured it (IS42S16160): .9899 of the bus in sequence, .9699 in
        columns of 64 transfers.

        Parameters
        ----------
        config : EngineConfig
            Whose words are read, in as many cycles of the bus as they are wider.
        bus_bits : int
        clocks : float, optional
            Cycles of the SDRAM in one of the engine, where it has a clock of its own.
        """
        ratio = clocks or 1.0
        items = config.word_bits / bus_bits
        latency = SDRAM_LATENCY + items - 1
        if clocks is not None:
            latency += CROSSING_THERE
        latency = latency / ratio + (CROSSING_HERE if clocks is not None else 0)
        return cls(latency, items / 0.9899 / ratio, 1.35 / ratio)
