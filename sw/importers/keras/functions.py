"""Activations of Keras, as nodes of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .writer import Layer, Tensor

__all__ = ["GATES", "activate", "activation_name", "hard_sigmoid", "leaky", "relu_layer", "softmax"]

_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "celu": ("Celu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "exponential": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "mish": ("Mish", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_swish": ("HardSwish", {}),
    "hard_silu": ("HardSwish", {}),
}
_OTHERS = ("linear", "silu", "swish", "relu6", "hard_sigmoid")

GATES = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "linear": "Affine",
}
"""Functions inside recurrent layers."""


def activation_name(value: Any) -> str:
    """The name of an activation, however the file writes it."""
    if isinstance(value, Mapping):
        value = (value.get("config") or {}).get("name", value.get("class_name"))
    return str(value or "linear")


def hard_sigmoid(version: int) -> tuple[float, float]:
    """Slope and offset, which are others since Keras 3."""
    return (0.2, 0.5) if version < 3 else (1 / 6, 0.5)


def activate(layer: Layer, x: Tensor, value: Any) -> Tensor:
    """An activation, given as the file has it."""
    found = activation_name(value)
    if found == "linear":
        return x
    if found in ("silu", "swish"):
        out = layer.node("Mul", x, layer.node("Sigmoid", x))
    elif found == "relu6":
        out = layer.node("Clip", x, np.float32(0), np.float32(6))
    elif found == "hard_sigmoid":
        alpha, beta = hard_sigmoid(layer.version)
        out = layer.node("HardSigmoid", x, alpha=alpha, beta=beta)
    elif found in _PLAIN:
        op, attributes = _PLAIN[found]
        out = layer.node(op, x, **attributes)
    else:
        layer.refuse(
            f"its activation is {found}, which is not known here; take one of "
            f"{', '.join(sorted((*_PLAIN, *_OTHERS)))}, or end the model before it"
        )
    return Tensor(out, x.shape)


def _given(layer: Layer, *keys: str, default: float) -> float:
    """The first setting that the file has; Keras 3 renamed some."""
    value = next((layer.config[k] for k in keys if layer.config.get(k) is not None), default)
    return float(np.asarray(value).reshape(()))


def relu_layer(layer: Layer, x: Tensor) -> Tensor:
    """With a slope below zero and an upper limit, each where it is given."""
    if _given(layer, "threshold", default=0.0):
        layer.refuse("threshold is not 0; write it as a shift, a ReLU and a shift")
    slope, limit = _given(layer, "negative_slope", default=0.0), layer.config.get("max_value")
    if slope:
        out = layer.node("LeakyRelu", x, alpha=slope, main=True)
        if limit is not None:
            out = layer.node("Min", out, np.float32(limit))
    elif limit is not None:
        out = layer.node("Clip", x, np.float32(0), np.float32(limit), main=True)
    else:
        out = layer.node("Relu", x, main=True)
    return Tensor(out, x.shape)


def leaky(layer: Layer, x: Tensor) -> Tensor:
    slope = _given(layer, "negative_slope", "alpha", default=0.3)
    return Tensor(layer.node("LeakyRelu", x, alpha=slope, main=True), x.shape)


def _elu(layer: Layer, x: Tensor) -> Tensor:
    alpha = _given(layer, "alpha", default=1.0)
    return Tensor(layer.node("Elu", x, alpha=alpha, main=True), x.shape)


def _prelu(layer: Layer, x: Tensor) -> Tensor:
    (slope,) = layer.weights(1)
    return Tensor(layer.node("PRelu", x, slope[None], main=True), x.shape)


def softmax(layer: Layer, x: Tensor) -> Tensor:
    axis = layer.config.get("axis", -1)
    return Tensor(layer.node("Softmax", x, axis=int(axis), main=True), x.shape)


def _activation(layer: Layer, x: Tensor) -> Tensor:
    return activate(layer, x, layer.config["activation"])


_OPERATIONS = {
    "Absolute": "Abs",
    **{name: name for name in ("Cos", "Exp", "Log", "Reciprocal", "Relu", "Sigmoid", "Sin")},
    **{name: name for name in ("Softplus", "Sqrt", "Tanh")},
    "Negative": "Neg",
    "Square": "Mul",
}
"""Functions of ``keras.ops``, which Keras 3 writes as layers."""


def _operation(layer: Layer, x: Tensor) -> Tensor:
    operands = [x, x] if layer.kind == "Square" else [x]
    return Tensor(layer.node(_OPERATIONS[layer.kind], *operands, main=True), x.shape)


FUNCTIONS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "Activation": _activation,
    "ELU": _elu,
    "LeakyReLU": leaky,
    "PReLU": _prelu,
    "ReLU": relu_layer,
    "Softmax": softmax,
    **dict.fromkeys(_OPERATIONS, _operation),
}
"""Layers that are one function of each element, and Softmax."""
