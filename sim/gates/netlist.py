"""A netlist of the tools, made ready for simulation.

Yosys and nextpnr write the same form of JSON. What a simulator needs to know beyond it is done
here: what a pin is that nothing drives, where the pads are, and that clocks come from outside in
the place of the PLL.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Bit", "Cell", "Netlist", "Pads"]

Bit = int | str
"""A net's number, or a constant: ``"0"``, ``"1"``, ``"x"``, ``"z"``."""

Cell = dict[str, Any]

_LUT_INPUTS = ("A", "B", "C", "D")

_CONTROLS = ("CLK", "WE", "RST", "CS", "CE", "OCE")
"""Pins of a block RAM that nextpnr ties high where nothing drives them, behind an inverter but for
the enables; the others it ties as a parameter says, or low."""

_OFF = {
    "DP16KD": ("RSTA", "RSTB", *(f"CS{s}{i}" for s in "AB" for i in range(3))),
    "MULT18X18D": ("SOURCEA", "SOURCEB", *(f"RST{i}" for i in range(4))),
    "ODDRX1F": ("RST",),
    "IOLOGIC": ("LSR",),
    "SIOLOGIC": ("LSR",),
    "USRMCLK": ("USRMCLKTS", "PADDT"),
    "EHXPLLL": ("RST", "STDBY", "PHASESTEP", "ENCLKOP", "ENCLKOS", "ENCLKOS2"),
}
"""Pins that the models do not have: they must be off."""

_PLL_CLOCKS = {"CLKOP": "pll_op", "CLKOS": "pll_os", "CLKOS2": "pll_os2", "LOCK": "pll_lock"}

_GONE = ("$scopeinfo", "EHXPLLL", "USRMCLK")
"""Cells that the simulation has outside of the netlist, or that are none."""


@dataclass(frozen=True)
class Pads:
    """How the top level's ports are called in a netlist, by what is on the board there.

    Attributes
    ----------
    names : dict of str to str
        Port of the netlist by its short name: ``oscillator``, ``rx``, ``tx``, ``sdram_a``,
        ``flash_cs``, ...
    lamps : tuple of str
        Ports of the LEDs, in order.
    """

    names: dict[str, str]
    lamps: tuple[str, ...]


class Netlist:
    """One flat module, as the tools wrote it.

    Parameters
    ----------
    cells : dict
        By name: ``type``, ``parameters``, ``connections``.
    ports : dict
        By name: ``direction``, ``bits``.
    nets : dict of int to str
        A name of each bit, for people.
    """

    io_cell = "TRELLIS_IO"
    """A pad's cell: its pin ``B`` is outside."""

    def __init__(self, cells: dict[str, Cell], ports: dict[str, Any], nets: dict[Bit, str]):
        self.cells, self.ports, self.nets = cells, ports, nets
        self._fresh = 1 + max((b for b in self._bits() if isinstance(b, int)), default=0)

    @classmethod
    def read(cls, path: Path, top: str = "top") -> Netlist:
        """From a file of Yosys' ``write_json`` or nextpnr's ``--write``."""
        module = json.loads(path.read_text())["modules"][top]
        nets: dict[Bit, str] = {}
        for name, net in module["netnames"].items():
            for i, bit in enumerate(net["bits"]):
                nets.setdefault(bit, name if len(net["bits"]) == 1 else f"{name}[{i}]")
        return cls(module["cells"], module["ports"], nets)

    def _bits(self) -> set[Bit]:
        used = {b for c in self.cells.values() for bits in c["connections"].values() for b in bits}
        return used | {b for p in self.ports.values() for b in p["bits"]}

    def fresh(self) -> int:
        """The number of a new net."""
        self._fresh += 1
        return self._fresh - 1

    def kinds(self) -> dict[str, int]:
        """How many cells there are of each type."""
        counts = Counter(c["type"] for c in self.cells.values() if c["type"] != "$scopeinfo")
        return dict(counts.most_common())

    def of(self, *kinds: str) -> dict[str, Cell]:
        """Cells of some types."""
        return {name: cell for name, cell in self.cells.items() if cell["type"] in kinds}

    def to_json(self, top: str) -> str:
        """As Yosys' ``read_json`` takes it. Cells have short names: text is what takes time."""
        cells = {}
        for i, cell in enumerate(self.cells.values()):
            cells[f"c{i}"] = {
                key: cell[key]
                for key in ("type", "parameters", "port_directions", "connections")
                if key in cell
            } | {"hide_name": 0, "attributes": {}}
        module = {"attributes": {}, "ports": self.ports, "cells": cells, "netnames": {}}
        return json.dumps({"creator": "stillnet", "modules": {top: module}})

    # -- what simulation needs --------------------------------------------------------------------

    def prepare(self, pads: Pads) -> None:
        """Makes it a design that a simulator takes: see the module's text.

        Raises
        ------
        StillnetError
            Where it uses what the models of the cells do not have.
        """
        self._constants()
        for cell in self.cells.values():
            _defaults(cell)
        self._refuse()
        self._clocks()
        self._pads()
        self._rename(pads)
        for name in [n for n, c in self.cells.items() if c["type"] in _GONE]:
            del self.cells[name]

    def _constants(self) -> None:
        """nextpnr has constants from LUTs without inputs: they are constants again."""
        levels: dict[Bit, str] = {}
        for cell in self.of("TRELLIS_COMB").values():
            pins, table = cell["connections"], str(cell["parameters"].get("INITVAL", ""))
            alone = not any(pins.get(pin) for pin in (*_LUT_INPUTS, "FCI"))
            logic = cell["parameters"].get("MODE", "LOGIC") == "LOGIC"
            if alone and logic and pins.get("F") and set(table) in ({"0"}, {"1"}):
                levels[pins["F"][0]] = table[0]
        for cell in self.cells.values():
            out = cell["port_directions"]
            for pin, bits in cell["connections"].items():
                if out.get(pin) != "output":
                    cell["connections"][pin] = [levels.get(bit, bit) for bit in bits]

    def _refuse(self) -> None:
        for name, cell in self.cells.items():
            if cell["type"] in ("DP16KD", "MULT18X18D"):
                for pin, bits in cell["connections"].items():
                    mux = str(cell["parameters"].get(f"{pin}MUX", "")).strip()
                    if mux == "INV" and isinstance(bits[0], int) and pin not in ("CLKA", "CLKB"):
                        raise StillnetError(
                            f"cell '{name}' of type {cell['type']} inverts its pin {pin}, which "
                            "its model does not; please report this"
                        )
            for pin in _OFF.get(cell["type"], ()):
                if set(cell["connections"].get(pin, [])) - {"0", "x", "z"}:
                    raise StillnetError(
                        f"cell '{name}' of type {cell['type']} uses its pin {pin}, which its model "
                        "does not have; please report this"
                    )

    def _clocks(self) -> None:
        """The PLL's outputs become inputs, and what the flash's clock pin gets an output."""
        inputs = dict.fromkeys(_PLL_CLOCKS.values())
        for cell in self.of("EHXPLLL").values():
            for pin, name in _PLL_CLOCKS.items():
                inputs[name] = (cell["connections"].get(pin) or [None])[0]
        for name, bit in inputs.items():
            self.ports[name] = {"direction": "input", "bits": [bit or self.fresh()]}
        pins = [c["connections"] for c in self.of("USRMCLK").values()]
        # nextpnr calls its pins as those of a pad.
        clock = [(p.get("USRMCLKI") or p.get("PADDO") or ["0"])[0] for p in pins]
        self.ports["flash_clk"] = {"direction": "output", "bits": clock or ["0"]}

    def _pads(self) -> None:
        """Each pad becomes three ports: what comes in, what goes out, and whether it is driven."""
        cell_of = {c["connections"]["B"][0]: c for c in self.of(self.io_cell).values()}
        enables: list[Bit] = []  # of pads that are outputs, and so should be driven always
        for name, port in list(self.ports.items()):
            if not set(port["bits"]) & set(cell_of):
                continue
            cells = [cell_of[bit] for bit in port["bits"]]
            kind = cells[0]["parameters"]["DIR"]
            del self.ports[name]
            for suffix, pin, direction in (
                ("_i", "PAD_I", "input"),
                ("_o", "PAD_O", "output"),
                ("_e", "PAD_E", "output"),
            ):
                bits = [self.fresh() for _ in cells]
                for cell, bit in zip(cells, bits):
                    cell["connections"][pin] = [bit]
                    cell.setdefault("port_directions", {})[pin] = direction
                if kind == "BIDIR":
                    self.ports[name + suffix] = {"direction": direction, "bits": bits}
                elif (kind, suffix) in (("INPUT", "_i"), ("OUTPUT", "_o")):
                    self.ports[name] = {"direction": direction, "bits": bits}
                elif (kind, suffix) == ("OUTPUT", "_e"):
                    enables += bits
        self.ports["enables"] = {"direction": "output", "bits": enables}
        for cell in cell_of.values():
            cell["type"] = "STILLNET_PAD"
            del cell["connections"]["B"]
            cell["port_directions"].pop("B", None)
            cell["parameters"] = {"DIR": cell["parameters"]["DIR"]}

    def _rename(self, pads: Pads) -> None:
        """Ports by their short names; what a board does not have is there all the same, quiet."""
        found = self.ports
        kept = {n: found[n] for n in (*_PLL_CLOCKS.values(), "flash_clk", "enables")}
        quiet = {"sdram_clk_en": "1", "sdram_cs": "0", "sdram_dqm": "0", "flash_cs": "1"}
        for short, long in pads.names.items():
            for suffix in ("", "_i", "_o", "_e"):
                if long + suffix in found:
                    kept[short + suffix] = found[long + suffix]
            if not any(short + s in kept for s in ("", "_i")):
                outward = short not in ("rx", "oscillator", "flash_cipo")
                bits = [quiet.get(short, "0")] if outward else [self.fresh()]
                kept[short] = {"direction": "output" if outward else "input", "bits": bits}
        kept["lamps"] = {
            "direction": "output",
            "bits": [found[n]["bits"][0] for n in pads.lamps] or ["0"],
        }
        self.ports = kept


def _defaults(cell: Cell) -> None:
    """What pins are that nothing drives, as nextpnr configures them (``ecp5/bitstream.cc``), and
    names that are spelt with blanks."""
    kind, pins, parameters = cell["type"], cell["connections"], cell["parameters"]
    if kind in ("TRELLIS_COMB", "LUT4"):
        for pin in _LUT_INPUTS:
            _drive(cell, pin, "1")
    elif kind == "TRELLIS_IO":
        for pin, register in (("I", "IOLDO"), ("T", "IOLTO")):
            if pins.get(register):  # of the IO cell
                pins[pin] = pins.pop(register)
        _drive(cell, "T", "0")
    elif kind == "DCCA":
        _drive(cell, "CE", "1")
    elif kind == "TRELLIS_FF":
        _drive(cell, "LSR", "1" if parameters.get("LSRMUX") == "INV" else "0")
    elif kind == "DP16KD":
        for pin in _block_ram_inputs():
            _drive(cell, pin, _tied(parameters, pin))
    elif kind == "MULT18X18D":
        names = [f"{s}{i}" for s in "ABC" for i in range(18)]
        names += [f"{s}{i}" for s in ("CLK", "CE", "RST") for i in range(4)]
        for pin in (*names, "SIGNEDA", "SIGNEDB", "SOURCEA", "SOURCEB"):
            _drive(cell, pin, _tied(parameters, pin))
    for name, value in parameters.items():
        if isinstance(value, str) and value.endswith(" "):
            parameters[name] = value.strip()
    for pin in [p for p, bits in pins.items() if not bits]:
        del pins[pin]


def _block_ram_inputs() -> list[str]:
    names = [f"{p}{s}{i}" for s in "AB" for p, n in (("AD", 14), ("DI", 18)) for i in range(n)]
    names += [f"CS{s}{i}" for s in "AB" for i in range(3)]
    return names + [f"{p}{s}" for s in "AB" for p in ("CLK", "CE", "OCE", "WE", "RST")]


def _tied(parameters: dict[str, Any], pin: str) -> str:
    """The level of a pin that nothing drives."""
    choice = str(parameters.get(f"{pin}MUX", "")).strip()
    if choice in ("0", "1"):
        return choice
    enable = pin in ("CEA", "CEB", "OCEA", "OCEB")
    control = enable or pin.startswith(_CONTROLS)
    return "1" if control and (choice == pin or (enable and choice != "INV")) else "0"


def _drive(cell: Cell, pin: str, level: str) -> None:
    """Drives a pin that nothing drives. What may be anything is low."""
    bits = cell["connections"].get(pin)
    if not bits or bits[0] == "z":
        cell["connections"][pin] = [level]
    elif bits[0] == "x":
        cell["connections"][pin] = ["0"]
