"""LSTM, both GRUs, EGRU and the small gated cells: oracles, bounds, extremes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.rules import INTEGERS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION, PRE, Format
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_integers
from tests.support.networks.quick import quantize
from tests.support.oracles.bounds import check
from tests.support.oracles.cells import egru, gru, ligru, lstm, mingru


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{text}$")


def relu(x):
    return np.maximum(x, 0.0)


def weights(rng: np.random.Generator, gates: int, inputs: int, units: int, scale: float) -> dict:
    """As float32 has them, so that onnxruntime gets the same numbers."""
    spread = scale / np.sqrt(inputs + units)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(0, spread, shape).astype(np.float32).astype(float)

    bias = rng.uniform(-1, 1, (2, gates * units)).astype(np.float32).astype(float)
    return {
        "w_ih": some(gates * units, inputs),
        "w_hh": some(gates * units, units),
        "b_ih": bias[0],
        "b_hh": bias[1],
    }


def slow(rng: np.random.Generator, steps: int, inputs: int) -> np.ndarray:
    return np.cumsum(rng.normal(0, 0.5, (steps, inputs)), 0).astype(np.float32).astype(float)


SHAPES = [(1, 1, 30, 1.0), (1, 60, 10, 1.0), (60, 1, 10, 1.0), (40, 50, 20, 1.0), (5, 8, 40, 6.0)]
SIZES = st.tuples(
    st.integers(1, 24), st.integers(1, 24), st.integers(1, 12), st.floats(0.1, 4.0), st.integers(0)
)


# -- onnxruntime ----------------------------------------------------------------------------------


def onnx(kind: str, x: np.ndarray, w: dict, outputs: int, initial: dict, **attributes) -> list:
    """Outputs of one recurrent node, (steps, units) and then final states."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    units = w["w_hh"].shape[1]
    tensors = {
        "w": w["w_ih"],
        "r": w["w_hh"],
        "b": np.concatenate([w["b_ih"], w["b_hh"]]),
        **{k: v[None] for k, v in initial.items() if k != "p"},
    }
    if "p" in initial:
        tensors["p"] = initial["p"]
    names = ["x", "w", "r", "b", "", *initial]
    graph = helper.make_graph(
        [
            helper.make_node(
                kind, names, [f"y{k}" for k in range(outputs)], hidden_size=units, **attributes
            )
        ],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1, w["w_ih"].shape[1]])],
        [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, None) for k in range(outputs)],
        [numpy_helper.from_array(v[None].astype(np.float32), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    y, *states = session.run(None, {"x": x.astype(np.float32)[:, None]})
    return [y[:, 0, 0].astype(float), *(s[0, 0].astype(float) for s in states)]


def float32(rng: np.random.Generator, units: int, low: float = -1.0, high: float = 1.0):
    return rng.uniform(low, high, units).astype(np.float32).astype(float)


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize(("inputs", "units", "steps", "scale"), SHAPES)
def test_lstm_against_onnxruntime(inputs, units, steps, scale, peephole) -> None:
    rng = np.random.default_rng(inputs * 100 + units + peephole)
    w = weights(rng, 4, inputs, units, scale)
    x = slow(rng, steps, inputs)
    h0, c0 = float32(rng, units), float32(rng, units, -3, 3)
    p = {g: float32(rng, units) for g in "iof"} if peephole else None
    initial = {"h0": h0, "c0": c0}
    if p is not None:
        initial["p"] = np.concatenate([p[g] for g in "iof"])
    y, h, c = onnx("LSTM", x, w, 3, initial)
    model = Model(inputs).lstm(**w, peepholes=p, h0=h0, c0=c0, order="iofg")
    state: dict = {}
    assert np.abs(model.run(x, state) - y).max() < 2e-5
    assert np.abs(state[0, "c"] - c).max() < 5e-5 and np.abs(state[0, "h"] - h).max() < 2e-5
    got, bounds = check(model, quantize(model, x), x)
    if scale <= 1:
        assert bounds[0] < 0.5, "the bound says nothing any more"
        assert np.abs(got - y).max() < 0.2


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("inputs", "units", "steps", "scale"), SHAPES)
def test_gru_against_onnxruntime(inputs, units, steps, scale, activation, reset) -> None:
    rng = np.random.default_rng(inputs * 100 + units)
    w = weights(rng, 3, inputs, units, min(scale, 2.0))
    x = slow(rng, steps, inputs)
    h0 = float32(rng, units)
    names = ["Sigmoid", activation.capitalize()]
    y, _ = onnx(
        "GRU",
        x,
        w,
        2,
        {"h0": h0},
        linear_before_reset=int(reset == "after"),
        activations=names,
    )
    model = Model(inputs).gru(**w, h0=h0, order="urc", reset=reset, activation=activation)
    wanted = model.run(x)
    assert np.abs(wanted - y).max() < 5e-5 * max(1.0, np.abs(y).max())
    if np.abs(y).max() > 15:
        return  # beyond the format; saturation has its own test
    got, bounds = check(model, quantize(model, x), x)
    if scale <= 1:
        assert bounds[-1] < 1.0 and np.abs(got - y).max() < 0.5


# -- formulas -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_lstm_of_any_size(size) -> None:
    inputs, units, steps, scale, seed = size
    rng = np.random.default_rng(seed)
    w = weights(rng, 4, inputs, units, scale)
    x, h0, c0 = slow(rng, steps, inputs), rng.uniform(-1, 1, units), rng.uniform(-5, 5, units)
    p = {g: rng.uniform(-2, 2, units) for g in "ifo"} if seed % 2 else None
    model = Model(inputs).lstm(**w, peepholes=p, h0=h0, c0=c0)
    y, _ = lstm(x, **w, h=h0, c=c0, peepholes=p)
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)


@settings(max_examples=25, deadline=None)
@given(SIZES, st.sampled_from(["after", "before"]), st.booleans())
def test_gru_of_any_size(size, reset, rectified) -> None:
    inputs, units, steps, scale, seed = size
    rng = np.random.default_rng(seed)
    w = weights(rng, 3, inputs, units, min(scale, 1.0))
    x, h0 = slow(rng, steps, inputs), rng.uniform(-1, 1, units)
    model = Model(inputs).gru(**w, h0=h0, reset=reset, activation="relu" if rectified else "tanh")
    y, _ = gru(x, **w, h=h0, reset=reset, f=relu if rectified else np.tanh)
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)


@settings(max_examples=25, deadline=None)
@given(SIZES, st.sampled_from([0, 1, 3]))
def test_egru_of_any_size(size, clear_every) -> None:
    inputs, units, steps, scale, seed = size
    rng = np.random.default_rng(seed)
    w = weights(rng, 3, inputs, units, scale)
    theta = np.maximum(rng.normal(0.1, 0.2, units), 0)
    x, h0 = slow(rng, steps, inputs), rng.uniform(-1, 1, units)
    model = Model(inputs).egru(**w, theta=theta, h0=h0).dense(rng.normal(0, 1, (3, units)))
    y, _ = egru(x, **w, theta=theta, h=h0, clear_every=clear_every)
    trace: dict = {}
    model.run(x, trace=trace, clear_every=clear_every)
    assert np.allclose(np.array(trace[0]), y, atol=1e-12)
    network = quantize(model, x)
    assert network.input_mode is Mode.NONZERO and network.layers[0].mode is Mode.NONZERO
    assert network.reload(0) and network.reload(1)
    check(model, network, x, clear_every=clear_every)


def test_egru_language_model() -> None:
    """Tokens in, two layers of events, a decoder that works for events only."""
    rng = np.random.default_rng(6)
    tokens, units = 20, 24
    layers = [weights(rng, 3, n, units, 1.5) for n in (tokens, units)]
    theta = [np.maximum(rng.normal(0.02, 0.05, units), 0) for _ in layers]
    decoder = rng.normal(0, 1, (tokens, units)), rng.normal(0, 0.1, tokens)
    x = rng.integers(0, tokens, 120)
    model = Model(tokens, one_hot=True)
    for k, (w, t) in enumerate(zip(layers, theta)):
        model.egru(**w, theta=t, name=f"egru{k}")
    model.dense(*decoder, name="decoder")
    y, _ = egru(np.eye(tokens)[x], **layers[0], theta=theta[0], h=np.zeros(units), clear_every=70)
    y, _ = egru(y, **layers[1], theta=theta[1], h=np.zeros(units), clear_every=70)
    wanted = y @ decoder[0].T + decoder[1]
    assert np.allclose(model.run(x, clear_every=70), wanted, atol=1e-12)
    network = quantize(model, x)
    assert network.input_mode is Mode.ONE_HOT_PLAIN
    got, _ = check(model, network, x, clear_every=70)
    assert np.mean(np.argmax(got, 1) == np.argmax(wanted, 1)) > 0.9
    reference = Reference(network, clear_every=70)
    fired = [0, 0]
    for row in network.quantize_input(x):
        reference.step_integers(row)
        assert reference.last.events[-1] == 1
        fired = [f + reference.last.events[k] for k, f in enumerate(fired)]
    assert 0 < fired[0] < 0.8 * 120 * units, "most units keep silent most of the time"


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_small_gated_cells_of_any_size(size) -> None:
    inputs, units, steps, scale, seed = size
    rng = np.random.default_rng(seed)
    w = weights(rng, 2, inputs, units, min(scale, 1.0))
    x, h0 = slow(rng, steps, inputs), rng.uniform(-1, 1, units)
    model = Model(inputs).mingru(w["w_ih"], w["b_ih"], h0=h0)
    y, _ = mingru(x, w["w_ih"], w["b_ih"], h0)
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)
    model = Model(inputs).ligru(w["w_ih"], w["w_hh"], w["b_ih"], h0=h0)
    y, _ = ligru(x, w["w_ih"], w["w_hh"], w["b_ih"], h0)
    assert np.allclose(model.run(x), y, atol=1e-12)
    check(model, quantize(model, x), x)


# -- the bound notices ----------------------------------------------------------------------------


def broken(network: Network, change: str) -> None:
    layer = network.layers[-1]
    if change == "swapped gates":
        for m in layer.matrices:
            m.gates = tuple({"i": "f", "f": "i"}.get(g, g) for g in m.gates)
    elif change == "lost bias":
        layer.bias["o"] = np.zeros_like(layer.bias["o"])
    elif change == "lost initial c":
        del layer.initial["c"]
    elif change == "swapped peepholes":
        layer.parameters["pi"] = layer.parameters["po"]
    else:
        layer.matrices[1].weight = np.roll(layer.matrices[1].weight, 1, axis=1)


@pytest.mark.parametrize(
    "change",
    ["swapped gates", "lost bias", "lost initial c", "swapped peepholes", "shifted rows"],
)
def test_the_bound_notices(change) -> None:
    rng = np.random.default_rng(3)
    w = weights(rng, 4, 12, 16, 1.0)
    x = slow(rng, 12, 12)
    p = {g: rng.uniform(-2, 2, 16) for g in "ifo"}
    model = Model(12).lstm(**w, peepholes=p, c0=rng.uniform(-3, 3, 16))
    network = quantize(model, x)
    check(model, network, x)
    honest = copy.deepcopy(network)
    broken(network, change)
    with pytest.raises(AssertionError, match="bound"):
        check(model, network, x, honest=honest)


def test_the_bound_knows_of_row_multipliers() -> None:
    rng = np.random.default_rng(4)
    w = weights(rng, 4, 10, 14, 0.5)
    x = slow(rng, 20, 10) / 4
    model = Model(10).lstm(**w)
    network = quantize(model, x)
    layer = network.layers[0]
    layer.scale = {g: rng.integers(1 << 13, 1 << 15, 14) for g in "ifgo"}
    network.validate()
    # The float model of the same rows.
    real = model.layers[0]
    factor = {g: v * 2.0**-14 for g, v in layer.scale.items()}
    matrices = tuple(
        replace(m, weight=m.weight * np.stack([factor[g] for g in m.gates])[:, :, None])
        for m in real.matrices
    )
    bias = {g: b * factor[g] for g, b in real.bias.items()}
    model.layers[0] = replace(real, matrices=matrices, bias=bias)
    check(model, network, x)
    honest = copy.deepcopy(network)
    layer.scale["f"] = layer.scale["f"] - 2000
    with pytest.raises(AssertionError, match="bound"):
        check(model, network, x, honest=honest)


# -- extremes -------------------------------------------------------------------------------------


def extreme(fmt: Format, count: int, rng: np.random.Generator, low=None) -> np.ndarray:
    low = fmt.minimum if low is None else low
    ends = np.array([low, max(low, -1), 0, 1, fmt.maximum])
    return np.where(
        rng.random(count) < 0.5, rng.choice(ends, count), rng.integers(low, fmt.maximum + 1, count)
    )


@pytest.mark.parametrize("name", list(CELLS))
def test_integers_at_the_ends_of_every_format(name) -> None:
    """Every node stays inside its format, and bounded outputs inside their bound."""
    cell, rng = CELLS[name], np.random.default_rng(1)
    count = 20_000
    m = {a: extreme(PRE, count, rng) for a in cell.accumulators}
    for p, fmt in cell.parameters.items():
        m[p] = extreme(fmt, count, rng, low=0 if p in cell.limits else None)
    state = {}
    for s, fmt in {**cell.peers, **cell.state}.items():
        state[s] = extreme(fmt, count, rng)
        if s == "h" and cell.bound is not None:  # what the state can hold
            one = 1 << ACTIVATION.fraction
            state[s] = np.clip(state[s], -one, one)
    values = cell.graph._walk(INTEGERS, m, state)
    for node in cell.graph.nodes():
        if not node.is_condition:
            v = values[id(node)]
            assert np.all((v >= node.format.minimum) & (v <= node.format.maximum)), node
    y, new, _ = cell.evaluate(m, state)
    if cell.bound is not None:
        fraction = cell.graph.result.format.fraction
        assert np.abs(y).max() <= cell.bound * 2**fraction
        if name == "egru":
            assert np.abs(new["h"]).max() <= 1 << 14, "the proof needs it of h too"


def test_egru_fires_strictly_above_its_threshold() -> None:
    cell = CELLS["egru"]
    h = np.array([4096, 4097, 0, -1, 0, 1])
    theta = np.array([4096, 4096, 0, 0, 1, 0])
    closed = {a: np.full(6, 0) for a in cell.accumulators}
    closed["u"] = np.full(6, PRE.maximum)  # u = 1: c = h
    y, new, _ = cell.evaluate({**closed, "theta": theta}, {"h": h})
    assert y.tolist() == [0, 4097, 0, 0, 0, 1]
    assert new["h"].tolist() == [4096, 1, 0, -1, 0, 1]


# -- state, files, refusals -----------------------------------------------------------------------


def some_networks() -> list[tuple[str, Model, np.ndarray]]:
    rng = np.random.default_rng(5)
    x = slow(rng, 20, 6)
    w3, w4 = weights(rng, 3, 6, 10, 1.0), weights(rng, 4, 6, 10, 1.0)
    dense = rng.normal(0, 1, (3, 10))
    p = {g: rng.uniform(-1, 1, 10) for g in "ifo"}
    c0 = rng.uniform(-1, 1, 10)
    return [
        ("lstm", Model(6).lstm(**w4, c0=c0, h0=c0 / 2).dense(dense), x),
        ("peephole", Model(6).lstm(**w4, peepholes=p).dense(dense), x),
        ("before", Model(6).gru(**w3, reset="before", h0=c0).dense(dense), x),
        ("before relu", Model(6).gru(**w3, reset="before", activation="relu").dense(dense), x),
        ("egru", Model(6).egru(**w3, theta=np.full(10, 0.1), h0=c0).dense(dense), x),
        ("mingru", Model(6).mingru(w3["w_ih"][:20], h0=c0).dense(dense), x),
    ]


@pytest.mark.parametrize(("name", "model", "x"), some_networks(), ids=lambda v: str(v)[:12])
def test_saved_whole_sequence_and_streamed_are_the_same(name, model, x, tmp_path) -> None:
    network = quantize(model, x)
    network.save(tmp_path / "net.safetensors")
    again = Network.load(tmp_path / "net.safetensors")
    first, second = Reference(network), Reference(again)
    rows = network.quantize_input(x)
    y = np.array([first.step_integers(r) for r in rows])
    assert np.array_equal(y, np.array([second.step_integers(r) for r in rows]))
    # recordings side by side, in integers
    layout = Layout([len(rows), 7])
    flat = run_integers(network, layout, layout.pack([rows, rows[:7]]))
    parts = layout.unpack(flat.vectors[len(network.layers) - 1])
    assert np.array_equal(parts[0], y) and np.array_equal(parts[1], y[:7])
    # state that is taken out and brought back
    third = Reference(network)
    for r in rows[:9]:
        third.step_integers(r)
    fourth = Reference(network)
    fourth.set_state(third.get_state())
    assert np.array_equal(y[9:], np.array([fourth.step_integers(r) for r in rows[9:]]))
    for i in range(len(network.layers)):
        assert np.array_equal(first.accumulators[i], first.expected_accumulators(i))
    first.reset()
    assert np.array_equal(y[:3], np.array([first.step_integers(r) for r in rows[:3]]))


@pytest.mark.parametrize("reset", ["before", "after"])
def test_two_thresholds_and_their_search(reset) -> None:
    rng = np.random.default_rng(0)
    model = Model(6).gru(**weights(rng, 3, 6, 16, 1.0), reset=reset, name="g")
    model.lstm(**weights(rng, 4, 16, 12, 1.0), name="l").dense(rng.normal(0, 0.3, (3, 12)))
    x = slow(rng, 96, 6) / 4
    network = quantize(model, x, thresholds=0.01, threshold_recurrent=0.02)
    assert network.layers[-3].threshold_recurrent is not None
    rows = network.quantize_input(x[:80])
    reference, layout = Reference(network), Layout([80])
    y = np.array([reference.step_integers(r) for r in rows])
    flat = run_integers(network, layout, layout.pack([rows]))
    assert np.array_equal(flat.vectors[len(network.layers) - 1], y)
    network = quantize(model, x, max_error=0.03)
    assert network.notes["report"]["output_error"] <= 0.03
    assert all(layer.threshold > 0 for layer in network.layers[:-1])
    check(model, network, x[:60])


def test_clear_every_touches_h_only() -> None:
    _, model, x = some_networks()[4]
    network = quantize(model, x)
    cleared, plain = Reference(network, clear_every=5), Reference(network)
    for t, row in enumerate(network.quantize_input(x)):
        if t and t % 5 == 0:
            plain.state[0]["h"] = np.zeros(10, np.int64)
        assert np.array_equal(cleared.step_integers(row), plain.step_integers(row))
    with refused("clear_every must be a number of steps, or 0 for never, not -1"):
        Reference(network, clear_every=-1)


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    w3, w4 = weights(rng, 3, 6, 10, 1.0), weights(rng, 4, 6, 10, 1.0)
    x = slow(rng, 20, 6)
    with refused(r"layer 'a': w_hh has shape \(30, 10\), an LSTM needs \(4\*H, H\)"):
        Model(6).lstm(w4["w_ih"], w3["w_hh"], name="a")
    with refused("layer 'a': order must be 'ifgo' or 'iofg', not 'ifog2'"):
        Model(6).lstm(**w4, order="ifog2", name="a")
    with refused("layer 'a': peephole 'g' does not exist; an LSTM has i, f, o"):
        Model(6).lstm(**w4, peepholes={"g": np.zeros(10)}, name="a")
    with refused("layer 'a': reset must be 'after' or 'before', not 'never'"):
        Model(6).gru(**w3, reset="never", name="a")
    with refused("layer 'a': activation of a GRU's candidate must be tanh or relu, not 'gelu'"):
        Model(6).gru(**w3, activation="gelu", name="a")
    with refused(r"layer 'a': c0 has shape \(3,\), expected \(10,\)"):
        Model(6).lstm(**w4, c0=np.zeros(3), name="a")
    with refused("layer 'a': initial state 'c' is 64 at unit 0, a lstm holds -64 to 64"):
        quantize(Model(6).lstm(**w4, c0=np.full(10, 64.0), name="a"), x)
    theta = np.zeros(10)
    theta[4] = -0.5
    with refused("layer 'a': parameter 'theta' is -0.5 at unit 4, cell 'egru' takes 0 to 1.99994"):
        quantize(Model(6).egru(**w3, theta=theta, name="a"), x)
    p = {"i": np.full(10, 9.0)}
    with refused(
        "layer 'a': parameter 'pi' is 9 at unit 0, cell 'lstm_peephole' takes -8 to 7.99994"
    ):
        quantize(Model(6).lstm(**w4, peepholes=p, name="a"), x)
