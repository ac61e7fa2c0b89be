"""From files to integers: what the importers build can be quantized, and means the same."""

import os

os.environ.setdefault("KERAS_BACKEND", "numpy")

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from stillnet import Reference, quantize
from stillnet.sw.cli.main import main
from stillnet.sw.importers.egru import from_egru
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.onnx import from_onnx
from stillnet.sw.importers.s5 import from_s5
from stillnet.sw.importers.torch import from_state_dict
from tests.support.oracles.onnx import const, ints, make, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*joined side by side.*"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def error(model, x):
    """Largest and median error of the integers, as a part of the range of the outputs."""
    got, expected = Reference(quantize(model, x)).run(x), model.run(x)
    difference = np.abs(got - expected) / np.abs(expected).max()
    return difference.max(), np.median(difference)


def noise_suppression(rng, path):
    """As RNNoise, in a Keras file; features that move slowly."""
    options = {"return_sequences": True, "reset_after": False}
    x_in = layers.Input((None, 12))
    first = layers.Dense(8, activation="tanh")(x_in)
    voice = layers.GRU(6, **options)(first)
    noise = layers.GRU(7, activation="relu", **options)(layers.Concatenate()([first, voice, x_in]))
    denoise = layers.GRU(9, activation="relu", **options)(layers.concatenate([voice, noise, x_in]))
    outputs = [layers.Dense(5, activation="sigmoid")(denoise), layers.Dense(1)(voice)]
    model = keras.Model(x_in, outputs)
    model.set_weights([rng.normal(size=w.shape) * 0.3 for w in model.get_weights()])
    model.save(path)
    return np.cumsum(rng.normal(size=(200, 12)), axis=0) * 0.05


def test_noise_suppression_network(tmp_path):
    rng = np.random.default_rng(0)
    x = noise_suppression(rng, tmp_path / "net.keras")
    assert error(load_model(tmp_path / "net.keras"), x)[0] < 0.02


def test_command_line(tmp_path):
    """A Keras file through 'stillnet quantize' and 'stillnet run'."""
    rng = np.random.default_rng(1)
    x = noise_suppression(rng, tmp_path / "net.keras")
    np.save(tmp_path / "x.npy", x)
    net, y = tmp_path / "net.safetensors", tmp_path / "y.npy"
    calibrate = ["--data", str(tmp_path / "x.npy")]
    assert main(["quantize", str(tmp_path / "net.keras"), *calibrate, "-o", str(net)]) == 0
    assert main(["run", str(net), str(tmp_path / "x.npy"), "-o", str(y)]) == 0
    expected = load_model(tmp_path / "net.keras").run(x)
    np.testing.assert_allclose(np.load(y), expected, atol=0.02 * np.abs(expected).max())


def test_voice_activity_network():
    """Convolution, LSTM, ReLU on its state, gate."""
    rng = np.random.default_rng(2)
    inits = [const("K", rng.normal(size=(6, 4, 3)) / 4), const("k", rng.normal(size=6))]
    inits += [const(n, v) for n, v in zip("WRB", weights(rng, 6, 8, 4))]
    inits += [const("V", rng.normal(size=(8, 1))), ints("one", 1)]
    nodes = [
        ("Conv", "x K k", "c", {"pads": [2, 0]}),
        ("Relu", "c", "r"),
        ("Transpose", "r", "q", {"perm": [2, 0, 1]}),
        ("LSTM", "q W R B", "Y", {"hidden_size": 8}),
        ("Squeeze", "Y one", "h"),
        ("Relu", "h", "a"),
        ("MatMul", "a V", "m"),
        ("Sigmoid", "m", "y"),
    ]
    model = from_onnx(make(nodes, inits, [1, 4, "t"]))
    assert [m.cell for m in model.layers] == ["conv3_relu", "lstm", "relu", "sigmoid"]
    assert error(model, rng.normal(size=(200, 4)))[0] < 0.03


@pytest.mark.parametrize("fold", [True, False])
def test_event_based_language_model(fold):
    """A rounded threshold flips an event now and then, so the median is what can be bounded."""
    from tests.sw.importers.test_import_egru import language_model

    rng = np.random.default_rng(3)
    state, _ = language_model(rng, tokens=20, size=8, hidden=(16, 8))
    model = from_egru(state, fold_embedding=fold)
    assert error(model, rng.integers(0, 20, 200))[1] < 0.01


def test_s5():
    from tests.sw.importers.test_import_s5 import stack

    rng = np.random.default_rng(4)
    assert error(from_s5(stack(rng, 4, 8, 8, 2)), rng.normal(size=(200, 4)))[1] < 0.01


def test_arrays_with_names_of_their_own():
    """The g2p-en checkpoint, renamed: embedding and GRU as a user writes them down."""
    roots = [Path(p) / "g2p_en" / "checkpoint20.npz" for p in sys.path]
    path = next((p for p in roots if p.exists()), None)
    assert path is not None, "run make setup, which installs the model"
    with np.load(path, allow_pickle=False) as data:
        z = {k: np.asarray(data[k], float) for k in data.files}
    assert zipfile.is_zipfile(path)
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    state = {f"rnn.{new}": z[f"dec_{old}"] for old, new in names.items()}
    state |= {"emb.weight": z["dec_emb"], "fc.weight": z["fc_w"], "fc.bias": z["fc_b"]}
    model = from_state_dict(state, [("embedding", "emb"), ("gru", "rnn"), ("linear", "fc")])
    assert (model.inputs, model.outputs, model.one_hot) == (74, 74, True)
    tokens = np.random.default_rng(5).integers(0, 74, 12)
    h, expected = np.zeros(256), []
    for v in z["dec_emb"][tokens]:
        a = z["dec_w_ih"] @ v + z["dec_b_ih"]
        s = z["dec_w_hh"] @ h + z["dec_b_hh"]
        r, u = (1 / (1 + np.exp(-(a[k : k + 256] + s[k : k + 256]))) for k in (0, 256))
        h = (1 - u) * np.tanh(a[512:] + r * s[512:]) + u * h
        expected.append(z["fc_w"] @ h + z["fc_b"])
    np.testing.assert_allclose(model.run(tokens), expected, atol=1e-9)
