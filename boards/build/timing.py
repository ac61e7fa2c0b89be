"""Which paths of a routed design hold its clocks back, by the blocks that they lead from and to.

nextpnr names the one slowest path of each clock. Its SDF file (``--sdf``) has every delay: here the
latest arrival at every register and memory is found, as nextpnr finds it, and the ends of paths are
counted by module. The slowest of each clock agrees with nextpnr's report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Arrival", "Routed", "blocks", "describe", "path_table", "read_sdf"]

_CLOCK = re.compile(r"(?:[RW]?CLK[0-3AB]?|[ES]CLK|WCK)$")
"""Pins that are clocks even of a cell without a check."""
_PASS = ("FCI", "F1", "FXA", "FXB", "CIN")
"""Inputs behind which there is no LUT of their own: carry, and multiplexers of two LUTs."""
_MADE = re.compile(r"(?!^)(?:\$|_(?:TRELLIS|LUT4|PFUMX|L6MUX|CCU2C|DP16KD|MULT18|SB_|DFF)).*")
"""What synthesis and nextpnr add to the name of a signal or an instance."""
_ROWS = 30
"""Rows of a table; of a clock that is met, a third of them."""


GLOBAL = "global clocks"
"""The pin of all clocks to which nextpnr writes no wires, as for a Gowin's."""


@dataclass(frozen=True)
class Arrival:
    """The slowest path to one end, between two clocks or within one.

    Attributes
    ----------
    ps : int
        The period that it needs, setup included. Between opposite edges that is twice its delay.
    levels : int
        LUTs and multiplexers on the way; a carry chain counts once.
    start, end : str
        Pins: output of a register or memory, input of another one.
    """

    ps: int
    levels: int
    start: str
    end: str


@dataclass
class Routed:
    """Pins of a design and the delays between them, in ps.

    Attributes
    ----------
    pins : list of str
        ``instance/pin``; everything else speaks of their numbers.
    after : list of list of (pin, delay, levels)
        What each pin leads to.
    launches : dict of clock pin to list of (output, delay)
    checks : dict of input to (clock pin, setup)
    falling : set of clock pins
        Their cell works at the falling edge.
    driver : dict of pin to pin
        Where the wire to a pin comes from.
    """

    pins: list[str] = field(default_factory=list)
    after: list[list[tuple[int, int, int]]] = field(default_factory=list)
    launches: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    checks: dict[int, tuple[int, int]] = field(default_factory=dict)
    falling: set[int] = field(default_factory=set)
    driver: dict[int, int] = field(default_factory=dict)

    def clock_of(self, clock_pin: int) -> str:
        """The pin that drives a clock; ``GLOBAL`` where no wire leads to it."""
        return self.pins[self.driver[clock_pin]] if clock_pin in self.driver else GLOBAL

    def arrivals(self) -> dict[tuple[str, str], list[Arrival]]:
        """For each pair of clocks between which there are paths: the slowest path to each end.

        Raises
        ------
        StillnetError
            If logic leads back to itself.
        """
        sources: dict[tuple[str, bool], list[tuple[int, int]]] = {}
        for clock_pin, outputs in self.launches.items():
            key = self.clock_of(clock_pin), clock_pin in self.falling
            sources.setdefault(key, []).extend(outputs)
        found: dict[tuple[str, str], dict[int, Arrival]] = {}
        for (clock, falls), launched in sources.items():
            for end, (ps, levels, start) in self._spread(launched).items():
                clock_pin, setup = self.checks[end]
                period = (ps + setup) * (1 if (clock_pin in self.falling) == falls else 2)
                ends = found.setdefault((clock, self.clock_of(clock_pin)), {})
                if end not in ends or ends[end].ps < period:
                    ends[end] = Arrival(period, levels, self.pins[start], self.pins[end])
        return {pair: list(ends.values()) for pair, ends in found.items()}

    def _spread(self, launched: Iterable[tuple[int, int]]) -> dict[int, tuple[int, int, int]]:
        """The ends that some outputs reach: latest arrival, levels, and the output it is from."""
        best: dict[int, tuple[int, int, int]] = {}
        for output, delay in launched:
            best[output] = max(best.get(output, (-1, 0, output)), (delay, 0, output))
        before = dict.fromkeys(best, 0)  # pins before each one that is reached
        waiting = list(best)
        while waiting:
            for pin, _, _ in self.after[waiting.pop()]:
                if pin not in before:
                    before[pin] = 0
                    waiting.append(pin)
                before[pin] += 1
        ready = [pin for pin, count in before.items() if count == 0]
        done = 0
        while ready:
            pin = ready.pop()
            done += 1
            ps, levels, start = best[pin]
            for after, delay, more in self.after[pin]:
                if after not in best or best[after][0] < ps + delay:
                    best[after] = ps + delay, levels + more, start
                before[after] -= 1
                if before[after] == 0:
                    ready.append(after)
        if done < len(before):
            pin = next(pin for pin, count in before.items() if count > 0)
            raise StillnetError(
                f"the logic at {self.pins[pin]} leads back to itself, so its paths have no "
                "length; put a register into the loop"
            )
        return {pin: best[pin] for pin in best.keys() & self.checks.keys()}


def _latest(delays: Iterable[str]) -> int:
    """The longest of some triples ``(min:typical:max)``."""
    return max(int(text.strip("()").rsplit(":", 1)[-1]) for text in delays)


class _Reader:
    """Puts together a design while its SDF file is read.

    Attributes
    ----------
    inner : list of (input, output, delay)
        Of cells. Which inputs are clocks is known at the end.
    """

    def __init__(self) -> None:
        self.routed = Routed()
        self.numbers: dict[str, int] = {}
        self.cell = ""
        self.inner: list[tuple[int, int, int]] = []
        self.delays: dict[str, int] = {}  # few texts, seen again and again

    def pin(self, name: str) -> int:
        name = name.replace("\\", "")
        number = self.numbers.get(name)
        if number is None:
            number = self.numbers[name] = len(self.numbers)
            self.routed.pins.append(name)
            self.routed.after.append([])
        return number

    def latest(self, words: list[str]) -> int:
        text = " ".join(words)
        if text not in self.delays:
            self.delays[text] = _latest(words)
        return self.delays[text]

    def line(self, words: list[str]) -> None:
        """One line, in words."""
        match words:
            case ["(INSTANCE", name]:
                self.cell = name.removesuffix(")")
            case ["(INTERCONNECT", source, target, *delays]:
                start, end = self.pin(source), self.pin(target)
                self.routed.after[start].append((end, self.latest(delays), 0))
                self.routed.driver[end] = start
            case ["(IOPATH", "(posedge" | "(negedge", start_name, end_name, *delays] | [
                "(IOPATH",
                start_name,
                end_name,
                *delays,
            ]:
                start = self.pin(f"{self.cell}/{start_name.removesuffix(')')}")
                end = self.pin(f"{self.cell}/{end_name}")
                self.inner.append((start, end, self.latest(delays)))
            case ["(SETUPHOLD", _, data, edge, clock, setup, _]:
                end = self.pin(f"{self.cell}/{data.removesuffix(')')}")
                clock_pin = self.pin(f"{self.cell}/{clock.removesuffix(')')}")
                longest = self.latest([setup])
                if end in self.routed.checks:
                    longest = max(longest, self.routed.checks[end][1])
                self.routed.checks[end] = clock_pin, longest
                if edge == "(negedge":
                    self.routed.falling.add(clock_pin)

    def finish(self) -> Routed:
        routed = self.routed
        clocks = {clock_pin for clock_pin, _ in routed.checks.values()}
        for start, end, delay in self.inner:
            name = routed.pins[start].rsplit("/", 1)[1]
            if start in clocks or _CLOCK.match(name):
                routed.launches.setdefault(start, []).append((end, delay))
            else:
                level = int(delay > 0 and name not in _PASS)
                routed.after[start].append((end, delay, level))
        return routed


def read_sdf(path: Path) -> Routed:
    """Reads the delays that nextpnr writes with ``--sdf``.

    Raises
    ------
    StillnetError
        If the file is something else, or has no delays.
    """
    reader = _Reader()
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next(lines, "").strip()
        if first != "(DELAYFILE":
            raise StillnetError(
                f"{path} is no SDF file: it begins with {first[:40]!r}; have nextpnr write one "
                "with --sdf"
            )
        for line in lines:
            words = line.split()
            if words == ["(TIMESCALE", "1ps)"] or not words:
                continue
            if words[0] == "(TIMESCALE":
                raise StillnetError(
                    f"{path} counts in {' '.join(words[1:]).strip('()')}, not in 1ps as nextpnr "
                    "does; have nextpnr write it with --sdf"
                )
            reader.line(words)
    if not reader.inner:
        raise StillnetError(f"{path} has no delays of cells; have nextpnr write it with --sdf")
    return reader.finish()


def blocks(pin: str) -> tuple[str, str]:
    """Module path and signal (or instance) of a pin; numbers of equal blocks are left out."""
    parts = pin.rsplit("/", 1)[0].split(".")
    while len(parts) > 1 and (not parts[-1] or parts[-1][0].isdigit()):
        parts.pop()  # the pieces of a memory
    *modules, signal = parts
    path = ".".join(re.sub(r"\d+$", "*", _MADE.sub("", module)) for module in modules)
    return path or "top", _MADE.sub("", signal)


def path_table(
    routed: Routed, report: dict[str, Any], name_of: Callable[[str], str] = str
) -> dict[str, Any]:
    """The slowest paths of each clock by module.

    Parameters
    ----------
    routed : Routed
    report : dict
        nextpnr's report of the same run: names of clocks, and what was asked for.
    name_of : callable
        What people call a clock of the report.

    Returns
    -------
    dict
        ``clocks``: a list of {clock, target_ns (None where nothing is asked for), worst_ns, ends,
        late, groups}. Groups are {from, to, ns, levels, ends, late, first, last}, the slowest
        first; ``first`` and ``last`` are the signals of the slowest path. ``crossings``: paths
        between two clocks, {from, to, ns, ends}.
    """
    nets = _clock_nets(routed, report)
    targets = {net: 1000 / f["constraint"] for net, f in report["fmax"].items() if f["constraint"]}
    clocks, crossings = [], []
    for (start, end), found in routed.arrivals().items():
        if start != end:
            names = (name_of(nets.get(clock, clock)) for clock in (start, end))
            ns = max(a.ps for a in found) / 1000
            crossings.append({**dict(zip(("from", "to"), names)), "ns": ns, "ends": len(found)})
            continue
        target = targets.get(nets.get(end, end))
        groups = _groups(found, target)
        clocks.append(
            {
                "clock": name_of(nets.get(end, end)),
                "target_ns": target,
                "worst_ns": groups[0]["ns"],
                "ends": len(found),
                "late": sum(g["late"] for g in groups),
                "groups": groups,
            }
        )
    clocks.sort(key=lambda c: c["clock"])
    crossings.sort(key=lambda c: (c["from"], c["to"]))
    return {"clocks": clocks, "crossings": crossings}


def _groups(found: list[Arrival], target: float | None) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for arrival in sorted(found, key=lambda a: (-a.ps, a.end)):
        (start, first), (end, last) = blocks(arrival.start), blocks(arrival.end)
        group = groups.get((start, end))
        if group is None:
            group = groups[start, end] = {
                "from": start,
                "to": end,
                "ns": arrival.ps / 1000,
                "levels": arrival.levels,
                "ends": 0,
                "late": 0,
                "first": first,
                "last": last,
            }
        group["ends"] += 1
        group["late"] += target is not None and arrival.ps > 1000 * target
    return list(groups.values())


def _clock_nets(routed: Routed, report: dict[str, Any]) -> dict[str, str]:
    """The names that the report has for clocks, by the pins that drive them.

    SDF knows no names of wires. The paths of the report say which cells a clock drives. Global
    clocks without wires count as one, the first of the report.
    """
    numbers = {name: number for number, name in enumerate(routed.pins)}
    launched = {end: clock for clock, ends in routed.launches.items() for end, _ in ends}
    nets: dict[str, str] = {}
    for path in report["critical_paths"]:
        places = path["path"][0]["from"], path["path"][-1]["to"]
        for edge, place in zip((path["from"], path["to"]), places):
            pin = numbers.get(f"{place['cell']}/{place['port']}", -1)
            clock_pin = launched.get(pin, routed.checks.get(pin, (None, 0))[0])
            if clock_pin is not None:
                nets.setdefault(routed.clock_of(clock_pin), edge.split(" ", 1)[1])
    return nets


def describe(paths: dict[str, Any]) -> Iterator[str]:
    """Lines for people: of each clock the groups that are late, or the slowest ones."""
    for clock in paths["clocks"]:
        groups, late, target = clock["groups"], clock["late"], clock["target_ns"]
        wanted = "nothing is asked for" if target is None else f"{target:.2f} ns are asked for"
        yield f"clock {clock['clock']}: {clock['worst_ns']:.2f} ns, where {wanted}; " + (
            f"{late} of {clock['ends']} ends are late" if late else f"{clock['ends']} ends"
        )
        shown = [g for g in groups if g["late"]][:_ROWS] if late else groups[: _ROWS // 3]
        starts = [f"{g['from']} ({g['first']})" for g in shown]
        width = max(map(len, ["from", *starts]))
        yield f"{'ns':>8} {'levels':>6} {'ends':>6}  {'from':<{width}}  to"
        for group, start in zip(shown, starts):
            yield (
                f"{group['ns']:8.2f} {group['levels']:6} {group['late' if late else 'ends']:6}  "
                f"{start:<{width}}  {group['to']} ({group['last']})"
            )
        rest = sum(1 for g in groups if g["late"] or not late) - len(shown)
        if rest:
            yield f"{'':8} and {rest} {'late' if late else 'faster'} groups more"
    for crossing in paths["crossings"]:
        yield (
            f"from {crossing['from']} to {crossing['to']}: {crossing['ns']:.2f} ns, "
            f"{crossing['ends']} ends"
        )
