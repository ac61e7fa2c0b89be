"""Streams the recorded vectors through the core and compares every output with the golden one.

Needs cocotb, cocotbext-axi and numpy. ``project.json`` says what core this is. All streams and the
memory pause at random (environment variable STALL, a chance per cycle). Put your own tests below.
"""

import json
import os
import random
import time
from collections import deque
from itertools import count
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiSlave,
    AxiStreamBus,
    AxiStreamSink,
    AxiStreamSource,
)

FOLDER = Path(__file__).parent
MEMORY_BASE = 0x1000_0000
IMAGE_WORD = 0x40
"""Word address of the image in the core's memory."""
PERIOD_NS = 10


class Memory:
    """The memory behind the core, as bytes from its word 0 on."""

    def __init__(self, image, word_bytes):
        self.word_bytes = word_bytes
        first = IMAGE_WORD * word_bytes
        self.bytes = bytearray(first + len(image) + 4096)
        self.bytes[first : first + len(image)] = image

    async def read(self, address, length):
        at = address - MEMORY_BASE
        assert 0 <= at <= len(self.bytes) - length, f"a read at {address:#x}, outside the memory"
        return bytes(self.bytes[at : at + length])

    async def write(self, address, data):
        raise AssertionError("the core writes only what it is told to by MEMORY_DATA")

    def word(self, address):
        at = address * self.word_bytes
        return int.from_bytes(self.bytes[at : at + self.word_bytes], "little")


class Core:
    """The core with its memory, a host at its registers, and its two streams."""

    def __init__(self, dut):
        self.dut = dut
        self.info = json.loads((FOLDER / "project.json").read_text())
        for name in self.info["inputs"]:  # what nobody drives would be unknown for ever
            getattr(dut, name).value = 0
        self.registers, self.control = self.info["registers"], self.info["control"]
        self.status = self.info["status"]
        self.image = (FOLDER / "image.bin").read_bytes()
        self.memory = Memory(self.image, self.info["word_bytes"])
        self.stall = float(os.environ.get("STALL", 0.2))
        # A beat is one element of 16 bits, not two bytes.
        buses = [AxiStreamBus.from_prefix(dut, name) for name in ("s_axis", "m_axis")]
        self.source = AxiStreamSource(buses[0], dut.clk, dut.rst, byte_lanes=1)
        self.sink = AxiStreamSink(buses[1], dut.clk, dut.rst, byte_lanes=1)
        channels = [self.source, self.sink]
        self.host = None
        if self.info["memory"] == "axi4":
            dut.memory_base.value = MEMORY_BASE
            bus = AxiBus.from_prefix(dut, "m_axi")
            slave = AxiSlave(bus, dut.clk, dut.rst, target=self.memory)
            self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
            channels += [slave.read_if.ar_channel, slave.read_if.r_channel]
        for channel in channels:
            dice = random.Random(random.getrandbits(32))
            channel.set_pause_generator(dice.random() < self.stall for _ in count())

    async def start(self):
        """Clock, reset, and the image loaded."""
        dut = self.dut
        dut.rst.value = 1
        Clock(dut.clk, PERIOD_NS, unit="ns").start()
        await ClockCycles(dut.clk, 5)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 2)
        if self.info["memory"] == "port":
            cocotb.start_soon(self.serve())
        if self.info["memory"] == "ram":
            await self.write_image()
        await self.write("IMAGE_BASE", 0 if self.info["memory"] == "ram" else IMAGE_WORD)
        await self.write("CONTROL", self.control["LOAD"])
        await self.idle()
        if self.info["restore"]:
            await self.restore(**self.info["restore"])
        await self.write("CONTROL", self.control["CLEAR_COUNTERS"])

    # -- registers --------------------------------------------------------------------------------

    async def write(self, register, value):
        index = self.registers[register]
        if self.host is not None:
            await self.host.write(4 * index, (value & 0xFFFF_FFFF).to_bytes(4, "little"))
            return
        self.dut.reg_write_data.value = value & 0xFFFF_FFFF
        await self._request(index, self.dut.reg_write_strobe)

    async def read(self, register):
        index = self.registers[register]
        if self.host is not None:
            return int.from_bytes((await self.host.read(4 * index, 4)).data, "little")
        return await self._request(index, self.dut.reg_read_strobe)

    async def _request(self, index, strobe):
        self.dut.reg_address.value = index
        strobe.value = 1
        await RisingEdge(self.dut.clk)
        strobe.value = 0
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.dut.reg_ack.value):
                return int(self.dut.reg_read_data.value)

    async def idle(self):
        """Waits until an image is loaded and nothing is on its way."""
        wanted = self.status["LOADED"] | self.status["IDLE"]
        while True:
            status = await self.read("STATUS")
            if status & wanted == wanted:
                return
            error = status >> 8 & 0xFF
            loaded = status & self.status["LOADED"]
            assert loaded or not error, f"the core refused the image: error {error}"

    async def counters(self):
        """All counters of the core by name, and the events of each source."""
        found = {}
        for name in self.info["counters"]:
            found[name.lower()] = await self.read(name)
        found["events"] = {}
        for name, source in self.info["sources"].items():
            await self.write("EVENTS_SELECT", source)
            found["events"][name] = await self.read("EVENTS")
        return found

    # -- memory and state -------------------------------------------------------------------------

    async def write_image(self):
        """The image into RAM inside the core, through its registers."""
        step = min(4, self.info["word_bytes"])
        data = self.image + bytes(-len(self.image) % self.info["word_bytes"])
        await self.write("MEMORY_ADDRESS", 0)
        for k in range(0, len(data), step):
            await self.write("MEMORY_DATA", int.from_bytes(data[k : k + step], "little"))

    async def serve(self):
        """A memory behind the bare port: reads in order, some latency, pauses."""
        dut, ready, valid = self.dut, 0, 0
        words: deque[tuple[int, int]] = deque()  # cycle from which a word may come, and the word
        dut.mem_error.value, dut.mem_write_idle.value, dut.mem_write_ready.value = 0, 1, 1
        for now in count():
            dut.mem_read_ready.value, dut.mem_data_valid.value = ready, valid
            dut.mem_data.value = words[0][1] if valid else 0
            await ReadOnly()
            taken = valid and int(dut.mem_data_ready.value)
            if ready and int(dut.mem_read_valid.value):
                first, length = int(dut.mem_read_address.value), int(dut.mem_read_length.value)
                words.extend((now + 6, self.memory.word(first + k)) for k in range(length))
            await RisingEdge(dut.clk)
            if taken:
                words.popleft()
                valid = 0
            ready = int(random.random() >= self.stall)
            due = bool(words) and words[0][0] <= now and random.random() >= self.stall
            valid = int(valid or due)

    async def restore(self, control, vector, state):
        """The state with which the network begins, where it is not zero."""
        await self.write("CONTROL", control)
        await self.send(vector)
        await self.source.wait()
        await ClockCycles(self.dut.clk, 20)
        await self.idle()
        for select, values in state:
            await self.write("STATE_SELECT", select)
            for value in values:
                await self.write("STATE_DATA", value)

    # -- vectors ----------------------------------------------------------------------------------

    async def send(self, vector):
        """One vector; its elements are integers, or it is one token."""
        await self.source.send([int(v) & 0xFFFF for v in vector])

    async def receive(self):
        """One output vector, as integers."""
        frame = await with_timeout(self.sink.recv(), 20, "ms")
        return np.array(frame.tdata, np.uint16).astype(np.int16)


@cocotb.test()
async def golden_outputs(dut):
    """Vectors back to back; every output is the golden one."""
    begin = time.perf_counter()
    vectors, golden = np.load(FOLDER / "vectors.npy"), np.load(FOLDER / "golden.npy")
    core = Core(dut)
    await core.start()
    for vector in vectors:
        await core.send(vector)
    outputs = [await core.receive() for _ in golden]
    await core.idle()
    counters = await core.counters()
    wrong = np.argwhere(np.array(outputs) != golden).tolist()
    result = {"steps": len(golden), "wrong": wrong[:1], "counters": counters}
    result["outputs"] = [row.tolist() for row in outputs]
    result["cycles_simulated"] = round(get_sim_time("ns") / PERIOD_NS)
    result["seconds"] = time.perf_counter() - begin
    Path(os.environ.get("RESULT", "result.json")).write_text(json.dumps(result))
    if wrong:
        step, unit = wrong[0]
        got, expected = outputs[step][unit], golden[step][unit]
        raise AssertionError(f"step {step}, output {unit}: {got} instead of {expected}")
    print(f"{len(golden)} vectors: every output equals the golden one")
    print(f"cycles {counters['cycles']}, words of memory {counters['words']}")
