"""Outputs of the training framework, compared with the imported model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.expect import check_expected
from stillnet.sw.importers.torch import from_state_dict
from tests.sw.importers.test_import_torch import LAYERS, network


def case():
    rng = np.random.default_rng(0)
    state, function = network(rng)
    x = rng.normal(size=(30, 3))
    return from_state_dict(state, LAYERS), x, function(x)


def refused(model, x, y, message) -> None:
    with pytest.raises(StillnetError) as error:
        check_expected(model, x, y)
    assert re.fullmatch(message, str(error.value)), str(error.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_rounding_is_no_difference(dtype) -> None:
    model, x, y = case()
    found = check_expected(model, x, y.astype(dtype))
    assert found.steps == 30 and found.relative <= {2: 2e-3}.get(np.dtype(dtype).itemsize, 1e-6)
    for shape in ((1, 30, 2), (30, 1, 2)):
        assert check_expected(model, x, y.reshape(shape)).largest < 1e-12
    last = check_expected(model, x, y[-1])
    assert last.steps == 1


def test_the_first_difference_is_named() -> None:
    model, x, y = case()
    wrong = y.copy()
    wrong[7:9, 1] += 0.1
    wrong[8, 0] -= 0.2
    spread = np.ptp(wrong[:, 1])
    refused(
        model, x, wrong,
        rf"the model differs from y: first at step 7, output 1: {y[7, 1]:.6g} instead of "
        rf"{wrong[7, 1]:.6g}, {0.1 / spread:.2g} of that output's spread \({spread:.3g}\); in all "
        r"2 of 30 steps, by at most 0.2. Float rounding makes less than 0.0001 .*",
    )  # fmt: skip
    refused(model, x, y[-1] + 0.1, r"the model differs from y: first at step 29, output 0: .*")


def test_a_small_output_beside_a_large_one_is_compared_too() -> None:
    from stillnet.sw.model.model import Model

    model = Model(1).dense(np.array([[10.0], [1.0]]))
    x = np.linspace(-1, 1, 20)[:, None]
    y = model.run(x)
    check_expected(model, x, y)
    refused(model, x, y * [1, 1.001], r"the model differs from y: first at step 0, output 1: .*")
    offset = Model(1).dense(np.array([[1e-3]]), np.array([1000.0]))
    check_expected(offset, x, offset.run(x).astype(np.float32))


@pytest.mark.parametrize(
    "y, message",
    [
        (np.ones((29, 2)), r"y has the shape \(29, 2\); the model gives \(30, 2\) for this .*"),
        (np.array(["a"]), r"y holds <U1 of shape \(1,\); real numbers are needed"),
        (np.full((30, 2), np.nan), r"y holds NaN or infinity: run the training framework again"),
    ],
)
def test_outputs_that_cannot_be_compared_refused(y, message) -> None:
    model, x, _ = case()
    refused(model, x, y, message)


def test_command_line(tmp_path, capsys) -> None:
    model, x, y = case()
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "net.npz", **network(rng)[0])
    for name, array in {"x": x, "y": y, "x2": x[:20], "y2": y[:20] + 1e-3}.items():
        np.save(tmp_path / f"{name}.npy", array)
    place = {n: str(tmp_path / n) for n in ("net.npz", "x.npy", "y.npy", "x2.npy", "y2.npy")}
    layers = ["--layers", "relu:fc_in,gru:rnn,sigmoid:fc_out"]
    for command in ("quantize", "compress"):
        start = [command, place["net.npz"], "--data", place["x.npy"], place["x2.npy"], *layers]
        start += ["--method", "nearest", "-o", str(tmp_path / "net.safetensors")]
        assert main([*start, "--expect", place["y.npy"]]) == 0
        assert f"agrees with {place['y.npy']} over 30 steps, within " in capsys.readouterr().err
        assert main([*start, "--expect", place["y.npy"], place["y2.npy"]]) == 2
        assert "outputs '" + place["y2.npy"] + "': first at step 0" in capsys.readouterr().err
        assert main([*start, "--expect", *[place["y.npy"]] * 3]) == 2
        assert "--expect has 3 files for 2 recordings" in capsys.readouterr().err
