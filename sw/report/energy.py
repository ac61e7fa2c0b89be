"""Energy of an SDRAM from what it was told, and of a step from what a meter reads.

The method is Micron's (technical notes TN-46-03 and TN-41-01): a data sheet gives the current of
each state and of endless repetition of each command. The charge of one ACTIVATE with its
PRECHARGE is what is drawn over tRC beyond standby, that of a REFRESH beyond standby over tRFC, that
of a cycle of data beyond a part with open rows. Commands and cycles of each state are counted by
the board. Only the core is in these figures: what drives the data bus is the FPGA's and the
board's, and depends on traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.results.runs import Energy, SdramUse
from stillnet.sw.util.shown import shown_joules, shown_time

__all__ = [
    "CURRENTS",
    "Currents",
    "energy_lines",
    "energy_of",
    "sdram_energy",
    "standby_power",
]

VOLTS = 3.3


@dataclass(frozen=True)
class Currents:
    """Currents of a part, in mA: the most that its maker allows.

    Attributes
    ----------
    row : float
        IDD1 (IDD0): ACTIVATE and PRECHARGE of one bank again and again, every ``trc`` ns. With one
        READ where the data sheet measures it so, which makes it more.
    power_down : float
        IDD2P: all rows closed, clock enable low.
    closed : float
        IDD2N: all rows closed. That of open rows where the data sheet has none.
    open_ : float
        IDD3N: rows open, nothing to do.
    burst : float
        IDD4: data in every cycle.
    refresh : float
        IDD5: REFRESH every ``trfc`` ns.
    trc, tras, trfc : float
        In ns, of the grade whose currents these are.
    standby_hz, burst_hz : float
        Clocks at which standby and bursts were measured. At a faster one currents are scaled with
        the clock; at a slower one they are left as they are, which is too much.
    source : str
        Data sheet, grade, temperature.
    stand_in : str
        Where the table is not that of the part but of a like one: which, and why it will do.
    parts : int
        Parts side by side.
    """

    row: float
    power_down: float
    closed: float
    open_: float
    burst: float
    refresh: float
    trc: float
    tras: float
    trfc: float
    standby_hz: float
    burst_hz: float
    source: str
    stand_in: str = ""
    parts: int = 1


_MICRON: dict[str, Any] = {
    "row": 165,
    "power_down": 2,
    "closed": 55,
    "open_": 55,
    "burst": 175,
    "refresh": 320,
    "trc": 70,
    "tras": 42,
    "trfc": 70,
    "standby_hz": 143e6,
    "burst_hz": 143e6,
    "source": "Micron MT48LC4M32B2-7, revision G, table 10, maximum, 0 to 70 °C; it names no "
    "current of closed rows, so that of open ones is taken",
}

CURRENTS: Mapping[str, Currents] = {
    "MT48LC16M16": Currents(
        **_MICRON,
        stand_in="MT48LC4M32B2-7, of the same maker and generation with a bus twice as wide, which "
        "draws more",
    ),
    "IS42S16160": Currents(
        **_MICRON,
        stand_in="MT48LC4M32B2-7, of the same generation with a bus twice as wide, which draws "
        "more; no table of ISSI's was at hand",
    ),
    "16M16-any": Currents(
        **_MICRON,
        stand_in="MT48LC4M32B2-7, with a bus twice as wide, which draws more than parts of 32 MB; "
        "which part the board carries is not known",
    ),
    "W9825G6KH": Currents(
        row=100,
        power_down=4,
        closed=40,
        open_=70,
        burst=150,
        refresh=130,
        trc=60,
        tras=42,
        trfc=60,
        standby_hz=166e6,
        burst_hz=166e6,
        source="Winbond W9825G2JB-6, rev. A01, section 9.4, maximum, 0 to 70 °C",
        stand_in="W9825G2JB, of the same maker and size with a bus twice as wide, which draws more",
    ),
    "EM638325": Currents(
        row=140,
        power_down=3,
        closed=50,
        open_=60,
        burst=170,
        refresh=230,
        trc=63,
        tras=42,
        trfc=63,
        standby_hz=66.7e6,
        burst_hz=143e6,
        source="Alliance AS4C4M32SA-7, rev. 1.0, table 9, maximum, -40 to 85 °C",
        stand_in="AS4C4M32SA-7, as wide and twice as large, which draws more",
    ),
    "M12L64322A": Currents(
        **_MICRON, stand_in="MT48LC4M32B2-7, as wide and twice as large, which draws more"
    ),
    "M12L16161A-x2": Currents(
        row=150,
        power_down=2,
        closed=30,
        open_=40,
        burst=170,
        refresh=170,
        trc=70,
        tras=45,
        trfc=70,
        standby_hz=66.7e6,
        burst_hz=143e6,
        source="Taiwan Memory Technology T431616A-7, rev. C, DC characteristics, maximum, -5 to "
        "70 °C; two parts",
        stand_in="T431616A-7, of the same size, width and banks",
        parts=2,
    ),
}
"""By the name of the part; others have no figures yet."""


def sdram_energy(use: SdramUse, currents: Currents) -> dict[str, float]:
    """Joules of an SDRAM's core, by what they went into.

    Parameters
    ----------
    use : SdramUse
    currents : Currents
    """
    c, n, hz = currents, use.counts, use.clock_hz
    standby, burst = max(1.0, hz / c.standby_hz), max(1.0, hz / c.burst_hz)
    open_, closed, down = standby * c.open_, standby * c.closed, standby * c.power_down
    row = c.row * c.trc - c.open_ * c.tras - c.closed * (c.trc - c.tras)
    # mA x ns x V = pJ.
    scale = 1e-12 * VOLTS * c.parts
    period = 1e9 / hz
    return {
        "opening and closing rows": scale * n["activates"] * row,
        "reading": scale * n["read_cycles"] * (burst * c.burst - open_) * period,
        "writing": scale * n["writes"] * (burst * c.burst - open_) * period,
        "refresh": scale * n["refreshes"] * (c.refresh - c.closed) * c.trfc,
        "standby, rows open": scale * n["open"] * open_ * period,
        "standby, rows closed": scale * n["closed"] * closed * period,
        "power-down": scale * n["power_down"] * down * period,
    }


def standby_power(use: SdramUse, currents: Currents) -> float:
    """Watts of the core when nothing is asked of it: in power-down if the board has it, with the
    refreshes of this run."""
    n, c = use.counts, currents
    cycles = max(n["open"] + n["closed"] + n["power_down"], 1)
    standby = max(1.0, use.clock_hz / c.standby_hz)
    state = c.power_down if n["power_down"] else c.closed
    refresh = n["refreshes"] * use.clock_hz / cycles * (c.refresh - c.closed) * c.trfc * 1e-9
    return 1e-3 * VOLTS * c.parts * (state * standby + refresh)


def energy_of(
    use: SdramUse | None,
    steps: int,
    *,
    rate: float | None = None,
    watts: float | None = None,
    seconds: float | None = None,
) -> Energy | None:
    """Energy of a run's steps.

    Parameters
    ----------
    use : SdramUse or None
        What the board's SDRAM did in the run.
    steps : int
        Of the run.
    rate : float, optional
        Steps per second in use. Between two of them the memory has nothing to do.
    watts : float, optional
        What a meter reads, of the whole board.
    seconds : float, optional
        That the run took.

    Raises
    ------
    StillnetError
        If a meter's watts have no time to go with.
    """
    if use is None and watts is None:
        return None
    found: dict[str, float] = {}
    source = stand_in = ""
    idle = step = slower = None
    if use is not None and steps and (currents := CURRENTS.get(use.part)) is not None:
        found = {name: value / steps for name, value in sdram_energy(use, currents).items()}
        source, stand_in = currents.source, currents.stand_in
        idle, step = standby_power(use, currents), sum(found.values())
        needed = _step_seconds(use, steps)
        if rate is not None and needed <= 1 / rate:
            step += idle * (1 / rate - needed)
        elif rate is not None:
            slower = needed
    time = 1 / rate if rate else seconds / steps if seconds and steps else None
    if watts is not None and time is None:
        raise StillnetError("--watts needs the time of a step; give --pace, in steps per second")
    return Energy(
        sdram=step,
        sdram_parts=found,
        sdram_idle_watts=idle,
        slower=slower,
        sdram_source=source,
        sdram_stand_in=stand_in,
        rate=rate,
        watts=watts,
        board=None if watts is None or time is None else watts * time,
    )


def _step_seconds(use: SdramUse, steps: int) -> float:
    """Time of a step in the run, by the SDRAM's clock."""
    cycles = sum(use.counts[state] for state in ("open", "closed", "power_down"))
    return cycles / use.clock_hz / steps


def energy_lines(energy: Energy, use: SdramUse | None) -> list[str]:
    """What is known of the energy of a step, in sentences."""
    lines = []
    if use is not None and energy.sdram is None:
        lines.append(f"SDRAM: commands were counted, but no currents of {use.part} are known")
    elif use is not None and energy.sdram is not None and energy.sdram_idle_watts is not None:
        when = "in this run" if energy.rate is None else f"at {energy.rate:g} steps per second"
        if energy.slower is not None:
            when = (
                f"in this run, whose steps took {shown_time(energy.slower)}, longer than the rate's"
            )
        lines.append(
            f"SDRAM: {shown_joules(energy.sdram)} per step {when}, at most; core only, I/O not "
            f"counted; {1e3 * energy.sdram_idle_watts:.3g} mW when idle"
        )
        lines.append(f"currents: {energy.sdram_source}, at {VOLTS} V")
        if energy.sdram_stand_in:
            lines.append(f"that table stands in for {use.part}: {energy.sdram_stand_in}")
    if energy.board is not None:
        lines.append(
            f"board: {shown_joules(energy.board)} per step, from {energy.watts:g} W of the meter"
        )
    return lines
