"""The AXI4-Lite registers against cocotbext-axi's master, with random stalls on every channel."""

from __future__ import annotations

import itertools
import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from stillnet.hw.host.axi_lite import AxiLiteRegisters

from .runner import report

CHANNELS = {
    "b": ("s_axi_bvalid", "s_axi_bready", ("s_axi_bresp",)),
    "r": ("s_axi_rvalid", "s_axi_rready", ("s_axi_rdata", "s_axi_rresp")),
}


def design(BITS: int) -> AxiLiteRegisters:
    """Registers with a bus of ``BITS`` address bits."""
    return AxiLiteRegisters(BITS)


class TB:
    """An AXI4-Lite master, a register file written in Python, and a checker of both buses."""

    def __init__(self, dut):
        self.dut = dut
        self.registers = [random.getrandbits(32) for _ in range(2 ** int(os.environ["BITS"]))]
        self.requests: list[tuple[str, int]] = []
        self.most_delay = 0
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)

    async def start(self) -> None:
        dut = self.dut
        dut.bus__ack.value = 0
        dut.bus__read_data.value = 0
        Clock(dut.clk, 10, unit="ns").start()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await RisingEdge(dut.clk)
        cocotb.start_soon(self._serve())
        cocotb.start_soon(self._watch())

    async def _serve(self) -> None:
        """Answer requests after a random time, and see that there is one at a time."""
        dut = self.dut
        waiting: tuple[str, int, int] | None = None
        delay = 0
        acked = False
        while True:
            await RisingEdge(dut.clk)
            write, read = int(dut.bus__write_strobe.value), int(dut.bus__read_strobe.value)
            address, data = int(dut.bus__address.value), int(dut.bus__write_data.value)
            if waiting is not None:
                assert not (write or read), "a strobe before the answer"
                assert waiting[1] == address, "address changed before the answer"
                assert waiting[0] == "read" or waiting[2] == data, "data changed"
                if acked:
                    waiting = None
            elif write or read:
                assert not (write and read), "both strobes"
                waiting = ("write" if write else "read", address, data)
                self.requests.append(waiting[:2])
                delay = random.randint(0, self.most_delay)
            acked = waiting is not None and delay == 0
            delay -= 1
            dut.bus__ack.value = acked
            dut.bus__read_data.value = random.getrandbits(32)
            if acked and waiting is not None:
                kind, address, data = waiting
                if kind == "write":
                    self.registers[address] = data
                else:
                    dut.bus__read_data.value = self.registers[address]

    async def _watch(self) -> None:
        """Answers stay until they are taken."""
        held: dict[str, list[int]] = {}
        while True:
            await RisingEdge(self.dut.clk)
            for channel, (valid, ready, payload) in CHANNELS.items():
                values = [int(getattr(self.dut, name).value) for name in payload]
                offered = int(getattr(self.dut, valid).value)
                if channel in held:
                    assert offered, f"{valid} fell before {ready}"
                    assert held[channel] == values, f"{channel} changed while it waited"
                held.pop(channel, None)
                if offered and not int(getattr(self.dut, ready).value):
                    held[channel] = values

    def stall(self, probability: float) -> None:
        write, read = self.master.write_if, self.master.read_if
        for channel in (
            write.aw_channel,
            write.w_channel,
            write.b_channel,
            read.ar_channel,
            read.r_channel,
        ):
            generator = random.Random(random.getrandbits(32))
            channel.set_pause_generator(generator.random() < probability for _ in itertools.count())


def timed(coroutine):
    return with_timeout(coroutine, 50, "us")


@cocotb.test()
async def random_accesses(dut):
    tb = TB(dut)
    await tb.start()
    for probability, most_delay in ((0.0, 0), (0.3, 0), (0.3, 5), (0.7, 20)):
        tb.stall(probability)
        tb.most_delay = most_delay
        for _ in range(40):
            index = random.randrange(len(tb.registers))
            if random.random() < 0.5:
                value = random.getrandbits(32)
                answer = await timed(tb.master.write(4 * index, value.to_bytes(4, "little")))
                assert answer.resp == AxiResp.OKAY
                assert tb.registers[index] == value
            else:
                answer = await timed(tb.master.read(4 * index, 4))
                assert answer.resp == AxiResp.OKAY
                assert int.from_bytes(answer.data, "little") == tb.registers[index]
    report("160 reads and writes: each register has what the master wrote last")


@cocotb.test()
async def reads_and_writes_at_once(dut):
    """Both directions are busy: each address gets its own data, and neither starves."""
    tb = TB(dut)
    await tb.start()
    tb.most_delay = 3
    half = len(tb.registers) // 2
    values = [random.getrandbits(32) for _ in range(half)]
    expected = b"".join(value.to_bytes(4, "little") for value in tb.registers[half:])
    data = b"".join(value.to_bytes(4, "little") for value in values)
    for probability in (0.0, 0.4, 0.85):
        tb.stall(probability)
        tb.requests.clear()
        writing = cocotb.start_soon(tb.master.write(0, data))
        reading = cocotb.start_soon(tb.master.read(4 * half, 4 * half))
        assert (await timed(writing)).resp == AxiResp.OKAY
        answer = await timed(reading)
        assert answer.resp == AxiResp.OKAY and answer.data == expected
        assert tb.registers[:half] == values
        assert [a for kind, a in tb.requests if kind == "write"] == list(range(half))
        assert [a for kind, a in tb.requests if kind == "read"] == list(range(half, 2 * half))
        if probability == 0.0:
            runs = [len(list(run)) for _, run in itertools.groupby(k for k, _ in tb.requests)]
            assert max(runs) <= 3, f"one direction waited for {max(runs)} of the other"


@cocotb.test()
async def partial_writes(dut):
    tb = TB(dut)
    await tb.start()
    before = list(tb.registers)
    for address, length in ((0, 1), (5, 1), (8, 2), (14, 2), (17, 3), (20, 3)):
        answer = await timed(tb.master.write(address, bytes(range(1, length + 1))))
        assert answer.resp == AxiResp.SLVERR
    assert tb.registers == before and not tb.requests

    # The master of cocotbext-axi writes no word without strobes; its channels do.
    write = tb.master.write_if
    await write.aw_channel.send(write.aw_channel._transaction_obj(awaddr=8))
    await write.w_channel.send(write.w_channel._transaction_obj(wdata=1, wstrb=0))
    answer = await timed(write.b_channel.recv())
    assert int(answer.bresp) == AxiResp.OKAY
    assert tb.registers == before and not tb.requests

    answer = await timed(tb.master.write(8, (77).to_bytes(4, "little")))
    assert answer.resp == AxiResp.OKAY and tb.registers[2] == 77
