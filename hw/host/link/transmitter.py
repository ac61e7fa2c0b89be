"""From replies and notices to bytes on the wire."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from stillnet.sw.contract.link import ESCAPE, FLAG, FLIP, NOTICE, TRAILER_BYTES, VERSION, Cause

from .receiver import frame_byte_layout

__all__ = ["FrameTransmitter"]


class FrameTransmitter(wiring.Component):
    """Puts flags, escapes and checksum to frames; sends notices between them.

    A byte takes four cycles. A frame may come as slowly as it likes.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    frames : :py:`In(stream of frame_byte_layout())`
        Kind, sequence, payload.
    causes : :py:`In(len(Cause))`
        What happened this cycle. It is kept until a notice has said so.
    expected : :py:`In(8)`
        Sequence of notices, as it is when they are sent.
    question : :py:`In(8)`
        The latest question, repeated in notices.
    abort : :py:`In(1)`
        One cycle: the rest of the frame on ``frames`` will not come. What was sent of it is closed
        without a checksum, so that the host drops it.
    bytes : :py:`Out(stream.Signature(8))`
    """

    def __init__(self) -> None:
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "frames": In(stream.Signature(frame_byte_layout())),
                "causes": In(len(Cause)),
                "expected": In(8),
                "question": In(8),
                "abort": In(1),
                "bytes": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        crc = CRC32_ISO_HDLC(data_width=4).create()
        crc_start = Signal()
        m.submodules.crc = ResetInserter(crc_start)(crc)  # as in the receiver
        pending = Signal(len(Cause))
        m.d.sync += pending.eq(pending | self.causes)

        notice, part = Signal(), Signal(2)
        told, question = Signal(len(Cause)), Signal(8)  # of one moment, that of ``expected``
        byte, last = Signal(8), Signal()
        rest = Signal(8 * (TRAILER_BYTES - 1))  # of the checksum
        left = Signal(range(TRAILER_BYTES + 1))
        escaped, special, aborted = Signal(), Signal(), Signal()
        m.d.comb += special.eq((byte == FLAG) | (byte == ESCAPE))
        with m.FSM() as machine:
            with m.State("IDLE"):
                m.d.comb += crc_start.eq(1)
                m.d.sync += [
                    notice.eq(pending.any()),
                    part.eq(0),
                    left.eq(TRAILER_BYTES),
                    aborted.eq(0),
                ]
                with m.If(pending.any() | self.frames.valid):
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [self.bytes.valid.eq(1), self.bytes.payload.eq(FLAG)]
                with m.If(self.bytes.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):
                with m.If(notice):
                    m.d.sync += [part.eq(part + 1), last.eq(part == 3)]
                    m.next = "LOW"
                    with m.Switch(part):
                        with m.Case(0):
                            m.d.sync += byte.eq(VERSION << 4 | NOTICE)
                        with m.Case(1):
                            m.d.sync += [
                                byte.eq(self.expected),
                                question.eq(self.question),
                                told.eq(pending),
                                pending.eq(self.causes),
                            ]
                        with m.Case(2):
                            m.d.sync += byte.eq(told)
                        with m.Default():
                            m.d.sync += byte.eq(question)
                with m.Elif(aborted):
                    m.next = "CLOSE"
                with m.Else():
                    m.d.comb += self.frames.ready.eq(~self.abort)
                    m.d.sync += [byte.eq(self.frames.p.data), last.eq(self.frames.p.last)]
                    with m.If(self.frames.valid & ~self.abort):
                        m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [crc.data.eq(byte[:4]), crc.valid.eq(1)]
                m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [crc.data.eq(byte[4:]), crc.valid.eq(1)]
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [
                    self.bytes.valid.eq(1),
                    self.bytes.payload.eq(
                        Mux(special & ~escaped, ESCAPE, byte ^ Mux(escaped, FLIP, 0))
                    ),
                ]
                with m.If(self.bytes.ready):
                    m.d.sync += escaped.eq(special & ~escaped)
                    with m.If(special & ~escaped):
                        pass  # the byte itself follows
                    with m.Elif(~last):
                        m.next = "FETCH"
                    with m.Elif(left == 0):
                        m.next = "CLOSE"
                    with m.Else():
                        m.d.sync += left.eq(left - 1)
                        m.d.sync += [byte.eq(rest[:8]), rest.eq(rest >> 8)]
                        with m.If(left == TRAILER_BYTES):
                            m.d.sync += [byte.eq(crc.crc[:8]), rest.eq(crc.crc[8:])]
            with m.State("CLOSE"):
                m.d.comb += [self.bytes.valid.eq(1), self.bytes.payload.eq(FLAG)]
                with m.If(self.bytes.ready):
                    m.next = "IDLE"
        with m.If(self.abort):
            m.d.sync += aborted.eq(1)
        self.probes = SimpleNamespace(
            machine=machine,
            crc=crc,
            notice=notice,
            part=part,
            byte=byte,
            last=last,
            rest=rest,
            left=left,
            escaped=escaped,
            special=special,
            aborted=aborted,
        )
        return m
