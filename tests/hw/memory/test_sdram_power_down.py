"""Power-down of the SDRAM, against the strict model, LiteDRAM's checker, and the same controller
without it; and the counters of commands and states, against the model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillnet.hw.memory.sdram.controller import POWER_DOWN_CYCLES, SdramController
from stillnet.hw.memory.sdram.parts import PARTS
from stillnet.sim.sdram.simulation import Traffic
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import SDRAM_PARTS, SdramCounter
from tests.hw.memory.test_sdram import BOARD, TRAFFIC, WIDE, Bench, Setup
from tests.support.sampling import some

SLEEPY = {"power_down": 32, "counted": True}
SETUPS = (
    (BOARD, {}),
    (WIDE, {}),
    (Setup("MT48LC16M16", 133, 24, 16, (("input_delay", 3),)), {"far": True}),
    (Setup("M12L16161A-x2", 100, 20, 32, (("input_delay", 2),)), {}),
    (Setup("AS4C32M16", 50, 22, 64, (("postponed", 1),)), {}),
)


@pytest.mark.parametrize(
    "setup, more", some(SETUPS, SETUPS[0], SETUPS[-1]), ids=lambda value: str(value)[:18]
)
def test_random_traffic_with_pauses(setup, more):
    """Requests come at every moment of falling asleep, sleeping and waking up."""
    bench = Bench(setup, f"sleepy {setup}", **SLEEPY, **more)
    bench.fill_windows()
    bench.sim.start()
    for k, traffic in enumerate(TRAFFIC.values()):
        for pause in bench.rng.integers(0, 130, 30):
            reads, words = bench.requests(3, longest=40)
            run = bench.sim.run(reads, traffic=replace(traffic, seed=k + 1, tail=int(pause)))
            assert np.array_equal(run.words, words)
    assert bench.sim.sleeps > 50
    bench.check()


def test_writes_with_pauses():
    """What is written before the part falls asleep is there when it has woken up."""
    bench = Bench(BOARD, "sleepy writes", **SLEEPY)
    bench.sim.start()
    for pause in range(20, 110):
        address = int(bench.rng.integers(0, bench.words - 4))
        data = bench.rng.integers(0, 256, (3, 8), np.uint8)
        bench.sim.run(writes=[address, address + 1, address + 2], data=data)
        bench.sim.ticks(pause)
        assert np.array_equal(bench.sim.run([(address, 3)]).words, data)
    assert bench.sim.sleeps > 50
    bench.check()


@pytest.mark.parametrize("postponed", some([1, 8], 8))
@pytest.mark.parametrize("part", some(["IS42S16160", "M12L16161A-x2"], "M12L16161A-x2"))
def test_asleep_for_long(part, postponed):
    """Each refresh comes when it is due, and the part sleeps nearly all the time between them."""
    setup = Setup(part, 100, 20, 32, (("input_delay", 2),))
    bench = Bench(setup, "asleep", power_down=POWER_DOWN_CYCLES, postponed=postponed)
    sim = bench.sim
    sim.start()
    interval = bench.controller.timings.refresh_interval
    before, start, asleep = sim.refreshes_seen, sim.cycle, sim.asleep_cycles
    sim.ticks(1_000_000)
    expected = (sim.cycle - start) / interval
    assert abs(sim.refreshes_seen - before - expected) <= 1
    assert sim.most_late <= 1
    assert sim.longest_refresh_gap <= interval + 20
    assert sim.asleep_cycles - asleep > 0.97 * 1_000_000
    bench.check()


@pytest.mark.slow
def test_every_row_is_refreshed_in_its_window_with_sleep():
    """Longer than 64 ms: dense, idle, and bursts of work with sleep between them."""
    bench = Bench(BOARD, "64 ms asleep", power_down=POWER_DOWN_CYCLES)
    bench.sim.start()
    while bench.sim.cycle < 15_000_000:
        bench.sim.run([(0, 65_535)] * 2)
        bench.sim.ticks(int(bench.rng.integers(20, 100_000)))
        for _ in range(200):
            bench.sim.run([(5, 20)], traffic=Traffic(tail=int(bench.rng.integers(30, 300))))
    assert bench.sim.sleeps > 5_000
    bench.check()


def test_what_waking_up_costs():
    """A request to a part that sleeps is answered as soon as one to closed rows; never more than
    falling asleep and a row later than without power-down."""
    latencies = {}
    for name, changes in {"awake": {}, "sleepy": {"power_down": 64}}.items():
        bench = Bench(BOARD, "wake", **changes)
        bench.fill(0, 4000)
        sim = bench.sim
        sim.start()
        found = []
        for k in range(200):
            sim.ticks(k)  # 64 and some: in the middle of falling asleep
            run = sim.run([(7 * k, 10)], traffic=Traffic(tail=0))
            found.append(int(run.first[0] - run.accepted[0]))
        latencies[name] = np.array(found)
        bench.check()
    t = PARTS["IS42S16160"].timings(100_000_000)
    row = t.trp + t.trcd + 2
    late = latencies["sleepy"] - latencies["awake"]
    assert latencies["sleepy"].min() == latencies["awake"].min()
    assert np.median(latencies["sleepy"][120:]) <= latencies["awake"].min() + row
    assert late.max() <= 3 + 1 + max(t.trp, t.trc - t.tras) + t.trfc + row + 6


@pytest.mark.parametrize("seed", some(range(12), *range(4)))
def test_reset_asleep_and_around(seed):
    """A reset while the part falls asleep, sleeps or wakes up: nothing is forgotten."""
    bench = Bench(BOARD, f"reset asleep {seed}", **SLEEPY)
    sim = bench.sim
    bench.fill(2000, 400)
    sim.start()
    for k in range(8):
        reads, words = bench.requests(3)
        assert np.array_equal(sim.run(reads, traffic=Traffic(tail=0)).words, words)
        sim.ticks(30 + 8 * seed + k)
        sim.reset(1 + k % 5)
        sim.ticks(2)
        assert sim.cke, "clock enable is high after a reset"
    reads, words = bench.requests(40)
    assert np.array_equal(sim.run(reads).words, words)
    bench.check()


@pytest.mark.parametrize("power_down", some([None, 40], 40), ids=["awake", "sleepy"])
@pytest.mark.parametrize("setup", some([BOARD, WIDE], BOARD), ids=str)
def test_counters_are_those_of_the_model(setup, power_down):
    bench = Bench(setup, f"counted {setup}", power_down=power_down, counted=True)
    sim = bench.sim
    bench.fill_windows()
    sim.start()
    refreshed = 2 * bench.controller.timings.refresh_interval  # idle for so long, rows are closed
    for round_ in range(3):
        sim.hold_counts(True, clear=True)
        sim.ticks(refreshed)
        while _refresh_is_near(sim):
            sim.ticks(10)
        sim.hold_counts(False)
        sim.ticks(4)  # on the way to the pins
        start, before = sim.cycle, _seen(sim)
        for pause in bench.rng.integers(0, 200, 10 * (1 + round_)):
            reads, words = bench.requests(4, longest=60)
            writes = bench.rng.integers(0, 50, 3)
            run = sim.run(reads, traffic=Traffic(tail=int(pause)))
            assert np.array_equal(run.words, words)
            bench.windows.pop(0, None)
            sim.run(writes=writes, data=np.zeros((3, run.words.shape[1]), np.uint8))
        sim.ticks(refreshed)
        while _refresh_is_near(sim):
            sim.ticks(10)
        cycles, after = sim.cycle - start, _seen(sim)
        sim.hold_counts(True)
        sim.ticks(40)
        seen = {name: after[name] - before[name] for name in after}
        counts = sim.counts()
        for counter in seen:
            if counter not in (SdramCounter.POWER_DOWN, SdramCounter.OPEN, SdramCounter.CLOSED):
                assert counts[counter] == seen[counter], counter
        states = (SdramCounter.POWER_DOWN, SdramCounter.OPEN, SdramCounter.CLOSED)
        # The last state lasts over the beginning and the end, which are some cycles late.
        quiet = SdramCounter.CLOSED if power_down is None else SdramCounter.POWER_DOWN
        for counter in states:
            assert counts[counter] - seen[counter] == (5 if counter is quiet else 0), counter
        assert sum(counts[s] for s in states) == cycles + 5
        assert counts[SdramCounter.WAKE_CYCLES] <= 25 * counts[SdramCounter.WAKES]
    bench.check()


def _refresh_is_near(sim) -> bool:
    """Within the cycles of a measurement's end a refresh would be counted in one and not in the
    other."""
    before = sim.refreshes_seen, sim.cke, sim.activates_seen
    sim.ticks(30)
    return (sim.refreshes_seen, sim.cke, sim.activates_seen) != before


def _seen(sim) -> dict[SdramCounter, int]:
    return {
        SdramCounter.ACTIVATES: sim.activates_seen,
        SdramCounter.READS: sim.reads_seen,
        SdramCounter.WRITES: sim.writes_seen,
        SdramCounter.REFRESHES: sim.refreshes_seen,
        SdramCounter.READ_CYCLES: sim.read_cycles,
        SdramCounter.OPEN: sim.open_cycles,
        SdramCounter.CLOSED: sim.closed_cycles,
        SdramCounter.POWER_DOWN: sim.asleep_cycles,
        SdramCounter.WAKES: sim.sleeps,
    }


def test_no_power_down_without_the_option():
    bench = Bench(BOARD, "awake")
    bench.sim.start()
    bench.sim.ticks(20_000)
    assert bench.sim.sleeps == 0 and bench.sim.cke
    bench.check()


@pytest.mark.parametrize("power_down", [31, 0, 1 << 17, 40.5])
def test_impossible_thresholds_are_refused(power_down):
    with pytest.raises(StillnetError, match="power-down must come after 32 to 65536 cycles"):
        SdramController(PARTS["IS42S16160"], 10**8, 22, 64, power_down=power_down)


def test_every_part_has_its_number():
    assert sorted(SDRAM_PARTS) == sorted(PARTS)
