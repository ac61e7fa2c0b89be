"""Thresholds that hold a mean of words: on a reference that is steered, and on hardware."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.adaptive import LEVELS, AdaptiveThresholds
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from tests.support.link_bench import CONFIGS, board, connect
from tests.support.networks.quick import quantize

INPUTS = 8


def signal(level: float, steps: int, seed: int = 1) -> np.ndarray:
    """Slow noise of a level."""
    rng = np.random.default_rng(seed)
    x = np.zeros((steps, INPUTS))
    for t in range(1, steps):
        x[t] = 0.98 * x[t - 1] + 0.2 * level * rng.normal(size=INPUTS)
    return x


def small(thresholds: float | None = None) -> Network:
    rng = np.random.default_rng(0)
    model = Model(INPUTS, name="small")
    model.gru(
        rng.normal(0, 0.6, (60, INPUTS)),
        rng.normal(0, 0.3, (60, 20)),
        rng.normal(0, 0.2, 60),
        rng.normal(0, 0.2, 60),
    )
    model.dense(rng.normal(0, 0.5, (4, 20)), rng.normal(0, 0.2, 4))
    return quantize(model, signal(1.0, 300, seed=9), thresholds=thresholds)


class Plant:
    """The reference with counters and thresholds that can be set, as an engine has them."""

    def __init__(self, network: Network) -> None:
        self.reference = Reference(network)
        self.steps, self.words, self.each = 0xFFFFFF00, 0xFFFFF000, list[int]()

    def step(self, row: np.ndarray) -> np.ndarray:
        y = self.reference.step_integers(row)
        self.each.append(self.reference.last.words)
        self.steps, self.words = self.steps + 1, self.words + self.each[-1]
        return y

    def counters(self) -> dict[str, Any]:
        return {"steps": self.steps % (1 << 32), "words": self.words % (1 << 32)}

    def set_threshold(
        self, where: str | int, value: float, *, recurrent: bool = False, integer: bool = False
    ) -> None:
        assert integer and not recurrent
        network, value = self.reference.network, int(value)
        if where == "input":
            self.reference.network = replace(network, input_threshold=value)
        else:
            layers = list(network.layers)
            layers[int(where)] = replace(layers[int(where)], threshold=value)
            self.reference.network = replace(network, layers=layers)


def steered(network: Network, x: np.ndarray, **options: Any) -> tuple[Plant, AdaptiveThresholds]:
    plant, loop = Plant(network), AdaptiveThresholds(network, **options)
    for row in network.quantize_input(x):
        plant.step(row)
        loop.after_step(plant)
    return plant, loop


def test_words_stay_where_they_are_asked_for_whatever_the_level() -> None:
    network = small(1 / 256)
    pieces = [signal(level, 1500, seed) for seed, level in enumerate((0.2, 1.0, 0.5))]
    free = Plant(network)
    for row in network.quantize_input(np.concatenate(pieces)):
        free.step(row)
    target = 0.6 * float(np.mean(free.each))
    plant, loop = steered(network, np.concatenate(pieces), words=target, window=50)
    _, calm = steered(network, np.concatenate(pieces), words=target, window=50, band=0.25)
    for k in range(3):
        late = plant.each[1500 * k + 750 : 1500 * (k + 1)]
        assert abs(np.mean(late) - target) < 0.08 * target
    # Words of a window differ by a tenth: a band that is wider lets the loop come to rest.
    late = [d for d in calm.decisions if d.step % 1500 > 750]
    assert len(late) <= 4 < len(loop.decisions)
    assert np.mean(free.each[1500:3000]) > 1.3 * target, "alone the loud piece costs more"


def test_levels_have_an_end_on_either_side() -> None:
    network, x = small(1 / 256), signal(1.0, 1200)
    _, quiet = steered(network, x, words=1e6, window=20)
    assert quiet.level == 0 and not quiet.decisions, "the network itself is the lower end"
    _, loud = steered(network, x, words=1e-3, window=20, most=4.0)
    assert loud.level == 2 * LEVELS and loud.scale == 4.0
    steps = [d.level for d in loud.decisions]
    assert all(b - a <= LEVELS for a, b in zip([0, *steps], steps)), "an octave at most"


def test_a_network_without_thresholds_gets_some() -> None:
    network = small()
    loop = AdaptiveThresholds(network, words=1.0)
    assert set(loop.thresholds(0).values()) == {0}
    assert set(loop.thresholds(LEVELS).values()) == {16}
    assert loop.network(0).input_threshold == 0


def test_thresholds_of_elements_stay_where_they_are_larger() -> None:
    network = small()
    elements = np.arange(1, INPUTS + 1) * 10
    network = replace(network, input_thresholds=elements)
    loop = AdaptiveThresholds(network, words=1.0)
    found = loop.thresholds(LEVELS)[INPUT, False]
    assert found == 90, "twice the median"
    assert loop.network(LEVELS).input_thresholds.tolist() == [90] * INPUTS
    assert loop.network(0).input_thresholds.tolist() == elements.tolist()


def test_the_hardware_makes_the_integers_of_the_decisions() -> None:
    network = small(1 / 128)
    model = board("wide")
    engine = connect(model)
    engine.load(network)
    loop = AdaptiveThresholds(network, words=150, window=6)
    reference = Reference(network, CONFIGS["wide"].lanes)
    for row in network.quantize_input(signal(1.0, 60)):
        assert np.array_equal(engine.step_integers(row), reference.step_integers(row))
        if loop.after_step(engine):
            reference.network = loop.network(loop.level)
    found, wanted = engine.get_state(), reference.get_state()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
    assert len({d.level for d in loop.decisions}) > 2, "it was steered"
    model.end()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give words or cycles"),
        ({"words": 1, "cycles": 2}, "give words or cycles"),
        ({"words": 0}, "words must be more than 0, not 0"),
        ({"cycles": float("nan")}, "cycles must be more than 0, not nan"),
        ({"words": 9, "window": 0}, "window must be more than 0"),
        ({"words": 9, "band": -1}, "band must be more than 0, not -1"),
        ({"words": 9, "most": 1}, "most must be more than 1, not 1"),
    ],
)
def test_what_cannot_be_held_is_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StillnetError, match=sentence):
        AdaptiveThresholds(small(), **options)


def test_plain_events_cannot_be_steered() -> None:
    network = quantize(Model(4, one_hot=True).dense(np.ones((3, 4)), np.zeros(3)), np.arange(4))
    with pytest.raises(StillnetError, match="has no vector whose differences are events"):
        AdaptiveThresholds(network, words=1)
