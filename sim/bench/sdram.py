"""``stillnet bench sdram``: how much of an SDRAM's bus carries words that were asked for.

The controller's Verilog runs in a compiled simulation against the model of the part. Cycles are
those of the controller's own counters, from the first request to the last word, refresh included;
the engine takes a word in every cycle. Words are written through the controller first where they
are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import PARTS
from stillnet.sim.sdram.simulation import SdramSimulation, Traffic
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "SETUPS", "Setup", "measure", "sdram"]

Progress = Callable[[str, int, int], None]

MATRICES, COLUMNS, FIRED = 60, 1200, 0.1
"""Matrices at random places, columns of each, and the share of them that is read, in order."""


@dataclass(frozen=True)
class Setup:
    """A row.

    Attributes
    ----------
    part : str
    clock_mhz : int
    word_bits : int
        Of the engine.
    postponed : int
        Refreshes that may wait.
    cas_latency : int, optional
        The least that the clock allows, where not given.
    """

    part: str
    clock_mhz: int
    word_bits: int = 64
    postponed: int = 8
    cas_latency: int | None = None

    def controller(self) -> SdramController:
        """As it is measured: with the registers of a board, power-up shortened."""
        part = PARTS[self.part]
        columns = self.word_bits // part.data_bits
        return SdramController(
            part,
            self.clock_mhz * 10**6,
            part.address_bits - (columns - 1).bit_length(),
            self.word_bits,
            input_delay=2,
            postponed=self.postponed,
            cas_latency=self.cas_latency,
            startup_us=2,
        )


SETUPS = (
    Setup("IS42S16160", 100),
    Setup("IS42S16160", 100, postponed=1),
    Setup("MT48LC16M16", 100),
    Setup("AS4C32M16", 100),
    Setup("W9825G6KH", 100),
    Setup("W9825G6KH", 133),
    Setup("EM638325", 100),
    Setup("M12L64322A", 100),
    Setup("M12L16161A-x2", 100),
    *(Setup(part, 125, cas_latency=3) for part in ("IS42S16160", "EM638325", "M12L64322A")),
    *(Setup(part, 133, cas_latency=3) for part in PARTS),
)


def _fired(rng: np.random.Generator, words: int, length: int) -> list[tuple[int, int]]:
    """Reads as an engine makes them: events ascend, so columns of a matrix do."""
    reads = []
    for _ in range(MATRICES):
        base = int(rng.integers(0, words - COLUMNS * length))
        (which,) = np.nonzero(rng.random(COLUMNS) < FIRED)
        reads += [(base + length * int(k), length) for k in which]
    return reads


def measure(setup: Setup, *, seed: int = 1) -> dict[str, Any]:
    """One row: shares of the bus, cycles a written word, cycles from a request to its first word.

    ``violations`` counts what the model of the part objects to, and must be 0.
    """
    controller = setup.controller()
    word_bytes = setup.word_bits // 8
    words = 1 << controller.address_bits
    rng = np.random.default_rng(seed)
    quick = Traffic(tail=0)
    with SdramSimulation(controller) as sim:
        sim.start()

        # Loading, and whether what was loaded comes back.
        count = 16_384
        data = rng.integers(0, 256, (count, word_bytes), np.uint8)
        start = sim.cycle
        sim.run(writes=np.arange(count), data=data, traffic=quick)
        write_cycles = (sim.cycle - start) / count
        if not np.array_equal(sim.run([(0, count)]).words, data):
            raise RuntimeError(f"{setup.part}: words read differ from words written")

        def share(reads: list[tuple[int, int]]) -> tuple[float, dict[str, int]]:
            sim.clear_counters()
            sim.run(reads, traffic=quick)
            counters = sim.counters()
            return counters["transfers"] / counters["cycles"], counters

        sequential, counters = share([(k * 1024, 1024) for k in range(64)])
        columns = {}
        for size in (1200, 128):
            length = size // word_bytes
            starts = rng.integers(0, words - length, 4_000_000 // size)
            columns[size], _ = share([(int(a), length) for a in starts])
        fired, _ = share(_fired(rng, words, 128 // word_bytes))
        latencies = []
        for _ in range(200):
            sim.ticks(50)
            run = sim.run([(int(rng.integers(0, words - 8)), 8)], traffic=quick)
            latencies.append(int(run.first[0] - run.accepted[0]))
        return {
            "part": setup.part,
            "clock_mhz": setup.clock_mhz,
            "cas_latency": sim.cas_latency,
            "bus_bits": controller.part.data_bits,
            "word_bits": setup.word_bits,
            "refreshes_together": setup.postponed,
            "sequential_read": sequential,
            "random_columns_1200": columns[1200],
            "random_columns_128": columns[128],
            "fired_columns_128": fired,
            "refresh_share": counters["refreshes"] / counters["cycles"],
            "write_cycles": write_cycles,
            "latency_cycles": float(np.median(latencies)),
            "violations": sim.violations,
        }


def sdram(*, setups: tuple[Setup, ...] = SETUPS, progress: Progress | None = None) -> list[Any]:
    """All rows."""
    rows = []
    for k, setup in enumerate(setups):
        if progress:
            progress(f"{setup.part} at {setup.clock_mhz} MHz", k, len(setups))
        rows.append(measure(setup))
    if progress:
        progress("done", len(setups), len(setups))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    return table(
        rows,
        {
            "part": ("part", ""),
            "clock_mhz": ("MHz", "d"),
            "cas_latency": ("CL", "d"),
            "bus_bits": ("bus", "d"),
            "word_bits": ("word", "d"),
            "refreshes_together": ("refreshes together", "d"),
            "sequential_read": ("sequential", ".4f"),
            "random_columns_1200": ("columns of 1,200 bytes", ".4f"),
            "random_columns_128": ("columns of 128 bytes", ".4f"),
            "fired_columns_128": ("the same, a tenth, ascending", ".4f"),
            "refresh_share": ("lost to refresh", ".4f"),
            "write_cycles": ("cycles a written word", ".2f"),
            "latency_cycles": ("latency", ".0f"),
            "violations": ("violations", "d"),
        },
    )


BENCH = Bench(
    name="sdram",
    title="SDRAM",
    about=(
        "Share of the cycles in which the data bus carries words that were asked for, from the "
        "controller's own counters, refresh included: 64 k words read in sequence, and columns at "
        "random places, requests back to back; and a tenth of the columns of matrices at random "
        "places, ascending, as an engine reads them. LiteDRAM reads 0.965 in sequence, others "
        "0.967 to 0.971 (16 bits, one refresh at a time). Latency is from a request to an idle "
        "controller to the first word, in another row than the open one, with two registers on "
        "the board. Violations are counted by a model of the part."
    ),
    measure=lambda progress: sdram(progress=progress),
    markdown=_markdown,
)
"""Registered in the entry-point group ``stillnet.benches``."""
