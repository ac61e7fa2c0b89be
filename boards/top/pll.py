"""Clocks of an ECP5 board: the PLL's dividers, and the phase of the SDRAM's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib.cdc import FFSynchronizer

from stillnet.boards.board import VCO_HZ
from stillnet.sw.contract.errors import StillnetError

__all__ = ["EcpClocks", "PllSettings", "pll_settings"]

PFD_HZ = (3_125_000, 400_000_000)
"""Range of the phase detector: ECP5 family data sheet (FPGA-DS-02012), sysCLOCK PLL timing."""


LOCK_BITS = 10
"""Periods of the oscillator, as a power of two, from lock to the first edge of ``sync``."""


@dataclass(frozen=True)
class PllSettings:
    """Dividers of an EHXPLLL whose feedback comes from its first output.

    Attributes
    ----------
    input_divider, feedback_divider, output_divider : int
        CLKI_DIV, CLKFB_DIV, CLKOP_DIV (and CLKOS_DIV): output = input / input_divider *
        feedback_divider; oscillator = output * output_divider.
    phase_steps : int
        Shift of the second output, in eighths of a period of the oscillator.
    memory_divider : int or None
        CLKOS_DIV and CLKOS2_DIV, where the SDRAM has a clock of its own: CLKOS2 is its
        controller's, CLKOS that of its pins. None: both have CLKOP.
    """

    input_hz: int
    output_hz: int
    input_divider: int
    feedback_divider: int
    output_divider: int
    phase_steps: int
    memory_divider: int | None = None

    @property
    def vco_hz(self) -> int:
        """Frequency of the oscillator."""
        return self.output_hz * self.output_divider

    @property
    def phase(self) -> float:
        """Shift of the second output in degrees."""
        return self.phase_steps * 45 / self.second_divider

    @property
    def second_divider(self) -> int:
        """Of the clock at the SDRAM's pins."""
        return self.memory_divider or self.output_divider

    @property
    def memory_hz(self) -> int:
        """Frequency of the SDRAM."""
        return self.vco_hz // self.second_divider

    def parameters(self) -> dict[str, Any]:
        """Parameters of the EHXPLLL (TN1263, section 17)."""
        # An undivided phase is written as divider - 1 whole periods of the oscillator.
        base, second = self.output_divider - 1, self.second_divider - 1
        third = {
            "p_CLKOS2_ENABLE": "ENABLED",
            "p_CLKOS2_DIV": self.second_divider,
            "p_CLKOS2_CPHASE": second,
            "p_CLKOS2_FPHASE": 0,
            "p_OUTDIVIDER_MUXC": "DIVC",
            "a_FREQUENCY_PIN_CLKOS2": f"{self.memory_hz / 1e6:g}",
        }
        return {
            "p_PLLRST_ENA": "DISABLED",
            "p_INTFB_WAKE": "DISABLED",
            "p_STDBY_ENABLE": "DISABLED",
            "p_DPHASE_SOURCE": "DISABLED",
            "p_OUTDIVIDER_MUXA": "DIVA",
            "p_OUTDIVIDER_MUXB": "DIVB",
            "p_CLKOP_ENABLE": "ENABLED",
            "p_CLKOP_DIV": self.output_divider,
            "p_CLKOP_CPHASE": base,
            "p_CLKOP_FPHASE": 0,
            "p_CLKOS_ENABLE": "ENABLED",
            "p_CLKOS_DIV": self.second_divider,
            "p_CLKOS_CPHASE": second + self.phase_steps // 8,
            "p_CLKOS_FPHASE": self.phase_steps % 8,
            "p_FEEDBK_PATH": "CLKOP",
            "p_CLKI_DIV": self.input_divider,
            "p_CLKFB_DIV": self.feedback_divider,
            "a_FREQUENCY_PIN_CLKI": f"{self.input_hz / 1e6:g}",
            "a_FREQUENCY_PIN_CLKOP": f"{self.output_hz / 1e6:g}",
            "a_FREQUENCY_PIN_CLKOS": f"{self.memory_hz / 1e6:g}",
            "a_ICP_CURRENT": "12",
            "a_LPF_RESISTOR": "8",
            "a_MFG_ENABLE_FILTEROPAMP": "1",
            "a_MFG_GMCREF_SEL": "2",
            **(third if self.memory_divider else {}),
        }


def pll_settings(
    input_hz: int, output_hz: int, phase: float = 0.0, *, memory_hz: int | None = None
) -> PllSettings:
    """Dividers for an exact output, with the oscillator as fast as it goes for a fine phase.

    Parameters
    ----------
    input_hz, output_hz : int
    phase : float
        Of the second output, in degrees, 0 to 360; the nearest that there is.
    memory_hz : int, optional
        Of the second and third output; the oscillator makes it exactly, but for parts of a hertz.

    Raises
    ------
    StillnetError
        If no dividers give this frequency exactly.
    """
    if not 0 <= phase < 360:
        raise StillnetError(f"PLL phase must be 0 to 360 degrees, not {phase}")
    best: PllSettings | None = None
    for input_divider in range(1, 129):
        if not PFD_HZ[0] <= input_hz / input_divider <= PFD_HZ[1]:
            continue
        if output_hz * input_divider % input_hz:
            continue
        feedback = output_hz * input_divider // input_hz
        if not 1 <= feedback <= 80:
            continue
        for divider in range(1, 129):
            if not VCO_HZ[0] <= output_hz * divider <= VCO_HZ[1]:
                continue
            memory = None
            if memory_hz is not None:
                memory = round(output_hz * divider / memory_hz)
                if output_hz * divider // memory != memory_hz:
                    continue
            steps = round(phase * (memory or divider) / 45) % (8 * (memory or divider))
            # The first detector frequency found is the highest, which has the least jitter.
            if best is None or (best.input_divider, -best.output_divider) > (
                input_divider,
                -divider,
            ):
                best = PllSettings(
                    input_hz, output_hz, input_divider, feedback, divider, steps, memory
                )
    if best is None:
        raise StillnetError(
            f"PLL cannot make {output_hz / 1e6:g} MHz"
            f"{'' if memory_hz is None else f' and {memory_hz / 1e6:g} MHz'} from "
            f"{input_hz / 1e6:g} MHz; choose a multiple or simple fraction of it between 3.2 and "
            "400 MHz"
        )
    return best


class EcpClocks(Elaboratable):
    """Drives ``sync``, ``sdram``, the clock at the SDRAM's pins, and ``memory``, that of its
    controller where it has one of its own, from a board's oscillator.

    ``sync`` and ``memory`` begin to tick some time after the PLL has locked. Registers have their
    first values from the configuration, so no domain has a reset, which would have to reach
    everything. ``sdram`` is late by ``settings.phase``. The top level has the domains:
    :meth:`domains`.

    Attributes
    ----------
    locked : Signal(1)
    """

    def __init__(self, clock: Any, settings: PllSettings) -> None:
        self.clock = clock
        self.settings = settings
        self.locked = Signal()

    @staticmethod
    def domains(m: Module, settings: PllSettings) -> None:
        """Adds the domains to a module."""
        m.domains.sync = ClockDomain(reset_less=True)
        m.domains.sdram = ClockDomain(reset_less=True)
        if settings.memory_divider:
            m.domains.memory = ClockDomain(reset_less=True)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The clock of the oscillator runs from the start: it waits for the PLL.
        m.domains.oscillator = ClockDomain(reset_less=True, local=True)
        locked = Signal()
        settled = Signal(LOCK_BITS + 1)
        m.d.comb += ClockSignal("oscillator").eq(self.clock)
        m.submodules.locked = FFSynchronizer(self.locked, locked, o_domain="oscillator")
        with m.If(~locked):
            m.d.oscillator += settled.eq(0)
        with m.Elif(~settled[-1]):
            m.d.oscillator += settled.eq(settled + 1)
        fast = Signal()
        memory: dict[str, Any] = {}
        if self.settings.memory_divider:
            own = Signal()
            memory = {"i_ENCLKOS2": 0, "o_CLKOS2": own}
            m.submodules.memory_gate = Instance(
                "DCCA", i_CLKI=own, i_CE=settled[-1], o_CLKO=ClockSignal("memory")
            )
        m.submodules.pll = Instance(
            "EHXPLLL",
            **self.settings.parameters(),
            i_CLKI=self.clock,
            i_CLKFB=fast,
            i_RST=0,
            i_STDBY=0,
            i_PHASESEL0=0,
            i_PHASESEL1=0,
            i_PHASEDIR=0,
            i_PHASESTEP=0,
            i_PHASELOADREG=0,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            i_ENCLKOS=0,
            o_CLKOP=fast,
            o_CLKOS=ClockSignal("sdram"),
            o_LOCK=self.locked,
            **memory,
        )
        m.submodules.gate = Instance(
            "DCCA", i_CLKI=fast, i_CE=settled[-1], o_CLKO=ClockSignal("sync")
        )
        return m
