"""A chain of layers under construction: what importers fold before it becomes a model.

Files describe some layers in pieces: a dense layer and then its activation, a batch normalisation
and then the layer that it feeds, an embedding table and then the matrix that reads its rows. The
chain joins the pieces, in float64 and exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .errors import StillnetError
from .model import Model

__all__ = ["ACTIVATIONS", "LayerChain"]

ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
"""Activations of a dense layer."""


@dataclass
class _Dense:
    """A dense layer that an activation or a scale may still join."""

    name: str
    weight: np.ndarray  # (units, inputs)
    bias: np.ndarray  # (units,)
    activation: str


@dataclass
class _Conv:
    """A convolution that an activation or a scale may still join."""

    name: str
    weight: np.ndarray  # (units, inputs, taps), newest last
    bias: np.ndarray  # (units,)
    activation: str


@dataclass
class _Affine:
    """``scale * v + shift``, one value a feature, not yet part of a layer."""

    name: str
    scale: np.ndarray
    shift: np.ndarray


class LayerChain:
    """Builds a :class:`Model` from the input to the output.

    Parameters
    ----------
    name : str
        Name of the model.
    inputs : int, optional
        Elements of the input vector; the first layer decides where it is absent.
    what : str
        What the messages call a part of the file, such as ``"layer"``.

    Raises
    ------
    StillnetError
        A layer does not fit the one before it; the message names it.
    """

    def __init__(self, name: str, inputs: int | None = None, what: str = "layer") -> None:
        self._name = name
        self._inputs = inputs
        self._what = what
        self._model: Model | None = None
        self._table: np.ndarray | None = None  # (tokens, features)
        self._table_name = ""
        self._tokens: int | None = None
        self._open: _Dense | _Conv | None = None
        self._affine: _Affine | None = None

    @property
    def size(self) -> int | None:
        """Elements of the vector at the end of the chain; None before anything is known."""
        if self._open is not None:
            return len(self._open.weight)
        if self._table is not None:
            return self._table.shape[1]
        return self._inputs if self._model is None else self._model.outputs

    @property
    def empty(self) -> bool:
        """Nothing has changed the input yet."""
        return self._model is None and self._open is None and self._affine is None

    def refuse(self, name: str, text: str) -> NoReturn:
        """Raises with the name of the layer in front."""
        raise StillnetError(f"{self._what} '{name}': {text}")

    # -- parts ------------------------------------------------------------------------------------

    def embedding(self, name: str, table: np.ndarray, fold: bool = True) -> None:
        """A table that the input, one token a step, looks rows up in.

        Parameters
        ----------
        table : array, shape (tokens, features)
        fold : bool
            Multiply the table into the matrix of the next layer: one column a token. Otherwise
            it becomes a linear layer of its own, which is smaller where there are many tokens.
        """
        if not self.empty or self._table is not None:
            self.refuse(
                name,
                "an embedding that is not the first layer is not supported; the engine takes "
                "tokens at its input only",
            )
        self._check_inputs(name, len(table))
        self._tokens = len(table)
        if fold:
            self._table, self._table_name = table, name
        else:
            self.dense(name, table.T, None, "linear")
            self._flush()

    def affine(self, name: str, scale: np.ndarray, shift: np.ndarray) -> None:
        """``scale * v + shift``; joins the linear layer before it, or else the layer after it."""
        size = self.size
        if size is not None and any(a.ndim and a.shape != (size,) for a in (scale, shift)):
            self.refuse(name, f"it has {max(scale.size, shift.size)} values for {size} features")
        if self._open is not None and self._open.activation == "linear":
            rows = np.atleast_1d(scale).reshape(-1, *[1] * (self._open.weight.ndim - 1))
            self._open.weight = self._open.weight * rows
            self._open.bias = self._open.bias * scale + shift
            return
        self._flush()
        if self._table is not None:
            self._table = self._table * scale + shift
            return
        old = self._affine or _Affine("", np.ones(()), np.zeros(()))
        self._affine = _Affine(name, old.scale * scale, old.shift * scale + shift)

    def activation(self, name: str, kind: str) -> None:
        """An activation on its own: joins the linear layer before it."""
        if kind == "linear":
            return
        joins = "relu" if isinstance(self._open, _Conv) else kind
        if self._open is not None and self._open.activation == "linear" and kind == joins:
            self._open.activation = kind
            self._flush()
            return
        size = self.size
        if size is None or self._table is not None:
            self.refuse(
                name,
                f"{kind} does not follow a layer; compute it on the host, or put a dense layer "
                "before it",
            )
        # Nothing to join: a layer of its own, its matrix the identity.
        self.dense(name, np.eye(size), None, kind)

    def dense(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None, activation: str
    ) -> None:
        """A dense layer; ``weight`` (units, inputs)."""
        weight, shift = self._enter(name, weight)
        bias = shift if bias is None else bias + shift
        self._open = _Dense(name, weight, bias, activation)
        if activation != "linear":
            self._flush()

    def conv(self, name: str, weight: np.ndarray, bias: np.ndarray | None, activation: str) -> None:
        """A causal convolution in time; ``weight`` (units, inputs, taps), the newest tap last."""
        units, size, taps = weight.shape
        if taps == 1:
            self.dense(name, weight[:, :, 0], bias, activation)
            return
        if self._affine is not None and np.any(self._affine.shift):
            self.refuse(
                name,
                f"its input is shifted by '{self._affine.name}', and zeros are put in front after "
                "that; shift the recording on the host",
            )
        flat, shift = self._enter(name, weight.transpose(0, 2, 1).reshape(units * taps, size))
        weight = flat.reshape(units, taps, -1).transpose(0, 2, 1)
        bias = np.zeros(units) if bias is None else bias
        self._open = _Conv(name, weight, bias + shift.reshape(units, taps).sum(axis=1), "linear")
        self.activation(f"{name}.{activation}", activation)

    def recurrent(
        self, name: str, w: np.ndarray, b: np.ndarray | None, add: Callable[..., Any]
    ) -> None:
        """A recurrent layer.

        Parameters
        ----------
        w : array, shape (gates * units, inputs)
        b : array, shape (gates * units,)
            Bias on the side of the inputs, which takes the shift of an affine before it.
        add : callable
            ``add(model, w, b)`` adds the layer to the model.
        """
        w, shift = self._enter(name, w)
        add(self._need_model(), w, shift if b is None else b + shift)

    def model(self) -> Model:
        """The finished model."""
        self._flush()
        if self._affine is not None:
            self.refuse(
                self._affine.name,
                "it scales or shifts the network's output, which no dense layer follows; remove "
                "it and compute it on the host",
            )
        if self._table is not None:
            self.dense(self._table_name, np.eye(self._table.shape[1]), None, "linear")
            self._flush()
        if self._model is None or not self._model.layers:
            raise StillnetError(
                f"model '{self._name}' holds no layer: save a model with a recurrent or dense layer"
            )
        return self._model

    # -- folding ----------------------------------------------------------------------------------

    def _check_inputs(self, name: str, size: int) -> None:
        if self._inputs is None:
            self._inputs = size

    def _need_model(self) -> Model:
        if self._model is None:
            assert self._inputs is not None
            one_hot = self._tokens is not None
            inputs = self._tokens if self._tokens is not None else self._inputs
            self._model = Model(inputs, name=self._name, one_hot=one_hot)
        return self._model

    def _flush(self) -> None:
        """Adds the dense layer that nothing can join any more."""
        if self._open is not None:
            d, self._open = self._open, None
            model = self._need_model()
            add = model.conv if isinstance(d, _Conv) else model.dense
            add(d.weight, d.bias, d.activation, name=d.name)

    def _enter(self, name: str, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Folds what waits into a matrix (rows, inputs); the same and a bias (rows,)."""
        self._flush()
        size = self.size
        if weight.ndim != 2 or 0 in weight.shape:
            self.refuse(name, f"its weights have shape {weight.shape}; a matrix is needed")
        if size is not None and weight.shape[1] != size:
            self.refuse(
                name,
                f"its weights take {weight.shape[1]} inputs, but the layer before gives {size}; "
                "save the model again",
            )
        if self._inputs is None:
            self._inputs = weight.shape[1]
        shift = np.zeros(len(weight))
        if self._affine is not None:
            a, self._affine = self._affine, None
            shift = weight @ np.broadcast_to(a.shift, weight.shape[1:])
            weight = weight * a.scale
        if self._table is not None:
            weight, self._table = weight @ self._table.T, None
        return weight, shift
