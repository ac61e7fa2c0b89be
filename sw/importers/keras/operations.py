"""Operations of ``keras.ops`` and indices, which Keras writes as layers, as nodes of ONNX.

Their axes count the batch, as those of the layers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .layers import reshaped
from .writer import Layer, Tensor

__all__ = ["OPERATIONS", "operation"]

_FAR = np.iinfo(np.int64).max


def _axes(layer: Layer, x: Tensor, value: Any, more: int = 0) -> list[int]:
    """Axes counted from 0, of a tensor with ``more`` axes than this one; never the batch."""
    rank = len(x.shape) + 1 + more
    given = value if isinstance(value, (list, tuple)) else [value]
    axes = [int(a) + rank if int(a) < 0 else int(a) for a in given]
    if any(not 1 <= a < rank for a in axes):
        layer.refuse(f"its axis is {value}, which is the batch, or none of {rank} axes")
    return axes


def _without(shape: Sequence[int | None], axes: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(n for i, n in enumerate(shape, 1) if i not in axes)


# -- indices --------------------------------------------------------------------------------------


def _is(item: Any, name: str) -> bool:
    return isinstance(item, Mapping) and str(item.get("class_name", "")).strip("_") == name


def _items(layer: Layer, x: Tensor) -> list[Any]:
    """The parts of an index, one for each axis; ``None`` adds an axis."""
    key = layer.config.get("key")
    if _is(key, "tuple"):
        key = key.get("items")  # type: ignore[union-attr]
    items = list(key) if isinstance(key, (list, tuple)) else [key]
    rank = len(x.shape) + 1
    open_axes = rank - sum(i is not None and not _is(i, "ellipsis") for i in items)
    if open_axes < 0 or sum(_is(i, "ellipsis") for i in items) > 1:
        layer.refuse(f"its index has {len(items)} parts for {rank} axes; save the model again")
    everything: list[Any] = [{"start": None}] * open_axes
    for k, item in enumerate(items):
        if _is(item, "ellipsis"):
            return [*items[:k], *everything, *items[k + 1 :]]
    return [*items, *everything]


def _range(layer: Layer, item: Mapping[str, Any]) -> tuple[int | None, int | None, int]:
    config = item.get("config") if _is(item, "slice") else item
    if not isinstance(config, Mapping):
        layer.refuse(f"its index has a part {item}, which is not known; take slices and numbers")
    start, stop, step = (config.get(k) for k in ("start", "stop", "step"))
    return (
        None if start is None else int(start),
        None if stop is None else int(stop),
        1 if step is None else int(step),
    )


def _get_item(layer: Layer, x: Tensor) -> Tensor:
    """``x[...]``: slices, numbers, new axes and an ellipsis."""
    items = _items(layer, x)
    batch, items = items[0], items[1:]
    if not isinstance(batch, Mapping) or _range(layer, batch) != (None, None, 1):
        layer.refuse("its index chooses from the batch, which is one recording; begin it with ':'")
    starts, stops, steps, over = [], [], [], []
    numbers: list[tuple[int, int]] = []  # axis, element
    new: list[int] = []
    shape: list[int | None] = []
    axis = 0  # of x, the batch left out
    for item in items:
        if item is None:
            new.append(len(shape) + 1)
            shape.append(1)
            continue
        size, axis = x.shape[axis], axis + 1
        if isinstance(item, int):
            numbers.append((axis, item))
            continue
        start, stop, step = _range(layer, item)
        if step == 0:
            layer.refuse("its index has a step of 0; save the model again")
        if (start, stop, step) != (None, None, 1):
            last = -_FAR if step < 0 else _FAR
            starts.append(start if start is not None else _FAR if step < 0 else 0)
            stops.append(stop if stop is not None else last)
            steps.append(step)
            over.append(axis)
        shape.append(None if size is None else len(range(*slice(start, stop, step).indices(size))))
        if shape[-1] == 0:
            layer.refuse(f"its index leaves nothing of an axis of {size}; save the model again")
    out: Any = x
    if over:
        lists = [np.array(v, np.int64) for v in (starts, stops, over, steps)]
        out = layer.node("Slice", out, *lists, main=True)
    for axis, element in reversed(numbers):
        out = layer.node("Gather", out, np.array(element), axis=axis, main=not over)
    out = layer.node("Unsqueeze", out, np.array(new)) if new else out
    return out if out is x else Tensor(out, tuple(shape))


# -- shapes ---------------------------------------------------------------------------------------


def _expand(layer: Layer, x: Tensor) -> Tensor:
    (axis,) = _axes(layer, x, layer.config.get("axis"), 1)
    out = layer.node("Unsqueeze", x, np.array([axis]), main=True)
    return Tensor(out, (*x.shape[: axis - 1], 1, *x.shape[axis - 1 :]))


def _squeeze(layer: Layer, x: Tensor) -> Tensor:
    given = layer.config.get("axis")
    axes = [i for i, n in enumerate(x.shape, 1) if n == 1] if given is None else None
    axes = _axes(layer, x, given) if axes is None else axes
    if any(x.shape[a - 1] != 1 for a in axes):
        layer.refuse(f"it takes away axis {given} of {(1, *x.shape)}; save the model again")
    return Tensor(layer.node("Squeeze", x, np.array(axes), main=True), _without(x.shape, axes))


def _transpose(layer: Layer, x: Tensor) -> Tensor:
    axes = [int(a) for a in layer.config.get("axes") or ()]
    if sorted(axes) != list(range(len(x.shape) + 1)) or axes[0] != 0:
        layer.refuse(f"its axes are {axes}, where the batch must stay first; save it again")
    out = layer.node("Transpose", x, perm=axes, main=True)
    return Tensor(out, tuple(x.shape[a - 1] for a in axes[1:]))


def _reshape(layer: Layer, x: Tensor) -> Tensor:
    sizes = [int(n) for n in layer.config.get("newshape") or ()]
    if not sizes or sizes[0] not in (-1, 1):
        layer.refuse(f"it reshapes to {sizes}, where the batch must stay first; save it again")
    return reshaped(layer, x, sizes[1:])


def _reduce(layer: Layer, x: Tensor) -> Tensor:
    axes = _axes(layer, x, layer.config.get("axis"))
    keep = bool(layer.config.get("keepdims"))
    out = layer.node(f"Reduce{layer.kind}", x, np.array(axes), main=True, keepdims=int(keep))
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape, 1))
    return Tensor(out, kept if keep else _without(x.shape, axes))


# -- steps ----------------------------------------------------------------------------------------


def _repeat(layer: Layer, x: Tensor) -> Tensor:
    """One vector for every step of what follows: as many as the recording has, where the model was
    trained so."""
    layer.rank(x, 1)
    count = layer.number("n")
    out = layer.node("Unsqueeze", x, np.array([1]), main=True)
    steps: int | None = count
    sizes: Any = np.array([1, count, 1])
    window = layer.writer.window
    if window is not None and window[1] == count:
        length = layer.node("Gather", layer.node("Shape", window[0]), np.array([1]))
        sizes = layer.node("Concat", np.array([1]), length, np.array([1]), axis=0)
        steps = None
    return Tensor(layer.node("Expand", out, sizes), (steps, *x.shape))


OPERATIONS: dict[str, Callable[[Layer, Tensor], Tensor]] = {
    "ExpandDims": _expand,
    "GetItem": _get_item,
    "RepeatVector": _repeat,
    "SlicingOpLambda": _get_item,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _reduce),
}


def operation(layer: Layer, x: Tensor) -> Tensor | None:
    """What an operation gives; None for a layer that is none."""
    if layer.kind == "Reshape" and "newshape" in layer.config:
        return _reshape(layer, x)
    found = OPERATIONS.get(layer.kind)
    return None if found is None else found(layer, x)
