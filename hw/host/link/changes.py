"""Vectors that come and go as changes (``contract.vectors.changes``), a bit per cycle.

Both blocks keep the latest vector in a memory. The line is slow: a byte takes hundreds of cycles.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.layouts import output_layout
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.vectors.changes import BLOCK, FULL_WIDTH, WIDTH_BITS, Form

from .receiver import frame_byte_layout

__all__ = ["FORM_BITS", "ChangeReader", "ChangeWriter"]

FORM_BITS = 2
MASKED, SLOPE = (form.value.bit_length() - 1 for form in (Form.MASKED, Form.SLOPE))
assert BLOCK == 1 << 3


def _check_depth(depth: int) -> int:
    if depth < 2 * BLOCK or depth & (depth - 1):
        raise ValueError(f"Depth must be a power of two from {2 * BLOCK}, not {depth!r}")
    return depth


def _added(m: Module, a: Any, b: Any, carry: Signal) -> Any:
    """A bit of the sum of two; the carry to the next bit is kept, where the context says so."""
    m.d.sync += carry.eq((a & b) | (a & carry) | (b & carry))
    return a ^ b ^ carry


def _moved(register: Signal, bit: Any) -> Any:
    """A register moved by one place, with a new highest bit."""
    return Cat(register[1:], bit)


class _Latest:
    """A vector in a memory, and a place in it."""

    def __init__(self, m: Module, depth: int, name: str) -> None:
        # What is read while the place is written is not used: Yosys need not add logic for it.
        memory = Memory(shape=ACTIVATION_BITS, depth=depth, init=[], attrs={"no_rw_check": 1})
        m.submodules[name] = memory
        self.write, read = memory.write_port(), memory.read_port()
        self.index = Signal(range(depth + 1))
        self.old = read.data
        m.d.comb += [read.addr.eq(self.index), self.write.addr.eq(self.index)]

    @property
    def slot(self) -> Any:
        """Which element of its block it is."""
        return self.index[:3]


class _Bits:
    """Bytes of a frame as bits, low ones first; behind the last one are zeros.

    Attributes
    ----------
    bit, valid, take : Signal(1)
        A stream of bits.
    drop : Signal(1)
        High to take bytes and drop them.
    ended : Signal(1)
        The last byte was taken.
    """

    def __init__(self, m: Module, bytes_: Any, *, start: Any, nothing: Any) -> None:
        held, left = Signal(8), Signal(range(9))
        self.bit, self.valid, self.take = held[0], Signal(), Signal()
        self.drop, self.ended = Signal(), Signal(init=1)
        m.d.comb += [
            bytes_.ready.eq(~self.ended & ((left == 0) | self.drop)),
            self.valid.eq((left != 0) | self.ended),
        ]
        with m.If(self.take & (left != 0)):
            m.d.sync += [held.eq(held >> 1), left.eq(left - 1)]
        with m.If(bytes_.valid & bytes_.ready):
            m.d.sync += [held.eq(bytes_.p.data), left.eq(8), self.ended.eq(bytes_.p.last)]
        with m.If(start):
            m.d.sync += [held.eq(0), left.eq(0), self.ended.eq(nothing)]


class _ReaderSignals:
    """What the parts of the reader share.

    Attributes
    ----------
    latest, end : _Latest, Signal
        The vector, and the place of its last element.
    whole
        No list is being read.
    bits : _Bits
    width, mask, count
        Of the block; of the elements left in it, the next one first; bits so far.
    value, change
        Of the element: the old one becomes the new one; what is added to it, the one of the
        element before until then.
    negative, carry, change_carry
        Of the residual; of the two sums.
    """

    def __init__(self, m: Module, reader: Any) -> None:
        self.latest = _Latest(m, reader.depth, "latest")
        self.end, self.whole = Signal(range(reader.depth)), Signal()
        self.bits = _Bits(m, reader.bytes, start=reader.start, nothing=reader.nothing)
        self.width, self.mask = Signal(WIDTH_BITS), Signal(BLOCK)
        self.count = Signal(WIDTH_BITS)
        self.value, self.change = Signal(ACTIVATION_BITS), Signal(ACTIVATION_BITS)
        self.negative, self.carry, self.change_carry = Signal(), Signal(), Signal()


class ChangeReader(wiring.Component):
    """Keeps the latest vector from the host, and makes the next one of it and of its changes.

    Parameters
    ----------
    depth : :class:`int`
        Most elements of a vector that changes can be of, a power of two.

    Members
    -------
    bytes : :py:`In(stream of frame_byte_layout())`
        The list of changes of one vector, without the form. Zeros are read behind its end. What is
        too much is taken and dropped.
    start, nothing : :py:`In(1)`
        One cycle: a list follows, or nothing. Only while ``base`` is high.
    form : :py:`In(Form)`
        Stable until ``done``.
    valid, value : :py:`Out(1)`, :py:`Out(16)`
        The next element of the vector, until it comes back with ``keep``.
    done : :py:`Out(1)`
        One cycle: the last element and the last byte were taken.
    keep, element, last : :py:`In(1)`, :py:`In(16)`, :py:`In(1)`
        One cycle: an element goes into the engine; of a whole vector, whether it is the last one.
    base : :py:`Out(1)`
        There is a vector that changes may be of.
    forget : :py:`In(1)`
        There is none any more.
    """

    def __init__(self, depth: int):
        self._depth = _check_depth(depth)
        super().__init__(
            {
                "bytes": In(stream.Signature(frame_byte_layout())),
                "start": In(1),
                "nothing": In(1),
                "form": In(FORM_BITS),
                "valid": Out(1),
                "value": Out(signed(ACTIVATION_BITS)),
                "done": Out(1),
                "keep": In(1),
                "element": In(ACTIVATION_BITS),
                "last": In(1),
                "base": Out(1),
                "forget": In(1),
            }
        )

    @property
    def depth(self) -> int:
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = _ReaderSignals(m, self)
        m.d.comb += self.value.eq(x.value)
        self._keep(m, x)
        with m.FSM():
            self._block(m, x)
            self._element(m, x)
            self._give(m, x)
        return m

    def _keep(self, m: Module, x: _ReaderSignals) -> None:
        """Elements of any vector. One that comes whole and is too long leaves nothing to change."""
        index, full = x.latest.index, x.latest.index[-1]
        m.d.comb += [
            x.latest.write.en.eq(self.keep & ~full),
            x.latest.write.data.eq(self.element),
        ]
        with m.If(self.keep & ~full):
            m.d.sync += index.eq(index + 1)
        with m.If(self.keep & self.last & x.whole):
            m.d.sync += [x.end.eq(index), self.base.eq(~full), index.eq(0)]
        with m.If(self.forget):
            m.d.sync += [self.base.eq(0), index.eq(0)]

    def _block(self, m: Module, x: _ReaderSignals) -> None:
        bits, width = x.bits, _moved(x.width, x.bits.bit)
        with m.State("IDLE"):
            m.d.comb += x.whole.eq(1)
            m.d.sync += [x.change.eq(0), x.count.eq(0)]
            with m.If(self.start):
                m.next = "WIDTH"
        with m.State("WIDTH"):
            m.d.comb += bits.take.eq(1)
            m.d.sync += x.mask.eq(~0)
            with m.If(bits.valid):
                m.d.sync += [x.width.eq(width), x.count.eq(x.count + 1)]
                with m.If(x.count == WIDTH_BITS - 1):
                    m.d.sync += x.count.eq(0)
                    m.next = "LOAD"
                    with m.If(self.form[MASKED] & width.any()):
                        m.next = "MASK"
        with m.State("MASK"):
            m.d.comb += bits.take.eq(1)
            with m.If(bits.valid):
                m.d.sync += [x.mask.eq(_moved(x.mask, bits.bit)), x.count.eq(x.count + 1)]
                with m.If(x.count == BLOCK - 1):
                    m.next = "LOAD"

    def _element(self, m: Module, x: _ReaderSignals) -> None:
        """The new value, bit by bit. The first bit of a coded residual is its sign; the others are
        turned over if it is negative. What is above them is the sign."""
        bits, wanted, ready = x.bits, Signal(), Signal()
        with m.State("LOAD"):
            m.d.sync += [x.value.eq(x.latest.old), x.count.eq(0)]
            m.d.sync += [x.negative.eq(0), x.carry.eq(0), x.change_carry.eq(0)]
            m.next = "SUM"
            with m.If(x.mask[0] & (x.width != 0)):
                m.next = "SIGN"
        with m.State("SIGN"):
            m.d.comb += bits.take.eq(1)
            m.d.sync += x.negative.eq(bits.bit)
            with m.If(bits.valid):
                m.next = "SUM"
        with m.State("SUM"):
            full = (x.width == FULL_WIDTH) & (x.count == FULL_WIDTH - 1)
            m.d.comb += [
                wanted.eq(x.mask[0] & ((x.count + 1 < x.width) | full)),
                bits.take.eq(wanted),
                ready.eq(~wanted | bits.valid),
            ]
            with m.If(ready):
                residual = (wanted & bits.bit) ^ x.negative
                before = self.form[SLOPE] & x.change[0]
                change = _added(m, residual, before, x.change_carry)
                value = _added(m, x.value[0], change, x.carry)
                m.d.sync += [
                    x.change.eq(_moved(x.change, change)),
                    x.value.eq(_moved(x.value, value)),
                    x.count.eq(x.count + 1),
                ]
                with m.If(x.count == ACTIVATION_BITS - 1):
                    m.next = "GIVE"

    def _give(self, m: Module, x: _ReaderSignals) -> None:
        index = x.latest.index
        with m.State("GIVE"):
            m.d.comb += self.valid.eq(1)
            m.d.sync += x.count.eq(0)
            with m.If(self.keep):
                m.d.sync += x.mask.eq(x.mask >> 1)
                m.next = "NEXT"
                with m.If(index == x.end):
                    m.next = "DROP"
        with m.State("NEXT"):  # the memory reads
            m.next = "LOAD"
            with m.If(x.latest.slot == 0):
                m.next = "WIDTH"
        with m.State("DROP"):
            m.d.comb += x.bits.drop.eq(1)
            m.d.sync += index.eq(0)
            with m.If(x.bits.ended):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"


class _WriterSignals:
    """What the parts of the writer share.

    Attributes
    ----------
    latest : _Latest
        The vector.
    old, last
        Of the element; it is the vector's last one.
    change, before, residual
        What it has changed by, and with SLOPE the one before it; what is written of it.
    write, read
        Residuals of a block.
    slot, slots, mask
        Element of the block; the last one that it has; which are not 0.
    out
        What is left of a residual that is being written.
    used, width
        Bits that differ from the sign, in some residual; bits of the largest one, as it is written.
    full
        All bits are written.
    count
        Bits of a part that are written.
    bit, bit_valid, bit_ready
        To the bytes.
    aligned
        No byte has begun, and none is on its way.
    """

    def __init__(self, m: Module, writer: Any) -> None:
        self.latest = _Latest(m, writer.depth, "latest")
        self.old, self.last = Signal(ACTIVATION_BITS), Signal()
        self.out = Signal(ACTIVATION_BITS)
        self.change, self.before = Signal(ACTIVATION_BITS), Signal(ACTIVATION_BITS)
        self.residual = Signal(ACTIVATION_BITS)
        memory = Memory(shape=ACTIVATION_BITS, depth=BLOCK, init=[])
        m.submodules.block = memory
        self.write, self.read = memory.write_port(), memory.read_port(domain="comb")
        self.slot, self.slots = Signal(range(BLOCK)), Signal(range(BLOCK))
        self.mask = Signal(BLOCK)
        self.used = Signal(ACTIVATION_BITS - 1)
        self.width, self.full = Signal(range(ACTIVATION_BITS + 1)), Signal()
        self.count = Signal(range(ACTIVATION_BITS))
        self.bit, self.bit_valid, self.bit_ready = Signal(), Signal(), Signal()
        self.aligned = Signal()


class ChangeWriter(wiring.Component):
    """Keeps the latest vector to the host, and writes what has changed in the next one.

    Parameters
    ----------
    depth : :class:`int`
        Most elements of a vector, a power of two.

    Members
    -------
    elements : :py:`In(stream of output_layout())`
        A vector, between ``start`` and ``done``.
    start : :py:`In(1)`
        One cycle.
    form : :py:`In(Form)`
        Stable until ``done``.
    bytes : :py:`Out(stream of 8 bits)`
        The list of its changes, without the form.
    done : :py:`Out(1)`
        One cycle: the last byte was taken.
    keep : :py:`In(1)`
        One cycle: ``elements`` gives an element of a vector that goes as a whole.
    element : :py:`Out(output_layout())`
        The one that was taken, from the next cycle on.
    """

    def __init__(self, depth: int):
        self._depth = _check_depth(depth)
        super().__init__(
            {
                "elements": In(stream.Signature(output_layout())),
                "start": In(1),
                "form": In(FORM_BITS),
                "bytes": Out(stream.Signature(8)),
                "done": Out(1),
                "keep": In(1),
                "element": Out(output_layout()),
            }
        )

    @property
    def depth(self) -> int:
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = _WriterSignals(m, self)
        self._bytes(m, x)
        self._keep(m, x)
        m.d.comb += [
            x.write.addr.eq(x.slot),
            x.write.data.eq(x.residual),
            x.read.addr.eq(x.slot),
            x.full.eq(x.width >= FULL_WIDTH),
        ]
        with m.FSM():
            self._gather(m, x)
            self._put_head(m, x)
            self._put_elements(m, x)
        return m

    def _keep(self, m: Module, x: _WriterSignals) -> None:
        """Takes elements of any vector, and keeps them."""
        index, full = x.latest.index, x.latest.index[-1]
        written = Signal()
        taken = (self.elements.valid & self.elements.ready) | self.keep
        m.d.sync += written.eq(taken)
        m.d.comb += [
            x.latest.write.en.eq(written & ~full),
            x.latest.write.data.eq(self.element.data),
            x.last.eq(self.element.last),
        ]
        with m.If(taken):
            m.d.sync += [self.element.eq(self.elements.payload), x.old.eq(x.latest.old)]
        with m.If(written & ~full):
            m.d.sync += index.eq(index + 1)
        with m.If(written & x.last):
            m.d.sync += index.eq(0)

    def _bytes(self, m: Module, x: _WriterSignals) -> None:
        held, have, whole = Signal(8), Signal(3), Signal()
        m.d.comb += [
            x.bit_ready.eq(~whole),
            self.bytes.valid.eq(whole),
            self.bytes.payload.eq(held),
            x.aligned.eq((have == 0) & ~whole),
        ]
        with m.If(x.bit_valid & x.bit_ready):
            m.d.sync += [held.eq(_moved(held, x.bit)), have.eq(have + 1), whole.eq(have == 7)]
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += whole.eq(0)

    def _gather(self, m: Module, x: _WriterSignals) -> None:
        """Residuals of a block."""
        with m.State("IDLE"):
            m.d.sync += [x.change.eq(0), x.before.eq(0)]
            with m.If(self.start):
                m.next = "TAKE"
        with m.State("TAKE"):
            m.d.comb += self.elements.ready.eq(1)
            m.d.sync += x.width.eq(0)
            with m.If(self.elements.valid):
                m.next = "CHANGE"
        with m.State("CHANGE"):
            m.d.sync += x.change.eq(self.element.data - x.old)
            with m.If(self.form[SLOPE]):
                m.d.sync += x.before.eq(x.change)
            m.next = "RESIDUAL"
        with m.State("RESIDUAL"):
            m.d.sync += x.residual.eq(x.change - x.before)
            m.next = "KEEP"
        with m.State("KEEP"):
            sign = x.residual[-1].replicate(ACTIVATION_BITS - 1)
            m.d.comb += x.write.en.eq(1)
            m.d.sync += [
                x.used.eq(x.used | (x.residual[:-1] ^ sign)),
                x.mask.eq(_moved(x.mask, x.residual.any())),
                x.slots.eq(x.slot),
                x.slot.eq(x.slot + 1),
                x.count.eq(0),
            ]
            m.next = "TAKE"
            with m.If(x.last | (x.slot == BLOCK - 1)):
                m.next = "COUNT"

    def _put(self, m: Module, x: _WriterSignals, bit: Any) -> Any:
        """Offers a bit; returns a context in which it is taken."""
        m.d.comb += [x.bit_valid.eq(1), x.bit.eq(bit)]
        return m.If(x.bit_ready)

    def _put_head(self, m: Module, x: _WriterSignals) -> None:
        """Width and mask of a block."""
        with m.State("COUNT"):
            m.d.sync += x.used.eq(x.used >> 1)
            with m.If(x.slot != 0):  # a short block
                m.d.sync += [x.slot.eq(x.slot + 1), x.mask.eq(x.mask >> 1)]
            with m.If(x.used.any()):
                m.d.sync += x.width.eq(x.width + 1)
            with m.Elif(x.slot == 0):
                m.d.sync += x.width.eq(x.width + x.mask.any())  # the sign
                m.next = "WIDTH"
        with m.State("WIDTH"):
            width = Mux(x.full, FULL_WIDTH, x.width[:WIDTH_BITS])
            with self._put(m, x, width.bit_select(x.count[:2], 1)):
                m.d.sync += x.count.eq(x.count + 1)
                with m.If(x.count == WIDTH_BITS - 1):
                    m.d.sync += x.count.eq(0)
                    m.next = "ELEMENT"
                    with m.If(x.width == 0):
                        m.next = "END"
                    with m.Elif(self.form[MASKED]):
                        m.next = "MASK"
        with m.State("MASK"), self._put(m, x, x.mask[0]):
            m.d.sync += [x.mask.eq(x.mask.rotate_right(1)), x.count.eq(x.count + 1)]
            with m.If(x.count == BLOCK - 1):
                m.next = "ELEMENT"

    def _put_elements(self, m: Module, x: _WriterSignals) -> None:
        """Residuals of a block: the sign, then the other bits, turned over if it is negative."""
        negative = Signal()
        with m.State("ELEMENT"):
            m.d.sync += [x.out.eq(x.read.data), negative.eq(x.read.data[-1]), x.count.eq(0)]
            m.d.sync += x.mask.eq(x.mask.rotate_right(1))
            m.next = "BITS"
            with m.If(self.form[MASKED] & ~x.mask[0]):
                m.next = "NEXT"
        with m.State("BITS"):
            first = x.count == 0
            with self._put(m, x, Mux(first, 0, x.out[0]) ^ negative):
                m.d.sync += x.count.eq(x.count + 1)
                with m.If(~first):
                    m.d.sync += x.out.eq(x.out >> 1)
                with m.If(Mux(x.full, x.count == ACTIVATION_BITS - 1, x.count + 1 == x.width)):
                    m.next = "NEXT"
        with m.State("NEXT"):
            m.d.sync += x.slot.eq(x.slot + 1)
            m.next = "ELEMENT"
            with m.If(x.slot == x.slots):
                m.next = "END"
        with m.State("END"):
            m.d.sync += x.slot.eq(0)
            m.next = "TAKE"
            with m.If(x.last):
                m.next = "FLUSH"
        with m.State("FLUSH"):
            m.d.comb += x.bit_valid.eq(~x.aligned)
            with m.If(x.aligned):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
