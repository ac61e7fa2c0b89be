"""The budget of a vector: which of its events are sent in this step (``contract.budgets``).

::

    events --> [size, class] --> store, counts by class --> [decide] --> replay --> what is sent
       |                                                                    ^
       +---------------- vectors without a budget, a cycle later -----------+

A vector is looked at twice. As it comes, its groups with events go to a store, and its events are
counted by class. After its last group the counts say which class is the last one to be sent, and
how much of it. Then the store is read, a group per cycle. So the largest changes of a vector are
known before the first of them is sent, whatever was sent in other steps.

A counter of its own stops each vector at its budget. The counts alone never let it come to that;
that no vector passes its budget is proven of this counter.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.host_interfaces import StateAccessSignature, TableWriteSignature
from stillnet.sw.contract.budgets import BUDGET_BITS, CLASS_BITS, CLASSES
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS

__all__ = ["Budget", "budget_group"]

SIZE_BITS = bits_for(2 * EVENT_BITS)
"""Width of a size in half octaves."""


def budget_group(width: int, row_bits: int, group_bits: int) -> data.StructLayout:
    """A group of elements whose events are known, before and after the budget."""
    return data.StructLayout(
        {
            "first": 1,
            "last": 1,
            "plain": 1,  # elements that are no events become zero
            "direct": 1,
            "group": unsigned(group_bits),
            "row": unsigned(row_bits),  # of the references
            "base": unsigned(row_bits),
            "bank": 1,
            "fire": unsigned(width),
            "values": data.ArrayLayout(signed(ACTIVATION_BITS), width),
            "differences": data.ArrayLayout(signed(EVENT_BITS), width),
        }
    )


class _Signals:
    """What the parts share. A letter is a stage: a the input, e the store, f and g the replay."""

    def __init__(self, width: int, bits: int, row_bits: int, vector: Any) -> None:
        self.entry = data.StructLayout(
            {
                "group": unsigned(bits),
                "inside": 1,  # in the window
                "fire": unsigned(width),
                "classes": data.ArrayLayout(unsigned(CLASS_BITS), width),
                "values": data.ArrayLayout(signed(ACTIVATION_BITS), width),
                "differences": data.ArrayLayout(signed(EVENT_BITS), width),
            }
        )
        # As looked up for the vector that comes, and as they are for the one at work.
        self.found_budget, self.found_window = Data(BUDGET_BITS), Data(16)
        self.budget, self.window, self.low = Data(BUDGET_BITS), Data(16), Data(16)
        self.vector_a, self.vector = Data(vector), Data(vector)
        self.base, self.bank = Data(row_bits), Data()
        self.limited = Signal()
        # What has come of the vector.
        self.entry_e, self.valid_e, self.last_e = Data(self.entry), Signal(), Signal()
        self.count = Signal(bits + 1)  # rows of the store
        self.counts = [Signal(BUDGET_BITS, name=f"count{c}") for c in range(CLASSES)]
        self.inside = Signal(BUDGET_BITS)
        self.size, self.next_window = Data(17), Data(17)
        # The decision: classes from ``bar`` on are sent whole, of the next lower one ``room``.
        self.room, self.bar = Signal(BUDGET_BITS), Signal(range(CLASSES + 1))
        self.turn, self.stopped = Signal(range(CLASSES)), Signal()
        self.beginning, self.deciding = Signal(), Signal()
        # The replay: a token is a group of the store, or the vector's beginning or end.
        self.place = Signal(bits + 1)
        self.token = data.StructLayout({"valid": 1, "first": 1, "last": 1, "body": 1})
        self.token_e = Signal(self.token)
        self.left = Signal(BUDGET_BITS)  # events that may still be sent
        self.over = Signal()  # the replay is at its end
        # For proofs: the last groups on their way to the store, the tokens on their way out.
        self.lasts: list[Any] = []
        self.tokens: list[Any] = [self.token_e]
        # What a group of the replay may send, what it sends.
        self.wanted, self.admitted = Signal(width), Signal(width)
        self.entry_g = Data(self.entry)


class Budget(wiring.Component):
    """Keeps each vector within its budget of events.

    Parameters
    ----------
    width : int
        Elements of a group.
    rows : int
        Most groups of a vector.
    vectors : int
        Vectors that have a budget each.
    row_bits, group_bits : int
        Widths of a row and of a group's number.

    Members
    -------
    vector : In
        Number of the vector, two cycles before a group of it.
    came_valid, came : In(1), In(budget_group)
        A group with its events.
    limits : In(array of 17 bits)
        The threshold of each element of that group, 1 at least.
    unlimited : In(1)
        Taken with a first group: the budget does not count, and the window stays.
    sent_valid, sent : Out(1), Out(budget_group)
        A group with the events that are sent. A vector with a budget begins and ends with groups
        that have none.
    sent_vector : Out
        Number of its vector.
    late : Out(16)
        Events of the vector that were refused so far, valid a cycle after ``sent_valid``.
    budgets : In(TableWriteSignature)
        Sets the budget of a vector; it counts from the vector's next step on. 0 is none.
    host : In(StateAccessSignature)
        The host's access to the windows, only while nothing is encoded.
    """

    def __init__(
        self, width: int, rows: int, vectors: int, *, row_bits: int, group_bits: int
    ) -> None:
        self._width, self._rows, self._vectors = width, rows, vectors
        self._group = budget_group(width, row_bits, group_bits)
        self._vector = vector = range(max(2, vectors))
        super().__init__(
            {
                "vector": In(vector),
                "came_valid": In(1),
                "came": In(self._group),
                "limits": In(data.ArrayLayout(unsigned(EVENT_BITS), width)),
                "unlimited": In(1),
                "sent_valid": Out(1),
                "sent": Out(self._group),
                "sent_vector": Out(vector),
                "late": Out(16),
                "budgets": In(TableWriteSignature()),
                "host": In(StateAccessSignature(bits_for(vector.stop - 1), 1, 16)),
            }
        )

    @property
    def width(self) -> int:
        """Elements of a group."""
        return self._width

    @property
    def rows(self) -> int:
        """Most groups of a vector."""
        return self._rows

    @property
    def vectors(self) -> int:
        """Vectors that have a budget each."""
        return self._vectors

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        s = _Signals(self._width, self._group["group"].width, len(self.came.row), self._vector)
        self._look_up(m, s)
        self._window(m, s)
        self._classify(m, s)
        self._count(m, s)
        found = self._store(m, s)
        self._work(m, s)
        self._choose(m, s, found)
        self.probes = SimpleNamespace(
            budget=s.budget,
            left=s.left,
            beginning=s.beginning,
            deciding=s.deciding,
            lasts=s.lasts,
            tokens=s.tokens,
            wanted=s.wanted,
            admitted=s.admitted,
            fire=s.entry_g.fire & s.tokens[-1].body.replicate(self._width),
            inside=s.entry_g.inside & s.tokens[-1].body,
        )
        return m

    # -- the vector that comes --------------------------------------------------------------------

    def _look_up(self, m: Module, s: _Signals) -> None:
        """Budget and window of the vector; they are its own from its first group on."""
        depth = max(2, self._vectors)
        m.submodules.table = table = Memory(shape=unsigned(BUDGET_BITS), depth=depth, init=[])
        reader, writer = table.read_port(), table.write_port()
        came, given, before = self.came, self.budgets, Data(self._vector)
        counts, counted = Signal(), Data()  # whether the budget counts for the vector
        m.d.comb += [
            reader.addr.eq(self.vector),
            writer.addr.eq(given.index),
            writer.data.eq(given.value),
            writer.en.eq(given.write & (given.index < depth)),
            counts.eq((s.found_budget != 0) & ~came.plain & ~came.direct & ~self.unlimited),
            s.limited.eq(self.came_valid & Mux(came.first, counts, counted)),
        ]
        m.d.sync += [
            s.found_budget.eq(reader.data),
            before.eq(self.vector),
            s.vector_a.eq(before),
        ]
        with m.If(self.came_valid & came.first):
            m.d.sync += [
                counted.eq(counts),
                s.budget.eq(s.found_budget),
                s.window.eq(s.found_window),
                # Window size - 1: ones below the highest bit of a quarter of the budget.
                *(s.low[i].eq(s.found_budget[i + 3 :].any()) for i in range(BUDGET_BITS - 3)),
                s.vector.eq(s.vector_a),
                s.base.eq(came.base),
                s.bank.eq(came.bank),
            ]

    def _window(self, m: Module, s: _Signals) -> None:
        """The windows of all vectors; that of a vector moves on at the end of its replay."""
        depth = max(2, self._vectors)
        m.submodules.windows = windows = Memory(shape=unsigned(16), depth=depth, init=[])
        reader, writer, host = windows.read_port(), windows.write_port(), self.host
        m.d.sync += [s.found_window.eq(reader.data), s.next_window.eq((s.window | s.low) + 1)]
        m.d.comb += [
            reader.addr.eq(Mux(host.active, host.row, self.vector)),
            writer.addr.eq(s.vector),
            writer.data.eq(Mux(s.next_window < s.size, s.next_window, 0)),
            writer.en.eq(s.over),
            host.read.eq(s.found_window),
        ]
        with m.If(host.active):
            m.d.comb += [
                writer.addr.eq(host.row),
                writer.data.eq(Mux(host.clear, 0, host.data)),
                writer.en.eq(host.clear | host.write),
            ]

    def _classify(self, m: Module, s: _Signals) -> None:
        """Stages b to e: the class of every element, and whether the group is in the window."""
        came, shift = self.came, self._width.bit_length() - 1
        valid, last = s.limited, came.last
        group, fire = came.group, came.fire
        values, differences = came["values"].as_value(), came.differences.as_value()
        for stage in "bcde":
            later = [
                Signal(name=f"valid_{stage}") if stage != "e" else s.valid_e,
                Signal(name=f"last_{stage}") if stage != "e" else s.last_e,
                Data(len(group), name=f"group_{stage}"),
                Data(len(fire), name=f"fire_{stage}"),
                Data(len(values), name=f"values_{stage}"),
                Data(len(differences), name=f"differences_{stage}"),
            ]
            m.d.sync += Cat(*later).eq(Cat(valid, valid & last, group, fire, values, differences))
            valid, last, group, fire, values, differences = later
            s.lasts.append(last)
            if stage == "c":
                index = Signal(16)
                inside = Data()
                m.d.comb += index.eq(group << shift)
                m.d.sync += inside.eq(((index ^ s.window) & ~s.low) == 0)
        inside_e = Data()
        m.d.sync += inside_e.eq(inside)
        entry = s.entry_e
        for p in range(self._width):
            m.d.comb += entry.classes[p].eq(self._class(m, p))
        m.d.comb += [
            entry.group.eq(group),
            entry.inside.eq(inside_e),
            entry.fire.eq(fire),
            entry["values"].as_value().eq(values),
            entry.differences.as_value().eq(differences),
        ]

    def _class(self, m: Module, p: int) -> Signal:
        """The class of element p, in stage e."""
        difference = self.came.differences[p]
        magnitude, limit_b = (Data(EVENT_BITS, name=f"{n}_b{p}") for n in ("magnitude", "limit"))
        size, limit = (Data(SIZE_BITS, name=f"{n}_c{p}") for n in ("size", "limit"))
        over = Data(signed(SIZE_BITS + 1), name=f"over_d{p}")
        found = Data(CLASS_BITS, name=f"class_e{p}")
        m.d.sync += [
            magnitude.eq(Mux(difference < 0, -difference, difference)),
            limit_b.eq(self.limits[p]),
            size.eq(_half_octaves(m, magnitude, f"magnitude{p}")),
            limit.eq(_half_octaves(m, limit_b, f"limit{p}")),
            over.eq(size - limit),
            found.eq(Mux(over < 0, 0, Mux(over >= CLASSES, CLASSES - 1, over))),
        ]
        return found

    def _count(self, m: Module, s: _Signals) -> None:
        """Events by class, those in the window apart; the size of the vector."""
        entry, width = s.entry_e, self._width
        with m.If(s.valid_e):
            m.d.sync += s.size.eq((entry.group + 1) << (width.bit_length() - 1))
            with m.If(entry.inside):
                m.d.sync += s.inside.eq(s.inside + _ones(entry.fire))
            with m.Else():
                for c, count in enumerate(s.counts):
                    of_class = Cat(entry.fire[p] & (entry.classes[p] == c) for p in range(width))
                    m.d.sync += count.eq(count + _ones(of_class))

    def _store(self, m: Module, s: _Signals) -> Signal:
        """Groups with events; what is read at ``place`` comes in stage g."""
        bits = len(s.entry_e.as_value())
        # Written while a vector comes, read after its last group.
        m.submodules.store = store = Memory(
            shape=unsigned(bits), depth=self._rows, init=[], attrs={"no_rw_check": 1}
        )
        writer, reader, found = store.write_port(), store.read_port(), Data(bits)
        m.d.comb += [
            writer.addr.eq(s.count),
            writer.data.eq(s.entry_e),
            writer.en.eq(s.valid_e & s.entry_e.fire.any()),
            reader.addr.eq(s.place),
        ]
        m.d.sync += found.eq(reader.data)
        with m.If(writer.en):
            m.d.sync += s.count.eq(s.count + 1)
        return found

    # -- decision and replay ----------------------------------------------------------------------

    def _work(self, m: Module, s: _Signals) -> None:
        """After the last group: room, the classes from the largest changes down, the replay."""
        token, fits = s.token_e, Signal()
        m.d.comb += fits.eq(s.counts[-1] <= s.room)
        m.d.sync += token.eq(0)
        with m.FSM(name="budget") as work:
            with m.State("COME"), m.If(s.valid_e & s.last_e):
                m.next = "ROOM"
            with m.State("ROOM"):
                m.d.sync += [
                    s.room.eq(s.budget - s.inside),
                    s.left.eq(s.budget),
                    s.bar.eq(CLASSES),
                    s.turn.eq(0),
                    s.stopped.eq(0),
                    s.inside.eq(0),
                    s.place.eq(0),
                ]
                m.next = "CLASS"
            with m.State("CLASS"):
                with m.If(fits & ~s.stopped):
                    m.d.sync += [s.room.eq(s.room - s.counts[-1]), s.bar.eq(s.bar - 1)]
                with m.Else():
                    m.d.sync += s.stopped.eq(1)
                m.d.sync += [
                    Cat(*s.counts).eq(Cat(*s.counts) << BUDGET_BITS),
                    s.turn.eq(s.turn + 1),
                ]
                with m.If(s.turn == CLASSES - 1):
                    m.d.sync += [token.valid.eq(1), token.first.eq(1)]
                    m.next = "GROUPS"
            with m.State("GROUPS"):
                m.d.sync += token.valid.eq(1)
                with m.If(s.place == s.count):
                    m.d.comb += s.over.eq(1)
                    m.d.sync += [token.last.eq(1), s.count.eq(0)]
                    m.next = "COME"
                with m.Else():
                    m.d.sync += [token.body.eq(1), s.place.eq(s.place + 1)]
        m.d.comb += s.deciding.eq(work.ongoing("CLASS") | work.ongoing("GROUPS"))
        m.d.comb += s.beginning.eq(work.ongoing("ROOM"))

    def _choose(self, m: Module, s: _Signals, found: Signal) -> None:
        """Stages f and g: what is sent of a group; or a group that no budget counts for."""
        width = self._width
        # ``place`` moves with the token, so a stage later the memory has its group.
        token_f, token_g = Signal(s.token), Signal(s.token)
        s.tokens += [token_f, token_g]
        entry, entry_g = Signal(s.entry), s.entry_g
        sure, part = Data(width), Data(width)
        row_g = Data(len(self.came.row))
        m.d.comb += entry.eq(found)
        m.d.sync += [
            token_f.eq(s.token_e),
            token_g.eq(token_f),
            entry_g.eq(entry),
            row_g.eq(s.base + entry.group),
        ]
        for p in range(width):
            fire, k = entry.fire[p] & token_f.body, entry.classes[p]
            m.d.sync += [
                sure[p].eq(fire & (entry.inside | (k >= s.bar))),
                part[p].eq(fire & ~entry.inside & (k + 1 == s.bar)),
            ]
        # As many of the last class as there is room for, and of all as many as are left.
        wanted, admitted = s.wanted, s.admitted
        m.d.comb += wanted.eq(sure | _first_of(part, s.room))
        m.d.comb += admitted.eq(_first_of(wanted, s.left))
        with m.If(token_g.valid):
            m.d.sync += [
                s.room.eq(s.room - _ones(wanted & part)),
                s.left.eq(s.left - _ones(admitted)),
                self.late.eq(
                    Mux(token_g.first, 0, self.late)
                    + Mux(token_g.body, _ones(entry_g.fire & ~admitted), 0)
                ),
            ]
        sent, came = self.sent, self.came
        m.d.sync += [
            self.sent_valid.eq((self.came_valid & ~s.limited) | token_g.valid),
            sent.eq(came),
            self.sent_vector.eq(s.vector_a),
        ]
        with m.If(token_g.valid):
            m.d.sync += [
                sent.first.eq(token_g.first),
                sent.last.eq(token_g.last),
                sent.plain.eq(0),
                sent.direct.eq(0),
                sent.group.eq(entry_g.group),
                sent.row.eq(row_g),
                sent.base.eq(s.base),
                sent.bank.eq(s.bank),
                sent.fire.eq(admitted),
                sent["values"].eq(entry_g["values"]),
                sent.differences.eq(entry_g.differences),
                self.sent_vector.eq(s.vector),
            ]
        with m.If(self.came_valid & ~s.limited):
            m.d.sync += self.late.eq(0)


def _ones(mask: Value) -> Value:
    """How many bits of a mask are set."""
    return sum((mask[p] for p in range(1, len(mask))), start=mask[0])


def _first_of(mask: Value, most: Value) -> Value:
    """The lowest bits of a mask that are set, as many as ``most``."""
    return Cat(
        mask[p] & ((_ones(mask[:p]) if p else 0) < most) if p else mask[p] & (most != 0)
        for p in range(len(mask))
    )


def _half_octaves(m: Module, value: Signal, name: str) -> Value:
    """``contract.budgets.half_octaves``."""
    result = Signal(SIZE_BITS, name=f"{name}_half_octaves")
    for k in range(1, len(value)):
        with m.If(value[k]):
            m.d.comb += result.eq(2 * k + value[k - 1])
    return result
