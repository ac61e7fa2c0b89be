"""The streams of an engine as registers: against queues in Python, with pauses on both sides."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from stillnet.hw.core import Core, core_ports
from stillnet.hw.host.stream_window import StreamWindow
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.registers import ADDRESS_BITS, Register
from stillnet.sw.contract.window import (
    QUEUE_ELEMENTS,
    WINDOW_ADDRESS_BITS,
    Interrupt,
    StreamRegister,
)
from tests.hw.simulation import simulate


class Host:
    """A CPU at the bus; the engine gives what it gets, in vectors of ``length``."""

    def __init__(self, dut: StreamWindow, ctx: Any, seed: int, length: int = 3) -> None:
        self.dut, self.ctx, self.dice, self.length = dut, ctx, random.Random(seed), length
        self.inside: deque[int] = deque()
        self.moves = True
        self.sent = 0
        self.written: list[tuple[int, int]] = []

    async def tick(self) -> None:
        """A cycle; the engine's side of it."""
        dut, ctx = self.dut, self.ctx
        ready = self.moves and self.dice.random() < 0.6
        offer = bool(self.inside) and (ctx.get(dut.outputs.valid) or self.dice.random() < 0.6)
        ctx.set(dut.inputs.ready, ready)
        ctx.set(dut.outputs.valid, offer)
        if offer:
            last = self.sent % self.length == self.length - 1
            ctx.set(dut.outputs.payload, {"data": self.inside[0], "last": last})
        strobes = ctx.get(dut.registers.write_strobe), ctx.get(dut.registers.read_strobe)
        taken = ready and ctx.get(dut.inputs.valid)
        value = ctx.get(dut.inputs.payload)
        given = offer and ctx.get(dut.outputs.ready)
        if strobes[0]:
            index = ctx.get(dut.registers.address)
            self.written.append((index, ctx.get(dut.registers.write_data)))
        await ctx.tick()
        ctx.set(dut.registers.ack, any(strobes))
        ctx.set(dut.registers.read_data, 77 if strobes[1] else 0)
        if taken:
            self.inside.append(value)
        if given:
            self.inside.popleft()
            self.sent += 1

    async def access(self, index: int, value: int | None = None) -> int:
        """A write of ``value``, or a read."""
        dut, ctx = self.dut, self.ctx
        strobe = dut.bus.read_strobe if value is None else dut.bus.write_strobe
        ctx.set(dut.bus.address, index)
        ctx.set(dut.bus.write_data, (value or 0) & 0xFFFF_FFFF)
        ctx.set(strobe, 1)
        await self.tick()
        ctx.set(strobe, 0)
        for _ in range(50):
            done, data = ctx.get(dut.bus.ack), ctx.get(dut.bus.read_data)
            await self.tick()
            if done:
                return data
        raise AssertionError("the access was not answered")

    async def queues(self) -> tuple[int, int]:
        """Room for elements, and elements that are there."""
        value = await self.access(StreamRegister.QUEUES)
        return value & 0xFFFF, value >> 16


def signed(value: int) -> int:
    return (value & 0xFFFF) - ((value & 0x8000) << 1)


@pytest.mark.parametrize("seed", range(3))
def test_elements_and_pairs(seed: int) -> None:
    """All elements come out, in order, each once, and with the marks of the last ones."""
    dut = StreamWindow()
    total = 400

    async def bench(ctx: Any) -> None:
        host = Host(dut, ctx, seed)
        sent: list[int] = []
        got: list[int] = []
        while len(got) < total:
            room, there = await host.queues()
            assert room + there <= 2 * QUEUE_ELEMENTS
            dice = host.dice.random()
            if dice < 0.3 and len(sent) < total:
                values = [host.dice.randint(-(1 << 15), (1 << 15) - 1) for _ in range(2)]
                if dice < 0.1 or len(sent) == total - 1:
                    await host.access(StreamRegister.ELEMENT, values[0] & 0xFFFF)
                    sent.append(values[0])
                else:
                    pair = values[0] & 0xFFFF | (values[1] & 0xFFFF) << 16
                    await host.access(StreamRegister.PAIR, pair)
                    sent += values
            elif dice < 0.5 and there >= 2:
                value = await host.access(StreamRegister.PAIR)
                got += [signed(value), signed(value >> 16)]
            elif there:
                value = await host.access(StreamRegister.ELEMENT)
                assert value >> 16 == (len(got) % 3 == 2)
                got.append(signed(value))
        assert got == sent and await host.queues() == (QUEUE_ELEMENTS, 0)

    simulate(dut, bench)


def test_full_and_empty() -> None:
    """What has no room is lost and changes nothing else; what is not there is zero."""
    dut = StreamWindow()

    async def bench(ctx: Any) -> None:
        host = Host(dut, ctx, 5, length=QUEUE_ELEMENTS + 1)
        assert await host.access(StreamRegister.ELEMENT) == 0
        assert await host.access(StreamRegister.PAIR) == 0
        assert await host.queues() == (QUEUE_ELEMENTS, 0)
        host.moves = False
        for k in range(QUEUE_ELEMENTS // 2):
            await host.access(StreamRegister.PAIR, 2 * k | (2 * k + 1) << 16)
        # One may be on its way to the engine, which does not take it.
        assert (await host.queues())[0] == 0
        await host.access(StreamRegister.ELEMENT, 9999)
        host.moves = True
        while (await host.queues())[1] < QUEUE_ELEMENTS:
            await host.tick()
        assert await host.access(StreamRegister.INTERRUPTS) == Interrupt.OUTPUT | Interrupt.INPUT
        values = [signed(await host.access(StreamRegister.ELEMENT)) for _ in range(QUEUE_ELEMENTS)]
        assert values == list(range(QUEUE_ELEMENTS))
        assert await host.queues() == (QUEUE_ELEMENTS, 0)

    simulate(dut, bench)


def test_interrupt() -> None:
    """A level while an enabled cause is there: a whole vector, and an empty input queue."""
    dut = StreamWindow()

    async def bench(ctx: Any) -> None:
        host = Host(dut, ctx, 6)
        await host.access(StreamRegister.INTERRUPTS, Interrupt.OUTPUT)
        for k in range(3):
            assert not ctx.get(dut.irq)
            await host.access(StreamRegister.ELEMENT, k)
        for _ in range(100):
            await host.tick()
        assert ctx.get(dut.irq)
        await host.access(StreamRegister.PAIR)
        assert ctx.get(dut.irq)  # the last element of the vector is still there
        await host.access(StreamRegister.ELEMENT)
        await host.tick()
        assert not ctx.get(dut.irq)
        assert await host.access(StreamRegister.INTERRUPTS) == Interrupt.INPUT
        await host.access(StreamRegister.INTERRUPTS, Interrupt.INPUT)
        await host.tick()
        assert ctx.get(dut.irq)
        host.moves = False
        await host.access(StreamRegister.ELEMENT, 1)
        await host.tick()
        assert not ctx.get(dut.irq)

    simulate(dut, bench)


def test_engine_registers_pass() -> None:
    """Every other access goes to the engine, and no other one."""
    dut = StreamWindow()

    async def bench(ctx: Any) -> None:
        host = Host(dut, ctx, 7)
        assert await host.access(Register.STATUS) == 77
        await host.access(Register.CONTROL, 5)
        await host.access(StreamRegister.INTERRUPTS, 3)
        await host.access(StreamRegister.ELEMENT, 3)
        await host.access(Register.IMAGE_BASE, 6)
        assert host.written == [(Register.CONTROL, 5), (Register.IMAGE_BASE, 6)]

    simulate(dut, bench)


def test_registers_lie_above_the_engine() -> None:
    assert all(r >> ADDRESS_BITS == 1 for r in StreamRegister)
    assert all(r >> ADDRESS_BITS == 0 for r in Register)
    assert max(StreamRegister) < 1 << WINDOW_ADDRESS_BITS


@pytest.mark.parametrize("memory", ["axi4", "ram", "port"])
def test_ports_of_the_core(memory: str) -> None:
    config = EngineConfig(memory=memory, ram_words=1024 if memory == "ram" else 0)
    ports = {p.name: p for p in core_ports(config, "registers")}
    assert set(ports) == {"clk", "rst", *Core(config, streams="registers").signature.members}
    assert all(p.meaning and p.group for p in ports.values())
    assert ports["s_axi_awaddr"].width == WINDOW_ADDRESS_BITS + 2
    assert "irq" in ports and not any(n.startswith(("s_axis", "m_axis", "reg_")) for n in ports)
    assert ("m_axi_araddr" in ports) == (memory == "axi4")
    assert ("mem_data" in ports) == (memory == "port")
    with pytest.raises(ValueError, match="streams must be one of axis, registers, not 'fifo'"):
        Core(config, streams="fifo")
