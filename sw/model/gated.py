"""Description of gated recurrences from arrays: GRU, LSTM, EGRU, minGRU, LiGRU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .builders import Builders, each, gate_biases, gate_order, initial_state, vector
from .layers import Matrix, checked

__all__ = ["GatedBuilders"]


class GatedBuilders(Builders):
    """Methods that add gated recurrences."""

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
        gate: str = "sigmoid",
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
        gate : str
            ``"sigmoid"``, or ``"clip"`` to 0 .. 1, with a candidate through tanh.
        """
        name = name or f"gru{len(self.layers)}"
        units, wx, wh, (bi, bh) = self._recurrent(
            name, "GRU", w_ih, w_hh, (order, "ruc", "urc"), b_ih=b_ih, b_hh=b_hh
        )
        if reset not in ("after", "before"):
            raise StillnetError(f"layer '{name}': reset must be 'after' or 'before', not '{reset}'")
        if activation not in ("tanh", "relu"):
            raise StillnetError(
                f"layer '{name}': activation of a GRU's candidate must be tanh or relu, not "
                f"'{activation}'"
            )
        initial = initial_state(name, units, h=h0)
        suffix = ("_relu" if activation == "relu" else "") + _gates(name, gate)
        if suffix == "_relu_hard":
            raise StillnetError(f"layer '{name}': gates by clip go with tanh only, not with relu")
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
        gate: str = "sigmoid",
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
        gate : str
            ``"sigmoid"``, or ``"clip"`` to 0 .. 1, without peepholes.
        """
        name = name or f"lstm{len(self.layers)}"
        units, wx, wh, (bi, bh) = self._recurrent(
            name, "LSTM", w_ih, w_hh, (order, "ifgo", "iofg"), b_ih=b_ih, b_hh=b_hh
        )
        parameters = {}
        if peepholes is not None:
            unknown = sorted(set(peepholes) - set("ifo"))
            if unknown:
                raise StillnetError(
                    f"layer '{name}': peephole '{unknown[0]}' does not exist; an LSTM has i, f, o"
                )
            parameters = {
                f"p{g}": vector(name, f"peephole {g}", peepholes.get(g), units) for g in "ifo"
            }
        suffix = _gates(name, gate)
        if suffix and peepholes is not None:
            raise StillnetError(f"layer '{name}': gates by clip have no peepholes")
        gates = tuple("ifgo")
        self._add(
            name,
            "lstm" + suffix if peepholes is None else "lstm_peephole",
            units,
            (Matrix(self._top(), gates, wx), Matrix(len(self.layers), gates, wh)),
            dict(zip(gates, bi + bh)),
            initial_state(name, units, h=h0, c=c0),
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
        units, wx, wh, (bi, bh) = self._recurrent(
            name, "EGRU", w_ih, w_hh, (order, "ruc", "urc"), b_ih=b_ih, b_hh=b_hh
        )
        self._add(
            name,
            "egru",
            units,
            (
                Matrix(self._top(), ("r", "u", "cx"), wx),
                Matrix(len(self.layers), ("r", "u", "ch"), wh),
            ),
            {"r": bi[0] + bh[0], "u": bi[1] + bh[1], "cx": bi[2], "ch": bh[2]},
            initial_state(name, units, h=h0),
            parameters={"theta": vector(name, "theta", each(theta, units), units)},
            plain=True,
        )
        return self

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
        pick = gate_order(name, order, "uc", "cu")
        b = gate_biases(name, "bias", bias, units, 2)[pick]
        self._add(
            name,
            "mingru",
            units,
            (Matrix(self._top(), ("u", "c"), weight.reshape(2, units, -1)[pick]),),
            {"u": b[0], "c": b[1]},
            initial_state(name, units, h=h0),
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
        units, wx, wh, (b,) = self._recurrent(
            name, "LiGRU", w_ih, w_hh, (order, "uc", "cu"), bias=bias
        )
        self._add(
            name,
            "ligru",
            units,
            (
                Matrix(self._top(), ("u", "c"), wx),
                Matrix(len(self.layers), ("u", "c"), wh),
            ),
            {"u": b[0], "c": b[1]},
            initial_state(name, units, h=h0),
        )
        return self

    def _recurrent(
        self,
        name: str,
        kind: str,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        orders: tuple[str, ...],
        **biases: np.ndarray | None,
    ) -> tuple[int, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Units, and weights and biases of the gates in the cell's own order.

        ``orders``: the order given, the cell's own, and others that are known. Weights come as
        (gates, units, columns), each of ``biases`` as (gates, units), zero where absent.
        """
        gates = len(orders[1])
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
        pick = gate_order(name, *orders)
        return (
            units,
            w_ih.reshape(gates, units, size)[pick],
            w_hh.reshape(gates, units, units)[pick],
            [gate_biases(name, label, b, units, gates)[pick] for label, b in biases.items()],
        )


def _gates(name: str, gate: str) -> str:
    """The end of a cell's name for the function of its gates."""
    if gate not in ("sigmoid", "clip"):
        raise StillnetError(f"layer '{name}': gate must be sigmoid or clip, not '{gate}'")
    return "_hard" if gate == "clip" else ""
