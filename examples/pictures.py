"""The picture of the demo: what was heard, what came out, which events fired, where cycles went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stillnet.sim.audio.signals import HOP, RATE, si_sdr, stft
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.pictures import PALETTE, STYLE

__all__ = ["demo_picture"]


def demo_picture(
    path: str | Path,
    noisy: np.ndarray,
    clean_reference: np.ndarray,
    denoised: np.ndarray,
    events: Mapping[str, np.ndarray],
    cycles: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Draws the demo as a picture; the suffix of the path names the format (.png, .svg, .pdf).

    Parameters
    ----------
    path : str or Path
    noisy, clean_reference, denoised : arrays of float, shape (samples,)
        16 kHz, aligned with one another.
    events : mapping of source name to array of int, shape (steps,)
        Events of each vector that is encoded, a frame; from the first layer to the last. Step t
        lies at t * 10 ms.
    cycles : mapping of cause to cycles
        All cycles of a run by what the memory port did; drawn in this order.
    sizes : mapping of source name to int, optional
        Elements of each vector; with it the title says which part of the elements fired.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise StillnetError(
            "the picture needs matplotlib; run: pip install 'stillnet[plot]'"
        ) from None
    _check(events, cycles, sizes)
    before, after = si_sdr(noisy, clean_reference), si_sdr(denoised, clean_reference)
    quieter = _pause_level(noisy, clean_reference) - _pause_level(denoised, clean_reference)
    spectra = [_decibels(noisy), _decibels(denoised)]
    titles = [
        f"Heard: speech in noise, SI-SDR {before:.1f} dB",
        f"Computed: SI-SDR {after:.1f} dB, pauses {abs(quieter):.0f} dB "
        + ("quieter" if quieter >= 0 else "louder"),
    ]
    seconds = len(np.asarray(noisy)) / RATE
    top = max(float(s.max()) for s in spectra) - 6

    # A figure of its own, not pyplot's: nothing is left behind, and no display is asked for.
    with rc_context(STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.06)
        figure = Figure(figsize=(11, 10.6), layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(4, 1, height_ratios=[3, 3, 3.2, 0.62])
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1], sharex=upper, sharey=upper)
        for axes, spectrum, title in zip((upper, lower), spectra, titles):
            image = axes.imshow(
                spectrum.T,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                cmap="magma",
                vmin=top - 70,
                vmax=top,
                extent=(-HOP / RATE / 2, (len(spectrum) - 0.5) * HOP / RATE, 0, RATE / 2000),
            )
            axes.set_title(title)
            axes.set_ylabel("frequency (kHz)")
            axes.set_yticks([0, 2, 4, 6, 8])
            axes.tick_params(labelbottom=False)
            bar = figure.colorbar(image, cax=axes.inset_axes((1.012, 0.0, 0.013, 1.0)))
            bar.set_label("level (dB)")
            bar.outline.set_visible(False)
        flow = figure.add_subplot(grid[2], sharex=upper)
        _draw_events(flow, events, sizes)
        flow.set_xlim(0, seconds)
        flow.set_xlabel("time (s)")
        _draw_cycles(figure.add_subplot(grid[3]), cycles)
        try:
            figure.savefig(path, dpi=130)
        except (OSError, ValueError) as error:
            raise StillnetError(f"cannot write the picture '{path}': {error}") from None


def _check(
    events: Mapping[str, np.ndarray], cycles: Mapping[str, float], sizes: Mapping[str, int] | None
) -> None:
    lengths = {np.shape(counts) for counts in events.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1 or next(iter(lengths)) == (0,):
        raise StillnetError(
            "events must be one array of shape (steps,) a source, all of one length, not "
            + (", ".join(f"{k}: {np.shape(v)}" for k, v in events.items()) or "none")
        )
    if not cycles or min(cycles.values()) < 0 or sum(cycles.values()) <= 0:
        raise StillnetError(f"cycles must be counts by cause, at least one above 0: {dict(cycles)}")
    if sizes is not None and set(sizes) != set(events):
        raise StillnetError(
            f"sizes name {', '.join(sizes) or 'nothing'}, events name {', '.join(events)}; "
            "both must name the same sources"
        )


def _decibels(signal: np.ndarray) -> np.ndarray:
    """Power spectra in dB; array of float, shape (steps, 161)."""
    return 20 * np.log10(np.abs(stft(signal)) + 1e-6)


def _pause_level(signal: np.ndarray, clean: np.ndarray) -> float:
    """Level of a signal in dB where the clean speech is in its quietest tenth."""
    hops = max(len(clean) // HOP, 1)
    power = np.array([np.mean(part**2) for part in np.array_split(np.asarray(clean), hops)])
    pause = power <= np.quantile(power, 0.1)
    heard = np.array([np.mean(part**2) for part in np.array_split(np.asarray(signal), hops)])
    return float(10 * np.log10(max(heard[pause].mean(), 1e-12)))


def _draw_events(axes, events: Mapping[str, np.ndarray], sizes: Mapping[str, int] | None) -> None:
    names = list(events)
    counts = np.array([np.asarray(events[name], dtype=float) for name in names])
    steps = counts.shape[1]
    # A mean over 70 ms: single frames flicker too fast to be seen at this width.
    width = min(7, steps)
    kernel = np.ones(width)
    weight = np.convolve(np.ones(steps), kernel, "same")
    smooth = np.array([np.convolve(row, kernel, "same") / weight for row in counts])
    time = np.arange(steps) * HOP / RATE
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    axes.stackplot(time, smooth, colors=colours, edgecolor="white", linewidth=0.35)
    total = counts.sum(axis=0)
    if sizes is None:
        finding = f"Events: {total.mean():,.0f} per frame on average, {total.min():,.0f} to "
        finding += f"{total.max():,.0f}"
    else:
        elements = sum(sizes.values())
        finding = f"Work follows change: {total.mean() / elements:.0%} of {elements:,} elements "
        finding += f"fire in a frame, {total.min() / elements:.0%} in the quietest"
    axes.set_title(finding)
    axes.set_ylabel("events per frame")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, max(smooth.sum(axis=0).max(), 1) * 1.05)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    handles = [_patch(colour) for colour in colours]
    # Top of the list is top of the stack.
    labels = [f"{name}  {row.mean():,.0f}" for name, row in zip(names, counts)]
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        title="source, mean",
        alignment="left",
        handlelength=1.0,
        handleheight=1.0,
    )


def _draw_cycles(axes, cycles: Mapping[str, float]) -> None:
    total = float(sum(cycles.values()))
    first = max(cycles, key=lambda cause: cycles[cause])
    axes.set_title(f"Where {total:,.0f} cycles went: {cycles[first] / total:.1%} {first}")
    left = 0.0
    labels, handles = [], []
    for i, (cause, count) in enumerate(cycles.items()):
        colour = PALETTE[(0, 1, 5, 3, 4, 2, 6)[i % len(PALETTE)]]
        axes.barh(0, count / total, left=left, color=colour, edgecolor="white", linewidth=0.6)
        left += count / total
        handles.append(_patch(colour))
        labels.append(f"{cause}  {count / total:.1%}")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.42, 0.42)
    axes.set_yticks([])
    axes.set_xticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(-0.008, -0.05),
        ncols=len(labels),
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=2.0,
    )


def _patch(colour: str):
    from matplotlib.patches import Patch

    return Patch(facecolor=colour)
