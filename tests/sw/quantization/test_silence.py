"""Corrected biases leave silence alone where what is not zero is an event."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.model.model import Model
from stillnet.sw.network.reference import Reference
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.quantization.silence import correct, silent_units


def s5_model(rng: np.random.Generator) -> Model:
    """Encoder of 60 without bias, and a block."""
    model = Model(12).s5_encoder(rng.normal(0, 0.5, (60, 12)))
    p = 16
    b, c = (rng.normal(0, 0.2, s) + 1j * rng.normal(0, 0.2, s) for s in ((p, 60), (60, p)))
    lam = -np.exp(rng.uniform(-2, 1, p)) + 1j * rng.uniform(-8, 8, p)
    glu = (rng.normal(0, 0.3, (60, 60)), rng.normal(0, 0.5, 60))
    return model.s5(lam, b, c, rng.normal(0, 1, 60), glu=glu, step=0.1)


def events_in_silence(network, steps: int = 5) -> dict[str, int]:
    """Events of the last of a few steps without input, by layer."""
    reference = Reference(network)
    for _ in range(steps):
        reference.step_integers(np.zeros(network.inputs, np.int64))
    return {layer.name: reference.last.events[i] for i, layer in enumerate(network.layers)}


@pytest.fixture(scope="module")
def s5() -> tuple[Model, np.ndarray]:
    rng = np.random.default_rng(0)
    return s5_model(rng), np.abs(rng.normal(0, 1, (80, 12))) + 0.5  # its mean is far from zero


def test_silence_of_an_s5_stays_silent(s5) -> None:
    network = quantize(*s5)
    assert set(events_in_silence(network).values()) == {0}
    assert network.notes["options"]["keep_silence"] is True


def test_without_the_option_silence_is_broken(s5) -> None:
    """That the test above can fail."""
    events = events_in_silence(quantize(*s5, keep_silence=False))
    assert events["encoder0"] > 40
    assert set(events_in_silence(quantize(*s5, correct_bias=False)).values()) == {0}


def test_the_gate_that_cannot_break_silence_is_corrected(s5) -> None:
    """What multiplies zero may have any bias: that of the half-GLU, corrected as before."""
    kept, all_, none = (
        quantize(*s5, **options)
        for options in ({}, {"keep_silence": False}, {"correct_bias": False})
    )
    glu = [n.layers[-1].bias["g"] for n in (kept, all_, none)]
    assert np.array_equal(glu[0], glu[1]) and not np.array_equal(glu[0], glu[2])


def test_layers_of_differences_are_corrected_as_before(s5) -> None:
    rng = np.random.default_rng(3)
    model = Model(12).dense(rng.normal(0, 0.5, (20, 12)), None, "relu").dense(np.eye(20)[:4])
    x = s5[1]
    bias = [
        quantize(model, x, keep_silence=k, nonzero=n).layers[0].bias["y"]
        for k, n in ((True, ()), (False, ()), (True, ("dense0",)))
    ]
    assert np.array_equal(bias[0], bias[1]) and np.count_nonzero(bias[0])
    # As plain events: those that would be more than zero stay as they are.
    assert np.all(bias[2] <= 0) and np.any(bias[2] != bias[0])
    assert np.array_equal(bias[2], np.where(bias[0] > 0, 0, bias[0]))


def test_units_with_a_voice_of_their_own_are_corrected() -> None:
    cell = CELLS["s5_encoder"]
    bias, lost = {"y": np.array([0.0, 0.5, 0.0])}, {"y": np.array([0.1, 0.1, 0.0])}
    assert silent_units(cell, bias, {}).tolist() == [True, False, True]
    assert correct(cell, bias, lost, {}, keep=True)["y"].tolist() == [0.0, 0.6, 0.0]
    assert correct(cell, bias, lost, {}, keep=False)["y"].tolist() == [0.1, 0.6, 0.0]


def test_an_egru_without_biases_stays_silent() -> None:
    rng = np.random.default_rng(4)
    n = 24
    model = Model(6).egru(
        rng.normal(0, 0.5, (3 * n, 6)), rng.normal(0, 0.3, (3 * n, n)), theta=np.zeros(n)
    )
    x = np.abs(rng.normal(0, 1, (60, 6)))
    assert sum(events_in_silence(quantize(model, x)).values()) == 0
    assert sum(events_in_silence(quantize(model, x, keep_silence=False)).values()) > 5
