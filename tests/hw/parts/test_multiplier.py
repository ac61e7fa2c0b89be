"""The multiplier: exact products in both of its forms, and the block that the ECP5 form uses."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from amaranth.back import verilog

from stillnet.boards.build.synthesis import Family
from stillnet.hw.lanes.lanes import Lanes
from stillnet.hw.parts.multiplier import MULTIPLIER_LATENCY, Multiplier
from stillnet.sw.contract.config import EngineConfig

BLOCK = """
// MULT18X18D as FPGA-TN-02205 describes it, as far as the multiplier uses it: each register exists
// where its clock is named.
module MULT18X18D(input {pins_in}, input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
                  input CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
                  output {pins_out});
  parameter REG_INPUTA_CLK = "NONE";
  parameter REG_INPUTB_CLK = "NONE";
  parameter REG_PIPELINE_CLK = "NONE";
  parameter REG_OUTPUT_CLK = "NONE";
  parameter GSR = "ENABLED";
  wire [17:0] a = {{{a}}}, b = {{{b}}};
  reg [17:0] a_reg, b_reg;
  reg [35:0] p_reg;
  wire [17:0] a_used = REG_INPUTA_CLK == "CLK0" ? a_reg : a;
  wire [17:0] b_used = REG_INPUTB_CLK == "CLK0" ? b_reg : b;
  wire [35:0] a_wide = {{{{18{{SIGNEDA & a_used[17]}}}}, a_used}};
  wire [35:0] b_wide = {{{{18{{SIGNEDB & b_used[17]}}}}, b_used}};
  wire [35:0] p = a_wide * b_wide;
  always @(posedge CLK0) if (RST0) begin a_reg <= 0; b_reg <= 0; p_reg <= 0; end
    else if (CE0) begin a_reg <= a; b_reg <= b; p_reg <= p; end
  assign {{{p}}} = REG_OUTPUT_CLK == "CLK0" ? p_reg : p;
endmodule
"""

BENCH = """
module bench;
  reg clk = 0;
  reg signed [{a}-1:0] a;
  reg signed [{b}-1:0] b;
  wire signed [{a}+{b}-1:0] product;
  reg [63:0] operands [0:{count}-1];
  integer i;
  multiplier dut(.clk(clk), .rst(1'b0), .a(a), .b(b), .product(product));
  initial begin
    $readmemh("operands.hex", operands);
    for (i = 0; i < {count} + {latency}; i = i + 1) begin
      if (i < {count}) begin a = operands[i][31:0]; b = operands[i][63:32]; end
      if (i >= {latency}) $display("%0d", product);
      #1 clk = 1; #1 clk = 0;
    end
  end
endmodule
"""


def block() -> str:
    names = {c: [f"{c.upper()}{i}" for i in range(36 if c == "p" else 18)] for c in "abcp"}
    return BLOCK.format(
        pins_in=", ".join(names["a"] + names["b"] + names["c"]),
        pins_out=", ".join(names["p"]),
        **{c: ", ".join(reversed(names[c])) for c in "abp"},
    )


@pytest.mark.parametrize("platform", [None, Family()], ids=["plain", "ecp5"])
@pytest.mark.parametrize("widths", [(18, 18), (8, 17), (17, 17), (3, 18)])
def test_products_are_exact(platform, widths, tmp_path: Path):
    random.seed(str(widths))
    pairs = [
        (a, b)
        for a in (-(1 << (widths[0] - 1)), -1, 0, 1, (1 << (widths[0] - 1)) - 1)
        for b in (-(1 << (widths[1] - 1)), -1, 0, 1, (1 << (widths[1] - 1)) - 1)
    ]
    for _ in range(200):
        pairs.append(tuple(random.randrange(-(1 << (w - 1)), 1 << (w - 1)) for w in widths))
    text = "".join(f"{b & 0xFFFFFFFF:08x}{a & 0xFFFFFFFF:08x}\n" for a, b in pairs)
    (tmp_path / "operands.hex").write_text(text)
    design = verilog.convert(Multiplier(*widths), name="multiplier", platform=platform)
    assert ("MULT18X18D" in design) == (platform is not None)
    bench = BENCH.format(a=widths[0], b=widths[1], count=len(pairs), latency=MULTIPLIER_LATENCY)
    (tmp_path / "bench.v").write_text(design + block() + bench)
    command = ["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["vvp", "bench"], cwd=tmp_path, capture_output=True, text=True)
    # In a cycle's display stands what the operands of two cycles before give.
    assert [int(line) for line in done.stdout.split()] == [a * b for a, b in pairs]


def test_every_lane_has_one_block_on_an_ecp5():
    config = EngineConfig(lanes=4, units=16, accumulators=32, inputs=4, layers=1, matrices=2)
    design = verilog.convert(Lanes(config), name="lanes", platform=Family())
    instances = re.findall(r"MULT18X18D #\(", design)
    assert len(instances) in (1, config.lanes)  # lanes of one kind may share a module
    assert not re.search(r"\$signed\(\w+\) \* \$signed", design)


@pytest.mark.parametrize("bits", [0, 19])
def test_wrong_widths_are_refused(bits):
    with pytest.raises(ValueError, match="must be 1 to 18"):
        Multiplier(bits, 8)
