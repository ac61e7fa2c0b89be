"""The contract: number formats, tables, equations, events, configurations, records."""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillnet.sw.contract import cells, events, fixed, image, registers
from stillnet.sw.contract import tanh_sigmoid as tables
from stillnet.sw.contract.cells import CELLS, Cell, expr
from stillnet.sw.contract.config import MEMORIES, NO_PART, PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode, encode
from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format
from stillnet.sw.contract.sources import INPUT, encoder_select, matrix_order

EVERY_PRE = np.arange(PRE.minimum, PRE.maximum + 1)


def refused(text: str) -> pytest.RaisesExc:
    """The whole message, anchored at both ends."""
    return pytest.raises(StillnetError, match=f"^{text}$")


def test_contract_imports_neither_hardware_nor_software() -> None:
    code = (
        "import sys\n"
        "from stillnet.sw.contract import cells, columns, config, events, image, link, registers\n"
        "from stillnet.sw.contract import sources, step_columns, tanh_sigmoid\n"
        "from stillnet.sw.contract.cells import report\n"
        "bad = [m for m in sys.modules if m.startswith('amaranth') or\n"
        "       m.startswith('stillnet.') and not m.startswith('stillnet.sw.contract')]\n"
        "assert set(bad) <= {'stillnet.sw'}, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- fixed point ----------------------------------------------------------------------------------


def exact_round(value: int, shift: int) -> int:
    """floor(value / 2**shift + 1/2) in unbounded integers."""
    return value << -shift if shift <= 0 else (2 * value + (1 << shift)) // (2 << shift)


@given(st.integers(-(1 << 40), 1 << 40), st.integers(-8, 40))
def test_round_shift_rounds_half_up(value: int, shift: int) -> None:
    assert int(fixed.round_shift(np.int64(value), shift)) == exact_round(value, shift)


def test_rounding_at_the_halves() -> None:
    halves = np.array([-5, -3, -1, 1, 3, 5])
    assert fixed.round_shift(halves, 1).tolist() == [-2, -1, 0, 1, 2, 3]


@given(st.integers(-(1 << 40), 1 << 40), st.integers(1, 40))
def test_saturate_and_wrap(value: int, bits: int) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    assert int(fixed.saturate(np.int64(value), bits)) == min(max(value, low), high)
    wrapped = int(fixed.wrap32(np.int64(value)))
    assert -(1 << 31) <= wrapped < 1 << 31
    assert (wrapped - value) % (1 << 32) == 0


def test_wrap_at_the_edges() -> None:
    edge = 1 << 31
    values = np.array([edge - 1, edge, -edge, -edge - 1, 2 * edge, 3 * edge])
    assert fixed.wrap32(values).tolist() == [edge - 1, -edge, -edge, edge - 1, 0, -edge]


@pytest.mark.parametrize("shift", range(32))
def test_rescale_of_every_shift_at_the_extremes(shift: int) -> None:
    rng = random.Random(shift)
    values = [-(1 << 31), (1 << 31) - 1, -1, 0, 1]
    values += [rng.randrange(-(1 << 31), 1 << 31) >> rng.randrange(32) for _ in range(200)]
    expected = [min(max(exact_round(v << 8, shift), PRE.minimum), PRE.maximum) for v in values]
    assert fixed.rescale(np.array(values), shift).tolist() == expected


@given(st.integers(-(1 << 36), 1 << 36), st.integers(0, 31), st.integers(2, 20), st.integers(0, 20))
def test_narrow(value: int, fraction: int, bits: int, to: int) -> None:
    expected = min(max(exact_round(value, fraction - to), -(1 << bits - 1)), (1 << bits - 1) - 1)
    assert int(fixed.narrow(np.int64(value), fraction, Format(bits, to))) == expected


def test_format() -> None:
    assert (Format(16, 14).minimum, Format(16, 14).maximum) == (-32768, 32767)
    assert str(Format(16, 14)) == "s16.14"
    with refused("format width must be a positive integer, not 0"):
        Format(0, 3)
    with refused("format fraction must be an integer, not 1.5"):
        Format(8, 1.5)  # type: ignore[arg-type]


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "real", "to"),
    [
        (tables.tanh, np.tanh, tables.TANH),
        (tables.sigmoid, lambda x: 0.5 + 0.5 * np.tanh(x / 2), tables.SIGMOID),
    ],
)
def test_table_error_over_every_input(function, real, to: Format) -> None:
    y = function(EVERY_PRE)
    error = np.abs(y / 2.0**to.fraction - real(EVERY_PRE / 2.0**PRE.fraction))
    assert error.max() <= 1 / 4096
    assert error.max() <= 6e-5  # what docs/numbers.md states
    assert y.min() >= to.minimum and y.max() <= to.maximum
    assert np.all(np.diff(y) >= 0)


def test_tables_are_odd_and_end_exactly() -> None:
    x = EVERY_PRE[1:]
    assert np.array_equal(tables.tanh(-x), -tables.tanh(x))
    assert np.all(tables.sigmoid(x) + tables.sigmoid(-x) == 1 << 16)
    ends = np.array([PRE.minimum, 0, PRE.maximum])
    assert tables.tanh(ends).tolist() == [-(1 << 15), 0, 1 << 15]
    assert tables.sigmoid(ends).tolist() == [0, 1 << 15, 1 << 16]


def test_table_entries_fit_their_words() -> None:
    assert len(tables.TANH_VALUES) == len(tables.TANH_SLOPES) == 1 << tables.SEGMENT_BITS
    assert min(tables.TANH_VALUES) >= 0 and max(tables.TANH_VALUES) < 1 << tables.VALUE_BITS
    assert min(tables.TANH_SLOPES) >= 0 and max(tables.TANH_SLOPES) < 1 << tables.SLOPE_BITS


# -- equations ------------------------------------------------------------------------------------


def test_formats_inferred_for_the_gru() -> None:
    formats = [(n.op, str(n.format)) for n in CELLS["gru"].graph.nodes() if n.op != "accumulator"]
    assert formats == [
        ("sigmoid", "s18.16"),  # r, by the order of use
        ("mul", "s36.29"),  # r * ch
        ("add", "s37.29"),
        ("narrow", "s18.13"),
        ("tanh", "s17.15"),
        ("sigmoid", "s18.16"),  # u
        ("state", "s16.14"),
        ("sub", "s18.15"),  # h - c
        ("mul", "s36.31"),
        ("add", "s37.31"),
        ("narrow", "s16.14"),
    ]


def test_rules_of_inference() -> None:
    a, b = expr.Node("accumulator", (), PRE, "a"), expr.Node("state", (), ACTIVATION, "b")
    assert str((a + b).format) == "s20.14"  # 18.13 is 19.14; one more for the carry
    assert str((a - b).format) == "s20.14"
    assert str((a * b).format) == "s34.27"
    wide = (a + b) * a
    assert str(wide.format) == "s36.25"  # s20.14 is rounded to s18.12 first
    assert wide.args[0].op == "narrow"
    assert str(expr.relu(a).format) == "s18.13"
    assert str(expr.output(a).format) == "s16.13"
    assert str(expr.output(expr.sigmoid(a)).format) == "s16.14"
    assert a.narrow(PRE) is a
    assert expr.sigmoid(a + b).args[0].format == PRE


def test_cell_errors() -> None:
    class Nothing(Cell):
        name, accumulators = "nothing", ("a",)

    class Wide(Cell):
        name, accumulators = "wide", ("a",)

        def update(self, m, state):
            return m.a

    class Idle(Cell):
        name, accumulators = "idle", ("a",)
        state = {"s": ACTIVATION}

        def update(self, m, state):
            return expr.output(m.a + state.s)

    class Twice(Idle):
        name = "twice"

        def update(self, m, state):
            state.s.next(m.a)
            return state.s.next(m.a)

    class Constant(Cell):
        name, accumulators = "constant", ("a",)

        def update(self, m, state):
            return expr.output(m.a * "2")

    class Huge(Cell):
        name, accumulators = "huge", ("a",)

        def update(self, m, state):
            x = m.a.narrow(Format(64, 0))
            return expr.output(x + x)

    with refused("cell 'nothing' has no update equation"):
        _ = Nothing().graph
    with refused(
        r"cell 'wide' returns s18.13; end its update with state.x.next\(...\) or output\(...\), "
        "which have 16 bits"
    ):
        _ = Wide().graph
    with refused("cell 'idle' never assigns its state 's'"):
        _ = Idle().graph
    with refused("cell equation: state 's' is assigned twice"):
        _ = Twice().graph
    with refused(
        "cell equations combine accumulators, parameters, state and numbers only, not '2'"
    ):
        _ = Constant().graph
    with refused("cell equation: 'add' of s64.0 and s64.0 needs 65 bits"):
        _ = Huge().graph


def test_a_cell_of_ones_own_and_its_name() -> None:
    class Leaky(Cell):
        name, accumulators = "test_leaky", ("a", "g")
        state = {"s": ACTIVATION}

        def update(self, m, state):
            return state.s.next(state.s + expr.sigmoid(m.g) * (expr.tanh(m.a) - state.s))

    class Other(Leaky):
        pass

    try:
        cells.register(Leaky)
        cells.register(Leaky)
        with refused("a cell named 'test_leaky' exists already; choose another name"):
            cells.register(Other)
        cell = CELLS["test_leaky"]
        assert cell.output_state == "s"
        m = {"a": np.array([1 << 13]), "g": np.array([0])}
        y, state, clipped = cell.evaluate(m, {"s": np.array([0])})
        assert (y.tolist(), clipped) == (state["s"].tolist(), 0)
        assert abs(y[0] / 2**14 - 0.5 * math.tanh(1)) < 1e-4
    finally:
        CELLS.pop("test_leaky", None)


def gru_floats(r, cx, u, ch, h):
    r, u = 1 / (1 + np.exp(-r)), 1 / (1 + np.exp(-u))
    c = np.tanh(cx + r * ch)
    return (1 - u) * c + u * h


def test_gru_against_the_textbook_at_the_extremes() -> None:
    rng = np.random.default_rng(1)
    ends = [PRE.minimum, -1, 0, 1, PRE.maximum]
    m = {g: rng.integers(PRE.minimum, PRE.maximum + 1, 20000) for g in ("r", "cx", "u", "ch")}
    for k, g in enumerate(m):
        m[g][:5] = ends
        m[g][5:3130] = np.repeat(np.tile(ends, 5**k), 5 ** (4 - k))[:3125]
    h = rng.integers(-(1 << 14), (1 << 14) + 1, 20000)
    h[5:3130] = np.tile([-(1 << 14), -1, 0, 1, 1 << 14], 625)
    y, state, clipped = CELLS["gru"].evaluate(m, {"h": h})
    assert clipped == 0 and np.array_equal(y, state["h"])
    assert np.abs(y).max() <= 1 << 14, "the bound of 1 that the overflow proof rests on"
    wanted = gru_floats(*(m[g] / 2.0**13 for g in ("r", "cx", "u", "ch")), h / 2.0**14)
    # |c| moves by at most the error of its operand: r's table times |ch| <= 16, and a rounding.
    assert np.abs(y / 2.0**14 - wanted).max() <= 6e-5 * (1 + 2 + 16) + 2.0**-14 + 2.0**-15
    floats, _ = CELLS["gru"].evaluate_float(
        {g: v / 2.0**13 for g, v in m.items()}, {"h": h / 2.0**14}
    )
    assert np.allclose(floats, wanted, atol=1e-12)


def test_dense_cells_clip_and_count() -> None:
    y = np.array([PRE.minimum, -32769, -32768, -1, 0, 32767, 32768, PRE.maximum])
    out, _, clipped = CELLS["linear"].evaluate({"y": y}, {})
    assert out.tolist() == [-32768, -32768, -32768, -1, 0, 32767, 32767, 32767] and clipped == 4
    out, _, clipped = CELLS["relu"].evaluate({"y": y}, {})
    assert out.tolist() == [0, 0, 0, 0, 0, 32767, 32767, 32767] and clipped == 2
    out, _, _ = CELLS["sigmoid"].evaluate({"y": y[[0, 4, 7]]}, {})
    assert out.tolist() == [0, 1 << 13, 1 << 14]
    out, _, _ = CELLS["tanh"].evaluate({"y": y[[0, 4, 7]]}, {})
    assert out.tolist() == [-(1 << 14), 0, 1 << 14]


# -- events ---------------------------------------------------------------------------------------


def test_delta_is_seventeen_bits_and_never_clipped() -> None:
    ref = np.array([-32768, 32767])
    index, value = encode(Mode.DELTA, np.array([32767, -32768]), ref, 65535)
    assert (index.tolist(), value.tolist()) == ([0, 1], [65535, -65535])
    assert ref.tolist() == [32767, -32768]
    ref = np.array([-32768])
    assert len(encode(Mode.DELTA, np.array([32767]), ref, 65536)[0]) == 0
    assert ref.tolist() == [-32768]


def test_delta_threshold() -> None:
    ref = np.zeros(5, np.int64)
    v = np.array([0, 3, 4, -4, -3])
    index, value = encode(Mode.DELTA, v, ref, 4)
    assert (index.tolist(), value.tolist()) == ([2, 3], [4, -4])
    assert ref.tolist() == [0, 0, 4, -4, 0]
    index, value = encode(Mode.DELTA, v, ref, 0)  # what is unchanged does not fire at zero
    assert (index.tolist(), value.tolist()) == ([1, 4], [3, -3])
    assert len(encode(Mode.DELTA, v, ref, 0)[0]) == 0


def test_small_changes_add_up() -> None:
    ref, fired = np.zeros(1, np.int64), []
    for v in range(1, 11):
        fired += encode(Mode.DELTA, np.array([v]), ref, 4)[1].tolist()
    assert fired == [4, 4] and ref[0] == 8


def test_nonzero() -> None:
    ref = np.array([9, 9, 9, 9])
    index, value = encode(Mode.NONZERO, np.array([0, 5, -2, 7]), ref, 3)
    assert (index.tolist(), value.tolist(), ref.tolist()) == ([1, 3], [5, 7], [0, 5, 0, 7])
    index, value = encode(Mode.NONZERO, np.array([0, 5, -2, 7]), ref, 0)
    assert (index.tolist(), value.tolist()) == ([1, 2, 3], [5, -2, 7])


def test_one_hot_sends_the_delta_of_a_one_hot_vector() -> None:
    ref = np.zeros(4, np.int64)
    seen = []
    for token in [2, 2, 0, -1, -1, 3]:
        index, value = encode(Mode.ONE_HOT, np.array([token]), ref, 0, one=16)
        seen.append(list(zip(index.tolist(), value.tolist())))
        assert ref.tolist() == [16 * (i == token) for i in range(4)]
    assert seen == [[(2, 16)], [], [(2, -16), (0, 16)], [(0, -16)], [], [(3, 16)]]


def test_one_hot_plain_sends_each_token() -> None:
    ref = np.zeros(4, np.int64)
    for token, wanted in [(2, [(2, 8)]), (2, [(2, 8)]), (-1, []), (0, [(0, 8)])]:
        index, value = encode(Mode.ONE_HOT_PLAIN, np.array([token]), ref, 0, one=8)
        assert list(zip(index.tolist(), value.tolist())) == wanted
        assert ref.tolist() == [8 * (i == token) for i in range(4)]


def test_modes() -> None:
    assert [m.name for m in Mode if m.reload] == ["NONZERO", "ONE_HOT_PLAIN"]
    assert [m.name for m in Mode if m.one_hot] == ["ONE_HOT", "ONE_HOT_PLAIN"]
    assert events.NO_TOKEN == -1


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lanes", 6, "lanes must be a power of two, not 6"),
        ("lanes", 128, "lanes must be between 2 and 64, not 128"),
        ("lanes", 8.0, "lanes must be an integer, not 8.0"),
        ("lanes", True, "lanes must be an integer, not True"),
        ("cell_width", 16, "cell_width must be between 1 and 8, not 16"),
        ("units", 0, "units must be between 1 and 32768, not 0"),
        ("inputs", 0, "inputs must be between 1 and 32768, not 0"),
        ("accumulators", 1, "accumulators must be between 2 and 32768, not 1"),
        ("layers", 32, "layers must be between 1 and 31, not 32"),
        ("matrices", 65, "matrices must be between 1 and 64, not 65"),
        ("address_bits", 7, "address_bits must be between 8 and 32, not 7"),
        ("fetch_columns", 3, "fetch_columns must be between 4 and 256, not 3"),
        ("fetch_columns", 48, "fetch_columns must be a power of two, not 48"),
        ("fetch_words", 7, "fetch_words must be between 8 and 4096, not 7"),
        ("prefetch_blocks", 3, "prefetch_blocks must be a power of two, not 3"),
        ("ram_words", -1, r"ram_words must be between 0 and \d+, not -1"),
        ("cells", (), "cells must name at least one cell"),
        ("cells", ("gru", "gru"), r"cells must be at most 15 different names, not \(.*\)"),
        ("cells", ("lstm9",), "cell 'lstm9' is unknown; known are gru, .*"),
        ("second_threshold", 1, "second_threshold must be true or false, not 1"),
        ("memory", "ddr9", f"memory must be one of {', '.join(MEMORIES)}, not 'ddr9'"),
        ("memory", "ram", "ram_words must be positive for memory 'ram' and 0 otherwise, not 0 .*"),
        ("ram_words", 64, "ram_words must be positive for memory 'ram' and 0 .* not 64 for 'port'"),
    ],
)
def test_engine_config_names_field_value_and_limit(field: str, value, message: str) -> None:
    with refused(f"engine config: {message}"):
        EngineConfig(**{field: value})


def test_axi_needs_words_of_32_bits() -> None:
    with refused("engine config: memory 'axi4' needs words of 32 bits or more, lanes = 2 gives 16"):
        EngineConfig(lanes=2, memory="axi4")


@pytest.mark.parametrize("name", PRESETS)
def test_toml_round_trip(name: str, tmp_path) -> None:
    path = tmp_path / "engine.toml"
    path.write_text(PRESETS[name].to_toml())
    assert EngineConfig.load(path) == PRESETS[name] == EngineConfig.load(name)
    assert PRESETS[name].name == name


def test_config_files_that_are_not(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("lanes = 16\n")
    assert EngineConfig.load(path) == EngineConfig(name="mine", lanes=16)
    path.write_text("lanes = \n")
    with refused(f"engine config '{path}' is not valid TOML: .*"):
        EngineConfig.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with refused(f"engine config '{path}' is not valid TOML: .*"):
        EngineConfig.load(path)
    path.write_text("lane = 8\n")
    with refused("engine config: unknown field 'lane'; known are .*"):
        EngineConfig.load(path)
    with refused(
        r"'axi63' is neither a preset \(tiny, .*, axi512, .*ulx3s-85f.*\) nor a TOML file"
    ):
        EngineConfig.load("axi63")


def test_fingerprint_covers_every_field_that_images_depend_on() -> None:
    base = EngineConfig(formats=("dense", "block"), columns=100, second_threshold=False)
    assert dataclasses.replace(base, name="other").fingerprint == base.fingerprint
    for field, value in (("cell_sharing", 2), ("bus_bits", 32), ("bus_clock", 1.5)):
        assert dataclasses.replace(base, **{field: value}).fingerprint == base.fingerprint
    changes: dict[str, object] = {
        "cells": ("gru",),
        "second_threshold": True,
        "memory": "axi4",
        "cell_width": 2,
        "int4": True,
        "formats": ("dense", "step"),
        "row_scale": True,
        "element_thresholds": True,
        "budgets": True,
        "hot_words": 100,
    }
    seen = {base.fingerprint}
    for f in dataclasses.fields(base):
        if f.name in (*NO_PART, "ram_words"):
            continue
        value = changes.get(f.name, getattr(base, f.name))
        value = value if f.name in changes else value * 2 if f.name != "address_bits" else 25
        seen.add(dataclasses.replace(base, **{f.name: value}).fingerprint)
    seen.add(dataclasses.replace(base, memory="ram", ram_words=64).fingerprint)
    seen.add(dataclasses.replace(base, memory="ram", ram_words=65).fingerprint)
    assert len(seen) == 1 + len(dataclasses.fields(base)) - len(NO_PART) - 1 + 2
    assert all(0 <= f < 1 << 32 for f in seen)


def test_fingerprints_are_part_of_the_format() -> None:
    """Whoever changes what they cover makes other images: ``image.VERSION`` counts up then."""
    assert image.VERSION == 3
    assert PRESETS["axi64"].fingerprint == 0x462C1BBA
    assert EngineConfig().fingerprint == 0x62620406


def test_what_stillnet_wrote_is_complete() -> None:
    whole = PRESETS["axi64"].to_dict()
    assert EngineConfig.from_dict(whole, complete=True) == PRESETS["axi64"]
    for field in whole:
        part = {k: v for k, v in whole.items() if k != field}
        with refused(
            f"engine config: field '{field}' is missing; another version of stillnet wrote it, "
            "pack or build again"
        ):
            EngineConfig.from_dict(part, complete=True)


def test_fingerprint_follows_the_equation_of_a_cell() -> None:
    class First(Cell):
        name = "changing"
        accumulators = ("a",)
        state: ClassVar[dict[str, Format]] = {"h": Format(16, 13)}

        def update(self, m, state):
            return state.h.next(m.a + state.h)

    class Second(First):
        def update(self, m, state):
            return state.h.next(m.a - state.h)

    class Third(First):
        state: ClassVar[dict[str, Format]] = {"h": Format(16, 12)}

    class Fourth(First):
        parameters: ClassVar[dict[str, Format]] = {"unused": Format(16, 12)}

    seen = set()
    try:
        for kind in (First, Second, Third, Fourth):
            CELLS["changing"] = kind()
            seen.add(EngineConfig(cells=("gru", "changing")).fingerprint)
            same = {EngineConfig(cells=("gru", "changing")).fingerprint for _ in range(2)}
            assert same <= seen
    finally:
        del CELLS["changing"]
    assert len(seen) == 4


def test_fingerprint_follows_every_cell(monkeypatch) -> None:
    """Those of stillnet too: none of them is taken for granted."""
    for name, cell in list(CELLS.items()):
        owners = [next(c for c in CELLS if p in CELLS[c].state and c != name) for p in cell.peers]
        config = EngineConfig(cells=(name, *dict.fromkeys(owners)))
        before = config.fingerprint

        class Changed(type(cell)):  # type: ignore[misc]
            parameters: ClassVar = {**cell.parameters, "unused": Format(16, 12)}

        with monkeypatch.context() as patch:
            patch.setitem(CELLS, name, Changed())
            assert config.fingerprint != before, name


def test_fingerprint_follows_the_equation_of_the_gru(monkeypatch) -> None:
    before = EngineConfig().fingerprint

    class Swapped(type(CELLS["gru"])):  # type: ignore[misc]
        def update(self, m, state):
            return super().update(SimpleNamespace(r=m.u, u=m.r, cx=m.cx, ch=m.ch), state)

    monkeypatch.setitem(CELLS, "gru", Swapped())
    assert EngineConfig().fingerprint != before


def test_derived_parameters() -> None:
    config = PRESETS["axi64"]
    assert (config.word_bits, config.word_bytes, config.max_accumulators) == (64, 8, 6)
    assert config.state_names == ("h",)
    assert EngineConfig(cells=("relu",)).state_names == ()


# -- records and registers ------------------------------------------------------------------------


@pytest.mark.parametrize("group", [image.HEADER, image.LAYER, image.MATRIX])
def test_records_round_trip(group: tuple[image.Record, ...]) -> None:
    rng = random.Random(5)
    names = [name for record in group for name, _ in record.fields]
    assert len(set(names)) == len(names)
    for record in group:
        for pick in (lambda w: 0, lambda w: (1 << w) - 1, rng.getrandbits):
            values = {name: pick(width) for name, width in record.fields}
            word = record.pack(values)
            assert 0 <= word < 1 << 32 and record.unpack(word) == values


def test_records_refuse_what_does_not_fit() -> None:
    with refused("image field 'b' holds 0 to 31, not 32; use smaller layers"):
        image.Record((("a", 3), ("b", 5))).pack({"a": 0, "b": 32})
    with refused("image field 'a' holds 0 to 7, not -1; use smaller layers"):
        image.Record((("a", 3), ("b", 5))).pack({"a": -1, "b": 0})
    assert image.Record((("a", 3), ("b", 5))).pack({"a": 5, "b": 1}) == 0b1101


def test_fields_are_found_by_name() -> None:
    record = image.Record((("a", 3), ("b", 5)))
    assert (record.slice("a"), record.slice("b")) == (slice(0, 3), slice(3, 8))
    assert image.find_field(image.LAYER, "units") == (1, slice(0, 16))
    assert image.find_field(image.HEADER, "crc") == (image.CRC_RECORD, slice(0, 32))
    with pytest.raises(KeyError, match="record has no field 'c'"):
        record.slice("c")
    with pytest.raises(KeyError, match="no record has a field 'c'"):
        image.find_field(image.LAYER, "c")


def test_matrices_stand_in_the_order_of_their_urgency() -> None:
    """Three recurrent layers, the last one also fed by the input."""
    sources = [[INPUT, 0], [1, 0], [INPUT, 2, 1]]
    inputs, recurrences, network = [(1, 1), (2, 2)], [(0, 1), (1, 0)], [(0, 0), (2, 0)]
    assert matrix_order(sources) == [*inputs, *recurrences, *network, (2, 1)]


def test_every_encoder_has_a_number_of_its_own() -> None:
    assert [encoder_select(s) for s in (INPUT, 0, 30)] == [0, 1, 31]
    assert [encoder_select(s, second=True) for s in (0, 30)] == [33, 63]


def test_bias_runs() -> None:
    class Peepholes(Cell):
        name = "peepholes"
        accumulators = ("a", "b")
        parameters: ClassVar[dict[str, Format]] = {"p": Format(16, 12)}

    assert image.bias_runs(CELLS["gru"]) == [(0, 4, False)]
    assert image.bias_runs(CELLS["gru"], row_scale=True) == [(4, 2, True), (0, 4, False)]
    assert image.bias_runs(Peepholes()) == [(2, 1, True), (0, 2, False)]


def test_registers_have_addresses_of_their_own() -> None:
    names = list(registers.Register.__members__)
    assert len(names) == len(list(registers.Register)), "two registers share an address"
    assert max(registers.Register) < 1 << registers.ADDRESS_BITS
    assert len(registers.Region.__members__) == len(list(registers.Region))
    assert max(registers.Region) < 16
