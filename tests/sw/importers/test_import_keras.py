"""Keras files, written by Keras 3 and by hand in Keras 2's layout, against Keras's own predict."""

import builtins
import io
import json
import os
import re
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TOLERANCE = 2e-5  # Keras computes in float32


def randomise(model, rng):
    """Random weights and biases, as large as anything; variances above zero."""
    values = []
    for variable, old in zip(model.weights, model.get_weights()):
        scale = 1.5 / np.sqrt(old.shape[0]) if old.ndim > 1 else 1.0
        scale = 1.0 if variable.path.endswith("bias") else scale
        new = rng.normal(size=old.shape) * scale
        values.append(rng.uniform(0.3, 2, old.shape) if "variance" in variable.path else new)
    model.set_weights(values)
    return model


def sequential(rng, *parts, features=3):
    return randomise(keras.Sequential([layers.Input((None, features)), *parts]), rng)


def predict(model, x):
    """The first output of a batch of one: (steps, units), or (units,) of the last step."""
    out = model.predict(x[None], verbose=0)
    return np.asarray(out[0] if isinstance(out, list) else out)[0]


def compare(model, tmp_path, x, forms=(".keras", ".h5")):
    """Saves, imports and compares; the imported models."""
    expected = predict(model, x)
    found = []
    for form in forms:
        path = tmp_path / f"net{form}"
        model.save(path)
        imported = load_model(path)
        got = imported.run(x)
        got = got[-1] if expected.ndim == 1 else got
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
        assert imported.name == "net"
        found.append(imported)
    return found


def cells(model):
    return [layer.cell for layer in model.layers]


def refused(path, message, **more):
    with pytest.raises(StillnetError) as error:
        load_model(path, **more)
    assert re.fullmatch(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


# -- against predict ------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["after", "before", "lstm"]),
    st.integers(1, 20),
    st.integers(1, 20),
    st.booleans(),
    st.sampled_from(["tanh", "relu"]),
    st.integers(0, 9999),
)
def test_random_recurrent_layers(tmp_path_factory, kind, size, units, bias, activation, seed):
    rng = np.random.default_rng(seed)
    if kind == "lstm":
        activation = "tanh"
        layer = layers.LSTM(units, return_sequences=True, use_bias=bias, name="rec")
    else:
        layer = layers.GRU(
            units,
            return_sequences=True,
            use_bias=bias,
            reset_after=kind == "after",
            activation=activation,
            name="rec",
        )
    model = sequential(rng, layer, features=size)
    model.set_weights([w * 0.5 for w in model.get_weights()])  # keeps a ReLU recurrence small
    x = rng.normal(size=(12, size)).astype(np.float32)
    if np.abs(predict(model, x)).max() > 30:
        return
    suffix = "_relu" if activation == "relu" else ""
    expected = {
        "lstm": ["lstm"],
        "after": ["gru" + suffix],
        "before": ["gru_reset" + suffix, "gru_before" + suffix],
    }[kind]
    for found in compare(model, tmp_path_factory.mktemp("k"), x):
        assert cells(found) == expected
        assert found.layers[-1].name == "rec" and found.inputs == size


@pytest.mark.parametrize("broken", ["gates", "bias", "inverted"])
@pytest.mark.parametrize("after", [False, True])
def test_the_comparison_sees_a_wrong_file(tmp_path, broken, after):
    """Gates in another order, a lost or exchanged bias, the update gate inverted."""
    rng = np.random.default_rng(1)
    model = sequential(rng, layers.GRU(6, return_sequences=True, reset_after=after))
    x = rng.normal(size=(20, 3)).astype(np.float32)
    right = predict(model, x)
    kernel, recurrent, bias = model.get_weights()
    if broken == "gates":
        kernel, recurrent, bias = (np.roll(a, 6, axis=-1) for a in (kernel, recurrent, bias))
    elif broken == "bias":
        bias = bias[::-1] if after else 0 * bias
    else:
        sign = np.repeat([-1.0, 1.0, 1.0], 6)
        kernel, recurrent, bias = kernel * sign, recurrent * sign, bias * sign
    model.set_weights([kernel, recurrent, bias])
    model.save(tmp_path / "net.keras")
    wrong = load_model(tmp_path / "net.keras").run(x)
    assert np.abs(wrong - right).max() > 100 * TOLERANCE
    np.testing.assert_allclose(wrong, predict(model, x), atol=TOLERANCE)


def test_a_whole_network(tmp_path):
    """Names that sort otherwise than the layers stand; everything that only training needs."""
    rng = np.random.default_rng(2)
    model = sequential(
        rng,
        layers.Rescaling(0.5, offset=0.1),
        layers.BatchNormalization(),
        layers.GaussianNoise(0.1),
        layers.Dense(5, name="z"),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.SpatialDropout1D(0.1),
        layers.GRU(4, return_sequences=True, dropout=0.1, recurrent_dropout=0.2, name="y"),
        layers.BatchNormalization(scale=False),
        layers.LSTM(6, return_sequences=True, stateful=False, name="x"),
        layers.GRU(4, return_sequences=True, reset_after=False, name="a"),
        layers.TimeDistributed(layers.Dense(3)),
        layers.BatchNormalization(center=False),
        layers.Activation("tanh"),
        layers.Dense(2, use_bias=False, activation="sigmoid"),
    )
    for found in compare(model, tmp_path, rng.normal(size=(15, 3)).astype(np.float32)):
        kinds = ["relu", "gru", "lstm", "gru_reset", "gru_before", "tanh", "sigmoid"]
        assert cells(found) == kinds
        assert [layer.name for layer in found.layers][:3] == ["z", "y", "x"]


def test_last_step_only(tmp_path):
    rng = np.random.default_rng(3)
    model = sequential(
        rng, layers.LSTM(5, return_sequences=True), layers.GRU(4), layers.Dense(2, "relu")
    )
    compare(model, tmp_path, rng.normal(size=(9, 3)).astype(np.float32))


def test_functional_model_with_state_outputs(tmp_path):
    rng = np.random.default_rng(4)
    x_in = layers.Input((None, 3), name="mic")
    h, *states = layers.LSTM(4, return_sequences=True, return_state=True, name="rec")(x_in)
    y = layers.Dense(2, activation="sigmoid", name="gain")(layers.Dropout(0.2)(h))
    model = randomise(keras.Model(x_in, [y, *states]), rng)
    x = rng.normal(size=(9, 3)).astype(np.float32)
    for found in compare(model, tmp_path, x):
        assert [layer.name for layer in found.layers] == ["rec", "gain"]


@pytest.mark.parametrize("reset_after", [False, True])
def test_noise_suppression_network(tmp_path, reset_after):
    """As RNNoise: GRUs with ReLU that read each other and the features; two outputs."""
    rng = np.random.default_rng(14)
    options = {"return_sequences": True, "reset_after": reset_after}
    x_in = layers.Input((None, 12), name="features")
    first = layers.Dense(8, activation="tanh", name="first")(x_in)
    voice = layers.GRU(6, **options, name="voice")(first)
    vad = layers.Dense(1, activation="sigmoid", name="vad")(voice)
    joined = layers.Concatenate()([first, voice, x_in])
    noise = layers.GRU(7, activation="relu", **options, name="noise")(joined)
    joined = layers.concatenate([voice, noise, x_in])
    denoise = layers.GRU(9, activation="relu", **options, name="denoise")(joined)
    gains = layers.Dense(5, activation="sigmoid", name="gains")(denoise)
    model = randomise(keras.Model(x_in, [gains, vad]), rng)
    model.set_weights([w * 0.4 for w in model.get_weights()])
    x = rng.normal(size=(15, 12)).astype(np.float32)
    expected = np.concatenate(model.predict(x[None], verbose=0), axis=-1)[0]
    for form in (".keras", ".h5"):
        model.save(tmp_path / f"net{form}")
        with pytest.warns(UserWarning, match=r"joined side by side: 'gains' \(5\), 'vad' \(1\)"):
            found = load_model(tmp_path / f"net{form}")
        np.testing.assert_allclose(found.run(x), expected, rtol=0, atol=TOLERANCE)
        noise = next(layer for layer in found.layers if layer.name == "noise")
        assert {m.source for m in noise.matrices} >= {-1, 0}


def test_residual_network(tmp_path):
    """Sums and concatenations of scaled, activated and tokenised vectors."""
    rng = np.random.default_rng(15)
    x_in = layers.Input((None, 4))
    a = layers.Dense(4, name="a")(x_in)
    b = layers.ReLU()(a)  # a is read with and without it
    c = layers.BatchNormalization()(layers.Add()([a, b, x_in]))
    d = layers.LSTM(4, return_sequences=True)(layers.Concatenate()([b, c]))
    e = layers.Activation("relu")(layers.Add()([d, c]))
    model = randomise(keras.Model(x_in, layers.Concatenate()([e, d])), rng)
    x = rng.normal(size=(12, 4)).astype(np.float32)
    compare(model, tmp_path, x)
    tokens = layers.Input((None,), dtype="int32")
    f, g = layers.Embedding(9, 3)(tokens), layers.Embedding(9, 2)(tokens)
    h = layers.GRU(4, return_sequences=True)(layers.Concatenate()([f, g]))
    model = keras.Model(tokens, layers.Dense(2)(layers.Concatenate()([h, f])))
    randomise(model, rng)
    compare(model, tmp_path, rng.integers(0, 9, 14))


def test_output_below_the_last_layer(tmp_path):
    """Two readers of the input whose outputs are wanted in the other order."""
    rng = np.random.default_rng(16)
    x_in = layers.Input((None, 4))
    a, b = layers.Dense(2, name="a")(x_in), layers.GRU(3, return_sequences=True, name="b")(x_in)
    model = randomise(keras.Model(x_in, layers.Concatenate()([b, a])), rng)
    compare(model, tmp_path, rng.normal(size=(12, 4)).astype(np.float32))


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_rnn_of_a_cell_and_stateful(tmp_path, kind):
    rng = np.random.default_rng(5)
    cell = {"GRU": layers.GRUCell, "LSTM": layers.LSTMCell}[kind](4)
    model = sequential(rng, layers.RNN(cell, return_sequences=True, name="r"))
    compare(model, tmp_path, rng.normal(size=(9, 3)).astype(np.float32))
    stateful = keras.Sequential(
        [
            layers.Input((None, 3), batch_size=1),
            getattr(layers, kind)(4, return_sequences=True, stateful=True),
        ]
    )
    stateful.set_weights(model.get_weights())
    x = rng.normal(size=(10, 3)).astype(np.float32)
    stateful.save(tmp_path / "s.keras")
    found = load_model(tmp_path / "s.keras")
    np.testing.assert_allclose(found.run(x), predict(model, x), atol=TOLERANCE)


@pytest.mark.parametrize("first", ["GRU", "LSTM", "Dense", "Conv1D"])
def test_embedding_is_folded(tmp_path, first):
    rng = np.random.default_rng(6)
    part = {
        "GRU": layers.GRU(4, return_sequences=True),
        "LSTM": layers.LSTM(4, return_sequences=True),
        "Dense": layers.Dense(4, activation="tanh"),
        "Conv1D": layers.Conv1D(4, 3, padding="causal"),
    }[first]
    model = keras.Sequential(
        [layers.Input((None,), dtype="int32"), layers.Embedding(11, 5), layers.Dropout(0.1), part]
    )
    randomise(model, rng)
    tokens = rng.integers(0, 11, 14)
    for found in compare(model, tmp_path, tokens):
        assert found.one_hot and found.inputs == 11 and len(found.layers) == 1


@pytest.mark.parametrize("taps, dilation, groups", [(1, 1, 1), (3, 1, 1), (2, 3, 2), (8, 1, 4)])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", None])
def test_causal_convolution(tmp_path, taps, dilation, groups, activation):
    rng = np.random.default_rng(7)
    model = sequential(
        rng,
        layers.Conv1D(
            4, taps, padding="causal", dilation_rate=dilation, groups=groups, activation=activation
        ),
        layers.BatchNormalization(),
        layers.GRU(3, return_sequences=True),
        features=4,
    )
    compare(model, tmp_path, rng.normal(size=(15, 4)).astype(np.float32))


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_weights_of_other_precisions(tmp_path, kind):
    rng = np.random.default_rng(8)
    model = keras.Sequential([layers.Input((None, 3)), layers.Dense(4, dtype=kind)])
    randomise(model, rng)
    model.save(tmp_path / "net.keras")
    weight = load_model(tmp_path / "net.keras").layers[0].matrices[0].weight
    assert weight.dtype == np.float64
    wanted = np.asarray(model.get_weights()[0], np.float32)  # as onnxruntime computes
    np.testing.assert_array_equal(weight[0].T, wanted)


# -- Keras 2's layout, by hand --------------------------------------------------------------------


def keras2(path, config, weights):
    """The .h5 layout of Keras 2: byte strings, names such as gru/gru_cell/kernel:0."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = b"2.4.0"
        file.attrs["backend"] = b"tensorflow"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            layer = group.create_group(name)
            names = [f"{name}/{key}:0".encode() for key in arrays]
            layer.attrs["weight_names"] = names or np.zeros(0, "S1")
            for key, array in arrays.items():
                layer.create_dataset(f"{name}/{key}:0", data=np.asarray(array, np.float32))


def plain_gru(x, w, r, b, after):
    """Keras's GRU as its manual defines it; z keeps the old state."""

    def sigma(v):
        return 1 / (1 + np.exp(-v))

    h, out, units = np.zeros(r.shape[0]), [], r.shape[0]
    bx, bh = (b[0], b[1]) if after else (b, 0 * b)
    for v in x:
        xz, xr, xh = np.split(v @ w + bx, 3)
        hz, hr, _ = np.split(h @ r + bh, 3)
        z, reset = sigma(xz + hz), sigma(xr + hr)
        if after:
            c = np.tanh(xh + reset * (h @ r[:, 2 * units :] + bh[2 * units :]))
        else:
            c = np.tanh(xh + (reset * h) @ r[:, 2 * units :])
        h = z * h + (1 - z) * c
        out.append(h)
    return np.array(out)


@pytest.mark.parametrize("after", [None, False, True])
@pytest.mark.parametrize("functional", [False, True])
def test_file_of_keras_2(tmp_path, after, functional):
    rng = np.random.default_rng(9)
    w, r = rng.normal(size=(3, 12)), rng.normal(size=(4, 12))
    b = rng.normal(size=(2, 12) if after else 12)
    v, c = rng.normal(size=(4, 2)), rng.normal(size=2)
    gru = {
        "name": "gru_1",
        "units": 4,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": True,
        "implementation": 2,
        "time_major": False,
    }
    if after is not None:
        gru["reset_after"] = after
    dense = {"name": "dense_1", "units": 2, "activation": "relu", "use_bias": True}
    source = {"name": "in", "batch_input_shape": [None, None, 3], "dtype": "float32"}
    parts = [("GRU", gru), ("Dropout", {"name": "drop", "rate": 0.2}), ("Dense", dense)]
    if functional:
        listed, before = [("InputLayer", source), *parts], []
        entries = []
        for kind, config in listed:
            nodes = [[[before[-1], 0, 0, {}]]] if before else []
            name = config["name"]
            entries.append(
                {"class_name": kind, "config": config, "name": name, "inbound_nodes": nodes}
            )
            before.append(name)
        body = {
            "name": "model",
            "layers": entries[::-1],  # the order of the list says nothing
            "input_layers": [["in", 0, 0]],
            "output_layers": [["dense_1", 0, 0]],
        }
        config = {"class_name": "Model", "config": body}
    else:
        gru["batch_input_shape"] = [None, None, 3]
        body = [{"class_name": kind, "config": config} for kind, config in parts]
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": body}}
    path = tmp_path / "old.h5"
    cell = {"kernel": w, "recurrent_kernel": r, "bias": b}
    keras2(
        path,
        config,
        {
            "dense_1": {"kernel": v, "bias": c},
            "drop": {},
            "gru_1": {f"gru_cell/{k}": a for k, a in cell.items()},
        },
    )
    x = rng.normal(size=(11, 3))
    expected = np.maximum(plain_gru(x, w, r, b, bool(after)) @ v + c, 0)
    np.testing.assert_allclose(load_model(path).run(x), expected, atol=1e-6)


def test_archive_without_names_counts_within_the_class(tmp_path):
    """Older archives have only class names and numbers in the paths of the weights."""
    rng = np.random.default_rng(10)
    model = sequential(
        rng,
        layers.Dense(5, name="b", activation="tanh"),
        layers.GRU(4, return_sequences=True, name="c"),
        layers.Dense(5, name="a", activation="relu"),
        layers.GRU(3, return_sequences=True, name="0"),
    )
    x = rng.normal(size=(9, 3)).astype(np.float32)
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    weights = io.BytesIO(files["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        removed = []
        file.visititems(lambda _, item: removed.append(item.attrs.pop("name", None)) and None)
    assert sum(r is not None for r in removed) >= 4
    files["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    found = load_model(tmp_path / "net.keras")
    assert [layer.name for layer in found.layers] == ["b", "c", "a", "0"]
    np.testing.assert_allclose(found.run(x), predict(model, x), atol=TOLERANCE)


def cudnn_form(kernel, recurrent, gates):
    """Keras's matrices as CuDNNGRU and CuDNNLSTM store them: (units, inputs) row by row, in the
    memory of an (inputs, units) array; recurrent matrices transposed."""
    kernels = [k.T.reshape(-1).reshape(k.shape) for k in np.hsplit(kernel, gates)]
    return np.hstack(kernels), np.hstack([r.T for r in np.hsplit(recurrent, gates)])


@pytest.mark.parametrize("kind", ["CuDNNGRU", "CuDNNLSTM"])
def test_layers_for_graphics_cards(tmp_path, kind):
    """Judged by Keras's own GRU (reset_after) and LSTM with the same weights."""
    rng = np.random.default_rng(11)
    plain = layers.GRU if kind == "CuDNNGRU" else layers.LSTM
    gates = 3 if kind == "CuDNNGRU" else 4
    judge = sequential(rng, plain(4, return_sequences=True))
    kernel, recurrent, bias = judge.get_weights()
    stored, turned = cudnn_form(kernel, recurrent, gates)
    half = rng.normal(size=bias.size)
    both = bias.reshape(-1) if gates == 3 else np.concatenate([half, bias - half])
    config = {"name": "r", "units": 4, "return_sequences": True, "trainable": True}
    config["batch_input_shape"] = [None, None, 3]
    body = {"name": "s", "layers": [{"class_name": kind, "config": config}]}
    arrays = {"kernel": stored, "recurrent_kernel": turned, "bias": both}
    path = tmp_path / "old.h5"
    keras2(path, {"class_name": "Sequential", "config": body}, {"r": arrays})
    x = rng.normal(size=(11, 3))
    np.testing.assert_allclose(load_model(path).run(x), predict(judge, x), atol=TOLERANCE)
    arrays["kernel"] = kernel  # as if it lay as Keras keeps it
    keras2(path, {"class_name": "Sequential", "config": body}, {"r": arrays})
    assert np.abs(load_model(path).run(x) - predict(judge, x)).max() > 1e-3
    arrays["bias"] = bias.reshape(-1)[:4]
    keras2(path, {"class_name": "Sequential", "config": body}, {"r": arrays})
    refused(path, rf"layer 'r' \({kind}\): its weights have the shapes .* do not fit 4 units; .*")


@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_in_a_layer_of_its_own(tmp_path, dilation):
    rng = np.random.default_rng(12)
    model = sequential(
        rng,
        layers.ZeroPadding1D((2 * dilation, 0)),
        layers.Dropout(0.1),
        layers.Conv1D(4, 3, dilation_rate=dilation, activation="relu"),
        layers.GRU(4, return_sequences=True),
    )
    compare(model, tmp_path, rng.normal(size=(11, 3)))


def test_masks_may_be_ignored(tmp_path):
    """Where no step is left out, the network with the mask is the network without it."""
    rng = np.random.default_rng(13)
    model = sequential(rng, layers.Masking(99.0, name="m"), layers.GRU(4, return_sequences=True))
    x = rng.normal(size=(11, 3))
    model.save(tmp_path / "net.keras")
    with pytest.warns(UserWarning, match=r"^layer 'm' \(Masking\): its mask is ignored, as asked$"):
        found = load_model(tmp_path / "net.keras", ignore_mask=True)
    np.testing.assert_allclose(found.run(x), predict(model, x), atol=TOLERANCE)


# -- refusals -------------------------------------------------------------------------------------


def seq(**more):
    return {"return_sequences": True, **more}


REFUSALS = {
    "bidirectional": (
        lambda: [layers.Bidirectional(layers.GRU(4, return_sequences=True), name="r")],
        r"layer 'r' \(Bidirectional\): its backward layer begins at the end of a recording, "
        r"which a stream does not have; take the forward layer alone \(.*_layer\), train the .*",
    ),
    "backwards": (
        lambda: [layers.GRU(4, **seq(go_backwards=True), name="r")],
        r"layer 'r' \(GRU\): go_backwards is set; a stream has no end to start from",
    ),
    "hard sigmoid": (
        lambda: [
            layers.GRU(4, **seq(recurrent_activation="hard_sigmoid", activation="relu"), name="r")
        ],
        r"node 'r' \(GRU\): activations are Sigmoid, Relu; only Sigmoid, Tanh are supported",
    ),
    "gates by tanh": (
        lambda: [layers.LSTM(4, **seq(recurrent_activation="tanh"), name="r")],
        r"node 'r' \(LSTM\): activations are Tanh, Tanh, Tanh; only .*",
    ),
    "lstm by relu": (
        lambda: [layers.LSTM(4, **seq(activation="relu"), name="r")],
        r"node 'r' \(LSTM\): activations are Sigmoid, Relu, Relu; only .*",
    ),
    "gru by sigmoid": (
        lambda: [layers.GRU(4, **seq(activation="sigmoid"), name="r")],
        r"node 'r' \(GRU\): activations are Sigmoid, Sigmoid; only .*",
    ),
    "rnn of two cells": (
        lambda: [layers.RNN([layers.GRUCell(4), layers.GRUCell(3)], **seq(), name="r")],
        r"layer 'r' \(RNN\): its cell is a StackedRNNCells; only .*, so give each cell a layer .*",
    ),
    "masking": (
        lambda: [layers.Masking(name="m"), layers.GRU(4, **seq())],
        r"layer 'm' \(Masking\): it leaves out steps by their values; leave such steps out on the "
        r"host, which does not send them, and give --ignore-mask \(ignore_mask=True\) to .*mask",
    ),
    "permuted": (
        lambda: [layers.Permute((2, 1), name="p")],
        r"the graph from 'input_layer.*' to 'p' holds no layer: export a graph with a GRU, .*",
    ),
    "no layer": (
        lambda: [layers.Dropout(0.1)],
        r"the graph from 'input_layer.*' to 'dropout.*' holds no layer: export a graph with .*",
    ),
    "no padding": (
        lambda: [layers.Conv1D(4, 3, name="c")],
        r"node 'c' \(Conv\): it has 3 taps in time with 0 zeros in front and 0 behind, .*",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_refused_by_layer_name(tmp_path, case, form):
    make, message = REFUSALS[case]
    model = keras.Sequential([layers.Input((None, 3)), *make()])
    randomise(model, np.random.default_rng(0))
    model.save(tmp_path / f"net{form}")
    refused(tmp_path / f"net{form}", message)


def functional(*outputs, inputs):
    return randomise(keras.Model(inputs, list(outputs)), np.random.default_rng(0))


@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_graphs_refused(tmp_path, form):
    path = tmp_path / f"net{form}"
    a, b = layers.Input((None, 3), name="a"), layers.Input((None, 3), name="b")
    dense = layers.Dense(3, name="d")

    def case(message, *outputs, inputs=a):
        functional(*outputs, inputs=inputs).save(path)
        refused(path, message)

    case(
        r"the graph has 2 data inputs \(a \(1, time, 3\), b \(1, time, 3\)\); name the output .*",
        dense(layers.Add()([a, b])),
        inputs=[a, b],
    )
    heads = layers.MultiHeadAttention(1, 2, name="att")
    mask = layers.Input((None, 3), name="mask")
    case(
        r"layer 'att' \(MultiHeadAttention\): it is called with attention_mask, which the graph "
        r"does not have; call it without a mask, on recordings of full length",
        heads(a, a, attention_mask=mask),
        inputs=[a, mask],
    )
    gru = layers.GRU(3, return_sequences=True)
    case(r"layer 'get_item.*' \(GetItem\): its index chooses from the batch, .*", gru(a)[:1, :, :])
    empty = gru(a)[:, :, 2:2]
    case(r"layer 'get_item.*' \(GetItem\): its index leaves nothing of an axis of 3; .*", empty)


def test_masked_embedding_and_late_embedding_refused(tmp_path):
    path = tmp_path / "net.keras"
    tokens = layers.Input((None,), dtype="int32")
    model = keras.Sequential(
        [tokens, layers.Embedding(5, 3, mask_zero=True, name="e"), layers.GRU(2)]
    )
    randomise(model, np.random.default_rng(0)).save(path)
    refused(path, r"layer 'e' \(Embedding\): mask_zero is set, which leaves out steps; .*")
    tokens = layers.Input((None, 1))
    parts = [layers.Dense(1), layers.Reshape((-1,)), layers.Embedding(5, 3, name="e")]
    keras.Sequential([tokens, parts[0], layers.Embedding(5, 3, name="e")]).save(path)
    refused(
        path, r"node 'e' \(Gather\): it looks up rows by computed values; only an embedding of .*"
    )


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A small model in both forms."""
    model = sequential(np.random.default_rng(0), layers.GRU(2, return_sequences=True, name="g"))
    for form in (".keras", ".h5"):
        model.save(tmp_path / f"net{form}")
    model.save_weights(tmp_path / "only.weights.h5")
    return tmp_path


def test_files_that_are_no_models_refused(saved):
    refused(
        saved / "only.weights.h5",
        r"file '.*only.weights.h5' holds weights but no model: save the whole model with "
        r"model.save\('name.keras'\)",
    )
    for form in (".keras", ".h5"):
        path = saved / f"bad{form}"
        for data in (b"something else", (saved / f"net{form}").read_bytes()[:3000]):
            path.write_bytes(data)
            refused(
                path, r"file '.*' is not a Keras model, or is cut short \(.*\): save it with .*"
            )
        path.write_bytes(b"")
        refused(path, r"file '.*' is empty: save or copy the model again")
        path.unlink()
        refused(path, r"file '.*' cannot be read \(No such file or directory\): check the path")
    refused(
        saved / "net.keras",
        r"file '.*net.keras' is a Keras model, which knows its layers itself: leave out layers",
        layers=[("gru", "g")],
    )


def test_truncated_and_damaged_files_give_a_model_or_an_error(saved):
    rng = np.random.default_rng(1)
    for form in (".keras", ".h5"):
        data = (saved / f"net{form}").read_bytes()
        for i in range(120):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                broken[at] ^= 1 << rng.integers(0, 8)
            broken = broken[: rng.integers(0, len(data))] if i % 3 == 0 else broken
            path = saved / f"broken{form}"
            path.write_bytes(bytes(broken))
            try:
                load_model(path)
            except StillnetError as e:
                assert "\n" not in str(e)


def rewrite(path, change):
    """Applies ``change`` to the configuration inside an archive."""
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps(change(config)).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_wrong_configurations_refused(saved):
    path = saved / "net.keras"
    original = path.read_bytes()

    def case(message, change):
        path.write_bytes(original)
        rewrite(path, change)
        refused(path, message)

    def units(config):
        config["config"]["layers"][1]["config"]["units"] = 3
        return config

    def subclass(config):
        return {**config, "class_name": "MyModel"}

    def other_name(config):
        config["config"]["layers"][1]["config"]["name"] = "other"
        return config

    case(
        r"layer 'g' \(GRU\): its weights have the shapes \(3, 6\), \(2, 6\) and \(2, 6\), which do "
        r"not fit 3 units; save the model again",
        units,
    )
    case(r"the model is a MyModel, whose layers the file does not describe; save .*", subclass)
    case(
        r"layer 'other' \(GRU\): the file has 0 weight arrays for it, 3 are needed; .*", other_name
    )
    case(
        r"file '.*' is not a Keras model, or is cut short \(its config.json is no object\).*",
        lambda _: 3,
    )
    case(
        r"file '.*' is not a Keras model, or is cut short \(.*\): save it with .*",
        lambda _: {"class_name": "Sequential", "config": {"layers": [3]}},
    )

    def no_units(config):
        del config["config"]["layers"][1]["config"]["units"]
        return config

    case(
        r"file '.*' holds a Keras model that cannot be read \(KeyError: .*\); save it .*", no_units
    )


GRU_ARRAYS = {"kernel": np.ones((3, 6)), "recurrent_kernel": np.ones((2, 6)), "bias": np.ones(6)}
GRU_CONFIG = {"name": "g", "units": 2, "return_sequences": True}
BY_HAND = {
    "last step read": (
        [("GRU", {**GRU_CONFIG, "return_sequences": False}), ("GRU", {**GRU_CONFIG, "name": "h"})],
        r"layer 'h' \(GRU\): it takes a sequence, and reads the last step only; set return_.*",
    ),
    "convolution of the last step": (
        [
            ("GRU", {**GRU_CONFIG, "return_sequences": False}),
            ("Conv1D", {"name": "c", "padding": "causal", "use_bias": False}),
        ],
        r"layer 'c' \(Conv1D\): it takes a sequence, and reads the last step only; set return_.*",
    ),
    "time major": (
        [("GRU", {**GRU_CONFIG, "time_major": True})],
        r"layer 'g' \(GRU\): time_major is set; save the model with batches first",
    ),
    "axis": (
        [("GRU", GRU_CONFIG), ("BatchNormalization", {"name": "n", "axis": [1]})],
        r"layer 'n' \(BatchNormalization\): axis is 1; only the last one, the features, is .*",
    ),
    "inside time distributed": (
        [
            ("GRU", GRU_CONFIG),
            ("TimeDistributed", {"name": "t", "layer": {"class_name": "Masking", "config": {}}}),
        ],
        r"layer 't' \(TimeDistributed\): it holds a Masking; only Dense, convolutions, recurr.*",
    ),
    "channels first": (
        [("GRU", GRU_CONFIG), ("Conv1D", {"name": "c", "data_format": "channels_first"})],
        r"layer 'c' \(Conv1D\): data_format is channels_first; use channels_last",
    ),
    "adapter": (
        [("Dense", {"name": "d", "units": 2, "lora_rank": 4})],
        r"layer 'd' \(Dense\): lora_rank is set; merge the adapter and save the model again",
    ),
    "misfit": (
        [("GRU", GRU_CONFIG), ("Dense", {"name": "d", "units": 1})],
        r"layer 'd' \(Dense\): its weights take 5 inputs, but the layer before gives 2; .*",
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_refused_in_files_that_keras_itself_would_not_write(tmp_path, case):
    parts, message = BY_HAND[case]
    entries = [{"class_name": kind, "config": config} for kind, config in parts]
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": entries}}
    dense = {"kernel": np.ones((5, 1)), "bias": np.ones(1)}
    keras2(
        tmp_path / "net.h5",
        config,
        {"g": GRU_ARRAYS, "h": GRU_ARRAYS, "d": dense, "c": {"k": np.ones((3, 2, 1))}},
    )
    refused(tmp_path / "net.h5", message)


def test_weights_that_are_no_numbers_refused(tmp_path):
    dense = {"name": "d", "units": 2, "activation": "linear", "use_bias": False}
    config = {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": dense}]}
    path = tmp_path / "net.h5"
    keras2(path, config, {"d": {"kernel": np.full((3, 2), np.nan)}})
    refused(path, r"layer 'd' \(Dense\): its weights hold NaN or infinity; train or save .*again")
    keras2(path, config, {"d": {"kernel": np.ones((3, 2))}})
    with h5py.File(path, "r+") as file:
        del file["model_weights/d/d/kernel:0"]
        file["model_weights/d"].create_dataset("d/kernel:0", data=np.ones((3, 2), np.int8))
    refused(path, r"layer 'd' \(Dense\): its weights have the type int8; save .* quantized")
    keras2(path, config, {"d": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}})
    refused(path, r"layer 'd' \(Dense\): the file has 2 weight arrays for it, 1 are needed; .*")


def test_without_h5py_the_error_says_how_to_install(saved, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(
        saved / "net.keras",
        r"file '.*net.keras' needs the package h5py to be read: pip install \"stillnet\[keras\]\"",
    )
