"""Without PyTorch: the package loads, the command says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.cli.train import load_loss
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.train import TrainOptions, train

from .toys import recordings, toy_model, toy_network


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("stillnet.sw.train.trainer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


def test_the_package_loads_without_it() -> None:
    code = "import sys, stillnet.sw.train, stillnet.sw.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_command_says_what_to_install(
    without_torch: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_model().save(tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", recordings()[0])
    args = ["train", str(tmp_path / "model.safetensors"), "--data", str(tmp_path / "x.npy")]
    assert main([*args, "-o", str(tmp_path / "net.safetensors")]) == 2
    assert "pip install 'stillnet[train]'" in capsys.readouterr().err


def test_so_does_the_function(without_torch: None) -> None:
    with pytest.raises(StillnetError, match="training needs PyTorch"):
        train(toy_model(), toy_network(), recordings(), TrainOptions())


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"updates": 0}, "updates must be a whole number from 1, not 0"),
        ({"words": -1.0}, "words must be a positive number, not -1.0"),
        ({"words": 5.0, "mean_error": 0.1}, "give words or mean_error, not both"),
        ({"loss": "hinge"}, "loss must be one of mae, mse, kl, not 'hinge'"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, not 'float16'"),
        ({"sparsity": 1.0}, "sparsity must be 0 to below 1, not 1.0"),
    ],
)
def test_options_are_checked(changed: dict, text: str) -> None:
    with pytest.raises(StillnetError, match=text):
        TrainOptions(**changed)


def test_losses_of_files(tmp_path: Path) -> None:
    place = tmp_path / "loss.py"
    place.write_text("def own(y, stretch):\n    return y.sum()\n")
    assert load_loss("kl") == "kl"
    assert callable(load_loss(f"{place}:own"))
    with pytest.raises(StillnetError, match="has no function 'other'"):
        load_loss(f"{place}:other")
    with pytest.raises(StillnetError, match="is none of mae, mse, kl"):
        load_loss("hinge")
    place.write_text("1 / 0\n")
    with pytest.raises(StillnetError, match="fails: ZeroDivisionError"):
        load_loss(f"{place}:own")
