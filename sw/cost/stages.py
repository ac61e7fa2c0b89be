"""Stages of the generated hardware, in cycles, as ``schedule_walk`` adds them up.

They are counted in the source of ``hw/`` (docs/architecture.md, *Life of a word*), not fitted to
what the hardware measures; where a stage changes there, it changes here.
"""

from __future__ import annotations

LISTED = 6
"""An input element, until the scheduler sees its event: look-up 2, encoder 3, list."""

GAP = 7
"""The last element of an input vector, until the first of the next may be taken."""

SAMPLE, DECIDE = 1, 3
"""A pass looks at entry p after p + 1 cycles and decides after p + 3."""

EMIT = 9
"""From the begin of a pass to the first column of the matrix in place 0: decision 3, choice 1,
preparation 1, run 1, list 3."""

AFTER_RUN = 5
"""The last column of a run, until the next pass begins: the fetcher empties."""

REQUEST = 5
"""A column issued, until its request is at the port: address 3, queue 2."""

TAKE = 1
"""A word at the port, until the lanes take it."""

DISPATCH = 2
"""The last matrix found finished, until the cell is dispatched."""

NEXT_DISPATCH = 4
"""Between two cells: the tables have to show the next layer."""

READ = 3
"""A dispatched cell, until its first read."""

SUMS = 5
"""The last word of a block, until the reader asks for the sums."""

TO_CELL = 5
"""The last read of a block, until its first unit enters the cell unit, less one."""

RELEASE = 2
"""A block read, until a word of the next step may enter."""

RESCALE, ROW_SCALE = 4, 4

ENCODE = 7
"""A result, until the scheduler sees its event: write-back 1 + 2, encoder 3, list."""

OTHER_CELL = 2
"""The last event of a cell, until a unit of another kind, or of the same layer, may come."""

DECODE = 4
"""What the decoder of pruned columns adds between a word and its sums."""

QUEUES = 4
"""Until the weights that wait in the lanes' queues are added, behind a column of ``step``."""

YIELD_WORDS = 64
"""Words after which a run gives way."""

REQUESTS = 8
"""Reads that may wait in front of the port."""

ADD = 4
"""The last word, until its sum is written."""

QUIET = 2
"""The last event or sum, until a pass may begin that finds the engine idle."""

ACTIVE = 3
"""The first element, until the engine counts its cycles."""
