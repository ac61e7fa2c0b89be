"""The end of a walk over an ONNX graph: its outputs, and the order of the states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import StillnetError
from .tensors import Const, Flow, States, state_of

if TYPE_CHECKING:
    from .walk import Walk


def finish(walk: Walk) -> None:
    """Finds the data output among the graph's outputs and checks that the chain ends there."""
    data: list[str] = []
    last: list[str] = []
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
        if isinstance(value, Flow) and value.final is None:
            data.append(name)
        elif isinstance(value, Flow) and value.version == walk.version:
            last.append(name)
    data = data or last
    if len(data) > 1:
        raise StillnetError(
            f"the graph has {len(data)} data outputs ("
            + ", ".join(f"'{d}'" for d in data)
            + "); stillnet gives one: export the part that computes one of them"
        )
    value = walk.env[data[0]] if data else None
    if not isinstance(value, Flow) or value.version != walk.version:
        raise StillnetError(
            f"graph output '{data[0] if data else walk.graph.outputs[0]}' is not the result "
            "of the last layer: export one output, that of the last layer"
        )
    if value.excess or value.padded:
        raise StillnetError(
            f"graph output '{data[0]}' is longer than the input, as a convolution or its padding "
            "left it; pad in front of the convolution only"
        )
    if walk.table is not None:
        raise StillnetError(
            f"node '{walk.changed_by}': it ends the network with an embedding, which no layer "
            "reads; export a graph with a layer behind it"
        )
    if walk.pending is not None:
        raise StillnetError(
            f"node '{walk.pending.node}': it scales or shifts the network's output, which no "
            "dense layer follows; remove it and compute it on the host"
        )
    if not walk.layers:
        raise StillnetError(
            f"the graph from '{walk.graph.data}' to '{data[0]}' holds no layer: export a "
            "graph with a GRU, LSTM, Gemm or MatMul"
        )
    _check_states(walk)


def _check_states(walk: Walk) -> None:
    """The engine carries the states of a layer to the same layer; the graph must mean that too."""
    for name, elements in walk.shared.items():
        walk.notes.append(
            f"state input '{name}' starts {' and '.join(sorted(elements))}; the engine carries a "
            "state of its own for each, so feed it zeros or one value for both"
        )
    pairs: list[tuple[str, str]] = []  # graph input, graph output
    for output in walk.graph.outputs:
        value = walk.env[output]
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
    names = [f"{state} of '{walk.layers[layer].name}'" for layer, state, _ in elements]
    runs = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    return ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
