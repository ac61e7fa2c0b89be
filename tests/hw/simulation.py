"""What unit tests of hardware blocks share: a simulation that ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

__all__ = ["simulate", "words_of"]


LIMIT = 300_000
"""Cycles after which a testbench counts as hanging."""

PERIOD = 1e-8
"""Seconds of a cycle."""


def simulate(dut: Elaboratable, testbench: Callable[[Any], Any]) -> None:
    """Runs a testbench to its end; one that hangs fails."""

    async def deadline(ctx: Any) -> None:
        # A delay wakes up once. Counting ticks would wake up in every cycle.
        await ctx.delay(LIMIT * PERIOD)
        raise AssertionError(f"the testbench did not end in {LIMIT} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(testbench)
    simulator.add_testbench(deadline, background=True)
    simulator.run()


def words_of(value: int, count: int, bits: int = 32) -> list[int]:
    """A number cut into signed words, lowest first."""
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    words = [(value >> (bits * k)) & mask for k in range(count)]
    return [w - 2 * half if w & half else w for w in words]
