"""Whole recordings at once: what calibration and the search for thresholds run on.

Layer after layer over all steps, so that everything outside a recurrence is one matrix product; and
several recordings side by side. The arithmetic is that of ``Model.run`` (:func:`run_float`) or,
bit for bit, that of ``Reference`` (:func:`run_integers`, by the invariant M = bias + W . ref).
The reference stays the specification; this module is held against it in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stillnet.sw.contract.budgets import next_window
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.events import Mode, encode, encode_within
from stillnet.sw.contract.fixed import Format, narrow, rescale, scale_row, wrap32
from stillnet.sw.contract.sources import INPUT, SECOND, feeds_next_step
from stillnet.sw.util.blas import single_thread

from .network import Network

__all__ = [
    "Arithmetic",
    "Floats",
    "Integers",
    "Layout",
    "Start",
    "Trace",
    "float_start",
    "layer_groups",
    "run_float",
    "run_integers",
    "run_layers",
]

_INTEGER = Format(16, 0)


class Layout:
    """Recordings of any lengths in one array of rows, step by step.

    The rows of step 0 of every recording come first, then those of step 1, and so on; within a step
    the longest recording comes first. So the recordings that still run are always the first ones.

    Parameters
    ----------
    lengths : sequence of int
        Steps of each recording.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self.order = np.argsort([-n for n in lengths], kind="stable")
        active = [sum(n > t for n in lengths) for t in range(max(lengths))]
        self.starts = np.concatenate([[0], np.cumsum(active)])

    @property
    def recordings(self) -> int:
        """How many recordings."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Steps of the longest recording."""
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """Steps of all recordings together."""
        return int(self.starts[-1])

    def at(self, step: int) -> slice:
        """Rows of one step."""
        return slice(int(self.starts[step]), int(self.starts[step + 1]))

    def index(self, recording: int) -> np.ndarray:
        """Rows of one recording, in the order of its steps."""
        rank = int(np.flatnonzero(self.order == recording)[0])
        return self.starts[: self.lengths[recording]] + rank

    def previous(self) -> np.ndarray:
        """For each row the row of the step before; negative (-1 - rank) for first steps."""
        result = np.empty(self.rows, np.int64)
        for t in range(self.steps):
            rows = self.at(t)
            rank = np.arange(rows.stop - rows.start)
            result[rows] = self.starts[t - 1] + rank if t else -1 - rank
        return result

    def pack(self, recordings: Sequence[np.ndarray]) -> np.ndarray:
        """Rows of all recordings, shape (rows, ...)."""
        first = recordings[0]
        flat = np.empty((self.rows, *first.shape[1:]), first.dtype)
        for k, recording in enumerate(recordings):
            flat[self.index(k)] = recording
        return flat

    def unpack(self, flat: np.ndarray) -> list[np.ndarray]:
        """The inverse of :meth:`pack`."""
        return [flat[self.index(k)] for k in range(self.recordings)]


@dataclass
class Start:
    """Where recordings begin, one row per recording, in the order in which they are given.

    Attributes
    ----------
    state : dict of (layer, state name) to array, shape (recordings, units)
    vectors : dict of source to array, shape (recordings, size)
        Latest vector of each source; in integers, the references of its encoders.
    """

    state: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Trace:
    """Everything that a run produced, as rows of a :class:`Layout`.

    Attributes
    ----------
    layout : Layout
    vectors : dict of source to array, shape (rows, size)
        Of every source; of a one-hot input the tokens, shape (rows,).
    states : dict of (layer, state name) to array, shape (rows, units)
        State variables after each step, those left out that are also the layer's vector.
    start : Start
        The state before the first step, in the order of the layout.
    events : dict of int to int
        Events of all rows together, by source (``SECOND`` added for second encoders).
    saturations : int
        Vector elements clipped to 16 bits.
    fired : dict of int to int array, shape (size,)
        The events by element; not of one-hot inputs.
    counts : dict of int to int array, shape (rows,)
        The events by row; not of one-hot inputs.
    late : dict of int to int
        Events that budgets refused, by source.
    """

    layout: Layout
    vectors: dict[int, np.ndarray]
    states: dict[tuple[int, str], np.ndarray]
    start: Start
    events: dict[int, int]
    saturations: int = 0
    fired: dict[int, np.ndarray] = field(default_factory=dict)
    counts: dict[int, np.ndarray] = field(default_factory=dict)
    late: dict[int, int] = field(default_factory=dict)


class _Matrix(Protocol):
    source: int
    gates: tuple[str, ...]
    weight: np.ndarray


class _FloatModel(Protocol):
    """What a run in floating point needs of ``sw.model.Model``."""

    @property
    def layers(self) -> Sequence[Any]: ...

    @property
    def inputs(self) -> int: ...

    @property
    def one_hot(self) -> bool: ...


class Arithmetic:
    """What differs between a run in floating point and one in integers."""

    def __init__(self, layers: Sequence[Any], inputs: int, one_hot: bool, dtype: type) -> None:
        self.layers = layers
        self.inputs = inputs
        self.one_hot = one_hot
        self.dtype = dtype
        self.events: dict[int, int] = {}
        self.fired: dict[int, np.ndarray] = {}
        self.counts: dict[int, list[np.ndarray]] = {}
        self.saturations = 0
        self.late: dict[int, int] = {}
        self.seconds: set[int] = set()

    def size(self, source: int) -> int:
        return self.inputs if source == INPUT else self.layers[source].units

    def cell_of(self, index: int) -> Cell:
        return CELLS[self.layers[index].cell]

    def operand(self, matrix: _Matrix) -> np.ndarray:
        """Weights as float64, shape (size of the source, gates * units). Exact for integers: a sum
        of products of 8 and 17 bits stays below 2**53 for up to 2**29 columns."""
        return matrix.weight.astype(np.float64).reshape(-1, matrix.weight.shape[2]).T

    def token_value(self) -> float:
        return 1.0

    def bias(self, index: int) -> np.ndarray:
        layer = self.layers[index]
        order = self.cell_of(index).accumulators
        return np.stack([layer.bias[g].astype(np.float64) for g in order])

    def cell(
        self, index: int, m: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(vectors, new state) for accumulators m, shape (rows, accumulators, units)."""
        raise NotImplementedError

    def encode(self, key: int, vector: np.ndarray, reference: np.ndarray) -> None:
        """Brings references, shape (recordings, size), up to date with vectors, in place."""
        raise NotImplementedError


class Floats(Arithmetic):
    """A run of a float model, without encoders."""

    def __init__(self, model: _FloatModel) -> None:
        super().__init__(model.layers, model.inputs, model.one_hot, np.float64)

    def cell(
        self, index: int, m: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        cell = self.cell_of(index)
        operands = {g: m[:, k] for k, g in enumerate(cell.accumulators)}
        return cell.evaluate_float({**operands, **self.layers[index].parameters}, state)

    def encode(self, key: int, vector: np.ndarray, reference: np.ndarray) -> None:
        reference[...] = vector


class Integers(Arithmetic):
    """A run of a quantized network, with its encoders."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.layers, network.inputs, network.input_mode.one_hot, np.int64)
        self.network = network
        self.seconds = {
            i for i, layer in enumerate(network.layers) if layer.threshold_recurrent is not None
        }
        # Every recording has as many steps before it as the others.
        self.windows = dict.fromkeys(network.budgets, 0)

    def token_value(self) -> float:
        return float(1 << self.network.input_fraction)

    def cell(
        self, index: int, m: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        layer, cell = self.network.layers[index], self.cell_of(index)
        pre = rescale(wrap32(m.astype(np.int64)), layer.shift)
        for g, multiplier in (layer.scale or {}).items():
            row = cell.accumulators.index(g)
            pre[:, row] = scale_row(pre[:, row], multiplier)
        operands = {g: pre[:, k] for k, g in enumerate(cell.accumulators)}
        y, state, clipped = cell.evaluate({**operands, **layer.parameters}, state)
        self.saturations += clipped
        return narrow(y, layer.write_shift, _INTEGER), state

    def encode(self, key: int, vector: np.ndarray, reference: np.ndarray) -> None:
        mode, threshold = self.network.input_mode, self.network.input_limit
        if key != INPUT:
            layer = self.network.layers[key % SECOND]
            mode, threshold = layer.mode, layer.limit
            if key >= SECOND:
                assert layer.threshold_recurrent is not None
                threshold = layer.threshold_recurrent
        if key in self.windows:
            self._encode_within(key, vector, reference, threshold)
            return
        if isinstance(threshold, np.ndarray):
            threshold = np.broadcast_to(threshold, vector.shape).reshape(-1)
        index, _ = encode(mode, vector.reshape(-1), reference.reshape(-1), threshold)
        self.events[key] = self.events.get(key, 0) + len(index)
        fired = np.bincount(index % vector.shape[1], minlength=vector.shape[1])
        self.fired[key] = self.fired.get(key, 0) + fired
        counts = np.bincount(index // vector.shape[1], minlength=len(vector))
        self.counts.setdefault(key, []).append(counts)

    def _encode_within(
        self, key: int, vector: np.ndarray, reference: np.ndarray, threshold: int | np.ndarray
    ) -> None:
        """One step of a vector with a budget, in every recording."""
        budget, window, size = self.network.budgets[key], self.windows[key], vector.shape[1]
        counts = np.zeros(len(vector), np.int64)
        for k, (row, ref) in enumerate(zip(vector, reference)):
            index, _, late = encode_within(row, ref, threshold, budget, window)
            counts[k] = len(index)
            self.events[key] = self.events.get(key, 0) + len(index)
            self.late[key] = self.late.get(key, 0) + late
            fired = np.bincount(index, minlength=size)
            self.fired[key] = self.fired.get(key, 0) + fired
        self.counts.setdefault(key, []).append(counts)
        self.windows[key] = next_window(window, budget, size)


def float_start(layers: Sequence[Any], layout: Layout) -> Start:
    """Where the recordings of a float model begin: in the initial state of its layers."""
    start = Start()
    for i, layer in enumerate(layers):
        for s, value in layer.initial.items():
            rows = np.tile(np.asarray(value, float), (layout.recordings, 1))
            start.state[i, s] = rows
            if s == CELLS[layer.cell].output_state:
                start.vectors[i] = rows
    return start


def run_float(
    model: _FloatModel, layout: Layout, x: np.ndarray, start: Start | None = None
) -> Trace:
    """The float network over recordings; the same numbers as ``Model.run``.

    Parameters
    ----------
    model : Model
    layout : Layout
    x : array of float, shape (rows, inputs), or of int, shape (rows,), for one-hot models
    start : Start, optional
        Instead of the model's initial state.
    """
    if start is None:
        start = float_start(model.layers, layout)
    return run_layers(Floats(model), layout, x, start)


def run_integers(
    network: Network, layout: Layout, x: np.ndarray, start: Start | None = None
) -> Trace:
    """The quantized network over recordings; the same integers as ``Reference``.

    Parameters
    ----------
    network : Network
    layout : Layout
    x : int64 array, shape (rows, inputs), or (rows, 1) for one-hot networks
    start : Start, optional
        Instead of the network's initial state.
    """
    arithmetic = Integers(network)
    if start is None:
        start, arithmetic.windows = Start(), {}  # what a recording begins with is sent whole
        for i, layer in enumerate(network.layers):
            for s, value in layer.initial.items():
                rows = np.tile(value.astype(np.int64), (layout.recordings, 1))
                start.state[i, s] = rows
                if s == CELLS[layer.cell].output_state:
                    vector = narrow(rows, layer.write_shift, _INTEGER)
                    for key in [i, i + SECOND] if i in arithmetic.seconds else [i]:
                        start.vectors[key] = np.zeros_like(vector)
                        arithmetic.encode(key, vector, start.vectors[key])
        arithmetic.events.clear()
        arithmetic.fired.clear()
        arithmetic.counts.clear()
        arithmetic.windows = dict.fromkeys(network.budgets, 0)
    if network.input_mode.one_hot:
        x = x[:, 0]
        arithmetic.events[INPUT] = _token_events(network.input_mode, layout, x)
    return run_layers(arithmetic, layout, x, start)


def _token_events(mode: Mode, layout: Layout, tokens: np.ndarray) -> int:
    if mode is Mode.ONE_HOT_PLAIN:
        return int(np.count_nonzero(tokens >= 0))
    previous = layout.previous()
    old = np.where(previous < 0, -1, tokens[np.maximum(previous, 0)])
    changed = old != tokens
    return int(np.count_nonzero(changed & (old >= 0)) + np.count_nonzero(changed & (tokens >= 0)))


def layer_groups(layers: Sequence[Any]) -> list[range]:
    """Runs of layers that take their steps together: feedback and peers never leave a group."""
    ends = list(range(len(layers)))
    for i, layer in enumerate(layers):
        for m in layer.matrices:
            if m.source > i:
                ends[i] = max(ends[i], m.source)
        for peer in layer.peers.values():  # of this step or of the last one: side by side
            first, last = min(i, peer), max(i, peer)
            ends[first] = max(ends[first], last)
    found, first = [], 0
    while first < len(ends):
        last = first
        k = first
        while k <= last:
            last = max(last, ends[k])
            k += 1
        found.append(range(first, last + 1))
        first = last + 1
    return found


def run_layers(a: Arithmetic, layout: Layout, x: np.ndarray, start: Start) -> Trace:
    """Runs recordings in any arithmetic.

    Parameters
    ----------
    a : Arithmetic
    layout : Layout
    x : array, shape (rows, inputs), or (rows,) of tokens
    start : Start
    """
    run = _Run(a, layout, x, start)
    with single_thread():
        for group in layer_groups(a.layers):
            run.group(group)
    return Trace(
        layout,
        run.vectors,
        run.states,
        run.start,
        dict(a.events),
        a.saturations,
        dict(a.fired),
        {key: np.concatenate(counts) for key, counts in a.counts.items()},
        dict(a.late),
    )


@dataclass
class _Feedback:
    """A matrix whose source is in the group of its own layer.

    Attributes
    ----------
    key : int
        Of the encoder that feeds it.
    gates : list of int
        Accumulators that it adds into.
    operand : array, shape (size of the source, gates * units)
    """

    key: int
    gates: list[int]
    operand: np.ndarray


class _Run:
    """One run over recordings, group after group."""

    def __init__(self, a: Arithmetic, layout: Layout, x: np.ndarray, start: Start) -> None:
        self.a, self.layout, self.x = a, layout, x
        self.start = self._ranked(start)
        self.vectors: dict[int, np.ndarray] = {INPUT: x}
        self.states: dict[tuple[int, str], np.ndarray] = {}
        self.references: dict[int, np.ndarray] = {}
        # References of the encoders as they are now, one row for each recording.
        self.carry = {key: rows.copy() for key, rows in self.start.vectors.items()}
        if not a.one_hot:
            self.references[INPUT] = self._encode_all(INPUT, x)

    def _ranked(self, start: Start) -> Start:
        """The start in the order of the layout, with zeros for what is not given."""
        a, layout = self.a, self.layout
        ranked = Start()

        def rows(given: np.ndarray | None, units: int) -> np.ndarray:
            found = np.zeros((layout.recordings, units), a.dtype) if given is None else given
            return np.array(found[layout.order], a.dtype)

        for i, layer in enumerate(a.layers):
            for s in CELLS[layer.cell].state:
                ranked.state[i, s] = rows(start.state.get((i, s)), layer.units)
        for key in [INPUT, *range(len(a.layers)), *(i + SECOND for i in sorted(a.seconds))]:
            source = key if key == INPUT else key % SECOND
            given = start.vectors.get(key, start.vectors.get(source))
            ranked.vectors[key] = rows(given, a.size(source))
        return ranked

    def group(self, group: range) -> None:
        """Runs all steps of a group of layers."""
        a = self.a
        feedback = {i: self._feedback(i, group) for i in group}
        if any(feedback.values()) or any(CELLS[a.layers[i].cell].state for i in group):
            self._step_by_step(group, feedback)
        else:
            (i,) = group
            self.vectors[i], _ = a.cell(i, self._external(i, group), {})
            self.references[i] = self._encode_all(i, self.vectors[i])

    def _external(self, index: int, group: range) -> np.ndarray:
        """Biases and products of what other groups feed, shape (rows, accumulators, units)."""
        a, x = self.a, self.x
        order = a.cell_of(index).accumulators
        m = np.empty((self.layout.rows, len(order), a.layers[index].units))
        m[:] = a.bias(index)
        for matrix in a.layers[index].matrices:
            if matrix.source in group:
                continue
            operand = a.operand(matrix)
            if matrix.source == INPUT and a.one_hot:
                product = operand[np.maximum(x, 0)] * (a.token_value() * (x >= 0))[:, None]
            else:
                product = self.references[matrix.source].astype(np.float64) @ operand
            for k, g in enumerate(matrix.gates):
                m[:, order.index(g)] += product[:, k * m.shape[2] : (k + 1) * m.shape[2]]
        return m

    def _feedback(self, index: int, group: range) -> list[_Feedback]:
        """The matrices of a layer that its own group feeds."""
        a = self.a
        found = []
        for m in a.layers[index].matrices:
            if m.source in group:
                second = feeds_next_step(m.source, index) and m.source in a.seconds
                gates = [a.cell_of(index).accumulators.index(g) for g in m.gates]
                key = m.source + SECOND if second else m.source
                found.append(_Feedback(key, gates, np.ascontiguousarray(a.operand(m))))
        return found

    def _step_by_step(self, group: range, feedback: dict[int, list[_Feedback]]) -> None:
        a, layout = self.a, self.layout
        pre = {i: self._external(i, group) for i in group}
        state = {key: rows.copy() for key, rows in self.start.state.items() if key[0] in group}
        for i in group:
            self.vectors[i] = np.empty((layout.rows, a.layers[i].units), a.dtype)
            self.references[i] = np.empty_like(self.vectors[i])
            for s in CELLS[a.layers[i].cell].state:
                if s != CELLS[a.layers[i].cell].output_state or a.dtype is np.int64:
                    self.states[i, s] = np.empty_like(self.vectors[i])
        for t in range(layout.steps):
            at = layout.at(t)
            n = at.stop - at.start
            for i in group:
                m = pre[i][at]
                for f in feedback[i]:
                    product = self.carry[f.key][:n].astype(np.float64, copy=False) @ f.operand
                    m[:, f.gates] += product.reshape(n, len(f.gates), -1)
                self._cell(i, at, m, state)

    def _cell(
        self, i: int, at: slice, m: np.ndarray, state: dict[tuple[int, str], np.ndarray]
    ) -> None:
        """One step of one layer: cell, then encoders."""
        a, n = self.a, at.stop - at.start
        layer = a.layers[i]
        readers = {**dict.fromkeys(CELLS[layer.cell].state, i), **layer.peers}
        v, new = a.cell(i, m, {s: state[j, s][:n] for s, j in readers.items()})
        for s, value in new.items():
            state[i, s][:n] = value
            if (i, s) in self.states:
                self.states[i, s][at] = value
        self.vectors[i][at] = v
        a.encode(i, v, self.carry[i][:n])
        self.references[i][at] = self.carry[i][:n]
        if i in a.seconds:
            a.encode(i + SECOND, v, self.carry[i + SECOND][:n])

    def _encode_all(self, key: int, vectors: np.ndarray) -> np.ndarray:
        """References after each step, for a source outside of any recurrence."""
        if isinstance(self.a, Floats):
            return vectors
        result = np.empty_like(vectors)
        for t in range(self.layout.steps):
            rows = self.layout.at(t)
            reference = self.carry[key][: rows.stop - rows.start]
            self.a.encode(key, vectors[rows], reference)
            result[rows] = reference
        return result
