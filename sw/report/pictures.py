"""The pictures of a report, by matplotlib, as PNG inside of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from stillnet.sw.cost.cost import column_words
from stillnet.sw.network.network import Network
from stillnet.sw.util.pictures import FAINT, INK, PALETTE, STYLE
from stillnet.sw.util.shown import shown_count

from .collect import Collected

__all__ = ["cycles_picture", "error_picture", "hot_picture", "maps_picture", "steps_picture"]

MOST_MAPS, MOST_ROWS = 8, 240


@contextmanager
def _figure(width: float, height: float, found: dict[str, str], name: str, text: str):
    """A figure whose picture is put into ``found`` when all is drawn."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    found[name] = f'<img alt="{text}" src="data:image/png;base64,{data}">'


def _thin(image: np.ndarray) -> np.ndarray:
    """At most :data:`MOST_ROWS` rows, each the mean of as many neighbours."""
    size = -(-len(image) // MOST_ROWS)
    starts = np.arange(0, len(image), size)
    counts = np.diff(np.append(starts, len(image)))
    return np.add.reduceat(image, starts, axis=0) / counts[:, None]


def maps_picture(found: Collected, pictures: dict[str, str]) -> None:
    """The input, and which elements of each vector fired, over time."""
    maps = dict(list(found.maps.items())[:MOST_MAPS])
    top = [("input", found.x)] if found.x.size else []
    heights = [max(1.0, np.log2(len(image) + 1) / 5) for _, image in [*top, *maps.items()]]
    with _figure(11, 0.5 + 1.3 * sum(heights), pictures, "maps", "events over time") as figure:
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[
            :, 0
        ]
        for ax, (_, image) in zip(axes, top):
            _image(ax, image, found, "viridis", *np.quantile(_thin(image), (0.01, 0.99)))
            ax.set_title(f"The input, {len(image)} elements")
        for ax, (name, image) in zip(axes[len(top) :], maps.items()):
            mean = found.events[name].mean()
            _image(ax, image, found, "magma", 0, max(float(image.max()), 1e-9))
            ax.set_title(
                f"Events of {name}: {shown_count(mean)} of {len(image):,} elements fire in a step"
                + ("" if name in found.read else "; nothing reads them, so they cost nothing")
            )
        for ax in axes:
            ax.set_ylabel("element")
        axes[-1].set_xlabel("step")


def _image(
    ax: Any, image: np.ndarray, found: Collected, colours: str, low: float, high: float
) -> None:
    shown = ax.imshow(
        _thin(image),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        cmap=colours,
        vmin=low,
        vmax=high if high > low else low + 1,
        extent=(0, found.steps, 0, len(image)),
    )
    for start in found.starts[1:]:
        ax.axvline(start, color="white", linewidth=0.8, linestyle=":")
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    ax.yaxis.get_major_locator().set_params(integer=True, nbins=4)


def steps_picture(found: Collected, clock_hz: float, pictures: dict[str, str]) -> None:
    """Words and time of each step."""
    with _figure(11, 4.6, pictures, "steps", "words and time of each step") as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(found.words, color=PALETTE[0], linewidth=0.9)
        upper.axhline(found.words.mean(), color=FAINT, linestyle="--", linewidth=1)
        ratio = found.words.max() / max(found.words.mean(), 1e-9)
        upper.set_title(
            f"Words per step: mean {shown_count(found.words.mean())}, worst {found.words.max():,} "
            f"({ratio:.2g} times the mean)"
        )
        scale = 1e3 / clock_hz
        lower.plot(found.predicted, found.cycles * scale, ".", color=PALETTE[1], markersize=3)
        for slow in found.slow:
            lower.plot(slow.step, slow.cycles * scale, "o", color=PALETTE[5], markersize=5)
        lower.set_title("Time per step by the cost model; the slowest are marked")
        lower.set_ylabel("ms")
        lower.set_xlabel("step")
        for ax in (upper, lower):
            ax.set_ylim(0)
            ax.set_xlim(0, found.steps)
            ax.yaxis.set_major_formatter(lambda v, _: shown_count(v))
            for start in found.starts[1:]:
                ax.axvline(start, color=FAINT, linewidth=0.6, linestyle=":")


def cycles_picture(cycles: Mapping[str, float], pictures: dict[str, str]) -> None:
    """All cycles by what the memory port did."""
    total = max(sum(cycles.values()), 1)
    with _figure(11, 1.5, pictures, "cycles", "where the cycles went") as figure:
        ax = figure.subplots()
        left = 0.0
        for k, (cause, count) in enumerate(cycles.items()):
            label = f"{cause}  {count / total:.1%}"
            ax.barh(0, count / total, left=left, color=PALETTE[k % len(PALETTE)], label=label)
            left += count / total
        ax.set_axis_off()
        ax.set_xlim(0, 1)
        ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=4, frameon=False)


def error_picture(found: Collected, pictures: dict[str, str]) -> None:
    """The error against the float model, over time and output by output."""
    assert found.wanted is not None
    error = np.abs(found.outputs - found.wanted)
    with _figure(11, 2.6, pictures, "error", "error against the float model") as figure:
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        left.plot(error.mean(axis=1), color=PALETTE[0], linewidth=0.9)
        left.set_title("Mean error over the outputs, step by step")
        left.set_xlabel("step")
        right.bar(np.arange(error.shape[1]), error.mean(axis=0), color=PALETTE[2], width=1.0)
        right.set_title("Mean error of each output")
        right.set_xlabel("output")
        right.xaxis.get_major_locator().set_params(integer=True)
        for ax in (left, right):
            ax.set_ylim(0)


def hot_picture(found: Collected, network: Network, pictures: dict[str, str]) -> None:
    """Which share of the traffic is left for the memory, by what stands on the chip."""
    lengths = column_words(network, found.config)
    words = np.concatenate([lengths[k] for k in found.fired if k in lengths])
    fired = np.concatenate([found.fired[k] for k in found.fired if k in lengths])
    order = np.argsort(-fired, kind="stable")
    order = order[words[order] > 0]
    traffic = np.cumsum(words[order] * fired[order])
    if not len(traffic) or not traffic[-1]:
        return
    size = np.cumsum(words[order]) * found.config.word_bytes / 1000
    with _figure(11, 2.8, pictures, "hot", "share of the traffic by kilobytes on chip") as figure:
        ax = figure.subplots()
        left = 1 - traffic / traffic[-1]
        ax.plot([0, *size], [1, *left], color=PALETTE[5], linewidth=2)
        ax.set_xlabel("kB of the hottest columns on the chip")
        ax.set_ylabel("share of the traffic")
        ax.set_ylim(0, 1.02)
        ax.set_xlim(0)
        ax.set_title("Traffic that is left for the memory, if the hottest columns are on the chip")
        hot = found.config.hot_words * found.config.word_bytes / 1000
        if hot:
            ax.axvline(hot, color=FAINT, linestyle="--")
            ax.text(hot, 0.95, " the engine's hot store", color=INK)
