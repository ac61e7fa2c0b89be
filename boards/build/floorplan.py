"""Places for the block RAMs of a hot store.

nextpnr's placer spreads a hundred blocks of RAM as if they had nothing to do with each other, moves
what belongs to them apart, and its router may then never end. So the blocks of a slice of a bank
(``hw/memory/hot_banks.py``), which share an address, get places side by side, bank after bank: from
left to right in the two lowest rows of block RAM, then in the two above. All else has what is left
at the top right, and the placer's freedom.

Places as nextpnr names them, found by filling each device with block RAMs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

__all__ = ["GRIDS", "Grid", "place_store"]

TOGETHER = 4
"""Blocks side by side."""


@dataclass(frozen=True)
class Grid:
    """Where a device has block RAM: rows of groups of four.

    Attributes
    ----------
    rows : tuple of int
        Row numbers of tiles.
    groups : int
        Groups of a row.
    middle : int
        Group right of the tiles in the middle of the chip, which take two columns.
    """

    rows: tuple[int, ...]
    groups: int
    middle: int

    def place(self, row: int, group: int, block: int) -> str:
        """Name of a place."""
        x = 4 + 9 * group + 2 * (group >= self.middle) + 2 * block
        return f"X{x}/Y{self.rows[row]}/EBR{block}"


GRIDS = {
    "25k": Grid((25, 37), 7, 3),
    "45k": Grid((10, 34, 58), 9, 4),
    "85k": Grid((22, 46, 70, 82), 13, 7),
}
"""By nextpnr's name of the device."""


def place_store(netlist: dict[str, Any], device: list[str], top: str = "top") -> int:
    """Fixes the places of the hot store's block RAMs in a netlist of Yosys's ``write_json``.

    As many as leave a group for every four of the other blocks.

    Parameters
    ----------
    netlist : dict
        Changed in place.
    device : list of str
        How nextpnr is called; one of them names the device, for example ``--85k``.
    top : str
        Name of the flat module.

    Returns
    -------
    int
        How many blocks have a place.
    """
    grid = next((GRIDS[d[2:]] for d in device if d[2:] in GRIDS), None)
    cells: dict[str, dict[str, Any]] = netlist["modules"][top]["cells"]
    slices: dict[tuple[int, int], list[str]] = defaultdict(list)
    others = 0
    for name, cell in cells.items():
        if cell["type"] == "DP16KD":
            found = re.search(r"\.store\.ram(\d+)_(\d+)\.", name)
            if found:
                slices[int(found[2]), int(found[1])].append(name)
            else:
                others += 1
    if grid is None or not slices:
        return 0
    rows = range(len(grid.rows))
    groups = [
        (row, group)
        for pair in (rows[-2:], rows[-4:-2])
        for group in range(grid.groups)
        for row in pair
    ]
    free = len(rows) * grid.groups - -(-others // TOGETHER)
    units = [
        sorted(names)[k : k + TOGETHER]
        for _, names in sorted(slices.items())
        for k in range(0, len(names), TOGETHER)
    ]
    for (row, group), names in zip(groups, units[: max(0, free)]):
        for block, name in enumerate(names):
            cells[name]["attributes"]["BEL"] = grid.place(row, group, block)
    return sum(len(names) for names in units[: max(0, free)])
