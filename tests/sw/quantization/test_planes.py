"""Two planes of eight bits: the same function, formats that fit each other, and what they win."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.bench.accuracy import KINDS, random_model
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.model.model import Model
from stillnet.sw.network.reference import Reference
from stillnet.sw.quantization.planes import PLANE_BITS, two_planes
from stillnet.sw.quantization.quantizer import quantize


def names(model: Model) -> list[str]:
    return [layer.name for layer in model.layers]


def snr_db(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.var(wanted, axis=0) / np.mean((got - wanted) ** 2, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_function_stays(kind: str) -> None:
    model, x = random_model(kind, np.random.default_rng(3), 30, steps=40)
    doubled, planes = two_planes(model, names(model))
    assert np.array_equal(doubled.run(x), model.run(x))
    assert len(planes.copies) == 2, "of the input and of the first layer"
    for copy, source in planes.copies.items():
        assert np.array_equal(
            doubled.layers[copy].matrices[0].weight[0],
            np.eye(len(x[0])) if source == INPUT else np.eye(24),
        )
    assert two_planes(model, [])[0] is model


@pytest.mark.parametrize("method", ["second-order", "nearest"])
@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_of_weights_are_worth_20_db(kind: str, method: str) -> None:
    model, x = random_model(kind, np.random.default_rng(7), 100, steps=300)
    wanted = model.run(x)
    one = Reference(quantize(model, x, method=method)).run(x)
    network = quantize(model, x, method=method, planes=names(model))
    found = snr_db(wanted, Reference(network).run(x))
    assert found.min() >= 64, "rounding of vectors, states and accumulators is what is left"
    assert found.min() >= snr_db(wanted, one).min() + 20


def test_formats_of_planes_fit_each_other() -> None:
    model, x = random_model("gru", np.random.default_rng(5), 1, steps=200)
    network = quantize(model, x, planes=names(model))
    _, planes = two_planes(model, names(model))
    fraction = {INPUT: network.input_fraction}
    fraction |= {i: layer.fraction for i, layer in enumerate(network.layers)}
    for copy, source in planes.copies.items():
        assert fraction[copy] == fraction[source] - PLANE_BITS
    for layer in network.layers:
        for high in layer.matrices:
            for low in layer.matrices:
                if planes.copies.get(low.source) == high.source and low.gates == high.gates:
                    assert low.fraction == high.fraction + PLANE_BITS
                    assert np.abs(low.weight).max() <= 2**PLANE_BITS - 1
    assert network.notes["options"]["planes"] == names(model)


def test_only_the_layers_that_are_named() -> None:
    model, x = random_model("gru", np.random.default_rng(6), 1, steps=200)
    network = quantize(model, x, planes="dense1")
    assert [layer.name for layer in network.layers] == ["gru0", "gru0.low", "dense1"]
    assert [len(layer.matrices) for layer in network.layers] == [2, 1, 2]


def test_what_has_no_second_plane_is_refused() -> None:
    model, _ = random_model("gru", np.random.default_rng(6), 1, steps=20)
    with pytest.raises(StillnetError, match="no layer 'gru'; the model has gru0, dense1"):
        two_planes(model, ["gru"])
    alone = Model(4).gru(np.zeros((9, 4)), np.zeros((9, 3)), np.zeros(9))
    with pytest.raises(StillnetError, match="reads itself and is the output"):
        two_planes(alone, names(alone))
