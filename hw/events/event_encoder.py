"""The event encoder: compares a vector with its reference and lists the elements that changed.

One comparator serves all modes (``contract.events``). The list memory holds whole vectors: a list
cannot drain while its own cell runs, so it must never be full (docs/architecture.md, *Rules*). A
row of the list is a group of ``width`` elements with a mask of those that fired. Groups in which
nothing fired are not listed, so they cost nothing later.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import (
    BudgetSignature,
    StateAccessSignature,
    TableWriteSignature,
)
from stillnet.hw.parts.interfaces import (
    BudgetedSignature,
    DirectSignature,
    GroupSignature,
    ListedSignature,
    ListReadSignature,
    RuleSignature,
)
from stillnet.hw.parts.late_memory import LateMemory
from stillnet.hw.parts.layouts import list_layout
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS

from .budget import Budget

__all__ = ["EventEncoder"]


class _Signals:
    """What the parts of the encoder share; the number is the stage after ``group``."""

    def __init__(self, width: int, row_bits: int, group_bits: int) -> None:
        # The row reaches the encoder LOOKUP_CYCLES before its values.
        self.row1, self.row2, self.row3, self.row4 = (
            Data(row_bits, name=f"row{i}") for i in range(1, 5)
        )
        self.references: list[Any] = []
        self.valid1, self.valid2 = Signal(), Signal()
        self.first1, self.first2 = Data(), Data()
        self.last1, self.last2 = Data(), Data()
        self.enable1, self.enable2 = Signal(), Signal()
        self.plain1, self.plain2 = Data(), Data()  # every element that is not zero fires
        self.base1, self.base2 = Data(row_bits), Data(row_bits)
        self.bank1, self.bank2 = Data(), Data()
        self.direct1, self.direct2 = Data(), Data()
        self.direct_group1, self.direct_group2 = Data(group_bits), Data(group_bits)
        # The threshold and its negative, one stage after ``group``.
        self.limit, self.limit_negative = (
            Data(signed(EVENT_BITS + 1), name=f"limit{i}") for i in range(2)
        )
        self.fire: Any = Data(width)
        self.values2: Any = [
            Data(signed(ACTIVATION_BITS), name=f"value2_{p}") for p in range(width)
        ]
        self.differences2: Any = [
            Data(signed(EVENT_BITS), name=f"difference2_{p}") for p in range(width)
        ]
        # Only with budgets: thresholds of single elements, one stage after ``group``, those of all
        # elements a stage later, and the number of the group that is sent.
        self.own: list[Any] = []
        self.limits2: list[Any] = []
        self.sent_group: Any = None


class EventEncoder(wiring.Component):
    """Encodes vectors, ``width`` elements per cycle.

    Parameters
    ----------
    width : int
        Elements per cycle.
    rows : int
        Rows of ``width`` elements in the reference memory.
    lists : int
        Copies of the list, selected by ``bank`` and ``list.bank``.
    group_bits : int
        Width of a group's number, where it is more than the rows need.
    elements : bool
        Each element has a threshold of its own besides, and an event has to reach both.
    vectors : int
        Vectors that may have a budget each (``budget.py``); 0 where none has.

    Members
    -------
    row : In
        Row of the reference memory, ``LOOKUP_CYCLES`` before its values.
    group : In(GroupSignature)
        A group of elements.
    rule : In(RuleSignature)
        What makes an element an event; taken with ``group.valid``.
    direct : In(DirectSignature)
        Taken with ``group.valid``: this event is listed as it is.
    bank, list_base : In
        Copy of the list that the vector goes to, and its first row there; taken with
        ``group.valid``.
    listed : Out(ListedSignature)
        ``ENCODE_CYCLES`` after a group: its events are in the list.
    list : In(ListReadSignature)
        Read port of the list.
    host : In(StateAccessSignature)
        The host's access to the references, only while nothing is encoded.
    thresholds : In(TableWriteSignature)
        Only with ``elements``: writes the thresholds of single elements, while nothing is encoded.
    budget : In(BudgetSignature)
        Only with ``vectors``. ``late`` is valid with ``listed``, which comes a cycle later, or at
        the replay of a vector with a budget.
    budgeted : In(BudgetedSignature)
        The same.
    """

    def __init__(
        self,
        width: int,
        rows: int,
        *,
        lists: int = 1,
        group_bits: int | None = None,
        elements: bool = False,
        vectors: int = 0,
    ) -> None:
        self._elements = elements
        self._vectors = vectors
        self._width = width
        self._rows = rows
        self._lists = lists
        row_bits = bits_for(rows)
        self._group_bits = row_bits if group_bits is None else group_bits
        super().__init__(
            {
                "row": In(row_bits),
                "group": In(GroupSignature(width)),
                "rule": In(RuleSignature()),
                "direct": In(DirectSignature(self._group_bits)),
                "bank": In(1),
                "list_base": In(row_bits),
                "listed": Out(ListedSignature(row_bits)),
                "list": In(ListReadSignature(width, row_bits, self._group_bits)),
                "host": In(StateAccessSignature(row_bits, width, ACTIVATION_BITS)),
                **({"thresholds": In(TableWriteSignature())} if elements else {}),
                **(
                    {
                        "budget": In(BudgetSignature(vectors)),
                        "budgeted": In(BudgetedSignature(vectors)),
                    }
                    if vectors
                    else {}
                ),
            }
        )

    @property
    def vectors(self) -> int:
        """Vectors that may have a budget each."""
        return self._vectors

    @property
    def width(self) -> int:
        """Elements per cycle."""
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
        s = _Signals(self._width, len(self.row), self._group_bits)
        memories = self._references(m, s)
        self._delay(m, s)
        for p in range(self._width):
            self._compare(m, s, p)
        if self._vectors:
            self._admit(m, s)
        self._update_references(m, s, memories)
        entry = self._entry(m, s)
        self._list(m, s, entry)
        return m

    def _references(self, m: Module, s: _Signals) -> list[LateMemory]:
        """Reference memories, one for each element of a group."""
        m.d.sync += Cat(s.row1, s.row2, s.row3, s.row4).eq(Cat(self.row, s.row1, s.row2, s.row3))
        memories = []
        for p in range(self._width):
            # No row is read for use while it is written: vectors of one source do not overlap.
            m.submodules[f"reference{p}"] = memory = LateMemory(signed(ACTIVATION_BITS), self._rows)
            m.d.comb += memory.row.eq(Mux(self.host.active, self.host.row, self.row))
            s.references.append(memory.data)
            memories.append(memory)
        m.d.comb += self.host.read.eq(
            Cat(*s.references).word_select(self.host.element, ACTIVATION_BITS)
        )
        return memories

    def _delay(self, m: Module, s: _Signals) -> None:
        """What travels with a group while it is compared."""
        plain = Signal()
        m.d.comb += plain.eq(self.rule.mode == Mode.NONZERO)
        m.d.sync += [
            Cat(s.valid1, s.valid2).eq(Cat(self.group.valid, s.valid1)),
            Cat(s.first1, s.first2).eq(Cat(self.group.first, s.first1)),
            Cat(s.last1, s.last2).eq(Cat(self.group.last, s.last1)),
            Cat(s.enable1, s.enable2).eq(Cat(self.rule.enable, s.enable1)),
            Cat(s.plain1, s.plain2).eq(Cat(plain, s.plain1)),
            s.limit.eq(self.rule.threshold),
            s.limit_negative.eq(-self.rule.threshold),
            Cat(s.base1, s.base2).eq(Cat(self.list_base, s.base1)),
            Cat(s.bank1, s.bank2).eq(Cat(self.bank, s.bank1)),
            Cat(s.direct1, s.direct2).eq(Cat(self.direct.valid, s.direct1)),
            Cat(s.direct_group1, s.direct_group2).eq(Cat(self.direct.group, s.direct_group1)),
        ]

    def _compare(self, m: Module, s: _Signals, p: int) -> None:
        """Element p of the group: its difference, and whether that is an event."""
        value = self.group.values[ACTIVATION_BITS * p :][:ACTIVATION_BITS].as_signed()
        value1 = Data(signed(ACTIVATION_BITS), name=f"value1_{p}")
        exists = Data(name=f"exists{p}")
        difference1 = Data(signed(EVENT_BITS), name=f"difference1_{p}")
        reached: Any = 1
        if self._elements:
            reached = self._reached(m, s, p, difference1)
        change = Mux(self.rule.mode == Mode.NONZERO, value, value - s.references[p])
        reaches_both = ((difference1 >= s.limit) | (difference1 <= s.limit_negative)) & reached
        m.d.sync += [
            value1.eq(value),
            exists.eq(self.group.mask[p] & self.rule.enable),
            difference1.eq(Mux(self.direct.valid, self.direct.value, change)),
            s.values2[p].eq(value1),
            s.differences2[p].eq(difference1),
            s.fire[p].eq(exists & (difference1 != 0) & (s.direct1 | reaches_both)),
        ]

    def _admit(self, m: Module, s: _Signals) -> None:
        """Some events are refused; from here on the signals are those of what is sent."""
        m.submodules.budget = budget = Budget(
            self._width,
            self._rows,
            self._vectors,
            row_bits=len(self.row),
            group_bits=self._group_bits,
        )
        number, before = Data(self._group_bits), Signal(self._group_bits, name="number_before")
        unlimited1, unlimited2 = Signal(), Signal()
        came, sent = budget.came, budget.sent
        m.d.comb += [
            before.eq(Mux(s.first2, 0, number)),
            budget.vector.eq(self.budgeted.vector),
            budget.unlimited.eq(unlimited2),
            budget.came_valid.eq(s.valid2),
            came.first.eq(s.first2),
            came.last.eq(s.last2),
            came.plain.eq(s.plain2 & s.enable2),
            came.direct.eq(s.direct2),
            came.group.eq(Mux(s.direct2, s.direct_group2, before)),
            came.row.eq(s.row4),
            came.base.eq(s.base2),
            came.bank.eq(s.bank2),
            came.fire.eq(s.fire),
            *(came["values"][p].eq(s.values2[p]) for p in range(self._width)),
            *(came.differences[p].eq(s.differences2[p]) for p in range(self._width)),
        ]
        m.d.sync += Cat(unlimited1, unlimited2).eq(Cat(self.budgeted.unlimited, unlimited1))
        with m.If(s.valid2):
            m.d.sync += number.eq(before + 1)
        for p in range(self._width):
            limit = Data(EVENT_BITS, name=f"limit2_{p}")
            larger = s.limit
            if self._elements:
                larger = Mux(s.own[p] > s.limit, s.own[p], s.limit)
            m.d.sync += limit.eq(larger)
            m.d.comb += budget.limits[p].eq(Mux(limit == 0, 1, limit))
        connect(m, flipped(self.budget.table), budget.budgets)
        connect(m, flipped(self.budget.windows), budget.host)
        m.d.sync += [
            self.budgeted.listed_vector.eq(budget.sent_vector),
            self.budgeted.listed_bank.eq(sent.bank),
        ]
        m.d.comb += self.budget.late.eq(budget.late)
        s.valid2, s.first2, s.last2 = budget.sent_valid, sent.first, sent.last
        s.plain2, s.enable2, s.direct2 = sent.plain, Const(1), sent.direct
        s.row4, s.base2, s.bank2, s.fire = sent.row, sent.base, Signal.like(s.bank2), sent.fire
        m.d.comb += s.bank2.eq(sent.bank)
        s.values2, s.differences2, s.sent_group = sent["values"], sent.differences, sent.group

    def _update_references(self, m: Module, s: _Signals, memories: list[LateMemory]) -> None:
        """An event moves its reference; an element below a plain threshold counts as zero."""
        for p, memory in enumerate(memories):
            m.d.comb += [
                memory.write_row.eq(s.row4),
                memory.write_data.eq(Mux(s.fire[p], s.values2[p], 0)),
                memory.write.eq(s.valid2 & ~s.direct2 & (s.fire[p] | (s.plain2 & s.enable2))),
            ]
            host = self.host
            with m.If(host.active):
                m.d.comb += [
                    memory.write_row.eq(host.row),
                    memory.write_data.eq(Mux(host.clear, 0, host.data)),
                    memory.write.eq(host.clear | (host.write & (host.element == p))),
                ]

    def _entry(self, m: Module, s: _Signals) -> Any:
        """The row of the list that a group makes, and what is said of it in ``listed``."""
        width, listed = self._width, self.listed
        count, before = Data(len(self.row)), Signal(len(self.row))
        group, group_before = Data(self._group_bits), Signal(self._group_bits)
        total, total_before = Data(16), Signal(16)
        entry = Signal(list_layout(width, self._group_bits))
        m.d.comb += [
            before.eq(Mux(s.first2, 0, count)),
            group_before.eq(Mux(s.first2, 0, group)),
            total_before.eq(Mux(s.first2, 0, total)),
            entry.group.eq(
                Mux(s.direct2, s.direct_group2, group_before)
                if s.sent_group is None
                else s.sent_group
            ),
            entry.mask.eq(s.fire),
            *(entry.values[p].eq(s.differences2[p]) for p in range(width)),
            listed.rows.eq(count),
            listed.total.eq(total),
        ]
        with m.If(s.valid2):
            m.d.sync += [
                count.eq(before + s.fire.any()),
                group.eq(group_before + 1),
                total.eq(total_before + sum(s.fire[p] for p in range(width))),
            ]
        m.d.sync += [
            listed.valid.eq(s.valid2),
            listed.first.eq(s.valid2 & s.first2),
            listed.last.eq(s.valid2 & s.last2),
        ]
        return entry

    def _list(self, m: Module, s: _Signals, entry: Any) -> None:
        """The list memory: rows in which something fired, one vector after its base."""
        address_bits = bits_for(self._rows - 1)
        bank_bits = bits_for(self._lists - 1) if self._lists > 1 else 0
        list_address = Signal(address_bits + bank_bits)
        read_address = Signal(address_bits + bank_bits)
        at = Data(address_bits)  # row that the next events of the vector go to
        row = Signal(address_bits)
        m.d.comb += row.eq(Mux(s.first2, s.base2, at))
        with m.If(s.valid2):
            m.d.sync += at.eq(row + s.fire.any())
        port = self.list
        m.d.comb += [
            list_address.eq(Cat(row, s.bank2[:bank_bits])),
            read_address.eq(Cat(port.row[:address_bits], port.bank[:bank_bits])),
        ]
        depth = ((self._lists - 1) << address_bits) + self._rows
        # Rows are read after `listed` has said that they are there.
        m.submodules.list = memory = LateMemory(len(entry.as_value()), depth)
        m.d.comb += [
            memory.write_row.eq(list_address),
            memory.write_data.eq(entry),
            memory.write.eq(s.valid2 & s.fire.any()),
            memory.row.eq(read_address),
            memory.enable.eq(port.enable),
            port.data.eq(memory.data),
        ]

    def _reached(self, m: Module, s: _Signals, p: int, difference1: Signal) -> Any:
        """Whether element p of the group reaches its own threshold, read like its reference."""
        found = Signal(EVENT_BITS, name=f"element_found{p}")
        above, below = (
            Data(signed(EVENT_BITS + 1), name=f"element_{name}{p}") for name in ("above", "below")
        )
        shift = self._width.bit_length() - 1
        row = Signal.like(self.row, name=f"threshold_row{p}")
        number = Signal(range(max(2, self._width)), name=f"threshold_number{p}")
        m.d.comb += [
            row.eq(self.thresholds.index >> shift),
            number.eq(self.thresholds.index[:shift]),
        ]
        # The highest bit stands apart: it takes as many blocks of RAM, and the memories need no
        # multiplexer behind them.
        for part, first, bits in (("low", 0, EVENT_BITS - 1), ("high", EVENT_BITS - 1, 1)):
            m.submodules[f"thresholds_{part}{p}"] = memory = LateMemory(unsigned(bits), self._rows)
            m.d.comb += [
                memory.row.eq(self.row),
                memory.write_row.eq(row),
                memory.write_data.eq(self.thresholds.value[first:]),
                memory.write.eq(self.thresholds.write & (number == p)),
                found[first : first + bits].eq(memory.data),
            ]
        m.d.sync += [
            above.eq(Mux(self.rule.exact, 0, found)),
            below.eq(-Mux(self.rule.exact, 0, found)),
        ]
        s.own.append(above)
        return (difference1 >= above) | (difference1 <= below)
