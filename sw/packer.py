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

from .contract import image as layout
from .contract.cells import CELLS, Cell
from .contract.config import EngineConfig
from .contract.image import BIAS_WORDS, SLOT_BYTES, Kind
from .errors import StillnetError
from .network import INPUT, Network, QuantizedLayer

__all__ = ["Image", "Placement", "describe", "load_image", "pack", "place"]


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
    unit_base, accumulator_base = [], []
    units = accumulators = 0
    for layer in network.layers:
        unit_base.append(units // config.cell_width)
        accumulator_base.append(accumulators)
        units += -(-layer.units // config.cell_width) * config.cell_width
        accumulators += layer.blocks(config.lanes) * layout.block_rows(CELLS[layer.cell])
        accumulators += accumulators % 2
    inputs = 1 if network.input_mode.one_hot else network.inputs
    matrices = sum(
        len(_bias_runs(CELLS[layer.cell])) + len(layer.matrices) for layer in network.layers
    )
    for field, needed in {
        "units": units,
        "inputs": inputs,
        "accumulators": accumulators,
        "layers": len(network.layers),
        "matrices": matrices,
    }.items():
        if needed > getattr(config, field):
            raise StillnetError(
                f"network '{network.name}' needs {field} = {needed}, engine '{config.name}' has "
                f"{getattr(config, field)}; generate an engine with a larger '{field}'"
            )
    return Placement(tuple(unit_base), tuple(accumulator_base))


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
            "has one encoder; generate one with second_threshold = true"
        )


def _bias_runs(cell: Cell) -> list[tuple[int, int, bool]]:
    """Bias runs of a layer as (first row, rows, once) of a block.

    Parameters have a run of their own, so that a layer that starts each step from its biases loads
    them only once; it comes first, because a cell may run when the biases are there.
    """
    count = len(cell.accumulators)
    if cell.accumulators and cell.parameters:
        return [(count, len(cell.parameters), True), (0, count, False)]
    return [(0, layout.block_rows(cell), False)]


def _block_values(layer: QuantizedLayer) -> np.ndarray:
    """Biases and parameters as they lie in a block, int64, shape (rows of a block, units)."""
    cell = CELLS[layer.cell]
    rows = [layer.bias[a] for a in cell.accumulators]
    rows += [layer.parameters[p] for p in cell.parameters]
    return np.stack(rows or [np.zeros(layer.units)]).astype(np.int64)


def _dense_words(weight: np.ndarray, lanes: int) -> np.ndarray:
    """int8 weights (gates, units, columns) as bytes (columns, blocks, gates, lanes)."""
    gates, units, columns = weight.shape
    blocks = -(-units // lanes)
    padded = np.zeros((gates, blocks * lanes, columns), np.int8)
    padded[:, :units] = weight
    return padded.reshape(gates, blocks, lanes, columns).transpose(3, 1, 0, 2)


def _bias_words(bias: np.ndarray, lanes: int) -> np.ndarray:
    """int32 biases (accumulators, units) as bytes (blocks, accumulators, 4, lanes)."""
    count, units = bias.shape
    blocks = -(-units // lanes)
    padded = np.zeros((count, blocks * lanes), np.int64)
    padded[:, :units] = bias
    rows = padded.reshape(count, blocks, lanes).transpose(1, 0, 2)
    return np.stack([(rows >> (8 * k)) & 0xFF for k in range(BIAS_WORDS)], axis=2).astype(np.uint8)


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
    lanes = config.lanes
    jobs = sorted(
        ((i, j) for i, layer in enumerate(network.layers) for j in range(len(layer.matrices))),
        key=lambda ij: _priority(
            network.layers[ij[0]].matrices[ij[1]].source, ij[0], len(network.layers)
        ),
    )
    layers = len(network.layers)
    runs = sum(len(_bias_runs(CELLS[layer.cell])) for layer in network.layers) + len(jobs)
    slots = len(layout.HEADER) + len(layout.LAYER) * layers + len(layout.MATRIX) * runs
    header_bytes = slots * SLOT_BYTES
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
        stack = _block_values(layer)
        matrix_values += [
            {
                "source": 0,
                "target": i,
                "kind": Kind.BIAS,
                "recurrent": int(once),
                "gates": ((1 << rows) - 1) << first,
                "base": run(_bias_words(stack[first : first + rows], lanes)),
                "column_words": BIAS_WORDS * rows * layer.blocks(lanes),
                "list_base": 0,
                "accumulator_base": placement.accumulator_base[i],
                "stride": len(stack),
            }
            for first, rows, once in _bias_runs(CELLS[layer.cell])
        ]
    for i, j in jobs:
        layer = network.layers[i]
        matrix = layer.matrices[j]
        order = CELLS[layer.cell].accumulators
        # The columns hold the gates in the order of the accumulators, whatever the file's order.
        rank = sorted(range(len(matrix.gates)), key=lambda g: order.index(matrix.gates[g]))
        matrix_values.append(
            {
                "source": matrix.source + 1,
                "target": i,
                "kind": Kind.DENSE,
                "recurrent": int(matrix.source >= i),
                "gates": sum(1 << order.index(g) for g in matrix.gates),
                "base": run(_dense_words(matrix.weight[rank], lanes)),
                "column_words": matrix.column_words(lanes),
                "list_base": 0 if matrix.source == INPUT else placement.unit_base[matrix.source],
                "accumulator_base": placement.accumulator_base[i],
                "stride": layout.block_rows(CELLS[layer.cell]),
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
    notes = _notes(network, config, placement)
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
            "input_threshold": network.input_threshold,
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
                "threshold": layer.threshold,
                "threshold_recurrent": second,
                "peer0": peers[0] if peers else 0,
                "peer1": peers[1] if len(peers) > 1 else 0,
                "spare1": 0,
            },
        )
    for values in matrix_values:
        emit(layout.MATRIX, values)
    header = bytearray(header_bytes)
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


def _notes(network: Network, config: EngineConfig, placement: Placement) -> dict[str, Any]:
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
                        "column_words": m.column_words(config.lanes),
                        "fraction": m.fraction,
                    }
                    for m in layer.matrices
                ],
            }
            for i, layer in enumerate(network.layers)
        ],
    }


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
