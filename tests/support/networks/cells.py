"""Random networks of any cells: parameters, peers, wide state, layers that no matrix feeds.

``random_networks`` has the surroundings and the run; here are the networks. Which layer reads which
is drawn first, because a peer must have the state and the size of the one that reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import Format
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from tests.support.networks.random import (
    THRESHOLDS,
    Case,
    Choices,
    Drawn,
    Seeded,
    random_behaviour,
    random_inputs,
    random_weights,
)

__all__ = ["cell_cases", "random_cell_case", "random_cell_network", "random_values"]


def random_values(choices: Choices, fmt: Format, units: int) -> np.ndarray:
    """Integers of a format: all of it, its ends, or small ones."""
    rng = choices.rng()
    kind = choices.pick(("any", "ends", "small", "zero"))
    if kind == "zero":
        return np.zeros(units, np.int64)
    if kind == "ends":
        return rng.choice([fmt.minimum, fmt.maximum, -1, 0, 1], units)
    low, high = (fmt.minimum, fmt.maximum) if kind == "any" else (-8, 8)
    return rng.integers(max(low, fmt.minimum), min(high, fmt.maximum) + 1, units)


def _limited(cell: Cell, name: str, values: np.ndarray) -> np.ndarray:
    """Values of a parameter inside of what the cell allows."""
    if name not in cell.limits:
        return values
    unit = 2.0 ** -cell.parameters[name].fraction
    low, high = cell.limits[name]
    return np.clip(values, int(np.ceil(low / unit)), int(np.floor(high / unit)))


def _donors(cells: list[str], index: int, name: str) -> list[int]:
    """Layers whose state a layer may read under a name."""
    fmt = CELLS[cells[index]].peers[name]
    return [
        j for j, other in enumerate(cells) if j != index and CELLS[other].state.get(name) == fmt
    ]


def _cells(choices: Choices, config: EngineConfig, most: int) -> list[str]:
    """Cells of the layers; whatever a layer reads, some other layer has."""
    first = [
        c for c in config.cells if CELLS[c].accumulators and CELLS[c].accumulators != ("none",)
    ]
    cells = [choices.pick(first)]
    for _ in range(choices.integer(0, most - 1)):
        cells.append(choices.pick(config.cells))
    for i in range(len(cells)):
        for name in CELLS[cells[i]].peers:
            if not _donors(cells, i, name):
                fmt = CELLS[cells[i]].peers[name]
                cells.append(
                    choices.pick([c for c in config.cells if CELLS[c].state.get(name) == fmt])
                )
    # Those that were added may read something themselves.
    for i in range(len(cells)):
        if any(not _donors(cells, i, name) for name in CELLS[cells[i]].peers):
            return [first[0]]
    return cells if len(cells) <= config.layers else [first[0]]


def _peers(choices: Choices, cells: list[str]) -> list[dict[str, int]]:
    return [
        {name: choices.pick(_donors(cells, i, name)) for name in CELLS[cell].peers}
        for i, cell in enumerate(cells)
    ]


def _sizes(choices: Choices, peers: list[dict[str, int]], most: int) -> list[int]:
    """Sizes, equal where one layer reads another."""
    group = list(range(len(peers)))
    for i, read in enumerate(peers):
        for j in read.values():
            old, new = group[i], group[j]
            group = [new if g == old else g for g in group]
    size = {g: 1 if choices.chance(20) else choices.integer(1, most) for g in sorted(set(group))}
    return [size[g] for g in group]


def _sources(choices: Choices, index: int, plain: list[bool]) -> list[int]:
    """Sources of a layer, all delta or all plain; ``plain[0]`` is the input."""
    primary = index - 1 if index == 0 or not choices.chance(20) else INPUT
    fitting = [s for s in range(INPUT, len(plain) - 1) if plain[s + 1] == plain[primary + 1]]
    chosen = {primary}
    if index in fitting and choices.chance(70):
        chosen.add(index)
    for source in fitting:
        if source not in (primary, index) and choices.chance(15):
            chosen.add(source)
    return sorted(chosen)


def _gates(choices: Choices, cell: Cell) -> tuple[str, ...]:
    accumulators = cell.accumulators
    if len(accumulators) == 1 or choices.chance(50):
        return accumulators
    chosen = [a for a in accumulators if choices.chance(60)]
    return tuple(reversed(chosen)) or accumulators[:1]


def random_cell_network(
    choices: Choices, config: EngineConfig, *, max_layers: int = 4, max_units: int = 40
) -> Network:
    """A valid network of the cells that an engine has."""
    cells = _cells(choices, config, max_layers)
    peers = _peers(choices, cells)
    sizes = _sizes(choices, peers, max_units)
    plain_all = choices.pick((False, False, True, None))
    plain = [choices.chance(50) if plain_all is None else plain_all for _ in range(len(cells) + 1)]
    inputs, fraction = choices.integer(1, config.inputs), choices.integer(0, 15)
    one_hot = choices.chance(15)
    mode = {
        (False, False): Mode.DELTA,
        (False, True): Mode.NONZERO,
        (True, False): Mode.ONE_HOT,
        (True, True): Mode.ONE_HOT_PLAIN,
    }[one_hot, plain[0]]
    network = Network(inputs, fraction, [], mode, choices.pick(THRESHOLDS))
    shifts, fractions = [], []
    for name in cells:
        cell = CELLS[name]
        shifts.append(0 if cell.homogeneous else choices.pick((0, 2, 5)))
        nominal = cell.graph.result.format.fraction
        fractions.append(choices.integer(7, 13) if cell.homogeneous else nominal - shifts[-1])
    left = config.matrices - 2 * len(cells)
    for i, name in enumerate(cells):
        cell = CELLS[name]
        exponent = choices.pick((24, 18, 21, 27, 13))
        matrices: list[QuantizedMatrix] = []
        fed = cell.accumulators not in ((), ("none",))
        if fed and cell.peers and i > 0 and choices.chance(30):
            fed = False  # only reads its peers
        for source in _sources(choices, i, plain) if fed else ():
            size = inputs if source == INPUT else sizes[source]
            source_fraction = fraction if source == INPUT else fractions[source]
            gates = _gates(choices, cell)
            if len(matrices) < left - (len(cells) - 1 - i):
                weight = random_weights(choices, (len(gates), sizes[i], size))
                matrices.append(QuantizedMatrix(source, gates, weight, exponent - source_fraction))
        left -= len(matrices)
        bias_range = choices.pick((1000, 0, 200_000, 1 << 29))
        rng = choices.rng()
        layer = QuantizedLayer(
            name=f"layer {i}",
            cell=name,
            units=sizes[i],
            matrices=matrices,
            bias={
                g: rng.integers(-bias_range, bias_range + 1, sizes[i]) for g in cell.accumulators
            },
            shift=exponent + 8 - (fractions[i] if cell.homogeneous else 13),
            write_shift=shifts[i],
            fraction=fractions[i],
            mode=Mode.NONZERO if plain[i + 1] else Mode.DELTA,
            threshold=choices.pick(THRESHOLDS),
            parameters={
                p: _limited(cell, p, random_values(choices, f, sizes[i]))
                for p, f in cell.parameters.items()
            },
            peers=peers[i],
        )
        if config.second_threshold and choices.chance(50):
            layer.threshold_recurrent = choices.pick(THRESHOLDS)
        if cell.state and cell.bound is None and choices.chance(25):
            layer.initial = {
                s: np.maximum(random_values(choices, f, sizes[i]), -f.maximum)
                for s, f in cell.state.items()
            }
        network.layers.append(layer)
    network.validate()
    return network


def _case(choices: Choices, config: EngineConfig, steps: int) -> Case:
    network = random_cell_network(choices, config)
    streaming = choices.chance(60)
    inputs = random_inputs(choices, network, choices.integer(1, steps if streaming else 5))
    history = random_inputs(choices, network, choices.integer(1, 4) if choices.chance(25) else 0)
    return Case(network, inputs, history, random_behaviour(choices), streaming)


def random_cell_case(seed: int, config: EngineConfig, *, steps: int = 20) -> Case:
    """The case of a seed."""
    return _case(Seeded(seed), config, steps)


@st.composite
def cell_cases(draw: Any, config: EngineConfig, *, steps: int = 20) -> Case:
    """Hypothesis strategy of cases for an engine."""
    return _case(Drawn(draw), config, steps)
