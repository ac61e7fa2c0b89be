"""The order of the layers of a Keras model: a list or a graph, models inside it opened.

A layer that is called several times stands there once for each call, under names of its own; its
weights are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from stillnet.sw.contract.errors import StillnetError

__all__ = [
    "RECURRENT",
    "Source",
    "Wiring",
    "inner_model",
    "layer_name",
    "ordered",
    "refuse_layer",
]

MODELS = ("Functional", "Model", "Sequential")
_ANY_AXES = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
"""Layers of several tensors that do not care which axis is which."""

ATTENTION = ("AdditiveAttention", "Attention", "MultiHeadAttention")

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
    call : int
        Which of the calls of the layer is meant, where it is called several times.
    """

    layer: str
    state: int = 0
    number: float | None = None
    call: int = 0


class Wiring(NamedTuple):
    """Layers with what they read, the inputs, and the outputs that are wanted.

    ``stored`` has the names under which the file keeps weights, where these are others.
    """

    layers: list[tuple[Mapping[str, Any], list[Source]]]
    inputs: list[str]
    outputs: list[Source]
    stored: dict[str, str]


def refuse_layer(name: str, kind: str, text: str) -> NoReturn:
    """Raises with the name and the class of the layer in front."""
    raise StillnetError(f"layer '{name}' ({kind}): {text}")


def layer_name(layer: Mapping[str, Any]) -> str:
    """The name that the user gave, or Keras."""
    return str((layer.get("config") or {}).get("name", layer.get("name", "?")))


def ordered(model: Mapping[str, Any]) -> Wiring:
    """The layers, each behind those that it reads, with those of models inside it."""
    wiring = _opened(_wiring(model))
    if len(wiring.inputs) == 1:  # final states, which the engine carries
        kinds = {layer_name(layer): layer["class_name"] for layer, _ in wiring.layers}
        data = [s for s in wiring.outputs if not s.state or kinds[s.layer] not in RECURRENT]
        wiring = wiring._replace(outputs=data or wiring.outputs)
    return _needed(wiring)


def _wiring(model: Mapping[str, Any]) -> Wiring:
    """One level of a model."""
    kind, config = model.get("class_name"), model.get("config")
    if kind == "Sequential":
        layers = config if isinstance(config, list) else (config or {}).get("layers", [])
        layers = [*_implied_input(layers), *layers]
        names = [layer_name(layer) for layer in layers]
        sources = [[], *([Source(name)] for name in names)] if names else []
        first = [n for n, layer in zip(names, layers) if layer["class_name"] == "InputLayer"]
        ends = [Source(name) for name in names[-1:]]
        return Wiring(list(zip(layers, sources)), first[:1], ends, {})
    if kind not in MODELS:
        raise StillnetError(
            f"the model is a {kind}, whose layers the file does not describe; save a Sequential "
            "or functional model"
        )
    if not isinstance(config, Mapping):
        raise StillnetError(f"the {kind} model has no description of its layers: save it again")
    by_name = {layer_name(layer): layer for layer in config["layers"]}
    inputs = [s.layer for s in _histories(config.get("input_layers", []))]
    stored: dict[str, str] = {}
    found: list[tuple[Mapping[str, Any], list[Source]]] = []
    done: dict[tuple[str, int], str] = {}

    def visit(source: Source, above: tuple[str, ...]) -> Source:
        layer, calls = by_name[source.layer], by_name[source.layer].get("inbound_nodes") or []
        call = source.call if len(calls) > 1 else 0
        if (source.layer, call) not in done:
            name = f"{source.layer}:{call}" if call else source.layer
            if name in above:
                kind = str(layer["class_name"])
                refuse_layer(name, kind, "it feeds itself; save the model again")
            layer, reads = _attending(*_indexed(layer, calls[call : call + 1]))
            sources = [
                s if s.number is not None else visit(s, (*above, name)) for s in _sources(reads)
            ]
            done[source.layer, call] = name
            stored[name] = source.layer
            found.append((_renamed(layer, name), sources))
        return Source(done[source.layer, call], source.state)

    outputs = [visit(s, ()) for s in _histories(config.get("output_layers", []))]
    return Wiring(found, inputs, outputs, stored)


def _indexed(layer: Mapping[str, Any], calls: Any) -> tuple[Mapping[str, Any], Any]:
    """The index of ``x[...]`` as a setting ``key`` of the layer, and the call without it."""
    key = None
    if layer["class_name"] == "GetItem" and calls:
        given, keyed = list(calls[0].get("args") or ()), dict(calls[0].get("kwargs") or {})
        key = given.pop() if len(given) > 1 else keyed.pop("key", None)
        calls = [{"args": given, "kwargs": keyed}]
    elif layer["class_name"] == "SlicingOpLambda" and calls:
        key = calls[0][0][3].get("slice_spec")  # Keras 2
        calls = [[calls[0][0][:3]]]
    else:
        return layer, calls
    return {**layer, "config": {**(layer.get("config") or {}), "key": key}}, calls


def _attending(layer: Mapping[str, Any], calls: Any) -> tuple[Mapping[str, Any], Any]:
    """Query, value and key of attention in this order; what else it is called with as settings."""
    if layer["class_name"] not in ATTENTION or not calls:
        return layer, calls
    if isinstance(calls[0], Mapping):
        given, keyed = list(calls[0].get("args") or ()), dict(calls[0].get("kwargs") or {})
        given = given[0] if len(given) == 1 and isinstance(given[0], list) else given
    else:  # Keras 2: one list for each tensor, the settings behind the first
        given = [[*part[:3]] for part in calls[0]]
        keyed = dict(calls[0][0][3]) if len(calls[0][0]) > 3 else {}
    named = [keyed.pop(n) for n in ("query", "value", "key") if keyed.get(n) is not None]
    masks = [n for n, v in keyed.items() if n.endswith("mask") and v is not None]
    masks = [n for n in masks if not isinstance(keyed[n], bool)]
    causal = bool(keyed.get("use_causal_mask"))
    more = {"call masks": masks, "call causal": causal}
    layer = {**layer, "config": {**(layer.get("config") or {}), **more}}
    return layer, [{"args": [*given, *named], "kwargs": {}}]


def inner_model(layer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model that a layer is, or that it runs at every step."""
    if layer.get("class_name") in MODELS:
        return layer
    config = layer.get("config")
    inner = config.get("layer") if isinstance(config, Mapping) else None
    if layer.get("class_name") == "TimeDistributed" and isinstance(inner, Mapping):
        return inner if inner.get("class_name") in MODELS else None
    return None


def _each_step(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer of a model that runs at every step."""
    config = layer.get("config") or {}
    if layer["class_name"] in _ANY_AXES:
        return layer
    if layer["class_name"] == "Concatenate":
        axis = int(config.get("axis", -1))
        return {**layer, "config": {**config, "axis": axis + 1 if axis > 0 else axis}}
    name = layer_name(layer)
    return {"class_name": "TimeDistributed", "config": {"name": name, "layer": layer}}


def _renamed(layer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return {**layer, "name": name, "config": {**(layer.get("config") or {}), "name": name}}


def _opened(wiring: Wiring) -> Wiring:
    """With the layers of models in place of these, under ``MODEL/LAYER``."""
    layers: list[tuple[Mapping[str, Any], list[Source]]] = []
    stored = dict(wiring.stored)
    ends: dict[tuple[str, int], Source] = {}

    def actual(source: Source) -> Source:
        return ends.get((source.layer, source.state), source)

    for layer, sources in wiring.layers:
        name, kind = layer_name(layer), str(layer["class_name"])
        sources = [actual(s) for s in sources]
        model = inner_model(layer)
        if model is None:
            layers.append((layer, sources))
            continue
        inner = _opened(_wiring(model))
        if sources and len(sources) != max(len(inner.inputs), 1):
            refuse_layer(name, kind, f"it is called on {len(sources)} tensors; save it again")
        starts = dict(zip(inner.inputs, sources))

        def of_model(
            source: Source, starts: Mapping[str, Source] = starts, n: str = name
        ) -> Source:
            if source.number is not None:
                return source
            return starts.get(source.layer) or Source(f"{n}/{source.layer}", source.state)

        for part, reads in inner.layers:
            own = layer_name(part)
            if own not in starts:
                first = not reads and not inner.inputs
                reads = list(sources) if first else [of_model(s) for s in reads]
                part = part if kind in MODELS else _each_step(part)
                layers.append((_renamed(part, f"{name}/{own}"), reads))
            place = f"{stored.get(name, name)}/{inner.stored.get(own, own)}"
            stored[f"{name}/{own}"] = place
        ends |= {(name, k): of_model(s) for k, s in enumerate(inner.outputs)}
    inputs = wiring.inputs
    if not inputs and layers and layers[0][0]["class_name"] == "InputLayer":
        inputs = [layer_name(layers[0][0])]  # of a model that a list begins with
    return Wiring(layers, inputs, [actual(s) for s in wiring.outputs], stored)


def _needed(wiring: Wiring) -> Wiring:
    """Without layers that no output depends on."""
    wanted = {s.layer for s in wiring.outputs}
    kept = []
    for layer, sources in reversed(wiring.layers):
        if layer_name(layer) in wanted:
            kept.append((layer, sources))
            wanted |= {s.layer for s in sources}
    if wiring.inputs and not wanted & set(wiring.inputs):
        raise StillnetError(
            f"the model's output does not depend on its input '{wiring.inputs[0]}'; save the "
            "layers between them"
        )
    return wiring._replace(layers=kept[::-1], inputs=[n for n in wiring.inputs if n in wanted])


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
            return [Source(value[0], value[2], None, _call(value[1]))]
        return [h for v in value for h in _histories(v)]
    return []


def _sources(nodes: Any) -> list[Source]:
    """Everything that a layer is called on, in Keras 2's and 3's form."""
    if isinstance(nodes, Mapping):
        if nodes.get("class_name") == "__keras_tensor__":
            history = nodes["config"]["keras_history"]
            return [Source(str(history[0]), int(history[2]), None, _call(history[1]))]
        if "args" in nodes:
            keyed = nodes.get("kwargs") or {}
            more = [s for v in keyed.values() for s in _sources(v) if s.number is None]
            return [*_sources(nodes["args"]), *more]
        return [s for v in nodes.values() for s in _sources(v)]
    if isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            more = _sources(nodes[3]) if len(nodes) > 3 else []
            return [
                Source(nodes[0], int(nodes[2]), None, _call(nodes[1])),
                *(s for s in more if s.number is None),
            ]
        return [s for v in nodes for s in _sources(v)]
    if isinstance(nodes, (int, float)) and not isinstance(nodes, bool):
        return [Source("", 0, float(nodes))]
    return []


def _call(value: Any) -> int:
    return max(int(value), 0)
