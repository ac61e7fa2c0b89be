"""A whole board at its serial port: the real host driver against the real hardware.

Inside the pins are UART, host link, engine and memory, as on a board without SDRAM. The driver runs
in a thread; its transport is the serial line of cocotbext-uart, and its clock that of the
simulation.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.uart import UartSink, UartSource

from stillnet.boards.top.system import System

from .example import gru_dense, small_config
from .runner import report
from .streams import host_session, start

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
    """Vectors that were compared, and steps that the engine counted."""
    return host_session(line, NETWORK, CONFIG, timeout=0.02, retry=2e-3)[:2]


@cocotb.test()
async def host(dut: Any) -> None:
    """The driver's session, over the serial line."""
    await start(dut)
    dut.rx.value = 1
    await RisingEdge(dut.clk)
    compared, steps = await bridge(session)(Line(dut))
    assert steps == compared
    report(f"{compared} vectors over the serial line, and all state, equal the reference's")
