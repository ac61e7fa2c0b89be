"""Event modes and delta thresholds of a quantized network: given ones, and the search for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS, Format
from stillnet.sw.contract.sources import INPUT, feeds_next_step
from stillnet.sw.model.layers import Layer
from stillnet.sw.network.checks import state_format
from stillnet.sw.network.network import Network, QuantizedLayer
from stillnet.sw.network.sequence import Layout, Start, Trace, run_integers
from stillnet.sw.util.progress import Progress

from .formats import to_format

__all__ = [
    "ThresholdSearch",
    "Thresholds",
    "output_error",
    "plain_sources",
    "set_modes",
    "set_thresholds",
]

Thresholds = float | Mapping[str, float] | Sequence[float]
"""One threshold for every source, one by the source's name (``"input"`` or a layer's name), or one
a source in order. In real units of the vector's values."""

_LARGEST_THRESHOLD = (1 << EVENT_BITS) - 1


def _uses(network: Network, source: int) -> tuple[bool, bool]:
    """Whether a source feeds the same step, and whether it feeds the next one."""
    targets = [i for i, q in enumerate(network.layers) for m in q.matrices if m.source == source]
    later = [feeds_next_step(source, i) for i in targets]
    return not all(later), any(later)


def _source(network: Network, name: str, what: str) -> int:
    names = [network.source_name(s) for s in range(INPUT, len(network.layers))]
    if name not in names:
        raise StillnetError(f"{what} names '{name}', the network has {', '.join(names)}")
    return names.index(name) + INPUT


def set_modes(network: Network, nonzero: Iterable[str], plain: Iterable[int] = ()) -> None:
    """Plain events for the named ReLU layers (or ``"input"``); refuses where modes would mix.

    Layers in ``plain`` send plain events by their nature, and so does what feeds a layer together
    with them, the input included.
    """
    _set_plain(network, set(plain))
    for name in nonzero:
        source = _source(network, name, "nonzero")
        if source == INPUT:
            if network.input_mode.one_hot:
                raise StillnetError("nonzero names 'input', which is one-hot already")
            network.input_mode = Mode.NONZERO
        elif network.layers[source].cell != "relu":
            raise StillnetError(
                f"nonzero names '{name}', a {network.layers[source].cell} layer; only ReLU layers "
                "are zero often enough"
            )
        else:
            network.layers[source].mode = Mode.NONZERO
    for layer in network.layers:
        plain = {m.source for m in layer.matrices if network.source_mode(m.source).reload}
        delta = {m.source for m in layer.matrices} - plain
        if plain and delta:
            raise StillnetError(
                f"layer '{layer.name}' is fed by nonzero elements of "
                f"'{network.source_name(min(plain))}' and by differences of "
                f"'{network.source_name(min(delta))}'; leave "
                f"'{network.source_name(min(plain))}' out of nonzero"
            )


def plain_sources(layers: Iterable[Layer | QuantizedLayer], plain: Iterable[int]) -> set[int]:
    """``plain`` and all that feeds a layer together with one of them."""
    layers, found = list(layers), set(plain)
    while True:
        together = set(found)
        for layer in layers:
            sources = {m.source for m in layer.matrices}
            if sources & together:
                together |= sources
        if together == found:
            return found
        found = together


def _set_plain(network: Network, given: set[int]) -> None:
    plain = plain_sources(network.layers, given)
    for source in plain - {INPUT}:
        network.layers[source].mode = Mode.NONZERO
    if INPUT in plain:
        one_hot = network.input_mode.one_hot
        network.input_mode = Mode.ONE_HOT_PLAIN if one_hot else Mode.NONZERO


def _threshold(value: object, fraction: int, where: str) -> int:
    """A threshold in real units as an integer of a vector's format."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise StillnetError(f"threshold of {where} must be a number, not {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise StillnetError(f"threshold of {where} must be zero or a positive number, not {value}")
    return int(min(_LARGEST_THRESHOLD, np.rint(number * 2.0**fraction)))


def set_thresholds(
    network: Network,
    thresholds: Thresholds | None,
    recurrent: float | Mapping[str, float] | None,
) -> None:
    """Thresholds in real units, rounded to the format of each vector; see ``quantize``."""
    sources = range(INPUT, len(network.layers))
    given: dict[int, Any] = {}
    if isinstance(thresholds, Mapping):
        for name, value in thresholds.items():
            source = _source(network, name, "thresholds")
            if not any(_uses(network, source)):
                raise StillnetError(
                    f"thresholds names '{name}', which feeds nothing, so that no threshold applies"
                )
            if network.source_mode(source).one_hot:
                raise StillnetError(f"thresholds names '{name}', which is one-hot and has none")
            given[source] = value
    elif isinstance(thresholds, (Sequence, np.ndarray)) and not isinstance(thresholds, str):
        if len(thresholds) != len(sources):
            raise StillnetError(
                f"thresholds has {len(thresholds)} entries, the network {len(sources)} sources: "
                + ", ".join(network.source_name(s) for s in sources)
            )
        given = dict(zip(sources, thresholds))
    elif thresholds is not None:
        given = {s: thresholds for s in sources if network.source_mode(s) is Mode.DELTA}
        _threshold(thresholds, 0, "every source")
    for source in sources:
        where = f"'{network.source_name(source)}'"
        fraction = network.input_fraction if source == INPUT else network.layers[source].fraction
        value = _threshold(given.get(source, 0.0), fraction, where)
        if not any(_uses(network, source)) or network.source_mode(source).one_hot:
            value = 0
        if source == INPUT:
            network.input_threshold = value
        else:
            network.layers[source].threshold = value

    if recurrent is None:
        return
    names: dict[str, Any]
    if isinstance(recurrent, Mapping):
        names = dict(recurrent)
    else:
        names = {
            layer.name: recurrent for i, layer in enumerate(network.layers) if _uses(network, i)[1]
        }
        if not names:
            raise StillnetError(
                f"threshold_recurrent is given, network '{network.name}' has no recurrence"
            )
    for name, number in names.items():
        index = _source(network, name, "threshold_recurrent")
        if index == INPUT or not _uses(network, index)[1]:
            raise StillnetError(f"threshold_recurrent names '{name}', which has no recurrence")
        layer = network.layers[index]
        value = _threshold(number, layer.fraction, f"'{name}' (recurrent)")
        if not _uses(network, index)[0]:
            layer.threshold = value
        elif value != layer.threshold:
            layer.threshold_recurrent = value


def output_error(network: Network, result: Trace, trace: Trace) -> float:
    """Mean absolute error of the output against the float model."""
    last = len(network.layers) - 1
    y = network.dequantize_output(result.vectors[last])
    return float(np.mean(np.abs(y - trace.vectors[last])))


class ThresholdSearch:
    """The largest thresholds within a mean error of the output.

    A common factor on the spread of each vector is found first by bisection, to three quarters of
    the error allowed. Then, while the error lasts, the source grows by half whose growth saves
    most memory words for the error that it adds. Long recordings are searched on excerpts that
    begin warm; the result is checked on all of them and shrunk where the excerpts were too kind.
    Everything is deterministic.
    """

    WARM_STEPS = 16
    EXCERPTS = 16
    EXCERPT_STEPS = 64

    def __init__(
        self,
        network: Network,
        layout: Layout,
        recordings: list[np.ndarray],
        trace: Trace,
        progress: Progress,
    ) -> None:
        self.network = network
        self.layout = layout
        self.trace = trace
        self.progress = progress
        self.full = layout.pack([network.quantize_input(r) for r in recordings])
        self.sources = [
            s
            for s in range(INPUT, len(network.layers))
            if any(_uses(network, s)) and network.source_mode(s) is Mode.DELTA
        ]
        self.words = {
            s: sum(
                m.column_words(8)
                for layer in network.layers
                for m in layer.matrices
                if m.source == s
            )
            for s in self.sources
        }
        self._prepare()

    def _spread(self, source: int) -> float:
        v = self.trace.vectors[source]
        return float(np.sqrt(np.mean(np.var(v, axis=0)))) * 2.0 ** self._fraction(source)

    def _fraction(self, source: int) -> int:
        network = self.network
        return network.input_fraction if source == INPUT else network.layers[source].fraction

    def _prepare(self) -> None:
        """Excerpts: their layout, inputs, beginnings, and the outputs expected of them."""
        layout, network = self.layout, self.network
        last = len(network.layers) - 1
        wanted = self.trace.vectors[last]
        if layout.steps <= self.EXCERPT_STEPS:
            self.excerpts, self.x, self.start = layout, self.full, None
            self.wanted = wanted
            self.counted = np.ones(layout.rows, bool)
            return
        pieces = []
        lengths = np.array(layout.lengths)
        ends = np.cumsum(lengths)
        count = min(self.EXCERPTS, -(-layout.rows // self.EXCERPT_STEPS))
        for k in range(count):
            place = k * layout.rows // count
            recording = int(np.searchsorted(ends, place, side="right"))
            first = place - int(ends[recording] - lengths[recording])
            # Rather the end of a recording than a few steps of it.
            first = max(0, min(first, int(lengths[recording]) - self.EXCERPT_STEPS))
            pieces.append(layout.index(recording)[first : first + self.EXCERPT_STEPS])
        self.excerpts = Layout([len(p) for p in pieces])
        self.x = self.excerpts.pack([self.full[p] for p in pieces])
        self.wanted = self.excerpts.pack([wanted[p] for p in pieces])
        warm = [np.arange(len(p)) >= min(self.WARM_STEPS, len(p) - 1) for p in pieces]
        self.counted = self.excerpts.pack(warm)
        before = layout.previous()[np.array([p[0] for p in pieces])]
        self.start = Start()

        def earlier(start: np.ndarray, values: np.ndarray) -> np.ndarray:
            return np.where(
                (before < 0)[:, None],
                start[np.maximum(-1 - before, 0) % len(start)],
                values[np.maximum(before, 0)],
            )

        for source in range(INPUT, len(network.layers)):
            if source == INPUT and network.input_mode.one_hot:
                continue
            v = earlier(self.trace.start.vectors[source], self.trace.vectors[source])
            self.start.vectors[source] = to_format(v, Format(16, self._fraction(source)))
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                values = self.trace.states.get((i, s), self.trace.vectors[i])
                v = earlier(self.trace.start.state[i, s], values)
                self.start.state[i, s] = to_format(v, state_format(layer, s))

    def _apply(self, thresholds: Mapping[int, float]) -> None:
        for source, value in thresholds.items():
            number = int(min(_LARGEST_THRESHOLD, math.floor(value)))
            if source == INPUT:
                self.network.input_threshold = number
            else:
                self.network.layers[source].threshold = number

    def _try(self, thresholds: Mapping[int, float]) -> tuple[float, int]:
        """(mean error, words) on the excerpts."""
        self._apply(thresholds)
        result = run_integers(self.network, self.excerpts, self.x, self.start)
        last = len(self.network.layers) - 1
        y = self.network.dequantize_output(result.vectors[last])
        error = float(np.mean(np.abs(y - self.wanted)[self.counted]))
        return error, sum(self.words[s] * result.events[s] for s in self.sources)

    def _exact(self, thresholds: Mapping[int, float]) -> tuple[float, Trace]:
        self._apply(thresholds)
        result = run_integers(self.network, self.layout, self.full)
        return output_error(self.network, result, self.trace), result

    def run(self, max_error: float) -> Trace:
        """Sets the thresholds; returns the run over all recordings with them."""
        zero = dict.fromkeys(self.sources, 0.0)
        floor, result = self._exact(zero)
        if floor > max_error:
            raise StillnetError(
                f"max_error {max_error:g} cannot be kept: the mean error is {floor:.4g} with every "
                "threshold at zero; allow at least that"
            )
        if not self.sources:
            return result
        unit = {s: max(self._spread(s), 1.0) for s in self.sources}
        steps = 12
        low, high, aim = -14.0, 4.0, floor + 0.75 * (max_error - floor)
        for k in range(steps):
            self.progress("common threshold", k, steps)
            middle = (low + high) / 2
            error, _ = self._try({s: u * 2.0**middle for s, u in unit.items()})
            low, high = (middle, high) if error <= aim else (low, middle)
        self.progress("common threshold", steps, steps)
        current = {s: u * 2.0**low for s, u in unit.items()}
        current = self._grow(current, max_error)
        return self._settle(current, max_error)

    def _grow(self, current: dict[int, float], max_error: float) -> dict[int, float]:
        """Source by source, as long as the error lasts: in large steps, then in small ones."""
        rounds = 2 * len(self.sources)
        error, words = self._try(current)
        for phase, factor in enumerate((1.5, 1.15)):
            growing = list(self.sources)
            for k in range(rounds):
                self.progress("thresholds a layer", phase * rounds + k, 2 * rounds)
                ranking = []
                for source in list(growing):
                    tried = {**current, source: max(current[source] * factor, current[source] + 1)}
                    new_error, new_words = self._try(tried)
                    if new_error > max_error or tried[source] > _LARGEST_THRESHOLD:
                        growing.remove(source)  # errors add up: it will hardly fit later
                    elif new_words < words:
                        worth = (words - new_words) / max(new_error - error, 1e-9)
                        ranking.append((worth, source, new_error, new_words, tried))
                if not ranking:
                    break
                _, _, error, words, current = max(ranking, key=lambda r: r[:2])
        self.progress("thresholds a layer", 2 * rounds, 2 * rounds)
        return current

    def _settle(self, current: dict[int, float], max_error: float) -> Trace:
        """Checks on all recordings; takes the largest common factor that keeps the error."""
        steps = 6
        low, high = 0.0, 1.0
        kept = None
        factor = 1.0
        for k in range(steps):
            self.progress("check", k, steps)
            scaled = {s: v * factor for s, v in current.items()}
            error, result = self._exact(scaled)
            if error <= max_error:
                low, kept = factor, (scaled, result)
                if factor == 1.0:
                    break
            else:
                high = factor
            # The error grows about as the thresholds do, so the middle is worth more at the top.
            factor = (low + high) / 2 if low else 0.85 * high
        self.progress("check", steps, steps)
        if kept is None:
            return self._exact(dict.fromkeys(self.sources, 0.0))[1]
        self._apply(kept[0])
        return kept[1]
