"""ONNX files as tools leave them: quantized storage, branches, exporters that forget, bad names."""

import warnings

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.onnx import from_onnx
from stillnet.sw.importers.torch import from_state_dict
from tests.support.oracles.onnx import (
    FLOAT,
    TOLERANCE,
    const,
    ints,
    make,
    node,
    refused,
    runtime,
)
from tests.sw.importers.onnx.test_import_onnx import gru_model, gru_weights, steps_of, streaming

ROWS = np.concatenate([np.arange(4, 8), np.arange(4), np.arange(8, 12)])
"""Gates z r h of ONNX in the order r z n of PyTorch."""


def forgotten(producer="pytorch"):
    """A GRU whose attribute the exporter left out, and the nn.GRU that it was."""
    rng = np.random.default_rng(0)
    w, r, b = gru_weights(rng, 3, 4)
    proto = gru_model(w, r, b)
    gru = proto.graph.node[0]
    del gru.attribute[[a.name for a in gru.attribute].index("linear_before_reset")]
    proto.producer_name = producer
    state = {"weight_ih_l0": w[0][ROWS], "weight_hh_l0": r[0][ROWS]}
    state |= {"bias_ih_l0": b[0, :12][ROWS], "bias_hh_l0": b[0, 12:][ROWS]}
    x = rng.normal(size=(15, 3)).astype(np.float32)
    return proto, from_state_dict(state, [("gru", "")]).run(x), x


def test_what_the_exporter_of_pytorch_forgot():
    proto, meant, x = forgotten()
    with pytest.warns(UserWarning, match=r"^node 'gru_Y' \(GRU\): PyTorch's exporter left out lin"):
        np.testing.assert_allclose(from_onnx(proto).run(x), meant, atol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, before = (from_onnx(proto, gru_reset=r).run(x) for r in ("after", "before"))
        np.testing.assert_allclose(after, meant, atol=TOLERANCE)
        np.testing.assert_allclose(before, steps_of(proto, x), atol=TOLERANCE)
        assert np.abs(before - after).max() > 1e-2
        proto.producer_name = "mine"  # the standard's default
        np.testing.assert_allclose(from_onnx(proto).run(x), before, atol=TOLERANCE)
        written, _, _ = forgotten()
        written.graph.node[0].attribute.append(helper.make_attribute("linear_before_reset", 0))
        np.testing.assert_allclose(from_onnx(written).run(x), before, atol=TOLERANCE)


def test_gru_reset_of_files(tmp_path):
    proto, meant, x = forgotten("mine")
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    np.testing.assert_allclose(load_model(path, gru_reset="after").run(x), meant, atol=TOLERANCE)
    with pytest.raises(StillnetError, match="^gru_reset is 'never': give 'before', 'after' or"):
        load_model(path, gru_reset="never")
    with pytest.raises(StillnetError, match="which has no masks: leave out ignore_mask$"):
        load_model(path, ignore_mask=True)


def stored(name, value, axis):
    """A weight in 8 bits with a scale for each row: constants, and the node that widens them."""
    shape = [1] * value.ndim
    shape[axis] = -1
    scale = np.abs(value).max(axis=tuple(a for a in range(value.ndim) if a != axis)) / 127
    whole = np.round(value / scale.reshape(shape)).astype(np.int8)
    inits = [
        numpy_helper.from_array(whole, f"{name}8"),
        const(f"{name}s", scale),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}z"),
    ]
    return inits, node("DequantizeLinear", f"{name}8 {name}s {name}z", name, {"axis": axis})


def test_weights_that_are_only_stored_in_8_bits():
    rng = np.random.default_rng(1)
    w, r, b = gru_weights(rng, 3, 4)
    bias8 = numpy_helper.from_array(np.round(b * 30).astype(np.int8), "B8")
    inits, nodes = [bias8, const("Bs", 1 / 30), ints("one", 1)], []
    for name, value, axis in (("W", w, 1), ("R", r, 1), ("V", rng.normal(size=(4, 2)), 1)):
        more, widen = stored(name, np.asarray(value, np.float32), axis)
        inits += more
        nodes.append(widen)
    nodes += [
        ("DequantizeLinear", "B8 Bs", "B"),
        ("GRU", "x W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4}),
        ("Squeeze", "Y one", "h"),
        ("MatMul", "h V", "y"),
    ]
    proto = make(nodes, inits, ["t", 1, 3])
    x = rng.normal(size=(15, 3)).astype(np.float32)
    found = from_onnx(proto)
    assert [layer.cell for layer in found.layers] == ["gru", "linear"]
    options = onnxruntime.SessionOptions()  # optimized, it would multiply in 8 bits
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    expected = session.run(None, {"x": x[:, None]})[0].reshape(15, -1)
    np.testing.assert_allclose(found.run(x), expected, atol=TOLERANCE)


def test_weights_in_blocks():
    """Opset 21: a scale for each block of rows."""
    rng = np.random.default_rng(5)
    whole = rng.integers(-127, 128, (6, 4)).astype(np.int8)
    inits = [numpy_helper.from_array(whole, "w8"), const("s", rng.uniform(0.01, 0.1, (3, 4)))]
    nodes = [node("DequantizeLinear", "w8 s", "w", {"axis": 0, "block_size": 2})]
    proto = make([*nodes, ("MatMul", "x w", "y")], inits, ["t", 6], opset=21)
    x = rng.normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(from_onnx(proto).run(x), runtime(proto, x)[0], atol=TOLERANCE)


FLOAT_MODEL = r"it computes with quantized values; give the float model that this one was made from"


def test_quantized_activations_refused():
    inits = [const("s", 0.1), numpy_helper.from_array(np.array(0, np.int8), "z")]
    inits.append(const("w", np.ones((3, 2))))
    nodes = [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "d")]
    proto = make([*nodes, ("MatMul", "d w", "y")], inits, ["t", 3])
    refused(proto, rf"node 'quantizelinear_q' \(QuantizeLinear\): {FLOAT_MODEL}, .*")
    dynamic = node("DynamicQuantizeLSTM", "x w w", "y", domain="com.microsoft")
    proto = make([dynamic], inits, ["t", 1, 3])
    refused(proto, rf"node 'dynamicquantizelstm_y' \(DynamicQuantizeLSTM\): {FLOAT_MODEL}, .*")


def branches(known: bool):
    """A GRU with its state in a branch that is taken where the condition is known."""
    rng = np.random.default_rng(2)
    plain = streaming(rng, 3, 5)

    def body(name, nodes, outputs):
        out = [helper.make_tensor_value_info(o, FLOAT, None) for o in outputs]
        return helper.make_graph(nodes, name, [], out)

    inner = list(plain.graph.node)
    other = [node("Identity", "x", "o1"), node("Identity", "h", "o2")]
    attrs = {"then_branch": body("then", inner, ["y", "h1"])}
    attrs["else_branch"] = body("else", other, ["o1", "o2"])
    condition = numpy_helper.from_array(np.array(True), "c")
    choose = helper.make_node("If", ["c"], ["out", "state"], name="choose", **attrs)
    inits = [*plain.graph.initializer, *([condition] if known else [])]
    states = [i for i in plain.graph.input if i.name == "h"]
    if not known:
        states.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return make([choose], inits, [1, 3], outputs=["out", "state"], extra_inputs=states)


def test_a_gru_with_its_state_in_a_branch_that_is_known():
    proto = branches(known=True)
    model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == ["gru"] and model.layers[0].initial == {}
    x = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    h, expected = np.zeros((1, 1, 5)), []
    for row in x:
        y, h = runtime(proto, row[None], h=h)
        expected.append(y[0])
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)


def test_a_branch_that_is_not_known_is_refused():
    refused(branches(known=False), r"the graph has 2 data inputs \('x', 'c'\); .*")


def test_names_that_are_not_utf8(tmp_path):
    w, r, b = gru_weights(np.random.default_rng(4), 3, 4)
    proto = gru_model(w, r, b)
    data = proto.SerializeToString().replace(b"gru_Y", b"gru\xfd\xff")
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    model = load_model(path)
    assert model.layers[0].name == r"gru\xfd\xff"
    model.save(tmp_path / "net.safetensors")
    assert load_model(tmp_path / "net.safetensors").layers[0].name == r"gru\xfd\xff"
