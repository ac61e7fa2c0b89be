"""The pins of an SDR SDRAM, and the commands on them."""

from enum import IntEnum

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .parts import SdramPart

__all__ = ["ALL_BANKS", "BURST", "SdramCommand", "SdramPinsSignature", "mode_register"]

ALL_BANKS = 10
"""The address pin that makes PRECHARGE close all banks."""

BURST = 8
"""Columns of a READ. A READ between these borders wraps; no more than up to the border is used."""


class SdramCommand(IntEnum):
    """Commands, the bits of ``Cat(we, cas, ras)`` with all three active high."""

    NOP = 0b000
    WRITE = 0b011
    READ = 0b010
    ACTIVATE = 0b100
    PRECHARGE = 0b101
    REFRESH = 0b110
    LOAD_MODE = 0b111


def mode_register(cas_latency: int) -> int:
    """What LOAD MODE puts on the address pins: sequential bursts of 8 for READ, single WRITE.

    A WRITE of one column needs no byte mask to end it, which not every board connects. A READ of
    eight leaves seven of eight command slots to ACTIVATE and PRECHARGE of other banks.
    """
    return (1 << 9) | (cas_latency << 4) | 0b011


class SdramPinsSignature(wiring.Signature):
    """Pins of an SDR SDRAM without its clock, seen from the controller.

    ``cs``, ``ras``, ``cas`` and ``we`` are active **high**; a board inverts them at the pin, as the
    board files of Amaranth do. When there is no command, all four are low, so that a board may tie
    chip select to active: what is left is a NOP.

    Parameters
    ----------
    part : :class:`SdramPart`

    Members
    -------
    cke : :py:`Out(1)`
        Clock enable, high from the first edge of the clock on, also in reset; low in power-down,
        which a controller must not have where a board has no such pin. Leave it open there.
    cs, ras, cas, we : :py:`Out(1)`
        The command.
    ba : :py:`Out(part.bank_bits)`
    a : :py:`Out(part.address_pins)`
    dqm : :py:`Out(part.data_bits // 8)`
        Byte mask: high during power-up, low afterwards.
    dq_o : :py:`Out(part.data_bits)`
    dq_oe : :py:`Out(1)`
    dq_i : :py:`In(part.data_bits)`
    """

    def __init__(self, part: SdramPart):
        self._part = part
        super().__init__(
            {
                "cke": Out(1),
                "cs": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out(part.bank_bits),
                "a": Out(part.address_pins),
                "dqm": Out(part.data_bits // 8),
                "dq_o": Out(part.data_bits),
                "dq_oe": Out(1),
                "dq_i": In(part.data_bits),
            }
        )

    @property
    def part(self) -> SdramPart:
        return self._part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SdramPinsSignature) and self.part == other.part

    def __repr__(self) -> str:
        return f"SdramPinsSignature({self.part.name})"
