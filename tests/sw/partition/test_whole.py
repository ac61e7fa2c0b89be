"""A whole model from the file to the board: saved, run on reference, RTL and over the link."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.engines import run
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import load_image, pack
from stillnet.sw.partition.parts import HostParts
from tests.support.link_bench import CONFIGS, board, connect
from tests.support.networks.graphs import GraphBuilder, run_onnx
from tests.support.networks.quick import quantize

INPUTS, UNITS, OUTPUTS = 16, 20, 5
STATES = {"last": "lastN", "h": "hn", "mean": "meanN"}


def enhancer() -> GraphBuilder:
    """A step with a state of the host in front of the chip (the samples before), one on the chip
    (the GRU's) and one behind it (a running mean)."""
    g = GraphBuilder(9)
    x, last = g.input("x", 1, INPUTS), g.input("last", 1, INPUTS)
    h, mean = g.input("h", 1, 1, UNITS), g.input("mean", 1, OUTPUTS)
    loud = g.node("Softplus", g.node("Sub", x, g.node("Mul", last, g.const(np.float32(0.5)))))
    steps = g.node("Unsqueeze", g.node("Cos", loud), g.const([0]))
    y, outs = g.recurrent("GRU", steps, INPUTS, UNITS, h)
    out = g.node("Squeeze", g.dense(y, UNITS, OUTPUTS), g.const([0]))
    half = g.const(np.float32(0.5))
    new = g.node("Add", g.node("Mul", mean, half), g.node("Softmax", out, axis=-1))
    g.output(new, "y")
    g.output(x, "lastN")
    g.output(outs[1], "hn")
    g.output(g.node("Identity", new), "meanN")
    return g


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return enhancer().model()


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    walk = np.cumsum(np.random.default_rng(2).normal(size=(120, INPUTS)) * 0.3, axis=0)
    return np.asarray(np.sin(walk))


@pytest.fixture(scope="module")
def wanted(proto: onnx.ModelProto, recording: np.ndarray) -> np.ndarray:
    """onnxruntime on the uncut model."""
    feeds = [{"x": row[None].astype(np.float32)} for row in recording]
    sizes = {"last": (1, INPUTS), "h": (1, 1, UNITS), "mean": (1, OUTPUTS)}
    feeds[0] |= {name: np.zeros(shape, np.float32) for name, shape in sizes.items()}
    return np.concatenate([r["y"] for r in run_onnx(proto, feeds, STATES)])


@pytest.fixture(scope="module")
def model(proto: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "enhancer.onnx"
    onnx.save(proto, path)
    return load_model(path)


@pytest.fixture(scope="module")
def network(model: Model, recording: np.ndarray) -> Network:
    return quantize(model, recording)


def parts(network: Network | Model) -> HostParts:
    assert network.host is not None
    return network.host


def test_states_lie_on_their_side(model: Model) -> None:
    assert [layer.cell for layer in model.layers] == ["gru", "linear"]
    states = [(s.input, s.output, s.behind) for s in parts(model).states]
    assert states == [("last", "lastN", False), ("mean", "meanN", True)]


def test_the_report_is_of_the_whole_model(network: Network, wanted: np.ndarray) -> None:
    report = network.notes["report"]
    assert len(report["outputs"]["snr_db"]) == OUTPUTS
    y = Reference(network).run(np.sin(np.linspace(0, 3, 10 * INPUTS)).reshape(10, INPUTS))
    assert y.shape == (10, OUTPUTS)
    assert min(report["outputs"]["snr_db"]) > 30


def test_reference_against_the_uncut_model(
    network: Network, recording: np.ndarray, wanted: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    network.save(path)
    loaded = Network.load(path)
    assert parts(loaded) == parts(network)
    y = run(loaded, recording).outputs
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() < 0.02 * np.ptp(wanted)
    np.testing.assert_array_equal(Reference(network).run(recording), y)
    np.testing.assert_array_equal(run(loaded, recording, steps=7).outputs, y[:7])


def test_step_by_step_and_a_state_in_the_middle(network: Network, recording: np.ndarray) -> None:
    whole = Reference(network).run(recording)
    reference = Reference(network)
    first = [reference.step(row) for row in recording[:50]]
    state = reference.get_state()
    assert {k for k in state if k.startswith("host/")} == {"host/last", "host/mean"}
    other = Reference(network)
    other.step(recording[3])
    other.set_state(state)
    rest = list(other.stream(recording[50:]))
    np.testing.assert_array_equal(np.array(first + rest), whole)
    with pytest.raises(StillnetError, match="host/mean has shape None"):
        other.set_state({k: v for k, v in state.items() if k != "host/mean"})


def test_rtl_gives_the_same(network: Network, recording: np.ndarray) -> None:
    result = run(network, recording, engine="rtl", preset=CONFIGS["wide"], steps=12)
    assert result.mismatches == 0 and result.steps == 12
    np.testing.assert_array_equal(result.outputs, run(network, recording, steps=12).outputs)


def test_a_board_streams_it_with_the_host_in_between(
    network: Network, recording: np.ndarray
) -> None:
    wire = board()
    try:
        engine = connect(wire)
        image = load_image(pack(network, CONFIGS["wide"]).data)
        engine.load(image)
        assert parts(engine.network) == parts(network)
        reference = Reference(network)
        expected = list(reference.stream(recording[:20]))
        np.testing.assert_array_equal(list(engine.stream(recording[:20])), expected)
        ours, theirs = engine.get_state(), reference.get_state()
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
        engine.clear()
        assert not np.any(engine.get_state()["host/mean"])
        engine.set_state(theirs)
        np.testing.assert_array_equal(engine.step(recording[20]), reference.step(recording[20]))
    finally:
        wire.end()


def test_whole_recordings_only(tmp_path: Path) -> None:
    g = GraphBuilder(1)
    x = g.input("x", 1, 8, "t")
    front = g.node("Conv", x, g.const(g.random(6, 8, 3)), pads=[2, 0], strides=[2])
    steps = g.node("Transpose", g.node("Softplus", front), perm=[2, 0, 1])
    y, _ = g.recurrent("GRU", steps, 6, 10)
    g.output(y)
    onnx.save(g.model(), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    x_rows = np.random.default_rng(0).normal(size=(60, 8))
    network = quantize(model, x_rows)
    y_rows = run(network, x_rows).outputs
    wanted = run_onnx(g.model(), [{"x": x_rows.T[None].astype(np.float32)}])[0]["y"][:, 0]
    assert y_rows.shape == wanted.shape == (30, 10)
    assert np.abs(y_rows - wanted).max() < 0.05
    with pytest.raises(StillnetError, match="look over several steps of a recording"):
        next(iter(Reference(network).stream(x_rows)))


def test_check_says_where_each_node_runs(
    proto: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "enhancer.onnx", tmp_path / "cut.png"
    onnx.save(proto, path)
    assert main(["check", str(path), "-o", str(picture), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result["states"] == {"last": "lastN", "mean": "meanN"} and result["streams"]
    where = {n["operator"]: n["where"] for n in result["nodes"]}
    assert where["GRU"] == "chip" and where["Softmax"] == "host"
    assert main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "100.0 % of the weights" in out and "States that the host carries: last from" in out
    assert main(["check", str(path), "-o", str(tmp_path / "cut.txt")]) == 2
    assert "no picture" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["logits", "softmax"])
@pytest.mark.parametrize("shape", [(1, "t", 8), (1, 30, 8), (1, 1, 8)])
def test_check_says_what_becomes_of_a_classifier_of_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int | str, ...], ending: str
) -> None:
    """One step with its states in and out has nothing of the kind."""
    g = GraphBuilder(3)
    x = g.node("Transpose", g.input("x", *shape), perm=[1, 0, 2])
    states = [g.input("h", 1, 1, 12)] if shape[1] == 1 else []
    h, outs = g.recurrent("GRU", x, 8, 12, *states)
    y = g.dense(g.node("Gather", h, g.const(np.array(-1)), axis=0), 12, 3)
    g.output(g.node("Softmax", y, axis=-1) if ending == "softmax" else y)
    if states:
        g.output(outs[1], "hn")
    onnx.save(g.model(), tmp_path / "m.onnx")
    assert main(["check", str(tmp_path / "m.onnx")]) == 0
    said = "The file gives one answer for a recording, at its last step. Here it is a stream: "
    assert (said in capsys.readouterr().out) == (shape[1] != 1)


def test_commands_take_the_whole_model(
    proto: onnx.ModelProto,
    recording: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", recording)
    model, data, net, y = (str(tmp_path / n) for n in ("m.onnx", "x.npy", "n.safetensors", "y.npy"))
    assert main(["quantize", model, "--data", data, "--method", "nearest", "-o", net]) == 0
    assert main(["run", net, data, "-o", y]) == 0
    assert np.load(y).shape == (120, OUTPUTS)
    folder, answers = tmp_path / "voices", tmp_path / "answers"
    folder.mkdir()
    np.save(folder / "a.npy", recording[:9])
    np.save(folder / "b.npy", recording)
    capsys.readouterr()
    assert main(["run", net, str(folder), data, "-o", str(answers), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recordings"] == 3 and result["steps"] == 9 + 2 * 120
    np.testing.assert_array_equal(np.load(answers / "b.npy"), np.load(y))
    np.testing.assert_array_equal(np.load(answers / "a.npy"), np.load(y)[:9])
    assert main(["run", net, str(folder), str(folder), "-o", str(answers)]) == 2
    assert "two recordings are called 'a.npy'" in capsys.readouterr().err
    assert main(["quantize", model, "--data", data, "--state", "last", "-o", net]) == 2
    assert "--state: 'last' is not of the form NAME=VALUE, as in h=hn" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", recording[:, :5])
    assert main(["quantize", model, "--data", data, "-o", net]) == 2
    assert "takes 16 elements in a call" in capsys.readouterr().err


def test_the_answers_of_a_classifier_are_the_same_in_a_stream(tmp_path: Path) -> None:
    """The file gives the last step's softmax; the network gives one at each step, saved or not."""
    g = GraphBuilder(5)
    h, _ = g.recurrent("GRU", g.input("x", "t", 1, 6), 6, 10)
    end = g.node("Gather", h, g.const(np.array(-1)), axis=0)
    g.output(g.node("Softmax", g.dense(end, 10, 3), axis=-1))
    onnx.save(g.model(), tmp_path / "m.onnx")
    x = np.sin(np.cumsum(np.random.default_rng(2).normal(size=(40, 6)) * 0.3, axis=0))
    model = load_model(tmp_path / "m.onnx")
    quantize(model, x).save(tmp_path / "m.net")
    network = Network.load(tmp_path / "m.net")
    whole = Reference(network).run(x)
    assert whole.shape == (40, 3)
    reference = Reference(network)
    np.testing.assert_allclose([reference.step(row) for row in x], whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(whole, model.run_whole(x), rtol=0, atol=0.05)
    assert np.ptp(whole, axis=0).min() > 0.01
