"""Description of S5 and LRU stacks from arrays: discretisation, folding, the layers of a block."""

from __future__ import annotations

from typing import Self

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT

from .builders import Builders, vector
from .layers import Matrix, checked

__all__ = ["S5Builders", "batch_norm", "discretize"]


def discretize(
    lam: np.ndarray, step: np.ndarray | float, method: str = "zoh"
) -> tuple[np.ndarray, np.ndarray]:
    """Discrete eigenvalues, and the factor of each row of the continuous B.

    Parameters
    ----------
    lam : complex array, shape (P,)
        Continuous eigenvalues.
    step : array, shape (P,), or float
        Time step (in many code bases ``exp(log_step)``).
    method : str
        ``"zoh"``: exp(lam step) and (exp(lam step) - 1) / lam. ``"bilinear"``: (1 + lam step / 2)
        / (1 - lam step / 2) and step / (1 - lam step / 2).
    """
    lam = np.asarray(lam, complex)
    step = np.broadcast_to(np.asarray(step, float), lam.shape)
    z = lam * step
    if method == "zoh":
        small = np.abs(z) < 1e-6
        safe = np.where(small, 1.0, z)
        ratio = np.where(small, 1 + z / 2, np.expm1(safe) / safe)
        return np.exp(z), step * ratio
    if method == "bilinear":
        return (1 + z / 2) / (1 - z / 2), step / (1 - z / 2)
    raise StillnetError(f"discretisation must be 'zoh' or 'bilinear', not '{method}'")


def batch_norm(
    mean: np.ndarray,
    variance: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    epsilon: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """A trained batch normalisation as (factor, offset): u = factor * v + offset."""
    factor = (1.0 if weight is None else np.asarray(weight)) / np.sqrt(
        np.asarray(variance) + epsilon
    )
    return factor, (0.0 if bias is None else np.asarray(bias)) - factor * np.asarray(mean)


class S5Builders(Builders):
    """Methods that add diagonal complex recurrences."""

    def s5_encoder(
        self, weight: np.ndarray, bias: np.ndarray | None = None, *, name: str | None = None
    ) -> Self:
        """Adds the dense layer whose output the first block of an S5 stack takes as v.

        Parameters
        ----------
        weight : array, shape (H, inputs of the layer)
        bias : array, shape (H,)
        """
        name = name or f"encoder{len(self.layers)}"
        weight, bias = self._dense(name, weight, bias)
        self._add(
            name,
            "s5_encoder",
            len(weight),
            (Matrix(self._top(), ("y",), weight[None]),),
            {"y": bias},
            plain=True,
        )
        return self

    def s5(
        self,
        lam: np.ndarray,
        b: np.ndarray,
        c: np.ndarray,
        d: np.ndarray,
        *,
        glu: tuple[np.ndarray, np.ndarray | None],
        factor: np.ndarray | float = 1.0,
        step: np.ndarray | float | None = None,
        method: str = "zoh",
        norm: tuple[np.ndarray, np.ndarray] | None = None,
        conjugate: bool = True,
        x0: np.ndarray | None = None,
        name: str | None = None,
    ) -> Self:
        """Adds one S5 block: four layers, ``NAME.state``, ``NAME.imag``, ``NAME.output``, ``NAME``.

        x = lam * x + factor * (b u);  y = 2 Re(c gate(x)) + d * u;  x1 = relu(y);
        out = relu(x1 * sigmoid(w x1 + bias) + v), with v the block's input and u = norm(v).

        Parameters
        ----------
        lam : complex array, shape (P,)
            Discrete eigenvalues; or continuous ones where ``step`` is given.
        b : complex array, shape (P, H)
            Stays as sparse as it is: its row factor is applied in the cell.
        c : complex array, shape (H, P)
        d : array, shape (H,)
        glu : (array, shape (H, H), array, shape (H,) or None)
            Weights and bias of the half-GLU.
        factor : complex array, shape (P,), or float
            Factor of the rows of ``b``; only without ``step``.
        step : array, shape (P,), or float, optional
            Time step: ``lam`` and ``factor`` are then discretised by ``method``.
        method : str
            ``"zoh"`` or ``"bilinear"``.
        norm : (factor, offset), each of shape (H,), optional
            u = factor * v + offset, as from :func:`batch_norm`; folded into b, d and biases.
        conjugate : bool
            Only one of each conjugate pair is given: the factor 2 of y.
        x0 : complex array, shape (P,)
            Initial state.
        """
        name = name or f"s5_{len(self.layers)}"
        below = self._top()
        if below == INPUT or "v" not in CELLS[self.layers[below].cell].state:
            raise StillnetError(
                f"layer '{name}': an S5 block stands on s5_encoder or on another block; add "
                "s5_encoder first"
            )
        units = self.layers[below].units
        lam, b, c = (np.asarray(array, complex) for array in (lam, b, c))
        states = len(lam)
        _check_sizes(name, states, units, b, c)
        lam, row = _recurrence(name, lam, factor, step, method)
        scale, offset = norm if norm is not None else (np.ones(units), np.zeros(units))
        scale = vector(name, "factor of norm", np.asarray(scale), units)
        offset = vector(name, "offset of norm", np.asarray(offset), units)
        d = vector(name, "d", d, units)
        glu_weight = _glu_weight(name, glu[0], units)
        folded, constant = b * scale, b @ offset
        double = 2.0 if conjugate else 1.0
        state, imag, out = below + 1, below + 2, below + 3
        self._make_plain(below)
        self._add(
            f"{name}.state",
            "s5_state",
            states,
            (Matrix(below, ("bre", "bim"), np.stack([folded.real, folded.imag])),),
            {"bre": constant.real, "bim": constant.imag},
            _initial(name, x0, states),
            parameters=_parts("lam", lam) | _parts("c", row),
            plain=True,
        )
        self._add(
            f"{name}.imag",
            "s5_imag",
            states,
            (),
            {"none": np.zeros(states)},
            peers={"xr": state, "xi": state},
            plain=True,
        )
        self._add(
            f"{name}.output",
            "s5_output",
            units,
            (
                Matrix(state, ("yr",), double * c.real[None]),
                Matrix(imag, ("yi",), double * c.imag[None]),
            ),
            {"yr": d * offset, "yi": np.zeros(units)},
            parameters={"d": d * scale},
            peers={"v": below},
            plain=True,
        )
        self._add(
            name,
            "s5_glu",
            units,
            (Matrix(out, ("g",), glu_weight[None]),),
            {"g": vector(name, "bias of the GLU", glu[1], units)},
            peers={"x1": out, "v": below},
            plain=True,
        )
        return self

    def lru(
        self,
        lam: np.ndarray,
        b: np.ndarray,
        c: np.ndarray,
        d: np.ndarray | None = None,
        gamma: np.ndarray | float = 1.0,
        bias: np.ndarray | None = None,
        *,
        name: str | None = None,
    ) -> Self:
        """Adds an LRU: three layers, ``NAME.state``, ``NAME.imag`` and the dense ``NAME``.

        x = lam * x + gamma * (b u);  y = Re(c x) + d u + bias. All vectors are sent as differences.

        Parameters
        ----------
        lam : complex array, shape (P,)
            Inside the unit circle.
        b : complex array, shape (P, inputs of the layer)
        c : complex array, shape (units, P)
        d : array, shape (units, inputs of the layer), or (units,) for a diagonal one
        gamma : array, shape (P,), or float
        bias : array, shape (units,)
        """
        name = name or f"lru{len(self.layers)}"
        lam, b, c = (np.asarray(a, complex) for a in (lam, b, c))
        states, size, units = len(lam), self._top_size(), len(c)
        for label, array, shape in (("b", b, (states, size)), ("c", c, (units, states))):
            if array.shape != shape:
                raise StillnetError(
                    f"layer '{name}': {label} has shape {array.shape}, expected {shape}"
                )
        below = self._top()
        self._add(
            f"{name}.state",
            "lru",
            states,
            (Matrix(below, ("bre", "bim"), np.stack([b.real, b.imag])),),
            {"bre": np.zeros(states), "bim": np.zeros(states)},
            parameters={
                **_parts("lam", lam),
                "gamma": np.broadcast_to(np.asarray(gamma, float), (states,)).copy(),
            },
        )
        self._add(
            f"{name}.imag",
            "lru_imag",
            states,
            (),
            {"none": np.zeros(states)},
            peers={"xi": below + 1},
        )
        matrices = [
            Matrix(below + 1, ("y",), c.real[None]),
            Matrix(below + 2, ("y",), -c.imag[None]),
        ]
        if d is not None:
            d = np.asarray(d, float)
            if d.ndim == 1 and len(d) == units == size:
                d = np.diag(d)
            if d.shape != (units, size):
                raise StillnetError(
                    f"layer '{name}': d has shape {d.shape}, expected {(units, size)}"
                )
            matrices.append(Matrix(below, ("y",), d[None]))
        self._add(
            name,
            "linear",
            units,
            tuple(matrices),
            {"y": vector(name, "bias", bias, units)},
        )
        return self


def _check_sizes(name: str, states: int, units: int, b: np.ndarray, c: np.ndarray) -> None:
    for label, array, shape in (("b", b, (states, units)), ("c", c, (units, states))):
        if array.shape != shape:
            raise StillnetError(
                f"layer '{name}': {label} has shape {array.shape}, expected {shape} for "
                f"{states} states on {units} elements"
            )


def _glu_weight(name: str, weight: np.ndarray, units: int) -> np.ndarray:
    result = checked(name, "weight of the GLU", weight, 2)
    if result.shape != (units, units):
        raise StillnetError(
            f"layer '{name}': weight of the GLU has shape {result.shape}, expected {(units, units)}"
        )
    return result


def _recurrence(
    name: str,
    lam: np.ndarray,
    factor: np.ndarray | float,
    step: np.ndarray | float | None,
    method: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Discrete eigenvalues, and the factor of each row of B."""
    if step is not None:
        if np.any(np.asarray(factor) != 1.0):
            raise StillnetError(f"layer '{name}': give factor or step, not both")
        lam, factor = discretize(lam, step, method)
    return lam, np.broadcast_to(np.asarray(factor, complex), lam.shape)


def _parts(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """The two parameters of a complex constant."""
    return {f"{name}_re": value.real, f"{name}_im": value.imag}


def _initial(name: str, x0: np.ndarray | None, states: int) -> dict[str, np.ndarray]:
    """Initial values of both parts of a complex state."""
    if x0 is None:
        return {}
    start = np.asarray(x0, complex)
    parts = {"xr": start.real, "xi": start.imag}
    return {part: vector(name, "x0", value, states) for part, value in parts.items()}
