"""Ways through the engine, in cycles, as ``walk`` and ``port`` add them up.

Each is a sum of stages. Those with a name are the blocks' own (``contract.stages``), the others are
registers that stand between them, counted in the file that is named (docs/architecture.md, *Life of
a word*). None is fitted to what the hardware measures, but for ``QUEUES``.
"""

from __future__ import annotations

from stillnet.sw.contract.budgets import CLASSES
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.stages import (
    COMMIT_CYCLES,
    DECODE_CYCLES,
    ENCODE_CYCLES,
    LIST_READ_LATENCY,
    LOOKUP_CYCLES,
    RESCALE_LATENCY,
    ROW_SCALE_LATENCY,
)

# -- events ---------------------------------------------------------------------------------------

LISTED = LOOKUP_CYCLES + ENCODE_CYCLES + 1
"""``input_encoder.py``: an input element taken, until the scheduler sees its event; the register is
the list's status."""

PRESENT = 2
"""``input_encoder.py``: the first element taken, until the scheduler sees a vector."""

TOKEN = 2
"""``input_encoder.py``: a token taken, until the event of the old one is looked up; that of the new
one follows."""

GAP = LOOKUP_CYCLES + ENCODE_CYCLES + 2
"""``input_encoder.py``: the last element of a vector, until the first of the next may be taken."""

HALF_FREE = 2
"""``input_encoder.py``: the last matrix found finished with a vector, until another may be taken in
its half of the list."""

ENCODE = 1 + LOOKUP_CYCLES + ENCODE_CYCLES + 1
"""``write_back.py``: a result, until the scheduler sees its event; result and status are
registers."""

REPLAY = 4 + 1 + CLASSES + 1 + 4
"""``budget.py``: the last group of a vector with a budget, until the first of its replay is sent:
size and class, room, a cycle for each class, a group without events, memory and choice. A cycle for
each group with events follows."""

# -- scheduler and fetcher ------------------------------------------------------------------------

SAMPLE = 1
"""``scheduler.py``: from the place of an entry in a pass until its vector is looked at."""

DECIDE = 3
"""``scheduler.py``: from the place of an entry in a pass until the decision."""

PASS = DECIDE + 1
"""``scheduler.py``: what a pass takes beyond a cycle for each entry."""

EMIT = DECIDE + 4 + LIST_READ_LATENCY
"""``scheduler.py``, ``column_fetcher.py``: from the place of an entry until the first column of its
run is issued: decision, choice, preparation, run, and the list."""

EMIT_BIAS = EMIT - LIST_READ_LATENCY
"""The same of a bias run, which no list holds."""

AFTER_RUN = 2
"""``column_fetcher.py``: the last column issued, until the next pass begins."""

FIND_BIAS = 3
"""``scheduler.py``, ``bias_finder.py``: a cell dispatched, until a pass that begins knows the place
of its biases."""

DISPATCH = 2
"""``scheduler.py``: the last matrix found finished, until the cell is dispatched."""

NEXT_DISPATCH = 4
"""``scheduler.py``: between two cells; the tables have to show the next layer."""

# -- port and lanes -------------------------------------------------------------------------------

REQUEST = 5
"""``column_fetcher.py``: a column issued, until its request is at the port: address 3, queue 2."""

TAKE = 1
"""``engine.py``: a word at the port, until the lanes take it."""

HOT = 3 + 3 + 1
"""``tiers.py``, ``ram.py``: a request for a column of the hot store, until its first word: a
register, the queue, the block RAM with its registers, and those behind both tiers."""

COLD_QUEUE = 3
"""``tiers.py``: a request for a column of the memory, until it is at the memory's port."""

READ_AHEAD = 3 + 1 + 1
"""``tiers.py``: a word of the memory, through the queue that reads ahead and the registers behind
it and behind both tiers."""

CREDIT = 2
"""``column_fetcher.py``: something counted, until a column may be issued for it."""

LOOKED_UP = 2
"""``column_fetcher.py``: a column issued, until its length is known where lengths differ."""

ADD = COMMIT_CYCLES
"""``lanes.py``: the last word taken, until its sum is written."""

SUMS = COMMIT_CYCLES
"""``accumulator_reader.py``: the last word of a block taken, until the reader asks for the sums."""

DECODE = DECODE_CYCLES
"""``weight_decoder.py``: what pruned columns add to both."""

STALL = 1
"""``sparse_lanes.py``: a cell and its last column are there, until no more words enter; the same
until they enter again."""

QUEUES = 3
"""``sparse_lane.py``: until the weights that wait in the lanes' queues are added, behind a column
of format "step". As measured: it depends on where the weights lie."""

# -- cells ----------------------------------------------------------------------------------------

READ = 3
"""``accumulator_reader.py``: a cell dispatched, until the reader asks for its first sums."""

NEXT_READ = 2
"""``accumulator_reader.py``: the same behind another cell's last sums."""

NEXT_WAITS = 2
"""``engine.py``: a cell that the reader begins, until another may wait for it."""

TO_CELL = 4
"""``accumulator_reader.py``: the last sums of a block have come, which is
``EngineConfig.read_latency`` behind their read, until its first unit may enter the cell unit: the
buffer and three registers."""

IN_TURN = 2
"""``serial_reader.py``: the same, besides a cycle for each accumulator that comes in turn."""


def to_cell(config: EngineConfig) -> int:
    """``TO_CELL``, or what it is where accumulators come in turn."""
    return IN_TURN + config.max_accumulators if config.in_turn else TO_CELL


RELEASE = 3
"""``lanes.py``: the last sums of a block asked for, until a word of the next step may enter."""

RESCALE, ROW_SCALE = RESCALE_LATENCY, ROW_SCALE_LATENCY
"""``rescale.py``."""

OTHER_CELL = 2
"""``cell_unit.py``: the last event of a cell, until a unit may enter that had to wait for it."""


def other_cell(config: EngineConfig) -> int:
    """``OTHER_CELL``, and its accumulators, where they come in turn."""
    return OTHER_CELL + (config.max_accumulators - 1 if config.in_turn else 0)


# -- begin and end --------------------------------------------------------------------------------

QUIET = 2
"""``engine.py``: the last event or sum, until a pass may begin that finds the engine idle."""

ACTIVE = 3
"""``engine.py``: from the first element until the engine counts its cycles."""
