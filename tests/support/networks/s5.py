"""Random S5 networks, sane ones and ones at the ends of all formats, for the tests against
``s5_published``."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.model.model import Model
from stillnet.sw.model.s5 import batch_norm
from stillnet.sw.network.network import Network
from tests.support.networks.quick import quantize

HIGH, LOW = 32767, -32768


def random_model(
    rng: np.random.Generator,
    inputs: int,
    units: int,
    states: list[int],
    outputs: int,
    method: str,
    size: float = 1.0,
) -> Model:
    """Encoder, a block for each number of states, decoder; ``size`` multiplies every weight."""

    def sparse(*shape: int) -> np.ndarray:
        return size * rng.normal(0, 1, shape) * (rng.random(shape) < 0.6)

    model = Model(inputs).s5_encoder(sparse(units, inputs), sparse(units), name="encoder")
    for number, p in enumerate(states):
        factor, offset = np.ones(units), None
        if rng.random() < 0.7:
            mean, variance = rng.normal(0, 1, units), rng.uniform(0.1, 4, units)
            factor, offset = batch_norm(mean, variance, sparse(units), sparse(units))
        model.s5(
            -np.exp(rng.uniform(-9, 2, p)) + 1j * rng.uniform(-30, 30, p),
            sparse(p, units) + 1j * sparse(p, units),
            sparse(units, p) + 1j * sparse(units, p),
            rng.uniform(-8, 7.9, units) / np.maximum(1, np.abs(factor)),  # d * factor fits s16.12
            glu=(sparse(units, units), sparse(units) if rng.random() < 0.7 else None),
            step=np.exp(rng.uniform(np.log(0.001), 0, p)),
            method=method,
            norm=None if offset is None else (factor, offset),
            conjugate=bool(rng.random() < 0.7),
            x0=rng.normal(0, 0.05, p) + 1j * rng.normal(0, 0.05, p) if rng.random() < 0.3 else None,
            name=f"block{number}",
        )
    return model.dense(sparse(outputs, units), sparse(outputs), name="decoder")


def to_the_ends(rng: np.random.Generator, network: Network) -> None:
    """Puts the integers of a network at or beside the ends of their formats, zeros between them."""
    for layer in network.layers:
        shift = int(rng.choice([layer.shift, 0, 7, 8, 9, 10, 20, 31]))
        for m in layer.matrices:
            m.fraction += shift - layer.shift
            m.weight = rng.choice([-128, 127, 0, 0, 1, -1], m.weight.shape).astype(np.int8)
        if layer.matrices:
            layer.shift = shift
        for name in layer.parameters:
            fmt = CELLS[layer.cell].parameters[name]
            ends = [fmt.minimum, fmt.maximum, 0, 1, -1, fmt.maximum // 3]
            layer.parameters[name] = rng.choice(ends, layer.units)
        for name in layer.initial:
            layer.initial[name] = rng.choice([-HIGH, (1 << 31) - 1, 1, 0], layer.units)
        for gate in layer.bias:
            ends = [-(1 << 30), (1 << 30) - 1, 0, -1, 1, 1 << 20]
            layer.bias[gate] = rng.choice(ends, layer.units)
    network.validate()


def rows_at_the_ends(rng: np.random.Generator, steps: int, inputs: int) -> list[list[int]]:
    """Input rows of the largest, the smallest and zero; some rows in between."""
    ends = rng.choice([HIGH, LOW, 0, 1, -1], (steps, inputs))
    between = rng.integers(LOW, HIGH + 1, (steps, inputs))
    return np.where(rng.random((steps, 1)) < 0.6, ends, between).tolist()


def slow_network(method: str) -> tuple[Network, list[list[int]]]:
    """Hardly any decay, small in calibration, driven at one end for 400 steps: states wrap."""
    rng = np.random.default_rng(5)
    model = random_model(rng, 3, 5, [4, 3], 2, method)
    network = quantize(model, rng.normal(0, 0.1, (8, 3)))
    for layer in network.layers:
        if layer.cell == "s5_state":
            layer.parameters["lam_re"] = np.full(layer.units, HIGH)
            layer.parameters["lam_im"] = rng.integers(-40, 40, layer.units)
            layer.parameters["c_re"] = rng.choice([-131072, 131071], layer.units)
    rows = [[HIGH, LOW, HIGH]] * 200 + [[LOW, HIGH, 0]] * 100 + rows_at_the_ends(rng, 100, 3)
    return network, rows


SIZES = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 6),
        "units": st.integers(1, 12),
        "states": st.lists(st.integers(1, 8), min_size=1, max_size=3),
        "outputs": st.integers(1, 5),
        "method": st.sampled_from(["zoh", "bilinear"]),
    }
)
