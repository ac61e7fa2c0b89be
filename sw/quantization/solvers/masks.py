"""Patterns of kept weights: which of a column's rows may stay, chosen by what each would cost.

A *saliency* is what it costs to lose a weight; patterns keep the largest. Groups of a lane lie
within one column, so that the solvers choose them anew while the other columns stand as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["BLOCK", "GROUP", "PATTERNS", "Groups", "Pattern", "keep_blocks", "keep_largest"]

GROUP = 16
"""Rows of one lane that share a bitmap (``contract.columns.BITMAP_ROWS``)."""

BLOCK = 8
"""Units and columns of a block."""

PATTERNS = ("unstructured", "lane", "block8")


@dataclass(frozen=True)
class Pattern:
    """A pattern of kept weights.

    Attributes
    ----------
    kind : str
        ``"unstructured"``: any. ``"lane"``: of every ``GROUP`` rows of a lane the same number, as
        the engine's bitmaps count them. ``"block8"``: 8 neighbouring units of one gate in 8
        neighbouring columns stay or go together.
    sparsity : float
        Part of the weights that goes; 0 to below 1.
    lanes : int
        Multipliers of the engine: unit u of a gate belongs to lane u % lanes.
    """

    kind: str
    sparsity: float
    lanes: int = 4

    def __post_init__(self) -> None:
        if self.kind not in PATTERNS:
            raise StillnetError(f"pattern must be one of {', '.join(PATTERNS)}, not '{self.kind}'")
        if not 0.0 <= self.sparsity < 1.0:
            raise StillnetError(f"sparsity must be 0 to below 1, not {self.sparsity:g}")
        if self.lanes < 1:
            raise StillnetError(f"lanes must be at least 1, not {self.lanes}")

    @property
    def dense(self) -> bool:
        """Whether every weight stays."""
        return self.sparsity == 0.0

    @property
    def kept_of_group(self) -> int:
        """Weights of a full group that stay, of pattern ``lane``."""
        return max(1, round(GROUP * (1 - self.sparsity)))

    def fits(self, gates: int, units: int) -> bool:
        """Whether rows are enough for the pattern: a full group for each lane, a block. Of fewer
        rows some would lose all of their weights."""
        if self.kind == "lane":
            return gates * (units // self.lanes) >= GROUP
        return self.kind == "unstructured" or units >= 2 * BLOCK

    def groups(self, places: Sequence[int], units: int) -> Groups:
        """The groups of a matrix's rows as an engine numbers them.

        Parameters
        ----------
        places : sequence of int
            For each gate its place among the matrix's gates, in the order of the accumulators.
        units : int
        """
        blocks = -(-units // self.lanes)
        rows, quotas = [], []
        for number, place in enumerate(places):
            first = place * blocks
            for begin in range(first - first % GROUP, first + blocks, GROUP):
                low, high = max(begin, first), min(begin + GROUP, first + blocks)
                # A group that holds the end of one gate and the begin of the next one is shared.
                upto = (high - begin) * self.kept_of_group // GROUP
                quota = upto - (low - begin) * self.kept_of_group // GROUP
                for lane in range(self.lanes):
                    unit = np.arange(low - first, high - first) * self.lanes + lane
                    part = np.where(unit < units, number * units + unit, -1)
                    rows.append(np.pad(part, (0, GROUP - len(part)), constant_values=-1))
                    quotas.append(quota)
        return Groups(np.array(rows), np.array(quotas))


@dataclass(frozen=True)
class Groups:
    """Rows that share a bitmap.

    Attributes
    ----------
    rows : int array, shape (groups, GROUP)
        -1 where a group is short.
    quotas : int array, shape (groups,)
        Weights of each that stay.
    """

    rows: np.ndarray
    quotas: np.ndarray

    def keep(self, saliency: np.ndarray) -> np.ndarray:
        """The rows of one column that stay: the largest saliencies of each group.

        Parameters
        ----------
        saliency : array, shape (rows,)
            Not negative. Of equal ones the lower row stays.
        """
        padded = np.append(saliency, -1.0)
        order = np.argsort(-padded[self.rows], axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(GROUP)[None], axis=1)
        kept = np.zeros(len(padded), bool)
        kept[self.rows[rank < self.quotas[:, None]]] = True
        return kept[:-1]


def keep_largest(saliency: np.ndarray, count: int, *, every_row: bool = False) -> np.ndarray:
    """The ``count`` largest of an array of any shape; of equal ones the first.

    With ``every_row`` the largest of each row stays: a row without any weight is a constant. Never
    more than ``count``, unless there are more rows.
    """
    if every_row:
        saliency = saliency.copy()
        best = np.argmax(saliency, axis=1)
        saliency[np.arange(len(best)), best] = np.inf
        count = max(count, len(best))
    order = np.argsort(-saliency, axis=None, kind="stable")
    kept = np.zeros(saliency.size, bool)
    kept[order[:count]] = True
    return kept.reshape(saliency.shape)


def keep_blocks(saliency: np.ndarray, gates: int, sparsity: float) -> np.ndarray:
    """Blocks of 8 units of a gate by 8 columns, those of the largest sums.

    Parameters
    ----------
    saliency : array, shape (gates * units, columns)
    gates : int
    sparsity : float
        Part of the blocks that goes.
    """
    rows, columns = saliency.shape
    units = rows // gates
    down, across = -(-units // BLOCK), -(-columns // BLOCK)
    padded = np.zeros((gates, down * BLOCK, across * BLOCK))
    padded[:, :units, :columns] = saliency.reshape(gates, units, columns)
    blocks = padded.reshape(gates * down, BLOCK, across, BLOCK).sum(axis=(1, 3))
    kept = keep_largest(blocks, round(blocks.size * (1 - sparsity)), every_row=True)
    full = np.repeat(np.repeat(kept, BLOCK, axis=0), BLOCK, axis=1)
    full = full.reshape(gates, down * BLOCK, across * BLOCK)
    return full[:, :units, :columns].reshape(rows, columns)
