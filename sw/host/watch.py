"""What a driver knows of its own stream: counters, times, ranges, faults.

The driver tells a :class:`Watch` of every step; other threads read from it. Nothing here talks to
the board: the driver reads the counters between two steps and hands them over. ``serving`` offers
the same over HTTP to ``stillnet monitor``.

History is kept in *blocks*: what happened between two readings of the counters. A block holds
differences, so a reader that misses nothing can add them up, and several readers may come and go.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["VERSION", "Facts", "StateWanted", "Watch"]

VERSION = 1
"""Of the document that :meth:`Watch.document` gives."""

BLOCKS = 240
"""Blocks that are kept: two minutes at the default interval."""

WORST = 8
"""Slowest steps that are kept with their reasons."""

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 5.0)
"""Upper bounds of the histogram of times, in deadlines."""

SERIES = tuple(float(f"{m}e{e}") for e in range(-5, 1) for m in (1, 2, 5))
"""The same in seconds, where there is no deadline."""

GAUGES = ("latency", "budgets")
"""Counters that are the latest value, not a sum."""

WRAP = 1 << 32
LATE = 1.5
"""Periods between two steps after which the host counts as slow."""
PAUSE = 20.0
"""Periods after which the program has paused, which is no fault."""


@dataclass(frozen=True)
class Facts:
    """What does not change while a network is loaded.

    Attributes
    ----------
    network, board, engine, port : str
        Names of the network, the board, its engine configuration, and the connection.
    fingerprint : str
        Of the engine.
    clock_hz : int
    vectors : dict of str to int
        Elements of each vector that is turned into events.
    inputs, outputs : int
    tokens : bool
        The input is a token per step.
    baud : int or None
        Of a serial line; None where it is not known how fast the line is.
    """

    network: str
    board: str
    engine: str
    port: str
    fingerprint: str
    clock_hz: int
    vectors: dict[str, int]
    inputs: int
    outputs: int
    tokens: bool
    baud: int | None = None


@dataclass
class StateWanted:
    """Someone wants the state before a step, and what the next steps make of it.

    Attributes
    ----------
    steps : int
        How many steps.
    state : dict of str to int array
        As ``Engine.get_state`` gives it, of the chip.
    first : int
        Number of the first of them.
    x, y : lists of int arrays
    done : Event
        All is there, or ``reason`` says why not.
    """

    steps: int
    state: dict[str, np.ndarray] = field(default_factory=dict)
    first: int = -1
    seconds: float = 0.0
    x: list[np.ndarray] = field(default_factory=list)
    y: list[np.ndarray] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    reason: str = ""


@dataclass
class _Range:
    """Least and largest integer of each element since the last block."""

    low: np.ndarray
    high: np.ndarray
    any: bool = False

    @classmethod
    def of(cls, size: int) -> _Range:
        return cls(np.zeros(size, np.int64), np.zeros(size, np.int64))

    def add(self, x: np.ndarray) -> None:
        if self.any:
            np.minimum(self.low, x, out=self.low)
            np.maximum(self.high, x, out=self.high)
        else:
            self.low[:] = self.high[:] = x
            self.any = True

    def take(self) -> dict[str, list[int]] | None:
        if not self.any:
            return None
        self.any = False
        return {"low": self.low.tolist(), "high": self.high.tolist()}


class Watch:
    """Statistics of one driver.

    Parameters
    ----------
    deadline : float, optional
        Seconds that a step may take, from its vector to its output.
    period : float, optional
        Seconds from one step to the next; the deadline where absent.
    interval : float
        Seconds between two readings of the counters.
    every : int
        Read them at least every N steps as well; 0 leaves it to ``interval``. With 1 the cycles of
        every step are known.
    clock : function
        The board's time in seconds: a virtual board has its own.
    host_clock : function
        The time of this program.
    moved : function
        Bytes that went over the line so far: ``sent`` and ``received``.
    """

    def __init__(
        self,
        *,
        deadline: float | None = None,
        period: float | None = None,
        interval: float = 0.5,
        every: int = 0,
        clock: Callable[[], float] = time.monotonic,
        host_clock: Callable[[], float] = time.perf_counter,
        moved: Callable[[], dict[str, int]] = dict,
    ) -> None:
        for name, value in (("deadline", deadline), ("period", period), ("interval", interval)):
            if value is not None and not value > 0:
                raise StillnetError(f"{name} must be a positive number of seconds, not {value!r}")
        if every < 0:
            raise StillnetError(f"every must be a number of steps from 0, not {every!r}")
        self.deadline = None if deadline is None else float(f"{deadline:.9g}")
        self.period = period or self.deadline
        self.interval, self.every = interval, every
        self._clock, self._host_clock, self._moved = clock, host_clock, moved
        self.bounds = SERIES
        if deadline is not None:
            self.bounds = tuple(float(f"{share * deadline:.9g}") for share in SHARES)
        self._lock = threading.Lock()
        self._facts: Facts | None = None
        self._begin = time.time()
        self.steps = 0
        self._totals: dict[str, Any] = {}
        self._raw: dict[str, Any] | None = None
        self._link: dict[str, int] = {}
        self._fault: dict[str, Any] | None = None
        self._faults = 0
        self._thresholds: dict[str, int] = {}
        self._counts = [0] * (len(self.bounds) + 1)
        self._time_sum = self._time_worst = self._block_worst = 0.0
        self._misses = self._host_late = 0
        self._worst: list[dict[str, Any]] = []
        self._fresh: list[dict[str, Any]] = []  # entries of _worst whose counters are not known
        self._sent: deque[tuple[float, float, dict[str, int]]] = deque()
        self._answered_at = self._answer = 0.0
        self._last_step = 0.0
        self._input, self._output = _Range.of(0), _Range.of(0)
        self._latest = np.zeros(0, np.int64)
        self._still = np.zeros(0, np.int64)
        self._blocks: deque[dict[str, Any]] = deque(maxlen=BLOCKS)
        self._block_number = 0
        self._block_at = time.monotonic()
        self._block_first = 0
        self._block_base: dict[str, Any] = {}
        self._read_step = 0
        self._reading = False
        self._wanted: deque[StateWanted] = deque()
        self._following: StateWanted | None = None

    # -- from the driver --------------------------------------------------------------------------

    def begin(self, facts: Facts, counters: Mapping[str, Any]) -> None:
        """A network is on the board; its counters stand where they stand."""
        with self._lock:
            self._facts = facts
            if (
                not self._totals
                or self._totals.get("events", {}).keys() != counters["events"].keys()
            ):
                self._totals = _copy(counters)
            self._raw = _copy(counters)
            size = 0 if facts.tokens else facts.inputs
            self._input, self._output = _Range.of(size), _Range.of(facts.outputs)
            self._still = np.zeros(size, np.int64)
            self._latest = np.zeros(0, np.int64)
            self._thresholds = {}
            self._break()
            self._block_base = self._sums()
            self._read_step = self._block_first = self.steps

    def pause(self) -> None:
        """What follows is another sequence, or another time: no step is in flight."""
        with self._lock:
            self._break()

    def _break(self) -> None:
        self._sent.clear()
        self._answered_at = 0.0
        self._reading = False
        if self._following is not None:
            self._following.reason = "the sequence ended"
            self._following.done.set()
            self._following = None

    def rebase(self, counters: Mapping[str, Any] | None) -> None:
        """The counters were set, as by a reset, or are not what they were."""
        with self._lock:
            self._raw = None if counters is None else _copy(counters)

    def threshold(self, name: str, units: int) -> None:
        """A threshold was changed on the board; by the name of its encoder."""
        with self._lock:
            self._thresholds = {**self._thresholds, name: units}

    def sent(self, x: np.ndarray, link: dict[str, int]) -> None:
        """A vector is about to leave.

        Parameters
        ----------
        x : int array, shape (inputs,)
        link : dict of str to int
            Counts of the session's repairs.
        """
        now = self._host_clock()
        with self._lock:
            host = now - self._answered_at if self._answered_at and not self._sent else 0.0
            if self.period is not None and host:
                between = host + self._answer
                if LATE * self.period < between < PAUSE * self.period:
                    self._host_late += 1
            self._sent.append((self._clock(), host, link))
            if self._still.size:
                self._input.add(x)
                if self._latest.size:
                    self._still += 1
                    self._still *= x == self._latest
                self._latest = np.array(x)
            if self._following is not None and len(self._following.x) < self._following.steps:
                self._following.x.append(np.array(x))

    def answered(self, y: np.ndarray, link: dict[str, int]) -> None:
        """The oldest vector's output came."""
        now = self._clock()
        with self._lock:
            if not self._sent:
                return
            begin, host, before = self._sent.popleft()
            seconds = now - begin
            self._answered_at, self._answer = self._host_clock(), seconds
            self._last_step = time.time()
            self._counts[bisect_left(self.bounds, seconds)] += 1
            self._time_sum += seconds
            self._time_worst = max(self._time_worst, seconds)
            self._block_worst = max(self._block_worst, seconds)
            missed = self.deadline is not None and seconds > self.deadline
            self._misses += missed
            self._link = link
            if len(self._worst) < WORST or seconds > self._worst[-1]["seconds"]:
                self._note_worst(seconds, host, _less(link, before))
            self.steps += 1
            self._fault = None
            self._output.add(y)
            self._follow(y)

    def _note_worst(self, seconds: float, host: float, repairs: dict[str, int]) -> None:
        entry = {
            "step": self.steps,
            "time": time.time(),
            "seconds": seconds,
            "host": host,
            "link": {k: v for k, v in repairs.items() if v},
        }
        self._worst = sorted([*self._worst, entry], key=lambda e: -e["seconds"])[:WORST]
        self._fresh.append(entry)

    def _follow(self, y: np.ndarray) -> None:
        wanted = self._following
        if wanted is None:
            return
        wanted.y.append(np.array(y))
        if len(wanted.y) == wanted.steps:
            wanted.done.set()
            self._following = None

    def due(self) -> bool:
        """Whether the driver should read the counters now."""
        steps = self.steps - self._read_step
        if self._reading or not steps:
            return False
        # A step that is slow is looked at: the counters say whether the engine was.
        slow = any(e["step"] == self.steps - 1 for e in self._fresh) and self.steps > 2 * WORST
        return slow or steps == self.every or time.monotonic() - self._block_at >= self.interval

    def asked(self) -> None:
        """The counters are on their way."""
        self._reading = True

    def counters(self, values: Mapping[str, Any], link: dict[str, int]) -> None:
        """What the registers say, of 32 bits, and the session's counts."""
        with self._lock:
            self._reading = False
            before = _copy(self._totals)
            if self._raw is not None:
                _add(self._totals, values, self._raw)
            self._raw = _copy(values)
            self._link = link
            for entry in self._fresh:
                if entry["step"] != self.steps - 1:
                    continue
                entry["latency"] = values["latency"]
                if self.steps - self._read_step == 1:
                    entry["counters"] = _differences(self._totals, before)
            self._fresh.clear()
            self._read_step = self.steps
            if time.monotonic() - self._block_at >= self.interval:
                self._close_block()

    def flush(self) -> None:
        """Ends the block; what the counters said last is all that there is."""
        with self._lock:
            if self.steps > self._block_first:
                self._close_block()

    def failed(self, error: Exception, link: dict[str, int]) -> None:
        """The driver gave up; in its own words."""
        with self._lock:
            self._faults += 1
            self._fault = {"text": str(error), "time": time.time(), "step": self.steps}
            self._link = link
            self._raw = None
            self._break()

    def recovered(self) -> None:
        """Steps are possible again."""
        with self._lock:
            self._fault = None

    def wanted(self) -> StateWanted | None:
        """Whose turn it is to get the state before the next step."""
        if not self._wanted or self._following is not None:
            return None
        return self._wanted[0]

    def follow(self, wanted: StateWanted, state: dict[str, np.ndarray], seconds: float) -> None:
        """The state before the next step, and how long it took to read."""
        with self._lock:
            self._wanted.popleft()
            wanted.state, wanted.seconds, wanted.first = state, seconds, self.steps
            self._following = wanted
            self._answered_at = 0.0  # the driver was busy for another's sake

    # -- blocks -----------------------------------------------------------------------------------

    def _sums(self) -> dict[str, Any]:
        """All that only grows, as it is now."""
        return {
            "counters": _copy(self._totals),
            "times": {"count": sum(self._counts), "sum": self._time_sum},
            "misses": self._misses,
            "host_late": self._host_late,
            "link": dict(self._link),
            "moved": self._moved(),
            "faults": self._faults,
        }

    def _close_block(self) -> None:
        sums, now = self._sums(), time.monotonic()
        self._block_number += 1
        block = _differences(sums, self._block_base)
        for key in GAUGES:
            block["counters"].pop(key, None)
        block |= {
            "number": self._block_number,
            "time": time.time(),
            "seconds": now - self._block_at,
            "first": self._block_first,
            "steps": self.steps - self._block_first,
            "input": self._input.take(),
            "still": self._still.tolist(),
            "output": self._output.take(),
            "worst": self._block_worst,
        }
        self._blocks.append(block)
        self._block_worst = 0.0
        self._block_at, self._block_first, self._block_base = now, self.steps, sums

    # -- for readers ------------------------------------------------------------------------------

    def ask(self, steps: int) -> StateWanted:
        """Asks for the state before one of the next steps; ``done`` tells when all is there."""
        wanted = StateWanted(steps)
        with self._lock:
            self._wanted.append(wanted)
        return wanted

    def withdraw(self, wanted: StateWanted) -> None:
        """Nobody waits any more."""
        with self._lock:
            if wanted in self._wanted:
                self._wanted.remove(wanted)

    def document(self, after: int = 0) -> dict[str, Any]:
        """All of it as plain values.

        Parameters
        ----------
        after : int
            Blocks with higher numbers are included.
        """
        with self._lock:
            facts = None if self._facts is None else asdict(self._facts)
            return {
                "version": VERSION,
                "facts": facts,
                "begin": self._begin,
                "now": time.time(),
                "deadline": self.deadline,
                "period": self.period,
                "steps": self.steps,
                "last_step": self._last_step or None,
                "counters": _copy(self._totals),
                "counted_steps": self._read_step,
                "times": {
                    "bounds": list(self.bounds),
                    "counts": list(self._counts),
                    "sum": self._time_sum,
                    "worst": self._time_worst,
                },
                "misses": self._misses,
                "host_late": self._host_late,
                "worst": [dict(e) for e in self._worst],
                "link": dict(self._link),
                "moved": self._moved(),
                "fault": self._fault,
                "faults": self._faults,
                "thresholds": self._thresholds,
                "blocks": [b for b in self._blocks if b["number"] > after],
            }


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _add(totals: dict[str, Any], new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Adds to totals what counters of 32 bits have grown by."""
    for key, value in new.items():
        if key in GAUGES:
            totals[key] = value
        elif isinstance(value, Mapping):
            _add(totals.setdefault(key, {}), value, old.get(key, {}))
        else:
            totals[key] = totals.get(key, 0) + (value - old.get(key, 0)) % WRAP


def _less(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {k: v - b.get(k, 0) for k, v in a.items()}


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: _differences(v, old.get(k, {})) if isinstance(v, Mapping) else v - old.get(k, 0)
        for k, v in new.items()
    }
