"""Recurrent cells that a file writes out in products: ``nn.LSTMCell``, ``nn.GRUCell``.

An exporter has no operator for one step of a cell, so that it writes its equation. The equation is
found again, and becomes a GRU or LSTM of one step whose state comes from outside. What feeds a gate
may be computed in any way that is linear in the input and the state: one product for all gates that
is split, or one for each.

Equations: PyTorch's documentation of ``torch.nn.LSTMCell`` and ``torch.nn.GRUCell``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from .whole import Whole

__all__ = ["gather_cells"]

_SAME = ("Identity", "Cast", "Dropout")
"""Operators that change nothing here."""


@dataclass
class _Linear:
    """A tensor of shape (1, units) as bias + sum of weight @ source."""

    terms: dict[str, np.ndarray]
    bias: np.ndarray


class _Unknown(Exception):
    """The tensor is no such sum."""


def gather_cells(whole: Whole) -> None:
    """Replaces written-out cells by nodes; changes the graph in place.

    Parameters
    ----------
    whole : Whole
        With the shapes of a call of one step.
    """
    for _ in range(64):
        finder = _Finder(whole)
        if not any(finder.replace(node) for node in list(whole.nodes)):
            return


class _Finder:
    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.producer = whole.producer
        self._linear: dict[str, _Linear | None] = {}

    def replace(self, node: onnx.NodeProto) -> bool:
        """Puts a GRU or LSTM in the place of the cell whose last node this is."""
        if len(node.output) != 1 or self._width(node.output[0]) is None:
            return False
        try:
            if node.op_type == "Mul":
                return self._lstm(node)
            if node.op_type in ("Add", "Sub"):
                return self._gru(node)
        except _Unknown:
            pass
        return False

    # -- cells ------------------------------------------------------------------------------------

    def _lstm(self, node: onnx.NodeProto) -> bool:
        """h = sigmoid(o) * tanh(c), c = sigmoid(f) * c' + sigmoid(i) * tanh(g)."""
        o, t = self._pair(node, "Sigmoid", "Tanh")
        c = t.input[0]
        total = self._node(c, "Add")
        for keep, new in (total.input, total.input[::-1]):
            try:
                i, g = self._pair(self._node(new, "Mul"), "Sigmoid", "Tanh")
                f, before = self._gated(self._node(keep, "Mul"))
            except _Unknown:
                continue
            gates = [self.linear(n.input[0]) for n in (i, o, f, g)]
            x, h = self._sources(gates, before)
            self._put("LSTM", node, gates, x, h, before, c)
            return True
        return False

    def _gru(self, node: onnx.NodeProto) -> bool:
        """h = n + z * (h' - n), or (1 - z) * n + z * h'; n = tanh(x + sigmoid(r) * y)."""
        for n, z, h in self._mixtures(node):
            total = self._node(n.input[0], "Add")
            for own, product in (total.input, total.input[::-1]):
                try:
                    r, other = self._gated(self._node(product, "Mul"))
                    gates = [self.linear(t) for t in (z.input[0], r.input[0], own, other)]
                except _Unknown:
                    continue
                if set(gates[3].terms) - {h}:
                    continue
                x, _ = self._sources(gates, h, h)
                self._put("GRU", node, gates, x, h, None, None)
                return True
        return False

    def _mixtures(self, node: onnx.NodeProto) -> list[tuple[Any, Any, str]]:
        """Ways to read a sum as n + z * (h' - n): the nodes of n and z, and the tensor h'."""
        found = []
        for a, b in (node.input, node.input[::-1]) if node.op_type == "Add" else ():
            n, product = self.producer.get(self._origin(a)), self.producer.get(self._origin(b))
            if n is not None and n.op_type == "Tanh" and product is not None:
                if product.op_type != "Mul":
                    continue
                for z, d in (product.input, product.input[::-1]):
                    gate, sub = (self.producer.get(self._origin(t)) for t in (z, d))
                    if gate is None or sub is None or sub.op_type != "Sub":
                        continue
                    if gate.op_type == "Sigmoid" and self._origin(sub.input[1]) == n.output[0]:
                        found.append((n, gate, self._origin(sub.input[0])))
            if product is None or n is None or (n.op_type, product.op_type) != ("Mul", "Mul"):
                continue
            for one, cand in (n.input, n.input[::-1]):
                rest, tanh = (self.producer.get(self._origin(t)) for t in (one, cand))
                if rest is None or tanh is None or (rest.op_type, tanh.op_type) != ("Sub", "Tanh"):
                    continue
                if not self._is_one(rest.input[0]):
                    continue
                gate = self.producer.get(self._origin(rest.input[1]))
                for z, h in (product.input, product.input[::-1]):
                    if gate is None or gate.op_type != "Sigmoid":
                        continue
                    if self._origin(z) == gate.output[0]:
                        found.append((tanh, gate, self._origin(h)))
        return found

    def _put(
        self,
        kind: str,
        last: onnx.NodeProto,
        gates: list[_Linear],
        x: str,
        h: str,
        c: str | None,
        next_c: str | None,
    ) -> None:
        """Writes the node, with the moves around it."""
        from onnx import helper

        name = last.name or last.output[0]
        units, size = len(gates[0].bias), self._width(x)
        zeros = {x: np.zeros((units, size or 0)), h: np.zeros((units, units))}
        w, r = (
            np.concatenate([g.terms.get(s, zeros[s]) for g in gates[: 3 if kind == "GRU" else 4]])
            for s in (x, h)
        )
        b = np.concatenate([g.bias for g in gates[: 3 if kind == "GRU" else 4]])
        rb = np.zeros_like(b)
        attributes: dict[str, Any] = {"hidden_size": units}
        if kind == "GRU":
            r[2 * units :] = gates[3].terms.get(h, zeros[h])
            rb[2 * units :] = gates[3].bias
            attributes["linear_before_reset"] = 1
        constants = self.whole.constants
        for part, value in (("W", w), ("R", r), ("B", np.concatenate([b, rb]))):
            constants[f"{name}/{part}"] = value[None].astype(np.float32)
        constants[f"{name}/axes"] = np.array([0])
        axes, new = f"{name}/axes", []
        inputs = {"x": x, "h": h, **({"c": c} if c else {})}
        for key, tensor in inputs.items():
            new.append(helper.make_node("Unsqueeze", [tensor, axes], [f"{name}/{key}"]))
        weights = [f"{name}/{part}" for part in "WRB"]
        states = [f"{name}/{k}" for k in inputs if k != "x"]
        outputs = ["", f"{name}/hn", *([f"{name}/cn"] if c else [])]
        new.append(
            helper.make_node(
                kind, [f"{name}/x", *weights, "", *states], outputs, name=name, **attributes
            )
        )
        new.append(helper.make_node("Squeeze", [f"{name}/hn", axes], [last.output[0]]))
        replaced = {last.output[0]}
        if c and next_c:
            new.append(helper.make_node("Squeeze", [f"{name}/cn", axes], [next_c]))
            replaced.add(next_c)
        kept = [n for n in self.whole.nodes if not replaced & set(n.output)]
        self.whole.nodes = [*kept, *new]
        self.whole.sort()

    # -- pieces -----------------------------------------------------------------------------------

    def _origin(self, name: str) -> str:
        while (node := self.producer.get(name)) is not None and node.op_type in _SAME:
            name = node.input[0]
        return name

    def _node(self, name: str, kind: str) -> Any:
        node = self.producer.get(self._origin(name))
        if node is None or node.op_type != kind:
            raise _Unknown
        return node

    def _pair(self, node: onnx.NodeProto, a: str, b: str) -> tuple[Any, Any]:
        """The nodes of kinds a and b that a product multiplies, in either order."""
        for first, second in (node.input, node.input[::-1]):
            try:
                return self._node(first, a), self._node(second, b)
            except _Unknown:
                continue
        raise _Unknown

    def _gated(self, node: onnx.NodeProto) -> tuple[Any, str]:
        """The sigmoid of a product, and the other tensor."""
        for first, second in (node.input, node.input[::-1]):
            gate = self.producer.get(self._origin(first))
            if gate is not None and gate.op_type == "Sigmoid":
                return gate, self._origin(second)
        raise _Unknown

    def _is_one(self, name: str) -> bool:
        value = self.whole.constants.get(self._origin(name))
        return value is not None and bool(np.all(value == 1))

    def _sources(self, gates: list[_Linear], before: str, h: str | None = None) -> tuple[str, str]:
        """The input and the state: that which is moved from a state input is the state."""
        names = sorted({s for g in gates for s in g.terms})
        states = [h] if h is not None else [n for n in names if self._is_state(n) and n != before]
        others = [n for n in names if n not in states]
        if len(states) != 1 or len(others) != 1:
            raise _Unknown
        return others[0], states[0]

    def _is_state(self, name: str) -> bool:
        """Whether a tensor is a mere move of a state input."""
        while name not in self.whole.inputs:
            node = self.producer.get(name)
            if node is None or node.op_type not in (*_SAME, *_MOVES):
                return False
            name = node.input[0]
        return name in self.whole.states

    def _width(self, name: str) -> int | None:
        """Elements of a tensor of shape (1, elements)."""
        value = self.whole.values.get(name)
        if value is None or value.ndim != 2 or value.shape[0] != 1:
            return None
        return int(value.shape[1])

    # -- what is linear ---------------------------------------------------------------------------

    def linear(self, name: str) -> _Linear:
        """A tensor as a sum of products with constant matrices."""
        name = self._origin(name)
        if name not in self._linear:
            try:
                self._linear[name] = self._read(name)
            except _Unknown:
                self._linear[name] = None
        found = self._linear[name]
        if found is None:
            raise _Unknown
        return found

    def _read(self, name: str) -> _Linear:
        node, width = self.producer.get(name), self._width(name)
        if node is None or width is None:
            raise _Unknown
        read: Callable[[Any, str, int], _Linear] | None = _READERS.get(node.op_type)
        if read is None:
            raise _Unknown
        return (
            read(self, node, width) if node.op_type != "Split" else self._split(node, name, width)
        )

    def _split(self, node: onnx.NodeProto, name: str, width: int) -> _Linear:
        whole = self.linear(node.input[0])
        first = 0
        for output in node.output:
            if output == name:
                break
            first += self._width(output) or 0
        return _rows(whole, slice(first, first + width))

    def constant(self, name: str, width: int) -> np.ndarray | None:
        """A constant of one value an element."""
        value = self.whole.constants.get(self._origin(name))
        if value is None or value.size not in (1, width):
            return None
        return np.broadcast_to(value.reshape(-1).astype(float), (width,))


_MOVES = ("Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape", "Transpose")


def _rows(whole: _Linear, part: slice) -> _Linear:
    return _Linear({s: w[part] for s, w in whole.terms.items()}, whole.bias[part])


def _plus(a: _Linear, b: _Linear) -> _Linear:
    terms = dict(a.terms)
    for source, weight in b.terms.items():
        terms[source] = terms[source] + weight if source in terms else weight
    return _Linear(terms, a.bias + b.bias)


def _read_add(finder: Any, node: Any, width: int) -> _Linear:
    parts = []
    for name in node.input:
        constant = finder.constant(name, width)
        parts.append(finder.linear(name) if constant is None else _Linear({}, constant))
    return _plus(*parts)


def _read_gemm(finder: Any, node: Any, width: int) -> _Linear:
    attributes = {a.name: a for a in node.attribute}
    if "transA" in attributes and attributes["transA"].i:
        raise _Unknown
    weight = finder.whole.constants.get(finder._origin(node.input[1]))
    if weight is None:
        raise _Unknown
    weight = weight if "transB" in attributes and attributes["transB"].i else weight.T
    alpha = attributes["alpha"].f if "alpha" in attributes else 1.0
    beta = attributes["beta"].f if "beta" in attributes else 1.0
    bias = np.zeros(width)
    if len(node.input) > 2 and node.input[2]:
        given = finder.constant(node.input[2], width)
        if given is None:
            raise _Unknown
        bias = beta * given
    return _Linear({finder._origin(node.input[0]): alpha * weight.astype(float)}, bias)


def _read_matmul(finder: Any, node: Any, width: int) -> _Linear:
    weight = finder.whole.constants.get(finder._origin(node.input[1]))
    if weight is None or weight.ndim != 2:
        raise _Unknown
    return _Linear({finder._origin(node.input[0]): weight.T.astype(float)}, np.zeros(width))


def _read_slice(finder: Any, node: Any, width: int) -> _Linear:
    constants = [finder.whole.constants.get(i) for i in node.input[1:]]
    if any(c is None or c.size != 1 for c in constants):
        raise _Unknown
    numbers = [int(c.reshape(-1)[0]) for c in constants]
    start, _, axis, step = [*numbers, *(0, 1)][:4] if len(numbers) == 2 else [*numbers, 1][:4]
    if axis not in (1, -1) or step != 1:
        raise _Unknown
    whole = finder.linear(node.input[0])
    start += len(whole.bias) if start < 0 else 0
    return _rows(whole, slice(start, start + width))


_READERS: dict[str, Callable[[Any, Any, int], _Linear]] = {
    "Add": _read_add,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "Slice": _read_slice,
    "Split": _read_slice,
}
