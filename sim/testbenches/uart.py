"""The serial port against cocotbext-uart's: bytes back to back, a little fast or slow."""

from __future__ import annotations

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge, Timer
from cocotbext.uart import UartSink, UartSource

from stillnet.hw.host.link.uart import Uart

from .runner import record, report

CLOCK_HZ, OUR_BAUD = 100_000_000, 3_000_000
BAUD = int(os.environ.get("BAUD", OUR_BAUD))
"""Rate of the other side."""
COUNT = int(os.environ.get("COUNT", 0))


def design(BAUD: int, COUNT: int) -> Uart:
    """The serial port at 33.3 cycles per bit, whatever the other side has."""
    return Uart(CLOCK_HZ, OUR_BAUD)


class Bench:
    """The UART with a third party's at the other end of both lines."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.received: list[int] = []
        self.errors = 0
        dut.rx.value = 1
        dut.rst.value = 0
        dut.received__ready.value = 1
        dut.sent__valid.value = 0
        Clock(dut.clk, 10, unit="ns").start()
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            # Sampled after the edge: each byte is valid for one cycle, as it is taken at once.
            if dut.received__valid.value:
                self.received.append(int(dut.received__payload.value))
            self.errors += int(dut.error.value)


@cocotb.test()
async def receives(dut) -> None:
    """Bytes back to back from a sender that is a little fast or slow."""
    bench = Bench(dut)
    source = UartSource(dut.rx, baud=BAUD)
    data = random.Random(1).randbytes(COUNT)
    await Timer(1, "us")
    source.write_nowait(data)
    await source.wait()
    await Timer(3, "us")
    assert bytes(bench.received) == data
    assert bench.errors == 0
    report(f"{COUNT} bytes at {BAUD} baud: received as they were sent")


@cocotb.test()
async def sends(dut) -> None:
    """Bytes back to back to a receiver that is a little fast or slow."""
    Bench(dut)
    sink = UartSink(dut.tx, baud=BAUD)
    data = random.Random(2).randbytes(COUNT)
    await Timer(1001, "ns")  # between two edges of the clock
    start = cocotb.utils.get_sim_time("ns")
    for byte in data:
        dut.sent__payload.value = byte
        dut.sent__valid.value = 1
        while True:
            await RisingEdge(dut.clk)
            if dut.sent__ready.value:
                break
        await Timer(1, "ns")
    dut.sent__valid.value = 0
    seconds = (cocotb.utils.get_sim_time("ns") - start) * 1e-9
    await Timer(10, "us")  # one is being sent, one waits
    assert bytes(sink.read_nowait()) == data
    report(f"{COUNT} bytes sent without a gap: received at {BAUD} baud")
    record(sent_per_second=(COUNT - 2) / seconds)
