"""``stillnet bench accuracy``: how near the integers are to the float model, output by output.

Random networks whose inputs, hidden units and outputs have scales over decades, for which the
weights make up, and real ones. Calibration and the recording that is judged share no step. The peer
is what rounding alone would cost with a scale for each row of weights and everything else in
floating point: int8 weights to nearest in the float model itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from stillnet.sim.audio import recordings, signals
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.report import run_quantized, signal_to_noise
from stillnet.sw.util.benches import Bench, table

__all__ = ["BENCH", "KINDS", "accuracy", "random_model", "rounded_rows"]

UNITS, INPUTS, OUTPUTS, STEPS = 24, 10, 5, 600
KINDS = ("dense", "conv", "gru", "lstm")
SCALES = (1.0, 10.0, 100.0, 1000.0)
SEEDS = 2
FRAMES = 1000
"""Of test speech, each mix."""

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


def rounded_rows(model: Model) -> Model:
    """The float model with its weights rounded to nearest, eight bits, a scale for each row."""

    def rounded(weight: np.ndarray) -> np.ndarray:
        step = np.max(np.abs(weight), axis=2, keepdims=True) / 127
        step = np.where(step > 0, step, 1.0)
        return np.rint(weight / step) * step

    layers = [
        replace(
            layer,
            matrices=tuple(replace(m, weight=rounded(m.weight)) for m in layer.matrices),
        )
        for layer in model.layers
    ]
    return replace(model, layers=layers)


def _outputs(model: Model, clips: list[np.ndarray]) -> np.ndarray:
    layout = Layout([len(c) for c in clips])
    return run_float(model, layout, layout.pack(clips)).vectors[len(model.layers) - 1]


def _row(
    name: str, model: Model, network: Network, clips: list[np.ndarray], method: str
) -> dict[str, Any]:
    layout = Layout([len(c) for c in clips])
    wanted = _outputs(model, clips)
    result = run_quantized(network, layout, layout.pack(clips))
    got = network.dequantize_output(result.vectors[len(network.layers) - 1])
    ours = [r for r in signal_to_noise(wanted, got) if r is not None]
    peer = [
        r for r in signal_to_noise(wanted, _outputs(rounded_rows(model), clips)) if r is not None
    ]
    return {
        "name": name,
        "bits": 8,
        "method": method,
        "row_steps": network.row_scale,
        "snr_db": min(ours),
        "mean_snr_db": float(np.mean(ours)),
        "mean_error": float(np.mean(np.abs(got - wanted))),
        "peer_snr_db": min(peer),
        "peer_mean_snr_db": float(np.mean(peer)),
    }


def _random_rows(progress: Progress) -> Iterator[dict[str, Any]]:
    cases = [(k, s, seed) for k in KINDS for s in SCALES for seed in range(SEEDS)]
    for done, (kind, scale, seed) in enumerate(cases):
        progress("random networks", done, len(cases))
        model, x = random_model(kind, np.random.default_rng([seed, int(scale)]), scale)
        half = len(x) // 2
        for method in ("second-order", "nearest"):
            network = quantize(model, x[:half], method=method)
            name = f"{kind}, scales 1:{scale:g}, seed {seed}"
            yield _row(name, model, network, [x[half:]], method)
    progress("random networks", len(cases), len(cases))


def _speech(noise: str) -> np.ndarray:
    """Features of test speech with noise."""
    noisy, _ = recordings.test_mix(noise=noise)
    return signals.features(signals.stft(noisy))[:FRAMES]


def _nsnet2(progress: Progress) -> Iterator[dict[str, Any]]:
    model = load_model(recordings.nsnet2_path())
    heard = [recordings.calibration_features()]
    clips = [_speech(noise) for noise in ("babble", "machine")]
    for k, method in enumerate(("second-order", "nearest")):
        progress("NSNet2", k, 2)
        begin = time.perf_counter()
        network = quantize(model, heard, method=method)
        seconds = time.perf_counter() - begin
        yield _row("NSNet2, 16 kHz", model, network, clips, method) | {"seconds": seconds}
    progress("NSNet2", 2, 2)


def accuracy(progress: Progress) -> list[dict[str, Any]]:
    """All rows; ``snr_db`` is that of the worst output."""
    return [*_random_rows(progress), *_nsnet2(progress)]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Random networks as the worst and the mean of their seeds, and the real ones."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"].split(", seed")[0], row["method"]), []).append(row)
    shown = [
        {
            "name": name,
            "method": method,
            "rows": f"{sum(r['row_steps'] for r in some)} of {len(some)}",
            "worst": min(r["snr_db"] for r in some),
            "mean": float(np.mean([r["mean_snr_db"] for r in some])),
            "peer": min(r["peer_snr_db"] for r in some),
            "peer_mean": float(np.mean([r["peer_mean_snr_db"] for r in some])),
            "error": float(np.mean([r["mean_error"] for r in some])),
        }
        for (name, method), some in groups.items()
    ]
    columns = {
        "name": ("network", ""),
        "method": ("rounding", ""),
        "rows": ("with steps of rows", ""),
        "worst": ("worst output, dB", ".1f"),
        "mean": ("mean, dB", ".1f"),
        "peer": ("peer, worst, dB", ".1f"),
        "peer_mean": ("peer, mean, dB", ".1f"),
        "error": ("mean error", ".2g"),
    }
    return table(shown, columns)


BENCH = Bench(
    name="accuracy",
    title="Accuracy",
    about="Integers against the float model on recordings that calibration did not see, thresholds "
    "0; variance of each output over its mean square error. The peer rounds weights to nearest, "
    "eight bits and a scale for each row, and leaves everything else in floating point.",
    measure=accuracy,
    markdown=markdown,
)
