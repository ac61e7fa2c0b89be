"""What the parts of the compact engine share: its submodules, registers and flags."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.utils import bits_for

from stillnet.hw.fetch.image_loader import ImageLoader
from stillnet.hw.host.registers import Registers
from stillnet.hw.parts.data_register import Data
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.fixed import ACCUMULATOR_BITS, ACTIVATION_BITS, EVENT_BITS
from stillnet.sw.contract.image import BIAS_WORDS

from .cells import CompactCells
from .counters import ROUND_CYCLES, CompactCounters

__all__ = ["LAYER_RECORDS", "MATRIX_RECORDS", "Signals"]

ACCESS_CYCLES = ROUND_CYCLES + 4
"""Cycles of an access to state or counters, more than any of the memories takes."""
LAYER_RECORDS = len(image.LAYER)
MATRIX_RECORDS = len(image.MATRIX)


class Signals:
    """Submodules and signals of a compact engine.

    A register that is set before it is used has no reset (:data:`.Data`): a reset would widen each
    of its enables, and LUTs are few here.

    Parameters
    ----------
    m : Module
        Takes the submodules.
    config : EngineConfig
    bus, memory
        Register bus and memory port of the engine.

    Attributes
    ----------
    table_reader, reference_reader, event_reader and writers
        Ports of the memories: descriptors, references, list of events.
    states, sums : list of (read port, write port)
        State variables, in the order of ``config.state_names``; accumulators by lane.
    hidden, layer
        A vector of a layer is in progress, not the input's; which layer.
    cell, mode, reload, output, shift, write_shift
        What the descriptors say about that layer.
    matrix, gates, stride
        The matrix whose columns are fetched, its accumulators, and those of its layer.
    bias, bias_all
        The columns are those of a bias; of all layers.
    table_place, entry, record
        Place in the table of descriptors; what stands there, a cycle later; record of the layer.
    row, index, left
        Place of the element in the state memories; its index in the vector; elements left. The
        upper half of the references is the input's.
    value
        The element.
    clear_value, reference_write, host_write
        Write ``value`` to all memories of vectors, to the references, to what the host selected.
    count, event, append
        Events in the list; number of the one that is read; the encoder adds one.
    difference, fire, encode, plain
        Between element and reference; it is an event; the vector is encoded at all; its events are
        values and not differences.
    token, new, same, one_hot
        Last and new token, plus one; there is no event; the input is a token.
    block_base, odd, rest, byte
        Accumulators of the block in progress, and whether their places are exchanged
        (``image.accumulator_place``); gates still to come; byte of a bias.
    words_left, event_value
        Words of the column still to come; what its event is worth.
    walking, take, waiting
        A word may come; it is taken; it waits until the last byte of a bias is in its place.
    lane, in_cell
        Lane that the cell reads; the cell chooses the accumulator.
    address, offset, request
        Of the column in memory.
    vector_done
        The events of a vector are all in the list.
    """

    def __init__(self, m: Module, config: EngineConfig, bus: Any, memory: Any) -> None:
        s = Shapes(config)
        self.config, self.shapes, self.bus, self.memory = config, s, bus, memory
        self.row_bits = max(bits_for(s.rows - 1), bits_for(config.inputs - 1), 1)
        self.lane_bits = config.lanes.bit_length() - 1
        m.submodules.loader = self.loader = ImageLoader(config, sum_bits=1)
        m.submodules.cells = self.cells = CompactCells(config)
        m.submodules.counters = self.counters = CompactCounters(config)
        self.registers = Registers(
            config,
            bus,
            memory,
            access_cycles=ACCESS_CYCLES,
            index_bits=max(self.row_bits, s.accumulator_address + self.lane_bits),
        )
        self.host_busy = Signal()  # the host has the state memories
        self._layers_and_matrices(m)
        self._vectors(m)
        self._events(m)
        self._columns(m)

    @staticmethod
    def _memory(m: Module, name: str, shape: Any, depth: int) -> tuple[Any, Any]:
        """Ports of a memory that is never read and written at one place in one cycle."""
        memory = Memory(shape=shape, depth=depth, init=[], attrs={"no_rw_check": 1})
        m.submodules[name] = memory
        return memory.read_port(), memory.write_port()

    def _layers_and_matrices(self, m: Module) -> None:
        config, s = self.config, self.shapes
        self.hidden = Signal()
        self.layer = Signal(s.layer)
        self.last_layer = Signal()
        self.cell = Data(4)
        self.mode = Data(Mode)
        self.reload = Data()
        self.output = Data()
        self.shift = Data(5)
        self.write_shift = Data(4)
        self.matrix = Data(s.matrix)
        self.last_matrix = Signal()
        self.gates = Data(s.gates)
        self.stride = Data(4)
        self.bias = Signal()
        self.bias_all = Signal()
        # Where the descriptors of matrices begin, behind those of the layers.
        self.matrices_at = LAYER_RECORDS * config.layers
        depth = self.matrices_at + MATRIX_RECORDS * config.matrices
        m.submodules.table = table = Memory(shape=unsigned(32), depth=depth, init=[])
        self.table_reader, self.table_writer = table.read_port(), table.write_port()
        self.table_place = Signal(range(depth))
        self.entry = self.table_reader.data
        self.record = Signal(3)

    def _vectors(self, m: Module) -> None:
        config = self.config
        self.row = Data(self.row_bits + 1)
        self.index = Data(16)
        self.left = Data(range(max(config.units, config.inputs) + 1))
        self.value = Data(signed(ACTIVATION_BITS))
        self.states = [
            self._memory(m, f"state{v}", signed(ACTIVATION_BITS), self.shapes.rows)
            for v, _ in enumerate(config.state_names)
        ]
        self.reference_reader, self.reference_writer = self._memory(
            m, "references", signed(ACTIVATION_BITS), 2 << self.row_bits
        )
        self.clear_value = Signal()
        self.host_write = Signal()
        self.reference_write = Signal()
        self.vector_done = Signal()
        # The shift between the result of a cell and the element.
        self.shifted = Data(signed(ACTIVATION_BITS + 1))
        self.shifts = Data(4)

    def _events(self, m: Module) -> None:
        config = self.config
        layout = data.StructLayout({"index": 16, "value": signed(EVENT_BITS)})
        most = max(config.units, config.inputs, 2)
        self.event_reader, self.event_writer = self._memory(m, "events", layout, most)
        self.count = Data(range(most + 1))
        self.event = Data(range(most + 1))
        self.append = Signal()
        self.difference = Data(signed(EVENT_BITS))
        self.fire = Signal()
        self.encode = Signal()
        self.plain = Signal()
        self.token = Signal(16)
        self.new = Data(16)
        self.same = Signal()
        self.one = Signal(signed(EVENT_BITS))
        self.one_hot = self.loader.input.mode[1]

    def _columns(self, m: Module) -> None:
        config, s = self.config, self.shapes
        self.sums = [
            self._memory(
                m,
                f"lane{i}",
                unsigned(ACCUMULATOR_BITS),
                config.accumulators + config.accumulators % 2,
            )
            for i in range(config.lanes)
        ]
        self.block_base = Data(s.accumulator_address)
        self.odd = Data()
        self.rest = Data(s.gates)
        self.byte = Data(range(BIAS_WORDS))
        self.words_left = Data(range(BIAS_WORDS * config.accumulators + 1))
        self.event_value = Data(signed(EVENT_BITS))
        self.walking = Signal()
        self.waiting = Signal()
        self.take = Signal()
        self.in_cell = Signal()
        self.lane = Data(self.lane_bits)
        self.address = Data(config.address_bits)
        self.offset = Data(config.address_bits)
        self.request = Signal()
