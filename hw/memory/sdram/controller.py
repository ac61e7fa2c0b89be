"""SDR SDRAM controller behind the engine's memory port."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import LENGTH_BITS, MemoryPortSignature, check_width
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.short_queue import ShortQueue
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import SDRAM_COUNTERS, SdramCounter

from .bank import SdramBank, ones
from .bursts import BurstGenerator, run_layout
from .counts import COUNTS_MEMBERS, SdramCounts
from .parts import SdramPart, SdramTimings
from .pins import ALL_BANKS, BURST, SdramCommand, SdramPinsSignature, mode_register
from .refresh import RefreshControl
from .segments import SegmentSplitter
from .words import ReadWords, WriteWords

__all__ = ["POWER_DOWN_CYCLES", "SdramController"]

_WRITES = 8
POWER_DOWN_CYCLES = 64
"""Without a request, after which power-down is worth its price: opening four rows again takes what
the part saves in about 60 cycles (docs/explanation/sdram.md)."""
_LEAST_POWER_DOWN = 32
_COUNTERS = ("cycles", "transfers", "refreshes", "row_stalls", "port_stalls")


class _Signals:
    """What the parts of the controller share, and what its proof speaks of.

    Attributes
    ----------
    splitter, write_words, runs, bursts, refresh, read_words, banks
        Submodules; ``runs`` is the queue of segments whose bank was told the row.
    segment, burst
        Segment that waits for its bank; command that waits for the bus.
    looked, chosen, same, unused, dispatched, dispatch
        The segment has been compared with the rows; its bank, one bit each; the bank has its row;
        nobody needs the bank; the segment goes to its bank; to any.
    run
        The segment for the queue.
    ready, open_row, data, read, write
        By bank, data may move; for the command that waits; it moves; and in which direction.
    slot
        Columns of the burst that are still to come, in unary.
    held
        ``refresh.hold`` of the cycle before.
    activating, precharging, target
        What was chosen in an earlier cycle, for which bank.
    activate, precharge
        It is issued in this cycle.
    want_activate, want_precharge, choose_activate, choose_precharge
        By bank, what it asks for; something is chosen; the bank for which.
    issued_...
        What was issued in the cycle before: for timers that can wait, and for the pins.
    requested
        With power-down: something was asked of the memory in the cycle before.
    asleep
        With power-down: clock enable is low, as ``issued_...`` says of a command.
    counts
        The counters of commands and states, where there are some.
    """

    def __init__(self, part: SdramPart) -> None:
        banks = part.banks
        self.splitter: Any = None
        self.runs: Any = None
        self.read_words: Any = None
        self.write_words: Any = None
        self.bursts = BurstGenerator(part)
        self.burst: Any = self.bursts.burst
        self.refresh: Any = None
        self.banks: list[SdramBank] = []
        # Dispatch.
        self.segment: Any = None
        self.looked = Signal()
        self.dispatch = Signal()
        self.chosen = Signal(banks)
        self.same = Signal(banks)
        self.unused = Signal(banks)
        self.dispatched = Signal(banks)
        self.run: Any = Signal(run_layout(part))
        # Data.
        self.ready = Signal(banks)
        self.slot = Signal(BURST - 1)
        self.held = Signal(init=1)
        self.open_row = Signal()
        self.data = Signal()
        self.read = Signal()
        self.write = Signal()
        # Rows.
        self.want_activate = Signal(banks)
        self.want_precharge = Signal(banks)
        self.activating = Signal()
        self.precharging = Signal()
        self.target = Signal(banks)
        self.activate = Signal()
        self.precharge = Signal()
        self.choose_activate = Signal(banks)
        self.choose_precharge = Signal(banks)
        # Issued in the cycle before.
        self.issued_read = Signal()
        self.issued_write = Signal()
        self.issued_end = Signal()
        self.issued_activate = Signal()
        self.issued_precharge = Signal()
        self.issued_close = Signal()
        self.issued_refresh = Signal()
        self.issued_mode = Signal()
        self.issued_bank = Signal(banks)
        self.issued_column = Signal(part.column_bits)
        self.issued_extra = Signal(BURST - 1)
        # Power-down.
        self.requested = Signal()
        self.asleep = Signal(reset_less=True)
        self.counts: Any = None


class SdramController(wiring.Component):
    """Answers the engine's memory port from an SDR SDRAM.

    *Reads.* Requests are cut into segments of one row; rows of neighbouring addresses lie in
    different banks. Segments are dispatched to their banks ahead of their data, ``lookahead`` of
    them, also those of later requests, so that a row is opened while another one streams. Data
    moves in bursts of eight, each cut by the next one where it must, so that the bus has no gap as
    long as the next row is in another bank. A segment takes two cycles at least; requests for one
    word of the bus's width therefore use half of the bus.

    *Writes.* One WRITE for each item; rows stay open, so that a word takes as many cycles as it has
    items. Reads and writes pass through the same queue, in the order in which they are accepted.

    *Refresh.* As :class:`RefreshControl` says.

    *Power-down.* After ``power_down`` cycles without a request all rows are closed and clock enable
    goes low, until a request or a refresh. A request wakes the part while it is still on its way to
    its bank, so that it waits for its row and for nothing else.

    *Reset* forgets requests, and nothing that is in the memory if it is short.

    *Timing.* Every pin is driven by a register, ``dq_i`` goes to a register. All outputs of the
    port come from registers.

    Parameters
    ----------
    part : :class:`SdramPart`
    clock_hz : :class:`int`
        Clock of this component and of the part.
    address_bits : :class:`int`
        Width of a word address. Words that the part does not have set ``error``: such a write is
        dropped, such a read is answered with unspecified words.
    word_bits : :class:`int`
        Width of a word, a multiple of the part's; its low part has the lower column.
    length_bits : :class:`int`
        Width of the length of a read.
    cas_latency : :class:`int`, optional
        The least one that the clock allows, where not given.
    input_delay : :class:`int`
        Registers that the board adds, on the way to the part and back together: 2 for
        ``io.FFBuffer`` on all pins.
    far : :class:`bool`
        Pads and taker may be far: data and what is taken go through a register more.
    lookahead : :class:`int`
        Segments queued after dispatch; a power of two.
    buffer_words : :class:`int`, optional
        Words kept for the engine; a power of two. The least that streams without a pause, where not
        given.
    postponed : :class:`int`
        Refreshes that may wait, 1 to 8.
    startup_us : :class:`int`, optional
        Pause after power-up; the datasheet's where not given. Simulations shorten it.
    timings : :class:`SdramTimings`, optional
        Instead of those of the part at this clock.
    power_down : :class:`int`, optional
        Cycles without a request after which clock enable goes low, 32 at least. None: it stays
        high, as it must where a board ties it.
    counted : :class:`bool`
        Count commands by kind and cycles by state.

    Attributes
    ----------
    probes : _Signals
        Registers and submodules that proofs speak of, once elaborated.

    Members
    -------
    port : :py:`In(MemoryPortSignature(address_bits, word_bits, length_bits))`
    pins : :py:`Out(SdramPinsSignature(part))`
    started : :py:`Out(1)`
        Power-up is over. Requests may be made before; they wait.
    forget : :py:`In(1)`
        Takes the port's error back, while nothing is under way.
    clear_counters : :py:`In(1)`
        Set all counters to zero.
    cycles : :py:`Out(32)`
        Cycles counted. Each is one of the following four, or had nothing to do.
    transfers : :py:`Out(32)`
        Cycles of the data bus with an item that was asked for.
    refreshes : :py:`Out(32)`
        Cycles lost to refresh, with closing the banks.
    row_stalls : :py:`Out(32)`
        Cycles in which data waited for its row to be opened.
    port_stalls : :py:`Out(32)`
        Cycles in which data waited for the engine to take words, or for the bus to turn around.
    count_select, count_hold, count_clear : :py:`In(4), In(1), In(1)`
    count : :py:`Out(SDRAM_COUNT_BITS)`
        With ``counted``: see :class:`SdramCounts`.

    Raises
    ------
    :exc:`StillnetError`
        If the part cannot do what is asked for.
    """

    def __init__(
        self,
        part: SdramPart,
        clock_hz: int,
        address_bits: int,
        word_bits: int,
        *,
        length_bits: int = LENGTH_BITS,
        cas_latency: int | None = None,
        input_delay: int = 0,
        far: bool = False,
        lookahead: int = 4,
        buffer_words: int | None = None,
        postponed: int = 8,
        startup_us: int | None = None,
        timings: SdramTimings | None = None,
        power_down: int | None = None,
        counted: bool = False,
    ):
        check_width("Memory port word width", word_bits)
        if word_bits % part.data_bits:
            raise StillnetError(
                f"word width must be a multiple of the {part.data_bits} bits of SDRAM {part.name}, "
                f"not {word_bits}"
            )
        if not isinstance(input_delay, int) or input_delay not in range(8):
            raise StillnetError(f"SDRAM input delay must be 0 to 7 cycles, not {input_delay!r}")
        for what, value, least in (("lookahead", lookahead, 2), ("buffer", buffer_words, 16)):
            if value is not None and (
                not isinstance(value, int) or value < least or value & (value - 1)
            ):
                raise StillnetError(
                    f"SDRAM {what} must be a power of two from {least} on, not {value!r}"
                )
        if not isinstance(postponed, int) or postponed not in range(1, 9):
            raise StillnetError(f"postponed SDRAM refreshes must be 1 to 8, not {postponed!r}")
        if power_down is not None and (
            not isinstance(power_down, int) or not _LEAST_POWER_DOWN <= power_down <= 1 << 16
        ):
            raise StillnetError(
                f"SDRAM power-down must come after {_LEAST_POWER_DOWN} to 65536 cycles, not "
                f"{power_down!r}"
            )
        self._power_down, self._counted = power_down, counted
        self.probes: Any = None
        self._part = part
        self._clock_hz = clock_hz
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._length_bits = length_bits
        self._input_delay, self._far = input_delay, far
        self._lookahead = lookahead
        self._postponed = postponed
        if timings is None:
            timings = part.timings(
                clock_hz, cas_latency=cas_latency, postponed=postponed, startup_us=startup_us
            )
        self._timings = timings
        # From the decision to the register of dq_i: two registers to the pins, the part, one back.
        latency = 3 + far + timings.cas_latency + input_delay
        self._words = ReadWords(word_bits, part.data_bits, latency, buffer_words, far=far)
        super().__init__(
            {
                "port": In(MemoryPortSignature(address_bits, word_bits, length_bits)),
                "pins": Out(SdramPinsSignature(part)),
                "started": Out(1),
                "forget": In(1),
                "clear_counters": In(1),
                **{name: Out(32) for name in _COUNTERS},
                **(COUNTS_MEMBERS if counted else {}),
            }
        )

    @property
    def part(self) -> SdramPart:
        return self._part

    @property
    def clock_hz(self) -> int:
        return self._clock_hz

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def word_bits(self) -> int:
        return self._word_bits

    @property
    def length_bits(self) -> int:
        return self._length_bits

    @property
    def input_delay(self) -> int:
        return self._input_delay

    @property
    def lookahead(self) -> int:
        return self._lookahead

    @property
    def buffer_words(self) -> int:
        return self._words.depth

    @property
    def postponed(self) -> int:
        return self._postponed

    @property
    def timings(self) -> SdramTimings:
        return self._timings

    @property
    def power_down(self) -> int | None:
        return self._power_down

    @property
    def counted(self) -> bool:
        return self._counted

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.probes = x = _Signals(self._part)
        self._requests(m, x)
        self._dispatch(m, x)
        self._data(m, x)
        self._rows(m, x)
        self._issued(m, x)
        self._banks(m, x)
        if self._power_down is not None:
            self._rest(m, x)
        self._pins(m, x)
        self._words_read(m, x)
        self._count(m, x)
        if self._counted:
            self._count_commands(m, x)
        return m

    def _requests(self, m: Module, x: _Signals) -> None:
        """Requests become segments; words that are written wait for their segment."""
        part, port = self._part, self.port
        m.submodules.splitter = x.splitter = splitter = SegmentSplitter(
            part, self._address_bits, self._word_bits, self._length_bits
        )
        m.submodules.write_words = x.write_words = write_words = WriteWords(
            self._word_bits, part.data_bits, _WRITES
        )
        x.segment = splitter.o_stream
        writes = Signal(range(_WRITES + 1))
        writes_full = Signal()
        accept = Signal()
        write_data = Signal(self._word_bits)
        m.d.comb += [
            splitter.read.payload.eq(port.read.payload),
            splitter.read.valid.eq(port.read.valid),
            port.read.ready.eq(splitter.read.ready),
            splitter.write.payload.eq(port.write.p.address),
            splitter.write.valid.eq(port.write.valid & ~writes_full),
            port.write.ready.eq(splitter.write.ready & ~writes_full),
            accept.eq(port.write.valid & port.write.ready),
            port.write_idle.eq(writes == 0),
            port.error.eq(splitter.error),
            splitter.forget.eq(self.forget),
            write_words.word.eq(write_data),
            write_words.push.eq(splitter.write_start & ~splitter.write_drop),
            write_words.take.eq(x.issued_write),
        ]
        with m.If(accept):
            m.d.sync += write_data.eq(port.write.p.data)
        dropped, written = Signal(), Signal()
        m.d.sync += [
            dropped.eq(splitter.write_start & splitter.write_drop),
            written.eq(write_words.done),
            writes.eq(writes + accept - dropped - written),
            # Early by the one that may be accepted in this cycle.
            writes_full.eq(writes >= _WRITES - 1),
        ]

    def _dispatch(self, m: Module, x: _Signals) -> None:
        """A segment goes to its bank when that has its row, or nothing else to do.

        The comparison with the rows takes a cycle of its own.
        """
        part, segment = self._part, x.segment
        m.submodules.runs = x.runs = runs = ShortQueue(run_layout(part), self._lookahead)
        m.submodules.bursts = x.bursts
        first, last = segment.p.first, segment.p.last
        low = BURST.bit_length() - 1
        steps = Signal(part.column_bits)
        bank = Cat(segment.p.bank == b for b in range(part.banks))
        m.d.comb += [
            steps.eq(Mux(segment.p.write, last - first, last[low:] - first[low:])),
            # For each bank by itself: ``chosen`` has one bit, and banks stand by their pins.
            *(
                x.dispatched[b].eq(x.looked & x.chosen[b] & (x.same[b] | x.unused[b]))
                for b in range(part.banks)
            ),
            x.dispatch.eq(x.dispatched.any()),
            segment.ready.eq(x.dispatch),
            runs.i_stream.payload.eq(x.run),
            runs.i_stream.valid.eq(x.dispatch),
        ]
        m.d.sync += [
            # With none sent in this cycle, a place that is free now is free in the next.
            x.looked.eq(segment.valid & ~x.dispatch & runs.i_stream.ready),
            x.chosen.eq(bank),
            x.run.write.eq(segment.p.write),
            x.run.bank.eq(bank),
            x.run.first.eq(first),
            x.run.last.eq(last),
            x.run.steps.eq(steps),
            # Not from the difference, which takes longer.
            x.run.single.eq(
                (first[low:] == last[low:]) & (~segment.p.write | (first[:low] == last[:low]))
            ),
        ]
        wiring.connect(m, runs.o_stream, x.bursts.i_stream)

    def _data(self, m: Module, x: _Signals) -> None:
        """One decision per cycle: data first, else what was chosen in an earlier cycle.

        What forbids data for other reasons than the row is worked out a cycle ahead.
        """
        t, burst = self._timings, x.burst
        m.submodules.refresh = x.refresh = refresh = RefreshControl(
            t, self._postponed, self._power_down
        )
        m.submodules.read_words = x.read_words = read_words = self._words
        after_write = Signal(max(1, t.twtr - 1))
        # The part drives the bus to the end of its burst; one cycle is left for it to let go.
        after_read = Signal(BURST + t.cas_latency)
        may_read, may_write = Signal(), Signal()
        allowed = Signal()
        after_write_next = Signal.like(after_write)
        after_read_next = Signal.like(after_read)
        m.d.comb += [
            x.open_row.eq((burst.bank & x.ready).any()),
            allowed.eq(Mux(burst.write, may_write, may_read) & ~x.slot[0]),
            x.data.eq(x.open_row & allowed),
            x.read.eq(x.data & ~burst.write),
            x.write.eq(x.data & burst.write),
            x.bursts.take.eq(x.data),
            read_words.take.eq(x.read | x.slot[0]),
            after_write_next.eq((after_write >> 1) | Mux(x.write, ones(t.twtr - 1), 0)),
            after_read_next.eq((after_read >> 1) | Mux(x.read, ones(BURST + t.cas_latency), 0)),
        ]
        m.d.sync += [
            x.slot.eq(Mux(x.read, burst.extra, x.slot >> 1)),
            after_write.eq(after_write_next),
            after_read.eq(after_read_next),
            x.held.eq(refresh.hold),
            may_read.eq(~refresh.hold & read_words.room & ~after_write_next[0]),
            may_write.eq(~refresh.hold & ~after_read_next[0]),
        ]

    def _rows(self, m: Module, x: _Signals) -> None:
        """ACTIVATE or PRECHARGE: chosen in one cycle, issued in the next one that is free."""
        t, part, refresh = self._timings, self._part, x.refresh
        before_activate = Signal(max(1, t.trrd - 1))
        issue, choose = Signal(), Signal()
        may_activate = Signal(part.banks)
        m.d.comb += [
            issue.eq(~x.data & ~x.held),
            x.activate.eq(x.activating & issue),
            x.precharge.eq(x.precharging & issue),
            may_activate.eq(Mux(before_activate[0], 0, x.want_activate)),
            choose.eq(~x.activating & ~x.precharging & ~refresh.hold),
        ]
        # The first bank of each kind, side by side. Not by a subtraction, which takes longer.
        some = may_activate.any()
        for b in range(part.banks):
            row, close = (kind[b] & ~kind[:b].any() for kind in (may_activate, x.want_precharge))
            m.d.comb += [
                x.choose_activate[b].eq(choose & row),
                x.choose_precharge[b].eq(choose & close & ~some),
            ]
            with m.If(choose):
                m.d.sync += x.target[b].eq(row | (close & ~some))
        with m.If(choose):
            m.d.sync += [
                x.activating.eq(some),
                x.precharging.eq(x.want_precharge.any() & ~some),
            ]
        with m.Elif(refresh.hold | issue):
            m.d.sync += [x.activating.eq(0), x.precharging.eq(0)]
        m.d.sync += before_activate.eq(
            (before_activate >> 1) | Mux(x.activate, ones(t.trrd - 2), 0)
        )

    def _issued(self, m: Module, x: _Signals) -> None:
        """What was issued, a cycle later."""
        m.d.sync += [
            x.issued_read.eq(x.read),
            x.issued_write.eq(x.write),
            x.issued_end.eq(x.data & x.burst.end),
            x.issued_activate.eq(x.activate),
            x.issued_precharge.eq(x.precharge),
            x.issued_close.eq(x.refresh.precharge),
            x.issued_refresh.eq(x.refresh.refresh),
            x.issued_mode.eq(x.refresh.load_mode),
            x.issued_bank.eq(Mux(x.data, x.burst.bank, x.target)),
            x.issued_column.eq(x.burst.column),
            x.issued_extra.eq(x.burst.extra),
        ]

    def _banks(self, m: Module, x: _Signals) -> None:
        busy = Signal(self._part.banks)
        for b in range(self._part.banks):
            bank = SdramBank(self._part, self._timings, self._lookahead + 4)
            m.submodules[f"bank{b}"] = bank
            x.banks.append(bank)
            m.d.comb += [
                bank.needed.next.eq(x.segment.p.row),
                x.same[b].eq(bank.needed.same),
                x.unused[b].eq(bank.needed.unused),
                bank.needed.dispatch.eq(x.dispatched[b]),
                bank.needed.finish.eq(x.issued_end & x.issued_bank[b]),
                bank.choose.activate.eq(x.choose_activate[b]),
                bank.choose.precharge.eq(x.choose_precharge[b]),
                bank.issued.activate.eq(x.activate & x.target[b]),
                bank.issued.precharge.eq(x.precharge & x.target[b]),
                bank.issued.close.eq(x.refresh.precharge),
                bank.issued.read.eq(Mux(x.issued_read & x.issued_bank[b], x.issued_extra, 0)),
                bank.issued.write.eq(x.issued_write & x.issued_bank[b]),
                x.ready[b].eq(bank.ready),
                x.want_activate[b].eq(bank.want.activate),
                x.want_precharge[b].eq(bank.want.precharge),
                busy[b].eq(bank.busy),
            ]
        m.d.comb += x.refresh.busy.eq(busy.any())

    def _rest(self, m: Module, x: _Signals) -> None:
        """Whether something is asked of the memory; when it sleeps.

        A request is in a stage of the splitter that is not looked at for some cycles, fewer than
        power-down waits for.
        """
        read, write = x.splitter.read, x.splitter.write
        m.d.comb += x.refresh.request.eq(x.requested)
        m.d.sync += [
            x.requested.eq(~(read.ready & write.ready & x.unused.all()) | x.segment.valid),
            x.asleep.eq(x.refresh.asleep),
        ]

    def _command(self, m: Module, x: _Signals, command: Signal, address: Signal) -> None:
        """The command that was issued, as it stands on the pins."""
        column = x.issued_column
        columns = Cat(column[:ALL_BANKS], 0, column[ALL_BANKS:])
        with m.If(x.issued_read):
            m.d.comb += [command.eq(SdramCommand.READ), address.eq(columns)]
        with m.Elif(x.issued_write):
            m.d.comb += [command.eq(SdramCommand.WRITE), address.eq(columns)]
        with m.Elif(x.issued_activate):
            row: Any = 0
            for b, bank in enumerate(x.banks):
                row = row | Mux(x.issued_bank[b], bank.row, 0)
            m.d.comb += [command.eq(SdramCommand.ACTIVATE), address.eq(row)]
        with m.Elif(x.issued_precharge):
            m.d.comb += command.eq(SdramCommand.PRECHARGE)
        with m.Elif(x.issued_close):
            m.d.comb += [command.eq(SdramCommand.PRECHARGE), address.eq(1 << ALL_BANKS)]
        with m.Elif(x.issued_refresh):
            m.d.comb += command.eq(SdramCommand.REFRESH)
        with m.Elif(x.issued_mode):
            mode = mode_register(self._timings.cas_latency)
            m.d.comb += [command.eq(SdramCommand.LOAD_MODE), address.eq(mode)]

    def _pins(self, m: Module, x: _Signals) -> None:
        part, pins = self._part, self.pins
        command = Signal(3)
        address = Signal(part.address_pins)
        self._command(m, x, command, address)
        number = Signal(part.bank_bits)
        with m.If(~x.issued_mode):
            for i in range(part.bank_bits):
                those = (x.issued_bank[b] for b in range(part.banks) if b >> i & 1)
                m.d.comb += number[i].eq(Cat(those).any())
        # A reset must not stop the part's clock in the middle of something.
        clock_enable = Signal(reset_less=True)
        m.d.sync += clock_enable.eq(1 if self._power_down is None else ~x.asleep)
        m.d.comb += [pins.cke.eq(clock_enable), self.started.eq(x.refresh.started)]
        m.d.sync += [
            pins.cs.eq(command.any()),
            Cat(pins.we, pins.cas, pins.ras).eq(command),
            pins.ba.eq(number),
            pins.a.eq(address),
            pins.dqm.eq((~x.refresh.started).replicate(len(pins.dqm))),
            pins.dq_o.eq(x.write_words.part),
            pins.dq_oe.eq(x.issued_write),
        ]

    def _words_read(self, m: Module, x: _Signals) -> None:
        """Data from the part become words."""
        captured: Any = self.pins.dq_i
        for _ in range(1 + self._far):
            later = Data(self._part.data_bits)
            m.d.sync += later.eq(captured)
            captured = later
        words = x.read_words.o_stream
        m.d.comb += [
            x.read_words.dq.eq(captured),
            self.port.data.payload.eq(words.payload),
            self.port.data.valid.eq(words.valid),
            words.ready.eq(self.port.data.ready),
        ]

    def _count(self, m: Module, x: _Signals) -> None:
        """Where the cycles went."""
        transfer, refreshing, row_stall, port_stall = Signal(), Signal(), Signal(), Signal()
        waiting = x.burst.bank.any()
        in_burst = x.slot[0]
        at_work: Any = x.held
        if self._power_down is not None:
            resting = Signal()
            m.d.sync += resting.eq(x.refresh.resting)
            at_work = x.held & ~resting
        m.d.sync += [
            transfer.eq(x.data | in_burst),
            refreshing.eq(~in_burst & at_work),
            row_stall.eq(~in_burst & ~x.held & waiting & ~x.open_row),
            port_stall.eq(~in_burst & ~x.held & x.open_row & ~x.data),
            x.refresh.idle.eq(~x.data & ~in_burst & (~waiting | (x.open_row & ~x.burst.write))),
        ]
        with m.If(self.clear_counters):
            for name in _COUNTERS:
                m.d.sync += getattr(self, name).eq(0)
        with m.Else():
            m.d.sync += self.cycles.eq(self.cycles + 1)
            for name, flag in zip(
                _COUNTERS[1:], (transfer, refreshing, row_stall, port_stall), strict=True
            ):
                with m.If(flag):
                    m.d.sync += getattr(self, name).eq(getattr(self, name) + 1)

    def _count_commands(self, m: Module, x: _Signals) -> None:
        """Commands by kind, and cycles by state, as they stand on the pins a cycle later."""
        m.submodules.counts = x.counts = counts = SdramCounts()
        banks = self._part.banks
        row_open, bursting, last = Signal(banks), Signal(BURST), Signal(banks)
        closes = Mux(x.issued_precharge, x.issued_bank, x.issued_close.replicate(banks))
        opens = Mux(x.issued_activate, x.issued_bank, 0)
        m.d.sync += [
            row_open.eq((row_open & ~closes) | opens),
            # The part gives all columns of a burst that nothing cuts.
            bursting.eq(
                Mux(
                    x.issued_read,
                    ones(BURST),
                    Mux((closes & last).any(), 0, bursting >> 1),
                )
            ),
        ]
        with m.If(x.issued_read):
            m.d.sync += last.eq(x.issued_bank)
        slept = Signal()
        waits: Any = 0
        if self._power_down is not None:
            m.d.sync += slept.eq(x.asleep)
            waits = x.requested & x.refresh.resting
        events = {
            SdramCounter.ACTIVATES: x.issued_activate,
            SdramCounter.READS: x.issued_read,
            SdramCounter.WRITES: x.issued_write,
            SdramCounter.REFRESHES: x.issued_refresh,
            SdramCounter.READ_CYCLES: bursting[0],
            SdramCounter.OPEN: row_open.any() & ~x.asleep,
            SdramCounter.CLOSED: ~row_open.any() & ~x.asleep,
            SdramCounter.POWER_DOWN: x.asleep,
            SdramCounter.WAKES: slept & ~x.asleep,
            SdramCounter.WAKE_CYCLES: waits,
        }
        m.d.comb += [
            counts.events.eq(Cat(events[counter] for counter in SDRAM_COUNTERS)),
            counts.select.eq(self.count_select),
            counts.hold.eq(self.count_hold),
            counts.clear.eq(self.count_clear),
            self.count.eq(counts.value),
        ]
