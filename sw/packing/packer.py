"""Packs a quantized network into the memory image of one engine configuration.

The layout is ``contract.image``; this module fills it in, and reads it back for ``stillnet info``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract import image as layout
from stillnet.sw.contract.budgets import window_size
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import bias_words, candidates, encode, readable
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import SLOT_BYTES, Kind, bias_runs, find_field
from stillnet.sw.contract.sources import INPUT, feeds_next_step
from stillnet.sw.network.network import Network
from stillnet.sw.network.tiers import choose_hot, layouts_of
from stillnet.sw.util.keys import check_keys

from .contents import bias_bytes, block_values, columns_of, lane_rows, table_entries

__all__ = [
    "Image",
    "Placement",
    "capacities",
    "costs",
    "describe",
    "image_crc",
    "load_image",
    "pack",
    "place",
]

DENSE = dict.fromkeys(
    [
        *("int4", "kept", "width", "blocks"),
        *("hot", "mixed"),
        *(name for record in layout.MATRIX_LONG for name, _ in record.fields),
    ],
    0,
)
"""Fields of a matrix that a format other than "dense" sets."""


@dataclass(frozen=True)
class Placement:
    """Where the layers of a network lie in the memories of an engine.

    Attributes
    ----------
    unit_base : tuple of int
        First row of ``cell_width`` units of each layer in the state memories.
    accumulator_base : tuple of int
        First accumulator of each layer; even, because of the two half banks.
    """

    unit_base: tuple[int, ...]
    accumulator_base: tuple[int, ...]


@dataclass(frozen=True)
class Image:
    """A memory image with what tools need to know of it.

    Attributes
    ----------
    data : bytes
    notes : dict
        The JSON part: names, formats, sizes, the configuration.
    """

    data: bytes
    notes: dict[str, Any]

    @property
    def hardware(self) -> bytes:
        """The part that the engine's memory must hold: all but the notes."""
        at = find_field(layout.HEADER, "notes_bytes")[0] * SLOT_BYTES
        return self.data[: len(self.data) - int.from_bytes(self.data[at : at + 4], "little")]

    @property
    def config(self) -> EngineConfig:
        """The configuration that the image was packed for."""
        return EngineConfig.from_dict(self.notes["config"], complete=True)


def place(network: Network, config: EngineConfig) -> Placement:
    """Places a network in an engine.

    Raises
    ------
    StillnetError
        Naming the capacity that is too small, what is needed and the field to raise.
    """
    _check_cells(network, config)
    for field, needed in capacities(network, config).items():
        if needed > getattr(config, field):
            raise StillnetError(
                f"network '{network.name}' needs {field} = {needed}, engine '{config.name}' has "
                f"{getattr(config, field)}; generate an engine with a larger '{field}', or with "
                f"--fit{_without_planes(network)}"
            )
    return _placed(network, config)[0]


def _without_planes(network: Network) -> str:
    """A remedy that networks with second planes of weights have."""
    options = network.notes.get("options") or {}
    return ", or quantize with --planes never" if options.get("planes") else ""


def _placed(network: Network, config: EngineConfig) -> tuple[Placement, int, int]:
    """The placement, and how many units and accumulators of a lane it takes."""
    unit_base, accumulator_base = [], []
    units = accumulators = 0
    for layer in network.layers:
        unit_base.append(units // config.cell_width)
        accumulator_base.append(accumulators)
        units += -(-layer.units // config.cell_width) * config.cell_width
        accumulators += layer.blocks(config.multipliers) * layout.block_rows(
            CELLS[layer.cell], config.row_scale
        )
        accumulators += accumulators % 2
    return Placement(tuple(unit_base), tuple(accumulator_base)), units, accumulators


def capacities(network: Network, config: EngineConfig) -> dict[str, int]:
    """What a network takes of an engine, by field of ``EngineConfig``.

    The capacities themselves have no part in it, except ``columns``, which :func:`pack` checks.
    """
    _, units, accumulators = _placed(network, config)
    runs = sum(len(bias_runs(CELLS[layer.cell], config.row_scale)) for layer in network.layers)
    return {
        "units": units,
        "inputs": 1 if network.input_mode.one_hot else network.inputs,
        "accumulators": accumulators,
        "layers": len(network.layers),
        "matrices": runs + sum(len(layer.matrices) for layer in network.layers),
    }


def _check_cells(network: Network, config: EngineConfig) -> None:
    lacking = [layer for layer in network.layers if layer.cell not in config.cells]
    if lacking:
        cells = list(dict.fromkeys([*config.cells, *(layer.cell for layer in lacking)]))
        raise StillnetError(
            f"layer '{lacking[0].name}' needs cell '{lacking[0].cell}', engine '{config.name}' has "
            f"{', '.join(config.cells)}; generate one that has it with: stillnet generate "
            f"{config.option} --set 'cells={json.dumps(cells)}' -o core.v"
        )
    if not any(m.source == INPUT for m in network.layers[0].matrices):
        raise StillnetError(
            f"layer '{network.layers[0].name}' is the first one and not fed by the input, so that "
            "nothing tells the engine that a step has begun; feed it, if only with zeros"
        )
    if network.second_threshold and not config.second_threshold:
        raise StillnetError(
            f"network '{network.name}' has a separate recurrent threshold, engine '{config.name}' "
            "has one encoder; generate one with second_threshold = true, or with --fit"
        )
    for option, what in (
        ("row_scale", "multipliers of rows"),
        ("element_thresholds", "thresholds by element"),
        ("budgets", "budgets"),
    ):
        if getattr(network, option) and not getattr(config, option):
            without = ", or quantize with --weight-steps layer" if option == "row_scale" else ""
            raise StillnetError(
                f"network '{network.name}' has {what}, engine '{config.name}' does not; generate "
                f"one with {option} = true, or with --fit{without}"
            )
    for source, budget in network.budgets.items():
        if source != INPUT and window_size(budget) < config.cell_width:
            raise StillnetError(
                f"vector '{network.source_name(source)}' has a budget of {budget} events, engine "
                f"'{config.name}' with cell_width = {config.cell_width} needs "
                f"{4 * config.cell_width} or more; give it more time or an engine with a smaller "
                "'cell_width'"
            )


class _Packer:
    """One network on its way into the memory of one engine.

    ``body`` grows by one run of words after the other; the descriptors hold their addresses.
    """

    def __init__(self, network: Network, config: EngineConfig) -> None:
        self.network, self.config = network, config
        self.placement = place(network, config)
        self.jobs = network.matrix_order()
        self.layouts = layouts_of(network, config)
        self.hot = choose_hot(network, config, self.layouts)
        columns, self.first_column = columns_of(self.layouts, self.hot)
        self.entries = table_entries(network, config, self.placement.unit_base, columns)
        self.matrix_records = layout.matrix_records(config.long_records)
        self.runs = capacities(network, config)["matrices"]
        self.slots = (
            len(layout.HEADER)
            + len(layout.LAYER) * len(network.layers)
            + len(self.matrix_records) * self.runs
        )
        self.body = bytearray()
        self.hot_body = bytearray(self.hot.words * config.word_bytes)

    @property
    def header_bytes(self) -> int:
        """Bytes in front of the first run: descriptors and tables."""
        return self.slots * SLOT_BYTES + len(self.entries)

    @property
    def words(self) -> int:
        """Words so far, from the beginning of the image."""
        return (self.header_bytes + len(self.body)) // self.config.word_bytes

    def append(self, data: np.ndarray) -> int:
        """Appends a run of words; returns its word address in the image."""
        address = self.words
        self.body.extend(np.ascontiguousarray(data).tobytes())
        return address

    def keep(self, word: int, data: np.ndarray) -> int:
        """Puts words into the hot store from ``word`` on; returns ``word``."""
        at, content = word * self.config.word_bytes, np.ascontiguousarray(data).tobytes()
        self.hot_body[at : at + len(content)] = content
        return word

    def bias_fields(self, i: int) -> list[dict[str, int]]:
        """Appends the bias runs of a layer; returns the fields of their descriptors."""
        layer, config = self.network.layers[i], self.config
        values = block_values(layer, config)
        return [
            {
                "source": 0,
                "target": i,
                "kind": Kind.BIAS,
                "recurrent": int(run.once),
                "gates": ((1 << run.rows) - 1) << run.first,
                "base": self.bias_base(
                    i, run, bias_bytes(values[run.first : run.first + run.rows], config.multipliers)
                ),
                "column_words": bias_words(layer.units, run.rows, config),
                "list_base": 0,
                "accumulator_base": self.placement.accumulator_base[i],
                "stride": len(values),
                **DENSE,
                "hot": int((i, run.first) in self.hot.biases),
                "blocks": layer.blocks(config.multipliers) if config.sparse else 0,
            }
            for run in bias_runs(CELLS[layer.cell], config.row_scale)
        ]

    def bias_base(self, i: int, run: layout.BiasRun, data: np.ndarray) -> int:
        """Puts a bias run where it belongs; its first word there."""
        word = self.hot.biases.get((i, run.first))
        return self.append(data) if word is None else self.keep(word, data)

    def matrix_base(self, matrix: tuple[int, int], data: np.ndarray) -> int:
        """Puts the columns of a matrix where they belong; the first word of the first one.

        Columns of a matrix that is in the hot store in part are in the image as well, so that the
        others keep their distance.
        """
        if matrix in self.hot.whole:
            return self.keep(self.hot.whole[matrix], data)
        for column, word in enumerate(self.hot.columns.get(matrix, ())):
            if word >= 0:
                self.keep(word, data[column, : self.layouts[matrix].lengths[column]])
        return self.append(data)

    def matrix_fields(self, i: int, j: int) -> dict[str, int]:
        """Appends the columns of a matrix; returns the fields of its descriptor."""
        layer, config, placement = self.network.layers[i], self.config, self.placement
        matrix, stored = layer.matrices[j], self.layouts[i, j]
        return {
            "source": matrix.source - INPUT,
            "target": i,
            "kind": stored.kind,
            "recurrent": int(feeds_next_step(matrix.source, i)),
            "gates": matrix.mask(layer.cell),
            "base": self.matrix_base((i, j), encode(matrix.ordered(layer.cell), stored, config)),
            "column_words": stored.pitch,
            "list_base": 0 if matrix.source == INPUT else placement.unit_base[matrix.source],
            "accumulator_base": placement.accumulator_base[i],
            "stride": layout.block_rows(CELLS[layer.cell], config.row_scale),
            **DENSE,
            "int4": int(stored.bits == 4),
            "kept": stored.kept,
            "width": stored.width.bit_length() - 1 if stored.width else 0,
            "blocks": stored.blocks if config.sparse else 0,
            "hot": int((i, j) in self.hot.whole),
            "mixed": int((i, j) in self.hot.columns),
            "columns": self.first_column.get((i, j), 0),
            **lane_rows(matrix.mask(layer.cell), stored, placement.accumulator_base[i]),
        }

    def layer_fields(self, i: int) -> dict[str, int]:
        """Fields of the descriptor of a layer."""
        network, config = self.network, self.config
        layer = network.layers[i]
        second = layer.threshold if layer.threshold_recurrent is None else layer.threshold_recurrent
        peers = [self.placement.unit_base[layer.peers[p]] for p in CELLS[layer.cell].peers]
        return {
            "cell": config.cells.index(layer.cell),
            "mode": layer.mode,
            "reload": int(network.reload(i)),
            "output": int(i == len(network.layers) - 1),
            "units": layer.units,
            "blocks": layer.blocks(config.multipliers),
            "accumulator_base": self.placement.accumulator_base[i],
            "unit_base": self.placement.unit_base[i],
            "shift": layer.shift,
            "write_shift": layer.write_shift,
            "matrices": len(layer.matrices),
            "threshold": layer.threshold if layer.thresholds is None else 0,
            "threshold_recurrent": second,
            "peer0": peers[0] if peers else 0,
            "peer1": peers[1] if len(peers) > 1 else 0,
            "spare1": 0,
        }

    def header_fields(self, notes_bytes: int) -> dict[str, int]:
        """Fields of the header, once all runs are there."""
        network = self.network
        one_hot = network.input_mode.one_hot
        return {
            "magic": layout.MAGIC,
            "version": layout.VERSION,
            "layers": len(network.layers),
            "matrices": self.runs,
            "fingerprint": self.config.fingerprint,
            "words": self.words,
            "crc": 0,
            "inputs": 1 if one_hot else network.inputs,
            "input_mode": network.input_mode,
            "input_one": network.input_fraction if one_hot else 0,
            "outputs": network.outputs % 1024,
            "input_threshold": network.input_threshold if network.input_thresholds is None else 0,
            "table_slots": len(self.entries) // SLOT_BYTES,
            "notes_bytes": notes_bytes,
            "hot_at": self.words - self.hot.words,
        }

    def check_memory(self) -> None:
        """Refuses an image that the engine's memory has no room for."""
        network, config, words = self.network, self.config, self.words
        if words > 1 << config.address_bits:
            raise StillnetError(
                f"network '{network.name}' needs {words} words of memory, {config.address_bits} "
                f"address bits of engine '{config.name}' reach {1 << config.address_bits}"
            )
        if config.memory == "ram" and words > config.ram_words:
            raise StillnetError(
                f"network '{network.name}' needs {words} words, the on-chip memory of engine "
                f"'{config.name}' has {config.ram_words}; use a smaller network or raise "
                f"'ram_words'{_without_planes(network)}"
            )

    def image(self) -> Image:
        """Fills in everything."""
        layers = range(len(self.network.layers))
        runs = [fields for i in layers for fields in self.bias_fields(i)]
        runs += [self.matrix_fields(i, j) for i, j in self.jobs]
        self.body += self.hot_body
        self.check_memory()
        notes = _notes(self)
        text = json.dumps(notes).encode()
        notes_data = text + zlib.crc32(text).to_bytes(4, "little")

        groups = [(layout.HEADER, self.header_fields(len(notes_data)))]
        groups += [(layout.LAYER, self.layer_fields(i)) for i in layers]
        groups += [(self.matrix_records, fields) for fields in runs]
        data = b"".join(
            record.pack(fields).to_bytes(4, "little").ljust(SLOT_BYTES, b"\0")
            for records, fields in groups
            for record in records
        )
        data += self.entries + self.body
        crc = image_crc(data).to_bytes(4, "little")
        data = data[:_CRC_OFFSET] + crc + data[_CRC_OFFSET + 4 :]
        return Image(data + notes_data, notes)


def pack(network: Network, config: EngineConfig) -> Image:
    """Packs a network for one engine configuration.

    Returns
    -------
    Image
        ``image.data`` goes to the engine's memory at any address that is a multiple of 64 bytes.

    Raises
    ------
    StillnetError
        Where the network does not fit, or a row could overflow its accumulator.
    """
    network.validate()
    return _Packer(network, config).image()


_CRC_OFFSET = layout.CRC_RECORD * SLOT_BYTES


def image_crc(data: bytes | bytearray) -> int:
    """CRC-32 of the part that the hardware reads, its own record taken as zero."""
    zeroed = bytes(data[:_CRC_OFFSET]) + bytes(4) + bytes(data[_CRC_OFFSET + 4 :])
    return zlib.crc32(zeroed)


NOTES = (
    *("name", "config", "inputs", "input_fraction", "input_exponents", "input_mode"),
    *("input_threshold", "hot_words", "layers", "host"),
)
NOTES_OF_LAYER = (
    *("name", "cell", "units", "fraction", "unit_exponents", "mode", "threshold"),
    *("threshold_recurrent", "unit_base", "accumulator_base", "parameters", "peers", "matrices"),
)
"""Keys of an image's notes."""


def _notes(packer: _Packer) -> dict[str, Any]:
    network, config, placement = packer.network, packer.config, packer.placement
    layouts, hot = packer.layouts, packer.hot
    budgets = {str(source): budget for source, budget in network.budgets.items()}
    thresholds = _listed(network.input_thresholds)
    return {
        **({"budgets": budgets} if budgets else {}),
        **({"input_thresholds": thresholds} if config.element_thresholds else {}),
        "name": network.name,
        "config": config.to_dict(),
        "host": None if network.host is None else network.host.to_dict(),
        "inputs": network.inputs,
        "input_fraction": network.input_fraction,
        "input_exponents": _listed(network.input_exponents),
        "input_mode": network.input_mode.name.lower(),
        "input_threshold": network.input_threshold,
        "hot_words": hot.words,
        "layers": [
            {
                "name": layer.name,
                "cell": layer.cell,
                "units": layer.units,
                "fraction": layer.fraction,
                "unit_exponents": _listed(layer.unit_exponents),
                "mode": layer.mode.name.lower(),
                "threshold": layer.threshold,
                "threshold_recurrent": layer.threshold_recurrent,
                "unit_base": placement.unit_base[i],
                "accumulator_base": placement.accumulator_base[i],
                "parameters": {p: str(f) for p, f in CELLS[layer.cell].parameters.items()},
                "peers": {p: network.layers[source].name for p, source in layer.peers.items()},
                "matrices": [
                    {
                        "source": network.source_name(m.source),
                        "gates": list(m.gates),
                        "columns": m.weight.shape[2],
                        "column_words": layouts[i, j].pitch,
                        "fraction": m.fraction,
                        "format": layouts[i, j].name,
                        "bits": layouts[i, j].bits,
                        "words": layouts[i, j].words,
                        "hot_columns": int(hot.mask((i, j), m.weight.shape[2]).sum()),
                    }
                    for j, m in enumerate(layer.matrices)
                ],
            }
            for i, layer in enumerate(network.layers)
        ],
    }


def _listed(numbers: np.ndarray | None) -> list[int] | None:
    return None if numbers is None else numbers.tolist()


def costs(network: Network, config: EngineConfig) -> list[dict[str, Any]]:
    """What each matrix would take in every format that the engine reads, and which is chosen.

    Returns
    -------
    list of dict
        ``layer``, ``source``, ``bits``, ``density``, ``format`` (chosen), ``words`` (of all
        columns, by format); one entry per matrix.
    """
    rows = []
    for layer in network.layers:
        for m in layer.matrices:
            engine = readable(m.mask(layer.cell), config)
            found = candidates(m.ordered(layer.cell), m.bits, engine, everything=True)
            chosen = m.layout(layer.cell, config)
            rows.append(
                {
                    "layer": layer.name,
                    "source": network.source_name(m.source),
                    "bits": chosen.bits,
                    "density": np.count_nonzero(m.weight) / m.weight.size,
                    "format": chosen.name,
                    "words": {x.name: x.words for x in found},
                }
            )
    return rows


def load_image(source: str | Path | bytes) -> Image:
    """Reads an image and checks it: magic, version, length, CRC-32.

    Raises
    ------
    StillnetError
        Saying what is wrong with the file, and that it must be packed again.
    """
    name = "image" if isinstance(source, bytes) else f"'{source}'"
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        if not path.is_file():
            raise StillnetError(f"image file {name} does not exist")
        data = path.read_bytes()
    records = len(layout.HEADER)
    if data[:4] != layout.MAGIC.to_bytes(4, "little"):
        raise StillnetError(f"{name} is not a stillnet image; make one with 'stillnet pack'")
    if len(data) < records * SLOT_BYTES:
        raise StillnetError(f"{name} is cut off after {len(data)} bytes; copy or pack it again")
    header: dict[str, int] = {}
    for k, record in enumerate(layout.HEADER):
        slot = data[k * SLOT_BYTES : k * SLOT_BYTES + 4]
        header |= record.unpack(int.from_bytes(slot, "little"))
    if header["version"] != layout.VERSION:
        raise StillnetError(
            f"{name} has image version {header['version']}, this stillnet reads {layout.VERSION}; "
            "pack it again"
        )
    hardware, notes_data = data[: len(data) - header["notes_bytes"]], b""
    if header["notes_bytes"] >= 4:
        notes_data = data[len(hardware) :]
    if (
        not notes_data
        or image_crc(hardware) != header["crc"]
        or zlib.crc32(notes_data[:-4]) != int.from_bytes(notes_data[-4:], "little")
    ):
        raise StillnetError(
            f"{name} is damaged or cut off ({len(data)} bytes, CRC does not match); copy or pack "
            "it again"
        )
    image = Image(data, _checked_notes(notes_data[:-4], str(name)))
    return image


def _checked_notes(data: bytes, name: str) -> dict[str, Any]:
    """The JSON part of an image, with all keys that :func:`_notes` writes."""
    try:
        notes = json.loads(data.decode())
        there = [key for key in ("budgets", "input_thresholds") if key in notes]
        check_keys(notes, (*NOTES, *there), name, remedy="pack it again")
        if not notes["layers"]:
            raise ValueError("it has no layers")
        for i, layer in enumerate(notes["layers"]):
            check_keys(layer, NOTES_OF_LAYER, f"layer {i} of {name}", remedy="pack it again")
        EngineConfig.from_dict(dict(notes["config"]), complete=True)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        text = "".join(c if c.isprintable() else "?" for c in str(error))
        raise StillnetError(f"{name} has damaged notes ({text}); pack it again") from None
    return notes


def describe(source: str | Path | bytes) -> dict[str, Any]:
    """What ``stillnet info`` says of an image: header, formats and sizes of every layer."""
    image = load_image(source)
    config = image.config
    return {
        "kind": "image",
        "name": image.notes["name"],
        "bytes": len(image.data),
        "fingerprint": f"{config.fingerprint:08x}",
        "engine": image.notes["config"],
        "inputs": image.notes["inputs"],
        "input_mode": image.notes["input_mode"],
        "input_fraction": image.notes["input_fraction"],
        "input_threshold": image.notes["input_threshold"],
        "hot_words": image.notes["hot_words"],
        "layers": image.notes["layers"],
        **({"budgets": image.notes["budgets"]} if "budgets" in image.notes else {}),
    }
