"""The cells: each equation written once.

From the ``update`` of a cell come the NumPy reference, the hardware pipeline and the float form
that tests hold against PyTorch and onnxruntime. To add a cell, subclass :class:`Cell`, write
``update`` as in the paper, and :func:`register` it.
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from .errors import StillnetError
from .expr import Graph, Node, Variable, output, relu, sigmoid, tanh
from .fixed import ACTIVATION, PRE, Format

__all__ = ["CELLS", "GRU", "Cell", "Linear", "Relu", "Sigmoid", "Tanh", "register"]


class Cell:
    """A recurrent or feed-forward cell, element-wise after its accumulators.

    Attributes
    ----------
    name : str
    accumulators : tuple of str
        In the order in which they lie in a block of rows. Matrices name the ones they add into.
    state : dict of str to Format
        Variables that live between steps, one value a unit.
    homogeneous : bool
        The equation commutes with scaling by a power of two (identity, ReLU). The rescale shift of
        the layer then chooses the scale of the output, and ``PRE`` only says how wide it is.
    bound : float or None
        Largest possible magnitude of the output, where the equation limits it.
    """

    name: ClassVar[str]
    accumulators: ClassVar[tuple[str, ...]]
    state: ClassVar[dict[str, Format]] = {}
    parameters: ClassVar[dict[str, Format]] = {}
    peers: ClassVar[dict[str, Format]] = {}
    homogeneous: ClassVar[bool] = False
    bound: ClassVar[float | None] = None

    def update(self, m: Any, state: Any) -> Node:
        """The equation. ``m`` has the accumulators, ``state`` the variables, as attributes."""
        raise StillnetError(f"cell '{self.name}' has no update equation")

    @cached_property
    def graph(self) -> Graph:
        """The equation as a graph, every format inferred."""
        m = SimpleNamespace(
            **{a: Node("accumulator", (), PRE, a) for a in self.accumulators},
        )
        variables = {name: Variable(name, fmt) for name, fmt in self.state.items()}
        result = self.update(m, SimpleNamespace(**variables))
        if result.format.bits != ACTIVATION.bits:
            raise StillnetError(
                f"cell '{self.name}' returns {result.format}; end its update with "
                "state.x.next(...) or output(...), which have 16 bits"
            )
        following: dict[str, Node] = {}
        for name, variable in variables.items():
            if variable.following is None:
                raise StillnetError(f"cell '{self.name}' never assigns its state '{name}'")
            following[name] = variable.following
        return Graph(result, following)

    @cached_property
    def output_state(self) -> str | None:
        """The state variable that is also the output vector, if one is."""
        for name, node in self.graph.following.items():
            if node is self.graph.result:
                return name
        return None

    def evaluate(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
        """One step in integers; see :meth:`Graph.integers`."""
        return self.graph.integers(m, state)

    def evaluate_float(
        self, m: dict[str, np.ndarray], state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step in floating point."""
        return self.graph.floats(m, state)


CELLS: dict[str, Cell] = {}
"""Every registered cell by name."""


def register(cell: type[Cell]) -> type[Cell]:
    """Makes a cell known by its name; usable as a class decorator."""
    known = CELLS.get(cell.name)
    if known is not None and type(known) is not cell:
        raise StillnetError(f"a cell named '{cell.name}' exists already; choose another name")
    CELLS[cell.name] = cell()
    return cell


@register
class GRU(Cell):
    """Gated recurrent unit, reset after the product (PyTorch, cuDNN, ONNX linear_before_reset=1).

    Two products, so two multipliers. b_hc is the bias of ``ch``: it lies inside r * (...).
    """

    name = "gru"
    accumulators = ("r", "cx", "u", "ch")
    state: ClassVar[dict[str, Format]] = {"h": ACTIVATION}
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        r, u = sigmoid(m.r), sigmoid(m.u)
        c = tanh(m.cx + r * m.ch)
        return state.h.next(c + u * (state.h - c))


@register
class Linear(Cell):
    """A dense layer without activation."""

    name = "linear"
    accumulators = ("y",)
    homogeneous = True

    def update(self, m: Any, state: Any) -> Node:
        return output(m.y)


@register
class Relu(Cell):
    """A dense layer with ReLU."""

    name = "relu"
    accumulators = ("y",)
    homogeneous = True

    def update(self, m: Any, state: Any) -> Node:
        return output(relu(m.y))


@register
class Sigmoid(Cell):
    """A dense layer with a logistic activation."""

    name = "sigmoid"
    accumulators = ("y",)
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        return output(sigmoid(m.y))


@register
class Tanh(Cell):
    """A dense layer with tanh."""

    name = "tanh"
    accumulators = ("y",)
    bound = 1.0

    def update(self, m: Any, state: Any) -> Node:
        return output(tanh(m.y))
