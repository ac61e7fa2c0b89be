"""``stillnet bench models``: whole models of packages, cut, quantized, and judged as a whole.

The judge is onnxruntime on the uncut model, over speech that calibration did not hear. Times are of
the chip's part, by the cost model: 16-bit SDRAM, 100 MHz.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sim.audio import recordings, signals
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.cost.cost import predict
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout
from stillnet.sw.packing.engine_fit import fit
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.partition.session import Session
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.report import run_quantized
from stillnet.sw.util.benches import Bench, table
from stillnet.sw.util.progress import Progress

__all__ = ["BENCH", "LSTM_OF_DETECTOR", "measure_detector", "uncut_detector"]

LSTM_OF_DETECTOR = "/model/decoder/rnn/Unsqueeze_3_output_0"
"""What the detector's LSTM reads."""

_TIMED = 40
"""Steps that the cost model walks through."""


def uncut_detector(path: Path, rows: np.ndarray) -> np.ndarray:
    """The voice activity detector as it came, call by call; array, shape (steps, 1)."""
    run = Session(path.read_bytes())
    carried = {
        name: np.zeros((2 if name == "state" else 1, 1, 128), np.float32)
        for name in run.inputs & {"state", "h", "c"}
    }
    constant = {"sr": np.array(16000)} if "sr" in run.inputs else {}
    outputs = {"state": "stateN", "h": "hn", "c": "cn"}
    names = ["output" if "output" in run.outputs else "speech_probs"]
    names += [outputs[name] for name in carried]
    found = []
    for row in rows.astype(np.float32):
        y, *states = run.run(names, {"input": row[None], **constant, **carried})
        carried = dict(zip(carried, states))
        found.append(np.reshape(y, -1))
    return np.stack(found)


def measure_detector(path: Path, name: str, enter: str | None = None) -> dict[str, Any]:
    """One row: shares of the chip, and the whole model against onnxruntime.

    Parameters
    ----------
    path : Path
        A file of the package silero-vad.
    name : str
    enter : str, optional
        Where the chip begins, in place of the best cut.
    """
    heard = signals.vad_rows(recordings.calibration_clip())
    noisy, _ = recordings.test_mix(noise="machine")
    unheard = signals.vad_rows(noisy)
    constants = recordings.SILERO[path.name]
    cut = CutOptions(constants=constants, enter=enter, elements=heard.shape[1])
    model = load_model(path, cut=cut)
    assert model.host is not None
    network = quantize(model, heard)
    wanted = uncut_detector(path, unheard)
    got = _whole(network, unheard)
    return {
        "name": name,
        "period_ms": 32.0,
        **_chip(network, unheard),
        "mean_error": float(np.abs(got - wanted).mean()),
        "largest_error": float(np.abs(got - wanted).max()),
        "decisions": len(wanted),
        "flipped": int(np.count_nonzero((got > 0.5) != (wanted > 0.5))),
    }


def _whole(network: Network, x: np.ndarray) -> np.ndarray:
    """The quantized model, host parts included."""
    assert network.host is not None
    vectors, kept = network.host.enter_vectors(x)
    result = run_quantized(network, Layout([len(vectors)]), vectors)
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return network.host.leave_outputs(y, kept)


def _chip(network: Network, x: np.ndarray) -> dict[str, Any]:
    """What the chip does, and how long a step takes it."""
    assert network.host is not None
    shares = network.host.report["chip"]
    vectors, _ = network.host.enter_vectors(x[:_TIMED])
    config = fit(network, PRESETS["sdram16"])
    cost = predict(network, network.quantize_input(vectors), config, warm=_TIMED // 2)
    return {
        "layers": " ".join(f"{layer.cell}{layer.units}" for layer in network.layers),
        "weights_share": shares["weights"],
        "multiplications_share": shares["multiplications"],
        "words": cost.words,
        "ms": cost.milliseconds,
    }


def _rows(progress: Progress) -> Iterator[dict[str, Any]]:
    for k, file in enumerate(recordings.SILERO):
        progress("whole models", k, len(recordings.SILERO))
        yield measure_detector(recordings.silero_path(file), file.removesuffix(".onnx"))
    first = next(iter(recordings.SILERO))
    yield measure_detector(
        recordings.silero_path(first), "the same, from the LSTM on", LSTM_OF_DETECTOR
    )
    progress("whole models", len(recordings.SILERO), len(recordings.SILERO))


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    columns = {
        "name": ("model", ""),
        "layers": ("on the chip", ""),
        "weights_share": ("of the weights", ".0%"),
        "multiplications_share": ("of the multiplications", ".0%"),
        "words": ("words per step", ",.0f"),
        "ms": ("ms per step", ".2f"),
        "period_ms": ("period, ms", ".0f"),
        "mean_error": ("mean error", ".5f"),
        "largest_error": ("largest", ".4f"),
        "flipped": ("decisions that flip", ""),
        "decisions": ("of", ""),
    }
    return table(rows, columns)


BENCH = Bench(
    name="models",
    title="Whole models",
    about="Models of packages as they come, cut between chip and host by the tool; outputs of the "
    "whole against onnxruntime on the uncut model, over speech with a noise that calibration did "
    "not hear. Steps of the chip by the cost model, 16-bit SDRAM at 100 MHz, int8, thresholds 0.",
    measure=lambda progress: list(_rows(progress)),
    markdown=markdown,
)
