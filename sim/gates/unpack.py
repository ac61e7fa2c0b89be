"""A Gowin bitstream as a netlist: what reaches a pad, and nothing else."""

from __future__ import annotations

from pathlib import Path

from .bits import Bitstream
from .cells import Found, find_cells
from .netlist import Bit, Cell, Netlist, Pads

__all__ = ["Unpacked", "unpack"]

_PLL_CLOCKS = {"CLKOUT": "pll_op", "CLKOUTP": "pll_os", "": "pll_os2", "LOCK": "pll_lock"}

_PHASE_STEP = 360 / 16

_LEVELS: dict[str, Bit] = {"VCC": "1", "VSS": "0", "0": "0", "1": "1"}


class Unpacked(Netlist):
    """The netlist of a bitstream.

    Attributes
    ----------
    loose : dict of str to list of str
        Wires that nothing drives, with the pins that they are at.
    loose_level : str
        What such a wire has in simulation.
    phase : float or None
        Degrees by which the PLL's second output is late.
    """

    io_cell = "PAD"
    loose: dict[str, list[str]]
    phase: float | None = None
    loose_level: Bit = "0"
    bits: Bitstream

    def prepare(self, pads: Pads) -> None:
        """As for an ECP5. What nothing drives has ``loose_level``."""
        numbers = {wire: number for number, wire in self.nets.items()}
        loose = {numbers[wire]: self.loose_level for wire in self.loose}
        for cell in self.cells.values():
            for pin, bits in cell["connections"].items():
                cell["connections"][pin] = [loose.get(bit, bit) for bit in bits]
        self._clocks()
        self._pads()
        self._rename(pads)
        for name in self.of("PLL"):
            del self.cells[name]

    def _clocks(self) -> None:
        """The PLL's outputs become inputs."""
        found = [cell["connections"] for cell in self.of("PLL").values()]
        for pin, name in _PLL_CLOCKS.items():
            bit = found[0][pin][0] if found and pin in found[0] else self.fresh()
            self.ports[name] = {"direction": "input", "bits": [bit]}
        # Another name of the pad that boards have at the flash's clock.
        self.ports["flash_clk"] = {"direction": "output", "bits": ["0"]}


def unpack(path: Path, constraints: Path) -> Unpacked:
    """Reads a bitstream back.

    Parameters
    ----------
    path : Path
        ``top.fs``.
    constraints : Path
        ``top.cst``, which says how the pads are called.
    """
    bits = Bitstream(path)
    found = find_cells(bits)
    walk = _Walk(bits, found)
    names = _pad_names(bits, constraints)
    for pad in names:
        walk.visit(found.pads[pad])
    return walk.netlist(names)


def _pad_names(bits: Bitstream, constraints: Path) -> dict[str, str]:
    """Port by pad."""
    names = {}
    for line in constraints.read_text().splitlines():
        words = line.replace(";", "").replace('"', "").split()
        if words[:1] == ["IO_LOC"]:
            pad = words[2] if words[2].startswith("IO") else bits.package_pin(words[2])
            names[pad] = words[1]
    return names


class _Walk:
    """From the pads backwards."""

    def __init__(self, bits: Bitstream, found: Found) -> None:
        self.bits, self.found = bits, found
        self.reached: dict[str, Cell] = {}
        self.loose: dict[str, list[str]] = {}
        self.numbers: dict[str, int] = {}

    def source(self, wire: str) -> str:
        """The wire that a cell drives, through all switches."""
        seen = 0
        while wire not in self.found.driver and wire in self.bits.switches:
            wire, seen = self.bits.switches[wire], seen + 1
            if seen > 1000:
                raise RuntimeError(f"switches go round in a circle at {wire}")
        return wire

    def net(self, wire: Bit) -> Bit:
        """The net that a wire is of."""
        name = self.source(str(wire))
        if name in _LEVELS:
            return _LEVELS[name]
        return self.numbers.setdefault(name, len(self.numbers) + 2)

    def visit(self, start: str) -> None:
        """A cell and all that it depends on."""
        queue = [start]
        while queue:
            name = queue.pop()
            if name in self.reached:
                continue
            cell = self.reached[name] = self.found.cells[name]
            for pin, wires in cell["connections"].items():
                if cell["port_directions"].get(pin) != "input" or not self._looks(cell, pin):
                    continue
                for wire in wires:
                    source = self.source(str(wire))
                    driver = self.found.driver.get(source)
                    if driver is not None:
                        queue.append(driver)
                    elif source not in _LEVELS:
                        self.loose.setdefault(source, []).append(f"{name}.{pin}")

    @staticmethod
    def _looks(cell: Cell, pin: str) -> bool:
        """Whether a pin decides anything: of a table, whether it depends on it."""
        if cell["type"] not in ("LUT", "ALU"):
            return True
        table, bit = cell["parameters"]["INIT"], "ABCD".find(pin)
        if pin == "CIN":
            return True
        masks = (0x5555, 0x3333, 0x0F0F, 0x00FF)
        return bool((table ^ table >> (1 << bit)) & masks[bit])

    def netlist(self, names: dict[str, str]) -> Unpacked:
        """What was reached, with numbers for nets and ports for pads."""
        ports: dict[str, dict[str, object]] = {}
        for pad, port in sorted(names.items(), key=lambda item: _index(item[1])):
            cell = self.reached[self.found.pads[pad]]
            if self.net(cell["connections"]["T"][0]) == "0":
                cell["parameters"]["DIR"] = "OUTPUT"  # a three-state buffer that always drives
            base = port.split("[")[0]
            way = {"BIDIR": "inout", "OUTPUT": "output"}.get(cell["parameters"]["DIR"], "input")
            entry = ports.setdefault(base, {"direction": way, "bits": []})
            bit = self.net(cell["connections"]["B"][0])
            entry["bits"].append(bit)  # type: ignore[attr-defined]
        cells = {}
        for name, cell in self.reached.items():
            pins = {p: [self.net(w) for w in ws] for p, ws in cell["connections"].items()}
            cells[name] = {**cell, "connections": pins}
        nets: dict[Bit, str] = {number: wire for wire, number in self.numbers.items()}
        result = Unpacked(cells, ports, nets)
        result.loose, result.bits = self.loose, self.bits
        for cell in result.of("PLL").values():
            result.phase = int(cell["parameters"]["PSDA_SEL"].strip('"'), 2) * _PHASE_STEP
        return result


def _index(port: str) -> tuple[str, int]:
    base, _, rest = port.partition("[")
    return base, int(rest.rstrip("]") or 0)
