"""Steps of a running board, computed again: by the reference, and by the float model.

The reference begins in the state that the board had, so its integers must be equal. Its
accumulators follow from that state (M = bias + W . ref): a weight or an accumulator that has
changed on the board shows in the outputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.model.model import Model
from stillnet.sw.network.checks import state_format
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference

from .client import Steps

__all__ = ["Canary", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes
    ----------
    first, steps : int
    difference : str or None
        The first output that is not that of the reference, in a sentence.
    error : float or None
        Mean absolute error of the outputs against the float model from the same state.
    seconds : float
        What reading the state took from the stream.
    """

    first: int
    steps: int
    difference: str | None
    error: float | None
    seconds: float


class Canary:
    """Checks steps of one network.

    Parameters
    ----------
    network : Network
    model : Model, optional
        The float model that it was made of; its part for the chip.

    Raises
    ------
    StillnetError
        Where the model has other layers than the network.
    """

    def __init__(self, network: Network, model: Model | None = None) -> None:
        self.network, self.model = network, model
        if model is None:
            return
        ours = [(layer.cell, layer.units) for layer in network.layers]
        theirs = [(layer.cell, layer.units) for layer in model.layers]
        if ours != theirs or model.inputs != network.inputs:
            raise StillnetError(
                f"model '{model.name}' has other layers than network '{network.name}' (another "
                "model, or a network with second planes of weights); leave --float out"
            )

    def check(self, steps: Steps, thresholds: dict[str, int] | None = None) -> Verdict:
        """Computes steps again.

        Parameters
        ----------
        steps : Steps
        thresholds : dict of str to int, optional
            Those that were changed on the board, by the name of their encoder.
        """
        network = self._with(thresholds or {})
        reference = Reference(network)
        reference.set_state(steps.state)
        difference = None
        for t, (x, y) in enumerate(zip(steps.x, steps.y)):
            expected = reference.step_integers(x)
            wrong = np.flatnonzero(y != expected)
            if len(wrong):
                k = int(wrong[0])
                difference = (
                    f"step {steps.first + t}: output {k} is {int(y[k])} on the board, "
                    f"{int(expected[k])} by the reference"
                )
                if len(wrong) > 1:
                    difference += f", and {len(wrong) - 1} others differ"
                break
        error = None if self.model is None else self._error(self.model, steps)
        return Verdict(steps.first, len(steps.x), difference, error, steps.seconds)

    def _with(self, thresholds: dict[str, int]) -> Network:
        """The network with the thresholds of the board."""
        if not thresholds:
            return self.network
        network = copy.copy(self.network)
        network.layers = [copy.copy(layer) for layer in network.layers]
        for key, name in network.event_names().items():
            if name not in thresholds:
                continue
            units = thresholds[name]
            if key == INPUT:
                network.input_threshold, network.input_thresholds = units, None
            elif key >= SECOND:
                network.layers[key - SECOND].threshold_recurrent = units
            else:
                network.layers[key].threshold, network.layers[key].thresholds = units, None
        return network

    def _error(self, model: Model, steps: Steps) -> float:
        """Of the float model from the same state."""
        network, state = self.network, {}
        for i, layer in enumerate(network.layers):
            scale = 1.0 if layer.unit_exponents is None else 2.0**-layer.unit_exponents
            for s in CELLS[layer.cell].state:
                unit = 2.0 ** -state_format(layer, s).fraction
                state[i, s] = steps.state[f"{i}/{s}"] * unit * scale
            state[i, ""] = steps.state[f"{i}/reference"] / network.units_of(i)
            output = CELLS[layer.cell].output_state
            if output is not None:
                state[i, ""] = state[i, output]
        x = steps.x[:, 0] if network.input_mode.one_hot else steps.x / network.units_of(INPUT)
        y = network.dequantize_output(steps.y)
        return float(np.mean(np.abs(model.run(x, state) - y)))
