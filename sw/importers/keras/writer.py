"""An ONNX graph under construction, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .order import refuse_layer

if TYPE_CHECKING:
    import onnx

__all__ = ["Layer", "NeedsLength", "Tensor", "Writer"]

OPSET, IR_VERSION = 20, 9


class NeedsLength(StillnetError):
    """A layer cannot be written without the number of steps."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph.

    Attributes
    ----------
    name : str
    shape : tuple of int or None
        Without the batch, which is of size 1; None where it follows the length of the recording.
    """

    name: str
    shape: tuple[int | None, ...]


@dataclass
class Writer:
    """The nodes and constants so far.

    ``window`` has the name of the input whose steps are left open, and their number in training.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    window: tuple[str, int] | None = None

    def input(self, name: str, shape: Sequence[int | None], tokens: bool) -> Tensor:
        """An input of the graph."""
        from onnx import TensorProto, helper

        sizes = [1, *("time" if n is None and not i else n for i, n in enumerate(shape))]
        kind = TensorProto.INT64 if tokens else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, sizes))
        return Tensor(name, tuple(shape))

    def model(self, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        """The graph, as a model."""
        from onnx import TensorProto, helper

        ends = [
            helper.make_tensor_value_info(t.name, TensorProto.FLOAT, [1, *(n for n in t.shape)])
            for t in outputs
        ]
        graph = helper.make_graph(self.nodes, "keras", self.inputs, ends, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


@dataclass
class Layer:
    """One layer of the file, and where its nodes go.

    Attributes
    ----------
    writer : Writer
    name, kind : str
    config : mapping
    arrays : list of arrays, or None
        Its weights.
    version : int
        Of Keras: some functions changed between 2 and 3.
    ignore_mask : bool
    trained : tuple of int or None
        The shape of what it reads, of the length in the file.
    count : int
        Nodes so far.
    """

    writer: Writer
    name: str
    kind: str
    config: Mapping[str, Any]
    arrays: list[np.ndarray] | None
    version: int
    ignore_mask: bool = False
    trained: tuple[int | None, ...] | None = None
    count: int = 0

    def refuse(self, text: str) -> NoReturn:
        refuse_layer(self.name, self.kind, text)

    def node(
        self,
        op: str,
        *inputs: Tensor | str | np.ndarray | np.floating,
        outputs: int = 1,
        main: bool = False,
        **attributes: Any,
    ) -> Any:
        """Adds a node; the names of its outputs, or the name of its only one.

        ``main`` gives it the name of the layer, which messages and reports use.
        """
        from onnx import helper

        names = [self._name_of(i) for i in inputs]
        inner = f"{self.name}/{self.count}"
        self.count += 1
        outs = [f"{inner}.{k}" if k else inner for k in range(outputs)]
        name = self.name if main else inner
        self.writer.nodes.append(helper.make_node(op, names, outs, name=name, **attributes))
        return outs[0] if outputs == 1 else outs

    def _name_of(self, value: Tensor | str | np.ndarray | np.floating) -> str:
        if isinstance(value, Tensor):
            return value.name
        if isinstance(value, str):
            return value
        from onnx import numpy_helper

        name = f"{self.name}/constant {len(self.writer.constants)}"
        value = np.asarray(value)
        value = value.astype(np.float32) if value.dtype.kind == "f" else value
        self.writer.constants.append(numpy_helper.from_array(value, name))
        return name

    def finished(self, result: Tensor) -> Tensor:
        """The result under the name of the layer, where the layer wrote it."""
        last = self.writer.nodes[-1] if self.writer.nodes else None
        if self.count and last is not None and list(last.output) == [result.name]:
            last.output[0] = self.name
            return Tensor(self.name, result.shape)
        return result

    def weights(self, count: int) -> list[np.ndarray]:
        """The arrays of the layer as float64."""
        arrays = self.arrays or []
        if len(arrays) != count:
            self.refuse(
                f"the file has {len(arrays)} weight arrays for it, {count} are needed; save "
                "the trained model again"
            )
        for a in arrays:
            if a.dtype.kind not in "fV":
                self.refuse(
                    f"its weights have the type {a.dtype}; save the model before it is quantized"
                )
        wide = [_widen(a) for a in arrays]
        if not all(np.all(np.isfinite(a)) for a in wide):
            self.refuse("its weights hold NaN or infinity; train or save the model again")
        return wide

    def number(self, key: str, default: int = 1) -> int:
        """A setting that may be written as a list of one number."""
        (value,) = self.numbers(key, 1, default)
        return value

    def numbers(self, key: str, count: int, default: int = 1) -> list[int]:
        """A setting of one number for each axis, or one for all."""
        value = self.config.get(key)
        value = default if value is None else value
        values = value if isinstance(value, (list, tuple)) else [value] * count
        if len(values) != count:
            self.refuse(f"{key} is {value}, where {count} numbers are expected; save it again")
        return [int(v) for v in values]

    def channels_last(self) -> None:
        if self.config.get("data_format") not in (None, "channels_last"):
            self.refuse("data_format is channels_first; use channels_last")

    def rank(self, x: Tensor, *ranks: int) -> None:
        """Refuses a tensor of other axes than the layer takes."""
        if len(x.shape) in ranks:
            return
        if ranks == (2,) and len(x.shape) == 1:
            self.refuse(
                "it takes a sequence, and reads the last step only; set return_sequences=True in "
                "the recurrent layer before it"
            )
        self.refuse(f"it does not take a tensor of shape {(1, *x.shape)}; save the model again")

    def length(self, x: Tensor) -> int:
        """Elements of a tensor whose size must be known."""
        if None in x.shape:
            raise NeedsLength(
                f"layer '{self.name}' ({self.kind}): it needs a number of steps that is fixed; "
                "save the model with a length in the shape of its Input"
            )
        return math.prod(n for n in x.shape if n is not None)


def _widen(array: np.ndarray) -> np.ndarray:
    """float64; the two bytes of a bfloat16, which HDF5 does not know, too."""
    if array.dtype.kind == "V":
        if array.dtype.itemsize != 2:
            raise ValueError(f"weights of type {array.dtype}")
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float64)
