"""The whole core as its user sees it, against the reference: buses and streams of cocotbext-axi.

The sequences of register accesses here are those of ``docs/core.md``.
"""

from __future__ import annotations

import os
import random

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, with_timeout

from stillnet.hw.verilog.generate import core_verilog
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import Control, Error, Region, Status
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack, place

from .command import core_description
from .example import gru_dense, small_config
from .runner import record, report
from .template.buses import Core, Memory

MEMORIES = {
    "axi4": {"lanes": 4, "memory": "axi4"},
    "ram": {"lanes": 8, "memory": "ram", "ram_words": 1024},
    "port": {"lanes": 2, "memory": "port"},
}


def engine(memory: str) -> EngineConfig:
    """A small engine with one of the three memories."""
    return small_config(**MEMORIES[memory])


def design(MEMORY: str) -> str:
    """The core, as ``stillnet generate`` writes it."""
    return core_verilog(engine(MEMORY), "core_bench")


CONFIG = engine(os.environ.get("MEMORY", "axi4"))
NETWORK = gru_dense(CONFIG.lanes)
IMAGE = pack(NETWORK, CONFIG).data
WORD = CONFIG.word_bytes
IMAGE_BASE = 0x40


class TB(Core):
    """The core of the project that ``stillnet testbench`` writes, beside the reference."""

    def __init__(self, dut):
        memory = Memory(WORD << CONFIG.address_bits, WORD)
        super().__init__(dut, core_description(NETWORK, CONFIG), memory, stall=0.3)
        self.kind = CONFIG.memory
        if self.kind == "axi4":
            self.slave.read_if.log.setLevel("ERROR")
        self.reference = Reference(NETWORK, CONFIG.lanes)

    async def reset(self):
        await super().reset()
        self.reference = Reference(NETWORK, CONFIG.lanes)

    async def put(self, data, *, by_registers):
        """Into memory at IMAGE_BASE: behind the core's back, or through its registers."""
        if by_registers:
            await self.write_memory(IMAGE_BASE, data)
        else:
            self.memory.put(IMAGE_BASE, data)

    async def stream(self, rows):
        """Vectors back to back; every output equals the reference's."""
        for row in rows:
            await self.send(row)
        for step, row in enumerate(rows):
            got, expected = await self.receive(), self.reference.step_integers(row)
            assert np.array_equal(got, expected), f"step {step}: {got} and not {expected}"

    async def compare_state(self):
        await self.idle()
        layers, config = place(NETWORK, CONFIG), CONFIG
        region = Region.STATE + config.state_names.index("h")
        units = NETWORK.layers[0].units
        base = layers.unit_base[0] * config.cell_width
        h = await self.read_state(region << 28 | base, units)
        assert np.array_equal(h, self.reference.state[0]["h"]), "state"
        vector = await self.read_state(Region.REFERENCE << 28 | base, units)
        assert np.array_equal(vector, self.reference.reference[0]), "reference"
        row = image.accumulator_place(layers.accumulator_base[0], 4, 0, 2)
        select = Region.ACCUMULATOR << 28 | row * config.lanes
        found = await self.read_state(select, config.lanes)
        expected = self.reference.accumulators[0][2][: config.lanes]
        assert np.array_equal(found, expected), "accumulators"


def vectors(steps):
    rng = np.random.default_rng(random.getrandbits(32))
    return np.cumsum(rng.integers(-900, 901, (steps, NETWORK.inputs)), axis=0)


def timed(coroutine):
    return with_timeout(coroutine, 5, "ms")


@cocotb.test()
async def network(dut):
    """Load, stream, read state and counters, clear, restore."""
    tb = TB(dut)
    await tb.begin()
    assert await tb.read("ID") == image.MAGIC
    assert await tb.read("VERSION") == image.VERSION
    assert await tb.read("FINGERPRINT") == CONFIG.fingerprint
    await tb.put(IMAGE, by_registers=CONFIG.memory == "ram")
    assert await timed(tb.load(IMAGE_BASE)) == Error.NONE
    await tb.write("CONTROL", Control.CLEAR_COUNTERS)

    rows = vectors(12)
    words = 0
    for row in rows[:2]:
        await timed(tb.stream([row]))
        await timed(tb.compare_state())
        words += tb.reference.last.words
    await tb.write("EVENTS_SELECT", 0)
    assert await tb.read("WORDS") == words
    assert await tb.read("STEPS") == 2
    assert 0 < await tb.read("EVENTS") <= 2 * NETWORK.inputs
    assert 0 < await tb.read("LATENCY") < await tb.read("CYCLES")
    await timed(tb.stream(rows[2:]))
    await timed(tb.compare_state())

    saved = tb.reference.get_state()
    await timed(tb.stream(rows[:3]))
    after = tb.reference.get_state()

    await tb.idle()
    await tb.write("CONTROL", Control.CLEAR)
    tb.reference = Reference(NETWORK, CONFIG.lanes)
    await timed(tb.stream(rows[:3]))

    await timed(restore(tb, saved))
    await timed(tb.stream(rows[:3]))
    await timed(tb.compare_state())
    assert all(np.array_equal(after[k], tb.reference.get_state()[k]) for k in after)
    record(words=words)
    report(
        f"memory {CONFIG.memory}: {len(rows) + 9} vectors, state, counters, clear and restore are "
        "those of the reference"
    )


async def restore(tb, state):
    await tb.idle()
    await tb.write("CONTROL", Control.CLEAR)
    await tb.idle()
    layers = range(len(NETWORK.layers))
    vectors = [state["-1/reference"], *(state[f"{i}/reference"] for i in layers)]
    base = place(NETWORK, CONFIG).unit_base[0] * CONFIG.cell_width
    select = Region.STATE + CONFIG.state_names.index("h") << 28 | base
    exact = Control.RESTORE | Control.RESTORE_EXACT
    await tb.restore(exact, vectors, [(select, state["0/h"])])
    tb.reference.set_state(state)


@cocotb.test()
async def image_of_another_engine(dut):
    """Refused with the reason; the right one is then accepted."""
    tb = TB(dut)
    await tb.begin()
    wrong = bytearray(IMAGE)
    wrong[2 * image.SLOT_BYTES] ^= 1
    by_registers = CONFIG.memory != "axi4" or WORD == 4
    await timed(tb.put(bytes(wrong[: 8 * image.SLOT_BYTES]), by_registers=by_registers))
    assert await timed(tb.load(IMAGE_BASE)) == Error.FINGERPRINT
    await tb.send(vectors(1)[0])
    await ClockCycles(dut.clk, 50)
    assert tb.sink.empty() and not await tb.read("STATUS") & Status.LOADED
    tb.source.clear()
    await tb.reset()

    nothing = bytes(8 * image.SLOT_BYTES)
    await timed(tb.put(nothing, by_registers=by_registers))
    assert await timed(tb.load(IMAGE_BASE)) == Error.MAGIC
    await timed(tb.put(IMAGE, by_registers=by_registers))
    assert await timed(tb.load(IMAGE_BASE)) == Error.NONE
    await timed(tb.stream(vectors(2)))


@cocotb.test(skip=CONFIG.memory != "axi4")
async def memory_errors(dut):
    """SLVERR in the image's header refuses the load; in a column it shows in STATUS."""
    tb = TB(dut)
    await tb.begin()
    await tb.put(IMAGE, by_registers=False)
    start = WORD * IMAGE_BASE
    tb.memory.bad = range(start + 100, start + 101)
    assert await timed(tb.load(IMAGE_BASE)) == Error.MEMORY
    assert await tb.read("STATUS") & Status.MEMORY_ERROR

    await tb.reset()
    tb.memory.bad = range(0)
    assert await timed(tb.load(IMAGE_BASE)) == Error.NONE
    assert not await tb.read("STATUS") & Status.MEMORY_ERROR
    await timed(tb.stream(vectors(2)))
    tb.memory.bad = range(start, len(tb.memory.bytes))
    await tb.send(vectors(1)[0] + 2000)
    await timed(tb.receive())
    await timed(tb.idle())
    assert await tb.read("STATUS") & Status.MEMORY_ERROR


@cocotb.test(skip=CONFIG.memory != "ram")
async def beyond_the_ram(dut):
    """A write where there is no memory shows in STATUS."""
    tb = TB(dut)
    await tb.begin()
    await tb.write("MEMORY_ADDRESS", CONFIG.ram_words - 1)
    for expected in (0, Status.MEMORY_ERROR):
        for _ in range(max(1, WORD // 4)):
            await tb.write("MEMORY_DATA", 1)
        await ClockCycles(dut.clk, 3)
        assert await tb.read("STATUS") & Status.MEMORY_ERROR == expected
