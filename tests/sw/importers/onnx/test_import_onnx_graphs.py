"""Graphs that are no chain: sums, concatenations, several outputs; against onnxruntime."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from stillnet.sw.importers.onnx import from_onnx
from tests.support.oracles.onnx import (
    TOLERANCE,
    const,
    inputs_of,
    ints,
    make,
    refused,
    runtime,
    weights,
)

pytestmark = pytest.mark.filterwarnings("error")


def compare(proto, x, dtype=np.float32):
    """Outputs side by side; x (steps, inputs) at batch 1, or tokens (steps,)."""
    fed = x[:, None] if x.ndim == 2 else x
    found = runtime(proto, fed, dtype)
    expected = np.concatenate([np.asarray(y).reshape(len(x), -1) for y in found], axis=1)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = from_onnx(proto)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(model.run(x), expected, rtol=0, atol=2 * TOLERANCE * scale)
    return model, [str(n.message) for n in notes]


def test_noise_suppression_network():
    """As RNNoise: ReLU GRUs, reset before, that read each other and the features; two outputs."""
    rng = np.random.default_rng(1)
    inits = [ints("one", 1)]
    nodes = []

    def dense(source, size, units, kind, out):
        inits.extend([const(f"w_{out}", rng.normal(size=(size, units)) / np.sqrt(size))])
        inits.extend([const(f"b_{out}", rng.normal(size=units))])
        nodes.append(("MatMul", f"{source} w_{out}", f"m_{out}"))
        nodes.append(("Add", f"m_{out} b_{out}", f"a_{out}"))
        nodes.append((kind, f"a_{out}", out))

    def gru(source, size, units, kind, out):
        for n, v in zip("WRB", weights(rng, size, units, 3)):
            inits.append(const(f"{n}_{out}", v * 0.5))
        attrs = {"hidden_size": units, "activations": ["Sigmoid", kind]}
        nodes.append(("GRU", f"{source} W_{out} R_{out} B_{out}", f"Y_{out}", attrs))
        nodes.append(("Squeeze", f"Y_{out} one", out))

    dense("x", 12, 8, "Tanh", "first")
    gru("first", 8, 6, "Tanh", "voice")
    dense("voice", 6, 1, "Sigmoid", "vad")
    nodes.append(("Concat", "first voice x", "c1", {"axis": 2}))
    gru("c1", 26, 7, "Relu", "noise")
    nodes.append(("Concat", "voice noise x", "c2", {"axis": -1}))
    gru("c2", 25, 9, "Relu", "denoise")
    dense("denoise", 9, 5, "Sigmoid", "gains")
    proto = make(nodes, inits, ["t", 1, 12], outputs=["gains", "vad"])
    model, notes = compare(proto, rng.normal(size=(15, 12)).astype(np.float32))
    assert notes == ["the graph's outputs are joined side by side: 'gains' (5), 'vad' (1)"]
    by_name = {layer.name: layer for layer in model.layers}
    reads = {m.source for m in by_name["gru_Y_noise"].matrices}
    assert -1 in reads and len(reads) == 5  # x, first, voice, its own h, r * h
    assert model.layers[-1].name == "outputs" and model.outputs == 6


def case(nodes, outputs=("y",), seed=0, shape=("t", 1, 3)):
    rng = np.random.default_rng(seed)
    inits = [const("w", rng.normal(size=(3, 3))), const("v", rng.normal(size=(3, 2)))]
    inits += [const("b", rng.normal(size=3)), const("s", rng.uniform(0.5, 2, 3))]
    inits += [const("u", rng.normal(size=(6, 3))), ints("one", 1), ints("zero", 0)]
    inits += [const(n, v) for n, v in zip("WRB", weights(rng, 3, 3, 4))]
    return make(nodes, inits, shape, outputs=outputs)


FC = ("MatMul", "x w", "m")
H = {"hidden_size": 3}
GRAPHS = {
    "two readers": ([FC, ("Relu", "m", "a"), ("MatMul", "a v", "k"), ("MatMul", "a w", "y")], "yk"),
    "skip connection": ([FC, ("MatMul", "m w", "n"), ("Add", "n m", "y")], "y"),
    "residual of the input": ([FC, ("Relu", "m", "a"), ("Add", "x a", "y")], "y"),
    "difference": ([FC, ("MatMul", "x u3", "n"), ("Sub", "m n", "d"), ("Tanh", "d", "y")], "y"),
    "activation beside": ([FC, ("Relu", "m", "a"), ("Sigmoid", "m", "y")], "ya"),
    "doubled": ([FC, ("Add", "m m", "y")], "y"),
    "concat with itself": ([FC, ("Concat", "m m", "c", {"axis": 2}), ("MatMul", "c u", "y")], "y"),
    "concat of scaled": (
        [FC, ("Mul", "x s", "a"), ("Add", "a b", "q"), ("Concat", "q m", "c", {"axis": 2})]
        + [("MatMul", "c u", "y")],
        "y",
    ),
    "scaled concat": (
        [FC, ("Concat", "m x", "c", {"axis": 2}), ("Mul", "c six", "q"), ("MatMul", "q u", "y")],
        "y",
    ),
    "outputs in another order": (
        [FC, ("LSTM", "x W R B", "Y", H), ("Squeeze", "Y one", "n")],
        "nm",
    ),
    "an output twice": ([FC, ("Relu", "m", "a"), ("Identity", "a", "y")], "ya"),
    "recurrence beside a dense layer": (
        [FC, ("LSTM", "m W R B", "Y", H), ("Squeeze", "Y one", "n"), ("Add", "m n", "y")],
        "y",
    ),
    "relu of a relu beside a negative": (
        [FC, ("Relu", "m", "a"), ("Concat", "a m", "c", {"axis": 2}), ("Relu", "c", "y")],
        "y",
    ),
    "relu of a shifted sigmoid": (
        [FC, ("Sigmoid", "m", "a"), ("Sub", "a s", "q"), ("Relu", "q", "y")],
        "y",
    ),
    "sum of sums": ([FC, ("Add", "m x", "a"), ("Add", "a x", "c"), ("Relu", "c", "y")], "y"),
    "batch normalisation beside": (
        [FC, ("Mul", "m s", "q"), ("Relu", "q", "a"), ("Add", "m a", "y")],
        "y",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_matches_onnxruntime(name):
    nodes, outputs = GRAPHS[name]
    proto = case(nodes, list(outputs))
    rng = np.random.default_rng(5)
    proto.graph.initializer.extend([const("u3", rng.normal(size=(3, 3)))])
    proto.graph.initializer.extend([const("six", rng.uniform(0.5, 2, 6))])
    _, notes = compare(proto, rng.normal(size=(9, 3)).astype(np.float32))
    assert len(notes) == (len(outputs) > 1)


def test_sum_of_equal_layers_is_seen_apart():
    """A sum that took one of its terms twice would be noticed."""
    rng = np.random.default_rng(2)
    proto = case([FC, ("MatMul", "x u3", "n"), ("Sub", "m n", "y")])
    proto.graph.initializer.extend([const("u3", rng.normal(size=(3, 3)))])
    x = rng.normal(size=(9, 3)).astype(np.float32)
    model, _ = compare(proto, x)
    for matrix in (0, 1):
        weight = model.layers[matrix].matrices[0].weight
        weight *= 1.1
        assert np.abs(model.run(x) - runtime(proto, x[:, None])[0][:, 0]).max() > 100 * TOLERANCE
        weight /= 1.1


def test_two_embeddings_side_by_side():
    rng = np.random.default_rng(3)
    inits = [const("E", rng.normal(size=(7, 3))), const("F", rng.normal(size=(7, 2)))]
    inits += [const("w", rng.normal(size=(5, 4))), const("v", rng.normal(size=(7, 2)))]
    nodes = [
        ("Gather", "E x", "e"),
        ("Gather", "F x", "f"),
        ("Concat", "e f", "c", {"axis": 1}),
        ("MatMul", "c w", "m"),
        ("Tanh", "m", "a"),
        ("Concat", "a e", "d", {"axis": 1}),
        ("MatMul", "d v", "y"),
    ]
    proto = make(nodes, inits, ["t"], elem=TensorProto.INT64)
    model, _ = compare(proto, rng.integers(0, 7, 12), np.int64)
    assert model.one_hot and model.inputs == 7 and len(model.layers) == 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_graphs_match_onnxruntime(data):
    """Any vector made so far may be read by any node."""
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    draw = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    sizes = {"x": draw(1, 3, 5)}
    first = sizes["x"]
    nodes, inits = [], [ints("one", 1)]
    for i in range(data.draw(st.integers(1, 7))):
        source, out = draw(*sizes), f"n{i}"
        op = draw("dense", "Relu", "Tanh", "scale", "LSTM", "GRU", "Concat", "sum")
        size = sizes[source]
        if op == "dense":
            units = draw(1, 3, 4)
            inits.append(const(f"w{i}", rng.normal(size=(size, units)) / np.sqrt(size)))
            nodes.append(("MatMul", f"{source} w{i}", out))
            size = units
        elif op == "scale":
            inits += [const(f"s{i}", rng.uniform(0.5, 1.5, size)), const(f"t{i}", 0.3)]
            nodes += [("Mul", f"{source} s{i}", f"q{i}"), ("Add", f"q{i} t{i}", out)]
        elif op in ("LSTM", "GRU"):
            units = draw(1, 3, 4)
            for n, v in zip("WRB", weights(rng, size, units, 4 if op == "LSTM" else 3)):
                inits.append(const(f"{n}{i}", v * 0.6))
            layer = (op, f"{source} W{i} R{i} B{i}", f"Y{i}", {"hidden_size": units})
            nodes += [layer, ("Squeeze", f"Y{i} one", out)]
            size = units
        elif op in ("Concat", "sum"):
            equal = [v for v in sizes if sizes[v] == size]
            other = draw(*sizes) if op == "Concat" else draw(*equal)
            attrs = {"axis": 2} if op == "Concat" else {}
            name = op if op == "Concat" else draw("Add", "Sub")
            nodes.append((name, f"{source} {other}", out, attrs))
            size += sizes[other] if op == "Concat" else 0
        else:
            nodes.append((op, source, out))
        sizes[out] = size
    inits.append(const("wy", rng.normal(size=(sizes[out], 2)) / np.sqrt(sizes[out])))
    nodes.append(("MatMul", f"{out} wy", "y"))
    proto = make(nodes, inits, ["t", 1, first])
    compare(proto, rng.normal(size=(8, first)).astype(np.float32))


REFUSALS = {
    "steps joined": (
        [FC, ("Concat", "m x", "y", {"axis": 0})],
        r"node 'concat_y' \(Concat\): it joins tensors of shapes \(\?, 1, 3\), \(\?, 1, 3\) along "
        r"axis 0; only features of the same steps may be joined",
    ),
    "joined with a constant": (
        [FC, ("Concat", "m k", "y", {"axis": 2})],
        r"node 'concat_y' \(Concat\): it joins a computed tensor with one that is not, or of .*",
    ),
    "sequence and last step": (
        [("LSTM", "x W R B", "Y h", H), ("Squeeze", "h zero", "q"), ("Squeeze", "Y one", "n")]
        + [("Add", "n q", "y")],
        r"node 'add_y' \(Add\): it combines tensors of shapes \(\?, 1, 3\) and \(1, 3\), .*",
    ),
    "outputs of both kinds": (
        [("LSTM", "x W R B", "Y h", H), ("Squeeze", "h zero", "q"), ("Squeeze", "Y one", "n")]
        + [("Relu", "q", "y"), ("Relu", "n", "z")],
        r"graph outputs 'y' and 'z' are a sequence and its last step: export one of them",
        ["y", "z"],
    ),
    "features against steps": (
        [FC, ("Transpose", "x", "q", {"perm": [2, 1, 0]}), ("Add", "m q", "y")],
        r"node 'add_y' \(Add\): it combines tensors of shapes .*, whose axes are not the same; .*",
    ),
    "nothing but the input": (
        [("Concat", "x x", "y", {"axis": 2})],
        r"model 'network' holds no layer: .*|the graph from 'x' to 'y' holds no layer: .*",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_graph_refused(name):
    nodes, message, *outputs = REFUSALS[name]
    proto = case(nodes, *outputs or [["y"]])
    proto.graph.initializer.extend([const("k", np.ones((1, 1, 3)))])
    refused(proto, message)


def test_layers_above_one_that_is_left_out_keep_their_sources():
    """A GRU of two layers, which read each other, above an LSTM that only gives its state."""
    nodes = [("LSTM", "x W R B", "Y h c", H), ("GRU", "x P Q D", "Z", H)]
    nodes += [("Squeeze", "Z one", "z"), ("MatMul", "z v", "y")]
    proto = case(nodes, ["y", "h"])
    rng = np.random.default_rng(4)
    proto.graph.initializer.extend([const(n, v) for n, v in zip("PQD", weights(rng, 3, 3, 3))])
    with pytest.warns(UserWarning, match="no data output depends on 'lstm_Y', which is left out"):
        model = from_onnx(proto)
    assert [layer.cell for layer in model.layers] == ["gru_reset", "gru_before", "linear"]
    assert model.layers[0].peers == {"h": 1}
    x = rng.normal(size=(9, 3)).astype(np.float32)
    expected = runtime(proto, x[:, None])[0][:, 0]
    np.testing.assert_allclose(model.run(x), expected, atol=TOLERANCE)


def test_states_of_a_layer_that_no_output_needs_are_reported():
    nodes = [FC, ("LSTM", "x W R B", "Y h c", H)]
    proto = case(nodes, ["m", "h"])
    with pytest.warns(UserWarning, match="no data output depends on 'lstm_Y', which is left out"):
        assert [layer.name for layer in from_onnx(proto).layers] == ["matmul_m"]


# -- what PyTorch's exporters write ---------------------------------------------------------------


@pytest.mark.parametrize("length", [12, 13])
def test_a_length_written_into_a_graph_of_dynamic_length(length):
    """Its newer exporter reshapes to the length of the example: the same network of one step."""
    rng = np.random.default_rng(5)
    w, r, b = weights(rng, 3, 4, 3)
    inits = [const("W", w), const("R", r), const("B", b), ints("shape", length, 1, 4)]
    inits.append(const("V", rng.normal(size=(4, 2))))
    nodes = [
        ("GRU", "x W R B", "Y", {"hidden_size": 4, "linear_before_reset": 1}),
        ("Transpose", "Y", "T", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "T shape", "f"),
        ("MatMul", "f V", "y"),
    ]
    proto = make(nodes, inits, ["t", 1, 3])
    x = rng.normal(size=(length, 3)).astype(np.float32)
    expected = runtime(proto, x[:, None])[0][:, 0]
    np.testing.assert_allclose(from_onnx(proto).run(x), expected, atol=TOLERANCE)


def test_features_split_into_steps_are_still_refused():
    nodes = [("Reshape", "x shape", "f"), ("MatMul", "f V", "y")]
    inits = [ints("shape", 4, 3), const("V", np.ones((3, 2)))]
    refused(
        make(nodes, inits, ["t", 6]),
        r"node 'reshape_f' \(Reshape\): it reshapes \(2, 6\) to \(4, 3\), which splits an axis; .*",
    )


def test_a_cell_that_is_written_out_is_refused_with_a_way_out():
    nodes = [
        ("MatMul", "x W", "a"),
        ("MatMul", "h R", "b"),
        ("Add", "a b", "s"),
        ("Sigmoid", "s", "i"),
        ("Tanh", "s", "g"),
        ("Mul", "i g", "y"),
    ]
    inits = [const("W", np.ones((3, 4))), const("R", np.ones((4, 4)))]
    refused(
        make(nodes, inits, [1, 3], extra_inputs=inputs_of(h=[1, 4])),
        r"the graph has 2 data inputs \('x', 'h'\); stillnet takes one: export the part that one "
        r"input feeds \(a recurrent cell that is written out in products is read from its "
        r"state_dict\)",
    )
