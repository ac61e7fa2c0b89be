"""Layers of Keras that are neither recurrent nor convolutions, as nodes of ONNX."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .convolution import CONVOLUTIONS
from .functions import FUNCTIONS, activate
from .recurrent import RECURRENT
from .writer import Layer, Tensor

__all__ = ["LAYERS", "NOTHING", "merged", "reshaped"]

NOTHING = frozenset(
    ("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
    + ("Identity", "SpatialDropout1D", "SpatialDropout2D")
)
"""Layers that do nothing once trained."""

_MERGES = {
    "Add": "Add",
    "Average": "Mean",
    "Divide": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Subtract": "Sub",
    "TrueDivide": "Div",
}


def _dense(layer: Layer, x: Tensor) -> Tensor:
    if layer.config.get("lora_rank"):
        layer.refuse("lora_rank is set; merge the adapter and save the model again")
    use_bias = bool(layer.config.get("use_bias", True))
    weight, *bias = layer.weights(1 + use_bias)
    if x.shape[-1] not in (None, len(weight)):
        layer.refuse(
            f"its weights take {len(weight)} inputs, but the layer before gives {x.shape[-1]}; "
            "save the model again"
        )
    out = layer.node("MatMul", x, weight, main=True)
    out = layer.node("Add", out, bias[0]) if bias else out
    result = Tensor(out, (*x.shape[:-1], weight.shape[1]))
    return activate(layer, result, layer.config.get("activation"))


def _embedding(layer: Layer, x: Tensor) -> Tensor:
    if layer.config.get("mask_zero"):
        _masked(layer, "mask_zero is set, which leaves out steps")
    (table,) = layer.weights(1)
    return Tensor(layer.node("Gather", table, x, main=True), (*x.shape, table.shape[1]))


def _masking(layer: Layer, x: Tensor) -> Tensor:
    _masked(layer, "it leaves out steps by their values")
    return x


def _masked(layer: Layer, what: str) -> None:
    if not layer.ignore_mask:
        layer.refuse(
            f"{what}; leave such steps out on the host, which does not send them, and give "
            "--ignore-mask (ignore_mask=True) to import the model without the mask"
        )
    text = f"layer '{layer.name}' ({layer.kind}): its mask is ignored, as asked"
    warnings.warn(text, stacklevel=2)


def _axis(layer: Layer, x: Tensor) -> None:
    """Refuses a normalisation along another axis than the features."""
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, len(x.shape)):
        layer.refuse(f"axis is {axis}; only the last one, the features, is supported")


def _affine(layer: Layer, x: Tensor, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    out = layer.node("Mul", x, scale, main=True)
    return Tensor(layer.node("Add", out, shift), x.shape)


def _batch_normalization(layer: Layer, x: Tensor) -> Tensor:
    use_scale = bool(layer.config.get("scale", True))
    center = bool(layer.config.get("center", True))
    _axis(layer, x)
    arrays = layer.weights(2 + use_scale + center)
    mean, variance = arrays[-2:]
    scale = 1 / np.sqrt(variance + float(layer.config.get("epsilon", 1e-3)))
    scale = scale * arrays[0] if use_scale else scale
    return _affine(layer, x, scale, -mean * scale + (arrays[use_scale] if center else 0.0))


def _layer_normalization(layer: Layer, x: Tensor) -> Tensor:
    use_scale = bool(layer.config.get("scale", True))
    center = bool(layer.config.get("center", True))
    _axis(layer, x)
    if layer.config.get("rms_scaling"):
        layer.refuse("rms_scaling is set; use RMSNormalization written out, or no scaling")
    arrays = layer.weights(use_scale + center)
    size = arrays[0].size if arrays else x.shape[-1] or 1
    scale = arrays[0] if use_scale else np.ones(size)
    shift = [arrays[-1]] if center else []
    epsilon = float(layer.config.get("epsilon", 1e-3))
    out = layer.node("LayerNormalization", x, scale, *shift, axis=-1, epsilon=epsilon, main=True)
    return Tensor(out, x.shape)


def _normalization(layer: Layer, x: Tensor) -> Tensor:
    """Mean and variance of the training data, as weights or in the configuration."""
    _axis(layer, x)
    if layer.config.get("mean") is not None:
        mean, variance = (np.asarray(layer.config[k], float) for k in ("mean", "variance"))
    else:
        arrays = layer.arrays or []
        mean, variance = replace(layer, arrays=arrays[:2]).weights(2)
    deviation = np.maximum(np.sqrt(variance), 1e-7)
    scale = deviation if layer.config.get("invert") else 1 / deviation
    shift = mean if layer.config.get("invert") else -mean / deviation
    return _affine(layer, x, scale, shift)


def _rescaling(layer: Layer, x: Tensor) -> Tensor:
    scale, offset = (
        np.asarray(layer.config.get(k, d), float) for k, d in (("scale", 1), ("offset", 0))
    )
    return _affine(layer, x, scale, offset)


# -- shapes ---------------------------------------------------------------------------------------


def reshaped(layer: Layer, x: Tensor, shape: Sequence[int]) -> Tensor:
    """To sizes of which one may be -1; the batch stays.

    A size that is the number of steps of the training follows the length of a recording.
    """
    known = math.prod(n for n in x.shape if n is not None)
    if x.shape.count(None) == 1 and -1 not in shape and layer.trained is not None:
        steps = layer.trained[x.shape.index(None)]
        if steps is not None and steps in shape and math.prod(shape) == known * steps:
            at = list(shape).index(steps)
            shape = [-1 if i == at else n for i, n in enumerate(shape)]
    fixed = math.prod(n for n in shape if n != -1)
    if None in x.shape:
        if -1 not in shape or known != fixed or x.shape.count(None) > 1:
            layer.length(x)  # refuses it
        sizes: tuple[int | None, ...] = tuple(None if n == -1 else n for n in shape)
    else:
        if shape.count(-1) > 1 or (known % max(fixed, 1) if -1 in shape else known != fixed):
            layer.refuse(f"it makes {list(shape)} of {list(x.shape)}; save the model again")
        sizes = tuple(known // max(fixed, 1) if n == -1 else n for n in shape)
    target = np.array([0, *(-1 if n is None else n for n in sizes)])
    return Tensor(layer.node("Reshape", x, target, main=True), sizes)


def _reshape(layer: Layer, x: Tensor) -> Tensor:
    return reshaped(layer, x, [int(n) for n in layer.config["target_shape"]])


def _flatten(layer: Layer, x: Tensor) -> Tensor:
    return reshaped(layer, x, [layer.length(x)])


def _permute(layer: Layer, x: Tensor) -> Tensor:
    dims = [int(n) for n in layer.config["dims"]]
    if sorted(dims) != list(range(1, len(x.shape) + 1)):
        layer.refuse(f"dims are {dims} of {len(x.shape)} axes; save the model again")
    shape = tuple(x.shape[n - 1] for n in dims)
    return Tensor(layer.node("Transpose", x, perm=[0, *dims], main=True), shape)


def _time_distributed(layer: Layer, x: Tensor) -> Tensor:
    inner = layer.config["layer"]
    kind, config = str(inner["class_name"]), inner.get("config") or {}
    handler = _inside.get(kind) or LAYERS.get(kind)
    if kind in NOTHING:
        return x
    if handler is None or kind in ("Embedding", "Masking", "TimeDistributed"):
        layer.refuse(
            f"it holds a {kind}; only Dense, convolutions, recurrent layers and activations are "
            "supported inside, as every layer of a stream runs at every step"
        )
    whole = replace(layer, kind=f"{layer.kind} of {kind}", config=config)
    if kind in FUNCTIONS or kind in ("Dense", "Rescaling"):
        return handler(whole, x)
    if len(x.shape) < 2:
        layer.refuse("it takes a sequence, and reads one step; save the model again")
    steps = layer.node("Squeeze", x, np.array([0]))  # each step is a batch's element of its own
    whole = replace(whole, count=layer.count)
    out = handler(whole, Tensor(steps, x.shape[1:]))
    return Tensor(whole.node("Unsqueeze", out, np.array([0])), (x.shape[0], *out.shape))


def _each_alone(layer: Layer, x: Tensor) -> Tensor:
    """A recurrent layer over an axis inside a step: it starts anew in every step."""
    return RECURRENT[layer.kind.rpartition(" ")[2]](layer, x, [])[0]


_inside = dict.fromkeys(RECURRENT, _each_alone)

# -- several tensors ------------------------------------------------------------------------------


def merged(layer: Layer, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Tensor:
    """A layer of several tensors, or one of a tensor and a number.

    Parameters
    ----------
    layer : Layer
    tensors : sequence of Tensor
    numbers : sequence
        What it is called on, in order: None for a tensor, else a number.
    """
    if layer.kind == "Concatenate":
        return _concatenated(layer, tensors)
    ranks = {len(t.shape) for t in tensors}
    if len(ranks) > 1:
        layer.refuse("it joins a sequence with a vector; set return_sequences=True before it")
    rest = iter(tensors)
    operands: list[Any] = [next(rest) if n is None else np.float32(n) for n in numbers]
    if len(operands) < 2:
        layer.refuse("it reads one tensor, where two are expected; save the model again")
    shape = tensors[0].shape
    for t in tensors[1:]:
        shape = tuple(b if a == 1 else a for a, b in zip(shape, t.shape))
    op = _MERGES[layer.kind]
    if op in ("Mean", "Max", "Min"):
        return Tensor(layer.node(op, *operands, main=True), shape)
    out = operands[0]
    for k, operand in enumerate(operands[1:]):
        out = layer.node(op, out, operand, main=k == 0)
    return Tensor(out, shape)


def _concatenated(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    axis = int(layer.config.get("axis", -1))
    rank = len(tensors[0].shape) + 1
    axis += rank if axis < 0 else 0
    if any(len(t.shape) + 1 != rank for t in tensors) or not 1 <= axis < rank:
        layer.refuse(
            f"it joins tensors of {', '.join(str(len(t.shape)) for t in tensors)} axes; set "
            "return_sequences=True in the recurrent layers before it"
        )
    sizes = [t.shape[axis - 1] for t in tensors]
    total = None if None in sizes else sum(n for n in sizes if n is not None)
    shape = (*tensors[0].shape[: axis - 1], total, *tensors[0].shape[axis:])
    return Tensor(layer.node("Concat", *tensors, axis=axis, main=True), shape)


MERGES = frozenset((*_MERGES, "Concatenate"))

LAYERS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    **FUNCTIONS,
    **CONVOLUTIONS,
    "BatchNormalization": _batch_normalization,
    "Dense": _dense,
    "Embedding": _embedding,
    "Flatten": _flatten,
    "LayerNormalization": _layer_normalization,
    "Masking": _masking,
    "Normalization": _normalization,
    "Permute": _permute,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "TimeDistributed": _time_distributed,
}
