"""Plain recurrent layers of an ONNX graph (RNN)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.model.model import Model

from .recurrent import (
    _activations,
    _check_attributes,
    _finish,
    _initial,
    _sequence,
    _weights,
)
from .tensors import Value, refuse
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx


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
