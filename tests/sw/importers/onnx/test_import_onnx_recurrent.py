"""LSTM and GRU nodes of every form against onnxruntime; states in and out; embeddings."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.onnx import from_onnx
from stillnet.sw.model.model import Model
from tests.support.oracles.onnx import (
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

pytestmark = pytest.mark.filterwarnings("error")
GATES = {"GRU": 3, "LSTM": 4}


def recurrent(op, arrays, *, x_shape=("t", 1, None), attrs=None, states=None, p=None, **more):
    """x -> GRU or LSTM -> Squeeze -> y; ``states`` are initial_h and initial_c, (H,) each."""
    w, r, b = arrays
    x_shape = tuple(w.shape[2] if n is None else n for n in x_shape)
    inits = [const("W", w), const("R", r), const("B", b), ints("one", 1)]
    inputs = ["x", "W", "R", "B", "", "", ""][: 7 if op == "LSTM" else 6]
    for i, value in enumerate(states or ()):
        inits.append(const("hc"[i] + "0", np.reshape(value, (1, 1, -1))))
        inputs[5 + i] = "hc"[i] + "0"
    if p is not None:
        inits.append(const("P", p))
        inputs.append("P")
    layer = node(op, inputs, "Y", {"hidden_size": r.shape[2], **(attrs or {})})
    return make([layer, ("Squeeze", "Y one", "y")], inits, x_shape, **more)


def compare(proto, x, **tolerance):
    expected = runtime(proto, x[:, None])[0].reshape(len(x), -1)
    model = from_onnx(proto)
    np.testing.assert_allclose(model.run(x), expected, rtol=0, **tolerance or {"atol": TOLERANCE})
    return model


def case(seed, op, inputs, units, steps, initial, peepholes=False, attrs=None):
    rng = np.random.default_rng(seed)
    arrays = weights(rng, inputs, units, GATES[op])
    count = 2 if op == "LSTM" else 1
    states = [rng.uniform(-1, 1, units) * (1 + 2 * i) for i in range(count)] if initial else None
    p = rng.normal(size=(1, 3 * units)) if peepholes else None
    x = (rng.normal(size=(steps, inputs)) * 1.5).astype(np.float32)
    return recurrent(op, arrays, attrs=attrs, states=states, p=p), x


SIZE = st.one_of(st.integers(1, 9), st.integers(1, 120))


# -- LSTM -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SIZE, SIZE, st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 9999))
def test_random_lstm_matches_onnxruntime(inputs, units, steps, initial, peepholes, seed):
    proto, x = case(seed, "LSTM", inputs, units, steps, initial, peepholes)
    model = compare(proto, x)
    assert [layer.cell for layer in model.layers] == ["lstm_peephole" if peepholes else "lstm"]
    assert (model.inputs, model.outputs) == (inputs, units)


@pytest.mark.parametrize("broken", ["order", "bias", "c0", "h0", "peepholes", "swapped peepholes"])
def test_the_comparison_sees_a_wrong_lstm(broken):
    """Gates swapped, a lost bias or state: far outside the tolerance on networks as above."""
    rng = np.random.default_rng(3)
    w, r, b = weights(rng, 5, 8, 4)
    h0, c0 = rng.uniform(-1, 1, 8), rng.uniform(-2, 2, 8)
    p = rng.normal(size=(1, 24))
    proto = recurrent("LSTM", (w, r, b), states=[h0, c0], p=p)
    x = rng.normal(size=(20, 5)).astype(np.float32)
    peep = dict(zip("iof", p.reshape(3, 8)))
    if broken == "swapped peepholes":
        peep["o"], peep["f"] = peep["f"], peep["o"]
    wrong = Model(5).lstm(
        w[0],
        r[0],
        b[0, :32],
        None if broken == "bias" else b[0, 32:],
        h0=None if broken == "h0" else h0,
        c0=None if broken == "c0" else c0,
        peepholes=None if broken == "peepholes" else peep,
        order="ifgo" if broken == "order" else "iofg",
    )
    expected = runtime(proto, x[:, None])[0][:, 0]
    assert np.abs(wrong.run(x) - expected).max() > 500 * TOLERANCE
    compare(proto, x)


def test_lstm_with_explicit_defaults_and_without_biases():
    attrs = {"activations": ["Sigmoid", "tanh", "Tanh"], "direction": "forward", "input_forget": 0}
    rng = np.random.default_rng(1)
    w, r, b = weights(rng, 3, 4, 4)
    proto = recurrent("LSTM", (w, r, 0 * b), attrs=attrs, p=np.zeros((1, 12)))
    proto.graph.node[0].input[3] = ""
    model = compare(proto, rng.normal(size=(9, 3)).astype(np.float32))
    assert model.layers[0].cell == "lstm"  # peepholes that are all zero are none


def test_lstm_layout_1_is_the_same_network():
    """onnxruntime does not run layout=1; the same weights at layout=0 are the oracle."""
    rng = np.random.default_rng(5)
    arrays = weights(rng, 3, 4, 4)
    h0, c0 = rng.uniform(-1, 1, (2, 4))
    x = rng.normal(size=(9, 3)).astype(np.float32)
    expected = runtime(recurrent("LSTM", arrays, states=[h0, c0]), x[:, None])[0][:, 0]
    proto = recurrent("LSTM", arrays, states=[h0, c0], attrs={"layout": 1}, x_shape=(1, "t", None))
    proto.graph.initializer[3].CopyFrom(ints("one", 2))
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "GRU after"])
@pytest.mark.parametrize("line", [None, (0.4, 0.3)])
def test_gates_that_are_straight_lines(op, line):
    """HardSigmoid: slope and offset go into the weights, and the cell clips."""
    gates, rng = 4 if op == "LSTM" else 3, np.random.default_rng(8)
    shapes = ((1, 6 * gates, 5), (1, 6 * gates, 6), (1, 12 * gates))
    arrays = tuple(rng.normal(size=s) for s in shapes)
    attrs = {"activations": ["HardSigmoid", "Tanh", "Tanh"][: 3 if op == "LSTM" else 2]}
    if line is not None:
        attrs |= {"activation_alpha": [line[0]], "activation_beta": [line[1]]}
    attrs |= {"linear_before_reset": 1} if op == "GRU after" else {}
    proto = recurrent(op[:4].strip(), arrays, attrs=attrs)
    model = compare(proto, (2 * rng.normal(size=(30, 5))).astype(np.float32))
    expected = {"LSTM": ["lstm_hard"], "GRU": ["gru_reset_hard", "gru_before_hard"]}
    assert [layer.cell for layer in model.layers] == expected.get(op, ["gru_hard"])


# -- GRU ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    SIZE,
    SIZE,
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([None, "Tanh", "Relu"]),
    st.sampled_from([0, 1, None]),
    st.integers(0, 9999),
)
def test_random_gru_of_both_resets_matches_onnxruntime(
    inputs, units, steps, initial, activation, after, seed
):
    attrs = {} if activation is None else {"activations": ["Sigmoid", activation]}
    attrs |= {} if after is None else {"linear_before_reset": after}
    proto, x = case(seed, "GRU", inputs, units, steps, initial, attrs=attrs)
    expected = runtime(proto, x[:, None])[0].reshape(steps, -1)
    scale = max(1.0, np.abs(expected).max())  # a ReLU recurrence grows
    if scale > 1e3:
        return
    model = compare(proto, x, atol=TOLERANCE * scale)
    suffix = "_relu" if activation == "Relu" else ""
    cells = ["gru" + suffix] if after else ["gru_reset" + suffix, "gru_before" + suffix]
    assert [layer.cell for layer in model.layers] == cells


@pytest.mark.parametrize("broken", ["after", "relu", "order", "h0", "bias"])
def test_the_comparison_sees_a_wrong_gru(broken):
    rng = np.random.default_rng(4)
    w, r, b = weights(rng, 5, 8, 3)
    h0 = rng.uniform(-1, 1, 8)
    proto = recurrent("GRU", (w, r, b), states=[h0])
    x = rng.normal(size=(20, 5)).astype(np.float32)
    wrong = Model(5).gru(
        w[0],
        r[0],
        b[0, :24],
        None if broken == "bias" else b[0, 24:],
        h0=None if broken == "h0" else h0,
        order="ruc" if broken == "order" else "urc",
        reset="after" if broken == "after" else "before",
        activation="relu" if broken == "relu" else "tanh",
    )
    expected = runtime(proto, x[:, None])[0][:, 0]
    assert np.abs(wrong.run(x) - expected).max() > 500 * TOLERANCE
    compare(proto, x)


# -- refusals -------------------------------------------------------------------------------------

LSTM_REFUSALS = [
    (
        {"direction": "reverse"},
        r"direction is 'reverse'; .* use a forward LSTM: export that direction .*",
    ),
    (
        {"direction": "bidirectional"},
        r"direction is 'bidirectional'; .* use a forward LSTM: export that direction .*",
    ),
    ({"clip": 3.0}, r"clip is 3; clipping inside an LSTM is not supported, export without clip"),
    (
        {"input_forget": 1},
        r"input_forget is set, which couples two gates; export an LSTM with gates of their own",
    ),
    (
        {"activations": ["Sigmoid", "Tanh", "Relu"]},
        r"activations are Sigmoid, Tanh, Relu; only Sigmoid, Tanh, Tanh are supported",
    ),
    (
        {"activations": ["Softsign", "Tanh", "Tanh"]},
        r"activations are Softsign, Tanh, Tanh; only Sigmoid, Tanh, Tanh are supported",
    ),
    ({"activation_alpha": [0.5]}, r"activation_alpha is given; only plain .* remove it"),
    ({"activation_beta": [0.5]}, r"activation_beta is given; only plain .* remove it"),
]


@pytest.mark.parametrize("attrs, message", LSTM_REFUSALS)
def test_lstm_attributes_refused(attrs, message):
    arrays = weights(np.random.default_rng(0), 3, 4, 4)
    refused(recurrent("LSTM", arrays, attrs=attrs), r"node 'lstm_Y' \(LSTM\): " + message)


def test_lstm_shapes_refused():
    w, r, b = weights(np.random.default_rng(0), 3, 4, 4)

    def lstm(message, arrays=(w, r, b), **more):
        refused(recurrent("LSTM", arrays, **more), r"node 'lstm_Y' \(LSTM\): " + message)

    lstm(
        r"W has shape \(1, 12, 3\) and R \(1, 16, 4\) at hidden_size 4; \(1, 4\*H, I\) .*",
        (w[:, :12], r, b),
    )
    lstm(r"B has shape \(1, 16\), expected \(1, 32\); export the model again", (w, r, b[:, :16]))
    lstm(r"P has shape \(1, 16\), expected \(1, 12\); export .*again", p=np.ones((1, 16)))
    lstm(r"initial_h has shape \(1, 1, 5\), expected \(1, 1, 4\); .*", states=[np.ones(5)])
    both = [np.ones(4), np.ones(5)]
    message = (
        r"initial_c has shape \(1, 1, 5\), expected \(1, 1, 4\); export the model again, "
        r"and without projection \(proj_size\), which is not supported"
    )
    lstm(message, states=both)
    lstm(r"batch size is 8; the engine runs one sequence, .*", x_shape=("t", 8, 3))
    lstm(r"X has 2 axes, an LSTM takes 3; export the model again", x_shape=("t", 3))
    proto = recurrent("LSTM", (w, r, b), states=[np.zeros(4), np.zeros(4)], x_shape=("t", "b", 3))
    proto.graph.initializer[-1].CopyFrom(const("c0", np.eye(2, 4)[None]))
    refused(proto, r"node 'lstm_Y' \(LSTM\): initial_c differs within the batch; export with .*1")
    proto = recurrent("LSTM", (w, r, b), x_shape=(6, 1, 3))
    proto.graph.node[0].input[4] = "n"
    proto.graph.initializer.append(const("n", [5], np.int32))
    refused(proto, r"node 'lstm_Y' \(LSTM\): sequence_lens \[5\] are not the full length 6; .*")


# -- states ---------------------------------------------------------------------------------------


def stacked(rng, op="LSTM", swap_in=False, swap_out=False, joined=True):
    """Two layers whose states come in and go out: joined in (layers, 1, H), as PyTorch exports."""
    units, names = 4, "hc" if op == "LSTM" else "h"
    inits = [ints(f"i{i}", i) for i in range(3)] + [ints("axis", 0), ints("one", 1)]
    nodes = []
    for i, size in enumerate((3, units)):
        inits += [const(n + str(i), v) for n, v in zip("WRB", weights(rng, size, units, GATES[op]))]
        at = 1 - i if swap_in else i
        nodes += [("Slice", f"{s} i{at} i{at + 1} axis", f"{s}{i}") for s in names]
        ends = " ".join(f"{s}n{i}" for s in names)
        source = ["x" if i == 0 else "s0", f"W{i}", f"R{i}", f"B{i}", ""]
        states = [f"{s}{i}" for s in names]
        attrs = {"hidden_size": units, **({} if op == "LSTM" else {"linear_before_reset": 1})}
        nodes += [(op, source + states, f"Y{i} {ends}", attrs), ("Squeeze", f"Y{i} one", f"s{i}")]
    for s in names:
        order = f"{s}n1 {s}n0" if swap_out else f"{s}n0 {s}n1"
        nodes.append(("Concat", order, f"{s}n", {"axis": 0}))
    outputs = ["s1", *(f"{s}n" for s in names)]
    extra = inputs_of(**{s: [2, 1, units] for s in names})
    return make(nodes, inits, ["t", 1, 3], outputs=outputs, extra_inputs=extra)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("swap", [False, True])
def test_stacked_states_are_carried(op, swap):
    """One step at a time with the states fed back, in either order of the layers."""
    rng = np.random.default_rng(9)
    proto = stacked(rng, op, swap, swap)
    model = from_onnx(proto)
    names = "hc" if op == "LSTM" else "h"
    states = [np.zeros((2, 1, 4)) for _ in names]
    x = rng.normal(size=(12, 3)).astype(np.float32)
    expected = []
    for row in x:
        y, *states = runtime(proto, row[None, None], **dict(zip(names, states)))
        expected.append(y[0, 0])
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)


@pytest.mark.parametrize("swap_in", [False, True])
def test_states_that_change_layers_are_refused(swap_in):
    proto = stacked(np.random.default_rng(9), "LSTM", swap_in, not swap_in)
    first = r"h of 'lstm_Y1', h of 'lstm_Y0'"
    second = r"h of 'lstm_Y0', h of 'lstm_Y1'"
    if swap_in:
        first, second = second, first
    refused(
        proto,
        r"graph output 'hn' has the final states in another order than graph input 'h' takes them "
        rf"\({first} instead of {second}\): the engine carries each layer's own state, so export "
        r"both in one order",
    )


def silero(rng, swapped=False, shared=False):
    """Frames of features, channels first; one state tensor (2, 1, H) of h and c; Relu on h."""
    size, units = 6, 5
    w, r, b = weights(rng, size, units, 4)
    inits = [const("W", w), const("R", r), const("B", b), const("V", rng.normal(size=(1, units)))]
    inits += [const("v", [0.3]), ints("z", 0), ints("o", 1), ints("two", 2)]
    inits += [const("i0", 0, np.int64), const("i1", 1, np.int64)]
    nodes = [
        ("Transpose", "x", "xt", {"perm": [2, 0, 1]}),
        ("Gather", "state i0", "h2", {"axis": 0}),
        ("Gather", "state i0" if shared else "state i1", "c2", {"axis": 0}),
        ("Unsqueeze", "h2 z", "h"),
        ("Unsqueeze", "c2 z", "c"),
        ("LSTM", ["xt", "W", "R", "B", "", "h", "c"], "Y hn cn", {"hidden_size": units}),
        ("Concat", "cn hn" if swapped else "hn cn", "stateN", {"axis": 0}),
        ("Squeeze", "hn z", "last"),
        ("Relu", "last", "a"),
        ("Gemm", "a V v", "g", {"transB": 1}),
        ("Sigmoid", "g", "y"),
    ]
    extra = inputs_of(state=[2, 1, units])
    return make(nodes, inits, [1, size, 1], outputs=["y", "stateN"], extra_inputs=extra)


def test_voice_activity_network():
    """As silero-vad: an LSTM cell whose h and c share one tensor, Relu on the state, a gate."""
    rng = np.random.default_rng(2)
    proto = silero(rng)
    model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == ["lstm", "relu", "sigmoid"]
    np.testing.assert_array_equal(model.layers[1].matrices[0].weight[0], np.eye(5))
    state, expected = np.zeros((2, 1, 5)), []
    x = rng.normal(size=(20, 6)).astype(np.float32)
    for row in x:
        y, state = runtime(proto, row[None, :, None], state=state)
        expected.append(y[0])
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)


def test_h_and_c_exchanged_are_refused():
    refused(
        silero(np.random.default_rng(2), swapped=True),
        r"graph output 'stateN' has the final states in another order than graph input 'state' "
        r"takes them \(c of 'lstm_Y', h of 'lstm_Y' instead of h of 'lstm_Y', c of 'lstm_Y'\): .*",
    )


def test_a_state_input_that_starts_two_states_is_reported():
    proto = silero(np.random.default_rng(2), shared=True)
    message = r"state input 'state' starts c of 'lstm_Y' and h of 'lstm_Y'; the engine carries .*"
    with pytest.warns(UserWarning, match=message):
        from_onnx(proto)


def test_state_outputs_in_another_order_are_reported():
    rng = np.random.default_rng(1)
    w, r, b = weights(rng, 3, 4, 4)
    inits = [const("W", w), const("R", r), const("B", b), ints("one", 1)]
    nodes = [
        ("LSTM", ["x", "W", "R", "B", "", "h", "c"], "Y hn cn", {"hidden_size": 4}),
        ("Squeeze", "Y one", "y"),
    ]
    extra = inputs_of(h=[1, 1, 4], c=[1, 1, 4])

    def proto(outputs):
        return make(nodes, inits, ["t", 1, 3], outputs=outputs, extra_inputs=extra)

    assert from_onnx(proto(["y", "hn", "cn"])).outputs == 4
    message = (
        r"the graph returns its states as 'cn', 'hn', which belong to its state inputs 'c', 'h', "
        r"in another order than it takes them; .*"
    )
    with pytest.warns(UserWarning, match=message):
        from_onnx(proto(["y", "cn", "hn"]))


def test_cell_state_as_data_refused():
    w, r, b = weights(np.random.default_rng(0), 3, 4, 4)
    inits = [const("W", w), const("R", r), const("B", b), const("V", np.ones((4, 2)))]
    nodes = [("LSTM", "x W R B", "Y hn cn", {"hidden_size": 4}), ("MatMul", "cn V", "y")]
    refused(
        make(nodes, inits, ["t", 1, 3]),
        r"node 'matmul_y' \(MatMul\): it computes with final states; only a graph output may .*",
    )


def test_computed_initial_c_refused():
    w, r, b = weights(np.random.default_rng(0), 4, 4, 4)
    proto = recurrent("LSTM", (w, r, b), states=[np.zeros(4), np.ones(4)])
    proto.graph.node[0].input[6] = "first"
    proto.graph.node.insert(0, node("Mul", "x c0", "first"))
    refused(proto, r"node 'lstm_Y' \(LSTM\): its initial state or sequence_lens is computed .*")


# -- activations on their own ---------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [["Relu"], ["Tanh"], ["Sigmoid", "Tanh"], ["Relu", "Sigmoid"]])
def test_activations_that_follow_no_dense_layer(kinds):
    rng = np.random.default_rng(6)
    arrays = weights(rng, 3, 4, 3)
    proto = recurrent("GRU", arrays, attrs={"linear_before_reset": 1})
    proto.graph.node[1].output[0] = "a0"
    for i, kind in enumerate(kinds):
        out = "y" if i == len(kinds) - 1 else f"a{i + 1}"
        proto.graph.node.append(node(kind, f"a{i}", out))
    compare(proto, rng.normal(size=(9, 3)).astype(np.float32))


def test_activation_of_the_input():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    proto = make([("Sub", "x k", "a"), ("Relu", "a", "y")], [const("k", [0.1, 0.2, 0.3])], ["t", 3])
    np.testing.assert_allclose(from_onnx(proto).run(x), runtime(proto, x)[0], atol=TOLERANCE)
    proto = make([("Relu", "x", "y")], [], ["t", "f"])
    refused(proto, r"node 'relu_y' \(Relu\): Relu is the first node of the graph, .*fixed")


# -- embeddings -----------------------------------------------------------------------------------

INT64 = TensorProto.INT64


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "Gemm"])
@pytest.mark.parametrize("how", ["gather", "cast", "one-hot", "scaled"])
def test_embedding(op, kind, how):
    """Tokens look up a table in front of a layer: one column of its matrix for each token."""
    rng = np.random.default_rng(7)
    tokens, size, units = 11, 5, 4
    if how == "one-hot":
        size = tokens
    table = rng.normal(size=(tokens, size)).astype(np.float32)
    inits = [const("E", table), const("s", rng.normal(size=size)), ints("one", 1)]
    inits += [const("values", [0, 1])]
    inits += [const("depth", tokens, np.int32 if kind == TensorProto.INT32 else np.int64)]
    nodes = []
    source = "x"
    if how == "cast":
        nodes.append(("Cast", "x", "x64", {"to": INT64}))
        source = "x64"
    if how == "one-hot":
        nodes.append(("OneHot", f"{source} depth values", "e"))
    else:
        nodes.append(("Gather", f"E {source}", "e0" if how == "scaled" else "e"))
    if how == "scaled":
        nodes += [("Mul", "e0 s", "e1"), ("Add", "e1 s", "e")]
    if op == "Gemm":
        w = rng.normal(size=(size, units))
        inits += [const("w", w), const("c", rng.normal(size=units))]
        nodes.append(("Gemm", "e w c", "y"))
        shape = ["t"]
    else:
        inits += [const(n, v) for n, v in zip("WRB", weights(rng, size, units, GATES[op]))]
        nodes += [(op, "e W R B", "Y", {"hidden_size": units}), ("Squeeze", "Y one", "y")]
        shape = ["t", 1]
    proto = make(nodes, inits, shape, elem=kind)
    model = from_onnx(proto)
    assert model.one_hot and model.inputs == tokens
    x = rng.integers(0, tokens, 17)
    dtype = np.int64 if kind == INT64 else np.int32
    expected = runtime(proto, x.reshape(-1, *shape[1:]), dtype)[0].reshape(17, units)
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)


TABLE = [const("E", np.ones((5, 3))), const("w", np.ones((3, 2))), const("E3", np.ones((5, 3, 2)))]
EMBEDDING_REFUSALS = {
    "table of three axes": (
        [("Gather", "E3 x", "e"), ("MatMul", "e w", "y")],
        r"node 'gather_e' \(Gather\): its table has shape \(5, 3, 2\); a matrix .* is needed",
    ),
    "columns": (
        [("Gather", "E x", "e", {"axis": 1}), ("MatMul", "e w", "y")],
        r"node 'gather_e' \(Gather\): its table has shape \(5, 3\); a matrix .* is needed",
    ),
    "end": (
        [("Gather", "E x", "y")],
        r"node 'gather_y': it ends the network with an embedding, which no layer reads; .*",
    ),
    "numbers": (
        [("Cast", "x", "f", {"to": 1}), ("MatMul", "f w", "y")],
        r"node 'cast_f' \(Cast\): it makes numbers of tokens; only an embedding or a OneHot .*",
    ),
    "sum": (
        [("Add", "x k", "s"), ("Gather", "E s", "e"), ("MatMul", "e w", "y")],
        r"node 'add_s' \(Add\): it computes with tokens; only an embedding \(Gather\) or .*",
    ),
    "one-hot axis": (
        [("OneHot", "x depth values", "e", {"axis": 0}), ("MatMul", "e w", "y")],
        r"node 'onehot_e' \(OneHot\): the features must be the last axis; export it with axis -1",
    ),
    "one-hot depth": (
        [("OneHot", "x none values", "e"), ("MatMul", "e w", "y")],
        r"node 'onehot_e' \(OneHot\): its depth is 0; export the model again",
    ),
}


@pytest.mark.parametrize("name", EMBEDDING_REFUSALS)
def test_embedding_refused(name):
    nodes, message = EMBEDDING_REFUSALS[name]
    inits = [*TABLE, const("k", 1, np.int64), const("depth", 3, np.int64)]
    inits += [const("values", [0, 1]), const("none", 0, np.int64)]
    refused(make(nodes, inits, ["t"], elem=INT64), message)


def test_one_hot_of_computed_values_refused():
    inits = [const("w", np.ones((3, 2))), const("d", 3, np.int64), const("v", [0, 1])]
    proto = make([("OneHot", "x d v", "e"), ("MatMul", "e w", "y")], inits, ["t"])
    refused(
        proto, r"node 'onehot_e' \(OneHot\): only the graph's input may be turned to one-hot .*"
    )


# -- whole networks -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_stacks_of_all_layers_match_onnxruntime(data):
    """Recurrent and dense layers in any order, with the moves that exporters put between them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    size = first = data.draw(st.integers(1, 12))
    nodes, inits, top = [], [ints("one", 1)], "x"
    for i in range(data.draw(st.integers(1, 4))):
        units = data.draw(st.integers(1, 12))
        op = data.draw(st.sampled_from(["LSTM", "GRU", "after", "relu", "Dense", "Activation"]))
        if op in ("LSTM", "GRU", "after", "relu"):
            attrs = {"hidden_size": units}
            attrs |= {"linear_before_reset": 1} if op == "after" else {}
            attrs |= {"activations": ["Sigmoid", "Relu"]} if op == "relu" else {}
            kind = "LSTM" if op == "LSTM" else "GRU"
            arrays = weights(rng, size, units, GATES[kind])
            inits += [const(f"{n}{i}", v * 0.6) for n, v in zip("WRB", arrays)]
            nodes.append((kind, f"{top} W{i} R{i} B{i}", f"Y{i}", attrs))
            nodes.append(("Squeeze", f"Y{i} one", f"s{i}"))
        elif op == "Dense":
            inits += [const(f"w{i}", rng.normal(size=(size, units)) / np.sqrt(size))]
            inits += [const(f"b{i}", rng.normal(size=units))]
            nodes += [("MatMul", f"{top} w{i}", f"m{i}"), ("Add", f"m{i} b{i}", f"s{i}")]
        else:
            units = size
            kind = data.draw(st.sampled_from(["Relu", "Tanh", "Sigmoid"]))
            nodes.append((kind, top, f"s{i}"))
        top, size = f"s{i}", units
    nodes.append(("Identity", top, "y"))
    proto = make(nodes, inits, ["t", 1, first])
    x = rng.normal(size=(10, first)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = from_onnx(proto)
    expected = runtime(proto, x[:, None])[0].reshape(10, -1)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=2 * TOLERANCE * scale)


def test_bad_names_are_printable():
    arrays = weights(np.random.default_rng(0), 3, 4, 4)
    proto = recurrent("LSTM", arrays, attrs={"clip": 1.0})
    proto.graph.node[0].name = "a\nb"
    with pytest.raises(StillnetError) as error:
        from_onnx(proto)
    assert re.match(r"node 'a\?b' \(LSTM\): clip is 1; ", str(error.value))
