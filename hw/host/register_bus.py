"""The bus on which a host reaches the engine's registers, whatever its own bus is."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from stillnet.hw.memory.port import check_width

__all__ = ["RegisterBusSignature"]


class RegisterBusSignature(wiring.Signature):
    """A bus of 32-bit registers, one request at a time.

    Directions are those of the side that makes the requests (a bus adapter, a protocol handler); a
    register file has this interface as ``In``.

    A request is one cycle of ``write_strobe`` or ``read_strobe``, never both. It is answered by one
    cycle of ``ack``, one cycle after the strobe at the earliest and as late as the register file
    likes. The next strobe comes after the ``ack``. ``address`` and ``write_data`` hold their values
    from the strobe to the ``ack``; ``read_data`` counts only with the ``ack`` of a read. A register
    file answers every request, also one for an address where it has no register.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of the address, which counts registers and not bytes.

    Members
    -------
    address : :py:`Out(address_bits)`
        Index of the register.
    write_strobe : :py:`Out(1)`
        The register is to take ``write_data``.
    write_data : :py:`Out(32)`
        Value to be written.
    read_strobe : :py:`Out(1)`
        The register is to be read.
    ack : :py:`In(1)`
        The request is done.
    read_data : :py:`In(32)`
        Value read.
    """

    def __init__(self, address_bits: int):
        self._address_bits = check_width("Register bus address width", address_bits)
        super().__init__(
            {
                "address": Out(address_bits),
                "write_strobe": Out(1),
                "write_data": Out(32),
                "read_strobe": Out(1),
                "ack": In(1),
                "read_data": In(32),
            }
        )

    @property
    def address_bits(self) -> int:
        return self._address_bits

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RegisterBusSignature) and self.address_bits == other.address_bits

    def __repr__(self) -> str:
        return f"RegisterBusSignature({self.address_bits})"
