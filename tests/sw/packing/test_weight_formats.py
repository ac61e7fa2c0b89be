"""Formats of columns: what the packer writes is what an independent reader finds."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.columns import candidates, choose, encode
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import scale_row
from stillnet.sw.contract.image import FORMATS, Kind
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.network.reference import Reference
from tests.support.oracles.weights import Column, read_column

ALL = {"formats": FORMATS, "columns": 4096}
PATTERNS = ("all", "none", "any", "one lane", "one row", "one column", "blocks", "balanced")


def pattern(name: str, shape: tuple[int, int, int], lanes: int, seed: int) -> np.ndarray:
    """A mask of weights that are kept, (gates, units, columns)."""
    rng = np.random.default_rng(seed)
    gates, units, columns = shape
    if name == "all":
        return np.ones(shape, bool)
    if name == "none":
        return np.zeros(shape, bool)
    if name == "any":
        return rng.random(shape) < rng.choice([0.02, 0.1, 0.3, 0.5, 0.9])
    mask = np.zeros(shape, bool)
    if name == "one lane":
        mask[:, rng.integers(lanes) :: lanes] = True
        mask |= rng.random(shape) < 0.05
    elif name == "one row":
        mask[rng.integers(gates), rng.integers(units)] = True
    elif name == "one column":
        mask[:, :, rng.integers(columns)] = True
    elif name == "blocks":
        kept = rng.random((gates, -(-units // 8), -(-columns // 8))) < 0.5
        mask = kept.repeat(8, axis=1).repeat(8, axis=2)[:, :units, :columns]
    else:
        places = rng.integers(0, 4, (gates, units, columns))
        mask = places == (np.arange(units) // lanes % 4)[None, :, None]
    return mask


@settings(max_examples=150, deadline=None)
@given(
    lanes=st.sampled_from([2, 8, 64]),
    int4=st.booleans(),
    bits=st.sampled_from([8, 4]),
    name=st.sampled_from(PATTERNS),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 150), st.integers(1, 5)),
    ends=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_an_independent_reader_finds_every_weight(
    lanes: int, int4: bool, bits: int, name: str, shape: tuple, ends: bool, seed: int
) -> None:
    config = EngineConfig(lanes=lanes, int4=int4, **ALL)
    rng = np.random.default_rng(seed)
    limit = 1 << (bits - 1)
    weight = rng.integers(-limit, limit, shape)
    if ends:
        weight = rng.choice([-limit, limit - 1], shape)
    weight = (weight * pattern(name, shape, config.multipliers, seed)).astype(np.int8)
    gates, units, columns = shape
    layouts = list(candidates(weight, bits, config, everything=True))
    assert {x.kind for x in layouts} >= {Kind.DENSE, Kind.BLOCK, Kind.BITMAP, Kind.STEP}
    for layout in layouts:
        words = encode(weight, layout, config)
        assert words.shape == (columns, layout.pitch, lanes) and layout.lengths.min() >= 1
        entry = Column(
            int(layout.kind),
            layout.bits,
            gates,
            layout.blocks,
            layout.kept,
            layout.width,
            lanes,
            int4,
        )
        for c in range(columns):
            length = layout.lengths[c]
            found = read_column(entry, words[c, :length].tobytes())
            np.testing.assert_array_equal(found[:, :units], weight[:, :, c])
            assert not found[:, units:].any() and not words[c, length:].any()


@pytest.mark.parametrize("int4", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_fewest_words_are_chosen(name: str, int4: bool) -> None:
    config = EngineConfig(lanes=8, int4=int4, **ALL)
    rng = np.random.default_rng(4)
    weight = rng.integers(1, 8, (3, 96, 20)) * pattern(name, (3, 96, 20), config.multipliers, 5)
    weight = weight.astype(np.int8)
    words = [x.words for x in candidates(weight, 4, config, everything=True)]
    assert choose(weight, 4, config).words == min(words)
    for forced in FORMATS:
        layout = choose(weight, 4, config, forced)
        assert layout.kind == Kind[forced.upper()]
        assert layout.words in words


def test_unstructured_columns_do_not_wait_for_the_fullest_lane() -> None:
    config = EngineConfig(lanes=8, **ALL)
    rng = np.random.default_rng(1)
    shape = (3, 256, 200)
    weight = rng.choice([-3, 5], shape)
    random = np.zeros(shape, np.int8)
    balanced = np.zeros(shape, np.int8)
    for c in range(shape[2]):
        chosen = rng.permutation(768)[:77]
        random.reshape(768, -1)[chosen, c] = weight.reshape(768, -1)[chosen, c]
        for lane in range(8):
            row = rng.permutation(96)[: 10 if lane < 5 else 9]
            gate, block = row // 32, row % 32
            balanced[gate, block * 8 + lane, c] = weight[gate, block * 8 + lane, c]
    assert np.count_nonzero(random) == np.count_nonzero(balanced)
    ours, ideal = choose(random, 8, config).words, choose(balanced, 8, config).words
    fullest = (random.reshape(3, 32, 8, -1) != 0).sum(axis=(0, 1)).max(axis=0)
    assert ours < 1.3 * ideal
    assert fullest.mean() > 1.4 * 77 / 8  # what a column would wait for


# -- the network ----------------------------------------------------------------------------------


def network(**changes: object) -> Network:
    """One dense layer of 3 units on 2 inputs, int4."""
    weight = np.array([[[7, -8], [0, 1], [-3, 0]]], np.int8)
    layer = QuantizedLayer(
        "fc",
        "linear",
        3,
        [QuantizedMatrix(INPUT, ("y",), weight, 4, bits=4)],
        {"y": np.array([5, 0, -5])},
        shift=8,
        write_shift=0,
        fraction=15,
    )
    for name, value in changes.items():
        setattr(layer, name, value)
    return Network(2, 11, [layer], name="small")


def test_new_fields_survive_a_file(tmp_path: Path) -> None:
    net = network(
        scale={"y": np.array([16384, 0, 32767])}, thresholds=np.array([0, 5, (1 << 17) - 1])
    )
    net.input_thresholds = np.array([3, 0])
    net.layers[0].matrices[0].format = "step"
    net.save(tmp_path / "net.safetensors")
    again = Network.load(tmp_path / "net.safetensors")
    layer = again.layers[0]
    assert layer.scale is not None and layer.thresholds is not None
    assert layer.scale["y"].tolist() == [16384, 0, 32767]
    assert layer.thresholds.tolist() == [0, 5, 131071]
    assert again.input_thresholds is not None and again.input_thresholds.tolist() == [3, 0]
    assert (layer.matrices[0].bits, layer.matrices[0].format) == (4, "step")
    assert again.row_scale and again.element_thresholds
    plain = network()
    plain.save(tmp_path / "plain.safetensors")
    plain = Network.load(tmp_path / "plain.safetensors")
    assert not plain.row_scale and not plain.element_thresholds
    assert plain.layers[0].scale is None and plain.layers[0].thresholds is None


def test_row_multipliers_round_half_up_and_saturate() -> None:
    pre = np.array([3, 1, -1, -3, 131071, -131072, 131071])
    multiplier = np.array([8192, 8192, 8192, 8192, 32767, 32767, 16384])
    assert scale_row(pre, multiplier).tolist() == [2, 1, 0, -1, 131071, -131072, 131071]


def test_the_reference_scales_rows_and_compares_elements() -> None:
    net = network(scale={"y": np.array([8192, 16384, 32767])})
    x = np.array([100, -50])
    assert Reference(network()).step_integers(x).tolist() == [1105, -50, -305]
    assert Reference(net).step_integers(x).tolist() == [553, -50, -610]
    net = network()
    net.input_thresholds = np.array([101, 50])
    reference = Reference(net)
    assert reference.step_integers(x).tolist() == [405, -50, -5]
    assert reference.last.events[INPUT] == 1


def test_words_are_those_of_the_packed_columns() -> None:
    config = EngineConfig(lanes=2, int4=True, **ALL)
    reference = Reference(network(), config=config)
    (matrix,) = reference.network.layers[0].matrices
    lengths = matrix.layout("linear", config).lengths
    reference.step_integers(np.array([1, 0]))
    assert reference.last.words == lengths[0]
    reference.step_integers(np.array([5, 9]))
    assert reference.last.words == lengths.sum()
    assert Reference(network(), 2).lanes == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scale": {"y": np.array([1, 2, 1 << 15])}},
            "layer 'fc': multipliers of 'y' must be integers of shape (3,) between 0 and 32767",
        ),
        (
            {"thresholds": np.array([1, 2])},
            "layer 'fc': thresholds have shape (2,) and type int64, expected integers of shape "
            "(3,)",
        ),
        (
            {"thresholds": np.array([1, 2, 1 << 17])},
            "layer 'fc': threshold of element 2 must be 0 to 131071, not 131072",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        network(**change).validate()


def test_formats_and_bits_are_checked() -> None:
    net = network()
    net.layers[0].matrices[0].format = "csr"
    message = (
        "layer 'fc': storage format 'csr' is unknown; known are dense, block, bitmap, place, step"
    )
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        net.validate()
    net.layers[0].matrices[0] = dataclasses.replace(
        net.layers[0].matrices[0], format=None, weight=np.full((1, 3, 2), 8, np.int8)
    )
    message = (
        "layer 'fc': weights from input reach 8 to 8, which are not 4 bits; bits must be 8, or 4 "
        "for weights of -8 to 7"
    )
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        net.validate()
    message = (
        "a matrix asks for format 'step', engine 'custom' reads dense; generate one with it, for "
        "instance with --fit, or leave the choice to the packer"
    )
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        choose(np.ones((1, 4, 4), np.int8), 8, EngineConfig(), "step")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"formats": ("dense", "coo"), "columns": 1},
            "format 'coo' is unknown; known are dense, block, bitmap, place, step",
        ),
        (
            {"formats": ("block",), "columns": 1},
            "formats must be different names with 'dense' among them, not ('block',)",
        ),
        (
            {"formats": ("dense", "step")},
            "columns must be positive with formats block or step or hot_words and 0 otherwise, not "
            "0 for dense, step and hot_words = 0",
        ),
        ({"int4": 1}, "int4 must be true or false, not 1"),
    ],
)
def test_options_are_checked(changes: dict, message: str) -> None:
    with pytest.raises(StillnetError, match=f"^engine config: {re.escape(message)}$"):
        EngineConfig(**changes)
