"""ONNX files and models in memory, to a :class:`~stillnet.sw.model.model.Model`."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.util.files import read_whole

from . import (
    convolution,  # noqa: F401 -- they register their operators
    dense,  # noqa: F401 -- they register their operators
    embedding,  # noqa: F401 -- they register their operators
    functions,  # noqa: F401 -- they register their operators
    moves,  # noqa: F401 -- they register their operators
    recurrent,  # noqa: F401 -- they register their operators
    within_step,  # noqa: F401 -- they register their operators
)
from .graph import Graph
from .layers import same_models
from .recurrent import settle_reset
from .tensors import first_line, label
from .walk import HINTS

if TYPE_CHECKING:
    import onnx

__all__ = ["from_onnx", "load_onnx"]


def load_onnx(
    path: str | PathLike[str], cut: CutOptions | None = None, *, gru_reset: str | None = None
) -> Model:
    """Reads an ONNX file.

    Parameters
    ----------
    path : path of a binary ONNX file, opset 7 or later
        Layers with one data input; states may be further inputs
        and outputs. Weights kept in a file of their own are looked for next to it.
    cut : CutOptions, optional
        Divide a model of which only a part can run on the chip; absent: refuse it.
    gru_reset : str, optional
        ``"before"`` or ``"after"``: where the reset gate of every GRU stands, whatever the file
        says.

    Returns
    -------
    Model
        Weights in float64, named after the nodes. States that the file takes and returns are
        carried by the engine. Where the file keeps only the last step (Y_h, ``out[-1]``), the
        model gives every step, the last of which is the file's output.

    Raises
    ------
    StillnetError
        The file cannot be read, or a node, named, is not supported.
    """
    path = Path(path)
    onnx = import_onnx()
    data = read_whole(path, "export or copy the model again")
    model = parse(data, f"file '{path}'")
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise StillnetError(
            f"file '{path}' keeps weights in another file that cannot be read "
            f"({first_line(e)}): put that file next to it, or export in one file"
        ) from None
    if cut is None:
        return from_onnx(model, path.stem, gru_reset=gru_reset)
    model, notes = settle_reset(model, gru_reset)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return whole_model(model, path.stem, cut)


def whole_model(proto: onnx.ModelProto, name: str, cut: CutOptions) -> Model:
    """A model for the chip alone where that can be, else one with parts for the host.

    Raises
    ------
    StillnetError
        Why the chip cannot run it; or what the user must say before it can be cut.
    """
    refusal: StillnetError | None = None
    plain: Model | None = None
    if not cut.given:
        try:
            plain = from_onnx(proto, name)
        except StillnetError as error:
            refusal = error
    if plain is not None and not _takes_range(plain):
        return plain
    from .cut import Unclear, cut_model

    try:
        return cut_model(inlined(proto), name, import_onnx(), cut)
    except Unclear:
        raise
    except StillnetError as error:
        if plain is not None:
            return plain
        raise _quantized(proto) or refusal or error from None
    except Exception as error:  # of a damaged file, anything
        raise refusal or StillnetError(
            f"the model cannot be read ({type(error).__name__}: {first_line(error)}); the file is "
            "damaged, export it again"
        ) from error


def from_onnx(
    model: onnx.ModelProto | bytes, name: str = "network", *, gru_reset: str | None = None
) -> Model:
    """Converts an ONNX model that is already in memory; see :func:`load_onnx`.

    Parameters
    ----------
    model : onnx.ModelProto, or bytes in the protobuf format
    name : str
        Name of the result.
    gru_reset : str, optional
        As for :func:`load_onnx`.
    """
    onnx = import_onnx()
    if isinstance(model, bytes):
        model = parse(model, "the model")
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are refused by name
            model, notes = settle_reset(model, gru_reset)
            result, more = walk_twice(model, onnx, name)
    except StillnetError as e:
        text = str(e)
        if text.isprintable():
            raise
        clean = "".join(c if c.isprintable() else "?" for c in text)  # names in a damaged file
        raise StillnetError(clean) from None
    for note in [*notes, *more]:
        warnings.warn(note, stacklevel=2)
    return result


def walk_twice(model: onnx.ModelProto, onnx: Any, name: str) -> tuple[Model, list[str]]:
    """The layers and what to warn of, walked with two sets of sizes for the dynamic axes."""
    model = inlined(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 7:
        raise StillnetError(
            f"the model is of ONNX opset {opset or '(none)'}; convert it to 7 or later with "
            "onnx.version_converter"
        )
    graph = Graph.read(model.graph, opset, onnx)
    fixed: dict[int, int] = {}
    first = graph.walk(name, 101, fixed)
    if any(a.dynamic for a in graph.axes):
        second = graph.walk(name, 211, fixed)
        if not same_models(first[0], second[0]):
            raise StillnetError(
                "the network changes with the length of the sequence; export it with the sizes "
                "of its dynamic axes fixed"
            )
    return first


def _quantized(proto: onnx.ModelProto) -> StillnetError | None:
    """The reason that explains all others, where a recurrent layer has quantized weights."""
    for node in proto.graph.node:
        if node.op_type == "DynamicQuantizeLSTM":
            return StillnetError(f"node '{label(node)}' ({node.op_type}): {HINTS[node.op_type]}")
    return None


def _takes_range(model: Model) -> bool:
    """Whether layers read squares, roots or powers, which are better computed on the host."""
    read = {m.source for layer in model.layers for m in layer.matrices}
    for i in read - {INPUT}:
        layer = model.layers[i]
        square = layer.cell == "product" and len({m.source for m in layer.matrices}) == 1
        if square or layer.cell in ("exp", "sqrt"):
            return True
    return False


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without functions of its own."""
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions

    return inline_local_functions(model)


def import_onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise StillnetError(
            'reading ONNX files needs the package onnx: pip install "stillnet[onnx]"'
        ) from None
    return onnx


def parse(data: bytes, what: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise StillnetError(
            f"{what} is not an ONNX model, or is cut short ({len(data)} bytes): export or copy it "
            "again"
        ) from None
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise StillnetError(
            f"{what} holds no complete ONNX graph ({len(model.graph.node)} nodes, "
            f"{len(model.graph.output)} outputs): it is cut short, or is not an ONNX model; export "
            "or copy it again"
        )
    _make_readable(model)
    return model


def _make_readable(message: Any) -> None:
    """Turns names that are not UTF-8, which protobuf gives as bytes, into text."""

    def text(value: Any) -> Any:
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value

    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if isinstance(value, bytes):
                setattr(message, field.name, text(value))
            elif not isinstance(value, str) and any(isinstance(v, bytes) for v in value):
                value[:] = [text(v) for v in value]
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _make_readable(inner)
