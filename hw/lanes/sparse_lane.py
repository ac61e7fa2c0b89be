"""A lane with an address of its own: queue, multiplier, accumulators.

There is one for each multiplier of the engine, so with ``int4`` twice as many as ``config.lanes``.
Weights of a pruned column reach every lane at another row. Most come in the lane's own place of the
word, some in that of the lane before, where that had room. These wait in a short queue for a cycle
in which the lane has nothing of its own: a word of indices, an entry without weight, the end of a
column. Additions commute, so it does not matter that they are late.

A sum is four cycles on its way; sums of the same row at distance 1, 2 and 3 are bypassed. The cell
reads a copy of the sums, in any cycle, or without one in a cycle in which no lane has a weight of
its own; the weights that wait make way for it.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from stillnet.hw.parts.data_register import IN_FABRIC, Data
from stillnet.hw.parts.multiplier import Multiplier
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, EVENT_BITS

__all__ = ["QUEUE", "QUEUE_LIMIT", "SparseLane"]

WEIGHT_BITS = 8
QUEUE = 16
"""Weights that may wait in a lane."""
QUEUE_LIMIT = 7
"""With more in the queue no further word is taken; what is in the decoder still has room."""


class WeightSignature(wiring.Signature):
    """A weight on its way to a lane.

    Members
    -------
    valid : Out(1)
    row : Out
        Its accumulator.
    weight : Out(8), signed
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {"valid": Out(1), "row": Out(address_bits), "weight": Out(signed(WEIGHT_BITS))}
        )


class _Signals:
    """What the parts of a lane share; the lists have one signal for each stage."""

    def __init__(self, address_bits: int) -> None:
        # -- the weight that waits longest
        self.queued_row: Any = 0
        self.queued_weight: Any = 0
        self.queued_value: Any = 0
        # -- read, multiply, add, write
        self.valid = [Signal(name=f"valid{i}") for i in range(4)]
        self.row = [Data(address_bits, name=f"row{i}") for i in range(4)]
        self.bias0, self.bias1 = Signal(), Signal()
        # Which older sum the weight needs: that of one, two or three weights before it.
        self.near = [Signal(name=f"near{i}") for i in range(1, 4)]
        self.use_total, self.use_older = Signal(), Signal()
        self.total = Data(signed(ACCUMULATOR_BITS))


class SparseLane(wiring.Component):
    """One lane.

    Parameters
    ----------
    address_bits, depth : int
        Accumulators.
    copy : bool
        The cell reads a copy of the sums.

    Members
    -------
    own : In(WeightSignature)
        A weight in the lane's own place of the word.
    other : In(WeightSignature)
        A weight from the place of the lane before.
    value : In(17)
        Of the event that both belong to.
    bias : In(1)
        ``own`` is a bias; it replaces the sum.
    bias_value : In(32)
        A cycle after ``bias``.
    read : In(1)
        The cell reads row ``read_row``; ``own`` is not valid. Low where there is a copy.
    read_row, read_data : In, Out
        Data after two cycles of a copy, else after three.
    waiting, some : Out
        Weights in the queue; there is one.
    busy : Out(1)
        A weight or a sum is on its way.
    """

    def __init__(self, address_bits: int, depth: int, *, copy: bool) -> None:
        self._depth, self._copy = depth, copy
        super().__init__(
            {
                "own": In(WeightSignature(address_bits)),
                "other": In(WeightSignature(address_bits)),
                "value": In(signed(EVENT_BITS)),
                "bias": In(1),
                "bias_value": In(ACCUMULATOR_BITS),
                "read": In(1),
                "read_row": In(address_bits),
                "read_data": Out(ACCUMULATOR_BITS),
                "waiting": Out(range(QUEUE + 1)),
                "some": Out(1),
                "busy": Out(1),
            }
        )

    @property
    def depth(self) -> int:
        """Accumulators."""
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(len(self.own.row))
        self._queue(m, s)
        self._stages(m, s)
        self._bypass(m, s)
        self._add(m, s, self._memory(m, s, "sums", s.row[0]))
        # Whatever it is now is still on its way in the next cycle, but for the sum that is written.
        m.d.sync += self.busy.eq(
            self.own.valid | self.other.valid | self.some | Cat(*s.valid[:3]).any()
        )
        return m

    def _queue(self, m: Module, s: _Signals) -> None:
        """Weights from the place of the lane before wait for a cycle without an own one."""
        other = self.other
        entry = Cat(other.row, other.weight, self.value)
        m.submodules.queue = queue = Memory(
            shape=unsigned(len(entry)), depth=QUEUE, init=[], attrs={"ram_style": "distributed"}
        )
        writer, reader = queue.write_port(), queue.read_port(domain="comb")
        first, last = Signal(range(QUEUE)), Signal(range(QUEUE))
        pop = Signal()
        m.d.comb += [
            pop.eq(self.some & ~self.own.valid & ~self.read),
            writer.addr.eq(last),
            writer.data.eq(entry),
            writer.en.eq(other.valid),
            reader.addr.eq(first),
        ]
        m.d.sync += [
            last.eq(last + other.valid),
            first.eq(first + pop),
            # The late signals choose between sums that are ready.
            self.some.eq(other.valid | Mux(pop, self.waiting > 1, self.some)),
        ]
        with m.If(other.valid & ~pop):
            m.d.sync += self.waiting.eq(self.waiting + 1)
        with m.Elif(pop & ~other.valid):
            m.d.sync += self.waiting.eq(self.waiting - 1)
        row_bits = len(other.row)
        s.queued_row = reader.data[:row_bits]
        s.queued_weight = reader.data[row_bits:][:WEIGHT_BITS].as_signed()
        s.queued_value = reader.data[row_bits + WEIGHT_BITS :].as_signed()

    def _stages(self, m: Module, s: _Signals) -> None:
        """Row of the weight at work; the lane's own weights come first."""
        own = self.own
        m.d.sync += [
            Cat(*s.valid).eq(Cat(own.valid | (self.some & ~self.read), *s.valid[:3])),
            s.row[0].eq(Mux(own.valid, own.row, Mux(self.read, self.read_row, s.queued_row))),
            *(s.row[i + 1].eq(s.row[i]) for i in range(3)),
            s.bias0.eq(self.bias & own.valid),
            s.bias1.eq(s.bias0),
        ]

    def _bypass(self, m: Module, s: _Signals) -> None:
        """Which older sum the weight needs instead of what it read. A bias needs none."""
        m.d.sync += [
            *(s.near[i].eq(s.valid[i + 1] & (s.row[i + 1] == s.row[0])) for i in range(3)),
            s.use_total.eq(s.near[0] & ~s.bias1),
            s.use_older.eq(s.near[1] | s.near[2] | s.bias1),
        ]

    def _memory(self, m: Module, s: _Signals, name: str, row: Signal) -> Any:
        """The sums, or their copy; that of a row."""
        # A sum read while it is written is bypassed: the memory may give either value.
        memory = Memory(
            shape=unsigned(ACCUMULATOR_BITS),
            depth=self._depth,
            init=[],
            attrs={"no_rw_check": 1},
        )
        m.submodules[name] = memory
        reader, writer = memory.read_port(), memory.write_port()
        m.d.comb += [
            reader.addr.eq(row),
            writer.addr.eq(s.row[3]),
            writer.data.eq(s.total),
            writer.en.eq(s.valid[3]),
        ]
        return reader.data

    def _add(self, m: Module, s: _Signals, sums: Any) -> None:
        """Product and sum; a bias comes as an older sum."""
        own = self.own
        m.submodules.multiplier = multiplier = Multiplier(WEIGHT_BITS, EVENT_BITS)
        product = Data(signed(WEIGHT_BITS + EVENT_BITS))
        # Not the block RAM's own register: this one stands near what adds.
        read = Data(signed(ACCUMULATOR_BITS), attrs={IN_FABRIC: 1})
        older, total1 = Data(signed(ACCUMULATOR_BITS)), Data(signed(ACCUMULATOR_BITS))
        bias_value = Data(signed(ACCUMULATOR_BITS))
        addend = Signal(signed(ACCUMULATOR_BITS))
        m.d.comb += [
            multiplier.a.eq(Mux(own.valid, own.weight, s.queued_weight)),
            multiplier.b.eq(Mux(own.valid, self.value, s.queued_value)),
            addend.eq(Mux(s.use_total, s.total, Mux(s.use_older, older, read))),
        ]
        if self._copy:
            copied = Data(ACCUMULATOR_BITS)
            m.d.sync += copied.eq(self._memory(m, s, "copy", self.read_row))
            m.d.comb += self.read_data.eq(copied)
        else:
            m.d.comb += self.read_data.eq(read)
        m.d.sync += [
            product.eq(multiplier.product),
            bias_value.eq(self.bias_value),
            read.eq(sums),
            older.eq(Mux(s.bias1, bias_value, Mux(s.near[1], s.total, total1))),
            s.total.eq(addend + product),
            total1.eq(s.total),
        ]
