"""The streams of an engine as registers, for a CPU that has nothing but a bus."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from stillnet.hw.parts.block_fifo import BlockFifo
from stillnet.hw.parts.layouts import output_layout
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import ADDRESS_BITS
from stillnet.sw.contract.window import (
    QUEUE_ELEMENTS,
    WINDOW_ADDRESS_BITS,
    Interrupt,
    StreamRegister,
)

from .register_bus import RegisterBusSignature

__all__ = ["StreamWindow"]


class StreamWindow(wiring.Component):
    """Adds the registers of :mod:`stillnet.sw.contract.window` to those of an engine.

    A write for which the input queue has no room is lost, and a read of an empty output queue
    gives zero: the CPU reads ``QUEUES`` before.

    Members
    -------
    bus : In(RegisterBusSignature)
        From the CPU; one address bit more than the engine's.
    registers : Out(RegisterBusSignature)
        To the engine.
    inputs : Out(stream of signed 16 bits)
        To the engine.
    outputs : In(stream of ``output_layout``)
        From the engine.
    irq : Out(1)
        A cause is there that is enabled; a level, from a register.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bus": In(RegisterBusSignature(WINDOW_ADDRESS_BITS)),
                "registers": Out(RegisterBusSignature(ADDRESS_BITS)),
                "inputs": Out(stream.Signature(signed(ACTIVATION_BITS))),
                "outputs": In(stream.Signature(output_layout())),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus, engine = self.bus, self.registers
        m.submodules.waiting = waiting = BlockFifo(signed(ACTIVATION_BITS), QUEUE_ELEMENTS)
        m.submodules.done = done = BlockFifo(output_layout(), QUEUE_ELEMENTS)
        connect(m, waiting.o_stream, flipped(self.inputs))
        ours = Signal()  # the request is for a register of the streams
        ack = Signal()
        answer = Signal(32)
        m.d.comb += [
            ours.eq(bus.address[ADDRESS_BITS]),
            engine.address.eq(bus.address),
            engine.write_data.eq(bus.write_data),
            engine.write_strobe.eq(bus.write_strobe & ~ours),
            engine.read_strobe.eq(bus.read_strobe & ~ours),
            bus.ack.eq(engine.ack | ack),
            bus.read_data.eq(Mux(ours, answer, engine.read_data)),
        ]
        room = self._room(m, waiting)
        there, whole = self._there(m, done)
        causes, enabled = Signal(len(Interrupt)), Signal(len(Interrupt))
        m.d.comb += causes.eq(Cat(whole, room == QUEUE_ELEMENTS))
        m.d.sync += self.irq.eq((causes & enabled).any())

        index = bus.address[:ADDRESS_BITS]
        element = index == StreamRegister.ELEMENT % (1 << ADDRESS_BITS)
        pair = index == StreamRegister.PAIR % (1 << ADDRESS_BITS)
        second = Signal()  # of a pair
        m.d.sync += ack.eq(0)
        m.d.comb += waiting.i_stream.payload.eq(bus.write_data.word_select(second, 16).as_signed())
        with m.FSM(name="access"):
            with m.State("IDLE"):
                m.d.sync += second.eq(0)
                with m.If(ours & bus.write_strobe):
                    m.next = "WRITE"
                with m.Elif(ours & bus.read_strobe):
                    m.next = "READ"
            with m.State("WRITE"):
                m.d.comb += waiting.i_stream.valid.eq((element | pair) & room.any())
                with m.If(index == StreamRegister.INTERRUPTS % (1 << ADDRESS_BITS)):
                    m.d.sync += enabled.eq(bus.write_data)
                self._next(m, pair, second, ack)
            with m.State("READ"):
                with m.If(~(element | pair)):
                    queues = index == StreamRegister.QUEUES % (1 << ADDRESS_BITS)
                    m.d.sync += answer.eq(
                        Mux(queues, Cat(room, C(0, 16 - len(room)), there), causes)
                    )
                    self._next(m, pair, second, ack)
                with m.Elif(done.o_stream.valid | ~there.any()):
                    found = done.o_stream.payload
                    half = Mux(done.o_stream.valid, found.data.as_unsigned(), 0)
                    m.d.comb += done.o_stream.ready.eq(1)
                    with m.If(second):
                        m.d.sync += answer[16:].eq(half)
                    with m.Else():
                        last = done.o_stream.valid & element & found.last
                        m.d.sync += answer.eq(Cat(half, last))
                    self._next(m, pair, second, ack)
        return m

    def _next(self, m: Module, pair: Value, second: Signal, ack: Signal) -> None:
        """The second element of a pair, or the end of the access."""
        with m.If(pair & ~second):
            m.d.sync += second.eq(1)
        with m.Else():
            m.d.sync += ack.eq(1)
            m.next = "IDLE"

    def _room(self, m: Module, waiting: BlockFifo) -> Signal:
        """Elements that the input queue has room for."""
        room = Signal(range(QUEUE_ELEMENTS + 1), init=QUEUE_ELEMENTS)
        taken = waiting.o_stream.valid & waiting.o_stream.ready
        m.d.sync += room.eq(room - waiting.i_stream.valid + taken)
        return room

    def _there(self, m: Module, done: BlockFifo) -> tuple[Signal, Signal]:
        """Elements in the output queue, and whether a whole vector is among them."""
        there = Signal(range(QUEUE_ELEMENTS + 1))
        ends = Signal(range(QUEUE_ELEMENTS + 1))
        whole = Signal()
        full = there == QUEUE_ELEMENTS
        put = self.outputs.valid & ~full
        taken = done.o_stream.valid & done.o_stream.ready
        m.d.comb += [
            self.outputs.ready.eq(~full),
            done.i_stream.payload.eq(self.outputs.payload),
            done.i_stream.valid.eq(put),
            whole.eq(ends.any() | full),
        ]
        m.d.sync += [
            there.eq(there + put - taken),
            ends.eq(ends + (put & self.outputs.p.last) - (taken & done.o_stream.p.last)),
        ]
        return there, whole
