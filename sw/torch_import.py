"""Import of trained networks from PyTorch ``state_dict``s and the files that hold one.

A ``state_dict`` has the weights and their names, but neither the order of the modules (only the
order in which they were created) nor the activations. Both can be given as ``layers``, a list of
``(kind, prefix)`` from input to output::

    [("relu", "fc_in"), ("gru", "rnn"), ("sigmoid", "fc_out")]

``kind`` is ``"gru"`` for ``nn.GRU`` (all its stacked layers) and ``nn.GRUCell``, or the activation
after an ``nn.Linear``: ``"linear"``, ``"relu"``, ``"sigmoid"``, ``"tanh"``. ``prefix`` is the name
of the module, i.e. what stands before ``.weight`` or ``.weight_ih_l0``; ``""`` for a ``state_dict``
of a lone module. A ``.safetensors`` file may carry the same list as JSON in its metadata, under
the key ``layers``.

Without the list, modules are taken in the order of the dict (``.safetensors`` files do not keep
one: there in the natural order of their names, fc2 before fc10), and every ``nn.Linear`` without
activation. Both are guesses, and a ``UserWarning`` says so.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .errors import StillnetError
from .model import Model

__all__ = ["LayerList", "from_state_dict", "load_npz", "load_pt", "load_safetensors"]

LayerList = Sequence[tuple[str, str]]
"""Kind and prefix of each module, from the input to the output."""

_DENSE = ("linear", "relu", "sigmoid", "tanh")
_GRU_KEY = re.compile(
    r"(?:(?P<prefix>.*)\.)?(?P<what>weight|bias)_(?P<kind>ih|hh|hr)"
    r"(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?"
)
_LINEAR_KEY = re.compile(r"(?:(?P<prefix>.*)\.)?(?P<what>weight|bias)")
_SAFETENSORS: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # widened to float32 below
}


class _Module(NamedTuple):
    recurrent: bool
    prefix: str


def from_state_dict(
    state: Mapping[str, Any], layers: LayerList | None = None, *, name: str = "network"
) -> Model:
    """Builds a model from the weights of ``nn.GRU``, ``nn.GRUCell`` and ``nn.Linear`` modules.

    Parameters
    ----------
    state : mapping of str to tensor
        ``module.state_dict()``, or arrays of the same names and shapes:
        ``weight_ih_l0`` (3*H, I), ``weight_hh_l0`` (3*H, H), ``bias_ih_l0`` and ``bias_hh_l0``
        (3*H,), gates in the order r, z, n; ``weight`` (units, inputs) and ``bias`` (units,).
        Anything with ``.numpy()`` or ``__array__`` is a tensor. Biases may be missing.
    layers : sequence of (kind, prefix), optional
        The modules from input to output; see the head of this module. Guessed when absent.
    name : str
        Name of the result.

    Returns
    -------
    Model
        Layers named after their module; ``rnn.l0``, ``rnn.l1`` for stacked GRU layers.

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
    keys = [_check_key(k) for k in state]
    if not keys:
        raise StillnetError("the state_dict is empty: save module.state_dict() of a trained model")
    chain = _guess(state, keys) if layers is None else _given(layers, keys)
    arrays = {key: _array(key, state[key]) for _, _, used in chain for key in used}
    model: Model | None = None
    for kind, prefix, used in chain:
        if kind == "gru":
            model = _add_gru(model, prefix, used, arrays, name)
        else:
            weight, bias = arrays[used[0]], arrays[used[1]] if len(used) > 1 else None
            model = model or Model(_columns(used[0], weight), name=name)
            model.dense(weight, bias, kind, name=prefix or "linear")
    assert model is not None
    return model


def load_safetensors(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads a ``state_dict`` from a ``.safetensors`` file (F64, F32, F16, BF16).

    ``layers`` as in :func:`from_state_dict`; when absent, the metadata key ``layers`` (JSON, such
    as ``[["gru", "rnn"], ["sigmoid", "fc"]]``) is used. The format does not keep the order of
    tensors: without either list, modules are taken in the natural order of their names.
    """
    import safetensors

    path = Path(path)
    data = _read(path)
    try:
        tensors: Any = safetensors.deserialize(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, AttributeError) as e:
        raise StillnetError(
            f"file '{path}' is not a safetensors file, or is cut short ({_first_line(e)}): save or "
            "copy it again"
        ) from None
    if "stillnet" in metadata:
        raise StillnetError(
            f"file '{path}' is a network that stillnet has quantized already: use it with "
            "'stillnet run' or 'stillnet pack', or import the model it was made from"
        )
    state: dict[str, np.ndarray] = {}
    for key, tensor in tensors:
        dtype = _SAFETENSORS.get(tensor["dtype"])
        if dtype is None:
            raise StillnetError(
                f"tensor '{key}' has elements of type {tensor['dtype']}; weights are needed as "
                "F64, F32, F16 or BF16"
            )
        array = np.frombuffer(tensor["data"], dtype)
        if tensor["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        state[key] = array.reshape(tensor["shape"])
    if layers is None and "layers" in metadata:
        try:
            layers = json.loads(metadata["layers"])
        except ValueError as e:
            raise StillnetError(
                f"file '{path}': its metadata key 'layers' is not JSON ({_first_line(e)}): write "
                'it as [["gru", "rnn"], ["sigmoid", "fc"]]'
            ) from None
    ordered = {key: state[key] for key in sorted(state, key=_natural)}
    return from_state_dict(ordered, layers, name=path.stem)


def load_npz(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads a ``state_dict`` from a ``.npz`` file, in the order of the file.

    ``layers`` as in :func:`from_state_dict`.
    """
    path = Path(path)
    data = io.BytesIO(_read(path))
    try:
        loaded = np.load(data, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is one array")
        with loaded as file:
            state = {key: file[key] for key in file.files}
    except Exception as e:  # zipfile and zlib raise errors of their own
        raise StillnetError(
            f"file '{path}' is not an .npz file of plain arrays, or is cut short "
            f"({_first_line(e)}): save it with numpy.savez(path, **arrays)"
        ) from None
    return from_state_dict(state, layers, name=path.stem)


def load_pt(path: str | PathLike[str], layers: LayerList | None = None) -> Model:
    """Reads a ``state_dict`` from a ``.pt`` or ``.pth`` file; needs PyTorch.

    ``layers`` as in :func:`from_state_dict`. A checkpoint that holds the ``state_dict`` under
    ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped. Only plain weights are read,
    never pickled code.
    """
    path = Path(path)
    _read(path)
    try:
        import torch
    except ImportError:
        raise StillnetError(
            f"file '{path}' needs PyTorch to be read: pip install \"stillnet[torch]\", or convert "
            "it where PyTorch is installed, with safetensors.torch.save_file(torch.load('"
            f"{path.name}', weights_only=True), '{path.stem}.safetensors')"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises anything
        raise StillnetError(
            f"file '{path}' is not a PyTorch state_dict, or is cut short ({_first_line(e)}): save "
            "it with torch.save(module.state_dict(), path)"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    return from_state_dict(loaded, layers, name=path.stem)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise StillnetError(
            f"file '{path}' cannot be read ({e.strerror or e}): check the path"
        ) from None
    if not data:
        raise StillnetError(f"file '{path}' is empty: save or copy the model again")
    return data


def _first_line(e: BaseException) -> str:
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return re.split(r"\. |\x1b", line)[0]


def _natural(key: str) -> list[tuple[int, int, str]]:
    """Sorts 'fc10' behind 'fc2'."""
    parts = re.split(r"(\d+)", key)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _refuse(key: str, text: str) -> NoReturn:
    raise StillnetError(f"tensor '{key}': {text}")


def _check_key(key: Any) -> str:
    if not isinstance(key, str):
        raise StillnetError(
            f"the state_dict has the key {key!r}, which is no name: pass module.state_dict()"
        )
    return key


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in getattr(value, "shape", ()) or np.shape(value))


def _array(key: str, value: Any) -> np.ndarray:
    """A tensor as float64; bfloat16 and tensors that require gradients or lie on a GPU too."""
    if hasattr(value, "is_floating_point") and not value.is_floating_point():
        _refuse(key, f"its elements are {value.dtype}; float weights are needed")
    for step in ("detach", "cpu", "double"):
        value = getattr(value, step, lambda v=value: v)()
    try:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind not in "fV":
            _refuse(key, f"its elements are {array.dtype}; float weights are needed")
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as e:
        _refuse(key, f"it is no array of numbers ({_first_line(e)}); pass module.state_dict()")
    if not np.all(np.isfinite(array)):
        _refuse(key, "it holds NaN or infinity; train or export the model again")
    return array


def _columns(key: str, weight: np.ndarray) -> int:
    if weight.ndim != 2 or 0 in weight.shape:
        _refuse(
            key,
            f"it has shape {weight.shape}, a matrix (units, inputs) is needed; only nn.GRU, "
            "nn.GRUCell and nn.Linear are supported",
        )
    return weight.shape[1]


def _guess(state: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Modules in order of first appearance, every nn.Linear without activation."""
    modules: dict[_Module, None] = {}
    for key in keys:
        if m := _GRU_KEY.fullmatch(key):
            modules[_Module(True, m["prefix"] or "")] = None
        elif (m := _LINEAR_KEY.fullmatch(key)) and (
            len(_shape(state[key])) == (2 if m["what"] == "weight" else 1)
        ):
            modules[_Module(False, m["prefix"] or "")] = None
        else:
            _refuse(
                key,
                f"of shape {_shape(state[key])}, it belongs to no nn.GRU, nn.GRUCell or nn.Linear, "
                "the modules that are supported; remove or fold it, or choose modules with layers",
            )
    chain = [
        ("gru" if m.recurrent else "linear", m.prefix, _module_keys(m.recurrent, m.prefix, keys))
        for m in modules
    ]
    dense = [prefix or "linear" for kind, prefix, _ in chain if kind != "gru"]
    text = []
    if len(chain) > 1:
        text.append("the order of the modules is guessed: " + ", ".join(p for _, p, _ in chain))
    if dense:
        text.append("activations are not part of a state_dict: none after " + ", ".join(dense))
    if text:
        example = [(k, p) for k, p, _ in chain]
        warnings.warn(f"{'; '.join(text)}; give layers={example}", stacklevel=3)
    return chain


def _given(layers: LayerList, keys: Sequence[str]) -> list[tuple[str, str, list[str]]]:
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
        prefix = prefix.removesuffix(".")
        if kind not in ("gru", *_DENSE):
            raise StillnetError(
                f"layer '{prefix}': kind '{kind}' is not supported; use gru, {', '.join(_DENSE)}"
            )
        used = _module_keys(kind == "gru", prefix, keys)
        if not used:
            needed = "weight_ih_l0" if kind == "gru" else "weight"
            known = sorted({k.rpartition(".")[0] for k in keys}, key=_natural)
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
            f"{len(left)} tensors belong to no module of layers and are left out: "
            + ", ".join(left[:6])
            + (", ..." if len(left) > 6 else ""),
            stacklevel=3,
        )
    return chain


def _module_keys(recurrent: bool, prefix: str, keys: Sequence[str]) -> list[str]:
    """Names of a module's tensors: all of a GRU's; weight, bias of an nn.Linear's; [] if none."""
    pattern = _GRU_KEY if recurrent else _LINEAR_KEY
    used = [k for k in keys if (m := pattern.fullmatch(k)) and (m["prefix"] or "") == prefix]
    if not recurrent:
        used.sort(reverse=True)  # weight, bias
        dot = prefix + "." if prefix else ""
        if used and used[0] != f"{dot}weight":
            _refuse(used[0], f"there is no '{dot}weight' with it; save the whole state_dict")
    return used


def _add_gru(
    model: Model | None,
    prefix: str,
    used: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    name: str,
) -> Model:
    """Adds the stacked layers of one nn.GRU, or an nn.GRUCell."""
    parts: dict[int, dict[str, str]] = {}
    for key in used:
        m = _GRU_KEY.fullmatch(key)
        assert m is not None
        if m["reverse"]:
            _refuse(
                key,
                "bidirectional layers are not supported, as a stream has no end to start from; "
                "train a forward GRU",
            )
        if m["kind"] == "hr":
            _refuse(key, "proj_size is not supported; train a GRU without projection")
        parts.setdefault(int(m["layer"] or 0), {})[f"{m['what']}_{m['kind']}"] = key
    dot = prefix + "." if prefix else ""
    cell = not any(re.search(r"_l\d+$", k) for k in used)
    for layer in range(max(parts) + 1):
        part = parts.get(layer, {})
        suffix = "" if cell else f"_l{layer}"
        for what in ("weight_ih", "weight_hh"):
            if what not in part:
                _refuse(f"{dot}{what}{suffix}", "it is missing; save the whole state_dict")
        w, r = arrays[part["weight_ih"]], arrays[part["weight_hh"]]
        inputs = _columns(part["weight_ih"], w)
        units = _columns(part["weight_hh"], r)
        if r.shape[0] != 3 * units:
            kind = {4 * units: "of an LSTM", units: "of a plain RNN"}.get(r.shape[0], "of no GRU")
            _refuse(
                part["weight_hh"],
                f"its shape {r.shape} is that {kind}, a GRU has (3*H, H); only GRU layers are "
                "supported",
            )
        model = model or Model(inputs, name=name)
        single = cell or len(parts) == 1
        label = (prefix or "gru") if single else f"{dot}l{layer}"
        biases = [arrays[part[b]] if b in part else None for b in ("bias_ih", "bias_hh")]
        model.gru(w, r, *biases, order="ruc", name=label)
    assert model is not None
    return model
