"""A new image beside the one that runs, and the way back.

The image goes to a part of the board's memory that the running one does not use, in pieces between
the steps. Then the board forms its sum, in parts between the steps too, so that the switch itself
is only a load: tables, hot columns, biases. What ran before stays where it is; to go back is the
same switch again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stillnet.sw.contract import link
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import BITS_PER_BYTE, Command
from stillnet.sw.contract.registers import (
    CHECK_ERROR_AT,
    CHECK_WORDS,
    WATCHDOG_BITS,
    WATCHDOG_SHIFT,
    Register,
    Status,
)
from stillnet.sw.network.checks import state_format
from stillnet.sw.network.network import Network
from stillnet.sw.packing.packer import Image
from stillnet.sw.util.progress import Progress, silent

if TYPE_CHECKING:
    from .driver import Engine

__all__ = ["STATES", "Deployment", "Slots", "layout_difference"]

STATES = ("clear", "carry")
"""What becomes of the state in a switch."""
NOTHING_BEFORE = "there is no image to go back to: nothing was deployed since the board was loaded"
PIECE_BYTES = 1024
"""Of an image, in one command; less where a step leaves less time."""
LEAST_BYTES = 64
OVERHEAD_BYTES = 32
"""More than what stands in a command besides them."""


class Deployment:
    """One image on its way to a board. Another thread may look on.

    Attributes
    ----------
    name : str
        Of the network.
    stage : str
        ``loading``, ``checking``, ``ready``; ``running`` once the board has switched to it;
        ``rolled back``; ``fell back``, by the watchdog; ``failed``.
    reason : str
        Why it failed, or why the board went back.
    sent, size : int
        Bytes.
    base : int
        Word address.
    steps : int
        Steps that the board did meanwhile.
    load_seconds, switch_seconds : float or None
        From the beginning until it was there and checked; from the last output before the switch
        until the board took vectors again.
    done : Event
        It runs, or has failed.
    """

    def __init__(
        self,
        image: Image,
        base: int,
        *,
        state: str,
        watchdog: int,
        share: float,
        progress: Progress,
    ) -> None:
        self.image, self.base = image, base
        self.state, self.watchdog, self.share = state, watchdog, share
        word_bytes = image.config.word_bytes
        data = image.hardware
        self.data = data + bytes(-len(data) % word_bytes)
        self.name, self.size = str(image.notes["name"]), len(self.data)
        self.stage, self.reason = "loading", ""
        self.sent = self.steps = 0
        self.began = time.time()
        self.load_seconds: float | None = None
        self.switch_seconds: float | None = None
        self.done = threading.Event()
        self._progress = progress
        self._start: float | None = None
        self._asked = self._included = False
        self._parts = 0

    @property
    def finished(self) -> bool:
        """It runs, or has failed."""
        return self.done.is_set()

    @property
    def words(self) -> int:
        """Words of the image."""
        return self.size // self.image.config.word_bytes

    def end(self, stage: str, reason: str = "") -> None:
        """The last thing that happens to it, or to the network that it brought."""
        self.stage, self.reason = stage, reason
        self.done.set()

    def report(self) -> dict[str, Any]:
        """As plain values."""
        names = ("name", "stage", "reason", "sent", "size", "base", "steps", "state", "began")
        return {k: getattr(self, k) for k in (*names, "load_seconds", "switch_seconds")}

    # -- commands ---------------------------------------------------------------------------------

    def command(self, room: int, now: float) -> tuple[bytes, int, Callable[[bytes], None]] | None:
        """What to send next: payload, bytes of the reply, what takes it. None while it waits.

        Parameters
        ----------
        room : int
            Bytes of the image that may go now.
        now : float
            The board's time.
        """
        self._start = now if self._start is None else self._start
        if self.sent < self.size:
            word_bytes = self.image.config.word_bytes
            least = max(LEAST_BYTES, word_bytes)
            length = max(least, min(PIECE_BYTES, room) // least * least)
            part = self.data[self.sent : self.sent + length]
            payload = link.load_block(self.base + self.sent // word_bytes, part, word_bytes)
            if self.sent == 0:  # where an earlier watchdog would lead to is overwritten now
                payload = link.watchdog(0) + payload
            self.sent += len(part)
            return payload, 0, self._placed
        if self._asked or self.stage not in ("loading", "checking"):
            return None
        if self.stage == "loading":
            self.stage, self._parts = "checking", -(-self.words // CHECK_WORDS) - 1
            return link.check(self.base), 0, lambda data: None
        # What is asked for is how the part before has ended: the next one begins after that.
        self._asked = True
        payload = link.read(Register.STATUS) + link.read(Register.BESIDE)
        self._included = self._parts > 0
        if self._included:
            payload += link.check()
            self._parts -= 1
        return payload, 8, self._checked

    def _placed(self, data: bytes) -> None:
        self._progress("load", self.sent, self.size)

    def _checked(self, data: bytes) -> None:
        """How a part of the sum has ended, if it has."""
        self._asked = False
        status, base = (int.from_bytes(data[k : k + 4], "little") for k in (0, 4))
        error = status >> CHECK_ERROR_AT & 0xFF
        if status & Status.CHECKING:
            self._parts += self._included  # a part that was asked for meanwhile is the same one
        elif error:
            self.end("failed", refusal(error))
        elif status & Status.BESIDE and base == self.base:
            self.stage = "ready"
        elif not self._included:
            self.end("failed", "its sum was not formed, because the board was reset meanwhile")

    def checked_at(self, now: float) -> None:
        """It is there and whole."""
        if self._start is not None:
            self.load_seconds = now - self._start


def refusal(error: int) -> str:
    """Why the board refused an image, in words."""
    from .driver import REFUSALS

    return str(REFUSALS.get(error, f"error {error}; load again"))  # type: ignore[call-overload]


class Slots:
    """The images of one board: which one runs, which one is beside it, which one comes.

    Parameters
    ----------
    engine : Engine

    Attributes
    ----------
    current : Deployment or None
        The latest.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.current: Deployment | None = None
        self._previous: Any = None  # what ran before the latest switch
        self._back: str | None = None  # why the board is to go back
        self._back_done = threading.Event()
        self._confirmed = False
        self._last = 0.0  # when image bytes were sent last

    @property
    def room(self) -> int:
        """Words of the board's memory."""
        config = self._engine.config
        return config.ram_words if config.memory == "ram" else 1 << config.address_bits

    @property
    def half(self) -> int:
        """Word at which its second half begins."""
        step = 64 // self._engine.config.word_bytes
        return self.room // 2 // step * step

    def image(self, data: bytes) -> Image:
        """An image from its bytes, which must be for this board."""
        return self._engine._image(data)

    # -- wishes, from any thread ------------------------------------------------------------------

    def deploy(
        self,
        image: Image,
        *,
        state: str,
        watchdog: float,
        share: float,
        progress: Progress | None = None,
        running: tuple[int, int] | None = None,
    ) -> Deployment:
        """Begins a deployment; the stream, or :meth:`finish`, carries it out.

        Parameters
        ----------
        image, state, watchdog, share, progress
            See ``Engine.deploy``.
        running : tuple of int, optional
            First word of what runs and the one behind it, where the driver does not know it.
        """
        engine = self._engine
        if not engine.identity.slots:
            raise StillnetError(
                f"board '{engine.identity.board}' has no place for a second image beside the one "
                "that runs; use load(), which stops the stream, or build its bitstream again if "
                "the board has SDRAM"
            )
        if state not in STATES:
            raise StillnetError(f"state must be {' or '.join(STATES)}, not {state!r}")
        if not 0 < share <= 1:
            raise StillnetError(f"share must be more than 0 and at most 1, not {share!r}")
        units = self._units(watchdog)
        with self._lock:
            if self.current is not None and not self.current.finished:
                raise StillnetError(
                    f"network '{self.current.name}' is on its way already; wait until it runs"
                )
            self._check_fit(image, state)
            deployment = Deployment(
                image,
                self._place(image, running),
                state=state,
                watchdog=units,
                share=share,
                progress=progress or silent,
            )
            self._last = engine.transport.now()
            self.current, self._previous = deployment, None  # it may be overwritten from now on
        return deployment

    def _units(self, watchdog: float) -> int:
        """Seconds as the board counts them; at least one unit, where there is a watchdog."""
        if watchdog == 0:
            return 0
        clock = self._engine.identity.clock_hz
        units = round(watchdog * clock / (1 << WATCHDOG_SHIFT)) if watchdog > 0 else -1
        most = (1 << WATCHDOG_BITS) - 1
        if not 0 <= units <= most:
            raise StillnetError(
                f"the watchdog must be 0 for none, or up to {most * 2**WATCHDOG_SHIFT / clock:.3g} "
                f"seconds, not {watchdog!r}"
            )
        return max(1, units)

    def _check_fit(self, image: Image, state: str) -> None:
        """A stream goes on only where vectors keep their sizes, and state only where it fits."""
        loaded = self._engine._loaded
        if loaded is None:
            if state == "carry":
                raise StillnetError(
                    "which network runs on the board is not known, so its state cannot be carried; "
                    "deploy with state='clear', or attach() the network first"
                )
            return
        old, new = loaded.outline, self._engine._outline(image).outline
        for what, a, b in (
            ("inputs", old.inputs, new.inputs),
            ("outputs", old.outputs, new.outputs),
            ("tokens as inputs", old.input_mode.one_hot, new.input_mode.one_hot),
        ):
            if a != b:
                raise StillnetError(
                    f"network '{new.name}' has {b} {what}, the one that runs has {a}; the stream "
                    "cannot go on with it: end it, and load() the network"
                )
        parts = [None if n.host is None else n.host.to_dict() for n in (old, new)]
        if parts[0] != parts[1]:
            raise StillnetError(
                f"network '{new.name}' has other parts on the host than the one that runs; end the "
                "stream, and load() the network"
            )
        if state == "carry" and (difference := layout_difference(old, new)):
            raise StillnetError(
                f"the state cannot be carried to network '{new.name}': {difference}; deploy with "
                "state='clear'"
            )

    def _place(self, image: Image, running: tuple[int, int] | None) -> int:
        """A word address beside what runs."""
        engine, config = self._engine, self._engine.config
        words = -(-len(image.hardware) // config.word_bytes)
        room, half = self.room, self.half
        step = 64 // config.word_bytes
        loaded = engine._loaded
        if running is not None:
            base, end = running
        elif loaded is not None:
            base, end = loaded.base, loaded.base + loaded.words
        else:
            raise StillnetError("the program that streams has loaded nothing yet; try again")
        after = -(-end // step) * step
        for low, high in ((half, room), (0, half), (after, room), (0, base)):
            if words <= high - low and (low + words <= base or low >= end):
                return low
        raise StillnetError(
            f"the image of {words} words does not fit beside the one that runs ({end - base} words "
            f"at {base}) in the board's memory of {room}; load() it, which stops the stream"
        )

    def back(self, reason: str = "asked for") -> threading.Event:
        """The board is to go back with the next step; the event says when it has."""
        with self._lock:
            if self._previous is None:
                raise StillnetError(NOTHING_BEFORE)
            self._back, self._back_done = reason, threading.Event()
            return self._back_done

    # -- carried out, by the thread that streams --------------------------------------------------

    def forget(self, error: str = "another image was loaded") -> None:
        """Something else was loaded."""
        if self.current is not None and not self.current.finished:
            self.current.end("failed", error)
        self._previous = self._back = None

    @property
    def due(self) -> bool:
        """A switch waits for the outputs that are on their way."""
        if self._back is not None:
            return True
        current = self.current
        return current is not None and current.stage == "ready" and not current.finished

    def commands(self) -> Iterator[tuple[bytes, int, Callable[[bytes], None]]]:
        """What to send behind a step, as much as the time to the next one has room for."""
        current, engine = self.current, self._engine
        if self._confirmed and engine.session.free > OVERHEAD_BYTES:
            self._confirmed = False
            yield link.watchdog(0), 0, lambda data: None
        if current is None or current.finished:
            return
        current.steps += 1
        now = engine.transport.now()
        baud = getattr(engine.transport, "baud", None)
        budget = float(engine.identity.receive_bytes // 2)
        if baud:
            budget = min(budget, (now - self._last) * current.share * baud / BITS_PER_BYTE)
        self._last = now
        room = int(max(budget, LEAST_BYTES))
        while (free := min(room, engine.session.free - OVERHEAD_BYTES)) >= LEAST_BYTES:
            sent = current.sent
            command = current.command(free, now)
            if command is None:
                return
            yield command
            room -= current.sent - sent
            if current.sent == sent:  # a check, which is answered before the next one
                return

    def finish(self) -> None:
        """Carries out a deployment while nothing streams."""
        current, engine = self.current, self._engine
        assert current is not None
        try:
            engine._ready(fresh=True)
            while not current.finished and current.stage != "ready":
                command = current.command(PIECE_BYTES, engine.transport.now())
                assert command is not None
                payload, reply, take = command
                take(engine.session.call(Command.ACCESS, payload, reply))
            if current.stage == "ready":
                self.switch()
        except StillnetError as error:
            if not current.finished:
                current.end("failed", str(error))
            raise
        if current.stage == "failed":
            raise StillnetError(f"network '{current.name}' was not started: {current.reason}")

    def switch(self) -> None:
        """Between two steps: to the new image, or back."""
        if self._back is not None:
            self._go_back()
            return
        current, engine = self.current, self._engine
        assert current is not None
        begin = engine.transport.now()
        current.checked_at(begin)
        before = engine._loaded
        new = engine._outline(current.image, current.base)
        if self._other_integers(before, new):
            current.end(
                "failed",
                "the stream is of integers, and this network has other formats; use stream(), "
                "which takes real numbers, or load the network",
            )
            return
        state = engine.get_state() if current.state == "carry" else None
        error = self._load(link.switch(current.base))
        if error:
            if before is not None:
                self._load(link.start(before.base))
            current.end("failed", refusal(error))
            return
        self._began(new, before)
        self._previous = before
        if state is not None:
            engine.set_state(state)
        if current.watchdog:
            engine.session.call(Command.ACCESS, link.watchdog(current.watchdog))
        engine._watch_begins()
        current.switch_seconds = engine.transport.now() - begin
        current.end("running")

    def _other_integers(self, before: Any, new: Any) -> bool:
        """A stream of integers would get other formats."""
        if before is None or not self._engine._streams_integers:
            return False
        return bool(_formats(before.outline) != _formats(new.outline))

    def _began(self, new: Any, before: Any) -> None:
        """The board runs ``new``. What the host does before and after the chip goes on."""
        if before is not None and before.host is not None:
            new.host = before.host
        self._engine._loaded = new
        self._engine._vectors_begin()
        self._engine._vectors.forget()
        self._engine._unknown = False

    def _load(self, payload: bytes) -> int:
        """A load and its outcome: 0, or an error of the engine."""
        engine = self._engine
        engine._vectors.forget()
        engine.session.call(Command.ACCESS, payload)
        status = engine._wait(Status.LOADED | Status.IDLE)
        return 0 if status & Status.LOADED else status >> 8 & 0xFF

    def _go_back(self) -> None:
        engine, old, reason = self._engine, self._previous, self._back
        self._back = None
        engine.session.call(Command.ACCESS, link.watchdog(0))
        status, base = self._beside()
        whole = status & Status.BESIDE and base == old.base
        error = self._load((link.switch if whole else link.start)(old.base))
        if error:
            engine._loaded = None
            self._back_done.set()
            raise StillnetError(f"the board refused the image before: {refusal(error)}")
        before = engine._loaded
        self._began(old, before)
        self._previous = before
        if self.current is not None:
            self.current.end("rolled back", reason or "")
        self._back_done.set()
        engine._watch_begins()

    def struck(self) -> bool:
        """Vectors were refused: whether because the watchdog has gone back. Then all is as after
        :meth:`back`."""
        engine = self._engine
        if self._previous is None:
            return False
        status, base = engine._running()
        told = status & Status.FELL_BACK
        if not told and base != self._previous.base:
            return False
        engine.session.call(Command.ACCESS, link.watchdog(0))
        if not engine._wait(Status.LOADED | Status.IDLE) & Status.LOADED:
            return False
        if not told:  # it was confirmed too late, so steps behind those may have been done
            engine.session.call(Command.ACCESS, link.clear())
            engine._wait(Status.LOADED | Status.IDLE)
        self._began(self._previous, engine._loaded)
        self._previous = None
        if self.current is not None:
            self.current.end("fell back", "the board waited too long for a step")
        engine._watch_begins()
        return True

    def rollback(self, reason: str = "asked for") -> None:
        """Goes back while nothing streams."""
        engine = self._engine
        engine._ready(fresh=True)
        if self._previous is not None:
            self.back(reason)
            self.switch()
            return
        # Deployed by another program: the board knows which image it was.
        status, base = self._beside()
        if not status & Status.BESIDE:
            raise StillnetError(NOTHING_BEFORE)
        engine._loaded = None
        engine.session.call(Command.ACCESS, link.watchdog(0))
        if error := self._load(link.switch(base)):
            raise StillnetError(f"the board refused the image before: {refusal(error)}")

    def _beside(self) -> tuple[int, int]:
        """STATUS, and where the image beside is."""
        payload = link.read(Register.STATUS) + link.read(Register.BESIDE)
        data = self._engine.session.call(Command.ACCESS, payload, 8)
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")

    def confirm(self) -> None:
        """Ends the watchdog; with the next step, while a stream runs."""
        if self._engine._streaming:
            self._confirmed = True
            return
        self._engine._ready(fresh=True)
        self._engine.session.call(Command.ACCESS, link.watchdog(0))

    def lost(self, error: StillnetError) -> None:
        """The stream has failed."""
        current = self.current
        if current is not None and not current.finished:
            current.end("failed", str(error))
        self._back_done.set()


def _formats(network: Network) -> tuple[Any, ...]:
    """What the integers of inputs and outputs mean."""
    output = network.layers[-1]
    exponents = [
        None if e is None else tuple(e.tolist())
        for e in (network.input_exponents, output.unit_exponents)
    ]
    return network.input_fraction, output.fraction, *exponents


def layout_difference(old: Network, new: Network) -> str | None:
    """Why the state of one network means nothing to another; None where it fits.

    The state is that of cells, and the references: what the receivers of each vector have heard.
    Both are integers, so their formats must be the same too.
    """
    if old.inputs != new.inputs or old.input_mode != new.input_mode:
        return "it has another input"
    if old.input_fraction != new.input_fraction:
        return f"its input has {new.input_fraction} bits of fraction, not {old.input_fraction}"
    if len(old.layers) != len(new.layers):
        return f"it has {len(new.layers)} layers, not {len(old.layers)}"
    if set(old.budgets) != set(new.budgets):
        return "other vectors have budgets"
    for a, b in zip(old.layers, new.layers):
        if (a.cell, a.units) != (b.cell, b.units):
            return f"layer '{b.name}' is {b.cell} of {b.units}, not {a.cell} of {a.units}"
        fractions = [
            [layer.fraction, *(state_format(layer, s).fraction for s in CELLS[layer.cell].state)]
            for layer in (a, b)
        ]
        scales = [None if n.unit_exponents is None else n.unit_exponents.tolist() for n in (a, b)]
        if fractions[0] != fractions[1] or scales[0] != scales[1]:
            return f"layer '{b.name}' has other formats"
        if (a.threshold_recurrent is None) != (b.threshold_recurrent is None):
            return f"layer '{b.name}' has thresholds of another kind"
    inputs = [None if n.input_exponents is None else n.input_exponents.tolist() for n in (old, new)]
    return "its input has other scales" if inputs[0] != inputs[1] else None
