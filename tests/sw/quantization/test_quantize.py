"""Quantization: formats, exponents, biases, thresholds, errors, and the container of a network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS, Cell, register
from stillnet.sw.contract.cells.expr import sigmoid, tanh
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Layer, Matrix, Model
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, run_float
from stillnet.sw.packing.describe import describe_network
from stillnet.sw.quantization.layerwise import Settings, compress_layers
from stillnet.sw.quantization.preparation import Plan, Wish, make_plan, prepare
from stillnet.sw.quantization.quantizer import quantize as full
from stillnet.sw.quantization.sensitivity import accumulators_of
from tests.support.networks.quick import quantize


def refused(text: str) -> pytest.RaisesExc:
    return pytest.raises(StillnetError, match=f"^{text}$")


def slow_signal(rng: np.random.Generator, steps: int, size: int, scale: float = 1.0) -> np.ndarray:
    x = np.zeros((steps, size))
    for t in range(1, steps):
        x[t] = 0.95 * x[t - 1] + rng.normal(0, 0.3, size)
    return x * scale


def deep_model(seed: int = 0, inputs: int = 8) -> Model:
    """fc relu, GRU, GRU, fc relu, fc sigmoid: every kind of layer, small."""
    rng = np.random.default_rng(seed)

    def w(*shape: int) -> np.ndarray:
        return rng.normal(0, 1.5 / math.sqrt(shape[-1]), shape)

    model = Model(inputs, name="deep")
    model.dense(w(12, inputs), rng.uniform(-0.5, 0.5, 12), "relu", name="fc1")
    for name, size, units in (("gru1", 12, 16), ("gru2", 16, 10)):
        model.gru(
            w(3 * units, size),
            w(3 * units, units),
            rng.uniform(-1, 1, 3 * units),
            rng.uniform(-1, 1, 3 * units),
            name=name,
        )
    model.dense(w(9, 10), rng.uniform(-1, 1, 9), "relu", name="fc2")
    return model.dense(w(4, 9), rng.uniform(-1, 1, 4), "sigmoid", name="out")


@pytest.fixture(scope="module")
def deep() -> tuple[Model, np.ndarray]:
    return deep_model(), slow_signal(np.random.default_rng(1), 400, 8)


def mean_error(network: Network, model: Model, x: np.ndarray) -> float:
    return float(np.mean(np.abs(Reference(network).run(x) - model.run(x))))


# -- formats --------------------------------------------------------------------------------------


def test_a_deep_network_is_close_to_the_float_model(deep) -> None:
    model, x = deep
    network = full(model, x)
    assert mean_error(network, model, x) < 0.01
    fresh = slow_signal(np.random.default_rng(2), 200, 8)
    assert mean_error(network, model, fresh) < 0.01
    assert [q.name for q in network.layers] == ["fc1", "gru1", "gru2", "fc2", "out"]
    assert network.name == "deep" and full(model, x, name="mine").name == "mine"


def test_formats_obey_the_contract(deep) -> None:
    model, x = deep
    network = quantize(model, x)
    for i, layer in enumerate(network.layers):
        exponent = network.exponent(i)
        if CELLS[layer.cell].homogeneous:
            assert (layer.shift, layer.write_shift) == (exponent - layer.fraction + 8, 0)
        else:
            assert layer.shift == exponent - 13 + 8
            assert layer.fraction == 14 - layer.write_shift
        for g, b in layer.bias.items():
            assert b.dtype == np.int64 and np.abs(b).max() < 1 << 31, g


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_any_scale_of_input(scale: float) -> None:
    rng = np.random.default_rng(4)
    x = slow_signal(rng, 100, 5, scale)
    model = Model(5).dense(rng.normal(0, 1 / scale, (6, 5)), rng.normal(0, 1, 6), "tanh")
    network = quantize(model, x)
    assert mean_error(network, model, x) < 0.01
    assert np.abs(x).max() * 2.0**network.input_fraction < 32768
    model = Model(5).dense(rng.normal(0, 1, (6, 5)), rng.normal(0, scale, 6), "relu")
    network = quantize(model, x)
    assert mean_error(network, model, x) < 0.02 * scale


def test_range_and_margin() -> None:
    model = Model(1).dense(np.ones((1, 1)))
    for peak, margin, fraction in [
        (1.0, 1.0, 14),
        (1.0, 1.25, 14),
        (0.99, 2.0, 14),
        (7.9, 1.0, 12),
    ]:
        x = np.array([[0.0], [-peak]])
        network = quantize(model, x, margin=margin)
        assert peak * margin * 2.0**fraction <= 32767 < peak * margin * 2.0 ** (fraction + 1)
        assert network.input_fraction <= fraction
        assert network.layers[0].fraction == fraction
    with refused("margin must be between 1 and 1024, not 0.5"):
        quantize(model, x, margin=0.5)


def test_all_zero_and_constant() -> None:
    model = Model(3).gru(np.zeros((6, 3)), np.zeros((6, 2))).dense(np.zeros((2, 2)))
    y = Reference(quantize(model, np.zeros((5, 3)))).run(np.zeros((5, 3)))
    assert not y.any()
    model = Model(3).dense(np.zeros((2, 3)), np.array([0.5, -0.25]), "relu").dense(np.ones((1, 2)))
    x = np.full((10, 3), 7.0)
    network = quantize(model, x)
    assert np.abs(Reference(network).run(x) - 0.5).max() < 1e-3
    report = network.notes["report"]
    assert report["matrices"][0]["snr_db"] is None
    json.dumps(report, allow_nan=False)


def test_no_overflow_is_proven_by_lower_formats_not_by_chance() -> None:
    """1,200 columns of the same weight: finest formats would pass 2**31."""
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, (50, 1200))
    weight = rng.choice([-0.99, 0.99], (3, 1200))
    network = quantize(Model(1200).dense(weight), x)
    network.validate()
    worst = max(rows.max() for rows in network.accumulator_bound(0).values())
    assert 1 << 29 < worst < 1 << 31
    model = Model(1200).dense(weight)
    assert mean_error(network, model, x) < 0.02 * np.abs(model.run(x)).mean()


def move_exponent(plan: Plan, index: int, exponent: int) -> None:
    """Another exponent for the accumulators of a layer whose rows have one step."""
    for (i, place), steps in plan.job.steps.items():
        if i == index:
            plan.job.steps[i, place] = steps * 2.0 ** (plan.exponents[index] - exponent)
    plan.exponents[index] = exponent


def nearest(plan: Plan, *, correct_bias: bool = True) -> Network:
    settings = Settings(8, method="nearest", correct_bias=correct_bias)
    return plan.network(compress_layers(plan.job, settings)[1])


def test_exponents_are_the_best_by_trial() -> None:
    """The noise model against the truth: no neighbour of the choice is clearly better."""
    rng = np.random.default_rng(6)
    model = Model(20)
    model.gru(rng.normal(0, 0.2, (90, 20)), rng.normal(0, 0.4, (90, 30)), name="gru")
    model.dense(rng.normal(0, 0.3, (10, 30)), name="out")
    x = slow_signal(rng, 300, 20)
    chosen = mean_error(quantize(model, x, correct_bias=False), model, x)
    base = prepare(model, [x])
    for index in range(2):
        for step in (-1, 1):
            plan = make_plan(base, Wish(correct_bias=False), rows=False)
            move_exponent(plan, index, plan.exponents[index] + step)
            try:
                network = nearest(plan, correct_bias=False)
                network.validate()
            except StillnetError:
                continue
            assert mean_error(network, model, x) > 0.8 * chosen


def test_correcting_biases_helps_where_inputs_have_a_mean() -> None:
    rng = np.random.default_rng(7)
    x = slow_signal(rng, 300, 40, 0.3) - 6.0  # as logarithmic spectra are
    model = Model(40).dense(rng.normal(0, 0.1, (50, 40)), rng.normal(0, 1, 50), "tanh")
    errors = [mean_error(quantize(model, x, correct_bias=c), model, x) for c in (False, True)]
    assert errors[1] < 0.5 * errors[0]


def test_biases_are_rounded_at_the_exponent_of_the_accumulators(deep) -> None:
    model, x = deep
    network = quantize(model, x, correct_bias=False)
    for i, (layer, q) in enumerate(zip(model.layers, network.layers)):
        for g, b in layer.bias.items():
            scaled = b if q.unit_exponents is None else b * 2.0**q.unit_exponents
            error = np.abs(q.bias[g] * 2.0 ** -network.exponent(i) - scaled)
            assert error.max() <= 2.0 ** -(network.exponent(i) + 1)


def test_weights_of_silent_columns_are_kept() -> None:
    rng = np.random.default_rng(8)
    weight = rng.uniform(-0.1, 0.1, (4, 6))
    weight[:, 5] = 1.0
    x = rng.normal(0, 1, (100, 6))
    x[:, 5] = 0.0
    network = quantize(Model(6).dense(weight), x)
    kept = network.layers[0].matrices[0]
    assert np.all(kept.weight[0, :, 5] * 2.0**-kept.fraction > 0.9)


def test_a_cell_of_ones_own_is_quantized() -> None:
    @register
    class Leaky(Cell):
        name, accumulators = "test_leaky2", ("a", "g")
        state = {"s": ACTIVATION}
        bound = 1.0

        def update(self, m, state):
            return state.s.next(state.s + sigmoid(m.g) * (tanh(m.a) - state.s))

    try:
        rng = np.random.default_rng(9)
        layer = Layer(
            "leaky",
            "test_leaky2",
            6,
            (
                Matrix(INPUT, ("a", "g"), rng.normal(0, 0.5, (2, 6, 3))),
                Matrix(0, ("a",), rng.normal(0, 0.5, (1, 6, 6))),
            ),
            {"a": np.zeros(6), "g": np.ones(6)},
        )
        model = Model(3, [layer])
        x = slow_signal(rng, 200, 3)
        assert mean_error(full(model, x), model, x) < 0.01
    finally:
        CELLS.pop("test_leaky2", None)


def test_feedback_from_above() -> None:
    """A layer fed by a later one takes its steps together with it."""
    rng = np.random.default_rng(10)
    layers = [
        Layer(
            "low",
            "tanh",
            5,
            (
                Matrix(INPUT, ("y",), rng.normal(0, 1, (1, 5, 3))),
                Matrix(1, ("y",), rng.normal(0, 1, (1, 5, 4))),
            ),
            {"y": np.zeros(5)},
        ),
        Layer(
            "high", "tanh", 4, (Matrix(0, ("y",), rng.normal(0, 1, (1, 4, 5))),), {"y": np.ones(4)}
        ),
    ]
    model, x = Model(3, layers), slow_signal(rng, 60, 3)
    trace = run_float(model, Layout([60]), x)
    assert np.allclose(trace.vectors[1], model.run(x), atol=1e-12)
    assert mean_error(quantize(model, x, thresholds=0.001), model, x) < 0.02


def dense_network(weight: np.ndarray, bias: int, **options) -> Network:
    matrix = QuantizedMatrix(INPUT, ("y",), weight.astype(np.int8)[None], 8)
    bias_row = {"y": np.full(len(weight), bias, np.int64)}
    fraction = options.get("input_fraction", 0)
    layer = QuantizedLayer("d", "linear", len(weight), [matrix], bias_row, 8, 0, 8 + fraction)
    return Network(weight.shape[1], layers=[layer], **{"input_fraction": 0, **options})


def test_the_proof_against_overflow_is_exact() -> None:
    reach = 128 * 32768 + 5 * 32768
    dense_network(np.array([[-128, 5]]), (1 << 31) - 1 - reach).validate()
    with refused(r"layer 'd': row 0 of gate 'y' can reach 2147483648, more than 32 bits hold; .*"):
        dense_network(np.array([[-128, 5]]), (1 << 31) - reach).validate()
    with refused(r"layer 'd': row 1 of gate 'y' can reach .*"):
        dense_network(np.array([[0, 0], [-128, 5]]), -(1 << 31) + reach).validate()
    # Only one token at a time: the largest weight counts, not the sum.
    tokens = np.full((1, 5000), 127)
    with refused("layer 'd': row 0 .*"):
        dense_network(tokens, 0, input_fraction=15).validate()
    dense_network(tokens, 0, input_fraction=15, input_mode=Mode.ONE_HOT).validate()


@pytest.mark.parametrize(("fraction", "exponent"), [(12, 20), (4, 12), (2, 10), (12, 23)])
def test_the_noise_model_predicts_the_error(fraction: int, exponent: int) -> None:
    """Rounding of weights mostly, of both, of the input mostly; clipped weights."""
    rng = np.random.default_rng(14)
    model = Model(50).dense(rng.normal(0, 0.1, (80, 50)), name="d").dense(np.eye(80), name="e")
    x = rng.normal(0, 1.5, (2000, 50))
    plan = make_plan(prepare(model, [x]), Wish(), rows=False)
    plan.choice.fraction[INPUT], plan.exponents[0] = fraction, exponent
    plan.job.steps[0, 0] = np.full(80, 2.0 ** (fraction - exponent))
    predicted = plan.choice.cost(0, exponent)
    result = Reference(nearest(plan))
    wanted = accumulators_of(model, run_float(model, Layout([2000]), x), 0)["y"]
    got = []
    for row in result.network.quantize_input(x):
        result.step_integers(row)
        got.append(result.accumulators[0][0] * 2.0**-exponent)
    measured = np.sum(np.mean((np.array(got) - wanted) ** 2, axis=0))
    assert 0.8 < measured / predicted < 1.25


# -- recordings -----------------------------------------------------------------------------------


def test_float_runs_agree_with_the_model(deep) -> None:
    model, _ = deep
    rng = np.random.default_rng(11)
    recordings = [slow_signal(rng, n, 8) for n in (7, 30, 1, 12)]
    layout = Layout([len(r) for r in recordings])
    trace = run_float(model, layout, layout.pack(recordings))
    for got, x in zip(layout.unpack(trace.vectors[4]), recordings):
        assert np.allclose(got, model.run(x), atol=1e-12)
    for a, b in zip(layout.unpack(layout.pack(recordings)), recordings):
        assert np.array_equal(a, b)


def test_state_is_reset_between_recordings(deep) -> None:
    model, x = deep
    together = quantize(model, x[:200])
    apart = quantize(model, [x[:100], x[100:200]])
    assert together.notes["report"]["steps"] == apart.notes["report"]["steps"] == 200
    errors = []
    for part in (x[:100], x[100:200]):
        errors.append(np.abs(Reference(apart).run(part) - model.run(part)))
    assert apart.notes["report"]["output_error"] == pytest.approx(np.mean(errors), abs=1e-12)


def test_float16_and_integer_recordings(deep) -> None:
    model, x = deep
    assert mean_error(quantize(model, x.astype(np.float16)), model, x) < 0.01
    quantize(model, np.rint(x).astype(np.int16))


def test_bad_calibration(deep) -> None:
    model, x = deep
    bad = x.copy()
    bad[7, 3] = np.nan
    with refused(
        "calibration holds nan at step 7, element 3; remove NaN and infinity from the recording"
    ):
        quantize(model, bad)
    bad[7, 3] = -np.inf
    with refused("calibration recording 1 holds -inf at step 7, element 3; .*"):
        quantize(model, [x, bad])
    with refused(
        r"calibration has shape \(0, 8\); model 'deep' takes \(steps, 8\) with at least one step"
    ):
        quantize(model, x[:0])
    with refused(r"calibration recording 0 has shape \(400, 7\); model 'deep' takes .*"):
        quantize(model, [x[:, :7]])
    with refused("calibration holds no recording; give at least one with one step"):
        quantize(model, [])
    for wrong in (np.array(["a"]), x.astype(complex), [[1, 2], [3]]):
        with refused("calibration(?: recording 0)? is not an array of real numbers|.*shape.*"):
            quantize(model, wrong)


def test_bad_models(deep) -> None:
    _, x = deep
    with refused("model 'network' has no layers; there is nothing to quantize"):
        quantize(Model(8), x)
    twice = Model(8).dense(np.ones((8, 8)), name="a").dense(np.ones((8, 8)), name="a")
    with refused("two parts of model 'network' are named 'a'; rename one, because .*"):
        quantize(twice, x)
    layer = Model(8).dense(np.ones((2, 8)), name="a").layers[0]
    layer.matrices[0].weight[0, 1, 2] = np.inf
    with refused("layer 'a': weights of y holds NaN or infinity; export the model again"):
        quantize(Model(8, [layer]), x)
    layer.matrices[0].weight[0, 1, 2] = 0
    with refused("layer 'a': cell 'mystery' is unknown; known are gru, .*"):
        quantize(Model(8, [Layer("a", "mystery", 2, layer.matrices, layer.bias)]), x)
    with refused(r"layer 'a': weights have shape \(1, 2, 8\), expected \(1, 2, 7\)"):
        quantize(Model(7, [layer]), x[:, :7])
    with refused(r"layer 'a': biases are given for \[\], cell 'linear' needs \['y'\]"):
        quantize(Model(8, [Layer("a", "linear", 2, layer.matrices, {})]), x)
    with refused("layer 'gru0': initial state 'h' is 1.5 at unit 1, a gru holds -1 to 1"):
        quantize(Model(8).gru(np.ones((6, 8)), np.ones((6, 2)), h0=np.array([0, 1.5])), x)
    with refused(
        r"layer 'a': bias 1e\+09 of gate 'y', row 0, does not fit an accumulator with 5 fraction "
        "bits; rescale the model"
    ):
        quantize(Model(8).dense(np.ones((1, 8)), np.array([1e9]), "sigmoid", name="a"), x)
    huge = Model(8).dense(np.full((1, 8), 1e300), name="a").dense(np.full((1, 1), 1e300), name="b")
    with np.errstate(over="ignore"), refused("layer 'b' becomes infinite on the calibration .*"):
        quantize(huge, x)


@pytest.mark.parametrize("method", ["best", 8, None])
def test_other_methods(deep, method) -> None:
    model, x = deep
    with refused(f"method must be one of second-order, nearest, not {method!r}"):
        full(model, x, method=method)


# -- tokens ---------------------------------------------------------------------------------------


def test_one_hot_models() -> None:
    rng = np.random.default_rng(12)
    model = Model(30, one_hot=True, name="tokens")
    model.gru(rng.normal(0, 1, (24, 30)), rng.normal(0, 0.5, (24, 8)), rng.normal(0, 1, 24))
    model.dense(rng.normal(0, 1, (5, 8)), name="out")
    tokens = rng.integers(0, 30, 200)
    network = quantize(model, tokens, thresholds=0.001)
    assert network.input_mode is Mode.ONE_HOT and 0 <= network.input_fraction <= 15
    assert network.input_threshold == 0
    assert mean_error(network, model, tokens) < 0.03
    assert mean_error(network, model, tokens[:, None]) < 0.03
    report = network.notes["report"]["vectors"][0]
    assert 1.5 < report["events_per_step"] <= 2.0 and report["activity"] is None
    quantize(model, [tokens[:50], tokens[50:]], max_error=0.05)
    with refused("calibration holds token 30 at step 1; model 'tokens' has tokens 0 to 29"):
        quantize(model, np.array([3, 30]))
    with refused("calibration holds token 1.5 at step 0; model 'tokens' has tokens 0 to 29"):
        quantize(model, np.array([1.5]))
    with refused(r"calibration has shape \(2, 30\); model 'tokens' takes one token per step, .*"):
        quantize(model, np.zeros((2, 30)))
    with refused("thresholds names 'input', which is one-hot and has none"):
        quantize(model, tokens, thresholds={"input": 1.0})
    with refused("nonzero names 'input', which is one-hot already"):
        quantize(model, tokens, nonzero=["input"])


# -- thresholds -----------------------------------------------------------------------------------


def test_thresholds_by_number_name_and_order(deep) -> None:
    model, x = deep
    network = quantize(model, x, thresholds=16 / 256)
    assert network.input_threshold == round(2.0**network.input_fraction / 16)
    for layer in network.layers[:4]:
        assert layer.threshold == round(2.0**layer.fraction / 16)
        assert layer.threshold_recurrent is None
    assert network.layers[4].threshold == 0  # feeds nothing
    named = quantize(model, x, thresholds={"input": 0.25, "gru1": 0.5})
    assert named.input_threshold == 0.25 * 2.0**named.input_fraction
    assert [q.threshold * 2.0**-q.fraction for q in named.layers] == [0, 0.5, 0, 0, 0]
    listed = quantize(model, x, thresholds=[0.25, 0, 0.5, 0, 0, 9.0])
    assert [q.threshold for q in listed.layers] == [q.threshold for q in named.layers]
    assert quantize(model, x, thresholds=1e9).input_threshold == (1 << 17) - 1


def test_thresholds_of_recurrences(deep) -> None:
    model, x = deep
    network = quantize(model, x, thresholds=0.25, threshold_recurrent=0.375)
    assert [q.name for q in network.layers if q.threshold_recurrent is not None] == ["gru1", "gru2"]
    layer = network.layers[1]
    assert layer.threshold_recurrent == 0.375 * 2.0**layer.fraction
    assert layer.threshold == 0.25 * 2.0**layer.fraction
    one = quantize(model, x, thresholds=0.25, threshold_recurrent={"gru2": 0.5, "gru1": 0.25})
    assert one.layers[1].threshold_recurrent is None, "equal thresholds share one encoder"
    assert one.layers[2].threshold_recurrent == 0.5 * 2.0 ** one.layers[2].fraction
    assert "activity_recurrent" in one.notes["report"]["vectors"][3]
    alone = Model(8).gru(np.ones((6, 8)), np.ones((6, 2)), name="gru")
    top = quantize(alone, x, thresholds=0.25, threshold_recurrent=0.5).layers[0]
    assert (top.threshold * 2.0**-top.fraction, top.threshold_recurrent) == (0.5, None)


def test_bad_thresholds(deep) -> None:
    model, x = deep

    def bad(message: str, **options) -> None:
        with refused(message):
            quantize(model, x, **options)

    names = "input, fc1, gru1, gru2, fc2, out"
    bad(f"thresholds names 'gru3', the network has {names}", thresholds={"gru3": 1.0})
    bad("thresholds names 'out', which feeds nothing, .*", thresholds={"out": 1.0})
    bad("threshold of 'gru1' must be zero or a positive number, not -1", thresholds={"gru1": -1})
    bad("threshold of every source must be zero .* not nan", thresholds=math.nan)
    bad("threshold of every source must be a number, not '1'", thresholds="1")
    bad("threshold of 'fc1' must be a number, not True", thresholds={"fc1": True})
    bad(f"thresholds has 2 entries, the network 6 sources: {names}", thresholds=[0.1, 0.2])
    bad("threshold_recurrent names 'fc1', which has no .*", threshold_recurrent={"fc1": 0.1})
    bad("threshold_recurrent names 'x', the network has .*", threshold_recurrent={"x": 0.1})
    bad("give thresholds or max_error, not both: .*", thresholds=0.1, max_error=0.1)
    bad("give thresholds or max_error, not both: .*", threshold_recurrent=0.1, max_error=0.1)
    bad("max_error must be a positive number, not 0.0", max_error=0.0)
    dense = Model(8).dense(np.ones((2, 8)))
    with refused("threshold_recurrent is given, network 'network' has no recurrence"):
        quantize(dense, x, threshold_recurrent=0.1)


def test_nonzero_layers(deep) -> None:
    model, x = deep
    network = quantize(model, x, nonzero=["fc2"], thresholds=0.01)
    assert network.layers[3].mode is Mode.NONZERO and network.layers[3].threshold == 0
    assert network.reload(4) and mean_error(network, model, x) < 0.02
    named = quantize(model, x, nonzero="fc2", thresholds={"fc2": 0.25})
    assert named.layers[3].threshold == 0.25 * 2.0 ** named.layers[3].fraction
    plain = quantize(Model(8).dense(np.ones((2, 8))), x, nonzero=["input"])
    assert plain.input_mode is Mode.NONZERO
    with refused(
        "layer 'gru1' is fed by nonzero elements of 'fc1' and by differences of 'gru1'; leave "
        "'fc1' out of nonzero"
    ):
        quantize(model, x, nonzero=["fc1"])
    with refused("nonzero names 'gru1', a gru layer; only ReLU layers are zero often enough"):
        quantize(model, x, nonzero=["gru1"])
    with refused("nonzero names 'fc9', the network has .*"):
        quantize(model, x, nonzero=["fc9"])


# -- max_error ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [50, pytest.param(600, marks=pytest.mark.slow)])
def test_max_error_is_kept_and_used(steps: int) -> None:
    model, x = deep_model(), slow_signal(np.random.default_rng(3), steps, 8)
    still = full(model, x)
    floor = still.notes["report"]["output_error"]
    seen = []
    network = full(model, x, max_error=0.03, progress=lambda *a: seen.append(a))
    report = network.notes["report"]
    assert report["output_error"] == pytest.approx(mean_error(network, model, x), abs=1e-12)
    assert floor < 0.015 < max(report["outputs"]["error"]) <= 0.03
    fired = [
        sum(v["events_per_step"] for v in n.notes["report"]["vectors"]) for n in (still, network)
    ]
    assert fired[1] < 0.8 * fired[0]
    if steps < 600:
        again = full(model, x, max_error=0.03)
        assert again.notes == network.notes, "the search is deterministic"
    assert {what for what, _, _ in seen} >= {"float model", "layers", "thresholds"}
    assert all(0 <= done <= total for _, done, total in seen)
    with refused(
        r"max_error 1e-05 cannot be kept: the mean error of output \d is 0\.\d+ with every "
        "threshold at zero; "
        "allow at least that"
    ):
        full(model, x, max_error=1e-5)


def test_max_error_that_allows_everything() -> None:
    model, x = deep_model(), slow_signal(np.random.default_rng(3), 100, 8)
    network = quantize(model, x, max_error=1e6)
    assert network.notes["report"]["vectors"][0]["events_per_step"] < 1.0


# -- report ---------------------------------------------------------------------------------------


def test_report(deep) -> None:
    model, x = deep
    network = quantize(model, x, thresholds=0.05)
    report = json.loads(json.dumps(network.notes["report"], allow_nan=False))
    trace: dict = {}
    wanted = model.run(x, trace=trace)
    reference = Reference(network)
    outputs, fired = [], dict.fromkeys(range(-1, 5), 0)
    for row in network.quantize_input(x):
        outputs.append(reference.step_integers(row))
        for s, n in reference.last.events.items():
            fired[s] += n
    error = network.dequantize_output(np.array(outputs)) - wanted
    last = report["vectors"][-1]
    rms = math.sqrt(np.mean(wanted**2))
    assert last["name"] == "out"
    assert last["rms"] == pytest.approx(rms)
    assert last["error_rms"] == pytest.approx(math.sqrt(np.mean(error**2)))
    assert last["relative_max"] == pytest.approx(np.abs(error).max() / rms)
    assert report["output_error"] == pytest.approx(np.abs(error).mean())
    for s, v in zip(range(-1, 5), report["vectors"]):
        assert v["events_per_step"] == fired[s] / len(x)
        assert v["activity"] == pytest.approx(v["events_per_step"] / network.source_size(s))
    assert [(m["layer"], m["source"]) for m in report["matrices"]] == [
        ("fc1", "input"),
        ("gru1", "fc1"),
        ("gru1", "gru1"),
        ("gru2", "gru1"),
        ("gru2", "gru2"),
        ("fc2", "gru2"),
        ("out", "fc2"),
    ]
    assert all(m["snr_db"] > 25 for m in report["matrices"])


# -- container ------------------------------------------------------------------------------------


def saved(path: Path, deep) -> Network:
    model, x = deep
    model = Model(8, model.layers[:3], "deep")
    model.layers[1].initial["h"] = np.linspace(-1, 1, 16)
    try:
        network = quantize(model, x, thresholds=0.05, threshold_recurrent=0.1)
    finally:
        model.layers[1].initial.clear()
    network.save(path)
    return network


def test_save_and_load_are_exact(deep, tmp_path: Path) -> None:
    network = saved(tmp_path / "net.safetensors", deep)
    loaded = Network.load(tmp_path / "net.safetensors")
    x = network.quantize_input(deep[1][:50])
    a, b = Reference(network), Reference(loaded)
    for row in x:
        assert np.array_equal(a.step_integers(row), b.step_integers(row))
        assert a.last == b.last
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "net.safetensors"
    ).read_bytes()
    for left, right in zip(network.layers, loaded.layers):
        for key in ("name", "cell", "units", "shift", "write_shift", "fraction", "mode"):
            assert getattr(left, key) == getattr(right, key)
        assert (left.threshold, left.threshold_recurrent) == (
            right.threshold,
            right.threshold_recurrent,
        )
        assert left.initial.keys() == right.initial.keys()
    assert loaded.notes == json.loads(json.dumps(network.notes))


def rewrite(path: Path, change) -> None:
    """Changes header and tensors of a saved network."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()["stillnet"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    header = change(header, tensors) or header
    save_file(
        tensors, path, {"stillnet": header if isinstance(header, str) else json.dumps(header)}
    )


OTHER = "made by another version of stillnet; quantize again"
CHANGES = [
    (lambda h, t: {**h, "version": 1}, "has network format 1, this stillnet reads 3; quantize .*"),
    (lambda h, t: {**h, "version": 9}, "has network format 9, this stillnet reads 3; quantize .*"),
    (lambda h, t: "[]", "has network format None, this stillnet reads 3; quantize .*"),
    (lambda h, t: "{", "is not a readable stillnet network .*; make it again with .*"),
    (lambda h, t: t.pop("1/weight/0") is None, f"has no tensor '1/weight/0': {OTHER}"),
    (lambda h, t: t.pop("1/bias/ch") is None, f"has no tensor '1/bias/ch': {OTHER}"),
    (lambda h, t: t.update({"1/mask": t["1/bias/ch"]}), f"has an unknown tensor '1/mask': {OTHER}"),
    (lambda h, t: h["layers"][0].update(thresholds=True), f"has no tensor '0/thresholds': {OTHER}"),
    (lambda h, t: h.update(input_thresholds=True), f"has no tensor 'input/thresholds': {OTHER}"),
    (lambda h, t: {**h, "input_mode": "both"}, r"is damaged \('BOTH'\); quantize again"),
    (lambda h, t: {**h, "layers": 3}, "is damaged .*; quantize again"),
    (
        lambda h, t: h["layers"][0].update(cell="lstm9"),
        "needs cell 'lstm9' for layer 'fc1', which is unknown; load the file that registers it: "
        r"stillnet --cells FILE.py COMMAND \.\.\.",
    ),
    (lambda h, t: h["layers"][0].update(threshold="a"), "is damaged .*; quantize again"),
]
INVALID = [
    (lambda h, t: t.clear() or {**h, "layers": []}, "network 'deep' has no layers"),
    (lambda h, t: {**h, "inputs": 0}, "network 'deep' has 0 inputs, at least 1 needed"),
    (lambda h, t: {**h, "input_threshold": -1}, "input: threshold must be 0 to 131071, not -1"),
    (
        lambda h, t: h["layers"][1].update(threshold_recurrent=1 << 17),
        r"layer 'gru1' \(recurrent\): threshold must be 0 to 131071, not 131072",
    ),
    (lambda h, t: h["layers"][0].update(shift=32), "layer 'fc1': shift 32 or 0 is wrong"),
    (
        lambda h, t: h["layers"][1].update(fraction=3),
        r"layer 'gru1': its matrices have different exponents \[\d+, \d+\]; quantize the .*",
    ),
    (
        lambda h, t: h["layers"][2].update(write_shift=h["layers"][2]["write_shift"] + 1),
        "layer 'gru2': rescale shift .* do not fit exponent .*",
    ),
    (
        lambda h, t: h["layers"][0].update(shift=h["layers"][0]["shift"] - 1),
        "layer 'fc1': rescale shift .* do not fit exponent .*",
    ),
    (
        lambda h, t: h["layers"][0].update(mode="nonzero"),
        "layer 'gru1': fed by delta and by plain events at once; give all of its sources one .*",
    ),
    (
        lambda h, t: t.pop("0/weight/0") is h["layers"][0].update(matrices=[]),
        "layer 'fc1': no matrix feeds it",
    ),
    (
        lambda h, t: h["layers"][0]["matrices"][0].update(source=7),
        "layer 'fc1': source 7 does not exist",
    ),
    (
        lambda h, t: h["layers"][1]["matrices"][0].update(gates=["r", "u", "u"]),
        "layer 'gru1': cell 'gru' has no gate 'u', or it is named twice",
    ),
    (
        lambda h, t: t.update({"0/weight/0": t["0/weight/0"][:, 1:].copy()}),
        r"layer 'fc1': weights from input have shape \(1, 11, 8\) and type int8, expected .*",
    ),
    (
        lambda h, t: t.update({"0/weight/0": t["0/weight/0"].astype(np.int16)}),
        "layer 'fc1': weights from input have shape .* and type int16, expected .*, int8",
    ),
    (
        lambda h, t: t.update({"0/bias/y": t["0/bias/y"][1:].copy()}),
        r"layer 'fc1': bias 'y' has shape \(11,\), expected \(12,\)",
    ),
    (
        lambda h, t: t["0/bias/y"].__setitem__(3, 0x7FFFFFFF),
        r"layer 'fc1': row 3 of gate 'y' can reach \d+, more than 32 bits hold; .*",
    ),
    (
        lambda h, t: t["1/initial/h"].__setitem__(3, 16385),
        "layer 'gru1': initial state 'h' exceeds 16384, the bound that .*",
    ),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_damaged_files(change, message: str, deep, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    saved(path, deep)
    rewrite(path, change)
    with refused(f"'{path}' {message}"):
        Network.load(path)


def test_every_key_is_there_and_no_other(deep, tmp_path: Path) -> None:
    """Nothing of a network is guessed."""
    path = tmp_path / "net.safetensors"
    parts = {
        f"'{path}'": lambda h: h,
        f"layer 1 of '{path}'": lambda h: h["layers"][1],
        f"matrix 0 of layer 2 of '{path}'": lambda h: h["layers"][2]["matrices"][0],
    }
    saved(path, deep)
    whole = path.read_bytes()
    for where, part in parts.items():
        keys: list[str] = []
        rewrite(path, lambda h, t, part=part, keys=keys: keys.extend(part(h)))
        assert len(keys) >= 5
        for key in set(keys) - {"version"}:  # a file without that one is of version None
            path.write_bytes(whole)
            rewrite(path, lambda h, t, part=part, key=key: part(h).pop(key) and None)
            with refused(f"{where} has no key '{key}': {OTHER}"):
                Network.load(path)
        path.write_bytes(whole)
        rewrite(path, lambda h, t, part=part: part(h).update(masks=[]))
        with refused(f"{where} has an unknown key 'masks': {OTHER}"):
            Network.load(path)
        path.write_bytes(whole)


def test_thresholds_and_multipliers_come_back(deep, tmp_path: Path) -> None:
    """What the JSON says is there besides what every network has."""
    path = tmp_path / "net.safetensors"
    network = saved(path, deep)
    network.input_thresholds = np.arange(8)
    network.layers[0].thresholds = np.arange(12)
    network.layers[0].scale = {"y": np.full(12, 7)}
    network.layers[0].unit_exponents = network.input_exponents = None
    network.layers[1].scale, network.layers[1].unit_exponents = None, np.arange(16)
    network.save(path)
    loaded = Network.load(path)
    np.testing.assert_array_equal(loaded.input_thresholds, np.arange(8))
    np.testing.assert_array_equal(loaded.layers[0].thresholds, np.arange(12))
    np.testing.assert_array_equal(loaded.layers[0].scale["y"], np.full(12, 7))
    assert loaded.layers[1].scale is None and loaded.input_exponents is None
    np.testing.assert_array_equal(loaded.layers[1].unit_exponents, np.arange(16))
    assert loaded.layers[1].thresholds is None and loaded.layers[2].unit_exponents is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("steps"), f"the network's QuantizeReport has no key 'steps': {OTHER}"),
        (lambda r: r["vectors"][0].pop("name"), f".* VectorError has no key 'name': {OTHER}"),
        (lambda r: r["matrices"][0].update(x=1), f".* WeightError has an unknown key 'x': {OTHER}"),
    ],
)
def test_reports_of_other_versions(change, message: str, deep, tmp_path: Path) -> None:
    network = saved(tmp_path / "net.safetensors", deep)
    assert describe_network(network).report.steps == network.notes["report"]["steps"]
    change(network.notes["report"])
    with refused(message):
        describe_network(network)


@pytest.mark.parametrize(("change", "message"), INVALID)
def test_invalid_networks(change, message: str, deep, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    saved(path, deep)
    rewrite(path, change)
    with refused(message):
        Network.load(path)


def test_files_that_are_no_networks(deep, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "net.safetensors"
    with refused(f"network file '{path}' does not exist"):
        Network.load(path)
    with refused(f"network file '{tmp_path}' does not exist"):
        Network.load(tmp_path)
    for data in (b"", b"hello", b"\x89PNG" * 100, bytes(1000)):
        path.write_bytes(data)
        with refused(f"'{path}' is not a readable stillnet network .*; make it again with .*"):
            Network.load(path)
    save_file({"a": np.zeros(3)}, path)
    with refused(f"'{path}' is a safetensors file but not a stillnet network; make one with .*"):
        Network.load(path)
    saved(path, deep)
    whole = path.read_bytes()
    for cut in (7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with refused(f"'{path}' is not a readable stillnet network .*; make it again with .*"):
            Network.load(path)


def test_saving_is_complete_or_absent(deep, tmp_path: Path) -> None:
    network = saved(tmp_path / "net.safetensors", deep)
    with refused(f"cannot write '{tmp_path}/none/net.st': No such file or directory; choose .*"):
        network.save(tmp_path / "none" / "net.st")
    network.layers[0].shift = 40
    before = (tmp_path / "net.safetensors").read_bytes()
    with refused("layer 'fc1': shift 40 or 0 is wrong"):
        network.save(tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
