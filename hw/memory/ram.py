"""Weights in on-chip block RAM, behind the engine's memory port."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from .port import LENGTH_BITS, MemoryPortSignature, check_width

__all__ = ["RamPort"]


class RamPort(wiring.Component):
    """Block RAM that answers the engine's memory port with one word per cycle.

    A word is offered three cycles after its request is accepted: one takes the address, one reads
    the RAM, one is the output register that block RAM needs to be fast. Requests of any length,
    also of one word, follow each other without a gap. A write takes one cycle.

    Addresses at and above ``depth`` do not wrap. A write there is dropped, a read there gives an
    unspecified word, and both set ``error``.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of a word address.
    word_bits : :class:`int`
        Width of a word.
    depth : :class:`int`
        Number of words, at most :py:`2 ** address_bits`.
    length_bits : :class:`int`
        Width of the length of a read.
    init : iterable of :class:`int`
        Content of the first words after configuration; all others are zero.

    Members
    -------
    port : :py:`In(MemoryPortSignature(address_bits, word_bits, length_bits))`
        The engine's memory port.

    Raises
    ------
    :exc:`ValueError`
        If ``depth`` is more than the addresses reach, or ``init`` is longer than ``depth``.
    """

    def __init__(
        self,
        address_bits: int,
        word_bits: int,
        depth: int,
        *,
        length_bits: int = LENGTH_BITS,
        init: Iterable[int] = (),
    ):
        signature = MemoryPortSignature(address_bits, word_bits, length_bits)
        check_width("RAM depth", depth)
        if depth > 2**address_bits:
            raise ValueError(
                f"RAM depth must be at most {2**address_bits}, the words that {address_bits} "
                f"address bits reach, not {depth}"
            )
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._depth = depth
        self._length_bits = length_bits
        self._init = tuple(init)
        if len(self._init) > depth:
            raise ValueError(
                f"RAM of depth {depth} cannot be initialised with {len(self._init)} words"
            )
        super().__init__({"port": In(signature)})

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def word_bits(self) -> int:
        return self._word_bits

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def length_bits(self) -> int:
        return self._length_bits

    @property
    def init(self) -> tuple[int, ...]:
        return self._init

    def elaborate(self, platform) -> Module:
        m = Module()
        port = self.port
        ram_bits = ceil_log2(self.depth)

        # A read of a word that is being written may give the old or the new one. So Yosys adds no
        # logic that would make it the old one.
        m.submodules.ram = ram = memory.Memory(
            shape=self.word_bits, depth=self.depth, init=self.init, attrs={"no_rw_check": 1}
        )
        write_port = ram.write_port()
        read_port = ram.read_port()

        # A word passes the latch of the RAM, then `output`. When the engine does not take a word,
        # `spare` stores it, and the whole pipeline stands still while `spare` is full. So its
        # enable comes from a register and not from the far side of the engine.
        output = Signal(self.word_bits)
        output_valid = Signal()
        latch_valid = Signal()
        spare = Signal(self.word_bits)
        spare_valid = Signal()
        enable = Signal()
        m.d.comb += enable.eq(~spare_valid)

        # The request that is being read: its next address (one bit longer, so that an overflow
        # shows), the words left, and a flag for the last word, so that `ready` is fast.
        busy = Signal()
        last = Signal()
        left = Signal(self.length_bits)
        address = Signal(self.address_bits + 1)

        m.d.comb += port.read.ready.eq(~busy | (enable & last))
        with m.If(busy & enable):
            m.d.sync += [
                address.eq(address + 1),
                left.eq(left - 1),
                last.eq(left == 2),
            ]
        with m.If(port.read.ready):
            m.d.sync += [
                busy.eq(port.read.valid & (port.read.p.length != 0)),
                address.eq(port.read.p.address),
                left.eq(port.read.p.length),
                last.eq(port.read.p.length == 1),
            ]

        m.d.comb += [
            read_port.addr.eq(address[:ram_bits]),
            read_port.en.eq(enable),
        ]
        with m.If(enable):
            m.d.sync += [
                latch_valid.eq(busy),
                output.eq(read_port.data),
                output_valid.eq(latch_valid),
            ]

        m.d.comb += [
            port.data.valid.eq(output_valid | spare_valid),
            port.data.payload.eq(Mux(spare_valid, spare, output)),
        ]
        with m.If(~spare_valid):
            m.d.sync += [
                spare.eq(output),
                spare_valid.eq(output_valid & ~port.data.ready),
            ]
        with m.Elif(port.data.ready):
            m.d.sync += spare_valid.eq(0)

        write_fits = Signal()
        m.d.comb += [
            write_fits.eq(port.write.p.address < self.depth),
            write_port.addr.eq(port.write.p.address[:ram_bits]),
            write_port.data.eq(port.write.p.data),
            write_port.en.eq(port.write.valid & write_fits),
            port.write.ready.eq(1),
            port.write_idle.eq(1),
        ]

        wrong = Cat(busy & (address >= self.depth), port.write.valid & ~write_fits)
        with m.If(wrong.any()):
            m.d.sync += port.error.eq(1)

        return m
