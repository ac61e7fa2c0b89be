"""The counters of an engine, in one command."""

from __future__ import annotations

from typing import Any

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.registers import COUNTERS, Register

__all__ = ["CounterRead"]

_NAMES = tuple(register.name.lower() for register in COUNTERS)


class CounterRead:
    """All counters in one command, those of events by their sources.

    Parameters
    ----------
    selects : dict of str to int
        What EVENTS_SELECT is for each vector.
    late : bool
        The engine has budgets, and counts what they refuse.
    """

    def __init__(self, selects: dict[str, int], *, late: bool) -> None:
        self.selects, self.late = selects, late
        self.payload = b"".join(link.read(r) for r in COUNTERS)
        for select in selects.values():
            self.payload += link.write(Register.EVENTS_SELECT, [select])
            self.payload += link.read(Register.EVENTS)
            self.payload += link.read(Register.LATE) if late else b""
        self.reply_bytes = 4 * (len(COUNTERS) + len(selects) * (1 + late))

    def values(self, data: bytes) -> dict[str, Any]:
        """The counters by name, in lower case, and ``events`` and ``late`` by source."""
        values = np.frombuffer(data, "<u4").tolist()
        result: dict[str, Any] = dict(zip(_NAMES, values))
        by_source = values[len(COUNTERS) :]
        result["events"] = dict(zip(self.selects, by_source[:: 1 + self.late]))
        if self.late:
            result["late"] = dict(zip(self.selects, by_source[1::2]))
        return result
