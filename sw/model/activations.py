"""Activations by name: the cell that computes each, its parameters, and what is folded before it.

Several names may share a cell: ReLU6, a hard sigmoid and a floor under gains are all ``clip``. A
scale or shift before the function is multiplied into the weights.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = ["ACTIVATION_NAMES", "CONVOLVED", "Activation", "Number", "activation_of", "apply"]

Number = float | np.ndarray

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772

CONVOLVED = ("linear", "relu")
"""Activations that a convolution has within its cell."""


@dataclass(frozen=True, eq=False)
class Activation:
    """``cell(scale * x + shift)``.

    Attributes
    ----------
    cell : str
    parameters : dict of str to float, or array of one value for each unit
        Those of the cell.
    scale, shift : float
    """

    cell: str
    parameters: dict[str, Number] = field(default_factory=dict)
    scale: float = 1.0
    shift: float = 0.0


def _clip(low: Number = -math.inf, high: Number = math.inf) -> Activation:
    return Activation("clip", {"low": low, "high": high})


def _leaky(slope: Number = 0.01) -> Activation:
    return Activation("leaky_relu", {"slope": slope})


def _elu(alpha: Number = 1.0) -> Activation:
    return Activation("elu", {"positive": 1.0, "negative": alpha})


def _selu(alpha: float = _SELU_ALPHA, gamma: float = _SELU_SCALE) -> Activation:
    return Activation("elu", {"positive": gamma, "negative": gamma * alpha})


def _celu(alpha: float = 1.0) -> Activation:
    return Activation("elu", {"positive": alpha, "negative": alpha}, scale=1 / alpha)


def _hard_sigmoid(alpha: float = 1 / 6, beta: float = 0.5) -> Activation:
    return Activation("clip", {"low": 0.0, "high": 1.0}, alpha, beta)


def _of(cell: str) -> Callable[[], Activation]:
    return lambda: Activation(cell)


_PLAIN = (
    *("linear", "relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "hard_swish"),
    *("softplus", "softsign", "erf", "exp", "sqrt"),
)

_MAKERS: dict[str, Callable[..., Activation]] = {
    **{name: _of(name) for name in _PLAIN},
    "swish": _of("silu"),
    "clip": _clip,
    "relu6": lambda: _clip(0.0, 6.0),
    "hard_tanh": lambda: _clip(-1.0, 1.0),
    "leaky_relu": _leaky,
    "prelu": lambda slope=0.25: _leaky(slope),
    "abs": lambda: _leaky(-1.0),
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "hard_sigmoid": _hard_sigmoid,
}

ACTIVATION_NAMES = tuple(_MAKERS)
"""Every name that ``Model.dense`` takes."""


def activation_of(
    where: str, name: str, settings: Mapping[str, Number] | None = None
) -> Activation:
    """An activation by its name.

    Parameters
    ----------
    where : str
        What errors begin with, such as ``"layer 'fc'"``.
    name : str
        One of ``ACTIVATION_NAMES``.
    settings : dict of str to float, or array of one value for each unit
        ``slope`` of leaky_relu and prelu; ``low`` and ``high`` of clip; ``alpha`` of elu, celu,
        selu and hard_sigmoid; ``gamma`` of selu; ``beta`` of hard_sigmoid.
    """
    settings = dict(settings or {})
    maker = _MAKERS.get(name)
    if maker is None:
        near = difflib.get_close_matches(name, _MAKERS, 1)
        hint = f"did you mean {near[0]}? Known are" if near else "use"
        names = ", ".join(sorted(_MAKERS))
        raise StillnetError(f"{where}: activation '{name}' is not supported; {hint} {names}")
    known = list(inspect.signature(maker).parameters)
    for key in settings:
        if key not in known:
            has = ", ".join(known) or "no settings"
            raise StillnetError(
                f"{where}: activation '{name}' takes {has}, not '{key}'; leave it out"
            )
    return maker(**settings)


def apply(found: Activation, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases with the scale and the shift folded in."""
    if found.scale == 1.0 and found.shift == 0.0:
        return weight, bias
    return weight * found.scale, bias * found.scale + found.shift
