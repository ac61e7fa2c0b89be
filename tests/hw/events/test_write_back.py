"""Write-back: results of cells become vectors, event lists and outputs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stillnet.hw.events.write_back import WriteBack
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.fixed import Format, narrow
from stillnet.sw.contract.stages import LIST_READ_LATENCY
from tests.hw.simulation import simulate

CONFIG = EngineConfig(
    lanes=4, cell_width=4, units=96, inputs=8, layers=3, matrices=8, second_threshold=True
)
WIDTH = CONFIG.cell_width


@dataclass
class Layer:
    """A layer as its commands describe it, and what it last was."""

    units: int
    base: int
    mode: Mode
    write_shift: int
    thresholds: tuple[int, int]
    references: list[np.ndarray]

    @property
    def rows(self) -> int:
        return -(-self.units // WIDTH)


@dataclass
class Cell:
    """A cell that was dispatched, with its results, or the vector that the host supplies."""

    layer: int
    skip: bool
    values: np.ndarray
    clipped: np.ndarray

    def groups(self) -> list[np.ndarray]:
        """Results in groups; what stands after the last unit must not matter."""
        rows = -(-len(self.values) // WIDTH)
        padded = np.full(rows * WIDTH, -12345)
        padded[: len(self.values)] = self.values
        return list(padded.reshape(rows, WIDTH))


class Bench:
    """A cell unit, a host and a receiver of outputs that pause at random."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dut = WriteBack(CONFIG)
        self.layers, base = [], 0
        for units, mode in ((7, Mode.DELTA), (12, Mode.NONZERO), (3, Mode.DELTA)):
            thresholds = tuple(int(t) for t in self.rng.integers(0, 9000, 2))
            shift = int(self.rng.integers(0, 4))
            references = [np.zeros(units, np.int64) for _ in range(2)]
            self.layers.append(Layer(units, base, mode, shift, thresholds, references))
            base += self.layers[-1].rows
        self.cells = [self.cell(k % len(self.layers)) for k in range(24)]
        self.outputs: list[tuple[int, bool]] = []
        self.credits = self.saturated = 0
        self.totals: list[tuple[int, int, int]] = []

    def cell(self, layer: int) -> Cell:
        units = self.layers[layer].units
        values = self.rng.choice([-32768, 32767, 0, 1, -1, 5, 8000, -8000], units)
        clipped = self.rng.integers(0, 2, WIDTH * self.layers[layer].rows)
        return Cell(layer, bool(self.rng.random() < 0.25), values, clipped)

    # -- what is expected -------------------------------------------------------------------------

    def vector(self, cell: Cell) -> np.ndarray:
        if cell.skip:
            return cell.values
        return narrow(cell.values, self.layers[cell.layer].write_shift, Format(16, 0))

    def events(self, cell: Cell) -> list[list[tuple[int, int]]]:
        """Events of both lists; moves the references."""
        layer, found = self.layers[cell.layer], []
        for threshold, reference in zip(layer.thresholds, layer.references):
            index, value = encode(layer.mode, self.vector(cell), reference, threshold)
            found.append(list(zip(index.tolist(), value.tolist())))
        return found

    # -- the bench --------------------------------------------------------------------------------

    async def run(self, ctx: Any) -> None:
        dut = self.dut
        ctx.set(dut.control.reset, 1)
        await ctx.tick()
        ctx.set(dut.control.reset, 0)
        generations = [0] * len(self.layers)
        for cell in self.cells:
            await self.write(ctx, cell)
            expected = self.events(cell)
            generations[cell.layer] ^= 1
            for k, status in enumerate((dut.vectors.first, dut.vectors.second)):
                found = ctx.get(status[cell.layer])
                assert found.complete == 1
                assert found.generation == generations[cell.layer]
                assert await self.read_list(ctx, k, cell.layer, found.rows) == expected[k]
            assert self.totals[-1] == (cell.layer, len(expected[0]), len(expected[1]))
        for _ in range(200):
            await self.cycle(ctx)
        self.check_outputs()

    def check_outputs(self) -> None:
        """The last layer is the output; a vector from the host is none."""
        last = len(self.layers) - 1
        cells = [cell for cell in self.cells if cell.layer == last and not cell.skip]
        vectors = [self.vector(cell).tolist() for cell in cells]
        assert self.outputs == [(v, k == len(x) - 1) for x in vectors for k, v in enumerate(x)]
        assert self.credits == len(cells) * self.layers[last].rows
        written = [cell for cell in self.cells if not cell.skip]
        assert self.saturated == sum(int(c.clipped[: len(c.values)].sum()) for c in written)

    async def cycle(self, ctx: Any) -> None:
        dut = self.dut
        ctx.set(dut.outputs.ready, bool(self.rng.random() < 0.5))
        if ctx.get(dut.outputs.valid) and ctx.get(dut.outputs.ready):
            payload = ctx.get(dut.outputs.payload)
            self.outputs.append((payload.data, bool(payload.last)))
        self.credits += ctx.get(dut.results.credit)
        self.saturated += ctx.get(dut.saturated)
        assert ctx.get(dut.results.done) == ctx.get(dut.encoded.last)
        if ctx.get(dut.encoded.last):
            encoded = dut.encoded
            found = (encoded.layer, encoded.total, encoded.second_total)
            self.totals.append(tuple(ctx.get(signal) for signal in found))
        await ctx.tick()

    async def write(self, ctx: Any, cell: Cell) -> None:
        """A command, its groups from the cell unit or the host, until it is encoded."""
        layer, command = self.layers[cell.layer], self.dut.commands
        fields = {"layer": cell.layer, "skip": cell.skip, "mode": layer.mode}
        fields |= {"output": cell.layer == len(self.layers) - 1, "units": layer.units}
        fields |= {"single": layer.rows == 1, "rows": layer.rows, "base": layer.base}
        fields |= {"write_shift": layer.write_shift, "threshold": layer.thresholds[0]}
        fields |= {"threshold_recurrent": layer.thresholds[1]}
        for name, value in fields.items():
            ctx.set(command.payload[name], value)
        ctx.set(command.valid, 1)
        finished = len(self.totals) + 1
        await (self.restore(ctx, cell) if cell.skip else self.results(ctx, cell))
        ctx.set(command.valid, 0)
        for _ in range(12):
            await self.cycle(ctx)
        assert len(self.totals) == finished, "the vector was not encoded"

    async def results(self, ctx: Any, cell: Cell) -> None:
        """Groups come a cycle after their ``arrival``; the command is taken with the last one."""
        results, groups = self.dut.results, deque(enumerate(cell.groups()))
        arrived: tuple[int, np.ndarray] | None = None
        while groups or arrived is not None:
            ctx.set(results.valid, arrived is not None)
            if arrived is not None:
                k, group = arrived
                words = sum((int(v) & 0xFFFF) << (16 * p) for p, v in enumerate(group))
                ctx.set(results.values, words)
                clipped = cell.clipped[k * WIDTH :][:WIDTH]
                ctx.set(results.clipped, sum(int(c) << p for p, c in enumerate(clipped)))
            arrival = bool(groups) and bool(self.rng.random() < 0.6)
            ctx.set(results.arrival, arrival)
            arrived = groups.popleft() if arrival else None
            if arrival:
                assert arrived is not None
                assert ctx.get(results.row) == self.layers[cell.layer].base + arrived[0]
                assert ctx.get(self.dut.commands.ready) == (not groups)
            taken = ctx.get(self.dut.commands.ready)
            await self.cycle(ctx)
            if taken:
                ctx.set(self.dut.commands.valid, 0)
        ctx.set(results.valid, 0)

    async def restore(self, ctx: Any, cell: Cell) -> None:
        """Elements from the host, one by one."""
        port, values = self.dut.restore, deque(cell.values.tolist())
        for _ in range(300):
            ctx.set(port.valid, bool(values) and bool(self.rng.random() < 0.7))
            if values:
                ctx.set(port.payload, values[0])
            moved = ctx.get(port.valid) and ctx.get(port.ready)
            taken = bool(ctx.get(self.dut.commands.ready))
            assert not (taken and values), "the command ended before its vector"
            await self.cycle(ctx)
            if moved:
                values.popleft()
            if taken:
                break
        assert taken, "the command was not taken"
        ctx.set(port.valid, 0)

    async def read_list(self, ctx: Any, k: int, layer: int, rows: int) -> list[tuple[int, int]]:
        port, found = self.dut.lists[k], []
        ctx.set(port.enable, 1)
        for row in range(rows):
            ctx.set(port.row, self.layers[layer].base + row)
            for _ in range(LIST_READ_LATENCY):
                await self.cycle(ctx)
            entry = ctx.get(port.data)
            for p in range(WIDTH):
                if entry.mask >> p & 1:
                    found.append((entry.group * WIDTH + p, entry["values"][p]))
        return found


@pytest.mark.parametrize("seed", range(2))
def test_vectors_become_events_and_outputs(seed: int) -> None:
    bench = Bench(seed)
    simulate(bench.dut, bench.run)


def test_a_reset_makes_every_list_complete_and_empty() -> None:
    dut = WriteBack(CONFIG)

    async def testbench(ctx: Any) -> None:
        assert not ctx.get(dut.vectors.first[0].complete)
        ctx.set(dut.control.reset, 1)
        await ctx.tick()
        for status in (dut.vectors.first, dut.vectors.second):
            for layer in range(CONFIG.layers):
                found = ctx.get(status[layer])
                assert (found.complete, found.rows, found.generation) == (1, 0, 0)

    simulate(dut, testbench)
