"""What is proven of the SDRAM controller.

The rules are those of the datasheets, written once more here and from the pins only
(:class:`DatasheetRules`). All else that is claimed are invariants of the controller: they let the
proof hold for all time, and if one of them were wrong, the proof would fail, not lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.sdram.controller import SdramController
from stillnet.hw.memory.sdram.parts import SdramPart, SdramTimings
from stillnet.hw.memory.sdram.refresh import RefreshControl
from stillnet.hw.memory.sdram.segments import SegmentSplitter

from .proof import Proof

__all__ = ["SMALL", "TIGHT", "DatasheetRules", "refresh_proof", "sdram_proof"]

SMALL = SdramPart(
    name="small",
    row_bits=2,
    column_bits=4,
    data_bits=8,
    trcd=0,
    trp=0,
    tras=0,
    trc=0,
    trfc=0,
    trrd=0,
    twr=0,
    refreshes=4096,
    cas=((2, 100_000_000),),
    source="made up: the timings are given in cycles",
)
"""Few rows and columns: no rule depends on how many there are."""

TIGHT = SdramTimings(
    cas_latency=2,
    trcd=3,
    trp=3,
    tras=8,
    trc=12,
    trfc=6,
    trrd=4,
    twr=5,
    tmrd=6,
    twtr=2,
    refresh_interval=200,
    startup=20,
    txp=5,
    tcke=3,
)
"""Timings of which each is longer than the controller's own steps, so that each one matters."""

_READ_BURST = 8

_CODES = {
    "stop": 0b001,
    "read": 0b010,
    "write": 0b011,
    "activate": 0b100,
    "precharge": 0b101,
    "refresh": 0b110,
    "mode": 0b111,
}
"""The truth table of the datasheets, with all signals active high: ``we | cas << 1 | ras << 2``."""


class _Age:
    """Cycles since something happened, up to a limit."""

    def __init__(self, m: Module, event: Any, limit: int, name: str):
        self._limit = limit
        self._count = Signal(range(limit + 1), init=limit, name=f"age_{name}")
        with m.If(event):
            m.d.sync += self._count.eq(1)
        with m.Elif(self._count != limit):
            m.d.sync += self._count.eq(self._count + 1)

    def least(self, cycles: int) -> Any:
        assert cycles <= self._limit
        return self._count >= cycles


class DatasheetRules:
    """Claims of every command on the pins what datasheets demand of it.

    Parameters
    ----------
    proof : :class:`Proof`
    pins : signature of the controller's pins
    part : :class:`SdramPart`
    t : :class:`SdramTimings`
        What the part demands, in cycles.
    sleeps : bool
        Also what concerns power-down. Without, clock enable stays high.

    Attributes
    ----------
    open : list of Signal
        A bank has a row open, as of the commands before this cycle.
    row : list of Signal
        Which one.
    read, write : Signal
        The command on the pins.
    mode_loaded : Signal
    """

    def __init__(
        self, proof: Proof, pins: Any, part: SdramPart, t: SdramTimings, *, sleeps: bool = False
    ):
        m = proof.m
        banks = range(part.banks)
        code = Cat(pins.we, pins.cas, pins.ras)
        is_ = {}
        for name, value in _CODES.items():
            is_[name] = Signal(name=f"command_{name}")
            m.d.comb += is_[name].eq(pins.cs & (code == value))
        read, write, activate = is_["read"], is_["write"], is_["activate"]
        precharge, refresh, mode = is_["precharge"], is_["refresh"], is_["mode"]
        all_banks = pins.a[10]
        command = Signal(name="any_command")
        m.d.comb += command.eq(pins.cs & code.any())

        self.read, self.write = read, write
        self.open = [Signal(name=f"open{b}") for b in banks]
        self.row = [Signal(part.row_bits, name=f"open_row{b}") for b in banks]
        here = [pins.ba == b for b in banks]
        self.mode_loaded = Signal()
        refreshes = Signal(4)
        self.startup_refreshes = refreshes
        first_done = Signal()  # PRECHARGE of all banks has been
        self.first_done = first_done
        powered = Signal(range(t.startup + 1))
        self.powered = powered

        longest = max(t.trc, t.tras, t.trp, t.trcd, t.twr, t.trrd, t.trfc, t.tmrd)
        activated = [_Age(m, activate & here[b], longest, f"activate{b}") for b in banks]
        written = [_Age(m, write & here[b], longest, f"write{b}") for b in banks]
        closed = [
            _Age(m, precharge & (here[b] | all_banks), longest, f"precharge{b}") for b in banks
        ]
        any_activated = _Age(m, activate, longest, "any_activate")
        refreshed = _Age(m, refresh, longest, "refresh")
        mode_set = _Age(m, mode, longest, "mode")

        with m.If(pins.cke & (powered != t.startup)):
            m.d.sync += powered.eq(powered + 1)
        with m.If(precharge & all_banks):
            m.d.sync += first_done.eq(1)
        with m.If(mode):
            m.d.sync += self.mode_loaded.eq(1)
        with m.If(refresh & ~self.mode_loaded & (refreshes != 15)):
            m.d.sync += refreshes.eq(refreshes + 1)
        for b in banks:
            with m.If(activate & here[b]):
                m.d.sync += [self.open[b].eq(1), self.row[b].eq(pins.a[: part.row_bits])]
            with m.If(precharge & (here[b] | all_banks)):
                m.d.sync += self.open[b].eq(0)

        def each(true: Any) -> Any:
            """``true(b)`` for the bank that the command names."""
            return Cat(~here[b] | true(b) for b in banks).all()

        claim = proof.claim
        claim("no such command", ~is_["stop"])
        claim("tMRD", ~command | mode_set.least(t.tmrd))
        claim("tRFC", ~command | refreshed.least(t.trfc))
        claim(
            "the first command is PRECHARGE of all banks",
            ~command | first_done | (precharge & all_banks),
        )
        claim("pause after power-up", ~command | (powered == t.startup))
        claim("eight refreshes before LOAD MODE", ~mode | (refreshes >= 8))
        claim("LOAD MODE before ACTIVATE", ~activate | self.mode_loaded)
        claim("ACTIVATE of a closed bank", ~activate | each(lambda b: ~self.open[b]))
        claim("tRP", ~activate | each(lambda b: closed[b].least(t.trp)))
        claim("tRC", ~activate | each(lambda b: activated[b].least(t.trc)))
        claim("tRRD", ~activate | any_activated.least(t.trrd))
        claim("a row of the part", ~activate | ~pins.a[part.row_bits :].any())
        claim("data of an open bank", ~(read | write) | each(lambda b: self.open[b]))
        claim("tRCD", ~(read | write) | each(lambda b: activated[b].least(t.trcd)))
        claim("no auto precharge", ~(read | write) | ~pins.a[10])
        claim(
            "tRAS",
            ~precharge
            | Cat(
                ~(here[b] | all_banks) | ~self.open[b] | activated[b].least(t.tras) for b in banks
            ).all(),
        )
        claim(
            "tWR",
            ~precharge
            | Cat(
                ~(here[b] | all_banks) | ~self.open[b] | written[b].least(t.twr) for b in banks
            ).all(),
        )
        quiet = refresh | mode
        claim("REFRESH of closed banks", ~quiet | Cat(~row for row in self.open).all())
        claim("tRP before REFRESH", ~quiet | Cat(c.least(t.trp) for c in closed).all())
        claim("tRC before REFRESH", ~quiet | Cat(a.least(t.trc) for a in activated).all())
        claim(
            "mode register",
            ~mode | ((pins.a == (1 << 9 | t.cas_latency << 4 | 0b011)) & (pins.ba == 0)),
        )

        coming = self._bus(proof, pins, t)
        if sleeps:
            over = [refreshed.least(t.trfc), mode_set.least(t.tmrd), ~coming.any()]
            over += [c.least(t.trp) for c in closed] + [~row for row in self.open]
            self._power_down(proof, pins, t, command, Cat(over).all())

    def _power_down(
        self, proof: Proof, pins: Any, t: SdramTimings, command: Signal, quiet: Any
    ) -> None:
        """Claims that the part sleeps only when it has nothing to do, and is left alone then."""
        m, claim = proof.m, proof.claim
        before = Signal(name="cke_before")
        m.d.sync += before.eq(pins.cke)
        falls, rises = before & ~pins.cke, ~before & pins.cke
        limit = max(t.txp, t.tcke)
        woken, slept = _Age(m, rises, limit, "wake"), _Age(m, falls, limit, "sleep")
        claim("no command in power-down", ~command | pins.cke)
        claim("tXP", ~(command | falls) | woken.least(t.txp))
        claim("tCKE", ~rises | slept.least(t.tcke))
        claim("power-down after LOAD MODE", ~falls | self.mode_loaded)
        claim("power-down of a part with nothing to do", ~falls | quiet)

    def _bus(self, proof: Proof, pins: Any, t: SdramTimings) -> Signal:
        """Claims that one side drives the data bus; returns what data is on its way."""
        m, claim, read, write = proof.m, proof.claim, self.read, self.write
        # The part drives the bus from CL cycles after READ for all of a burst, if it is not cut.
        # A cycle is left for it to let go.
        coming = Signal(t.cas_latency + _READ_BURST)
        burst = ((1 << _READ_BURST) - 1) << (t.cas_latency - 1)
        m.d.sync += coming.eq((coming >> 1) | Mux(read, burst, 0))
        before = Signal(name="part_drove")
        m.d.sync += before.eq(coming[0])
        claim("one side drives the bus", ~pins.dq_oe | ~(coming[0] | before))
        claim("WRITE has its data", write == pins.dq_oe)
        return coming


class _AnySegments(wiring.Component):
    """Stands for the splitter: any segment, at any time."""

    def __init__(self, part: SdramPart, address_bits: int, word_bits: int, length_bits: int):
        real: Any = SegmentSplitter(part, address_bits, word_bits, length_bits)
        super().__init__(dict(real.signature.members))

    def elaborate(self, platform: Any) -> Module:
        return Module()


class _AnyOrder(wiring.Component):
    """Stands for the queue of segments: what went in comes out, in any order."""

    def __init__(self, shape: Any, depth: int):
        self.depth = depth
        super().__init__(
            {"i_stream": In(stream.Signature(shape)), "o_stream": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform: Any) -> Module:
        return Module()


class _AnyRoom(wiring.Component):
    """Stands for the buffer of words: it has room, or not."""

    def __init__(
        self, word_bits: int, data_bits: int, latency: int, depth: int | None, *, far: bool
    ):
        self.depth = 16
        super().__init__(
            {
                "take": In(1),
                "dq": In(data_bits),
                "room": Out(1),
                "o_stream": Out(stream.Signature(word_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        return Module()


@contextmanager
def _abstracted(controller: type) -> Iterator[None]:
    """Has a controller use what stands for its parts."""
    names = vars(controller)["elaborate"].__globals__
    changed = {"SegmentSplitter": _AnySegments, "ShortQueue": _AnyOrder, "ReadWords": _AnyRoom}
    before = {name: names[name] for name in changed}
    names.update(changed)
    try:
        yield
    finally:
        names.update(before)


def _one_hot(value: Any) -> Any:
    return (value & (value - 1)) == 0


def sdram_proof(
    *,
    demanded: SdramTimings = TIGHT,
    used: SdramTimings | None = None,
    part: SdramPart = SMALL,
    postponed: int = 8,
    depth: int = 18,
    controller: type = SdramController,
    power_down: int | None = None,
) -> Proof:
    """The command rules of the controller, for all time.

    Requests are segments of any row and column at any time, the engine takes words when it likes,
    and of the queue of segments nothing is used but that it gives back what it was given.

    Parameters
    ----------
    demanded : SdramTimings
        What the rules ask for.
    used : SdramTimings, optional
        What the controller is told, if something else.
    part : SdramPart
    postponed : int
        Refreshes that may wait.
    depth : int
        Of the induction: more than the longest timing and the steps from a decision to the pins.
    controller : class, optional
        Another one than :class:`SdramController`.
    power_down : int, optional
        As of the controller.
    """
    proof = Proof(depth)
    with _abstracted(controller):
        dut = controller(
            part,
            100_000_000,
            part.address_bits,
            part.data_bits,
            length_bits=4,
            lookahead=2,
            postponed=postponed,
            timings=used or demanded,
            power_down=power_down,
        )
        proof.add("controller", dut)
    c = dut.probes
    segment, queue = c.splitter.o_stream, c.runs
    proof.free(segment.payload, segment.valid, c.splitter.write_drop, c.splitter.write_start)
    proof.free(queue.i_stream.ready, queue.o_stream.payload, queue.o_stream.valid)
    proof.free(c.read_words.room)
    proof.assume_held("segment_held", segment)
    if power_down is not None:
        proof.free(c.splitter.read.ready, c.splitter.write.ready)

    rules = DatasheetRules(proof, dut.pins, part, demanded, sleeps=power_down is not None)
    waiting = _bag(proof, c.runs, part)
    _invariants(proof, dut, waiting, rules, used or demanded)
    return proof


def _bag(proof: Proof, queue: Any, part: SdramPart) -> list[Signal]:
    """The queue of segments as a bag: returns the number of segments for each bank."""
    m = proof.m
    most = queue.depth + 1
    counts = [Signal(range(most + 1), name=f"segments{b}") for b in range(part.banks)]
    put = queue.i_stream.valid & queue.i_stream.ready
    get = queue.o_stream.valid & queue.o_stream.ready
    for b, count in enumerate(counts):
        m.d.sync += count.eq(
            count + (put & queue.i_stream.p.bank[b]) - (get & queue.o_stream.p.bank[b])
        )
        proof.assume(~queue.o_stream.valid | ~queue.o_stream.p.bank[b] | (count != 0))
    # What the queue says of its room holds until something goes in (``queue_proof``).
    promised = Signal()
    m.d.sync += promised.eq(queue.i_stream.ready & ~put)
    proof.assume(~promised | queue.i_stream.ready)
    proof.claim("nothing goes in where there is no room", ~queue.i_stream.valid | put)
    total = sum(counts[1:], counts[0])
    proof.assume(~queue.i_stream.ready | (total < most))
    proof.claim("the queue is not overrun", total <= most)
    bank = queue.o_stream.p.bank
    proof.assume(~queue.o_stream.valid | (bank.any() & _one_hot(bank)))
    return counts


def _invariants(
    proof: Proof, dut: Any, waiting: list[Signal], rules: DatasheetRules, t: SdramTimings
) -> None:
    """What ties the controller to the rules; ``waiting`` are the segments in the queue by bank."""
    _segment_invariants(proof, dut.probes, len(waiting))
    _refresh_invariants(proof, dut.probes, rules, t)
    m, hold = proof.m, dut.probes.refresh.hold
    settle = Signal(range(64))
    with m.If(~hold):
        m.d.sync += settle.eq(0)
    with m.Elif(settle != 63):
        m.d.sync += settle.eq(settle + 1)

    for b in range(len(waiting)):
        decided = _open_invariants(proof, dut.probes, waiting[b], rules, b)
        _row_invariants(proof, dut, rules, b, decided)
        busy = dut.probes.banks[b].busy
        proof.claim("a bank becomes quiet", (settle < settle_cycles(t)) | ~busy)


def _segment_invariants(proof: Proof, c: Any, banks: int) -> None:
    """Segments and their bursts, and what was chosen."""
    claim, segment, burst = proof.claim, c.segment, c.burst
    bursts = c.bursts.probes
    run = bursts.run
    claim("run", ~bursts.valid | (run.bank.any() & _one_hot(run.bank)))
    claim("burst", _one_hot(burst.bank) & (bursts.waiting == burst.bank.any()))
    claim(
        "burst of a run",
        burst.end | ~bursts.waiting | (bursts.valid & (run.bank == burst.bank)),
    )
    claim(
        "looked",
        ~c.looked | (segment.valid & (c.chosen == Cat(segment.p.bank == b for b in range(banks)))),
    )
    claim(
        "what is dispatched is the segment",
        ~c.dispatch
        | (
            (c.run.bank == c.chosen)
            & (c.run.first == segment.p.first)
            & (c.run.write == segment.p.write)
        ),
    )
    claim("issued bank", _one_hot(c.issued_bank))

    claim("target", _one_hot(c.target))
    claim("chosen", ~(c.activating & c.precharging))
    claim("target of what was chosen", ~(c.activating | c.precharging) | c.target.any())


_SLEEPING = ("CLOSED", "SLEEP", "WAKE")
"""States of a controller that can sleep, from its rows closed to its commands again."""


def _refreshing(refresh: Any) -> Any:
    """Of its probes: it is on its way to a refresh, and not to power-down."""
    states, state = refresh.machine.encoding, refresh.machine.state
    begins = Cat(state == states[s] for s in ("SETTLE", "PRECHARGE")).any()
    return (begins & ~refresh.doze) | (state == states["REFRESH"])


def _sleep_invariants(proof: Proof, refresh: Any) -> None:
    """Going to sleep, where it can."""
    claim, states, state = proof.claim, refresh.machine.encoding, refresh.machine.state
    if "SLEEP" not in states:
        return
    dozing = Cat(state == states[s] for s in ("SETTLE", "PRECHARGE", "CLOSED")).any()
    claim("dozing", ~refresh.doze | dozing)
    claim("rested", ~refresh.rested | (refresh.quiet == refresh.idle_cycles))
    claim("quiet", refresh.quiet <= refresh.idle_cycles)


def _refresh_invariants(proof: Proof, c: Any, rules: DatasheetRules, t: SdramTimings) -> None:
    m, claim = proof.m, proof.claim
    control, refresh = c.refresh, c.refresh.probes
    states, state = refresh.machine.encoding, refresh.machine.state
    begun = control.started
    claim("state", state < len(states))
    claim("hold", control.hold == (state != states["RUN"]))
    claim("power-up", (state != states["POWER-UP"]) | ~begun)
    later_states = [states[s] for s in ("RUN", "SETTLE", *_SLEEPING) if s in states]
    claim("started", begun | ~Cat(state == s for s in later_states).any())
    _sleep_invariants(proof, refresh)
    started = Signal(3)
    m.d.sync += started.eq(Cat(begun, started))
    claim("mode loaded", rules.mode_loaded == started[1])
    first = [Signal(name=f"first_precharge{k}") for k in range(4)]
    with m.If(control.precharge):
        m.d.sync += first[0].eq(1)
    m.d.sync += [b.eq(a) for a, b in zip(first, first[1:], strict=False)]
    claim(
        "first precharge", (state == states["POWER-UP"]) | (state == states["PRECHARGE"]) | first[0]
    )
    claim("first precharge seen", rules.first_done == first[2])
    # Refreshes before the mode register, of which up to three are on their way to the pins.
    sent = [Signal(4, name=f"sent{k}") for k in range(3)]
    with m.If(control.refresh & ~begun & (sent[0] != 15)):
        m.d.sync += sent[0].eq(sent[0] + 1)
    m.d.sync += [b.eq(a) for a, b in zip(sent, sent[1:], strict=False)]
    claim("refreshes sent", begun | (sent[0] + refresh.due == 8))
    claim("all sent", ~((state == states["LAST"]) | begun) | (sent[0] == 8))
    claim(
        "refreshes seen",
        started[1] | (rules.startup_refreshes == sent[2]),
    )
    # By `refresh_proof`, which takes from here that banks become quiet.
    proof.assume(refresh.due < 16)
    claim("refreshes are due", ~_refreshing(refresh) | (refresh.due != 0))
    claim("all at start", begun | refresh.forced)
    claim("timer over", refresh.over == (refresh.timer == 0))
    claim("timer nearly over", refresh.nearly == (refresh.timer <= 2))
    early = (state == states["POWER-UP"]) | (state == states["PRECHARGE"])
    claim("none before", begun | ~early | (refresh.due == 8))
    claim("no more than all", sent[0] <= 8)
    left = rules.powered + refresh.startup
    claim(
        "pause",
        (state != states["POWER-UP"])
        | refresh.powered
        | (left <= t.startup) & (left >= t.startup - 1) & (refresh.startup != 0),
    )
    claim("pause counted", rules.powered <= t.startup)
    claim("powered", ~refresh.powered | begun)
    claim("paused", (state == states["POWER-UP"]) | (rules.powered >= t.startup - 1))


def _open_invariants(
    proof: Proof, c: Any, waiting: Signal, rules: DatasheetRules, b: int
) -> Signal:
    """When a bank is open; returns whether it is, as of the commands that were issued."""
    m, claim = proof.m, proof.claim
    bank, bursts = c.banks[b], c.bursts.probes
    own, run, burst, hold = bank.probes, bursts.run, c.burst, c.refresh.hold
    machine = c.refresh.probes.machine
    states, state = machine.encoding, machine.state
    # Open, as decided: the pins follow two cycles later, the rules a cycle after that.
    decided = Signal(name=f"decided{b}")
    later = [Signal(name=f"decided{b}_{k}") for k in range(3)]
    with m.If(bank.issued.activate):
        m.d.sync += decided.eq(1)
    with m.If(bank.issued.precharge | bank.issued.close):
        m.d.sync += decided.eq(0)
    m.d.sync += [y.eq(x) for x, y in zip([decided, *later], later, strict=False)]
    claim("open as decided", rules.open[b] == later[1])
    claim(
        "used",
        own.uses
        == waiting
        + (bursts.valid & run.bank[b])
        + (burst.bank[b] & burst.end)
        + (c.issued_end & c.issued_bank[b]),
    )
    claim("unused", bank.needed.unused == (own.uses == 0))
    chosen = (c.activating | c.precharging) & c.target[b]
    claim("opened", hold | chosen | (own.opened == decided))
    claim("opening", ~(c.activating & c.target[b]) | (own.opened & ~decided & ~own.stale))
    claim("closing", ~(c.precharging & c.target[b]) | (~own.opened & decided))
    claim("ready", ~bank.ready | (decided & own.opened & ~own.stale & ~chosen))
    claim("stale", ~own.stale | own.opened)
    claim("opened for someone", ~(c.activating & c.target[b]) | (own.uses != 0))
    claim(
        "opening soon",
        ~own.delay.any() | (decided & ~own.stale & own.opened & (own.uses != 0)),
    )
    closed = [states[s] for s in ("REFRESH", "LAST", "POWER-UP", *_SLEEPING) if s in states]
    quiet = Cat(state == s for s in closed).any()
    claim("closed in a refresh", ~quiet | (~decided & ~own.opened & ~bank.ready))
    return decided


def _row_invariants(proof: Proof, dut: Any, rules: DatasheetRules, b: int, decided: Signal) -> None:
    """Which row a bank has."""
    m, claim, c, part = proof.m, proof.claim, dut.probes, dut.part
    bank, segment = c.banks[b], c.segment
    own = bank.probes
    asked = Signal(part.row_bits, name=f"asked_row{b}")
    with m.If(c.dispatch & (segment.p.bank == b)):
        m.d.sync += asked.eq(segment.p.row)
    claim(
        "one row a bank",
        ~(c.dispatch & (segment.p.bank == b)) | (own.uses == 0) | (asked == segment.p.row),
    )
    claim("row", ~own.assigned | (bank.row == asked))
    claim("in use", bank.needed.unused | own.assigned)
    claim(
        "same",
        ~c.looked | (bank.needed.same == (own.assigned & (bank.row == segment.p.row))),
    )
    asked_later = [Signal(part.row_bits, name=f"asked_row{b}_{k}") for k in range(2)]
    m.d.sync += [asked_later[0].eq(asked), asked_later[1].eq(asked_later[0])]
    claim(
        "data of the right row",
        ~((rules.read | rules.write) & (dut.pins.ba == b)) | (rules.row[b] == asked_later[1]),
    )
    opened_row = [Signal(part.row_bits, name=f"opened_row{b}_{k}") for k in range(2)]
    with m.If(c.issued_activate & c.issued_bank[b]):
        m.d.sync += opened_row[0].eq(bank.row)
    m.d.sync += opened_row[1].eq(opened_row[0])
    claim("row as decided", ~rules.open[b] | (rules.row[b] == opened_row[1]))
    activated = Signal(name=f"activated{b}")
    m.d.sync += activated.eq(bank.issued.activate)
    claim(
        "row of a bank that is open",
        ~(decided & own.opened & ~own.stale & ~activated) | (opened_row[0] == bank.row),
    )


def refresh_proof(
    *,
    demanded: SdramTimings = TIGHT,
    used: SdramTimings | None = None,
    postponed: int = 8,
    depth: int = 40,
    control: type = RefreshControl,
    power_down: int | None = None,
) -> Proof:
    """No more refreshes are late than may be, for all time.

    The memory may be idle or not, in any cycle. Banks may be busy in any cycle, but not for longer
    than :func:`sdram_proof` shows once nobody else may issue a command.

    Parameters
    ----------
    demanded : SdramTimings
        ``refresh_interval`` is that in which a refresh comes due.
    used : SdramTimings, optional
        What the controller is told, if something else.
    postponed : int
    depth : int
        More than the cycles from the last refresh that may wait to the first one that is done.
    control : class, optional
        Another one than :class:`RefreshControl`.
    power_down : int, optional
        Cycles without a request before the memory is put to sleep; requests come at any time.
    """
    proof = Proof(depth)
    m, claim = proof.m, proof.claim
    t, interval = used or demanded, demanded.refresh_interval
    dut = control(t, postponed, power_down)
    proof.add("control", dut)
    c = dut.probes
    proof.free(dut.idle, dut.busy)
    if power_down is not None:
        proof.free(dut.request)
        proof.reach("sleep", dut.asleep)
        woken = Signal()
        with m.If(dut.asleep):
            m.d.sync += woken.eq(1)
        with m.Elif(~dut.hold):
            m.d.sync += woken.eq(0)
        proof.reach("work after sleep", woken & ~dut.hold)
    settle = Signal(range(64))
    with m.If(~dut.hold):
        m.d.sync += settle.eq(0)
    with m.Elif(settle != 63):
        m.d.sync += settle.eq(settle + 1)
    proof.assume((settle < settle_cycles(t)) | ~dut.busy)

    # The rule: from the first cycle after LOAD MODE on, one refresh is due after each interval.
    loaded = Signal()
    passed = Signal(range(interval + 1))
    late = Signal(signed(6))
    due_now = Signal()
    m.d.comb += due_now.eq(loaded & (passed == interval - 1))
    with m.If(dut.load_mode):
        m.d.sync += loaded.eq(1)
    with m.If(loaded):
        m.d.sync += passed.eq(Mux(due_now, 0, passed + 1))
        m.d.sync += late.eq(late + due_now - dut.refresh)
    claim("late refreshes", late <= postponed)
    claim("none too early", late >= -1)

    # Cycles of which refreshes are in debt.
    debt = Signal(signed(range(16 * interval).stop.bit_length() + 1))
    with m.If(loaded):
        m.d.sync += debt.eq(debt + 1 - Mux(dut.refresh, interval, 0))
    claim("debt", debt <= postponed * interval + reaction_cycles(t))
    claim("no debt before", loaded | ((debt == 0) & (late == 0) & (passed == 0)))
    claim("debt and refreshes", debt == late * interval + passed)

    states, state = c.machine.encoding, c.machine.state
    claim("state", state < len(states))
    claim("started", dut.started == loaded)
    claim("hold", dut.hold == (state != states["RUN"]))
    claim("interval", c.interval < t.refresh_interval)
    claim("tick", c.tick == (c.interval == 0))
    claim("power-up", (state != states["POWER-UP"]) | ~loaded)
    later_states = [states[s] for s in ("RUN", "SETTLE", *_SLEEPING) if s in states]
    claim("running", loaded | ~Cat(state == s for s in later_states).any())
    _sleep_invariants(proof, c)
    if power_down is not None:
        claim("few are due in sleep", ~(c.doze | dut.asleep) | (c.due <= 2))
    claim("due at start", loaded | (c.due <= 8))
    claim("due", ~loaded | (c.due <= postponed))
    claim("refreshes are due", ~_refreshing(c) | (c.due != 0))
    longest = max(t.trfc, t.tmrd + 1, t.trp, t.txp, t.tcke, 3)
    claim("timer", (state == states["POWER-UP"]) | (c.timer <= longest))
    early = (state == states["POWER-UP"]) | (state == states["PRECHARGE"])
    claim("timer over", c.over == (c.timer == 0))
    claim("timer nearly over", c.nearly == (c.timer <= 2))
    claim("all at start", loaded | c.forced)
    claim("none before", loaded | ~early | (c.due == 8))
    claim("none left at start", loaded | (state != states["LAST"]) | (c.due == 0))
    # The controller's intervals and those of the rule differ by what had passed at the start.
    since = Signal(range(interval + 1))
    m.d.comb += since.eq(t.refresh_interval - 1 - c.interval)
    before = Signal(range(interval + 1))
    with m.If(dut.load_mode):
        m.d.sync += before.eq(Mux(c.tick, 0, since + 1))
    claim("passed", (passed < interval) & (before < interval))
    claim("the same debt", ~loaded | (debt + before == c.due * interval + since))
    return proof


def settle_cycles(t: SdramTimings) -> int:
    """Cycles without a command after which no bank is busy."""
    return max(t.tras, t.twr, _READ_BURST) + 4


def reaction_cycles(t: SdramTimings) -> int:
    """From the last refresh that may wait to the first one that is done."""
    return settle_cycles(t) + max(t.trp, t.trc - t.tras) + t.trfc + 6
