"""The wheel alone, in a fresh environment and another folder: quantize, run, generate.

The checkout is not importable there. Dependencies come from the environment of the tests, so that
no network is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT

SOURCES = ("hw", "sw", "sim", "boards", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because a build leaves files behind and finds those of the last one."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run([*command, "--disable-pip-version-check", "-w", folder, copy], folder)
    return next(folder.glob("stillnet-*.whl"))


def run(command: list, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; its folder of scripts.

    The packages of the tests are on its path. Their .pth files are not read there, so that the
    editable install of the checkout stays out.
    """
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root, with_pip=False, symlinks=True)
    python = root / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([python, "-c", code], root).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    run([*pip, "--no-index", "--disable-pip-version-check", wheel], root)
    return root / "bin"


def test_the_wheel_has_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        "stillnet/" + str(path.relative_to(ROOT))
        for room in ("hw", "sw", "sim", "boards")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".c", ".cpp", ".h", ".html")
        and path.parent != ROOT / "sw" / "api"
    }
    assert sources <= names
    assert {"stillnet/__init__.py", "stillnet/functions.py", "stillnet/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "stillnet/tests/", "stillnet/sw/api"))]


def test_quantize_run_generate(installed: Path, tmp_path: Path) -> None:
    code = "import stillnet as sn, stillnet.sim.engine.run as r; print(sn.__file__, r.__file__)"
    places = run([installed / "python", "-c", code], tmp_path).split()
    assert all(Path(place).is_relative_to(installed.parent) for place in places), places

    def stillnet(*arguments: str) -> dict:
        return json.loads(run([installed / "stillnet", *arguments, "--json"], tmp_path))

    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": 12, "bias_hh_l0": 12}
    weights = {f"rnn.{name}": rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "model.npz", **weights)
    np.save(tmp_path / "x.npy", np.cumsum(rng.normal(0, 0.2, (40, 3)), axis=0))

    made = stillnet("quantize", "model.npz", "--data", "x.npy", "--threshold", "1/64", "-o", "n.st")
    assert made["layers"][0]["cell"] == "gru" and (tmp_path / "n.st").is_file()
    reference = stillnet("run", "n.st", "x.npy", "--preset", "tiny", "--steps", "6", "-o", "a.npy")
    rtl = stillnet(
        "run", "n.st", "x.npy", "--preset", "tiny", "--steps", "6", "--engine", "rtl", "-o", "b.npy"
    )
    assert (rtl["mismatches"], rtl["words"]) == (0, reference["words"])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    core = stillnet("generate", "n.st", "--preset", "tiny", "-o", "core.v")
    assert core["module"] == "core" and (tmp_path / "core.v").read_text().count("module core ")
