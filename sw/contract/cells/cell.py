"""What a cell is: its equation, and what the rest of stillnet must know beside the equation."""

from __future__ import annotations

import importlib.util
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format

from .expr import Graph, Node, Variable

__all__ = ["CELLS", "MAX_PEERS", "WORD_BITS", "Cell", "load_cells", "register"]

WORD_BITS = 32
"""Widest parameter and state variable."""

MAX_PEERS = 2
"""Most peers of a cell."""


class Cell:
    """A recurrent or feed-forward cell, element-wise after its accumulators.

    Attributes
    ----------
    name : str
    accumulators : tuple of str
        In the order in which they lie in a block of rows. Matrices name the ones they add into.
    state : dict of str to Format
        Variables that live between steps, one value per unit; at most 32 bits.
    parameters : dict of str to Format
        Constants, one value per unit; at most 32 bits. In the equation attributes of ``m``.
    peers : dict of str to Format
        State variables of other layers that the equation reads, at most two; in the equation
        attributes of ``state``. This step's value where the layer is a lower one, else the previous
        step's. A name that is in ``state`` too is read from the peer and written to the own one.
    homogeneous : bool
        The equation commutes with scaling by a power of two (identity, ReLU) and the cell has no
        state. The rescale shift of the layer then chooses the scale of the output, and ``PRE``
        only says how wide it is.
    scale : dict of str to str
        For cells that commute with scaling otherwise: which names share a power of two that
        calibration chooses. Keys are ``"m"`` (all accumulators), state variables, peers,
        parameters and ``"y"`` (the result); values are labels, or for parameters ``"a/b"``, the
        scale of one label over that of another. What is not named keeps the scale of its format.
    bound : float or None
        Largest possible magnitude of the output, where the equation limits it.
    limits : dict of str to (float, float)
        Values that a parameter may have, where the format allows more than the equation.
    gains : dict of str to str
        For cells of fixed formats whose result still grows with an accumulator: a power of two of
        the result is one of the accumulator (``"linear"``), the square of one (``"square"``), or
        a bias (``"exponential"``). ``quantize`` then scales rows so that what calibration showed
        fits the formats. Of two ``"linear"`` ones the second is brought within 1.
    unlimited : tuple of str
        Parameters that may be infinite, which is the end of their format: no bound.
    floors : bool
        Accumulators are floored, not rounded, to ``PRE``: ``quantize`` takes half a unit from
        their biases.
    cleared : tuple of str
        State variables that ``clear_every`` sets to zero.
    """

    name: ClassVar[str]
    accumulators: ClassVar[tuple[str, ...]]
    state: ClassVar[dict[str, Format]] = {}
    parameters: ClassVar[dict[str, Format]] = {}
    peers: ClassVar[dict[str, Format]] = {}
    homogeneous: ClassVar[bool] = False
    scale: ClassVar[dict[str, str]] = {}
    bound: ClassVar[float | None] = None
    limits: ClassVar[dict[str, tuple[float, float]]] = {}
    gains: ClassVar[dict[str, str]] = {}
    unlimited: ClassVar[tuple[str, ...]] = ()
    floors: ClassVar[bool] = False
    cleared: ClassVar[tuple[str, ...]] = ()

    def update(self, m: Any, state: Any) -> Node:
        """The equation. ``m`` has the accumulators and parameters, ``state`` the state variables
        and peers, as attributes."""
        raise StillnetError(f"cell '{self.name}' has no update equation")

    @cached_property
    def graph(self) -> Graph:
        """The equation as a graph, every format inferred."""
        self._check()
        m = {a: Node("accumulator", (), PRE, a) for a in self.accumulators}
        m |= {p: Node("parameter", (), fmt, p) for p, fmt in self.parameters.items()}
        variables = {
            name: Variable(name, fmt, peer=name in self.peers, own=name in self.state)
            for name, fmt in {**self.peers, **self.state}.items()
        }
        result = self.update(SimpleNamespace(**m), SimpleNamespace(**variables))
        if result.format.bits != ACTIVATION.bits or result.is_condition:
            raise StillnetError(
                f"cell '{self.name}' returns {result.format}; end its update with "
                "state.x.next(...) or output(...), which have 16 bits"
            )
        following: dict[str, Node] = {}
        for name in self.state:
            node = variables[name].following
            if node is None:
                raise StillnetError(f"cell '{self.name}' never assigns its state '{name}'")
            following[name] = node
        return Graph(result, following)

    def _check(self) -> None:
        names = [*self.accumulators, *self.parameters]
        for name in names:
            if names.count(name) > 1:
                raise StillnetError(f"cell '{self.name}' has two operands named '{name}'")
        for kind, formats in {"parameter": self.parameters, "state": self.state}.items():
            for name, fmt in formats.items():
                if fmt.bits > WORD_BITS:
                    raise StillnetError(
                        f"cell '{self.name}': {kind} '{name}' has {fmt.bits} bits, at most "
                        f"{WORD_BITS} are possible"
                    )
        if len(self.peers) > MAX_PEERS:
            raise StillnetError(
                f"cell '{self.name}' has {len(self.peers)} peers, at most {MAX_PEERS} are possible"
            )
        for name, fmt in self.peers.items():
            if self.state.get(name, fmt) != fmt:
                raise StillnetError(
                    f"cell '{self.name}': state '{name}' is {self.state[name]} and its peer of "
                    f"the same name {fmt}; they share a memory and need one format"
                )

    @cached_property
    def output_state(self) -> str | None:
        """The state variable that is also the output vector, if one is."""
        for name, node in self.graph.following.items():
            if node is self.graph.result:
                return name
        return None

    @property
    def rows(self) -> int:
        """Rows of accumulator memory a block: accumulators, then parameters."""
        return len(self.accumulators) + len(self.parameters)

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


def load_cells(path: str | Path) -> None:
    """Runs a Python file that registers cells: ``stillnet --cells FILE COMMAND ...``.

    Raises
    ------
    StillnetError
        Where there is no such file, it fails, or it registers nothing.
    """
    _load(Path(path).resolve(), str(path))


@cache
def _load(path: Path, given: str) -> None:
    before = set(CELLS)
    spec = importlib.util.spec_from_file_location(f"stillnet_cells_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise StillnetError(f"'{given}' is not a Python file with cells")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except StillnetError:
        raise
    except Exception as error:
        raise StillnetError(
            f"'{given}' failed with {type(error).__name__}: {error}; it must run without arguments"
        ) from error
    if set(CELLS) == before:
        raise StillnetError(f"'{given}' registers no cell; put @register before its class")
    for name in set(CELLS) - before:
        _ = CELLS[name].graph  # an equation that is wrong is refused here
