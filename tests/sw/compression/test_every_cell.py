"""``compress`` takes every cell that ``quantize`` takes: tokens, plain events, complex state."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sw.compression import CompressOptions, compress
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.layers import Layer, Matrix
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.networks.s5 import random_model

UNITS, INPUTS = 12, 6
QUICK = ("lstm_peephole", "egru", "conv4", "lru", "mingru", "mask", "gelu", "gru_hard")
ALONE = [name for name in CELLS if not CELLS[name].peers and "none" not in CELLS[name].accumulators]
"""Cells that read no other layer's state."""


def recordings(inputs: int = INPUTS) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [np.cumsum(rng.normal(0, 0.3, (120, inputs)), axis=0) for _ in range(2)]


def with_cell(name: str) -> Model:
    """The cell, recurrent where it has the state for it, and a layer behind it."""
    rng, cell = np.random.default_rng(5), CELLS[name]
    gates = tuple(cell.accumulators)
    layer = Layer(
        "cell",
        name,
        UNITS,
        (Matrix(INPUT, gates, rng.normal(0, 0.4, (len(gates), UNITS, INPUTS))),),
        {g: rng.normal(0, 0.1, UNITS) for g in gates},
        parameters={
            p: rng.uniform(0.2, 0.8, UNITS) * (-1 if p == "low" else 1) for p in cell.parameters
        },
        plain=name == "egru",
    )
    model = Model(INPUTS)
    model.layers.append(layer)
    return model.dense(rng.normal(0, 0.4, (3, UNITS)), np.zeros(3), name="out")


def holds(network: Network, x: np.ndarray, most: float) -> None:
    """It runs, its weights have four bits, and no more of them are left than that."""
    network.validate()
    weights = np.concatenate([m.weight.ravel() for layer in network.layers for m in layer.matrices])
    assert weights.min() >= -8 and weights.max() <= 7
    assert np.count_nonzero(weights) <= most * weights.size
    reference = Reference(network)
    y = [reference.step_integers(row) for row in network.quantize_input(x)[:40]]
    assert np.std(np.array(y, float), axis=0).max() > 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in ALONE]
)
def test_a_cell_is_compressed(name: str) -> None:
    x = recordings()
    network = compress(with_cell(name), x, CompressOptions(bits=4, sparsity=0.4))
    assert [layer.cell for layer in network.layers] == [name, "linear"]
    holds(network, x[0], 0.66)


def test_thresholds_of_a_cell_are_part_of_its_equation() -> None:
    """They stay as they are, and no others are searched for its events."""
    x, model = recordings(), with_cell("egru")
    network = compress(model, x, CompressOptions(bits=4, sparsity=0.4, mean_error=0.5))
    layer = network.layers[0]
    assert layer.mode.name == "NONZERO" and layer.threshold == 0 and layer.thresholds is None
    theta = model.layers[0].parameters["theta"]
    fraction = CELLS["egru"].parameters["theta"].fraction
    np.testing.assert_array_equal(layer.parameters["theta"], np.rint(theta * 2.0**fraction))
    holds(network, x[0], 0.66)


def test_a_stack_with_complex_state_is_compressed() -> None:
    x = recordings()
    model = random_model(np.random.default_rng(4), INPUTS, 12, [6], 3, "zoh")
    holds(compress(model, x, CompressOptions(bits=4, sparsity=0.4)), x[0], 0.75)


def test_tokens_are_compressed() -> None:
    rng = np.random.default_rng(6)
    tokens = [rng.integers(0, 20, 150) for _ in range(2)]
    model = Model(20, one_hot=True).gru(
        rng.normal(0, 0.5, (36, 20)), rng.normal(0, 0.4, (36, 12)), np.zeros(36), name="gru"
    )
    model = model.dense(rng.normal(0, 0.5, (4, 12)), np.zeros(4), name="out")
    network = compress(model, tokens, CompressOptions(bits=4, sparsity=0.4))
    network.validate()
    columns = np.concatenate([m.weight.ravel() for m in network.layers[0].matrices])
    assert np.abs(columns).max() <= 8
    recurrent = network.layers[0].matrices[1].weight
    assert np.count_nonzero(recurrent) <= 0.75 * recurrent.size
