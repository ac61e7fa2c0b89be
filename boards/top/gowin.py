"""The top level of a Gowin board: clocks, pins, and :class:`System` between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from stillnet.boards.board import PIN_REGISTERS
from stillnet.sw.contract.errors import StillnetError

from .ecp5 import BoardTop
from .top import members

__all__ = ["GowinClocks", "GowinPllSettings", "GowinTop", "gowin_pll_settings"]

VCO_HZ = (500_000_000, 1_250_000_000)
PFD_HZ = (3_000_000, 500_000_000)
OUTPUT_HZ = (3_906_250, 625_000_000)
"""Ranges of the PLL: GW2AR data sheet (DS226), speed grade C8/I7."""

OUTPUT_DIVIDERS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
STEPS = 16
"""Of a period, by which the second output can be late (UG286, rPLL, PSDA_SEL)."""

LOCK_BITS = 10
"""Periods of the oscillator, as a power of two, from lock to the first edge of ``sync``."""


@dataclass(frozen=True)
class GowinPllSettings:
    """Dividers of an rPLL with feedback inside.

    Attributes
    ----------
    input_divider, feedback_divider, output_divider : int
        Output = input / input_divider * feedback_divider; oscillator = output * output_divider.
    phase_steps : int
        Shift of the second output, in sixteenths of its period.
    """

    input_hz: int
    output_hz: int
    input_divider: int
    feedback_divider: int
    output_divider: int
    phase_steps: int

    @property
    def vco_hz(self) -> int:
        """Frequency of the oscillator."""
        return self.output_hz * self.output_divider

    @property
    def phase(self) -> float:
        """Shift of the second output in degrees."""
        return self.phase_steps * 360 / STEPS

    def parameters(self) -> dict[str, Any]:
        """Parameters of the rPLL (UG286)."""
        return {
            "p_FCLKIN": f"{self.input_hz / 1e6:g}",
            "p_IDIV_SEL": self.input_divider - 1,
            "p_FBDIV_SEL": self.feedback_divider - 1,
            "p_ODIV_SEL": self.output_divider,
            "p_PSDA_SEL": f"{self.phase_steps:04b}",
            "p_DUTYDA_SEL": "1000",  # half of the period
            "p_DYN_DA_EN": "false",
            "p_CLKFB_SEL": "internal",
            "p_DEVICE": "GW2AR-18C",
        }


def gowin_pll_settings(input_hz: int, output_hz: int, phase: float = 0.0) -> GowinPllSettings:
    """Dividers for an exact output, with the highest frequency at the phase detector.

    The second output is no later than ``phase``: what it is late by is taken from the hold of the
    SDRAM's commands.

    Raises
    ------
    StillnetError
        If no dividers give this frequency exactly.
    """
    if not 0 <= phase < 360:
        raise StillnetError(f"PLL phase must be 0 to 360 degrees, not {phase}")
    if OUTPUT_HZ[0] <= output_hz <= OUTPUT_HZ[1]:
        for divider in range(1, 65):
            factor, rest = divmod(output_hz * divider, input_hz)
            if rest or not 1 <= factor <= 64 or input_hz / divider < PFD_HZ[0]:
                continue
            for last in OUTPUT_DIVIDERS:
                if VCO_HZ[0] <= output_hz * last <= VCO_HZ[1]:
                    steps = int(phase * STEPS / 360)
                    return GowinPllSettings(input_hz, output_hz, divider, factor, last, steps)
    raise StillnetError(
        f"PLL cannot make {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; choose a multiple "
        f"of it divided by 1 to {input_hz // PFD_HZ[0]}"
    )


class GowinClocks(Elaboratable):
    """Drives ``sync``, and ``sdram``, the clock at the SDRAM's pins, from a board's oscillator.

    As on the other boards, ``sync`` begins to tick when the PLL has long been locked, because no
    register has a reset; ``sdram`` is late by ``settings.phase``.

    Parameters
    ----------
    clock : Signal(1)
        The oscillator's.
    settings : GowinPllSettings
    """

    def __init__(self, clock: Any, settings: GowinPllSettings) -> None:
        self.clock = clock
        self.settings = settings

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.oscillator = ClockDomain(reset_less=True, local=True)
        lock, locked, fast = Signal(), Signal(), Signal()
        settled = Signal(LOCK_BITS + 1)
        m.d.comb += ClockSignal("oscillator").eq(self.clock)
        m.submodules.locked = FFSynchronizer(lock, locked, o_domain="oscillator")
        with m.If(~locked):
            m.d.oscillator += settled.eq(0)
        with m.Elif(~settled[-1]):
            m.d.oscillator += settled.eq(settled + 1)
        m.submodules.pll = Instance(
            "rPLL",
            **self.settings.parameters(),
            i_CLKIN=self.clock,
            i_CLKFB=0,
            i_RESET=0,
            i_RESET_P=0,
            **{f"i_{name}": 0 for name in ("FBDSEL", "IDSEL", "ODSEL", "PSDA", "DUTYDA", "FDLY")},
            o_CLKOUT=fast,
            o_CLKOUTP=ClockSignal("sdram"),
            o_LOCK=lock,
        )
        m.submodules.gate = Instance(
            "DQCE", i_CLKIN=fast, i_CE=settled[-1], o_CLKOUT=ClockSignal("sync")
        )
        return m


class GowinTop(BoardTop):
    """Everything of one Gowin board.

    Parameters
    ----------
    board : Board
    """

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        settings = gowin_pll_settings(
            int(platform.default_clk_frequency), board.clock_hz, board.sdram_phase
        )
        m.domains.sync = ClockDomain(reset_less=True)
        m.domains.sdram = ClockDomain(reset_less=True)
        pin = platform.request(platform.default_clk, dir="-")
        m.submodules.oscillator = oscillator = io.Buffer("i", pin)
        m.submodules.clocks = GowinClocks(oscillator.i, settings)
        assert board.sdram is not None
        pause = board.sdram.startup_us + 1  # its clock comes a little later
        system = self.add_system(m, platform, input_delay=PIN_REGISTERS, startup_us=pause)
        self._sdram(m, platform, system)
        if board.image_offset is not None:
            self._flash(m, platform, system.flash)
        self._lamps(m, platform, system)
        return m

    def _flash(self, m: Module, platform: Any, source: Any) -> None:
        """The configuration flash, whose pins are the design's when it has been read."""
        pins = platform.request("spi_flash", dir=members(platform, "spi_flash"))
        for name, level in {"cs": source.cs, "clk": source.sck, "copi": source.copi}.items():
            m.submodules[f"flash_{name}"] = out = io.Buffer("o", getattr(pins, name))
            m.d.comb += out.o.eq(level)
        m.submodules.flash_cipo = data = io.Buffer("i", pins.cipo)
        m.d.comb += source.cipo.eq(data.i)
