"""A second reader of columns, written from the prose of docs/weights.md: bits of words to weights.

It shares nothing with the packer: a column is one long number, and every field is cut out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Column", "read_column"]


@dataclass(frozen=True)
class Column:
    """What the descriptor of a matrix says of its columns."""

    kind: int
    bits: int
    gates: int
    blocks: int
    kept: int
    width: int
    lanes: int
    int4: bool


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def read_column(c: Column, data: bytes) -> np.ndarray:
    """Weights of one column, shape (gates, blocks * multipliers), from exactly its words."""
    count = 2 * c.lanes if c.int4 else c.lanes
    word_bits = 8 * c.lanes
    assert len(data) % c.lanes == 0
    words = [int.from_bytes(data[k : k + c.lanes], "little") for k in range(0, len(data), c.lanes)]
    rows = c.gates * c.blocks
    found = np.zeros((count, rows), np.int64)
    at = 0

    def word() -> int:
        nonlocal at
        at += 1
        return words[at - 1]

    def round_() -> list[int]:
        value, shift = 0, 0
        for _ in range(count * c.bits // word_bits):
            value |= word() << shift
            shift += word_bits
        return [_signed(value >> (c.bits * i) & ((1 << c.bits) - 1), c.bits) for i in range(count)]

    def put(lane: int, row: int, weight: int) -> None:
        if weight:
            assert found[lane, row] == 0, "two weights for one row"
            found[lane, row] = weight

    if c.kind == 0:
        for block in range(c.blocks):
            for gate in range(c.gates):
                found[:, gate * c.blocks + block] = round_()
    elif c.kind == 2:
        halves = count * c.bits // word_bits
        per_word = count // halves
        span = min(64, word_bits)
        start = 0
        while at < len(words):
            mask = word()
            for k in range(span):
                if mask >> k & 1:
                    row, half = divmod(start + k, halves)
                    value = word()
                    for i in range(per_word):
                        weight = _signed(value >> (c.bits * i) & ((1 << c.bits) - 1), c.bits)
                        put(half * per_word + i, row, weight)
            start += span
    elif c.kind == 3:
        for start in range(0, rows, 16):
            value = 0
            for k in range(16 * count // word_bits):
                value |= word() << (word_bits * k)
            masks = [value >> (16 * i) & 0xFFFF for i in range(count)]
            for _ in range(c.kept):
                for i, weight in enumerate(round_()):
                    if masks[i]:
                        low = masks[i] & -masks[i]
                        masks[i] ^= low
                        put(i, start + low.bit_length() - 1, weight)
                    else:
                        assert weight == 0
            assert not any(masks)
    else:
        frame = word_bits // (count * c.width)
        pointer = [-1] * count
        seen = 0
        while at < len(words):
            index = word()
            for r in range(frame):
                if at == len(words):
                    break
                for i, weight in enumerate(round_()):
                    field = index >> ((r * count + i) * c.width) & ((1 << c.width) - 1)
                    if c.kind == 4:
                        put(i, (seen // c.kept << c.width) + field if weight else 0, weight)
                        continue
                    pointer[i] += field + 1
                    if weight:
                        lane, row = pointer[i] // rows, pointer[i] % rows
                        assert lane < 2
                        put((i + lane) % count, row, weight)
                seen += 1
    assert at == len(words)
    return found.T.reshape(c.gates, c.blocks, count).reshape(c.gates, -1)
