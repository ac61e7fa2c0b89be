"""Recurrent layers of Keras, as nodes of ONNX.

Keras keeps the gates of a GRU in the order z, r, h, as ONNX does, with the bias (2, 3*H) for
``reset_after=True`` and (3*H,) otherwise; those of an LSTM as i, f, c, o, where ONNX has i, o, f,
c. Every matrix is (inputs, units). z keeps the old state in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .functions import GATES, activation_name, hard_sigmoid
from .writer import Layer, Tensor

__all__ = ["RECURRENT", "Recurrent"]

_CELLS = {"GRUCell": "GRU", "LSTMCell": "LSTM", "SimpleRNNCell": "SimpleRNN"}

Recurrent = Callable[[Layer, Tensor, Sequence[Tensor]], list[Tensor]]
"""Takes a layer, its sequence and its initial states; gives what it returns, and final states."""


def _check(layer: Layer, x: Tensor) -> None:
    config = layer.config
    layer.rank(x, 2)
    if config.get("go_backwards") and not _inside_step(layer):
        layer.refuse("go_backwards is set; a stream has no end to start from")
    if config.get("time_major"):
        layer.refuse("time_major is set; save the model with batches first")


def _inside_step(layer: Layer) -> bool:
    """Whether its sequence is an axis inside a step, which has an end."""
    return layer.kind.startswith("TimeDistributed")


def _functions(layer: Layer, gates: int, states: int) -> dict[str, Any]:
    """The attributes of ONNX for the functions of the gates and of the candidate."""
    found = [activation_name(layer.config.get("activation", "tanh"))]
    if gates > 1:
        found = [
            activation_name(layer.config.get("recurrent_activation", "sigmoid")),
            *found * states,
        ]
    for name in found:
        if name not in GATES:
            layer.refuse(
                f"its activation is {name}; inside a recurrent layer only "
                f"{', '.join(sorted(GATES))} are known"
            )
    attributes: dict[str, Any] = {"activations": [GATES[n] for n in found]}
    settings = {"hard_sigmoid": hard_sigmoid(layer.version), "linear": (1.0, 0.0)}
    if any(n in settings for n in found):
        # ONNX takes these from two lists in the order of the functions that have such settings.
        listed = [settings[n] for n in found if n in settings]
        attributes["activation_alpha"] = [a for a, _ in listed]
        attributes["activation_beta"] = [b for _, b in listed]
    return attributes


def _matrices(layer: Layer, gates: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel (inputs, gates*H), recurrent kernel (H, gates*H), bias (rows, gates*H)."""
    units, use_bias = int(layer.config["units"]), bool(layer.config.get("use_bias", True))
    w, r, *bias = layer.weights(2 + use_bias)
    b = bias[0].reshape(-1) if bias else np.zeros(rows * gates * units)
    if (
        w.ndim != 2
        or w.shape[1] != gates * units
        or r.shape != (units, gates * units)
        or b.shape != (rows * gates * units,)
    ):
        _misfit(layer, [w, r, *bias], units)
    return w, r, b.reshape(rows, -1)


def _misfit(layer: Layer, arrays: Sequence[np.ndarray], units: int) -> None:
    shapes = [str(a.shape) for a in arrays]
    layer.refuse(
        f"its weights have the shapes {', '.join(shapes[:-1])} and {shapes[-1]}, which do not fit "
        f"{units} units; save the model again"
    )


def _write(
    layer: Layer,
    x: Tensor,
    starts: Sequence[Tensor],
    op: str,
    matrices: Sequence[np.ndarray],
    order: Sequence[int],
    **attributes: Any,
) -> list[Tensor]:
    """The node and what lies around it; ``order`` has the gates of ONNX by those of Keras."""
    w, r, b = matrices

    def sorted_gates(a: np.ndarray) -> np.ndarray:
        parts = np.split(a, len(order), axis=-1)
        return np.concatenate([parts[k] for k in order], axis=-1)

    if x.shape[1] not in (None, len(w)):
        layer.refuse(
            f"its weights take {len(w)} inputs, but the layer before gives {x.shape[1]}; save the "
            "model again"
        )
    units = len(r)
    biases = np.concatenate([sorted_gates(row) for row in (b if len(b) == 2 else [b[0], 0 * b[0]])])
    states = 2 if op == "LSTM" else 1
    if starts and len(starts) != states:
        layer.refuse(f"it takes {len(starts)} initial states, {states} are expected")
    first = [layer.node("Unsqueeze", s, np.array([0])) for s in starts]
    steps = layer.node("Transpose", x, perm=[1, 0, 2])
    inputs = [steps, sorted_gates(w).T[None], sorted_gates(r).T[None], biases[None]]
    inputs += ["", *first] if first else []
    back = bool(layer.config.get("go_backwards"))
    attributes |= {"hidden_size": units, "direction": "reverse" if back else "forward"}
    y, *ends = layer.node(op, *inputs, outputs=1 + states, main=True, **attributes)
    final = [Tensor(layer.node("Squeeze", s, np.array([0])), (units,)) for s in ends]
    if not layer.config.get("return_sequences"):
        return [Tensor(layer.node("Squeeze", ends[0], np.array([0])), (units,)), *final]
    y = layer.node("Squeeze", y, np.array([1]))
    y = layer.node("Transpose", y, perm=[1, 0, 2])
    if back:  # Keras gives what was computed first in front
        y = _turned(layer, y)
    return [Tensor(y, (x.shape[0], units)), *final]


def _turned(layer: Layer, y: str) -> str:
    """The steps in the opposite order."""
    last = np.iinfo(np.int64).min + 1
    return str(layer.node("Slice", y, *(np.array([n]) for n in (-1, last, 1, -1))))


def _gru(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    _check(layer, x)
    # Keras 1 and early 2 had no reset_after; their GRU reset before the product.
    after = bool(layer.config.get("reset_after", False))
    matrices = _matrices(layer, 3, 2 if after else 1)
    functions = _functions(layer, 3, 1)
    return _write(
        layer, x, starts, "GRU", matrices, (0, 1, 2), linear_before_reset=int(after), **functions
    )


def _lstm(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    _check(layer, x)
    functions = _functions(layer, 4, 2)
    return _write(layer, x, starts, "LSTM", _matrices(layer, 4, 1), (0, 3, 1, 2), **functions)


def _simple(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    _check(layer, x)
    functions = _functions(layer, 1, 1)
    return _write(layer, x, starts, "RNN", _matrices(layer, 1, 1), (0,), **functions)


def _cudnn(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    """Layers of Keras 1 and 2 for graphics cards, whose weights lie as cuDNN keeps them."""
    _check(layer, x)
    gates, units = (3 if layer.kind == "CuDNNGRU" else 4), int(layer.config["units"])
    kernel, recurrent, bias = layer.weights(3)
    wide = gates * units
    sizes = (kernel.shape[-1:], recurrent.shape, bias.shape)
    if kernel.ndim != 2 or sizes != ((wide,), (units, wide), (2 * wide,)):
        _misfit(layer, [kernel, recurrent, bias], units)
    w = np.vstack([k.reshape(units, -1) for k in np.hsplit(kernel, gates)]).T
    r = np.vstack(np.hsplit(recurrent, gates)).T
    op, order = ("GRU", (0, 1, 2)) if gates == 3 else ("LSTM", (0, 3, 1, 2))
    attributes = {"linear_before_reset": 1} if gates == 3 else {}
    return _write(layer, x, starts, op, [w, r, bias.reshape(2, -1)], order, **attributes)


def _rnn(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    """The general layer around a cell: the cell's units and activations, its own sequence."""
    cell = layer.config["cell"]
    inner = str(cell["class_name"]) if isinstance(cell, Mapping) else "list of cells"
    if inner not in _CELLS:
        layer.refuse(
            f"its cell is a {inner}; only {', '.join(_CELLS)} are supported"
            + (
                ", so give each cell a layer of its own"
                if inner in ("StackedRNNCells", "list of cells")
                else ""
            )
        )
    merged = {**layer.config, **cell["config"], "name": layer.name}
    whole = replace(layer, kind=f"{layer.kind} of {inner}", config=merged)
    return RECURRENT[_CELLS[inner]](whole, x, starts)


_BOTH = {"ave": "Mean", "mul": "Mul", "sum": "Add"}
"""How the layers of both directions may be joined, other than side by side."""


def _bidirectional(layer: Layer, x: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    """Two layers, of which one begins at the end."""
    if not _inside_step(layer):
        layer.refuse(
            "its backward layer begins at the end of a recording, which a stream does not have; "
            "take the forward layer alone (bidirectional.forward_layer), train the layers behind "
            "it for some epochs, and save that model"
        )
    mode, arrays = layer.config.get("merge_mode", "concat"), layer.arrays or []
    if starts or (mode != "concat" and mode not in _BOTH):
        layer.refuse(
            "it is called with initial states; save the model without them"
            if starts
            else f"merge_mode is {mode}; set it to concat, sum, mul or ave, and train again"
        )
    forward = layer.config["layer"]
    backward = layer.config.get("backward_layer") or {
        **forward,
        "config": {**forward["config"], "go_backwards": not forward["config"].get("go_backwards")},
    }
    results: list[list[Tensor]] = []
    for k, (name, part) in enumerate((("forward", forward), ("backward", backward))):
        kind, half = str(part["class_name"]), len(arrays) // 2
        if kind not in RECURRENT or kind == "Bidirectional":
            layer.refuse(f"it holds a {kind}; only recurrent layers are supported inside")
        inner = replace(
            layer,
            name=f"{layer.name}/{name}_layer",
            kind=f"{layer.kind} of {kind}",
            config=part["config"],
            arrays=arrays[k * half : (k + 1) * half],
        )
        results.append(RECURRENT[kind](inner, x, []))
    ahead, behind = results[0][0], results[1][0]
    if forward["config"].get("return_sequences"):
        behind = Tensor(_turned(layer, behind.name), behind.shape)
    if mode == "concat":
        wide = sum(t.shape[-1] or 0 for t in (ahead, behind))
        both = Tensor(layer.node("Concat", ahead, behind, axis=-1), (*ahead.shape[:-1], wide))
    else:
        both = Tensor(layer.node(_BOTH[mode], ahead, behind), ahead.shape)
    return [both, *results[0][1:], *results[1][1:]]


RECURRENT: dict[str, Recurrent] = {
    "Bidirectional": _bidirectional,
    "CuDNNGRU": _cudnn,
    "CuDNNLSTM": _cudnn,
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN": _rnn,
    "SimpleRNN": _simple,
}
