"""``stillnet train`` as a user calls it; ``--check`` runs the result on generated hardware."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.cli import train as command
from stillnet.sw.cli.main import main
from stillnet.sw.network.network import Network

from .toys import recordings, toy_model, toy_network

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="make test-train installs it")


@pytest.fixture(scope="module")
def start() -> Network:
    return toy_network(sparsity=0.5, error=0.06)


@pytest.fixture
def line(start: Network, tmp_path: Path) -> list[str]:
    """A command line that trains the toy for three updates."""
    toy_model().save(tmp_path / "model.safetensors")
    start.save(tmp_path / "start.safetensors")
    (tmp_path / "clips").mkdir()
    for k, x in enumerate(recordings(2)):
        np.save(tmp_path / f"clips/{k}.npy", x)
    text = f"train {tmp_path}/model.safetensors --data {tmp_path}/clips --updates 3 --batch 2"
    text += f" --stretch 16 --start {tmp_path}/start.safetensors -o {tmp_path}/net.safetensors"
    return text.split()


def test_check_compares_with_generated_hardware(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, "--rate", "0.2", "--check", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 0
    assert result["updates"] == 3
    assert not (tmp_path / "net.safetensors.stages").exists()
    trained = Network.load(tmp_path / "net.safetensors")
    assert trained.notes["training"]["options"]["updates"] == 3


def test_check_says_that_hardware_differs(
    line: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hardware that differs is an error, for a script too."""
    monkeypatch.setattr(command, "hardware_mismatches", lambda *given: 7)
    assert main([*line, "--check"]) == 1
    shown = capsys.readouterr()
    assert "HARDWARE DIFFERS" in shown.out
    assert (tmp_path / "net.safetensors").is_file()


def test_without_check_no_hardware_is_made(
    line: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "hardware_mismatches", lambda *given: pytest.fail("was run"))
    assert main([*line, "--thresholds", "common"]) == 0
    shown = capsys.readouterr().out
    assert "Hardware" not in shown and "before" in shown and "after" in shown
