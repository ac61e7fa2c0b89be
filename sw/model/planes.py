"""Weights of sixteen bits for chosen layers: two planes of eight.

A matrix W reads a vector v. Its second plane reads a copy of v that is coarser by ``PLANE_BITS``
bits: accumulators have the fraction of the vector plus that of the matrix, so that weights of a
coarser vector are finer by as many bits. The copy is a linear layer of its own with the identity as
its matrix, so that engine, image and reference know nothing of it:

    W v = high v + low copy(v),      |low| <= half a step of high

The copy errs by 2**-PLANE_BITS of what v errs, times a weight of half a step: nothing. It moves
seldom, so that its events are few.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT

from .equalize import Exponents
from .model import Layer, Matrix, Model

__all__ = ["NOISE", "PLANE_BITS", "Planes", "two_planes"]

PLANE_BITS = 7
"""By so many bits a copy is coarser: a low weight of 7 bits and a sign is then half a step of the
high one at most."""

NOISE = 4.0**-PLANE_BITS
"""Noise of weights with second planes beside those with one: their step is finer by as many bits.
Vectors have the formats that they have beside one plane, with as much room."""


@dataclass(frozen=True)
class Planes:
    """Which layers of a model are copies, for second planes.

    Attributes
    ----------
    copies : dict of int to int
        By copy, the source that it copies.
    """

    copies: dict[int, int] = field(default_factory=dict)

    def of(self, source: int) -> list[int]:
        """Copies of a source: one or none."""
        return [c for c, s in self.copies.items() if s == source]

    def pairs(self, sources: Iterable[int]) -> list[tuple[int, int]]:
        """(place of the source, place of its copy) in a list of sources."""
        places = {s: k for k, s in enumerate(sources)}
        return [
            (places[s], places[c]) for c, s in self.copies.items() if s in places and c in places
        ]

    def follow(self, elements: Exponents) -> None:
        """Gives elements of copies the powers of two of what they copy, in place."""
        for copy, source in self.copies.items():
            elements.pop(copy, None)
            if source in elements:
                elements[copy] = elements[source]


def two_planes(model: Model, names: Iterable[str]) -> tuple[Model, Planes]:
    """The same function with room for second planes in the layers of some names.

    Raises
    ------
    StillnetError
        For names that the model does not have, and for layers that cannot have a second plane.
    """
    wanted = set(names)
    known = [layer.name for layer in model.layers]
    for name in sorted(wanted - set(known)):
        raise StillnetError(f"planes: there is no layer '{name}'; the model has {', '.join(known)}")
    sources = {m.source for layer in model.layers if layer.name in wanted for m in layer.matrices}
    last = len(model.layers) - 1
    for source in sources:
        _check(model, source, last)
    if not sources:
        return model, Planes()
    place = _places(model, sources)
    copy = {s: (0 if s == INPUT else place[s] + 1) for s in sources}
    layers: dict[int, Layer] = {}
    for i, layer in enumerate(model.layers):
        matrices = []
        for m in layer.matrices:
            matrices.append(replace(m, source=place[m.source]))
            if layer.name in wanted:
                matrices.append(Matrix(copy[m.source], m.gates, np.zeros_like(m.weight)))
        peers = {s: place[j] for s, j in layer.peers.items()}
        layers[place[i]] = replace(layer, matrices=tuple(matrices), peers=peers)
    for source, at in copy.items():
        size = model.source_size(source)
        name = "input" if source == INPUT else model.layers[source].name
        identity = Matrix(place[source], ("y",), np.eye(size)[None])
        bias = {"y": np.zeros(size)}
        layers[at] = Layer(f"{name}.low", "linear", size, (identity,), bias)
    copies = {at: place[source] for source, at in copy.items()}
    return replace(model, layers=[layers[i] for i in sorted(layers)]), Planes(copies)


def _check(model: Model, source: int, last: int) -> None:
    if source == INPUT and model.one_hot:
        raise StillnetError("planes: tokens have no second plane; name other layers")
    if source == INPUT:
        return
    layer = model.layers[source]
    if source == last:
        raise StillnetError(
            f"planes: layer '{layer.name}' reads itself and is the output; add a layer behind it"
        )
    if layer.plain or CELLS[layer.cell].floors:
        raise StillnetError(
            f"planes: layer '{layer.name}' sends plain events, which have no second plane"
        )


def _places(model: Model, sources: set[int]) -> dict[int, int]:
    """Where the input and each layer stand once a copy stands behind each of some sources."""
    places, moved = {INPUT: INPUT}, int(INPUT in sources)
    for i in range(len(model.layers)):
        places[i] = i + moved
        moved += i in sources
    return places
