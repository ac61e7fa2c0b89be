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
