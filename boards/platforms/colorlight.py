"""Colorlight i5 and i9 on the extension board that brings out their SODIMM pins.

Pins as documented by the community (github.com/wuxx/Colorlight-FPGA-Projects). Chip select, clock
enable and byte mask of the SDRAM are tied on the module.
"""

from __future__ import annotations

from amaranth.build import Attrs, Clock, Connector, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, SDRAMResource, UARTResource

__all__ = ["ColorlightI5Platform", "ColorlightI9Platform"]

_IO = Attrs(IO_TYPE="LVCMOS33")


def _resources(led: str) -> list[Resource]:
    return [
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), _IO),
        *LEDResources(pins=led, invert=True, attrs=_IO),
        UARTResource(0, rx="H18", tx="J17", attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        # The clock of the flash leaves through USRMCLK.
        Resource(
            "spi_flash",
            0,
            Subsignal("cs", PinsN("R2", dir="o")),
            Subsignal("copi", Pins("W2", dir="o")),
            Subsignal("cipo", Pins("V2", dir="i")),
            _IO,
        ),
        SDRAMResource(
            0,
            clk="B9",
            we_n="A10",
            cas_n="A9",
            ras_n="B10",
            ba="B11 C8",
            a="B13 C14 A16 A17 B16 B15 A14 A13 A12 A11 B12",
            dq="D15 E14 E13 D12 E12 D11 C10 B17 B8 A8 C7 A7 A6 B6 A5 B5 "
            "D5 C5 D6 C6 E7 D7 E8 D8 E9 D9 E11 C11 C12 D13 D14 C15",
            attrs=Attrs(IO_TYPE="LVCMOS33", SLEWRATE="FAST"),
        ),
    ]


class _Colorlight(LatticeECP5Platform):
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    connectors = [
        Connector("pmod", 0, "D1 C1 C2 E3 - - E2 D2 B1 A3 - -"),
        Connector("pmod", 1, "C17 B18 B20 F20 - - A18 A19 B19 D20 - -"),
    ]


class ColorlightI5Platform(_Colorlight):
    """Colorlight i5 v7.0: LFE5U-25F, EM638325."""

    device = "LFE5U-25F"
    resources = _resources("U16")


class ColorlightI9Platform(_Colorlight):
    """Colorlight i9 v7.2: LFE5U-45F, M12L64322A."""

    device = "LFE5U-45F"
    resources = _resources("L2")
