"""What is proven of the host link's framing.

The monitors decode frames with a code of their own, from what ``docs/link.md`` says: a CRC of a bit
a step, escapes, the numbers of commands. They see the byte streams and what comes out of the
hardware. What else is claimed are invariants that tie the two together, so that the proofs hold for
all time, whatever came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.memory import Memory

from stillnet.hw.host.link.receiver import FrameReceiver, read_ring
from stillnet.hw.host.link.transmitter import FrameTransmitter

from .proof import Proof

__all__ = ["receiver_proof", "ring_proof", "transmitter_proof"]

_FLAG, _ESCAPE, _FLIP = 0x7E, 0x7D, 0x20
_RESUME, _RESET, _HELLO = 4, 5, 0
_RING = 64


def _crc_steps(m: Module, crc: Any, data: Any, bits: int, name: str) -> Signal:
    """CRC-32 of zlib, without its last inversion, ``bits`` bits further."""
    for k in range(bits):
        after = Signal(32, name=f"{name}_{k}")
        m.d.comb += after.eq((crc >> 1) ^ Mux(crc[0] ^ data[k], 0xEDB88320, 0))
        crc = after
    return crc


_RESIDUE = 0xDEBB20E3
"""What the register holds after data and its checksum."""


class _Decoder:
    """Bytes become frames, two cycles after they are taken.

    Attributes
    ----------
    crc, escaped, damaged, count : Signal
        So far, of the frame that is coming; ``count`` stops at 127.
    after_crc, … : Signal
        The same after the byte of this cycle, if there is one.
    ended, good, empty : Signal
        A flag ended a frame in the previous cycle; it is whole and right; there was nothing.
    """

    def __init__(self, proof: Proof, taken: Any, byte: Any):
        m = proof.m
        self.valid = [Signal(name=f"decoder_valid{k}") for k in range(2)]
        self.byte = [Signal(8, name=f"decoder_byte{k}") for k in range(2)]
        m.d.sync += [
            Cat(*self.valid).eq(Cat(taken, self.valid[0])),
            self.byte[0].eq(byte),
            self.byte[1].eq(self.byte[0]),
        ]
        self.crc = Signal(32, init=0xFFFFFFFF)
        self.escaped, self.damaged = Signal(), Signal()
        self.count = Signal(7)
        self.header = [Signal(8, name=f"header{k}") for k in range(3)]
        self.history = [Signal(8, name=f"history{k}") for k in range(5)]
        now, value = self.byte[1], Signal(8)
        m.d.comb += value.eq(now ^ Mux(self.escaped, _FLIP, 0))
        self.value = value
        crc = _crc_steps(m, self.crc, value, 8, "decoder_crc")
        self.half_crc = _crc_steps(m, self.crc, value, 4, "decoder_half")

        is_flag, is_escape = Signal(), Signal()
        m.d.comb += [is_flag.eq(now == _FLAG), is_escape.eq(now == _ESCAPE)]
        self.plain = Signal()
        m.d.comb += self.plain.eq(self.valid[1] & ~is_flag & ~is_escape)
        self.after_crc, self.after_count = Signal(32), Signal(7)
        self.after_escaped, self.after_damaged = Signal(), Signal()
        m.d.comb += [
            self.after_crc.eq(self.crc),
            self.after_count.eq(self.count),
            self.after_escaped.eq(self.escaped),
            self.after_damaged.eq(self.damaged),
        ]
        self.ended, self.good, self.empty = Signal(), Signal(), Signal()
        self.kind_seen, self.sequence_seen, self.third_seen = Signal(8), Signal(8), Signal(8)
        self.length = Signal(7)
        whole = self.count >= 6
        m.d.sync += [
            self.ended.eq(self.valid[1] & is_flag),
            self.good.eq((self.crc == _RESIDUE) & whole & ~self.escaped & ~self.damaged),
            self.empty.eq((self.count == 0) & ~self.escaped & ~self.damaged),
            self.length.eq(self.count),
            Cat(self.kind_seen, self.sequence_seen, self.third_seen).eq(Cat(*self.header)),
        ]
        with m.If(self.valid[1]):
            with m.If(is_flag):
                m.d.comb += [
                    self.after_crc.eq(0xFFFFFFFF),
                    self.after_count.eq(0),
                    self.after_escaped.eq(0),
                    self.after_damaged.eq(0),
                ]
            with m.Elif(is_escape):
                m.d.comb += [
                    self.after_escaped.eq(1),
                    self.after_damaged.eq(self.damaged | self.escaped),
                ]
            with m.Else():
                m.d.comb += [
                    self.after_crc.eq(crc),
                    self.after_escaped.eq(0),
                    self.after_count.eq(self.count + (self.count != 127)),
                ]
                m.d.sync += Cat(*self.history).eq(Cat(value, *self.history))
                for k, header in enumerate(self.header):
                    with m.If(self.count == k):
                        m.d.sync += header.eq(value)
        m.d.sync += [
            self.crc.eq(self.after_crc),
            self.count.eq(self.after_count),
            self.escaped.eq(self.after_escaped),
            self.damaged.eq(self.after_damaged),
        ]


def receiver_proof(*, depth: int = 4, receiver: type = FrameReceiver) -> Proof:
    """The receiver takes exactly the frames that are right, and never stops, for all time.

    Bytes may be anything and come at any time; errors of the line too. Replies are taken at any
    time or never.

    Parameters
    ----------
    depth : int
    receiver : class, optional
        Another one than :class:`FrameReceiver`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = receiver(_RING)
    proof.add("receiver", dut)
    proof.free(dut.bytes.payload, dut.bytes.valid, dut.line_error, dut.frames.ready)
    taken = Signal()
    m.d.comb += taken.eq(dut.bytes.valid & dut.bytes.ready)
    d = _Decoder(proof, taken, dut.bytes.payload)

    broken = Signal()
    with m.If(d.ended):
        m.d.sync += broken.eq(0)
    with m.If(dut.line_error):
        m.d.sync += broken.eq(1)

    length = Signal(7)
    m.d.sync += length.eq(d.length)
    accepted, command = _delivered(proof, dut, d, broken, length)

    # A frame that is right is taken if there is room, whatever came before it.
    held = Signal(8)
    out = dut.frames.valid & dut.frames.ready
    before = Signal(8)  # held when the frame began
    m.d.sync += held.eq(held + Mux(accepted, length - 4, 0) - out)
    with m.If(dut.restart):
        m.d.sync += held.eq(0)
    now_held = Signal(8)
    m.d.comb += now_held.eq(Mux(dut.restart, 0, held + Mux(accepted, length - 4, 0)))
    decided = Signal()
    m.d.sync += decided.eq(d.ended)
    with m.If(decided):
        m.d.sync += before.eq(now_held)
    fits = Signal()
    fitted = Signal()
    m.d.comb += fits.eq(before + d.length - 4 < _RING - 1)
    m.d.sync += fitted.eq(fits)
    claim("a frame that is right is delivered", ~command | ~fitted | accepted)

    _liveness(proof, dut, held)
    _receiver_invariants(proof, dut, d, broken)
    _ring_invariants(proof, dut, d, held, now_held, before)
    return proof


def _delivered(
    proof: Proof, dut: Any, d: _Decoder, broken: Signal, length: Signal
) -> tuple[Signal, Signal]:
    """Claims which frames are delivered.

    Gives two signals: a command was delivered in this cycle; one that is right has ended a cycle
    ago.
    """
    m, claim, c = proof.m, proof.claim, dut.probes
    # What the frame that has just ended is.
    right = Signal()
    kind = d.kind_seen[:4]
    m.d.comb += right.eq(d.ended & d.good & ~broken & (d.kind_seen[4:] == 1))
    resume, reset, command, accepted = Signal(), Signal(), Signal(), Signal()
    m.d.comb += [
        resume.eq(right & (kind == _RESUME)),
        reset.eq(right & (kind == _RESET)),
        command.eq(
            right
            & (kind != _RESUME)
            & (kind != _RESET)
            & ((kind == _HELLO) | (d.sequence_seen == dut.expected))
        ),
    ]
    was = {}
    for name, signal in {"resume": resume, "reset": reset, "command": command}.items():
        was[name] = Signal(name=f"was_{name}")
        m.d.sync += was[name].eq(signal)
    sequence, third, expected = Signal(8), Signal(8), Signal(8)
    m.d.sync += [sequence.eq(d.sequence_seen), third.eq(d.third_seen), expected.eq(dut.expected)]

    # Commands come out of the ring only if they have been committed.
    committed = Signal(len(c.committed))
    m.d.sync += committed.eq(c.committed)
    grown = Signal(len(committed))
    m.d.comb += grown.eq(c.committed - committed)
    m.d.comb += accepted.eq(proof.after_start() & ~was["reset"] & (grown != 0))
    claim("only a frame that is right is delivered", ~accepted | was["command"])
    claim("all of it is delivered", ~accepted | (grown == (length - 4)[: len(grown)]))
    claim(
        "the next number",
        dut.expected == Mux(was["reset"] | accepted, (sequence + 1)[:8], expected),
    )
    claim("RESUME", dut.resume == was["resume"])
    claim(
        "its numbers", ~dut.resume | ((dut.resume_sequence == sequence) & (dut.question == third))
    )
    claim("RESET", dut.restart == was["reset"])
    return accepted, was["command"]


def _liveness(proof: Proof, dut: Any, held: Signal) -> None:
    """Claims that bytes and commands move on."""
    m, claim = proof.m, proof.claim
    # A byte is taken within four cycles.
    waited = Signal(range(8))
    m.d.sync += waited.eq(Mux(dut.bytes.ready, 0, waited + (waited != 7)))
    claim("bytes are taken", waited <= 3)
    # What is committed is offered within three cycles.
    silent = Signal(range(8))
    idle = dut.frames.valid | (held == 0)
    m.d.sync += silent.eq(Mux(idle | dut.restart, 0, silent + (silent != 7)))
    claim("commands are offered", silent <= 3)
    # A restart alone drops what was offered.
    waiting, offered = Signal(), Signal(9)
    m.d.sync += [
        waiting.eq(dut.frames.valid & ~dut.frames.ready & ~dut.restart),
        offered.eq(Value.cast(dut.frames.payload)),
    ]
    claim("stream", ~waiting | (dut.frames.valid & (Value.cast(dut.frames.payload) == offered)))


def _receiver_invariants(proof: Proof, dut: Any, d: _Decoder, broken: Signal) -> None:
    """Ties the registers of the receiver to those of the decoder."""
    claim, c = proof.claim, dut.probes
    states, state = c.machine.encoding, c.machine.state
    at = {name: state == number for name, number in states.items()}
    claim("state", state < len(states))
    claim("low", at["LOW"] == d.valid[0])
    claim("high", ~at["HIGH"] | (d.plain & (c.byte == d.byte[1])))
    claim("low byte", ~at["LOW"] | (c.byte == d.byte[0]))
    claim("end", ~at["END"] | (d.valid[1] & (d.byte[1] == _FLAG)))
    claim("flag", at["END"] | ~d.valid[1] | (d.byte[1] != _FLAG))
    claim("plain", at["HIGH"] == d.plain)
    claim("decide", at["DECIDE"] == d.ended)
    claim("line", c.broken == broken)
    between = at["TAKE"] | at["LOW"]
    limit = Mux(d.after_count > 6, 6, d.after_count)
    now_limit = Mux(d.count > 6, 6, d.count)
    claim(
        "decoded",
        ~between
        | (
            (c.crc.crc == ~d.after_crc)
            & (c.escaped == d.after_escaped)
            & (c.damaged == d.after_damaged)
            & (c.count == limit)
        ),
    )
    claim(
        "half a byte further",
        ~at["HIGH"]
        | (
            (c.crc.crc == ~d.half_crc)
            & (c.escaped == d.escaped)
            & (c.damaged == d.damaged)
            & (c.count == now_limit)
        ),
    )
    claim(
        "at the end",
        ~at["END"]
        | (
            (c.crc.crc == ~d.crc)
            & (c.escaped == d.escaped)
            & (c.damaged == d.damaged)
            & (c.count == now_limit)
        ),
    )
    verdict = d.good == (c.good & ~c.broken | c.good)
    claim("verdict", ~at["DECIDE"] | verdict)
    claim(
        "nothing",
        ~at["DECIDE"] | (d.empty == ((c.count == 0) & ~c.damaged & ~c.escaped)),
    )
    own_kind, ahead = c.version_kind[:4], (c.sequence - dut.expected)[:8]
    for flag, value in (
        (c.empty, (c.count == 0) & ~c.damaged & ~c.escaped),
        (c.other_version, c.version_kind[4:] != 1),
        (c.is_resume, own_kind == _RESUME),
        (c.is_reset, own_kind == _RESET),
        (c.other, (own_kind != _HELLO) & (ahead != 0)),
        (c.past, ahead[7]),
    ):
        claim("what is decided with", ~at["DECIDE"] | (flag == value))
    # What is written to the ring is the byte five back; four back, and marked, at the end.
    for k, (own, theirs) in enumerate(zip(c.delay, d.history)):
        claim("history", (d.count <= k) | at["DECIDE"] | (own == theirs))
    data = c.write.data
    mark = c.mark.data
    claim("bytes", ~at["HIGH"] | (d.count < 5) | ((data == d.history[4]) & ~mark))
    claim("last byte", ~at["END"] | (d.count < 5) | ((data == d.history[4]) & mark))
    claim(
        "each byte is written",
        ~(at["HIGH"] | at["END"]) | (d.count < 5) | c.write.en | ~c.room,
    )
    header = Cat(c.version_kind, c.sequence, c.third)
    for k, (own, theirs) in enumerate(zip((c.version_kind, c.sequence, c.third), d.header)):
        claim("header", (d.count <= k) | at["DECIDE"] | (own == theirs))
    seen_header = Cat(d.kind_seen, d.sequence_seen, d.third_seen)
    for k in range(3):
        claim(
            "header at the end",
            ~at["DECIDE"]
            | (d.length <= k)
            | (header.word_select(k, 8) == seen_header.word_select(k, 8)),
        )


def _ring_invariants(
    proof: Proof, dut: Any, d: _Decoder, held: Signal, now_held: Signal, before: Signal
) -> None:
    """Ties the ring of the receiver to the bytes that it holds."""
    m, claim, c = proof.m, proof.claim, dut.probes
    states, state = c.machine.encoding, c.machine.state
    at = {name: state == number for name, number in states.items()}
    between = at["TAKE"] | at["LOW"]
    inside, written = Signal(6), Signal(6)
    m.d.comb += [
        inside.eq(c.committed - c.reader.pointer),
        written.eq(c.place - c.committed),
    ]
    reader = c.reader
    claim("the place after", reader.after == (reader.pointer + 1)[: len(reader.after)])
    claim("found", dut.restart | ~reader.found | (inside != 0))
    claim("held", dut.restart | (now_held == inside + dut.frames.valid))
    claim("ring", Cat(inside, Const(0, 1)) + written < _RING)
    payload = Mux(d.after_count > 5, d.after_count - 5, 0)
    now_payload = Mux(d.count > 5, d.count - 5, 0)
    end_payload = Mux(d.length > 5, d.length - 5, 0)
    claim("written", ~between | c.overflow | (written == payload))
    claim("written, in a byte", ~(at["HIGH"] | at["END"]) | c.overflow | (written == now_payload))
    claim("written, at the end", ~at["DECIDE"] | c.overflow | (written == end_payload))
    claim("overflow", ~between | ~c.overflow | (before + payload >= _RING - 1))
    claim(
        "overflow, in a byte",
        ~(at["HIGH"] | at["END"]) | ~c.overflow | (before + now_payload >= _RING - 1),
    )
    claim("overflow, at the end", ~at["DECIDE"] | ~c.overflow | (before + end_payload >= _RING - 2))
    claim("less than before", held <= before)
    claim("before", before < _RING + 2)


def ring_proof(*, depth: int = 4, size: int = 8, read: Any = read_ring) -> Proof:
    """What was written to the ring comes out, each byte once and in order, for all time.

    One byte, any, is watched. Bytes are added at any time while there is room.

    Parameters
    ----------
    depth : int
    size : int
        Places of the ring.
    read : function, optional
        Another one than :func:`read_ring`.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    bits = size.bit_length() - 1
    memory = Memory(shape=9, depth=size, init=[])
    write, port = memory.write_port(), memory.read_port()
    watch = memory.read_port(domain="comb")
    out = stream.Signature(9).create(path=("out",))
    place = Signal(bits)
    flush = proof.anything(1, "flush")
    reader = read(m, (port,), place, out, flush=flush, start=0)
    pointer, found, after = reader.pointer, reader.found, reader.after
    m.submodules.memory = memory

    put, data = proof.anything(1, "put"), proof.anything(9, "data")
    proof.free(out.ready)
    room = Signal()
    m.d.comb += [
        room.eq((place + 1)[:bits] != pointer),
        write.addr.eq(place),
        write.data.eq(data),
        write.en.eq(put & room & ~flush),
    ]
    with m.If(flush):
        m.d.sync += place.eq(0)
    with m.Elif(put & room):
        m.d.sync += place.eq(place + 1)

    # Bytes are numbered from the last flush on, modulo twice the ring; one number is watched.
    number = bits + 1
    watched = proof.constant(number, "watched")
    end, first = Signal(number), Signal(number)
    value, known = Signal(9), Signal()
    with m.If(write.en):
        m.d.sync += end.eq(end + 1)
        with m.If(end == watched):
            m.d.sync += [value.eq(data), known.eq(1)]
        with m.Elif(end == watched ^ size):
            m.d.sync += known.eq(0)
    with m.If(out.valid & out.ready):
        m.d.sync += first.eq(first + 1)
    with m.If(flush):
        m.d.sync += [end.eq(0), first.eq(0), known.eq(0)]

    here = Signal()
    m.d.comb += [here.eq(out.valid & (first == watched)), watch.addr.eq(watched[:bits])]
    claim("the same byte", ~here | (out.payload == value))
    waiting, since, next_one = Signal(number), Signal(number), Signal(number)
    unread = Signal(number)
    m.d.comb += [
        waiting.eq(end - first),
        since.eq(end - watched),
        next_one.eq(first + out.valid),
        unread.eq(end - first - out.valid),
    ]
    claim("places", (place == end[:bits]) & (pointer == (first + out.valid)[:bits]))
    claim("the place after", after == (pointer + 1)[:bits])
    claim("found", ~found | (unread != 0))
    claim("not more than has room", unread < size)
    claim("no more in all", waiting <= size)
    claim("known", (since == 0) | (since > waiting) | known | (since > size))
    claim("memory", ~known | (watch.data == value))
    claim("known for so long", ~known | ((since >= 1) & (since <= size)))
    claim("the next byte", ~found | (next_one != watched) | (port.data == value))
    claim("the next byte is known", ~here | known | (since > size))
    quiet = Signal(range(8))
    m.d.sync += quiet.eq(Mux(out.valid | flush | (unread == 0), 0, quiet + (quiet != 7)))
    claim("it is offered", quiet <= 2)
    proof.reach("a byte", here & known)
    return proof


@dataclass(frozen=True)
class _Sent:
    """What a monitor of the line knows of the frame that is being sent.

    ``count`` bytes of the body and ``trailer`` of the checksum were sent; ``pending``: the byte
    ``want`` was given and not yet sent.
    """

    inside: Signal
    escaped: Signal
    crc: Signal
    body_crc: Signal
    aborted: Signal
    trailer: Signal
    in_trailer: Signal
    count: Signal
    pending: Signal
    want: Signal
    want_last: Signal
    finished: Any


def transmitter_proof(*, depth: int = 4, transmitter: type = FrameTransmitter) -> Proof:
    """Flags only at the ends of a frame, between them what was given and its CRC, for all time.

    Frames, causes, questions and aborts may come at any time, and the line takes bytes at any time.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    dut = transmitter()
    proof.add("transmitter", dut)
    out, frames = dut.bytes, dut.frames
    proof.free(frames.payload, frames.valid, dut.causes, dut.expected, dut.question, dut.abort)
    proof.free(out.ready)
    proof.held("stream", out)

    sent, fetched = Signal(), Signal()
    m.d.comb += [sent.eq(out.valid & out.ready), fetched.eq(frames.valid & frames.ready)]
    inside, escaped = Signal(name="inside"), Signal(name="was_escape")
    crc, body_crc = Signal(32, init=0xFFFFFFFF), Signal(32)
    aborted = Signal()
    trailer = Signal(range(5))  # bytes of the checksum that were sent
    in_trailer = Signal()
    count = Signal(3)  # bytes of the body that were sent, up to 7
    pending, want, want_last = Signal(), Signal(8), Signal()
    value = Signal(8, name="sent_value")
    m.d.comb += value.eq(out.payload ^ Mux(escaped, _FLIP, 0))
    next_crc = _crc_steps(m, crc, value, 8, "sent_crc")
    is_flag, is_escape = Signal(), Signal()
    m.d.comb += [is_flag.eq(out.payload == _FLAG), is_escape.eq(out.payload == _ESCAPE)]
    plain = Signal()
    m.d.comb += plain.eq(sent & ~is_flag & ~is_escape)
    ends = Signal()  # the byte that is sent is the last of the body
    # A body is given on `frames`, or it is a notice of four bytes.
    m.d.comb += ends.eq(Mux(pending, want_last, count == 3))
    with m.If(fetched):
        m.d.sync += [pending.eq(1), want.eq(frames.p.data), want_last.eq(frames.p.last)]
    with m.If(sent):
        with m.If(is_flag):
            m.d.sync += [
                inside.eq(~inside),
                crc.eq(0xFFFFFFFF),
                count.eq(0),
                trailer.eq(0),
                in_trailer.eq(0),
            ]
        with m.Elif(is_escape):
            m.d.sync += escaped.eq(1)
        with m.Else():
            m.d.sync += [escaped.eq(0), crc.eq(next_crc)]
            with m.If(in_trailer):
                m.d.sync += trailer.eq(trailer + 1)
            with m.Else():
                m.d.sync += [pending.eq(0), count.eq(count + (count != 7))]
                with m.If(ends):
                    m.d.sync += [in_trailer.eq(1), body_crc.eq(next_crc)]
    with m.If(sent & is_flag & inside):
        m.d.sync += aborted.eq(0)
    with m.If(dut.abort):
        m.d.sync += aborted.eq(1)

    finished = in_trailer & (trailer == 4)
    claim("flags are at the ends", ~(sent & is_flag & inside) | finished | aborted)
    claim("nothing is outside", ~(sent & ~inside) | is_flag)
    claim("an escape escapes", ~(sent & escaped) | (~is_flag & ~is_escape))
    claim(
        "only what must be is escaped", ~(plain & escaped) | (value == _FLAG) | (value == _ESCAPE)
    )
    claim("its checksum", ~finished | (crc == _RESIDUE))
    claim("the bytes given", ~(plain & ~in_trailer & pending) | (value == want))
    claim("a notice", ~(plain & ~in_trailer & ~pending & (count == 0)) | (value == 0x1F))
    claim("each byte once", ~fetched | ~pending)
    claim("no byte behind the last", ~(plain & in_trailer) | ((trailer < 4) & ~pending))
    silent = Signal(range(8))
    m.d.sync += silent.eq(Mux(out.valid | frames.ready | ~inside, 0, silent + (silent != 7)))
    claim("it goes on", silent <= 3)
    asked = Signal()
    m.d.sync += asked.eq(frames.valid & ~inside)
    claim("it begins", ~asked | out.valid | inside)
    seen = _Sent(
        inside=inside,
        escaped=escaped,
        crc=crc,
        body_crc=body_crc,
        aborted=aborted,
        trailer=trailer,
        in_trailer=in_trailer,
        count=count,
        pending=pending,
        want=want,
        want_last=want_last,
        finished=finished,
    )
    _transmitter_invariants(proof, dut, seen)
    return proof


def _transmitter_invariants(proof: Proof, dut: Any, seen: _Sent) -> None:
    """Ties the registers of the transmitter to what was sent."""
    m, claim, c = proof.m, proof.claim, dut.probes
    inside, escaped, aborted, finished = seen.inside, seen.escaped, seen.aborted, seen.finished
    crc, body_crc, trailer, in_trailer = seen.crc, seen.body_crc, seen.trailer, seen.in_trailer
    count, pending, want, want_last = seen.count, seen.pending, seen.want, seen.want_last
    states, state = c.machine.encoding, c.machine.state
    at = {name: state == number for name, number in states.items()}
    claim("state", state < len(states))
    claim("inside", inside == ~(at["IDLE"] | at["OPEN"]))
    claim("escaped", (c.escaped == escaped) & (~escaped | at["SEND"] & c.special))
    own, left = ~c.crc.crc, c.left
    claim(
        "left",
        (left <= 4)
        & (in_trailer == (at["SEND"] & (left != 4) | at["CLOSE"] & (left == 0) & finished)),
    )
    claim("left in front", at["SEND"] | at["CLOSE"] | at["IDLE"] | (left == 4))
    claim("last", ~in_trailer | c.last)
    claim("sent so far", ~(in_trailer & at["SEND"]) | (trailer == 3 - left))
    claim("none sent", in_trailer | (trailer == 0))
    claim(
        "new",
        ~(at["IDLE"] | at["OPEN"]) | ((crc == 0xFFFFFFFF) & (count == 0) & ~pending & ~escaped),
    )
    claim("new checksum", ~at["OPEN"] | (own == 0xFFFFFFFF))
    claim("abort", ~c.aborted | aborted | at["IDLE"])
    claim("cut", ~at["CLOSE"] | finished | aborted)
    body = at["LOW"] | at["HIGH"] | (at["SEND"] & ~in_trailer)
    claim("given", pending == (body & ~c.notice))
    claim("what was given", ~pending | ((c.byte == want) & (c.last == want_last)))
    claim(
        "part",
        ~(body & c.notice) | (count < 4) & (c.part == (count + 1)[:2]) & (c.last == (count == 3)),
    )
    claim("parts", ~(at["FETCH"] & c.notice) | ((count < 4) & (c.part == count[:2])))
    claim("first part", ~(body & c.notice & (count == 0)) | (c.byte == 0x1F))
    claim("first", ~at["OPEN"] | (c.part == 0))
    claim("checksum, before a byte", ~(at["FETCH"] | at["LOW"]) | (own == crc))
    half = _crc_steps(m, crc, c.byte, 4, "half_crc")
    whole = _crc_steps(m, half, c.byte[4:], 4, "whole_crc")
    claim("checksum, within a byte", ~at["HIGH"] | (own == half))
    claim("checksum, after a byte", ~(at["SEND"] & ~in_trailer) | (own == whole))
    expected, rest, after = Signal(32), c.rest, body_crc
    m.d.comb += expected.eq(~body_crc)
    for k in range(5):
        claim("checksum so far", ~in_trailer | (trailer != k) | (crc == after))
        if k < 4:
            after = _crc_steps(m, after, expected[8 * k :], 8, f"trailer_crc{k}")
            now = in_trailer & at["SEND"] & (trailer == k)
            claim("byte of the checksum", ~now | (c.byte == expected[8 * k :][:8]))
            if k < 3:
                more = 24 - 8 * k
                claim("its rest", ~now | (rest[:more] == expected[8 * k + 8 :]))
