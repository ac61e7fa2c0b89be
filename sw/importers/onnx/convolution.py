"""Causal convolutions in time of an ONNX graph, and the padding around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .recurrent import roles
from .tensors import Const, Flow, Value, dim_size, refuse, shown_shape
from .walk import Walk, handles
from .within_step import as_tensor, in_step, pick_features, unroll

if TYPE_CHECKING:
    import onnx

_LARGEST_TAPS = 1 << 12


@handles("Pad")
def pad(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Zeros in front of the sequence, which the convolution after it takes."""
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    if values[0] is not flow or flow.tokens:
        refuse(node, "its parameters are computed from the data; export it with constant pads")
    if _pads_features(walk, node, flow, values):
        pick_features(walk, node, flow, values)
        return
    if attrs.get("mode", b"constant") != b"constant":
        refuse(node, f"its mode is {attrs['mode'].decode()}; only zeros are supported")
    value = attrs.get("value", 0.0)
    if len(values) > 2 and values[2] is not None:
        value = float(walk.const(node, values[2], "value").reshape(()))
    if value != 0:
        refuse(node, f"it pads with {value:g}; only zeros are supported")
    rank = len(flow.dims)
    pads = walk.parameter(node, values, 1, "pads") or []
    chosen = walk.parameter(node, values, 3, "axes")
    axes = walk.axes(node, list(range(rank)) if chosen is None else chosen, rank)
    if len(pads) != 2 * len(axes):
        refuse(node, f"pads {pads} do not fit {len(axes)} axes; export the model again")
    before = {a: n for a, n in zip(axes, pads[: len(axes)]) if n}
    after = {a: n for a, n in zip(axes, pads[len(axes) :]) if n}
    if not before and not after:
        walk.write(node, flow)
        return
    if after or len(before) != 1 or flow.padded or min(before.values()) < 0:
        refuse(
            node,
            f"it pads by {pads}; only zeros in front of the sequence are supported, for a causal "
            "convolution",
        )
    walk.write(node, replace(flow, padded=next(iter(before.items()))))


def _pads_features(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: list[Value | None]
) -> bool:
    """Whether only axes inside a step are padded, with zeros or with what is there."""
    pads, rank = walk.parameter(node, values, 1, "pads") or [], len(flow.dims)
    chosen = walk.parameter(node, values, 3, "axes")
    axes = walk.axes(node, list(range(rank)) if chosen is None else chosen, rank)
    attrs = walk.attributes(node)
    value = values[2] if len(values) > 2 else None
    constant = value.value if isinstance(value, Const) else attrs.get("value", 0.0)
    if len(pads) != 2 * len(axes) or np.any(constant) or flow.padded or flow.final is not None:
        return False
    padded = [a for k, a in enumerate(axes) if pads[k] or pads[k + len(axes)]]
    known = walk.stepwise or walk.feature_of(flow) is not None
    return known and bool(padded) and in_step(walk, flow, padded)


@handles("Conv")
def conv(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """A convolution over the steps: X (batch, channels, steps)."""
    flow = walk.flow(node, values)
    attrs = walk.attributes(node)
    if values[0] is not flow:
        refuse(node, "its weights are computed from the data; export them as initializers")
    if _within_step(walk, node, flow, attrs, values[1]):
        feature = walk.feature_of(flow)
        if feature is not None and any(a not in feature for d in flow.dims[1:] for a in d):
            refuse(
                node,
                "it mixes vectors that go through the chip one after the other, of "
                f"{shown_shape(flow)}; make them one step, with a Reshape or Flatten before it",
            )
        unroll(walk, node, flow, values, _matrix)
        return
    weight = _full_weight(walk, node, attrs, values[1])
    units, size, taps = weight.shape
    if len(flow.dims) != 3:
        refuse(
            node,
            f"its input has {len(flow.dims)} axes; only convolutions in time over (batch, "
            "channels, steps) are supported",
        )
    excess = _check_causal(node, attrs, flow, taps)
    batch, channels, time = flow.dims
    if taps > 1:
        roles(walk, node, flow, time, batch)
    walk.contract(node, flow, channels, size)
    bias = None
    if len(values) > 2 and values[2] is not None:
        bias = walk.const(node, values[2], "B")
        if bias.shape != (units,):
            refuse(node, f"its B has shape {bias.shape}, expected {(units,)}; export it again")
    name = walk.fresh_name(node)
    vector = walk.net.conv(flow.vector, name, weight, bias, "linear")
    feature = walk.features(name, units)
    dims = (batch, feature, time)
    walk.write(node, Flow(vector, dims, feature, reduced=flow.reduced, excess=excess))


def _matrix(
    walk: Walk, node: onnx.NodeProto, flow: Flow, values: Sequence[Value | None]
) -> np.ndarray:
    """The matrix of a convolution inside a step.

    Run on the numbers of the elements, with kernels of a single one each, it tells which element
    each place of the kernel meets at each position.
    """
    feature = walk.feature_of(flow)
    assert feature is not None
    weight = walk.const(node, values[1], "W")
    size, groups = dim_size(feature), int(walk.attributes(node).get("group", 1))
    units, taps = len(weight) // groups, math.prod(weight.shape[1:])
    (numbers,) = as_tensor(flow, feature, 1.0 + np.arange(size)[None])
    kernels = np.tile(
        np.eye(taps).reshape(taps, *weight.shape[1:]), (groups, *[1] * (weight.ndim - 1))
    )
    feeds = [numbers, kernels, np.zeros(len(kernels))][: sum(v is not None for v in values)]
    met = walk.evaluate(node, feeds)[0]
    met = met.reshape(len(numbers), groups, taps, -1).astype(int)
    rows = weight.reshape(groups, units, taps)
    matrix = np.zeros((len(met), groups, units, met.shape[-1] * size))
    for batch, group in np.ndindex(met.shape[:2]):
        tap, position = np.nonzero(met[batch, group])
        places = position * size + met[batch, group, tap, position] - 1
        matrix[batch, group][:, places] = rows[group][:, tap]
    return matrix.reshape(-1, size)


def _within_step(
    walk: Walk, node: onnx.NodeProto, flow: Flow, attrs: dict[str, Any], weight: Value | None
) -> bool:
    """Whether a convolution runs over an axis of fixed length inside a step, not over the steps.

    Of the graph's own input, one that is no causal convolution of one output for each input.
    """
    if len(flow.dims) < 3 or flow.padded is not None:
        return False
    if walk.stepwise:
        return not any(a.dynamic for d in flow.dims[2:] for a in d)
    feature, along = walk.feature_of(flow), [a for d in flow.dims[2:] for a in d]
    if feature is not None:
        return bool(set(along) & set(feature)) or (len(feature) > 1 and not along)
    if not along or any(a.dynamic for a in along) or flow.dims[1] or len(flow.dims) != 3:
        return False
    taps = walk.const(node, weight, "W").shape[-1]
    strided = any(n != 1 for n in attrs.get("strides", []))
    return strided or sum(attrs.get("pads", [0, 0])) == 0 and taps > 1


def _full_weight(
    walk: Walk, node: onnx.NodeProto, attrs: dict[str, Any], value: Value | None
) -> np.ndarray:
    """Weights (units, channels, taps) without groups and dilation: zeros where nothing is."""
    weight = walk.const(node, value, "W")
    if weight.ndim != 3:
        refuse(
            node,
            f"its W has shape {weight.shape}; only convolutions in time (units, channels, taps) "
            "are supported",
        )
    if list(attrs.get("kernel_shape", weight.shape[2:])) != list(weight.shape[2:]):
        refuse(node, "its kernel_shape does not fit W; export the model again")
    units, part, taps = weight.shape
    groups = int(attrs.get("group", 1))
    if groups < 1 or units % groups:
        refuse(node, f"group {groups} does not divide {units} outputs; export the model again")
    if groups > 1:
        full = np.zeros((units, part * groups, taps))
        rows = units // groups
        for g in range(groups):
            full[g * rows : (g + 1) * rows, g * part : (g + 1) * part] = weight[
                g * rows : (g + 1) * rows
            ]
        weight = full
    dilation = int((list(attrs.get("dilations", [])) or [1])[0])
    if not 1 <= dilation * taps <= _LARGEST_TAPS:
        refuse(node, f"dilation {dilation} with {taps} taps is out of range")
    spread = np.zeros((*weight.shape[:2], (taps - 1) * dilation + 1))
    spread[:, :, ::dilation] = weight
    return spread


def _check_causal(node: onnx.NodeProto, attrs: dict[str, Any], flow: Flow, taps: int) -> int:
    """Steps after the end that the result has too many, which a Slice must cut off."""
    stride = int((list(attrs.get("strides", [])) or [1])[0])
    if stride != 1:
        refuse(
            node,
            f"its stride is {stride}; a stream has one output for each input, so keep the strided "
            "front end on the host",
        )
    left, right = [int(n) for n in attrs.get("pads", [0, 0])]
    automatic = attrs.get("auto_pad", b"NOTSET").decode()
    if automatic not in ("NOTSET", "VALID") and taps > 1:
        refuse(node, f"auto_pad is {automatic}, which is not causal; pad {taps - 1} in front")
    if flow.padded is not None:
        axis, count = flow.padded
        if axis != 2:
            refuse(node, f"its input is padded along axis {axis}, not along the steps")
        left += count
    if left != taps - 1 or right not in (0, taps - 1):
        refuse(
            node,
            f"it has {taps} taps in time with {left} zeros in front and {right} behind, which is "
            f"not causal; pad {taps - 1} in front and none behind",
        )
    return right
