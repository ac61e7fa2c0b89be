"""What the top levels of all boards have in common: system, serial port, lamps."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io

from stillnet.boards.board import Board

from .system import System

__all__ = ["Top", "members"]


class Top(Elaboratable):
    """Base of the top levels.

    Parameters
    ----------
    board : Board
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.config = board.config()

    def add_system(self, m: Module, platform: Any, **options: Any) -> System:
        """The system of the board, with its serial port at the pins.

        Parameters
        ----------
        options
            Further arguments of :class:`System`.
        """
        board = self.board
        m.submodules.system = system = System(
            self.config,
            clock_hz=board.clock_hz,
            baud=board.baud,
            **options,
            **board.system_options(),
        )
        uart = platform.request("uart", dir=members(platform, "uart"))
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.FFBuffer("o", uart.tx)
        m.d.comb += [system.rx.eq(rx.i), tx.o.eq(system.tx)]
        return system

    def add_lamp(self, m: Module, k: int, pin: Any, system: System) -> None:
        """Lamp ``k`` of the system at a pin."""
        m.submodules[f"lamp{k}"] = out = io.Buffer("o", pin)
        m.d.comb += out.o.eq(system.lamps[k])


def members(platform: Any, resource: str) -> dict[str, str]:
    """All members of a resource, as bare ports."""
    return {sub.name: "-" for sub in platform.lookup(resource).ios}
