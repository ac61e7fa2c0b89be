"""The event encoder: compares a vector with its reference and lists the elements that changed.

One comparator serves all modes (``contract.events``). Events are kept in a list memory that holds
whole vectors: a list cannot drain while its own cell runs, so it must never be full (design
section 6, rule 3). A row of the list is a group of ``width`` elements with a mask of those that
fired; groups in which nothing fired are not listed, and cost nothing later.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.interfaces import list_layout
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS

__all__ = ["ENCODE_CYCLES", "LOOKUP_CYCLES", "EventEncoder"]

LOOKUP_CYCLES = 2
"""Cycles by which the row must be known before its values."""
ENCODE_CYCLES = 3
"""Cycles from the values to ``done``."""


class EventEncoder(wiring.Component):
    """Encodes vectors, ``width`` elements a cycle.

    Parameters
    ----------
    width : int
        Elements a cycle.
    rows : int
        Rows of ``width`` elements in the reference memory.
    lists : int
        Copies of the list, selected by ``bank`` and ``list_bank``.
    group_bits : int
        Width of a group's number, where it is more than the rows need.
    elements : bool
        A threshold for each element besides: an event has to reach both.

    Members
    -------
    row : In
        Row of the reference memory that the values of ``LOOKUP_CYCLES`` later belong to.
    valid, first, last : In(1)
        A group of elements; first and last of its vector.
    values : In(width * 16)
    mask : In(width)
        Which elements of the group exist.
    element_write, element_row, element_number, element_threshold : In
        Only with ``elements``: writes the threshold of an element.
    exact : In(1)
        Only with ``elements``, taken with ``valid``: thresholds of the elements count as zero.
    mode, threshold, enable : In
        Taken with ``valid``. Not enabled: the vector has no events and no reference changes.
    direct, direct_group, direct_value : In
        With ``valid``: list this event as it is; the reference is not looked at (one-hot modes).
    bank, list_base : In
        Copy of the list that the vector goes to, and its first row there.
    done, done_first, done_last : Out(1)
        A group has been encoded and its events can be read from the list.
    count : Out
        Rows of the vector's list so far, valid with ``done``.
    total : Out(16)
        Events of the vector so far, valid with ``done``.
    list_enable, list_bank, list_row, list_data : list read port, ``LIST_READ_LATENCY`` cycles
        ``list_enable`` low freezes both stages.
    host_* : host access to the reference memory
        Only while nothing is encoded; data follow the row by two cycles. ``host_clear`` writes
        zero to all elements of the row.
    """

    def __init__(
        self,
        width: int,
        rows: int,
        *,
        lists: int = 1,
        group_bits: int | None = None,
        elements: bool = False,
    ) -> None:
        self._elements = elements
        self._width = width
        self._rows = rows
        self._lists = lists
        row_bits = bits_for(rows)
        self._group_bits = row_bits if group_bits is None else group_bits
        super().__init__(
            {
                "row": In(row_bits),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "values": In(width * ACTIVATION_BITS),
                "mask": In(width),
                "mode": In(Mode),
                "threshold": In(EVENT_BITS),
                "enable": In(1),
                **(
                    {
                        "element_write": In(1),
                        "element_row": In(row_bits),
                        "element_number": In(range(max(2, width))),
                        "element_threshold": In(EVENT_BITS),
                        "exact": In(1),
                    }
                    if elements
                    else {}
                ),
                "direct": In(1),
                "direct_group": In(self._group_bits),
                "direct_value": In(signed(EVENT_BITS)),
                "bank": In(max(1, bits_for(lists - 1))),
                "list_base": In(row_bits),
                "done": Out(1),
                "done_first": Out(1),
                "done_last": Out(1),
                "count": Out(row_bits),
                "total": Out(16),
                "list_enable": In(1),
                "list_bank": In(max(1, bits_for(lists - 1))),
                "list_row": In(row_bits),
                "list_data": Out(list_layout(width, self._group_bits)),
                "host_active": In(1),
                "host_row": In(row_bits),
                "host_element": In(range(max(2, width))),
                "host_write": In(1),
                "host_clear": In(1),
                "host_data": In(ACTIVATION_BITS),
                "host_read": Out(ACTIVATION_BITS),
            }
        )

    @property
    def width(self) -> int:
        """Elements a cycle."""
        return self._width

    @property
    def rows(self) -> int:
        """Rows of the reference memory."""
        return self._rows

    @property
    def lists(self) -> int:
        """Copies of the list."""
        return self._lists

    @property
    def elements(self) -> bool:
        """Whether every element has a threshold of its own."""
        return self._elements

    @property
    def group_bits(self) -> int:
        """Width of a group's number."""
        return self._group_bits

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self._width
        row_bits = len(self.row)

        # -- reference memory, one an element of the group ----------------------------------------

        row1, row2, row3, row4 = (Data(row_bits, name=f"row{i}") for i in range(1, 5))
        m.d.sync += Cat(row1, row2, row3, row4).eq(Cat(self.row, row1, row2, row3))
        references, writers = [], []
        for p in range(width):
            # No row is read for use while it is written: vectors of one source do not overlap.
            memory = Memory(
                shape=signed(ACTIVATION_BITS),
                depth=self._rows,
                init=[],
                attrs={"no_rw_check": 1},
            )
            m.submodules[f"reference{p}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            reference = Data(signed(ACTIVATION_BITS), name=f"reference{p}")
            m.d.comb += reader.addr.eq(Mux(self.host_active, self.host_row, self.row))
            m.d.sync += reference.eq(reader.data)
            references.append(reference)
            writers.append(writer)
        m.d.comb += self.host_read.eq(
            Cat(*references).word_select(self.host_element, ACTIVATION_BITS)
        )

        # -- compare: difference, magnitude against threshold -------------------------------------

        valid1, valid2 = Signal(), Signal()
        first1, first2 = Data(), Data()
        last1, last2 = Data(), Data()
        m.d.sync += [
            Cat(valid1, valid2).eq(Cat(self.valid, valid1)),
            Cat(first1, first2).eq(Cat(self.first, first1)),
            Cat(last1, last2).eq(Cat(self.last, last1)),
        ]
        plain, plain1, plain2 = Signal(), Data(), Data()
        limit, limit_negative = (Data(signed(EVENT_BITS + 1), name=f"limit{i}") for i in range(2))
        base1, base2 = Data(row_bits), Data(row_bits)
        bank1, bank2 = (
            Signal.like(self.bank, reset_less=True),
            Signal.like(self.bank, reset_less=True),
        )
        m.d.comb += plain.eq(self.mode == Mode.NONZERO)
        m.d.sync += [
            Cat(plain1, plain2).eq(Cat(plain, plain1)),
            limit.eq(self.threshold),
            limit_negative.eq(-self.threshold),
            Cat(base1, base2).eq(Cat(self.list_base, base1)),
            Cat(bank1, bank2).eq(Cat(self.bank, bank1)),
        ]
        direct1, direct2 = Data(), Data()
        direct_group1, direct_group2 = Data(self._group_bits), Data(self._group_bits)
        m.d.sync += [
            Cat(direct1, direct2).eq(Cat(self.direct, direct1)),
            Cat(direct_group1, direct_group2).eq(Cat(self.direct_group, direct_group1)),
        ]
        fire = Data(width)
        differences, values2 = [], []
        for p in range(width):
            value = self.values[ACTIVATION_BITS * p :][:ACTIVATION_BITS].as_signed()
            value1 = Data(signed(ACTIVATION_BITS), name=f"value1_{p}")
            value2 = Data(signed(ACTIVATION_BITS), name=f"value2_{p}")
            exists = Data(name=f"exists{p}")
            difference1 = Data(signed(EVENT_BITS), name=f"difference1_{p}")
            difference2 = Data(signed(EVENT_BITS), name=f"difference2_{p}")
            reached: Any = 1
            if self._elements:
                reached = self._reached(m, p, difference1)
            m.d.sync += [
                value1.eq(value),
                exists.eq(self.mask[p] & self.enable),
                difference1.eq(
                    Mux(
                        self.direct,
                        self.direct_value,
                        Mux(plain, value, value - references[p]),
                    )
                ),
                value2.eq(value1),
                difference2.eq(difference1),
                fire[p].eq(
                    exists
                    & (difference1 != 0)
                    & (
                        direct1
                        | (((difference1 >= limit) | (difference1 <= limit_negative)) & reached)
                    )
                ),
            ]
            differences.append(difference2)
            values2.append(value2)

        # -- write: reference and list ------------------------------------------------------------

        enable2 = Signal()
        enable1 = Signal()
        m.d.sync += Cat(enable1, enable2).eq(Cat(self.enable, enable1))
        for p, writer in enumerate(writers):
            m.d.comb += [
                writer.addr.eq(row4),
                writer.data.eq(Mux(fire[p], values2[p], 0)),
                writer.en.eq(valid2 & ~direct2 & (fire[p] | (plain2 & enable2))),
            ]
            with m.If(self.host_active):
                m.d.comb += [
                    writer.addr.eq(self.host_row),
                    writer.data.eq(Mux(self.host_clear, 0, self.host_data)),
                    writer.en.eq(self.host_clear | (self.host_write & (self.host_element == p))),
                ]

        count, before = Data(row_bits), Signal(row_bits)
        group, group_before = Data(self._group_bits), Signal(self._group_bits)
        total, total_before = Data(16), Signal(16)
        m.d.comb += [
            before.eq(Mux(first2, 0, count)),
            group_before.eq(Mux(first2, 0, group)),
            total_before.eq(Mux(first2, 0, total)),
        ]
        entry = Signal(list_layout(width, self._group_bits))
        m.d.comb += [
            entry.group.eq(Mux(direct2, direct_group2, group_before)),
            entry.mask.eq(fire),
        ]
        for p in range(width):
            m.d.comb += entry.values[p].eq(differences[p])
        with m.If(valid2):
            m.d.sync += [
                count.eq(before + fire.any()),
                group.eq(group_before + 1),
                total.eq(total_before + sum(fire[p] for p in range(width))),
            ]
        m.d.sync += [
            self.done.eq(valid2),
            self.done_first.eq(valid2 & first2),
            self.done_last.eq(valid2 & last2),
        ]
        m.d.comb += [self.count.eq(count), self.total.eq(total)]

        address_bits = bits_for(self._rows - 1)
        bank_bits = bits_for(self._lists - 1) if self._lists > 1 else 0
        list_address = Signal(address_bits + bank_bits)
        read_address = Signal(address_bits + bank_bits)
        at = Data(address_bits)  # row that the next events of the vector go to
        row = Signal(address_bits)
        m.d.comb += row.eq(Mux(first2, base2, at))
        with m.If(valid2):
            m.d.sync += at.eq(row + fire.any())
        m.d.comb += [
            list_address.eq(Cat(row, bank2[:bank_bits])),
            read_address.eq(Cat(self.list_row[:address_bits], self.list_bank[:bank_bits])),
        ]
        depth = ((self._lists - 1) << address_bits) + self._rows
        # Rows are read after `done` has said that they are there.
        m.submodules.list = memory = Memory(
            shape=len(entry.as_value()), depth=depth, init=[], attrs={"no_rw_check": 1}
        )
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.addr.eq(list_address),
            writer.data.eq(entry),
            writer.en.eq(valid2 & fire.any()),
            reader.addr.eq(read_address),
            reader.en.eq(self.list_enable),
        ]
        list_data = Data(entry.shape())
        with m.If(self.list_enable):
            m.d.sync += list_data.eq(reader.data)
        m.d.comb += self.list_data.eq(list_data)
        return m

    def _reached(self, m: Module, p: int, difference1: Signal) -> Any:
        """Whether element p of the group reaches its own threshold, read like its reference."""
        found = Data(EVENT_BITS, name=f"element_found{p}")
        above, below = (
            Data(signed(EVENT_BITS + 1), name=f"element_{name}{p}") for name in ("above", "below")
        )
        # The highest bit apart: as many blocks of RAM, and no multiplexer behind them.
        for part, first, bits in (("low", 0, EVENT_BITS - 1), ("high", EVENT_BITS - 1, 1)):
            memory = Memory(
                shape=unsigned(bits), depth=self._rows, init=[], attrs={"no_rw_check": 1}
            )
            m.submodules[f"thresholds_{part}{p}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            m.d.comb += [
                reader.addr.eq(self.row),
                writer.addr.eq(self.element_row),
                writer.data.eq(self.element_threshold[first:]),
                writer.en.eq(self.element_write & (self.element_number == p)),
            ]
            m.d.sync += found[first : first + bits].eq(reader.data)
        m.d.sync += [
            above.eq(Mux(self.exact, 0, found)),
            below.eq(-Mux(self.exact, 0, found)),
        ]
        return (difference1 >= above) | (difference1 <= below)
