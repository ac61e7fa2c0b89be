"""Commands to a board and their replies over a byte stream that may lose or change bytes.

The board carries out each numbered command once, in order. This side keeps what is unanswered and
repeats it from where the board says that something is missing (go-back-N); a lost reply is asked
for again, and the board repeats it without doing anything twice.
"""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import (
    HEADER_BYTES,
    NOTICE,
    REPLY,
    SEQUENCES,
    VERSION,
    Cause,
    Command,
    Frame,
    FrameDecoder,
    Identity,
    Outcome,
    encode,
)

from .transport import Transport

__all__ = ["ConnectionLost", "RefusedCommand", "Session"]


class ConnectionLost(StillnetError):
    """The board did not answer in time, or not as a board that knows of this session."""


class RefusedCommand(StillnetError):
    """The board answered that it did not carry out a command.

    Attributes
    ----------
    outcome : Outcome
    """

    def __init__(self, outcome: int) -> None:
        self.outcome = outcome
        super().__init__(
            {
                Outcome.NOT_LOADED: "the board has no verified image loaded; load one",
                Outcome.NO_BASE: "the board has lost the vector that changes are of; connect again",
                Outcome.UNKNOWN: "the board does not know this command; build and flash its "
                "bitstream again with this version of stillnet",
            }.get(outcome, f"the board refused a command (outcome {outcome}); load the image again")  # type: ignore[call-overload]
        )


@dataclass
class _Unanswered:
    sequence: int
    kind: int
    data: bytes
    receive_bytes: int
    reply_bytes: int
    place: int  # of its latest transmission, among all that was sent


class Session:
    """A conversation with one board.

    Parameters
    ----------
    transport : Transport
    retry : float
        Seconds of silence after which the board is asked where it is.
    timeout : float
        Seconds without an answer to a command after which the connection counts as lost.

    Attributes
    ----------
    identity : Identity
        After :meth:`connect`.
    repeated : int
        Commands that were sent again.
    resumed : int
        Times that the board was asked to send replies again.
    sent_bytes, received_bytes : int
        On the line, to the board and from it, of established sessions.
    """

    def __init__(self, transport: Transport, *, retry: float = 0.25, timeout: float = 10.0) -> None:
        self.transport = transport
        self.retry, self.timeout = retry, timeout
        self.identity: Identity
        self.repeated = self.resumed = 0
        self.sent_bytes = self.received_bytes = 0
        self._damaged = 0  # by earlier decoders
        self.connected = False
        self._decoder = FrameDecoder()
        self._unanswered: deque[_Unanswered] = deque()
        self._replies: deque[tuple[int, bytes]] = deque()
        self._next = 0
        self._receive_bytes = self._reply_bytes = 0
        # When something came, or was asked for; when a frame came; when an answer came; and when
        # this side was last waiting.
        self._heard = self._framed = self._progress = self._waited = 0.0
        self._alive = False  # a notice came since the last answer
        self._repeated_from: int | None = None
        self._resumed_from: int | None = None
        # Questions that are not answered: place by number. A slow line may carry many at a time.
        self._asked: dict[int, int] = {}
        self._question = 0
        self._place = 0
        self._wait = retry

    # -- beginning --------------------------------------------------------------------------------

    def connect(self) -> Identity:
        """Begins a session, whatever was before it. The state of the engine stays as it is.

        An engine that hangs is reset; its image is then gone.

        Raises
        ------
        ConnectionLost
            Where nothing answers.
        """
        self.connected = False
        begin = self.transport.now()
        hello = Frame(Command.HELLO, secrets.randbelow(SEQUENCES))
        self._damaged += self._decoder.damaged
        self._decoder = FrameDecoder()
        self._unanswered.clear()
        self._replies.clear()
        self._receive_bytes = self._reply_bytes = 0
        self._asked.clear()
        alive = reset = False
        while self.transport.now() - begin < self.timeout:
            self.transport.write(encode(hello))
            asked = self.transport.now()
            while (left := asked + self.retry - self.transport.now()) > 0:
                for frame in self._decoder.feed(self.transport.read(left)):
                    alive |= frame.kind == NOTICE
                    if frame.kind == Command.HELLO | REPLY and frame.sequence == hello.sequence:
                        self._next = (hello.sequence + 1) % SEQUENCES
                        self.identity = Identity.unpack(frame.payload[:-1])
                        self._begin_waiting()
                        self.connected = True
                        return self.identity
                self._check_version()
            # Something is there, but does not come to the greeting: the engine must be stuck.
            stuck = self.transport.now() - begin > self.timeout / 2
            if alive and stuck and not reset:
                reset = True
                self.transport.write(encode(Frame(Command.RESET, hello.sequence)))
            else:
                self.transport.write(encode(Frame(Command.RESUME, hello.sequence, b"\0")))
        raise ConnectionLost(
            f"nothing that speaks stillnet's protocol answers on {self.transport.name}; check the "
            "cable, the board's power and bitstream, and that the rate of the port is the board's"
        )

    def reset(self) -> Identity:
        """Resets the engine, which forgets its image, and begins a session anew."""
        self.transport.write(encode(Frame(Command.RESET, 0)))
        return self.connect()

    def _check_version(self) -> None:
        other = self._decoder.other_version
        if other is not None:
            self.connected = False
            raise ConnectionLost(
                f"the board speaks version {other} of the protocol, this stillnet version "
                f"{VERSION}; build and flash its bitstream again with this version"
            )

    # -- commands ---------------------------------------------------------------------------------

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong on the line and was repaired: commands that were sent again, questions
        for what did not come, frames that came damaged."""
        damaged = self._damaged + self._decoder.damaged
        return {"repeated": self.repeated, "resumed": self.resumed, "damaged": damaged}

    @property
    def moved(self) -> dict[str, int]:
        """Bytes on the line, to the board (``sent``) and from it (``received``)."""
        return {"sent": self.sent_bytes, "received": self.received_bytes}

    @property
    def unanswered(self) -> int:
        """Commands whose replies have not been taken with :meth:`receive`."""
        return len(self._unanswered) + len(self._replies)

    @property
    def free(self) -> int:
        """Bytes of payload that the next command may have; its reply is short."""
        if not self.room(0, 8):
            return 0
        return self.identity.receive_bytes - self._receive_bytes - HEADER_BYTES

    def room(self, payload: int, reply: int) -> bool:
        """Whether a command may be sent now.

        Parameters
        ----------
        payload, reply : int
            Bytes of the command's payload and of the reply's data.
        """
        return (
            len(self._unanswered) < self.identity.window
            and self._receive_bytes + HEADER_BYTES + payload <= self.identity.receive_bytes
            and self._reply_bytes + HEADER_BYTES + reply + 1 <= self.identity.reply_bytes
        )

    def send(self, kind: Command, payload: bytes, reply: int = 0) -> None:
        """Sends a command as soon as the board has room for it and for its reply.

        Parameters
        ----------
        kind : Command
        payload : bytes
        reply : int
            Bytes of data in the reply.
        """
        if not self.connected:
            raise ConnectionLost(f"the connection to {self.transport.name} was lost; connect again")
        for what, size, limit in (
            ("command", HEADER_BYTES + len(payload), self.identity.receive_bytes),
            ("reply", HEADER_BYTES + reply + 1, self.identity.reply_bytes),
        ):
            if size > limit:
                raise StillnetError(
                    f"a {what} of {size} bytes does not fit the board's buffer of {limit}; build "
                    f"its bitstream with a larger {what} buffer"
                )
        while not self.room(len(payload), reply):
            self._pump()
        if not self._unanswered:
            self._begin_waiting()
        command = _Unanswered(
            self._next,
            kind,
            encode(Frame(kind, self._next, payload)),
            HEADER_BYTES + len(payload),
            HEADER_BYTES + reply + 1,
            self._place,
        )
        self._place += 1
        self._next = (self._next + 1) % SEQUENCES
        self._unanswered.append(command)
        self._receive_bytes += command.receive_bytes
        self._reply_bytes += command.reply_bytes
        self._write(command.data)

    def receive(self) -> bytes:
        """Data of the reply to the oldest command that is not yet received.

        Raises
        ------
        RefusedCommand
            Where the board did not carry it out.
        ConnectionLost
        """
        while not self._replies:
            assert self._unanswered, "no command is unanswered"
            self._pump()
        outcome, data = self._replies.popleft()
        if outcome != Outcome.OK:
            raise RefusedCommand(outcome)
        return data

    def call(self, kind: Command, payload: bytes, reply: int = 0) -> bytes:
        """A command and the data of its reply."""
        assert not self.unanswered, "replies are waiting to be received"
        self.send(kind, payload, reply)
        data = self.receive()
        if len(data) != reply:
            self.connected = False
            raise ConnectionLost(
                f"the board answered with {len(data)} bytes where {reply} were expected; build and "
                "flash its bitstream again with this version"
            )
        return data

    def drain(self) -> None:
        """Takes all replies that are still to come, and forgets them."""
        while self._unanswered:
            self._pump()
        self._replies.clear()

    # -- what comes -------------------------------------------------------------------------------

    def _begin_waiting(self) -> None:
        self._heard = self._framed = self._progress = self._waited = self.transport.now()
        self._alive = False
        self._repeated_from = self._resumed_from = None
        self._wait = self.retry

    def _write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        try:
            self.transport.write(data)
        except StillnetError:
            self.connected = False
            raise

    def _pump(self) -> None:
        """Waits for bytes, and deals with them or with their absence."""
        now = self.transport.now()
        if now - self._waited > self._wait:  # the program did something else meanwhile
            self._heard = self._framed = self._progress = now
        damaged = self._decoder.damaged
        wait = max(0.0, self._heard + self._wait - now)
        try:
            data = self.transport.read(wait)
        except StillnetError:
            self.connected = False
            raise
        if data:
            self._heard = self.transport.now()
            self.received_bytes += len(data)
        for frame in self._decoder.feed(data):
            self._framed = self._heard
            self._take(frame)
        self._check_version()
        now = self._waited = self.transport.now()
        if not self._unanswered:
            return
        oldest = self._unanswered[0].sequence
        if self._decoder.damaged != damaged and self._resumed_from != oldest:
            self._resume(oldest)
        if now - self._progress > self.timeout:
            self.connected = False
            self._fail()
        # Silence; or noise that never ends.
        if now - self._heard >= self._wait or now - self._framed >= 8 * self.retry:
            self._heard = self._framed = now
            self._wait = min(2 * self._wait, 4 * self.retry)
            self._repeated_from = None
            self._resume(oldest)

    def _resume(self, oldest: int) -> None:
        self.resumed += 1
        self._resumed_from = oldest
        self._question = (self._question + 1) % 256
        self._asked[self._question] = self._place
        self._place += 1
        self._write(encode(Frame(Command.RESUME, oldest, bytes([self._question]))))

    def _fail(self) -> None:
        what = Command(self._unanswered[0].kind).name
        if self._alive:
            raise ConnectionLost(
                f"the board is there but has not finished a command ({what}) in {self.timeout:g} "
                "seconds; connect again, which resets an engine that hangs, and load the image"
            )
        raise ConnectionLost(
            f"the board on {self.transport.name} stopped answering ({self.timeout:g} seconds); "
            "check cable and power, and connect again"
        )

    def _take(self, frame: Frame) -> None:
        if frame.kind == NOTICE:
            self._notice(frame)
            return
        if not self._unanswered:
            return
        oldest = self._unanswered[0]
        if frame.sequence != oldest.sequence or frame.kind != oldest.kind | REPLY:
            return  # repeated, or of another session
        if not frame.payload:
            return  # no outcome: not of this protocol
        self._unanswered.popleft()
        self._receive_bytes -= oldest.receive_bytes
        self._reply_bytes -= oldest.reply_bytes
        self._replies.append((frame.payload[-1], frame.payload[:-1]))
        self._begin_waiting()

    def _notice(self, frame: Frame) -> None:
        if len(frame.payload) != 2:
            return
        causes, question = Cause(frame.payload[0]), frame.payload[1]
        self._alive = True
        asked = self._asked.pop(question, None) if Cause.RESUME in causes else None
        if not self._unanswered:
            return
        expected, oldest = frame.sequence, self._unanswered[0].sequence
        accepted = (expected - oldest) % SEQUENCES
        if accepted > len(self._unanswered):
            # Of the past: an answer has overtaken it. But an answer to our question is never old.
            if Cause.RESUME in causes and self._resumed_from == oldest:
                self.connected = False
                raise ConnectionLost(
                    f"the board on {self.transport.name} was restarted; connect again and load the "
                    "image"
                )
            return
        missing = list(self._unanswered)[accepted:]
        if not missing:
            return
        if asked is not None:
            # Of what was sent before the question, all that has not arrived is lost.
            if missing[0].place > asked:
                return
        elif self._repeated_from == expected:
            return  # frames behind the one that was lost; all of them are on their way again
        self._repeated_from = expected
        self.repeated += len(missing)
        for command in missing:
            command.place = self._place
            self._place += 1
        self._write(b"".join(command.data for command in missing))
