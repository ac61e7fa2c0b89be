"""One run of an engine from idle to idle, without stepping its clock.

Four places in the engine have an order of work, and each is walked in that order: the scheduler's
passes over its table of matrices, the columns that the fetcher issues, the words that the lanes
take, and the blocks that a dispatched cell reads. What one of them does is decided by what the
others have done *before*, so a single walk in the order of the scheduler's passes suffices: columns
get their times as they are issued (``port``), a cell all of its times as it is dispatched. The
rules are those of docs/architecture.md (*The schedule*).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.contract.stages import BUDGET_CYCLES, YIELD_WORDS

from .memory import MemoryModel
from .port import Port
from .stages import (
    ACTIVE,
    ADD,
    AFTER_RUN,
    DECIDE,
    DECODE,
    DISPATCH,
    EMIT,
    EMIT_BIAS,
    ENCODE,
    FIND_BIAS,
    GAP,
    HALF_FREE,
    LISTED,
    NEXT_DISPATCH,
    NEXT_READ,
    NEXT_WAITS,
    PASS,
    PRESENT,
    QUEUES,
    QUIET,
    READ,
    RELEASE,
    REPLAY,
    SAMPLE,
    STALL,
    SUMS,
    TOKEN,
    other_cell,
    to_cell,
)
from .table import Entry, Table

__all__ = ["Walk"]

LONG_AGO = -math.inf


@dataclass
class Vector:
    """Events of a vector: rows of the list with the times at which the scheduler sees them."""

    first: float
    complete: float
    times: list[float] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)


class Job:
    """How far an entry of the table has come: the step that it takes, and rows of its vector."""

    __slots__ = ("entry", "position", "step")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        # A recurrence has taken the vector of the step before the first one.
        self.step = int(entry.recurrent)
        self.position = 0


@dataclass
class Column:
    """The latest column of a layer.

    ``late`` is what its sums take longer than a word's way through the lanes.
    """

    begin: float
    end: float
    by_block: bool
    late: float


class Progress:
    """How far a layer has come.

    Attributes
    ----------
    dispatches : list of float
        When the cell of each step was dispatched.
    loads : int
        Steps for which the biases are there.
    found : float
        Begin of the pass behind the run that loaded the latest biases.
    feeding, remaining : int
        Matrices, and those that have not given all columns of the next step.
    reading : (float, float)
        While its cell waits for the reader or is being read, its columns come last.
    released : list of float
        When a word of the next step may enter each of its blocks.
    latest : Column or None
        Issued for the next step.
    """

    def __init__(self, feeding: int, remaining: int) -> None:
        self.dispatches: list[float] = []
        self.loads = 1
        self.found = LONG_AGO
        self.feeding, self.remaining = feeding, remaining
        self.reading = LONG_AGO, LONG_AGO
        self.released: list[float] = []
        self.latest: Column | None = None


class Walk:
    """One run of the engine from idle to idle; time 0 is that of the first input element."""

    def __init__(
        self, table: Table, memory: MemoryModel, events: list[dict[int, np.ndarray]]
    ) -> None:
        self.table, self.events = table, events
        self.config, self.network, self.shapes = table.config, table.network, table.layers
        self.steps = len(events)
        self.jobs = [Job(entry) for entry in table.entries]
        self.matrices = [job for job in self.jobs if not job.entry.bias]
        self.biases = {job.entry.target: job for job in self.jobs if job.entry.bias}
        self.users = [job for job in self.matrices if job.entry.source == INPUT]
        self.layers = []
        for i in range(len(self.shapes)):
            feeding = [job for job in self.matrices if job.entry.target == i]
            self.layers.append(Progress(len(feeding), sum(job.step == 0 for job in feeding)))
        self.vectors: dict[tuple[int, int], Vector] = {}
        self.port = Port(table.config, memory)
        # passes
        self.whole = [(job.entry.place, job) for job in self.jobs]
        self.again: Job | None = None  # of the latest run, if it took all that its vector had
        # input
        self.offered = 0  # vectors
        self.input_end = 0.0
        # dispatch and reading
        self.current = (0, 0)  # step, layer of the next cell
        self.dispatches: list[tuple[float, int]] = [(LONG_AGO, 0)]  # with the layer that follows
        self.read_end = LONG_AGO
        self.slot_free = LONG_AGO  # of the cell that waits for the reader
        self.unit_time = LONG_AGO  # of the latest unit in the cell unit
        self.encoded = LONG_AGO
        self.latest_cell: tuple[str, int] | None = None
        self.finished = [0.0] * self.steps
        self._offer(0.0)

    # -- input ------------------------------------------------------------------------------------

    def _offer(self, now: float) -> None:
        """Vectors for which a half of the list is free."""
        while self.offered < self.steps and all(u.step >= self.offered - 1 for u in self.users):
            t = self.offered
            begin = 0.0
            if t > 0:
                begin = max(self.input_end + GAP, now + HALF_FREE if t > 1 else 0.0)
            index = self.events[t].get(INPUT, np.zeros(0, np.int64)).tolist()
            if self.network.input_mode.one_hot:
                places, last = self._token(index)
            else:
                places, last = index, self.network.inputs - 1
            self.input_end = begin + last
            self.vectors[INPUT, t] = Vector(
                begin + PRESENT + (last - 1 if self.network.input_mode.one_hot else 0),
                self.input_end + LISTED,
                [begin + k + LISTED for k in places],
                [[k] for k in index],
            )
            self._replay(INPUT, self.vectors[INPUT, t], self.input_end + LISTED)
            if self.config.budgets:
                self.input_end = self.vectors[INPUT, t].complete + 1 - GAP
            self.offered += 1

    def _replay(self, source: int, vector: Vector, end: float) -> None:
        """Where vectors may have budgets, one that has is listed after its end; others a cycle
        later. Groups whose events are all late take a cycle too, which is left out here."""
        if not self.config.budgets:
            return
        if source not in self.network.budgets:
            vector.first += BUDGET_CYCLES
            vector.complete += BUDGET_CYCLES
            vector.times = [time + BUDGET_CYCLES for time in vector.times]
            return
        vector.first = end + REPLAY
        vector.times = [vector.first + 1 + k for k in range(len(vector.rows))]
        vector.complete = vector.first + 1 + len(vector.rows)

    def _token(self, index: list[int]) -> tuple[list[int], int]:
        """When the events of a token are looked up, and its last one."""
        if self.network.input_mode is Mode.ONE_HOT and not index:
            return [], TOKEN
        return [TOKEN + 1 - k for k in reversed(range(len(index)))], TOKEN + 1

    # -- scheduler --------------------------------------------------------------------------------

    def cycles(self) -> np.ndarray:
        """Cycles of each step, together those of the run."""
        # A pass is somewhere when the first event comes: half of one is waited on average.
        now = (self._following(LONG_AGO) or 0.0) + (self._order(0.0)[1] + PASS) // 2
        while True:
            order, length = self._order(now)
            chosen, now = self._scan(now, order, length)
            if chosen is not None:
                now = self._run(now, *chosen) + AFTER_RUN
                if chosen[0].entry.bias:
                    self._loaded(chosen[0].entry.target, now)
                continue
            if self.again is not None:
                self.again = None
                continue
            following = self._following(now)
            if following is None:
                break
            idle = length + PASS
            now += max(0, math.floor((following - now) / idle)) * idle
        # Idle: a whole pass in which nothing moved.
        idle = self._order(now)[1] + PASS
        adding = ADD + (DECODE if self.config.sparse else 0)
        quiet = max(self.encoded, self.port.free + adding) + QUIET
        now += max(0, math.ceil((quiet - now) / idle)) * idle
        border = np.maximum.accumulate(self.finished)
        border[-1] = now + idle - ACTIVE
        return np.diff(np.concatenate([[0.0], border]))

    def _order(self, now: float) -> tuple[list[tuple[int, Job]], int]:
        """The jobs of the pass that begins now, with their places in it; entries of the pass."""
        if not self.table.chains:
            return self.whole, self.table.length
        # The matrix of the run before, one layer's biases if any wants them, the others.
        front = [self.again] if self.again is not None else []
        seen = now - FIND_BIAS + len(front)
        for i, bias in self.biases.items():
            layer = self.layers[i]
            known = layer.loads - (layer.found > now - 2 + len(front))
            if len(layer.dispatches) >= known and layer.dispatches[known - 1] <= seen:
                front.append(bias)
                break
        order = list(enumerate(front))
        first, offset = self.table.first, len(front)
        order += [(job.entry.place - first + offset, job) for job in self.matrices]
        return order, self.table.length - first + offset

    def _scan(
        self, now: float, order: Iterable[tuple[int, Job]], length: int
    ) -> tuple[tuple[Job, int] | None, float]:
        """A pass that begins now.

        Returns
        -------
        (job, rows) or None
            What runs, if something has events.
        float
            The place at which that was decided, as a time; or the begin of the next pass.
        """
        best: tuple[tuple[bool, bool], Job, int] | None = None
        layers, vectors = self.layers, self.vectors
        for k, job in order:
            entry, step = job.entry, job.step
            at = now + k + SAMPLE
            layer = layers[entry.target]
            rows, complete = 1, LONG_AGO
            if entry.bias:
                if len(layer.dispatches) < layer.loads or layer.dispatches[-1] >= at:
                    continue
            else:
                vector = vectors.get((entry.source, step - 1 if entry.recurrent else step))
                if vector is None or vector.first > at or not self._collects(job, at):
                    continue
                rows = bisect_right(vector.times, at) - job.position
                complete = vector.complete
            if rows > 0:
                low, high = layer.reading
                rank = low < at <= high, entry.target < self._layer_at(at)
                if not any(rank):
                    return (job, rows), now + k
                if best is None or rank < best[0]:
                    best = rank, job, rows
            elif complete <= at:
                job.step, job.position = step + 1, 0
                layer.remaining -= 1
                self._dispatch(now + k + DECIDE)
                if entry.source == INPUT:
                    self._offer(now + k + DECIDE)
                if job is self.again and k == 0:
                    # What is finished is seen to be so by a pass that begins anew.
                    return None, now + 1 + PASS
        if best is None:
            return None, now + length + PASS
        return best[1:], now + length - 1

    def _collects(self, job: Job, at: float) -> bool:
        """Whether the layer wants the matrix's columns of this step, as seen at a time."""
        layer, step = self.layers[job.entry.target], job.step
        if step > len(layer.dispatches):
            return False
        if self.shapes[job.entry.target].reload and step >= layer.loads:
            return False
        return step == 0 or layer.dispatches[step - 1] < at

    def _layer_at(self, at: float) -> int:
        """The layer whose cell is dispatched next, as seen at a time."""
        for time, layer in reversed(self.dispatches):
            if time < at:
                return layer
        return 0

    def _following(self, now: float) -> float | None:
        """Begin of the first pass that may find something new; None where nothing comes."""
        times = []
        first = self.table.first if self.table.chains else 0
        for job in self.jobs:
            entry, step = job.entry, job.step
            layer = self.layers[entry.target]
            if entry.bias:
                if len(layer.dispatches) >= layer.loads:
                    times.append(layer.dispatches[-1])
                continue
            vector = self.vectors.get((entry.source, step - 1 if entry.recurrent else step))
            if vector is None or not self._collects(job, math.inf):
                continue
            some = job.position < len(vector.times)
            at = max(vector.times[job.position] if some else vector.complete, vector.first)
            if step > 0:
                at = max(at, layer.dispatches[step - 1] + 1)
            times.append(at - (entry.place - first) - SAMPLE)
        return max(min(times), now) if times else None

    def _loaded(self, i: int, now: float) -> None:
        """The biases of a layer were issued; the next pass begins now."""
        self.layers[i].loads += 1
        self.layers[i].found = now
        self._dispatch(now - 1)

    # -- columns ----------------------------------------------------------------------------------

    def _run(self, time: float, job: Job, rows: int) -> float:
        """Issues columns of a matrix that was decided upon; the time of the last one."""
        entry = job.entry
        self.again = None
        if entry.bias:
            return self._issue(time + EMIT_BIAS, job, 0)
        vector = self.vectors[entry.source, job.step - 1 if entry.recurrent else job.step]
        apart = 2 if entry.longest >= self.config.fetch_words // 2 else 1
        words, time = 0, time + EMIT
        while True:
            for index in vector.rows[job.position]:
                last = self._issue(time, job, index)
                words += entry.longest
                time = last + apart
            job.position, rows = job.position + 1, rows - 1
            if rows == 0 or words >= YIELD_WORDS:
                self.again = job if rows == 0 else None
                return last

    def _issue(self, time: float, job: Job, column: int) -> float:
        """One column; when it is issued."""
        entry = job.entry
        layer = self.layers[entry.target]
        time = self.port.issue(
            time, entry, entry.lengths[column], layer.released, entry.hot[column]
        )
        late = 0.0
        if self.config.sparse:
            late = DECODE + (QUEUES if entry.kind == Kind.STEP else 0)
        by_block = entry.kind == Kind.DENSE or entry.kind == Kind.BIAS
        layer.latest = Column(self.port.begins[-1], self.port.ends[-1], by_block, late)
        return time

    # -- cells ------------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Dispatches every cell whose columns are all issued, in order."""
        while self.current[0] < self.steps:
            step, i = self.current
            layer = self.layers[i]
            if layer.remaining or (self.shapes[i].reload and layer.loads <= step):
                return
            time = max(now + DISPATCH, self.dispatches[-1][0] + NEXT_DISPATCH, self.slot_free)
            self.current = (step, i + 1) if i + 1 < len(self.layers) else (step + 1, 0)
            self.dispatches.append((time, self.current[1]))
            layer.dispatches.append(time)
            layer.remaining = layer.feeding
            self._read(step, i, time)

    def _read(self, step: int, i: int, time: float) -> None:
        """All times of a cell: its reads, its units, its events."""
        config, layer, shape = self.config, self.layers[i], self.shapes[i]
        column, layer.latest = layer.latest, None
        ask = max(time + READ, self.read_end + NEXT_READ)
        self.slot_free = ask - READ + 1 + NEXT_WAITS
        chase, ready = 0.0, LONG_AGO
        if column is not None:
            ready = column.end - 1 + SUMS + column.late
            if column.by_block:
                chase = (column.end - column.begin) / shape.blocks
            if config.sparse:
                self._drain(ask - 1, column)
        unit = self._first_unit(i)
        left, lanes, width = shape.units, config.multipliers, config.cell_width
        sharing = config.cell_sharing
        units: list[float] = []
        taken: list[float] = []
        released: list[float] = []
        for b in range(shape.blocks):
            if b >= config.prefetch_blocks:
                ask = max(ask, taken[b - config.prefetch_blocks])
            ask = max(ask, ready - (shape.blocks - 1 - b) * chase)
            last = ask + shape.stride - 1
            for _ in range(-(-min(left, lanes) // width)):
                unit = max(unit, last + config.read_latency + to_cell(config))
                if sharing > 1:
                    unit = math.ceil(unit / sharing) * sharing
                units.append(unit)
                unit += sharing
            taken.append(units[-1] - 1)
            released.append(last + RELEASE)
            left -= lanes
            ask += self._pace(step, i, ask)
        self.unit_time = units[-1]
        self.read_end = ask
        layer.reading = time, ask
        layer.released = released
        self._encode(step, i, units)
        self.latest_cell = shape.cell, i

    def _first_unit(self, i: int) -> float:
        """When the pipeline may take a layer's first unit: what earlier cells allow."""
        shape = self.shapes[i]
        unit = self.unit_time + self.config.cell_sharing
        follows = self.latest_cell is not None and (
            self.latest_cell[0] == shape.cell and self.latest_cell[1] != i
        )
        if not follows or shape.alone or self.config.budgets:
            unit = max(unit, self.encoded + other_cell(self.config))
        return unit

    def _encode(self, step: int, i: int, units: list[float]) -> None:
        """The events of a cell whose units enter the pipeline at these times."""
        late = self.shapes[i].depth + ENCODE
        width = self.config.cell_width
        for source in (i, i + SECOND):
            index = self.events[step].get(source)
            if index is None and source != i:
                continue
            vector = Vector(units[0] + late, units[-1] + late)
            for k in index.tolist() if index is not None else []:
                group = k // width
                if vector.rows and vector.rows[-1][0] // width == group:
                    vector.rows[-1].append(k)
                else:
                    vector.rows.append([k])
                    vector.times.append(units[group] + late)
            self._replay(source, vector, units[-1] + late)
            self.vectors[source, step] = vector
        self.encoded = units[-1] + late
        if self.config.budgets:
            self.encoded = self.vectors[i, step].complete
        if i == len(self.layers) - 1:
            self.finished[step] = self.encoded

    def _pace(self, step: int, i: int, time: float) -> float:
        """Cycles per block of the reader: more where a dense column uses the bank it needs."""
        stride = self.shapes[i].stride
        if self.config.sparse:
            return stride
        entry, latest = self.port.taking(time)
        if entry is None and latest:
            # Columns of the layer's next step may wait for the cell to have read.
            own = (job.entry for job in self.jobs if job.entry.target == i)
            entry = next((e for e in own if self._waits(e, step, time)), None)
        if entry is None:
            return stride
        return _bank_pace(stride, self.shapes[entry.target].stride, entry.writes)

    def _waits(self, entry: Entry, step: int, time: float) -> bool:
        if entry.bias:
            return False
        vector = self.vectors.get((entry.source, step if entry.recurrent else step + 1))
        return vector is not None and bool(vector.times) and vector.times[0] <= time

    def _drain(self, time: float, column: Column) -> None:
        """While a cell waits for the queues behind its last column, no word enters."""
        port = self.port
        begin = max(time, column.end) + STALL
        end = column.end + column.late + STALL
        if end > begin:
            port.free = max(port.free + end - begin, end - 1)


@cache
def _bank_pace(stride: int, column_stride: int, writes: tuple[int, ...]) -> float:
    """Cycles per block of a reader beside a dense column that takes a word per cycle.

    Sums lie in two half banks, a word in that of its place, turned over in odd blocks where the
    number of rows is even. The reader takes the words of a block in any order, from the bank that
    the column leaves free; it waits where only words of the other one are left.
    """

    def bank(rows: int, block: int, gate: int) -> int:
        return (rows * block + gate & 1) ^ (block & ~rows & 1)

    blocks, time = 32, 0
    column = [
        bank(column_stride, b, g) if g >= 0 else -1 for b in range(8 * blocks) for g in writes
    ]
    turn = 0
    for b in range(blocks):
        left = [0, 0]
        for g in range(stride):
            left[bank(stride, b, g)] += 1
        while any(left):
            used = column[time % len(column)]
            able = [k for k in range(2) if left[k] and k != used]
            if able:
                k = turn if turn in able else able[0]
                left[k] -= 1
                turn = 1 - k
            time += 1
    return time / blocks
