"""Runs a network through the generated engine and holds every integer against the reference.

Outputs, state variables, reference vectors and accumulators are compared after each step; the first
difference ends the run and is reported with layer, unit, step and both values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import accumulator_place, block_rows
from stillnet.sw.contract.registers import Control, Region, Register
from stillnet.sw.contract.sources import INPUT, encoder_select
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import Image, Placement, pack, place

from .model import Behaviour, EngineModel

__all__ = ["Difference", "EngineRun", "run_engine"]


@dataclass(frozen=True)
class Difference:
    """The first place where the engine and the reference disagree."""

    what: str
    layer: str
    unit: int
    step: int
    engine: int
    reference: int

    def __str__(self) -> str:
        return (
            f"step {self.step}, layer '{self.layer}', {self.what} of unit {self.unit}: engine "
            f"{self.engine}, reference {self.reference}"
        )


@dataclass
class EngineRun:
    """Result of :func:`run_engine`.

    Attributes
    ----------
    outputs : int64 array, shape (steps, outputs)
    difference : Difference or None
    counters : dict of str to int
    events : dict of str to int
        By source name, all steps together.
    late : dict of str to int
        Events that budgets refused, the same; of vectors that have one.
    steps : int
        Steps that were compared.
    seconds : float
        Time that the simulation took.
    cycles_simulated : int
        Clock cycles, reading of state included.
    """

    outputs: np.ndarray
    difference: Difference | None
    counters: dict[str, int]
    events: dict[str, int]
    steps: int
    seconds: float = 0.0
    cycles_simulated: int = 0
    per_step: list[dict[str, int]] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)


class NetworkOnEngine:
    """A network loaded into a simulated engine, with its state readable by layer and unit.

    Parameters
    ----------
    network : Network
    config : EngineConfig
    model : EngineModel, optional
        One that exists already; else it is built and closed with this object.
    """

    def __init__(
        self,
        network: Network,
        config: EngineConfig,
        *,
        model: EngineModel | None = None,
        trace: str | Path | None = None,
        verilog: str | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self.image: Image = pack(network, config)
        self.placement: Placement = place(network, config)
        self._owned = model is None
        self.model = model or EngineModel(config, trace=trace, verilog=verilog)
        self.model.load(self.image.data)

    def __enter__(self) -> NetworkOnEngine:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._owned:
            self.model.close()

    # -- state ------------------------------------------------------------------------------------

    def _unit_base(self, layer: int) -> int:
        return self.placement.unit_base[layer] * self.config.cell_width

    def state(self, layer: int, name: str) -> np.ndarray:
        """A state variable of a layer, shape (units,)."""
        region = Region.STATE + self.config.state_names.index(name)
        units = self.network.layers[layer].units
        return self.model.read_state(region, self._unit_base(layer), units)

    def reference(self, source: int, *, second: bool = False) -> np.ndarray:
        """A reference vector; for one-hot inputs the token as a vector."""
        network = self.network
        if source != INPUT:
            region = Region.REFERENCE_SECOND if second else Region.REFERENCE
            units = network.layers[source].units
            return self.model.read_state(region, self._unit_base(source), units)
        if not network.input_mode.one_hot:
            return self.model.read_state(Region.INPUT, 0, network.inputs)
        token = int(self.model.read_state(Region.INPUT, 0, 1)[0]) & 0xFFFF
        vector = np.zeros(network.inputs, np.int64)
        if token:
            vector[token - 1] = 1 << network.input_fraction
        return vector

    def accumulators(self, layer: int) -> np.ndarray:
        """Accumulators of a layer, then its parameters, shape (rows of a block, units)."""
        units = self.network.layers[layer].units
        lanes = self.config.multipliers
        count = block_rows(CELLS[self.network.layers[layer].cell], self.config.row_scale)
        blocks = -(-units // lanes)
        base = self.placement.accumulator_base[layer]
        words = blocks * count + 1
        gaps = blocks if self.config.sparse else 0
        raw = self.model.read_state(Region.ACCUMULATOR, base * lanes, words * lanes)
        raw = raw.reshape(words, lanes)
        result = np.zeros((count, blocks * lanes), np.int64)
        for block in range(blocks):
            for gate in range(count):
                row = accumulator_place(base, count, block, gate, gaps) - base
                result[gate, block * lanes : (block + 1) * lanes] = raw[row]
        return result[:, :units]

    def set_hidden(self, values: dict[tuple[int, str], np.ndarray]) -> None:
        """As ``Reference.set_hidden``: clear, then send given states through the encoders."""
        from stillnet.sw.contract.fixed import Format, narrow

        network = self.network
        vectors = []
        for i, layer in enumerate(network.layers):
            s = CELLS[layer.cell].output_state
            given = values.get((i, s)) if s is not None else None
            if given is None:
                given = np.zeros(layer.units, np.int64)
            vectors.append(narrow(np.asarray(given), layer.write_shift, Format(16, 0)))
        self.model.clear()
        self._restore(self._no_input(), vectors, Control(0))
        for (i, s), value in values.items():
            region = Region.STATE + self.config.state_names.index(s)
            self.model.write_state(region, self._unit_base(i), np.asarray(value))

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """As ``Reference.set_state``."""
        network = self.network
        self.model.clear()
        if network.input_mode.one_hot:
            token = np.flatnonzero(state[f"{INPUT}/reference"])
            x = np.array([token[0] if len(token) else -1])
        else:
            x = state[f"{INPUT}/reference"]
        first = [state[f"{i}/reference"] for i in range(len(network.layers))]
        second = [state.get(f"{i}/reference_second", first[i]) for i in range(len(network.layers))]
        if self.config.second_threshold:
            self._restore(x, first, Control.RESTORE_EXACT | Control.RESTORE_FIRST)
            self._restore(self._no_input(), second, Control.RESTORE_EXACT | Control.RESTORE_SECOND)
        else:
            self._restore(x, first, Control.RESTORE_EXACT)
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                region = Region.STATE + self.config.state_names.index(s)
                self.model.write_state(region, self._unit_base(i), state[f"{i}/{s}"])

        for source in network.budgets:
            window = np.asarray(state[f"{source}/window"])
            self.model.write_state(Region.BUDGET_WINDOW, source - INPUT, window)

    def window(self, source: int) -> np.ndarray:
        """The window of a vector with a budget, shape (1,)."""
        return self.model.read_state(Region.BUDGET_WINDOW, source - INPUT, 1)

    def clear_cells(self) -> None:
        """As ``Reference.clear_cells``; the engine must be idle."""
        for i, layer in enumerate(self.network.layers):
            for s in CELLS[layer.cell].cleared:
                region = Region.STATE + self.config.state_names.index(s)
                self.model.write_state(region, self._unit_base(i), np.zeros(layer.units))

    def _no_input(self) -> np.ndarray:
        network = self.network
        return np.array([-1]) if network.input_mode.one_hot else np.zeros(network.inputs, np.int64)

    def _restore(self, x: np.ndarray, vectors: list[np.ndarray], flags: Control) -> None:
        self.model.write(Register.CONTROL, Control.RESTORE | flags)
        self.model.run(np.concatenate([x, *vectors]), 0, 1)
        self.model.wait_idle()

    def reset(self) -> None:
        """Back to the beginning of a sequence, with the network's initial state."""
        layers = enumerate(self.network.layers)
        initial = {(i, s): v for i, layer in layers for s, v in layer.initial.items()}
        if initial:
            self.set_hidden(initial)
        else:
            self.model.clear()

    # -- comparison -------------------------------------------------------------------------------

    def compare(self, reference: Reference, step: int) -> Difference | None:
        """Every state word against the reference; the engine must be idle."""
        network = self.network
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                found = _first(
                    f"state {s}", layer.name, step, self.state(i, s), reference.state[i][s]
                )
                if found:
                    return found
            accumulators = self.accumulators(i)
            for g, name in enumerate(CELLS[layer.cell].accumulators):
                found = _first(
                    f"accumulator {name}",
                    layer.name,
                    step,
                    accumulators[g],
                    reference.accumulators[i][g],
                )
                if found:
                    return found
        for source, vector in reference.reference.items():
            found = _first(
                "reference", network.source_name(source), step, self.reference(source), vector
            )
            if found:
                return found
        for source, vector in reference.reference_second.items():
            found = _first(
                "second reference",
                network.source_name(source),
                step,
                self.reference(source, second=True),
                vector,
            )
            if found:
                return found
        for source, window in reference.windows.items():
            name, expected = network.source_name(source), np.array([window])
            found = _first("window", name, step, self.window(source), expected)
            if found:
                return found
        return None

    def late(self) -> dict[str, int]:
        """The counters of late events by source name, of vectors with a budget."""
        names = self.network.event_names()
        return {names[s]: self.model.late(encoder_select(s)) for s in self.network.budgets}

    def events(self) -> dict[str, int]:
        """The event counters by source name."""
        names = self.network.event_names()
        return {name: self.model.events(encoder_select(k)) for k, name in names.items()}


def _first(
    what: str, layer: str, step: int, engine: np.ndarray, reference: np.ndarray
) -> Difference | None:
    wrong = np.flatnonzero(engine != reference)
    if not len(wrong):
        return None
    unit = int(wrong[0])
    return Difference(what, layer, unit, step, int(engine[unit]), int(reference[unit]))


def run_engine(
    network: Network,
    x: np.ndarray,
    config: EngineConfig,
    *,
    history: np.ndarray | None = None,
    check_state: bool = True,
    behaviour: Behaviour | None = None,
    model: EngineModel | None = None,
    trace: str | Path | None = None,
    verilog: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> EngineRun:
    """Runs integer vectors through the engine and the reference, and compares.

    Parameters
    ----------
    network : Network
    x : int array, shape (steps, inputs)
        Vectors as ``Network.quantize_input`` gives them.
    config : EngineConfig
    history : int array, optional
        Vectors that went before: only the reference computes them, and its state is then restored
        into the engine.
    check_state : bool
        Compare all state after each step. Else vectors stream back to back, and only outputs and
        the state at the end are compared.
    behaviour : Behaviour, optional
        Memory latency, pauses.
    progress : callable, optional
        Called with the number of steps done.

    Returns
    -------
    EngineRun
    """
    if len(x) == 0:
        raise StillnetError("the input has no steps")
    reference = Reference(network, config=config)
    with NetworkOnEngine(network, config, model=model, trace=trace, verilog=verilog) as engine:
        engine.model.behave(behaviour or Behaviour())
        engine.reset()
        if history is not None and len(history):
            for row in history:
                reference.step_integers(row)
            engine.set_state(reference.get_state())
        engine.model.clear_counters()
        outputs = np.zeros((len(x), network.outputs), np.int64)
        difference = engine.compare(reference, -1)
        per_step: list[dict[str, int]] = []
        started, begin = time.perf_counter(), engine.model.cycle
        done = 0
        if check_state and difference is None:
            previous = engine.model.counters()
            for step, row in enumerate(x):
                y = reference.step_integers(row)
                outputs[step] = engine.model.run(row, 1, network.outputs)[0][0]
                engine.model.wait_idle()
                done = step + 1
                layer = network.layers[-1].name
                difference = _first("output", layer, step, outputs[step], y)
                difference = difference or engine.compare(reference, step)
                now = engine.model.counters()
                per_step.append({k: now[k] - previous[k] for k in now if k != "latency"})
                per_step[-1]["latency"] = now["latency"]
                per_step[-1]["reference_words"] = reference.last.words
                previous = now
                if progress:
                    progress(done)
                if difference:
                    break
        elif difference is None:
            outputs, _ = engine.model.run(x, len(x), network.outputs)
            engine.model.wait_idle()
            for step, row in enumerate(x):
                y = reference.step_integers(row)
                done = step + 1
                difference = _first("output", network.layers[-1].name, step, outputs[step], y)
                if difference:
                    break
                if progress:
                    progress(done)
            difference = difference or engine.compare(reference, len(x) - 1)
        seconds = time.perf_counter() - started
        return EngineRun(
            outputs[:done],
            difference,
            engine.model.counters(),
            engine.events(),
            done,
            seconds,
            engine.model.cycle - begin,
            per_step,
            engine.late(),
        )
