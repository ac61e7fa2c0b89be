"""The host link: frames, commands and replies on a byte stream. Explained in ``docs/link.md``.

A frame on the wire, framed as in HDLC (the flag never occurs inside, so that a receiver which lost
its place finds the next frame by itself)::

    FLAG  version << 4 | kind   sequence   payload ...   CRC-32, low byte first   FLAG

Between the flags, a byte that is ``FLAG`` or ``ESCAPE`` is sent as ``ESCAPE`` and the byte with bit
5 turned over. The CRC (that of zlib) is over everything in front of it, before escaping.

The host numbers its commands; the board carries each out once, in order, and answers each with one
reply of the same number. What is lost is repeated from that number on.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from .config import EngineConfig
from .errors import StillnetError
from .registers import ADDRESS_BITS, Control, Register

__all__ = [
    "ESCAPE",
    "FLAG",
    "FLIP",
    "HEADER_BYTES",
    "NOTICE",
    "OVERHEAD_BYTES",
    "REPLY",
    "RUN_LENGTH",
    "SEQUENCES",
    "TRAILER_BYTES",
    "VERSION",
    "Cause",
    "Command",
    "Frame",
    "FrameDecoder",
    "Identity",
    "Operation",
    "Outcome",
    "check",
    "clear",
    "clear_counters",
    "encode",
    "load_block",
    "operations",
    "read",
    "read_state",
    "restore",
    "set_threshold",
    "start",
    "steps_per_second",
    "switch",
    "watchdog",
    "write",
    "write_state",
]

VERSION = 1
FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
HEADER_BYTES = 2
TRAILER_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + TRAILER_BYTES + 2
"""Bytes of a frame besides its payload, escapes not counted."""
SEQUENCES = 256
REPLY = 8
"""Added to the kind of a command for that of its reply."""
NOTICE = 15
"""Kind of a frame that answers no command: says which command the board expects next (its
``sequence``), why it says so (:class:`Cause`, one byte), and the number of the latest question."""
RUN_LENGTH = 256
"""Most accesses of one operation."""

assert ADDRESS_BITS == 6, "an operation's first byte has six bits for the register"


class Command(IntEnum):
    """Kinds of frames from the host. All but two are queued, done once, and answered."""

    HELLO = 0
    """Begins a session: commands count on from this one. Reply: :class:`Identity`."""
    ACCESS = 1
    """A list of register operations (:func:`write`, :func:`read`). Reply: the values read."""
    STEP = 2
    """One input vector, 16-bit elements. Reply: the output vector, 16-bit elements."""
    FEED = 3
    """Elements for the engine's input stream that bring no output vector (restoring state)."""
    RESUME = 4
    """Not queued. "My next reply is number ``sequence``": the board repeats from there what it has
    answered already, and sends a notice. The payload, one byte, is the number of the question."""
    RESET = 5
    """Not queued. Resets the engine, forgets all commands and replies, sends a notice. A HELLO must
    follow."""
    CHANGE = 6
    """One input vector as the changes from the one before (``contract.vectors.changes``): the form
    byte, then the list. Reply: the output vector as its changes, in the same way. Only where the
    board has it (``Identity.changes``), and after a STEP of this session."""


class Outcome(IntEnum):
    """Last byte of every reply."""

    OK = 0
    NOT_LOADED = 1
    """No verified image is loaded; the vector was dropped. Also of vectors that were in the engine
    when the watchdog reset it (slots); in front of the outcome may be a part of an output then."""
    UNKNOWN = 2
    """The board does not know this kind of command."""
    CUT = 3
    """The list of operations ended within one; those before it were done."""
    NO_BASE = 4
    """The board has no whole vector of this session that changes could be of; they were dropped."""


class Cause(IntFlag):
    """Why the board sends a notice."""

    RESUME = 1
    """It was asked."""
    RESET = 2
    """It was reset."""
    CHECK = 4
    """A frame was damaged, cut off or too short; it was dropped."""
    VERSION = 8
    """A frame has another protocol version; it was dropped."""
    GAP = 16
    """A command came before its predecessor; it was dropped."""
    FULL = 32
    """A command did not fit the receive buffer; it was dropped."""
    LINE = 64
    """The receiver of the serial line reported a wrong stop bit, or a break."""


# -- throughput -----------------------------------------------------------------------------------

BITS_PER_BYTE = 10
"""On a serial line: start bit, eight bits, stop bit."""


def steps_per_second(inputs: int, outputs: int, baud: int) -> float:
    """Steps that a serial link carries, both ways at a time, with full frames.

    Parameters
    ----------
    inputs, outputs : int
        Elements of a vector each way; two bytes each. One byte of 128 is escaped, on the mean.
    baud : int
    """
    longest = max(2 * inputs, 2 * outputs + 1) + OVERHEAD_BYTES
    return baud / (BITS_PER_BYTE * longest * (1 + 2 / 256))


# -- frames ---------------------------------------------------------------------------------------

_FLAG, _ESCAPE = bytes([FLAG]), bytes([ESCAPE])
_ESCAPED_FLAG, _ESCAPED_ESCAPE = bytes([ESCAPE, FLAG ^ FLIP]), bytes([ESCAPE, ESCAPE ^ FLIP])


@dataclass(frozen=True)
class Frame:
    """One frame, without version and checksum.

    Attributes
    ----------
    kind : int
        :class:`Command`, plus ``REPLY`` in a reply, or ``NOTICE``.
    sequence : int
        0 to 255.
    payload : bytes
    """

    kind: int
    sequence: int
    payload: bytes = b""


def encode(frame: Frame, *, version: int = VERSION) -> bytes:
    """A frame as it goes over the wire, flags included."""
    body = bytes([version << 4 | frame.kind, frame.sequence]) + frame.payload
    body += zlib.crc32(body).to_bytes(TRAILER_BYTES, "little")
    body = body.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_FLAG, _ESCAPED_FLAG)
    return _FLAG + body + _FLAG


class FrameDecoder:
    """Finds frames in a byte stream, whatever else is in it.

    Parameters
    ----------
    limit : int
        Bytes after which a frame without an end is dropped.

    Attributes
    ----------
    damaged : int
        Frames dropped so far: wrong checksum, wrong escape, too short, too long.
    other_version : int or None
        Version of the last frame that was whole but of another version than ours.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit
        self.damaged = 0
        self.other_version: int | None = None
        self._rest = bytearray()

    def reset(self) -> None:
        """Forgets a frame that has begun."""
        self._rest.clear()

    def feed(self, data: bytes) -> list[Frame]:
        """Takes bytes as they come; returns the frames that end in them, in order."""
        self._rest += data
        if FLAG not in data:
            if len(self._rest) > self.limit:
                self.damaged += 1
                self._rest.clear()
            return []
        *parts, rest = bytes(self._rest).split(_FLAG)
        self._rest = bytearray(rest)
        return [frame for part in parts if (frame := self._decode(part)) is not None]

    def _decode(self, part: bytes) -> Frame | None:
        if not part:  # between two flags
            return None
        body = part.replace(_ESCAPED_FLAG, _FLAG)
        # The flag just put in cannot pair with an escape in front of it: that one would have been
        # part of "escape, escaped escape", which has another second byte.
        if part.count(_ESCAPE) != part.count(_ESCAPED_FLAG) + part.count(_ESCAPED_ESCAPE):
            self.damaged += 1
            return None
        body = body.replace(_ESCAPED_ESCAPE, _ESCAPE)
        if len(body) < HEADER_BYTES + TRAILER_BYTES:
            self.damaged += 1
            return None
        content = body[:-TRAILER_BYTES]
        if zlib.crc32(content) != int.from_bytes(body[-TRAILER_BYTES:], "little"):
            self.damaged += 1
            return None
        if content[0] >> 4 != VERSION:
            self.other_version = content[0] >> 4
            return None
        return Frame(content[0] & 15, content[1], content[HEADER_BYTES:])


# -- operations of an ACCESS ----------------------------------------------------------------------

_WRITE, _HALF = 0x80, 0x40


def _operation(register: int, count: int, flags: int) -> bytes:
    assert 1 <= count <= RUN_LENGTH
    return bytes([flags | register, count % RUN_LENGTH])


def write(register: int, values: bytes | Sequence[int], *, half: bool = False) -> bytes:
    """Operations that write one register several times.

    Parameters
    ----------
    register : Register
    values : sequence of int, or bytes
        Of 32 bits, or of 16 where ``half``; or the same as bytes, low ones first.
    half : bool
        Two bytes a value; the register takes them with zeros above.
    """
    size = 2 if half else 4
    if not isinstance(values, bytes):
        mask = (1 << 8 * size) - 1
        values = b"".join((int(v) & mask).to_bytes(size, "little") for v in values)
    assert values and len(values) % size == 0
    flags = _WRITE | (_HALF if half else 0)
    run = size * RUN_LENGTH
    parts = [values[k : k + run] for k in range(0, len(values), run)]
    return b"".join(_operation(register, len(p) // size, flags) + p for p in parts)


def read(register: int, count: int = 1, *, half: bool = False) -> bytes:
    """Operations that read one register ``count`` times; the reply has 4 (2) bytes for each."""
    runs = [min(RUN_LENGTH, count - k) for k in range(0, count, RUN_LENGTH)]
    return b"".join(_operation(register, n, _HALF if half else 0) for n in runs)


@dataclass(frozen=True)
class Operation:
    """Accesses to one register, as a command lists them.

    Attributes
    ----------
    register : int
    values : tuple of int, or None
        What is written, one after the other; None for a read.
    count : int
        Accesses.
    half : bool
        Values have two bytes.
    """

    register: int
    values: tuple[int, ...] | None
    count: int
    half: bool


def operations(payload: bytes) -> Iterator[Operation]:
    """The operations of a command, in order: what :func:`write` and :func:`read` have put together.

    Raises
    ------
    ValueError
        After the last whole one, where the list ends within one.
    """
    at = 0
    while at < len(payload):
        if at + 2 > len(payload):
            raise ValueError("the list is cut off")
        flags, count = payload[at], payload[at + 1] or RUN_LENGTH
        at += 2
        half = bool(flags & _HALF)
        values = None
        if flags & _WRITE:
            size = count * (2 if half else 4)
            if at + size > len(payload):
                raise ValueError("the list is cut off")
            values = struct.unpack_from(f"<{count}{'H' if half else 'I'}", payload, at)
            at += size
        yield Operation(flags & (_HALF - 1), values, count, half)


def load_block(address: int, data: bytes, word_bytes: int) -> bytes:
    """Writes memory words from a word address on; ``data`` is a whole number of words."""
    return write(Register.MEMORY_ADDRESS, [address]) + write(
        Register.MEMORY_DATA, data, half=word_bytes == 2
    )


def start(base: int) -> bytes:
    """Has the engine verify and load the image at a word address. ``STATUS`` tells the outcome.

    A write to memory makes the board refuse vectors until this command.
    """
    return write(Register.IMAGE_BASE, [base]) + write(
        Register.CONTROL, [Control.LOAD | Control.VERIFY]
    )


def switch(base: int) -> bytes:
    """Has the engine load an image that is whole (``Status.BESIDE``), without a sum over it."""
    return write(Register.IMAGE_BASE, [base]) + write(Register.CONTROL, [Control.LOAD])


def check(base: int | None = None) -> bytes:
    """Sums up the next part of the image beside; the first one where its ``base`` is given."""
    begin = b"" if base is None else write(Register.BESIDE, [base])
    return begin + write(Register.CONTROL, [Control.CHECK])


def watchdog(units: int) -> bytes:
    """Sets the watchdog, in units of 2**16 cycles; 0 ends it, and a refusal after it has struck."""
    return write(Register.WATCHDOG, [units])


def clear() -> bytes:
    """Sets all state to zero and all accumulators to their biases."""
    return write(Register.CONTROL, [Control.CLEAR])


def clear_counters() -> bytes:
    """Sets all counters to zero."""
    return write(Register.CONTROL, [Control.CLEAR_COUNTERS])


def restore(flags: int = 0) -> bytes:
    """The vectors that are fed next set the state (``Control.RESTORE``)."""
    return write(Register.CONTROL, [Control.RESTORE | flags])


def set_threshold(select: int, value: int) -> bytes:
    """Writes a threshold: 0 input, 1 + l layer l, plus 32 for the second one."""
    return write(Register.THRESHOLD_SELECT, [select]) + write(Register.THRESHOLD, [value])


def read_state(region: int, index: int, count: int, *, half: bool = True) -> bytes:
    """Reads elements of a state region; ``half`` for all but accumulators and wide variables."""
    select = write(Register.STATE_SELECT, [region << 28 | index])
    return select + read(Register.STATE_DATA, count, half=half)


def write_state(region: int, index: int, values: Iterable[int], *, half: bool = True) -> bytes:
    """Writes elements of a state region; ``half`` for all but wide variables."""
    select = write(Register.STATE_SELECT, [region << 28 | index])
    return select + write(Register.STATE_DATA, list(values), half=half)


# -- identity -------------------------------------------------------------------------------------

_IDENTITY = struct.Struct("<HBBIIII")


@dataclass(frozen=True)
class Identity:
    """What a board says of itself.

    On the wire: image version 16 bits, word bytes 8, window 8, then 32 bits each: fingerprint,
    clock, receive_bytes, reply_bytes; then JSON: ``{"board": ..., "config": {...}}``, and
    ``"slots": true`` and ``"changes": N`` where the board has that.

    Attributes
    ----------
    config : EngineConfig
        The engine on the board.
    board : str
        Name of the board.
    clock_hz : int
    window : int
        Commands that may be unanswered at a time.
    receive_bytes : int
        Bytes that unanswered commands may have together, each counted with its header.
    reply_bytes : int
        Bytes that the replies to unanswered commands may have together, each counted with its
        header and outcome.
    fingerprint : int
        Of ``config``, as the hardware compares it with an image.
    image_version : int
    slots : bool
        The board keeps an image beside the one that runs (``Register.BESIDE``, ``WATCHDOG``,
        ``Control.CHECK``).
    changes : int
        Most elements that vectors in and out may have to go as changes (``Command.CHANGE``); 0
        where the board does not have that.
    """

    config: EngineConfig
    board: str
    clock_hz: int
    window: int
    receive_bytes: int
    reply_bytes: int
    fingerprint: int
    image_version: int
    slots: bool = False
    changes: int = 0

    def pack(self) -> bytes:
        """As it stands in the reply to HELLO."""
        document: dict[str, Any] = {"board": self.board, "config": self.config.to_dict()}
        if self.slots:
            document["slots"] = True
        if self.changes:
            document["changes"] = self.changes
        text = json.dumps(document, separators=(",", ":"))
        fixed = _IDENTITY.pack(
            self.image_version,
            self.config.word_bytes,
            self.window,
            self.fingerprint,
            self.clock_hz,
            self.receive_bytes,
            self.reply_bytes,
        )
        return fixed + text.encode()

    @classmethod
    def unpack(cls, data: bytes) -> Identity:
        """Reads what :meth:`pack` wrote.

        Raises
        ------
        StillnetError
            For a board whose configuration this version does not know.
        """
        try:
            version, word_bytes, window, fingerprint, clock, receive, reply = _IDENTITY.unpack_from(
                data
            )
            document = json.loads(data[_IDENTITY.size :])
            config = EngineConfig.from_dict(document["config"], complete=True)
            board = str(document["board"])
            slots = bool(document.get("slots", False))
            changes = int(document.get("changes", 0))
        except (struct.error, ValueError, KeyError, TypeError, StillnetError) as error:
            raise StillnetError(
                f"the board describes itself in a way that this stillnet does not know ({error}); "
                "build and flash its bitstream again with this version"
            ) from error
        if config.word_bytes != word_bytes or not window:
            raise StillnetError(
                f"the board says {word_bytes} bytes per word and its configuration "
                f"{config.word_bytes}; build and flash its bitstream again"
            )
        return cls(
            *(config, board, clock, window, receive, reply, fingerprint, version, slots, changes)
        )
