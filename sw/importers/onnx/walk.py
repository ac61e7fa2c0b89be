"""One pass over the nodes of an ONNX graph; the operators are in modules of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.layer_graph import LayerGraph

from .final_states import move_states, moves_states
from .tensors import (
    LARGEST,
    MOVES,
    RECURRENT,
    Axis,
    Const,
    Dim,
    Fix,
    Flow,
    States,
    Value,
    dequantized,
    dim_size,
    first_line,
    label,
    refuse,
)

if TYPE_CHECKING:
    import onnx

    from .graph import Graph

QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
    *("ConvInteger", "QLinearMatMul", "QLinearConv", "QLinearAdd", "QLinearSigmoid", "QGemm"),
    *("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
)
"""Operators on quantized values."""

HINTS = (
    dict.fromkeys(
        ("Loop", "Scan"),
        "loops are not supported; export the layer as one GRU or LSTM node, or, where tf2onnx made "
        "the loop of a Keras layer, give the .keras or .h5 file in place of this one",
    )
    | dict.fromkeys(
        QUANTIZED,
        "it computes with quantized values; give the float model that this one was made from, as "
        "stillnet quantizes from your own recordings",
    )
    | dict.fromkeys(
        ("Softmax", "LogSoftmax", "ArgMax", "Log"),
        "this function is not supported on the chip; end or start the exported graph next to it "
        "and compute it on the host",
    )
)
"""What to do about operators that are refused."""


Handler = Callable[["Walk", Any, list[Value | None]], None]
"""Takes the walk, the node and the values of its inputs; writes its outputs."""

HANDLERS: dict[str, Handler] = {}
"""Operators on data, by name; filled by the modules of operators."""


def handles(*operators: str) -> Callable[[Handler], Handler]:
    """Registers a function for the operators of these names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operators, handler))
        return handler

    return register


def _elements(operator: str, values: Sequence[np.ndarray]) -> float:
    """How many elements a constant result has, for operators that make many of few."""
    if operator == "Range":
        start, limit, step = (float(np.max(v)) for v in values[:3])
        return abs(limit - start) / abs(step) if step else math.inf
    place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Pad": 1}.get(operator)
    if place is None or place >= len(values):
        return 0
    wanted = np.abs(values[place].astype(float))
    size = float(np.prod(np.maximum(wanted, 1)))
    if operator == "Tile":
        return size * values[0].size
    return float(np.prod(np.array(values[0].shape) + wanted.sum())) if operator == "Pad" else size


@dataclass
class Walk:
    """One pass over the nodes: the tensors and layers so far."""

    graph: Graph
    net: LayerGraph
    start: Flow
    env: dict[str, Value] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # of the layers so far
    recurrent: list[str] = field(default_factory=list)  # names of the recurrent layers
    feature: Dim | None = None  # that of the graph's input, once a layer has told
    embedded: bool = False  # the input is tokens that a table is looked up with
    time: Dim | None = None
    roles: dict[Axis, str] = field(default_factory=dict)
    lasts: list[Flow] = field(default_factory=list)  # Y_h of each recurrent layer, as it came
    state_inputs: dict[str, Const] = field(default_factory=dict)
    starts: dict[int, tuple[int, str, int]] = field(default_factory=dict)
    """Tag of an element of a state input to the layer, state and unit that it starts."""
    shared: dict[str, set[str]] = field(default_factory=dict)
    """State inputs that start several states, and what they start."""
    notes: list[str] = field(default_factory=list)
    """What the user should be warned of."""
    low: float = -math.inf
    high: float = math.inf
    stepwise: bool = False  # no axis of a fixed size is time
    sparse_words: int = 0  # that a step reads of layers which are mostly empty
    sparse_places: int = 0  # of the matrices of such layers

    def __post_init__(self) -> None:
        self.env = {**self.graph.constants, self.graph.data: self.start}

    # -- nodes ------------------------------------------------------------------------------------

    def visit(self, node: onnx.NodeProto) -> None:
        """Runs one node."""
        try:
            self._visit(node)
        except (StillnetError, Fix):
            raise
        except Exception as e:  # attributes of the wrong kind, indices out of range, ...
            raise StillnetError(
                f"node '{label(node)}' ({node.op_type}): it cannot be read "
                f"({type(e).__name__}: {first_line(e)}); the file is damaged, export it again"
            ) from e

    def _visit(self, node: onnx.NodeProto) -> None:
        values: list[Value | None] = []
        for name in node.input:
            if name and name not in self.env:
                refuse(
                    node,
                    f"it reads tensor '{name}', which nothing before it writes: the file is "
                    "damaged, export it again",
                )
            values.append(self.env[name] if name else None)
        if node.domain not in ("", "ai.onnx"):
            refuse(
                node,
                HINTS.get(
                    node.op_type,
                    f"operators of the domain '{node.domain}' are not supported; export with "
                    "standard ONNX operators",
                ),
            )
        if node.op_type == "If":
            self._if(node, values)
            return
        if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
            refuse(node, "random values are not supported; export the model for inference")
        if any(a.g.node or a.graphs for a in node.attribute):
            refuse(node, HINTS.get(node.op_type, "subgraphs are not supported; remove it"))
        if all(v is None or isinstance(v, Const) for v in values):
            self._constant(node, values)
        elif node.op_type in MOVES and moves_states(node, values):
            move_states(self, node, values)
        elif any(isinstance(v, States) for v in values) and node.op_type not in RECURRENT:
            refuse(node, "it computes with final states; only a graph output may take them")
        else:
            self.data(node, values)

    def data(self, node: onnx.NodeProto, values: list[Value | None]) -> None:
        """A node that reads vectors of the network."""
        if any(isinstance(v, Flow) and v.tokens for v in values) and node.op_type not in (
            *MOVES,
            "OneHot",
            "Shape",
            "Size",
        ):
            refuse(
                node,
                "it computes with tokens; only an embedding (Gather) or a OneHot may take them",
            )
        for v in values:
            carried = ("Conv", "Identity", "Transpose")
            if isinstance(v, Flow) and v.padded and node.op_type not in carried:
                refuse(node, "it reads a padded sequence; only a causal convolution may take it")
            if isinstance(v, Flow) and v.excess and node.op_type not in ("Slice", "Identity"):
                refuse(
                    node,
                    f"it reads a convolution that looks {v.excess} steps ahead; pad in front "
                    "only, or cut these steps off first",
                )
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            refuse(
                node,
                HINTS.get(
                    node.op_type,
                    f"operator {node.op_type} is not supported; stillnet takes GRU, LSTM, Gemm, "
                    "MatMul, Conv, Add, Relu, Sigmoid and Tanh, so export the part of the model "
                    "without this node",
                ),
            )
        handler(self, node, values)

    def write(self, node: onnx.NodeProto, *values: Value) -> None:
        for name, value in zip(node.output, values):
            if name:
                self.env[name] = value

    def _constant(self, node: onnx.NodeProto, values: list[Value | None]) -> None:
        """A node without data: computed now."""
        consts = [v for v in values if isinstance(v, Const)]
        state = None
        if node.op_type in RECURRENT and values and isinstance(values[0], Const):
            kind = node.op_type
            refuse(node, f"its X is a constant; export a graph whose input feeds the {kind}")
        if any(c.state for c in consts) and node.op_type not in ("Shape", "Size"):
            data = consts if node.op_type == "Concat" else consts[:1]
            state = next(c.state for c in consts if c.state)
            if node.op_type not in MOVES or any(not c.state for c in data):
                refuse(
                    node,
                    f"it computes with the state input '{state}'; the engine carries states "
                    "itself, so feed that input to the initial state of a GRU or LSTM only",
                )
        count = _elements(node.op_type, [c.value for c in consts])
        if not count <= LARGEST:
            refuse(node, f"its result of {count:.3g} elements is too large; shrink it")
        if state and node.op_type in ("Cast", "CastLike", "Dropout"):
            arrays = [consts[0].value]  # numbers that stand for elements are not rounded
        else:
            arrays = self.evaluate(node, [v.value for v in consts])
        for name, array in zip((o for o in node.output if o), arrays):
            self.env[name] = Const(array, state)

    def evaluate(self, node: onnx.NodeProto, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The results of a node on constants, which are the values of its non-empty inputs."""
        if node.op_type == "DequantizeLinear":  # the evaluator knows its newer versions only
            return [dequantized(values, **self.attributes(node))]
        feeds = dict(zip((n for n in node.input if n), values))
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
            return [np.asarray(r) for r in results]  # type: ignore[union-attr]
        except Exception as e:  # the evaluator raises anything
            refuse(
                node,
                f"its constant result cannot be computed ({first_line(e)}); fold constants at "
                "export",
            )

    def _if(self, node: onnx.NodeProto, values: list[Value | None]) -> None:
        """A branch whose condition is known is taken; torch writes them for ``squeeze``."""
        condition = values[0]
        if not isinstance(condition, Const) or condition.state:
            refuse(node, "its condition depends on the data; export a graph without it")
        wanted = "then_branch" if bool(np.all(condition.value)) else "else_branch"
        body = next(a.g for a in node.attribute if a.name == wanted)
        for tensor in body.initializer:
            self.env[tensor.name] = Const(self.graph.array(tensor))
        for inner in body.node:
            self.visit(inner)
        self.write(node, *(self.env[o.name] for o in body.output))

    # -- reading and changing the head ------------------------------------------------------------

    def flow(self, node: onnx.NodeProto, values: Sequence[Value | None]) -> Flow:
        """The only flow among the inputs of a node."""
        flows = [v for v in values if isinstance(v, Flow)]
        if len(flows) > 1:
            refuse(
                node,
                "it combines two computed tensors (or weights that are not constant); only sums "
                "and concatenations of computed tensors are supported",
            )
        return flows[0]

    def feature_of(self, flow: Flow) -> Dim | None:
        """The dimension of the features of a flow, if it is known."""
        return self.feature if flow.feature is None else flow.feature

    def const(self, node: onnx.NodeProto, value: Value | None, slot: str) -> np.ndarray:
        """A weight as float64."""
        if isinstance(value, Const) and value.state:
            refuse(
                node,
                f"its {slot} is the state input '{value.state}'; feed that input to the initial "
                "state of a GRU or LSTM only",
            )
        if not isinstance(value, Const):
            refuse(
                node,
                f"its {slot} is not constant; only constant weights are supported, so export it "
                "as an initializer",
            )
        if value.value.dtype.kind in "OSUcb" or value.value.size == 0:
            refuse(
                node,
                f"its {slot} has type {value.value.dtype} and shape {value.value.shape}; numbers "
                "are needed, export the model again",
            )
        return value.value.astype(np.float64)

    def contract(self, node: onnx.NodeProto, flow: Flow, dim: Dim, size: int) -> None:
        """Checks that ``dim`` is the feature axis, of the size that the weights have."""
        if self.feature_of(flow) is None:
            if len(dim) > 1:
                refuse(
                    node,
                    "it multiplies several axes of the input at once ("
                    + ", ".join(a.name for a in dim)
                    + "); feed it one vector per step",
                )
            if dim and dim[0].dynamic and dim[0].position is not None and size != dim[0].size:
                raise Fix(dim[0].position, size)
            self.feature = dim
            self.net.input(dim_size(dim))
        if dim != self.feature_of(flow):
            names = ", ".join(a.name for a in dim) or "an axis of size 1"
            refuse(
                node,
                f"it multiplies along {names}, not along the features of the layer before; feed "
                "it one vector per step",
            )
        if dim_size(dim) != size:
            refuse(
                node,
                f"its weights take {size} inputs, but the layer before gives {dim_size(dim)}; "
                "export the model again",
            )

    def features(self, name: str, size: int) -> Dim:
        """The dimension of the features that a layer makes."""
        return () if size == 1 else (Axis(f"the outputs of '{name}'", size),)

    def fresh_name(self, node: onnx.NodeProto) -> str:
        """A name for a layer, after the node, that no other layer has."""
        name = label(node)
        unique = next(
            n
            for i in range(len(self.names) + 1)
            if (n := f"{name}_{i}" if i else name) not in self.names
        )
        self.names.add(unique)
        return unique

    # -- attributes and parameters ----------------------------------------------------------------

    def parameter(
        self, node: onnx.NodeProto, values: list[Value | None], index: int, attribute: str
    ) -> list[int] | None:
        """Integers given as an input or, in older opsets, as an attribute."""
        value = values[index] if index < len(values) else None
        if isinstance(value, Const):
            return [int(n) for n in value.value.reshape(-1)]
        found = self.attributes(node).get(attribute)
        return None if found is None else [int(n) for n in found]

    def axes(self, node: onnx.NodeProto, axes: Sequence[int], rank: int) -> list[int]:
        """Axis numbers counted from 0."""
        if any(not -rank <= a < rank for a in axes):
            refuse(node, f"axes {list(axes)} do not fit {rank} axes; export the model again")
        return [a % rank for a in axes]

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        get = self.graph.onnx.helper.get_attribute_value
        return {a.name: get(a) for a in node.attribute}
