"""The weight decoder against the reader of columns that was written from docs/weights.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.sim import Simulator

from stillnet.hw.lanes.weight_decoder import WeightDecoder
from stillnet.sw.contract.columns import Layout, candidates, encode
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import BIAS_WORDS, FORMATS, Kind
from tests.support.mutations import changed
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


def decode(dut: WeightDecoder, words: list[Word], stalls: float) -> tuple[Found, list[int]]:
    """Feeds words with random pauses; returns weights, and the raw words that end a bias."""
    multipliers = dut.config.multipliers
    rng = np.random.default_rng(len(words))
    found: Found = defaultdict(dict)
    biases: list[int] = []

    async def feed(ctx):
        for word, head in words:
            while rng.random() < stalls:
                ctx.set(dut.word.taken, 0)
                await ctx.tick()
            ctx.set(dut.word.taken, 1)
            ctx.set(dut.word.payload, word)
            ctx.set(dut.word.head, head)
            await ctx.tick()
        ctx.set(dut.word.taken, 0)
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
            for i in (i for i in range(multipliers) if (own | other) >> i & 1):
                column = found[ctx.get(dut.value)]
                weight = ctx.get(dut.weights[i])
                if weight:
                    place = ((i + (other >> i & 1)) % multipliers, ctx.get(dut.rows[i]))
                    assert place not in column, "two weights for one row"
                    column[place] = weight

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return found, biases


@dataclass
class Columns:
    """Columns of one event each, and what they hold. An event's value tells its column."""

    config: EngineConfig
    rng: np.random.Generator
    words: list[list[Word]] = field(default_factory=list)
    wanted: Found = field(default_factory=dict)

    def add(self, density: float, bits: int, kinds: set[Kind]) -> None:
        """The same random column in each of some formats."""
        c, rng = self.config, self.rng
        weight = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (GATES, UNITS, COLUMNS))
        weight = (weight * (rng.random(weight.shape) < density)).astype(np.int8)
        for layout in candidates(weight, bits, c, everything=True):
            if layout.kind in kinds:
                self.add_packed(layout, encode(weight, layout, c)[0, : layout.lengths[0]].tobytes())

    def add_packed(self, layout: Layout, data: bytes) -> None:
        rows = layout.gates * layout.blocks
        place = Place(*(int(n) for n in self.rng.integers(0, (40, rows + 1, 9))))
        value = len(self.wanted) + 1
        self.wanted[value] = expected(layout, data, place, self.config)
        self.words.append(column_words(layout, data, place, value, self.config.lanes))

    def check(self, order: Iterable[int], decoder: type[WeightDecoder] = WeightDecoder) -> None:
        """Feeds the columns, and compares all weights."""
        words = [word for k in order for word in self.words[k]]
        found, _ = decode(decoder(self.config), words, stalls=0.2)
        wanted = {k: v for k, v in self.wanted.items() if v}
        assert {k: v for k, v in found.items() if v} == wanted


@pytest.mark.parametrize(("int4", "bits"), [(False, 8), (True, 8), (True, 4)])
def test_columns_of_all_formats_follow_each_other(int4: bool, bits: int) -> None:
    columns = Columns(config(int4), np.random.default_rng(bits))
    for density in (0.0, 0.2, 0.8):
        columns.add(density, bits, set(Kind))
    columns.check(columns.rng.permutation(len(columns.words)))


def after_odd_columns() -> Columns:
    """Before each column stands one of an odd number of words, which ends in half a round."""
    columns = Columns(config(True), np.random.default_rng(3))
    for kind in (Kind.BITMAP, Kind.PLACE, Kind.STEP):
        single = np.zeros((GATES, UNITS, COLUMNS), np.int8)
        single[0, int(columns.rng.integers(UNITS))] = 77
        (layout,) = (
            layout
            for layout in candidates(single, 8, columns.config, everything=True)
            if layout.kind == Kind.BLOCK
        )
        columns.add_packed(layout, encode(single, layout, columns.config)[0].tobytes())
        columns.add(0.3, 8, {kind})
    return columns


def test_a_column_starts_over_after_half_a_round() -> None:
    columns = after_odd_columns()
    columns.check(range(len(columns.words)))


def test_a_half_that_is_not_reset_is_noticed() -> None:
    mutant = changed("lanes.weight_decoder", ("m.d.sync += x.half.eq(0)", "pass"))
    columns = after_odd_columns()
    with pytest.raises(AssertionError):
        columns.check(range(len(columns.words)), mutant.WeightDecoder)


def test_a_bias_passes_as_it_is() -> None:
    """Its bytes go to the lanes raw; the last one is marked."""
    c = config(False)
    head = {"kind": int(Kind.BIAS), "place": 7}
    words = [(0x1111 * k, {**head, "write": int(k % BIAS_WORDS == 3)}) for k in range(8)]
    _, biases = decode(WeightDecoder(c), words, stalls=0.5)
    assert biases == [0x1111 * 3, 0x1111 * 7]
