"""Import of trained networks from PyTorch ``state_dict``s and the files that hold one.

A ``state_dict`` has the weights and their names, but neither the order of the modules (only the
order in which they were created) nor the activations. Both can be given as ``layers``, a list of
``(kind, prefix)`` from input to output::

    [("relu", "fc_in"), ("gru", "rnn"), ("sigmoid", "fc_out")]

``prefix`` is the name of the module, i.e. what stands before ``.weight`` or ``.weight_ih_l0``;
``""`` for a ``state_dict`` of a lone module. A ``.safetensors`` file may carry the same list as
JSON in its metadata, under the key ``layers``. ``kind`` is one of

=============================== ===================================================================
``gru``                         ``nn.GRU``, all its stacked layers; ``nn.GRUCell``
``lstm``                        ``nn.LSTM``, ``nn.LSTMCell``
``embedding``                   ``nn.Embedding``, first in the list
``linear relu sigmoid tanh``    ``nn.Linear`` and the activation after it
``gru_inverted``                a GRU with h' = (1 - z) h + z n
``gru_before gru_before_relu``  a GRU with n = f(W_in x + b_in + W_hn (r h) + b_hn)
=============================== ===================================================================

The last two rows are modules of one's own with the names and shapes of ``nn.GRU``: the tensors do
not tell them apart from it, only their source does.

A convolution of kernel 1 is listed as the linear layer that it is. Weights are those that the
network computes with: see :func:`~stillnet.sw.importers.checkpoints.plain_state`.

Without the list, modules are taken in the order of the dict (``.safetensors`` files do not keep
one: there in the natural order of their names, fc2 before fc10), and every ``nn.Linear`` without
activation. Both are guesses, and a ``UserWarning`` says so. Nor does a ``state_dict`` tell that a
module reads another vector too (a skip connection): only outputs of the training framework do, see
:mod:`stillnet.sw.importers.expect`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model

from .checkpoints import plain_state, without_prefix
from .tensor_files import (
    float_array,
    natural,
    read_npz,
    read_pt,
    read_safetensors,
    refuse_tensor,
    shape_of,
)

__all__ = ["LayerList", "from_state_dict", "load_npz", "load_pt", "load_safetensors"]

LayerList = Sequence[tuple[str, str]]
"""Kind and prefix of each module, from the input to the output."""

_DENSE = ("linear", "relu", "sigmoid", "tanh")
_GRUS: dict[str, dict[str, Any]] = {
    "gru": {},
    "gru_inverted": {},
    "gru_before": {"reset": "before"},
    "gru_before_relu": {"reset": "before", "activation": "relu"},
}
_RECURRENT = (*_GRUS, "lstm")
_KINDS = (*_RECURRENT, "embedding", *_DENSE)
_RNN_KEY = re.compile(
    r"(?:(?P<prefix>.*)\.)?(?P<what>weight|bias)_(?P<kind>ih|hh|hr)"
    r"(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?"
)
_LINEAR_KEY = re.compile(r"(?:(?P<prefix>.*)\.)?(?P<what>weight|bias)")


_EXPECT = (
    "and check the result against the training framework's outputs with --expect Y.npy, as a "
    "state_dict does not tell skip connections either"
)


class _Module(NamedTuple):
    recurrent: bool
    prefix: str


def from_state_dict(
    state: Mapping[str, Any],
    layers: LayerList | None = None,
    *,
    name: str = "network",
    gru_reset: str | None = None,
) -> Model:
    """Builds a model from the weights of GRU, LSTM, embedding and linear modules.

    Parameters
    ----------
    state : mapping of str to tensor
        ``module.state_dict()``, or arrays of the same names and shapes:
        ``weight_ih_l0`` (3*H, I), ``weight_hh_l0`` (3*H, H), ``bias_ih_l0`` and ``bias_hh_l0``
        (3*H,), gates in the order r, z, n, of an LSTM (4*H, ...) in the order i, f, g, o;
        ``weight`` (units, inputs) and ``bias`` (units,); of an embedding (tokens, features).
        Anything with ``.numpy()`` or ``__array__`` is a tensor. Biases may be missing.
    layers : sequence of (kind, prefix), optional
        The modules from input to output; see the head of this module. Guessed when absent.
    name : str
        Name of the result.
    gru_reset : str, optional
        ``"before"``: layers of the kind ``gru`` are of the kind ``gru_before``.

    Returns
    -------
    Model
        Layers named after their module; ``rnn.l0``, ``rnn.l1`` for stacked layers. An embedding is
        multiplied into the matrix of the layer after it, and the model takes tokens.

    Raises
    ------
    StillnetError
        A tensor, named, does not belong to a supported module.
    """
    if not isinstance(state, Mapping):
        raise StillnetError(
            f"the state_dict is a {type(state).__name__}, not a mapping of names to tensors: pass "
            "module.state_dict()"
        )
    state = plain_state({_check_key(k): v for k, v in state.items()})
    prefix = without_prefix(list(state))
    state = {k.removeprefix(prefix): v for k, v in state.items()}
    keys = list(state)
    if not keys:
        raise StillnetError("the state_dict is empty: save module.state_dict() of a trained model")
    chain = _guess(state, keys) if layers is None else _given(layers, keys, prefix)
    arrays = {key: float_array(key, state[key]) for _, _, used in chain for key in used}
    builder = _Builder(arrays, name)
    for kind, prefix, used in chain:
        if kind == "embedding":
            builder.embedding(prefix, used)
        elif kind in _RECURRENT:
            before = gru_reset == "before" and kind == "gru"
            builder.recurrent("gru_before" if before else kind, prefix, used)
        else:
            builder.dense(kind, prefix, used)
    return builder.model()


def load_safetensors(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads a ``state_dict`` from a ``.safetensors`` file (F64, F32, F16, BF16).

    ``layers`` as in :func:`from_state_dict`; when absent, the metadata key ``layers`` (JSON, such
    as ``[["gru", "rnn"], ["sigmoid", "fc"]]``) is used. The format does not keep the order of
    tensors: without either list, modules are taken in the natural order of their names.
    """
    path = Path(path)
    state, metadata = read_safetensors(path)
    if layers is None and "layers" in metadata:
        layers = layers_of(path, metadata)
    return from_state_dict(state, layers, name=path.stem)


def layers_of(path: Path, metadata: Mapping[str, str]) -> LayerList:
    """The list of layers in the metadata of a file."""
    try:
        return json.loads(metadata["layers"])
    except ValueError as e:
        raise StillnetError(
            f"file '{path}': its metadata key 'layers' is not JSON ({e}): write "
            'it as [["gru", "rnn"], ["sigmoid", "fc"]]'
        ) from None


def load_npz(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads a ``state_dict`` from a ``.npz`` file, in the order of the file.

    ``layers`` as in :func:`from_state_dict`.
    """
    path = Path(path)
    return from_state_dict(read_npz(path), layers, name=path.stem)


def load_pt(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads the weights of a ``.pt`` or ``.pth`` file; PyTorch is not needed.

    ``layers`` as in :func:`from_state_dict`; what is read as in :func:`tensor_files.read_pt`.
    """
    path = Path(path)
    return from_state_dict(read_pt(path), layers, name=path.stem)


def _check_key(key: Any) -> str:
    if not isinstance(key, str):
        raise StillnetError(
            f"the state_dict has the key {key!r}, which is no name: pass module.state_dict()"
        )
    return key


def _columns(key: str, weight: np.ndarray) -> int:
    if weight.ndim != 2 or 0 in weight.shape:
        refuse_tensor(
            key,
            f"it has shape {weight.shape}, a matrix (units, inputs) is needed; only nn.GRU, "
            "nn.LSTM, their cells, nn.Linear and convolutions of kernel 1 are supported",
        )
    return weight.shape[1]


def _is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a weight is that of an nn.Linear, or of a convolution of kernel 1."""
    return len(shape) in (2, 3, 4) and set(shape[2:]) <= {1}


def _beside(state: Mapping[str, Any], key: str) -> bool:
    """Whether a tensor is a counter or a scalar, which no layer here has."""
    kind = getattr(getattr(state[key], "dtype", None), "kind", "f")
    return len(shape_of(state[key])) == 0 or shape_of(state[key]) == (1,) or kind in "iub"


def _guess(state: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Modules in order of first appearance, every nn.Linear without activation."""
    modules: dict[_Module, None] = {}
    beside = []
    for key in keys:
        if m := _RNN_KEY.fullmatch(key):
            modules[_Module(True, m["prefix"] or "")] = None
        elif (m := _LINEAR_KEY.fullmatch(key)) and (
            _is_matrix(shape_of(state[key]))
            if m["what"] == "weight"
            else len(shape_of(state[key])) == 1
        ):
            modules[_Module(False, m["prefix"] or "")] = None
        elif _beside(state, key):
            beside.append(key)
        else:
            _refuse_unknown(key, shape_of(state[key]))
    chain = []
    for recurrent, prefix in modules:
        used = _module_keys(recurrent, prefix, keys)
        chain.append((_recurrent_kind(state, used) if recurrent else "linear", prefix, used))
    dense = [prefix or "linear" for kind, prefix, _ in chain if kind == "linear"]
    text = []
    if len(chain) > 1:
        text.append("the order of the modules is guessed: " + ", ".join(p for _, p, _ in chain))
    if dense:
        text.append("activations are not part of a state_dict: none after " + ", ".join(dense))
    if beside:
        text.append("tensors that no layer has are left out: " + _some(beside))
    if not chain:
        _refuse_unknown(beside[0], shape_of(state[beside[0]]))
    if text:
        example = [(k, p) for k, p, _ in chain]
        check = f", {_EXPECT}" if len(chain) > 1 or beside else ""
        warnings.warn(f"{'; '.join(text)}; give layers={example}{check}", stacklevel=3)
    return chain


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")


def _refuse_unknown(key: str, shape: tuple[int, ...]) -> NoReturn:
    more = ", or export the model as ONNX, which has all of it"
    if len(shape) == 3:
        more = (
            f" (a convolution of {shape[2]} taps: only its source tells its padding, so export "
            "the model as ONNX)"
        )
    elif len(shape) == 4:
        more = (
            " (a convolution over two axes: only its source tells its strides and padding, so "
            "export the model as ONNX)"
        )
    refuse_tensor(
        key,
        f"of shape {shape}, it belongs to no nn.GRU, nn.LSTM or nn.Linear, the modules that are "
        f"supported; remove or fold it, or choose modules with layers{more}",
    )


def _given(
    layers: LayerList, keys: Sequence[str], before: str = ""
) -> list[tuple[str, str, list[str]]]:
    """The modules that the user lists."""
    chain: list[tuple[str, str, list[str]]] = []
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise StillnetError(
            f'layers is {layers!r}; give a list such as [("gru", "rnn"), ("sigmoid", "fc")]'
        )
    for entry in layers:
        pair = tuple(entry) if isinstance(entry, Iterable) and not isinstance(entry, str) else ()
        if len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise StillnetError(
                f'layers holds {entry!r}; each entry is a kind and a prefix, as ("gru", "rnn")'
            )
        kind, prefix = pair
        prefix = f"{prefix.removesuffix('.')}.".removeprefix(before).removesuffix(".")
        if kind not in _KINDS:
            raise StillnetError(
                f"layer '{prefix}': kind '{kind}' is not supported; use {', '.join(_KINDS)}"
            )
        used = _module_keys(kind in _RECURRENT, prefix, keys)
        if not used:
            needed = "weight_ih_l0" if kind in _RECURRENT else "weight"
            known = sorted({k.rpartition(".")[0] for k in keys}, key=natural)
            raise StillnetError(
                f"layer '{prefix}': the state_dict has no tensor "
                f"'{prefix + '.' if prefix else ''}{needed}' for a {kind} layer; its modules are "
                + ", ".join(f"'{k}'" for k in known)
            )
        if any(used == u for _, _, u in chain):
            raise StillnetError(
                f"layer '{prefix}' is listed twice in layers: shared weights are not supported, "
                "list each module once"
            )
        chain.append((kind, prefix, used))
    left = [k for k in keys if not any(k in used for _, _, used in chain)]
    if left:
        warnings.warn(
            f"{len(left)} tensors belong to no module of layers and are left out: {_some(left)}; "
            f"if they matter the network is another one: {_EXPECT}",
            stacklevel=3,
        )
    return chain


def _module_keys(recurrent: bool, prefix: str, keys: Sequence[str]) -> list[str]:
    """Names of a module's tensors: all of an RNN's; weight, bias of an nn.Linear's; [] if none."""
    pattern = _RNN_KEY if recurrent else _LINEAR_KEY
    used = [k for k in keys if (m := pattern.fullmatch(k)) and (m["prefix"] or "") == prefix]
    if not recurrent:
        used.sort(reverse=True)  # weight, bias
        dot = prefix + "." if prefix else ""
        if used and used[0] != f"{dot}weight":
            refuse_tensor(used[0], f"there is no '{dot}weight' with it; save the whole state_dict")
    return used


def _recurrent_kind(state: Mapping[str, Any], used: Sequence[str]) -> str:
    """gru or lstm, by the rows of the recurrent matrix."""
    for key in used:
        m = _RNN_KEY.fullmatch(key)
        if m is not None and (m["what"], m["kind"]) == ("weight", "hh"):
            shape = shape_of(state[key])
            return "lstm" if len(shape) == 2 and shape[0] == 4 * shape[1] else "gru"
    return "gru"


class _Builder:
    """Adds module after module to a model."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        self._arrays = arrays
        self._name = name
        self._model: Model | None = None
        self._table: np.ndarray | None = None  # (tokens, features), not yet multiplied in

    def model(self) -> Model:
        """The finished model."""
        if self._model is None:
            raise StillnetError(
                "the state_dict's layers are an embedding alone: list the layer that it feeds too"
            )
        return self._model

    def embedding(self, prefix: str, used: Sequence[str]) -> None:
        """Keeps the table for the next layer."""
        if self._model is not None or self._table is not None:
            raise StillnetError(
                f"layer '{prefix}' is an embedding after another layer; the engine takes tokens "
                "at its input only, so list it first"
            )
        if len(used) > 1:
            refuse_tensor(used[1], "an nn.Embedding has no bias; list the module as 'linear'")
        self._table = self._arrays[used[0]]
        _columns(used[0], self._table)

    def _enter(self, label: str, weight: np.ndarray) -> tuple[Model, np.ndarray]:
        """The model so far, and the weights with the embedding multiplied in."""
        table, self._table = self._table, None
        if table is not None:
            if table.shape[1] != weight.shape[1]:
                raise StillnetError(
                    f"layer '{label}': it takes {weight.shape[1]} inputs, the embedding before "
                    f"it gives {table.shape[1]}; list the modules in their order"
                )
            weight = weight @ table.T
        elif self._model is not None and weight.shape[1] != self._model.outputs:
            raise StillnetError(
                f"layer '{label}': it takes {weight.shape[1]} inputs, the layer before it gives "
                f"{self._model.outputs}; list the modules in their order, or, if it reads other "
                f"vectors too (a skip connection), export the model as ONNX{self._embedded(weight)}"
            )
        if self._model is None:
            self._model = Model(weight.shape[1], name=self._name, one_hot=table is not None)
        return self._model, weight

    def _embedded(self, weight: np.ndarray) -> str:
        """What to list where a first matrix that does not fit may be the table of an embedding."""
        assert self._model is not None
        first = self._model.layers[0]
        alone = len(self._model.layers) == 1 and first.cell in ("linear", "relu")
        if not alone or self._model.inputs != weight.shape[1] or np.any(list(first.bias.values())):
            return ""
        return f"; if '{first.name}' is an nn.Embedding, list it as embedding:{first.name}"

    def dense(self, kind: str, prefix: str, used: Sequence[str]) -> None:
        """Adds an nn.Linear."""
        weight = self._arrays[used[0]]
        if weight.ndim > 2 and _is_matrix(weight.shape):
            weight = weight.reshape(weight.shape[:2])
        bias = self._arrays[used[1]] if len(used) > 1 else None
        _columns(used[0], weight)
        model, weight = self._enter(prefix or "linear", weight)
        model.dense(weight, bias, kind, name=prefix or "linear")

    def recurrent(self, kind: str, prefix: str, used: Sequence[str]) -> None:
        """Adds the stacked layers of one nn.GRU or nn.LSTM, or a cell."""
        gates, family = (4, "LSTM") if kind == "lstm" else (3, "GRU")
        parts = _stacked(used, family)
        dot = prefix + "." if prefix else ""
        cell = not any(re.search(r"_l\d+$", k) for k in used)
        for layer in range(max(parts) + 1):
            part = parts.get(layer, {})
            suffix = "" if cell else f"_l{layer}"
            for what in ("weight_ih", "weight_hh"):
                if what not in part:
                    refuse_tensor(
                        f"{dot}{what}{suffix}", "it is missing; save the whole state_dict"
                    )
            w, r = self._arrays[part["weight_ih"]], self._arrays[part["weight_hh"]]
            _columns(part["weight_ih"], w)
            units = _columns(part["weight_hh"], r)
            if r.shape[0] != gates * units:
                _refuse_rows(part["weight_hh"], r.shape, gates, family)
            single = cell or len(parts) == 1
            label = (prefix or family.lower()) if single else f"{dot}l{layer}"
            bi, bh = (self._arrays[part[b]] if b in part else None for b in ("bias_ih", "bias_hh"))
            model, w = self._enter(label, w)
            if kind == "lstm":
                model.lstm(w, r, bi, bh, order="ifgo", name=label)
                continue
            if kind == "gru_inverted":  # 1 - sigmoid(v) = sigmoid(-v): the z rows change sign
                sign = np.repeat([1.0, -1.0, 1.0], units)
                w, r = w * sign[:, None], r * sign[:, None]
                bi, bh = (b if b is None or b.shape != sign.shape else b * sign for b in (bi, bh))
            model.gru(w, r, bi, bh, order="ruc", name=label, **_GRUS[kind])


def _stacked(used: Sequence[str], family: str) -> dict[int, dict[str, str]]:
    """Tensors of each stacked layer: ``weight_ih`` and so on to the key."""
    parts: dict[int, dict[str, str]] = {}
    for key in used:
        m = _RNN_KEY.fullmatch(key)
        assert m is not None
        if m["reverse"]:
            refuse_tensor(
                key,
                "bidirectional layers are not supported, as a stream has no end to start from; "
                f"train a forward {family}",
            )
        if m["kind"] == "hr":
            refuse_tensor(key, "proj_size is not supported; train without projection")
        parts.setdefault(int(m["layer"] or 0), {})[f"{m['what']}_{m['kind']}"] = key
    return parts


def _refuse_rows(key: str, shape: tuple[int, ...], gates: int, family: str) -> None:
    units = shape[1]
    kinds = {4 * units: "of an LSTM", 3 * units: "of a GRU", units: "of a plain RNN"}
    other = {4: "lstm", 3: "gru"}.get(shape[0] // units if shape[0] % units == 0 else 0)
    refuse_tensor(
        key,
        f"its shape {shape} is that {kinds.get(shape[0], 'of no GRU or LSTM')}, {family} layers "
        f"have ({gates}*H, H); "
        + (f"list it as '{other}'" if other else "only GRU and LSTM layers are supported"),
    )
