"""The cell pipeline against the integers of its cell.

Operands of every size enter, one unit every ``sharing`` cycles; ``latency`` cycles later result and
new state come out. There is no back-pressure in a pipeline, so pauses are cycles with other
operands, which must not matter.
"""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from stillnet.hw.cell.pipeline import CellPipeline
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.fixed import PRE

from .runner import report
from .streams import random_numbers, start

UNITS = 400


def design(CELL: str, SHARING: int) -> CellPipeline:
    """The pipeline of a cell."""
    return CellPipeline(CELLS[CELL], SHARING)


def operands(bits: int, rng: np.random.Generator) -> np.ndarray:
    """Both ends of a format, and numbers of every size."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    values = rng.integers(low, high + 1, UNITS) >> rng.integers(0, bits, UNITS)
    values[:8] = (low, low + 1, -1, 0, 1, high - 1, high, low)
    return rng.permutation(values)


@cocotb.test()
async def equation(dut: Any) -> None:
    """Result, new state and the flag of a clipped result, unit by unit."""
    cell, sharing = CELLS[os.environ["CELL"]], int(os.environ["SHARING"])
    latency = CellPipeline(cell, sharing).latency
    rng = random_numbers()
    formats = {**dict.fromkeys(cell.accumulators, PRE), **cell.parameters}
    m = {name: operands(fmt.bits, rng) for name, fmt in formats.items()}
    state = {s: operands(f.bits, rng) for s, f in {**cell.state, **cell.peers}.items()}
    y, following, clipped = cell.evaluate(m, state)
    await start(dut)

    inputs = {f"m_{k}": v for k, v in m.items()} | {f"s_{k}": v for k, v in state.items()}
    expected = {"y": y} | {f"n_{name}": v for name, v in following.items()}
    bits = {name: len(getattr(dut, name)) for name in [*inputs, *expected]}
    entered: list[tuple[int, int]] = []  # cycle and unit
    unit = found = flags = cycle = 0
    while found < UNITS:
        phase = cycle % sharing
        if sharing > 1:
            dut.phase.value = phase
        enters = phase == 0 and unit < UNITS and random.random() < 0.8
        for name, values in inputs.items():
            value = int(values[unit]) if enters else random.getrandbits(bits[name])
            getattr(dut, name).value = value & ((1 << bits[name]) - 1)
        if enters:
            entered.append((cycle, unit))
            unit += 1
        await RisingEdge(dut.clk)
        cycle += 1
        if entered and entered[0][0] + latency == cycle - 1:
            _, done = entered.pop(0)
            for name, values in expected.items():
                got = int(getattr(dut, name).value)
                assert got == int(values[done]) & ((1 << bits[name]) - 1), f"{name} of unit {done}"
            flags += int(dut.clipped.value)
            found += 1
    assert flags == clipped
    report(
        f"{UNITS} units of cell {cell.name}: {', '.join(expected)} and {clipped} clipped results "
        f"are those of its equation, {latency} cycles later"
    )
