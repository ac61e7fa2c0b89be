"""Recurrent layers of an ONNX graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.model.layer_graph import Vector
from stillnet.sw.model.model import Model

from .tensors import (
    Const,
    Dim,
    Flow,
    States,
    Value,
    dim_size,
    every_node,
    label,
    refuse,
    shown_values,
    state_tags,
)
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx


_PLAIN = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}


@handles("GRU")
def gru(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    attrs = walk.attributes(node)
    reset = "after" if attrs.get("linear_before_reset", 0) else "before"
    _check_attributes(node, attrs)
    attrs, line = _lines(node, attrs)
    candidate = _activations(node, attrs, ("Tanh",) if line else ("Tanh", "Relu"))
    values = values + [None] * (6 - len(values))
    w, r, b = _on_lines(line, (0, 1), *_weights(walk, node, attrs, values, 3))
    units = r.shape[1]
    x, time, batch = _sequence(walk, node, attrs, values)
    walk.contract(node, x, x.dims[2], w.shape[1])
    h0 = _initial(walk, node, attrs, values[5], "h", units, batch)
    name = walk.fresh_name(node)

    def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
        rb = b[3 * units :]
        kind = candidate.lower()
        gate = "clip" if line else "sigmoid"
        options = {"reset": reset, "activation": kind, "gate": gate}
        model.gru(w, r, wb, rb, h0=h0, order="urc", **options, name=name)

    vector = walk.net.recurrent(x.vector, name, w, b[: 3 * units], add)
    y, y_h, _ = _finish(walk, name, attrs, vector, x, time, batch, units)
    walk.write(node, y, y_h)


@handles("LSTM")
def lstm(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    attrs = walk.attributes(node)
    _check_attributes(node, attrs)
    attrs, line = _lines(node, attrs)
    _activations(node, attrs, ("Tanh",))
    if attrs.get("input_forget", 0):
        refuse(
            node,
            "input_forget is set, which couples two gates; export an LSTM with gates of their own",
        )
    values = values + [None] * (8 - len(values))
    w, r, b = _on_lines(line, (0, 1, 2), *_weights(walk, node, attrs, values, 4))
    units = r.shape[1]
    peepholes = None
    if values[7] is not None:
        peepholes = walk.const(node, values[7], "P")
        if peepholes.shape != (1, 3 * units):
            refuse(
                node,
                f"P has shape {peepholes.shape}, expected {(1, 3 * units)}; export the model again",
            )
        peepholes = peepholes.reshape(3, units)
        peepholes = peepholes if np.any(peepholes) else None
        if line and peepholes is not None:
            refuse(node, "it has peepholes and HardSigmoid gates; only Sigmoid goes with them")
    x, time, batch = _sequence(walk, node, attrs, values)
    walk.contract(node, x, x.dims[2], w.shape[1])
    h0 = _initial(walk, node, attrs, values[5], "h", units, batch)
    c0 = _initial(walk, node, attrs, values[6], "c", units, batch)
    name = walk.fresh_name(node)
    peep = None if peepholes is None else dict(zip("iof", peepholes))

    def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
        rb = b[4 * units :]
        gate = "clip" if line else "sigmoid"
        starts = {"h0": h0, "c0": c0}
        model.lstm(w, r, wb, rb, peepholes=peep, **starts, order="iofg", gate=gate, name=name)

    vector = walk.net.recurrent(x.vector, name, w, b[: 4 * units], add)
    walk.write(node, *_finish(walk, name, attrs, vector, x, time, batch, units))


@handles("RNN")
def rnn(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """An Elman network: a dense layer that also reads its own last vector."""
    attrs = walk.attributes(node)
    _check_attributes(node, attrs)
    kind = _activations(node, attrs, ("Tanh", "Relu"))
    values = values + [None] * (6 - len(values))
    w, r, b = _weights(walk, node, attrs, values, 1)
    units = r.shape[1]
    x, time, batch = _sequence(walk, node, attrs, values)
    walk.contract(node, x, x.dims[2], w.shape[1])
    if _initial(walk, node, attrs, values[5], "h", units, batch) is not None:
        refuse(
            node,
            "its initial_h is not zero; only a GRU or LSTM starts elsewhere, so leave it out or "
            "make it a graph input",
        )
    name = walk.fresh_name(node)

    def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
        model.rnn(w, r, wb, b[units:], activation=kind.lower(), name=name)

    vector = walk.net.recurrent(x.vector, name, w, b[:units], add)
    y, y_h, _ = _finish(walk, name, attrs, vector, x, time, batch, units)
    walk.write(node, y, y_h)


def settle_reset(
    model: onnx.ModelProto, gru_reset: str | None
) -> tuple[onnx.ModelProto, list[str]]:
    """Writes into each GRU whether its reset gate stands after the product with R, or before it.

    What the user says goes first. ``torch.nn.GRU`` is always reset-after, and of PyTorch's
    exporters the older one always writes so; the newer one forgot it for some time.

    Parameters
    ----------
    model : onnx.ModelProto
        Stays as it is.
    gru_reset : str or None
        ``"before"``, ``"after"``, or as the file says.

    Returns
    -------
    onnx.ModelProto
    list of str
        What to warn of.
    """
    from onnx import helper

    changed = type(model)()
    changed.CopyFrom(model)
    notes = []
    for node in every_node(changed.graph.node):
        if node.op_type != "GRU":
            continue
        said = [a for a in node.attribute if a.name == "linear_before_reset"]
        if gru_reset is None and (said or model.producer_name != "pytorch"):
            continue
        if gru_reset is None:
            notes.append(
                f"node '{label(node)}' (GRU): PyTorch's exporter left out linear_before_reset, "
                "without which it would be another network; torch.nn.GRU resets after the product, "
                "and that is taken. --gru-reset before or after decides, --expect Y.npy checks it"
            )
        for attribute in said:
            node.attribute.remove(attribute)
        after = int(gru_reset != "before")
        node.attribute.append(helper.make_attribute("linear_before_reset", after))
    return changed, notes


def _check_attributes(node: onnx.NodeProto, attrs: dict[str, Any]) -> None:
    """Refuses what both kinds of node may ask for and the engine does not do."""
    kind = node.op_type
    direction = attrs.get("direction", b"forward").decode()
    if direction != "forward":
        refuse(node, backwards(node, direction))
    if "clip" in attrs:
        refuse(
            node,
            f"clip is {attrs['clip']:g}; clipping inside {_article(kind)} is not supported, "
            "export without clip",
        )


def backwards(node: onnx.NodeProto, direction: str) -> str:
    """Why a layer cannot run on a stream, and what to do."""
    return (
        f"direction is '{direction}'; a stream has no end to start from, so use a forward "
        f"{node.op_type}: export that direction alone, and train the layers behind it for some "
        "epochs"
    )


def _article(kind: str) -> str:
    return f"a {kind}" if kind == "GRU" else f"an {kind}"


def _activations(node: onnx.NodeProto, attrs: dict[str, Any], candidates: tuple[str, ...]) -> str:
    """Checks the activations; returns the candidate's."""
    plain = _PLAIN[node.op_type]
    functions = [f.decode() for f in attrs.get("activations", [])] or plain
    place = min(1, len(plain) - 1)  # of the candidate
    choices = [[*plain[:place], c, *plain[place + 1 :]] for c in candidates]
    allowed = [[p.lower() for p in names] for names in choices]
    found = [f.lower() for f in functions]
    choice = " or ".join(", ".join(names) for names in choices)
    if found not in allowed:
        refuse(
            node,
            f"activations are {', '.join(functions)}; only {choice} are supported",
        )
    for key in ("activation_alpha", "activation_beta"):
        if len(attrs.get(key, ())):
            refuse(node, f"{key} is given; only plain {choice} are supported, remove it")
    return candidates[allowed.index(found)]


def _lines(
    node: onnx.NodeProto, attrs: dict[str, Any]
) -> tuple[dict[str, Any], tuple[float, float] | None]:
    """Slope and offset of gates through HardSigmoid, and the attributes as if they were Sigmoid."""
    functions = [f.decode() for f in attrs.get("activations", [])]
    if not functions or functions[0].lower() != "hardsigmoid":
        return attrs, None
    if any(f.lower() == "hardsigmoid" for f in functions[1:]):
        return attrs, None  # refused with the other activations
    alpha, beta = (list(attrs.get(f"activation_{k}", ())) for k in ("alpha", "beta"))
    if len(alpha) > 1 or len(beta) > 1:
        refuse(node, "activation_alpha and activation_beta have values for more than its gates")
    rest = {k: v for k, v in attrs.items() if k not in ("activation_alpha", "activation_beta")}
    rest["activations"] = [b"Sigmoid", *(f.encode() for f in functions[1:])]
    return rest, (float((alpha or [0.2])[0]), float((beta or [0.5])[0]))


def _on_lines(
    line: tuple[float, float] | None,
    gates: tuple[int, ...],
    w: np.ndarray,
    r: np.ndarray,
    b: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights and biases with the slope and the offset of some gates in them."""
    if line is None:
        return w, r, b
    units, half = r.shape[1], len(w)
    rows = np.concatenate([np.arange(g * units, (g + 1) * units) for g in gates])
    w, r, b = w.copy(), r.copy(), b.copy()
    for a, at in ((w, rows), (r, rows), (b, rows), (b, half + rows)):
        a[at] *= line[0]
    b[rows] += line[1]
    return w, r, b


def _weights(
    walk: Walk, node: onnx.NodeProto, attrs: dict[str, Any], values: list[Value | None], gates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W (gates*H, inputs), R (gates*H, H), B (2*gates*H,) of the only direction."""
    w, r = walk.const(node, values[1], "W"), walk.const(node, values[2], "R")
    units = r.shape[-1] if r.ndim else 0
    rows = gates * units
    if (
        r.shape != (1, rows, units)
        or w.ndim != 3
        or w.shape[:2] != (1, rows)
        or attrs.get("hidden_size", units) != units
    ):
        refuse(
            node,
            f"W has shape {w.shape} and R {r.shape} at hidden_size "
            f"{attrs.get('hidden_size', units)}; (1, {gates}*H, I) and (1, {gates}*H, H) are "
            "needed, so export the model again",
        )
    b = np.zeros((1, 2 * rows)) if values[3] is None else walk.const(node, values[3], "B")
    if b.shape != (1, 2 * rows):
        refuse(
            node,
            f"B has shape {b.shape}, expected {(1, 2 * rows)}; export the model again",
        )
    return w[0], r[0], b[0]


def _sequence(
    walk: Walk, node: onnx.NodeProto, attrs: dict[str, Any], values: list[Value | None]
) -> tuple[Flow, Dim, Dim]:
    """X, its steps and its batch."""
    x, lengths = values[0], values[4]
    if not isinstance(x, Flow):
        refuse(node, "its X is not computed from the data input; feed it vectors of the network")
    if isinstance(lengths, Flow | States) or any(isinstance(v, Flow | States) for v in values[5:7]):
        refuse(
            node,
            "its initial state or sequence_lens is computed from the data, as for a decoder that "
            "starts when a recording is over, which a stream never is; make it a constant or a "
            "graph input",
        )
    if len(x.dims) != 3:
        refuse(
            node,
            f"X has {len(x.dims)} axes, {_article(node.op_type)} takes 3; export the model again",
        )
    time, batch = x.dims[:2][::-1] if attrs.get("layout", 0) else x.dims[:2]
    roles(walk, node, x, time, batch)
    if isinstance(lengths, Const) and not lengths.state and np.any(lengths.value != dim_size(time)):
        refuse(
            node,
            f"sequence_lens {shown_values(lengths.value)} are not the full length "
            f"{'of the input' if any(a.dynamic for a in time) else dim_size(time)}; remove "
            "sequence_lens",
        )
    return x, time, batch


def _finish(
    walk: Walk,
    name: str,
    attrs: dict[str, Any],
    vector: Vector,
    x: Flow,
    time: Dim,
    batch: Dim,
    units: int,
) -> tuple[Flow, Flow, States]:
    """Y, Y_h and Y_c of the layer that was just added."""
    index = len(walk.recurrent)
    walk.recurrent.append(name)
    feature = walk.features(name, units)
    y: tuple[Dim, ...] = (time, (), batch, feature)
    y_h: tuple[Dim, ...] = ((), batch, feature)
    h, c = (state_tags(index, s, dim_size(batch), units) for s in "hc")
    if attrs.get("layout", 0):
        y, y_h = (batch, time, (), feature), (batch, (), feature)
        h, c = h.swapaxes(0, 1), c.swapaxes(0, 1)
    flow = Flow(vector, y, feature, reduced=x.reduced)
    last = Flow(vector, y_h, feature, reduced=x.reduced or bool(time), final=h)
    walk.lasts.append(last)
    return flow, last, States(c)


def roles(walk: Walk, node: onnx.NodeProto, x: Flow, time: Dim, batch: Dim) -> None:
    """Checks which axes of the input are steps and which the batch."""
    if x.reduced:
        refuse(
            node,
            "it reads only the last step of the layer before it; feed it the whole sequence Y",
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
                    f"it takes {a.name} as {role}, a layer before it as {walk.roles[a]}; only "
                    "recurrent layers along one axis are supported",
                )
    if walk.time is not None and time != walk.time:
        refuse(
            node,
            "its sequence axis is not that of the layer before it; only recurrent layers "
            "along one axis are supported",
        )
    walk.time = time


def _initial(
    walk: Walk,
    node: onnx.NodeProto,
    attrs: dict[str, Any],
    value: Value | None,
    state: str,
    units: int,
    batch: Dim,
) -> np.ndarray | None:
    """The initial state as a vector; None where it is zero or carried by the engine."""
    if not isinstance(value, Const):
        return None
    slot = f"initial_{state}"
    start = value.value if value.state else walk.const(node, value, slot)
    one = 1 if attrs.get("layout", 0) else 0
    if start.ndim != 3 or start.shape[2] != units or start.shape[one] != 1:
        advice = "export the model again"
        if state == "c" and start.shape[one] == 1:
            advice += ", and without projection (proj_size), which is not supported"
        refuse(node, f"{slot} has shape {start.shape}, expected {(1, 1, units)}; {advice}")
    rows = start.reshape(-1, units)
    if value.state:
        layer = len(walk.recurrent)
        for unit, tag in enumerate(rows[0]):
            known = walk.starts.setdefault(int(tag), (layer, state, unit))
            if known != (layer, state, unit):
                names = [*walk.recurrent, label(node)]
                both = {f"{s} of '{names[n]}'" for n, s, _ in (known, (layer, state, unit))}
                walk.shared.setdefault(value.state, set()).update(both)
        return None
    if not np.array_equal(rows, np.broadcast_to(rows[0], rows.shape), equal_nan=True):
        refuse(node, f"{slot} differs within the batch; export with batch size 1")
    return rows[0] if np.any(rows[0] != 0) else None
