"""What a network costs an engine: words, bytes, cycles and time per step, without simulating it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Trace
from stillnet.sw.network.tiers import choose_hot, layouts_of

from .memory import MemoryModel
from .schedule import ScheduleModel

__all__ = [
    "Cost",
    "column_words",
    "memory_words",
    "predict",
    "record_events",
    "step_events",
    "step_words",
    "words_within",
]

Events = list[dict[int, np.ndarray]]


def column_words(network: Network, config: EngineConfig) -> dict[int, np.ndarray]:
    """Words that one event of each element fetches, by source: int64, shape (size,).

    The second encoder of layer l stands under ``l + SECOND``, where it has one.
    """
    words = {
        s: np.zeros(network.source_size(s), np.int64) for s in range(INPUT, len(network.layers))
    }
    for i, layer in enumerate(network.layers):
        for m in layer.matrices:
            source = network.event_source(i, m.source)
            found = m.layout(layer.cell, config).lengths
            words[source] = words[source] + found if source in words else found.astype(np.int64)
    return words


def memory_words(network: Network, config: EngineConfig) -> dict[int, np.ndarray]:
    """The same in words of the memory: one of the hot store takes a cycle, one of the memory more.

    What is hot follows from ``Network.activity``; without it every column counts as cold.
    """
    if not config.hot_words or network.activity is None:
        return {s: words.astype(float) for s, words in column_words(network, config).items()}
    faster = 1 / max(1.0, MemoryModel.of(config).word_cycles)
    store = choose_hot(network, config)
    found: dict[int, np.ndarray] = {}
    for (i, j), stored in layouts_of(network, config).items():
        source = network.event_source(i, network.layers[i].matrices[j].source)
        hot = store.mask((i, j), len(stored.lengths))
        found[source] = found.get(source, 0.0) + stored.lengths * np.where(hot, faster, 1.0)
    for s, words in column_words(network, config).items():
        found.setdefault(s, words.astype(float))
    return found


def step_words(network: Network, config: EngineConfig, trace: Trace) -> float:
    """Mean words per step of a run over recordings, biases that a step starts from included."""
    words = column_words(network, config)
    total = sum(float(words[s] @ fired) for s, fired in trace.fired.items() if s in words)
    rows = trace.layout.rows
    for i, layer in enumerate(network.layers):
        if network.reload(i):
            count = len(CELLS[layer.cell].accumulators)
            total += rows * bias_words(layer.units, count, config)
    return total / rows


@dataclass(frozen=True)
class Cost:
    """What a step takes, as a mean over steps.

    Attributes
    ----------
    words, columns, cycles : float
    bytes : float
        Read from memory.
    milliseconds : float
    """

    words: float
    columns: float
    cycles: float
    bytes: float
    milliseconds: float


def record_events(
    network: Network, rows: np.ndarray, config: EngineConfig
) -> tuple[Events, np.ndarray]:
    """Which elements fire in each step, and the words that they fetch, by the reference.

    Parameters
    ----------
    network : Network
    rows : int array, shape (steps, inputs)
        As ``Network.quantize_input`` gives them.

    Returns
    -------
    (list of dict of source to int array, int64 array of shape (steps,))
        Each step as :func:`step_events` gives it, and its words.
    """
    reference = Reference(network, config=config)
    events, words = [], []
    for row in rows:
        events.append(step_events(reference, row)[1])
        words.append(reference.last.words)
    return events, np.array(words, np.int64)


def step_events(reference: Reference, row: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """One step: its output, and the elements that fired, by source.

    Parameters
    ----------
    reference : Reference
    row : int array, shape (inputs,), or (1,) with a token

    Returns
    -------
    (int array, dict of source to int array)
        Elements in the order of their events; those of layer l's second encoder stand under
        ``l + SECOND``.
    """

    def sent() -> dict[int, np.ndarray]:
        second = {s + SECOND: v for s, v in reference.reference_second.items()}
        return {**reference.reference, **second}

    old = {s: v.copy() for s, v in sent().items()}
    y = reference.step_integers(row)
    fired = {}
    for s, v in sent().items():
        mode = reference.network.source_mode(s % SECOND if s != INPUT else s)
        # Plain events leave a reference of their own and zero elsewhere. Where differences are
        # sent, an element that fired has a new reference, and no other has.
        fired[s] = np.flatnonzero(v if mode.reload else v != old[s])
        if mode is Mode.ONE_HOT:  # the old token's event comes first
            fired[s] = fired[s][np.argsort(v[fired[s]] != 0, kind="stable")]
    return y, fired


def predict(
    network: Network,
    rows: np.ndarray,
    config: EngineConfig,
    *,
    memory: MemoryModel | None = None,
    clock_mhz: float = 100.0,
    warm: int = 0,
    streaming: bool = False,
) -> Cost:
    """What the steps of a recording take.

    Parameters
    ----------
    network : Network
    rows : int array, shape (steps, inputs)
    config : EngineConfig
    memory : MemoryModel, optional
        A 16-bit SDRAM where absent.
    clock_mhz : float
    warm : int
        Steps at the beginning that are not counted.
    streaming : bool
        Vectors wait at the input; else each meets an idle engine.
    """
    events, words = record_events(network, rows, config)
    model = ScheduleModel(network, config, memory or MemoryModel.of(config))
    cycles = float(np.mean(model.run(events[warm:], streaming=streaming)))
    mean = float(np.mean(words[warm:]))
    columns = float(np.mean([sum(len(v) for v in e.values()) for e in events[warm:]]))
    return Cost(mean, columns, cycles, mean * config.word_bytes, cycles / clock_mhz / 1e3)


def words_within(
    network: Network, config: EngineConfig, milliseconds: float, clock_mhz: float
) -> float:
    """Words that fit a time per step: what memory gives in it, less what a step takes besides.

    The last layer's pass and the first inputs are hidden by no column.
    """
    memory = MemoryModel.of(config)
    lengths = column_words(network, config)
    sizes = [v for v in lengths.values() if v.max(initial=0) > 0]
    mean = float(np.mean(np.concatenate(sizes))) if sizes else 1.0
    cycles = milliseconds * 1e3 * clock_mhz - memory.latency - network.layers[-1].units - 64
    return max(cycles, 0.0) / (memory.word_cycles + memory.column_cycles / mean)
