"""Vectors as changes in hardware: the same lists and vectors as those of the contract."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.host.link.changes import ChangeReader, ChangeWriter
from stillnet.sw.contract.vectors.changes import Form, apply_changes, changes
from tests.support.mutations import NOTICED, built, changed

DEPTH = 32
SIZES = (1, 8, 9, DEPTH)
FORMS = tuple(Form(k) for k in range(4))
CYCLES = 6000
"""More than any list takes."""


def simulate(dut: Any, process: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(process)
    simulator.run()


def vectors(seed: int, count: int, size: int) -> list[np.ndarray]:
    """Vectors whose elements stay, move a little, move together, or jump to the ends."""
    rng = np.random.default_rng(seed)
    latest = rng.integers(-300, 300, size)
    result = [latest]
    for k in range(count):
        moves = rng.integers(-(1 << (1 + k % 13)), 1 << (1 + k % 13), size)
        if k % 6 == 0:
            moves[:] = 0
        elif k % 6 == 1:
            moves[rng.random(size) < 0.8] = 0
        elif k % 6 == 2:
            moves[:] = moves[0]
        elif k % 6 == 3:
            latest = rng.choice([-32768, -1, 0, 32767], size)
            moves[:] = 0
        elif k % 6 == 4:  # residuals of 15 bits, which are written as 16
            moves = np.where(latest > 0, -9000, 9000)
        latest = np.clip(latest + moves, -32768, 32767)
        result.append(latest)
    return result


async def keep(ctx: Any, dut: Any, elements: list[int]) -> None:
    """A whole vector."""
    ctx.set(dut.keep, 1)
    for k, value in enumerate(elements):
        last = k == len(elements) - 1
        if hasattr(dut, "base"):  # the reader
            ctx.set(dut.element, value & 0xFFFF)
            ctx.set(dut.last, last)
        else:
            ctx.set(dut.elements.p.data, value & 0xFFFF)
            ctx.set(dut.elements.p.last, last)
        await ctx.tick()
    ctx.set(dut.keep, 0)
    await ctx.tick().repeat(2)


def read(
    dut: ChangeReader, first: list[int], lists: list[tuple[Form, bytes]], seed: int
) -> list[list[int]]:
    """The vectors that a reader makes of lists."""
    rng = random.Random(seed)
    found: list[list[int]] = []

    async def one(ctx: Any, form: Form, data: bytes) -> list[int]:
        ctx.set(dut.form, form.value)
        ctx.set(dut.nothing, not data)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        place, vector = 0, []
        for _ in range(CYCLES):
            offered = place < len(data) and rng.random() < 0.7
            ctx.set(dut.bytes.valid, offered)
            ctx.set(dut.bytes.p.data, data[place] if offered else 0)
            ctx.set(dut.bytes.p.last, offered and place == len(data) - 1)
            back = ctx.get(dut.valid) and rng.random() < 0.6
            ctx.set(dut.keep, back)
            ctx.set(dut.element, ctx.get(dut.value) & 0xFFFF)
            _, _, taken, value, done = await ctx.tick().sample(dut.bytes.ready, dut.value, dut.done)
            ctx.set(dut.keep, 0)
            place += bool(offered and taken)
            if back:
                vector.append(value)
            if done:
                assert place == len(data), "bytes were left"
                return vector
        raise AssertionError("the list does not end")

    async def test(ctx: Any) -> None:
        await keep(ctx, dut, first)
        assert ctx.get(dut.base), "there is no base"
        for form, data in lists:
            found.append(await one(ctx, form, data))

    simulate(dut, test)
    return found


def check_reader(make: Callable[[], Any]) -> None:
    """Lists in all forms, some without the zeros at their end."""
    for size in SIZES:
        rng = random.Random(size)
        rows = vectors(size, 14, size)
        lists: list[tuple[Form, bytes]] = []
        for old, new in zip(rows, rows[1:]):
            form = rng.choice(FORMS)
            data = changes(new, old, form)
            lists.append((form, data.rstrip(b"\0") if rng.random() < 0.5 else data))
        found = read(make(), rows[0].tolist(), lists, size)
        assert found == [row.tolist() for row in rows[1:]]


def check_any_bytes(make: Callable[[], Any]) -> None:
    """Any bytes are some vector, the same in hardware and in the contract: too few of them, too
    many, widths and masks that no list has."""
    rng = random.Random(5)
    for size in (5, 8, 19):
        old = np.zeros(size, np.int64)
        lists = [(rng.choice(FORMS), rng.randbytes(rng.randrange(40))) for _ in range(25)]
        expected = []
        for form, data in lists:
            old = apply_changes(data, old, form)
            expected.append(old.tolist())
        assert read(make(), [0] * size, lists, size) == expected


def write(dut: ChangeWriter, rows: list[np.ndarray], forms: list[Form | None], seed: int) -> Any:
    """The lists that a writer makes of vectors; those without a form go as a whole."""
    rng = random.Random(seed)
    found: list[bytes] = []

    async def one(ctx: Any, form: Form, elements: list[int]) -> bytes:
        ctx.set(dut.form, form.value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        place, data = 0, bytearray()
        for _ in range(CYCLES):
            offered = place < len(elements) and rng.random() < 0.7
            ctx.set(dut.elements.valid, offered)
            ctx.set(dut.elements.p.data, elements[place] & 0xFFFF if offered else 0)
            ctx.set(dut.elements.p.last, offered and place == len(elements) - 1)
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
                assert place == len(elements), "elements were left"
                return bytes(data)
        raise AssertionError("the list does not end")

    async def test(ctx: Any) -> None:
        for row, form in zip(rows, forms):
            if form is None:
                await keep(ctx, dut, row.tolist())
            else:
                found.append(await one(ctx, form, row.tolist()))

    simulate(dut, test)
    return found


def check_writer(make: Callable[[], Any]) -> None:
    """The lists are those of the contract, bit for bit."""
    for size in SIZES:
        rng = random.Random(size)
        rows = vectors(100 + size, 14, size)
        forms = [None if k == 0 or rng.random() < 0.2 else rng.choice(FORMS) for k in range(15)]
        expected = [
            changes(new, old, form)
            for old, new, form in zip(rows, rows[1:], forms[1:])
            if form is not None
        ]
        assert write(make(), rows, forms, size) == expected


def check_base(make: Callable[[], Any]) -> None:
    """Only after a vector that fits; none once it is forgotten."""
    dut = make()
    seen: list[int] = []

    async def test(ctx: Any) -> None:
        seen.append(ctx.get(dut.base))
        for size in (DEPTH, DEPTH + 1, 3, 2 * DEPTH + 5, 1):
            await keep(ctx, dut, [0] * size)
            seen.append(ctx.get(dut.base))
        ctx.set(dut.forget, 1)
        await ctx.tick()
        ctx.set(dut.forget, 0)
        await ctx.tick()
        seen.append(ctx.get(dut.base))
        await keep(ctx, dut, [0] * 2)
        seen.append(ctx.get(dut.base))

    simulate(dut, test)
    assert seen == [0, 1, 0, 1, 0, 1, 0, 1]


READER_CHECKS = (check_base, check_reader, check_any_bytes)


@pytest.mark.parametrize("check", READER_CHECKS)
def test_reader(check: Any) -> None:
    check(lambda: ChangeReader(DEPTH))


def test_writer() -> None:
    check_writer(lambda: ChangeWriter(DEPTH))


@pytest.mark.parametrize("component", [ChangeReader, ChangeWriter])
def test_depth(component: Any) -> None:
    for depth in (8, 24):
        with pytest.raises(ValueError, match=f"^Depth must be a power of two from 16, not {depth}"):
            component(depth)


# -- wrong on purpose -----------------------------------------------------------------------------

READER_MUTANTS = {
    "base of a vector that is too long": ("self.base.eq(~full)", "self.base.eq(1)"),
    "end one later": ("x.end.eq(index)", "x.end.eq(index + 1)"),
    "a list is taken for a whole vector": ("self.last & x.whole", "self.last"),
    "mask in every form": ("self.form[MASKED] & width.any()", "width.any()"),
    "mask of a block without changes": ("self.form[MASKED] & width.any()", "self.form[MASKED]"),
    "elements that are not in the mask": (
        "with m.If(x.mask[0] & (x.width != 0)):",
        "with m.If(x.width != 0):",
    ),
    "no full width": ("(x.width == FULL_WIDTH) & (x.count", "0 & (x.count"),
    "a bit too few": ("(x.count + 1 < x.width)", "(x.count + 2 < x.width)"),
    "no sign above": ("(wanted & bits.bit) ^ x.negative", "wanted & (bits.bit ^ x.negative)"),
    "slope in every form": ("self.form[SLOPE] & x.change[0]", "x.change[0]"),
    "slope from the vector before": ("[x.change.eq(0), x.count.eq(0)]", "x.count.eq(0)"),
    "a carry that stays": ("x.carry.eq(0), x.change_carry.eq(0)", "x.carry.eq(0)"),
    "vector not kept": ("x.latest.write.en.eq(self.keep & ~full)", "x.latest.write.en.eq(0)"),
    "bytes left behind": ("m.d.comb += x.bits.drop.eq(1)", "pass"),
}
WRITER_MUTANTS = {
    "slope in every form": ("with m.If(self.form[SLOPE]):", "with m.If(1):"),
    "slope from the vector before": ("[x.change.eq(0), x.before.eq(0)]", "x.before.eq(0)"),
    "slope of another form": ("[x.change.eq(0), x.before.eq(0)]", "x.change.eq(0)"),
    "vector not kept": ("x.latest.write.en.eq(written & ~full)", "x.latest.write.en.eq(0)"),
    "whole vector not kept": ("& self.elements.ready) | self.keep", "& self.elements.ready)"),
    "sign not counted": ("x.width.eq(x.width + x.mask.any())", "x.width.eq(x.width)"),
    "width of the last element": ("x.used.eq(x.used | (x", "x.used.eq((x"),
    "full width from 16 on": ("x.width >= FULL_WIDTH", "x.width > FULL_WIDTH"),
    "mask in every form": ("with m.Elif(self.form[MASKED]):", "with m.Else():"),
    "mask of a short block": (", x.mask.eq(x.mask >> 1)]", "]"),
    "all elements with a mask": ("self.form[MASKED] & ~x.mask[0]", "self.form[MASKED] & 0"),
    "no sign bit": ("Mux(first, 0, x.out[0])", "x.out[0]"),
    "bits not turned over": (
        "Mux(first, 0, x.out[0]) ^ negative",
        "Mux(first, negative, x.out[0])",
    ),
    "width of the block before": ("m.d.sync += x.width.eq(0)", "pass"),
    "place not reset": ("m.d.sync += index.eq(0)\n\n    def _bytes", "pass\n\n    def _bytes"),
    "last bits left": ("m.d.comb += x.bit_valid.eq(~x.aligned)", "pass"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READER_MUTANTS)
def test_reader_mutant_is_noticed(name: str) -> None:
    component = changed("host.link.changes", READER_MUTANTS[name]).ChangeReader
    assert any(_noticed(check, lambda: built(lambda: component(DEPTH))) for check in READER_CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITER_MUTANTS)
def test_writer_mutant_is_noticed(name: str) -> None:
    component = changed("host.link.changes", WRITER_MUTANTS[name]).ChangeWriter
    assert _noticed(check_writer, lambda: built(lambda: component(DEPTH)))


def _noticed(check: Callable[[Any], None], make: Callable[[], Any]) -> bool:
    try:
        check(make)
    except NOTICED:
        return True
    return False
