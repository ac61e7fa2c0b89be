"""Holds the reference against the float model, step by step, within the derived bound."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.equalize import Exponents, scaled_input, scaled_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.checks import state_format
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.quantization.checking.error_bound import (
    accumulator_bound,
    cell_bound,
    layer_exponents,
)

ROOM = 1e-9
"""Rounding of float64."""


def _vectors(network: Network, reference: Reference) -> dict[int, np.ndarray]:
    fractions = [network.input_fraction, *(layer.fraction for layer in network.layers)]
    return {s: v * 2.0 ** -fractions[s + 1] for s, v in reference.reference.items()}


def _states(network: Network, reference: Reference) -> dict[tuple[int, str], np.ndarray]:
    return {
        (i, s): v * 2.0 ** -state_format(network.layers[i], s).fraction
        for i, d in enumerate(reference.state)
        for s, v in d.items()
    }


def check(
    model: Model,
    network: Network,
    x: np.ndarray,
    *,
    clear_every: int = 0,
    honest: Network | None = None,
    elements: Exponents | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs both and asserts that no vector and no state leaves its bound in any step.

    Parameters
    ----------
    model, network : the float network and what ``quantize`` made of it; one encoder a vector
    x : array, shape (steps, inputs), or tokens, shape (steps,)
    honest : Network, optional
        What the bound is derived from, where ``network`` was broken on purpose.
    elements : Exponents, optional
        How the model was scaled, where the network does not tell: products of two sums.

    Returns
    -------
    (outputs of the reference, mean bound of each layer's vector)
    """
    reference = Reference(network, clear_every=clear_every)
    rows = network.quantize_input(x)
    # Elements that were scaled: the same function, whose vectors are the engine's.
    elements = elements or {
        s: e
        for s, e in enumerate(
            [network.input_exponents, *(q.unit_exponents for q in network.layers)], -1
        )
        if e is not None
    }
    model, x = scaled_model(model, elements), scaled_input(x, elements)
    state: dict = {}
    exact = {i: np.zeros(layer.units) for i, layer in enumerate(model.layers)}
    exact_state = {
        (i, s): np.zeros(layer.units)
        for i, layer in enumerate(model.layers)
        for s in CELLS[layer.cell].state
    }
    for i, layer in enumerate(model.layers):
        for s, value in layer.initial.items():
            exact_state[i, s] = value
            if s == CELLS[layer.cell].output_state:
                exact[i] = value
    for (i, s), value in _states(network, reference).items():
        half = 2.0 ** -state_format(network.layers[i], s).fraction
        error = np.abs(value - exact_state[i, s]).max(initial=0.0)
        assert error <= half, f"initial {s} of layer {i}: error {error:.3g}, bound {half:.3g}"
    outputs, bounds = [], np.zeros(len(model.layers))
    for t, row in enumerate(rows):
        if clear_every and t and t % clear_every == 0:
            for i, layer in enumerate(model.layers):
                for s in CELLS[layer.cell].cleared:
                    exact_state[i, s] = np.zeros(layer.units)
                    state[i, s] = np.zeros(layer.units)
            reference.clear_cells()
        old_vectors, old_states = _vectors(network, reference), _states(network, reference)
        trace: dict[int, list[np.ndarray]] = {}
        model.run(x[t : t + 1], state, trace)
        outputs.append(reference.step_integers(row))
        new_vectors, new_states = _vectors(network, reference), _states(network, reference)
        new_exact = {s: v[0] for s, v in trace.items()}
        exact[INPUT] = new_exact[INPUT]
        for i, layer in enumerate(model.layers):
            quantized, cell = network.layers[i], CELLS[layer.cell]
            seen, off = {}, {}
            for m in layer.matrices:
                above = m.source >= i
                seen[m.source] = (exact if above else new_exact)[m.source]
                stands = (old_vectors if above else new_vectors)[m.source]
                off[m.source] = np.abs(stands - seen[m.source])
            m, m_error = accumulator_bound(layer, honest or network, i, seen, off)
            operands, errors = {}, {}
            for s, j in {**dict.fromkeys(cell.state, i), **layer.peers}.items():
                before = j >= i
                real = exact_state[j, s] if before else state[j, s]
                operands[s] = real
                errors[s] = np.abs((old_states if before else new_states)[j, s] - real)
            bound, state_bounds = cell_bound(
                cell, m, operands, m_error, errors, layer_exponents(quantized)
            )
            if quantized.write_shift:
                bound = bound + 0.5 * 2.0**-quantized.fraction
            for s, limit in state_bounds.items():
                error = np.abs(new_states[i, s] - state[i, s])
                assert np.all(error <= limit + ROOM), (
                    f"step {t}, layer '{layer.name}', state {s}: error {error.max():.3g}, bound "
                    f"{limit[np.argmax(error - limit)]:.3g}"
                )
            if quantized.threshold == 0:  # the reference vector is the vector then
                error = np.abs(new_vectors[i] - new_exact[i])
                assert np.all(error <= bound + ROOM), (
                    f"step {t}, layer '{layer.name}': error {error.max():.3g}, bound "
                    f"{bound[np.argmax(error - bound)]:.3g}"
                )
            bounds[i] += np.mean(bound) / len(rows)
            for s in cell.state:
                exact_state[i, s] = state[i, s]
        exact.update(new_exact)
    return network.dequantize_output(np.array(outputs)), bounds
