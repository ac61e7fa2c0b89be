"""The SDRAM controller against the model of the part, LiteDRAM's checker, and the port's rules."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import PARTS
from stillnet.sim.bench.sdram import BENCH, measure
from stillnet.sim.bench.sdram import SETUPS as BENCH_SETUPS
from stillnet.sim.sdram.simulation import SdramSimulation, Traffic
from stillnet.sw.contract.errors import StillnetError
from tests.support.oracles.sdram import TimingsChecker
from tests.support.sampling import some


@dataclass(frozen=True)
class Setup:
    """A controller of the random tests."""

    part: str
    mhz: int
    address_bits: int
    word_bits: int
    more: tuple[tuple[str, int], ...] = ()

    def controller(self, **changes) -> SdramController:
        arguments = {"startup_us": 2, **dict(self.more), **changes}
        return SdramController(
            PARTS[self.part], self.mhz * 10**6, self.address_bits, self.word_bits, **arguments
        )

    def __str__(self) -> str:
        return f"{self.part}-{self.mhz}-{self.word_bits}"


BOARD = Setup("IS42S16160", 100, 22, 64)
# Of 20 bits of addresses, the part behind WIDE has words for 19.
WIDE = Setup("M12L64322A", 125, 20, 128, (("input_delay", 2), ("lookahead", 8), ("postponed", 3)))
SETUPS = (
    BOARD,
    Setup("MT48LC16M16", 133, 24, 16, (("input_delay", 3),)),
    Setup("AS4C32M16", 100, 24, 48, (("cas_latency", 3), ("lookahead", 2))),
    WIDE,
)
AT_SPEED = (("cas_latency", 3), ("input_delay", 2))
"""As boards have it that give the memory a clock of its own."""
MORE_SETUPS = (
    Setup("EM638325", 60, 21, 32, (("buffer_words", 128), ("length_bits", 10))),
    Setup("W9825G6KH", 12, 17, 32, (("postponed", 1),)),
    Setup("M12L16161A-x2", 100, 20, 32, (("input_delay", 2),)),  # of two banks
    *(
        Setup(name, mhz, part.address_bits - (64 // part.data_bits - 1).bit_length(), 64, AT_SPEED)
        for mhz in (125, 133)
        for name, part in PARTS.items()
    ),
)
EVERY_SETUP = some([*SETUPS, *MORE_SETUPS], BOARD, WIDE)
TRAFFIC = {
    "at once": Traffic(),
    "engine waits": Traffic(data_stall=600),
    "long waits": Traffic(longest_pause=3000),
    "few requests": Traffic(request_stall=1000),
    "all of it": Traffic(request_stall=300, data_stall=300, longest_pause=300),
}


class Bench:
    """A simulation, what its memory should hold, and both checkers."""

    def __init__(self, setup: Setup, seed: object = 0, **changes) -> None:
        self.controller = setup.controller(**changes)
        self.sim = SdramSimulation(self.controller, optimise="-O1")
        self.checker = TimingsChecker(self.sim)
        self.rng = np.random.default_rng(_seed(seed))
        self.columns = self.controller.word_bits // self.controller.part.data_bits
        self.words = min(
            1 << self.controller.address_bits,
            (1 << self.controller.part.address_bits) // self.columns,
        )
        self.windows: dict[int, np.ndarray] = {}

    def fill(self, start: int, count: int) -> None:
        """Puts random words into the part, behind the controller's back."""
        part_bytes = self.controller.part.data_bits // 8
        data = self.rng.integers(0, 256, (count, self.columns * part_bytes), np.uint8)
        kind = {2: "<u2", 4: "<u4"}[part_bytes]
        self.sim.load(start * self.columns, data.reshape(-1).view(kind).astype(np.uint32))
        self.windows[start] = data

    def fill_windows(self, count: int = 700) -> None:
        """The first and last words, the end of every row bit and bank bit, and some at random."""
        part = self.controller.part
        starts = {0, self.words - count}
        for bit in range(part.column_bits, part.address_bits + 1):
            starts.add((1 << bit) // self.columns - count // 2)
        starts |= {int(a) for a in self.rng.integers(0, self.words - count, 4)}
        taken: list[int] = []
        for start in sorted(s for s in starts if 0 <= s <= self.words - count):
            if not taken or start >= taken[-1] + count:
                taken.append(start)
        for start in taken:
            self.fill(start, count)

    def requests(self, number: int, longest: int = 300) -> tuple[list, np.ndarray]:
        """Reads inside the windows, and the words that they should bring."""
        reads, words = [], []
        starts = list(self.windows)
        for _ in range(number):
            start = starts[self.rng.integers(len(starts))]
            data = self.windows[start]
            most = min(longest, (1 << self.controller.length_bits) - 1, len(data))
            length = int(self.rng.choice([0, 1, 1, 2, 3, self.rng.integers(0, most + 1)]))
            # The ends of a window are the ends of the memory, of rows, of banks.
            low = int(self.rng.choice([0, self.rng.integers(0, len(data) - length + 1)]))
            low = int(self.rng.choice([low, len(data) - length]))
            reads.append((start + low, length))
            words.append(data[low : low + length])
        return reads, np.concatenate(words)

    def check(self) -> None:
        """Nobody has seen anything wrong."""
        assert self.sim.violations == 0, self.sim.first_violation
        assert not self.checker.seen()
        assert not self.sim.error


def _seed(value: object) -> int:
    return int.from_bytes(str(value).encode()[:16].ljust(16, b"."), "little")


@pytest.mark.parametrize("setup", EVERY_SETUP, ids=str)
def test_random_reads(setup):
    bench = Bench(setup, f"reads {setup}")
    bench.fill_windows()
    bench.sim.start()
    for k, traffic in enumerate(TRAFFIC.values()):
        reads, words = bench.requests(150)
        run = bench.sim.run(reads, traffic=replace(traffic, seed=k + 1))
        assert np.array_equal(run.words, words)
    bench.check()


@pytest.mark.parametrize("setup", EVERY_SETUP, ids=str)
def test_random_writes_and_reads(setup):
    """Reads elsewhere while words are written; then they are read, also around them."""
    bench = Bench(setup, f"writes {setup}")
    bench.fill_windows()
    bench.sim.start()
    for k, traffic in enumerate(TRAFFIC.values()):
        starts = list(bench.windows)
        written = {s: bench.windows.pop(s) for s in starts[k % 2 :: 2]}
        addresses, data = [], []
        for start, old in written.items():
            new = old.copy()
            for place in bench.rng.integers(0, len(old), 60):
                new[place] = bench.rng.integers(0, 256, old.shape[1])
                addresses.append(start + int(place))
                data.append(new[place].copy())
            written[start] = new
        order = bench.rng.permutation(len(addresses)) if k % 2 else np.arange(len(addresses))
        last = {addresses[i]: data[i] for i in order}
        for start, new in written.items():
            for place in range(len(new)):
                new[place] = last.get(start + place, new[place])
        reads, words = bench.requests(60)
        run = bench.sim.run(
            reads,
            [addresses[i] for i in order],
            np.array([data[i] for i in order]),
            traffic=replace(traffic, seed=k + 10),
        )
        assert np.array_equal(run.words, words)
        bench.windows |= written
        reads, words = bench.requests(100)
        assert np.array_equal(bench.sim.run(reads).words, words)
    bench.check()


def test_whole_rows_and_long_reads():
    """Reads over many rows and all banks, with refreshes in between."""
    bench = Bench(BOARD, "long")
    bench.fill(12_345, 20_000)
    bench.sim.start()
    data = bench.windows[12_345]
    for length in (65, 128, 129, 511, 512, 513, 8_191, 19_999):
        run = bench.sim.run([(12_346, length)], traffic=Traffic(data_stall=100, seed=length))
        assert np.array_equal(run.words, data[1 : 1 + length])
    bench.check()


def test_low_part_first():
    """The low part of a word has the lower column; a written word lies as a loaded one."""
    bench = Bench(BOARD, "order")
    bench.sim.start()
    word = np.frombuffer(bytes(range(8)), np.uint8)
    bench.sim.run(writes=[1000], data=word[None])
    assert list(bench.sim.peek(4000, 4)) == [0x0100, 0x0302, 0x0504, 0x0706]
    bench.sim.load(8000, np.array([1, 2, 3, 4]))
    run = bench.sim.run([(2000, 1)])
    assert run.words.tobytes() == bytes([1, 0, 2, 0, 3, 0, 4, 0])


def test_power_up():
    """All banks closed, eight refreshes, the mode, and nothing before the pause is over."""
    bench = Bench(BOARD, "start")
    startup = bench.controller.timings.startup
    bench.sim.ticks(startup - 4)
    assert (bench.sim.precharges_seen, bench.sim.started, bench.sim.initialised) == (0, 0, 0)
    bench.sim.ticks(100)
    assert (bench.sim.precharges_seen, bench.sim.refreshes_seen) == (1, 8)
    assert (bench.sim.started, bench.sim.initialised, bench.sim.cas_latency) == (1, 1, 2)
    bench.check()


@pytest.mark.parametrize("seed", some(range(12), *range(4)))
def test_reset_in_the_middle(seed):
    """Reads and writes are cut off anywhere; the part is told nothing wrong and forgets nothing."""
    bench = Bench(BOARD, f"reset {seed}")
    sim = bench.sim
    bench.fill(2000, 4000)
    sim.start()
    reads, _ = bench.requests(40)
    writes = bench.rng.integers(500_000, 600_000, 40)
    with pytest.raises(AssertionError, match="missing"):
        sim.run(reads, writes, np.zeros((40, 8), np.uint8), limit=int(bench.rng.integers(20, 900)))
    sim.reset(int(bench.rng.integers(1, 6)))
    assert not sim.started
    sim.ticks(110)
    assert sim.started, "there is no need for the pause of power-up"
    reads, words = bench.requests(40)
    assert np.array_equal(sim.run(reads).words, words)
    bench.check()


def test_requests_before_power_up_wait():
    bench = Bench(BOARD, "early")
    bench.fill(0, 300)
    run = bench.sim.run([(5, 200), (7, 20)], [400], np.zeros((1, 8), np.uint8))
    assert np.array_equal(
        run.words, np.concatenate([bench.windows[0][5:205], bench.windows[0][7:27]])
    )
    assert not bench.sim.peek(1600, 4).any()
    bench.check()


def test_datasheet_pause_where_not_shortened():
    assert BOARD.controller(startup_us=None).timings.startup == 20_000


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("postponed", some([1, 8], 8))
def test_refresh_over_a_long_run(busy, postponed):
    """As many as the part needs, none too late; when busy, `postponed` at a time."""
    bench = Bench(BOARD, "refresh", postponed=postponed)
    sim = bench.sim
    sim.start()
    interval = bench.controller.timings.refresh_interval
    before, start = sim.refreshes_seen, sim.cycle
    if busy:
        rounds = 5
        for k in range(rounds):
            sim.run([(k * 4096, 65_000)])
    else:
        sim.ticks(1_000_000)
    expected = (sim.cycle - start) / interval
    assert abs(sim.refreshes_seen - before - expected) <= postponed + 1
    if busy and postponed == 8:
        assert 4 <= sim.most_late <= 8
        assert 6 * interval < sim.longest_refresh_gap <= 9 * interval
        closings = sim.activates_seen  # rows are opened again after each group
        assert closings < 2 * (rounds * 65_000 * 4 // 512 + 4 * expected / 8)
    else:
        assert sim.most_late <= 2
        assert sim.longest_refresh_gap <= 2 * interval
    bench.check()


@pytest.mark.slow
def test_every_row_is_refreshed_in_64_ms():
    """Longer than 64 ms, busy and idle by turns; the model knows when each row's turn was."""
    bench = Bench(BOARD, "64 ms")
    bench.sim.start()
    while bench.sim.cycle < 15_000_000:
        bench.sim.run([(0, 65_535)] * 4)
        bench.sim.ticks(100_000)
    bench.check()


def test_refresh_fills_pauses():
    """While the engine does not take words, refreshes are made up for."""
    bench = Bench(BOARD, "pauses")
    bench.fill(0, 2000)
    bench.sim.start()
    for k in range(20):
        run = bench.sim.run([(0, 2000)], traffic=Traffic(longest_pause=2000, seed=k))
        assert np.array_equal(run.words, bench.windows[0])
    assert bench.sim.most_late <= 8
    # Words waited in the buffer and nothing else could be done: that is when they are free.
    assert bench.sim.longest_refresh_gap < 6 * bench.controller.timings.refresh_interval
    bench.check()


def test_latency():
    """An idle controller answers within a closed row's time; while it refreshes, that more."""
    bench = Bench(BOARD, "latency")
    bench.fill(0, 4000)
    sim, t = bench.sim, bench.controller.timings
    sim.start()
    latencies = []
    for k in range(300):
        sim.ticks(40 + 3 * k)
        run = sim.run([(int(bench.rng.integers(0, 3900)), 10)], traffic=Traffic(tail=0))
        latencies.append(int(run.first[0] - run.accepted[0]))
    # To the decision 10, to the pins 2, from them 1; rest of the word 3, buffer 2;
    # docs/explanation/sdram.md.
    floor = 10 + 2 + t.cas_latency + 1 + 3 + 2
    assert min(latencies) == floor
    closed = floor + t.trp + t.trcd + 2
    assert sorted(latencies)[200] <= closed
    assert max(latencies) <= closed + t.trp + t.trfc + t.trcd + 8


def rate(sim: SdramSimulation) -> float:
    counters = sim.counters()
    return counters["transfers"] / counters["cycles"]


@pytest.mark.parametrize(
    "words, least", [(65_535, 0.985), (150, 0.98), (16, 0.96)], ids=["64k", "1200", "128"]
)
def test_throughput(words, least):
    """Of the bus of a 16-bit part at 100 MHz, refresh included."""
    bench = Bench(BOARD, "rate")
    bench.sim.start()
    number = 2 if words > 1000 else 200_000 // words // 4
    starts = bench.rng.integers(0, bench.words - words, number)
    bench.sim.clear_counters()
    begin = bench.sim.cycle
    bench.sim.run([(int(a), words) for a in starts], traffic=Traffic(tail=0))
    counters = bench.sim.counters()
    assert abs(counters["cycles"] - (bench.sim.cycle - begin)) <= 2
    assert counters["transfers"] == number * words * 4
    assert rate(bench.sim) >= least
    bench.check()


def test_throughput_of_equal_widths():
    """A word of the bus's width is a word a cycle in columns, and one every two in single words."""
    bench = Bench(Setup("M12L64322A", 125, 21, 32), "equal")
    bench.sim.start()
    bench.sim.clear_counters()
    bench.sim.run([(k * 5000, 20_000) for k in range(3)], traffic=Traffic(tail=0))
    assert rate(bench.sim) >= 0.985
    bench.sim.clear_counters()
    bench.sim.run([(7000 + k, 1) for k in range(9000)], traffic=Traffic(tail=0))
    assert rate(bench.sim) >= 0.48
    bench.check()


def test_writes_are_fast_enough_to_load():
    """A word of 64 bits in five cycles: 3 MB in 20 ms at 100 MHz."""
    bench = Bench(BOARD, "load")
    bench.sim.start()
    data = bench.rng.integers(0, 256, (8000, 8), np.uint8)
    start = bench.sim.cycle
    bench.sim.run(writes=np.arange(8000) + 77, data=data)
    assert bench.sim.cycle - start < 5.2 * 8000
    assert np.array_equal(bench.sim.run([(77, 8000)]).words, data)
    bench.check()


def test_counters_tell_where_cycles_went():
    bench = Bench(BOARD, "counters")
    sim = bench.sim
    sim.start()
    sim.clear_counters()
    assert sum(sim.counters().values()) <= 2
    sim.ticks(10_000)
    idle = sim.counters()
    assert 9_990 <= idle["cycles"] <= 10_010
    assert idle["transfers"] == idle["row_stalls"] == idle["port_stalls"] == 0
    assert 60 <= idle["refreshes"] <= 13 * 25
    sim.clear_counters()
    # Every read in another row of one bank.
    sim.run([(512 * k, 2) for k in range(500)], traffic=Traffic(tail=0))
    rows = sim.counters()
    assert rows["transfers"] == 500 * 8
    assert rows["row_stalls"] > 500 * 3
    sim.clear_counters()
    sim.run([(0, 5000)], traffic=Traffic(data_stall=900, tail=0))
    slow = sim.counters()
    assert slow["port_stalls"] > 5 * slow["transfers"] / 8
    for c in (idle, rows, slow):
        parts = c["transfers"] + c["refreshes"] + c["row_stalls"] + c["port_stalls"]
        assert parts <= c["cycles"] + 2


def test_words_that_the_part_does_not_have():
    """An error before the word; a write there changes nothing, and the port lives on."""
    bench = Bench(WIDE, "beyond")
    words = (1 << 21) // 4
    bench.fill(0, 10)
    bench.fill(words - 10, 10)
    bench.sim.start()
    assert len(bench.sim.run([(words - 10, 10)]).words) == 10
    assert not bench.sim.error
    bench.sim.run(writes=[words, words + 5, (1 << 20) - 1], data=np.zeros((3, 16), np.uint8))
    assert bench.sim.error
    run = bench.sim.run([(0, 10), (words - 10, 10)])
    assert np.array_equal(run.words, np.concatenate([*bench.windows.values()]))
    assert bench.sim.violations == 0

    bench = Bench(WIDE, "beyond")
    bench.sim.start()
    assert len(bench.sim.run([(words - 1, 2), (0, 3)]).words) == 5
    assert bench.sim.error
    assert bench.sim.violations == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"word_bits": 24},
            "word width must be a multiple of the 16 bits of SDRAM IS42S16160, not 24",
        ),
        ({"input_delay": 9}, "SDRAM input delay must be 0 to 7 cycles, not 9"),
        ({"lookahead": 3}, "SDRAM lookahead must be a power of two from 2 on, not 3"),
        ({"buffer_words": 8}, "SDRAM buffer must be a power of two from 16 on, not 8"),
        ({"postponed": 9}, "postponed SDRAM refreshes must be 1 to 8, not 9"),
        (
            {"clock_hz": 200_000_000},
            "SDRAM IS42S16160 cannot run at 200 MHz; use at most 133.333 MHz",
        ),
    ],
    ids=["word", "delay", "lookahead", "buffer", "postponed", "clock"],
)
def test_errors_say_what_is_wrong(changes, message):
    arguments = {"clock_hz": 100_000_000, "address_bits": 22, "word_bits": 64, **changes}
    with pytest.raises(StillnetError, match=rf"^{re.escape(message)}$"):
        SdramController(PARTS["IS42S16160"], **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("mhz", "latency", "columns"), [(100, 2, 0.965), (133, 3, 0.96)])
def test_bench_meets_its_targets(mhz, latency, columns):
    row = measure(next(s for s in BENCH_SETUPS if (s.part, s.clock_mhz) == ("IS42S16160", mhz)))
    assert (row["part"], row["clock_mhz"], row["violations"]) == ("IS42S16160", mhz, 0)
    assert row["cas_latency"] == latency
    assert row["sequential_read"] >= 0.985
    assert row["random_columns_1200"] >= 0.98
    assert row["random_columns_128"] >= columns
    assert f"| IS42S16160 | {mhz} | {latency} |" in BENCH.markdown([row])
