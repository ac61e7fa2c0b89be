"""Models that were built in Python have a file, which is the same model and leaves out nothing."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.expect import check_expected
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.onnx.layers import same_models
from stillnet.sw.model.file import HEADER, LAYER, METADATA
from stillnet.sw.model.layers import Layer, Matrix
from stillnet.sw.model.model import Model
from tests.support.oracles.onnx import const, ints, make, runtime, weights


def every_kind(rng: np.random.Generator) -> Model:
    """Layers with initial states, parameters, peers and plain events."""
    model = Model(4, name="mine").gru(
        rng.normal(0, 0.5, (18, 4)), rng.normal(0, 0.5, (18, 6)), rng.normal(0, 1, 18),
        h0=rng.normal(size=6), name="gru",
    )  # fmt: skip
    model.lstm(rng.normal(0, 0.5, (20, 6)), rng.normal(0, 0.5, (20, 5)), name="lstm")
    model.leaky(rng.normal(size=(6, 5)), rate=0.3).conv(rng.normal(size=(6, 6, 3)), name="conv")
    model.s5_encoder(rng.normal(size=(5, 6)), name="enc")
    lam = -rng.uniform(0.1, 1, 3) + 1j * rng.normal(size=3)
    b, c = (rng.normal(size=n) + 1j * rng.normal(size=n) for n in ((3, 5), (5, 3)))
    glu = (rng.normal(size=(5, 5)), None)
    model.s5(lam, b, c, rng.normal(size=5), glu=glu, step=0.1, x0=lam, name="s5")
    return model.dense(rng.normal(0, 0.4, (2, 5)), rng.normal(size=2), "sigmoid", name="out")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Model, Path]:
    model = every_kind(np.random.default_rng(0))
    path = tmp_path / "model.safetensors"
    model.save(path)
    return model, path


def test_a_model_and_its_file_are_the_same(saved) -> None:
    model, path = saved
    again = load_model(path)
    assert same_models(again, model) and again.name == "mine"
    x = np.random.default_rng(1).normal(size=(20, 4))
    np.testing.assert_array_equal(again.run(x), model.run(x))
    tokens = Model(7, one_hot=True).dense(np.ones((2, 7)))
    tokens.save(path)
    assert load_model(path).one_hot


def test_a_limit_on_one_side_has_none_on_the_other(tmp_path: Path) -> None:
    model = Model(3).dense(np.ones((2, 3)), None, "clip", settings={"low": -0.4})
    model.save(tmp_path / "clip.safetensors")
    loaded = load_model(tmp_path / "clip.safetensors")
    np.testing.assert_array_equal(loaded.layers[0].parameters["high"], [np.inf, np.inf])
    assert same_models(loaded, model)


def test_every_field_is_in_the_file() -> None:
    """A field that is added to the classes is added to the file, or this fails."""
    assert {f.name for f in fields(Layer)} == set(LAYER)
    assert {f.name for f in fields(Matrix)} == {"source", "gates", "weight"}
    assert {f.name for f in fields(Model)} | {"version"} == set(HEADER)


def test_every_command_takes_it(saved, tmp_path, capsys) -> None:
    rng = np.random.default_rng(2)
    model = Model(4).gru(rng.normal(0, 0.5, (18, 4)), rng.normal(0, 0.5, (18, 6)))
    path = saved[1]
    model.save(path)
    x = np.cumsum(rng.normal(0, 0.2, (60, 4)), axis=0)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.run(x))
    net = str(tmp_path / "net.safetensors")
    given = [str(path), "--data", str(tmp_path / "x.npy"), "--expect", str(tmp_path / "y.npy")]
    assert main(["quantize", *given, "--method", "nearest", "-o", net]) == 0
    assert main(["compress", *given, "--method", "nearest", "-o", net]) == 0
    assert main(["sweep", *given, "--weights", "8bit", "--sparsity", "0", "--errors", "0"]) == 0
    capsys.readouterr()
    for more in (["--layers", "gru:rnn"], ["--gru-reset", "before"]):
        assert main(["quantize", *given, *more, "-o", net]) == 2
        assert "is a model that stillnet saved" in capsys.readouterr().err


def rewrite(path: Path, change) -> None:
    """Writes the file again, with another header or other tensors."""
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[METADATA])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={METADATA: json.dumps(header)})


def put(*keys, value):
    def change(header, tensors):
        place = header
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def tensor(key, value=None):
    def change(header, tensors):
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value

    return change


WRONG = {
    "version": (put("version", value=1), r".*has model format 1, this stillnet reads 2; save .*"),
    "key": (put("more", value=1), r".*has an unknown key 'more': made by another version .*save.*"),
    "missing": (lambda h, t: h.pop("one_hot"), r".*has no key 'one_hot': .*"),
    "key of a layer": (put("layers", 0, "x", value=1), r"layer 0 of .*unknown key 'x': .*"),
    "key of a matrix": (
        put("layers", 0, "matrices", 0, "x", value=1),
        r"matrix 0 of layer 0 of .*unknown key 'x': .*",
    ),
    "tensor": (tensor("0/weight/0"), r".*has no tensor '0/weight/0': save .*"),
    "more tensors": (tensor("99/bias/y", np.ones(1)), r".*unknown tensor '99/bias/y': .*"),
    "type": (tensor("6/bias/none", np.ones(3, np.float32)), r".*has type float32, not float64.*"),
    "shape": (tensor("0/bias/u", np.ones(5)), r"layer 'gru': bias 'u' has shape \(5,\), .*"),
    "nan": (tensor("0/bias/u", np.full(6, np.nan)), r"layer 'gru': bias 'u' holds NaN .*"),
    "weight": (
        tensor("0/weight/0", np.ones((3, 6, 5))),
        r"layer 'gru': its weight has shape \(3, 6, 5\), expected \(3, 6, 4\); .*",
    ),
    "cell": (put("layers", 0, "cell", value="mine"), r"layer 'gru' needs cell 'mine', .*--cells.*"),
    "source": (put("layers", 0, "matrices", 0, "source", value=99), r".*it reads layer 99 of .*"),
    "fraction": (put("layers", 0, "units", value=6.0), r".*is damaged \(TypeError: 6.0 is not .*"),
    "gates": (
        put("layers", 0, "matrices", 0, "gates", value=["u", "u", "r"]),
        r"layer 'gru': its matrix names u, u, r, not accumulators of 'gru'; .*",
    ),
    "peers": (put("layers", 7, "peers", value={}), r"layer 's5.output': its peers are \[\], .*"),
    "peer": (put("layers", 7, "peers", "v", value=0), r".*peer 'v' is read from layer 0, which .*"),
    "layers": (put("layers", value=[]), r".*(unknown tensor|has no layers).*"),
    "no object": (lambda h, t: h.update(layers=3), r".*is damaged \(TypeError.*"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_refused(saved, case) -> None:
    _, path = saved
    change, message = WRONG[case]
    rewrite(path, change)
    with pytest.raises(StillnetError) as error:
        load_model(path)
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_a_model_without_layers_is_not_saved(tmp_path) -> None:
    with pytest.raises(StillnetError, match="^model 'network' has no layers or no inputs: add "):
        Model(3).save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_the_host_computes_is_in_the_file(tmp_path) -> None:
    """A classifier that ends in Softmax: the host's part is kept, and --expect passes it."""
    rng = np.random.default_rng(3)
    inits = [const(n, v) for n, v in zip("WRB", weights(rng, 3, 4, 3))]
    inits += [ints("one", 1), const("V", rng.normal(size=(4, 2)))]
    gru = ("GRU", "x W R B", "Y", {"linear_before_reset": 1, "hidden_size": 4})
    ending = [("Squeeze", "Y one", "s"), ("MatMul", "s V", "m"), ("Softmax", "m", "y")]
    proto = make([gru, *ending], inits, ["t", 1, 3])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load_model(tmp_path / "m.onnx")
    assert model.host is not None
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    x = rng.normal(size=(20, 3)).astype(np.float32)
    y = runtime(proto, x[:, None])[0].reshape(20, 2)
    check_expected(again, x, y)
    rewrite(tmp_path / "m.safetensors", lambda h, t: t.pop("host/after"))
    with pytest.raises(StillnetError, match="has no tensor 'host/after'"):
        load_model(tmp_path / "m.safetensors")
