"""``stillnet compress`` and ``stillnet sweep``: what they print, draw and refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stillnet.sw.cli.main import main
from stillnet.sw.cli.options import parse_bits, parse_time
from stillnet.sw.compression.plot import plot_sweep
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network


def tiny_model() -> Model:
    rng = np.random.default_rng(0)
    model = Model(4, name="tiny").gru(
        rng.normal(0, 0.5, (18, 4)), rng.normal(0, 0.5, (18, 6)), rng.normal(0, 1, 18), name="gru"
    )
    return model.dense(rng.normal(0, 1, (2, 6)), name="out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with clips, and a model file that loads as tiny_model."""
    (tmp_path / "clips").mkdir()
    rng = np.random.default_rng(1)
    for k in range(2):
        np.save(tmp_path / "clips" / f"{k}.npy", np.cumsum(rng.normal(0, 0.2, (40, 4)), axis=0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"stands for a model")
    module = SimpleNamespace(load_model=lambda path, layers=None, cut=None: tiny_model())
    monkeypatch.setitem(sys.modules, "stillnet.sw.importers.load", module)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compress_writes_a_network_and_explains_it(folder, capsys):
    command = ["compress", "model.onnx", "--data", "clips", "-o", "net.safetensors"]
    command += ["--sparsity", "0.4", "--max-error", "0.05"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    network = Network.load("net.safetensors")
    assert result["output_error"] <= 0.05 and result["name"] == "tiny"
    assert [layer["name"] for layer in result["layers"]] == ["gru", "out"]
    assert {m.bits for layer in network.layers for m in layer.matrices} == {4}
    assert not (folder / "net.safetensors.stages").exists()
    assert main([*command, "--resume", "kept"]) == 0
    text = capsys.readouterr().out
    assert "by the cost model" in text and "Saved net.safetensors." in text
    assert (folder / "kept" / "weights-0-layer00.npz").is_file()


def test_frame_time_is_kept(folder, capsys):
    command = ["compress", "model.onnx", "--data", "clips", "-o", "net.safetensors", "--json"]
    assert main([*command, "--frame-time", "3us"]) == 0
    assert json.loads(capsys.readouterr().out)["frame_ms"] < 0.0033


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", "3bit"], "--weights: '3bit' is not 4bit or 8bit"),
        (["--frame-time", "2"], "--frame-time: '2' is not a time such as 2ms or 800us"),
        (["--sparsity", "1"], "sparsity must be 0 to below 1, not 1"),
        (
            ["--weights", "4bit,8bit"],
            "--weights takes one value here; 'stillnet sweep' compares several of them",
        ),
        (
            ["--max-error", "0.1", "--frame-time", "2ms"],
            "give max_error or frame_ms, not both: each decides the thresholds",
        ),
    ],
)
def test_compress_refuses(folder, capsys, arguments, message):
    assert main(["compress", "model.onnx", "--data", "clips", "-o", "x", *arguments]) == 2
    assert capsys.readouterr().err == f"stillnet: error: {message}\n"


def test_empty_folders_are_named(folder, capsys):
    assert main(["compress", "model.onnx", "--data", "empty", "-o", "x"]) == 2
    assert capsys.readouterr().err == (
        "stillnet: error: folder 'empty' holds no .npy file; write the model's input vectors there "
        "with numpy.save, (steps, inputs) for each recording\n"
    )


def test_numbers_with_units():
    assert [parse_time(t) for t in ("2ms", "500us", "0.01s")] == pytest.approx([2, 0.5, 10])
    assert [parse_bits(t) for t in ("4bit", "8", "8-bit")] == [[4], [8], [8]]
    assert parse_bits("8bit,4bit") == [8, 4]


def test_sweep_has_a_row_a_point_and_a_picture(folder, capsys):
    command = ["sweep", "model.onnx", "--data", "clips", "--test", "clips/0.npy", "--json"]
    command += ["--weights", "8bit", "--sparsity", "0", "--errors", "0,0.03", "--plot", "p.png"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["bits"], r["sparsity"], r["budget"]) for r in rows] == [(8, 0, 0.03), (8, 0, 0)]
    few, all_ = rows
    assert few["error"] > all_["error"] and few["words"] < all_["words"]
    assert few["test_words"] < all_["test_words"] and few["frame_ms"] < all_["frame_ms"]
    assert (folder / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--plot", "p.jpeg"], "'p.jpeg' is no picture; its name must end in .png, .svg, .pdf"),
        (
            ["--plot", "no/p.png"],
            "cannot write 'no/p.png': folder 'no' does not exist; make it first",
        ),
        (
            ["--plot", "clips/x.png", "--sparsity", "0,1.5"],
            "sparsity must be 0 to below 1, not 1.5",
        ),
        (["--errors", "0.01,-0.5"], "a budget of error must be 0 or more, not -0.5"),
    ],
)
def test_sweep_refuses_before_it_works(folder, capsys, monkeypatch, arguments, message):
    def work(*_):
        raise AssertionError("the work began")

    monkeypatch.setattr("stillnet.sw.compression.sweep.prepare_setup", work)
    assert main(["sweep", "model.onnx", "--data", "clips", *arguments]) == 2
    assert capsys.readouterr().err == f"stillnet: error: {message}\n"


@pytest.mark.parametrize(
    "place, message",
    [
        ("clips", "cannot write 'clips': it is a folder; choose another place"),
        ("no/net.st", "cannot write 'no/net.st': folder 'no' does not exist; make it first"),
    ],
)
def test_compress_looks_at_the_place_of_its_result_first(
    folder, capsys, monkeypatch, place, message
):
    monkeypatch.setattr("stillnet.sw.cli.compress.load_recordings", lambda _: 1 / 0)
    assert main(["compress", "model.onnx", "--data", "clips", "-o", place]) == 2
    assert capsys.readouterr().err == f"stillnet: error: {message}\n"


def test_nothing_cannot_be_drawn(tmp_path):
    with pytest.raises(StillnetError, match="^a sweep without points cannot be drawn; allow a la"):
        plot_sweep([], tmp_path / "p.png")
