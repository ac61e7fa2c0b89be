"""States of chip and host over hundreds of steps, saved and restored in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from stillnet.sw.host.engines import run
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import load_image, pack
from tests.support.link_bench import CONFIGS, board, connect
from tests.support.networks.graphs import GraphBuilder, run_onnx
from tests.support.networks.quick import quantize

INPUTS, UNITS, STEPS, MIDDLE = 16, 16, 300, 137


def enhancer() -> onnx.ModelProto:
    """One tensor with h of a GRU on the chip, the samples before and a running mean."""
    g = GraphBuilder(11)
    x, state = g.input("x", 1, INPUTS), g.input("state", 3, 1, UNITS)
    parts = g.node("Split", state, outputs=3, axis=0)
    cache, mean = (g.node("Squeeze", p, g.const([0])) for p in parts[1:])
    front = g.node("Softplus", g.node("Sub", x, g.node("Mul", cache, g.const(np.float32(0.5)))))
    steps = g.node("Unsqueeze", g.node("Cos", front), g.const([0]))
    h, outs = g.recurrent("GRU", steps, INPUTS, UNITS, parts[0])
    out = g.node("Squeeze", g.dense(h, UNITS, UNITS), g.const([0]))
    kept = g.node("Mul", mean, g.const(np.float32(0.9)))
    new = g.node("Add", kept, g.node("Softmax", out, axis=-1))
    g.output(new, "y")
    ends = [g.node("Unsqueeze", t, g.const([0])) for t in (x, new)]
    g.output(g.node("Concat", outs[1], *ends, axis=0), "stateN")
    return g.model()


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(size=(STEPS, INPUTS)) * 0.3, axis=0)
    return np.asarray(np.sin(walk) * (rng.random((STEPS, 1)) < 0.8))


@pytest.fixture(scope="module")
def network(recording: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Network:
    path = tmp_path_factory.mktemp("model") / "enhancer.onnx"
    onnx.save(enhancer(), path)
    model = load_model(path)
    assert [layer.cell for layer in model.layers] == ["gru", "linear"]
    return quantize(model, recording)


@pytest.fixture(scope="module")
def expected(network: Network, recording: np.ndarray) -> np.ndarray:
    return Reference(network).run(recording)


def test_the_reference_against_the_uncut_model(
    network: Network, recording: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    feeds = [{"x": row[None].astype(np.float32)} for row in recording]
    feeds[0]["state"] = np.zeros((3, 1, UNITS), np.float32)
    wanted = np.concatenate([r["y"] for r in run_onnx(enhancer(), feeds, {"state": "stateN"})])
    assert np.abs(expected - wanted).max() < 0.02 * np.ptp(wanted)
    reference = Reference(network)
    first = list(reference.stream(recording[:MIDDLE]))
    state = reference.get_state()
    assert {"host/state[1]", "host/state[2]"} < state.keys()
    np.savez(tmp_path / "state.npz", **{k.replace("/", "|"): v for k, v in state.items()})
    other = Reference(network)
    other.set_state({k.replace("|", "/"): v for k, v in np.load(tmp_path / "state.npz").items()})
    rest = list(other.stream(recording[MIDDLE:]))
    np.testing.assert_array_equal(np.array(first + rest), expected)


@pytest.mark.slow
def test_generated_hardware_over_hundreds_of_steps(
    network: Network, recording: np.ndarray, expected: np.ndarray
) -> None:
    result = run(network, recording, engine="rtl", preset=CONFIGS["wide"])
    assert result.mismatches == 0 and result.steps == STEPS
    np.testing.assert_array_equal(result.outputs, expected)


@pytest.mark.slow
def test_a_board_over_hundreds_of_steps(
    network: Network, recording: np.ndarray, expected: np.ndarray
) -> None:
    """Saved on one board, which then sees something else, and restored."""
    wire = board()
    try:
        engine = connect(wire)
        engine.load(load_image(pack(network, CONFIGS["wide"]).data))
        start = time.monotonic()
        first = list(engine.stream(recording[:MIDDLE]))
        state = engine.get_state()
        engine.clear()
        list(engine.stream(recording[100:110]))
        engine.set_state(state)
        rest = list(engine.stream(recording[MIDDLE:]))
        print(f"{STEPS} steps in {time.monotonic() - start:.1f} s")
        np.testing.assert_array_equal(np.array(first + rest), expected)
    finally:
        wire.end()
