"""How far a quantized network is from its float model, and how active it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.model.layers import Matrix
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network, QuantizedMatrix
from stillnet.sw.network.sequence import Trace

from .thresholds import output_error

__all__ = ["quantization_report"]


def quantization_report(
    model: Model, network: Network, trace: Trace, result: Trace
) -> dict[str, Any]:
    """Errors against the float model, and activity, over the calibration recordings.

    Parameters
    ----------
    model : Model
    network : Network
    trace : Trace
        The run of the float model.
    result : Trace
        The run of the quantized network.
    """
    return {
        "steps": trace.layout.rows,
        "output_error": output_error(network, result, trace),
        "saturations": result.saturations,
        "vectors": [
            _vector(network, source, trace, result) for source in range(INPUT, len(network.layers))
        ],
        "matrices": [
            _matrix(network, layer.name, m, q)
            for layer, quantized in zip(model.layers, network.layers)
            for m, q in zip(layer.matrices, quantized.matrices)
        ],
    }


def _vector(network: Network, source: int, trace: Trace, result: Trace) -> dict[str, Any]:
    """Errors and activity of the vector of one source."""
    rows = trace.layout.rows
    name, fired = network.source_name(source), result.events.get(source, 0)
    entry: dict[str, Any] = {"name": name, "events_per_step": fired / rows}
    if source == INPUT and network.input_mode.one_hot:
        entry |= {"activity": None, "rms": None, "error_rms": 0.0, "error_max": 0.0}
        return entry | {"relative_rms": 0.0, "relative_max": 0.0, "peak": 1.0}
    fraction = network.input_fraction if source == INPUT else network.layers[source].fraction
    wanted = trace.vectors[source]
    error = result.vectors[source] / 2.0**fraction - wanted
    rms = float(np.sqrt(np.mean(wanted**2)))
    error_rms = float(np.sqrt(np.mean(error**2)))
    error_max = float(np.max(np.abs(error)))
    entry |= {
        "activity": fired / (rows * wanted.shape[1]),
        "peak": float(np.max(np.abs(wanted))),
        "rms": rms,
        "error_rms": error_rms,
        "error_max": error_max,
        "relative_rms": error_rms / rms if rms > 0 else None,
        "relative_max": error_max / rms if rms > 0 else None,
    }
    if source + SECOND in result.events:
        second = result.events[source + SECOND]
        entry["activity_recurrent"] = second / (rows * wanted.shape[1])
    return entry


def _matrix(network: Network, layer: str, m: Matrix, q: QuantizedMatrix) -> dict[str, Any]:
    """Errors of the weights of one matrix."""
    error = m.weight - q.weight * 2.0**-q.fraction
    noise, signal = float(np.sum(error**2)), float(np.sum(m.weight**2))
    return {
        "layer": layer,
        "source": network.source_name(m.source),
        "gates": list(m.gates),
        "fraction": q.fraction,
        "snr_db": 10 * math.log10(signal / noise) if signal and noise else None,
        "clipped": int(np.count_nonzero(np.abs(error) > 0.501 * 2.0**-q.fraction)),
    }
