"""The order of the layers of a Keras model: a list, or a graph without shared layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from stillnet.sw.contract.errors import StillnetError

__all__ = ["MERGES", "Wiring", "layer_name", "ordered", "refuse_layer"]

MERGES = ("Add", "Concatenate")
"""Layers that may read several tensors."""


_RECURRENT = ("GRU", "LSTM", "RNN", "CuDNNGRU", "CuDNNLSTM")


class Wiring(NamedTuple):
    """Layers with the names of those that they read, and the layers whose outputs are wanted."""

    layers: list[tuple[Mapping[str, Any], list[str]]]
    outputs: list[str]


def refuse_layer(name: str, kind: str, text: str) -> NoReturn:
    """Raises with the name and the class of the layer in front."""
    raise StillnetError(f"layer '{name}' ({kind}): {text}")


def layer_name(layer: Mapping[str, Any]) -> str:
    """The name that the user gave, or Keras."""
    return str((layer.get("config") or {}).get("name", layer.get("name", "?")))


def ordered(model: Mapping[str, Any]) -> Wiring:
    """The layers, each behind those that it reads."""
    kind, config = model.get("class_name"), model.get("config")
    if kind == "Sequential":
        layers = config if isinstance(config, list) else (config or {}).get("layers", [])
        layers = [*_implied_input(layers), *layers]
        names = [layer_name(layer) for layer in layers]
        sources = [[], *([name] for name in names)] if names else []
        return Wiring(list(zip(layers, sources)), names[-1:])
    if kind not in ("Functional", "Model"):
        raise StillnetError(
            f"the model is a {kind}, whose layers the file does not describe; save a Sequential "
            "or functional model"
        )
    assert isinstance(config, Mapping)
    by_name = {layer_name(layer): layer for layer in config["layers"]}
    inputs = _histories(config.get("input_layers", []))
    if len(inputs) != 1:
        raise StillnetError(
            f"the model has {len(inputs)} inputs ({', '.join(repr(i[0]) for i in inputs)}); "
            "stillnet takes one, and carries states itself: save the model with one input"
        )
    outputs = []
    for name, index in _histories(config.get("output_layers", [])):
        if index == 0 or by_name[name]["class_name"] not in _RECURRENT:
            outputs.append(name)  # the others are final states, which the engine carries
    found: list[tuple[Mapping[str, Any], list[str]]] = []
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done:
            return
        layer = by_name[name]
        if name in above:
            refuse_layer(name, str(layer["class_name"]), "it feeds itself; save the model again")
        sources = _checked_sources(layer)
        for source in sources:
            visit(source, (*above, name))
        done.add(name)
        found.append((layer, sources))

    for name in outputs:
        visit(name, ())
    if inputs[0][0] not in done:
        raise StillnetError(
            f"the model's output does not depend on its input '{inputs[0][0]}'; save the layers "
            "between them"
        )
    return Wiring(found, outputs)


def _checked_sources(layer: Mapping[str, Any]) -> list[str]:
    """Names of the layers that one reads."""
    name, kind = layer_name(layer), str(layer["class_name"])
    nodes = layer.get("inbound_nodes") or []
    if len(nodes) > 1:
        refuse_layer(name, kind, "it is used twice; shared layers are not supported")
    sources = _sources(nodes)
    if len(sources) > 1 and kind not in MERGES:
        refuse_layer(
            name,
            kind,
            f"it takes {len(sources)} tensors; only {', '.join(MERGES)} may, and the engine "
            "carries states itself",
        )
    for source, index in sources:
        if index:
            refuse_layer(
                name, kind, f"it reads a final state of '{source}'; read its first output instead"
            )
    return [source for source, _ in sources]


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
