"""EGRU layers and language models by EvNN's names, against the equations of the paper."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.egru import from_egru
from stillnet.sw.importers.load import load_model
from stillnet.sw.network.logits import top_k

pytestmark = pytest.mark.filterwarnings("error")


def sigma(v):
    return 1 / (1 + np.exp(-v))


def egru(x, w, r, b, rb, theta):
    """One layer over a sequence: what it sends (its events), step by step."""
    n = len(theta)
    h, y, out = np.zeros(n), np.zeros(n), []
    for v in x:
        a, s = v @ w + b, y @ r + rb
        z, reset = sigma(a[:n] + s[:n]), sigma(a[n : 2 * n] + s[n : 2 * n])
        g = np.tanh(a[2 * n :] + reset * s[2 * n :])
        c = z * h + (1 - z) * g
        event = c > theta
        y = np.where(event, c, 0)
        h = np.where(event, c - theta, c)
        out.append(y)
    return np.array(out)


def layer(rng, inputs, units):
    return {
        "kernel": rng.normal(size=(inputs, 3 * units)) / np.sqrt(inputs),
        "recurrent_kernel": rng.normal(size=(units, 3 * units)) / np.sqrt(units),
        "bias": rng.normal(size=3 * units),
        "recurrent_bias": rng.normal(size=3 * units),
        "thr": rng.uniform(0, 0.4, units),
    }


def run(layers, x):
    for p in layers:
        x = egru(x, p["kernel"], p["recurrent_kernel"], p["bias"], p["recurrent_bias"], p["thr"])
    return x


def named(layers, prefix="rnns.{}."):
    return {f"{prefix.format(i)}{k}": v for i, p in enumerate(layers) for k, v in p.items()}


def language_model(rng, tokens=11, size=5, hidden=(6, 6, 5), project=False):
    layers, state = [], {"embeddings.weight": rng.normal(size=(tokens, size))}
    inputs = size
    for units in hidden:
        layers.append(layer(rng, inputs, units))
        inputs = units
    state |= named(layers)
    if project:
        state["decoder.projection.weight"] = rng.normal(size=(size, inputs))
        state["decoder.projection.bias"] = rng.normal(size=size)
    state["decoder.decoder.weight"] = state["embeddings.weight"]
    state["decoder.decoder.bias"] = rng.normal(size=tokens)
    for i in range(len(hidden)):  # what else a checkpoint holds
        state[f"rnns.{i}.dampening_factor"] = np.array([0.7])
        state[f"rnns.{i}.pseudo_derivative_support"] = np.array([1.0])
        state[f"rnns.{i}._max_norm"] = np.array([-1.0])
    return state, layers


def logits_of(state, layers, tokens):
    y = run(layers, state["embeddings.weight"][tokens])
    if "decoder.projection.weight" in state:
        p = "decoder.projection."
        y = np.maximum(y @ state[p + "weight"].T + state[p + "bias"], 0)
    return y @ state["decoder.decoder.weight"].T + state["decoder.decoder.bias"]


def refused(state, message, **more):
    with pytest.raises(StillnetError) as error:
        from_egru(state, **more)
    assert re.fullmatch(message, str(error.value)), str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 20),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.sampled_from(["", "rnns.{}.", "model.egru{}."]),
    st.integers(0, 9999),
)
def test_layers_match_the_equations(inputs, hidden, prefix, seed):
    rng = np.random.default_rng(seed)
    hidden = hidden if prefix else hidden[:1]
    layers, size = [], inputs
    for units in hidden:
        layers.append(layer(rng, size, units))
        size = units
    model = from_egru(named(layers, prefix))
    assert [m.cell for m in model.layers] == ["egru"] * len(hidden)
    x = rng.normal(size=(20, inputs))
    np.testing.assert_allclose(model.run(x), run(layers, x), atol=1e-11)


def test_events_are_neither_all_nor_none():
    """The comparisons above see silence and events, and soft resets that matter."""
    rng = np.random.default_rng(1)
    p = layer(rng, 5, 40)
    x = rng.normal(size=(30, 5))
    y = run([p], x)
    assert 0.2 < np.mean(y != 0) < 0.8
    plain = run([{**p, "thr": 0 * p["thr"]}], x)
    assert np.abs(y - plain).max() > 0.1


@pytest.mark.parametrize("broken", ["order", "bias", "recurrent_bias", "thr"])
def test_the_comparison_sees_a_wrong_layer(broken):
    rng = np.random.default_rng(2)
    p = layer(rng, 5, 8)
    wrong = {k: v.copy() for k, v in p.items()}
    if broken == "order":
        for key in ("kernel", "recurrent_kernel", "bias", "recurrent_bias"):
            wrong[key] = np.roll(wrong[key], 8, axis=-1)
    else:
        wrong[broken] *= 0.5
    x = rng.normal(size=(20, 5))
    assert np.abs(from_egru(named([wrong])).run(x) - run([p], x)).max() > 1e-2


def test_thresholds_are_limited_and_older_ones_are_logistic():
    rng = np.random.default_rng(3)
    p = layer(rng, 4, 6)
    p["thr"] = np.array([-0.5, 0, 0.2, 0.4, 1, 1.5])
    x = rng.normal(size=(20, 4))
    expected = run([{**p, "thr": np.clip(p["thr"], 0, 1)}], x)
    np.testing.assert_allclose(from_egru(named([p])).run(x), expected, atol=1e-11)
    for raw in (rng.normal(size=6) - 2, rng.normal(size=1) - 2):
        old = {k: v for k, v in p.items() if k != "thr"} | {"thr_reparam": raw}
        expected = run([{**p, "thr": np.broadcast_to(sigma(raw), 6)}], x)
        np.testing.assert_allclose(from_egru(named([old])).run(x), expected, atol=1e-11)


def test_weights_under_drop_connect():
    """The trained values are those called raw; the others are a masked copy of the last batch."""
    rng = np.random.default_rng(4)
    p = layer(rng, 4, 6)
    state = {f"rnns.0.module.{k}": v for k, v in p.items()}
    state["rnns.0.recurrent_kernel_raw"] = p["recurrent_kernel"]
    state["rnns.0.module.recurrent_kernel"] = p["recurrent_kernel"] * (rng.random((6, 18)) < 0.5)
    x = rng.normal(size=(20, 4))
    np.testing.assert_allclose(from_egru(state).run(x), run([p], x), atol=1e-11)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("project", [True, False])
def test_language_model(fold, project):
    rng = np.random.default_rng(5)
    state, layers = language_model(rng, project=project)
    model = from_egru(state, fold_embedding=fold)
    cells = ["egru"] * 3 + ["relu"] * project + ["linear"]
    assert [m.cell for m in model.layers] == ([] if fold else ["linear"]) + cells
    assert model.one_hot and model.inputs == model.outputs == 11
    tokens = rng.integers(0, 11, 25)
    got = model.run(tokens)
    np.testing.assert_allclose(got, logits_of(state, layers, tokens), atol=1e-11)


def test_language_model_from_a_file(tmp_path):
    rng = np.random.default_rng(6)
    state, layers = language_model(rng)
    save_file({k: np.array(v) for k, v in state.items()}, tmp_path / "lm.safetensors")
    np.savez(tmp_path / "lm.npz", **state)
    tokens = rng.integers(0, 11, 12)
    for name in ("lm.safetensors", "lm.npz"):
        model = load_model(tmp_path / name)
        assert model.name == "lm"
        np.testing.assert_allclose(model.run(tokens), logits_of(state, layers, tokens), atol=1e-11)


def with_layer(drop="", **more):
    state = named([layer(np.random.default_rng(0), 4, 6)]) | {
        f"rnns.0.{k}": v for k, v in more.items()
    }
    return {k: v for k, v in state.items() if k != f"rnns.0.{drop}"}


REFUSALS = {
    "no layer": (
        {"embeddings.weight": np.ones((3, 2))},
        r"the state_dict has no tensor 'kernel' of an EGRU layer: save the whole model",
    ),
    "no recurrence": (
        with_layer("recurrent_kernel"),
        r"tensor 'rnns.0.recurrent_kernel': it is missing; save the whole state_dict",
    ),
    "no threshold": (
        with_layer("thr"),
        r"tensor 'rnns.0.thr': it is missing; save the whole state_dict",
    ),
    "misfit": (
        with_layer(recurrent_kernel=np.ones((5, 15))),
        r"tensor 'rnns.0.recurrent_kernel': its shape \(5, 15\) and that of the kernel, "
        r"\(4, 18\), are not \(H, 3\*H\) and \(inputs, 3\*H\)",
    ),
    "flat": (
        with_layer(kernel=np.ones(18)),
        r"tensor 'rnns.0.kernel': it has shape \(18,\), a matrix is needed",
    ),
    "bias": (
        with_layer(recurrent_bias=np.ones(6)),
        r"tensor 'rnns.0.recurrent_bias': it has shape \(6,\), expected \(18,\)",
    ),
    "threshold": (
        with_layer(thr=np.ones(5)),
        r"tensor 'rnns.0.thr': it has shape \(5,\), expected \(6,\)",
    ),
    "left over": (
        {**with_layer(), "norm.weight": np.ones(6)},
        r"tensor 'norm.weight': it has no place in an EGRU network; remove or fold it",
    ),
    "decoder": (
        {**with_layer(), "decoder.decoder.weight": np.ones((9, 5))},
        r"layer 'decoder.decoder': its weights take 5 inputs, but the layer before gives 6; .*",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case):
    refused(*REFUSALS[case])


# -- logits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_top_k(shape):
    rng = np.random.default_rng(7)
    logits = rng.normal(size=shape) * 5
    tokens, chances = top_k(logits, 3)
    assert tokens.shape == chances.shape == (*shape[:-1], 3)
    full = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.sort(full, axis=-1)[..., ::-1][..., :3]
    np.testing.assert_allclose(chances, expected, rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(full, tokens, -1), expected, rtol=1e-12)


def test_top_k_of_integers_and_of_equal_values():
    tokens, chances = top_k(np.array([256, 512, 512, -32768]), 4, scale=2.0**-8)
    np.testing.assert_array_equal(tokens, [1, 2, 0, 3])
    e = np.exp(1.0)
    np.testing.assert_allclose(chances[:3], np.array([e, e, 1]) / (2 * e + 1), rtol=1e-12)
    assert top_k(np.array([1e300, -1e300]), 1)[1] == 1


def test_top_k_refused():
    with pytest.raises(StillnetError, match=r"^k is 4; 1 to 3 of the tokens can be taken$"):
        top_k(np.zeros(3), 4)
    with pytest.raises(StillnetError, match=r"^logits have shape \(\) and type .*are needed$"):
        top_k(np.float64(3), 1)
