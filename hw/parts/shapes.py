"""Widths that follow from an engine configuration; derived in one place."""

from __future__ import annotations

from amaranth.utils import bits_for

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.fixed import ACTIVATION_BITS

__all__ = ["Shapes"]


class Shapes:
    """Signal widths of an engine.

    Parameters
    ----------
    config : EngineConfig

    Attributes
    ----------
    layer, matrix : int
        Index of a layer, of a matrix.
    gates : int
        Mask over the accumulators and parameters of a block.
    accumulator_address : int
        Address of an accumulator word: one accumulator of every multiplier.
    banks, bank_row : int
        Half banks of the accumulators between which a cell's reads choose, and a row of one. Sums
        of pruned columns lie in one.
    block : int
        Number of blocks of a layer; a block is as many units as there are multipliers.
    peers : int
        Layers whose state a cell may read besides its own.
    state : int
        Width of the host's access to state variables.
    rows : int
        Rows of ``cell_width`` units in the state memories.
    row : int
        Row number or count.
    unit, column : int
        Unit number or count; column number of any source.
    sequence : int
        Running number of a column; no step takes nearly half of its range.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.layer = max(1, bits_for(config.layers - 1))
        self.matrix = max(1, bits_for(config.matrices - 1))
        self.gates = config.max_accumulators
        self.accumulator_address = max(2, bits_for(config.accumulators + config.accumulators % 2))
        self.banks = 1 if config.sparse else 2
        self.bank_row = self.accumulator_address - (self.banks - 1)
        self.peers = config.max_peers
        self.state = max([ACTIVATION_BITS, *map(config.state_bits, config.state_names)])
        self.block = bits_for(-(-config.units // config.multipliers))
        self.rows = -(-config.units // config.cell_width)
        self.row = bits_for(self.rows)
        self.unit = bits_for(config.units)
        self.column = 16
        self.sequence = 20
