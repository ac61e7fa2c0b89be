"""The layers that a walk over an ONNX graph finds, and the model built from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model import Model


@dataclass
class Dense:
    name: str
    weight: np.ndarray  # (units, inputs)
    bias: np.ndarray  # (units,)
    activation: str = "linear"


@dataclass
class Gru:
    name: str
    w: np.ndarray  # (3*H, inputs), gates z, r, h
    r: np.ndarray  # (3*H, H)
    wb: np.ndarray  # (3*H,)
    rb: np.ndarray  # (3*H,)
    h0: np.ndarray | None


@dataclass
class Affine:
    """An element-wise ``scale * v + shift`` (scalars or one value a feature) not yet folded."""

    node: str
    scale: np.ndarray
    shift: np.ndarray


def build_model(layers: Sequence[Dense | Gru], name: str) -> Model:
    top = layers[0]
    model = Model((top.weight if isinstance(top, Dense) else top.w).shape[1], name=name)
    for layer in layers:
        if isinstance(layer, Dense):
            model.dense(layer.weight, layer.bias, layer.activation, name=layer.name)
        else:
            model.gru(
                layer.w, layer.r, layer.wb, layer.rb, h0=layer.h0, order="urc", name=layer.name
            )
    return model


def same_layers(a: Sequence[Dense | Gru], b: Sequence[Dense | Gru]) -> bool:
    def equal(p: Any, q: Any) -> bool:
        if isinstance(p, np.ndarray) and isinstance(q, np.ndarray):
            return np.array_equal(p, q, equal_nan=True)
        return type(p) is type(q) and p == q

    return len(a) == len(b) and all(
        type(p) is type(q) and all(equal(v, vars(q)[k]) for k, v in vars(p).items())
        for p, q in zip(a, b)
    )
