"""From the bits of a Gowin bitstream to a netlist: cells, and the nets between their pins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .bits import Bitstream, Tile
from .netlist import Bit, Cell

__all__ = ["Found", "find_cells"]

_RESET_PIN = {"R": "RESET", "C": "CLEAR", "S": "SET", "P": "PRESET"}
_WIDTHS = {"1": 1, "2": 2, "4": 4, "9": 9, "16": 18}
_MULTIPLIERS = [(mac, half) for mac in (0, 1) for half in (0, 1)]


@dataclass
class Found:
    """What is in the bits.

    Attributes
    ----------
    cells : dict of str to Cell
        Their pins have names of wires in the place of nets.
    driver : dict of str to str
        Cell by the wire that it drives.
    pads : dict of str to str
        Cell of a pad, by the pad's name (``IOR11B``).
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    driver: dict[str, str] = field(default_factory=dict)
    pads: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        kind: str,
        inputs: dict[str, str | Bit],
        outputs: dict[str, str],
        **parameters: Any,
    ) -> None:
        """A cell with its pins."""
        self.cells[name] = {
            "type": kind,
            "parameters": parameters,
            "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
            "connections": {pin: [wire] for pin, wire in {**inputs, **outputs}.items()},
        }
        self.driver |= dict.fromkeys(outputs.values(), name)


def find_cells(bits: Bitstream) -> Found:
    """All cells that are configured. Most of them drive nothing: the chip's defaults."""
    found = Found()
    for tile, bels in bits.bels.items():
        known = bits.database[tile].bels
        place = f"R{tile[0] + 1}C{tile[1] + 1}"
        ram = "RAM16" in bels
        if "LUT0" in known:
            _logic(bits, found, tile, place, ram)
        for name in bels:
            if name.startswith("IOB"):
                _pad(bits, found, tile, name)
            elif name.startswith("RPLLA"):
                _pll(bits, found, tile)
        if "BSRAM" in known:
            _block_ram(bits, found, tile, place)
        if "MULT18X1800" in known:
            _multipliers(bits, found, tile, place)
    return found


# -- logic ----------------------------------------------------------------------------------------


def _table(flags: set[Any]) -> int:
    """A LUT's table: a bit that is set in the bitstream is a 0 in it."""
    return 0xFFFF & ~sum(1 << f for f in flags)


def _logic(bits: Bitstream, found: Found, tile: Tile, place: str, ram: bool) -> None:
    bels = bits.bels[tile]

    def wire(name: str) -> str:
        return bits.wire(tile, name)

    for k in range(8):
        pins: dict[str, str | Bit] = {pin: wire(f"{pin}{k}") for pin in "ABCD"}
        table = _table(bels.get(f"LUT{k}", set()))
        name = f"{place}_{k}"
        if ram and k < 6:
            if k < 4:
                pins |= {"DATA": wire("ABCD"[k] + "5"), "CLK": wire("CLK2"), "WRE": wire("LSR2")}
                pins |= {f"W{pin}": wire(f"{pin}4") for pin in "ABCD"}
                found.add(f"{name}_RAM", "RAM16", pins, {"F": wire(f"F{k}")}, INIT=table)
        elif f"ALU{k}" in bels:
            # Adder modes are tables of the LUT, so the table is what counts.
            pins["CIN"] = wire(f"CIN{k}")
            out = {"F": wire(f"F{k}")}
            out["COUT"] = wire(f"CIN{k + 1}") if k < 5 else _next(tile)
            found.add(f"{name}_ALU", "ALU", pins, out, INIT=table)
        else:
            found.add(f"{name}_LUT", "LUT", pins, {"F": wire(f"F{k}")}, INIT=table)
        if f"DFF{k}" in bels and not (ram and k >= 4):
            _flip_flop(found, f"{name}_FF", bels[f"DFF{k}"], wire, k)
    for select, (zero, one, selected) in _MUXES.items():
        pins = {"I0": wire(zero), "I1": wire(one), "S0": wire(f"SEL{select}")}
        found.add(f"{place}_MUX{select}", "MUX2", pins, {"O": wire(selected)})


_MUXES = {
    0: ("F0", "F1", "OF0"),
    1: ("OF2", "OF0", "OF1"),
    2: ("F2", "F3", "OF2"),
    3: ("OF5", "OF1", "OF3"),
    4: ("F4", "F5", "OF4"),
    5: ("OF6", "OF4", "OF5"),
    6: ("F6", "F7", "OF6"),
}
"""Multiplexers behind the LUTs, by their select; the one of two tiles is left out."""


def _next(tile: Tile) -> str:
    """Where the last carry of a tile goes."""
    return f"R{tile[0] + 1}C{tile[1] + 2}_CIN0"


def _flip_flop(found: Found, name: str, flags: set[Any], wire: Any, k: int) -> None:
    (kind,) = flags - {"SD"}
    if kind == "RAM":
        return
    if not kind.startswith("DFF"):
        raise StillnetError(f"a latch stands in the bitstream ({name}); please report this")
    pins: dict[str, str | Bit] = {
        "D": wire(f"SEL{k}" if "SD" in flags else f"F{k}"),
        "CLK": wire(f"CLK{k // 2}"),
        "CE": wire(f"CE{k // 2}"),
    }
    letter = kind[-1]
    if letter in _RESET_PIN:
        pins["LSR"] = wire(f"LSR{k // 2}")
    found.add(name, "DFF", pins, {"Q": wire(f"Q{k}")}, KIND=kind)


# -- pads -----------------------------------------------------------------------------------------


def _pad(bits: Bitstream, found: Found, tile: Tile, bel: str) -> None:
    """A pad, and the registers of its cell.

    The bits have two marks of a cell whose registers are in use, which are the same for each of
    them. The register of what comes in has a wire of its own behind it, so it is always there; that
    of what goes out is there where the marks are. That of the enable is not, as nextpnr leaves it
    in the fabric. A register whose enable or reset has a wire uses it; that the reset waits for
    the clock is not in the bits.
    """
    kinds = bits.bels[tile][bel]
    side = bel[-1]
    ports = bits.ports(tile, bel)
    pad = bits.pin_name(tile, bel)
    logic = bits.bels[tile].get(f"IOLOGIC{side}", set())
    marked = f"IOLOGIC{side}" in bits.database[tile].bels and bool(
        bits.bits_set(_fuses(bits, tile, bel), f"IOLOGIC{side}")
    )
    data: str | Bit = ports["I"]
    enable: str | Bit = ports["OE"]
    output = kinds & {"OBUF", "IOBUF", "TBUF"}
    if f"IOLOGIC{side}" in bits.database[tile].bels:
        pins = bits.ports(tile, f"IOLOGIC{side}")
        enabled, reset = (bits.is_signal(pins[pin]) for pin in ("CE", "RESET"))
        clock: dict[str, str | Bit] = {"CLK": pins["CLK"], "CE": pins["CE"] if enabled else "1"}
        clock |= {"LSR": pins["RESET"]} if reset else {}
        kind = "DFFR" if reset else "DFF"
        found.add(f"{pad}_IREG", "DFF", {"D": ports["O"], **clock}, {"Q": pins["Q4"]}, KIND=kind)
        if any("ODDR" in str(flag) for flag in logic):
            both: dict[str, str | Bit] = {"D0": pins["D0"], "D1": pins["D1"], "CLK": pins["CLK"]}
            found.add(f"{pad}_ODDR", "ODDR", both, {"Q": f"{pad}_O"})
            data = f"{pad}_O"
        elif marked and output:
            found.add(f"{pad}_OREG", "DFF", {"D": data, **clock}, {"Q": f"{pad}_O"}, KIND=kind)
            data = f"{pad}_O"
    way = "BIDIR" if "IOBUF" in kinds or "TBUF" in kinds else "OUTPUT" if output else "INPUT"
    inputs: dict[str, str | Bit] = {"I": data, "T": enable if way == "BIDIR" else "0"}
    if way == "INPUT":
        inputs = {"I": "0", "T": "1"}
    found.add(f"{pad}_PAD", "PAD", inputs, {"O": ports["O"]}, DIR=way)
    found.cells[f"{pad}_PAD"]["connections"]["B"] = [f"{pad}_B"]
    found.pads[pad] = f"{pad}_PAD"


def _fuses(bits: Bitstream, tile: Tile, bel: str) -> Tile:
    """The tile with a pad's bits, which for some is the next one."""
    offset = bits.database[tile].bels[bel].fuse_cell_offset
    return (tile[0] + offset[0], tile[1] + offset[1]) if offset else tile


def _pll(bits: Bitstream, found: Found, tile: Tile) -> None:
    """A PLL, whose bits and pins are in four tiles: the one at the edge, and three beside it."""
    way = 1 if tile[1] == 0 else -1
    parameters: dict[str, str] = {}
    ports: dict[str, str] = {}
    for k in range(4):
        here = tile[0], tile[1] + way * k
        for name, flags in bits.bels[here].items():
            if name.startswith("RPLL"):
                parameters = dict(str(flag).split("=", 1) for flag in flags) | parameters
        for name in ("RPLLA", "RPLLB"):
            if name in bits.database[here].bels:
                ports |= bits.ports(here, name)
    if "INSEL" in parameters:  # in use
        outputs = {pin: ports[pin] for pin in ("CLKOUT", "CLKOUTP", "LOCK")}
        found.add(f"PLL_{tile[0]}_{tile[1]}", "PLL", {}, outputs, **parameters)


# -- blocks ---------------------------------------------------------------------------------------


def _merged(bits: Bitstream, tile: Tile, tiles: int, table: str, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for k in range(tiles):
        found |= bits.attributes((tile[0], tile[1] + k), table, kind)
    return found


def _block_ram(bits: Bitstream, found: Found, tile: Tile, place: str) -> None:
    a = _merged(bits, tile, 3, "BSRAM_DP", "BSRAM")
    if a.get("MODE") != "ENABLE":
        return
    ports = bits.ports(tile, "BSRAM")
    parameters: dict[str, Any] = {"WORDS": bits.first_values(tile)}
    for side in "AB":
        parameters[f"WIDTH_{side}"] = _width(bits, tile, side)
        mode = {"WT": 1, "RBW": 2}.get(a.get(f"DP{side}_MODE", ""), 0)
        parameters[f"MODE_{side}"] = mode
        parameters[f"OUTREG_{side}"] = int(a.get(f"DP{side}_REGMODE") == "OUTREG")
        select = (a.get(f"CS{side}_{k}") == "SET" for k in range(3))
        parameters[f"SELECT_{side}"] = sum((not inverted) << k for k, inverted in enumerate(select))
    parameters["ASYNC"] = int(a.get("OUTREG_ASYNC") == "RESET")
    names = [f"{p}{s}" for s in "AB" for p in ("CLK", "CE", "OCE", "WRE", "RESET")]
    names += [f"AD{s}{k}" for s in "AB" for k in range(14)]
    names += [f"BLKSEL{s}{k}" for s in "AB" for k in range(3)] + [f"DI{k}" for k in range(36)]
    inputs: dict[str, str | Bit] = {pin: ports[pin] for pin in names}
    found.add(
        f"{place}_BSRAM",
        "BSRAM",
        inputs,
        {f"DO{k}": ports[f"DO{k}"] for k in range(36)},
        **parameters,
    )


def _width(bits: Bitstream, tile: Tile, side: str) -> int:
    """Of a port. Its bits are in all three tiles, and each alone fits several widths: the least is
    it."""
    fits = []
    for k in range(3):
        a = bits.attributes((tile[0], tile[1] + k), "BSRAM_DP", "BSRAM")
        if f"DBLW{side}" in a:
            return 36
        fits.append(_WIDTHS[a.get(f"DP{side}_DATA_WIDTH", "16")])
    return min(fits)


def _multipliers(bits: Bitstream, found: Found, tile: Tile, place: str) -> None:
    for mac, half in _MULTIPLIERS:
        a = _merged(bits, tile, 9, f"DSP{mac}", "DSP")
        if not any(key.startswith(f"OR2CIB_EN{half}") for key in a):
            continue
        ports = bits.ports(tile, f"MULT18X18{mac}{half}")
        inputs: dict[str, str | Bit] = {
            f"{p}{k}": ports[f"{p}{k}"] for p in "AB" for k in range(18)
        }
        inputs |= {pin: ports[pin] for pin in ("ASIGN", "BSIGN")}
        outputs = {f"DOUT{k}": ports[f"DOUT{k}"] for k in range(36)}
        where = f"{place}, {mac}{half}"
        found.add(
            f"{place}_MULT{mac}{half}",
            "MULT18X18",
            inputs,
            outputs,
            ATTRIBUTES=a,
            HALF=half,
            PLACE=where,
        )
