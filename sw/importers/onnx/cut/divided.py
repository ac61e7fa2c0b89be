"""States that several parts of a model keep in one tensor, divided among them.

An exporter joins all states in one tensor, takes slices of it where they are used, and joins the
next values again. The slices become states of their own, so that each may be on its side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stillnet.sw.partition.session import session

from ..graph import read_names
from ..tensors import MOVES
from .whole import Whole

__all__ = ["divide_states"]

_MOVES = MOVES - {"Cast", "CastLike", "Concat", "Dropout", "Expand"}
_LARGEST = 1 << 24
"""Elements that float32 can number."""


def divide_states(whole: Whole) -> None:
    """Divides each state that is read in several parts; changes the graph in place.

    Parameters
    ----------
    whole : Whole
        Flat, and with the values of a call.
    """
    for state, end in list(whole.states.items()):
        parts = _parts(whole, state)
        ends = {*whole.outputs, *whole.states.values()}
        known = end in whole.values and whole.values[end].size < _LARGEST
        plain = known and whole.inputs[state].dtype == whole.values[end].dtype == np.float32
        still = not any(whole.moving.get(t) for t in (*parts, state, end))
        if len(parts) > 1 and plain and still and not ends & set(parts):
            _divide(whole, state, end, parts)


def _parts(whole: Whole, state: str) -> list[str]:
    """Tensors that are moves of a state, and that something computes with."""
    moved, parts = {state}, []
    for node in whole.nodes:
        read = [i for i in read_names(node) if i in moved]
        others = set(read_names(node)) - whole.constants.keys() - moved
        if read and not others and node.op_type in _MOVES and node.input[0] in moved:
            moved.update(o for o in node.output if o)
        else:
            parts += read
    parts += [name for name in (*whole.outputs, *whole.states.values()) if name in moved]
    return list(dict.fromkeys(parts))


def _divide(whole: Whole, state: str, end: str, parts: list[str]) -> None:
    began = whole.inputs[state]
    numbers = np.arange(began.size, dtype=np.float32).reshape(began.shape)
    found = (np.asarray(t).astype(np.int64) for t in _moved(whole, {state: numbers}, parts))
    places = sorted(zip(parts, found), key=lambda item: item[1].min(initial=began.size))
    origin = _Origin(whole, end)
    plan = [origin.of(at) for _, at in places]
    for k, (source, index) in enumerate(plan):
        if source == state:  # a part whose next value is another part
            match = _part_with(index, [at for _, at in places])
            if match is None:
                return
            plan[k] = (f"{state}[{match[0]}]", match[1])
        elif source == end and state in origin.sources:
            return
    del whole.states[state], whole.inputs[state]
    for k, (part, at) in enumerate(places):
        name = f"{state}[{k}]"
        whole.inputs[name] = whole.values[name] = began.reshape(-1)[at]
        _rename(whole, part, name)
    for k, ((_, at), (source, index)) in enumerate(zip(places, plan)):
        after = _gathered(whole, f"{end}[{k}]", source, index, at.shape)
        whole.states[f"{state}[{k}]"] = after
    whole.sort()


def _part_with(index: np.ndarray, places: Sequence[np.ndarray]) -> tuple[int, np.ndarray] | None:
    """The part that has some elements of the state, and where it has them."""
    for k, at in enumerate(places):
        where = {int(n): i for i, n in enumerate(at.reshape(-1))}
        if all(int(n) in where for n in index.reshape(-1)):
            return k, np.array([where[int(n)] for n in index.reshape(-1)])
    return None


def _gathered(
    whole: Whole, name: str, source: str, index: np.ndarray, shape: tuple[int, ...]
) -> str:
    """Adds nodes that take elements of a tensor; ``index`` counts in the flat tensor."""
    from onnx import helper

    value = whole.values[source]
    steps: list[tuple[str, np.ndarray]] = []
    if not np.array_equal(index.reshape(-1), np.arange(value.size)):
        steps = [("Reshape", np.array([-1])), ("Gather", index.reshape(-1))]
    if steps or value.shape != shape:
        steps.append(("Reshape", np.array(shape, np.int64)))
    tensor = source
    for k, (op, target) in enumerate(steps):
        after, constant = f"{name}.{k}", f"{name}.{k}.to"
        value = value[target] if op == "Gather" else value.reshape(target)
        whole.constants[constant], whole.values[after] = target, value
        whole.nodes.append(helper.make_node(op, [tensor, constant], [after], name=after))
        tensor = after
    whole.values[name] = value
    whole.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
    return name


def _moved(whole: Whole, feed: Mapping[str, np.ndarray], wanted: list[str]) -> list[np.ndarray]:
    """Tensors that are moves of those in ``feed``."""
    needed, names = [], set(wanted)
    for node in reversed(whole.nodes):
        if any(o in names for o in node.output if o) and not set(node.output) & feed.keys():
            needed.append(node)
            names.update(read_names(node))
    asked = [w for w in wanted if w not in feed]
    found = dict(feed)
    if asked:
        run = session(whole.build(needed[::-1], list(feed), asked).SerializeToString())
        given = {k: v for k, v in feed.items() if k in run.inputs}
        found |= zip(asked, run.run(asked, given))
    return [found[w] for w in wanted]


class _Origin:
    """Which tensors the elements of a state's next value come from, through moves."""

    def __init__(self, whole: Whole, end: str) -> None:
        self._end = end
        self.sources: list[str] = []
        producer = whole.producer
        todo = [end]
        while todo:
            name = todo.pop()
            node = producer.get(name)
            if node is None or node.op_type not in _MOVES | {"Concat"}:
                self.sources.append(name)
            else:
                inputs = node.input if node.op_type == "Concat" else node.input[:1]
                todo += [i for i in inputs if i not in whole.constants]
        self.sources = list(dict.fromkeys(self.sources))
        sizes = [whole.values[s].size for s in self.sources]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        feed = {
            s: (first + np.arange(size)).astype(np.float32).reshape(whole.shape(s))
            for s, first, size in zip(self.sources, self._first, sizes)
        }
        self._tags: np.ndarray | None = None
        floats = all(whole.values[s].dtype == np.float32 for s in self.sources)
        if floats and self._first[-1] < _LARGEST:
            (tags,) = _moved(whole, feed, [end])
            self._tags = tags.reshape(-1).astype(np.int64)

    def of(self, places: np.ndarray) -> tuple[str, np.ndarray]:
        """The tensor that has these elements of the next value, and where."""
        if self._tags is not None:
            tags = self._tags[places]
            k = int(np.searchsorted(self._first, tags.max(), side="right")) - 1
            if tags.min() >= self._first[k]:
                return self.sources[k], tags - self._first[k]
        return self._end, places


def _rename(whole: Whole, old: str, new: str) -> None:
    """Lets all readers of a tensor read another one."""
    import onnx

    for k, node in enumerate(whole.nodes):
        if old in node.input:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [new if i == old else i for i in node.input]
            whole.nodes[k] = copy
