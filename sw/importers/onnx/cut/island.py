"""The part of a graph that an engine can run, seen from the tensor that enters it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.partition.parts import FEATURE, Leave

from ..ending import check_states
from ..final_states import tags_of
from ..graph import Graph, read_names
from ..layers import same_models
from ..tensors import MOVES, PICKS, Const, Fix, Flow, States, label, state_of
from ..walk import Walk
from .whole import Whole

if TYPE_CHECKING:
    import onnx

__all__ = ["Island", "explore"]

_RECURRENT = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,)}
"""Operators that carry states, and the slots of their initial values."""

_RANGES = ("Exp", "Log", "Pow", "Reciprocal", "Sqrt")


class Unusable(Exception):
    """A tensor that no island can start from; the text says why."""


@dataclass
class Island:
    """What the chip computes of a graph.

    Attributes
    ----------
    enter : str
        The tensor that goes to the chip.
    feature_axes : tuple of int
        Its axes that are elements of a vector; all others are steps.
    leave : list of Leave
        The tensors that come from the chip.
    chip, host : set of int
        ``id`` of the nodes on either side; a node that both need is in both.
    reasons : dict of int to str
        Why a node is not on the chip.
    states : set of str
        State inputs that the engine carries.
    weights : int
        Elements of the constants that the nodes of the chip read.
    model : Model
    notes : list of str
    """

    enter: str
    feature_axes: tuple[int, ...]
    leave: list[Leave]
    chip: set[int]
    host: set[int]
    reasons: dict[int, str]
    states: set[str]
    weights: int
    model: Model
    notes: list[str] = field(default_factory=list)


def explore(
    whole: Whole, enter: str, onnx: Any, stepwise: bool, stop: frozenset[str] = frozenset()
) -> tuple[Island | None, list[str], dict[int, str]]:
    """Walks from a tensor as far as an engine can go.

    Parameters
    ----------
    whole : Whole
    enter : str
    onnx : module
    stepwise : bool
        Each call of the graph is one step, so that only states given from outside live on.
    stop : set of str
        Tensors that leave the chip, whatever follows.

    Returns
    -------
    Island or None
        None where nothing with weights can be computed from this tensor.
    list of str
        Tensors that other islands may start from: what the refused nodes read and write.
    dict of int to str
        Why nodes were refused, by ``id``; without those that only follow a refused one.
    """
    search = _Search(whole, enter, onnx, stepwise, stop)
    try:
        walk = search.run(101)
        island = search.island(walk)
        if island is not None and search.graph.axes and any(a.dynamic for a in search.graph.axes):
            again = _Search(whole, enter, onnx, stepwise, stop)
            other = again.island(again.run(211))
            if other is None or not same_models(island.model, other.model):
                island = None
    except (Unusable, StillnetError):
        island = None
    return island, search.frontier, search.own_reasons


class _Search:
    """One walk, in which a node that is refused stays on the host."""

    def __init__(
        self, whole: Whole, enter: str, onnx: Any, stepwise: bool, stop: frozenset[str]
    ) -> None:
        self.whole, self.enter, self.stepwise, self.stop = whole, enter, stepwise, stop
        self.producer = whole.producer
        outputs = [*whole.outputs, *whole.states.values()]
        declared = [whole.declared(name) for name in (enter, *whole.states) if name in whole.values]
        constants = {name: Const(value) for name, value in whole.constants.items()}
        self.graph = Graph(whole.nodes, constants, declared, outputs, whole.opset, onnx, data=enter)
        self.reasons: dict[int, str] = {}
        self.own_reasons: dict[int, str] = {}
        self.frontier: list[str] = []

    def run(self, probe: int) -> Walk:
        fixed: dict[int, int] = {}
        for _ in range(8):
            try:
                return self._once(probe, fixed)
            except Fix as fix:
                fixed[fix.position] = fix.size
        raise Unusable("its sizes do not settle")

    def _once(self, probe: int, fixed: dict[int, int]) -> Walk:
        self.reasons, self.own_reasons, self.frontier = {}, {}, []
        with np.errstate(all="ignore"):
            walk = self.graph.begin("network", probe, fixed)
            # Axes that do not follow the length of the recording are inside a step.
            walk.stepwise = self.stepwise or bool(self.whole.moving.get(self.enter))
            for node in self.graph.needed:
                if self.enter not in node.output:
                    self._visit(walk, node)
        return walk

    def _visit(self, walk: Walk, node: onnx.NodeProto) -> None:
        unknown = [i for i in read_names(node) if i not in walk.env]
        if unknown:
            known = [i for i in read_names(node) if isinstance(walk.env.get(i), Flow)]
            self.reasons[id(node)] = f"it reads '{unknown[0]}', which the host computes"
            if known or len(unknown) > 1:
                self.frontier += [o for o in node.output if o]
            return
        if any(i in self.stop for i in read_names(node)):
            self.reasons[id(node)] = "it follows the tensor named by --to"
            return
        try:
            self._check_start(node)
            self._check_range(walk, node)
            walk.visit(node)
        except StillnetError as error:
            reason = str(error).partition(": ")[2] or str(error)
            self.reasons[id(node)] = self.own_reasons[id(node)] = reason
            flows = [i for i in read_names(node) if isinstance(walk.env.get(i), Flow)]
            self.frontier += [*flows, *(o for o in node.output if o)]
            for o in node.output:
                walk.env.pop(o, None)

    def _check_start(self, node: onnx.NodeProto) -> None:
        """In a graph of one step, a state must come from outside, or it would not live on."""
        if not self.stepwise or node.op_type not in _RECURRENT:
            return
        if any(a.name == "direction" and a.s != b"forward" for a in node.attribute):
            return  # refused for that
        for slot in _RECURRENT[node.op_type]:
            name = node.input[slot] if slot < len(node.input) else ""
            if not (name and self.graph.roots(name) & self.whole.states.keys()):
                raise StillnetError(
                    f"node '{label(node)}': its state starts anew in every call; export the model "
                    "with its states as inputs and outputs, or with a dynamic number of steps"
                )

    def _check_range(self, walk: Walk, node: onnx.NodeProto) -> None:
        """Squares and roots, as of magnitudes, stay on the host: of 16 bits half are left then.

        With its magnitudes on the chip, a voice activity detector erred by .29 on average.
        """
        flows = [walk.env.get(i) for i in node.input]
        square = node.op_type == "Mul" and len(flows) == 2 and flows[0] is flows[1]
        if square or (node.op_type in _RANGES and isinstance(flows[0], Flow)):
            raise StillnetError(
                f"node '{label(node)}': squares, roots and powers take more range than the "
                "chip's vectors of 16 bits have, so that the host computes them"
            )

    # -- the result -------------------------------------------------------------------------------

    def island(self, walk: Walk) -> Island | None:
        if walk.feature is None and not walk.embedded:
            return None
        carried = self._carried_states(walk)
        leave: dict[str, Flow] = {}
        host: set[int] = set()
        ends = [o for i, o in self.whole.states.items() if i not in carried]
        self._require(walk, [*self.whole.outputs, *ends, self.enter], leave, host, carried)
        self._leave_less(leave, host)
        if not leave:
            return None
        chip = self._between(walk, leave)
        self._check_states_apart(walk, host, carried)
        model = walk.net.model([(name, flow.vector) for name, flow in leave.items()])
        check_states(walk)
        weights = self._weights(chip)
        if not weights:
            return None
        return Island(
            enter=self.enter,
            feature_axes=tuple(_positions(walk)),
            leave=_leaves(walk, leave),
            chip=chip,
            host=host,
            reasons=self.reasons,
            states=carried,
            weights=weights,
            model=model,
            notes=walk.notes,
        )

    def _carried_states(self, walk: Walk) -> set[str]:
        """State inputs of which the engine carries every element."""
        carried = set()
        for name, output in self.whole.states.items():
            const = walk.state_inputs.get(name)
            tags = tags_of(walk.env.get(output))
            if const is None or tags is None:
                continue
            numbers = [int(t) for t in const.value.reshape(-1)]
            ends = [state_of(t) for t in tags.reshape(-1)]
            begins = [walk.starts.get(n) for n in numbers]
            if begins == [(layer, state, unit) for layer, state, _, unit in ends]:
                carried.add(name)
        return carried

    def _require(
        self,
        walk: Walk,
        roots: Iterable[str],
        leave: dict[str, Flow],
        host: set[int],
        carried: set[str],
    ) -> None:
        """What the host computes and takes from the chip to know some tensors."""
        todo, seen = list(roots), set()
        while todo:
            name = todo.pop()
            if name in seen or name in self.whole.constants or name in self.whole.inputs:
                if name in carried:
                    raise Unusable(f"the host reads state '{name}'")
                continue
            seen.add(name)
            value = walk.env.get(name)
            if isinstance(value, Flow) and name != self.enter and _leaves_clean(walk, value):
                leave[name] = value
                continue
            node = self.producer[name]
            inside = node.op_type in _RECURRENT and value is not None
            if isinstance(value, States) or inside and self.enter not in node.output:
                raise Unusable(f"the host needs '{name}', a state of the chip")
            host.add(id(node))
            todo += read_names(node)

    def _leave_less(self, leave: dict[str, Flow], host: set[int]) -> None:
        """The host computes a tensor itself where others that leave are all it takes, or where it
        only moves elements of the one that enters, as a cache of the last steps does."""
        moved: dict[str, set[int]] = {self.enter: set()}
        for node in self.whole.nodes:
            data = [i for i in read_names(node) if i not in self.whole.constants]
            if node.op_type in MOVES | PICKS and data and moved.keys() >= set(data):
                own = {id(node)}.union(*(moved[i] for i in data))
                moved |= {o: own for o in node.output if o and o not in moved}
        for name in moved.keys() & leave.keys():
            del leave[name]
            host |= moved[name]
        for name in list(leave):
            node = self.producer[name]
            data = [i for i in read_names(node) if i not in self.whole.constants]
            if all(i in leave for i in data) and not self._weights({id(node)}):
                del leave[name]
                host.add(id(node))

    def _between(self, walk: Walk, leave: Iterable[str]) -> set[int]:
        """The nodes from the tensor that enters to those that leave."""
        chip: set[int] = set()
        todo = list(leave)
        while todo:
            name = todo.pop()
            node = self.producer.get(name)
            if node is None or name == self.enter or id(node) in chip:
                continue
            if isinstance(walk.env.get(name), (Flow, States)):
                chip.add(id(node))
                todo += read_names(node)
        return chip

    def _check_states_apart(self, walk: Walk, host: set[int], carried: set[str]) -> None:
        """A state that an engine carries is not read by the host."""
        starts = set(walk.starts)
        for node in self.whole.nodes:
            if id(node) not in host:
                continue
            for name in read_names(node):
                value = walk.env.get(name)
                state = isinstance(value, Const) and value.state
                if state and starts & {int(t) for t in np.ravel(value.value)}:  # type: ignore[union-attr]
                    raise Unusable(f"the host reads '{name}', a state of the chip")

    def _weights(self, chip: set[int]) -> int:
        names = {
            i for n in self.whole.nodes if id(n) in chip for i in read_names(n)
        } & self.whole.constants.keys()
        arrays = [self.whole.constants[n] for n in names]
        return sum(a.size for a in arrays if a.dtype.kind == "f" and a.ndim > 1)


def _leaves_clean(walk: Walk, flow: Flow) -> bool:
    """Whether a flow is the vector of a layer, as it stands."""
    parts = flow.vector.parts
    if any(not p.plain or p.source.table is not None for p in parts):
        return False
    if any(p.source.index == INPUT for p in parts) or flow.tokens:
        return False
    if flow.excess or flow.padded:
        return False
    feature = walk.feature_of(flow) or ()
    return all(a.position is not None or a in feature for d in flow.dims for a in d)


def _positions(walk: Walk) -> list[int]:
    """Axes of the tensor that enters which are features."""
    return [a.position for a in (walk.feature or ()) if a.position is not None]


def _leaves(walk: Walk, flows: dict[str, Flow]) -> list[Leave]:
    found, first = [], 0
    for name, flow in flows.items():
        feature = walk.feature_of(flow) or ()
        size = flow.vector.size
        assert size is not None
        dims = tuple(
            tuple(FEATURE - feature.index(a) if a in feature else int(a.position or 0) for a in dim)
            for dim in flow.dims
        )
        sizes = tuple(a.size for a in feature) or (1,)
        found.append(Leave(name, dims, flow.reduced, first, sizes))
        first += size
    return found
