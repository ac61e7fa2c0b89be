"""Random networks, inputs and surroundings, and the run that holds an engine against the reference.

One generator serves hypothesis, which shrinks every choice towards the simplest case, and plain
seeds, which stay the same for ever. Weights and vectors come from a seed of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from stillnet.sim.engine.equivalence import EngineRun, run_engine
from stillnet.sim.engine.model import Behaviour, EngineModel
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.image import BIAS_WORDS
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference

__all__ = [
    "Bench",
    "Case",
    "cases",
    "check_run",
    "engine_config",
    "random_case",
    "random_inputs",
    "random_network",
    "random_weights",
]

T = TypeVar("T")

WEIGHT_KINDS = ("small", "any", "ends", "sparse", "lowest", "highest")
INPUT_KINDS = ("quiet", "constant", "walk", "any", "ends", "alternate")
THRESHOLDS = (0, 1, 20, 300, 3000, 40_000, 70_000)
"""The last one is more than the largest difference of two 16-bit numbers."""


def engine_config(**changes: Any) -> EngineConfig:
    """A small engine that any network of :func:`random_network` fits."""
    values: dict[str, Any] = {
        "units": 192,
        "inputs": 40,
        "accumulators": 512,
        "layers": 4,
        "matrices": 24,
        "fetch_columns": 16,
        "fetch_words": 32,
        "prefetch_blocks": 2,
    }
    return EngineConfig(name="test", **{**values, **changes})


# -- choices ----------------------------------------------------------------------------------


class Choices:
    """Where a generator's choices come from; the first option is the simplest."""

    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        raise NotImplementedError

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        """Whether something less simple happens."""
        return self.integer(0, 99) >= 100 - percent

    def rng(self) -> np.random.Generator:
        """A generator for bulk numbers."""
        return np.random.default_rng(self.integer(0, 2**32 - 1))


class Seeded(Choices):
    """Choices from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high, endpoint=True))


class Drawn(Choices):
    """Choices that hypothesis makes."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))


# -- networks ---------------------------------------------------------------------------------


def random_weights(choices: Choices, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of every size and sign, int8."""
    kind, rng = choices.pick(WEIGHT_KINDS), choices.rng()
    if kind == "small":
        values = rng.integers(-8, 9, shape)
    elif kind == "any":
        values = rng.integers(-128, 128, shape)
    elif kind == "ends":
        values = rng.choice([-128, 127], shape)
    elif kind == "sparse":
        values = rng.integers(-60, 61, shape) * (rng.random(shape) < 0.3)
    else:
        values = np.full(shape, -128 if kind == "lowest" else 127)
    return values.astype(np.int8)


def _gates(choices: Choices, cell: str, recurrent: bool) -> list[tuple[str, ...]]:
    """Gates of the matrices from one source: usually one matrix, sometimes two."""
    accumulators = CELLS[cell].accumulators
    if len(accumulators) == 1:
        return [accumulators]
    kind = choices.pick(("usual", "usual", "usual", "all", "one", "two matrices"))
    usual = ("r", "u", "ch" if recurrent else "cx")
    if kind == "usual":
        return [usual]
    if kind == "all":
        return [tuple(reversed(accumulators))]
    if kind == "one":
        return [(choices.pick(accumulators),)]
    return [usual[:2], usual[2:]]


def _modes(choices: Choices, config: EngineConfig, layers: int) -> tuple[Mode, list[Mode]]:
    """The input's mode and the layers', so that each layer has a source below of either kind."""
    kind = choices.pick(("delta", "delta", "plain", "mixed"))
    plain_input = {"delta": False, "plain": True}.get(kind, choices.chance(50))
    if choices.chance(25):
        input_mode = Mode.ONE_HOT_PLAIN if plain_input else Mode.ONE_HOT
    else:
        input_mode = Mode.NONZERO if plain_input else Mode.DELTA
    modes = []
    for _ in range(layers):
        plain = {"delta": False, "plain": True}.get(kind, choices.chance(50))
        modes.append(Mode.NONZERO if plain else Mode.DELTA)
    return input_mode, modes


def _sources(choices: Choices, network: Network, index: int, modes: list[Mode], cell: str) -> list:
    """Sources of a layer, all of them delta or all of them plain."""
    # The first layer needs the input: nothing else tells it that a step has begun.
    primary = index - 1 if index == 0 or not choices.chance(15) else INPUT
    plain = [network.input_mode.reload, *(m.reload for m in modes)]
    fitting = [s for s in range(INPUT, len(modes)) if plain[s + 1] == plain[primary + 1]]
    chosen = {primary}
    if index in fitting and choices.chance(90 if cell == "gru" else 15):
        chosen.add(index)
    for source in fitting:
        if source not in (primary, index) and choices.chance(15):
            chosen.add(source)
    return sorted(chosen)


def random_network(
    choices: Choices, config: EngineConfig, *, max_layers: int = 4, max_units: int = 40
) -> Network:
    """A network that fits :func:`engine_config`: any graph, any numbers.

    Returns
    -------
    Network
        Valid: it passes ``Network.validate``.
    """
    count = choices.integer(1, min(max_layers, config.layers))
    input_mode, modes = _modes(choices, config, count)
    inputs = choices.integer(1, config.inputs)
    fraction = choices.integer(0, 15)
    network = Network(inputs, fraction, [], input_mode, choices.pick(THRESHOLDS))
    cells = [choices.pick(("linear", "gru", "gru", "relu", "sigmoid", "tanh")) for _ in modes]
    cells = [c if c in config.cells else config.cells[0] for c in cells]
    sizes = [1 if choices.chance(20) else choices.integer(1, max_units) for _ in modes]
    fractions, shifts = [], []
    for cell in cells:
        write_shift = 0 if CELLS[cell].homogeneous else choices.pick((3, 0, 1, 6, 15))
        shifts.append(write_shift)
        fractions.append(choices.integer(7, 14) if CELLS[cell].homogeneous else 14 - write_shift)
    matrices_left = config.matrices - count
    for i, cell in enumerate(cells):
        exponent = choices.pick((24, 18, 21, 27, 30, 13))
        matrices: list[QuantizedMatrix] = []
        for source in _sources(choices, network, i, modes, cell):
            size = inputs if source == INPUT else sizes[source]
            source_fraction = fraction if source == INPUT else fractions[source]
            for gates in _gates(choices, cell, source >= i):
                if len(matrices) < matrices_left - (count - 1 - i):
                    weight = random_weights(choices, (len(gates), sizes[i], size))
                    matrices.append(
                        QuantizedMatrix(source, gates, weight, exponent - source_fraction)
                    )
        matrices_left -= len(matrices)
        bias_range = choices.pick((1000, 0, 200_000, 1 << 29))
        rng = choices.rng()
        homogeneous = CELLS[cell].homogeneous
        layer = QuantizedLayer(
            name=f"layer {i}",
            cell=cell,
            units=sizes[i],
            matrices=matrices,
            bias={
                g: rng.integers(-bias_range, bias_range + 1, sizes[i])
                for g in CELLS[cell].accumulators
            },
            shift=exponent + 8 - (fractions[i] if homogeneous else 13),
            write_shift=shifts[i],
            fraction=fractions[i],
            mode=modes[i],
            threshold=choices.pick(THRESHOLDS),
        )
        if config.second_threshold and choices.chance(50):
            layer.threshold_recurrent = choices.pick(THRESHOLDS)
        if cell == "gru" and choices.chance(25):
            layer.initial = {"h": rng.integers(-16384, 16385, sizes[i])}
        network.layers.append(layer)
    if config.budgets:
        network.budgets = _budgets(choices, network, config)
    network.validate()
    return network


def _budgets(choices: Choices, network: Network, config: EngineConfig) -> dict[int, int]:
    """Budgets of most vectors that may have one, from next to nothing to more than all."""
    found = {}
    for source in range(INPUT, len(network.layers)):
        least = 1 if source == INPUT else 4 * config.cell_width if config.cell_width > 1 else 1
        if network.source_mode(source) is Mode.DELTA and choices.chance(80):
            found[source] = choices.integer(least, least + network.source_size(source))
    return found


def random_inputs(choices: Choices, network: Network, steps: int) -> np.ndarray:
    """Integer vectors (or tokens) as ``Network.quantize_input`` gives them."""
    kind, rng = choices.pick(INPUT_KINDS), choices.rng()
    if network.input_mode.one_hot:
        if kind in ("quiet", "constant"):
            return np.full((steps, 1), -1 if kind == "quiet" else rng.integers(network.inputs))
        return rng.integers(-1 if kind in ("any", "ends") else 0, network.inputs, (steps, 1))
    shape = (steps, network.inputs)
    if kind == "quiet":
        return np.zeros(shape, np.int64)
    if kind == "constant":
        return np.repeat(rng.integers(-3000, 3000, (1, network.inputs)), steps, axis=0)
    if kind == "walk":
        return np.clip(np.cumsum(rng.integers(-60, 61, shape), axis=0), -32768, 32767)
    if kind == "any":
        return rng.integers(-32768, 32768, shape)
    if kind == "ends":
        return rng.choice([-32768, 32767, 0], shape)
    ends = np.where(np.arange(steps)[:, None] % 2, -32768, 32767)
    return np.broadcast_to(ends, shape).copy()


def random_behaviour(choices: Choices) -> Behaviour:
    """Memory and streams, from ideal to hardly moving."""
    if choices.chance(30):
        return Behaviour(latency=choices.pick((8, 1, 2, 60)))
    return Behaviour(
        latency=choices.integer(1, 70),
        jitter=choices.pick((0, 3, 40)),
        outstanding=choices.integer(1, 16),
        memory_stall=choices.pick((0, 100, 600)),
        request_stall=choices.pick((0, 100, 800)),
        input_stall=choices.pick((0, 100, 900)),
        output_stall=choices.pick((0, 100, 900)),
        seed=choices.integer(0, 2**30),
    )


# -- cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network with what it is to compute and how the world around it behaves.

    Attributes
    ----------
    network : Network
    inputs : int array, shape (steps, inputs)
    history : int array, shape (steps, inputs)
        Vectors whose state is restored into the engine before; may have no steps.
    behaviour : Behaviour
    streaming : bool
        Steps back to back, and state compared at the end only.
    """

    network: Network
    inputs: np.ndarray
    history: np.ndarray
    behaviour: Behaviour
    streaming: bool

    def limit(self, lanes: int) -> int:
        """Cycles after which the engine hangs, with much room."""
        columns = words = 0
        for layer in self.network.layers:
            words += BIAS_WORDS * layer.blocks(lanes) * len(CELLS[layer.cell].accumulators)
            for m in layer.matrices:
                columns += m.weight.shape[2]
                words += m.weight.shape[2] * m.column_words(lanes)
        b = self.behaviour
        elements = self.network.inputs + sum(layer.units for layer in self.network.layers)
        wait = b.latency + b.jitter + 16
        step = 5 * words + 2 * columns * wait + 20 * elements + 20 * wait + 2000
        return 20_000 + len(self.inputs) * step

    def __repr__(self) -> str:
        network = self.network
        layers = "; ".join(
            f"{layer.cell} {layer.units} from {[m.source for m in layer.matrices]} "
            f"{layer.mode.name} {layer.threshold}/{layer.threshold_recurrent}"
            for layer in network.layers
        )
        return (
            f"<{network.input_mode.name} {network.inputs}, threshold {network.input_threshold}: "
            f"{layers}; {len(self.history)} + {len(self.inputs)} steps, "
            f"{'streaming' if self.streaming else 'stepwise'}, {self.behaviour}>"
        )


def _case(choices: Choices, config: EngineConfig, steps: int, **limits: int) -> Case:
    network = random_network(choices, config, **limits)
    streaming = choices.chance(60)
    inputs = random_inputs(choices, network, choices.integer(1, steps if streaming else 5))
    history = random_inputs(choices, network, choices.integer(1, 4) if choices.chance(25) else 0)
    return Case(network, inputs, history, random_behaviour(choices), streaming)


def random_case(seed: int, config: EngineConfig, *, steps: int = 20, **limits: int) -> Case:
    """The case of a seed; ``limits`` go to :func:`random_network`."""
    return _case(Seeded(seed), config, steps, **limits)


@st.composite
def cases(draw: Any, config: EngineConfig, *, steps: int = 20) -> Case:
    """Hypothesis strategy of cases for an engine."""
    return _case(Drawn(draw), config, steps)


# -- runs -------------------------------------------------------------------------------------


class _Model(EngineModel):
    """Gives up earlier than the default: networks here are small."""

    cycles = 3_000_000

    def run(
        self, inputs: np.ndarray, steps: int, outputs: int, *, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return super().run(inputs, steps, outputs, limit=limit or self.cycles)


class Bench:
    """One engine for many runs. After a failure it begins with a new simulation.

    Parameters
    ----------
    config : EngineConfig
    verilog : str, optional
        Instead of the Verilog generated for ``config``.
    """

    def __init__(self, config: EngineConfig, verilog: str | None = None) -> None:
        self.config = config
        self._verilog = verilog
        self._model: _Model | None = None

    @property
    def model(self) -> _Model:
        """The simulation; built when first asked for."""
        if self._model is None:
            self._model = _Model(self.config, verilog=self._verilog)
        return self._model

    def renew(self) -> None:
        """Forgets a simulation that may hang or hold wrong state."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def run(self, case: Case) -> EngineRun:
        """Runs a case; :func:`check_run` says whether all is equal."""
        model = self.model
        model.cycles = case.limit(self.config.lanes)
        try:
            run = run_engine(
                case.network,
                case.inputs,
                self.config,
                history=case.history,
                check_state=not case.streaming,
                behaviour=case.behaviour,
                model=model,
            )
        except BaseException:
            self.renew()
            raise
        model.cycles = _Model.cycles
        if run.difference is not None:
            self.renew()
        return run

    def check(self, case: Case) -> EngineRun:
        """Runs a case and asserts that the engine did what the reference does."""
        run = self.run(case)
        try:
            check_run(case, run, self.config)
        except AssertionError:
            self.renew()
            raise
        return run


def check_run(case: Case, run: EngineRun, config: EngineConfig) -> None:
    """Asserts equal numbers, and counters that agree with the reference and with each other."""
    assert run.difference is None, f"{run.difference} in {case}"
    assert run.steps == len(case.inputs)
    reference = Reference(case.network, config=config)
    for x in case.history:
        reference.step_integers(x)
    words = hot = saturations = 0
    events: dict[str, int] = dict.fromkeys(reference.event_names().values(), 0)
    late = {reference.event_names()[source]: 0 for source in case.network.budgets}
    for step, x in enumerate(case.inputs):
        reference.step_integers(x)
        words += reference.last.words
        hot += reference.last.words_hot
        saturations += reference.last.saturations
        for source, name in reference.event_names().items():
            events[name] += reference.last.events[source]
            if source in reference.last.late:
                late[name] += reference.last.late[source]
        if run.per_step:
            assert run.per_step[step]["words"] == reference.last.words, f"step {step} of {case}"
    counters = run.counters
    assert run.events == events, case
    assert run.late == late, case
    found = {k: counters[k] for k in ("words", "words_hot", "saturations", "steps")}
    wanted = {"words": words, "words_hot": hot, "saturations": saturations, "steps": run.steps}
    assert found == wanted, case
    parts = ("words", "stall_cell", "stall_memory", "stall_events")
    assert counters["cycles"] == sum(counters[k] for k in parts), f"{counters} of {case}"
