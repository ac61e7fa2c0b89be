"""Power-up and refresh of an SDRAM."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .parts import SdramTimings
from .pins import BURST

__all__ = ["RefreshControl"]

_IDLE_CYCLES = 16
_FIRST_REFRESHES = 8


class RefreshControl(wiring.Component):
    """Decides when all banks are closed and refreshed, and loads the mode register once.

    Up to ``postponed`` refreshes may wait until the memory has been idle for 16 cycles. Then as
    many follow as fit into the pause. When ``postponed`` are due, all of them follow at once:
    closing and opening the banks costs the same for eight refreshes as for one.

    After configuration it waits ``timings.startup`` cycles, closes all banks, refreshes eight times
    and loads the mode register. A later reset does the same, but waits only until the commands
    before it are over. So a reset of a few cycles keeps the content of the memory.

    *Power-down.* After ``idle_cycles`` without a request all banks are closed and clock enable goes
    low. It rises for a request, and for each refresh as it comes due; after the refresh the memory
    goes back to sleep if there is still no request. So hardly any refresh is late when work begins.

    Parameters
    ----------
    timings : :class:`SdramTimings`
    postponed : :class:`int`
        1 to 8.
    idle_cycles : :class:`int`, optional
        Cycles without a request after which the memory is put to sleep, 32 at least: by then all
        data has left the bus. None: never, and there is no hardware for it.

    Attributes
    ----------
    probes : SimpleNamespace
        Registers that proofs speak of, once elaborated.

    Members
    -------
    idle : :py:`In(1)`
        Nothing can be transferred for reasons outside the SDRAM.
    busy : :py:`In(1)`
        A bank must not be precharged in the next cycle.
    hold : :py:`Out(1)`
        No other command may be issued.
    precharge, refresh, load_mode : :py:`Out(1)`
        Issue PRECHARGE of all banks, REFRESH, LOAD MODE in this cycle.
    started : :py:`Out(1)`
        Power-up is over.
    request : :py:`In(1)`
        With ``idle_cycles``: something is asked of the memory.
    asleep : :py:`Out(1)`
        With ``idle_cycles``: clock enable is low in this cycle.
    resting : :py:`Out(1)`
        With ``idle_cycles``: ``hold`` is high for power-down, its begin or its end.
    """

    def __init__(self, timings: SdramTimings, postponed: int, idle_cycles: int | None = None):
        self._timings = timings
        self._postponed = postponed
        self._idle_cycles = idle_cycles
        self.probes = SimpleNamespace()
        sleep = {"request": In(1), "asleep": Out(1), "resting": Out(1)}
        super().__init__(
            {
                "idle": In(1),
                "busy": In(1),
                "hold": Out(1, init=1),
                "precharge": Out(1),
                "refresh": Out(1),
                "load_mode": Out(1),
                "started": Out(1),
                **({} if idle_cycles is None else sleep),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        t = self._timings

        interval = Signal(range(t.refresh_interval), init=t.refresh_interval - 1)
        tick = Signal()
        m.d.sync += [interval.eq(interval - 1), tick.eq(interval == 1)]
        with m.If(tick):
            m.d.sync += interval.eq(t.refresh_interval - 1)

        # Refreshes that are due, and what follows from their number, in registers.
        due = Signal(range(2 * self._postponed + _FIRST_REFRESHES), init=_FIRST_REFRESHES)
        some, more, many = Signal(), Signal(), Signal()
        with m.If(tick & self.started & ~self.refresh):
            m.d.sync += due.eq(due + 1)
        with m.Elif(self.refresh & ~(tick & self.started)):
            m.d.sync += due.eq(due - 1)
        m.d.sync += [some.eq(due != 0), more.eq(due > 1), many.eq(due >= self._postponed)]

        calm = Signal(range(_IDLE_CYCLES + 1))
        calm_long = Signal()
        m.d.sync += calm_long.eq(self.idle & (calm == _IDLE_CYCLES))
        with m.If(~self.idle):
            m.d.sync += calm.eq(0)
        with m.Elif(calm != _IDLE_CYCLES):
            m.d.sync += calm.eq(calm + 1)

        # ACTIVATE to REFRESH takes tRC, of which tRAS passes before PRECHARGE.
        close = max(t.trp, t.trc - t.tras)
        startup = Signal(range(t.startup + 1), init=t.startup)
        settled = max(t.trfc, t.tras, t.trc, t.twr) + BURST + t.cas_latency
        timer = Signal(range(settled + t.tmrd + 1), init=settled)
        powered = Signal(reset_less=True)
        forced = Signal(init=1)
        # What the states ask of the timer, in registers: it is 0, and 2 or less.
        over, nearly = Signal(init=settled == 0), Signal(init=settled <= 2)
        m.d.sync += [over.eq(timer <= 1), nearly.eq(timer <= 3)]
        with m.If(~over):
            m.d.sync += timer.eq(timer - 1)

        def wait(cycles: int) -> list[Any]:
            return [timer.eq(cycles), over.eq(cycles == 0), nearly.eq(cycles <= 2)]

        can_sleep = self._idle_cycles is not None
        doze, rested, quiet = self._rest(m)
        with m.FSM() as machine:
            with m.State("POWER-UP"):
                m.d.sync += startup.eq(startup - 1)
                with m.If((startup == 1) | (powered & over)):
                    m.next = "PRECHARGE"
            with m.State("RUN"):
                with m.If(many | (some & calm_long)):
                    # Commands on their way to the timers of the banks arrive first.
                    m.d.sync += [self.hold.eq(1), forced.eq(many), *wait(3)]
                    m.next = "SETTLE"
                if can_sleep:
                    with m.Elif(rested & ~some):
                        m.d.sync += [self.hold.eq(1), doze.eq(1), *wait(3)]
                        m.next = "SETTLE"
            with m.State("SETTLE"):
                with m.If(over & ~self.busy):
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                m.d.comb += self.precharge.eq(1)
                m.d.sync += wait(close - 1)
                m.next = "REFRESH"
                if can_sleep:
                    with m.If(doze):
                        m.next = "CLOSED"
            with m.State("REFRESH"):
                with m.If(over):
                    m.d.comb += self.refresh.eq(1)
                    # `more` needs a cycle to see this one.
                    m.d.sync += wait(max(t.trfc, 2) - 1)
                    with m.If(~more | ~(forced | self.idle)):
                        m.next = "LAST"
            with m.State("LAST"):
                with m.If(~self.started):
                    with m.If(over):
                        m.d.comb += self.load_mode.eq(1)
                        m.d.sync += [*wait(t.tmrd + 1), self.started.eq(1)]
                        m.d.sync += powered.eq(1)
                if can_sleep:
                    with m.Elif(rested & ~some):
                        with m.If(over):
                            m.d.sync += wait(t.tcke - 1)
                            m.next = "SLEEP"
                # The banks choose in the cycle after this one and issue after the next.
                with m.Elif(nearly):
                    m.d.sync += self.hold.eq(0)
                    m.next = "RUN"
            if can_sleep:
                self._sleep_states(m, machine, doze, over, nearly, some, many, forced, wait)
        self.probes = SimpleNamespace(
            machine=machine,
            interval=interval,
            tick=tick,
            due=due,
            startup=startup,
            timer=timer,
            over=over,
            nearly=nearly,
            powered=powered,
            forced=forced,
            doze=doze,
            rested=rested,
            quiet=quiet,
            idle_cycles=self._idle_cycles,
        )
        return m

    def _sleep_states(
        self,
        m: Module,
        machine: Any,
        doze: Signal,
        over: Signal,
        nearly: Signal,
        some: Signal,
        many: Signal,
        forced: Signal,
        wait: Callable[[int], list[Any]],
    ) -> None:
        """From rows that are closed to sleep, and back to work or to a refresh."""
        t = self._timings
        with m.State("CLOSED"):
            m.d.sync += doze.eq(0)
            with m.If(over & self.request):
                m.d.sync += self.hold.eq(0)
                m.next = "RUN"
            with m.Elif(over):
                m.d.sync += wait(t.tcke - 1)
                m.next = "SLEEP"
        with m.State("SLEEP"):
            m.d.comb += self.asleep.eq(1)
            with m.If(over & (some | self.request)):
                m.d.sync += [forced.eq(0), *wait(t.txp)]
                m.next = "WAKE"
        with m.State("WAKE"):
            # One refresh can wait for what was asked; many cannot.
            with m.If(many | (some & ~self.request)):
                with m.If(over):
                    m.d.sync += forced.eq(many)
                    m.next = "REFRESH"
            with m.Elif(nearly):
                m.d.sync += self.hold.eq(0)
                m.next = "RUN"
        resting = (machine.ongoing(state) for state in ("CLOSED", "SLEEP", "WAKE"))
        m.d.comb += self.resting.eq(doze | Cat(resting).any())

    def _rest(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Going to sleep; nothing has been asked for long; for how many cycles, up to that."""
        doze, rested = Signal(), Signal()
        if self._idle_cycles is None:
            return doze, rested, Signal()
        quiet = Signal(range(self._idle_cycles + 1))
        m.d.sync += rested.eq(~self.request & (quiet == self._idle_cycles))
        with m.If(self.request):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != self._idle_cycles):
            m.d.sync += quiet.eq(quiet + 1)
        return doze, rested, quiet
