"""Whole ONNX models, cut between chip and host; onnxruntime on the uncut model is the judge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.partition.parts import HostParts
from stillnet.sw.partition.stream import HostStream
from tests.support.networks.graphs import GraphBuilder, run_onnx

STEPS = 20


def load(proto: onnx.ModelProto, folder: Path, **options: object) -> Model:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return load_model(path, cut=CutOptions(**options))  # type: ignore[arg-type]


def host(model: Model) -> HostParts:
    assert model.host is not None
    return model.host


def check_sequence(proto: onnx.ModelProto, model: Model, x: np.ndarray) -> None:
    """Against the uncut model on a recording, (steps, 1, inputs) in and out."""
    wanted = run_onnx(proto, [{"x": x[:, None].astype(np.float32)}])[0]["y"]
    spread = np.abs(wanted).max()  # a normalisation makes float32's rounding larger
    np.testing.assert_allclose(model.run_whole(x), wanted.reshape(len(x), -1), atol=3e-4 * spread)


def check_stream(model: Model, x: np.ndarray) -> None:
    """Step by step, the same as on the recording."""
    parts, state = host(model), {}
    assert parts.pointwise

    def chip(vectors: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        for vector in vectors:
            yield model.run(vector[None], state)[0]

    rows = np.stack(list(HostStream(parts).run(x, chip)))
    np.testing.assert_allclose(rows, model.run_whole(x), rtol=0, atol=1e-5)


def sequence(seed: int = 0) -> tuple[GraphBuilder, str]:
    g = GraphBuilder(seed)
    return g, g.input("x", "t", 1, 8)


def recording(size: int = 8, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(steps, size))


def test_a_softmax_at_the_end_is_the_hosts(tmp_path: Path) -> None:
    g, x = sequence()
    h, _ = g.recurrent("GRU", x, 8, 12)
    g.output(g.node("Softmax", g.dense(h, 12, 5), axis=-1))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert [layer.cell for layer in model.layers] == ["gru", "linear"]
    assert host(model).enter == "x" and not host(model).before and host(model).pointwise
    by_operator = {n["operator"]: n for n in host(model).report["nodes"]}
    assert by_operator["Softmax"]["where"] == "host" and by_operator["GRU"]["where"] == "chip"
    assert "Softmax" in by_operator["Softmax"]["why"] or "function" in by_operator["Softmax"]["why"]
    assert host(model).report["chip"] == {"weights": 1.0, "multiplications": 1.0}


def test_a_mean_over_features_in_front_and_behind(tmp_path: Path) -> None:
    g, x = sequence()
    mean = g.node("ReduceMean", x, axes=[2], keepdims=1)
    h, _ = g.recurrent("LSTM", g.node("Sub", x, mean), 8, 10)
    out = g.dense(h, 10, 4)
    g.output(g.node("Sub", out, g.node("ReduceMax", out, axes=[2], keepdims=1)))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert host(model).before and host(model).after
    assert [layer.cell for layer in model.layers] == ["lstm", "linear"]


def test_what_the_end_needs_of_the_front_crosses(tmp_path: Path) -> None:
    g, x = sequence()
    norm = g.node("ReduceL2", x, axes=[2], keepdims=1)
    h, _ = g.recurrent("GRU", g.node("Div", x, norm), 8, 12)
    out = g.node("Softmax", g.dense(h, 12, 3), axis=-1)
    g.output(g.node("Mul", out, norm))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert host(model).crossing == (norm,)


def test_the_heavier_of_two_islands_goes_to_the_chip(tmp_path: Path) -> None:
    g, x = sequence()
    small, _ = g.recurrent("GRU", x, 8, 6)
    between = g.node("Softmax", small, axis=-1)
    large, _ = g.recurrent("GRU", between, 6, 30)
    g.output(g.dense(large, 30, 4))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert [layer.units for layer in model.layers] == [30, 4]
    reasons = [n["why"] for n in host(model).report["nodes"] if n["operator"] == "GRU"]
    assert "most weights" in reasons[0] and reasons[1] == ""
    check_stream(model, recording())
    other = load(g.model(), tmp_path, leave=small)
    assert [layer.units for layer in other.layers] == [6] and host(other).leave[0].name == small
    check_sequence(g.model(), other, recording())
    with pytest.raises(StillnetError, match="--from: the model has no tensor and no node 'nope'"):
        load(g.model(), tmp_path, enter="nope")
    with pytest.raises(StillnetError, match="no part of the model from .* on that has weights"):
        load(g.model(), tmp_path, enter="y", leave=small)


def test_a_recurrent_layer_of_the_host_is_carried_in_a_stream(tmp_path: Path) -> None:
    """A normalisation between two LSTMs; the smaller one, on the host, has zeros as its start."""
    g, x = sequence()
    large, _ = g.recurrent("LSTM", x, 8, 12)
    norm = g.node("LayerNormalization", large, g.const(g.random(12)), axis=-1)
    zeros = g.node("Expand", g.const(np.zeros((1, 1, 1), np.float32)), g.const([1, 1, 5]))
    shapes = ((1, 20, 12), (1, 20, 5), (1, 40))
    given = [g.const(g.random(*shape, scale=0.4)) for shape in shapes]
    y = g.node("LSTM", norm, *given, "", zeros, zeros, outputs=3, hidden_size=5)[0]
    g.output(g.node("Squeeze", y, g.const([1])))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert [layer.units for layer in model.layers] == [12]
    assert sorted(s.input.split("/")[1] for s in host(model).states) == ["c", "h"]
    check_stream(model, recording())


@pytest.mark.parametrize("length", ["t", STEPS])
@pytest.mark.parametrize("last", ["gather", "slice", "state"])
def test_the_answer_at_the_last_step_is_given_at_every_step(
    tmp_path: Path, last: str, length: str | int
) -> None:
    """As activity from an IMU is classified, with batches first and windows of one length."""
    g = GraphBuilder(3)
    x = g.input("x", 1, length, 8)
    h, outs = g.recurrent("GRU", g.node("Transpose", x, perm=[1, 0, 2]), 8, 12)
    if last == "gather":
        end = g.node("Gather", h, g.const(np.array(-1)), axis=0)
    elif last == "slice":
        far = np.iinfo(np.int64).max
        end = g.node("Slice", h, *(g.const([n]) for n in (-1, far, 0)))
        end = g.node("Squeeze", end, g.const([0]))
    else:
        end = g.node("Squeeze", outs[1], g.const([0]))
    g.output(g.node("Softmax", g.dense(end, 12, 3), axis=-1))
    model, x = load(g.model(), tmp_path), recording().astype(np.float32)
    assert host(model).every_step and [layer.cell for layer in model.layers] == ["gru", "linear"]
    rows = model.run_whole(x)
    for steps in (1, 7, STEPS) if length == "t" else (STEPS,):
        wanted = run_onnx(g.model(), [{"x": x[None, :steps]}])[0]["y"]
        np.testing.assert_allclose(rows[steps - 1], wanted[0], atol=1e-5)
    check_stream(model, x)


def gated(g: GraphBuilder, x: str) -> str:
    """A highway layer: g * GRU(x) + (1 - g) * x."""
    gate = g.node("Sigmoid", g.dense(x, 8, 8))
    y, _ = g.recurrent("GRU", x, 8, 8)
    kept = g.node("Mul", g.node("Sub", g.const(np.array(1.0)), gate), x)
    return str(g.node("Add", g.node("Mul", gate, y), kept))


def test_highway_layers_are_wholly_on_the_chip(tmp_path: Path) -> None:
    g = GraphBuilder(4)
    x = g.input("x", "t", 1, 8)
    g.output(gated(g, gated(g, x)))
    model, x = load(g.model(), tmp_path), recording().astype(np.float32)
    assert model.host is None
    assert [layer.cell for layer in model.layers if layer.cell == "gru"] == ["gru", "gru"]
    wanted = run_onnx(g.model(), [{"x": x[:, None]}])[0]["y"]
    np.testing.assert_allclose(model.run(x), wanted[:, 0], atol=1e-5)


def test_of_two_open_axes_the_one_of_the_steps_is_found(tmp_path: Path) -> None:
    """PyTorch names them s77 and s27; the first is that of batches, in whose size zeros begin."""
    g = GraphBuilder(5)
    x = g.input("x", "s77", "s27", 8)
    steps = g.node("Transpose", g.node("Softmax", x, axis=-1), perm=[1, 0, 2])
    batch = g.node("Slice", g.node("Shape", x), g.const(np.array([0])), g.const(np.array([1])))
    shape = g.node("Concat", g.const(np.array([1])), batch, g.const(np.array([6])), axis=0)
    zeros = g.node("Expand", g.const(np.zeros((1, 1, 1))), shape)
    y, _ = g.recurrent("GRU", steps, 8, 6, zeros)
    g.output(g.node("Transpose", g.node("Cos", y), perm=[1, 0, 2]))
    model, x = load(g.model(), tmp_path), recording().astype(np.float32)
    assert host(model).data.time == 1 and [layer.cell for layer in model.layers] == ["gru"]
    wanted = run_onnx(g.model(), [{"x": x[None]}])[0]["y"]
    np.testing.assert_allclose(model.run_whole(x), wanted[0], atol=1e-5)


def test_raw_samples_are_probed_with_recordings_that_are_long_enough(tmp_path: Path) -> None:
    g = GraphBuilder(6)
    x = g.node("Unsqueeze", g.input("x", 1, "samples"), g.const(np.array([1])))
    y = g.node("Conv", x, g.const(g.random(6, 1, 160)), strides=[160], kernel_shape=[160])
    y, _ = g.recurrent("GRU", g.node("Transpose", g.node("Abs", y), perm=[2, 0, 1]), 6, 12)
    g.output(g.node("Sigmoid", g.dense(y, 12, 1)))
    model = load(g.model(), tmp_path)
    x = np.random.default_rng(1).normal(size=(1600, 1)).astype(np.float32)
    wanted = run_onnx(g.model(), [{"x": x.T}])[0]["y"]
    np.testing.assert_allclose(model.run_whole(x), wanted.reshape(10, 1), atol=1e-5)
    by_name = {n["operator"]: n["multiplications"] for n in host(model).report["nodes"]}
    assert by_name["GRU"] == 3 * 12 * (6 + 12 + 2)  # of a vector, not of a sample


def test_nodes_without_weights_in_front_of_the_chip_need_no_reason(tmp_path: Path) -> None:
    g, x = sequence()
    strided = g.node("Transpose", x, perm=[1, 2, 0])
    strided = g.node("Conv", strided, g.const(g.random(8, 8, 3)), kernel_shape=[3])
    y = g.node("Transpose", g.node("Tanh", strided), perm=[2, 0, 1])
    g.output(g.recurrent("GRU", y, 8, 6)[0])
    nodes = {n["operator"]: n["why"] for n in host(load(g.model(), tmp_path)).report["nodes"]}
    assert nodes["Tanh"] == "" and "which is not causal" in nodes["Conv"]


def test_convolutions_over_a_fixed_axis_are_inside_a_step_of_a_recording(tmp_path: Path) -> None:
    """As a detector that takes all its frames at once: they lie where batches do."""
    g = GraphBuilder(7)
    x = g.node("Softmax", g.input("x", "t", 6, 5), axis=1)
    y = g.node("Relu", g.node("Conv", x, g.const(g.random(4, 6, 3)), pads=[1, 1]))
    y = g.node("Conv", y, g.const(g.random(3, 4, 3)), strides=[2])
    y = g.node("Reshape", y, g.const(np.array([-1, 1, 6])))
    g.output(g.recurrent("GRU", y, 6, 5)[0])
    model, x = load(g.model(), tmp_path), recording(30).astype(np.float32)
    assert [layer.cell for layer in model.layers] == ["relu", "linear", "gru"]
    wanted = run_onnx(g.model(), [{"x": x.reshape(-1, 6, 5)}])[0]["y"]
    np.testing.assert_allclose(model.run_whole(x), wanted[:, 0], atol=1e-5)
    check_stream(model, x)


def test_layers_of_whole_numbers_count_as_the_hosts(tmp_path: Path) -> None:
    """onnxruntime's dynamic quantization: dense layers in 8 bits, the GRU in float."""
    g, x = sequence()
    y, _ = g.recurrent("GRU", x, 8, 6)
    small, scale, zero = g.node("DynamicQuantizeLinear", y, outputs=3)
    weight = g.const(g.rng.integers(-90, 90, (6, 40)).astype(np.int8))
    y = g.node("Cast", g.node("MatMulInteger", small, weight, zero), to=1)
    g.output(g.node("Mul", y, scale))
    nodes = {n["operator"]: n for n in host(load(g.model(), tmp_path)).report["nodes"]}
    found = nodes["MatMulInteger"]
    assert (found["where"], found["weights"], found["multiplications"]) == ("host", 240, 240)


def test_a_quantized_lstm_is_named_whatever_else_is_unclear(tmp_path: Path) -> None:
    g, x = sequence()
    states = g.input("states", 2, 1, 1, 6)
    h, c = g.node("Split", states, outputs=2, num_outputs=2)
    h, c = (g.node("Squeeze", s, g.const(np.array([0]))) for s in (h, c))
    names = [g.const(np.zeros((1, 8, 24), np.int8)), g.const(np.zeros((1, 6, 24), np.int8))]
    more = [*names, "", "", h, c, "", *(g.const(np.ones(1)) for _ in range(4))]
    y = g.node("DynamicQuantizeLSTM", x, *more, outputs=3, domain="com.microsoft", hidden_size=6)
    g.output(y[0])
    g.output(g.node("Concat", *y[1:], axis=0), "statesN")
    wanted = r"\(DynamicQuantizeLSTM\): it computes with quantized values; give the float model"
    with pytest.raises(StillnetError, match=wanted):
        load(g.model(18), tmp_path)


def test_a_layer_that_reads_from_the_end_is_refused_over_the_steps(tmp_path: Path) -> None:
    for direction, count in (("reverse", 1), ("bidirectional", 2)):
        g, x = sequence()
        shapes = ((count, 18, 8), (count, 18, 6))
        given = [g.const(g.random(*shape)) for shape in shapes]
        y = g.node("GRU", x, *given, outputs=2, hidden_size=6, direction=direction)[0]
        y = g.node("Reshape", g.node("Transpose", y, perm=[0, 2, 1, 3]), g.const([0, 0, -1]))
        g.output(g.node("Softmax", g.dense(y, 6 * count, 40), axis=-1))
        message = f"direction is '{direction}'; a stream has no end to start from, so use a forward"
        with pytest.raises(StillnetError, match=message):
            load(g.model(), tmp_path)


def test_a_layer_that_reads_from_the_end_of_an_axis_inside_a_step_is_the_hosts(
    tmp_path: Path,
) -> None:
    """Over the bands of a frame, as in dual-path enhancers; over the frames runs a GRU."""
    g = GraphBuilder(4)
    x, h = g.input("x", 1, 6, 4), g.input("h", 1, 1, 16)
    bands = g.node("Transpose", x, perm=[1, 0, 2])
    given = [g.const(g.random(*shape)) for shape in ((2, 9, 4), (2, 9, 3))]
    y = g.node("GRU", bands, *given, outputs=2, hidden_size=3, direction="bidirectional")[0]
    flat = g.node("Reshape", y, g.const([1, 1, -1]))
    z, outs = g.recurrent("GRU", flat, 36, 16, h)
    g.output(g.dense(z, 16, 5))
    g.output(outs[1], "hN")
    model, x = load(g.model(), tmp_path), recording(24)
    assert [layer.cell for layer in model.layers] == ["gru", "linear"]
    feeds = [{"x": row.reshape(1, 6, 4).astype(np.float32)} for row in x]
    feeds[0]["h"] = np.zeros((1, 1, 16), np.float32)
    wanted = [r["y"].reshape(-1) for r in run_onnx(g.model(), feeds, {"h": "hN"})]
    np.testing.assert_allclose(model.run_whole(x), wanted, atol=1e-5)
    reasons = [n["why"] for n in host(model).report["nodes"] if n["operator"] == "GRU"]
    assert any("direction is 'bidirectional'" in why for why in reasons)


def test_a_length_that_an_export_froze_is_named(tmp_path: Path) -> None:
    """x.view(20, 8) under an axis that is open."""
    g, x = sequence()
    h, _ = g.recurrent("GRU", x, 8, 12)
    flat = g.node("Reshape", h, g.const([20, 12]), name="/view")
    g.output(g.node("Softmax", g.dense(flat, 12, 3), axis=-1))
    with pytest.raises(
        StillnetError, match=r"node '/view' \(Reshape\): it holds the length of the"
    ):
        load(g.model(), tmp_path)


def test_a_recurrence_that_is_refused_is_the_hosts(tmp_path: Path) -> None:
    """What follows it directly goes to the chip."""
    g, x = sequence()
    weights = [g.const(g.random(1, 6, n)) for n in (8, 6)]
    h = g.node("RNN", x, *weights, outputs=2, hidden_size=6, activations=["Softsign"])[0]
    g.output(g.dense(g.node("Squeeze", h, g.const(np.array([1]))), 6, 4))
    model = load(g.model(), tmp_path)
    check_sequence(g.model(), model, recording())
    assert [layer.cell for layer in model.layers] == ["linear"] and host(model).enter == h
    assert "Softsign" in next(
        n["why"] for n in host(model).report["nodes"] if n["operator"] == "RNN"
    )


def keyword_spotter(head: bool) -> GraphBuilder:
    """Convolutions over a window of 49 frames of 10 features, depthwise and separable."""
    g, units = GraphBuilder(6), 64
    x = g.input("x", 1, 1, 49, 10)
    y = g.node(
        "Conv", x, g.const(g.random(units, 1, 10, 4, scale=0.2)), strides=[2, 2], name="first"
    )
    for k in range(3):
        y = g.node("Relu", y)
        depth = g.const(g.random(units, 1, 3, 3, scale=0.3))
        y = g.node("Relu", g.node("Conv", y, depth, group=units, pads=[1] * 4))
        last = units if head or k < 2 else 5
        y = g.node("Conv", y, g.const(g.random(last, units, 1, 1, scale=0.2)))
    y = g.node("Flatten", g.node("GlobalAveragePool", y))
    g.output(g.dense(y, units, 5) if head else y)
    return g


def test_convolutions_over_a_window_stay_on_the_host(tmp_path: Path) -> None:
    """Unrolled they would be hundreds of millions of weights, and take minutes."""
    g = keyword_spotter(head=True)
    model = load(g.model(), tmp_path)
    assert [layer.matrices[0].weight.size for layer in model.layers] == [320]
    x = recording(490, 6)
    feeds = [{"x": r.reshape(1, 1, 49, 10).astype(np.float32)} for r in x]
    wanted = np.concatenate([r["y"] for r in run_onnx(g.model(), feeds)])
    np.testing.assert_allclose(model.run_whole(x), wanted, atol=1e-5)
    convolutions = [n for n in host(model).report["nodes"] if n["operator"] == "Conv"]
    assert {n["where"] for n in convolutions} == {"host"}
    assert all(n["why"].startswith("unrolled over the step, its ") for n in convolutions)
    (doubt,) = host(model).doubts()
    assert doubt.startswith(
        "the chip does 0 % of the multiplications only; on the host is 'Conv4' (Conv): unrolled "
    )


def test_a_model_of_which_nothing_pays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StillnetError,
        match=r"no part of the model that has weights pays on the chip; node 'Conv4' \(Conv\): "
        r"unrolled over the step, its 4,096 weights become [\d,]+, .* feed one frame a step",
    ):
        load(keyword_spotter(head=False).model(), tmp_path)


def test_a_cache_of_what_enters_is_the_hosts(tmp_path: Path) -> None:
    """Convolutions in time as steps, with the steps before as states: TCNs that stream."""
    g, units = GraphBuilder(2), 12
    y = g.node("Conv", g.input("x", 1, 8, 1), g.const(g.random(units, 8, 1)))
    states, ends = {}, []
    for k, dilation in enumerate((1, 2)):
        cache = g.input(f"cache{k}", 1, units, 2 * dilation)
        joined = g.node("Concat", cache, y, axis=2)
        weight = g.const(g.random(units, units, 3))
        h = g.node("Relu", g.node("Conv", joined, weight, dilations=[dilation], name=f"conv{k}"))
        bounds = [g.const([v]) for v in (1, 1 << 30, 2)]
        ends.append((g.node("Slice", joined, *bounds), f"cache{k}N"))
        states[f"cache{k}"] = f"cache{k}N"
        y = g.node("Add", y, h)
    g.output(g.dense(g.node("Squeeze", y, g.const([2])), units, 5), "y")
    for tensor, name in ends:
        g.output(tensor, name)
    proto = g.model()
    model = load(proto, tmp_path)
    where = {n["name"]: n["where"] for n in host(model).report["nodes"]}
    assert [where["conv0"], where["conv1"]].count("chip") == 1
    x = recording(8, 30)
    feeds = [{"x": r.reshape(1, 8, 1).astype(np.float32)} for r in x]
    feeds[0] |= {f"cache{k}": np.zeros((1, units, 2 * (k + 1)), np.float32) for k in (0, 1)}
    wanted = np.concatenate([r["y"] for r in run_onnx(proto, feeds, states)])
    np.testing.assert_allclose(model.run_whole(x), wanted, atol=2e-5)


def detector(seed: int = 3) -> GraphBuilder:
    """A step of 64 samples: strided convolution and magnitude, then an LSTM; states in one tensor,
    together with the last samples of the step before, which only the host reads."""
    g = GraphBuilder(seed)
    x = g.input("x", 1, 64)
    state, context = g.input("state", 2, 1, 20), g.input("context", 1, 16)
    g.input("sr", kind=onnx.TensorProto.INT64)
    joined = g.node("Concat", context, x, axis=1)
    wave = g.node("Unsqueeze", joined, g.const(np.array([1])))
    front = g.node("Conv", wave, g.const(g.random(10, 1, 16, scale=0.2)), strides=[8])
    power = g.node("Add", g.node("Mul", front, front), g.const(np.float32(1e-3)))
    loud = g.node("Equal", "sr", g.const(np.array(16000)))
    branches = []
    for factor in (1.0, 0.5):
        value = onnx.numpy_helper.from_array(np.float32(factor), f"factor{factor}")
        scaled = onnx.helper.make_node("Mul", [power, value.name], [f"scaled{factor}"])
        out = onnx.helper.make_tensor_value_info(scaled.output[0], 1, None)
        branches.append(onnx.helper.make_graph([scaled], "branch", [], [out], [value]))
    power = g.node("If", loud, then_branch=branches[0], else_branch=branches[1])
    steps = g.node("Transpose", g.node("Sqrt", power), perm=[2, 0, 1])
    last = g.node("Slice", steps, g.const([-1]), g.const([1 << 30]), g.const([0]))
    parts = [g.node("Slice", state, g.const([k]), g.const([k + 1]), g.const([0])) for k in (0, 1)]
    h, outs = g.recurrent("LSTM", last, 10, 20, *parts)
    y = g.node("Sigmoid", g.dense(g.node("Relu", h), 20, 2))
    g.output(y, "y")
    g.output(g.node("Concat", outs[1], outs[2], axis=0), "stateN")
    g.output(g.node("Slice", joined, g.const([64]), g.const([80]), g.const([1])), "contextN")
    return g


def test_a_step_with_states_of_chip_and_host(tmp_path: Path) -> None:
    proto = detector().model()
    model = load(proto, tmp_path, constants={"sr": 8000})
    parts = host(model)
    assert parts.stepwise and parts.inputs == 64
    assert [layer.cell for layer in model.layers] == ["lstm", "relu", "sigmoid"]
    assert [(s.input, s.output, s.behind) for s in parts.states] == [("context", "contextN", False)]
    x = recording(64, 30)
    zeros = {"state": np.zeros((2, 1, 20), np.float32), "context": np.zeros((1, 16), np.float32)}
    feeds = [{"x": r[None].astype(np.float32), "sr": np.array(8000)} for r in x]
    feeds[0] |= zeros
    results = run_onnx(proto, feeds, {"state": "stateN", "context": "contextN"})
    wanted = np.concatenate([r["y"].reshape(1, -1) for r in results])
    np.testing.assert_allclose(model.run_whole(x), wanted, atol=2e-5)


@pytest.mark.parametrize("join", ["concat", "flat", "last axis", "split"])
def test_one_tensor_with_states_of_chip_and_host(join: str, tmp_path: Path) -> None:
    """h and c of the chip, a cache in front of it and a running mean behind it."""
    g, size = GraphBuilder(7), 12
    x = g.input("x", 1, size)
    shape = {"concat": (4, 1, size), "flat": (4 * size,), "last axis": (1, 4 * size)}
    state = g.input("state", *shape.get(join, (1, 4, size)))
    axis = {"concat": 0, "flat": 0, "last axis": 1, "split": 1}[join]
    if join == "split":
        parts = g.node("Split", state, outputs=4, axis=1)
    else:
        wide = 1 if join == "concat" else size
        bounds = [(g.const([k * wide]), g.const([(k + 1) * wide])) for k in range(4)]
        parts = [g.node("Slice", state, a, b, g.const([axis])) for a, b in bounds]
    vector, three = g.const(np.array([1, size])), g.const(np.array([1, 1, size]))
    cache = g.node("Reshape", parts[2], vector)
    joined = g.node("Softmax", g.node("Add", x, g.node("Mul", cache, cache)), axis=-1)
    starts = [g.node("Reshape", p, three) for p in parts[:2]]
    h, outs = g.recurrent("LSTM", g.node("Reshape", joined, three), size, size, *starts)
    mean = g.node("Add", g.node("Reshape", parts[3], vector), g.node("Reshape", h, vector))
    half = g.node("Mul", mean, g.const(np.float32(0.5)))
    g.output(g.node("Softmax", half, axis=-1), "y")
    form = {"flat": [size], "last axis": [1, size]}.get(join, [1, 1, size])
    ends = [g.node("Reshape", t, g.const(np.array(form))) for t in (outs[1], outs[2], x, half)]
    g.output(g.node("Concat", *ends, axis=axis), "stateN")
    proto = g.model()
    model = load(proto, tmp_path)
    assert [layer.cell for layer in model.layers] == ["lstm"]
    sides = {s.input: s.behind for s in host(model).states}
    assert sides == {"state[2]": False, "state[3]": True}
    rows = recording(size, 25)
    feeds = [{"x": r[None].astype(np.float32)} for r in rows]
    feeds[0]["state"] = np.zeros(shape.get(join, (1, 4, size)), np.float32)
    wanted = np.concatenate([r["y"] for r in run_onnx(proto, feeds, {"state": "stateN"})])
    np.testing.assert_allclose(model.run_whole(rows), wanted, atol=2e-5)


def test_parts_of_a_state_that_change_places(tmp_path: Path) -> None:
    """What goes out as the second half comes in as the first: a delay line."""
    g, size = GraphBuilder(8), 6
    x, state = g.input("x", 1, size), g.input("state", 1, 2 * size)
    a, b = g.node("Split", state, outputs=2, axis=1)
    front = g.node("Softmax", g.node("Add", x, g.node("Mul", a, b)), axis=-1)
    g.output(g.node("Sigmoid", g.dense(front, size, 5)), "y")
    g.output(g.node("Concat", b, x, axis=1), "stateN")
    proto = g.model()
    model = load(proto, tmp_path)
    rows = recording(size, 25)
    feeds = [{"x": r[None].astype(np.float32)} for r in rows]
    feeds[0]["state"] = np.zeros((1, 2 * size), np.float32)
    wanted = np.concatenate([r["y"] for r in run_onnx(proto, feeds, {"state": "stateN"})])
    np.testing.assert_allclose(model.run_whole(rows), wanted, atol=2e-5)


def test_what_a_file_leaves_open_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StillnetError, match="'sr' is a whole number .* with --set sr=VALUE"):
        load(detector().model(), tmp_path)
    with pytest.raises(StillnetError, match="--set: the graph has no input 'rate'; its inputs are"):
        load(detector().model(), tmp_path, constants={"rate": 1.0})
    with pytest.raises(StillnetError, match="--state: the graph has no output 'nope'"):
        load(detector().model(), tmp_path, constants={"sr": 1}, states={"context": "nope"})
    g = GraphBuilder()
    x, other = g.input("x", "t", 1, 8), g.input("other", "t", 1, 8)
    h, _ = g.recurrent("GRU", g.node("Mul", x, g.node("Softmax", other, axis=-1)), 8, 6)
    g.output(h)
    with pytest.raises(StillnetError, match=r"2 data inputs \(x \(t, 1, 8\), other .*--state"):
        load(g.model(), tmp_path)
    g = GraphBuilder()
    x, h0 = g.input("x", "b", "n"), g.input("h", 1, "b", 6)
    norm = g.node("Softmax", g.node("Unsqueeze", x, g.const([0])), axis=-1)
    y, outs = g.recurrent("GRU", norm, 9, 6, h0)
    g.output(y)
    g.output(outs[1], "hn")
    with pytest.raises(StillnetError, match=re.escape("--shape x=1,512, or a recording")):
        load(g.model(), tmp_path)
    assert host(load(g.model(), tmp_path, elements=9)).inputs == 9
    assert host(load(g.model(), tmp_path, shapes={"x": (1, 9)})).data.shape == (1, 9)
    with pytest.raises(StillnetError, match="'x' has 2 axes, not 1"):
        load(g.model(), tmp_path, shapes={"x": (9,)})


def test_a_state_that_is_not_given_back_is_refused(tmp_path: Path) -> None:
    g = GraphBuilder()
    h, _ = g.recurrent("GRU", g.node("Softmax", g.input("x", 1, 1, 8), axis=-1), 8, 6)
    g.output(h)
    with pytest.raises(StillnetError, match="starts anew in every call; export the model with its"):
        load(g.model(), tmp_path)


@pytest.mark.parametrize("kind", ["lstm", "lstm of four products", "gru", "gru as a mixture"])
def test_cells_that_are_written_out(kind: str, tmp_path: Path) -> None:
    g = GraphBuilder(4)
    units, inputs = 10, 8
    x, h = g.node("Softmax", g.input("x", 1, inputs), axis=-1), g.input("h", 1, units)
    states = {"h": "hn"}
    if kind.startswith("lstm"):
        c, states["c"] = g.input("c", 1, units), "cn"
        if kind == "lstm":
            total = g.node("Add", g.dense(h, units, 4 * units), g.dense(x, inputs, 4 * units))
            gates = g.node("Split", total, outputs=4, axis=1)
        else:
            gates = [
                g.node("Add", g.dense(x, inputs, units), g.dense(h, units, units)) for _ in "ifgo"
            ]
        i, f, o = (g.node("Sigmoid", gates[k]) for k in (0, 1, 3))
        kept, new = g.node("Mul", f, c), g.node("Mul", g.node("Tanh", gates[2]), i)
        cn = g.node("Add", new, kept)
        hn = g.node("Mul", o, g.node("Tanh", cn))
        g.output(cn, "cn")
    else:
        a = g.node("Split", g.dense(x, inputs, 3 * units), outputs=3, axis=1)
        b = g.node("Split", g.dense(h, units, 3 * units), outputs=3, axis=1)
        r, z = (g.node("Sigmoid", g.node("Add", b[k], a[k])) for k in (0, 1))
        n = g.node("Tanh", g.node("Add", a[2], g.node("Mul", r, b[2])))
        if kind == "gru":
            hn = g.node("Add", n, g.node("Mul", z, g.node("Sub", h, n)))
        else:
            rest = g.node("Mul", g.node("Sub", g.const(np.float32(1)), z), n)
            hn = g.node("Add", rest, g.node("Mul", z, h))
    g.output(hn, "hn")
    g.output(g.node("Softmax", g.dense(hn, units, 4), axis=-1), "y")
    proto = g.model()
    model = load(proto, tmp_path)
    assert [layer.cell for layer in model.layers] == [kind[:4].strip(), "linear"]
    rows = recording(inputs, 25)
    feeds = [{"x": r[None].astype(np.float32)} for r in rows]
    feeds[0] |= {name: np.zeros((1, units), np.float32) for name in states}
    wanted = np.concatenate([r["y"] for r in run_onnx(proto, feeds, states)])
    np.testing.assert_allclose(model.run_whole(rows), wanted, atol=2e-5)


HOST_NODES = ("Softmax", "center", "LayerNormalization", "Cos", "gate", "flip")


@st.composite
def surroundings(draw: st.DrawFn) -> tuple[GraphBuilder, int]:
    """Layers for the chip among nodes for the host, in any order."""
    g, tensor = sequence(draw(st.integers(0, 99)))
    size, layers = 8, 0
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(("GRU", "LSTM", "dense", "Relu", "add", *HOST_NODES)))
        if kind in ("GRU", "LSTM"):
            units = draw(st.integers(1, 9))
            tensor, size = g.recurrent(kind, tensor, size, units)[0], units
            layers += 1
        elif kind == "dense":
            units = draw(st.integers(1, 9))
            tensor, size = g.dense(tensor, size, units), units
            layers += 1
        elif kind == "center":
            mean = g.node("ReduceMean", tensor, axes=[2], keepdims=1)
            tensor = g.node("Sub", tensor, mean)
        elif kind == "LayerNormalization":
            scale = g.const(g.random(size, scale=1.0))
            tensor = g.node("LayerNormalization", tensor, scale, axis=-1)
        elif kind == "add":
            tensor = g.node("Add", tensor, tensor)
        elif kind == "gate":
            tensor = g.node("Mul", tensor, g.node("Cos", tensor))
        elif kind == "flip":
            order = g.const(np.arange(size)[::-1].copy())
            tensor = g.node("Gather", tensor, order, axis=2)
        else:
            tensor = g.node(kind, tensor)
    g.output(tensor)
    return g, layers


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(surroundings())
def test_random_islands_in_random_surroundings(
    tmp_path: Path, drawn: tuple[GraphBuilder, int]
) -> None:
    g, layers = drawn
    proto = g.model()
    x = recording()
    try:
        model = load(proto, tmp_path)
    except StillnetError as error:
        assert layers == 0, error
        return
    if model.host is not None:
        check_sequence(proto, model, x)
    else:
        wanted = run_onnx(proto, [{"x": x[:, None].astype(np.float32)}])[0]["y"]
        spread = np.abs(wanted).max()
        np.testing.assert_allclose(model.run(x), wanted.reshape(len(x), -1), atol=3e-4 * spread)
