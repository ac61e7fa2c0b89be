"""What holds for all tests."""

import gc

import pytest
from amaranth._unused import MustUse
from hypothesis import settings

# Tests describe hardware that they never build. Amaranth warns of it when it is collected, which
# may be in a later test, one that counts warnings.
MustUse._MustUse__silence = True  # type: ignore[attr-defined]

# Elaboration makes many objects that live until its end: a fifth of its time went into looking for
# cycles among them. The last number bounds how much of what is done waits to be collected.
gc.set_threshold(50_000, 10, 10)

LONGEST_FIRST = (
    "boards/test_boards",
    "sim/test_testbenches",
    "sw/host/test_c_driver",
    "sw/host/test_driver",
    "sw/host/test_deploy",
    "proofs/test_proofs",
    "docs/test_pages",
    "hw/host/test_link_gateware",
    "sw/quantization/test_quantize",
    "hw/test_engine",
    "hw/test_components",
    "hw/test_engine_cells",
    "hw/compact/test_compact_engine",
    "hw/verilog/test_generate",
    "hw/memory/test_sdram",
    "sw/quantization/test_planes",
    "hw/host/test_flash_boot",
    "boards/test_gowin_boards",
    "hw/test_engine_budgets",
    "boards/test_ice40_boards",
    "hw/memory/test_sdram_power_down",
    "sw/search/test_search",
    "sw/compression/test_compress",
    "mutations/test_sdram_mutations",
    "hw/test_engine_formats",
    "hw/memory/test_memory_ports",
    "hw/memory/test_spram_port",
    "hw/memory/test_crossing",
    "sw/importers/test_import_keras_whole",
    "sim/test_bench_activity",
    "integration/test_wheel",
    "sim/test_bench",
    "sw/packing/test_engine_fit",
    "mutations/test_format_mutations",
    "sw/host/test_driver_budgets",
    "sw/importers/test_import_quantize",
    "sw/quantization/test_numbers",
)
"""Files that take ten seconds of a processor and more. A file stays in one process: a long one that
comes last would leave the others idle."""


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis chooses the same each time, but where slow tests run: there it chooses anew."""
    settings.register_profile("same each time", derandomize=True)
    if "not slow" in (config.option.markexpr or ""):
        settings.load_profile("same each time")


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether slow tests run too: then a test of many seeds takes all of them."""
    return "not slow" not in (request.config.option.markexpr or "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others keep their order."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
