"""The picture of a search."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.pictures import FAINT, PALETTE, STYLE, check_picture

from .front import front

__all__ = ["plot_search"]

Points = Sequence[tuple[float, float]]


def plot_search(points: Points, first: Points, path: str | Path, *, title: str = "") -> None:
    """Error against time: all trials, the front, and the trials that the search began with.

    Parameters
    ----------
    points : (error, ms) of all trials with figures
    first : those of them that do what ``compress`` would
    path : .png, .svg or .pdf
    """
    check_picture(path)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    if points:
        axis.plot(
            [p[1] for p in points],
            [p[0] for p in points],
            ".",
            color=FAINT,
            alpha=0.5,
            label="tried",
        )
        best = [points[k] for k in front(points)]
        axis.step(
            [p[1] for p in best],
            [p[0] for p in best],
            where="post",
            color=PALETTE[0],
            marker="o",
            markersize=4,
            label="front",
        )
    if first:
        axis.plot(
            [p[1] for p in first],
            [p[0] for p in first],
            "D",
            markerfacecolor="white",
            markeredgecolor=PALETTE[5],
            label="compress",
        )
    axis.set_xlabel("milliseconds a step (cost model)")
    axis.set_ylabel("mean absolute error of the output")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False)
    axis.set_title(f"{title}: calibration" if title else "calibration", loc="left", fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.removeprefix("."), dpi=150)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
