"""Columns as words: every format in which an engine's memory holds a matrix (docs/weights.md).

A *round* is one weight for each multiplier. Its words: one where they are int4, or int8 in an
engine without int4; else two, for the lower and the upper half of the multipliers.

The rows of a lane are numbered through in all formats but "dense": the blocks of the matrix's first
gate, then those of the next one, in the order of the cell's accumulators. Lane i holds in row
g * blocks + b unit b * multipliers + i of gate g.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import EngineConfig
from .errors import StillnetError
from .image import BIAS_WORDS, Kind
from .step_columns import cut

__all__ = [
    "BITMAP_ROWS",
    "Layout",
    "bias_words",
    "candidates",
    "choose",
    "encode",
    "index_widths",
    "mask_bits",
    "readable",
]

BITMAP_ROWS = 16
"""Rows of a lane that a bitmap stands for."""


def bias_words(units: int, accumulators: int, config: EngineConfig) -> int:
    """Memory words of a layer's bias run."""
    blocks = -(-units // config.multipliers)
    return BIAS_WORDS * (config.multipliers // config.lanes) * blocks * accumulators


def mask_bits(config: EngineConfig) -> int:
    """Words that a header of format "block" stands for."""
    return min(64, config.word_bits)


def index_widths(config: EngineConfig) -> tuple[int, ...]:
    """Bits of a step that an engine can read: a word of them serves at least one round."""
    return tuple(w for w in (2, 4, 8) if w * config.multipliers <= config.word_bits)


def readable(gates: int, config: EngineConfig) -> EngineConfig:
    """The engine with those formats that it reads for a matrix with this mask of gates.

    Rows of a lane are numbered through, and the hardware leaves out one run of accumulators that
    the matrix does not feed; where there are more between those that it feeds, only "dense" is
    left.
    """
    runs = [run for run in f"{gates:b}".strip("0").split("1") if run]
    return config if len(runs) <= 1 else config.reading(("dense",))


@dataclass(frozen=True)
class Layout:
    """How a matrix lies in memory.

    Attributes
    ----------
    kind : Kind
    bits : int
        Of a weight in memory, 8 or 4.
    gates, blocks : int
    lengths : int array, shape (columns,)
        Words of each column.
    kept : int
        Rounds of a group ("bitmap", "place").
    width : int
        Bits of an index ("place", "step").
    """

    kind: Kind
    bits: int
    gates: int
    blocks: int
    lengths: np.ndarray
    kept: int = 0
    width: int = 0

    @property
    def pitch(self) -> int:
        """Words from one column to the next."""
        return int(self.lengths.max())

    @property
    def words(self) -> int:
        """Words of all columns together."""
        return int(self.lengths.sum())

    @property
    def name(self) -> str:
        """Format and its parameters, for people."""
        text = self.kind.name.lower()
        if self.kind == Kind.BITMAP:
            text += f" {self.kept} of {BITMAP_ROWS}"
        elif self.kind == Kind.PLACE:
            text += f" {self.kept} of {1 << self.width}"
        elif self.kind == Kind.STEP:
            text += f" {self.width}"
        return text


def _lanes(weight: np.ndarray, config: EngineConfig) -> np.ndarray:
    """(gates, units, columns) to (columns, multipliers, rows of a lane)."""
    gates, units, columns = weight.shape
    count = config.multipliers
    blocks = -(-units // count)
    padded = np.zeros((gates, blocks * count, columns), np.int8)
    padded[:, :units] = weight
    rows = padded.reshape(gates, blocks, count, columns).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(rows.reshape(columns, count, gates * blocks))


def _halves(bits: int, config: EngineConfig) -> int:
    """Words of a round."""
    return 2 if config.int4 and bits == 8 else 1


def _round_words(rounds: np.ndarray, bits: int, config: EngineConfig) -> np.ndarray:
    """Weights (..., multipliers) as bytes (..., words of a round, lanes)."""
    if bits == 8:
        return rounds.astype(np.uint8).reshape(*rounds.shape[:-1], -1, config.lanes)
    nibbles = rounds.astype(np.uint8) & 15
    return (nibbles[..., 0::2] | nibbles[..., 1::2] << 4)[..., None, :]


def _fields(values: np.ndarray, width: int, config: EngineConfig) -> np.ndarray:
    """Numbers of ``width`` bits, lowest first, as bytes of whole words, (words, lanes)."""
    bits = (values.reshape(-1, 1) >> np.arange(width)) & 1
    flat = bits.reshape(-1).astype(np.uint8)
    flat = np.pad(flat, (0, -len(flat) % config.word_bits))
    return np.packbits(flat, bitorder="little").reshape(-1, config.lanes)


def _largest(kept: np.ndarray, group: int) -> int:
    """Most weights kept in a group of rows of any lane."""
    columns, lanes, rows = kept.shape
    padded = np.pad(kept, ((0, 0), (0, 0), (0, -rows % group)))
    return int(padded.reshape(columns, lanes, -1, group).sum(axis=3).max(initial=0))


def candidates(
    weight: np.ndarray, bits: int, config: EngineConfig, *, everything: bool = False
) -> Iterator[Layout]:
    """Every layout that an engine can read, "dense" first.

    Those of format "step" that cannot be shorter than the best so far are left out, unless
    ``everything`` is asked for.

    Parameters
    ----------
    weight : int8 array, shape (gates, units, columns)
        Gates in the order of the cell's accumulators.
    bits : int
        Bits of the matrix's weights; an engine without int4 stores 8.
    """
    gates, units, columns = weight.shape
    bits = 4 if bits == 4 and config.int4 else 8
    count, halves = config.multipliers, _halves(bits, config)
    blocks = -(-units // count)
    rows = gates * blocks

    def layout(kind: Kind, lengths: np.ndarray, kept: int = 0, width: int = 0) -> Layout:
        return Layout(kind, bits, gates, blocks, lengths.astype(np.int64), kept, width)

    def every(length: int) -> np.ndarray:
        return np.full(columns, length)

    best = layout(Kind.DENSE, every(rows * halves))
    yield best
    if not config.sparse:
        return
    by_lane = _lanes(weight, config)
    kept = by_lane != 0
    if "block" in config.formats:
        present = kept.reshape(columns, halves, -1, rows).any(axis=2).transpose(0, 2, 1)
        present = present.reshape(columns, -1)
        last = present.shape[1] - np.argmax(present[:, ::-1], axis=1)
        last = np.where(present.any(axis=1), last, 1)
        headers = -(-last // mask_bits(config))
        found = layout(Kind.BLOCK, headers + present.sum(axis=1))
        best = min(best, found, key=lambda x: x.words)
        yield found
    if "bitmap" in config.formats:
        most = max(1, _largest(kept, BITMAP_ROWS))
        group = BITMAP_ROWS * count // config.word_bits + most * halves
        found = layout(Kind.BITMAP, every(-(-rows // BITMAP_ROWS) * group), most)
        best = min(best, found, key=lambda x: x.words)
        yield found
    if "place" in config.formats:
        for width in index_widths(config):
            if width > 4:
                continue
            most = max(1, _largest(kept, 1 << width))
            if most > 15:
                continue
            rounds = -(-rows >> width) * most
            found = layout(Kind.PLACE, every(_framed(rounds, width, halves, config)), most, width)
            best = min(best, found, key=lambda x: x.words)
            yield found
    if "step" in config.formats:
        fewest = -(-kept.sum(axis=(1, 2)) // count)
        for width in index_widths(config):
            shortest = np.maximum(1, _framed(fewest, width, halves, config)).sum()
            if shortest >= best.words and not everything:
                continue
            entries = cut(kept, width).entries
            lengths = np.maximum(1, _framed(entries, width, halves, config))
            found = layout(Kind.STEP, lengths, 0, width)
            best = min(best, found, key=lambda x: x.words)
            yield found


def _framed(rounds: Any, width: int, halves: int, config: EngineConfig) -> Any:
    """Words of rounds with a word of indices in front of each frame of them."""
    frame = config.word_bits // (config.multipliers * width)
    return -(-rounds // frame) + rounds * halves


def choose(
    weight: np.ndarray, bits: int, config: EngineConfig, forced: str | None = None
) -> Layout:
    """The layout of fewest words; of a given format where one is ``forced``.

    Raises
    ------
    StillnetError
        Where the engine cannot read the forced format.
    """
    layouts = candidates(weight, bits, config, everything=forced == "step")
    fitting = [x for x in layouts if forced is None or x.kind == Kind[forced.upper()]]
    if not fitting:
        raise StillnetError(
            f"a matrix asks for format '{forced}', engine '{config.name}' reads "
            f"{', '.join(config.formats)}; generate one with it, for instance with --fit, or leave "
            "the choice to the packer"
        )
    return min(fitting, key=lambda x: x.words)


def encode(weight: np.ndarray, layout: Layout, config: EngineConfig) -> np.ndarray:
    """The words of all columns.

    Parameters
    ----------
    weight : int8 array, shape (gates, units, columns)
        As for :func:`candidates`.
    layout : Layout

    Returns
    -------
    uint8 array, shape (columns, layout.pitch, lanes)
        Zero after the end of a shorter column.
    """
    by_lane = _lanes(weight, config)  # (columns, multipliers, rows)
    columns, count, rows = by_lane.shape
    halves = _halves(layout.bits, config)
    result = np.zeros((columns, layout.pitch, config.lanes), np.uint8)
    if layout.kind == Kind.DENSE:
        # Here the gates of a block stand together, so that a cell can follow the last column.
        order = by_lane.reshape(columns, count, layout.gates, layout.blocks).transpose(0, 3, 2, 1)
        result[:] = _round_words(order, layout.bits, config).reshape(columns, -1, config.lanes)
        return result
    rounds = _round_words(by_lane.transpose(0, 2, 1), layout.bits, config)
    if layout.kind == Kind.BLOCK:
        words = rounds.reshape(columns, rows * halves, config.lanes)
        for c in range(columns):
            packed = _block_column(words[c], config)
            result[c, : len(packed)] = packed
        return result
    if layout.kind == Kind.STEP:
        made = cut(by_lane != 0, layout.width)
        for c in range(columns):
            steps, values = _deal(by_lane[c], made.position, made.begin[c], layout.width)
            packed = _frames(steps, values, layout, config)
            result[c, : len(packed)] = packed
        return result
    group = BITMAP_ROWS if layout.kind == Kind.BITMAP else 1 << layout.width
    groups = -(-rows // group)
    filled = np.pad(by_lane, ((0, 0), (0, 0), (0, groups * group - rows)))
    padded = filled.reshape(columns, count, groups, group)
    # A stable sort brings the kept rows of each group to its front, still ascending.
    order = np.argsort(padded == 0, axis=3, kind="stable")[..., : layout.kept]
    values = np.take_along_axis(padded, order, axis=3).transpose(0, 2, 3, 1)
    places = order.transpose(0, 2, 3, 1)  # (columns, groups, kept, multipliers)
    if layout.kind == Kind.PLACE:
        for c in range(columns):
            steps = places[c].reshape(-1, count)
            result[c] = _frames(steps, values[c].reshape(-1, count), layout, config)
        return result
    chunks = _round_words(values, layout.bits, config).reshape(columns, groups, -1, config.lanes)
    masks = ((padded != 0) << np.arange(group)).sum(axis=3).transpose(0, 2, 1)
    index = _fields(masks, BITMAP_ROWS, config).reshape(columns, groups, -1, config.lanes)
    result[:] = np.concatenate([index, chunks], axis=2).reshape(columns, -1, config.lanes)
    return result


def _block_column(words: np.ndarray, config: EngineConfig) -> np.ndarray:
    """Words of one column in format "block": headers, each in front of what it marks."""
    span = mask_bits(config)
    present = np.asarray(words.any(axis=1))
    used = max(1, len(present) - int(np.argmax(present[::-1]))) if present.any() else 1
    parts = []
    for k in range(0, used, span):
        mask = present[k : k + span]
        parts += [_fields(mask.astype(np.int64), 1, config)[:1], words[k : k + span][mask]]
    return np.concatenate(parts)


def _deal(
    lanes: np.ndarray, position: np.ndarray, begin: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Steps less one, and weights, of one column: int arrays (entries, multipliers)."""
    count, rows = lanes.shape
    reach = 1 << width
    flat = np.concatenate([lanes.reshape(-1), lanes[0]])
    steps: list[list[int]] = []
    values: list[list[int]] = []
    for i in range(count):
        own_steps: list[int] = []
        own_values: list[int] = []
        at = i * rows - 1
        for z in position[begin[i] : begin[i + 1]]:
            gap = int(z) - at
            while gap > reach:
                own_steps.append(reach - 1)
                own_values.append(0)
                gap -= reach
            own_steps.append(gap - 1)
            own_values.append(int(flat[z]))
            at = int(z)
        steps.append(own_steps)
        values.append(own_values)
    length = max(len(s) for s in steps)
    result = np.zeros((2, length, count), np.int64)
    for i in range(count):
        result[0, : len(steps[i]), i] = steps[i]
        result[1, : len(values[i]), i] = values[i]
    return result[0], result[1]


def _frames(
    indices: np.ndarray, values: np.ndarray, layout: Layout, config: EngineConfig
) -> np.ndarray:
    """Rounds with a word of indices in front of as many of them as it serves."""
    frame = config.word_bits // (config.multipliers * layout.width)
    if len(values) == 0:  # nothing is kept; a column has one word at least
        return np.zeros((1, config.lanes), np.uint8)
    parts = []
    for k in range(0, len(values), frame):
        parts.append(_fields(indices[k : k + frame], layout.width, config))
        words = _round_words(values[k : k + frame], layout.bits, config)
        parts.append(words.reshape(-1, config.lanes))
    return np.concatenate(parts)
