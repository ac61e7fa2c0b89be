"""An engine on a board, from Python: load a network, stream vectors, read state and counters.

::

    from stillnet.sw.driver import Engine

    with Engine.open("/dev/ttyUSB0") as engine:
        engine.load("net.img")
        for gains in engine.stream(frames):
            ...

The same program works on a virtual board: ``Engine.open("sim:ulx3s-85f")``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.budgets import BUDGET_BITS
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION, ACTIVATION_BITS, EVENT_BITS, Format, narrow
from stillnet.sw.contract.image import VERSION as IMAGE_VERSION
from stillnet.sw.contract.link import Command, Identity, Outcome
from stillnet.sw.contract.registers import (
    COUNTERS,
    Control,
    Error,
    Region,
    Register,
    Status,
    limit,
)
from stillnet.sw.contract.sources import INPUT, SECOND, encoder_select
from stillnet.sw.network.network import Network, QuantizedLayer
from stillnet.sw.packing.packer import Image, load_image, pack
from stillnet.sw.partition.parts import HostParts
from stillnet.sw.partition.stream import HostStream, chip_state
from stillnet.sw.util.progress import Progress, silent

from .changes import LinkVectors
from .deployment import Deployment, Slots
from .serving import DEFAULT_PORT, Server
from .session import ConnectionLost, RefusedCommand, Session
from .transport import Transport, open_transport
from .watch import Facts, Watch

__all__ = ["REFUSALS", "ConnectionLost", "Engine", "RefusedCommand"]

BLOCK_BYTES = 1024
"""Bytes of memory that one load command writes."""
FEED_BYTES = 1024
"""Bytes of elements that one feed command brings."""
STATE_BYTES = 1024
"""Bytes of state that one command reads or writes."""
OPERATION_BYTES = 32
"""More than what stands in a command besides such data."""

REFUSALS = {
    Error.MAGIC: "it is not a stillnet image; load again",
    Error.VERSION: "it has another version than the hardware; build and flash the bitstream again",
    Error.FINGERPRINT: "it was packed for another engine; pack the network for this board",
    Error.CAPACITY: "it has more layers, matrices or inputs than the engine; build a larger one",
    Error.MEMORY: "the memory answered with an error; reset the board",
    Error.CRC: "its checksum is wrong, so the board's memory does not hold what was sent; load "
    "again, and suspect the memory (clock phase, wiring, power) if it happens again",
}
"""Why an image was refused, and what to do."""


@dataclass
class _Loaded:
    """The network on the board as far as an image's notes tell: names, sizes, formats; and where
    its image is, in words."""

    outline: Network
    unit_base: tuple[int, ...]
    host: HostStream | None
    base: int = 0
    words: int = 0
    exact: bool = True  # they tell all thresholds of the input

    @cached_property
    def selects(self) -> dict[str, int]:
        """What EVENTS_SELECT is for each vector."""
        return {name: encoder_select(k) for k, name in self.outline.event_names().items()}


class _Awaited(NamedTuple):
    """A command whose reply is to come: a step with its vector, or what takes the reply."""

    step: bytes | None
    take: Callable[[bytes], None] | None = None
    kind: Command = Command.ACCESS


class _CounterRead:
    """All counters in one command, those of events by their sources.

    Parameters
    ----------
    selects : dict of str to int
        What EVENTS_SELECT is for each vector.
    late : bool
        The engine has budgets, and counts what they refuse.
    """

    def __init__(self, selects: dict[str, int], *, late: bool) -> None:
        self.selects, self.late = selects, late
        self.payload = b"".join(link.read(r) for r in COUNTERS)
        for select in selects.values():
            self.payload += link.write(Register.EVENTS_SELECT, [select])
            self.payload += link.read(Register.EVENTS)
            self.payload += link.read(Register.LATE) if late else b""
        self.reply_bytes = 4 * (len(COUNTERS) + len(selects) * (1 + late))

    def values(self, data: bytes) -> dict[str, Any]:
        """The counters by name, in lower case, and ``events`` and ``late`` by source."""
        values = np.frombuffer(data, "<u4").tolist()
        result: dict[str, Any] = dict(zip(_COUNTER_NAMES, values))
        by_source = values[len(COUNTERS) :]
        result["events"] = dict(zip(self.selects, by_source[:: 1 + self.late]))
        if self.late:
            result["late"] = dict(zip(self.selects, by_source[1::2]))
        return result


_COUNTER_NAMES = tuple(r.name.lower() for r in COUNTERS)


class Engine:
    """One engine behind a host link.

    Vectors are integers, or real numbers that are turned into the network's formats and back, as
    :class:`~stillnet.sw.network.reference.Reference` does it.

    Parameters
    ----------
    transport : Transport
    timeout : float
        Seconds without an answer after which the connection counts as lost.
    retry : float
        Seconds of silence after which a command or reply is asked for again.

    Raises
    ------
    StillnetError
        Where no board answers, or one of another version.
    """

    def __init__(self, transport: Transport, *, timeout: float = 10.0, retry: float = 0.25) -> None:
        self.transport = transport
        self._session = Session(transport, retry=retry, timeout=timeout)
        self._loaded: _Loaded | None = None
        self._unknown = False  # steps may have been done of which nothing is known
        self._order = deque[_Awaited]()  # what a stream waits for
        self._streaming = self._streams_integers = False
        self._vectors = LinkVectors()
        self._slots = Slots(self)
        self._watch: Watch | None = None
        self._server: Server | None = None
        try:
            self._identify()
        except BaseException:
            transport.close()
            raise

    @classmethod
    def open(
        cls, address: str, *, timeout: float = 10.0, retry: float = 0.25, **options: Any
    ) -> Engine:
        """An engine by its address.

        Parameters
        ----------
        address : str
            A serial port (``/dev/ttyUSB0``, ``COM3``), ``tcp:HOST:PORT``, or ``sim:BOARD`` for the
            virtual board.
        timeout, retry : float
        options
            For the transport: ``baud`` of a serial port (3,000,000).
        """
        return cls(open_transport(address, **options), timeout=timeout, retry=retry)

    def close(self) -> None:
        """Ends the connection; the board keeps image and state."""
        if self._server is not None:
            self._server.close()
        self.transport.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # -- who is there -----------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """What the board said of itself when the session began."""
        return self._session.identity

    @property
    def config(self) -> EngineConfig:
        """Configuration of the engine on the board."""
        return self.identity.config

    @property
    def session(self) -> Session:
        """The session, for its counts of repetitions."""
        return self._session

    def identify(self) -> Identity:
        """Asks the board who it is, in a new session. The engine's state stays as it is."""
        self._drain()
        return self._identify()

    def _identify(self) -> Identity:
        self._vectors.renew()
        identity = self._session.connect()
        if identity.image_version != IMAGE_VERSION:
            raise StillnetError(
                f"the board takes images of version {identity.image_version}, this stillnet makes "
                f"version {IMAGE_VERSION}; build and flash its bitstream again with this version"
            )
        return identity

    def reset(self) -> None:
        """Resets the engine, also one that hangs. A network must be loaded then."""
        self._loaded = None
        self._slots.forget("the board was reset")
        self._session.reset()
        self._unknown = False

    # -- load -------------------------------------------------------------------------------------

    def load(
        self,
        source: Image | Network | bytes | str | Path,
        *,
        base: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Writes an image into the board's memory, has the board verify it, and clears all state.

        Parameters
        ----------
        source : Image, Network, bytes, or path of an image or a network
            A network is packed for the board's engine.
        base : int
            Word address, a multiple of 64 bytes.
        progress : Progress, optional
            Called as ``progress("load", bytes done, bytes)``.

        Raises
        ------
        StillnetError
            Where the image is not for this board (nothing is sent then), or the board's memory
            does not hold what was sent.
        """
        progress = progress or silent
        image = self._image(source)
        data = image.hardware
        config, word_bytes = self.config, self.config.word_bytes
        data += bytes(-len(data) % word_bytes)
        words = len(data) // word_bytes
        if base < 0 or base * word_bytes % 64:
            raise StillnetError(
                f"base {base} is not a multiple of 64 bytes ({64 // word_bytes} words); choose "
                "another"
            )
        room = config.ram_words if config.memory == "ram" else 1 << config.address_bits
        if base + words > room:
            raise StillnetError(
                f"the image of {words} words at {base} does not fit the board's memory of {room} "
                "words; use a smaller network or base"
            )
        self._ready(fresh=True)
        self._loaded = None
        self._slots.forget()
        block = self._block_bytes()
        session = self._session
        done = 0
        sent: list[int] = []
        for at in range(0, len(data), block):
            part = data[at : at + block]
            payload = link.load_block(base + at // word_bytes, part, word_bytes)
            while session.unanswered and not session.room(len(payload), 0):
                session.receive()
                done += sent.pop(0)
                progress("load", done, len(data))
            session.send(Command.ACCESS, payload)
            sent.append(len(part))
        while session.unanswered:
            session.receive()
            done += sent.pop(0)
            progress("load", done, len(data))
        self.start(image, base=base)

    def _block_bytes(self) -> int:
        """Bytes of an image in one command: two commands must fit the board's buffer, so that one
        travels while the other is carried out."""
        word_bytes = self.config.word_bytes
        load = link.load_block(0, bytes(max(BLOCK_BYTES, word_bytes)), word_bytes)
        overhead = link.HEADER_BYTES + len(load) - max(BLOCK_BYTES, word_bytes)
        room = self.identity.receive_bytes // 2 - overhead
        return max(word_bytes, min(BLOCK_BYTES, room // 64 * 64))

    def start(self, source: Image | Network | bytes | str | Path, *, base: int = 0) -> None:
        """Starts a network whose image is in the board's memory already (from flash, or before).

        The board verifies the image and clears all state.

        Parameters
        ----------
        source : Image, Network, bytes, or path of an image or a network
            The same, for names, sizes and formats.
        base : int
            Word address.
        """
        image = self._image(source)
        self._ready(fresh=True)
        self._loaded = None
        self._slots.forget()
        self._session.call(Command.ACCESS, link.start(base))
        status = self._wait(Status.LOADED | Status.IDLE)
        error = (status >> 8) & 0xFF
        if not status & Status.LOADED:
            reason = REFUSALS.get(error, f"error {error}; load again")  # type: ignore[call-overload]
            raise StillnetError(f"the board refused the image: {reason}")
        self._loaded = self._outline(image, base)
        self._vectors_begin()
        self._unknown = False
        self._watch_begins()

    def _vectors_begin(self) -> None:
        """A network runs, with cleared state."""
        loaded = self._network()
        known = loaded.exact and self.identity.changes > 0
        self._vectors.begin(loaded.outline, exact=known)

    def _outline(self, image: Image, base: int = 0) -> _Loaded:
        loaded = _outline(image)
        loaded.base, loaded.words = base, -(-len(image.hardware) // self.config.word_bytes)
        return loaded

    def attach(self, source: Image | Network | bytes | str | Path) -> None:
        """Joins a board that runs a network already, and leaves image and state as they are.

        As after a start from flash, or after another program's steps.

        Parameters
        ----------
        source : Image, Network, bytes, or path of an image or a network
            The network on the board, for names, sizes and formats. The board cannot tell whether it
            is the same; :meth:`start` reads and verifies the image instead.

        Raises
        ------
        StillnetError
            If nothing is loaded.
        """
        image = self._image(source)
        self._ready(fresh=True)
        status, base = self._running()
        if not status & Status.LOADED:
            raise StillnetError(
                f"nothing is loaded on board '{self.identity.board}'; load the network"
            )
        if status & Status.FELL_BACK:
            raise StillnetError(
                f"the watchdog of board '{self.identity.board}' has gone back to the image before; "
                "acknowledge it with confirm(), then attach that network"
            )
        self._slots.forget()
        self._loaded = self._outline(image, base)
        self._vectors_begin()
        self._vectors.forget()
        self._unknown = False
        self._watch_begins()

    def _image(self, source: Image | Network | bytes | str | Path) -> Image:
        if isinstance(source, (str, Path)) and Path(source).suffix == ".safetensors":
            source = Network.load(source)
        if isinstance(source, Network):
            image = pack(source, self.config)
        else:
            image = source if isinstance(source, Image) else load_image(source)
        theirs, ours = self.identity.fingerprint, image.config.fingerprint
        if theirs != ours:
            raise StillnetError(
                f"image '{image.notes['name']}' was packed for engine '{image.config.name}' "
                f"(fingerprint {ours:08x}), the board has '{self.config.name}' ({theirs:08x}); "
                "pack the network for the board's engine"
            )
        largest = link.HEADER_BYTES + 2 * image.notes["layers"][-1]["units"] + 1
        if largest > self.identity.reply_bytes:
            raise StillnetError(
                f"the network's output of {image.notes['layers'][-1]['units']} elements does not "
                f"fit the board's reply buffer of {self.identity.reply_bytes} bytes; build its "
                "bitstream with a larger one"
            )
        return image

    # -- steps ------------------------------------------------------------------------------------

    @property
    def network(self) -> Network:
        """Names, sizes and formats of the loaded network; no weights."""
        return self._network().outline

    def _network(self) -> _Loaded:
        if self._loaded is None:
            raise StillnetError("no network is loaded; call load() or start() first")
        return self._loaded

    def step(self, x: np.ndarray) -> np.ndarray:
        """One step in (a float vector, or one token), one float vector out.

        Of a whole model the step and the output are those of the model: the host's parts run here,
        before and after the board's.

        Parameters
        ----------
        x : array of float, shape (inputs,)

        Returns
        -------
        float array, shape (outputs,)
        """
        return next(self.stream([x]))

    def step_integers(self, x: np.ndarray) -> np.ndarray:
        """One integer vector in, one out.

        Parameters
        ----------
        x : int array, shape (inputs,), or (1,) with a token

        Returns
        -------
        int64 array, shape (outputs,)
        """
        return next(self.stream_integers([x]))

    def stream(self, vectors: Iterable[np.ndarray], *, window: int | None = None) -> Iterator:
        """Float vectors in, float vectors out, several of them on their way at a time.

        No vector is taken from ``vectors`` while ``window`` of them are on their way: with
        ``window=1`` each output comes before the next vector is asked for.

        Parameters
        ----------
        vectors : iterable of float arrays, shape (inputs,)
        window : int, optional
            As many as the board has room for.

        Yields
        ------
        float array, shape (outputs,)
        """
        network, host = self.network, self._network().host

        def chip(vectors: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            # The network may be another one from some step on (deploy).
            rows = (self.network.quantize_input(np.asarray(x)[None])[0] for x in vectors)
            for y in self._steps(rows, window, integers=False):
                yield self.network.dequantize_output(y)

        if network.host is not None:
            network.host.check_streams()
        yield from chip(vectors) if host is None else host.run(vectors, chip)

    def stream_integers(
        self, vectors: Iterable[np.ndarray], *, window: int | None = None
    ) -> Iterator[np.ndarray]:
        """As :meth:`stream`, with integer vectors."""
        yield from self._steps(vectors, window, integers=True)

    def _steps(
        self, vectors: Iterable[np.ndarray], window: int | None, *, integers: bool
    ) -> Iterator[np.ndarray]:
        if window is not None and window < 1:
            raise StillnetError(f"window must be at least 1, not {window}")
        network = self.network
        self._ready()
        session, reply = self._session, self._vectors.most_reply(self.identity)
        most = window or self.identity.window
        size = 1 if network.input_mode.one_hot else network.inputs
        self._order = order = deque[_Awaited]()
        self._streaming, self._streams_integers = True, integers
        count = 0
        finished = False
        try:
            source = iter(vectors)
            while True:
                # Before the next vector is asked for, because it has the formats of the network.
                if self._slots.due:
                    yield from self._answers(order, 0)
                    self._slots.switch()
                if (x := next(source, None)) is None:
                    break
                data = self._elements(x, size)
                if self._vectors.unknown:
                    yield from self._answers(order, 0)
                    self._read_reference()
                if self._watch is not None:
                    if self._watch.wanted() is not None:
                        yield from self._answers(order, 0)
                        self._give_state()
                    self._watch.sent(np.asarray(x), session.errors)
                self._send_step(order, data, reply)
                count += 1
                while _steps_in(order) >= most or (order and not session.room(2 * size, reply)):
                    yield from self._answer(order)
            yield from self._answers(order, 0)
            if self._watch is not None and count > 1:
                self._watch_now()
            finished = True
        except ConnectionLost as error:
            self._unknown = True
            finished = True
            self._fail(error)
            raise
        except StillnetError as error:
            self._fail(error)
            raise
        finally:
            self._streaming = False
            if not finished and session.connected:
                try:
                    while order:
                        with suppress(RefusedCommand):
                            next(self._answer(order), None)
                    session.drain()
                except StillnetError:
                    self._unknown = True

    def _read_reference(self) -> None:
        """What the board's input encoder has passed on; no step is in flight. A board without a
        network refuses the step that follows."""
        if self._vectors.unknown and self._status() & Status.LOADED:
            self._wait(Status.IDLE)
            self._vectors.reference = self._read_elements(Region.INPUT, 0, self.network.inputs)

    def _send_step(self, order: deque[_Awaited], data: bytes, reply: int) -> None:
        kind, payload = self._vectors.command(np.frombuffer(data, "<i2"), self.identity)
        self._session.send(kind, payload, reply)
        order.append(_Awaited(data, kind=kind))

    def _answers(self, order: deque[_Awaited], left: int) -> Iterator[np.ndarray]:
        """Takes replies until ``left`` are to come; gives the outputs among them."""
        while len(order) > left:
            yield from self._answer(order)

    def _answer(self, order: deque[_Awaited]) -> Iterator[np.ndarray]:
        """Takes the next reply: an output, or what another one waits for."""
        session, watch = self._session, self._watch
        awaited = order.popleft()
        try:
            data = session.receive()
        except RefusedCommand as error:
            if awaited.step is not None:
                self._vectors.forget()
            if awaited.step is None or error.outcome != Outcome.NOT_LOADED:
                raise
            self._again(order, awaited, error)
            return
        if awaited.take is not None:
            awaited.take(data)
        if awaited.step is None:
            return
        y = self._output(awaited.kind, data, self.network)
        if watch is not None:
            watch.answered(y, session.errors)
            if watch.due():
                self._ask_counters(order)
        for payload, reply, take in self._slots.commands():
            session.send(Command.ACCESS, payload, reply)
            order.append(_Awaited(None, take))
        yield y

    def _again(self, order: deque[_Awaited], first: _Awaited, error: RefusedCommand) -> None:
        """Repeats steps that were refused because the watchdog has gone back to another image."""
        steps, network = [first], self.network
        while order:
            steps.append(order.popleft())
            with suppress(RefusedCommand):
                self._session.receive()
        if not self._slots.struck():
            raise error
        self._read_reference()
        reply = self._vectors.most_reply(self.identity)
        for step in (awaited.step for awaited in steps if awaited.step is not None):
            self._send_step(order, self._in_formats_of(network, step), reply)

    def _in_formats_of(self, other: Network, data: bytes) -> bytes:
        """An input vector that was made for another network."""
        network = self.network
        same = np.array_equal(other.units_of(INPUT), network.units_of(INPUT))
        if network.input_mode.one_hot or same:
            return data
        x = np.frombuffer(data, "<i2") / other.units_of(INPUT)
        return self._elements(network.quantize_input(x[None])[0], network.inputs)

    def _ask_counters(self, order: deque[_Awaited]) -> None:
        """Asks for the counters between two steps, where the board has room for it."""
        read = self._counter_read()
        if self._watch is not None and self._session.room(len(read.payload), read.reply_bytes):
            self._watch.asked()
            self._session.send(Command.ACCESS, read.payload, read.reply_bytes)
            order.append(_Awaited(None, lambda data: self._take_counters(read, data)))

    def _take_counters(self, read: _CounterRead, data: bytes) -> None:
        if self._watch is not None:
            self._watch.counters(read.values(data), self._session.errors)

    def _elements(self, x: np.ndarray, size: int) -> bytes:
        x = np.asarray(x)
        if x.shape != (size,) or x.dtype.kind not in "iu":
            raise StillnetError(
                f"the vector has shape {x.shape} and type {x.dtype}; network '{self.network.name}' "
                f"takes integers of shape ({size},)"
            )
        network = self.network
        low, high = -(1 << 15), (1 << 15) - 1
        if network.input_mode.one_hot:
            low, high = -1, network.inputs - 1
        if x.min() < low or x.max() > high:
            raise StillnetError(
                f"the vector holds {int(x.min())} to {int(x.max())}; elements must be {low} to "
                f"{high}"
            )
        return (x.astype(np.int64) & 0xFFFF).astype("<u2").tobytes()

    def _output(self, kind: Command, data: bytes, network: Network) -> np.ndarray:
        y = self._vectors.output(kind, data)
        if y is None:
            self._session.connected = False
            self._unknown = True
            raise StillnetError(
                f"the board answered a step with {len(data)} bytes, network '{network.name}' has "
                f"{network.outputs} outputs of 2; load the network again"
            )
        return y

    # -- state ------------------------------------------------------------------------------------

    def clear(self) -> None:
        """All state and references zero: the beginning of a sequence."""
        self._network()
        self._ready(fresh=True)
        self._check_loaded(self._status())
        host = self._network().host
        if host is not None:
            host.clear()
        self._session.call(Command.ACCESS, link.clear())
        self._wait(Status.LOADED | Status.IDLE)
        self._vectors.clear()
        self._unknown = False
        if self._watch is not None:
            self._watch.pause()
            self._watch.recovered()

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as ``Reference.get_state`` gives it."""
        loaded = self._network()
        network = loaded.outline
        self._ready()
        self._idle()
        result: dict[str, np.ndarray] = {}
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                result[f"{i}/{s}"] = self._read_state(self._state_region(s), i)
        result[f"{INPUT}/reference"] = self._input_reference()
        for i in range(len(network.layers)):
            result[f"{i}/reference"] = self._read_state(Region.REFERENCE, i)
        for i, layer in enumerate(network.layers):
            if layer.threshold_recurrent is not None:
                result[f"{i}/reference_second"] = self._read_state(Region.REFERENCE_SECOND, i)
        for source in network.budgets:
            place = source - INPUT
            result[f"{source}/window"] = self._read_elements(Region.BUDGET_WINDOW, place, 1)
        return result | ({} if loaded.host is None else loaded.host.get_state())

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what :meth:`get_state` (or that of a reference) returned."""
        network, host = self.network, self._network().host
        whole, state = state, state if host is None else chip_state(state)
        shapes = self._state_shapes()
        given = {k: np.shape(v) for k, v in state.items()}
        if given != shapes:
            wrong = sorted(set(shapes.items()) ^ set(given.items()))[0][0]
            raise StillnetError(
                f"state does not belong to network '{network.name}': {wrong} has shape "
                f"{given.get(wrong)}, expected {shapes.get(wrong)}"
            )
        self.clear()
        self._unknown = True  # until all of it is there
        layers = range(len(network.layers))
        x = np.asarray(state[f"{INPUT}/reference"])
        if network.input_mode.one_hot:
            token = np.flatnonzero(x)
            x = np.array([token[0] if len(token) else -1])
        first = [np.asarray(state[f"{i}/reference"]) for i in layers]
        second = [np.asarray(state.get(f"{i}/reference_second", first[i])) for i in layers]
        if self.config.second_threshold:
            self._restore(x, first, Control.RESTORE_EXACT | Control.RESTORE_FIRST)
            nothing = np.zeros_like(x) - int(network.input_mode.one_hot)
            self._restore(nothing, second, Control.RESTORE_EXACT | Control.RESTORE_SECOND)
        else:
            self._restore(x, first, Control.RESTORE_EXACT)
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                self._write_state(self._state_region(s), i, state[f"{i}/{s}"])
        for source in network.budgets:
            window = [int(state[f"{source}/window"][0])]
            payload = link.write_state(Region.BUDGET_WINDOW, source - INPUT, window, half=True)
            self._session.call(Command.ACCESS, payload)
        if host is not None:
            host.set_state(whole)
        self._unknown = False

    def set_hidden(self, values: dict[tuple[int, str], np.ndarray]) -> None:
        """As ``Reference.set_hidden``: clear, then send given states through the encoders.

        Parameters
        ----------
        values : dict of (layer, state name) to int array, shape (units,)
        """
        network = self.network
        for (i, s), value in values.items():
            cell = CELLS[network.layers[i].cell] if 0 <= i < len(network.layers) else None
            if cell is None or s not in cell.state or np.shape(value) != (network.layers[i].units,):
                raise StillnetError(
                    f"layer {i} of network '{network.name}' has no state '{s}' of shape "
                    f"{np.shape(value)}"
                )
        vectors = []
        for i, layer in enumerate(network.layers):
            output = CELLS[layer.cell].output_state
            given = values.get((i, output)) if output is not None else None
            if given is None:
                given = np.zeros(layer.units, np.int64)
            vectors.append(narrow(np.asarray(given, np.int64), layer.write_shift, Format(16, 0)))
        self.clear()
        self._unknown = True
        one_hot = network.input_mode.one_hot
        x = np.array([-1]) if one_hot else np.zeros(network.inputs, np.int64)
        self._restore(x, vectors, Control(0))
        for (i, s), value in values.items():
            self._write_state(self._state_region(s), i, value)
        self._unknown = False

    def clear_cells(self) -> None:
        """As ``Reference.clear_cells``: h of EGRUs becomes zero, all that was sent stays sent."""
        network = self._network().outline
        self._ready()
        self._idle()
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].cleared:
                self._write_state(self._state_region(s), i, np.zeros(layer.units, np.int64))

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        network = self.network
        shapes: dict[str, tuple[int, ...]] = {f"{INPUT}/reference": (network.inputs,)}
        for i, layer in enumerate(network.layers):
            names = [*CELLS[layer.cell].state, "reference"]
            names += [] if layer.threshold_recurrent is None else ["reference_second"]
            shapes |= {f"{i}/{name}": (layer.units,) for name in names}
        return shapes | {f"{source}/window": (1,) for source in network.budgets}

    def _state_region(self, name: str) -> int:
        return Region.STATE + self.config.state_names.index(name)

    def _place(self, layer: int) -> int:
        return self._network().unit_base[layer] * self.config.cell_width

    def _read_state(self, region: int, layer: int) -> np.ndarray:
        return self._read_elements(region, self._place(layer), self.network.layers[layer].units)

    def _read_elements(self, region: int, index: int, count: int) -> np.ndarray:
        parts = []
        size = self._element_bytes(region)
        run = self._piece(STATE_BYTES) // size
        for at in range(0, count, run):
            some = min(run, count - at)
            payload = link.read_state(region, index + at, some, half=size == 2)
            parts.append(self._session.call(Command.ACCESS, payload, size * some))
        return np.frombuffer(b"".join(parts), f"<i{size}").astype(np.int64)

    def _element_bytes(self, region: int) -> int:
        """Bytes of an element: four where a state memory is wider than a vector."""
        names = self.config.state_names
        place = region - Region.STATE
        wide = place < len(names) and self.config.state_bits(names[place]) > ACTIVATION_BITS
        return 4 if wide else 2

    def _input_reference(self) -> np.ndarray:
        network = self.network
        if not network.input_mode.one_hot:
            return self._read_elements(Region.INPUT, 0, network.inputs)
        token = int(self._read_elements(Region.INPUT, 0, 1)[0]) & 0xFFFF
        vector = np.zeros(network.inputs, np.int64)
        if token:
            vector[token - 1] = 1 << network.input_fraction
        return vector

    def _piece(self, most: int) -> int:
        """Bytes of data in one command, at most so many, that the board's buffers have room for."""
        room = min(self.identity.receive_bytes, self.identity.reply_bytes) - OPERATION_BYTES
        return min(most, room // 4 * 4)

    def _write_state(self, region: int, layer: int, values: np.ndarray) -> None:
        values = np.asarray(values, np.int64)
        size = self._element_bytes(region)
        run = self._piece(STATE_BYTES) // size
        for at in range(0, len(values), run):
            part = values[at : at + run].tolist()
            payload = link.write_state(region, self._place(layer) + at, part, half=size == 2)
            self._session.call(Command.ACCESS, payload)

    def _restore(self, x: np.ndarray, vectors: list[np.ndarray], flags: Control) -> None:
        self._session.call(Command.ACCESS, link.restore(flags))
        self._vectors.forget()
        elements = np.concatenate([x, *vectors]).astype(np.int64)
        data = (elements & 0xFFFF).astype("<u2").tobytes()
        piece = self._piece(FEED_BYTES)
        for at in range(0, len(data), piece):
            self._session.call(Command.FEED, data[at : at + piece])
        self._idle()

    # -- thresholds, counters ---------------------------------------------------------------------

    def set_threshold(
        self, where: str | int, value: float, *, recurrent: bool = False, integer: bool = False
    ) -> None:
        """Changes a threshold from the next encoding on, until the next load.

        Parameters
        ----------
        where : str or int
            ``"input"``, or a layer by its name or number.
        value : float
            In units of the vector's values; in those of its least significant bit if ``integer``.
        recurrent : bool
            The second threshold of a layer, towards itself.
        """
        network, source = self.network, self._source(where)
        fraction = network.input_fraction
        if source != INPUT:
            fraction = network.layers[source].fraction
        if recurrent and (source == INPUT or not self.config.second_threshold):
            raise StillnetError(
                f"vector '{where}' has no recurrent threshold; generate an engine with "
                "second_threshold = true and name a layer"
            )
        units = round(value if integer else value * 2.0**fraction)
        if not 0 <= units < 1 << EVENT_BITS:
            raise StillnetError(
                f"threshold {value} of '{where}' is {units} in units of its last bit; it must be "
                f"0 to {(1 << EVENT_BITS) - 1}"
            )
        self._ready()
        selects = [encoder_select(source, recurrent)]
        if source != INPUT and not recurrent and self.config.second_threshold:
            layer = network.layers[source]
            if layer.threshold_recurrent is None:  # then the recurrence has that of the layer
                selects.append(encoder_select(source, second=True))
        for select in selects:
            self._session.call(Command.ACCESS, link.set_threshold(select, units))
        if source == INPUT:
            self._vectors.threshold = units
        if self._watch is not None:
            second = SECOND if recurrent else 0
            self._watch.threshold(network.event_names().get(source + second, str(where)), units)

    def _source(self, where: str | int) -> int:
        """A vector by its name or number."""
        network = self.network
        names = [layer.name for layer in network.layers]
        if where == "input" or where == INPUT:
            return INPUT
        if isinstance(where, str) and where in names:
            return names.index(where)
        if isinstance(where, int) and 0 <= where < len(names):
            return where
        raise StillnetError(
            f"network '{network.name}' has no vector '{where}'; it has input, {', '.join(names)}"
        )

    def set_budget(self, where: str | int, events: int) -> None:
        """Changes the budget of a vector from its next step on, until the next load.

        Parameters
        ----------
        where : str or int
            ``"input"``, or a layer by its name or number.
        events : int
            Most events per step (``contract.budgets``); 0 for no budget.
        """
        network, source = self.network, self._source(where)
        least = 1 if source == INPUT else 4 * self.config.cell_width
        if not self.config.budgets:
            raise StillnetError(
                f"engine '{self.config.name}' has no budgets; build one with budgets = true"
            )
        if network.source_mode(source) is not Mode.DELTA:
            raise StillnetError(f"vector '{where}' has no differences; it cannot have a budget")
        if events and not least <= events < 1 << BUDGET_BITS:
            raise StillnetError(
                f"budget of '{where}' must be 0 for none, or {least} to {(1 << BUDGET_BITS) - 1} "
                f"events, not {events}"
            )
        self._ready()
        select = encoder_select(source)
        payload = link.write(Register.THRESHOLD_SELECT, [select])
        payload += link.write(Register.BUDGET, [events])
        self._session.call(Command.ACCESS, payload)
        if source == INPUT:
            self._vectors.budget = events
            self._vectors.forget()

    def counters(self) -> dict[str, Any]:
        """The hardware's counters by name, in lower case, and ``events`` by source; in an engine
        with budgets also ``late``, the events that were refused, by source. ``limited_by`` says
        what took most of the engine's cycles: ``lanes``, ``memory``, ``cells`` or ``events``."""
        values = self._read_counters()
        return values | {"limited_by": limit(values)}

    def _read_counters(self) -> dict[str, Any]:
        read = self._counter_read()
        self._ready()
        if self._loaded is not None:
            self._idle()
        values = read.values(self._session.call(Command.ACCESS, read.payload, read.reply_bytes))
        if self._watch is not None:
            self._watch.counters(values, self._session.errors)
        return values

    def _counter_read(self) -> _CounterRead:
        selects = {"input": encoder_select(INPUT)} if self._loaded is None else self._loaded.selects
        return _CounterRead(selects, late=self.config.budgets)

    def reset_counters(self) -> None:
        """Sets all counters to zero."""
        self._ready()
        self._session.call(Command.ACCESS, link.clear_counters())
        if self._watch is not None:
            read = self._counter_read()
            self._watch.rebase(read.values(bytes(read.reply_bytes)))

    # -- who looks on -----------------------------------------------------------------------------

    @property
    def watch(self) -> Watch | None:
        """Statistics of the stream, after :meth:`serve`."""
        return self._watch

    def serve(
        self,
        port: int = DEFAULT_PORT,
        *,
        host: str = "127.0.0.1",
        deadline: float | None = None,
        period: float | None = None,
        interval: float = 0.5,
        every: int = 0,
    ) -> str:
        """Lets others look on, as ``stillnet monitor`` does, while this program streams.

        A thread answers them with what the driver knows; the driver reads the board's counters
        between two steps, about every ``interval``. The board has one owner, this one.

        Parameters
        ----------
        port : int
            On this computer; 0 for any free one.
        host : str
            Address to listen on. There is no password.
        deadline : float, optional
            Seconds that a step may take, from its vector to its output.
        period : float, optional
            Seconds from one step to the next; the deadline where absent.
        interval : float
            Seconds between two readings of the counters.
        every : int
            Read them at least every N steps as well; 1 tells the cycles of every step.

        Returns
        -------
        str
            The address for ``stillnet monitor --attach``.
        """
        if self._server is not None:
            self._server.close()
        watch = Watch(
            deadline=deadline,
            period=period,
            interval=interval,
            every=every,
            clock=self.transport.now,
            moved=lambda: self._session.moved,
        )
        self._server = Server(watch, port, host, self._slots)
        self._watch = watch
        if self._loaded is not None:
            self._watch_begins()
        return self._server.address

    def _watch_begins(self) -> None:
        """A network was loaded."""
        if self._watch is None:
            return
        outline = self.network
        sizes = {
            name: outline.source_size(k % SECOND if k >= 0 else k)
            for k, name in outline.event_names().items()
        }
        facts = Facts(
            network=outline.name,
            board=self.identity.board,
            engine=self.config.name,
            port=self.transport.name,
            fingerprint=f"{self.identity.fingerprint:08x}",
            clock_hz=self.identity.clock_hz,
            vectors=sizes,
            inputs=outline.inputs,
            outputs=outline.outputs,
            tokens=outline.input_mode.one_hot,
            baud=getattr(self.transport, "baud", None),
        )
        watch, self._watch = self._watch, None
        try:
            watch.begin(facts, self._read_counters())
        finally:
            self._watch = watch
        watch.recovered()

    def _watch_now(self) -> None:
        """The counters as they are after the last of some steps."""
        self._read_counters()
        if self._watch is not None:
            self._watch.flush()

    def _give_state(self) -> None:
        """Reads the state for the one who asked for it; no step is in flight."""
        watch = self._watch
        wanted = None if watch is None else watch.wanted()
        if watch is None or wanted is None:
            return
        begin = self.transport.now()
        state = chip_state(self.get_state())
        watch.follow(wanted, state, self.transport.now() - begin)

    def _fail(self, error: StillnetError) -> None:
        self._slots.lost(error)
        if self._watch is not None:
            self._watch.failed(error, self._session.errors)

    def status(self) -> int:
        """The STATUS register: :class:`~stillnet.sw.contract.registers.Status` and an error."""
        self._ready(fresh=True)
        return self._status()

    # -- another image ----------------------------------------------------------------------------

    def deploy(
        self,
        source: Image | Network | bytes | str | Path,
        *,
        state: str = "clear",
        watchdog: float = 0.0,
        share: float = 0.5,
        progress: Progress | None = None,
    ) -> Deployment:
        """Brings another network to the board beside the one that runs, and switches to it.

        While a stream runs this returns at once: the image goes over the line between the steps,
        the board forms its sum between the steps, and the switch is between two of them. Outputs
        from then on are of the new network. Without a stream it returns when the network runs.

        Parameters
        ----------
        source : Image, Network, bytes, or path of an image or a network
            With as many inputs and outputs as the one that runs.
        state : {"clear", "carry"}
            Begin a sequence, or go on with the state of the old network, where the layers and
            formats are the same.
        watchdog : float
            Seconds without an output vector after which the board goes back by itself; 0 for never.
        share : float
            Part of the time between two steps in which the line may carry the image.
        progress : Progress, optional
            Called as ``progress("load", bytes sent, bytes)``.

        Returns
        -------
        Deployment
            How far it is; later whether the board went back.

        Raises
        ------
        StillnetError
            If the board has no room beside what runs, or the stream could not go on with this
            network.
        """
        image, running = self._image(source), None
        if self._loaded is None and not self._streaming:
            self._ready(fresh=True)
            status, base = self._running()
            half, room = self._slots.half, self._slots.room
            loaded = status & Status.LOADED
            running = (0, 0) if not loaded else (0, half) if base < half else (half, room)
        deployment = self._slots.deploy(
            image, state=state, watchdog=watchdog, share=share, progress=progress, running=running
        )
        if not self._streaming:
            self._slots.finish()
        return deployment

    def rollback(self, reason: str = "asked for") -> None:
        """Goes back to the network before the latest :meth:`deploy`, with its state cleared.

        While a stream runs: with the next step.
        """
        if self._streaming:
            self._slots.back(reason)
        else:
            self._slots.rollback(reason)

    def confirm(self) -> None:
        """The new network is good: ends the watchdog of :meth:`deploy`."""
        self._slots.confirm()

    @property
    def slots(self) -> Slots:
        """The images on the board."""
        return self._slots

    def _running(self) -> tuple[int, int]:
        """STATUS and IMAGE_BASE."""
        payload = link.read(Register.STATUS) + link.read(Register.IMAGE_BASE)
        data = self._session.call(Command.ACCESS, payload, 8)
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")

    # -- below ------------------------------------------------------------------------------------

    def _status(self) -> int:
        return int.from_bytes(
            self._session.call(Command.ACCESS, link.read(Register.STATUS), 4), "little"
        )

    def _wait(self, wanted: int) -> int:
        """Polls the status until all wanted bits are set, or an error says that they will not."""
        end = self.transport.now() + self._session.timeout
        while True:
            status = self._status()
            if status & wanted == wanted or (status >> 8) & 0xFF:
                return status
            if self.transport.now() > end:
                raise ConnectionLost(
                    f"the engine is still busy after {self._session.timeout:g} seconds; reset() it "
                    "and load the network again"
                )

    def _idle(self) -> None:
        self._check_loaded(self._status())
        self._wait(Status.IDLE)

    def _check_loaded(self, status: int) -> None:
        if not status & Status.LOADED:
            self._loaded = None
            raise StillnetError(
                "the engine has no network any more (the board was restarted, or another program "
                "loaded something); load the network again"
            )

    def _settle(self) -> None:
        """Takes counters that are on their way between two steps of a stream."""
        try:
            while self._order and self._order[0].step is None:
                with suppress(RefusedCommand):
                    next(self._answer(self._order), None)
        except StillnetError:
            self._unknown = True

    def _drain(self) -> None:
        self._order.clear()
        self._vectors.renew()
        if self._session.connected:
            try:
                self._session.drain()
            except StillnetError:
                self._unknown = True

    def _ready(self, *, fresh: bool = False) -> None:
        """Makes the session usable: no reply waits. After a loss it begins anew.

        Parameters
        ----------
        fresh : bool
            What follows does not depend on the state of the sequence.
        """
        if self._session.connected and self._session.unanswered:
            self._settle()
            self._drain()
        if not self._session.connected:
            self._identify()
        if self._unknown and not fresh:
            raise StillnetError(
                "the connection was lost during a step, and nobody knows how far the sequence is; "
                "call clear() to begin one, or load() or set_state()"
            )


def _steps_in(order: deque[_Awaited]) -> int:
    """Steps whose outputs are to come."""
    return sum(awaited.step is not None for awaited in order)


def _outline(image: Image) -> _Loaded:
    notes = image.notes
    layers = []
    for d in notes["layers"]:
        homogeneous = CELLS[d["cell"]].homogeneous
        layers.append(
            QuantizedLayer(
                name=d["name"],
                cell=d["cell"],
                units=d["units"],
                matrices=[],
                bias={},
                shift=0,
                write_shift=0 if homogeneous else ACTIVATION.fraction - d["fraction"],
                fraction=d["fraction"],
                mode=Mode[d["mode"].upper()],
                threshold=d["threshold"],
                threshold_recurrent=d["threshold_recurrent"],
                unit_exponents=_array(d["unit_exponents"]),
            )
        )
    outline = Network(
        inputs=notes["inputs"],
        input_fraction=notes["input_fraction"],
        layers=layers,
        input_mode=Mode[notes["input_mode"].upper()],
        input_threshold=notes["input_threshold"],
        name=notes["name"],
        input_exponents=_array(notes["input_exponents"]),
        host=None if notes["host"] is None else HostParts.from_dict(notes["host"]),
        input_thresholds=_array(notes.get("input_thresholds")),
        budgets={int(source): b for source, b in notes.get("budgets", {}).items()},
    )
    exact = not image.config.element_thresholds or "input_thresholds" in notes
    base = tuple(d["unit_base"] for d in notes["layers"])
    return _Loaded(outline, base, HostStream.of(outline.host), exact=exact)


def _array(numbers: list[int] | None) -> np.ndarray | None:
    return None if numbers is None else np.array(numbers, np.int64)
