"""Which words stand in an engine's hot store: the choice of the packer, and of what predicts it.

A column in the hot store saves its words each time that it fires, and takes as many of the store.
So the columns that fire most often come first, whatever their length. How often each element fires
is known from calibration (``Network.activity``). Without, small matrices come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import Layout, bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import UNEQUAL_FORMATS, bias_runs

from .network import Network

__all__ = ["HotStore", "choose_hot", "layouts_of"]

Matrix = tuple[int, int]
"""Number of a layer, and of a matrix in it."""


@dataclass
class HotStore:
    """What stands in the hot store of an engine, and where.

    Attributes
    ----------
    biases : dict of (layer, first row) to int
        Bias runs (``contract.image.bias_runs``): first word.
    whole : dict of matrix to int
        Matrices that are there with all columns, one behind the other: first word.
    columns : dict of matrix to int array, shape (columns,)
        Matrices of which some are: the first word of each column, -1 where it is in the memory.
    words : int
        Taken.
    """

    biases: dict[tuple[int, int], int] = field(default_factory=dict)
    whole: dict[Matrix, int] = field(default_factory=dict)
    columns: dict[Matrix, np.ndarray] = field(default_factory=dict)
    words: int = 0

    def mask(self, matrix: Matrix, columns: int) -> np.ndarray:
        """Whether each column of a matrix is in the store."""
        if matrix in self.columns:
            return self.columns[matrix] >= 0
        return np.full(columns, matrix in self.whole)

    def take(self, words: int) -> int:
        """The first of the next words."""
        self.words += words
        return self.words - words


@dataclass
class _Candidates:
    """Columns and bias runs that may go to the store: one entry each, in the order of the image.

    ``group`` numbers the runs and matrices, ``place`` the columns of a matrix.
    """

    rate: list[np.ndarray] = field(default_factory=list)
    words: list[np.ndarray] = field(default_factory=list)
    group: list[np.ndarray] = field(default_factory=list)
    place: list[np.ndarray] = field(default_factory=list)

    def add(self, group: int, rate: np.ndarray, words: np.ndarray) -> None:
        self.rate.append(rate)
        self.words.append(words)
        self.group.append(np.full(len(words), group))
        self.place.append(np.arange(len(words)))

    def chosen(self, room: int) -> Iterator[tuple[int, int]]:
        """Group and place of those with the highest rates that the store has room for."""
        rate, words = np.concatenate(self.rate), np.concatenate(self.words)
        group, place = np.concatenate(self.group), np.concatenate(self.place)
        for k in np.argsort(-rate, kind="stable"):
            if 0 < words[k] <= room:
                room -= int(words[k])
                yield int(group[k]), int(place[k])


def layouts_of(network: Network, config: EngineConfig) -> dict[Matrix, Layout]:
    """How each matrix lies in memory, in the order of the image."""
    return {
        (i, j): network.layers[i].matrices[j].layout(network.layers[i].cell, config)
        for i, j in network.matrix_order()
    }


def choose_hot(
    network: Network, config: EngineConfig, layouts: Mapping[Matrix, Layout] | None = None
) -> HotStore:
    """What goes to the hot store of an engine.

    Parameters
    ----------
    network : Network
    config : EngineConfig
        Without ``hot_words`` the store is empty.
    layouts : dict of matrix to Layout, optional
        As :func:`layouts_of` gives them.
    """
    store = HotStore()
    if not config.hot_words:
        return store
    layouts = layouts_of(network, config) if layouts is None else layouts
    candidates = _Candidates()
    runs: list[tuple[int, int, int]] = []
    for i, layer in enumerate(network.layers):
        for run in bias_runs(CELLS[layer.cell], config.row_scale):
            words = bias_words(layer.units, run.rows, config)
            every = network.reload(i) and not run.once
            candidates.add(len(runs), np.array([float(every)]), np.array([words]))
            runs.append((i, run.first, words))
    matrices = _listed(config, layouts)
    activity = network.activity or {}
    for k, (i, j) in enumerate(matrices):
        stored = layouts[i, j]
        source = network.event_source(i, network.layers[i].matrices[j].source)
        unknown = np.full(len(stored.lengths), 1 / (1 + stored.words))
        rate = activity.get(source, unknown)
        candidates.add(len(runs) + k, rate, stored.lengths.astype(np.int64))
    found: dict[int, list[int]] = {}
    for group, place in candidates.chosen(config.hot_words):
        found.setdefault(group, []).append(place)
    for group, places in sorted(found.items()):
        if group < len(runs):
            i, first, words = runs[group]
            store.biases[i, first] = store.take(words)
        else:
            matrix = matrices[group - len(runs)]
            _place(store, matrix, layouts[matrix], sorted(places))
    return store


def _listed(config: EngineConfig, layouts: Mapping[Matrix, Layout]) -> list[Matrix]:
    """Matrices for whose columns the engine's tables have room: those that differ in length, which
    are there anyway, then the ones of fewest columns. In the order of the image."""

    def equal(matrix: Matrix) -> bool:
        return layouts[matrix].kind.name.lower() not in UNEQUAL_FORMATS

    room, listed = config.columns, set()
    for matrix in sorted(layouts, key=lambda x: (equal(x), len(layouts[x].lengths))):
        room -= len(layouts[matrix].lengths)
        if room >= 0 or not equal(matrix):
            listed.add(matrix)
    return [matrix for matrix in layouts if matrix in listed]


def _place(store: HotStore, matrix: Matrix, stored: Layout, places: list[int]) -> None:
    """Gives the chosen columns of a matrix their words."""
    lengths = stored.lengths
    if len(places) == np.count_nonzero(lengths) and np.all(lengths == stored.pitch):
        store.whole[matrix] = store.take(stored.words)
        return
    words = np.full(len(lengths), -1, np.int64)
    for place in places:
        words[place] = store.take(int(lengths[place]))
    store.columns[matrix] = words
