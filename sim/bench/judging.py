"""How near integers are to a float model, output by output, beside a peer.

The peer is what rounding alone would cost with a scale for each row of weights and everything else
in floating point: int8 weights to nearest in the float model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.quantization.quantizer import AUTO as GIVEN
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.report import run_quantized, signal_to_noise

__all__ = [
    "AUTO",
    "PLANES",
    "Extra",
    "Run",
    "float_run",
    "integer_run",
    "judge",
    "outputs",
    "quantized",
    "rounded_rows",
]

AUTO = "as by default"
"""A way beside the methods of ``quantize``: second planes in the layers where they are free."""

PLANES = "two planes"
"""The same in every layer."""


def quantized(model: Model, heard: list[np.ndarray], way: str) -> Network:
    """The integers of a model, by a method of ``quantize`` with eight bits, or with planes."""
    if way == AUTO:
        return quantize(model, heard, planes=GIVEN)
    if way != PLANES:
        return quantize(model, heard, method=way)
    fed = [layer.name for layer in model.layers if layer.matrices]
    return quantize(model, heard, planes=fed)


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


Run = Callable[[Layout, np.ndarray], np.ndarray]
"""The part of a model that is on the chip, over packed recordings: its outputs."""

Extra = Callable[[list[np.ndarray], list[np.ndarray]], dict[str, Any]]
"""More fields from the outputs of the float model and those to judge, recording by recording."""


def outputs(model: Model, run: Run, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of each recording; those of the whole model, where the host has a part of it."""
    host = model.host
    if host is None:
        layout = Layout([len(c) for c in clips])
        return layout.unpack(run(layout, layout.pack(clips)))
    entered = [host.enter_vectors(c) for c in clips]
    layout = Layout([len(v) for v, _ in entered])
    found = layout.unpack(run(layout, layout.pack([v for v, _ in entered])))
    return [host.leave_outputs(y, kept) for y, (_, kept) in zip(found, entered)]


def float_run(model: Model) -> Run:
    """The float model."""
    return lambda layout, x: run_float(model, layout, x).vectors[len(model.layers) - 1]


def integer_run(network: Network) -> Run:
    """The integers."""
    last = len(network.layers) - 1
    return lambda layout, x: network.dequantize_output(
        run_quantized(network, layout, x).vectors[last]
    )


def judge(
    name: str,
    model: Model,
    network: Network,
    clips: list[np.ndarray],
    *,
    way: str,
    extra: Extra | None = None,
) -> dict[str, Any]:
    """A row: the integers, made in some way, and the peer (``peer_...``), against the float model.

    ``bits`` are those of the weights of most bits.
    """
    wanted = outputs(model, float_run(model), clips)
    row = {
        "name": name,
        "bits": 16 if network.notes["options"]["planes"] else 8,
        "method": way,
        "row_steps": network.row_scale,
    }
    runs = {"": integer_run(network), "peer_": float_run(rounded_rows(model))}
    for prefix, run in runs.items():
        got = outputs(model, run, clips)
        fields = {**_errors(wanted, got), **(extra(wanted, got) if extra else {})}
        row |= {prefix + key: value for key, value in fields.items()}
    return row


def _errors(wanted: list[np.ndarray], got: list[np.ndarray]) -> dict[str, float]:
    w, g = np.concatenate(wanted), np.concatenate(got)
    ratios = [r for r in signal_to_noise(w, g) if r is not None]
    return {
        "snr_db": min(ratios),
        "mean_snr_db": float(np.mean(ratios)),
        "mean_error": float(np.mean(np.abs(g - w))),
    }
