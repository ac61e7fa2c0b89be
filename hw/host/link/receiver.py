"""From bytes on the wire to commands that are whole, right, and next in order."""

from __future__ import annotations

from dataclasses import dataclass
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

__all__ = [
    "FrameReceiver",
    "RingReader",
    "add_ring",
    "check_ring",
    "frame_byte_layout",
    "read_ring",
]


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


@dataclass(frozen=True)
class RingReader:
    """Where :func:`read_ring` is.

    Attributes
    ----------
    pointer : Signal
        The place of the next byte. Those before it are free.
    after : Signal
        The place after that.
    found : Signal
        The memory puts out the byte at ``pointer``.
    """

    pointer: Signal
    after: Signal
    found: Signal


def read_ring(m: Module, ports: Any, end: Any, out: Any, *, flush: Any, start: Any) -> RingReader:
    """Makes a stream of what lies in a ring from a pointer to ``end``, a byte per cycle.

    A register follows the memory, because block RAM alone is slow.

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
    :class:`RingReader`
    """
    pointer = Signal(len(ports[0].addr))
    after = Signal(len(pointer), init=1)
    found = Signal()
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
    return RingReader(pointer, after, found)


class _Signals:
    """What the parts of the receiver share, and what its proof speaks of.

    Attributes
    ----------
    write, mark, reader
        Write ports of the ring and of the marks of last bytes; where the ring is read.
    place, committed, after, room
        Next place of the ring; end of the commands that are checked; the place after ``place``;
        that one is free.
    byte, value, escaped
        The byte; without its escape; the one before it was an escape.
    damaged, overflow, broken
        The frame has a wrong escape; does not fit into the ring; lost a byte on the line.
    delay, count, whole
        Latest bytes, newest first; bytes of the frame, up to the least that a frame has; it has
        those.
    version_kind, sequence, third
        First bytes of the frame.
    ending, good, empty
        The frame ends; it is right; there was nothing between two flags.
    other_version, is_resume, is_reset, other, past
        What the header says, a cycle later.
    accept
        The frame is a command, and the next one.
    machine
        The state machine.
    """

    def __init__(self, m: Module, ring_bytes: int) -> None:
        self.write, self.read, self.mark, self.mark_read = add_ring(m, ring_bytes)
        self.reader: RingReader
        self.machine: Any = None
        bits = len(self.write.addr)
        self.place = Signal(bits)
        self.committed = Signal(bits)
        self.after = Signal(bits)
        self.room = Signal()
        # The CRC takes a byte in two halves: a fourth of the logic of a whole byte at once.
        # Its own start input would cost a multiplexer per bit; a reset is free.
        self.crc: Any = CRC32_ISO_HDLC(data_width=4).create()
        self.crc_start = Signal()
        m.submodules.crc = ResetInserter(self.crc_start)(self.crc)
        self.byte = Signal(8)
        self.value = Signal(8)
        self.escaped = Signal()
        self.damaged = Signal()
        self.overflow = Signal()
        self.broken = Signal()
        # The last bytes are the checksum, but which they are is known only at the end. So bytes
        # go to the ring late: by one more than the checksum has, to mark the last one.
        self.delay = [Signal(8, name=f"delay{k}") for k in range(TRAILER_BYTES + 1)]
        self.count = Signal(range(HEADER_BYTES + TRAILER_BYTES + 1))
        self.whole = Signal()
        self.version_kind = Signal(8)
        self.sequence = Signal(8)
        self.third = Signal(8)
        self.ending = Signal()
        self.good = Signal()
        self.empty = Signal()
        self.other_version = Data()
        self.is_resume = Data()
        self.is_reset = Data()
        self.other = Data()
        self.past = Data()
        self.accept = Signal()


class FrameReceiver(wiring.Component):
    """Takes frames apart, checks them, and queues commands in a ring.

    Nothing of a command comes out before its last bit has been checked. A frame that is not the
    next command is dropped without a trace in the ring; ``causes`` says why.

    Takes a byte every two cycles.

    Parameters
    ----------
    ring_bytes : :class:`int`
        Size of the ring, a power of two.

    Attributes
    ----------
    probes : _Signals
        Registers that the proof speaks of, once elaborated.

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
        self.probes: Any = None
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
        self.probes = x = _Signals(m, self.ring_bytes)
        self._ring(m, x)
        self._look_at_header(m, x)
        # What happens elsewhere because of a frame happens a cycle later, from registers.
        m.d.sync += [
            self.causes.eq(0),
            self.resume.eq(0),
            self.restart.eq(0),
            self.resume_sequence.eq(x.sequence),
        ]
        with m.FSM() as x.machine:
            self._take(m, x)
            self._take_high_half(m, x)
            self._end(m, x)
        with m.If(x.accept):
            m.d.sync += [
                self.expected.eq(x.sequence + 1),
                x.place.eq(x.after),
                x.committed.eq(x.after),
            ]
        with m.If(self.line_error):
            m.d.sync += x.broken.eq(1)
        return m

    def _ring(self, m: Module, x: _Signals) -> None:
        x.reader = read_ring(
            m, (x.read, x.mark_read), x.committed, self.frames, flush=self.restart, start=0
        )
        m.d.sync += x.room.eq(x.after != x.reader.pointer)  # in time: a byte takes two cycles
        m.d.comb += [
            x.after.eq(x.place + 1),
            x.value.eq(x.byte ^ Mux(x.escaped, FLIP, 0)),
            x.whole.eq(x.count == HEADER_BYTES + TRAILER_BYTES),
            x.write.addr.eq(x.place),
            x.write.data.eq(x.delay[-1]),
            x.mark.data.eq(x.ending),
        ]

    def _look_at_header(self, m: Module, x: _Signals) -> None:
        """The header has been there for many cycles when it is looked at."""
        kind, ahead = Signal(4), Signal(8)
        m.d.comb += [kind.eq(x.version_kind[:4]), ahead.eq(x.sequence - self.expected)]
        m.d.sync += [
            x.other_version.eq(x.version_kind[4:] != VERSION),
            x.is_resume.eq(kind == Command.RESUME),
            x.is_reset.eq(kind == Command.RESET),
            x.other.eq((kind != Command.HELLO) & (ahead != 0)),
            x.past.eq(ahead[7]),
        ]

    def _take(self, m: Module, x: _Signals) -> None:
        with m.State("TAKE"):
            m.d.comb += self.bytes.ready.eq(1)
            m.d.sync += x.byte.eq(self.bytes.payload)
            with m.If(self.bytes.valid):
                m.next = "LOW"
        with m.State("LOW"):
            # An escape turns over a bit of the high half, so the low one need not wait for it.
            m.d.comb += x.crc.data.eq(x.byte[:4])
            with m.If(x.byte == FLAG):
                m.next = "END"
            with m.Elif(x.byte == ESCAPE):
                m.d.sync += [x.escaped.eq(1), x.damaged.eq(x.damaged | x.escaped)]
                m.next = "TAKE"
            with m.Else():
                m.d.comb += x.crc.valid.eq(1)
                m.next = "HIGH"

    def _take_high_half(self, m: Module, x: _Signals) -> None:
        with m.State("HIGH"):
            m.d.comb += [x.crc.data.eq(x.value[4:]), x.crc.valid.eq(1), self.bytes.ready.eq(1)]
            m.d.sync += [
                x.byte.eq(self.bytes.payload),
                x.escaped.eq(0),
                x.delay[0].eq(x.value),
                *(b.eq(a) for a, b in zip(x.delay, x.delay[1:])),
                x.count.eq(x.count + ~x.whole),
            ]
            for k, register in enumerate((x.version_kind, x.sequence, x.third)):
                with m.If(x.count == k):
                    m.d.sync += register.eq(x.value)
            with m.If(x.count > TRAILER_BYTES):
                with m.If(x.room):
                    m.d.comb += x.write.en.eq(1)
                    m.d.sync += x.place.eq(x.after)
                with m.Else():
                    m.d.sync += x.overflow.eq(1)
            with m.If(self.bytes.valid):
                m.next = "LOW"
            with m.Else():
                m.next = "TAKE"

    def _end(self, m: Module, x: _Signals) -> None:
        with m.State("END"):
            m.d.comb += [x.ending.eq(1), x.write.en.eq(x.room)]
            m.d.sync += [
                x.empty.eq((x.count == 0) & ~x.damaged & ~x.escaped),
                x.good.eq(x.crc.match_detected & x.whole & ~x.damaged & ~x.escaped),
                x.overflow.eq(x.overflow | ~x.room),
            ]
            m.next = "DECIDE"
        with m.State("DECIDE"):
            m.d.comb += x.crc_start.eq(1)
            m.d.sync += [
                x.place.eq(x.committed),
                x.count.eq(0),
                x.escaped.eq(0),
                x.damaged.eq(0),
                x.overflow.eq(0),
                x.broken.eq(0),
            ]
            m.next = "TAKE"
            self._decide(m, x)

    def _decide(self, m: Module, x: _Signals) -> None:
        with m.If(x.broken):
            m.d.sync += self.causes.eq(Cause.LINE)
        with m.Elif(x.empty):
            pass  # between two flags
        with m.Elif(~x.good):
            m.d.sync += self.causes.eq(Cause.CHECK)
        with m.Elif(x.other_version):
            m.d.sync += self.causes.eq(Cause.VERSION)
        with m.Elif(x.is_resume):
            m.d.sync += [self.resume.eq(1), self.causes.eq(Cause.RESUME)]
            m.d.sync += self.question.eq(x.third)
        with m.Elif(x.is_reset):
            m.d.sync += [self.restart.eq(1), self.causes.eq(Cause.RESET)]
            m.d.sync += [self.expected.eq(x.sequence + 1), x.place.eq(0), x.committed.eq(0)]
        with m.Elif(x.other):
            # A command of the past was done already; its reply was asked for, or will be.
            with m.If(~x.past):
                m.d.sync += self.causes.eq(Cause.GAP)
        with m.Elif(x.overflow):
            m.d.sync += self.causes.eq(Cause.FULL)
        with m.Else():
            m.d.comb += x.accept.eq(1)
