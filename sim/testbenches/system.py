"""A core as a processor has it: registers and streams on one bus, weights in memory, an interrupt.

The real host driver runs in a thread. Its accesses are those of cocotbext-axi's AXI4-Lite master,
weights are behind its AXI4 slave, and waiting ends with the core's interrupt.
"""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import First, RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave

from stillnet.hw.verilog.generate import core_verilog
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.window import StreamRegister
from stillnet.sw.host.local_core import CoreTransport

from .example import gru_dense, small_config
from .runner import report
from .streams import host_session, start
from .template.buses import MEMORY_BASE, Memory

MEMORIES: dict[str, dict[str, Any]] = {
    "axi4": {"memory": "axi4"},
    "ram": {"memory": "ram", "ram_words": 2048},
}


def engine(memory: str) -> EngineConfig:
    """A small engine with its weights in one of two places."""
    return small_config(lanes=4, **MEMORIES[memory])


def design(MEMORY: str) -> str:
    """The core, as ``stillnet generate --streams registers`` writes it."""
    return core_verilog(engine(MEMORY), "system_bench", "registers")


CONFIG = engine(os.environ.get("MEMORY", "axi4"))
NETWORK = gru_dense(3, inputs=3, units=4, outputs=0)
PAUSES = 0.2


class Bus:
    """The registers of the core, and its interrupt; used in the driver's thread."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
        self.waits = self.wakes = 0
        if CONFIG.memory == "axi4":
            dut.memory_base.value = MEMORY_BASE
            memory = Memory(CONFIG.word_bytes << CONFIG.address_bits, CONFIG.word_bytes)
            bus = AxiBus.from_prefix(dut, "m_axi")
            self.slave = AxiSlave(bus, dut.clk, dut.rst, target=memory)
            for channel in (self.slave.read_if.ar_channel, self.slave.read_if.r_channel):
                channel.set_pause_generator(self._pauses())

    def _pauses(self) -> Any:
        dice = random.Random(random.getrandbits(32))
        while True:
            yield dice.random() < PAUSES

    def read32(self, index: int) -> int:
        """A read over AXI4-Lite."""

        async def read() -> int:
            answer = await self.master.read(4 * index, 4)
            assert answer.resp == AxiResp.OKAY
            return int.from_bytes(answer.data, "little")

        return resume(read)()

    def write32(self, index: int, value: int) -> None:
        """A write over AXI4-Lite."""

        async def write() -> None:
            answer = await self.master.write(4 * index, (value & 0xFFFF_FFFF).to_bytes(4, "little"))
            assert answer.resp == AxiResp.OKAY

        resume(write)()

    def wait(self, seconds: float) -> None:
        """Until the interrupt comes, or is there."""

        async def irq() -> None:
            self.waits += 1
            if not int(self.dut.irq.value):
                limit = Timer(max(1, int(seconds * 1e9)), "ns")
                await First(RisingEdge(self.dut.irq), limit)
            self.wakes += int(self.dut.irq.value)

        resume(irq)()


def session(bus: Bus) -> tuple[int, int]:
    """Vectors that were compared, and steps that the engine counted."""
    transport = CoreTransport(
        bus, CONFIG, wait=bus.wait, now=lambda: get_sim_time("ns") * 1e-9, clock_hz=100_000_000
    )
    compared, steps, errors = host_session(transport, NETWORK, CONFIG, timeout=0.05, retry=0.02)
    assert errors == {"repeated": 0, "resumed": 0, "damaged": 0}
    assert bus.read32(StreamRegister.QUEUES) >> 16 == 0
    return compared, steps


@cocotb.test()
async def host(dut: Any) -> None:
    """The driver's session, over the bus."""
    await start(dut)
    bus = Bus(dut)
    compared, steps = await bridge(session)(bus)
    assert steps == compared, (steps, compared)
    assert bus.wakes > 0 and bus.wakes == bus.waits, "a wait ended without the interrupt"
    report(f"{compared} vectors over AXI4-Lite, and all state, equal the reference's")
