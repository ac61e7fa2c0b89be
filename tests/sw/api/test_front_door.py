"""``import stillnet as sn``: light, complete, typed, and its examples run."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import stillnet as sn
from stillnet.boards.board import TIER_CLOCK_HZ
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.quantization.quantizer import quantize
from stillnet.sw.util.recordings import as_recordings
from stillnet.sw.util.results import networks, products, runs, studies
from stillnet.sw.util.results.result import Result

FUNCTIONS = (
    "bench",
    "compress",
    "deadline",
    "deploy",
    "generate",
    "info",
    "load_model",
    "monitor",
    "pack",
    "quantize",
    "run",
    "train",
)
ON_A_BOARD = ("deploy", "monitor")
"""Their examples run beside a stream: ``tests/sw/host/test_deploy.py``."""

EXAMPLES = [
    pytest.param(name, marks=[pytest.mark.torch] if name == "train" else [])
    for name in FUNCTIONS
    if name not in ON_A_BOARD
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A model as a state_dict, a recording, and a network of both."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (18, 4), "weight_hh_l0": (18, 6), "bias_ih_l0": 18, "bias_hh_l0": 18}
    state = {f"rnn.{name}": rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    state |= {"out.weight": rng.normal(0, 0.5, (2, 6)), "out.bias": rng.normal(0, 0.5, 2)}
    np.savez("model.npz", **state)
    np.save("x.npy", np.cumsum(rng.normal(0, 0.2, (60, 4)), axis=0))
    sn.quantize("model.npz", "x.npy", thresholds=1 / 16).save("net.safetensors")
    return tmp_path


def process(code: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_importing_the_package_is_light() -> None:
    process(
        """
        import sys, stillnet as sn
        heavy = {"amaranth", "numpy", "rich", "safetensors", "onnx", "torch", "cocotb"}
        assert not heavy & set(sys.modules)
        assert not [m for m in sys.modules if m.startswith("stillnet.")]
        assert sn.EngineConfig and sn.quantize and sn.run and sn.info and sn.bench
        assert not {"amaranth", "onnx", "torch", "cocotb"} & set(sys.modules)
        """
    )


def test_no_submodule_shadows_a_name() -> None:
    process(
        """
        import importlib, pkgutil, stillnet as sn
        for module in pkgutil.iter_modules(sn.__path__):
            importlib.import_module(f"stillnet.{module.name}")
        import stillnet.sw.cli.run, stillnet.sw.cli.bench, stillnet.hw.verilog.generate
        for name in sn.__all__:
            assert callable(getattr(sn, name)), name
        """
    )


def test_all_names_are_there_and_typed() -> None:
    assert set(sn.__all__) <= set(dir(sn))
    tree = ast.parse(Path(sn.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(typed) == sn.__all__
    for name, module in typed.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(sn, name)
    with pytest.raises(AttributeError, match="^module 'stillnet' has no attribute 'quantise'$"):
        _ = sn.quantise


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_complete(name: str) -> None:
    signature = inspect.signature(getattr(sn, name))
    assert signature.return_annotation not in (inspect.Signature.empty, "Any")
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Signature.empty, parameter


def example(name: str) -> str:
    """The code block of a docstring: what is indented below ``::``."""
    lines = inspect.getdoc(getattr(sn, name)).splitlines()
    start = lines.index("::") + 1
    block = []
    for line in lines[start:]:
        if line and not line.startswith("    "):
            break
        block.append(line)
    return textwrap.dedent("\n".join(block))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name: str, folder: Path, monkeypatch, capsys) -> None:
    code = example(name)
    assert f"sn.{name}(" in code
    if name == "bench":  # its measurement takes a minute
        bench = importlib.import_module("stillnet.sim.bench.sdram").BENCH
        quick = dataclasses.replace(
            bench, measure=lambda progress: [{"part": "p", "sequential_read": 0.97}]
        )
        monkeypatch.setattr("stillnet.sw.util.benches.load_bench", lambda name: quick)
    if name == "run":  # a simulator is for the tests of the RTL
        real = sn.run
        monkeypatch.setattr(sn, "run", lambda *a, engine="", **o: real(*a, **o), raising=False)
    exec(compile(code, name, "exec"), {})
    assert capsys.readouterr().out.strip() or name in ("load_model", "pack")
    if name == "pack":
        assert sn.info("net.img").kind == "image"


def test_paths_and_objects_are_the_same(folder: Path) -> None:
    model, x = sn.load_model("model.npz"), np.load("x.npy")
    network = sn.quantize(model, x, thresholds=1 / 16)
    assert sn.info(network) == sn.info("net.safetensors")
    direct = quantize(model, x, thresholds=1 / 16)
    assert sn.info(direct) == sn.info(network)
    first = sn.run("net.safetensors", "x.npy", steps=7)
    second = sn.run(network, x, steps=7)
    assert first == second
    np.testing.assert_array_equal(first.outputs, second.outputs)
    assert sn.pack(network).data == sn.pack("net.safetensors", "axi64").data
    os.mkdir("clips")
    np.save("clips/a.npy", x[:30])
    np.save("clips/b.npy", x[30:])
    halves = sn.info(sn.quantize(Path("model.npz"), "clips", thresholds=1 / 16))
    assert halves == sn.info(sn.quantize(model, [x[:30], x[30:]], thresholds=1 / 16))
    assert halves.report.steps == 60


def test_a_deadline_knows_the_board(folder: Path) -> None:
    network = sn.Network.load("net.safetensors")
    usual = sn.deadline(network, "x.npy", 5.0, preset="ulx3s-85f")
    assert network.budgets == {} and usual.clock_mhz == 100 and usual.engine == "ulx3s-85f-fit"
    part = sn.deadline(network, np.load("x.npy"), 5.0, preset="ulx3s-85f", sdram="W9825G6KH")
    assert part.guaranteed_cycles < usual.guaranteed_cycles
    tiers = sn.deadline(network, "x.npy", 5.0, preset="ulx3s-85f-tiers")
    assert tiers.clock_mhz == TIER_CLOCK_HZ / 1e6 and tiers.guaranteed_ms < usual.guaranteed_ms
    config = sn.EngineConfig.load("axi64")
    assert sn.deadline(network, "x.npy", 5.0, preset=config).clock_mhz == 100
    with pytest.raises(StillnetError, match="cannot keep 0.0001 ms"):
        sn.deadline(network, "x.npy", 1e-4)


def test_nobody_to_watch(folder: Path) -> None:
    for call in (sn.monitor, lambda attach: sn.deploy(sn.pack("net.safetensors"), attach=attach)):
        with pytest.raises(StillnetError, match="no driver answers at 127.0.0.1:1 "):
            call(attach="127.0.0.1:1")
    with pytest.raises(StillnetError, match="need canary=N"):
        sn.monitor(rollback=True)
    with pytest.raises(StillnetError, match="the canary needs the network"):
        sn.monitor(canary=5)


def test_training_needs_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "stillnet.sw.train.trainer", raising=False)
    with pytest.raises(StillnetError, match="PyTorch"):
        sn.train("model.npz", "x.npy", start="net.safetensors")


def test_arrays_stay_as_they_are() -> None:
    x = np.zeros((3, 2))
    assert as_recordings(x) is x and as_recordings([1, 2]) == [1, 2] and as_recordings([]) == []
    with pytest.raises(StillnetError, match="^cannot read recording 'none.npy': No such file"):
        as_recordings(["none.npy"])


def test_fit_is_for_what_is_missing(folder: Path) -> None:
    """An engine without the cells of a network gets them, and the result says so."""
    bare = sn.EngineConfig(name="bare", lanes=4, cells=("linear",), units=64, inputs=8)
    result = sn.run("net.safetensors", "x.npy", preset=bare)
    assert (result.preset, result.added, result.lacking) == (
        "bare-fit",
        ["cells", "row_scale"],
        [],
    )
    forbidden = sn.run("net.safetensors", "x.npy", preset=bare, fit=False)
    assert (forbidden.preset, forbidden.added) == ("bare", [])
    assert forbidden.lacking == ["cells", "row_scale"]
    assert sn.pack("net.safetensors", bare, fit=True).config.name == "bare-fit"
    with pytest.raises(StillnetError, match="^layer 'rnn' needs cell 'gru', engine 'bare' has "):
        sn.pack("net.safetensors", bare)


# -- results --------------------------------------------------------------------------------------


def test_a_result_prints_its_fields() -> None:
    info = sn.info(quantize(Model(2).dense(np.eye(2), np.ones(2), name="d"), np.ones((4, 2))))
    values = info.to_dict()
    assert list(values) == [f.name for f in dataclasses.fields(info)]
    assert values["layers"][0]["matrices"][0]["columns"] == info.layers[0].matrices[0].columns == 2
    assert values["report"]["output_error"] == info.report.output_error
    assert values["compression"] is None


@pytest.mark.parametrize("results", [networks, products, runs, studies])
def test_all_results_are_frozen_and_documented(results) -> None:
    kinds = [getattr(results, name) for name in results.__all__]
    assert kinds and all(issubclass(kind, Result) and kind.__doc__ for kind in kinds)
    assert all(kind.__dataclass_params__.frozen for kind in kinds)
    defined = {
        n
        for n, v in vars(results).items()
        if isinstance(v, type) and v.__module__ == results.__name__
    }
    assert defined == set(results.__all__)


def test_quantize_and_compress_read_files_as_asked(folder: Path) -> None:
    """Where the reset gate stands, and outputs that the model must give."""
    x = np.load("x.npy")
    right = sn.load_model("model.npz").run(x)
    before = sn.load_model("model.npz", gru_reset="before").run(x)
    assert np.abs(right - before).max() > 1e-2
    for make in (sn.quantize, sn.compress):
        found = make("model.npz", "x.npy", gru_reset="before", expect=before, method="nearest")
        assert [layer.cell for layer in found.layers][0] == "gru_reset"
        with pytest.raises(
            StillnetError, match=r"the model differs from expect\[0\]: first at step"
        ):
            make("model.npz", ["x.npy"], expect=[before], method="nearest")
    with pytest.raises(TypeError, match="say how a file is read"):
        sn.quantize(sn.load_model("model.npz"), x, gru_reset="before")
    with pytest.raises(ValueError, match="expect has 2 arrays for 1 recordings"):
        sn.quantize("model.npz", x, expect=[right, right])
