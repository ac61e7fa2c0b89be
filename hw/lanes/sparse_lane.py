"""A lane with an address of its own: queue, multiplier, accumulators.

Weights of a pruned column reach every lane at another row. Most come in the lane's own place of the
word; some in that of the lane before, where that had room. These wait in a short queue for a cycle
in which the lane has nothing of its own: a word of indices, an entry without weight, the end of a
column. Additions commute, so it does not matter that they are late.

A sum is four cycles on its way; sums of the same row at distance 1, 2 and 3 are bypassed. The
accumulators are kept twice, so that the cell reads whenever it wants: rows of sparse columns fall
into both halves of a memory at random, and a lane in a word would nearly always be in its way.
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


class SparseLane(wiring.Component):
    """One lane.

    Parameters
    ----------
    address_bits, depth : int
        Accumulators.

    Members
    -------
    own, own_row, own_weight : In
        A weight in the lane's own place.
    other, other_row, other_weight : In
        A weight from the place of the lane before.
    value : In(17)
        Of the event that both belong to.
    bias : In(1)
        ``own`` is a bias; it replaces the sum.
    bias_value : In(32)
        A cycle after ``bias``.
    read_row, read_data : the cell's read, data after two cycles
    waiting : Out
        Weights in the queue.
    busy : Out(1)
        A weight or a sum is on its way.
    """

    def __init__(self, address_bits: int, depth: int) -> None:
        self._depth = depth
        super().__init__(
            {
                "own": In(WeightSignature(address_bits)),
                "other": In(WeightSignature(address_bits)),
                "value": In(signed(EVENT_BITS)),
                "bias": In(1),
                "bias_value": In(ACCUMULATOR_BITS),
                "read_row": In(address_bits),
                "read_data": Out(ACCUMULATOR_BITS),
                "waiting": Out(range(QUEUE + 1)),
                "busy": Out(1),
            }
        )

    @property
    def depth(self) -> int:
        """Accumulators."""
        return self._depth

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        # -- queue --------------------------------------------------------------------------------

        entry = Cat(self.other.row, self.other.weight, self.value)
        m.submodules.queue = queue = Memory(
            shape=unsigned(len(entry)), depth=QUEUE, init=[], attrs={"ram_style": "distributed"}
        )
        writer, reader = queue.write_port(), queue.read_port(domain="comb")
        first, last = Signal(range(QUEUE)), Signal(range(QUEUE))
        some = Signal()
        pop = Signal()
        level = Signal.like(self.waiting)
        m.d.comb += [
            pop.eq(some & ~self.own.valid),
            writer.addr.eq(last),
            writer.data.eq(entry),
            writer.en.eq(self.other.valid),
            reader.addr.eq(first),
            level.eq(self.waiting + self.other.valid - pop),
        ]
        m.d.sync += [
            last.eq(last + self.other.valid),
            first.eq(first + pop),
            self.waiting.eq(level),
            some.eq(level != 0),
        ]
        queued_row = reader.data[: len(self.own.row)]
        queued_weight = reader.data[len(self.own.row) :][:WEIGHT_BITS].as_signed()
        queued_value = reader.data[len(self.own.row) + WEIGHT_BITS :].as_signed()

        # -- read, multiply, add, write -----------------------------------------------------------

        valid = [Signal(name=f"valid{i}") for i in range(4)]
        row = [Data(len(self.own.row), name=f"row{i}") for i in range(4)]
        bias0, bias1 = Signal(), Signal()
        m.d.sync += [
            Cat(*valid).eq(Cat(self.own.valid | some, *valid[:3])),
            row[0].eq(Mux(self.own.valid, self.own.row, queued_row)),
            *(row[i + 1].eq(row[i]) for i in range(3)),
            bias0.eq(self.bias & self.own.valid),
            bias1.eq(bias0),
        ]
        near = [Signal(name=f"near{i}") for i in range(1, 4)]
        use_total, use_older = Signal(), Signal()
        m.d.sync += [
            *(near[i].eq(valid[i + 1] & (row[i + 1] == row[0])) for i in range(3)),
            use_total.eq(near[0] & ~bias1),
            use_older.eq(near[1] | near[2] | bias1),
        ]
        m.submodules.multiplier = multiplier = Multiplier(WEIGHT_BITS, EVENT_BITS)
        m.d.comb += [
            multiplier.a.eq(Mux(self.own.valid, self.own.weight, queued_weight)),
            multiplier.b.eq(Mux(self.own.valid, self.value, queued_value)),
        ]
        product = Data(signed(WEIGHT_BITS + EVENT_BITS))
        # Not the block RAM's own register: this one stands near what adds.
        read = Data(signed(ACCUMULATOR_BITS), attrs={IN_FABRIC: 1})
        older = Data(signed(ACCUMULATOR_BITS))
        total, total1 = Data(signed(ACCUMULATOR_BITS)), Data(signed(ACCUMULATOR_BITS))
        bias_value = Data(signed(ACCUMULATOR_BITS))
        addend = Signal(signed(ACCUMULATOR_BITS))
        read_data = Data(ACCUMULATOR_BITS)
        m.d.comb += self.read_data.eq(read_data)
        outputs = []
        for name, address in (("sums", row[0]), ("copy", self.read_row)):
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
                reader.addr.eq(address),
                writer.addr.eq(row[3]),
                writer.data.eq(total),
                writer.en.eq(valid[3]),
            ]
            outputs.append(reader.data)
        m.d.comb += addend.eq(Mux(use_total, total, Mux(use_older, older, read)))
        m.d.sync += [
            product.eq(multiplier.product),
            bias_value.eq(self.bias_value),
            read.eq(outputs[0]),
            older.eq(Mux(bias1, bias_value, Mux(near[1], total, total1))),
            total.eq(addend + product),
            total1.eq(total),
            read_data.eq(outputs[1]),
        ]
        m.d.comb += self.busy.eq(Cat(*valid).any() | some)
        return m
