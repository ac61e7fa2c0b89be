"""A new image in the flash beside the one that boots, so that a power cut leaves a whole one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

from stillnet.sw.contract import image
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.flash import MARK_BYTES, FlashLayout, boot_order, generation_of, mark

__all__ = ["FlashPort", "go_back", "runs", "update", "whole_image"]

_HEADER_BYTES = len(image.HEADER) * image.SLOT_BYTES


class FlashPort(Protocol):
    """A flash, for those who write it."""

    def read(self, at: int, count: int) -> bytes:
        """Bytes from an address on."""

    def write(self, at: int, data: bytes) -> None:
        """Erases the blocks that the data reach, and programs them."""


def whole_image(read: Callable[[int, int], bytes], at: int, room: int, word_bytes: int) -> bool:
    """Whether an image lies there whose sum is right, as an engine would find.

    Parameters
    ----------
    read : function of an address and a number of bytes
    at, room : int
        Where it begins; bytes that it may have.
    word_bytes : int
        Of the engine.
    """
    header = read(at, _HEADER_BYTES)

    def record(name: str) -> int:
        place = image.find_field(image.HEADER, name)[0] * image.SLOT_BYTES
        return int.from_bytes(header[place : place + 4], "little")

    size = record("words") * word_bytes
    if record("magic") != image.MAGIC or not _HEADER_BYTES < size <= room:
        return False
    data = bytearray(read(at, size))
    crc_at = image.CRC_RECORD * image.SLOT_BYTES
    data[crc_at : crc_at + 4] = bytes(4)
    return zlib.crc32(data) == record("crc")


def runs(port: FlashPort, layout: FlashLayout, word_bytes: int) -> int | None:
    """The slot that the board boots; None where neither holds a whole image."""
    marks = [port.read(at, MARK_BYTES) for at in layout.marks]
    for slot in boot_order(marks):
        if whole_image(port.read, layout.slots[slot], layout.slot_bytes(slot), word_bytes):
            return slot
    return None


def update(port: FlashPort, layout: FlashLayout, data: bytes, word_bytes: int) -> dict[str, Any]:
    """Writes an image to the slot that does not boot, reads it back, and marks it.

    An image of more than half of the room has no slot beside it: it is written over both.

    Returns
    -------
    dict
        slot; generation; way_back: the other slot still has its image.

    Raises
    ------
    StillnetError
        If it is too large, or the flash does not hold what was written.
    """
    if len(data) > layout.room:
        raise StillnetError(
            f"the image has {len(data)} bytes, the flash has room for {layout.room} behind the "
            "bitstream; load it over the link instead"
        )
    old = runs(port, layout, word_bytes)
    alone = len(data) > layout.half
    slot = 0 if alone or old != 0 else 1
    _write(port, layout.slots[slot], data)
    generation = _mark(port, layout, slot)
    return {"slot": slot, "generation": generation, "way_back": old is not None and not alone}


def go_back(port: FlashPort, layout: FlashLayout, word_bytes: int) -> dict[str, Any]:
    """Marks the other slot, if its image is whole.

    Raises
    ------
    StillnetError
        If it is not.
    """
    old = runs(port, layout, word_bytes)
    slot = 1 if old == 0 else 0
    room = layout.slot_bytes(slot)
    if old is None or not whole_image(port.read, layout.slots[slot], room, word_bytes):
        raise StillnetError("the flash holds no second image to go back to; write one with --image")
    return {"slot": slot, "generation": _mark(port, layout, slot), "way_back": True}


def _mark(port: FlashPort, layout: FlashLayout, slot: int) -> int:
    """Makes a slot the first one that is tried."""
    found = [generation_of(port.read(at, MARK_BYTES)) for at in layout.marks]
    generation = 1 + max((g for g in found if g is not None), default=0)
    _write(port, layout.marks[slot], mark(generation))
    return generation


def _write(port: FlashPort, at: int, data: bytes) -> None:
    port.write(at, data)
    if port.read(at, len(data)) != data:
        raise StillnetError(
            f"the flash does not hold what was written at {at}; write again, and suspect the flash "
            "if it happens again"
        )
