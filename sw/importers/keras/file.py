"""The configuration and the weights of a Keras file, without Keras.

Three forms of file are in use:

* ``.keras``: a zip archive of ``config.json`` and ``model.weights.h5``; the weights of a layer lie
  in datasets ``0``, ``1``, ... of a group ``vars``, whose path is made of class names.
* ``.h5`` of Keras 2 and 3: an attribute ``model_config`` (JSON) and a group ``model_weights``,
  in which each layer has a group of its name whose attribute ``weight_names`` gives the order.
* files of weights alone, which cannot be a model and are refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import read_whole

from .child import ChildFailed, ask
from .order import inner_model

__all__ = ["KerasFile", "read_keras"]

_INNER = (
    *("forward_layer", "backward_layer"),
    *("query_dense", "key_dense", "value_dense", "output_dense"),
)
"""Layers inside a layer, in the order in which Keras lists their weights."""

_LARGEST_CONFIG = 1 << 26
"""Bytes of the largest configuration that is read."""

_LARGEST_WEIGHT = 1 << 33
_LARGEST_RATIO = 1000
"""Most bytes of an array for one byte of the file, which may be compressed."""


@dataclass
class KerasFile:
    """What a file holds.

    Attributes
    ----------
    config : dict
        The model: ``class_name`` and ``config``.
    weights : dict of str to list of arrays
        By layer name, in the order in which Keras writes them.
    version : int
        Of Keras; 2 where the file does not say.
    """

    config: dict[str, Any]
    weights: dict[str, list[np.ndarray]]
    version: int = 2


def read_keras(path: Path) -> KerasFile:
    """Reads a ``.keras`` or ``.h5`` file.

    Raises
    ------
    StillnetError
        The file cannot be read, is cut short, or holds weights alone.
    """
    read_whole(path, "save or copy the model again")
    _import_h5py(path)
    try:
        facts, arrays = ask(path)
    except (ChildFailed, OSError) as e:
        facts, arrays = {"damage": str(e)}, {}
    if "refused" in facts:
        raise StillnetError(facts["refused"])
    if "damage" in facts:
        raise StillnetError(
            f"file '{path}' is not a Keras model, or is cut short ({facts['damage']}): save it "
            "with model.save('name.keras')"
        )
    weights = {name: [arrays[key] for key in keys] for name, keys in facts["weights"].items()}
    return KerasFile(facts["config"], weights, int(facts["version"]))


def parts_of(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file holds as JSON and named arrays; ``refused`` or ``damage`` say why nothing.

    This is the part that HDF5's library takes part in; see :mod:`.child`.
    """
    import h5py

    data = path.read_bytes()
    limit = min(max(_LARGEST_RATIO * len(data), 1 << 20), _LARGEST_WEIGHT)
    try:
        if data.startswith(b"PK"):
            file = _read_archive(data, h5py, limit)
        else:
            with h5py.File(io.BytesIO(data), "r") as opened:
                file = _read_h5(path, opened, h5py, limit)
        arrays: dict[str, np.ndarray] = {}
        names: dict[str, list[str]] = {}
        for name, found in file.weights.items():
            for array in found:
                key = f"a{len(arrays)}"
                names.setdefault(name, []).append(key)
                arrays[key] = array
            names.setdefault(name, [])
        return {"config": file.config, "weights": names, "version": file.version}, arrays
    except StillnetError as e:
        return {"refused": str(e)}, {}
    except Exception as e:  # zipfile, zlib, json and h5py raise errors of many kinds
        text = "".join(c if c.isprintable() else "?" for c in _first_line(e))
        return {"damage": text}, {}


def _array(item: Any, limit: int) -> np.ndarray:
    """The values of a dataset, of which the file has at least a fair part."""
    if item.nbytes > limit:
        raise ValueError(f"a weight of shape {item.shape} is larger than the file")
    array = np.asarray(item)
    if array.dtype.hasobject:
        raise ValueError(f"a weight has elements of the type {array.dtype}")
    return array


def _import_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise StillnetError(
            f"file '{path}' needs the package h5py to be read: pip install \"stillnet[keras]\""
        ) from None
    return h5py


def _first_line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def _read_archive(data: bytes, h5py: Any, limit: int) -> KerasFile:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
            raise ValueError("its config.json is too large")
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
        version = 3
        if "metadata.json" in archive.namelist():
            version = _major(json.loads(archive.read("metadata.json")).get("keras_version"))
    if not isinstance(config, dict):
        raise ValueError("its config.json is no object")
    with h5py.File(io.BytesIO(weights), "r") as file:
        return KerasFile(config, _by_class(config, _variables(file, h5py, limit)), version)


def _variables(
    file: Any, h5py: Any, limit: int
) -> dict[tuple[str, ...], tuple[str, list[np.ndarray]]]:
    """Path of each group ``vars`` to the name in its attributes ('' if none) and its arrays."""
    groups: list[tuple[str, Any]] = []

    def note(path: str, item: Any) -> None:
        parts = path.replace("\\", "/").split("/")
        if isinstance(item, h5py.Group) and parts[-1] == "vars":
            groups.append((path, item))

    file.visititems(note)  # follows no links, so that a file cannot name another one
    found = {}
    for path, group in groups:
        arrays = [
            _array(group[k], limit)
            for k in sorted((k for k in group if k.isdigit()), key=int)
            if isinstance(group[k], h5py.Dataset)
        ]
        key = tuple(path.replace("\\", "/").split("/")[:-1])
        found[key] = (str(group.attrs.get("name", "")), arrays)
    return found


def _by_class(
    config: dict[str, Any], found: dict[tuple[str, ...], tuple[str, list[np.ndarray]]]
) -> dict[str, list[np.ndarray]]:
    """Gives the variables of an archive back to their layers.

    The path of a layer is its class name in snake case, numbered within the class; newer files
    also write the name of the layer next to its variables.
    """
    return _of_level(config, found, ())


def _of_level(
    config: Mapping[str, Any],
    found: dict[tuple[str, ...], tuple[str, list[np.ndarray]]],
    above: tuple[str, ...],
) -> dict[str, list[np.ndarray]]:
    """The variables of a model that lies below a path; ``MODEL/LAYER`` for those inside it."""
    tops: dict[str, list[np.ndarray]] = {}
    names: dict[str, str] = {}
    depth = len(above)
    for parts, (name, arrays) in sorted(found.items(), key=lambda f: _listed(f[0])):
        if len(parts) < depth + 2 or parts[:depth] != above:
            continue
        top = parts[depth + 1]
        tops.setdefault(top, []).extend(arrays)
        if len(parts) == depth + 2 and name:
            names[top] = name
    places = {names[top]: top for top in tops if top in names}
    count: dict[str, int] = {}
    result: dict[str, list[np.ndarray]] = {}
    for layer in _layers_of(config):
        snake = _snake(str(layer["class_name"]))
        number = count.setdefault(snake, 0)
        count[snake] += 1
        name = _own_name(layer)
        place = places.get(name)
        top = f"{snake}_{number}" if number else snake
        if place is None and top in tops and top not in names:
            place = top
        if place is None:
            continue
        result[name] = tops[place]
        inner = inner_model(layer)
        if inner is not None:
            path = (*above, "layers", place, *(() if inner is layer else ("layer",)))
            below = _of_level(inner, found, path)
            result |= {f"{name}/{own}": arrays for own, arrays in below.items()}
    return result


def _listed(parts: tuple[str, ...]) -> tuple[int, int]:
    """The place of variables among those of a layer, by their path."""
    return len(parts), next((_INNER.index(p) for p in parts if p in _INNER), 0)


def _snake(name: str) -> str:
    """'BatchNormalization' to 'batch_normalization', 'GRU' to 'gru', 'Conv1D' to 'conv1d'."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _read_h5(path: Path, file: Any, h5py: Any, limit: int) -> KerasFile:
    config = file.attrs.get("model_config")
    if config is None:
        raise StillnetError(
            f"file '{path}' holds weights but no model: save the whole model with "
            "model.save('name.keras')"
        )
    parsed = json.loads(config.decode() if isinstance(config, bytes) else config)
    if not isinstance(parsed, dict):
        raise ValueError("its model_config is no object")
    weights: dict[str, list[np.ndarray]] = {}
    group = file["model_weights"]
    for name in group:
        layer = group[name]
        arrays = []
        for key in layer.attrs.get("weight_names", ()):
            item = layer[key.decode() if isinstance(key, bytes) else key]
            if not isinstance(item, h5py.Dataset):
                raise ValueError(f"'{name}' holds no weights")
            arrays.append(_array(item, limit))
        weights[name] = arrays
        keys = [k.decode() if isinstance(k, bytes) else str(k) for k in layer.attrs["weight_names"]]
        weights |= _of_parts(parsed, name, keys, arrays)
    version = file.attrs.get("keras_version", "2")
    return KerasFile(parsed, weights, _major(version))


def _of_parts(
    model: Any, name: str, keys: list[str], arrays: list[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """The arrays of the layers of a model inside the model, which one list has together.

    A key is a path in which the name of the layer stands.
    """
    found: dict[str, list[np.ndarray]] = {}
    for part in _layers_of(model):
        inner = inner_model(part)
        if inner is None or _own_name(part) != name:
            continue
        for layer in _layers_of(inner):
            own = _own_name(layer)
            mine = [a for k, a in zip(keys, arrays) if own in k.split("/")[:-1]]
            found[f"{name}/{own}"] = mine
            deeper = _of_parts(inner, own, keys, arrays)
            found |= {f"{name}/{k}": v for k, v in deeper.items()}
    return found


def _layers_of(model: Any) -> list[Any]:
    body = model.get("config")
    layers = body.get("layers", []) if isinstance(body, dict) else body
    return layers if isinstance(layers, list) else []


def _own_name(layer: Any) -> str:
    inner = layer.get("config")
    inner = inner if isinstance(inner, dict) else {}
    return str(inner.get("name", layer.get("name", "")))


def _major(version: Any) -> int:
    """The first number of a version; 2 where it cannot be read."""
    text = version.decode() if isinstance(version, bytes) else str(version)
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 2
