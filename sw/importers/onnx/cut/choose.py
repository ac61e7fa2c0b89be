"""The cut: which part of a whole model goes to the chip."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.partition.options import CutOptions
from stillnet.sw.partition.parts import HostParts, output_rows
from stillnet.sw.partition.session import HostFailed, session

from ..graph import read_names
from ..recurrent import backwards
from ..tensors import FLOATS, INTEGERS, MOVES, PICKS, RECURRENT, label
from ..within_step import UNROLLED
from .divided import divide_states
from .graphs import host_parts
from .island import Island, Unusable, explore
from .report import cut_report, multiplications
from .states import Backwards, Port, Roles, Unclear, assign_roles, ports
from .whole import PROBES, NotRun, Whole, any_length, flatten

if TYPE_CHECKING:
    import onnx

__all__ = ["cut_model"]

_MOST = 400
"""Tensors that are tried."""

_LONGEST = 1 << 22
"""Elements of the longest recording that a graph is probed with."""

_TIMES = ("time", "step", "seq", "len", "frame")


@dataclass(frozen=True)
class _Call:
    """How a model is called: once for each step, or once for a recording.

    ``guessed`` says that the file has another size along the axis of time.
    """

    stepwise: bool
    time: int | None
    shape: tuple[int, ...]
    guessed: bool = False

    def with_steps(self, steps: int) -> tuple[int, ...]:
        return tuple(steps if i == self.time else n for i, n in enumerate(self.shape))


def cut_model(proto: onnx.ModelProto, name: str, onnx: Any, options: CutOptions) -> Model:
    """Divides a model between chip and host.

    Parameters
    ----------
    proto : onnx.ModelProto
        Without local functions.
    name : str
    onnx : module
    options : CutOptions

    Returns
    -------
    Model
        The part for the chip; ``host`` has the rest.

    Raises
    ------
    StillnetError
        Where no part with weights can run on an engine.
    """
    graph, roles = _begin(proto, onnx, options)
    problem: StillnetError | None = None
    guess: StillnetError | None = None
    recurrent = not roles.states and any(n.op_type in RECURRENT for n in proto.graph.node)
    calls = _calls(graph["inputs"][roles.data], recurrent, options)
    axes = {i for i, n in enumerate(graph["inputs"][roles.data].shape) if not isinstance(n, int)}
    for call in calls:
        try:
            called = proto if call.time is None else any_length(proto, roles.data, call.time)
            whole = _long_enough(called, graph, roles, call, options, onnx)
            _check_directions(whole, onnx)
            if call.time is not None and len(axes) > 1:
                _check_time(whole, call.time)
            model = _cut(whole, call, name, onnx, options)
            _check_equal(_uncut(called, whole, onnx), whole, model)
            return model
        except StillnetError as error:
            if isinstance(error, Backwards) and not call.guessed:
                raise
            if call.guessed:
                guess = guess or error
            else:
                problem = problem or (error if call.time is None else _frozen(error, roles.data))
    problem = problem or guess
    raise problem or Unclear(
        f"the shape of '{roles.data}' is not known: give that of one call with "
        f"--shape {roles.data}=1,512, or a recording with --data"
    )


def _frozen(error: StillnetError, data: str) -> StillnetError:
    """Says why a graph does not run at another length than that of its export, where that is it."""
    found = re.search(r"(?:Node \(|Name:')([^)']*)[)'].*Reshape", str(error))
    if found is None:
        return error
    return Unclear(
        f"node '{found[1]}' (Reshape): it holds the length of the recording that the model was "
        f"exported with, so that '{data}' takes no other: write -1 for the steps in the view or "
        "reshape of the model and export it again (where the model has none, PyTorch's exporter "
        "wrote it: give it dynamo=False), or export one step with its states as inputs and outputs"
    )


def _long_enough(
    proto: onnx.ModelProto,
    graph: dict[str, Any],
    roles: Roles,
    call: _Call,
    options: CutOptions,
    onnx: Any,
) -> Whole:
    """The graph, probed with recordings that are as long as its strides and kernels ask."""
    problem: StillnetError | None = None
    for times in (1,) if call.stepwise or call.guessed else (1, 10, 100, 1000):
        if times > 1 and times * PROBES[1] * math.prod(call.with_steps(1)) > _LONGEST:
            break
        try:
            return _whole(proto, graph, roles, call, options, onnx, times)
        except NotRun as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _check_time(whole: Whole, time: int) -> None:
    """Refuses an axis that all recurrent layers take for that of batches."""
    found = [whole.moving.get(n.input[0], ()) for n in whole.nodes if n.op_type in RECURRENT]
    found = [axes for axes in found if axes]
    layouts = {a.i for n in whole.nodes for a in n.attribute if a.name == "layout"}
    if found and not any(layouts) and all(0 not in axes for axes in found):
        raise StillnetError(
            f"axis {time} of '{whole.data}' is that of batches for all recurrent layers, and along "
            "no other the model runs: export it for one recording, with a dynamic number of steps"
        )


def _check_directions(whole: Whole, onnx: Any) -> None:
    """Refuses layers that run over the steps from their end; inside a step the host has them."""
    for node in whole.nodes:
        if node.op_type in RECURRENT:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            direction = attributes.get("direction", b"forward").decode()
            steps = 1 if attributes.get("layout", 0) else 0
            if direction != "forward" and steps in whole.moving.get(node.input[0], ()):
                text = backwards(node, direction)
                raise Backwards(f"node '{label(node)}' ({node.op_type}): {text}")


def _cut(whole: Whole, call: _Call, name: str, onnx: Any, options: CutOptions) -> Model:
    best: tuple[tuple[int, int], Island, HostParts] | None = None
    order = {o: k for k, n in enumerate(whole.nodes) for o in n.output}
    stop = frozenset([_tensor(whole, options.leave, "--to")] if options.leave else [])
    start = _tensor(whole, options.enter, "--from") if options.enter else whole.data
    reasons: dict[int, str] = {}
    readable = whole.values.keys() & {i for n in whole.nodes for i in read_names(n)}
    todo, seen = [start], {start}
    while todo and len(seen) < _MOST:
        tensor = todo.pop(0)
        if best is not None and _reachable(whole, tensor) < best[0][0]:
            continue
        island, frontier, refused = explore(whole, tensor, onnx, call.stepwise, stop)
        near = {id(n) for n in whole.nodes if tensor in read_names(n)}
        for node, reason in refused.items():
            if node in near or node not in reasons:  # what is seen from right in front tells most
                reasons[node] = reason
        if not options.enter:
            todo += [t for t in dict.fromkeys(frontier) if t in readable - seen]
            seen.update(frontier)
        if island is None:
            continue
        score = (island.weights, order.get(tensor, -1))
        if best is not None and score <= best[0]:
            continue
        try:
            best = (score, island, host_parts(whole, island, call.time, call.stepwise))
        except Unusable:
            continue
        if not options.enter and tensor != whole.data:
            later = [t for t in _activated(whole, island) if t not in seen]
            todo += later
            seen.update(later)
    if best is None:
        anew = [n for n in whole.nodes if "starts anew" in reasons.get(id(n), "")]
        if anew:
            raise Unclear(f"node '{label(anew[0])}': {reasons[id(anew[0])]}")
        where = f" from '{start}' on" if options.enter else ""
        costly = [n for n in whole.nodes if reasons.get(id(n), "").startswith(UNROLLED)]
        if costly:
            node = max(costly, key=lambda n: multiplications(whole, n))
            raise Unclear(
                f"no part of the model{where} that has weights pays on the chip; node "
                f"'{label(node)}' ({node.op_type}): {reasons[id(node)]}"
            )
        raise StillnetError(
            f"no part of the model{where} that has weights can run on the chip"
            + (f": {next(iter(reasons.values()))}" if reasons else "")
        )
    _, island, parts = best
    for note in island.notes:
        warnings.warn(note, stacklevel=2)
    model = island.model
    model.name, model.host = name, parts
    parts.pointwise = call.stepwise or _pointwise(parts, model)
    island.reasons |= reasons
    entered = whole.values[island.enter].size // (1 if model.one_hot else model.inputs)
    parts.report = cut_report(whole, island, 1 if call.stepwise else max(entered, 1))
    return model


def _activated(whole: Whole, island: Island) -> list[str]:
    """Where the chip might begin later at no loss: behind functions and moves of elements.

    The host has them as well; in front of the first weights they may cost a layer on the chip.
    """
    found: list[str] = []
    moved = {island.enter}
    for node in whole.nodes:
        read = [i for i in read_names(node) if i not in whole.constants]
        if id(node) not in island.chip or not moved & set(read):
            continue
        if node.op_type in MOVES or node.op_type in PICKS:
            moved.update(o for o in node.output if o)
            found += [o for o in node.output if o and node.op_type in PICKS]
        elif len(read) == 1 and all(
            whole.constants[i].size == 1 for i in read_names(node) if i != read[0]
        ):
            found += [o for o in node.output if o]
    return found


def _reachable(whole: Whole, tensor: str) -> int:
    """Elements of the constants that nodes behind a tensor read."""
    names, found = {tensor}, 0
    for node in whole.nodes:
        if any(i in names for i in read_names(node)):
            names.update(o for o in node.output if o)
            constants = [whole.constants[i] for i in node.input if i in whole.constants]
            found += sum(c.size for c in constants if c.dtype.kind == "f" and c.ndim > 1)
    return found


def _tensor(whole: Whole, name: str, option: str) -> str:
    """A tensor by its name, or by that of the node that writes it."""
    if name in whole.values:
        return name
    for node in whole.nodes:
        if node.name == name:
            return str(node.output[0])
    raise Unclear(
        f"{option}: the model has no tensor and no node '{name}'; 'stillnet check MODEL' lists them"
    )


# -- the call -------------------------------------------------------------------------------------


def _begin(proto: onnx.ModelProto, onnx: Any, options: CutOptions) -> tuple[dict[str, Any], Roles]:
    """Constants, the inputs that are needed, and their roles."""
    g = proto.graph
    constants = {t.name: np.asarray(onnx.numpy_helper.to_array(t)) for t in g.initializer}
    wanted = {o.name for o in g.output}
    for node in reversed(g.node):
        if any(o in wanted for o in node.output if o):
            wanted.update(read_names(node))
    inputs = {p.name: p for p in ports(g.input) if p.name in wanted and p.name not in constants}
    for name, value in options.constants.items():
        if name not in {p.name for p in ports(g.input)}:
            raise Unclear(
                f"--set: the graph has no input '{name}'; its inputs are {', '.join(inputs)}"
            )
        port = inputs.pop(name, None)
        if port is not None:
            kind = onnx.helper.tensor_dtype_to_np_dtype(port.type)
            shape = [n if isinstance(n, int) else 1 for n in port.shape]
            constants[name] = np.full(shape, value, kind)
    for port in inputs.values():
        if not port.ranked:
            raise StillnetError(
                f"graph input '{port.name}' declares no shape: export it with its number of axes"
            )
        if port.type not in FLOATS and port.type not in INTEGERS:
            raise Unclear(
                f"graph input '{port.name}' holds {onnx.TensorProto.DataType.Name(port.type)} "
                f"elements; give its value with --set {port.name}=VALUE"
            )
    if not inputs:
        raise StillnetError("no input reaches the graph's outputs: export the model again")
    for name in _idle_numbers(g, inputs, onnx):
        port = inputs.pop(name)
        constants[name] = np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(port.type))
    for node in g.node:
        lengths = node.input[4] if node.op_type in RECURRENT and len(node.input) > 4 else ""
        if lengths and lengths not in constants and options.constants == {}:
            raise StillnetError(f"the lengths of sequences, '{lengths}', are computed")
    whole_numbers = [p for p in inputs.values() if p.type in INTEGERS and set(p.shape) <= {1}]
    if whole_numbers and len(inputs) > len(whole_numbers):
        port = whole_numbers[0]
        raise Unclear(
            f"graph input '{port.name}' is a whole number beside the data, such as a sampling "
            f"rate: give its value with --set {port.name}=VALUE"
        )
    roles = assign_roles(list(inputs.values()), ports(g.output), options.states)
    return {"constants": constants, "inputs": inputs}, roles


def _idle_numbers(graph: onnx.GraphProto, inputs: dict[str, Port], onnx: Any) -> list[str]:
    """Whole numbers that are multiplied by zero wherever they are read."""
    zeros = {t.name for t in graph.initializer if not np.any(onnx.numpy_helper.to_array(t))}
    for node in graph.node:
        known = node.op_type == "Constant" and node.attribute[0].name == "value"
        if known and not np.any(onnx.numpy_helper.to_array(node.attribute[0].t)):
            zeros.add(node.output[0])
    found = []
    for port in inputs.values():
        readers = [n for n in graph.node if port.name in read_names(n)]
        number = port.type in INTEGERS and port.shape == ()
        if number and all(n.op_type == "Mul" and zeros & set(n.input) for n in readers):
            found.append(port.name)
    return found


def _calls(data: Port, recurrent: bool, options: CutOptions) -> Iterator[_Call]:
    """Ways to call the model that fit its input, the likeliest first.

    Where recurrent layers carry a state through a call, the axis of their steps may be fixed by the
    file only because somebody exported one length.
    """
    given = options.shapes.get(data.name)
    if given is not None:
        if len(given) != len(data.shape):
            raise Unclear(f"--shape: '{data.name}' has {len(data.shape)} axes, not {len(given)}")
        yield _Call(True, None, given)
        return
    dynamic = [i for i, n in enumerate(data.shape) if not isinstance(n, int)]
    rest = math.prod(n for n in data.shape if isinstance(n, int))
    fits = options.elements in (None, rest)
    named = [i for i in dynamic if any(t in str(data.shape[i]).lower() for t in _TIMES)]
    named += [i for t in "tln" for i in dynamic if str(data.shape[i]).lower() == t]
    batch = [i for i in dynamic if "batch" in str(data.shape[i]).lower()]
    unnamed = sorted((i for i in dynamic if i not in batch), key=lambda i: (i == 0, i))
    ranked = dict.fromkeys([*named, *unnamed, *batch])  # the first axis is mostly that of batches
    ones = tuple(n if isinstance(n, int) else 1 for n in data.shape)
    if recurrent and not dynamic:
        for axis in sorted(range(len(ones)), key=lambda i: (i == len(ones) - 1, i)):
            if ones[axis] > 1 and options.elements in (None, rest // ones[axis]):
                yield _Call(False, axis, ones, True)
    if fits and (rest > 1 or options.elements == 1 or len(dynamic) == 1):
        for axis in ranked:
            yield _Call(False, axis, ones)
        if not named:  # a recording of one step is another thing than a step
            yield _Call(True, None, ones)
    elif options.elements is not None and options.elements % rest == 0:
        for axis in [i for i in ranked if i not in batch] or list(ranked):
            size = options.elements // rest
            yield _Call(True, None, tuple(size if i == axis else n for i, n in enumerate(ones)))
    elif not dynamic and not (recurrent and options.elements in [rest // n for n in ones]):
        raise Unclear(
            f"input '{data.name}' takes {rest} elements in a call, shape {data.shape}; the "
            f"recording has {options.elements}"
        )


def _whole(
    proto: onnx.ModelProto,
    graph: dict[str, Any],
    roles: Roles,
    call: _Call,
    options: CutOptions,
    onnx: Any,
    times: int = 1,
) -> Whole:
    """The graph for one way to call it, probed with recordings so many times longer."""
    rng = np.random.default_rng(1)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    kinds = {n: onnx.helper.tensor_dtype_to_np_dtype(p.type) for n, p in graph["inputs"].items()}
    probes: dict[int, dict[str, np.ndarray]] = {}
    lengths = (1,) if call.stepwise else tuple(times * n for n in PROBES)
    for steps in lengths:
        feed = {}
        for name, port in graph["inputs"].items():
            shape = options.shapes.get(name) or [n if isinstance(n, int) else 1 for n in port.shape]
            value = np.zeros(shape)
            if name == roles.data:
                value = rng.normal(size=call.with_steps(steps))
                value = np.abs(value) if port.type in INTEGERS else value
            feed[name] = value.astype(kinds[name])
        probes[steps] = feed
    whole = Whole(
        nodes=list(proto.graph.node),
        constants=dict(graph["constants"]),
        inputs=next(iter(probes.values())),
        data=roles.data,
        states=dict(roles.states),
        outputs=[o.name for o in proto.graph.output if o.name not in roles.states.values()],
        opset=opset,
        ir_version=min(proto.ir_version, 10) or 8,
        steps=lengths[0],
    )
    flatten(whole, probes, call.stepwise)
    whole.given = {i: (o, whole.inputs[i]) for i, o in whole.states.items()}
    divide_states(whole)
    return whole


# -- checks ---------------------------------------------------------------------------------------


def _check_equal(uncut: Callable[..., np.ndarray], whole: Whole, model: Model) -> None:
    """The parts together give what onnxruntime gives for the whole model, over several steps."""
    parts = model.host
    assert parts is not None
    large = sum(m.weight.size for layer in model.layers for m in layer.matrices) > 1 << 20
    x = np.random.default_rng(3).normal(size=(5 if large else 12, parts.inputs))
    if np.issubdtype(whole.values[whole.data].dtype, np.integer):
        x = np.abs(whole.values[whole.data]).reshape(-1, parts.inputs)
    if not parts.stepwise:  # the length of the probe, with which the graph is known to run
        x = np.resize(x, (whole.steps, parts.inputs))
    vectors, kept = parts.enter_vectors(x)
    got, wanted = parts.leave_outputs(model.run(vectors), kept), uncut(parts, x)
    got = got[-1:] if parts.every_step else got
    spread = np.abs(wanted).max() + 1e-6
    if got.shape != wanted.shape or np.abs(got - wanted).max() > 2e-3 * spread:
        raise StillnetError(
            f"the model, cut at '{parts.enter}', does not give what onnxruntime gives for the "
            "whole: choose another place with --from and --to, and please report the model"
        )


def _uncut(proto: onnx.ModelProto, whole: Whole, onnx: Any) -> Callable[..., np.ndarray]:
    """The model as it came, in onnxruntime."""
    run = session(proto.SerializeToString())

    def outputs(parts: HostParts, x: np.ndarray) -> np.ndarray:
        known = {name: value for name, (_, value) in whole.given.items()}
        for port in ports(proto.graph.input):  # what is constant, or of no consequence
            if port.name not in known and port.name in run.inputs:
                kind = onnx.helper.tensor_dtype_to_np_dtype(port.type)
                value = whole.constants.get(port.name, np.zeros([1] * len(port.shape)))
                known[port.name] = value.astype(kind)
        names = [*whole.outputs, *(o for o, _ in whole.given.values())]
        rows = []
        for feed in parts.calls(x):
            known[whole.data] = feed
            results = dict(zip(names, run.run(names, known)))
            known |= {i: results[o] for i, (o, _) in whole.given.items()}
            rows.append(np.hstack([output_rows(results[o.name], o) for o in parts.outputs]))
        return np.concatenate(rows)

    return outputs


def _pointwise(parts: HostParts, model: Model) -> bool:
    """Whether the host parts give the same for a recording and step by step."""
    rng = np.random.default_rng(2)
    if model.one_hot:
        return False
    x = rng.normal(size=(12, parts.inputs))
    try:
        vectors, kept = parts.enter_vectors(x)
        if len(vectors) != len(x):
            return False
        out = rng.normal(size=(len(vectors), model.outputs))
        together = parts.leave_outputs(out, kept)
        if len(together) != len(x):
            return False
        front, behind = parts.initial_states(behind=False), parts.initial_states(behind=True)
        for t, row in enumerate(x):
            vector, k = parts.step_front(row, front)
            y = parts.step_behind(out[t : t + 1], k, behind)
            if not np.allclose(vector[0], vectors[t], rtol=1e-4, atol=1e-5):
                return False
            if not np.allclose(y, together[t], rtol=1e-4, atol=1e-5):
                return False
    except (HostFailed, ValueError):  # a recording of one step is refused
        return False
    return True
