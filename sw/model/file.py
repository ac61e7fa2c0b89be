"""A float model as one ``.safetensors`` file: every layer, every array, and nothing to guess.

Tensors are ``LAYER/weight/MATRIX``, ``LAYER/bias/GATE``, ``LAYER/initial/STATE`` and
``LAYER/parameter/NAME`` by number, in float64. Everything else is JSON in the metadata key
``stillnet_model``. A file has all keys of this version and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.partition.parts import HostParts
from stillnet.sw.util.files import write_atomically
from stillnet.sw.util.keys import check_keys

from .layers import Layer, Matrix, checked

if TYPE_CHECKING:
    from .model import Model

__all__ = ["FORMAT_VERSION", "HEADER", "LAYER", "METADATA", "model_of", "save_model"]

FORMAT_VERSION = 2
METADATA = "stillnet_model"
"""Key of the metadata that tells a model from other ``.safetensors`` files."""

_LARGEST = float(np.finfo(np.float64).max)

HEADER = ("version", "name", "inputs", "one_hot", "last_step", "layers", "host")
LAYER = (
    *("name", "cell", "units", "matrices", "bias", "initial", "parameters", "peers"),
    "plain",
)
MATRIX = ("source", "gates")
_REMEDY = "save the model again with model.save(path)"


def save_model(model: Model, path: str | Path) -> None:
    """Writes a model; the file is complete or absent.

    Raises
    ------
    StillnetError
        The model has no layers, or a layer that could not be read back; or the place cannot be
        written.
    """
    from safetensors.numpy import save

    _check_model(model, f"model '{model.name}'")
    tensors: dict[str, np.ndarray] = {}
    layers = []
    for i, layer in enumerate(model.layers):
        for j, m in enumerate(layer.matrices):
            tensors[f"{i}/weight/{j}"] = m.weight
        for kind, values in _arrays(layer).items():
            tensors |= {f"{i}/{kind}/{name}": value for name, value in values.items()}
        layers.append(
            {
                "name": layer.name,
                "cell": layer.cell,
                "units": layer.units,
                "matrices": [{"source": m.source, "gates": list(m.gates)} for m in layer.matrices],
                "bias": list(layer.bias),
                "initial": list(layer.initial),
                "parameters": list(layer.parameters),
                "peers": layer.peers,
                "plain": layer.plain,
            }
        )
    header = {
        "version": FORMAT_VERSION,
        "name": model.name,
        "inputs": model.inputs,
        "one_hot": model.one_hot,
        "last_step": model.last_step,
        "layers": layers,
        "host": None if model.host is None else model.host.header(),
    }
    plain = {key: np.ascontiguousarray(v, dtype=np.float64) for key, v in tensors.items()}
    if model.host is not None:
        plain["host/before"] = np.frombuffer(model.host.before, np.uint8)
        plain["host/after"] = np.frombuffer(model.host.after, np.uint8)
    write_atomically(path, save(plain, {METADATA: json.dumps(header)}))


def model_of(text: str, tensors: Mapping[str, np.ndarray], path: Path) -> Model:
    """The model of a file.

    Parameters
    ----------
    text : str
        The metadata.
    tensors : mapping of str to array
    path : Path
        For messages.

    Raises
    ------
    StillnetError
        Naming the key, tensor or layer that is missing, unknown or does not fit.
    """
    where = f"file '{path}'"
    try:
        header = json.loads(text)
        version = header.get("version")
        if version != FORMAT_VERSION:
            raise StillnetError(
                f"{where} has model format {version}, this stillnet reads {FORMAT_VERSION}; "
                f"{_REMEDY}"
            )
        model = _build(header, tensors, where)
        _check_model(model, where)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as e:
        raise StillnetError(f"{where} is damaged ({type(e).__name__}: {e}); {_REMEDY}") from None
    return model


def _arrays(layer: Layer) -> dict[str, Mapping[str, np.ndarray]]:
    """The named vectors of a layer by kind."""
    return {"bias": layer.bias, "initial": layer.initial, "parameter": layer.parameters}


def _build(header: Any, tensors: Mapping[str, np.ndarray], where: str) -> Model:
    from .model import Model

    check_keys(header, HEADER, where, remedy=_REMEDY)
    wanted: list[str] = []

    def take(key: str) -> np.ndarray:
        wanted.append(key)
        if key not in tensors:
            raise StillnetError(f"{where} has no tensor '{key}': {_REMEDY}")
        if tensors[key].dtype != np.float64:
            raise StillnetError(
                f"{where}: tensor '{key}' has type {tensors[key].dtype}, not float64: {_REMEDY}"
            )
        return np.array(tensors[key])

    layers = []
    for i, d in enumerate(header["layers"]):
        check_keys(d, LAYER, f"layer {i} of {where}", remedy=_REMEDY)
        matrices = []
        for j, m in enumerate(d["matrices"]):
            check_keys(m, MATRIX, f"matrix {j} of layer {i} of {where}", remedy=_REMEDY)
            gates = tuple(str(g) for g in m["gates"])
            matrices.append(Matrix(_whole(m["source"]), gates, take(f"{i}/weight/{j}")))
        bias, initial, parameters = (
            {str(name): take(f"{i}/{kind}/{name}") for name in d[key]}
            for kind, key in (("bias",) * 2, ("initial",) * 2, ("parameter", "parameters"))
        )
        peers = {str(name): _whole(index) for name, index in d["peers"].items()}
        layers.append(
            Layer(
                *(str(d["name"]), str(d["cell"]), _whole(d["units"]), tuple(matrices), bias),
                *(initial, parameters, peers, bool(d["plain"])),
            )
        )
    host = header["host"]
    graphs = [] if host is None else ["host/before", "host/after"]
    check_keys(tensors, [*wanted, *graphs], where, kind="tensor", remedy=_REMEDY)
    return Model(
        *(_whole(header["inputs"]), layers, str(header["name"]), bool(header["one_hot"])),
        None if host is None else HostParts.read(host, *(tensors[g].tobytes() for g in graphs)),
        last_step=bool(header["last_step"]),
    )


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _check_model(model: Model, where: str) -> None:
    """Refuses layers whose arrays do not fit their cells."""
    if not model.layers or model.inputs < 1:
        raise StillnetError(f"{where} has no layers or no inputs: add one with .gru or .dense")
    for layer in model.layers:
        _check_layer(model, layer)


def _check_layer(model: Model, layer: Layer) -> None:
    def refuse(text: str) -> None:
        raise StillnetError(f"layer '{layer.name}': {text}; {_REMEDY}")

    if layer.cell not in CELLS:
        raise StillnetError(
            f"layer '{layer.name}' needs cell '{layer.cell}', which is unknown; load the file that "
            "registers it: stillnet --cells FILE.py COMMAND ..."
        )
    cell, count = CELLS[layer.cell], len(model.layers)
    if layer.units < 1:
        refuse(f"it has {layer.units} units")
    for m in layer.matrices:
        if not (m.source == INPUT or 0 <= m.source < count):
            refuse(f"it reads layer {m.source} of {count}")
        if len(set(m.gates)) != len(m.gates) or not set(m.gates) <= set(cell.accumulators):
            refuse(f"its matrix names {', '.join(m.gates)}, not accumulators of '{layer.cell}'")
        shape = (len(m.gates), layer.units, model.source_size(m.source))
        if checked(layer.name, "weight", m.weight, 3).shape != shape:
            refuse(f"its weight has shape {m.weight.shape}, expected {shape}")
    known = {"bias": cell.accumulators, "initial": cell.state, "parameter": cell.parameters}
    for kind, arrays in _arrays(layer).items():
        found, wanted = set(arrays), set(known[kind])
        if found - wanted or (kind != "initial" and wanted - found):
            refuse(f"its {kind} is {sorted(found)}, cell '{layer.cell}' has {sorted(wanted)}")
        for name, value in arrays.items():
            if kind == "parameter" and name in cell.unlimited:  # infinite where there is no limit
                value = np.clip(value, -_LARGEST, _LARGEST)
            if checked(layer.name, f"{kind} '{name}'", value, 1).shape != (layer.units,):
                refuse(f"{kind} '{name}' has shape {value.shape}, expected {(layer.units,)}")
    if set(layer.peers) != set(cell.peers):
        refuse(f"its peers are {sorted(layer.peers)}, cell '{layer.cell}' has {sorted(cell.peers)}")
    for name, index in layer.peers.items():
        if not 0 <= index < count or name not in CELLS[model.layers[index].cell].state:
            refuse(f"peer '{name}' is read from layer {index}, which has no such state")
        if model.layers[index].units != layer.units:
            refuse(f"peer '{name}' has {model.layers[index].units} units, not {layer.units}")
