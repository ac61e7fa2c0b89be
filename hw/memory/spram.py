"""Weights in the single-port RAM of an iCE40 UltraPlus, behind the engine's memory port."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, ClockSignal, Const, Instance, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2
from amaranth.vendor import SiliconBluePlatform

from .port import LENGTH_BITS, MemoryPortSignature, check_width

__all__ = ["BLOCK_BITS", "BLOCK_WORDS", "SpramPort"]

BLOCK_WORDS = 1 << 14
"""Words of one SB_SPRAM256KA (Lattice TN-02022)."""
BLOCK_BITS = 16
"""Bits of each of these words."""


class SpramPort(wiring.Component):
    """Single-port RAM that answers the engine's memory port with one word per cycle.

    A word is offered two cycles after its request is accepted: one cycle takes the address, one
    reads the RAM. Requests of any length, also of one word, follow each other without a gap. There
    is no output register: the RAM's own register is fast enough, and an UltraPlus has few
    flip-flops.

    In each cycle the RAM either reads or writes, and a write destroys the word at its output. So a
    write is accepted only between reads, after all words have been taken. It takes one cycle. While
    the engine keeps reading, its writes wait.

    Addresses at and above ``depth`` do not wrap. A write there is dropped, a read there gives an
    unspecified word, and both set ``error``. The content at power-up is undefined.

    Parameters
    ----------
    address_bits : int
        Width of a word address.
    word_bits : int
        Width of a word, a multiple of 16. Each 16 bits are one RAM.
    depth : int
        Number of words, at most ``2 ** address_bits``. Each 16384 words are another row of RAMs.
        An UP5K has four RAMs.
    length_bits : int
        Width of the length of a read.
    primitives : bool, optional
        True: use ``SB_SPRAM256KA``. False: use a memory that behaves like it. By default,
        primitives are used on iCE40.

    Members
    -------
    port : In(MemoryPortSignature(address_bits, word_bits, length_bits))
        The engine's memory port.

    Raises
    ------
    ValueError
        If ``word_bits`` is not a multiple of 16, or ``depth`` is more than the addresses reach.
    """

    def __init__(
        self,
        address_bits: int,
        word_bits: int,
        depth: int,
        *,
        length_bits: int = LENGTH_BITS,
        primitives: bool | None = None,
    ) -> None:
        signature = MemoryPortSignature(address_bits, word_bits, length_bits)
        check_width("SPRAM depth", depth)
        if word_bits % BLOCK_BITS:
            raise ValueError(
                f"SPRAM word width must be a multiple of {BLOCK_BITS}, not {word_bits}"
            )
        if depth > 2**address_bits:
            raise ValueError(
                f"SPRAM depth must be at most {2**address_bits}, the words that {address_bits} "
                f"address bits reach, not {depth}"
            )
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._depth = depth
        self._length_bits = length_bits
        self._primitives = primitives
        super().__init__({"port": In(signature)})

    @property
    def address_bits(self) -> int:
        """Width of a word address."""
        return self._address_bits

    @property
    def word_bits(self) -> int:
        """Width of a word."""
        return self._word_bits

    @property
    def depth(self) -> int:
        """Number of words."""
        return self._depth

    @property
    def length_bits(self) -> int:
        """Width of the length of a read."""
        return self._length_bits

    @property
    def primitives(self) -> bool | None:
        """Whether ``SB_SPRAM256KA`` is used; None: on iCE40 only."""
        return self._primitives

    @property
    def blocks(self) -> int:
        """Number of ``SB_SPRAM256KA``."""
        return -(-self.depth // BLOCK_WORDS) * (self.word_bits // BLOCK_BITS)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        port = self.port

        # The request that is being read: its next address (one bit longer, so that an overflow
        # shows), the words left, and a flag for the last word, so that `ready` is fast.
        busy = Signal()
        last = Signal(reset_less=True)
        left = Signal(self.length_bits, reset_less=True)
        address = Signal(self.address_bits + 1, reset_less=True)

        # The RAM keeps its output until it is enabled again. When the engine does not take a word,
        # `spare` stores it, and the RAM stands still while `spare` is full. So the enable comes
        # from a register and not from the far side of the engine.
        word = Signal(self.word_bits)
        word_valid = Signal()
        spare = Signal(self.word_bits, reset_less=True)
        spare_valid = Signal()
        enable = Signal()
        m.d.comb += enable.eq(~spare_valid)

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
        with m.If(enable):
            m.d.sync += word_valid.eq(busy)

        m.d.comb += [
            port.data.valid.eq(word_valid | spare_valid),
            port.data.payload.eq(Mux(spare_valid, spare, word)),
        ]
        with m.If(~spare_valid):
            m.d.sync += [
                spare.eq(word),
                spare_valid.eq(word_valid & ~port.data.ready),
            ]
        with m.Elif(port.data.ready):
            m.d.sync += spare_valid.eq(0)

        write_fits = Signal()
        write = Signal()
        m.d.comb += [
            write_fits.eq(port.write.p.address < self.depth),
            port.write.ready.eq(~busy & ~word_valid),
            write.eq(port.write.ready & port.write.valid & write_fits),
            port.write_idle.eq(1),
        ]

        # `write` is not needed in this choice: without a read in progress none is disturbed.
        ram_address = Signal(max(ceil_log2(BLOCK_WORDS), ceil_log2(self.depth)))
        m.d.comb += ram_address.eq(Mux(busy, address, port.write.p.address))
        primitives = self.primitives
        if primitives is None:
            primitives = isinstance(platform, SiliconBluePlatform)
        ram = self._blocks if primitives else self._memory
        ram(m, ram_address, (busy & enable) | write, write, word)

        wrong = Cat(
            busy & (address >= self.depth),
            port.write.valid & port.write.ready & ~write_fits,
        )
        with m.If(wrong.any()):
            m.d.sync += port.error.eq(1)

        return m

    def _memory(self, m: Module, address: Any, enable: Any, write: Any, word: Any) -> None:
        """A memory with one port, written so that any tool understands it."""
        m.submodules.ram = ram = memory.Memory(shape=self.word_bits, depth=self.depth, init=())
        write_port = ram.write_port()
        read_port = ram.read_port()
        m.d.comb += [
            write_port.addr.eq(address),
            write_port.data.eq(self.port.write.p.data),
            write_port.en.eq(enable & write),
            read_port.addr.eq(address),
            read_port.en.eq(enable & ~write),
            word.eq(read_port.data),
        ]

    def _blocks(self, m: Module, address: Any, enable: Any, write: Any, word: Any) -> None:
        """Rows of primitives, one for each 16384 words; one primitive for each 16 bits."""
        rows = -(-self.depth // BLOCK_WORDS)
        row = Signal(range(rows))
        row_read = Signal.like(row, reset_less=True)
        m.d.comb += row.eq(address[ceil_log2(BLOCK_WORDS) :])
        with m.If(enable):
            m.d.sync += row_read.eq(row)
        outputs = []
        for r in range(rows):
            output = Signal(self.word_bits, name=f"output{r}")
            outputs.append(output)
            selected = Signal(name=f"selected{r}")
            m.d.comb += selected.eq(enable & (row == r))
            for k in range(self.word_bits // BLOCK_BITS):
                at = slice(BLOCK_BITS * k, BLOCK_BITS * (k + 1))
                m.submodules[f"spram{r}_{k}"] = Instance(
                    "SB_SPRAM256KA",
                    i_CLOCK=ClockSignal(),
                    i_CHIPSELECT=selected,
                    i_WREN=write,
                    i_MASKWREN=Const(0b1111, 4),
                    i_ADDRESS=address[: ceil_log2(BLOCK_WORDS)],
                    i_DATAIN=self.port.write.p.data[at],
                    i_STANDBY=Const(0),
                    i_SLEEP=Const(0),
                    i_POWEROFF=Const(1),  # low switches the power off
                    o_DATAOUT=output[at],
                )
        m.d.comb += word.eq(Array(outputs)[row_read])
