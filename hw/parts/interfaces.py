"""Ports between the blocks on the way of the data: events, columns, sums, cells.

A signature is written as the block sees it that drives most of its members. The other side has it
as ``In``, and ``connect`` joins the two.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, EVENT_BITS

from .layouts import (
    InputStatus,
    VectorStatus,
    cell_command_layout,
    list_layout,
    read_command_layout,
    write_command_layout,
)
from .shapes import Shapes

__all__ = [
    "BudgetedSignature",
    "DirectSignature",
    "DispatchSignature",
    "GroupSignature",
    "HoldSignature",
    "InputEncodedSignature",
    "InputListSignature",
    "IssueSignature",
    "ListReadSignature",
    "ListedSignature",
    "PeekSignature",
    "ProgressSignature",
    "ResultsSignature",
    "RuleSignature",
    "SumReadSignature",
    "TakenSignature",
    "VectorEncodedSignature",
    "VectorsSignature",
    "WaitingSignature",
]


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


class TakenSignature(wiring.Signature):
    """What the lanes have taken in this cycle.

    Members
    -------
    word : Out(1)
        A word.
    column : Out(1)
        The last word of a column.
    """

    def __init__(self) -> None:
        super().__init__({"word": Out(1), "column": Out(1)})


class BudgetedSignature(wiring.Signature):
    """Which of the vectors with budgets an encoder is at.

    Parameters
    ----------
    vectors : int

    Members
    -------
    vector, unlimited : Out
        Number of the vector, and whether its budget does not count; taken with ``group.valid``.
    listed_vector, listed_bank : In
        Number of the vector that ``listed`` is of, and the copy of the list that it is in.
    """

    def __init__(self, vectors: int) -> None:
        vector = range(max(2, vectors))
        super().__init__(
            {
                "vector": Out(vector),
                "unlimited": Out(1),
                "listed_vector": In(vector),
                "listed_bank": In(1),
            }
        )


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

    There may be a read of each bank, of which one is taken in a cycle.

    Members
    -------
    valid, ready : Out(banks), In(banks)
        By bank: a read is wanted; it may be taken.
    taken, bank : Out(1), Out(1)
        One of those with both is taken in this cycle, and which.
    rows, inverses : Out(array of rows)
        By bank, and ``~rows`` from registers of its own.
    data : In(multipliers * 32)
        ``EngineConfig.read_latency`` cycles after the read was taken.
    """

    def __init__(self, config: EngineConfig) -> None:
        s = Shapes(config)
        rows = data.ArrayLayout(s.bank_row, s.banks)
        super().__init__(
            {
                "valid": Out(s.banks),
                "ready": In(s.banks),
                "taken": Out(1),
                "bank": Out(1),
                "rows": Out(rows),
                "inverses": Out(rows),
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
