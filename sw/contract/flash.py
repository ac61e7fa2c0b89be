"""Two images in a flash, and which of them a board boots.

Each slot has a *mark* in an erase block of its own: a magic, a generation, and the generation with
all bits turned over. The board tries the slot with the highest valid generation first, then the
other one; without a mark slot 0, then slot 1. It runs the first image whose sum is right.

A new image is written to the slot that does not run, read back, and only then gets its mark. So a
power cut leaves the other slot, with its mark, as it was. Erasing sets bits, programming clears
them, and a cut leaves anything between. Of a generation and its complement exactly one of two bits
is cleared, so a mark of which a part is programmed or erased is never valid.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BLOCK_BYTES",
    "MARK_BYTES",
    "MARK_MAGIC",
    "REACHABLE_BYTES",
    "FlashLayout",
    "boot_order",
    "generation_of",
    "mark",
]

BLOCK_BYTES = 1 << 16
"""What the tools erase at once."""
REACHABLE_BYTES = 1 << 24
"""Of a flash, with 24 address bits."""
MARK_MAGIC = int.from_bytes(b"SLOT", "little")
_MARK = struct.Struct("<III")
MARK_BYTES = _MARK.size
_ONES = (1 << 32) - 1


@dataclass(frozen=True)
class FlashLayout:
    """Where slots and marks are, in bytes.

    Attributes
    ----------
    slots, marks : tuple of int
        First byte of each of the two.
    room : int
        Bytes of slot 0 where it is alone: it may reach into slot 1.
    half : int
        Bytes of either slot where there are two.
    """

    slots: tuple[int, int]
    marks: tuple[int, int]
    room: int
    half: int

    @classmethod
    def of(cls, offset: int, flash_bytes: int, block: int = BLOCK_BYTES) -> FlashLayout:
        """Slots from ``offset`` on, marks at the end of what is reachable.

        Raises
        ------
        ValueError
            If there is no room.
        """
        end = min(flash_bytes, REACHABLE_BYTES) // block * block
        marks = (end - 2 * block, end - block)
        room = marks[0] - offset
        half = room // 2 // block * block
        if half < block:
            raise ValueError(f"no room for two slots from {offset} on in {flash_bytes} bytes")
        return cls((offset, offset + half), marks, room, half)

    def slot_bytes(self, slot: int) -> int:
        """Bytes that the board reads of a slot at most."""
        return self.room if slot == 0 else self.marks[0] - self.slots[1]


def mark(generation: int) -> bytes:
    """A mark of a generation."""
    return _MARK.pack(MARK_MAGIC, generation, generation ^ _ONES)


def generation_of(data: bytes) -> int | None:
    """The generation of a mark; None where it is none."""
    if len(data) < MARK_BYTES:
        return None
    magic, generation, turned = _MARK.unpack_from(data)
    valid = magic == MARK_MAGIC and generation ^ turned == _ONES
    return int(generation) if valid else None


def boot_order(marks: Sequence[bytes]) -> tuple[int, int]:
    """The slots in the order in which a board tries them."""
    first, second = (-1 if (g := generation_of(m)) is None else g for m in marks)
    return (1, 0) if second > first else (0, 1)
