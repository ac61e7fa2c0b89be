"""A board whose FPGA is a netlist, as a transport of the host driver.

The host, the SDRAM and the flash are those of the virtual board. What is between them is what the
tools made: nothing of Amaranth is left.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from stillnet.boards.board import DATA_NS, PADS_NS, Board
from stillnet.sim.board.virtual import MODELS, VirtualBoard, flash_half
from stillnet.sim.compile.model import HARNESSES, build_library
from stillnet.sw.contract.errors import StillnetError

from .netlist import Netlist, Pads
from .unpack import Unpacked
from .unpacked import unpacked_verilog
from .verilog import netlist_verilog

__all__ = ["GatesBoard", "gates_library", "pads"]

HARNESS = HARNESSES / "gates.cpp"

_SDRAM = ("clk", "clk_en", "cs", "we", "ras", "cas", "ba", "a", "dqm", "dq")


def pads(board: Board) -> Pads:
    """How a board's ports are called.

    Raises
    ------
    StillnetError
        For a board that this cannot simulate.
    """
    known = board.family in ("ecp5", "gowin")
    if not known or board.sdram is None or board.memory_hz is not None:
        raise StillnetError(
            f"the gates of board '{board.name}' cannot be simulated: only boards with an ECP5 or a "
            "Gowin, and an SDRAM at the engine's clock, can; choose another --board"
        )
    platform = board.make_platform()
    names = {f"sdram_{name}": f"sdram_0__{name}__io" for name in _SDRAM}
    gowin = board.family == "gowin"
    flash = "spi_flash" if gowin else "boot_flash"
    pins = ("cs", "copi", "cipo", "clk") if gowin else ("cs", "copi", "cipo")
    names |= {f"flash_{name}": f"{flash}_0__{name}__io" for name in pins}
    names |= {"rx": "uart_0__rx__io", "tx": "uart_0__tx__io"}
    names["oscillator"] = f"{platform.default_clk}_0__io"
    lamps = tuple(f"{resource}_{number}__io" for resource, number in board.lamps)
    return Pads(names, lamps)


def gates_library(board: Board, netlist: Netlist) -> str:
    """The compiled model of a netlist that is ready (:meth:`.Netlist.prepare`), or the one in the
    cache."""
    assert board.sdram is not None
    period = 10**12 / board.clock_hz
    access, hold = DATA_NS[board.sdram.cas_latency(board.clock_hz)]
    platform = board.make_platform()
    numbers = {
        "SDRAM_PHASE_PS": round(_phase(board, netlist) / 360 * period),
        "OSCILLATOR_PS": round(10**12 / platform.default_clk_frequency),
        # Pads and lines of both ways are on the way back.
        "DQ_HOLD_PS": round(1000 * (hold + PADS_NS)),
        "DQ_ACCESS_PS": round(1000 * (access + PADS_NS)),
        "DQ_MASK": hex((1 << board.sdram.data_bits) - 1) + "u",
        "ENABLES": hex((1 << len(netlist.ports["enables"]["bits"])) - 1) + "ull",
    }
    lines = [f"#define STILLNET_{name} {value}\n" for name, value in numbers.items()]
    prologue = "".join(lines) + flash_half(board)
    if isinstance(netlist, Unpacked):
        text = unpacked_verilog(netlist)
    else:
        text = netlist_verilog(netlist)
    return str(build_library(text, "gates", HARNESS, headers=MODELS, prologue=prologue))


def _phase(board: Board, netlist: Netlist) -> float:
    """Degrees by which the SDRAM's clock is late: those in the bits, where they are known."""
    known = netlist.phase if isinstance(netlist, Unpacked) else None
    return board.sdram_phase if known is None else known


class GatesBoard(VirtualBoard):
    """A board in simulation whose FPGA is a netlist.

    Parameters
    ----------
    target : Board
    netlist : Netlist
        As the tools wrote it, or made ready.
    """

    startup_us = None

    def __init__(self, target: Board, netlist: Netlist, **options: Any) -> None:
        if "enables" not in netlist.ports:
            netlist.prepare(pads(target))
        self.netlist = netlist
        super().__init__(target, serial=True, **options)
        self.name = f"the gates of the {target.title}"

    def _build(self) -> ctypes.CDLL:
        return ctypes.CDLL(gates_library(self.target, self.netlist))

    def fill(self, data: bytes, address: int = 0) -> None:
        """Bytes into the SDRAM, as if they had been written long ago.

        Parameters
        ----------
        data : bytes
        address : int
            In bytes.
        """
        part = self.target.sdram
        assert part is not None
        size = part.data_bits // 8
        data += bytes(-len(data) % size)
        items = np.frombuffer(data, f"<u{size}").astype(np.uint32)
        self._library.board_fill(
            self._handle,
            ctypes.c_uint64(address // size),
            items.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32)),
            ctypes.c_uint64(len(items)),
        )
