"""Two planes of eight bits: the same function, formats that fit each other, and what they win."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.sim.bench.accuracy import KINDS, random_model
from stillnet.sw.contract.config import PRESETS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import steps_per_second
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.host.transport import DEFAULT_BAUD
from stillnet.sw.model.model import Model
from stillnet.sw.model.planes import PLANE_BITS, two_planes
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.network.sequence import Layout, Trace
from stillnet.sw.packing.engine_fit import fit, lacking, missing
from stillnet.sw.packing.packer import pack
from stillnet.sw.quantization.checking.advice import (
    BAUD,
    FREE_DB,
    advice_of_planes,
    free_planes,
    free_words,
    lost_presets,
    words_of_planes,
)
from stillnet.sw.quantization.quantizer import AUTO, quantize
from stillnet.sw.quantization.report import run_quantized
from tests.support.sampling import some


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
@pytest.mark.parametrize("kind", some(KINDS, "lstm"))
def test_sixteen_bits_of_weights_are_worth_three_more(kind: str, method: str) -> None:
    model, x = random_model(kind, np.random.default_rng(7), 100, steps=300)
    wanted = model.run(x)
    one = Reference(quantize(model, x, method=method)).run(x)
    network = quantize(model, x, method=method, planes=names(model))
    found = snr_db(wanted, Reference(network).run(x))
    assert found.min() >= 58, "rounding of vectors, with room for other recordings, is what is left"
    assert found.min() >= snr_db(wanted, one).min() + 18


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


def poor() -> tuple[Model, np.ndarray]:
    """A small network that eight bits harm, and a recording."""
    return random_model("gru", np.random.default_rng(2), 10, steps=400)


def run_of(network: Network, x: np.ndarray) -> Trace:
    return run_quantized(network, Layout([len(x)]), x)


@pytest.mark.parametrize(
    ("kind", "seed", "scale"),
    some([("gru", 2, 10), ("lstm", 3, 1), ("dense", 1, 100), ("conv", 1, 100)], ("gru", 2, 10)),
)
def test_planes_are_given_where_they_are_free(kind: str, seed: int, scale: float) -> None:
    model, x = random_model(kind, np.random.default_rng(seed), scale, steps=600)
    heard = x[:400]
    wanted = model.run(x)[400:]
    one, two = quantize(model, heard), quantize(model, heard, planes=AUTO)
    before, after = (snr_db(wanted, Reference(n).run(x)[400:]).min() for n in (one, two))
    assert after >= FREE_DB + 10 > FREE_DB > before, "on steps that they did not see"
    assert two.notes["options"]["planes"] == names(model)
    now, then = words_of_planes(one, run_of(one, heard), names(model))
    assert now < then <= free_words(one)
    (said,) = two.notes["report"]["advice"]
    assert said.startswith(f"weights of {', '.join(names(model))} have 16 bits, as two planes")
    told = f"{free_words(one):,.0f}; --planes never leaves them out"
    lost = [n for n in PRESETS if not missing(one, PRESETS[n]) and missing(two, PRESETS[n])]
    assert lost == lost_presets(model, names(model)) and set(lost) <= {"tiny"}
    assert said.endswith(told + (", and then preset tiny is large enough" if lost else ""))
    assert two.row_scale == one.row_scale
    assert set(lacking(two, PRESETS["axi64"])) == set(lacking(one, PRESETS["axi64"]))


def test_a_preset_that_becomes_too_small_says_what_to_do() -> None:
    model, x = poor()
    one, two = quantize(model, x), quantize(model, x, planes=AUTO)
    assert lost_presets(model, names(model)) == ["tiny"]
    assert pack(one, PRESETS["tiny"]).data
    with pytest.raises(
        StillnetError, match=r"'matrices', or with --fit, or quantize with --planes never$"
    ):
        pack(two, PRESETS["tiny"])
    assert pack(two, fit(two, PRESETS["tiny"])).data


def test_a_large_network_keeps_its_words() -> None:
    """A step of 15,000 words, and a link that takes as long as 1,000 of them."""
    rng = np.random.default_rng(9)
    model = Model(2, name="large").gru(
        rng.normal(0, 0.4, (600, 2)), rng.normal(0, 0.05, (600, 200)), np.zeros(600)
    )
    model.dense(rng.normal(0, 0.1, (1, 200)), np.zeros(1))
    x = np.cumsum(rng.normal(0, 0.1, (60, 2)), axis=0)
    network = quantize(model, x, method="nearest")
    result = run_of(network, x)
    assert words_of_planes(network, result, [])[0] > free_words(network)
    assert free_planes(model, network, result, [1.0, 1.0], 0.0) == []
    assert "--planes gru0,dense1" in advice_of_planes(model, network, result, (0, 30.0))[0]


def test_layers_are_taken_by_their_noise_per_word() -> None:
    model, x = poor()
    network = quantize(model, x, method="nearest")
    result = run_of(network, x)
    assert free_planes(model, network, result, [1.0, 99.0], 0.02) == ["dense1"]
    assert free_planes(model, network, result, [99.0, 1.0], 0.02) == ["gru0"]
    assert free_planes(model, network, result, [99.0, 1.0], 0.0) == ["gru0", "dense1"]
    assert free_planes(model, network, result, [99.0, 1.0], 1.0) == []


@pytest.mark.parametrize("depth", [2, 4, 6, 7, 8])
def test_no_preset_becomes_too_small(depth: int) -> None:
    """Those for memory outside the chip have eight layers and 32 matrices."""
    rng = np.random.default_rng(depth)
    model = Model(5, name="deep")
    for _ in range(depth):
        model.dense(rng.normal(0, 0.5, (5, 5)), rng.normal(0, 0.1, 5))
    x = rng.normal(0, 1, (60, 5))
    network = quantize(model, x, method="nearest")
    chosen = free_planes(model, network, run_of(network, x), [1.0] * depth, 0.0)
    assert len(chosen) == min(depth, 8 - depth), "each reads a source of its own"
    doubled = quantize(model, x, method="nearest", planes=chosen)
    for name in ("sdram16", "axi64", "axi512"):
        assert not missing(network, PRESETS[name]) and not missing(doubled, PRESETS[name])


def test_no_planes_with_thresholds_or_where_they_are_left_out() -> None:
    model, x = poor()
    for given in ({"thresholds": 1 / 64}, {"method": "nearest"}, {"max_error": 0.5}):
        assert quantize(model, x, planes=AUTO, **given).notes["options"]["planes"] == []
    assert quantize(model, x).notes["options"]["planes"] == []


def test_what_is_free_is_counted_for_the_link_of_boards() -> None:
    assert BAUD == DEFAULT_BAUD
    model, x = poor()
    network = quantize(model, x, method="nearest")
    seconds = 1 / steps_per_second(10, 5, DEFAULT_BAUD)
    assert free_words(network) == pytest.approx(seconds * 200e6 / 8)


@pytest.mark.parametrize(("kind", "scale", "seed"), [("dense", 10, 1), ("conv", 10, 0)])
def test_recordings_outside_calibration_lose_nothing_to_planes(
    kind: str, scale: float, seed: int
) -> None:
    """Units of these reach three times what calibration shows, and no format may be the finer for
    its second plane."""
    model, x = random_model(kind, np.random.default_rng([seed, scale]), scale)
    heard, unheard = np.split(x, 2)
    wanted = model.run(unheard)
    one, two = (
        snr_db(wanted, Reference(quantize(model, heard, planes=p)).run(unheard)).min()
        for p in ((), AUTO)
    )
    assert one > 34 and two > one + 20
