"""The command line: what it prints, how it refuses, and that it is the Python API."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillnet.sw.cli import main as cli
from stillnet.sw.cli.main import Command, main
from stillnet.sw.cli.options import parse_thresholds
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.util.recordings import load_array
from stillnet.sw.util.results.runs import RunResult
from tests.support.networks.quick import quantize


def tiny_model() -> Model:
    rng = np.random.default_rng(0)
    model = Model(4, name="tiny").gru(
        rng.normal(0, 0.5, (18, 4)), rng.normal(0, 0.5, (18, 6)), rng.normal(0, 1, 18), name="gru"
    )
    model.dense(rng.normal(0, 1, (3, 6)), rng.normal(0, 1, 3), "relu", name="fc")
    return model.dense(rng.normal(0, 1, (2, 3)), name="out")


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error has only what is wrong: no lines of progress, which work of more than ten
    seconds prints, and any work takes so long where other programs want the processor."""
    monkeypatch.setattr("stillnet.sw.util.progress.INTERVAL", 3600.0)


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).normal(0, 0.2, (60, 4)), axis=0)


@pytest.fixture
def folder(tmp_path: Path, recording, monkeypatch) -> Path:
    """A folder with a recording, a network of it, and a model file that loads as tiny_model."""
    np.save(tmp_path / "x.npy", recording)
    quantize(tiny_model(), recording, thresholds=0.0625).save(tmp_path / "net.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"stands for a model")

    def load_model(path, *, layers=None, cut=None) -> Model:
        if not Path(path).is_file():
            raise StillnetError(f"model file '{path}' does not exist")
        return tiny_model()

    module = SimpleNamespace(load_model=load_model)
    monkeypatch.setitem(sys.modules, "stillnet.sw.importers.load", module)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stillnet_json(capsys, *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def refusal(capsys, *argv: str) -> str:
    """The one line of an error; checks the exit code and its JSON form too."""
    assert main([*argv]) == 2
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert lines[-1].startswith("stillnet: error: ")
    message = lines[-1].removeprefix("stillnet: error: ")
    assert "Traceback" not in err and out == ""
    if argv and "--json" not in argv:
        assert main([*argv, "--json"]) == 2
        out, _ = capsys.readouterr()
        assert json.loads(out) == {"error": message}
    return message


# -- quantize, run, info --------------------------------------------------------------------------


def test_quantize(folder: Path, capsys) -> None:
    result = stillnet_json(
        capsys, "quantize", "model.onnx", "--data", "x.npy", "-o", "new.safetensors",
        "--threshold", "16/256", "--method", "nearest", "--weight-steps", "layer",
    )  # fmt: skip
    assert Path(result["output"]).read_bytes() == Path("net.safetensors").read_bytes()
    assert result["name"] == "tiny" and result["kind"] == "network"
    assert result["report"]["steps"] == 60
    assert [q["threshold_value"] for q in result["layers"]] == [0.0625, 0.0625, 0.0]
    result = stillnet_json(
        capsys, "quantize", "model.onnx", "--data", "x.npy", "x.npy", "-o", "b.safetensors",
        "--threshold", "input=4/256,gru=0.01", "--threshold-recurrent", "gru=3/256",
        "--name", "mine", "--nonzero", "fc",
    )  # fmt: skip
    network = Network.load("b.safetensors")
    assert network.name == "mine" and network.layers[1].mode.name == "NONZERO"
    assert result["report"]["steps"] == 120
    result = stillnet_json(
        capsys, "quantize", "model.onnx", "--data", "x.npy", "-o", "c.safetensors",
        "--max-error", "0.01",
    )  # fmt: skip
    assert result["report"]["output_error"] <= 0.05
    assert result["options"]["max_error"] == "0.01"


@pytest.mark.parametrize(
    ("given", "planes"), [("never", []), ("gru", ["gru"]), ("gru, out", ["gru", "out"])]
)
def test_planes(folder: Path, capsys, given: str, planes: list[str]) -> None:
    result = stillnet_json(
        capsys, "quantize", "model.onnx", "--data", "x.npy", "-o", "p.safetensors",
        "--planes", given, "--method", "nearest",
    )  # fmt: skip
    assert result["options"]["planes"] == planes
    assert ("gru.low" in [layer["name"] for layer in result["layers"]]) == bool(planes)


def test_quantize_for_people(folder: Path, capsys) -> None:
    assert main(["quantize", "model.onnx", "--data", "x.npy", "-o", "new.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("Network 'tiny'", "mean output error", "SNR", "Saved new.safetensors."):
        assert part in out


def test_run(folder: Path, capsys, recording) -> None:
    result = stillnet_json(capsys, "run", "net.safetensors", "x.npy", "-o", "y.npy")
    network = Network.load("net.safetensors")
    reference = Reference(network, lanes=8)
    words, events = 0, {"input": 0, "gru": 0, "fc": 0, "out": 0}
    outputs = []
    for row in recording:
        outputs.append(reference.step(row))
        words += reference.last.words
        for name, n in reference.describe()["events"].items():
            events[name] += n
    assert np.array_equal(np.load("y.npy"), outputs)
    assert result == {
        "engine": "reference",
        "preset": "axi64",
        "steps": 60,
        "doubts": [],
        "mismatches": 0,
        "difference": None,
        "first_difference": None,
        "events": events,
        "words": words,
        "cycles": words,
        "utilisation": None,
        "saturations": 0,
        "added": [],
        "lacking": [],
        "output": "y.npy",
        "report": None,
        "recordings": 1,
        "energy": None,
    }
    some = stillnet_json(capsys, "run", "net.safetensors", "x.npy", "--steps", "7")
    assert some["steps"] == 7 and some["output"] is None
    wide = stillnet_json(capsys, "run", "net.safetensors", "x.npy", "--preset", "tiny")
    assert wide["words"] > words and wide["events"] == events
    assert main(["run", "net.safetensors", "x.npy"]) == 0
    out, _ = capsys.readouterr()
    assert "60 steps on reference" in out and "words" in out and "one word per cycle" in out


def test_info(folder: Path, capsys) -> None:
    result = stillnet_json(capsys, "info", "net.safetensors")
    assert (result["inputs"], result["outputs"], result["weights"]) == (4, 2, 18 * 10 + 18 + 6)
    assert result["bytes"] == result["weights"] + 4 * (6 * 4 + 3 + 2)
    gru = result["layers"][0]
    assert gru["headroom_bits"] > 0 and gru["matrices"][1]["source"] == "gru"
    assert gru["bytes"] == 180 + 4 * 24
    assert main(["info", "net.safetensors"]) == 0
    out, _ = capsys.readouterr()
    for part in ("gru", "headroom", "Against the float model", "active", "dB"):
        assert part in out


def test_info_of_an_image(folder: Path, capsys, monkeypatch) -> None:
    layer = {"name": "gru", "cell": "gru", "units": 6, "fraction": 14, "mode": "delta"}
    layer |= {"threshold": 8, "threshold_recurrent": 16, "matrices": []}
    seen = {
        "kind": "image", "name": "tiny", "bytes": 5, "fingerprint": "00c0ffee", "inputs": 4,
        "engine": {"name": "axi64", "lanes": 8}, "input_mode": "delta", "input_fraction": 10,
        "input_threshold": 64, "hot_words": 0, "layers": [layer], "budgets": {},
    }  # fmt: skip
    module = SimpleNamespace(describe=lambda path: seen)
    monkeypatch.setitem(sys.modules, "stillnet.sw.packing.packer", module)
    (folder / "net.img").write_bytes(b"x")
    (folder / "other").write_bytes(b"STIL and so on")
    assert stillnet_json(capsys, "info", "net.img") == seen
    assert stillnet_json(capsys, "info", "other") == seen
    assert main(["info", "net.img"]) == 0
    assert "00c0ffee" in capsys.readouterr().out


def test_info_of_a_packed_image(folder: Path, capsys) -> None:
    from stillnet.sw.contract.config import PRESETS
    from stillnet.sw.packing.packer import pack

    image = pack(Network.load("net.safetensors"), PRESETS["axi64"])
    Path("net.img").write_bytes(image.data)
    result = stillnet_json(capsys, "info", "net.img")
    assert result["kind"] == "image" and result["engine"]["name"] == "axi64"
    assert main(["info", "net.img"]) == 0
    assert "6 of 3 words, dense" in capsys.readouterr().out
    Path("net.img").write_bytes(image.data[:-1])
    assert refusal(capsys, "info", "net.img").startswith("'net.img' is damaged or cut off")


def test_from_weights_to_output(tmp_path: Path, monkeypatch, capsys, recording) -> None:
    """A state_dict through the real importer, as a user would."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", recording)
    layers = tiny_model().layers
    rows = [m.weight.reshape(-1, m.weight.shape[2]) for m in layers[0].matrices]
    bias = layers[0].bias
    np.savez(
        "model.npz",
        **{
            "rnn.weight_ih_l0": rows[0],
            "rnn.weight_hh_l0": rows[1],
            "rnn.bias_ih_l0": np.concatenate([bias["r"], bias["u"], bias["cx"]]),
            "rnn.bias_hh_l0": np.concatenate([np.zeros(12), bias["ch"]]),
            "out.weight": np.ones((2, 6)),
        },
    )
    options = ["--data", "x.npy", "--layers", "gru:rnn,tanh:out", "-o", "net.safetensors"]
    result = stillnet_json(capsys, "quantize", "model.npz", *options)
    assert [q["cell"] for q in result["layers"]] == ["gru", "tanh"]
    stillnet_json(capsys, "run", "net.safetensors", "x.npy", "-o", "y.npy")
    model = Model(4, [layers[0]]).dense(np.ones((2, 6)), None, "tanh")
    assert np.abs(np.load("y.npy") - model.run(recording)).mean() < 0.01


def test_as_a_process(folder: Path) -> None:
    def stillnet(*argv: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "stillnet.sw.cli.main", *argv]
        return subprocess.run(command, capture_output=True, text=True)

    done = stillnet("run", "net.safetensors", "x.npy", "--steps", "3", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["steps"] == 3 and done.stderr == ""
    done = stillnet("run", "none.safetensors", "x.npy", "--json")
    assert done.returncode == 2
    assert done.stderr == "stillnet: error: network file 'none.safetensors' does not exist\n"
    assert json.loads(done.stdout) == {"error": "network file 'none.safetensors' does not exist"}
    done = stillnet("run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    done = stillnet()
    assert done.returncode == 2 and "quantize" in done.stderr


# -- bad input ------------------------------------------------------------------------------------


def test_unknown_commands_and_options(capsys) -> None:
    assert refusal(capsys, "quantise") == (
        "there is no command 'quantise'; did you mean 'quantize'?"
    )
    assert refusal(capsys, "xyzzy").startswith(
        "there is no command 'xyzzy'; commands are quantize, run, info"
    )
    assert refusal(capsys, "info") == (
        "name a network or an image to explain, or a cell with --cell"
    )
    assert refusal(capsys, "info", "a", "--frob") == (
        "unrecognized arguments: --frob; see 'stillnet info --help'"
    )
    assert refusal(capsys, "run", "a", "b", "--steps", "0") == (
        "argument --steps: '0' is not a whole number from 1; see 'stillnet run --help'"
    )
    assert refusal(capsys) == "no command given; see 'stillnet --help'"
    assert refusal(capsys, "quantize", "m.onnx", "-o", "n") == (
        "the following arguments are required: --data; see 'stillnet quantize --help'"
    )


def quantize_refusal(capsys, *options: str) -> str:
    return refusal(
        capsys, "quantize", "model.onnx", "--data", "x.npy", "-o", "n.safetensors", *options
    )


def test_bad_options_of_quantize(folder: Path, capsys) -> None:
    assert quantize_refusal(capsys, "--threshold", "x") == (
        "--threshold: 'x' is not a number from 0; write 0.0625, 16/256 or NAME=16/256,..."
    )
    assert quantize_refusal(capsys, "--threshold", "gru2=1") == (
        "thresholds names 'gru2', the network has input, gru, fc, out"
    )
    assert quantize_refusal(capsys, "--threshold", "1/2", "--max-error", "1") == (
        "give --threshold or --max-error, not both"
    )
    assert quantize_refusal(capsys, "--weight-steps", "column").startswith(
        "argument --weight-steps: invalid choice: 'column'"
    )
    assert quantize_refusal(capsys, "--max-error", "5 per cent").startswith(
        "argument --max-error: '5 per cent' is not an error such as 0.02 or 5%"
    )
    assert quantize_refusal(capsys, "--max-error", "1e-9").startswith("max_error 1e-09 cannot be ")
    assert quantize_refusal(capsys, "--layers", "gru") == (
        "--layers: 'gru' is not KIND:PREFIX, as in gru:rnn"
    )
    assert not (folder / "n.safetensors").exists()
    assert refusal(capsys, "quantize", "no.onnx", "--data", "x.npy", "-o", "n.safetensors") == (
        "model file 'no.onnx' does not exist"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16/256", 0.0625),
        ("0.5", 0.5),
        ("0", 0.0),
        ("1e-3", 1e-3),
        ("input=4/256,gru1=16/256", {"input": 4 / 256, "gru1": 16 / 256}),
        (" a/b=c = 1/4 , d=2", {"a/b=c": 0.25, "d": 2.0}),
    ],
)
def test_parse_thresholds(text: str, value) -> None:
    assert parse_thresholds(text) == value


@pytest.mark.parametrize("text", ["", "a", "1/0", "-1", "1/-2", "nan", "inf", "1/2/3", "a=b", "a="])
def test_thresholds_that_are_none(text: str) -> None:
    with pytest.raises(StillnetError, match="^--threshold: '.*' is not a number from 0; write "):
        parse_thresholds(text)


def test_named_thresholds_that_are_none() -> None:
    with pytest.raises(StillnetError, match="^--threshold: '3' is not NAME=NUMBER, as in input="):
        parse_thresholds("a=1,3")
    with pytest.raises(StillnetError, match="^--threshold: 'a' is named twice$"):
        parse_thresholds("a=1,a=2")


def test_bad_recordings(folder: Path, capsys, recording) -> None:
    def message(array: np.ndarray | bytes, name: str = "bad.npy") -> str:
        if isinstance(array, bytes):
            Path(name).write_bytes(array)
        else:
            np.save(name, array)
        return refusal(capsys, "run", "net.safetensors", name)

    assert refusal(capsys, "run", "net.safetensors", "none.npy") == (
        "cannot read input 'none.npy': No such file or directory"
    )
    Path("nothing").mkdir()
    assert refusal(capsys, "run", "net.safetensors", "nothing").startswith(
        "folder 'nothing' holds no .npy file"
    )
    advice = "write it with numpy.save"
    for junk in (b"", b"RIFF....WAVE", b"PK\x03\x04zip"):
        assert message(junk) == f"input 'bad.npy' is not a .npy file; {advice}"
    whole = Path("x.npy").read_bytes()
    for cut in (7, 50, 200, len(whole) - 1):
        assert message(whole[:cut]).startswith("input 'bad.npy' is cut off or damaged (")
    assert message(np.array([{}], object)).startswith(
        "input 'bad.npy' is cut off or damaged (it holds"
    )
    assert message(np.array(["a"])) == (
        "input 'bad.npy' holds elements of type <U1; real numbers are needed"
    )
    assert message(np.zeros((3, 4), complex)) == (
        "input 'bad.npy' holds elements of type complex128; real numbers are needed"
    )
    assert message(np.zeros((0, 4))) == (
        "input 'bad.npy' is empty, shape (0, 4); give at least one step"
    )
    assert message(np.zeros((3, 5))) == (
        "input has shape (3, 5); network 'tiny' takes (steps, 4) with at least one step"
    )
    bad = recording.copy()
    bad[5, 2] = np.nan
    assert message(bad) == (
        "input holds nan at step 5, element 2; remove NaN and infinity from the recording"
    )
    assert refusal(
        capsys, "quantize", "model.onnx", "--data", "bad.npy", "-o", "n.safetensors"
    ) == ("calibration holds nan at step 5, element 2; remove NaN and infinity from the recording")


def test_bad_networks_engines_presets(folder: Path, capsys) -> None:
    assert refusal(capsys, "info", "none") == "cannot read 'none': No such file or directory"
    assert refusal(capsys, "info", ".") == "'.' is a folder; give a network or an image"
    assert refusal(capsys, "info", "x.npy").startswith("'x.npy' is not a readable stillnet network")
    assert refusal(capsys, "run", "x.npy", "x.npy").startswith("'x.npy' is not a readable stillnet")
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "--engine", "gpu").startswith(
        "there is no engine 'gpu'; engines are reference"
    )
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "--preset", "axi63").startswith(
        "'axi63' is neither a preset (tiny, "
    )
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "--option", "latency") == (
        "--option: 'latency' is not NAME=VALUE"
    )
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "--option", "latency=3") == (
        "engine 'reference' has no option 'latency'; it has clear_every"
    )
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "-o", "no/y.npy") == (
        "cannot write 'no/y.npy': folder 'no' does not exist; make it first"
    )


# -- the frame ------------------------------------------------------------------------------------


def point(name: str, value: object) -> SimpleNamespace:
    def load() -> object:
        if isinstance(value, Exception):
            raise value
        return value

    return SimpleNamespace(name=name, load=load)


def with_points(monkeypatch, **groups: list[SimpleNamespace]) -> None:
    def entry_points(*, group: str) -> list[SimpleNamespace]:
        return groups.get(group.removeprefix("stillnet."), [])

    monkeypatch.setattr(cli.metadata, "entry_points", entry_points)


def command(run) -> Command:
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--depth", type=int, default=3)

    return Command("dig", "Dig a hole.", configure, run, epilog="examples:\n  stillnet dig")


def test_commands_of_other_packages(monkeypatch, capsys) -> None:
    seen = command(lambda args: {"depth": np.int64(args.depth), "json": args.json})
    with_points(monkeypatch, commands=[point("dig", seen), point("sow", ImportError("no seeds"))])
    assert main(["dig"]) == 0
    assert capsys.readouterr().out == "depth: 3\njson: False\n"
    assert stillnet_json(capsys, "dig", "--depth", "5") == {"depth": 5, "json": True}
    assert main(["--json", "dig"]) == 0
    assert json.loads(capsys.readouterr().out)["json"] is True
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "dig         Dig a hole." in out and "sow         (not available: no seeds)" in out
    assert refusal(capsys, "sow").startswith("command 'sow' cannot be loaded (no seeds); install")


@pytest.mark.parametrize("name", ["quantize", "run", "info"])
def test_help_teaches(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"examples:\n  stillnet {name} " in out and "--json" in out


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stillnet 0.")


def test_interrupts_warnings_and_defects(monkeypatch, capsys) -> None:
    def interrupt(args: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    def warn(args: argparse.Namespace) -> None:
        import warnings

        warnings.warn("the order is a guess", stacklevel=1)

    def defect(args: argparse.Namespace) -> None:
        raise ZeroDivisionError("a defect")

    def long_error(args: argparse.Namespace) -> None:
        raise StillnetError("two\n  lines")

    points = {"a": interrupt, "b": warn, "c": defect, "d": long_error}
    with_points(monkeypatch, commands=[point(n, command(f)) for n, f in points.items()])
    assert main(["a"]) == 130
    assert capsys.readouterr().err == "stillnet: interrupted\n"
    assert main(["b"]) == 0
    assert capsys.readouterr().err == "stillnet: warning: the order is a guess\n"
    with pytest.raises(ZeroDivisionError):
        main(["c"])
    assert refusal(capsys, "d") == "two lines"


@dataclass(frozen=True, kw_only=True)
class Seen(RunResult):
    options: dict[str, Any]


def test_engines_of_other_packages(folder: Path, monkeypatch, capsys) -> None:
    def rtl(network, x, *, preset, steps, progress, **options) -> Seen:
        outputs = Reference(network).run(x[:steps])
        return Seen(
            outputs=outputs, steps=steps, events={"input": 3}, words=10, cycles=11,
            utilisation=10 / 11, options=options,
        )  # fmt: skip

    with_points(monkeypatch, engines=[point("rtl", rtl), point("board", ImportError("no serial"))])
    result = stillnet_json(
        capsys, "run", "net.safetensors", "x.npy", "--engine", "rtl", "--steps", "2",
        "--option", "latency=60", "--option", "trace-file=a.vcd",
    )  # fmt: skip
    assert result["options"] == {"latency": 60, "trace_file": "a.vcd"}
    assert result["engine"] == "rtl" and result["cycles"] == 11
    assert main(["run", "net.safetensors", "x.npy", "--engine", "rtl", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "cycles: 11 (5.5 per step)" in out and "utilisation: 0.909091" in out
    assert refusal(capsys, "run", "net.safetensors", "x.npy", "--engine", "board").startswith(
        "engine 'board' cannot be loaded (no serial)"
    )


def test_load_array_takes_any_real_type(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.int8, np.uint16, bool):
        np.save(tmp_path / "a.npy", np.ones((2, 2), dtype))
        assert load_array(tmp_path / "a.npy").dtype == dtype


def test_cells_of_ones_own_are_loaded_or_refused(tmp_path: Path, capsys) -> None:
    missing = tmp_path / "missing.py"
    assert refusal(capsys, "--cells", str(missing), "info", "x").startswith(
        f"'{missing}' is not a Python file with cells"
    )
    assert refusal(capsys, "--cells") == "--cells needs a Python file that registers cells"
    empty, broken = tmp_path / "empty.py", tmp_path / "broken.py"
    empty.write_text("x = 1\n")
    broken.write_text("1 / 0\n")
    assert refusal(capsys, "--cells", str(empty), "info", "x") == (
        f"'{empty}' registers no cell; put @register before its class"
    )
    assert refusal(capsys, "--cells", str(broken), "info", "x") == (
        f"'{broken}' failed with ZeroDivisionError: division by zero; it must run without arguments"
    )
