"""Carries out the host's commands: register operations, and vectors in and out of the engine."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.host.register_bus import RegisterBusSignature
from stillnet.hw.parts.layouts import output_layout
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.link import REPLY, VERSION, Command, Outcome
from stillnet.sw.contract.registers import ADDRESS_BITS, Control, Register, Status
from stillnet.sw.contract.vectors.changes import WANTED_SHIFT

from .changes import FORM_BITS, ChangeReader, ChangeWriter
from .receiver import frame_byte_layout

__all__ = ["CommandProcessor"]


class _Signals:
    """What the two machines and their parts share.

    Attributes
    ----------
    vectors, vector_in, vector_out
        Vectors in the engine whose output is not yet written; one more; one less.
    begin, quiet
        A reply begins, only while ``quiet``: nothing is being written or will be.
    byte, byte_valid, byte_ready
        What a reply consists of, between the machines.
    kind, sequence, ended, outcome
        Of the command; its last byte was taken.
    is_write, half, address, count, index, last_index
        A register operation: 16 bits per value; accesses left, 0 for 256; byte of a value.
    value, read_value
        To be written; read.
    partial
        Memory may hold a part of an image.
    vector, change, step
        The command brings a vector; as changes; one that is answered by a vector.
    output, output_valid
        What the engine gives; with ``slots`` also a last element for what it has lost.
    lost, sink, verdict
        With ``slots``: vectors in the engine are lost; so is what is left of this command; outcome
        of a vector whose output is written.
    begun
        A command begins.
    forming
        Of an accepted command the form of its reply is not known yet.
    form, reply_form
        Of the changes in a command; of those in a reply.
    reader, writer, forms, forms_read
        Where changes are understood: the blocks for them; ports of a memory that says of each
        command whether its reply has changes, and in which form.
    """

    def __init__(self, identity: bytes, window: int) -> None:
        self.vectors = Signal(range(window + 1))
        self.vector_in = Signal()
        self.vector_out = Signal()
        self.begin = Signal()
        self.quiet = Signal()
        self.byte = Signal(frame_byte_layout())
        self.byte_valid = Signal()
        self.byte_ready = Signal()
        self.kind = Signal(4)
        self.sequence = Signal(8)
        self.ended = Signal()
        self.outcome = Signal(Outcome)
        self.is_write = Signal()
        self.half = Signal()
        self.address = Signal(ADDRESS_BITS)
        self.count = Signal(8)
        self.index = Signal(2)
        self.last_index = Signal()
        self.value = Signal(32)
        self.read_value = Signal(32)
        self.write_strobe = Signal()
        self.read_strobe = Signal()
        self.partial = Signal(reset_less=True)  # a reset of the link does not complete an image
        self.rom = Memory(shape=8, depth=len(identity), init=identity)
        self.rom_port = self.rom.read_port()
        self.rom_place = Signal(range(len(identity) + 1))
        self.vector, self.change, self.step = Signal(), Signal(), Signal()
        self.output: Any = None
        self.output_valid: Any = None
        self.lost, self.sink, self.verdict = Signal(), Signal(), Signal(Outcome)
        self.begun, self.forming = Signal(), Signal()
        self.form, self.reply_form = Signal(FORM_BITS), Signal(FORM_BITS)
        self.reader: Any = None
        self.writer: Any = None
        self.forms: Any = None
        self.forms_read: Any = None

    def add_changes(self, m: Module, depth: int, window: int) -> None:
        """What changes need; the memory is written and read by the number of a command."""
        m.submodules.reader = self.reader = ChangeReader(depth)
        m.submodules.writer = self.writer = ChangeWriter(depth)
        m.submodules.forms = forms = Memory(shape=1 + FORM_BITS, depth=window, init=[])
        self.forms, self.forms_read = forms.write_port(), forms.read_port(domain="comb")


class CommandProcessor(wiring.Component):
    """Two machines: one takes commands, the other writes replies.

    A vector goes into the engine as soon as its command is in front, also while the engine still
    computes earlier ones; everything else waits until all of their output vectors are written. So
    replies have the order of the commands.

    Vectors are refused while no verified image is loaded: the engine must say that it is, and no
    word of memory may have been written through this link since the last ``LOAD`` with
    ``VERIFY``. With ``slots`` the words of other images do not count.

    With ``slots`` a watchdog may reset the engine. Then vectors that are in it are refused, each in
    its turn, as if none had been loaded: their replies end with what was written of an output, at
    least an element, and the outcome. The rest of a vector that was on its way in is dropped, and
    so is any other one until the watchdog is acknowledged.

    Parameters
    ----------
    identity : :class:`bytes`
        ``contract.link.Identity``, packed.
    window : :class:`int`
        Most commands that a host has unanswered.
    slots : :class:`bool`
        Another block (:class:`~stillnet.hw.host.slots.Slots`) says whether the image is whole.
    changes : :class:`int`
        Most elements of a vector that may come and go as changes; 0 for none.

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
    blocked, lost : :py:`In(1)`
        With ``slots``: no vectors; the engine is being reset, until all of it is out of that. It is
        ``blocked`` then.
    """

    def __init__(self, identity: bytes, window: int, *, slots: bool = False, changes: int = 0):
        self._slots = slots
        self._changes = changes
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
                **({"blocked": In(1), "lost": In(1)} if slots else {}),
            }
        )

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def window(self) -> int:
        return self._window

    @property
    def slots(self) -> bool:
        return self._slots

    @property
    def changes(self) -> int:
        return self._changes

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = _Signals(self.identity, self.window)
        bus = self.registers
        m.submodules.identity = x.rom
        x.output, x.output_valid = self.outputs.payload, self.outputs.valid
        if self._slots:
            self._lose(m, x)
        m.d.sync += [
            x.vectors.eq(x.vectors + x.vector_in - x.vector_out),
            bus.write_strobe.eq(x.write_strobe),
            bus.read_strobe.eq(x.read_strobe),
        ]
        m.d.comb += [
            x.rom_port.addr.eq(x.rom_place),
            x.step.eq((x.kind == Command.STEP) | x.change),
            x.vector.eq(x.step | (x.kind == Command.FEED)),
            x.last_index.eq((x.index == 3) | (x.half & (x.index == 1))),
            x.byte.data.eq(x.read_value.word_select(x.index, 8)),
            bus.address.eq(x.address),
            bus.write_data.eq(x.value),
            self.inputs.payload.eq(x.value[:ACTIVATION_BITS]),
        ]
        if self.changes:
            x.add_changes(m, self.changes, self.window)
            self._connect_changes(m, x)
        with m.If(self.frames.valid & self.frames.ready):
            m.d.sync += x.ended.eq(self.frames.p.last)
        if not self._slots:
            self._watch_memory(m, x)
        with m.FSM():
            self._header(m, x)
            self._dispatch(m, x)
            self._admit(m, x)
            self._elements(m, x)
            if self.changes:
                self._changed_elements(m, x)
            self._operation(m, x)
            self._write(m, x)
            self._read(m, x)
            self._identity_bytes(m, x)
            self._finish(m, x)
        with m.FSM():
            self._reply_header(m, x)
            self._reply_vector(m, x)
            if self.changes:
                self._reply_changes(m, x)
            self._reply_data(m, x)
        return m

    def _connect_changes(self, m: Module, x: _Signals) -> None:
        m.d.comb += [
            x.change.eq(x.kind == Command.CHANGE),
            x.reader.form.eq(x.form),
            x.writer.form.eq(x.reply_form),
            x.reader.bytes.payload.eq(self.frames.payload),
            x.reader.element.eq(x.value),
            x.reader.last.eq(x.ended),
            x.writer.elements.payload.eq(x.output),
            x.forms.addr.eq(x.sequence),
            x.forms_read.addr.eq(self.sequence),
        ]

    def _lose(self, m: Module, x: _Signals) -> None:
        """The watchdog resets the engine. For each vector in it comes a last element from here; of
        the command that is being carried out no more goes in."""
        lost, sink = Signal(), Signal()
        x.output, x.output_valid = Signal(output_layout()), Signal()
        m.d.comb += [
            x.lost.eq(self.lost | lost),
            x.sink.eq(self.lost | sink),
            x.partial.eq(self.blocked | x.sink),
            x.output.data.eq(self.outputs.p.data),
            x.output.last.eq(self.outputs.p.last | x.lost),
            x.output_valid.eq(self.outputs.valid | x.lost),
        ]
        m.d.sync += x.verdict.eq(Mux(x.lost, Outcome.NOT_LOADED, Outcome.OK))
        with m.If(self.lost):
            m.d.sync += [lost.eq(1), sink.eq(1)]
        with m.Else():
            with m.If(x.vectors == 0):
                m.d.sync += lost.eq(0)
            with m.If(x.begun):
                m.d.sync += sink.eq(0)

    def _watch_memory(self, m: Module, x: _Signals) -> None:
        """From the first write on memory may hold a part of an image, whatever the engine says."""
        verified_load = int(Control.LOAD | Control.VERIFY)
        with m.If(self.registers.write_strobe):
            with m.If(x.address == Register.MEMORY_DATA):
                m.d.sync += x.partial.eq(1)
            with m.If(
                (x.address == Register.CONTROL) & ((x.value & verified_load) == verified_load)
            ):
                m.d.sync += x.partial.eq(0)

    # -- commands ---------------------------------------------------------------------------------

    def _header(self, m: Module, x: _Signals) -> None:
        frames = self.frames
        with m.State("KIND"):
            m.d.comb += frames.ready.eq(1)
            if self._slots:
                m.d.comb += x.begun.eq(1)
                with m.If(x.sink):
                    self._forget(m, x)
            m.d.sync += [
                x.kind.eq(frames.p.data),
                x.outcome.eq(Outcome.OK),
                x.rom_place.eq(0),
                x.index.eq(0),
            ]
            with m.If(frames.valid):
                m.next = "SEQUENCE"
        with m.State("SEQUENCE"):
            m.d.comb += frames.ready.eq(1)
            m.d.sync += x.sequence.eq(frames.p.data)
            with m.If(frames.valid):
                m.next = "DISPATCH"

    def _dispatch(self, m: Module, x: _Signals) -> None:
        """A vector enters at once; everything else waits until no reply is being written."""
        with m.State("DISPATCH"):
            m.d.sync += [x.address.eq(Register.STATUS), x.half.eq(x.vector)]
            with m.If(x.vector & (x.step | x.quiet)):
                m.d.comb += x.read_strobe.eq(1)
                m.next = "STATUS"
            with m.Elif(x.quiet):
                m.d.comb += x.begin.eq(1)
                m.next = "SKIP"
                with m.If(x.kind == Command.HELLO):
                    m.d.sync += self.sequence.eq(x.sequence)
                    self._forget(m, x)
                    m.next = "IDENTITY"
                with m.Elif(x.kind == Command.ACCESS):
                    m.next = "OPERATION"
                with m.Else():
                    m.d.sync += x.outcome.eq(Outcome.UNKNOWN)

    def _admit(self, m: Module, x: _Signals) -> None:
        """A vector, if an image is loaded."""
        bus = self.registers
        with m.State("STATUS"), m.If(bus.ack):
            m.d.sync += x.read_value.eq(bus.read_data)
            m.next = "ADMIT"
        with m.State("ADMIT"):
            loaded = (x.read_value & Status.LOADED) != 0
            known = ~x.change | x.reader.base if self.changes else Const(1)
            m.next = "REFUSE"
            with m.If(~loaded | x.partial | x.ended):
                m.d.sync += x.outcome.eq(Outcome.NOT_LOADED)
                self._forget(m, x)
            with m.Elif(~known):
                m.d.sync += x.outcome.eq(Outcome.NO_BASE)
            with m.Else():
                m.d.comb += x.vector_in.eq(x.step)
                m.next = "ELEMENT"
                if self.changes:
                    m.d.comb += x.forms.en.eq(~x.change)  # with zeros
                    with m.If(x.change):
                        m.next = "FORM"
        with m.State("REFUSE"), m.If(x.quiet):
            m.d.comb += x.begin.eq(1)
            m.next = "SKIP"

    def _forget(self, m: Module, x: _Signals) -> None:
        """Changes may not be of what came before."""
        if self.changes:
            m.d.comb += x.reader.forget.eq(1)

    def _take_byte(self, m: Module, x: _Signals, k: int) -> None:
        m.d.sync += x.value[8 * k : 8 * k + 8].eq(self.frames.p.data)

    def _elements(self, m: Module, x: _Signals) -> None:
        frames = self.frames
        with m.State("ELEMENT"):
            m.d.comb += frames.ready.eq(1)
            with m.If(frames.valid):
                m.d.sync += x.index.eq(Mux(x.last_index, 0, x.index + 1))
                with m.If(x.index == 0):
                    self._take_byte(m, x, 0)
                with m.Else():
                    self._take_byte(m, x, 1)
                with m.If((x.index != 0) | frames.p.last):
                    m.next = "ENTER"
        with m.State("ENTER"):
            with m.If(self._offer(m, x)):
                if self.changes:
                    m.d.comb += x.reader.keep.eq(x.kind == Command.STEP)
                if self._slots:
                    with m.If(x.sink):
                        m.d.sync += x.outcome.eq(Outcome.NOT_LOADED)
                with m.If(~x.ended):
                    m.next = "ELEMENT"
                with m.Elif(x.kind == Command.STEP):
                    m.next = "KIND"
                with m.Else():
                    m.next = "REFUSE"  # with outcome OK

    def _offer(self, m: Module, x: _Signals) -> Any:
        """Offers an element to the engine; returns whether it is gone."""
        valid, taken = Const(1), self.inputs.ready
        if self._slots:
            valid, taken = ~x.sink, self.inputs.ready | x.sink
        m.d.comb += self.inputs.valid.eq(valid)
        return taken

    def _changed_elements(self, m: Module, x: _Signals) -> None:
        frames, reader = self.frames, x.reader
        with m.State("FORM"):
            m.d.comb += [
                frames.ready.eq(1),
                reader.nothing.eq(frames.p.last),
                x.forms.data.eq(Cat(Const(1, 1), frames.p.data >> WANTED_SHIFT)),
            ]
            if self._slots:
                m.d.comb += x.forming.eq(1)
            m.d.sync += x.form.eq(frames.p.data)
            with m.If(frames.valid):
                m.d.comb += [reader.start.eq(1), x.forms.en.eq(1)]
                m.next = "CHANGE"
        with m.State("CHANGE"):
            m.d.comb += [
                reader.bytes.valid.eq(frames.valid),
                frames.ready.eq(reader.bytes.ready),
            ]
            m.d.sync += x.value[:ACTIVATION_BITS].eq(reader.value)
            with m.If(reader.valid):
                m.next = "ENTER_CHANGE"
            with m.If(reader.done):
                m.next = "KIND"
        with m.State("ENTER_CHANGE"):
            taken = self._offer(m, x)
            m.d.comb += reader.keep.eq(taken)
            with m.If(taken):
                m.next = "CHANGE"

    def _operation(self, m: Module, x: _Signals) -> None:
        """Register operations: an address with its flags, and how many accesses."""
        frames = self.frames
        with m.State("OPERATION"):
            m.d.sync += [
                x.address.eq(frames.p.data),
                x.half.eq(frames.p.data[6]),
                x.is_write.eq(frames.p.data[7]),
            ]
            with m.If(x.ended):
                m.next = "FINISH"
            with m.Else():
                m.d.comb += frames.ready.eq(1)
                with m.If(frames.valid):
                    m.next = "COUNT"
        with m.State("COUNT"):
            m.d.sync += x.count.eq(frames.p.data)
            with m.If(x.ended):
                m.next = "CUT"
            with m.Else():
                m.d.comb += frames.ready.eq(1)
                with m.If(frames.valid & x.is_write):
                    m.next = "GATHER"
                with m.If(frames.valid & ~x.is_write):
                    m.next = "READ"

    def _write(self, m: Module, x: _Signals) -> None:
        frames = self.frames
        with m.State("GATHER"):
            with m.If(x.ended):
                m.next = "CUT"
            with m.Else():
                m.d.comb += frames.ready.eq(1)
            with m.If(frames.valid & frames.ready):
                m.d.sync += x.index.eq(Mux(x.last_index, 0, x.index + 1))
                with m.Switch(x.index):
                    with m.Case(0):
                        self._take_byte(m, x, 0)
                        m.d.sync += x.value[16:].eq(0)
                    for k in range(1, 4):
                        with m.Case(k):
                            self._take_byte(m, x, k)
                with m.If(x.last_index):
                    m.d.comb += x.write_strobe.eq(1)
                    m.next = "WRITE"
        with m.State("WRITE"), m.If(self.registers.ack):
            m.d.sync += x.count.eq(x.count - 1)
            m.next = "GATHER"
            with m.If(x.count == 1):
                m.next = "OPERATION"

    def _read(self, m: Module, x: _Signals) -> None:
        bus = self.registers
        with m.State("READ"):
            m.d.comb += x.read_strobe.eq(1)
            m.next = "ANSWER"
        with m.State("ANSWER"), m.If(bus.ack):
            m.d.sync += x.read_value.eq(bus.read_data)
            m.next = "RETURN"
        with m.State("RETURN"):
            m.d.comb += x.byte_valid.eq(1)
            with m.If(x.byte_ready):
                m.d.sync += x.index.eq(Mux(x.last_index, 0, x.index + 1))
                with m.If(x.last_index):
                    m.d.sync += x.count.eq(x.count - 1)
                    m.next = "READ"
                    with m.If(x.count == 1):
                        m.next = "OPERATION"
        with m.State("CUT"):
            m.d.sync += x.outcome.eq(Outcome.CUT)
            m.next = "FINISH"

    def _identity_bytes(self, m: Module, x: _Signals) -> None:
        with m.State("IDENTITY"):
            m.next = "IDENTITY_READ"
            with m.If(x.rom_place == len(self.identity)):
                m.next = "SKIP"
        with m.State("IDENTITY_READ"):
            m.d.sync += [x.read_value[:8].eq(x.rom_port.data), x.rom_place.eq(x.rom_place + 1)]
            m.next = "IDENTITY_BYTE"
        with m.State("IDENTITY_BYTE"):
            m.d.comb += x.byte_valid.eq(1)
            with m.If(x.byte_ready):
                m.next = "IDENTITY"

    def _finish(self, m: Module, x: _Signals) -> None:
        """Drops the rest of the command; the outcome ends the reply."""
        with m.State("SKIP"):
            with m.If(x.ended):
                m.next = "FINISH"
            with m.Else():
                m.d.comb += self.frames.ready.eq(1)
        with m.State("FINISH"):
            m.d.comb += [x.byte_valid.eq(1), x.byte.data.eq(x.outcome), x.byte.last.eq(1)]
            with m.If(x.byte_ready):
                m.next = "KIND"

    # -- replies ----------------------------------------------------------------------------------

    def _put(self, m: Module, data: Any) -> Any:
        """Offers a byte; returns a context in which it is taken."""
        m.d.comb += [self.replies.valid.eq(1), self.replies.p.data.eq(data)]
        return m.If(self.replies.ready)

    def _reply_header(self, m: Module, x: _Signals) -> None:
        reply_kind, step = Signal(3), Const(Command.STEP, 3)
        if self.changes:
            step = Mux(x.forms_read.data[0], Command.CHANGE, Command.STEP)
        with m.State("IDLE"):
            m.d.comb += x.quiet.eq(x.vectors == 0)
            m.d.sync += reply_kind.eq(Mux(x.quiet, x.kind, step))
            if self.changes:
                m.d.sync += x.reply_form.eq(x.forms_read.data[1:])
            ready = x.output_valid & ~x.forming if self._slots else x.output_valid
            with m.If(x.begin | (~x.quiet & ready)):
                m.next = "HEADER"
        with m.State("HEADER"):
            m.d.comb += self.begin.eq(1)
            with self._put(m, VERSION << 4 | REPLY | reply_kind):
                m.next = "NUMBER"
        with m.State("NUMBER"), self._put(m, self.sequence):
            m.d.sync += self.sequence.eq(self.sequence + 1)
            m.next = "DATA"
            with m.If(x.vectors != 0):
                m.next = "OUTPUT"
                if self.changes:
                    with m.If(reply_kind == Command.CHANGE):
                        m.next = "OUTPUT_FORM"

    def _reply_vector(self, m: Module, x: _Signals) -> None:
        element = x.writer.element if self.changes else Signal(output_layout())
        with m.State("OUTPUT"):
            m.d.comb += self.outputs.ready.eq(1)
            if self.changes:
                m.d.comb += x.writer.keep.eq(x.output_valid)
            else:
                m.d.sync += element.eq(x.output)
            with m.If(x.output_valid):
                m.next = "OUTPUT_LOW"
        with m.State("OUTPUT_LOW"), self._put(m, element.data[:8]):
            m.next = "OUTPUT_HIGH"
        with m.State("OUTPUT_HIGH"), self._put(m, element.data[8:]):
            m.next = "OUTPUT"
            with m.If(element.last):
                m.next = "OUTPUT_DONE"
        with m.State("OUTPUT_DONE"):
            m.d.comb += self.replies.p.last.eq(1)
            if self._slots:
                m.d.sync += x.verdict.eq(x.verdict)
            with self._put(m, x.verdict if self._slots else Outcome.OK):
                m.d.comb += x.vector_out.eq(1)
                m.next = "IDLE"

    def _reply_changes(self, m: Module, x: _Signals) -> None:
        writer = x.writer
        with m.State("OUTPUT_FORM"), self._put(m, writer.form):
            m.d.comb += writer.start.eq(1)
            m.next = "OUTPUT_CHANGES"
        with m.State("OUTPUT_CHANGES"):
            m.d.comb += [
                writer.elements.valid.eq(x.output_valid),
                self.outputs.ready.eq(writer.elements.ready),
                self.replies.valid.eq(writer.bytes.valid),
                self.replies.p.data.eq(writer.bytes.payload),
                writer.bytes.ready.eq(self.replies.ready),
            ]
            with m.If(writer.done):
                m.next = "OUTPUT_DONE"

    def _reply_data(self, m: Module, x: _Signals) -> None:
        replies = self.replies
        with m.State("DATA"):
            m.d.comb += [
                replies.valid.eq(x.byte_valid),
                replies.payload.eq(x.byte),
                x.byte_ready.eq(replies.ready),
            ]
            with m.If(x.byte_valid & x.byte.last & replies.ready):
                m.next = "IDLE"
