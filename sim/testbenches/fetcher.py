"""Column fetcher and lanes: events in, accumulators out, against bias + W times events in NumPy.

The bench gives what stands around the two blocks: event lists, runs as the scheduler makes them,
and a memory that pauses at random. At the end it reads every accumulator as a cell would.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout

from stillnet.hw.fetch.column_fetcher import ColumnFetcher
from stillnet.hw.lanes.lanes import Lanes
from stillnet.hw.memory.port import read_request_layout
from stillnet.hw.parts.layouts import list_layout, run_layout
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import choose, encode
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import wrap32
from stillnet.sw.contract.image import accumulator_place
from stillnet.sw.contract.stages import COMMIT_CYCLES, READ_LATENCY

from .runner import report
from .streams import Sink, Source, packed, random_numbers, start

UNITS, INPUTS, BASE = 10, 12, 6
"""A layer of ``UNITS``, which are no whole number of blocks; its accumulators begin at ``BASE``."""

NARROW_BASE = 40
"""Accumulators of a second layer, of one block and one gate: a column is one word."""


def engine(LANES: int) -> EngineConfig:
    """A small engine with GRUs."""
    return EngineConfig(
        name="bench",
        lanes=LANES,
        cells=("gru",),
        units=32,
        inputs=16,
        accumulators=64,
        address_bits=12,
        fetch_columns=8,
        fetch_words=16,
    )


class Harness(wiring.Component):
    """The fetcher joined to the lanes as in the engine; the rest are ports."""

    INNER = ("columns", "taken")

    def __init__(self, config: EngineConfig) -> None:
        self.fetcher, self.lanes = ColumnFetcher(config), Lanes(config)
        members: dict[str, Any] = {}
        for part in (self.lanes, self.fetcher):
            members |= dict(part.signature.members.items())
        super().__init__({name: m for name, m in members.items() if name not in self.INNER})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.fetcher, m.submodules.lanes = fetcher, lanes = self.fetcher, self.lanes
        connect(m, fetcher.columns, lanes.columns)
        connect(m, lanes.taken, fetcher.taken)
        for name, member in self.signature.members.items():
            part = fetcher if name in fetcher.signature.members else lanes
            if member.is_signature:
                connect(m, flipped(getattr(self, name)), getattr(part, name))
            elif member.flow == In:
                m.d.comb += getattr(part, name).eq(getattr(self, name))
            elif member.flow == Out:
                m.d.comb += getattr(self, name).eq(getattr(part, name))
        return m


def design(LANES: int) -> Harness:
    """Fetcher and lanes of an engine."""
    return Harness(engine(LANES))


class Bench:
    """Lists and memory around the blocks, and the cell's way to the accumulators."""

    def __init__(self, dut: Any, config: EngineConfig) -> None:
        self.dut, self.config, self.shapes = dut, config, Shapes(config)
        self.runs = Source(dut, "runs", 0.2)
        self.words = Source(dut, "words", 0.3)
        self.reads = Sink(dut, "reads", 0.4)
        self.memory: list[int] = []
        self.list: list[int] = []
        self.request = read_request_layout(config.address_bits, 16)

    async def serve_list(self) -> None:
        """A memory of two stages, which stand while ``enable`` is low."""
        stages = [0, 0]
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.dut.list_hidden__enable.value):
                row = int(self.dut.list_hidden__row.value)
                stages = [row, stages[0]]
            rows = self.list or [0]
            self.dut.list_hidden__data.value = rows[stages[1] % len(rows)]

    async def serve_memory(self) -> None:
        """Words of the reads in their order, each some cycles later."""
        due: deque[tuple[int, int]] = deque()
        for cycle in range(1 << 30):
            await RisingEdge(self.dut.clk)
            while self.reads.taken:
                read = self.request.from_bits(self.reads.taken.popleft())
                words = self.memory[read.address : read.address + read.length]
                assert len(words) == read.length, "a read behind the end of the matrix"
                due.extend((cycle + 6, word) for word in words)
            while due and due[0][0] <= cycle:
                self.words.send(due.popleft()[1])

    async def fetch(self, **run: int) -> int:
        """A run, to its end; gives the rows of the list that it took."""
        self.runs.send(packed(run_layout(self.config), **run))
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.dut.runs__valid.value) and int(self.dut.runs__ready.value):
                break
        rows = int(self.dut.rows_done.value)
        while int(self.dut.busy.value) or int(self.dut.in_flight.value):
            await RisingEdge(self.dut.clk)
        await ClockCycles(self.dut.clk, COMMIT_CYCLES)
        return rows

    async def fetch_list(self, first_word: int, gates: int, column_words: int, **place: int) -> int:
        """The columns of all rows of the list; gives the number of rows."""
        first = 0
        while first < len(self.list):  # a long run gives way, and the scheduler comes back to it
            run = {"row": first, "rows": len(self.list) - first, "address": first_word}
            run |= {"words": column_words, "gates": (1 << gates) - 1}
            first += await with_timeout(self.fetch(**run, **place), 100, "us")
        return first

    async def read(self, place: int) -> np.ndarray:
        """One word of accumulators, as a cell reads it: granted, then ``READ_LATENCY`` cycles."""
        dut = self.dut
        bits, bank, row = self.shapes.bank_row, place & 1, place >> 1
        dut.sums__valid.value, dut.sums__bank.value = 1 << bank, bank
        dut.sums__rows.value = row << bank * bits
        dut.sums__inverses.value = (~row & (1 << bits) - 1) << bank * bits
        await RisingEdge(dut.clk)
        while not int(dut.sums__ready.value) >> bank & 1:
            await RisingEdge(dut.clk)
        dut.sums__valid.value = 0
        await ClockCycles(dut.clk, READ_LATENCY)
        data = int(dut.sums__data.value)
        lanes = range(self.config.lanes)
        return np.array([data >> 32 * i & 0xFFFF_FFFF for i in lanes], np.uint32).astype(np.int32)

    async def accumulators(self, gates: int, units: int = UNITS, base: int = BASE) -> np.ndarray:
        """All of a layer, shape (gates, units)."""
        lanes = self.config.lanes
        blocks = -(-units // lanes)
        found = np.zeros((gates, blocks * lanes), np.int64)
        for block in range(blocks):
            for gate in range(gates):
                place = accumulator_place(base, gates, block, gate)
                found[gate, block * lanes :][:lanes] = await self.read(place)
        return found[:, :units]


def words(data: np.ndarray, lanes: int) -> list[int]:
    """Bytes, shape (…, lanes), as memory words."""
    return [int.from_bytes(row.tobytes(), "little") for row in data.reshape(-1, lanes)]


def bias_run(bias: np.ndarray, lanes: int) -> np.ndarray:
    """Four words for each block and gate: the bytes of 32-bit values, low byte first."""
    gates, units = bias.shape
    blocks = -(-units // lanes)
    padded = np.zeros((gates, blocks * lanes), np.int32)
    padded[:, :units] = bias
    values = padded.reshape(gates, blocks, lanes).transpose(1, 0, 2)
    return (
        np.ascontiguousarray(values).view(np.uint8).reshape(blocks, gates, lanes, 4).swapaxes(2, 3)
    )


def event_rows(config: EngineConfig, events: np.ndarray) -> list[int]:
    """The list of a vector, one event per row, as an encoder of one element per cycle makes it."""
    layout = list_layout(config.cell_width, Shapes(config).row)
    return [
        packed(layout, group=k, mask=1, values=[int(events[k])]) for k in np.flatnonzero(events)
    ]


async def begin(dut: Any) -> tuple[Bench, np.random.Generator]:
    """The blocks after a reset, with list and memory at work."""
    bench = Bench(dut, engine(int(os.environ["LANES"])))
    rng = random_numbers()
    await start(dut)
    cocotb.start_soon(bench.serve_list())
    cocotb.start_soon(bench.serve_memory())
    return bench, rng


async def load_biases(bench: Bench, biases: list[int], gates: int, **place: int) -> None:
    """A run of biases, from the first word of the memory."""
    run = {"bias": 1, "rows": 1, "words": len(biases), "gates": (1 << gates) - 1}
    await with_timeout(bench.fetch(**run, **place), 50, "us")


@cocotb.test()
async def columns(dut: Any) -> None:
    """A bias and twelve vectors of events; then M = bias + W times the sum of events."""
    bench, rng = await begin(dut)
    config = bench.config
    gates = len(CELLS["gru"].accumulators)
    fed = 3  # the matrix feeds the first three of four gates
    weight = rng.integers(-128, 128, (fed, UNITS, INPUTS)).astype(np.int8)
    bias = rng.integers(-(1 << 31), 1 << 31, (gates, UNITS))
    biases = words(bias_run(bias, config.lanes), config.lanes)
    columns = encode(weight, choose(weight, 8, config), config)
    bench.memory = biases + words(columns, config.lanes)
    place = {"base": BASE, "stride": gates}
    await load_biases(bench, biases, gates, **place)
    expected = bias.copy()
    count = 0
    for _ in range(12):
        events = rng.integers(-65_535, 65_536, INPUTS) * (rng.random(INPUTS) < 0.5)
        bench.list = event_rows(config, events)
        count += await bench.fetch_list(len(biases), fed, columns.shape[1], **place)
        expected[:fed] = wrap32(expected[:fed] + weight.astype(np.int64) @ events)
        found = await bench.accumulators(gates)
        wrong = np.argwhere(found != expected)
        assert not len(wrong), f"accumulator of gate and unit {wrong[0]} is wrong"
    report(
        f"{count} columns of {columns.shape[1]} words: {expected.size} accumulators are "
        "bias + W times events after each of 12 vectors"
    )


@cocotb.test()
async def one_row_while_read(dut: Any) -> None:
    """Columns of one word hit the same row back to back, while a cell reads another layer."""
    bench, rng = await begin(dut)
    config = bench.config
    gates = len(CELLS["gru"].accumulators)
    still = rng.integers(-(1 << 31), 1 << 31, (gates, UNITS))
    first = words(bias_run(still, config.lanes), config.lanes)
    bench.memory = first
    await load_biases(bench, first, gates, base=BASE, stride=gates)

    units = config.lanes
    weight = rng.integers(-128, 128, (1, units, INPUTS)).astype(np.int8)
    expected = rng.integers(-(1 << 31), 1 << 31, (1, units))
    biases = words(bias_run(expected, config.lanes), config.lanes)
    bench.memory = biases + words(encode(weight, choose(weight, 8, config), config), config.lanes)
    place = {"base": NARROW_BASE, "stride": 1}
    await load_biases(bench, biases, 1, **place)
    reads = 0

    async def read_other_layer() -> None:
        nonlocal reads
        while True:
            found = await bench.accumulators(gates)
            wrong = np.argwhere(found != still)
            assert not len(wrong), f"gate and unit {wrong[0]} changed while the cell read it"
            reads += found.size

    count = 0
    for pause in (0.0, 0.0, 0.3, 0.6) * 3:
        bench.words.pause = pause
        reader = cocotb.start_soon(read_other_layer())
        events = rng.integers(-65_535, 65_536, INPUTS)
        bench.list = event_rows(config, events)
        count += await bench.fetch_list(len(biases), 1, 1, **place)
        reader.cancel()
        await ClockCycles(dut.clk, READ_LATENCY + 1)
        expected = wrap32(expected + weight.astype(np.int64) @ events)
        found = await bench.accumulators(1, units, NARROW_BASE)
        wrong = np.argwhere(found != expected)
        assert not len(wrong), f"accumulator of gate and unit {wrong[0]} is wrong"
    assert reads > 0
    report(
        f"{count} columns of one word, all on one row: its sums are right after each of 12 "
        f"vectors, and {reads} reads of another layer meanwhile gave what it holds"
    )
