"""A search finds the front, goes on where it was stopped, and writes what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.cli.search import parse_engines, spread
from stillnet.sw.compression.sweep import measure
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.search import Offer, Search, SearchOptions
from stillnet.sw.search.front import front, hypervolume

OPTIONS = SearchOptions(
    bits=(4, 8),
    errors=(0.01, 0.1),
    kept=(1.0, 0.5, 0.3),
    engines={"tiny": Offer(PRESETS["tiny"])},
)


def make_model(seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1.2 / np.sqrt(shape[-1]), shape)

    model = Model(5).gru(weights(36, 5), weights(36, 12), np.zeros(36), np.zeros(36), name="cell")
    return model.dense(weights(3, 12), np.zeros(3), name="out")


def recordings(count: int = 2, steps: int = 200) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    t = np.arange(steps)[:, None]
    waves = []
    for _ in range(count):
        speed = rng.uniform(0.005, 0.08, (1, 5))
        waves.append(np.sin(2 * np.pi * speed * t) + 0.02 * rng.normal(size=(steps, 5)))
    return waves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a search of 20 trials."""
    place = tmp_path_factory.mktemp("search")
    Search(make_model(), recordings(), OPTIONS, folder=place).run(20)
    return place


@pytest.fixture
def search(folder: Path) -> Search:
    return Search(make_model(), recordings(), OPTIONS, folder=folder)


# -- fronts ---------------------------------------------------------------------------------------


def test_a_front_is_what_nothing_beats() -> None:
    rng = np.random.default_rng(2)
    points = [tuple(p) for p in rng.integers(0, 8, (40, 2)).astype(float)]
    found = front(points)
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert {points[k] for k in found} == best and len(found) == len(best)
    assert [points[k][1] for k in found] == sorted(points[k][1] for k in found)


def test_the_hypervolume_is_the_area_that_is_beaten() -> None:
    rng = np.random.default_rng(3)
    points = [tuple(p) for p in rng.integers(0, 10, (6, 2)).astype(float)]
    corner = (9.0, 8.0)
    cells = sum(
        any(p[0] <= x and p[1] <= y for p in points)
        for x in range(int(corner[0]))
        for y in range(int(corner[1]))
    )
    assert hypervolume(points, corner) == cells
    assert hypervolume([], corner) == 0.0


# -- trials ---------------------------------------------------------------------------------------


def test_it_begins_with_what_compress_does_and_gets_no_worse(search: Search) -> None:
    first, every = search.points(first=True), search.points()
    assert 1 <= len(first) < len(every)
    corner = (max(p[0] for p in first) + 0.01, max(p[1] for p in first) * 1.1)
    assert hypervolume(every, corner) >= hypervolume(first, corner) > 0
    rows = search.rows()
    assert [r["frame_ms"] for r in rows] == sorted(r["frame_ms"] for r in rows)
    assert [r["error"] for r in rows] == sorted((r["error"] for r in rows), reverse=True)


def test_a_stopped_search_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    whole = Search(make_model(), recordings(), OPTIONS, folder=folder)
    Search(make_model(), recordings(), OPTIONS, folder=tmp_path).run(15)
    later = Search(make_model(), recordings(), OPTIONS, folder=tmp_path)
    later.run(20)
    assert [(t.number, t.params, t.values) for t in later.completed()] == [
        (t.number, t.params, t.values) for t in whole.completed()
    ]


def test_another_search_is_refused(folder: Path) -> None:
    with pytest.raises(StillnetError, match="holds another compression"):
        Search(make_model(1), recordings(), OPTIONS, folder=folder)


def test_a_network_is_what_its_trial_says(search: Search) -> None:
    row = search.rows()[-1]
    network = search.network(row["trial"])
    found = measure(make_model(), network, recordings(), OPTIONS.engine("tiny"))
    # The layers are solved again one on the other, and thresholds found anew for the same error.
    assert found["error"] <= 1.02 * row["error"] + 1e-4
    assert found["words"] == pytest.approx(row["words"], rel=0.35)
    assert {m.bits for layer in network.layers for m in layer.matrices} <= {4, 8}
    kept = dict(zip(search.space.layers, row["kept"]))
    for i, layer in enumerate(network.layers):
        weights = np.concatenate([m.weight.ravel() for m in layer.matrices])
        share = np.count_nonzero(weights) / weights.size
        assert share <= kept[i] + 0.06  # a row keeps one weight


def test_a_layer_has_the_bits_that_were_chosen(search: Search) -> None:
    choice = search.start(4, 1.0, 0.02)
    mixed = replace(choice, bits={i: 8 if n == 0 else 4 for n, i in enumerate(choice.bits)})
    network = search.library.assemble(mixed).network
    network.validate()
    bits = [{m.bits for m in layer.matrices} for layer in network.layers]
    assert bits == [{8}, {4}]
    assert np.abs(network.layers[0].matrices[0].weight).max() > 8


def test_an_error_is_used_from_rates_that_are_far_too_low(search: Search) -> None:
    """Rates are balanced for one network, which may have met no error of the search."""
    choice = search.start(8, 1.0, 0.05)
    made = search.library.assemble(choice)
    near = search.judge.limits(made, choice, search.rates)
    far = search.judge.limits(made, choice, {s: r - 14.0 for s, r in near.rates.items()})
    assert far.error <= choice.error
    assert far.words == pytest.approx(near.words, rel=0.1)


# -- the command ----------------------------------------------------------------------------------


def test_the_command_writes_networks_and_a_picture(tmp_path: Path, capsys: Any) -> None:
    make_model().save(tmp_path / "model.npz")
    for k, x in enumerate(recordings()):
        np.save(tmp_path / f"x{k}.npy", x)
    arguments = ["search", str(tmp_path / "model.npz"), "--data", str(tmp_path / "x0.npy")]
    arguments += ["--test", str(tmp_path / "x1.npy"), "--preset", "tiny@50", "--trials", "5"]
    assert main([*arguments, "--write", "1", "-o", str(tmp_path / "found")]) == 0
    said = capsys.readouterr().out
    assert "the front of 5 trials" in said and "on --test" in said
    (written,) = (tmp_path / "found").glob("trial-*.safetensors")
    assert Network.load(written).notes["search"]["engine"] == "tiny@50"
    assert (tmp_path / "found" / "front.png").stat().st_size > 10_000


def test_engines_have_clocks() -> None:
    found = parse_engines("tiny, sdram16@75", 100.0)
    assert {n: (c.name, mhz) for n, (c, mhz) in found.items()} == {
        "tiny": ("tiny", 100.0),
        "sdram16@75": ("sdram16", 75.0),
    }
    with pytest.raises(StillnetError, match="write for instance sdram16@75"):
        parse_engines("sdram16@fast", 100.0)


def test_rows_are_spread() -> None:
    rows = [{"trial": k} for k in range(9)]
    assert [r["trial"] for r in spread(rows, 3)] == [0, 4, 8]
    assert [r["trial"] for r in spread(rows, 1)] == [4]
    assert spread(rows, 20) == rows


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bits": (3,)}, "weights must have 4 or 8 bits"),
        ({"errors": (0.1, 0.01)}, "the smaller first"),
        ({"kept": (0.0,)}, "above 0 and at most 1"),
        ({"engines": {}}, "needs an engine"),
        ({"sampler": "luck"}, "sampler must be one of"),
        ({"pattern": "stripes"}, "pattern must be one of"),
    ],
)
def test_options_are_checked(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(StillnetError, match=said):
        replace(SearchOptions(), **changed)
