"""Description of a float model from arrays: one method a kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import numpy as np

from .contract.cells import CELLS
from .contract.cells_conv import MAX_TAPS
from .errors import StillnetError
from .layers import INPUT, Layer, Matrix, checked

__all__ = ["Builders"]


class Builders:
    """Methods of a model that add layers on top and return the model.

    All weights are as in PyTorch: rows are units (gate by gate), columns are elements of the
    source. What is absent is zero. Recurrent layers take an initial state; it is set wherever a
    sequence begins.
    """

    inputs: int
    layers: list[Layer]

    # -- gated recurrences

    def gru(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        b_ih: np.ndarray | None = None,
        b_hh: np.ndarray | None = None,
        *,
        h0: np.ndarray | None = None,
        order: str = "ruc",
        reset: str = "after",
        activation: str = "tanh",
        name: str | None = None,
    ) -> Self:
        """Adds a GRU on top.

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
        reset : str
            ``"after"`` the product with w_hh (PyTorch, cuDNN; ONNX linear_before_reset=1), or
            ``"before"`` it, which takes two layers: ``NAME.reset`` and ``NAME``.
        activation : str
            Of the candidate: ``"tanh"`` or ``"relu"``. With ReLU h goes up to 16.
        """
        name = name or f"gru{len(self.layers)}"
        units, wx, wh = self._recurrent(name, "GRU", w_ih, w_hh, 3)
        pick = _order(name, order, "ruc", "urc")
        if reset not in ("after", "before"):
            raise StillnetError(f"layer '{name}': reset must be 'after' or 'before', not '{reset}'")
        if activation not in ("tanh", "relu"):
            raise StillnetError(
                f"layer '{name}': activation of a GRU's candidate must be tanh or relu, not "
                f"'{activation}'"
            )
        wx, wh = wx[pick], wh[pick]
        bi = _bias(name, "b_ih", b_ih, units, 3)[pick]
        bh = _bias(name, "b_hh", b_hh, units, 3)[pick]
        initial = _initial(name, units, h=h0)
        suffix = "_relu" if activation == "relu" else ""
        top, index = self._top(), len(self.layers)
        if reset == "after":
            self._add(
                name,
                "gru" + suffix,
                units,
                (
                    Matrix(top, ("r", "u", "cx"), wx),
                    Matrix(index, ("r", "u", "ch"), wh),
                ),
                {"r": bi[0] + bh[0], "u": bi[1] + bh[1], "cx": bi[2], "ch": bh[2]},
                initial,
            )
            return self
        self._add(
            f"{name}.reset",
            "gru_reset" + suffix,
            units,
            (Matrix(top, ("r",), wx[:1]), Matrix(index + 1, ("r",), wh[:1])),
            {"r": bi[0] + bh[0]},
            peers={"h": index + 1},
        )
        self._add(
            name,
            "gru_before" + suffix,
            units,
            (
                Matrix(top, ("u", "c"), wx[1:]),
                Matrix(index + 1, ("u",), wh[1:2]),
                Matrix(index, ("c",), wh[2:]),
            ),
            {"u": bi[1] + bh[1], "c": bi[2] + bh[2]},
            initial,
        )
        return self

    def lstm(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        b_ih: np.ndarray | None = None,
        b_hh: np.ndarray | None = None,
        *,
        peepholes: Mapping[str, np.ndarray] | None = None,
        h0: np.ndarray | None = None,
        c0: np.ndarray | None = None,
        order: str = "ifgo",
        name: str | None = None,
    ) -> Self:
        """Adds an LSTM on top.

        Parameters
        ----------
        w_ih : array, shape (4*H, inputs of the layer)
        w_hh : array, shape (4*H, H)
        b_ih, b_hh : arrays, shape (4*H,)
        peepholes : dict of "i", "f", "o" to array, shape (H,)
            Weights from c to the gates: i and f see the old c, o the new one.
        h0, c0 : arrays, shape (H,)
            Initial state; \\|c0\\| below 64.
        order : str
            Order of the gates in the rows: ``"ifgo"`` (PyTorch, Keras) or ``"iofg"`` (ONNX i, o,
            f, c).
        """
        name = name or f"lstm{len(self.layers)}"
        units, wx, wh = self._recurrent(name, "LSTM", w_ih, w_hh, 4)
        pick = _order(name, order, "ifgo", "iofg")
        bias = _bias(name, "b_ih", b_ih, units, 4) + _bias(name, "b_hh", b_hh, units, 4)
        parameters = {}
        if peepholes is not None:
            unknown = sorted(set(peepholes) - set("ifo"))
            if unknown:
                raise StillnetError(
                    f"layer '{name}': peephole '{unknown[0]}' does not exist; an LSTM has i, f, o"
                )
            parameters = {
                f"p{g}": _vector(name, f"peephole {g}", peepholes.get(g), units) for g in "ifo"
            }
        gates = tuple("ifgo")
        self._add(
            name,
            "lstm" if peepholes is None else "lstm_peephole",
            units,
            (Matrix(self._top(), gates, wx[pick]), Matrix(len(self.layers), gates, wh[pick])),
            dict(zip(gates, bias[pick])),
            _initial(name, units, h=h0, c=c0),
            parameters=parameters,
        )
        return self

    def egru(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        b_ih: np.ndarray | None = None,
        b_hh: np.ndarray | None = None,
        theta: np.ndarray | float = 0.0,
        *,
        h0: np.ndarray | None = None,
        order: str = "ruc",
        name: str | None = None,
    ) -> Self:
        """Adds an event-based GRU on top; its vector, and the one below, are sent as plain events.

        Parameters
        ----------
        w_ih, w_hh, b_ih, b_hh, order : as for :meth:`gru`
            u is the paper's z, c its g.
        theta : array, shape (H,), or float
            Thresholds, zero or more.
        h0 : array, shape (H,)
            Initial h. There is no event before the first step.
        """
        name = name or f"egru{len(self.layers)}"
        units, wx, wh = self._recurrent(name, "EGRU", w_ih, w_hh, 3)
        pick = _order(name, order, "ruc", "urc")
        bi = _bias(name, "b_ih", b_ih, units, 3)[pick]
        bh = _bias(name, "b_hh", b_hh, units, 3)[pick]
        self._add(
            name,
            "egru",
            units,
            (
                Matrix(self._top(), ("r", "u", "cx"), wx[pick]),
                Matrix(len(self.layers), ("r", "u", "ch"), wh[pick]),
            ),
            {"r": bi[0] + bh[0], "u": bi[1] + bh[1], "cx": bi[2], "ch": bh[2]},
            _initial(name, units, h=h0),
            parameters={"theta": _vector(name, "theta", _each(theta, units), units)},
            plain=True,
        )
        return self

    # -- small cells

    def mingru(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        h0: np.ndarray | None = None,
        order: str = "uc",
        name: str | None = None,
    ) -> Self:
        """Adds a minGRU on top: h' = (1 - u) h + u c, both of x alone.

        Parameters
        ----------
        weight : array, shape (2*H, inputs of the layer)
        bias : array, shape (2*H,)
        h0 : array, shape (H,)
        order : str
            Order of the gates in the rows: ``"uc"`` or ``"cu"``. u is the paper's z.
        """
        name = name or f"mingru{len(self.layers)}"
        weight = checked(name, "weight", weight, 2)
        units = len(weight) // 2
        if weight.shape != (2 * units, self._top_size()) or units == 0:
            raise StillnetError(
                f"layer '{name}': weight has shape {weight.shape}, expected (2*H, "
                f"{self._top_size()})"
            )
        pick = _order(name, order, "uc", "cu")
        b = _bias(name, "bias", bias, units, 2)[pick]
        self._add(
            name,
            "mingru",
            units,
            (Matrix(self._top(), ("u", "c"), weight.reshape(2, units, -1)[pick]),),
            {"u": b[0], "c": b[1]},
            _initial(name, units, h=h0),
        )
        return self

    def ligru(
        self,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        h0: np.ndarray | None = None,
        order: str = "uc",
        name: str | None = None,
    ) -> Self:
        """Adds a LiGRU on top: h' = u h + (1 - u) relu(c). Fold batch normalisation before.

        Parameters
        ----------
        w_ih : array, shape (2*H, inputs of the layer)
        w_hh : array, shape (2*H, H)
        bias : array, shape (2*H,)
        h0 : array, shape (H,)
        order : str
            ``"uc"`` or ``"cu"`` (SpeechBrain's). u is the paper's z.
        """
        name = name or f"ligru{len(self.layers)}"
        units, wx, wh = self._recurrent(name, "LiGRU", w_ih, w_hh, 2)
        pick = _order(name, order, "uc", "cu")
        b = _bias(name, "bias", bias, units, 2)[pick]
        self._add(
            name,
            "ligru",
            units,
            (
                Matrix(self._top(), ("u", "c"), wx[pick]),
                Matrix(len(self.layers), ("u", "c"), wh[pick]),
            ),
            {"u": b[0], "c": b[1]},
            _initial(name, units, h=h0),
        )
        return self

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
        rates = _vector(name, "rate", _each(rate, len(weight)), len(weight))
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
            ``"linear"`` or ``"relu"``.
        """
        name = name or f"conv{len(self.layers)}"
        weight = checked(name, "weight", weight, 3)
        units, size, taps = weight.shape
        if size != self._top_size() or units == 0:
            raise StillnetError(
                f"layer '{name}': weight has shape {weight.shape}, expected (units, "
                f"{self._top_size()}, taps)"
            )
        if not 1 <= taps <= MAX_TAPS:
            raise StillnetError(
                f"layer '{name}': a convolution has 1 to {MAX_TAPS} taps, not {taps}"
            )
        if activation not in ("linear", "relu"):
            raise StillnetError(
                f"layer '{name}': activation of a convolution must be linear or relu, not "
                f"'{activation}'"
            )
        if taps == 1:
            return self.dense(weight[:, :, 0], bias, activation, name=name)
        gates = tuple(f"a{k}" for k in range(taps))
        newest_first = weight[:, :, ::-1].transpose(2, 0, 1)
        values = dict.fromkeys(gates, np.zeros(units))
        values["a0"] = _vector(name, "bias", bias, units)
        self._add(
            name,
            f"conv{taps}" + ("_relu" if activation == "relu" else ""),
            units,
            (Matrix(self._top(), gates, np.ascontiguousarray(newest_first)),),
            values,
        )
        return self

    def dense(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        activation: str = "linear",
        *,
        name: str | None = None,
    ) -> Self:
        """Adds a dense layer on top: ``activation(weight @ x + bias)``.

        Parameters
        ----------
        weight : array, shape (units, inputs of the layer)
        bias : array, shape (units,)
        activation : str
            ``"linear"``, ``"relu"``, ``"sigmoid"`` or ``"tanh"``.
        """
        name = name or f"dense{len(self.layers)}"
        weight, bias = self._dense(name, weight, bias, activation)
        self._add(
            name,
            activation,
            len(weight),
            (Matrix(self._top(), ("y",), weight[None]),),
            {"y": bias},
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
            {
                a: _vector(name, f"bias '{a}'", given.get(a), units)
                for a in CELLS[cell].accumulators
            },
            {s: _vector(name, f"initial '{s}'", v, units) for s, v in (initial or {}).items()},
            parameters={
                p: _vector(name, f"parameter '{p}'", v, units)
                for p, v in (parameters or {}).items()
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

    def _recurrent(
        self, name: str, kind: str, w_ih: np.ndarray, w_hh: np.ndarray, gates: int
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """(units, w_ih, w_hh), weights of shape (gates, units, columns)."""
        w_ih = checked(name, "w_ih", w_ih, 2)
        w_hh = checked(name, "w_hh", w_hh, 2)
        units = w_hh.shape[1]
        if w_hh.shape[0] != gates * units or units == 0:
            article = "a" if kind in ("GRU", "LiGRU") else "an"
            raise StillnetError(
                f"layer '{name}': w_hh has shape {w_hh.shape}, {article} {kind} needs "
                f"({gates}*H, H)"
            )
        size = self._top_size()
        if w_ih.shape != (gates * units, size):
            raise StillnetError(
                f"layer '{name}': w_ih has shape {w_ih.shape}, expected {(gates * units, size)} "
                f"for {units} units on {size} inputs"
            )
        return units, w_ih.reshape(gates, units, size), w_hh.reshape(gates, units, units)

    def _dense(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None, activation: str = "linear"
    ) -> tuple[np.ndarray, np.ndarray]:
        weight = checked(name, "weight", weight, 2)
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
        return weight, _vector(name, "bias", bias, units)

    def _top(self) -> int:
        return len(self.layers) - 1

    def _top_size(self) -> int:
        return self.inputs if self._top() == INPUT else self.layers[-1].units


def _order(name: str, order: str, *known: str) -> list[int]:
    """Where each gate of the first order stands in the given one."""
    first = known[0]
    if sorted(order) != sorted(first):
        texts = " or ".join(f"'{k}'" for k in known)
        raise StillnetError(f"layer '{name}': order must be {texts}, not '{order}'")
    return [order.index(g) for g in first]


def _bias(name: str, label: str, b: np.ndarray | None, units: int, gates: int) -> np.ndarray:
    """Biases, shape (gates, units)."""
    return _vector(name, label, b, gates * units).reshape(gates, units)


def _vector(name: str, label: str, b: np.ndarray | None, size: int) -> np.ndarray:
    b = np.zeros(size) if b is None else checked(name, label, b, 1)
    if b.shape != (size,):
        raise StillnetError(f"layer '{name}': {label} has shape {b.shape}, expected {(size,)}")
    return b


def _each(value: np.ndarray | float, units: int) -> np.ndarray:
    """One value for all units, or as given."""
    return np.full(units, float(value)) if np.ndim(value) == 0 else np.asarray(value)


def _initial(name: str, units: int, **values: np.ndarray | None) -> dict[str, np.ndarray]:
    return {s: _vector(name, f"{s}0", v, units) for s, v in values.items() if v is not None}
