"""Formats of columns on the engine: every integer and every counter as the reference says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillnet.sim.bench.accuracy import random_model
from stillnet.sim.engine.model import Behaviour
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import FORMATS, HEADER, find_field
from stillnet.sw.packing.packer import pack
from stillnet.sw.quantization.quantizer import quantize
from tests.support.networks.formats import (
    format_case,
    format_cases,
    full_lane_case,
    short_case,
)
from tests.support.networks.images import patched
from tests.support.networks.random import Bench, Case, engine_config
from tests.support.sampling import some

FEW = {"lanes": 8, "cells": ("gru", "linear", "relu")}
CONFIGS: dict[str, EngineConfig] = {
    "int4": engine_config(
        int4=True,
        row_scale=True,
        columns=300,
        hot_words=70,
        fetch_words=16,
        fetch_columns=4,
        **FEW,
    ),
    "sparse": engine_config(
        formats=FORMATS,
        columns=512,
        hot_words=150,
        cell_width=2,
        element_thresholds=True,
        **FEW,
    ),
    "both": engine_config(
        int4=True,
        formats=FORMATS,
        columns=512,
        hot_words=5000,
        element_thresholds=True,
        **FEW,
    ),
}


@pytest.fixture(scope="session")
def benches() -> Iterator[dict[str, Bench]]:
    """One engine of each configuration; compiled when first used."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


@pytest.mark.parametrize("name", some(CONFIGS, "both"))
@pytest.mark.parametrize("part", some(range(4), 0, 1))
def test_random_networks(benches: dict[str, Bench], name: str, part: int) -> None:
    bench = benches[name]
    for seed in range(10 * part, 10 * part + 10):
        bench.check(format_case(seed, bench.config))


@pytest.mark.parametrize("name", some(["sparse", "both"], "both"))
def test_short_columns_at_one_row(benches: dict[str, Bench], name: str) -> None:
    bench = benches[name]
    for seed in range(36):
        bench.check(short_case(seed, bench.config))


@pytest.mark.parametrize("name", some(["sparse", "both"], "both"))
def test_columns_of_one_lane(benches: dict[str, Bench], name: str) -> None:
    bench = benches[name]
    for seed in range(4):
        bench.check(full_lane_case(seed, bench.config))


def test_more_hot_words_than_the_store_has_are_refused(benches: dict[str, Bench]) -> None:
    bench = benches["int4"]
    case = format_case(0, bench.config)
    image = pack(case.network, bench.config)
    words = len(image.hardware) // bench.config.word_bytes
    record, _ = find_field(HEADER, "hot_at")
    assert words > 71
    for hot_at in (words - 71, 0, words + 1):
        with pytest.raises(StillnetError, match="refused the image: capacity"):
            bench.model.load(patched(image.data, record, "hot_at", hot_at))
    bench.model.load(patched(image.data, record, "hot_at", words - 70))
    bench.check(case)


@pytest.mark.parametrize("threshold", [0.0, 0.02])
@pytest.mark.parametrize("kind", ["gru", "dense"])
def test_two_planes_of_weights(benches: dict[str, Bench], kind: str, threshold: float) -> None:
    model, x = random_model(kind, np.random.default_rng(7), 100, steps=200)
    names = [layer.name for layer in model.layers]
    network = quantize(
        model, x, method="nearest", row_steps=True, planes=names, thresholds=threshold
    )
    assert network.row_scale and len(network.layers) == 4, "two copies beside the layers"
    inputs = network.quantize_input(x[:80])
    none = inputs[:0]
    run = benches["int4"].check(Case(network, inputs, none, Behaviour(), streaming=True))
    assert run.events["input.low"] > 0, "second planes take part"


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(sorted(CONFIGS)))
def test_any_network(benches: dict[str, Bench], data: st.DataObject, name: str) -> None:
    bench = benches[name]
    bench.check(data.draw(format_cases(bench.config)))
