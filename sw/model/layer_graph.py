"""Layers under construction: what importers fold, join and order before it becomes a model.

Files describe some layers in pieces: a dense layer and then its activation, a batch normalisation
and then the layer that it feeds, an embedding table and then the matrix that reads its rows. The
graph joins the pieces, in float64 and exactly. Vectors may also stand side by side (concatenation)
or be added; a layer that reads such a vector gets one matrix for each source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT

from .activations import CONVOLVED, Number
from .layers import Layer, Matrix
from .model import Model

__all__ = ["ACTIVATIONS", "LayerGraph", "Vector"]

ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
"""Activations that every framework defines alike, and that need no settings."""

_LAYER = 1024
"""Weights that take about as long to read as a layer needs besides its weights."""

Settings = Mapping[str, Number] | None
"""Of an activation, as :func:`.activations.activation_of` takes them."""


@dataclass(eq=False)
class _Source:
    """The network's input, a layer, or a dense layer that something may still join."""

    size: int | None
    index: int | None = None  # INPUT, or a layer's index once it is in the model
    pending: _Pending | None = None
    product: _Product | None = None
    table: np.ndarray | None = None  # (tokens, features) of an embedding of the input
    tokens: bool = False  # the input as one-hot vectors


@dataclass(frozen=True, eq=False)
class _Pending:
    """A dense layer or convolution that is not in the model yet."""

    name: str
    source: Vector
    weight: np.ndarray  # (units, inputs) or (units, inputs, taps)
    bias: np.ndarray
    activation: str = "linear"
    settings: Settings = None


@dataclass(frozen=True, eq=False)
class _Product:
    """A cell of several operands that is not in the model yet."""

    name: str
    cell: str
    size: int
    operands: dict[str, Vector]


@dataclass(frozen=True, eq=False)
class _Part:
    """``scale * v + shift`` of a source, one value a feature or scalars."""

    source: _Source
    scale: np.ndarray
    shift: np.ndarray
    by: str = ""  # the node that scaled, shifted or looked it up

    @property
    def plain(self) -> bool:
        return bool(np.all(self.scale == 1) and not np.any(self.shift))


@dataclass(frozen=True, eq=False)
class Vector:
    """What a layer may read: sources side by side."""

    parts: tuple[_Part, ...]

    @property
    def size(self) -> int | None:
        """Elements; None for an input whose size no layer has told yet."""
        sizes = [p.source.size for p in self.parts]
        return None if None in sizes else sum(s for s in sizes if s is not None)


class LayerGraph:
    """Builds a :class:`Model` from vectors and what is done with them.

    Parameters
    ----------
    name : str
        Name of the model.
    what : str
        What the messages call a part of the file, such as ``"layer"``.

    Attributes
    ----------
    dropped : list of str
        Layers that :meth:`model` left out, as no output depends on them.

    Raises
    ------
    StillnetError
        A layer does not fit the one before it; the message names it.
    """

    def __init__(self, name: str, what: str = "layer") -> None:
        self._name = name
        self._what = what
        self._model: Model | None = None
        self._input = _Source(None, INPUT)
        self._tokens: int | None = None
        self.dropped: list[str] = []

    def refuse(self, name: str, text: str) -> NoReturn:
        """Raises with the name of the layer in front."""
        raise StillnetError(f"{self._what} '{name}': {text}")

    # -- sources ----------------------------------------------------------------------------------

    def input(self, size: int | None = None) -> Vector:
        """The network's input; a layer tells its size where it is None."""
        self._input.size = size
        return _vector(self._input)

    def embedding(self, v: Vector, name: str, table: np.ndarray, fold: bool = True) -> Vector:
        """Rows of a table that the input, one token per step, looks up.

        Parameters
        ----------
        table : array, shape (tokens, features)
        fold : bool
            Multiply the table into the matrices that read it: one column a token. Otherwise it
            becomes a linear layer of its own, which is smaller where there are many tokens.
        """
        part = v.parts[0]
        if len(v.parts) > 1 or part.source is not self._input or not part.plain:
            self.refuse(
                name,
                "an embedding that is not the first layer is not supported; the engine takes "
                "tokens at its input only",
            )
        if table.ndim != 2 or 0 in table.shape:
            self.refuse(name, f"its table has shape {table.shape}; (tokens, features) is needed")
        if self._tokens not in (None, len(table)):
            self.refuse(
                name,
                f"it has {len(table)} tokens, another embedding of the same input {self._tokens}; "
                "one input has tokens of one kind",
            )
        self._tokens = len(table)
        if fold:
            return _vector(_Source(table.shape[1], INPUT, table=table), name)
        tokens = _vector(_Source(len(table), INPUT, tokens=True))
        return self.dense(tokens, name, table.T, None, "linear")

    def concat(self, vectors: Sequence[Vector]) -> Vector:
        """Vectors side by side."""
        return Vector(tuple(p for v in vectors for p in v.parts))

    def add(self, name: str, vectors: Sequence[Vector]) -> Vector:
        """The sum of vectors of one size: a linear layer of identity matrices."""
        sizes = {v.size for v in vectors}
        size = sizes.pop()
        if sizes or size is None:
            self.refuse(name, "it adds vectors of different or unknown sizes; save the model again")
        weight = np.hstack([np.eye(size)] * len(vectors))
        return self.dense(self.concat(vectors), name, weight, None, "linear")

    # -- what is done with them -------------------------------------------------------------------

    def affine(self, v: Vector, name: str, scale: np.ndarray, shift: np.ndarray) -> Vector:
        """``scale * v + shift``; joins the linear layer before it, or else the layers after it."""
        scale, shift = np.asarray(scale, float), np.asarray(shift, float)
        size = v.size
        if size is not None and any(a.ndim and a.shape != (size,) for a in (scale, shift)):
            self.refuse(name, f"it has {max(scale.size, shift.size)} values for {size} features")
        joined = _joinable(v)
        if joined is not None:
            rows = np.atleast_1d(scale).reshape(-1, *[1] * (joined.weight.ndim - 1))
            return self._open(
                replace(joined, weight=joined.weight * rows, bias=joined.bias * scale + shift)
            )
        parts, first = [], 0
        for p in v.parts:
            columns = slice(first, first + (p.source.size or 0))
            first = columns.stop
            a, b = (x[columns] if x.ndim and len(v.parts) > 1 else x for x in (scale, shift))
            if p.source.table is not None:
                table = p.source.table * a + b
                parts.append(replace(p, source=replace(p.source, table=table)))
            else:
                parts.append(_Part(p.source, p.scale * a, p.shift * a + b, name))
        return Vector(tuple(parts))

    def joins(self, v: Vector, kind: str) -> bool:
        """Whether an activation can join the layer before it."""
        joined = _joinable(v)
        return joined is not None and (joined.weight.ndim == 2 or kind in CONVOLVED)

    def activation(self, v: Vector, name: str, kind: str, settings: Settings = None) -> Vector:
        """An activation on its own: joins the linear layer before it.

        Parameters
        ----------
        kind : str
            One of :data:`.activations.ACTIVATION_NAMES`.
        settings : dict of str to float or array
            See :meth:`.Model.dense`.
        """
        if kind == "linear":
            return v
        joined = _joinable(v)
        if joined is not None and self.joins(v, kind):
            return self._open(replace(joined, activation=kind, settings=settings))
        if v.size is None:
            self.refuse(
                name,
                f"{kind} does not follow a layer; compute it on the host, or put a dense layer "
                "before it",
            )
        # Nothing to join: a layer of its own, its matrix the identity.
        return self.dense(v, name, np.eye(v.size), None, kind, settings)

    def dense(
        self,
        v: Vector,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        activation: str,
        settings: Settings = None,
    ) -> Vector:
        """A dense layer; ``weight`` (units, inputs)."""
        self._check(v, name, weight)
        bias = np.zeros(len(weight)) if bias is None else bias
        return self._open(_Pending(name, v, weight, bias, activation, settings))

    def picked(
        self, v: Vector, name: str, weight: np.ndarray, bias: np.ndarray, activation: str
    ) -> Vector:
        """A dense layer whose rows have one weight at most: joins the linear layer before it."""
        joined = _joinable(v)
        if joined is None or joined.weight.ndim != 2:
            return self.dense(v, name, weight, bias, activation)
        weight, bias = weight @ joined.weight, weight @ joined.bias + bias
        return self.dense(joined.source, name, weight, bias, activation)

    def product(self, name: str, cell: str, operands: Mapping[str, Vector]) -> Vector:
        """A cell of several accumulators, each of which is a vector of one size.

        Linear layers that are not read by anything else are taken in: their weights become those
        of the cell.

        Parameters
        ----------
        cell : str
            ``"product"`` or ``"mask"``.
        operands : dict of accumulator to Vector
        """
        sizes = {v.size for v in operands.values()}
        size = sizes.pop()
        if sizes or size is None:
            self.refuse(
                name, "it multiplies vectors of different or unknown sizes; save the model again"
            )
        return _vector(_Source(size, product=_Product(name, cell, size, dict(operands))))

    def conv(
        self,
        v: Vector,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        activation: str,
        settings: Settings = None,
    ) -> Vector:
        """A causal convolution in time; ``weight`` (units, inputs, taps), the newest tap last."""
        if weight.shape[2] == 1:
            return self.dense(v, name, weight[:, :, 0], bias, activation, settings)
        self._check(v, name, weight[:, :, 0])
        for p in v.parts:
            if np.any(p.shift):
                self.refuse(
                    name,
                    f"its input is shifted by '{p.by}', and zeros are put in front after "
                    "that; shift the recording on the host",
                )
        bias = np.zeros(len(weight)) if bias is None else bias
        out = self._open(_Pending(name, v, weight, bias))
        own = name if activation in CONVOLVED else f"{name}.act"
        return self.activation(out, own, activation, settings)

    def recurrent(
        self, v: Vector, name: str, w: np.ndarray, b: np.ndarray | None, add: Callable[..., Any]
    ) -> Vector:
        """A recurrent layer.

        Parameters
        ----------
        w : array, shape (gates * units, inputs)
        b : array, shape (gates * units,)
            Bias on the side of the inputs, which takes the shift of an affine before it.
        add : callable
            ``add(model, w, b)`` adds the layer to a model.
        """
        self._check(v, name, w)
        sources, folded, shift = self._enter(v, w)
        index = self._place(sources, lambda model: add(model, folded, _plus(b, shift)))
        return _vector(_Source(self._layers()[index].units, index))

    def model(self, outputs: Sequence[tuple[str, Vector]]) -> Model:
        """The finished model, whose output is the vectors named, side by side."""
        for _, v in outputs:
            for p in v.parts:
                if p.source.table is not None:
                    self.refuse(
                        p.by,
                        "it ends the network with an embedding, which no layer reads; save a "
                        "model with a layer after it",
                    )
        out = self.concat([v for _, v in outputs])
        if all(p.source.index == INPUT for p in out.parts):
            raise StillnetError(
                f"model '{self._name}' holds no layer: save a model with a recurrent or dense layer"
            )
        out = self._one_layer(out)
        ends = [self._settle(p.source) for p in out.parts]
        ends = self._drop(ends)
        if ends != [len(self._layers()) - 1]:
            for p, index in zip(out.parts, ends):
                p.source.index = index
            size = out.size
            assert size is not None
            joined = self.dense(out, "outputs", np.eye(size), None, "linear")
            self._settle(joined.parts[0].source)
        assert self._model is not None
        return self._model

    def _one_layer(self, out: Vector) -> Vector:
        """The output as one layer that is still to be made, where it can be one: a linear layer
        for a scale or a shift; one layer for several of one activation that nothing else reads.
        """
        if any(not p.plain for p in out.parts):
            size = out.size
            assert size is not None
            by = next(p.by for p in out.parts if not p.plain)
            return self.dense(out, by or "outputs", np.eye(size), None, "linear")
        pending = [p.source.pending for p in out.parts if p.source.index is None]
        heads = [h for h in pending if h is not None and h.weight.ndim == 2 and not h.settings]
        alike = len({h.activation for h in heads}) == 1
        if len(heads) < len(out.parts) or len(heads) == 1 or not alike:
            return out
        inputs = list(dict.fromkeys(h.source for h in heads))
        places, first = {}, 0
        for v in inputs:
            assert v.size is not None
            places[v] = first
            first += v.size
        weight = np.zeros((sum(len(h.weight) for h in heads), first))
        row = 0
        for h in heads:
            at, columns = places[h.source], h.weight.shape[1]
            weight[row : row + len(h.weight), at : at + columns] = h.weight
            row += len(h.weight)
        bias = np.concatenate([h.bias for h in heads])
        return self.dense(self.concat(inputs), "outputs", weight, bias, heads[0].activation)

    def _drop(self, ends: list[int]) -> list[int]:
        """Leaves out layers that these do not depend on; the indices of these afterwards."""
        layers = self._layers()
        kept: set[int] = set()
        todo = list(ends)
        while todo:
            index = todo.pop()
            if index != INPUT and index not in kept:
                kept.add(index)
                todo += [m.source for m in layers[index].matrices]
                todo += layers[index].peers.values()
        self.dropped = [layer.name for i, layer in enumerate(layers) if i not in kept]
        new = {INPUT: INPUT} | {old: i for i, old in enumerate(sorted(kept))}
        layers[:] = [
            replace(
                layers[i],
                matrices=tuple(replace(m, source=new[m.source]) for m in layers[i].matrices),
                peers={k: new[p] for k, p in layers[i].peers.items()},
            )
            for i in sorted(kept)
        ]
        return [new[i] for i in ends]

    # -- folding ----------------------------------------------------------------------------------

    def _open(self, pending: _Pending) -> Vector:
        return _vector(_Source(len(pending.weight), pending=pending))

    def _layers(self) -> list[Any]:
        return self._model.layers if self._model is not None else []

    def _check(self, v: Vector, name: str, weight: np.ndarray) -> None:
        """Checks a matrix (rows, inputs) against the vector; tells the input its size."""
        if weight.ndim != 2 or 0 in weight.shape:
            self.refuse(name, f"its weights have shape {weight.shape}; a matrix is needed")
        if v.size is None and len(v.parts) == 1:
            v.parts[0].source.size = weight.shape[1]
        if v.size != weight.shape[1]:
            before = "vectors before it give" if len(v.parts) > 1 else "layer before gives"
            self.refuse(
                name,
                f"its weights take {weight.shape[1]} inputs, but the {before} {v.size}; "
                "save the model again",
            )

    def _enter(
        self, v: Vector, weight: np.ndarray
    ) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
        """Folds scales, shifts, tables and moves into a matrix (rows, inputs).

        Moved elements are read where they come from, unless that takes more weights.

        Returns (index, columns) of each source, the matrix, and what it adds to the bias.
        """
        sources: list[tuple[int, int]] = []
        columns: list[np.ndarray] = []
        first, shift = 0, np.zeros(len(weight))
        for p in v.parts:
            assert p.source.size is not None
            part = weight[:, first : first + p.source.size]
            first += p.source.size
            shift = shift + part @ np.broadcast_to(p.shift, part.shape[1:])
            part = part * p.scale
            pick = _pick(p.source)
            if pick is not None and _better_folded(len(part), pick):
                found, folded, more = self._enter(pick.source, part @ pick.weight)
                sources, columns, shift = [*sources, *found], [*columns, folded], shift + more
                continue
            if p.source.table is not None:
                part = part @ p.source.table.T
            sources.append((self._settle(p.source), part.shape[1]))
            columns.append(part)
        return sources, np.hstack(columns), shift

    def _settle(self, source: _Source) -> int:
        """The index of a source; puts a layer that was pending into the model."""
        if source is self._input and self._tokens is not None:
            raise StillnetError(
                f"the input of model '{self._name}' is read as tokens and as numbers; save a model "
                "that reads it in one way"
            )
        if source.index is None and source.product is not None:
            source.index = self._place_product(source.product)
        if source.index is None:
            pending = source.pending
            assert pending is not None
            units, size = pending.weight.shape[:2]
            taps = pending.weight.shape[2:]
            flat = np.moveaxis(pending.weight, 1, -1).reshape(-1, size)
            sources, flat, shift = self._enter(pending.source, flat)
            weight = np.moveaxis(flat.reshape(units, *taps, -1), -1, 1)
            bias = pending.bias + shift.reshape(units, -1).sum(axis=1)

            def build(model: Model) -> None:
                add = model.conv if taps else model.dense
                add(weight, bias, pending.activation, settings=pending.settings, name=pending.name)

            source.index = self._place(sources, build)
        return source.index

    def _place_product(self, product: _Product) -> int:
        """Adds a cell of several operands; its index."""
        size = product.size
        sources: list[tuple[int, int]] = []
        matrices: list[tuple[str, int, np.ndarray]] = []  # gate, first column, weights
        bias = {}
        for gate, v in product.operands.items():
            joined = _joinable(v)
            if joined is not None and joined.weight.ndim == 2:
                v, weight, bias[gate] = joined.source, joined.weight, joined.bias
            else:
                weight, bias[gate] = np.eye(size), np.zeros(size)
            first = sum(columns for _, columns in sources)
            found, folded, shift = self._enter(v, weight)
            bias[gate] = bias[gate] + shift
            sources += found
            matrices.append((gate, first, folded))
        width = sum(columns for _, columns in sources)

        def build(model: Model) -> None:
            parts = []
            for gate, first, folded in matrices:
                whole = np.zeros((1, size, width))
                whole[0, :, first : first + folded.shape[1]] = folded
                parts.append(Matrix(INPUT, (gate,), whole))
            model.layers.append(Layer(product.name, product.cell, size, tuple(parts), bias))

        index = self._place(sources, build)
        layers = self._layers()
        layers[index] = replace(layers[index], matrices=_stacked(layers[index].matrices))
        return index

    def _unique(self, name: str) -> str:
        """A name that no layer has: one that is read before and after an activation is two."""
        names, number = {layer.name for layer in self._layers()}, 2
        found = name
        while found in names:
            found, number = f"{name}.{number}", number + 1
        return found

    def _place(self, sources: list[tuple[int, int]], build: Callable[[Model], Any]) -> int:
        """Adds layers that ``build`` puts on a model of one input; the index of the last one.

        Their matrices of that input are divided among the sources.
        """
        if self._model is None:
            inputs = self._input.size if self._tokens is None else self._tokens
            assert inputs is not None
            self._model = Model(inputs, name=self._name, one_hot=self._tokens is not None)
        small = Model(sum(columns for _, columns in sources))
        build(small)
        offset = len(self._model.layers)
        for layer in small.layers:
            matrices: list[Matrix] = []
            for m in layer.matrices:
                if m.source != INPUT:
                    matrices.append(replace(m, source=m.source + offset))
                    continue
                first = 0
                for index, columns in sources:
                    part = m.weight[:, :, first : first + columns]
                    matrices.append(Matrix(index, m.gates, part))
                    first += columns
            peers = {k: i + offset for k, i in layer.peers.items()}
            merged = replace(layer, matrices=tuple(_merged(matrices)), peers=peers)
            self._model.layers.append(replace(merged, name=self._unique(layer.name)))
        return len(self._model.layers) - 1


def _vector(source: _Source, by: str = "") -> Vector:
    return Vector((_Part(source, np.ones(()), np.zeros(()), by),))


def _joinable(v: Vector) -> _Pending | None:
    """The linear layer that an activation or a scale may join, if the vector is one."""
    part = v.parts[0]
    pending = part.source.pending
    fits = len(v.parts) == 1 and part.plain and part.source.index is None
    return pending if fits and pending is not None and pending.activation == "linear" else None


def _pick(source: _Source) -> _Pending | None:
    """The layer that only puts elements in other places, or leaves them out, if a source is one."""
    pending = source.pending
    if pending is None or source.index is not None or pending.activation != "linear":
        return None
    moves = pending.weight.ndim == 2 and not np.any(pending.bias)
    return pending if moves and np.all(np.count_nonzero(pending.weight, axis=1) <= 1) else None


def _better_folded(rows: int, pick: _Pending) -> bool:
    """Whether rows should read elements where they come from: as a rule where that takes fewer
    weights than the layer that moves them and rows that read only what they need."""
    moved, size = pick.weight.shape
    return rows * size <= rows * moved + moved * size + _LAYER


def _plus(a: np.ndarray | None, b: np.ndarray) -> np.ndarray:
    return b if a is None else a + b


def _merged(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Matrices of one source into the same gates become their sum."""
    found: dict[tuple[int, tuple[str, ...]], np.ndarray] = {}
    for m in matrices:
        key = (m.source, m.gates)
        found[key] = found[key] + m.weight if key in found else m.weight
    return [Matrix(source, gates, weight) for (source, gates), weight in found.items()]


def _stacked(matrices: Sequence[Matrix]) -> tuple[Matrix, ...]:
    """Without matrices of zeros; those of one source, of different accumulators, become one."""
    found: dict[int, Matrix] = {}
    for m in matrices:
        if not np.any(m.weight):
            continue
        known = found.get(m.source)
        if known is not None:
            m = Matrix(m.source, known.gates + m.gates, np.concatenate([known.weight, m.weight]))
        found[m.source] = m
    return tuple(found.values())
