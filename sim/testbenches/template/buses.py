"""Drives all buses of a core: registers, memory, both streams.

Needs cocotb, cocotbext-axi and numpy. Use class ``Core`` in tests of a design that holds the core.
"""

import random
from collections import deque
from itertools import count

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge
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

MEMORY_BASE = 0x2000_0000
PERIOD_NS = 10


class Memory:
    """The memory behind the core, as bytes from its word 0 on; reads at ``bad`` fail."""

    def __init__(self, size, word_bytes):
        self.word_bytes = word_bytes
        self.bytes = bytearray(size)
        self.bad = range(0)

    async def read(self, address, length):
        at = address - MEMORY_BASE
        if any(a in self.bad for a in range(at, at + length)):
            raise ValueError("a bad cell")
        assert 0 <= at <= len(self.bytes) - length, f"a read at {address:#x}, outside the memory"
        return bytes(self.bytes[at : at + length])

    async def write(self, address, data):
        at = address - MEMORY_BASE
        assert 0 <= at <= len(self.bytes) - len(data), f"a write at {address:#x}, outside"
        self.put(at // self.word_bytes, data)

    def put(self, word, data):
        """Bytes from a word on."""
        at = word * self.word_bytes
        self.bytes[at : at + len(data)] = data

    def word(self, address):
        at = address * self.word_bytes
        return int.from_bytes(self.bytes[at : at + self.word_bytes], "little")


class Core:
    """The core with its memory, a host at its registers, and its two streams.

    ``info`` is what ``project.json`` says. ``stall`` is a chance per cycle: all streams and the
    memory pause at random. Registers go by their names.
    """

    def __init__(self, dut, info, memory, stall):
        self.dut, self.info, self.memory, self.stall = dut, info, memory, stall
        for name in info["inputs"]:  # what nobody drives would be unknown for ever
            getattr(dut, name).value = 0
        self.registers, self.control = info["registers"], info["control"]
        self.status = info["status"]
        # A beat is one element of 16 bits, not two bytes.
        buses = [AxiStreamBus.from_prefix(dut, name) for name in ("s_axis", "m_axis")]
        self.source = AxiStreamSource(buses[0], dut.clk, dut.rst, byte_lanes=1)
        self.sink = AxiStreamSink(buses[1], dut.clk, dut.rst, byte_lanes=1)
        self.host = None
        if info["memory"] == "axi4":
            dut.memory_base.value = MEMORY_BASE
            bus = AxiBus.from_prefix(dut, "m_axi")
            self.slave = AxiSlave(bus, dut.clk, dut.rst, target=memory)
            self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)

    async def begin(self):
        """Clock, memory and reset; then everything pauses at random."""
        Clock(self.dut.clk, PERIOD_NS, unit="ns").start()
        if self.info["memory"] == "port":
            cocotb.start_soon(self.serve())
        await self.reset()
        channels = [self.source, self.sink]
        for side in (self.slave, self.host) if self.host else ():
            write, read = side.write_if, side.read_if
            channels += [write.aw_channel, write.w_channel, write.b_channel]
            channels += [read.ar_channel, read.r_channel]
        for channel in channels if self.stall else ():
            channel.set_pause_generator(self._pauses(random.Random(random.getrandbits(32))))

    def _pauses(self, dice):
        return (dice.random() < self.stall for _ in count())

    async def reset(self):
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)

    # -- registers --------------------------------------------------------------------------------

    async def write(self, register, value):
        index, value = self.registers[register], value & 0xFFFF_FFFF
        if self.host:
            answer = await self.host.write(4 * index, value.to_bytes(4, "little"))
            assert answer.resp == AxiResp.OKAY
            return
        self.dut.reg_write_data.value = value
        await self._request(index, self.dut.reg_write_strobe)

    async def read(self, register):
        index = self.registers[register]
        if self.host:
            answer = await self.host.read(4 * index, 4)
            assert answer.resp == AxiResp.OKAY
            return int.from_bytes(answer.data, "little")
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

    async def load(self, image_base):
        """Has the image at a word address loaded; gives the error code, 0 for none."""
        await self.write("IMAGE_BASE", image_base)
        await self.write("CONTROL", self.control["LOAD"])
        wanted = self.status["LOADED"] | self.status["IDLE"]
        while True:
            status = await self.read("STATUS")
            error = status >> 8 & 0xFF
            if error and not status & self.status["LOADED"]:
                return error
            if status & wanted == wanted:
                return 0

    async def idle(self):
        """Waits until nothing is on its way."""
        while not await self.read("STATUS") & self.status["IDLE"]:
            pass

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

    async def write_memory(self, word, data):
        """Bytes from a word on, through the registers of the core."""
        step = min(4, self.memory.word_bytes)
        data += bytes(-len(data) % self.memory.word_bytes)
        await self.write("MEMORY_ADDRESS", word)
        for k in range(0, len(data), step):
            await self.write("MEMORY_DATA", int.from_bytes(data[k : k + step], "little"))

    async def serve(self):
        """A memory behind the bare port: reads in order, some latency, pauses."""
        dut, memory, ready, valid = self.dut, self.memory, 0, 0
        words: deque[tuple[int, int]] = deque()  # cycle from which a word may come, and the word
        dut.mem_error.value, dut.mem_write_idle.value, dut.mem_write_ready.value = 0, 1, 1
        for now in count():
            dut.mem_read_ready.value, dut.mem_data_valid.value = ready, valid
            anything = random.getrandbits(8 * memory.word_bytes)
            dut.mem_data.value = words[0][1] if valid else anything
            await ReadOnly()
            reset = int(dut.rst.value)
            taken = valid and int(dut.mem_data_ready.value)
            if not reset and ready and int(dut.mem_read_valid.value):
                first, length = int(dut.mem_read_address.value), int(dut.mem_read_length.value)
                words.extend((now + 6, memory.word(first + k)) for k in range(length))
            if not reset and int(dut.mem_write_valid.value):
                data = int(dut.mem_write_data.value).to_bytes(memory.word_bytes, "little")
                memory.put(int(dut.mem_write_address.value), data)
            await RisingEdge(dut.clk)
            if reset:
                words.clear()
                ready = valid = 0
                continue
            if taken:
                words.popleft()
                valid = 0
            ready = int(random.random() >= self.stall)
            due = bool(words) and words[0][0] <= now and random.random() >= self.stall
            valid = int(valid or due)

    async def restore(self, control, vectors, state):
        """Vectors into the references, then values of state: (STATE_SELECT, values)."""
        await self.write("CONTROL", control)
        for vector in vectors:
            await self.send(vector)
        await self.source.wait()
        await ClockCycles(self.dut.clk, 20)
        await self.idle()
        for select, values in state:
            await self.write_state(select, values)

    async def write_state(self, select, values):
        await self.write("STATE_SELECT", select)
        for value in values:
            await self.write("STATE_DATA", int(value))

    async def read_state(self, select, number):
        await self.write("STATE_SELECT", select)
        values = [await self.read("STATE_DATA") for _ in range(number)]
        return np.array(values, np.uint32).astype(np.int32)

    # -- vectors ----------------------------------------------------------------------------------

    async def send(self, vector):
        """One vector; its elements are integers, or it is one token."""
        await self.source.send([int(v) & 0xFFFF for v in vector])

    async def receive(self):
        """One output vector, as integers."""
        frame = await self.sink.recv()
        return np.array(frame.tdata, np.uint16).astype(np.int16)
