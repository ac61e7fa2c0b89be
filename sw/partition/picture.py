"""The picture of a cut: the nodes that work, and where they run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.pictures import PALETTE, STYLE

if TYPE_CHECKING:
    from stillnet.sw.util.results.studies import CheckResult

__all__ = ["draw_cut"]

_COLOURS = {"chip": PALETTE[0], "host": PALETTE[1], "both": PALETTE[6]}
_MOST = 40


def draw_cut(result: CheckResult, path: str | Path) -> None:
    """Draws multiplications and weights of each node, in the order in which they run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    rows = [
        (n.name, n.operator, n.where, n.weights, n.multiplications)
        for n in result.nodes
        if n.weights or n.multiplications
    ] or [(c.name, c.cell, "chip", c.weights, c.weights) for c in result.layers]
    rows = sorted(sorted(rows, key=lambda r: -r[4])[:_MOST], key=rows.index)
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 1.6 + 0.32 * len(rows)), sharey=True, layout="constrained"
    )
    places = range(len(rows))
    for ax, column, title in ((axes[0], 4, "multiplications of a step"), (axes[1], 3, "weights")):
        ax.barh(places, [r[column] for r in rows], color=[_COLOURS[r[2]] for r in rows])
        ax.set_xlabel(title)
        ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    axes[0].set_yticks(places, [f"{r[0][-34:]}  {r[1]}" for r in rows], fontsize=8)
    axes[0].invert_yaxis()
    shares = f"{result.chip_multiplications:.0%} of the multiplications, {result.chip_weights:.0%}"
    figure.suptitle(f"{result.name}: {shares} of the weights on the chip", fontsize=11)
    kinds = [k for k in _COLOURS if any(r[2] == k for r in rows)]
    axes[1].legend(handles=[Patch(color=_COLOURS[k], label=k) for k in kinds], frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:], dpi=150)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
