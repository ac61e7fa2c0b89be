"""SDR SDRAM parts: geometry and datasheet timings, and what they are in cycles of a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillnet.sw.contract.errors import StillnetError

__all__ = ["ANY_16M16", "PARTS", "SdramPart", "SdramTimings", "sdram_part", "slowest"]


@dataclass(frozen=True)
class SdramTimings:
    """Timings of a part in cycles of one clock: the least distance between two commands.

    Attributes
    ----------
    cas_latency : int
        READ to the edge at which its first data can be sampled.
    trcd : int
        ACTIVATE to READ or WRITE.
    trp : int
        PRECHARGE to ACTIVATE or REFRESH.
    tras : int
        ACTIVATE to PRECHARGE of the same bank.
    trc : int
        ACTIVATE to ACTIVATE of the same bank, or to REFRESH.
    trfc : int
        REFRESH to REFRESH or ACTIVATE.
    trrd : int
        ACTIVATE to ACTIVATE of another bank.
    twr : int
        Last WRITE to PRECHARGE.
    tmrd : int
        LOAD MODE to any command.
    twtr : int
        WRITE to READ.
    refresh_interval : int
        Mean distance of REFRESH commands, at most.
    startup : int
        From power-up to the first PRECHARGE.
    txp : int
        Clock enable high again to any command: the end of power-down.
    tcke : int
        Clock enable low, at least.
    """

    cas_latency: int
    trcd: int
    trp: int
    tras: int
    trc: int
    trfc: int
    trrd: int
    twr: int
    tmrd: int
    twtr: int
    refresh_interval: int
    startup: int
    txp: int = 2
    tcke: int = 1


def _cycles(picoseconds: int, clock_hz: int) -> int:
    """The least number of cycles that lasts so long."""
    return -(-picoseconds * clock_hz // 10**12)


@dataclass(frozen=True)
class SdramPart:
    """One part, as its datasheet has it. Times are integers of picoseconds.

    Attributes
    ----------
    name : str
    row_bits, column_bits, bank_bits : int
        Widths of the addresses of a row, of a column in it, and of a bank.
    data_bits : int
        Width of the data bus.
    trcd, trp, tras, trc, trfc, trrd, twr : int
        Least times in ps. See :class:`SdramTimings`.
    trrd_cycles, twr_cycles, tmrd_cycles : int
        Least numbers of cycles, whatever the clock.
    refreshes : int
        REFRESH commands in ``window_ms``, within which each row must have had one.
    startup_us : int
        Pause after power-up.
    txp : int
        Least time in ps, beyond one clock, from the rise of clock enable to a command: tPDE less
        tCK (Alliance, Etron, ESMT), the set-up of CKE (Winbond, Micron), tCKA less tCK (ISSI).
    tcke_cycles : int
        Cycles for which clock enable stays low. No datasheet asks for more than one.
    cas : tuple of (int, int)
        CAS latencies, each with the highest clock in Hz.
    source : str
        Speed grade and datasheet.
    """

    name: str
    row_bits: int
    column_bits: int
    data_bits: int
    trcd: int
    trp: int
    tras: int
    trc: int
    trfc: int
    trrd: int
    twr: int
    refreshes: int
    cas: tuple[tuple[int, int], ...]
    source: str
    bank_bits: int = 2
    trrd_cycles: int = 1
    twr_cycles: int = 2
    tmrd_cycles: int = 2
    startup_us: int = 200
    window_ms: int = 64
    txp: int = 1_500
    tcke_cycles: int = 1

    @property
    def banks(self) -> int:
        return 1 << self.bank_bits

    @property
    def address_bits(self) -> int:
        """Bits of the address of one item of ``data_bits``."""
        return self.row_bits + self.bank_bits + self.column_bits

    @property
    def address_pins(self) -> int:
        """Address pins. Columns leave out A10, which chooses all banks."""
        return max(self.row_bits, 11, self.column_bits + (self.column_bits > 10))

    @property
    def size_bytes(self) -> int:
        return (1 << self.address_bits) * self.data_bits // 8

    def window(self, clock_hz: int) -> int:
        """Cycles in which every row must be refreshed."""
        return clock_hz * self.window_ms // 1000

    def cas_latency(self, clock_hz: int) -> int:
        """The least CAS latency at a clock.

        Raises
        ------
        :exc:`StillnetError`
            If the part is not that fast.
        """
        for latency, highest in sorted(self.cas):
            if clock_hz <= highest:
                return latency
        highest = max(h for _, h in self.cas)
        raise StillnetError(
            f"SDRAM {self.name} cannot run at {clock_hz / 1e6:g} MHz; use at most "
            f"{highest / 1e6:g} MHz"
        )

    def timings(
        self,
        clock_hz: int,
        *,
        cas_latency: int | None = None,
        postponed: int = 8,
        startup_us: int | None = None,
    ) -> SdramTimings:
        """The part's timings in cycles.

        Parameters
        ----------
        clock_hz : int
        cas_latency : int, optional
            The least one that the clock allows, where not given.
        postponed : int
            How many refreshes may wait. The interval is shortened by so much that every row is
            refreshed within the part's window all the same.
        startup_us : int, optional
            Another pause after power-up than the datasheet's, for simulation.

        Raises
        ------
        :exc:`StillnetError`
            If the part cannot run at this clock or latency, or the clock is too slow to refresh.
        """
        if not isinstance(clock_hz, int) or clock_hz < 1:
            raise StillnetError(
                f"SDRAM clock must be a positive integer of Hz, not {clock_hz!r}; give for "
                "instance 100_000_000"
            )
        least = self.cas_latency(clock_hz)
        if cas_latency is None:
            cas_latency = least
        known = dict(self.cas)
        if cas_latency not in known or clock_hz > known[cas_latency]:
            raise StillnetError(
                f"SDRAM {self.name} has no CAS latency {cas_latency} at {clock_hz / 1e6:g} MHz; "
                f"use {least}"
            )
        interval = self.window(clock_hz) // (self.refreshes + postponed + 1)
        trfc = _cycles(self.trfc, clock_hz)
        if interval < 8 * trfc:
            raise StillnetError(
                f"SDRAM {self.name} cannot be refreshed at {clock_hz / 1e6:g} MHz; use at least "
                f"{8 * (self.refreshes + postponed + 2) / self.window_ms / 1e3:.0f} MHz"
            )
        return SdramTimings(
            cas_latency=cas_latency,
            trcd=_cycles(self.trcd, clock_hz),
            trp=_cycles(self.trp, clock_hz),
            tras=_cycles(self.tras, clock_hz),
            trc=_cycles(self.trc, clock_hz),
            trfc=trfc,
            trrd=max(self.trrd_cycles, _cycles(self.trrd, clock_hz)),
            twr=max(self.twr_cycles, _cycles(self.twr, clock_hz)),
            tmrd=self.tmrd_cycles,
            # The bus is free a cycle after the last data in (tCDL); one more turns it around.
            twtr=2,
            refresh_interval=interval,
            startup=_cycles(
                (self.startup_us if startup_us is None else startup_us) * 10**6, clock_hz
            ),
            txp=1 + _cycles(self.txp, clock_hz),
            tcke=self.tcke_cycles,
        )


# Where a name stands for several speed grades, the slowest one that boards carry is taken: at 100
# MHz the difference is a cycle or nothing.
PARTS: dict[str, SdramPart] = {
    part.name: part
    for part in (
        SdramPart(
            name="IS42S16160",
            row_bits=13,
            column_bits=9,
            data_bits=16,
            trcd=20_000,
            trp=20_000,
            tras=45_000,
            trc=67_500,
            trfc=70_000,
            trrd=15_000,
            twr=15_000,
            refreshes=8192,
            startup_us=200,
            txp=3_000,
            cas=((2, 100_000_000), (3, 133_333_333)),
            source="ISSI, revisions B to J, grades -6, -7 and -75: the longest of each time",
        ),
        SdramPart(
            name="MT48LC16M16",
            row_bits=13,
            column_bits=9,
            data_bits=16,
            trcd=20_000,
            trp=20_000,
            tras=44_000,
            trc=66_000,
            trfc=66_000,
            trrd=15_000,
            twr=15_000,
            refreshes=8192,
            startup_us=100,
            cas=((2, 100_000_000), (3, 133_333_333)),
            source="Micron MT48LC16M16A2-75, electrical characteristics and AC conditions",
        ),
        SdramPart(
            name="AS4C32M16",
            row_bits=13,
            column_bits=10,
            data_bits=16,
            trcd=21_000,
            trp=21_000,
            tras=42_000,
            trc=63_000,
            trfc=63_000,
            trrd=14_000,
            twr=14_000,
            refreshes=8192,
            startup_us=200,
            cas=((2, 100_000_000), (3, 143_000_000)),
            source="Alliance AS4C32M16SB-7, rev. 1.0, table 16",
        ),
        SdramPart(
            name="W9825G6KH",
            row_bits=13,
            column_bits=9,
            data_bits=16,
            trcd=15_000,
            trp=15_000,
            tras=42_000,
            trc=60_000,
            trfc=60_000,
            trrd=0,
            trrd_cycles=2,
            twr=0,
            refreshes=8192,
            startup_us=200,
            cas=((2, 133_000_000), (3, 166_000_000)),
            source="Winbond W9825G6KH-6, section 9.5 (tRC is also refresh to refresh)",
        ),
        SdramPart(
            name="EM638325",
            row_bits=11,
            column_bits=8,
            data_bits=32,
            trcd=21_000,
            trp=21_000,
            tras=42_000,
            trc=63_000,
            trfc=63_000,
            trrd=14_000,
            twr=14_000,
            refreshes=4096,
            startup_us=200,
            cas=((2, 100_000_000), (3, 143_000_000)),
            source="Etron EM638325-7; also covers -6",
        ),
        SdramPart(
            name="M12L64322A",
            row_bits=11,
            column_bits=8,
            data_bits=32,
            trcd=18_000,
            trp=18_000,
            tras=42_000,
            trc=60_000,
            trfc=60_000,
            trrd=12_000,
            twr=12_000,
            refreshes=4096,
            startup_us=200,
            cas=((2, 100_000_000), (3, 166_000_000)),
            source="ESMT M12L64322A-6, operating AC parameters; also covers -5",
        ),
        SdramPart(
            name="M12L16161A-x2",
            row_bits=11,
            column_bits=8,
            bank_bits=1,
            data_bits=32,
            trcd=20_000,
            trp=20_000,
            tras=45_000,
            trc=70_000,
            trfc=70_000,
            trrd=15_000,
            twr=15_000,
            refreshes=2048,
            window_ms=32,
            startup_us=200,
            cas=((2, 100_000_000), (3, 143_000_000)),
            source="ESMT M12L16161A-7, AC parameters; two parts side by side; also covers -5",
        ),
    )
}
"""The parts known by name."""


def slowest(name: str, names: tuple[str, ...]) -> SdramPart:
    """A part that any of some will pass for: of each rule the slowest, of each size the least.

    Rows, columns and banks that only some have are left alone, so their addresses stay 0.

    Parameters
    ----------
    name : str
    names : tuple of str
        Of parts with a bus of one width.
    """
    parts = [PARTS[other] for other in names]

    def most(field: str) -> int:
        return max(getattr(part, field) for part in parts)

    longest = ("trcd", "trp", "tras", "trc", "trfc", "trrd", "twr", "startup_us", "txp")
    cycles = ("trrd_cycles", "twr_cycles", "tmrd_cycles", "tcke_cycles")
    latencies = set.intersection(*({latency for latency, _ in part.cas} for part in parts))
    (data_bits,) = {part.data_bits for part in parts}
    (window_ms,) = {part.window_ms for part in parts}
    return SdramPart(
        name=name,
        **{f"{kind}_bits": min(getattr(p, f"{kind}_bits") for p in parts) for kind in _ADDRESSES},
        data_bits=data_bits,
        **{field: most(field) for field in (*longest, *cycles, "refreshes")},
        window_ms=window_ms,
        cas=tuple((k, min(dict(part.cas)[k] for part in parts)) for k in sorted(latencies)),
        source=f"the slowest of each: {', '.join(names)}",
    )


_ADDRESSES = ("row", "column", "bank")
ANY_16M16 = ("IS42S16160", "MT48LC16M16", "AS4C32M16", "W9825G6KH")
"""Parts that ULX3S are sold with. AS4C32M16 has twice the columns, of which half are used."""
PARTS["16M16-any"] = slowest("16M16-any", ANY_16M16)


def sdram_part(name: Any) -> SdramPart:
    """The part of a name.

    Raises
    ------
    :exc:`StillnetError`
        If there is no such part.
    """
    if name not in PARTS:
        raise StillnetError(f"SDRAM part {name!r} is unknown; known are {', '.join(sorted(PARTS))}")
    return PARTS[name]
