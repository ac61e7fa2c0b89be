"""Figures that page and terminal share: rates over the recent past, times, how it is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from stillnet.sw.contract.link import BITS_PER_BYTE
from stillnet.sw.contract.registers import LIMITS, limit

__all__ = ["CAUSES", "RECENT", "ago", "limited_by", "quantile", "recent", "status"]

CAUSES = ("link", *LIMITS)
"""What may limit the steps per second."""

_STALLS = ("stall_cell", "stall_memory", "stall_events")
RECENT = 5.0
"""Seconds over which a rate of now is taken."""


def recent(blocks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Rates over the latest blocks, :data:`RECENT` seconds or one block.

    Returns
    -------
    dict
        ``steps_per_second``, and per step ``words``, ``cycles``, those of each stall,
        ``saturations``, ``events`` by vector, and bytes on the line each way, ``moved``; empty
        where nothing ran.
    """
    taken: list[dict[str, Any]] = []
    for block in reversed(list(blocks)):
        if taken and (taken[0]["time"] - block["time"] > RECENT):
            break
        taken.append(block)
    steps = sum(b["steps"] for b in taken)
    if not steps:
        return {}
    names = taken[0]["counters"]["events"]
    return {
        "steps_per_second": steps / max(sum(b["seconds"] for b in taken), 1e-9),
        "events": {n: sum(b["counters"]["events"].get(n, 0) for b in taken) / steps for n in names},
        **{
            key: sum(b["counters"][key] for b in taken) / steps
            for key in ("words", "cycles", "saturations", *_STALLS)
        },
        "moved": {
            key: sum(b.get("moved", {}).get(key, 0) for b in taken) / steps
            for key in ("sent", "received")
        },
    }


def limited_by(now: dict[str, Any], facts: dict[str, Any] | None) -> dict[str, Any]:
    """What limits the steps per second, as ``Engine.counters`` and ``stillnet run`` say it.

    Parameters
    ----------
    now : dict
        Of :func:`recent`.
    facts : dict or None
        Of the driver's document.

    Returns
    -------
    dict
        ``by``, one of :data:`CAUSES` or None; ``engine`` and ``link``, the steps per second that
        each would do alone, or None where that is not known.
    """
    if not now or facts is None:
        return {"by": None, "engine": None, "link": None}
    baud, longest = facts.get("baud"), max(now["moved"].values())
    engine = facts["clock_hz"] / now["cycles"] if now["cycles"] else None
    line = baud / (BITS_PER_BYTE * longest) if baud and longest else None
    is_link = line is not None and engine is not None and line < engine
    return {"by": "link" if is_link else limit(now), "engine": engine, "link": line}


def quantile(times: dict[str, Any], share: float) -> float | None:
    """Upper bound in seconds of the times of this share of the steps; None without a step."""
    total, seen = sum(times["counts"]), 0
    if not total:
        return None
    for bound, number in zip([*times["bounds"], times["worst"]], times["counts"]):
        seen += number
        if seen >= share * total:
            return min(bound, times["worst"])
    return times["worst"]


def status(document: dict[str, Any] | None, reachable: bool) -> tuple[str, str]:
    """How it is, and a word of colour: ``good``, ``idle``, ``bad``."""
    if not reachable or document is None:
        return "no driver", "bad"
    if document["fault"] is not None:
        return "connection lost", "bad"
    last = document["last_step"]
    if last is None or document["now"] - last > max(3.0, 3 * (document["period"] or 0)):
        return "no steps", "idle"
    return "running", "good"


def ago(when: float) -> str:
    """A time of the day; with its date where it is not today's."""
    there, now = time.localtime(when), time.localtime()
    form = "%H:%M:%S" if there[:3] == now[:3] else "%d %b %H:%M"
    return time.strftime(form, there)
