"""What an SDRAM's counters count, and the parts that they speak of.

A board's memory controller may count the commands that it gives and the cycles of each state of the
part. The registers ``SDRAM_SELECT`` and ``SDRAM_COUNT`` show them; energy is worked out from them
and the data sheet's currents.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["COUNTED", "COUNT_BITS", "MAGIC", "PART_NAMES", "SdramCounter"]

COUNT_BITS = 40
"""Of a counter: three hours at 100 MHz."""
MAGIC = 0x5D7A
"""High half of ``SdramCounter.KIND``."""

PART_NAMES = (
    "IS42S16160",
    "MT48LC16M16",
    "AS4C32M16",
    "W9825G6KH",
    "EM638325",
    "M12L64322A",
    "M12L16161A-x2",
)
"""Parts by the number in ``SdramCounter.KIND``; new ones are added at the end."""


class SdramCounter(IntEnum):
    """Number of each counter in ``SDRAM_SELECT``. Each cycle is exactly one of ``OPEN``, ``CLOSED``
    and ``POWER_DOWN``."""

    ACTIVATES = 0
    """Rows opened. Each is closed again later."""
    READS = 1
    """READ commands, of up to eight columns."""
    WRITES = 2
    """WRITE commands, of one column."""
    REFRESHES = 3
    READ_CYCLES = 4
    """Cycles in which the part drives the bus, also with columns that nobody wants."""
    OPEN = 5
    """Cycles with a row open and clock enable high."""
    CLOSED = 6
    """Cycles with all rows closed and clock enable high."""
    POWER_DOWN = 7
    """Cycles with clock enable low, all rows closed."""
    WAKES = 8
    """Ends of power-down, for a request or a refresh."""
    WAKE_CYCLES = 9
    """Cycles in which a request waited for the begin or the end of power-down."""
    CLOCK = 14
    """No counter: the SDRAM's clock in kHz."""
    KIND = 15
    """No counter: ``MAGIC`` in bits 31:16, the number of the part (``PART_NAMES``) in bits 7:0. The
    rest is 0. A board without these counters shows something else."""


COUNTED = tuple(c for c in SdramCounter if c < SdramCounter.CLOCK)
"""Those that count."""
