"""Patterns of kept weights: which of a column's rows may stay, chosen by what each would cost.

A *saliency* is what it costs to lose a weight; patterns keep the largest. All of them are functions
of one column (or of the columns of a block) over the rows of one layer, so that the solvers can ask
for them while the other columns stand as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import StillnetError

__all__ = ["GROUP", "PATTERNS", "Pattern", "keep_by_magnitude"]

GROUP = 16
"""Rows of one lane that share a bitmap."""

PATTERNS = ("unstructured", "lane", "block8")


@dataclass(frozen=True)
class Pattern:
    """A pattern of kept weights.

    Attributes
    ----------
    kind : str
        ``"unstructured"``: any. ``"lane"``: of the ``GROUP`` rows of one gate that lie in one
        lane, the same number in each group. ``"block8"``: 8 neighbouring units of one gate in 8
        neighbouring columns stay or go together.
    sparsity : float
        Part of the weights that goes; 0 to below 1.
    lanes : int
        Multiplier lanes that the rows are dealt to: unit u of a gate belongs to lane u % lanes.
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
        """Weights of a full group that stay."""
        return max(1, round(GROUP * (1 - self.sparsity)))

    def groups(self, gates: int, units: int) -> np.ndarray:
        """The rows of each group of one lane, shape (groups, GROUP); -1 where a group is short.

        Rows are those of a matrix (gates * units): gate after gate.
        """
        result = []
        for gate in range(gates):
            for lane in range(min(self.lanes, units)):
                rows = gate * units + np.arange(lane, units, self.lanes)
                for first in range(0, len(rows), GROUP):
                    part = rows[first : first + GROUP]
                    result.append(np.pad(part, (0, GROUP - len(part)), constant_values=-1))
        return np.array(result)

    def keep(self, saliency: np.ndarray, gates: int, groups: np.ndarray | None) -> np.ndarray:
        """Which weights stay.

        Parameters
        ----------
        saliency : array, shape (gates * units, columns)
            Not negative; larger is dearer to lose. Of equal ones the lower row stays.
        gates : int
        groups : array, optional
            Of :meth:`groups`, for the pattern ``lane``.

        Returns
        -------
        bool array of the same shape
        """
        if self.dense:
            return np.ones(saliency.shape, bool)
        if self.kind == "lane":
            assert groups is not None
            return self._keep_lane(saliency, groups)
        if self.kind == "block8":
            return self._keep_blocks(saliency, gates)
        count = round(saliency.size * (1 - self.sparsity))
        order = np.argsort(-saliency, axis=None, kind="stable")
        kept = np.zeros(saliency.size, bool)
        kept[order[:count]] = True
        return kept.reshape(saliency.shape)

    def _keep_lane(self, saliency: np.ndarray, groups: np.ndarray) -> np.ndarray:
        padded = np.concatenate([saliency, np.full((1, saliency.shape[1]), -1.0)])
        order = np.argsort(-padded[groups], axis=1, kind="stable")[:, : self.kept_of_group]
        rows = np.take_along_axis(groups[:, :, None], order, axis=1)
        kept = np.zeros(padded.shape, bool)
        kept[rows, np.arange(saliency.shape[1])] = True
        return kept[:-1]

    def _keep_blocks(self, saliency: np.ndarray, gates: int) -> np.ndarray:
        rows, columns = saliency.shape
        units = rows // gates
        down, across = -(-units // 8), -(-columns // 8)
        padded = np.zeros((gates, down * 8, across * 8))
        padded[:, :units, :columns] = saliency.reshape(gates, units, columns)
        blocks = padded.reshape(gates * down, 8, across, 8).sum(axis=(1, 3))
        count = round(blocks.size * (1 - self.sparsity))
        order = np.argsort(-blocks, axis=None, kind="stable")
        kept = np.zeros(blocks.size, bool)
        kept[order[:count]] = True
        full = np.repeat(np.repeat(kept.reshape(blocks.shape), 8, axis=0), 8, axis=1)
        return full.reshape(gates, down * 8, across * 8)[:, :units, :columns].reshape(rows, columns)


def keep_by_magnitude(weight: np.ndarray, gates: int, pattern: Pattern) -> np.ndarray:
    """Magnitude pruning, the baseline: the largest weights stay, within the pattern."""
    units = len(weight) // gates
    return pattern.keep(weight**2, gates, pattern.groups(gates, units))
