"""S5 stacks from the documented layout and two code bases' names, against complex arithmetic."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.s5 import S5Options, from_s5, save_s5
from stillnet.sw.importers.s5_names import s5_from_jax, s5_from_torch


def complex_of(a):
    return a[..., 0] + 1j * a[..., 1]


def oracle(x, s, options, blocks):
    """The stack as the papers define it, one step at a time, nothing folded."""
    carried = [np.zeros(len(s[f"blocks.{n}.lam"]), complex) for n in range(blocks)]
    out = []
    for row in x:
        v = s["encoder.weight"] @ row + s.get("encoder.bias", 0.0)
        for n in range(blocks):

            def p(name, default=None, n=n):
                return s.get(f"blocks.{n}.{name}", default)

            lam, b, c = complex_of(p("lam")), complex_of(p("b")), complex_of(p("c"))
            if options.method == "discrete":
                factor = p("factor")
                bar, gain = lam, 1.0 if factor is None else complex_of(factor)
            else:
                if options.clip_eigenvalues:
                    lam = np.clip(lam.real, None, -1e-4) + 1j * lam.imag
                dt = np.exp(p("log_step")) * options.step_scale
                if options.method == "zoh":
                    bar = np.exp(lam * dt)
                    gain = (bar - 1) / lam
                else:
                    bar = (1 + lam * dt / 2) / (1 - lam * dt / 2)
                    gain = dt / (1 - lam * dt / 2)
            u = v
            if p("norm.mean") is not None:
                u = (v - p("norm.mean")) / np.sqrt(p("norm.variance") + options.epsilon)
                u = u * p("norm.weight", 1.0) + p("norm.bias", 0.0)
            h = carried[n] = bar * carried[n] + np.reshape(gain, (-1, 1)) * b @ u
            passes = (h.real > 0) | ((h.real == 0) & (h.imag > 0))
            y = (2 if options.conjugate else 1) * (c @ np.where(passes, h, 0)).real + p("d") * u
            x1 = np.maximum(y, 0)
            gate = 1 / (1 + np.exp(-(p("glu.weight") @ x1 + p("glu.bias", 0.0))))
            v = np.maximum(x1 * gate + v, 0)
        if "decoder.weight" in s:
            v = s["decoder.weight"] @ v + s.get("decoder.bias", 0.0)
        out.append(v)
    return np.array(out)


def stack(rng, inputs, width, states, blocks, *, norm=True, bias=True, factor=False, out=3):
    """Random tensors in the layout; eigenvalues in the left half plane, or inside the circle."""
    s = {"encoder.weight": rng.normal(size=(width, inputs))}
    if bias:
        s["encoder.bias"] = rng.normal(size=width)
    for n in range(blocks):
        shapes = {"b": (states, width, 2), "c": (width, states, 2), "d": (width,)}
        part = {k: rng.normal(size=v) / np.sqrt(width) for k, v in shapes.items()}
        if factor:
            part["lam"] = rng.uniform(-0.6, 0.6, (states, 2))
            part["factor"] = rng.normal(size=(states, 2))
        else:
            part["lam"] = np.stack([-rng.uniform(0.1, 2, states), rng.normal(size=states)], -1)
            part["log_step"] = rng.uniform(-3, -1, states)
        part["glu.weight"] = rng.normal(size=(width, width)) / np.sqrt(width)
        if bias:
            part["glu.bias"] = rng.normal(size=width)
        if norm:
            part["norm.mean"] = rng.normal(size=width)
            part["norm.variance"] = rng.uniform(0.2, 2, width)
            if bias:
                part["norm.weight"] = rng.normal(size=width)
                part["norm.bias"] = rng.normal(size=width)
        s |= {f"blocks.{n}.{k}": v for k, v in part.items()}
    if out:
        s["decoder.weight"] = rng.normal(size=(out, width))
        if bias:
            s["decoder.bias"] = rng.normal(size=out)
    return s


def refused(state, message, options=None):
    with pytest.raises(StillnetError) as error:
        from_s5(state, options)
    assert re.fullmatch(message, str(error.value)), str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 3),
    st.sampled_from(["zoh", "bilinear", "discrete"]),
    st.tuples(*[st.booleans()] * 5),
    st.integers(0, 9999),
)
def test_layout_matches_complex_arithmetic(inputs, width, states, blocks, method, flags, seed):
    rng = np.random.default_rng(seed)
    norm, bias, conjugate, clip, decoder = flags
    factor = method == "discrete"
    out = 3 if decoder else 0
    s = stack(rng, inputs, width, states, blocks, norm=norm, bias=bias, factor=factor, out=out)
    options = S5Options(
        method=method,
        conjugate=conjugate,
        clip_eigenvalues=clip and not factor,
        step_scale=1.0 if factor else rng.uniform(0.5, 2),
        epsilon=1e-3,
    )
    if clip and not factor:
        s["blocks.0.lam"][0, 0] = 0.3  # would grow
    x = rng.normal(size=(15, inputs))
    expected = oracle(x, s, options, blocks)
    model = from_s5(s, options)
    np.testing.assert_allclose(model.run(x), expected, rtol=1e-9, atol=1e-9)
    names = [layer.cell for layer in model.layers]
    block = ["s5_state", "s5_imag", "s5_output", "s5_glu"]
    assert names == ["s5_encoder", *block * blocks, *["linear"] * decoder]


@pytest.mark.parametrize("broken", ["conjugate", "method", "norm.mean", "d", "glu.bias", "lam"])
def test_the_comparison_sees_a_wrong_stack(broken):
    rng = np.random.default_rng(1)
    s = stack(rng, 3, 6, 5, 2)
    x = rng.normal(size=(20, 3))
    expected = oracle(x, s, S5Options(), 2)
    options = S5Options()
    if broken == "conjugate":
        options = S5Options(conjugate=False)
    elif broken == "method":
        options = S5Options(method="bilinear")
    else:
        s = {**s, f"blocks.1.{broken}": s[f"blocks.1.{broken}"] * 1.1}
    assert np.abs(from_s5(s, options).run(x) - expected).max() > 1e-4


def test_sparse_b_stays_sparse():
    """The factor of the discretisation and the normalisation are applied elsewhere."""
    rng = np.random.default_rng(2)
    s = stack(rng, 3, 6, 5, 1)
    kept = rng.random((5, 6, 1)) < 0.3
    s["blocks.0.b"] = s["blocks.0.b"] * kept
    model = from_s5(s)
    weight = model.layers[1].matrices[0].weight
    np.testing.assert_array_equal(weight[0] != 0, kept[:, :, 0])
    np.testing.assert_array_equal(weight[1] != 0, kept[:, :, 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_file_and_metadata(tmp_path, dtype):
    rng = np.random.default_rng(3)
    s = {k: v.astype(dtype) for k, v in stack(rng, 3, 6, 5, 2).items()}
    options = S5Options(method="bilinear", conjugate=False, step_scale=1.5)
    save_s5(tmp_path / "net.safetensors", s, options)
    model = load_model(tmp_path / "net.safetensors")
    assert model.name == "net"
    x = rng.normal(size=(10, 3))
    wide = {k: v.astype(float) for k, v in s.items()}
    np.testing.assert_allclose(model.run(x), oracle(x, wide, options, 2), rtol=1e-9, atol=1e-9)


# -- other names ----------------------------------------------------------------------------------


def jax_names(s, blocks):
    """The same tensors as the public S5 saves them: kernels (in, out), complex parts apart."""
    params = {
        "encoder": {
            "encoder": {"kernel": s["encoder.weight"].T, "bias": s["encoder.bias"]},
        },
        "decoder": {"kernel": s["decoder.weight"].T, "bias": s["decoder.bias"]},
    }
    stats = {"encoder": {}}
    for n in range(blocks):

        def p(name, n=n):
            return s[f"blocks.{n}.{name}"]

        params["encoder"][f"layers_{n}"] = {
            "seq": {
                "Lambda_re": p("lam")[:, 0],
                "Lambda_im": p("lam")[:, 1],
                "B": p("b"),
                "C": p("c"),
                "D": p("d"),
                "log_step": p("log_step")[:, None],
            },
            "out2": {"kernel": p("glu.weight").T, "bias": p("glu.bias")},
            "norm": {"scale": p("norm.weight"), "bias": p("norm.bias")},
        }
        stats["encoder"][f"layers_{n}"] = {
            "norm": {"mean": p("norm.mean"), "var": p("norm.variance")}
        }
    return params, stats


def flat(tree, separator, before=""):
    found = {}
    for key, value in tree.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found |= flat(value, separator, name + separator)
        else:
            found[name] = value
    return found


@pytest.mark.parametrize("form", ["nested", "/", "."])
def test_names_of_the_public_s5(form):
    s = stack(np.random.default_rng(4), 3, 6, 5, 2)
    params, stats = jax_names(s, 2)
    if form == "nested":
        got = s5_from_jax(params, stats)
    else:
        got = s5_from_jax(flat({"params": params, "batch_stats": stats}, form))
    assert got.keys() == s.keys()
    for key, value in s.items():
        np.testing.assert_array_equal(got[key], value)


def test_npz_of_the_public_s5_is_recognised_and_reported(tmp_path):
    rng = np.random.default_rng(5)
    s = stack(rng, 3, 6, 5, 2)
    params, stats = jax_names(s, 2)
    np.savez(tmp_path / "net.npz", **flat({"params": params, "batch_stats": stats}, "/"))
    message = r".*zero-order hold, conjugate pairs and ReLU are assumed; use s5_from_jax .*"
    with pytest.warns(UserWarning, match=message):
        model = load_model(tmp_path / "net.npz")
    x = rng.normal(size=(10, 3))
    np.testing.assert_allclose(model.run(x), oracle(x, s, S5Options(), 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_names_of_s5_pytorch(tmp_path, pairs, norm):
    """A stack of one's own around the package's modules: y without the factor of two."""
    rng = np.random.default_rng(6)
    s = stack(rng, 3, 6, 5, 2, norm=norm)
    state = {k: v for k, v in s.items() if not k.startswith("blocks")}
    for n in range(2):

        def p(name, n=n):
            return s[f"blocks.{n}.{name}"]

        of = f"net.{n}."
        state |= {
            f"{of}ssm.Lambda": p("lam") if pairs else complex_of(p("lam")),
            f"{of}ssm.B": p("b"),
            f"{of}ssm.C": p("c") if pairs else complex_of(p("c")).astype(np.complex64),
            f"{of}ssm.D": p("d"),
            f"{of}ssm.log_step": p("log_step")[:, None] if pairs else p("log_step"),
            f"{of}gate.weight": p("glu.weight"),
            f"{of}gate.bias": p("glu.bias"),
        }
        if norm:
            state |= {
                f"{of}bn.weight": p("norm.weight"),
                f"{of}bn.bias": p("norm.bias"),
                f"{of}bn.running_mean": p("norm.mean"),
                f"{of}bn.running_var": p("norm.variance"),
                f"{of}bn.num_batches_tracked": np.array(7),
            }
    names = {"ssm": "net.{}.ssm", "glu": "net.{}.gate", "norm": "net.{}.bn" if norm else None}
    got = s5_from_torch(state, **names)
    assert got.keys() == s.keys()
    for key, value in s.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-6)
    options = S5Options(conjugate=False)
    x = rng.normal(size=(10, 3))
    expected = oracle(x, got, options, 2)
    np.testing.assert_allclose(from_s5(got, options).run(x), expected, rtol=1e-9, atol=1e-9)


# -- refusals -------------------------------------------------------------------------------------

SMALL = stack(np.random.default_rng(7), 3, 4, 2, 1)


def changed(**more):
    """The small stack with tensors replaced; None removes. Dots are written as two underscores."""
    s = dict(SMALL)
    for key, value in more.items():
        key = key.replace("__", ".")
        if value is None:
            del s[key]
        else:
            s[key] = value
    return s


S5_REFUSALS = {
    "unknown": (
        changed(blocks__0__out1=np.ones(3)),
        r"tensor 'blocks.0.out1': it is not part of the S5 layout; see docs/import.md",
    ),
    "no encoder": (
        changed(encoder__weight=None),
        r"tensor 'encoder.weight': it is missing; an S5 stack begins with an encoder",
    ),
    "gap": (
        {k.replace("blocks.0", "blocks.1"): v for k, v in SMALL.items()},
        r"the S5 stack has the blocks \[1\]; they must be 0, 1, \.\.\. without a gap",
    ),
    "no block": (
        {k: v for k, v in SMALL.items() if "blocks" not in k},
        r"the S5 stack has the blocks \[\]; they must be 0, 1, \.\.\. without a gap",
    ),
    "missing part": (
        changed(blocks__0__c=None),
        r"tensor 'blocks.0.c': it is missing; save the whole stack",
    ),
    "shape": (
        changed(blocks__0__b=np.ones((2, 4))),
        r"tensor 'blocks.0.b': it has shape \(2, 4\), expected \(2, 4, 2\)",
    ),
    "vector": (
        changed(blocks__0__d=np.ones(3)),
        r"tensor 'blocks.0.d': it has shape \(3,\), expected \(4,\)",
    ),
    "decoder": (
        changed(decoder__weight=np.ones((3, 3))),
        r"tensor 'decoder.weight': it has shape \(3, 3\), expected \(n, 4\)",
    ),
    "factor": (
        changed(blocks__0__factor=np.ones((2, 2))),
        r"tensor 'blocks.0.factor': it has no use with the method 'zoh'; remove it",
    ),
    "variance": (
        changed(blocks__0__norm__variance=-np.ones(4)),
        r"tensor 'blocks.0.norm.variance': it has a negative element; save it again",
    ),
    "half a norm": (
        changed(blocks__0__norm__mean=None),
        r"tensor 'blocks.0.norm.mean': it is missing; save the whole stack",
    ),
    "nan": (
        changed(blocks__0__lam=np.full((2, 2), np.nan)),
        r"tensor 'blocks.0.lam': it holds NaN or infinity; train or export the model again",
    ),
}


@pytest.mark.parametrize("case", S5_REFUSALS)
def test_layout_refused(case):
    refused(*S5_REFUSALS[case])


def test_step_of_discrete_eigenvalues_refused():
    message = r"tensor 'blocks.0.log_step': it has no use with the method 'discrete'; remove it"
    refused(SMALL, message, S5Options(method="discrete"))


OPTION_REFUSALS = [
    ({"method": "dirac"}, r"S5 option method must be 'zoh', 'bilinear' or 'discrete', not 'dirac'"),
    ({"activation": "gelu"}, r"S5 option activation is 'gelu'; only 'relu' is supported, .*ReLU"),
    ({"prenorm": False}, r"S5 option prenorm is false; a normalisation after the skip .*prenorm"),
    ({"step_scale": 0.0}, r"S5 option step_scale must be positive, not 0.0"),
    ({"steps": 1}, r"metadata key 's5' has the option 'steps', which is not known; options are .*"),
]


@pytest.mark.parametrize("values, message", OPTION_REFUSALS)
def test_options_refused(tmp_path, values, message):
    path = tmp_path / "net.safetensors"
    save_file(SMALL, path, metadata={"s5": json.dumps(values)})
    with pytest.raises(StillnetError) as error:
        load_model(path)
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_metadata_that_is_no_json_refused(tmp_path):
    for text in ("{", "3"):
        save_file(SMALL, tmp_path / "net.safetensors", metadata={"s5": text})
        with pytest.raises(StillnetError, match=r"^metadata key 's5' is no JSON object \(.*\): .*"):
            load_model(tmp_path / "net.safetensors")


def test_a_file_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(StillnetError, match=r"^tensor 'blocks.0.c': it is missing"):
        save_s5(tmp_path / "net.safetensors", changed(blocks__0__c=None))
    assert not list(tmp_path.iterdir())


def test_names_of_the_public_s5_refused():
    params, stats = jax_names(SMALL, 1)

    def case(message, path=None, batch_stats=stats):
        tree = flat(params, "/")
        if path:
            tree[path] = np.ones(4)
        with pytest.raises(StillnetError) as error:
            s5_from_jax(tree, batch_stats)
        assert re.fullmatch(message, str(error.value)), str(error.value)

    case(
        r"tensor 'encoder.layers_0.seq.C1': the model is bidirectional; a stream has no end .*",
        "encoder/layers_0/seq/C1",
    )
    case(
        r"tensor 'encoder.layers_0.out1.kernel': a full GLU is not supported; .* half_glu1",
        "encoder/layers_0/out1/kernel",
    )
    case(r"tensor 'decoder_mu.x': it is no tensor of a supported S5 model", "decoder_mu/x")
    case(r"tensor 'encoder.layers_0.y': it is no tensor of a .* block", "encoder/layers_0/y")
    case(
        r"tensor 'encoder.layers_0.norm': it has no running mean: give batch_stats, or train .*",
        batch_stats={},
    )
    tree = flat(params, "/")
    del tree["encoder/layers_0/seq/Lambda_im"]
    with pytest.raises(StillnetError, match=r"^tensor 'encoder.layers_0.seq.Lambda_im': it is mis"):
        s5_from_jax(tree, stats)


def test_names_of_s5_pytorch_refused():
    state = {
        "encoder.weight": np.ones((4, 3)),
        "layers.0.s5.seq.Lambda": np.ones((2, 2)),
        "layers.0.s5.seq.B": np.ones((2, 4, 2)),
        "layers.0.s5.seq.C": np.ones((4, 2, 2)),
        "layers.0.s5.seq.D": np.ones(4),
        "layers.0.s5.seq.log_step": np.ones(2),
        "layers.0.glu.weight": np.ones((4, 4)),
        "decoder.weight": np.ones((1, 4)),
    }
    assert len(s5_from_torch(state, norm=None)) == len(state)

    def case(message, more=None, **names):
        with pytest.raises(StillnetError) as error:
            s5_from_torch({**state, **(more or {})}, **names)
        assert re.fullmatch(message, str(error.value)), str(error.value)

    case(r"tensor 'layers.0.norm.running_mean': it is missing; the state_dict has 'enc.*prefix")
    case(r"tensor 'net.0.Lambda': it is missing; the state_dict has .*", ssm="net.{}", norm=None)
    case(
        r"tensor 'a.attn_norm.weight': the S5Block of s5-pytorch has layer normalisation and .*",
        {"a.attn_norm.weight": np.ones(4)},
    )
    case(
        r"tensor 'layers.0.s5.seq.BH': factorised B and C are not supported; train with .*",
        {"layers.0.s5.seq.BH": np.ones(4)},
    )
    case(
        r"tensor 'head.weight': it has no place in the stack that the prefixes describe",
        {"head.weight": np.ones(4)},
        norm=None,
    )
