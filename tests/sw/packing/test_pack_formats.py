"""Packed images of every format, read back from the prose of docs/image.md and docs/weights.md."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import FORMATS
from stillnet.sw.packing.packer import costs, pack
from tests.support.networks.formats import format_case
from tests.support.networks.random import engine_config
from tests.support.oracles.weights import Column, read_column

ALL = {"formats": FORMATS, "columns": 512}
CONFIGS = {
    "8": engine_config(lanes=8, **ALL),
    "8 int4": engine_config(lanes=8, int4=True, row_scale=True, hot_words=300, **ALL),
    "2 int4": engine_config(lanes=2, int4=True, element_thresholds=True, **ALL),
    "64": engine_config(lanes=64, cell_width=2, hot_words=2000, **ALL),
}


def tables(data: bytes, at: int, slots: int) -> dict[int, list[int]]:
    """Entries by table."""
    found: dict[int, list[int]] = {}
    for k in range(16 * slots):
        entry = int.from_bytes(data[at + 4 * k : at + 4 * k + 4], "little")
        table, value = entry >> 28 & 7, entry & 0x1FFFF
        if table:
            assert (entry >> 31) == (table not in found)
            found.setdefault(table, []).append(value)
    return found


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(12))
def test_an_independent_reader_finds_every_matrix(name: str, seed: int) -> None:
    config: EngineConfig = CONFIGS[name]
    network = format_case(seed, config).network
    image = pack(network, config)
    data, lanes = image.data, config.lanes

    def record(k: int) -> int:
        return int.from_bytes(data[64 * k : 64 * k + 4], "little")

    layers, matrices = record(1) >> 16 & 255, record(1) >> 24
    first = 9 + 8 * layers
    hot_at, hot_columns = record(8), 0
    entries = tables(data, 64 * (first + 8 * matrices), record(6) >> 17)
    kinds = set()
    found = []
    for j in range(matrices):
        a, base, c, d, e = (record(first + 8 * j + k) for k in range(5))
        layer = network.layers[a >> 5 & 31]
        blocks, kind = d >> 20, a >> 10 & 7
        assert blocks == -(-layer.units // config.multipliers)
        if kind == 1:
            continue
        gates = [g for k, g in enumerate(CELLS[layer.cell].accumulators) if a >> 14 >> k & 1]
        matrix = next(
            m
            for m in layer.matrices
            if (m.source + 1, set(m.gates)) == (a & 31, set(gates)) and id(m) not in found
        )
        found.append(id(matrix))
        kinds.add(kind)
        if kind:
            assert e >> 16 == len(gates) * blocks
        entry = Column(
            kind,
            4 if a >> 22 & 1 else 8,
            len(gates),
            blocks,
            a >> 23 & 31,
            1 << (a >> 28 & 3),
            lanes,
            config.int4,
        )
        pitch = c & 0xFFFF
        for column in range(matrix.weight.shape[2]):
            word = base + column * pitch + (hot_at if a >> 30 & 1 else 0)
            if a >> 31:
                place = entries[4][(e & 0xFFFF) + column]
                word = hot_at + (place & 0xFFFF) if place >> 16 else word
                hot_columns += place >> 16
            start = word * lanes
            hot_columns += a >> 30 & 1
            length = pitch if kind not in (2, 5) else entries[1][(e & 0xFFFF) + column]
            weights = read_column(entry, data[start : start + length * lanes])
            for k, g in enumerate(gates):
                expected = matrix.weight[matrix.gates.index(g), :, column]
                np.testing.assert_array_equal(weights[k, : layer.units], expected)
                assert not weights[k, layer.units :].any()
    assert len(found) == sum(len(layer.matrices) for layer in network.layers)
    assert record(3) - hot_at <= config.hot_words
    assert config.hot_words or not hot_columns
    assert config.hot_words < 2000 or hot_columns  # there is room for everything
    if config.element_thresholds:
        for i, layer in enumerate(network.layers):
            at = image.notes["layers"][i]["unit_base"] * config.cell_width
            expected = np.zeros(layer.units) if layer.thresholds is None else layer.thresholds
            assert entries[3][at : at + layer.units] == expected.tolist()


def test_costs_say_what_each_format_takes() -> None:
    config = CONFIGS["8 int4"]
    network = format_case(3, config).network
    rows = costs(network, config)
    assert len(rows) == sum(len(layer.matrices) for layer in network.layers)
    for row in rows:
        assert row["words"][row["format"]] > 0 and "dense" in row["words"]


def test_a_network_with_more_than_the_engine_is_refused() -> None:
    network = format_case(5, CONFIGS["8 int4"]).network
    network.layers[0].scale = {}
    plain = engine_config(lanes=8, int4=True, **ALL)
    message = (
        f"network '{network.name}' has multipliers of rows, engine 'test' does not; generate one "
        "with row_scale = true, or with --fit, or quantize with --weight-steps layer"
    )
    with pytest.raises(StillnetError, match=f"^{re.escape(message)}$"):
        pack(network, plain)
