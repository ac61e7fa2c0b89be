"""Layout of the memory image: what the packer writes and the sequencer reads.

An image is what lies in the engine's memory, byte for byte, little-endian::

    header     HEADER records, then LAYER records of each layer, then MATRIX records of each matrix
    biases     one run of words per layer, or two where its cell has parameters
    weights    one run of words per matrix
    hot words  what the engine keeps in its own block RAM, copied there as the image is loaded
    notes      JSON for people and tools (names, formats) and its CRC-32; the hardware never
               reads it

A *record* is 32 bits in a slot of 64 bytes, so that its place depends on no word size. A *word* has
``lanes`` bytes; byte i belongs to lane i, which owns the rows congruent to i.

Rows are ordered unit-major: block b holds units ``b*lanes`` to ``b*lanes + lanes - 1``, all gates
of a block together. A dense column is ``blocks * gates`` words: for each block, one word per gate,
in the order of the cell's accumulators. A bias run has four words for each block and accumulator:
the four bytes of 32-bit values, low byte first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from stillnet.sw.contract.cells.cell import Cell

from .errors import StillnetError

__all__ = [
    "BIAS_WORDS",
    "CRC_RECORD",
    "ENTRY",
    "FORMATS",
    "HOT_COLUMN",
    "HEADER",
    "LAYER",
    "MAGIC",
    "MATRIX",
    "MATRIX_LONG",
    "MOST_HOT_WORDS",
    "SLOT_BYTES",
    "UNEQUAL_FORMATS",
    "VERSION",
    "BiasRun",
    "Kind",
    "Record",
    "Table",
    "accumulator_place",
    "bias_runs",
    "MOST_ROWS",
    "block_rows",
    "find_field",
    "matrix_records",
]

MAGIC = int.from_bytes(b"STIL", "little")
VERSION = 3
SLOT_BYTES = 64
MOST_ROWS = 8
"""Most accumulator words that a block of units takes (:func:`block_rows`)."""
BIAS_WORDS = 4
"""Memory words that a word of accumulators takes in a bias run."""

FORMATS = ("dense", "block", "bitmap", "place", "step")
"""Formats of columns (docs/weights.md): every word; only words in which something is kept; of every
16 rows of a lane the same number, marked by a bitmap; of every 4 or 16 rows the same number, each
with its place; any rows, each a step from the one before."""

UNEQUAL_FORMATS = ("block", "step")
"""Formats whose columns differ in length; the engine keeps a table of the lengths."""


class Kind(IntEnum):
    """What a matrix's words are."""

    DENSE = 0
    BIAS = 1
    BLOCK = 2
    BITMAP = 3
    PLACE = 4
    STEP = 5


@dataclass(frozen=True)
class Record:
    """Named bit fields of one 32-bit record, lowest first."""

    fields: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        assert sum(width for _, width in self.fields) <= 32

    @property
    def width(self) -> int:
        """Bits that the fields take."""
        return sum(width for _, width in self.fields)

    def slice(self, name: str) -> slice:
        """Bits of a field: ``record_bits[layout.slice("units")]`` in hardware."""
        position = 0
        for field, width in self.fields:
            if field == name:
                return slice(position, position + width)
            position += width
        raise KeyError(f"record has no field '{name}'; it has {dict(self.fields)}")

    def pack(self, values: dict[str, int]) -> int:
        """The record's 32 bits; a value that does not fit its field is refused by name."""
        word = 0
        for name, width in self.fields:
            value = int(values[name])
            if not 0 <= value < 1 << width:
                raise StillnetError(
                    f"image field '{name}' holds 0 to {(1 << width) - 1}, not {value}; use smaller "
                    "layers"
                )
            word |= value << self.slice(name).start
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Values of the fields by name."""
        return {
            name: word >> self.slice(name).start & (1 << width) - 1 for name, width in self.fields
        }


def find_field(records: Sequence[Record], name: str) -> tuple[int, slice]:
    """Where a field lies in a group of records: number of its record, and bits in that record."""
    for k, record in enumerate(records):
        if any(field == name for field, _ in record.fields):
            return k, record.slice(name)
    raise KeyError(f"no record has a field '{name}'")


HEADER: tuple[Record, ...] = (
    Record((("magic", 32),)),
    Record((("version", 16), ("layers", 8), ("matrices", 8))),
    Record((("fingerprint", 32),)),
    Record((("words", 32),)),  # of the part that the hardware reads, header included
    Record((("crc", 32),)),  # CRC-32 of those words, this record taken as zero
    Record((("inputs", 16), ("input_mode", 2), ("input_one", 4), ("outputs", 10))),
    Record((("input_threshold", 17), ("table_slots", 15))),
    Record((("notes_bytes", 32),)),
    Record((("hot_at", 32),)),  # word where those for the hot store begin, up to the last one
)
"""``inputs``: elements of the input vector (1 for one-hot). ``input_one``: log2 of a token's event
value. ``outputs`` repeats the output layer's units modulo 1024, for tools."""

CRC_RECORD = find_field(HEADER, "crc")[0]
"""Place of the checksum in the header."""

LAYER: tuple[Record, ...] = (
    Record((("cell", 4), ("mode", 2), ("reload", 1), ("output", 1))),
    Record((("units", 16), ("blocks", 16))),
    Record((("accumulator_base", 16), ("unit_base", 16))),
    Record((("shift", 5), ("write_shift", 4), ("matrices", 8))),
    Record((("threshold", 17),)),
    Record((("threshold_recurrent", 17),)),
    Record((("peer0", 16), ("peer1", 16))),
    Record((("spare1", 32),)),
)
"""``cell``: place in the engine's list. ``unit_base``: first row of ``cell_width`` units in the
state memories and event lists. ``matrices``: how many must be done before the cell may run, the
bias run not counted. ``peer0``, ``peer1``: ``unit_base`` of the layers whose state the cell reads,
in the order of ``Cell.peers``."""

MATRIX: tuple[Record, ...] = (
    Record(
        (
            ("source", 5),
            ("target", 5),
            ("kind", 3),
            ("recurrent", 1),
            ("gates", 8),
            ("int4", 1),
            ("kept", 5),
            ("width", 2),
            ("hot", 1),
            ("mixed", 1),
        )
    ),
    Record((("base", 32),)),
    Record((("column_words", 16), ("list_base", 16))),
    Record((("accumulator_base", 16), ("stride", 4), ("blocks", 12))),
)
"""``source``: 0 the input, 1 + l layer l. ``recurrent``: the events of a step feed the next one.
``gates``: mask over the accumulators of a block. ``stride``: accumulators and parameters per block.
A bias run that is ``recurrent`` holds parameters: it is loaded once, not in each step. ``hot``:
``base`` is a word of the hot store. ``mixed``: some columns are there, which ``Table.HOT`` tells.
Zero for "dense" are ``int4``: weights of four bits; ``kept``: rounds of a group; ``width``:
log2 of the bits of an index; ``blocks``: those of the layer.

Bias runs come first (:func:`bias_runs`), then matrices (``contract.sources.matrix_order``)."""

MATRIX_LONG: tuple[Record, ...] = (
    Record((("columns", 16), ("lane_rows", 16))),
    Record((("hole_at", 16), ("hole", 16))),
    Record((("spare6", 32),)),
    Record((("spare7", 32),)),
)
"""Behind ``MATRIX`` where the engine reads more than dense columns, or has a hot store.
``columns``: first place of the matrix in the tables of columns. ``lane_rows``: rows of a lane that
the matrix feeds; from ``hole_at`` on they lie ``hole`` accumulators further. ``accumulator_base``
is then that of the first gate fed."""


ENTRY = Record((("value", 17), ("spare", 11), ("table", 3), ("first", 1)))
"""Entry of a table. The tables stand one after the other after the descriptors, sixteen entries a
slot, ``table_slots`` of them; ``first`` marks the first entry of each."""


class Table(IntEnum):
    """What a table is; the numbers are those of its entries."""

    NONE = 0
    LENGTHS = 1
    INPUT_THRESHOLDS = 2
    THRESHOLDS = 3
    HOT = 4
    BUDGETS = 5
    """Of the input, then of each layer that the engine has room for; 0 for none."""


HOT_COLUMN = Record((("word", 16), ("hot", 1)))
"""Value of an entry of ``Table.HOT``: whether the column is in the hot store, and from which word
of it on."""

MOST_HOT_WORDS = 1 << 16
"""Of a hot store: what an entry of ``Table.HOT`` reaches."""


def block_rows(cell: Cell, row_scale: bool = False) -> int:
    """Accumulator words that a block of units takes: the stride of a layer of this cell.

    One for each accumulator, then one for each parameter, then, in an engine with multipliers of
    rows, one for those of two accumulators, the first in the low half; at least one, so that every
    layer has a bias run and is read.
    """
    return max(1, cell.rows + (-(-len(cell.accumulators) // 2) if row_scale else 0))


class BiasRun(NamedTuple):
    """A run that fills some rows of every block of a layer.

    Attributes
    ----------
    first, rows : int
        The rows that it fills, counted within a block.
    once : bool
        Loaded once, not in each step: the run holds parameters.
    """

    first: int
    rows: int
    once: bool


def bias_runs(cell: Cell, row_scale: bool = False) -> list[BiasRun]:
    """The bias runs of a layer of this cell, in the order of the image.

    Parameters and multipliers of rows have a run of their own, so that a layer that starts each
    step from its biases loads them only once. It comes first, because a cell may run as soon as the
    biases are there.
    """
    count, rows = len(cell.accumulators), block_rows(cell, row_scale)
    if 0 < count < rows:
        return [BiasRun(count, rows - count, True), BiasRun(0, count, False)]
    return [BiasRun(0, rows, False)]


def matrix_records(long: bool) -> tuple[Record, ...]:
    """Records of a matrix, in an engine with ``EngineConfig.long_records`` or not."""
    return MATRIX + MATRIX_LONG if long else MATRIX


def accumulator_place(base: int, stride: int, block: int, gate: int, blocks: int = 0) -> int:
    """Where an accumulator word lies: twice its row plus its half bank.

    The row is (base + block*stride + gate) // 2. The half bank is its parity, turned over in odd
    blocks where the stride is even, so that a column alternates between the banks.

    In an engine that reads more than dense columns, ``blocks`` is their number in the layer: there
    the gates lie one after the other, at base + gate*blocks + block.
    """
    if blocks:
        return base + gate * blocks + block
    address = base + block * stride + gate
    return address ^ (block & 1 & ~stride)
