"""What comes before the first weight is rounded: traces, formats, scales, sensitivities.

A :class:`Base` holds what does not depend on the choice of steps; a :class:`Plan` is one choice,
ready to be solved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, SCALE_FRACTION
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.equalize import (
    Exponents,
    element_exponents,
    gain_exponents,
    scaled_input,
    scaled_model,
)
from stillnet.sw.model.model import Model
from stillnet.sw.model.planes import Planes
from stillnet.sw.network.network import Network
from stillnet.sw.network.sequence import Layout, Start, Trace, run_float
from stillnet.sw.util.progress import Progress, silent

from .checking.clipping import Clipping
from .formats import FormatChoice
from .integers import build_network
from .layerwise import Job, LayerWork, Settings, compress_layers
from .report import run_quantized
from .row_steps import choose_exponents, layers_with_steps
from .sensitivity import Sensitivity, accumulators_of, sensitivity
from .simulate import Encoders
from .solvers.hessian import bundles
from .thresholds import plain_sources, set_modes

__all__ = ["Base", "Judged", "Plan", "better_plan", "loss", "make_plan", "prepare", "score"]

_PIECE = 100
"""Steps of a recording that weights are solved on in one piece, begun in the float model's state:
pieces run side by side."""

_LONG = 500
"""The same for judging, where a network begins in its own initial state."""

_ROWS = 8_000
"""Steps of all recordings that weights are solved on. Of more, pieces are taken evenly."""

_JUDGED = 4_000
"""Steps on which networks are judged while something is chosen."""

_HELD_OUT = 0.2
"""Part of the pieces that is held out: the last ones. With several recordings these are whole ones,
with one it is its end, because neighbouring steps are too much alike to judge each other. One of
five parts, as is usual: a half would leave too little to solve on, a tenth too little to judge."""

_FEWEST = 3
"""Pieces of which one can be held out."""

_PROBED = 3_000
"""Steps over which sensitivities are averaged."""

_WORTH_DB = 0.5
"""A step for each row must win so much of the outputs' SNR to be asked for."""


@dataclass
class Judged:
    """Recordings on which errors and words are measured.

    Attributes
    ----------
    layout : Layout
    x : array, shape (rows, inputs), or (rows,) of tokens
        As the user gives them.
    scaled : array
        As the scaled model takes them.
    wanted : array, shape (rows, outputs)
        Outputs of the float model.
    """

    layout: Layout
    x: np.ndarray
    scaled: np.ndarray
    wanted: np.ndarray


@dataclass
class Base:
    """A float model with its recordings.

    Attributes
    ----------
    original, model : Model
        As it came, and with its elements scaled.
    elements : Exponents
    whole : Trace
        Of ``original`` over all of the recordings.
    trace : Trace
        Of ``model`` over pieces of the recordings.
    formats : Trace
        Of ``model`` over all of the recordings: what formats must hold.
    felt : Sensitivity
    judged : Judged
    held : bool array, or None
        Steps of ``trace`` that are held out while ways of rounding are compared; None where
        calibration is too short for it.
    proof : Judged or None
        The same part of the recordings, from the network's own initial state.
    nonzero : list of str
        Layers, or ``"input"``, that are to send plain events.
    clipping : Clipping
        On ``trace``.
    planes : Planes
    """

    original: Model
    model: Model
    elements: Exponents
    whole: Trace
    formats: Trace
    trace: Trace
    felt: Sensitivity
    judged: Judged
    held: np.ndarray | None
    proof: Judged | None
    nonzero: list[str]
    clipping: Clipping
    planes: Planes = field(default_factory=Planes)

    @property
    def plain(self) -> set[int]:
        """Sources whose events are their values."""
        names = {layer.name: i for i, layer in enumerate(self.model.layers)} | {"input": INPUT}
        given = {names[n] for n in self.nonzero if n in names}
        return plain_sources(self.model.layers, given | set(self.plain_by_nature))

    @property
    def plain_by_nature(self) -> list[int]:
        return [i for i, layer in enumerate(self.model.layers) if layer.plain]

    @property
    def delta_sources(self) -> list[int]:
        """Sources with thresholds."""
        used = {m.source for layer in self.model.layers for m in layer.matrices}
        first = 0 if self.model.one_hot else INPUT
        sources = range(first, len(self.model.layers))
        return [s for s in sources if s in used and s not in self.plain]


@dataclass
class Plan:
    """Formats, and the job of solving the weights for them.

    Attributes
    ----------
    base : Base
    choice : FormatChoice
    exponents : list of int
        Fraction bits of the accumulators of each layer.
    job : Job
    """

    base: Base
    choice: FormatChoice
    exponents: list[int]
    job: Job

    def network(self, work: LayerWork, name: str | None = None) -> Network:
        """The integers of solved weights, with the modes of events; thresholds are zero."""
        base = self.base
        network = build_network(base.model, work, self.choice, self.exponents, base.elements, name)
        set_modes(network, base.nonzero, base.plain_by_nature)
        for i in range(len(network.layers)):
            _keep_in_range(network, i)
        return network


def _keep_in_range(network: Network, index: int) -> None:
    """Exponents leave room for the float model's biases; a correction must not take more."""
    bias, limit = network.layers[index].bias, (1 << (ACCUMULATOR_BITS - 1)) - 1
    for g, reach in network.accumulator_bound(index).items():
        over = np.maximum(reach - limit, 0)
        bias[g] = bias[g] - np.sign(bias[g]) * np.minimum(over, np.abs(bias[g]))


def prepare(
    model: Model,
    recordings: Sequence[np.ndarray],
    *,
    nonzero: Sequence[str] = (),
    scale: bool = True,
    rows: bool = True,
    planes: Planes | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Base:
    """Runs the float model over checked recordings, scales elements (where ``scale``), and finds
    sensitivities. ``rows``: whether rows may have steps of their own."""
    progress("float model", 0, 3)
    layout = Layout([len(r) for r in recordings])
    x = layout.pack(list(recordings))
    whole = run_float(model, layout, x)
    for i, layer in enumerate(model.layers):
        if not np.all(np.isfinite(whole.vectors[i])):
            raise StillnetError(
                f"layer '{layer.name}' becomes infinite on the calibration recordings; check the "
                "model and the scale of its input"
            )
    progress("float model", 1, 3)
    peak = None if model.one_hot else np.max(np.abs(x), axis=0)
    rows = rows and bool(layers_with_steps(model.layers))
    planes = planes or Planes()
    elements: Exponents = {}
    if scale:
        elements = element_exponents(model, whole.vectors, peak, rows=rows, copies=planes.copies)
    planes.follow(elements)
    elements |= gain_exponents(model, lambda i: accumulators_of(model, whole, i), whole.vectors)
    scaled = scaled_model(model, elements)
    formats = run_float(scaled, layout, scaled_input(x, elements)) if elements else whole
    pieces = _spread(_pieces(recordings, _PIECE), _ROWS)
    held, proof = _held_out(pieces, recordings)
    trace = _run_pieces(scaled, formats, pieces)
    progress("float model", 2, 3)
    felt = sensitivity(scaled, _run_pieces(scaled, formats, _spread(pieces, _PROBED)), seed=seed)
    progress("float model", 3, 3)
    return Base(
        original=model,
        model=scaled,
        elements=elements,
        whole=whole,
        formats=formats,
        trace=trace,
        felt=felt,
        judged=_judged(model, recordings, elements),
        held=held,
        proof=None if held is None else _judged(model, proof, elements),
        nonzero=list(nonzero),
        clipping=Clipping(scaled, trace, elements),
        planes=planes,
    )


def _held_out(
    pieces: list[_Piece], recordings: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """(the rows of the last pieces, what the recordings hold from the first of them on)."""
    if len(pieces) < _FEWEST:
        return None, []
    first = len(pieces) - max(1, round(_HELD_OUT * len(pieces)))
    layout = Layout([p.steps for p in pieces])
    held = np.zeros(layout.rows, bool)
    for k in range(first, len(pieces)):
        held[layout.index(k)] = True
    cut = pieces[first]
    later = list(recordings[cut.recording + 1 :])
    return held, [recordings[cut.recording][cut.first :], *later]


def _judged(model: Model, recordings: Sequence[np.ndarray], elements: Exponents) -> Judged:
    pieces = _spread(_pieces(recordings, _LONG), _JUDGED)
    chosen = [recordings[p.recording][p.first : p.first + p.steps] for p in pieces]
    layout = Layout([len(p) for p in chosen])
    x = layout.pack(chosen)
    wanted = run_float(model, layout, x).vectors[len(model.layers) - 1]
    return Judged(layout, x, scaled_input(x, elements), wanted)


@dataclass(frozen=True)
class _Piece:
    """Some steps of a recording."""

    recording: int
    first: int
    steps: int


def _pieces(recordings: Sequence[np.ndarray], steps: int) -> list[_Piece]:
    """Recordings in pieces of about equal length."""
    found = []
    for k, r in enumerate(recordings):
        ends = np.linspace(0, len(r), max(1, math.ceil(len(r) / steps)) + 1).astype(int)
        found += [_Piece(k, int(a), int(b - a)) for a, b in zip(ends, ends[1:])]
    return found


def _spread(pieces: list[_Piece], rows: int) -> list[_Piece]:
    """As many pieces as have some rows together, taken evenly."""
    total = sum(p.steps for p in pieces)
    count = max(1, min(len(pieces), math.floor(len(pieces) * rows / total)))
    return [pieces[k] for k in np.unique(np.linspace(0, len(pieces) - 1, count).astype(int))]


def _run_pieces(model: Model, whole: Trace, pieces: list[_Piece]) -> Trace:
    """The float model over pieces of a run of it, each begun where that run was."""
    rows = [whole.layout.index(p.recording)[p.first : p.first + p.steps] for p in pieces]
    before = whole.layout.previous()[[r[0] for r in rows]]
    start = Start()

    def earlier(values: np.ndarray, first: np.ndarray) -> np.ndarray:
        return np.where((before < 0)[:, None], first[np.maximum(-1 - before, 0)], values[before])

    for key, first in whole.start.state.items():
        i, s = key
        is_vector = s == CELLS[model.layers[i].cell].output_state
        start.state[key] = earlier(whole.vectors[i] if is_vector else whole.states[key], first)
    for source, first in whole.start.vectors.items():
        if source != INPUT or not model.one_hot:
            start.vectors[source] = earlier(whole.vectors[source], first)
    layout = Layout([len(r) for r in rows])
    return run_float(model, layout, layout.pack([whole.vectors[INPUT][r] for r in rows]), start)


# -- plans ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What a plan is made for.

    Attributes
    ----------
    bits : int
        4 or 8.
    margin : float
        Headroom of vectors without a proven bound.
    correct_bias, keep_silence : bool
        See ``quantize``.
    """

    bits: int = 8
    margin: float = 1.25
    correct_bias: bool = True
    keep_silence: bool = True


@dataclass
class Fixed:
    """Masks and steps that are given, as in ``Job``."""

    kept: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    steps: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)


def make_plan(
    base: Base,
    wish: Wish,
    *,
    rows: bool,
    fixed: Fixed | None = None,
    unseen: bool = False,
    choice: FormatChoice | None = None,
) -> Plan:
    """Formats, exponents and bounds of steps.

    Parameters
    ----------
    base : Base
    wish : Wish
    rows : bool
        A step for each row, in layers whose cells allow it; else one for each layer.
    fixed : Fixed, optional
    unseen : bool
        Whether formats weigh what recordings that calibration does not have would lose by clipping.
    choice : FormatChoice, optional
        That of a plan for other bits, where vectors must have the same formats.
    """
    scaled = layers_with_steps(base.model.layers) if rows else frozenset()
    if choice is None:
        choice = FormatChoice(
            base.model,
            base.formats,
            base.felt,
            margin=wish.margin,
            correct_bias=wish.correct_bias,
            bits=wish.bits,
            scaled=scaled,
            planes=base.planes,
            clipping=base.clipping,
            unseen=unseen,
        )
        choice.search(silent)
    plain = frozenset(base.plain)
    job = Job(
        base.model,
        base.trace.layout,
        base.trace.vectors[INPUT],
        base.trace,
        choice.fraction,
        base.felt,
        Encoders({}, choice.fraction, plain),
        quiet=plain if wish.keep_silence else frozenset(),
        held=base.held,
        planes=base.planes,
    )
    if fixed is not None:
        job.kept, job.steps = dict(fixed.kept), dict(fixed.steps)
    for copy in base.planes.copies:
        job.kept[copy, 0] = np.eye(base.model.layers[copy].units, dtype=bool)
    exponents = list(choice.exponent)
    found, job.bounds = choose_exponents(job, choice, wish.bits)
    for i, exponent in found.items():
        exponents[i] = exponent
    for i, layer in enumerate(base.model.layers):
        for place, bundle in enumerate(bundles(base.model, i)):
            first = choice.fraction[layer.matrices[bundle.parts[0][0]].source]
            if i in scaled:
                job.units[i, place] = 2.0 ** (first - exponents[i] - SCALE_FRACTION)
            else:
                count = len(bundle.gates) * layer.units
                job.steps[i, place] = np.full(count, 2.0 ** (first - exponents[i]))
    return Plan(base, choice, exponents, job)


def better_plan(base: Base, wish: Wish, settings: Settings, rows: bool | None) -> Plan:
    """The plan with a step for each row, where it is worth its multipliers; or the one asked for.

    Both are tried with the quick rounding, and their integers judged by the outputs' SNR. What
    clipping costs is weighed beside two planes of weights only: beside one, a range that is wider
    makes sure noise for noise that may come.
    """
    unseen = bool(base.planes.copies) and settings.method != "nearest"
    if rows is not None or not layers_with_steps(base.model.layers):
        return make_plan(base, wish, rows=bool(rows), unseen=unseen)
    quick = replace(settings, method="nearest", passes=1)
    common, by_row = (make_plan(base, wish, rows=r, unseen=unseen) for r in (False, True))
    without, with_rows = (
        score(plan.network(compress_layers(plan.job, quick)[1]), base.judged)
        for plan in (common, by_row)
    )
    return by_row if with_rows > without + _WORTH_DB else common


def loss(network: Network, judged: Judged) -> np.ndarray:
    """Mean square error of each output as a part of its power; zero where it does not move."""
    power, error = _power_and_error(network, judged)
    return error / np.where(power > 0, power, np.inf)


def score(network: Network, judged: Judged) -> float:
    """Mean over the outputs of their SNR in dB."""
    power, error = _power_and_error(network, judged)
    alive = power > 0
    if not np.any(alive):
        return 0.0
    floor = 1e-12 * power[alive]
    return float(np.mean(10 * np.log10(power[alive] / np.maximum(error[alive], floor))))


def _power_and_error(network: Network, judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each output of the float model, and mean square error of the integers."""
    result = run_quantized(network, judged.layout, judged.x)
    y = network.dequantize_output(result.vectors[len(network.layers) - 1])
    return np.var(judged.wanted, axis=0), np.mean((y - judged.wanted) ** 2, axis=0)
