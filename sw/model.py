"""A trained network in floating point, as the importers deliver it and ``quantize`` takes it.

A model is a list of layers. Each layer is one cell (``gru``, ``linear``, ``relu``, ...) fed by one
or more matrices; a matrix multiplies a *source*: the model's input, or the output of a layer. A
source at a lower index feeds the same step; the layer itself or a later one feeds the next step (a
recurrence). The small builder methods describe a network from NumPy arrays::

    model = Model(inputs=16).gru(w_ih, w_hh, b_ih, b_hh).dense(w, b, "sigmoid")
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .contract.cells import CELLS
from .errors import StillnetError

__all__ = ["INPUT", "Layer", "Matrix", "Model"]

INPUT = -1
"""Source index of the model's input vector."""


@dataclass(frozen=True)
class Matrix:
    """Weights from one source into some of the accumulators of a layer.

    Attributes
    ----------
    source : int
        ``INPUT`` or the index of the layer whose output is multiplied.
    gates : tuple of str
        Accumulators of the layer's cell that the matrix adds into.
    weight : array of float, shape (len(gates), units, size of the source)
    """

    source: int
    gates: tuple[str, ...]
    weight: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One cell with its matrices.

    Attributes
    ----------
    name : str
        Name of the node in the file that it came from; errors and reports use it.
    cell : str
        Name of a cell of the contract.
    units : int
    matrices : tuple of Matrix
    bias : dict of str to array of float, shape (units,)
        One entry for each accumulator of the cell.
    initial : dict of str to array of float, shape (units,)
        Initial value of state variables that do not start at zero.
    parameters : dict of str to array of float, shape (units,)
        Constants of the cell, one entry for each that it has.
    peers : dict of str to int
        For each peer of the cell the index of the layer whose state variable it reads.
    plain : bool
        The vector is sent as plain events (``Mode.NONZERO``), not as differences.
    """

    name: str
    cell: str
    units: int
    matrices: tuple[Matrix, ...]
    bias: dict[str, np.ndarray]
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    peers: dict[str, int] = field(default_factory=dict)
    plain: bool = False


@dataclass
class Model:
    """A float network: ``inputs`` elements a step in, the last layer's units out.

    Attributes
    ----------
    inputs : int
    layers : list of Layer
    name : str
    one_hot : bool
        The input is one token index a step; ``inputs`` is the number of tokens.
    """

    inputs: int
    layers: list[Layer] = field(default_factory=list)
    name: str = "network"
    one_hot: bool = False

    @property
    def outputs(self) -> int:
        """Elements of the output vector."""
        if not self.layers:
            raise StillnetError(f"model '{self.name}' has no layers: add one with .gru or .dense")
        return self.layers[-1].units

    def source_size(self, source: int) -> int:
        """Elements of a source (``INPUT`` or a layer index)."""
        return self.inputs if source == INPUT else self.layers[source].units

    # -- description from arrays ------------------------------------------------------------------

    def gru(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        b_ih: np.ndarray | None = None,
        b_hh: np.ndarray | None = None,
        *,
        h0: np.ndarray | None = None,
        order: str = "ruc",
        name: str | None = None,
    ) -> Model:
        """Adds a GRU (reset-after) on top.

        Parameters
        ----------
        w_ih : array, shape (3*H, inputs of the layer)
        w_hh : array, shape (3*H, H)
        b_ih, b_hh : arrays, shape (3*H,), zero where absent
        h0 : array, shape (H,)
            Initial hidden state.
        order : str
            Order of the gates in the rows: ``"ruc"`` (PyTorch's r, z, n) or ``"urc"`` (ONNX and
            Keras z, r, h). u is the update gate of h' = (1 - u) c + u h.
        """
        name = name or f"gru{len(self.layers)}"
        w_ih = _array(name, "w_ih", w_ih, 2)
        w_hh = _array(name, "w_hh", w_hh, 2)
        units = w_hh.shape[1]
        if w_hh.shape[0] != 3 * units or units == 0:
            raise StillnetError(
                f"layer '{name}': w_hh has shape {w_hh.shape}, a GRU needs (3*H, H)"
            )
        size = self._top_size()
        if w_ih.shape != (3 * units, size):
            raise StillnetError(
                f"layer '{name}': w_ih has shape {w_ih.shape}, expected {(3 * units, size)} for "
                f"{units} units on {size} inputs"
            )
        if sorted(order) != sorted("ruc"):
            raise StillnetError(f"layer '{name}': order must be 'ruc' or 'urc', not '{order}'")
        pick = [order.index(g) for g in "ruc"]

        def split(a: np.ndarray) -> np.ndarray:
            return a.reshape(3, units, *a.shape[1:])[pick]

        def vector(label: str, b: np.ndarray | None) -> np.ndarray:
            b = np.zeros(3 * units) if b is None else _array(name, label, b, 1)
            if b.shape != (3 * units,):
                raise StillnetError(
                    f"layer '{name}': {label} has shape {b.shape}, expected {(3 * units,)}"
                )
            return split(b)

        bi, bh = vector("b_ih", b_ih), vector("b_hh", b_hh)
        index = len(self.layers)
        initial = {}
        if h0 is not None:
            h0 = _array(name, "h0", h0, 1)
            if h0.shape != (units,):
                raise StillnetError(f"layer '{name}': h0 has shape {h0.shape}, expected {(units,)}")
            initial["h"] = h0
        self.layers.append(
            Layer(
                name,
                "gru",
                units,
                (
                    Matrix(self._top(), ("r", "u", "cx"), split(w_ih)),
                    Matrix(index, ("r", "u", "ch"), split(w_hh)),
                ),
                {"r": bi[0] + bh[0], "u": bi[1] + bh[1], "cx": bi[2], "ch": bh[2]},
                initial,
            )
        )
        return self

    def dense(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        activation: str = "linear",
        *,
        name: str | None = None,
    ) -> Model:
        """Adds a dense layer on top: ``activation(weight @ x + bias)``.

        Parameters
        ----------
        weight : array, shape (units, inputs of the layer)
        bias : array, shape (units,)
        activation : str
            ``"linear"``, ``"relu"``, ``"sigmoid"`` or ``"tanh"``.
        """
        name = name or f"dense{len(self.layers)}"
        weight = _array(name, "weight", weight, 2)
        if activation not in ("linear", "relu", "sigmoid", "tanh"):
            raise StillnetError(
                f"layer '{name}': activation '{activation}' is not supported; use linear, relu, "
                "sigmoid or tanh"
            )
        units, size = weight.shape
        if size != self._top_size() or units == 0:
            raise StillnetError(
                f"layer '{name}': weight has shape {weight.shape}, expected (units, "
                f"{self._top_size()})"
            )
        bias = np.zeros(units) if bias is None else _array(name, "bias", bias, 1)
        if bias.shape != (units,):
            raise StillnetError(f"layer '{name}': bias has shape {bias.shape}, expected {(units,)}")
        self.layers.append(
            Layer(
                name, activation, units, (Matrix(self._top(), ("y",), weight[None]),), {"y": bias}
            )
        )
        return self

    def _top(self) -> int:
        return len(self.layers) - 1

    def _top_size(self) -> int:
        return self.source_size(self._top())

    # -- evaluation -------------------------------------------------------------------------------

    def run(
        self,
        x: np.ndarray,
        state: dict[tuple[int, str], np.ndarray] | None = None,
        trace: dict[int, list[np.ndarray]] | None = None,
    ) -> np.ndarray:
        """The float network over a sequence; the oracle's side of every error figure.

        Parameters
        ----------
        x : array of float, shape (steps, inputs), or of int, shape (steps,), for one-hot models
        state : dict, optional
            Carried state by (layer index, state name); updated in place, so that a sequence can
            be continued. Outputs of layers that feed a later step are kept under the name "".
        trace : dict, optional
            Filled with the list of outputs of every source (``INPUT`` and each layer).

        Returns
        -------
        array of float, shape (steps, outputs)
        """
        x = self._check_input(x)
        state = {} if state is None else state
        for i, layer in enumerate(self.layers):
            for name, value in layer.initial.items():
                state.setdefault((i, name), value)
                if name == CELLS[layer.cell].output_state:
                    state.setdefault((i, ""), value)
        out = np.zeros((len(x), self.outputs))
        values: dict[int, np.ndarray] = {
            i: state.get((i, ""), np.zeros(layer.units)) for i, layer in enumerate(self.layers)
        }
        for t, row in enumerate(x):
            values[INPUT] = row
            if trace is not None:
                trace.setdefault(INPUT, []).append(row)
            for i, layer in enumerate(self.layers):
                m = {g: b.astype(float) for g, b in layer.bias.items()}
                for matrix in layer.matrices:
                    product = matrix.weight @ values[matrix.source]
                    for g, part in zip(matrix.gates, product):
                        m[g] = m[g] + part
                cell = CELLS[layer.cell]
                old = {s: state.get((i, s), np.zeros(layer.units)) for s in cell.state}
                y, new = cell.evaluate_float(m, old)
                for s, value in new.items():
                    state[(i, s)] = value
                values[i] = y
                state[(i, "")] = y
                if trace is not None:
                    trace.setdefault(i, []).append(y)
            out[t] = values[len(self.layers) - 1]
        return out

    def _check_input(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if self.one_hot:
            tokens = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
            if tokens.ndim != 1 or len(tokens) == 0 or np.any(tokens != np.floor(tokens)):
                raise StillnetError(
                    f"input has shape {x.shape} and type {x.dtype}; model '{self.name}' takes one "
                    "token index a step"
                )
            if tokens.min() < 0 or tokens.max() >= self.inputs:
                raise StillnetError(
                    f"token {int(tokens.max() if tokens.min() >= 0 else tokens.min())} is outside "
                    f"0 to {self.inputs - 1}, the tokens of model '{self.name}'"
                )
            return np.eye(self.inputs)[tokens.astype(int)]
        if x.ndim != 2 or x.shape[1] != self.inputs or len(x) == 0:
            raise StillnetError(
                f"input has shape {x.shape}; model '{self.name}' takes (steps, {self.inputs}) with "
                "at least one step"
            )
        x = x.astype(float)
        if not np.all(np.isfinite(x)):
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise StillnetError(
                f"input holds {x[bad]} at step {bad[0]}, element {bad[1]}; remove NaN and infinity "
                "from the recording"
            )
        return x


def _array(layer: str, label: str, value: np.ndarray, ndim: int) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.ndim != ndim:
        raise StillnetError(
            f"layer '{layer}': {label} has {array.ndim} dimensions (shape {array.shape}), "
            f"expected {ndim}"
        )
    if not np.all(np.isfinite(array)):
        raise StillnetError(
            f"layer '{layer}': {label} holds NaN or infinity; export the model again"
        )
    return array
