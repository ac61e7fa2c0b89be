"""A trained network in floating point, as the importers deliver it and ``quantize`` takes it.

A model is a list of layers. Each layer is one cell (``gru``, ``linear``, ``relu``, ...) fed by one
or more matrices; a matrix multiplies a *source*: the model's input, or the output of a layer. A
source at a lower index feeds the same step; the layer itself or a later one feeds the next step (a
recurrence). The small builder methods describe a network from NumPy arrays::

    model = Model(inputs=16).gru(w_ih, w_hh, b_ih, b_hh).dense(w, b, "sigmoid")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.partition.parts import HostParts

from .file import save_model
from .gated import GatedBuilders
from .layers import Layer, Matrix
from .s5 import S5Builders

__all__ = ["Layer", "Matrix", "Model"]


@dataclass
class Model(GatedBuilders, S5Builders):
    """A float network: ``inputs`` elements per step in, the last layer's units out.

    Attributes
    ----------
    inputs : int
    layers : list of Layer
    name : str
    one_hot : bool
        The input is one token index a step; ``inputs`` is the number of tokens.
    host : HostParts or None
        What the host computes in front of these layers and behind them, where the model was cut.
    last_step : bool
        The file that it was read from gives the last step of a recording only; here every step has
        an output.
    """

    inputs: int
    layers: list[Layer] = field(default_factory=list)
    name: str = "network"
    one_hot: bool = False
    host: HostParts | None = None
    last_step: bool = False

    @property
    def outputs(self) -> int:
        """Elements of the output vector."""
        if not self.layers:
            raise StillnetError(f"model '{self.name}' has no layers: add one with .gru or .dense")
        return self.layers[-1].units

    def source_size(self, source: int) -> int:
        """Elements of a source (``INPUT`` or a layer index)."""
        return self.inputs if source == INPUT else self.layers[source].units

    def save(self, path: str | Path) -> None:
        """Writes the model as ``.safetensors``, which every command and ``load_model`` take.

        ::

            import stillnet as sn

            sn.load_model("model.npz").save("model.safetensors")
            assert sn.load_model("model.safetensors").outputs == 2
        """
        save_model(self, path)

    # -- evaluation -------------------------------------------------------------------------------

    def run(
        self,
        x: np.ndarray,
        state: dict[tuple[int, str], np.ndarray] | None = None,
        trace: dict[int, list[np.ndarray]] | None = None,
        *,
        clear_every: int = 0,
    ) -> np.ndarray:
        """The float network over a sequence; the oracle's side of every error figure.

        Parameters
        ----------
        x : array of float, shape (steps, inputs), or of int, shape (steps,), for one-hot models
        state : dict, optional
            Carried state by (layer index, state name); updated in place, so that a sequence can
            be continued. Outputs of layers that feed a later step are kept under the name "".
        trace : dict, optional
            Filled with the list of outputs of every source (``INPUT`` and each layer).
        clear_every : int
            Every so many steps of this sequence ``Cell.cleared`` is set to zero; 0 is never.

        Returns
        -------
        array of float, shape (steps, outputs)
        """
        x = self._check_input(x)
        state = {} if state is None else state
        for i, layer in enumerate(self.layers):
            for name, value in layer.initial.items():
                state.setdefault((i, name), value)
                if name == CELLS[layer.cell].output_state:
                    state.setdefault((i, ""), value)
        out = np.zeros((len(x), self.outputs))
        values: dict[int, np.ndarray] = {
            i: state.get((i, ""), np.zeros(layer.units)) for i, layer in enumerate(self.layers)
        }
        for t, row in enumerate(x):
            values[INPUT] = row
            if clear_every and t and t % clear_every == 0:
                for i, layer in enumerate(self.layers):
                    for s in CELLS[layer.cell].cleared:
                        state[(i, s)] = np.zeros(layer.units)
            if trace is not None:
                trace.setdefault(INPUT, []).append(row)
            for i, layer in enumerate(self.layers):
                m = {g: b.astype(float) for g, b in layer.bias.items()}
                for matrix in layer.matrices:
                    product = matrix.weight @ values[matrix.source]
                    for g, part in zip(matrix.gates, product):
                        m[g] = m[g] + part
                cell = CELLS[layer.cell]
                readers = {**dict.fromkeys(cell.state, i), **layer.peers}
                old = {s: state.get((j, s), np.zeros(layer.units)) for s, j in readers.items()}
                y, new = cell.evaluate_float({**m, **layer.parameters}, old)
                for s, value in new.items():
                    state[(i, s)] = value
                values[i] = y
                state[(i, "")] = y
                if trace is not None:
                    trace.setdefault(i, []).append(y)
            out[t] = values[len(self.layers) - 1]
        return out

    def run_whole(self, x: np.ndarray) -> np.ndarray:
        """:meth:`run` with what the host computes in front and behind, where there is any."""
        if self.host is None:
            return self.run(x)
        vectors, kept = self.host.enter_vectors(x)
        return self.host.leave_outputs(self.run(vectors), kept)

    def _check_input(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if self.one_hot:
            tokens = x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x
            if tokens.ndim != 1 or len(tokens) == 0 or np.any(tokens != np.floor(tokens)):
                raise StillnetError(
                    f"input has shape {x.shape} and type {x.dtype}; model '{self.name}' takes one "
                    "token index a step"
                )
            if tokens.min() < 0 or tokens.max() >= self.inputs:
                raise StillnetError(
                    f"token {int(tokens.max() if tokens.min() >= 0 else tokens.min())} is outside "
                    f"0 to {self.inputs - 1}, the tokens of model '{self.name}'"
                )
            return np.eye(self.inputs)[tokens.astype(int)]
        if x.ndim != 2 or x.shape[1] != self.inputs or len(x) == 0:
            raise StillnetError(
                f"input has shape {x.shape}; model '{self.name}' takes (steps, {self.inputs}) with "
                "at least one step"
            )
        x = x.astype(float)
        if not np.all(np.isfinite(x)):
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise StillnetError(
                f"input holds {x[bad]} at step {bad[0]}, element {bad[1]}; remove NaN and infinity "
                "from the recording"
            )
        return x
