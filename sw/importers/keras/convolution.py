"""Convolutions, pooling and padding of Keras, as nodes of ONNX.

Keras has the channels last, ONNX has them second; every node stands between two transpositions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .functions import activate
from .writer import Layer, Tensor

__all__ = ["CONVOLUTIONS"]

Shape = tuple[int | None, ...]


def _first(layer: Layer, x: Tensor) -> str:
    """The tensor with its channels second."""
    rank = len(x.shape) + 1
    return str(layer.node("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]))


def _last(layer: Layer, name: str, shape: Shape) -> Tensor:
    """The tensor with its channels last."""
    rank = len(shape) + 1
    return Tensor(layer.node("Transpose", name, perm=[0, *range(2, rank), 1]), shape)


def _windows(
    layer: Layer, x: Tensor, sizes: Sequence[int], strides: Sequence[int], padding: str
) -> tuple[dict[str, Any], Shape]:
    """The attributes of padding, and the sizes of the result, channels left out."""
    if padding not in ("valid", "same", "causal"):
        layer.refuse(f"padding is {padding}; use valid, same or causal")
    if min(*sizes, *strides) < 1:
        layer.refuse(f"its windows are {list(sizes)}, its strides {list(strides)}; save it again")
    space = x.shape[:-1]
    lengths: list[int | None] = []
    before, after = [], []
    automatic = False
    for n, size, stride in zip(space, sizes, strides):
        total = 0
        if padding == "causal":
            total = size - 1
        elif padding == "same" and n is not None:
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
        elif padding == "same":
            total, automatic = size - 1, automatic or stride > 1
        before.append(total if padding == "causal" else total // 2)
        after.append(total - before[-1])
        lengths.append(None if n is None else (n + total - size) // stride + 1)
        if n is not None and n + total < size:
            layer.refuse(f"its window of {size} is longer than its input of {n}")
    if automatic:
        return {"auto_pad": "SAME_UPPER"}, tuple(lengths)
    return {"pads": [*before, *after]}, tuple(lengths)


def _convolve(
    layer: Layer, x: Tensor, kernel: np.ndarray, bias: np.ndarray | None, groups: int
) -> Tensor:
    """``kernel`` is (sizes, inputs of a group, outputs)."""
    axes = kernel.ndim - 2
    layer.rank(x, axes + 1)
    layer.channels_last()
    strides, dilations = layer.numbers("strides", axes), layer.numbers("dilation_rate", axes)
    if x.shape[-1] not in (None, kernel.shape[-2] * groups):
        layer.refuse(
            f"its weights take {kernel.shape[-2] * groups} channels, but the layer before gives "
            f"{x.shape[-1]}; save the model again"
        )
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilations)]
    padding, lengths = _windows(layer, x, sizes, strides, str(layer.config.get("padding", "valid")))
    weight = kernel.transpose(axes + 1, axes, *range(axes))
    out = layer.node(
        "Conv",
        _first(layer, x),
        weight,
        *([] if bias is None else [bias]),
        main=True,
        kernel_shape=list(kernel.shape[:-2]),
        strides=strides,
        dilations=dilations,
        group=groups,
        **padding,
    )
    return _last(layer, out, (*lengths, kernel.shape[-1]))


def _conv(layer: Layer, x: Tensor) -> Tensor:
    layer.channels_last()
    use_bias = bool(layer.config.get("use_bias", True))
    kernel, *bias = layer.weights(1 + use_bias)
    if kernel.ndim != 2 + int(layer.kind[-2]):
        layer.refuse(f"its kernel has shape {kernel.shape}; save the model again")
    groups = layer.number("groups")
    out = _convolve(layer, x, kernel, bias[0] if bias else None, groups)
    return activate(layer, out, layer.config.get("activation"))


def _transposed(layer: Layer, x: Tensor) -> Tensor:
    """The kernel is (sizes, outputs, inputs)."""
    use_bias = bool(layer.config.get("use_bias", True))
    kernel, *bias = layer.weights(1 + use_bias)
    axes = kernel.ndim - 2
    layer.rank(x, axes + 1)
    layer.channels_last()
    padding = str(layer.config.get("padding", "valid"))
    if padding not in ("valid", "same") or layer.config.get("output_padding") is not None:
        layer.refuse(f"padding is {padding}, or output_padding is set; use valid or same alone")
    if x.shape[-1] not in (None, kernel.shape[-1]):
        layer.refuse(
            f"its weights take {kernel.shape[-1]} channels, but the layer before gives "
            f"{x.shape[-1]}; save the model again"
        )
    strides, dilations = layer.numbers("strides", axes), layer.numbers("dilation_rate", axes)
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilations)]
    if min(*sizes, *strides) < 1:
        layer.refuse(f"its windows are {sizes}, its strides {strides}; save the model again")
    # Of each position come as many as the stride; "valid" keeps what the kernel reaches besides.
    over = [max(k - s, 0) for k, s in zip(sizes, strides)]
    cut = over if padding == "same" else [0] * axes
    out = layer.node(
        "ConvTranspose",
        _first(layer, x),
        kernel.transpose(axes + 1, axes, *range(axes)),
        *bias,
        main=True,
        kernel_shape=list(kernel.shape[:-2]),
        strides=strides,
        dilations=dilations,
        pads=[*(n // 2 for n in cut), *(n - n // 2 for n in cut)],
        output_padding=[max(s - k, 0) for k, s in zip(sizes, strides)],
    )
    lengths = [
        None if n is None else n * s + more - less
        for n, s, more, less in zip(x.shape, strides, over, cut)
    ]
    result = _last(layer, out, (*lengths, kernel.shape[-2]))
    return activate(layer, result, layer.config.get("activation"))


def _depthwise(layer: Layer, x: Tensor) -> Tensor:
    use_bias = bool(layer.config.get("use_bias", True))
    kernel, *bias = layer.weights(1 + use_bias)
    out = _by_channel(layer, x, kernel, bias[0] if bias else None)
    return activate(layer, out, layer.config.get("activation"))


def _by_channel(layer: Layer, x: Tensor, kernel: np.ndarray, bias: np.ndarray | None) -> Tensor:
    """``kernel`` is (sizes, channels, outputs of a channel)."""
    *sizes, channels, more = kernel.shape
    return _convolve(layer, x, kernel.reshape(*sizes, 1, channels * more), bias, channels)


def _separable(layer: Layer, x: Tensor) -> Tensor:
    use_bias = bool(layer.config.get("use_bias", True))
    depth, point, *bias = layer.weights(2 + use_bias)
    inner = _by_channel(layer, x, depth, None)
    (*_, size, units) = point.shape
    out = layer.node("MatMul", inner, point.reshape(size, units))
    out = layer.node("Add", out, bias[0]) if bias else out
    result = Tensor(out, (*inner.shape[:-1], units))
    return activate(layer, result, layer.config.get("activation"))


def _pool(layer: Layer, x: Tensor) -> Tensor:
    axes = int(layer.kind[-2])
    layer.rank(x, axes + 1)
    layer.channels_last()
    sizes = layer.numbers("pool_size", axes, 2)
    strides = sizes if layer.config.get("strides") is None else layer.numbers("strides", axes)
    padding, lengths = _windows(layer, x, sizes, strides, str(layer.config.get("padding", "valid")))
    op = "MaxPool" if "MaxPooling" in layer.kind else "AveragePool"
    out = layer.node(
        op, _first(layer, x), main=True, kernel_shape=sizes, strides=strides, **padding
    )
    return _last(layer, out, (*lengths, x.shape[-1]))


def _global_pool(layer: Layer, x: Tensor) -> Tensor:
    axes = int(layer.kind[-2])
    layer.rank(x, axes + 1)
    layer.channels_last()
    keep = bool(layer.config.get("keepdims"))
    op = "ReduceMax" if "Max" in layer.kind else "ReduceMean"
    over = np.arange(1, axes + 1)
    out = layer.node(op, x, over, main=True, keepdims=int(keep))
    return Tensor(out, (*(1,) * axes, x.shape[-1]) if keep else x.shape[-1:])


def _sides(layer: Layer, key: str, axes: int) -> list[tuple[int, int]]:
    """How much before and behind, for each axis."""
    value = layer.config.get(key, 1)
    rows = value if isinstance(value, (list, tuple)) else [value] * (2 if axes == 1 else axes)
    rows = [rows] if axes == 1 else rows
    pairs = [tuple(r) if isinstance(r, (list, tuple)) else (r, r) for r in rows]
    if len(pairs) != axes or any(len(p) != 2 for p in pairs):
        layer.refuse(f"{key} is {value}; save the model again")
    return [(int(a), int(b)) for a, b in pairs]


def _padding(layer: Layer, x: Tensor) -> Tensor:
    axes = int(layer.kind[-2])
    layer.rank(x, axes + 1)
    layer.channels_last()
    sides = _sides(layer, "padding", axes)
    pads = np.array([0, *(a for a, _ in sides), 0, 0, *(b for _, b in sides), 0])
    shape = tuple(None if n is None else n + a + b for n, (a, b) in zip(x.shape, sides))
    return Tensor(layer.node("Pad", x, pads, main=True), (*shape, x.shape[-1]))


def _cropping(layer: Layer, x: Tensor) -> Tensor:
    axes = int(layer.kind[-2])
    layer.rank(x, axes + 1)
    layer.channels_last()
    sides = _sides(layer, "cropping", axes)
    starts = np.array([a for a, _ in sides])
    ends = np.array([-b if b else np.iinfo(np.int64).max for _, b in sides])
    out = layer.node("Slice", x, starts, ends, np.arange(1, axes + 1), main=True)
    shape = tuple(None if n is None else n - a - b for n, (a, b) in zip(x.shape, sides))
    return Tensor(out, (*shape, x.shape[-1]))


def _upsampling(layer: Layer, x: Tensor) -> Tensor:
    """Every position repeated."""
    axes = int(layer.kind[-2])
    layer.rank(x, axes + 1)
    layer.channels_last()
    if layer.config.get("interpolation", "nearest") != "nearest":
        layer.refuse(f"interpolation is {layer.config['interpolation']}; only nearest is supported")
    sizes = layer.numbers("size", axes, 2)
    if min(sizes) < 1:
        layer.refuse(f"its size is {sizes}; save the model again")
    out = layer.node(
        "Resize",
        _first(layer, x),
        "",
        np.array([1, 1, *sizes], np.float32),
        main=True,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    space = tuple(None if n is None else n * k for n, k in zip(x.shape, sizes))
    return _last(layer, out, (*space, x.shape[-1]))


CONVOLUTIONS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    name.replace("*", f"{axes}D"): function
    for axes in (1, 2)
    for name, function in (
        ("AveragePooling*", _pool),
        ("Conv*", _conv),
        ("Conv*Transpose", _transposed),
        ("Cropping*", _cropping),
        ("DepthwiseConv*", _depthwise),
        ("GlobalAveragePooling*", _global_pool),
        ("GlobalMaxPooling*", _global_pool),
        ("MaxPooling*", _pool),
        ("SeparableConv*", _separable),
        ("UpSampling*", _upsampling),
        ("ZeroPadding*", _padding),
    )
}
