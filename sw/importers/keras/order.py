"""The order of the layers of a Keras model: a list, or a graph without shared layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from stillnet.sw.contract.errors import StillnetError

__all__ = ["RECURRENT", "Source", "Wiring", "layer_name", "ordered", "refuse_layer"]

RECURRENT = ("GRU", "LSTM", "RNN", "SimpleRNN", "CuDNNGRU", "CuDNNLSTM")


class Source(NamedTuple):
    """What a layer is called on: a tensor of another layer, or a number.

    Attributes
    ----------
    layer : str
    state : int
        0, or the number of a final state.
    number : float or None
        In place of a tensor.
    """

    layer: str
    state: int = 0
    number: float | None = None


class Wiring(NamedTuple):
    """Layers with what they read, the inputs, and the outputs that are wanted."""

    layers: list[tuple[Mapping[str, Any], list[Source]]]
    inputs: list[str]
    outputs: list[Source]


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
        sources = [[], *([Source(name)] for name in names)] if names else []
        first = [n for n, layer in zip(names, layers) if layer["class_name"] == "InputLayer"]
        ends = [Source(name) for name in names[-1:]]
        return Wiring(list(zip(layers, sources)), first[:1], ends)
    if kind not in ("Functional", "Model"):
        raise StillnetError(
            f"the model is a {kind}, whose layers the file does not describe; save a Sequential "
            "or functional model"
        )
    assert isinstance(config, Mapping)
    by_name = {layer_name(layer): layer for layer in config["layers"]}
    inputs = [s.layer for s in _histories(config.get("input_layers", []))]
    outputs = _histories(config.get("output_layers", []))
    if len(inputs) == 1:  # final states, which the engine carries
        data = [
            s for s in outputs if not s.state or by_name[s.layer]["class_name"] not in RECURRENT
        ]
        outputs = data or outputs
    found: list[tuple[Mapping[str, Any], list[Source]]] = []
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done:
            return
        layer = by_name[name]
        if name in above:
            refuse_layer(name, str(layer["class_name"]), "it feeds itself; save the model again")
        sources = _checked_sources(layer)
        for source in sources:
            if source.number is None:
                visit(source.layer, (*above, name))
        done.add(name)
        found.append((layer, sources))

    for output in outputs:
        visit(output.layer, ())
    if not done & set(inputs):
        raise StillnetError(
            f"the model's output does not depend on its input '{inputs[0]}'; save the layers "
            "between them"
        )
    return Wiring(found, [name for name in inputs if name in done], outputs)


def _checked_sources(layer: Mapping[str, Any]) -> list[Source]:
    """What one layer reads."""
    nodes = layer.get("inbound_nodes") or []
    if len(nodes) > 1:
        kind = str(layer["class_name"])
        text = "it is used twice; shared layers are not supported"
        refuse_layer(layer_name(layer), kind, text)
    return _sources(nodes)


def _implied_input(layers: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keras 2 may write the shape of the input into the first layer."""
    if not layers or layers[0]["class_name"] in ("InputLayer", "Embedding"):
        return []
    shape = (layers[0].get("config") or {}).get("batch_input_shape")
    if not shape:
        return []
    return [{"class_name": "InputLayer", "config": {"name": "input", "batch_shape": shape}}]


def _histories(value: Any) -> list[Source]:
    """(layer, tensor) of ``input_layers`` or ``output_layers``: one triple or nested ones."""
    if isinstance(value, Mapping):
        return [h for v in value.values() for h in _histories(v)]
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[2], int):
            return [Source(value[0], value[2])]
        return [h for v in value for h in _histories(v)]
    return []


def _sources(nodes: Any) -> list[Source]:
    """Everything that a layer is called on, in Keras 2's and 3's form."""
    if isinstance(nodes, Mapping):
        if nodes.get("class_name") == "__keras_tensor__":
            history = nodes["config"]["keras_history"]
            return [Source(str(history[0]), int(history[2]))]
        if "args" in nodes:
            keyed = nodes.get("kwargs") or {}
            more = [s for v in keyed.values() for s in _sources(v) if s.number is None]
            return [*_sources(nodes["args"]), *more]
        return [s for v in nodes.values() for s in _sources(v)]
    if isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            more = _sources(nodes[3]) if len(nodes) > 3 else []
            return [Source(nodes[0], int(nodes[2])), *(s for s in more if s.number is None)]
        return [s for v in nodes for s in _sources(v)]
    if isinstance(nodes, (int, float)) and not isinstance(nodes, bool):
        return [Source("", 0, float(nodes))]
    return []
