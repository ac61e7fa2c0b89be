"""Convolution in time, leaky integrator, and cells of one's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests import ROOT
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.support.oracles.cells import convolution, leaky


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{text}$")


def slow(rng: np.random.Generator, steps: int, inputs: int) -> np.ndarray:
    return np.cumsum(rng.normal(0, 0.5, (steps, inputs)), 0)


# -- convolution ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 8),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0),
)
def test_convolution_of_any_size(inputs, units, taps, steps, rectified, seed) -> None:
    rng = np.random.default_rng(seed)
    w, b = rng.normal(0, 1, (units, inputs, taps)), rng.normal(0, 1, units)
    x = slow(rng, steps, inputs)
    model = Model(inputs).conv(w, b, "relu" if rectified else "linear")
    y = convolution(x, w, b, (lambda v: np.maximum(v, 0)) if rectified else (lambda v: v))
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)


@pytest.mark.parametrize("taps", [2, 3, 8])
def test_convolution_against_conv1d(taps) -> None:
    """onnxruntime's Conv with zeros in front."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(taps)
    w = rng.normal(0, 0.5, (7, 5, taps)).astype(np.float32)
    b = rng.normal(0, 0.5, 7).astype(np.float32)
    x = slow(rng, 25, 5).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[taps - 1, 0])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, 25])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(onnx.SerializeToString())
    (y,) = session.run(None, {"x": x.T[None]})
    model = Model(5).conv(w, b)
    assert np.abs(model.run(x) - y[0].T).max() < 1e-4
    got, _ = check(model, quantize(model, x, method="second-order"), x.astype(float))
    assert np.sqrt(np.mean((got - y[0].T) ** 2)) < 0.02 * np.sqrt(np.mean(y**2))


def test_one_event_fetches_one_column_for_all_taps() -> None:
    rng = np.random.default_rng(0)
    model = Model(4).conv(rng.normal(0, 1, (16, 4, 3)))
    x = np.zeros((6, 4))
    x[1:, 2] = 1.0
    network = quantize(model, rng.normal(0, 1, (50, 4)))
    reference = Reference(network, lanes=8)
    events, words = [], []
    for row in network.quantize_input(x):
        reference.step_integers(row)
        events.append(reference.last.events[-1])
        words.append(reference.last.words)
    assert events == [0, 1, 0, 0, 0, 0]
    assert words == [0, 2 * 3, 0, 0, 0, 0]  # two blocks, three taps


def test_convolution_in_front_of_a_gru(tmp_path) -> None:
    rng = np.random.default_rng(0)
    model = Model(6).conv(rng.normal(0, 0.4, (10, 6, 5)), activation="relu", name="front")
    model.gru(rng.normal(0, 0.3, (24, 10)), rng.normal(0, 0.3, (24, 8)))
    x = slow(rng, 40, 6)
    network = quantize(model, x)
    check(model, network, x)
    network.save(tmp_path / "n.safetensors")
    again = Network.load(tmp_path / "n.safetensors")
    assert np.array_equal(Reference(network).run(x), Reference(again).run(x))


def test_convolution_refusals() -> None:
    with refused(r"layer 'a': weight has shape \(4, 6, 0\), expected \(units, 6, taps\)"):
        Model(6).conv(np.zeros((4, 6, 0)), name="a")
    with refused(r"layer 'a': weight has shape \(4, 5, 2\), expected \(units, 6, taps\)"):
        Model(6).conv(np.zeros((4, 5, 2)), name="a")


# -- leaky integrator -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(0))
def test_leaky_of_any_size(inputs, units, steps, seed) -> None:
    rng = np.random.default_rng(seed)
    w, b = rng.normal(0, 1, (units, inputs)), rng.normal(0, 1, units)
    rate, x = rng.uniform(0, 1, units), slow(rng, steps, inputs)
    model = Model(inputs).leaky(w, b, rate)
    y, _ = leaky(x, w, b, rate, np.zeros(units))
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)


def test_a_slow_integrator_gets_there() -> None:
    """A rate of 1/1000 stops moving a 16-bit state about 0.06 before its end; this one arrives."""
    model = Model(1).leaky(np.array([[1.0]]), rate=0.001)
    x = np.full((6000, 1), 3.0)
    network = quantize(model, x)
    reference = Reference(network)
    for row in network.quantize_input(x):
        y = reference.step_integers(row)
    exact = 3 * (1 - 0.999**6000)
    assert abs(network.dequantize_output(y)[0] - exact) < 0.01


def test_rate_beyond_one() -> None:
    with refused("layer 'a': parameter 'rate' is 1.5 at unit 0, cell 'leaky' takes 0 to 1"):
        quantize(Model(1).leaky(np.ones((1, 1)), rate=1.5, name="a"), np.ones((3, 1)))


# -- any cell -------------------------------------------------------------------------------------


def test_layer_of_any_cell() -> None:
    rng = np.random.default_rng(0)
    w, v = rng.normal(0, 0.5, (2, 5, 3)), rng.normal(0, 0.5, (2, 5, 5))
    b, h0 = rng.normal(0, 1, (2, 5)), rng.uniform(-1, 1, 5)
    x = slow(rng, 20, 3)
    model = Model(3).layer(
        "ligru",
        {"u": w[0], "c": w[1]},
        {"u": v[0], "c": v[1]},
        {"u": b[0], "c": b[1]},
        initial={"h": h0},
    )
    same = Model(3).ligru(w.reshape(10, 3), v.reshape(10, 5), b.reshape(10), h0=h0)
    assert np.array_equal(model.run(x), same.run(x))
    with refused("layer 'a': cell 'rwkv' is unknown; known are gru, .*"):
        Model(3).layer("rwkv", {"u": w[0]}, name="a")
    with refused("layer 'a': w_x names 'z', cell 'ligru' has accumulators u, c"):
        Model(3).layer("ligru", {"z": w[0]}, name="a")
    with refused(r"layer 'a': w_h of 'u' has shape \(5, 3\), expected \(5, 5\)"):
        Model(3).layer("ligru", {"u": w[0]}, {"u": w[0]}, name="a")
    with refused("layer 'a': cell 'ligru' has no accumulator 'z'"):
        Model(3).layer("ligru", {"u": w[0]}, bias={"z": b[0]}, name="a")
    with refused("layer 'a': w_x is empty; give the weights of an accumulator"):
        Model(3).layer("ligru", {}, name="a")


def test_missing_parameters_and_peers() -> None:
    rng = np.random.default_rng(0)
    x = slow(rng, 5, 3)
    with refused(r"layer 'a': parameters are given for \[\], cell 'leaky' needs \['rate'\]"):
        quantize(Model(3).layer("leaky", {"x": np.ones((2, 3))}, name="a"), x)
    with refused(r"layer 'a': peers are given for \[\], cell 'gru_reset' needs \['h'\]"):
        quantize(Model(3).layer("gru_reset", {"r": np.ones((2, 3))}, name="a"), x)
    model = (
        Model(3)
        .dense(np.ones((2, 3)))
        .layer("gru_reset", {"r": np.ones((2, 2))}, peers={"h": 0}, name="a")
    )
    with refused("layer 'a': peer 'h' is read from layer 0, which has no such state"):
        quantize(model, x)


def test_network_refuses_peers_of_other_formats_sizes_and_scales() -> None:
    rng = np.random.default_rng(0)
    x = slow(rng, 10, 3)
    w = {"w_ih": rng.normal(0, 1, (12, 3)), "w_hh": rng.normal(0, 1, (12, 4))}
    network = quantize(Model(3).gru(**w, reset="before", name="g"), x)
    network.layers[0].cell = "gru_reset_relu"
    network.layers[0].fraction = 11
    with refused(
        "layer 'g.reset': peer 'h' of layer 'g' is s16.14, cell 'gru_reset_relu' reads s16.11"
    ):
        network.validate()
    network.layers[0].cell = "gru_reset"
    network.layers[0].fraction = 14
    network.layers[0].peers = {"h": 0}
    with refused("layer 'g.reset': peer 'h' is layer 0, which does not exist"):
        network.validate()


def test_own_cell_example_runs(tmp_path) -> None:
    path = ROOT / "examples/own_cell.py"
    result = subprocess.run(
        [sys.executable, str(path), "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "largest error" in result.stdout
    assert (tmp_path / "own.safetensors").exists()
    lines = path.read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("@register"))
    last = next(k for k in range(first, len(lines)) if lines[k].startswith("# --"))
    assert len([line for line in lines[first:last] if line.strip()]) <= 15
    assert "fastgrnn" not in CELLS, "the example ran in a process of its own"
