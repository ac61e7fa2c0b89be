"""Operations of a run, in the forms in which others publish theirs.

NeuroBench counts the synaptic operations of a step: *dense* ones, one for each weight, zero or not;
and *effective* ones, where neither the weight nor what comes in is zero. What comes in here is a
change, and one that does not fire is zero. A change has a size, so an operation is a multiplication
(``Effective_MACs``), never a mere addition (``Effective_ACs``).

Intel's N-DNS challenge ranks by a *power proxy*: effective synaptic operations and ten times the
updates of neurons, per second; and by its product with the latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillnet.sw.network.network import Network

from .collect import Collected

__all__ = ["NEURON_WEIGHT", "Operations", "operations"]

NEURON_WEIGHT = 10
"""Synaptic operations that one update of a neuron counts for in N-DNS."""


@dataclass(frozen=True)
class Operations:
    """Operations of a step, means over a run.

    Attributes
    ----------
    dense : int
        Weights of all matrices.
    effective : float
        Multiplications with weights that are not zero.
    neurons : int
        Units that a step computes, all of them.
    activation_sparsity, connection_sparsity : float
        Shares of elements that did not fire, and of weights that are zero.
    parameters : int
        Weights and biases.
    """

    dense: int
    effective: float
    neurons: int
    activation_sparsity: float
    connection_sparsity: float
    parameters: int

    @property
    def proxy(self) -> float:
        """Operations per step as N-DNS weighs them."""
        return self.effective + NEURON_WEIGHT * self.neurons


def operations(network: Network, found: Collected) -> Operations:
    """The operations of a collected run."""
    dense = effective = kept = 0
    for i, layer in enumerate(network.layers):
        for matrix in layer.matrices:
            columns = np.count_nonzero(matrix.weight, axis=(0, 1))
            dense += matrix.weight.size
            kept += int(columns.sum())
            fired = found.fired.get(network.event_source(i, matrix.source))
            if fired is not None:
                effective += int(columns @ fired)
    elements = sum(len(fired) for fired in found.fired.values())
    events = sum(int(fired.sum()) for fired in found.fired.values())
    steps = max(found.steps, 1)
    return Operations(
        dense=dense,
        effective=effective / steps,
        neurons=sum(layer.units for layer in network.layers),
        activation_sparsity=1 - events / max(elements * steps, 1),
        connection_sparsity=1 - kept / max(dense, 1),
        parameters=dense + sum(b.size for layer in network.layers for b in layer.bias.values()),
    )
