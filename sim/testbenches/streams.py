"""What the benches share: clock and reset, streams that pause at random, packed values, a session
of the host driver."""

from __future__ import annotations

import os
import random
from collections import deque
from typing import Any

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, Timer

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference

from .runner import INPUTS

__all__ = ["Sink", "Source", "host_session", "packed", "random_numbers", "start", "unpacked"]


async def start(dut: Any, period_ns: int = 10) -> None:
    """Every input is zero; then a clock and a reset."""
    for name in os.environ[INPUTS].split(","):
        getattr(dut, name).value = 0
    await Timer(period_ns, "ns")  # combinational logic settles before the first edge
    Clock(dut.clk, period_ns, unit="ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


def random_numbers() -> np.random.Generator:
    """A generator of NumPy that follows the seed of the bench."""
    return np.random.default_rng(random.getrandbits(64))


def host_session(
    transport: Any, network: Network, config: EngineConfig, *, timeout: float, retry: float
) -> tuple[int, int, dict[str, int]]:
    """What a host does with an engine: load, step, read state, stream, clear, restore state.

    Everything is compared with the reference. It runs in a thread of the driver.

    Parameters
    ----------
    transport : Transport
    network : Network
    config : EngineConfig
        Of the engine.
    timeout, retry : float
        Patience of the driver, in simulated seconds.

    Returns
    -------
    compared, steps, errors
        Vectors that were compared, steps that the engine counted, and faults of the line.
    """
    rng = random_numbers()
    rows = np.cumsum(rng.integers(-900, 901, (6, network.inputs)), axis=0)
    reference = Reference(network, config=config)
    with Engine(transport, timeout=timeout, retry=retry) as engine:
        assert engine.config.fingerprint == config.fingerprint
        engine.load(network)
        for row in rows[:2]:
            got = engine.step_integers(row)
            assert np.array_equal(got, reference.step_integers(row)), "a step"
        state, expected = engine.get_state(), reference.get_state()
        assert all(np.array_equal(state[name], expected[name]) for name in expected), "state"
        for got, row in zip(engine.stream_integers(iter(rows[2:])), rows[2:]):
            assert np.array_equal(got, reference.step_integers(row)), "a step of a stream"
        engine.clear()
        reference.clear()
        got = engine.step_integers(rows[0])
        assert np.array_equal(got, reference.step_integers(rows[0])), "the step after a clear"
        engine.set_state(state)
        reference.set_state(expected)
        got = engine.step_integers(rows[2])
        assert np.array_equal(got, reference.step_integers(rows[2])), "the step after a restore"
        return len(rows) + 2, engine.counters()["steps"], dict(engine.session.errors)


def packed(layout: data.StructLayout, **values: Any) -> int:
    """A structure as the integer on its wires; what is not named is zero."""
    return layout.const(values).as_bits()


def unpacked(layout: data.StructLayout, signal: Any) -> Any:
    """The fields of a structure on wires."""
    return layout.from_bits(int(signal.value))


class Source:
    """Offers payloads to an input stream: ``NAME__payload``, ``NAME__valid``, ``NAME__ready``.

    Parameters
    ----------
    dut : the design
    name : str
    pause : float
        Chance in each cycle that the next payload is not yet offered.
    """

    def __init__(self, dut: Any, name: str, pause: float = 0.0) -> None:
        self._clock = dut.clk
        self._signals = [getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready")]
        self.pause = pause
        self.waiting: deque[int] = deque()
        """Payloads that were not taken yet."""
        cocotb.start_soon(self._run())

    def send(self, *payloads: int) -> None:
        """Adds payloads to those that wait."""
        self.waiting.extend(payloads)

    async def _run(self) -> None:
        payload, valid, ready = self._signals
        while True:
            if not self.waiting or random.random() < self.pause:
                valid.value = 0
                await RisingEdge(self._clock)
                continue
            payload.value = self.waiting[0]
            valid.value = 1
            await RisingEdge(self._clock)
            while not int(ready.value):
                await RisingEdge(self._clock)
            self.waiting.popleft()


class Sink:
    """Takes payloads from an output stream, and sees that it keeps the rules of streams.

    Parameters
    ----------
    dut, name, pause
        As for :class:`Source`; pauses are cycles in which nothing is taken.
    """

    def __init__(self, dut: Any, name: str, pause: float = 0.0) -> None:
        self._clock = dut.clk
        self._name = name
        self._signals = [getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready")]
        self.pause = pause
        self.taken: deque[int] = deque()
        """Payloads in the order in which they came; the bench takes them out."""
        cocotb.start_soon(self._run())

    async def get(self) -> int:
        """The next payload."""
        while not self.taken:
            await RisingEdge(self._clock)
        return self.taken.popleft()

    async def _run(self) -> None:
        payload, valid, ready = self._signals
        held: int | None = None
        while True:
            taking = random.random() >= self.pause
            ready.value = int(taking)
            await RisingEdge(self._clock)
            if not int(valid.value):
                assert held is None, f"{self._name}: valid fell before ready"
                continue
            value = int(payload.value)
            assert held in (None, value), f"{self._name}: the payload changed while it waited"
            held = None if taking else value
            if taking:
                self.taken.append(value)
