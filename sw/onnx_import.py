"""Import of trained networks from ONNX files.

The graph is walked once, node by node, in the shapes of its tensors. What does not depend on the
data input is a constant and is computed (with onnx's reference evaluator); what does is a *flow*:
the vectors of the chain, laid out in some tensor. Every dimension of a flow is the product of the
input's axes and of one feature axis, so that a reshape or transpose is followed exactly, and one
that mixes features with steps is seen. Nodes that change values become layers or are folded into
one; any other node is refused by its name.

The network is a chain. A tensor that two nodes change is a branch and is refused.

Dynamic axes are given probe sizes (primes), and the whole walk is done with two sets of them: a
network that differs between the two has a length written into it somewhere, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .errors import StillnetError
from .model import Model

if TYPE_CHECKING:
    import onnx

__all__ = ["from_onnx", "load_onnx"]

_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""Element types of ONNX that weights and inputs may have."""

_MOVES = frozenset(
    ("Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape")
    + ("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that only move elements: the ones allowed on state inputs and outputs."""

_LARGEST = 1 << 28
"""Elements of the largest constant that is computed."""

_HINTS = {
    "LSTM": "LSTM layers are not supported yet; use a GRU with linear_before_reset=1",
    "RNN": "plain RNN layers are not supported; use a GRU with linear_before_reset=1",
    "BatchNormalization": "batch normalisation is not supported as a node; fold it into the dense "
    "layer next to it, as exporters do in evaluation mode with constant folding",
    "Loop": "loops are not supported; export the layer as one GRU node",
    "Scan": "loops are not supported; export the layer as one GRU node",
} | dict.fromkeys(
    ("Softmax", "LogSoftmax", "ArgMax", "Log", "Exp", "Sqrt", "Pow"),
    "this function is not supported on the chip; end or start the exported graph next to it and "
    "compute it on the host",
)


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis that survives every move; two axes are the same only if they are one object.

    ``position`` is the dimension of the data input that it came from, None for features.
    """

    name: str
    size: int
    dynamic: bool = False
    position: int | None = None


_Dim = tuple[_Axis, ...]
"""One dimension of a tensor: the product of axes, outermost first; () has size 1."""


@dataclass(frozen=True)
class _Const:
    """A tensor known at import. ``state`` names the graph input if it stands for a state."""

    value: np.ndarray
    state: str | None = None


@dataclass(frozen=True)
class _Flow:
    """A tensor that carries the vectors of the chain.

    ``version`` counts changes of value: only the newest may be read by a layer. ``reduced`` marks
    the last step alone, ``final`` the Y_h of a GRU that nothing but moves has touched.
    """

    version: int
    dims: tuple[_Dim, ...]
    reduced: bool = False
    final: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(_size(d) for d in self.dims)


@dataclass(frozen=True)
class _States:
    """Final states joined into one tensor, for a graph output.

    ``parts`` along ``axis`` while nothing has moved them: one of them may be taken out again
    (``h_n[-1]`` in PyTorch).
    """

    parts: tuple[_Flow, ...] = ()
    axis: int = 0


_Value = _Const | _Flow | _States


@dataclass
class _Dense:
    name: str
    weight: np.ndarray  # (units, inputs)
    bias: np.ndarray  # (units,)
    activation: str = "linear"


@dataclass
class _Gru:
    name: str
    w: np.ndarray  # (3*H, inputs), gates z, r, h
    r: np.ndarray  # (3*H, H)
    wb: np.ndarray  # (3*H,)
    rb: np.ndarray  # (3*H,)
    h0: np.ndarray | None


@dataclass
class _Affine:
    """An element-wise ``scale * v + shift`` (scalars or one value a feature) not yet folded."""

    node: str
    scale: np.ndarray
    shift: np.ndarray


class _Fix(Exception):
    """A dynamic axis of the data input turned out to have one size: walk again with it."""

    def __init__(self, position: int, size: int) -> None:
        super().__init__(position, size)
        self.position, self.size = position, size


def load_onnx(path: str | PathLike[str]) -> Model:
    """Reads an ONNX file.

    Parameters
    ----------
    path : path of a binary ONNX file, opset 7 or later
        A chain of layers with one data input and one data output; states may be further inputs
        and outputs. Weights kept in a file of their own are looked for next to it.

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
    onnx = _import_onnx()
    try:
        data = path.read_bytes()
    except OSError as e:
        raise StillnetError(
            f"file '{path}' cannot be read ({e.strerror or e}): check the path"
        ) from None
    if not data:
        raise StillnetError(f"file '{path}' is empty: export or copy the model again")
    model = _parse(data, f"file '{path}'")
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise StillnetError(
            f"file '{path}' keeps weights in another file that cannot be read "
            f"({_first_line(e)}): put that file next to it, or export in one file"
        ) from None
    return from_onnx(model, path.stem)


def from_onnx(model: onnx.ModelProto | bytes, name: str = "network") -> Model:
    """Converts an ONNX model that is already in memory; see :func:`load_onnx`.

    Parameters
    ----------
    model : onnx.ModelProto, or bytes in the protobuf format
    name : str
        Name of the result.
    """
    onnx = _import_onnx()
    if isinstance(model, bytes):
        model = _parse(model, "the model")
    try:
        return _build(_layers(model, onnx), name)
    except StillnetError as e:
        text = str(e)
        if text.isprintable():
            raise
        clean = "".join(c if c.isprintable() else "?" for c in text)  # names in a damaged file
        raise StillnetError(clean) from None


def _layers(model: onnx.ModelProto, onnx: Any) -> list[_Dense | _Gru]:
    """The chain of layers, walked with two sets of sizes for the dynamic axes."""
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 7:
        raise StillnetError(
            f"the model is of ONNX opset {opset or '(none)'}; convert it to 7 or later with "
            "onnx.version_converter"
        )
    graph = _Graph(model.graph, opset, onnx)
    fixed: dict[int, int] = {}
    first = graph.walk(101, fixed)
    if any(a.dynamic for a in graph.axes):
        second = graph.walk(211, fixed)
        if not _same(first, second):
            raise StillnetError(
                "the network changes with the length of the sequence; export it with the sizes "
                "of its dynamic axes fixed"
            )
    return first


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise StillnetError(
            'reading ONNX files needs the package onnx: pip install "stillnet[onnx]"'
        ) from None
    return onnx


def _parse(data: bytes, what: str) -> onnx.ModelProto:
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
    return model


def _build(layers: Sequence[_Dense | _Gru], name: str) -> Model:
    top = layers[0]
    model = Model((top.weight if isinstance(top, _Dense) else top.w).shape[1], name=name)
    for layer in layers:
        if isinstance(layer, _Dense):
            model.dense(layer.weight, layer.bias, layer.activation, name=layer.name)
        else:
            model.gru(
                layer.w, layer.r, layer.wb, layer.rb, h0=layer.h0, order="urc", name=layer.name
            )
    return model


def _same(a: Sequence[_Dense | _Gru], b: Sequence[_Dense | _Gru]) -> bool:
    def equal(p: Any, q: Any) -> bool:
        if isinstance(p, np.ndarray) and isinstance(q, np.ndarray):
            return np.array_equal(p, q, equal_nan=True)
        return type(p) is type(q) and p == q

    return len(a) == len(b) and all(
        type(p) is type(q) and all(equal(v, vars(q)[k]) for k, v in vars(p).items())
        for p, q in zip(a, b)
    )


def _size(dim: _Dim) -> int:
    return math.prod(a.size for a in dim)


def _label(node: onnx.NodeProto) -> str:
    return node.name or next((o for o in node.output if o), "?")


def _refuse(node: onnx.NodeProto, text: str) -> NoReturn:
    raise StillnetError(f"node '{_label(node)}' ({node.op_type}): {text}")


def _first_line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def _primes(start: int) -> Iterator[int]:
    n = start
    while True:
        if all(n % d for d in range(2, math.isqrt(n) + 1)):
            yield n
        n += 1


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that the nodes of a subgraph read, those of the outer graph among them."""
    yield from (o.name for o in graph.output)
    for node in graph.node:
        yield from _read_names(node)


def _read_names(node: onnx.NodeProto) -> Iterator[str]:
    yield from (i for i in node.input if i)
    for a in node.attribute:
        for g in [a.g, *a.graphs] if a.g.node or a.graphs else []:
            yield from _captured(g)


class _Graph:
    """What does not change between walks: constants, needed nodes, the roles of the inputs."""

    def __init__(self, graph: onnx.GraphProto, opset: int, onnx: Any) -> None:
        self.onnx = onnx
        self.opset = opset
        self.outputs = [o.name for o in graph.output]
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise StillnetError(
                f"initializer '{name}' is sparse, which is not supported: export dense weights"
            )
        self.constants = {t.name: _Const(self.array(t)) for t in graph.initializer}
        self.needed = self._needed_nodes(graph)
        self._producer = {o: n for n in self.needed for o in n.output if o}
        read = {i for n in self.needed for i in _read_names(n)} | set(self.outputs)
        self.inputs = {
            i.name: i for i in graph.input if i.name in read and i.name not in self.constants
        }
        self.states = {
            name
            for node in self.needed
            if node.op_type == "GRU" and len(node.input) > 5
            for name in self._roots(node.input[5])
        }
        self.data = self._data_input()
        self.axes: list[_Axis] = []

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values of an initializer."""
        try:
            value = np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError) as e:
            raise StillnetError(
                f"initializer '{tensor.name}' is damaged ({_first_line(e)}): export the model again"
            ) from None
        return value

    def type_name(self, number: int) -> str:
        """The name of an element type, such as int64."""
        types = self.onnx.TensorProto.DataType.items()
        return next((n.lower() for n, v in types if v == number), f"unknown ({number})")

    @staticmethod
    def _needed_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """The nodes that an output depends on, in the order of the file."""
        wanted = {o.name for o in graph.output}
        needed = []
        for node in reversed(graph.node):
            if any(o in wanted for o in node.output if o):
                needed.append(node)
                wanted.update(_read_names(node))
        return needed[::-1]

    def _roots(self, name: str) -> set[str]:
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
            elif node.op_type in _MOVES:
                todo += node.input if node.op_type == "Concat" else node.input[:1]
        return found

    def _data_input(self) -> str:
        data = [name for name in self.inputs if name not in self.states]
        slots = {"GRU": ("X", "W", "R", "B", "sequence_lens"), "Gemm": ("A", "B", "C")}
        if len(data) > 1:
            for node in self.needed:
                for slot, name in list(zip(slots.get(node.op_type, ()), node.input))[1:]:
                    for root in self._roots(name):
                        _refuse(
                            node,
                            f"its {slot} comes from graph input '{root}'; only constants are "
                            "supported there, so export it as an initializer",
                        )
                if node.op_type == "MatMul" and all(self._roots(i) for i in node.input):
                    _refuse(
                        node,
                        f"it multiplies two graph inputs, '{node.input[0]}' and "
                        f"'{node.input[1]}'; export the weights as initializers",
                    )
            raise StillnetError(
                f"the graph has {len(data)} data inputs ("
                + ", ".join(f"'{d}'" for d in data)
                + "); stillnet takes one: export the part that one input feeds"
            )
        if not data:
            raise StillnetError(
                f"no data input reaches the graph's output '{self.outputs[0]}': export a graph "
                "that computes its output from one input"
            )
        return data[0]

    def walk(self, probe: int, fixed: dict[int, int]) -> list[_Dense | _Gru]:
        """The layers, with dynamic axes of prime sizes from ``probe`` on."""
        while True:
            try:
                return self._walk_once(probe, fixed)
            except _Fix as fix:
                fixed[fix.position] = fix.size

    def _walk_once(self, probe: int, fixed: dict[int, int]) -> list[_Dense | _Gru]:
        primes = _primes(probe)
        named: dict[str, int] = {}

        def dims(name: str) -> list[tuple[int, str | None]]:
            """Sizes of a graph input; dynamic ones with the name to call them by."""
            tensor = self.inputs[name].type.tensor_type
            if tensor.elem_type not in _FLOATS:
                kind = self.type_name(tensor.elem_type)
                raise StillnetError(
                    f"graph input '{name}' holds {kind} elements; stillnet takes float vectors "
                    "(fold an embedding into the layer after it)"
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
                    size = named.setdefault(d.dim_param or f"{name}.{i}", next(primes))
                    out.append((size, d.dim_param or "?"))
            return out

        self.axes = []
        layout: list[_Dim] = []
        for i, (size, param) in enumerate(dims(self.data)):
            text = f"axis {i} of '{self.data}'" + (f" ('{param}')" if param else f" ({size})")
            axis = _Axis(text, size, param is not None, i)
            layout.append(() if size == 1 else (axis,))
            self.axes.append(axis)
        walk = _Walk(self, _Flow(0, tuple(layout)))
        for name in self.inputs:
            if name != self.data:
                shape = tuple(size for size, _ in dims(name))
                if math.prod(shape) > _LARGEST:
                    raise StillnetError(
                        f"state input '{name}' has the shape {shape}, which is too large: export "
                        "the model again"
                    )
                walk.env[name] = _Const(np.zeros(shape, np.float32), state=name)
        for node in self.needed:
            walk.visit(node)
        walk.finish()
        return walk.layers


@dataclass
class _Walk:
    """One pass over the nodes: the tensors so far, and the head of the chain."""

    graph: _Graph
    start: _Flow
    env: dict[str, _Value] = field(default_factory=dict)
    layers: list[_Dense | _Gru] = field(default_factory=list)
    version: int = 0
    changed_by: str = ""
    feature: _Dim | None = None
    time: _Dim | None = None
    roles: dict[_Axis, str] = field(default_factory=dict)
    open: _Dense | None = None  # a dense layer that an activation or affine may still join
    pending: _Affine | None = None
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        self.env = {**self.graph.constants, self.graph.data: self.start}

    # -- nodes ------------------------------------------------------------------------------------

    def visit(self, node: onnx.NodeProto) -> None:
        """Runs one node."""
        try:
            self._visit(node)
        except (StillnetError, _Fix):
            raise
        except Exception as e:  # attributes of the wrong kind, indices out of range, ...
            raise StillnetError(
                f"node '{_label(node)}' ({node.op_type}): it cannot be read "
                f"({type(e).__name__}: {_first_line(e)}); the file is damaged, export it again"
            ) from e

    def _visit(self, node: onnx.NodeProto) -> None:
        values: list[_Value | None] = []
        for name in node.input:
            if name and name not in self.env:
                _refuse(
                    node,
                    f"it reads tensor '{name}', which nothing before it writes: the file is "
                    "damaged, export it again",
                )
            values.append(self.env[name] if name else None)
        if node.domain not in ("", "ai.onnx"):
            _refuse(
                node,
                f"operators of the domain '{node.domain}' are not supported; export with standard "
                "ONNX operators",
            )
        if node.op_type == "If":
            self._if(node, values)
            return
        if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
            _refuse(node, "random values are not supported; export the model for inference")
        if any(a.g.node or a.graphs for a in node.attribute):
            _refuse(node, _HINTS.get(node.op_type, "subgraphs are not supported; remove it"))
        if all(v is None or isinstance(v, _Const) for v in values):
            self._constant(node, values)
        elif any(isinstance(v, _States) for v in values):
            if node.op_type not in _MOVES:
                _refuse(node, "it computes with final states; only a graph output may take them")
            self._write(node, self._take_state(node, values))
        else:
            handler = _HANDLERS.get(node.op_type)
            if handler is None:
                _refuse(
                    node,
                    _HINTS.get(
                        node.op_type,
                        f"operator {node.op_type} is not supported; stillnet takes GRU, Gemm, "
                        "MatMul, Add, Relu, Sigmoid and Tanh, so export the part of the model "
                        "without this node",
                    ),
                )
            handler(self, node, values)

    def _take_state(self, node: onnx.NodeProto, values: list[_Value | None]) -> _Value:
        """One state out of those that were joined, or a move of all of them."""
        states = values[0]
        if isinstance(states, _States) and states.parts:
            count = len(states.parts)
            if node.op_type == "Gather" and isinstance(values[1], _Const):
                index, axis = values[1].value, self._attributes(node).get("axis", 0)
                if index.ndim == 0 and axis == states.axis and -count <= index < count:
                    part = states.parts[int(index)]
                    return replace(part, dims=part.dims[:axis] + part.dims[axis + 1 :])
            if node.op_type == "Slice":
                starts = self._parameter(node, values, 1, "starts") or []
                ends = self._parameter(node, values, 2, "ends") or []
                axes = self._parameter(node, values, 3, "axes") or list(range(len(starts)))
                steps = self._parameter(node, values, 4, "steps") or [1] * len(starts)
                if axes == [states.axis]:
                    picked = range(count)[starts[0] : ends[0] : steps[0]]
                    if len(picked) == 1:
                        return states.parts[picked[0]]
        return _States()

    def _write(self, node: onnx.NodeProto, *values: _Value) -> None:
        for name, value in zip(node.output, values):
            if name:
                self.env[name] = value

    def _constant(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        """A node without data: computed now."""
        consts = [v for v in values if isinstance(v, _Const)]
        state = None
        if node.op_type == "GRU" and values and isinstance(values[0], _Const):
            _refuse(node, "its X is a constant; export a graph whose input feeds the GRU")
        if any(c.state for c in consts) and node.op_type not in ("Shape", "Size"):
            data = consts if node.op_type == "Concat" else consts[:1]
            state = next(c.state for c in consts if c.state)
            if node.op_type not in _MOVES or any(not c.state for c in data):
                _refuse(
                    node,
                    f"it computes with the state input '{state}'; the engine carries states "
                    "itself, so feed that input to the initial_h of the GRU only",
                )
        if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
            wanted = consts[0 if node.op_type == "ConstantOfShape" else 1].value.astype(float)
            if np.prod(np.maximum(wanted, 1)) > _LARGEST:
                _refuse(node, f"its result of {_list(wanted)} elements is too large; shrink it")
        feeds = {n: v.value for n, v in zip(node.input, values) if isinstance(v, _Const)}
        onnx = self.graph.onnx
        helper = onnx.helper
        inner = helper.make_graph(
            [node],
            "constant",
            [helper.make_value_info(name, onnx.TypeProto()) for name in feeds],
            [helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name],
        )
        model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", self.graph.opset)])
        from onnx.reference import ReferenceEvaluator

        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(model).run(None, feeds)
            arrays = [np.asarray(r) for r in results]  # type: ignore[union-attr]
        except Exception as e:  # the evaluator raises anything
            _refuse(
                node,
                f"its constant result cannot be computed ({_first_line(e)}); fold constants at "
                "export",
            )
        for name, array in zip((o for o in node.output if o), arrays):
            self.env[name] = _Const(array, state)

    def _if(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        """A branch whose condition is known is taken; torch writes them for ``squeeze``."""
        condition = values[0]
        if not isinstance(condition, _Const) or condition.state:
            _refuse(node, "its condition depends on the data; export a graph without it")
        wanted = "then_branch" if bool(np.all(condition.value)) else "else_branch"
        body = next(a.g for a in node.attribute if a.name == wanted)
        for tensor in body.initializer:
            self.env[tensor.name] = _Const(self.graph.array(tensor))
        for inner in body.node:
            self.visit(inner)
        self._write(node, *(self.env[o.name] for o in body.output))

    # -- reading and changing the head ------------------------------------------------------------

    def _flow(self, node: onnx.NodeProto, values: Sequence[_Value | None]) -> _Flow:
        """The only flow among the inputs of a node."""
        flows = [v for v in values if isinstance(v, _Flow)]
        if len(flows) > 1:
            _refuse(
                node,
                "it joins two computed tensors (a branch, a skip connection, or weights that are "
                "not constant); only a chain of layers with constant weights is supported",
            )
        return flows[0]

    def _newest(self, node: onnx.NodeProto, flow: _Flow) -> None:
        if flow.version != self.version:
            name = next(n for n in node.input if isinstance(self.env.get(n), _Flow))
            _refuse(
                node,
                f"it reads tensor '{name}', which feeds node '{self.changed_by}' or one before it "
                "as well; branches are not supported, so export a single chain of layers",
            )

    def _changed(self, node: onnx.NodeProto, dims: Sequence[_Dim], reduced: bool) -> _Flow:
        self.version += 1
        self.changed_by = _label(node)
        return _Flow(self.version, tuple(dims), reduced)

    def _const(self, node: onnx.NodeProto, value: _Value | None, slot: str) -> np.ndarray:
        """A weight as float64."""
        if isinstance(value, _Const) and value.state:
            _refuse(
                node,
                f"its {slot} is the state input '{value.state}'; feed that input to the initial_h "
                "of a GRU only",
            )
        if not isinstance(value, _Const):
            _refuse(
                node,
                f"its {slot} is not constant; only constant weights are supported, so export it "
                "as an initializer",
            )
        if value.value.dtype.kind in "OSUcb" or value.value.size == 0:
            _refuse(
                node,
                f"its {slot} has type {value.value.dtype} and shape {value.value.shape}; numbers "
                "are needed, export the model again",
            )
        return value.value.astype(np.float64)

    def _contract(self, node: onnx.NodeProto, dim: _Dim, size: int) -> None:
        """Checks that ``dim`` is the feature axis, of the size that the weights have."""
        if self.feature is None:
            if len(dim) > 1:
                _refuse(
                    node,
                    "it multiplies several axes of the input at once ("
                    + ", ".join(a.name for a in dim)
                    + "); feed it one vector a step",
                )
            if dim and dim[0].dynamic and dim[0].position is not None and size != dim[0].size:
                raise _Fix(dim[0].position, size)
            self.feature = dim
        if dim != self.feature:
            names = ", ".join(a.name for a in dim) or "an axis of size 1"
            _refuse(
                node,
                f"it multiplies along {names}, not along the features of the layer before; feed "
                "it one vector a step",
            )
        if _size(dim) != size:
            _refuse(
                node,
                f"its weights take {size} inputs, but the layer before gives {_size(dim)}; export "
                "the model again",
            )

    def _take_pending(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Folds a scale and shift of the inputs: (units, inputs) to the same, and a bias."""
        if self.pending is None:
            return weight, np.zeros(len(weight))
        scale, shift = self.pending.scale, self.pending.shift
        self.pending = None
        with np.errstate(all="ignore"):
            return weight * scale, weight @ np.broadcast_to(shift, weight.shape[1:])

    def _name(self, node: onnx.NodeProto) -> str:
        name, used = _label(node), {layer.name for layer in self.layers}
        return next(
            n for i in range(len(used) + 1) if (n := f"{name}_{i}" if i else name) not in used
        )

    # -- layers -----------------------------------------------------------------------------------

    def _dense(self, node: onnx.NodeProto, flow: _Flow, at: int, weight: np.ndarray) -> _Flow:
        """Multiplies dimension ``at`` by a matrix of shape (units, inputs)."""
        self._newest(node, flow)
        self._contract(node, flow.dims[at], weight.shape[1])
        weight, bias = self._take_pending(weight)
        name = self._name(node)
        self.open = _Dense(name, weight, bias)
        self.layers.append(self.open)
        self.low, self.high = -math.inf, math.inf
        units = len(weight)
        self.feature = () if units == 1 else (_Axis(f"the outputs of '{name}'", units),)
        dims = list(flow.dims)
        dims[at] = self.feature
        return self._changed(node, dims, flow.reduced)

    def matmul(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        left = values[0] is flow
        weight = self._const(node, values[1 if left else 0], "weights")
        if weight.ndim == 0 or any(n != 1 for n in weight.shape[:-2]):
            _refuse(node, f"its weights have shape {weight.shape}; a matrix is needed")
        rank = len(flow.dims)
        if rank == 0:
            _refuse(node, "it multiplies a scalar; feed it one vector a step")
        if weight.ndim == 1:
            matrix = weight[None]
        else:
            matrix = weight.reshape(weight.shape[-2:])
            matrix = matrix.T if left else matrix
        at = rank - 1 if left or rank == 1 else rank - 2
        out = self._dense(node, flow, at, matrix)
        dims = list(out.dims)
        if weight.ndim == 1:
            del dims[at]
        dims = [()] * (weight.ndim - max(rank, 2)) + dims
        self._write(node, replace(out, dims=tuple(dims)))

    def gemm(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        attrs = self._attributes(node)
        if len(flow.dims) != 2:
            _refuse(node, f"its input has {len(flow.dims)} axes, a Gemm takes 2; export it again")
        alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
        left = values[0] is flow
        if not left and values[1] is not flow:
            _refuse(
                node,
                "its C is computed from the data; only constant weights are supported, so split "
                "the sum off and export a single chain of layers",
            )
        weight = alpha * self._const(node, values[1 if left else 0], "B" if left else "A")
        if weight.ndim != 2:
            _refuse(node, f"its weights have shape {weight.shape}; a matrix is needed")
        weight = weight.T if attrs.get("transB" if left else "transA", 0) else weight
        if attrs.get("transA" if left else "transB", 0):
            flow = replace(flow, dims=flow.dims[::-1])
        out = self._dense(node, flow, 1 if left else 0, weight.T if left else weight)
        if len(values) > 2 and values[2] is not None:
            bias = beta * self._const(node, values[2], "C")
            vector, dims = self._per_feature(node, out, bias, "C")
            if len(dims) != 2:
                _refuse(node, f"its C has shape {bias.shape}; at most 2 axes are allowed")
            self._affine(node, np.ones(()), vector)
        self._write(node, out)

    def gru(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        attrs = self._attributes(node)
        direction = attrs.get("direction", b"forward").decode()
        if direction != "forward":
            _refuse(
                node,
                f"direction is '{direction}'; a stream has no end to start from, so use a forward "
                "GRU",
            )
        if not attrs.get("linear_before_reset", 0):
            _refuse(
                node,
                "linear_before_reset is 0; GRUs that reset before the product are not supported "
                "yet, so train and export with linear_before_reset=1 (PyTorch always, Keras with "
                "reset_after=True)",
            )
        if "clip" in attrs:
            _refuse(
                node,
                f"clip is {attrs['clip']:g}; clipping inside a GRU is not supported, export "
                "without clip",
            )
        functions = [f.decode() for f in attrs.get("activations", [b"Sigmoid", b"Tanh"])]
        if [f.lower() for f in functions] != ["sigmoid", "tanh"]:
            _refuse(
                node,
                f"activations are {', '.join(functions)}; only Sigmoid, Tanh are supported",
            )
        for key in ("activation_alpha", "activation_beta"):
            if len(attrs.get(key, ())):
                _refuse(node, f"{key} is given; only plain Sigmoid, Tanh are supported, remove it")
        values = values + [None] * (6 - len(values))
        x, lengths, initial = values[0], values[4], values[5]
        w, r = self._const(node, values[1], "W"), self._const(node, values[2], "R")
        units = r.shape[-1] if r.ndim else 0
        if (
            r.shape != (1, 3 * units, units)
            or w.ndim != 3
            or w.shape[:2] != (1, 3 * units)
            or attrs.get("hidden_size", units) != units
        ):
            _refuse(
                node,
                f"W has shape {w.shape} and R {r.shape} at hidden_size "
                f"{attrs.get('hidden_size', units)}; (1, 3*H, I) and (1, 3*H, H) are needed, so "
                "export the model again",
            )
        b = np.zeros((1, 6 * units)) if values[3] is None else self._const(node, values[3], "B")
        if b.shape != (1, 6 * units):
            _refuse(
                node,
                f"B has shape {b.shape}, expected {(1, 6 * units)}; export the model again",
            )
        if not isinstance(x, _Flow):
            _refuse(node, "its X is not computed from the data input; export a chain of layers")
        if isinstance(initial, _Flow | _States) or isinstance(lengths, _Flow | _States):
            _refuse(
                node,
                "its initial_h or sequence_lens is computed from the data; make it a constant or "
                "a graph input",
            )
        self._newest(node, x)
        if len(x.dims) != 3:
            _refuse(node, f"X has {len(x.dims)} axes, a GRU takes 3; export the model again")
        batch_first = bool(attrs.get("layout", 0))
        time, batch = x.dims[:2][::-1] if batch_first else x.dims[:2]
        self._roles(node, x, time, batch)
        if lengths is not None and np.any(lengths.value != _size(time)):
            _refuse(
                node,
                f"sequence_lens {_list(lengths.value)} are not the full length "
                f"{'of the input' if any(a.dynamic for a in time) else _size(time)}; remove "
                "sequence_lens",
            )
        self._contract(node, x.dims[2], w.shape[2])
        h0 = self._initial(node, initial, units, batch_first)
        w2, shift = self._take_pending(w[0])
        wb, rb = b[0, : 3 * units] + shift, b[0, 3 * units :]
        name = self._name(node)
        self.layers.append(_Gru(name, w2, r[0], wb, rb, h0))
        self.open = None
        self.low, self.high = -math.inf, math.inf  # a state from outside need not be within 1
        self.feature = () if units == 1 else (_Axis(f"the outputs of '{name}'", units),)
        y: tuple[_Dim, ...] = (time, (), batch, self.feature)
        y_h: tuple[_Dim, ...] = ((), batch, self.feature)
        if batch_first:
            y, y_h = (batch, time, (), self.feature), (batch, (), self.feature)
        flow = self._changed(node, y, x.reduced)
        last = _Flow(flow.version, y_h, x.reduced or bool(time), final=True)
        self._write(node, flow, last)

    def _roles(self, node: onnx.NodeProto, x: _Flow, time: _Dim, batch: _Dim) -> None:
        """Checks which axes of the input are steps and which the batch."""
        if x.reduced:
            _refuse(
                node,
                "it reads only the last step of the GRU before it; feed it the whole sequence Y",
            )
        static = math.prod(a.size for a in batch if not a.dynamic)
        if static != 1:
            _refuse(
                node,
                f"batch size is {static}; the engine runs one sequence, so export with batch "
                "size 1 (X is (steps, 1, inputs))",
            )
        for axes, role in ((time, "steps"), (batch, "batch")):
            for a in axes:
                if self.roles.setdefault(a, role) != role:
                    _refuse(
                        node,
                        f"it takes {a.name} as {role}, a GRU before it as {self.roles[a]}; only "
                        "GRUs along one axis are supported",
                    )
        if self.time is not None and time != self.time:
            _refuse(
                node,
                "its sequence axis is not that of the GRU before it; only GRUs along one axis are "
                "supported",
            )
        self.time = time

    def _initial(
        self, node: onnx.NodeProto, value: _Const | None, units: int, batch_first: bool
    ) -> np.ndarray | None:
        """The initial state as a vector; None where it is zero or carried by the engine."""
        if value is None or value.state:
            return None
        h0 = self._const(node, value, "initial_h")
        if h0.ndim != 3 or h0.shape[2] != units or h0.shape[1 if batch_first else 0] != 1:
            _refuse(
                node,
                f"initial_h has shape {h0.shape}, expected {(1, 1, units)}; export the model again",
            )
        rows = h0.reshape(-1, units)
        if not np.array_equal(rows, np.broadcast_to(rows[0], rows.shape), equal_nan=True):
            _refuse(node, "initial_h differs within the batch; export with batch size 1")
        return rows[0] if np.any(rows[0] != 0) else None

    def activation(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        self._newest(node, flow)
        kind = node.op_type.lower()
        if kind == "relu" and self.low >= 0:
            self._write(node, flow)
            return
        self._write(node, self._activate(node, flow, kind))

    def _activate(self, node: onnx.NodeProto, flow: _Flow, kind: str) -> _Flow:
        if self.open is None:
            _refuse(
                node,
                f"{kind} does not follow a dense layer; activations are part of dense layers, so "
                "put a Gemm or MatMul before it or compute it on the host",
            )
        self.open.activation = kind
        self.open = None
        ranges = {"relu": (0.0, math.inf), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
        self.low, self.high = ranges[kind]
        return self._changed(node, flow.dims, flow.reduced)

    def clip(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        """A clip that cannot clip is dropped; one at 0 alone is a ReLU."""
        flow = self._flow(node, values)
        self._newest(node, flow)
        if values[0] is not flow:
            _refuse(node, "its limits are computed from the data; make them constants")
        attrs = self._attributes(node)
        low, high = float(attrs.get("min", -math.inf)), float(attrs.get("max", math.inf))
        limits = [low, high]
        for i, v in enumerate(values[1:3]):
            if v is not None:
                limits[i] = float(self._const(node, v, ("min", "max")[i]).reshape(()))
        low, high = limits
        biggest = float(np.finfo(np.float32).max)  # written for "no limit"
        low = -math.inf if low <= -biggest else low
        high = math.inf if high >= biggest else high
        if low <= self.low and high >= self.high:
            self._write(node, flow)
        elif low == 0 and high >= self.high and self.open is not None:
            self._write(node, self._activate(node, flow, "relu"))
        else:
            _refuse(
                node,
                f"clipping to {low:g} .. {high:g} is not supported, only a clip that never acts "
                "or one at 0 after a dense layer (ReLU); leave this node out and clip on the host",
            )

    # -- scale and shift --------------------------------------------------------------------------

    def arithmetic(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        """Add, Sub, Mul, Div by constants."""
        flow = self._flow(node, values)
        self._newest(node, flow)
        first = values[0] is flow
        op = node.op_type
        if op == "Div" and not first:
            _refuse(node, "it divides by the data, which is not supported; remove it")
        constant = self._const(node, values[1 if first else 0], "constant")
        vector, dims = self._per_feature(node, flow, constant, "constant")
        one, zero = np.ones(()), np.zeros(())
        with np.errstate(all="ignore"):
            if op == "Add":
                scale, shift = one, vector
            elif op == "Sub":
                scale, shift = (one, -vector) if first else (-one, vector)
            elif op == "Mul":
                scale, shift = vector, zero
            else:
                scale, shift = one / vector, zero
        if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
            _refuse(node, "its constant gives NaN or infinity; export the model again")
        self._affine(node, scale, shift)
        self._write(node, self._changed(node, dims, flow.reduced))

    def _affine(self, node: onnx.NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
        if self.open is not None:
            with np.errstate(all="ignore"):
                self.open.weight = self.open.weight * np.atleast_1d(scale)[:, None]
                self.open.bias = self.open.bias * scale + shift
            return
        self.low, self.high = -math.inf, math.inf
        old = self.pending or _Affine("", np.ones(()), np.zeros(()))
        self.pending = _Affine(_label(node), old.scale * scale, old.shift * scale + shift)

    def _per_feature(
        self, node: onnx.NodeProto, flow: _Flow, constant: np.ndarray, what: str
    ) -> tuple[np.ndarray, tuple[_Dim, ...]]:
        """A broadcast constant as a scalar or one value a feature; and the result's dimensions."""
        rank = max(len(flow.dims), constant.ndim)
        dims = ((),) * (rank - len(flow.dims)) + flow.dims
        sizes = (1,) * (rank - constant.ndim) + constant.shape
        varying = [i for i, n in enumerate(sizes) if n != 1]
        if not varying:
            return constant.reshape(()), dims
        dim = dims[varying[0]]
        if len(varying) > 1 or len(dim) != 1 or self.feature not in (None, dim):
            _refuse(
                node,
                f"its {what} of shape {constant.shape} does not hold one value a feature (tensor "
                f"of shape {_shape(flow)}); only constants that are the same at every step are "
                "supported",
            )
        size = sizes[varying[0]]
        if dim[0].size != size:
            if dim[0].dynamic and dim[0].position is not None:
                raise _Fix(dim[0].position, size)
            _refuse(
                node,
                f"its {what} of shape {constant.shape} does not fit a tensor of shape "
                f"{_shape(flow)}; export the model again",
            )
        self.feature = dim
        return constant.reshape(size), dims

    # -- moves ------------------------------------------------------------------------------------

    def _moved(self, node: onnx.NodeProto, flow: _Flow, dims: Sequence[_Dim]) -> None:
        self._write(node, replace(flow, dims=tuple(dims)))

    def _only_data(self, node: onnx.NodeProto, values: list[_Value | None]) -> _Flow:
        """The flow, which must be the first input."""
        flow = self._flow(node, values)
        if values[0] is not flow:
            _refuse(
                node,
                "its parameters are computed from the data, which is not supported; export a "
                "graph with constant shapes and indices",
            )
        return flow

    def _parameter(
        self, node: onnx.NodeProto, values: list[_Value | None], index: int, attribute: str
    ) -> list[int] | None:
        """Integers given as an input or, in older opsets, as an attribute."""
        value = values[index] if index < len(values) else None
        if isinstance(value, _Const):
            return [int(n) for n in value.value.reshape(-1)]
        found = self._attributes(node).get(attribute)
        return None if found is None else [int(n) for n in found]

    def identity(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        self._write(node, self._only_data(node, values))

    def dropout(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        training = values[2] if len(values) > 2 else None
        if isinstance(training, _Const) and np.any(training.value):
            _refuse(node, "training_mode is set; export the model for inference")
        self._write(node, flow)

    def cast(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        to = self._attributes(node).get("to")
        if to not in _FLOATS:
            kind = self.graph.type_name(to or 0)
            _refuse(node, f"it rounds the data to {kind}, which is not supported; remove it")
        self._write(node, flow)

    def cast_like(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        like = values[1]
        if not isinstance(like, _Const) or like.value.dtype.kind in "biu":
            _refuse(node, "it rounds the data, which is not supported; remove it")
        self._write(node, flow)

    def shape(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        attrs = self._attributes(node)
        sizes = flow.shape[attrs.get("start", 0) : attrs.get("end", len(flow.dims))]
        self._write(node, _Const(np.array(sizes, np.int64)))

    def size(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        self._write(node, _Const(np.array(math.prod(flow.shape), np.int64)))

    def transpose(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        rank = len(flow.dims)
        order = [int(i) for i in self._attributes(node).get("perm", range(rank)[::-1])]
        if sorted(order) != list(range(rank)):
            _refuse(node, f"perm {order} does not fit {rank} axes; export the model again")
        self._moved(node, flow, [flow.dims[i] for i in order])

    def reshape(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        target = self._parameter(node, values, 1, "shape") or []
        sizes = list(target)
        if not self._attributes(node).get("allowzero", 0):
            sizes = [
                flow.shape[i] if n == 0 and i < len(flow.dims) else n for i, n in enumerate(sizes)
            ]
        total, known = math.prod(flow.shape), math.prod(n for n in sizes if n != -1)
        if sizes.count(-1) == 1 and known > 0 and total % known == 0:
            sizes[sizes.index(-1)] = total // known
        self._regroup(node, flow, sizes)

    def flatten(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        axis = int(self._attributes(node).get("axis", 1))
        axis += len(flow.dims) if axis < 0 else 0
        sizes = [math.prod(flow.shape[:axis]), math.prod(flow.shape[axis:])]
        self._regroup(node, flow, sizes)

    def _regroup(self, node: onnx.NodeProto, flow: _Flow, sizes: Sequence[int]) -> None:
        """Divides the axes, in their order, among dimensions of the sizes wanted."""
        axes = [a for d in flow.dims for a in d]
        dims: list[_Dim] = []
        for n in sizes:
            dim: list[_Axis] = []
            while axes and math.prod(a.size for a in dim) < n:
                dim.append(axes.pop(0))
            dims.append(tuple(dim))
        if axes or [_size(d) for d in dims] != list(sizes):
            _refuse(
                node,
                f"it reshapes {_shape(flow)} to {self._shown(sizes)}, which splits an axis; only "
                "axes of size 1, steps and batch may be moved",
            )
        self._moved(node, flow, dims)

    def _shown(self, sizes: Sequence[int]) -> str:
        probes = {a.size: "?" for a in self.graph.axes if a.dynamic}
        return "(" + ", ".join(str(probes.get(n, n)) for n in sizes) + ")"

    def squeeze(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        rank = len(flow.dims)
        axes = self._parameter(node, values, 1, "axes")
        if axes is None:
            if sum(any(a.dynamic for a in d) for d in flow.dims) > 1:
                _refuse(
                    node,
                    "it drops every axis of size 1, which depends on the dynamic sizes; give its "
                    "axes, or export with batch size 1",
                )
            axes = [i for i, d in enumerate(flow.dims) if not d]
        axes = self._axes(node, axes, rank)
        for i in axes:
            dim = flow.dims[i]
            if len(dim) == 1 and dim[0].dynamic and dim[0].position is not None:
                raise _Fix(dim[0].position, 1)  # the file itself says that its size is 1
            if dim:
                _refuse(node, f"axis {i} has size {_size(dim)}, not 1; export the model again")
        self._moved(node, flow, [d for i, d in enumerate(flow.dims) if i not in axes])

    def unsqueeze(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        axes = self._parameter(node, values, 1, "axes") or []
        rank = len(flow.dims) + len(axes)
        at = self._axes(node, axes, rank)
        rest = iter(flow.dims)
        self._moved(node, flow, [() if i in at else next(rest) for i in range(rank)])

    def expand(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        sizes = self._parameter(node, values, 1, "shape") or []
        rank = max(len(sizes), len(flow.dims))
        dims = ((),) * (rank - len(flow.dims)) + flow.dims
        sizes = [1] * (rank - len(sizes)) + sizes
        if any(n not in (1, _size(d)) for n, d in zip(sizes, dims)):
            _refuse(node, f"it repeats the data to {self._shown(sizes)}; remove it")
        self._moved(node, flow, dims)

    def concat(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        if len(values) == 1:
            self.identity(node, values)
            return
        parts = tuple(v for v in values if isinstance(v, _Flow) and v.final)
        if len(parts) == len(values):
            axis = self._axes(node, [self._attributes(node).get("axis", 0)], len(parts[0].dims))[0]
            alone = all(len(p.dims) > axis and not p.dims[axis] for p in parts)
            self._write(node, _States(parts if alone else (), axis))
        else:
            _refuse(
                node,
                "it joins computed tensors, which is a branch; only a chain of layers is "
                "supported, so export it without the branch",
            )

    def gather(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._flow(node, values)
        if values[0] is not flow:
            _refuse(
                node,
                "it looks up rows by the data (an embedding), which is not supported here; fold "
                "the table into the matrix of the layer after it",
            )
        axis = self._axes(node, [int(self._attributes(node).get("axis", 0))], len(flow.dims))[0]
        index = values[1].value if isinstance(values[1], _Const) else np.zeros((0, 0))
        kept: tuple[_Dim, ...] = ((),) if index.ndim == 1 else ()
        picked = [int(i) for i in index.reshape(-1)]
        flow = self._pick(node, flow, axis, picked if index.ndim < 2 else [])
        self._moved(node, flow, flow.dims[:axis] + kept + flow.dims[axis + 1 :])

    def slice_(self, node: onnx.NodeProto, values: list[_Value | None]) -> None:
        flow = self._only_data(node, values)
        starts = self._parameter(node, values, 1, "starts") or []
        ends = self._parameter(node, values, 2, "ends") or []
        axes = self._parameter(node, values, 3, "axes")
        steps = self._parameter(node, values, 4, "steps") or [1] * len(starts)
        axes = self._axes(node, list(range(len(starts))) if axes is None else axes, len(flow.dims))
        dims = list(flow.dims)
        for start, end, axis, step in zip(starts, ends, axes, steps):
            size = _size(dims[axis])
            picked = range(*slice(start, end, step or 1).indices(size))
            if picked == range(size):
                continue
            flow = self._pick(node, flow, axis, list(picked[:2]))
            dims[axis] = ()
        self._moved(node, flow, dims)

    def _pick(self, node: onnx.NodeProto, flow: _Flow, axis: int, picked: list[int]) -> _Flow:
        """Allows to take the only element of an axis, or the last step of a GRU's output."""
        dim = flow.dims[axis]
        size = _size(dim)
        if len(picked) == 1 and -size <= picked[0] < size:
            index = picked[0] % size
            if not dim or all(self.roles.get(a) == "batch" for a in dim) and index == 0:
                return flow
            if dim == self.time and index == size - 1:
                return replace(flow, reduced=True)
        _refuse(
            node,
            f"it takes some elements of axis {axis} of a tensor of shape {_shape(flow)}; only "
            "the last step after a GRU may be taken, so remove it from the model (or export with "
            "batch size 1)",
        )

    def _axes(self, node: onnx.NodeProto, axes: Sequence[int], rank: int) -> list[int]:
        """Axis numbers counted from 0."""
        if any(not -rank <= a < rank for a in axes):
            _refuse(node, f"axes {list(axes)} do not fit {rank} axes; export the model again")
        return [a % rank for a in axes]

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        get = self.graph.onnx.helper.get_attribute_value
        return {a.name: get(a) for a in node.attribute}

    # -- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Finds the data output among the graph's outputs and checks that the chain ends there."""
        data: list[str] = []
        last: list[str] = []
        for name in self.graph.outputs:
            value = self.env.get(name)
            if value is None:
                raise StillnetError(
                    f"graph output '{name}' is written by no node: the file is damaged, export it "
                    "again"
                )
            if isinstance(value, _Const):
                raise StillnetError(
                    f"graph output '{name}' does not depend on the data input "
                    f"'{self.graph.data}': remove it from the graph's outputs"
                )
            if isinstance(value, _Flow) and not value.final:
                data.append(name)
            elif isinstance(value, _Flow) and value.version == self.version:
                last.append(name)
        data = data or last
        if len(data) > 1:
            raise StillnetError(
                f"the graph has {len(data)} data outputs ("
                + ", ".join(f"'{d}'" for d in data)
                + "); stillnet gives one: export the part that computes one of them"
            )
        value = self.env[data[0]] if data else None
        if not isinstance(value, _Flow) or value.version != self.version:
            raise StillnetError(
                f"graph output '{data[0] if data else self.graph.outputs[0]}' is not the result "
                "of the last layer: export one output, that of the last layer"
            )
        if self.pending is not None:
            raise StillnetError(
                f"node '{self.pending.node}': it scales or shifts the network's output, which no "
                "dense layer follows; remove it and compute it on the host"
            )
        if not self.layers:
            raise StillnetError(
                f"the graph from '{self.graph.data}' to '{data[0]}' holds no layer: export a "
                "graph with a GRU, Gemm or MatMul"
            )


def _shape(flow: _Flow) -> str:
    """A shape for people: ? where a size is dynamic."""
    sizes = ["?" if any(a.dynamic for a in d) else str(_size(d)) for d in flow.dims]
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"


def _list(values: np.ndarray) -> str:
    flat = [f"{float(v):g}" for v in np.reshape(values, -1)[:4]]
    return "[" + ", ".join(flat) + (", ..." if np.size(values) > 4 else "") + "]"


_HANDLERS: dict[str, Callable[[_Walk, Any, list[_Value | None]], None]] = {
    "Add": _Walk.arithmetic,
    "Cast": _Walk.cast,
    "CastLike": _Walk.cast_like,
    "Clip": _Walk.clip,
    "Concat": _Walk.concat,
    "Div": _Walk.arithmetic,
    "Dropout": _Walk.dropout,
    "Expand": _Walk.expand,
    "Flatten": _Walk.flatten,
    "GRU": _Walk.gru,
    "Gather": _Walk.gather,
    "Gemm": _Walk.gemm,
    "Identity": _Walk.identity,
    "MatMul": _Walk.matmul,
    "Mul": _Walk.arithmetic,
    "Relu": _Walk.activation,
    "Reshape": _Walk.reshape,
    "Shape": _Walk.shape,
    "Sigmoid": _Walk.activation,
    "Size": _Walk.size,
    "Slice": _Walk.slice_,
    "Squeeze": _Walk.squeeze,
    "Sub": _Walk.arithmetic,
    "Tanh": _Walk.activation,
    "Transpose": _Walk.transpose,
    "Unsqueeze": _Walk.unsqueeze,
}
