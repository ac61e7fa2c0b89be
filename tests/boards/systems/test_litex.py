"""A LiteX system with a RISC-V CPU: the C driver runs networks on the core, integer for integer.

LiteX, its CPU and its memory controller are by others; the program is compiled by GCC.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillnet.sim.testbenches.example import gru_dense, small_config
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import Image
from tests.support.litex import example

MEMORIES: dict[str, dict[str, Any]] = {
    "core": {"memory": "ram", "ram_words": 1024},
    "bus": {"memory": "axi4", "address_bits": 16},
    "sdram": {"memory": "axi4", "address_bits": 16},
}
"""The engine for each place of weights."""


def engine(weights: str) -> EngineConfig:
    return small_config(lanes=8, **MEMORIES[weights])


def vectors(steps: int, inputs: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).integers(-900, 901, (steps, inputs)), axis=0)


@pytest.mark.systems
@pytest.mark.parametrize("weights", ["core", "bus", pytest.param("sdram", marks=pytest.mark.slow)])
def test_outputs_are_those_of_the_reference(weights: str) -> None:
    """Load through registers, steps by interrupt and streamed, counters; weights in each place."""
    network, config = gru_dense(8), engine(weights)
    rows = vectors(12, network.inputs)
    outcome = example().run(network, rows, config, weights=weights, limit=4_000_000)
    reference = Reference(network, config.lanes)
    assert np.array_equal(outcome.outputs, [reference.step_integers(row) for row in rows])
    assert 1 <= outcome.interrupts <= 2
    assert 0 < outcome.busy < outcome.cycles


@pytest.mark.systems
def test_a_wrong_image_is_told() -> None:
    """The sentence of the C driver reaches the console."""
    module = example()
    whole = module.pack

    def damaged(*arguments: Any) -> Image:
        image = whole(*arguments)
        data = bytearray(image.data)
        data[len(image.hardware) - 1] ^= 1
        return Image(bytes(data), image.notes)

    module.pack = damaged
    network = gru_dense(8)
    with pytest.raises(StillnetError, match="error the engine refused the image: its checksum is"):
        module.run(network, vectors(3, network.inputs), engine("core"), limit=4_000_000)


@pytest.mark.systems
def test_what_cannot_be(tmp_path: Path) -> None:
    from stillnet.boards.systems.litex_core import Stillnet, add_stillnet

    class Soc:
        mem_map = {"main_ram": 0x4000_0000}
        platform = None

    for config, keys, sentence in (
        (small_config(memory="ram", ram_words=1024), {"weights": "bus"}, "choose core$"),
        (small_config(memory="axi4"), {"weights": "core"}, "choose bus or sdram$"),
        (small_config(memory="axi4"), {"weights": "sdram"}, r"call its add_sdram\(\) before"),
        (small_config(memory="axi4"), {"weights": "disk"}, "cannot have its weights in 'disk'"),
        (small_config(memory="port"), {"weights": "bus"}, "has a bare memory port; choose one"),
        (small_config(memory="axi4"), {"weights": "bus", "memory_base": 3}, "no multiple of a wor"),
    ):
        with pytest.raises(StillnetError, match=sentence):
            add_stillnet(Soc(), config, folder=tmp_path, **keys)
    with pytest.raises(StillnetError, match="'nothing' is neither a preset"):
        Stillnet(None, "nothing", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_litex(tmp_path: Path) -> None:
    """Nothing else needs it, and what is missing is said."""
    code = (
        "import sys; sys.modules['litex'] = None\n"
        "import stillnet.boards.catalogue, stillnet.boards.systems\n"
        "import stillnet.boards.systems.litex_core\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "StillnetError: this module needs LiteX" in done.stderr
    assert done.stderr.rstrip().endswith("pip install litex")
