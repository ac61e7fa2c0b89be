"""A short queue in distributed RAM with its output in a register."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .data_register import Data

__all__ = ["ShortQueue"]


class ShortQueue(wiring.Component):
    """First in, first out; ``valid`` and ``payload`` of the output come from registers.

    What is taken in is offered two cycles later. Besides the ``depth`` in RAM there is one place in
    the output register.

    Parameters
    ----------
    shape : :class:`ShapeLike`
        Shape of the payload.
    depth : :class:`int`
        A power of two.
    counted : :class:`bool`
        Whoever fills it counts the places, so ``i_stream`` is always ready. What comes when it is
        full is lost.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    i_stream : :py:`In(stream.Signature(shape))`
        Once ready, it stays so until something goes in.
    o_stream : :py:`Out(stream.Signature(shape))`
    """

    def __init__(self, shape: Any, depth: int, *, counted: bool = False):
        self._shape = shape
        self._counted = counted
        self._depth = depth
        self._bits = exact_log2(depth)
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "i_stream": In(stream.Signature(shape, always_ready=counted)),
                "o_stream": Out(stream.Signature(shape)),
            }
        )

    @property
    def shape(self) -> Any:
        return self._shape

    @property
    def depth(self) -> int:
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A block RAM would be chosen for long queues, and its data come late.
        m.submodules.ram = ram = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        write_port = ram.write_port()
        read_port = ram.read_port(domain="comb")

        # Pointers have one bit more than addresses, to tell full from empty.
        first = Signal(self._bits + 1)
        end = Signal(self._bits + 1)
        put, get = Signal(), Signal()
        empty, full = Signal(init=1), Signal()
        m.d.comb += [
            put.eq(self.i_stream.valid & self.i_stream.ready),
            get.eq(~empty & (~self.o_stream.valid | self.o_stream.ready)),
            write_port.addr.eq(end[: self._bits]),
            write_port.data.eq(self.i_stream.payload),
            write_port.en.eq(put),
            read_port.addr.eq(first[: self._bits]),
        ]
        if not self._counted:
            m.d.comb += self.i_stream.ready.eq(~full)
        # `full` and `empty` are registers of their own, so that nothing waits for a comparison.
        level = Signal(range(self.depth + 1))
        with m.If(put):
            m.d.sync += end.eq(end + 1)
        with m.If(get):
            m.d.sync += first.eq(first + 1)
        with m.If(put & ~get):
            m.d.sync += [level.eq(level + 1), empty.eq(0), full.eq(level == self.depth - 1)]
        with m.Elif(get & ~put):
            m.d.sync += [level.eq(level - 1), empty.eq(level == 1), full.eq(0)]
        payload = Data(self._shape)
        m.d.comb += self.o_stream.payload.eq(payload)
        with m.If(~self.o_stream.valid | self.o_stream.ready):
            m.d.sync += [payload.eq(read_port.data), self.o_stream.valid.eq(~empty)]
        self.probes = SimpleNamespace(level=level, empty=empty)
        return m
