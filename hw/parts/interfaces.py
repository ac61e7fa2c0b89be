"""What the blocks of the engine exchange: payloads of streams, status, and bundles of ports.

This module lies below all blocks: they import it, and it imports none of them. A signature is
written as the block sees it that drives most of its members; the other side has it as ``In``, and
``connect`` joins the two.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.registers import Error

from .shapes import Shapes

__all__ = [
    "CountedVectorSignature",
    "CounterReadSignature",
    "CycleSignature",
    "DescriptorWriteSignature",
    "DirectSignature",
    "DispatchSignature",
    "EntryWriteSignature",
    "GroupSignature",
    "HoldSignature",
    "HotFillSignature",
    "ImageSignature",
    "InputControlSignature",
    "InputEncodedSignature",
    "InputHeaderSignature",
    "InputListSignature",
    "InputStatus",
    "IssueSignature",
    "ListReadSignature",
    "ListedSignature",
    "LoadControlSignature",
    "PeekSignature",
    "ProgressSignature",
    "RestoreSignature",
    "ResultsSignature",
    "RuleSignature",
    "SchedulerControlSignature",
    "StateAccessSignature",
    "StepBoundsSignature",
    "SumReadSignature",
    "TableWriteSignature",
    "ThresholdWriteSignature",
    "TokenAccessSignature",
    "VectorEncodedSignature",
    "VectorStatus",
    "VectorsSignature",
    "WaitingSignature",
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


# -- ports of the event encoders and their lists ------------------------------------------------


class GroupSignature(wiring.Signature):
    """A group of elements on its way into an encoder.

    Parameters
    ----------
    width : int
        Elements of a group.

    Members
    -------
    valid, first, last : Out(1)
        A group is there; it is the first, the last one of its vector.
    values : Out(width * 16)
    mask : Out(width)
        Which elements of the group exist.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
                "values": Out(width * ACTIVATION_BITS),
                "mask": Out(width),
            }
        )


class RuleSignature(wiring.Signature):
    """When an element of a group is an event; taken with the group's ``valid``.

    Members
    -------
    mode : Out(Mode)
    threshold : Out(17)
    enable : Out(1)
        Low: the vector has no events, and its reference stays.
    exact : Out(1)
        The thresholds of single elements count as zero.
    """

    def __init__(self) -> None:
        super().__init__(
            {"mode": Out(Mode), "threshold": Out(EVENT_BITS), "enable": Out(1), "exact": Out(1)}
        )


class DirectSignature(wiring.Signature):
    """An event that is listed as it is, without a look at the reference (one-hot modes).

    Members
    -------
    valid : Out(1)
        The group that comes in this cycle is such an event.
    group : Out(group_bits)
    value : Out(17), signed
    """

    def __init__(self, group_bits: int) -> None:
        super().__init__(
            {"valid": Out(1), "group": Out(group_bits), "value": Out(signed(EVENT_BITS))}
        )


class ListedSignature(wiring.Signature):
    """A group that an encoder has listed.

    Members
    -------
    valid, first, last : Out(1)
        The events of a group can be read from the list; the group was the first, the last one.
    rows : Out(row_bits)
        Rows of the vector's list so far, valid with ``valid``.
    total : Out(16)
        Events of the vector so far, valid with ``valid``.
    """

    def __init__(self, row_bits: int) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
                "rows": Out(row_bits),
                "total": Out(16),
            }
        )


class ListReadSignature(wiring.Signature):
    """Read port of an event list.

    Parameters
    ----------
    width : int
        Elements of a row.
    row_bits : int
        Width of a row's place in the list.
    group_bits : int
        Width of a group's number.

    Members
    -------
    enable : Out(1)
        Low: the read stands still, and ``data`` stays.
    bank : Out(1)
        Copy of the list, where there are two.
    row : Out(row_bits)
    data : In(list_layout(width, group_bits))
        The row, ``LIST_READ_LATENCY`` enabled cycles later.
    """

    def __init__(self, width: int, row_bits: int, group_bits: int) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "bank": Out(1),
                "row": Out(row_bits),
                "data": In(list_layout(width, group_bits)),
            }
        )


class VectorsSignature(wiring.Signature):
    """Status of the event lists of all hidden vectors.

    Members
    -------
    first, second : Out(array of :class:`VectorStatus`)
        Lists of the first encoder; of that for the recurrence (``second_threshold``).
    """

    def __init__(self, config: EngineConfig) -> None:
        status = data.ArrayLayout(VectorStatus(Shapes(config).row), config.layers)
        super().__init__({"first": Out(status), "second": Out(status)})


class InputListSignature(wiring.Signature):
    """Status of the input's event list, and its release.

    Members
    -------
    status : Out(array of :class:`InputStatus`)
        Both halves of the list.
    finished, half : In
        A matrix has taken all events of a half.
    """

    def __init__(self, config: EngineConfig) -> None:
        status = data.ArrayLayout(InputStatus(bits_for(config.inputs)), 2)
        super().__init__({"status": Out(status), "finished": In(1), "half": In(1)})


class InputEncodedSignature(wiring.Signature):
    """An input vector that was encoded, for the counters.

    Members
    -------
    last : Out(1)
        The vector is complete.
    total : Out(16)
        Its events, valid with ``last``.
    """

    def __init__(self) -> None:
        super().__init__({"last": Out(1), "total": Out(16)})


class VectorEncodedSignature(wiring.Signature):
    """A hidden vector that was encoded, for the counters.

    Members
    -------
    last : Out(1)
        The vector is complete.
    layer, total, second_total : Out
        Its layer, and its events in both lists, valid with ``last``.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "last": Out(1),
                "layer": Out(Shapes(config).layer),
                "total": Out(16),
                "second_total": Out(16),
            }
        )


# -- ports of columns, lanes and the reader of accumulators -------------------------------------


class IssueSignature(wiring.Signature):
    """Columns as the fetcher issues them.

    Members
    -------
    valid : Out(1)
        A column is issued.
    layer : Out
        Its layer.
    sequence : Out
        Its running number, which all columns share.
    """

    def __init__(self, config: EngineConfig) -> None:
        s = Shapes(config)
        super().__init__({"valid": Out(1), "layer": Out(s.layer), "sequence": Out(s.sequence)})


class ProgressSignature(wiring.Signature):
    """How far columns have come.

    Members
    -------
    sequence : Out
        Number of columns that are complete, modulo 2**bits.
    block : Out
        Complete blocks of the column after those.
    """

    def __init__(self, config: EngineConfig) -> None:
        s = Shapes(config)
        super().__init__({"sequence": Out(s.sequence), "block": Out(s.block)})


class HoldSignature(wiring.Signature):
    """The cell whose accumulators are being read: what must not be overwritten yet.

    Members
    -------
    active : Out(1)
        A cell is being read; the other members are valid.
    layer, step : Out
        Its layer, and its step modulo 4.
    block : Out
        Blocks that were read completely.
    sequence : Out
        Number after the last column that the cell needs.
    """

    def __init__(self, config: EngineConfig) -> None:
        s = Shapes(config)
        super().__init__(
            {
                "active": Out(1),
                "layer": Out(s.layer),
                "step": Out(2),
                "block": Out(s.block),
                "sequence": Out(s.sequence),
            }
        )


class WaitingSignature(wiring.Signature):
    """The cell that is read next.

    Members
    -------
    active : Out(1)
        A cell waits; the other members are valid.
    layer, step : Out
        Its layer, and its step modulo 4.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({"active": Out(1), "layer": Out(Shapes(config).layer), "step": Out(2)})


class SumReadSignature(wiring.Signature):
    """Read port of the accumulators, a word of all multipliers at once.

    Members
    -------
    valid, ready : Out(1), In(1)
        A read is granted in a cycle with both.
    address, bank : Out
        Row of the accumulators, and which of the two half banks.
    inverse : Out
        ``~address``, from registers of its own.
    data : In(multipliers * 32)
        ``READ_LATENCY`` cycles after the grant; ``SPARSE_READ_LATENCY`` in engines that read pruned
        columns.
    """

    def __init__(self, config: EngineConfig) -> None:
        bits = Shapes(config).accumulator_address - 1
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(bits),
                "inverse": Out(bits),
                "bank": Out(1),
                "data": In(config.multipliers * ACCUMULATOR_BITS),
            }
        )


class PeekSignature(wiring.Signature):
    """The host reads an accumulator word; only while no cell is read.

    Members
    -------
    valid : Out(1)
    address : Out
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({"valid": Out(1), "address": Out(Shapes(config).accumulator_address)})


# -- ports of the cells -------------------------------------------------------------------------


class DispatchSignature(wiring.Signature):
    """Commands for a cell that is dispatched, one for each block that works on it.

    Members
    -------
    read, cell, write : Out(streams)
        For the accumulator reader, the cell unit and write-back, all in the same cycle.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "read": Out(stream.Signature(read_command_layout(config))),
                "cell": Out(stream.Signature(cell_command_layout(config))),
                "write": Out(stream.Signature(write_command_layout(config))),
            }
        )


class ResultsSignature(wiring.Signature):
    """Results of the cells on their way to write-back.

    Members
    -------
    row : In
        Row of the state memories that the next results belong to.
    arrival : Out(1)
        Results come in the next cycle; ``row`` moves on with it.
    valid : Out(1)
        Results of a group of units are there, one cycle after ``arrival``.
    values : Out(width * 16)
    clipped : Out(width)
        Which of them were clipped.
    done : In(1)
        Pulses when the last group of a cell was written back and encoded.
    credit : In(1)
        Pulses when a group of the output layer has left.
    """

    def __init__(self, config: EngineConfig) -> None:
        width = config.cell_width
        super().__init__(
            {
                "row": In(Shapes(config).row),
                "arrival": Out(1),
                "valid": Out(1),
                "values": Out(width * ACTIVATION_BITS),
                "clipped": Out(width),
                "done": In(1),
                "credit": In(1),
            }
        )


# -- ports of the image loader and the host -----------------------------------------------------


class DescriptorWriteSignature(wiring.Signature):
    """Writes of descriptors of layers and matrices.

    Members
    -------
    layer_write, matrix_write : Out(1)
        Record ``record`` of layer, of matrix ``index`` is ``value``.
    record : Out(3)
    index : Out(8)
    value : Out(32)
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "layer_write": Out(1),
                "matrix_write": Out(1),
                "record": Out(3),
                "index": Out(8),
                "value": Out(32),
            }
        )


class TableWriteSignature(wiring.Signature):
    """Writes of a table that comes with an image (``contract.image.ENTRY``).

    Members
    -------
    write : Out(1)
    index : Out(16)
        Number of the entry in its table.
    value : Out(17)
    """

    def __init__(self) -> None:
        super().__init__({"write": Out(1), "index": Out(16), "value": Out(EVENT_BITS)})


class EntryWriteSignature(wiring.Signature):
    """Entries of all tables of an image (``contract.image.ENTRY``), in the order of the image.

    Members
    -------
    write : Out(1)
        An entry is there; the other members are valid.
    index : Out(16)
        Number of the entry in its table.
    value : Out(32)
        The entry, which says its table.
    """

    def __init__(self) -> None:
        super().__init__({"write": Out(1), "index": Out(16), "value": Out(32)})


class HotFillSignature(wiring.Signature):
    """Words for the hot store, while an image is loaded.

    Members
    -------
    write : Out(1)
    address : Out
        Word of the store.
    data : Out
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "write": Out(1),
                "address": Out(config.address_bits),
                "data": Out(unsigned(config.word_bits)),
            }
        )


class ImageSignature(wiring.Signature):
    """Where the image stands and how large it is, steady while it is loaded.

    Members
    -------
    base : Out
        Word address of the image.
    layers, matrices : Out(8)
        Descriptors in use.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__({"base": Out(config.address_bits), "layers": Out(8), "matrices": Out(8)})


class InputHeaderSignature(wiring.Signature):
    """What the image says about the input vector, steady while it is loaded.

    Members
    -------
    size : Out(16)
        Elements of a vector; 1 for tokens.
    mode : Out(Mode)
    one : Out(4)
        log2 of the value of a token's event.
    users : Out
        Matrices that the input feeds.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "size": Out(16),
                "mode": Out(Mode),
                "one": Out(4),
                "users": Out(range(config.matrices + 1)),
            }
        )


class ThresholdWriteSignature(wiring.Signature):
    """The host sets the threshold of a layer.

    Members
    -------
    write : Out(1)
    second : Out(1)
        That of the recurrence.
    layer, value : Out
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "write": Out(1),
                "second": Out(1),
                "layer": Out(Shapes(config).layer),
                "value": Out(EVENT_BITS),
            }
        )


class RestoreSignature(wiring.Signature):
    """Vectors of the layers come from the host (``contract.registers.Control``).

    Members
    -------
    active : Out(1)
        The vectors of the layers follow the input vector on the same stream.
    exact, first, second : Out(1)
        Thresholds count as zero; only the first, only the second list takes the vectors.
    """

    def __init__(self) -> None:
        super().__init__({"active": Out(1), "exact": Out(1), "first": Out(1), "second": Out(1)})


class StateAccessSignature(wiring.Signature):
    """The host's access to a state or reference memory, only while the engine is idle.

    Parameters
    ----------
    row_bits : int
    width : int
        Elements of a row.
    data_bits : int
    variables : bool
        There is more than one variable to choose from.

    Members
    -------
    active : Out(1)
        The memory belongs to the host.
    row, element : Out
    variable : Out(3)
        Only with ``variables``.
    write : Out(1)
        ``data`` is written to one element.
    clear : Out(1)
        Zero is written to all elements of the row, of all variables.
    data : Out(data_bits)
    read : In(data_bits)
        The element, two cycles after its row.
    """

    def __init__(
        self, row_bits: int, width: int, data_bits: int, *, variables: bool = False
    ) -> None:
        super().__init__(
            {
                "active": Out(1),
                "row": Out(row_bits),
                "element": Out(range(max(2, width))),
                **({"variable": Out(3)} if variables else {}),
                "write": Out(1),
                "clear": Out(1),
                "data": Out(data_bits),
                "read": In(data_bits),
            }
        )


class TokenAccessSignature(wiring.Signature):
    """The host's access to the latest token of the input, only while the engine is idle.

    Members
    -------
    active : Out(1)
        No vector is taken, because the host reads or writes state.
    write : Out(1)
    data : Out(16)
    token : In(16)
        The latest token plus one.
    """

    def __init__(self) -> None:
        super().__init__({"active": Out(1), "write": Out(1), "data": Out(16), "token": In(16)})


# -- control ------------------------------------------------------------------------------------


class LoadControlSignature(wiring.Signature):
    """The engine loads an image.

    Members
    -------
    start : Out(1)
        Starts a load of the image at ``base``.
    base : Out(address_bits)
        Word address of the image, steady from ``start`` on.
    verify : Out(1)
        The load also sums up the whole image and compares with the CRC-32 in its header; steady
        from ``start`` to ``done``.
    busy : In(1)
        The memory port belongs to the loader.
    done : In(1)
        Pulses at the end of a load.
    error : In(``registers.Error``)
        Whether the image was accepted, valid with ``done``.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "start": Out(1),
                "base": Out(config.address_bits),
                "verify": Out(1),
                "busy": In(1),
                "done": In(1),
                "error": In(Error),
            }
        )


class SchedulerControlSignature(wiring.Signature):
    """The engine starts and stops the scheduler.

    Members
    -------
    reset : Out(1)
        Starts over: all layers load their biases. Pulses after the state memories are cleared.
    enable : Out(1)
    restoring : Out(1)
        Cells that are dispatched now take their vector from the host.
    quiet : Out(1)
        Nothing is on its way outside of the scheduler.
    idle : In(1)
        Nothing is on its way anywhere, and no event is left.
    step_dispatched : In(1)
        The last layer of a step was dispatched.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "reset": Out(1),
                "enable": Out(1),
                "restoring": Out(1),
                "quiet": Out(1),
                "idle": In(1),
                "step_dispatched": In(1),
            }
        )


class InputControlSignature(wiring.Signature):
    """The engine starts and stops the encoder of the input.

    Members
    -------
    reset : Out(1)
    enable : Out(1)
        Vectors may be taken.
    idle : In(1)
        No vector is being taken, and none waits.
    accepted : In(1)
        The first element of a vector was taken.
    """

    def __init__(self) -> None:
        super().__init__({"reset": Out(1), "enable": Out(1), "idle": In(1), "accepted": In(1)})


# -- counters -----------------------------------------------------------------------------------


class CycleSignature(wiring.Signature):
    """What happened in a cycle, for the counters.

    Members
    -------
    active : Out(1)
        A step is in progress. The next four members count only then.
    word, hot_word : Out(1)
        The lanes took a word; it came from the hot store.
    held : Out(1)
        The lanes wait until a cell has read its accumulators.
    starved : Out(1)
        The lanes wait for a word.
    saturated : Out(range(cell_width + 1))
        Number of results that were clipped.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "active": Out(1),
                "word": Out(1),
                "hot_word": Out(1),
                "held": Out(1),
                "starved": Out(1),
                "saturated": Out(range(config.cell_width + 1)),
            }
        )


class StepBoundsSignature(wiring.Signature):
    """Where steps begin and end, for the counters.

    Members
    -------
    accepted : Out(1)
        The first element of an input vector was taken.
    was_idle : Out(1)
        Nothing was in progress in this cycle.
    output_last : Out(1)
        The last element of an output vector left.
    """

    def __init__(self) -> None:
        super().__init__({"accepted": Out(1), "was_idle": Out(1), "output_last": Out(1)})


class CountedVectorSignature(wiring.Signature):
    """A vector that the compact engine has encoded, for its counters.

    Members
    -------
    done : Out(1)
        The vector is complete; only while nothing is ``pending``.
    source : Out
        0 for the input, 1 + l for layer l; valid with ``done``.
    total : Out(16)
        Its events, valid with ``done``.
    pending : In(1)
        Its events are not in the counter yet.
    """

    def __init__(self, config: EngineConfig) -> None:
        source = unsigned(Shapes(config).layer + 1)
        super().__init__(
            {"done": Out(1), "source": Out(source), "total": Out(16), "pending": In(1)}
        )


class CounterReadSignature(wiring.Signature):
    """Read port of the counters.

    Members
    -------
    address : Out(6)
        Register of the counter.
    select : Out(6)
        Source of the event counter, as in ``Register.EVENTS_SELECT``.
    value : In(32)
        The counter; the block says how many cycles later.
    """

    def __init__(self) -> None:
        super().__init__({"address": Out(6), "select": Out(6), "value": In(32)})
