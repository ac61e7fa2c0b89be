"""Models of packages, whole: the cut, the integers and the generated hardware."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.audio import recordings, signals
from stillnet.sim.bench.models import uncut_detector
from stillnet.sw.host.engines import run
from stillnet.sw.importers.load import load_model
from stillnet.sw.partition.options import CutOptions
from tests.support.networks.quick import quantize


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    noisy, _ = recordings.test_mix(noise="machine")
    return signals.vad_rows(noisy)


@pytest.mark.parametrize("file", recordings.SILERO)
def test_a_voice_activity_detector_is_taken_whole(file: str, speech: np.ndarray) -> None:
    constants = recordings.SILERO[file]
    model = load_model(
        recordings.silero_path(file), cut=CutOptions(constants=constants, elements=576)
    )
    assert [layer.cell for layer in model.layers] == [*["relu"] * 4, "lstm", "relu", "sigmoid"]
    assert model.host is not None and model.host.stepwise and not model.host.states
    assert model.host.report["chip"]["weights"] > 0.75
    wanted = uncut_detector(recordings.silero_path(file), speech[:120])
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(model.run_whole(speech[:120]), wanted, atol=2e-4)


@pytest.mark.slow
def test_its_integers_in_hardware(speech: np.ndarray) -> None:
    file = next(iter(recordings.SILERO))
    model = load_model(recordings.silero_path(file), cut=CutOptions(elements=576))
    network = quantize(model, signals.vad_rows(recordings.calibration_speech())[:200])
    result = run(network, speech, engine="rtl", preset="axi64", steps=2)
    assert result.mismatches == 0
    np.testing.assert_array_equal(result.outputs, run(network, speech, steps=2).outputs)
