"""Event modes and delta thresholds of a quantized network, as they are given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.sources import INPUT, feeds_next_step
from stillnet.sw.model.layers import Layer
from stillnet.sw.network.network import Network, QuantizedLayer

__all__ = [
    "Thresholds",
    "plain_sources",
    "set_modes",
    "set_thresholds",
]

Thresholds = float | Mapping[str, float] | Sequence[float]
"""One threshold for every source, one by the source's name (``"input"`` or a layer's name), or one
a source in order. In real units of the vector's values; of elements that were scaled
(``equalize``), in units of those that were not."""

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


def _fraction(network: Network, source: int) -> int:
    """Fraction bits of the elements that were not scaled; where all were (``Cell.gains``), of the
    one that was scaled least."""
    if source == INPUT:
        return network.input_fraction
    layer = network.layers[source]
    if not CELLS[layer.cell].gains or layer.unit_exponents is None:
        return layer.fraction
    return layer.fraction + int(np.min(layer.unit_exponents))


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
        value = _threshold(given.get(source, 0.0), _fraction(network, source), where)
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
        value = _threshold(number, _fraction(network, index), f"'{name}' (recurrent)")
        if not _uses(network, index)[0]:
            layer.threshold = value
        elif value != layer.threshold:
            layer.threshold_recurrent = value
