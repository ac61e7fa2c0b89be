"""A graph as the cut sees it: one level of nodes, constants folded, the shape of every tensor.

The graph is run once or twice in onnxruntime with every tensor as an output. That tells the shape
of each tensor and which dimensions follow the length of the recording, and it takes the branch of
each ``If`` whose condition does not depend on the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.partition.session import HostFailed, session

from ..graph import read_names
from ..tensors import label
from .written_out import gather_cells

if TYPE_CHECKING:
    import onnx

__all__ = ["NotRun", "Whole", "any_length", "flatten"]

PROBES = (48, 96)
"""Steps of the two recordings that a graph of dynamic length is probed with; times a power of ten
where these are too short for it."""

_LARGEST_FOLDED = 1 << 22


class NotRun(StillnetError):
    """onnxruntime does not run the graph on an input of this shape."""


@dataclass
class Whole:
    """A graph without subgraphs.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        In an order in which they can run.
    constants : dict of str to array
    inputs : dict of str to array
        The data and the states, with values of the shapes that one call takes.
    data : str
    states : dict of str to str
        Inputs to outputs.
    outputs : list of str
        Without those of the states.
    values : dict of str to array
        Every tensor of a call on probing data.
    moving : dict of str to tuple of int
        Dimensions that follow the length of the recording; empty where a call is one step.
    opset : int
    ir_version : int
    given : dict of str to (str, array)
        The states as the file has them: their outputs, and where they begin.
    steps : int
        Of the probing call.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    data: str
    states: dict[str, str]
    outputs: list[str]
    opset: int
    ir_version: int
    values: dict[str, np.ndarray] = field(default_factory=dict)
    moving: dict[str, tuple[int, ...]] = field(default_factory=dict)
    given: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    steps: int = 1

    @property
    def producer(self) -> dict[str, onnx.NodeProto]:
        """The node that writes a tensor."""
        return {o: n for n in self.nodes for o in n.output if o}

    def sort(self) -> None:
        """Puts the nodes into an order in which they can run, without those that nothing needs."""
        ready = {*self.inputs, *self.constants, ""}
        waiting, self.nodes = self.nodes, []
        while waiting:
            done = [n for n in waiting if all(i in ready for i in read_names(n))]
            if not done:
                break  # what is left reads tensors that do not exist
            self.nodes += done
            ready.update(o for n in done for o in n.output)
            waiting = [n for n in waiting if not any(n is d for d in done)]
        _drop_unused(self)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Of the probing call."""
        return self.values[tensor].shape

    def build(
        self, nodes: Iterable[onnx.NodeProto], inputs: Iterable[str], outputs: Iterable[str]
    ) -> onnx.ModelProto:
        """A model of some of the nodes."""
        from onnx import helper, numpy_helper

        nodes, inputs, outputs = list(nodes), list(inputs), list(outputs)
        read = {i for n in nodes for i in read_names(n)} | set(outputs)
        graph = helper.make_graph(
            nodes,
            "part",
            [self.declared(name) for name in inputs],
            [helper.make_value_info(name, _tensor_type(self.values.get(name))) for name in outputs],
            [
                numpy_helper.from_array(np.asarray(a), n)
                for n, a in self.constants.items()
                if n in read and n not in inputs
            ],
        )
        opset = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opset, ir_version=self.ir_version)

    def declared(self, name: str) -> onnx.ValueInfoProto:
        """Name, type and shape of a tensor, for an input of a model."""
        from onnx import helper

        value = self.values[name] if name in self.values else self.inputs[name]
        moving = self.moving.get(name, ())
        shape = [f"t{i}" if i in moving else n for i, n in enumerate(value.shape)]
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), shape
        )


def any_length(proto: onnx.ModelProto, name: str, axis: int) -> onnx.ModelProto:
    """A model whose input may have any size along an axis, as far as its shapes are only declared.

    Parameters
    ----------
    proto : onnx.ModelProto
        Stays as it is; itself where the size is open already.
    """
    data = next(i for i in proto.graph.input if i.name == name)
    if not data.type.tensor_type.shape.dim[axis].dim_value:
        return proto
    changed = type(proto)()
    changed.CopyFrom(proto)
    graph = changed.graph
    data = next(i for i in graph.input if i.name == name)
    data.type.tensor_type.shape.dim[axis].dim_param = "steps"
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return changed


def flatten(whole: Whole, probes: Mapping[int, Mapping[str, np.ndarray]], static: bool) -> None:
    """Folds what is constant and takes the branches of ``If`` whose conditions are.

    Parameters
    ----------
    whole : Whole
        Changed in place.
    probes : dict of int to dict of str to array
        Feeds of the inputs for each number of steps.
    static : bool
        Every call has the shapes of the probe, so that shapes are constants too.
    """
    for _ in range(64):
        _fold(whole, probes, static)
        found = [n for n in whole.nodes if n.op_type == "If"]
        known = [n for n in found if n.input[0] in whole.constants]
        if not known and found:
            known = _decided(whole, found, probes)
        if not known:
            break
        for node in known:
            _inline(whole, node)
    _drop_idle(whole)
    feeds = list(probes.values())
    runs = [_run(whole, feed) for feed in feeds]
    whole.values = {**runs[0], **feeds[0]}
    _fold_starts(whole, runs)
    if static:
        before = len(whole.nodes)
        gather_cells(whole)
        if len(whole.nodes) != before:
            runs = [_run(whole, feed) for feed in feeds]
            whole.values = {**runs[0], **feeds[0]}
    for name, value in whole.values.items():
        other = runs[-1].get(name, feeds[-1].get(name))
        if other is not None and other.ndim == value.ndim and other.shape != value.shape:
            moved = [i for i, (a, b) in enumerate(zip(value.shape, other.shape)) if a != b]
            whole.moving[name] = tuple(moved)
    _drop_unused(whole)


def _drop_idle(whole: Whole) -> None:
    """Sums with zero and products with one, which exporters write to keep an input alive."""
    import onnx

    for k, node in enumerate(whole.nodes):
        neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(node.op_type)
        if neutral is None:
            continue
        both = list(node.input)
        for at in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
            value = whole.constants.get(both[at])
            if value is not None and value.size == 1 and value.reshape(-1)[0] == neutral:
                name, out = node.name, node.output[0]
                whole.nodes[k] = onnx.helper.make_node("Identity", [both[1 - at]], [out], name=name)
                break


def _drop_unused(whole: Whole) -> None:
    wanted = {*whole.outputs, *whole.states.values()}
    kept = []
    for node in reversed(whole.nodes):
        if any(o in wanted for o in node.output if o):
            kept.append(node)
            wanted.update(read_names(node))
    whole.nodes = kept[::-1]


def _fold(whole: Whole, probes: Mapping[int, Mapping[str, np.ndarray]], static: bool) -> None:
    """Nodes that depend on no input become constants, with the values that onnxruntime gives."""
    moving: set[str] = set(whole.inputs)
    still: list[onnx.NodeProto] = []
    for node in whole.nodes:
        shaped = static and node.op_type in ("Shape", "Size")
        if any(name in moving for name in read_names(node)) and not shaped:
            moving.update(o for o in node.output if o)
        else:
            still.append(node)
    still = [n for n in still if not n.op_type.startswith("Random")]
    if not still:
        return
    names = [o for n in still for o in n.output if o]
    values = _run(whole, next(iter(probes.values())), names)
    gone = set()
    for node in still:
        outs = [o for o in node.output if o]
        if all(o in values and values[o].size <= _LARGEST_FOLDED for o in outs):
            whole.constants |= {o: values[o] for o in outs}
            gone.add(id(node))
    whole.nodes = [n for n in whole.nodes if id(n) not in gone]


def _live(whole: Whole) -> set[str]:
    """Tensors that depend on the elements of an input, not only on its shape."""
    live = set(whole.inputs)
    for node in whole.nodes:
        if node.op_type not in ("Shape", "Size") and not live.isdisjoint(read_names(node)):
            live.update(o for o in node.output if o)
    return live


def _fold_starts(whole: Whole, runs: list[dict[str, np.ndarray]]) -> None:
    """Initial states that are zeros of the batch's size, which is read from the input's shape."""
    live = _live(whole) | {*whole.outputs, *whole.states.values()}
    first, last = runs[0], runs[-1]
    for node in whole.nodes:
        for name in node.output:
            value = first.get(name)
            if name in live or value is None or value.dtype.kind != "f" or name not in last:
                continue
            if value.size <= _LARGEST_FOLDED and np.array_equal(value, last[name]):
                whole.constants[name] = value
    whole.nodes = [n for n in whole.nodes if not all(o in whole.constants for o in n.output if o)]


def _decided(
    whole: Whole, found: list[Any], probes: Mapping[int, Mapping[str, np.ndarray]]
) -> list[Any]:
    """Nodes whose condition depends on shapes only, and is the same for both lengths.

    A condition that depends on the data is not among them: its value comes from operators other
    than Shape and what computes with it.
    """
    live = _live(whole)
    ready = [n for n in found if n.input[0] not in live]
    if not ready:
        return []
    names = [n.input[0] for n in ready]
    runs = [_run(whole, feed, names) for feed in probes.values()]
    decided = []
    for node in ready:
        values = [run[node.input[0]] for run in runs if node.input[0] in run]
        if len(values) == len(runs) and all(np.array_equal(v, values[0]) for v in values):
            whole.constants[node.input[0]] = values[0]
            decided.append(node)
    return decided


def _inline(whole: Whole, node: onnx.NodeProto) -> None:
    """Puts the branch that is taken in the place of an ``If``."""
    import onnx

    wanted = "then_branch" if bool(np.all(whole.constants[node.input[0]])) else "else_branch"
    body = next(a.g for a in node.attribute if a.name == wanted)
    taken = set(whole.constants) | {o for n in whole.nodes for o in n.output}
    new: dict[str, str] = {}
    for name in [t.name for t in body.initializer] + [o for n in body.node for o in n.output if o]:
        new[name] = name if name not in taken else f"{label(node)}/{name}"
    whole.constants |= {new[t.name]: onnx.numpy_helper.to_array(t) for t in body.initializer}
    inner = []
    for n in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(n)
        _rename(copy, new)
        inner.append(copy)
    for outer, result in zip(node.output, body.output):
        if outer:
            source = new.get(result.name, result.name)
            inner.append(onnx.helper.make_node("Identity", [source], [outer], name=f"{outer}.if"))
    at = next(k for k, n in enumerate(whole.nodes) if n is node)
    whole.nodes[at : at + 1] = inner


def _rename(node: onnx.NodeProto, new: Mapping[str, str]) -> None:
    node.input[:] = [new.get(i, i) for i in node.input]
    node.output[:] = [new.get(o, o) for o in node.output]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                _rename(inner, new)
            for output in graph.output:
                output.name = new.get(output.name, output.name)


def _run(
    whole: Whole, feed: Mapping[str, np.ndarray], names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Values of tensors, all of them where no names are given."""
    wanted = list(names) if names is not None else [o for n in whole.nodes for o in n.output if o]
    wanted = list(dict.fromkeys(wanted))
    if names is None:
        whole.values = dict(feed)
    needed = _ancestors(whole.nodes, wanted)
    model = whole.build(needed, list(feed), wanted)
    for output in model.graph.output:
        output.ClearField("type")
    try:
        run = session(model.SerializeToString())
        results = run.run(wanted, {k: v for k, v in feed.items() if k in run.inputs})
    except HostFailed as error:
        raise NotRun(
            f"onnxruntime cannot run the graph on an input of shape "
            f"{np.shape(feed[whole.data])} ({error.reason}): give the shape of one call with "
            f"--shape {whole.data}=..., or export the model again"
        ) from None
    return {n: np.asarray(v) for n, v in zip(wanted, results) if isinstance(v, np.ndarray)}


def _ancestors(nodes: list[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some tensors depend on, in their order."""
    needed, names = [], set(wanted)
    for node in reversed(nodes):
        if any(o in names for o in node.output if o):
            needed.append(node)
            names.update(read_names(node))
    return needed[::-1]


def _tensor_type(value: np.ndarray | None) -> onnx.TypeProto:
    import onnx

    if value is None:
        return onnx.TypeProto()
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_type_proto(kind, None)
