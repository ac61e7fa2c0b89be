"""The bridge from the core's AXI4 master to Wishbone, in Migen's simulator."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytestmark = pytest.mark.systems

BAD = 0x300
"""Byte address that answers with an error."""


class Memory:
    """A Wishbone slave with 32-bit words, and waits at random."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.words = {k: self.dice.getrandbits(32) for k in range(2048)}

    def serve(self, bus: Any) -> Any:
        while True:
            yield bus.ack.eq(0)
            yield bus.err.eq(0)
            yield
            if not ((yield bus.cyc) and (yield bus.stb)) or self.dice.random() < 0.3:
                continue
            address = yield bus.adr
            bad = 4 * address == BAD
            if (yield bus.we) and not bad:
                select = yield bus.sel
                mask = sum(0xFF << 8 * k for k in range(4) if select >> k & 1)
                data = yield bus.dat_w
                self.words[address] = self.words[address] & ~mask | data & mask
            yield bus.dat_r.eq(self.words[address])
            yield bus.err.eq(int(bad))
            yield bus.ack.eq(int(not bad))
            yield

    def word(self, address: int, parts: int) -> int:
        """A word of the core at a byte address."""
        return sum(self.words[address // 4 + k] << 32 * k for k in range(parts))


def read(axi: Any, address: int, words: int, dice: random.Random) -> Any:
    """A burst; values and responses, with ``last`` at its place."""
    yield axi.ar.addr.eq(address)
    yield axi.ar.len.eq(words - 1)
    yield axi.ar.valid.eq(1)
    yield
    while not (yield axi.ar.ready):
        yield
    yield axi.ar.valid.eq(0)
    found = []
    while len(found) < words:
        ready = dice.random() < 0.7
        yield axi.r.ready.eq(int(ready))
        yield
        if ready and (yield axi.r.valid):
            found.append(((yield axi.r.data), (yield axi.r.resp)))
            assert (yield axi.r.last) == (len(found) == words)
    yield axi.r.ready.eq(0)
    return found


def write(axi: Any, address: int, value: int, strobes: int) -> Any:
    """One word; the response."""
    yield axi.aw.addr.eq(address)
    yield axi.w.data.eq(value)
    yield axi.w.strb.eq(strobes)
    yield axi.aw.valid.eq(1)
    yield axi.w.valid.eq(1)
    yield axi.b.ready.eq(1)
    gone = [False, False]
    while True:
        yield
        for k, channel in enumerate((axi.aw, axi.w)):
            if not gone[k] and (yield channel.ready):
                gone[k] = True
                yield channel.valid.eq(0)
        if (yield axi.b.valid):
            assert all(gone)
            response = yield axi.b.resp
            yield axi.b.ready.eq(0)
            yield
            return response


@pytest.mark.parametrize("bits", [32, 64, 128])
def test_words_strobes_and_errors(bits: int) -> None:
    from litex.soc.interconnect.axi import AXIInterface
    from migen import passive, run_simulation

    from stillnet.boards.systems.litex_bridge import WeightsOnWishbone

    axi = AXIInterface(data_width=bits, address_width=32, id_width=1, bursting=True)
    dut, memory, parts = WeightsOnWishbone(axi), Memory(bits), bits // 32
    done: list[bool] = []

    def bench() -> Any:
        dice = memory.dice
        for address, words in ((0x400, 1), (0x800, 256 // parts), (0x500, 3)):
            found = yield from read(axi, address, words, dice)
            expected = [memory.word(address + 4 * parts * k, parts) for k in range(words)]
            assert found == [(value, 0) for value in expected]
        before = memory.word(0x600, parts)
        value = dice.getrandbits(bits)
        assert (yield from write(axi, 0x600, value, 0b0110)) == 0
        assert memory.word(0x600, parts) == before & ~0xFF_FF00 | value & 0xFF_FF00
        assert (yield from write(axi, 0x600, value, (1 << bits // 8) - 1)) == 0
        assert memory.word(0x600, parts) == value
        found = yield from read(axi, BAD - bits // 8, 3, dice)
        assert [response for _, response in found] == [0, 2, 0]
        assert (yield from write(axi, BAD, 1, 1)) == 2
        assert (yield from write(axi, 0x600, 5, 1)) == 0
        done.append(True)

    run_simulation(dut, [bench(), passive(memory.serve)(dut.bus)])
    assert done == [True]
