"""One bank of an SDRAM: which row it has, and when it may be told what."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .parts import SdramPart, SdramTimings
from .pins import BURST

__all__ = ["ISSUED", "ROW_COMMANDS", "RowSignature", "SdramBank", "ones"]


def ones(count: int) -> int:
    """A number of ``count`` ones: a timer of ``count`` cycles, in unary."""
    return (1 << max(0, count)) - 1


class RowSignature(wiring.Signature):
    """Which row segments need of a bank, as the bank sees it.

    Members
    -------
    next : In(part.row_bits)
        Row of the segment that waits for dispatch.
    same : Out(1)
        The bank has ``next`` of the previous cycle, or will have.
    unused : Out(1)
        No segment needs the bank.
    dispatch : In(1)
        A segment now needs row ``next``.
    finish : In(1)
        A segment has had its last command.
    """

    def __init__(self, part: SdramPart) -> None:
        super().__init__(
            {
                "next": In(part.row_bits),
                "same": Out(1),
                "unused": Out(1, init=1),
                "dispatch": In(1),
                "finish": In(1),
            }
        )


ROW_COMMANDS = data.StructLayout({"activate": 1, "precharge": 1})
"""What a bank wants, and what of it is chosen."""

ISSUED = data.StructLayout(
    {"activate": 1, "precharge": 1, "close": 1, "read": BURST - 1, "write": 1}
)
"""To a bank: ACTIVATE, PRECHARGE, and PRECHARGE of all banks in this cycle; READ in the previous
one, its columns after the first one in unary; WRITE in the previous one."""


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
    needed : Out(RowSignature(part))
    want : Out(ROW_COMMANDS)
        May be chosen in this cycle and issued from the next on.
    choose : In(ROW_COMMANDS)
        Will be issued, or all banks closed instead.
    issued : In(ISSUED)
    row : Out(part.row_bits)
        Row to activate.
    ready : Out(1)
        READ and WRITE may be issued.
    busy : Out(1)
        Must not be precharged in the next cycle.
    """

    def __init__(self, part: SdramPart, timings: SdramTimings, segments: int):
        self._part = part
        self._timings = timings
        self._segments = segments
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "needed": Out(RowSignature(part)),
                "want": Out(ROW_COMMANDS),
                "choose": In(ROW_COMMANDS),
                "issued": In(ISSUED),
                "row": Out(part.row_bits),
                "ready": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t, needed, choose, issued = self._timings, self.needed, self.choose, self.issued

        # What segments need.
        uses = Signal(range(self._segments + 1))
        assigned = Signal()
        m.d.sync += needed.same.eq(assigned & (self.row == needed.next))
        with m.If(needed.dispatch):
            m.d.sync += [self.row.eq(needed.next), assigned.eq(1)]
        with m.If(needed.dispatch & ~needed.finish):
            m.d.sync += [uses.eq(uses + 1), needed.unused.eq(0)]
        with m.Elif(needed.finish & ~needed.dispatch):
            m.d.sync += [uses.eq(uses - 1), needed.unused.eq(uses == 1)]

        # What the bank is: open with `row`, open with an older row, or closed. It counts as open or
        # closed as soon as the command is chosen, so that nothing waits for the cycle in which it
        # is issued. A refresh may come first; it closes the bank in any case.
        opened = Signal()
        stale = Signal()
        delay = Signal(max(1, t.trcd - 1))
        usable = issued.activate
        if t.trcd > 1:
            m.d.sync += delay.eq(Cat(issued.activate, delay))
            usable = delay[t.trcd - 2]
        with m.If(usable):
            m.d.sync += self.ready.eq(1)
        other_row, stays = needed.dispatch & ~needed.same, ~(choose.precharge | issued.close)
        # Written as gates: the pin of a synchronous reset is late.
        m.d.sync += [
            opened.eq((opened | choose.activate) & stays),
            stale.eq(((other_row & opened) | (~other_row & stale)) & stays),
        ]
        with m.If(other_row | issued.close):
            m.d.sync += self.ready.eq(0)

        before_activate = Signal(max(t.trp, t.trc))
        before_precharge = Signal(max(t.tras, t.twr, BURST))
        m.d.sync += [
            before_activate.eq(
                (before_activate >> 1)
                | Mux(issued.precharge, ones(t.trp - 2), 0)
                | Mux(issued.activate, ones(t.trc - 2), 0)
            ),
            # READ and WRITE are reported a cycle late, so one bit less.
            before_precharge.eq(
                (before_precharge >> 1)
                | Mux(issued.activate, ones(t.tras - 2), 0)
                | Mux(issued.write, ones(t.twr - 3), 0)
                | (issued.read >> 2)
            ),
        ]
        m.d.comb += [
            self.want.activate.eq(~needed.unused & ~opened & ~before_activate[0]),
            self.want.precharge.eq(stale & ~before_precharge[0]),
            self.busy.eq(before_precharge[0]),
        ]
        self.probes = SimpleNamespace(
            uses=uses, assigned=assigned, opened=opened, stale=stale, delay=delay
        )
        return m
