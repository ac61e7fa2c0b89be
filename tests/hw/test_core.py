"""The generated Verilog of whole cores, driven through their own buses."""

from __future__ import annotations

import numpy as np
import pytest

from stillnet.hw.core import Core, axi_address_bits, core_ports
from stillnet.hw.verilog.generate import core_verilog
from stillnet.sim.testbenches.runner import run_bench
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer, QuantizedMatrix
from tests import SUPPORT


def small_config(**changes) -> EngineConfig:
    values = {
        "cells": ("gru", "linear"),
        "units": 32,
        "inputs": 16,
        "accumulators": 64,
        "layers": 2,
        "matrices": 8,
        "address_bits": 12,
        "fetch_columns": 8,
        "fetch_words": 16,
        "prefetch_blocks": 2,
    }
    return EngineConfig(name="test", **{**values, **changes})


def gru_dense(seed: int, inputs: int = 5, units: int = 9, outputs: int = 3) -> Network:
    """A GRU and a dense layer with random numbers, thresholds above 0."""
    rng = np.random.default_rng(seed)

    def matrix(source: int, gates: tuple[str, ...], rows: int, columns: int) -> QuantizedMatrix:
        weight = rng.integers(-60, 61, (len(gates), rows, columns)).astype(np.int8)
        return QuantizedMatrix(source, gates, weight, 7)

    def bias(gates: tuple[str, ...], rows: int) -> dict[str, np.ndarray]:
        return {g: rng.integers(-20000, 20000, rows) for g in gates}

    gru = QuantizedLayer(
        name="gru",
        cell="gru",
        units=units,
        matrices=[
            matrix(INPUT, ("r", "u", "cx"), units, inputs),
            matrix(0, ("r", "u", "ch"), units, units),
        ],
        bias=bias(("r", "u", "cx", "ch"), units),
        shift=13,
        write_shift=3,
        fraction=11,
        threshold=20,
    )
    dense = QuantizedLayer(
        name="dense",
        cell="linear",
        units=outputs,
        matrices=[matrix(0, ("y",), outputs, units)],
        bias=bias(("y",), outputs),
        shift=16,
        write_shift=0,
        fraction=10,
    )
    network = Network(inputs, 11, [gru, dense], input_threshold=30)
    network.validate()
    return network


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({"lanes": 4, "memory": "axi4"}, "memory_errors"),
        ({"lanes": 8, "memory": "ram", "ram_words": 1024}, "beyond_the_ram"),
        ({"lanes": 2, "memory": "port"}, None),
    ],
    ids=lambda value: value["memory"] if isinstance(value, dict) else None,
)
def test_core_bench(tmp_path, changes, own):
    config = small_config(**changes)
    (tmp_path / "test.toml").write_text(config.to_toml())
    gru_dense(config.lanes).save(tmp_path / "net.safetensors")
    result = run_bench(
        core_verilog(config),
        SUPPORT / "bench_core.py",
        top="core",
        env={"CONFIG": tmp_path / "test.toml", "NETWORK": tmp_path / "net.safetensors"},
        seed=config.lanes,
        # One C++ file: the wheel's makefile does not know how g++ takes precompiled headers.
        # Building takes longer than running, so it is done without optimisation.
        build_args=("--output-split", "0", "-CFLAGS", "-O0"),
    )
    expected = ["network", "image_of_another_engine"] + ([own] if own else [])
    assert list(result.tests) == expected
    assert result.figures["words"] > 0


@pytest.mark.parametrize("name", PRESETS)
def test_ports_are_members(name):
    config = PRESETS[name]
    members = Core(config).signature.members
    ports = {p.name: p for p in core_ports(config)}
    assert set(ports) == {"clk", "rst", *members}
    assert all(p.meaning and p.group for p in ports.values())
    assert ("m_axi_araddr" in ports) == (config.memory == "axi4")
    assert ("mem_data" in ports) == (config.memory == "port")
    assert Core(config).config is config


def test_wide_addresses():
    config = EngineConfig(lanes=64, address_bits=32, memory="axi4")
    assert axi_address_bits(config) == 38
    assert {p.name: p.width for p in core_ports(config)}["m_axi_araddr"] == 38
