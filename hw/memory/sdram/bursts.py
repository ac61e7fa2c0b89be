"""Segments become READ bursts of up to eight columns, and WRITE commands of one."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .parts import SdramPart
from .pins import BURST

__all__ = ["BurstGenerator", "burst_layout", "run_layout"]

_LOW = exact_log2(BURST)


def run_layout(part: SdramPart) -> data.StructLayout:
    """A segment whose bank has been told the row.

    Fields
    ------
    write : 1 bit
    bank : one bit for each bank
    first : first column
    last : last column, modulo the length of a burst
    steps : bursts, or words of a write, after the first one
    single : ``steps`` is 0
    """
    return data.StructLayout(
        {
            "write": 1,
            "bank": part.banks,
            "first": part.column_bits,
            "last": _LOW,
            "steps": part.column_bits,
            "single": 1,
        }
    )


def burst_layout(part: SdramPart) -> data.StructLayout:
    """A command that moves data.

    Fields
    ------
    write : 1 bit
    bank : one bit for each bank; all zero when there is no command
    column : first column
    extra : columns wanted after the first one, in unary: bit i is set for more than i
    end : the last command of its segment
    """
    return data.StructLayout(
        {
            "write": 1,
            "bank": part.banks,
            "column": part.column_bits,
            "extra": BURST - 1,
            "end": 1,
        }
    )


class BurstGenerator(wiring.Component):
    """Walks through segments, one command a cycle when it must.

    A READ burst ends at a column that is a multiple of eight, because there it would wrap.

    Parameters
    ----------
    part : :class:`SdramPart`

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    i_stream : :py:`In(stream.Signature(run_layout(part)))`
    burst : :py:`Out(burst_layout(part))`
        The command that waits; ``bank`` is zero when none does.
    take : :py:`In(1)`
        It has been issued.
    """

    def __init__(self, part: SdramPart):
        self._part = part
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "i_stream": In(stream.Signature(run_layout(part))),
                "burst": Out(burst_layout(part)),
                "take": In(1),
            }
        )

    @property
    def part(self) -> SdramPart:
        return self._part

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self._part.column_bits

        # The segment that is being walked through: next column, steps after that one.
        run = Signal(run_layout(self._part))
        valid = Signal()
        waiting = Signal()
        advance = Signal()
        m.d.comb += [
            advance.eq(~waiting | self.take),
            # Only when it is empty: segments come every other cycle at most.
            self.i_stream.ready.eq(~valid),
        ]

        low = run.first[:_LOW]
        high = Mux(run.single, run.last, BURST - 1)
        extra = Cat((high - low)[:_LOW] > i for i in range(BURST - 1))
        # A write goes on with the next column, a read with the next burst. Yosys must not draw
        # `advance` into these sums: it comes late.
        current = Signal(width)
        next_first = Signal(width, attrs={"keep": 1})
        next_steps = Signal(width, attrs={"keep": 1})
        m.d.comb += [
            current.eq(run.first | Mux(run.write, 0, BURST - 1)),
            next_first.eq(current + 1),
            next_steps.eq(run.steps - 1),
        ]
        with m.If(advance):
            m.d.sync += [
                waiting.eq(valid),
                self.burst.write.eq(run.write),
                # Not by a synchronous reset, whose pin is late.
                self.burst.bank.eq(run.bank & valid.replicate(self._part.banks)),
                self.burst.column.eq(run.first),
                self.burst.extra.eq(Mux(run.write, 0, extra)),
                self.burst.end.eq(run.single),
            ]
            m.d.sync += [
                run.first.eq(next_first),
                run.steps.eq(next_steps),
                run.single.eq(run.steps == 1),
                valid.eq(valid & ~run.single),
            ]
        with m.If(~valid):
            m.d.sync += [run.eq(self.i_stream.payload), valid.eq(self.i_stream.valid)]
        self.probes = SimpleNamespace(run=run, valid=valid, waiting=waiting)
        return m
