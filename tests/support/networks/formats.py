"""Random networks whose matrices are pruned in every way, of both widths, in every format."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract.columns import readable
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.image import FORMATS, UNEQUAL_FORMATS
from stillnet.sw.contract.sources import INPUT, SECOND
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from tests.support.networks.random import Case, Choices, Drawn, Seeded, random_case
from tests.sw.packing.test_weight_formats import PATTERNS, pattern

__all__ = ["format_case", "format_cases", "full_lane_case", "prune", "short_case"]


def prune(choices: Choices, network: Network, config: EngineConfig) -> None:
    """Gives every matrix a pattern, a width and a format, in place; and what else there is."""
    room = config.columns
    for layer in network.layers:
        for j, m in enumerate(layer.matrices):
            bits = choices.pick((8, 4, 4)) if config.int4 else choices.pick((8, 8, 4))
            weight = m.weight
            if bits == 4:
                weight = choices.pick((np.clip(weight, -8, 7), weight >> 4)).astype(np.int8)
            name = choices.pick(PATTERNS)
            kept = pattern(name, weight.shape, config.multipliers, choices.integer(0, 2**30))
            formats = [f for f in FORMATS if f in readable(m.mask(layer.cell), config).formats]
            forced = choices.pick([*formats, None])
            if forced in (*UNEQUAL_FORMATS, None) and config.sparse:
                if weight.shape[2] > room:
                    forced = "dense"
                else:
                    room -= weight.shape[2]
            layer.matrices[j] = dataclasses.replace(
                m, weight=weight * kept.astype(np.int8), bits=bits, format=forced
            )
        if config.row_scale and choices.chance(70):
            rng = choices.rng()
            layer.scale = {
                g: rng.integers(0, choices.pick((1 << 15, 1 << 15, 2)), layer.units)
                for g in layer.bias
                if choices.chance(80)
            }
        if config.element_thresholds and choices.chance(70):
            layer.thresholds = choices.rng().integers(0, choices.pick((300, 1 << 17)), layer.units)
    if config.element_thresholds and not network.input_mode.one_hot and choices.chance(70):
        network.input_thresholds = choices.rng().integers(0, 500, network.inputs)
    if config.hot_words and choices.chance(80):
        network.notes["activity"] = _activity(choices, network)
    network.validate()


def _activity(choices: Choices, network: Network) -> dict[str, list[float]]:
    """Which columns go to the hot store first: any, every other one, or those of one vector."""
    names = network.event_names()
    kind, one = choices.pick(("any", "alternating", "one")), choices.pick(list(names.values()))
    found = {}
    for source, name in names.items():
        size = network.source_size(source % SECOND if source >= 0 else source)
        rate = choices.rng().random(size)
        if kind == "alternating":
            rate = np.arange(size) % 2.0
        elif kind == "one":
            rate = np.full(size, float(name == one))
        found[name] = rate.tolist()
    return found


def _pruned(choices: Choices, case: Case, config: EngineConfig) -> Case:
    prune(choices, case.network, config)
    return case


def format_case(seed: int, config: EngineConfig, **limits: Any) -> Case:
    """The case of a seed."""
    return _pruned(Seeded(seed + 1), random_case(seed, config, **limits), config)


def _one_layer(
    name: str, weight: np.ndarray, bits: int, kind: str, rng: np.random.Generator
) -> Network:
    """A linear layer of such weights, shape (1, units, inputs), with random biases."""
    _, units, size = weight.shape
    layer = QuantizedLayer(
        name,
        "linear",
        units,
        [QuantizedMatrix(INPUT, ("y",), weight, 7, bits, kind)],
        {"y": rng.integers(-1000, 1000, units)},
        shift=15,
        write_shift=0,
        fraction=11,
    )
    return Network(size, 11, [layer])


def short_case(seed: int, config: EngineConfig) -> Case:
    """Columns of one to five words, all fired, all with one row, from a memory that never pauses.

    Formats take turns with the seed, and so do the ends of both widths.
    """
    rng = np.random.default_rng(seed)
    units, size = (1, 9, 40)[seed % 3], 40
    bits = 4 if config.int4 and seed % 2 else 8
    limit = 1 << (bits - 1)
    weight = rng.choice([-limit, limit - 1], (1, units, size)).astype(np.int8)
    weight *= rng.random((1, units, size)) < (0.05, 0.3, 1.0)[seed // 2 % 3]
    weight[0, seed % units] = limit - 1  # one row is in every column
    network = _one_layer("short", weight, bits, FORMATS[seed // 6 % len(FORMATS)], rng)
    inputs = rng.choice([-32768, 32767], (6, size))
    none = np.zeros((0, size), np.int64)
    return Case(network, inputs, none, Behaviour(latency=1), bool(seed % 4))


def full_lane_case(seed: int, config: EngineConfig) -> Case:
    """Columns whose weights are all in one lane, all fired, from a memory that never pauses.

    Of such a column a lane gets weights in its own place and in that of the lane before at once,
    more than it can add while the column lasts.
    """
    rng = np.random.default_rng(seed)
    units, size, bits = config.units, config.inputs, 4 if config.int4 else 8
    limit = 1 << (bits - 1)
    weight = np.zeros((1, units, size), np.int8)
    weight[:, seed % config.multipliers :: config.multipliers] = limit - 1
    network = _one_layer("full", weight, bits, "step", rng)
    inputs = rng.choice([-32768, 32767], (6, size))
    none = np.zeros((0, size), np.int64)
    return Case(network, inputs, none, Behaviour(latency=1), bool(seed % 2))


@st.composite
def format_cases(draw: Any, config: EngineConfig) -> Case:
    """Hypothesis strategy of cases for an engine."""
    choices = Drawn(draw)
    case = random_case(choices.integer(0, 2**30), config)
    return _pruned(choices, case, config)
