"""Power-up and refresh of an SDRAM."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Signal
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

    Parameters
    ----------
    timings : :class:`SdramTimings`
    postponed : :class:`int`
        1 to 8.

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
    """

    def __init__(self, timings: SdramTimings, postponed: int):
        self._timings = timings
        self._postponed = postponed
        self.probes = SimpleNamespace()
        super().__init__(
            {
                "idle": In(1),
                "busy": In(1),
                "hold": Out(1, init=1),
                "precharge": Out(1),
                "refresh": Out(1),
                "load_mode": Out(1),
                "started": Out(1),
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
            with m.State("SETTLE"):
                with m.If(over & ~self.busy):
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                m.d.comb += self.precharge.eq(1)
                m.d.sync += wait(close - 1)
                m.next = "REFRESH"
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
                # The banks choose in the cycle after this one and issue after the next.
                with m.Elif(nearly):
                    m.d.sync += self.hold.eq(0)
                    m.next = "RUN"
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
        )
        return m
