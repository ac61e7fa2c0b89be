"""The SDRAM controller with a strict model of the part at its pins.

The engine's side writes words near the ends of rows, then reads them back in bursts of any length
while both sides pause. Words must come back in order, and the part must never be used against its
datasheet: open rows, distances between commands, refreshes, one driver on the bus.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge, with_timeout

from stillnet.hw.memory.port import read_request_layout, write_request_layout
from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import SdramTimings, sdram_part
from stillnet.hw.memory.sdram.pins import ALL_BANKS, BURST, SdramCommand, mode_register

from .runner import report
from .streams import Sink, Source, packed, start

PART = sdram_part("W9825G6KH")
CLOCK_HZ = 100_000_000
WORD_BITS, ADDRESS_BITS, LENGTH_BITS = 32, 23, 16
REGION = 1200
"""Words in use, from word 0 and from the last word back."""


def design() -> SdramController:
    """A controller of 32-bit words; the pause after power-up is short."""
    return SdramController(PART, CLOCK_HZ, ADDRESS_BITS, WORD_BITS, startup_us=1)


class Part:
    """An SDRAM at the pins of the controller; what a datasheet forbids is an error."""

    def __init__(self, dut: Any, timings: SdramTimings) -> None:
        self.dut, self.t = dut, timings
        self.pins = {name: getattr(dut, f"pins__{name}") for name in _PINS}
        self.items: dict[tuple[int, int, int], int] = {}  # by bank, row, column
        self.rows: list[int | None] = [None] * PART.banks  # open rows
        self.now = 0
        self.last: dict[tuple[SdramCommand, int], int] = {}  # command and bank to its cycle
        self.reading: list[tuple[int, tuple[int, int, int]]] = []  # cycle and place
        self.commands: Counter[SdramCommand] = Counter()
        self.ready = False
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            self.now += 1
            pins = {name: int(signal.value) for name, signal in self.pins.items()}
            command = SdramCommand(pins["we"] | pins["cas"] << 1 | pins["ras"] << 2)
            if pins["cs"] and command != SdramCommand.NOP:
                self.commands[command] += 1
                self.command(command, pins)
            if self.ready:
                due = (self.now - self.since_start) / self.t.refresh_interval
                assert self.commands[SdramCommand.REFRESH] - self.at_start >= due - 9, "refresh"
            self.reading = [(when, place) for when, place in self.reading if when > self.now]
            driven = bool(self.reading) and self.reading[0][0] == self.now + 1
            assert not (pins["dq_oe"] and driven), "both sides drive the bus"
            item = self.items.get(self.reading[0][1], 0) if driven else random.getrandbits(16)
            self.dut.pins__dq_i.value = item

    def since(self, distance: int, bank: int, *commands: SdramCommand) -> None:
        """So many cycles must have passed since these commands to a bank, or to all."""
        for command in commands:
            for key in ((command, bank), (command, -1)):
                passed = self.now - self.last.get(key, -distance)
                assert passed >= distance, f"{passed} cycles since {command.name}, not {distance}"

    def command(self, command: SdramCommand, pins: dict[str, int]) -> None:
        t, c, bank = self.t, SdramCommand, pins["ba"]
        everywhere = command == c.PRECHARGE and bool(pins["a"] >> ALL_BANKS & 1)
        banks = range(PART.banks) if everywhere or command == c.REFRESH else (bank,)
        self.since(t.tmrd, -1, c.LOAD_MODE)
        self.since(t.trfc, -1, c.REFRESH)
        if command == c.ACTIVATE:
            assert self.ready and self.rows[bank] is None, "ACTIVATE of an open bank"
            self.since(t.trp, bank, c.PRECHARGE)
            self.since(t.trc, bank, c.ACTIVATE)
            for other in range(PART.banks):
                self.since(t.trrd, other, c.ACTIVATE)
            self.rows[bank] = pins["a"]
        elif command in (c.READ, c.WRITE):
            self.transfer(command, bank, pins)
        elif command == c.PRECHARGE:
            for b in banks:
                if self.rows[b] is not None:
                    self.since(t.tras, b, c.ACTIVATE)
                    self.since(t.twr, b, c.WRITE)
                self.rows[b] = None
        else:
            assert not any(row is not None for row in self.rows), f"{command.name}: open banks"
            for b in range(PART.banks):
                self.since(t.trp, b, c.PRECHARGE)
        if command == c.LOAD_MODE:
            assert pins["a"] == mode_register(t.cas_latency), "another mode"
            self.ready, self.since_start = True, self.now
            self.at_start = self.commands[c.REFRESH]
        for key in (-1,) if everywhere or command in (c.REFRESH, c.LOAD_MODE) else (bank,):
            self.last[command, key] = self.now

    def transfer(self, command: SdramCommand, bank: int, pins: dict[str, int]) -> None:
        """A WRITE of one item, or a READ of eight, which the next one cuts short."""
        row = self.rows[bank]
        assert row is not None, f"{command.name} of a closed bank"
        self.since(self.t.trcd, bank, SdramCommand.ACTIVATE)
        column = pins["a"] & ((1 << PART.column_bits) - 1)
        # What was read before is still on its way out; what was to come is cut off.
        first = self.now + self.t.cas_latency
        self.reading = [(when, place) for when, place in self.reading if when < first]
        if command == SdramCommand.WRITE:
            assert pins["dq_oe"] and not pins["dqm"], "WRITE without data"
            self.items[bank, row, column] = pins["dq_o"]
            return
        for k in range(BURST):
            wrapped = column & -BURST | (column + k) % BURST
            self.reading.append((first + k, (bank, row, wrapped)))


_PINS = ("cs", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe")


def addresses() -> list[int]:
    """Words at both ends of the address space."""
    low = list(range(REGION // 2))
    return low + [(1 << ADDRESS_BITS) - 1 - k for k in low]


@cocotb.test()
async def words(dut: Any) -> None:
    """Every word that was written comes back, in the order of the requests."""
    controller = design()
    await start(dut)
    part = Part(dut, controller.timings)
    write, read = Source(dut, "port__write", 0.3), Source(dut, "port__read", 0.3)
    data = Sink(dut, "port__data", 0.2)
    places = addresses()
    written = {place: random.getrandbits(WORD_BITS) for place in places}
    order = random.sample(places, len(places) // 5) + places
    layout = write_request_layout(ADDRESS_BITS, WORD_BITS)
    write.send(*(packed(layout, address=at, data=written[at]) for at in order))

    async def stored() -> None:
        while write.waiting or not int(dut.port__write_idle.value):
            await RisingEdge(dut.clk)

    await with_timeout(stored(), 400, "us")
    expected: list[int] = []
    request = read_request_layout(ADDRESS_BITS, LENGTH_BITS)
    for _ in range(100):
        length = random.choice((0, 1, 2, 3, random.randint(4, 60)))
        first = random.choice(places[: REGION // 2 - 60] + places[REGION // 2 + 60 :])
        length = min(length, (1 << ADDRESS_BITS) - first)
        expected += [written[at] for at in range(first, first + length)]
        read.send(packed(request, address=first, length=length))
    for number, word in enumerate(expected):
        got = await with_timeout(data.get(), 50, "us")
        assert got == word, f"word {number}: {got:#x} instead of {word:#x}"
    assert not int(dut.port__error.value)
    counts = ", ".join(f"{n} {command.name}" for command, n in part.commands.most_common(4))
    report(f"{len(order)} writes, {len(expected)} words read: all equal; on the pins {counts}")
