"""What is wrong, in one sentence each, and since when."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["HOLD", "Alarm", "Alarms"]

HOLD = 10.0
"""Seconds without the cause after which an alarm is over: what comes and goes is one alarm."""

MOST = 200
"""Alarms that are remembered."""


@dataclass
class Alarm:
    """One thing that is, or was, wrong.

    Attributes
    ----------
    kind : str
        ``rate``, ``range``, ``stuck``, ``saturation``, ``deadline``, ``host``, ``link``, ``fault``,
        ``driver``, ``canary``, ``late``, ``rollback``.
    where : str
        Which vector, element or part.
    text : str
        A sentence for a person, as it is now.
    since : float
        Time of the first time, in seconds since 1970.
    step : int
        The same as the number of a step.
    last : float
        Time of the latest time.
    active : bool
    """

    kind: str
    where: str
    text: str
    since: float
    step: int
    last: float
    active: bool = True


class Alarms:
    """All alarms, the latest first; one for each kind and place at a time."""

    def __init__(self) -> None:
        self._active: dict[tuple[str, str], Alarm] = {}
        self._past: list[Alarm] = []

    def __iter__(self):
        return iter([*self.active, *reversed(self._past)])

    @property
    def active(self) -> list[Alarm]:
        """Those that go on, the newest first."""
        return sorted(self._active.values(), key=lambda a: -a.since)

    def seen(self, kind: str, where: str, text: str, step: int, when: float | None = None) -> None:
        """A cause is there, in the words of now; ``when`` it was first there."""
        now = time.time()
        when = now if when is None else when
        alarm = self._active.get((kind, where))
        if alarm is None:
            self._active[kind, where] = Alarm(kind, where, text, when, step, now)
        else:
            alarm.text, alarm.last = text, now

    def over(self, kind: str, where: str | None = None) -> None:
        """A cause is gone, whatever the hold."""
        for key in [k for k in self._active if k[0] == kind and where in (None, k[1])]:
            self._end(key)

    def expire(self, kinds: tuple[str, ...]) -> None:
        """Ends alarms of these kinds whose cause has not been there for :data:`HOLD`."""
        now = time.time()
        for key, alarm in list(self._active.items()):
            if key[0] in kinds and now - alarm.last > HOLD:
                self._end(key)

    def _end(self, key: tuple[str, str]) -> None:
        alarm = self._active.pop(key)
        alarm.active = False
        self._past = [*self._past, alarm][-MOST:]
