"""The C driver at a generated core: AXI4-Lite, AXI4-Stream and AXI4 memory of cocotbext-axi.

Run by test_c_driver.py. The driver is a program of its own; each of its callbacks is an access of
the bus models, which pause at random.
"""

from __future__ import annotations

import struct

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, with_timeout
from cocotb.utils import get_sim_time

from stillnet.sim.testbenches.core import CONFIG, IMAGE, IMAGE_BASE, NETWORK, TB, vectors
from stillnet.sim.testbenches.runner import report
from stillnet.sw.contract.registers import Register
from stillnet.sw.network.reference import Reference
from tests.support.c_driver import Puppet, c_state


class Bus:
    """The callbacks of a bus, on the models at the core."""

    def __init__(self, bench: TB) -> None:
        self.bench = bench
        self._made: list[int] = []

    def now(self) -> float:
        """The driver's clock: a microsecond for its millisecond."""
        return get_sim_time("ns") / 1000

    async def answer(self, kind: str, ask: Puppet) -> bytes:
        """Answers one callback."""
        bench = self.bench
        if kind == "w":
            register, value = Register(ask.number() // 4), ask.number()
            await bench.write(register.name, value)
            return b""
        if kind == "r":
            return struct.pack("<I", await bench.read(Register(ask.number() // 4).name))
        count = ask.number()
        if kind == "p":
            elements = np.frombuffer(ask.take(2 * count), "<u2")[:3].tolist()
            await bench.source.send(elements)
            await bench.source.wait()
            await ClockCycles(bench.dut.clk, 4)
            return struct.pack("<I", len(elements))
        await ClockCycles(bench.dut.clk, 20)
        while not bench.sink.empty():
            self._made += (await bench.sink.recv()).tdata
        data, self._made = self._made[:count], self._made[count:]
        return struct.pack("<I", len(data)) + np.array(data, "<u2").tobytes()


async def call(puppet: Puppet, what: str, *values: int | bytes) -> bytes:
    """As ``Puppet.call``, in the time of the simulation."""
    data = b"".join(v if isinstance(v, bytes) else struct.pack("<I", v) for v in values)
    for kind in puppet.events(what, data):
        puppet.reply(await with_timeout(puppet.host.answer(kind, puppet), 5, "ms"))
    return puppet.outcome()


@cocotb.test()
async def c_driver(dut):
    """Open, load, step, state out and in, counters."""
    tb = TB(dut)
    await tb.begin()
    puppet = Puppet(CONFIG, Bus(tb))
    await call(puppet, "o", 0, 20_000, 0)
    await call(puppet, "l", len(IMAGE), IMAGE, IMAGE_BASE)
    reference = Reference(NETWORK, CONFIG.lanes)
    rows = vectors(8)

    async def steps(rows: np.ndarray) -> None:
        data = rows.astype("<i2").tobytes()
        found = np.frombuffer(await call(puppet, "N", len(rows), len(data), data), "<i2")
        expected = np.concatenate([reference.step_integers(row) for row in rows])
        assert np.array_equal(found, expected), f"{found} and not {expected}"

    await call(puppet, "z")
    await steps(rows[:5])
    saved = reference.get_state()
    state = await call(puppet, "G")
    assert state == c_state(saved, NETWORK, CONFIG), "state"
    counters = np.frombuffer(await call(puppet, "C"), "<u4")
    assert counters[6] == 5, "steps"
    await steps(rows[5:])
    await call(puppet, "U", len(state), state)
    reference.set_state(saved)
    await steps(rows[5:])
    puppet.end()
    report("11 vectors, state and counters of the C driver are those of the reference")
