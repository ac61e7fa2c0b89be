"""Import of trained networks from Keras files, read without Keras or TensorFlow.

A Sequential model, or a functional one; vectors may be concatenated and added. Keras keeps the
gates of a GRU in the order z, r, h with the bias (2, 3*H) for ``reset_after=True`` and (3*H,)
otherwise, those of an LSTM as i, f, c, o, and every matrix as (inputs, units). z keeps the old
state: h' = z h + (1 - z) c, as in PyTorch and ONNX.

What a file says of training (dropout, regularisers, ``stateful``) does not change the streaming
network: the engine carries states from step to step, and the host clears them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layer_graph import ACTIVATIONS, LayerGraph, Vector
from stillnet.sw.model.model import Model

from .file import KerasFile, read_keras
from .order import MERGES, layer_name, ordered, refuse_layer

__all__ = ["load_keras"]

_NOTHING = frozenset(
    ("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
    + ("Identity", "SpatialDropout1D")
)
"""Layers that do nothing once trained."""

_HINTS = {
    "Bidirectional": "a stream has no end to start from, so train a forward layer",
    "SimpleRNN": "plain RNN layers are not supported; use a GRU or LSTM",
    "Softmax": "this function is not supported on the chip; end the model before it and compute "
    "it on the host",
    "LayerNormalization": "its mean and variance are computed at every step, which is not "
    "supported; use BatchNormalization, which is folded into the next layer",
    "StackedRNNCells": "give each cell a layer of its own",
}


def load_keras(path: str | PathLike[str], *, ignore_mask: bool = False) -> Model:
    """Reads a Keras model from a ``.keras`` or ``.h5`` file.

    Parameters
    ----------
    path : path of a file that ``model.save`` of Keras 2 or 3 wrote
        Layers: GRU (``reset_after`` True or False), LSTM, RNN over a GRUCell or LSTMCell, Dense
        and TimeDistributed(Dense), Conv1D with padding="causal", Embedding in front, Activation,
        ReLU, BatchNormalization, Rescaling, Concatenate, Add, and those that only matter in
        training; ZeroPadding1D in front of a Conv1D that it makes causal; CuDNNGRU, CuDNNLSTM.
    ignore_mask : bool
        Take Masking and ``mask_zero`` as if they were not there: no step is left out.

    Returns
    -------
    Model
        Weights in float64, layers named as in the file. Where a recurrent layer gives its last
        step only (``return_sequences=False``), the model gives every step, the last of which is
        the file's output.

    Raises
    ------
    StillnetError
        The file cannot be read, or a layer, named, is not supported.
    """
    path = Path(path)
    file = read_keras(path)
    try:
        return _Reader(file, path.stem, ignore_mask).read()
    except StillnetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise StillnetError(
            f"file '{path}' holds a Keras model that cannot be read ({type(e).__name__}: {e}); "
            "save it again with model.save('name.keras')"
        ) from None


def _widen(array: np.ndarray) -> np.ndarray:
    """float64; the two bytes of a bfloat16, which HDF5 does not know, too."""
    if array.dtype.kind == "V":
        if array.dtype.itemsize != 2:
            raise ValueError(f"weights of type {array.dtype}")
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float64)


class _Reader:
    """One pass over the layers of a file."""

    def __init__(self, file: KerasFile, name: str, ignore_mask: bool) -> None:
        self._file = file
        self._name = name
        self._ignore_mask = ignore_mask
        self._graph = LayerGraph(name)
        self._last: dict[str, str] = {}
        """Layers that have one step only, to the recurrent layer that made it the last one."""
        self._padded: dict[str, int] = {}
        """Layers whose sequence has zeros in front, to their number."""
        self._padding = 0
        """Zeros in front of what the present layer reads."""

    def read(self) -> Model:
        wiring = ordered(self._file.config)
        values: dict[str, Vector] = {}
        for layer, sources in wiring.layers:
            name, kind = layer_name(layer), str(layer["class_name"])
            config = layer.get("config") or {}
            steps = [self._last.get(s, "") for s in sources]
            if len(set(steps)) > 1:
                refuse_layer(
                    name,
                    kind,
                    f"it joins a sequence with the last step of '{next(s for s in steps if s)}'; "
                    "set return_sequences=True there",
                )
            if steps and steps[0]:
                self._last[name] = steps[0]
            if not sources and kind != "InputLayer":
                vectors = [self._graph.input()]  # Keras 2 may leave the input out
            else:
                vectors = [values[s] for s in sources]
            self._padding = max((self._padded.get(s, 0) for s in sources), default=0)
            if self._padding and kind in _NOTHING:
                self._padded[name] = self._padding
            elif self._padding and kind != "Conv1D":
                refuse_layer(
                    name, kind, "it reads a padded sequence; only a causal Conv1D may take it"
                )
            values[name] = self._layer(name, kind, config, vectors)
        for name in wiring.outputs:
            if self._padded.get(name):
                refuse_layer(name, "output", "it is a padded sequence; end the model before it")
        outputs = [(name, values[name]) for name in wiring.outputs]
        if len(outputs) > 1:
            warnings.warn(
                "the model's outputs are joined side by side: "
                + ", ".join(f"'{n}' ({v.size})" for n, v in outputs),
                stacklevel=4,
            )
        return self._graph.model(outputs)

    def _layer(
        self, name: str, kind: str, config: Mapping[str, Any], vectors: list[Vector]
    ) -> Vector:
        if kind == "InputLayer":
            shape = config.get("batch_shape", config.get("batch_input_shape")) or [None]
            return self._graph.input(
                None if len(shape) < 3 or shape[-1] is None else int(shape[-1])
            )
        if kind in _NOTHING:
            return vectors[0]
        if kind in MERGES:
            return self._merge(name, kind, config, vectors)
        handler = _LAYERS.get(kind)
        if handler is None:
            refuse_layer(
                name,
                kind,
                _HINTS.get(
                    kind,
                    "this layer is not supported; stillnet takes GRU, LSTM, Dense, Embedding and "
                    "activations, so save the part of the model without it",
                ),
            )
        return handler(self, name, kind, config, vectors[0])

    def _merge(
        self, name: str, kind: str, config: Mapping[str, Any], vectors: list[Vector]
    ) -> Vector:
        if any(v.size is None for v in vectors):
            refuse_layer(name, kind, "it reads an input of unknown size; give Input a shape")
        if kind == "Add":
            return self._graph.add(name, vectors)
        if config.get("axis", -1) not in (-1, 2):
            refuse_layer(name, kind, f"axis is {config['axis']}; only the last one is supported")
        return self._graph.concat(vectors)

    def _weights(self, name: str, kind: str, count: int) -> list[np.ndarray]:
        """The arrays of a layer as float64."""
        arrays = self._file.weights.get(name)
        if arrays is None or len(arrays) != count:
            refuse_layer(
                name,
                kind,
                f"the file has {len(arrays or ())} weight arrays for it, {count} are needed; save "
                "the trained model again",
            )
        for a in arrays:
            if a.dtype.kind not in "fV":
                refuse_layer(
                    name,
                    kind,
                    f"its weights have the type {a.dtype}; save the model before it is quantized",
                )
        wide = [_widen(a) for a in arrays]
        if not all(np.all(np.isfinite(a)) for a in wide):
            refuse_layer(
                name, kind, "its weights hold NaN or infinity; train or save the model again"
            )
        return wide

    def _kind_of_activation(self, name: str, kind: str, value: Any, what: str) -> str:
        """The name of an activation, however the file writes it."""
        if isinstance(value, Mapping):
            value = (value.get("config") or {}).get("name", value.get("class_name"))
        found = str(value or "linear")
        if found == "hard_sigmoid" and what == "recurrent_activation":
            refuse_layer(
                name,
                kind,
                "its recurrent_activation is hard_sigmoid, straight lines in place of the sigmoid "
                "that the cell computes; make the model with recurrent_activation='sigmoid', load "
                "these weights, and train it for some epochs more",
            )
        if found not in ACTIVATIONS:
            refuse_layer(
                name,
                kind,
                f"its {what} is {found}; only {', '.join(ACTIVATIONS)} are supported, so end the "
                "model before it and compute it on the host",
            )
        return found

    # -- layers -----------------------------------------------------------------------------------

    def dense(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        use_bias = bool(config.get("use_bias", True))
        activation = self._kind_of_activation(name, kind, config.get("activation"), "activation")
        if config.get("lora_rank"):
            refuse_layer(name, kind, "lora_rank is set; merge the adapter and save the model again")
        weight, *bias = self._weights(name, kind, 1 + use_bias)
        return self._graph.dense(v, name, weight.T, bias[0] if bias else None, activation)

    def conv(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        def number(key: str) -> int:
            value = config.get(key, 1)
            return int(value[0] if isinstance(value, list) else value)

        self._not_reduced(name, kind)
        kernel, dilation, groups = number("kernel_size"), number("dilation_rate"), number("groups")
        if number("strides") != 1:
            refuse_layer(
                name,
                kind,
                f"strides is {number('strides')}; a stream has one output for each input, so keep "
                "the strided front end on the host",
            )
        self._causal(name, kind, str(config.get("padding")), (kernel - 1) * dilation)
        if config.get("data_format", "channels_last") != "channels_last":
            refuse_layer(name, kind, "data_format is channels_first; use channels_last")
        use_bias = bool(config.get("use_bias", True))
        activation = self._kind_of_activation(name, kind, config.get("activation"), "activation")
        weight, *bias = self._weights(name, kind, 1 + use_bias)
        taps, part, units = weight.shape
        full = np.zeros((units, part * groups, (taps - 1) * dilation + 1))
        for g, rows in enumerate(np.split(np.arange(units), groups)):
            columns = slice(g * part, (g + 1) * part)
            full[rows, columns, ::dilation] = weight[:, :, rows].transpose(2, 1, 0)
        return self._graph.conv(v, name, full, bias[0] if bias else None, activation)

    def _causal(self, name: str, kind: str, padding: str, wanted: int) -> None:
        """Refuses a convolution with another padding than its ``wanted`` zeros in front."""
        if self._padding and padding != "valid":
            refuse_layer(
                name,
                kind,
                f"it is padded twice, by ZeroPadding1D and by padding={padding}; leave out one",
            )
        if self._padding and self._padding != wanted:
            refuse_layer(
                name,
                kind,
                f"it reads {self._padding} zeros in front, {wanted} make it causal; use "
                "padding='causal'",
            )
        if not self._padding and padding != "causal" and wanted:
            refuse_layer(
                name, kind, f"padding is {padding}, which is not causal; use padding='causal'"
            )

    def zero_padding(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        padding = config.get("padding", 1)
        before, after = padding if isinstance(padding, list) else (padding, padding)
        self._not_reduced(name, kind)
        if after or config.get("data_format", "channels_last") != "channels_last":
            refuse_layer(
                name,
                kind,
                f"padding is ({before}, {after}); only zeros in front of the sequence are causal, "
                f"so use ({before}, 0)",
            )
        self._padded[name] = int(before)
        return v

    def masking(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        self._masked(name, kind, "it leaves out steps by their values")
        return v

    def _masked(self, name: str, kind: str, what: str) -> None:
        if not self._ignore_mask:
            refuse_layer(
                name,
                kind,
                f"{what}; leave such steps out on the host, which does not send them, and give "
                "--ignore-mask (ignore_mask=True) to import the model without the mask",
            )
        warnings.warn(f"layer '{name}' ({kind}): its mask is ignored, as asked", stacklevel=2)

    def _not_reduced(self, name: str, kind: str) -> None:
        if name in self._last:
            refuse_layer(
                name,
                kind,
                f"it reads the last step of '{self._last[name]}' only; set return_sequences=True "
                "there",
            )

    def time_distributed(
        self, name: str, kind: str, config: Mapping[str, Any], v: Vector
    ) -> Vector:
        inner = config["layer"]
        if inner["class_name"] not in ("Dense", "Activation", "ReLU", *_NOTHING):
            refuse_layer(
                name,
                kind,
                f"it holds a {inner['class_name']}; only Dense and activations are supported "
                "inside, as every layer of a stream runs at every step",
            )
        return self._layer(name, str(inner["class_name"]), inner.get("config") or {}, [v])

    def activation(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        found = self._kind_of_activation(name, kind, config["activation"], "activation")
        return self._graph.activation(v, name, found)

    def relu(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        for key in ("max_value", "negative_slope", "threshold"):
            if config.get(key):
                refuse_layer(name, kind, f"{key} is {config[key]}; only a plain ReLU is supported")
        return self._graph.activation(v, name, "relu")

    def embedding(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        if config.get("mask_zero"):
            self._masked(name, kind, "mask_zero is set, which leaves out steps")
        (table,) = self._weights(name, kind, 1)
        return self._graph.embedding(v, name, table)

    def batch_normalization(
        self, name: str, kind: str, config: Mapping[str, Any], v: Vector
    ) -> Vector:
        use_scale, center = bool(config.get("scale", True)), bool(config.get("center", True))
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) else axis
        if axis not in (-1, 2):
            refuse_layer(
                name, kind, f"axis is {axis}; only the last one, the features, is supported"
            )
        arrays = self._weights(name, kind, 2 + use_scale + center)
        mean, variance = arrays[-2:]
        scale = 1 / np.sqrt(variance + float(config.get("epsilon", 1e-3)))
        scale = scale * arrays[0] if use_scale else scale
        shift = -mean * scale + (arrays[use_scale] if center else 0.0)
        return self._graph.affine(v, name, scale, shift)

    def rescaling(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        scale, offset = (
            np.asarray(config.get(k, d), float) for k, d in (("scale", 1), ("offset", 0))
        )
        return self._graph.affine(v, name, scale, offset)

    def _recurrent(self, name: str, kind: str, config: Mapping[str, Any]) -> None:
        """What holds for both kinds of recurrent layer."""
        self._not_reduced(name, kind)
        if config.get("go_backwards"):
            refuse_layer(name, kind, "go_backwards is set; a stream has no end to start from")
        if config.get("time_major"):
            refuse_layer(name, kind, "time_major is set; save the model with batches first")
        if not config.get("return_sequences"):
            self._last[name] = name

    def _gates(self, name: str, kind: str, config: Mapping[str, Any]) -> str:
        """Checks the gates' activation; returns the candidate's."""
        gate = self._kind_of_activation(
            name, kind, config.get("recurrent_activation", "sigmoid"), "recurrent_activation"
        )
        if gate != "sigmoid":
            refuse_layer(
                name, kind, f"its recurrent_activation is {gate}; only sigmoid is supported"
            )
        return self._kind_of_activation(name, kind, config.get("activation", "tanh"), "activation")

    def _matrices(
        self, name: str, kind: str, config: Mapping[str, Any], gates: int, rows: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kernel (gates*H, inputs), recurrent kernel (gates*H, H), bias (rows, gates*H)."""
        units, use_bias = int(config["units"]), bool(config.get("use_bias", True))
        w, r, *bias = self._weights(name, kind, 2 + use_bias)
        b = bias[0].reshape(-1) if bias else np.zeros(rows * gates * units)
        if (
            w.ndim != 2
            or w.shape[1] != gates * units
            or r.shape != (units, gates * units)
            or b.shape != (rows * gates * units,)
        ):
            refuse_layer(
                name,
                kind,
                f"its weights have the shapes {w.shape}, {r.shape}"
                + (f" and {bias[0].shape}" if bias else "")
                + f", which do not fit {units} units; save the model again",
            )
        return w.T, r.T, b.reshape(rows, -1)

    def gru(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        self._recurrent(name, kind, config)
        candidate = self._gates(name, kind, config)
        # Keras 1 and early 2 had no reset_after; their GRU reset before the product.
        after = bool(config.get("reset_after", False))
        if candidate not in ("tanh", "relu"):
            refuse_layer(
                name, kind, f"its activation is {candidate}; only tanh and relu are supported"
            )
        w, r, b = self._matrices(name, kind, config, 3, 2 if after else 1)

        def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
            rb = b[1] if after else None
            reset = "after" if after else "before"
            model.gru(w, r, wb, rb, order="urc", reset=reset, activation=candidate, name=name)

        return self._graph.recurrent(v, name, w, b[0], add)

    def lstm(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        self._recurrent(name, kind, config)
        candidate = self._gates(name, kind, config)
        if candidate != "tanh":
            refuse_layer(name, kind, f"its activation is {candidate}; only tanh is supported")
        w, r, b = self._matrices(name, kind, config, 4, 1)

        def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
            model.lstm(w, r, wb, None, order="ifgo", name=name)

        return self._graph.recurrent(v, name, w, b[0], add)

    def cudnn(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        """Layers of Keras 1 and 2 for graphics cards, whose weights lie as cuDNN keeps them."""
        self._recurrent(name, kind, config)
        gates, units = (3 if kind == "CuDNNGRU" else 4), int(config["units"])
        kernel, recurrent, bias = self._weights(name, kind, 3)
        wide = gates * units
        if kernel.ndim != 2 or (kernel.shape[1], recurrent.shape, bias.shape) != (
            wide,
            (units, wide),
            (2 * wide,),
        ):
            refuse_layer(
                name,
                kind,
                f"its weights have the shapes {kernel.shape}, {recurrent.shape} and {bias.shape}, "
                f"which do not fit {units} units; save the model again",
            )
        w = np.vstack([k.reshape(units, -1) for k in np.hsplit(kernel, gates)])
        r = np.vstack(np.hsplit(recurrent, gates))
        wb, rb = np.split(bias, 2)

        def add(model: Model, w: np.ndarray, wb: np.ndarray) -> None:
            if gates == 3:
                model.gru(w, r, wb, rb, order="urc", name=name)
            else:
                model.lstm(w, r, wb, rb, order="ifgo", name=name)

        return self._graph.recurrent(v, name, w, wb, add)

    def rnn(self, name: str, kind: str, config: Mapping[str, Any], v: Vector) -> Vector:
        """The general layer around a cell: the cell's units and activations, its own sequence."""
        cell = config["cell"]
        inner = str(cell["class_name"]) if isinstance(cell, Mapping) else "list of cells"
        if inner not in ("GRUCell", "LSTMCell"):
            refuse_layer(
                name,
                kind,
                f"its cell is a {inner}; only GRUCell and LSTMCell are supported"
                + (f", so {_HINTS[inner]}" if inner in _HINTS else ""),
            )
        merged = {**config, **cell["config"], "name": name}
        handler = _Reader.gru if inner == "GRUCell" else _Reader.lstm
        return handler(self, name, f"{kind} of {inner}", merged, v)


_LAYERS: dict[str, Callable[[_Reader, str, str, Mapping[str, Any], Vector], Vector]] = {
    "Activation": _Reader.activation,
    "BatchNormalization": _Reader.batch_normalization,
    "Conv1D": _Reader.conv,
    "CuDNNGRU": _Reader.cudnn,
    "CuDNNLSTM": _Reader.cudnn,
    "Dense": _Reader.dense,
    "Embedding": _Reader.embedding,
    "GRU": _Reader.gru,
    "LSTM": _Reader.lstm,
    "RNN": _Reader.rnn,
    "Masking": _Reader.masking,
    "ReLU": _Reader.relu,
    "Rescaling": _Reader.rescaling,
    "TimeDistributed": _Reader.time_distributed,
    "ZeroPadding1D": _Reader.zero_padding,
}
