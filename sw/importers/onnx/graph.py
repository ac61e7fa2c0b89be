"""What does not change between walks over an ONNX graph: constants, needed nodes, inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layer_graph import LayerGraph
from stillnet.sw.model.model import Model

from .ending import finish
from .tensors import (
    FLOATS,
    INTEGERS,
    LARGEST,
    MOVES,
    RECURRENT,
    Axis,
    Const,
    Dim,
    Fix,
    Flow,
    every_node,
    first_line,
    refuse,
)
from .walk import Walk

if TYPE_CHECKING:
    import onnx


class Graph:
    """What does not change between walks: constants, needed nodes, the roles of the inputs."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: dict[str, Const],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[str],
        opset: int,
        onnx: Any,
        data: str | None = None,
    ) -> None:
        self.onnx = onnx
        self.opset = opset
        self.outputs = list(outputs)
        self.constants = constants
        self.needed = self._needed_nodes(nodes)
        every = list(every_node(self.needed))
        self._producer = {o: n for n in every for o in n.output if o}
        read = {i for n in self.needed for i in read_names(n)} | set(self.outputs)
        self.inputs = {i.name: i for i in inputs if i.name in read and i.name not in constants}
        self.states = {
            name
            for node in every
            for slot in node.input[5:7]
            if node.op_type in RECURRENT
            for name in self.roots(slot)
        }
        self.data = self._data_input() if data is None else data
        self.axes: list[Axis] = []
        arrays = [c.value for name, c in constants.items() if name in read]
        self.stored = sum(a.size for a in arrays if a.dtype.kind == "f" and a.ndim > 1)

    @classmethod
    def read(cls, graph: onnx.GraphProto, opset: int, onnx: Any) -> Graph:
        """The graph of a file."""
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise StillnetError(
                f"initializer '{name}' is sparse, which is not supported: export dense weights"
            )
        constants = {t.name: Const(array_of(t, onnx)) for t in graph.initializer}
        outputs = [o.name for o in graph.output]
        return cls(graph.node, constants, graph.input, outputs, opset, onnx)

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values of an initializer."""
        return array_of(tensor, self.onnx)

    def type_name(self, number: int) -> str:
        """The name of an element type, such as int64."""
        types = self.onnx.TensorProto.DataType.items()
        return next((n.lower() for n, v in types if v == number), f"unknown ({number})")

    def _needed_nodes(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes that an output depends on, in the order of the file."""
        wanted = set(self.outputs)
        needed = []
        for node in reversed(nodes):
            if any(o in wanted for o in node.output if o):
                needed.append(node)
                wanted.update(read_names(node))
        return needed[::-1]

    def roots(self, name: str) -> set[str]:
        """The graph inputs that a tensor is a mere move of."""
        found, todo, seen = set(), [name], set()
        while todo:
            name = todo.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            node = self._producer.get(name)
            if node is None:
                found |= {name} & self.inputs.keys()
            elif node.op_type in MOVES:
                todo += node.input if node.op_type == "Concat" else node.input[:1]
        return found

    def _data_input(self) -> str:
        data = [name for name in self.inputs if name not in self.states]
        recurrent = ("X", "W", "R", "B", "sequence_lens")
        slots = {"GRU": recurrent, "LSTM": recurrent, "Gemm": ("A", "B", "C")}
        if len(data) > 1:
            for node in self.needed:
                for slot, name in list(zip(slots.get(node.op_type, ()), node.input))[1:]:
                    for root in self.roots(name):
                        if slot == "sequence_lens":
                            refuse(
                                node,
                                f"the lengths of its sequences come from graph input '{root}' (a "
                                "packed sequence); export the module without pack_padded_sequence, "
                                "for one sequence of full length",
                            )
                        refuse(
                            node,
                            f"its {slot} comes from graph input '{root}'; only constants are "
                            "supported there, so export it as an initializer",
                        )
                if node.op_type == "MatMul" and all(self.roots(i) for i in node.input):
                    refuse(
                        node,
                        f"it multiplies two graph inputs, '{node.input[0]}' and "
                        f"'{node.input[1]}'; export the weights as initializers",
                    )
            raise StillnetError(
                f"the graph has {len(data)} data inputs ("
                + ", ".join(f"'{d}'" for d in data)
                + "); stillnet takes one: export the part that one input feeds"
                + self._written_out()
            )
        if not data:
            raise StillnetError(
                f"no data input reaches the graph's output '{self.outputs[0]}': export a graph "
                "that computes its output from one input"
            )
        return data[0]

    def _written_out(self) -> str:
        """What to do where the states belong to a cell that is no node: nn.LSTMCell, nn.GRUCell."""
        kinds = {node.op_type for node in self.needed}
        if {"Sigmoid", "Tanh", "Mul"} <= kinds and not kinds & {"GRU", "LSTM"}:
            return " (a recurrent cell that is written out in products is read from its state_dict)"
        return ""

    def walk(self, name: str, probe: int, fixed: dict[int, int]) -> tuple[Model, list[str]]:
        """The model and what to warn of, with dynamic axes of prime sizes from ``probe`` on."""
        while True:
            try:
                return self._walk_once(name, probe, fixed)
            except Fix as fix:
                fixed[fix.position] = fix.size

    def _walk_once(self, name: str, probe: int, fixed: dict[int, int]) -> tuple[Model, list[str]]:
        walk = self.begin(name, probe, fixed)
        for node in self.needed:
            walk.visit(node)
        return finish(walk), walk.notes

    def begin(self, name: str, probe: int, fixed: dict[int, int]) -> Walk:
        """A walk that has seen no node yet, with dynamic axes of prime sizes from ``probe`` on."""
        sizes = primes(probe)
        named: dict[str, int] = {}

        def dims(name: str) -> list[tuple[int, str | None]]:
            """Sizes of a graph input; dynamic ones with the name to call them by."""
            tensor = self.inputs[name].type.tensor_type
            if tensor.elem_type not in FLOATS and not (
                name == self.data and tensor.elem_type in INTEGERS
            ):
                kind = self.type_name(tensor.elem_type)
                raise StillnetError(
                    f"graph input '{name}' holds {kind} elements; stillnet takes float vectors, "
                    "or int32 or int64 tokens for an embedding"
                )
            if not tensor.HasField("shape"):
                raise StillnetError(
                    f"graph input '{name}' declares no shape: export it with its number of axes"
                )
            out: list[tuple[int, str | None]] = []
            for i, d in enumerate(tensor.shape.dim):
                if d.dim_value > 0:
                    out.append((d.dim_value, None))
                elif name == self.data and i in fixed:
                    out.append((fixed[i], None))
                else:
                    size = named.setdefault(d.dim_param or f"{name}.{i}", next(sizes))
                    out.append((size, d.dim_param or "?"))
            return out

        self.axes = []
        layout: list[Dim] = []
        for i, (size, param) in enumerate(dims(self.data)):
            text = f"axis {i} of '{self.data}'" + (f" ('{param}')" if param else f" ({size})")
            axis = Axis(text, size, param is not None, i)
            layout.append(() if size == 1 else (axis,))
            self.axes.append(axis)
        tokens = self.inputs[self.data].type.tensor_type.elem_type in INTEGERS
        net = LayerGraph(name, "node")
        walk = Walk(self, net, Flow(net.input(), tuple(layout), tokens=tokens))
        first = 0
        for state in self.inputs:
            if state in self.states:
                shape = tuple(size for size, _ in dims(state))
                if math.prod(shape) > LARGEST:
                    raise StillnetError(
                        f"state input '{state}' has the shape {shape}, which is too large: export "
                        "the model again"
                    )
                tags = first + np.arange(math.prod(shape)).reshape(shape)
                first += tags.size
                walk.env[state] = walk.state_inputs[state] = Const(tags, state=state)
        return walk


def array_of(tensor: onnx.TensorProto, onnx: Any) -> np.ndarray:
    """The values of an initializer.

    Raises
    ------
    StillnetError
        Where it is damaged.
    """
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as e:
        raise StillnetError(
            f"initializer '{tensor.name}' is damaged ({first_line(e)}): export the model again"
        ) from None


def primes(start: int) -> Iterator[int]:
    n = start
    while True:
        if all(n % d for d in range(2, math.isqrt(n) + 1)):
            yield n
        n += 1


def captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that the nodes of a subgraph read, those of the outer graph among them."""
    yield from (o.name for o in graph.output)
    for node in graph.node:
        yield from read_names(node)


def read_names(node: onnx.NodeProto) -> Iterator[str]:
    yield from (i for i in node.input if i)
    for a in node.attribute:
        for g in [a.g, *a.graphs] if a.g.node or a.graphs else []:
            yield from captured(g)
