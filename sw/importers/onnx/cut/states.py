"""The roles of a graph's inputs: data, states that come back as outputs, given constants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from stillnet.sw.contract.errors import StillnetError

if TYPE_CHECKING:
    import onnx

__all__ = ["Backwards", "Port", "Roles", "Unclear", "assign_roles", "ports"]

_DECORATION = re.compile(r"(_?(in|out|input|output|new|next|prev|previous|cur|t|n|0|1|i|o))+$")

_STATE = re.compile(r"(^|[^a-z])[hc]([^a-z]|$)|hid|state|cell|cache|mem|c(on)?te?xt|buf|past")
"""Names of what is carried from step to step."""


class Unclear(StillnetError):
    """The model does not say something that its user can say with an option."""


class Backwards(Unclear):
    """A layer that reads a recording from its end, whatever else the model is."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes
    ----------
    name : str
    type : int
        Element type of ONNX.
    shape : tuple of (int or str)
        A name, or ``"?"``, where the size is dynamic.
    ranked : bool
        The file says how many axes there are; else ``shape`` is empty.
    """

    name: str
    type: int
    shape: tuple[int | str, ...]
    ranked: bool = True


@dataclass(frozen=True)
class Roles:
    """What the inputs of a graph are for.

    Attributes
    ----------
    data : str
    states : dict of str to str
        Inputs that carry a state, and the output that gives its next value.
    """

    data: str
    states: dict[str, str]


def ports(values: Sequence[onnx.ValueInfoProto]) -> list[Port]:
    """Inputs or outputs of a graph with their shapes."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(
            d.dim_value if d.dim_value > 0 else (d.dim_param or "?") for d in tensor.shape.dim
        )
        found.append(Port(value.name, tensor.elem_type, shape, tensor.HasField("shape")))
    return found


def assign_roles(
    inputs: Sequence[Port], outputs: Sequence[Port], given: Mapping[str, str]
) -> Roles:
    """Finds the data input and the output of each state.

    An input and an output belong together where shape and type agree; names decide among several.
    One input and one output are left for the data.

    Parameters
    ----------
    inputs, outputs : sequence of Port
    given : dict of str to str
        Pairs that the user names, as ``--state in=out``.

    Raises
    ------
    Unclear
        Where more than one input is left.
    """
    for kind, names, known in (
        ("input", given.keys(), [p.name for p in inputs]),
        ("output", given.values(), [p.name for p in outputs]),
    ):
        for name in names:
            if name not in known:
                raise Unclear(
                    f"--state: the graph has no {kind} '{name}'; its {kind}s are {', '.join(known)}"
                )
    states = dict(given)
    free = [p for p in outputs if p.name not in states.values()]
    rest = [p for p in inputs if p.name not in states]
    scores = sorted(
        ((_likeness(i, o), -rest.index(i), -free.index(o), i, o) for i in rest for o in free),
        key=lambda item: item[:3],
        reverse=True,
    )
    for score, _, _, i, o in scores:
        left = len(rest) - sum(p.name in states for p in rest)
        taken = i.name in states or o.name in states.values()
        first = i is rest[0] and o is free[0] and score < 1.5
        if score > 0 and left > 1 and not taken and not first:
            states[i.name] = o.name
    data = [p for p in inputs if p.name not in states]
    if len(data) != 1:
        listed = ", ".join(f"'{p.name}' {p.shape}".replace("'", "") for p in data)
        raise Unclear(
            f"the graph has {len(data)} data inputs ({listed}); name the output that carries a "
            "state on with --state INPUT=OUTPUT, and give constants with --set INPUT=VALUE"
            if data
            else "every input of the graph is a state: name the states with --state INPUT=OUTPUT"
        )
    return Roles(data[0].name, states)


def _likeness(i: Port, o: Port) -> float:
    """0 where the two cannot belong together, or where their names say nothing of a state."""
    known = i.ranked and o.ranked
    if i.type != o.type or (known and len(i.shape) != len(o.shape)):
        return 0.0
    if known and any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(i.shape, o.shape)
    ):
        return 0.0
    a, b = (_DECORATION.sub("", p.name.lower()) or p.name.lower() for p in (i, o))
    if a == b:
        return 2.0
    return 1.0 + SequenceMatcher(None, a, b).ratio() / 2 if _STATE.search(i.name.lower()) else 0.0
