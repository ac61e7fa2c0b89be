"""Embeddings of an ONNX graph: tokens that look up rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .tensors import Flow, Value, label, refuse
from .walk import Walk, handles

if TYPE_CHECKING:
    import onnx


def look_up(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """A Gather whose table is constant and whose indices are the data."""
    flow = walk.flow(node, values)
    table = walk.const(node, values[0], "table")
    if not flow.tokens:
        refuse(
            node,
            "it looks up rows by computed values; only an embedding of the graph's input is "
            "supported",
        )
    if table.ndim != 2 or walk.attributes(node).get("axis", 0) not in (0, -2):
        refuse(node, f"its table has shape {table.shape}; a matrix (tokens, features) is needed")
    _embed(walk, node, flow, table)


@handles("OneHot")
def one_hot(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Tokens as vectors of one feature a token: an embedding whose table is the identity."""
    flow = walk.flow(node, values)
    if values[0] is not flow or not flow.tokens:
        refuse(node, "only the graph's input may be turned to one-hot vectors")
    if walk.attributes(node).get("axis", -1) not in (-1, len(flow.dims)):
        refuse(node, "the features must be the last axis; export it with axis -1")
    depth = int(walk.const(node, values[1], "depth").reshape(()))
    off, on = walk.const(node, values[2], "values").reshape(2)
    if depth < 1:
        refuse(node, f"its depth is {depth}; export the model again")
    _embed(walk, node, flow, np.eye(depth) * (on - off) + off)


def _embed(walk: Walk, node: onnx.NodeProto, flow: Flow, table: np.ndarray) -> None:
    walk.embedded = True
    feature = walk.features(label(node), table.shape[1])
    vector = walk.net.embedding(flow.vector, label(node), table)
    walk.write(node, Flow(vector, (*flow.dims, feature), feature))
