"""An engine on a board, from Python: load a network, stream vectors, read state and counters.

::

    from stillnet.sw.host.driver import Engine

    with Engine.open("/dev/ttyUSB0") as engine:
        engine.load("net.img")
        for gains in engine.stream(frames):
            ...

The same program works on a virtual board: ``Engine.open("sim:ulx3s-85f")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.budgets import BUDGET_BITS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.image import VERSION as IMAGE_VERSION
from stillnet.sw.contract.link import Command, Identity
from stillnet.sw.contract.registers import (
    Error,
    Register,
    Status,
    limit,
)
from stillnet.sw.contract.sources import INPUT, SECOND, encoder_select
from stillnet.sw.network.network import Network
from stillnet.sw.packing.packer import Image, load_image, pack
from stillnet.sw.partition.stream import chip_state
from stillnet.sw.util.progress import Progress, silent

from .changes import LinkVectors
from .counters import CounterRead
from .deployment import Deployment, Slots
from .loaded import Loaded, outline_of
from .serving import DEFAULT_PORT, Server
from .session import ConnectionLost, RefusedCommand, Session
from .state import StateAccess
from .steps import Steps
from .transport import Transport, open_transport
from .watch import Facts, Watch

__all__ = ["REFUSALS", "ConnectionLost", "Engine", "RefusedCommand"]

BLOCK_BYTES = 1024
"""Bytes of memory that one load command writes."""

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
        self._loaded: Loaded | None = None
        self._unknown = False  # steps may have been done of which nothing is known
        self._steps = Steps(self)
        self._state = StateAccess(self)
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

    def _outline(self, image: Image, base: int = 0) -> Loaded:
        return outline_of(image, base, self.config.word_bytes)

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

    def _network(self) -> Loaded:
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
            for y in self._steps.run(rows, window, integers=False):
                yield self.network.dequantize_output(y)

        if network.host is not None:
            network.host.check_streams()
        yield from chip(vectors) if host is None else host.run(vectors, chip)

    def stream_integers(
        self, vectors: Iterable[np.ndarray], *, window: int | None = None
    ) -> Iterator[np.ndarray]:
        """As :meth:`stream`, with integer vectors."""
        yield from self._steps.run(vectors, window, integers=True)

    # -- state ------------------------------------------------------------------------------------

    def clear(self) -> None:
        """All state and references zero: the beginning of a sequence."""
        self._network()
        self._ready(fresh=True)
        self._check_loaded(self._status())
        host = self._network().host
        if host is not None:
            host.clear()
        self._vectors.forget()  # in case the reply is lost
        self._session.call(Command.ACCESS, link.clear())
        self._wait(Status.LOADED | Status.IDLE)
        self._vectors.clear()
        self._unknown = False
        if self._watch is not None:
            self._watch.pause()
            self._watch.recovered()

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as ``Reference.get_state`` gives it."""
        return self._state.get()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what :meth:`get_state` (or that of a reference) returned."""
        self._state.set(state)

    def set_hidden(self, values: dict[tuple[int, str], np.ndarray]) -> None:
        """As ``Reference.set_hidden``: clear, then send given states through the encoders.

        Parameters
        ----------
        values : dict of (layer, state name) to int array, shape (units,)
        """
        self._state.set_hidden(values)

    def clear_cells(self) -> None:
        """As ``Reference.clear_cells``: h of EGRUs becomes zero, all that was sent stays sent."""
        self._state.clear_cells()

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
        if source == INPUT:  # if the reply is lost, nobody knows which one the board has
            self._vectors.threshold = None
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
        if source == INPUT:  # as with a threshold
            self._vectors.budget = None
            self._vectors.forget()
        self._session.call(Command.ACCESS, payload)
        if source == INPUT:
            self._vectors.budget = events

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

    def _counter_read(self) -> CounterRead:
        selects = {"input": encoder_select(INPUT)} if self._loaded is None else self._loaded.selects
        return CounterRead(selects, late=self.config.budgets)

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
        if self._loaded is None and not self._steps.running:
            self._ready(fresh=True)
            status, base = self._running()
            half, room = self._slots.half, self._slots.room
            loaded = status & Status.LOADED
            running = (0, 0) if not loaded else (0, half) if base < half else (half, room)
        deployment = self._slots.deploy(
            image, state=state, watchdog=watchdog, share=share, progress=progress, running=running
        )
        if not self._steps.running:
            self._slots.finish()
        return deployment

    def rollback(self, reason: str = "asked for") -> None:
        """Goes back to the network before the latest :meth:`deploy`, with its state cleared.

        While a stream runs: with the next step.
        """
        if self._steps.running:
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
            while self._steps.order and self._steps.order[0].step is None:
                with suppress(RefusedCommand):
                    next(self._steps.answer(self._steps.order), None)
        except StillnetError:
            self._unknown = True

    def _drain(self) -> None:
        self._steps.order.clear()
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
