"""Cycles of an engine, predicted column by column from the events of each step.

The port delivers one word a cycle. A column takes as many cycles as it has words, in the order in
which the scheduler takes columns (docs/architecture.md, *The schedule*); between an event and its
first word lie the stages of *Life of a word* and the memory's latency; a cell runs once its layer's
columns are in, one row of units a cycle, and its units' events follow the cell's depth later. That
is all that is modelled: no clock is stepped, and a step of a thousand columns takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract.cells import CELLS
from .contract.config import EngineConfig
from .contract.image import Kind
from .model import INPUT
from .network import Network

__all__ = ["MemoryModel", "ScheduleModel"]

_TAKE = 9
"""Cycles from an element on the input stream to its event in the list, and to the scheduler."""

_FETCH = 15
"""Cycles from an event in a list to its first word in the lanes, memory latency left out."""

_WRITE_BACK = 24
"""Cycles from the last column's word to the reader, through rescale, and from the cell to the list;
the depth of the cell is left out."""

_DEPTH = {"gru": 27, "sigmoid": 9, "tanh": 9, "relu": 3, "linear": 2}
_DEPTH_OTHER = 20
"""Cycles of a cell's pipeline."""

_READ = 14
"""Cycles from the begin of a read to the first word of the next step that may enter."""

_DRAIN = 0
"""How much earlier than its last event a cell's pipeline is free for another cell."""

_RUN_WORDS = 64
"""Words after which a run of columns gives way."""

_FINISH = 12
"""Cycles from the last word to idle."""


@dataclass(frozen=True)
class MemoryModel:
    """What stands behind the port.

    Attributes
    ----------
    latency : float
        Cycles from a request to its first word.
    word_cycles : float
        Cycles a word, refresh included.
    column_cycles : float
        Cycles lost with each column: what row changes take that no other bank hides.
    """

    latency: float = 8.0
    word_cycles: float = 1.0
    column_cycles: float = 0.0

    @classmethod
    def sdram16(cls) -> MemoryModel:
        """A 16-bit SDRAM at 100 MHz that gives a word of two lanes a cycle: as measured by
        ``stillnet bench sdram`` (IS42S16160: .9899 of the bus in sequence, .9699 in columns of 64
        transfers)."""
        return cls(24.0, 1 / 0.9899, 1.35)


@dataclass
class _Matrix:
    source: int
    target: int
    lengths: np.ndarray
    unit_major: bool
    recurrent: bool
    rank: int
    step: int = 0
    place: int = 0


class ScheduleModel:
    """Predicts cycles of a network on an engine.

    Parameters
    ----------
    network : Network
    config : EngineConfig
    memory : MemoryModel, optional
    """

    def __init__(
        self, network: Network, config: EngineConfig, memory: MemoryModel | None = None
    ) -> None:
        self.network, self.config = network, config
        self.memory = memory or MemoryModel()
        count = len(network.layers)
        self.lengths: dict[tuple[int, int], np.ndarray] = {}
        self.kind: dict[tuple[int, int], Kind] = {}
        order = []
        for i, layer in enumerate(network.layers):
            for j, m in enumerate(layer.matrices):
                found = m.layout(layer.cell, config)
                self.lengths[i, j], self.kind[i, j] = found.lengths, found.kind
                if m.source >= i:
                    key = (3, 0) if i == count - 1 else (1, i)
                else:
                    key = (2, 0) if m.source == INPUT else (0, i)
                order.append((key, i, j))
        self.order = [(i, j) for _, i, j in sorted(order)]

    def run(self, events: list[dict[int, np.ndarray]], *, streaming: bool = True) -> np.ndarray:
        """Cycles of each step.

        Parameters
        ----------
        events : list of dict of source to int array
            For each step the elements that fire, in order, by source.
        streaming : bool
            Vectors wait at the input; else each is offered to an idle engine.

        Returns
        -------
        array of float, shape (steps,)
            Together the cycles in which the engine is active.
        """
        if not streaming:
            return np.concatenate([self._run([*self._tail(events, t)]) for t in range(len(events))])
        return self._run(events)

    def _tail(self, events: list[dict[int, np.ndarray]], step: int) -> list[dict[int, np.ndarray]]:
        return [events[step]]

    def _run(self, events: list[dict[int, np.ndarray]]) -> np.ndarray:
        network, config, memory = self.network, self.config, self.memory
        layers, steps, width = network.layers, len(events), config.cell_width
        matrices = [
            _Matrix(
                layers[i].matrices[j].source,
                i,
                self.lengths[i, j] * memory.word_cycles + memory.column_cycles,
                self.kind[i, j] == Kind.DENSE,
                layers[i].matrices[j].source >= i,
                rank,
            )
            for rank, (i, j) in enumerate(self.order)
        ]
        of_layer: list[list[_Matrix]] = [[] for _ in layers]
        for m in matrices:
            of_layer[m.target].append(m)
        for m in matrices:
            m.step = 0
        ready: dict[tuple[int, int], np.ndarray] = {}  # (source, step): times of its events
        lists: dict[tuple[int, int], np.ndarray] = {}
        none = np.zeros(0)
        empty = np.zeros(0, np.int64)
        for m in matrices:
            if m.recurrent:
                ready[m.source, -1], lists[m.source, -1] = none, empty
        taken = 0  # steps whose input was offered
        offered = 0.0
        dispatched = [0] * len(layers)
        read_end = [-1e9] * len(layers)
        read_begin = [-1e9] * len(layers)
        last_column = [(-1e9, 0.0)] * len(layers)
        latest_read = drained = -1e9
        previous: tuple[str, int] | None = None
        free = 0.0
        finished = np.zeros(steps)
        cell_end = 0.0
        next_cell = (0, 0)
        users = [m for m in matrices if m.source == INPUT]

        def offer() -> None:
            nonlocal taken, offered
            while taken < steps and all(m.step >= taken - 1 for m in users):
                index = events[taken].get(INPUT, empty)
                begin = max(offered, free - 1e9 if taken < 2 else offered)
                ready[INPUT, taken] = begin + _TAKE + index
                lists[INPUT, taken] = index
                offered = begin + network.inputs
                taken += 1

        def dispatch() -> None:
            nonlocal next_cell, latest_read, cell_end, previous, drained
            while next_cell[0] < steps:
                t, i = next_cell
                if any(m.step <= t for m in of_layer[i]):
                    return
                layer, cell = layers[i], CELLS[layers[i].cell]
                begin, length = last_column[i]
                count = len(cell.accumulators)
                rate = max(1 / width, count / config.multipliers)
                start = max(begin + 6, latest_read)
                if previous is not None and (previous[1] == i or previous[0] != layer.cell):
                    start = max(start, drained)  # another cell's pipeline, or its own state
                span = layer.units * rate
                finish = max(start + span, begin + length + 6)
                latest_read = finish
                # The reader is ahead of the cell by what is prefetched.
                ahead = min(layer.units, config.prefetch_blocks * config.multipliers) * rate
                taken_out = max(finish - ahead, start + layer.units * count / config.multipliers)
                read_begin[i] = start
                read_end[i] = max(taken_out, begin + length + 6)
                depth = _DEPTH.get(layer.cell, _DEPTH_OTHER) + _WRITE_BACK
                index = events[t].get(i, empty)
                slope = (finish - start) / max(layer.units, 1)
                ready[i, t] = start + depth + (index // width * width + width) * slope
                lists[i, t] = index
                cell_end = max(cell_end, finish + depth)
                previous, drained = (layer.cell, i), finish + depth - _DRAIN
                if i == len(layers) - 1:
                    finished[t] = max(free, finish + depth)
                dispatched[i] = t + 1
                next_cell = (t, i + 1) if i + 1 < len(layers) else (t + 1, 0)

        def skip() -> None:
            moved = True
            while moved:
                moved = False
                offer()
                for m in matrices:
                    while m.step < steps + 1 and m.step <= dispatched[m.target]:
                        key = (m.source, m.step - 1 if m.recurrent else m.step)
                        if key not in lists or m.place < len(lists[key]):
                            break
                        m.step, m.place, moved = m.step + 1, 0, True
                before = next_cell
                dispatch()
                moved |= next_cell != before

        skip()
        while True:
            waiting = []
            for m in matrices:
                if m.step > dispatched[m.target]:
                    continue
                key = (m.source, m.step - 1 if m.recurrent else m.step)
                if key in lists and m.place < len(lists[key]):
                    waiting.append((float(ready[key][m.place]), m, key))
            if not waiting:
                break
            now = max(free - memory.latency - _FETCH, min(w[0] for w in waiting))
            choice = min(
                (w for w in waiting if w[0] <= now),
                key=lambda w: (read_end[w[1].target] > now, w[1].step, w[1].rank),
            )
            _, m, key = choice
            index, times = lists[key], ready[key]
            words = 0.0
            while m.place < len(index) and words < _RUN_WORDS and times[m.place] <= now:
                length = float(m.lengths[index[m.place]])
                begin = max(free, float(times[m.place]) + _FETCH + memory.latency)
                if not m.unit_major:
                    begin = max(begin, read_end[m.target])
                else:
                    begin = max(
                        begin,
                        read_begin[m.target] + _READ,
                        read_end[m.target] - length + _READ,
                    )
                free = begin + length
                last_column[m.target] = (begin, length)
                words += length
                m.place += 1
                now = max(now, free - memory.latency - _FETCH)
            skip()
        end = max(free, cell_end) + _FINISH
        if steps > 1:
            # What a step encoded is its own; the border of two steps is where its outputs end.
            finished[-1] = end
            return np.diff(np.concatenate([[0.0], np.maximum.accumulate(finished)]))
        return np.array([end])
