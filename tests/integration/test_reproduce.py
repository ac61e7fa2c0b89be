"""The networks of ``examples/reproduce``: their integers in hardware, the figures of the pages."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import stillnet as sn
from tests import ROOT

FOLDER = Path(__file__).parents[2] / "examples/reproduce"
NETWORKS = FOLDER / "networks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads a script of the folder, as if it were run there."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


def results() -> dict[str, Any]:
    return dict(json.loads((NETWORKS / "results.json").read_text()))


def test_networks_are_small_and_say_how_they_were_made() -> None:
    files = sorted(NETWORKS.glob("*.safetensors"))
    assert len(files) >= 8
    for path in files:
        assert path.stat().st_size < 500_000, path.name
        notes = sn.Network.load(path).notes
        assert "examples/reproduce" in notes["made by"] and "seed 0" in notes["made by"], path.name


def inputs(network: sn.Network, steps: int) -> np.ndarray:
    """Something to run: slow waves, or tokens."""
    rng = np.random.default_rng(7)
    if network.input_mode.one_hot:
        return rng.integers(0, network.inputs, steps)
    t = np.arange(steps)[:, None]
    phase = rng.uniform(0, 6, (1, network.inputs))
    return 0.4 * np.sin(rng.uniform(0.1, 0.9, (1, network.inputs)) * t + phase)


@pytest.mark.parametrize(
    "name",
    [
        "edgedrnn-66",
        pytest.param("pattern-block8-2", marks=pytest.mark.slow),
        pytest.param("egru-fifth", marks=pytest.mark.slow),
        pytest.param("s5-sparse-64", marks=pytest.mark.slow),
    ],
)
def test_integers_of_a_network_in_hardware(name: str, script: Any) -> None:
    network = sn.Network.load(NETWORKS / f"{name}.safetensors")
    config = script("shared").engine_of(network)
    found = sn.run(network, inputs(network, 12), engine="rtl", preset=config, steps=12)
    assert found.mismatches == 0


def test_figures_of_the_linear_recurrent_network(script: Any) -> None:
    """The data are generated, so all of it can be measured again."""
    module = script("sparse_s5")
    module.SIZES = {"dense": (32,), "sparse": (64,)}
    for name, row in module.measure().items():
        assert row == pytest.approx(results()["s5"][name], rel=1e-6), name


def test_figures_of_the_language_model(script: Any) -> None:
    module = script("egru")
    module.NAMES = {"egru-fifth": 0.2}
    found = module.measure()["egru-fifth"]
    assert found == pytest.approx(results()["egru"]["egru-fifth"], rel=1e-6)


@pytest.mark.torch  # make test-train installs the package with the data
def test_figures_of_the_amplifier(script: Any) -> None:
    module = script("edgedrnn")
    network = sn.Network.load(NETWORKS / "edgedrnn-66.safetensors")
    assert module.row(network) == pytest.approx(results()["edgedrnn"]["trained"][0], rel=1e-6)


def test_activity_and_pruning_multiply(script: Any) -> None:
    found = results()["egru"]
    for name, kept in (("egru-half", 0.5), ("egru-fifth", 0.2)):
        parts = script("egru").shares(found, name)
        assert found[name]["kept"] <= 1.03 * kept
        assert parts["both"] == pytest.approx(parts["their product"], rel=0.3)
    assert parts["both"] <= 0.15


# -- patterns of weights --------------------------------------------------------------------------


def test_figures_of_patterns(script: Any) -> None:
    module = script("block_sparsity")
    for name in ("block8-4", "unstructured-2"):
        found = module.row(sn.Network.load(NETWORKS / f"pattern-{name}.safetensors"))
        wanted = results()["block-sparsity"]["trained"][name]
        assert found.pop("formats") == wanted.pop("formats")
        assert found == pytest.approx(wanted, rel=1e-6), name


def test_weights_stay_in_their_pattern(script: Any) -> None:
    """Also after training; columns of all patterns have about the same words."""
    module = script("block_sparsity")
    for count in module.KEPT_OF_GROUP:
        words = []
        for pattern in module.PATTERNS:
            network = sn.Network.load(NETWORKS / f"pattern-{pattern}-{count}.safetensors")
            words.append(module.words_of(network))
            for m in network.layers[0].matrices:
                kept = m.weight != 0
                if pattern == "block8":
                    blocks = module.in_blocks([kept])[0]
                    # A weight that stays may be rounded to zero; of a block that stays few are.
                    assert (blocks > 0).mean() <= 1.15 * kept.mean()
                elif pattern == "lane":
                    gates, units, columns = kept.shape
                    groups = kept.reshape(gates, units // 128, 16, 8, columns).sum(2)
                    assert groups.max() == count
        assert max(words) <= 1.03 * min(words), (count, words)


def test_every_way_to_choose_what_stays_fits_its_words(script: Any) -> None:
    module = script("block_sparsity")
    rng = np.random.default_rng(0)
    values = [rng.random((3, 128, 16)), rng.random((3, 128, 128))]
    dense = sn.Network.load(NETWORKS / "pattern-dense.safetensors")
    few = module.masks("lane", values, 0.25)
    assert all((k.reshape(3, 16, 8, -1).sum(1) == 4).all() for k in few)
    words = module.words_of(module.masked(dense, few))
    parts = {}
    for pattern in ("block8", "unstructured"):
        kept = module.within(pattern, values, dense, words)
        assert 0.95 * words <= module.words_of(module.masked(dense, kept)) <= words
        parts[pattern] = np.mean(np.concatenate([k.ravel() for k in kept]))
    assert parts["unstructured"] < 0.25 < parts["block8"]
    blocks = module.masks("block8", values, 0.5)[1]
    sums = values[1].reshape(3, 16, 8, 16, 8).sum((2, 4))
    inside = blocks.reshape(3, 16, 8, 16, 8)
    assert ((inside.sum((2, 4)) == 0) | (inside.sum((2, 4)) == 64)).all()
    assert sums[inside[:, :, 0, :, 0]].min() > np.median(sums) - 3


# -- searched and uniform -------------------------------------------------------------------------


def test_words_at_an_error_lie_between_two_networks(script: Any) -> None:
    module = script("hass")
    rows = [{"test": {"error": e, "words": w}} for e, w in ((0.1, 100.0), (0.2, 25.0), (0.3, 60.0))]
    assert module.words_at(rows, 0.15) == pytest.approx(50.0)
    assert module.words_at(rows, 0.1) == pytest.approx(100.0)
    assert np.isnan(module.words_at(rows, 0.05)) and np.isnan(module.words_at(rows, 0.3))
    fronts = {"uniform": rows[:2], "search": [*rows[:1], {"test": {"error": 0.2, "words": 10.0}}]}
    fronts["compress"] = [{"test": {"error": 0.25, "words": 50.0}}]
    # The corner is (.2, 100): what lies on its edges beats no area.
    fronts["uniform"].append({"test": {"error": 0.15, "words": 50.0}})
    fronts["search"].append({"test": {"error": 0.1, "words": 50.0}})
    areas = module.volumes(fronts)
    assert areas == pytest.approx({"uniform": 1.0, "search": 2.0, "compress": 0.0})


def test_uniform_layers_keep_one_part_in_every_matrix(script: Any) -> None:
    """Those of the search share it between matrices as it hurts least."""
    module = script("hass")
    rng = np.random.default_rng(0)
    model = sn.Model(6).gru(
        rng.normal(0, 1, (48, 6)), rng.normal(0, 0.2, (48, 16)), np.zeros(48), np.zeros(48)
    )
    x = np.cumsum(rng.normal(0, 0.2, (300, 6)), axis=0)
    options = module.SearchOptions(kept=(1.0, 0.5), errors=(0.01, 0.1))
    search = module.Search(model, x - x.mean(0), options)
    parts = {}
    keep = module.Checkpoint(None, search.key)
    for library in (search.library, module.Uniform(search.library, keep)):
        work = library.layer(0, 4, 1)
        parts[type(library)] = [float(c.kept.mean()) for c in work.values()]
    assert len(parts[module.Uniform]) > 1
    assert parts[module.Uniform] == pytest.approx([0.5] * len(parts[module.Uniform]), abs=0.03)
    assert max(parts[module.Library]) - min(parts[module.Library]) > 0.1


def test_the_page_of_the_search_says_what_was_measured(script: Any) -> None:
    """On unheard recordings: ahead on one network, and hardly on the other."""
    module = script("hass")
    page = (ROOT / "docs" / "reproduce" / "hass.md").read_text()
    names = {"uniform": "uniform", "compress": "compress", "search": "searched"}
    areas = {}
    for name, result in results()["hass"].items():
        fronts = result["fronts"]
        assert set(fronts) == set(module.WAYS)
        areas[name] = module.volumes(fronts)
        for way, rows in fronts.items():
            heard = [(r["calibration"]["error"], r["calibration"]["words"]) for r in rows]
            assert module.front(heard) == list(range(len(heard)))
            words = [f"{module.words_at(rows, e):,.0f}" for e in module.LEVELS[name][-2:]]
            area = f"{areas[name][way]:.3f}".removeprefix("0")
            assert f"| {names[way]} | {len(rows)} | {area} | {words[0]} | {words[1]} |" in page
    assert areas["nsnet2"]["search"] > 1.1
    assert areas["silero-vad"]["search"] < 1.1 < areas["silero-vad"]["compress"]
