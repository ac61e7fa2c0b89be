"""Vectors on their way to a board and back, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import Command, Outcome
from stillnet.sw.contract.registers import Region, Status
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network

from .counters import CounterRead
from .session import ConnectionLost, RefusedCommand

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Steps"]


class Awaited(NamedTuple):
    """A command whose reply is to come: a step with its vector, or what takes the reply."""

    step: bytes | None
    take: Callable[[bytes], None] | None = None
    kind: Command = Command.ACCESS


class Steps:
    """The stream of an engine: what was sent, and what its replies are for.

    Between the steps go readings of the counters and pieces of another image.

    Parameters
    ----------
    engine : Engine

    Attributes
    ----------
    order : deque of Awaited
        Commands whose replies are to come.
    running, integers : bool
        A stream runs; its vectors are integers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.order = deque[Awaited]()
        self.running = self.integers = False

    def run(
        self, vectors: Iterable[np.ndarray], window: int | None, *, integers: bool
    ) -> Iterator[np.ndarray]:
        """Integer vectors in, integer vectors out, as :meth:`Engine.stream`."""
        engine = self._engine
        if window is not None and window < 1:
            raise StillnetError(f"window must be at least 1, not {window}")
        network = engine.network
        engine._ready()
        session, reply = engine._session, engine._vectors.most_reply(engine.identity)
        most = window or engine.identity.window
        size = 1 if network.input_mode.one_hot else network.inputs
        self.order = order = deque[Awaited]()
        self.running, self.integers = True, integers
        count = 0
        finished = False
        try:
            source = iter(vectors)
            while True:
                # Before the next vector is asked for, because it has the formats of the network.
                if engine._slots.due:
                    yield from self._answers(order, 0)
                    engine._slots.switch()
                if (x := next(source, None)) is None:
                    break
                data = self._elements(x, size)
                if engine._vectors.unknown:
                    yield from self._answers(order, 0)
                    self._read_reference()
                if engine._watch is not None:
                    if engine._watch.wanted() is not None:
                        yield from self._answers(order, 0)
                        engine._give_state()
                    engine._watch.sent(np.asarray(x), session.errors)
                self._send_step(order, data, reply)
                count += 1
                while _steps_in(order) >= most or (order and not session.room(2 * size, reply)):
                    yield from self.answer(order)
            yield from self._answers(order, 0)
            if engine._watch is not None and count > 1:
                engine._watch_now()
            finished = True
        except ConnectionLost as error:
            engine._unknown = True
            finished = True
            engine._fail(error)
            raise
        except StillnetError as error:
            engine._fail(error)
            raise
        finally:
            self.running = False
            if not finished and session.connected:
                try:
                    while order:
                        with suppress(RefusedCommand):
                            next(self.answer(order), None)
                    session.drain()
                except StillnetError:
                    engine._unknown = True

    def _read_reference(self) -> None:
        """What the board's input encoder has passed on; no step is in flight. A board without a
        network refuses the step that follows."""
        engine = self._engine
        if engine._vectors.unknown and engine._status() & Status.LOADED:
            engine._wait(Status.IDLE)
            engine._vectors.reference = engine._state.read_elements(
                Region.INPUT, 0, engine.network.inputs
            )

    def _send_step(self, order: deque[Awaited], data: bytes, reply: int) -> None:
        engine = self._engine
        kind, payload = engine._vectors.command(np.frombuffer(data, "<i2"), engine.identity)
        engine._session.send(kind, payload, reply)
        order.append(Awaited(data, kind=kind))

    def _answers(self, order: deque[Awaited], left: int) -> Iterator[np.ndarray]:
        """Takes replies until ``left`` are to come; gives the outputs among them."""
        while len(order) > left:
            yield from self.answer(order)

    def answer(self, order: deque[Awaited]) -> Iterator[np.ndarray]:
        """Takes the next reply: an output, or what another one waits for."""
        engine = self._engine
        session, watch = engine._session, engine._watch
        awaited = order.popleft()
        try:
            data = session.receive()
        except RefusedCommand as error:
            if awaited.step is not None:
                engine._vectors.forget()
            if awaited.step is None or error.outcome != Outcome.NOT_LOADED:
                raise
            self._again(order, awaited, error)
            return
        if awaited.take is not None:
            awaited.take(data)
        if awaited.step is None:
            return
        y = self._output(awaited.kind, data, engine.network)
        if watch is not None:
            watch.answered(y, session.errors)
            if watch.due():
                self._ask_counters(order)
        for payload, reply, take in engine._slots.commands():
            session.send(Command.ACCESS, payload, reply)
            order.append(Awaited(None, take))
        yield y

    def _again(self, order: deque[Awaited], first: Awaited, error: RefusedCommand) -> None:
        """Repeats steps that were refused because the watchdog has gone back to another image."""
        engine = self._engine
        steps, network = [first], engine.network
        while order:
            steps.append(order.popleft())
            with suppress(RefusedCommand):
                engine._session.receive()
        if not engine._slots.struck():
            raise error
        self._read_reference()
        reply = engine._vectors.most_reply(engine.identity)
        for step in (awaited.step for awaited in steps if awaited.step is not None):
            self._send_step(order, self._in_formats_of(network, step), reply)

    def _in_formats_of(self, other: Network, data: bytes) -> bytes:
        """An input vector that was made for another network."""
        engine = self._engine
        network = engine.network
        same = np.array_equal(other.units_of(INPUT), network.units_of(INPUT))
        if network.input_mode.one_hot or same:
            return data
        x = np.frombuffer(data, "<i2") / other.units_of(INPUT)
        return self._elements(network.quantize_input(x[None])[0], network.inputs)

    def _ask_counters(self, order: deque[Awaited]) -> None:
        """Asks for the counters between two steps, where the board has room for it."""
        engine = self._engine
        read = engine._counter_read()
        if engine._watch is not None and engine._session.room(len(read.payload), read.reply_bytes):
            engine._watch.asked()
            engine._session.send(Command.ACCESS, read.payload, read.reply_bytes)
            order.append(Awaited(None, lambda data: self._take_counters(read, data)))

    def _take_counters(self, read: CounterRead, data: bytes) -> None:
        engine = self._engine
        if engine._watch is not None:
            engine._watch.counters(read.values(data), engine._session.errors)

    def _elements(self, x: np.ndarray, size: int) -> bytes:
        engine = self._engine
        x = np.asarray(x)
        if x.shape != (size,) or x.dtype.kind not in "iu":
            raise StillnetError(
                f"the vector has shape {x.shape} and type {x.dtype}; network "
                f"'{engine.network.name}' takes integers of shape ({size},)"
            )
        network = engine.network
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
        engine = self._engine
        y = engine._vectors.output(kind, data)
        if y is None:
            engine._session.connected = False
            engine._unknown = True
            raise StillnetError(
                f"the board answered a step with {len(data)} bytes, network '{network.name}' has "
                f"{network.outputs} outputs of 2; load the network again"
            )
        return y


def _steps_in(order: deque[Awaited]) -> int:
    """Steps whose outputs are to come."""
    return sum(awaited.step is not None for awaited in order)
