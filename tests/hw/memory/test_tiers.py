"""The hot store and the two tiers, against lists of words."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from stillnet.hw.memory.hot_banks import HotBanks
from stillnet.hw.memory.tiers import Tiers
from stillnet.sw.contract.config import EngineConfig


def config(words: int, lanes: int = 8) -> EngineConfig:
    return EngineConfig(
        lanes=lanes, units=64, inputs=64, columns=64, hot_words=words, fetch_words=16
    )


async def fill(ctx: Any, store: Any, content: list[int], requests: list[tuple[int, int]]) -> None:
    """Writes the words that will be asked for, now and then with a pause."""
    asked = sorted({address + k for address, length in requests for k in range(length)})
    for address in random.sample(asked, len(asked)):
        ctx.set(store.fill.write, 1)
        ctx.set(store.fill.address, address)
        ctx.set(store.fill.data, content[address])
        await ctx.tick()
        if random.random() < 0.1:
            ctx.set(store.fill.write, 0)
            await ctx.tick()
    ctx.set(store.fill.write, 0)
    await ctx.tick().repeat(16)


async def ask(ctx: Any, reads: Any, requests: list[tuple[int, int]], eager: float) -> None:
    for address, length in requests:
        while random.random() > eager:
            await ctx.tick()
        ctx.set(reads.p.address, address)
        ctx.set(reads.p.length, length)
        ctx.set(reads.valid, 1)
        await ctx.tick().until(reads.ready)
        ctx.set(reads.valid, 0)


async def take(ctx: Any, words: Any, count: int, eager: float) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        ready = random.random() < eager
        ctx.set(words.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(words.valid, words.payload)
        if ready and valid:
            found.append(payload)
    return found


@pytest.mark.parametrize(
    ("words", "lanes", "bank_words"),
    [(40, 8, 64), (100, 8, 64), (300, 8, 16), (70, 4, 16), (33, 2, 16), (130, 32, 16)],
)
@pytest.mark.parametrize("eager", [1.0, 0.6])
def test_store_in_banks(words: int, lanes: int, bank_words: int, eager: float) -> None:
    random.seed(words + lanes)
    configuration = config(words, lanes)
    store = HotBanks(configuration, bank_words=bank_words)
    content = [random.getrandbits(configuration.word_bits) for _ in range(words)]
    requests = []
    for _ in range(60):
        address = random.randrange(words)
        requests.append((address, random.randint(1, min(9, words - address))))
    expected = [content[a + k] for a, length in requests for k in range(length)]
    found: list[int] = []
    cycles = 0

    async def source(ctx: Any) -> None:
        await fill(ctx, store, content, requests)
        await ask(ctx, store.reads, requests, eager)

    async def sink(ctx: Any) -> None:
        nonlocal cycles
        await ctx.tick().until(store.reads.valid)
        async for _ in ctx.tick():
            cycles += 1

    async def check(ctx: Any) -> None:
        found.extend(await take(ctx, store.words, len(expected), eager))

    simulator = Simulator(store)
    simulator.add_clock(1e-8)
    simulator.add_testbench(source)
    simulator.add_testbench(sink, background=True)
    simulator.add_testbench(check)
    simulator.run()
    assert found == expected
    if eager == 1.0:
        # A word in each cycle, besides the way of the first one.
        assert cycles <= len(expected) + 20


@pytest.mark.parametrize("words", [50, 5000])
@pytest.mark.parametrize("slow", [1.0, 0.4])
def test_tiers(words: int, slow: float) -> None:
    """Words come in the order of the reads, whichever side is late."""
    random.seed(words)
    configuration = config(words)
    tiers = Tiers(configuration)
    hot = [random.getrandbits(configuration.word_bits) for _ in range(words)]
    cold = [random.getrandbits(configuration.word_bits) for _ in range(400)]
    top = 1 << (configuration.tier_bits - 1)
    requests, expected, expected_hot = [], [], 0
    for _ in range(100):
        is_hot = random.random() < 0.5
        side = hot if is_hot else cold
        length = random.choice((0, 1, 1, 2, 3, 8, 20))
        address = random.randrange(len(side) - length)
        requests.append((address | top * is_hot, length))
        expected += side[address : address + length]
        expected_hot += length * is_hot
    found: list[int] = []
    hot_words = 0

    async def source(ctx: Any) -> None:
        await fill(ctx, tiers, hot, [(a - top, n) for a, n in requests if a >= top])
        await ask(ctx, tiers.reads, requests, 0.9)

    async def memory(ctx: Any) -> None:
        port = tiers.memory_reads
        while True:
            ctx.set(port.ready, 1)
            _, _, asked, address, length = await ctx.tick().sample(
                port.valid, port.p.address, port.p.length
            )
            if not asked:
                continue
            ctx.set(port.ready, 0)
            for word in cold[address : address + length]:
                while random.random() > slow:
                    await ctx.tick()
                ctx.set(tiers.memory_words.payload, word)
                ctx.set(tiers.memory_words.valid, 1)
                while not (await ctx.tick().sample(tiers.memory_words.ready))[-1]:
                    pass
                ctx.set(tiers.memory_words.valid, 0)

    async def check(ctx: Any) -> None:
        while len(found) < len(expected):
            ready = random.random() < 0.8
            ctx.set(tiers.words.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(tiers.words.valid, tiers.words.payload)
            if ready and valid:
                found.append(payload)

    async def count(ctx: Any) -> None:
        nonlocal hot_words
        async for _, _, leaves in ctx.tick().sample(tiers.hot_word):
            hot_words += leaves

    simulator = Simulator(tiers)
    simulator.add_clock(1e-8)
    simulator.add_testbench(source)
    simulator.add_testbench(memory, background=True)
    simulator.add_testbench(count, background=True)
    simulator.add_testbench(check)
    simulator.run()
    assert found == expected
    assert hot_words == expected_hot
