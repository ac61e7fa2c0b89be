"""Recurrent layers of an ONNX graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .layers import Gru
from .tensors import Axis, Const, Dim, Flow, States, Value, dim_size, refuse, shown_values
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx


@handles("GRU")
def gru(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    attrs = walk.attributes(node)
    direction = attrs.get("direction", b"forward").decode()
    if direction != "forward":
        refuse(
            node,
            f"direction is '{direction}'; a stream has no end to start from, so use a forward GRU",
        )
    if not attrs.get("linear_before_reset", 0):
        refuse(
            node,
            "linear_before_reset is 0; GRUs that reset before the product are not supported "
            "yet, so train and export with linear_before_reset=1 (PyTorch always, Keras with "
            "reset_after=True)",
        )
    if "clip" in attrs:
        refuse(
            node,
            f"clip is {attrs['clip']:g}; clipping inside a GRU is not supported, export "
            "without clip",
        )
    functions = [f.decode() for f in attrs.get("activations", [b"Sigmoid", b"Tanh"])]
    if [f.lower() for f in functions] != ["sigmoid", "tanh"]:
        refuse(
            node,
            f"activations are {', '.join(functions)}; only Sigmoid, Tanh are supported",
        )
    for key in ("activation_alpha", "activation_beta"):
        if len(attrs.get(key, ())):
            refuse(node, f"{key} is given; only plain Sigmoid, Tanh are supported, remove it")
    values = values + [None] * (6 - len(values))
    x, lengths, initial = values[0], values[4], values[5]
    w, r = walk.const(node, values[1], "W"), walk.const(node, values[2], "R")
    units = r.shape[-1] if r.ndim else 0
    if (
        r.shape != (1, 3 * units, units)
        or w.ndim != 3
        or w.shape[:2] != (1, 3 * units)
        or attrs.get("hidden_size", units) != units
    ):
        refuse(
            node,
            f"W has shape {w.shape} and R {r.shape} at hidden_size "
            f"{attrs.get('hidden_size', units)}; (1, 3*H, I) and (1, 3*H, H) are needed, so "
            "export the model again",
        )
    b = np.zeros((1, 6 * units)) if values[3] is None else walk.const(node, values[3], "B")
    if b.shape != (1, 6 * units):
        refuse(
            node,
            f"B has shape {b.shape}, expected {(1, 6 * units)}; export the model again",
        )
    if not isinstance(x, Flow):
        refuse(node, "its X is not computed from the data input; export a chain of layers")
    if isinstance(initial, Flow | States) or isinstance(lengths, Flow | States):
        refuse(
            node,
            "its initial_h or sequence_lens is computed from the data; make it a constant or "
            "a graph input",
        )
    walk.newest(node, x)
    if len(x.dims) != 3:
        refuse(node, f"X has {len(x.dims)} axes, a GRU takes 3; export the model again")
    batch_first = bool(attrs.get("layout", 0))
    time, batch = x.dims[:2][::-1] if batch_first else x.dims[:2]
    roles(walk, node, x, time, batch)
    if lengths is not None and np.any(lengths.value != dim_size(time)):
        refuse(
            node,
            f"sequence_lens {shown_values(lengths.value)} are not the full length "
            f"{'of the input' if any(a.dynamic for a in time) else dim_size(time)}; remove "
            "sequence_lens",
        )
    walk.contract(node, x.dims[2], w.shape[2])
    h0 = initial_state(walk, node, initial, units, batch_first)
    w2, shift = walk.take_pending(w[0])
    wb, rb = b[0, : 3 * units] + shift, b[0, 3 * units :]
    name = walk.fresh_name(node)
    walk.layers.append(Gru(name, w2, r[0], wb, rb, h0))
    walk.open = None
    walk.low, walk.high = -math.inf, math.inf  # a state from outside need not be within 1
    walk.feature = () if units == 1 else (Axis(f"the outputs of '{name}'", units),)
    y: tuple[Dim, ...] = (time, (), batch, walk.feature)
    y_h: tuple[Dim, ...] = ((), batch, walk.feature)
    if batch_first:
        y, y_h = (batch, time, (), walk.feature), (batch, (), walk.feature)
    flow = walk.changed(node, y, x.reduced)
    last = Flow(flow.version, y_h, x.reduced or bool(time), final=True)
    walk.write(node, flow, last)


def roles(walk: Walk, node: onnx.NodeProto, x: Flow, time: Dim, batch: Dim) -> None:
    """Checks which axes of the input are steps and which the batch."""
    if x.reduced:
        refuse(
            node,
            "it reads only the last step of the GRU before it; feed it the whole sequence Y",
        )
    static = math.prod(a.size for a in batch if not a.dynamic)
    if static != 1:
        refuse(
            node,
            f"batch size is {static}; the engine runs one sequence, so export with batch "
            "size 1 (X is (steps, 1, inputs))",
        )
    for axes, role in ((time, "steps"), (batch, "batch")):
        for a in axes:
            if walk.roles.setdefault(a, role) != role:
                refuse(
                    node,
                    f"it takes {a.name} as {role}, a GRU before it as {walk.roles[a]}; only "
                    "GRUs along one axis are supported",
                )
    if walk.time is not None and time != walk.time:
        refuse(
            node,
            "its sequence axis is not that of the GRU before it; only GRUs along one axis are "
            "supported",
        )
    walk.time = time


def initial_state(
    walk: Walk, node: onnx.NodeProto, value: Const | None, units: int, batch_first: bool
) -> np.ndarray | None:
    """The initial state as a vector; None where it is zero or carried by the engine."""
    if value is None or value.state:
        return None
    h0 = walk.const(node, value, "initial_h")
    if h0.ndim != 3 or h0.shape[2] != units or h0.shape[1 if batch_first else 0] != 1:
        refuse(
            node,
            f"initial_h has shape {h0.shape}, expected {(1, 1, units)}; export the model again",
        )
    rows = h0.reshape(-1, units)
    if not np.array_equal(rows, np.broadcast_to(rows[0], rows.shape), equal_nan=True):
        refuse(node, "initial_h differs within the batch; export with batch size 1")
    return rows[0] if np.any(rows[0] != 0) else None
