"""The weight decoder against the reader of columns that was written from docs/weights.md."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.lanes.weight_decoder import WeightDecoder
from stillnet.sw.contract.columns import Layout, candidates, encode
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import BIAS_WORDS, FORMATS, Kind
from tests.support.oracles.weights import Column, read_column

GATES, UNITS, COLUMNS = 2, 72, 1

Word = tuple[int, dict[str, int]]
"""A word, and what comes with it."""
Found = dict[int, dict[tuple[int, int], int]]
"""Weights by lane and address, by the value of their column's event."""


def config(int4: bool) -> EngineConfig:
    return EngineConfig(lanes=4, int4=int4, formats=FORMATS, columns=64, accumulators=512)


@dataclass(frozen=True)
class Place:
    """Where the rows of a column lie: some accumulators may be left out."""

    base: int
    hole_at: int
    hole: int

    def address(self, row: int) -> int:
        return self.base + row + (self.hole if row >= self.hole_at else 0)


def column_words(layout: Layout, data: bytes, place: Place, value: int, lanes: int) -> list[Word]:
    """The words of a column with the head that the walk gives them."""
    head = {
        "value": value,
        "kind": int(layout.kind),
        "int4": int(layout.bits == 4),
        "kept": layout.kept,
        "width": max(0, layout.width.bit_length() - 1),
        "base": place.base,
        "lane_rows": layout.gates * layout.blocks,
        "hole_at": place.hole_at,
        "hole": place.hole,
        "write": 1,
    }
    words = [int.from_bytes(data[k : k + lanes], "little") for k in range(0, len(data), lanes)]
    # A dense column goes block after block, and the walk says where; two words may share a row.
    halves = max(1, len(words) // head["lane_rows"])
    result = []
    for k, word in enumerate(words):
        own = {"first": int(k == 0), "half": k % halves}
        if layout.kind == Kind.DENSE:
            block, gate = divmod(k // halves, layout.gates)
            own["place"] = place.address(gate * layout.blocks + block)
        result.append((word, {**head, **own}))
    return result


def expected(layout: Layout, data: bytes, place: Place, c: EngineConfig) -> dict:
    """What :func:`read_column` finds, by lane and address."""
    about = (layout.gates, layout.blocks, layout.kept, layout.width, c.lanes, c.int4)
    weights = read_column(Column(int(layout.kind), layout.bits, *about), data)
    rows = weights.reshape(-1, c.multipliers)
    return {
        (lane, place.address(row)): int(rows[row, lane]) for row, lane in np.argwhere(rows != 0)
    }


def decode(c: EngineConfig, words: list[Word], stalls: float) -> tuple[Found, list[int]]:
    """Feeds words with random pauses; returns weights, and the raw words that end a bias."""
    dut = WeightDecoder(c)
    rng = np.random.default_rng(len(words))
    found: Found = defaultdict(dict)
    biases: list[int] = []

    async def feed(ctx):
        for word, head in words:
            while rng.random() < stalls:
                ctx.set(dut.taken, 0)
                await ctx.tick()
            ctx.set(dut.taken, 1)
            ctx.set(dut.word, word)
            ctx.set(dut.head, head)
            await ctx.tick()
        ctx.set(dut.taken, 0)
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.busy)

    async def watch(ctx):
        while True:
            await ctx.tick()
            own, other = ctx.get(dut.own), ctx.get(dut.other)
            if ctx.get(dut.bias):
                biases.append(ctx.get(dut.raw))
                continue
            assert not own & other
            for i in (i for i in range(c.multipliers) if (own | other) >> i & 1):
                column = found[ctx.get(dut.value)]
                weight = ctx.get(dut.weights[i])
                if weight:
                    place = ((i + (other >> i & 1)) % c.multipliers, ctx.get(dut.rows[i]))
                    assert place not in column, "two weights for one row"
                    column[place] = weight

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return found, biases


@pytest.mark.parametrize(("int4", "bits"), [(False, 8), (True, 8), (True, 4)])
def test_columns_of_all_formats_follow_each_other(int4: bool, bits: int) -> None:
    """Each column has an event value of its own, by which its weights are known."""
    c = config(int4)
    rng = np.random.default_rng(bits)
    wanted: Found = {}
    columns = []
    for density in (0.0, 0.2, 0.8):
        weight = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (GATES, UNITS, COLUMNS))
        weight = (weight * (rng.random(weight.shape) < density)).astype(np.int8)
        for layout in candidates(weight, bits, c, everything=True):
            packed = encode(weight, layout, c)
            for k in range(COLUMNS):
                data = packed[k, : layout.lengths[k]].tobytes()
                rows = layout.gates * layout.blocks
                place = Place(*(int(n) for n in rng.integers(0, (40, rows + 1, 9))))
                value = len(wanted) + 1
                wanted[value] = expected(layout, data, place, c)
                columns.append(column_words(layout, data, place, value, c.lanes))
    order = rng.permutation(len(columns))
    words = [word for k in order for word in columns[k]]
    found, _ = decode(c, words, stalls=0.2)
    assert {k: v for k, v in found.items() if v} == {k: v for k, v in wanted.items() if v}


def test_a_bias_passes_as_it_is() -> None:
    """Its bytes go to the lanes raw; the last one is marked."""
    c = config(False)
    head = {"kind": int(Kind.BIAS), "place": 7}
    words = [(0x1111 * k, {**head, "write": int(k % BIAS_WORDS == 3)}) for k in range(8)]
    _, biases = decode(c, words, stalls=0.5)
    assert biases == [0x1111 * 3, 0x1111 * 7]
