"""``EngineConfig``: parameters of one engine, its presets, TOML form and fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .cells import CELLS, Cell
from .errors import StillnetError
from .image import FORMATS, MOST_HOT_WORDS, MOST_ROWS, UNEQUAL_FORMATS, VERSION, block_rows
from .stages import COPY_READ_LATENCY, READ_LATENCY, SPARSE_READ_LATENCY

__all__ = ["MEMORIES", "MOST", "PRESETS", "EngineConfig"]

MOST = {"units": 1 << 15, "accumulators": 1 << 15, "layers": 31, "matrices": 64}
"""Largest capacities of any engine."""

MAX_STATE_NAMES = 8
"""State variables that the host can select (``registers.Region``)."""

MEMORIES = ("ram", "axi4", "port")
"""What the memory port leads to: on-chip RAM, an AXI4 master, or the bare port."""

NO_PART = ("name", "cell_sharing", "bus_bits", "bus_clock")
"""Fields that no image depends on."""

IN_TURN = 4
"""Cycles that a cell takes a unit, at least, where its accumulators come one after the other."""

LATER = ("budgets",)
"""Options that engines and images of before do not name; left out where they are off."""


def cell_signature(cell: Cell) -> str:
    """What hardware and images depend on in a cell, as text: operands, formats, equation."""
    nodes = cell.graph.nodes()
    place = {id(n): k for k, n in enumerate(nodes)}
    lines = [cell.name, repr(cell.accumulators)]
    lines += [f"{k}={f}" for kind in (cell.parameters, cell.peers) for k, f in kind.items()]
    for n in nodes:
        args = ",".join(str(place[id(a)]) for a in n.args)
        table = n.table.signature if n.table else ""
        lines.append(f"{n.op}({args}){n.format}{n.name}{n.value}{table}")
    lines += [f"{k}:{place[id(n)]}" for k, n in cell.graph.following.items()]
    return ";".join([*lines, str(place[id(cell.graph.result)])])


@dataclass(frozen=True)
class EngineConfig:
    """Everything that decides what hardware is generated.

    A network fits an engine when its cells are there and its sizes are within the capacities; it
    never needs a new bitstream otherwise.

    Attributes
    ----------
    name : str
        Name of the configuration; no part of the fingerprint.
    lanes : int
        Multipliers, and int8 weights in one memory word: a word has ``8 * lanes`` bits.
        A power of two, 2 to 64.
    cells : tuple of str
        Cells that the engine has a pipeline for.
    cell_width : int
        Elements that the cell pipeline takes a cycle. A power of two, at most ``lanes``.
    units : int
        Capacity: units of all layers together, each layer rounded up to ``cell_width``.
    inputs : int
        Capacity: elements of the input vector (tokens are not limited by it).
    accumulators : int
        Capacity: accumulators per lane, over all layers.
    layers, matrices : int
        Capacity: entries of the descriptor tables. Biases take one matrix a layer.
    address_bits : int
        Width of a word address of the memory port.
    fetch_columns, fetch_words : int
        Columns, and words, that may be in flight. ``fetch_words`` should exceed the memory's
        latency in cycles by 20 or more.
    prefetch_blocks : int
        Blocks of rows that the cell reads ahead of its pipeline.
    second_threshold : bool
        A second encoder for the recurrence of hidden vectors, so that a vector may have one
        threshold towards the layer above and another towards itself.
    cell_sharing : int
        Cycles that the cell pipeline takes an element, so that a multiplier can serve as many of
        its products. No part of the fingerprint: images do not depend on it.
    memory : str
        ``"ram"``, ``"axi4"`` or ``"port"``.
    bus_bits : int
        Width of the SDRAM's bus behind a memory port, which fills a word in several cycles if it is
        narrower. Only times that are predicted depend on it. No part of the fingerprint.
    bus_clock : float
        Cycles of that SDRAM in one of the engine, the same; 0 where it has the engine's clock.
    ram_words : int
        Size of the on-chip memory; only for ``memory = "ram"``.
    int4 : bool
        Twice as many multipliers, so that a memory word may also hold ``2 * lanes`` weights of
        four bits. Every int8 word then feeds one half of the multipliers.
    formats : tuple of str
        Formats of columns that the engine reads (``contract.image.FORMATS``), "dense" always
        among them.
    columns : int
        Capacity: columns of all matrices whose columns differ in length ("block", "step") or of
        which some are in the hot store.
    hot_words : int
        Words of block RAM in front of the memory port's memory, for columns that fire often.
    row_scale : bool
        A multiplier for each row, after the rescale shift.
    element_thresholds : bool
        A threshold for each element of a vector instead of one for all.
    budgets : bool
        Vectors may have a budget of events per step (``contract.budgets``).
    """

    name: str = "custom"
    lanes: int = 8
    cells: tuple[str, ...] = ("gru", "linear", "relu", "sigmoid", "tanh")
    cell_width: int = 1
    units: int = 4096
    inputs: int = 1024
    accumulators: int = 2048
    layers: int = 8
    matrices: int = 32
    address_bits: int = 24
    fetch_columns: int = 64
    fetch_words: int = 128
    prefetch_blocks: int = 16
    second_threshold: bool = False
    cell_sharing: int = 1
    memory: str = "port"
    ram_words: int = 0
    bus_bits: int = 16
    bus_clock: float = 0.0
    int4: bool = False
    formats: tuple[str, ...] = ("dense",)
    columns: int = 0
    hot_words: int = 0
    row_scale: bool = False
    element_thresholds: bool = False
    budgets: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))
        object.__setattr__(self, "formats", tuple(self.formats))
        powers = {
            "lanes": (2, 64),
            "cell_width": (1, self.lanes if isinstance(self.lanes, int) else 64),
            "fetch_columns": (4, 256),
            "prefetch_blocks": (2, 64),
        }
        ranges = {
            "units": (self.cell_width, MOST["units"]),
            "inputs": (1, 1 << 15),
            "cell_sharing": (1, 16),
            "accumulators": (2, MOST["accumulators"]),
            "layers": (1, MOST["layers"]),
            "matrices": (1, MOST["matrices"]),
            "address_bits": (8, 32),
            "fetch_words": (8, 4096),
            "ram_words": (0, 1 << 24),
            "bus_bits": (8, 512),
            "columns": (0, 1 << 16),
            "hot_words": (0, MOST_HOT_WORDS),
        }
        for field, (low, high) in {**powers, **ranges}.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int):
                raise StillnetError(f"engine config: {field} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise StillnetError(
                    f"engine config: {field} must be between {low} and {high}, not {value}"
                )
            if field in powers and value & (value - 1):
                raise StillnetError(f"engine config: {field} must be a power of two, not {value}")
        number = isinstance(self.bus_clock, int | float) and not isinstance(self.bus_clock, bool)
        if not number or not 0 <= self.bus_clock <= 16:
            raise StillnetError(
                f"engine config: bus_clock must be a number from 0 to 16, not {self.bus_clock!r}"
            )
        if not self.cells:
            raise StillnetError("engine config: cells must name at least one cell")
        if len(set(self.cells)) != len(self.cells) or len(self.cells) > 15:
            raise StillnetError(
                f"engine config: cells must be at most 15 different names, not {self.cells}"
            )
        for cell in self.cells:
            if cell not in CELLS:
                raise StillnetError(
                    f"engine config: cell '{cell}' is unknown; known are {', '.join(CELLS)}"
                )
        if len(self.state_names) > MAX_STATE_NAMES:
            raise StillnetError(
                f"engine config: cells have {len(self.state_names)} state variables "
                f"({', '.join(self.state_names)}), an engine has at most {MAX_STATE_NAMES}; leave "
                "a cell out"
            )
        for cell in self.cells:
            for peer in CELLS[cell].peers:
                if peer not in self.state_names:
                    raise StillnetError(
                        f"engine config: cell '{cell}' reads state '{peer}' of another layer, "
                        "which no cell of the engine has; add the cell that has it"
                    )
        for field in (*("second_threshold", "int4", "row_scale", "element_thresholds", "budgets"),):
            if not isinstance(getattr(self, field), bool):
                raise StillnetError(
                    f"engine config: {field} must be true or false, not {getattr(self, field)!r}"
                )
        if self.second_threshold and self.element_thresholds:
            raise StillnetError(
                "engine config: second_threshold and element_thresholds exclude each other; leave "
                "one out"
            )
        if self.second_threshold and self.budgets:
            raise StillnetError(
                "engine config: second_threshold and budgets exclude each other; leave one out"
            )
        if self.max_accumulators > MOST_ROWS:
            raise StillnetError(
                f"engine config: a cell takes {self.max_accumulators} words of accumulators, "
                "parameters and row multipliers a block, at most 8 are possible; leave it or "
                "row_scale out"
            )
        self._check_formats()
        if self.memory not in MEMORIES:
            raise StillnetError(
                f"engine config: memory must be one of {', '.join(MEMORIES)}, not '{self.memory}'"
            )
        if (self.memory == "ram") != (self.ram_words > 0):
            raise StillnetError(
                f"engine config: ram_words must be positive for memory 'ram' and 0 otherwise, not "
                f"{self.ram_words} for '{self.memory}'"
            )
        if self.memory == "axi4" and self.word_bits < 32:
            raise StillnetError(
                f"engine config: memory 'axi4' needs words of 32 bits or more, lanes = "
                f"{self.lanes} gives {self.word_bits}"
            )

    def _check_formats(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise StillnetError(
                    f"engine config: format '{name}' is unknown; known are {', '.join(FORMATS)}"
                )
        if "dense" not in self.formats or len(set(self.formats)) != len(self.formats):
            raise StillnetError(
                f"engine config: formats must be different names with 'dense' among them, not "
                f"{self.formats}"
            )
        if bool(self.columns) != (self.unequal or self.hot_words > 0):
            raise StillnetError(
                f"engine config: columns must be positive with formats "
                f"{' or '.join(UNEQUAL_FORMATS)} or hot_words and 0 otherwise, not {self.columns} "
                f"for {', '.join(self.formats)} and hot_words = {self.hot_words}"
            )
        if self.hot_words and self.memory == "ram":
            raise StillnetError(
                "engine config: hot_words are of no use with memory 'ram', where every word is on "
                "the chip; leave them out"
            )

    @property
    def multipliers(self) -> int:
        """Multipliers, and so the rows of a block: two for each byte of a word with ``int4``."""
        return 2 * self.lanes if self.int4 else self.lanes

    @property
    def sparse(self) -> bool:
        """Whether the engine reads any format but dense columns."""
        return len(self.formats) > 1

    @property
    def unequal(self) -> bool:
        """Whether columns of a matrix may differ in length."""
        return any(f in self.formats for f in UNEQUAL_FORMATS)

    def reading(self, formats: Iterable[str]) -> EngineConfig:
        """The same engine with other formats of columns; it has tables of columns if it needs
        them."""
        names = tuple(formats)
        unequal = any(f in names for f in UNEQUAL_FORMATS)
        columns = max(self.columns, 1) if unequal or self.hot_words else 0
        return dataclasses.replace(self, formats=names, columns=columns)

    @property
    def long_records(self) -> bool:
        """Whether the descriptor of a matrix has more records (``contract.image.MATRIX_LONG``)."""
        return self.sparse or self.hot_words > 0

    @property
    def tier_bits(self) -> int:
        """Bits of an address in front of the hot store: its words lie above the memory's."""
        return self.address_bits + (self.hot_words > 0)

    @property
    def sums_once(self) -> bool:
        """Whether sums of pruned columns are kept once, and the cell reads where no word is.

        A copy for the cell takes block RAM that an engine with a hot store has a better use for;
        an engine without is up to a fifth faster with it, where layers are small.
        """
        return self.sparse and self.hot_words > 0

    @property
    def in_turn(self) -> bool:
        """Whether a unit's accumulators come to its cell one after the other, with one rescale unit
        for all of them: where the cell takes as many cycles a unit."""
        cells = [CELLS[c] for c in self.cells]
        plain = self.cell_width == 1 and not self.row_scale
        plain = plain and not any(cell.parameters for cell in cells)
        return plain and self.cell_sharing >= max(IN_TURN, self.max_accumulators)

    @property
    def read_latency(self) -> int:
        """Cycles from a granted read of an accumulator word to its data."""
        if self.sums_once:
            return SPARSE_READ_LATENCY
        return COPY_READ_LATENCY if self.sparse else READ_LATENCY

    @property
    def tables(self) -> bool:
        """Whether the engine keeps tables that come with an image (``contract.image.ENTRY``)."""
        return self.columns > 0 or self.element_thresholds or self.budgets

    @property
    def word_bits(self) -> int:
        """Bits of a memory word."""
        return 8 * self.lanes

    @property
    def word_bytes(self) -> int:
        """Bytes of a memory word."""
        return self.lanes

    @property
    def max_accumulators(self) -> int:
        """Most accumulators and parameters that any of the cells has, multipliers included."""
        return max(block_rows(CELLS[c], self.row_scale) for c in self.cells)

    @property
    def max_peers(self) -> int:
        """Most peers that any of the cells has."""
        return max(len(CELLS[c].peers) for c in self.cells)

    def state_bits(self, name: str) -> int:
        """Width of a state memory: that of the widest format of the variable."""
        formats = [CELLS[c].state.get(name) for c in self.cells]
        return max((f.bits for f in formats if f is not None), default=0)

    @property
    def state_names(self) -> tuple[str, ...]:
        """State variables of all the cells, each once; each has a memory of its own."""
        names: list[str] = []
        for cell in self.cells:
            names += [s for s in CELLS[cell].state if s not in names]
        return tuple(names)

    @property
    def fingerprint(self) -> int:
        """32-bit digest of everything that an image depends on.

        The version of the image, the fields but ``name`` and ``cell_sharing``, and the definitions
        of all cells: an equation may change while its name stays.
        """
        values = [f"{k}={v!r}" for k, v in sorted(self.to_dict().items()) if k not in NO_PART]
        values += [cell_signature(CELLS[c]) for c in self.cells]
        text = f"stillnet image {VERSION};" + ";".join(values)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, as in the TOML form."""
        values = {
            **dataclasses.asdict(self),
            "cells": list(self.cells),
            "formats": list(self.formats),
        }
        return {k: v for k, v in values.items() if v or k not in LATER}

    def to_toml(self) -> str:
        """The configuration as a TOML document."""

        def text(value: Any) -> str:
            if isinstance(value, bool):
                return "true" if value else "false"
            if isinstance(value, list):
                return "[" + ", ".join(text(v) for v in value) + "]"
            return f'"{value}"' if isinstance(value, str) else str(value)

        return "".join(f"{k} = {text(v)}\n" for k, v in self.to_dict().items())

    @property
    def option(self) -> str:
        """Option of a command that names this configuration."""
        suffix = "" if self.name in _presets() else ".toml"
        return f"--preset {self.name}{suffix}"

    def changed(self, settings: Iterable[str]) -> EngineConfig:
        """The same with some fields set, each as a line of TOML: ``cells=["gru", "lstm"]``.

        Its name is ``custom``, because it is no preset any more.
        """
        values: dict[str, Any] = {"name": "custom"}
        for text in settings:
            try:
                values |= tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise StillnetError(
                    f"engine config: '{text}' is not FIELD=VALUE as in TOML ({error}); text stands "
                    "in quotes, lists in brackets"
                ) from error
        return self.from_dict({**self.to_dict(), **values})

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, complete: bool = False) -> EngineConfig:
        """Builds from plain values; unknown fields are refused by name.

        Parameters
        ----------
        values : dict
        complete : bool
            No field may be missing: for what stillnet itself wrote. A default would there be a
            guess about an engine that exists.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise StillnetError(
                    f"engine config: unknown field '{key}'; known are {', '.join(sorted(known))}"
                )
        missing = sorted(known - set(values) - set(LATER))
        if complete and missing:
            raise StillnetError(
                f"engine config: field '{missing[0]}' is missing; another version of stillnet "
                "wrote it, pack or build again"
            )
        return cls(**values)

    @classmethod
    def load(cls, source: str | Path | EngineConfig) -> EngineConfig:
        """A preset by name, a TOML file by path; a configuration is itself."""
        if isinstance(source, EngineConfig):
            return source
        if str(source) in PRESETS:
            return PRESETS[str(source)]
        path = Path(source)
        if not path.is_file():
            presets = _presets()
            if str(source) in presets:
                return presets[str(source)]
            raise StillnetError(
                f"'{source}' is neither a preset ({', '.join(presets)}) nor a TOML file"
            )
        try:
            values = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StillnetError(f"engine config '{source}' is not valid TOML: {error}") from error
        return cls.from_dict({"name": path.stem, **values})


def _presets() -> dict[str, EngineConfig]:
    """Those here and those of installed packages: the boards have one each."""
    found = dict(PRESETS)
    for entry in metadata.entry_points(group="stillnet.presets"):
        found.update(entry.load()())
    return found


PRESETS: dict[str, EngineConfig] = {
    "tiny": EngineConfig(
        name="tiny",
        lanes=4,
        units=256,
        inputs=128,
        accumulators=256,
        layers=4,
        matrices=12,
        address_bits=16,
        fetch_columns=16,
        fetch_words=32,
        prefetch_blocks=2,
        memory="ram",
        ram_words=16384,
        row_scale=True,
    ),
    "sdram16": EngineConfig(
        name="sdram16", lanes=2, accumulators=6144, prefetch_blocks=16, row_scale=True
    ),
    "axi64": EngineConfig(name="axi64", lanes=8, memory="axi4", row_scale=True),
    "axi512": EngineConfig(
        name="axi512",
        lanes=64,
        cell_width=8,
        units=8192,
        accumulators=1024,
        fetch_words=256,
        prefetch_blocks=4,
        memory="axi4",
        row_scale=True,
    ),
}
"""Named configurations. ``stillnet generate --preset NAME``."""
