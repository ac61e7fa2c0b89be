"""Draws docs/pictures/architecture.svg.

    python docs/pictures/draw_architecture.py [FILE ...]

Writes the picture next to this script, or to the files given; the extension chooses the format.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

INK, SOFT, PAPER = "#1f2933", "#66737f", "#ffffff"
VECTOR, WEIGHT, CONTROL = "#1769aa", "#c2570c", "#8a949e"
VECTOR_FILL, WEIGHT_FILL, CONTROL_FILL = "#e8f1f9", "#fdf0e4", "#f1f3f5"

WIDTH, HEIGHT = 132, 78


def box(
    ax: Axes,
    place: tuple[float, float, float, float],
    title: str,
    lines: str,
    file: str,
    edge: str,
    fill: str,
) -> None:
    """A block: name, what it does, where it is written."""
    x, y, w, h = place
    shape = FancyBboxPatch(
        (x, y), w, h, boxstyle="round,pad=0,rounding_size=1.2", fc=fill, ec=edge, lw=1.6
    )
    ax.add_patch(shape)
    count = lines.count("\n") + 1 if lines else 0
    middle = x + w / 2
    block = 2.6 + 2.15 * count + (2.3 if file else 0)
    top = y + h / 2 + block / 2
    ax.text(middle, top - 1.3, title, ha="center", va="center", size=11, weight="bold", color=INK)
    if lines:
        ax.text(
            middle,
            top - 2.9,
            lines,
            ha="center",
            va="top",
            size=8.6,
            color=INK,
            linespacing=1.3,
        )
    if file:
        ax.text(
            middle,
            top - block + 0.9,
            file,
            ha="center",
            va="center",
            size=7.6,
            color=SOFT,
            family="monospace",
        )


def path(ax: Axes, points: list[tuple[float, float]], color: str, *, dashed: bool = False) -> None:
    """A line with corners, and an arrow at its end."""
    style = (0, (3.2, 2.2)) if dashed else "solid"
    width = 1.4 if dashed else 2.4
    xs, ys = zip(*points[:-1])
    if len(points) > 2:
        ax.plot(xs, ys, color=color, lw=width, ls=style, solid_joinstyle="round", zorder=1)
    ax.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops={
            "arrowstyle": "-|>,head_length=0.55,head_width=0.28",
            "color": color,
            "lw": width,
            "ls": style,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=2,
    )


def note(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    """A label on a line."""
    ax.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        size=8.4,
        color=color,
        linespacing=1.25,
        bbox={"fc": PAPER, "ec": "none", "pad": 1.2},
        zorder=3,
    )


def frame(ax: Axes, place: tuple[float, float, float, float], label: str, style: str) -> None:
    """An outline around blocks, labelled at its upper left."""
    x, y, w, h = place
    shape = FancyBboxPatch(
        (x, y),
        w,
        h,
        boxstyle="round,pad=0,rounding_size=2",
        fc="none",
        ec="#c5ccd3",
        lw=1.3,
        ls=style,
    )
    ax.add_patch(shape)
    ax.text(x + 2, y + h - 1.9, label, ha="left", va="center", size=9, color=SOFT)


def draw(ax: Axes) -> None:
    """The whole picture."""
    frame(ax, (14, 2, 102, 74), "core   hw/core.py", (0, (4, 3)))
    frame(ax, (16.5, 4, 86, 68.5), "engine   hw/engine.py", "solid")

    left, centre, right = 20, 48.5, 77
    wide, middle = 20, 20
    top, mid, low = 55, 32, 8
    data, weights, control = (VECTOR, VECTOR_FILL), (WEIGHT, WEIGHT_FILL), (CONTROL, CONTROL_FILL)

    box(
        ax,
        (left, top, wide, 13),
        "Input encoder",
        "delta, nonzero or one-hot\none element per cycle",
        "events/input_encoder.py",
        *data,
    )
    box(
        ax,
        (centre, top, middle, 13),
        "Event lists",
        "(index, 17-bit value)\nonly of what changed",
        "events/event_encoder.py",
        *data,
    )
    box(
        ax,
        (right, top, 22, 13),
        "Column fetcher",
        "an event names a column;\nmany reads in flight",
        "fetch/column_fetcher.py",
        *weights,
    )
    box(
        ax,
        (left, mid, wide, 14),
        "Registers, counters",
        "load, clear, restore,\nthresholds, state,\ncycles by cause",
        "engine.py, host/",
        *control,
    )
    box(
        ax,
        (centre, mid, middle, 14),
        "Scheduler",
        "which matrix fetches next,\nwhen a cell may run;\ntables from the image",
        "fetch/scheduler.py",
        *control,
    )
    box(ax, (right, mid, 22, 14), "", "", "", *weights)
    x0 = right + 1.4
    for i in range(8):
        x = x0 + i * 2.42
        ax.add_patch(
            FancyBboxPatch(
                (x, mid + 7.9),
                1.85,
                4.7,
                boxstyle="round,pad=0,rounding_size=0.35",
                fc=PAPER,
                ec=WEIGHT,
                lw=0.9,
            )
        )
        ax.text(x + 0.92, mid + 11.2, "×", ha="center", va="center", size=8.5, color=WEIGHT)
        ax.text(x + 0.92, mid + 9.2, "+", ha="center", va="center", size=8.5, color=WEIGHT)
    ax.text(
        right + 11,
        mid + 6.2,
        "Lanes",
        ha="center",
        va="center",
        size=11.5,
        weight="bold",
        color=INK,
    )
    ax.text(
        right + 11,
        mid + 3.9,
        "32-bit sums in two half banks",
        ha="center",
        va="center",
        size=8.6,
        color=INK,
    )
    ax.text(
        right + 11,
        mid + 1.7,
        "lanes/lanes.py",
        ha="center",
        va="center",
        size=7.6,
        color=SOFT,
        family="monospace",
    )
    box(
        ax,
        (left, low, wide, 14),
        "Write-back",
        "power-of-two scale,\nencoder of hidden vectors,\noutput stream",
        "events/write_back.py",
        *data,
    )
    box(
        ax,
        (centre, low, middle, 14),
        "Cell unit",
        "pipelines generated from\nthe cells' equations;\nstate memories",
        "cell/unit.py, pipeline.py",
        *data,
    )
    box(
        ax,
        (right, low, 22, 14),
        "Accumulator reader",
        "reads ahead of the cell,\nclose behind the last column",
        "lanes/accumulator_reader.py",
        *data,
    )

    box(ax, (1, low, 9.5, 60), "Host", "vectors in\nand out,\nregisters", "", SOFT, PAPER)
    box(ax, (105, mid, 8.5, 36), "Port", "AXI4,\non-chip\nRAM,\nor bare", "", WEIGHT, WEIGHT_FILL)
    ax.text(109.25, mid + 1.8, "axi4.py", ha="center", size=7, color=SOFT, family="monospace")
    ax.text(109.25, mid + 3.8, "memory/", ha="center", size=6.6, color=SOFT, family="monospace")
    box(
        ax,
        (119.5, mid, 11.5, 36),
        "Memory",
        "the image:\nlayers,\nbiases,\nweights",
        "",
        WEIGHT,
        PAPER,
    )

    # vectors and events
    path(ax, [(10.5, 61.5), (left, 61.5)], VECTOR)
    path(ax, [(left + wide, 63.5), (centre, 63.5)], VECTOR)
    path(ax, [(centre + middle, 61.5), (right, 61.5)], VECTOR)
    path(ax, [(right + 6, mid), (right + 6, low + 14)], VECTOR)
    path(ax, [(right, 13), (centre + middle, 13)], VECTOR)
    path(ax, [(centre, 13), (left + wide, 13)], VECTOR)
    path(ax, [(left + wide, 19), (44.2, 19), (44.2, 58.5), (centre, 58.5)], VECTOR)
    path(ax, [(left, 13), (10.5, 13)], VECTOR)
    # weights
    path(ax, [(right + 22, 61.5), (105, 61.5)], WEIGHT)
    path(ax, [(113.5, 61.5), (119.5, 61.5)], WEIGHT)
    path(ax, [(119.5, 39), (113.5, 39)], WEIGHT)
    path(ax, [(105, 39), (right + 22, 39)], WEIGHT)
    # control
    path(ax, [(10.5, 39), (left, 39)], CONTROL, dashed=True)
    path(ax, [(left, 39), (10.5, 39)], CONTROL, dashed=True)
    path(ax, [(left + wide, 39), (centre, 39)], CONTROL, dashed=True)
    path(ax, [(58.5, top), (58.5, mid + 14)], CONTROL, dashed=True)
    path(ax, [(centre + middle, 41), (73, 41), (73, 51), (80, 51), (80, top)], CONTROL, dashed=True)
    path(ax, [(58.5, mid), (58.5, low + 14)], CONTROL, dashed=True)
    path(ax, [(58.5, 27), (79, 27), (79, low + 14)], CONTROL, dashed=True)
    path(ax, [(58.5, 27), (36, 27), (36, low + 14)], CONTROL, dashed=True)
    path(ax, [(95, low + 14), (95, mid)], CONTROL, dashed=True)

    note(ax, 58.5, 50.5, "what waits", SOFT)
    note(ax, 73, 47, "run", SOFT)
    note(ax, 66, 27, "dispatch", SOFT)
    note(ax, 95, 27, "hold later\nsteps", SOFT)
    note(ax, 86, 27, "sums", VECTOR)
    note(ax, 44.2, 50.5, "hidden\nevents", VECTOR)
    note(ax, 12.3, 63.6, "x(t)", VECTOR)
    note(ax, 12.3, 15.1, "y(t)", VECTOR)

    # legend
    for x, color, text, dashed in (
        (20, VECTOR, "vectors, events, sums", False),
        (46, WEIGHT, "reads and weights, one word per cycle", False),
        (82, CONTROL, "control", True),
    ):
        ax.plot(
            [x, x + 4],
            [5.9, 5.9],
            color=color,
            lw=1.4 if dashed else 2.4,
            ls=(0, (3.2, 2.2)) if dashed else "solid",
        )
        ax.text(x + 5, 5.9, text, va="center", size=8.4, color=INK)


def main(files: list[str]) -> None:
    """Draws into each of the files."""
    plt.rcParams.update({"svg.hashsalt": "stillnet", "font.family": "DejaVu Sans"})
    figure, ax = plt.subplots(figsize=(13.2, 7.8), facecolor=PAPER)
    figure.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    ax.axis("off")
    draw(ax)
    for file in files or [str(Path(__file__).with_name("architecture.svg"))]:
        metadata = {"Date": None} if file.endswith(".svg") else None
        figure.savefig(file, facecolor=PAPER, dpi=110, metadata=metadata)


if __name__ == "__main__":
    main(sys.argv[1:])
