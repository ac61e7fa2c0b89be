"""What looking on costs a stream: ``python -m tests.support.measure.monitor``.

A program streams 161 elements in and out 100 times per second, as NSNet2 does, through a board
that answers at once: what is measured is the host's work. Phases with and without a monitor
alternate. It prints the figures of docs/how-to/watching-a-board.md.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.host.driver import Engine
from stillnet.sw.model.model import Model
from stillnet.sw.packing.engine_fit import fit
from tests.support.networks.quick import quantize
from tests.support.puppet_board import PuppetBoard

SIZE, RATE, STEPS, ROUNDS = 161, 100, 400, 4
WAYS = {"no monitor": None, "monitor": 0, "monitor, every=1": 1}


def attached(address: str) -> None:
    """A monitor in a process of its own."""
    from stillnet.sw.monitor.client import Client
    from stillnet.sw.monitor.monitor import Monitor

    monitor = Monitor(Client(address))
    while True:
        monitor.poll()
        time.sleep(0.5)


def paced(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Vectors in real time."""
    begin = time.monotonic()
    for k, row in enumerate(rows):
        time.sleep(max(0.0, begin + k / RATE - time.monotonic()))
        yield row


def one(engine: Engine, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """CPU seconds per step of the thread that streams, and wall seconds from vector to output."""
    wall, begin, at = [], time.thread_time(), 0.0

    def noted() -> Iterator[np.ndarray]:
        nonlocal at
        for row in paced(rows):
            at = time.perf_counter()
            yield row

    for _ in engine.stream_integers(noted(), window=1):
        wall.append(time.perf_counter() - at)
    return (time.thread_time() - begin) / len(rows), np.array(wall)


def main() -> None:
    rng = np.random.default_rng(0)
    model = Model(inputs=SIZE).dense(rng.normal(0, 0.05, (SIZE, SIZE)), np.zeros(SIZE), "sigmoid")
    network = quantize(model, [rng.normal(0, 1, (100, SIZE))])
    rows = rng.integers(-2000, 2000, (STEPS, SIZE))
    board = PuppetBoard(network, fit(network, EngineConfig.load("axi64")))
    board._step = lambda x: bytes(2 * SIZE)  # type: ignore[method-assign]
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    wall: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, every in WAYS.items():
            with Engine(board) as engine:
                engine.load(network)
                watcher = None
                if every is not None:
                    address = engine.serve(0, deadline=0.01, every=every)
                    context = multiprocessing.get_context("spawn")
                    watcher = context.Process(target=attached, args=(address,), daemon=True)
                    watcher.start()
                    time.sleep(2)
                seconds, times = one(engine, rows)
                cpu[name].append(seconds)
                wall[name].append(times)
                if watcher is not None:
                    watcher.terminate()
    base = np.median(cpu["no monitor"])
    for name in WAYS:
        used, times = float(np.median(cpu[name])), np.concatenate(wall[name])
        print(
            f"{name:18} {1e6 * used:6.0f} us CPU per step, {used - base:+.6f} s = "
            f"{(used - base) * RATE:.2%} of a step of {1000 / RATE:g} ms; vector to output: median "
            f"{1e6 * np.median(times):.0f} us, 99 % {1e6 * np.quantile(times, 0.99):.0f} us"
        )


if __name__ == "__main__":
    main()
