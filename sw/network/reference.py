"""The bit-exact reference: what every number of the hardware must equal.

One step of the network, in the order of its meaning:

1. the input vector passes its encoder; its events feed the layers that use it;
2. layer by layer: the cell reads the accumulators, writes state and vector; the vector passes its
   encoder and feeds the layers above in this step and recurrences for the next one (eagerly, so
   that state between steps already holds them);
3. layers fed by plain events start again from their biases.

After every step, for each layer of delta events, M = bias + W . ref modulo 2**32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillnet.sw.contract.budgets import next_window
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import encode, encode_within
from stillnet.sw.contract.fixed import ACTIVATION, narrow, rescale, scale_row, wrap32
from stillnet.sw.contract.image import bias_runs
from stillnet.sw.contract.sources import INPUT, SECOND, feeds_next_step
from stillnet.sw.partition.stream import HostStream
from stillnet.sw.util.blas import single_thread

from .network import Network
from .tiers import choose_hot

__all__ = ["Reference", "StepReport"]


@dataclass
class StepReport:
    """What one step cost.

    Attributes
    ----------
    events : dict of int to int
        Events by source; the second encoder of layer l counts under ``l + SECOND``.
    words : int
        Memory words that the events of this step fetch, with the bias runs of reloaded layers.
    words_hot : int
        Those of them that are in the engine's hot store.
    saturations : int
        Vector elements clipped to 16 bits.
    late : dict of int to int
        Events that budgets refused, by source like ``events``; only of vectors that have one.
    """

    events: dict[int, int] = field(default_factory=dict)
    late: dict[int, int] = field(default_factory=dict)
    words: int = 0
    words_hot: int = 0
    saturations: int = 0


class Reference:
    """Streaming NumPy implementation of a quantized network.

    Parameters
    ----------
    network : Network
    lanes : int
        Lanes of the engine whose memory words are counted.
    config : EngineConfig, optional
        That engine itself, where it reads more than dense int8 columns: words are then those of
        the columns as they are packed.
    clear_every : int
        Every so many steps of a sequence the state variables in ``Cell.cleared`` (h of an EGRU)
        become zero, and nothing else does: what was sent stays sent. 0 is never.
    """

    def __init__(
        self,
        network: Network,
        lanes: int = 8,
        *,
        config: EngineConfig | None = None,
        clear_every: int = 0,
    ) -> None:
        network.validate()
        if isinstance(clear_every, bool) or not isinstance(clear_every, int) or clear_every < 0:
            raise StillnetError(
                f"clear_every must be a number of steps, or 0 for never, not {clear_every!r}"
            )
        self.network = network
        self.config = config or EngineConfig(lanes=lanes)
        self.lanes = self.config.lanes
        self.clear_every = clear_every
        self._steps = 0
        self._host = HostStream.of(network.host)
        self.last = StepReport()
        # Integer products below 2**53 are exact in float64, and BLAS is fast there:
        # |sum| <= 2**7 * 2**16 * (columns) stays below for any vector that fits an engine.
        self._columns: dict[tuple[int, int], np.ndarray] = {}
        self._rows: dict[tuple[int, int], np.ndarray] = {}
        self._lengths: dict[tuple[int, int], np.ndarray] = {}
        self._hot_lengths: dict[tuple[int, int], np.ndarray] = {}
        self._hot = choose_hot(network, self.config)
        self._users: dict[tuple[int, bool], list[tuple[int, int]]] = {}
        for i, layer in enumerate(network.layers):
            order = CELLS[layer.cell].accumulators
            for j, m in enumerate(layer.matrices):
                gates = np.array([order.index(g) for g in m.gates])
                columns = m.weight.astype(np.float64).reshape(-1, m.weight.shape[2]).T
                self._columns[i, j] = np.ascontiguousarray(columns)
                self._rows[i, j] = gates
                self._lengths[i, j] = (
                    m.layout(layer.cell, config).lengths
                    if config
                    else np.full(m.weight.shape[2], m.column_words(lanes))
                )
                hot = self._hot.mask((i, j), m.weight.shape[2])
                self._hot_lengths[i, j] = self._lengths[i, j] * hot
                self._users.setdefault((m.source, feeds_next_step(m.source, i)), []).append((i, j))
        self._bias = [
            np.stack([layer.bias[g] for g in CELLS[layer.cell].accumulators]).astype(np.int64)
            for layer in network.layers
        ]
        self.reset()

    # -- state ------------------------------------------------------------------------------------

    def clear(self) -> None:
        """All state and references zero, accumulators at their biases: ``Control.CLEAR``."""
        network = self.network
        self._steps = 0
        if self._host is not None:
            self._host.clear()
        self.accumulators = [b.copy() for b in self._bias]
        self.state: list[dict[str, np.ndarray]] = [
            {s: np.zeros(layer.units, np.int64) for s in CELLS[layer.cell].state}
            for layer in network.layers
        ]
        self.reference: dict[int, np.ndarray] = {INPUT: np.zeros(network.inputs, np.int64)}
        self.reference_second: dict[int, np.ndarray] = {}
        for i, layer in enumerate(network.layers):
            self.reference[i] = np.zeros(layer.units, np.int64)
            if layer.threshold_recurrent is not None:
                self.reference_second[i] = np.zeros(layer.units, np.int64)
        self.windows = dict.fromkeys(network.budgets, 0)

    def clear_cells(self) -> None:
        """Sets the state variables in ``Cell.cleared`` to zero; vectors and references stay."""
        for i, layer in enumerate(self.network.layers):
            for s in CELLS[layer.cell].cleared:
                self.state[i][s] = np.zeros(layer.units, np.int64)

    def reset(self) -> None:
        """Back to the beginning of a sequence: cleared, then the network's initial state if any."""
        initial = {
            (i, s): v
            for i, layer in enumerate(self.network.layers)
            for s, v in layer.initial.items()
        }
        self.set_hidden(initial)

    def set_hidden(self, values: dict[tuple[int, str], np.ndarray]) -> None:
        """Clears, then sets state variables; output states pass the encoder like new vectors.

        Parameters
        ----------
        values : dict of (layer, state name) to int64 array, shape (units,)
            In the format of the state variable; what is not named is zero.
        """
        self.clear()
        for (i, s), value in values.items():
            layer = self.network.layers[i]
            cell = CELLS[layer.cell]
            value = np.asarray(value, np.int64)
            if s not in cell.state or value.shape != (layer.units,):
                raise StillnetError(
                    f"layer '{layer.name}': state '{s}' of shape {value.shape} does not exist; it "
                    f"has {dict.fromkeys(cell.state, (layer.units,))}"
                )
            self.state[i][s] = value.copy()
        report = StepReport()
        for i, layer in enumerate(self.network.layers):
            output = CELLS[layer.cell].output_state
            if output is not None and (i, output) in values:
                vector = self._vector(i, self.state[i][output])
                self._publish(i, vector, report, unlimited=True)
        for i in range(len(self.network.layers)):
            if self.network.reload(i):  # what fed this step is over; recurrences wait for the next
                self.accumulators[i] = self.expected_accumulators(i)

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides the future: state variables and reference vectors, as copies."""
        result = {f"{i}/{s}": v.copy() for i, d in enumerate(self.state) for s, v in d.items()}
        result |= {f"{i}/reference": v.copy() for i, v in self.reference.items()}
        result |= {f"{i}/reference_second": v.copy() for i, v in self.reference_second.items()}
        result |= {f"{i}/window": np.array([w]) for i, w in self.windows.items()}
        return result | ({} if self._host is None else self._host.get_state())

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what :meth:`get_state` returned; accumulators follow from the references."""
        expected = {k: v.shape for k, v in self.get_state().items()}
        given = {k: np.shape(v) for k, v in state.items()}
        if expected != given:
            wrong = sorted(set(expected.items()) ^ set(given.items()))
            raise StillnetError(
                f"state does not belong to network '{self.network.name}': {wrong[0][0]} has shape "
                f"{given.get(wrong[0][0])}, expected {expected.get(wrong[0][0])}"
            )
        self.clear()
        if self._host is not None:
            self._host.set_state(state)
        for i, d in enumerate(self.state):
            for s in d:
                d[s] = np.array(state[f"{i}/{s}"], np.int64)
        for i in self.reference:
            self.reference[i] = np.array(state[f"{i}/reference"], np.int64)
        for i in self.reference_second:
            self.reference_second[i] = np.array(state[f"{i}/reference_second"], np.int64)
        for i in self.windows:
            self.windows[i] = int(state[f"{i}/window"][0])
        for i in range(len(self.network.layers)):
            self.accumulators[i] = self.expected_accumulators(i)

    def expected_accumulators(self, index: int) -> np.ndarray:
        """bias + W . ref modulo 2**32, computed from scratch: the invariant's right-hand side."""
        layer = self.network.layers[index]
        total = self._bias[index].copy()
        if self.network.reload(index):
            # Between steps only recurrences have been added; their events are the vector itself.
            recurrent = [m for m in layer.matrices if feeds_next_step(m.source, index)]
        else:
            recurrent = layer.matrices
        order = CELLS[layer.cell].accumulators
        for m in recurrent:
            ref = self._reference_for(index, m.source)
            for g, rows in zip(m.gates, m.weight.astype(np.int64)):
                total[order.index(g)] += rows @ ref
        return wrap32(total)

    def _reference_for(self, index: int, source: int) -> np.ndarray:
        second = feeds_next_step(source, index) and source in self.reference_second
        return (self.reference_second if second else self.reference)[source]

    # -- steps ------------------------------------------------------------------------------------

    def step(self, x: np.ndarray) -> np.ndarray:
        """One step of a recording in (or one token), the float outputs out."""
        return next(iter(self.stream([np.asarray(x)])))

    def run(self, x: np.ndarray) -> np.ndarray:
        """A sequence, shape (steps, inputs), to outputs, (steps, outputs)."""
        network = self.network
        if network.host is None:
            rows = network.quantize_input(x)
            return network.dequantize_output(np.stack([self.step_integers(r) for r in rows]))
        vectors, kept = network.host.enter_vectors(x)
        return network.host.leave_outputs(np.stack(list(self._floats(vectors))), kept)

    def stream(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Steps of a recording in, float outputs out, the host's parts included."""
        if self.network.host is None:
            return self._floats(rows)
        self.network.host.check_streams()
        assert self._host is not None
        return self._host.run(rows, self._floats)

    def _floats(self, vectors: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        network = self.network
        for vector in vectors:
            row = network.quantize_input(np.asarray(vector)[None])[0]
            yield network.dequantize_output(self.step_integers(row))

    def step_integers(self, x: np.ndarray) -> np.ndarray:
        """One integer vector in, one out; :attr:`last` then says what it cost.

        Parameters
        ----------
        x : int64 array, shape (inputs,) or (1,) for one-hot networks

        Returns
        -------
        int64 array, shape (outputs,)
        """
        with single_thread():
            return self._step(x)

    def _step(self, x: np.ndarray) -> np.ndarray:
        network, report = self.network, StepReport()
        self.last = report
        if self.clear_every and self._steps and self._steps % self.clear_every == 0:
            self.clear_cells()
        self._steps += 1
        if INPUT in network.budgets:
            events = self._encode_within(INPUT, x, report)
        else:
            events = encode(
                network.input_mode,
                x,
                self.reference[INPUT],
                network.input_limit,
                1 << max(network.input_fraction, 0),
            )
        report.events[INPUT] = len(events[0])
        self._feed((INPUT, False), events, report)
        v = np.zeros(0, np.int64)
        for i, layer in enumerate(network.layers):
            cell = CELLS[layer.cell]
            pre = rescale(self.accumulators[i], layer.shift)
            for g, multiplier in (layer.scale or {}).items():
                row = cell.accumulators.index(g)
                pre[row] = scale_row(pre[row], multiplier)
            peers = {s: self.state[j][s] for s, j in layer.peers.items()}
            y, self.state[i], clipped = cell.evaluate(
                {**dict(zip(cell.accumulators, pre)), **layer.parameters},
                {**self.state[i], **peers},
            )
            report.saturations += clipped
            if network.reload(i):
                self.accumulators[i] = self._bias[i].copy()
                words = bias_words(layer.units, len(cell.accumulators), self.config)
                report.words += words
                report.words_hot += words * self._bias_is_hot(i)
            v = self._vector(i, y)
            self._publish(i, v, report)
        return v

    def _bias_is_hot(self, index: int) -> bool:
        """Whether the biases that a layer starts a step from are in the hot store."""
        runs = bias_runs(CELLS[self.network.layers[index].cell], self.config.row_scale)
        return (index, runs[-1].first) in self._hot.biases

    def _vector(self, index: int, y: np.ndarray) -> np.ndarray:
        return narrow(y, self.network.layers[index].write_shift, _INTEGER)

    def _publish(
        self, index: int, v: np.ndarray, report: StepReport, *, unlimited: bool = False
    ) -> None:
        """Encodes a layer's vector and feeds its events to everything that uses them."""
        layer = self.network.layers[index]
        if index in self.network.budgets and not unlimited:
            events = self._encode_within(index, v, report)
        else:
            events = encode(layer.mode, v, self.reference[index], layer.limit)
        report.events[index] = len(events[0])
        self._feed((index, False), events, report)
        if layer.threshold_recurrent is not None:
            second = self.reference_second[index]
            events = encode(layer.mode, v, second, layer.threshold_recurrent)
            report.events[index + SECOND] = len(events[0])
        self._feed((index, True), events, report)

    def _encode_within(
        self, source: int, v: np.ndarray, report: StepReport
    ) -> tuple[np.ndarray, np.ndarray]:
        """Events of a vector with a budget; its window moves on."""
        network, window = self.network, self.windows[source]
        budget, limit = network.budgets[source], network.limit_of(source)
        index, value, late = encode_within(v, self.reference[source], limit, budget, window)
        report.late[source] = late
        self.windows[source] = next_window(window, budget, len(v))
        return index, value

    def _feed(
        self,
        use: tuple[int, bool],
        events: tuple[np.ndarray, np.ndarray],
        report: StepReport,
    ) -> None:
        index, value = events
        for i, j in self._users.get(use, ()):
            matrix = self.network.layers[i].matrices[j]
            report.words += int(self._lengths[i, j][index].sum())
            report.words_hot += int(self._hot_lengths[i, j][index].sum())
            if len(index) == 0:
                continue
            columns = self._columns[i, j]
            if 3 * len(index) < len(columns):
                product = value.astype(np.float64) @ columns[index]
            else:
                dense = np.zeros(len(columns))
                dense[index] = value  # no column has two events
                product = dense @ columns
            rows = product.astype(np.int64).reshape(len(matrix.gates), -1)
            gates = self._rows[i, j]
            self.accumulators[i][gates] = wrap32(self.accumulators[i][gates] + rows)

    # -- reports ----------------------------------------------------------------------------------

    def event_names(self) -> dict[int, str]:
        """Names of the keys of ``StepReport.events``."""
        return self.network.event_names()

    def describe(self) -> dict[str, Any]:
        """The last step's report with names."""
        names = self.event_names()
        return {
            "events": {names[k]: v for k, v in self.last.events.items()},
            "words": self.last.words,
            "words_hot": self.last.words_hot,
            "saturations": self.last.saturations,
        }


_INTEGER = type(ACTIVATION)(16, 0)
