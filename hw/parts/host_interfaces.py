"""Ports around the data: image loader, accesses of the host, start and stop, counters.

A signature is written as the block sees it that drives most of its members. The other side has it
as ``In``, and ``connect`` joins the two.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import EVENT_BITS
from stillnet.sw.contract.registers import Error

from .shapes import Shapes

__all__ = [
    "BudgetSignature",
    "CountedVectorSignature",
    "CounterReadSignature",
    "CycleSignature",
    "DescriptorWriteSignature",
    "EntryWriteSignature",
    "HotFillSignature",
    "ImageSignature",
    "InputControlSignature",
    "InputHeaderSignature",
    "LoadControlSignature",
    "SlotsSignature",
    "RestoreSignature",
    "SchedulerControlSignature",
    "StateAccessSignature",
    "StepBoundsSignature",
    "TableWriteSignature",
    "ThresholdWriteSignature",
    "TokenAccessSignature",
    "VectorControlSignature",
]


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

    With ``beside``, for sums over an image that is not loaded:

    check : Out(1)
        With ``start``: do not load, but sum up a part of the image at ``beside``.
    beside : Out(address_bits)
    again : Out(1)
        With ``check``: from the image's beginning.
    more : In(1)
        With ``done``: parts are left.
    words : In(address_bits + 1)
        Words of the image of this load or check, valid with ``done``.

    Parameters
    ----------
    config : EngineConfig
    beside : bool
    """

    def __init__(self, config: EngineConfig, beside: bool = False) -> None:
        check: dict[str, Any] = {
            "check": Out(1),
            "beside": Out(config.address_bits),
            "again": Out(1),
            "more": In(1),
            "words": In(config.address_bits + 1),
        }
        super().__init__(
            {
                "start": Out(1),
                "base": Out(config.address_bits),
                "verify": Out(1),
                "busy": In(1),
                "done": In(1),
                "error": In(Error),
                **(check if beside else {}),
            }
        )


class SlotsSignature(wiring.Signature):
    """What an engine tells of the images in its memory.

    Members
    -------
    base, beside : Out(address_bits)
        Registers ``IMAGE_BASE`` and ``BESIDE``.
    words : Out(address_bits + 1)
        Of the image that was loaded or checked, valid with these two:
    loaded : Out(1)
        Pulses when the image at ``base`` was accepted.
    checked : Out(1)
        Pulses when the sum over the image at ``beside`` was right.
    checking : Out(1)
        A part of that sum is wanted or in progress.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(
            {
                "base": Out(config.address_bits),
                "beside": Out(config.address_bits),
                "words": Out(config.address_bits + 1),
                "loaded": Out(1),
                "checked": Out(1),
                "checking": Out(1),
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
    restore : Out(RestoreSignature)
        Vectors of the layers follow the input vector.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "reset": Out(1),
                "enable": Out(1),
                "idle": In(1),
                "accepted": In(1),
                "restore": Out(RestoreSignature()),
            }
        )


class VectorControlSignature(wiring.Signature):
    """What the engine says to the encoders of the hidden vectors.

    Members
    -------
    reset : Out(1)
        All vectors are forgotten: every list is complete and empty.
    restore : Out(RestoreSignature)
        What vectors that the host supplies change.
    """

    def __init__(self) -> None:
        super().__init__({"reset": Out(1), "restore": Out(RestoreSignature())})


class BudgetSignature(wiring.Signature):
    """Budgets of an encoder's vectors.

    Parameters
    ----------
    vectors : int

    Members
    -------
    table : Out(TableWriteSignature)
        Sets the budget of a vector.
    windows : Out(StateAccessSignature)
        The host's access to the windows, only while nothing is encoded.
    late : In(16)
        Events that were refused of the vector that is being listed.
    """

    def __init__(self, vectors: int) -> None:
        index_bits = bits_for(max(1, vectors - 1))
        super().__init__(
            {
                "table": Out(TableWriteSignature()),
                "windows": Out(StateAccessSignature(index_bits, 1, 16)),
                "late": In(16),
            }
        )


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
