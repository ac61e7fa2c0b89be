"""``--deadline``: a bound that a person asks for, what is said of it, and what cannot be kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.network.network import Network


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", np.cumsum(rng.normal(0, 0.1, (200, 6)), axis=0))
    shapes = {"weight_ih_l0": (48, 6), "weight_hh_l0": (48, 16), "bias_ih_l0": 48, "bias_hh_l0": 48}
    weights = {f"gru.{name}": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    weights |= {"out.weight": rng.normal(0, 0.4, (3, 16)), "out.bias": np.zeros(3)}
    np.savez(tmp_path / "model.npz", **weights)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(name: str, deadline: str) -> list[str]:
    given = ["model.npz", "--layers", "gru:gru,linear:out", "--data", "x.npy"]
    chosen = ["--threshold", "4/256"] if name == "quantize" else ["--mean-error", "0.05"]
    return [name, *given, *chosen, "--deadline", deadline, "-o", "net.safetensors"]


@pytest.mark.parametrize("name", ["quantize", "compress"])
def test_budgets_are_chosen_for_a_deadline(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(name, "1ms"), "--json"]) == 0
    free = json.loads(capsys.readouterr().out)["deadline"]
    assert free["budgets"] == {} and free["guaranteed_cycles"] == free["without_cycles"]
    asked = 0.85 * free["guaranteed_ms"]
    assert main([*command(name, f"{asked}ms"), "--json"]) == 0
    bound = json.loads(capsys.readouterr().out)["deadline"]
    assert bound["guaranteed_ms"] <= asked and bound["budgets"] and bound["late"] > 0
    assert Network.load("net.safetensors").budgets
    assert main(["info", "net.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert f"No step takes more than {bound['guaranteed_cycles']:,} cycles" in shown


@pytest.mark.parametrize("name", ["quantize", "compress"])
def test_a_deadline_that_cannot_be_kept_is_refused(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(name, "2us")) == 2
    assert "cannot keep 0.002 ms for every input" in capsys.readouterr().err
    assert not Path("net.safetensors").exists()
