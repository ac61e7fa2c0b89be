"""How much the network's output moves when an accumulator or a vector element does.

Random signs over the outputs of a recording are sent backwards through the float network and
through time, with each cell's derivatives by central differences of its own equation: any
registered cell works. The mean square of what arrives is, for errors that are independent from step
to step, the power of the output's error for a unit of error power there (Hutchinson's estimate of
the diagonal of J^T J, the Gauss-Newton form of the second derivative that the optimal brain surgeon
rests on).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Layer, Model
from stillnet.sw.network.sequence import Trace, layer_groups
from stillnet.sw.util.blas import single_thread

from .simulate import before

__all__ = ["Sensitivity", "accumulators_of", "sensitivity"]

_HALF = 2.0**-7
"""Half of the distance of the central differences."""


@dataclass
class Sensitivity:
    """Power of the output's error, summed over outputs and time, for a unit of error power.

    Attributes
    ----------
    accumulators : dict of (layer, gate) to array, shape (rows, units)
    vectors : dict of source to array, shape (size,)
        For an error of an element as all of its consumers see it.
    recurrent : dict of layer to array, shape (units,)
        The part of ``vectors`` that goes through the layer's own recurrence.
    """

    accumulators: dict[tuple[int, str], np.ndarray]
    vectors: dict[int, np.ndarray]


def sensitivity(model: Model, trace: Trace, *, probes: int = 3, seed: int = 0) -> Sensitivity:
    """Sensitivities of a float model on a trace of it.

    Parameters
    ----------
    model : Model
    trace : Trace
        Of ``run_float`` on some recordings.
    probes : int
        Random vectors sent backwards; each recording, step and output has signs of its own.
    seed : int
    """
    groups = layer_groups(model.layers)
    slopes = [_slopes(model, trace, i) for i in range(len(model.layers))]
    rng = np.random.default_rng([seed, 0x5E25])
    power: dict[tuple[int, str], np.ndarray] = {}
    vectors = {s: np.zeros(model.source_size(s)) for s in range(INPUT, len(model.layers))}
    with single_thread():
        for _ in range(probes):
            arrived = _backward(model, trace, groups, slopes, rng)
            for key, g in arrived[0].items():
                power[key] = power.get(key, 0.0) + g**2 / probes
            for source, v in arrived[1].items():
                vectors[source] += np.mean(v**2, axis=0) / probes
    return Sensitivity(power, vectors)


@dataclass
class _Slopes:
    """Derivatives of a cell at every row: of its output and of each state variable after the step,
    by accumulator and by state variable before it, peers included; arrays of shape (rows, units).
    """

    output: dict[str, np.ndarray]
    output_old: dict[str, np.ndarray]
    state: dict[tuple[str, str], np.ndarray]
    state_old: dict[tuple[str, str], np.ndarray]


def readers(layer: Layer, index: int) -> dict[str, int]:
    """By name of a state variable that a cell reads: the layer that has it, itself or a peer."""
    return {**dict.fromkeys(CELLS[layer.cell].state, index), **layer.peers}


def accumulators_of(model: Model, trace: Trace, index: int) -> dict[str, np.ndarray]:
    """Float accumulators of a layer over a whole trace, by gate, shape (rows, units)."""
    layer = model.layers[index]
    m = {g: np.tile(np.asarray(b, float), (trace.layout.rows, 1)) for g, b in layer.bias.items()}
    for matrix in layer.matrices:
        flat = matrix.weight.reshape(-1, matrix.weight.shape[2])
        if matrix.source == INPUT and model.one_hot:
            tokens = trace.vectors[INPUT]
            product = flat.T[np.maximum(tokens, 0)] * (tokens >= 0)[:, None]
        else:
            z = trace.vectors[matrix.source]
            if matrix.source >= index:
                z = before(trace.layout, z, trace.start.vectors[matrix.source])
            product = z @ flat.T
        for g, part in zip(matrix.gates, np.split(product, len(matrix.gates), axis=1)):
            m[g] += part
    return m


def _slopes(model: Model, trace: Trace, index: int) -> _Slopes:
    layer, layout = model.layers[index], trace.layout
    cell = CELLS[layer.cell]
    m = accumulators_of(model, trace, index)
    state = {}
    for s, j in readers(layer, index).items():
        is_vector = s == CELLS[model.layers[j].cell].output_state
        values = trace.vectors[j] if is_vector else trace.states[j, s]
        late = j >= index
        state[s] = before(layout, values, trace.start.state[j, s]) if late else values
    result = _Slopes({}, {}, {}, {})
    for name in (*cell.accumulators, *state):
        ends = []
        for sign in (1, -1):
            mm, ss = {**m, **layer.parameters}, dict(state)
            if name in m:
                mm[name] = m[name] + sign * _HALF
            else:
                ss[name] = state[name] + sign * _HALF
            ends.append(cell.evaluate_float(mm, ss))
        (y1, s1), (y0, s0) = ends
        of_sum = name in m
        output = result.output if of_sum else result.output_old
        others = result.state if of_sum else result.state_old
        output[name] = (y1 - y0) / (2 * _HALF)
        for s in cell.state:
            if s != cell.output_state:
                others[s, name] = (s1[s] - s0[s]) / (2 * _HALF)
    return result


def _backward(
    model: Model,
    trace: Trace,
    groups: list[range],
    slopes: list[_Slopes],
    rng: np.random.Generator,
) -> tuple[dict[tuple[int, str], np.ndarray], dict[int, np.ndarray]]:
    """Gradients of a random combination of all outputs, by accumulators and by vectors."""
    layout = trace.layout
    last = len(model.layers) - 1
    sources = [s for s in range(INPUT, last + 1) if not (s == INPUT and model.one_hot)]
    upstream = {s: np.zeros((layout.rows, model.source_size(s))) for s in sources}
    upstream[last] += rng.choice([-1.0, 1.0], size=upstream[last].shape)
    seen = {s: np.zeros_like(v) for s, v in upstream.items()}
    accumulators: dict[tuple[int, str], np.ndarray] = {}
    for group in reversed(groups):
        internal = {i: [m for m in model.layers[i].matrices if m.source in group] for i in group}
        carry: dict[tuple[int, str], np.ndarray] = {}
        late = {i: np.zeros((layout.recordings, model.layers[i].units)) for i in group}
        for i in group:
            for g in CELLS[model.layers[i].cell].accumulators:
                accumulators[i, g] = np.zeros((layout.rows, model.layers[i].units))
            for s in CELLS[model.layers[i].cell].state:
                carry[i, s] = np.zeros((layout.recordings, model.layers[i].units))
        looped = any(internal.values()) or bool(carry)
        steps = [layout.at(t) for t in reversed(range(layout.steps))]
        for at in steps if looped else [slice(0, layout.rows)]:
            n = at.stop - at.start
            early = {i: np.zeros((n, model.layers[i].units)) for i in group}
            read: dict[tuple[int, str], np.ndarray] = {}  # by layers above, in this step
            following = {i: np.zeros_like(late[i]) for i in group}
            for i in reversed(group):
                cell, slope = CELLS[model.layers[i].cell], slopes[i]
                g_y = upstream[i][at] + early[i]
                if looped:
                    g_y = g_y + late[i][:n]
                    seen[i][at] += early[i] + late[i][:n]
                output = cell.output_state
                after = {s: carry[i, s][:n] + read.get((i, s), 0.0) for s in cell.state}
                if output is not None:
                    g_y = g_y + after[output]
                new = {s: g_y * old[at] for s, old in slope.output_old.items()}
                for a in cell.accumulators:
                    accumulators[i, a][at] = g_y * slope.output[a][at]
                for s in cell.state:
                    if s == output:
                        continue
                    for old in new:
                        new[old] = new[old] + after[s] * slope.state_old[s, old][at]
                    for a in cell.accumulators:
                        accumulators[i, a][at] += after[s] * slope.state[s, a][at]
                for s in cell.state:
                    carry[i, s][:n] = 0.0
                for s, j in readers(model.layers[i], i).items():
                    if j < i:
                        read[j, s] = read.get((j, s), 0.0) + new[s]
                    else:
                        carry[j, s][:n] += new[s]
                for m in internal[i]:
                    arrived = np.concatenate([accumulators[i, a][at] for a in m.gates], axis=1)
                    back = arrived @ m.weight.reshape(-1, m.weight.shape[2])
                    if m.source >= i:
                        following[m.source][:n] += back
                    else:
                        early[m.source] += back
            late = following
        for i in group:
            for m in model.layers[i].matrices:
                if m.source in group or m.source not in upstream:
                    continue
                arrived = np.concatenate([accumulators[i, a] for a in m.gates], axis=1)
                upstream[m.source] += arrived @ m.weight.reshape(-1, m.weight.shape[2])
    for source in sources:
        if source != last:
            seen[source] += upstream[source]
    return accumulators, seen
