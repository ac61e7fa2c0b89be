"""The generated Verilog of whole cores, driven through their own buses."""

from __future__ import annotations

import pytest

from stillnet.hw.core import Core, axi_address_bits, core_ports
from stillnet.sim.testbenches import run_testbench
from stillnet.sw.contract.config import PRESETS, EngineConfig
from tests.support.sampling import some


@pytest.mark.parametrize(
    ("memory", "own"),
    some(
        [("axi4", "memory_errors"), ("ram", "beyond_the_ram"), ("port", None)],
        ("axi4", "memory_errors"),
    ),
)
def test_core_bench(memory, own):
    result = run_testbench("core", seed=1, MEMORY=memory)
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
