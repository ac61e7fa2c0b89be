"""iCE40 UltraPlus boards, with what amaranth-boards leaves out."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, PinsN, Resource
from amaranth_boards.icebreaker import ICEBreakerPlatform as _ICEBreaker
from amaranth_boards.resources import UARTResource
from amaranth_boards.upduino_v3 import UpduinoV3Platform as _Upduino

__all__ = ["ICEBreakerPlatform", "UpduinoPlatform"]

_IO = Attrs(IO_STANDARD="SB_LVCMOS")


class ICEBreakerPlatform(_ICEBreaker):
    """iCEBreaker, with the section of LEDs and buttons at PMOD 2."""

    resources = [*_ICEBreaker.resources, *_ICEBreaker.break_off_pmod]


class UpduinoPlatform(_Upduino):
    """UPduino 3.0 and 3.1, with the jumper OSC closed.

    The FT232H's serial port is on the pins of the configuration flash: its TXD on the flash's
    clock, its RXD on the data from the FPGA to the flash (tinyvision.ai's pin file).
    """

    default_clk = "clk12"
    resources: list[Any] = [
        *_Upduino.resources,
        UARTResource(0, rx="15", tx="14", attrs=Attrs(IO_STANDARD="SB_LVCMOS", PULLUP=1)),
        Resource("flash_cs", 0, PinsN("16", dir="o"), _IO),
    ]
