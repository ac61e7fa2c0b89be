"""Activations, masks, products, delays and plain recurrences: equations, bounds, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.activations import ACTIVATION_NAMES
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_float, run_integers
from stillnet.sw.packing.engine_fit import fit, missing
from stillnet.sw.packing.packer import pack
from stillnet.sw.quantization.checking.checks import check_recordings
from stillnet.sw.quantization.preparation import prepare
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.support.oracles.cells import convolution

EXACT: dict[str, Any] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * special.expit(x),
    "swish": lambda x: x * special.expit(x),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "erf": special.erf,
    "exp": np.exp,
    "sqrt": lambda x: np.sqrt(np.maximum(x, 0)),
    "clip": lambda x: x,
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "abs": np.abs,
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}


def slow(rng: np.random.Generator, steps: int, inputs: int) -> np.ndarray:
    return np.clip(np.cumsum(rng.normal(0, 0.5, (steps, inputs)), 0), -4, 4)


def judged(model: Model, x: np.ndarray, network: Network | None = None) -> float:
    """Every step within its bound; signal over error of the outputs in dB."""
    network = quantize(model, x) if network is None else network
    base = prepare(model, check_recordings(model, x), rows=False)
    y, bounds = check(model, network, x, elements=dict(base.elements))
    assert np.all(np.isfinite(bounds))
    wanted = model.run(x)
    return float(10 * np.log10(np.var(wanted, axis=0).mean() / np.mean((y - wanted) ** 2)))


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_an_activation_by_its_name(name: str) -> None:
    rng = np.random.default_rng(len(name))
    size = 0.1 if name == "exp" else 0.5
    w, b = rng.normal(0, size, (9, 6)), rng.normal(0, 0.4, 9)
    x = slow(rng, 40, 6)
    model = Model(6).dense(w, b, name)
    np.testing.assert_allclose(model.run(x), EXACT[name](x @ w.T + b), atol=1e-9)
    model.dense(rng.normal(0, 0.4, (5, 9)), rng.normal(0, 0.1, 5), name="readout")
    assert judged(model, x) > 25


SETTINGS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "slopes of units": (
        "prelu",
        {"slope": np.linspace(-1.5, 3, 9)},
        lambda x: np.where(x > 0, x, np.linspace(-1.5, 3, 9) * x),
    ),
    "a floor": ("clip", {"low": 0.25}, lambda x: np.maximum(x, 0.25)),
    "a ceiling": ("clip", {"high": -0.1}, lambda x: np.minimum(x, -0.1)),
    "bounds of units": (
        "clip",
        {"low": np.linspace(-2, 0, 9), "high": np.linspace(0.5, 40, 9)},
        lambda x: np.clip(x, np.linspace(-2, 0, 9), np.linspace(0.5, 40, 9)),
    ),
    "celu": ("celu", {"alpha": 0.5}, lambda x: np.where(x > 0, x, 0.5 * np.expm1(x / 0.5))),
    "onnx": (
        "hard_sigmoid",
        {"alpha": 0.2, "beta": 0.5},
        lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_an_activation(case: str) -> None:
    name, settings, exact = SETTINGS[case]
    rng = np.random.default_rng(1)
    w, b, x = rng.normal(0, 0.5, (9, 6)), rng.normal(0, 0.4, 9), slow(rng, 40, 6)
    model = Model(6).dense(w, b, name, settings=settings)
    np.testing.assert_allclose(model.run(x), exact(x @ w.T + b), atol=1e-12)
    assert judged(model, x) > 25


def test_no_bound_is_kept_in_a_file_and_no_doubt(tmp_path) -> None:
    rng = np.random.default_rng(2)
    x = slow(rng, 30, 6)
    model = Model(6).dense(rng.normal(0, 0.5, (4, 6)), None, "clip", settings={"low": 0.1})
    network = quantize(model, x)
    network.save(tmp_path / "n.safetensors")
    again = Network.load(tmp_path / "n.safetensors")
    np.testing.assert_array_equal(Reference(network).run(x), Reference(again).run(x))
    assert np.all(again.layers[0].parameters["high"] == 131071)
    _, bounds = check(model, network, x)
    assert bounds[0] < 0.2  # no bound is not taken for a doubtful one


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e3])
def test_a_mask_and_a_product_of_any_size(size: float) -> None:
    """What is multiplied may have any scale: calibration brings it into the formats."""
    rng = np.random.default_rng(5)
    x = slow(rng, 60, 6)
    for cell, other in (("mask", 1.0), ("product", size)):
        model = Model(6).layer(
            cell,
            {"a": size * rng.normal(0, 1, (7, 6)), "b": other * rng.normal(0, 0.5, (7, 6))},
            bias={"a": size * rng.normal(0, 1, 7)},
        )
        assert judged(model, x) > 28
        assert judged(model.dense(rng.normal(0, 0.3 / size, (4, 7)), None), x) > 28


def test_a_threshold_of_a_mask_is_in_its_own_units() -> None:
    """Whatever power of two calibration chose inside."""
    rng = np.random.default_rng(9)
    x = slow(rng, 60, 6)
    kept = []
    for size in (1.0, 2.0**10):
        w = {"a": size * np.eye(6), "b": np.ones((6, 6))}
        model = Model(6).layer("mask", w, name="m").dense(np.ones((2, 6)), None)
        network = quantize(model, x, thresholds={"m": 0.25 * size})
        layer = network.layers[0]
        assert layer.unit_exponents is not None
        kept.append(layer.threshold * 2.0 ** -(layer.fraction + layer.unit_exponents[0]))
    assert kept == [0.25, 256.0]


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e3])
def test_a_root_and_an_exponential_of_any_size(size: float) -> None:
    rng = np.random.default_rng(6)
    x = slow(rng, 60, 6)
    w, b = rng.normal(0, 1, (5, 6)), rng.uniform(5, 9, 5)
    assert judged(Model(6).dense(size * w, size * b, "sqrt"), x) > 28
    assert judged(Model(6).dense(0.2 * w, np.log(size) * np.ones(5), "exp"), x) > 28


@pytest.mark.parametrize(
    ("taps", "activation"),
    [(9, "linear"), (14, "relu"), (15, "linear"), (15, "silu"), (30, "relu"), (30, "silu")],
)
def test_a_convolution_of_many_taps(taps: int, activation: str) -> None:
    rng = np.random.default_rng(taps)
    w, b = rng.normal(0, 0.3, (5, 4, taps)), rng.normal(0, 0.3, 5)
    x = slow(rng, 45, 4)
    model = Model(4).conv(w, b, activation)
    np.testing.assert_allclose(model.run(x), convolution(x, w, b, EXACT[activation]), atol=1e-9)
    assert sum(layer.cell == "delay" for layer in model.layers) == -(-taps // 7) - 1
    layout = Layout([len(x)])
    last = len(model.layers) - 1
    np.testing.assert_allclose(run_float(model, layout, x).vectors[last], model.run(x), atol=1e-9)
    network = quantize(model, x)
    rows, reference = network.quantize_input(x), Reference(network)
    whole = run_integers(network, layout, rows).vectors[last]
    np.testing.assert_array_equal(whole, [reference.step_integers(row) for row in rows])
    assert judged(model, x, network) > 25


@pytest.mark.parametrize("activation", ["tanh", "relu", "softsign", "hard_sigmoid"])
def test_a_plain_recurrence(activation: str) -> None:
    rng = np.random.default_rng(7)
    w, r = rng.normal(0, 0.4, (8, 5)), rng.normal(0, 0.2, (8, 8))
    b, c, x = rng.normal(0, 0.3, 8), rng.normal(0, 0.3, 8), slow(rng, 40, 5)
    model = Model(5).rnn(w, r, b, c, activation=activation)
    h, expected = np.zeros(8), []
    for row in x:
        h = EXACT[activation](w @ row + b + r @ h + c)
        expected.append(h)
    np.testing.assert_allclose(model.run(x), expected, atol=1e-9)
    assert judged(model, x) > 20


def test_an_engine_gets_the_cells_that_it_lacks() -> None:
    rng = np.random.default_rng(8)
    x = slow(rng, 40, 6)
    model = Model(6).dense(rng.normal(0, 0.5, (9, 6)), None, "gelu")
    model.conv(rng.normal(0, 0.2, (9, 9, 10))).dense(rng.normal(0, 0.3, (4, 9)), None, "relu6")
    network = quantize(model, x)
    base = PRESETS["small"] if "small" in PRESETS else next(iter(PRESETS.values()))
    assert "cells" in missing(network, base)
    config = fit(network, base)
    assert not missing(network, config)
    assert set(config.cells) == {*base.cells, "gelu", "delay", "conv7", "clip"}
    pack(network, config)


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{text}")


def test_refusals() -> None:
    w = np.ones((4, 6))
    with refused("layer 'a': activation 'gelo' is not supported; did you mean gelu. Known are abs"):
        Model(6).dense(w, None, "gelo", name="a")
    with refused("layer 'a': activation 'relu' takes no settings, not 'slope'; leave it out"):
        Model(6).dense(w, None, "relu", settings={"slope": 0.1}, name="a")
    with refused(r"layer 'a': slope of its activation has shape \(3,\), or holds NaN; give one "):
        Model(6).dense(w, None, "prelu", settings={"slope": np.ones(3)}, name="a")
    with refused(r"layer 'a': w_hh has shape \(4, 6\), expected \(4, 4\)"):
        Model(6).rnn(w, w, name="a")
    model = Model(6).dense(w, None, "leaky_relu", settings={"slope": 5.0}, name="a")
    with refused("layer 'a': parameter 'slope' is 5 at unit 0, cell 'leaky_relu' takes -4 to"):
        quantize(model, np.ones((60, 6)))
