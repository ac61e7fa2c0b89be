"""From bytes on the wire to commands that are whole, right, and next in order."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import Data
from stillnet.sw.contract.link import (
    ESCAPE,
    FLAG,
    FLIP,
    HEADER_BYTES,
    TRAILER_BYTES,
    VERSION,
    Cause,
    Command,
)

__all__ = ["FrameReceiver", "add_ring", "check_ring", "frame_byte_layout", "read_ring"]


def frame_byte_layout() -> data.StructLayout:
    """A byte of a frame, and whether it is the last one."""
    return data.StructLayout({"data": 8, "last": 1})


def check_ring(what: str, value: Any) -> int:
    """Return ``value`` if it can be the size of a ring of bytes, or say that ``what`` cannot.

    Raises
    ------
    :exc:`ValueError`
        If ``value`` is not a power of two from 64.
    """
    if not isinstance(value, int) or value < 64 or value & (value - 1):
        raise ValueError(f"{what} must be a power of two from 64, not {value!r}")
    return value


def add_ring(m: Module, depth: int) -> tuple[Any, Any, Any, Any]:
    """A memory of bytes of frames, whose reads never meet a write.

    What marks the last byte has a memory of its own: block RAM is 8 or 9 bits wide at no more than
    2,048 places, and a choice between two of them would take the rest of a cycle.

    Returns
    -------
    :class:`tuple`
        Write port and read port of the bytes, those of the marks.
    """
    ports = []
    for name, width in (("ring", 8), ("marks", 1)):
        # A place that is written is never read in that cycle: Yosys need not add logic for it.
        memory = Memory(shape=width, depth=depth, init=[], attrs={"no_rw_check": 1})
        m.submodules[name] = memory
        ports += [memory.write_port(), memory.read_port()]
    write, read, mark_write, mark_read = ports
    m.d.comb += [
        mark_write.addr.eq(write.addr),
        mark_write.en.eq(write.en),
    ]
    return write, read, mark_write, mark_read


def read_ring(m: Module, ports: Any, end: Any, out: Any, *, flush: Any, start: Any) -> Signal:
    """Makes a stream of what lies in a ring from a pointer to ``end``, a byte a cycle.

    Behind the memory comes a register, as block RAM needs to be fast.

    Parameters
    ----------
    m : :class:`Module`
    ports
        Read ports that give a byte's parts, low bits first. They read in each cycle.
    end
        First place that does not hold a byte yet.
    out
        The stream.
    flush
        High to go on at ``start``; what was read ahead is dropped.
    start
        A place.

    Returns
    -------
    :class:`Signal`
        The place of the next byte. Those before it are free.
    """
    pointer = Signal(len(ports[0].addr))
    after = Signal(len(pointer), init=1)
    found = Signal()  # the memory puts out the byte at ``pointer``
    move = Signal()
    address = Signal(len(pointer))
    payload = Data(out.payload.shape())
    m.d.comb += [
        out.payload.eq(payload),
        move.eq(~out.valid | out.ready),
        address.eq(Mux(found & move, after, pointer)),
        *(port.addr.eq(address) for port in ports),
    ]
    m.d.sync += found.eq(Mux(found & move, after != end, pointer != end))
    with m.If(move):
        m.d.sync += [
            Value.cast(payload).eq(Cat(port.data for port in ports)),
            out.valid.eq(found),
        ]
    with m.If(found & move):
        m.d.sync += [pointer.eq(after), after.eq(after + 1)]
    with m.If(flush):
        m.d.sync += [pointer.eq(start), after.eq(start + 1), found.eq(0), out.valid.eq(0)]
    return pointer


class FrameReceiver(wiring.Component):
    """Takes frames apart, checks them, and queues commands in a ring.

    Nothing of a command comes out before its last bit has been checked. A frame that is not the
    next command is dropped without a trace in the ring; ``causes`` says why.

    Takes a byte every two cycles.

    Parameters
    ----------
    ring_bytes : :class:`int`
        Size of the ring, a power of two.

    Members
    -------
    bytes : :py:`In(stream.Signature(8))`
    line_error : :py:`In(1)`
        A byte was lost here: the frame around it counts as damaged.
    frames : :py:`Out(stream of frame_byte_layout())`
        Kind, sequence and payload of commands, one after the other.
    expected : :py:`Out(8)`
        Sequence of the next command.
    causes : :py:`Out(len(Cause))`
        One cycle: what happened.
    resume, resume_sequence : :py:`Out(1)`, :py:`Out(8)`
        One cycle: ``Command.RESUME``.
    question : :py:`Out(8)`
        First byte of the payload of the latest RESUME.
    restart : :py:`Out(1)`
        One cycle: ``Command.RESET``; the ring is emptied.
    """

    def __init__(self, ring_bytes: int):
        self._ring_bytes = check_ring("Receive buffer", ring_bytes)
        super().__init__(
            {
                "bytes": In(stream.Signature(8)),
                "line_error": In(1),
                "frames": Out(stream.Signature(frame_byte_layout())),
                "expected": Out(8),
                "causes": Out(len(Cause)),
                "resume": Out(1),
                "resume_sequence": Out(8),
                "question": Out(8),
                "restart": Out(1),
            }
        )

    @property
    def ring_bytes(self) -> int:
        return self._ring_bytes

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        write, read, mark, mark_read = add_ring(m, self.ring_bytes)
        place, committed, after = (Signal(len(write.addr)) for _ in range(3))
        m.d.comb += after.eq(place + 1)
        out_place = read_ring(
            m, (read, mark_read), committed, self.frames, flush=self.restart, start=0
        )
        room = Signal()
        m.d.sync += room.eq(after != out_place)  # early enough: a byte takes two cycles

        # The CRC takes a byte in two halves: a fourth of the logic of a whole byte at once.
        # Its own start input would cost a multiplexer a bit; a reset is free.
        crc = CRC32_ISO_HDLC(data_width=4).create()
        crc_start = Signal()
        m.submodules.crc = ResetInserter(crc_start)(crc)
        byte = Signal(8)
        escaped, damaged, overflow, broken = Signal(), Signal(), Signal(), Signal()
        value = Signal(8)
        m.d.comb += value.eq(byte ^ Mux(escaped, FLIP, 0))

        # The last bytes are the checksum, but which they are is known only at the end. So bytes
        # go to the ring late: by one more than the checksum has, to mark the last one.
        delay = [Signal(8, name=f"delay{k}") for k in range(TRAILER_BYTES + 1)]
        count = Signal(range(HEADER_BYTES + TRAILER_BYTES + 1))
        whole = Signal()
        m.d.comb += whole.eq(count == HEADER_BYTES + TRAILER_BYTES)
        version_kind, sequence, third = Signal(8), Signal(8), Signal(8)
        ending, good, empty = Signal(), Signal(), Signal()
        m.d.comb += [write.addr.eq(place), write.data.eq(delay[-1]), mark.data.eq(ending)]

        # The header has been there for many cycles when it is looked at.
        kind, ahead = Signal(4), Signal(8)
        other_version, is_resume, is_reset, other, past = (Data() for _ in range(5))
        m.d.comb += [kind.eq(version_kind[:4]), ahead.eq(sequence - self.expected)]
        m.d.sync += [
            other_version.eq(version_kind[4:] != VERSION),
            is_resume.eq(kind == Command.RESUME),
            is_reset.eq(kind == Command.RESET),
            other.eq((kind != Command.HELLO) & (ahead != 0)),
            past.eq(ahead[7]),
        ]
        # What happens elsewhere because of a frame happens a cycle later, from registers.
        m.d.sync += [
            self.causes.eq(0),
            self.resume.eq(0),
            self.restart.eq(0),
            self.resume_sequence.eq(sequence),
        ]
        accept = Signal()
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.bytes.ready.eq(1)
                m.d.sync += byte.eq(self.bytes.payload)
                with m.If(self.bytes.valid):
                    m.next = "LOW"
            with m.State("LOW"):
                # An escape turns over a bit of the high half, so the low one need not wait for it.
                m.d.comb += crc.data.eq(byte[:4])
                with m.If(byte == FLAG):
                    m.next = "END"
                with m.Elif(byte == ESCAPE):
                    m.d.sync += [escaped.eq(1), damaged.eq(damaged | escaped)]
                    m.next = "TAKE"
                with m.Else():
                    m.d.comb += crc.valid.eq(1)
                    m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [crc.data.eq(value[4:]), crc.valid.eq(1), self.bytes.ready.eq(1)]
                m.d.sync += [byte.eq(self.bytes.payload), escaped.eq(0), delay[0].eq(value)]
                m.d.sync += [b.eq(a) for a, b in zip(delay, delay[1:])]
                m.d.sync += count.eq(count + ~whole)
                with m.If(count == 0):
                    m.d.sync += version_kind.eq(value)
                with m.If(count == 1):
                    m.d.sync += sequence.eq(value)
                with m.If(count == 2):
                    m.d.sync += third.eq(value)
                with m.If(count > TRAILER_BYTES):
                    with m.If(room):
                        m.d.comb += write.en.eq(1)
                        m.d.sync += place.eq(after)
                    with m.Else():
                        m.d.sync += overflow.eq(1)
                with m.If(self.bytes.valid):
                    m.next = "LOW"
                with m.Else():
                    m.next = "TAKE"
            with m.State("END"):
                m.d.comb += [ending.eq(1), write.en.eq(room)]
                m.d.sync += [
                    empty.eq((count == 0) & ~damaged & ~escaped),
                    good.eq(crc.match_detected & whole & ~damaged & ~escaped),
                    overflow.eq(overflow | ~room),
                ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.comb += crc_start.eq(1)
                m.d.sync += [
                    place.eq(committed),
                    count.eq(0),
                    escaped.eq(0),
                    damaged.eq(0),
                    overflow.eq(0),
                    broken.eq(0),
                ]
                m.next = "TAKE"
                with m.If(broken):
                    m.d.sync += self.causes.eq(Cause.LINE)
                with m.Elif(empty):
                    pass  # between two flags
                with m.Elif(~good):
                    m.d.sync += self.causes.eq(Cause.CHECK)
                with m.Elif(other_version):
                    m.d.sync += self.causes.eq(Cause.VERSION)
                with m.Elif(is_resume):
                    m.d.sync += [self.resume.eq(1), self.causes.eq(Cause.RESUME)]
                    m.d.sync += self.question.eq(third)
                with m.Elif(is_reset):
                    m.d.sync += [self.restart.eq(1), self.causes.eq(Cause.RESET)]
                    m.d.sync += [self.expected.eq(sequence + 1), place.eq(0), committed.eq(0)]
                with m.Elif(other):
                    # A command of the past was done already; its reply was asked for, or will be.
                    with m.If(~past):
                        m.d.sync += self.causes.eq(Cause.GAP)
                with m.Elif(overflow):
                    m.d.sync += self.causes.eq(Cause.FULL)
                with m.Else():
                    m.d.comb += accept.eq(1)
        with m.If(accept):
            m.d.sync += [self.expected.eq(sequence + 1), place.eq(after), committed.eq(after)]
        with m.If(self.line_error):
            m.d.sync += broken.eq(1)
        return m
