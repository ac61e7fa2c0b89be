"""PyTorch import against formulas written here from the PyTorch manual, and every refusal."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.torch import from_state_dict

pytestmark = pytest.mark.filterwarnings("error")  # a guess that nobody asked for is an error


def torch_gru(x, w_ih, w_hh, b_ih, b_hh, h):
    """nn.GRU as its manual defines it, element by element: x (steps, I) to (steps, H)."""

    def sigma(v):
        return 1.0 / (1.0 + np.exp(-v))

    n = len(h)
    (w_ir, w_iz, w_in), (w_hr, w_hz, w_hn) = np.split(w_ih, 3), np.split(w_hh, 3)
    (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = np.split(b_ih, 3), np.split(b_hh, 3)
    out = np.zeros((len(x), n))
    for t, v in enumerate(x):
        reset = sigma(w_ir @ v + b_ir + w_hr @ h + b_hr)
        update = sigma(w_iz @ v + b_iz + w_hz @ h + b_hz)
        new = np.tanh(w_in @ v + b_in + reset * (w_hn @ h + b_hn))
        h = (1 - update) * new + update * h
        out[t] = h
    return out


def gru_state(rng, inputs, units, layers=1, prefix="", suffix=True):
    """The state_dict of an nn.GRU (or, without suffix, nn.GRUCell)."""
    state = {}
    for i in range(layers):
        end = f"_l{i}" if suffix else ""
        size = inputs if i == 0 else units
        state[f"{prefix}weight_ih{end}"] = rng.normal(size=(3 * units, size)) * 0.7
        state[f"{prefix}weight_hh{end}"] = rng.normal(size=(3 * units, units)) * 0.7
        state[f"{prefix}bias_ih{end}"] = rng.normal(size=3 * units)
        state[f"{prefix}bias_hh{end}"] = rng.normal(size=3 * units)
    return state


def linear_state(rng, inputs, units, prefix):
    return {
        f"{prefix}.weight": rng.normal(size=(units, inputs)),
        f"{prefix}.bias": rng.normal(size=units),
    }


def run_gru(state, x, layers=1, prefix="", suffix=True):
    for i in range(layers):
        end = f"_l{i}" if suffix else ""
        parts = (f"{prefix}{n}{end}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        arrays = [state[p] for p in parts]
        x = torch_gru(x, *arrays, np.zeros(arrays[1].shape[1]))
    return x


LAYERS = [("relu", "fc_in"), ("gru", "rnn"), ("sigmoid", "fc_out")]


def network(rng):
    """fc_in 3->5 relu, two GRU layers of 4, fc_out 4->2 sigmoid; and its function."""
    state = {
        **linear_state(rng, 3, 5, "fc_in"),
        **gru_state(rng, 5, 4, 2, "rnn."),
        **linear_state(rng, 4, 2, "fc_out"),
    }

    def function(x):
        x = np.maximum(x @ state["fc_in.weight"].T + state["fc_in.bias"], 0)
        x = run_gru(state, x, 2, "rnn.")
        return 1 / (1 + np.exp(-(x @ state["fc_out.weight"].T + state["fc_out.bias"])))

    return state, function


def refused(state, message, layers=None):
    with pytest.raises(StillnetError) as error:
        from_state_dict(state, layers)
    assert re.fullmatch(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def file_refused(path, message, **more):
    with pytest.raises(StillnetError) as error:
        load_model(path, **more)
    assert re.fullmatch(message, str(error.value)), str(error.value)


# -- state_dict -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 3),
    st.integers(1, 30),
    st.sampled_from(["", "rnn.", "module.net.0.gru."]),
    st.integers(0, 9999),
)
def test_gru_matches_the_manual(inputs, units, layers, steps, prefix, seed):
    rng = np.random.default_rng(seed)
    state = gru_state(rng, inputs, units, layers, prefix)
    model = from_state_dict(state)
    assert [layer.cell for layer in model.layers] == ["gru"] * layers
    x = rng.normal(size=(steps, inputs))
    np.testing.assert_allclose(model.run(x), run_gru(state, x, layers, prefix), atol=1e-11)


@pytest.mark.parametrize("broken", ["order", "b_hn", "swap"])
def test_the_comparison_sees_a_wrong_gate(broken):
    """Swapped gates, a lost b_hn, swapped biases: seen by the comparison above."""
    rng = np.random.default_rng(1)
    state = gru_state(rng, 3, 4)
    wrong = {k: v.copy() for k, v in state.items()}
    if broken == "order":
        for v in wrong.values():
            v[:4], v[4:8] = v[4:8].copy(), v[:4].copy()
    elif broken == "b_hn":
        wrong["bias_hh_l0"][8:] = 0
    else:
        wrong["bias_ih_l0"], wrong["bias_hh_l0"] = state["bias_hh_l0"], state["bias_ih_l0"]
    x = rng.normal(size=(20, 3))
    assert np.abs(from_state_dict(wrong).run(x) - run_gru(state, x)).max() > 1e-2


def test_gru_cell_and_missing_biases():
    rng = np.random.default_rng(2)
    state = gru_state(rng, 3, 4, prefix="cell.", suffix=False)
    x = rng.normal(size=(9, 3))
    model = from_state_dict(state)
    assert model.layers[0].name == "cell"
    np.testing.assert_allclose(model.run(x), run_gru(state, x, 1, "cell.", False), atol=1e-12)
    for key in ("cell.bias_ih", "cell.bias_hh"):
        state[key] = np.zeros(12)
    expected = run_gru(state, x, 1, "cell.", False)
    del state["cell.bias_ih"], state["cell.bias_hh"]
    np.testing.assert_allclose(from_state_dict(state).run(x), expected, atol=1e-12)


def test_network_with_layers_given():
    rng = np.random.default_rng(3)
    state, function = network(rng)
    shuffled = dict(sorted(state.items(), reverse=True))
    model = from_state_dict(shuffled, LAYERS, name="net")
    assert (model.name, model.inputs, model.outputs) == ("net", 3, 2)
    assert [layer.name for layer in model.layers] == ["fc_in", "rnn.l0", "rnn.l1", "fc_out"]
    assert [layer.cell for layer in model.layers] == ["relu", "gru", "gru", "sigmoid"]
    x = rng.normal(size=(15, 3))
    np.testing.assert_allclose(model.run(x), function(x), atol=1e-11)


def test_guessed_order_and_activations_are_reported():
    state, _ = network(np.random.default_rng(4))
    message = (
        r"^the order of the modules is guessed: fc_in, rnn, fc_out; activations are not part of a "
        r"state_dict: none after fc_in, fc_out; give layers=\[\('linear', 'fc_in'\), "
        r"\('gru', 'rnn'\), \('linear', 'fc_out'\)\], and check the result .* with --expect Y.npy, "
        r"as a state_dict does not tell skip connections either$"
    )
    with pytest.warns(UserWarning, match=message):
        model = from_state_dict(state)
    assert [layer.cell for layer in model.layers] == ["linear", "gru", "gru", "linear"]
    with pytest.warns(UserWarning, match=r"^activations are not part .*: none after linear; "):
        lone = from_state_dict({"weight": np.ones((2, 3))})
    assert lone.layers[0].cell == "linear"


def test_tensors_left_out_are_reported():
    state, _ = network(np.random.default_rng(5))
    message = r"^2 tensors belong to no module of layers and are left out: fc_out.weight, fc_out.b"
    with pytest.warns(UserWarning, match=message):
        model = from_state_dict(state, LAYERS[:2])
    assert model.outputs == 4


def test_more_than_ten_stacked_layers_keep_their_order():
    rng = np.random.default_rng(6)
    state = gru_state(rng, 2, 2, 11)
    x = rng.normal(size=(5, 2))
    ordered = {k: state[k] for k in sorted(state)}  # l0, l1, l10, l2, ...
    np.testing.assert_allclose(from_state_dict(ordered).run(x), run_gru(state, x, 11), atol=1e-11)


class Tensor:
    """As much of a torch.Tensor as an import may touch: it must detach before numpy()."""

    def __init__(self, value, detached=False, floating=True):
        self.value, self.detached, self.floating = value, detached, floating
        self.shape, self.dtype = value.shape, f"torch.{value.dtype}"

    def is_floating_point(self):
        return self.floating

    def detach(self):
        return Tensor(self.value, True)

    def cpu(self):
        return self

    def double(self):
        return Tensor(self.value.astype(np.float64), self.detached)

    def numpy(self):
        if not self.detached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.value


def test_tensors_of_torch():
    state, function = network(np.random.default_rng(7))
    tensors = {k: Tensor(v.astype(np.float32)) for k, v in state.items()}
    x = np.random.default_rng(8).normal(size=(6, 3))
    np.testing.assert_allclose(from_state_dict(tensors, LAYERS).run(x), function(x), atol=1e-5)
    tensors["fc_in.weight"] = Tensor(np.ones((5, 3), np.int8), floating=False)
    refused(
        tensors,
        r"tensor 'fc_in.weight': its elements are torch.int8; float weights are needed",
        LAYERS,
    )


def gru_with(**more):
    return gru_state(np.random.default_rng(0), 3, 4, prefix="rnn.") | {
        f"rnn.{k}": v for k, v in more.items()
    }


ONE = np.ones((2, 3))
REFUSALS = {
    "empty": ({}, r"the state_dict is empty: save module.state_dict\(\) of a trained model"),
    "no mapping": ([1], r"the state_dict is a list, not a mapping of names to tensors: pass .*"),
    "no name": ({3: ONE}, r"the state_dict has the key 3, which is no name: pass .*"),
    "bidirectional": (
        gru_with(weight_ih_l0_reverse=np.ones((12, 3))),
        r"tensor 'rnn.weight_ih_l0_reverse': bidirectional layers are not supported, .*forward GRU",
    ),
    "projection": (
        gru_with(weight_hr_l0=np.ones((2, 4))),
        r"tensor 'rnn.weight_hr_l0': proj_size is not supported; train without projection",
    ),
    "rnn": (
        {"rnn.weight_ih_l0": np.ones((4, 3)), "rnn.weight_hh_l0": np.ones((4, 4))},
        r"tensor 'rnn.weight_hh_l0': its shape \(4, 4\) is that of a plain RNN, GRU layers have "
        r"\(3\*H, H\); only GRU and LSTM layers are supported",
    ),
    "no gru": (
        {"rnn.weight_ih_l0": np.ones((4, 3)), "rnn.weight_hh_l0": np.ones((9, 4))},
        r"tensor 'rnn.weight_hh_l0': its shape \(9, 4\) is that of no GRU or LSTM, GRU layers .*",
    ),
    "missing matrix": (
        {"rnn.weight_ih_l0": np.ones((12, 3))},
        r"tensor 'rnn.weight_hh_l0': it is missing; save the whole state_dict",
    ),
    "missing layer": (
        gru_with(weight_ih_l2=np.ones((12, 4))),
        r"tensor 'rnn.weight_ih_l1': it is missing; save the whole state_dict",
    ),
    "flat matrix": (
        {"rnn.weight_ih_l0": np.ones(12), "rnn.weight_hh_l0": np.ones((12, 4))},
        r"tensor 'rnn.weight_ih_l0': it has shape \(12,\), a matrix .* is needed; .*",
    ),
    "norm": (
        {"norm.weight": np.ones(4), "norm.bias": np.ones(4)},
        r"tensor 'norm.weight': of shape \(4,\), it belongs to no nn.GRU, .*with layers, or "
        r"export the model as ONNX, which has all of it",
    ),
    "conv of two axes": (
        {"conv.weight": np.ones((4, 3, 3, 1))},
        r"tensor 'conv.weight': of shape \(4, 3, 3, 1\), it belongs to no .* \(a convolution "
        r"over two axes: only its source tells its strides and padding, so export .* as ONNX\)",
    ),
    "conv": (
        {"conv.bias": np.ones(4), "conv.weight": np.ones((4, 3, 3))},
        r"tensor 'conv.weight': of shape \(4, 3, 3\), it belongs to no nn.GRU, .*with layers "
        r"\(a convolution of 3 taps: only its source tells its padding, so export .* as ONNX\)",
    ),
    "buffer": (
        {"bn.num_batches_tracked": np.array(3)},
        r"tensor 'bn.num_batches_tracked': of shape \(\), it belongs to no nn.GRU, .*with layers, "
        r"or export .*",
    ),
    "bias alone": (
        {"fc.bias": np.ones(4)},
        r"tensor 'fc.bias': there is no 'fc.weight' with it; save the whole state_dict",
    ),
    "nan": (
        gru_with(bias_hh_l0=np.full(12, np.nan)),
        r"tensor 'rnn.bias_hh_l0': it holds NaN or infinity; train or export the model again",
    ),
    "integers": (
        gru_with(bias_hh_l0=np.arange(12)),
        r"tensor 'rnn.bias_hh_l0': its elements are int64; float weights are needed",
    ),
    "objects": (
        gru_with(bias_hh_l0=np.array(["a"] * 12)),
        r"tensor 'rnn.bias_hh_l0': its elements are <U1; float weights are needed",
    ),
    "short bias": (
        gru_with(bias_hh_l0=np.ones(4)),
        r"layer 'rnn': b_hh has shape \(4,\), expected \(12,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_state_dict_refused(case):
    refused(*REFUSALS[case])


def test_layers_that_do_not_fit_each_other_refused():
    rng = np.random.default_rng(0)
    state = {**linear_state(rng, 3, 5, "a"), **linear_state(rng, 4, 2, "b")}
    message = (
        r"layer 'b': it takes 4 inputs, the layer before it gives 5; list the modules in their "
        r"order, or, if it reads other vectors too \(a skip connection\), export .* as ONNX"
    )
    refused(state, message, [("relu", "a"), ("linear", "b")])


def test_a_table_that_was_taken_for_a_linear_layer_is_named():
    rng = np.random.default_rng(0)
    state = {"e.weight": rng.normal(size=(9, 4)), **linear_state(rng, 4, 2, "o")}
    with pytest.warns(UserWarning, match="the order of the modules is guessed: e, o"):
        refused(state, r".* if 'e' is an nn.Embedding, list it as embedding:e")


LIST_REFUSALS = [
    ([], r"layers is \[\]; give a list such as .*"),
    ("gru", r"layers is 'gru'; give a list such as .*"),
    ([("gru",)], r"layers holds \('gru',\); each entry is a kind and a prefix, as .*"),
    (["gru"], r"layers holds 'gru'; each entry is a kind and a prefix, as .*"),
    ([("rnn", "rnn")], r"layer 'rnn': kind 'rnn' is not supported; use gru, gru_inverted, .*"),
    (
        [("relu", "fc_in"), ("lstm", "rnn"), ("sigmoid", "fc_out")],
        r"tensor 'rnn.weight_hh_l0': its shape \(12, 4\) is that of a GRU, LSTM layers have "
        r"\(4\*H, H\); list it as 'gru'",
    ),
    (
        [("gru", "rn")],
        r"layer 'rn': the state_dict has no tensor 'rn.weight_ih_l0' for a gru layer; its modules "
        r"are 'fc_in', 'fc_out', 'rnn'",
    ),
    (
        [("relu", "rnn")],
        r"layer 'rnn': the state_dict has no tensor 'rnn.weight' for a relu layer; .*",
    ),
    (
        [("relu", "fc_in"), ("relu", "fc_in")],
        r"layer 'fc_in' is listed twice in layers: shared weights are not supported, list .*once",
    ),
]


@pytest.mark.parametrize("layers, message", LIST_REFUSALS)
def test_layer_list_refused(layers, message):
    refused(network(np.random.default_rng(0))[0], message, layers)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_safetensors_with_layers_in_the_metadata(tmp_path, dtype):
    rng = np.random.default_rng(9)
    state, _ = network(rng)
    state = {k: v.astype(dtype) for k, v in state.items()}
    path = tmp_path / "net.safetensors"
    save_file(state, path, metadata={"layers": json.dumps(LAYERS)})
    model = load_model(path)
    same = from_state_dict(state, LAYERS)
    assert [layer.cell for layer in model.layers] == ["relu", "gru", "gru", "sigmoid"]
    assert model.name == "net"
    x = rng.normal(size=(5, 3))
    np.testing.assert_array_equal(model.run(x), same.run(x))
    tanh = [*LAYERS[:2], ("tanh", "fc_out")]
    assert load_model(path, layers=tanh).layers[-1].cell == "tanh"  # the argument wins


def test_safetensors_without_layers_sorts_naturally(tmp_path):
    rng = np.random.default_rng(10)
    state = {k: v for i in (10, 2, 1) for k, v in linear_state(rng, 3, 3, f"fc{i}").items()}
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    with pytest.warns(UserWarning, match=r"^the order of the modules is guessed: fc1, fc2, fc10;"):
        assert [la.name for la in load_model(path).layers] == ["fc1", "fc2", "fc10"]


def test_safetensors_bfloat16(tmp_path):
    values = np.array([[1.0, -2.5, 0.15625]], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"weight": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    path = tmp_path / "bf16.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    model = load_model(path, layers=[("relu", "")])
    np.testing.assert_array_equal(model.layers[0].matrices[0].weight, values[None])


def test_safetensors_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a": np.ones(3, np.int8)}, path, metadata={"stillnet": "1"})
    file_refused(
        path,
        r"file '.*net.safetensors' is a network that stillnet has quantized already: use it with "
        r"'stillnet run' or 'stillnet pack', or import the model it was made from",
    )
    save_file({"a.weight": np.ones((2, 3), np.int8)}, path)
    file_refused(
        path,
        r"tensor 'a.weight': its elements are int8; float weights are needed",
        layers=[("linear", "a")],
    )
    text = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0")
    file_refused(path, r"tensor 'a' has elements of type F8_E4M3; weights are needed as F64, .*")
    save_file({"a.weight": np.ones((2, 3))}, path, metadata={"layers": "[[gru"})
    file_refused(path, r"file '.*': its metadata key 'layers' is not JSON \(.*\): write it as .*")
    save_file({"a.weight": np.ones((2, 3))}, path, metadata={"layers": '{"gru": "a"}'})
    file_refused(path, r"layers is \{'gru': 'a'\}; give a list such as .*")
    data = path.read_bytes()
    cut = r"file '.*' is not a safetensors file, or is cut short \(.*\): save or copy it again"
    for size in (1, 7, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        file_refused(path, cut)
    path.write_bytes(b"text, but named .safetensors\n")
    file_refused(path, cut)
    path.write_bytes(b"")
    file_refused(path, r"file '.*' is empty: save or copy the model again")
    path.unlink()
    file_refused(path, r"file '.*' cannot be read \(No such file or directory\): check the path")


def test_npz_keeps_its_order(tmp_path):
    state, function = network(np.random.default_rng(11))
    path = tmp_path / "net.npz"
    np.savez(path, **state)
    x = np.random.default_rng(12).normal(size=(5, 3))
    np.testing.assert_allclose(load_model(path, layers=LAYERS).run(x), function(x), atol=1e-11)
    with pytest.warns(UserWarning, match=r"guessed: fc_in, rnn, fc_out;"):
        assert len(load_model(path).layers) == 4
    renamed = path.rename(tmp_path / "weights.bin")  # known by its content
    assert load_model(renamed, layers=LAYERS).outputs == 2


def test_npz_refused(tmp_path):
    path = tmp_path / "net.npz"
    message = r"file '.*' is not an .npz file of plain arrays, or is cut short \(.*\): save .*"
    np.savez(path, weight=np.ones((200, 3)))
    data = path.read_bytes()
    version = data.rfind(b"PK\x01\x02") + 6
    newer = data[:version] + b"\xff" + data[version + 1 :]
    for broken in (newer, data[:-30], data[:300], data[:300] + b"\xff" * 40 + data[340:], b"text"):
        path.write_bytes(broken)
        file_refused(path, message, layers=[("relu", "")])
    np.savez(path, weight=np.array([None]))
    file_refused(path, message)
    with path.open("wb") as file:
        np.save(file, np.ones((2, 3)))
    file_refused(path, message)


def test_unknown_files_refused(tmp_path):
    path = tmp_path / "net.xyz"
    path.write_bytes(b"something else")
    file_refused(
        path, r"file '.*net.xyz' has the extension '.xyz' and no known content: give a .onnx, .*"
    )
    for suffix, hint in {".pb": "tf2onnx", ".tflite": "tf2onnx", ".npy": "savez"}.items():
        path = path.rename(path.with_suffix(suffix))
        file_refused(path, rf"file '.*net{suffix}' cannot be imported: .*{hint}.*")


@pytest.mark.torch
def test_pt_of_the_real_torch(tmp_path):
    import torch

    rnn = torch.nn.GRU(3, 4, num_layers=2)
    path = tmp_path / "net.pt"
    torch.save({"rnn." + k: v for k, v in rnn.state_dict().items()}, path)
    x = np.random.default_rng(14).normal(size=(20, 3))
    with torch.no_grad():
        expected = rnn(torch.tensor(x, dtype=torch.float32))[0].numpy()
    np.testing.assert_allclose(load_model(path).run(x), expected, atol=1e-5)
