"""No quiet loss between the float model and the integers: every cell, scales over decades, judges.

The judge of rounded weights is onnxruntime's own dynamic quantization, a scale for each channel, on
the same model and recordings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillnet.sim.bench.accuracy import random_model
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.equalize import element_exponents, scaled_input, scaled_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.quantization.limits import Budget
from stillnet.sw.quantization.preparation import Wish, make_plan, prepare
from stillnet.sw.quantization.quantizer import quantize
from tests.support.oracles.bounds import check
from tests.support.sampling import some


def walk(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    x = np.zeros((steps, size))
    for t in range(1, steps):
        x[t] = 0.95 * x[t - 1] + rng.normal(0, 0.3, size)
    return x


def model_of(kind: str, rng: np.random.Generator, scale: float) -> tuple[Model, np.ndarray]:
    return random_model(kind, rng, scale, steps=400)


def worst_db(network: Network, model: Model, x: np.ndarray) -> float:
    """Of all outputs on a recording that calibration did not see."""
    wanted, got = model.run(x), Reference(network).run(x)
    return float(
        np.min(10 * np.log10(np.var(wanted, axis=0) / np.mean((got - wanted) ** 2, axis=0)))
    )


@pytest.mark.parametrize("scale", some([1, 30, 1000], 1000))
@pytest.mark.parametrize("kind", ["dense", "gru", "lstm", "conv"])
def test_every_output_keeps_38_db_whatever_the_scales(kind: str, scale: float) -> None:
    rng = np.random.default_rng([scale, len(kind)])
    model, x = model_of(kind, rng, scale)
    network = quantize(model, x[:300])
    assert min(network.notes["report"]["outputs"]["snr_db"]) >= 38
    assert worst_db(network, model, x) >= 32, "on steps that it did not see"
    assert not network.notes["report"]["doubts"]
    check(model, network, x[:60])


@pytest.mark.parametrize("kind", ["dense", "gru"])
def test_elements_are_scaled_exactly(kind: str) -> None:
    model, x = model_of(kind, np.random.default_rng(4), 300)
    vectors: dict[int, list[np.ndarray]] = {}
    wanted = model.run(x, trace=vectors)
    traces = {s: np.array(v) for s, v in vectors.items()}
    elements = element_exponents(model, traces, np.abs(x).max(axis=0))
    assert INPUT in elements and 1 in elements and (kind == "gru") == (0 not in elements)
    got = scaled_model(model, elements).run(scaled_input(x, elements))
    np.testing.assert_array_equal(got / 2.0 ** elements[1], wanted)


def loud_part(size: int, factor: float, steps: int = 500) -> np.ndarray:
    """Sines of which the third fifth is louder."""
    x = np.sin(np.arange(steps)[:, None] * np.pi * (0.1 + 0.05 * np.arange(size)))
    x[2 * steps // 5 : 3 * steps // 5] *= factor
    return x


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of which no element stands out, so that none is scaled."""
    return rng.choice([-1.0, 1.0], shape)


@pytest.mark.parametrize("source", [INPUT, 0])
def test_a_part_that_is_louder_is_clipped_as_the_others_would(source: int) -> None:
    """What it costs is the error of the float network's outputs."""
    rng = np.random.default_rng(2)
    first, second = signs(rng, 9, 3), signs(rng, 2, 9)
    model = Model(3).dense(first, np.zeros(9), "relu").dense(second, np.zeros(2))
    x = loud_part(3, 4.0)
    base = prepare(model, [x])
    assert base.elements == {}

    def expected(headroom: float) -> float:
        v = x if source == INPUT else np.maximum(x @ first.T, 0)
        limit = headroom * np.abs(np.concatenate([v[:200], v[300:]])).max()
        v = np.concatenate([v[:200], np.clip(v[200:300], -limit, limit), v[300:]])
        y = (np.maximum(v @ first.T, 0) if source == INPUT else v) @ second.T
        return float(np.sum(np.mean((y - model.run(x)) ** 2, axis=0)))

    for headroom in (1.25, 2.5):
        assert expected(headroom) > 0
        assert base.clipping.noise(source, headroom) == pytest.approx(expected(headroom))
    assert base.clipping.noise(source, 4.001) == 0
    short = prepare(model, [x[180:260]])
    assert short.clipping.noise(source, 1.25) == 0, "too short to tell"


def test_an_element_that_has_grown_is_measured_by_its_own_peak() -> None:
    """A small input that fills its vector after scaling clips where it alone becomes louder."""
    rng = np.random.default_rng(3)
    x = loud_part(4, 1.0) * [1.0, 1.0, 1.0, 0.001]
    model = Model(4).dense(signs(rng, 6, 4) * [1.0, 1.0, 1.0, 1000.0], np.zeros(6))
    assert prepare(model, [x]).clipping.noise(INPUT, 1.25) == 0
    x[200:300, 3] *= 4
    base = prepare(model, [x])
    assert base.elements[INPUT][3] > 5
    assert base.clipping.noise(INPUT, 1.25) > 0 == base.clipping.noise(INPUT, 4.001)


def test_what_saturates_forgives_clipping() -> None:
    def lost(gain: float) -> float:
        model = Model(3).dense(gain * np.eye(3), np.zeros(3), "tanh")
        base = prepare(model.dense(np.ones((2, 3)), np.zeros(2)), [loud_part(3, 4.0)])
        return base.clipping.noise(INPUT, 1.25) / np.sum(np.var(base.judged.wanted, axis=0))

    assert 0 < lost(3.0) < 0.01 * lost(0.1)


def test_a_range_is_as_wide_as_clipping_would_cost() -> None:
    rng = np.random.default_rng(2)
    model = Model(3).dense(signs(rng, 9, 3), np.zeros(9), "tanh")
    model.dense(signs(rng, 2, 9), np.zeros(2))

    def headroom(factor: float, unseen: bool) -> float:
        x = loud_part(3, factor)
        plan = make_plan(prepare(model, [x]), Wish(), rows=True, unseen=unseen)
        return 2.0 ** (15 - plan.choice.fraction[INPUT]) / np.abs(x).max()

    assert headroom(8.0, unseen=True) >= 8
    assert headroom(8.0, unseen=True) >= 2 * headroom(8.0, unseen=False)
    assert headroom(1.0, unseen=True) == headroom(1.0, unseen=False)


def test_small_inputs_without_larger_weights_are_hardly_scaled() -> None:
    """Ten powers of two would make them equal, and the rounding of their weights much louder."""
    rng = np.random.default_rng(5)
    scale = np.where(np.arange(10) < 5, 1.0, 1e-3)
    model = Model(10).dense(rng.normal(0, 0.4, (6, 10)), name="out")
    exponents = quantize(model, walk(rng, 300, 10) * scale).input_exponents
    assert exponents is None or exponents.max() <= 3


def onnxruntime_error(model: Model, x: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(float outputs, outputs with int8 weights of a scale a channel) of onnxruntime."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes, tensors, below = [], [], "x"
    for i, layer in enumerate(model.layers):
        weight = layer.matrices[0].weight[0].T.astype(np.float32)
        tensors += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(layer.bias["y"].astype(np.float32), f"b{i}"),
        ]
        nodes.append(helper.make_node("MatMul", [below, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [f"y{i}"]))
        below = f"y{i}"
        if layer.cell == "relu":
            nodes.append(helper.make_node("Relu", [below], [f"r{i}"]))
            below = f"r{i}"
    shape = [None, model.inputs]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(below, TensorProto.FLOAT, [None, model.outputs])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, folder / "float.onnx")
    quantize_dynamic(
        folder / "float.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8
    )
    return tuple(  # type: ignore[return-value]
        ort.InferenceSession(str(folder / f"{name}.onnx")).run(None, {"x": x.astype(np.float32)})[0]
        for name in ("float", "int8")
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_worse_than_onnxruntimes_own_int8(seed: int, tmp_path: Path) -> None:
    model, x = model_of("dense", np.random.default_rng(seed), 3)
    wanted, theirs = onnxruntime_error(model, x, tmp_path)
    ours = Reference(quantize(model, x)).run(x)
    assert np.allclose(wanted, model.run(x), atol=1e-4)
    error = [np.sqrt(np.mean((y - wanted) ** 2)) for y in (ours, theirs)]
    assert error[0] <= error[1]


def test_second_order_rounding_beats_the_nearest() -> None:
    model, x = model_of("gru", np.random.default_rng(7), 1)
    ratios = [
        min(quantize(model, x, method=m).notes["report"]["outputs"]["snr_db"])
        for m in ("nearest", "second-order")
    ]
    assert ratios[1] > ratios[0] + 1.5


def test_rows_have_steps_only_where_it_is_worth_it() -> None:
    rng = np.random.default_rng(8)
    x = walk(rng, 300, 6)
    even = Model(6).dense(rng.choice([-0.99, 0.99], (4, 6)), name="out")
    assert not quantize(even, x).row_scale
    uneven = Model(6).dense(rng.normal(0, 1, (40, 6)) * np.linspace(0.05, 1, 40)[:, None], name="h")
    uneven.dense(rng.normal(0, 1, (4, 40)) / np.linspace(0.05, 1, 40), name="out")
    assert quantize(uneven, x, method="nearest", row_steps=None).row_scale
    assert not quantize(uneven, x, row_steps=False).row_scale


def test_what_a_relu_hides_takes_no_range() -> None:
    """Outputs that are mostly far below zero: their size there is nothing that a row must reach."""
    rng = np.random.default_rng(14)
    x = walk(rng, 300, 6)
    weight = rng.normal(0, 1, (8, 6))
    model = Model(6).dense(weight, -4.0 * np.abs(x @ weight.T).max(axis=0) + 0, "relu", name="out")
    model.layers[0].bias["y"][:4] = -np.quantile(x @ weight[:4].T, 0.98, axis=0)
    network = quantize(model, x, row_steps=True)
    assert min(network.notes["report"]["outputs"]["snr_db"][:4]) > 30


def test_a_sum_of_two_accumulators_is_not_capped() -> None:
    """cx of a GRU beyond +-8, which r times ch takes back."""
    rng = np.random.default_rng(15)
    units, x = 16, walk(rng, 400, 6)
    weight, bias = rng.normal(0, 0.3, (3 * units, 6)), np.zeros(3 * units)
    bias[2 * units :] = 11.0  # of the candidate, from x
    other = np.zeros(3 * units)
    other[:units], other[2 * units :] = 8.0, -11.0  # r is one, and ch takes 11 back
    model = Model(6).gru(weight, rng.normal(0, 0.2, (3 * units, units)), bias, other, name="gru")
    network = quantize(model.dense(rng.normal(0, 0.4, (3, units))), x, row_steps=True)
    assert min(network.notes["report"]["outputs"]["snr_db"]) > 30


# -- doubts ---------------------------------------------------------------------------------------


def doubts(model: Model, x: np.ndarray, **options) -> str:
    return " / ".join(quantize(model, x, **options).notes["report"]["doubts"])


def test_calibration_that_says_too_little() -> None:
    model, x = model_of("dense", np.random.default_rng(9), 1)
    assert "calibration has 5 steps only" in doubts(model, x[:5])
    assert "calibration is silent" in doubts(model, np.zeros_like(x))
    assert "calibration never changes" in doubts(model, np.ones_like(x))
    still = x.copy()
    still[:, [2, 7]] = 0.5
    assert "input 2, 7 never changes in calibration" in doubts(model, still)


def test_an_output_that_never_moves_again_is_named() -> None:
    model, x = model_of("dense", np.random.default_rng(10), 1)
    model.layers[-1].matrices[0].weight[0, 3] *= 1e-3
    lazy = quantize(model, x, thresholds={"dense0": 50.0})
    assert any(
        "never changes, which it does in the float model; choose smaller" in d for d in lazy.doubts
    )
    rough = quantize(model, x, thresholds=0.6)
    assert any("is poor: " in d for d in rough.doubts)


def test_budgets_hold_for_each_output() -> None:
    """The mean over all hides one output that is alone in what it does."""
    rng = np.random.default_rng(11)
    model = Model(20).dense(np.eye(20), name="out")
    x = walk(rng, 300, 20)
    x[:, 13] *= 0.02
    errors = {}
    for name, budget in {
        "mean": Budget(0.1, each=False),
        "each": Budget(0.1),
        "relative": Budget(0.1, relative=True),
    }.items():
        network = quantize(model, x, max_error=budget, row_steps=False)
        error = np.abs(Reference(network).run(x) - model.run(x)).mean(axis=0)
        errors[name] = error
        assert budget.measure(Reference(network).run(x), model.run(x)) <= 0.1
    assert errors["each"].max() <= 0.1 < errors["mean"].max() * 1.5
    assert errors["relative"][13] <= 0.1 * np.std(x[:, 13])


def test_inputs_beyond_the_calibrated_range_are_counted() -> None:
    model, x = model_of("dense", np.random.default_rng(12), 1)
    network = quantize(model, x, row_steps=False)
    assert network.clipped_inputs(x) == 0
    assert network.clipped_inputs(100 * x) == np.count_nonzero(
        (np.floor(100 * x * network.units_of(INPUT) + 0.5) > 32767)
        | (np.floor(100 * x * network.units_of(INPUT) + 0.5) < -32768)
    )


def test_a_budget_that_cannot_be_kept_names_the_output() -> None:
    model, x = model_of("dense", np.random.default_rng(13), 1)
    with pytest.raises(
        StillnetError, match=r"^max_error 0.001% cannot be kept: the mean error of output \d is "
    ):
        quantize(model, x, max_error=Budget(1e-5, relative=True))


def test_a_gate_that_stays_shut_keeps_its_state_for_thousands_of_steps():
    """Rows of a gate have small weights, so steps that would saturate it early: at 8, where a
    sigmoid is .9997, half of the state is lost in 3,000 steps."""
    rng, units = np.random.default_rng(5), 12
    inputs, recurrent = rng.normal(0, 2.0, (36, 2)), 0.1 * rng.normal(size=(36, units))
    inputs[units : 2 * units] *= 0.01
    recurrent[units : 2 * units] *= 0.1
    bias = np.zeros(3 * units)
    bias[units + 1 : 2 * units] = 13.0  # all but the first
    model = Model(2, name="keeps").gru(inputs, recurrent, bias)
    model.layers[0].initial["h"] = rng.uniform(-0.9, 0.9, units)
    x = 0.3 * rng.normal(size=(3000, 2))
    network = quantize(model, x[:400], row_steps=True)
    wanted, got = model.run(x)[-1, 1:], Reference(network).run(x)[-1, 1:]
    assert np.max(np.abs(wanted)) > 0.5
    assert np.max(np.abs(got - wanted)) < 0.02
