"""Boards in simulation for the tests of the host link, and a wire that damages what it carries."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np

from stillnet.sim.board.link import LinkBench, LinkModel
from stillnet.sw.contract import link
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.network import Network
from tests.support.networks.random import Seeded, random_inputs, random_network

__all__ = ["CONFIGS", "FaultyWire", "Raw", "board", "connect", "inputs", "network", "pumped"]

CLOCK = 100_000_000
BAUD = 3_000_000
RAM_WORDS = 8192

_SMALL = {
    "units": 128,
    "inputs": 40,
    "accumulators": 512,
    "layers": 4,
    "matrices": 24,
    "address_bits": 16,
    "fetch_columns": 16,
    "fetch_words": 32,
    "prefetch_blocks": 2,
}
CONFIGS = {
    "wide": EngineConfig(
        name="wide", lanes=8, cells=("gru", "linear", "relu"), second_threshold=True, **_SMALL
    ),
    "narrow": EngineConfig(name="narrow", lanes=2, cells=("relu", "linear"), **_SMALL),
    "events": EngineConfig(name="events", lanes=4, cells=("egru", "lstm", "linear"), **_SMALL),
    "budgets": EngineConfig(
        name="budgets", lanes=4, cells=("gru", "linear"), row_scale=True, budgets=True, **_SMALL
    ),
    "slots": EngineConfig(
        name="slots", lanes=4, cells=("gru", "linear"), **(_SMALL | {"address_bits": 13})
    ),
}
"""Words of 64 bits (two register writes each) and of 16 (half of one)."""


@functools.cache
def _bench(name: str) -> LinkBench:
    slots = name == "slots"
    words = 1 << CONFIGS[name].address_bits if slots else RAM_WORDS  # all of it is used
    return LinkBench(CONFIGS[name], ram_words=words, clock_hz=CLOCK, baud=BAUD, slots=slots)


def board(name: str = "wide", *, serial: bool = False) -> LinkModel:
    """A board that was just switched on; ``slots`` has room for two images."""
    return LinkModel(_bench(name), serial=serial)


def connect(transport: object, *, timeout: float = 0.02, retry: float = 2e-4) -> Engine:
    """The driver, with patience in simulated time."""
    return Engine(transport, timeout=timeout, retry=retry)  # type: ignore[arg-type]


def network(seed: int, name: str = "wide") -> Network:
    """A random network for a board."""
    return random_network(Seeded(seed), CONFIGS[name], max_units=24)


def inputs(seed: int, net: Network, steps: int) -> np.ndarray:
    """Random integer vectors for a network."""
    return random_inputs(Seeded(1000 + seed), net, steps)


class FaultyWire:
    """A transport that changes, drops, adds and repeats bytes at random, in both directions.

    Parameters
    ----------
    inner : Transport
    seed : int
    rate : float
        Chance of a fault at each byte.
    """

    def __init__(self, inner: LinkModel, seed: int, rate: float) -> None:
        self.inner = inner
        self.name = "the faulty wire"
        self.rate = rate
        self.faults = 0
        self._rng = np.random.default_rng(seed)

    def _damage(self, data: bytes) -> bytes:
        places = np.flatnonzero(self._rng.random(len(data)) < self.rate)
        result = bytearray(data)
        for at in places[::-1]:  # from the end, so that earlier places stay right
            self.faults += 1
            kind = self._rng.integers(6)
            if kind == 0:
                result[at] ^= 1 << int(self._rng.integers(8))
            elif kind == 1:
                del result[at]
            elif kind == 2:
                result[at:at] = self._rng.bytes(int(self._rng.integers(1, 40)))
            elif kind == 3:
                del result[at : at + int(self._rng.integers(1, 200))]
            elif kind == 4:
                result[at] = link.FLAG if self._rng.integers(2) else link.ESCAPE
            else:
                result[at:at] = result[max(0, at - 60) : at]
        return bytes(result)

    def write(self, data: bytes) -> None:
        self.inner.write(self._damage(data))

    def read(self, timeout: float) -> bytes:
        return self._damage(self.inner.read(timeout))

    def now(self) -> float:
        return self.inner.now()

    def close(self) -> None:
        self.inner.close()


class Raw:
    """Frames to and from a board, without a driver.

    Parameters
    ----------
    model : LinkModel
    """

    def __init__(self, model: LinkModel) -> None:
        self.model = model
        self.decoder = link.FrameDecoder()

    def send(self, kind: int, sequence: int, payload: bytes = b"", **options: int) -> None:
        self.model.write(link.encode(link.Frame(kind, sequence, payload), **options))

    def frames(self, cycles: int = 20_000) -> list[link.Frame]:
        """What comes until nothing has come for some time."""
        result = []
        while data := self.model.read(cycles / CLOCK):
            result += self.decoder.feed(data)
        return result

    def ask(self, kind: int, sequence: int, payload: bytes = b"") -> link.Frame:
        """A command that is answered by one frame."""
        self.send(kind, sequence, payload)
        (frame,) = self.frames()
        return frame


def pumped(model: LinkModel, push: Callable[[bytes], object], pull: Callable[[], bytes]):
    """Runs a board in a thread between two functions that move its bytes; returns how to stop."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            data = pull()
            if data:
                model.write(data)
            answer = model.read(2e-5)
            if answer:
                push(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(5)

    return stop
