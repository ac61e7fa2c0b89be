"""Numbers and times as people read them."""

from __future__ import annotations

__all__ = ["shown_count", "shown_joules", "shown_time"]


def shown_count(value: float) -> str:
    """A number: whole ones in full, others with three digits."""
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown_time(seconds: float | None) -> str:
    """Seconds in a unit that suits them, with three digits."""
    if seconds is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def shown_joules(joules: float) -> str:
    """Energy in a unit that suits it, with three digits."""
    for unit, scale in (("J", 1.0), ("mJ", 1e3), ("µJ", 1e6)):
        if joules * scale >= 0.9995:
            return f"{joules * scale:.3g} {unit}"
    return f"{joules * 1e9:.3g} nJ"
