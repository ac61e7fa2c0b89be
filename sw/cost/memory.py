"""What stands behind an engine's memory port, in cycles."""

from __future__ import annotations

from dataclasses import dataclass

from stillnet.sw.contract.config import EngineConfig

__all__ = ["MemoryModel", "SdramFacts", "WorstMemory"]

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


@dataclass(frozen=True)
class SdramFacts:
    """An SDRAM behind its controller, in cycles of its own clock.

    A board gives those that its build uses (``boards.board.Board.sdram_facts``). The defaults are
    for engines without a board: of each rule the slowest of all parts in the table of
    ``hw/memory/sdram``, at clocks from 100 to 133 MHz.

    Attributes
    ----------
    data_bits, row_bits : int
        Of the bus, and of a row.
    cas_latency, trcd, trp, tras, trc, trfc, refresh_interval, txp, tcke : int
        As in ``SdramTimings``.
    registers : int
        On the way to the part and back, beside the controller's own.
    postponed : int
        Refreshes that may wait.
    power_down : int
        Cycles without a request after which it sleeps; 0: never.
    """

    data_bits: int = 16
    row_bits: int = 8192
    cas_latency: int = 3
    trcd: int = 3
    trp: int = 3
    tras: int = 6
    trc: int = 10
    trfc: int = 10
    refresh_interval: int = 779
    txp: int = 2
    tcke: int = 1
    registers: int = 3
    postponed: int = 8
    power_down: int = 64

    @property
    def row_change(self) -> int:
        """Lost with a column that lies in another row of the bank that the column before has used:
        PRECHARGE and ACTIVATE. The bank chooses one a cycle before it is issued."""
        return max(self.trp, CHOICE) + self.trcd

    @property
    def least(self) -> int:
        """Such a column lasts at least so long, however short it is."""
        return max(self.row_change + SHORT, self.trc + CHOICE)

    @property
    def closing(self) -> int:
        """To close all rows: settled, PRECHARGE, tRP, or tRC less tRAS."""
        return SETTLE + max(self.trp, self.trc - self.tras)

    @property
    def refresh(self) -> int:
        """Lost with one refresh at most: rows closed, tRFC, and the row opened again."""
        return self.closing + self.trfc + RELEASE + self.trcd + 1

    @property
    def wake(self) -> int:
        """Lost by a request that comes as the part is on its way to sleep, at most."""
        return self.closing + 1 + self.tcke + self.txp + RELEASE + 1

    def latency(self, items: float) -> float:
        """From a request to its first word of so many items, another row of its bank open."""
        return PIPELINE + self.row_change + self.cas_latency + self.registers + items


CHOICE = 2
"""``bank.py``, ``controller.py``: from a command for a row to the next one that a bank may get."""

SHORT = 4
"""``bank.py``: from a row's first READ until its PRECHARGE."""

BORDER = 2.25
"""Cycles lost at each border of a row within a column; the next row lies in the next bank, whose
row is opened meanwhile, where there is a while."""

SETTLE = 5
"""``refresh.py``: from the wish to close all rows, until PRECHARGE is issued."""

RELEASE = 3
"""``refresh.py``: from the end of a refresh, or of sleep, until a row may be opened."""

PIPELINE = 12
"""``segments.py``, ``controller.py``, ``words.py``: registers from a request to its first word,
beside those of the pads."""


@dataclass(frozen=True)
class WorstMemory:
    """A memory at its slowest, in cycles of the engine.

    Attributes
    ----------
    latency : float
        From a request to its first word, at most.
    word_cycles : float
        Per word.
    column_cycles, row_cycles : float
        Lost with each column, and at each border of a row in it.
    least_cycles : float
        What a column takes at least.
    row_words : int
        Words of a row.
    outstanding : int
        Requests that are accepted before the first of them is served.
    start : float
        Lost once per step: refreshes that were put off before it, and sleep.
    refresh_share : float
        Share of all time that refreshes take.
    wake, sleep_after : float
        Lost with each time that the memory had to wake up; cycles without a request after which it
        sleeps, 0 for never.
    """

    latency: float = 8.0
    word_cycles: float = 1.0
    column_cycles: float = 0.0
    row_cycles: float = 0.0
    least_cycles: float = 0.0
    row_words: int = 1 << 16
    outstanding: int = 16
    start: float = 0.0
    refresh_share: float = 0.0
    wake: float = 0.0
    sleep_after: float = 0.0

    @classmethod
    def of(cls, config: EngineConfig) -> WorstMemory:
        """The memory of an engine: on-chip RAM, or an SDRAM as ``bus_bits`` and ``bus_clock`` say,
        of any part."""
        if config.memory == "ram":
            return cls(latency=4.0)
        return cls.sdram(config, SdramFacts(data_bits=config.bus_bits))

    @classmethod
    def sdram(cls, config: EngineConfig, facts: SdramFacts) -> WorstMemory:
        """An engine's SDRAM.

        Every refresh that comes due may find rows open and close them for itself alone, and every
        column may need another row of the bank that the column before has used. So this holds for
        any order of columns.

        Parameters
        ----------
        config : EngineConfig
            ``bus_clock`` has the cycles of the SDRAM in one of the engine.
        facts : SdramFacts
        """
        ratio, own = config.bus_clock or 1.0, config.bus_clock > 0
        items = max(1, config.word_bits // facts.data_bits)
        latency = facts.latency(items) + (CROSSING_THERE if own else 0)
        return cls(
            latency=latency / ratio + (CROSSING_HERE if own else 0),
            word_cycles=items / ratio,
            column_cycles=facts.row_change / ratio,
            least_cycles=facts.least / ratio,
            row_cycles=BORDER / ratio,
            row_words=max(1, facts.row_bits // config.word_bits),
            start=(facts.postponed + 1) * facts.refresh / ratio,
            refresh_share=facts.refresh / facts.refresh_interval,
            wake=facts.wake / ratio if facts.power_down else 0.0,
            sleep_after=facts.power_down / ratio,
        )

    def pauses(self, busy: float, idle: float) -> float:
        """Cycles that refresh and sleep add to a step.

        Parameters
        ----------
        busy : float
            Cycles of the step without them.
        idle : float
            Those of them in which nothing is asked of the memory, at most.
        """
        wakes = (1 + idle // self.sleep_after) * self.wake if self.sleep_after else 0.0
        lost = self.start + wakes
        return (busy + lost) / (1 - self.refresh_share) - busy
