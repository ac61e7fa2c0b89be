"""The tests of the SDRAM controller, tested: controllers that are wrong on purpose are noticed.

Timings are broken on a part that does not exist, slower in everything than any real one, because at
the clocks of boards most of the controller's distances are longer than they need to be, and a
timing that is too short by a cycle would not show. Other mutations change a line of a module; one
whose line is no longer there fails too: give it the line that does the same now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import PARTS, SdramPart
from stillnet.sim.sdram.simulation import SdramSimulation, Traffic
from tests.support.mutations import put_in_place
from tests.support.oracles.sdram import TimingsChecker
from tests.support.sampling import some

CLOCK = 100_000_000
SLOW = SdramPart(
    name="slow",
    row_bits=11,
    column_bits=8,
    data_bits=16,
    trcd=50_000,
    trp=50_000,
    tras=120_000,
    trc=190_000,  # more than tRAS + tRP, so that it matters
    trfc=120_000,
    trrd=60_000,
    twr=70_000,
    refreshes=4096,
    cas=((2, 100_000_000), (3, 133_000_000)),
    source="made up",
    tmrd_cycles=8,
)


def traffic(sim: SdramSimulation, rng: np.random.Generator) -> bool:
    """Reads and writes of few words in random rows, then columns. Whether all words were right."""
    words = (1 << sim.controller.part.address_bits) // 2
    good = True
    for k in range(4):
        # Neighbouring requests meet in a bank, with different rows.
        starts = rng.integers(0, words - 200, 120)
        starts[::3] = (starts[::3] & ~0x1FF) + (starts[1::3] & 0x1FF)
        starts = np.unique(starts // 8 * 8)
        rng.shuffle(starts)
        data = rng.integers(0, 256, (len(starts), 4), np.uint8)
        behaviour = Traffic(data_stall=(0, 700)[k % 2], longest_pause=(0, 400)[k % 2], seed=k + 1)
        sim.run([(int(a), 3) for a in starts[:40]], starts, data, traffic=behaviour)
        for lengths in (1, 8, 40):
            run = sim.run([(int(a), lengths) for a in starts], traffic=behaviour)
            good &= bool(np.array_equal(run.words.reshape(len(starts), lengths, 4)[:, 0], data))
            # What follows a written word, unless it was written too, is what the part has.
            for i in range(0, len(starts), 7):
                place = int(starts[i]) * 2
                items = sim.peek(place, 2 * lengths).astype("<u2").view(np.uint8)
                got = run.words[i * lengths : (i + 1) * lengths].reshape(-1)
                good &= bool(np.array_equal(got, items))
    # One long enough for refreshes.
    run = sim.run([(k * 60_000, 60_000) for k in range(2)])
    items = sim.peek(0, 240_000).astype("<u2").view(np.uint8)
    return good and bool(np.array_equal(run.words.reshape(-1), items))


def controller(**changes) -> SdramController:
    timings = replace(SLOW.timings(CLOCK, startup_us=2), **changes)
    return SdramController(SLOW, CLOCK, 20, 32, timings=timings)


def checked(dut: SdramController) -> tuple[SdramSimulation, TimingsChecker, bool]:
    """Runs traffic from power-up on, with a request waiting."""
    sim = SdramSimulation(dut, optimise="-O0", timings=SLOW.timings(CLOCK, startup_us=2))
    checker = TimingsChecker(sim)
    try:
        return sim, checker, traffic(sim, np.random.default_rng(5))
    except AssertionError:
        return sim, checker, False


def test_nothing_is_wrong_with_the_part_that_is_slow():
    sim, checker, good = checked(controller())
    assert good
    assert sim.violations == 0, sim.first_violation
    assert not checker.seen()


# Timing -> (broken value less than the right one by this, LiteDRAM's messages). LiteDRAM compares
# only with the last command of a bank. Between ACTIVATE and PRECHARGE there is a READ or a WRITE,
# unless a refresh comes just then, and between two ACTIVATEs a PRECHARGE; so tRAS and tRC are left
# to our own model.
TIMINGS = {
    "trcd": (1, {"ACT->RD", "ACT->WR"}),
    "trp": (1, {"PRE->ACT"}),
    "trfc": (1, {"REF->ACT"}),
    "trrd": (1, {"tRRD"}),
    "twr": (1, {"WR->PRE"}),
    "tras": (2, set()),
    "trc": (1, set()),
    "tmrd": (6, set()),
}


@pytest.mark.parametrize(
    "name",
    some(TIMINGS, "trfc"),
)
def test_broken_timing(name):
    less, messages = TIMINGS[name]
    right = getattr(controller().timings, name)
    sim, checker, _ = checked(controller(**{name: right - less}))
    rule = {"trfc": "tRFC", "tmrd": "tMRD"}.get(name, "t" + name[1:].upper())
    assert sim.violations
    assert f": {rule}" in sim.first_violation
    assert set(checker.seen()) & messages or not messages
    # And by nothing else than it should be.
    assert set(checker.seen()) <= messages | {"trfc": {"REF->PRE"}, "tras": {"ACT->PRE"}}.get(
        name, set()
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"refresh_interval": 2000}, "more refreshes are late than may be"),
        ({"startup": 100}, "pause after power-up"),
    ],
    ids=["refresh", "startup"],
)
def test_broken_interval(changes, message):
    dut = controller(**changes)
    sim = SdramSimulation(dut, optimise="-O0", timings=SLOW.timings(CLOCK, startup_us=2))
    sim.ticks(100_000)
    assert message in sim.first_violation


@dataclass(frozen=True)
class Mutation:
    """A change of one module of the controller.

    Attributes
    ----------
    module : str
    component : str
        Class of the module that the controller uses.
    old, new : str
        ``old`` must be in the module once.
    slow : bool
        Only in the long run of the tests.
    """

    module: str
    component: str
    old: str
    new: str
    slow: bool = True

    def build(self, monkeypatch: pytest.MonkeyPatch) -> SdramController:
        component = put_in_place(monkeypatch, self.module, self.component, (self.old, self.new))
        if self.component == "SdramController":
            timings = SLOW.timings(CLOCK, startup_us=2)
            return component(SLOW, CLOCK, 20, 32, timings=timings)
        return controller()


MUTATIONS = {
    "refresh is left out": Mutation(
        "memory.sdram.refresh", "RefreshControl", "many | (some & calm_long)", "0", slow=False
    ),
    "refresh with open rows": Mutation(
        "memory.sdram.refresh", "RefreshControl", "m.d.comb += self.precharge.eq(1)", "pass"
    ),
    "another bank": Mutation(
        "memory.sdram.controller", "SdramController", "if b >> i & 1", "if b >> i"
    ),
    "another CAS latency": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "mode_register(self._timings.cas_latency)",
        "mode_register(3)",
    ),
    "a row that is in use is given up": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "x.chosen[b] & (x.same[b] | x.unused[b])",
        "x.chosen[b]",
    ),
    "the old row stays open": Mutation(
        "memory.sdram.bank",
        "SdramBank",
        "other_row, stays = needed.dispatch & ~needed.same",
        "other_row, stays = needed.dispatch & ~needed.dispatch",
    ),
    "a bank counts as open after a refresh": Mutation(
        "memory.sdram.bank",
        "SdramBank",
        "choose.precharge | issued.close",
        "choose.precharge",
    ),
    "precharge cuts a burst": Mutation(
        "memory.sdram.bank", "SdramBank", "| (issued.read >> 2)", ""
    ),
    "data goes on in a refresh": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "~refresh.hold & read_words.room & ~after_write_next[0]",
        "read_words.room & ~after_write_next[0]",
    ),
    "no room is left in the buffer": Mutation(
        "memory.sdram.words", "ReadWords", "level <= self._depth - self._margin", "1", slow=False
    ),
    "the bus is not turned around": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "Mux(x.read, ones(BURST + t.cas_latency), 0)",
        "Mux(x.read, ones(BURST), 0)",
    ),
    "a burst wraps": Mutation(
        "memory.sdram.bursts", "BurstGenerator", "Mux(run.write, 0, BURST - 1)", "0"
    ),
    "a row follows itself": Mutation(
        "memory.sdram.segments", "SegmentSplitter", "place.eq(place + 1)", "place.eq(place)"
    ),
    "writes are done at once": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "port.write_idle.eq(writes == 0)",
        "port.write_idle.eq(1)",
    ),
    "words are put together a cycle late": Mutation(
        "memory.sdram.controller",
        "SdramController",
        "3 + far + timings.cas_latency",
        "4 + far + timings.cas_latency",
    ),
    "high part first": Mutation(
        "memory.sdram.words",
        "ReadWords",
        "word = Cat(parts, self.dq)",
        "word = Cat(self.dq, parts)",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * m.slow) for n, m in MUTATIONS.items()]
)
def test_mutation_is_noticed(name, monkeypatch):
    sim, checker, good = checked(MUTATIONS[name].build(monkeypatch))
    assert not good or sim.violations or checker.seen()


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_read_after_write_too_early_is_noticed_by_litedram(broken):
    """Datasheets allow it (tCDL is a cycle), LiteDRAM asks for two; we keep two."""
    timings = SLOW.timings(CLOCK, startup_us=2)
    dut = SdramController(SLOW, CLOCK, 21, 16, timings=replace(timings, twtr=2 - broken))
    sim = SdramSimulation(dut, optimise="-O0", timings=timings)
    checker = TimingsChecker(sim)
    reads = [(k % 200, 1) for k in range(400)]
    sim.run(reads, [k % 200 for k in range(400)], np.zeros((400, 2), np.uint8))
    assert set(checker.seen()) == ({"WR->RD"} if broken else set())
    assert not sim.violations


def test_parts_are_not_like_the_slow_one():
    """Every real part is faster in everything at the clock of the boards."""
    slow = SLOW.timings(CLOCK)
    for part in PARTS.values():
        t = part.timings(CLOCK)
        for name in TIMINGS:
            assert getattr(t, name) < getattr(slow, name)
