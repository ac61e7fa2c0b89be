"""Images: an independent reader finds every weight and bias; damage and misfits are refused."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from stillnet.sw.packing.packer import Image, describe, load_image, pack, place


def network(rng: np.random.Generator, units: int = 13) -> Network:
    """A GRU on 5 inputs and a dense layer of 6, both with random weights."""

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    def biases(names: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
        return {g: rng.integers(-(1 << 24), 1 << 24, count) for g in names}

    gru = QuantizedLayer(
        "gru",
        "gru",
        units,
        [
            QuantizedMatrix(INPUT, ("r", "u", "cx"), weights(3, units, 5), 7),
            QuantizedMatrix(0, ("r", "u", "ch"), weights(3, units, units), 7),
        ],
        biases(("r", "cx", "u", "ch"), units),
        shift=13,
        write_shift=3,
        fraction=11,
        threshold=20,
    )
    dense = QuantizedLayer(
        "dense",
        "sigmoid",
        6,
        [QuantizedMatrix(0, ("y",), weights(1, 6, units), 7)],
        biases(("y",), 6),
        shift=13,
        write_shift=0,
        fraction=14,
    )
    return Network(5, 11, [gru, dense], input_threshold=3, name="small")


def read(data: bytes, lanes: int) -> tuple[list[list[int]], list[dict[str, int]]]:
    """A second reader, written from the prose of docs/image.md: (layers, matrices)."""

    def record(k: int) -> int:
        return int.from_bytes(data[64 * k : 64 * k + 4], "little")

    count_layers, count_matrices = (record(1) >> 16) & 255, record(1) >> 24
    layers = [[record(9 + 8 * i + k) for k in range(8)] for i in range(count_layers)]
    matrices = []
    for j in range(count_matrices):
        a, base, c, d = (record(9 + 8 * count_layers + 4 * j + k) for k in range(4))
        matrices.append(
            {
                "source": a & 31,
                "target": (a >> 5) & 31,
                "kind": (a >> 10) & 7,
                "recurrent": (a >> 13) & 1,
                "gates": (a >> 14) & 255,
                "offset": base * lanes,
                "words": c & 0xFFFF,
                "base": d & 0xFFFF,
                "stride": (d >> 16) & 15,
            }
        )
    return layers, matrices


@pytest.mark.parametrize("lanes", [2, 4, 8, 64])
@pytest.mark.parametrize("units", [1, 13, 64])
def test_an_independent_reader_finds_every_weight_and_bias(lanes: int, units: int) -> None:
    net = network(np.random.default_rng(lanes * 100 + units), units)
    config = EngineConfig(lanes=lanes)
    image = pack(net, config)
    _, matrices = read(image.data, lanes)
    order = {0: ("r", "cx", "u", "ch"), 1: ("y",)}
    found = set()
    for entry in matrices:
        layer = net.layers[entry["target"]]
        gates = [g for k, g in enumerate(order[entry["target"]]) if entry["gates"] >> k & 1]
        blocks = -(-layer.units // lanes)
        raw = np.frombuffer(image.data, np.int8)[entry["offset"] :]
        if entry["kind"] == 1:
            values = raw[: blocks * len(gates) * 4 * lanes].view(np.uint8).astype(np.int64)
            values = values.reshape(blocks, len(gates), 4, lanes)
            total = sum(values[:, :, k] << (8 * k) for k in range(4))
            total = np.where(total >= 1 << 31, total - (1 << 32), total)
            for k, g in enumerate(gates):
                np.testing.assert_array_equal(total[:, k].reshape(-1)[: layer.units], layer.bias[g])
            found.add((entry["target"], "bias"))
            continue
        (matrix,) = (m for m in layer.matrices if m.source + 1 == entry["source"])
        assert entry["words"] == blocks * len(gates)
        assert entry["recurrent"] == (matrix.source >= entry["target"])
        columns = matrix.weight.shape[2]
        values = raw[: columns * entry["words"] * lanes]
        values = values.reshape(columns, blocks, len(gates), lanes)
        for k, g in enumerate(gates):
            rows = values[:, :, k].reshape(columns, -1)
            expected = matrix.weight[matrix.gates.index(g)]
            np.testing.assert_array_equal(rows[:, : layer.units].T, expected)
            assert not rows[:, layer.units :].any()
        found.add((entry["target"], matrix.source))
    assert found == {(0, "bias"), (0, INPUT), (0, 0), (1, "bias"), (1, 0)}


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    image = pack(network(np.random.default_rng(1)), EngineConfig(lanes=4))
    path = tmp_path / "net.img"
    path.write_bytes(image.data)
    assert load_image(path).data == image.data
    rng = np.random.default_rng(2)
    for _ in range(200):
        data = bytearray(image.data)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(StillnetError):
            load_image(bytes(data))
    for length in [0, 3, 4, 100, 512, len(image.data) - 1]:
        with pytest.raises(StillnetError, match="not a stillnet image|cut off"):
            load_image(image.data[:length])
    part = image.hardware
    assert image.data.startswith(part) and len(part) < len(image.data)
    assert zlib.crc32(part[:256] + bytes(4) + part[260:]) == int.from_bytes(
        image.data[256:260], "little"
    )


def test_an_image_of_another_version_is_refused() -> None:
    data = pack(network(np.random.default_rng(1)), EngineConfig(lanes=4)).data
    for version in (0, 2, 4):
        other = data[:64] + version.to_bytes(2, "little") + data[66:]
        with pytest.raises(
            StillnetError,
            match=f"^image has image version {version}, this stillnet reads 3; pack it again$",
        ):
            load_image(other)


def test_the_configuration_of_an_image_is_complete() -> None:
    image = pack(network(np.random.default_rng(1)), EngineConfig(lanes=4))
    assert image.config == EngineConfig(lanes=4)
    config = {k: v for k, v in image.notes["config"].items() if k != "int4"}
    with pytest.raises(StillnetError, match="^engine config: field 'int4' is missing; .* pack or"):
        _ = Image(image.data, {**image.notes, "config": config}).config


def test_describe_explains_an_image() -> None:
    net = network(np.random.default_rng(3))
    config = PRESETS["axi64"]
    result = describe(pack(net, config).data)
    assert result["fingerprint"] == f"{config.fingerprint:08x}"
    assert [layer["name"] for layer in result["layers"]] == ["gru", "dense"]
    assert result["layers"][0]["matrices"][1]["column_words"] == 2 * 3
    json.dumps(result)


def test_fingerprint_follows_the_configuration_and_not_its_name() -> None:
    base = EngineConfig()
    assert EngineConfig(name="other").fingerprint == base.fingerprint
    prints = {base.fingerprint}
    prints |= {
        EngineConfig(**change).fingerprint
        for change in (
            {"lanes": 4},
            {"cells": ("gru",)},
            {"units": 100},
            {"second_threshold": True},
            {"cell_width": 2},
            {"fetch_words": 64},
        )
    }
    assert len(prints) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"units": 16},
            r"^network 'small' needs units = 19, engine 'custom' has 16; .*'units', or with --fit$",
        ),
        ({"inputs": 4}, r"^network 'small' needs inputs = 5, "),
        ({"accumulators": 8}, r"^network 'small' needs accumulators = 10, "),
        ({"layers": 1}, r"^network 'small' needs layers = 2, "),
        ({"matrices": 4}, r"^network 'small' needs matrices = 5, "),
        ({"cells": ("gru",)}, r"^layer 'dense' needs cell 'sigmoid', engine 'custom' has gru; "),
        ({"memory": "ram", "ram_words": 256}, r"needs \d+ words, the on-chip memory .* has 256; "),
        ({"address_bits": 8}, r"needs \d+ words of memory, 8 address bits .* reach 256"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_by_name(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(StillnetError, match=message):
        pack(network(np.random.default_rng(4)), EngineConfig(**change))  # type: ignore[arg-type]


def test_a_second_threshold_needs_an_engine_with_a_second_encoder() -> None:
    net = network(np.random.default_rng(5))
    net.layers[0].threshold_recurrent = 40
    with pytest.raises(StillnetError, match=r"^network 'small' has a separate recurrent threshold"):
        pack(net, EngineConfig())
    pack(net, EngineConfig(second_threshold=True))


def test_a_row_that_could_overflow_is_named() -> None:
    net = network(np.random.default_rng(6))
    net.layers[0].bias["ch"][7] = (1 << 31) - 5
    with pytest.raises(StillnetError, match=r"^layer 'gru': row 7 of gate 'ch' can reach \d+, "):
        pack(net, EngineConfig())


def test_layers_do_not_share_rows_of_any_memory() -> None:
    net = network(np.random.default_rng(7))
    for config in (EngineConfig(lanes=8), EngineConfig(lanes=8, cell_width=4)):
        placement = place(net, config)
        used: set[int] = set()
        for i, layer in enumerate(net.layers):
            rows = -(-layer.units // config.cell_width)
            mine = set(range(placement.unit_base[i], placement.unit_base[i] + rows))
            assert not mine & used
            used |= mine
            assert placement.accumulator_base[i] % 2 == 0


def test_priorities_follow_the_design() -> None:
    """Inputs of upper layers, recurrences of lower layers, network inputs, the last recurrence."""
    net = network(np.random.default_rng(8))
    _, matrices = read(pack(net, EngineConfig()).data, 8)
    order = [(m["source"], m["target"]) for m in matrices if m["kind"] == 0]
    assert order == [(1, 1), (1, 0), (0, 0)]


def test_modes_of_the_input_reach_the_header() -> None:
    net = network(np.random.default_rng(9))
    net.input_mode = Mode.ONE_HOT
    data = pack(net, EngineConfig()).data
    fields = int.from_bytes(data[64 * 5 : 64 * 5 + 4], "little")
    assert fields & 0xFFFF == 1
    assert (fields >> 16) & 3 == Mode.ONE_HOT
    assert (fields >> 18) & 15 == net.input_fraction
    assert re.fullmatch(r"[0-9a-f]{8}", describe(data)["fingerprint"])
