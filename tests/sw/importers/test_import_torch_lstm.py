"""LSTMs, embeddings and other GRUs from state_dicts, against formulas written here."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.torch import from_state_dict

pytestmark = pytest.mark.filterwarnings("error")


def sigma(v):
    return 1.0 / (1.0 + np.exp(-v))


def torch_lstm(x, w_ih, w_hh, b_ih, b_hh):
    """nn.LSTM as its manual defines it, unit by unit in the order i, f, g, o."""
    n = w_hh.shape[1]
    h, c, out = np.zeros(n), np.zeros(n), []
    for v in x:
        rows = w_ih @ v + b_ih + w_hh @ h + b_hh
        i, f, g, o = (rows[k * n : (k + 1) * n] for k in range(4))
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        h = sigma(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def odd_gru(x, w_ih, w_hh, b_ih, b_hh, kind):
    """GRUs with nn.GRU's names that are not nn.GRU: update inverted, or reset before W_hn."""
    n = w_hh.shape[1]
    h, out = np.zeros(n), []
    r_, z_, n_ = (slice(k * n, (k + 1) * n) for k in range(3))
    f = (lambda v: np.maximum(v, 0)) if kind.endswith("relu") else np.tanh
    for v in x:
        a = w_ih @ v + b_ih
        r = sigma(a[r_] + w_hh[r_] @ h + b_hh[r_])
        z = sigma(a[z_] + w_hh[z_] @ h + b_hh[z_])
        if kind == "gru_inverted":
            new = np.tanh(a[n_] + r * (w_hh[n_] @ h + b_hh[n_]))
            h = (1 - z) * h + z * new
        else:
            h = (1 - z) * f(a[n_] + w_hh[n_] @ (r * h) + b_hh[n_]) + z * h
        out.append(h)
    return np.array(out)


def arrays(rng, gates, inputs, units):
    scale = 1 / np.sqrt(units)
    return (
        rng.normal(size=(gates * units, inputs)) * scale,
        rng.normal(size=(gates * units, units)) * scale,
        rng.normal(size=gates * units),
        rng.normal(size=gates * units),
    )


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def state_of(stack, prefix="", suffix=True):
    return {
        f"{prefix}{n}" + (f"_l{i}" if suffix else ""): a
        for i, layer in enumerate(stack)
        for n, a in zip(NAMES, layer)
    }


def refused(state, message, layers=None):
    with pytest.raises(StillnetError) as error:
        from_state_dict(state, layers)
    assert re.fullmatch(message, str(error.value)), str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 3),
    st.integers(1, 30),
    st.booleans(),
    st.integers(0, 9999),
)
def test_lstm_matches_the_manual(inputs, units, layers, steps, biased, seed):
    rng = np.random.default_rng(seed)
    stack = [arrays(rng, 4, inputs if i == 0 else units, units) for i in range(layers)]
    state = state_of(stack, "rnn.")
    if not biased:
        stack = [(w, r, 0 * bi, 0 * bh) for w, r, bi, bh in stack]
        state = {k: v for k, v in state.items() if "weight" in k}
    model = from_state_dict(state, [("lstm", "rnn")] if seed % 2 else None)
    assert [layer.cell for layer in model.layers] == ["lstm"] * layers
    names = ["rnn"] if layers == 1 else [f"rnn.l{i}" for i in range(layers)]
    assert [layer.name for layer in model.layers] == names
    x = rng.normal(size=(steps, inputs))
    expected = x
    for layer in stack:
        expected = torch_lstm(expected, *layer)
    np.testing.assert_allclose(model.run(x), expected, atol=1e-11)


@pytest.mark.parametrize("first, second", [(0, 1), (1, 2), (2, 3), (0, 3)])
def test_the_comparison_sees_exchanged_gates(first, second):
    rng = np.random.default_rng(1)
    layer = arrays(rng, 4, 3, 4)
    wrong = [a.copy() for a in layer]
    for a in wrong:
        rows = np.split(a.copy(), 4)
        rows[first], rows[second] = rows[second], rows[first]
        a[:] = np.concatenate(rows)
    x = rng.normal(size=(20, 3))
    got = from_state_dict(state_of([wrong])).run(x)
    assert np.abs(got - torch_lstm(x, *layer)).max() > 1e-2


def test_lstm_cell_in_a_safetensors_file(tmp_path):
    rng = np.random.default_rng(2)
    layer = arrays(rng, 4, 3, 5)
    save_file(state_of([layer], "net.cell.", suffix=False), tmp_path / "net.safetensors")
    model = load_model(tmp_path / "net.safetensors")
    x = rng.normal(size=(8, 3))
    np.testing.assert_allclose(model.run(x), torch_lstm(x, *layer), atol=1e-11)
    assert model.layers[0].name == "net.cell"


@pytest.mark.parametrize("kind", ["gru_inverted", "gru_before", "gru_before_relu"])
@pytest.mark.parametrize("biased", [True, False])
def test_grus_of_other_conventions(kind, biased):
    rng = np.random.default_rng(3)
    w, r, bi, bh = arrays(rng, 3, 4, 6)
    state = state_of([(w, r, bi, bh)], "a.")
    if not biased:
        bi, bh = 0 * bi, 0 * bh
        state = {k: v for k, v in state.items() if "weight" in k}
    x = rng.normal(size=(15, 4))
    expected = odd_gru(x, w, r, bi, bh, kind)
    got = from_state_dict(state, [(kind, "a")]).run(x)
    np.testing.assert_allclose(got, expected, atol=1e-11)
    plain = from_state_dict(state, [("gru", "a")]).run(x)
    assert np.abs(plain - expected).max() > 1e-2


@pytest.mark.parametrize("kind", ["gru", "gru_inverted", "gru_before", "lstm", "tanh"])
def test_embedding_in_front(kind):
    rng = np.random.default_rng(4)
    table = rng.normal(size=(9, 3))
    if kind == "tanh":
        state = {"top.weight": rng.normal(size=(5, 3)), "top.bias": rng.normal(size=5)}
    else:
        state = state_of([arrays(rng, 4 if kind == "lstm" else 3, 3, 5)], "top.")
    tokens = rng.integers(0, 9, 12)
    plain = from_state_dict(state, [(kind, "top")]).run(table[tokens])
    chain = [("embedding", "emb"), (kind, "top")]
    model = from_state_dict({**state, "emb.weight": table}, chain)
    assert model.one_hot and model.inputs == 9
    np.testing.assert_allclose(model.run(tokens), plain, atol=1e-11)


def lstm_with(**more):
    return state_of([arrays(np.random.default_rng(0), 4, 3, 4)], "rnn.") | {
        f"rnn.{k}": v for k, v in more.items()
    }


def test_lstm_refused():
    refused(
        lstm_with(weight_ih_l0_reverse=np.ones((16, 3))),
        r"tensor 'rnn.weight_ih_l0_reverse': bidirectional layers are not supported, as a stream "
        r"has no end to start from; train a forward LSTM",
    )
    refused(
        lstm_with(weight_hr_l0=np.ones((2, 4))),
        r"tensor 'rnn.weight_hr_l0': proj_size is not supported; train without projection",
    )
    refused(
        lstm_with(),
        r"tensor 'rnn.weight_hh_l0': its shape \(16, 4\) is that of an LSTM, GRU layers have "
        r"\(3\*H, H\); list it as 'lstm'",
        [("gru", "rnn")],
    )
    refused(lstm_with(bias_hh_l0=np.ones(4)), r"layer 'rnn': b_hh has shape \(4,\), expected .*")


def test_embedding_refused():
    table = {"emb.weight": np.ones((9, 3))}
    state = {**lstm_with(), **table}
    refused(
        table,
        r"the state_dict's layers are an embedding alone: list the layer that it feeds too",
        [("embedding", "emb")],
    )
    refused(
        state,
        r"layer 'emb' is an embedding after another layer; the engine takes tokens at its input "
        r"only, so list it first",
        [("lstm", "rnn"), ("embedding", "emb")],
    )
    refused(
        {**lstm_with(), "emb.weight": np.ones((9, 2))},
        r"layer 'rnn': it takes 3 inputs, the embedding before it gives 2; list the modules .*",
        [("embedding", "emb"), ("lstm", "rnn")],
    )
    refused(
        {**state, "emb.bias": np.ones(9)},
        r"tensor 'emb.bias': an nn.Embedding has no bias; list the module as 'linear'",
        [("embedding", "emb"), ("lstm", "rnn")],
    )


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_modules_of_the_real_torch(tmp_path, kind):
    """The formulas above are those of PyTorch, embeddings and stacked layers included."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.ModuleDict(
        {
            "emb": torch.nn.Embedding(7, 5),
            "rnn": getattr(torch.nn, kind)(5, 6, num_layers=2, batch_first=True),
            "fc": torch.nn.Linear(6, 3),
        }
    )
    tokens = torch.randint(0, 7, (1, 15))
    with torch.no_grad():
        expected = torch.sigmoid(net["fc"](net["rnn"](net["emb"](tokens))[0]))[0].numpy()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    chain = [("embedding", "emb"), (kind.lower(), "rnn"), ("sigmoid", "fc")]
    got = load_model(tmp_path / "net.pt", layers=chain).run(tokens[0].numpy())
    np.testing.assert_allclose(got, expected, atol=2e-6)
