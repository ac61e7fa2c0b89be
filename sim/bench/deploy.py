"""``stillnet bench deploy``: an image of a megabyte beside a running stream, on a virtual board.

A step every 10 ms, a line of 3 Mbaud, and half of its time for the image: to load a megabyte takes
700 steps, or 7 * 10^8 cycles. So here a byte takes ten cycles on the line, and steps come faster by
the same factor, 33 at 100 MHz: bytes per step are as they are at 3 Mbaud. What the board does by
itself, a step, a part of the checksum, the load of tables, then weighs 33 times as much as in
service. A switch does not depend on the size, so the other rows have a smaller image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stillnet.boards.board import Board
from stillnet.boards.catalogue import of_preset
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.link import BITS_PER_BYTE
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.driver.deployment import Deployment
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import Image, pack
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "CASES", "Case", "deploy", "measure"]

Progress = Callable[[str, int, int], None]

PERIOD, BAUD = 10e-3, 3_000_000
"""In service: seconds from step to step, and the rate of the serial port."""
BEFORE, AFTER = 12, 20
"""Steps before the image begins to come, and behind the switch."""
BYTE_CYCLES = 10
"""Of a byte on the line here."""
SLICE = 32
"""Bytes that are given to the board at once."""

UNITS, OUTPUTS = 64, 8
LARGE, SMALL = 5600, 120
"""Tokens of networks of 1.08 MB and 33 kB: each has a column of 192 bytes."""


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes
    ----------
    preset : str
        Of a board, with or without a hot store.
    tokens : int
    state : str
        ``clear`` or ``carry``.
    """

    preset: str
    tokens: int
    state: str

    @property
    def board(self) -> Board:
        """With the rate of the line as it is here."""
        found = of_preset(self.preset)
        assert found is not None
        return replace(found, baud=found.clock_hz * BITS_PER_BYTE // BYTE_CYCLES)

    @property
    def faster(self) -> float:
        """Than in service."""
        return self.board.baud / BAUD

    @property
    def period(self) -> int:
        """Cycles of the engine's clock from step to step."""
        return round(PERIOD / self.faster * self.board.clock_hz)


CASES = (
    Case("ulx3s-85f", LARGE, "clear"),
    Case("ulx3s-85f", SMALL, "clear"),
    Case("ulx3s-85f", SMALL, "carry"),
    Case("ulx3s-85f-tiers", SMALL, "clear"),
    Case("ulx3s-85f-tiers", SMALL, "carry"),
)


class Paced:
    """A virtual board at the end of a line: every byte takes its time, in either direction.

    Whoever writes waits until the bytes are there, so nothing is faster than on a real line.
    """

    def __init__(self, model: VirtualBoard) -> None:
        self.model, self.name, self.baud = model, model.name, model.baud

    def now(self) -> float:
        """Simulated seconds."""
        return self.model.now()

    def write(self, data: bytes) -> None:
        """Bytes to the board."""
        for k in range(0, len(data), SLICE):
            part = data[k : k + SLICE]
            self.model.run(BYTE_CYCLES * len(part))
            self.model.write(part)

    def read(self, timeout: float) -> bytes:
        """Bytes from the board."""
        data = self.model.read(timeout)
        self.model.run(BYTE_CYCLES * len(data))
        return data

    def close(self) -> None:
        """The board outlives it."""


def networks(tokens: int) -> tuple[Network, Network]:
    """A GRU over tokens and a layer behind it, and the same with other weights."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / shape[-1] ** 0.5, shape)

    model = Model(tokens, one_hot=True, name="first")
    model = model.gru(rng.normal(0, 0.5, (3 * UNITS, tokens)), weights(3 * UNITS, UNITS))
    model = model.dense(weights(OUTPUTS, UNITS), weights(OUTPUTS))
    first = quantize(model, rng.integers(0, tokens, 200), method="nearest", planes=())
    second = copy.deepcopy(first)
    second.name = "second"
    for layer in second.layers:
        for matrix in layer.matrices:
            matrix.weight[...] = np.clip(matrix.weight.astype(int) // 2 + 1, -127, 127)
    return first, second


def engine_of(target: Board) -> EngineConfig:
    """A small engine, which is quick to simulate, with the memories that the board has."""
    own = target.config()
    return EngineConfig(
        name="deploy",
        lanes=own.lanes,
        cells=("gru", "linear"),
        units=128,
        inputs=64,
        accumulators=256,
        layers=4,
        matrices=12,
        address_bits=own.address_bits,
        bus_bits=own.bus_bits,
        bus_clock=own.bus_clock,
        columns=own.columns,
        hot_words=2048 if own.hot_words else 0,
        fetch_columns=32,
        fetch_words=128,
        row_scale=True,
    )


class Stream:
    """A program that streams tokens in time, and what it saw of each step.

    Attributes
    ----------
    due, done : list of int
        Cycle in which a step's token was there, and in which its output was.
    names : list of str
        The network that had made the output.
    """

    def __init__(self, case: Case, image: Image, tokens: np.ndarray) -> None:
        self.case, self.image, self.tokens = case, image, tokens
        self.due: list[int] = []
        self.done: list[int] = []
        self.names: list[str] = []
        self.deployment: Deployment | None = None

    def run(self, model: VirtualBoard, engine: Engine) -> list[np.ndarray]:
        """Until some steps behind the switch; the outputs."""
        outputs = []
        for y in engine.stream_integers(self._vectors(model, engine), window=1):
            outputs.append(y)
            self.done.append(model.cycle)
            self.names.append(engine.network.name)
        return outputs

    def _vectors(self, model: VirtualBoard, engine: Engine) -> Iterator[np.ndarray]:
        next_one = model.cycle
        for k, token in enumerate(self.tokens):
            if model.cycle < next_one:
                model.run(next_one - model.cycle)
            if k == BEFORE:
                self.deployment = engine.deploy(self.image, state=self.case.state)
            if self.names[-AFTER:].count("second") == AFTER:
                return
            self.due.append(next_one)
            next_one += self.case.period
            yield np.array([token])


def _check(stream: Stream, pair: tuple[Network, Network], outputs: list[np.ndarray]) -> int:
    """Every output against the reference of the network that ran; the step of the switch."""
    switch = stream.names.index("second")
    reference = Reference(pair[0])
    reference.clear()
    for k, y in enumerate(outputs):
        if k == switch:
            state, reference = reference.get_state(), Reference(pair[1])
            reference.clear()
            if stream.case.state == "carry":
                reference.set_state(state)
        if not np.array_equal(y, reference.step_integers(stream.tokens[k : k + 1])):
            raise RuntimeError(f"step {k} is not that of network {stream.names[k]}")
    return switch


def measure(case: Case) -> dict[str, Any]:
    """One row.

    Raises
    ------
    RuntimeError
        If an output is not that of the network that ran.
    """
    pair, target = networks(case.tokens), case.board
    config = engine_of(target)
    first, second = (pack(network, config) for network in pair)
    tokens = np.random.default_rng(2).integers(0, case.tokens, 5000)
    model = VirtualBoard(target, config=config)
    stream = Stream(case, second, tokens)
    try:
        with Engine(Paced(model), timeout=1.0, retry=0.01) as engine:
            engine.load(first)
            outputs = stream.run(model, engine)
    finally:
        model.close()
    switch, deployment = _check(stream, pair, outputs), stream.deployment
    assert deployment is not None and deployment.switch_seconds is not None
    late = np.array(stream.done) - np.array(stream.due)
    milliseconds = 1e3 / target.clock_hz
    return {
        "board": case.preset,
        "bytes": len(second.hardware),
        "hot_words": config.hot_words,
        "faster": case.faster,
        "period_ms": case.period * milliseconds,
        "state": case.state,
        "steps": switch - BEFORE,
        "before_ms": float(late[1:BEFORE].max() * milliseconds),
        "during_ms": float(late[BEFORE:switch].max() * milliseconds),
        "switch_ms": deployment.switch_seconds * 1e3,
        "first_ms": float(late[switch] * milliseconds),
        "after_ms": float(late[switch + 1 :].max() * milliseconds),
        "missed": int((late > case.period).sum()),
    }


def deploy(progress: Progress | None = None) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    for k, case in enumerate(CASES):
        rows.append(measure(case))
        if progress:
            progress("deployments", k + 1, len(CASES))
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "service_ms": row["switch_ms"] * row["faster"]} for row in rows]
    columns = {
        "board": ("board", ""),
        "bytes": ("bytes", ",.0f"),
        "faster": ("faster than 3 Mbaud", ".2f"),
        "period_ms": ("period, ms", ".3g"),
        "state": ("state", ""),
        "steps": ("steps until the switch", ",.0f"),
        "before_ms": ("worst step before, ms", ".3f"),
        "during_ms": ("while it loads", ".3f"),
        "switch_ms": ("switch, ms", ".3f"),
        "service_ms": ("at 3 Mbaud, at most", ".2f"),
        "first_ms": ("first step of the new one", ".3f"),
        "after_ms": ("worst step after", ".3f"),
        "missed": ("steps missed", ",.0f"),
    }
    return table(shown, columns)


BENCH = Bench(
    name="deploy",
    title="A new network beside a running stream",
    about=(
        "A step every 10 ms, half of the line's time for the image, a virtual board of a "
        "small engine with the board's SDRAM; every output is compared with the reference. A step "
        "is missed when its output comes after the next token. So that a simulation ends, the line "
        "is faster than 3 Mbaud, and steps are closer by the same factor: a step has room for as "
        "many bytes. Switch: from the last output before it until the board takes tokens again; at "
        "3 Mbaud what of it is the line's takes longer by that factor."
    ),
    measure=lambda progress: deploy(progress),
    markdown=_markdown,
)
