"""The order of the layers of a Keras model: a list, or a graph that must be a chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import StillnetError

__all__ = ["layer_name", "ordered", "refuse_layer"]


def refuse_layer(name: str, kind: str, text: str) -> NoReturn:
    """Raises with the name and the class of the layer in front."""
    raise StillnetError(f"layer '{name}' ({kind}): {text}")


def layer_name(layer: Mapping[str, Any]) -> str:
    """The name that the user gave, or Keras."""
    return str((layer.get("config") or {}).get("name", layer.get("name", "?")))


def ordered(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers from the input to the output."""
    kind, config = model.get("class_name"), model.get("config")
    if kind == "Sequential":
        layers = config if isinstance(config, list) else (config or {}).get("layers", [])
        return [*_implied_input(layers), *layers]
    if kind not in ("Functional", "Model"):
        raise StillnetError(
            f"the model is a {kind}, whose layers the file does not describe; save a Sequential "
            "or functional model"
        )
    assert isinstance(config, Mapping)
    by_name = {layer_name(layer): layer for layer in config["layers"]}
    inputs = _histories(config.get("input_layers", []))
    outputs = _histories(config.get("output_layers", []))
    if len(inputs) != 1:
        raise StillnetError(
            f"the model has {len(inputs)} inputs ({', '.join(repr(i[0]) for i in inputs)}); "
            "stillnet takes one, and carries states itself: save the model with one input"
        )
    data = [o for o in outputs if o[1] == 0]
    for state in (o for o in outputs if o[1]):
        if by_name[state[0]]["class_name"] not in ("GRU", "LSTM", "RNN"):
            data.append(state)
    if len(data) != 1:
        raise StillnetError(
            f"the model has {len(data)} outputs beside final states; stillnet gives one: save the "
            "model with one output"
        )
    chain: list[Mapping[str, Any]] = []
    name = data[0][0]
    while True:
        layer = by_name[name]
        if layer in chain:
            refuse_layer(name, str(layer["class_name"]), "it feeds itself; save the model again")
        chain.append(layer)
        nodes = layer.get("inbound_nodes") or []
        if not nodes:
            break
        sources = _sources(nodes)
        if len(nodes) > 1:
            refuse_layer(
                name, str(layer["class_name"]), "it is used twice; shared layers are not supported"
            )
        if len(sources) != 1:
            refuse_layer(
                name,
                str(layer["class_name"]),
                f"it takes {len(sources)} tensors; only a chain of layers is supported, and the "
                "engine carries states itself",
            )
        if sources[0][1]:
            refuse_layer(
                name,
                str(layer["class_name"]),
                f"it reads a final state of '{sources[0][0]}'; read its first output instead",
            )
        name = sources[0][0]
    chain.reverse()
    if layer_name(chain[0]) != inputs[0][0]:
        raise StillnetError(
            f"the model's output does not depend on its input '{inputs[0][0]}'; save a chain of "
            "layers"
        )
    return chain


def _implied_input(layers: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keras 2 may write the shape of the input into the first layer."""
    if not layers or layers[0]["class_name"] in ("InputLayer", "Embedding"):
        return []
    shape = (layers[0].get("config") or {}).get("batch_input_shape")
    if not shape:
        return []
    return [{"class_name": "InputLayer", "config": {"name": "input", "batch_shape": shape}}]


def _histories(value: Any) -> list[tuple[str, int]]:
    """(layer, tensor) of ``input_layers`` or ``output_layers``: one triple or nested ones."""
    if isinstance(value, Mapping):
        return [h for v in value.values() for h in _histories(v)]
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[2], int):
            return [(value[0], value[2])]
        return [h for v in value for h in _histories(v)]
    return []


def _sources(nodes: Any) -> list[tuple[str, int]]:
    """(layer, tensor) of everything that a layer is called on, in Keras 2's and 3's form."""
    if isinstance(nodes, Mapping):
        if nodes.get("class_name") == "__keras_tensor__":
            history = nodes["config"]["keras_history"]
            return [(str(history[0]), int(history[2]))]
        return [s for v in nodes.values() for s in _sources(v)]
    if isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            more = _sources(nodes[3]) if len(nodes) > 3 else []
            return [(nodes[0], int(nodes[2])), *more]
        return [s for v in nodes for s in _sources(v)]
    return []
