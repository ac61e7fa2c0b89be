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
class Conv:
    name: str
    weight: np.ndarray  # (units, inputs, taps), newest last
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
    reset: str = "after"
    activation: str = "tanh"


@dataclass
class Lstm:
    name: str
    w: np.ndarray  # (4*H, inputs), gates i, o, f, g
    r: np.ndarray  # (4*H, H)
    wb: np.ndarray  # (4*H,)
    rb: np.ndarray  # (4*H,)
    peepholes: np.ndarray | None  # (3, H): i, o, f
    h0: np.ndarray | None
    c0: np.ndarray | None


Layer = Dense | Conv | Gru | Lstm


@dataclass
class Affine:
    """An element-wise ``scale * v + shift`` (scalars or one value a feature) not yet folded."""

    node: str
    scale: np.ndarray
    shift: np.ndarray


def inputs_of(layer: Layer) -> int:
    """Elements of the vector that a layer takes."""
    return (layer.weight if isinstance(layer, Dense | Conv) else layer.w).shape[1]


def build_model(layers: Sequence[Layer], name: str, one_hot: bool) -> Model:
    model = Model(inputs_of(layers[0]), name=name, one_hot=one_hot)
    for layer in layers:
        if isinstance(layer, Dense):
            model.dense(layer.weight, layer.bias, layer.activation, name=layer.name)
        elif isinstance(layer, Conv):
            model.conv(layer.weight, layer.bias, layer.activation, name=layer.name)
        elif isinstance(layer, Lstm):
            _add_lstm(model, layer)
        else:
            model.gru(
                layer.w,
                layer.r,
                layer.wb,
                layer.rb,
                h0=layer.h0,
                order="urc",
                reset=layer.reset,
                activation=layer.activation,
                name=layer.name,
            )
    return model


def _add_lstm(model: Model, layer: Lstm) -> None:
    model.lstm(
        layer.w,
        layer.r,
        layer.wb,
        layer.rb,
        h0=layer.h0,
        c0=layer.c0,
        peepholes=None if layer.peepholes is None else dict(zip("iof", layer.peepholes)),
        order="iofg",
        name=layer.name,
    )


def same_layers(a: Sequence[Layer], b: Sequence[Layer]) -> bool:
    def equal(p: Any, q: Any) -> bool:
        if isinstance(p, np.ndarray) and isinstance(q, np.ndarray):
            return np.array_equal(p, q, equal_nan=True)
        return type(p) is type(q) and p == q

    return len(a) == len(b) and all(
        type(p) is type(q) and all(equal(v, vars(q)[k]) for k, v in vars(p).items())
        for p, q in zip(a, b)
    )
