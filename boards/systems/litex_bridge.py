"""The core's AXI4 master on a Wishbone bus, for LiteX systems.

LiteX has a chain of converters for this, with which a load did not end, and which drops errors of
the bus. This is one state machine: one burst after the other, word by word, errors kept.
"""

from __future__ import annotations

from typing import Any

from litex.gen import FSM, If, LiteXModule, NextState, NextValue, Signal
from litex.soc.interconnect import axi, wishbone

__all__ = ["WeightsOnWishbone"]

_OKAY, _SLVERR = 0b00, 0b10
_BITS = 32


class WeightsOnWishbone(LiteXModule):
    """Reads bursts and writes single words of an AXI4 master, word by word.

    Parameters
    ----------
    memory : AXIInterface
        INCR bursts of full words for reads, one word for a write, as the core makes them.

    Attributes
    ----------
    bus : wishbone.Interface
        Master, 32 bits.
    """

    def __init__(self, memory: axi.AXIInterface) -> None:
        self.bus = bus = wishbone.Interface(
            data_width=_BITS, address_width=memory.address_width, addressing="word"
        )
        parts = memory.data_width // _BITS
        part, address = Signal(max=max(2, parts)), Signal(len(bus.adr))
        left, data, failed = Signal(8), Signal(memory.data_width), Signal()
        self.comb += [
            bus.adr.eq(address),
            memory.r.data.eq(data),
            memory.r.last.eq(left == 0),
            memory.r.resp.eq(failed * _SLVERR),
            memory.b.resp.eq(failed * _SLVERR),
        ]
        done = Signal()
        self.comb += done.eq(bus.ack | bus.err)
        places = [slice(_BITS * k, _BITS * (k + 1)) for k in range(parts)]
        self.fsm = fsm = FSM(reset_state="IDLE")
        fsm.act(
            "IDLE",
            NextValue(failed, 0),
            NextValue(part, 0),
            If(
                memory.aw.valid & memory.w.valid,
                memory.aw.ready.eq(1),
                NextValue(address, memory.aw.addr[2:]),
                NextState("WRITE"),
            ).Elif(
                memory.ar.valid,
                memory.ar.ready.eq(1),
                NextValue(address, memory.ar.addr[2:]),
                NextValue(left, memory.ar.len),
                NextState("READ"),
            ),
        )
        fsm.act(
            "READ",
            bus.cyc.eq(1),
            bus.stb.eq(1),
            bus.sel.eq(2 ** (_BITS // 8) - 1),
            If(
                done,
                *_each(part, [NextValue(data[place], bus.dat_r) for place in places]),
                *_step(part, parts, address, failed, bus.err, "ANSWER"),
            ),
        )
        fsm.act(
            "ANSWER",
            memory.r.valid.eq(1),
            If(
                memory.r.ready,
                NextValue(failed, 0),
                NextValue(left, left - 1),
                If(left == 0, NextState("IDLE")).Else(NextState("READ")),
            ),
        )
        strobes = [
            bus.sel.eq(memory.w.strb[place.start // 8 : place.stop // 8]) for place in places
        ]
        fsm.act(
            "WRITE",
            bus.cyc.eq(1),
            bus.stb.eq(1),
            bus.we.eq(1),
            *_each(part, [bus.dat_w.eq(memory.w.data[place]) for place in places]),
            *_each(part, strobes),
            If(
                done,
                memory.w.ready.eq(part == parts - 1),
                *_step(part, parts, address, failed, bus.err, "WRITTEN"),
            ),
        )
        fsm.act("WRITTEN", memory.b.valid.eq(1), If(memory.b.ready, NextState("IDLE")))


def _each(part: Signal, statements: list[Any]) -> list[Any]:
    """One statement for each part of a word."""
    return [If(part == k, statement) for k, statement in enumerate(statements)]


def _step(
    part: Signal, parts: int, address: Signal, failed: Signal, error: Signal, after: str
) -> list[Any]:
    """To the next part of a word; after the last one to another state."""
    return [
        NextValue(address, address + 1),
        If(error, NextValue(failed, 1)),
        If(part == parts - 1, NextValue(part, 0), NextState(after)).Else(NextValue(part, part + 1)),
    ]
