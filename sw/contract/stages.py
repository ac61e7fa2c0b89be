"""How many cycles a value takes through the engine's blocks, and where their queues end.

``hw/`` builds its pipelines with these numbers and ``sw/cost`` predicts cycles from them. The plan
of a cell's pipeline is ``contract.cells.schedule``.
"""

from __future__ import annotations

from math import ceil

__all__ = [
    "BANK_WORDS",
    "BUDGET_CYCLES",
    "CHOICE",
    "COMMIT_CYCLES",
    "COPY_READ_LATENCY",
    "DECODE_CYCLES",
    "ENCODE_CYCLES",
    "LIST_READ_LATENCY",
    "LOOKUP_CYCLES",
    "READ_LATENCY",
    "REQUESTS",
    "RESCALE_LATENCY",
    "ROW_SCALE_LATENCY",
    "SLICES",
    "SLICE_BITS",
    "SPARSE_READ_LATENCY",
    "YIELD_WORDS",
    "store_slices",
    "store_stages",
]

LOOKUP_CYCLES = 2
"""``hw/events/event_encoder.py``: cycles by which the row must be known before its values."""

ENCODE_CYCLES = 3
"""``hw/events/event_encoder.py``: from the values of a group to its events in the list."""

BUDGET_CYCLES = 1
"""``hw/events/budget.py``: what an encoder with budgets adds to that, for vectors without one."""

LIST_READ_LATENCY = 2
"""``hw/events/event_encoder.py``: from the address of a row of an event list to the row."""

YIELD_WORDS = 64
"""``hw/fetch/column_fetcher.py``: words after which a run gives way to a more urgent matrix."""

REQUESTS = 8
"""``hw/fetch/column_fetcher.py``: reads that may wait for the memory port."""

BANK_WORDS = 1 << 12
"""``hw/memory/hot_banks.py``: words of a bank of the hot store. A block RAM of an ECP5 holds four
bits of so many."""

SLICES, SLICE_BITS = 4, 16
"""``hw/memory/hot_banks.py``: its words are cut into so many slices, which work one cycle after the
other, but not into slices of fewer bits."""

CHOICE = 4
"""``hw/memory/hot_banks.py``: banks among which one cycle chooses."""


def store_slices(word_bits: int) -> int:
    """Slices of the words of a hot store in banks."""
    return min(SLICES, max(1, word_bits // SLICE_BITS))


def store_stages(banks: int) -> int:
    """Cycles from an address to a word, in a slice: address, memory, register, choices."""
    stages = 3
    while banks > 1:
        stages, banks = stages + 1, ceil(banks / CHOICE)
    return stages


DECODE_CYCLES = 5
"""``hw/lanes/sparse_lanes.py``: from a word taken until it is known whether its weights wait."""

COMMIT_CYCLES = 4
"""``hw/lanes/lanes.py``: from a word taken until a read of its row gets the new sum."""

READ_LATENCY, COPY_READ_LATENCY, SPARSE_READ_LATENCY = 2, 3, 5
"""``hw/lanes/lanes.py``, ``sparse_lanes.py``: from a granted read of an accumulator word to its
data, in engines with dense columns only, with pruned ones whose sums have a copy, and with those
whose sums are kept once (``EngineConfig.read_latency``)."""

RESCALE_LATENCY = 4
"""``hw/cell/rescale.py``: from an accumulator to a pre-activation."""

ROW_SCALE_LATENCY = 4
"""``hw/cell/rescale.py``: through a row's multiplier, in engines that have them."""
