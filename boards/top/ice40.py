"""The top level of an iCE40 UltraPlus board: clock, pins, and :class:`System` between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    Module,
    Signal,
)
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from stillnet.sw.contract.errors import StillnetError

from .system import System
from .top import Top

__all__ = ["Ice40Clocks", "Ice40PllSettings", "Ice40Top", "ice40_pll_settings"]

VCO_HZ = (533_000_000, 1_066_000_000)
PFD_HZ = (10_000_000, 133_000_000)
OUTPUT_HZ = (16_000_000, 275_000_000)
"""Ranges of the PLL: iCE40 UltraPlus family data sheet (FPGA-DS-02008), sysCLOCK PLL timing."""

SETTLE_BITS = 10
"""Periods, as a power of two, from the PLL's lock to the first edge of ``sync``. They also outlast
the 3 us after configuration in which block RAM reads as zeros."""


@dataclass(frozen=True)
class Ice40PllSettings:
    """Dividers of an SB_PLL40 with simple feedback.

    Attributes
    ----------
    divr, divf, divq : int
        Output = input / (divr + 1) * (divf + 1) / 2 ** divq.
    """

    input_hz: int
    output_hz: int
    divr: int
    divf: int
    divq: int

    @property
    def vco_hz(self) -> int:
        """Frequency of the oscillator."""
        return self.output_hz << self.divq

    def parameters(self) -> dict[str, Any]:
        """Parameters of the SB_PLL40 (TN1251)."""
        detector = self.input_hz // (self.divr + 1)
        # Range of the loop filter, by the frequency at the phase detector.
        edges = (17_000_000, 26_000_000, 44_000_000, 66_000_000, 101_000_000)
        filter_range = 1 + sum(detector >= edge for edge in edges)
        return {
            "p_FEEDBACK_PATH": "SIMPLE",
            "p_PLLOUT_SELECT": "GENCLK",
            # As bits: a text such as "0b101" is for other primitives, here it would count as 0.
            "p_DIVR": Const(self.divr, 4),
            "p_DIVF": Const(self.divf, 7),
            "p_DIVQ": Const(self.divq, 3),
            "p_FILTER_RANGE": Const(filter_range, 3),
        }


def ice40_pll_settings(input_hz: int, output_hz: int) -> Ice40PllSettings:
    """Dividers for an exact output, with the highest frequency at the phase detector.

    Raises
    ------
    StillnetError
        If no dividers give this frequency exactly.
    """
    if OUTPUT_HZ[0] <= output_hz <= OUTPUT_HZ[1]:
        for divr in range(16):
            if not PFD_HZ[0] <= input_hz / (divr + 1) <= PFD_HZ[1]:
                continue
            for divq in range(1, 7):
                vco = output_hz << divq
                factor, rest = divmod(vco * (divr + 1), input_hz)
                if not rest and VCO_HZ[0] <= vco <= VCO_HZ[1] and 1 <= factor <= 128:
                    return Ice40PllSettings(input_hz, output_hz, divr, factor - 1, divq)
    raise StillnetError(
        f"PLL cannot make {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; choose a multiple "
        f"of {input_hz / 16e6:g} MHz between {OUTPUT_HZ[0] / 1e6:g} and {OUTPUT_HZ[1] / 1e6:g}"
    )


class Ice40Clocks(Elaboratable):
    """Drives ``sync`` from a board's oscillator, through the PLL and a gate.

    The serial port needs a crystal: the oscillator inside the FPGA is right within 10 %, a UART
    wants 2. A PLL that is not locked yet may run at up to a third more than its frequency, too
    fast for the engine, which has no reset; so the gate opens only when it has long been locked.
    The few registers in front of the gate are fast enough.

    Parameters
    ----------
    pin : single-ended port
        The oscillator's.
    settings : Ice40PllSettings
    pad : bool
        The pin is the PLL's own (35 of the SG48); else it reaches the PLL through the fabric.

    Attributes
    ----------
    domain : ClockDomain
        ``sync``, for the module that this is part of.
    """

    def __init__(self, pin: Any, settings: Ice40PllSettings, *, pad: bool) -> None:
        self.pin = pin
        self.settings = settings
        self.pad = pad

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.raw = ClockDomain(reset_less=True, local=True)
        m.domains.fall = ClockDomain(reset_less=True, local=True, clk_edge="neg")
        core, raw, lock = Signal(), Signal(), Signal()
        if self.pad:
            source = {"io_PACKAGEPIN": self.pin.io}
        else:
            m.submodules.buffer = buffer = io.Buffer("i", self.pin)
            source = {"i_REFERENCECLK": buffer.i}
        m.submodules.pll = Instance(
            "SB_PLL40_PAD" if self.pad else "SB_PLL40_CORE",
            **self.settings.parameters(),
            **source,
            i_RESETB=1,
            i_BYPASS=0,
            o_PLLOUTCORE=core,
            o_PLLOUTGLOBAL=raw,
            o_LOCK=lock,
        )
        m.d.comb += [ClockSignal("raw").eq(raw), ClockSignal("fall").eq(raw)]
        locked = Signal()
        settled = Signal(SETTLE_BITS + 1)
        m.submodules.locked = FFSynchronizer(lock, locked, o_domain="raw")
        with m.If(~locked):
            m.d.raw += settled.eq(0)
        with m.Elif(~settled[-1]):
            m.d.raw += settled.eq(settled + 1)
        # Changes while the clock is low, so the gate gives no short pulse.
        open_ = Signal()
        m.d.fall += open_.eq(settled[-1])
        m.submodules.gate = Instance(
            "SB_GB",
            i_USER_SIGNAL_TO_GLOBAL_BUFFER=core & open_,
            o_GLOBAL_BUFFER_OUTPUT=ClockSignal("sync"),
        )
        return m


class Ice40Top(Top):
    """Everything of one iCE40 UltraPlus board.

    Parameters
    ----------
    board : Board
    """

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        oscillator = platform.lookup("clk12")
        settings = ice40_pll_settings(int(oscillator.clock.frequency), board.clock_hz)
        m.domains.sync = ClockDomain(reset_less=True)
        pin = platform.request("clk12", dir="-")
        m.submodules.clocks = Ice40Clocks(pin, settings, pad=board.pll_pad)
        system = self.add_system(m, platform)
        # The serial port may share pins with the configuration flash, which must not listen.
        if ("flash_cs", 0) in platform.resources:
            m.submodules.flash_cs = cs = io.Buffer("o", platform.request("flash_cs", dir="-"))
            m.d.comb += cs.o.eq(0)
        self._lamps(m, platform, system)
        return m

    def _lamps(self, m: Module, platform: Any, system: System) -> None:
        colours = [0, 0, 0]
        for k, (resource, number) in enumerate(self.board.lamps):
            if resource == "rgb":
                colours[number] = system.lamps[k]
                continue
            pin = platform.request(resource, number, dir="-")
            self.add_lamp(m, k, pin, system)
        if any(resource == "rgb" for resource, _ in self.board.lamps):
            rgb = platform.request("rgb_led", 0, dir=dict.fromkeys("rgb", "-"))
            # These pins have no resistors: the driver limits the current, to 4 mA here.
            m.submodules.rgb = Instance(
                "SB_RGBA_DRV",
                p_CURRENT_MODE="0b1",
                **{f"p_RGB{k}_CURRENT": "0b000001" for k in range(3)},
                i_CURREN=1,
                i_RGBLEDEN=1,
                **{f"i_RGB{k}PWM": colours[k] for k in range(3)},
                **{f"io_RGB{k}": getattr(rgb, self.board.rgb_pins[k]).io for k in range(3)},
            )
