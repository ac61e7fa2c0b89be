"""Output registers of the ECP5's block RAM, which Yosys leaves unused.

A DP16KD gives its data 5.7 ns after the clock, more than half of a cycle at 100 MHz, because its
output register is bypassed (REGMODE NOREG). Where the design has a register right behind the
memory, the RAM's own one can take its place: the same value in the same cycle, and early in the
next one. Yosys 0.70 does not do that, so it is done here, between Yosys and nextpnr.

It is no gain where much follows the register: the memory's place is fixed, that of flip-flops is
not. Such registers have the attribute :data:`IN_FABRIC` in the design.

Source: Lattice FPGA-TN-02204, *ECP5 and ECP5-5G Memory User Guide*, output register of the EBR.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from stillnet.hw.parts.data_register import IN_FABRIC

__all__ = ["absorb_output_registers"]

Bit = int | str
"""A net's number, or a constant: ``"0"``, ``"1"``, ``"x"``."""

OUTPUTS = 18
"""Data outputs of each of the two ports."""


def absorb_output_registers(netlist: dict[str, Any], top: str = "top") -> int:
    """Moves flip-flops behind block RAM into it, in a netlist of Yosys's ``write_json``.

    A port's register takes over where each of its outputs that is used feeds only flip-flops, all
    with the port's clock, one enable and no reset, and none of them marked ``IN_FABRIC``. The port
    itself must be enabled always, or by the same enable: then nothing depends on whether it gates
    its output register too.

    Parameters
    ----------
    netlist : dict
        Changed in place.
    top : str
        Name of the flat module.

    Returns
    -------
    int
        How many flip-flops are gone.
    """
    module = netlist["modules"][top]
    in_fabric = {
        bit
        for net in module["netnames"].values()
        if IN_FABRIC in net.get("attributes", {})
        for bit in net["bits"]
    }
    cells: dict[str, dict[str, Any]] = module["cells"]
    loads: dict[Bit, list[tuple[str, str]]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    loads[bit].append((name, port))
    for port in module["ports"].values():
        if port["direction"] != "input":
            for bit in port["bits"]:
                loads[bit].append(("", ""))

    renamed: dict[Bit, Bit] = {}  # outputs of flip-flops that are gone
    gone: list[str] = []
    for cell in cells.values():
        if cell["type"] != "DP16KD":
            continue
        # With 36 bits both halves are one port, read with the clock and the enable of port B.
        widths = (cell["parameters"][f"DATA_WIDTH_{port}"] for port in "AB")
        wide = any(int(width, 2) == 36 for width in widths)
        for port, halves in (("B", "AB"),) if wide else (("A", "A"), ("B", "B")):
            used = [
                bit
                for half in halves
                for i in range(OUTPUTS)
                for bit in cell["connections"].get(f"DO{half}{i}", [])
                if loads[bit]
            ]
            registers = [load for bit in used for load in loads[bit]]
            if not used or not _plain_port(cell, port):
                continue
            if any(
                cell["parameters"].get(f"REGMODE_{half}", "NOREG") != "NOREG" for half in halves
            ):
                continue
            clock = cell["connections"][f"CLK{port}"]
            if not all(_plain_register(cells, load, clock) for load in registers):
                continue
            if any(cells[name]["connections"]["Q"][0] in in_fabric for name, _ in registers):
                continue
            enables = {_enable(cells[name]) for name, _ in registers}
            if len(enables) != 1 or cell["connections"][f"CE{port}"][0] not in ("1", *enables):
                continue
            for bit in used:
                for name, _ in loads[bit]:
                    renamed[cells[name]["connections"]["Q"][0]] = bit
                    gone.append(name)
            for half in halves:
                cell["parameters"][f"REGMODE_{half}"] = "OUTREG"
                cell["connections"][f"OCE{half}"] = list(enables)
    for name in gone:
        del cells[name]
    if renamed:
        for cell in cells.values():
            for port, bits in cell["connections"].items():
                cell["connections"][port] = [renamed.get(bit, bit) for bit in bits]
        for port in module["ports"].values():
            port["bits"] = [renamed.get(bit, bit) for bit in port["bits"]]
        for net in module["netnames"].values():
            net["bits"] = [renamed.get(bit, bit) for bit in net["bits"]]
    return len(gone)


def _plain_port(cell: dict[str, Any], port: str) -> bool:
    """A port of a block RAM that reads at the rising edge and has no reset."""
    return (
        cell["connections"].get(f"RST{port}", ["0"]) == ["0"]
        and cell["parameters"].get(f"CLK{port}MUX", f"CLK{port}") == f"CLK{port}"
        and cell["parameters"].get(f"CE{port}MUX", f"CE{port}") == f"CE{port}"
    )


def _plain_register(
    cells: dict[str, dict[str, Any]], load: tuple[str, str], clock: list[Bit]
) -> bool:
    """A flip-flop without reset that starts with 0, as a RAM's output register does."""
    name, port = load
    if not name or cells[name]["type"] != "TRELLIS_FF" or port != "DI":
        return False
    connections, parameters = cells[name]["connections"], cells[name]["parameters"]
    return (
        connections.get("LSR", ["0"]) == ["0"]
        and connections["CLK"] == clock
        and parameters.get("CLKMUX", "CLK") == "CLK"
        and parameters.get("CEMUX", "1").strip() in ("1", "CE")
        and parameters.get("REGSET", "RESET") == "RESET"
    )


def _enable(register: dict[str, Any]) -> Bit:
    """The net that enables a flip-flop."""
    bit: Bit = register["connections"].get("CE", ["1"])[0]
    return bit
