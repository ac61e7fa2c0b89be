"""A whole board at its serial port: the real host driver against the real hardware.

Inside the pins are UART, host link, engine and memory, as on a board without SDRAM. The driver runs
in a thread; its transport is the serial line of cocotbext-uart, and its clock that of the
simulation. Load, stream, read state, clear: every vector equals the reference's.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.uart import UartSink, UartSource

from stillnet.boards.top.system import System
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.reference import Reference

from .example import gru_dense, small_config
from .runner import report
from .streams import random_numbers, start

CLOCK_HZ, BAUD = 100_000_000, 12_500_000
CONFIG = small_config(lanes=4, memory="ram", ram_words=2048)
NETWORK = gru_dense(3, inputs=3, units=4, outputs=0)


def design() -> System:
    """The board's system, with its fastest serial port."""
    return System(CONFIG, clock_hz=CLOCK_HZ, part=None, baud=BAUD, board="bench", window=4)


class Line:
    """The serial line as a transport of the driver; used in the driver's thread."""

    name = "the serial line of the bench"

    def __init__(self, dut: Any) -> None:
        self.source = UartSource(dut.rx, baud=BAUD)
        self.sink = UartSink(dut.tx, baud=BAUD)

    def write(self, data: bytes) -> None:
        """Bytes to the board, with a pause before them now and then."""

        async def send() -> None:
            await Timer(random.choice((1, 1, 500)), "ns")
            self.source.write_nowait(data)

        resume(send)()

    def read(self, timeout: float) -> bytes:
        """Bytes from the board."""

        async def receive() -> bytes:
            await self.sink.wait(timeout=max(1, int(timeout * 1e9)), timeout_unit="ns")
            return bytes(self.sink.read_nowait())

        return resume(receive)()

    def now(self) -> float:
        """Simulated seconds."""
        return get_sim_time("ns") * 1e-9

    def close(self) -> None:
        """Nothing is to be done."""


def session(line: Line) -> tuple[int, int]:
    """What a host does; gives the vectors that were compared, and those that it streamed."""
    rng = random_numbers()
    rows = np.cumsum(rng.integers(-900, 901, (5, NETWORK.inputs)), axis=0)
    reference = Reference(NETWORK, config=CONFIG)
    with Engine(line, timeout=0.02, retry=2e-3) as engine:
        assert engine.config.fingerprint == CONFIG.fingerprint
        engine.load(NETWORK)
        for row in rows[:2]:
            got = engine.step_integers(row)
            assert np.array_equal(got, reference.step_integers(row)), "a step"
        state, expected = engine.get_state(), reference.get_state()
        assert all(np.array_equal(state[name], expected[name]) for name in expected), "state"
        for got, row in zip(engine.stream_integers(iter(rows[2:])), rows[2:]):
            assert np.array_equal(got, reference.step_integers(row)), "a step of a stream"
        engine.clear()
        reference.clear()
        got = engine.step_integers(rows[0])
        assert np.array_equal(got, reference.step_integers(rows[0])), "the step after a clear"
        counters = engine.counters()
    return len(rows) + 1, counters["steps"]


@cocotb.test()
async def host(dut: Any) -> None:
    """The driver's session, over the serial line."""
    await start(dut)
    dut.rx.value = 1
    await RisingEdge(dut.clk)
    compared, steps = await bridge(session)(Line(dut))
    assert steps == compared
    report(f"{compared} vectors over the serial line, and all state, equal the reference's")
