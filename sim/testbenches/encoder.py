"""The event encoder against ``contract.events``: which elements of a vector are events.

Vectors go in group by group, with pauses between the groups. Then the event list and the reference
memory are read back. The contract's ``encode`` says what must be in them.
"""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from stillnet.hw.events.event_encoder import EventEncoder
from stillnet.hw.parts.layouts import list_layout
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.stages import ENCODE_CYCLES, LIST_READ_LATENCY, LOOKUP_CYCLES

from .runner import report
from .streams import random_numbers, start, unpacked

SIZE, BASE = 13, 3
ROWS = 16


def design(WIDTH: int) -> EventEncoder:
    """An encoder for ``WIDTH`` elements per cycle."""
    return EventEncoder(WIDTH, ROWS)


class Encoder:
    """The encoder with its vector input, its list and its reference memory."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.width = int(os.environ["WIDTH"])
        self.layout = list_layout(self.width, EventEncoder(self.width, ROWS).group_bits)

    async def offer(self, vector: np.ndarray) -> tuple[int, int]:
        """Encodes a vector; gives the rows of its list and the number of its events."""
        dut, width = self.dut, self.width
        groups = [vector[k : k + width] for k in range(0, len(vector), width)]
        times = np.cumsum([random.choice((1, 1, 1, 2, 5)) for _ in groups]).tolist()
        done = 0
        for now in range(times[-1] + LOOKUP_CYCLES + ENCODE_CYCLES + 2):
            # The row is looked up ahead of its values.
            row = times.index(now) if now in times else random.randrange(ROWS - BASE)
            dut.row.value = BASE + row
            at = now - LOOKUP_CYCLES
            dut.group__valid.value = int(at in times)
            if at in times:
                k = times.index(at)
                values = sum((int(x) & 0xFFFF) << 16 * p for p, x in enumerate(groups[k]))
                dut.group__values.value = values
                dut.group__mask.value = (1 << len(groups[k])) - 1
                dut.group__first.value = int(k == 0)
                dut.group__last.value = int(k == len(groups) - 1)
            await RisingEdge(dut.clk)
            if int(dut.listed__valid.value):
                assert int(dut.listed__first.value) == (done == 0)
                done += 1
                assert int(dut.listed__last.value) == (done == len(groups))
                result = int(dut.listed__rows.value), int(dut.listed__total.value)
        assert done == len(groups), f"{done} groups of {len(groups)} were encoded"
        return result

    async def events(self, rows: int) -> tuple[list[int], list[int]]:
        """The list: places and values of its events."""
        dut = self.dut
        index, value = [], []
        dut.list__enable.value = 1
        for row in range(rows):
            dut.list__row.value = BASE + row
            await ClockCycles(dut.clk, LIST_READ_LATENCY + 1)
            entry = unpacked(self.layout, dut.list__data)
            assert entry.mask, "a row of the list without events"
            for p in range(self.width):
                if entry.mask >> p & 1:
                    index.append(entry.group * self.width + p)
                    value.append(entry["values"][p])
        return index, value

    async def reference(self) -> list[int]:
        """The reference memory, through the host's access."""
        dut, found = self.dut, []
        dut.host__active.value = 1
        for k in range(SIZE):
            dut.host__row.value = BASE + k // self.width
            dut.host__element.value = k % self.width
            await ClockCycles(dut.clk, 3)
            found.append(int(dut.host__read.value))
        dut.host__active.value = 0
        return found


@cocotb.test()
@cocotb.parametrize(mode=[Mode.DELTA, Mode.NONZERO], threshold=[0, 900, 65_536])
async def vectors(dut: Any, mode: Mode, threshold: int) -> None:
    """Vectors one after the other: ends of the format, silence, random, just at the threshold."""
    rng = random_numbers()
    encoder = Encoder(dut)
    await start(dut)
    dut.rule__mode.value, dut.rule__threshold.value = int(mode), threshold
    dut.rule__enable.value, dut.list_base.value = 1, BASE
    # Through the host, as a reset does not reach a memory.
    dut.host__active.value = dut.host__clear.value = 1
    for row in range(ROWS):
        dut.host__row.value = row
        await RisingEdge(dut.clk)
    dut.host__active.value = dut.host__clear.value = 0

    ends = rng.choice([-32768, 32767, 0, 1, -1], (2, SIZE))
    steps = [*ends, np.full(SIZE, 32767), np.full(SIZE, -32768), np.full(SIZE, -32768)]
    steps += [*rng.integers(-1000, 1001, (2, SIZE)), np.zeros(SIZE, np.int64)]
    reference = np.zeros(SIZE, np.int64)
    count = 0
    for step in range(len(steps) + 3):
        if step < len(steps):
            vector = steps[step]
        else:
            near = rng.choice([-threshold - 1, -threshold, threshold - 1, threshold], SIZE)
            vector = np.clip(near + (mode is Mode.DELTA) * reference, -32768, 32767)
        rows, total = await encoder.offer(vector)
        index, value = encode(mode, vector, reference, threshold)
        assert await encoder.events(rows) == (index.tolist(), value.tolist())
        assert total == len(index)
        assert await encoder.reference() == (reference & 0xFFFF).tolist()
        count += total
    report(
        f"{mode.name.lower()}, threshold {threshold}: {count} events of {len(steps) + 3} vectors "
        "and all references are those of contract.events"
    )
