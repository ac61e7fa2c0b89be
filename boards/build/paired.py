"""Gowin: every flip-flop behind a LUT of its own, before nextpnr places them.

A flip-flop of a Gowin takes its data from the LUT or the adder beside it, and from nothing else.
nextpnr joins the two where the LUT feeds nothing but the flip-flop. All the others, half of them,
block a LUT that lets their data through, but the placer knows of no such LUT: it spreads LUTs and
flip-flops as if they were free of each other, and finds no legal places behind it. With the LUT in
the netlist it knows what is full. Nothing becomes larger by that.

Sources: Gowin UG288, *CFU*, figure of the CLS; what nextpnr-himbaechel allows, by trying.
"""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from typing import Any

__all__ = ["pair_registers"]

PADS = ("OBUF", "IOBUF", "TBUF", "ODDR")
"""Cells whose registers may go into the IO cell."""

DIRECT = ("ALU", "IBUF", "IOBUF", "GND", "VCC")
"""Cells from which a register takes its data as it is: a bit of an adder has a flip-flop beside it
as a LUT has one, which the placer finds by itself."""

PAIR = "_PAIR"
"""Behind the name of a flip-flop: its LUT."""


def pair_registers(netlist: dict[str, Any], top: str = "top") -> int:
    """Gives flip-flops LUTs of their own, in a netlist of Yosys's ``write_json``.

    A LUT that feeds more than the flip-flop is there twice afterwards; behind anything else stands
    one that lets the data through. Registers at pins are left alone, because they go into the IO
    cells.

    Parameters
    ----------
    netlist : dict
        Changed in place.
    top : str
        Name of the flat module.

    Returns
    -------
    int
        How many LUTs there are more.
    """
    module = netlist["modules"][top]
    cells: dict[str, dict[str, Any]] = module["cells"]
    driver: dict[int | str, dict[str, Any]] = {}
    users: dict[int | str, list[str]] = defaultdict(list)  # kinds of cells
    for cell in cells.values():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"][port] == "output":
                    driver[bit] = cell
                else:
                    users[bit].append(cell["type"])
    for port in module["ports"].values():
        for bit in port["bits"]:
            users[bit].append("")
    load = Counter({bit: len(kinds) for bit, kinds in users.items()})
    last = max((bit for bit in (*driver, *users) if isinstance(bit, int)), default=1)
    added: dict[str, dict[str, Any]] = {}
    for name, cell in cells.items():
        if not cell["type"].startswith("DFF"):
            continue
        connections = cell["connections"]
        data, source = connections["D"][0], driver.get(connections["D"][0])
        at_pin = any(kind in PADS for kind in users[connections["Q"][0]])
        if source is None or source["type"] in DIRECT or at_pin:
            continue
        if re.fullmatch(r"LUT\d", source["type"]):
            if load[data] == 1:
                continue
            lut = copy.deepcopy(source)
            load[data] -= 1
        else:
            lut = {
                "hide_name": 0,
                "type": "LUT1",
                "parameters": {"INIT": "10"},
                "attributes": {},
                "port_directions": {"F": "output", "I0": "input"},
                "connections": {"I0": [data]},
            }
        last += 1
        lut["connections"]["F"] = connections["D"] = [last]
        added[name + PAIR] = lut
    cells.update(added)
    return len(added)
