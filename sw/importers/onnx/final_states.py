"""Final states of recurrent layers on their way through an ONNX graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .tensors import Const, Dim, Flow, States, Value, dim_size, refuse

if TYPE_CHECKING:
    import onnx

    from .walk import Walk


def move_states(walk: Walk, node: onnx.NodeProto, values: list[Value | None]) -> None:
    """Moves final states: as the last step of a layer while it is one, and as tags.

    The last step of the newest layer may still be read by the next one (``h_n[-1]``).
    """
    moved: Flow | None = None
    refusal: StillnetError | None = None
    before = dict(walk.env)
    if not any(isinstance(v, States) for v in values) and node.op_type != "Concat":
        try:
            walk.data(node, values)
            result = walk.env[node.output[0]]
            moved = result if isinstance(result, Flow) else None
        except StillnetError as e:
            refusal = e
    walk.env = {**before}
    if any(tags_of(v) is None and not _plain(v) for v in values):
        if refusal is not None:
            raise refusal
        refuse(
            node,
            "it joins final states with other tensors; export the states as outputs of their own",
        )
    tags = [t if (t := tags_of(v)) is not None else v.value for v in values if v]  # type: ignore
    if node.op_type in ("Cast", "CastLike", "Dropout", "Identity"):
        results = tags[:1]
    else:
        results = walk.evaluate(node, tags)
    for name, value in zip((o for o in node.output if o), results):
        if moved is not None and moved.shape == value.shape:
            walk.env[name] = replace(moved, final=value)
        else:
            walk.env[name] = _last_step(walk, value) or States(value)


def moves_states(node: onnx.NodeProto, values: list[Value | None]) -> bool:
    """Whether a move is one of final states; joined with other vectors they are data."""
    found = [tags_of(v) is not None for v in values if not _plain(v)]
    states = any(isinstance(v, States) for v in values)
    return any(found) and (states or node.op_type != "Concat" or all(found))


def _last_step(walk: Walk, tags: np.ndarray) -> Flow | None:
    """The last step of one layer, if these are all the elements of its final h."""
    axes = [i for i, n in enumerate(tags.shape) if n > 1]
    for flow in walk.lasts:
        assert flow.final is not None
        own = [i for i, n in enumerate(flow.final.shape) if n > 1]
        if len(own) == len(axes) and np.array_equal(tags.reshape(-1), flow.final.reshape(-1)):
            dims: list[Dim] = [()] * tags.ndim
            for i, k in zip(axes, own):
                dims[i] = flow.dims[k]
            if tuple(dim_size(d) for d in dims) == tags.shape:
                return replace(flow, dims=tuple(dims), final=tags)
    return None


def tags_of(value: Value | None) -> np.ndarray | None:
    """The tags of final states; None for anything else."""
    if isinstance(value, States):
        return value.tags
    return value.final if isinstance(value, Flow) else None


def _plain(value: Value | None) -> bool:
    """Whether this is a parameter of a move: absent, or a constant that is no state."""
    return value is None or isinstance(value, Const) and not value.state
