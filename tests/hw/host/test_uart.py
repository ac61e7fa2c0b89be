"""The UART: against a model that we did not write, and on bad lines."""

from __future__ import annotations

import re

import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.link.uart import Uart, UartReceiver, UartTransmitter, baud_increment
from stillnet.sim.testbenches import run_testbench
from tests.support.sampling import some

CLOCK, BAUD = 100_000_000, 3_000_000


@pytest.mark.parametrize(
    "baud", some([BAUD, BAUD * 98 // 100, BAUD * 102 // 100], BAUD * 98 // 100)
)
def test_against_a_third_party(baud: int) -> None:
    """3 Mbaud at 100 MHz (33.3 cycles a bit), the other side within 2 %."""
    result = run_testbench("uart", BAUD=baud, COUNT=150)
    assert sorted(result.tests) == ["receives", "sends"]
    # No gap between bytes: ten bits each, on average exact.
    assert result.figures["sent_per_second"] == pytest.approx(BAUD / 10, rel=3e-3)


def receive(levels: list[tuple[int, float]], *, clock: int = CLOCK, baud: int = BAUD):
    """Plays levels of given numbers of bits on a line; returns the bytes and the errors."""
    dut = UartReceiver(clock, baud)
    data = bytearray()
    errors = 0
    done = False

    async def line(ctx) -> None:
        nonlocal done
        time = cycle = 0.0
        for level, bits in [(1, 3.0), *levels, (1, 12.0)]:
            ctx.set(dut.rx, level)
            time += bits * clock / baud
            while cycle < time:
                await ctx.tick()
                cycle += 1
        done = True

    async def take(ctx) -> None:
        nonlocal errors
        ctx.set(dut.bytes.ready, 1)
        while not done:
            _, _, valid, payload, error = await ctx.tick().sample(
                dut.bytes.valid, dut.bytes.payload, dut.error
            )
            if valid:
                data.append(payload)
            errors += error

    simulator = Simulator(dut)
    simulator.add_clock(1 / clock)
    simulator.add_testbench(line)
    simulator.add_testbench(take)
    simulator.run()
    return bytes(data), errors


def byte(value: int, *, stop: int = 1, scale: float = 1.0) -> list[tuple[int, float]]:
    bits = [0, *((value >> k) & 1 for k in range(8)), stop]
    return [(bit, scale) for bit in bits]


@pytest.mark.parametrize("ratio", [8, 9.1, 33.333, 104])
@pytest.mark.parametrize("scale", [0.98, 1.0, 1.02])
def test_any_clock(ratio: float, scale: float) -> None:
    data = bytes([0x55, 0x00, 0xFF, 0xA3])
    levels = [level for value in data for level in byte(value, scale=scale)]
    clock = 1_000_000
    assert receive(levels, clock=clock, baud=int(clock / ratio)) == (data, 0)


def test_wrong_stop_bit() -> None:
    """The byte is dropped and reported; the next one is received."""
    levels = [*byte(0x12), *byte(0x34, stop=0), (1, 1.0), *byte(0x56)]
    assert receive(levels) == (b"\x12\x56", 1)


def test_break() -> None:
    """However long, it is one error and no bytes."""
    assert receive([*byte(0x12), (0, 55.0), (1, 1.0), *byte(0x56)]) == (b"\x12\x56", 1)


def test_glitches() -> None:
    """A short pulse on an idle line is no start bit; one inside a bit is outvoted."""
    assert receive([(0, 0.3), (1, 2.0), *byte(0x99)]) == (b"\x99", 0)
    bits = byte(0x0F)
    wrong = [*bits[:6], (0, 0.45), (1, 0.1), (0, 0.45), *bits[7:]]
    assert bits[6] == (0, 1.0)
    assert receive(wrong) == (b"\x0f", 0)


@pytest.mark.parametrize("clock", [100_000_000, 12_000_000, 48_000_000, 133_333_333])
@pytest.mark.parametrize("baud", [9600, 115_200, 921_600, 1_500_000])
def test_rates(clock: int, baud: int) -> None:
    bits, increment = baud_increment(clock, baud)
    assert increment * clock / (1 << bits) == pytest.approx(baud, rel=5e-4)


@pytest.mark.parametrize("part", [Uart, UartReceiver, UartTransmitter])
def test_parameters(part) -> None:
    message = "UART rate must be at most 1500000 baud at a clock of 12000000 Hz, not 3000000"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        part(12_000_000, 3_000_000)
    with pytest.raises(TypeError, match="^UART clock must be a positive integer, not 1.5$"):
        part(1.5, 9600)
    assert part(12_000_000, 9600).baud == 9600
