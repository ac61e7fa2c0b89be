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
from stillnet.sw.contract.cells import CELLS, Cell
from stillnet.sw.contract.columns import Layout, bias_words, candidates, encode, readable
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import SCALE_FRACTION
from stillnet.sw.contract.image import BIAS_WORDS, SLOT_BYTES, UNEQUAL_FORMATS, Kind
from stillnet.sw.network.network import INPUT, Network, QuantizedLayer

__all__ = ["Image", "Placement", "capacities", "costs", "describe", "load_image", "pack", "place"]

_NO_FORMAT = dict.fromkeys(
    (
        "int4",
        "kept",
        "width",
        "blocks",
        "lengths",
        "lane_rows",
        "hole_at",
        "hole",
        "spare6",
        "spare7",
    ),
    0,
)


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
        at = 7 * SLOT_BYTES
        return self.data[: len(self.data) - int.from_bytes(self.data[at : at + 4], "little")]

    @property
    def config(self) -> EngineConfig:
        """The configuration that the image was packed for."""
        return EngineConfig.from_dict(self.notes["config"])


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
                "--fit"
            )
    return _placed(network, config)[0]


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
    runs = sum(len(_bias_runs(CELLS[layer.cell], config)) for layer in network.layers)
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
    ):
        if getattr(network, option) and not getattr(config, option):
            raise StillnetError(
                f"network '{network.name}' has {what}, engine '{config.name}' does not; generate "
                f"one with {option} = true, or with --fit"
            )


def _bias_runs(cell: Cell, config: EngineConfig) -> list[tuple[int, int, bool]]:
    """Bias runs of a layer as (first row, rows, once) of a block.

    Parameters have a run of their own, so that a layer that starts each step from its biases loads
    them only once; it comes first, because a cell may run when the biases are there.
    """
    count = len(cell.accumulators)
    rows = layout.block_rows(cell, config.row_scale)
    if cell.accumulators and rows > count:
        return [(count, rows - count, True), (0, count, False)]
    return [(0, rows, False)]


def _block_values(layer: QuantizedLayer, config: EngineConfig) -> np.ndarray:
    """Biases, parameters and row multipliers as they lie in a block, int64, shape (rows of a
    block, units)."""
    cell = CELLS[layer.cell]
    rows = [layer.bias[a] for a in cell.accumulators]
    rows += [layer.parameters[p] for p in cell.parameters]
    if config.row_scale:
        one = np.full(layer.units, 1 << SCALE_FRACTION)
        scale = [(layer.scale or {}).get(a, one) for a in cell.accumulators]
        for k in range(0, len(scale), 2):
            rows.append(scale[k] + ((scale[k + 1] if k + 1 < len(scale) else one) << 16))
    return np.stack(rows or [np.zeros(layer.units)]).astype(np.int64)


def _bias_words(bias: np.ndarray, lanes: int) -> np.ndarray:
    """int32 biases (accumulators, units) as bytes (blocks, accumulators, 4, lanes)."""
    count, units = bias.shape
    blocks = -(-units // lanes)
    padded = np.zeros((count, blocks * lanes), np.int64)
    padded[:, :units] = bias
    rows = padded.reshape(count, blocks, lanes).transpose(1, 0, 2)
    return np.stack([(rows >> (8 * k)) & 0xFF for k in range(BIAS_WORDS)], axis=2).astype(np.uint8)


def _tables(
    network: Network, config: EngineConfig, placement: Placement, lengths: list[int]
) -> bytes:
    """The tables behind the descriptors, in whole slots."""
    tables: dict[layout.Table, list[int]] = {}
    if config.columns:
        if len(lengths) > config.columns:
            raise StillnetError(
                f"network '{network.name}' needs columns = {len(lengths)}, engine "
                f"'{config.name}' has {config.columns}; generate an engine with a larger "
                "'columns', or with --fit"
            )
        tables[layout.Table.LENGTHS] = lengths
    if config.element_thresholds:
        # Zero where one threshold serves all: an event has to reach both.
        if not network.input_mode.one_hot:
            first = network.input_thresholds
            zeros = np.zeros(network.inputs, int)
            tables[layout.Table.INPUT_THRESHOLDS] = (zeros if first is None else first).tolist()
        last, base = network.layers[-1], placement.unit_base[-1]
        units = np.zeros(base * config.cell_width + last.units, int)
        for layer, row in zip(network.layers, placement.unit_base):
            if layer.thresholds is not None:
                start = row * config.cell_width
                units[start : start + layer.units] = layer.thresholds
        tables[layout.Table.THRESHOLDS] = units.tolist()
    data = b"".join(
        layout.ENTRY.pack({"value": v, "spare": 0, "table": table, "first": int(k == 0)}).to_bytes(
            4, "little"
        )
        for table, values in tables.items()
        for k, v in enumerate(values)
    )
    return data + bytes(-len(data) % SLOT_BYTES)


def _rows(gates: int, stored: Layout, base: int) -> dict[str, int]:
    """Which accumulators the rows of a lane are, for formats that number them through."""
    if stored.kind == Kind.DENSE:
        return {}
    start = (gates & -gates).bit_length() - 1
    mask = gates >> start
    before = (~mask & (mask + 1)).bit_length() - 1  # gates up to the first that is not fed
    after = mask >> before
    hole = ((after & -after).bit_length() - 1) if after else 0
    return {
        "accumulator_base": base + start * stored.blocks,
        "lane_rows": stored.gates * stored.blocks,
        "hole_at": before * stored.blocks if hole else 0,
        "hole": hole * stored.blocks,
    }


def _priority(source: int, target: int, layers: int) -> tuple[int, int]:
    """Design section 6, rule 4: inputs of upper layers, recurrences of lower layers, network
    inputs, the recurrence of the last layer."""
    if source >= target:
        return (3, 0) if target == layers - 1 else (1, target)
    return (2, 0) if source == INPUT else (0, target)


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
    placement = place(network, config)
    lanes = config.multipliers
    jobs = sorted(
        ((i, j) for i, layer in enumerate(network.layers) for j in range(len(layer.matrices))),
        key=lambda ij: _priority(
            network.layers[ij[0]].matrices[ij[1]].source, ij[0], len(network.layers)
        ),
    )
    layers = len(network.layers)
    runs = sum(len(_bias_runs(CELLS[layer.cell], config)) for layer in network.layers) + len(jobs)
    layouts = {
        (i, j): network.layers[i].matrices[j].layout(network.layers[i].cell, config)
        for i, j in jobs
    }
    lengths: list[int] = []
    first_length: dict[tuple[int, int], int] = {}
    for ij in jobs:
        if layouts[ij].kind.name.lower() in UNEQUAL_FORMATS:
            first_length[ij] = len(lengths)
            lengths += layouts[ij].lengths.tolist()
    records_each = layout.matrix_records(config.sparse)
    slots = len(layout.HEADER) + len(layout.LAYER) * layers + len(records_each) * runs
    entries = _tables(network, config, placement, lengths)
    header_bytes = slots * SLOT_BYTES + len(entries)
    body = bytearray()

    def run(data: np.ndarray) -> int:
        """Appends a run of words; returns its word address in the image."""
        address = (header_bytes + len(body)) // config.word_bytes
        body.extend(np.ascontiguousarray(data).tobytes())
        return address

    records: list[int] = []

    def emit(group: tuple[layout.Record, ...], values: dict[str, int]) -> None:
        records.extend(record.pack(values) for record in group)

    matrix_values: list[dict[str, int]] = []
    for i, layer in enumerate(network.layers):
        stack = _block_values(layer, config)
        matrix_values += [
            {
                "source": 0,
                "target": i,
                "kind": Kind.BIAS,
                "recurrent": int(once),
                "gates": ((1 << rows) - 1) << first,
                "base": run(_bias_words(stack[first : first + rows], lanes)),
                "column_words": bias_words(layer.units, rows, config),
                "list_base": 0,
                "accumulator_base": placement.accumulator_base[i],
                "stride": len(stack),
                **_NO_FORMAT,
                "blocks": layer.blocks(lanes) if config.sparse else 0,
            }
            for first, rows, once in _bias_runs(CELLS[layer.cell], config)
        ]
    for i, j in jobs:
        layer = network.layers[i]
        matrix = layer.matrices[j]
        stored = layouts[i, j]
        matrix_values.append(
            {
                "source": matrix.source + 1,
                "target": i,
                "kind": stored.kind,
                "recurrent": int(matrix.source >= i),
                "gates": matrix.mask(layer.cell),
                "base": run(encode(matrix.ordered(layer.cell), stored, config)),
                "column_words": stored.pitch,
                "list_base": 0 if matrix.source == INPUT else placement.unit_base[matrix.source],
                "accumulator_base": placement.accumulator_base[i],
                "stride": layout.block_rows(CELLS[layer.cell], config.row_scale),
                **_NO_FORMAT,
                "int4": int(stored.bits == 4),
                "kept": stored.kept,
                "width": stored.width.bit_length() - 1 if stored.width else 0,
                "blocks": stored.blocks if config.sparse else 0,
                "lengths": first_length.get((i, j), 0),
                **_rows(matrix.mask(layer.cell), stored, placement.accumulator_base[i]),
            }
        )
    words = (header_bytes + len(body)) // config.word_bytes
    if words > 1 << config.address_bits:
        raise StillnetError(
            f"network '{network.name}' needs {words} words of memory, {config.address_bits} "
            f"address bits of engine '{config.name}' reach {1 << config.address_bits}"
        )
    if config.memory == "ram" and words > config.ram_words:
        raise StillnetError(
            f"network '{network.name}' needs {words} words, the on-chip memory of engine "
            f"'{config.name}' has {config.ram_words}; use a smaller network or raise 'ram_words'"
        )
    notes = _notes(network, config, placement, layouts)
    note_bytes = json.dumps(notes).encode()
    one_hot = network.input_mode.one_hot
    emit(
        layout.HEADER,
        {
            "magic": layout.MAGIC,
            "version": layout.VERSION,
            "layers": layers,
            "matrices": runs,
            "fingerprint": config.fingerprint,
            "words": words,
            "crc": 0,
            "inputs": 1 if one_hot else network.inputs,
            "input_mode": network.input_mode,
            "input_one": network.input_fraction if one_hot else 0,
            "outputs": network.outputs % 1024,
            "input_threshold": network.input_threshold if network.input_thresholds is None else 0,
            "table_slots": len(entries) // SLOT_BYTES,
            "notes_bytes": len(note_bytes) + 4,
        },
    )
    for i, layer in enumerate(network.layers):
        second = layer.threshold if layer.threshold_recurrent is None else layer.threshold_recurrent
        peers = [placement.unit_base[layer.peers[p]] for p in CELLS[layer.cell].peers]
        emit(
            layout.LAYER,
            {
                "cell": config.cells.index(layer.cell),
                "mode": layer.mode,
                "reload": int(network.reload(i)),
                "output": int(i == layers - 1),
                "units": layer.units,
                "blocks": layer.blocks(lanes),
                "accumulator_base": placement.accumulator_base[i],
                "unit_base": placement.unit_base[i],
                "shift": layer.shift,
                "write_shift": layer.write_shift,
                "matrices": len(layer.matrices),
                "threshold": layer.threshold if layer.thresholds is None else 0,
                "threshold_recurrent": second,
                "peer0": peers[0] if peers else 0,
                "peer1": peers[1] if len(peers) > 1 else 0,
                "spare1": 0,
            },
        )
    for values in matrix_values:
        emit(records_each, values)
    header = bytearray(header_bytes)
    header[slots * SLOT_BYTES :] = entries
    for k, record in enumerate(records):
        header[k * SLOT_BYTES : k * SLOT_BYTES + 4] = record.to_bytes(4, "little")
    data = header + body
    data[_CRC_OFFSET : _CRC_OFFSET + 4] = _crc(data).to_bytes(4, "little")
    return Image(bytes(data + note_bytes + zlib.crc32(note_bytes).to_bytes(4, "little")), notes)


_CRC_OFFSET = layout.CRC_RECORD * SLOT_BYTES


def _crc(data: bytes | bytearray) -> int:
    """CRC-32 of the part that the hardware reads, its own record taken as zero."""
    zeroed = bytes(data[:_CRC_OFFSET]) + bytes(4) + bytes(data[_CRC_OFFSET + 4 :])
    return zlib.crc32(zeroed)


def _notes(
    network: Network,
    config: EngineConfig,
    placement: Placement,
    layouts: dict[tuple[int, int], Layout],
) -> dict[str, Any]:
    return {
        "name": network.name,
        "config": config.to_dict(),
        "inputs": network.inputs,
        "input_fraction": network.input_fraction,
        "input_mode": network.input_mode.name.lower(),
        "input_threshold": network.input_threshold,
        "layers": [
            {
                "name": layer.name,
                "cell": layer.cell,
                "units": layer.units,
                "fraction": layer.fraction,
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
                    }
                    for j, m in enumerate(layer.matrices)
                ],
            }
            for i, layer in enumerate(network.layers)
        ],
    }


def costs(network: Network, config: EngineConfig) -> list[dict[str, Any]]:
    """What each matrix would take in every format that the engine reads, and which is chosen.

    Returns
    -------
    list of dict
        ``layer``, ``source``, ``bits``, ``density``, ``format`` (chosen), ``words`` (of all
        columns, by format), one a matrix.
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
        or _crc(hardware) != header["crc"]
        or zlib.crc32(notes_data[:-4]) != int.from_bytes(notes_data[-4:], "little")
    ):
        raise StillnetError(
            f"{name} is damaged or cut off ({len(data)} bytes, CRC does not match); copy or pack "
            "it again"
        )
    notes = json.loads(notes_data[:-4])
    return Image(data, notes)


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
        "layers": image.notes["layers"],
    }
