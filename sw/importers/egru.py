"""Import of event-based GRUs: language models and bare layers with the names of EvNN.

Facts of that code base (names, shapes and order; none of its code is used)::

    embeddings.weight (tokens, E)
    rnns.N.kernel (inputs, 3*H)        rnns.N.recurrent_kernel (H, 3*H)
    rnns.N.bias (3*H,)                 rnns.N.recurrent_bias (3*H,)     rnns.N.thr (H,)
    decoder.projection.weight, .bias   decoder.decoder.weight, .bias

The gates stand in the order z, r, g; z keeps the old state. ``thr`` is limited to 0 .. 1 before
each pass; older files hold ``thr_reparam``, whose logistic function is the threshold. The
projection is followed by ReLU. The decoder may share its weight with the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layer_graph import LayerGraph, Vector
from stillnet.sw.model.model import Model

from .tensor_files import float_array, natural, refuse_tensor

__all__ = ["from_egru", "is_egru"]

_LAYER = re.compile(r"(?P<prefix>.*?)(?:module\.)?(?P<what>kernel|recurrent_kernel)")
_TRAINING = re.compile(
    r"(?:.*\.)?(?:dampening_factor|pseudo_derivative_support|_max_norm|alpha|backward_sparsity)"
)


def is_egru(keys: Mapping[str, Any]) -> bool:
    """Whether tensors of these names are an EGRU's."""
    return any(re.fullmatch(r"(?:.*\.)?recurrent_kernel(?:_raw)?", k) for k in keys) and any(
        re.fullmatch(r"(?:.*\.)?thr(?:_reparam)?", k) for k in keys
    )


def from_egru(
    state: Mapping[str, Any], *, fold_embedding: bool = True, name: str = "network"
) -> Model:
    """Builds a model from the weights of EGRU layers and what stands around them.

    Parameters
    ----------
    state : mapping of str to tensor
        Names and shapes as at the head of this module; a lone layer has no prefix. Biases,
        embedding and decoder may be missing.
    fold_embedding : bool
        Multiply the embedding into the first layer's matrix: a token is one column, of tokens x
        3 H weights in memory. Otherwise the embedding is a linear layer of its own: tokens x E
        weights, and E columns of the first layer for each token.
    name : str
        Name of the result.

    Returns
    -------
    Model
        One-hot if there is an embedding; the outputs are the logits, if there is a decoder.

    Raises
    ------
    StillnetError
        A tensor, named, is missing, unknown or of the wrong shape.
    """
    keys = [k for k in state if not _TRAINING.fullmatch(k)]
    used: set[str] = set()
    arrays: dict[str, np.ndarray] = {}

    def take(key: str) -> np.ndarray | None:
        if key not in state:
            return None
        used.add(key)
        if key not in arrays:
            arrays[key] = float_array(key, state[key])
        return arrays[key]

    prefixes = sorted(
        {m["prefix"] for k in keys if (m := _LAYER.fullmatch(k.removesuffix("_raw")))}, key=natural
    )
    if not prefixes:
        raise StillnetError(
            "the state_dict has no tensor 'kernel' of an EGRU layer: save the whole model"
        )
    graph = LayerGraph(name)
    v = graph.input()
    table = take("embeddings.weight")
    if table is not None:
        v = graph.embedding(v, "embeddings", table, fold_embedding)
    for i, prefix in enumerate(prefixes):
        label = prefix.removesuffix(".") or f"egru{i}"
        v = _add_layer(graph, v, label, prefix, take)
    for part, activation in (("decoder.projection", "relu"), ("decoder.decoder", "linear")):
        weight = take(f"{part}.weight")
        if weight is not None:
            _matrix(f"{part}.weight", weight)
            v = graph.dense(v, part, weight, take(f"{part}.bias"), activation)
    left = [k for k in keys if k not in used]
    if left:
        refuse_tensor(left[0], "it has no place in an EGRU network; remove or fold it")
    return graph.model([("output", v)])


def _matrix(key: str, value: np.ndarray) -> np.ndarray:
    if value.ndim != 2 or 0 in value.shape:
        refuse_tensor(key, f"it has shape {value.shape}, a matrix is needed")
    return value


def _add_layer(graph: LayerGraph, v: Vector, label: str, prefix: str, take: Any) -> Vector:
    def find(what: str) -> tuple[str, np.ndarray | None]:
        """A tensor; weights under drop-connect keep the trained values as ``_raw``."""
        key = f"{prefix}{what}"
        for name in (f"{key}_raw", key, f"{prefix}module.{what}"):
            value = take(name)
            if value is not None:
                take(f"{prefix}module.{what}")  # the masked copy, which is not used
                return name, value
        return key, None

    def need(what: str) -> tuple[str, np.ndarray]:
        key, value = find(what)
        if value is None:
            refuse_tensor(key, "it is missing; save the whole state_dict")
        return key, value

    key, w = need("kernel")
    _matrix(key, w)
    key, r = need("recurrent_kernel")
    _matrix(key, r)
    units = len(r)
    if r.shape != (units, 3 * units) or w.shape[1] != 3 * units:
        refuse_tensor(
            key,
            f"its shape {r.shape} and that of the kernel, {w.shape}, are not (H, 3*H) and "
            "(inputs, 3*H)",
        )
    biases = []
    for what in ("bias", "recurrent_bias"):
        key, b = find(what)
        if b is not None and b.shape != (3 * units,):
            refuse_tensor(key, f"it has shape {b.shape}, expected {(3 * units,)}")
        biases.append(b)
    key, theta = find("thr")
    if theta is not None:
        theta = np.clip(theta, 0.0, 1.0)
    else:
        key, theta = find("thr_reparam")
        if theta is None:
            refuse_tensor(f"{prefix}thr", "it is missing; save the whole state_dict")
        theta = 1 / (1 + np.exp(-theta))
    if theta.size == 1:
        theta = np.full(units, float(theta.reshape(())))
    if theta.shape != (units,):
        refuse_tensor(key, f"it has shape {theta.shape}, expected {(units,)}")

    def add(model: Model, w: np.ndarray, b: np.ndarray) -> None:
        model.egru(w, r.T, b, biases[1], theta, order="urc", name=label)

    return graph.recurrent(v, label, w.T, biases[0], add)
