"""Vectors as changes in hardware: the same lists and vectors as those of the contract."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.link.changes import ChangeReader, ChangeWriter
from stillnet.sw.contract.changes import BLOCK, Form, apply_changes, changes
from tests.support.mutations import NOTICED, built, changed

DEPTH = 32
FORMS = tuple(Form(k) for k in range(4))


def simulate(dut, *processes) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for process in processes:
        simulator.add_testbench(process)
    simulator.run()


def vectors(seed: int, count: int, size: int) -> list[np.ndarray]:
    """Vectors whose elements stay, move a little, move together, or jump to the ends."""
    rng = np.random.default_rng(seed)
    latest = rng.integers(-300, 300, size)
    result = [latest]
    for k in range(count):
        kind = k % 6
        moves = rng.integers(-(1 << (1 + k % 13)), 1 << (1 + k % 13), size)
        if kind == 0:
            moves[:] = 0
        elif kind == 1:
            moves[rng.random(size) < 0.8] = 0
        elif kind == 2:
            moves[:] = moves[0]
        elif kind == 3:
            latest = rng.choice([-32768, -1, 0, 32767], size)
            moves[:] = 0
        latest = np.clip(latest + moves, -32768, 32767)
        result.append(latest)
    return result


def check_reader(make: Callable[[], ChangeReader], sizes=(1, 7, 8, 9, 25, DEPTH)) -> None:
    """Whole vectors and lists of changes, in all forms, some cut or with bytes behind their end."""
    for size in sizes:
        dut, rng = make(), random.Random(size)
        rows = vectors(size, 14, size)
        lists: list[tuple[Form, bytes, np.ndarray]] = []
        for old, new in zip(rows, rows[1:]):
            form = rng.choice(FORMS)
            data = changes(new, old, form)
            if rng.random() < 0.4:
                data = data.rstrip(b"\0")
            elif rng.random() < 0.3:
                data += rng.randbytes(3) if size % BLOCK == 0 else bytes(3)
            lists.append((form, data, new))
        found: list[list[int]] = []

        async def send(ctx) -> None:
            for k, value in enumerate(rows[0].tolist()):
                ctx.set(dut.keep, 1)
                ctx.set(dut.value, value)
                ctx.set(dut.last, k == len(rows[0]) - 1)
                await ctx.tick()
            ctx.set(dut.keep, 0)
            await ctx.tick()
            assert ctx.get(dut.base), "the reader has no base"
            for form, data, _ in lists:
                ctx.set(dut.form, form.value)
                ctx.set(dut.nothing, not data)
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                place, vector = 0, []
                for _ in range(3000):
                    offered = place < len(data) and rng.random() < 0.7
                    ctx.set(dut.bytes.valid, offered)
                    ctx.set(dut.bytes.p.data, data[place] if offered else 0)
                    ctx.set(dut.bytes.p.last, offered and place == len(data) - 1)
                    ctx.set(dut.elements.ready, rng.random() < 0.6)
                    _, _, taken, valid, ready, value, done = await ctx.tick().sample(
                        dut.bytes.ready,
                        dut.elements.valid,
                        dut.elements.ready,
                        dut.elements.payload,
                        dut.done,
                    )
                    place += bool(offered and taken)
                    if valid and ready:
                        vector.append(value)
                    if done:
                        break
                assert done and place == len(data), "the list was not taken"
                found.append(vector)

        simulate(dut, send)
        assert found == [row.tolist() for _, _, row in lists]


def check_writer(make: Callable[[], ChangeWriter], sizes=(1, 7, 8, 9, 25, DEPTH)) -> None:
    """Whole vectors and changed ones; the lists are those of the contract, bit for bit."""
    for size in sizes:
        dut, rng = make(), random.Random(size)
        rows = vectors(100 + size, 14, size)
        whole = [True] + [rng.random() < 0.2 for _ in rows[1:]]
        forms = [rng.choice(FORMS) for _ in rows]
        found: list[bytes] = []

        async def test(ctx) -> None:
            for row, kept, form in zip(rows, whole, forms):
                elements = row.tolist()
                ctx.set(dut.form, form.value)
                ctx.set(dut.start, not kept)
                await ctx.tick()
                ctx.set(dut.start, 0)
                if kept:
                    for k, value in enumerate(elements):
                        ctx.set(dut.keep, 1)
                        ctx.set(dut.value, value)
                        ctx.set(dut.last, k == size - 1)
                        await ctx.tick()
                    ctx.set(dut.keep, 0)
                    await ctx.tick().repeat(2)
                    continue
                place, data = 0, bytearray()
                for _ in range(6000):
                    offered = place < size and rng.random() < 0.7
                    ctx.set(dut.elements.valid, offered)
                    ctx.set(dut.elements.p.data, elements[place] & 0xFFFF if offered else 0)
                    ctx.set(dut.elements.p.last, offered and place == size - 1)
                    ctx.set(dut.bytes.ready, rng.random() < 0.6)
                    _, _, taken, valid, ready, byte, done = await ctx.tick().sample(
                        dut.elements.ready,
                        dut.bytes.valid,
                        dut.bytes.ready,
                        dut.bytes.payload,
                        dut.done,
                    )
                    place += bool(offered and taken)
                    if valid and ready:
                        data.append(byte)
                    if done:
                        break
                assert done and place == size, "the vector was not taken"
                found.append(bytes(data))

        simulate(dut, test)
        expected = [
            changes(new, old, form)
            for old, new, kept, form in zip(rows, rows[1:], whole[1:], forms[1:])
            if not kept
        ]
        assert found == expected


def test_reader() -> None:
    check_reader(lambda: ChangeReader(DEPTH))


def test_writer() -> None:
    check_writer(lambda: ChangeWriter(DEPTH))


def test_reader_has_a_base_only_after_a_vector_that_fits() -> None:
    dut = ChangeReader(16)
    seen: list[int] = []

    async def test(ctx) -> None:
        async def whole(size: int) -> None:
            for k in range(size):
                ctx.set(dut.keep, 1)
                ctx.set(dut.last, k == size - 1)
                await ctx.tick()
            ctx.set(dut.keep, 0)
            await ctx.tick()
            seen.append(ctx.get(dut.base))

        seen.append(ctx.get(dut.base))
        for size in (16, 17, 3, 40, 1):
            await whole(size)
        ctx.set(dut.forget, 1)
        await ctx.tick()
        ctx.set(dut.forget, 0)
        await ctx.tick()
        seen.append(ctx.get(dut.base))
        await whole(2)

    simulate(dut, test)
    assert seen == [0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("component", [ChangeReader, ChangeWriter])
def test_depth(component) -> None:
    for depth in (8, 24):
        with pytest.raises(ValueError, match=f"^Depth must be a power of two from 16, not {depth}"):
            component(depth)


def test_lists_end_anywhere() -> None:
    """Any bytes are some vector, the same in hardware and in the contract."""
    rng = random.Random(5)
    for size in (5, 8, 19):
        dut, old = ChangeReader(DEPTH), np.zeros(size, np.int64)
        lists = [(rng.choice(FORMS), rng.randbytes(rng.randrange(40))) for _ in range(25)]
        expected, found = [], []
        for form, data in lists:
            old = apply_changes(data, old, form)
            expected.append(old.tolist())

        async def send(ctx) -> None:
            ctx.set(dut.keep, 1)
            for k in range(size):
                ctx.set(dut.last, k == size - 1)
                await ctx.tick()
            ctx.set(dut.keep, 0)
            ctx.set(dut.elements.ready, 1)
            for form, data in lists:
                ctx.set(dut.form, form.value)
                ctx.set(dut.nothing, not data)
                ctx.set(dut.start, 1)
                await ctx.tick()
                ctx.set(dut.start, 0)
                place, vector, done = 0, [], 0
                while not done:
                    ctx.set(dut.bytes.valid, place < len(data))
                    ctx.set(dut.bytes.p.data, data[place] if place < len(data) else 0)
                    ctx.set(dut.bytes.p.last, place == len(data) - 1)
                    _, _, taken, valid, value, done = await ctx.tick().sample(
                        dut.bytes.ready, dut.elements.valid, dut.elements.payload, dut.done
                    )
                    place += bool(taken and place < len(data))
                    if valid:
                        vector.append(value)
                found.append(vector)

        simulate(dut, send)
        assert found == expected


# -- designs that are wrong on purpose -------------------------------------------------------------

MUTANTS = {
    "reader": [],
    "writer": [],
}
