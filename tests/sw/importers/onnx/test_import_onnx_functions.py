"""Activations, masks, products and plain recurrences of ONNX graphs against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from stillnet.sw.importers.onnx import from_onnx
from stillnet.sw.model.model import Model
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.support.oracles.onnx import const, inputs_of, ints, make, node, refused, runtime, weights

pytestmark = pytest.mark.filterwarnings("error")

STEPS, INPUTS, UNITS = 30, 5, 7


def inits(rng: np.random.Generator) -> list[Any]:
    w, r, b = weights(rng, INPUTS, UNITS, 3)
    return [
        *(const("w", w), const("r", r), const("b", b), ints("one", 1)),
        const("fc", rng.normal(0, 0.8, (UNITS, INPUTS))),
        const("fcb", rng.normal(0, 0.5, INPUTS)),
        const("fd", rng.normal(0, 0.5, (INPUTS, 4))),
        const("slope", np.linspace(-0.5, 0.8, INPUTS)),
        *(const(n, v) for n, v in SCALARS.items()),
    ]


SCALARS = {
    **{"zero": 0.0, "half": 0.5, "two": 2.0, "three": 3.0, "six": 6.0, "floor": 1e-4},
    **{"root2": np.sqrt(2), "unit": 1.0, "pi": np.sqrt(2 / np.pi), "cubic": 0.044715},
    **{"low": -0.3, "high": 0.4, "quick": 1.702},
}

GRU = [
    ("GRU", "x w r b", "g", {"hidden_size": UNITS, "linear_before_reset": 1}),
    ("Squeeze", "g one", "h"),
    ("MatMul", "h fc", "m"),
    ("Add", "m fcb", "t"),
]
"""A GRU and a dense layer, whose result is ``t``."""


def compare(proto: ModelProto, quantized: bool = True) -> Model:
    """onnxruntime's answer, and the integers of every step within their bounds."""
    rng = np.random.default_rng(0)
    x = np.clip(np.cumsum(rng.normal(0, 0.4, (STEPS, 1, INPUTS)), axis=0), -3, 3)
    x = x.astype(np.float32)
    expected = runtime(proto, x)
    model = from_onnx(proto)
    flat = np.concatenate([e.reshape(STEPS, -1) for e in expected], axis=1)
    np.testing.assert_allclose(model.run(x[:, 0]), flat, rtol=0, atol=3e-5)
    if quantized:
        check(model, quantize(model, x[:, 0]), x[:, 0])
    return model


def graph(nodes: list[Any], opset: int = 17, **more: Any) -> ModelProto:
    return make(
        [*GRU, *nodes], inits(np.random.default_rng(1)), ["t", 1, INPUTS], opset=opset, **more
    )


FUNCTIONS: dict[str, tuple[list[Any], str]] = {
    "abs": ([("Abs", "t", "y")], "leaky_relu"),
    "celu": ([("Celu", "t", "y", {"alpha": 0.7})], "elu"),
    "elu": ([("Elu", "t", "y", {"alpha": 0.5})], "elu"),
    "erf": ([("Erf", "t", "y")], "erf"),
    "exp": ([("Exp", "t", "y")], "exp"),
    "hard sigmoid": ([("HardSigmoid", "t", "y")], "clip"),
    "hard sigmoid with alpha": ([("HardSigmoid", "t", "y", {"alpha": 0.4, "beta": 0.3})], "clip"),
    "hard swish": ([("HardSwish", "t", "y")], "hard_swish"),
    "leaky relu": ([("LeakyRelu", "t", "y", {"alpha": 0.1})], "leaky_relu"),
    "prelu": ([("PRelu", "t slope", "y")], "leaky_relu"),
    "selu": ([("Selu", "t", "y")], "elu"),
    "softplus": ([("Softplus", "t", "y")], "softplus"),
    "softsign": ([("Softsign", "t", "y")], "softsign"),
    "square root": ([("Exp", "t", "a"), ("Sqrt", "a", "y")], "sqrt"),
    "power of a half": ([("Softplus", "t", "a"), ("Pow", "a half", "y")], "sqrt"),
    "silu": ([("Sigmoid", "t", "s"), ("Mul", "t s", "y")], "silu"),
    "silu, the other way": ([("Sigmoid", "t", "s"), ("Mul", "s t", "y")], "silu"),
    "hard swish, written out": (
        [("Add", "t three", "a"), ("Clip", "a zero six", "c"), ("Mul", "t c", "p")]
        + [("Div", "p six", "y")],
        "hard_swish",
    ),
    "hard swish of a hard sigmoid": (
        [("HardSigmoid", "t", "s", {"alpha": 1 / 6}), ("Mul", "t s", "y")],
        "hard_swish",
    ),
    "gelu by erf": (
        [("Div", "t root2", "a"), ("Erf", "a", "e"), ("Add", "e unit", "f")]
        + [("Mul", "t f", "p"), ("Mul", "p half", "y")],
        "gelu",
    ),
    "gelu by erf, halved first": (
        [("Div", "t root2", "a"), ("Erf", "a", "e"), ("Add", "e unit", "f")]
        + [("Mul", "t half", "p"), ("Mul", "p f", "y")],
        "gelu",
    ),
    "gelu by tanh": (
        [("Pow", "t three", "c"), ("Mul", "c cubic", "d"), ("Add", "t d", "e")]
        + [("Mul", "e pi", "f"), ("Tanh", "f", "g_"), ("Add", "g_ unit", "i")]
        + [("Mul", "t half", "p"), ("Mul", "p i", "y")],
        "gelu_tanh",
    ),
    "clip": ([("Clip", "t low high", "y")], "clip"),
    "floor": ([("Clip", "t low", "y")], "clip"),
    "ceiling": ([("Clip", ["t", "", "high"], "y")], "clip"),
    "maximum": ([("Max", "t low", "y")], "clip"),
    "minimum": ([("Min", "high t", "y")], "clip"),
    "floor under gains": ([("Sigmoid", "t", "s"), ("Clip", "s floor", "y")], "clip"),
    "negative": ([("Sigmoid", "t", "s"), ("Neg", "s", "y")], "linear"),
    "scale of the output": (
        [("Sigmoid", "t", "s"), ("Mul", "s three", "a"), ("Sub", "a unit", "y")],
        "linear",
    ),
    "mask": ([("Sigmoid", "t", "s"), ("Mul", "x s", "y")], "mask"),
    "quick gelu": ([("Mul", "t quick", "a"), ("Sigmoid", "a", "s"), ("Mul", "t s", "y")], "mask"),
    "product": ([("Tanh", "t", "s"), ("Mul", "x s", "y")], "product"),
    "square": ([("Mul", "t t", "y")], "product"),
    "power of two": ([("Pow", "t two", "y")], "product"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_function_matches_onnxruntime(case: str) -> None:
    nodes, cell = FUNCTIONS[case]
    model = compare(graph(nodes), quantized=cell != "product")  # bounds: the tests of the cells
    assert model.layers[-1].cell == cell
    assert len(model.layers) == (3 if case in BETWEEN else 2)


BETWEEN = ("floor under gains", "negative", "scale of the output", "power of a half", "product")
BETWEEN += ("square root",)
"""With a layer between the GRU and the last one."""


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_of_opset_20(form: str) -> None:
    proto = graph([("Gelu", "t", "y", {"approximate": form})], opset=20)
    assert compare(proto).layers[-1].cell == ("gelu" if form == "none" else "gelu_tanh")


def test_clip_of_opset_7() -> None:
    attrs = {"min": 0.0, "max": 6.0}
    old = [*GRU[:1], ("Squeeze", "g", "h", {"axes": [1]}), *GRU[2:]]
    nodes = [*old, ("Clip", "t", "c", attrs), ("MatMul", "c fd", "y")]
    proto = make(nodes, inits(np.random.default_rng(1)), ["t", 1, INPUTS], opset=7)
    assert [layer.cell for layer in compare(proto).layers] == ["gru", "clip", "linear"]


def test_an_activation_that_others_read_stays() -> None:
    """silu and the sigmoid itself; nothing is left of what was recognized."""
    proto = graph(
        [("Sigmoid", "t", "s"), ("Mul", "t s", "a"), ("Add", "a s", "y")],
    )
    model = compare(proto)
    assert sorted(layer.cell for layer in model.layers) == ["gru", "linear", "sigmoid", "silu"]


def test_outputs_of_one_kind_are_one_layer() -> None:
    nodes = [("Sigmoid", "t", "y"), ("MatMul", "h fc", "v"), ("Sigmoid", "v", "z")]
    with pytest.warns(UserWarning, match="outputs are joined"):
        model = compare(graph(nodes, outputs=["y", "z"]))
    assert [layer.cell for layer in model.layers] == ["gru", "sigmoid"]
    apart = [("Sigmoid", "t", "y"), ("MatMul", "x fd", "v"), ("Sigmoid", "v", "z")]
    with pytest.warns(UserWarning, match="outputs are joined"):
        model = compare(graph(apart, outputs=["y", "z"]))
    assert [layer.cell for layer in model.layers] == ["gru", "sigmoid"]
    other = [("Sigmoid", "t", "y"), ("MatMul", "h fc", "z")]
    with pytest.warns(UserWarning, match="outputs are joined"):
        model = compare(graph(other, outputs=["y", "z"]))
    assert [layer.cell for layer in model.layers] == ["gru", "sigmoid", "linear", "linear"]


@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
def test_plain_recurrence_matches_onnxruntime(activation: str) -> None:
    rng = np.random.default_rng(3)
    w, r, b = weights(rng, INPUTS, UNITS, 1)
    shrunk = [const("w1", w), const("r1", r * 0.6), const("b1", b)]
    nodes = [
        ("RNN", "x w1 r1 b1", "g", {"hidden_size": UNITS, "activations": [activation]}),
        *GRU[1:3],
        ("Relu", "m", "y"),
    ]
    proto = make(nodes, [*inits(rng), *shrunk], ["t", 1, INPUTS])
    assert [layer.cell for layer in compare(proto).layers] == [activation.lower(), "relu"]


def test_plain_recurrence_takes_and_returns_its_state() -> None:
    rng = np.random.default_rng(4)
    w, r, b = weights(rng, INPUTS, UNITS, 1)
    nodes = [node("RNN", ["x", "w1", "r1", "b1", "", "h0"], "g last", {"hidden_size": UNITS})]
    proto = make(
        nodes,
        [const("w1", w), const("r1", r), const("b1", b)],
        [1, 1, INPUTS],
        outputs=["g", "last"],
        extra_inputs=inputs_of(h0=[1, 1, UNITS]),
    )
    model = from_onnx(proto)
    x = rng.normal(size=(12, INPUTS)).astype(np.float32)
    h, expected = np.zeros((1, 1, UNITS), np.float32), []
    for row in x:
        y, h = runtime(proto, row[None, None], h0=h)
        expected.append(y.ravel())
    np.testing.assert_allclose(model.run(x), expected, atol=2e-5)


REFUSED = {
    "power": (
        [("Pow", "t slope", "y")],
        r"node 'pow_y' \(Pow\): only the constant powers 0.5, 1, 2 and 3 are supported .*host",
    ),
    "slope": (
        [("PRelu", "slope t", "y")],
        r"node 'prelu_y' \(PRelu\): its slope is computed from the data; make it a constant",
    ),
    "limit": (
        [("Clip", "low t", "y")],
        r"node 'clip_y' \(Clip\): its limits are computed from the data; make them constants",
    ),
    "other steps": (
        [("Transpose", "x", "q", {"perm": [2, 1, 0]}), ("Mul", "t q", "y")],
        r"node 'mul_y' \(Mul\): .*",
    ),
    "alpha": (
        [("Celu", "t", "y", {"alpha": -1.0})],
        r"node 'celu_y' \(Celu\): its alpha is -1; it must be positive",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_function_refused(case: str) -> None:
    nodes, message = REFUSED[case]
    refused(graph(nodes), message)


def test_initial_state_of_a_plain_recurrence_refused() -> None:
    w, r, b = weights(np.random.default_rng(4), INPUTS, UNITS, 1)
    nodes = [node("RNN", ["x", "w1", "r1", "b1", "", "h0"], "y", {"hidden_size": UNITS})]
    known = [const("w1", w), const("r1", r), const("b1", b), const("h0", np.ones((1, 1, UNITS)))]
    message = r"node 'rnn_y' \(RNN\): its initial_h is not zero; .* make it a graph input"
    refused(make(nodes, known, ["t", 1, INPUTS]), message)
