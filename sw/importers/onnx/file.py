"""ONNX files and models in memory, to a :class:`~stillnet.sw.model.model.Model`."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.util.files import read_whole

from . import (
    convolution,  # noqa: F401 -- they register their operators
    dense,  # noqa: F401 -- they register their operators
    embedding,  # noqa: F401 -- they register their operators
    moves,  # noqa: F401 -- they register their operators
    recurrent,  # noqa: F401 -- they register their operators
)
from .graph import Graph
from .layers import same_models
from .tensors import first_line

if TYPE_CHECKING:
    import onnx

__all__ = ["from_onnx", "load_onnx"]


def load_onnx(path: str | PathLike[str], *, gru_reset: str | None = None) -> Model:
    """Reads an ONNX file.

    Parameters
    ----------
    path : path of a binary ONNX file, opset 7 or later
        Layers with one data input; states may be further inputs
        and outputs. Weights kept in a file of their own are looked for next to it.
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
    return from_onnx(model, path.stem, gru_reset=gru_reset)


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
            result, notes = walk_twice(model, onnx, name, gru_reset)
    except StillnetError as e:
        text = str(e)
        if text.isprintable():
            raise
        clean = "".join(c if c.isprintable() else "?" for c in text)  # names in a damaged file
        raise StillnetError(clean) from None
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return result


def walk_twice(
    model: onnx.ModelProto, onnx: Any, name: str, gru_reset: str | None
) -> tuple[Model, list[str]]:
    """The layers and what to warn of, walked with two sets of sizes for the dynamic axes."""
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 7:
        raise StillnetError(
            f"the model is of ONNX opset {opset or '(none)'}; convert it to 7 or later with "
            "onnx.version_converter"
        )
    graph = Graph(model.graph, opset, onnx, model.producer_name, gru_reset)
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
