"""The table of SDRAM parts against LiteDRAM's, and what it becomes in cycles."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil

import pytest
from litedram import modules

from stillnet.hw.memory.sdram.parts import ANY_16M16, PARTS, SdramTimings, sdram_part
from stillnet.sw.contract.errors import StillnetError
from tests.support.oracles.sdram import LITEDRAM

# Where our table and LiteDRAM's differ: (part, LiteDRAM's name) -> (ours in ps, theirs, why).
DIFFERENT = {
    ("IS42S16160", "tRAS"): (45_000, None, "LiteDRAM has none; -75 asks for 45 ns, -7 for 37"),
    ("IS42S16160", "tRRD"): (15_000, None, "LiteDRAM has none; -75 asks for 15 ns, -7 for 14"),
    ("IS42S16160", "tWR"): (
        15_000,
        20,
        "LiteDRAM writes two clocks at 100 MHz in ns; we keep both",
    ),
    ("AS4C32M16", "tRAS"): (42_000, None, "LiteDRAM has none"),
    ("AS4C32M16", "tRRD"): (14_000, None, "LiteDRAM has none"),
    ("AS4C32M16", "tRP"): (21_000, 18, "LiteDRAM has grade -6, boards carry -7"),
    ("AS4C32M16", "tRCD"): (21_000, 18, "LiteDRAM has grade -6, boards carry -7"),
    ("AS4C32M16", "tWR"): (14_000, 12, "LiteDRAM has grade -6, boards carry -7"),
    ("AS4C32M16", "tRFC"): (63_000, 60, "LiteDRAM has grade -6, boards carry -7"),
    ("W9825G6KH", "tRRD"): (0, 10, "two clocks in the datasheet; LiteDRAM has grade -5's in ns"),
    ("W9825G6KH", "tWR"): (0, 15, "two clocks in the datasheet; LiteDRAM has ns"),
    ("M12L64322A", "tRRD"): (12_000, 10, "LiteDRAM has grade -5, boards carry -6 too"),
    ("M12L64322A", "tRP"): (18_000, 15, "LiteDRAM has grade -5, boards carry -6 too"),
    ("M12L64322A", "tRCD"): (18_000, 15, "LiteDRAM has grade -5, boards carry -6 too"),
    ("M12L64322A", "tWR"): (12_000, 15, "two clocks in the datasheet of -6; LiteDRAM has ns of -5"),
    ("M12L64322A", "tRFC"): (60_000, 55, "LiteDRAM has grade -5, boards carry -6 too"),
    ("M12L64322A", "tRAS"): (42_000, 40, "LiteDRAM has grade -5, boards carry -6 too"),
    ("M12L16161A-x2", "tRRD"): (15_000, 10, "LiteDRAM has grade -5, ours covers -7"),
    ("M12L16161A-x2", "tRP"): (20_000, 15, "LiteDRAM has grade -5, ours covers -7"),
    ("M12L16161A-x2", "tRCD"): (20_000, 15, "LiteDRAM has grade -5, ours covers -7"),
    ("M12L16161A-x2", "tRFC"): (70_000, 55, "LiteDRAM has grade -5, ours covers -7"),
    ("M12L16161A-x2", "tRAS"): (45_000, 40, "LiteDRAM has grade -5, ours covers -7"),
}
NAMES = ("tRP", "tRCD", "tWR", "tRFC", "tRAS", "tRRD")


def nanoseconds(module: type, name: str) -> float | None:
    """LiteDRAM's figure, which may be a number, or (cycles, ns), or None."""
    value = module(100e6, "1:1").get(name)
    return None if value is None else value.ns


@pytest.mark.parametrize("name", sorted(LITEDRAM))
def test_geometry_is_that_of_litedram(name):
    part, theirs = PARTS[name], LITEDRAM[name]
    assert part.banks == theirs.nbanks
    assert 1 << part.row_bits == theirs.nrows
    assert 1 << part.column_bits == theirs.ncols
    assert part.window_ms * 10**6 / part.refreshes == theirs(100e6, "1:1").get("tREFI").ns


@pytest.mark.parametrize("name", sorted(LITEDRAM))
@pytest.mark.parametrize("timing", NAMES)
def test_timings_are_those_of_litedram_or_the_difference_is_explained(name, timing):
    ours = getattr(PARTS[name], timing.lower())
    theirs = nanoseconds(LITEDRAM[name], timing)
    if (name, timing) in DIFFERENT:
        assert (ours, theirs) == DIFFERENT[name, timing][:2]
        assert theirs is None or ours != theirs * 1000, "no longer different: take it off the list"
    else:
        assert ours == theirs * 1000


def test_differences_are_about_known_parts():
    assert set(DIFFERENT) <= {(name, timing) for name in LITEDRAM for timing in NAMES}
    assert sorted(set(PARTS) - set(LITEDRAM)) == ["16M16-any", "EM638325"]
    assert not hasattr(modules, "EM638325"), "LiteDRAM has it now: compare"


@pytest.mark.parametrize("name", sorted(LITEDRAM))
def test_cycles_at_100_mhz_are_no_less_than_litedrams(name):
    """Whatever grade LiteDRAM has: at the clock of the boards ours is as slow, or slower."""
    ours = PARTS[name].timings(100_000_000)
    theirs = LITEDRAM[name](100e6, "1:1").timing_settings
    for timing in ("tRP", "tRCD", "tWR", "tRFC", "tRRD", "tRAS", "tWTR"):
        value = getattr(theirs, timing)
        assert value is None or getattr(ours, timing.lower()) >= value, timing
    assert ours.refresh_interval <= theirs.tREFI


@pytest.mark.parametrize("name", sorted(PARTS))
def test_cycles_are_rounded_up(name):
    part = PARTS[name]
    fastest = max(h for _, h in part.cas)
    for clock in (2_000_000, 12_000_000, 50_000_000, 66_666_667, 99_999_999, 100_000_000, fastest):
        t = part.timings(clock)
        for field in ("trcd", "trp", "tras", "trc", "trfc"):
            assert getattr(t, field) == ceil(Fraction(getattr(part, field) * clock, 10**12))
        assert t.twr == max(part.twr_cycles, ceil(Fraction(part.twr * clock, 10**12)))
        assert t.trrd == max(part.trrd_cycles, ceil(Fraction(part.trrd * clock, 10**12)))
        assert t.startup == ceil(Fraction(part.startup_us * clock, 10**6))
        assert t.tras + t.trp >= t.trc - 1
        # Every row within the window, even if nine commands come as late as they may.
        assert (part.refreshes + 8 + 1) * t.refresh_interval <= part.window(clock)


def test_cas_latency_follows_the_clock():
    part = PARTS["IS42S16160"]
    assert part.timings(100_000_000).cas_latency == 2
    assert part.timings(100_000_001).cas_latency == 3
    assert part.timings(50_000_000, cas_latency=3).cas_latency == 3


def test_a_row_of_the_table_as_the_datasheet_has_it():
    assert PARTS["MT48LC16M16"].timings(100_000_000) == SdramTimings(
        cas_latency=2,
        trcd=2,
        trp=2,
        tras=5,
        trc=7,
        trfc=7,
        trrd=2,
        twr=2,
        tmrd=2,
        twtr=2,
        refresh_interval=780,
        startup=10_000,
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: sdram_part("IS42S"),
            "SDRAM part 'IS42S' is unknown; known are 16M16-any, AS4C32M16, EM638325, IS42S16160, "
            "M12L16161A-x2, M12L64322A, MT48LC16M16, W9825G6KH",
        ),
        (
            lambda: PARTS["MT48LC16M16"].timings(150_000_000),
            "SDRAM MT48LC16M16 cannot run at 150 MHz; use at most 133.333 MHz",
        ),
        (
            lambda: PARTS["MT48LC16M16"].timings(120_000_000, cas_latency=2),
            "SDRAM MT48LC16M16 has no CAS latency 2 at 120 MHz; use 3",
        ),
        (
            lambda: PARTS["MT48LC16M16"].timings(500_000),
            "SDRAM MT48LC16M16 cannot be refreshed at 0.5 MHz; use at least 1 MHz",
        ),
        (
            lambda: PARTS["MT48LC16M16"].timings(1e8),
            "SDRAM clock must be a positive integer of Hz, not 100000000.0; give for instance "
            "100_000_000",
        ),
    ],
    ids=["unknown", "too fast", "latency", "too slow", "clock"],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(StillnetError, match=rf"^{re.escape(message)}$"):
        call()


def test_address_pins_leave_out_the_one_that_means_all_banks():
    assert PARTS["IS42S16160"].address_pins == 13
    assert PARTS["M12L64322A"].address_pins == 11
    assert PARTS["IS42S16160"].size_bytes == 32 << 20
    assert PARTS["AS4C32M16"].size_bytes == 64 << 20
    assert PARTS["EM638325"].size_bytes == 8 << 20


@pytest.mark.parametrize("mhz", [50, 75, 95, 100, 120, 133])
@pytest.mark.parametrize("name", ANY_16M16)
def test_any_of_some_parts_is_slow_enough_for_each(name, mhz):
    """In cycles, at every clock; each part has its addresses, and its CAS latency there."""
    some, one = PARTS["16M16-any"], PARTS[name]
    t = some.timings(mhz * 10**6)
    own = one.timings(mhz * 10**6, cas_latency=t.cas_latency)
    for rule in ("trcd", "trp", "tras", "trc", "trfc", "trrd", "twr", "tmrd", "startup", "txp"):
        assert getattr(t, rule) >= getattr(own, rule), rule
    assert t.refresh_interval <= own.refresh_interval
    for address in ("row_bits", "column_bits", "bank_bits"):
        assert getattr(some, address) <= getattr(one, address)
    assert some.address_pins <= one.address_pins
