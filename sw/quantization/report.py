"""How far a quantized network is from its float model, how active it is, and what is wrong with it.

Every output is judged by itself: a mean over all of them hides one that never moves again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillnet.sw.contract.fixed import SCALE_FRACTION
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.model.layers import Matrix
from stillnet.sw.model.model import Model
from stillnet.sw.network.calibration import Calibration
from stillnet.sw.network.network import Network, QuantizedMatrix
from stillnet.sw.network.sequence import Layout, Trace, run_integers
from stillnet.sw.partition.parts import HostParts

from .checking.advice import advice_of_planes
from .checking.doubts import doubts_of_calibration, doubts_of_network, doubts_of_outputs

__all__ = ["output_error", "quantization_report", "run_quantized", "signal_to_noise"]


def run_quantized(network: Network, layout: Layout, x: np.ndarray) -> Trace:
    """The network over packed recordings of float vectors, or of tokens."""
    return run_integers(
        network, layout, layout.pack([network.quantize_input(p) for p in layout.unpack(x)])
    )


def output_error(network: Network, result: Trace, wanted: np.ndarray) -> float:
    """Mean absolute error of the output against the float model."""
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return float(np.mean(np.abs(y - wanted)))


def signal_to_noise(wanted: np.ndarray, got: np.ndarray) -> list[float | None]:
    """SNR of each column in dB: the variance over the mean square error; None where nothing varies
    or nothing is lost."""
    power = np.var(wanted, axis=0)
    noise = np.mean((got - wanted) ** 2, axis=0)
    return [
        10 * math.log10(p / n) if p > 1e-24 and n > 0 else None
        for p, n in zip(power.tolist(), noise.tolist())
    ]


def quantization_report(
    model: Model,
    network: Network,
    trace: Trace,
    recordings: Sequence[np.ndarray],
    worst: tuple[int, float] | None = None,
) -> dict[str, Any]:
    """Errors against the float model, and activity, over the calibration recordings.

    The outputs of a whole model are those behind the host's part. How often each element fired is
    also noted in the network (``Network.activity``), and what a monitor compares with
    (:class:`~stillnet.sw.network.calibration.Calibration`).

    Parameters
    ----------
    model : Model
    network : Network
    trace : Trace
        The run of the float model.
    recordings : sequence of arrays
        As the model takes them.
    worst : (output, SNR in dB), optional
        On recordings that were held out, where second planes of weights may be advised.
    """
    last = len(network.layers) - 1
    x = trace.vectors[INPUT]
    result = run_quantized(network, trace.layout, x)
    network.notes["activity"] = {
        name: [round(float(n) / trace.layout.rows, 4) for n in result.fired[source]]
        for source, name in network.event_names().items()
        if source in result.fired
    }
    network.notes["calibration"] = Calibration.of(network, result).to_dict()
    wanted = trace.vectors[last]
    got = network.dequantize_output(result.vectors[last])
    if model.host is not None:
        wanted, got = _behind(model.host, recordings, trace.layout, wanted, got)
    ratios = signal_to_noise(wanted, got)
    doubts = doubts_of_calibration(x, model.one_hot)
    doubts += doubts_of_network(model, network)
    doubts += doubts_of_outputs(network, ratios, wanted, got)
    doubts += [] if model.host is None else model.host.doubts()
    return {
        "steps": trace.layout.rows,
        "output_error": float(np.mean(np.abs(got - wanted))),
        "outputs": {
            "snr_db": ratios,
            "error": np.mean(np.abs(got - wanted), axis=0).tolist(),
            "error_max": np.max(np.abs(got - wanted), axis=0).tolist(),
        },
        "saturations": result.saturations,
        "vectors": [
            _vector(network, source, trace, result) for source in range(INPUT, len(network.layers))
        ],
        "matrices": [
            _matrix(model, network, i, j)
            for i, layer in enumerate(network.layers)
            for j in range(len(layer.matrices))
        ],
        "doubts": doubts,
        "advice": advice_of_planes(model, network, result, worst),
    }


def _behind(
    host: HostParts,
    recordings: Sequence[np.ndarray],
    layout: Layout,
    wanted: np.ndarray,
    got: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the whole model from those of the chip."""
    pairs = []
    for x, a, b in zip(recordings, layout.unpack(wanted), layout.unpack(got)):
        kept = host.enter_vectors(x)[1]
        pairs.append((host.leave_outputs(a, kept), host.leave_outputs(b, kept)))
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def _vector(network: Network, source: int, trace: Trace, result: Trace) -> dict[str, Any]:
    """Errors and activity of the vector of one source."""
    rows = trace.layout.rows
    name, fired = network.source_name(source), result.events.get(source, 0)
    entry: dict[str, Any] = {"name": name, "events_per_step": fired / rows}
    if source == INPUT and network.input_mode.one_hot:
        entry |= {"activity": None, "rms": None, "error_rms": 0.0, "error_max": 0.0}
        return entry | {"relative_rms": 0.0, "relative_max": 0.0, "peak": 1.0, "snr_db": None}
    wanted = trace.vectors[source]
    error = result.vectors[source] / network.units_of(source) - wanted
    rms = float(np.sqrt(np.mean(wanted**2)))
    error_rms = float(np.sqrt(np.mean(error**2)))
    error_max = float(np.max(np.abs(error)))
    signal, noise = float(np.mean(np.var(wanted, axis=0))), float(np.mean(error**2))
    entry |= {
        "activity": fired / (rows * wanted.shape[1]),
        "peak": float(np.max(np.abs(wanted))),
        "rms": rms,
        "error_rms": error_rms,
        "error_max": error_max,
        "relative_rms": error_rms / rms if rms > 0 else None,
        "relative_max": error_max / rms if rms > 0 else None,
        "snr_db": 10 * math.log10(signal / noise) if signal > 1e-24 and noise > 0 else None,
    }
    if source + SECOND in result.events:
        second = result.events[source + SECOND]
        entry["activity_recurrent"] = second / (rows * wanted.shape[1])
    return entry


def _steps(network: Network, index: int, number: int) -> np.ndarray:
    """What one is worth in each integer of a matrix, in the units of the float model."""
    layer, m = network.layers[index], network.layers[index].matrices[number]
    values = np.full(m.weight.shape, 2.0**-m.fraction)
    for k, g in enumerate(m.gates):
        if layer.scale is not None and g in layer.scale:
            values[k] *= layer.scale[g][:, None] * 2.0**-SCALE_FRACTION
    if layer.unit_exponents is not None:
        values = values * 2.0 ** -layer.unit_exponents[:, None].astype(float)
    below = (
        network.input_exponents if m.source == INPUT else network.layers[m.source].unit_exponents
    )
    return values if below is None else values * 2.0 ** below.astype(float)


def _matrix(model: Model, network: Network, index: int, number: int) -> dict[str, Any]:
    """Errors of the weights of one matrix."""
    m: Matrix = model.layers[index].matrices[number]
    q: QuantizedMatrix = network.layers[index].matrices[number]
    steps = _steps(network, index, number)
    error = m.weight - q.weight * steps
    noise, signal = float(np.sum(error**2)), float(np.sum(m.weight**2))
    scaled, limit = m.weight / steps, 1 << (q.bits - 1)
    return {
        "layer": network.layers[index].name,
        "source": network.source_name(m.source),
        "gates": list(m.gates),
        "fraction": q.fraction,
        "snr_db": 10 * math.log10(signal / noise) if signal and noise else None,
        "clipped": int(np.count_nonzero((scaled < -limit - 0.5) | (scaled > limit - 0.5))),
    }
