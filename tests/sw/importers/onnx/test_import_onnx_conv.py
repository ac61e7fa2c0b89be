"""Causal convolutions, batch normalisation and their padding against onnxruntime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.importers.onnx import from_onnx
from tests.support.oracles.onnx import TOLERANCE, const, ints, make, refused, runtime, weights

pytestmark = pytest.mark.filterwarnings("error")


def compare(proto, x):
    """x (steps, channels), to the graph as (1, channels, steps)."""
    expected = runtime(proto, x.T[None])[0]
    model = from_onnx(proto)
    np.testing.assert_allclose(model.run(x), expected[0].T, rtol=0, atol=TOLERANCE)
    return model


def convolution(rng, size, units, taps, how, *, dilation=1, group=1, tail=()):
    """Conv with the padding in itself, in a Pad before it, or on both sides and cut off."""
    reach = (taps - 1) * dilation
    w = rng.normal(size=(units, size // group, taps)) / np.sqrt(size)
    inits = [const("W", w), const("B", rng.normal(size=units)), ints("minus", -reach)]
    inits += [ints("z", 0), ints("two", 2), ints("pads", 0, 0, reach, 0, 0, 0)]
    attrs = {"kernel_shape": [taps], "dilations": [dilation], "group": group}
    nodes, source = [], "x"
    if how == "pad":
        nodes.append(("Pad", "x pads", "p"))
        source = "p"
    ends = {"own": [reach, 0], "pad": [0, 0], "cut": [reach, reach]}[how]
    out = "y" if how != "cut" and not tail else "c"
    nodes.append(("Conv", f"{source} W B", out, {**attrs, "pads": ends}))
    if how == "cut":
        nodes.append(("Slice", "c z minus two", "d" if tail else "y"))
        out = "d"
    for i, kind in enumerate(tail):
        last = i == len(tail) - 1
        nodes.append((kind, out, "y" if last else f"t{i}"))
        out = f"t{i}"
    return make(nodes, inits, [1, size, "t"])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 20),
    st.sampled_from(["own", "pad", "cut"]),
    st.sampled_from([(), ("Relu",), ("Sigmoid",), ("Relu", "Tanh")]),
    st.integers(0, 999),
)
def test_random_convolution_matches_onnxruntime(size, units, taps, how, tail, seed):
    rng = np.random.default_rng(seed)
    how = "own" if taps == 1 else how
    proto = convolution(rng, size, units, taps, how, tail=tail)
    model = compare(proto, rng.normal(size=(12, size)).astype(np.float32))
    cells = [layer.cell for layer in model.layers]
    if taps > 1:
        own, delays = (taps, 0) if taps <= 8 else (7, -(-taps // 7) - 1)
        main = f"conv{own}" + ("_relu" if tail[:1] == ("Relu",) else "")
        assert cells[: delays + 1] == ["delay"] * delays + [main]
    assert (model.inputs, model.outputs) == (size, units)


def test_groups_and_dilation_become_zeros():
    rng = np.random.default_rng(1)
    proto = convolution(rng, 6, 4, 3, "own", dilation=3, group=2)
    model = compare(proto, rng.normal(size=(15, 6)).astype(np.float32))
    weight = model.layers[0].matrices[0].weight  # (taps, units, inputs)
    assert weight.shape == (7, 4, 6)
    assert np.count_nonzero(weight) == 3 * 4 * 3  # taps, units, inputs of the group
    assert not np.any(weight[:, :2, 3:]) and not np.any(weight[1])


def test_front_end_then_recurrence():
    """Normalisation, convolution, batch normalisation, ReLU, GRU, gate: channels first."""
    rng = np.random.default_rng(2)
    inits = [const("W", rng.normal(size=(5, 3, 4)) / 3), const("B", rng.normal(size=5))]
    inits += [const(n, rng.uniform(0.5, 2, 5)) for n in ("gamma", "var")]
    inits += [const(n, rng.normal(size=5)) for n in ("beta", "mean")]
    inits += [const("std", rng.uniform(0.5, 2, (3, 1))), ints("one", 1), const("v", [[0.1, 2]])]
    inits += [const(n, v) for n, v in zip("KRC", weights(rng, 5, 4, 3))]
    inits.append(const("V", rng.normal(size=(4, 2))))
    nodes = [
        ("Div", "x std", "n"),
        ("Conv", "n W B", "c", {"pads": [3, 0]}),
        ("BatchNormalization", "c gamma beta mean var", "b", {"epsilon": 0.01}),
        ("Relu", "b", "r"),
        ("Transpose", "r", "q", {"perm": [2, 0, 1]}),
        ("GRU", "q K R C", "Y", {"hidden_size": 4}),
        ("Squeeze", "Y one", "s"),
        ("MatMul", "s V", "m"),
        ("Add", "m v", "a"),
        ("Sigmoid", "a", "g"),
        ("Transpose", "g", "y", {"perm": [1, 2, 0]}),
    ]
    model = compare(make(nodes, inits, [1, 3, "t"]), rng.normal(size=(20, 3)).astype(np.float32))
    cells = [layer.cell for layer in model.layers]
    assert cells == ["conv4_relu", "gru_reset", "gru_before", "sigmoid"]


@pytest.mark.parametrize("where", ["first", "after gemm", "after relu"])
def test_batch_normalization(where):
    rng = np.random.default_rng(3)
    inits = [const("w", rng.normal(size=(3, 3))), const("v", rng.normal(size=(3, 2)))]
    inits += [const("g", rng.normal(size=3)), const("var", rng.uniform(0.1, 2, 3))]
    inits += [const("b", rng.normal(size=3)), const("m", rng.normal(size=3))]
    nodes, top = [], "x"
    if where != "first":
        nodes.append(("MatMul", "x w", "h"))
        top = "h"
    if where == "after relu":
        nodes.append(("Relu", "h", "r"))
        top = "r"
    nodes += [("BatchNormalization", f"{top} g b m var", "n"), ("MatMul", "n v", "y")]
    proto = make(nodes, inits, ["t", 3])
    x = rng.normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_allclose(from_onnx(proto).run(x), runtime(proto, x)[0], atol=TOLERANCE)


CONV_REFUSALS = {
    "looks ahead": (
        [("Conv", "x W", "y", {"pads": [1, 1]})],
        r"node 'conv_y' \(Conv\): it has 3 taps in time with 1 zeros in front and 1 behind, which "
        r"is not causal; pad 2 in front and none behind",
    ),
    "looks one step ahead": (
        [("Conv", "x W", "y", {"pads": [2, 1]})],
        r"node 'conv_y' \(Conv\): it has 3 taps in time with 2 zeros in front and 1 behind, .*",
    ),
    "valid": (
        [("Conv", "x W", "y")],
        r"node 'conv_y' \(Conv\): it has 3 taps in time with 0 zeros in front and 0 behind, .*",
    ),
    "same": (
        [("Conv", "x W", "y", {"auto_pad": "SAME_UPPER"})],
        r"node 'conv_y' \(Conv\): auto_pad is SAME_UPPER, which is not causal; pad 2 in front",
    ),
    "stride": (
        [("Conv", "x W", "y", {"pads": [2, 0], "strides": [2]})],
        r"node 'conv_y' \(Conv\): its stride is 2; a stream has one output for each input, .*host",
    ),
    "two dimensions": (
        [("Conv", "x W4", "y", {"pads": [2, 0]})],
        r"node 'conv_y' \(Conv\): its W has shape \(2, 3, 1, 3\); only convolutions in time .*",
    ),
    "group": (
        [("Conv", "x W", "y", {"pads": [2, 0], "group": 3})],
        r"node 'conv_y' \(Conv\): group 3 does not divide 2 outputs; export the model again",
    ),
    "excess": (
        [("Conv", "x W", "c", {"pads": [2, 2]}), ("Relu", "c", "y")],
        r"node 'relu_y' \(Relu\): it reads a convolution that looks 2 steps ahead; pad in .*",
    ),
    "excess at the end": (
        [("Conv", "x W", "y", {"pads": [2, 2]})],
        r"graph output 'y' is longer than the input, as a convolution or its padding left it; .*",
    ),
    "wrong cut": (
        [("Conv", "x W", "c", {"pads": [2, 2]}), ("Slice", "c z m1 two", "y")],
        r"node 'slice_y' \(Slice\): it takes other steps than the first \(\?,\) of a convolution "
        r"with 2 too many; cut off the last 2",
    ),
    "cut in front": (
        [("Conv", "x W", "c", {"pads": [2, 2]}), ("Slice", "c two big two", "y")],
        r"node 'slice_y' \(Slice\): it takes other steps than the first .*",
    ),
    "pad of features": (
        [("Pad", "x features", "p"), ("Conv", "p W", "y", {"pads": [2, 0]})],
        r"node 'conv_y' \(Conv\): its input is padded along axis 1, not along the steps",
    ),
    "pad behind": (
        [("Pad", "x behind", "p"), ("Conv", "p W", "y")],
        r"node 'pad_p' \(Pad\): it pads by \[0, 0, 1, 0, 0, 1\]; only zeros in front .*",
    ),
    "pad with a value": (
        [("Pad", "x front half", "p"), ("Conv", "p W", "y")],
        r"node 'pad_p' \(Pad\): it pads with 0.5; only zeros are supported",
    ),
    "reflection": (
        [("Pad", "x front", "p", {"mode": "reflect"}), ("Conv", "p W", "y")],
        r"node 'pad_p' \(Pad\): its mode is reflect; only zeros are supported",
    ),
    "padded and multiplied": (
        [("Pad", "x front", "p"), ("Relu", "p", "y")],
        r"node 'relu_y' \(Relu\): it reads a padded sequence; only a causal convolution may .*",
    ),
    "shifted input": (
        [("Add", "x half", "s"), ("Conv", "s W", "y", {"pads": [2, 0]})],
        r"node 'conv_y': its input is shifted by 'add_s', and zeros are put in "
        r"front after that; shift the recording on the host",
    ),
    "bias": (
        [("Conv", "x W half", "y", {"pads": [2, 0]})],
        r"node 'conv_y' \(Conv\): its B has shape \(\), expected \(2,\); export it again",
    ),
    "training": (
        [("BatchNormalization", "x s s s s", "y", {"training_mode": 1})],
        r"node 'batchnormalization_y' \(BatchNormalization\): it computes statistics as in .*",
    ),
    "negative variance": (
        [("BatchNormalization", "x s s s n", "y")],
        r"node 'batchnormalization_y' \(BatchNormalization\): its statistics give NaN .*",
    ),
}


@pytest.mark.parametrize("name", CONV_REFUSALS)
def test_convolution_refused(name):
    nodes, message = CONV_REFUSALS[name]
    rng = np.random.default_rng(0)
    inits = [const("W", rng.normal(size=(2, 3, 3))), const("W4", np.ones((2, 3, 1, 3)))]
    inits += [ints("z", 0), ints("m1", -1), ints("two", 2), ints("big", 10**6)]
    inits += [ints("front", 0, 0, 2, 0, 0, 0), ints("behind", 0, 0, 1, 0, 0, 1)]
    inits += [ints("features", 0, 2, 0, 0, 0, 0), const("half", 0.5)]
    inits += [const("s", np.ones(3)), const("n", -np.ones(3))]
    refused(make(nodes, inits, [1, 3, "t"]), message)


def test_convolution_and_recurrence_along_one_axis():
    """The steps of the convolution are the steps of the GRU."""
    rng = np.random.default_rng(0)
    inits = [const("W", rng.normal(size=(3, 3, 2)))]
    inits += [const(n, v) for n, v in zip("KRC", weights(rng, 3, 4, 3))]
    nodes = [
        ("Conv", "x W", "c", {"pads": [1, 0]}),
        ("Transpose", "c", "q", {"perm": [0, 2, 1]}),
        ("GRU", "q K R C", "y", {"hidden_size": 4}),
    ]
    refused(
        make(nodes, inits, ["b", 3, "t"]),
        r"node 'gru_y' \(GRU\): it takes axis 0 of 'x' \('b'\) as steps, a layer before it as "
        r"batch; .*",
    )


def test_names_of_nodes():
    rng = np.random.default_rng(0)
    proto = convolution(rng, 3, 2, 2, "own")
    assert [layer.name for layer in from_onnx(proto).layers] == ["conv_y"]
