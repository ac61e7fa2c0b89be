"""What unit tests of hardware blocks share: a simulation that ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

__all__ = ["simulate", "words_of"]


def simulate(dut: Elaboratable, testbench: Callable[[Any], Any]) -> None:
    """Runs a testbench to its end."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


def words_of(value: int, count: int, bits: int = 32) -> list[int]:
    """A number cut into signed words, lowest first."""
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    words = [(value >> (bits * k)) & mask for k in range(count)]
    return [w - 2 * half if w & half else w for w in words]
