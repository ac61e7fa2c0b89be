"""Rows of the accuracy bench: what is measured, on networks so small that it takes a second."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.audio import features
from stillnet.sim.bench.accuracy import random_model
from stillnet.sim.bench.accuracy_models import (
    Case,
    cosines,
    decisions,
    model_rows,
    motion,
    motion_model,
)
from stillnet.sim.bench.judging import AUTO, PLANES, float_run, judge, outputs, quantized
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.quantization.quantizer import quantize


def small() -> tuple[Model, np.ndarray]:
    rng = np.random.default_rng(3)
    model = Model(3, name="small").dense(rng.normal(size=(2, 3)), rng.normal(size=2))
    return model, rng.normal(size=(120, 3))


def test_a_row_judges_integers_and_peer_by_each_output():
    model, x = small()
    clips = [x[:50], x[50:]]
    row = judge("small", model, quantize(model, x), clips, way="nearest", extra=decisions)
    assert row["name"] == "small" and row["bits"] == 8 and row["method"] == "nearest"
    assert row["mean_snr_db"] >= row["snr_db"] > 30
    assert row["peer_mean_snr_db"] >= row["peer_snr_db"] > 30
    assert 0 < row["mean_error"] < 0.05 and row["decisions"] == row["peer_decisions"] == 240


def test_a_row_of_two_planes_says_so():
    model, x = small()
    row = judge("small", model, quantized(model, [x], PLANES), [x], way=PLANES)
    assert row["bits"] == 16 and row["method"] == "two planes" and row["snr_db"] > 60


def test_a_row_as_by_default_has_planes_where_eight_bits_are_poor():
    model, x = random_model("dense", np.random.default_rng(1), 100, steps=400)
    row = judge("poor", model, quantized(model, [x], AUTO), [x], way=AUTO)
    assert row["bits"] == 16 and row["method"] == "as by default" and row["snr_db"] > 56


def test_outputs_come_recording_by_recording():
    model, x = small()
    found = outputs(model, float_run(model), [x[:20], x[20:]])
    assert [len(y) for y in found] == [20, 100]
    np.testing.assert_allclose(np.concatenate(found), model.run(x))


def test_cosines_are_of_the_positive_part_of_the_last_steps():
    wanted = [np.array([[9.0, 9.0], [1.0, -5.0]]), np.array([[0.0, 2.0]])]
    got = [np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([[2.0, 2.0]])]
    assert cosines(wanted, got) == pytest.approx(
        {"cosine": (1 + 0.5**0.5) / 2, "cosine_worst": 0.5**0.5}
    )


def test_decisions_flip_at_one_half():
    wanted, got = [np.array([[0.4], [0.6]])], [np.array([[0.49], [0.49]])]
    assert decisions(wanted, got) == {"decisions": 2, "flipped": 1}


def test_a_network_whose_package_is_absent_is_left_out_in_words(capsys):
    def absent():
        raise StillnetError("package 'x' is not installed")

    model, x = small()
    cases = (Case("absent", absent), Case("small", lambda: (model, [x], [x]), ("nearest",)))
    rows = list(model_rows(lambda *_: None, cases))
    assert [r["name"] for r in rows] == ["small"] and rows[0]["seconds"] > 0
    assert "absent is left out: package 'x' is not installed" in capsys.readouterr().err


def test_motion_is_rest_walk_and_turn():
    x, targets = motion(4, steps=600)
    assert x.shape == (600, 6) and targets.shape == (600, 3)
    assert np.all((targets >= 0) & (targets <= 1)) and np.max(np.abs(x[:, :3])) < 3
    assert not np.array_equal(x, motion(5, steps=600)[0])
    x, targets = motion(100)  # to which the last layer is fitted
    errors = np.mean((motion_model().run(x) - targets) ** 2, axis=0)
    assert np.all(errors < np.var(targets, axis=0)), "the fitted layer tells nothing"


def test_mel_bands_hold_the_power_of_a_tone_where_it_is():
    time = np.arange(16_000) / 16_000
    low, high = (features.mel_powers(np.sin(2 * np.pi * f * time))[50] for f in (300.0, 3000.0))
    assert low.shape == (features.MELS,)
    assert np.argmax(low) == 3 and np.argmax(high) == 27


def test_windows_of_a_voice_overlap_by_half_and_are_not_faint():
    samples = 1e-4 * np.random.default_rng(0).normal(size=40_000)
    windows = features.voice_windows(samples)
    assert len(windows) == 2 and windows[0].shape == (160, features.MELS)
    np.testing.assert_array_equal(windows[0][80:], windows[1][:80])
    louder = features.voice_windows(10 * samples)
    np.testing.assert_allclose(windows[0], louder[0])


def test_wide_spectra_have_a_tone_where_it_is():
    time = np.arange(48_000) / 48_000
    found = features.features_wide(np.sin(2 * np.pi * 12_000 * time))
    assert found.shape == (92, 513) and np.argmax(found[40]) == 256
    assert np.all(features.features_wide(np.zeros(2_000)) == -12)
