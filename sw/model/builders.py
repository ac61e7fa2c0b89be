"""Description of a float model from arrays: one method a kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.conv import DELAY, MAX_TAPS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT

from .activations import CONVOLVED, Activation, Number, activation_of, apply
from .layers import Layer, Matrix, checked

__all__ = ["Builders", "each", "gate_biases", "gate_order", "initial_state", "vector"]


class Builders:
    """Methods of a model that add layers on top and return the model.

    All weights are as in PyTorch: rows are units (gate by gate), columns are elements of the
    source. What is absent is zero. Recurrent layers take an initial state; it is set wherever a
    sequence begins.
    """

    inputs: int
    layers: list[Layer]

    # -- layers without gates

    def leaky(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        rate: np.ndarray | float = 0.5,
        *,
        name: str | None = None,
    ) -> Self:
        """Adds leaky integrators on top: s moves to ``weight @ x + bias`` by ``rate`` of the way.

        Parameters
        ----------
        weight : array, shape (units, inputs of the layer)
        bias : array, shape (units,)
        rate : array, shape (units,), or float
            0 to 1; 1 - exp(-dt / tau) for a time constant tau.
        """
        name = name or f"leaky{len(self.layers)}"
        weight, bias = self._dense(name, weight, bias)
        rates = vector(name, "rate", each(rate, len(weight)), len(weight))
        self._add(
            name,
            "leaky",
            len(weight),
            (Matrix(self._top(), ("x",), weight[None]),),
            {"x": bias},
            parameters={"rate": rates},
        )
        return self

    def conv(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        activation: str = "linear",
        *,
        settings: Mapping[str, Number] | None = None,
        name: str | None = None,
    ) -> Self:
        """Adds a causal convolution in time on top.

        Parameters
        ----------
        weight : array, shape (units, inputs of the layer, taps)
            As of a Conv1d whose input has ``taps - 1`` zero vectors in front: the last tap
            multiplies the newest vector.
        bias : array, shape (units,)
        activation : str
            ``"linear"`` or ``"relu"``; any other of :meth:`dense` becomes a layer of its own.
        settings : dict of str to float or array
            Of the activation, see :meth:`dense`.

        More than eight taps take ``delay`` layers in front, one for each seven further taps.
        """
        name = name or f"conv{len(self.layers)}"
        weight = checked(name, "weight", weight, 3)
        units, size, taps = weight.shape
        if size != self._top_size() or units == 0 or taps == 0:
            raise StillnetError(
                f"layer '{name}': weight has shape {weight.shape}, expected (units, "
                f"{self._top_size()}, taps)"
            )
        if taps == 1:
            return self.dense(weight[:, :, 0], bias, activation, settings=settings, name=name)
        if activation not in CONVOLVED:
            self.conv(weight, bias, name=name)
            after = f"{name}.{activation}"
            return self.dense(np.eye(units), None, activation, settings=settings, name=after)
        newest_first = np.ascontiguousarray(weight[:, :, ::-1].transpose(2, 0, 1))
        own = taps if taps <= MAX_TAPS else DELAY
        matrices = []
        for k, first in enumerate(range(0, taps, own)):
            if k:
                self._delay(f"{name}.delay{k}" if k > 1 else f"{name}.delay", size)
            part = newest_first[first : first + own]
            used = [g for g in range(len(part)) if taps <= MAX_TAPS or np.any(part[g])]
            if used:
                matrices.append(Matrix(self._top(), tuple(f"a{g}" for g in used), part[used]))
        biases = {f"a{k}": np.zeros(units) for k in range(own)}
        biases["a0"] = vector(name, "bias", bias, units)
        cell = f"conv{own}" + ("_relu" if activation == "relu" else "")
        self._add(name, cell, units, tuple(matrices), biases)
        return self

    def _delay(self, name: str, size: int) -> None:
        """Adds a layer with what the one below was seven steps before."""
        matrix = Matrix(self._top(), ("y",), np.eye(size)[None])
        self._add(name, "delay", size, (matrix,), {"y": np.zeros(size)})

    def dense(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        activation: str = "linear",
        *,
        settings: Mapping[str, Number] | None = None,
        name: str | None = None,
    ) -> Self:
        """Adds a dense layer on top: ``activation(weight @ x + bias)``.

        Parameters
        ----------
        weight : array, shape (units, inputs of the layer)
        bias : array, shape (units,)
        activation : str
            linear, relu, sigmoid, tanh, relu6, leaky_relu, prelu, clip, hard_tanh, hard_sigmoid,
            hard_swish, elu, selu, celu, gelu, gelu_tanh, silu (or swish), softplus, softsign, abs,
            erf, exp or sqrt.
        settings : dict of str to float, or array of one value for each unit
            ``slope`` of leaky_relu (0.01) and prelu (0.25); ``low`` and ``high`` of clip, which
            may be infinite; ``alpha`` of elu, celu, selu and hard_sigmoid (1/6); ``beta`` of
            hard_sigmoid (1/2); ``gamma`` of selu.
        """
        name = name or f"dense{len(self.layers)}"
        weight, bias = self._dense(name, weight, bias)
        found = activation_of(f"layer '{name}'", activation, settings)
        weight, bias = apply(found, weight, bias)
        self._add(
            name,
            found.cell,
            len(weight),
            (Matrix(self._top(), ("y",), weight[None]),),
            {"y": bias},
            parameters=_parameters(name, found, len(weight)),
        )
        return self

    def rnn(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        b_ih: np.ndarray | None = None,
        b_hh: np.ndarray | None = None,
        *,
        activation: str = "tanh",
        settings: Mapping[str, Number] | None = None,
        name: str | None = None,
    ) -> Self:
        """Adds an Elman network on top: ``h = activation(w_ih @ x + b_ih + w_hh @ h + b_hh)``.

        Parameters
        ----------
        w_ih : array, shape (units, inputs of the layer)
        w_hh : array, shape (units, units)
        b_ih, b_hh : array, shape (units,)
        activation, settings
            As of :meth:`dense`.
        """
        name = name or f"rnn{len(self.layers)}"
        w_ih, bias = self._dense(name, w_ih, b_ih)
        units = len(w_ih)
        w_hh = checked(name, "w_hh", w_hh, 2)
        if w_hh.shape != (units, units):
            raise StillnetError(
                f"layer '{name}': w_hh has shape {w_hh.shape}, expected {(units, units)}"
            )
        found = activation_of(f"layer '{name}'", activation, settings)
        both = np.hstack([w_ih, w_hh])
        both, bias = apply(found, both, bias + vector(name, "b_hh", b_hh, units))
        inputs, own = np.split(both, [w_ih.shape[1]], axis=1)
        self._add(
            name,
            found.cell,
            units,
            (Matrix(self._top(), ("y",), inputs[None]), Matrix(self._top() + 1, ("y",), own[None])),
            {"y": bias},
            parameters=_parameters(name, found, units),
        )
        return self

    # -- any cell

    def layer(
        self,
        cell: str,
        w_x: Mapping[str, np.ndarray],
        w_h: Mapping[str, np.ndarray] | None = None,
        bias: Mapping[str, np.ndarray] | None = None,
        *,
        parameters: Mapping[str, np.ndarray] | None = None,
        peers: Mapping[str, int] | None = None,
        initial: Mapping[str, np.ndarray] | None = None,
        plain: bool = False,
        name: str | None = None,
    ) -> Self:
        """Adds a layer of any registered cell on top, your own included.

        Parameters
        ----------
        cell : str
        w_x : dict of accumulator to array, shape (units, inputs of the layer)
        w_h : dict of accumulator to array, shape (units, units)
            From the layer's own vector of the step before.
        bias : dict of accumulator to array, shape (units,)
        parameters, initial : dict of str to array, shape (units,)
        peers : dict of str to int
            Index of the layer that each peer is read from.
        plain : bool
            The vector is sent as plain events.
        """
        name = name or f"{cell}{len(self.layers)}"
        if cell not in CELLS:
            raise StillnetError(
                f"layer '{name}': cell '{cell}' is unknown; known are {', '.join(CELLS)}"
            )
        arrays = {g: checked(name, f"weight of '{g}'", w, 2) for g, w in w_x.items()}
        if not arrays:
            raise StillnetError(f"layer '{name}': w_x is empty; give the weights of an accumulator")
        units = len(next(iter(arrays.values())))
        own = {g: checked(name, f"weight of '{g}'", w, 2) for g, w in (w_h or {}).items()}
        for kind, found, size in (("w_x", arrays, self._top_size()), ("w_h", own, units)):
            for g, w in found.items():
                if g not in CELLS[cell].accumulators:
                    raise StillnetError(
                        f"layer '{name}': {kind} names '{g}', cell '{cell}' has accumulators "
                        f"{', '.join(CELLS[cell].accumulators)}"
                    )
                if w.shape != (units, size):
                    raise StillnetError(
                        f"layer '{name}': {kind} of '{g}' has shape {w.shape}, expected "
                        f"{(units, size)}"
                    )
        matrices = [Matrix(self._top(), tuple(arrays), np.stack(list(arrays.values())))]
        if own:
            matrices.append(Matrix(len(self.layers), tuple(own), np.stack(list(own.values()))))
        given = bias or {}
        unknown = sorted(set(given) - set(CELLS[cell].accumulators))
        if unknown:
            raise StillnetError(f"layer '{name}': cell '{cell}' has no accumulator '{unknown[0]}'")
        self._add(
            name,
            cell,
            units,
            tuple(matrices),
            {a: vector(name, f"bias '{a}'", given.get(a), units) for a in CELLS[cell].accumulators},
            {s: vector(name, f"initial '{s}'", v, units) for s, v in (initial or {}).items()},
            parameters={
                p: vector(name, f"parameter '{p}'", v, units) for p, v in (parameters or {}).items()
            },
            peers=dict(peers or {}),
            plain=plain,
        )
        return self

    # -- shared

    def _add(
        self,
        name: str,
        cell: str,
        units: int,
        matrices: tuple[Matrix, ...],
        bias: dict[str, np.ndarray],
        initial: dict[str, np.ndarray] | None = None,
        *,
        parameters: dict[str, np.ndarray] | None = None,
        peers: dict[str, int] | None = None,
        plain: bool = False,
    ) -> None:
        self.layers.append(
            Layer(
                name,
                cell,
                units,
                matrices,
                bias,
                initial or {},
                parameters or {},
                peers or {},
                plain,
            )
        )

    def _make_plain(self, index: int) -> None:
        """The vector of a layer that is there already is sent as plain events."""
        self.layers[index] = replace(self.layers[index], plain=True)

    def _dense(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        weight = checked(name, "weight", weight, 2)
        units, size = weight.shape
        if size != self._top_size() or units == 0:
            raise StillnetError(
                f"layer '{name}': weight has shape {weight.shape}, expected (units, "
                f"{self._top_size()})"
            )
        return weight, vector(name, "bias", bias, units)

    def _top(self) -> int:
        return len(self.layers) - 1

    def _top_size(self) -> int:
        return self.inputs if self._top() == INPUT else self.layers[-1].units


def _parameters(name: str, found: Activation, units: int) -> dict[str, np.ndarray]:
    """Parameters of an activation's cell, one value for each unit."""
    result = {}
    for key, value in found.parameters.items():
        values = np.array(each(value, units), float)
        if values.shape != (units,) or np.any(np.isnan(values)):
            raise StillnetError(
                f"layer '{name}': {key} of its activation has shape {values.shape}, or holds NaN; "
                f"give one number, or {units}"
            )
        result[key] = values
    return result


def gate_order(name: str, order: str, *known: str) -> list[int]:
    """Where each gate of the first order stands in the given one."""
    first = known[0]
    if sorted(order) != sorted(first):
        texts = " or ".join(f"'{k}'" for k in known)
        raise StillnetError(f"layer '{name}': order must be {texts}, not '{order}'")
    return [order.index(g) for g in first]


def gate_biases(name: str, label: str, b: np.ndarray | None, units: int, gates: int) -> np.ndarray:
    """Biases, shape (gates, units)."""
    return vector(name, label, b, gates * units).reshape(gates, units)


def vector(name: str, label: str, b: np.ndarray | None, size: int) -> np.ndarray:
    """A checked float array, shape (size,); zeros where absent."""
    b = np.zeros(size) if b is None else checked(name, label, b, 1)
    if b.shape != (size,):
        raise StillnetError(f"layer '{name}': {label} has shape {b.shape}, expected {(size,)}")
    return b


def each(value: np.ndarray | float, units: int) -> np.ndarray:
    """One value for all units, or as given."""
    return np.full(units, float(value)) if np.ndim(value) == 0 else np.asarray(value)


def initial_state(name: str, units: int, **values: np.ndarray | None) -> dict[str, np.ndarray]:
    """Initial state by name, what is absent left out; errors call it h0, c0."""
    return {s: vector(name, f"{s}0", v, units) for s, v in values.items() if v is not None}
