"""The worst step of a network, for any input: words and cycles that no step passes.

Nothing here is a simulation. In every cycle of a step at least one of the engine's parts is at
work: the encoder of the input, a cell with its encoder, a pass of the scheduler, the memory. So the
step lasts no longer than all of that one after the other, each with the most that it can have to
do. The most events of a vector are its budget, or all of its elements; that they are those whose
columns take longest is assumed as well. What the parts do at the same time makes real steps
shorter. Where columns are large, which is where a step is long, that is little: the memory is at
work nearly always.

Refresh and power-down of an SDRAM may come at any time, so their cycles are added to the sum: what
is due in so many cycles, and what was put off before the step.

Not included are pauses of the host: of inputs that come late and outputs that nobody takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.contract.stages import YIELD_WORDS
from stillnet.sw.network.network import Network

from .memory import WorstMemory
from .stages import (
    ACTIVE,
    ADD,
    AFTER_RUN,
    CREDIT,
    DECODE,
    DISPATCH,
    EMIT,
    ENCODE,
    HOT,
    LISTED,
    LOOKED_UP,
    NEXT_DISPATCH,
    NEXT_READ,
    PASS,
    QUEUES,
    QUIET,
    READ,
    REPLAY,
    REQUEST,
    STALL,
    SUMS,
    TAKE,
    TOKEN,
    other_cell,
    to_cell,
)
from .table import Entry, Table

__all__ = ["Guarantee", "GuaranteeModel", "guaranteed_cycles"]


@dataclass(frozen=True)
class Guarantee:
    """What no step of a network passes, whatever its input is.

    Attributes
    ----------
    words : int
        From the memory and the hot store.
    columns : int
    cycles : int
    parts : dict of str to int
        The cycles by what takes them: ``memory``, ``scheduler``, ``cells``, ``input``, and
        ``pauses`` of the memory: refresh and power-down.
    """

    words: int
    columns: int
    cycles: int
    parts: dict[str, int]


def guaranteed_cycles(
    network: Network, config: EngineConfig, *, memory: WorstMemory | None = None
) -> Guarantee:
    """The worst step of a network on an engine.

    Parameters
    ----------
    network : Network
        Its budgets count.
    config : EngineConfig
    memory : WorstMemory, optional
        That of a board is ``Board.worst_memory()``. Where absent, what ``bus_bits`` and
        ``bus_clock`` describe, with any part.
    """
    return GuaranteeModel(network, config, memory).of(network.budgets)


class GuaranteeModel:
    """The worst step of a network under any budgets, of which only the columns depend.

    Parameters
    ----------
    network : Network
    config : EngineConfig
    memory : WorstMemory, optional
    """

    def __init__(
        self, network: Network, config: EngineConfig, memory: WorstMemory | None = None
    ) -> None:
        self.network, self.config = network, config
        self.memory = memory or WorstMemory.of(config)
        self.table = Table(network, config)
        late = LOOKED_UP if config.unequal else 0
        late += DECODE if config.sparse else 0
        late += HOT if config.hot_words else 0
        self._pass = self.table.length + PASS
        # From the last column of a run to the first word of the next one.
        self._round = self._pass + EMIT + AFTER_RUN + REQUEST + TAKE + late + self.memory.latency
        self._loop = REQUEST + TAKE + CREDIT + late + self.memory.latency
        self._time: dict[int, np.ndarray] = {}
        self._words: dict[int, np.ndarray] = {}
        self._matrices: dict[int, list[Entry]] = {}
        self._hot_cycles = 0  # of all columns in the hot store
        self._biases = [entry for entry in self.table.entries if entry.bias]
        for entry in self.table.entries:
            if not entry.bias:
                self._add(entry)
        # Of the columns that take longest: entry k is for k of them.
        self._most_time = {s: _most(v) for s, v in self._time.items()}
        self._most_words = {s: _most(v) for s, v in self._words.items()}

    def _add(self, entry: Entry) -> None:
        lengths = np.array(entry.lengths, np.int64)
        hot = np.array(entry.hot, bool)
        cycles = self._cycles(lengths, hot)
        self._hot_cycles += int(lengths[hot].sum())
        source = entry.source
        self._time[source] = self._time.get(source, 0.0) + cycles
        self._words[source] = self._words.get(source, 0) + lengths
        self._matrices.setdefault(source, []).append(entry)

    def _cycles(self, lengths: np.ndarray, hot: np.ndarray) -> np.ndarray:
        """Cycles of columns, one after the other: at the memory, or in flight where few may be."""
        config, memory = self.config, self.memory
        cold = lengths * memory.word_cycles + memory.column_cycles
        served = np.where(hot, lengths, np.maximum(cold, memory.least_cycles))
        borders = np.where(hot, 0, -(-(lengths - 1) // memory.row_words)) * memory.row_cycles
        columns = min(config.fetch_columns - 2, memory.outstanding)
        share = np.maximum(1 / columns, lengths / max(1, config.fetch_words - 2))
        in_flight = np.minimum(share, 1.0) * self._loop
        return np.maximum(np.maximum(served + borders, in_flight), lengths)

    @property
    def sources(self) -> list[int]:
        """Vectors that may have a budget: of differences, and some matrix reads them."""
        network = self.network
        return [
            source
            for source in self._matrices
            if source < len(network.layers) and network.source_mode(source) is Mode.DELTA
        ]

    # -- events -----------------------------------------------------------------------------------

    def most_events(self, source: int, budgets: dict[int, int]) -> int:
        """Most events of an encoder in a step."""
        mode = self.network.input_mode
        if source == INPUT and mode.one_hot:
            return 2 if mode is Mode.ONE_HOT else 1
        size = len(self._words[source])
        return min(size, budgets.get(source, size))

    def of(self, budgets: dict[int, int]) -> Guarantee:
        """The worst step under these budgets, by source."""
        words = columns = 0
        memory = scheduler = 0.0
        for source, matrices in self._matrices.items():
            events = self.most_events(source, budgets)
            words += int(self._most_words[source][events])
            columns += events * len(matrices)
            memory += float(self._most_time[source][events])
            scheduler += sum(self._gaps(entry, events) for entry in matrices)
        for entry in self._biases:
            words += entry.longest
            memory += float(self._cycles(np.array([entry.longest]), np.array([entry.hot[0]]))[0])
            scheduler += self._gaps(entry, 1)
        scheduler += 3 * self._pass + QUIET
        cells = sum(self._cell(i) for i in range(len(self.network.layers)))
        parts = {
            "memory": int(np.ceil(memory)),
            "scheduler": int(np.ceil(scheduler)),
            "cells": cells,
            "input": self._input(),
        }
        busy = sum(parts.values())
        idle = busy - parts["memory"] + self._hot_cycles
        parts["pauses"] = int(np.ceil(self.memory.pauses(busy, idle)))
        return Guarantee(words, columns, busy + parts["pauses"], parts)

    # -- what is at work besides the memory -------------------------------------------------------

    def _gaps(self, entry: Entry, events: int) -> float:
        """Cycles without a word between the runs of a matrix, and until it is found finished."""
        shortest, longest = min(entry.lengths), max(1, entry.longest)
        rows = max(1, -(-YIELD_WORDS // longest))  # of a run that gives way
        runs = -(-events // rows)
        flying = min(rows * shortest, self.config.fetch_words) * 1.0
        between = max(0.0, self._round - flying)
        return runs * between + self._round + 2 * self._pass

    def _cell(self, i: int) -> int:
        """A layer's cell from its dispatch to the last event of its vector."""
        config, layer = self.config, self.table.layers[i]
        groups = -(-layer.units // config.cell_width)
        cycles = (
            DISPATCH + NEXT_DISPATCH + READ + NEXT_READ + STALL + SUMS + ADD + other_cell(config)
        )
        cycles += layer.blocks * layer.stride  # where a word holds up a read, the word is counted
        cycles += (
            config.read_latency
            + to_cell(config)
            + groups * config.cell_sharing
            + config.cell_sharing
        )
        cycles += layer.depth + ENCODE
        if config.sparse:
            cycles += DECODE + QUEUES
        if config.budgets:
            cycles += REPLAY + groups
        return cycles

    def _input(self) -> int:
        """The input vector from its first element to its last event."""
        network = self.network
        if network.input_mode.one_hot:
            return TOKEN + 2 + LISTED + ACTIVE
        replay = REPLAY + network.inputs if self.config.budgets else 0
        return network.inputs + LISTED + ACTIVE + replay


def _most(costs: np.ndarray) -> np.ndarray:
    """Sums of the largest costs: of none of them, of one, of two, and so on."""
    return np.concatenate([[0], np.cumsum(np.sort(costs)[::-1])])
