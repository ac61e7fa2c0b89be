"""The AXI4 master against cocotbext-axi's memory, under a checker of the protocol.

:class:`BusChecker` and :class:`PromptSlave` know no simulator: they are given the values of one
cycle after the other. The mutation tests use them in Amaranth's own simulator.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiRam
from cocotbext.axi.stream import define_stream

from stillnet.hw.memory.axi4 import Axi4ReadMaster

from .runner import record, report

AR_PAYLOAD = ("arid", "araddr", "arlen", "arsize", "arburst", "arcache", "arprot")
AW_PAYLOAD = ("awid", "awaddr", "awlen", "awsize", "awburst", "awcache", "awprot")
W_PAYLOAD = ("wdata", "wstrb", "wlast")
B_PAYLOAD = ("bid", "bresp")
R_PAYLOAD = ("rid", "rdata", "rresp", "rlast")
CHANNELS = {"ar": AR_PAYLOAD, "aw": AW_PAYLOAD, "w": W_PAYLOAD, "b": B_PAYLOAD, "r": R_PAYLOAD}
SIGNALS = tuple(
    name
    for channel, payload in CHANNELS.items()
    for name in (*payload, f"{channel}valid", f"{channel}ready")
)


def design(
    WORD_BITS: int, ADDRESS_BITS: int, OUTSTANDING: int, BASE_ADDRESS: int, REQUESTS: int
) -> Axi4ReadMaster:
    """A master that reaches further than 32 bits."""
    return Axi4ReadMaster(
        ADDRESS_BITS, WORD_BITS, axi_address_bits=34, id_bits=4, outstanding=OUTSTANDING
    )


class BusChecker:
    """Asserts the rules of AXI4, and of this master, on the values of every cycle.

    Parameters
    ----------
    word_bits
        Width of the bus.
    outstanding
        The limit that the master promises, of reads and of writes each.
    """

    def __init__(self, word_bits: int, outstanding: int):
        self.word_bytes = word_bits // 8
        self.outstanding = outstanding
        self.reads: deque[int] = deque()  # words left of each burst on its way
        self.most_reads = 0
        self.writes = 0  # addresses without an answer
        self.write_words = 0  # data without an answer
        self.bursts: list[tuple[int, int]] = []
        self._waiting: dict[str, tuple[int, ...]] = {}

    def sample(self, values: Mapping[str, int]) -> None:
        """Check one cycle: ``values`` are those just before the clock edge."""
        done = set()
        for channel, payload in CHANNELS.items():
            now = tuple(values[name] for name in payload)
            if channel in self._waiting:
                assert values[f"{channel}valid"], f"{channel}valid fell before {channel}ready"
                assert now == self._waiting[channel], (
                    f"{channel} changed while it waited: {dict(zip(payload, now))} "
                    f"instead of {dict(zip(payload, self._waiting[channel]))}"
                )
            self._waiting.pop(channel, None)
            if values[f"{channel}valid"]:
                if values[f"{channel}ready"]:
                    done.add(channel)
                else:
                    self._waiting[channel] = now
        if values["arvalid"]:
            self._check_burst(values, "ar")
        if values["awvalid"]:
            self._check_burst(values, "aw")
            assert values["awlen"] == 0, "writes are single words"
        if values["wvalid"]:
            assert values["wlast"] == 1, "writes are single words"
            assert values["wstrb"] == 2**self.word_bytes - 1, "writes are whole words"

        # The end of a burst makes room only from the next cycle on.
        if "ar" in done:
            self.reads.append(values["arlen"] + 1)
            self.bursts.append((values["araddr"], values["arlen"] + 1))
            self.most_reads = max(self.most_reads, len(self.reads))
            assert len(self.reads) <= self.outstanding, f"{len(self.reads)} bursts on their way"
        if "r" in done:
            assert self.reads, "a word that nobody asked for"
            self.reads[0] -= 1
            assert values["rlast"] == (self.reads[0] == 0), "rlast is wrong"
            if values["rlast"]:
                self.reads.popleft()
        self.writes += "aw" in done
        self.write_words += "w" in done
        assert max(self.writes, self.write_words) <= self.outstanding, "too many writes"
        if "b" in done:
            assert self.writes and self.write_words, "an answer to no write"
            self.writes -= 1
            self.write_words -= 1

    def _check_burst(self, values: Mapping[str, int], channel: str) -> None:
        address, beats = values[f"{channel}addr"], values[f"{channel}len"] + 1
        what = f"{channel} of {beats} words from {address:#x}"
        assert address % self.word_bytes == 0, f"{what} is not aligned"
        assert 2 ** values[f"{channel}size"] == self.word_bytes, f"{what}: size is wrong"
        assert values[f"{channel}burst"] == 1, f"{what} is no INCR burst"
        assert values[f"{channel}id"] == 0, f"{what}: another identifier"
        assert beats <= 256, f"{what} is too long"
        last = address + beats * self.word_bytes - 1
        assert address // 4096 == last // 4096, f"{what} crosses a 4 KB border"


class PromptSlave:
    """The read half of an AXI4 memory that answers as fast as its latency allows.

    It takes an address every cycle and offers a word every cycle, the first one ``latency`` cycles
    after its address was taken.

    Parameters
    ----------
    word_bits
        Width of the bus.
    latency
        Cycles from an address to its first word, at least 1.
    read
        Gives the word at a byte address.
    """

    def __init__(self, word_bits: int, latency: int, read: Callable[[int], int]):
        self.word_bytes = word_bits // 8
        self.latency = latency
        self.read = read
        self._cycle = 0
        self._words: deque[tuple[int, int, int]] = deque()  # (cycle, address, last)

    def step(self, values: Mapping[str, int], pause: bool = False) -> dict[str, int]:
        """The bus's inputs for the next cycle, given the values of this one."""
        self._cycle += 1
        if values["rvalid"] and values["rready"]:
            self._words.popleft()
        if values["arvalid"] and values["arready"]:
            for beat in range(values["arlen"] + 1):
                self._words.append(
                    (
                        self._cycle + self.latency - 1,
                        values["araddr"] + beat * self.word_bytes,
                        beat == values["arlen"],
                    )
                )
        offered = values["rvalid"] and not values["rready"]
        ready = self._words and self._words[0][0] <= self._cycle and not pause
        if not (offered or ready):
            return {"rvalid": 0}
        _, address, last = self._words[0]
        return {"rvalid": 1, "rdata": self.read(address), "rlast": int(last), "rresp": 0, "rid": 0}


def _sampled(name: str, value: Any) -> int:
    """A signal of the bus as a number.

    In simulators with four values a payload is unknown until the first transfer; it counts as zero.
    A handshake must be known.
    """
    known = value.is_resolvable or name.endswith(("valid", "ready"))
    return int(value) if known else 0


_, _, PortSource, PortSink, _ = define_stream("Port", ["payload", "valid", "ready"])


class TB:
    """An engine's side of the port, a memory on the bus, and the checker between them."""

    def __init__(self, dut, *, ram: bool = True):
        self.dut = dut
        self.word_bits = int(os.environ["WORD_BITS"])
        self.word_bytes = self.word_bits // 8
        self.address_bits = int(os.environ["ADDRESS_BITS"])
        self.outstanding = int(os.environ["OUTSTANDING"])
        self.base = int(os.environ["BASE_ADDRESS"], 0)
        self.checker = BusChecker(self.word_bits, self.outstanding)
        self.cycle = 0
        self.first_word_cycle: Any = None
        self.last_word_cycle: Any = None

        bus = {"bus_separator": "__"}
        self.read = PortSource(
            PortSource._bus_obj.from_prefix(dut, "port__read", **bus), dut.clk, dut.rst
        )
        self.write = PortSource(
            PortSource._bus_obj.from_prefix(dut, "port__write", **bus), dut.clk, dut.rst
        )
        self.data = PortSink(
            PortSink._bus_obj.from_prefix(dut, "port__data", **bus), dut.clk, dut.rst
        )
        self.ram: Any = None
        if ram:
            bus = AxiBus.from_prefix(dut, "m_axi")
            self.ram = AxiRam(bus, dut.clk, dut.rst, size=2**34)

    async def start(self) -> None:
        dut = self.dut
        dut.base_address.value = self.base
        Clock(dut.clk, 10, unit="ns").start()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await RisingEdge(dut.clk)
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        bus = [(name, getattr(self.dut, f"m_axi_{name}")) for name in SIGNALS]
        valid, ready = self.dut.port__data__valid, self.dut.port__data__ready
        payload = self.dut.port__data__payload
        held = None
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            self.checker.sample({name: _sampled(name, signal.value) for name, signal in bus})
            if int(valid.value):
                word = int(payload.value)
                assert held in (None, word), "data changed while it waited"
                held = word
                if int(ready.value):
                    held = None
                    self.last_word_cycle = self.cycle
                    if self.first_word_cycle is None:
                        self.first_word_cycle = self.cycle
            else:
                assert held is None, "data valid fell before ready"

    def fill(self, words: int) -> list[int]:
        """Put random words at the port's addresses from 0 on, and return them."""
        content = random.randbytes(words * self.word_bytes)
        self.ram.write(self.base, content)
        return [
            int.from_bytes(content[at : at + self.word_bytes], "little")
            for at in range(0, len(content), self.word_bytes)
        ]

    async def request(self, address: int, length: int) -> None:
        await self.read.send(
            PortSource._transaction_obj(payload=address | length << self.address_bits)
        )

    async def store(self, address: int, word: int) -> None:
        await self.write.send(
            PortSource._transaction_obj(payload=address | word << self.address_bits)
        )

    async def expect(self, words: list[int]) -> None:
        async def receive() -> None:
            for number, word in enumerate(words):
                got = int((await self.data.recv()).payload)
                assert got == word, f"word {number}: {got:#x} instead of {word:#x}"

        await with_timeout(receive(), 10_000 + 400 * len(words), "ns")

    async def nothing_more(self) -> None:
        await ClockCycles(self.dut.clk, 30)
        assert self.data.empty(), "more words than asked for"
        assert not self.checker.reads and not self.checker.writes

    def stall(self, probability: float) -> None:
        """Random pauses on every channel, each with a generator of its own."""
        ram = self.ram
        for channel in (
            self.read,
            self.write,
            self.data,
            ram.read_if.ar_channel,
            ram.read_if.r_channel,
            ram.write_if.aw_channel,
            ram.write_if.w_channel,
            ram.write_if.b_channel,
        ):
            channel.set_pause_generator(pauses(probability))

    def rate(self, words: int) -> float:
        """Words per cycle from the first one to the last."""
        first, last = self.first_word_cycle, self.last_word_cycle
        assert first is not None and last is not None, "no word came"
        return (words - 1) / (last - first)


def pauses(probability: float) -> Iterator[bool]:
    """Pauses of random length, so that both short and long stalls come."""
    generator = random.Random(random.getrandbits(32))
    while True:
        pause = generator.random() < probability
        for _ in range(generator.choice((1, 1, 2, 7))):
            yield pause


def requests_near_borders(tb: TB, words: int, count: int) -> Iterator[tuple[int, int]]:
    """Random requests of 1 to 600 words; most begin or end next to a 4 KB border of the bus."""
    page = 4096 // tb.word_bytes
    shift = tb.base % 4096 // tb.word_bytes
    for number in range(count):
        length = random.choice((1, 1, 2, 3, random.randint(1, 40), random.randint(1, 600)))
        border = random.randint(1, words // page - 1) * page - shift
        if number % 3 == 0:
            address = border + random.randint(-3, 3)
        elif number % 3 == 1:
            address = border - length + random.randint(-3, 3)
        else:
            address = random.randrange(words)
        address = min(max(address, 0), words - length)
        yield address, length


@cocotb.test()
async def random_reads(dut):
    tb = TB(dut)
    await tb.start()
    words = max(4 * 4096 // tb.word_bytes, 1200)
    content = tb.fill(words)
    total = 0
    for probability in (0.0, 0.2, 0.6):
        tb.stall(probability)
        asked = list(requests_near_borders(tb, words, int(os.environ.get("REQUESTS", 25))))
        for address, length in asked:
            await tb.request(address, length)
        await tb.expect([w for at, length in asked for w in content[at : at + length]])
        total += sum(length for _, length in asked)
    await tb.nothing_more()
    assert not int(dut.port__error.value)
    assert sum(beats for _, beats in tb.checker.bursts) == total
    assert tb.checker.most_reads > 1
    ends = {(address + beats * tb.word_bytes) % 4096 for address, beats in tb.checker.bursts}
    assert 0 in ends, "no burst ended at a border"
    report(f"{total} words in {len(tb.checker.bursts)} bursts: all equal, every cycle by the rules")


@cocotb.test()
async def long_wait(dut):
    """The engine takes nothing for long; then every word is there."""
    tb = TB(dut)
    await tb.start()
    content = tb.fill(700)
    tb.data.pause = True
    for address in range(0, 700, 7):
        await tb.request(address, 7)
    await ClockCycles(dut.clk, 1500)
    assert tb.data.empty()
    tb.data.pause = False
    await tb.expect(content)
    await tb.nothing_more()
    assert tb.checker.most_reads <= tb.outstanding


@cocotb.test()
async def empty_requests(dut):
    tb = TB(dut)
    await tb.start()
    content = tb.fill(8)
    for address, length in ((3, 0), (2, 1), (0, 0), (1, 0), (5, 2), (7, 0)):
        await tb.request(address, length)
    await tb.expect([content[2], content[5], content[6]])
    await tb.nothing_more()


@cocotb.test()
async def long_columns_at_full_rate(dut):
    tb = TB(dut)
    await tb.start()
    content = tb.fill(1800)
    asked = [(random.randint(0, 1200), random.randint(200, 600)) for _ in range(10)]
    for address, length in asked:
        await tb.request(address, length)
    await tb.expect([w for at, length in asked for w in content[at : at + length]])
    rate = tb.rate(sum(length for _, length in asked))
    record(long_columns=rate)
    assert rate >= 0.99, rate


async def _prompt(
    dut, latency: int, asked: list[tuple[int, int]], pause: float = 0.0
) -> tuple[TB, float]:
    """Serve ``asked`` from a :class:`PromptSlave` and return the words per cycle, too."""
    tb = TB(dut, ram=False)
    mask = 2**tb.word_bits - 1

    def read(address: int) -> int:
        return address * 0x9E3779B97F4A7C15_F39CC0605CEDC835 & mask

    slave = PromptSlave(tb.word_bits, latency, read)
    dut.m_axi_arready.value = 1
    dut.m_axi_rvalid.value = 0
    dut.m_axi_awready.value = 1
    dut.m_axi_wready.value = 1
    dut.m_axi_bvalid.value = 0

    async def serve() -> None:
        names = ("arvalid", "arready", "araddr", "arlen", "rvalid", "rready")
        bus = [(name, getattr(dut, f"m_axi_{name}")) for name in names]
        while True:
            await RisingEdge(dut.clk)
            driven = slave.step({name: _sampled(name, signal.value) for name, signal in bus})
            for name, value in driven.items():
                getattr(dut, f"m_axi_{name}").value = value

    await tb.start()
    cocotb.start_soon(serve())
    if pause:
        tb.data.set_pause_generator(pauses(pause))
    for address, length in asked:
        await tb.request(address, length)
    await tb.expect(
        [
            read(tb.base + at * tb.word_bytes)
            for address, length in asked
            for at in range(address, address + length)
        ]
    )
    return tb, tb.rate(sum(length for _, length in asked))


@cocotb.test()
async def single_words_at_full_rate(dut):
    """One address and one word every cycle, while the bursts on their way cover the latency."""
    latency = int(os.environ["OUTSTANDING"]) - 4
    _, rate = await _prompt(dut, latency, [(random.getrandbits(12), 1) for _ in range(600)])
    record(single_words=rate)
    assert rate == 1.0, rate


@cocotb.test()
async def short_columns_from_slow_memory(dut):
    """Memory latency 60, columns of 8 words, as a small layer has them."""
    asked = [(random.getrandbits(12) & ~7, 8) for _ in range(150)]
    tb, rate = await _prompt(dut, 60, asked)
    record(short_columns=rate)
    assert rate == 1.0, rate
    assert tb.checker.most_reads > 60 // 8


@cocotb.test()
async def outstanding_limit(dut):
    """A memory too slow for the columns: all bursts that may be on their way are, and no more."""
    tb, rate = await _prompt(dut, 200, [(random.getrandbits(12) & ~7, 8) for _ in range(40)])
    assert tb.checker.most_reads == tb.outstanding
    assert rate < 0.9


@cocotb.test()
async def outstanding_limit_when_the_engine_waits(dut):
    """A fast memory with many bursts in its hands, and an engine that takes every other word."""
    asked = [(random.getrandbits(12) & ~7, random.choice((1, 8))) for _ in range(100)]
    tb, _ = await _prompt(dut, 4, asked, pause=0.5)
    assert tb.checker.most_reads == tb.outstanding


@cocotb.test()
async def writes(dut):
    tb = TB(dut)
    await tb.start()
    words = 600
    content = tb.fill(words)
    for probability in (0.0, 0.3, 0.6):
        tb.stall(probability)
        for _ in range(40):
            address = random.randrange(words)
            content[address] = random.getrandbits(tb.word_bits)
            await tb.store(address, content[address])
        while not (tb.write.idle() and int(dut.port__write_idle.value)):
            await RisingEdge(dut.clk)
        assert not tb.checker.writes and not tb.checker.write_words
        await tb.request(0, words)
        await tb.expect(content)
    await tb.nothing_more()
    assert not int(dut.port__error.value)


async def _raise(*_):
    raise ValueError("no memory here")


@cocotb.test()
async def read_error(dut):
    tb = TB(dut)
    await tb.start()
    content = tb.fill(100)
    await tb.request(0, 100)
    await tb.expect(content)
    assert not int(dut.port__error.value)
    tb.ram.read_if._read = _raise
    await tb.request(7, 1)
    await with_timeout(tb.data.recv(), 5, "us")
    assert int(dut.port__error.value)
    del tb.ram.read_if._read
    await tb.request(0, 100)
    await tb.expect(content)
    assert int(dut.port__error.value), "error must stay"


@cocotb.test()
async def write_error(dut):
    tb = TB(dut)
    await tb.start()
    tb.fill(10)
    tb.ram.write_if._write = _raise
    await tb.store(3, 1)
    await ClockCycles(dut.clk, 30)
    assert int(dut.port__error.value)
    assert int(dut.port__write_idle.value)
