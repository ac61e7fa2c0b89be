"""The register map: 32-bit registers as the host sees them, at word indices.

All counters are cleared together by ``CONTROL.clear_counters`` and wrap around at 2**32.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any

__all__ = [
    "ADDRESS_BITS",
    "CHECK_ERROR_AT",
    "CHECK_WORDS",
    "COUNTERS",
    "LIMITS",
    "SDRAM_COUNTERS",
    "SDRAM_COUNT_BITS",
    "SDRAM_HIGH",
    "SDRAM_HOLD",
    "SDRAM_MAGIC",
    "SDRAM_PARTS",
    "WATCHDOG_BITS",
    "WATCHDOG_SHIFT",
    "Control",
    "Error",
    "Region",
    "Register",
    "SdramCounter",
    "Status",
    "limit",
]

ADDRESS_BITS = 6


class Register(IntEnum):
    """Word index of each register."""

    ID = 0
    """Reads ``image.MAGIC``."""
    VERSION = 1
    """Reads ``image.VERSION``."""
    FINGERPRINT = 2
    """Fingerprint of the engine's configuration and cells."""
    STATUS = 3
    """See :class:`Status`."""
    CONTROL = 4
    """Write :class:`Control` bits; each starts one action."""
    IMAGE_BASE = 5
    """Word address of the image in memory."""
    THRESHOLD_SELECT = 6
    """Which threshold ``THRESHOLD`` writes: 0 input, 1 + l layer l; plus 32 for the second one."""
    THRESHOLD = 7
    """Writes the selected threshold; it applies from the next encoding."""
    STATE_SELECT = 8
    """Region (bits 31:28, see :class:`Region`) and index of the next ``STATE_DATA`` access."""
    STATE_DATA = 9
    """Reads or writes one element of state; the index then advances by one."""
    MEMORY_ADDRESS = 10
    """Word address of the next memory write."""
    MEMORY_DATA = 11
    """Writes 32 bits of a memory word, low part first; a complete word is written to memory and
    the address advances. Words of 16 bits take the low half of each write."""
    CYCLES = 16
    """Cycles in which a step was in progress."""
    WORDS = 17
    """Words that entered the lanes."""
    STALL_CELL = 18
    """Cycles in which a word waited for the cell to read the accumulator it would change."""
    STALL_MEMORY = 19
    """Cycles in which a column was in flight and no word had arrived."""
    STALL_EVENTS = 20
    """Cycles with no column in flight: nothing to fetch was known."""
    SATURATIONS = 21
    """Elements whose vector value was clipped to 16 bits."""
    STEPS = 22
    """Vectors that left the engine."""
    LATENCY = 23
    """Cycles from the first input word to the last output word of the latest step that met an
    idle engine."""
    EVENTS_SELECT = 24
    """Source whose events ``EVENTS`` counts: 0 input, 1 + l layer l; plus 32 for the second
    encoder."""
    EVENTS = 25
    """Events of the selected source."""
    WORDS_HOT = 26
    """Words that came from the hot store."""
    LATE = 27
    """Events of the source in ``EVENTS_SELECT`` that its budget refused; only in engines with
    budgets."""
    BUDGET = 28
    """Writes the budget of the vector in ``THRESHOLD_SELECT``, in events per step, 0 for none; it
    applies from the next vector. Only in engines with budgets."""
    BESIDE = 29
    """Writes the word address of a second image, which ``Control.CHECK`` sums up from its
    beginning. Reads that of the image that ``Status.BESIDE`` speaks of. Only behind a host link
    with slots."""
    WATCHDOG = 30
    """Writes the longest pause between two output vectors, in units of 2**16 cycles, after which
    the board goes back to the image at ``BESIDE``; 0 for none, which also ends
    ``Status.FELL_BACK``. The time begins with the write. Only behind a host link with slots."""
    SDRAM_SELECT = 32
    """Bits 3:0: what ``SDRAM_COUNT`` shows, a :class:`SdramCounter`. Bit 4: its bits above 31. Bit
    8: all of these counters stand still, which they must while one is read. Only on boards that
    count what their SDRAM does."""
    SDRAM_COUNT = 33
    """The value that ``SDRAM_SELECT`` asks for. Only on those boards."""


COUNTERS = (
    Register.CYCLES,
    Register.WORDS,
    Register.STALL_CELL,
    Register.STALL_MEMORY,
    Register.STALL_EVENTS,
    Register.SATURATIONS,
    Register.STEPS,
    Register.LATENCY,
    Register.WORDS_HOT,
)
"""The counters, without those of events, which are selected by their source."""

LIMITS = {
    "lanes": Register.WORDS,
    "cells": Register.STALL_CELL,
    "memory": Register.STALL_MEMORY,
    "events": Register.STALL_EVENTS,
}
"""What may take most of an engine's cycles, and the counter of those."""


def limit(counters: Mapping[str, Any]) -> str | None:
    """What took most of an engine's cycles: ``"lanes"``, which take a word in each cycle, or what
    they waited for, ``"memory"``, ``"cells"`` or ``"events"``. None where nothing was counted.

    Parameters
    ----------
    counters : mapping
        Of counters by their names in lower case; each cycle is in one of these four.
    """
    cycles = {name: counters[register.name.lower()] for name, register in LIMITS.items()}
    return max(cycles, key=cycles.__getitem__) if any(cycles.values()) else None


class Control(IntFlag):
    """Bits of ``CONTROL``."""

    LOAD = 1
    """Read the header of the image at ``IMAGE_BASE``, then clear."""
    CLEAR = 2
    """Set all state to zero and all accumulators to their biases."""
    CLEAR_COUNTERS = 4
    RESTORE = 8
    """The next step takes every layer's vector from the input stream, after the input vector,
    instead of from its cell."""
    RESTORE_EXACT = 16
    """With ``RESTORE``: thresholds count as zero, so that references become the given vectors."""
    RESTORE_FIRST = 32
    """With ``RESTORE``: only the first encoder of each hidden vector runs."""
    RESTORE_SECOND = 64
    """With ``RESTORE``: only the second encoder of hidden vectors runs, and not the input's."""
    VERIFY = 128
    """With ``LOAD``: accept the image only if its words have the CRC-32 that the header says. Takes
    one cycle per byte."""
    CHECK = 256
    """Sum up the next part of the image at ``BESIDE``, between two steps; what runs stays as it is.
    The first one after a write of ``BESIDE`` begins. Only behind a host link with slots."""


class Status(IntFlag):
    """Bits of ``STATUS``; an :class:`Error` code stands in bits 15:8, that of a check in 23:16."""

    LOADED = 1
    """An image was accepted; vectors are taken from the input stream."""
    IDLE = 2
    """Nothing is in progress: every event has reached its accumulators."""
    MEMORY_ERROR = 4
    """The memory answered with an error since reset; loads are refused until the next one."""
    CHECKING = 8
    """A part of an image is being summed up (``Control.CHECK``)."""
    BESIDE = 1 << 24
    """A second image is whole, at ``Register.BESIDE``: its sum was right, and no word of it has
    been written since. A load of it needs no ``VERIFY``."""
    FELL_BACK = 1 << 25
    """The watchdog has gone back to the image before. Vectors are refused until ``WATCHDOG`` is
    written or an image is loaded."""


CHECK_WORDS = 1 << 12
"""Words of an image that ``Control.CHECK`` sums up at a time."""
CHECK_ERROR_AT = 16
"""First bit of the error of a check in ``STATUS``."""
WATCHDOG_SHIFT = 16
"""log2 of the cycles of a unit of ``WATCHDOG``."""
WATCHDOG_BITS = 16


class Error(IntEnum):
    """Why an image was refused."""

    NONE = 0
    MAGIC = 1
    VERSION = 2
    FINGERPRINT = 3
    CAPACITY = 4
    MEMORY = 5
    CRC = 6


class Region(IntEnum):
    """State regions behind ``STATE_SELECT``, read and written one 32-bit element at a time."""

    STATE = 0
    """State variables, 0 + number of the variable in ``EngineConfig.state_names`` (0 to 7). Index:
    ``unit_base * cell_width + unit``."""
    REFERENCE = 8
    """Reference of hidden vectors, first encoder. Index as for state."""
    REFERENCE_SECOND = 9
    """Reference of hidden vectors, second encoder."""
    INPUT = 10
    """Reference of the input vector; for one-hot modes element 0 is the last token plus one."""
    ACCUMULATOR = 11
    """Accumulators, read only. Index: ``image.accumulator_place(...) * lanes + lane``."""
    BUDGET_WINDOW = 12
    """First element of the window of each budget (``contract.budgets``): index 0 that of the input,
    1 + l of layer l. Only in engines with budgets."""


SDRAM_HIGH, SDRAM_HOLD = 1 << 4, 1 << 8
"""Bits of ``SDRAM_SELECT`` beside the counter."""
SDRAM_COUNT_BITS = 40
"""Of a counter of the SDRAM: three hours at 100 MHz."""
SDRAM_MAGIC = 0x5D7A
"""High half of ``SdramCounter.KIND``."""
SDRAM_PARTS = (
    "IS42S16160",
    "MT48LC16M16",
    "AS4C32M16",
    "W9825G6KH",
    "EM638325",
    "M12L64322A",
    "M12L16161A-x2",
    "16M16-any",
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
    """No counter: ``SDRAM_MAGIC`` in bits 31:16, the number of the part (``SDRAM_PARTS``) in bits
    7:0. The rest is 0. A board without these counters shows something else."""


SDRAM_COUNTERS = tuple(c for c in SdramCounter if c < SdramCounter.CLOCK)
"""Those that count."""
