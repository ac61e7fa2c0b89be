"""One run of an engine from idle to idle, without stepping its clock.

Four places in the engine have an order of work, and each is walked in that order: the scheduler's
passes over its table of matrices, the columns that the fetcher issues, the words that the lanes
take, and the blocks that a dispatched cell reads. What one of them does is decided by what the
others have done *before*, so a single walk in the order of the scheduler's passes suffices: columns
get their times as they are issued, a cell all of its times as it is dispatched. The rules are those
of docs/architecture.md (*The schedule*).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.sources import INPUT

from .stages import (
    ACTIVE,
    ADD,
    AFTER_RUN,
    DECIDE,
    DECODE,
    DISPATCH,
    EMIT,
    ENCODE,
    GAP,
    LISTED,
    NEXT_DISPATCH,
    OTHER_CELL,
    QUEUES,
    QUIET,
    READ,
    RELEASE,
    REQUEST,
    REQUESTS,
    SAMPLE,
    SUMS,
    TAKE,
    TO_CELL,
    YIELD_WORDS,
)

if TYPE_CHECKING:
    from .model import ScheduleModel

__all__ = ["Walk"]


@dataclass
class Vector:
    """Events of a vector: rows of the list with the times at which the scheduler sees them."""

    first: float
    complete: float
    times: list[float] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)


@dataclass
class Matrix:
    """An entry of the scheduler's table."""

    place: int
    source: int
    target: int
    lengths: list[int]
    kind: Kind
    gates: tuple[int, ...]
    step: int = 0
    position: int = 0
    recurrent: bool = False

    @property
    def wanted(self) -> tuple[int, int]:
        """The vector that it takes next: (source, step)."""
        return self.source, self.step - 1 if self.recurrent else self.step


@dataclass
class Column:
    """The latest column of a layer."""

    begin: float
    end: float
    words: int
    unit_major: bool
    late: float


class Walk:
    """One run of the engine from idle to idle; time 0 is that of the first input element."""

    def __init__(self, model: ScheduleModel, events: list[dict[int, np.ndarray]]) -> None:
        self.model, self.events = model, events
        self.network, self.config, self.memory = model.network, model.config, model.memory
        self.layers = self.network.layers
        self.steps = len(events)
        self.matrices = [Matrix(*entry, recurrent=entry[1] >= entry[2]) for entry in model.matrices]
        self.users = [m for m in self.matrices if m.source == INPUT]
        self.remaining = [
            sum(m.target == i for m in self.matrices) for i in range(len(self.layers))
        ]
        self.feeding = list(self.remaining)
        self.vectors: dict[tuple[int, int], Vector] = {}
        for m in self.matrices:
            if m.recurrent:
                self.vectors[m.source, -1] = Vector(-math.inf, -math.inf)
        # input
        self.offered = 0  # vectors
        self.input_end = 0.0
        # dispatch and reading
        self.current = (0, 0)  # step, layer of the next cell
        self.dispatched = [0] * len(self.layers)
        self.dispatch_times: list[list[float]] = [[] for _ in self.layers]
        self.last_dispatch = -math.inf
        self.held = [(-math.inf, -math.inf)] * len(self.layers)
        self.open: list[list[float]] = [[-math.inf] for _ in self.layers]
        self.read_end = -math.inf
        self.slot_free = -math.inf  # of the cell that waits for the reader
        self.unit_time = -math.inf  # of the latest unit in the cell unit
        self.encoded = -math.inf
        self.latest_cell: tuple[str, int] | None = None
        self.finished = [0.0] * self.steps
        # columns and words
        self.latest: list[Column | None] = [None] * len(self.layers)
        self.columns: list[Matrix] = []
        self.emitted: list[float] = []
        self.accepted: list[float] = []
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.total: list[int] = []  # words up to and with each column
        self.words: list[int] = []
        self.free = -math.inf
        self.taken_at = 0  # a column before which all words are taken, for the credits
        self._offer(0.0)

    # -- input ------------------------------------------------------------------------------------

    def _offer(self, now: float) -> None:
        """Vectors for which a half of the list is free."""
        while self.offered < self.steps and all(m.step >= self.offered - 1 for m in self.users):
            t = self.offered
            begin = 0.0 if t == 0 else max(self.input_end + GAP, now + 2 if t > 1 else 0.0)
            index = self.events[t].get(INPUT, np.zeros(0, np.int64)).tolist()
            self.input_end = begin + self.network.inputs - 1
            self.vectors[INPUT, t] = Vector(
                begin + 2,
                self.input_end + LISTED,
                [begin + k + LISTED for k in index],
                [[k] for k in index],
            )
            self.offered += 1

    # -- scheduler --------------------------------------------------------------------------------

    def cycles(self) -> np.ndarray:
        """Cycles of each step, together those of the run."""
        entries = self.model.entries
        now = -entries / 2  # a pass is somewhere when the first element comes
        while True:
            chosen = self._scan(now)
            if chosen is not None:
                now = self._run(*chosen) + AFTER_RUN
                continue
            now += entries + 4
            following = self._following(now)
            if following is None:
                break
            now += max(0, math.floor((following - now) / (entries + 4))) * (entries + 4)
        # Idle: a whole pass in which nothing moved.
        adding = ADD + (DECODE if self.config.sparse else 0)
        quiet = max(self.encoded, self.free + adding) + QUIET
        now += max(0, math.ceil((quiet - now) / (entries + 4))) * (entries + 4)
        end = now + entries + 4 - ACTIVE
        border = np.maximum.accumulate(self.finished)
        border[-1] = end
        return np.diff(np.concatenate([[0.0], border]))

    def _scan(self, now: float) -> tuple[float, Matrix, int] | None:
        """A pass: (time of the first column, matrix, rows), if one has events."""
        best: tuple[tuple[bool, bool], Matrix, int] | None = None
        for m in self.matrices:
            at = now + m.place + SAMPLE
            vector = self.vectors.get(m.wanted)
            if vector is None or vector.first > at or not self._collects(m, at):
                continue
            rows = bisect_right(vector.times, at) - m.position
            if rows > 0:
                low, high = self.held[m.target]
                rank = (low < at <= high, self._late(m.target, at))
                if not any(rank):
                    return now + m.place + EMIT, m, rows
                if best is None or rank < best[0]:
                    best = rank, m, rows
            elif vector.complete <= at:
                m.step, m.position = m.step + 1, 0
                self.remaining[m.target] -= 1
                self._dispatch(now + m.place + DECIDE)
                if m.source == INPUT:
                    self._offer(now + m.place + DECIDE)
        if best is None:
            return None
        return now + self.model.entries - 1 + EMIT, best[1], best[2]

    def _collects(self, m: Matrix, at: float) -> bool:
        """Whether the layer still wants the matrix's columns of this step, as seen at a time."""
        if m.step > self.dispatched[m.target]:
            return False
        return m.step == 0 or self.dispatch_times[m.target][m.step - 1] < at

    def _late(self, layer: int, at: float) -> bool:
        """Whether a layer's cell of the step that is being dispatched has gone already."""
        step = self.current[0]
        times = self.dispatch_times[layer]
        return len(times) > step and times[step] < at

    def _following(self, now: float) -> float | None:
        """Begin of the first pass that may find something new."""
        times = []
        for m in self.matrices:
            vector = self.vectors.get(m.wanted)
            if vector is None or m.step > self.dispatched[m.target]:
                continue
            some = m.position < len(vector.times)
            at = max(vector.times[m.position] if some else vector.complete, vector.first)
            if m.step > 0:
                at = max(at, self.dispatch_times[m.target][m.step - 1] + 1)
            times.append(max(at - m.place - SAMPLE, now))
        return min(times) if times else None

    # -- columns ----------------------------------------------------------------------------------

    def _run(self, time: float, m: Matrix, rows: int) -> float:
        """Issues columns of a matrix; the time of the last one."""
        vector = self.vectors[m.wanted]
        longest = max(m.lengths)
        apart = 2 if longest >= self.config.fetch_words // 2 else 1
        words = 0
        while True:
            for index in vector.rows[m.position]:
                time = self._emit(time, m, m.lengths[index])
                words += longest
                time += apart
            m.position, rows = m.position + 1, rows - 1
            if rows == 0 or words >= YIELD_WORDS:
                return time - apart

    def _emit(self, time: float, m: Matrix, words: int) -> float:
        """One column: when it is issued, and when the lanes take its words."""
        config, memory = self.config, self.memory
        k = len(self.emitted)
        if k >= config.fetch_columns:
            time = max(time, self.ends[k - config.fetch_columns + 1] + 2)
        if k >= REQUESTS:
            time = max(time, self.accepted[k - REQUESTS] + 2)
        time = self._credit(time)
        accepted = time + REQUEST
        if k:
            accepted = max(accepted, self.accepted[-1] + 1)
        if k >= memory.outstanding:
            accepted = max(accepted, self.ends[k - memory.outstanding] + 1)
        begin = max(self.free, accepted + memory.latency + TAKE)
        service = words * memory.word_cycles + memory.column_cycles
        unit_major = m.kind == Kind.DENSE
        open_ = self.open[m.target]
        if m.step > 0:
            if unit_major and len(open_) > 1:
                each = service / len(open_)
                begin = max(begin, max(o - b * each for b, o in enumerate(open_)))
            else:
                begin = max(begin, open_[-1])
        self.free = begin + service
        self.columns.append(m)
        self.emitted.append(time)
        self.accepted.append(accepted)
        self.begins.append(begin)
        self.ends.append(self.free)
        self.words.append(words)
        self.total.append(words + (self.total[-1] if k else 0))
        late = 0.0
        if config.sparse:
            late = DECODE + (QUEUES if m.kind == Kind.STEP else 0)
        self.latest[m.target] = Column(begin, self.free, words, unit_major, late)
        return time

    def _credit(self, time: float) -> float:
        """When there are few enough words in flight, as the fetcher counts them."""
        lag = 4 if self.config.columns else 2
        while True:
            known = len(self.emitted)
            while known and self.emitted[known - 1] > time - lag:
                known -= 1
            need = (self.total[known - 1] if known else 0) - self.config.fetch_words + 1
            if need <= 0:
                return time
            while self.total[self.taken_at] < need:
                self.taken_at += 1
            k = self.taken_at
            missing = need - (self.total[k] - self.words[k])
            part = (self.ends[k] - self.begins[k]) * missing / self.words[k]
            free = math.ceil(self.begins[k] + part) + 1
            if free <= time:
                return time
            time = free

    # -- cells ------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Dispatches every cell whose matrices are finished, in order."""
        while self.current[0] < self.steps and self.remaining[self.current[1]] == 0:
            step, i = self.current
            time = max(now + DISPATCH, self.last_dispatch + NEXT_DISPATCH, self.slot_free)
            self.last_dispatch = time
            self.dispatched[i] += 1
            self.dispatch_times[i].append(time)
            self.remaining[i] = self.feeding[i]
            self._read(step, i, time)
            self.current = (step, i + 1) if i + 1 < len(self.layers) else (step + 1, 0)

    def _read(self, step: int, i: int, time: float) -> None:
        """All times of a cell: its reads, its units, its events."""
        config, layer = self.config, self.layers[i]
        lanes, width, stride = config.multipliers, config.cell_width, self.model.stride[i]
        blocks = -(-layer.units // lanes)
        column, self.latest[i] = self.latest[i], None
        ask = max(time + READ, self.read_end + 2)
        self.slot_free = max(time + 2, self.read_end + 1)
        chase, wait = None, -math.inf
        if column is not None:
            wait = column.end - 1 + SUMS + column.late
            if column.unit_major:
                chase = (column.end - column.begin) / blocks
        if config.sparse and column is not None:
            self._drain(time, column)
        unit = self.unit_time + config.cell_sharing
        follows = self.latest_cell is not None and (
            self.latest_cell[0] == layer.cell and self.latest_cell[1] != i
        )
        if not follows or CELLS[layer.cell].peers:
            unit = max(unit, self.encoded + OTHER_CELL)
        left = layer.units
        units: list[float] = []
        taken: list[float] = []
        opened: list[float] = []
        for b in range(blocks):
            if b >= config.prefetch_blocks:
                ask = max(ask, taken[b - config.prefetch_blocks])
            if chase is not None:
                assert column is not None
                ready = column.begin + (b + 1) * chase - 1 + SUMS + column.late
                ask = max(ask, min(ready, wait))
            else:
                ask = max(ask, wait)
            first = ask + stride - 1 + TO_CELL + 1
            for _ in range(-(-min(left, lanes) // width)):
                unit = max(unit, first)
                units.append(unit)
                unit += config.cell_sharing
            taken.append(units[-1] - 1)
            opened.append(ask + stride + RELEASE)
            left -= lanes
            ask += self._pace(step, i, ask)
        self.unit_time = units[-1]
        self.read_end = ask
        self.held[i] = (time, ask)
        self.open[i] = opened
        late = self.model.depth[i] + ENCODE
        index = self.events[step].get(i, np.zeros(0, np.int64))
        vector = Vector(units[0] + late, units[-1] + late)
        for k in index.tolist():
            group = k // width
            if vector.rows and vector.rows[-1][0] // width == group:
                vector.rows[-1].append(k)
            else:
                vector.rows.append([k])
                vector.times.append(units[group] + late)
        self.vectors[i, step] = vector
        self.encoded = units[-1] + late
        self.latest_cell = layer.cell, i
        if i == len(self.layers) - 1:
            self.finished[step] = self.encoded

    def _pace(self, step: int, i: int, time: float) -> float:
        """Cycles a block of the reader: more where a dense column uses the half bank it needs."""
        stride = self.model.stride[i]
        if self.config.sparse:
            return stride
        k = bisect_right(self.begins, time) - 1
        column: Matrix | None = None
        if k >= 0 and time < self.ends[k]:
            column = self.columns[k]
        elif k == len(self.begins) - 1:
            # Columns of the layer's next step may wait for the cell to have read.
            own = (m for m in self.matrices if m.target == i)
            column = next((m for m in own if self._waits(m, step, time)), None)
        if column is None:
            return stride
        return _bank_pace(stride, self.model.stride[column.target], column.gates)

    def _waits(self, m: Matrix, step: int, time: float) -> bool:
        vector = self.vectors.get((m.source, step if m.recurrent else step + 1))
        return vector is not None and bool(vector.times) and vector.times[0] <= time

    def _drain(self, time: float, column: Column) -> None:
        """While a cell waits for the queues behind its last column, no word enters."""
        end = column.end + column.late + 2
        begin = max(time + 4, column.end + 1)
        if end > begin:
            self.free = self.free + end - begin if self.free > begin else max(self.free, end)


@cache
def _bank_pace(stride: int, column_stride: int, gates: tuple[int, ...]) -> float:
    """Cycles a block of a reader beside a dense column that takes a word a cycle.

    Sums lie in two half banks, a word in that of its place, turned over in odd blocks where the
    number of rows is even; the reader waits while the column uses the bank that it needs.
    """

    def bank(rows: int, block: int, gate: int) -> int:
        return (rows * block + gate & 1) ^ (block & ~rows & 1)

    blocks, time = 32, 0
    column = [bank(column_stride, b, g) for b in range(8 * blocks) for g in gates]
    for b in range(blocks):
        for g in range(stride):
            while column[time % len(column)] == bank(stride, b, g):
                time += 1
            time += 1
    return time / blocks
