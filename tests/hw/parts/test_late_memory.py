"""A memory whose data come from a register, whole and in parts."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from amaranth.hdl import signed
from amaranth.sim import Simulator

from stillnet.hw.parts import late_memory
from stillnet.hw.parts.late_memory import LateMemory, parts_of


def test_parts() -> None:
    assert doctest.testmod(late_memory).attempted
    for depth in range(1, 5000):
        parts = parts_of(depth)
        assert sum(parts) == depth and len(parts) <= 3
        starts = np.cumsum([0, *parts[:-1]])
        # Aligned, so that the lower bits of a row are its place in the part.
        assert all(int(s) % (1 << (p - 1).bit_length()) == 0 for s, p in zip(starts, parts))


@pytest.mark.parametrize("depth", [600, 1024, 1536, 3000, 3072])
def test_two_enabled_cycles_later(depth: int) -> None:
    dut = LateMemory(signed(16), depth)
    rng = np.random.default_rng(depth)
    borders = np.cumsum([0, *parts_of(depth)])
    near = np.unique(np.clip(np.add.outer(borders, np.arange(-3, 3)), 0, depth - 1))
    rows = {int(row): 0 for row in near}
    seen = 0

    async def write(ctx, row: int) -> None:
        rows[row] = int(rng.integers(-32768, 32768))
        ctx.set(dut.write_row, row)
        ctx.set(dut.write_data, rows[row])
        ctx.set(dut.write, 1)

    async def check(ctx) -> None:
        nonlocal seen
        for row in rows:
            await write(ctx, row)
            await ctx.tick()
        waiting = wanted = None  # what the memory has found; what the register shows
        for _ in range(400):
            row, enable = int(rng.choice(near)), rng.random() < 0.7
            ctx.set(dut.row, row)
            ctx.set(dut.enable, enable)
            if enable:
                waiting, wanted = rows[row], waiting
            ctx.set(dut.write, 0)
            other = int(rng.choice(near))
            if other != row and rng.random() < 0.3:
                await write(ctx, other)
            await ctx.tick()
            if wanted is not None:
                assert ctx.get(dut.data) == wanted
                seen += 1

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(check)
    sim.run()
    assert seen > 300
