"""The weights in a checkpoint, wherever it keeps them, as names and arrays.

Training code saves a ``state_dict`` alone, under some key beside the optimizer's state and the
number of the epoch, or the whole module. This is where the weights are found, and where what
training tools leave in their names is taken out: prefixes, masks of pruning, weight norm.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .pt_file import Tensor
from .safe_pickle import Thing
from .tensor_files import float_array, refuse_tensor, shape_of

__all__ = ["find_state", "plain_state", "without_prefix"]

_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")
"""Keys that hold the weights of a model, the likeliest first."""

_TRAINING = re.compile(r"optim|sched|scaler|loss|criterion|discriminator|rng", re.IGNORECASE)
"""Keys beside the model that hold tensors of their own."""

_DEPTH = 5
_MODULES = 500
"""Most modules in one that was saved whole."""

_PREFIXES = ("module.", "_orig_mod.", "model.")


# -- where the weights are ------------------------------------------------------------------------


def find_state(path: Path, loaded: Any) -> dict[str, Any]:
    """The ``state_dict`` among the objects of a file, as arrays.

    Raises
    ------
    StillnetError
        There is none; the message names what is there instead.
    """
    found: dict[str, Mapping[str, Any]] = {}
    _search(loaded, "", found, set())
    if not found:
        raise StillnetError(f"file '{path}' holds {_described(loaded)}; {_advice(path)}")
    names = sorted(found, key=lambda k: (_rank(k), k.count("."), list(found).index(k)))
    chosen = found[names[0]]
    if len(names) > 1:
        warnings.warn(
            f"file '{path}' has several sets of weights: "
            + ", ".join(f"'{n or 'the top'}'" for n in names[:6])
            + f"; '{names[0] or 'the top'}' is read; to read another one, save it alone with "
            "torch.save",
            stacklevel=4,
        )
    return {key: _value(path, key, value) for key, value in chosen.items()}


def _rank(key: str) -> int:
    last = key.rpartition(".")[2]
    return _USUAL.index(last) if last in _USUAL else len(_USUAL)


def _search(
    value: Any, name: str, found: dict[str, Mapping[str, Any]], seen: set[int], depth: int = 0
) -> None:
    """Collects every mapping that has a matrix among its values, by the keys that lead to it."""
    if depth > _DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Thing):
        value = _of_module(value) or value.items or value.state
    if not isinstance(value, Mapping):
        return
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and _is_tensor(v)}
    if any(len(shape_of(v)) > 1 for v in tensors.values()):
        found[name] = tensors
        return
    for key, inner in value.items():
        if isinstance(key, str) and not _TRAINING.search(key):
            _search(inner, f"{name}.{key}" if name else key, found, seen, depth + 1)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _of_module(thing: Thing, prefix: str = "", left: list[int] | None = None) -> dict[str, Any]:
    """The ``state_dict`` of a module that was saved whole; empty for other objects."""
    state = thing.state
    left = [_MODULES] if left is None else left  # a damaged file may have a module in itself
    left[0] -= 1
    if not isinstance(state, Mapping) or "_parameters" not in state or left[0] < 0:
        return {}
    found: dict[str, Any] = {}
    for kind in ("_parameters", "_buffers"):
        values = state.get(kind)
        if isinstance(values, Mapping):
            found |= {f"{prefix}{k}": v for k, v in values.items() if _is_tensor(v)}
    modules = state.get("_modules")
    for key, inner in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(inner, Thing):
            found |= _of_module(inner, f"{prefix}{key}.", left)
    return found


def _value(path: Path, key: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    try:
        return value.array()
    except Exception as e:  # records of an archive raise errors of many kinds
        raise StillnetError(
            f"file '{path}': tensor '{key}' cannot be read ({type(e).__name__}: {e}): the file is "
            "cut short or damaged; save or copy it again"
        ) from None


def _described(value: Any) -> str:
    """What a file holds in place of weights."""
    if isinstance(value, Thing):
        return f"an object of the class '{value.kind}' whose weights cannot be seen"
    if isinstance(value, Mapping):
        things = [(k, v) for k, v in value.items() if isinstance(v, Thing)]
        if things:
            key, thing = things[0]
            return f"an object of the class '{thing.kind}' under '{key}', and no weights"
        keys = ", ".join(repr(k) for k in list(value)[:6])
        return f"no weights, only the keys {keys}" if keys else "an empty dictionary"
    if isinstance(value, Tensor):
        return f"one tensor of shape {value.shape}"
    return f"a {type(value).__name__} and no weights"


def _advice(path: Path) -> str:
    return (
        f"where its classes are installed, m = torch.load('{path.name}', weights_only=False), then "
        f"torch.save(m.state_dict(), '{path.stem}_weights.pt'), and give that file"
    )


# -- what the names hold --------------------------------------------------------------------------


def without_prefix(keys: list[str]) -> str:
    """What DataParallel, torch.compile and Lightning put in front of every name."""
    found = ""
    while True:
        rest = [k.removeprefix(found) for k in keys]
        more = next((p for p in _PREFIXES if keys and all(k.startswith(p) for k in rest)), None)
        if more is None:
            return found
        found += more


def plain_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A ``state_dict`` with the weights that the network computes with.

    ``_orig`` times ``_mask`` of torch.nn.utils.prune, and both forms of weight norm become the one
    tensor that they stand for. Names without modules, as people give them to arrays (``enc_w_ih``,
    ``enc_emb``, ``fc_w``), become those of PyTorch (``enc.weight_ih_l0``, ``enc_emb.weight``,
    ``fc.weight``).

    Raises
    ------
    StillnetError
        A tensor, named, is half of such a pair, or belongs to a reparametrisation that is not
        known.
    """
    if not any("." in key for key in state):
        state = {_dotted(key): value for key, value in state.items()}
    result: dict[str, Any] = {}
    for key in state:
        if pair := _pair(key, state):
            name, value = pair
            result.setdefault(name, value)
        else:
            result[key.replace("_orig_mod.", "")] = state[key]
    return result


def _dotted(key: str) -> str:
    """A flat name in PyTorch's form; other names stay."""
    if m := re.fullmatch(r"(\w+)_(w|b)_(ih|hh)", key):
        return f"{m[1]}.{'weight' if m[2] == 'w' else 'bias'}_{m[3]}_l0"
    if re.fullmatch(r"\w+_emb(ed|edding)?", key):
        return f"{key}.weight"
    if m := re.fullmatch(r"(\w+)_(w|b|weight|bias)", key):
        return f"{m[1]}.{'weight' if m[2][0] == 'w' else 'bias'}"
    return key


def _pair(key: str, state: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Name and value of the tensor that ``key`` is a part of; None for a plain tensor."""
    if m := re.fullmatch(r"(.*weight.*|.*bias.*)_(orig|mask)", key):
        name = m[1]
        if f"{name}_u" in state:
            _refuse_spectral(key, name)
        return name, _masked(name, _part(key, f"{name}_orig", state), state)
    if m := re.fullmatch(r"(.*weight[^.]*)_(g|v)", key):
        name = m[1]
        if f"{name}_u" in state:
            _refuse_spectral(key, name)
        return name, _normed(key, f"{name}_g", f"{name}_v", state)
    if re.fullmatch(r".*weight[^.]*_u", key):
        _refuse_spectral(key, key[:-2])
    if m := re.fullmatch(r"(?:(.*)\.)?parametrizations\.([^.]+)\.(.+)", key):
        before, name, last = m[1], m[2], m[3]
        dot = f"{before}." if before else ""
        if last not in ("original0", "original1"):
            _refuse_parametrized(key, name)
        stem = f"{dot}parametrizations.{name}.original"
        return f"{dot}{name}", _normed(key, f"{stem}0", f"{stem}1", state)
    return None


def _part(key: str, other: str, state: Mapping[str, Any]) -> str:
    if other not in state:
        refuse_tensor(key, f"there is no '{other}' with it; save the whole state_dict")
    return other


def _masked(name: str, key: str, state: Mapping[str, Any]) -> np.ndarray:
    """Weights with the zeros of a mask."""
    weight = float_array(key, state[key])
    mask_key = _part(key, f"{name}_mask", state)
    mask = np.asarray(state[mask_key])
    if mask.dtype.kind not in "fiub":
        refuse_tensor(mask_key, f"its elements are {mask.dtype}; a mask of numbers is needed")
    if mask.shape != weight.shape:
        refuse_tensor(mask_key, f"it has shape {mask.shape}, not {weight.shape} of '{key}'")
    return np.where(mask != 0, weight * mask, 0.0)


def _normed(key: str, length: str, direction: str, state: Mapping[str, Any]) -> np.ndarray:
    """g v / |v|: the norm is over the axes along which g has one value."""
    g, v = (float_array(k, state[_part(key, k, state)]) for k in (length, direction))
    if g.ndim not in (0, v.ndim) or any(n not in (1, m) for n, m in zip(g.shape, v.shape)):
        refuse_tensor(length, f"its shape {g.shape} does not fit {v.shape} of '{direction}'")
    axes = tuple(a for a in range(v.ndim) if g.ndim == 0 or g.shape[a] == 1)
    norm = np.sqrt(np.sum(v * v, axis=axes, keepdims=True))
    if not np.all(norm):
        refuse_tensor(direction, "a row of it is zero, which has no direction; train it again")
    return g * v / norm


def _refuse_spectral(key: str, name: str) -> None:
    refuse_tensor(
        key,
        "it belongs to spectral_norm, whose weight is computed at every call; before saving, call "
        f"torch.nn.utils.remove_spectral_norm(module, '{name.rpartition('.')[2]}')",
    )


def _refuse_parametrized(key: str, name: str) -> None:
    refuse_tensor(
        key,
        "it belongs to a parametrisation that is not weight_norm; before saving, call "
        f"torch.nn.utils.parametrize.remove_parametrizations(module, '{name}')",
    )
