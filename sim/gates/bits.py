"""The bits of a Gowin bitstream, and what the tool's tables say about them.

``gowin_unpack`` (Project Apicula) turns bits into cells and switches. Its reading of tiles is used
here as it is. Its own text is not, because it leaves out what an engine cannot do without (see
docs/explanation/gates.md).
"""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path
from typing import Any

from stillnet.sw.contract.errors import StillnetError

__all__ = ["Bitstream", "Tile"]

Tile = tuple[int, int]
"""Row and column, from 0."""

_BLOCK_ROWS = 256
"""Of first values, for each row of block RAMs."""
_QUADS = {0x00: 0x00, 0x10: 0x80, 0x20: 0x40, 0x30: 0xC0}
"""Where in a block's rows a word lies, by bits 4 and 5 of its address."""


def _order(member: tuple[int, int, str]) -> tuple[int, str, int, int]:
    row, column, wire = member
    return len(wire), wire, row, column


class Bitstream:
    """A bitstream, by tile.

    Parameters
    ----------
    path : Path
        ``top.fs`` of a build.
    device : str
        Apicula's name of it.

    Attributes
    ----------
    database : object
        Apicula's, of the device.
    bels : dict of Tile to dict
        What is configured in a tile: cell and flags, as ``gowin_unpack`` reads them.
    switches : dict of str to str
        Wire by the wire that drives it.

    Raises
    ------
    StillnetError
        Where Apicula is missing, or the file is no bitstream of the device.
    """

    def __init__(self, path: Path, device: str = "GW2A-18C") -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the imports: escapes in its texts
                from apycula import attrids, bslib, chipdb, gowin_unpack
        except ImportError as error:
            raise StillnetError(
                "apycula is not installed; run: pip install 'stillnet[build]'"
            ) from error
        self._names, self._tool = attrids, gowin_unpack
        with resources.as_file(resources.files("apycula") / f"{device}.msgpack.xz") as file:
            self.database = chipdb.load_chipdb(str(file))
        try:
            self._map = bslib.read_bitstream(str(path))[0]
            assert len(self._map) >= self.database.height
        except (ValueError, AssertionError, IndexError, OSError) as error:
            raise StillnetError(
                f"'{path}' is no bitstream of a {device}; build one with: stillnet build BOARD"
            ) from error
        self._chipdb = chipdb
        self.tiles = chipdb.tile_bitmap(self.database, self._map, empty=True)
        self.bels: dict[Tile, dict[str, set[Any]]] = {}
        self.switches: dict[str, str] = {}
        # The tool's functions look at these two.
        gowin_unpack._device = device
        gowin_unpack._pll_cells.clear()
        self._root = self._aliases()
        for tile in self.tiles:
            self._read(tile)
        self._long_wires()

    def _long_wires(self) -> None:
        """Wires along half a column, driven at one end, with branches in each row."""
        for (_, column, index), known in self.database.segments.items():
            half = index // 4
            ends = ((known[f"{e}_row"], known[f"{e}_wire"]) for e in ("top", "bottom"))
            wires = [self.wire((row, column), wire) for row, wire in ends]
            driven = [wire for wire in wires if wire in self.switches]
            for row in range(known["min_y"], known["max_y"] + 1):
                branch = self.wire((row, column), f"LBO{half}")
                if driven and branch in self.switches:
                    self.switches[branch] = driven[0]
                for x in range(known["min_x"], known["max_x"] + 1):
                    self.switches[self.wire((row, x), f"LB{index}1")] = branch

    def _read(self, tile: Tile) -> None:
        row, column = tile
        bels, pips, clocks = self._tool.parse_tile_(
            self.database, row, column, self.tiles[tile], self.tiles, noiostd=False
        )
        self.bels[tile] = bels
        clocks = {target: self._tap(tile, target, source) for target, source in clocks.items()}
        for target, source in [*pips.items(), *clocks.items()]:
            to, by = self.wire(tile, target), self.wire(tile, source)
            if to != by:
                self.switches[to] = by

    def _tap(self, tile: Tile, target: str, source: str) -> str:
        """A clock's tap takes one of four spines, all with the same bits: which of them is there
        depends on the column, and the nodes of the database say it."""
        ways = self.database[tile].clock_pips.get(target, {})
        same = [name for name, fuses in ways.items() if fuses == ways.get(source)]
        here = [name for name in same if (*tile, name) in self._members]
        return here[0] if len(same) > 1 and len(here) == 1 else source

    def _aliases(self) -> dict[str, str]:
        """Wires of several tiles that are one."""
        root: dict[str, str] = {}
        self._members: set[tuple[int, int, str]] = set()
        for _, members in self.database.nodes.values():
            self._members |= set(members)
            names = [f"R{r + 1}C{c + 1}_{w}" for r, c, w in sorted(members, key=_order)]
            root |= dict.fromkeys(names[1:], names[0])
        for row in range(self.database.rows):
            for column in range(self.database.cols):
                for i in (1, 2):
                    here = f"R{row + 1}C{column + 1}"
                    for at, wire, name in (
                        ((row, column + 1), f"N1{i}1", f"{here}_SN{i}0"),
                        ((row + 2, column + 1), f"S1{i}1", f"{here}_SN{i}0"),
                        ((row + 1, column), f"W1{i}1", f"{here}_EW{i}0"),
                        ((row + 1, column + 2), f"E1{i}1", f"{here}_EW{i}0"),
                    ):
                        root[self._chipdb.wire2global(*at, self.database, wire)] = name
        return root

    def wire(self, tile: Tile, name: str) -> str:
        """The wire of the chip that a tile's wire is."""
        found: str = self._chipdb.wire2global(tile[0] + 1, tile[1] + 1, self.database, name)
        seen = 0
        while found in self._root and seen < 8:
            found, seen = self._root[found], seen + 1
        return found

    def is_signal(self, wire: str) -> bool:
        """Whether a wire comes from a cell: one that no bit is set for is high, or loose."""
        start = wire
        while wire in self.switches:
            wire = self.switches[wire]
        return wire != start and wire not in ("VCC", "VSS")

    def ports(self, tile: Tile, cell: str) -> dict[str, str]:
        """The wires at the pins of a cell."""
        known = self.database[tile].bels[cell].portmap
        return {pin: self.wire(tile, wire) for pin, wire in known.items() if isinstance(wire, str)}

    def attributes(self, tile: Tile, table: str, kind: str) -> dict[str, str]:
        """What a table of the database says about a tile's bits.

        Parameters
        ----------
        tile : Tile
        table : str
            ``BSRAM_DP``, ``DSP0``, ...
        kind : str
            ``BSRAM``, ``DSP`` or ``IOLOGIC``: the names in it.
        """
        fuses = self.database.shortval[self.database[tile].ttyp].get(table)
        if fuses is None:
            return {}
        names = getattr(self._names, f"{kind.lower()}_attrids")
        values = {v: k for k, v in getattr(self._names, f"{kind.lower()}_attrvals").items()}
        info = self.database.rev_logicinfo(kind)
        found = self._tool.parse_attrvals(self.tiles[tile], info, fuses, names, kind)
        return {name: values.get(value, str(value)) for name, value in found.items()}

    def bits_set(self, tile: Tile, table: str) -> int:
        """How many bits of a table are set in a tile."""
        fuses = self.database.shortval[self.database[tile].ttyp].get(table, {})
        places = set().union(*fuses.values())
        return sum(self.tiles[tile][r][c] for r, c in places)

    def pin_name(self, tile: Tile, cell: str) -> str:
        """What a constraint file calls a pad: ``IOR11B``."""
        return str(self._chipdb.loc2pin_name(self.database, *tile)) + cell[-1]

    def package_pin(self, number: str, package: str = "QFN88") -> str:
        """The pad at a pin of the package."""
        pins = self.database.pinout["GW2AR-18C"][package]
        return str(pins[number][0])

    def first_values(self, tile: Tile) -> list[int]:
        """The 1,024 words of 18 bits that a block RAM begins with."""
        rows = sorted(self.database.simplio_rows)
        top = self.database.height + _BLOCK_ROWS * rows.index(tile[0])
        if len(self._map) < top + _BLOCK_ROWS:
            return [0] * 1024
        left = sum(self.database[0, c].width for c in range(tile[1]))
        lines = self.database.rev_logicinfo("BSRAM_INIT")
        words = []
        for word in range(1024):
            value = 0
            for bit in range(18):
                address = 16 * word + bit - (bit >= 8) - (bit == 17)
                row = _QUADS[address & 0x30] + (address >> 6 & 0x3F)
                place = lines[4 * bit + (address >> 12)][0] - 1
                value |= self._map[top + _BLOCK_ROWS - 1 - row][left + place] << bit
            words.append(value)
        return words
