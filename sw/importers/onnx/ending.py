"""The end of a walk over an ONNX graph: its outputs, and the order of the states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model

from .tensors import Const, Flow, States, state_of
from .within_step import in_order

if TYPE_CHECKING:
    from .walk import Walk


def finish(walk: Walk) -> Model:
    """The model, from the data outputs among the graph's outputs."""
    data: list[tuple[str, Flow]] = []
    last: list[tuple[str, Flow]] = []
    for name in walk.graph.outputs:
        value = walk.env.get(name)
        if value is None:
            raise StillnetError(
                f"graph output '{name}' is written by no node: the file is damaged, export it again"
            )
        if isinstance(value, Const):
            raise StillnetError(
                f"graph output '{name}' does not depend on the data input "
                f"'{walk.graph.data}': remove it from the graph's outputs"
            )
        if isinstance(value, Flow):
            (data if value.final is None else last).append((name, value))
    if not data and not last:
        raise StillnetError(
            f"graph output '{walk.graph.outputs[0]}' has states of several layers, and no output "
            "is that of the last layer: export that one too"
        )
    # Without any other output the last step of the uppermost layer is the result.
    data = data or [max(last, key=lambda item: state_of(np.max(_final(item[1])))[0])]
    for name, value in data:
        if value.tokens or (not walk.names and not walk.embedded):
            raise StillnetError(
                f"the graph from '{walk.graph.data}' to '{name}' holds no layer: export a "
                "graph with a GRU, LSTM, Gemm or MatMul"
            )
        if value.excess or value.padded:
            raise StillnetError(
                f"graph output '{name}' is longer than the input, as a convolution or its padding "
                "left it; pad in front of the convolution only"
            )
        if value.reduced != data[0][1].reduced:
            raise StillnetError(
                f"graph outputs '{data[0][0]}' and '{name}' are a sequence and its last step: "
                "export one of them"
            )
    if len(data) > 1:
        walk.notes.append(
            "the graph's outputs are joined side by side: "
            + ", ".join(f"'{name}' ({value.vector.size})" for name, value in data)
        )
    check_states(walk)
    data = [(name, in_order(walk, name, value)) for name, value in data]
    model = walk.net.model([(name, value.vector) for name, value in data])
    model.last_step = data[0][1].reduced and _has_steps(walk)
    if walk.net.dropped:
        walk.notes.append(
            "no data output depends on "
            + ", ".join(f"'{n}'" for n in walk.net.dropped)
            + ", which is left out"
        )
    return model


def _has_steps(walk: Walk) -> bool:
    """Whether the graph takes more than one step in a call."""
    feature = walk.feature or ()
    return any(axis.size > 1 and axis not in feature for axis in walk.graph.axes)


def _final(flow: Flow) -> np.ndarray:
    assert flow.final is not None
    return flow.final


def check_states(walk: Walk) -> None:
    """The engine carries the states of a layer to the same layer; the graph must mean that too."""
    for name, elements in walk.shared.items():
        walk.notes.append(
            f"state input '{name}' starts {' and '.join(sorted(elements))}; the engine carries a "
            "state of its own for each, so feed it zeros or one value for both"
        )
    pairs: list[tuple[str, str]] = []  # graph input, graph output
    for output in walk.graph.outputs:
        value = walk.env.get(output)
        tags = value.tags if isinstance(value, States) else getattr(value, "final", None)
        if tags is None:
            continue
        found = [state_of(t) for t in tags.reshape(-1)]
        ends = [(layer, state, unit) for layer, state, batch, unit in found if batch == 0]
        for name, const in walk.state_inputs.items():
            numbers = [int(t) for t in const.value.reshape(-1)]
            begins = [walk.starts[t] for t in numbers if t in walk.starts]
            if begins == ends:
                pairs.append((name, output))
            elif len(set(begins)) == len(begins) and set(begins) == set(ends):
                raise StillnetError(
                    f"graph output '{output}' has the final states in another order than graph "
                    f"input '{name}' takes them ({_order(walk, ends)} instead of "
                    f"{_order(walk, begins)}): the engine carries each layer's own state, so "
                    "export both in one order"
                )
    order = list(walk.state_inputs)
    inputs = [name for name, _ in pairs]
    if len(set(inputs)) == len(inputs) and inputs != sorted(inputs, key=order.index):
        walk.notes.append(
            "the graph returns its states as "
            + ", ".join(f"'{o}'" for _, o in pairs)
            + ", which belong to its state inputs "
            + ", ".join(f"'{i}'" for i in inputs)
            + ", in another order than it takes them; the engine carries each layer's own state"
        )


def _order(walk: Walk, elements: list[tuple[int, str, int]]) -> str:
    """States in the order in which they come, for people."""
    names = [f"{state} of '{walk.recurrent[layer]}'" for layer, state, _ in elements]
    runs = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    return ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
