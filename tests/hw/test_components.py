"""Parts of the engine against the contract, one cycle at a time, in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pytest
from amaranth.hdl import Elaboratable

from stillnet.hw.cell.function_lookup import FunctionLookup
from stillnet.hw.cell.pipeline import CellPipeline, TableLookup, schedule
from stillnet.hw.cell.rescale import Rescale
from stillnet.hw.events.event_encoder import EventEncoder
from stillnet.hw.fetch.image_loader import ImageLoader
from stillnet.sw.contract import fixed
from stillnet.sw.contract import image as layout
from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.cells.expr import Node, output, select, wide_mul
from stillnet.sw.contract.cells.schedule import LATENCY
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.fixed import Format
from stillnet.sw.contract.functions import TABLES, named_table
from stillnet.sw.contract.registers import Error
from stillnet.sw.contract.stages import (
    ENCODE_CYCLES,
    LIST_READ_LATENCY,
    LOOKUP_CYCLES,
    RESCALE_LATENCY,
)
from tests.hw.simulation import simulate
from tests.support.networks.equations import random_cell
from tests.support.sampling import some


def stream_through(
    dut: Elaboratable,
    operands: dict[str, np.ndarray],
    results: Iterable[str],
    latency: int,
) -> dict[str, np.ndarray]:
    """New operands each cycle; the results that come ``latency`` cycles later."""
    signals = [(getattr(dut, name), values.tolist()) for name, values in operands.items()]
    watched = {name: (getattr(dut, name), []) for name in results}
    count = len(next(iter(operands.values())))

    async def testbench(ctx: Any) -> None:
        for cycle in range(count + latency):
            if cycle < count:
                for signal, values in signals:
                    ctx.set(signal, values[cycle])
            if cycle >= latency:
                for signal, found in watched.values():
                    found.append(ctx.get(signal))
            await ctx.tick()

    simulate(dut, testbench)
    return {name: np.array(found, np.int64) for name, (_, found) in watched.items()}


def operands(bits: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Both ends of a format, the middle, powers of two, and random numbers of every size."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    powers = [s << k for k in range(bits - 1) for s in (1, -1)]
    near = [v + d for v in (*powers, 0, low, high) for d in (-1, 0, 1)]
    small = rng.integers(low, high + 1, count) >> rng.integers(0, bits, count)
    values = np.concatenate([np.clip(near, low, high), small])
    return rng.permutation(values)[:count]


# -- cells --------------------------------------------------------------------------------------


def check_pipeline(cell: Cell, sharing: int = 1, count: int = 1000) -> None:
    """A pipeline against its cell's integers, with operands of every size and sign."""
    dut = CellPipeline(cell, sharing)
    assert dut.cell is cell
    assert dut.sharing == sharing
    assert dut.latency == schedule(cell, sharing).latency
    rng = np.random.default_rng(1)
    m = {a: operands(fixed.PRE.bits, rng, count) for a in cell.accumulators}
    m |= {p: operands(f.bits, rng, count) for p, f in cell.parameters.items()}
    state = {s: operands(f.bits, rng, count) for s, f in {**cell.state, **cell.peers}.items()}
    # Now and then gates are at their ends, and state and parameters at one value or zero, so that
    # comparisons find both sides equal.
    same = operands(16, rng, count // 8) * rng.integers(0, 2, count // 8)
    for name, values in {**m, **state}.items():
        fmt = {**cell.parameters, **cell.state, **cell.peers}.get(name)
        ends = rng.choice([fixed.PRE.minimum, fixed.PRE.maximum], count // 8)
        values[: count // 8] = ends if fmt is None else np.clip(same, fmt.minimum, fmt.maximum)
    inputs = {f"m_{a}": v for a, v in m.items()} | {f"s_{s}": v for s, v in state.items()}
    if sharing > 1:  # what enters in other phases must not matter
        inputs = {k: np.stack([v] + [~v] * (sharing - 1), 1).ravel() for k, v in inputs.items()}
        more = dut.latency  # phases go on until the last result
        inputs = {k: np.pad(v, (0, more)) for k, v in inputs.items()}
        inputs["phase"] = np.arange(count * sharing + more) % sharing
    watched = ["y", "clipped", *(f"n_{s}" for s in cell.state)]
    found = stream_through(dut, inputs, watched, dut.latency)
    found = {k: v[: count * sharing : sharing] for k, v in found.items()}
    y, following, clipped = cell.evaluate(m, state)
    np.testing.assert_array_equal(found["y"], y)
    assert found["clipped"].sum() == clipped
    for s, value in following.items():
        np.testing.assert_array_equal(found[f"n_{s}"], value)


@pytest.mark.parametrize("name", CELLS)
def test_pipeline_computes_the_equation_of_its_cell(name: str) -> None:
    check_pipeline(CELLS[name])


@pytest.mark.parametrize("seed", range(24))
def test_pipeline_of_a_random_equation(seed: int) -> None:
    """Every operation, on operands of all widths, with and without shared multipliers."""
    check_pipeline(random_cell(seed), 1 + seed % 4, 160)


class LongCarries(Cell):
    """Sums, differences, comparisons and roundings of more bits than a cycle carries."""

    name = "long_carries"
    accumulators = ("a",)
    parameters: ClassVar[dict[str, Format]] = {"p": Format(32, 19), "q": Format(27, 14)}
    state: ClassVar[dict[str, Format]] = {"s": Format(32, 20), "t": Format(32, 31)}

    def update(self, m: Any, state: Any) -> Node:
        x, y = wide_mul(m.p, m.q), wide_mul(m.q, m.p)  # 59 bits
        z = wide_mul(m.a, state.s)
        larger = select(x > y, x, y - 1) - z  # equal, so one less where > is wrong
        state.t.next(select((z + 0.5) > (z - 0.5), larger, x))
        state.s.next(x + (z - y))
        return output((x - z).narrow(Format(44, 10)))


class WideWrap(Cell):
    """Wrapped into more bits than are left of it, and then taken apart for a multiplier."""

    name = "wide_wrap"
    accumulators = ("a",)
    state: ClassVar[dict[str, Format]] = {"t": Format(12, 8)}

    def update(self, m: Any, state: Any) -> Node:
        state.t.next(m.a)
        return output(wide_mul(state.t.wrap(Format(24, 4)), m.a))


def test_what_is_wrapped_has_all_bits_of_its_format() -> None:
    check_pipeline(WideWrap(), 1, 400)


@pytest.mark.parametrize("sharing", [1, 3])
def test_pipeline_with_long_carries(sharing: int) -> None:
    steps = {o.kind for o in schedule(LongCarries(), sharing).operations if o.steps > 1}
    assert {"add", "sub", "greater", "narrow", "join"} <= steps
    check_pipeline(LongCarries(), sharing, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_pipelines_of_many_random_equations(seed: int) -> None:
    check_pipeline(random_cell(seed, 25), 1 + seed % 4, 160)


@pytest.mark.parametrize("sharing", some([2, 3, 5, 16], 3))
@pytest.mark.parametrize("name", ["gru", "lstm_peephole", "egru", "s5_state", "s5_glu"])
def test_pipeline_with_shared_multipliers_computes_the_same(name: str, sharing: int) -> None:
    check_pipeline(CELLS[name], sharing, 300)


def test_pipeline_flags_the_very_elements_that_are_clipped() -> None:
    m = operands(fixed.PRE.bits, np.random.default_rng(2), 1000)
    dut = CellPipeline(CELLS["linear"])
    found = stream_through(dut, {"m_y": m}, ["y", "clipped"], dut.latency)
    np.testing.assert_array_equal(found["clipped"], (m > 32767) | (m < -32768))


def test_rescale_rounds_and_saturates_as_the_contract() -> None:
    rng = np.random.default_rng(3)
    accumulator = operands(32, rng, 8000)
    shift = rng.integers(0, 32, len(accumulator))
    dut = Rescale()
    inputs = {"accumulator": accumulator, "shift": shift}
    found = stream_through(dut, inputs, ["result"], RESCALE_LATENCY)["result"]
    expected = [fixed.rescale(a, int(k)) for a, k in zip(accumulator, shift)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", TABLES)
def test_lookup_of_a_function_at_every_border(name: str) -> None:
    """Around the ends, zero and the borders of the pieces, and on a grid."""
    table = named_table(name)
    borders = {fixed.PRE.minimum, fixed.PRE.maximum, 0}
    borders |= {s * e for p in table.pieces for e in (p.first, p.end) for s in (1, -1)}
    near = [np.arange(b - 70, b + 70) for b in sorted(borders)]
    grid = np.arange(fixed.PRE.minimum, fixed.PRE.maximum, 61)
    x = np.clip(np.concatenate([*near, grid]), fixed.PRE.minimum, fixed.PRE.maximum)
    dut = FunctionLookup(table)
    found = stream_through(dut, {"x": x}, ["y"], LATENCY["table"])["y"]
    np.testing.assert_array_equal(found, table.integers(x))


def check_table(sigmoid: bool, x: np.ndarray) -> None:
    """The look-up against the contract's function; it must be as late as the schedule says."""
    latency = schedule(CELLS["sigmoid" if sigmoid else "tanh"]).latency
    narrowing = 2  # from the table's format to the vector's, after the table
    found = stream_through(TableLookup(sigmoid), {"x": x}, ["y"], latency - narrowing)["y"]
    np.testing.assert_array_equal(found, (tables.sigmoid if sigmoid else tables.tanh)(x))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_table_at_the_ends_around_zero_and_on_a_grid(sigmoid: bool) -> None:
    low, high = fixed.PRE.minimum, fixed.PRE.maximum
    around = [range(low, low + 300), range(-600, 600), range(high - 299, high + 1)]
    check_table(sigmoid, np.concatenate([np.arange(low, high, 97), *map(np.array, around)]))


@pytest.mark.slow
@pytest.mark.parametrize("sigmoid", [False, True])
def test_table_for_every_input_that_exists(sigmoid: bool) -> None:
    check_table(sigmoid, np.arange(fixed.PRE.minimum, fixed.PRE.maximum + 1))


# -- event encoder ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize("mode", [Mode.DELTA, Mode.NONZERO])
@pytest.mark.parametrize("threshold", [0, 1, 900, 65_535, 65_536, (1 << 17) - 1])
@pytest.mark.parametrize("size", some([1, 5, 24], 24))
def test_encoder_lists_the_events_of_the_contract(
    width: int, mode: Mode, threshold: int, size: int
) -> None:
    """Vectors one after the other, groups with and without pauses; then list and references."""
    base = 3
    rows = base + -(-size // width) + 2
    dut = EventEncoder(width, rows)
    assert (dut.width, dut.rows, dut.lists) == (width, rows, 1)
    rng = np.random.default_rng([width, threshold, size])
    ends = np.array([-32768, 32767, 0, 1, -1])
    vectors = [
        rng.choice(ends, size),
        rng.choice(ends, size),
        np.full(size, 32767),
        np.full(size, -32768),  # every difference is -65535
        np.full(size, -32768),  # nothing changes
        rng.integers(-1000, 1000, size),
        rng.integers(-1000, 1000, size),
        np.zeros(size, np.int64),
    ]
    expected_reference = np.zeros(size, np.int64)

    async def one_vector(ctx: Any, v: np.ndarray) -> tuple[list[int], list[int], int]:
        groups = [v[k : k + width] for k in range(0, size, width)]
        offered: dict[int, int] = {}  # cycle to group
        cycle = 0
        for g in range(len(groups)):
            cycle += 1 if rng.random() < 0.7 else int(rng.integers(2, 6))
            offered[cycle] = g
        done, total, count = 0, 0, 0
        for now in range(cycle + LOOKUP_CYCLES + ENCODE_CYCLES + 2):
            ctx.set(dut.row, base + offered[now] if now in offered else int(rng.integers(rows)))
            g = offered.get(now - LOOKUP_CYCLES)
            ctx.set(dut.group.valid, g is not None)
            if g is not None:
                values = sum((int(x) & 0xFFFF) << (16 * p) for p, x in enumerate(groups[g]))
                ctx.set(dut.group.values, values)
                ctx.set(dut.group.mask, (1 << len(groups[g])) - 1)
                ctx.set(dut.group.first, g == 0)
                ctx.set(dut.group.last, g == len(groups) - 1)
            if ctx.get(dut.listed.valid):
                assert ctx.get(dut.listed.first) == (done == 0)
                done += 1
                assert ctx.get(dut.listed.last) == (done == len(groups))
                count, total = ctx.get(dut.listed.rows), ctx.get(dut.listed.total)
            await ctx.tick()
        assert done == len(groups)
        index, value = [], []
        ctx.set(dut.list.enable, 1)
        for k in range(count):
            ctx.set(dut.list.row, base + k)
            await ctx.tick().repeat(LIST_READ_LATENCY)
            entry = ctx.get(dut.list.data)
            assert entry.mask != 0, "a row of the list without events"
            for p in range(width):
                if (entry.mask >> p) & 1:
                    index.append(entry.group * width + p)
                    value.append(entry["values"][p])
        return index, value, total

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.rule.mode, mode)
        ctx.set(dut.rule.threshold, threshold)
        ctx.set(dut.rule.enable, 1)
        ctx.set(dut.list_base, base)
        for v in vectors:
            index, value, total = await one_vector(ctx, v)
            expected = encode(mode, v, expected_reference, threshold)
            np.testing.assert_array_equal(index, expected[0])
            np.testing.assert_array_equal(value, expected[1])
            assert total == len(expected[0])
            ctx.set(dut.host.active, 1)
            for k in range(size):
                ctx.set(dut.host.row, base + k // width)
                ctx.set(dut.host.element, k % width)
                await ctx.tick().repeat(2)
                found = ctx.get(dut.host.read)
                assert found == expected_reference[k] & 0xFFFF, f"reference of element {k}"
            ctx.set(dut.host.active, 0)

    simulate(dut, testbench)


def test_encoder_that_is_not_enabled_changes_nothing() -> None:
    dut = EventEncoder(1, 4)

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.row, 2)
        ctx.set(dut.group.mask, 1)
        ctx.set(dut.group.values, 77)
        await ctx.tick().repeat(LOOKUP_CYCLES)
        for name in ("valid", "first", "last"):
            ctx.set(getattr(dut.group, name), 1)
        await ctx.tick()
        ctx.set(dut.group.valid, 0)
        await ctx.tick().repeat(ENCODE_CYCLES - 1)
        assert ctx.get(dut.listed.valid) and ctx.get(dut.listed.last)
        assert ctx.get(dut.listed.rows) == 0 and ctx.get(dut.listed.total) == 0
        ctx.set(dut.host.active, 1)
        ctx.set(dut.host.row, 2)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.host.read) == 0

    simulate(dut, testbench)


# -- image loader -------------------------------------------------------------------------------


def load(
    config: EngineConfig, error_at: int | None, stall: float, *, seed: int = 0
) -> tuple[Error, int]:
    """Error code and words read for a valid image of one layer and one matrix more than its bias.

    ``error_at``: from this word on the memory reports an error.
    """
    header = {
        "magic": layout.MAGIC,
        "version": layout.VERSION,
        "layers": 1,
        "matrices": 2,
        "fingerprint": config.fingerprint,
        "inputs": 1,
    }
    unset = {name: 0 for record in layout.HEADER for name, _ in record.fields}
    records = [
        *(record.pack(unset | header) for record in layout.HEADER),
        *range(100, 100 + len(layout.LAYER) + 2 * len(layout.MATRIX)),
    ]
    slot_words = layout.SLOT_BYTES // config.word_bytes
    memory: list[int] = []
    for record in records:
        data = record.to_bytes(layout.SLOT_BYTES, "little")
        size = config.word_bytes
        memory += [int.from_bytes(data[k * size :][:size], "little") for k in range(slot_words)]
    dut = ImageLoader(config)
    rng = np.random.default_rng(seed)
    result: list[tuple[Error, int]] = []
    written: list[tuple[bool, int, int, int]] = []

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.control.start, 1)
        await ctx.tick()
        ctx.set(dut.control.start, 0)
        queue: list[int] = []
        read, held = 0, None
        for _ in range(5000):
            ctx.set(dut.reads.ready, rng.random() >= stall)
            if queue and (ctx.get(dut.words.valid) or rng.random() >= stall):
                ctx.set(dut.words.payload, queue[0])
                ctx.set(dut.words.valid, 1)
            else:
                ctx.set(dut.words.valid, 0)
            ctx.set(dut.memory_error, error_at is not None and read >= error_at)
            request = None
            if ctx.get(dut.reads.valid):
                payload = ctx.get(dut.reads.payload)
                request = (payload.address, payload.length)
                assert held in (None, request), "a request changed while it waited"
                held = None if ctx.get(dut.reads.ready) else request
            else:
                assert held is None, "a request was taken back"
            taken = ctx.get(dut.words.valid) and ctx.get(dut.words.ready)
            for kind in ("layer", "matrix"):
                descriptors = dut.descriptors
                if ctx.get(getattr(descriptors, f"{kind}_write")):
                    place = tuple(
                        ctx.get(getattr(descriptors, name)) for name in ("index", "record", "value")
                    )
                    written.append((kind == "layer", *place))
            if ctx.get(dut.control.done):
                result.append((Error(ctx.get(dut.control.error)), read))
                return
            granted = request if request and ctx.get(dut.reads.ready) else None
            await ctx.tick()
            if taken:
                queue.pop(0)
                read += 1
                ctx.set(dut.words.valid, 0)
            if granted:
                queue += memory[granted[0] : sum(granted)]
        raise AssertionError(f"not done after {read} words")

    simulate(dut, testbench)
    if result[0][0] == Error.NONE:
        layer, matrix = len(layout.LAYER), len(layout.MATRIX)
        expected = [(True, 0, k, 100 + k) for k in range(layer)]
        expected += [(False, k // matrix, k % matrix, 100 + layer + k) for k in range(2 * matrix)]
        assert written == expected
    return result[0]


@pytest.mark.parametrize("lanes", [2, 8, 64])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_loader_reads_every_record(lanes: int, stall: float) -> None:
    config = EngineConfig(lanes=lanes)
    records = len(layout.HEADER) + len(layout.LAYER) + 2 * len(layout.MATRIX)
    error, words = load(config, None, stall)
    assert error == Error.NONE
    assert words == records * layout.SLOT_BYTES // config.word_bytes


@pytest.mark.parametrize("lanes", [2, 8])
def test_loader_refuses_an_image_with_a_memory_error(lanes: int) -> None:
    config = EngineConfig(lanes=lanes)
    header = len(layout.HEADER) * layout.SLOT_BYTES // config.word_bytes
    assert load(config, 3, 0.3) == (Error.MEMORY, header)
    # In the tables too: a damaged descriptor must not run.
    assert load(config, header + 5, 0.3)[0] == Error.MEMORY
