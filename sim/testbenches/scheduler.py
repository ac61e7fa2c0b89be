"""The scheduler against its rules: who fetches when, and when a cell may run.

The bench fills the tables with those of a packed network and plays everything around the scheduler
with random delays: event lists that grow, a fetcher that sometimes gives way in the middle of a
run, cells that take their time. It knows the network as layers and matrices, and checks each run
and each cell that the scheduler starts.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import cocotb
from amaranth.utils import bits_for
from cocotb.triggers import RisingEdge, with_timeout

from stillnet.hw.fetch.scheduler import Scheduler
from stillnet.hw.parts.layouts import InputStatus, VectorStatus, read_command_layout, run_layout
from stillnet.hw.parts.shapes import Shapes
from stillnet.sw.contract import image
from stillnet.sw.contract.image import Kind
from stillnet.sw.packing.packer import pack

from .example import gru_dense, small_config
from .runner import report
from .streams import packed, start, unpacked

CONFIG = small_config(lanes=4)
NETWORK = gru_dense(1, grus=2)
LAYERS = len(NETWORK.layers)
STEPS = 25
LIST_ROWS = 9


def design() -> Scheduler:
    """The scheduler of the engine."""
    return Scheduler(CONFIG)


def descriptors() -> tuple[list[list[int]], list[list[int]]]:
    """Records of all layers, and of all matrices, as they lie in the image."""
    data = pack(NETWORK, CONFIG).data
    slots = [int.from_bytes(data[k : k + 4], "little") for k in range(0, len(data), 64)]
    matrices = image.HEADER[1].unpack(slots[1])["matrices"]
    size, group = len(image.LAYER), len(image.MATRIX)
    first = len(image.HEADER)
    second = first + LAYERS * size
    return (
        [slots[first + k * size :][:size] for k in range(LAYERS)],
        [slots[second + k * group :][:group] for k in range(matrices)],
    )


def fields(records: list[int], group: tuple[image.Record, ...]) -> dict[str, int]:
    """Values of a descriptor by name."""
    values: dict[str, int] = {}
    for record, word in zip(group, records):
        values |= record.unpack(word)
    return values


class Vector:
    """A list of events: how much of it is there, and what each matrix has taken of it."""

    def __init__(self) -> None:
        self.rows, self.final = 0, random.randrange(LIST_ROWS + 1)
        self.complete = False
        self.taken: Counter[int] = Counter()

    def grow(self) -> None:
        """An element more is encoded, or none."""
        if self.rows < self.final:
            self.rows += random.random() < 0.5
        elif random.random() < 0.5:
            self.complete = True

    def done(self, matrix: int) -> bool:
        """The matrix has taken all of it."""
        return self.complete and self.taken[matrix] == self.rows


class World:
    """Everything around the scheduler, one cycle at a time."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.layers, self.tables = descriptors()
        self.matrices = [fields(records, image.MATRIX) for records in self.tables]
        self.by_address = {m["base"]: k for k, m in enumerate(self.matrices)}
        self.users = sum(m["source"] == 0 and m["kind"] != Kind.BIAS for m in self.matrices)
        # Vectors by source (0 is the input) and step; step -1 is the empty one before the first.
        self.vectors = {(s, -1): Vector() for s in range(1, LAYERS + 1)}
        for empty in self.vectors.values():
            empty.final, empty.complete = 0, True
        self.released: Counter[int] = Counter()  # of each input vector, by how many matrices
        self.inputs = 0
        self.cells: list[tuple[int, int]] = []  # layer and step, as dispatched
        self.reading: deque[int] = deque()  # a cell that is read, and one that waits for it
        self.encoding: deque[tuple[int, int]] = deque()  # cells whose vector is not complete
        self.loaded: set[int] = set()
        self.run: Any = None  # that the fetcher works on
        self.left = self.pause = self.rows_done = 0
        self.columns = self.runs = 0
        self.last_column: dict[int, int] = {}  # of layers with columns since their last cell

    async def write_tables(self) -> None:
        """The descriptors, as the image loader writes them."""
        dut = self.dut
        for write, table in (
            (dut.descriptors__layer_write, self.layers),
            (dut.descriptors__matrix_write, self.tables),
        ):
            write.value = 1
            for index, records in enumerate(table):
                for k, value in enumerate(records):
                    dut.descriptors__record.value = k
                    dut.descriptors__index.value = index
                    dut.descriptors__value.value = value
                    await RisingEdge(dut.clk)
            write.value = 0
        dut.image__layers.value = len(self.layers)
        dut.image__matrices.value = len(self.tables)
        self.show()
        dut.control__reset.value = 1
        await RisingEdge(dut.clk)
        dut.control__reset.value = 0
        dut.control__enable.value = 1

    async def live(self) -> None:
        """Cycle after cycle: look at what the scheduler does, go on, show the new state."""
        while True:
            await RisingEdge(self.dut.clk)
            self.observe()
            self.go_on()
            self.show()

    def step(self, layer: int) -> int:
        """The step that a layer collects columns for."""
        return sum(i == layer for i, _ in self.cells)

    def feeds(self, matrix: int) -> Vector | None:
        """The vector from which a matrix takes its columns now, if it is there."""
        m = self.matrices[matrix]
        return self.vectors.get((m["source"], self.step(m["target"]) - m["recurrent"]))

    def matrices_of(self, **wanted: int) -> list[int]:
        """Matrices with these fields, biases left out."""
        return [
            k
            for k, m in enumerate(self.matrices)
            if m["kind"] != Kind.BIAS and all(m[name] == v for name, v in wanted.items())
        ]

    @property
    def present(self) -> list[int]:
        """Steps whose input vector is not yet taken by all."""
        return [t for t in range(self.inputs) if self.released[t] < self.users]

    @property
    def quiet(self) -> bool:
        """Nothing is on its way outside of the scheduler."""
        return not (self.reading or self.encoding or self.present or self.run is not None)

    # -- what the scheduler does ------------------------------------------------------------------

    def observe(self) -> None:
        dut = self.dut
        if int(dut.input__finished.value):
            half = int(dut.input__half.value)
            self.released[next(t for t in self.present if t % 2 == half)] += 1
        if int(dut.runs__valid.value) and int(dut.runs__ready.value):
            self.end_run()
        elif int(dut.runs__valid.value) and self.run is None:
            self.run = unpacked(run_layout(CONFIG), dut.runs__payload)
            self.check_run()
            give_way = random.random() < 0.2
            self.left = random.randint(1, self.run.rows) if give_way else self.run.rows
            self.rows_done, self.pause = self.left, random.randrange(4)
        if int(dut.dispatch__read__valid.value):
            self.check_cell(unpacked(read_command_layout(CONFIG), dut.dispatch__read__payload))
        if int(dut.control__idle.value):
            assert self.quiet, "idle, and something is on its way"
            for k in self.matrices_of(recurrent=1):
                vector = self.feeds(k)
                assert vector and vector.done(k), f"idle, and matrix {k} has events to take"

    def check_run(self) -> None:
        """It is the next piece of the right vector, for the step that the layer collects."""
        run = self.run
        k = self.by_address[run.address]
        m = self.matrices[k]
        layer = m["target"]
        assert (run.layer, run.step) == (layer, self.step(layer) & 3), f"matrix {k}: layer or step"
        for name, field in (("words", "column_words"), ("base", "accumulator_base")):
            assert run[name] == m[field], f"matrix {k}: {name}"
        assert (run.gates, run.stride) == (m["gates"], m["stride"]), f"matrix {k}"
        if run.bias:
            assert m["kind"] == Kind.BIAS and run.rows == 1
            assert layer not in self.loaded, f"layer {layer}: its bias is there already"
            return
        vector = self.feeds(k)
        assert vector is not None, f"matrix {k}: a run before its vector"
        assert layer in self.loaded, f"layer {layer}: columns before its bias"
        assert run.row == m["list_base"] + vector.taken[k], f"matrix {k}: not the next row"
        assert 1 <= run.rows <= vector.rows - vector.taken[k], f"matrix {k}: too many rows"
        assert run.from_input == (m["source"] == 0)
        assert not run.from_input or run.half == self.step(layer) & 1, "the wrong half"

    def end_run(self) -> None:
        k = self.by_address[self.run.address]
        if self.run.bias:
            self.loaded.add(self.run.layer)
        else:
            vector = self.feeds(k)
            assert vector is not None
            vector.taken[k] += self.rows_done
        self.run = None
        self.runs += 1

    def check_cell(self, command: Any) -> None:
        """Cells come in the order of (step, layer), each once all its columns are issued."""
        layer, step = len(self.cells) % LAYERS, len(self.cells) // LAYERS
        assert (command.layer, command.step) == (layer, step & 3), "cells are out of order"
        assert layer in self.loaded, f"cell {layer} without its bias"
        for k in self.matrices_of(target=layer):
            vector = self.feeds(k)
            assert vector and vector.done(k), f"cell {layer}, step {step}: matrix {k} is not done"
        for k in self.matrices_of(source=layer + 1):
            assert self.vectors[layer + 1, step - 1].done(k), "a list is written before it is read"
        assert command.pending == (layer in self.last_column)
        assert not command.pending or command.sequence == self.last_column.pop(layer)
        self.cells.append((layer, step))
        self.reading.append(layer)
        self.encoding.append((layer, step))

    # -- what goes on around it -------------------------------------------------------------------

    def go_on(self) -> None:
        # A new vector goes into the half of the list that no vector is in.
        free = all(t % 2 != self.inputs % 2 for t in self.present)
        if self.inputs < STEPS and free and random.random() < 0.1:
            self.vectors[0, self.inputs] = Vector()
            self.inputs += 1
        for t in self.present:
            self.vectors[0, t].grow()
        if self.reading and random.random() < 0.1:
            self.reading.popleft()
        if self.encoding and len(self.encoding) > len(self.reading):
            layer, step = self.encoding[0]
            vector = self.vectors.setdefault((layer + 1, step), Vector())
            vector.grow()
            if vector.complete:
                self.encoding.popleft()

    def show(self) -> None:
        """Drives the inputs."""
        dut = self.dut
        self.show_fetcher()
        row_bits = Shapes(CONFIG).row
        status = 0
        for layer in range(LAYERS):
            step = max(t for s, t in self.vectors if s == layer + 1)
            vector = self.vectors[layer + 1, step]
            values = {"rows": vector.rows, "complete": int(vector.complete)}
            bits = packed(VectorStatus(row_bits), generation=(step + 1) & 1, **values)
            status |= bits << layer * (row_bits + 2)
        for layer in range(LAYERS, CONFIG.layers):
            status |= packed(VectorStatus(row_bits), complete=1) << layer * (row_bits + 2)
        dut.vectors__first.value = dut.vectors__second.value = status
        halves, row_bits = 0, bits_for(CONFIG.inputs)
        for t in self.present:
            vector = self.vectors[0, t]
            values = {"rows": vector.rows, "complete": int(vector.complete)}
            halves |= packed(InputStatus(row_bits), present=1, **values) << t % 2 * (row_bits + 2)
        dut.input__status.value = halves
        dut.control__quiet.value = int(self.quiet)
        for k, (active, layer_of) in enumerate(
            (
                (dut.hold__active, dut.hold__layer),
                (dut.waiting__active, dut.waiting__layer),
            )
        ):
            active.value = int(k < len(self.reading))
            layer_of.value = self.reading[k] if k < len(self.reading) else 0
        dut.dispatch__read__ready.value = int(len(self.reading) < 2)
        room = int(len(self.encoding) < 4)
        dut.dispatch__cell__ready.value = dut.dispatch__write__ready.value = room

    def show_fetcher(self) -> None:
        """A column now and then; the run ends some cycles after its last one."""
        dut = self.dut
        dut.issue__valid.value = dut.runs__ready.value = 0
        dut.issue__sequence.value = self.columns
        if self.run is None:
            return
        if self.pause:
            self.pause -= 1
        elif self.left:
            dut.issue__valid.value, dut.issue__layer.value = 1, self.run.layer
            self.columns += 1
            self.last_column[self.run.layer] = self.columns
            self.left -= 1
            self.pause = 3 if not self.left else random.choice((0, 0, 1, 4))
        else:
            dut.runs__ready.value, dut.rows_done.value = 1, self.rows_done


@cocotb.test()
async def rules(dut: Any) -> None:
    """Every column once, in the step where it belongs; cells in order; idle at the end."""
    await start(dut)
    world = World(dut)
    await world.write_tables()
    cocotb.start_soon(world.live())

    async def all_done() -> None:
        while not (len(world.cells) == STEPS * LAYERS and int(dut.control__idle.value)):
            await RisingEdge(dut.clk)

    await with_timeout(all_done(), 2000, "us")
    report(
        f"{STEPS} steps of {LAYERS} layers and {len(world.matrices)} matrices: {world.runs} runs "
        f"with {world.columns} columns and {len(world.cells)} cells keep the rules"
    )
