"""Engines with every kind of cell against the reference, integer for integer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from random_cells import cell_cases, random_cell_case
from random_networks import Bench, Case, engine_config

from stillnet.sw.contract.config import EngineConfig

S5 = ("s5_encoder", "s5_state", "s5_imag", "s5_output", "s5_glu")

CONFIGS: dict[str, EngineConfig] = {
    "recurrent": engine_config(
        lanes=8,
        layers=6,
        matrices=32,
        cells=("lstm", "lstm_peephole", "egru", "gru_before", "gru_reset", "linear", "gru"),
    ),
    "s5": engine_config(lanes=8, cell_width=2, layers=8, matrices=40, cells=(*S5, "relu")),
    "small": engine_config(
        lanes=4,
        layers=6,
        matrices=32,
        second_threshold=True,
        cells=(
            "mingru",
            "ligru",
            "leaky",
            "lru",
            "lru_imag",
            "gru_before_relu",
            "gru_reset_relu",
            "conv3_relu",
        ),
    ),
    "shared": engine_config(
        lanes=8,
        layers=6,
        matrices=32,
        cell_sharing=3,
        cells=("lstm_peephole", "egru", "gru", "relu", *S5[:3]),
    ),
    "one cell": engine_config(lanes=2, cell_width=2, cell_sharing=2, cells=("conv8",)),
}
"""Several cells in one engine; state variables of one name and of different widths among them."""


@pytest.fixture(scope="session")
def cell_benches() -> Iterator[dict[str, Bench]]:
    """One engine of each configuration; compiled when first used."""
    benches = {name: Bench(config) for name, config in CONFIGS.items()}
    yield benches
    for bench in benches.values():
        bench.renew()


@pytest.mark.parametrize("name", CONFIGS)
def test_seeded_networks_equal_the_reference(cell_benches: dict[str, Bench], name: str) -> None:
    for seed in range(120):
        cell_benches[name].check(random_cell_case(seed, CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_random_networks_equal_the_reference(cell_benches: dict[str, Bench], name: str) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cell_cases(CONFIGS[name]))
    def check(case: Case) -> None:
        cell_benches[name].check(case)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_many_seeded_networks_equal_the_reference(
    cell_benches: dict[str, Bench], name: str
) -> None:
    for seed in range(1000, 4000):
        cell_benches[name].check(random_cell_case(seed, CONFIGS[name]))
