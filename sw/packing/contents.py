"""What an image holds besides descriptors and weights: bias runs and tables."""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.columns import Layout
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import SCALE_FRACTION
from stillnet.sw.contract.image import (
    BIAS_WORDS,
    ENTRY,
    HOT_COLUMN,
    SLOT_BYTES,
    UNEQUAL_FORMATS,
    Kind,
    Table,
)
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.network.network import Network, QuantizedLayer
from stillnet.sw.network.tiers import HotStore

__all__ = ["bias_bytes", "block_values", "columns_of", "lane_rows", "table_entries"]


def block_values(layer: QuantizedLayer, config: EngineConfig) -> np.ndarray:
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


def bias_bytes(bias: np.ndarray, lanes: int) -> np.ndarray:
    """int32 biases (accumulators, units) as bytes (blocks, accumulators, 4, lanes)."""
    count, units = bias.shape
    blocks = -(-units // lanes)
    padded = np.zeros((count, blocks * lanes), np.int64)
    padded[:, :units] = bias
    rows = padded.reshape(count, blocks, lanes).transpose(1, 0, 2)
    return np.stack([(rows >> (8 * k)) & 0xFF for k in range(BIAS_WORDS)], axis=2).astype(np.uint8)


def table_entries(
    network: Network,
    config: EngineConfig,
    unit_base: tuple[int, ...],
    columns: dict[Table, list[int]],
) -> bytes:
    """The tables after the descriptors, in whole slots.

    Parameters
    ----------
    network : Network
    config : EngineConfig
    unit_base : tuple of int
        As in ``Placement``.
    columns : dict of Table to list of int
        As from :func:`columns_of`.
    """
    tables: dict[Table, list[int]] = {}
    for table, there in ((Table.LENGTHS, config.unequal), (Table.HOT, config.hot_words)):
        if len(columns[table]) > config.columns:
            raise StillnetError(
                f"network '{network.name}' needs columns = {len(columns[table])}, engine "
                f"'{config.name}' has {config.columns}; generate an engine with a larger "
                "'columns', or with --fit"
            )
        if there:
            tables[table] = columns[table]
    if config.element_thresholds:
        # Zero where one threshold serves all: an event has to reach both.
        if not network.input_mode.one_hot:
            first = network.input_thresholds
            zeros = np.zeros(network.inputs, int)
            tables[Table.INPUT_THRESHOLDS] = (zeros if first is None else first).tolist()
        last, base = network.layers[-1], unit_base[-1]
        units = np.zeros(base * config.cell_width + last.units, int)
        for layer, row in zip(network.layers, unit_base):
            if layer.thresholds is not None:
                start = row * config.cell_width
                units[start : start + layer.units] = layer.thresholds
        tables[Table.THRESHOLDS] = units.tolist()
    if config.budgets:
        sources = range(INPUT, config.layers)
        tables[Table.BUDGETS] = [network.budgets.get(source, 0) for source in sources]
    data = b"".join(
        ENTRY.pack({"value": v, "spare": 0, "table": table, "first": int(k == 0)}).to_bytes(
            4, "little"
        )
        for table, values in tables.items()
        for k, v in enumerate(values)
    )
    return data + bytes(-len(data) % SLOT_BYTES)


def columns_of(
    layouts: dict[tuple[int, int], Layout], hot: HotStore
) -> tuple[dict[Table, list[int]], dict[tuple[int, int], int]]:
    """The tables of columns, which have the same places, and by matrix its first place in them.

    A matrix is in them whose columns differ in length, or of which some are in the hot store.
    """
    tables: dict[Table, list[int]] = {Table.LENGTHS: [], Table.HOT: []}
    first: dict[tuple[int, int], int] = {}
    for matrix, stored in layouts.items():
        if stored.kind.name.lower() in UNEQUAL_FORMATS or matrix in hot.columns:
            first[matrix] = len(tables[Table.LENGTHS])
            tables[Table.LENGTHS] += stored.lengths.tolist()
            for word in hot.columns.get(matrix, np.full(len(stored.lengths), -1)).tolist():
                there = int(word >= 0)
                entry = HOT_COLUMN.pack({"word": word if there else 0, "hot": there})
                tables[Table.HOT].append(entry)
    return tables, first


def lane_rows(gates: int, stored: Layout, base: int) -> dict[str, int]:
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
