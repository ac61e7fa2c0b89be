"""``stillnet bench accuracy``: how near the integers are to the float model, output by output.

Random networks whose inputs, hidden units and outputs have scales over decades, for which the
weights make up, and real ones (``accuracy_models``). Calibration and the recordings that are
judged share no step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.util.benches import Bench, table

from .accuracy_models import model_rows
from .judging import AUTO, judge, quantized

__all__ = ["BENCH", "KINDS", "accuracy", "random_model"]

UNITS, INPUTS, OUTPUTS, STEPS = 24, 10, 5, 600
KINDS = ("dense", "conv", "gru", "lstm")
SCALES = (1.0, 10.0, 100.0, 1000.0)
SEEDS = 2
Progress = Callable[[str, int, int], None]


def random_model(
    kind: str, rng: np.random.Generator, scale: float, steps: int = STEPS
) -> tuple[Model, np.ndarray]:
    """A model for whose scales its weights make up, and a recording.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    rng : numpy.random.Generator
    scale : float
        Scales of inputs, ReLU units and outputs lie from 1 / ``scale`` to 1, evenly over the
        decades.
    steps : int
    """

    def decades(size: int) -> np.ndarray:
        return 10 ** rng.uniform(-np.log10(scale), 0, size)

    s, o, h = decades(INPUTS), decades(OUTPUTS), decades(UNITS)
    model = Model(INPUTS, name=kind)
    gates = {"gru": 3, "lstm": 4}.get(kind, 1)
    first = rng.normal(0, 0.4, (gates * UNITS, INPUTS)) / s
    bias = rng.normal(0, 0.3, gates * UNITS)
    if kind in ("gru", "lstm"):
        h = np.ones(UNITS)
        recurrent = rng.normal(0, 0.2, (gates * UNITS, UNITS))
        getattr(model, kind)(first, recurrent, bias, rng.normal(0, 0.3, gates * UNITS))
    elif kind == "conv":
        taps = rng.normal(0, 0.4, (UNITS, INPUTS, 3)) * [0.1, 0.9, 0.5]
        model.conv(h[:, None, None] * taps / s[:, None], h * bias, activation="relu")
    else:
        model.dense(h[:, None] * first, h * bias, "relu")
    last = rng.normal(0, 0.4, (OUTPUTS, UNITS)) / h
    model.dense(o[:, None] * last, o * rng.normal(0, 0.4, OUTPUTS))
    x = np.zeros((steps, INPUTS))
    for t in range(1, steps):
        x[t] = 0.95 * x[t - 1] + rng.normal(0, 0.3, INPUTS)
    return model, x * s


def _random_rows(progress: Progress) -> Iterator[dict[str, Any]]:
    cases = [(k, s, seed) for k in KINDS for s in SCALES for seed in range(SEEDS)]
    for done, (kind, scale, seed) in enumerate(cases):
        progress("random networks", done, len(cases))
        model, x = random_model(kind, np.random.default_rng([seed, int(scale)]), scale)
        half = len(x) // 2
        for way in ("second-order", "nearest", AUTO):
            network = quantized(model, [x[:half]], way)
            name = f"{kind}, scales 1:{scale:g}, seed {seed}"
            yield judge(name, model, network, [x[half:]], way=way)
    progress("random networks", len(cases), len(cases))


def accuracy(progress: Progress) -> list[dict[str, Any]]:
    """All rows; ``snr_db`` is that of the worst output."""
    return [*_random_rows(progress), *model_rows(progress)]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Random networks as the worst and the mean of their seeds, and the real ones."""

    def mean(some: list[dict[str, Any]], key: str) -> float:
        return float(np.mean([r[key] for r in some]))

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"].split(", seed")[0], row["method"]), []).append(row)
    shown = [
        {
            "name": name,
            "method": method,
            "bits": ", ".join(str(b) for b in sorted({r["bits"] for r in some})),
            "rows": f"{sum(r['row_steps'] for r in some)} of {len(some)}",
            "worst": min(r["snr_db"] for r in some),
            "mean": mean(some, "mean_snr_db"),
            "peer": min(r["peer_snr_db"] for r in some),
            "peer_mean": mean(some, "peer_mean_snr_db"),
            "error": mean(some, "mean_error"),
            "peer_error": mean(some, "peer_mean_error"),
            "more": _more(some[0]),
        }
        for (name, method), some in groups.items()
    ]
    columns = {
        "name": ("network", ""),
        "method": ("rounding", ""),
        "bits": ("bits", ""),
        "rows": ("with steps of rows", ""),
        "worst": ("worst output, dB", ".1f"),
        "mean": ("mean, dB", ".1f"),
        "peer": ("peer, worst, dB", ".1f"),
        "peer_mean": ("peer, mean, dB", ".1f"),
        "error": ("mean error", ".2g"),
        "peer_error": ("peer", ".2g"),
        "more": ("beside", ""),
    }
    return table(shown, columns)


def _more(row: dict[str, Any]) -> str:
    """What only some rows have, in words."""
    if "flipped" in row:
        return f"{row['flipped']} of {row['decisions']} decisions flip, peer {row['peer_flipped']}"
    if "cosine" in row:
        return f"cosine {row['cosine']:.4f}, peer {row['peer_cosine']:.4f}"
    return ""


BENCH = Bench(
    name="accuracy",
    title="Accuracy",
    about="Integers against the float model on recordings that calibration did not see, thresholds "
    "0; variance of each output over its mean square error. The peer rounds weights to nearest, "
    "eight bits and a scale for each row, and leaves everything else in floating point.",
    measure=accuracy,
    markdown=markdown,
)
