"""Activations of an ONNX graph beyond Relu, Sigmoid and Tanh."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .dense import activate, affine, multiply, per_feature
from .tensors import Flow, Value, refuse
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx

_SETTINGS: dict[str, tuple[str, dict[str, tuple[str, float]]]] = {
    "Abs": ("abs", {}),
    "Celu": ("celu", {"alpha": ("alpha", 1.0)}),
    "Elu": ("elu", {"alpha": ("alpha", 1.0)}),
    "Erf": ("erf", {}),
    "Exp": ("exp", {}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": ("alpha", 0.2), "beta": ("beta", 0.5)}),
    "HardSwish": ("hard_swish", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": ("slope", 0.01)}),
    "Selu": (
        "selu",
        {"alpha": ("alpha", 1.67326319217681884765625), "gamma": ("gamma", 1.05070102214813232421)},
    ),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "Sqrt": ("sqrt", {}),
}
"""Activation of each operator, and by attribute its setting and what it is if not given."""


@handles(*_SETTINGS)
def function(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    kind, known = _SETTINGS[node.op_type]
    settings = {key: float(attrs.get(a, default)) for a, (key, default) in known.items()}
    if kind == "abs" and flow.low >= 0:
        walk.write(node, flow)
        return
    if kind == "celu" and settings["alpha"] <= 0:
        refuse(node, f"its alpha is {settings['alpha']:g}; it must be positive")
    walk.write(node, activate(walk, node, flow, kind, **settings))


@handles("Gelu")
def gelu(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    form = walk.attributes(node).get("approximate", b"none").decode()
    kind = {"none": "gelu", "tanh": "gelu_tanh"}.get(form)
    if kind is None:
        refuse(node, f"approximate is '{form}'; it must be none or tanh")
    walk.write(node, activate(walk, node, walk.flow(node, values), kind))


@handles("Swish")
def swish(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """x * sigmoid(alpha x): SiLU of alpha x, over alpha."""
    flow = walk.flow(node, values)
    alpha = np.array(float(walk.attributes(node).get("alpha", 1.0)))
    if alpha == 0:
        walk.write(node, affine(walk, node, flow, np.array(0.5), np.zeros(())))
        return
    inner = affine(walk, node, flow, alpha, np.zeros(()))
    out = activate(walk, node, inner, "silu")
    walk.write(node, affine(walk, node, out, 1 / alpha, np.zeros(())))


@handles("PRelu")
def prelu(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    flow = walk.flow(node, values)
    if values[0] is not flow:
        refuse(node, "its slope is computed from the data; make it a constant")
    slope, _ = per_feature(walk, node, flow, walk.const(node, values[1], "slope"), "slope")
    walk.write(node, activate(walk, node, flow, "prelu", slope=slope))


@handles("Pow")
def power(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Squares, cubes and square roots."""
    flow = walk.flow(node, values)
    exponent = walk.const(node, values[1], "exponent") if values[0] is flow else np.zeros(2)
    value = float(exponent.reshape(-1)[0])
    if exponent.size != 1 or value not in (0.5, 1.0, 2.0, 3.0):
        refuse(
            node,
            "only the constant powers 0.5, 1, 2 and 3 are supported on the chip; end or start the "
            "exported graph next to it and compute it on the host",
        )
    if value == 0.5:
        walk.write(node, activate(walk, node, flow, "sqrt"))
        return
    result = flow
    for _ in range(round(value) - 1):
        result = multiply(walk, node, result, flow)
    walk.write(node, result)


@handles("Neg")
def negative(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    walk.write(node, affine(walk, node, walk.flow(node, values), -np.ones(()), np.zeros(())))


@handles("Clip", "Max", "Min")
def clip(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """A clip that cannot clip is dropped; one at 0 alone is a ReLU."""
    flow = walk.flow(node, values)
    low, high = _limits(walk, node, flow, values)
    if np.all(low <= flow.low) and np.all(high >= flow.high):
        walk.write(node, flow)
    elif np.all(low == 0) and np.all(high >= flow.high):
        walk.write(node, activate(walk, node, flow, "relu"))
    else:
        walk.write(node, activate(walk, node, flow, "clip", low=low, high=high))


def _limits(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: list[Value | None]
) -> tuple[Any, Any]:
    """Bounds, one number or one for each feature; infinite where there is none."""
    low: Any = np.array(-math.inf)
    high: Any = np.array(math.inf)
    if node.op_type == "Clip":
        if values[0] is not flow:
            refuse(node, "its limits are computed from the data; make them constants")
        attrs = walk.attributes(node)
        low, high = (
            np.array(float(attrs.get(a, d))) for a, d in (("min", -math.inf), ("max", math.inf))
        )
        for i, v in enumerate(values[1:3]):
            if v is not None:
                limit = walk.const(node, v, ("min", "max")[i]).reshape(())
                low, high = (low, limit) if i else (limit, high)
    else:
        for v in values:
            if v is None or v is flow:
                continue
            limit, _ = per_feature(walk, node, flow, walk.const(node, v, "limit"), "limit")
            if node.op_type == "Max":
                low = np.maximum(low, limit)
            else:
                high = np.minimum(high, limit)
    biggest = float(np.finfo(np.float32).max)  # written for "no limit"
    low, high = np.where(low <= -biggest, -np.inf, low), np.where(high >= biggest, np.inf, high)
    if np.any(np.isnan(low)) or np.any(np.isnan(high)):
        refuse(node, "a limit of it is NaN; export the model again")
    return np.minimum(low, high), high
