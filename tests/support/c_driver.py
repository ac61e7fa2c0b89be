"""The host driver in C, compiled with sanitizers, and held by its strings from Python.

``tests/sw/host/c/puppet.c`` is the program: it calls what it is told, and hands each callback to
the test. So the driver works on a simulated board, or on registers in a simulation, in simulated
time, and the same way in every run.
"""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS
from stillnet.sw.contract.registers import COUNTERS, Control, Register
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.c_driver import write_c_driver
from stillnet.sw.network.network import Network
from tests import ROOT

__all__ = [
    "ERRORS",
    "FLAGS",
    "BusHost",
    "CError",
    "LinkHost",
    "Puppet",
    "c_state",
    "compile_c",
    "driver_folder",
]

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion")
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PROGRAMS = ROOT / "tests/sw/host/c"
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
TICK = 1e-6
"""Seconds of simulated time that the driver takes for a millisecond."""


def _errors() -> list[str]:
    text = (ROOT / "sw/host/c/stillnet.h").read_text()
    body = text[text.index("STILLNET_OK,") : text.index("STILLNET_ERRORS\n")]
    lines = (line.split("/*")[0].strip().rstrip(",") for line in body.splitlines())
    return [line.removeprefix("STILLNET_") for line in lines if line.startswith("STILLNET_")]


ERRORS = _errors()
"""Names of the driver's errors, by number."""


class CError(Exception):
    """The driver returned an error.

    Attributes
    ----------
    name : str
        Without ``STILLNET_``.
    sentence : str
    """

    def __init__(self, code: int, sentence: str) -> None:
        self.name, self.sentence = ERRORS[code], sentence
        super().__init__(sentence)


@functools.cache
def driver_folder(config: EngineConfig) -> Path:
    """A folder with the driver for an engine."""
    made = tempfile.TemporaryDirectory(prefix="stillnet-c-")
    _FOLDERS.append(made)
    write_c_driver(made.name, config=config)
    return Path(made.name)


@functools.cache
def compile_c(program: str, config: EngineConfig, options: tuple[str, ...] = SANITIZED) -> Path:
    """A program of ``tests/sw/host/c`` with the driver for an engine."""
    folder = driver_folder(config)
    target = folder / f"{Path(program).stem}-{abs(hash(options)):x}"
    sources = [PROGRAMS / program, folder / "stillnet.c"]
    command = ["gcc", *FLAGS, *options, f"-I{folder}", *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def c_state(state: dict[str, np.ndarray], network: Network, config: EngineConfig) -> bytes:
    """What ``Reference.get_state`` gives, in the order of the C driver."""
    first = np.asarray(state[f"{INPUT}/reference"])
    if network.input_mode.one_hot:
        token = np.flatnonzero(first)
        first = np.array([token[0] if len(token) else -1])
    layers = list(enumerate(network.layers))
    parts = [first, *(state[f"{i}/reference"] for i, _ in layers)]
    if config.second_threshold:
        parts += [state.get(f"{i}/reference_second", state[f"{i}/reference"]) for i, _ in layers]
    data = b"".join(np.asarray(part).astype("<i2").tobytes() for part in parts)
    for name in config.state_names:
        size = 4 if config.state_bits(name) > ACTIVATION_BITS else 2
        for i, layer in layers:
            if name in CELLS[layer.cell].state:
                data += np.asarray(state[f"{i}/{name}"]).astype(f"<i{size}").tobytes()
    if config.budgets:
        windows = [int(state.get(f"{s}/window", [0])[0]) for s in (INPUT, *dict(layers))]
        data += np.array(windows, "<i2").tobytes()
    return data


class Puppet:
    """The program with the driver, and the host at its callbacks.

    Parameters
    ----------
    config : EngineConfig
    host : LinkHost or BusHost
        Its ``answer`` gives the bytes of the answer to a callback, none for writes: ``W``, ``R`` of
        a link; ``w``, ``r``, ``p``, ``g`` of a bus. ``now`` is the driver's clock.
    """

    def __init__(self, config: EngineConfig, host: Any) -> None:
        self.host = host
        self.config = config
        self.progress: list[tuple[int, int]] = []
        self._process = subprocess.Popen(
            [str(compile_c("puppet.c", config))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self) -> None:
        """Ends the program; it must have had nothing to complain of."""
        _, complaint = self._process.communicate()
        assert self._process.returncode == 0, complaint.decode()

    # -- the strings ------------------------------------------------------------------------------

    def take(self, size: int) -> bytes:
        """Bytes from the program."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) != size:
            _, complaint = self._process.communicate()
            raise AssertionError(f"the program has ended: {complaint.decode()}")
        return data

    def number(self) -> int:
        """A number from the program."""
        return int.from_bytes(self.take(4), "little")

    def _give(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def events(self, what: str, data: bytes = b"") -> Iterator[str]:
        """Calls a function of the driver, and gives the kind of each callback until it is done.

        The next one is asked for when the callback is answered: :meth:`reply`.
        """
        self._give(what.encode() + self._world() + data)
        while (kind := self.take(1).decode()) != "=":
            if kind == "P":
                self.progress.append((self.number(), self.number()))
            else:
                yield kind

    def reply(self, data: bytes) -> None:
        """Answers a callback."""
        if data:
            self._give(self._world() + data)

    def _world(self) -> bytes:
        """The time, and what writing to the link brings."""
        gone = getattr(self.host, "gone", False)
        return struct.pack("<Ii", int(self.host.now()) & 0xFFFF_FFFF, -1 if gone else 0)

    def outcome(self) -> bytes:
        """What the function has brought.

        Raises
        ------
        CError
        """
        code, data = self.number(), self.take(self.number())
        if code:
            raise CError(code, self.describe(code))
        return data

    def call(self, what: str, *values: int | bytes) -> bytes:
        """Calls a function and answers its callbacks."""
        data = b"".join(
            v if isinstance(v, bytes) else struct.pack("<I", v & 0xFFFF_FFFF) for v in values
        )
        for kind in self.events(what, data):
            self.reply(self.host.answer(kind, self))
        return self.outcome()

    # -- functions of the driver ------------------------------------------------------------------

    def open(self, *, retry: int = 200, timeout: int = 20_000, latest: int = 4096) -> None:
        """Over the link; times in units of ``TICK``. ``latest``: elements of the memory for the
        latest vectors, so that they go as changes; 0 for whole ones."""
        self.call("O", retry, timeout, latest)

    def open_bus(self, *, timeout: int = 20_000) -> None:
        """At the registers."""
        self.call("o", 0, timeout, 0)

    def load(self, image: bytes, base: int = 0, *, how: str = "l") -> None:
        """``stillnet_load``; ``s``, ``a`` and ``v`` for start, attach, verify."""
        self.call(how, len(image), image, base)

    def run(self, rows: np.ndarray, *, together: bool = True) -> np.ndarray:
        """Steps; integers."""
        data = np.ascontiguousarray(rows).astype("<i2").tobytes()
        found = self.call("N" if together else "S", len(rows), len(data), data)
        return np.frombuffer(found, "<i2").reshape(len(rows), -1).astype(np.int64)

    def submit(self, row: np.ndarray) -> None:
        """``stillnet_submit``."""
        self.call("u", np.asarray(row).astype("<i2").tobytes())

    def finish(self) -> np.ndarray:
        """``stillnet_finish``."""
        return np.frombuffer(self.call("f"), "<i2").astype(np.int64)

    def clear(self) -> None:
        """``stillnet_clear``."""
        self.call("c")

    def get_state(self) -> bytes:
        """``stillnet_get_state``."""
        return self.call("G")

    def set_state(self, state: bytes) -> None:
        """``stillnet_set_state``."""
        self.call("U", len(state), state)

    def set_threshold(self, source: int, value: int) -> None:
        """``stillnet_set_threshold``."""
        self.call("h", source, value)

    def counters(self) -> dict[str, int]:
        """``stillnet_get_counters``, by name."""
        values = np.frombuffer(self.call("C"), "<u4").tolist()
        return dict(zip((r.name.lower() for r in COUNTERS), values))

    def event_count(self, source: int) -> int:
        """``stillnet_get_events``."""
        return int.from_bytes(self.call("E", source), "little")

    def read(self, register: int) -> int:
        """``stillnet_read``."""
        return int.from_bytes(self.call("r", register), "little")

    def write(self, register: int, value: int) -> None:
        """``stillnet_write``."""
        self.call("w", register, value)

    def info(self) -> dict[str, int]:
        """Fields of the driver."""
        names = ("inputs", "outputs", "clock_hz", "repeated", "resumed", "state_size")
        return dict(zip(names, struct.unpack("<6I", self.call("i"))))

    def describe(self, code: int, size: int = 256) -> str:
        """``stillnet_describe``."""
        return self.call("d", code, size).decode()


class LinkHost:
    """The callbacks of a link, on a transport of the Python driver.

    Parameters
    ----------
    transport : Transport
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.gone = False
        self._rest = b""

    def now(self) -> float:
        """The driver's clock."""
        return self.transport.now() / TICK

    def answer(self, kind: str, ask: Puppet) -> bytes:
        """Answers one callback."""
        if kind == "W":
            data = ask.take(ask.number())
            if not self.gone:
                self.transport.write(data)
            return b""
        assert kind == "R", f"a link has no callback '{kind}'"
        size, timeout = ask.number(), ask.number()
        if self.gone:
            return struct.pack("<i", -1)
        if not self._rest:
            self._rest = self.transport.read(timeout * TICK)
        data, self._rest = self._rest[:size], self._rest[size:]
        return struct.pack("<i", len(data)) + data


class BusHost:
    """The callbacks of a bus, on a compiled engine, whose streams take what they like at a time.

    Parameters
    ----------
    model : EngineModel
    network : Network
    seed : int
    """

    def __init__(self, model: Any, network: Network, seed: int) -> None:
        self.model = model
        self.inputs = 1 if network.input_mode.one_hot else network.inputs
        self.outputs = network.outputs
        self.restored = self.inputs + sum(layer.units for layer in network.layers)
        self.restoring = 0  # elements that are no vector
        self._given: list[int] = []
        self._made: list[int] = []
        self._rng = np.random.default_rng(seed)

    def now(self) -> float:
        """The driver's clock."""
        return self.model.cycle / 100

    def answer(self, kind: str, ask: Puppet) -> bytes:
        """Answers one callback."""
        if kind == "w":
            offset, value = ask.number(), ask.number()
            assert offset % 4 == 0
            self.model.write(offset // 4, value)
            if offset == 4 * Register.CONTROL and value & Control.RESTORE:
                self.restoring = self.restored
            return b""
        if kind == "r":
            offset = ask.number()
            assert offset % 4 == 0
            return struct.pack("<I", self.model.read(offset // 4))
        count = ask.number()
        some = int(self._rng.integers(count + 1))
        if kind == "p":
            self._take(np.frombuffer(ask.take(2 * count), "<i2")[:some].tolist())
            return struct.pack("<I", some)
        assert kind == "g", f"a bus has no callback '{kind}'"
        data, self._made = self._made[:some], self._made[some:]
        self.model.ticks(100)
        return struct.pack("<I", len(data)) + np.array(data, "<i2").tobytes()

    def _take(self, elements: Sequence[int]) -> None:
        first, rest = elements[: self.restoring], elements[self.restoring :]
        if first:
            self.model.run(np.array(first, np.int64), 0, 1)
            self.restoring -= len(first)
        self._given += rest
        while self._given and len(self._given) >= self.inputs:
            vector = np.array(self._given[: self.inputs], np.int64)
            del self._given[: self.inputs]
            self._made += self.model.run(vector, 1, self.outputs)[0][0].tolist()
