"""Operators of ONNX graphs within a step, unrolled to dense layers, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from stillnet.sw.importers.onnx import from_onnx
from stillnet.sw.model.model import Model
from tests.support.networks.graphs import GraphBuilder
from tests.support.oracles.onnx import const, ints, make, refused, runtime, weights

pytestmark = pytest.mark.filterwarnings("error")


def compare(proto: ModelProto, x: np.ndarray) -> Model:
    """x (steps, ...), a step at a time where the graph has one step."""
    model = from_onnx(proto)
    one = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    whole = [runtime(proto, v[None])[0] for v in x] if one else [runtime(proto, x)[0]]
    expected = np.concatenate(whole).reshape(len(x), -1)
    np.testing.assert_allclose(model.run(x.reshape(len(x), -1)), expected, rtol=0, atol=3e-5)
    return model


@settings(max_examples=25, deadline=None)
@given(
    st.integers(8, 24),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(0, 999),
)
def test_strided_convolutions_within_a_step(size, taps, stride, pad, units, seed) -> None:
    rng = np.random.default_rng(seed)
    if stride == 1 and (pad or taps == 1):
        stride = 2  # else it may be one over steps
    first = rng.normal(0, 0.5, (units, 1, taps))
    second = rng.normal(0, 0.5, (3, units, 2))
    nodes = [
        ("Unsqueeze", "x one", "wave"),
        ("Conv", "wave W B", "a", {"strides": [stride], "pads": [pad, pad]}),
        ("Relu", "a", "b"),
        ("Conv", "b V", "c", {"pads": [1, 0]}),
        ("Tanh", "c", "d"),
        ("Flatten", "d", "e"),
        ("MatMul", "e F", "y"),
    ]
    positions = (size + 2 * pad - taps) // stride + 1
    known = [const("W", first), const("B", rng.normal(0, 0.3, units)), const("V", second)]
    known += [ints("one", 1), const("F", rng.normal(0, 0.3, (3 * positions, 2)))]
    proto = make(nodes, known, [1, size])
    model = compare(proto, rng.normal(size=(6, size)).astype(np.float32))
    assert [layer.cell for layer in model.layers] == ["relu", "tanh", "linear"]


def grouped(rng: np.random.Generator, tail: list[Any], size: int = 12) -> ModelProto:
    w, r, b = weights(rng, 5, size, 3)
    nodes = [
        ("GRU", "x w r b", "g", {"hidden_size": size, "linear_before_reset": 1}),
        ("Squeeze", "g one", "h"),
        ("Reshape", "h split", "s"),
        *tail,
    ]
    known = [const("w", w), const("r", r), const("b", b), ints("one", 1)]
    known += [ints("split", 0, 4, 1, size // 4), ints("join", 0, 1, -1)]
    known += [const("blocks", rng.normal(0, 0.5, (4, size // 4, 2)))]
    known += [const("shared", rng.normal(0, 0.5, (size // 4, 2)))]
    known += [const("bias", rng.normal(0, 0.5, (4, 1, 2)))]
    known += [const("last", rng.normal(0, 0.5, (8, 3)))]
    return make(nodes, known, ["t", 1, 5])


TAILS: dict[str, list[Any]] = {
    "blocks": [("MatMul", "s blocks", "m"), ("Reshape", "m join", "y")],
    "one block for all": [("MatMul", "s shared", "m"), ("Reshape", "m join", "y")],
    "bias": [("MatMul", "s blocks", "m"), ("Add", "m bias", "a"), ("Reshape", "a join", "y")],
    "activation": [
        *(("MatMul", "s blocks", "m"), ("Sigmoid", "m", "a")),
        *(("Reshape", "a join", "f"), ("MatMul", "f last", "y")),
    ],
    "shuffled": [
        *(("MatMul", "s blocks", "m"), ("Transpose", "m", "q", {"perm": [0, 3, 2, 1]})),
        *(("Reshape", "q join", "f"), ("MatMul", "f last", "y")),
    ],
    "shuffled at the end": [
        *(("MatMul", "s blocks", "m"), ("Tanh", "m", "a")),
        *(("Transpose", "a", "q", {"perm": [0, 3, 2, 1]}), ("Reshape", "q join", "y")),
    ],
    "einsum": [
        ("Einsum", "s blocks", "m", {"equation": "tgbi,gio->tgbo"}),
        ("Reshape", "m join", "y"),
    ],
    "mean of each group": [
        ("ReduceMean", "s", "m", {"axes": [3], "keepdims": 1}),
        ("Reshape", "m join", "y"),
    ],
}


@pytest.mark.parametrize("tail", TAILS)
def test_grouped_layers(tail: str) -> None:
    rng = np.random.default_rng(len(tail))
    proto = grouped(rng, TAILS[tail])
    compare(proto, rng.normal(size=(9, 1, 5)).astype(np.float32))


def test_weights_of_other_groups_are_zero() -> None:
    model = from_onnx(grouped(np.random.default_rng(0), TAILS["blocks"]))
    (matrix,) = model.layers[-1].matrices
    assert np.count_nonzero(matrix.weight) == 4 * 3 * 2
    assert [layer.cell for layer in model.layers] == ["gru", "linear"]


def test_parts_of_the_features_and_a_magnitude() -> None:
    """Real and imaginary part of a spectrum by one convolution, then its magnitude."""
    rng = np.random.default_rng(2)
    nodes = [
        ("Unsqueeze", "x one", "wave"),
        ("Conv", "wave W", "a", {"strides": [4]}),
        ("Slice", "a zero three one", "re"),
        ("Slice", "a three six one", "im"),
        *(("Pow", "re two", "p"), ("Mul", "im im", "q"), ("Add", "p q", "s"), ("Sqrt", "s", "m")),
        *(("Flatten", "m", "f"), ("MatMul", "f F", "y")),
    ]
    known = [const("W", rng.normal(0, 0.3, (6, 1, 8))), const("two", 2.0)]
    known += [ints(n, v) for n, v in (("zero", 0), ("one", 1), ("three", 3), ("six", 6))]
    known += [const("F", rng.normal(0, 0.3, (15, 4)))]
    model = compare(make(nodes, known, [1, 24]), rng.normal(size=(6, 24)).astype(np.float32))
    cells = ["product", "product", "sqrt", "linear"]
    assert [layer.cell for layer in model.layers] == cells


def test_what_is_not_one_step_is_refused() -> None:
    rng = np.random.default_rng(0)
    message = (
        r"node 'conv_y' \(Conv\): its W has shape \(2, 3, 1, 3\); only convolutions in time .*"
    )
    nodes = [("Conv", "x W", "y")]
    refused(make(nodes, [const("W", rng.normal(size=(2, 3, 1, 3)))], [1, 3, 4, "t"]), message)


@pytest.mark.parametrize(
    "op, attributes",
    [
        ("AveragePool", {"kernel_shape": [3], "pads": [2, 0]}),
        ("AveragePool", {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}),
        ("ReduceMean", {"axes": [2]}),
        ("GlobalAveragePool", {}),
    ],
)
def test_operators_over_steps_are_refused(op: str, attributes: dict[str, Any]) -> None:
    """Of one step alone they give that step again."""
    nodes = [
        (op, "x", "a", attributes),
        ("Transpose", "a", "b", {"perm": [0, 2, 1]}),
        ("MatMul", "b F", "y"),
    ]
    proto = make(nodes, [const("F", np.eye(6)[:, :4])], [1, 6, "t"])
    refused(proto, rf"node '.*' \({op}\): it mixes several steps; a stream has one at a time")


def convolution(size: int, taps: int, channels: int = 1, units: int = 1) -> ModelProto:
    """A convolution of stride 2 over the elements of a step, (channels, size)."""
    weight = np.random.default_rng(0).normal(size=(units, channels, taps))
    nodes = [("Conv", "x W", "c", {"strides": [2]}), ("Flatten", "c", "y")]
    return make(nodes, [const("W", weight)], [1, channels, size])


def test_a_convolution_that_does_not_pay_is_refused() -> None:
    """5000 inputs and 2499 outputs of 3 weights each."""
    message = (
        r"node 'conv_c' \(Conv\): unrolled over the step, its 3 weights become 12,495,000, which "
        r"the chip would read in every step for 7,497 multiplications; feed one frame a step, with "
        r"causal convolutions over the steps or a recurrent layer, or make these axes shorter"
    )
    refused(convolution(5000, 3), message)


def test_a_convolution_pays_where_few_of_its_matrix_is_empty() -> None:
    """A word has eight weights: the matrix may be eight times the multiplications."""
    x = np.random.default_rng(1).normal(size=(3, 1, 1000)).astype(np.float32)
    (layer,) = compare(convolution(1000, 125, units=2), x).layers
    assert layer.matrices[0].weight.size == 8 * 2 * 438 * 125
    with pytest.warns(UserWarning, match=r"zeros in 88 % of its places; give --fit to generate"):
        compare(convolution(1000, 124, units=2), x)


def test_columns_without_zeros_may_pay_up_to_two_million_places() -> None:
    """1000 x 2000 places are taken, 1100 x 2200 are not, of the same kernel."""
    x = np.random.default_rng(1).normal(size=(2, 1, 1000)).astype(np.float32)
    with pytest.warns(
        UserWarning, match=r"node 'conv_c' \(Conv\): .* zeros in 100 % of its places"
    ):
        (layer,) = compare(convolution(1000, 3, units=4), x).layers
    assert np.count_nonzero(layer.matrices[0].weight) == 4 * 3 * 499
    refused(convolution(1100, 3, units=4), r"node .*: unrolled over the step, its 12 weights .*")


def test_two_convolutions_share_the_two_million_places() -> None:
    nodes = [
        *(("Conv", "x W", "a", {"strides": [2]}), ("Relu", "a", "b")),
        *(("Conv", "b V", "c", {"pads": [1, 1]}), ("Flatten", "c", "y")),
    ]
    known = [const("W", np.ones((2, 1, 3))), const("V", np.ones((1, 2, 3)))]
    message = r"node 'conv_c' \(Conv\): unrolled over the step, its 6 weights .*"
    refused(make(nodes, known, [1, 1, 1300]), message)  # 1300 x 1298 and 1298 x 649 places
    with pytest.warns(UserWarning, match="node 'conv_[ac]'"):
        from_onnx(make(nodes, known, [1, 1, 1100]))


def test_groups_may_be_as_large_as_the_rest_of_the_model() -> None:
    """Of 320 x 320 places 1 in 16 is used, behind a GRU of 240,000 weights; four times as many are
    better read without zeros."""
    rng, size = np.random.default_rng(0), 320
    w, r, b = weights(rng, 5, size, 3)
    nodes = [
        ("GRU", "x w r b", "g", {"hidden_size": size, "linear_before_reset": 1}),
        *(("Squeeze", "g one", "h"), ("Reshape", "h split", "s")),
        *(("MatMul", "s blocks", "m"), ("Reshape", "m join", "y")),
    ]
    known = [const("w", w), const("r", r), const("b", b), ints("one", 1)]
    known += [ints("split", 0, 16, 1, size // 16), ints("join", 0, 1, -1)]
    known += [const("blocks", rng.normal(0, 0.2, (16, size // 16, size // 16)))]
    compare(make(nodes, known, ["t", 1, 5]), rng.normal(size=(3, 1, 5)).astype(np.float32))
    known[-1] = const("blocks", rng.normal(0, 0.2, (16, size // 16, 4 * size // 16)))
    with pytest.warns(UserWarning, match=r"zeros in 94 % of its places; give --fit to generate"):
        compare(make(nodes, known, ["t", 1, 5]), rng.normal(size=(3, 1, 5)).astype(np.float32))


def test_parts_of_a_vector_cost_no_layer() -> None:
    """A gated linear unit, and halves that change places."""
    g, tensor = sequence()
    a, b = g.node("Split", tensor, outputs=2, axis=2)
    gated = g.node("Mul", a, g.node("Sigmoid", b))
    g.output(g.dense(g.node("Concat", gated, b, a, axis=2), 18, 5))
    model = compare(g.model(), np.random.default_rng(0).normal(size=(9, 1, 8)).astype(np.float32))
    assert [layer.cell for layer in model.layers] == ["gru", "mask", "linear"]
    assert {m.source: m.weight.shape[1:] for m in model.layers[2].matrices} == {
        0: (5, 12),
        1: (5, 6),
    }


def test_few_elements_of_many_are_put_into_a_layer() -> None:
    """Eight groups of a GRU, each read by many units: to read it all would take more weights."""
    g, tensor = sequence(units=64)
    parts = g.node("Split", tensor, g.const(np.array([8] * 8)), outputs=8, axis=2)
    read = g.node("Concat", *(g.node("Tanh", g.dense(p, 8, 200)) for p in parts), axis=2)
    g.output(g.dense(read, 1600, 3))
    model = compare(g.model(), np.random.default_rng(0).normal(size=(9, 1, 8)).astype(np.float32))
    assert (
        sum(m.weight.size for layer in model.layers[1:] for m in layer.matrices)
        == 8 * (8 * 64 + 200 * 8) + 4800
    )


def sequence(seed: int = 0, units: int = 12) -> tuple[GraphBuilder, str]:
    """A GRU over recordings of 8 features."""
    g = GraphBuilder(seed)
    return g, g.recurrent("GRU", g.input("x", "t", 1, 8), 8, units)[0]


def test_parts_of_the_input() -> None:
    """Two layers read different features of a step."""
    g = GraphBuilder(1)
    x = g.input("x", "t", 1, 8)
    a, b = g.node("Split", x, g.const(np.array([3, 5])), outputs=2, axis=2)
    h, _ = g.recurrent("GRU", a, 3, 6)
    one, last = g.const(np.array([2])), g.const(np.array([2**31]))
    rest = g.node("Slice", b, g.const(np.array([-2])), last, one)
    k, _ = g.recurrent("LSTM", rest, 2, 6)
    g.output(g.dense(g.node("Concat", h, k, axis=2), 12, 4))
    model = compare(g.model(), np.random.default_rng(0).normal(size=(9, 1, 8)).astype(np.float32))
    assert [layer.cell for layer in model.layers] == ["gru", "lstm", "linear"]


@st.composite
def moves(draw: st.DrawFn) -> GraphBuilder:
    """Parts of a tensor of several axes, moved, joined again, repeated, padded."""
    g, tensor = sequence(draw(st.integers(0, 99)))
    shape = draw(st.sampled_from([(12,), (3, 4), (4, 3), (2, 3, 2)]))
    tensor = g.node("Reshape", tensor, g.const(np.array([0, *shape])))
    for _ in range(draw(st.integers(1, 5))):
        rank = len(shape)
        axis = draw(st.integers(1, rank))
        size = shape[axis - 1]
        kind = draw(st.sampled_from(("split", "slice", "gather", "pad", "tile", "swap", "Tanh")))
        if kind == "split" and size > 1:
            at = draw(st.integers(1, size - 1))
            parts = g.node(
                "Split", tensor, g.const(np.array([at, size - at])), outputs=2, axis=axis
            )
            parts = [parts[1], g.node("Sigmoid", parts[0]) if draw(st.booleans()) else parts[0]]
            tensor = g.node("Concat", *parts, axis=axis)
            if 2 * at == size and rank > 1 and draw(st.booleans()):
                other = draw(st.sampled_from([a for a in range(1, rank + 1) if a != axis]))
                tensor = g.node("Concat", *parts, axis=other)
                sizes = {axis: size // 2, other: 2 * shape[other - 1]}
                shape = tuple(sizes.get(k + 1, n) for k, n in enumerate(shape))
        elif kind == "slice" and size > 1:
            begin = draw(st.integers(0, size - 2))
            bounds = [g.const(np.array([v])) for v in (begin, size, axis, 1)]
            tensor = g.node("Slice", tensor, *bounds)
            shape = tuple(n - begin if k == axis - 1 else n for k, n in enumerate(shape))
        elif kind == "gather":
            index = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
            tensor = g.node("Gather", tensor, g.const(np.array(index)), axis=axis)
            shape = tuple(len(index) if k == axis - 1 else n for k, n in enumerate(shape))
        elif kind == "pad":
            pads = np.zeros((2, rank + 1), np.int64)
            pads[:, axis] = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            tensor = g.node("Pad", tensor, g.const(pads.reshape(-1)))
            added = int(pads.sum())
            shape = tuple(n + added if k == axis - 1 else n for k, n in enumerate(shape))
        elif kind == "tile":
            repeats = [2 if k == axis and np.prod(shape) < 60 else 1 for k in range(rank + 1)]
            tensor = g.node("Tile", tensor, g.const(np.array(repeats)))
            shape = tuple(n * r for n, r in zip(shape, repeats[1:]))
        elif kind == "swap" and rank > 1:
            order = draw(st.permutations(range(1, rank + 1)))
            tensor = g.node("Transpose", tensor, perm=[0, *order])
            shape = tuple(shape[k - 1] for k in order)
        elif kind == "Tanh":
            tensor = g.node("Tanh", tensor)
    size = int(np.prod(shape))
    tensor = g.node("Reshape", tensor, g.const(np.array([0, 1, size])))
    g.output(g.dense(tensor, size, 5))
    return g


@settings(max_examples=60, derandomize=True, deadline=None)
@given(moves())
def test_features_that_are_moved(g: GraphBuilder) -> None:
    x = np.random.default_rng(0).normal(size=(5, 1, 8)).astype(np.float32)
    compare(g.model(), x)
