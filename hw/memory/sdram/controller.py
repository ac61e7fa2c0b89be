"""SDR SDRAM controller behind the engine's memory port."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import MemoryPortSignature, check_width
from stillnet.sw.contract.errors import StillnetError

from .bank import SdramBank, ones
from .bursts import BurstGenerator, run_layout
from .parts import SdramPart, SdramTimings
from .pins import ALL_BANKS, BURST, SdramCommand, SdramPinsSignature, mode_register
from .queue import ShortQueue
from .refresh import RefreshControl
from .segments import SegmentSplitter
from .words import ReadWords, WriteWords

__all__ = ["SdramController"]

_WRITES = 8
_COUNTERS = ("cycles", "transfers", "refreshes", "row_stalls", "port_stalls")


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

    Members
    -------
    port : :py:`In(MemoryPortSignature(address_bits, word_bits, length_bits))`
    pins : :py:`Out(SdramPinsSignature(part))`
    started : :py:`Out(1)`
        Power-up is over. Requests may be made before; they wait.
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
        length_bits: int = 16,
        cas_latency: int | None = None,
        input_delay: int = 0,
        lookahead: int = 4,
        buffer_words: int | None = None,
        postponed: int = 8,
        startup_us: int | None = None,
        timings: SdramTimings | None = None,
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
        self._part = part
        self._clock_hz = clock_hz
        self._address_bits = address_bits
        self._word_bits = word_bits
        self._length_bits = length_bits
        self._input_delay = input_delay
        self._lookahead = lookahead
        self._postponed = postponed
        if timings is None:
            timings = part.timings(
                clock_hz, cas_latency=cas_latency, postponed=postponed, startup_us=startup_us
            )
        self._timings = timings
        # From the decision to the register of dq_i: two registers to the pins, the part, one back.
        self._words = ReadWords(
            word_bits, part.data_bits, 3 + timings.cas_latency + input_delay, buffer_words
        )
        super().__init__(
            {
                "port": In(MemoryPortSignature(address_bits, word_bits, length_bits)),
                "pins": Out(SdramPinsSignature(part)),
                "started": Out(1),
                "clear_counters": In(1),
                **{name: Out(32) for name in _COUNTERS},
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

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        part, t, port = self._part, self._timings, self.port
        banks = range(part.banks)

        # Requests become segments.
        m.submodules.splitter = splitter = SegmentSplitter(
            part, self._address_bits, self._word_bits, self._length_bits
        )
        m.submodules.write_words = write_words = WriteWords(
            self._word_bits, part.data_bits, _WRITES
        )
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
            write_words.word.eq(write_data),
            write_words.push.eq(splitter.write_start & ~splitter.write_drop),
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

        # Segments are dispatched to their bank when it has their row, or nothing else to do.
        # A look at the rows takes a cycle of its own.
        segment = splitter.o_stream
        looked = Signal()
        dispatch = Signal()
        chosen = Signal(part.banks)
        same, unused, dispatched = (Signal(part.banks) for _ in range(3))
        run = Signal(run_layout(part))
        m.submodules.runs = runs = ShortQueue(run_layout(part), self._lookahead)
        first, last = segment.p.first, segment.p.last
        low = BURST.bit_length() - 1
        steps = Signal(part.column_bits)
        m.d.comb += [
            steps.eq(Mux(segment.p.write, last - first, last[low:] - first[low:])),
            # For each bank by itself: ``chosen`` has one bit, and banks stand by their pins.
            *(
                dispatched[b].eq(looked & runs.i_stream.ready & chosen[b] & (same[b] | unused[b]))
                for b in range(part.banks)
            ),
            dispatch.eq(dispatched.any()),
            segment.ready.eq(dispatch),
            runs.i_stream.payload.eq(run),
            runs.i_stream.valid.eq(dispatch),
        ]
        m.d.sync += [
            looked.eq(segment.valid & ~dispatch),
            chosen.eq(Cat(segment.p.bank == b for b in banks)),
            run.write.eq(segment.p.write),
            run.bank.eq(Cat(segment.p.bank == b for b in banks)),
            run.first.eq(first),
            run.last.eq(last),
            run.steps.eq(steps),
            run.single.eq(steps == 0),
        ]

        m.submodules.bursts = bursts = BurstGenerator(part)
        wiring.connect(m, runs.o_stream, bursts.i_stream)
        burst = bursts.burst

        # One decision a cycle: data first, else what was chosen in the cycle before.
        m.submodules.refresh = refresh = RefreshControl(t, self._postponed)
        m.submodules.read_words = read_words = self._words
        ready = Signal(part.banks)
        slot = Signal(BURST - 1)  # columns of the burst that are still to come, in unary
        after_write = Signal(max(1, t.twtr - 1))
        # The part drives the bus to the end of its burst; one cycle is left for it to let go.
        after_read = Signal(BURST + t.cas_latency)
        # What forbids data for other reasons than the row is worked out a cycle ahead.
        may_read, may_write, held = Signal(), Signal(), Signal(init=1)
        open_row, allowed, data = Signal(), Signal(), Signal()
        read, write = Signal(), Signal()
        after_write_next = Signal.like(after_write)
        after_read_next = Signal.like(after_read)
        m.d.comb += [
            open_row.eq((burst.bank & ready).any()),
            allowed.eq(Mux(burst.write, may_write, may_read) & ~slot[0]),
            data.eq(open_row & allowed),
            read.eq(data & ~burst.write),
            write.eq(data & burst.write),
            bursts.take.eq(data),
            read_words.take.eq(read | slot[0]),
            after_write_next.eq((after_write >> 1) | Mux(write, ones(t.twtr - 1), 0)),
            after_read_next.eq((after_read >> 1) | Mux(read, ones(BURST + t.cas_latency), 0)),
        ]
        m.d.sync += [
            slot.eq(Mux(read, burst.extra, slot >> 1)),
            after_write.eq(after_write_next),
            after_read.eq(after_read_next),
            held.eq(refresh.hold),
            may_read.eq(~refresh.hold & read_words.room & ~after_write_next[0]),
            may_write.eq(~refresh.hold & ~after_read_next[0]),
        ]

        # ACTIVATE or PRECHARGE: chosen in one cycle, issued in the next one that is free.
        want_activate, want_precharge = Signal(part.banks), Signal(part.banks)
        before_activate = Signal(max(1, t.trrd - 1))
        activating, precharging = Signal(), Signal()
        target = Signal(part.banks)
        issue, activate, precharge = Signal(), Signal(), Signal()
        may_activate, may_precharge = Signal(part.banks), Signal(part.banks)
        choose, choose_activate, choose_precharge = Signal(), Signal(), Signal()
        lowest = Signal(part.banks)
        m.d.comb += [
            issue.eq(~data & ~held),
            activate.eq(activating & issue),
            precharge.eq(precharging & issue),
            may_activate.eq(Mux(before_activate[0], 0, want_activate)),
            may_precharge.eq(Mux(may_activate.any(), 0, want_precharge)),
            choose.eq(~activating & ~precharging & ~refresh.hold),
            choose_activate.eq(choose & may_activate.any()),
            choose_precharge.eq(choose & may_precharge.any()),
        ]
        candidates = may_activate | may_precharge
        m.d.comb += lowest.eq(candidates & ~(candidates - 1))
        with m.If(choose):
            m.d.sync += [
                activating.eq(choose_activate),
                precharging.eq(choose_precharge),
                target.eq(lowest),
            ]
        with m.Elif(refresh.hold | issue):
            m.d.sync += [activating.eq(0), precharging.eq(0)]
        m.d.sync += before_activate.eq((before_activate >> 1) | Mux(activate, ones(t.trrd - 2), 0))

        # What was issued, a cycle later: for timers that can wait, and for the pins.
        issued_read, issued_write, issued_end = Signal(), Signal(), Signal()
        issued_activate, issued_precharge, issued_close = Signal(), Signal(), Signal()
        issued_refresh, issued_mode = Signal(), Signal()
        issued_bank = Signal(part.banks)
        issued_column = Signal(part.column_bits)
        issued_extra = Signal(BURST - 1)
        m.d.sync += [
            issued_read.eq(read),
            issued_write.eq(write),
            issued_end.eq(data & burst.end),
            issued_activate.eq(activate),
            issued_precharge.eq(precharge),
            issued_close.eq(refresh.precharge),
            issued_refresh.eq(refresh.refresh),
            issued_mode.eq(refresh.load_mode),
            issued_bank.eq(Mux(data, burst.bank, target)),
            issued_column.eq(burst.column),
            issued_extra.eq(burst.extra),
        ]

        rows = []
        busy = Signal(part.banks)
        for b in banks:
            bank = SdramBank(part, t, self._lookahead + 4)
            m.submodules[f"bank{b}"] = bank
            rows.append(bank.row)
            m.d.comb += [
                bank.next_row.eq(segment.p.row),
                same[b].eq(bank.same),
                unused[b].eq(bank.unused),
                bank.dispatch.eq(dispatched[b]),
                bank.finish.eq(issued_end & issued_bank[b]),
                bank.choose_activate.eq(choose_activate & lowest[b]),
                bank.choose_precharge.eq(choose_precharge & lowest[b]),
                bank.activate.eq(activate & target[b]),
                bank.precharge.eq(precharge & target[b]),
                bank.close.eq(refresh.precharge),
                bank.read.eq(Mux(issued_read & issued_bank[b], issued_extra, 0)),
                bank.write.eq(issued_write & issued_bank[b]),
                ready[b].eq(bank.ready),
                want_activate[b].eq(bank.want_activate),
                want_precharge[b].eq(bank.want_precharge),
                busy[b].eq(bank.busy),
            ]
        m.d.comb += refresh.busy.eq(busy.any())

        # Pins.
        pins = self.pins
        command = Signal(3)
        address = Signal(part.address_pins)
        columns = Cat(issued_column[:ALL_BANKS], 0, issued_column[ALL_BANKS:])
        with m.If(issued_read):
            m.d.comb += [command.eq(SdramCommand.READ), address.eq(columns)]
        with m.Elif(issued_write):
            m.d.comb += [command.eq(SdramCommand.WRITE), address.eq(columns)]
        with m.Elif(issued_activate):
            row = 0
            for b in banks:
                row = row | Mux(issued_bank[b], rows[b], 0)
            m.d.comb += [command.eq(SdramCommand.ACTIVATE), address.eq(row)]
        with m.Elif(issued_precharge):
            m.d.comb += command.eq(SdramCommand.PRECHARGE)
        with m.Elif(issued_close):
            m.d.comb += [command.eq(SdramCommand.PRECHARGE), address.eq(1 << ALL_BANKS)]
        with m.Elif(issued_refresh):
            m.d.comb += command.eq(SdramCommand.REFRESH)
        with m.Elif(issued_mode):
            m.d.comb += [
                command.eq(SdramCommand.LOAD_MODE),
                address.eq(mode_register(t.cas_latency)),
            ]
        number = Signal(part.bank_bits)
        with m.If(~issued_mode):
            for i in range(part.bank_bits):
                m.d.comb += number[i].eq(Cat(issued_bank[b] for b in banks if b >> i & 1).any())
        # A reset must not stop the part's clock in the middle of something.
        clock_enable = Signal(reset_less=True)
        m.d.sync += clock_enable.eq(1)
        m.d.comb += pins.cke.eq(clock_enable)
        m.d.sync += [
            pins.cs.eq(command.any()),
            Cat(pins.we, pins.cas, pins.ras).eq(command),
            pins.ba.eq(number),
            pins.a.eq(address),
            pins.dqm.eq((~refresh.started).replicate(len(pins.dqm))),
            pins.dq_o.eq(write_words.part),
            pins.dq_oe.eq(issued_write),
        ]
        m.d.comb += [
            write_words.take.eq(issued_write),
            self.started.eq(refresh.started),
        ]

        # Data from the part.
        captured = Signal(part.data_bits)
        m.d.sync += captured.eq(pins.dq_i)
        m.d.comb += [
            read_words.dq.eq(captured),
            port.data.payload.eq(read_words.o_stream.payload),
            port.data.valid.eq(read_words.o_stream.valid),
            read_words.o_stream.ready.eq(port.data.ready),
        ]

        # Where the cycles went.
        transfer, refreshing, row_stall, port_stall = Signal(), Signal(), Signal(), Signal()
        waiting = burst.bank.any()
        m.d.sync += [
            transfer.eq(data | slot[0]),
            refreshing.eq(~slot[0] & held),
            row_stall.eq(~slot[0] & ~held & waiting & ~open_row),
            port_stall.eq(~slot[0] & ~held & open_row & ~data),
            refresh.idle.eq(~data & ~slot[0] & (~waiting | (open_row & ~burst.write))),
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
        return m
