"""What a report shows: the run again in the reference, step by step, with every event.

The integers of a hardware run were compared with the reference, so its events are these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.cost.cost import column_words, step_events
from stillnet.sw.cost.memory import MemoryModel
from stillnet.sw.cost.schedule import ScheduleModel
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.progress import Progress, silent

__all__ = ["Collected", "Slow", "collect"]

BINS = 600
"""Columns of a map."""
PREDICTED = 300
"""Steps whose cycles the cost model predicts, where there are more: each takes some milliseconds.
Those of the most words are always among them."""
WORST = 6


@dataclass(frozen=True)
class Slow:
    """A step of many cycles.

    Attributes
    ----------
    step : int
    cycles : float
        By the cost model.
    words : int
    shares : list of (str, int, float, int)
        Vectors by the words that their events fetched: name, events, mean events per step, words.
    """

    step: int
    cycles: float
    words: int
    shares: list[tuple[str, int, float, int]]


@dataclass
class Collected:
    """A run, step by step.

    Attributes
    ----------
    config : EngineConfig
    names : dict of int to str
        Vectors that are turned into events, by source.
    starts : list of int
        First step of each recording.
    x : array of float, shape (inputs, bins)
        The input, each bin the mean of its steps; empty for tokens.
    maps : dict of str to array of float, shape (elements, bins)
        Share of a bin's steps in which an element fired.
    events : dict of str to int array, shape (steps,)
    words, words_hot, saturations : int arrays, shape (steps,)
    fired : dict of int to int array, shape (elements,)
        How often each element fired.
    outputs : array of float, shape (steps, outputs)
        Of the chip.
    wanted : array of the same shape, or None
        Of the float model.
    predicted : int array
        Steps whose cycles are predicted.
    cycles : array of float
        Those.
    slow : list of Slow
    read : set of str
        Vectors whose events fetch words.
    """

    config: EngineConfig
    names: dict[int, str]
    starts: list[int] = field(default_factory=list)
    x: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    events: dict[str, np.ndarray] = field(default_factory=dict)
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    words_hot: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    saturations: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    fired: dict[int, np.ndarray] = field(default_factory=dict)
    outputs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    wanted: np.ndarray | None = None
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    cycles: np.ndarray = field(default_factory=lambda: np.zeros(0))
    slow: list[Slow] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    @property
    def steps(self) -> int:
        """Steps of all recordings."""
        return len(self.words)


def collect(
    network: Network,
    recordings: Sequence[np.ndarray],
    config: EngineConfig,
    *,
    model: Model | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Runs recordings of vectors, as the chip takes them, through the reference.

    Parameters
    ----------
    network : Network
    recordings : sequence of arrays of float, shape (steps, inputs), or of tokens
    config : EngineConfig
        Whose words and cycles are counted.
    model : Model, optional
        The float model that the network was made of.
    progress : Progress, optional
    """
    progress = progress or silent
    rows = [network.quantize_input(x) for x in recordings]
    steps = sum(map(len, rows))
    found = Collected(config, network.event_names())
    found.starts = [0, *np.cumsum([len(r) for r in rows])[:-1].tolist()]
    bins = min(BINS, steps)
    sizes = {k: network.source_size(k % SECOND if k >= 0 else k) for k in found.names}
    found.maps = {n: np.zeros((sizes[k], bins), np.float32) for k, n in found.names.items()}
    found.events = {n: np.zeros(steps, np.int64) for n in found.names.values()}
    found.words, found.words_hot, found.saturations = np.zeros((3, steps), np.int64)
    found.fired = {k: np.zeros(sizes[k], np.int64) for k in found.names}
    if not network.input_mode.one_hot:
        found.x = np.zeros((network.inputs, bins), np.float32)
    reference = Reference(network, config=config)
    fired: list[dict[int, np.ndarray]] = []
    outputs = []
    counts = np.bincount(np.arange(steps) * bins // steps, minlength=bins)
    t = 0
    for part in rows:
        reference.reset()
        for row in part:
            progress("report", t, steps)
            y, sent = step_events(reference, row)
            outputs.append(y)
            fired.append({k: v.astype(np.int32) for k, v in sent.items()})
            at = t * bins // steps
            for k, v in sent.items():
                found.maps[found.names[k]][v, at] += 1
                found.events[found.names[k]][t] = len(v)
                found.fired[k][v] += 1
            if found.x.size:
                found.x[:, at] += row / network.units_of(INPUT)
            last = reference.last
            found.words[t], found.words_hot[t] = last.words, last.words_hot
            found.saturations[t] = last.saturations
            t += 1
    for image in (found.x, *found.maps.values()):
        image /= counts
    found.outputs = network.dequantize_output(np.stack(outputs))
    if model is not None:
        found.wanted = np.concatenate([model.run(x) for x in recordings])
    _predict(found, network, fired)
    progress("report", steps, steps)
    return found


def _predict(found: Collected, network: Network, fired: list[dict[int, np.ndarray]]) -> None:
    """Cycles by the cost model, and the slowest steps."""
    chosen = np.arange(found.steps)
    if found.steps > PREDICTED:
        even = np.linspace(0, found.steps - 1, PREDICTED - 10 * WORST).astype(int)
        chosen = np.union1d(even, np.argsort(-found.words)[: 10 * WORST])
    model = ScheduleModel(network, found.config, MemoryModel.of(found.config))
    found.predicted = chosen
    found.cycles = model.run([fired[t] for t in chosen], streaming=False)
    lengths = column_words(network, found.config)
    found.read = {n for k, n in found.names.items() if k in lengths and lengths[k].any()}
    for place in np.argsort(-found.cycles, kind="stable")[:WORST].tolist():
        t = int(chosen[place])
        shares = [
            (
                found.names[k],
                len(v),
                float(found.events[found.names[k]].mean()),
                int(lengths[k][v].sum()) if k in lengths else 0,
            )
            for k, v in fired[t].items()
        ]
        shares.sort(key=lambda share: -share[3])
        found.slow.append(Slow(t, float(found.cycles[place]), int(found.words[t]), shares))
