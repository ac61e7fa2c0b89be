"""The accumulator reader: order and values of the units, and the two limits that it follows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stillnet.hw.lanes.accumulator_reader import AccumulatorReader
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.stages import COMMIT_CYCLES, READ_LATENCY
from tests.hw.simulation import simulate, words_of

CONFIG = EngineConfig(
    lanes=4,
    cell_width=2,
    units=64,
    inputs=8,
    accumulators=128,
    layers=4,
    matrices=8,
    prefetch_blocks=2,
    cells=("gru", "linear"),
)


@dataclass
class Command:
    """A dispatched cell: its place, and the column after which it may be read."""

    layer: int
    units: int
    base: int
    stride: int
    sequence: int
    pending: bool
    skip: bool

    @property
    def blocks(self) -> int:
        return -(-self.units // CONFIG.multipliers)

    def place(self, block: int, gate: int) -> tuple[int, int]:
        """Half bank and address of an accumulator word (docs/architecture.md, *In the lanes*)."""
        place = self.base + block * self.stride + gate
        turned = block % 2 if self.stride % 2 == 0 else 0
        return (place % 2) ^ turned, place // 2

    def groups(self, sums: np.ndarray) -> list[list[int]]:
        """What the cell unit is to get; only existing units of the last group count."""
        width, found = CONFIG.cell_width, []
        for start in range(0, self.units, width):
            block, lane = divmod(start, CONFIG.multipliers)
            words = [sums[self.place(block, gate)] for gate in range(self.stride)]
            found.append([int(word[lane + u]) for word in words for u in range(width)])
        return found


def commands(rng: np.random.Generator) -> list[Command]:
    """Cells of one and of three accumulators, most with columns of their own."""
    found, sequence = [], int(rng.integers(0, 5))
    for k in range(14):
        pending = rng.random() < 0.8
        sequence += int(rng.integers(1, 4)) if pending else 0
        stride = int(rng.choice([1, 4]))
        units, base = int(rng.integers(1, 22)), int(rng.integers(0, 90))
        skip = rng.random() < 0.2
        found.append(Command(k % 4, units, base, stride, sequence, pending, skip))
    return found


class Bench:
    """Lanes and a cell unit that pause at random."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dut = AccumulatorReader(CONFIG)
        self.commands = commands(self.rng)
        shape = (2, 128, CONFIG.multipliers)
        self.sums = self.rng.integers(-(1 << 31), 1 << 31, shape, dtype=np.int64)
        self.sequence, self.block = 0, 0
        self.progress = deque([(0, 0)] * (COMMIT_CYCLES + 1), maxlen=COMMIT_CYCLES + 1)
        self.reads: deque[int | None] = deque([None] * READ_LATENCY, maxlen=READ_LATENCY)
        self.current: Command | None = None
        self.granted = 0  # words of the current cell
        self.gates: set[int] = set()  # of the current block
        self.units: list[int] = []
        self.ready = False

    async def run(self, ctx: Any) -> None:
        dut, waiting = self.dut, list(self.commands)
        expected = [g for c in self.commands if not c.skip for g in c.groups(self.sums)]
        found = 0
        for _ in range(6000):
            self.offer(ctx, waiting)
            self.move_columns(ctx)
            ctx.set(dut.sums.ready, int(self.rng.choice([0, 1, 2, 3])))
            ctx.set(dut.units.ready, self.ready)
            self.ready = bool(self.rng.random() < 0.6)
            ctx.set(dut.units_ready_next, self.ready)
            if ctx.get(dut.units.valid) and ctx.get(dut.units.ready):
                words = words_of(ctx.get(dut.units.payload), len(expected[found]))
                assert words == expected[found], f"group {found}"
                found += 1
            taken = ctx.get(dut.commands.valid) and ctx.get(dut.commands.ready)
            grant = self.grant(ctx)
            await ctx.tick()
            if taken:
                self.current, self.granted = waiting.pop(0), 0
                assert not self.gates
            self.answer(ctx, grant)
            if found == len(expected) and not waiting:
                return
        pytest.fail(f"{found} of {len(expected)} groups came")

    def offer(self, ctx: Any, waiting: list[Command]) -> None:
        """A command, once offered, stays until it is taken."""
        commands = self.dut.commands
        if waiting and (ctx.get(commands.valid) or self.rng.random() < 0.3):
            entry = commands.payload
            ctx.set(commands.valid, 1)
            for name in ("layer", "units", "blocks", "base", "stride", "sequence"):
                ctx.set(entry[name], getattr(waiting[0], name))
            ctx.set(entry.pending, waiting[0].pending)
            ctx.set(entry.skip, waiting[0].skip)
        else:
            ctx.set(commands.valid, 0)

    def move_columns(self, ctx: Any) -> None:
        """Columns of many blocks go on; those of cells that were not dispatched yet come too."""
        last = self.commands[-1].sequence
        if self.sequence < last and self.rng.random() < 0.25:
            self.block += 1
            if self.block == 6:
                self.sequence, self.block = self.sequence + 1, 0
        ctx.set(self.dut.progress.sequence, self.sequence)
        ctx.set(self.dut.progress.block, self.block)
        self.progress.append((self.sequence, self.block))

    def grant(self, ctx: Any) -> int | None:
        """A granted read must be of the next block of its cell, and its sum must be there.

        Words of a block come in any order, and none twice. A read that may be taken is.
        """
        sums, hold, cell = self.dut.sums, self.dut.hold, self.current
        assert not ctx.get(hold.active) or cell is not None
        able = ctx.get(sums.valid) & ctx.get(sums.ready)
        assert ctx.get(sums.taken) == (able != 0)
        if not able:
            return None
        assert cell is not None and ctx.get(hold.active) and not cell.skip
        block = self.granted // cell.stride
        assert ctx.get(hold.layer) == cell.layer
        assert ctx.get(hold.block) == block
        bank = ctx.get(sums.bank)
        assert able >> bank & 1
        address = ctx.get(sums.rows[bank])
        assert ctx.get(sums.inverses[bank]) == ~address & ((1 << len(sums.inverses[0])) - 1)
        places = {cell.place(block, gate): gate for gate in range(cell.stride)}
        self.gates ^= {places[bank, address]}
        assert places[bank, address] in self.gates, "read twice"
        if len(self.gates) == cell.stride:
            self.gates = set()
        sequence, blocks = self.progress[0]
        through = not cell.pending or sequence >= cell.sequence
        last_column = sequence == cell.sequence - 1 and block < blocks
        assert through or last_column, "read before the columns were added"
        self.granted += 1
        word = self.sums[bank, address]
        return sum((int(value) & 0xFFFFFFFF) << (32 * k) for k, value in enumerate(word))

    def answer(self, ctx: Any, word: int | None) -> None:
        """Data come READ_LATENCY cycles after the grant, and are anything otherwise."""
        self.reads.append(word)
        data = self.reads[0]
        noise = int.from_bytes(self.rng.bytes(4 * CONFIG.multipliers), "little")
        ctx.set(self.dut.sums.data, noise if data is None else data)


@pytest.mark.parametrize("seed", range(2))
def test_units_come_in_order_and_only_after_their_columns(seed: int) -> None:
    bench = Bench(seed)
    simulate(bench.dut, bench.run)


def test_the_host_reads_any_word() -> None:
    dut = AccumulatorReader(CONFIG)

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.peek.valid, 1)
        for word in (0, 1, 77):
            ctx.set(dut.peek.address, word)
            await ctx.tick()
            assert ctx.get(dut.sums.rows[word % 2]) == word // 2
            assert ctx.get(dut.sums.bank) == word % 2
            assert not ctx.get(dut.sums.valid)

    simulate(dut, testbench)
