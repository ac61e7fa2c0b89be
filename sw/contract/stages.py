"""How many cycles a value takes through the engine's blocks, and where their queues end.

What ``hw/`` builds with these numbers and what ``sw/cost`` predicts from them is the same;
``tests/sw/cost/test_stages.py`` reads them from the hardware. The plan of a cell's pipeline is
``contract.cells.schedule``.
"""

from __future__ import annotations

__all__ = [
    "COMMIT_CYCLES",
    "DECODE_CYCLES",
    "ENCODE_CYCLES",
    "LIST_READ_LATENCY",
    "LOOKUP_CYCLES",
    "READ_LATENCY",
    "REQUESTS",
    "RESCALE_LATENCY",
    "ROW_SCALE_LATENCY",
    "YIELD_WORDS",
]

LOOKUP_CYCLES = 2
"""``hw/events/event_encoder.py``: from an element's number to its reference."""

ENCODE_CYCLES = 3
"""``hw/events/event_encoder.py``: from an element and its reference to its event in the list."""

LIST_READ_LATENCY = 2
"""``hw/events/event_encoder.py``: from a row's number to the row of the list."""

YIELD_WORDS = 64
"""``hw/fetch/column_fetcher.py``: words after which a run gives way."""

REQUESTS = 8
"""``hw/fetch/column_fetcher.py``: reads that may wait for the memory port."""

DECODE_CYCLES = 4
"""``hw/lanes/weight_decoder.py``: from a word taken to its weights at the lanes."""

COMMIT_CYCLES = 4
"""``hw/lanes/lanes.py``: from a word taken until a read of its row gets the new sum."""

READ_LATENCY = 2
"""``hw/lanes/lanes.py``: from a granted read to the sums."""

RESCALE_LATENCY = 4
"""``hw/cell/rescale.py``: from an accumulator to a pre-activation."""

ROW_SCALE_LATENCY = 4
"""``hw/cell/rescale.py``: through a row's multiplier, in engines that have them."""
