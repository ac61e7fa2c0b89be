"""The graphs that onnxruntime runs, in front of the chip and behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.partition.parts import HostParts, Port, State

from ..graph import read_names
from ..tensors import RECURRENT, label
from .island import Island, Unusable
from .whole import Whole

if TYPE_CHECKING:
    import onnx

__all__ = ["host_parts"]


def host_parts(whole: Whole, island: Island, time: int | None, stepwise: bool) -> HostParts:
    """The parts of a graph around an island.

    Parameters
    ----------
    whole : Whole
    island : Island
    time : int or None
        The axis of the data that is time.
    stepwise : bool

    Raises
    ------
    Unusable
        Where what goes to the chip depends on what comes from it.
    """
    host = [n for n in whole.nodes if id(n) in island.host]
    states = {i: o for i, o in whole.states.items() if i not in island.states}
    if not stepwise:
        host, own = _with_states(whole, host)
        states |= own
    leaving = [leave.name for leave in island.leave]
    behind, back = _behind(host, states, leaving)
    names = {o for n in behind for o in n.output if o}
    if island.enter in names or island.enter in back:
        raise Unusable("what enters the chip depends on what leaves it")
    front = [n for n in host if not any(o in names for o in n.output if o)]
    read = {i for n in behind for i in read_names(n)} | set(whole.outputs)
    known = names | set(leaving) | back | whole.constants.keys()
    crossing = sorted(read - known)
    carried = {i: o for i, o in states.items() if i not in back}
    return HostParts(
        before=_model(
            whole,
            front,
            [whole.data, *carried],
            [island.enter, *crossing, *carried.values()],
        ),
        after=_model(
            whole,
            behind,
            [*leaving, *crossing, *sorted(back)],
            [*whole.outputs, *(states[i] for i in sorted(back))],
        ),
        data=_port(whole, whole.data, None if stepwise else time),
        enter=island.enter,
        feature_axes=island.feature_axes,
        tokens=island.model.one_hot,
        leave=tuple(island.leave),
        crossing=tuple(crossing),
        outputs=tuple(_port(whole, o, _time(whole, o)) for o in whole.outputs),
        states=tuple(
            State(i, o, whole.shape(i), str(whole.values[i].dtype), i in back)
            for i, o in states.items()
        ),
        stepwise=stepwise,
        pointwise=stepwise,
    )


def _with_states(
    whole: Whole, nodes: list[onnx.NodeProto]
) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """Recurrent layers of the host that go on where the call before ended, as a stream needs it.

    Returns
    -------
    list of NodeProto
        Those layers replaced by ones with their states as inputs and outputs.
    dict of str to str
        The states.
    """
    found, states = [], {}
    for node in nodes:
        if node.op_type not in RECURRENT or not _runs_over_steps(whole, node):
            found.append(node)
            continue
        changed = type(node)()
        changed.CopyFrom(node)
        first = next((a.i for a in node.attribute if a.name == "layout"), 0)
        batch, units = (
            whole.shape(node.input[0])[1 - first],
            whole.constants[node.input[2]].shape[-1],
        )
        shape = (batch, 1, units) if first else (1, batch, units)
        kinds = "hc" if node.op_type == "LSTM" else "h"
        changed.input.extend([""] * (5 + len(kinds) - len(node.input)))
        changed.output.extend([""] * (1 + len(kinds) - len(node.output)))
        for k, kind in enumerate(kinds):
            name = f"{label(node)}/{kind}"
            changed.input[5 + k] = name
            changed.output[1 + k] = changed.output[1 + k] or f"{name}N"
            states[name] = changed.output[1 + k]
            zeros = np.zeros(shape, whole.values[node.input[0]].dtype)
            whole.values |= {name: zeros, changed.output[1 + k]: zeros}
        found.append(changed)
    return found, states


def _runs_over_steps(whole: Whole, node: onnx.NodeProto) -> bool:
    """Whether a recurrent layer runs forward over the steps of a recording, from zero on."""
    attributes = {a.name: a for a in node.attribute}
    if "direction" in attributes and attributes["direction"].s != b"forward":
        return False
    steps = 1 if "layout" in attributes and attributes["layout"].i else 0
    known_values = {**whole.values, **whole.constants}  # exporters compute zeros of a shape
    starts = [known_values.get(i) for i in node.input[5:7] if i]
    known = all(value is not None and not np.any(value) for value in starts)
    known = known and node.input[2] in whole.constants
    return known and whole.moving.get(node.input[0], ()) == (steps,)


def _behind(
    host: list[onnx.NodeProto], states: dict[str, str], leaving: Iterable[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes that depend on the chip, and the state inputs that do, through the step before."""
    back: set[str] = set()
    while True:
        names, nodes = {*leaving, *back}, []
        for node in host:
            if any(i in names for i in read_names(node)):
                nodes.append(node)
                names.update(o for o in node.output if o)
        more = {i for i, o in states.items() if o in names} - back
        if not more:
            return nodes, back
        back |= more


def _model(
    whole: Whole, nodes: list[onnx.NodeProto], inputs: Iterable[str], outputs: Iterable[str]
) -> bytes:
    """A graph of these nodes, empty where all outputs are inputs."""
    inputs = list(dict.fromkeys(inputs))
    outputs = [o for o in dict.fromkeys(outputs) if o not in inputs]
    if not outputs:
        return b""
    read = {i for n in nodes for i in read_names(n)}
    model = whole.build(nodes, [i for i in inputs if i in read], outputs)
    return bytes(model.SerializeToString())


def _port(whole: Whole, name: str, time: int | None) -> Port:
    value = whole.values[name]
    return Port(name, str(value.dtype), value.shape, time)


def _time(whole: Whole, name: str) -> int | None:
    """The axis of an output that follows the length of the recording."""
    moving = whole.moving.get(name, ())
    return moving[0] if len(moving) == 1 else None
