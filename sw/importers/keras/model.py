"""Keras files as ONNX graphs, read without Keras or TensorFlow.

A file then goes the way of all ONNX graphs: the chip takes what it can, and the host the rest. So
there is one place that knows what an engine can do.

The axis of time is dynamic where the layers allow it: a recording is (steps, features), whatever
length the model was trained with. Where a layer needs the length (Flatten, Dense over all steps),
a call is one window of that length.

What a file says of training (dropout, regularisers, ``stateful``) does not change the streaming
network: the engine carries states from step to step, and the host clears them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stillnet.sw.contract.errors import StillnetError

from .attention import ATTENTION
from .file import KerasFile, read_keras
from .layers import LAYERS, MERGES, NOTHING, merged
from .operations import OPERATIONS, operation
from .order import Source, Wiring, layer_name, ordered, refuse_layer
from .recurrent import RECURRENT
from .writer import Layer, NeedsLength, Tensor, Writer

if TYPE_CHECKING:
    import onnx

__all__ = ["keras_graphs"]

_T = TypeVar("_T")

_HINTS = {
    **dict.fromkeys(
        ("GroupQueryAttention", "GroupedQueryAttention"),
        "it is not supported; use MultiHeadAttention, or export the model to ONNX with "
        "model.export('model.onnx', format='onnx'), where it runs on the host",
    ),
    "Lambda": "it holds Python code, which the file does not have in a form to be read; write it "
    "with layers of Keras, or save the model without it",
    "TFOpLambda": "it is an operation of TensorFlow; write it with layers of Keras, or save the "
    "model without it",
}
_INPUT = "input"


def keras_graphs(
    path: str | PathLike[str], *, ignore_mask: bool = False
) -> Iterator[onnx.ModelProto]:
    """A ``.keras`` or ``.h5`` file as an ONNX graph.

    Parameters
    ----------
    path : path of a file that ``model.save`` of Keras 2 or 3 wrote
    ignore_mask : bool
        Take Masking and ``mask_zero`` as if they were not there: no step is left out.

    Yields
    ------
    onnx.ModelProto
        With nodes and tensors named after the layers. First of recordings of any length, where the
        layers allow it; then of windows of the length in the file, if it has one.

    Raises
    ------
    StillnetError
        The file cannot be read, or a layer, named, is not supported.
    """
    path = Path(path)
    file = read_keras(path)
    length = _readable(path, lambda: _has_length(file.config))
    try:
        yield _readable(path, lambda: _graph(file, ignore_mask, length))
    except NeedsLength:
        if not length:
            raise
    if length:
        yield _readable(path, lambda: _Reader(file, True, ignore_mask, {}).read())


def _readable(path: Path, read: Callable[[], _T]) -> _T:
    """What cannot be read is refused."""
    try:
        return read()
    except StillnetError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise StillnetError(
            f"file '{path}' holds a Keras model that cannot be read ({type(e).__name__}: {e}); "
            "save it again with model.save('name.keras')"
        ) from None


def _graph(file: KerasFile, ignore_mask: bool, length: bool) -> onnx.ModelProto:
    """The graph of recordings of any length."""
    trained: dict[str, tuple[int | None, ...]] = {}
    if length:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = _Reader(file, True, ignore_mask, {})
            first.read()
        trained = first.shapes
    return _Reader(file, False, ignore_mask, trained).read()


def _has_length(config: Mapping[str, Any]) -> bool:
    """Whether an input has a number of steps."""
    for layer, _ in ordered(config).layers:
        if layer["class_name"] == "InputLayer":
            shape = _input_shape(layer.get("config") or {})
            if shape and shape[0] is not None:
                return True
    return False


def _input_shape(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Without the batch; None where the file does not say."""
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    return None if not shape else tuple(None if n is None else int(n) for n in shape[1:])


class _Reader:
    """One pass over the layers of a file."""

    def __init__(
        self,
        file: KerasFile,
        fixed: bool,
        ignore_mask: bool,
        trained: Mapping[str, tuple[int | None, ...]],
    ) -> None:
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        """What each layer reads."""
        self._states: dict[Source, str] = {}
        """Final states, and the input of the graph that starts them."""
        self._stored: dict[str, str] = {}
        """Names of layers in the file, where these are others."""
        self._trained = trained
        self._file = file
        self._fixed = fixed
        self._ignore_mask = ignore_mask
        self._writer = Writer()

    def read(self) -> onnx.ModelProto:
        wiring = ordered(self._file.config)
        self._stored = wiring.stored
        if not wiring.outputs:
            raise StillnetError("the model has no layer that gives an output: save it again")
        values: dict[tuple[str, int], Tensor] = {}
        for layer, sources in wiring.layers:
            name, kind = layer_name(layer), str(layer["class_name"])
            config = layer.get("config") or {}
            tensors = [values[s.layer, s.state] for s in sources if s.number is None]
            if kind == "InputLayer":
                values[name, 0] = self._input(wiring, name, config)
                continue
            if not sources:  # Keras 2 may leave the input out
                tensors = [self._input(wiring, _INPUT, {})]
            self.shapes[name] = tensors[0].shape
            starts = {Source(name, k): s.layer for k, s in enumerate(sources) if k}
            self._states |= {s: n for s, n in starts.items() if n in wiring.inputs}
            place = self._layer(name, kind, config)
            results = self._written(place, tensors, sources)
            values |= {(name, k): t for k, t in enumerate(results)}
        outputs = [self._output(values[s.layer, s.state], s) for s in wiring.outputs]
        return self._writer.model(outputs)

    def _layer(self, name: str, kind: str, config: Mapping[str, Any]) -> Layer:
        arrays = self._file.weights.get(self._stored.get(name, name))
        return Layer(
            self._writer,
            name,
            kind,
            config,
            arrays,
            self._file.version,
            self._ignore_mask,
            self._trained.get(name),
        )

    def _written(self, layer: Layer, tensors: list[Tensor], sources: list[Source]) -> list[Tensor]:
        """What a layer gives, and its final states."""
        kind = layer.kind
        if kind in MERGES:
            results = [merged(layer, tensors, [s.number for s in sources])]
        elif kind in ATTENTION:
            results = [ATTENTION[kind](layer, tensors)]
        elif kind in RECURRENT:
            results = RECURRENT[kind](layer, tensors[0], tensors[1:])
        elif kind not in NOTHING and kind not in LAYERS and kind not in OPERATIONS:
            layer.refuse(
                _HINTS.get(
                    kind,
                    "this layer is not supported; save the part of the model without it, or export "
                    "the model to ONNX",
                )
            )
        elif len(tensors) > 1:
            layer.refuse(
                f"it takes {len(tensors)} tensors, as only the initial states of recurrent layers "
                f"and {', '.join(sorted(MERGES))} may"
            )
        else:
            done = operation(layer, tensors[0])
            if done is None:
                done = LAYERS[kind](layer, tensors[0]) if kind in LAYERS else tensors[0]
            results = [done]
        return [layer.finished(results[0]), *results[1:]]

    def _output(self, tensor: Tensor, source: Source) -> Tensor:
        """An output under the name of its layer, a final state under that of its input."""
        wanted = source.layer if not source.state else f"{source.layer}/state {source.state}"
        if source in self._states:
            wanted = f"{self._states[source]}_out"
        if tensor.name == wanted:
            return tensor
        layer = self._layer(wanted, "output", {})
        return layer.finished(Tensor(layer.node("Identity", tensor), tensor.shape))

    # -- inputs -----------------------------------------------------------------------------------

    def _input(self, wiring: Wiring, name: str, config: Mapping[str, Any]) -> Tensor:
        """An input, whose first axis after the batch is time where it may be."""
        tokens = self._feeds_embedding(wiring, name)
        shape = _input_shape(config)
        if shape is None:
            shape = (None,) if tokens else (None, self._features(wiring, name))
        several = len(wiring.inputs) > 1
        if shape and (len(shape) > 1 or tokens) and not (self._fixed or several):
            self._writer.window = None if shape[0] is None else (name, shape[0])
            shape = (None, *shape[1:])
        if len(shape) > 1 and shape[-1] is None:
            shape = (*shape[:-1], self._features(wiring, name))
        if None in shape[1:]:
            refuse_layer(name, "InputLayer", f"its shape is {shape}; only time may be left open")
        return self._writer.input(name, shape, tokens)

    def _readers(self, wiring: Wiring, name: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Layers that read an input, through those that do nothing."""
        found = []
        for layer, sources in wiring.layers:
            reads = any(s.layer == name for s in sources) or (not sources and name == _INPUT)
            kind, inner = str(layer["class_name"]), layer_name(layer)
            if reads and kind in (*NOTHING, "Masking") and inner != name:
                found += self._readers(wiring, inner)
            elif reads and kind != "InputLayer":
                found.append((kind, layer))
        return found

    def _feeds_embedding(self, wiring: Wiring, name: str) -> bool:
        return any(kind == "Embedding" for kind, _ in self._readers(wiring, name))

    def _features(self, wiring: Wiring, name: str) -> int:
        """Features of an input that the file leaves open, from the first weights that read it."""
        for _, layer in self._readers(wiring, name):
            found = layer_name(layer)
            arrays = self._file.weights.get(self._stored.get(found, found)) or []
            if arrays and arrays[0].ndim >= 2:
                groups = (layer.get("config") or {}).get("groups") or 1
                return int(arrays[0].shape[-2]) * int(groups)
            if arrays:
                return int(arrays[0].size)
        refuse_layer(name, "InputLayer", "it has no size; give Input a shape")
