"""A network as the engine's scheduler sees it: its table of matrices, and each layer's shape."""

from __future__ import annotations

from dataclasses import dataclass

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.cells.schedule import schedule
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import BIAS_WORDS, Kind, bias_runs, block_rows
from stillnet.sw.contract.sources import INPUT, feeds_next_step
from stillnet.sw.network.network import Network
from stillnet.sw.network.tiers import choose_hot

from .stages import RESCALE, ROW_SCALE

__all__ = ["Entry", "LayerShape", "Table"]


@dataclass(frozen=True)
class Entry:
    """A line of the scheduler's table that fetches something in a step.

    Attributes
    ----------
    place : int
        In a pass over the whole table.
    source : int
        Key of the vector whose events it takes; meaningless for biases.
    target : int
        Layer.
    lengths : list of int
        Words of each column. Biases are one column.
    hot : list of bool
        Whether each is in the hot store.
    longest : int
        What the scheduler counts a column for.
    kind : Kind
    writes : tuple of int
        The accumulator that each word of a block of a dense column writes, -1 where none.
    recurrent : bool
        It takes the vector of the step before.
    """

    place: int
    source: int
    target: int
    lengths: list[int]
    hot: list[bool]
    longest: int
    kind: Kind
    writes: tuple[int, ...]
    recurrent: bool

    @property
    def bias(self) -> bool:
        """It is a layer's biases."""
        return self.kind == Kind.BIAS


@dataclass(frozen=True)
class LayerShape:
    """What reading and computing a layer takes.

    Attributes
    ----------
    cell : str
    units, blocks : int
    stride : int
        Accumulator words of a block.
    depth : int
        Cycles from sums to a result.
    alone : bool
        Its cell reads what the one before may be writing.
    reload : bool
        It starts each step from its biases.
    """

    cell: str
    units: int
    blocks: int
    stride: int
    depth: int
    alone: bool
    reload: bool


class Table:
    """What does not change while a network runs on an engine.

    Attributes
    ----------
    entries : list of Entry
        In the order of a pass. Left out is what a pass finds nothing in once the engine has been
        cleared: parameters, and biases of layers that keep their sums.
    length : int
        Entries of a pass, these included.
    first : int
        Place of the first entry that is no bias.
    chains : bool
        The engine has cells that read each other, so its passes leave out biases that nobody wants.
    layers : list of LayerShape
    """

    def __init__(self, network: Network, config: EngineConfig) -> None:
        self.network, self.config = network, config
        self.chains = config.max_peers > 0
        self.layers = []
        for i, layer in enumerate(network.layers):
            cell = CELLS[layer.cell]
            self.layers.append(
                LayerShape(
                    layer.cell,
                    layer.units,
                    -(-layer.units // config.multipliers),
                    block_rows(cell, config.row_scale),
                    RESCALE
                    + (ROW_SCALE if config.row_scale else 0)
                    + schedule(cell, config.cell_sharing).latency,
                    bool(cell.peers),
                    network.reload(i),
                )
            )
        self._hot = choose_hot(network, config)
        self.entries: list[Entry] = []
        self.length = 0
        for i, layer in enumerate(network.layers):
            self._add_biases(i, CELLS[layer.cell])
        self.first = self.length
        for i, j in network.matrix_order():
            self._add_matrix(i, j)

    def _add_biases(self, i: int, cell: Cell) -> None:
        """The runs of a layer's parameters, if it has any, and of its biases."""
        config, layer = self.config, self.layers[i]
        count = len(cell.accumulators)
        runs = bias_runs(cell, config.row_scale)
        self.length += len(runs) - 1
        if layer.reload:
            words = bias_words(layer.units, count, config)
            parts = BIAS_WORDS * (config.multipliers // config.lanes)
            hot = (i, runs[-1].first) in self._hot.biases
            writes = tuple(g if k == parts - 1 else -1 for g in range(count) for k in range(parts))
            self.entries.append(
                Entry(self.length, INPUT, i, [words], [hot], words, Kind.BIAS, writes, False)
            )
        self.length += 1

    def _add_matrix(self, i: int, j: int) -> None:
        layer = self.network.layers[i]
        m = layer.matrices[j]
        found = m.layout(layer.cell, self.config)
        order = CELLS[layer.cell].accumulators
        writes = tuple(g for g, name in enumerate(order) if name in m.gates)
        self.entries.append(
            Entry(
                self.length,
                self.network.event_source(i, m.source),
                i,
                found.lengths.tolist(),
                self._hot.mask((i, j), len(found.lengths)).tolist(),
                found.pitch,
                found.kind,
                writes,
                feeds_next_step(m.source, i),
            )
        )
        self.length += 1
