"""The top level of a board: clocks, pins, and :class:`System` between them."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Pins, PinsN, Resource, Subsignal
from amaranth.hdl import Instance, Module
from amaranth.lib import io

from stillnet.boards.board import PIN_REGISTERS

from .pll import EcpClocks, pll_settings
from .sdram_pads import SdramPads
from .system import System
from .top import Top, members

__all__ = ["FLASH_PINS", "BoardTop", "connect_flash"]

FLASH_PINS = {"BG256": ("N8", "T8", "T7"), "BG381": ("R2", "W2", "V2")}
"""CSSPIN, MOSI and MISO of each package, where the FPGA reads its configuration: the flash can be
nowhere else (pinout files of the LFE5U-25 to -85). Not from the board files, because
amaranth-boards 0.0.21 has the two data pins of the Colorlight 5A-75B the wrong way round."""


class BoardTop(Top):
    """Everything of one ECP5 board.

    *SDRAM clock.* As :func:`~stillnet.boards.board.sdram_phase` says.

    Parameters
    ----------
    board : Board
    """

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        clock = platform.default_clk
        oscillator = platform.request(clock, dir="-")
        m.submodules.oscillator = buffer = io.Buffer("i", oscillator)
        assert board.sdram is not None and board.image_offset is not None
        settings = pll_settings(
            int(platform.default_clk_frequency),
            board.clock_hz,
            board.sdram_phase,
            memory_hz=board.memory_hz,
        )
        EcpClocks.domains(m, settings)
        m.submodules.clocks = EcpClocks(buffer.i, settings)
        # The part's clock begins some cycles after the controller's, and so does its pause.
        pause = board.sdram.startup_us + 1
        system = self.add_system(m, platform, input_delay=PIN_REGISTERS, startup_us=pause)
        self._sdram(m, platform, system)
        connect_flash(m, platform, system.flash)
        self._lamps(m, platform, system)
        return m

    def _sdram(self, m: Module, platform: Any, system: System) -> None:
        names = members(platform, "sdram")
        domain = "sync" if self.board.memory_hz is None else "memory"
        ports = platform.request("sdram", dir=names)
        m.submodules.sdram = SdramPads(ports, names, system.sdram, domain)

    def _lamps(self, m: Module, platform: Any, system: System) -> None:
        colours = None
        for k, (resource, number) in enumerate(self.board.lamps):
            if resource == "rgb_led":
                if colours is None:
                    colours = platform.request("rgb_led", 0, dir=dict.fromkeys("rgb", "-"))
                pin = getattr(colours, "rgb"[number])
            else:
                pin = platform.request(resource, number, dir="-")
            self.add_lamp(m, k, pin, system)


def connect_flash(m: Module, platform: Any, source: Any) -> None:
    """Connects the configuration flash of an ECP5 board.

    Its clock is on MCLK, a pin that a design reaches only through USRMCLK (FPGA-TN-02039, section
    6.1.2), so a clock pin of the board files is left alone. Hold and write protection stay off
    where they are wired.

    Parameters
    ----------
    m : Module
    platform
    source : SpiFlashPinsSignature
    """
    cs, copi, cipo = FLASH_PINS[platform.package]
    wired = [
        sub
        for name in ("spi_flash", "spi_flash_1x")
        if (name, 0) in platform.resources
        for sub in platform.lookup(name).ios
        if sub.name in ("hold", "wp")
    ]
    flash = Resource(
        "boot_flash",
        0,
        Subsignal("cs", PinsN(cs, dir="o")),
        Subsignal("copi", Pins(copi, dir="o")),
        Subsignal("cipo", Pins(cipo, dir="i")),
        *wired,
        Attrs(IO_TYPE="LVCMOS33"),
    )
    platform.add_resources([flash])
    pins = platform.request("boot_flash", dir=members(platform, "boot_flash"))
    levels = {"cs": source.cs, "copi": source.copi, "hold": 0, "wp": 0}
    for name, level in levels.items():
        if hasattr(pins, name):
            m.submodules[f"flash_{name}"] = out = io.Buffer("o", getattr(pins, name))
            m.d.comb += out.o.eq(level)
    m.submodules.flash_cipo = data = io.Buffer("i", pins.cipo)
    m.d.comb += source.cipo.eq(data.i)
    m.submodules.flash_clock = Instance("USRMCLK", i_USRMCLKI=source.sck, i_USRMCLKTS=0)
