"""Whole Keras models, cut between chip and host; Keras's own predict is the judge."""

import os

os.environ.setdefault("KERAS_BACKEND", "numpy")

import json
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.partition.options import CutOptions
from tests.sw.importers.test_import_keras import predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STEPS, FEATURES = 24, 8


def outputs(model, x):
    return model.run_whole(x) if model.host is not None else model.run(x)


def check(model, folder, x=None, *, form=".keras", elements=None, tolerance=3e-5):
    """Saves, imports and compares with Keras; the imported model."""
    x = np.random.default_rng(5).normal(size=(STEPS, FEATURES)) if x is None else x
    wanted = predict(model, x.astype(np.float32))
    path = folder / f"net{form}"
    model.save(path)
    found = load_model(path, cut=CutOptions(elements=elements))
    got = outputs(found, x.reshape(len(x), -1))
    got = got[-1] if wanted.ndim == 1 and len(got) > 1 else got.reshape(wanted.shape)
    spread = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(spread, 1))
    return found


def sequence(*parts, shape=(None, FEATURES), seed=0):
    return randomise(keras.Sequential([layers.Input(shape), *parts]), np.random.default_rng(seed))


def cells(model):
    return [layer.cell for layer in model.layers]


def rec(**more):
    return {"return_sequences": True, **more}


TAKEN = {
    # On the chip as a whole.
    "simple": (lambda: [layers.SimpleRNN(6, **rec())], ["tanh"]),
    "simple relu": (lambda: [layers.SimpleRNN(4, **rec(activation="relu"))], ["relu"]),
    "rnn of a simple cell": (lambda: [layers.RNN(layers.SimpleRNNCell(4), **rec())], ["tanh"]),
    "leaky": (lambda: [layers.Dense(4), layers.LeakyReLU()], ["leaky_relu"]),
    "leaky by string": (lambda: [layers.Dense(4, activation="leaky_relu")], ["leaky_relu"]),
    "relu with slope": (lambda: [layers.Dense(4), layers.ReLU(negative_slope=0.1)], None),
    "relu6": (lambda: [layers.Dense(4), layers.ReLU(6.0)], ["clip"]),
    "elu": (lambda: [layers.Dense(4), layers.ELU(0.7)], ["elu"]),
    "prelu": (lambda: [layers.Dense(4), layers.PReLU(shared_axes=[1])], None),
    "silu": (lambda: [layers.Dense(4, activation="silu"), layers.Dense(3)], ["silu", "linear"]),
    "gelu": (lambda: [layers.Dense(4, activation="gelu"), layers.Dense(3)], ["gelu", "linear"]),
    "hard": (lambda: [layers.Dense(4, activation="hard_sigmoid")], None),
    "hard silu": (lambda: [layers.Dense(4, activation="hard_silu")], None),
    "softplus": (lambda: [layers.Dense(4, activation="softplus")], ["softplus"]),
    "depthwise": (
        lambda: [layers.ZeroPadding1D((2, 0)), layers.DepthwiseConv1D(3), layers.Dense(3)],
        ["conv3", "linear"],
    ),
    "normalized": (lambda: [layers.Normalization(mean=[0.5] * 8, variance=[2.0] * 8),
                            layers.GRU(4, **rec())], ["gru"]),
    "hard gates": (
        lambda: [layers.GRU(5, **rec(recurrent_activation="hard_sigmoid")),
                 layers.LSTM(5, **rec(recurrent_activation="hard_sigmoid"))],
        ["gru_hard", "lstm_hard"],
    ),
    "hard gates, reset before": (
        lambda: [layers.GRU(5, **rec(recurrent_activation="hard_sigmoid", reset_after=False))],
        ["gru_reset_hard", "gru_before_hard"],
    ),
    # Parts for the host.
    "softmax": (lambda: [layers.GRU(6, **rec()), layers.Dense(4, activation="softmax")], 2),
    "softmax layer": (lambda: [layers.GRU(6, **rec()), layers.Dense(4), layers.Softmax()], 2),
    "layer norm": (lambda: [layers.LayerNormalization(), layers.LSTM(6, **rec())], ["lstm"]),
    "layer norm between": (
        lambda: [layers.GRU(3, **rec()), layers.LayerNormalization(), layers.LSTM(9, **rec())],
        ["lstm"],
    ),
    "strided": (
        lambda: [layers.Conv1D(6, 3, strides=2, padding="causal", activation="relu"),
                 layers.GRU(6, **rec())], ["gru"],
    ),
    "same": (
        lambda: [layers.Conv1D(6, 5, padding="same", activation="elu"), layers.LSTM(6, **rec())],
        ["lstm"],
    ),
    "same strided": (
        lambda: [layers.Conv1D(6, 4, strides=3, padding="same"), layers.LSTM(6, **rec())],
        ["lstm"],
    ),
    "valid": (lambda: [layers.Conv1D(6, 5), layers.LSTM(6, **rec())], ["lstm"]),
    "dilated": (
        lambda: [layers.Conv1D(4, 3, padding="same", dilation_rate=2), layers.GRU(6, **rec())],
        ["gru"],
    ),
    "separable": (
        lambda: [layers.SeparableConv1D(6, 3, padding="same", depth_multiplier=2),
                 layers.GRU(6, **rec())], None,
    ),
    "pooled": (
        lambda: [layers.Conv1D(6, 3, padding="same"), layers.MaxPooling1D(2),
                 layers.AveragePooling1D(3, strides=2, padding="same"), layers.GRU(6)], ["gru"],
    ),
    "padded and cropped": (
        lambda: [layers.ZeroPadding1D((1, 3)), layers.Cropping1D((2, 1)), layers.GRU(6, **rec())],
        ["gru"],
    ),
    "mean over time": (
        lambda: [layers.GRU(6, **rec()), layers.GlobalAveragePooling1D(), layers.Dense(3)], None,
    ),
    "shifted before a convolution": (
        lambda: [layers.Rescaling(1, 0.5), layers.Conv1D(4, 3, padding="causal"),
                 layers.GRU(5, **rec())], None,
    ),
    "convolutions inside a step": (
        lambda: [layers.Reshape((-1, FEATURES, 1)),
                 layers.TimeDistributed(layers.Conv1D(3, 3, strides=2, activation="relu")),
                 layers.TimeDistributed(layers.Flatten()), layers.GRU(6, **rec()),
                 layers.Dense(3, activation="softmax")], None,
    ),
    "upsampled": (
        lambda: [layers.Conv1D(4, 4, strides=2, padding="same"), layers.GRU(6, **rec()),
                 layers.UpSampling1D(2)], ["gru"],
    ),
    "mish and log softmax": (
        lambda: [layers.Dense(5, activation="mish"), layers.Dense(4, activation="log_softmax")],
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_layers_that_are_taken(tmp_path, case, form):
    make, expected = TAKEN[case]
    found = check(sequence(*make()), tmp_path, form=form)
    if isinstance(expected, list):
        assert cells(found) == expected
    elif expected is not None:
        assert len(found.layers) == expected


def test_a_keyword_spotter_of_convolutions_and_a_gru(tmp_path):
    """A window of 30 x 8 in training; any length of recording here."""
    model = sequence(
        layers.Reshape((30, FEATURES, 1)),
        layers.Conv2D(4, (5, 3), strides=(2, 2), padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.MaxPooling2D((1, 2)),
        layers.Reshape((-1, 8)),
        layers.GRU(10, **rec()),
        layers.GRU(10),
        layers.Dense(6, activation="softmax"),
        shape=(30, FEATURES),
    )
    x = np.random.default_rng(1).normal(size=(30, FEATURES))
    found = check(model, tmp_path, x)
    assert found.host is not None and cells(found) == ["gru", "gru", "linear"]
    assert found.inputs == 8 and not found.host.stepwise
    assert found.run_whole(np.tile(x, (3, 1))).shape == (45, 6)  # strides of 2


def test_windows_where_a_layer_needs_the_length(tmp_path):
    model = sequence(
        layers.Conv1D(6, 3, strides=2, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(12, activation="relu"),
        layers.Dense(3, activation="softmax"),
        shape=(16, FEATURES),
    )
    x = np.random.default_rng(1).normal(size=(5, 16, FEATURES)).astype(np.float32)
    wanted = model.predict(x, verbose=0)
    model.save(tmp_path / "net.keras")
    for elements in (None, 16 * FEATURES):
        found = load_model(tmp_path / "net.keras", cut=CutOptions(elements=elements))
        np.testing.assert_allclose(outputs(found, x.reshape(5, -1)), wanted, atol=1e-5)
    free = sequence(layers.Conv1D(6, 3), layers.Cropping1D(1), layers.Dense(3))
    config = json.loads(free.to_json())
    config["config"]["layers"].append(
        {"class_name": "Flatten", "config": {"name": "flat"}, "module": "keras.layers"}
    )
    free.save(tmp_path / "free.keras")
    with zipfile.ZipFile(tmp_path / "free.keras") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "free.keras", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(
        StillnetError, match=r"layer 'flat' \(Flatten\): it needs a number of steps"
    ):
        load_model(tmp_path / "free.keras")


def test_functional_models_with_products_and_numbers(tmp_path):
    """A mask on the input; operators of Python, which Keras 3 writes as layers."""
    x_in = layers.Input((None, FEATURES), name="noisy")
    h = layers.GRU(9, return_sequences=True, name="rec")(x_in * 0.5 - 0.25)
    mask = layers.Dense(FEATURES, activation="sigmoid", name="mask")(h)
    y = layers.Multiply(name="clean")([x_in, mask])
    model = randomise(keras.Model(x_in, y + 1.0), np.random.default_rng(3))
    found = check(model, tmp_path)
    assert "rec" in {layer.name for layer in found.layers}
    h = layers.Average()([layers.Dense(4)(x_in), layers.Dense(4, activation="tanh")(x_in)])
    h = layers.Maximum()([h, layers.Subtract()([layers.Dense(4)(x_in), h])])
    model = randomise(
        keras.Model(x_in, layers.Softmax()(layers.LSTM(5)(h))), np.random.default_rng(3)
    )
    check(model, tmp_path)


def test_a_step_with_states_in_and_out(tmp_path):
    rng = np.random.default_rng(4)
    x_in = layers.Input((1, FEATURES), batch_size=1, name="x")
    h0, c0 = (layers.Input((6,), batch_size=1, name=f"{n}_in") for n in "hc")
    cache = layers.Input((2, FEATURES), batch_size=1, name="cache")
    joined = layers.Concatenate(axis=1)([cache, x_in])
    front = layers.Conv1D(5, 3, activation="softmax")(joined)
    y, h, c = layers.LSTM(6, return_sequences=True, return_state=True, name="rec")(
        front, initial_state=[h0, c0]
    )
    y = layers.Dense(3, activation="softmax", name="y")(y)
    kept = layers.Cropping1D((1, 0), name="cache_out")(joined)
    model = randomise(keras.Model([x_in, h0, c0, cache], [y, h, c, kept]), rng)
    model.save(tmp_path / "net.keras")
    found = load_model(tmp_path / "net.keras")
    assert found.host is not None and found.host.stepwise and cells(found) == ["lstm", "linear"]
    assert [s.input for s in found.host.states] == ["cache"]
    x = rng.normal(size=(15, FEATURES)).astype(np.float32)
    state = [np.zeros((1, 6)), np.zeros((1, 6)), np.zeros((1, 2, FEATURES))]
    wanted = []
    for row in x:
        out, *state = model.predict([row[None, None], *state], verbose=0)
        wanted.append(out.reshape(-1))
    np.testing.assert_allclose(outputs(found, x), wanted, atol=2e-5)


def test_hard_sigmoid_changed_with_keras_3(tmp_path):
    """Keras 2 has max(0, min(1, .2 x + .5)), Keras 3 a sixth in place of the fifth."""
    model = sequence(layers.Dense(4, activation="hard_sigmoid"))
    x = np.random.default_rng(1).normal(size=(9, FEATURES))
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    files["metadata.json"] = b'{"keras_version": "2.14.0"}'
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    w, b = model.get_weights()
    for name, slope in (("new", 1 / 6), ("old", 0.2)):
        wanted = np.clip(slope * (x @ w + b) + 0.5, 0, 1)
        found = load_model(tmp_path / f"{name}.keras")
        np.testing.assert_allclose(outputs(found, x), wanted, atol=1e-5)


@st.composite
def stacks(draw):
    """Layers of Keras in any order that fits."""
    parts, trained = [], 0
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(
            st.sampled_from(
                ("gru", "lstm", "dense", "conv", "norm", "batch", "softmax", "pool", "pad", "act")
            )
        )
        n = draw(st.integers(1, 7))
        if kind == "gru":
            parts.append(layers.GRU(n, **rec(reset_after=draw(st.booleans()))))
        elif kind == "lstm":
            parts.append(layers.LSTM(n, **rec()))
        elif kind == "dense":
            parts.append(layers.Dense(n, draw(st.sampled_from((None, "relu", "tanh", "elu")))))
        elif kind == "conv":
            padding = draw(st.sampled_from(("causal", "same", "valid")))
            stride = draw(st.integers(1, 2))
            parts.append(layers.Conv1D(n, draw(st.integers(1, 3)), stride, padding))
        elif kind == "norm":
            parts.append(layers.LayerNormalization())
        elif kind == "batch":
            parts.append(layers.BatchNormalization())
        elif kind == "softmax":
            parts.append(layers.Softmax())
        elif kind == "pool":
            parts.append(layers.MaxPooling1D(2, 1, "same"))
        elif kind == "pad":
            parts.append(layers.ZeroPadding1D((n, 0)))
        else:
            parts.append(layers.Activation(draw(st.sampled_from(("softplus", "selu", "sigmoid")))))
        trained += kind in ("gru", "lstm", "dense")
    return parts, trained


@pytest.mark.parametrize(
    "inner",
    [
        lambda: layers.MaxPooling1D(2),
        lambda: layers.AveragePooling1D(2),
        lambda: layers.GlobalMaxPooling1D(),
        lambda: layers.GlobalAveragePooling1D(),
        lambda: layers.SeparableConv1D(3, 3, activation="elu"),
        lambda: layers.DepthwiseConv1D(3, padding="same"),
        lambda: layers.ZeroPadding1D(1),
        lambda: layers.Cropping1D((1, 2)),
        lambda: layers.BatchNormalization(),
        lambda: layers.LayerNormalization(),
        lambda: layers.Permute((2, 1)),
        lambda: layers.Reshape((4, 4)),
        lambda: layers.LeakyReLU(0.2),
        lambda: layers.Dense(3, activation="softmax"),
    ],
)
def test_layers_inside_a_step(tmp_path, inner):
    model = sequence(
        layers.TimeDistributed(inner()),
        layers.TimeDistributed(layers.Flatten()),
        layers.GRU(6, **rec()),
        shape=(None, FEATURES, 2),
    )
    x = np.random.default_rng(5).normal(size=(STEPS, FEATURES, 2))
    assert cells(check(model, tmp_path, x))[-1] == "gru"


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(stacks(), st.integers(0, 99))
def test_random_models(tmp_path, drawn, seed):
    parts, trained = drawn
    model = sequence(*parts, seed=seed)
    model.set_weights([w * 0.5 if "variance" not in v.path else w
                       for w, v in zip(model.get_weights(), model.weights)])  # fmt: skip
    x = np.random.default_rng(5).normal(size=(48, FEATURES))
    try:
        check(model, tmp_path, x, tolerance=5e-4)
    except StillnetError as error:
        assert not trained, error


def _nested(rnn, x, name):
    """A model of a dense and a recurrent layer, called on x."""
    inner = layers.Input((None, x.shape[-1]))
    h = layers.Dense(5, activation="tanh")(inner)
    return keras.Model(inner, rnn(4, return_sequences=True)(h), name=name)(x)


def _in_one_another():
    x = layers.Input((None, FEATURES))
    middle = layers.Input((None, FEATURES))
    model = keras.Model(middle, _nested(layers.GRU, middle, "deep"), name="middle")
    return keras.Model(x, layers.Dense(3)(model(x)))


def _called_twice():
    """One GRU and one dense layer for two halves of the channels."""
    inner = layers.Input((None, 4))
    model = keras.Model(inner, layers.GRU(3, return_sequences=True)(inner), name="twice")
    x = layers.Input((None, FEATURES))
    dense = layers.Dense(4, activation="relu")
    return keras.Model(
        x, layers.Dense(2)(layers.Concatenate()([model(dense(x)), model(layers.Dense(4)(x))]))
    )


def _several_outputs():
    inner = layers.Input((None, FEATURES))
    h = layers.LSTM(4, return_sequences=True)(inner)
    model = keras.Model(inner, [layers.Dense(4)(inner), h])
    x = layers.Input((None, FEATURES))
    a, b = model(x)
    return keras.Model(x, layers.Dense(2)(layers.Subtract()([b, a])))


def _list_of_models():
    first = keras.Sequential([layers.Dense(5, activation="relu"), layers.BatchNormalization()])
    x = layers.Input((None, 5))
    second = keras.Model(x, _nested(layers.LSTM, x, "inner"))
    return keras.Sequential([layers.Input((None, FEATURES)), first, second])


def _at_every_step():
    x = layers.Input((4, 2))
    y = layers.Conv1D(3, 3, activation="relu")(x)
    model = keras.Model(x, layers.Concatenate(axis=1)([layers.Flatten()(y), layers.Flatten()(x)]))
    parts = [layers.Reshape((-1, 4, 2)), layers.TimeDistributed(model), layers.GRU(4, **rec())]
    return keras.Sequential([layers.Input((None, FEATURES)), *parts])


MODELS = {
    "in one another": (_in_one_another, ["tanh", "gru", "linear"]),
    "called twice": (_called_twice, ["relu", "gru", "linear", "gru", "linear"]),
    "several outputs": (_several_outputs, ["lstm", "linear", "linear", "linear"]),
    "list": (_list_of_models, ["relu", "tanh", "lstm"]),
    "at every step": (_at_every_step, ["relu", "gru"]),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_models_inside_models(tmp_path, case, form):
    make, expected = MODELS[case]
    found = check(randomise(make(), np.random.default_rng(2)), tmp_path, form=form)
    assert sorted(cells(found)) == sorted(expected)


INDICES = {
    "some features": lambda x: x[..., 2:5],
    "every other": lambda x: x[:, :, ::2],
    "backwards": lambda x: x[:, :, ::-1],
    "one feature": lambda x: x[:, :, 3, None],
    "a new axis": lambda x: x[:, :, None, 1:][:, :, 0],
    "from the end": lambda x: x[:, :, -3:-1],
}


@pytest.mark.parametrize("case", INDICES)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_indices(tmp_path, case, form):
    x = layers.Input((None, FEATURES))
    y = layers.GRU(4, **rec())(INDICES[case](x))
    found = check(randomise(keras.Model(x, y), np.random.default_rng(2)), tmp_path, form=form)
    assert cells(found) == ["gru"] and found.host is None


def test_an_index_of_keras_2(tmp_path):
    """As it writes it: numbers and slices in a tuple."""
    x = layers.Input((None, FEATURES))
    model = randomise(keras.Model(x, layers.GRU(4)(x[..., 1:5])), np.random.default_rng(2))
    model.save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(members["config.json"])
    (layer,) = [y for y in config["config"]["layers"] if y["class_name"] == "GetItem"]
    source = layer["inbound_nodes"][0]["args"][0]["config"]["keras_history"]
    spec = [{"class_name": "__ellipsis__"}, {"start": 1, "stop": 5, "step": None}]
    index = {"slice_spec": {"class_name": "__tuple__", "items": spec}}
    layer |= {"class_name": "SlicingOpLambda", "inbound_nodes": [[[*source, index]]]}
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    x = np.random.default_rng(3).normal(size=(5, FEATURES)).astype(np.float32)
    found = load_model(tmp_path / "old.keras")
    np.testing.assert_allclose(found.run(x)[-1], predict(model, x), atol=3e-5)


OPERATIONS = {
    "expand": lambda x, k: k.squeeze(k.expand_dims(x, -1), axis=3),
    "transpose": lambda x, k: k.transpose(k.transpose(x, (0, 2, 1)), (0, 2, 1)),
    "reshape": lambda x, k: k.reshape(x, (-1, STEPS, FEATURES)),
    "mean": lambda x, k: k.mean(x, axis=-1, keepdims=True),
    "sum": lambda x, k: k.sum(x, axis=2, keepdims=True),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations_that_are_layers(tmp_path, case):
    x = layers.Input((STEPS, FEATURES))
    y = layers.GRU(4, **rec())(OPERATIONS[case](x, keras.ops))
    found = check(randomise(keras.Model(x, y), np.random.default_rng(2)), tmp_path)
    assert cells(found)[-1] == "gru" and found.host is None


def test_the_mean_over_the_steps_is_the_hosts(tmp_path):
    x = layers.Input((None, FEATURES))
    y = keras.ops.mean(layers.GRU(4, **rec())(x), axis=1)
    found = check(randomise(keras.Model(x, layers.Dense(3)(y)), np.random.default_rng(2)), tmp_path)
    assert cells(found) == ["gru"] and not found.host.pointwise and not found.host.every_step


LAST = {
    "two layers": lambda: [layers.LSTM(6, **rec()), layers.Dropout(0.5), layers.LSTM(5)],
    "normalised": lambda: [layers.GRU(6), layers.BatchNormalization(), layers.Dense(4, "relu")],
    "normalised on the host": lambda: [layers.LSTM(5), layers.LayerNormalization()],
}


@pytest.mark.parametrize("length", [None, STEPS])
@pytest.mark.parametrize("case", LAST)
def test_a_classifier_of_windows_answers_at_every_step(tmp_path, case, length):
    """Activity from an IMU: the last step of an LSTM, a dense layer, a softmax."""
    model = sequence(*LAST[case](), layers.Dense(3, "softmax"), shape=(length, FEATURES))
    found = check(model, tmp_path)
    assert found.host.every_step and found.host.pointwise
    x = np.random.default_rng(5).normal(size=(STEPS, FEATURES))
    rows = found.run_whole(x)
    assert rows.shape == (STEPS, 3)
    if length is None:
        for steps in (1, 7):
            wanted = predict(model, x[:steps].astype(np.float32))
            np.testing.assert_allclose(rows[steps - 1], wanted, atol=3e-5)


def functional(make):
    x = layers.Input((None, FEATURES))
    return randomise(keras.Model(x, layers.Dense(3)(make(x))), np.random.default_rng(2))


def _gru(x):
    return layers.GRU(FEATURES, **rec())(x)


ATTENTION = {
    "heads": lambda x: layers.MultiHeadAttention(2, 5)(_gru(x), x),
    "causal heads": lambda x: layers.MultiHeadAttention(2, 5)(_gru(x), x, use_causal_mask=True),
    "key before value": lambda x: layers.MultiHeadAttention(3, 4, value_dim=6, output_shape=7)(
        x, key=layers.Dense(FEATURES)(x), value=_gru(x)
    ),
    "no biases": lambda x: layers.MultiHeadAttention(3, 4, use_bias=False)(_gru(x), x),
    "dot": lambda x: layers.Attention()([_gru(x), x]),
    "scaled dot": lambda x: layers.Attention(True)([_gru(x), x, layers.Dense(FEATURES)(x)]),
    "causal dot": lambda x: layers.Attention()([_gru(x), x], use_causal_mask=True),
    "concat": lambda x: layers.Attention(True, "concat")([_gru(x), x]),
    "additive": lambda x: layers.AdditiveAttention()([_gru(x), x]),
    "additive, no scale": lambda x: layers.AdditiveAttention(use_scale=False)([_gru(x), x]),
}


@pytest.mark.parametrize("case", ATTENTION)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_attention_over_the_steps_runs_recordings(tmp_path, case, form):
    found = check(functional(ATTENTION[case]), tmp_path, form=form)
    assert "gru" in cells(found) and not found.host.pointwise


def test_attention_over_two_axes_is_refused(tmp_path):
    def both(x):
        y = layers.Reshape((-1, 4, 2))(x)
        y = layers.MultiHeadAttention(2, 5, name="att")(y, y)
        return layers.Reshape((-1, FEATURES))(y)

    with pytest.raises(StillnetError, match=r"it attends to the axes \[1, 2\] of .* \(2,\), the"):
        check(functional(both), tmp_path)


def _among_bands(x):
    y = layers.Reshape((-1, 4, 2))(x)
    return layers.MultiHeadAttention(2, 5, attention_axes=(2,))(y, y)


def _each_step(make):
    return lambda x: layers.TimeDistributed(make())(layers.Reshape((-1, 4, 2))(x))


def _both_ways(layer, **more):
    return _each_step(lambda: layers.Bidirectional(layer, **more))


INSIDE = {
    "heads": _among_bands,
    "gru": _each_step(lambda: layers.GRU(5)),
    "backwards": _each_step(lambda: layers.LSTM(5, **rec(go_backwards=True))),
    "backwards, last": _each_step(lambda: layers.GRU(5, go_backwards=True)),
    "both ways": _both_ways(layers.LSTM(5, **rec())),
    "both ways, last": _both_ways(layers.GRU(5)),
    "sum": _both_ways(layers.GRU(5, **rec()), merge_mode="sum"),
    "product": _both_ways(layers.GRU(5), merge_mode="mul"),
    "mean": _both_ways(layers.SimpleRNN(5), merge_mode="ave"),
    "two kinds": _both_ways(
        layers.GRU(5, **rec()), backward_layer=layers.LSTM(5, **rec(go_backwards=True))
    ),
}


@pytest.mark.parametrize("case", INSIDE)
@pytest.mark.parametrize("form", [".keras", ".h5"])
def test_layers_over_an_axis_inside_a_step_run_on_the_host(tmp_path, case, form):
    def whole(x):
        y = layers.TimeDistributed(layers.Flatten())(INSIDE[case](x))
        return layers.GRU(6, **rec())(y)

    found = check(functional(whole), tmp_path, form=form)
    assert cells(found)[0] == "gru" and found.host.pointwise


def test_an_autoencoder_of_windows_runs_recordings(tmp_path):
    """The decoder reads the last state of the encoder at every step: as many as in training."""
    inner = [layers.LSTM(5), layers.RepeatVector(STEPS), layers.LSTM(6, **rec())]
    model = sequence(
        *inner, layers.TimeDistributed(layers.Dense(FEATURES)), shape=(STEPS, FEATURES)
    )
    found = check(model, tmp_path)
    assert cells(found) == ["lstm", "linear"] and not found.host.pointwise
    assert found.run_whole(np.zeros((9, FEATURES))).shape == (9, FEATURES)
    with pytest.raises(StillnetError, match="look over several steps of a recording"):
        found.host.check_streams()


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 2), st.sampled_from(["same", "valid"]))
def test_transposed_convolutions_inside_a_step(tmp_path, taps, stride, dilation, padding):
    if stride > 1:
        dilation = 1  # Keras takes one of them
    inner = layers.Conv1DTranspose(2, taps, stride, padding, dilation_rate=dilation)
    model = sequence(
        layers.Dense(6, "tanh"), layers.Reshape((-1, 3, 2)), layers.TimeDistributed(inner)
    )
    found = check(model, tmp_path)
    assert found.host is None and cells(found)[0] == "tanh"


def test_a_transposed_convolution_over_the_steps_is_the_hosts(tmp_path):
    model = sequence(layers.GRU(6, **rec()), layers.Conv1DTranspose(3, 4, strides=2))
    found = check(model, tmp_path)
    assert cells(found) == ["gru"] and not found.host.pointwise


def test_a_decoder_stays_on_the_host(tmp_path):
    x = layers.Input((None, FEATURES))
    y, *ends = layers.GRU(5, return_state=True, **rec())(x)
    y = layers.GRU(5, name="decoder", **rec())(y, initial_state=ends)
    model = keras.Model(x, layers.Dense(3)(y))
    found = check(randomise(model, np.random.default_rng(2)), tmp_path)
    reasons = {n["name"]: n["why"] for n in found.host.report["nodes"]}
    assert reasons["decoder"].startswith(
        "its initial state or sequence_lens is computed from the data, as "
    )
