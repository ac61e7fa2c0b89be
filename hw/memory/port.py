"""The port through which the engine sees its weight memory, whatever that memory is."""

from typing import Any

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "LENGTH_BITS",
    "MemoryPortSignature",
    "check_width",
    "read_request_layout",
    "write_request_layout",
]

LENGTH_BITS = 16
"""Of a read's length, in every engine: a column has fewer words."""


def check_width(what: str, value: Any) -> int:
    """Return ``value`` if it can be the width of a signal, or say that ``what`` cannot.

    Raises
    ------
    :exc:`TypeError`
        If ``value`` is not a positive integer.
    """
    if not isinstance(value, int) or value < 1:
        raise TypeError(f"{what} must be a positive integer, not {value!r}")
    return value


def read_request_layout(address_bits: int, length_bits: int = LENGTH_BITS) -> data.StructLayout:
    """The payload of :attr:`MemoryPortSignature.read`: first word, and how many words."""
    return data.StructLayout({"address": address_bits, "length": length_bits})


def write_request_layout(address_bits: int, word_bits: int) -> data.StructLayout:
    """The payload of :attr:`MemoryPortSignature.write`: one word and where it goes."""
    return data.StructLayout({"address": address_bits, "data": word_bits})


class MemoryPortSignature(wiring.Signature):
    """The engine's memory port: burst reads, and single writes that load the memory.

    Directions are those of the engine, which makes the requests; a memory adapter has this
    interface as ``In``. Addresses count words of ``word_bits``.

    *Throughput.* If the memory is fast enough, requests that follow each other without a gap, also
    requests for one word, are answered with one word per cycle. An adapter accepts requests while
    it answers older ones; the number of these is a parameter of the adapter.

    *Order.* Words come in the order of the requests and are contiguous for each request. A read
    returns what a write left there if the write was accepted and ``write_idle`` was high again
    before the read was offered. Between reads and writes that overlap there is no order.

    *Limits.* A request must not run past the last word of the address space. A request for no
    words is accepted and answered with none.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of a word address.
    word_bits : :class:`int`
        Width of a word.
    length_bits : :class:`int`
        Width of the length of a read, in words: a request asks for at most
        :py:`2 ** length_bits - 1`.

    Members
    -------
    read : :py:`Out(stream.Signature(read_request_layout(address_bits, length_bits)))`
        Reads: ``address`` of the first word, ``length`` in words.
    data : :py:`In(stream.Signature(word_bits))`
        Words read. ``ready`` may stay low as long as the engine likes.
    write : :py:`Out(stream.Signature(write_request_layout(address_bits, word_bits)))`
        Writes of one word: ``address`` and ``data``.
    write_idle : :py:`In(1)`
        High when every write that was accepted in an earlier cycle is done.
    error : :py:`In(1)`
        The memory has answered with an error, or was asked for a word that it does not have. Stays
        high until reset. It rises no later than the word that it spoils is offered.
    """

    def __init__(self, address_bits: int, word_bits: int, length_bits: int = LENGTH_BITS):
        self._address_bits = check_width("Memory port address width", address_bits)
        self._word_bits = check_width("Memory port word width", word_bits)
        self._length_bits = check_width("Memory port length width", length_bits)
        super().__init__(
            {
                "read": Out(stream.Signature(read_request_layout(address_bits, length_bits))),
                "data": In(stream.Signature(word_bits)),
                "write": Out(stream.Signature(write_request_layout(address_bits, word_bits))),
                "write_idle": In(1),
                "error": In(1),
            }
        )

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def word_bits(self) -> int:
        return self._word_bits

    @property
    def length_bits(self) -> int:
        return self._length_bits

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MemoryPortSignature)
            and self.address_bits == other.address_bits
            and self.word_bits == other.word_bits
            and self.length_bits == other.length_bits
        )

    def __repr__(self) -> str:
        return f"MemoryPortSignature({self.address_bits}, {self.word_bits}, {self.length_bits})"
