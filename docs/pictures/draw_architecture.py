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


LEFT, CENTRE, RIGHT = 20, 48.5, 77
WIDE, MIDDLE = 20, 20
TOP, MID, LOW = 55, 32, 8
DATA, WEIGHTS, CONTROLS = (VECTOR, VECTOR_FILL), (WEIGHT, WEIGHT_FILL), (CONTROL, CONTROL_FILL)
"""Places of the three columns and rows of blocks, and how blocks look."""


def draw(ax: Axes) -> None:
    """The whole picture."""
    frame(ax, (14, 2, 102, 74), "core   hw/core.py", (0, (4, 3)))
    frame(ax, (16.5, 4, 86, 68.5), "engine   hw/engine.py", "solid")
    draw_upper_blocks(ax)
    draw_lanes(ax)
    draw_lower_blocks(ax)
    draw_paths(ax)
    draw_notes(ax)
    draw_legend(ax)


def draw_upper_blocks(ax: Axes) -> None:
    """What encodes, what fetches, what decides."""
    box(
        ax,
        (LEFT, TOP, WIDE, 13),
        "Input encoder",
        "delta, nonzero or one-hot\none element per cycle",
        "events/input_encoder.py",
        *DATA,
    )
    box(
        ax,
        (CENTRE, TOP, MIDDLE, 13),
        "Event lists",
        "(index, 17-bit value)\nonly of what changed",
        "events/event_encoder.py",
        *DATA,
    )
    box(
        ax,
        (RIGHT, TOP, 22, 13),
        "Column fetcher",
        "an event names a column;\nmany reads in flight",
        "fetch/column_fetcher.py",
        *WEIGHTS,
    )
    box(
        ax,
        (LEFT, MID, WIDE, 14),
        "Registers, counters",
        "load, clear, restore,\nthresholds, state,\ncycles by cause",
        "engine.py, host/",
        *CONTROLS,
    )
    box(
        ax,
        (CENTRE, MID, MIDDLE, 14),
        "Scheduler",
        "which matrix fetches next,\nwhen a cell may run;\ntables from the image",
        "fetch/scheduler.py",
        *CONTROLS,
    )
    box(ax, (RIGHT, MID, 22, 14), "", "", "", *WEIGHTS)


def draw_lanes(ax: Axes) -> None:
    """Eight multipliers in their block."""
    x0 = RIGHT + 1.4
    for i in range(8):
        x = x0 + i * 2.42
        ax.add_patch(
            FancyBboxPatch(
                (x, MID + 7.9),
                1.85,
                4.7,
                boxstyle="round,pad=0,rounding_size=0.35",
                fc=PAPER,
                ec=WEIGHT,
                lw=0.9,
            )
        )
        ax.text(x + 0.92, MID + 11.2, "×", ha="center", va="center", size=8.5, color=WEIGHT)
        ax.text(x + 0.92, MID + 9.2, "+", ha="center", va="center", size=8.5, color=WEIGHT)
    ax.text(
        RIGHT + 11,
        MID + 6.2,
        "Lanes",
        ha="center",
        va="center",
        size=11.5,
        weight="bold",
        color=INK,
    )
    ax.text(
        RIGHT + 11,
        MID + 3.9,
        "32-bit sums in two half banks",
        ha="center",
        va="center",
        size=8.6,
        color=INK,
    )
    ax.text(
        RIGHT + 11,
        MID + 1.7,
        "lanes/lanes.py",
        ha="center",
        va="center",
        size=7.6,
        color=SOFT,
        family="monospace",
    )


def draw_lower_blocks(ax: Axes) -> None:
    """What a cell is made of, and what lies outside."""
    box(
        ax,
        (LEFT, LOW, WIDE, 14),
        "Write-back",
        "power-of-two scale,\nencoder of hidden vectors,\noutput stream",
        "events/write_back.py",
        *DATA,
    )
    box(
        ax,
        (CENTRE, LOW, MIDDLE, 14),
        "Cell unit",
        "pipelines generated from\nthe cells' equations;\nstate memories",
        "cell/unit.py, pipeline.py",
        *DATA,
    )
    box(
        ax,
        (RIGHT, LOW, 22, 14),
        "Accumulator reader",
        "reads ahead of the cell,\nclose behind the last column",
        "lanes/accumulator_reader.py",
        *DATA,
    )

    box(ax, (1, LOW, 9.5, 60), "Host", "vectors in\nand out,\nregisters", "", SOFT, PAPER)
    box(ax, (105, MID, 8.5, 36), "Port", "AXI4,\non-chip\nRAM,\nor bare", "", WEIGHT, WEIGHT_FILL)
    ax.text(109.25, MID + 1.8, "axi4.py", ha="center", size=7, color=SOFT, family="monospace")
    ax.text(109.25, MID + 3.8, "memory/", ha="center", size=6.6, color=SOFT, family="monospace")
    box(
        ax,
        (119.5, MID, 11.5, 36),
        "Memory",
        "the image:\nlayers,\nbiases,\nweights",
        "",
        WEIGHT,
        PAPER,
    )


def draw_paths(ax: Axes) -> None:
    """Vectors and events, weights, control."""
    path(ax, [(10.5, 61.5), (LEFT, 61.5)], VECTOR)
    path(ax, [(LEFT + WIDE, 63.5), (CENTRE, 63.5)], VECTOR)
    path(ax, [(CENTRE + MIDDLE, 61.5), (RIGHT, 61.5)], VECTOR)
    path(ax, [(RIGHT + 6, MID), (RIGHT + 6, LOW + 14)], VECTOR)
    path(ax, [(RIGHT, 13), (CENTRE + MIDDLE, 13)], VECTOR)
    path(ax, [(CENTRE, 13), (LEFT + WIDE, 13)], VECTOR)
    path(ax, [(LEFT + WIDE, 19), (44.2, 19), (44.2, 58.5), (CENTRE, 58.5)], VECTOR)
    path(ax, [(LEFT, 13), (10.5, 13)], VECTOR)
    # weights
    path(ax, [(RIGHT + 22, 61.5), (105, 61.5)], WEIGHT)
    path(ax, [(113.5, 61.5), (119.5, 61.5)], WEIGHT)
    path(ax, [(119.5, 39), (113.5, 39)], WEIGHT)
    path(ax, [(105, 39), (RIGHT + 22, 39)], WEIGHT)
    # control
    path(ax, [(10.5, 39), (LEFT, 39)], CONTROL, dashed=True)
    path(ax, [(LEFT, 39), (10.5, 39)], CONTROL, dashed=True)
    path(ax, [(LEFT + WIDE, 39), (CENTRE, 39)], CONTROL, dashed=True)
    path(ax, [(58.5, TOP), (58.5, MID + 14)], CONTROL, dashed=True)
    path(ax, [(CENTRE + MIDDLE, 41), (73, 41), (73, 51), (80, 51), (80, TOP)], CONTROL, dashed=True)
    path(ax, [(58.5, MID), (58.5, LOW + 14)], CONTROL, dashed=True)
    path(ax, [(58.5, 27), (79, 27), (79, LOW + 14)], CONTROL, dashed=True)
    path(ax, [(58.5, 27), (36, 27), (36, LOW + 14)], CONTROL, dashed=True)
    path(ax, [(95, LOW + 14), (95, MID)], CONTROL, dashed=True)


def draw_notes(ax: Axes) -> None:
    """What some of the paths carry."""
    note(ax, 58.5, 50.5, "what waits", SOFT)
    note(ax, 73, 47, "run", SOFT)
    note(ax, 66, 27, "dispatch", SOFT)
    note(ax, 95, 27, "hold later\nsteps", SOFT)
    note(ax, 86, 27, "sums", VECTOR)
    note(ax, 44.2, 50.5, "hidden\nevents", VECTOR)
    note(ax, 12.3, 63.6, "x(t)", VECTOR)
    note(ax, 12.3, 15.1, "y(t)", VECTOR)


def draw_legend(ax: Axes) -> None:
    """What the colours mean."""
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
