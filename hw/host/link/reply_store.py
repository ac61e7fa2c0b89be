"""Keeps the latest replies, so that a lost one can be sent again without doing anything twice."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .receiver import add_ring, check_ring, frame_byte_layout, read_ring

__all__ = ["ReplyStore"]


class ReplyStore(wiring.Component):
    """A ring of replies for the transmitter, which can send older ones again.

    A reply may leave while it is still being written. Later replies overwrite it. The host limits
    its unanswered commands (``Identity``), so no reply that it may ask for is overwritten.

    Parameters
    ----------
    ring_bytes : :class:`int`
        Size of the ring, a power of two.
    window : :class:`int`
        Number of replies that can be sent again, a power of two.

    Members
    -------
    replies : :py:`In(stream of frame_byte_layout())`
    begin : :py:`In(1)`
        The byte on ``replies`` is a reply's first.
    sequence : :py:`In(8)`
        Sequence of the reply that begins, or of the next one that will.
    resume, resume_sequence : :py:`In(1)`, :py:`In(8)`
        One cycle: go on sending from this reply. Ignored where it has not begun yet.
    frames : :py:`Out(stream of frame_byte_layout())`
    """

    def __init__(self, ring_bytes: int, window: int):
        self._ring_bytes = check_ring("Reply buffer", ring_bytes)
        if window < 2 or window > 64 or window & (window - 1):
            raise ValueError(f"Window must be a power of two from 2 to 64, not {window!r}")
        self._window = window
        super().__init__(
            {
                "replies": In(stream.Signature(frame_byte_layout())),
                "begin": In(1),
                "sequence": In(8),
                "resume": In(1),
                "resume_sequence": In(8),
                "frames": Out(stream.Signature(frame_byte_layout())),
            }
        )

    @property
    def ring_bytes(self) -> int:
        return self._ring_bytes

    @property
    def window(self) -> int:
        return self._window

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        write, read, mark, mark_read = add_ring(m, self.ring_bytes)
        place = Signal(len(write.addr))
        m.submodules.begins = begins = Memory(shape=len(place), depth=self.window, init=[])
        begins_bits = (self.window - 1).bit_length()
        begins_write, begins_read = begins.write_port(), begins.read_port(domain="comb")

        # A byte waits in a register first, so that the ring is written from registers.
        held, held_valid = Signal(frame_byte_layout()), Signal()
        held_begin, held_sequence = Signal(), Signal(begins_bits)
        room, put = Signal(), Signal()
        m.d.comb += [
            put.eq(held_valid & room),
            self.replies.ready.eq(~held_valid | room),
            write.addr.eq(place),
            write.data.eq(held.data),
            mark.data.eq(held.last),
            write.en.eq(put),
            begins_write.addr.eq(held_sequence),
            begins_write.data.eq(place),
            begins_write.en.eq(put & held_begin),
        ]
        with m.If(self.replies.ready):
            m.d.sync += [
                held.eq(self.replies.payload),
                held_valid.eq(self.replies.valid),
                held_begin.eq(self.begin),
                held_sequence.eq(self.sequence),
            ]
        with m.If(put):
            m.d.sync += place.eq(place + 1)

        # Going back waits for the end of the frame that is being sent.
        wanted, sequence, inside = Signal(), Signal(8), Signal()
        age = Signal(8)
        known, back = Signal(), Signal()
        with m.If(self.frames.valid & self.frames.ready):
            m.d.sync += inside.eq(~self.frames.p.last)
        m.d.comb += [
            age.eq(self.sequence - sequence),
            begins_read.addr.eq(sequence),
            back.eq(wanted & known & ~inside & ~(self.frames.valid & self.frames.ready)),
        ]
        start = Signal(len(place))
        m.d.sync += [
            known.eq((age != 0) & (age <= self.window) & wanted & ~self.resume),
            start.eq(begins_read.data),
        ]
        checked = Signal()
        m.d.sync += checked.eq(wanted & ~self.resume)
        with m.If(back | (checked & ~known)):
            m.d.sync += wanted.eq(0)
        with m.If(self.resume):
            m.d.sync += [wanted.eq(1), sequence.eq(self.resume_sequence), known.eq(0)]
        reader = read_ring(m, (read, mark_read), place, self.frames, flush=back, start=start)
        after = Signal.like(place)
        m.d.comb += after.eq(place + 1)
        m.d.sync += room.eq((after != reader.pointer) & ~put)  # known a cycle after each byte
        return m
