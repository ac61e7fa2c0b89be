"""Gowin boards, which amaranth-boards has only in part."""

from __future__ import annotations

from typing import Any

from amaranth.build import Attrs, Clock, Pins, PinsN, Resource, Subsignal
from amaranth.hdl import Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, SDRAMResource, UARTResource

__all__ = ["OutputBuffer", "TangNano20KPlatform"]

_IO = Attrs(IO_TYPE="LVCMOS33")


class OutputBuffer(Elaboratable):
    """Output pins that always drive, with or without a register.

    Amaranth makes three-state buffers of them, whose registers nextpnr leaves outside the IO cell.

    Parameters
    ----------
    buffer : io.Buffer or io.FFBuffer
        Its ``oe`` is not looked at.
    """

    def __init__(self, buffer: io.Buffer | io.FFBuffer) -> None:
        self.buffer = buffer

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        port = self.buffer.port
        level = Signal(len(port))
        inverted = sum(inv << bit for bit, inv in enumerate(port.invert))
        domain = getattr(self.buffer, "o_domain", "comb")
        m.d[domain] += level.eq(self.buffer.o ^ inverted)
        for bit in range(len(port)):
            m.submodules[f"pin{bit}"] = Instance("OBUF", i_I=level[bit], o_O=port.io[bit])
        return m


class TangNano20KPlatform(GowinPlatform):
    """Sipeed Tang Nano 20K: GW2AR-18C, its SDRAM in the package.

    The pins of the SDRAM are pads of the die that no package pin has: names of places, as the
    documentation of Project Apicula lists them (doc/sdram.md). Those of the board are from its
    schematic, by way of LiteX's platform file.
    """

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources: list[Any] = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), _IO),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=_IO),
        # To the BL616, which is a serial port at USB.
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
        Resource(
            "spi_flash",
            0,
            Subsignal("cs", PinsN("60", dir="o")),
            Subsignal("clk", Pins("59", dir="o")),
            Subsignal("copi", Pins("61", dir="o")),
            Subsignal("cipo", Pins("62", dir="i")),
            _IO,
        ),
        SDRAMResource(
            0,
            clk="IOR11B",
            cke="IOL13A",
            cs_n="IOL14B",
            we_n="IOL12B",
            ras_n="IOL13B",
            cas_n="IOL14A",
            ba="IOR13A IOR12A",
            a="IOR14A IOR13B IOR14B IOR15A IOL16B IOL17B IOL16A IOL17A IOL15B IOL15A IOR12B",
            dqm="IOL12A IOR11A IOL18A IOR15B",
            dq="IOL3A IOL3B IOL8A IOL8B IOL9A IOL9B IOL11A IOL11B "
            "IOR9B IOR9A IOR5B IOR6A IOR5A IOR4B IOR3B IOR3A "
            "IOL39B IOL39A IOL35B IOL35A IOL30B IOL30A IOL20A IOL18B "
            "IOR17A IOR16A IOR16B IOR17B IOR18A IOR18B IOR44A IOR44B",
            attrs=_IO,
        ),
    ]
    connectors: list[Any] = []

    def get_io_buffer(self, buffer: Any) -> Any:
        """As Amaranth asks for it, with output pins of our own."""
        if type(buffer) in (io.Buffer, io.FFBuffer) and buffer.direction is io.Direction.Output:
            return OutputBuffer(buffer)
        return super().get_io_buffer(buffer)
