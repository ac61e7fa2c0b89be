"""The measured claims, at the shapes that are quick to simulate; the large ones are slow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stillnet.sim.bench.edgedrnn import SHAPES, config, measure
from stillnet.sim.engine.model import EngineModel
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.benches import bench, document
from stillnet.sw.util.results.studies import BenchResult


@pytest.fixture(scope="module")
def model() -> Iterator[EngineModel]:
    with EngineModel(config()) as engine:
        yield engine


def shape(name: str):
    return next(s for s in SHAPES if str(s) == name)


@pytest.mark.parametrize("latency", [8, 60])
@pytest.mark.parametrize(("name", "utilisation"), [("40-128-2", 0.985), ("16-64-1", 0.9)])
def test_utilisation_of_small_networks(
    model: EngineModel, name: str, utilisation: float, latency: int
) -> None:
    row = measure(shape(name), model, latency)
    assert row["utilisation"] >= utilisation
    assert row["sparsity"] == pytest.approx(row["edgedrnn_sparsity"], abs=0.015)
    assert row["words"] == row["fired_columns"] * 3 * shape(name).units / 8
    stalls = row["stall_cell"] + row["stall_memory"] + row["stall_events"]
    assert row["cycles"] == pytest.approx(row["words"] + stalls)


@pytest.mark.slow
@pytest.mark.parametrize("latency", [8, 60])
def test_the_large_network(model: EngineModel, latency: int) -> None:
    row = measure(shape("40-768-2"), model, latency)
    assert row["utilisation"] >= 0.995
    assert row["latency_cycles"] / row["cycles"] <= 0.53
    assert row["floor_cycles"] <= 1650


@pytest.mark.slow
def test_two_units_a_cycle() -> None:
    with EngineModel(config(2)) as engine:
        assert measure(shape("40-768-2"), engine, 8)["floor_cycles"] <= 850


def test_unknown_bench_is_refused() -> None:
    with pytest.raises(
        StillnetError, match="^bench 'nonsense' is unknown; known are accuracy, activity, "
    ):
        bench("nonsense")


def test_document_shows_every_row() -> None:
    row = {
        "shape": "1-2-3",
        "cell_width": 1,
        "memory_latency": 8,
        "sparsity": 0.5,
        "fired_columns": 1.0,
        "words": 10.0,
        "cycles": 20.0,
        "utilisation": 0.5,
        "latency_cycles": 10.0,
        "floor_cycles": 5.0,
        "bytes": 80.0,
        "edgedrnn_cycles": 30,
        "edgedrnn_utilisation": 0.25,
    }
    text = document([BenchResult(bench="edgedrnn", rows=[row])])
    line = "| 1-2-3 | 1 | 8 | 0.500 | 1.0 | 10 | 20 | 0.5000 | 10 | 0.500 | 5 | 80 |"
    assert line in text
    # Of one measurement, the page's other sections stay, in their places.
    title = "## EdgeDRNN's shapes"
    page = f"# Benchmarks\n\nolder\n\n## First\n\na row\n\n{title}\n\nold\n\n## Last\n\nb row\n"
    parts = document([BenchResult(bench="edgedrnn", rows=[row])], page).split("\n## ")
    assert parts[0] + "\n" == text.split("## ")[0].rstrip("\n") + "\n\n"
    assert parts[1] == "First\n\na row\n" and parts[3] == "Last\n\nb row\n"
    assert line in parts[2] and "\nold\n" not in parts[2]
    # What is another page is not mixed with it.
    assert document([BenchResult(bench="edgedrnn", rows=[row])], "# Notes\n\n## Mine\n") == text
