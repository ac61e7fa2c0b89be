"""Cycles of a step that an engine waits, from its events: the overhead of the product law.

One layer after the other: a cell starts when all columns that feed it are there and the scheduler
has found their matrices finished; its events fetch the next layer's columns; biases and recurrent
columns fill the gaps. Latencies follow ``docs/architecture.md`` ("Life of a word"); a few were
settled on small S5 stacks (``docs/activity.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import Kind
from stillnet.sw.contract.schedule import schedule
from stillnet.sw.network import INPUT, Network
from stillnet.sw.reference import Reference

__all__ = ["LATENCY", "Counted", "Layer", "cycles_of"]

LATENCY = 8
"""Of the memory, cycles."""
FETCH = 15
"""Cycles from an event in a list to its first word, latency left out."""
YIELD_WORDS = 64
"""Words after which the scheduler begins another pass."""
TO_CELL = 16
"""Cycles from a word, through lanes and reader, to a cell."""
QUEUES = 14
"""Cycles more for a pruned column: the decoder's four, and until all queues are known empty."""
TO_LIST = 10
"""Cycles of rescale, write-back and encoder."""
DRAIN = 3
"""Cycles until the next kind of cell may start behind the last event."""
AGAIN = 14
"""Cycles from the end of a run to the first column of the next, besides one a descriptor passed."""
SCAN = 6
"""Cycles of a pass of the scheduler besides one a descriptor."""
TO_READER = 10
"""Cycles from the last matrix found finished, through dispatch and reader, to a cell."""
FINISH = 12
"""Cycles from the last word to idle."""


class Counted:
    """Weights and words of the columns that fire, by layer; sums over the steps added.

    Parameters
    ----------
    net : Network
    engine : EngineConfig
    """

    def __init__(self, net: Network, engine: EngineConfig) -> None:
        self.net = net
        self.steps: list[list[Layer]] = []
        self._old: dict[int, np.ndarray] = {}
        self._kept, self._lengths, self._bias = {}, {}, []
        for i, layer in enumerate(net.layers):
            for j, m in enumerate(layer.matrices):
                self._kept[i, j] = np.count_nonzero(m.weight, axis=(0, 1))
                self._lengths[i, j] = m.layout(layer.cell, engine).lengths
            count = len(CELLS[layer.cell].accumulators)
            self._bias.append(bias_words(layer.units, count, engine) if net.reload(i) else 0)

    def before(self, reference: Reference) -> None:
        """What was sent before a step."""
        self._old = {s: v.copy() for s, v in reference.reference.items()}

    def after(self, reference: Reference) -> None:
        """Counts a step."""
        fired = {}
        for s, v in reference.reference.items():
            plain = self.net.source_mode(s).reload
            fired[s] = np.flatnonzero(v if plain else v != self._old[s])
        row = []
        for i, layer in enumerate(self.net.layers):
            at = fired[i] if len(fired[i]) else np.zeros(1, np.int64)
            found = Layer(len(fired[i]), self._bias[i], int(at[0]), int(at[-1]))
            for j, m in enumerate(layer.matrices):
                index = fired[m.source]
                words = int(self._lengths[i, j][index].sum())
                found.by_source[m.source] = found.by_source.get(m.source, 0) + words
                found.weights += len(index) * m.weight[:, :, 0].size
                found.kept += int(self._kept[i, j][index].sum())
                found.words += words
            row.append(found)
        self.steps.append(row)


@dataclass
class Layer:
    """One layer in one step: its events, words of biases, and the columns that feed it.

    Attributes
    ----------
    events, bias : int
    head, tail : int
        Its first element that is an event, and its last.
    weights, kept, words : int
        Weights, weights kept and words, of the columns that fired.
    """

    events: int
    bias: int
    head: int
    tail: int
    weights: int = 0
    kept: int = 0
    words: int = 0
    by_source: dict[int, int] = field(default_factory=dict)


def cycles_of(net: Network, engine: EngineConfig, steps: list[list[Layer]]) -> float:
    """Cycles of steps back to back, from idle to idle, by the rules of the module's docstring."""
    layers = net.layers
    port = drained = latest = 0.0
    first, last = [0.0] * len(layers), [0.0] * len(layers)
    waiting: list[tuple[float, int, float]] = []  # (released, layer, words)
    previous = ""
    path = FETCH + LATENCY

    def fill(time: float, now: float) -> None:
        """The port has time to spare until now: columns that wait are read."""
        for k, (released, target, words) in enumerate(waiting):
            part = max(0.0, min(time, words, now - released))
            waiting[k] = (released, target, words - part)
            time -= part
        waiting[:] = [w for w in waiting if w[2] > 0]

    # A pass of the scheduler looks at one descriptor a cycle: matrices, biases, parameters.
    count = sum(len(layer.matrices) + (1 + bool(CELLS[layer.cell].parameters)) for layer in layers)
    half = (count + SCAN) / 2
    biases = count - sum(len(layer.matrices) for layer in layers)
    jobs = [(m.source, i) for i, layer in enumerate(layers) for m in layer.matrices]
    place = {job: biases + k + AGAIN for k, job in enumerate(jobs)}
    dense = [
        all(m.layout(layer.cell, engine).kind == Kind.DENSE for m in layer.matrices)
        for layer in layers
    ]
    read = [0.0] * len(layers)
    for row in steps:
        for i, (layer, found) in enumerate(zip(layers, row)):
            cell = CELLS[layer.cell]
            ready = 0.0  # every matrix is found to be finished
            if INPUT in found.by_source:
                waiting.append((read[i] + path, i, found.by_source[INPUT]))
            for source, words in found.by_source.items():
                if not INPUT < source < i:
                    continue
                ready = max(ready, last[source] + half)
                if not words:
                    continue
                events, units = row[source].events, layers[source].units
                column, again = words / events, place[source, i]
                share = min(events / units, 0.99)
                run = min(YIELD_WORDS / column, events, share * again / (1 - share))
                find = half if run < 1 else (again + run) / 2
                pace = max(1.0, (YIELD_WORDS / column + again) / YIELD_WORDS)
                if words < YIELD_WORDS:
                    pace = 1.0
                begin = max(port, first[source] + row[source].head + half + path)
                for k, (released, target, bias) in enumerate(waiting):
                    # A run of biases does not give way.
                    if bias == row[target].bias and max(released, port) < begin:
                        port = max(port, released) + bias
                        waiting[k] = (released, target, 0.0)
                fill(begin - port, begin)
                begin = max(begin, port)
                final = first[source] + row[source].tail
                end = max(begin + words * pace, final + find + path + run + column)
                fill(end - begin - words, end)
                port = end
                ready = max(ready, end - path - column + again)
            for released, target, rest in waiting:
                if target == i:
                    port = max(port, released) + rest
                    ready = max(ready, port - path + half)
            waiting[:] = [w for w in waiting if w[1] != i and w[2] > 0]
            # A cell follows a dense column block by block; a pruned one has to be complete.
            behind = TO_CELL + (QUEUES if engine.sparse and not dense[i] else 0)
            start = max(port + behind, latest, ready + TO_READER)
            if previous != layer.cell or cell.peers or len(layers) == 1:
                start = max(start, drained)
            depth = schedule(cell, engine.cell_sharing).latency + TO_LIST
            rows = -(-layer.units // engine.cell_width)
            first[i], last[i] = start + depth + 1, start + depth + rows
            latest, drained, previous = start + rows, last[i] + DRAIN, layer.cell
            read[i] = start + max(0, rows - engine.prefetch_blocks * engine.multipliers)
            waiting.append((read[i] + path, i, found.bias))
            waiting.append((first[i] + half + path, i, found.by_source.get(i, 0)))
    for released, _, rest in waiting:
        port = max(port, released) + rest
    return max(port, drained) + FINISH
