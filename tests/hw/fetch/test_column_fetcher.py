"""The column fetcher: addresses, columns and their order, limits of what is in flight."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stillnet.hw.fetch.column_fetcher import ColumnFetcher
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.contract.stages import LIST_READ_LATENCY, YIELD_WORDS
from tests.hw.simulation import simulate

CONFIG = EngineConfig(
    lanes=4,
    cell_width=2,
    units=64,
    inputs=40,
    layers=4,
    matrices=8,
    address_bits=16,
    fetch_columns=16,
    fetch_words=40,
)
UNEQUAL = EngineConfig.from_dict({**CONFIG.to_dict(), "formats": FORMATS, "columns": 128})


@dataclass
class Row:
    """A row of an event list: events of a group of elements, at least one."""

    group: int
    events: dict[int, int]  # element to value

    def columns(self, width: int) -> list[tuple[int, int]]:
        return [(self.group * width + p, value) for p, value in sorted(self.events.items())]


@dataclass
class Run:
    """Rows of one list for one matrix. ``fields`` are those that only pass through."""

    bias: bool
    from_input: bool
    half: int
    row: int
    rows: int
    address: int
    words: int
    columns: int
    unequal: bool
    fields: dict[str, int]


def event_list(rng: np.random.Generator, width: int, rows: int) -> list[Row]:
    found = []
    for _ in range(rows):
        fired = [p for p in range(width) if rng.random() < 0.6] or [int(rng.integers(width))]
        values = rng.integers(-(1 << 16), 1 << 16, len(fired))
        found.append(Row(int(rng.integers(20)), dict(zip(fired, map(int, values)))))
    return found


def runs(rng: np.random.Generator, unequal: bool) -> list[Run]:
    """Runs of short and long columns, of biases, and of all lists."""
    found = []
    for k in range(16):
        bias, from_input = bool(rng.random() < 0.2), bool(rng.random() < 0.4)
        rows = 1 if bias else int(rng.integers(1, 14))
        found.append(
            Run(
                bias=bias,
                from_input=from_input and not bias,
                half=int(rng.integers(2)) if from_input else 0,
                row=0 if bias else int(rng.integers(0, 32 - rows)),
                rows=rows,
                address=int(rng.integers(0, 50_000)),
                words=int(rng.choice([1, 1, 2, 5, 13, 90])),
                columns=int(rng.integers(0, 40)),
                unequal=unequal and not bias and bool(rng.random() < 0.6),
                fields={"base": k, "gates": 5, "stride": 3, "layer": k % 4, "step": k % 4},
            )
        )
    return found


class Bench:
    """Lists, a memory port and lanes that pause at random."""

    def __init__(self, config: EngineConfig, seed: int) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.dut = ColumnFetcher(config)
        self.runs = runs(self.rng, config.columns > 0)
        self.held = 0  # cycles in which what a run said has to stay
        self.input = [event_list(self.rng, 1, 32) for _ in range(2)]
        self.hidden = event_list(self.rng, config.cell_width, 32)
        self.length = [int(self.rng.choice([1, 2, 3, 8])) for _ in range(128)]
        self.reads: list[tuple[int, int]] = []
        self.columns: list[dict[str, int]] = []
        self.issued: list[int] = []  # layers
        self.in_flight: deque[int] = deque()  # words left of each column issued
        self.lists = {"list_input": [None, None], "list_hidden": [None, None]}

    def expected(self, run: Run, rows: int) -> list[tuple[tuple[int, int], dict[str, int]]]:
        """Reads and columns of the first rows of a run."""
        if run.bias:
            events = [(0, 0)]
        elif run.from_input:
            chosen = self.input[run.half][run.row : run.row + rows]
            events = [column for row in chosen for column in row.columns(1)]
        else:
            chosen = self.hidden[run.row : run.row + rows]
            events = [column for row in chosen for column in row.columns(self.config.cell_width)]
        found = []
        for index, value in events:
            words = self.length[run.columns + index] if run.unequal else run.words
            column = {**run.fields, "value": value, "words": words, "bias": int(run.bias)}
            found.append(((run.address + index * run.words, words), column))
        return found

    async def run(self, ctx: Any) -> None:
        if self.config.columns:
            await self.write_lengths(ctx)
        waiting, expected = list(self.runs), []
        for _ in range(12_000):
            self.offer(ctx, waiting)
            self.take(ctx)
            rows, done = ctx.get(self.dut.rows_done), self.over(ctx)
            self.track(ctx)
            advance = self.read_lists(ctx)
            await ctx.tick()
            self.move_lists(ctx, advance)
            if done:
                self.held = 3
                run = waiting.pop(0)
                part = self.expected(run, rows)
                self.check_end(run, rows, [column for _, column in part])
                expected += part
            if not waiting and len(self.columns) == len(self.reads) == len(expected):
                break
        assert self.reads == [read for read, _ in expected]
        assert self.columns == [column for _, column in expected]
        assert self.issued == [column["layer"] for _, column in expected]
        assert ctx.get(self.dut.issue.sequence) == len(expected)

    def check_end(self, run: Run, rows: int, columns: list[dict[str, int]]) -> None:
        """A run ends with its last row, or where it has to give way, and never earlier or later."""
        assert 1 <= rows <= run.rows
        words = [run.words] * len(columns)  # the longest ones count, so that it is known early
        last_row = 1 if run.bias or run.from_input else len(self.hidden[run.row + rows - 1].events)
        assert rows == run.rows or sum(words) >= YIELD_WORDS
        assert rows == 1 or sum(words[:-last_row]) < YIELD_WORDS

    async def write_lengths(self, ctx: Any) -> None:
        for k, length in enumerate(self.length):
            ctx.set(self.dut.lengths.write, 1)
            ctx.set(self.dut.lengths.index, k)
            ctx.set(self.dut.lengths.value, length)
            await ctx.tick()
        ctx.set(self.dut.lengths.write, 0)

    def offer(self, ctx: Any, waiting: list[Run]) -> None:
        """A run, once offered, stays until it is over, and what it says for three cycles more."""
        port = self.dut.runs
        if self.held:
            self.held -= 1
            ctx.set(port.valid, 0)
            return
        valid = bool(waiting) and bool(ctx.get(port.valid) or self.rng.random() < 0.5)
        ctx.set(port.valid, valid)
        if valid:
            run = waiting[0]
            for name in ("bias", "from_input", "half", "row", "rows", "address", "words"):
                ctx.set(port.payload[name], int(getattr(run, name)))
            for name, value in run.fields.items():
                ctx.set(port.payload[name], value)
            if self.config.columns:
                ctx.set(port.payload.columns, run.columns)
                ctx.set(port.payload.unequal, run.unequal)
        else:
            for name in ("address", "words", "row"):
                ctx.set(port.payload[name], int(self.rng.integers(0, 100)))

    def over(self, ctx: Any) -> bool:
        return bool(ctx.get(self.dut.runs.valid) and ctx.get(self.dut.runs.ready))

    def take(self, ctx: Any) -> None:
        """Takes reads and columns."""
        reads, columns = self.dut.reads, self.dut.columns
        ctx.set(reads.ready, bool(self.rng.random() < 0.3))
        ctx.set(columns.ready, bool(self.rng.random() < 0.5))
        if ctx.get(reads.valid) and ctx.get(reads.ready):
            payload = ctx.get(reads.payload)
            self.reads.append((payload.address, payload.length))
        if ctx.get(columns.valid) and ctx.get(columns.ready):
            payload = ctx.get(columns.payload)
            names = ("base", "gates", "stride", "layer", "step", "value", "words", "bias")
            self.columns.append({name: payload[name] for name in names})
            self.in_flight.append(payload.words)

    def track(self, ctx: Any) -> None:
        """What is issued, what comes back, and that no limit is passed by more than one column."""
        dut = self.dut
        returned = self.in_flight and self.rng.random() < 0.8
        if returned:
            self.in_flight[0] -= 1
        done = bool(returned and self.in_flight[0] == 0)
        if done:
            self.in_flight.popleft()
        ctx.set(dut.taken.word, bool(returned))
        ctx.set(dut.taken.column, done)
        if ctx.get(dut.issue.valid):
            self.issued.append(ctx.get(dut.issue.layer))
        complete = len(self.columns) - len(self.in_flight)
        assert len(self.issued) - complete <= self.config.fetch_columns
        assert ctx.get(dut.in_flight) or len(self.issued) - complete <= 1

    def read_lists(self, ctx: Any) -> dict[str, Any]:
        """Rows that the lists are asked for."""
        found: dict[str, Any] = {}
        for name in self.lists:
            port = getattr(self.dut, name)
            if ctx.get(port.enable):
                rows = self.input[ctx.get(port.bank)] if name == "list_input" else self.hidden
                place = ctx.get(port.row)
                found[name] = rows[place] if place < len(rows) else None
        return found

    def move_lists(self, ctx: Any, advance: dict[str, Any]) -> None:
        """A list is as late as its memory, and stands still where it is not enabled."""
        assert LIST_READ_LATENCY == 2
        for name, row in advance.items():
            pipe = self.lists[name]
            port = getattr(self.dut, name)
            if pipe[0] is not None:
                ctx.set(port.data.group, pipe[0].group)
                ctx.set(port.data.mask, sum(1 << p for p in pipe[0].events))
                for p, value in pipe[0].events.items():
                    ctx.set(port.data["values"][p], value)
            pipe[0] = row


@pytest.mark.parametrize("seed", range(2))
def test_every_event_makes_one_read_and_one_column(seed: int) -> None:
    bench = Bench(CONFIG, seed)
    simulate(bench.dut, bench.run)


def test_columns_of_unequal_length_are_read_as_the_table_says() -> None:
    bench = Bench(UNEQUAL, 7)
    simulate(bench.dut, bench.run)
