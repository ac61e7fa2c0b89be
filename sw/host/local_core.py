"""A core in the same system, for the driver of boards: the host link carried out on registers.

The driver (:class:`~stillnet.sw.host.driver.Engine`) speaks the protocol of ``docs/link.md``. Here
is the other end of it in software: commands become accesses to the registers of a core whose
streams are registers (``stillnet generate --streams registers``). Nothing is lost on this way, so
nothing is ever repeated.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stillnet.sw.contract import image, link
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.link import Cause, Command, Frame, FrameDecoder, Identity, Outcome
from stillnet.sw.contract.registers import Control, Register, Status
from stillnet.sw.contract.window import Interrupt, StreamRegister

__all__ = ["CoreTransport", "Registers"]

WINDOW = 16
BUFFER_BYTES = 1 << 16
"""What the driver may have on its way, as a board would have room for it."""
PAUSE = 0.0002
"""Seconds between two looks at a core that has no interrupt."""
SETTLE = 1.0
"""Seconds for a core to finish what is in it when a session begins. A vector that was cut off never
ends."""
_MASK = (1 << ACTIVATION_BITS) - 1


class Registers(Protocol):
    """Access to the registers of a core."""

    def read32(self, index: int) -> int:
        """Reads the register with an index; the byte address is four times that."""

    def write32(self, index: int, value: int) -> None:
        """Writes it."""


@dataclass
class _Unanswered:
    """A command that has no reply yet."""

    kind: int
    sequence: int
    payload: bytes
    elements: deque[int]  # for the input stream, that are still to go
    fed: bool  # all of them are gone
    refused: bool = False


class CoreTransport:
    """A :class:`~stillnet.sw.host.driver.transport.Transport` to a core on this system's bus.

    Parameters
    ----------
    registers : Registers
    config : EngineConfig
        The one that the core was generated from.
    name : str
        For messages.
    clock_hz : int
        Of the core; 0 where it is not known.
    wait : callable, optional
        Waits for the core's interrupt, at most for so many seconds.
    reset : callable, optional
        Resets the core.
    now : callable
        A clock in seconds.

    Raises
    ------
    StillnetError
        Where there is no core, or another one.
    """

    def __init__(
        self,
        registers: Registers,
        config: EngineConfig,
        *,
        name: str = "core",
        clock_hz: int = 0,
        wait: Callable[[float], None] | None = None,
        reset: Callable[[], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.config = name, config
        self._registers, self._clock_hz = registers, clock_hz
        self._wait, self._reset, self._now = wait, reset, now
        self._decoder = FrameDecoder()
        self._commands: deque[_Unanswered] = deque()
        self._replies = bytearray()
        self._expected = 0
        self._output = bytearray()  # of a step, as far as it has come
        self._torn = False  # memory was written since an image was verified
        self._check()

    def _check(self) -> None:
        magic = self._registers.read32(Register.ID)
        if magic != image.MAGIC:
            raise StillnetError(
                f"{self.name} says {magic:#010x} in register 0, a stillnet core says "
                f"{image.MAGIC:#010x}; check the address, and that the bitstream is loaded"
            )
        found = self._registers.read32(Register.FINGERPRINT)
        if found != self.config.fingerprint:
            raise StillnetError(
                f"the core at {self.name} has fingerprint {found:08x}, configuration "
                f"'{self.config.name}' {self.config.fingerprint:08x}; give the configuration that "
                "'stillnet generate' has written beside the core"
            )

    # -- the transport ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See :class:`~stillnet.sw.host.driver.transport.Transport`."""
        for frame in self._decoder.feed(data):
            self._accept(frame)
        self._work()

    def read(self, timeout: float) -> bytes:
        """See :class:`~stillnet.sw.host.driver.transport.Transport`."""
        end = self._now() + timeout
        while not self._replies:
            if self._work():
                continue
            left = end - self._now()
            if left <= 0 or not self._commands:
                break
            self._pause(left)
        data = bytes(self._replies)
        self._replies.clear()
        return data

    def now(self) -> float:
        """See :class:`~stillnet.sw.host.driver.transport.Transport`."""
        return self._now()

    def close(self) -> None:
        """See :class:`~stillnet.sw.host.driver.transport.Transport`."""

    def _pause(self, left: float) -> None:
        """Until the core has something, or takes something."""
        if self._wait is None:
            time.sleep(min(left, PAUSE))
            return
        causes = Interrupt.OUTPUT
        if not all(command.fed for command in self._commands):
            causes |= Interrupt.INPUT
        self._registers.write32(StreamRegister.INTERRUPTS, causes)
        self._wait(left)
        self._registers.write32(StreamRegister.INTERRUPTS, 0)

    # -- the other end of the link ----------------------------------------------------------------

    def _accept(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == Command.RESUME:
            self._notice(Cause.RESUME, frame.payload[0] if frame.payload else 0)
        elif kind == Command.RESET:
            self._reset_core()
            self._notice(Cause.RESET, 0)
        elif kind == Command.HELLO or frame.sequence == self._expected:
            self._expected = (frame.sequence + 1) % link.SEQUENCES
            streams = kind in (Command.STEP, Command.FEED)
            elements = deque(
                struct.unpack(f"<{len(frame.payload) // 2}h", frame.payload) if streams else ()
            )
            self._commands.append(
                _Unanswered(kind, frame.sequence, frame.payload, elements, not streams)
            )

    def _reset_core(self) -> None:
        if self._reset is None:
            raise StillnetError(
                f"the core at {self.name} does not finish, and nothing here can reset it; load the "
                "bitstream again, or pulse the core's reset"
            )
        self._reset()
        self._commands.clear()
        self._replies.clear()
        self._output.clear()

    def _notice(self, cause: Cause, question: int) -> None:
        payload = bytes([cause, question])
        self._replies += link.encode(Frame(link.NOTICE, self._expected, payload))

    def _answer(self, data: bytes, outcome: int = Outcome.OK) -> None:
        """The reply to the oldest command."""
        command = self._commands.popleft()
        frame = Frame(command.kind | link.REPLY, command.sequence, data + bytes([outcome]))
        self._replies += link.encode(frame)

    def _work(self) -> bool:
        """Goes on with what can go on; whether anything has."""
        moved = self._feed()
        if not self._commands:
            return moved
        front = self._commands[0]
        if front.kind == Command.STEP:
            return self._take(front) or moved
        if front.kind == Command.FEED:
            if not front.fed:
                return moved
            self._answer(b"", Outcome.NOT_LOADED if front.refused else Outcome.OK)
        elif front.kind == Command.ACCESS:
            self._answer(*self._access(front.payload))
        elif front.kind == Command.HELLO:
            self._take_rest()
            self._answer(self._identity().pack())
        else:
            self._answer(b"", Outcome.UNKNOWN)
        return True

    def _identity(self) -> Identity:
        return Identity(
            config=self.config,
            board=self.name,
            clock_hz=self._clock_hz,
            window=WINDOW,
            receive_bytes=BUFFER_BYTES,
            reply_bytes=BUFFER_BYTES,
            fingerprint=self._registers.read32(Register.FINGERPRINT),
            image_version=self._registers.read32(Register.VERSION),
        )

    # -- streams ----------------------------------------------------------------------------------

    def _feed(self) -> bool:
        """Elements to the core: steps go ahead of outputs, all else waits for its turn."""
        moved = False
        for place, command in enumerate(self._commands):
            if command.fed:
                if command.kind != Command.STEP:
                    break
                continue
            if command.kind != Command.STEP and place:
                break
            if not self._loaded():
                command.refused = command.fed = True
                command.elements.clear()
                return True
            room = self._registers.read32(StreamRegister.QUEUES) & 0xFFFF
            while room and command.elements:
                self._put(command.elements, room)
                room = max(0, room - 2)
                moved = True
            if command.elements:
                break
            command.fed = moved = True
        return moved

    def _put(self, elements: deque[int], room: int) -> None:
        first = elements.popleft() & _MASK
        if room >= 2 and elements:
            pair = first | (elements.popleft() & _MASK) << ACTIVATION_BITS
            self._registers.write32(StreamRegister.PAIR, pair)
        else:
            self._registers.write32(StreamRegister.ELEMENT, first)

    def _take(self, step: _Unanswered) -> bool:
        """Elements of the output of the oldest step."""
        if step.refused:
            self._answer(b"", Outcome.NOT_LOADED)
            return True
        there = self._registers.read32(StreamRegister.QUEUES) >> 16
        for _ in range(there):
            value = self._registers.read32(StreamRegister.ELEMENT)
            self._output += (value & _MASK).to_bytes(2, "little")
            if value >> ACTIVATION_BITS & 1:
                self._answer(bytes(self._output))
                self._output.clear()
                break
        return bool(there)

    def _take_rest(self) -> None:
        """Lets the core finish what another program has left, and takes its outputs away."""
        end = self._now() + SETTLE
        while True:
            status = self._registers.read32(Register.STATUS)
            idle = status & Status.IDLE or not status & Status.LOADED
            empty = self._registers.read32(StreamRegister.INTERRUPTS) & Interrupt.INPUT
            if self._registers.read32(StreamRegister.QUEUES) >> 16:
                self._registers.read32(StreamRegister.PAIR)
            elif (idle and empty) or self._now() >= end:
                break
        self._output.clear()

    def _loaded(self) -> bool:
        return not self._torn and bool(self._registers.read32(Register.STATUS) & Status.LOADED)

    # -- registers --------------------------------------------------------------------------------

    def _access(self, payload: bytes) -> tuple[bytes, int]:
        """Carries out a list of operations; the values read, and the outcome."""
        found = bytearray()
        registers = self._registers
        try:
            for operation in link.operations(payload):
                index, size = operation.register, 2 if operation.half else 4
                if operation.values is None:
                    for _ in range(operation.count):
                        value = registers.read32(index)
                        found += value.to_bytes(4, "little")[:size]
                    continue
                self._guard(index, operation.values)
                for value in operation.values:
                    registers.write32(index, value)
        except ValueError:
            return bytes(found), Outcome.CUT
        return bytes(found), Outcome.OK

    def _guard(self, index: int, values: tuple[int, ...]) -> None:
        """Memory that is written makes the image unknown until it has been verified."""
        verified = Control.LOAD | Control.VERIFY
        if index == Register.MEMORY_DATA:
            self._torn = True
        elif index == Register.CONTROL and any(v & verified == verified for v in values):
            self._torn = False
