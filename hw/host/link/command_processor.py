"""Carries out the host's commands: register operations, and vectors in and out of the engine."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.parts.interfaces import output_layout
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.link import REPLY, VERSION, Command, Outcome
from stillnet.sw.contract.registers import ADDRESS_BITS, Control, Register, Status

from .receiver import frame_byte_layout

__all__ = ["CommandProcessor"]


class CommandProcessor(wiring.Component):
    """Two machines: one takes commands, the other writes replies.

    A vector goes into the engine as soon as its command is in front, also while the engine still
    computes earlier ones; everything else waits until all of their output vectors are written. So
    replies have the order of the commands.

    Vectors are refused while no verified image is loaded: the engine must say that it is, and no
    word of memory may have been written through this link since the last ``LOAD`` with
    ``VERIFY``.

    Parameters
    ----------
    identity : :class:`bytes`
        ``contract.link.Identity``, packed.
    window : :class:`int`
        Most commands that a host has unanswered.

    Members
    -------
    frames : :py:`In(stream of frame_byte_layout())`
        Commands that were checked.
    replies : :py:`Out(stream of frame_byte_layout())`
    begin : :py:`Out(1)`
        The byte on ``replies`` is a reply's first.
    sequence : :py:`Out(8)`
        Sequence of the reply that begins, or of the next one that will.
    registers : :py:`Out(RegisterBusSignature)`
    inputs : :py:`Out(stream of 16 bits)`
    outputs : :py:`In(stream of output_layout())`
    """

    def __init__(self, identity: bytes, window: int):
        self._identity = bytes(identity)
        self._window = window
        super().__init__(
            {
                "frames": In(stream.Signature(frame_byte_layout())),
                "replies": Out(stream.Signature(frame_byte_layout())),
                "begin": Out(1),
                "sequence": Out(8),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "inputs": Out(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": In(stream.Signature(output_layout())),
            }
        )

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def window(self) -> int:
        return self._window

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        frames, bus = self.frames, self.registers

        m.submodules.identity = identity = Memory(
            shape=8, depth=len(self.identity), init=self.identity
        )
        identity_port = identity.read_port()

        # -- between the two machines -------------------------------------------------------------

        vectors = Signal(range(self.window + 1))  # in the engine, output not yet written
        vector_in, vector_out = Signal(), Signal()
        m.d.sync += vectors.eq(vectors + vector_in - vector_out)
        begin = Signal()  # a reply, only while `quiet`
        quiet = Signal()  # nothing is being written or will be
        byte, byte_valid, byte_ready = Signal(frame_byte_layout()), Signal(), Signal()
        kind = Signal(4)

        # -- commands -----------------------------------------------------------------------------

        sequence = Signal(8)
        ended = Signal()  # the last byte of the command was taken
        with m.If(frames.valid & frames.ready):
            m.d.sync += ended.eq(frames.p.last)

        outcome = Signal(Outcome)
        is_write, half = Signal(), Signal()
        address = Signal(ADDRESS_BITS)
        count = Signal(8)  # accesses left, 0 for 256
        index = Signal(2)  # byte of a value
        last_index = Signal()
        value = Signal(32)  # to be written
        read_value = Signal(32)
        write_strobe, read_strobe = Signal(), Signal()
        m.d.comb += [
            last_index.eq((index == 3) | (half & (index == 1))),
            bus.address.eq(address),
            bus.write_data.eq(value),
            self.inputs.payload.eq(value[:16]),
        ]
        m.d.sync += [bus.write_strobe.eq(write_strobe), bus.read_strobe.eq(read_strobe)]

        # Memory may hold half an image from the first write on, whatever the engine still says;
        # a reset of the link does not make it whole.
        partial = Signal(reset_less=True)
        with m.If(bus.write_strobe):
            with m.If(address == Register.MEMORY_DATA):
                m.d.sync += partial.eq(1)
            verified_load = int(Control.LOAD | Control.VERIFY)
            with m.If((address == Register.CONTROL) & ((value & verified_load) == verified_load)):
                m.d.sync += partial.eq(0)

        rom_place = Signal(range(len(self.identity) + 1))
        m.d.comb += identity_port.addr.eq(rom_place)
        vector = Signal()
        m.d.comb += vector.eq((kind == Command.STEP) | (kind == Command.FEED))

        m.d.comb += byte.data.eq(read_value.word_select(index, 8))

        def take_byte(k: int) -> None:
            m.d.sync += value[8 * k : 8 * k + 8].eq(frames.p.data)

        with m.FSM():
            with m.State("KIND"):
                m.d.comb += frames.ready.eq(1)
                m.d.sync += [
                    kind.eq(frames.p.data),
                    outcome.eq(Outcome.OK),
                    rom_place.eq(0),
                    index.eq(0),
                ]
                with m.If(frames.valid):
                    m.next = "SEQUENCE"
            with m.State("SEQUENCE"):
                m.d.comb += frames.ready.eq(1)
                m.d.sync += sequence.eq(frames.p.data)
                with m.If(frames.valid):
                    m.next = "DISPATCH"
            with m.State("DISPATCH"):
                m.d.sync += [address.eq(Register.STATUS), half.eq(vector)]
                with m.If(vector & ((kind == Command.STEP) | quiet)):
                    m.d.comb += read_strobe.eq(1)
                    m.next = "STATUS"
                with m.Elif(quiet):
                    m.d.comb += begin.eq(1)
                    m.next = "SKIP"
                    with m.If(kind == Command.HELLO):
                        m.d.sync += self.sequence.eq(sequence)
                        m.next = "IDENTITY"
                    with m.Elif(kind == Command.ACCESS):
                        m.next = "OPERATION"
                    with m.Else():
                        m.d.sync += outcome.eq(Outcome.UNKNOWN)

            # A vector.
            with m.State("STATUS"), m.If(bus.ack):
                m.d.sync += read_value.eq(bus.read_data)
                m.next = "ADMIT"
            with m.State("ADMIT"):
                loaded = (read_value & Status.LOADED) != 0
                with m.If(loaded & ~partial & ~ended):
                    m.d.comb += vector_in.eq(kind == Command.STEP)
                    m.next = "ELEMENT"
                with m.Else():
                    m.d.sync += outcome.eq(Outcome.NOT_LOADED)
                    m.next = "REFUSE"
            with m.State("REFUSE"), m.If(quiet):
                m.d.comb += begin.eq(1)
                m.next = "SKIP"
            with m.State("ELEMENT"):
                m.d.comb += frames.ready.eq(1)
                with m.If(frames.valid):
                    m.d.sync += index.eq(Mux(last_index, 0, index + 1))
                    with m.If(index == 0):
                        take_byte(0)
                    with m.Else():
                        take_byte(1)
                    with m.If((index != 0) | frames.p.last):
                        m.next = "ENTER"
            with m.State("ENTER"):
                m.d.comb += self.inputs.valid.eq(1)
                with m.If(self.inputs.ready):
                    with m.If(~ended):
                        m.next = "ELEMENT"
                    with m.Elif(kind == Command.STEP):
                        m.next = "KIND"
                    with m.Else():
                        m.next = "REFUSE"  # with outcome OK

            # Register operations.
            with m.State("OPERATION"):
                m.d.sync += [
                    address.eq(frames.p.data),
                    half.eq(frames.p.data[6]),
                    is_write.eq(frames.p.data[7]),
                ]
                with m.If(ended):
                    m.next = "FINISH"
                with m.Else():
                    m.d.comb += frames.ready.eq(1)
                    with m.If(frames.valid):
                        m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += count.eq(frames.p.data)
                with m.If(ended):
                    m.next = "CUT"
                with m.Else():
                    m.d.comb += frames.ready.eq(1)
                    with m.If(frames.valid & is_write):
                        m.next = "GATHER"
                    with m.If(frames.valid & ~is_write):
                        m.next = "READ"
            with m.State("GATHER"):
                with m.If(ended):
                    m.next = "CUT"
                with m.Else():
                    m.d.comb += frames.ready.eq(1)
                with m.If(frames.valid & frames.ready):
                    m.d.sync += index.eq(Mux(last_index, 0, index + 1))
                    with m.Switch(index):
                        with m.Case(0):
                            take_byte(0)
                            m.d.sync += value[16:].eq(0)
                        for k in range(1, 4):
                            with m.Case(k):
                                take_byte(k)
                    with m.If(last_index):
                        m.d.comb += write_strobe.eq(1)
                        m.next = "WRITE"
            with m.State("WRITE"), m.If(bus.ack):
                m.d.sync += count.eq(count - 1)
                m.next = "GATHER"
                with m.If(count == 1):
                    m.next = "OPERATION"
            with m.State("READ"):
                m.d.comb += read_strobe.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"), m.If(bus.ack):
                m.d.sync += read_value.eq(bus.read_data)
                m.next = "RETURN"
            with m.State("RETURN"):
                m.d.comb += byte_valid.eq(1)
                with m.If(byte_ready):
                    m.d.sync += index.eq(Mux(last_index, 0, index + 1))
                    with m.If(last_index):
                        m.d.sync += count.eq(count - 1)
                        m.next = "READ"
                        with m.If(count == 1):
                            m.next = "OPERATION"
            with m.State("CUT"):
                m.d.sync += outcome.eq(Outcome.CUT)
                m.next = "FINISH"

            with m.State("IDENTITY"):
                m.next = "IDENTITY_READ"
                with m.If(rom_place == len(self.identity)):
                    m.next = "SKIP"
            with m.State("IDENTITY_READ"):
                m.d.sync += [read_value[:8].eq(identity_port.data), rom_place.eq(rom_place + 1)]
                m.next = "IDENTITY_BYTE"
            with m.State("IDENTITY_BYTE"):
                m.d.comb += byte_valid.eq(1)
                with m.If(byte_ready):
                    m.next = "IDENTITY"

            with m.State("SKIP"):
                with m.If(ended):
                    m.next = "FINISH"
                with m.Else():
                    m.d.comb += frames.ready.eq(1)
            with m.State("FINISH"):
                m.d.comb += [byte_valid.eq(1), byte.data.eq(outcome), byte.last.eq(1)]
                with m.If(byte_ready):
                    m.next = "KIND"

        # -- replies ------------------------------------------------------------------------------

        replies = self.replies
        reply_kind = Signal(3)
        element = Signal(output_layout())
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += quiet.eq(vectors == 0)
                m.d.sync += reply_kind.eq(Mux(quiet, kind, Command.STEP))
                with m.If(begin | (~quiet & self.outputs.valid)):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [
                    self.begin.eq(1),
                    replies.valid.eq(1),
                    replies.p.data.eq(VERSION << 4 | REPLY | reply_kind),
                ]
                with m.If(replies.ready):
                    m.next = "NUMBER"
            with m.State("NUMBER"):
                m.d.comb += [replies.valid.eq(1), replies.p.data.eq(self.sequence)]
                with m.If(replies.ready):
                    m.d.sync += self.sequence.eq(self.sequence + 1)
                    m.next = "DATA"
                    with m.If(vectors != 0):
                        m.next = "OUTPUT"
            with m.State("OUTPUT"):
                m.d.comb += self.outputs.ready.eq(1)
                m.d.sync += element.eq(self.outputs.payload)
                with m.If(self.outputs.valid):
                    m.next = "OUTPUT_LOW"
            with m.State("OUTPUT_LOW"):
                m.d.comb += [replies.valid.eq(1), replies.p.data.eq(element.data[:8])]
                with m.If(replies.ready):
                    m.next = "OUTPUT_HIGH"
            with m.State("OUTPUT_HIGH"):
                m.d.comb += [replies.valid.eq(1), replies.p.data.eq(element.data[8:])]
                with m.If(replies.ready):
                    m.next = "OUTPUT"
                    with m.If(element.last):
                        m.next = "OUTPUT_DONE"
            with m.State("OUTPUT_DONE"):
                m.d.comb += [replies.valid.eq(1), replies.p.data.eq(Outcome.OK)]
                m.d.comb += replies.p.last.eq(1)
                with m.If(replies.ready):
                    m.d.comb += vector_out.eq(1)
                    m.next = "IDLE"
            with m.State("DATA"):
                m.d.comb += [
                    replies.valid.eq(byte_valid),
                    replies.payload.eq(byte),
                    byte_ready.eq(replies.ready),
                ]
                with m.If(byte_valid & byte.last & replies.ready):
                    m.next = "IDLE"
        return m
