"""A small network with its calibration, and a program that streams through a puppet board."""

from __future__ import annotations

import functools

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.host.driver import Engine
from stillnet.sw.model.model import Model
from stillnet.sw.monitor.client import Client
from stillnet.sw.monitor.monitor import Monitor
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import fit
from tests.support.networks.quick import quantize
from tests.support.puppet_board import PuppetBoard

__all__ = ["Stream", "model", "network", "recording"]

INPUTS = 6


@functools.cache
def model() -> Model:
    """A GRU and a dense layer."""
    rng = np.random.default_rng(1)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape)

    gru = Model(inputs=INPUTS).gru(weights(36, INPUTS), weights(36, 12), weights(36), weights(36))
    return gru.dense(weights(4, 12), weights(4), "sigmoid")


def recording(seed: int, steps: int = 400) -> np.ndarray:
    """Input that wanders about zero and never stands still."""
    rng = np.random.default_rng(seed)
    x = np.zeros((steps, INPUTS))
    for t in range(1, steps):
        x[t] = 0.9 * x[t - 1] + rng.normal(0, 0.2, INPUTS)
    return x


@functools.cache
def network() -> Network:
    """Its integers."""
    return quantize(model(), [recording(s) for s in range(4)], thresholds=0.25)


class Stream:
    """A driver that serves, on a puppet board, and a monitor that is attached.

    Parameters
    ----------
    seconds : float
        What the board takes for a step.
    monitor : dict of options for the monitor
    serve : options of ``Engine.serve``
    """

    def __init__(self, *, seconds: float = 0.0, monitor: dict | None = None, **serve) -> None:
        self.network = network()
        config = fit(self.network, EngineConfig.load("axi64"))
        self.board = PuppetBoard(self.network, config, seconds=seconds)
        self.engine = Engine(self.board, timeout=0.6, retry=0.05)
        self.engine.load(self.network)
        self.address = self.engine.serve(0, **{"interval": 0.02, **serve})
        self.monitor = Monitor(Client(self.address), self.network, **(monitor or {}))

    def run(self, x: np.ndarray, window: int | None = 1) -> np.ndarray:
        """Streams float vectors, then lets the monitor look."""
        y = np.stack(list(self.engine.stream(x, window=window)))
        assert self.monitor.poll()
        return y

    def kinds(self) -> set[str]:
        """Kinds of what is wrong now."""
        return {alarm.kind for alarm in self.monitor.alarms.active}

    def alarm(self, kind: str):
        """The one alarm of a kind."""
        (found,) = [a for a in self.monitor.alarms.active if a.kind == kind]
        return found

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
