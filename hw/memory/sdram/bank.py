"""One bank of an SDRAM: which row it has, and when it may be told what."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .parts import SdramPart, SdramTimings
from .pins import BURST

__all__ = ["SdramBank", "ones"]


def ones(count: int) -> int:
    """A number of ``count`` ones: a timer of ``count`` cycles, in unary."""
    return (1 << max(0, count)) - 1


class SdramBank(wiring.Component):
    """Keeps one bank's row and timers.

    Segments are dispatched to their bank in order. A bank takes another row only when no segment
    that was dispatched to it still needs the old one; then it asks to be precharged and activated
    by itself, while data of other banks streams. After a refresh, which closes all banks, it asks
    for its row again as long as a segment needs it.

    Timers are unary and shift: a flag is a register, and the longer of two times is their OR. They
    run out a cycle early, because the command that a bank asks for is chosen one cycle, and issued
    the next.

    Parameters
    ----------
    part : :class:`SdramPart`
    timings : :class:`SdramTimings`
    segments : :class:`int`
        Segments that may be dispatched and not finished.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    next_row : :py:`In(part.row_bits)`
        Row of the segment that waits for dispatch.
    same : :py:`Out(1)`
        The bank has ``next_row`` of the previous cycle, or will have.
    unused : :py:`Out(1)`
        No segment needs the bank.
    dispatch : :py:`In(1)`
        A segment now needs row ``next_row``.
    finish : :py:`In(1)`
        A segment has had its last command.
    choose_activate, choose_precharge : :py:`In(1)`
        What the bank wants will be issued, or all banks closed instead.
    activate, precharge, close : :py:`In(1)`
        Issued in this cycle: ACTIVATE, PRECHARGE, PRECHARGE of all banks.
    read : :py:`In(BURST - 1)`
        A READ was issued in the previous cycle: its columns after the first one, in unary.
    write : :py:`In(1)`
        A WRITE was issued in the previous cycle.
    row : :py:`Out(part.row_bits)`
        Row to activate.
    ready : :py:`Out(1)`
        READ and WRITE may be issued.
    want_activate, want_precharge : :py:`Out(1)`
        May be chosen in this cycle and issued from the next on.
    busy : :py:`Out(1)`
        Must not be precharged in the next cycle.
    """

    def __init__(self, part: SdramPart, timings: SdramTimings, segments: int):
        self._part = part
        self._timings = timings
        self._segments = segments
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "next_row": In(part.row_bits),
                "same": Out(1),
                "unused": Out(1, init=1),
                "dispatch": In(1),
                "finish": In(1),
                "choose_activate": In(1),
                "choose_precharge": In(1),
                "activate": In(1),
                "precharge": In(1),
                "close": In(1),
                "read": In(BURST - 1),
                "write": In(1),
                "row": Out(part.row_bits),
                "ready": Out(1),
                "want_activate": Out(1),
                "want_precharge": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t = self._timings

        # What segments need.
        uses = Signal(range(self._segments + 1))
        assigned = Signal()
        m.d.sync += self.same.eq(assigned & (self.row == self.next_row))
        with m.If(self.dispatch):
            m.d.sync += [self.row.eq(self.next_row), assigned.eq(1)]
        with m.If(self.dispatch & ~self.finish):
            m.d.sync += [uses.eq(uses + 1), self.unused.eq(0)]
        with m.Elif(self.finish & ~self.dispatch):
            m.d.sync += [uses.eq(uses - 1), self.unused.eq(uses == 1)]

        # What the bank is: open with `row`, open with an older row, or closed. It counts as open or
        # closed as soon as the command is chosen, so that nothing waits for the cycle in which it
        # is issued. A refresh may come first; it closes the bank in any case.
        opened = Signal()
        stale = Signal()
        delay = Signal(max(1, t.trcd - 1))
        usable = self.activate
        if t.trcd > 1:
            m.d.sync += delay.eq(Cat(self.activate, delay))
            usable = delay[t.trcd - 2]
        with m.If(usable):
            m.d.sync += self.ready.eq(1)
        other_row, stays = self.dispatch & ~self.same, ~(self.choose_precharge | self.close)
        # Written as gates: the pin of a synchronous reset is late.
        m.d.sync += [
            opened.eq((opened | self.choose_activate) & stays),
            stale.eq(((other_row & opened) | (~other_row & stale)) & stays),
        ]
        with m.If(other_row | self.close):
            m.d.sync += self.ready.eq(0)

        before_activate = Signal(max(t.trp, t.trc))
        before_precharge = Signal(max(t.tras, t.twr, BURST))
        m.d.sync += [
            before_activate.eq(
                (before_activate >> 1)
                | Mux(self.precharge, ones(t.trp - 2), 0)
                | Mux(self.activate, ones(t.trc - 2), 0)
            ),
            # READ and WRITE are reported a cycle late, so one bit less.
            before_precharge.eq(
                (before_precharge >> 1)
                | Mux(self.activate, ones(t.tras - 2), 0)
                | Mux(self.write, ones(t.twr - 3), 0)
                | (self.read >> 2)
            ),
        ]
        m.d.comb += [
            self.want_activate.eq(~self.unused & ~opened & ~before_activate[0]),
            self.want_precharge.eq(stale & ~before_precharge[0]),
            self.busy.eq(before_precharge[0]),
        ]
        self.probes = SimpleNamespace(
            uses=uses, assigned=assigned, opened=opened, stale=stale, delay=delay
        )
        return m
