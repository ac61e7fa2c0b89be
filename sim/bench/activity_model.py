"""Cycles of steps back to back, from their events: what a schedule of the engine's rules takes.

No constant here is fitted. The scheduler passes over its table, a run goes to the fetcher, columns
pass the port one word a cycle, cells read what was added, and their events come out in time: each
with the number of stages that the block of that name in ``hw/`` has (``docs/architecture.md``).
Values are not computed: which elements are events is known from the reference.

For engines of ``cell_width`` 1 and one encoder, and memory that gives a word a cycle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.schedule import schedule
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import Kind, bias_runs, block_rows
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network

__all__ = ["ENCODED", "Timetable"]

# -- stages, by the file of hw/ that has them ----------------------------------------------------

LATENCY = 8
"""Of the memory."""
TAKEN = 6
"""input_encoder.py: from an element taken to its event in the list and the list's status."""
SETTLE = 7
"""input_encoder.py: from the last element of a vector to the first of the next."""
DECIDE = 3
"""scheduler.py: from a place of a pass to the decision; tables, vector, comparison."""
CHOOSE = 2
"""scheduler.py: from the decision to the run's fields, and to its offer another cycle."""
LIST = 3
"""column_fetcher.py: from a run to its first row. A bias needs no list."""
OVER = 5
"""column_fetcher.py: from the last column issued, through the address, to the next pass."""
ADDRESS = 5
"""column_fetcher.py: from a column issued to its request; three stages and a queue."""
WORD = 1
"""engine.py: a register between the port and the lanes."""
YIELD_WORDS = 64
REQUESTS = 7
OUTSTANDING = 16
"""Reads that the memory takes ahead (``Behaviour.outstanding``)."""
DISPATCH = 2
"""scheduler.py: from the last matrix finished to the dispatch; two registers."""
NEXT_DISPATCH = 4
READER = 3
"""accumulator_reader.py: from a dispatch to the first read; and after the cell before, one less."""
COMMIT, COMMIT_SPARSE = 5, 9
"""lanes.py, sparse_lanes.py, accumulator_reader.py: from a word taken to a read of its sum."""
UNITS = 6
"""accumulator_reader.py: from a block's last read, through memory, buffer and two registers."""
RELEASE = 3
"""From a block's last read to the first word of the next step there."""
START = 3
"""engine.py, cell_unit.py: from a dispatch, through a queue, to the first unit."""
RESCALE, ROW_SCALE = 4, 5
ENCODED = 7
"""write_back.py, event_encoder.py: from a result to its event in the list and the status."""
DRAIN = 9
"""cell_unit.py: the same, and until the first unit of a cell that waited for it."""
QUIET = 1
"""engine.py, scheduler.py: from the last event to a pass that counts as quiet."""


@dataclass
class _Vector:
    """The list of a vector: when each event, its first group and its end are to be seen."""

    index: np.ndarray
    seen: list[int]
    begun: int
    complete: int


@dataclass
class _Matrix:
    """An entry of the scheduler's table."""

    source: int
    target: int
    bias: bool
    once: bool
    pitch: int
    lengths: np.ndarray
    gates: int = 0
    dense: bool = True
    step: int = 0
    place: int = 0


@dataclass
class _Layer:
    """A layer: what was dispatched of it, and how its accumulators were read."""

    stride: int
    blocks: int
    remaining: int = 0
    left: int = 0
    loaded: bool = True
    dispatched: int = 0
    dispatch: int = -(10**9)
    read_end: int = -(10**9)
    free: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    committed: np.ndarray | None = None


class Timetable:
    """The schedule of a network on an engine.

    Parameters
    ----------
    net : Network
    engine : EngineConfig
    latency : int
        Of the memory, cycles.

    Attributes
    ----------
    words : int
        Words read.
    """

    def __init__(self, net: Network, engine: EngineConfig, latency: int = LATENCY) -> None:
        assert engine.cell_width == 1 and not engine.second_threshold
        self.net, self.engine, self.latency = net, engine, latency
        self.chains = engine.max_peers > 0
        self.commit = COMMIT_SPARSE if engine.sparse else COMMIT
        self.layers = [
            _Layer(block_rows(CELLS[la.cell], engine.row_scale), -(-la.units // engine.multipliers))
            for la in net.layers
        ]
        self.table: list[_Matrix] = []
        for i, la in enumerate(net.layers):
            for _, rows, once in bias_runs(CELLS[la.cell], engine.row_scale):
                words = bias_words(la.units, rows, engine)
                self.table.append(_Matrix(INPUT, i, True, once, words, np.array([words]), 4 * rows))
        for i, j in net.matrix_order():
            m = net.layers[i].matrices[j]
            found = m.layout(net.layers[i].cell, engine)
            self.table.append(
                _Matrix(
                    m.source,
                    i,
                    False,
                    False,
                    found.pitch,
                    found.lengths,
                    len(m.gates),
                    found.kind == Kind.DENSE,
                    int(m.source >= i),
                )
            )
            self.layers[i].remaining += 1
            self.layers[i].left += m.source < i
        self.first = next(k for k, m in enumerate(self.table) if not m.bias)
        self.place_of_bias = {
            m.target: k for k, m in enumerate(self.table) if m.bias and not m.once
        }
        self.users = sum(m.source == INPUT and not m.bias for m in self.table)
        self.vectors: dict[tuple[int, int], _Vector] = {}
        for i in range(len(net.layers)):
            self.vectors[i, -1] = _Vector(np.zeros(0, np.int64), [], -(10**9), -(10**9))
        self.words = 0
        # the port
        self.taken = -1
        self.asked = -1
        self.emitted = -1
        self.in_flight: deque[tuple[int, int]] = deque()  # (done, words) of columns
        self.done: deque[int] = deque(maxlen=engine.fetch_columns)
        self.flying_words = 0
        self.accepted: deque[int] = deque(maxlen=REQUESTS)
        self.popped: deque[int] = deque(maxlen=OUTSTANDING)
        # cells
        self.current = self.step = 0
        self.changes: list[tuple[int, int]] = [(-1, 0)]  # dispatches: (cycle, layer that follows)
        self.ready_from = 0
        self.reader_free = self.slot_free = -(10**9)
        self.issued_last = self.drained = -(10**9)
        self.kind = ""
        self.latest = 0
        self.released: list[list[int]] = []  # input: when its matrices had finished each step
        self.begin_of_input: list[int] = []

    # -- vectors ----------------------------------------------------------------------------------

    def _offer(self, step: int) -> None:
        """The input vector of a step, which the host has ready."""
        if step >= len(self.events) or (INPUT, step) in self.vectors:
            return
        begin = 0
        if step:
            begin = self.begin_of_input[step - 1] + self.net.inputs - 1 + SETTLE
        if step >= 2:
            begin = max(begin, self.released[step - 2][-1] + 2)
        self.begin_of_input.append(begin)
        self.released.append([])
        index = self.events[step][INPUT]
        seen = [begin + int(k) + TAKEN for k in index]
        self.vectors[INPUT, step] = _Vector(
            index, seen, begin + 2, begin + self.net.inputs - 1 + TAKEN
        )

    # -- port and lanes ---------------------------------------------------------------------------

    def _column(self, m: _Matrix, words: int, start: int) -> int:
        """A column is issued at ``start`` or later; returns when."""
        emit = max(start, self.emitted + 1)
        # Credits: columns and words in flight, from registers.
        if len(self.done) >= self.engine.fetch_columns - 1:
            emit = max(emit, self.done[1 - self.engine.fetch_columns] + 2)
        while self.in_flight and self.in_flight[0][0] < emit - 1:
            self.flying_words -= self.in_flight.popleft()[1]
        excess = self.flying_words - self.engine.fetch_words + 1
        for done, size in self.in_flight:
            if excess <= 0:
                break
            emit = max(emit, done - max(0, size - excess) + 2)
            excess -= size
        if len(self.accepted) == REQUESTS:
            emit = max(emit, self.accepted[0] + 2)
        self.emitted = emit
        asked = max(emit + ADDRESS, self.asked + 1)
        if len(self.popped) == OUTSTANDING:
            asked = max(asked, self.popped[0] + 1)
        self.asked = asked
        self.accepted.append(asked)
        begin = max(asked + self.latency + WORD, self.taken + 1)
        layer = self.layers[m.target]
        per_block = m.gates
        blocks = None
        if m.dense:
            # Block by block: none that the cell of the step before has not read.
            count = layer.blocks
            at = begin + per_block * np.arange(count, dtype=np.int64)
            if len(layer.free) and layer.free[-1] > begin:
                slack = np.maximum(layer.free + RELEASE, at) - per_block * np.arange(count)
                at = np.maximum.accumulate(slack) + per_block * np.arange(count)
            blocks = at + per_block - 1
            done = int(blocks[-1])
        else:
            begin = max(begin, layer.read_end + RELEASE - 1)
            done = begin + words - 1
        layer.committed = blocks if blocks is not None else np.full(layer.blocks, done)
        self.taken = done
        self.popped.append(done - WORD)
        self.in_flight.append((done, words))
        self.done.append(done)
        self.flying_words += words
        self.words += words
        return emit

    def _run(self, m: _Matrix, rows: int, at: int) -> tuple[int, bool]:
        """A run offered at a cycle: when the next pass begins, and whether all rows were taken."""
        if m.bias:
            return self._column(m, m.pitch, at + 1) + OVER, False
        vector = self.vectors[m.source, self._version(m)]
        emit, total, long = at + LIST, 0, m.pitch >= self.engine.fetch_words // 2
        left = rows
        while left and total < YIELD_WORDS:
            words = int(m.lengths[vector.index[m.place]])
            last = self._column(m, words, emit)
            emit = last + 1 + long
            m.place += 1
            left -= 1
            total += m.pitch
        return last + OVER, not left

    # -- scheduler --------------------------------------------------------------------------------

    @staticmethod
    def _version(m: _Matrix) -> int:
        return m.step - 1 if m.source >= m.target else m.step

    def _current_at(self, now: int) -> int:
        for cycle, layer in reversed(self.changes):
            if cycle < now:
                return layer
        return 0

    def _look(self, m: _Matrix, now: int) -> tuple[int, bool, int]:
        """(rows to take, finished, rank) of a matrix as a pass finds it; a bias has one row."""
        layer = self.layers[m.target]
        held = layer.dispatch < now <= layer.read_end
        rank = 2 * held + (m.target < self._current_at(now))
        dispatched = layer.dispatched - (layer.dispatch >= now)
        if m.bias:
            wanted = not m.once and not layer.loaded and layer.dispatch < now
            return int(wanted), False, rank
        loaded = layer.loaded or layer.dispatch >= now
        vector = self.vectors.get((m.source, self._version(m)))
        if m.step != dispatched or not loaded or vector is None or vector.begun > now:
            return 0, False, rank
        rows = bisect_right(vector.seen, now) - m.place
        return rows, not rows and vector.complete <= now, rank

    def _finish(self, m: _Matrix, now: int) -> None:
        """A matrix has taken all of its vector."""
        if m.source == INPUT:
            self.released[m.step].append(now)
            if len(self.released[m.step]) == self.users:
                self._offer(m.step + 2)
        m.step, m.place = m.step + 1, 0
        self.layers[m.target].left -= 1
        self._dispatch(now)

    def _dispatch(self, now: int) -> None:
        """Cells that may run, in the order of steps and layers."""
        while self.step < len(self.events):
            i = self.current
            layer = self.layers[i]
            if layer.left or not layer.loaded:
                return
            at = max(now + DISPATCH, self.ready_from, self.slot_free + 2)
            self._cell(i, at)
            self.ready_from = at + NEXT_DISPATCH
            layer.dispatched += 1
            layer.dispatch = at
            layer.left = layer.remaining
            if self.net.reload(i):
                layer.loaded = False
            self.current += 1
            if self.current == len(self.layers):
                self.current, self.step = 0, self.step + 1
            self.changes.append((at, self.current))
            now = at

    # -- reader, cell, write-back -----------------------------------------------------------------

    def _cell(self, i: int, at: int) -> None:
        """The cell of a layer, dispatched at a cycle."""
        layer, la, engine = self.layers[i], self.net.layers[i], self.engine
        cell, sharing = CELLS[la.cell], engine.cell_sharing
        accept = max(at + 1, self.reader_free)
        self.slot_free = accept
        ask = accept + READER - 1
        latency = RESCALE + ROW_SCALE * engine.row_scale + schedule(cell, sharing).latency
        unit = max(at + START, self.issued_last + 1)
        if la.cell != self.kind or cell.peers or len(self.layers) == 1:
            unit = max(unit, self.drained)
        open_ = layer.committed + self.commit if layer.committed is not None else None
        reads = np.zeros(layer.blocks, np.int64)
        issues = np.zeros(la.units, np.int64)
        ends: list[int] = []
        for b in range(layer.blocks):
            if open_ is not None:
                ask = max(ask, int(open_[b]))
            if b >= engine.prefetch_blocks:  # a place in the buffer
                ask = max(ask, ends[b - engine.prefetch_blocks] - 1)
            reads[b] = ask + layer.stride - 1
            unit = max(unit, int(reads[b]) + UNITS)
            stop = min(la.units, (b + 1) * engine.multipliers)
            size = stop - b * engine.multipliers
            issues[b * engine.multipliers : stop] = unit + sharing * np.arange(size)
            unit += sharing * size
            ends.append(unit - sharing)
            ask = int(reads[b]) + 1
        layer.free, layer.read_end = reads, int(reads[-1]) + 1
        layer.committed = None
        self.reader_free = int(reads[-1]) + 1
        self.issued_last, self.kind = int(issues[-1]), la.cell
        self.drained = self.issued_last + latency + DRAIN
        index = self.events[self.step][i]
        seen = issues + latency + ENCODED
        self.vectors[i, self.step] = _Vector(
            index, seen[index].tolist(), int(seen[0]), int(seen[-1])
        )
        self.latest = int(seen[-1])

    # -- the whole --------------------------------------------------------------------------------

    def cycles(self, events: list[dict[int, np.ndarray]]) -> int:
        """Cycles from idle to idle.

        Parameters
        ----------
        events : list of dict of source to int array
            For each step the elements that are events, in order, by source.
        """
        self.events = events
        self._offer(0)
        self._offer(1)
        begin, last, again, best = 0, len(self.table) - 1, False, -1
        while True:
            order = list(range(last + 1))
            if self.chains:
                # The matrix of the run before, one layer's biases if any wants them, the others.
                order = list(range(self.first, last + 1))
                wanting = [
                    i
                    for i, layer in enumerate(self.layers)
                    if not layer.loaded and layer.dispatch < begin - 3
                ]
                if wanting:
                    order.insert(0, self.place_of_bias[wanting[0]])
                if again:
                    order.insert(0, best)
            probe, again = again, False
            chosen, rank, moved = -1, 4, False
            for k, number in enumerate(order):
                m, now = self.table[number], begin + 1 + k
                rows, finished, found = self._look(m, now)
                if finished:
                    moved = True
                    self._finish(m, now + DECIDE - 1)
                    if probe and k == 0:
                        break
                if rows and found < rank:
                    chosen, rank, many = number, found, rows
                    if rank == 0:
                        break
            decided = begin + k + DECIDE
            if chosen < 0:
                quiet = max(self.taken + self.commit, self.latest) + QUIET
                if not moved and self.step == len(events) and begin >= quiet:
                    return decided + 2 - DECIDE
                begin = decided + 2
                continue
            best, m = chosen, self.table[chosen]
            begin, again = self._run(m, many, decided + CHOOSE + 1)
            if m.bias:
                self.layers[m.target].loaded = True
                self._dispatch(begin - 1)
