"""What the blocks of the engine exchange: payloads of streams and status.

This module lies below all blocks: they import it, and it imports none of them.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACTIVATION_BITS, EVENT_BITS

from .shapes import Shapes

__all__ = [
    "InputStatus",
    "VectorStatus",
    "cell_command_layout",
    "column_layout",
    "format_fields",
    "list_layout",
    "output_groups",
    "output_layout",
    "read_command_layout",
    "run_layout",
    "write_command_layout",
]


# -- events -------------------------------------------------------------------------------------


def list_layout(width: int, row_bits: int) -> data.StructLayout:
    """One row of an event list: which group of elements, which of them fired, their values."""
    return data.StructLayout(
        {
            "group": unsigned(row_bits),
            "mask": unsigned(width),
            "values": data.ArrayLayout(signed(EVENT_BITS), width),
        }
    )


class VectorStatus(data.StructLayout):
    """How far the event list of a vector is: generation, completeness and rows."""

    def __init__(self, row_bits: int) -> None:
        super().__init__({"generation": 1, "complete": 1, "rows": unsigned(row_bits)})


class InputStatus(data.StructLayout):
    """A half of the input's list: whether a vector is in it, all of it, and its rows."""

    def __init__(self, row_bits: int) -> None:
        super().__init__({"present": 1, "complete": 1, "rows": unsigned(row_bits)})


def output_layout() -> data.StructLayout:
    """An element of the output stream."""
    return data.StructLayout({"data": signed(ACTIVATION_BITS), "last": 1})


def output_groups(config: EngineConfig) -> int:
    """Groups of the output layer that may be between the cell unit and the output stream.

    The stream takes one element per cycle. A wider cell needs room for a long vector, so that it
    can go on with the next step meanwhile (one block RAM). At one element per cycle, a few are
    enough.
    """
    return 64 if config.cell_width == 1 else 512


# -- columns ------------------------------------------------------------------------------------


def format_fields(config: EngineConfig) -> dict[str, Any]:
    """Fields of a column that only engines with other formats than dense int8 have."""
    s = Shapes(config)
    fields: dict[str, Any] = {"int4": 1} if config.int4 else {}
    if config.sparse:
        address = unsigned(s.accumulator_address)
        fields |= {"kind": unsigned(3), "kept": unsigned(5), "width": unsigned(2)}
        fields |= {"blocks": unsigned(s.block), "lane_rows": address}
        fields |= {"hole_at": address, "hole": address}
    return fields


def run_layout(config: EngineConfig) -> data.StructLayout:
    """Rows of an event list for one matrix, or a bias run."""
    s = Shapes(config)
    return data.StructLayout(
        {
            "bias": 1,
            "from_input": 1,
            "half": 1,
            "second": 1,
            "row": unsigned(16),
            "rows": unsigned(16),
            "address": unsigned(config.tier_bits),
            "words": unsigned(16),
            "base": unsigned(s.accumulator_address),
            "gates": unsigned(s.gates),
            "stride": unsigned(4),
            "layer": unsigned(s.layer),
            "step": unsigned(2),
            **format_fields(config),
            **({"columns": unsigned(16)} if config.columns else {}),
            **({"unequal": 1} if config.unequal else {}),
            **({"mixed": 1} if config.hot_words else {}),
        }
    )


def column_layout(config: EngineConfig) -> data.StructLayout:
    """One column in flight: what the lanes need to know of it besides its words."""
    s = Shapes(config)
    return data.StructLayout(
        {
            "value": signed(EVENT_BITS),
            "words": unsigned(16),
            "gates": unsigned(s.gates),
            "stride": unsigned(4),
            "base": unsigned(s.accumulator_address),
            "bias": 1,
            "layer": unsigned(s.layer),
            "step": unsigned(2),
            **format_fields(config),
        }
    )


# -- commands: what the blocks need to know of a cell that was dispatched -----------------------


def read_command_layout(config: EngineConfig) -> data.StructLayout:
    """A dispatched cell, for the accumulator reader.

    ``sequence`` is the number after the layer's last column, if one is ``pending``. ``skip``: the
    host supplies the vector, so nothing is read.
    """
    s = Shapes(config)
    return data.StructLayout(
        {
            "layer": unsigned(s.layer),
            "step": unsigned(2),
            "skip": 1,
            "blocks": unsigned(s.block),
            "units": unsigned(s.unit),
            "base": unsigned(s.accumulator_address),
            "stride": unsigned(4),
            "sequence": unsigned(s.sequence),
            "pending": 1,
        }
    )


def cell_command_layout(config: EngineConfig) -> data.StructLayout:
    """A dispatched cell, for the cell unit."""
    s = Shapes(config)
    fields: dict[str, Any] = {
        "layer": unsigned(s.layer),
        "cell": unsigned(4),
        "skip": 1,
        "output": 1,
        "rows": unsigned(s.row),
        "base": unsigned(s.row),
        "shift": unsigned(5),
    }
    if s.peers:
        fields["peers"] = data.ArrayLayout(unsigned(s.row), s.peers)
    return data.StructLayout(fields)


def write_command_layout(config: EngineConfig) -> data.StructLayout:
    """A dispatched cell, for write-back. ``single``: its units are one group."""
    s = Shapes(config)
    return data.StructLayout(
        {
            "layer": unsigned(s.layer),
            "skip": 1,
            "output": 1,
            "mode": Mode,
            "units": unsigned(s.unit),
            "single": 1,
            "rows": unsigned(s.row),
            "base": unsigned(s.row),
            "write_shift": unsigned(4),
            "threshold": unsigned(EVENT_BITS),
            "threshold_recurrent": unsigned(EVENT_BITS),
        }
    )
