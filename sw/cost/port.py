"""Columns on their way through the memory port: when each is issued, and when its words are taken.

Columns get all of their times as they are issued, because what holds one back was issued before it:
credits for columns, words and requests (rule 9 of docs/architecture.md), the memory, and the cell
that has still to read the sums of the step before (rule 3).
"""

from __future__ import annotations

import math
from bisect import bisect_right

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.stages import BANK_WORDS, REQUESTS, store_slices, store_stages

from .memory import MemoryModel
from .stages import COLD_QUEUE, CREDIT, HOT, LOOKED_UP, READ_AHEAD, REQUEST, TAKE
from .table import Entry

__all__ = ["Port"]


class Port:
    """All columns of a run, in the order in which they are issued.

    Attributes
    ----------
    free : float
        When the lanes may take the next word.
    begins, ends : list of float
        When the first word of each column is taken, and the cycle after its last one.
    """

    def __init__(self, config: EngineConfig, memory: MemoryModel) -> None:
        self.config, self.memory = config, memory
        self.free = -math.inf
        self._hot_latency = HOT
        if config.hot_words > BANK_WORDS:  # more stages than a single memory, and slices
            stages = store_stages(-(-config.hot_words // BANK_WORDS))
            self._hot_latency += stages - 1 + store_slices(config.word_bits) - 1
        self._memory_free = -math.inf  # when the memory may begin with another column
        self.begins: list[float] = []
        self.ends: list[float] = []
        self._entries: list[Entry] = []
        self._emitted: list[float] = []
        self._accepted: list[float] = []
        self._words: list[int] = []
        self._total: list[int] = []  # words up to and with each column
        self._taken_at = 0  # a column before which all words are taken
        self._lag = CREDIT + (LOOKED_UP if config.unequal else 0)

    def issue(
        self, time: float, entry: Entry, words: int, released: list[float], hot: bool = False
    ) -> float:
        """Issues a column; when that was.

        Parameters
        ----------
        time : float
            Not before it.
        entry : Entry
        words : int
        released : list of float
            When a word may enter each block of the layer; empty where the column need not wait.
        hot : bool
            The column is in the hot store.
        """
        memory = self.memory
        k = len(self._emitted)
        time = self._credit(time)
        accepted = time + REQUEST
        if k:
            accepted = max(accepted, self._accepted[-1] + 1)
        tiers = self.config.hot_words > 0
        if k >= memory.outstanding and not tiers:
            accepted = max(accepted, self.ends[k - memory.outstanding] - TAKE)
        service = words * memory.word_cycles + memory.column_cycles
        if hot:
            begin, service = max(self.free, accepted + self._hot_latency + TAKE), words
        else:
            # In front of the hot store's queue the memory works ahead of what the lanes take.
            late = TAKE + (READ_AHEAD if tiers else 0)
            first = accepted + memory.latency + (COLD_QUEUE if tiers else 0)
            first = max(first, self._memory_free) if tiers else first
            begin = max(self.free, first + late)
            self._memory_free = first + service
            if tiers:
                service = max(words, self._memory_free + late - begin)
        if released and released[-1] > begin:
            if entry.kind == Kind.DENSE or entry.kind == Kind.BIAS:  # block after block
                each = service / len(released)
                begin = max(begin, max(o - b * each for b, o in enumerate(released)))
            else:
                begin = released[-1]
        self.free = begin + service
        self._entries.append(entry)
        self._emitted.append(time)
        self._accepted.append(accepted)
        self.begins.append(begin)
        self.ends.append(self.free)
        self._words.append(words)
        self._total.append(words + (self._total[-1] if k else 0))
        return time

    def taking(self, time: float) -> tuple[Entry | None, bool]:
        """The entry whose column is being taken at a time, and whether no later one was issued."""
        k = bisect_right(self.begins, time) - 1
        if k >= 0 and time < self.ends[k]:
            return self._entries[k], False
        return None, k == len(self.begins) - 1

    def _credit(self, time: float) -> float:
        """When there are few enough columns, requests and words in flight.

        The counters are compared a cycle before, so the latest column is not in them where it was
        issued a cycle ago.
        """
        emitted, k = self._emitted, len(self._emitted)
        limits = (self.ends, self.config.fetch_columns, 1), (self._accepted, REQUESTS, CREDIT)
        for gone, limit, lag in limits:
            if k >= limit:
                time = max(time, gone[k - limit] + lag)
            if k >= limit - 1 and time > emitted[-1] + 1:
                time = max(time, gone[k - limit + 1] + lag)
        while True:
            known = k
            while known and emitted[known - 1] > time - self._lag:
                known -= 1
            need = (self._total[known - 1] if known else 0) - self.config.fetch_words + 1
            if need <= 0:
                return time
            free = self._taken(need) + 1
            if free <= time:
                return time
            time = free

    def _taken(self, words: int) -> float:
        """The cycle after so many words are taken."""
        while self._total[self._taken_at] < words:
            self._taken_at += 1
        k = self._taken_at
        missing = words - (self._total[k] - self._words[k])
        part = (self.ends[k] - self.begins[k]) * missing / self._words[k]
        return math.ceil(self.begins[k] + part)
