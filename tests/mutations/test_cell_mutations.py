"""The tests of cells, tested: pipelines, cell units and images that are wrong must be noticed.

As in ``test_engine_mutations`` a mutation changes one line; one whose line is gone fails too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stillnet.hw import engine as engine_module
from stillnet.hw.cell import unit as cell_unit_module
from stillnet.hw.verilog.text import to_verilog
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.network.network import QuantizedLayer
from stillnet.sw.packing import packer as pack_module
from tests.hw.test_components import check_pipeline
from tests.hw.test_engine_cells import CONFIGS, SEEDS
from tests.support.mutations import built, changed, noticed, put_in_place
from tests.support.networks.cells import random_cell_case
from tests.support.networks.random import Bench

EXAMPLES = SEEDS
"""Networks within which a mutation must be noticed."""


# -- pipelines ----------------------------------------------------------------------------------

PIPELINES: dict[str, tuple[str, int, tuple[str, str]]] = {
    "select swapped": ("egru", 1, ("out.eq(Mux(args[0], x, y))", "out.eq(Mux(args[0], y, x))")),
    "zero passes the gate": ("s5_imag", 1, ("out.eq(x > y)", "out.eq(x >= y)")),
    "an event at the threshold": ("egru", 1, ("out.eq(x > y)", "out.eq(x >= y)")),
    "and for or": (
        "s5_imag",
        1,
        ('args[0] & args[1] if kind == "and" else args[0] | args[1]', "args[0] & args[1]"),
    ),
    "lower part of a wide operand with a sign": (
        "s5_state",
        1,
        ("return Cat(part, Const(0, 1)).as_signed()", "return part.as_signed()"),
    ),
    "carry between the halves of a sum": (
        "s5_state",
        1,
        ("        carry = total[width]\n", "        carry = Const(0, 1)\n"),
    ),
    "saturates what wraps around": (
        "s5_state",
        1,
        (
            "return value[:bits].as_signed()\n",
            "return (value >> (len(value) - bits)).as_signed()\n",
        ),
    ),
    "a shared multiplier works a phase early": (
        "lstm",
        2,
        (".append((start % sharing, ", ".append(((start - 1) % sharing, "),
    ),
    "a waiting value is taken in the wrong phase": (
        "lstm",
        3,
        ("with m.If(self.phase == ready % sharing):", "with m.If(self.phase == 0):"),
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_wrong_pipeline_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, sharing, change = PIPELINES[name]
    mutant = changed("cell.pipeline", change)
    built(lambda: mutant.CellPipeline(CELLS[cell], sharing))
    monkeypatch.setattr("tests.hw.test_components.CellPipeline", mutant.CellPipeline)
    with pytest.raises(AssertionError):
        check_pipeline(CELLS[cell], sharing, 300)


# -- engines ------------------------------------------------------------------------------------

ENGINES: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    "wrong peer base": (
        "s5",
        "fetch.scheduler",
        "Scheduler",
        ("(layer.peer0, layer.peer1)[k]", "(layer.peer1, layer.peer0)[k]"),
    ),
    "the own row instead of the peer's": (
        "s5",
        "cell.unit",
        "CellUnit",
        ("read_row = Mux(read_peer, peer_row, read_row)", "read_row = s.row"),
    ),
    "peers are read while they are written": (
        "s5",
        "cell.unit",
        "CellUnit",
        ("            follows &= ~alone\n", ""),
    ),
    "state truncated to 16 bits": (
        "s5",
        "cell.unit",
        "CellUnit",
        (
            "shape = signed(config.state_bits(name))",
            "shape = signed(min(16, config.state_bits(name)))",
        ),
    ),
    "parameters of the next row": (
        "recurrent",
        "cell.unit",
        "CellUnit",
        (
            "enumerate(cell.parameters, len(cell.accumulators)):",
            "enumerate(reversed(cell.parameters), len(cell.accumulators)):",
        ),
    ),
    "parameters are not loaded": (
        "recurrent",
        "fetch.scheduler",
        "Scheduler",
        (
            "Mux(s.matrix.recurrent, ~constant, unloaded)",
            "Mux(s.matrix.recurrent, 0, unloaded)",
        ),
    ),
    "a pass goes on behind what a probe finished": (
        "s5",
        "fetch.scheduler",
        "Scheduler",
        ("            decided |= s.finish & s.probed[-1]\n", ""),
    ),
    "a pass begins behind the first matrix": (
        "s5",
        "fetch.scheduler",
        "Scheduler",
        ("m.d.sync += s.first.eq(s.scan + 1)", "m.d.sync += s.first.eq(s.scan + 2)"),
    ),
    "biases are found a place too far": (
        "s5",
        "fetch.scheduler",
        "Scheduler",
        ("biases.place.eq(s.scan)", "biases.place.eq(s.scan + 1)"),
    ),
    "units enter in any phase": (
        "shared",
        "cell.unit",
        "CellUnit",
        ("may_issue &= s.phase == (-self._rescale_latency - 1) % sharing", "pass"),
    ),
}


def seen(config: EngineConfig, verilog: str | None = None) -> str | None:
    """How random networks notice that something is wrong, if they do."""
    cases = (random_cell_case(seed, config) for seed in range(EXAMPLES))
    return noticed(Bench(config, verilog), cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_wrong_engine_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, module, component, change = ENGINES[name]
    put_in_place(monkeypatch, module, component, change)
    verilog = to_verilog(engine_module.Engine(CONFIGS[config]), "engine")
    assert seen(CONFIGS[config], verilog), f"{name}: {EXAMPLES} examples passed"


def test_a_lost_parameter_row_in_the_image_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack_module.block_values

    def lossy(layer: QuantizedLayer, *options: Any) -> np.ndarray:
        rows = whole(layer, *options).copy()
        if CELLS[layer.cell].parameters:
            rows[-1] = 0
        return rows

    monkeypatch.setattr(pack_module, "block_values", lossy)
    assert seen(CONFIGS["recurrent"])


def test_the_engine_uses_the_cell_pipeline_that_is_tested() -> None:
    assert cell_unit_module.CellPipeline.__module__ == "stillnet.hw.cell.pipeline"
