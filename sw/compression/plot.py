"""The picture of a sweep."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.pictures import PALETTE, STYLE, check_picture

from .sweep import Row

__all__ = ["plot_sweep"]

_COLOURS = {8: PALETTE[0], 4: PALETTE[5]}
_MARKERS = "osD^vP*X"
_STYLES = ("-", "--", "-.", ":")


def plot_sweep(rows: Sequence[Row], path: str | Path, *, title: str = "") -> None:
    """Draws error against time and against what is read, a line for each of bits and sparsity.

    Lines of test recordings, where there are any, over faint ones of calibration. Points without
    thresholds are hollow.
    """
    check_picture(path)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not rows:
        raise StillnetError("a sweep without points cannot be drawn; allow a larger error")
    tested = "test_error" in rows[0]
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    gone = sorted({r["sparsity"] for r in rows})
    for b, s in sorted({(r["bits"], r["sparsity"]) for r in rows}, key=lambda k: (-k[0], k[1])):
        line = [r for r in rows if (r["bits"], r["sparsity"]) == (b, s)]
        line.sort(key=lambda r: r["budget"])
        look: dict[str, Any] = {
            "color": _COLOURS[b],
            "linestyle": _STYLES[gone.index(s) % len(_STYLES)],
            "clip_on": False,
        }
        marker = _MARKERS[gone.index(s) % len(_MARKERS)]
        label = f"int{b}, " + ("dense" if s == 0 else f"{s:.0%} of the weights gone")
        for axis, name in zip(axes, ("frame_ms", "kilobytes")):
            if tested:
                points = [(r[name], r["error"]) for r in line]
                axis.plot(*zip(*points), **look, alpha=0.3, linewidth=1)
            prefix = "test_" if tested else ""
            points = [(r[prefix + name], r[f"{prefix}error"]) for r in line]
            axis.plot(*zip(*points), **look, label=label, linewidth=1.6)
            for r, (x, y) in zip(line, points):
                fill = "white" if r["budget"] == 0 else _COLOURS[b]
                axis.plot(
                    x, y, marker, markerfacecolor=fill, markeredgecolor=_COLOURS[b], clip_on=False
                )
    axes[0].set_xlabel("milliseconds a step (cost model)")
    axes[1].set_xlabel("kilobytes read a step")
    axes[0].set_ylabel("mean absolute error of the output")
    axes[1].xaxis.set_major_formatter("{x:,.0f}")
    for axis in axes:
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[1].legend(frameon=False, handlelength=2.6)
    where = "test recordings; faint: calibration" if tested else "calibration recordings"
    note = f"{where}; hollow: thresholds 0"
    figure.suptitle(f"{title}: {note}" if title else note, x=0.02, ha="left", fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.removeprefix("."), dpi=150)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
