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
    "hw/test_engine_cells",
    "hw/test_engine",
    "boards/test_boards",
    "hw/verilog/test_generate",
    "sim/test_testbenches",
    "sim/test_bench_activity",
    "hw/test_engine_formats",
    "mutations/test_engine_mutations",
    "hw/memory/test_memory_ports",
    "hw/host/test_link_gateware",
    "docs/test_pages",
    "sw/packing/test_engine_fit",
    "sw/host/test_c_driver",
    "sw/host/test_driver",
    "mutations/test_format_mutations",
    "boards/test_block_ram",
    "hw/compact/test_compact_engine",
    "integration/test_s5_published_rtl",
    "hw/memory/test_sdram",
    "mutations/test_cell_mutations",
    "mutations/test_sdram_mutations",
    "sim/test_run_rtl",
    "sw/quantization/test_quantize",
    "hw/host/test_flash_boot",
    "hw/test_core",
    "proofs/test_proofs",
    "boards/test_ice40_boards",
    "hw/memory/test_spram_port",
    "sim/test_bench",
    "sim/test_bench_weights",
    "integration/test_wheel",
)
"""Files that take more than half a minute. A file stays in one process: a long one that comes last
would leave the others idle."""


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
