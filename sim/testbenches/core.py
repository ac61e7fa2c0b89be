"""The whole core as its user sees it, against the reference: buses and streams of cocotbext-axi.

The sequences of register accesses here are those of ``docs/core.md``.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import deque

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge, with_timeout
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiSlave,
    AxiStreamBus,
    AxiStreamSink,
    AxiStreamSource,
)

from stillnet.hw.verilog.generate import core_verilog
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import Control, Error, Region, Register, Status
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack, place

from .example import gru_dense, small_config
from .runner import record, report

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
MEMORY_BASE = 0x2000_0000
IMAGE_BASE = 0x40


class Memory:
    """What the AXI4 slave reads and writes; reads at ``bad`` fail."""

    def __init__(self):
        self.bytes = bytearray(WORD << CONFIG.address_bits)
        self.bad = range(0)

    async def read(self, address, length):
        address -= MEMORY_BASE
        if any(a in self.bad for a in range(address, address + length)):
            raise ValueError("a bad cell")
        assert 0 <= address <= len(self.bytes) - length, "read outside the memory"
        return bytes(self.bytes[address : address + length])

    async def write(self, address, data):
        address -= MEMORY_BASE
        assert 0 <= address <= len(self.bytes) - len(data), "write outside the memory"
        self.bytes[address : address + len(data)] = data


class TB:
    """The core with its memory, a host at its registers, and its streams; all pause at random."""

    def __init__(self, dut):
        self.dut = dut
        self.kind = CONFIG.memory
        self.memory = Memory()
        # One lane of 16 bits, not two bytes.
        buses = [AxiStreamBus.from_prefix(dut, name) for name in ("s_axis", "m_axis")]
        self.source = AxiStreamSource(buses[0], dut.clk, dut.rst, byte_lanes=1)
        self.sink = AxiStreamSink(buses[1], dut.clk, dut.rst, byte_lanes=1)
        self.reference = Reference(NETWORK, CONFIG.lanes)
        if self.kind == "axi4":
            dut.memory_base.value = MEMORY_BASE
            bus = AxiBus.from_prefix(dut, "m_axi")
            self.slave = AxiSlave(bus, dut.clk, dut.rst, target=self.memory)
            self.slave.read_if.log.setLevel("ERROR")
            self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
        else:
            dut.reg_write_strobe.value = 0
            dut.reg_read_strobe.value = 0

    async def start(self, probability=0.3):
        dut = self.dut
        Clock(dut.clk, 10, unit="ns").start()
        if self.kind == "port":
            cocotb.start_soon(self._serve(probability))
        await self.reset()
        channels = [self.source, self.sink]
        if self.kind == "axi4":
            for write, read in (
                (self.slave.write_if, self.slave.read_if),
                (self.master.write_if, self.master.read_if),
            ):
                channels += [write.aw_channel, write.w_channel, write.b_channel]
                channels += [read.ar_channel, read.r_channel]
        for channel in channels:
            dice = random.Random(random.getrandbits(32))
            channel.set_pause_generator(dice.random() < probability for _ in itertools.count())

    async def reset(self):
        dut = self.dut
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 2)
        self.reference = Reference(NETWORK, CONFIG.lanes)

    async def _serve(self, probability):
        """A memory behind the bare port: reads in order, random pauses, some latency."""
        dut = self.dut
        words: deque[tuple[int, int]] = deque()  # cycle from which a word may come, and the word
        ready = valid = 0
        cycle = itertools.count()
        dut.mem_error.value = 0
        dut.mem_write_idle.value = 1
        dut.mem_write_ready.value = 1
        while True:
            dut.mem_read_ready.value = ready
            dut.mem_data_valid.value = valid
            dut.mem_data.value = words[0][1] if valid else random.getrandbits(CONFIG.word_bits)
            await ReadOnly()
            read = ready and int(dut.mem_read_valid.value)
            taken = valid and int(dut.mem_data_ready.value)
            write = int(dut.mem_write_valid.value)
            address, length = int(dut.mem_read_address.value), int(dut.mem_read_length.value)
            where, value = int(dut.mem_write_address.value), int(dut.mem_write_data.value)
            await RisingEdge(dut.clk)
            if int(dut.rst.value):
                words.clear()
                ready = valid = 0
                continue
            now = next(cycle)
            if read:
                for a in range(address, address + length):
                    data = self.memory.bytes[a * WORD : (a + 1) * WORD]
                    words.append((now + 5, int.from_bytes(data, "little")))
            if write:
                self.memory.bytes[where * WORD : (where + 1) * WORD] = value.to_bytes(
                    WORD, "little"
                )
            if taken:
                words.popleft()
                valid = 0
            ready = random.random() >= probability
            valid = valid or int(
                bool(words) and words[0][0] <= now and random.random() >= probability
            )

    # -- registers --------------------------------------------------------------------------------

    async def write(self, register, value):
        value &= 0xFFFF_FFFF
        if self.kind == "axi4":
            answer = await self.master.write(4 * register, value.to_bytes(4, "little"))
            assert answer.resp == AxiResp.OKAY
            return
        self.dut.reg_write_data.value = value
        await self._request(register, self.dut.reg_write_strobe)

    async def read(self, register):
        if self.kind == "axi4":
            answer = await self.master.read(4 * register, 4)
            assert answer.resp == AxiResp.OKAY
            return int.from_bytes(answer.data, "little")
        return await self._request(register, self.dut.reg_read_strobe)

    async def _request(self, register, strobe):
        dut = self.dut
        dut.reg_address.value = register
        strobe.value = 1
        await RisingEdge(dut.clk)
        strobe.value = 0
        while True:
            await RisingEdge(dut.clk)
            if int(dut.reg_ack.value):
                return int(dut.reg_read_data.value)

    async def read_state(self, region, index, count):
        await self.write(Register.STATE_SELECT, (region << 28) | index)
        values = [await self.read(Register.STATE_DATA) for _ in range(count)]
        return np.array(values, np.uint32).astype(np.int32).astype(np.int64)

    async def write_state(self, region, index, values):
        await self.write(Register.STATE_SELECT, (region << 28) | index)
        for value in values:
            await self.write(Register.STATE_DATA, int(value))

    # -- the image --------------------------------------------------------------------------------

    async def put(self, data, *, by_registers):
        """Into memory at IMAGE_BASE: behind the core's back, or through its registers."""
        if not by_registers:
            place = WORD * IMAGE_BASE
            self.memory.bytes[place : place + len(data)] = data
            return
        step = min(4, WORD)
        data += bytes(-len(data) % WORD)
        await self.write(Register.MEMORY_ADDRESS, IMAGE_BASE)
        for k in range(0, len(data), step):
            await self.write(Register.MEMORY_DATA, int.from_bytes(data[k : k + step], "little"))

    async def load(self):
        """Has the image loaded; returns the error code."""
        await self.write(Register.IMAGE_BASE, IMAGE_BASE)
        await self.write(Register.CONTROL, Control.LOAD)
        while True:
            status = await self.read(Register.STATUS)
            code = Error((status >> 8) & 0xFF)
            if code != Error.NONE and not status & Status.LOADED:
                return code
            if status & Status.LOADED and status & Status.IDLE:
                return Error.NONE

    async def idle(self):
        while not await self.read(Register.STATUS) & Status.IDLE:
            pass

    # -- vectors ----------------------------------------------------------------------------------

    async def send(self, values):
        await self.source.send([int(v) & 0xFFFF for v in values])

    async def receive(self):
        frame = await self.sink.recv()
        return np.array(frame.tdata, np.uint16).astype(np.int16).astype(np.int64)

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
        h = await self.read_state(region, base, units)
        assert np.array_equal(h, self.reference.state[0]["h"]), "state"
        vector = await self.read_state(Region.REFERENCE, base, units)
        assert np.array_equal(vector, self.reference.reference[0]), "reference"
        row = image.accumulator_place(layers.accumulator_base[0], 4, 0, 2)
        found = await self.read_state(Region.ACCUMULATOR, row * config.lanes, config.lanes)
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
    await tb.start()
    assert await tb.read(Register.ID) == image.MAGIC
    assert await tb.read(Register.VERSION) == image.VERSION
    assert await tb.read(Register.FINGERPRINT) == CONFIG.fingerprint
    await tb.put(IMAGE, by_registers=CONFIG.memory == "ram")
    assert await timed(tb.load()) == Error.NONE
    await tb.write(Register.CONTROL, Control.CLEAR_COUNTERS)

    rows = vectors(12)
    words = 0
    for row in rows[:2]:
        await timed(tb.stream([row]))
        await timed(tb.compare_state())
        words += tb.reference.last.words
    await tb.write(Register.EVENTS_SELECT, 0)
    assert await tb.read(Register.WORDS) == words
    assert await tb.read(Register.STEPS) == 2
    assert 0 < await tb.read(Register.EVENTS) <= 2 * NETWORK.inputs
    assert 0 < await tb.read(Register.LATENCY) < await tb.read(Register.CYCLES)
    await timed(tb.stream(rows[2:]))
    await timed(tb.compare_state())

    saved = tb.reference.get_state()
    await timed(tb.stream(rows[:3]))
    after = tb.reference.get_state()

    await tb.idle()
    await tb.write(Register.CONTROL, Control.CLEAR)
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
    await tb.write(Register.CONTROL, Control.CLEAR)
    await tb.idle()
    await tb.write(Register.CONTROL, Control.RESTORE | Control.RESTORE_EXACT)
    layers = range(len(NETWORK.layers))
    references = [state["-1/reference"], *(state[f"{i}/reference"] for i in layers)]
    for vector in references:
        await tb.send(vector)
    await ClockCycles(tb.dut.clk, 20)
    await tb.source.wait()
    await tb.idle()
    base = place(NETWORK, CONFIG).unit_base[0] * CONFIG.cell_width
    await tb.write_state(Region.STATE + CONFIG.state_names.index("h"), base, state["0/h"])
    tb.reference.set_state(state)


@cocotb.test()
async def image_of_another_engine(dut):
    """Refused with the reason; the right one is then accepted."""
    tb = TB(dut)
    await tb.start()
    wrong = bytearray(IMAGE)
    wrong[2 * image.SLOT_BYTES] ^= 1
    by_registers = CONFIG.memory != "axi4" or WORD == 4
    await timed(tb.put(bytes(wrong[: 8 * image.SLOT_BYTES]), by_registers=by_registers))
    assert await timed(tb.load()) == Error.FINGERPRINT
    await tb.send(vectors(1)[0])
    await ClockCycles(dut.clk, 50)
    assert tb.sink.empty() and not await tb.read(Register.STATUS) & Status.LOADED
    tb.source.clear()
    await tb.reset()

    nothing = bytes(8 * image.SLOT_BYTES)
    await timed(tb.put(nothing, by_registers=by_registers))
    assert await timed(tb.load()) == Error.MAGIC
    await timed(tb.put(IMAGE, by_registers=by_registers))
    assert await timed(tb.load()) == Error.NONE
    await timed(tb.stream(vectors(2)))


@cocotb.test(skip=CONFIG.memory != "axi4")
async def memory_errors(dut):
    """SLVERR in the image's header refuses the load; in a column it shows in STATUS."""
    tb = TB(dut)
    await tb.start()
    await tb.put(IMAGE, by_registers=False)
    start = WORD * IMAGE_BASE
    tb.memory.bad = range(start + 100, start + 101)
    assert await timed(tb.load()) == Error.MEMORY
    assert await tb.read(Register.STATUS) & Status.MEMORY_ERROR

    await tb.reset()
    tb.memory.bad = range(0)
    assert await timed(tb.load()) == Error.NONE
    assert not await tb.read(Register.STATUS) & Status.MEMORY_ERROR
    await timed(tb.stream(vectors(2)))
    tb.memory.bad = range(start, len(tb.memory.bytes))
    await tb.send(vectors(1)[0] + 2000)
    await timed(tb.receive())
    await timed(tb.idle())
    assert await tb.read(Register.STATUS) & Status.MEMORY_ERROR


@cocotb.test(skip=CONFIG.memory != "ram")
async def beyond_the_ram(dut):
    """A write where there is no memory shows in STATUS."""
    tb = TB(dut)
    await tb.start()
    await tb.write(Register.MEMORY_ADDRESS, CONFIG.ram_words - 1)
    for expected in (0, Status.MEMORY_ERROR):
        for _ in range(max(1, WORD // 4)):
            await tb.write(Register.MEMORY_DATA, 1)
        await ClockCycles(dut.clk, 3)
        assert await tb.read(Register.STATUS) & Status.MEMORY_ERROR == expected
