"""Checkpoints as training code saves them: where the weights lie, and what tools did to them."""

import re
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.torch import from_state_dict
from tests.support.torch_files import a_class, save_torch
from tests.sw.importers.test_import_torch import LAYERS, gru_state, linear_state, network

pytestmark = pytest.mark.filterwarnings("error")

FORMS = ("zip", "legacy")


def refused(path, message, **more):
    with pytest.raises(StillnetError) as error:
        load_model(path, **more)
    assert re.fullmatch(message, str(error.value)), str(error.value)


def parts(dtype=np.float32):
    rng = np.random.default_rng(13)
    state, function = network(rng)
    return {k: v.astype(dtype) for k, v in state.items()}, function, rng.normal(size=(9, 3))


# -- files of torch.save --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_both_forms_of_file(tmp_path, form, dtype):
    state, function, x = parts(dtype)
    path = save_torch(tmp_path / "net.pt", OrderedDict(state), form)
    exact = from_state_dict({k: v.astype(float) for k, v in state.items()}, LAYERS)
    np.testing.assert_array_equal(load_model(path, layers=LAYERS).run(x), exact.run(x))
    other = path.rename(tmp_path / "weights.bin")  # known by its content
    assert load_model(other, layers=LAYERS).name == "weights"
    assert "torch" not in sys.modules


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_and_transposed_storage(tmp_path, form):
    weight = np.array([[1.0, -2.5, 0.15625], [3.0, 0.5, -0.25]], np.float32)
    half = (weight.view(np.uint32) >> 16).astype(np.uint16)
    path = save_torch(tmp_path / "net.pt", {"weight": np.asfortranarray(half)}, form)
    found = load_model(path, layers=[("linear", "")])
    np.testing.assert_array_equal(found.layers[0].matrices[0].weight[0], weight)


def test_a_tensor_of_a_class_of_its_own():
    """As torch.Tensor's subclasses are written: the function, the class, its arguments."""
    from stillnet.sw.importers import pt_file
    from stillnet.sw.importers.safe_pickle import Name, Thing

    call = pt_file.FUNCTIONS["torch._tensor._rebuild_from_type_v2"]
    storage = pt_file.Storage("Float", "0", 6)
    arguments = (storage, 0, (2, 3), (3, 1), False, {})
    found = call(Name("torch._utils._rebuild_tensor_v2"), Name("my.Tensor"), arguments, None)
    assert isinstance(found, pt_file.Tensor) and found.shape == (2, 3)
    other = call(Name("my.function"), Name("my.Tensor"), arguments, None)
    assert isinstance(other, Thing) and other.kind == "my.Tensor"


WRAPPED = {
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "lr": 1e-3, "best": None},
    "model_state": lambda s: {"step": 7, "model_state": s, "optimizer_state": {"exp_avg": dict(s)}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": np.array(0.5, np.float32)},
    "net": lambda s: {"net": s, "optim": [{"m": np.ones((4, 4), np.float32)}]},
    "generator": lambda s: {"generator": s},
    "deep": lambda s: {"ckpt": {"weights": {"inner": s}}},
    "scalars beside": lambda s: {**s, "epoch": 3, "name": "mine", "args": a_class("a", "B")()},
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "lightning": lambda s: {
        "state_dict": {f"model.{k}": v for k, v in s.items()},
        "hyper_parameters": a_class("lightning.thing", "AttributeDict")(),
        "callbacks": {"x": a_class("my.code", "Callback")()},
        "pytorch-lightning_version": "2.1",
    },
    "compiled in part": lambda s: {k.replace("rnn.", "rnn._orig_mod."): v for k, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", WRAPPED)
def test_checkpoints(tmp_path, case, form):
    state, function, x = parts()
    path = save_torch(tmp_path / "net.ckpt", WRAPPED[case](state), form)
    found = load_model(path, layers=LAYERS).run(x)
    np.testing.assert_allclose(found, function(x), atol=1e-5)


def test_prefixes_may_be_given_or_left_out(tmp_path):
    state, function, x = parts()
    path = save_torch(tmp_path / "net.pt", {f"module.{k}": v for k, v in state.items()})
    named = [(kind, f"module.{prefix}") for kind, prefix in LAYERS]
    np.testing.assert_array_equal(
        load_model(path, layers=named).run(x), load_model(path, layers=LAYERS).run(x)
    )


def test_one_of_several_sets_of_weights_is_named(tmp_path):
    state, function, x = parts()
    other = {k: v * 2 for k, v in state.items()}
    path = save_torch(tmp_path / "net.pt", {"ema": other, "model": state})
    with pytest.warns(UserWarning, match="sets of weights: 'model', 'ema'; 'model' is read; to"):
        found = load_model(path, layers=LAYERS)
    np.testing.assert_allclose(found.run(x), function(x), atol=1e-5)


def module(state, kind="Net"):
    """A module that was pickled whole, with modules inside."""
    modules: dict = {}
    for key, value in state.items():
        prefix, _, name = key.rpartition(".")
        modules.setdefault(prefix, {})[name] = value
    inner = {}
    for prefix, parameters in modules.items():
        inner[prefix] = a_class("torch.nn", "GRU" if prefix == "rnn" else "Linear")()
        inner[prefix].__dict__ = {"_parameters": parameters, "_buffers": {}, "_modules": {}}
    net = a_class("__main__", kind)()
    net.__dict__ = {"_parameters": {"gone": None}, "_buffers": {}, "_modules": inner}
    return net


@pytest.mark.parametrize("form", FORMS)
def test_a_pickled_module_is_read_without_its_class(tmp_path, form):
    state, function, x = parts()
    for value in (module(state), {"epoch": 1, "model": module(state)}):
        path = save_torch(tmp_path / "net.pt", value, form)
        found = load_model(path, layers=LAYERS).run(x)
        np.testing.assert_allclose(found, function(x), atol=1e-5)


NOTHING_THERE = {
    "object": (
        lambda: a_class("my.code", "Trainer")(),
        "an object of the class 'my.code.Trainer' whose weights cannot be seen",
    ),
    "object inside": (
        lambda: {"epoch": 1, "model": a_class("my.code", "Net")()},
        "an object of the class 'my.code.Net' under 'model', and no weights",
    ),
    "numbers": (lambda: {"epoch": 1, "loss": 0.5}, "no weights, only the keys 'epoch', 'loss'"),
    "nothing": (dict, "an empty dictionary"),
    "tensor": (lambda: np.ones((2, 3), np.float32), r"one tensor of shape \(2, 3\)"),
    "list": (lambda: [1, 2], "a list and no weights"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", NOTHING_THERE)
def test_files_without_weights_say_what_they_hold(tmp_path, case, form):
    make, what = NOTHING_THERE[case]
    path = save_torch(tmp_path / "net.pt", make(), form)
    refused(
        path,
        rf"file '.*net.pt' holds {what}; where its classes are installed, m = torch.load\('net.pt'"
        r", weights_only=False\), then torch.save\(m.state_dict\(\), 'net_weights.pt'\), and give "
        r"that file",
    )


def test_no_function_of_the_file_is_called(tmp_path):
    place = tmp_path / "written"

    class Evil:
        def __reduce__(self):
            return open, (str(place), "w")

    state, _, _ = parts()
    for form in FORMS:
        path = save_torch(tmp_path / "net.pt", {**state, "evil": Evil()}, form)
        assert load_model(path, layers=LAYERS).outputs == 2
        assert not place.exists()


def test_torchscript_is_refused_with_the_two_lines(tmp_path):
    state, _, _ = parts()
    path = save_torch(tmp_path / "net.pt", state, extra={"constants.pkl": b"", "code/a.py": b""})
    refused(
        path,
        r"file '.*net.pt' is a TorchScript archive, which holds code: with PyTorch, "
        r"m = torch.jit.load\('net.pt'\), then torch.save\(m.state_dict\(\), 'net_weights.pt'\), "
        r"and give that file",
    )


@pytest.mark.parametrize("form", FORMS)
def test_cut_files_are_refused(tmp_path, form):
    state, _, _ = parts()
    path = save_torch(tmp_path / "net.pt", state, form)
    data = path.read_bytes()
    message = (
        r"file '.*net.pt' is not a file of torch.save, or is cut short \(.*\): save it with "
        r"torch.save\(module.state_dict\(\), path\)"
    )
    for size in (9, 40, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:size])
        refused(path, message, layers=LAYERS)


# -- what training tools leave in a state_dict ----------------------------------------------------


def masked(rng, state, *names):
    pairs = dict(state)
    for name in names:
        weight = pairs.pop(name)
        mask = (rng.random(weight.shape) < 0.5).astype(np.float32)
        pairs |= {f"{name}_orig": weight, f"{name}_mask": mask}
        state[name] = weight * mask
    return pairs


def test_pruned_weights_keep_their_zeros():
    rng = np.random.default_rng(0)
    state, function = network(rng)
    names = ("rnn.weight_hh_l0", "rnn.weight_ih_l1", "fc_in.weight", "fc_out.bias")
    pairs = masked(rng, state, *names)
    x = rng.normal(size=(9, 3))
    model = from_state_dict(pairs, LAYERS)
    np.testing.assert_allclose(model.run(x), function(x), atol=1e-11)
    assert np.mean(model.layers[0].matrices[0].weight == 0) > 0.2
    unmasked = {k.removesuffix("_orig"): v for k, v in pairs.items() if not k.endswith("_mask")}
    assert np.abs(from_state_dict(unmasked, LAYERS).run(x) - function(x)).max() > 1e-3


@pytest.mark.parametrize("form", ["g and v", "parametrized"])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_norm(form, axis):
    rng = np.random.default_rng(1)
    state, function = network(rng)
    pairs = dict(state)
    for name in ("fc_in.weight", "rnn.weight_hh_l0"):
        v = pairs.pop(name)
        norm = np.linalg.norm(v, axis=None if axis is None else 1 - axis, keepdims=axis is not None)
        g = norm * rng.uniform(0.5, 2, np.shape(norm))
        state[name] = g * v / norm
        module, _, last = name.rpartition(".")
        stem = f"{module}.parametrizations.{last}.original"
        keys = (f"{name}_g", f"{name}_v") if form == "g and v" else (f"{stem}0", f"{stem}1")
        pairs |= dict(zip(keys, (np.asarray(g), v)))
    x = rng.normal(size=(9, 3))
    np.testing.assert_allclose(from_state_dict(pairs, LAYERS).run(x), function(x), atol=1e-11)


def test_a_convolution_of_kernel_1_is_a_linear_layer():
    rng = np.random.default_rng(2)
    state, function = network(rng)
    x = rng.normal(size=(9, 3))
    expected = function(x)
    for shape in ((5, 3, 1), (5, 3, 1, 1)):
        conv = {**state, "fc_in.weight": state["fc_in.weight"].reshape(shape)}
        np.testing.assert_allclose(from_state_dict(conv, LAYERS).run(x), expected, atol=1e-11)
    with pytest.warns(UserWarning, match="is guessed: fc_in, rnn, fc_out;"):
        assert from_state_dict(conv).layers[0].cell == "linear"


W = np.ones((4, 3))
LEFTOVERS = {
    "mask alone": ({"a.weight_mask": W}, r"tensor 'a.weight_mask': there is no 'a.weight_orig' .*"),
    "mask of another shape": (
        {"a.weight_orig": W, "a.weight_mask": np.ones((4, 4))},
        r"tensor 'a.weight_mask': it has shape \(4, 4\), not \(4, 3\) of 'a.weight_orig'",
    ),
    "half of weight norm": ({"a.weight_g": W}, r"tensor 'a.weight_g': there is no 'a.weight_v' .*"),
    "lengths that do not fit": (
        {"a.weight_g": np.ones((3, 1)), "a.weight_v": W},
        r"tensor 'a.weight_g': its shape \(3, 1\) does not fit \(4, 3\) of 'a.weight_v'",
    ),
    "no direction": (
        {"a.weight_g": np.ones((4, 1)), "a.weight_v": W * 0},
        r"tensor 'a.weight_v': a row of it is zero, which has no direction; train it again",
    ),
    "spectral norm": (
        {"a.weight_orig": W, "a.weight_u": np.ones(4), "a.weight_v": np.ones(3)},
        r"tensor 'a.weight_orig': it belongs to spectral_norm, .* "
        r"torch.nn.utils.remove_spectral_norm\(module, 'weight'\)",
    ),
    "parametrized spectral norm": (
        {
            "a.parametrizations.weight.original": W,
            "a.parametrizations.weight.0._u": np.ones(4),
        },
        r"tensor 'a.parametrizations.weight.original': it belongs to a parametrisation that is not "
        r"weight_norm; before saving, call .*remove_parametrizations\(module, 'weight'\)",
    ),
}


@pytest.mark.parametrize("case", LEFTOVERS)
def test_leftovers_refused(case):
    state, message = LEFTOVERS[case]
    with pytest.raises(StillnetError) as error:
        from_state_dict(state, [("linear", "a")])
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_a_guess_that_leaves_tensors_out_asks_for_expect():
    rng = np.random.default_rng(3)
    state = {"scale": np.ones(1), "count": np.array(3), **gru_state(rng, 3, 4, prefix="rnn.")}
    message = (
        r"^tensors that no layer has are left out: scale, count; give layers=\[\('gru', 'rnn'\)\], "
        r"and check the result against .* with --expect Y.npy, as .* skip connections either$"
    )
    with pytest.warns(UserWarning, match=message):
        from_state_dict(state)
    more = {**state, **linear_state(rng, 4, 2, "fc")}
    with pytest.warns(UserWarning, match=r"^4 tensors belong to no module .* --expect Y.npy"):
        from_state_dict(more, [("gru", "rnn")])


def test_reset_of_the_grus_of_a_state_dict():
    state = gru_state(np.random.default_rng(4), 3, 4, prefix="rnn.")
    x = np.random.default_rng(5).normal(size=(9, 3))
    after, before, named = (
        from_state_dict(state, [(kind, "rnn")], gru_reset=reset).run(x)
        for kind, reset in (("gru", "after"), ("gru", "before"), ("gru_before", None))
    )
    np.testing.assert_array_equal(before, named)
    assert np.abs(after - before).max() > 1e-3


def test_flat_names_of_arrays(tmp_path: Path) -> None:
    """As of g2p-en: two GRUs behind embeddings in one file, one of which is chosen."""
    rng = np.random.default_rng(4)
    arrays = {
        "enc_emb": rng.normal(size=(9, 6)),
        "enc_w_ih": rng.normal(size=(15, 6)),
        "enc_w_hh": rng.normal(size=(15, 5)),
        "enc_b_ih": rng.normal(size=15),
        "enc_b_hh": rng.normal(size=15),
        "fc_w": rng.normal(size=(3, 5)),
        "fc_b": rng.normal(size=3),
        "dec_emb": rng.normal(size=(7, 6)),
    }
    path = tmp_path / "flat.npz"
    np.savez(path, **arrays)
    layers = [("embedding", "enc_emb"), ("gru", "enc"), ("linear", "fc")]
    with pytest.warns(UserWarning, match="dec_emb.weight"):
        flat = load_model(path, layers=layers)
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0"}
    names["b_hh"] = "bias_hh_l0"
    dotted = {f"enc.{new}": arrays[f"enc_{old}"] for old, new in names.items()}
    dotted |= {"enc_emb.weight": arrays["enc_emb"], "fc.weight": arrays["fc_w"]}
    np.savez(tmp_path / "dotted.npz", **dotted, **{"fc.bias": arrays["fc_b"]})
    wanted = load_model(tmp_path / "dotted.npz", layers=layers)
    assert flat.one_hot and flat.inputs == 9
    tokens = np.array([1, 8, 0, 3])
    np.testing.assert_array_equal(flat.run(tokens), wanted.run(tokens))
